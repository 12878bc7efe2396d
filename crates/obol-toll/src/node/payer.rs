//! Escrows that we pay neighbours by: wanted, offered, opened, rolled over, closed, refunded. The books of one escrow are in
//! `escrow/outgoing.rs`.
//!
//! ```text
//!  hello -> want --(all wants of a period at one random time)--> WantEscrow -> Offer -> LegOffer
//!                                                                                          |
//!        known <- LegBalance <- LegQuery <- EscrowOpened <- OpenEscrow <- fact <- LegAccepted (refund checked)
//! ```
//! No circuit ever causes an opening (C4): wants come from links and from the age and rest of the escrow in use, and are
//! released together at a random time of each period.

use super::legs::NextLeg;
use super::{Node, Output, Report, Timer};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::escrow::outgoing::{Outgoing, Phase};
use crate::fact::{NodeFact, OutFact};
use crate::ids::LinkId;
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{
    Balance, DeclineCode, EscrowAcceptance, EscrowId, EscrowOffer, EscrowRules, EscrowState, EscrowTerms, LinkMessage,
    PeerId, Stroops,
};

/// An offer without an answer is forgotten after this.
const OFFER_MS: u64 = 60_000;
/// An opened escrow that the payee does not know yet is asked about again after this.
const ASK_AGAIN_MS: u64 = 5_000;
/// A declined offer is followed by another want not sooner than this, and twice as long after each further one, up to
/// 2^[`BACK_OFF`] times.
const WANT_AGAIN_MS: u64 = 5_000;
const BACK_OFF: u8 = 8;

/// An escrow that a peer should be paid by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// The driver was asked for it.
    asked: bool,
}

/// An offer of ours without an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offered {
    peer: PeerId,
    offer: EscrowOffer,
    sent: bool,
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// Whether the peer at the other end of `link` can be paid now: the quote's `next`.
    pub(super) fn can_pay_next(&self, now: UnixMillis, link: LinkId) -> bool {
        let Some(peer) = self.links.get(&link).and_then(|l| l.payable()) else {
            return false;
        };
        self.by_payee.get(&peer).is_some_and(|escrows| {
            escrows
                .iter()
                .filter_map(|e| self.outgoing.get(e))
                .any(|o| o.phase == Phase::Open && o.available(now) > self.config.reserve)
        })
    }

    /// An escrow that covers `amount`: what an old one still has first, then the newest.
    pub(super) fn choose(&self, peer: PeerId, amount: Stroops) -> Option<EscrowId> {
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
        draw.or_else(|| all().max_by_key(|o| o.since)).map(|o| o.escrow.id())
    }

    /// Whether an escrow to this peer is in use with enough left, or on its way.
    fn is_provided(&self, now: UnixMillis, peer: PeerId) -> bool {
        let on_its_way = self.offered.values().any(|o| o.peer == peer);
        on_its_way
            || self
                .by_payee
                .get(&peer)
                .into_iter()
                .flatten()
                .filter_map(|e| self.outgoing.get(e))
                .any(|o| match o.phase {
                    Phase::Opening => true,
                    Phase::Open => {
                        !o.succeeded
                            && now.secs() < o.stops_at()
                            && o.balance.saturating_sub(o.allocated) > self.config.reserve
                    }
                    Phase::Closing | Phase::Ended => false,
                })
    }

    pub(super) fn want(&mut self, now: UnixMillis, peer: PeerId) {
        if !self.config.pays_others || self.wanted.contains_key(&peer) || self.is_provided(now, peer) {
            return;
        }
        self.wanted.insert(peer, Want { asked: false });
        self.schedule_wants(now, 0);
    }

    fn schedule_wants(&mut self, now: UnixMillis, not_before_ms: u64) {
        if self.wants_at.is_none() {
            let at = now.plus(not_before_ms.saturating_add(self.jitter.up_to(self.config.opening_jitter_ms)));
            self.wants_at = Some(at);
            self.at(at, Timer::Wants);
        }
    }

    pub(super) fn wants_due(&mut self, now: UnixMillis) {
        if self.wants_at.is_none_or(|at| at > now) {
            return;
        }
        self.wants_at = None;
        let peers: Vec<_> = self.wanted.iter().filter(|(_, w)| !w.asked).map(|(p, _)| *p).collect();
        for peer in peers {
            // A peer that went away is wanted again when it says hello.
            let Some(rules) = self.rules_of(peer) else {
                self.wanted.remove(&peer);
                continue;
            };
            if let Some(want) = self.wanted.get_mut(&peer) {
                want.asked = true;
            }
            let deposit = self.deposit_for(peer, &rules);
            let life = self.config.life.min(rules.max_life).max(rules.min_life);
            self.emit(Output::WantEscrow {
                peer,
                rules,
                deposit,
                life,
            });
        }
    }

    fn rules_of(&self, peer: PeerId) -> Option<EscrowRules> {
        let link = self.link_to(peer)?;
        self.links.get(&link)?.hello
    }

    /// Three times what the pair's last escrow carried, at least the configured deposit and the payee's minimum.
    fn deposit_for(&self, peer: PeerId, rules: &EscrowRules) -> Stroops {
        let last = self
            .by_payee
            .get(&peer)
            .into_iter()
            .flatten()
            .filter_map(|e| self.outgoing.get(e));
        let carried = last.max_by_key(|o| o.since).map_or(Stroops::ZERO, |o| o.cumulative);
        let thrice = carried.checked_mul(3).unwrap_or(Stroops::MAX);
        thrice.max(self.config.deposit).max(rules.min_deposit)
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
        let failures = self.declines.entry(peer).or_insert(0);
        let wait = WANT_AGAIN_MS << (*failures).min(BACK_OFF);
        *failures = failures.saturating_add(1);
        if self.config.pays_others && self.link_to(peer).is_some() {
            self.wanted.insert(peer, Want { asked: false });
            self.schedule_wants(now, wait);
        }
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
        let batched = self.batches.keys().any(|(_, e)| *e == id);
        let known = if batched {
            // Something is on its way to be signed: the books are older than ours.
            balance.state != EscrowState::Unknown
        } else {
            o.reported(balance)
        };
        if !known {
            let wait = ASK_AGAIN_MS << o.unknown.min(BACK_OFF);
            o.unknown = o.unknown.saturating_add(1);
            self.at(now.plus(wait), Timer::Ask(id));
            return;
        }
        o.known = true;
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
        let (from, to) = o.successor_between();
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
        let Some(o) = self.outgoing.get(&leg.escrow) else {
            return;
        };
        let (peer, left) = (o.payee, o.balance.saturating_sub(o.allocated));
        // A quarter left: wanted at the next random time, never at once because of this circuit [C4].
        if left < Stroops::new(o.balance.get() / 4).unwrap_or(Stroops::ZERO) && !o.succeeded {
            if let Some(o) = self.outgoing.get_mut(&leg.escrow) {
                o.succeeded = true;
            }
            self.want(self.now, peer);
        }
    }
}
