//! Handles that the data plane gives out. They mean nothing outside one run of one process.

use std::net::IpAddr;

/// A link (the TLS connection to a neighbour).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A circuit through this relay; never reused within one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitId(pub u64);

/// A client's tunnel; never reused within one run (Arti's `UniqId` fits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u64);

/// Which bucket of initial credit a client address draws on: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(u64, bool);

impl AddressKey {
    /// The key of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => AddressKey(u32::from(v4).into(), true),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => AddressKey(u32::from(v4).into(), true),
                None => AddressKey((u128::from(v6) >> 64) as u64, false),
            },
        }
    }
}

/// The network that an address belongs to: an IPv4 /24, or an IPv6 /48.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NetworkKey(u64, bool);

impl AddressKey {
    /// `None`: this machine's own, behind which there may be anybody (a pluggable transport's clients, say).
    pub(crate) fn network(self) -> Option<NetworkKey> {
        match self {
            AddressKey(v4, true) if v4 >> 24 == 127 => None,
            AddressKey(0, false) => None,
            AddressKey(v4, true) => Some(NetworkKey(v4 >> 8, true)),
            AddressKey(v6, false) => Some(NetworkKey(v6 >> 16, false)),
        }
    }
}

impl std::fmt::Debug for NetworkKey {
    /// Never shows the network.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

impl std::fmt::Debug for AddressKey {
    /// Never shows the address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AddressKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_its_own_key_and_an_ipv6_address_its_network_of_64_bits() {
        let key = |text: &str| AddressKey::of(text.parse().expect("an address"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    }

    #[test]
    fn the_network_of_an_address_is_24_bits_of_the_one_kind_and_48_of_the_other() {
        let network = |text: &str| AddressKey::of(text.parse().expect("an address")).network();
        assert_eq!(network("10.0.0.1"), network("10.0.0.255"));
        assert_ne!(network("10.0.0.1"), network("10.0.1.1"));
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:ffff::1"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:1:1::1"));
        // 10.0.0.1 as a number is not the address of the other kind with that number.
        assert_ne!(network("0.10.0.1"), network("0:0:a00:1::"));
        assert_eq!(format!("{:?}", network("10.0.0.1")), "Some(NetworkKey(..))");
        assert_eq!(
            (network("127.1.2.3"), network("::1")),
            (None, None),
            "this machine is no network"
        );
    }
}
