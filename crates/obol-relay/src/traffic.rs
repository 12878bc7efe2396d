//! How much a relay has carried: the history for its extra-info document, and the bandwidth that its descriptor claims.
//!
//! As C Tor counts it (*dir-spec*, `bandwidth` and `write-history`): sums of whole days, of which five are kept, and in each
//! the most that was carried in ten seconds. The observed bandwidth is the highest of those, so one that was seen once is
//! believed for five days and then no more. Kept in a file, because a relay that was restarted is not a slower one.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The length of a summed interval.
pub const INTERVAL: Duration = Duration::from_secs(86_400);
/// Intervals that are kept.
const KEPT: usize = 5;

/// What was carried in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sum {
    /// Bytes.
    bytes: u64,
    /// The highest rate over ten seconds or so, in bytes a second.
    fastest: u64,
}

/// What a relay has carried. Times are whole seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// When the interval that is open began.
    since: u64,
    open: Sum,
    /// The intervals before it, the newest last.
    past: VecDeque<Sum>,
    /// When the relay last measured itself by cells of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    measured: Option<u64>,
}

/// The time over which the highest rate is taken (*dir-spec*, `bandwidth`).
const WINDOW: Duration = Duration::from_secs(10);

/// The last ten seconds.
#[derive(Debug, Default)]
pub struct Window(VecDeque<(Duration, u64)>);

impl Window {
    /// The rate over the last ten seconds, in bytes a second, once so many have passed. `at` is the time by some clock that only
    /// goes forward, `carried` all bytes so far.
    pub fn rate(&mut self, at: Duration, carried: u64) -> Option<u64> {
        self.0.push_back((at, carried));
        let long_ago = |then: &(Duration, u64)| at.saturating_sub(then.0) >= WINDOW;
        // Of those that are so long ago, the last.
        while self.0.get(1).is_some_and(long_ago) {
            self.0.pop_front();
        }
        let (then, before) = *self.0.front().filter(|then| long_ago(then))?;
        let millis = u64::try_from((at - then).as_millis()).unwrap_or(u64::MAX).max(1);
        Some(carried.saturating_sub(before).saturating_mul(1000) / millis)
    }
}

/// Whole intervals, as a `write-history` line tells of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// When the newest of them ended.
    pub end: SystemTime,
    /// Bytes in each, the newest last.
    pub bytes: Vec<u64>,
}

/// Why a file with a relay's traffic is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// It is not what this program writes.
    #[error("not a record of traffic: {0}")]
    Malformed(#[from] toml::de::Error),
    /// What is recorded cannot be written as TOML.
    #[error("cannot be written: {0}")]
    Encode(#[from] toml::ser::Error),
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Traffic {
    /// Nothing yet.
    pub fn new(now: SystemTime) -> Traffic {
        Traffic {
            since: unix(now),
            open: Sum::default(),
            past: VecDeque::new(),
            measured: None,
        }
    }

    /// It has measured itself by cells of its own.
    pub fn measured(&mut self, now: SystemTime) {
        self.measured = Some(unix(now));
    }

    /// How long ago it did so; `None` if that is no longer, or not yet, among what is observed.
    pub fn since_measured(&self, now: SystemTime) -> Option<Duration> {
        let since = Duration::from_secs(unix(now).saturating_sub(self.measured?));
        (since < INTERVAL * KEPT as u32).then_some(since)
    }

    /// Counts what was carried since the last time, and the rate over the last ten seconds, if that is known.
    pub fn record(&mut self, bytes: u64, rate: Option<u64>, now: SystemTime) {
        self.roll(now);
        // TOML has no larger numbers.
        let most = i64::MAX.unsigned_abs();
        self.open.bytes = self.open.bytes.saturating_add(bytes).min(most);
        self.open.fastest = self.open.fastest.max(rate.unwrap_or_default()).min(most);
    }

    /// The highest rate of the last five days, in bytes a second.
    pub fn observed(&self) -> u64 {
        self.past
            .iter()
            .chain([&self.open])
            .map(|sum| sum.fastest)
            .max()
            .unwrap_or_default()
    }

    /// The whole intervals, if there are any.
    pub fn history(&self) -> Option<History> {
        (!self.past.is_empty()).then(|| History {
            end: SystemTime::UNIX_EPOCH + Duration::from_secs(self.since),
            bytes: self.past.iter().map(|sum| sum.bytes).collect(),
        })
    }

    /// Closes the intervals that are over.
    fn roll(&mut self, now: SystemTime) {
        let now = unix(now);
        let interval = INTERVAL.as_secs();
        if now < self.since {
            // The clock was set back: what was counted stays in the interval that begins anew.
            self.since = now;
        }
        let over = (now - self.since) / interval;
        self.since += over * interval;
        for _ in 0..over.min(KEPT as u64 + 1) {
            self.past.push_back(std::mem::take(&mut self.open));
            if self.past.len() > KEPT {
                self.past.pop_front();
            }
        }
    }

    /// Reads what [`save`](Self::save) wrote; `None` if there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read, or is something else.
    pub fn load(path: &Path) -> Result<Option<Traffic>, TrafficError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(toml::from_str(&text)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the file, whole.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrafficError> {
        let draft = path.with_extension("new");
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(toml::to_string(self)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(draft, path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    /// Counts what was carried in ten seconds.
    fn ten(traffic: &mut Traffic, bytes: u64, now: SystemTime) {
        traffic.record(bytes, Some(bytes / 10), now);
    }

    #[test]
    fn the_rate_is_that_of_any_ten_seconds_and_not_of_fewer() {
        let mut window = Window::default();
        let mut rates = Vec::new();
        // Nothing, then 1000 bytes a second for ten seconds that begin in the middle of everything, then nothing.
        for second in 0..40_u64 {
            let carried = second.clamp(13, 23) - 13;
            rates.push(window.rate(Duration::from_secs(second), carried * 1000));
        }
        assert!(rates[..10].iter().all(Option::is_none));
        assert_eq!(rates[10], Some(0));
        assert_eq!(rates.iter().max(), Some(&Some(1000)));
        assert_eq!(rates[39], Some(0));
        assert!(window.0.len() <= 12, "it forgets");
        // A look that comes late is about all the time that has passed.
        assert_eq!(window.rate(Duration::from_secs(59), 30_000), Some(1000));
    }

    fn day(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + INTERVAL * 20_000 + INTERVAL * u32::try_from(n).unwrap()
    }

    #[test]
    fn the_observed_bandwidth_is_the_fastest_ten_seconds_of_five_days() {
        let mut traffic = Traffic::new(day(0));
        ten(&mut traffic, 50_000_000, day(0) + TEN);
        ten(&mut traffic, 1_000_000, day(0) + 2 * TEN);
        assert_eq!(traffic.observed(), 5_000_000);
        for n in 1..=5 {
            ten(&mut traffic, 1_000_000, day(n));
            assert_eq!(traffic.observed(), 5_000_000);
        }
        ten(&mut traffic, 1_000_000, day(6));
        assert_eq!(traffic.observed(), 100_000);
    }

    #[test]
    fn the_history_has_whole_days_only_and_not_more_than_five() {
        let mut traffic = Traffic::new(day(0));
        ten(&mut traffic, 7, day(0) + TEN);
        assert_eq!(traffic.history(), None);
        ten(&mut traffic, 8, day(1) + TEN);
        let history = traffic.history().unwrap();
        assert_eq!((history.end, history.bytes), (day(1), vec![7]));
        // Two days without a word.
        ten(&mut traffic, 9, day(3) + TEN);
        let history = traffic.history().unwrap();
        assert_eq!((history.end, history.bytes), (day(3), vec![7, 8, 0]));
        ten(&mut traffic, 1, day(1000));
        assert_eq!(traffic.history().unwrap().bytes, [0; 5]);
    }

    #[test]
    fn a_measurement_is_remembered_as_long_as_what_it_showed() {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("traffic.toml");
        let mut traffic = Traffic::new(day(0));
        assert_eq!(traffic.since_measured(day(1)), None);
        traffic.measured(day(1));
        traffic.save(&path).unwrap();
        let traffic = Traffic::load(&path).unwrap().unwrap();
        assert_eq!(traffic.since_measured(day(2)), Some(INTERVAL));
        assert_eq!(traffic.since_measured(day(0)), Some(Duration::ZERO));
        assert_eq!(traffic.since_measured(day(7)), None);
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let mut traffic = Traffic::new(day(5));
        ten(&mut traffic, 7, day(5) + TEN);
        ten(&mut traffic, 7, day(1));
        ten(&mut traffic, 1, day(2));
        assert_eq!(traffic.history().unwrap().bytes, [14]);
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_damaged_is_an_error() {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("traffic.toml");
        assert!(Traffic::load(&path).unwrap().is_none());
        let mut traffic = Traffic::new(day(0));
        ten(&mut traffic, u64::MAX, day(1));
        ten(&mut traffic, 5, day(2));
        traffic.save(&path).unwrap();
        assert_eq!(Traffic::load(&path).unwrap(), Some(traffic));
        std::fs::write(&path, "since = true").unwrap();
        assert!(matches!(Traffic::load(&path), Err(TrafficError::Malformed(_))));
    }
}
