//! What an exit connects to, and what it says when it does not.

use std::io;
use std::net::{IpAddr, SocketAddr};

use obol_onion::engine::{EndReason, is_public};
use rand::RngExt as _;
use tor_netdoc::types::policy::{AddrPolicy, RuleKind};

/// Seconds that an address which the client named itself claims to be good for.
pub(crate) const LITERAL_TTL: u32 = 1800;
/// Seconds for a resolved name: there are two values only, so that a client's path shows less of what it asked for.
const SHORT_TTL: u32 = 300;
const LONG_TTL: u32 = 3600;
/// What is added or taken away at random.
const FUZZ: u32 = 240;

/// What a relay connects to as an exit.
#[derive(Debug, Clone)]
pub struct ExitConfig {
    /// Rules, first match first. What no rule matches is refused.
    pub policy: AddrPolicy,
    /// Refuse private addresses and our own, whatever `policy` says.
    pub reject_private: bool,
    /// Our own addresses; the advertised ones are added.
    pub own: Vec<IpAddr>,
    /// Whether this host reaches the IPv6 internet.
    pub ipv6: bool,
    /// Serve circuits on which we are the only hop: for tests only, since it makes the relay an open proxy.
    pub allow_single_hop: bool,
}

impl ExitConfig {
    /// A relay that connects to nothing.
    pub fn closed() -> Self {
        ExitConfig {
            policy: AddrPolicy::new(),
            reject_private: true,
            own: Vec::new(),
            ipv6: false,
            allow_single_hop: false,
        }
    }

    /// Whether nothing at all can be reached: then names are not even resolved.
    pub(crate) fn is_closed(&self) -> bool {
        !self.policy.rules().any(|(kind, _)| kind == RuleKind::Accept)
    }

    /// Whether a client may reach this address.
    pub(crate) fn allows(&self, address: &SocketAddr) -> bool {
        let refused = self.reject_private && (!is_public(address.ip()) || self.own.contains(&address.ip()));
        !refused && self.policy.allows_sockaddr(address) == Some(RuleKind::Accept)
    }
}

/// What a name's time to live is told as.
pub(crate) fn name_ttl(ttl: u32) -> u32 {
    if ttl < SHORT_TTL { SHORT_TTL } else { LONG_TTL }
}

/// A time to live, give or take some minutes.
pub(crate) fn fuzzed(ttl: u32) -> u32 {
    (ttl + rand::rng().random_range(0..=2 * FUZZ)).saturating_sub(FUZZ)
}

/// What the client is told about an error of a connection.
pub(crate) fn end_reason(error: &io::Error) -> EndReason {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => EndReason::ConnectRefused,
        Kind::ConnectionReset | Kind::ConnectionAborted => EndReason::ConnReset,
        Kind::TimedOut => EndReason::Timeout,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::PermissionDenied => {
            EndReason::NoRoute
        }
        Kind::AddrNotAvailable | Kind::AddrInUse => EndReason::NoRoute,
        Kind::BrokenPipe | Kind::UnexpectedEof => EndReason::Done,
        Kind::NotConnected => EndReason::Internal,
        Kind::OutOfMemory | Kind::StorageFull => EndReason::ResourceLimit,
        // Too many open files: MISC, because clients would shun an exit that says RESOURCELIMIT for hours.
        _ => EndReason::Misc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(reject_private: bool) -> ExitConfig {
        let mut policy = AddrPolicy::new();
        policy.push(RuleKind::Reject, "*:25".parse().unwrap());
        policy.push(RuleKind::Accept, "*:*".parse().unwrap());
        ExitConfig {
            policy,
            reject_private,
            own: vec!["203.0.113.7".parse().unwrap()],
            ..ExitConfig::closed()
        }
    }

    #[test]
    fn private_and_own_addresses_are_refused_by_default() {
        let exit = open(true);
        for (address, allowed) in [
            ("8.8.8.8:80", true),
            ("8.8.8.8:25", false),
            ("127.0.0.1:80", false),
            ("192.168.1.1:80", false),
            ("203.0.113.7:80", false),
            ("[::1]:80", false),
            ("[::ffff:10.0.0.1]:80", false),
            ("[2001:db8::1]:80", true),
        ] {
            assert_eq!(exit.allows(&address.parse().unwrap()), allowed, "{address}");
        }
        assert!(open(false).allows(&"127.0.0.1:80".parse().unwrap()));
        assert!(ExitConfig::closed().is_closed() && !ExitConfig::closed().allows(&"8.8.8.8:80".parse().unwrap()));
    }

    #[test]
    fn a_time_to_live_is_fuzzed_within_its_bounds() {
        for _ in 0..1000 {
            assert!((60..=540).contains(&fuzzed(name_ttl(7))));
            assert_eq!((name_ttl(299), name_ttl(300), name_ttl(u32::MAX)), (300, 3600, 3600));
        }
    }
}
