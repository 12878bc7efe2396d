//! Accounting: how much was carried in this period, and what follows from that.
//!
//! ```text
//!  awake ── 95 % ──► drowsy: no new links and circuits ── 100 % ──► asleep: all links closed
//!    ▲  ▲                       │ a higher limit                           │
//!    │  └───────────────────────┴──────────────────────────────────────────┤ the next period
//!    └── its moment ── resting: no new links and circuits ◄────────────────┘
//! ```
//!
//! The descriptor says `hibernating 1` in all states but the first. What was carried is written to a file every minute and at
//! the end, so that a restart is no way around the limit; a crash forgets a minute.
//!
//! If all relays with a quota woke at the beginning of a period, the network would have them all at once, and none at the end.
//! So each wakes at a moment of its own, as C Tor has it (`hibernate.c`): early enough to carry all it may at the rate of the
//! period before, and as late as its identity and the period's beginning decide, which is the same moment after every
//! restart. In the period in which it was installed a relay does not rest.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RunError;
use super::publishing::{Announcement, carried};
use crate::config::{Accounting, Config, Size};
use crate::directory::http::format_date;
use crate::relay::RelayHandle;

/// The file below the data directory.
pub(super) const FILE: &str = "accounting.json";
/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two writes of the file.
const WRITE: u32 = 60;

/// Between two looks no more time than this has passed, whatever the clock says.
const AT_MOST: Duration = Duration::from_secs(60);
/// A relay that was awake for less has not shown how much it carries.
const TELLING: Duration = Duration::from_secs(1800);
/// How long a relay that has not shown it may take to carry all it may: C Tor's guess.
const GUESS: Duration = Duration::from_secs(86_400);

/// What was carried in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// When the period began, unix seconds.
    since: u64,
    /// Bytes of cells, both directions together.
    carried: u64,
    /// For how long the relay was awake in it, milliseconds.
    #[serde(default)]
    awake: u64,
    /// What it carries when it is awake, bytes a second, by an earlier period.
    #[serde(default)]
    rate: Option<u64>,
    /// The relay was there before the period began.
    #[serde(default)]
    whole: bool,
}

impl Record {
    fn new(since: u64) -> Record {
        Record {
            since,
            carried: 0,
            awake: 0,
            rate: None,
            whole: false,
        }
    }

    /// That of the period after this one.
    fn next(self, since: u64) -> Record {
        let shown = u128::from(self.awake) >= TELLING.as_millis();
        let rate = shown.then(|| self.carried.saturating_mul(1000) / self.awake.max(1));
        Record {
            rate: rate.or(self.rate),
            whole: true,
            ..Record::new(since)
        }
    }

    /// When the relay with this identity wakes in this period, which ends then, to carry `max` bytes.
    fn wakes(&self, identity: &[u8; 32], max: u64, end: u64) -> u64 {
        let needed = match self.rate {
            Some(rate) => max / rate.max(1),
            None => GUESS.as_secs(),
        };
        let spare = end.saturating_sub(self.since).saturating_sub(needed);
        if !self.whole || spare == 0 {
            return self.since;
        }
        let hash = Sha256::new()
            .chain_update(b"accounting period")
            .chain_update(identity)
            .chain_update(self.since.to_be_bytes())
            .finalize();
        let number = hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        // The same share of what there is: a higher limit never makes it later.
        let share = (u128::from(number) * u128::from(spare)) >> 64;
        self.since + u64::try_from(share).unwrap_or(spare)
    }
}

/// What the relay may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not yet in this period.
    Resting,
    Awake,
    Drowsy,
    Asleep,
}

/// The record of this period, in its file.
#[derive(Debug)]
pub(super) struct Account {
    path: PathBuf,
    /// Ed25519.
    identity: [u8; 32],
    record: Record,
    /// What the data plane had counted at the last look.
    seen: u64,
    /// When that was, if the relay was awake then.
    awake_at: Option<SystemTime>,
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Account {
    /// Reads the file, if there is one.
    pub(super) fn open(
        path: PathBuf,
        accounting: &Accounting,
        identity: [u8; 32],
        now: SystemTime,
    ) -> Result<Account, RunError> {
        let failed = |source| RunError::DataDirectory {
            path: path.clone(),
            source,
        };
        let record = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::new(accounting.start.period(unix(now)).0),
            Err(error) => return Err(failed(error)),
        };
        Ok(Account {
            path,
            identity,
            record,
            seen: 0,
            awake_at: None,
        })
    }

    /// Counts what was carried since the last look, and says what follows.
    fn look(&mut self, accounting: &Accounting, counted: u64, now: SystemTime) -> State {
        let (since, end) = accounting.start.period(unix(now));
        // A clock that was set back does not give anything back.
        if since > self.record.since {
            self.record = self.record.next(since);
            self.awake_at = None;
        }
        // What is awake does not go back to rest.
        let rested = self.record.awake > 0 || self.awake_at.is_some();
        if let Some(before) = self.awake_at {
            let passed = now.duration_since(before).unwrap_or_default().min(AT_MOST);
            let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            self.record.awake = self.record.awake.saturating_add(passed);
        }
        let new = counted.saturating_sub(self.seen);
        self.seen = counted;
        self.record.carried = self.record.carried.saturating_add(new);
        let state = match accounting.max.map(Size::bytes) {
            Some(max) if self.record.carried >= max => State::Asleep,
            Some(max) if self.record.carried >= max / 20 * 19 => State::Drowsy,
            Some(max) if !rested && unix(now) < self.record.wakes(&self.identity, max, end) => State::Resting,
            _ => State::Awake,
        };
        self.awake_at = (state == State::Awake).then_some(now);
        state
    }

    /// When the relay wakes in this period, if it may carry so much at most.
    fn wakes(&self, accounting: &Accounting) -> Option<SystemTime> {
        let (_, end) = accounting.start.period(self.record.since);
        let at = self.record.wakes(&self.identity, accounting.max?.bytes(), end);
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
    }

    fn save(&self) -> io::Result<()> {
        let draft = self.path.with_extension("json.new");
        std::fs::write(&draft, serde_json::to_vec(&self.record)?)?;
        std::fs::rename(&draft, &self.path)
    }

    pub(super) fn save_or_say(&self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "{} cannot be written", self.path.display());
        }
    }
}

/// The task that keeps the account, and the relay to it.
pub(super) struct Keeper {
    pub(super) account: Arc<Mutex<Account>>,
    pub(super) settings: watch::Receiver<Arc<Config>>,
    pub(super) relay: RelayHandle,
    pub(super) announcement: Arc<Announcement>,
    /// The relay is ending: it is not woken any more.
    pub(super) leaving: CancellationToken,
}

impl Keeper {
    fn look(&self) -> State {
        let accounting = self.settings.borrow().accounting.clone();
        let counted = carried(&self.relay.engine());
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.look(&accounting, counted, SystemTime::now())
    }

    /// Does what a new state asks for; publishing the descriptor is not its affair.
    fn enter(&self, state: State) {
        self.announcement.set_hibernating(state != State::Awake);
        self.relay.sleep(state != State::Awake);
        match state {
            State::Resting => {
                let wakes = {
                    let account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
                    account.wakes(&self.settings.borrow().accounting)
                };
                let until = wakes.map(format_date).unwrap_or_default();
                tracing::info!(until, "a new accounting period: the relay rests before its share of it");
            }
            State::Awake => tracing::info!("a new accounting period, or a higher limit: the relay is awake"),
            State::Drowsy => tracing::warn!("95 % of accounting.max is carried: no new circuits in this period"),
            State::Asleep => {
                tracing::warn!("accounting.max is carried: all links are closed until the next period");
                self.relay.close_links();
            }
        }
    }

    /// The first look.
    pub(super) fn start(&self) -> State {
        let state = self.look();
        if state != State::Awake {
            self.enter(state);
        }
        state
    }

    /// Keeps the account until the relay ends.
    pub(super) async fn run(self, mut state: State) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in (0..WRITE).cycle() {
            tokio::select! {
                () = self.leaving.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let new = self.look();
            if new != state {
                state = new;
                self.enter(new);
                self.announcement.renew("of a relay that hibernates or wakes").await;
            }
            if tick == WRITE - 1 {
                let account = Arc::clone(&self.account);
                let written = tokio::task::spawn_blocking(move || {
                    account.lock().unwrap_or_else(PoisonError::into_inner).save_or_say();
                });
                // Fails only when the runtime is going away.
                let _ = written.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn accounting(max: u64) -> Accounting {
        Accounting {
            max: Some(Size(max)),
            start: "day 00:00".parse().unwrap(),
        }
    }

    fn open(path: PathBuf, rules: &Accounting, now: u64) -> Account {
        Account::open(path, rules, [7; 32], at(now)).unwrap()
    }

    #[test]
    fn a_relay_grows_drowsy_falls_asleep_and_wakes_with_the_next_period() {
        let place = tempfile::tempdir().unwrap();
        let rules = accounting(1000);
        let mut account = open(place.path().join(FILE), &rules, 10 * DAY);
        let look = |account: &mut Account, counted, time| account.look(&rules, counted, at(time));
        assert_eq!(look(&mut account, 900, 10 * DAY + 1), State::Awake);
        assert_eq!(look(&mut account, 960, 10 * DAY + 2), State::Drowsy);
        assert_eq!(look(&mut account, 1000, 10 * DAY + 3), State::Asleep);
        // A higher limit wakes it, and so does the next day; its clock set back does not.
        assert_eq!(account.look(&accounting(5000), 1000, at(10 * DAY + 4)), State::Awake);
        assert_eq!(look(&mut account, 1000, 9 * DAY), State::Asleep);
        assert_eq!(look(&mut account, 1010, 11 * DAY), State::Awake);
        assert_eq!(account.record.carried, 10);
    }

    #[test]
    fn a_restart_in_the_same_period_forgets_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(FILE);
        let rules = accounting(1000);
        let mut account = open(path.clone(), &rules, DAY);
        account.look(&rules, 990, at(DAY));
        account.save().unwrap();
        // The data plane begins to count again.
        let mut account = open(path.clone(), &rules, DAY + 5);
        assert_eq!(account.look(&rules, 5, at(DAY + 5)), State::Drowsy);
        assert_eq!(account.look(&rules, 10, at(DAY + 6)), State::Asleep);
        std::fs::write(&path, "nonsense").unwrap();
        let error = Account::open(path, &rules, [7; 32], at(DAY)).unwrap_err().to_string();
        assert!(error.contains(FILE), "{error}");
    }

    /// A relay that has carried `max` in the first `busy` seconds of a day, and is asked the day after at which second it wakes.
    fn wakes(identity: [u8; 32], max: u64, busy: u64) -> (u64, Account) {
        let place = tempfile::tempdir().unwrap();
        let rules = accounting(max);
        let mut account = Account::open(place.path().join(FILE), &rules, identity, at(10 * DAY)).unwrap();
        for minute in 0..=busy / 60 {
            let state = account.look(&rules, max * minute * 60 / busy, at(10 * DAY + minute * 60));
            assert_ne!(state, State::Resting, "the first period");
        }
        assert_eq!(account.look(&rules, max, at(10 * DAY + busy + 1)), State::Asleep);
        account.look(&rules, max, at(11 * DAY));
        let wakes = account.wakes(&rules).unwrap();
        let at = wakes.duration_since(at(11 * DAY)).unwrap().as_secs();
        (at, account)
    }

    #[test]
    fn a_relay_wakes_at_a_moment_of_its_own_that_leaves_it_time_to_carry_what_it_may() {
        const HOUR: u64 = 3600;
        let moments: Vec<u64> = (0..40).map(|n| wakes([n; 32], 1 << 40, 4 * HOUR).0).collect();
        // At the rate at which it fell asleep, 95 % take as long as they took.
        assert!(moments.iter().all(|at| *at <= 20 * HOUR + HOUR), "{moments:?}");
        // Spread over all of the day that they have.
        for quarter in 0..4 {
            let part = quarter * 5 * HOUR..(quarter + 1) * 5 * HOUR;
            assert!(moments.iter().any(|at| part.contains(at)), "{moments:?}");
        }
        // One that needs all of its day has nothing to wait for.
        assert!(wakes([1; 32], 1 << 40, 24 * HOUR - 60).0 < 2 * HOUR);
    }

    #[test]
    fn a_relay_rests_until_its_moment_and_a_restart_does_not_change_that() {
        let (wakes, mut account) = wakes([3; 32], 1 << 40, 3600);
        assert!(wakes > 60, "or there is nothing to see here");
        let rules = accounting(1 << 40);
        let seen = account.seen;
        assert_eq!(account.look(&rules, seen, at(11 * DAY + wakes - 1)), State::Resting);
        let place = tempfile::tempdir().unwrap();
        account.path = place.path().join(FILE);
        account.save().unwrap();
        let mut again = Account::open(account.path.clone(), &rules, [3; 32], at(11 * DAY + 5)).unwrap();
        assert_eq!(again.look(&rules, 0, at(11 * DAY + wakes - 1)), State::Resting);
        assert_eq!(again.look(&rules, 0, at(11 * DAY + wakes)), State::Awake);
        // A lower limit that would let it sleep longer does not send it back.
        assert_eq!(
            again.look(&accounting(1 << 20), 0, at(11 * DAY + wakes + 1)),
            State::Awake
        );
        // Who may carry as much as there is time for does not rest, and neither does who has no limit.
        let more = accounting(1 << 50);
        assert_eq!(account.wakes(&more).unwrap(), at(11 * DAY));
        let unlimited = Accounting {
            max: None,
            ..accounting(0)
        };
        assert_eq!(account.look(&unlimited, seen, at(11 * DAY + 60)), State::Awake);
    }

    #[test]
    fn what_an_earlier_version_has_written_is_understood() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(FILE);
        std::fs::write(&path, "{\"since\": 864000, \"carried\": 960}").unwrap();
        let rules = accounting(1000);
        let mut account = open(path, &rules, 10 * DAY);
        assert_eq!(account.look(&rules, 0, at(10 * DAY + 1)), State::Drowsy);
    }
}
