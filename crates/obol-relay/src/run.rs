//! One whole relay from its configuration: keys, directory, data plane, payments, metrics.
//!
//! [`run`] is what `obol relay` does, and what a test network does for each of its relays, in one process or in many. What a
//! running relay is and where it is found stands in `running.json` in its data directory, for as long as it runs.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use obol_gateway::{Backend, BoxFuture, Control, ControlError, Gateway, GatewayError};
use obol_onion::engine::{CELL_LEN, EngineConfig, UnpaidShare};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::config::{self, Config, ConfigError, Size, Unpaid};
use crate::descriptor::{self, Description, Publication};
use crate::directory::{Authority, ClientShare, DirCache, Directory, NetView, Occasion};
use crate::keys::{KeyError, Keys, OnionLifetime, Rotate};
use crate::metrics::{Metric, Metrics};
use crate::payments::{self, Payments};
use crate::relay::{self, EngineHandle, Relay, RelayHandle, RelayParts, payment_channel};
use crate::streams::ExitConfig;

/// The file in the data directory that tells where a running relay is found.
pub const RUNNING: &str = "running.json";

/// What a relay without a configured rate says of its bandwidth before it has measured any, bytes per second: with
/// nothing, nobody would select it.
const FLOOR: u64 = 1 << 20;
/// Over which time the carried bytes are averaged for the descriptor.
const MEASURE: Duration = Duration::from_secs(10);

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
    directory: Arc<Directory>,
    keys: Arc<Keys>,
    tasks: Vec<JoinHandle<()>>,
    running: PathBuf,
    /// `running.json` is ours.
    announced: bool,
}

/// Starts a relay. Needs a tokio runtime; returns when links and payments are accepted. The descriptor is uploaded after
/// that, and again until an authority takes it.
pub async fn run(config: Config) -> Result<RunningRelay, RunError> {
    config.check()?;
    // A process has one; whoever installed another before keeps that.
    let _ = rustls::crypto::ring::default_provider().install_default();
    make_private(&config.data_directory)?;
    let keys = {
        let path = config.path(Path::new("keys"));
        let opened = tokio::task::spawn_blocking(move || Keys::open(&path, SystemTime::now())).await;
        opened.map_err(|_| RunError::Ending)??
    };
    let authorities = config.directory.authorities.iter().map(|authority| Authority {
        name: authority.name.clone(),
        address: authority.address,
        v3_identity: authority.v3_identity.0,
    });
    let directory = Arc::new(Directory::start(authorities.collect()));
    let cache = directory.cache().sharing(ClientShare {
        bucket: config.bandwidth.directory_per_address.bytes(),
        refill: config.bandwidth.directory_refill.bytes(),
    });
    let (sink, events) = payment_channel();
    let relay = Relay::start(RelayParts {
        keys: Arc::clone(&keys),
        listen: vec![config.or.listen],
        advertised: config.or.advertise.map(|address| address.ip()).into_iter().collect(),
        engine: engine_config(&config),
        exit: ExitConfig {
            policy: config.exit_policy()?,
            reject_private: config.exit.reject_private,
            ..ExitConfig::closed()
        },
        directory: Some(cache.clone()),
        net: Some(directory.view()),
        payments: config.payments.as_ref().map(|_| sink),
    })
    .await?;
    let mut running = RunningRelay {
        relay,
        cache,
        payments: None,
        gateway: None,
        directory,
        keys,
        tasks: Vec::new(),
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
    let metrics = Arc::new(Metrics::new());
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
    if let Some(listen) = config.gateway.listen {
        let options = obol_gateway::Options {
            listen,
            allow_remote: config.gateway.allow_remote,
            token: config.path(&config.gateway.token),
        };
        let about = About {
            nickname: config.nickname.clone(),
            fingerprint: hex::encode_upper(running.keys.fingerprint()),
            engine: engine.clone(),
            payments: running.payments.clone(),
            metrics: Arc::clone(&metrics),
            directory: Arc::clone(&running.directory),
            keys: Arc::clone(&running.keys),
            cache: running.cache.clone(),
        };
        running.gateway = Some(Gateway::start(options, backend(Arc::new(about))).await?);
    }
    let measured = Arc::new(Measured::default());
    running.tasks.push(tokio::spawn(measure(engine, Arc::clone(&measured))));
    if let Some(payments) = running.payments.clone() {
        running.tasks.push(tokio::spawn(retract(
            payments,
            Arc::clone(&running.directory),
            Arc::clone(&measured),
        )));
    }
    if config.directory.publish {
        let publisher = publish(
            Arc::clone(&running.directory),
            Arc::clone(&running.keys),
            description(&config, running.addresses())?,
            measured,
        );
        running.tasks.push(tokio::spawn(publisher));
    }
    running.tasks.push(tokio::spawn(renew(
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

    /// Stops everything, in order: no new circuits, links closed, what was under way on the ledger left for the next
    /// start, the journal let go.
    pub async fn shutdown(mut self) {
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
        self.relay.shutdown().await;
        if let Some(payments) = self.payments.take() {
            payments.stop().await;
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

fn engine_config(config: &Config) -> EngineConfig {
    let bandwidth = &config.bandwidth;
    EngineConfig {
        rate: bandwidth.rate.map(Size::bytes),
        unpaid: unpaid_share(bandwidth.unpaid, bandwidth.unpaid_cap),
        cell_memory: usize::try_from(config.memory.cells.bytes()).unwrap_or(usize::MAX),
        allow_private_addresses: config.or.allow_private_addresses,
        ..EngineConfig::default()
    }
}

/// What the descriptor says, apart from what is measured.
fn description(config: &Config, listening: &[SocketAddr]) -> Result<Description, ConfigError> {
    let address = config.or.advertise.or_else(|| listening.first().copied());
    let Some(SocketAddr::V4(address)) = address else {
        return Err(config::not_ipv4());
    };
    let rate = config.bandwidth.rate.map_or(u64::MAX / 4, Size::bytes);
    Ok(Description {
        nickname: config.nickname.clone(),
        platform: format!("Obol {} on {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS),
        contact: config.contact.clone(),
        address: SocketAddrV4::new(*address.ip(), address.port()),
        ipv6: None,
        // Authorities read these as signed 32-bit numbers.
        bandwidth_rate: rate.min(i32::MAX.unsigned_abs().into()),
        bandwidth_burst: rate.min(i32::MAX.unsigned_abs().into()),
        bandwidth_observed: 0,
        uptime: Duration::ZERO,
        policy: config.exit_policy()?,
        ipv6_exit: false,
        protocols: match config.payments {
            Some(_) => descriptor::PROTOCOLS,
            None => descriptor::UNPAID_PROTOCOLS,
        },
    })
}

/// What a descriptor says that only the running relay knows.
#[derive(Debug, Default)]
struct Measured {
    /// The highest average of carried bytes a second, one direction.
    carried: AtomicU64,
    /// Payments have stopped.
    unpaid: AtomicBool,
}

impl Measured {
    /// The description with what only the running relay knows.
    fn complete(&self, about: &Description, uptime: Duration) -> Description {
        let mut about = about.clone();
        if self.unpaid.load(Ordering::Relaxed) {
            about.protocols = descriptor::UNPAID_PROTOCOLS;
        }
        // A configured rate is a promise; without one only what was seen counts.
        about.bandwidth_observed = if about.bandwidth_rate == u64::from(i32::MAX.unsigned_abs()) {
            self.carried.load(Ordering::Relaxed).clamp(FLOOR, about.bandwidth_rate)
        } else {
            about.bandwidth_rate
        };
        about.uptime = uptime;
        about
    }
}

/// Uploads the descriptor, and goes on to whenever it is due.
async fn publish(directory: Arc<Directory>, keys: Arc<Keys>, about: Description, measured: Arc<Measured>) {
    let started = Instant::now();
    let net = directory.view();
    let make = move |occasion: Occasion| {
        let onion = onion_lifetime(&net);
        if occasion.distinct {
            let tap = Rotate {
                tap: true,
                ..Rotate::default()
            };
            keys.rotate(SystemTime::now(), onion, tap)?;
        }
        let about = measured.complete(&about, started.elapsed());
        descriptor::build(&keys, onion, &about, occasion.now).map(Publication::from)
    };
    if let Err(error) = directory.publish_with(Arc::new(make)).await {
        tracing::warn!(%error, "the descriptor was not accepted yet; it is uploaded again");
    }
}

/// Once payments have failed: the descriptor no longer promises any.
async fn retract(payments: Payments, directory: Arc<Directory>, measured: Arc<Measured>) {
    // Said where it happened.
    let _ = payments.failed().await;
    measured.unpaid.store(true, Ordering::Relaxed);
    if let Err(error) = directory.publish().await {
        tracing::debug!(%error, "the descriptor without payments was not accepted yet; it is uploaded again");
    }
}

/// Keeps the highest average of carried bytes.
async fn measure(engine: EngineHandle, measured: Arc<Measured>) {
    let mut before = carried(&engine);
    loop {
        tokio::time::sleep(MEASURE).await;
        let now = carried(&engine);
        // Both directions are one way through the relay each: what a descriptor counts is half of it.
        let average = now.saturating_sub(before) / MEASURE.as_secs() / 2;
        measured.carried.fetch_max(average, Ordering::Relaxed);
        before = now;
    }
}

fn carried(engine: &EngineHandle) -> u64 {
    engine
        .counters()
        .cells
        .iter()
        .flatten()
        .sum::<u64>()
        .saturating_mul(CELL_LEN as u64)
}

/// How long onion keys live, as the consensus has it.
fn onion_lifetime(net: &NetView) -> OnionLifetime {
    let days = |name: &str, default: u32| net.param(name).map_or(default, |days| days.clamp(1, 90).unsigned_abs());
    OnionLifetime::from_days(
        days("onion-key-rotation-days", 28),
        days("onion-key-grace-period-days", 7),
    )
}

/// Renews keys and certificates when they are due, and publishes what changed.
async fn renew(keys: Arc<Keys>, directory: Arc<Directory>) {
    let net = directory.view();
    loop {
        let onion = onion_lifetime(&net);
        let wait = keys
            .next_renewal(onion)
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        if !wait.is_zero() {
            // A clock that jumps must not make a renewal wait for its old idea of when.
            tokio::time::sleep(wait.min(Duration::from_secs(3600))).await;
            continue;
        }
        let owned = Arc::clone(&keys);
        match tokio::task::spawn_blocking(move || owned.renew(SystemTime::now(), onion)).await {
            Ok(Ok(renewed)) if renewed.descriptor => {
                if let Err(error) = directory.publish().await {
                    tracing::warn!(%error, "the descriptor with renewed keys was not accepted yet");
                }
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "keys cannot be renewed"),
            Err(_) => return,
        }
        // What could not be renewed is tried again, not over and over.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// What the local interface shows.
struct About {
    nickname: String,
    fingerprint: String,
    engine: EngineHandle,
    payments: Option<Payments>,
    metrics: Arc<Metrics>,
    directory: Arc<Directory>,
    keys: Arc<Keys>,
    cache: DirCache,
}

fn backend(about: Arc<About>) -> Backend {
    let (of_metrics, of_state) = (Arc::clone(&about), Arc::clone(&about));
    let control: Control = Arc::new(move |name, body| {
        let about = Arc::clone(&about);
        let done: BoxFuture<_> = Box::pin(async move { about.control(&name, &body).await });
        done
    });
    Backend {
        metrics: Arc::new(move || of_metrics.render()),
        state: Arc::new(move || of_state.state()),
        control: Some(control),
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
        self.metrics.render(Some(&self.engine.counters()))
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
            "nickname": self.nickname,
            "fingerprint": self.fingerprint,
            "relays_known": snapshot.relays().len(),
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
            return self.rotate_keys(body).await;
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

impl About {
    /// Renews keys before their time. Links and circuits that are open stay open; new ones are made with the new keys as
    /// soon as their makers know them, and with the onion key before for its grace period.
    async fn rotate_keys(&self, body: &Value) -> Result<Value, ControlError> {
        let asked = |name: &str| match (&body[name], body.is_null()) {
            (Value::Bool(yes), _) => Ok(*yes),
            (Value::Null, all) => Ok(all),
            _ => Err(BAD_ROTATION),
        };
        let known = |name: &String| ["signing", "onion", "links"].contains(&name.as_str());
        if !body.is_null() && !body.as_object().is_some_and(|body| body.keys().all(known)) {
            return Err(BAD_ROTATION);
        }
        let early = Rotate {
            signing: asked("signing")?,
            onion: asked("onion")?,
            links: asked("links")?,
            tap: false,
        };
        let (keys, onion) = (Arc::clone(&self.keys), onion_lifetime(&self.directory.view()));
        let rotated = tokio::task::spawn_blocking(move || keys.rotate(SystemTime::now(), onion, early)).await;
        let renewed = match rotated {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(error)) => {
                tracing::error!(%error, "keys cannot be renewed");
                return Err(ControlError::NotNow("keys cannot be renewed: the log says why"));
            }
            Err(_) => return Err(ControlError::NotNow("the relay is ending")),
        };
        let published = match renewed.descriptor {
            true => self.directory.publish().await.map_err(|error| error.to_string()),
            false => Ok(()),
        };
        Ok(json!({
            "signing_key": hex::encode(self.keys.current().signing().verifying_key().to_bytes()),
            "ntor_onion_key": hex::encode(self.keys.current().ntor_public()),
            "published": renewed.descriptor && published.is_ok(),
            "error": published.err(),
        }))
    }
}

const BAD_ROTATION: ControlError =
    ControlError::Body("`signing`, `onion` and `links` are true or false; without a body all three are renewed");
const BAD_RATE: ControlError = ControlError::Body("`bytes_per_second` is a number of at least 16384, or null");
const BAD_UNPAID: ControlError =
    ControlError::Body("`mode` is \"leftover\", or \"capped\" with a `cap` of at least 16384");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_whose_payments_have_stopped_advertises_none() {
        let config = include_str!("../../../node.toml").replace("#advertise", "advertise");
        let config = Config::parse(&config, Path::new("node.toml")).unwrap();
        let about = description(&config, &[]).unwrap();
        let measured = Measured::default();
        let has_obol = |about: &Description| about.protocols.contains("Obol=1");
        assert!(has_obol(&measured.complete(&about, Duration::ZERO)));
        measured.unpaid.store(true, Ordering::Relaxed);
        assert!(!has_obol(&measured.complete(&about, Duration::ZERO)));
    }

    #[test]
    fn a_configured_rate_is_advertised_and_otherwise_what_was_measured() {
        let config = include_str!("../../../node.toml").replace("#advertise", "advertise");
        let rated = config.replace("#rate = ", "rate = ");
        let measured = Measured::default();
        let observed = |text: &str| {
            let config = Config::parse(text, Path::new("node.toml")).unwrap();
            let about = description(&config, &[]).unwrap();
            measured.complete(&about, Duration::ZERO).bandwidth_observed
        };
        assert_eq!(observed(&rated), 8 << 20);
        assert_eq!(observed(&config), FLOOR);
        measured.carried.store(9 << 20, Ordering::Relaxed);
        assert_eq!((observed(&rated), observed(&config)), (8 << 20, 9 << 20));
    }
}
