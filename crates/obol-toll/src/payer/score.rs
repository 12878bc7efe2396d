//! How far a relay kept its word, over the last 32 circuits: carried / entrusted (H3, 2.9).
//!
//! ```text
//! good --(32 circuits' sum: carried < 0.8 entrusted)--> shunned for a day --> good, with a clean sheet
//! ```

use std::collections::{BTreeMap, VecDeque};

use crate::clock::UnixMillis;
use obol_cell::{PeerId, Stroops};

const CIRCUITS: usize = 32;
/// A single bad circuit says nothing.
const ENOUGH: usize = 3;
const DAY_MS: u64 = 86_400_000;

#[derive(Debug, Default)]
struct Sheet {
    circuits: VecDeque<(u64, u64)>,
    shunned_until: Option<UnixMillis>,
}

/// All relays' scores.
#[derive(Debug, Default)]
pub(super) struct Scores {
    sheets: BTreeMap<PeerId, Sheet>,
}

impl Scores {
    /// A circuit ended: `entrusted` to this relay, `carried` for it. True if that made it shunned.
    pub(super) fn record(&mut self, peer: PeerId, entrusted: Stroops, carried: Stroops, now: UnixMillis) -> bool {
        if entrusted.is_zero() {
            return false;
        }
        let sheet = self.sheets.entry(peer).or_default();
        let carried = carried.min(entrusted);
        sheet.circuits.push_back((entrusted.get_u64(), carried.get_u64()));
        if sheet.circuits.len() > CIRCUITS {
            sheet.circuits.pop_front();
        }
        let (entrusted, carried) = sheet.circuits.iter().fold((0u128, 0u128), |(e, c), (de, dc)| {
            (e + u128::from(*de), c + u128::from(*dc))
        });
        let bad = sheet.circuits.len() >= ENOUGH && carried * 10 < entrusted * 8;
        if bad {
            sheet.circuits.clear();
            sheet.shunned_until = Some(now.plus(DAY_MS));
        }
        bad
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

    fn s(n: i64) -> Stroops {
        Stroops::new(n).unwrap()
    }

    #[test]
    fn a_relay_that_keeps_a_quarter_is_shunned_for_a_day_after_three_circuits() {
        let (mut scores, peer, now) = (Scores::default(), PeerId([1; 32]), UnixMillis(0));
        assert!(!scores.record(peer, s(100), s(75), now));
        assert!(!scores.record(peer, s(100), s(75), now));
        assert!(!scores.shunned(peer, now));
        assert!(scores.record(peer, s(100), s(75), now));
        assert!(scores.shunned(peer, now.plus(DAY_MS - 1)));
        assert!(!scores.shunned(peer, now.plus(DAY_MS)));
    }

    #[test]
    fn one_failure_among_many_good_circuits_is_forgiven() {
        let (mut scores, peer, now) = (Scores::default(), PeerId([1; 32]), UnixMillis(0));
        for _ in 0..10 {
            assert!(!scores.record(peer, s(100), s(100), now));
        }
        assert!(!scores.record(peer, s(100), s(0), now));
        assert!(!scores.shunned(peer, now));
    }

    #[test]
    fn carrying_more_than_was_bought_does_not_make_up_for_keeping_money() {
        let (mut scores, peer, now) = (Scores::default(), PeerId([1; 32]), UnixMillis(0));
        scores.record(peer, s(100), s(1_000_000), now);
        scores.record(peer, s(100), s(0), now);
        assert!(scores.record(peer, s(100), s(0), now));
    }
}
