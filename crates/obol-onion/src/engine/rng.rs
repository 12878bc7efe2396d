//! The engine's own random bytes: the key stream of a seed that it is given.

use cipher::{KeyIvInit as _, StreamCipher as _};

/// AES-128 in counter mode under a key from outside. For circuit ids and the padding of cells.
pub(crate) struct Rng(ctr::Ctr128BE<aes::Aes128>);

impl core::fmt::Debug for Rng {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Rng(..)")
    }
}

impl Rng {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let (key, iv) = seed.split_at(16);
        let key: [u8; 16] = key.try_into().expect("half of 32 bytes");
        let iv: [u8; 16] = iv.try_into().expect("half of 32 bytes");
        Rng(ctr::Ctr128BE::new(&key.into(), &iv.into()))
    }

    /// Overwrites `bytes`.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
        self.0.apply_keystream(bytes);
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }
}
