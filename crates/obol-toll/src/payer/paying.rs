//! One payment: decided, signed, sent, answered.
//!
//! ```text
//! low --balance asked where needed--> signed (durable) --Pay to every paid hop--> in flight --Complete--> done
//!                                                           ^                        |
//!                                                           |                     Refused {distance}
//!                                                           |                        v
//!                                      resumed at the refusing hop, same n  <-- money held there --> turned into credit (forward 0)
//! ```
//! A refused payment is resumed, never repeated; nothing new is signed before hop 1 itself has to be paid again (2.1).

use super::io::{GiveUp, Output, Report, Second, Unpaid};
use super::tunnel::{Conversation, Payment, Phase, Question, Trial};
use super::{PayPolicy, Payer};
use crate::amounts::Part;
use crate::clock::UnixMillis;
use crate::escrow::outgoing::Phase as Life;
use crate::fact::{OutFact, PayerFact};
use crate::ids::TunnelId;
use crate::keys::PayerKeys;
use obol_cell::{Claim, Forward, Pay, RefuseCode, Step, Stroops, ToNode};

/// How often one payment is resumed before what is held is turned into credit.
const ATTEMPTS: u8 = 3;
/// How long to wait before a resumption, times the attempt.
const RESUME_MS: u64 = 1_000;
/// Payments in a row that failed, until a tunnel is not paid any more.
const FAILURES: u8 = 3;

impl<K: PayerKeys> Payer<K> {
    /// Pays the next step if credit runs low. True: something was begun, or must be waited for.
    pub(super) fn pay_if_low(&mut self, tunnel: TunnelId, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get(&tunnel) else {
            return true;
        };
        let may = t.phase == Phase::Ready && t.chain > 0 && t.payment.is_none() && !t.over_claimed;
        if !may || self.config.pay == PayPolicy::Never || !t.is_low() || self.withhold(tunnel, now) {
            return false;
        }
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(peer) = t.guard() else { return true };
        let shunned = t
            .hops
            .iter()
            .take(t.chain.into())
            .any(|h| self.scores.shunned(h.peer(), now));
        let step = if shunned { Step::FIRST } else { t.next_step() };
        let Some(parts) = t.parts(step) else { return false };
        let Some(amount) = parts.first().and_then(Part::total) else {
            return false;
        };
        let Some(guard) = self.guards.get(&peer) else {
            return false;
        };
        // A tunnel moves to a newer escrow at a random time, so that all of them do not move at once [M14].
        let newest = guard.newest_open();
        if t.escrow.is_some() && newest != t.escrow && t.move_at.is_none() {
            t.move_at = Some(now.plus(self.jitter.up_to(self.config.rollover_jitter_ms)));
        }
        let stay = t.move_at.is_none_or(|at| now < at);
        let Some(escrow) = guard.choose(t.escrow, stay, amount, now) else {
            return false;
        };
        if t.escrow != Some(escrow) {
            t.escrow = Some(escrow);
            t.move_at = None;
        }
        if self.balance_needed(tunnel, escrow, now) {
            return true;
        }
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(n) = t.n.checked_add(1) else {
            // 65,535 payments: a circuit of a terabyte. It goes on unpaid.
            t.phase = Phase::Stopped;
            return true;
        };
        t.n = n;
        t.payment = Some(Payment {
            n,
            step,
            parts,
            escrow,
            started: now,
            attempt: 0,
            resume: None,
            held_at_first: false,
        });
        if let Some(e) = self.guards.get_mut(&peer).and_then(|g| g.get_mut(escrow)) {
            e.in_flight += 1;
        }
        if self.send_payment(tunnel, 1, now) {
            if let Some(t) = self.tunnels.get_mut(&tunnel) {
                let shares: Vec<Stroops> = t
                    .payment
                    .iter()
                    .flat_map(|p| &p.parts)
                    .filter_map(Part::total)
                    .collect();
                for (h, share) in t.hops.iter_mut().zip(shares) {
                    h.entrusted = h.entrusted.checked_add(share).unwrap_or(Stroops::MAX);
                }
            }
            self.outbox.push_now(Output::Report(Report::Paying {
                tunnel,
                n,
                step,
                amount,
            }));
        }
        true
    }

    /// Sends payment `n`'s messages to the hops from `from` on; to hop 1 with a claim, durable first. False: it could not be
    /// signed, and the tunnel is not paid any more.
    fn send_payment(&mut self, tunnel: TunnelId, from: u8, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return false;
        };
        let (Some(peer), Some(payment)) = (t.guard(), t.payment.clone()) else {
            return false;
        };
        let mut facts = Vec::new();
        let mut claim = None;
        if from == 1 {
            let Some(e) = self.guards.get_mut(&peer).and_then(|g| g.get_mut(payment.escrow)) else {
                return false;
            };
            let allocation = if payment.held_at_first {
                Stroops::ZERO
            } else {
                payment.amount()
            };
            // Unallocated balance is used first: the sum rises by less, or not at all.
            e.books.reserve(allocation);
            let next = e.books.next_claim();
            let rise = next.cumulative.saturating_sub(e.books.cumulative);
            let spent = self.spent.checked_add(rise);
            let fits = next.cumulative <= e.books.balance && next.k < 1 << 31;
            let signed = match spent {
                Some(spent) if fits && self.config.budget.is_none_or(|budget| spent <= budget) => {
                    let signature = self.keys.sign_claim(&e.books.escrow, next.k, next.cumulative);
                    signature.map(|s| (next, spent, s)).ok_or(Unpaid::ChainEnds)
                }
                _ => Err(Unpaid::Budget),
            };
            match signed {
                Err(why) => {
                    e.books.unreserve(allocation);
                    e.in_flight = e.in_flight.saturating_sub(1);
                    t.payment = None;
                    t.phase = Phase::Stopped;
                    self.outbox
                        .push_now(Output::Report(Report::Unpaid { tunnel, hop: 1, why }));
                    return false;
                }
                Ok((next, spent, signature)) => {
                    e.books.signed(next);
                    self.spent = spent;
                    let (escrow, k, cumulative) = (e.id(), next.k, next.cumulative);
                    facts.push(PayerFact::Out(OutFact::Signed { escrow, k, cumulative }));
                    facts.push(PayerFact::Spent { total: spent });
                    let opening = (!e.books.known).then(|| e.books.escrow.terms.opening());
                    claim = Some(Claim {
                        escrow,
                        k,
                        cumulative,
                        allocation,
                        signature,
                        opening,
                    });
                }
            }
        }
        let last = t.chain;
        let mut outputs = Vec::with_capacity(last.into());
        for hop in from..last {
            let forward = payment
                .parts
                .get(usize::from(hop) - 1)
                .map_or(Stroops::ZERO, |p| p.forward);
            let pay = Pay {
                n: payment.n,
                step: payment.step,
                forward: Forward::Pass(forward),
                claim: claim.filter(|_| hop == 1),
            };
            outputs.push(Output::Send {
                tunnel,
                hop,
                body: ToNode::Pay(pay).encode(),
            });
        }
        let pay = Pay {
            n: payment.n,
            step: payment.step,
            forward: Forward::Last,
            claim: claim.filter(|_| last == 1),
        };
        let body = ToNode::Pay(pay).encode();
        let question = Question::Pay(payment.n);
        outputs.push(match &mut t.conversation {
            Some(open) => {
                *open = Conversation {
                    hop: last,
                    question,
                    since: now,
                    second: Some(Second::Pay),
                };
                Output::Continue {
                    tunnel,
                    hop: last,
                    second: Second::Pay,
                    body,
                }
            }
            None => {
                t.conversation = Some(Conversation {
                    hop: last,
                    question,
                    since: now,
                    second: None,
                });
                Output::Ask {
                    tunnel,
                    hop: last,
                    body,
                }
            }
        });
        // What carries a claim leaves once the claim is durable; a resumption signs nothing and leaves at once.
        let signed = !facts.is_empty();
        facts.into_iter().for_each(|fact| self.outbox.fact(fact));
        for output in outputs {
            if signed {
                self.outbox.push(output)
            } else {
                self.outbox.push_now(output)
            }
        }
        true
    }

    /// The last paid hop wants the next step. What it says of its meter is taken as far as it is believable.
    pub(super) fn requested(&mut self, tunnel: TunnelId, metered: u64) -> bool {
        self.outbox
            .push_now(Output::Report(Report::Requested { tunnel, metered }));
        self.meter_told(tunnel, metered);
        true
    }

    fn meter_told(&mut self, tunnel: TunnelId, metered: u64) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        let hop = t.chain;
        if t.told(metered) && !t.over_claimed {
            // Paid up to what we can believe, and then left.
            t.over_claimed = true;
            self.outbox.push_now(Output::Report(Report::Unpaid {
                tunnel,
                hop,
                why: Unpaid::OverClaimed,
            }));
            self.outbox.push_now(Output::Retire { tunnel });
        }
    }

    /// The step is bought at every hop of the chain. False: nothing was asked.
    pub(super) fn completed(&mut self, tunnel: TunnelId, metered: u64, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(payment) = t.payment.take() else { return false };
        for (h, part) in t.hops.iter_mut().zip(&payment.parts) {
            h.forwarded.book(part);
            // The exact amount reached the last paid hop: everybody before it passed on what it should.
            let used = part.forward.checked_add(part.fee).unwrap_or(Stroops::MAX);
            h.proved = h.proved.checked_add(used).unwrap_or(Stroops::MAX);
        }
        t.bought = t.bought.saturating_add(payment.step.bytes());
        t.growth.book(payment.step);
        t.failures = 0;
        let took_ms = now.since(payment.started);
        t.payment_ms = (t.payment_ms + took_ms).div_ceil(2);
        let peer = t.guard();
        self.landed(peer, &payment, true);
        self.meter_told(tunnel, metered);
        self.outbox.push_now(Output::Report(Report::Paid {
            tunnel,
            n: payment.n,
            took_ms,
            metered,
        }));
        true
    }

    /// A payment is over: its escrow's books.
    fn landed(&mut self, peer: Option<obol_cell::PeerId>, payment: &Payment, credited: bool) {
        let Some(guard) = peer.and_then(|p| self.guards.get_mut(&p)) else {
            return;
        };
        guard.bought = guard
            .bought
            .saturating_add(if credited { payment.step.bytes() } else { 0 });
        if let Some(e) = guard.get_mut(payment.escrow) {
            e.in_flight = e.in_flight.saturating_sub(1);
            e.books.known |= credited;
            e.stale |= !credited;
        }
    }

    /// A hop did not pass the payment on. False: no such hop.
    pub(super) fn refused(&mut self, tunnel: TunnelId, distance: u8, code: RefuseCode, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(hop) = t.chain.checked_sub(distance).filter(|h| *h > 0) else {
            return false;
        };
        let Some(payment) = &mut t.payment else { return false };
        let (n, escrow) = (payment.n, payment.escrow);
        payment.attempt = payment.attempt.saturating_add(1);
        let again = payment.attempt < ATTEMPTS
            && match code {
                RefuseCode::Failed => true,
                // Hop 1 may not have read the escrow yet, or refuses it from now on: another claim can go to it.
                RefuseCode::NoFunds | RefuseCode::Closing => hop == 1,
                RefuseCode::OverLimit => false,
            };
        if again {
            let wait = RESUME_MS.saturating_mul(u64::from(payment.attempt) - u64::from(code == RefuseCode::Failed));
            payment.resume = Some((hop, now.plus(wait)));
        }
        self.outbox
            .push_now(Output::Report(Report::Refused { tunnel, n, hop, code }));
        self.blame(tunnel, hop, now);
        let Some(t) = self.tunnels.get(&tunnel) else {
            return true;
        };
        if hop == 1
            && let Some(e) = t
                .guard()
                .and_then(|g| self.guards.get_mut(&g))
                .and_then(|g| g.get_mut(escrow))
        {
            e.stale = true;
            if code == RefuseCode::Closing && e.books.phase == Life::Open {
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
        let share = |i: u8| {
            payment
                .parts
                .get(usize::from(i))
                .and_then(Part::total)
                .unwrap_or(Stroops::ZERO)
        };
        let half = Stroops::new(share(hop - 1).get() / 2).unwrap_or(Stroops::ZERO);
        let charged: Vec<_> = [hop.checked_sub(2), Some(hop - 1)]
            .into_iter()
            .flatten()
            .filter_map(|i| t.hops.get(usize::from(i)).map(|h| (h.peer(), i == 0)))
            .collect();
        for (peer, is_guard) in charged {
            if self.scores.record(peer, half, Stroops::ZERO, now) {
                self.shun(peer, is_guard);
            }
        }
    }

    /// Gives a refused payment up: what `hop` holds becomes credit there, and the chain ends there where it has to.
    fn settle_for_less(&mut self, tunnel: TunnelId, hop: u8, code: RefuseCode) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        let Some(payment) = t.payment.take() else { return };
        t.failures = t.failures.saturating_add(1);
        if code == RefuseCode::OverLimit {
            let half = Step::from_power(payment.step.power().saturating_sub(1)).unwrap_or(Step::FIRST);
            t.step_cap = Some(half);
            t.growth.last = t.growth.last.map(|s| s.min(half));
        }
        let peer = t.guard();
        // At hop 1 what is held for the circuit returns to the balance at its end: nothing is lost by leaving it.
        if hop > 1 {
            let (n, step) = (payment.n, payment.step);
            let pay = Pay {
                n,
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
            if code != RefuseCode::OverLimit {
                t.chain = hop;
                self.outbox.push_now(Output::Report(Report::Unpaid {
                    tunnel,
                    hop: hop + 1,
                    why: Unpaid::ChainEnds,
                }));
                self.outbox
                    .push_now(Output::Report(Report::Chain { tunnel, paid_hops: hop }));
            }
        }
        if t.failures >= FAILURES {
            t.phase = Phase::Stopped;
            self.outbox.push_now(Output::Report(Report::Unpaid {
                tunnel,
                hop,
                why: Unpaid::Declined,
            }));
        }
        t.trial = Trial::None;
        self.landed(peer, &payment, hop > 1);
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
        if hop > 1 {
            payment.resume = None;
            self.send_payment(tunnel, hop, now);
            return true;
        }
        let (amount, old) = (payment.amount(), payment.escrow);
        let Some(peer) = t.guard() else { return true };
        // Hop 1 again: perhaps by another escrow, if that one is closing.
        let chosen = self.guards.get(&peer).and_then(|g| {
            let still = g.get(old).is_some_and(|e| e.books.phase == Life::Open);
            if still {
                Some(old)
            } else {
                g.choose(None, false, amount, now)
            }
        });
        let Some(escrow) = chosen else {
            // No escrow to pay it by: the others' halves have lapsed, and so does this payment.
            self.settle_for_less(tunnel, 1, RefuseCode::Closing);
            return true;
        };
        if self.balance_needed(tunnel, escrow, now) {
            return true;
        }
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(payment) = &mut t.payment else { return true };
        payment.resume = None;
        if escrow != old {
            payment.escrow = escrow;
            payment.held_at_first = false;
            t.escrow = Some(escrow);
            if let Some(guard) = self.guards.get_mut(&peer) {
                if let Some(e) = guard.get_mut(old) {
                    e.in_flight = e.in_flight.saturating_sub(1);
                }
                if let Some(e) = guard.get_mut(escrow) {
                    e.in_flight += 1;
                }
            }
        }
        self.send_payment(tunnel, 1, now);
        true
    }

    /// For the driver's tests and for people: a conversation that broke (a send failed) is a tunnel that is given up.
    pub fn conversation_failed(&mut self, tunnel: TunnelId) {
        self.give_up(tunnel, GiveUp::Silent);
    }
}
