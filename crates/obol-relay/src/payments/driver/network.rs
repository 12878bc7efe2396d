//! What the data plane tells, and which relays we want to be able to pay.

use std::collections::HashSet;
use std::sync::Arc;

use obol_cell::{PeerId, Stroops};
use obol_onion::engine::{Neighbour, PaymentEvent};
use obol_toll::node::Input;
use obol_toll::trust::Trusted;
use obol_toll::{AddressKey, CircuitId, LinkId};

use super::Driver;
use crate::directory::RelayInfo;
use crate::metrics::Metric;
use crate::payments::plane::Events;
use crate::payments::view::Standing;

/// Link messages kept for a peer that our consensus does not know yet as a paid relay.
const KEPT_MESSAGES: usize = 8;

/// A link as the driver knows it.
pub(super) struct Link {
    neighbour: Neighbour,
    peer: Option<PeerId>,
    pub(super) obol: bool,
    kept: Vec<Vec<u8>>,
}

impl<E: Events> Driver<E> {
    /// Translates a data plane event.
    pub(super) fn event(&mut self, event: PaymentEvent) {
        match event {
            PaymentEvent::LinkUp { link, peer, neighbour } => {
                let link = LinkId(link.to_u64());
                let peer = peer.map(|peer| PeerId(peer.ed));
                let obol = peer.is_some_and(|peer| self.is_obol(&peer));
                if let Some(peer) = peer {
                    self.view().link_up(peer);
                }
                self.links.insert(
                    link,
                    Link {
                        neighbour,
                        peer,
                        obol,
                        kept: Vec::new(),
                    },
                );
                self.link_up(link);
            }
            PaymentEvent::LinkJudged { link, neighbour } => {
                let link = LinkId(link.to_u64());
                if let Some(known) = self.links.get_mut(&link) {
                    known.neighbour = neighbour;
                    let address = address_of(neighbour);
                    self.input(Input::LinkJudged { link, address });
                }
            }
            PaymentEvent::LinkDown { link } => {
                let link = LinkId(link.to_u64());
                if let Some(peer) = self.links.remove(&link).and_then(|known| known.peer) {
                    self.view().link_down(peer);
                }
                self.input(Input::LinkDown { link });
            }
            PaymentEvent::CircuitOpened { circuit, link, id } => {
                let (circuit, link) = (CircuitId(circuit.to_u64()), LinkId(link.to_u64()));
                let peer = self.links.get(&link).map(|link| link.peer);
                self.view()
                    .circuit_opened(circuit.0, peer == Some(None), peer.flatten());
                self.input(Input::CircuitOpened { circuit, link, id });
            }
            PaymentEvent::CircuitExtended { circuit, link, id } => {
                let (circuit, link) = (CircuitId(circuit.to_u64()), LinkId(link.to_u64()));
                self.input(Input::CircuitExtended { circuit, link, id });
            }
            PaymentEvent::CircuitClosed { circuit, metered } => {
                let circuit = CircuitId(circuit.to_u64());
                self.view().circuit_closed(circuit.0, metered);
                self.input(Input::CircuitClosed { circuit, metered });
            }
            PaymentEvent::Message {
                circuit, body, metered, ..
            } => {
                self.input(Input::Message {
                    circuit: CircuitId(circuit.to_u64()),
                    body,
                    metered,
                });
            }
            PaymentEvent::LinkMessage { link, body } => self.link_message(LinkId(link.to_u64()), body),
            PaymentEvent::CreditLow { circuit, metered, .. } => {
                self.input(Input::CreditLow {
                    circuit: CircuitId(circuit.to_u64()),
                    metered,
                });
            }
        }
    }

    fn link_up(&mut self, link: LinkId) {
        let Some(known) = self.links.get(&link) else { return };
        let address = address_of(known.neighbour);
        let (peer, obol) = (known.peer, known.obol);
        self.input(Input::LinkUp {
            link,
            peer,
            obol,
            address,
        });
    }

    /// A peer may know us from a newer consensus than ours, and greet us before we know it: what it says is kept until
    /// our consensus has it.
    fn link_message(&mut self, link: LinkId, body: Vec<u8>) {
        if let Some(known) = self.links.get_mut(&link)
            && known.peer.is_some()
            && !known.obol
        {
            if known.kept.len() < KEPT_MESSAGES && body.len() <= obol_cell::MAX_LINK_BODY {
                known.kept.push(body);
            }
            return;
        }
        self.input(Input::LinkMessage { link, body });
    }

    fn is_obol(&self, peer: &PeerId) -> bool {
        self.net.by_ed(&peer.0).is_some_and(|relay| relay.obol)
    }

    pub(super) fn net_changed(&mut self) {
        let new: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| !link.obol && link.peer.is_some_and(|peer| self.is_obol(&peer)))
            .map(|(id, _)| *id)
            .collect();
        for id in new {
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.obol = true;
            let kept = std::mem::take(&mut link.kept);
            self.link_up(id);
            for body in kept {
                self.input(Input::LinkMessage { link: id, body });
            }
        }
        self.tell_candidates();
        self.connect_peers();
    }

    /// Other relays that take payments, nearest first. Which ones come first differs from relay to relay; no circuit has a part in it (C4).
    pub(super) fn paid_relays(&self) -> Vec<([u8; 32], Arc<RelayInfo>)> {
        let snapshot = self.net.snapshot();
        let mut peers: Vec<([u8; 32], Arc<RelayInfo>)> = snapshot
            .relays()
            .iter()
            .filter(|relay| relay.obol)
            .filter_map(|relay| Some((relay.ed?, Arc::clone(relay))))
            .filter(|(ed, _)| *ed != self.identity.0)
            .collect();
        peers.sort_by_key(|(ed, _)| distance(&self.identity.0, ed));
        peers
    }

    /// Tells whom escrows are opened to, and their consensus weights: a link that a circuit made is no reason.
    pub(super) fn tell_candidates(&mut self) {
        let peers = self.paid_relays().into_iter().take(self.peer_limit);
        let weights = peers.map(|(ed, relay)| (PeerId(ed), relay.weight.into())).collect();
        self.input(Input::Candidates { weights });
    }

    /// Tells who may owe us, and where that is paid to.
    pub(super) fn tell_trust(&mut self) {
        let (account, peers) = (self.work.trust.account(), self.trusted.clone());
        self.input(Input::Trust { account, peers });
    }

    /// Whoever is on the list no more stays on it until this run ends, for nothing new: it may still pay what it owes.
    pub(super) fn trust_from_now_on(&mut self, mut trusted: Vec<Trusted>) {
        for old in &self.trusted {
            if !trusted.iter().any(|new| new.peer == old.peer) {
                trusted.push(Trusted {
                    max_unsettled: Some(Stroops::ZERO),
                    ..*old
                });
            }
        }
        self.trusted = trusted;
        self.tell_trust();
    }

    /// Whether anybody owes anything, or may.
    pub(super) fn uses_trust(&self) -> bool {
        let totals = self.node.trust_totals();
        let may = !self.trusted.is_empty() || !self.node.config().trust.max_owed.is_zero();
        may || totals.owed > totals.paid || totals.owed_to_us > totals.settled
    }

    /// Has links to relays that take payments and have no escrow from us, so that one can be offered.
    pub(super) fn connect_peers(&mut self) {
        let peers = self.paid_relays();
        let (total, limit) = (peers.len(), self.peer_limit);
        let provided: HashSet<[u8; 32]> = self
            .view()
            .outgoing()
            .filter(|(_, _, standing)| matches!(standing, Standing::Opening | Standing::Open))
            .map(|(_, out, _)| out.escrow.terms.payee.0)
            .collect();
        let open = peers.iter().filter(|(ed, _)| provided.contains(ed)).count();
        self.metrics.set(Metric::Peers, &["open"], open as u64);
        self.metrics.set(Metric::Peers, &["none"], (total - open) as u64);
        let linked: HashSet<[u8; 32]> = self.links.values().filter_map(|link| Some(link.peer?.0)).collect();
        for (ed, relay) in peers.into_iter().take(limit) {
            if !provided.contains(&ed) && !linked.contains(&ed) {
                self.plane.connect(&relay);
            }
        }
    }
}

/// On whose bucket of initial credit a neighbour's circuits draw, if not on that of a relay.
fn address_of(neighbour: Neighbour) -> Option<AddressKey> {
    match neighbour {
        Neighbour::Client(address) => Some(AddressKey::of(address)),
        Neighbour::Relay(_) => None,
    }
}

/// How far two identities are from each other; each relay has its own order of the others.
fn distance(ours: &[u8; 32], theirs: &[u8; 32]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::new()
        .chain_update(ours)
        .chain_update(theirs)
        .finalize()
        .into()
}
