//! Random delays and choices, from a seed that the caller gives: the machine draws no randomness of its own.

/// SplitMix64. Good for spreading events in time; nothing secret depends on it but *when* something happens, and the seed
/// is drawn by the caller from the system's generator.
#[derive(Debug, Clone)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let mut state = 0u64;
        for part in seed.chunks_exact(8) {
            let mut eight = [0; 8];
            eight.copy_from_slice(part);
            state = state.rotate_left(17) ^ u64::from_le_bytes(eight);
        }
        Jitter(state)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From zero to `most`, both included.
    pub(super) fn up_to(&mut self, most: u64) -> u64 {
        match most.checked_add(1) {
            Some(span) => (u128::from(self.next()) * u128::from(span) >> 64) as u64,
            None => self.next(),
        }
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.up_to(n.saturating_sub(1)) == 0
    }
}
