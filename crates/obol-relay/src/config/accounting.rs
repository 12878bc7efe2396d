//! How much a relay carries in a day, a week or a month.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::{Date, Duration, Month, OffsetDateTime, Time};

use super::{ConfigError, Size, ValueError, invalid};

/// A limit for each period, after which the relay sleeps until the next one. In that it wakes at a moment of its own, so
/// that not all relays with a limit are awake at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Accounting {
    /// Bytes of cells that are carried in one period at most, both directions together. From 95 % on no new circuits are
    /// accepted. Absent: no limit.
    pub max: Option<Size>,
    /// When a period begins.
    pub start: Start,
}

impl Accounting {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.max {
            Some(max) if max < Size::mib(64) => Err(invalid(
                "accounting.max",
                format!("is {max}"),
                "allow at least \"64 MiB\", or remove the key",
            )),
            _ => Ok(()),
        }
    }
}

/// When a period begins, in UTC: `"day HH:MM"`, `"week D HH:MM"` (1 is Monday) or `"month D HH:MM"` (1 to 28), as C Tor's
/// `AccountingStart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Start {
    every: Every,
    hour: u8,
    minute: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Every {
    Day,
    Week(u8),
    Month(u8),
}

impl Default for Start {
    /// Midnight before the first of each month.
    fn default() -> Self {
        Start {
            every: Every::Month(1),
            hour: 0,
            minute: 0,
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.every {
            Every::Day => f.write_str("day")?,
            Every::Week(day) => write!(f, "week {day}")?,
            Every::Month(day) => write!(f, "month {day}")?,
        }
        write!(f, " {:02}:{:02}", self.hour, self.minute)
    }
}

impl FromStr for Start {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Start, ValueError> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let day = |text: &str, last| {
            let day = text.parse::<u8>().ok();
            day.filter(|day| (1..=last).contains(day)).ok_or(ValueError::Start)
        };
        let (every, clock) = match parts[..] {
            ["day", clock] => (Every::Day, clock),
            ["week", which, clock] => (Every::Week(day(which, 7)?), clock),
            ["month", which, clock] => (Every::Month(day(which, 28)?), clock),
            _ => return Err(ValueError::Start),
        };
        let (hour, minute) = clock.split_once(':').ok_or(ValueError::Start)?;
        let number = |text: &str, below| {
            let number = text.parse::<u8>().ok();
            number.filter(|number| *number < below).ok_or(ValueError::Start)
        };
        Ok(Start {
            every,
            hour: number(hour, 24)?,
            minute: number(minute, 60)?,
        })
    }
}

impl TryFrom<String> for Start {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Start, ValueError> {
        text.parse()
    }
}

impl From<Start> for String {
    fn from(start: Start) -> String {
        start.to_string()
    }
}

impl Start {
    /// When the period that `now` (unix seconds) is in began, and when the next one begins, unix seconds.
    pub fn period(self, now: u64) -> (u64, u64) {
        let at = |date: Date| {
            let time = Time::from_hms(self.hour, self.minute, 0).unwrap_or(Time::MIDNIGHT);
            u64::try_from(date.with_time(time).assume_utc().unix_timestamp()).unwrap_or(0)
        };
        let now_utc = i64::try_from(now)
            .ok()
            .and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let today = now_utc.date();
        let later = |date: Date, days| date.checked_add(Duration::days(days)).unwrap_or(date);
        match self.every {
            Every::Month(day) => {
                let of = |month: Month, year| Date::from_calendar_date(year, month, day).unwrap_or(today);
                let (month, year) = (today.month(), today.year());
                let before = |month: Month, year| match month {
                    Month::January => (Month::December, year - 1),
                    _ => (month.previous(), year),
                };
                let after = |month: Month, year| match month {
                    Month::December => (Month::January, year + 1),
                    _ => (month.next(), year),
                };
                let this = at(of(month, year));
                if this <= now {
                    let (month, year) = after(month, year);
                    (this, at(of(month, year)))
                } else {
                    let (month, year) = before(month, year);
                    (at(of(month, year)), this)
                }
            }
            Every::Day | Every::Week(_) => {
                let (days, back) = match self.every {
                    Every::Week(day) => {
                        let weekday = today.weekday().number_from_monday();
                        (7, i64::from((weekday + 7 - day) % 7))
                    }
                    _ => (1, 0),
                };
                let this = later(today, -back);
                if at(this) <= now {
                    (at(this), at(later(this, days)))
                } else {
                    (at(later(this, -days)), at(this))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(text: &str) -> u64 {
        let format = time::format_description::well_known::Rfc3339;
        OffsetDateTime::parse(text, &format).unwrap().unix_timestamp() as u64
    }

    #[test]
    fn periods_begin_when_they_should() {
        let cases = [
            (
                "day 06:30",
                "2026-03-01T06:30:00Z",
                "2026-03-01T06:30:00Z",
                "2026-03-02T06:30:00Z",
            ),
            (
                "day 06:30",
                "2026-03-01T06:29:59Z",
                "2026-02-28T06:30:00Z",
                "2026-03-01T06:30:00Z",
            ),
            // 2026-11-21 is a Saturday.
            (
                "week 1 00:00",
                "2026-11-21T12:00:00Z",
                "2026-11-16T00:00:00Z",
                "2026-11-23T00:00:00Z",
            ),
            (
                "week 6 13:00",
                "2026-11-21T12:00:00Z",
                "2026-11-14T13:00:00Z",
                "2026-11-21T13:00:00Z",
            ),
            (
                "week 7 00:00",
                "2026-11-21T12:00:00Z",
                "2026-11-15T00:00:00Z",
                "2026-11-22T00:00:00Z",
            ),
            (
                "month 1 00:00",
                "2026-12-31T23:59:59Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                "month 28 10:00",
                "2027-01-03T00:00:00Z",
                "2026-12-28T10:00:00Z",
                "2027-01-28T10:00:00Z",
            ),
        ];
        for (start, now, begins, ends) in cases {
            let period = start.parse::<Start>().unwrap().period(unix(now));
            assert_eq!(period, (unix(begins), unix(ends)), "{start} at {now}");
        }
    }

    #[test]
    fn starts_read_back_what_they_print_and_nothing_else_is_one() {
        for text in ["day 00:00", "week 7 23:59", "month 28 05:07"] {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "day",
            "day 24:00",
            "week 0 00:00",
            "week 8 00:00",
            "month 29 00:00",
            "year 1 00:00",
            "day 1 1",
        ] {
            assert_eq!(bad.parse::<Start>(), Err(ValueError::Start), "{bad}");
        }
    }
}
