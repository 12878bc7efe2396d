//! Whether others reach us: a circuit through another relay to ourselves.
//!
//! As C Tor has it (`relay/selftest.c`): we are reachable once a relay that authenticated itself has opened a link to an
//! address that we advertise. Nobody may have a reason to do so with a new relay, so we give one of them a reason: a circuit
//! of two hops, the second of which is this relay. It is tried with several, because one may have a link from us already and
//! extend over that.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use obol_onion::crypto::tor1::{BODY_LEN, ClientLayers};
use obol_onion::handshake::ntor;
use obol_onion::link::Expected;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tor_netdoc::types::family::RelayFamilyId;

use crate::descriptor::Description;
use crate::directory::{NetView, RelayInfo, Snapshot};
use crate::handshake::{self, LinkFailed, LinkStream, Local};
use crate::keys::{FamilyKey, Keys};
use crate::relay::EngineHandle;

/// How long one circuit may take to be built.
const PATIENCE: Duration = Duration::from_secs(60);
/// Relays that are asked in one round.
const TRIED: usize = 4;
/// The pause after a round that showed nothing, and the longest of those, which are twice as long each time.
const PAUSES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(3600)];

// Commands of cells, and of relay cells (tor-spec, "Cell Packet format" and "Relay cells").
const RELAY: u8 = 3;
const DESTROY: u8 = 4;
const VERSIONS: u8 = 7;
const RELAY_EARLY: u8 = 9;
const CREATE2: u8 = 10;
const CREATED2: u8 = 11;
const FIRST_VARIABLE: u8 = 128;
const EXTEND2: u8 = 14;
const EXTENDED2: u8 = 15;
/// ntor, as a handshake type.
const NTOR: u16 = 2;
/// Bytes of a relay cell before its data.
const RELAY_HEADER: usize = 11;

/// Why a circuit to ourselves was not built.
#[derive(Debug, thiserror::Error)]
pub enum NotReached {
    /// The relay in between cannot be reached, or does not prove to be who it should be.
    #[error("no link to the relay in between")]
    Link(#[from] LinkFailed),
    /// Its connection was lost.
    #[error("the connection to the relay in between failed")]
    Connection(#[from] std::io::Error),
    /// It said no: it could not connect to us, for instance.
    #[error("the relay in between ended the circuit (reason {0})")]
    Destroyed(u8),
    /// Whoever answered does not have the onion key.
    #[error("a handshake failed")]
    Handshake,
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The directory does not tell enough of that relay.
    #[error("not enough is known of the relay in between")]
    Unknown,
}

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
    tokio::time::timeout(PATIENCE, build(through, keys, at))
        .await
        .unwrap_or(Err(NotReached::TimedOut))
}

async fn build(through: &RelayInfo, keys: &Keys, at: SocketAddrV4) -> Result<(), NotReached> {
    let (Some(ntor_key), Some(address)) = (through.ntor, through.addresses.first()) else {
        return Err(NotReached::Unknown);
    };
    let expected = Expected {
        rsa: Some(through.rsa),
        ed25519: through.ed,
    };
    let local = Local {
        advertised: Vec::new(),
        timeouts: handshake::Timeouts::default(),
    };
    let link = handshake::connect_as_client(*address, expected, &local).await?;
    let mut cells = Cells {
        stream: link.stream,
        read: link.leftover,
        // The initiator's half of the circuit numbers.
        circuit: rand::rng().random::<u32>() | 1 << 31,
    };

    let (first, skin) = ntor::Client::start(through.rsa, ntor_key, rand::rng().random());
    let mut body = [0; BODY_LEN];
    put(&mut body, &[&handshake_data(&skin)]);
    cells.send(CREATE2, &body).await?;
    let created = cells.receive(CREATED2).await?;
    let mut layers = ClientLayers::new();
    layers.push(&first.finish(reply(&created)?).map_err(|_| NotReached::Handshake)?);

    let onion = keys.onion_keys();
    let (second, skin) = ntor::Client::start(keys.fingerprint(), *onion.current().public(), rand::rng().random());
    let specifiers = [
        &[3, 0, 6][..],
        &at.ip().octets(),
        &at.port().to_be_bytes(),
        &[2, 20],
        &keys.fingerprint(),
        &[3, 32],
        &keys.ed25519(),
    ]
    .concat();
    let data = [specifiers, handshake_data(&skin)].concat();
    let length = u16::try_from(data.len()).unwrap_or_default().to_be_bytes();
    let mut body = [0; BODY_LEN];
    put(&mut body, &[&[EXTEND2, 0, 0, 0, 0, 0, 0, 0, 0], &length, &data]);
    layers.originate(0, &mut body).ok_or(NotReached::Handshake)?;
    cells.send(RELAY_EARLY, &body).await?;
    let mut answer = cells.receive(RELAY).await?;
    layers.open(&mut answer).ok_or(NotReached::Handshake)?;
    if answer[0] != EXTENDED2 {
        // TRUNCATED, with its reason.
        return Err(NotReached::Destroyed(answer[RELAY_HEADER]));
    }
    second
        .finish(reply(&answer[RELAY_HEADER..])?)
        .map_err(|_| NotReached::Handshake)?;
    // REQUESTED. What becomes of it is of no consequence.
    let mut body = [0; BODY_LEN];
    body[0] = 3;
    let _ = cells.send(DESTROY, &body).await;
    Ok(())
}

/// The type and length of a handshake's data, and the data.
fn handshake_data(skin: &[u8; ntor::REQUEST_LEN]) -> Vec<u8> {
    let length = u16::try_from(skin.len()).unwrap_or_default();
    [&NTOR.to_be_bytes()[..], &length.to_be_bytes(), skin].concat()
}

/// Writes pieces one after the other.
fn put(body: &mut [u8; BODY_LEN], pieces: &[&[u8]]) {
    let all = pieces.concat();
    let fits = all.len().min(BODY_LEN);
    body[..fits].copy_from_slice(&all[..fits]);
}

/// What a CREATED2 or EXTENDED2 carries.
fn reply(body: &[u8]) -> Result<&[u8], NotReached> {
    let (length, data) = body.split_first_chunk::<2>().ok_or(NotReached::Handshake)?;
    data.get(..usize::from(u16::from_be_bytes(*length)))
        .ok_or(NotReached::Handshake)
}

/// The cells of one circuit on a link of version 4 or 5.
struct Cells {
    stream: LinkStream,
    read: Vec<u8>,
    circuit: u32,
}

impl Cells {
    async fn send(&mut self, command: u8, body: &[u8; BODY_LEN]) -> Result<(), NotReached> {
        let cell = [&self.circuit.to_be_bytes()[..], &[command], body].concat();
        self.stream.write_all(&cell).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next cell of our circuit, which must be this one.
    async fn receive(&mut self, command: u8) -> Result<[u8; BODY_LEN], NotReached> {
        loop {
            let (circuit, got, body) = self.next().await?;
            match (circuit == self.circuit, got) {
                (true, got) if got == command => {
                    return body.try_into().map_err(|_| NotReached::Handshake);
                }
                (true, DESTROY) => return Err(NotReached::Destroyed(body.first().copied().unwrap_or_default())),
                // Padding, and whatever else does not concern us.
                _ => {}
            }
        }
    }

    async fn next(&mut self) -> Result<(u32, u8, Vec<u8>), NotReached> {
        self.fill(5).await?;
        let command = self.read[4];
        let circuit = u32::from_be_bytes([self.read[0], self.read[1], self.read[2], self.read[3]]);
        let (header, length) = if command == VERSIONS || command >= FIRST_VARIABLE {
            self.fill(7).await?;
            (7, usize::from(u16::from_be_bytes([self.read[5], self.read[6]])))
        } else {
            (5, BODY_LEN)
        };
        self.fill(header + length).await?;
        let body = self.read[header..header + length].to_vec();
        self.read.drain(..header + length);
        Ok((circuit, command, body))
    }

    /// Reads until there are this many bytes, which is at most the longest cell.
    async fn fill(&mut self, wanted: usize) -> Result<(), NotReached> {
        while self.read.len() < wanted {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }
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
    state: Mutex<Reachability>,
}

impl SelfTest {
    /// A test of the relay with these keys, which says this of itself.
    pub fn new(keys: Arc<Keys>, subject: Subject, net: NetView, engine: EngineHandle) -> Arc<SelfTest> {
        Arc::new(SelfTest {
            keys,
            subject: watch::channel(subject).0,
            net,
            engine,
            state: Mutex::new(Reachability::Unknown),
        })
    }

    /// What is known now.
    pub fn state(&self) -> Reachability {
        if self.engine.was_reached() {
            return Reachability::Reachable;
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The relay says this of itself now. `moved`: it is to be found elsewhere, and whether it is reached there is not known.
    pub fn go_on_with(&self, subject: Subject, moved: bool) {
        if moved {
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Reachability::Unknown;
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
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                // Of an address that is given up nobody wants to know.
                if self.subject.borrow().at == at {
                    *state = Reachability::Unreachable(error.to_string());
                }
            }
            if self.engine.was_reached() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        tracing::info!(address = %at, "other relays reach this relay");
    }

    /// Asks some relays, one after the other. A failure only if all of them failed.
    async fn round(&self, at: SocketAddrV4) -> Result<(), NotReached> {
        let own = self.keys.fingerprint();
        let subject = self.subject.borrow().clone();
        let snapshot = self.net.snapshot();
        let usable: Vec<&Arc<RelayInfo>> = snapshot
            .relays()
            .iter()
            .filter(|relay| relay.rsa != own && relay.ntor.is_some() && relay.addresses.iter().any(SocketAddr::is_ipv4))
            .filter(|relay| !subject.is_kin(relay, &snapshot))
            .collect();
        let chosen: Vec<Arc<RelayInfo>> = usable
            .sample(&mut rand::rng(), TRIED)
            .map(|relay| Arc::clone(relay))
            .collect();
        let mut outcome = Ok(());
        for relay in chosen {
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
