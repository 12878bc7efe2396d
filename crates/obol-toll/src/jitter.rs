//! Random times and random choices, from a seed that the caller gives. Not for keys.

/// xoshiro256**, seeded by the caller.
#[derive(Clone)]
pub(crate) struct Jitter([u64; 4]);

impl std::fmt::Debug for Jitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jitter(..)")
    }
}

impl Jitter {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut state = [0; 4];
        for (word, chunk) in state.iter_mut().zip(seed.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        // The all-zero state is the one that the generator never leaves.
        state[0] |= u64::from(state == [0; 4]);
        Jitter(state)
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// From 0 to `most`, both included.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.next()) * (u128::from(most) + 1)) >> 64) as u64
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.up_to(n.saturating_sub(1)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_within_their_bounds_and_spread_over_them() {
        let mut jitter = Jitter::new([7; 32]);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[jitter.up_to(9) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (800..1_200).contains(n)), "{seen:?}");
        assert_eq!(jitter.up_to(0), 0);
        assert!((0..100).any(|_| jitter.up_to(u64::MAX) > u64::MAX / 2));
        let hits = (0..16_000).filter(|_| jitter.one_in(16)).count();
        assert!((800..1_200).contains(&hits), "{hits}");
        assert!(jitter.one_in(1) && jitter.one_in(0));
    }

    #[test]
    fn two_seeds_give_two_sequences_and_no_seed_gives_none() {
        let first = |seed| {
            let mut jitter = Jitter::new(seed);
            [(); 8].map(|()| jitter.up_to(u64::MAX - 1))
        };
        assert_eq!(first([1; 32]), first([1; 32]));
        assert_ne!(first([1; 32]), first([2; 32]));
        let zero = first([0; 32]);
        assert!(zero.iter().any(|n| *n != zero[0]));
    }
}
