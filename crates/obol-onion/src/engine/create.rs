//! New circuits: CREATE cells in, handshakes out to whoever computes them, CREATED cells back.
//! tor-spec, [create and created cells](https://spec.torproject.org/tor-spec/create-created-cells.html).

use super::Engine;
use super::circuit::{Circuit, End, Layers};
use super::event::{Event, HandshakeJob, HandshakeKind, PaymentEvent};
use super::ids::{CircuitId, Time};
use super::link::Place;
use super::wire::{DestroyReason, command};
use crate::crypto::tor1::{BODY_LEN, CircuitKeys};

/// Length of CREATE_FAST's material.
const FAST_LEN: usize = 20;
/// Length of an ntor onionskin.
const NTOR_LEN: usize = 84;
/// Handshake types of CREATE2.
const TYPE_NTOR: u16 = 2;
const TYPE_NTOR_V3: u16 = 3;

/// What a handshake came to.
#[derive(Debug, Clone)]
pub struct HandshakeAnswer {
    /// What the client gets: `Y` and `KH` of CREATED_FAST, or the data of CREATED2.
    pub reply: Vec<u8>,
    /// The circuit's secrets.
    pub keys: CircuitKeys,
    /// The SENDME increment, if congestion control was agreed on.
    pub congestion_control: Option<u8>,
}

impl Engine {
    pub(crate) fn create_cell(&mut self, link: u32, id: u32, command: u8, body: &[u8; BODY_LEN]) {
        let end = End { link, id };
        // Before all else: those count too that come to nothing.
        let allowed = self.may_create(link);
        let Some(this) = self.links.at(link) else { return };
        if id == 0 || this.circuits.contains_key(&id) {
            return;
        }
        let refuse = if !this.is_peers(id) {
            Some(DestroyReason::Protocol)
        } else if !allowed {
            self.counters.creates_defended += 1;
            Some(DestroyReason::ResourceLimit)
        } else if this.circuits.len() >= self.config.circuits_per_link
            || self.neighbours.share(this.neighbour).circuits >= self.config.circuits_per_neighbour
            || self.circuits.len() >= self.config.circuits
            || self.handshakes.pending >= self.config.pending_handshakes
            || self.handshakes.delay(self.config.handshake_workers) > self.config.defences.handshakes.delay
        {
            self.counters.creates_refused += 1;
            Some(DestroyReason::ResourceLimit)
        } else if self.closing {
            Some(DestroyReason::Hibernating)
        } else {
            None
        };
        if let Some(reason) = refuse {
            self.send_destroy(end, reason);
            return;
        }
        let job = match command {
            command::CREATE_FAST => Some((HandshakeKind::Fast, body[..FAST_LEN].to_vec())),
            command::CREATE2 => create2(body),
            _ => None,
        };
        let Some((kind, onionskin)) = job else {
            self.send_destroy(end, DestroyReason::Protocol);
            return;
        };
        let neighbour = self.links.at(link).map_or(0, |link| link.neighbour);
        let circuit = self
            .circuits
            .insert(Box::new(Circuit::new(end, neighbour, kind == HandshakeKind::Fast)));
        self.neighbours.opened(neighbour, 0);
        if let Some(this) = self.links.at_mut(link) {
            this.circuits.insert(id, Place::Prev(circuit.index));
        }
        self.handshakes.pending += 1;
        self.events.push_back(Event::Handshake(HandshakeJob {
            circuit,
            since: self.now,
            kind,
            onionskin,
            congestion_control: self.config.congestion.offer(),
        }));
    }

    /// The result of an [`Event::Handshake`], once for each that was taken up; `None`: it failed, and the circuit is refused.
    pub fn created(&mut self, now: Time, circuit: CircuitId, answer: Option<HandshakeAnswer>) {
        self.now = self.now.max(now);
        // Also when the circuit is gone: until now its handshake was somebody's work.
        self.handshakes.pending = self.handshakes.pending.saturating_sub(1);
        let Some(this) = self.circuits.get_mut(circuit) else {
            return;
        };
        if this.layers.is_some() {
            return;
        }
        let Some(answer) = answer else {
            self.counters.handshakes_failed += 1;
            self.end_circuit(circuit.index, Some(DestroyReason::Protocol), None);
            return;
        };
        let (forward, backward) = answer.keys.relay_layers();
        this.layers = Some(Layers {
            forward,
            backward,
            binding: answer.keys.binding(),
            row: None,
        });
        this.increment = answer.congestion_control;
        let (end, fast) = (this.prev, this.fast);
        self.counters.circuits_opened += 1;
        self.counters.circuits_controlled += u64::from(answer.congestion_control.is_some());
        if fast {
            self.send_control(end.link, end.id, command::CREATED_FAST, &answer.reply);
        } else {
            let mut body = [0; BODY_LEN];
            let data = &answer.reply[..answer.reply.len().min(BODY_LEN - 2)];
            body[..2].copy_from_slice(&(data.len() as u16).to_be_bytes());
            body[2..2 + data.len()].copy_from_slice(data);
            self.send_control(end.link, end.id, command::CREATED2, &body[..2 + data.len()]);
        }
        if let Some(link) = self.links.name(end.link) {
            self.events.push_back(Event::Payment(PaymentEvent::CircuitOpened {
                circuit,
                link,
                id: end.id,
            }));
        }
    }
}

/// Type and onionskin of a CREATE2, if it is one of ours.
fn create2(body: &[u8; BODY_LEN]) -> Option<(HandshakeKind, Vec<u8>)> {
    let kind = match u16::from_be_bytes([body[0], body[1]]) {
        TYPE_NTOR => HandshakeKind::Ntor,
        TYPE_NTOR_V3 => HandshakeKind::NtorV3,
        _ => return None,
    };
    let len = usize::from(u16::from_be_bytes([body[2], body[3]]));
    let onionskin = body.get(4..4 + len)?;
    (kind != HandshakeKind::Ntor || len == NTOR_LEN).then(|| (kind, onionskin.to_vec()))
}
