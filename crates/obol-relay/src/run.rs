//! One whole relay from its configuration: keys, directory, data plane, payments, metrics.
//!
//! [`run`] is what `obol relay` does, and what a test network does for each of its relays, in one process or in many. What a
//! running relay is and where it is found stands in `running.json` in its data directory, for as long as it runs.

mod accounting;
mod publishing;
mod reload;
mod shown;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use obol_gateway::{Backend, Control, ControlError, Gateway, GatewayError, RecordsError};
use obol_onion::engine::{CELL_LEN, EngineConfig, UnpaidShare};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, Size, Unpaid};
use crate::directory::{Authority, ClientShare, DirCache, Directory};
use crate::keys::{KeyError, Keys};
use crate::metrics::{Metric, Metrics};
use crate::payments::{self, Payments};
use crate::reach::{Reachability, SelfTest};
use crate::relay::{self, EngineHandle, Relay, RelayHandle, RelayParts, payment_channel};
use crate::streams::ExitConfig;
use publishing::Announcement;
use shown::Shown;

pub use reload::ReloadError;

use accounting::Account;

/// How often a relay that ends looks whether it still has circuits.
const LOOK: Duration = Duration::from_millis(100);

/// The file in the data directory that tells where a running relay is found.
pub const RUNNING: &str = "running.json";

/// The directory in the data directory that keeps the network's documents.
const DOCUMENTS: &str = "directory";

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be made or written.
    #[error(
        "{} cannot be made or written: {source}. Check the owner, the permissions and the free space of data_directory",
        path.display()
    )]
    DataDirectory {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The relay's keys cannot be read or made.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The data plane does not start.
    #[error(transparent)]
    Relay(#[from] relay::StartError),
    /// Payments do not start.
    #[error(transparent)]
    Payments(#[from] payments::StartError),
    /// The local interface does not start.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// What the local interface keeps cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The runtime ended meanwhile.
    #[error("the program is ending")]
    Ending,
}

/// A relay that runs. Dropped without [`shutdown`](RunningRelay::shutdown), it stops, but not at once.
#[derive(Debug)]
pub struct RunningRelay {
    relay: RelayHandle,
    /// What the relay answers directory requests from.
    cache: DirCache,
    payments: Option<Payments>,
    gateway: Option<Gateway>,
    /// What the gateway shows.
    shown: Option<Arc<Shown>>,
    directory: Arc<Directory>,
    keys: Arc<Keys>,
    announcement: Option<Arc<Announcement>>,
    /// Whether others reach it.
    self_test: Option<Arc<SelfTest>>,
    tasks: Vec<JoinHandle<()>>,
    /// The configuration in force.
    settings: watch::Sender<Arc<Config>>,
    account: Arc<Mutex<Account>>,
    /// It is asked to end.
    leaving: CancellationToken,
    running: PathBuf,
    /// `running.json` is ours.
    announced: bool,
}

/// Starts a relay. Needs a tokio runtime; returns when links and payments are accepted. The descriptor is uploaded after
/// that, and again until an authority takes it.
pub fn run(config: Config) -> BoxFuture<'static, Result<RunningRelay, RunError>> {
    // Boxed, as the long ones below: what it runs is compiled with this crate, and not again with everything that calls it.
    bring_up(config).boxed()
}

async fn bring_up(config: Config) -> Result<RunningRelay, RunError> {
    config.check()?;
    // A process has one; whoever installed another before keeps that.
    let _ = rustls::crypto::ring::default_provider().install_default();
    make_private(&config.data_directory)?;
    let keys = {
        let path = config.path(Path::new("keys"));
        let opened = tokio::task::spawn_blocking(move || Keys::open(&path, SystemTime::now())).await;
        opened.map_err(|_| RunError::Ending)??
    };
    let account = {
        let (path, accounting) = (config.path(Path::new(accounting::FILE)), config.accounting.clone());
        Account::open(path, &accounting, keys.ed25519(), SystemTime::now())?
    };
    let directory = Arc::new(Directory::start_with(
        authorities(&config),
        Some(config.path(Path::new(DOCUMENTS))),
    ));
    let cache = directory
        .cache()
        .sharing(client_share(&config))
        .keeping(config.memory.onion_descriptors.bytes());
    let (sink, events) = payment_channel();
    let relay = Relay::start(RelayParts {
        keys: Arc::clone(&keys),
        listen: [Some(config.or.listen), config.or.ipv6_listen.map(SocketAddr::V6)]
            .into_iter()
            .flatten()
            .collect(),
        advertised: advertised(&config),
        engine: engine_config(&config),
        exit: exit_config(&config)?,
        directory: Some(cache.clone()),
        net: Some(directory.view()),
        payments: config.payments.as_ref().map(|_| sink),
    })
    .await?;
    relay.set_overrides(config.defence.overrides());
    let mut running = RunningRelay {
        relay,
        cache,
        payments: None,
        gateway: None,
        shown: None,
        directory,
        keys,
        announcement: None,
        self_test: None,
        tasks: Vec::new(),
        settings: watch::channel(Arc::new(config.clone())).0,
        account: Arc::new(Mutex::new(account)),
        leaving: CancellationToken::new(),
        running: config.path(Path::new(RUNNING)),
        announced: false,
    };
    match finish(&mut running, config, events).await {
        Ok(()) => Ok(running),
        Err(error) => {
            running.shutdown().await;
            Err(error)
        }
    }
}

/// What comes after the data plane, all of which is undone if a part of it fails.
async fn finish(running: &mut RunningRelay, config: Config, events: relay::PaymentEvents) -> Result<(), RunError> {
    let metrics = Arc::new(crate::metrics::metrics());
    let engine = running.relay.engine();
    if let Some(of_payments) = &config.payments {
        let parts = payments::Parts {
            config: of_payments.clone(),
            bandwidth: config.bandwidth.clone(),
            data_directory: config.data_directory.clone(),
            identity: running.keys.ed25519(),
            plane: Arc::new(engine.clone()),
            events,
            net: running.directory.view(),
            metrics: Arc::clone(&metrics),
        };
        running.payments = Some(payments::start(parts).await?);
    }
    let announcement = Announcement::new(&config, running.addresses(), &running.keys, &running.directory)?;
    let self_test = SelfTest::new(
        Arc::clone(&running.keys),
        announcement.subject(),
        running.directory.view(),
        engine.clone(),
    );
    if let Some(listen) = config.gateway.listen {
        let options = obol_gateway::Options {
            listen,
            allow_remote: config.gateway.allow_remote,
            token: config.path(&config.gateway.token),
        };
        let about = About {
            settings: running.settings.subscribe(),
            fingerprint: hex::encode_upper(running.keys.fingerprint()),
            engine: engine.clone(),
            payments: running.payments.clone(),
            metrics: Arc::clone(&metrics),
            directory: Arc::clone(&running.directory),
            keys: Arc::clone(&running.keys),
            self_test: Arc::clone(&self_test),
            cache: running.cache.clone(),
            announcement: Arc::clone(&announcement),
        };
        let about = Arc::new(about);
        let shown = Shown::open(Arc::clone(&about), &config.data_directory)?;
        running.tasks.push(tokio::spawn(Arc::clone(&shown).follow()));
        running.shown = Some(Arc::clone(&shown));
        running.gateway = Some(Gateway::start(options, backend(about, shown)).await?);
    }
    running.announcement = Some(Arc::clone(&announcement));
    running.self_test = Some(Arc::clone(&self_test));
    running
        .tasks
        .push(tokio::spawn(Arc::clone(&announcement).measure(engine)));
    let keeper = accounting::Keeper {
        account: Arc::clone(&running.account),
        settings: running.settings.subscribe(),
        relay: running.relay.clone(),
        announcement: Arc::clone(&announcement),
        leaving: running.leaving.clone(),
    };
    // Before anybody is told of a relay that may have carried all it may.
    let awake = keeper.start();
    running.tasks.push(tokio::spawn(keeper.run(awake)));
    if let Some(payments) = running.payments.clone() {
        running
            .tasks
            .push(tokio::spawn(Arc::clone(&announcement).retract(payments)));
    }
    if config.directory.publish {
        running.tasks.push(tokio::spawn(Arc::clone(&announcement).publish()));
        running.tasks.push(tokio::spawn(Arc::clone(&self_test).run()));
        let settings = running.settings.subscribe();
        let testing = Arc::clone(&announcement).test_bandwidth(self_test, settings);
        running.tasks.push(tokio::spawn(testing));
    }
    running.tasks.push(tokio::spawn(Arc::clone(&announcement).follow()));
    running.tasks.push(tokio::spawn(publishing::renew(
        Arc::clone(&running.keys),
        Arc::clone(&running.directory),
    )));
    running.announce()
}

impl RunningRelay {
    /// Where it accepts links, with real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.relay.addresses()
    }

    /// Where its local interface listens, if it has one.
    pub fn gateway_address(&self) -> Option<SocketAddr> {
        self.gateway.as_ref().map(Gateway::address)
    }

    /// SHA-1 of its RSA identity key: its fingerprint.
    pub fn rsa(&self) -> [u8; 20] {
        self.keys.fingerprint()
    }

    /// Its Ed25519 identity.
    pub fn ed(&self) -> [u8; 32] {
        self.keys.ed25519()
    }

    /// Its data plane.
    pub fn engine(&self) -> EngineHandle {
        self.relay.engine()
    }

    /// Its directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Its payments, if it is configured for any.
    pub fn payments(&self) -> Option<&Payments> {
        self.payments.as_ref()
    }

    /// Whether others reach it where its descriptor says.
    pub fn reachability(&self) -> Reachability {
        self.self_test
            .as_ref()
            .map_or(Reachability::Unknown, |self_test| self_test.state())
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.settings.borrow())
    }

    /// Before [`shutdown`](Self::shutdown), as C Tor does on SIGTERM: accepts no more links and circuits (CREATE is answered
    /// with DESTROY, reason HIBERNATING), waits until those that are open have ended, at most for `shutdown_wait`, and
    /// then, again at most for so long, until the ledger has what must not wait for the next start
    /// ([`Payments::settle`]). May be given up at any moment: nothing is lost by that but time.
    pub fn wind_down(&self) -> BoxFuture<'_, ()> {
        self.finish_what_is_open().boxed()
    }

    async fn finish_what_is_open(&self) {
        self.leaving.cancel();
        self.relay.sleep(true);
        let config = self.config();
        let wait = config.shutdown_wait.0;
        let engine = self.engine();
        let circuits = || engine.counters().circuits.iter().sum::<u64>();
        let ended = async {
            while circuits() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(wait, ended).await.is_err() {
            tracing::info!(circuits = circuits(), "circuits are still open; they are closed now");
        }
        if let (Some(payments), Some(of_payments)) = (&self.payments, &config.payments) {
            let settled = payments.settle(of_payments.escrows.shutdown_flush.0);
            if tokio::time::timeout(wait, settled).await.is_err() {
                tracing::warn!("the ledger has not answered to everything yet; the next start goes on with that");
            }
        }
    }

    /// Stops everything, in order: no new circuits, links closed, what was under way on the ledger left for the next
    /// start, the journal let go.
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        self.bring_down().boxed()
    }

    async fn bring_down(mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks.drain(..) {
            // Aborted, or ended before.
            let _ = task.await;
        }
        if let Some(gateway) = self.gateway.take() {
            gateway.stop().await;
        }
        if let Some(shown) = self.shown.take() {
            shown.save().await;
        }
        self.relay.shutdown().await;
        self.account
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .save_or_say();
        if let Some(payments) = self.payments.take() {
            payments.stop().await;
        }
        if let Some(announcement) = self.announcement.take() {
            announcement.save().await;
        }
        // One that did not start must not hide another that runs on the same files.
        if self.announced
            && let Err(error) = std::fs::remove_file(&self.running)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "{} cannot be removed", self.running.display());
        }
    }

    /// Writes `running.json`.
    fn announce(&mut self) -> Result<(), RunError> {
        let about = json!({
            "pid": std::process::id(),
            "or": self.addresses().first().map(ToString::to_string),
            "gateway": self.gateway_address().map(|address| address.to_string()),
            "fingerprint": hex::encode_upper(self.rsa()),
            "ed25519": hex::encode(self.ed()),
            "accounts": self.payments.as_ref().map(Payments::accounts),
        });
        // Whoever waits for the file must never see half of it.
        let draft = self.running.with_extension("json.new");
        let failed = |source| RunError::DataDirectory {
            path: self.running.clone(),
            source,
        };
        std::fs::write(&draft, format!("{about:#}\n")).map_err(failed)?;
        std::fs::rename(&draft, &self.running).map_err(failed)?;
        self.announced = true;
        Ok(())
    }
}

fn make_private(directory: &Path) -> Result<(), RunError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|source| RunError::DataDirectory {
        path: directory.into(),
        source,
    })
}

fn unpaid_share(unpaid: Unpaid, cap: Size) -> UnpaidShare {
    match unpaid {
        Unpaid::Leftover => UnpaidShare::Leftover,
        Unpaid::Capped => UnpaidShare::Capped(cap.bytes()),
    }
}

fn authorities(config: &Config) -> Vec<Authority> {
    let all = config.directory.authorities.iter().map(|authority| Authority {
        name: authority.name.clone(),
        address: authority.address,
        v3_identity: authority.v3_identity.0,
    });
    all.collect()
}

fn client_share(config: &Config) -> ClientShare {
    ClientShare {
        bucket: config.bandwidth.directory_per_address.bytes(),
        refill: config.bandwidth.directory_refill.bytes(),
    }
}

/// The addresses in the descriptor, IPv4 first; none if they are those that the relay listens on.
fn advertised(config: &Config) -> Vec<SocketAddr> {
    let or = &config.or;
    if or.advertise.is_none() && or.ipv6_advertise.is_none() {
        return Vec::new();
    }
    let ipv4 = or.advertise.unwrap_or(or.listen);
    let ipv6 = or.ipv6().map(SocketAddr::V6);
    [Some(ipv4), ipv6].into_iter().flatten().collect()
}

fn exit_config(config: &Config) -> Result<ExitConfig, ConfigError> {
    Ok(ExitConfig {
        policy: config.exit_policy()?,
        reject_private: config.exit.reject_private,
        ipv6: config.exit.ipv6,
        ..ExitConfig::closed()
    })
}

fn engine_config(config: &Config) -> EngineConfig {
    let bandwidth = &config.bandwidth;
    EngineConfig {
        rate: bandwidth.rate.map(Size::bytes),
        burst: bandwidth.burst.map_or(0, Size::bytes),
        unpaid: unpaid_share(bandwidth.unpaid, bandwidth.unpaid_cap),
        cell_memory: cell_memory(config),
        allow_private_addresses: config.or.allow_private_addresses,
        ..EngineConfig::default()
    }
}

fn cell_memory(config: &Config) -> usize {
    usize::try_from(config.memory.cells.bytes()).unwrap_or(usize::MAX)
}

/// Unix seconds.
fn unix(time: Option<SystemTime>) -> Option<u64> {
    let since = time?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// What the local interface shows.
struct About {
    settings: watch::Receiver<Arc<Config>>,
    fingerprint: String,
    engine: EngineHandle,
    payments: Option<Payments>,
    metrics: Arc<Metrics>,
    directory: Arc<Directory>,
    keys: Arc<Keys>,
    self_test: Arc<SelfTest>,
    cache: DirCache,
    announcement: Arc<Announcement>,
}

fn backend(about: Arc<About>, shown: Arc<Shown>) -> Backend {
    let (of_metrics, of_state) = (Arc::clone(&about), Arc::clone(&about));
    let control: Control = Arc::new(move |name, body| {
        let about = Arc::clone(&about);
        let done: obol_gateway::BoxFuture<_> = Box::pin(async move { about.control(&name, &body).await });
        done
    });
    Backend {
        metrics: Arc::new(move || of_metrics.render()),
        state: Arc::new(move || of_state.state()),
        control: Some(control),
        subject: Some(shown),
    }
}

impl About {
    /// What `/metrics` shows.
    fn render(&self) -> String {
        let (served, refused) = self.cache.counted();
        self.metrics.set(Metric::DirectoryBytes, &[], served);
        self.metrics.set(Metric::DirectoryRefused, &[], refused);
        let door = self.engine.door();
        self.metrics.set(Metric::LinkHandshakes, &[], door.handshakes);
        self.metrics.set(Metric::LinkHandshakesCut, &[], door.cut);
        for (why, refused) in [
            ("handshakes", door.refused_handshakes),
            ("concurrent", door.refused_concurrent),
            ("rate", door.refused_rate),
        ] {
            self.metrics.set(Metric::LinksRefused, &[why], refused);
        }
        let snapshot = self.directory.view().snapshot();
        self.metrics.set(
            Metric::ConsensusValidAfter,
            &[],
            unix(snapshot.valid_after).unwrap_or(0),
        );
        let hibernating = self.announcement.is_hibernating();
        self.metrics.set(Metric::Hibernating, &[], hibernating.into());
        let counters = self.engine.counters();
        self.metrics.render(|metrics| crate::metrics::copy(metrics, &counters))
    }

    /// What `/state` shows; amounts in stroops, bytes of cells of 514.
    fn state(&self) -> Value {
        let counters = self.engine.counters();
        let class = |class: usize| {
            counters.cells[class]
                .iter()
                .sum::<u64>()
                .saturating_mul(CELL_LEN as u64)
        };
        let (paid, unpaid) = (class(0), class(1));
        let payments = self.payments.as_ref().map(Payments::state);
        let sums = payments.as_ref().map(|state| state.sums).unwrap_or_default();
        let m = |metric, labels: &[&str]| self.metrics.get(metric, labels);
        let refusals: u64 = crate::metrics::REFUSALS
            .iter()
            .map(|code| m(Metric::Refusals, &[code]))
            .sum();
        let ledger = payments.as_ref().and_then(|state| state.ledger);
        let snapshot = self.directory.view().snapshot();
        let onion_services = self.cache.onion_services();
        let standings = self.directory.standings().borrow().clone();
        json!({
            "nickname": self.settings.borrow().nickname,
            "fingerprint": self.fingerprint,
            "relays_known": snapshot.relays().len(),
            // Unix seconds.
            "consensus_valid_after": unix(snapshot.valid_after),
            "reachable": match self.self_test.state() {
                Reachability::Unknown => Value::Null,
                reachability => json!(reachability == Reachability::Reachable),
            },
            "authorities": standings.iter().map(|standing| json!({
                "name": standing.authority,
                "has_our_descriptor": standing.has_it,
                "problem": standing.problem,
            })).collect::<Vec<_>>(),
            "onion_descriptors": { "held": onion_services.descriptors, "bytes": onion_services.bytes },
            "class_bytes": { "paid": paid, "unpaid": unpaid },
            "circuits_now": { "paid": counters.circuits[0], "unpaid": counters.circuits[1] },
            "links_now": counters.links,
            "totals": {
                "metered_bytes_paid": paid,
                "metered_bytes_unpaid": unpaid,
                "claimed_stroops": sums.claimed,
                "earned_stroops": sums.earned,
                "forwarded_stroops": sums.forwarded,
                "signed_stroops": sums.signed,
                "returned_stroops": sums.returned,
                "settled_in_stroops": sums.settled_in,
                "settled_out_stroops": sums.settled_out,
                "owed_to_us_stroops": sums.owed_to_us,
                "owed_to_us_settled_stroops": sums.owed_to_us_settled,
                "owed_stroops": sums.owed,
                "owed_paid_stroops": sums.owed_paid,
                "initial_credit_bytes": m(Metric::InitialCredit, &[]),
                "payments": m(Metric::Payments, &["client"]) + m(Metric::Payments, &["relay"]),
                "refusals": refusals,
                "link_payment_bytes_sent": m(Metric::LinkMessageBytes, &[]),
                "payment_cells": counters.payment_cells.iter().sum::<u64>(),
            },
            "circuits": payments.as_ref().map(|state| &state.circuits),
            "escrows": payments.as_ref().map(|state| &state.escrows),
            "accounts": payments.as_ref().map(|state| &state.accounts),
            "books": payments.as_ref().map(|state| {
                let books = state.books.iter();
                // Balances are far from the limits of 64 bits; a JSON number has no more.
                books.map(|(name, balance)| (name.clone(), json!(i64::try_from(*balance).unwrap_or(i64::MAX))))
                    .collect::<serde_json::Map<_, _>>()
            }),
            "payments_stopped": payments.as_ref().map(|state| state.stopped),
            "ledger": ledger.map(|(sequence, close_time)| json!({ "sequence": sequence, "close_time": close_time })),
        })
    }

    /// | command | body | does |
    /// |---|---|---|
    /// | `rate` | `{"bytes_per_second": n or null}` | sets the rate that all links share |
    /// | `unpaid` | `{"mode": "leftover" or "capped", "cap": n}` | sets what circuits without credit get, bytes a second |
    /// | `close-escrows` | | flushes all escrows that pay us, asks the payees of ours to flush |
    /// | `step` | | looks at the ledger now |
    /// | `audit` | | checks the books against the facts |
    /// | `rotate-keys` | `{"signing": bool, "onion": bool, "links": bool}`, or nothing for all three | renews these keys now, and publishes |
    async fn control(&self, name: &str, body: &Value) -> Result<Value, ControlError> {
        if name == "rotate-keys" {
            return publishing::rotate_keys(&self.keys, &self.directory, body).await;
        }
        let payments = self
            .payments
            .as_ref()
            .ok_or(ControlError::NotNow("this relay is configured without payments"));
        match name {
            "rate" => {
                let rate = match &body["bytes_per_second"] {
                    Value::Null if body.get("bytes_per_second").is_some() => None,
                    Value::Number(n) => Some(n.as_u64().filter(|n| *n >= 16_384).ok_or(BAD_RATE)?),
                    _ => return Err(BAD_RATE),
                };
                self.engine.set_rate(rate);
                Ok(json!({ "bytes_per_second": rate }))
            }
            "unpaid" => {
                let share = match (body["mode"].as_str(), body["cap"].as_u64()) {
                    (Some("leftover"), _) => UnpaidShare::Leftover,
                    (Some("capped"), Some(cap)) if cap >= 16_384 => UnpaidShare::Capped(cap),
                    _ => return Err(BAD_UNPAID),
                };
                self.engine.set_unpaid(share);
                Ok(json!({ "mode": body["mode"], "cap": body["cap"] }))
            }
            "close-escrows" => {
                payments?.close_all().await;
                Ok(json!({ "closing": true }))
            }
            "step" => {
                payments?.step().await;
                Ok(json!({ "stepped": true }))
            }
            "audit" => {
                let verdict = payments?.audit().await;
                Ok(json!({ "ok": verdict.is_ok(), "error": verdict.err().map(|error| error.to_string()) }))
            }
            _ => Err(ControlError::Unknown),
        }
    }
}

const BAD_RATE: ControlError = ControlError::Body("`bytes_per_second` is a number of at least 16384, or null");
const BAD_UNPAID: ControlError =
    ControlError::Body("`mode` is \"leftover\", or \"capped\" with a `cap` of at least 16384");
