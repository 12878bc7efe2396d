//! Rendezvous points: two circuits that end here become one.
//! rend-spec, [rendezvous protocol](https://spec.torproject.org/rend-spec/rendezvous-protocol.html).
//!
//! ```text
//!  client ── ESTABLISH_RENDEZVOUS (cookie) ──► waits      RENDEZVOUS1 (cookie, handshake) ◄── service
//!         ◄── RENDEZVOUS2 (handshake) ───────────────────────────────────────────────┘
//!         ══ cells: our layer off, unless they are for us; our layer of the other circuit on ══ service
//! ```
//!
//! Payment messages are understood on either circuit as before; DROP and whatever else needs no answer is passed over. There
//! are no streams: what a service fetches for itself must not go where the client pays. What passes from one circuit to the
//! other is an ordinary RELAY cell in the other's queue, under all limits of that queue. It is counted once, on the circuit
//! of the client, whose class both circuits have from then on; what it is worth to the service is between those two. Both
//! end when one does.

use super::Engine;
use super::cells::{Kind, List};
use super::circuit::{BACKWARD, Circuit, FORWARD, Next};
use super::relay_cell::{EARLY_MAX, message};
use super::schedule::Class;
use super::wire::{CELL_LEN, body, relay};
use crate::crypto::tor1::BODY_LEN;

/// Length of a rendezvous cookie.
pub(crate) const COOKIE_LEN: usize = 20;

/// The other half of a spliced circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Splice {
    /// Its index: both are there, or neither is.
    pub(crate) other: u32,
    /// Whether this half is the client's, on which everything counts.
    pub(crate) pays: bool,
}

impl Circuit {
    /// Whether it ends here, and for nothing yet.
    fn may_be_joined(&self) -> bool {
        let streams = self.edge.as_ref().is_some_and(|edge| !edge.streams.is_empty());
        matches!(self.next, Next::Nowhere) && !streams
    }

    /// The circuit that pays for what leaves on this one, if that is another.
    #[inline]
    pub(crate) fn payer(&self) -> Option<u32> {
        match self.next {
            Next::Spliced(Splice { other, pays: false }) => Some(other),
            _ => None,
        }
    }
}

impl Engine {
    pub(crate) fn establish_rendezvous(&mut self, index: u32, data: &[u8]) {
        let Some(circuit) = self.circuits.at(index) else { return };
        if !circuit.may_be_joined() {
            return self.protocol_error(index);
        }
        if self.config.defences.refuse_single_hop && self.is_from_client(index) {
            // Without a word, so that whoever tries has to wait.
            self.counters.rendezvous_refused += 1;
            return;
        }
        let Some(cookie) = data.first_chunk().filter(|_| data.len() == COOKIE_LEN) else {
            return self.protocol_error(index);
        };
        if self.rendezvous.contains_key(cookie) {
            return self.protocol_error(index);
        }
        if let Some(circuit) = self.circuits.at_mut(index) {
            circuit.next = Next::Rendezvous(Box::new(*cookie));
            self.rendezvous.insert(*cookie, index);
            self.originate(index, relay::RENDEZVOUS_ESTABLISHED, 0, &[]);
        }
    }

    pub(crate) fn rendezvous1(&mut self, index: u32, data: &[u8]) {
        let Some(circuit) = self.circuits.at(index) else { return };
        let waiting = data
            .split_first_chunk::<COOKIE_LEN>()
            .filter(|_| circuit.may_be_joined())
            // Found and taken out at once: a cookie joins two circuits once.
            .and_then(|(cookie, handshake)| Some((self.rendezvous.remove(cookie)?, handshake)));
        let Some((client, handshake)) = waiting else {
            return self.protocol_error(index);
        };
        let Some(class) = self.circuits.at(client).map(|circuit| circuit.class) else {
            return self.protocol_error(index);
        };
        // The service's class is the client's now, whatever credit it had.
        self.set_class(index, class);
        for (this, other, pays) in [(client, index, true), (index, client, false)] {
            if let Some(circuit) = self.circuits.at_mut(this) {
                circuit.next = Next::Spliced(Splice { other, pays });
            }
        }
        self.counters.rendezvous_joined += 1;
        self.originate(client, relay::RENDEZVOUS2, 0, handshake);
    }

    /// RELAY cells of a circuit that is spliced: those that are not for us go into the other one.
    pub(crate) fn across(&mut self, index: u32, splice: Splice, early: bool, cells: &mut [[u8; CELL_LEN]]) {
        let mut cells = cells.iter_mut();
        loop {
            let layers = self.circuits.at_mut(index).and_then(|circuit| {
                let early = &mut circuit.early;
                circuit.layers.as_mut().map(|layers| (layers, early))
            });
            let Some((layers, earlier)) = layers else { return };
            let (mut passed, mut wrong, mut ours) = (List::default(), false, None);
            for cell in cells.by_ref() {
                *earlier += u8::from(early);
                wrong = *earlier > EARLY_MAX;
                if wrong {
                    break;
                }
                let body = body(cell);
                if layers.forward.open(body).is_some() {
                    ours = Some(body);
                    break;
                }
                self.pool.append(&mut passed, Kind::Relayed, body);
            }
            let count = passed.len() as u32;
            match self.circuits.at_mut(splice.other) {
                Some(other) => self.pool.join(&mut other.queues[BACKWARD].cells, passed),
                None => self.pool.clear(&mut passed),
            }
            if count > 0 {
                self.queued(splice.other, BACKWARD, count);
            }
            if self.circuits.at(index).is_none() {
                return;
            }
            match ours {
                _ if wrong => return self.protocol_error(index),
                Some(body) => self.aside(index, body),
                None => return,
            }
        }
    }

    /// A message for this hop on a circuit that is spliced.
    fn aside(&mut self, index: u32, body: &[u8; BODY_LEN]) {
        let Some((command, stream, data)) = message(body) else {
            return self.protocol_error(index);
        };
        if command == relay::PAYMENT_TO_NODE {
            return self.payment_message(index, stream, data);
        }
        self.charge(index, FORWARD, 1);
        match command {
            relay::EXTEND
            | relay::EXTEND2
            | relay::TRUNCATE
            | relay::ESTABLISH_INTRO
            | relay::INTRODUCE1
            | relay::ESTABLISH_RENDEZVOUS
            | relay::RENDEZVOUS1 => self.protocol_error(index),
            _ => self.counters.messages_dropped += 1,
        }
    }

    /// The class of a circuit has changed: if it pays for another one, that one's is the same.
    pub(crate) fn follow_class(&mut self, index: u32, class: Class) {
        if let Some(Next::Spliced(Splice { other, pays: true })) = self.circuits.at(index).map(|circuit| &circuit.next)
        {
            self.set_class(*other, class);
        }
    }

    /// Whether a client, and not a relay, is before us on a circuit.
    pub(crate) fn is_from_client(&self, index: u32) -> bool {
        let link = self
            .circuits
            .at(index)
            .and_then(|circuit| self.links.at(circuit.prev.link));
        link.is_none_or(|link| link.info.relay().is_none())
    }
}
