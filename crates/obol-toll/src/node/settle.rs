//! A payment's two halves meet: credit and pass on, or hold and refuse.
//!
//! Money is never returned upstream, for the hop that "refused" could cash it as well (2.1). It is *held* for its circuit:
//! a resumed payment uses it, `forward 0` turns it into credit, and when the circuit ends hop 1 gives it back to its client's
//! balance, while any other hop keeps it.

use super::circuit::{Circuit, HOLD_MS, Order, Payment, Phase};
use super::{Node, Output, Report, Timer};
use crate::amounts;
use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::escrow::incoming::ClaimError;
use crate::fact::{NodeFact, Owner};
use crate::ids::CircuitId;
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{Claim, EscrowId, Forward, LinkMessage, Pay, RefuseCode, Stroops, ToOrigin, UNIT};

/// What became of a claim that a `Pay` carried.
enum Taken {
    /// So much was allocated.
    Money(Stroops),
    /// Its k was seen: the same message again; what it brought is held.
    Before,
    /// The escrow is being read; the payment is tried again then.
    Later,
    /// No.
    Refused(RefuseCode),
}

impl Circuit {
    /// A higher n: whatever was in flight is given up (its money stays held).
    pub(super) fn begin(&mut self, n: u16) {
        self.payment = Payment {
            n,
            phase: Phase::Idle,
            answer: None,
        };
    }
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// The client's half is here, the phase is `AwaitMoney`: takes the claim, or waits for the hop before.
    pub(super) fn await_money(&mut self, now: UnixMillis, circuit: CircuitId, pay: &Pay) {
        match &pay.claim {
            Some(claim) => match self.take_claim(now, circuit, pay, claim) {
                Taken::Money(amount) => self.money(circuit, amount),
                Taken::Before => self.money(circuit, Stroops::ZERO),
                Taken::Later => self.at(now.plus(HOLD_MS), Timer::Hold(circuit, pay.n)),
                Taken::Refused(code) => self.refuse(circuit, 0, code, false),
            },
            None => {
                let Some(c) = self.circuits.get(&circuit) else {
                    return;
                };
                let Phase::AwaitMoney { order, resumed } = c.payment.phase else {
                    return;
                };
                // Converting what is held waits for nothing; a resumed payment may find its money here already.
                if is_conversion(&order)
                    || (resumed
                        && self
                            .needs(circuit, &order)
                            .is_some_and(|a| a <= c.at_hand(passed_on(&order))))
                {
                    return self.money(circuit, Stroops::ZERO);
                }
                self.at(now.plus(HOLD_MS), Timer::Hold(circuit, pay.n));
            }
        }
    }

    /// Hop 1: the money is in the message.
    fn take_claim(&mut self, now: UnixMillis, circuit: CircuitId, pay: &Pay, claim: &Claim) -> Taken {
        let known = self.incoming.get(&claim.escrow).map(|i| i.owner == Owner::Client);
        if known != Some(true) {
            // A relay's, and one that there is not, are refused like a client's whose signature is wrong.
            let (k, sum, signature) = (claim.k, claim.cumulative, &claim.signature);
            let opening = claim
                .opening
                .filter(|o| known.is_none() && self.claim_is_signed(claim.escrow, o, k, sum, signature));
            return match opening {
                None => {
                    self.bad_signature_from_client(circuit);
                    Taken::Refused(RefuseCode::Failed)
                }
                Some(o) if self.read_for_payment(now, circuit, pay, claim.escrow, &o) => Taken::Later,
                Some(_) => Taken::Refused(RefuseCode::NoFunds),
            };
        }
        let allocations = claim.allocation;
        match self.claim(
            now,
            claim.escrow,
            None,
            claim.k,
            claim.cumulative,
            &claim.signature,
            allocations,
        ) {
            Ok(()) => {
                self.hold(circuit, claim.escrow, pay.n, claim.allocation);
                Taken::Money(claim.allocation)
            }
            Err(ClaimError::Seen) => Taken::Before,
            Err(ClaimError::Closing) => Taken::Refused(RefuseCode::Closing),
            Err(ClaimError::BadSignature) => {
                self.bad_signature_from_client(circuit);
                Taken::Refused(RefuseCode::Failed)
            }
            Err(ClaimError::TooLittle | ClaimError::OverBalance) => Taken::Refused(RefuseCode::NoFunds),
            Err(ClaimError::Falls | ClaimError::OutOfRange) => Taken::Refused(RefuseCode::Failed),
        }
    }

    /// Assigns a part of an escrow's claims to a circuit.
    pub(super) fn hold(&mut self, circuit: CircuitId, escrow: EscrowId, n: u16, amount: Stroops) {
        if amount.is_zero() {
            return;
        }
        if let Some(i) = self.incoming.get_mut(&escrow) {
            i.allocate(amount);
        }
        if let Some(c) = self.circuits.get_mut(&circuit) {
            c.held.put(escrow, amount);
            c.in_journal = true;
        }
        self.totals.held = self.totals.held.checked_add(amount).unwrap_or(Stroops::MAX);
        self.fact(NodeFact::Allocated {
            escrow,
            circuit,
            n,
            amount,
        });
    }

    /// Both halves are here; the money is held already. `arrived`: what came for this n just now.
    pub(super) fn money(&mut self, circuit: CircuitId, arrived: Stroops) {
        let Some(c) = self.circuits.get(&circuit) else {
            return;
        };
        let Phase::AwaitMoney { order, resumed } = c.payment.phase else {
            return;
        };
        if is_conversion(&order) {
            return self.convert(circuit);
        }
        match self.sell(circuit, &order, arrived, resumed) {
            Ok(()) => self.done(circuit, &order),
            Err(code) => {
                self.report(Report::Held { amount: arrived });
                self.refuse(circuit, 0, code, false);
            }
        }
    }

    /// a_i for this order now.
    fn needs(&self, circuit: CircuitId, order: &Order) -> Option<Stroops> {
        let c = self.circuits.get(&circuit)?;
        let forward = passed_on(order);
        c.forwarded
            .part(c.tariff.price, c.tariff.forward_ppm, order.step, forward)?
            .total()
    }

    fn sell(&mut self, circuit: CircuitId, order: &Order, arrived: Stroops, resumed: bool) -> Result<(), RefuseCode> {
        let c = self.circuits.get(&circuit).ok_or(RefuseCode::Failed)?;
        let (n, tariff) = (c.payment.n, c.tariff);
        let forward = passed_on(order);
        let part = c.forwarded.part(tariff.price, tariff.forward_ppm, order.step, forward);
        let part = part.ok_or(RefuseCode::Failed)?;
        let total = part.total().ok_or(RefuseCode::Failed)?;
        let earned = part.earned().ok_or(RefuseCode::Failed)?;
        // Exactly a_i; a resumed payment is taken out of what is held.
        let enough = if resumed {
            c.at_hand(forward) >= total
        } else {
            arrived == total
        };
        let in_part = defects::on(Defect::CreditPart) && arrived < total;
        if !(enough || in_part) {
            return Err(RefuseCode::Failed);
        }
        // Money that is secured by escrow leaves only against money that is (C2).
        if c.at_hand(forward) < total && !in_part {
            return Err(RefuseCode::NoFunds);
        }
        let grown = c.growth.allows(order.step, c.metered, c.unused(), tariff.max_step);
        if !grown && !defects::on(Defect::NoGrowth) {
            return Err(RefuseCode::OverLimit);
        }
        if forward > amounts::ceiling(tariff.forward_ceiling, order.step) {
            return Err(RefuseCode::OverLimit);
        }
        let leg = if forward.is_zero() {
            None
        } else {
            Some(self.reserve_next(circuit, forward)?)
        };

        let c = self.circuits.get_mut(&circuit).ok_or(RefuseCode::Failed)?;
        // What is only owed is used up first.
        let by_trust = if forward.is_zero() {
            c.owed.min(total)
        } else {
            Stroops::ZERO
        };
        c.owed = c.owed.saturating_sub(by_trust);
        let secured = total.saturating_sub(by_trust);
        let sources = match c.held.take(secured) {
            Some(sources) => sources,
            None => c.held.take(c.held.total()).unwrap_or_default(),
        };
        c.forwarded.book(&part);
        c.growth.book(order.step);
        c.bought = c.bought.saturating_add(order.step.bytes());
        c.messages.give_back();
        let from_client = c.from.is_none();
        if from_client {
            // What can go back later is at most what the step cost here; the newest money is taken to be the forwarded one.
            let mut own = part.cost;
            for (escrow, amount) in sources {
                let amount = amount.min(own);
                own = own.saturating_sub(amount);
                c.paid.put(escrow, amount);
            }
        }
        let credit = order.step.bytes();
        self.book_sale(circuit, n, (earned, forward), by_trust, credit);
        self.out.push(Output::Grant { circuit, bytes: credit });
        self.report(Report::Credited {
            step: order.step,
            earned,
            forwarded: forward,
            from_client,
        });
        if let Some(leg) = leg {
            self.pass_on(circuit, n, leg, forward);
            self.look_ahead(&leg);
        }
        Ok(())
    }

    /// `Pay {n, forward 0}`: everything held for this circuit becomes credit here, in whole units of 64 KiB.
    fn convert(&mut self, circuit: CircuitId) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        let n = c.payment.n;
        c.payment.phase = Phase::Done;
        let price = c.tariff.price.stroops();
        let all = c.at_hand(Stroops::ZERO);
        let Some((units, rest)) = all.div_rem(price) else {
            return;
        };
        let total = all.saturating_sub(rest);
        let by_trust = c.owed.min(total);
        let secured = total.saturating_sub(by_trust);
        let (Some(sources), Some(credit)) = (c.held.take(secured), units.checked_mul(UNIT)) else {
            return;
        };
        if units == 0 {
            return;
        }
        c.owed = c.owed.saturating_sub(by_trust);
        c.bought = c.bought.saturating_add(credit);
        if c.from.is_none() {
            for (escrow, amount) in sources {
                c.paid.put(escrow, amount);
            }
        }
        self.book_sale(circuit, n, (total, Stroops::ZERO), by_trust, credit);
        self.out.push(Output::Grant { circuit, bytes: credit });
    }

    /// Facts and sums of a sale: what escrow paid for, and apart from it what is only owed.
    fn book_sale(
        &mut self,
        circuit: CircuitId,
        n: u16,
        (earned, forwarded): (Stroops, Stroops),
        by_trust: Stroops,
        credit: u64,
    ) {
        let earned = earned.saturating_sub(by_trust);
        let secured = earned.checked_add(forwarded).unwrap_or(Stroops::MAX);
        self.totals.held = self.totals.held.saturating_sub(secured);
        self.totals.earned = self.totals.earned.checked_add(earned).unwrap_or(Stroops::MAX);
        let only_owed = secured.is_zero() && !by_trust.is_zero();
        if !by_trust.is_zero() {
            self.spend_owed(circuit, n, by_trust, if only_owed { credit } else { 0 });
        }
        if !only_owed {
            self.fact(NodeFact::Spent {
                circuit,
                n,
                earned,
                forwarded,
                credit,
            });
        }
    }

    fn done(&mut self, circuit: CircuitId, order: &Order) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        c.payment.phase = Phase::Done;
        if order.forward != Forward::Last {
            return;
        }
        let complete = ToOrigin::Complete {
            n: c.payment.n,
            metered: c.metered,
            paid: c.bought,
            credit: c.credit(),
        }
        .encode();
        c.payment.answer = Some(complete.clone());
        self.answer_bytes(circuit, complete);
    }

    /// Refuses the payment in flight, `distance` hops after its author (0: that is us). `by_link`: the hop before refused.
    pub(super) fn refuse(&mut self, circuit: CircuitId, distance: u8, code: RefuseCode, by_link: bool) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        let n = c.payment.n;
        let last = matches!(
            c.payment.phase,
            Phase::AwaitMoney {
                order: Order {
                    forward: Forward::Last,
                    ..
                },
                ..
            }
        );
        c.payment.phase = Phase::Refused {
            distance,
            code,
            by_link,
            again: None,
        };
        let next = c.next;
        if !by_link {
            self.count_refusal(code);
        }
        if defects::on(Defect::ReturnUpstream) && !by_link {
            self.defect_return_upstream(circuit);
        }
        if last {
            self.answer(circuit, &ToOrigin::Refused { n, distance, code });
        } else if let Some((link, id)) = next
            && self.links.get(&link).is_some_and(|l| l.payable().is_some())
        {
            let distance = distance.saturating_add(1);
            self.send_link(
                link,
                &LinkMessage::LegRefused {
                    circuit: id,
                    n,
                    distance,
                    code,
                },
            );
        }
    }

    /// Half of a payment was held for 4 s.
    pub(super) fn hold_over(&mut self, circuit: CircuitId, n: u16) {
        let Some(c) = self.circuits.get(&circuit) else {
            return;
        };
        if c.payment.n == n && matches!(c.payment.phase, Phase::AwaitMoney { .. } | Phase::AwaitPay { .. }) {
            self.refuse(circuit, 0, RefuseCode::Failed, false);
        }
    }

    /// Hop 1: a circuit ended; what is held for it and what it bought and did not use is the client's balance again.
    pub(super) fn return_to_client(&mut self, circuit: CircuitId, c: &mut Circuit) {
        let held = c.held.total();
        self.totals.held = self.totals.held.saturating_sub(held);
        for (escrow, amount) in c.held.drain().collect::<Vec<_>>() {
            self.give_back(circuit, escrow, amount);
        }
        let unused = c
            .tariff
            .price
            .stroops()
            .checked_mul(c.unused() / UNIT)
            .unwrap_or(Stroops::ZERO);
        for (escrow, amount) in c.paid.take_newest(unused) {
            self.totals.earned = self.totals.earned.saturating_sub(amount);
            self.give_back(circuit, escrow, amount);
        }
    }

    fn give_back(&mut self, circuit: CircuitId, escrow: EscrowId, amount: Stroops) {
        if let Some(i) = self.incoming.get_mut(&escrow) {
            i.give_back(amount);
            self.fact(NodeFact::Returned {
                escrow,
                circuit,
                amount,
            });
        }
    }

    pub(super) fn bad_signature_from_client(&mut self, circuit: CircuitId) {
        self.report(Report::BadSignature);
        if let Some((link, _)) = self.circuits.get(&circuit).map(|c| c.prev) {
            self.bad_signature(link);
        }
    }

    fn defect_return_upstream(&mut self, circuit: CircuitId) {
        let held: Vec<_> = self
            .circuits
            .get(&circuit)
            .map(|c| c.held.iter().collect())
            .unwrap_or_default();
        for (escrow, amount) in held {
            self.give_back(circuit, escrow, amount);
        }
    }
}

pub(super) fn is_conversion(order: &Order) -> bool {
    order.forward == Forward::Pass(Stroops::ZERO)
}

/// What an order passes on.
fn passed_on(order: &Order) -> Stroops {
    match order.forward {
        Forward::Last => Stroops::ZERO,
        Forward::Pass(amount) => amount,
    }
}
