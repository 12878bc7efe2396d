//! Being paid and paying: drives obol-toll's state machine of a relay with the data plane, the journal and the ledger.
//!
//! | file | subject |
//! |---|---|
//! | `driver.rs`, `driver/` | the one task that owns the state machine: inputs translated, outputs done |
//! | `work.rs` | what is asked of the ledger: read, flush, open, refund, sweep, merge |
//! | `accounts.rs` | what the relay's own accounts have |
//! | `funding.rs` | the one-time accounts that escrows are opened from |
//! | `owing.rs` | what is owed instead of secured: who may, payments of it, looking them up |
//! | `plane.rs` | what is needed of the data plane |
//! | `view.rs`, `events.rs` | what people see |
//! | `clock.rs` | the later of the own clock and the ledger's |
//!
//! Decisions about money are obol-toll's alone. Here is *when*: outputs that promise something come out of the state machine
//! only after the journal has what they follow from; questions to the ledger are tasks, a few at a time; what was
//! submitted is recorded first and looked for after a restart.

mod accounts;
mod clock;
mod driver;
mod events;
mod funding;
mod owing;
mod plane;
mod purse;
mod view;
mod work;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use obol_cell::{
    AccountId, Asset, EscrowId, EscrowRules, ForwardPpm, PeerId, PricePer64KiB, Step, Stroops, Tariff, UnitError,
};
use obol_stellar::check::Belief;
use obol_stellar::escrow::{EscrowSecret, PayerSecret};
use obol_stellar::key::{KeyFileError, account_text};
use obol_stellar::keys::{EscrowPayee, EscrowPayer, RelayKeys};
use obol_stellar::rail::RailError;
use obol_stellar::rail::horizon::{BadUrl, Timeouts};
use obol_stellar::rail::many::Many;
use obol_stellar::settle::Policy;
use obol_stellar::{Connect, Keypair, Network, Outbox, Rail, RailConfig, Settler, Tcp};
use obol_store::{Account, AuditError, Journal, OpenError, StoreError};
use obol_toll::fact::NodeFact;
use obol_toll::node::{Limits, Node, NodeConfig, TrustConfig};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::directory::NetView;
use crate::metrics::Metrics;
use driver::{Command, Driver};
use funding::Funding;
use work::{NONCE, WOUND_UP, Work};

pub use events::Event;
pub use owing::SettingsError;
pub use plane::{DataPlane, Events};
pub use purse::RelayPurse;
pub use view::{Circuit, Direction, EscrowView, NeighbourView, Standing, Sums, View};

/// What payments are made of.
pub struct Parts<E> {
    /// Prices, terms, ledger, accounts.
    pub config: config::Payments,
    /// Initial credit, and the rate that 1 % of is a relay neighbour's.
    pub bandwidth: config::Bandwidth,
    /// Where relative paths of the configuration begin.
    pub data_directory: PathBuf,
    /// This relay's Ed25519 identity.
    pub identity: [u8; 32],
    /// The data plane's calls.
    pub plane: Arc<dyn DataPlane>,
    /// The data plane's events.
    pub events: E,
    /// The network: who takes payments.
    pub net: NetView,
    /// Where is counted.
    pub metrics: Arc<Metrics>,
}

/// Why payments do not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The journal cannot be read or written.
    #[error("the journal {path}: {source}")]
    Store {
        /// The journal.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// An account's key file cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// A ledger's URL is none.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// Settings that cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The ledger's server serves another network, or is no ledger's server.
    #[error("the ledger: {0}")]
    Ledger(RailError),
}

/// Starts payments: opens the journal, reads the keys, and goes on where the last run ended. Needs a tokio runtime.
///
/// A ledger that cannot be reached now is no error; money moves when it can.
pub async fn start<E: Events>(parts: Parts<E>) -> Result<Payments, StartError> {
    let Parts {
        config,
        bandwidth,
        data_directory,
        identity,
        plane,
        events,
        net,
        metrics,
    } = parts;
    let identity = PeerId(identity);
    let path = data_directory.join(&config.journal);
    let options = obol_store::Options {
        max_bytes: config.journal_limit.map(config::Size::bytes),
        ..obol_store::Options::default()
    };
    let opened = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || Journal::<NodeFact>::open_with(&path, options)).await
    };
    // The only way to lose it is that the runtime ends.
    let (journal, facts) = opened.map_err(|_| StartError::Store {
        path: path.clone(),
        source: StoreError::Closed,
    })??;
    let store = |source| StartError::Store {
        path: path.clone(),
        source,
    };

    let network = Network::new(config.ledger.network_passphrase.clone());
    let asset = config.ledger.asset.asset();
    let keys = Keyring::open(&config, &data_directory, &journal, &network, store).await?;
    let rails = rails(&config.ledger)?;
    let many: Arc<dyn Rail> = Arc::new(Many::new(rails.clone()));
    match many.check_network().await {
        Ok(()) => {}
        Err(error @ (RailError::OtherNetwork { .. } | RailError::BadReply(_) | RailError::Refused { .. })) => {
            return Err(StartError::Ledger(error));
        }
        Err(error) => tracing::warn!(%error, "the ledger cannot be reached yet"),
    }

    let mut view = View::default();
    facts.iter().for_each(|fact| view.apply(fact));
    keys.add_nonces(&journal, &view).await.map_err(&store)?;
    let wound_up = keys.add_wound_up(&journal, &view).await.map_err(&store)?;

    let poll = config.ledger.poll.0;
    let outbox: Arc<dyn Outbox> = Arc::new(journal.clone());
    let two_witnesses_above = config
        .ledger
        .two_witnesses_above
        .map(|a| Stroops::new(a.stroops()))
        .transpose()
        .map_err(SettingsError::from)?;
    let policy = Policy {
        highest_fee: config.ledger.highest_fee,
        poll: poll.clamp(Duration::from_millis(100), Duration::from_secs(2)),
        two_witnesses_above,
        ..Policy::default()
    };
    let (told_sender, told) = mpsc::unbounded_channel();
    let halt = CancellationToken::new();
    let work = Arc::new(Work {
        rails,
        settler: Settler::new(many, outbox, network.clone(), policy),
        belief: Belief {
            allow_revocable_asset: config.ledger.allow_revocable_asset,
            two_witnesses_above,
            max_age: config.ledger.max_age.as_secs(),
        },
        payee: keys.payee.clone(),
        payer: keys.payer.clone(),
        payees: keys.payees,
        wound_up,
        capital: keys.capital,
        trust: keys.trust,
        without_trust_account: AtomicBool::new(false),
        funding: Funding::open(keys.payer.clone(), journal.clone())
            .await
            .map_err(&store)?,
        asset,
        highest_fee: config.ledger.highest_fee,
        poll,
        journal: journal.clone(),
        metrics: Arc::clone(&metrics),
        told: told_sender,
        hurry: tokio::sync::Notify::new(),
        ledger: watch::channel(0).0,
        stop: halt.child_token(),
        tasks: TaskTracker::new(),
        reads: Work::reads(),
    });
    let (opening, openings) = mpsc::unbounded_channel();
    work.spawn(|work| work.open(openings));
    // What was submitted before the last run ended: found, or submitted again.
    work.spawn(|work| async move {
        if let Err(error) = work.settler.resume().await {
            tracing::debug!(%error, "earlier submissions could not be looked for yet");
        }
    });

    let node_config = node_config(&config, &bandwidth, identity, network.id(), asset).map_err(SettingsError::from)?;
    let trusted = owing::trusted(&config, identity, work.trust.account())?;
    let node_keys = RelayKeys {
        payee: keys.payee,
        payer: keys.payer,
    };
    let node = Node::restore(node_config, node_keys, rand::random(), facts);
    let view = Arc::new(Mutex::new(view));
    let people = broadcast::channel(4096).0;
    let (stopped, stopped_seen) = watch::channel(None);
    let (head, head_seen) = watch::channel(None);
    let (command, commands) = mpsc::unbounded_channel();
    let driver = Driver::new(driver::Parts {
        node,
        identity,
        plane: Arc::clone(&plane),
        events,
        net,
        work: Arc::clone(&work),
        told,
        commands,
        openings: opening,
        view: Arc::clone(&view),
        people: people.clone(),
        stopped,
        head,
        peer_limit: peer_limit(&config.peers),
        trusted,
        halt: halt.clone(),
    });
    work.tasks.spawn(driver.run());
    work.tasks.close();
    let accounts = Accounts {
        payees: work.payees.iter().map(|key| account_text(&key.account())).collect(),
        capital: account_text(&work.capital.account()),
        trust: account_text(&work.trust.account()),
    };
    let shared = Shared {
        work,
        halt,
        view,
        people,
        command,
        stopped: stopped_seen,
        head: head_seen,
        journal,
        plane,
        accounts,
        identity,
        network: network.id(),
        asset,
    };
    Ok(Payments {
        shared: Arc::new(shared),
    })
}

/// The keys and secrets of a relay's money.
struct Keyring {
    payee: EscrowPayee,
    payer: EscrowPayer,
    payees: Vec<Keypair>,
    capital: Keypair,
    trust: Keypair,
}

impl Keyring {
    async fn open(
        config: &config::Payments,
        data_directory: &Path,
        journal: &Journal<NodeFact>,
        network: &Network,
        store: impl Fn(StoreError) -> StartError,
    ) -> Result<Keyring, StartError> {
        let load = |file: &Path| Keypair::load_or_create(&data_directory.join(file));
        let payees = config
            .accounts
            .payees
            .iter()
            .map(|file| load(file))
            .collect::<Result<Vec<_>, _>>()?;
        let capital = load(&config.accounts.capital)?;
        // Also where nobody owes anything: the list may change while the relay runs, and old debts are still paid.
        let trust = load(&config.accounts.trust)?;
        // In the journal, so that one file is the whole backup: without these no escrow can be flushed or taken back.
        let payee = root_secret(journal, "payee").await.map_err(&store)?;
        let payer = root_secret(journal, "payer").await.map_err(&store)?;
        Ok(Keyring {
            payee: EscrowPayee::new(EscrowSecret::from_bytes(payee)),
            payer: EscrowPayer::new(PayerSecret::from_bytes(payer), network.id()).with_trust_account(trust.clone()),
            payees,
            capital,
            trust,
        })
    }

    /// Adds the keys of escrows that are wound up and have not expired, and says which they are: their payees still give service for
    /// claims that were not used up. Those that have expired are forgotten.
    async fn add_wound_up(&self, journal: &Journal<NodeFact>, view: &View) -> Result<HashSet<EscrowId>, StoreError> {
        let mut wound_up = HashSet::new();
        let now = clock::own().secs();
        for (id, nonce) in journal.secrets(WOUND_UP).await? {
            let (Ok(id), Ok(nonce)) = (
                <[u8; 32]>::try_from(id.as_slice()),
                <[u8; 32]>::try_from(nonce.as_slice()),
            ) else {
                return Err(StoreError::Corrupt);
            };
            let known = view.escrow(&EscrowId(id));
            if known.is_some_and(|(out, _)| now < out.escrow.terms.expiry) {
                wound_up.insert(self.payer.add(&nonce));
            } else {
                journal.forget_secret(WOUND_UP, &id).await?;
            }
        }
        Ok(wound_up)
    }

    /// Adds the keys of all escrows of ours that still matter, and forgets those of offers that came to nothing: an escrow
    /// is opened only after its acceptance is a fact.
    async fn add_nonces(&self, journal: &Journal<NodeFact>, view: &View) -> Result<(), StoreError> {
        for (id, nonce) in journal.secrets(NONCE).await? {
            let (Ok(id), Ok(nonce)) = (
                <[u8; 32]>::try_from(id.as_slice()),
                <[u8; 32]>::try_from(nonce.as_slice()),
            ) else {
                return Err(StoreError::Corrupt);
            };
            let of_use = view
                .escrow(&EscrowId(id))
                .is_some_and(|(_, standing)| standing != Standing::Abandoned);
            if of_use {
                self.payer.add(&nonce);
            } else {
                journal.forget_secret(NONCE, &id).await?;
            }
        }
        Ok(())
    }
}

/// A secret of 32 bytes that the journal keeps; made the first time.
async fn root_secret(journal: &Journal<NodeFact>, which: &'static str) -> Result<[u8; 32], StoreError> {
    const KIND: &str = "root";
    let all = journal.secrets(KIND).await?;
    if let Some((_, secret)) = all.iter().find(|(id, _)| id == which.as_bytes()) {
        return secret.as_slice().try_into().map_err(|_| StoreError::Corrupt);
    }
    let secret: [u8; 32] = rand::random();
    journal.keep_secret(KIND, which.as_bytes(), &secret).await?;
    Ok(secret)
}

fn rails(ledger: &config::Ledger) -> Result<Vec<Arc<dyn Rail>>, BadUrl> {
    let config = RailConfig {
        kind: ledger.kind,
        network_passphrase: ledger.network_passphrase.clone(),
        urls: ledger.urls.clone(),
        friendbot: None,
        assets: vec![ledger.asset.clone()],
        requests_per_minute: ledger.requests_per_minute,
    };
    let connector: Arc<dyn Connect> = Arc::new(Tcp);
    config.servers(&connector, Timeouts::default())
}

/// To how many peers escrows are opened.
fn peer_limit(peers: &config::Peers) -> usize {
    if peers.open { peers.limit } else { 0 }
}

/// The state machine's settings.
fn node_config(
    config: &config::Payments,
    bandwidth: &config::Bandwidth,
    identity: PeerId,
    network: obol_cell::NetworkId,
    asset: Asset,
) -> Result<NodeConfig, UnitError> {
    let seconds = |span: config::Span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
    let millis = |span: config::Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
    let price = |stroops: i64| PricePer64KiB::new(u64::try_from(stroops).unwrap_or(0));
    let stroops = |amount: Option<config::Amount>| amount.map(|amount| Stroops::new(amount.stroops())).transpose();
    let escrows = &config.escrows;
    let tariff = Tariff {
        price: price(config.price_per_64_kib)?,
        forward_ppm: ForwardPpm::new(config.forward_ppm)?,
        forward_ceiling: price(config.forward_ceiling())?,
        max_step: Step::from_bytes(config.largest_step.bytes())?,
        network,
        asset,
        rules: EscrowRules {
            min_deposit: Stroops::new(escrows.min_deposit.stroops())?,
            min_life: seconds(escrows.shortest_life),
            max_life: seconds(escrows.longest_life),
            margin: seconds(escrows.margin),
        },
    };
    // Without a configured rate a relay neighbour gets what one client address gets.
    let rate = bandwidth.rate.map_or(
        bandwidth.initial_credit_refill.bytes().saturating_mul(100),
        config::Size::bytes,
    );
    Ok(NodeConfig {
        initial_credit: bandwidth.initial_credit.bytes(),
        address_bucket: bandwidth.initial_credit_per_address.bytes(),
        address_refill: bandwidth.initial_credit_refill.bytes(),
        escrows_per_minute: escrows.new_per_minute,
        deposit: Stroops::new(config.peers.deposit.stroops())?,
        life: seconds(config.peers.life),
        // What the next step of a busy circuit may need of the next hop's leg at once.
        reserve: tariff.forward_ceiling.cost(Step::FIRST).unwrap_or(Stroops::ZERO),
        max_deposit: stroops(config.peers.max_deposit)?,
        opening_jitter_ms: millis(config.peers.random_delay),
        opening_period_ms: millis(config.peers.batch_period),
        openings_per_batch: config.peers.batch_size,
        close_jitter_ms: millis(escrows.close_delay),
        flush_above: stroops(escrows.flush_above)?,
        pays_others: config.peers.open,
        limits: Limits {
            unsettled_of_payer: stroops(config.limits.unsettled_of_payer)?,
            unsettled: stroops(config.limits.unsettled)?,
            locked_with_peer: stroops(config.limits.locked_with_peer)?,
            locked: stroops(config.limits.locked)?,
            escrows_per_minute_of_one: config.limits.new_escrows_of_one,
        },
        trust: TrustConfig {
            max_unsettled: stroops(config.owing.max_unsettled)?.unwrap_or(Stroops::ZERO),
            max_owed: stroops(config.owing.max_owed)?.unwrap_or(Stroops::ZERO),
            period_ms: millis(config.owing.period),
            min_payment: Stroops::new(config.owing.min_payment.stroops())?,
        },
        ..NodeConfig::new(identity, tariff, rate)
    })
}

/// The accounts of a relay's money, as addresses (`G...`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accounts {
    /// What receives; each needs lumens. Trust lines are made once there are some.
    pub payees: Vec<String>,
    /// What escrows to other relays are funded from; needs lumens, a trust line and the asset.
    pub capital: String,
    /// What pays, and is paid, what is owed instead of secured by escrow; needed where somebody owes something.
    pub trust: String,
}

/// Everything at one moment, for people and programs that watch.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// The accounts.
    pub accounts: Accounts,
    /// Sums over the journal's life.
    pub sums: Sums,
    /// Escrows, those that have ended too.
    pub escrows: Vec<EscrowView>,
    /// Open circuits of this run, and closed ones that were paid for.
    pub circuits: Vec<Circuit>,
    /// Neighbour relays.
    #[serde(skip)]
    pub neighbours: BTreeMap<PeerId, NeighbourView>,
    /// The books: balances by account, debits less credits, stroops.
    pub books: Vec<(String, i128)>,
    /// The newest ledger that was seen: its number and close time, unix seconds.
    pub ledger: Option<(u32, u64)>,
    /// Whether payments have stopped because the journal failed.
    pub stopped: bool,
}

struct Shared {
    work: Arc<Work>,
    halt: CancellationToken,
    view: Arc<Mutex<View>>,
    people: broadcast::Sender<Event>,
    command: mpsc::UnboundedSender<Command>,
    stopped: watch::Receiver<Option<StoreError>>,
    head: watch::Receiver<Option<(u32, u64)>>,
    journal: Journal<NodeFact>,
    plane: Arc<dyn DataPlane>,
    accounts: Accounts,
    identity: PeerId,
    network: obol_cell::NetworkId,
    asset: Asset,
}

/// Running payments. Clones are the same; they run until [`Payments::stop`] or until the data plane ends.
#[derive(Clone)]
pub struct Payments {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Payments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payments")
            .field("accounts", &self.shared.accounts)
            .finish_non_exhaustive()
    }
}

impl Payments {
    /// The accounts that have to be funded.
    pub fn accounts(&self) -> &Accounts {
        &self.shared.accounts
    }

    /// Everything at this moment.
    pub fn state(&self) -> State {
        let books = self.shared.journal.balances();
        let view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        let circuits = view.metered_circuits(|circuit| {
            let circuit = obol_onion::engine::CircuitId::from_u64(circuit);
            Some((self.shared.plane.metered(circuit)?, self.shared.plane.credit(circuit)?))
        });
        State {
            accounts: self.shared.accounts.clone(),
            sums: view.sums(),
            escrows: view.escrows(),
            neighbours: view.neighbours(&circuits),
            circuits,
            ledger: *self.shared.head.borrow(),
            books: books
                .into_iter()
                .map(|(account, balance): (Account, i128)| (account.to_string(), balance))
                .collect(),
            stopped: self.shared.stopped.borrow().is_some(),
        }
    }

    /// One escrow, by its address.
    pub fn escrow(&self, address: &str) -> Option<EscrowView> {
        let id = EscrowId(account_id(address)?.0);
        let view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.one(&id)
    }

    /// What happens from now on. A receiver that falls far behind misses some.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.people.subscribe()
    }

    /// Flushes every escrow that pays us, asks the payees of ours to flush, and accepts and opens none until the next start;
    /// returns when that is under way. How each ends shows in [`Payments::state`].
    pub async fn close_all(&self) {
        let (done, asked) = oneshot::channel();
        let _ = self.shared.command.send(Command::CloseAll(done));
        let _ = asked.await;
    }

    /// Flushes this escrow that pays us (by its address), or all of them, now, and returns those that are being flushed.
    ///
    /// # Errors
    /// `None`: there is no such escrow in use, or payments have stopped.
    pub async fn flush(&self, escrow: Option<&str>) -> Option<Vec<String>> {
        let which = match escrow {
            None => None,
            Some(address) => Some(EscrowId(account_id(address)?.0)),
        };
        let (done, asked) = oneshot::channel();
        let _ = self.shared.command.send(Command::Flush(which, done));
        let flushing = asked.await.ok().flatten()?;
        Some(flushing.into_iter().map(|id| account_text(&AccountId(id.0))).collect())
    }

    /// What pays, and is paid, for services beyond circuits: the account of the capital.
    pub fn wallet(&self) -> obol_gateway::Wallet {
        obol_gateway::Wallet {
            settler: self.shared.work.settler.clone(),
            account: self.shared.work.capital.clone(),
            asset: self.shared.asset,
        }
    }

    /// The asset, and the network's passphrase.
    pub fn money(&self) -> (Asset, String) {
        (
            self.shared.asset,
            self.shared.work.settler.network().passphrase().to_owned(),
        )
    }

    /// What an account (`G...`) holds, as of a closed ledger; `None`: it is not on the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn holds(&self, account: &str) -> Result<Option<obol_stellar::wallet::Balances>, RailError> {
        let Some(account) = account_id(account) else {
            return Ok(None);
        };
        obol_stellar::wallet::balances(self.shared.work.settler.rail().as_ref(), account).await
    }

    /// Before an absence: flushes every escrow that pays us and expires within `within`, and returns when the journal has
    /// every fact and no flush is under way on the ledger. Claims on other escrows stay in the journal, and are as good at
    /// the next start.
    pub async fn settle(&self, within: Duration) {
        let before = std::time::SystemTime::now() + within;
        let before = before.duration_since(std::time::SystemTime::UNIX_EPOCH);
        let (done, asked) = oneshot::channel();
        let _ = self
            .shared
            .command
            .send(Command::Settle(before.map_or(0, |time| time.as_secs()), done));
        // Without a driver there is nothing under way.
        let _ = asked.await;
    }

    /// From now on these prices, escrow rules, peers, limits and initial credit hold, for new circuits and new escrows. Ledger,
    /// accounts and journal stay as they were.
    ///
    /// # Errors
    /// Settings that cannot be used; then nothing changes.
    pub fn reconfigure(&self, config: &config::Payments, bandwidth: &config::Bandwidth) -> Result<(), SettingsError> {
        let shared = &self.shared;
        let new = node_config(config, bandwidth, shared.identity, shared.network, shared.asset)?;
        let trusted = owing::trusted(config, shared.identity, shared.work.trust.account())?;
        let _ = shared
            .command
            .send(Command::Reconfigure(Box::new(new), peer_limit(&config.peers), trusted));
        Ok(())
    }

    /// Looks at the ledger now instead of at the next poll: at its clock, at our escrows, at what has expired. For tests
    /// and demonstrations that wind a ledger's clock.
    pub async fn step(&self) {
        let (done, asked) = oneshot::channel();
        let _ = self.shared.command.send(Command::Step(done));
        let _ = asked.await;
    }

    /// Waits until payments have stopped because the journal failed; never returns otherwise. From then on everything is
    /// refused, until [`Payments::stop`].
    pub async fn failed(&self) -> StoreError {
        let mut stopped = self.shared.stopped.clone();
        if let Ok(Some(error)) = stopped.wait_for(Option::is_some).await.map(|error| *error) {
            return error;
        }
        std::future::pending().await
    }

    /// Checks the books against the facts ([`Journal::audit`]).
    pub async fn audit(&self) -> Result<(), AuditError> {
        self.shared.journal.audit().await
    }

    /// Transactions that reached a final state on the ledger, for `ledger_transactions` of a report.
    pub async fn ledger_transactions(&self) -> Result<u64, StoreError> {
        let all = self.shared.journal.submissions().await?;
        let final_ones = all.iter().filter(|(_, outcome)| {
            matches!(
                outcome,
                Some(obol_stellar::outbox::Outcome::Applied { .. } | obol_stellar::outbox::Outcome::Failed { .. })
            )
        });
        Ok(final_ones.count() as u64)
    }

    /// Stops, and returns when every task has ended and the journal can be opened again (once all clones of this are
    /// gone). What was under way goes on at the next start.
    pub async fn stop(&self) {
        self.shared.halt.cancel();
        self.shared.work.tasks.wait().await;
    }
}

/// An account's id of its address, as [`Accounts`] has it.
pub fn account_id(address: &str) -> Option<AccountId> {
    obol_stellar::key::parse_account(address).ok()
}
