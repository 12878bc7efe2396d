//! What neighbour relays say to each other (200), and batches of allocations under one signature.
//!
//! | message | from | what |
//! |---|---|---|
//! | `LegHello` | both, once | same ledger and asset: the link is payable; then newest claims are repeated |
//! | `LegPay` | payer | claim checked and stored; each allocation meets its circuit's `Pay`, or is balance if the circuit is gone |
//! | `LegRefused` | payer | counts as the `LegPay`: the payment is refused here too, and further on |
//! | `LegOffer`, `LegQuery`, `LegClose` | payer | payee.rs |
//! | `LegAccepted`, `LegDeclined`, `LegBalance` | payee | payer.rs |
//! | `LegTrust`, `LegPaid` | payer | trust.rs |
//! | `LegTrusted`, `LegSettled` | payee | trust.rs |
//!
//! Two allocations for one circuit in one message are a protocol error: an honest payer has one payment in flight per
//! circuit. In successive messages they are not: a client can make an honest payer send them, and the earlier one is held.

use super::circuit::{HOLD_MS, Phase as PaymentPhase};
use super::{Node, Output, Report, Timer};
use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::escrow::incoming::ClaimError;
use crate::escrow::outgoing::Phase;
use crate::fact::{NodeFact, OutFact, Owner};
use crate::ids::{CircuitId, LinkId};
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{
    Allocation, Asset, EscrowId, EscrowRules, LegPay, LinkMessage, MAX_ALLOCATIONS, NetworkId, OwnerAsks, Ownership,
    PeerId, RefuseCode, Stroops,
};
use std::collections::HashSet;

/// After so many bad signatures a link is closed.
const BAD_SIGNATURES: u8 = 3;

/// What a leg is paid by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Backing {
    Escrow(EscrowId),
    /// A statement to this payee, which trusts us.
    Trust(PeerId),
}

/// Where a forwarded part goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct NextLeg {
    pub(super) link: LinkId,
    pub(super) id: u32,
    pub(super) by: Backing,
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    pub(super) fn say_hello(&mut self, link: LinkId) {
        let tariff = &self.config.tariff;
        let hello = LinkMessage::LegHello {
            network: tariff.network,
            asset: tariff.asset,
            rules: tariff.rules,
        };
        self.send_link(link, &hello);
    }

    pub(super) fn link_message(&mut self, now: UnixMillis, link: LinkId, body: &[u8]) {
        let Some(l) = self.links.get(&link) else {
            return;
        };
        // From a client, or from a relay that our consensus does not know as ours (yet): dropped, as C Tor does.
        let (Some(peer), true, false) = (l.peer, l.obol, l.dead) else {
            return;
        };
        let (greeted, payable) = (l.hello_seen, l.hello.is_some());
        let Ok(message) = LinkMessage::decode(body) else {
            return self.close_link(link);
        };
        if let LinkMessage::LegHello { network, asset, rules } = message {
            if greeted {
                return self.close_link(link);
            }
            return self.hello(now, link, peer, network, asset, rules);
        }
        if !greeted {
            return self.close_link(link);
        }
        if !payable {
            return;
        }
        match message {
            LinkMessage::LegPay(pay) => self.leg_pay(now, link, peer, pay),
            LinkMessage::LegRefused {
                circuit,
                n,
                distance,
                code,
            } => {
                if let Some(circuit) = self.by_prev.get(&(link, circuit)).copied() {
                    self.refused_before(circuit, n, distance, code);
                }
            }
            LinkMessage::LegOffer(offer) => self.leg_offer(now, link, &offer),
            LinkMessage::LegQuery { escrow, opening, owner } => {
                self.leg_query(now, link, peer, escrow, opening, &owner)
            }
            LinkMessage::LegClose { escrow, .. } => self.leg_close(now, peer, escrow),
            LinkMessage::LegAccepted(acceptance) => self.leg_accepted(now, peer, &acceptance),
            LinkMessage::LegDeclined { escrow, code } => self.leg_declined(now, peer, escrow, code),
            LinkMessage::LegBalance(balance) => self.leg_balance(now, link, peer, &balance),
            LinkMessage::LegTrusted(books) => self.leg_trusted(link, peer, &books),
            LinkMessage::LegTrust(statement) => self.leg_trust(now, link, peer, &statement),
            LinkMessage::LegPaid { transaction, amount } => self.leg_paid(now, link, peer, transaction, amount),
            LinkMessage::LegSettled { transaction, .. } => self.leg_settled(peer, transaction),
            LinkMessage::LegHello { .. } => {}
        }
    }

    fn hello(
        &mut self,
        now: UnixMillis,
        link: LinkId,
        peer: PeerId,
        network: NetworkId,
        asset: Asset,
        rules: EscrowRules,
    ) {
        let ours = &self.config.tariff;
        let same = network == ours.network && asset == ours.asset;
        if let Some(l) = self.links.get_mut(&link) {
            l.hello_seen = true;
            l.hello = same.then_some(rules);
        }
        if same {
            self.reconcile(now, link, peer);
            self.greet_trusted(link, peer);
            self.send_offers(link, peer);
            self.want(now, peer);
        }
    }

    fn leg_pay(&mut self, now: UnixMillis, link: LinkId, peer: PeerId, pay: LegPay) {
        let Some(sum) = sum_of(&pay.allocations) else {
            return self.close_link(link);
        };
        let known = self.incoming.get(&pay.escrow).map(|i| i.owner == Owner::Peer(peer));
        if known != Some(true) {
            // Somebody else's is answered like one that there is not.
            match pay.opening {
                Some(opening) if !self.claim_is_signed(pay.escrow, &opening, pay.k, pay.cumulative, &pay.signature) => {
                    self.tell_unknown(link, pay.escrow);
                    self.report(Report::BadSignature);
                    self.bad_signature(link);
                }
                Some(opening) if known.is_none() => {
                    self.read_for_leg(now, link, peer, pay.escrow, &opening, Some(pay));
                }
                _ => self.tell_unknown(link, pay.escrow),
            }
            return;
        }
        match self.claim(now, pay.escrow, Some(peer), pay.k, pay.cumulative, &pay.signature, sum) {
            Ok(()) => {
                for a in &pay.allocations {
                    // A circuit that is gone: the allocation is the payer's balance, without an answer [2.20].
                    if let Some(circuit) = self.by_prev.get(&(link, a.circuit)).copied() {
                        self.hold(circuit, pay.escrow, a.n, a.amount);
                        self.arrived(now, circuit, a.n, a.amount);
                    }
                }
                if pay.allocations.is_empty() {
                    self.tell_balance(link, pay.escrow);
                }
            }
            Err(ClaimError::BadSignature) => {
                self.report(Report::BadSignature);
                self.bad_signature(link);
            }
            // A repetition: nothing is credited twice.
            Err(ClaimError::Seen) if !pay.allocations.is_empty() => {}
            Err(_) => self.tell_balance(link, pay.escrow),
        }
    }

    pub(super) fn bad_signature(&mut self, link: LinkId) {
        if let Some(l) = self.links.get_mut(&link) {
            l.bad_signatures = l.bad_signatures.saturating_add(1);
            if l.bad_signatures >= BAD_SIGNATURES {
                self.close_link(link);
            }
        }
    }

    /// Money for payment n is held for its circuit now.
    pub(super) fn arrived(&mut self, now: UnixMillis, circuit: CircuitId, n: u16, amount: Stroops) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        if n > c.payment.n {
            c.begin(n);
            c.payment.phase = PaymentPhase::AwaitPay { arrived: amount };
            self.at(now.plus(HOLD_MS), Timer::Hold(circuit, n));
        } else if n == c.payment.n && matches!(c.payment.phase, PaymentPhase::AwaitMoney { .. }) {
            self.money(circuit, amount);
        }
        // Otherwise it is held, and that is all.
    }

    fn refused_before(&mut self, circuit: CircuitId, n: u16, distance: u8, code: RefuseCode) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        if n < c.payment.n {
            return;
        }
        if n > c.payment.n {
            c.begin(n);
        }
        match &mut c.payment.phase {
            PaymentPhase::AwaitMoney { .. } => self.refuse(circuit, distance, code, true),
            phase @ (PaymentPhase::Idle | PaymentPhase::RefusedBefore { .. }) => {
                *phase = PaymentPhase::RefusedBefore { distance, code }
            }
            // Our own clock was faster: this is still the same refusal.
            PaymentPhase::Refused {
                by_link: by_link @ false,
                ..
            } => *by_link = true,
            // The client resumed at the hop before, which refused again: its `Pay` to us is on its way.
            PaymentPhase::Refused { again, .. } => *again = Some((distance, code)),
            PaymentPhase::AwaitPay { .. } | PaymentPhase::Done => {}
        }
    }

    /// Puts `amount` for `circuit`'s next hop aside, in an escrow that covers it.
    pub(super) fn reserve_next(&mut self, circuit: CircuitId, amount: Stroops) -> Result<NextLeg, RefuseCode> {
        let c = self.circuits.get(&circuit).ok_or(RefuseCode::Failed)?;
        if c.batched {
            // One allocation for a circuit in one message; a second payment within one batch is not one in flight.
            return Err(RefuseCode::Failed);
        }
        let (link, id) = c.next.ok_or(RefuseCode::NoFunds)?;
        let peer = self
            .links
            .get(&link)
            .and_then(|l| l.payable())
            .ok_or(RefuseCode::NoFunds)?;
        let current = self.stays_with(circuit, peer);
        let Some(escrow) = self.choose(peer, amount, current) else {
            // Only if escrow does not do: money that a payee does not have yet.
            return if self.reserve_owed(peer, amount) {
                let by = Backing::Trust(peer);
                Ok(NextLeg { link, id, by })
            } else {
                Err(RefuseCode::NoFunds)
            };
        };
        if let Some(o) = self.outgoing.get_mut(&escrow) {
            let is_draw = o.phase != Phase::Open || o.unallocated() >= amount;
            o.reserve(amount);
            if !is_draw
                && let Some(c) = self.circuits.get_mut(&circuit)
                && c.leg.is_none_or(|(before, _)| before != escrow)
            {
                c.leg = Some((escrow, None));
            }
        }
        let by = Backing::Escrow(escrow);
        Ok(NextLeg { link, id, by })
    }

    /// Queues what was put aside; it leaves with the next batch.
    pub(super) fn pass_on(&mut self, circuit: CircuitId, n: u16, leg: NextLeg, amount: Stroops) {
        let mut amount = amount;
        if defects::on(Defect::ForwardTooMuch)
            && let Backing::Escrow(escrow) = leg.by
            && let Some(o) = self.outgoing.get_mut(&escrow)
        {
            o.reserve(amount);
            amount = amount.checked_add(amount).unwrap_or(amount);
        }
        if let Some(c) = self.circuits.get_mut(&circuit) {
            c.batched = true;
        }
        let allocation = Allocation {
            circuit: leg.id,
            n,
            amount,
        };
        self.batches
            .entry((leg.link, leg.by))
            .or_default()
            .push((circuit, allocation));
        self.report(Report::PaidOn { amount });
    }

    /// Signs what gathered since the last time: one claim for up to 64 allocations.
    pub(super) fn send_batches(&mut self) {
        for ((link, by), batch) in std::mem::take(&mut self.batches) {
            for chunk in batch.chunks(MAX_ALLOCATIONS) {
                for (circuit, _) in chunk {
                    if let Some(c) = self.circuits.get_mut(circuit) {
                        c.batched = false;
                    }
                }
                let allocations = chunk.iter().map(|(_, a)| *a).collect();
                match by {
                    Backing::Escrow(escrow) => self.sign_and_send(link, escrow, allocations),
                    Backing::Trust(peer) => self.state_and_send(link, peer, allocations),
                }
            }
        }
    }

    /// The next claim on `escrow`, made durable and then sent.
    pub(super) fn sign_and_send(&mut self, link: LinkId, escrow: EscrowId, allocations: Vec<Allocation>) {
        let Some(o) = self.outgoing.get_mut(&escrow) else {
            return;
        };
        let claim = o.next_claim();
        let signature = if o.sealed {
            None
        } else {
            self.keys.sign_claim(&o.escrow, claim.k, claim.cumulative)
        };
        let Some(signature) = signature else {
            o.keyless = true;
            o.unreserve(allocations.iter().map(|a| a.amount).sum());
            return self.stop_using(escrow);
        };
        let rise = claim.cumulative.saturating_sub(o.cumulative);
        o.signed(claim);
        let opening = (!o.known).then(|| o.escrow.terms.opening());
        let payee = o.payee;
        self.volume(payee, rise);
        self.totals.signed = self.totals.signed.checked_add(rise).unwrap_or(Stroops::MAX);
        self.fact(NodeFact::Out(OutFact::Signed {
            escrow,
            k: claim.k,
            cumulative: claim.cumulative,
        }));
        let pay = LegPay {
            escrow,
            k: claim.k,
            cumulative: claim.cumulative,
            signature,
            opening,
            allocations,
        };
        self.send_link(link, &LinkMessage::LegPay(pay));
    }

    /// A link went down: what was not signed yet for its circuits never leaves.
    pub(super) fn drop_batches(&mut self, link: LinkId) {
        let gone: Vec<_> = self.batches.keys().filter(|(l, _)| *l == link).copied().collect();
        for key in gone {
            let batch = self.batches.remove(&key).unwrap_or_default();
            let sum = batch.iter().map(|(_, a)| a.amount).sum();
            match key.1 {
                Backing::Escrow(escrow) => {
                    if let Some(o) = self.outgoing.get_mut(&escrow) {
                        o.unreserve(sum);
                    }
                }
                Backing::Trust(peer) => self.unreserve_owed(peer, sum),
            }
            for (circuit, _) in batch {
                if let Some(c) = self.circuits.get_mut(&circuit) {
                    c.batched = false;
                }
            }
        }
    }

    /// Tells the payer our books on an escrow.
    pub(super) fn tell_balance(&mut self, link: LinkId, escrow: EscrowId) {
        let balance = self.balance_of(escrow);
        self.send_link(link, &LinkMessage::LegBalance(balance));
    }

    /// On a new link: the newest claim again, or a question, for every escrow that pays this peer. The answer is its books.
    fn reconcile(&mut self, now: UnixMillis, link: LinkId, peer: PeerId) {
        for escrow in self.by_payee.get(&peer).cloned().unwrap_or_default() {
            self.ask_about(now, link, escrow);
        }
    }

    pub(super) fn ask_about(&mut self, now: UnixMillis, link: LinkId, escrow: EscrowId) {
        let Some(o) = self.outgoing.get(&escrow) else {
            return;
        };
        if o.phase == Phase::Opening || now.secs() >= o.escrow.terms.expiry {
            return;
        }
        let opening = (!o.known).then(|| o.escrow.terms.opening());
        let (k, cumulative, peer) = (o.k, o.cumulative, o.escrow.terms.payee);
        let repeat = if k > 0 && !o.sealed {
            self.keys.sign_claim(&o.escrow, k, cumulative)
        } else {
            None
        };
        let message = match repeat {
            Some(signature) => LinkMessage::LegPay(LegPay {
                escrow,
                k,
                cumulative,
                signature,
                opening,
                allocations: Vec::new(),
            }),
            None => {
                let ownership = Ownership {
                    network: o.escrow.terms.network,
                    payee: peer,
                    escrow,
                    asks: OwnerAsks::Books,
                };
                let Some(owner) = self.keys.sign_owner(&ownership) else {
                    // Without its key nothing can be paid by it, whatever the payee knows.
                    return;
                };
                LinkMessage::LegQuery { escrow, opening, owner }
            }
        };
        // Only what was signed, and made durable, before: gated like everything else.
        self.send_link(link, &message);
    }

    /// Any link on which this peer can be paid.
    pub(super) fn link_to(&self, peer: PeerId) -> Option<LinkId> {
        let links = self.peers.get(&peer)?;
        links
            .iter()
            .copied()
            .find(|l| self.links.get(l).is_some_and(|l| l.payable().is_some()))
    }

    pub(super) fn tell_peer_balance(&mut self, peer: PeerId, escrow: EscrowId) {
        if let Some(link) = self.link_to(peer) {
            self.tell_balance(link, escrow);
        }
    }

    pub(super) fn emit(&mut self, output: Output) {
        self.out.push(output);
    }
}

/// What allocations come to; `None`: two for one circuit, or more than there can be.
pub(super) fn sum_of(allocations: &[Allocation]) -> Option<Stroops> {
    let mut circuits = HashSet::with_capacity(allocations.len());
    allocations.iter().try_fold(Stroops::ZERO, |sum, a| {
        circuits.insert(a.circuit).then_some(())?;
        sum.checked_add(a.amount)
    })
}
