//! Where this client is attached to a network: a home, an office, a café.
//!
//! A guard that saw one escrow at two places would know a laptop again; Tor's clients are known by nothing. So an escrow is used only where
//! it was opened (design review, M3; ADR 47). A place is told by the address that this machine has there and, where that can be read, by the gateway's
//! hardware address; nothing is sent to find out. Two places that give the same private address are told apart by the gateway alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use obol_cell::EscrowId;
use sha2::{Digest as _, Sha256};

/// How often one looks where one is.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Says where one is now.
pub(crate) type Whereabouts = Arc<dyn Fn() -> Place + Send + Sync>;

/// An attachment to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// This machine's address there (of IPv6 the network's half); `None`: attached to nothing that leads anywhere.
    address: Option<[u8; 8]>,
    /// The hardware address of the gateway, if it is known just now.
    gateway: Option<[u8; 6]>,
}

/// What is kept of the place where an escrow was opened: enough to know it again, and no list of where somebody was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    address: [u8; 16],
    /// Zeros: not known then.
    gateway: [u8; 16],
}

impl Place {
    /// Where this machine is now.
    pub(crate) fn here() -> Place {
        Place {
            address: address(),
            gateway: gateway(),
        }
    }

    #[cfg(test)]
    pub(crate) fn test(address: u8, gateway: Option<u8>) -> Place {
        Place {
            address: Some([address; 8]),
            gateway: gateway.map(|n| [n; 6]),
        }
    }

    /// Whether one is somewhere at all.
    pub(crate) fn is_somewhere(&self) -> bool {
        self.address.is_some()
    }

    /// What is kept for an escrow that is made here.
    pub(crate) fn mark(&self, escrow: &EscrowId) -> Mark {
        let of = |bytes: Option<&[u8]>| bytes.map_or([0; 16], |bytes| digest(escrow, bytes));
        Mark {
            address: of(self.address.as_ref().map(|bytes| &bytes[..])),
            gateway: of(self.gateway.as_ref().map(|bytes| &bytes[..])),
        }
    }
}

impl Mark {
    /// As it is kept.
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..].copy_from_slice(&self.gateway);
        bytes
    }

    /// `None`: these bytes are none.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Mark> {
        let (address, gateway) = bytes.split_first_chunk::<16>()?;
        Some(Mark {
            address: *address,
            gateway: gateway.try_into().ok()?,
        })
    }

    /// Whether an escrow with this mark was made elsewhere. What is not known, then or now, speaks for neither.
    pub(crate) fn is_elsewhere(&self, escrow: &EscrowId, place: &Place) -> bool {
        let now = place.mark(escrow);
        let differs = |then: [u8; 16], now: [u8; 16]| then != [0; 16] && now != [0; 16] && then != now;
        differs(self.address, now.address) || differs(self.gateway, now.gateway)
    }
}

/// Salted by the escrow: marks of two escrows do not show that they were made at one place.
fn digest(escrow: &EscrowId, bytes: &[u8]) -> [u8; 16] {
    let digest = Sha256::new()
        .chain_update(b"obol-place-1")
        .chain_update(escrow.0)
        .chain_update(bytes)
        .finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// The address from which this machine would reach the Internet. Connecting a datagram socket asks the routing table and sends nothing; the
/// addresses are those for documentation (RFC 5737, RFC 3849).
fn address() -> Option<[u8; 8]> {
    let local = |any: IpAddr, there: IpAddr| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((there, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
    };
    let v4 = local(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let found = v4.or_else(|| {
        let there = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        local(Ipv6Addr::UNSPECIFIED.into(), there.into())
    })?;
    let mut bytes = [0; 8];
    match found {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        // The other half changes by itself (RFC 8981).
        IpAddr::V6(address) => bytes.copy_from_slice(&address.octets()[..8]),
    }
    Some(bytes)
}

#[cfg(target_os = "linux")]
fn gateway() -> Option<[u8; 6]> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    let neighbours = std::fs::read_to_string("/proc/net/arp").ok()?;
    gateway_in(&routes, &neighbours)
}

#[cfg(not(target_os = "linux"))]
fn gateway() -> Option<[u8; 6]> {
    None
}

/// The hardware address of the default route's gateway, out of Linux' tables of routes and neighbours.
#[cfg(any(target_os = "linux", test))]
fn gateway_in(routes: &str, neighbours: &str) -> Option<[u8; 6]> {
    let gateway = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (to, gateway) = (fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (to == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })?;
    neighbours.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let address: Ipv4Addr = fields.next()?.parse().ok()?;
        let hardware = hex::decode(fields.nth(2)?.replace(':', "")).ok()?;
        let hardware = <[u8; 6]>::try_from(hardware).ok()?;
        (address == gateway && hardware != [0; 6]).then_some(hardware)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: EscrowId = EscrowId([1; 32]);

    #[test]
    fn a_place_is_known_again_and_another_one_told_apart_by_address_or_gateway() {
        let home = Place::test(1, Some(1));
        let mark = home.mark(&E);
        assert_eq!(Mark::from_bytes(&mark.to_bytes()), Some(mark));
        assert!(!mark.is_elsewhere(&E, &home));
        assert!(mark.is_elsewhere(&E, &Place::test(2, Some(1))));
        assert!(
            mark.is_elsewhere(&E, &Place::test(1, Some(2))),
            "the same private address behind another gateway"
        );
        assert_eq!(Mark::from_bytes(&[0; 31]), None);
    }

    #[test]
    fn what_is_not_known_speaks_for_neither() {
        let mark = Place::test(1, Some(1)).mark(&E);
        assert!(!mark.is_elsewhere(&E, &Place::test(1, None)));
        assert!(!mark.is_elsewhere(&E, &Place::default()));
        assert!(!Place::default().mark(&E).is_elsewhere(&E, &Place::test(1, Some(1))));
    }

    #[test]
    fn marks_of_two_escrows_show_no_common_place() {
        let home = Place::test(1, Some(1));
        let (one, other) = (home.mark(&E), home.mark(&EscrowId([2; 32])));
        assert!(one.address != other.address && one.gateway != other.gateway);
    }

    #[test]
    fn the_gateway_is_read_from_linuxs_tables_and_nothing_from_broken_ones() {
        let gateway = u32::from_ne_bytes([192, 168, 1, 1]);
        let routes = format!(
            "Iface\tDestination\tGateway\tFlags\neth0\t0001A8C0\t00000000\t0001\neth0\t00000000\t{gateway:08X}\t0003\n"
        );
        let neighbours = "IP address HW type Flags HW address Mask Device\n\
             192.168.1.7 0x1 0x2 aa:aa:aa:aa:aa:aa * eth0\n192.168.1.1 0x1 0x2 02:00:00:00:00:01 * eth0\n";
        assert_eq!(gateway_in(&routes, neighbours), Some([2, 0, 0, 0, 0, 1]));
        let unknown = neighbours.replace("02:00:00:00:00:01", "00:00:00:00:00:00");
        for (routes, neighbours) in [(&routes[..], &unknown[..]), ("", neighbours), (&routes, "x\ny\n")] {
            assert_eq!(gateway_in(routes, neighbours), None);
        }
    }
}
