//! Accounting: how much was carried in this period, and what follows from that.
//!
//! ```text
//!  awake ── 95 % ──► drowsy: no new links and circuits ── 100 % ──► asleep: all links closed
//!    ▲                          │ the next period, or a higher limit       │
//!    └──────────────────────────┴──────────────────────────────────────────┘
//! ```
//!
//! The descriptor says `hibernating 1` in both states. What was carried is written to a file every minute and at the end, so
//! that a restart is no way around the limit; a crash forgets a minute.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RunError;
use super::publishing::{Announcement, carried};
use crate::config::{Accounting, Config, Size};
use crate::relay::RelayHandle;

/// The file below the data directory.
pub(super) const FILE: &str = "accounting.json";
/// How often is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two writes of the file.
const WRITE: u32 = 60;

/// What was carried in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// When the period began, unix seconds.
    since: u64,
    /// Bytes of cells, both directions together.
    carried: u64,
}

/// What the relay may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Awake,
    Drowsy,
    Asleep,
}

/// The record of this period, in its file.
#[derive(Debug)]
pub(super) struct Account {
    path: PathBuf,
    record: Record,
    /// What the data plane had counted at the last look.
    seen: u64,
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Account {
    /// Reads the file, if there is one.
    pub(super) fn open(path: PathBuf, accounting: &Accounting, now: SystemTime) -> Result<Account, RunError> {
        let failed = |source| RunError::DataDirectory {
            path: path.clone(),
            source,
        };
        let record = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record {
                since: accounting.start.period(unix(now)).0,
                carried: 0,
            },
            Err(error) => return Err(failed(error)),
        };
        Ok(Account { path, record, seen: 0 })
    }

    /// Counts what was carried since the last look, and says what follows.
    fn look(&mut self, accounting: &Accounting, counted: u64, now: SystemTime) -> State {
        let (since, _) = accounting.start.period(unix(now));
        // A clock that was set back does not give anything back.
        if since > self.record.since {
            self.record = Record { since, carried: 0 };
        }
        let new = counted.saturating_sub(self.seen);
        self.seen = counted;
        self.record.carried = self.record.carried.saturating_add(new);
        match accounting.max.map(Size::bytes) {
            Some(max) if self.record.carried >= max => State::Asleep,
            Some(max) if self.record.carried >= max / 20 * 19 => State::Drowsy,
            _ => State::Awake,
        }
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

    #[test]
    fn a_relay_grows_drowsy_falls_asleep_and_wakes_with_the_next_period() {
        let place = tempfile::tempdir().unwrap();
        let rules = accounting(1000);
        let mut account = Account::open(place.path().join(FILE), &rules, at(10 * DAY)).unwrap();
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
        let mut account = Account::open(path.clone(), &rules, at(DAY)).unwrap();
        account.look(&rules, 990, at(DAY));
        account.save().unwrap();
        // The data plane begins to count again.
        let mut account = Account::open(path.clone(), &rules, at(DAY + 5)).unwrap();
        assert_eq!(account.look(&rules, 5, at(DAY + 5)), State::Drowsy);
        assert_eq!(account.look(&rules, 10, at(DAY + 6)), State::Asleep);
        std::fs::write(&path, "nonsense").unwrap();
        let error = Account::open(path, &rules, at(DAY)).unwrap_err().to_string();
        assert!(error.contains(FILE), "{error}");
    }
}
