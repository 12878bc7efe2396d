//! Who holds how many cells, and who dies first when they become too many.
//!
//! Each class has a budget of its own. Circuits are kept in lists by the size of what they hold (four lists per power of
//! two), so that a large one is found without looking at all of them; a circuit moves between lists only when it crosses
//! a boundary.

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
        let unpaid = (cells / 4).max(1);
        Memory {
            shares: [share(cells.saturating_sub(unpaid).max(1)), share(unpaid)],
        }
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

    /// A circuit now holds `held` cells. Call after every change of that number or of its class.
    #[inline]
    pub(crate) fn update(&mut self, circuits: &mut Table<CircuitId, Box<Circuit>>, index: u32) {
        let Some(circuit) = circuits.at_mut(index) else { return };
        let (held, counted, class) = (circuit.held, circuit.counted, circuit.class);
        circuit.counted = held;
        let node = circuit.node;
        if node.class == class && counted == held {
            return;
        }
        self.shares[node.class as usize].used -= counted as usize;
        self.shares[class as usize].used += held as usize;
        let to = bucket(held);
        if node.class != class || node.bucket != to {
            self.shift(
                circuits,
                index,
                node,
                Node {
                    bucket: to,
                    class,
                    prev: NONE,
                    next: NONE,
                },
            );
        }
    }

    fn shift(&mut self, circuits: &mut Table<CircuitId, Box<Circuit>>, index: u32, from: Node, mut to: Node) {
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
    pub(crate) fn largest(&self, circuits: &Table<CircuitId, Box<Circuit>>, class: Class) -> Option<u32> {
        let share = &self.shares[class as usize];
        let top = 127u32.checked_sub(share.occupied.leading_zeros())?;
        let mut at = share.heads[top as usize];
        let mut largest: Option<(u32, u32)> = None;
        for _ in 0..COMPARED {
            let Some(circuit) = circuits.at(at) else { break };
            if largest.is_none_or(|(held, _)| circuit.held > held) {
                largest = Some((circuit.held, at));
            }
            at = circuit.node.next;
        }
        largest.map(|(_, index)| index)
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
