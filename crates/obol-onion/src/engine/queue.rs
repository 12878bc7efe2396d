//! Cells on their way out: into a circuit's queue, and from there to a link.
//!
//! Cells away from the client wait complete, those towards it without our layer: it goes on when they are on their way to
//! the socket ([`seal`](super::seal)). So every circuit's cells are encrypted in the order in which they are sent, whatever
//! happens to its class, and this hop's own payment answers overtake what waits:
//!
//! | a queue | answers | cells |
//! |---|---|---|
//! | own answer | behind | |
//! | any other cell | | behind |
//! | a cell leaves | first | only when no answer waits |
//!
//! With a configured rate one schedule for all links hands out the tokens; without, each link has its own and its writer
//! takes as much as the socket does.

use core::ops::Range;

use super::arrivals::ARRIVALS;
use super::cells::Kind;
use super::circuit::{BACKWARD, Circuit, FORWARD};
use super::config::UnpaidShare;
use super::event::{Event, PaymentEvent};
use super::ids::{CircuitId, LinkId, Table, Time};
use super::schedule::{Class, Entry, Schedule};
use super::seal::Raw;
use super::wire::{CELL_LEN, DestroyReason, HEADER_LEN, command};
use super::{Engine, Pacer};

/// With a configured rate: bytes that wait for one link's writer at most, so that what is chosen is also soon sent.
const STAGED_MAX: usize = 32 * 1024;

/// DESTROYs take at most one in so many cells' place.
const DESTROYS_SHARE: usize = 4;

/// Queue of a circuit that ends here: streams are not read while so many cells wait, until as few do.
pub(crate) const EDGE_QUEUE_HIGH: usize = 256;
/// See [`EDGE_QUEUE_HIGH`].
pub(crate) const EDGE_QUEUE_LOW: usize = 64;

/// How cells are laid out for whoever encrypts a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Stretches at most.
    pub stretches: usize,
    /// Bytes of each, about: control cells may make one longer.
    pub most: usize,
    /// Bytes that are free before each.
    pub head: usize,
    /// And behind it.
    pub tail: usize,
}

/// What [`Engine::transmit`] left undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// There may be more: come back when this has been written.
    More,
    /// Nothing: wait to be woken.
    Idle,
}

/// Whether a schedule's entry is the valid one of the queue that it names.
#[inline]
fn holds(circuits: &Table<CircuitId, Box<Circuit>>, entry: &Entry) -> bool {
    circuits
        .at((entry.queue & !ARRIVALS) >> 1)
        .is_some_and(|circuit| circuit.ticket(entry.queue) == entry.ticket)
}

impl Engine {
    /// Queues a slot behind everything of its kind that waits in its direction. The circuit may be gone afterwards.
    #[inline]
    pub(crate) fn enqueue(&mut self, index: u32, direction: usize, slot: u32) {
        let Some(circuit) = self.circuits.at_mut(index) else {
            self.pool.give_back(slot);
            return;
        };
        let kind = self.pool.slot(slot).kind;
        let queue = &mut circuit.queues[direction];
        let list = match kind {
            Kind::Answer => &mut queue.answers,
            _ => &mut queue.cells,
        };
        self.pool.push(list, slot);
        if kind == Kind::Answer {
            // So that it is found by its class.
            queue.ticket = 0;
        }
        self.queued(index, direction, 1);
    }

    /// Cells were put into a queue. The circuit may be gone afterwards.
    #[inline]
    pub(crate) fn queued(&mut self, index: u32, direction: usize, cells: u32) {
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        circuit.held += cells;
        let queue = &circuit.queues[direction];
        let (waiting, idle) = (queue.len(), queue.ticket == 0);
        if self.memory.count(circuit) {
            self.memory.place(&mut self.circuits, index);
        }
        if idle {
            self.activate(index, direction);
        }
        if waiting > self.queue_max {
            self.counters.killed_queue += 1;
            if direction == FORWARD
                && let Some(link) = self.circuits.at(index).map(|circuit| circuit.prev.link)
            {
                self.note_long_queue(link);
            }
            self.end_circuit(
                index,
                Some(DestroyReason::ResourceLimit),
                Some(DestroyReason::ResourceLimit),
            );
        }
        self.enforce_memory();
    }

    /// Gives a queue that has something to send its place in the schedule of its class.
    pub(crate) fn activate(&mut self, index: u32, direction: usize) {
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        let Some(end) = circuit.end(direction) else { return };
        let queue = &mut circuit.queues[direction];
        if queue.len() == 0 {
            queue.ticket = 0;
            return;
        }
        let class = queue.class(circuit.class);
        self.last_ticket = if self.last_ticket == u32::MAX {
            1
        } else {
            self.last_ticket + 1
        };
        queue.ticket = self.last_ticket;
        let entry = Entry {
            queue: index << 1 | direction as u32,
            ticket: queue.ticket,
        };
        let neighbour = circuit.neighbour;
        let circuits = &self.circuits;
        let valid = |entry: &Entry| holds(circuits, entry);
        let Some(link) = self.links.at_mut(end.link) else {
            return;
        };
        let (schedule, most) = match &mut self.pacer {
            Some(pacer) => (&mut pacer.schedule, 2 * circuits.len()),
            None => (&mut link.schedule, link.circuits.len()),
        };
        if schedule.len() > 2 * most + 64 {
            schedule.sweep(valid);
        }
        schedule.push(class, neighbour, entry);
        if self.pacer.is_none() && link.writer_idle {
            self.wake_link(end.link);
        }
    }

    /// Lets a link's writer know, once, that there is something to write.
    pub(crate) fn wake_link(&mut self, index: u32) {
        let Some(name) = self.links.name(index) else { return };
        if let Some(link) = self.links.at_mut(index)
            && link.writer_idle
        {
            link.writer_idle = false;
            self.woken.push(name);
        }
    }

    /// Takes up to `most` cells of the queue for which an entry is valid to the end of `out`, and counts them. Returns how
    /// many. Those that need our layer are added to `raw`.
    #[inline]
    fn emit(&mut self, entry: Entry, most: usize, out: &mut Vec<u8>, raw: &mut Vec<Raw>) -> u32 {
        let (index, direction) = (entry.queue >> 1, (entry.queue & 1) as usize);
        let Some((name, mut circuit)) = self.circuits.named_mut(index) else {
            return 0;
        };
        let Some(end) = circuit.end(direction) else { return 0 };
        let (mut charged, mut account, mut way) = (circuit.until_charged(), index, direction);
        if let Some(payer) = circuit.payer() {
            // What goes to an onion service came from the client, on whose circuit it counts.
            (account, way) = (payer, FORWARD);
            charged = self.circuits.at(payer).map_or(u64::MAX, |payer| payer.until_charged());
            match self.circuits.at_mut(index) {
                Some(again) => circuit = again,
                None => return 0,
            }
        }
        let queue = &mut circuit.queues[direction];
        if queue.ticket != entry.ticket {
            return 0;
        }
        let waited = queue.len();
        let answer = queue.answers.len() > 0;
        let (list, most) = match answer {
            true => (&mut queue.answers, 1),
            false => (&mut queue.cells, charged.min(most as u64) as u32),
        };
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(&end.id.to_be_bytes());
        let mut cells = 0;
        while cells < most
            && let Some(cell) = self.pool.shift(list)
        {
            header[4] = match cell.kind {
                Kind::SealedEarly => command::RELAY_EARLY,
                _ => command::RELAY,
            };
            if direction == BACKWARD {
                raw.push(Raw::new(name, cell.kind, out.len()));
            }
            out.extend_from_slice(&header);
            out.extend_from_slice(&cell.body);
            cells += 1;
        }
        circuit.held = circuit.held.saturating_sub(cells);
        let left = waited - cells as usize;
        let resume =
            direction == BACKWARD && left <= EDGE_QUEUE_LOW && waited > EDGE_QUEUE_LOW && circuit.edge.is_some();
        // Fewer than before: its place in the lists stays.
        self.memory.count(circuit);
        match answer {
            true => self.counters.payment_cells[BACKWARD] += 1,
            false => self.charge(account, way, cells),
        }
        if resume {
            self.wake_senders(index);
        }
        cells
    }

    /// Counts carried cells, not more than [`Circuit::until_charged`] says, and moves the circuit to the unpaid class when
    /// its credit is used up.
    #[inline]
    pub(crate) fn charge(&mut self, index: u32, direction: usize, cells: u32) {
        let Some((name, circuit)) = self.circuits.named_mut(index) else {
            return;
        };
        let bytes = u64::from(cells) * CELL_LEN as u64;
        circuit.metered += bytes;
        self.counters.cells[circuit.class as usize][direction] += u64::from(cells);
        if circuit.class == Class::Unpaid || circuit.payer().is_some() {
            return;
        }
        // Paid means that there is enough for a cell.
        circuit.credit = circuit.credit.saturating_sub(bytes);
        if circuit.credit < circuit.low {
            circuit.low = 0;
            self.events.push_back(Event::Payment(PaymentEvent::CreditLow {
                circuit: name,
                metered: circuit.metered,
                credit: circuit.credit,
            }));
        }
        if circuit.credit < CELL_LEN as u64 {
            self.set_class(index, Class::Unpaid);
        }
    }

    /// Moves a circuit to another class.
    pub(crate) fn set_class(&mut self, index: u32, class: Class) {
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        if circuit.class == class {
            return;
        }
        circuit.class = class;
        let paid = class == Class::Paid;
        self.paid_circuits = if paid {
            self.paid_circuits + 1
        } else {
            self.paid_circuits.saturating_sub(1)
        };
        self.memory.update(&mut self.circuits, index);
        for direction in [BACKWARD, FORWARD] {
            self.activate(index, direction);
        }
        self.schedule_arrivals(index);
        self.follow_class(index, class);
    }

    /// Kills the largest queues of a class that holds more than its budget.
    #[inline]
    pub(crate) fn enforce_memory(&mut self) {
        if self.memory.is_over(Class::Unpaid) || self.memory.is_over(Class::Paid) {
            self.kill_largest();
        }
    }

    #[cold]
    fn kill_largest(&mut self) {
        for class in [Class::Unpaid, Class::Paid] {
            while self.memory.is_over(class) {
                let Some(victim) = self.memory.largest(&mut self.circuits, class) else {
                    break;
                };
                self.counters.killed_memory[class as usize] += 1;
                self.end_circuit(
                    victim,
                    Some(DestroyReason::ResourceLimit),
                    Some(DestroyReason::ResourceLimit),
                );
            }
        }
    }

    /// Takes what a link may send now, up to about `max` bytes, to the end of `out`. Call it from the link's writer
    /// only: after a wake, and again after each write until it says [`Transmit::Idle`].
    pub fn transmit(&mut self, now: Time, link: LinkId, out: &mut Vec<u8>, max: usize) -> Transmit {
        let mut raw = core::mem::take(&mut self.raw);
        let left = self.gather(now, link, out, max, &mut raw);
        self.seal_all(out, raw);
        left
    }

    /// The same, as stretches with room around each; where they are is added to `stretches`. [`Transmit::Idle`] may come with
    /// the last of them.
    pub fn transmit_stretches(
        &mut self,
        now: Time,
        link: LinkId,
        out: &mut Vec<u8>,
        layout: Layout,
        stretches: &mut Vec<Range<usize>>,
    ) -> Transmit {
        let mut raw = core::mem::take(&mut self.raw);
        let mut left = Transmit::More;
        for _ in 0..layout.stretches {
            let start = out.len() + layout.head;
            out.resize(start, 0);
            left = self.gather(now, link, out, layout.most, &mut raw);
            if left == Transmit::Idle {
                out.truncate(start - layout.head);
                break;
            }
            stretches.push(start..out.len());
            out.resize(out.len() + layout.tail, 0);
        }
        self.seal_all(out, raw);
        left
    }

    fn seal_all(&mut self, out: &mut [u8], mut raw: Vec<Raw>) {
        self.seal(out, &raw);
        raw.clear();
        self.raw = raw;
    }

    /// What [`transmit`](Self::transmit) takes, without our layer on it: `raw` is where that is to be put on.
    fn gather(&mut self, now: Time, link: LinkId, out: &mut Vec<u8>, max: usize, raw: &mut Vec<Raw>) -> Transmit {
        self.now = self.now.max(now);
        if self.links.get(link).is_none() {
            return Transmit::Idle;
        }
        let before = out.len();
        // However many circuits end at once, cells go on.
        self.take_backlog(link.index, out, (max / CELL_LEN / DESTROYS_SHARE).max(1));
        // Tokens may have come since the last time: spend them before looking, or what they bring is overlooked.
        self.unpark(link.index);
        self.pace(now);
        if let Some(this) = self.links.get_mut(link) {
            raw.extend(this.staged_raw.drain(..).map(|cell| cell.behind(out.len())));
            out.append(&mut this.staged);
        }
        if self.pacer.is_none() {
            let end = before + max;
            while out.len() + CELL_LEN <= end && self.emit_next(link.index, (end - out.len()) / CELL_LEN, out, raw) {}
        } else if out.len() > before {
            // There is room again: whoever waited for it may stage for the next time.
            self.unpark(link.index);
            self.pace(now);
        }
        let Some(this) = self.links.get_mut(link) else {
            return Transmit::Idle;
        };
        if out.len() == before {
            this.writer_idle = true;
            return Transmit::Idle;
        }
        this.last_sent = now;
        Transmit::More
    }

    /// What is next in a link's own schedule: a [run](Schedule::run) of one queue, but not more than `most`. False if there is
    /// nothing.
    #[inline]
    fn emit_next(&mut self, link: u32, most: usize, out: &mut Vec<u8>, raw: &mut Vec<Raw>) -> bool {
        let now = self.now;
        loop {
            let Some(this) = self.links.at_mut(link) else {
                return false;
            };
            let Some(class) = this.schedule.turn(true, true) else {
                return false;
            };
            let Some(entry) = this.schedule.pop(class, now) else {
                return false;
            };
            let most = most.min(this.schedule.run(class));
            let cells = self.emit(entry, most, out, raw);
            if cells == 0 {
                continue;
            }
            let again = self.again(entry);
            if let Some(this) = self.links.at_mut(link) {
                this.schedule.sent(class, cells, now);
                if let Some((class, neighbour)) = again {
                    this.schedule.push(class, neighbour, entry);
                }
            }
            return true;
        }
    }

    #[inline]
    fn is_valid(&self, entry: Entry) -> bool {
        holds(&self.circuits, &entry)
    }

    /// Where an entry that was taken out of a schedule belongs, if it is still valid and there is more to send.
    #[inline]
    fn again(&mut self, entry: Entry) -> Option<(Class, u32)> {
        let circuit = self.circuits.at_mut(entry.queue >> 1)?;
        let queue = &mut circuit.queues[(entry.queue & 1) as usize];
        if queue.ticket != entry.ticket {
            return None;
        }
        if queue.len() == 0 {
            queue.ticket = 0;
            return None;
        }
        let class = queue.class(circuit.class);
        Some((class, circuit.neighbour))
    }

    /// The same entry again, at the end, if it is still valid and there is more.
    fn put_back(&mut self, entry: Entry) {
        if let Some((class, neighbour)) = self.again(entry)
            && let Some(pacer) = &mut self.pacer
        {
            pacer.schedule.push(class, neighbour, entry);
        }
    }

    /// With a configured rate: queues that waited for a slow link go back to the schedule.
    fn unpark(&mut self, link: u32) {
        let Some(this) = self.links.at_mut(link).filter(|link| !link.parked.is_empty()) else {
            return;
        };
        let mut parked = core::mem::take(&mut this.parked);
        for entry in parked.drain(..) {
            self.put_back(entry);
        }
        if let Some(this) = self.links.at_mut(link) {
            this.parked = parked;
        }
    }

    /// With a configured rate: spends the tokens at hand on the links that take them.
    pub(crate) fn pace(&mut self, now: Time) {
        let Some(pacer) = &mut self.pacer else { return };
        let mut total = pacer.total.as_mut().map_or(u64::MAX, |bucket| bucket.available(now));
        let mut unpaid = pacer.unpaid.as_mut().map_or(u64::MAX, |bucket| bucket.available(now));
        let cell = CELL_LEN as u64;
        while total >= cell {
            let Some(pacer) = &mut self.pacer else { return };
            let Some(class) = pacer.schedule.turn(true, unpaid >= cell) else {
                break;
            };
            let Some(entry) = pacer.schedule.pop(class, now) else {
                break;
            };
            if !self.is_valid(entry) {
                continue;
            }
            let link = if entry.queue & ARRIVALS == 0 {
                match self.stage(entry) {
                    None => continue,
                    link => link,
                }
            } else if self.pace_arrivals(entry) {
                None
            } else {
                self.put_back_arrivals(entry);
                continue;
            };
            total -= cell;
            if let Some(pacer) = &mut self.pacer {
                pacer.schedule.sent(class, 1, now);
                if let Some(bucket) = &mut pacer.total {
                    bucket.spend(cell);
                }
                if let (Class::Unpaid, Some(bucket)) = (class, &mut pacer.unpaid) {
                    bucket.spend(cell);
                    unpaid -= cell;
                }
            }
            match link {
                None if self.is_valid(entry) => self.put_back_arrivals(entry),
                None => {}
                Some(link) => {
                    self.put_back(entry);
                    self.wake_link(link);
                }
            }
        }
    }

    /// Takes a queue's next cell to its link's writer, which may be too slow for it. Returns the link if it went there.
    fn stage(&mut self, entry: Entry) -> Option<u32> {
        let (index, direction) = (entry.queue >> 1, (entry.queue & 1) as usize);
        let end = self.circuits.at(index).and_then(|circuit| circuit.end(direction))?;
        let circuits = &self.circuits;
        let link = self.links.at_mut(end.link)?;
        if link.staged.len() >= STAGED_MAX {
            link.park(entry, |entry| holds(circuits, entry));
            return None;
        }
        let mut staged = core::mem::take(&mut link.staged);
        let mut raw = core::mem::take(&mut link.staged_raw);
        let sent = self.emit(entry, 1, &mut staged, &mut raw);
        if let Some(link) = self.links.at_mut(end.link) {
            link.staged = staged;
            link.staged_raw = raw;
        }
        (sent > 0).then_some(end.link)
    }

    /// When [`wake`](Self::wake) should be called next; `None`: not before something else happens.
    pub fn next_wake(&self) -> Option<Time> {
        let pacer = self.pacer.as_ref()?;
        let cell = CELL_LEN as u64;
        let total = pacer.total.as_ref().map_or(Time(0), |bucket| bucket.ready_at(cell));
        let unpaid = pacer.unpaid.as_ref().map_or(Time(0), |bucket| bucket.ready_at(cell));
        match (pacer.schedule.turn(true, false), pacer.schedule.turn(false, true)) {
            (Some(_), _) => Some(total),
            (None, Some(_)) => Some(total.max(unpaid)),
            (None, None) => None,
        }
    }

    /// Time has come: sends what the rate allows by now.
    pub fn wake(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.pace(now);
    }

    /// Changes the rate that all links share; `None`: no limit. What waits stays.
    pub fn set_rate(&mut self, now: Time, rate: Option<u64>) {
        self.config.rate = rate;
        self.new_pacer(now);
    }

    /// Changes what may be saved up of the rate, in bytes. What waits stays.
    pub fn set_burst(&mut self, now: Time, burst: u64) {
        self.config.burst = burst;
        self.new_pacer(now);
    }

    /// Changes how much memory cells may take, in bytes. What is over it by then is killed as more comes.
    pub fn set_cell_memory(&mut self, bytes: usize) {
        self.config.cell_memory = bytes;
        self.memory.set_budget(bytes / CELL_LEN);
    }

    /// Changes what the unpaid class gets. What waits stays.
    pub fn set_unpaid(&mut self, now: Time, unpaid: UnpaidShare) {
        self.config.unpaid = unpaid;
        self.new_pacer(now);
    }

    /// A new schedule under the configured limits, with everything in it that waits.
    fn new_pacer(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.pacer = Pacer::new(&self.config, self.hash);
        for index in self.links.indices() {
            if let Some(link) = self.links.at_mut(index) {
                link.schedule = Schedule::new(self.hash);
                link.parked.clear();
            }
        }
        for index in self.circuits.indices() {
            for direction in [BACKWARD, FORWARD] {
                self.activate(index, direction);
            }
            self.schedule_arrivals(index);
        }
        self.pace(now);
    }
}
