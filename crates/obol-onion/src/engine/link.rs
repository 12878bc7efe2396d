//! Links after their handshake: the table of them, their cells, their choice, their end.
//!
//! | cell | what happens |
//! |---|---|
//! | RELAY, RELAY_EARLY | [`relay_cell`](super::relay_cell) |
//! | CREATE_FAST, CREATE2, CREATE | [`create`](super::create) |
//! | CREATED2 | [`extend`](super::extend) |
//! | DESTROY | the circuit ends, and the other side is told |
//! | 200, from a relay | [`PaymentEvent::LinkMessage`] |
//! | PADDING_NEGOTIATE | [`padding`](super::padding) |
//! | PADDING, VPADDING, unknown ones | passed over |

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::Engine;
use super::backlog::Backlog;
use super::event::{Event, LinkFault, Neighbour, NextHop, PaymentEvent, Peer};
use super::hash::Seeded;
use super::ids::{LinkId, Time};
use super::padding::Padding;
use super::schedule::{Entry, Schedule};
use super::seal::Raw;
use super::wire::{CELL_LEN, DestroyReason, HEADER_LEN, LINK_MESSAGE_MAX, body, command};

/// After this long without writing, a PADDING cell goes out so that nothing on the way forgets the connection.
const KEEPALIVE: u64 = 300_000_000;
/// A link whose peer takes nothing for so long is dead (C Tor: ten times the above).
const STUCK: u64 = 3_000_000_000;
/// A client's link, or one that is not canonical, is closed after this long without a circuit, and up to half as long again.
const IDLE_CLIENT: u64 = 180_000_000;
/// A link for which there is a better one to the same relay is closed after this long without a circuit.
const SUPERSEDED: u64 = 60_000_000;
/// How often links are looked through.
const LOOK: u64 = 1_000_000;
/// A link older than this is not used for new circuits.
const OLD: u64 = 7 * 86_400 * 1_000_000;
/// Links that one relay identity may have at once; a further one replaces none and is used for nothing of ours.
const LINKS_PER_PEER: usize = 8;

/// Which way a circuit id of a link belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The link is the one towards the client; index of the circuit.
    Prev(u32),
    /// The link is the one to the next hop; index of the circuit.
    Next(u32),
    /// The circuit is gone, and our DESTROY not yet written.
    Buried,
}

/// What the link handshake found out, and what the consensus says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// The identity that the other end has proved, if any.
    pub peer: Option<Peer>,
    /// Whether it is one of the consensus. If not, the other end counts as a client.
    pub known: bool,
    /// Where it is.
    pub remote: SocketAddr,
    /// Whether we opened the connection: we then use circuit ids with the highest bit set, and the peer those without.
    pub initiated: bool,
    /// Whether `remote` is an address that the peer says is its own.
    pub canonical: bool,
    /// Whether the peer sees us at an address that we advertise.
    pub canonical_to_peer: bool,
    /// Whether padding can be negotiated: link protocol 5.
    pub pads: bool,
}

impl LinkInfo {
    /// The relay at the other end, if it counts as one.
    pub(crate) fn relay(&self) -> Option<Peer> {
        self.peer.filter(|_| self.known)
    }

    /// Whose share its circuits come out of.
    pub(crate) fn neighbour(&self) -> Neighbour {
        Neighbour::of(self.relay(), self.remote)
    }
}

/// One open link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) info: LinkInfo,
    pub(crate) neighbour: u32,
    pub(crate) since: Time,
    pub(crate) circuits: HashMap<u32, Place, Seeded>,
    pub(crate) backlog: Backlog,
    pub(crate) schedule: Schedule,
    /// With a configured rate: cells chosen, for the writer to take.
    pub(crate) staged: Vec<u8>,
    /// Those of them that still need our layer.
    pub(crate) staged_raw: Vec<Raw>,
    /// Queues that have to wait until the writer has taken `staged`.
    pub(crate) parked: Vec<Entry>,
    /// Bytes of a passed-over cell still to come.
    skip: usize,
    pub(crate) writer_idle: bool,
    pub(crate) closing: bool,
    pub(crate) last_sent: Time,
    /// Since when it has had no circuit.
    idle_since: Time,
    /// How long it may be without, in 65,536ths of the range.
    patience: u16,
    pub(crate) padding: Padding,
}

impl Link {
    pub(crate) fn forget(&mut self, id: u32, now: Time) {
        self.circuits.remove(&id);
        self.idle_since = now;
    }

    pub(crate) fn park(&mut self, entry: Entry, valid: impl Fn(&Entry) -> bool) {
        if self.parked.len() > 2 * self.circuits.len() + 64 {
            self.parked.retain(valid);
        }
        self.parked.push(entry);
    }

    /// Circuit ids in use, but for those buried.
    fn is_unused(&self) -> bool {
        self.circuits.len() <= self.backlog.destroys()
    }

    /// Which of two links to one relay is better, as C Tor has it: canonical, canonical to the peer, older, more circuits.
    /// Both ends come to the same answer, or nearly, so that of two links that were opened at once one dies out.
    fn rank(&self) -> impl Ord + use<> {
        (
            self.info.canonical,
            self.info.canonical_to_peer,
            core::cmp::Reverse(self.since),
            self.circuits.len(),
        )
    }

    /// Too old for new circuits.
    fn is_old(&self, now: Time) -> bool {
        self.info.peer.is_some() && now.since(self.since) >= OLD
    }

    /// How long it may be without a circuit, microseconds; at random, so that closing tells nothing.
    fn patience(&self, relays: u64) -> u64 {
        let (least, range) = if self.info.relay().is_some() && self.info.canonical {
            (relays - relays / 4, relays / 2)
        } else {
            (IDLE_CLIENT, IDLE_CLIENT / 2)
        };
        least + range / 65_536 * u64::from(self.patience)
    }

    /// Whether a circuit id is one that the peer chooses.
    pub(crate) fn is_peers(&self, id: u32) -> bool {
        (id >> 31 == 1) != self.info.initiated
    }
}

impl Engine {
    /// A link's handshake is done. Its cells go through [`receive`](Self::receive) and [`transmit`](Self::transmit) now.
    pub fn link_up(&mut self, now: Time, info: LinkInfo) -> LinkId {
        self.now = self.now.max(now);
        let key = info.neighbour();
        let neighbour = self.neighbours.join(key);
        let link = self.links.insert(Link {
            info,
            neighbour,
            since: now,
            circuits: HashMap::with_hasher(self.hash),
            backlog: Backlog::default(),
            schedule: Schedule::new(self.hash),
            staged: Vec::new(),
            staged_raw: Vec::new(),
            parked: Vec::new(),
            skip: 0,
            writer_idle: true,
            closing: false,
            last_sent: now,
            idle_since: now,
            patience: (self.rng.next_u32() >> 16) as u16,
            padding: Padding::new(info.pads),
        });
        if let Some(peer) = info.peer {
            let links = self.by_rsa.entry(peer.rsa).or_default();
            if links.len() < LINKS_PER_PEER {
                links.push(link.index);
            }
        }
        self.events.push_back(Event::Payment(PaymentEvent::LinkUp {
            link,
            peer: info.peer,
            neighbour: key,
        }));
        link
    }

    /// A link is gone, and with it all circuits on it.
    pub fn link_down(&mut self, now: Time, link: LinkId) {
        self.now = self.now.max(now);
        let Some(this) = self.links.get_mut(link) else { return };
        this.closing = true;
        let info = this.info;
        let places: Vec<Place> = this.circuits.values().copied().collect();
        let gone = Some(DestroyReason::ChannelClosed);
        for place in places {
            match place {
                Place::Prev(index) => self.end_circuit(index, None, gone),
                Place::Next(index) => self.end_circuit(index, gone, None),
                Place::Buried => {}
            }
        }
        if let Some(peer) = info.peer
            && let Some(links) = self.by_rsa.get_mut(&peer.rsa)
        {
            links.retain(|index| *index != link.index);
            if links.is_empty() {
                self.by_rsa.remove(&peer.rsa);
            }
        }
        self.drop_backlog(link.index);
        self.neighbours.leave(info.neighbour());
        self.links.remove(link);
        self.events.push_back(Event::Payment(PaymentEvent::LinkDown { link }));
        self.pace(now);
    }

    /// The consensus has changed: judges the other ends of all links anew, and moves the circuits that came from them to the
    /// share that they have now. So a relay that is met before our consensus has it, as in every young network, soon counts
    /// as one, and one that is voted out does not keep its place for as long as its link lives.
    pub fn judge_links(&mut self, now: Time, is_known: impl Fn(&Peer) -> bool) {
        self.now = self.now.max(now);
        for index in self.links.indices() {
            let Some(link) = self.links.at_mut(index) else { continue };
            let Some(known) = link.info.peer.as_ref().map(&is_known) else {
                continue;
            };
            let (before, before_index) = (link.info.neighbour(), link.neighbour);
            if core::mem::replace(&mut link.info.known, known) == known {
                continue;
            }
            let after = link.info.neighbour();
            link.neighbour = self.neighbours.join(after);
            let backlog = link.backlog.size();
            self.neighbours.backlog(before_index, backlog, 0);
            self.neighbours.backlog(link.neighbour, 0, backlog);
            for place in link.circuits.values() {
                if let Place::Prev(circuit) = place
                    && let Some(circuit) = self.circuits.at_mut(*circuit)
                {
                    let streams = circuit.streams();
                    self.neighbours.closed(circuit.neighbour, streams);
                    circuit.neighbour = link.neighbour;
                    self.neighbours.opened(circuit.neighbour, streams);
                }
            }
            self.neighbours.leave(before);
            self.plan_padding(index);
            if let Some(link) = self.links.name(index) {
                self.events
                    .push_back(Event::Payment(PaymentEvent::LinkJudged { link, neighbour: after }));
            }
        }
    }

    /// Takes the cells at the start of `bytes`, which came from a link in this order, and changes them in place.
    ///
    /// Returns how many bytes are done with; the rest is the beginning of a cell and has to be given again, with more
    /// behind it. A cell never needs more than 17 KiB.
    ///
    /// # Errors
    /// The link has to be closed: then call [`link_down`](Self::link_down).
    pub fn receive(&mut self, now: Time, link: LinkId, bytes: &mut [u8]) -> Result<usize, LinkFault> {
        self.now = self.now.max(now);
        let mut at = 0;
        let Some(this) = self.links.get_mut(link) else {
            return Err(LinkFault::Asked);
        };
        if this.closing {
            return Err(LinkFault::Asked);
        }
        if this.skip > 0 {
            at = this.skip.min(bytes.len());
            this.skip -= at;
        }
        while let Some(cell) = bytes.get_mut(at..).filter(|rest| rest.len() >= HEADER_LEN) {
            let command = cell[4];
            let id = u32::from_be_bytes([cell[0], cell[1], cell[2], cell[3]]);
            if command::is_variable(command) {
                let Some(&[high, low]) = cell.get(5..7) else { break };
                let len = usize::from(u16::from_be_bytes([high, low]));
                let total = HEADER_LEN + 2 + len;
                if command == command::LINK_MESSAGE {
                    if len > LINK_MESSAGE_MAX {
                        return Err(LinkFault::Protocol("link message too long"));
                    }
                    let Some(body) = cell.get(HEADER_LEN + 2..total) else {
                        break;
                    };
                    self.link_message(link, body);
                    at += total;
                } else {
                    let here = total.min(cell.len());
                    at += here;
                    if let Some(this) = self.links.get_mut(link) {
                        this.skip = total - here;
                    }
                }
                continue;
            }
            let (cells, _) = cell.as_chunks_mut::<CELL_LEN>();
            if matches!(command, command::RELAY | command::RELAY_EARLY) && !cells.is_empty() {
                at += CELL_LEN * self.relay_cells(link.index, cells);
                continue;
            }
            let Some(body) = cells.first_mut().map(body) else { break };
            at += CELL_LEN;
            match command {
                command::CREATE | command::CREATE_FAST | command::CREATE2 => {
                    self.create_cell(link.index, id, command, body);
                    if command == command::CREATE2 {
                        self.used_for_circuits(link.index);
                    }
                }
                command::CREATED2 => self.created2_cell(link.index, id, body),
                command::CREATED_FAST => self.unexpected_created(link.index, id),
                command::DESTROY => self.destroy_cell(link.index, id),
                command::PADDING_NEGOTIATE => self.padding_negotiate(link.index, body),
                _ => {}
            }
        }
        self.pace(now);
        Ok(at)
    }

    fn link_message(&mut self, link: LinkId, body: &[u8]) {
        let Some(this) = self.links.get(link) else { return };
        // It may be a relay that our consensus does not know yet. From a client it is an unknown command.
        if this.info.peer.is_some() {
            self.events.push_back(Event::Payment(PaymentEvent::LinkMessage {
                link,
                body: body.to_vec(),
            }));
        }
    }

    fn destroy_cell(&mut self, link: u32, id: u32) {
        let place = self.links.at(link).and_then(|link| link.circuits.get(&id)).copied();
        // A reason is not passed on: it would tell one side about the other.
        match place {
            Some(Place::Prev(index)) => self.end_circuit(index, None, Some(DestroyReason::Destroyed)),
            Some(Place::Next(index)) => self.end_circuit(index, Some(DestroyReason::Destroyed), None),
            Some(Place::Buried) | None => {}
        }
    }

    pub(crate) fn fault(&mut self, link: LinkId, why: LinkFault) {
        if let Some(this) = self.links.get_mut(link)
            && !this.closing
        {
            this.closing = true;
            self.events.push_back(Event::CloseLink { link, why });
        }
    }

    /// Asks for a link to be closed: an [`Event::CloseLink`] comes, and nothing is sent on it any more.
    pub fn close_link(&mut self, link: LinkId) {
        self.fault(link, LinkFault::Asked);
    }

    /// The best link to a relay for a new circuit ([C Tor's order](Link::rank), of those that are not old).
    /// `address` is one that the client named: over a link that is not canonical only that one will do.
    pub(crate) fn best_link(&self, rsa: &[u8; 20], ed: Option<&[u8; 32]>, addresses: &[SocketAddr]) -> Option<u32> {
        let links: &SmallVec<[u32; 2]> = self.by_rsa.get(rsa)?;
        links
            .iter()
            .filter_map(|index| self.links.at(*index).map(|link| (*index, link)))
            .filter(|(_, link)| {
                let peer_fits = link.info.peer.is_some_and(|peer| ed.is_none_or(|ed| *ed == peer.ed));
                let fits = link.info.canonical || addresses.iter().any(|address| address.ip() == link.info.remote.ip());
                peer_fits && fits && !link.closing && self.now.since(link.since) < OLD
            })
            .max_by_key(|(_, link)| link.rank())
            .map(|(index, _)| index)
    }

    /// The link that a circuit to a relay would use now.
    pub fn link_to(&self, to: &NextHop) -> Option<LinkId> {
        let index = self.best_link(&to.rsa, to.ed.as_ref(), &to.addresses)?;
        self.links.name(index)
    }

    /// Links to relays to which there is a better one: if that is canonical, or leads to the same address.
    fn superseded(&self, found: &mut HashSet<u32>) {
        for links in self.by_rsa.values().filter(|links| links.len() > 1) {
            let open = || {
                let links = links.iter().filter_map(|index| Some((*index, self.links.at(*index)?)));
                links.filter(|(_, link)| !link.closing && !link.is_old(self.now))
            };
            if let Some((best, link)) = open().max_by_key(|(_, link)| link.rank()) {
                let worse = open().filter(|(index, other)| {
                    let same_peer = other.info.peer == link.info.peer;
                    *index != best
                        && same_peer
                        && (link.info.canonical || link.info.remote.ip() == other.info.remote.ip())
                });
                found.extend(worse.map(|(index, _)| index));
            }
        }
    }

    /// Housekeeping, some times a second: pads links, closes those that are of no use, keeps the others alive.
    pub fn tick(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.pad();
        if now.since(self.looked) >= LOOK {
            self.looked = now;
            self.look_through_links();
            self.look_through_circuits();
            self.forget_clients();
        }
        self.pace(now);
    }

    fn look_through_links(&mut self) {
        let now = self.now;
        let mut superseded = HashSet::new();
        self.superseded(&mut superseded);
        let mut ends: SmallVec<[(LinkId, LinkFault); 8]> = SmallVec::new();
        let mut silent: SmallVec<[u32; 8]> = SmallVec::new();
        for (name, link) in self.links.iter() {
            let idle = now.since(link.idle_since);
            let unused = link.is_unused()
                && (idle >= link.patience(self.config.links.idle_relays())
                    || link.is_old(now)
                    || idle >= SUPERSEDED && superseded.contains(&name.index));
            let quiet = now.since(link.last_sent);
            if unused {
                ends.push((name, LinkFault::Idle));
            } else if !link.writer_idle && quiet >= STUCK {
                ends.push((name, LinkFault::Stalled));
            } else if link.writer_idle && quiet >= KEEPALIVE {
                silent.push(name.index);
            }
        }
        for (link, why) in ends {
            self.fault(link, why);
        }
        for link in silent {
            self.send_control(link, 0, command::PADDING, &[]);
        }
    }
}
