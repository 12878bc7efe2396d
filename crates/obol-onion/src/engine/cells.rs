//! Memory for waiting cells: one pool of slots for all circuits, threaded into lists by index.
//!
//! A slot is taken and given back without the allocator; the pool grows by chunks and keeps them, so that its size is the
//! largest number of cells that ever waited at once, which [`memory`](super::memory) bounds.

use crate::crypto::tor1::BODY_LEN;

/// No slot.
pub(crate) const NIL: u32 = u32::MAX;

/// Slots per chunk.
const CHUNK: u32 = 256;

/// What still has to be done to a waiting cell, and what it counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes out as it is: a RELAY cell.
    Sealed,
    /// Goes out as it is: a RELAY_EARLY cell.
    SealedEarly,
    /// From a later hop: our layer is still to be put on.
    Relayed,
    /// Our own: still to be marked and encrypted.
    Originated,
    /// Our own DATA, which counts in the circuit's window: still to be marked and encrypted.
    Data,
    /// Our own payment message, which is free: still to be marked and encrypted.
    Answer,
}

/// One waiting cell.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    next: u32,
    pub(crate) kind: Kind,
    pub(crate) body: [u8; BODY_LEN],
}

/// A queue of slots, first in, first out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        List {
            head: NIL,
            tail: NIL,
            len: 0,
        }
    }
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Pool {
    chunks: Vec<Box<[Slot]>>,
    free: u32,
    used: usize,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Pool {
            chunks: Vec::new(),
            free: NIL,
            used: 0,
        }
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[cold]
    fn grow(&mut self) {
        let base = self.chunks.len() as u32 * CHUNK;
        let mut chunk = vec![
            Slot {
                next: NIL,
                kind: Kind::Sealed,
                body: [0; BODY_LEN]
            };
            CHUNK as usize
        ];
        for (offset, slot) in chunk.iter_mut().enumerate() {
            slot.next = if offset + 1 == CHUNK as usize {
                self.free
            } else {
                base + offset as u32 + 1
            };
        }
        self.chunks.push(chunk.into_boxed_slice());
        self.free = base;
    }

    #[inline]
    pub(crate) fn slot(&self, index: u32) -> &Slot {
        &self.chunks[(index / CHUNK) as usize][(index % CHUNK) as usize]
    }

    #[inline]
    pub(crate) fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.chunks[(index / CHUNK) as usize][(index % CHUNK) as usize]
    }

    /// A slot that belongs to no list; its body is whatever was there before.
    #[inline]
    pub(crate) fn take(&mut self, kind: Kind) -> u32 {
        if self.free == NIL {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot_mut(index);
        let next = slot.next;
        slot.next = NIL;
        slot.kind = kind;
        self.free = next;
        self.used += 1;
        index
    }

    #[inline]
    pub(crate) fn give_back(&mut self, index: u32) {
        let free = self.free;
        self.slot_mut(index).next = free;
        self.free = index;
        self.used -= 1;
    }

    #[inline]
    pub(crate) fn push(&mut self, list: &mut List, index: u32) {
        if list.tail == NIL {
            list.head = index;
        } else {
            self.slot_mut(list.tail).next = index;
        }
        list.tail = index;
        list.len += 1;
    }

    /// Moves everything in one list to the end of another.
    pub(crate) fn join(&mut self, list: &mut List, more: List) {
        if more.head == NIL {
            return;
        }
        if list.tail == NIL {
            *list = more;
        } else {
            self.slot_mut(list.tail).next = more.head;
            list.tail = more.tail;
            list.len += more.len;
        }
    }

    /// A new slot with this body, at the end of a list.
    #[inline]
    pub(crate) fn append(&mut self, list: &mut List, kind: Kind, body: &[u8; BODY_LEN]) {
        if self.free == NIL {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot_mut(index);
        let next = core::mem::replace(&mut slot.next, NIL);
        slot.kind = kind;
        slot.body = *body;
        self.free = next;
        self.used += 1;
        self.push(list, index);
    }

    /// The first slot of a list, which is given back: what it says stays until another is taken.
    #[inline]
    pub(crate) fn shift(&mut self, list: &mut List) -> Option<&Slot> {
        if list.head == NIL {
            return None;
        }
        let (index, free) = (list.head, self.free);
        self.free = index;
        self.used -= 1;
        let slot = &mut self.chunks[(index / CHUNK) as usize][(index % CHUNK) as usize];
        list.head = core::mem::replace(&mut slot.next, free);
        if list.head == NIL {
            list.tail = NIL;
        }
        list.len -= 1;
        Some(slot)
    }

    #[inline]
    pub(crate) fn pop(&mut self, list: &mut List) -> Option<u32> {
        if list.head == NIL {
            return None;
        }
        let index = list.head;
        let slot = self.slot_mut(index);
        let next = slot.next;
        slot.next = NIL;
        list.head = next;
        if next == NIL {
            list.tail = NIL;
        }
        list.len -= 1;
        Some(index)
    }

    /// Gives a whole list back.
    pub(crate) fn clear(&mut self, list: &mut List) {
        if list.tail != NIL {
            let free = self.free;
            self.slot_mut(list.tail).next = free;
            self.free = list.head;
            self.used -= list.len();
        }
        *list = List::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_order_and_the_pool_stops_growing() {
        let mut pool = Pool::new();
        let (mut one, mut two) = (List::default(), List::default());
        for round in 0..20u32 {
            for n in 0..300u32 {
                let slot = pool.take(Kind::Sealed);
                pool.slot_mut(slot).body[..4].copy_from_slice(&(round * 1000 + n).to_be_bytes());
                pool.push(if n % 2 == 0 { &mut one } else { &mut two }, slot);
            }
            assert_eq!(pool.used(), 300);
            for n in (0..300).step_by(2) {
                let slot = pool.pop(&mut one).unwrap();
                assert_eq!(pool.slot(slot).body[..4], (round * 1000 + n).to_be_bytes());
                pool.give_back(slot);
            }
            assert!(one.len() == 0 && pool.pop(&mut one).is_none());
            pool.clear(&mut two);
            assert_eq!(pool.used(), 0);
        }
        assert_eq!(pool.chunks.len(), 2);
    }
}
