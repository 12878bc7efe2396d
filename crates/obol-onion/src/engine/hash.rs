//! A fast hash for circuit ids and table indices.
//!
//! The peers of a link choose half of its circuit ids, so the hash is keyed: a multiplication by a secret odd number,
//! whose high bits are well mixed. Collisions could then only be found by timing single look-ups across a network.

use core::hash::{BuildHasher, Hasher};

/// Makes [`Multiply`] hashers with one secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Seeded(seed | 1)
    }
}

impl BuildHasher for Seeded {
    type Hasher = Multiply;

    #[inline]
    fn build_hasher(&self) -> Multiply {
        Multiply {
            secret: self.0,
            state: self.0,
        }
    }
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct Multiply {
    secret: u64,
    state: u64,
}

impl Hasher for Multiply {
    #[inline]
    fn finish(&self) -> u64 {
        self.state ^ (self.state >> 32)
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.state = (self.state.rotate_left(29) ^ u64::from(n))
            .wrapping_add(0x9e37_79b9_7f4a_7c15)
            .wrapping_mul(self.secret);
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.write_u32(u32::from(n));
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
}
