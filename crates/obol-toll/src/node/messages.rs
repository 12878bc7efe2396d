//! The client's messages to this hop (52), and the one answer to each that asks.

use super::circuit::{LISTEN_MS, Listen, Order, Phase};
use super::settle::is_conversion;
use super::{DAY, Node, Output, Report, Timer};
use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::ids::CircuitId;
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{DeclineCode, Declined, Forward, LowWater, Pay, Quote, RefuseCode, ToNode, ToOrigin};

impl<K: PayeeKeys + PayerKeys> Node<K> {
    pub(super) fn message(&mut self, now: UnixMillis, circuit: CircuitId, body: &[u8], metered: u64) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        c.meter(metered);
        if c.dead {
            return;
        }
        if !c.messages.take(c.metered, now) {
            return self.destroy(circuit);
        }
        let hop_1 = c.from.is_none();
        let Ok(message) = ToNode::decode(body) else {
            return self.destroy(circuit);
        };
        match message {
            ToNode::QuoteQuery => self.quote(now, circuit),
            ToNode::Listen { id, low } => self.listen(now, circuit, id, low),
            ToNode::Cancel { id } => self.cancel(circuit, id),
            ToNode::Pay(pay) => self.pay(now, circuit, &pay),
            // Only a client's own neighbour has escrows with it.
            _ if !hop_1 => self.destroy(circuit),
            ToNode::OfferEscrow(offer) => self.client_offer(now, circuit, &offer),
            ToNode::BalanceQuery { escrow, opening, owner } => {
                self.balance_query(now, circuit, escrow, opening, &owner)
            }
            ToNode::CloseEscrow { escrow, final_k, owner } => {
                self.client_close(now, circuit, escrow, final_k, &owner);
            }
        }
    }

    fn quote(&mut self, now: UnixMillis, circuit: CircuitId) {
        let Some(c) = self.circuits.get(&circuit) else {
            return;
        };
        let next = c.next.is_some_and(|(link, _)| self.can_pay_next(now, link));
        // What is only owed is not passed on [2.22].
        let next = next && !c.from.is_some_and(|peer| self.pays_by_trust(peer));
        self.quoted_on = Some(now.secs() / DAY);
        let tariff = self.config.tariff;
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        // A circuit that is older than this day, and has paid nothing yet, gets what all are told today.
        if c.payment.n == 0 {
            c.tariff = tariff;
        }
        let quote = Quote {
            tariff: c.tariff,
            next,
            credit: c.credit(),
            valid_until: (now.secs() / DAY + 1) * DAY,
        };
        self.answer(circuit, &ToOrigin::Quote(quote));
    }

    pub(super) fn decline(&mut self, circuit: CircuitId, code: DeclineCode) {
        self.answer(circuit, &ToOrigin::Declined(Declined { code }));
    }

    fn listen(&mut self, now: UnixMillis, circuit: CircuitId, id: u16, low: LowWater) {
        let until = now.plus(LISTEN_MS);
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        let before = c.listen.replace(Listen { id, low, until });
        if let Some(before) = before {
            // Every question gets its answer, also one that a later one made pointless.
            self.answer(circuit, &ToOrigin::Nothing { id: before.id });
        }
        self.at(until, Timer::Listen(circuit, id));
        self.check_listen(circuit);
    }

    /// Answers an open `Listen` if credit is below its mark; else asks the data plane to say when it is.
    pub(super) fn check_listen(&mut self, circuit: CircuitId) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        let Some(listen) = c.listen else {
            return;
        };
        let (metered, paid, credit) = (c.metered, c.bought, c.credit());
        if credit >= listen.low.bytes() {
            // Behind the grants that are on their way, or the mark would be passed at once.
            self.out.push(Output::Watch {
                circuit,
                below: listen.low.bytes(),
            });
            return;
        }
        c.listen = None;
        self.report(Report::Requested { circuit, metered });
        self.answer(
            circuit,
            &ToOrigin::PaymentRequest {
                id: listen.id,
                metered,
                paid,
                credit,
            },
        );
    }

    fn cancel(&mut self, circuit: CircuitId, id: u16) {
        if let Some(c) = self.circuits.get_mut(&circuit)
            && c.listen.is_some_and(|l| l.id == id)
        {
            c.listen = None;
            self.answer(circuit, &ToOrigin::Nothing { id });
        }
    }

    pub(super) fn listen_over(&mut self, now: UnixMillis, circuit: CircuitId, id: u16) {
        if let Some(c) = self.circuits.get_mut(&circuit)
            && c.listen.is_some_and(|l| l.id == id && l.until <= now)
        {
            c.listen = None;
            self.answer(circuit, &ToOrigin::Nothing { id });
        }
    }

    fn pay(&mut self, now: UnixMillis, circuit: CircuitId, pay: &Pay) {
        let Some(c) = self.circuits.get_mut(&circuit) else {
            return;
        };
        // The claim is hop 1's, always, and nobody else's.
        if pay.claim.is_some() != c.from.is_none() {
            return self.destroy(circuit);
        }
        let last = pay.forward == Forward::Last;
        if last {
            // A payment ends an open Listen without an answer: its own is the one answer.
            c.listen = None;
        }
        let order = Order {
            step: pay.step,
            forward: pay.forward,
        };
        let n = c.payment.n;
        if pay.n < n {
            if last {
                let refused = ToOrigin::Refused {
                    n: pay.n,
                    distance: 0,
                    code: RefuseCode::Failed,
                };
                self.answer(circuit, &refused);
            }
            return;
        }
        if pay.n > n {
            c.begin(pay.n);
        }
        match c.payment.phase {
            Phase::Done if defects::on(Defect::CreditTwice) => {
                let part = c.forwarded.part(
                    c.tariff.price,
                    c.tariff.forward_ppm,
                    order.step,
                    obol_cell::Stroops::ZERO,
                );
                if part.is_some() {
                    c.bought += order.step.bytes();
                    self.out.push(Output::Grant {
                        circuit,
                        bytes: order.step.bytes(),
                    });
                }
            }
            Phase::Done => {
                if let (true, Some(answer)) = (last, c.payment.answer.clone()) {
                    self.answer_bytes(circuit, answer);
                } else if last {
                    let refused = ToOrigin::Refused {
                        n: pay.n,
                        distance: 0,
                        code: RefuseCode::Failed,
                    };
                    self.answer(circuit, &refused);
                }
            }
            // The other half is awaited already; the question that is open will be answered once.
            Phase::AwaitMoney { .. } => {}
            // What is held here becomes credit, whatever the hop before said of this payment.
            Phase::RefusedBefore { .. } | Phase::Refused { .. } if is_conversion(&order) => {
                c.payment.phase = Phase::AwaitMoney { order, resumed: true };
                self.await_money(now, circuit, pay);
            }
            Phase::RefusedBefore { distance, code } => {
                c.payment.phase = Phase::AwaitMoney { order, resumed: false };
                self.refuse(circuit, distance, code, true);
            }
            Phase::AwaitPay { arrived } => {
                c.payment.phase = Phase::AwaitMoney { order, resumed: false };
                self.money(circuit, arrived);
            }
            Phase::Idle => {
                c.payment.phase = Phase::AwaitMoney { order, resumed: false };
                self.await_money(now, circuit, pay);
            }
            Phase::Refused { again, .. } => {
                c.payment.phase = Phase::AwaitMoney { order, resumed: true };
                match again {
                    Some((distance, code)) => self.refuse(circuit, distance, code, true),
                    None => self.await_money(now, circuit, pay),
                }
            }
        }
    }

    pub(super) fn count_refusal(&mut self, code: RefuseCode) {
        self.report(Report::Refused { code });
    }
}
