//! What may be signed away, and what has been: for one tunnel, on a day, in a month, in all. Days and months are UTC's.

use crate::clock::UnixMillis;
use crate::fact::PayerFact;
use obol_cell::Stroops;

/// The most that is signed away; `None`: no limit but what the escrows hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budgets {
    /// For one tunnel.
    pub tunnel: Option<Stroops>,
    /// On one day.
    pub day: Option<Stroops>,
    /// In one calendar month.
    pub month: Option<Stroops>,
    /// In all.
    pub total: Option<Stroops>,
}

/// What has been signed away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// On this day.
    pub day: Stroops,
    /// In this month.
    pub month: Stroops,
    /// In all.
    pub total: Stroops,
}

/// The account of it, as the journal keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spending {
    pub(super) total: Stroops,
    /// The newest day on which something was spent (since 1970), and what had been spent before it.
    day: Option<(u32, Stroops)>,
    /// The first such day of its month, likewise.
    month: Option<(u32, Stroops)>,
}

/// The day of a time, since 1970.
fn day_of(now: UnixMillis) -> u32 {
    u32::try_from(now.secs() / 86_400).unwrap_or(u32::MAX)
}

/// The month of a day, counted from the year 0: a calendar whose years begin in March, so that leap days come last.
fn month_of(day: u32) -> u64 {
    let day = u64::from(day) + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    (era * 400 + year) * 12 + month
}

impl Spending {
    pub(super) fn apply(&mut self, fact: &PayerFact) {
        match *fact {
            PayerFact::Spent { total } => self.total = self.total.max(total),
            PayerFact::Day { day, before } => self.begin(day, before),
            PayerFact::Out(_) | PayerFact::NewEpoch => {}
        }
    }

    fn begin(&mut self, day: u32, before: Stroops) {
        if self.month.is_none_or(|(first, _)| month_of(first) != month_of(day)) {
            self.month = Some((day, before));
        }
        self.day = Some((day, before));
    }

    /// This day, never before one on which something was spent: a clock that is set back makes no room.
    fn today(&self, now: UnixMillis) -> u32 {
        self.day.map_or(0, |(day, _)| day).max(day_of(now))
    }

    pub(super) fn spent(&self, now: UnixMillis) -> Spent {
        let today = self.today(now);
        let since = |begun: Option<Stroops>| self.total.saturating_sub(begun.unwrap_or(self.total));
        let day = self.day.filter(|(day, _)| *day == today).map(|(_, before)| before);
        let month = self.month.filter(|(first, _)| month_of(*first) == month_of(today));
        Spent {
            day: since(day),
            month: since(month.map(|(_, before)| before)),
            total: self.total,
        }
    }

    /// The account with `rise` more, if the budgets allow it, and what has to be recorded of it.
    pub(super) fn with(&self, rise: Stroops, budgets: &Budgets, now: UnixMillis) -> Option<(Spending, Vec<PayerFact>)> {
        let (mut new, mut facts) = (*self, Vec::new());
        if rise.is_zero() {
            return Some((new, facts));
        }
        let today = self.today(now);
        if self.day.is_none_or(|(day, _)| day < today) {
            new.begin(today, self.total);
            facts.push(PayerFact::Day {
                day: today,
                before: self.total,
            });
        }
        new.total = self.total.checked_add(rise)?;
        facts.push(PayerFact::Spent { total: new.total });
        let spent = new.spent(now);
        let fits = |sum: Stroops, budget: Option<Stroops>| budget.is_none_or(|budget| sum <= budget);
        let all = fits(spent.day, budgets.day) && fits(spent.month, budgets.month) && fits(spent.total, budgets.total);
        all.then_some((new, facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(n: i64) -> Stroops {
        Stroops::new(n).unwrap()
    }

    fn at(day: u32, hour: u64) -> UnixMillis {
        UnixMillis::from_secs(u64::from(day) * 86_400 + hour * 3_600)
    }

    /// 1 January, 28 and 29 February, 1 March 2028; 31 December 2028.
    const DAYS: [u32; 5] = [21_184, 21_242, 21_243, 21_244, 21_549];

    #[test]
    fn months_are_the_calendars() {
        let months = DAYS.map(month_of);
        let first = months[0];
        assert_eq!(months.map(|month| month - first), [0, 1, 1, 2, 11]);
        // 400 years have 4,800 months, and each has 28 to 31 days.
        let mut begin = 0;
        let mut count = 0;
        for day in 1..146_097 {
            if month_of(day) != month_of(day - 1) {
                assert_eq!(month_of(day), month_of(day - 1) + 1);
                assert!((28..=31).contains(&(day - begin)), "{day}");
                (begin, count) = (day, count + 1);
            }
        }
        assert_eq!(count, 4_799);
    }

    #[test]
    fn a_day_and_a_month_have_room_again_when_they_begin_and_a_clock_that_is_set_back_makes_none() {
        let budgets = Budgets {
            day: Some(s(10)),
            month: Some(s(15)),
            total: Some(s(30)),
            ..Budgets::default()
        };
        let mut account = Spending::default();
        let mut pay = |rise, now| match account.with(s(rise), &budgets, now) {
            Some((new, _)) => {
                account = new;
                true
            }
            None => false,
        };
        assert!(pay(10, at(DAYS[1], 3)));
        assert!(!pay(1, at(DAYS[1], 23)), "the day's is spent");
        assert!(!pay(1, at(DAYS[0], 0)), "the clock was set back");
        assert!(pay(5, at(DAYS[2], 0)));
        assert!(!pay(1, at(DAYS[2], 1)), "the month's is spent");
        assert!(pay(10, at(DAYS[3], 0)), "a new month");
        assert!(!pay(6, at(DAYS[4], 0)), "in all");
        assert!(pay(5, at(DAYS[4], 0)));
        assert!(!pay(1, at(DAYS[4], 0)));
        assert_eq!(account.total, s(30));
    }

    proptest! {
        #[test]
        fn an_account_of_the_recorded_facts_is_the_same(steps in prop::collection::vec((0u32..90, 0i64..50), 0..60)) {
            let (mut account, mut kept, mut day) = (Spending::default(), Vec::new(), 21_184);
            for (days, rise) in steps {
                day += days;
                let before = account.spent(at(day, 1));
                let (new, facts) = account.with(s(rise), &Budgets::default(), at(day, 2)).unwrap();
                account = new;
                kept.extend(facts);
                let after = account.spent(at(day, 3));
                prop_assert_eq!(after.day, before.day.checked_add(s(rise)).unwrap());
                prop_assert_eq!(after.month, before.month.checked_add(s(rise)).unwrap());
            }
            let mut read = Spending::default();
            kept.iter().for_each(|fact| read.apply(fact));
            prop_assert_eq!(read, account);
        }
    }
}
