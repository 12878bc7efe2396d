//! A ledger behind Stellar RPC in one thread of virtual time: no sockets, ledgers close every five seconds, and its servers
//! break in whatever way is asked for. Hours pass in no time, and every run is the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use obol_cell::{AccountId, Asset, EscrowId, EscrowTerms};
use obol_ledger::{Closing, Ledger, LedgerConfig, Submission};
use obol_stellar::escrow::EscrowSecret;
use obol_stellar::outbox::Outbox;
use obol_stellar::rail::connect::ByteStream;
use obol_stellar::rail::horizon::Timeouts;
use obol_stellar::rail::rpc::Rpc;
use obol_stellar::settle::{FlushOrder, Policy};
use obol_stellar::{Connect, Keypair, MemoryOutbox, Network, Rail, Settler};
use serde_json::{Value, json};
use sha2::Digest as _;
use stellar_xdr::{self as xdr, Limits, ReadXdr as _, WriteXdr as _};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Agreed, DEPOSIT, IDENTITY, LIFE, MINIMUM, WEALTH, key, stroops};

/// Between two ledgers.
pub const LEDGER: Duration = Duration::from_secs(5);
/// Ledgers whose state a stale server can still serve.
const SNAPSHOTS: usize = 40;

/// What is wrong with a server.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Nobody can connect.
    pub down: bool,
    /// Every answer takes so long.
    pub delay: Duration,
    /// Takes submissions, and answers 504.
    pub gateway_timeout: bool,
    /// Takes submissions, says PENDING, and drops them.
    pub swallows: bool,
    /// Takes submissions, says that it could not, and holds them ([`Sim::release`]).
    pub holds: bool,
    /// Half of the questions are answered from so many ledgers ago.
    pub stale_by: usize,
    /// Says NOT_FOUND of these, whatever the ledger has.
    pub denies: BTreeSet<[u8; 32]>,
    /// Says NOT_FOUND of everything.
    pub denies_all: bool,
    /// Forgets what is older than so many ledgers; 0: nothing.
    pub retention: u32,
    /// The least fee of an operation; 0: the ledger's own.
    pub surge: i64,
    /// Whether the surge can be seen in the fee statistics.
    pub hides_surge: bool,
    /// Answers 429, and wants to be left alone for so many seconds.
    pub limited: Option<u32>,
}

/// The state of a closed ledger.
#[derive(Clone)]
struct Snapshot {
    header: xdr::LedgerHeader,
    entries: Arc<HashMap<String, xdr::LedgerEntry>>,
}

struct Server {
    ledger: Arc<Ledger>,
    clock: Clock,
    snapshots: Arc<Mutex<VecDeque<Snapshot>>>,
    faults: Mutex<Faults>,
    held: Mutex<Vec<Vec<u8>>>,
    questions: Mutex<Vec<(String, Instant)>>,
    connections: mpsc::UnboundedSender<DuplexStream>,
}

#[derive(Clone, Copy)]
struct Clock {
    base: u64,
    start: Instant,
}

impl Clock {
    fn now(self) -> u64 {
        self.base + self.start.elapsed().as_secs()
    }
}

/// Connects to servers by name, without a network.
struct Within(BTreeMap<String, Arc<Server>>);

#[async_trait]
impl Connect for Within {
    async fn connect(&self, host: &str, _: u16) -> io::Result<Box<dyn ByteStream>> {
        let server = self.0.get(host).ok_or(io::ErrorKind::NotFound)?;
        if server.faults.lock().unwrap().down {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (here, there) = tokio::io::duplex(1 << 16);
        server
            .connections
            .send(there)
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(here))
    }
}

struct Door(mpsc::UnboundedReceiver<DuplexStream>);

impl axum::serve::Listener for Door {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A world: its ledger, and servers `a` and `b` of it.
pub struct Sim {
    pub ledger: Arc<Ledger>,
    pub network: Network,
    pub outbox: Arc<MemoryOutbox>,
    pub settler: Settler,
    pub issuer: Keypair,
    pub payer: Keypair,
    pub payee: Keypair,
    pub asset: Asset,
    pub secret: EscrowSecret,
    pub policy: Policy,
    clock: Clock,
    snapshots: Arc<Mutex<VecDeque<Snapshot>>>,
    servers: BTreeMap<String, Arc<Server>>,
    halted: watch::Sender<bool>,
}

impl Sim {
    /// Ledgers close by themselves, and nobody has anything.
    pub fn new() -> Sim {
        let ledger = Arc::new(
            Ledger::open(LedgerConfig {
                closing: Closing::Manual,
                ..LedgerConfig::default()
            })
            .unwrap(),
        );
        let clock = Clock {
            base: ledger.now(),
            start: Instant::now(),
        };
        let snapshots = Arc::new(Mutex::new(VecDeque::new()));
        snapshots.lock().unwrap().push_back(snapshot(&ledger));
        let servers: BTreeMap<String, Arc<Server>> = ["a", "b"]
            .into_iter()
            .map(|name| {
                let (connections, door) = mpsc::unbounded_channel();
                let server = Arc::new(Server {
                    ledger: Arc::clone(&ledger),
                    clock,
                    snapshots: Arc::clone(&snapshots),
                    faults: Mutex::default(),
                    held: Mutex::default(),
                    questions: Mutex::default(),
                    connections,
                });
                let app = Router::new().fallback(answer).with_state(Arc::clone(&server));
                tokio::spawn(async move { axum::serve(Door(door), app).await });
                (name.to_owned(), server)
            })
            .collect();
        let halted = watch::Sender::new(false);
        let closer = (Arc::clone(&ledger), Arc::clone(&snapshots), halted.subscribe());
        tokio::spawn(async move {
            let (ledger, snapshots, mut halted) = closer;
            while halted.wait_for(|halted| !halted).await.is_ok() {
                tokio::time::sleep(LEDGER).await;
                if halted.has_changed().is_err() {
                    // The sim is gone, and others go on in the same thread.
                    return;
                }
                if *halted.borrow() {
                    continue;
                }
                ledger.close(clock.now()).unwrap();
                let mut snapshots = snapshots.lock().unwrap();
                snapshots.push_back(snapshot(&ledger));
                while snapshots.len() > SNAPSHOTS {
                    snapshots.pop_front();
                }
            }
        });
        let network = Network::new(ledger.passphrase());
        let (issuer, payer, payee) = (key(1), key(2), key(3));
        let asset = obol_stellar::asset::asset("OBOL", issuer.account()).unwrap();
        let outbox = Arc::new(MemoryOutbox::new());
        let mut sim = Sim {
            settler: Settler::new(
                Arc::new(obol_stellar::rail::many::Many::new(Vec::new())),
                Arc::clone(&outbox) as Arc<dyn Outbox>,
                network.clone(),
                Policy::default(),
            ),
            ledger,
            network,
            outbox,
            issuer,
            payer,
            payee,
            asset,
            secret: EscrowSecret::from_bytes([0x52; 32]),
            policy: Policy::default(),
            clock,
            snapshots,
            servers,
            halted,
        };
        sim.settler = sim.settler_over(sim.rail("a"));
        sim
    }

    /// With lumens for all, the asset at the payer, and a trust line at the payee.
    pub async fn funded() -> Sim {
        let sim = Sim::new();
        for key in [&sim.issuer, &sim.payer, &sim.payee] {
            sim.ledger.fund(key.account().0, sim.clock.now()).unwrap();
        }
        sim.ledgers(1).await;
        sim.settler
            .create_asset(&sim.issuer, &sim.payer, sim.asset, stroops(WEALTH))
            .await
            .unwrap();
        sim.settler.trust(&sim.payee, sim.asset).await.unwrap();
        sim
    }

    /// An account with lumens and a trust line.
    pub async fn account_with_line(&self, n: u8) -> Keypair {
        let account = key(n);
        self.ledger.fund(account.account().0, self.clock.now()).unwrap();
        self.ledgers(1).await;
        self.settler.trust(&account, self.asset).await.unwrap();
        account
    }

    /// A rail over one server.
    pub fn rail(&self, server: &str) -> Arc<dyn Rail> {
        self.rail_paced(server, None)
    }

    pub fn rail_paced(&self, server: &str, per_minute: Option<u32>) -> Arc<dyn Rail> {
        let connector = Arc::new(Within(self.servers.clone()));
        let url = format!("http://{server}/rpc");
        let rpc = Rpc::new(&url, self.network.clone(), connector, Timeouts::default())
            .unwrap()
            .with_assets(vec![self.asset])
            .paced(per_minute);
        Arc::new(rpc)
    }

    /// A settler with the sim's outbox over any rail.
    pub fn settler_over(&self, rail: Arc<dyn Rail>) -> Settler {
        Settler::new(
            rail,
            Arc::clone(&self.outbox) as Arc<dyn Outbox>,
            self.network.clone(),
            self.policy,
        )
    }

    /// Breaks or mends a server.
    pub fn server(&self, name: &str, change: impl FnOnce(&mut Faults)) {
        change(&mut self.servers[name].faults.lock().unwrap());
    }

    /// When a server was asked what.
    pub fn questions(&self, name: &str) -> Vec<(String, Instant)> {
        self.servers[name].questions.lock().unwrap().clone()
    }

    /// Hands what a server held to the ledger, the last first, each in a ledger of its own.
    pub async fn release(&self, name: &str) {
        let held = std::mem::take(&mut *self.servers[name].held.lock().unwrap());
        for envelope in held.into_iter().rev() {
            let _ = self.ledger.submit(&envelope, self.clock.now());
            self.ledgers(1).await;
        }
    }

    /// No ledger closes, or again.
    pub fn halt(&self, halted: bool) {
        self.halted.send_replace(halted);
    }

    /// Waits for so many ledgers.
    pub async fn ledgers(&self, n: u32) {
        tokio::time::sleep(LEDGER * n).await;
        // Behind the timer that closes them.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Time passes, and only its last ledger is closed.
    pub async fn pass(&self, time: Duration) {
        self.halt(true);
        tokio::time::sleep(time).await;
        self.halt(false);
        self.ledgers(2).await;
    }

    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    pub fn terms(&self, e: &Keypair) -> EscrowTerms {
        EscrowTerms {
            network: self.network.id(),
            asset: self.asset,
            payee: IDENTITY,
            payee_account: self.payee.account(),
            escrow: EscrowId(e.account().0),
            s0: u64::from(self.ledger.latest().sequence + 60) << 32,
            expiry: self.now() + LIFE,
            min_deposit: stroops(MINIMUM),
        }
    }

    pub fn agree(&self, e: u8) -> Agreed {
        let e = key(e);
        let (escrow, refund) = self.secret.accept(self.terms(&e)).unwrap();
        Agreed { escrow, e, refund }
    }

    pub async fn opened(&self, e: u8) -> Agreed {
        let agreed = self.agree(e);
        let opened = self.settler.open(&self.payer, &[agreed.opening()]).await.unwrap();
        assert_eq!(opened.escrows, [(agreed.escrow.terms().escrow, stroops(DEPOSIT))]);
        agreed
    }

    pub fn order<'a>(&'a self, agreed: &'a Agreed, k: u32, cumulative: i64) -> FlushOrder<'a> {
        FlushOrder {
            escrow: &agreed.escrow,
            k,
            cumulative: stroops(cumulative),
            by_payer: agreed.claim(k, cumulative),
            secret: &self.secret,
            payee: &self.payee,
        }
    }

    /// What an account holds of the asset, by the ledger itself and no server.
    pub fn balance(&self, account: AccountId) -> i64 {
        let asset = obol_stellar::asset::asset_to_xdr(&self.asset).unwrap();
        self.ledger
            .trust_line(&account.0, &asset)
            .map_or(0, |line| line.balance)
    }

    pub fn exists(&self, account: AccountId) -> bool {
        self.ledger.account(&account.0).is_some()
    }

    /// No stroop was created or lost, of lumens or of the asset; and all of the asset is with these and nobody else.
    pub fn adds_up(&self, holders: &[AccountId]) {
        assert_eq!(self.ledger.audit().unwrap().created_or_lost(), 0);
        let held: i64 = holders.iter().map(|holder| self.balance(*holder)).sum();
        assert_eq!(held, WEALTH, "all of the asset is with those who should have it");
    }

    /// The state that servers serve has caught up.
    pub fn served(&self) -> u32 {
        self.snapshots.lock().unwrap().back().unwrap().header.ledger_seq
    }
}

fn snapshot(ledger: &Ledger) -> Snapshot {
    let entries = ledger
        .entries()
        .into_iter()
        .map(|entry| (entry.to_key().to_xdr_base64(Limits::none()).unwrap(), entry))
        .collect();
    Snapshot {
        header: ledger.header(),
        entries: Arc::new(entries),
    }
}

async fn answer(State(server): State<Arc<Server>>, body: String) -> Response {
    let call: Value = serde_json::from_str(&body).unwrap();
    let method = call["method"].as_str().unwrap().to_owned();
    let number = {
        let mut questions = server.questions.lock().unwrap();
        questions.push((method.clone(), Instant::now()));
        questions.len()
    };
    let faults = server.faults.lock().unwrap().clone();
    if faults.down {
        // On a connection from before.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(faults.delay).await;
    if let Some(seconds) = faults.limited {
        let headers = [(header::RETRY_AFTER, seconds.to_string())];
        return (StatusCode::TOO_MANY_REQUESTS, headers, "").into_response();
    }
    // As if drawn by lot, and the same in every run.
    let lot = sha2::Sha256::digest(number.to_be_bytes())[0];
    let behind = if lot.is_multiple_of(2) { faults.stale_by } else { 0 };
    let seen = {
        let snapshots = server.snapshots.lock().unwrap();
        let at = snapshots.len().saturating_sub(1 + behind);
        snapshots[at].clone()
    };
    let result = match method.as_str() {
        "getNetwork" => json!({ "passphrase": server.ledger.passphrase(), "protocolVersion": 23 }),
        "getHealth" => json!({ "status": "healthy", "latestLedger": seen.header.ledger_seq, "oldestLedger": 1,
            "ledgerRetentionWindow": 120_960 }),
        "getLatestLedger" => json!({
            "id": "00", "protocolVersion": 23, "sequence": seen.header.ledger_seq,
            "closeTime": seen.header.scp_value.close_time.0.to_string(),
            "headerXdr": seen.header.to_xdr_base64(Limits::none()).unwrap(),
            "metadataXdr": "",
        }),
        "getLedgerEntries" => entries(&call, &seen),
        "getTransaction" => transaction(&server, &faults, &call, &seen),
        "sendTransaction" => {
            let sent = send(&server, &faults, &call, &seen);
            if faults.gateway_timeout {
                return (StatusCode::GATEWAY_TIMEOUT, "").into_response();
            }
            sent
        }
        "getFeeStats" => {
            let fee = if faults.hides_surge { 100 } else { faults.surge.max(100) }.to_string();
            let stats = json!({ "max": fee, "min": "100", "mode": "100", "p10": "100", "p50": fee, "p90": fee, "p99": fee,
                "transactionCount": "10", "ledgerCount": 50 });
            json!({ "sorobanInclusionFee": stats.clone(), "inclusionFee": stats, "latestLedger": seen.header.ledger_seq })
        }
        _ => {
            let error = json!({ "code": -32601, "message": "method not found" });
            return axum::Json(json!({ "jsonrpc": "2.0", "id": call["id"], "error": error })).into_response();
        }
    };
    axum::Json(json!({ "jsonrpc": "2.0", "id": call["id"], "result": result })).into_response()
}

fn entries(call: &Value, seen: &Snapshot) -> Value {
    let keys = call["params"]["keys"].as_array().unwrap();
    assert!(keys.len() <= 200);
    let found: Vec<Value> = keys
        .iter()
        .filter_map(|key| {
            let key = key.as_str().unwrap();
            let entry = seen.entries.get(key)?;
            Some(json!({
                "key": key,
                "xdr": entry.data.to_xdr_base64(Limits::none()).unwrap(),
                "lastModifiedLedgerSeq": entry.last_modified_ledger_seq,
                "extXdr": entry.ext.to_xdr_base64(Limits::none()).unwrap(),
            }))
        })
        .collect();
    // Real servers answer null in place of an empty list.
    let found = if found.is_empty() {
        Value::Null
    } else {
        Value::from(found)
    };
    json!({ "entries": found, "latestLedger": seen.header.ledger_seq })
}

fn transaction(server: &Server, faults: &Faults, call: &Value, seen: &Snapshot) -> Value {
    let mut hash = [0; 32];
    hex::decode_to_slice(call["params"]["hash"].as_str().unwrap(), &mut hash).unwrap();
    let latest = seen.header.ledger_seq;
    let oldest = match faults.retention {
        0 => 2,
        keeps => latest.saturating_sub(keeps).max(2),
    };
    let oldest_time = server
        .ledger
        .ledger(oldest)
        .unwrap()
        .map_or(0, |ledger| ledger.header.scp_value.close_time.0);
    let found = server
        .ledger
        .transaction(&hash)
        .unwrap()
        .filter(|record| (oldest..=latest).contains(&record.ledger()))
        .filter(|_| !faults.denies_all && !faults.denies.contains(&hash));
    let mut answer = json!({
        "status": "NOT_FOUND",
        "latestLedger": latest,
        "latestLedgerCloseTime": seen.header.scp_value.close_time.0.to_string(),
        "oldestLedger": oldest,
        "oldestLedgerCloseTime": oldest_time.to_string(),
    });
    if let Some(record) = found {
        answer["status"] = if record.successful { "SUCCESS" } else { "FAILED" }.into();
        answer["txHash"] = call["params"]["hash"].clone();
        answer["applicationOrder"] = 1.into();
        answer["feeBump"] = record.inner_hash.is_some().into();
        answer["envelopeXdr"] = BASE64.encode(&record.envelope).into();
        answer["resultXdr"] = BASE64.encode(&record.result).into();
        answer["resultMetaXdr"] = BASE64.encode(&record.meta).into();
        answer["ledger"] = record.ledger().into();
        answer["createdAt"] = record.close_time.to_string().into();
    }
    answer
}

fn send(server: &Server, faults: &Faults, call: &Value, seen: &Snapshot) -> Value {
    let envelope = BASE64.decode(call["params"]["transaction"].as_str().unwrap()).unwrap();
    let hash = server.ledger.hash_of(&envelope).unwrap();
    let status = |status: &str| {
        json!({ "status": status, "hash": hex::encode(hash), "latestLedger": seen.header.ledger_seq,
            "latestLedgerCloseTime": seen.header.scp_value.close_time.0.to_string() })
    };
    let error = |result: &xdr::TransactionResult| {
        let mut answer = status("ERROR");
        answer["errorResultXdr"] = result.to_xdr_base64(Limits::none()).unwrap().into();
        answer
    };
    if faults.surge > 0 {
        let tx = xdr::TransactionEnvelope::from_xdr(&envelope, Limits::none()).unwrap();
        let (fee, operations) = match &tx {
            xdr::TransactionEnvelope::TxFeeBump(bump) => {
                let xdr::FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
                (bump.tx.fee, inner.tx.operations.len() as i64 + 1)
            }
            xdr::TransactionEnvelope::Tx(tx) => (i64::from(tx.tx.fee), tx.tx.operations.len() as i64),
            xdr::TransactionEnvelope::TxV0(_) => panic!("nobody sends these"),
        };
        if fee < faults.surge * operations {
            return error(&xdr::TransactionResult {
                fee_charged: faults.surge * operations,
                result: xdr::TransactionResultResult::TxInsufficientFee,
                ext: xdr::TransactionResultExt::V0,
            });
        }
    }
    if faults.swallows {
        return status("PENDING");
    }
    if faults.holds {
        server.held.lock().unwrap().push(envelope);
        return status("TRY_AGAIN_LATER");
    }
    match server.ledger.submit(&envelope, server.clock.now()) {
        Submission::Pending { .. } => status("PENDING"),
        Submission::Duplicate { .. } => status("DUPLICATE"),
        Submission::TryAgainLater { .. } => status("TRY_AGAIN_LATER"),
        Submission::Rejected { result, .. } => error(&result),
        Submission::Malformed => panic!("not an envelope"),
    }
}
