//! RELAY cells: forwarded with our layer off or on, or understood here.
//!
//! | from | next hop | our mark in it | what happens |
//! |---|---|---|---|
//! | client's side | any | yes | it is a message for us |
//! | client's side | there | no | forwarded |
//! | client's side | another circuit's end | no | into that circuit ([`rendezvous`](super::rendezvous)) |
//! | client's side | none, or not ready | no | protocol error |
//! | next hop | | | our layer goes on, forwarded |

use super::Engine;
use super::cells::Kind;
use super::circuit::{BACKWARD, FORWARD, Next};
use super::event::{Event, PaymentEvent};
use super::link::Place;
use super::stream::Edge;
use super::wire::{CELL_LEN, body, command, relay};
use crate::crypto::tor1::{BODY_LEN, Tag};

/// RELAY_EARLY cells that one circuit may send away from the client.
pub(crate) const EARLY_MAX: u8 = 8;
/// Cells that are queued at once at most: by so many may the limits on waiting cells be exceeded for a moment.
pub(crate) const RUN_MAX: usize = 32;

/// Command, stream and data of a relay message in clear. `None`: it says that it is longer than a cell.
#[inline]
pub(crate) fn message(body: &[u8; BODY_LEN]) -> Option<(u8, u16, &[u8])> {
    let len = usize::from(u16::from_be_bytes([body[9], body[10]]));
    let data = body.get(11..11 + len)?;
    Some((body[0], u16::from_be_bytes([body[3], body[4]]), data))
}

impl Engine {
    /// RELAY or RELAY_EARLY cells of a link: as many as the first ones in `cells` have the same command and circuit, so
    /// that it is looked up once for all of them. Returns how many that are.
    #[inline]
    pub(crate) fn relay_cells(&mut self, link: u32, cells: &mut [[u8; CELL_LEN]]) -> usize {
        let Some(&[a, b, c, d, command, ..]) = cells.first() else {
            return 0;
        };
        let same = |cell: &&[u8; CELL_LEN]| cell.starts_with(&[a, b, c, d, command]);
        let run = cells.iter().take(RUN_MAX).take_while(same).count();
        let cells = &mut cells[..run];
        let id = u32::from_be_bytes([a, b, c, d]);
        let early = command == command::RELAY_EARLY;
        if !early {
            self.used_for_cells(link, id);
        }
        let place = self.links.at(link).and_then(|link| link.circuits.get(&id)).copied();
        match place {
            Some(Place::Prev(index)) => self.forward(index, early, cells),
            Some(Place::Next(index)) => self.backward(index, early, cells),
            // A circuit that has just ended, most likely.
            Some(Place::Buried) | None => {}
        }
        run
    }

    fn forward(&mut self, index: u32, early: bool, cells: &mut [[u8; CELL_LEN]]) {
        let mut cells = cells.iter_mut();
        // Once, and again after each message for us, which may change the circuit or end it.
        loop {
            let Some(circuit) = self.circuits.at_mut(index) else {
                return;
            };
            let Some(layers) = &mut circuit.layers else {
                return self.protocol_error(index);
            };
            let kind = if early { Kind::SealedEarly } else { Kind::Sealed };
            let open = match circuit.next {
                Next::Open(_) => true,
                Next::Spliced(splice) => return self.across(index, splice, early, cells.into_slice()),
                _ => false,
            };
            let (mut queued, mut wrong, mut ours) = (0, false, None);
            for cell in cells.by_ref() {
                circuit.early += u8::from(early);
                wrong = circuit.early > EARLY_MAX;
                if wrong {
                    break;
                }
                let body = body(cell);
                if let Some(tag) = layers.forward.open(body) {
                    ours = Some((tag, body));
                    break;
                }
                wrong = !open;
                if wrong {
                    break;
                }
                self.pool.append(&mut circuit.queues[FORWARD].cells, kind, body);
                queued += 1;
            }
            if queued > 0 {
                self.queued(index, FORWARD, queued);
            }
            if self.circuits.at(index).is_none() {
                return;
            }
            match ours {
                _ if wrong => return self.protocol_error(index),
                Some((tag, body)) => self.recognised(index, early, tag, body),
                None => return,
            }
        }
    }

    fn backward(&mut self, index: u32, early: bool, cells: &mut [[u8; CELL_LEN]]) {
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        if early || !matches!(circuit.next, Next::Open(_)) {
            return self.protocol_error(index);
        }
        let queue = &mut circuit.queues[BACKWARD].cells;
        for cell in &mut *cells {
            self.pool.append(queue, Kind::Relayed, body(cell));
        }
        self.queued(index, BACKWARD, cells.len() as u32);
    }

    /// A message for this hop.
    fn recognised(&mut self, index: u32, early: bool, tag: Tag, body: &[u8; BODY_LEN]) {
        let Some((command, stream, data)) = message(body) else {
            return self.protocol_error(index);
        };
        if command == relay::PAYMENT_TO_NODE {
            return self.payment_message(index, stream, data);
        }
        self.charge(index, FORWARD, 1);
        match command {
            relay::DATA => self.data(index, tag, stream, data),
            relay::SENDME => self.sendme(index, stream, data),
            relay::XOFF | relay::XON => self.pause_or_resume(index, command, stream, data),
            relay::BEGIN if stream != 0 => self.begin(index, stream, data),
            relay::BEGIN_DIR if stream != 0 => self.begin_dir(index, stream),
            relay::RESOLVE if stream != 0 => self.resolve(index, stream, data),
            relay::END if data.is_empty() => self.protocol_error(index),
            relay::END if stream != 0 => self.client_end(index, stream),
            relay::EXTEND2 => self.extend2(index, early, stream, data),
            relay::EXTEND => self.protocol_error(index),
            relay::ESTABLISH_INTRO => self.establish_intro(index, data),
            relay::INTRODUCE1 => self.introduce1(index, data),
            relay::ESTABLISH_RENDEZVOUS => self.establish_rendezvous(index, data),
            relay::RENDEZVOUS1 => self.rendezvous1(index, data),
            relay::TRUNCATE => self.truncate(index, data),
            relay::TRUNCATED if data.is_empty() => self.protocol_error(index),
            // Unknown commands, DROP, and those that only make sense towards a client.
            _ => self.counters.messages_dropped += 1,
        }
    }

    /// A payment message is handed on at once, whatever else the circuit has waiting.
    pub(crate) fn payment_message(&mut self, index: u32, stream: u16, data: &[u8]) {
        self.counters.payment_cells[FORWARD] += 1;
        let Some(name) = self.circuits.name(index) else { return };
        let Some(circuit) = self.circuits.at(index) else { return };
        if stream != 0 {
            return self.protocol_error(index);
        }
        self.events.push_back(Event::Payment(PaymentEvent::Message {
            circuit: name,
            body: data.to_vec(),
            metered: circuit.metered,
            credit: circuit.credit,
        }));
    }

    /// The edge of a circuit, made when first needed.
    pub(crate) fn edge(&mut self, index: u32) -> Option<&mut Edge> {
        let (package, hash) = (self.config.circuit_window, self.hash);
        let vegas = &self.config.congestion.vegas;
        let circuit = self.circuits.at_mut(index)?;
        let increment = circuit.increment;
        Some(
            circuit
                .edge
                .get_or_insert_with(|| Box::new(Edge::new(package, increment, vegas, hash))),
        )
    }
}
