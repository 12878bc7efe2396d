//! What a running relay says about itself, and when: its description, what it measured, and renewed keys.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use obol_gateway::ControlError;
use obol_onion::engine::CELL_LEN;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::RunError;
use crate::config::{self, Config, ConfigError, Size};
use crate::descriptor::{self, Description, DescriptorError, Publication};
use crate::directory::{Directory, NetView, Occasion};
use crate::keys::{FamilyKey, Keys, OnionLifetime, Rotate};
use crate::payments::Payments;
use crate::reach::{Load, SelfTest, Subject};
use crate::relay::EngineHandle;
use crate::traffic::{Traffic, Window};

/// The file in the data directory that keeps what the relay has carried.
const TRAFFIC: &str = "traffic.toml";
/// What a relay without a configured rate says of its bandwidth before it has measured any, bytes per second: with
/// nothing, nobody would select it.
const FLOOR: u64 = 1 << 20;
/// The least that it says when it has measured: C Tor's idea of too little.
const LEAST: u64 = 51_200;
/// What it sends to itself to measure that, if nobody else makes it carry as much: enough for ten seconds at [`FLOOR`].
const LOAD: Load = Load {
    rate: FLOOR + FLOOR / 4,
    duration: Duration::from_secs(12),
};
/// It does so no more often than this, as C Tor, restarts or not.
const LOAD_AGAIN: Duration = Duration::from_secs(12 * 3600);
/// How often is looked whether it is called for.
const LOAD_LOOK: Duration = Duration::from_secs(600);
/// How often carried bytes are counted.
const COUNT: Duration = Duration::from_secs(1);
/// After how many counts the file is written.
const SAVE: u32 = 600;
/// The highest rate that a descriptor names: authorities read it as a signed number of 32 bits.
const HIGHEST: u64 = i32::MAX.unsigned_abs() as u64;
/// A relay that has been up for longer publishes a changed bandwidth when it publishes anyway, as in C Tor.
const YOUNG: Duration = Duration::from_secs(24 * 3600);
/// And a young one does so no more often than this.
const BETWEEN: Duration = Duration::from_secs(3 * 3600);

/// What the consensus wants descriptors to show (*param-spec*, `publish-dummy-tap-key` and `publish-family-list`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    /// The TAP key.
    tap: bool,
    /// The other members of the relay's family, by name.
    family_list: bool,
}

impl Wanted {
    fn by(net: &NetView) -> Wanted {
        // Both, unless told otherwise.
        let wanted = |name: &str| net.param(name).is_none_or(|value| value > 0);
        Wanted {
            tap: wanted("publish-dummy-tap-key"),
            family_list: wanted("publish-family-list"),
        }
    }
}

/// What was published.
#[derive(Debug, Clone, Copy)]
struct Published {
    /// The observed bandwidth.
    observed: u64,
    wanted: Wanted,
}

/// What a relay's descriptor says, kept up to date.
#[derive(Debug)]
pub(super) struct Announcement {
    keys: Arc<Keys>,
    directory: Arc<Directory>,
    started: Instant,
    /// What was configured.
    about: Mutex<Description>,
    /// Where it listens.
    listening: Vec<SocketAddr>,
    /// What was carried.
    traffic: Mutex<Traffic>,
    /// The file of that.
    path: PathBuf,
    /// What was published last.
    published: Mutex<Option<Published>>,
    /// Without a TAP key it is by this that one edition differs from another for authorities, if it has to.
    a_byte_less: AtomicBool,
    /// Payments have stopped.
    unpaid: AtomicBool,
    /// What may be carried in this period has been, or nearly.
    hibernating: AtomicBool,
}

impl Announcement {
    /// What this configuration says, for a relay that listens there.
    pub(super) fn new(
        config: &Config,
        listening: &[SocketAddr],
        keys: &Arc<Keys>,
        directory: &Arc<Directory>,
    ) -> Result<Arc<Announcement>, RunError> {
        let keys_of_families = config.family.keys.iter();
        let family_keys = keys_of_families
            .map(|path| FamilyKey::load(&config.path(path)))
            .collect::<Result<Vec<_>, _>>()?;
        let path = config.path(Path::new(TRAFFIC));
        let now = SystemTime::now();
        let traffic = Traffic::load(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "{} is of no use; it begins anew", path.display());
            None
        });
        Ok(Arc::new(Announcement {
            keys: Arc::clone(keys),
            directory: Arc::clone(directory),
            started: Instant::now(),
            about: Mutex::new(description(config, listening, family_keys)?),
            listening: listening.to_vec(),
            traffic: Mutex::new(traffic.unwrap_or_else(|| Traffic::new(now))),
            path,
            published: Mutex::new(None),
            a_byte_less: AtomicBool::new(false),
            unpaid: AtomicBool::new(false),
            hibernating: AtomicBool::new(false),
        }))
    }

    /// What the descriptor says that decides how the relay is tested.
    pub(super) fn subject(&self) -> Subject {
        Subject::from(&*self.about())
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        // Whole after every statement.
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self) -> MutexGuard<'_, Description> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it says what this configuration does.
    pub(super) fn describe(&self, config: &Config) -> Result<(), ConfigError> {
        let mut about = self.about();
        *about = description(config, &self.listening, about.family_keys.clone())?;
        Ok(())
    }

    /// From now on it says whether the relay hibernates.
    pub(super) fn set_hibernating(&self, hibernating: bool) {
        self.hibernating.store(hibernating, Ordering::Relaxed);
    }

    /// Whether the relay hibernates.
    pub(super) fn is_hibernating(&self) -> bool {
        self.hibernating.load(Ordering::Relaxed)
    }

    /// Publishes a change, if anything is published; `what` says of which descriptor.
    pub(super) async fn renew(&self, what: &str) {
        if let Err(error) = self.directory.publish().await {
            tracing::debug!(%error, "the descriptor {what} was not accepted yet");
        }
    }

    fn published(&self) -> Option<Published> {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has to make itself carry something to know what it can: nobody does, no rate is configured, and it has not
    /// done so for long.
    fn wants_load(&self, now: SystemTime) -> bool {
        let hibernating = self.hibernating.load(Ordering::Relaxed);
        let unlimited = self.about().bandwidth_rate == HIGHEST;
        let traffic = self.traffic();
        let recently = traffic.since_measured(now).is_some_and(|since| since < LOAD_AGAIN);
        unlimited && traffic.observed() < FLOOR && !hibernating && !recently
    }

    /// Measures what it can carry by cells of its own, as soon as it is reached, and again when it is too little used to know.
    pub(super) async fn test_bandwidth(
        self: Arc<Self>,
        self_test: Arc<SelfTest>,
        settings: watch::Receiver<Arc<Config>>,
    ) {
        loop {
            self_test.reached().await;
            if settings.borrow().bandwidth.self_test && self.wants_load(SystemTime::now()) {
                match self_test.load(LOAD).await {
                    // Circuits that ended early tell nothing.
                    Ok(cells) if cells.saturating_mul(CELL_LEN as u64) >= LOAD.bytes() / 2 => {
                        let observed = {
                            let mut traffic = self.traffic();
                            traffic.measured(SystemTime::now());
                            traffic.observed()
                        };
                        self.save().await;
                        tracing::info!(cells, observed, "measured what this relay carries, by cells of its own");
                    }
                    outcome => {
                        tracing::debug!(?outcome, "what this relay carries could not be measured");
                    }
                }
            }
            tokio::time::sleep(LOAD_LOOK).await;
        }
    }

    /// The description with what only the running relay knows.
    fn complete(&self, wanted: Wanted) -> Description {
        let mut about = self.about().clone();
        about.tap = wanted.tap;
        if !wanted.family_list {
            about.family.clear();
        }
        about.hibernating = self.hibernating.load(Ordering::Relaxed);
        if self.unpaid.load(Ordering::Relaxed) {
            about.protocols = descriptor::UNPAID_PROTOCOLS;
        }
        let traffic = self.traffic();
        // A configured rate is a promise; without one only what was seen counts.
        about.bandwidth_observed = if about.bandwidth_rate == HIGHEST {
            claim(&traffic)
        } else {
            about.bandwidth_rate
        };
        about.history = traffic.history();
        about.uptime = self.started.elapsed();
        about
    }

    fn make(&self, occasion: Occasion) -> Result<Publication, DescriptorError> {
        self.make_as(occasion, Wanted::by(&self.directory.view()))
    }

    fn make_as(&self, occasion: Occasion, wanted: Wanted) -> Result<Publication, DescriptorError> {
        let onion = onion_lifetime(&self.directory.view());
        if occasion.distinct && !wanted.tap {
            self.a_byte_less.fetch_xor(true, Ordering::Relaxed);
        } else if occasion.distinct {
            let tap = Rotate {
                tap: true,
                ..Rotate::default()
            };
            self.keys.rotate(SystemTime::now(), onion, tap)?;
        }
        let mut about = self.complete(wanted);
        if self.a_byte_less.load(Ordering::Relaxed) {
            about.bandwidth_rate -= 1;
            about.bandwidth_burst -= 1;
        }
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(Published {
            observed: about.bandwidth_observed,
            wanted,
        });
        descriptor::build(&self.keys, onion, &about, occasion.now)
    }

    /// Uploads the descriptor, and goes on to whenever it is due.
    pub(super) async fn publish(self: Arc<Self>) {
        let this = Arc::downgrade(&self);
        let directory = Arc::clone(&self.directory);
        // The directory keeps the maker: the maker must not keep the directory.
        let make = move |occasion| match this.upgrade() {
            Some(this) => this.make(occasion),
            None => Err(DescriptorError::Ending),
        };
        if let Err(error) = directory.publish_with(Arc::new(make)).await {
            tracing::warn!(%error, "the descriptor was not accepted yet; it is uploaded again");
        }
    }

    /// Publishes anew when the consensus wants descriptors to show something else.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut net = self.directory.view();
        while net.changed().await {
            let wanted = Wanted::by(&net);
            if self.published().is_some_and(|published| published.wanted != wanted) {
                self.renew("that the consensus wants").await;
            }
        }
    }

    /// Once payments have failed: the descriptor no longer promises any.
    pub(super) async fn retract(self: Arc<Self>, payments: Payments) {
        // Said where it happened.
        let _ = payments.failed().await;
        self.unpaid.store(true, Ordering::Relaxed);
        if let Err(error) = self.directory.publish().await {
            tracing::debug!(%error, "the descriptor without payments was not accepted yet; it is uploaded again");
        }
    }

    /// Counts what is carried, keeps it, and publishes a bandwidth that is another one by far.
    pub(super) async fn measure(self: Arc<Self>, engine: EngineHandle) {
        let mut before = carried(&engine);
        let mut window = Window::default();
        let mut announced: Option<Instant> = None;
        for round in 1_u32.. {
            tokio::time::sleep(COUNT).await;
            let now = carried(&engine);
            let rate = window.rate(self.started.elapsed(), now);
            let claimed = {
                let mut traffic = self.traffic();
                traffic.record(now.saturating_sub(before), rate, SystemTime::now());
                claim(&traffic)
            };
            before = now;
            if round.is_multiple_of(SAVE) {
                self.save().await;
            }
            let early = self.started.elapsed() < YOUNG && announced.is_none_or(|at| at.elapsed() > BETWEEN);
            if early
                && self.about().bandwidth_rate == HIGHEST
                && self
                    .published()
                    .is_some_and(|published| is_other(published.observed, claimed))
            {
                announced = Some(Instant::now());
                tracing::debug!(claimed, "the bandwidth has changed: publishing");
                if let Err(error) = self.directory.publish().await {
                    tracing::debug!(%error, "the descriptor with a new bandwidth was not accepted yet");
                }
            }
        }
    }

    /// Writes down what was carried.
    pub(super) async fn save(&self) {
        let (traffic, path) = (self.traffic().clone(), self.path.clone());
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || traffic.save(&path)).await {
            tracing::warn!(%error, "{} cannot be written", self.path.display());
        }
    }
}

/// The observed bandwidth that a relay with this traffic claims.
fn claim(traffic: &Traffic) -> u64 {
    let least = match traffic.since_measured(SystemTime::now()) {
        Some(_) => LEAST,
        None => FLOOR,
    };
    traffic.observed().clamp(least, HIGHEST)
}

/// Whether an observed bandwidth is twice or half the published one.
fn is_other(published: u64, observed: u64) -> bool {
    observed / 2 > published || observed < published / 2
}

/// What the descriptor says, apart from what is measured.
fn description(
    config: &Config,
    listening: &[SocketAddr],
    family_keys: Vec<FamilyKey>,
) -> Result<Description, ConfigError> {
    let address = config.or.advertise.or_else(|| listening.first().copied());
    let Some(SocketAddr::V4(address)) = address else {
        return Err(config::not_ipv4());
    };
    let rate = config.bandwidth.rate.map_or(HIGHEST, Size::bytes).min(HIGHEST);
    let burst = config.bandwidth.burst.map_or(rate, Size::bytes).min(HIGHEST);
    Ok(Description {
        nickname: config.nickname.clone(),
        platform: format!("Obol {} on {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS),
        contact: config.contact.clone(),
        address: SocketAddrV4::new(*address.ip(), address.port()),
        ipv6: ipv6(config, listening),
        bandwidth_rate: rate,
        bandwidth_burst: burst,
        bandwidth_observed: 0,
        uptime: Duration::ZERO,
        hibernating: false,
        tap: true,
        policy: config.exit_policy()?,
        ipv6_exit: config.exit.ipv6,
        protocols: match config.payments {
            Some(_) => descriptor::PROTOCOLS,
            None => descriptor::UNPAID_PROTOCOLS,
        },
        family: config.family.members.iter().map(|member| member.0).collect(),
        family_keys,
        history: None,
    })
}

/// The IPv6 address in the descriptor.
fn ipv6(config: &Config, listening: &[SocketAddr]) -> Option<SocketAddrV6> {
    let bound = listening.iter().find_map(|address| match address {
        SocketAddr::V6(address) => Some(*address),
        SocketAddr::V4(_) => None,
    });
    config.or.ipv6_advertise.or(bound).or(config.or.ipv6_listen)
}

/// Bytes of cells carried so far, both directions: C Tor counts what it reads, from either side, and what it writes.
pub(super) fn carried(engine: &EngineHandle) -> u64 {
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
pub(super) async fn renew(keys: Arc<Keys>, directory: Arc<Directory>) {
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

/// Renews keys before their time. Links and circuits that are open stay open; new ones are made with the new keys as soon as
/// their makers know them, and with the onion key before for its grace period.
pub(super) async fn rotate_keys(
    keys: &Arc<Keys>,
    directory: &Arc<Directory>,
    body: &Value,
) -> Result<Value, ControlError> {
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
    if !(early.signing || early.onion || early.links) {
        return Err(BAD_ROTATION);
    }
    let (owned, onion) = (Arc::clone(keys), onion_lifetime(&directory.view()));
    let rotated = tokio::task::spawn_blocking(move || owned.rotate(SystemTime::now(), onion, early)).await;
    let renewed = match rotated {
        Ok(Ok(renewed)) => renewed,
        Ok(Err(error)) => {
            tracing::error!(%error, "keys cannot be renewed");
            return Err(ControlError::NotNow("keys cannot be renewed: the log says why"));
        }
        Err(_) => return Err(ControlError::NotNow("the relay is ending")),
    };
    let published = match renewed.descriptor {
        true => directory.publish().await.map_err(|error| error.to_string()),
        false => Ok(()),
    };
    Ok(json!({
        "signing_key": hex::encode(keys.current().signing().verifying_key().to_bytes()),
        "ntor_onion_key": hex::encode(keys.current().ntor_public()),
        "published": renewed.descriptor && published.is_ok(),
        "error": published.err(),
    }))
}

const BAD_ROTATION: ControlError =
    ControlError::Body("`signing`, `onion` and `links` are true or false; without a body all three are renewed");

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted {
        tap: true,
        family_list: true,
    };

    /// A relay of node.toml, and its files.
    fn announcement(text: &str) -> (Arc<Announcement>, tempfile::TempDir) {
        let files = tempfile::tempdir().unwrap();
        let config = Config::parse(text, &files.path().join("node.toml")).unwrap();
        std::fs::create_dir(&config.data_directory).unwrap();
        let keys = Keys::open(&files.path().join("keys"), SystemTime::now()).unwrap();
        let directory = Arc::new(Directory::start(Vec::new()));
        let announcement = Announcement::new(&config, &[], &keys, &directory).unwrap();
        (announcement, files)
    }

    fn node_toml() -> String {
        include_str!("../../../../node.toml").replace("#advertise", "advertise")
    }

    #[tokio::test]
    async fn a_relay_whose_payments_have_stopped_advertises_none() {
        let (announcement, _files) = announcement(&node_toml());
        let has_obol = || announcement.complete(ALL).protocols.contains("Obol=1");
        assert!(has_obol());
        announcement.unpaid.store(true, Ordering::Relaxed);
        assert!(!has_obol());
    }

    #[tokio::test]
    async fn a_configured_rate_is_advertised_and_otherwise_what_was_measured_before_a_restart_too() {
        let carry = |announcement: &Announcement| {
            let now = SystemTime::now();
            announcement.traffic().record(90 << 20, Some(9 << 20), now);
            announcement.complete(ALL).bandwidth_observed
        };
        let (rated, _files) = announcement(&node_toml().replace("#rate = ", "rate = "));
        assert_eq!(
            (rated.complete(ALL).bandwidth_observed, carry(&rated)),
            (8 << 20, 8 << 20)
        );

        let (free, files) = announcement(&node_toml());
        assert_eq!((free.complete(ALL).bandwidth_observed, carry(&free)), (FLOOR, 9 << 20));
        free.save().await;
        let config = Config::parse(&node_toml(), &files.path().join("node.toml")).unwrap();
        let again = Announcement::new(&config, &[], &free.keys, &free.directory).unwrap();
        assert_eq!(again.complete(ALL).bandwidth_observed, 9 << 20);
    }

    #[tokio::test]
    async fn an_edition_that_has_to_differ_does_so_in_what_authorities_compare() {
        let compared = |announcement: &Announcement, wanted, distinct| {
            let now = SystemTime::now();
            let made = announcement.make_as(Occasion { now, distinct }, wanted).unwrap();
            let text = made.descriptor;
            let of = |item: &str| {
                text.lines()
                    .skip_while(|line| *line != item)
                    .take(3)
                    .collect::<String>()
            };
            let bandwidth = text.lines().find(|line| line.starts_with("bandwidth ")).unwrap();
            format!("{} {bandwidth}", of("onion-key"))
        };
        for tap in [true, false] {
            let (announcement, _files) = announcement(&node_toml().replace("#rate = ", "rate = "));
            let wanted = Wanted { tap, ..ALL };
            let first = compared(&announcement, wanted, false);
            assert_eq!(compared(&announcement, wanted, false), first);
            let second = compared(&announcement, wanted, true);
            let third = compared(&announcement, wanted, true);
            assert!(first != second && second != third, "{first} {second} {third}");
        }
    }

    #[tokio::test]
    async fn a_relay_loads_itself_only_while_it_does_not_know_what_it_carries() {
        let (rated, _files) = announcement(&node_toml().replace("#rate = ", "rate = "));
        let now = SystemTime::now();
        assert!(!rated.wants_load(now), "a configured rate is a promise");
        let (free, _files) = announcement(&node_toml());
        assert!(free.wants_load(now));
        free.set_hibernating(true);
        assert!(!free.wants_load(now), "it may not carry anything");
        free.set_hibernating(false);
        // Until it has measured it claims more than nothing, and then what it has seen.
        let little = FLOOR / 3;
        free.traffic().record(little * 10, Some(little), now);
        assert!(free.wants_load(now));
        assert_eq!(free.complete(ALL).bandwidth_observed, FLOOR);
        free.traffic().measured(now);
        assert_eq!(free.complete(ALL).bandwidth_observed, little);
        assert!(!free.wants_load(now), "it has just done so");
        assert!(free.wants_load(now + LOAD_AGAIN));
        free.traffic().record(FLOOR * 10, Some(FLOOR), now);
        assert!(!free.wants_load(now + LOAD_AGAIN), "others have shown it");
        let mut idle = Traffic::new(now);
        assert_eq!(claim(&idle), FLOOR);
        idle.measured(now);
        assert_eq!(claim(&idle), LEAST);
    }

    #[test]
    fn a_bandwidth_is_news_when_it_has_doubled_or_halved() {
        let published = 10 * FLOOR;
        for (observed, news) in [(19, false), (21, true), (6, false), (4, true)] {
            assert_eq!(is_other(published, observed * FLOOR), news, "{observed}");
        }
    }
}
