//! A payment that was refused: resumed, never repeated (2.1).
//!
//! ```text
//! refused by hop h --(up to 3 times, same n)--> resumed at h and after it; nothing new is signed
//!        |   h = 1: by its books it holds the money, or the money is free and is allocated again
//!        v
//! given up: what h holds becomes credit there (forward 0); the chain ends at h, or before it if it was the last; with h = 1,
//!           payment on this tunnel ends, and what hop 1 holds is balance again when the circuit does
//! ```
//! Whoever lies about a refusal, or about the books: a payment is never signed for twice, the next one only follows once this one is
//! complete or given up, and each that is given up makes the chain shorter. So a circuit loses at most one payment to each of
//! its hops, and the last one that lies ends payment on it.

use super::Payer;
use super::io::{Output, Report, Unpaid};
use super::tunnel::{Phase, Trial};
use crate::amounts::Part;
use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::escrow::outgoing::Phase as Life;
use crate::fact::OutFact;
use crate::ids::TunnelId;
use crate::keys::PayerKeys;
use obol_cell::{Balance, Forward, Pay, RefuseCode, Step, Stroops, ToNode};

/// How often one payment is resumed before what is held is turned into credit.
const ATTEMPTS: u8 = 3;
/// How long to wait before a resumption, times the attempt.
const RESUME_MS: u64 = 1_000;
/// Hop 1's books say nothing while other payments are on their way to it: looked again after this.
const BOOKS_MS: u64 = 250;

impl<K: PayerKeys> Payer<K> {
    /// A hop did not pass the payment on. False: no such hop.
    pub(super) fn refused(&mut self, tunnel: TunnelId, distance: u8, code: RefuseCode, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(hop) = t.chain.checked_sub(distance).filter(|h| *h > 0) else {
            return false;
        };
        let peer = t.guard();
        let Some(payment) = &mut t.payment else { return false };
        let (n, escrow) = (payment.n, payment.escrow);
        // `Failed` by a later hop says that no money came there, and nothing about where it is: that was told before.
        let hop = match payment.stopped_at {
            Some(before) if code == RefuseCode::Failed => before.min(hop),
            _ => hop,
        };
        payment.stopped_at = Some(hop);
        payment.attempt = payment.attempt.saturating_add(1);
        payment.held_at_first = None;
        let again = payment.attempt < ATTEMPTS
            && match code {
                // A hop whose meter is behind ours sells the step a little later.
                RefuseCode::Failed | RefuseCode::OverLimit => true,
                // Hop 1 may not have read the escrow yet, or refuses more of it from now on: a draw can still go to it.
                RefuseCode::NoFunds | RefuseCode::Closing => hop == 1,
            };
        let wait = RESUME_MS.saturating_mul(u64::from(payment.attempt) - u64::from(code == RefuseCode::Failed));
        payment.resume = Some((hop, now.plus(wait)));
        // An honest meter may be behind ours for a moment; one that still is when the payment comes again is not (ADR 13).
        let excused = code == RefuseCode::OverLimit && payment.attempt == 1 && again;
        self.outbox
            .push_now(Output::Report(Report::Refused { tunnel, n, hop, code }));
        if !excused {
            self.blame(tunnel, hop, now);
        }
        if let Some(e) = peer
            .and_then(|g| self.guards.get_mut(&g))
            .and_then(|g| g.get_mut(escrow))
        {
            e.in_flight = e.in_flight.saturating_sub(1);
            e.stale |= hop == 1;
            if hop == 1 && code == RefuseCode::Closing && e.books.phase == Life::Open {
                self.record_about(OutFact::Closing { escrow }, now);
            }
        }
        if !again {
            self.settle_for_less(tunnel, hop, code);
        }
        true
    }

    /// Half of the blame goes to the hop that refused, half to the one before it: either can have lied (2.9).
    fn blame(&mut self, tunnel: TunnelId, hop: u8, now: UnixMillis) {
        let Some(t) = self.tunnels.get(&tunnel) else { return };
        let Some(payment) = &t.payment else { return };
        let share = payment.parts.get(usize::from(hop - 1)).and_then(Part::total);
        let half = Stroops::new(share.unwrap_or(Stroops::ZERO).get() / 2).unwrap_or(Stroops::ZERO);
        let charged: Vec<_> = [hop.checked_sub(2), Some(hop - 1)]
            .into_iter()
            .flatten()
            .filter_map(|i| t.hops.get(usize::from(i)).map(|h| (h.peer(), i == 0)))
            .collect();
        for (peer, is_guard) in charged {
            if self.scores.record_kept(peer, half, self.standing(peer), now) {
                self.shun(peer, is_guard);
            }
        }
    }

    /// What hop 1's books say of the payment that it refused: they have `allocated` where ours had `before`, without what may never
    /// have reached it. In doubt the money is held: then the payment ends, where else it would be allocated twice.
    pub(super) fn books_of_refused(
        &mut self,
        tunnel: TunnelId,
        told: &Balance,
        before: Stroops,
        allocated: Stroops,
        now: UnixMillis,
    ) {
        // Of several refused payments the books cannot tell which is held: then each is taken to be.
        let refused = self.tunnels.values().filter_map(|t| t.payment.as_ref());
        let refused: Stroops = refused
            .filter(|p| p.escrow == told.escrow && p.resume.is_some())
            .map(|p| p.amount())
            .sum();
        if let Some(p) = self.tunnels.get_mut(&tunnel).and_then(|t| t.payment.as_mut())
            && p.resume.is_some_and(|(hop, _)| hop == 1)
        {
            let free = allocated.checked_add(refused).is_some_and(|sum| sum <= before);
            p.held_at_first = Some(told.newest_k >= p.k && !free);
            p.resume = Some((1, now));
        }
    }

    /// Resumes a refused payment when its time has come. True: there is one, and nothing else is to be done.
    pub(super) fn resume(&mut self, tunnel: TunnelId, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(payment) = &mut t.payment else { return false };
        let Some((hop, at)) = payment.resume else { return true };
        if now < at {
            return true;
        }
        if hop == 1 && payment.held_at_first.is_none() {
            let escrow = payment.escrow;
            // Asked at once, or later: while others are in flight the answer would say nothing.
            payment.resume = Some((hop, now.plus(BOOKS_MS)));
            self.balance_needed(tunnel, escrow, now);
            return true;
        }
        self.send_payment(tunnel, hop, now);
        true
    }

    /// Gives a refused payment up: what `hop` holds becomes credit there, and the chain ends there; before it, if it was the last.
    fn settle_for_less(&mut self, tunnel: TunnelId, hop: u8, code: RefuseCode) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        let Some(payment) = t.payment.take() else { return };
        let step = payment.step;
        if code == RefuseCode::OverLimit {
            let half = Step::from_power(step.power().saturating_sub(1)).unwrap_or(Step::FIRST);
            t.step_cap = Some(half);
            t.growth.last = t.growth.last.map(|s| s.min(half));
        }
        // At hop 1 what is held for the circuit returns to the balance at its end: nothing is lost by leaving it.
        if hop > 1 {
            let (escrow, amount) = (payment.escrow, payment.amount());
            if let Some(e) = t.guard().and_then(|g| self.guards.get_mut(&g)?.get_mut(escrow)) {
                e.unheard_of = e.unheard_of.checked_add(amount).unwrap_or(e.books.cumulative);
            }
            let pay = Pay {
                n: payment.n,
                step,
                forward: Forward::Pass(Stroops::ZERO),
                claim: None,
            };
            self.outbox.push_now(Output::Send {
                tunnel,
                hop,
                body: ToNode::Pay(pay).encode(),
            });
            t.bought = t.bought.saturating_add(step.bytes());
            t.growth.book(step);
            for (h, part) in t.hops.iter_mut().take(usize::from(hop) - 1).zip(&payment.parts) {
                h.forwarded.book(part);
            }
        }
        t.trial = Trial::None;
        if defects::on(Defect::PayAgain) {
            return;
        }
        t.chain = if hop == 1 { 0 } else { hop.min(t.chain - 1) };
        let (paid_hops, why) = if t.chain == 0 {
            t.phase = Phase::Stopped;
            self.outbox.push_now(Output::Retire { tunnel });
            (0, Unpaid::Declined)
        } else {
            (t.chain, Unpaid::ChainEnds)
        };
        let hop = paid_hops + 1;
        self.outbox
            .push_now(Output::Report(Report::Unpaid { tunnel, hop, why }));
        self.outbox
            .push_now(Output::Report(Report::Chain { tunnel, paid_hops }));
    }
}
