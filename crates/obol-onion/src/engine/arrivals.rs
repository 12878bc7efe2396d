//! What comes from the client for streams that end here: counted, held back under a configured rate, handed to streams.
//!
//! ```text
//!                      no rate: at once
//!  DATA ─► counted ─┬───────────────────────────────────┬─► its stream ─► task ─► target
//!                   └─► held ─► schedule, by class ─────┘      │            │
//!                         (a rate: each costs a cell's tokens) │            └─► consumed: SENDME or XON of the stream
//!                                            circuit's SENDME ◄┘  (or XOFF)
//! ```
//!
//! What an exit writes to targets leaves the relay as what it sends on links does, so it comes out of the same rate, by the
//! same classes and weights: a circuit's held cells are one more queue in the pacer's schedule. The SENDME that quotes a
//! cell goes out when the cell has passed, so what is held is bounded by the client's window.

use super::Engine;
use super::cells::{Kind, List};
use super::event::Event;
use super::ids::StreamId;
use super::queue::EDGE_QUEUE_LOW;
use super::schedule::Entry;
use super::stream::Edge;
use super::window::{STREAM_INCREMENT, STREAM_WINDOW};
use super::wire::{EndReason, Ending, relay};
use crate::crypto::tor1::{BODY_LEN, Tag};

/// Marks a schedule's entry: not one of the circuit's two queues, but what is held for its streams.
pub(crate) const ARRIVALS: u32 = 1 << 31;

/// Cells that one stream's target may leave untaken, on circuits with congestion control. A client that heeds XOFF stays
/// far below.
const STREAM_MOST: u32 = 10_000;

/// Cells held for streams.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    pub(crate) cells: List,
    /// The entry in the pacer's schedule that is valid; 0 if there is none.
    pub(crate) ticket: u32,
}

/// What becomes of DATA for a stream.
enum Given {
    /// There is no such stream, or it wants nothing.
    Nobody,
    /// It is there for the task, which is to be woken if it waits.
    Taken { wake: Option<StreamId>, xoff: bool },
    /// More than the client was allowed to send: the circuit has to be closed.
    Forbidden,
    /// More than the stream may have waiting.
    TooMuch(StreamId),
}

impl Engine {
    /// DATA from the client: counted for the circuit in any case.
    #[inline]
    pub(crate) fn data(&mut self, index: u32, tag: Tag, number: u16, data: &[u8]) {
        let Some(edge) = self.edge(index) else { return };
        if edge.window.arrived(tag).is_err() {
            return self.protocol_error(index);
        }
        if self.pacer.is_some() {
            return self.data_later(index, number, data);
        }
        if !self.give(index, number, data, true) {
            self.counters.messages_dropped += 1;
        }
        self.passed(index);
    }

    /// The same with a pacer: what the stream's window says is said now, the rest when it passes.
    fn data_later(&mut self, index: u32, number: u16, data: &[u8]) {
        let Some(edge) = self.circuits.at_mut(index).and_then(|circuit| circuit.edge.as_mut()) else {
            return;
        };
        let fixed = !edge.window.is_controlled();
        match edge.streams.get_mut(&number) {
            Some(stream) if !stream.ended => {
                if fixed {
                    if !stream.may_send() {
                        return self.forbidden(index, number);
                    }
                    stream.has_sent();
                }
                self.hold(index, relay::DATA, number, data);
            }
            _ => {
                self.counters.messages_dropped += 1;
                self.passed(index);
            }
        }
    }

    /// The client has sent more on a stream than its window allows.
    #[cold]
    fn forbidden(&mut self, index: u32, number: u16) {
        self.originate(index, relay::END, number, &[EndReason::TorProtocol as u8]);
        self.protocol_error(index);
    }

    /// A DATA cell that came has passed: its SENDME may be due.
    fn passed(&mut self, index: u32) {
        let Some(edge) = self.circuits.at_mut(index).and_then(|circuit| circuit.edge.as_mut()) else {
            return;
        };
        let Some(tag) = edge.window.passed() else { return };
        // With congestion control both sides know tags.
        if self.config.sendmes.emit == 0 && !edge.window.is_controlled() {
            return self.originate(index, relay::SENDME, 0, &[]);
        }
        let mut body = [0; 23];
        body[0] = 1;
        body[2] = 20;
        body[3..].copy_from_slice(tag.as_bytes());
        self.originate(index, relay::SENDME, 0, &body);
    }

    /// Gives DATA to its stream, whose window is looked at if it is `fresh`. False: nobody wants it. The circuit may be gone
    /// afterwards.
    #[inline]
    fn give(&mut self, index: u32, number: u16, data: &[u8], fresh: bool) -> bool {
        let Some(name) = self.circuits.name(index) else {
            return false;
        };
        let now = self.now;
        let flow = &self.config.congestion.flow;
        let Some(circuit) = self.circuits.at_mut(index) else {
            return false;
        };
        let Some(edge) = &mut circuit.edge else { return false };
        let controlled = edge.window.is_controlled();
        let given = match edge.streams.get_mut(&number) {
            None => Given::Nobody,
            Some(stream) if stream.ended => Given::Nobody,
            Some(stream) if fresh && !controlled && !stream.may_send() => Given::Forbidden,
            Some(stream) => {
                let id = StreamId {
                    circuit: name,
                    number,
                    serial: stream.serial,
                };
                if controlled && stream.received_cells + stream.passing_cells >= STREAM_MOST {
                    Given::TooMuch(id)
                } else {
                    if fresh && !controlled {
                        stream.has_sent();
                    }
                    stream.received.extend_from_slice(data);
                    stream.received_cells += 1;
                    let waiting = stream.waiting();
                    Given::Taken {
                        wake: core::mem::take(&mut stream.wants_bytes).then_some(id),
                        xoff: controlled && stream.uptake.arrived(flow, now, waiting),
                    }
                }
            }
        };
        match given {
            Given::Nobody => false,
            Given::Forbidden => {
                self.forbidden(index, number);
                true
            }
            Given::Taken { wake, xoff } => {
                circuit.held += 1;
                if let Some(stream) = wake {
                    self.events.push_back(Event::StreamReady { stream });
                }
                self.memory.update(&mut self.circuits, index);
                if xoff {
                    self.counters.xoffs_sent += 1;
                    self.originate(index, relay::XOFF, number, &[0]);
                }
                self.enforce_memory();
                true
            }
            Given::TooMuch(stream) => {
                // It was told to stop long ago.
                self.close_stream(stream, Some(Ending::Because(EndReason::Misc)));
                self.events.push_back(Event::StreamReady { stream });
                false
            }
        }
    }

    /// The client has ended a stream.
    pub(crate) fn client_end(&mut self, index: u32, number: u16) {
        let held = self.circuits.at(index).and_then(|circuit| circuit.edge.as_ref());
        if held.is_some_and(|edge| edge.arrivals.cells.len() > 0) {
            // Not before what it has sent.
            return self.hold(index, relay::END, number, &[]);
        }
        self.ended(index, number);
    }

    fn ended(&mut self, index: u32, number: u16) {
        let Some(name) = self.circuits.name(index) else { return };
        let Some(edge) = self.circuits.at_mut(index).and_then(|circuit| circuit.edge.as_mut()) else {
            return;
        };
        let Some(stream) = edge.streams.get_mut(&number) else {
            return;
        };
        if core::mem::replace(&mut stream.ended, true) {
            return;
        }
        // Both halves have to look: nothing more comes, and nothing more is wanted.
        (stream.wants_bytes, stream.wants_room) = (false, false);
        let id = StreamId {
            circuit: name,
            number,
            serial: stream.serial,
        };
        self.events.push_back(Event::StreamReady { stream: id });
    }

    /// A SENDME from the client, for the circuit or, with fixed windows, a stream.
    pub(crate) fn sendme(&mut self, index: u32, number: u16, data: &[u8]) {
        if self.edge(index).is_none() {
            return;
        }
        let accept = self.config.sendmes.accept;
        let Some(edge) = self
            .circuits
            .at_mut(index)
            .and_then(|circuit| circuit.edge.as_deref_mut())
        else {
            return;
        };
        let fine = if number == 0 {
            let blocked = edge.blocked;
            let sendme = edge
                .window
                .sendme(data, accept, &self.config.congestion, self.now, blocked);
            sendme.is_ok()
        } else if edge.window.is_controlled() {
            false
        } else if let Some(stream) = edge.streams.get_mut(&number) {
            stream.package += STREAM_INCREMENT;
            stream.package <= STREAM_WINDOW
        } else {
            true
        };
        if !fine {
            return self.protocol_error(index);
        }
        self.wake_senders(index);
    }

    /// There may be room to send again: lets those know who wait for it.
    pub(crate) fn wake_senders(&mut self, index: u32) {
        let Some(name) = self.circuits.name(index) else { return };
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        let queued = circuit.queues[super::circuit::BACKWARD].len();
        let Some(edge) = &mut circuit.edge else { return };
        if queued > EDGE_QUEUE_LOW {
            return;
        }
        edge.blocked = false;
        if edge.window.room() == 0 {
            return;
        }
        for (number, stream) in &mut edge.streams {
            if stream.wants_room && stream.package > 0 {
                stream.wants_room = false;
                let id = StreamId {
                    circuit: name,
                    number: *number,
                    serial: stream.serial,
                };
                self.events.push_back(Event::StreamReady { stream: id });
            }
        }
    }

    /// XOFF or XON from the client: whether we may go on sending on a stream, and how fast.
    pub(crate) fn pause_or_resume(&mut self, index: u32, command: u8, number: u16, data: &[u8]) {
        let now = self.now;
        let name = self.circuits.name(index);
        let edge = self
            .circuits
            .at_mut(index)
            .and_then(|circuit| circuit.edge.as_deref_mut());
        let (Some(circuit), Some(edge)) = (name, edge.filter(|edge| edge.window.is_controlled())) else {
            self.counters.messages_dropped += 1;
            return;
        };
        let xon = command == relay::XON;
        let rate = match data {
            [0, ..] if !xon => 0,
            [0, a, b, c, d, ..] if xon => u32::from_be_bytes([*a, *b, *c, *d]),
            // Of a version that we do not know, or cut off.
            _ => return self.protocol_error(index),
        };
        let Some(stream) = edge.streams.get_mut(&number) else {
            self.counters.messages_dropped += 1;
            return;
        };
        if !xon {
            self.counters.xoffs_received += u64::from(stream.permit.pause());
            return;
        }
        stream.permit.resume(now, rate);
        if core::mem::take(&mut stream.wants_room) {
            let stream = StreamId {
                circuit,
                number,
                serial: stream.serial,
            };
            self.events.push_back(Event::StreamReady { stream });
        }
    }

    /// Holds a message for a stream until the pacer lets it pass.
    fn hold(&mut self, index: u32, command: u8, number: u16, data: &[u8]) {
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        let Some(edge) = &mut circuit.edge else { return };
        let serial = edge.streams.get(&number).map_or(0, |stream| stream.serial);
        let slot = self.pool.take(Kind::Sealed);
        let body = &mut self.pool.slot_mut(slot).body;
        body[0] = command;
        body[3..5].copy_from_slice(&number.to_be_bytes());
        // Nobody needs the digest any more; the number may come to mean another stream.
        body[5..9].copy_from_slice(&serial.to_be_bytes());
        body[9..11].copy_from_slice(&(data.len() as u16).to_be_bytes());
        body[11..11 + data.len()].copy_from_slice(data);
        self.pool.push(&mut edge.arrivals.cells, slot);
        circuit.held += 1;
        let scheduled = edge.arrivals.ticket != 0;
        self.memory.update(&mut self.circuits, index);
        if !scheduled {
            self.schedule_arrivals(index);
        }
        self.enforce_memory();
    }

    /// Gives what a circuit holds for its streams its place in the schedule; without a pacer, lets all of it pass.
    pub(crate) fn schedule_arrivals(&mut self, index: u32) {
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        let Some(edge) = &mut circuit.edge else { return };
        edge.arrivals.ticket = 0;
        if edge.arrivals.cells.len() == 0 {
            return;
        }
        let (class, neighbour) = (circuit.class, circuit.neighbour);
        let Some(pacer) = &mut self.pacer else {
            while self.release(index) {}
            return;
        };
        self.last_ticket = if self.last_ticket == u32::MAX {
            1
        } else {
            self.last_ticket + 1
        };
        edge.arrivals.ticket = self.last_ticket;
        let entry = Entry {
            queue: ARRIVALS | index << 1,
            ticket: self.last_ticket,
        };
        pacer.schedule.push(class, neighbour, entry);
    }

    /// Lets one held cell pass to its stream. False: there was none that anybody wants. The circuit may be gone afterwards.
    fn release(&mut self, index: u32) -> bool {
        loop {
            let Some(circuit) = self.circuits.at_mut(index) else {
                return false;
            };
            let Some(edge) = &mut circuit.edge else { return false };
            let Some(slot) = self.pool.pop(&mut edge.arrivals.cells) else {
                return false;
            };
            let body: [u8; BODY_LEN] = self.pool.slot(slot).body;
            self.pool.give_back(slot);
            circuit.held = circuit.held.saturating_sub(1);
            self.memory.update(&mut self.circuits, index);
            let number = u16::from_be_bytes([body[3], body[4]]);
            let serial = u32::from_be_bytes([body[5], body[6], body[7], body[8]]);
            let len = usize::from(u16::from_be_bytes([body[9], body[10]]));
            let current = edge_serial(
                self.circuits.at(index).and_then(|circuit| circuit.edge.as_deref()),
                number,
            );
            let same = current == Some(serial);
            if body[0] == relay::END {
                if same {
                    self.ended(index, number);
                }
                continue;
            }
            let given = same && self.give(index, number, &body[11..11 + len], false);
            self.passed(index);
            if given {
                return true;
            }
        }
    }

    /// The pacer has come to an entry of [`ARRIVALS`]: lets a cell pass. False: nothing was there, and no token is spent.
    pub(crate) fn pace_arrivals(&mut self, entry: Entry) -> bool {
        self.release((entry.queue & !ARRIVALS) >> 1)
    }

    /// After that: the same entry again, at the end, if there is more.
    pub(crate) fn put_back_arrivals(&mut self, entry: Entry) {
        let Some(circuit) = self.circuits.at_mut((entry.queue & !ARRIVALS) >> 1) else {
            return;
        };
        let (class, neighbour) = (circuit.class, circuit.neighbour);
        let Some(edge) = &mut circuit.edge else { return };
        if edge.arrivals.cells.len() == 0 {
            edge.arrivals.ticket = 0;
        } else if let Some(pacer) = &mut self.pacer {
            pacer.schedule.push(class, neighbour, entry);
        }
    }
}

fn edge_serial(edge: Option<&Edge>, number: u16) -> Option<u32> {
    edge?.streams.get(&number).map(|stream| stream.serial)
}
