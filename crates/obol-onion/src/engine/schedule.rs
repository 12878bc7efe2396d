//! Who sends next: two classes with weights, neighbours in the unpaid one, circuits in both.
//!
//! ```text
//!              paid (16) ── circuit ─ circuit ─ circuit ...              one cell each in turn
//!  link or all
//!              unpaid (1) ─ neighbour ── circuit ─ circuit ...           neighbours in turn, then circuits in turn
//!                         └ neighbour ── circuit ...
//! ```
//!
//! All cells have the same length, so weighted deficit round robin is counting cells. Weights matter only while both
//! classes have something to send; otherwise either gets everything. A queue is in at most one place: its *ticket* says
//! which of the entries that name it is the valid one; others are passed over, and swept out when they become many.

use std::collections::{HashMap, VecDeque};

use super::hash::Seeded;

/// Cells of the paid class for one of the unpaid one, while both have some.
pub(crate) const PAID_WEIGHT: u8 = 16;

/// Paid or unpaid: does the circuit have credit?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The circuit has credit.
    Paid,
    /// It has none.
    Unpaid,
}

/// A place in a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which queue: twice the circuit's index, and one more away from the client.
    pub(crate) queue: u32,
    /// Valid if the queue has this ticket.
    pub(crate) ticket: u32,
}

/// One neighbour's circuits.
#[derive(Debug, Default)]
struct Group {
    neighbour: u32,
    entries: VecDeque<Entry>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Schedule {
    paid: VecDeque<Entry>,
    groups: Vec<Group>,
    spare: Vec<u32>,
    ring: VecDeque<u32>,
    by_neighbour: HashMap<u32, u32, Seeded>,
    unpaid: usize,
    /// Cells of the paid class still to come before one of the unpaid class.
    turn: u8,
}

impl Schedule {
    pub(crate) fn new(seed: Seeded) -> Self {
        Schedule {
            paid: VecDeque::new(),
            groups: Vec::new(),
            spare: Vec::new(),
            ring: VecDeque::new(),
            by_neighbour: HashMap::with_hasher(seed),
            unpaid: 0,
            turn: PAID_WEIGHT,
        }
    }

    /// Entries, valid or not.
    pub(crate) fn len(&self) -> usize {
        self.paid.len() + self.unpaid
    }

    pub(crate) fn push(&mut self, class: Class, neighbour: u32, entry: Entry) {
        match class {
            Class::Paid => self.paid.push_back(entry),
            Class::Unpaid => self.push_unpaid(neighbour, entry),
        }
    }

    fn push_unpaid(&mut self, neighbour: u32, entry: Entry) {
        let group = match self.by_neighbour.get(&neighbour) {
            Some(group) => *group,
            None => {
                let group = self.spare.pop().unwrap_or_else(|| {
                    self.groups.push(Group::default());
                    self.groups.len() as u32 - 1
                });
                self.groups[group as usize].neighbour = neighbour;
                self.by_neighbour.insert(neighbour, group);
                self.ring.push_back(group);
                group
            }
        };
        self.groups[group as usize].entries.push_back(entry);
        self.unpaid += 1;
    }

    /// Whose turn it is, among the classes that may send.
    pub(crate) fn turn(&self, paid: bool, unpaid: bool) -> Option<Class> {
        match (paid && !self.paid.is_empty(), unpaid && self.unpaid > 0) {
            (false, false) => None,
            (true, false) => Some(Class::Paid),
            (false, true) => Some(Class::Unpaid),
            (true, true) if self.turn > 0 => Some(Class::Paid),
            (true, true) => Some(Class::Unpaid),
        }
    }

    /// The next entry of a class, taken out.
    pub(crate) fn pop(&mut self, class: Class) -> Option<Entry> {
        match class {
            Class::Paid => self.paid.pop_front(),
            Class::Unpaid => {
                let group = self.ring.pop_front()?;
                let this = &mut self.groups[group as usize];
                let entry = this.entries.pop_front();
                self.unpaid -= usize::from(entry.is_some());
                if this.entries.is_empty() {
                    self.by_neighbour.remove(&this.neighbour);
                    self.spare.push(group);
                } else {
                    self.ring.push_back(group);
                }
                entry
            }
        }
    }

    /// A cell of this class was sent.
    pub(crate) fn sent(&mut self, class: Class) {
        match class {
            Class::Unpaid => self.turn = PAID_WEIGHT,
            Class::Paid if self.unpaid > 0 => self.turn = self.turn.saturating_sub(1),
            Class::Paid => {}
        }
    }

    /// Forgets entries that are no longer valid.
    pub(crate) fn sweep(&mut self, valid: impl Fn(&Entry) -> bool) {
        self.paid.retain(&valid);
        self.unpaid = 0;
        for group in &self.ring {
            let this = &mut self.groups[*group as usize];
            this.entries.retain(&valid);
            self.unpaid += this.entries.len();
            if this.entries.is_empty() {
                self.by_neighbour.remove(&this.neighbour);
                self.spare.push(*group);
            }
        }
        let groups = &self.groups;
        self.ring.retain(|group| !groups[*group as usize].entries.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(schedule: &mut Schedule, cells: usize, mut neighbour_of: impl FnMut(u32) -> u32) -> HashMap<u32, usize> {
        let mut sent = HashMap::new();
        for _ in 0..cells {
            let class = schedule.turn(true, true).unwrap();
            let entry = schedule.pop(class).unwrap();
            schedule.sent(class);
            *sent.entry(entry.queue).or_default() += 1;
            schedule.push(class, neighbour_of(entry.queue), entry);
        }
        sent
    }

    #[test]
    fn classes_share_sixteen_to_one_and_the_unpaid_one_by_neighbour() {
        let mut schedule = Schedule::new(Seeded::new(1));
        let neighbour_of = |queue: u32| if queue < 103 { 7 } else { 8 };
        for queue in [1, 2] {
            schedule.push(Class::Paid, 0, Entry { queue, ticket: 1 });
        }
        // Three circuits of one neighbour, one of another.
        for queue in [100, 101, 102, 103] {
            schedule.push(Class::Unpaid, neighbour_of(queue), Entry { queue, ticket: 1 });
        }
        let sent = run(&mut schedule, 1700 * 6, neighbour_of);
        assert_eq!((sent[&1], sent[&2]), (4800, 4800));
        assert_eq!((sent[&100], sent[&101], sent[&102], sent[&103]), (100, 100, 100, 300));
    }

    #[test]
    fn a_class_alone_gets_everything() {
        let mut schedule = Schedule::new(Seeded::new(1));
        schedule.push(Class::Unpaid, 1, Entry { queue: 5, ticket: 1 });
        assert_eq!(run(&mut schedule, 100, |_| 1)[&5], 100);
        assert_eq!(schedule.turn(true, false), None);
        schedule.sweep(|_| false);
        assert!(schedule.len() == 0 && schedule.pop(Class::Unpaid).is_none());
    }
}
