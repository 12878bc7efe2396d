//! The load driver: one thread that is a client of many circuits over one link, and does as little as an honest
//! client can.
//!
//! It opens every layer, checks every digest, and answers with authenticated SENDMEs when they are due; it hands
//! the payload to nobody. A stock client spends 4.5 to 17 CPU seconds per GB and would be measured in place of the
//! relays.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obol_onion::crypto::tor1::{BODY_LEN, CircuitKeys, ClientLayers, Tag};
use obol_onion::handshake::{BadReply, ntor, ntor_v3};

use crate::link::{Link, LinkFailed, cell_len};
use crate::wire::{self, CELL, HEADER, PAYLOAD, RELAY_HEADER, cell, relay};

/// DATA cells per circuit SENDME with fixed windows.
const CIRCUIT_SENDME: u32 = 100;
/// DATA cells per stream SENDME with fixed windows.
const STREAM_SENDME: u32 = 50;
/// Our circuit ids: an initiator's have the highest bit set.
const FIRST_ID: u32 = 0x8000_0001;
/// The only stream of a circuit.
const STREAM: u16 = 1;
/// Nothing at all for so long: something is broken.
const SILENCE: Duration = Duration::from_secs(30);

/// A relay, as a client has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Where it accepts links.
    pub address: SocketAddr,
    /// SHA-1 of its RSA identity key.
    pub rsa: [u8; 20],
    /// Its Ed25519 identity.
    pub ed25519: [u8; 32],
    /// Its onion key.
    pub ntor: [u8; 32],
}

/// How much may be under way on a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// A window of 1000 cells, of 500 for the stream.
    #[default]
    Fixed,
    /// Congestion control, asked of the exit; what the exit refuses is a failure.
    Congestion,
}

/// Why the driver cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkFailed),
    /// A socket of our own.
    #[error("cannot listen on loopback")]
    Loopback(#[source] std::io::Error),
    /// A relay's answer to an onion skin.
    #[error("hop {hop} of circuit {circuit} answers wrongly")]
    Handshake {
        /// The circuit.
        circuit: usize,
        /// The hop, from 1.
        hop: usize,
        /// What is wrong.
        #[source]
        error: BadReply,
    },
    /// The exit has no congestion control.
    #[error("the exit did not agree to congestion control")]
    NoCongestionControl,
    /// A relay closed a circuit.
    #[error("circuit {circuit} was destroyed with reason {reason}, with {hops} hops")]
    Destroyed {
        /// The circuit.
        circuit: usize,
        /// The reason's number.
        reason: u8,
        /// How far it had come.
        hops: usize,
    },
    /// The exit closed a stream.
    #[error("the exit ended the stream of circuit {circuit} with reason {reason}")]
    StreamEnded {
        /// The circuit.
        circuit: usize,
        /// The reason's number.
        reason: u8,
    },
    /// No hop made a cell, or not the right one.
    #[error("circuit {circuit}: {what}")]
    Protocol {
        /// The circuit.
        circuit: usize,
        /// What came.
        what: &'static str,
    },
    /// Nothing came for a long time.
    #[error("nothing came for {} s while {what}", SILENCE.as_secs())]
    Silent {
        /// What was waited for.
        what: &'static str,
    },
}

/// A handshake under way.
enum Asked {
    Ntor(ntor::Client),
    NtorV3(Box<ntor_v3::Client>),
}

/// How far a circuit's stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    None,
    Asked,
    Open,
}

/// One circuit.
struct Circuit {
    layers: ClientLayers,
    asked: Option<Asked>,
    stream: Stream,
    /// DATA cells per circuit SENDME.
    increment: u32,
    fixed: bool,
    since_circuit: u32,
    since_stream: u32,
    /// Bytes that are still to come of what was asked for.
    due: u64,
    asked_at: Instant,
    /// When to ask again, and for how much.
    small: Option<Small>,
    /// Cells of payload, for the payer.
    traffic: Traffic,
}

/// A circuit's payload in cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Away from the client.
    pub up: u64,
    /// Towards it.
    pub down: u64,
}

/// A circuit that asks for a little, again and again.
#[derive(Debug)]
struct Small {
    bytes: u64,
    pause: Duration,
    next: Instant,
    took: Vec<Duration>,
}

/// A 51 that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The circuit.
    pub circuit: usize,
    /// Its body.
    pub body: Vec<u8>,
}

/// See the [module](self).
pub struct Driver {
    link: Link,
    path: Vec<Target>,
    flow: Flow,
    circuits: Vec<Circuit>,
    cells: Vec<u8>,
    answers: Vec<Answer>,
    /// Circuits that have all hops and no stream yet.
    built: Vec<usize>,
    /// Circuits that ask for a little, again and again.
    asking: Vec<usize>,
    /// Streams that are open; circuits with bytes due.
    connected: usize,
    busy: usize,
    received: u64,
    received_cells: u64,
}

impl Driver {
    /// Opens a link to the first relay of `path`, over which circuits through all of it will go.
    ///
    /// # Errors
    /// If there is no link.
    pub fn new(path: &[Target], flow: Flow) -> Result<Driver, DriverError> {
        let [guard, ..] = path else {
            return Err(DriverError::Protocol {
                circuit: 0,
                what: "a path needs a relay",
            });
        };
        Ok(Driver {
            link: Link::open(guard.address, guard.rsa, guard.ed25519)?,
            path: path.to_vec(),
            flow,
            circuits: Vec::new(),
            cells: Vec::new(),
            answers: Vec::new(),
            built: Vec::new(),
            asking: Vec::new(),
            connected: 0,
            busy: 0,
            received: 0,
            received_cells: 0,
        })
    }

    /// Circuits so far.
    pub fn circuits(&self) -> usize {
        self.circuits.len()
    }

    /// Payload bytes that came, of all circuits.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Cells that came, of all circuits and kinds.
    pub fn received_cells(&self) -> u64 {
        self.received_cells
    }

    /// Circuits whose bytes have not all come.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// Bytes that a circuit was asked for and that have not come.
    pub fn due(&self, circuit: usize) -> u64 {
        self.circuits.get(circuit).map_or(0, |c| c.due)
    }

    /// Payload of a circuit so far.
    pub fn traffic(&self, circuit: usize) -> Traffic {
        self.circuits.get(circuit).map_or_else(Traffic::default, |c| c.traffic)
    }

    /// The 51s that came since this was asked last.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Builds so many more circuits, at most `at_once` of them under way at one time, each with a stream to `origin`.
    ///
    /// # Errors
    /// If any of them fails.
    pub fn open(&mut self, circuits: usize, at_once: usize, origin: SocketAddr) -> Result<(), DriverError> {
        let total = self.circuits.len() + circuits;
        while self.connected < total {
            while self.circuits.len() < total && self.circuits.len() - self.connected < at_once.max(1) {
                self.create();
            }
            self.turn_or(SILENCE, "building circuits")?;
            for index in std::mem::take(&mut self.built) {
                self.begin(index, origin);
            }
            self.link.flush()?;
        }
        Ok(())
    }

    fn create(&mut self) {
        let index = self.circuits.len();
        let (asked, skin) = self.skin(0);
        self.circuits.push(Circuit {
            layers: ClientLayers::new(),
            asked: Some(asked),
            stream: Stream::None,
            increment: CIRCUIT_SENDME,
            fixed: true,
            since_circuit: 0,
            since_stream: 0,
            due: 0,
            asked_at: Instant::now(),
            small: None,
            traffic: Traffic::default(),
        });
        self.link.send(FIRST_ID + index as u32, cell::CREATE2, &skin);
    }

    /// An onion skin for the hop, as CREATE2 and EXTEND2 carry it.
    fn skin(&self, hop: usize) -> (Asked, Vec<u8>) {
        let target = &self.path[hop];
        if self.flow == Flow::Congestion && hop + 1 == self.path.len() {
            let asked = ntor_v3::Asked {
                congestion_control: true,
            };
            let (client, skin) = ntor_v3::Client::start(target.ed25519, target.ntor, rand::random(), asked);
            return (Asked::NtorV3(Box::new(client)), wire::create2(wire::NTOR_V3, &skin));
        }
        let (client, skin) = ntor::Client::start(target.rsa, target.ntor, rand::random());
        (Asked::Ntor(client), wire::create2(wire::NTOR, &skin))
    }

    fn extend(&mut self, index: usize) -> Result<(), DriverError> {
        let hop = self.circuits[index].layers.len();
        let (asked, skin) = self.skin(hop);
        let to = &self.path[hop];
        let SocketAddr::V4(address) = to.address else {
            return Err(DriverError::Protocol {
                circuit: index,
                what: "the driver extends to IPv4 addresses only",
            });
        };
        let mut body = vec![3, 0, 6];
        body.extend_from_slice(&address.ip().octets());
        body.extend_from_slice(&address.port().to_be_bytes());
        body.extend_from_slice(&[2, 20]);
        body.extend_from_slice(&to.rsa);
        body.extend_from_slice(&[3, 32]);
        body.extend_from_slice(&to.ed25519);
        body.extend_from_slice(&skin);
        self.circuits[index].asked = Some(asked);
        self.say(index, hop - 1, relay::EXTEND2, 0, &body, true);
        Ok(())
    }

    fn begin(&mut self, index: usize, origin: SocketAddr) {
        let mut body = origin.to_string().into_bytes();
        body.extend_from_slice(&[0; 5]);
        self.circuits[index].stream = Stream::Asked;
        self.say(index, self.path.len() - 1, relay::BEGIN, STREAM, &body, false);
    }

    /// Queues a relay message to a hop, counted from 0.
    fn say(&mut self, index: usize, hop: usize, command: u8, stream: u16, data: &[u8], early: bool) {
        let mut body = wire::message(command, stream, data);
        if self.circuits[index].layers.originate(hop, &mut body).is_some() {
            let kind = if early { cell::RELAY_EARLY } else { cell::RELAY };
            self.link.send(FIRST_ID + index as u32, kind, &body);
        }
    }

    /// Sends a payment message to a hop, counted from 1.
    ///
    /// # Errors
    /// If the link fails.
    pub fn pay(&mut self, circuit: usize, hop: u8, body: &[u8]) -> Result<(), DriverError> {
        let Some(hop) = usize::from(hop).checked_sub(1) else {
            return Ok(());
        };
        if circuit < self.circuits.len() && body.len() <= PAYLOAD {
            self.say(circuit, hop, relay::PAYMENT_TO_NODE, 0, body, false);
            self.link.flush()?;
        }
        Ok(())
    }

    /// Asks the origin for `bytes` over this circuit.
    pub fn ask(&mut self, circuit: usize, bytes: u64) {
        let exit = self.path.len() - 1;
        let this = &mut self.circuits[circuit];
        if this.due == 0 && bytes > 0 {
            self.busy += 1;
        }
        this.due += bytes;
        this.asked_at = Instant::now();
        this.traffic.up += 1;
        self.say(circuit, exit, relay::DATA, STREAM, &bytes.to_be_bytes(), false);
    }

    /// Sends what was asked, and reads nothing.
    ///
    /// # Errors
    /// If the link fails.
    pub fn flush(&mut self) -> Result<(), DriverError> {
        Ok(self.link.flush()?)
    }

    /// Has this circuit ask for `bytes` again and again, `pause` after the last ones came; see
    /// [`Driver::take_latencies`].
    pub fn ask_again_and_again(&mut self, circuit: usize, bytes: u64, pause: Duration) {
        self.asking.push(circuit);
        self.circuits[circuit].small = Some(Small {
            bytes,
            pause,
            next: Instant::now(),
            took: Vec::new(),
        });
    }

    /// How many small requests of a circuit were answered.
    pub fn answered(&self, circuit: usize) -> usize {
        let small = self.circuits.get(circuit).and_then(|c| c.small.as_ref());
        small.map_or(0, |small| small.took.len())
    }

    /// How long each small request took until its last byte; the circuit asks no more.
    pub fn take_latencies(&mut self, circuit: usize) -> Vec<Duration> {
        self.asking.retain(|asking| *asking != circuit);
        self.circuits[circuit]
            .small
            .take()
            .map_or_else(Vec::new, |small| small.took)
    }

    /// One round: what is due is sent, what came is taken in. False if nothing came within `patience`.
    ///
    /// # Errors
    /// If the link or any circuit fails.
    pub fn turn(&mut self, patience: Duration) -> Result<bool, DriverError> {
        let patience = self.ask_what_is_due(patience);
        self.link.flush()?;
        if !self.link.fill(patience)? {
            return Ok(false);
        }
        let mut cells = std::mem::take(&mut self.cells);
        self.link.take_cells(&mut cells);
        let mut rest = cells.as_mut_slice();
        while let Some(len) = cell_len(rest)
            && len <= rest.len()
        {
            let (this, after) = rest.split_at_mut(len);
            rest = after;
            if len == CELL
                && let Some((header, body)) = this.split_first_chunk_mut::<HEADER>()
                && let Some(body) = body.first_chunk_mut::<BODY_LEN>()
            {
                let id = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
                self.cell(id, header[4], body)?;
            }
        }
        self.cells = cells;
        self.link.flush()?;
        Ok(true)
    }

    fn turn_or(&mut self, patience: Duration, what: &'static str) -> Result<(), DriverError> {
        match self.turn(patience)? {
            true => Ok(()),
            false => Err(DriverError::Silent { what }),
        }
    }

    /// Sends the small requests whose time has come. How long to wait for the next of them at most.
    fn ask_what_is_due(&mut self, patience: Duration) -> Duration {
        let mut least = patience;
        if self.asking.is_empty() {
            return least;
        }
        let now = Instant::now();
        for place in 0..self.asking.len() {
            let index = self.asking[place];
            let this = &self.circuits[index];
            let Some(small) = this.small.as_ref().filter(|_| this.due == 0) else {
                continue;
            };
            let left = small.next.saturating_duration_since(now);
            if left.is_zero() {
                let bytes = small.bytes;
                self.ask(index, bytes);
            } else {
                least = least.min(left);
            }
        }
        least
    }

    fn cell(&mut self, id: u32, command: u8, body: &mut [u8; BODY_LEN]) -> Result<(), DriverError> {
        let index = id.wrapping_sub(FIRST_ID) as usize;
        let Some(circuit) = self.circuits.get_mut(index) else {
            return Ok(());
        };
        self.received_cells += 1;
        match command {
            cell::RELAY => {
                let Some((hop, tag)) = circuit.layers.open(body) else {
                    return Err(DriverError::Protocol {
                        circuit: index,
                        what: "a cell that no hop made",
                    });
                };
                if body[0] == relay::DATA && hop + 1 == self.path.len() {
                    self.data(index, tag, body)
                } else {
                    self.message(index, hop, body)
                }
            }
            cell::CREATED2 => self.extended(index, body),
            cell::DESTROY => Err(DriverError::Destroyed {
                circuit: index,
                reason: body[0],
                hops: circuit.layers.len(),
            }),
            _ => Ok(()),
        }
    }

    #[inline]
    fn data(&mut self, index: usize, tag: Tag, body: &[u8; BODY_LEN]) -> Result<(), DriverError> {
        let circuit = &mut self.circuits[index];
        let len = u64::from(u16::from_be_bytes([body[9], body[10]]));
        circuit.traffic.down += 1;
        circuit.since_circuit += 1;
        circuit.since_stream += 1;
        self.received += len;
        let done = circuit.due != 0 && circuit.due <= len;
        circuit.due = circuit.due.saturating_sub(len);
        let circuit_sendme = circuit.since_circuit == circuit.increment;
        let stream_sendme = circuit.fixed && circuit.since_stream == STREAM_SENDME;
        if done {
            self.busy -= 1;
            if let Some(small) = &mut circuit.small {
                let now = Instant::now();
                small.took.push(now - circuit.asked_at);
                small.next = now + small.pause;
            }
        }
        let exit = self.path.len() - 1;
        if circuit_sendme {
            self.circuits[index].since_circuit = 0;
            let mut body = [1, 0, 20].to_vec();
            body.extend_from_slice(tag.as_bytes());
            self.say(index, exit, relay::SENDME, 0, &body, false);
        }
        if stream_sendme {
            self.circuits[index].since_stream = 0;
            self.say(index, exit, relay::SENDME, STREAM, &[], false);
        }
        Ok(())
    }

    fn message(&mut self, index: usize, hop: usize, body: &[u8; BODY_LEN]) -> Result<(), DriverError> {
        let len = usize::from(u16::from_be_bytes([body[9], body[10]])).min(PAYLOAD);
        let data = &body[RELAY_HEADER..RELAY_HEADER + len];
        match body[0] {
            relay::EXTENDED2 => self.extended(index, data),
            relay::CONNECTED if hop + 1 == self.path.len() => {
                if self.circuits[index].stream == Stream::Asked {
                    self.circuits[index].stream = Stream::Open;
                    self.connected += 1;
                }
                Ok(())
            }
            relay::PAYMENT_TO_ORIGIN => {
                self.answers.push(Answer {
                    circuit: index,
                    body: data.to_vec(),
                });
                Ok(())
            }
            relay::END => Err(DriverError::StreamEnded {
                circuit: index,
                reason: data.first().copied().unwrap_or(0),
            }),
            _ => Ok(()),
        }
    }

    /// CREATED2 or EXTENDED2: the next hop answers.
    fn extended(&mut self, index: usize, body: &[u8]) -> Result<(), DriverError> {
        let circuit = &mut self.circuits[index];
        let hop = circuit.layers.len() + 1;
        let wrong = |what| DriverError::Protocol { circuit: index, what };
        let asked = circuit.asked.take().ok_or(wrong("an answer to no handshake"))?;
        let reply = wire::reply_in(body).ok_or(wrong("a handshake's answer is cut off"))?;
        let bad = |error| DriverError::Handshake {
            circuit: index,
            hop,
            error,
        };
        let keys: CircuitKeys = match asked {
            Asked::Ntor(client) => client.finish(reply).map_err(bad)?,
            Asked::NtorV3(client) => {
                let (keys, agreed) = client.finish(reply).map_err(bad)?;
                let increment = agreed.congestion_control.ok_or(DriverError::NoCongestionControl)?;
                circuit.increment = u32::from(increment).max(1);
                circuit.fixed = false;
                keys
            }
        };
        circuit.layers.push(&keys);
        if hop < self.path.len() {
            return self.extend(index);
        }
        self.built.push(index);
        Ok(())
    }
}
