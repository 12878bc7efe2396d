//! Whether others reach us: a circuit through another relay to ourselves.
//!
//! As C Tor has it (`relay/selftest.c`): we are reachable once a relay that authenticated itself has opened a link to an
//! address that we advertise. Nobody may have a reason to do so with a new relay, so we give one of them a reason: a circuit
//! of two hops, the second of which is this relay. It is tried with several, because one may have a link from us already and
//! extend over that.
//!
//! Over such circuits a relay that nobody uses yet finds out what it can carry, too: it sends itself cells that it throws
//! away.

mod circuit;

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rand::seq::IndexedRandom as _;
use tokio::sync::watch;
use tor_netdoc::types::family::RelayFamilyId;

use crate::descriptor::Description;
use crate::directory::{NetView, RelayInfo, Snapshot};
use crate::keys::{FamilyKey, Keys};
use crate::relay::EngineHandle;
use circuit::Circuit;

pub use circuit::{Load, NotReached};

/// Relays that are asked in one round.
const TRIED: usize = 4;
/// The pause after a round that showed nothing, and the longest of those, which are twice as long each time.
const PAUSES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(3600)];
/// How much longer than it should a load may take.
const OVERTIME: Duration = Duration::from_secs(60);

/// What is known of our being reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reachability {
    /// Nothing yet.
    Unknown,
    /// A relay has connected to an address that we advertise.
    Reachable,
    /// Circuits to ourselves fail, the last one for this reason.
    Unreachable(String),
}

/// Builds a circuit through `through` to the relay with these keys at this address.
///
/// # Errors
/// [`NotReached`]: that circuit was not built. The reason may lie with the relay in between.
pub async fn circuit(through: &RelayInfo, keys: &Keys, at: SocketAddrV4) -> Result<(), NotReached> {
    Circuit::open(through, keys, at).await?.close().await;
    Ok(())
}

/// What a relay says of itself that decides how it is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Where it is to be reached.
    pub at: SocketAddrV4,
    /// The families that it belongs to, by key.
    pub families: Vec<RelayFamilyId>,
    /// The RSA identities of the other relays of its operator, as it names them.
    pub members: Vec<[u8; 20]>,
}

impl Subject {
    /// Whether another relay is run by the same operator: then no path has both (*path-spec*, "Path selection and
    /// constraints"). That we name it is enough; we need not ask whether it names us.
    pub fn is_kin(&self, relay: &RelayInfo, net: &Snapshot) -> bool {
        let counts = |name: &str| net.params.get(name).is_none_or(|used| *used > 0);
        let by_key = counts("use-family-ids") && relay.families.iter().any(|family| self.families.contains(family));
        let by_list = counts("use-family-lists") && self.members.contains(&relay.rsa);
        by_key || by_list
    }
}

impl From<&Description> for Subject {
    fn from(about: &Description) -> Subject {
        Subject {
            at: about.address,
            families: about.family_keys.iter().map(FamilyKey::id).collect(),
            members: about.family.clone(),
        }
    }
}

/// Finds out, again and again until it is known, whether others reach this relay. Cheap to share.
#[derive(Debug)]
pub struct SelfTest {
    keys: Arc<Keys>,
    subject: watch::Sender<Subject>,
    net: NetView,
    engine: EngineHandle,
    state: watch::Sender<Reachability>,
}

impl SelfTest {
    /// A test of the relay with these keys, which says this of itself.
    pub fn new(keys: Arc<Keys>, subject: Subject, net: NetView, engine: EngineHandle) -> Arc<SelfTest> {
        Arc::new(SelfTest {
            keys,
            subject: watch::channel(subject).0,
            net,
            engine,
            state: watch::channel(Reachability::Unknown).0,
        })
    }

    /// What is known now.
    pub fn state(&self) -> Reachability {
        if self.engine.was_reached() {
            return Reachability::Reachable;
        }
        self.state.borrow().clone()
    }

    /// The relay says this of itself now. `moved`: it is to be found elsewhere, and whether it is reached there is not known.
    pub fn go_on_with(&self, subject: Subject, moved: bool) {
        if moved {
            self.state.send_replace(Reachability::Unknown);
        }
        self.subject.send_if_modified(|now| {
            *now = subject;
            moved
        });
    }

    /// Tries until a relay has reached us, and again at each new address.
    pub async fn run(self: Arc<Self>) {
        let mut moved = self.subject.subscribe();
        loop {
            tokio::select! {
                // The sender is ours: it is not gone.
                _ = moved.changed() => continue,
                () = self.until_reached() => {}
            }
            let _ = moved.changed().await;
        }
    }

    /// Tries until a relay has reached us.
    pub async fn until_reached(&self) {
        let at = self.subject.borrow().at;
        let [mut pause, longest] = PAUSES;
        let mut net = self.net.clone();
        while self.net.snapshot().relays().is_empty() {
            if !net.changed().await {
                return;
            }
        }
        while self.state() != Reachability::Reachable {
            if self.engine.is_asleep() {
                // Nobody can reach us, as we want it.
                tokio::time::sleep(PAUSES[0]).await;
                continue;
            }
            if let Err(error) = self.round(at).await {
                // At first it may well be the others.
                let known = self.state() != Reachability::Unknown;
                if known {
                    tracing::warn!(
                        address = %at,
                        %error,
                        "other relays do not reach this relay: check or.advertise, the firewall and the forwarding of its port"
                    );
                } else {
                    tracing::info!(address = %at, %error, "no other relay has reached this one so far");
                }
                self.found(at, Reachability::Unreachable(error.to_string()));
            }
            if self.engine.was_reached() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        tracing::info!(address = %at, "other relays reach this relay");
        self.found(at, Reachability::Reachable);
    }

    /// Takes note of what was found at this address.
    fn found(&self, at: SocketAddrV4, found: Reachability) {
        // Of an address that is given up nobody wants to know.
        if self.subject.borrow().at == at {
            self.state.send_replace(found);
        }
    }

    /// Waits until a relay has reached us, as [`run`](Self::run) finds out.
    pub async fn reached(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours.
        let _ = state.wait_for(|state| *state == Reachability::Reachable).await;
    }

    /// Sends itself cells through some relays at once, as many as `load` says in all. Returns how many were sent, once
    /// those that come have come.
    ///
    /// # Errors
    /// There was no circuit at all: why the last of them was not built.
    pub async fn load(&self, load: Load) -> Result<u64, NotReached> {
        let at = self.subject.borrow().at;
        let chosen = self.choose();
        let opening = chosen.iter().map(|relay| Circuit::open(relay, &self.keys, at));
        let mut circuits = Vec::new();
        let mut failed = NotReached::Unknown;
        for opened in futures::future::join_all(opening).await {
            match opened {
                Ok(circuit) => circuits.push(circuit),
                Err(error) => failed = error,
            }
        }
        if circuits.is_empty() {
            return Err(failed);
        }
        let share = Load {
            rate: load.rate / circuits.len() as u64,
            ..load
        };
        let carrying = circuits.into_iter().map(|circuit| circuit.carry(share));
        let carrying = futures::future::join_all(carrying);
        let sent = tokio::time::timeout(load.duration * 2 + OVERTIME, carrying).await;
        Ok(sent.map_err(|_| NotReached::TimedOut)?.into_iter().sum())
    }

    /// Some relays that a path to ourselves may have.
    fn choose(&self) -> Vec<Arc<RelayInfo>> {
        let own = self.keys.fingerprint();
        let subject = self.subject.borrow().clone();
        let snapshot = self.net.snapshot();
        let usable: Vec<&Arc<RelayInfo>> = snapshot
            .relays()
            .iter()
            .filter(|relay| relay.rsa != own && relay.ntor.is_some() && relay.addresses.iter().any(SocketAddr::is_ipv4))
            .filter(|relay| !subject.is_kin(relay, &snapshot))
            .collect();
        let chosen = usable.sample(&mut rand::rng(), TRIED);
        chosen.map(|relay| Arc::clone(relay)).collect()
    }

    /// Asks some relays, one after the other. A failure only if all of them failed.
    async fn round(&self, at: SocketAddrV4) -> Result<(), NotReached> {
        let mut outcome = Ok(());
        for relay in self.choose() {
            match circuit(&relay, &self.keys, at).await {
                // Over a link that we had opened, perhaps: then the next one tells more.
                Ok(()) if self.engine.was_reached() => return Ok(()),
                Ok(()) => outcome = Ok(()),
                Err(error) => {
                    tracing::debug!(nickname = relay.nickname, %error, "no circuit to ourselves");
                    outcome = Err(error);
                }
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::keys::family_file;

    #[test]
    fn relays_of_one_family_are_known_by_key_and_by_name_as_far_as_the_consensus_says() {
        let (family, _files) = family_file();
        let subject = Subject {
            at: SocketAddrV4::new([127, 0, 0, 1].into(), 9001),
            families: vec![family.id()],
            members: vec![[7; 20]],
        };
        let net = |params: &[(&str, i32)]| {
            let params: HashMap<String, i32> = params.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
            Snapshot::new(None, params, [])
        };
        let by_key = RelayInfo {
            rsa: [1; 20],
            families: vec![RelayFamilyId::Ed25519([9; 32].into()), family.id()],
            ..RelayInfo::default()
        };
        let by_name = RelayInfo {
            rsa: [7; 20],
            ..RelayInfo::default()
        };
        let stranger = RelayInfo {
            rsa: [2; 20],
            families: vec![RelayFamilyId::Ed25519([9; 32].into())],
            ..RelayInfo::default()
        };
        let kin = |net: &Snapshot| [&by_key, &by_name, &stranger].map(|relay| subject.is_kin(relay, net));
        assert_eq!(kin(&net(&[])), [true, true, false]);
        assert_eq!(kin(&net(&[("use-family-ids", 0)])), [false, true, false]);
        assert_eq!(kin(&net(&[("use-family-lists", 0)])), [true, false, false]);
    }
}
