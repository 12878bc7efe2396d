//! Who sends next: two classes with weights, neighbours in the unpaid one, circuits in both.
//!
//! ```text
//!              paid (16) ── circuit ─ circuit ─ circuit ...              in turn, a short run of cells each
//!  link or all
//!              unpaid (1) ─ neighbour ── circuit ─ circuit ...           neighbours in turn, then circuits in turn
//!                         └ neighbour ── circuit ...
//! ```
//!
//! All cells have the same length, so weighted deficit round robin is counting cells. Weights matter only while both
//! classes have something to send; otherwise either gets everything. A queue is in at most one place: its *ticket* says
//! which of the entries that name it is the valid one; others are passed over, and swept out when they become many.
//!
//! Within the unpaid class there is a *floor*: before neighbours share equally, each gets 32 cells a second for every
//! circuit that waits, those longest below it first. So a circuit does not starve for sharing its neighbour with many
//! others. It is a floor within the class and takes nothing from the paid one: where the class has less than all the
//! floors together, neighbours share that equally again. One neighbour then gets at least the smaller of an equal share
//! and its floor, however many circuits the others have.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::hash::Seeded;
use super::ids::Time;

/// Cells of the paid class for one of the unpaid one, while both have some.
pub(crate) const PAID_WEIGHT: u32 = 16;
/// Cells that all queues of a class together send before it is a queue's turn again, while they are fewer than so many: as many as
/// a TLS record has, which is read as a whole anyway.
const ROUND: usize = 31;
/// Microseconds between two cells of a circuit at the floor of the unpaid class: 32 a second.
const FLOOR_INTERVAL: u64 = 1_000_000 / 32;

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

/// One neighbour's circuits. Kept for a moment after the last one has nothing more to send, or a neighbour that sends
/// cell by cell would be below its floor each time.
#[derive(Debug, Default)]
struct Group {
    neighbour: u32,
    entries: VecDeque<Entry>,
    /// From when on the next cell belongs to the floor.
    due: Time,
    /// It has a place in the ring.
    in_ring: bool,
    /// It has a place in the heap.
    in_heap: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Schedule {
    paid: VecDeque<Entry>,
    groups: Vec<Group>,
    spare: Vec<u32>,
    /// Every group with entries, in turn; empty ones leave when it is their turn.
    ring: VecDeque<u32>,
    /// Every group with entries, the first to be below its floor on top, by a `due` that may have moved on since; empty
    /// ones leave when they are due.
    floor: BinaryHeap<Reverse<(Time, u32)>>,
    /// The group of the entry that was taken out last, and when that was.
    served: Option<u32>,
    now: Time,
    by_neighbour: HashMap<u32, u32, Seeded>,
    unpaid: usize,
    /// Cells of the paid class still to come before one of the unpaid class.
    turn: u32,
}

impl Schedule {
    pub(crate) fn new(seed: Seeded) -> Self {
        Schedule {
            paid: VecDeque::new(),
            groups: Vec::new(),
            spare: Vec::new(),
            ring: VecDeque::new(),
            floor: BinaryHeap::new(),
            served: None,
            now: Time(0),
            by_neighbour: HashMap::with_hasher(seed),
            unpaid: 0,
            turn: PAID_WEIGHT,
        }
    }

    /// Entries, valid or not.
    pub(crate) fn len(&self) -> usize {
        self.paid.len() + self.unpaid
    }

    #[inline]
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
                let this = &mut self.groups[group as usize];
                this.neighbour = neighbour;
                // Not sooner than who waits already.
                this.due = self.now;
                self.by_neighbour.insert(neighbour, group);
                group
            }
        };
        let this = &mut self.groups[group as usize];
        this.entries.push_back(entry);
        if !this.in_ring {
            this.in_ring = true;
            self.ring.push_back(group);
        }
        if !this.in_heap {
            this.in_heap = true;
            self.floor.push(Reverse((this.due, group)));
        }
        self.unpaid += 1;
    }

    /// Lets go of a group that has nothing and is nowhere.
    fn release(&mut self, group: u32) {
        let this = &self.groups[group as usize];
        if this.entries.is_empty() && !this.in_ring && !this.in_heap {
            self.by_neighbour.remove(&this.neighbour);
            self.spare.push(group);
        }
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
    #[inline]
    pub(crate) fn pop(&mut self, class: Class, now: Time) -> Option<Entry> {
        match class {
            Class::Paid => self.paid.pop_front(),
            Class::Unpaid => self.pop_unpaid(now),
        }
    }

    fn pop_unpaid(&mut self, now: Time) -> Option<Entry> {
        self.now = now;
        self.tidy();
        let group = match self.below_floor(now) {
            Some(group) => group,
            None => self.next_in_ring()?,
        };
        self.served = Some(group);
        let entry = self.groups[group as usize].entries.pop_front();
        self.unpaid -= usize::from(entry.is_some());
        entry
    }

    /// Forgets groups at the front of the ring that have nothing, and are not below their floor soon.
    fn tidy(&mut self) {
        while let Some(group) = self.ring.front().copied() {
            let this = &mut self.groups[group as usize];
            if !this.entries.is_empty() || this.in_heap {
                return;
            }
            this.in_ring = false;
            self.ring.pop_front();
            self.release(group);
        }
    }

    /// The group that has been below its floor for longest.
    fn below_floor(&mut self, now: Time) -> Option<u32> {
        loop {
            let mut top = self.floor.peek_mut()?;
            let Reverse((due, group)) = *top;
            if due > now {
                return None;
            }
            let this = &mut self.groups[group as usize];
            if this.due > due {
                top.0.0 = this.due;
            } else if this.entries.is_empty() {
                PeekMut::pop(top);
                this.in_heap = false;
                self.release(group);
            } else {
                return Some(group);
            }
        }
    }

    /// The group whose turn it is.
    fn next_in_ring(&mut self) -> Option<u32> {
        loop {
            let group = self.ring.pop_front()?;
            let this = &mut self.groups[group as usize];
            if !this.entries.is_empty() {
                // Even if this was its last entry: what it queues before its next turn then finds its place kept.
                self.ring.push_back(group);
                return Some(group);
            }
            this.in_ring = false;
            self.release(group);
        }
    }

    /// How many cells the entry that was taken out last, of this class, may send at once. Runs are cheaper than single cells, here
    /// and at the next relay; but a cell that comes now waits for no more than [`ROUND`] of others, or for one of each.
    #[inline]
    pub(crate) fn run(&self, class: Class) -> usize {
        match (class, self.len()) {
            (_, 0) => usize::MAX,
            (Class::Paid, _) if self.unpaid > 0 => {
                (ROUND / (self.paid.len() + 1)).clamp(1, (self.turn as usize).max(1))
            }
            (Class::Unpaid, _) if !self.paid.is_empty() => 1,
            (_, others) => (ROUND / (others + 1)).max(1),
        }
    }

    /// Cells of the entry that was taken out last, of this class, were sent: as many as [`run`](Self::run) allows, or fewer.
    #[inline]
    pub(crate) fn sent(&mut self, class: Class, cells: u32, now: Time) {
        match class {
            Class::Unpaid => {
                self.turn = PAID_WEIGHT;
                if let Some(group) = self.served.take() {
                    let this = &mut self.groups[group as usize];
                    let waiting = this.entries.len() as u64 + 1;
                    let interval = (FLOOR_INTERVAL / waiting).max(1);
                    // What it was late, it may make up for, but by one cell only: a crowd that never gets all of its
                    // floor must not always be the one that has waited longest. And what it had beyond its floor is not
                    // held against it later.
                    let due = this
                        .due
                        .max(Time(now.0.saturating_sub(interval)))
                        .plus(interval.saturating_mul(cells.into()));
                    this.due = due.min(now.plus(interval));
                }
            }
            Class::Paid if self.unpaid > 0 => self.turn = self.turn.saturating_sub(cells),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `cells` cells, one every `micros`, of queues that always have more.
    fn run(
        schedule: &mut Schedule,
        cells: usize,
        micros: u64,
        mut neighbour_of: impl FnMut(u32) -> u32,
    ) -> HashMap<u32, usize> {
        let mut sent = HashMap::new();
        for cell in 0..cells {
            let now = Time(1_000_000 + cell as u64 * micros);
            let class = schedule.turn(true, true).unwrap();
            let entry = schedule.pop(class, now).unwrap();
            schedule.sent(class, 1, now);
            *sent.entry(entry.queue).or_default() += 1;
            schedule.push(class, neighbour_of(entry.queue), entry);
        }
        sent
    }

    /// Queues below 1000 belong to a neighbour each, those above to one together.
    fn crowd(queue: u32) -> u32 {
        queue.min(1000)
    }

    fn unpaid(queues: impl IntoIterator<Item = u32>) -> Schedule {
        let mut schedule = Schedule::new(Seeded::new(1));
        for queue in queues {
            schedule.push(Class::Unpaid, crowd(queue), Entry { queue, ticket: 1 });
        }
        schedule
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
        // Fast enough that all floors together are a trifle.
        let sent = run(&mut schedule, 1700 * 6, 1, neighbour_of);
        assert_eq!((sent[&1], sent[&2]), (4800, 4800));
        assert!((297..=303).contains(&sent[&103]), "{sent:?}");
        assert!((100..103).all(|queue| (99..=101).contains(&sent[&queue])), "{sent:?}");
    }

    #[test]
    fn circuits_of_a_crowded_neighbour_get_their_floor_before_neighbours_share_equally() {
        // 1,600 cells a second. Shared equally among the two neighbours, each of the forty would get 20.
        let mut schedule = unpaid((1000..1040).chain([1]));
        let sent = run(&mut schedule, 16_000, 625, crowd);
        for queue in 1000..1040 {
            assert!((318..=340).contains(&sent[&queue]), "{queue}: {}", sent[&queue]);
        }
        assert!(
            (2_400..=3_220).contains(&sent[&1]),
            "what is over is the other's: {}",
            sent[&1]
        );
    }

    #[test]
    fn a_neighbour_with_very_many_circuits_pushes_nobody_below_the_floor() {
        // 320 cells a second for 401 circuits.
        let mut schedule = unpaid((1000..1400).chain([1]));
        let sent = run(&mut schedule, 3_200, 3_125, crowd);
        assert!((310..=325).contains(&sent[&1]), "{}", sent[&1]);
        // Nor beyond an equal share when there are many neighbours: 16 cells a second for each of twenty.
        let mut schedule = unpaid((1000..1400).chain(1..20));
        let sent = run(&mut schedule, 3_200, 3_125, crowd);
        let crowded: usize = (1000..1400).filter_map(|queue| sent.get(&queue)).sum();
        assert!((1..20).all(|queue| sent[&queue] >= 150), "{sent:?}");
        assert!(crowded <= 200, "{crowded}");
    }

    #[test]
    fn neighbours_that_send_cell_by_cell_are_not_below_their_floor_each_time() {
        // Each has nothing while its only cell is being sent.
        let mut schedule = unpaid([1, 2, 3]);
        let mut sent = [0; 4];
        for cell in 0..8_000u64 {
            let now = Time(1_000_000 + cell * 125);
            let entry = schedule.pop(Class::Unpaid, now).unwrap();
            schedule.sent(Class::Unpaid, 1, now);
            sent[entry.queue as usize] += 1;
            schedule.push(Class::Unpaid, entry.queue, entry);
        }
        assert!(sent[1..].iter().all(|n| (2_650..=2_680).contains(n)), "{sent:?}");
    }

    #[test]
    fn neighbours_that_have_nothing_are_forgotten() {
        let mut schedule = Schedule::new(Seeded::new(1));
        for neighbour in 0..1000u32 {
            let now = Time(u64::from(neighbour) * 10_000);
            let entry = Entry {
                queue: neighbour,
                ticket: 1,
            };
            schedule.push(Class::Unpaid, neighbour, entry);
            assert_eq!(schedule.pop(Class::Unpaid, now), Some(entry));
            schedule.sent(Class::Unpaid, 1, now);
        }
        assert!(schedule.groups.len() < 20, "{}", schedule.groups.len());
    }

    #[test]
    fn a_cell_that_comes_waits_for_one_record_of_others_or_for_one_cell_of_each() {
        for queues in 1..200u32 {
            let mut schedule = Schedule::new(Seeded::new(1));
            for queue in 0..queues {
                schedule.push(Class::Paid, 0, Entry { queue, ticket: 1 });
            }
            let mut waited = 0;
            for _ in 1..queues {
                let entry = schedule.pop(Class::Paid, Time(1)).unwrap();
                let run = schedule.run(Class::Paid);
                schedule.push(Class::Paid, 0, entry);
                assert!(run >= 1);
                waited += run;
            }
            assert!(waited <= ROUND.max(queues as usize), "{queues}: {waited}");
        }
    }

    #[test]
    fn runs_of_the_paid_class_end_with_its_turn_and_the_unpaid_one_has_none_beside_it() {
        let mut schedule = unpaid([5]);
        schedule.push(Class::Paid, 0, Entry { queue: 1, ticket: 1 });
        let (mut paid, mut turns) = (0, 0);
        while schedule.turn(true, true) == Some(Class::Paid) {
            let entry = schedule.pop(Class::Paid, Time(1)).unwrap();
            let run = schedule.run(Class::Paid) as u32;
            schedule.sent(Class::Paid, run, Time(1));
            schedule.push(Class::Paid, 0, entry);
            (paid, turns) = (paid + run, turns + 1);
        }
        assert_eq!((paid, turns), (PAID_WEIGHT, 1));
        schedule.pop(Class::Unpaid, Time(1)).unwrap();
        assert_eq!(schedule.run(Class::Unpaid), 1);
    }

    #[test]
    fn a_class_alone_gets_everything() {
        let mut schedule = unpaid([5]);
        assert_eq!(run(&mut schedule, 100, 1, crowd)[&5], 100);
        assert_eq!(schedule.turn(true, false), None);
        schedule.sweep(|_| false);
        assert!(schedule.len() == 0 && schedule.pop(Class::Unpaid, Time(1)).is_none());
    }
}
