//! Networks of engines in memory, under a clock that jumps.

mod backlog;
mod circuits;
mod classes;
mod control;
mod defence;
mod flow;
mod fuzz;
mod handshakes;
mod intro;
mod links;
mod rendezvous;
mod strangers;
mod streams;
mod uploads;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::wire::{command, relay};
use super::*;
use crate::crypto::tor1::{BODY_LEN, CircuitKeys, ClientLayers, KEY_MATERIAL_LEN};

/// What a client and a relay share after the handshake with this number: no public keys are needed here.
pub(super) fn keys(number: u32) -> CircuitKeys {
    let mut material = [0; KEY_MATERIAL_LEN];
    Rng::new(&[number as u8; 32]).fill(&mut material);
    material[..4].copy_from_slice(&number.to_be_bytes());
    CircuitKeys::from_kdf(&material)
}

/// The identity of a relay of these tests.
pub(super) fn peer(node: usize) -> Peer {
    Peer {
        ed: [node as u8 + 1; 32],
        rsa: [node as u8 + 1; 20],
    }
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, node as u8 + 1], 9001))
}

/// A client's end of one circuit.
pub(super) struct Circ {
    pub(super) client: usize,
    pub(super) id: u32,
    pub(super) layers: ClientLayers,
    /// Names of the circuit at the hops, nearest first.
    pub(super) names: Vec<CircuitId>,
    /// What binds messages to the circuit at the hops: `KH`.
    pub(super) bindings: Vec<[u8; 20]>,
    pub(super) path: Vec<usize>,
    next_handshake: u32,
}

/// A relay message as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) hop: usize,
    pub(super) command: u8,
    pub(super) stream: u16,
    pub(super) data: Vec<u8>,
    pub(super) tag: [u8; 20],
}

/// A client: one link to one relay.
struct Client {
    node: usize,
    link: LinkId,
    inbox: Vec<u8>,
}

/// Relays, links between them, clients.
pub(super) struct Net {
    pub(super) now: Time,
    pub(super) nodes: Vec<Engine>,
    links: Vec<[(usize, LinkId); 2]>,
    clients: Vec<Client>,
    /// Events that the network itself does not answer.
    pub(super) events: Vec<Vec<Event>>,
    handshakes: u32,
    /// Links whose writers are not asleep (of one relay only).
    awake: HashSet<LinkId>,
    /// The circuit that was made with each handshake.
    made: HashMap<u32, CircuitId>,
    /// Who needs a link is among the events, and gets none.
    pub(super) slow_dials: bool,
}

impl Net {
    pub(super) fn new(configs: impl IntoIterator<Item = EngineConfig>) -> Net {
        let configs = configs.into_iter().map(|config| EngineConfig {
            allow_private_addresses: true,
            ..config
        });
        let nodes: Vec<Engine> = configs
            .enumerate()
            .map(|(n, config)| Engine::new(config, [n as u8 + 7; 32]))
            .collect();
        Net {
            now: Time(1_000_000),
            events: nodes.iter().map(|_| Vec::new()).collect(),
            nodes,
            links: Vec::new(),
            clients: Vec::new(),
            handshakes: 0,
            awake: HashSet::new(),
            made: HashMap::new(),
            slow_dials: false,
        }
    }

    pub(super) fn of_size(nodes: usize) -> Net {
        Net::new((0..nodes).map(|_| EngineConfig::default()))
    }

    /// A client at `address` (its port does not matter), linked to a relay.
    pub(super) fn client_at(&mut self, node: usize, address: &str) -> usize {
        let remote = SocketAddr::new(address.parse().unwrap(), 40_000);
        let info = LinkInfo {
            peer: None,
            remote,
            initiated: false,
            canonical: false,
            canonical_to_peer: false,
            pads: true,
            known: true,
        };
        let link = self.nodes[node].link_up(self.now, info);
        self.clients.push(Client {
            node,
            link,
            inbox: Vec::new(),
        });
        self.clients.len() - 1
    }

    /// One that has proved an identity, which the consensus may know.
    pub(super) fn peer_at(&mut self, node: usize, of: usize, known: bool, address: &str) -> usize {
        let client = self.client_at(node, address);
        let link = self.clients[client].link;
        self.nodes[node].link_down(self.now, link);
        let info = LinkInfo {
            peer: Some(peer(of)),
            known,
            remote: SocketAddr::new(address.parse().unwrap(), 40_000),
            initiated: false,
            canonical: true,
            canonical_to_peer: true,
            pads: true,
        };
        self.clients[client].link = self.nodes[node].link_up(self.now, info);
        client
    }

    pub(super) fn client(&mut self, node: usize) -> usize {
        self.client_at(node, "192.0.2.1")
    }

    /// Answers what a relay asks of those around it, and keeps the rest.
    fn answer_events(&mut self, node: usize) -> bool {
        let mut any = false;
        while let Some(event) = self.nodes[node].poll_event() {
            any = true;
            match event {
                Event::Handshake(job) => {
                    let number = u32::from_be_bytes(*job.onionskin.first_chunk().unwrap());
                    self.made.insert(number, job.circuit);
                    let answer = HandshakeAnswer {
                        reply: vec![9; 64],
                        keys: keys(number),
                        congestion_control: job.congestion_control,
                    };
                    self.nodes[node].created(self.now, job.circuit, Some(answer));
                }
                Event::Introduction(proof) => {
                    let holds = proof.holds();
                    self.nodes[node].introduced(self.now, proof.circuit, holds);
                }
                Event::NeedLink { extend, to, neighbour } if self.slow_dials => {
                    self.events[node].push(Event::NeedLink { extend, neighbour, to });
                }
                Event::NeedLink { extend, to, .. } => {
                    let Some(other) = (0..self.nodes.len()).find(|other| peer(*other).rsa == to.rsa) else {
                        self.nodes[node].extend_failed(self.now, extend, DestroyReason::ConnectFailed);
                        continue;
                    };
                    let link = self.connect(node, other);
                    self.nodes[node].extend_via(self.now, extend, link);
                }
                other => self.events[node].push(other),
            }
        }
        any
    }

    /// A link between two relays; the first one's name for it.
    pub(super) fn connect(&mut self, node: usize, other: usize) -> LinkId {
        let info = |to: usize, initiated| LinkInfo {
            peer: Some(peer(to)),
            known: true,
            remote: address(to),
            initiated,
            canonical: true,
            canonical_to_peer: true,
            pads: true,
        };
        let ours = self.nodes[node].link_up(self.now, info(other, true));
        let theirs = self.nodes[other].link_up(self.now, info(node, false));
        self.links.push([(node, ours), (other, theirs)]);
        ours
    }

    /// Moves everything between relays until nothing moves; clients get nothing.
    pub(super) fn settle(&mut self) {
        loop {
            let mut any = false;
            for node in 0..self.nodes.len() {
                any |= self.answer_events(node);
            }
            for [a, b] in self.links.clone() {
                for (from, to) in [(a, b), (b, a)] {
                    let mut out = Vec::new();
                    self.nodes[from.0].transmit(self.now, from.1, &mut out, 64 * 1024);
                    any |= !out.is_empty();
                    self.feed(to.0, to.1, out);
                }
            }
            if !any {
                return;
            }
        }
    }

    /// Gives a relay bytes of a link, in awkward pieces.
    fn feed(&mut self, node: usize, link: LinkId, bytes: Vec<u8>) {
        let mut waiting = Vec::new();
        for piece in bytes.chunks(3000) {
            waiting.extend_from_slice(piece);
            match self.nodes[node].receive(self.now, link, &mut waiting) {
                Ok(done) => drop(waiting.drain(..done)),
                Err(why) => {
                    self.events[node].push(Event::CloseLink { link, why });
                    self.nodes[node].link_down(self.now, link);
                    return;
                }
            }
        }
    }

    /// Takes up to `cells` cells for a client; returns how many came.
    pub(super) fn deliver(&mut self, client: usize, cells: usize) -> usize {
        let Client { node, link, .. } = self.clients[client];
        let mut out = Vec::new();
        self.nodes[node].transmit(self.now, link, &mut out, cells * CELL_LEN);
        self.clients[client].inbox.extend_from_slice(&out);
        out.len() / CELL_LEN
    }

    /// What the writers of clients' links do: they look when they are woken, and again until they are told to sleep.
    /// Nobody else looks for them. Returns how many cells were taken.
    pub(super) fn deliver_woken(&mut self) -> usize {
        let mut taken = 0;
        for client in 0..self.clients.len() {
            let (node, link) = (self.clients[client].node, self.clients[client].link);
            let mut woken = Vec::new();
            self.nodes[node].take_woken(&mut woken);
            self.awake.extend(woken);
            if !self.awake.contains(&link) {
                continue;
            }
            let mut out = Vec::new();
            if self.nodes[node].transmit(self.now, link, &mut out, 64 * 1024) == Transmit::Idle {
                self.awake.remove(&link);
            }
            taken += out.len() / CELL_LEN;
            self.clients[client].inbox.extend_from_slice(&out);
        }
        taken
    }

    /// Moves everything everywhere.
    pub(super) fn run(&mut self) {
        loop {
            self.settle();
            let moved: usize = (0..self.clients.len()).map(|client| self.deliver(client, 1000)).sum();
            if moved == 0 {
                return;
            }
        }
    }

    /// A raw cell from a client.
    pub(super) fn send_cell(&mut self, client: usize, id: u32, command: u8, body: &[u8]) {
        let mut cell = id.to_be_bytes().to_vec();
        cell.push(command);
        cell.extend_from_slice(body);
        cell.resize(CELL_LEN, 0);
        let Client { node, link, .. } = self.clients[client];
        self.feed(node, link, cell);
    }

    /// Takes the cells for one circuit out of a client's inbox.
    pub(super) fn cells(&mut self, client: usize, id: u32) -> Vec<(u8, [u8; BODY_LEN])> {
        let mut found = Vec::new();
        let inbox = std::mem::take(&mut self.clients[client].inbox);
        for cell in inbox.chunks(CELL_LEN) {
            if cell[..4] == id.to_be_bytes() {
                found.push((cell[4], cell[5..].try_into().unwrap()));
            } else {
                self.clients[client].inbox.extend_from_slice(cell);
            }
        }
        found
    }

    fn onionskin(&mut self) -> (u32, [u8; 88]) {
        self.handshakes += 1;
        let mut handshake = [0; 88];
        handshake[..4].copy_from_slice(&[0, 2, 0, 84]);
        handshake[4..8].copy_from_slice(&self.handshakes.to_be_bytes());
        (self.handshakes, handshake)
    }

    /// What extends a circuit to a relay: the message's data, and the handshake's number.
    pub(super) fn extend_data(&mut self, node: usize) -> (u32, Vec<u8>) {
        let (number, handshake) = self.onionskin();
        let mut data = vec![3, 0, 6];
        data.extend([10, 0, 1, node as u8 + 1]);
        data.extend(9001u16.to_be_bytes());
        data.extend([2, 20]);
        data.extend(peer(node).rsa);
        data.extend([3, 32]);
        data.extend(peer(node).ed);
        data.extend(handshake);
        (number, data)
    }

    /// A circuit of a client through these relays, the first of which is the client's.
    pub(super) fn open(&mut self, client: usize, path: &[usize]) -> Circ {
        let (number, handshake) = self.onionskin();
        let id = 0x8000_0000 | number;
        self.send_cell(client, id, command::CREATE2, &handshake);
        self.run();
        assert_eq!(self.cells(client, id)[0].0, command::CREATED2);
        let mut circ = Circ {
            client,
            id,
            layers: ClientLayers::new(),
            names: vec![self.made[&number]],
            bindings: vec![*keys(number).kh()],
            path: path.to_vec(),
            next_handshake: 0,
        };
        circ.layers.push(&keys(number));
        for node in &path[1..] {
            self.extend(&mut circ, *node);
            self.run();
            let answer = self.messages(&mut circ);
            assert_eq!(answer.last().unwrap().command, relay::EXTENDED2, "{answer:?}");
            let number = circ.next_handshake;
            circ.layers.push(&keys(number));
            circ.names.push(self.made[&number]);
            circ.bindings.push(*keys(number).kh());
        }
        circ
    }

    /// Sends an EXTEND2 from the present last hop.
    pub(super) fn extend(&mut self, circ: &mut Circ, node: usize) {
        let (number, data) = self.extend_data(node);
        circ.next_handshake = number;
        let last = circ.layers.len() - 1;
        self.send_as(circ, command::RELAY_EARLY, last, relay::EXTEND2, 0, &data);
    }

    /// A relay message of a client to one of its hops. Returns the tag that a SENDME would quote.
    pub(super) fn send(&mut self, circ: &mut Circ, hop: usize, command: u8, stream: u16, data: &[u8]) -> [u8; 20] {
        self.send_as(circ, command::RELAY, hop, command, stream, data)
    }

    pub(super) fn send_as(
        &mut self,
        circ: &mut Circ,
        cell: u8,
        hop: usize,
        command: u8,
        stream: u16,
        data: &[u8],
    ) -> [u8; 20] {
        let mut body = [0; BODY_LEN];
        body[0] = command;
        body[3..5].copy_from_slice(&stream.to_be_bytes());
        body[9..11].copy_from_slice(&(data.len() as u16).to_be_bytes());
        body[11..11 + data.len()].copy_from_slice(data);
        let tag = circ.layers.originate(hop, &mut body).unwrap();
        self.send_cell(circ.client, circ.id, cell, &body);
        tag.into()
    }

    /// The relay messages that have come for a circuit. Panics if one cannot be decrypted.
    pub(super) fn messages(&mut self, circ: &mut Circ) -> Vec<Message> {
        let mut messages = Vec::new();
        for (command, mut body) in self.cells(circ.client, circ.id) {
            assert_eq!(command, command::RELAY, "not a relay cell");
            let (hop, tag) = circ
                .layers
                .open(&mut body)
                .expect("a cell that no hop has sent, or in the wrong order");
            let len = usize::from(u16::from_be_bytes([body[9], body[10]]));
            messages.push(Message {
                hop,
                command: body[0],
                stream: u16::from_be_bytes([body[3], body[4]]),
                data: body[11..11 + len].to_vec(),
                tag: tag.into(),
            });
        }
        messages
    }

    /// The reason of the DESTROY that a circuit got, if it did.
    pub(super) fn destroyed(&mut self, circ: &Circ) -> Option<u8> {
        self.cells(circ.client, circ.id)
            .iter()
            .find(|cell| cell.0 == command::DESTROY)
            .map(|cell| cell.1[0])
    }

    /// Begins a stream at the last hop and connects it.
    pub(super) fn stream(&mut self, circ: &mut Circ, number: u16) -> StreamId {
        let (hop, node) = (circ.path.len() - 1, *circ.path.last().unwrap());
        self.send(circ, hop, relay::BEGIN, number, b"example.com:80\0");
        self.settle();
        let begun = self.events[node].iter().find_map(|event| match event {
            Event::Begin { stream, .. } if stream.circuit == circ.names[hop] && stream.number == number => {
                Some(*stream)
            }
            _ => None,
        });
        let stream = begun.expect("the stream is begun");
        self.nodes[node].stream_connected(stream, Connected::To("192.0.2.9".parse().unwrap(), 300));
        stream
    }

    /// Payment events of a relay so far, taken out.
    pub(super) fn payments(&mut self, node: usize) -> Vec<PaymentEvent> {
        self.answer_events(node);
        let events = std::mem::take(&mut self.events[node]);
        let (payments, rest) = events.into_iter().partition(|event| matches!(event, Event::Payment(_)));
        self.events[node] = rest;
        let payments: Vec<Event> = payments;
        payments
            .into_iter()
            .filter_map(|event| match event {
                Event::Payment(event) => Some(event),
                _ => None,
            })
            .collect()
    }
}
