//! The relay engine: cells in, cells and events out. One per relay, behind one lock that is taken once per batch.
//!
//! ```text
//!  link's reader ── receive(bytes) ─┐                         ┌─► transmit(out) ── link's writer
//!  stream tasks ─── stream_*()  ────┤  circuits, queues,      ├─► poll_event() ── whoever the event is for
//!  payments ─────── grant, answer ──┤  schedule, memory       ├─► take_woken() ── writers that have work
//!  timer ────────── wake, tick ─────┘                         └─► next_wake()  ── timer
//! ```
//!
//! Sans-IO: no socket, no clock, no randomness of its own. Time and a seed are arguments.
//!
//! | module | subject |
//! |---|---|
//! | [`link`], [`padding`] | links: table, cells, choice, end; their padding |
//! | [`create`], [`handshakes`], [`extend`] | circuits made here, what waits to be computed, and on to the next hop |
//! | [`circuit`] | a circuit's state, and its end |
//! | [`intro`], [`rendezvous`] | circuits that end here for an onion service |
//! | [`relay_cell`], [`stream`], [`arrivals`] | RELAY cells; streams that end here; what comes for them |
//! | [`window`], [`vegas`], [`flow`], [`congestion`] | flow control of circuits and of streams; its parameters |
//! | [`queue`], [`schedule`], [`rate`], [`memory`], [`cells`] | cells waiting: order, classes, rate, budget, slots |
//! | [`seal`] | our layer on what leaves towards the client |
//! | [`payments`] | credit and payment messages |
//! | [`neighbours`], [`backlog`] | who takes how much; what waits on links besides RELAY cells |
//! | [`defence`], [`idle`] | those who ask for too much, and those who keep what they do not use |
//!
//! A fault of a circuit ends that circuit, a fault of a link that link ([`LinkFault`]), and nothing else.

mod arrivals;
mod backlog;
mod cells;
mod circuit;
mod config;
mod congestion;
mod create;
mod defence;
mod event;
mod extend;
mod flow;
mod handshakes;
mod hash;
mod idle;
mod ids;
mod intro;
mod link;
mod memory;
mod neighbours;
mod padding;
mod payments;
mod queue;
mod rate;
mod relay_cell;
mod rendezvous;
mod rng;
mod schedule;
mod seal;
mod stream;
mod vegas;
mod window;
mod wire;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use smallvec::SmallVec;

pub use config::{EngineConfig, SendmeVersions, UnpaidShare};
pub use congestion::{Congestion, FlowParameters, VegasParameters};
pub use create::HandshakeAnswer;
pub use defence::DefenceParameters;
pub use event::{
    Event, ExtendId, HandshakeJob, HandshakeKind, LinkFault, Neighbour, NextHop, PaymentEvent, Peer, Target,
};
pub use extend::is_public;
pub use ids::{CircuitId, LinkId, StreamId, Time};
pub use intro::IntroductionProof;
pub use link::LinkInfo;
pub use padding::LinkParameters;
pub use queue::{Layout, Transmit};
pub use schedule::Class;
pub use stream::{Answer, Connected, Received};
pub use wire::{CELL_LEN, DATA_MAX, DestroyReason, EndReason, Ending, LINK_MESSAGE_MAX};

use cells::Pool;
use circuit::Circuit;
use defence::Clients;
use handshakes::Handshakes;
use hash::Seeded;
use ids::Table;
use link::Link;
use memory::Memory;
use neighbours::Neighbours;
use rate::Bucket;
use rendezvous::COOKIE_LEN;
use rng::Rng;
use schedule::Schedule;
use seal::{Marking, Raw};

/// What the engine has counted since it was made, and what it has now. Indices: class 0 paid, 1 unpaid; direction 0
/// towards the client, 1 away from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// RELAY cells carried, by class and direction; 514 bytes each.
    pub cells: [[u64; 2]; 2],
    /// This hop's payment messages, by direction: free.
    pub payment_cells: [u64; 2],
    /// Links now.
    pub links: u64,
    /// Circuits now, by class; those still in their handshake among the unpaid.
    pub circuits: [u64; 2],
    /// Cells' worth of memory held now, by class.
    pub held: [u64; 2],
    /// Slots for cells in use now.
    pub slots: u64,
    /// Handshakes waiting for their result now.
    pub handshakes_pending: u64,
    /// Circuits whose handshake succeeded.
    pub circuits_opened: u64,
    /// Those of them with congestion control.
    pub circuits_controlled: u64,
    /// Streams that we told clients to pause, because their targets did not take data.
    pub xoffs_sent: u64,
    /// Streams that clients told us to pause.
    pub xoffs_received: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// Handshakes that were not computed because they had waited for too long.
    pub handshakes_late: u64,
    /// CREATEs refused for lack of room.
    pub creates_refused: u64,
    /// Circuits of clients closed because they went nowhere and carried nothing.
    pub circuits_idle: u64,
    /// CREATEs refused because their client's address asks for too many circuits.
    pub creates_defended: u64,
    /// Times that a client's address was found to ask for too much.
    pub clients_marked: u64,
    /// Next hops that could not be reached.
    pub extends_failed: u64,
    /// Streams begun.
    pub streams_opened: u64,
    /// Streams now.
    pub streams: u64,
    /// Streams refused because there were too many, of one circuit, of one neighbour or in all.
    pub streams_refused: u64,
    /// Streams refused because their circuit asks for too many in a short time.
    pub streams_defended: u64,
    /// Circuits now on which onion services hear of clients.
    pub services: u64,
    /// Clients that services were told of.
    pub introductions: u64,
    /// Clients that they were not told of: no such service, too many, malformed.
    pub introductions_refused: u64,
    /// Circuits of clients joined with circuits of services.
    pub rendezvous_joined: u64,
    /// Clients without a relay in between that may not wait for a service here.
    pub rendezvous_refused: u64,
    /// Circuits killed because their class held too much memory, by class.
    pub killed_memory: [u64; 2],
    /// Circuits killed because too many of their cells waited.
    pub killed_queue: u64,
    /// Circuits ended for a protocol error of the other side.
    pub protocol_errors: u64,
    /// Relay messages dropped: unknown, or for no stream.
    pub messages_dropped: u64,
    /// DESTROY cells sent.
    pub destroys_sent: u64,
    /// PADDING cells sent into the silence of links.
    pub padding_sent: u64,
}

/// Sending under a configured rate: one schedule for all links, and the tokens.
#[derive(Debug)]
struct Pacer {
    schedule: Schedule,
    total: Option<Bucket>,
    unpaid: Option<Bucket>,
}

impl Pacer {
    /// `None` if nothing is limited.
    fn new(config: &EngineConfig, hash: Seeded) -> Option<Pacer> {
        let unpaid = match config.unpaid {
            UnpaidShare::Leftover => None,
            UnpaidShare::Capped(rate) => Some(rate),
        };
        (config.rate.is_some() || unpaid.is_some()).then(|| Pacer {
            schedule: Schedule::new(hash),
            total: config.rate.map(|rate| Bucket::saving(rate, config.burst)),
            unpaid: unpaid.map(Bucket::new),
        })
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    now: Time,
    rng: Rng,
    hash: Seeded,
    links: Table<LinkId, Link>,
    circuits: Table<CircuitId, Box<Circuit>>,
    neighbours: Neighbours,
    /// Addresses of clients that ask for circuits.
    clients: Clients,
    /// Circuits on which services hear of clients, by the key that these name.
    introductions: HashMap<[u8; 32], u32>,
    /// Circuits on which clients wait for services.
    rendezvous: HashMap<[u8; COOKIE_LEN], u32>,
    /// Links that pad, each by the end of the silence that it waits for.
    padding: BinaryHeap<Reverse<(Time, LinkId)>>,
    /// When links were looked through for those to be closed.
    looked: Time,
    /// Links to each relay, by its RSA identity.
    by_rsa: HashMap<[u8; 20], SmallVec<[u32; 2]>>,
    pool: Pool,
    memory: Memory,
    /// Cells that one circuit may have waiting in one direction.
    queue_max: usize,
    pacer: Option<Pacer>,
    last_ticket: u32,
    /// Index of the circuit that was last looked at for being idle.
    circuit_looked_at: u32,
    /// Of the looks for idle circuits that were due, what is left over, in parts of one.
    looks_due: usize,
    handshakes: Handshakes,
    pending_proofs: usize,
    paid_circuits: usize,
    closing: bool,
    events: VecDeque<Event>,
    woken: Vec<LinkId>,
    /// Empty between calls: room for the list of a batch.
    raw: Vec<Raw>,
    marking: Marking,
    counters: Counters,
}

impl Engine {
    /// An engine without links. `seed` has to be secret and different each time.
    pub fn new(config: EngineConfig, seed: [u8; 32]) -> Self {
        let mut rng = Rng::new(&seed);
        let hash = Seeded::new(rng.next_u64());
        let pacer = Pacer::new(&config, hash);
        Engine {
            memory: Memory::new(config.cell_memory / CELL_LEN),
            queue_max: config.defences.queue(config.circuit_queue),
            config,
            now: Time(0),
            rng,
            hash,
            links: Table::new(),
            circuits: Table::new(),
            neighbours: Neighbours::default(),
            clients: Clients::default(),
            introductions: HashMap::new(),
            rendezvous: HashMap::new(),
            padding: BinaryHeap::new(),
            looked: Time(0),
            by_rsa: HashMap::new(),
            pool: Pool::new(),
            pacer,
            last_ticket: 0,
            circuit_looked_at: 0,
            looks_due: 0,
            handshakes: Handshakes::default(),
            pending_proofs: 0,
            paid_circuits: 0,
            closing: false,
            events: VecDeque::new(),
            woken: Vec::new(),
            raw: Vec::new(),
            marking: Marking::default(),
            counters: Counters::default(),
        }
    }

    /// The next thing that somebody has to do or to know. Take them all after every call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Links whose idle writers have work since the last time, each once, are added to `links`.
    pub fn take_woken(&mut self, links: &mut Vec<LinkId>) {
        links.append(&mut self.woken);
    }

    /// From now on circuits are refused as by a relay that goes to sleep (DESTROY with reason HIBERNATING), or accepted
    /// again. Those that are open go on.
    pub fn refuse_circuits(&mut self, refuse: bool) {
        self.closing = refuse;
    }

    /// Consensus parameters that may change while the engine runs. Circuits keep what they have negotiated.
    pub fn set_parameters(&mut self, circuit_window: u16, sendmes: SendmeVersions, congestion: Congestion) {
        self.config.circuit_window = circuit_window;
        self.config.sendmes = sendmes;
        self.config.congestion = congestion;
    }

    /// Lets time pass: what is done next is done at this moment, unless it says otherwise.
    pub fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// A copy of the counters.
    pub fn counters(&self) -> Counters {
        let paid = self.paid_circuits as u64;
        Counters {
            links: self.links.len() as u64,
            circuits: [paid, (self.circuits.len() as u64).saturating_sub(paid)],
            held: [Class::Paid, Class::Unpaid].map(|class| self.memory.used(class) as u64),
            slots: self.pool.used() as u64,
            handshakes_pending: self.handshakes.pending as u64,
            services: self.introductions.len() as u64,
            streams: self.neighbours.all().streams as u64,
            ..self.counters
        }
    }
}
