//! Who holds how many cells, and who dies first when they become too many.
//!
//! Each class has a budget of its own. Circuits are kept in lists by the size of what they hold (four lists per power of
//! two), so that a large one is found without looking at all of them. A circuit moves up when it crosses a boundary, and
//! down only when the largest is looked for: most cells come and go without touching a list.

use super::circuit::Circuit;
use super::ids::{CircuitId, Table};
use super::schedule::Class;

/// No circuit.
const NONE: u32 = u32::MAX;

/// How many circuits of the topmost list are compared for the largest.
const COMPARED: usize = 32;

/// A circuit's place in the lists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    bucket: u8,
    class: Class,
    prev: u32,
    next: u32,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            bucket: 0,
            class: Class::Unpaid,
            prev: NONE,
            next: NONE,
        }
    }
}

/// The list for a circuit that holds so many cells; 0 is none.
fn bucket(held: u32) -> u8 {
    match held {
        0 => 0,
        1 => 1,
        2..=3 => 2,
        4..=7 => 3,
        _ => {
            let log = held.ilog2();
            (4 * (log - 2) + ((held >> (log - 2)) & 3)) as u8
        }
    }
}

#[derive(Debug)]
struct Share {
    used: usize,
    budget: usize,
    heads: [u32; 128],
    /// Which lists have anybody.
    occupied: u128,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Memory {
    shares: [Share; 2],
}

impl Memory {
    /// `cells`: what all circuits together may hold.
    pub(crate) fn new(cells: usize) -> Self {
        let share = |budget| Share {
            used: 0,
            budget,
            heads: [NONE; 128],
            occupied: 0,
        };
        let mut memory = Memory {
            shares: [share(0), share(0)],
        };
        memory.set_budget(cells);
        memory
    }

    /// Changes what all circuits together may hold.
    pub(crate) fn set_budget(&mut self, cells: usize) {
        let unpaid = (cells / 4).max(1);
        self.shares[Class::Unpaid as usize].budget = unpaid;
        self.shares[Class::Paid as usize].budget = cells.saturating_sub(unpaid).max(1);
    }

    /// Cells that the circuits of a class hold.
    pub(crate) fn used(&self, class: Class) -> usize {
        self.shares[class as usize].used
    }

    /// Whether a class holds more than it may.
    #[inline]
    pub(crate) fn is_over(&self, class: Class) -> bool {
        let share = &self.shares[class as usize];
        share.used > share.budget
    }

    /// What a circuit holds, or its class, has changed. Call after every change.
    #[inline]
    pub(crate) fn update(&mut self, circuits: &mut Table<CircuitId, Box<Circuit>>, index: u32) {
        if circuits.at_mut(index).is_some_and(|circuit| self.count(circuit)) {
            self.place(circuits, index);
        }
    }

    /// The first half of [`update`](Self::update): counts. True: the other half is needed too.
    #[inline]
    pub(crate) fn count(&mut self, circuit: &mut Circuit) -> bool {
        let (held, class, node) = (circuit.held, circuit.class, circuit.node);
        let counted = core::mem::replace(&mut circuit.counted, held);
        self.shares[node.class as usize].used -= counted as usize;
        self.shares[class as usize].used += held as usize;
        node.class != class || (held > counted && bucket(held) > node.bucket)
    }

    /// The second half: puts a circuit into the list where it belongs.
    #[cold]
    pub(crate) fn place(&mut self, circuits: &mut Table<CircuitId, Box<Circuit>>, index: u32) {
        if let Some(circuit) = circuits.at(index) {
            self.shift(circuits, index, circuit.node, bucket(circuit.held), circuit.class);
        }
    }

    /// A circuit is about to be removed; it holds nothing any more.
    pub(crate) fn forget(&mut self, circuits: &mut Table<CircuitId, Box<Circuit>>, index: u32) {
        self.update(circuits, index);
        if let Some(circuit) = circuits.at(index) {
            self.shift(circuits, index, circuit.node, 0, circuit.class);
        }
    }

    /// Moves a circuit between lists.
    fn shift(
        &mut self,
        circuits: &mut Table<CircuitId, Box<Circuit>>,
        index: u32,
        from: Node,
        bucket: u8,
        class: Class,
    ) {
        let mut to = Node {
            bucket,
            class,
            ..Node::default()
        };
        if from.bucket != 0 {
            if let Some(next) = circuits.at_mut(from.next) {
                next.node.prev = from.prev;
            }
            match circuits.at_mut(from.prev) {
                Some(prev) => prev.node.next = from.next,
                None => {
                    let share = &mut self.shares[from.class as usize];
                    share.heads[usize::from(from.bucket)] = from.next;
                    if from.next == NONE {
                        share.occupied &= !(1 << from.bucket);
                    }
                }
            }
        }
        if to.bucket != 0 {
            let share = &mut self.shares[to.class as usize];
            to.next = share.heads[usize::from(to.bucket)];
            share.heads[usize::from(to.bucket)] = index;
            share.occupied |= 1 << to.bucket;
            if let Some(next) = circuits.at_mut(to.next) {
                next.node.prev = index;
            }
        }
        if let Some(circuit) = circuits.at_mut(index) {
            circuit.node = to;
        }
    }

    /// The circuit of a class that holds most, give or take a fifth when there are very many of its size.
    /// Those that have shrunk are moved down on the way, each at most once for the time that it moved up.
    pub(crate) fn largest(&mut self, circuits: &mut Table<CircuitId, Box<Circuit>>, class: Class) -> Option<u32> {
        loop {
            let share = &self.shares[class as usize];
            let top = 127u32.checked_sub(share.occupied.leading_zeros())?;
            let mut at = share.heads[top as usize];
            let mut largest: Option<(u32, u32)> = None;
            let mut compared = 0;
            while compared < COMPARED
                && let Some(circuit) = circuits.at(at)
            {
                let (held, node, index) = (circuit.held, circuit.node, at);
                at = node.next;
                if bucket(held) < node.bucket {
                    self.shift(circuits, index, node, bucket(held), class);
                    continue;
                }
                compared += 1;
                if largest.is_none_or(|(most, _)| held > most) {
                    largest = Some((held, index));
                }
            }
            if let Some((_, index)) = largest {
                return Some(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn lists_are_ordered_by_size_and_a_quarter_of_a_power_of_two_wide() {
        let mut last = 0;
        for held in 0..100_000u32 {
            let this = bucket(held);
            assert!(this == last || this == last + 1, "{held}");
            last = this;
        }
        assert_ne!(bucket(1000), bucket(1300));
        assert!(usize::from(bucket(u32::MAX)) < 128);
    }
}
