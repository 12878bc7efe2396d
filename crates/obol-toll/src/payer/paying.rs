//! One payment: decided, signed, sent, completed.
//!
//! ```text
//! low --balance asked where needed--> signed (durable) --Pay to every paid hop--> in flight --Complete--> done
//!                                                                                    |
//!                                                                           Refused {distance}: `refusal`
//! ```

use super::io::{GiveUp, Output, Report, Second, Unpaid};
use super::tunnel::{Conversation, Payment, Phase, Question};
use super::{PayPolicy, Payer};
use crate::amounts::Part;
use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::fact::{OutFact, PayerFact};
use crate::ids::TunnelId;
use crate::keys::PayerKeys;
use obol_cell::{Claim, Forward, Pay, Step, Stroops, ToNode};

/// Why a claim is not signed.
enum NotSigned {
    /// E's key is not at hand any more.
    Keyless,
    /// The tunnel is not paid for this reason.
    For(Unpaid),
}

impl<K: PayerKeys> Payer<K> {
    /// Pays the next step if credit runs low. True: something was begun, or must be waited for.
    pub(super) fn pay_if_low(&mut self, tunnel: TunnelId, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get(&tunnel) else {
            return true;
        };
        let may = t.phase == Phase::Ready && t.chain > 0 && t.payment.is_none() && !t.over_claimed;
        if !may || self.config.pay == PayPolicy::Never || !t.is_low() {
            return false;
        }
        if self.beyond_link(tunnel) || self.withhold(tunnel, now) {
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
            stopped_at: None,
            resume: None,
            k: 0,
            signed: Stroops::ZERO,
            held_at_first: None,
        });
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
    /// signed: the tunnel is not paid any more, or by another escrow.
    pub(super) fn send_payment(&mut self, tunnel: TunnelId, from: u8, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return false;
        };
        let (Some(peer), Some(payment)) = (t.guard(), &mut t.payment) else {
            return false;
        };
        let Some(e) = self.guards.get_mut(&peer).and_then(|g| g.get_mut(payment.escrow)) else {
            return false;
        };
        let mut facts = Vec::new();
        let mut claim = None;
        if from == 1 {
            let allocation = if payment.held_at_first == Some(true) {
                Stroops::ZERO
            } else {
                payment.amount()
            };
            // Unallocated balance is used first: the sum rises by less, or not at all.
            e.books.reserve(allocation);
            let next = e.books.next_claim();
            let rise = next.cumulative.saturating_sub(e.books.cumulative);
            let spending = self.spending.with(rise, &self.config.budgets, now);
            let of_tunnel = t.allocated.checked_add(allocation);
            let fits = next.cumulative <= e.books.balance
                && next.k < 1 << 31
                && of_tunnel.is_some_and(|sum| self.config.budgets.tunnel.is_none_or(|budget| sum <= budget));
            // Whatever hop 1 says of its books: no payment ever costs more than its amount.
            let for_this = payment.signed.checked_add(rise);
            let once = for_this.is_some_and(|sum| sum <= payment.amount()) || defects::on(Defect::PayAgain);
            let signed = match spending {
                _ if !once => Err(NotSigned::For(Unpaid::Declined)),
                Some(spending) if fits => {
                    let signature = if e.books.sealed {
                        None
                    } else {
                        self.keys.sign_claim(&e.books.escrow, next.k, next.cumulative)
                    };
                    // What was sent once may have been taken: it is not paid again by another escrow.
                    let never_sent = payment.k == 0;
                    signature.map(|s| (next, spending, s)).ok_or(match never_sent {
                        true => NotSigned::Keyless,
                        false => NotSigned::For(Unpaid::ChainEnds),
                    })
                }
                _ => Err(NotSigned::For(Unpaid::Budget)),
            };
            match signed {
                Err(NotSigned::Keyless) => {
                    // Another one is chosen, or asked for.
                    e.books.unreserve(allocation);
                    e.books.keyless = true;
                    t.payment = None;
                    return false;
                }
                Err(NotSigned::For(why)) => {
                    e.books.unreserve(allocation);
                    t.payment = None;
                    t.phase = Phase::Stopped;
                    self.outbox
                        .push_now(Output::Report(Report::Unpaid { tunnel, hop: 1, why }));
                    return false;
                }
                Ok((next, (spending, spent), signature)) => {
                    e.books.signed(next);
                    self.spending = spending;
                    t.allocated = of_tunnel.unwrap_or(Stroops::MAX);
                    if !allocation.is_zero() {
                        payment.k = next.k;
                    }
                    payment.signed = for_this.unwrap_or(Stroops::MAX);
                    let (escrow, k, cumulative) = (e.id(), next.k, next.cumulative);
                    facts.push(PayerFact::Out(OutFact::Signed { escrow, k, cumulative }));
                    facts.extend(spent);
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
        e.in_flight += 1;
        payment.resume = None;
        let payment = payment.clone();
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
    pub(super) fn requested(&mut self, tunnel: TunnelId, metered: u64, now: UnixMillis) -> bool {
        self.outbox
            .push_now(Output::Report(Report::Requested { tunnel, metered }));
        self.meter_told(tunnel, metered, now);
        true
    }

    fn meter_told(&mut self, tunnel: TunnelId, metered: u64, now: UnixMillis) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        if t.told(metered, now) {
            self.leave(tunnel);
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
        let took_ms = now.since(payment.started);
        t.payment_ms = (t.payment_ms + took_ms).div_ceil(2);
        let peer = t.guard();
        if let Some(e) = peer
            .and_then(|p| self.guards.get_mut(&p))
            .and_then(|g| g.get_mut(payment.escrow))
        {
            e.in_flight = e.in_flight.saturating_sub(1);
            e.books.known = true;
        }
        self.meter_told(tunnel, metered, now);
        self.outbox.push_now(Output::Report(Report::Paid {
            tunnel,
            n: payment.n,
            took_ms,
            metered,
        }));
        true
    }

    /// For the driver's tests and for people: a conversation that broke (a send failed) is a tunnel that is given up.
    pub fn conversation_failed(&mut self, tunnel: TunnelId) {
        self.give_up(tunnel, GiveUp::Silent);
    }
}
