//! The running SHA-1 of a circuit's direction.

use super::lanes::{self, Block};

/// A running SHA-1: of what one end marked in one direction of a circuit. It can be asked for its value at any time and
/// goes on from where it was.
#[derive(Clone)]
pub struct Digest {
    /// What came out of the last whole block.
    pub(super) chain: [u32; 5],
    /// What follows the last whole block; the rest is whatever was there before.
    pub(super) tail: Block,
    /// Bytes so far.
    pub(super) len: u64,
}

impl Digest {
    /// A digest that has seen `seed`.
    pub(super) fn new(seed: &[u8; 20]) -> Self {
        let mut digest = Self {
            chain: lanes::START,
            tail: [0; 64],
            len: 0,
        };
        digest.update(seed);
        digest
    }

    /// Goes on over `data`.
    pub(super) fn update(&mut self, mut data: &[u8]) {
        let kept = in_tail(self.len);
        self.len = self.len.wrapping_add(data.len() as u64);
        if kept > 0 {
            let free = &mut self.tail[kept..];
            let Some((head, rest)) = data.split_at_checked(free.len()) else {
                free[..data.len()].copy_from_slice(data);
                return;
            };
            free.copy_from_slice(head);
            lanes::alone(&mut self.chain, &self.tail);
            data = rest;
        }
        let (blocks, rest) = data.as_chunks();
        for block in blocks {
            lanes::alone(&mut self.chain, block);
        }
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    /// The SHA-1 of everything so far.
    pub(super) fn value(&self) -> [u8; 20] {
        to_bytes(self.last_chain())
    }

    /// The chaining value after the padding.
    pub(super) fn last_chain(&self) -> [u32; 5] {
        let mut chain = self.chain;
        lanes::alone(&mut chain, &last_block(&self.tail[..in_tail(self.len)], self.len));
        if let Some(block) = very_last_block(self.len) {
            lanes::alone(&mut chain, &block);
        }
        chain
    }
}

impl core::fmt::Debug for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Whoever knows the state can forge cells.
        f.write_str("Digest(..)")
    }
}

/// How many bytes follow the last whole block of `len` bytes.
pub(super) fn in_tail(len: u64) -> usize {
    (len % 64) as usize
}

/// The block that follows the last whole one of `len` bytes: the bytes behind that, and the padding or its beginning.
pub(super) fn last_block(tail: &[u8], len: u64) -> Block {
    let mut block = [0; 64];
    block[..tail.len()].copy_from_slice(tail);
    block[tail.len()] = 0x80;
    if in_tail(len) < 56 {
        block[56..].copy_from_slice(&len.wrapping_mul(8).to_be_bytes());
    }
    block
}

/// The block after [`last_block`], if there was no space for the length in it.
pub(super) fn very_last_block(len: u64) -> Option<Block> {
    (in_tail(len) >= 56).then(|| {
        let mut block = [0; 64];
        block[56..].copy_from_slice(&len.wrapping_mul(8).to_be_bytes());
        block
    })
}

/// A chaining value as it is written.
pub(super) fn to_bytes(chain: [u32; 5]) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(chain) {
        *to = word.to_be_bytes();
    }
    bytes
}
