//! A ledger, relays whose data plane is played by the test, and a client that speaks for itself.

#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use obol_cell::{
    AccountId, Asset, Claim, EscrowAcceptance, EscrowOffer, EscrowTerms, Forward, OpeningTerms, Pay, PeerId, Signature,
    Step, Stroops, ToNode, ToOrigin,
};
use obol_ledger::{Closing, Ledger, LedgerConfig, server};
use obol_onion::engine::{CircuitId, LinkId, Neighbour, PaymentEvent, Peer};
use obol_relay::config::{self, Amount, AssetName, Span};
use obol_relay::directory::{NetView, RelayInfo, Snapshot};
use obol_relay::metrics::Metrics;
use obol_relay::payments::{self, DataPlane, Parts, Payments, State};
use obol_stellar::escrow::{ClaimHasher, Escrow, Opening};
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::settle::Policy;
use obol_stellar::{Connect, Keypair, MemoryOutbox, Network, Rail, Settler, Tcp};
use tokio::sync::mpsc;

/// Far more than anything here takes: a hang becomes a failure.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// What every relay here sells 64 KiB for.
pub const PRICE: i64 = 100;
/// What each relay's escrow to another is opened with.
pub const DEPOSIT: i64 = 50_000_000;
/// What each relay's capital account starts with.
pub const CAPITAL: i64 = 1_000_000_000;

pub fn stroops(n: i64) -> Stroops {
    Stroops::new(n).expect("not negative")
}

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}

/// A ledger with an asset, behind its HTTP server.
pub struct Money {
    pub ledger: Arc<Ledger>,
    server: server::ServerHandle,
    pub network: Network,
    pub settler: Settler,
    pub asset: Asset,
    pub treasury: Keypair,
}

impl Money {
    pub async fn start() -> Money {
        let config = LedgerConfig {
            closing: Closing::Every(Duration::from_millis(100)),
            allow_advance: true,
            ..LedgerConfig::default()
        };
        let ledger = Arc::new(Ledger::open(config).expect("a ledger"));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = server::serve(Arc::clone(&ledger), listen).await.expect("serves");
        let network = Network::new(ledger.passphrase());
        let connector: Arc<dyn Connect> = Arc::new(Tcp);
        let rail: Arc<dyn Rail> =
            Arc::new(Horizon::new(&server.url(), network.clone(), connector, Timeouts::default()).expect("a URL"));
        let policy = Policy {
            poll: Duration::from_millis(50),
            ..Policy::default()
        };
        let settler = Settler::new(
            Arc::clone(&rail),
            Arc::new(MemoryOutbox::new()),
            network.clone(),
            policy,
        );
        let (issuer, treasury) = (Keypair::random().expect("a key"), Keypair::random().expect("a key"));
        for key in [&issuer, &treasury] {
            rail.friendbot(key.account()).await.expect("lumens");
        }
        let asset = obol_stellar::asset::asset("OBOL", issuer.account()).expect("an asset");
        settler
            .create_asset(&issuer, &treasury, asset, stroops(1 << 50))
            .await
            .expect("issued");
        Money {
            ledger,
            server,
            network,
            settler,
            asset,
            treasury,
        }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Gives an account lumens, a trust line and some of the asset.
    pub async fn fund(&self, key: &Keypair, amount: i64) {
        self.settler.rail().friendbot(key.account()).await.expect("lumens");
        if amount > 0 {
            self.settler.trust(key, self.asset).await.expect("a trust line");
            let reference: [u8; 32] = rand::random();
            let pay = self
                .settler
                .pay(reference, &self.treasury, key.account(), self.asset, stroops(amount));
            pay.await.expect("paid");
        }
    }

    /// What an account holds of the asset.
    pub async fn holding(&self, account: AccountId) -> i64 {
        let state = self.settler.rail().account(account).await.expect("answers");
        let line = state.as_ref().and_then(|state| state.line(&self.asset));
        line.map_or(0, |line| line.holding.balance.get())
    }
}

/// What the data plane of one relay was told, and where its events go.
#[derive(Default)]
struct PlaneState {
    events: Option<mpsc::UnboundedSender<PaymentEvent>>,
    answers: HashMap<u64, Vec<ToOrigin>>,
    granted: HashMap<u64, u64>,
    destroyed: HashSet<u64>,
    closed_links: HashSet<u64>,
    connects: u64,
}

/// A relay's data plane, played by the test. Links lead to the planes of other relays.
pub struct Plane {
    ed: [u8; 32],
    state: Mutex<PlaneState>,
    world: Arc<World>,
}

/// All planes.
#[derive(Default)]
pub struct World {
    planes: Mutex<HashMap<[u8; 32], Arc<Plane>>>,
    /// Whether relays can reach each other.
    pub cut: std::sync::atomic::AtomicBool,
}

impl Plane {
    pub fn event(&self, event: PaymentEvent) {
        if let Some(events) = &self.state.lock().expect("not poisoned").events {
            let _ = events.send(event);
        }
    }

    pub fn granted(&self, circuit: u64) -> u64 {
        self.state
            .lock()
            .expect("not poisoned")
            .granted
            .get(&circuit)
            .copied()
            .unwrap_or(0)
    }

    pub fn answer_to(&self, circuit: u64) -> Option<ToOrigin> {
        let mut state = self.state.lock().expect("not poisoned");
        let answers = state.answers.get_mut(&circuit)?;
        (!answers.is_empty()).then(|| answers.remove(0))
    }

    fn peer(&self) -> Peer {
        Peer {
            ed: self.ed,
            rsa: rsa_of(&self.ed),
        }
    }
}

fn rsa_of(ed: &[u8; 32]) -> [u8; 20] {
    std::array::from_fn(|i| ed[i])
}

/// The link from `ed`'s point of view to the relay `other`: one number for each ordered pair.
pub fn link_to(other: &[u8; 32]) -> LinkId {
    LinkId::from_u64(1_000 + u64::from(other[0]))
}

impl DataPlane for Plane {
    fn grant(&self, circuit: CircuitId, bytes: u64) {
        *self
            .state
            .lock()
            .expect("not poisoned")
            .granted
            .entry(circuit.to_u64())
            .or_default() += bytes;
    }

    fn watch_credit(&self, _: CircuitId, _: u64) {}

    fn answer(&self, circuit: CircuitId, body: &[u8]) {
        let answer = ToOrigin::decode(body).expect("a message");
        self.state
            .lock()
            .expect("not poisoned")
            .answers
            .entry(circuit.to_u64())
            .or_default()
            .push(answer);
    }

    fn send_link(&self, link: LinkId, body: &[u8]) {
        let planes = self.world.planes.lock().expect("not poisoned");
        let to = planes.values().find(|plane| link_to(&plane.ed) == link);
        if let Some(to) = to {
            to.event(PaymentEvent::LinkMessage {
                link: link_to(&self.ed),
                body: body.to_vec(),
            });
        }
    }

    fn destroy(&self, circuit: CircuitId) {
        self.state
            .lock()
            .expect("not poisoned")
            .destroyed
            .insert(circuit.to_u64());
    }

    fn close_link(&self, link: LinkId) {
        self.state
            .lock()
            .expect("not poisoned")
            .closed_links
            .insert(link.to_u64());
    }

    fn metered(&self, circuit: CircuitId) -> Option<u64> {
        Some(circuit.to_u64() * 514)
    }

    fn credit(&self, circuit: CircuitId) -> Option<u64> {
        Some(self.granted(circuit.to_u64()))
    }

    fn connect(&self, relay: &RelayInfo) {
        let first = {
            let mut state = self.state.lock().expect("not poisoned");
            state.connects += 1;
            state.connects == 1
        };
        if !first || self.world.cut.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        let other = relay
            .ed
            .and_then(|ed| self.world.planes.lock().expect("not poisoned").get(&ed).cloned());
        let Some(other) = other else { return };
        let up = |at: &Plane, peer: Peer| {
            let neighbour = Neighbour::Relay(peer.ed);
            at.event(PaymentEvent::LinkUp {
                link: link_to(&peer.ed),
                peer: Some(peer),
                neighbour,
            });
        };
        up(self, other.peer());
        up(&other, self.peer());
    }
}

/// One relay's payments.
pub struct Node {
    pub ed: [u8; 32],
    pub plane: Arc<Plane>,
    pub payments: Payments,
    pub metrics: Arc<Metrics>,
    pub directory: Arc<tempfile::TempDir>,
    pub capital: Keypair,
    pub payee: Keypair,
}

/// The view in which these relays take payments.
pub fn net(eds: &[[u8; 32]]) -> NetView {
    let relays = eds.iter().map(|ed| RelayInfo {
        rsa: rsa_of(ed),
        ed: Some(*ed),
        nickname: "relay".to_owned(),
        addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9001))],
        obol: true,
        ..RelayInfo::default()
    });
    NetView::fixed(Snapshot::new(None, HashMap::new(), relays))
}

pub fn settings(money: &Money) -> config::Payments {
    let text = format!(
        "price_per_64_kib = {PRICE}\n[ledger]\nnetwork_passphrase = {:?}\nasset = \"{}\"\nurls = [{:?}]\npoll = \"50ms\"\n\
         [peers]\nrandom_delay = \"0s\"\nbatch_period = \"0s\"\n[escrows]\nclose_delay = \"0s\"\n",
        money.ledger.passphrase(),
        AssetName {
            code: "OBOL".to_owned(),
            issuer: money.asset.issuer
        },
        money.url(),
    );
    let mut settings: config::Payments = toml::from_str(&text).expect("settings");
    settings.peers.deposit = Amount(DEPOSIT);
    settings.peers.life = Span::hours(48);
    settings
}

pub async fn start(money: &Money, world: &Arc<World>, ed: [u8; 32], all: &[[u8; 32]]) -> Node {
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let (capital, payee) = (Keypair::random().expect("a key"), Keypair::random().expect("a key"));
    capital.save_new(&directory.path().join("capital.seed")).expect("saved");
    payee.save_new(&directory.path().join("payee.seed")).expect("saved");
    money.fund(&capital, CAPITAL).await;
    // Its trust line is the relay's own business.
    money.fund(&payee, 0).await;
    start_in(money, world, ed, all, directory, capital, payee).await
}

/// With the keys of these accounts.
pub async fn start_in(
    money: &Money,
    world: &Arc<World>,
    ed: [u8; 32],
    all: &[[u8; 32]],
    directory: Arc<tempfile::TempDir>,
    capital: Keypair,
    payee: Keypair,
) -> Node {
    start_with(world, ed, all, directory, capital, payee, settings(money)).await
}

/// With these settings.
#[allow(clippy::too_many_arguments, reason = "a fixture")]
pub async fn start_with(
    world: &Arc<World>,
    ed: [u8; 32],
    all: &[[u8; 32]],
    directory: Arc<tempfile::TempDir>,
    capital: Keypair,
    payee: Keypair,
    settings: config::Payments,
) -> Node {
    let (sender, events) = mpsc::unbounded_channel();
    let state = Mutex::new(PlaneState {
        events: Some(sender),
        ..PlaneState::default()
    });
    let plane = Arc::new(Plane {
        ed,
        state,
        world: Arc::clone(world),
    });
    world
        .planes
        .lock()
        .expect("not poisoned")
        .insert(ed, Arc::clone(&plane));
    let metrics = Arc::new(obol_relay::metrics::metrics());
    let dynamic: Arc<dyn DataPlane> = Arc::<Plane>::clone(&plane);
    let payments = payments::start(Parts {
        config: settings,
        bandwidth: config::Bandwidth::default(),
        data_directory: PathBuf::from(directory.path()),
        identity: ed,
        plane: dynamic,
        events,
        net: net(all),
        metrics: Arc::clone(&metrics),
    })
    .await
    .expect("payments start");
    Node {
        ed,
        plane,
        payments,
        metrics,
        directory,
        capital,
        payee,
    }
}

impl Node {
    pub fn state(&self) -> State {
        self.payments.state()
    }

    pub fn journal(&self) -> PathBuf {
        self.directory.path().join(Path::new("payments.sqlite"))
    }

    /// Stops it; its files stay.
    pub async fn stop(self, world: &World) -> (Arc<tempfile::TempDir>, Keypair, Keypair) {
        world.planes.lock().expect("not poisoned").remove(&self.ed);
        self.payments.stop().await;
        (self.directory, self.capital, self.payee)
    }
}

/// A client with one circuit through some relays, the first of which it pays.
pub struct Client {
    wallet: Keypair,
    key: Keypair,
    escrow: Option<(Escrow, Signature)>,
    k: u32,
    cumulative: i64,
    deposit: i64,
    circuit: u64,
    metered: u64,
}

/// A client's link, at its guard.
const CLIENT_LINK: u64 = 7;

impl Client {
    /// Opens circuit `circuit` at `path[0]` and extends it along the path. Circuit ids on links are the same number.
    pub async fn new(money: &Money, path: &[&Node], circuit: u64, deposit: i64) -> Client {
        let wallet = Keypair::random().expect("a key");
        money.fund(&wallet, deposit).await;
        let key = Keypair::random().expect("a key");
        let client = Client {
            wallet,
            key,
            escrow: None,
            k: 0,
            cumulative: 0,
            deposit,
            circuit,
            metered: 0,
        };
        client.reconnect(path);
        client
    }

    /// A link to the guard, and the circuit along the path.
    pub fn reconnect(&self, path: &[&Node]) {
        let circuit = self.circuit;
        let guard = path[0];
        let address = Ipv4Addr::new(192, 0, 2, 1).into();
        guard.plane.event(PaymentEvent::LinkUp {
            link: LinkId::from_u64(CLIENT_LINK),
            peer: None,
            neighbour: Neighbour::Client(address),
        });
        let id = u32::try_from(circuit).expect("small");
        for (place, node) in path.iter().enumerate() {
            let from = match place {
                0 => LinkId::from_u64(CLIENT_LINK),
                _ => link_to(&path[place - 1].ed),
            };
            let circuit = CircuitId::from_u64(circuit);
            node.plane.event(PaymentEvent::CircuitOpened {
                circuit,
                link: from,
                id,
            });
            if let Some(next) = path.get(place + 1) {
                node.plane.event(PaymentEvent::CircuitExtended {
                    circuit,
                    link: link_to(&next.ed),
                    id,
                });
            }
        }
    }

    pub fn send(&self, to: &Node, message: &ToNode) {
        to.plane.event(PaymentEvent::Message {
            circuit: CircuitId::from_u64(self.circuit),
            body: message.encode(),
            metered: self.metered,
            credit: 0,
        });
    }

    pub async fn ask(&self, to: &Node, message: &ToNode) -> ToOrigin {
        self.send(to, message);
        until("an answer", || to.plane.answer_to(self.circuit)).await
    }

    /// Offers the guard an escrow until it accepts, and opens it.
    pub async fn open_escrow(&mut self, money: &Money, guard: &Node) {
        let head = money.settler.rail().latest_ledger().await.expect("a ledger");
        let offer = EscrowOffer {
            escrow: obol_cell::EscrowId(self.key.account().0),
            network: money.network.id(),
            asset: money.asset,
            s0: u64::from(head.sequence + 60) << 32,
            expiry: head.close_time + 24 * 3600,
            deposit: stroops(self.deposit),
        };
        let acceptance: EscrowAcceptance = loop {
            match self.ask(guard, &ToNode::OfferEscrow(offer)).await {
                ToOrigin::EscrowAccepted(acceptance) => break acceptance,
                // Its payee account is not ready yet.
                ToOrigin::Declined(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                other => panic!("not an answer to an offer: {other:?}"),
            }
        };
        let terms = EscrowTerms {
            network: offer.network,
            asset: offer.asset,
            payee: PeerId(guard.ed),
            payee_account: acceptance.payee_account,
            escrow: offer.escrow,
            s0: offer.s0,
            expiry: offer.expiry,
            min_deposit: acceptance.min_deposit,
        };
        let escrow = Escrow::new(terms, acceptance.signer).expect("sound terms");
        assert!(escrow.refund_is_signed(&acceptance.refund));
        let opening = Opening {
            escrow: &escrow,
            key: &self.key,
            deposit: offer.deposit,
            refund: acceptance.refund,
        };
        money.settler.open(&self.wallet, &[opening]).await.expect("opened");
        self.escrow = Some((escrow, acceptance.refund));
    }

    /// Pays `step` along the path, and returns the last hop's answer. `amounts[i]` reaches `path[i]`.
    pub async fn pay(&mut self, path: &[&Node], n: u16, step: Step, amounts: &[i64]) -> ToOrigin {
        let (escrow, _) = self.escrow.as_ref().expect("open");
        self.k += 1;
        // Used up, or its messages would be a flood.
        self.metered += step.bytes();
        self.cumulative += amounts[0];
        let terms = escrow.terms();
        let hasher = ClaimHasher::new(escrow).expect("claims");
        let claim = Claim {
            escrow: terms.escrow,
            k: self.k,
            cumulative: stroops(self.cumulative),
            allocation: stroops(amounts[0]),
            signature: hasher
                .sign(&self.key, self.k, stroops(self.cumulative))
                .expect("signed"),
            opening: Some(OpeningTerms {
                s0: terms.s0,
                expiry: terms.expiry,
                payee_account: terms.payee_account,
                min_deposit: terms.min_deposit,
            }),
        };
        let last = path.len() - 1;
        for (place, node) in path.iter().enumerate() {
            let forward = match amounts.get(place + 1) {
                Some(amount) => Forward::Pass(stroops(*amount)),
                None => Forward::Last,
            };
            let pay = Pay {
                n,
                step,
                forward,
                claim: (place == 0).then_some(claim),
            };
            self.send(node, &ToNode::Pay(pay));
        }
        until("the last hop's answer", || path[last].plane.answer_to(self.circuit)).await
    }

    pub fn close_circuit(&self, path: &[&Node], metered: u64) {
        for node in path {
            node.plane.event(PaymentEvent::CircuitClosed {
                circuit: CircuitId::from_u64(self.circuit),
                metered,
            });
        }
    }

    pub fn paid(&self) -> i64 {
        self.cumulative
    }

    pub fn escrow_account(&self) -> AccountId {
        self.key.account()
    }
}
