//! The series of claim numbers k of one escrow, as its payee sees it (H2).
//!
//! k may arrive out of order (several links, several tunnels), but each only once. The last 1,024 are remembered one by one;
//! everything older counts as seen.

/// How many numbers below the highest are told apart.
pub const WINDOW: u32 = 1_024;
/// Sequences on the ledger are S0 + k, and the refund's is S0 + 2^31.
const MAX_K: u32 = 1 << 31;

/// Why a k is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadK {
    /// It was seen, or is too old to tell.
    Seen,
    /// Zero, 2^31 or more, or more than 1,024 above the highest.
    OutOfRange,
}

/// Which k were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    newest: u32,
    /// Bit i: `newest - i` was seen.
    bits: [u64; (WINDOW / 64) as usize],
}

impl Default for Series {
    fn default() -> Self {
        Series {
            newest: 0,
            bits: [0; (WINDOW / 64) as usize],
        }
    }
}

impl Series {
    /// The highest k seen, or zero.
    pub fn newest(&self) -> u32 {
        self.newest
    }

    /// Whether `k` would be new.
    pub fn check(&self, k: u32) -> Result<(), BadK> {
        if k == 0 || k >= MAX_K || k > self.newest.saturating_add(WINDOW) {
            return Err(BadK::OutOfRange);
        }
        if k > self.newest {
            return Ok(());
        }
        let back = self.newest - k;
        if crate::defects::on(crate::defects::Defect::NoReplayBitmap) {
            return Ok(());
        }
        if back >= WINDOW || self.bits[(back / 64) as usize] >> (back % 64) & 1 == 1 {
            return Err(BadK::Seen);
        }
        Ok(())
    }

    /// Remembers `k` as seen.
    pub fn mark(&mut self, k: u32) {
        if k > self.newest {
            self.shift(k - self.newest);
            self.newest = k;
        }
        let back = self.newest - k;
        if back < WINDOW {
            self.bits[(back / 64) as usize] |= 1 << (back % 64);
        }
    }

    fn shift(&mut self, by: u32) {
        if by >= WINDOW {
            self.bits = Default::default();
            return;
        }
        let (words, bits) = ((by / 64) as usize, by % 64);
        for i in (0..self.bits.len()).rev() {
            let high = if i >= words { self.bits[i - words] << bits } else { 0 };
            let low = if bits > 0 && i > words {
                self.bits[i - words - 1] >> (64 - bits)
            } else {
                0
            };
            self.bits[i] = high | low;
        }
    }

    /// As stored: 128 bytes, bit i of the whole (little-endian words) is `newest - i`.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut out = [0; 128];
        for (chunk, word) in out.chunks_exact_mut(8).zip(&self.bits) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// From what was stored.
    pub fn from_bytes(newest: u32, bytes: &[u8; 128]) -> Self {
        let mut bits = [0; (WINDOW / 64) as usize];
        for (chunk, word) in bytes.as_chunks::<8>().0.iter().zip(&mut bits) {
            *word = u64::from_le_bytes(*chunk);
        }
        Series { newest, bits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn each_k_is_taken_once_and_the_window_moves_with_the_highest(
            steps in proptest::collection::vec((any::<bool>(), prop_oneof![0u32..100, 0u32..1_500]), 1..300)
        ) {
            let (mut series, mut seen, mut newest) = (Series::default(), BTreeSet::new(), 0u32);
            for (up, by) in steps {
                let k = if up { newest.saturating_add(by) } else { newest.saturating_sub(by) };
                let expected = if k == 0 || k > newest + WINDOW {
                    Err(BadK::OutOfRange)
                } else if k <= newest && (newest - k >= WINDOW || seen.contains(&k)) {
                    Err(BadK::Seen)
                } else {
                    Ok(())
                };
                prop_assert_eq!(series.check(k), expected);
                if expected.is_ok() {
                    series.mark(k);
                    seen.insert(k);
                    newest = newest.max(k);
                }
                prop_assert_eq!(series.newest(), newest);
                prop_assert_eq!(Series::from_bytes(newest, &series.to_bytes()), series);
            }
        }
    }

    #[test]
    fn a_number_that_is_too_old_to_tell_is_not_remembered() {
        let mut series = Series::from_bytes(2_000, &[0; 128]);
        for k in [1, 2_000 - WINDOW] {
            series.mark(k);
            assert_eq!(series, Series::from_bytes(2_000, &[0; 128]));
        }
        series.mark(2_000 - WINDOW + 1);
        assert_eq!(series.to_bytes()[127], 0x80);
        // And falls out with the next.
        series.mark(2_001);
        assert_eq!(series.to_bytes()[127], 0);
    }

    #[test]
    fn the_last_k_is_below_two_to_the_31() {
        let mut series = Series::from_bytes(MAX_K - 2, &[0; 128]);
        assert_eq!(series.check(MAX_K), Err(BadK::OutOfRange));
        assert_eq!(series.check(MAX_K - 1), Ok(()));
        series.mark(MAX_K - 1);
        assert_eq!(series.check(MAX_K - 1), Err(BadK::Seen));
        assert_eq!(series.check(MAX_K - 1_024), Ok(()));
        assert_eq!(series.check(MAX_K - 1_025), Err(BadK::Seen));
    }
}
