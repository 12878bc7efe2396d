//! Streams that end here, without their sockets: the relay's stream tasks exchange bytes with them, a batch at a time.
//!
//! ```text
//!   BEGIN, BEGIN_DIR, RESOLVE ──► event ──► task: connected() ──► open ──► end()  ──► gone
//!                                       └─► task: end() ──► gone          END ──► ended ──► task: end(None) ──► gone
//! ```
//!
//! Client to target: DATA is collected per stream ([`arrivals`](super::arrivals)); the task takes all of it with
//! [`Engine::stream_receive`] and says with [`Engine::stream_consumed`] what the target has, which is what moves the
//! stream's window or resumes it: a target that does not read stalls its own stream only. Target to client:
//! [`Engine::stream_room`] says how much may be sent now, and [`Engine::stream_send`] cuts that up into full cells. Both
//! answer "nothing" by remembering that the task waits: then comes one [`Event::StreamReady`]. Only a rate that the client
//! asked for needs a timer, the task's own: [`Engine::stream_rest`].
//!
//! There is no table of half-closed streams: a message for a stream that is not (any longer) there is counted in the
//! circuit's window and dropped, which is all that a relay owes it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;

use super::Engine;
use super::arrivals::Arrivals;
use super::cells::Kind;
use super::circuit::{BACKWARD, Next};
use super::congestion::VegasParameters;
use super::defence::StreamDefence;
use super::event::{Event, Target};
use super::flow::{Permit, Uptake};
use super::hash::Seeded;
use super::ids::{CircuitId, StreamId, Time};
use super::queue::EDGE_QUEUE_HIGH;
use super::rate::Allowance;
use super::relay_cell::RUN_MAX;
use super::window::{CircuitWindow, STREAM_INCREMENT, STREAM_WINDOW};
use super::wire::{DATA_MAX, DestroyReason, EndReason, Ending, relay};

/// Streams and windows of a circuit that ends here.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) window: CircuitWindow,
    /// Our queue towards the client was full, and is not yet short again.
    pub(crate) blocked: bool,
    pub(crate) streams: HashMap<u16, Stream, Seeded>,
    pub(crate) arrivals: Arrivals,
    serial: u32,
    /// Streams to the world that the client may still begin, once it has begun one where the consensus limits that.
    begins: Option<Allowance>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) serial: u32,
    /// Bytes from the client that no task has taken yet.
    pub(crate) received: Vec<u8>,
    /// DATA cells in `received`.
    pub(crate) received_cells: u32,
    /// Bytes that a task has taken and the target not yet.
    passing: usize,
    /// DATA cells in `passing`.
    pub(crate) passing_cells: u32,
    /// DATA cells that the target has and no SENDME has told of. Fixed windows only, as the next two.
    consumed: u16,
    /// DATA cells that the client may still send.
    deliver: u16,
    /// DATA cells that we may still send.
    pub(crate) package: u16,
    /// With congestion control: how the target takes what the client sends.
    pub(crate) uptake: Uptake,
    /// With congestion control: what the client lets us send.
    pub(crate) permit: Permit,
    /// The client has ended it.
    pub(crate) ended: bool,
    /// The task waits for something to receive.
    pub(crate) wants_bytes: bool,
    /// The task waits for room to send.
    pub(crate) wants_room: bool,
}

impl Stream {
    /// Bytes that the target has not taken.
    pub(crate) fn waiting(&self) -> u64 {
        (self.received.len() + self.passing) as u64
    }

    /// Fixed windows: whether the client may send a cell.
    pub(crate) fn may_send(&self) -> bool {
        self.deliver > 0
    }

    /// Fixed windows: it has.
    pub(crate) fn has_sent(&mut self) {
        self.deliver = self.deliver.saturating_sub(1);
    }

    /// The target has taken `bytes` of what passes. Returns how many cells that completes.
    fn taken(&mut self, bytes: usize) -> u32 {
        let bytes = bytes.min(self.passing);
        // Where cells begin and end is not known any more: in proportion, and all with the last byte.
        let cells = match self.passing - bytes {
            0 => self.passing_cells,
            _ => (u64::from(self.passing_cells) * bytes as u64 / self.passing as u64) as u32,
        };
        self.passing -= bytes;
        self.passing_cells -= cells;
        cells
    }
}

/// What [`Engine::stream_receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// What has come was put into the buffer.
    Bytes,
    /// Nothing now; a [`Event::StreamReady`] will come.
    Nothing,
    /// Nothing, and nothing will come: the client has ended the stream.
    Ended,
    /// The stream is gone, and its circuit probably too.
    Gone,
}

/// What a stream is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connected {
    /// An address, with a time to live in seconds.
    To(IpAddr, u32),
    /// Our directory.
    Directory,
}

/// One answer to a RESOLVE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An address.
    Address(IpAddr),
    /// A host name.
    Name(String),
    /// No answer now, perhaps later.
    Transient,
    /// No answer.
    Permanent,
}

/// Seconds that every answer to a RESOLVE claims to be good for: always the same, so that it tells nothing.
const RESOLVED_TTL: u32 = 60;

impl Edge {
    /// With congestion control if a SENDME increment was negotiated; otherwise with `package` as its window.
    pub(crate) fn new(package: u16, increment: Option<u8>, vegas: &VegasParameters, hash: Seeded) -> Self {
        Edge {
            window: match increment {
                Some(increment) => CircuitWindow::controlled(increment, vegas),
                None => CircuitWindow::fixed(package),
            },
            blocked: false,
            streams: HashMap::with_hasher(hash),
            arrivals: Arrivals::default(),
            serial: 0,
            begins: None,
        }
    }

    /// The circuit is gone: whoever waits for one of its streams has to look.
    pub(crate) fn wake_all(&self, circuit: CircuitId, events: &mut VecDeque<Event>) {
        for (number, stream) in &self.streams {
            let stream = StreamId {
                circuit,
                number: *number,
                serial: stream.serial,
            };
            events.push_back(Event::StreamReady { stream });
        }
    }

    fn open(&mut self, circuit: CircuitId, number: u16) -> StreamId {
        self.serial = self.serial.wrapping_add(1);
        self.streams.insert(
            number,
            Stream {
                serial: self.serial,
                received: Vec::new(),
                received_cells: 0,
                passing: 0,
                passing_cells: 0,
                consumed: 0,
                deliver: STREAM_WINDOW,
                package: STREAM_WINDOW,
                uptake: Uptake::default(),
                permit: Permit::default(),
                ended: false,
                wants_bytes: false,
                wants_room: false,
            },
        );
        StreamId {
            circuit,
            number,
            serial: self.serial,
        }
    }

    fn stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams
            .get_mut(&id.number)
            .filter(|stream| stream.serial == id.serial)
    }
}

/// What BEGIN asks for: `host:port`, NUL, and perhaps four bytes of flags.
fn target(data: &[u8]) -> Option<Target> {
    let nul = data.iter().position(|byte| *byte == 0)?;
    let text = core::str::from_utf8(&data[..nul]).ok()?;
    let flags = data.get(nul + 1..nul + 5).and_then(|flags| flags.first_chunk::<4>());
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => host,
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits
        .then(|| port.parse::<u16>().ok())
        .flatten()
        .filter(|port| *port != 0)?;
    if host.is_empty() || host.len() > 255 {
        return None;
    }
    Some(Target {
        host: host.to_owned(),
        port,
        flags: flags.map_or(0, |flags| u32::from_be_bytes(*flags)),
    })
}

impl Engine {
    /// A new stream for a message that opens one. `None`: the number is in use (the message is dropped), or there are too
    /// many, or the circuit is one for an onion service (the stream is ended).
    fn open_stream(&mut self, index: u32, number: u16, elsewhere: EndReason) -> Option<StreamId> {
        let circuit = self.circuits.at(index)?;
        let (neighbour, streams) = (circuit.neighbour, circuit.streams());
        if !matches!(
            circuit.next,
            Next::Nowhere | Next::Waiting(_) | Next::Asked(_) | Next::Open(_)
        ) {
            self.originate(index, relay::END, number, &[elsewhere as u8]);
            return None;
        }
        let name = self.circuits.name(index)?;
        let edge = self.edge(index)?;
        if edge.streams.contains_key(&number) {
            self.counters.messages_dropped += 1;
            return None;
        }
        if !self.has_room_for_stream(index) {
            self.counters.streams_refused += 1;
            self.originate(index, relay::END, number, &[EndReason::ResourceLimit as u8]);
            return None;
        }
        let id = self.edge(index)?.open(name, number);
        self.neighbours.streams(neighbour, streams, streams + 1);
        self.counters.streams_opened += 1;
        Some(id)
    }

    /// Whether there is room for one more stream on a circuit: of its own, of its neighbour's, and of all.
    fn has_room_for_stream(&self, index: u32) -> bool {
        let Some(circuit) = self.circuits.at(index) else {
            return false;
        };
        let of = self.neighbours.share(circuit.neighbour).streams;
        circuit.streams() < self.config.streams_per_circuit
            && of < self.config.streams_per_neighbour(!self.is_from_client(index))
            && self.neighbours.all().streams < self.config.streams()
    }

    /// A stream of a circuit is gone.
    fn stream_gone(&mut self, index: u32) {
        if let Some(circuit) = self.circuits.at(index) {
            let streams = circuit.streams();
            self.neighbours.streams(circuit.neighbour, streams + 1, streams);
        }
    }

    /// Whether a circuit may begin one more stream to the world. If not: what to do about it.
    fn may_begin(&mut self, index: u32) -> Result<(), StreamDefence> {
        let Some(limit) = self.config.defences.streams() else {
            return Ok(());
        };
        let now = self.now;
        let Some(edge) = self.edge(index) else { return Ok(()) };
        let begins = edge
            .begins
            .get_or_insert_with(|| Allowance::new(limit.rate, limit.burst));
        if begins.take(now) {
            return Ok(());
        }
        self.counters.streams_defended += 1;
        if limit.defence == StreamDefence::CloseCircuit {
            self.end_circuit(
                index,
                Some(DestroyReason::ResourceLimit),
                Some(DestroyReason::ResourceLimit),
            );
        }
        Err(limit.defence)
    }

    pub(crate) fn begin(&mut self, index: u32, number: u16, data: &[u8]) {
        match self.may_begin(index) {
            Ok(()) => {}
            // Not RESOURCELIMIT, for which clients avoid an exit for hours.
            Err(StreamDefence::Refuse) => {
                return self.originate(index, relay::END, number, &[EndReason::Misc as u8]);
            }
            Err(StreamDefence::CloseCircuit) => return,
        }
        let Some(stream) = self.open_stream(index, number, EndReason::Misc) else {
            return;
        };
        let Some(target) = target(data) else {
            return self.stream_end(stream, Some(Ending::Because(EndReason::TorProtocol)));
        };
        let Some(prev) = self.circuits.at(index).map(|circuit| circuit.prev.link) else {
            return;
        };
        let peer = self.links.at(prev).and_then(|link| link.info.peer);
        if let Some(from) = self.links.name(prev) {
            self.events.push_back(Event::Begin {
                stream,
                from,
                peer,
                target,
            });
        }
    }

    pub(crate) fn begin_dir(&mut self, index: u32, number: u16) {
        let Some(stream) = self.open_stream(index, number, EndReason::NotDirectory) else {
            return;
        };
        let prev = self.circuits.at(index).map(|circuit| circuit.prev.link);
        if let Some(link) = prev.and_then(|link| self.links.at(link)) {
            let neighbour = link.info.neighbour();
            self.events.push_back(Event::BeginDir { stream, neighbour });
        }
    }

    pub(crate) fn resolve(&mut self, index: u32, number: u16, data: &[u8]) {
        let allowed = match self.may_begin(index) {
            Ok(()) => true,
            Err(StreamDefence::Refuse) => false,
            Err(StreamDefence::CloseCircuit) => return,
        };
        let Some(stream) = self.open_stream(index, number, EndReason::Misc) else {
            return;
        };
        if !allowed {
            return self.stream_resolved(stream, &[Answer::Transient]);
        }
        let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
        match core::str::from_utf8(&data[..end]) {
            Ok(name) if (1..=255).contains(&name.len()) => {
                let name = name.to_owned();
                let prev = self.circuits.at(index).map(|circuit| circuit.prev.link);
                let peer = prev
                    .and_then(|link| self.links.at(link))
                    .and_then(|link| link.info.peer);
                self.events.push_back(Event::Resolve { stream, peer, name });
            }
            _ => self.stream_resolved(stream, &[Answer::Permanent]),
        }
    }

    fn edge_of(&mut self, stream: StreamId) -> Option<&mut Edge> {
        self.circuits.get_mut(stream.circuit)?.edge.as_deref_mut()
    }

    fn stream_mut(&mut self, stream: StreamId) -> Option<&mut Stream> {
        self.edge_of(stream)?.stream(stream)
    }

    /// The stream's target is reached: tells the client. The address's time to live goes out as it is given.
    pub fn stream_connected(&mut self, stream: StreamId, to: Connected) {
        if self.stream_mut(stream).is_none_or(|stream| stream.ended) {
            return;
        }
        let mut body = Vec::with_capacity(25);
        match to {
            Connected::To(IpAddr::V4(address), ttl) => {
                body.extend(address.octets());
                body.extend(ttl.to_be_bytes());
            }
            Connected::To(IpAddr::V6(address), ttl) => {
                body.extend([0, 0, 0, 0, 6]);
                body.extend(address.octets());
                body.extend(ttl.to_be_bytes());
            }
            Connected::Directory => {}
        }
        self.originate(stream.circuit.index, relay::CONNECTED, stream.number, &body);
        self.pace(self.now);
    }

    /// Takes everything that the client has sent on a stream: `buffer`, which has to be empty, is exchanged for it.
    pub fn stream_receive(&mut self, stream: StreamId, buffer: &mut Vec<u8>) -> Received {
        let Some(this) = self.stream_mut(stream) else {
            return Received::Gone;
        };
        if !this.received.is_empty() || this.received_cells > 0 {
            core::mem::swap(&mut this.received, buffer);
            this.received.clear();
            this.passing += buffer.len();
            this.passing_cells += core::mem::take(&mut this.received_cells);
            return Received::Bytes;
        }
        if this.ended {
            return Received::Ended;
        }
        this.wants_bytes = true;
        Received::Nothing
    }

    /// Whether the client has ended a stream; `None`: it is gone, and its circuit probably too.
    pub fn stream_ended(&self, stream: StreamId) -> Option<bool> {
        let edge = self.circuits.get(stream.circuit)?.edge.as_deref()?;
        let this = edge.streams.get(&stream.number)?;
        (this.serial == stream.serial).then_some(this.ended)
    }

    /// The target has taken `bytes` of what was received: the client may send as much again.
    pub fn stream_consumed(&mut self, stream: StreamId, bytes: usize) {
        let index = stream.circuit.index;
        let now = self.now;
        let flow = &self.config.congestion.flow;
        let Some(circuit) = self.circuits.get_mut(stream.circuit) else {
            return;
        };
        let Some(edge) = circuit.edge.as_deref_mut() else {
            return;
        };
        let controlled = edge.window.is_controlled();
        let Some(this) = edge.stream(stream) else { return };
        let cells = this.taken(bytes);
        let (mut sendmes, mut xon) = (0, None);
        if this.ended {
            // Nobody wants to know.
        } else if controlled {
            let waiting = this.waiting();
            xon = this.uptake.taken(flow, now, bytes as u64, waiting);
        } else {
            // Cells with fixed windows are never more than fit.
            this.consumed += cells as u16;
            sendmes = this.consumed / STREAM_INCREMENT;
            this.consumed -= sendmes * STREAM_INCREMENT;
            this.deliver += sendmes * STREAM_INCREMENT;
        }
        circuit.held = circuit.held.saturating_sub(cells);
        self.memory.update(&mut self.circuits, index);
        for _ in 0..sendmes {
            self.originate(index, relay::SENDME, stream.number, &[]);
        }
        if let Some(rate) = xon {
            let [a, b, c, d] = rate.to_be_bytes();
            self.originate(index, relay::XON, stream.number, &[0, a, b, c, d]);
        }
        if sendmes > 0 || xon.is_some() {
            self.pace(self.now);
        }
    }

    /// Bytes that may be sent to the client on a stream now. 0: wait for an [`Event::StreamReady`], and if there is one for
    /// [`stream_rest`](Self::stream_rest). `None`: the stream is gone, or the client wants nothing more.
    pub fn stream_room(&mut self, stream: StreamId) -> Option<usize> {
        let now = self.now;
        let circuit = self.circuits.get_mut(stream.circuit)?;
        let queued = circuit.queues[BACKWARD].len();
        let edge = circuit.edge.as_deref_mut()?;
        let (window, controlled) = (edge.window.room(), edge.window.is_controlled());
        let here = EDGE_QUEUE_HIGH.saturating_sub(queued);
        edge.blocked |= here == 0;
        let this = edge.stream(stream)?;
        if this.ended {
            return None;
        }
        let (window, permitted) = match controlled {
            true => (window, this.permit.bytes(now)),
            false => (window.min(u32::from(this.package)), usize::MAX),
        };
        let cells = here.min(window as usize).min(permitted / DATA_MAX);
        this.wants_room = cells == 0;
        Some(cells * DATA_MAX)
    }

    /// For a stream without room: when there will be some, if the client's rate is all that it waits for.
    pub fn stream_rest(&self, stream: StreamId) -> Option<Time> {
        let edge = self.circuits.get(stream.circuit)?.edge.as_deref()?;
        let this = edge.streams.get(&stream.number)?;
        let waits = this.serial == stream.serial && this.wants_room;
        this.permit.ready_at(DATA_MAX).filter(|at| waits && *at > self.now)
    }

    /// Sends bytes to the client: as many of them as there is room for, in full cells but for the last. Returns how many.
    pub fn stream_send(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let now = self.now;
        let room = self.stream_room(stream).unwrap_or(0);
        let bytes = &bytes[..bytes.len().min(room)];
        let cells = bytes.len().div_ceil(DATA_MAX) as u32;
        if let Some(edge) = self.edge_of(stream) {
            // Never more cells than there was room for.
            edge.window.queued(now, cells);
            let fixed = !edge.window.is_controlled();
            if let Some(this) = edge.stream(stream) {
                match fixed {
                    true => this.package = this.package.saturating_sub(cells as u16),
                    false => this.permit.sent(bytes.len()),
                }
            }
        }
        for run in bytes.chunks(RUN_MAX * DATA_MAX) {
            self.package(stream, run);
        }
        self.pace(self.now);
        bytes.len()
    }

    /// Queues DATA cells.
    fn package(&mut self, stream: StreamId, bytes: &[u8]) {
        let mut cells = 0;
        for data in bytes.chunks(DATA_MAX) {
            let slot = self.compose(Kind::Data, relay::DATA, stream.number, data);
            let Some(circuit) = self.circuits.get_mut(stream.circuit) else {
                // Too much memory was held.
                return self.pool.give_back(slot);
            };
            self.pool.push(&mut circuit.queues[BACKWARD].cells, slot);
            cells += 1;
        }
        self.queued(stream.circuit.index, BACKWARD, cells);
    }

    /// A stream's task is done with it. With an ending, the client is told, unless it was the client that ended it.
    pub fn stream_end(&mut self, stream: StreamId, ending: Option<Ending>) {
        self.close_stream(stream, ending);
        self.pace(self.now);
    }

    /// The same, without sending at once.
    pub(crate) fn close_stream(&mut self, stream: StreamId, ending: Option<Ending>) {
        let index = stream.circuit.index;
        let Some(edge) = self.edge_of(stream) else { return };
        let Some(ended) = edge.stream(stream).map(|stream| stream.ended) else {
            return;
        };
        let Some(gone) = edge.streams.remove(&stream.number) else {
            return;
        };
        self.stream_gone(index);
        if let Some(circuit) = self.circuits.at_mut(index) {
            circuit.held = circuit.held.saturating_sub(gone.received_cells + gone.passing_cells);
        }
        self.memory.update(&mut self.circuits, index);
        let Some(ending) = ending.filter(|_| !ended) else {
            return;
        };
        let mut body = Vec::with_capacity(21);
        match ending {
            Ending::Because(reason) => body.push(reason as u8),
            Ending::Policy(address, ttl) => {
                body.push(EndReason::ExitPolicy as u8);
                match address {
                    IpAddr::V4(address) => body.extend(address.octets()),
                    IpAddr::V6(address) => body.extend(address.octets()),
                }
                body.extend(ttl.to_be_bytes());
            }
        }
        self.originate(index, relay::END, stream.number, &body);
    }

    /// The answer to an [`Event::Resolve`], which ends its stream. What does not fit into one cell is left out.
    pub fn stream_resolved(&mut self, stream: StreamId, answers: &[Answer]) {
        let Some(edge) = self.edge_of(stream) else { return };
        if edge.stream(stream).is_none() {
            return;
        }
        edge.streams.remove(&stream.number);
        self.stream_gone(stream.circuit.index);
        let mut body: Vec<u8> = Vec::with_capacity(64);
        for answer in answers {
            let (kind, value): (u8, Vec<u8>) = match answer {
                Answer::Address(IpAddr::V4(address)) => (4, address.octets().to_vec()),
                Answer::Address(IpAddr::V6(address)) => (6, address.octets().to_vec()),
                Answer::Name(name) => (0, name.as_bytes().to_vec()),
                Answer::Transient => (0xf0, b"Error resolving hostname".to_vec()),
                Answer::Permanent => (0xf1, b"Error resolving hostname".to_vec()),
            };
            if value.len() > 255 || body.len() + value.len() + 6 > DATA_MAX {
                continue;
            }
            body.extend([kind, value.len() as u8]);
            body.extend(value);
            body.extend(RESOLVED_TTL.to_be_bytes());
        }
        self.originate(stream.circuit.index, relay::RESOLVED, stream.number, &body);
        self.pace(self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_clients_write_them() {
        let read = |text: &[u8]| target(text).map(|target| (target.host, target.port, target.flags));
        assert_eq!(read(b"example.com:80\0"), Some(("example.com".into(), 80, 0)));
        assert_eq!(read(b"[::1]:443\0\0\0\0\x05"), Some(("::1".into(), 443, 5)));
        assert_eq!(read(b"1.2.3.4:1\0\0\0"), Some(("1.2.3.4".into(), 1, 0)));
        for bad in [
            &b"example.com:80"[..],
            b"example.com:0\0",
            b"example.com\0",
            b":80\0",
            b"a:99999\0",
            b"a:+80\0",
            b"[::1:80\0",
            b"\0",
            b"",
            b"\xff:80\0",
            b"a:\0",
        ] {
            assert_eq!(read(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
