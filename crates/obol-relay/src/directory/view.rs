//! What the relay itself needs to know of the network: who is in it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tor_netdoc::types::family::RelayFamilyId;

/// One relay of the consensus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayInfo {
    /// SHA-1 of its RSA identity key.
    pub rsa: [u8; 20],
    /// Its Ed25519 identity, once its microdescriptor is here.
    pub ed: Option<[u8; 32]>,
    /// Its ntor onion key, once its microdescriptor is here.
    pub ntor: Option<[u8; 32]>,
    /// Its nickname, which identifies nobody.
    pub nickname: String,
    /// Where it accepts links; never empty.
    pub addresses: Vec<SocketAddr>,
    /// Whether it advertises `Obol=1`: a paid hop.
    pub obol: bool,
    /// Whether it has the flag Exit.
    pub exit: bool,
    /// Whether it has the flag Guard.
    pub guard: bool,
    /// Whether it has the flag StaleDesc: authorities want a newer descriptor.
    pub stale: bool,
    /// Its weight in the consensus (`w Bandwidth=`), measured or not: how much of the traffic goes to it.
    pub weight: u32,
    /// The families that it has proved to belong to, by key, once its microdescriptor is here.
    pub families: Vec<RelayFamilyId>,
}

/// The network according to one consensus.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When that consensus starts to be valid; `None` while there is none.
    pub valid_after: Option<SystemTime>,
    /// How long after that the next consensus is to be expected.
    pub interval: Option<Duration>,
    /// Consensus parameters.
    pub params: HashMap<String, i32>,
    /// All relays, sorted by RSA identity.
    relays: Vec<Arc<RelayInfo>>,
    /// The same by Ed25519 identity.
    by_ed: HashMap<[u8; 32], Arc<RelayInfo>>,
    /// Where any of them accepts links.
    addresses: HashSet<IpAddr>,
}

impl Snapshot {
    /// A view of these relays.
    pub fn new(
        valid_after: Option<SystemTime>,
        params: HashMap<String, i32>,
        relays: impl IntoIterator<Item = RelayInfo>,
    ) -> Snapshot {
        let mut relays: Vec<Arc<RelayInfo>> = relays.into_iter().map(Arc::new).collect();
        relays.sort_by_key(|relay| relay.rsa);
        let by_ed = relays
            .iter()
            .filter_map(|relay| Some((relay.ed?, Arc::clone(relay))))
            .collect();
        let addresses = relays
            .iter()
            .flat_map(|relay| relay.addresses.iter().map(SocketAddr::ip))
            .collect();
        Snapshot {
            valid_after,
            interval: None,
            params,
            relays,
            by_ed,
            addresses,
        }
    }

    /// The same for a network with so much time between two consensuses.
    #[must_use]
    pub fn every(mut self, interval: Option<Duration>) -> Snapshot {
        self.interval = interval;
        self
    }

    /// All relays, sorted by RSA identity.
    pub fn relays(&self) -> &[Arc<RelayInfo>] {
        &self.relays
    }

    /// Whether a relay accepts links at this address, on any port.
    pub fn is_address(&self, address: &IpAddr) -> bool {
        self.addresses.contains(address)
    }

    /// The relay with this RSA identity.
    pub fn by_rsa(&self, rsa: &[u8; 20]) -> Option<Arc<RelayInfo>> {
        let at = self.relays.binary_search_by_key(rsa, |relay| relay.rsa).ok()?;
        self.relays.get(at).cloned()
    }

    /// The relay with this Ed25519 identity.
    pub fn by_ed(&self, ed: &[u8; 32]) -> Option<Arc<RelayInfo>> {
        self.by_ed.get(ed).cloned()
    }
}

/// The network as the newest consensus has it. Cheap to clone; every clone sees every change.
#[derive(Debug, Clone)]
pub struct NetView(watch::Receiver<Arc<Snapshot>>);

impl NetView {
    /// A view that follows `snapshots`.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> NetView {
        NetView(snapshots)
    }

    /// A view that never changes.
    pub fn fixed(snapshot: Snapshot) -> NetView {
        NetView(watch::channel(Arc::new(snapshot)).1)
    }

    /// The network at this moment; for more than one question about the same moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.borrow())
    }

    /// The relay with this RSA identity (SHA-1 of the key).
    pub fn by_rsa(&self, rsa: &[u8; 20]) -> Option<Arc<RelayInfo>> {
        self.0.borrow().by_rsa(rsa)
    }

    /// The relay with this Ed25519 identity.
    pub fn by_ed(&self, ed: &[u8; 32]) -> Option<Arc<RelayInfo>> {
        self.0.borrow().by_ed(ed)
    }

    /// A consensus parameter, if the consensus sets it. Callers clamp it to what is sane.
    pub fn param(&self, name: &str) -> Option<i32> {
        self.0.borrow().params.get(name).copied()
    }

    /// Waits for the next change; `false` if there will be none.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(n: u8, ed: Option<u8>) -> RelayInfo {
        RelayInfo {
            rsa: [n; 20],
            ed: ed.map(|n| [n; 32]),
            ntor: None,
            nickname: format!("r{n}"),
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 9001))],
            obol: true,
            exit: false,
            guard: false,
            stale: false,
            weight: 0,
            families: Vec::new(),
        }
    }

    #[test]
    fn relays_are_found_by_either_identity() {
        let view = NetView::fixed(Snapshot::new(
            None,
            HashMap::from([("cc_alg".to_owned(), 0)]),
            [relay(9, Some(1)), relay(3, None), relay(5, Some(2))],
        ));
        assert_eq!(view.by_rsa(&[3; 20]).map(|r| r.nickname.clone()), Some("r3".to_owned()));
        assert_eq!(view.by_ed(&[2; 32]).map(|r| r.rsa), Some([5; 20]));
        assert!(view.by_rsa(&[4; 20]).is_none());
        assert!(view.snapshot().is_address(&[127, 0, 0, 1].into()));
        assert!(!view.snapshot().is_address(&[127, 0, 0, 2].into()));
        assert_eq!((view.param("cc_alg"), view.param("other")), (Some(0), None));
    }

    #[tokio::test]
    async fn every_clone_sees_a_change() {
        let (sender, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let mut view = NetView::new(receiver).clone();
        sender.send_replace(Arc::new(Snapshot::new(None, HashMap::new(), [relay(1, None)])));
        assert!(view.changed().await);
        assert!(view.by_rsa(&[1; 20]).is_some());
        drop(sender);
        assert!(!view.changed().await);
    }
}
