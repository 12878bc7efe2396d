//! Escrows that we pay neighbours by: offered, opened, rolled over, closed, refunded. Whom to open one to, and when, is decided in
//! `openings.rs`; the books of one escrow are in `escrow/outgoing.rs`.
//!
//! ```text
//!  want --(some of a period's wants at one random time)--> WantEscrow -> Offer -> LegOffer
//!                                                                                          |
//!        known <- LegBalance <- LegQuery <- EscrowOpened <- OpenEscrow <- fact <- LegAccepted (refund checked)
//! ```
//! A circuit that is paid on by one escrow stays with it, and moves to its successor at a random time before the margin begins.

use super::legs::{Backing, NextLeg};
use super::{Node, Output, Report, Timer};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::escrow::outgoing::{Outgoing, Phase};
use crate::fact::{NodeFact, OutFact};
use crate::ids::{CircuitId, LinkId};
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{
    Balance, DeclineCode, EscrowAcceptance, EscrowId, EscrowOffer, EscrowState, EscrowTerms, LinkMessage, PeerId,
    Stroops,
};

/// An offer without an answer is forgotten after this.
const OFFER_MS: u64 = 60_000;
/// An opened escrow that the payee does not know yet is asked about again after this.
const ASK_AGAIN_MS: u64 = 5_000;
const ASK_BACK_OFF: u8 = 8;

/// An offer of ours without an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offered {
    pub(super) peer: PeerId,
    pub(super) offer: EscrowOffer,
    sent: bool,
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// Whether the peer at the other end of `link` can be paid now: the quote's `next`.
    pub(super) fn can_pay_next(&self, now: UnixMillis, link: LinkId) -> bool {
        let Some(peer) = self.links.get(&link).and_then(|l| l.payable()) else {
            return false;
        };
        let by_escrow = self.by_payee.get(&peer).is_some_and(|escrows| {
            escrows
                .iter()
                .filter_map(|e| self.outgoing.get(e))
                .any(|o| o.phase == Phase::Open && o.available(now) > self.config.reserve)
        });
        by_escrow || self.can_owe(peer) > self.config.reserve
    }

    /// An escrow that covers `amount`: what an old one still has first, then the one that the circuit was paid on by (`current`),
    /// then the newest.
    pub(super) fn choose(&self, peer: PeerId, amount: Stroops, current: Option<EscrowId>) -> Option<EscrowId> {
        let fits = |o: &&Outgoing| o.available(self.now) >= amount;
        let all = || {
            self.by_payee
                .get(&peer)
                .into_iter()
                .flatten()
                .filter_map(|e| self.outgoing.get(e))
                .filter(fits)
        };
        let draw = all().find(|o| o.phase != Phase::Open || o.unallocated() >= amount);
        draw.or_else(|| all().find(|o| Some(o.escrow.id()) == current))
            .or_else(|| all().max_by_key(|o| o.since))
            .map(|o| o.escrow.id())
    }

    /// The escrow that a circuit is paid on by and stays with, until the time that was drawn for it when there was a newer one.
    pub(super) fn stays_with(&mut self, circuit: CircuitId, peer: PeerId) -> Option<EscrowId> {
        let (escrow, moves_at) = self.circuits.get(&circuit)?.leg?;
        let o = self.outgoing.get(&escrow).filter(|o| o.payee == peer)?;
        let newer = self.by_payee.get(&peer)?.iter().filter_map(|e| self.outgoing.get(e));
        let mut newer = newer.filter(|n| n.since > o.since && n.phase == Phase::Open && n.known && !n.keyless);
        newer.next()?;
        let until = UnixMillis::from_secs(o.stops_at());
        let moves_at = match moves_at {
            Some(at) => at,
            None => {
                let at = self.now.plus(self.jitter.up_to(until.since(self.now)));
                if let Some(c) = self.circuits.get_mut(&circuit) {
                    c.leg = Some((escrow, Some(at)));
                }
                at
            }
        };
        (self.now < moves_at).then_some(escrow)
    }

    pub(super) fn offer(&mut self, peer: PeerId, offer: EscrowOffer) {
        self.wanted.remove(&peer);
        self.offered.insert(
            offer.escrow,
            Offered {
                peer,
                offer,
                sent: false,
            },
        );
        self.at(self.now.plus(OFFER_MS), Timer::Offered(offer.escrow));
        if let Some(link) = self.link_to(peer) {
            self.send_offers(link, peer);
        }
    }

    pub(super) fn send_offers(&mut self, link: LinkId, peer: PeerId) {
        let mut messages = Vec::new();
        for o in self.offered.values_mut().filter(|o| o.peer == peer && !o.sent) {
            o.sent = true;
            messages.push(LinkMessage::LegOffer(o.offer));
        }
        for message in messages {
            self.send_link(link, &message);
        }
    }

    pub(super) fn leg_accepted(&mut self, now: UnixMillis, peer: PeerId, acceptance: &EscrowAcceptance) {
        let id = acceptance.escrow;
        let Some(offered) = self.offered.get(&id).copied().filter(|o| o.peer == peer) else {
            return;
        };
        self.offered.remove(&id);
        self.declines.remove(&peer);
        let offer = &offered.offer;
        let terms = EscrowTerms::new(offer, peer, acceptance.payee_account, acceptance.min_deposit);
        let escrow = Escrow {
            terms,
            signer: acceptance.signer,
        };
        let margin = self
            .rules_of(peer)
            .map_or(self.config.tariff.rules.margin, |r| r.margin);
        // No refund, no money.
        if acceptance.min_deposit > offer.deposit || !self.keys.verify_refund(&escrow, &acceptance.refund) {
            return self.offer_failed(now, peer, id, DeclineCode::OutsideRules);
        }
        let fact = OutFact::Accepted {
            escrow,
            deposit: offer.deposit,
            refund: acceptance.refund,
            margin,
            payee: peer,
            since: now.secs(),
        };
        if let Some(outgoing) = Outgoing::accepted(&fact) {
            self.outgoing.insert(id, outgoing);
            self.by_payee.entry(peer).or_default().push(id);
        }
        self.fact(NodeFact::Out(fact));
        self.at(UnixMillis::from_secs(terms.expiry), Timer::Expiry(id));
        self.emit(Output::OpenEscrow {
            escrow,
            deposit: offer.deposit,
            refund: acceptance.refund,
        });
    }

    pub(super) fn leg_declined(&mut self, now: UnixMillis, peer: PeerId, escrow: EscrowId, code: DeclineCode) {
        if self.offered.get(&escrow).is_some_and(|o| o.peer == peer) {
            self.offered.remove(&escrow);
            self.offer_failed(now, peer, escrow, code);
        }
    }

    pub(super) fn offered_over(&mut self, now: UnixMillis, escrow: EscrowId) {
        if let Some(offered) = self.offered.remove(&escrow) {
            self.offer_failed(now, offered.peer, escrow, DeclineCode::NotNow);
        }
    }

    fn offer_failed(&mut self, now: UnixMillis, peer: PeerId, escrow: EscrowId, code: DeclineCode) {
        self.emit(Output::OfferDeclined { escrow, code });
        self.want_again(now, peer);
    }

    pub(super) fn escrow_opened(&mut self, escrow: EscrowId, balance: Stroops) {
        let now = self.now;
        let Some(o) = self.outgoing.get_mut(&escrow).filter(|o| o.phase == Phase::Opening) else {
            return;
        };
        let fact = OutFact::Opened { escrow, balance };
        o.apply(&fact);
        let (peer, successor, stop) = (o.payee, self.successor_time(escrow), self.stop_time(escrow));
        self.fact(NodeFact::Out(fact));
        self.report(Report::EscrowInUse { payee: false });
        self.at(successor, Timer::Successor(escrow));
        self.at(stop, Timer::Stop(escrow));
        self.ask_again(now, peer, escrow);
    }

    /// Asks the payee whether it knows the escrow, until it does.
    pub(super) fn ask_again(&mut self, now: UnixMillis, peer: PeerId, escrow: EscrowId) {
        if let Some(link) = self.link_to(peer) {
            self.ask_about(now, link, escrow);
        }
    }

    pub(super) fn ask_due(&mut self, now: UnixMillis, escrow: EscrowId) {
        if let Some(o) = self.outgoing.get(&escrow)
            && o.phase == Phase::Open
            && !o.known
        {
            self.ask_again(now, o.payee, escrow);
        }
    }

    pub(super) fn opening_failed(&mut self, now: UnixMillis, escrow: EscrowId) {
        let Some(o) = self.outgoing.get(&escrow).filter(|o| o.phase == Phase::Opening) else {
            return;
        };
        let peer = o.payee;
        self.forget_outgoing(escrow);
        self.fact(NodeFact::Out(OutFact::Abandoned { escrow }));
        self.want(now, peer);
    }

    /// The payee's books on an escrow of ours.
    pub(super) fn leg_balance(&mut self, now: UnixMillis, link: LinkId, peer: PeerId, balance: &Balance) {
        let id = balance.escrow;
        let Some(o) = self
            .outgoing
            .get_mut(&id)
            .filter(|o| o.payee == peer && o.phase != Phase::Opening)
        else {
            return;
        };
        let batched = self.batches.keys().any(|(_, by)| *by == Backing::Escrow(id));
        let known = if batched {
            // Something is on its way to be signed: the books are older than ours.
            balance.state != EscrowState::Unknown
        } else {
            o.reported(balance)
        };
        if !known {
            let wait = ASK_AGAIN_MS << o.unknown.min(ASK_BACK_OFF);
            o.unknown = o.unknown.saturating_add(1);
            self.at(now.plus(wait), Timer::Ask(id));
            return;
        }
        o.known = true;
        if balance.state == EscrowState::Open && o.phase == Phase::Closing {
            // It did not hear that it is to flush: there was no link, or either of us has started again since.
            let final_k = o.k;
            return self.send_link(link, &LinkMessage::LegClose { escrow: id, final_k });
        }
        if balance.state == EscrowState::Closing && o.phase == Phase::Open {
            let spare = o.k > 0;
            self.stop_using(id);
            if spare {
                // The same amount once more: should the payee's flush fail in a ledger, it has a claim that still can
                // succeed [H11]. It costs nothing.
                self.sign_and_send(link, id, Vec::new());
            }
            self.want(now, peer);
        }
    }

    /// Open -> Closing: only draws from here on.
    pub(super) fn stop_using(&mut self, escrow: EscrowId) {
        if let Some(o) = self.outgoing.get_mut(&escrow)
            && o.phase == Phase::Open
        {
            o.phase = Phase::Closing;
            self.fact(NodeFact::Out(OutFact::Closing { escrow }));
        }
    }

    pub(super) fn close(&mut self, now: UnixMillis, escrow: EscrowId) {
        let Some(o) = self.outgoing.get(&escrow) else {
            return;
        };
        let (peer, final_k) = (o.payee, o.k);
        self.stop_using(escrow);
        if let Some(link) = self.link_to(peer) {
            self.send_link(link, &LinkMessage::LegClose { escrow, final_k });
        }
        self.want(now, peer);
    }

    pub(super) fn escrow_ended(&mut self, now: UnixMillis, escrow: EscrowId, paid: Stroops) {
        let Some(o) = self.outgoing.get_mut(&escrow).filter(|o| o.phase != Phase::Ended) else {
            return;
        };
        o.phase = Phase::Ended;
        let (peer, expired) = (o.payee, now.secs() >= o.escrow.terms.expiry);
        self.fact(NodeFact::Out(OutFact::Ended { escrow, paid }));
        self.report(Report::EscrowSettled {
            payee: false,
            amount: paid,
        });
        if expired {
            self.forget_outgoing(escrow);
        }
        self.want(now, peer);
    }

    fn forget_outgoing(&mut self, escrow: EscrowId) {
        if let Some(o) = self.outgoing.remove(&escrow)
            && let Some(escrows) = self.by_payee.get_mut(&o.payee)
        {
            escrows.retain(|e| *e != escrow);
            if escrows.is_empty() {
                self.by_payee.remove(&o.payee);
            }
        }
    }

    // ---- times ----

    /// A random time between T - life / 2 and T - margin - 1 h (2.16).
    fn successor_time(&mut self, escrow: EscrowId) -> UnixMillis {
        let Some(o) = self.outgoing.get(&escrow) else {
            return self.now;
        };
        let (from, to) = o.successor_between(self.longest_wait_secs());
        let (from, to) = (UnixMillis::from_secs(from), UnixMillis::from_secs(to));
        from.plus(self.jitter.up_to(to.since(from)))
    }

    fn stop_time(&self, escrow: EscrowId) -> UnixMillis {
        self.outgoing
            .get(&escrow)
            .map_or(self.now, |o| UnixMillis::from_secs(o.stops_at()))
    }

    pub(super) fn successor_due(&mut self, now: UnixMillis, escrow: EscrowId) {
        let Some(o) = self.outgoing.get_mut(&escrow) else {
            return;
        };
        o.succeeded = true;
        let peer = o.payee;
        self.want(now, peer);
    }

    pub(super) fn outgoing_stops(&mut self, now: UnixMillis, escrow: EscrowId) {
        if let Some(peer) = self.outgoing.get(&escrow).map(|o| o.payee) {
            self.stop_using(escrow);
            self.want(now, peer);
        }
    }

    pub(super) fn outgoing_expired(&mut self, _now: UnixMillis, escrow: EscrowId) {
        let Some(o) = self.outgoing.get_mut(&escrow) else {
            return;
        };
        if o.phase == Phase::Ended {
            return self.forget_outgoing(escrow);
        }
        if !o.refunding {
            o.refunding = true;
            let (escrow, refund) = (o.escrow, o.refund);
            self.emit(Output::Refund { escrow, refund });
        }
    }

    /// After a start: timers, and what was under way is asked for again.
    pub(super) fn schedule_outgoing(&mut self, now: UnixMillis) {
        let ids: Vec<_> = self.outgoing.keys().copied().collect();
        for id in ids {
            let Some(o) = self.outgoing.get(&id) else {
                continue;
            };
            let (phase, expiry) = (o.phase, UnixMillis::from_secs(o.escrow.terms.expiry));
            let open = Output::OpenEscrow {
                escrow: o.escrow,
                deposit: o.deposit,
                refund: o.refund,
            };
            match phase {
                Phase::Opening => self.emit(open),
                Phase::Open => {
                    let (successor, stop) = (self.successor_time(id), self.stop_time(id));
                    self.at(successor, Timer::Successor(id));
                    self.at(stop, Timer::Stop(id));
                }
                Phase::Ended if now >= expiry => {
                    self.forget_outgoing(id);
                    continue;
                }
                Phase::Closing | Phase::Ended => {}
            }
            self.at(expiry, Timer::Expiry(id));
        }
    }

    /// After a payment was passed on: an escrow that runs low is followed by another in time.
    pub(super) fn look_ahead(&mut self, leg: &NextLeg) {
        let Backing::Escrow(escrow) = leg.by else {
            return;
        };
        let Some(o) = self.outgoing.get(&escrow) else {
            return;
        };
        let (peer, left) = (o.payee, o.balance.saturating_sub(o.allocated));
        // A quarter left: wanted at the next random time, never at once because of this circuit [C4].
        if left < Stroops::new(o.balance.get() / 4).unwrap_or(Stroops::ZERO) && !o.succeeded {
            if let Some(o) = self.outgoing.get_mut(&escrow) {
                o.succeeded = true;
            }
            self.want(self.now, peer);
        }
    }
}
