//! One circuit at this relay, and how it ends.
//!
//! ```text
//!          CREATE*            created()             EXTEND2            link          CREATED2
//!  (none) ────────► pending ────────────► last hop ────────► waiting ───────► asked ─────────► relaying
//!                                           │ ▲                                                    │
//!                                           │ └──────────────────── TRUNCATE ──────────────────────┘
//!                  ESTABLISH_INTRO          │
//!  introduction ◄──────────── proving ◄─────┤  RENDEZVOUS1
//!                                           ├──────────────► spliced with ◄─┐
//!                                           │  ESTABLISH_RENDEZVOUS         │ the other's RENDEZVOUS1
//!                                           └──────────────► rendezvous ────┘
//!  every state ── DESTROY from either side, protocol error, lost link, queue too long, killed ──► gone
//! ```

use super::Engine;
use super::arrivals::ARRIVALS;
use super::cells::{List, Pool};
use super::event::{Event, NextHop, PaymentEvent};
use super::idle::Seen;
use super::ids::CircuitId;
use super::intro::Introduction;
use super::memory::Node;
use super::rendezvous::{COOKIE_LEN, Splice};
use super::schedule::Class;
use super::stream::Edge;
use super::wire::{CELL_LEN, DestroyReason};
use crate::crypto::tor1::{BackwardLayer, Binding, ForwardLayer};

/// Towards the client.
pub(crate) const BACKWARD: usize = 0;
/// Away from the client.
pub(crate) const FORWARD: usize = 1;

/// A circuit's place on one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Index of the link.
    pub(crate) link: u32,
    /// Circuit id there.
    pub(crate) id: u32,
}

/// Where a circuit goes on, or what it ends here for.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nowhere: this is its last hop.
    Nowhere,
    /// A link to the next hop is being made.
    Waiting(Box<Waiting>),
    /// CREATE2 was sent.
    Asked(End),
    /// CREATED2 came.
    Open(End),
    /// Nowhere: a service wants to be introduced here, and its signature is being checked.
    Proving(Box<Introduction>),
    /// Nowhere: a service is introduced to clients here.
    Introduction(Box<Introduction>),
    /// Nowhere: a client waits for a service that knows this cookie.
    Rendezvous(Box<[u8; COOKIE_LEN]>),
    /// Into another circuit that ends here.
    Spliced(Splice),
}

/// What will be sent to the next hop once there is a link to it.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Which EXTEND2 of the circuit it is.
    pub(crate) number: u32,
    pub(crate) to: NextHop,
    /// Type, length, onionskin: as they stand in both EXTEND2 and CREATE2.
    pub(crate) handshake: Vec<u8>,
}

/// The relay's two layers of a circuit.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) forward: ForwardLayer,
    pub(crate) backward: BackwardLayer,
    /// What binds an ESTABLISH_INTRO to this circuit.
    pub(crate) binding: Binding,
    /// While a batch is being marked: its row there.
    pub(crate) row: Option<usize>,
}

/// Cells waiting in one direction.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// This hop's own payment messages, which go first: while there are any, the queue is scheduled as a paid one.
    pub(crate) answers: List,
    /// All others.
    pub(crate) cells: List,
    /// The entry in a schedule that is valid; 0 if there is none.
    pub(crate) ticket: u32,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.answers.len() + self.cells.len()
    }

    /// The class in which it is scheduled, in a circuit of class `of`.
    #[inline]
    pub(crate) fn class(&self, of: Class) -> Class {
        if self.answers.len() > 0 { Class::Paid } else { of }
    }

    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        let cells = self.len();
        pool.clear(&mut self.answers);
        pool.clear(&mut self.cells);
        self.ticket = 0;
        cells
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Circuit {
    pub(crate) prev: End,
    pub(crate) next: Next,
    /// `None` until the handshake is done.
    pub(crate) layers: Option<Layers>,
    /// Whether CREATE_FAST made it: the answer to be sent.
    pub(crate) fast: bool,
    /// RELAY_EARLY cells seen.
    pub(crate) early: u8,
    /// EXTEND2s that came on it.
    pub(crate) extends: u32,
    /// An INTRODUCE1 came on it: there is only one on each circuit.
    pub(crate) introduced: bool,
    /// The SENDME increment, if congestion control was negotiated.
    pub(crate) increment: Option<u8>,
    /// Whose share of the unpaid class it takes.
    pub(crate) neighbour: u32,
    pub(crate) class: Class,
    /// Bytes that may still be carried in the paid class.
    pub(crate) credit: u64,
    /// Tell once credit is below; 0: do not.
    pub(crate) low: u64,
    /// Bytes carried, both directions.
    pub(crate) metered: u64,
    pub(crate) queues: [Queue; 2],
    /// Cells waiting here, and what waits for its streams' targets in units of cells.
    pub(crate) held: u32,
    /// What of `held` the memory accounts know.
    pub(crate) counted: u32,
    pub(crate) node: Node,
    pub(crate) seen: Seen,
    /// Streams and windows, if it ever ended here.
    pub(crate) edge: Option<Box<Edge>>,
}

impl Circuit {
    pub(crate) fn new(prev: End, neighbour: u32, fast: bool) -> Self {
        Circuit {
            prev,
            next: Next::Nowhere,
            layers: None,
            fast,
            early: 0,
            extends: 0,
            introduced: false,
            increment: None,
            neighbour,
            class: Class::Unpaid,
            credit: 0,
            low: 0,
            metered: 0,
            queues: [Queue::default(), Queue::default()],
            held: 0,
            counted: 0,
            node: Node::default(),
            seen: Seen::default(),
            edge: None,
        }
    }

    /// Where the cells of a direction go.
    #[inline]
    pub(crate) fn end(&self, direction: usize) -> Option<End> {
        match (&self.next, direction) {
            (_, BACKWARD) => Some(self.prev),
            (Next::Asked(end) | Next::Open(end), _) => Some(*end),
            _ => None,
        }
    }

    /// Streams that end here now.
    pub(crate) fn streams(&self) -> usize {
        self.edge.as_ref().map_or(0, |edge| edge.streams.len())
    }

    /// Cells that it can carry until the last of them has consequences: a message, or another class. At least one.
    #[inline]
    pub(crate) fn until_charged(&self) -> u64 {
        match self.class {
            Class::Unpaid => u64::MAX,
            Class::Paid => self.credit.saturating_sub(self.low.max(CELL_LEN as u64)) / CELL_LEN as u64 + 1,
        }
    }

    /// The ticket of the queue that a schedule's entry names.
    #[inline]
    pub(crate) fn ticket(&self, queue: u32) -> u32 {
        if queue & ARRIVALS == 0 {
            return self.queues[(queue & 1) as usize].ticket;
        }
        self.edge.as_ref().map_or(0, |edge| edge.arrivals.ticket)
    }
}

impl Engine {
    /// Ends a circuit: tells the sides for which there is a reason, and forgets it.
    pub(crate) fn end_circuit(&mut self, index: u32, to_prev: Option<DestroyReason>, to_next: Option<DestroyReason>) {
        let Some(name) = self.circuits.name(index) else { return };
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        for queue in &mut circuit.queues {
            queue.clear(&mut self.pool);
        }
        if let Some(edge) = &mut circuit.edge {
            self.pool.clear(&mut edge.arrivals.cells);
        }
        circuit.held = 0;
        self.memory.forget(&mut self.circuits, index);
        let Some(circuit) = self.circuits.remove(name) else {
            return;
        };
        self.neighbours.closed(circuit.neighbour, circuit.streams());
        self.paid_circuits -= usize::from(circuit.class == Class::Paid);
        if circuit.layers.is_some() {
            self.events.push_back(Event::Payment(PaymentEvent::CircuitClosed {
                circuit: name,
                metered: circuit.metered,
            }));
        }
        self.leave_link(circuit.prev, to_prev);
        if let Some(end) = circuit.end(FORWARD) {
            self.leave_link(end, to_next);
        }
        if let Some(edge) = circuit.edge {
            edge.wake_all(name, &mut self.events);
        }
        match circuit.next {
            Next::Introduction(introduction) => self.forget_introduction(&introduction, index),
            Next::Rendezvous(cookie) => drop(self.rendezvous.remove(&*cookie)),
            // Its reason is not passed on: it would tell one side about the other.
            Next::Spliced(splice) => self.end_circuit(splice.other, Some(DestroyReason::Destroyed), None),
            Next::Nowhere | Next::Waiting(_) | Next::Asked(_) | Next::Open(_) | Next::Proving(_) => {}
        }
    }

    /// Takes a circuit id out of a link's table; with a reason, tells the other side, and keeps the id unused until that
    /// has been written.
    pub(crate) fn leave_link(&mut self, end: End, reason: Option<DestroyReason>) {
        let Some(link) = self.links.at_mut(end.link) else {
            return;
        };
        link.forget(end.id, self.now);
        if let Some(reason) = reason {
            self.send_destroy(end, reason);
        }
    }

    /// The circuit has broken the protocol: ends it on both sides.
    pub(crate) fn protocol_error(&mut self, index: u32) {
        self.counters.protocol_errors += 1;
        self.end_circuit(index, Some(DestroyReason::Protocol), Some(DestroyReason::Protocol));
    }

    /// The index of a circuit, if it is still there.
    pub(crate) fn index(&self, circuit: CircuitId) -> Option<u32> {
        self.circuits.get(circuit).map(|_| circuit.index)
    }
}
