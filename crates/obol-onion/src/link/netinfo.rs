//! NETINFO: the time, and who each side thinks the other is.
//!
//! tor-spec, [NETINFO cells](https://spec.torproject.org/tor-spec/negotiating-channels.html#NETINFO-cells).

use super::LinkError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Type of an IPv4 address.
const IPV4: u8 = 4;
/// Type of an IPv6 address.
const IPV6: u8 = 6;

/// What a NETINFO cell says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Netinfo {
    /// Seconds since 1970; 0 from a client.
    pub timestamp: u32,
    /// The receiver's address, as its sender sees it.
    pub other: Option<IpAddr>,
    /// The sender's own.
    pub own: Vec<IpAddr>,
}

fn put(body: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            body.extend_from_slice(&[IPV4, 4]);
            body.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            body.extend_from_slice(&[IPV6, 16]);
            body.extend_from_slice(&address.octets());
        }
    }
}

/// Takes an address off the front of `rest`; the inner `None` is one of a type that we do not know.
fn take(rest: &mut &[u8]) -> Option<Option<IpAddr>> {
    let (&[kind, len], tail) = rest.split_first_chunk()?;
    let (value, tail) = tail.split_at_checked(usize::from(len))?;
    *rest = tail;
    Some(match kind {
        IPV4 => <[u8; 4]>::try_from(value)
            .ok()
            .map(|octets| Ipv4Addr::from(octets).into()),
        IPV6 => <[u8; 16]>::try_from(value)
            .ok()
            .map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    })
}

impl Netinfo {
    /// The body of the cell, before its padding.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.timestamp.to_be_bytes().to_vec();
        put(&mut body, self.other.unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
        // A relay has one address of each kind; a cell has room for more than any configuration.
        let own = &self.own[..self.own.len().min(16)];
        body.push(own.len() as u8);
        own.iter().for_each(|address| put(&mut body, *address));
        body
    }

    /// Reads a cell's body. Addresses of unknown types are passed over.
    pub fn decode(body: &[u8]) -> Result<Self, LinkError> {
        let malformed = LinkError::Malformed("NETINFO");
        let (timestamp, mut rest) = body.split_first_chunk::<4>().ok_or(malformed.clone())?;
        let other = take(&mut rest).ok_or(malformed.clone())?;
        let (&count, mut rest) = rest.split_first().ok_or(malformed.clone())?;
        let mut own = Vec::new();
        for _ in 0..count {
            own.extend(take(&mut rest).ok_or(malformed.clone())?);
        }
        Ok(Self {
            timestamp: u32::from_be_bytes(*timestamp),
            other: other.filter(|address| !address.is_unspecified()),
            own,
        })
    }
}
