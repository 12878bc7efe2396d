//! How far a relay kept its word, over the last 32 circuits: carried / entrusted (H3, 2.9).
//!
//! ```text
//! good --(32 circuits' sum: carried < 0.8 entrusted)--> shunned for a day --> good, with a clean sheet
//! ```
//!
//! A circuit that ends in peace counts with what was carried on it, and so does one that is still open. Circuits that break together count as
//! one: a relay that is started again breaks all that it has, and so does the client's own network when it goes away. Who breaks
//! them to keep the credit that is left has little to set against that.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::UnixMillis;
use obol_cell::{PeerId, Stroops};

const CIRCUITS: usize = 32;
/// A few circuits that broke say nothing.
const ENOUGH: usize = 4;
/// Money that was refused after it had been entrusted says more.
const ENOUGH_REFUSED: usize = 3;
const DAY_MS: u64 = 86_400_000;
/// What breaks within this of the first is broken by the same thing.
const TOGETHER_MS: u64 = 60_000;

/// A circuit, or some that broke together.
#[derive(Debug)]
struct Entry {
    entrusted: u64,
    carried: u64,
    /// When the first of them broke, if it did.
    broke: Option<UnixMillis>,
}

#[derive(Debug, Default)]
struct Sheet {
    circuits: VecDeque<Entry>,
    shunned_until: Option<UnixMillis>,
}

impl Sheet {
    fn add(&mut self, entrusted: Stroops, carried: Stroops, broke: Option<UnixMillis>) {
        self.circuits.push_back(Entry {
            entrusted: entrusted.get_u64(),
            carried: carried.min(entrusted).get_u64(),
            broke,
        });
        if self.circuits.len() > CIRCUITS {
            self.circuits.pop_front();
        }
    }

    /// True if the relay is shunned from now on, if there are `enough` circuits to tell. `standing` was carried on those that are open.
    fn judge(&mut self, enough: usize, standing: Stroops, now: UnixMillis) -> bool {
        let standing = u128::from(standing.get_u64());
        let (entrusted, carried) = self.circuits.iter().fold((standing, standing), |(e, c), entry| {
            (e + u128::from(entry.entrusted), c + u128::from(entry.carried))
        });
        let bad = self.circuits.len() >= enough && carried * 10 < entrusted * 8;
        if bad {
            self.circuits.clear();
            self.shunned_until = Some(now.plus(DAY_MS));
        }
        bad
    }
}

/// All relays' scores.
#[derive(Debug, Default)]
pub(super) struct Scores {
    sheets: BTreeMap<PeerId, Sheet>,
}

impl Scores {
    /// A circuit ended in peace, after so much was carried on it.
    pub(super) fn record_ended(&mut self, peer: PeerId, carried: Stroops) {
        if !carried.is_zero() {
            self.sheets.entry(peer).or_default().add(carried, carried, None);
        }
    }

    /// So much was `entrusted` to this relay, and it passed nothing of it on. True if that made it shunned; `standing` was carried
    /// on circuits through it that are open.
    pub(super) fn record_kept(&mut self, peer: PeerId, entrusted: Stroops, standing: Stroops, now: UnixMillis) -> bool {
        if entrusted.is_zero() {
            return false;
        }
        let sheet = self.sheets.entry(peer).or_default();
        sheet.add(entrusted, Stroops::ZERO, None);
        sheet.judge(ENOUGH_REFUSED, standing, now)
    }

    /// A circuit that was `opened` then broke: `entrusted` to this relay, `carried` for it. True if that made it shunned.
    pub(super) fn record_broken(
        &mut self,
        peer: PeerId,
        opened: UnixMillis,
        (entrusted, carried): (Stroops, Stroops),
        standing: Stroops,
        now: UnixMillis,
    ) -> bool {
        if entrusted.is_zero() {
            return false;
        }
        let sheet = self.sheets.entry(peer).or_default();
        let last = sheet.circuits.iter_mut().rev().find(|entry| entry.broke.is_some());
        let together = |broke: UnixMillis| opened < broke && now < broke.plus(TOGETHER_MS);
        match last.filter(|event| event.broke.is_some_and(together)) {
            Some(event) => {
                event.entrusted = event.entrusted.saturating_add(entrusted.get_u64());
                event.carried = event.carried.saturating_add(carried.min(entrusted).get_u64());
            }
            None => sheet.add(entrusted, carried, Some(now)),
        }
        sheet.judge(ENOUGH, standing, now)
    }

    /// Whether nothing more than the smallest step is entrusted to it now.
    pub(super) fn shunned(&self, peer: PeerId, now: UnixMillis) -> bool {
        self.sheets
            .get(&peer)
            .and_then(|s| s.shunned_until)
            .is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 32]);

    fn s(n: i64) -> Stroops {
        Stroops::new(n).unwrap()
    }

    /// A circuit of its own, opened at `now`, that breaks a second later.
    fn breaks(scores: &mut Scores, entrusted: i64, carried: i64, now: u64) -> bool {
        let sums = (s(entrusted), s(carried));
        scores.record_broken(PEER, UnixMillis(now), sums, Stroops::ZERO, UnixMillis(now + 1_000))
    }

    #[test]
    fn a_relay_that_keeps_a_quarter_is_shunned_for_a_day_after_four_circuits() {
        let mut scores = Scores::default();
        for n in 1..=3 {
            assert!(!breaks(&mut scores, 100, 75, n * 10_000));
        }
        assert!(!scores.shunned(PEER, UnixMillis(0)));
        assert!(breaks(&mut scores, 100, 75, 40_000));
        assert!(scores.shunned(PEER, UnixMillis(DAY_MS + 40_999)));
        assert!(!scores.shunned(PEER, UnixMillis(DAY_MS + 41_000)));
    }

    #[test]
    fn one_failure_among_many_good_circuits_is_forgiven() {
        let mut scores = Scores::default();
        for _ in 0..10 {
            scores.record_ended(PEER, s(100));
        }
        assert!(!breaks(&mut scores, 100, 0, 0));
        assert!(!scores.shunned(PEER, UnixMillis(0)));
    }

    #[test]
    fn carrying_more_than_was_bought_does_not_make_up_for_keeping_money() {
        let mut scores = Scores::default();
        breaks(&mut scores, 100, 1_000_000, 0);
        for n in 1..=2 {
            breaks(&mut scores, 100, 0, n * 10_000);
        }
        assert!(breaks(&mut scores, 100, 0, 30_000));
    }

    #[test]
    fn circuits_that_break_together_are_one_event() {
        let mut scores = Scores::default();
        let (opened, broke) = (UnixMillis(0), UnixMillis(5_000));
        for event in 1..=4 {
            for _ in 0..10 {
                let at = broke.plus(event * 10_000);
                let sums = (s(100), s(50));
                let bad = scores.record_broken(PEER, opened.plus(event * 10_000), sums, Stroops::ZERO, at);
                assert_eq!(bad, event == 3, "event {event}");
                if bad {
                    return;
                }
            }
            // Something that ends in between does not make two of one.
            scores.record_ended(PEER, s(1));
        }
    }

    #[test]
    fn circuits_that_break_one_after_the_other_are_no_one_event_though_all_were_open_before() {
        let mut scores = Scores::default();
        for n in 1..=4 {
            let (sums, at) = ((s(100), s(50)), UnixMillis(n * TOGETHER_MS));
            assert_eq!(
                scores.record_broken(PEER, UnixMillis(0), sums, Stroops::ZERO, at),
                n == 4
            );
        }
    }

    #[test]
    fn circuits_that_end_in_peace_or_are_open_stand_against_those_that_break() {
        let mut scores = Scores::default();
        for n in 0..10 {
            for _ in 0..3 {
                scores.record_ended(PEER, s(100));
            }
            assert!(!breaks(&mut scores, 100, 50, n * 10_000), "{n}");
        }
        let mut scores = Scores::default();
        for n in 0..10 {
            let (opened, broke) = (UnixMillis(n * 10_000), UnixMillis(n * 10_000 + 1));
            assert!(
                !scores.record_broken(PEER, opened, (s(100), s(50)), s(2_000), broke),
                "{n}"
            );
        }
    }

    #[test]
    fn money_that_is_kept_again_and_again_is_no_one_event() {
        let mut scores = Scores::default();
        for n in 1..=3 {
            assert_eq!(scores.record_kept(PEER, s(10), Stroops::ZERO, UnixMillis(0)), n == 3);
        }
    }
}
