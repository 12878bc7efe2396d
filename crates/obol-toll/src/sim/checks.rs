//! The invariants of payment-protocol.md, checked while a simulation runs.
//!
//! They are checked against what is *durable* and what was seen *on the wire*, never against what a machine believes.
//!
//! | invariant | where |
//! |---|---|
//! | 1 outgoing never exceeds stored incoming | `check_link_message`: at each `LegPay` that leaves, `check`: after every step |
//! | 2 credit only after its claim is durable | `check`: granted bytes against durable `Spent` facts |
//! | 3 at most one step with its forward part is lost per circuit | `check_loss`, when a tunnel ends and in between |
//! | 4 everything counts once | `durable_at_relay`: k, n; `check_answer`: answers per question |
//! | 5 bounded | `check`: circuits and tunnels that a machine knows; `check_left`: what is left when everything is over; `hostile.rs` |
//! | 6 nothing that links | `check_message`, `check_answer`: claims only to hop 1, one quote for all, all day |

use super::world::{Durable, Party, RelayId, Sim};
use crate::fact::{NodeFact, OutFact, Owner, PayerFact, TrustFact};
use crate::ids::{CircuitId, TunnelId};
use obol_cell::{EscrowId, Forward, LinkMessage, Stroops, ToNode, ToOrigin};

fn sum<'a>(amounts: impl Iterator<Item = &'a Stroops>) -> i128 {
    amounts.map(|a| i128::from(a.get())).sum()
}

impl Durable {
    /// Adds what became durable at relay `i`, which sells 64 KiB for `price`. Panics if it should never have.
    pub(crate) fn add(&mut self, i: RelayId, price: Stroops, fact: NodeFact) {
        let d = self;
        match fact {
            NodeFact::Claim {
                escrow,
                k,
                cumulative,
                signature,
            } => {
                assert!(
                    d.seen.entry(escrow).or_default().insert(k),
                    "relay {i} stored claim {k} twice"
                );
                let newest = d.claims.entry(escrow).or_insert((0, Stroops::ZERO, signature));
                if k > newest.0 {
                    assert!(cumulative >= newest.1, "a claim that falls was stored");
                    let rises = cumulative > newest.1;
                    assert!(
                        !(rises && d.flushing.contains_key(&escrow)),
                        "relay {i} took more money on a closing escrow"
                    );
                    *newest = (k, cumulative, signature);
                }
            }
            NodeFact::Allocated {
                escrow,
                circuit,
                amount,
                ..
            } => {
                *d.allocated.entry(escrow).or_default() += i128::from(amount.get());
                *d.held.entry(circuit).or_default() += i128::from(amount.get());
                d.paid_by.insert(circuit, escrow);
                *d.arrived.entry(circuit).or_default() += i128::from(amount.get());
                let covered = d.claims.get(&escrow).map_or(0, |c| i128::from(c.1.get()));
                assert!(
                    d.allocated[&escrow] <= covered,
                    "relay {i} gave out more than the claims cover"
                );
            }
            NodeFact::Spent {
                circuit,
                n,
                earned,
                forwarded,
                credit,
            } => {
                let numbers = d.spent.entry(circuit).or_default();
                assert!(
                    !numbers.contains(&n),
                    "relay {i} credited payment {n} of {circuit:?} twice"
                );
                numbers.push(n);
                let total = i128::from(earned.get()) + i128::from(forwarded.get());
                let held = d.held.entry(circuit).or_default();
                *held -= total;
                assert!(*held >= 0, "relay {i} sold more than arrived");
                *d.credit.entry(circuit).or_default() += credit;
                *d.spent_sum.entry(circuit).or_default() += total;
                d.earned += i128::from(earned.get());
                let cost = i128::from(price.get()) * i128::from(credit / obol_cell::UNIT);
                assert!(i128::from(earned.get()) >= cost, "relay {i} sold below its price");
            }
            NodeFact::Returned { escrow, amount, .. } => {
                d.returned += i128::from(amount.get());
                *d.allocated.entry(escrow).or_default() -= i128::from(amount.get());
                assert!(
                    d.allocated[&escrow] >= 0,
                    "relay {i} returned more than was ever assigned"
                );
            }
            NodeFact::Believed {
                escrow,
                owner: Owner::Client,
                ..
            } => {
                d.of_clients.insert(escrow.id());
            }
            NodeFact::Trust(TrustFact::Spent { circuit, n, credit, .. }) => {
                *d.credit.entry(circuit).or_default() += credit;
                d.spent.entry(circuit).or_default().push(n);
            }
            NodeFact::CircuitEnded { circuit } => {
                d.held.remove(&circuit);
            }
            // Circuits do not outlive a run: what was held for a client's is free again, and no fact says so.
            NodeFact::Restarted => {
                for (circuit, held) in std::mem::take(&mut d.held) {
                    let escrow = d.paid_by[&circuit];
                    if d.of_clients.contains(&escrow) {
                        *d.allocated.entry(escrow).or_default() -= held;
                    }
                }
            }
            NodeFact::Flushing { escrow, k } => {
                d.flushing.insert(escrow, k);
            }
            NodeFact::Out(OutFact::Signed { escrow, k, cumulative }) => {
                let before = d.signed.insert(escrow, (k, cumulative)).unwrap_or_default();
                assert!(
                    k > before.0 && cumulative >= before.1,
                    "relay {i} signed less than before"
                );
            }
            _ => {}
        }
    }

    /// What is to hold at any time: no more is given out than was paid in.
    pub(crate) fn check(&self, i: RelayId) {
        let claims = sum(self.claims.values().map(|(_, c, _)| c));
        let allocated: i128 = self.allocated.values().sum();
        assert!(allocated <= claims, "relay {i} gave out more than the claims cover");
        assert!(
            self.earned - self.returned <= claims,
            "relay {i} earned more than it was paid"
        );
        let signed = sum(self.signed.values().map(|(_, c)| c));
        assert!(signed <= claims, "relay {i} signed {signed} and was paid {claims}");
    }
}

impl Sim {
    pub(crate) fn durable_at_relay(&mut self, i: RelayId, fact: &[u8]) {
        let fact = NodeFact::decode(fact).expect("facts are read as they were written");
        let relay = &mut self.relays[i];
        let price = relay.config.tariff.price.stroops();
        relay.durable.add(i, price, fact);
    }

    pub(crate) fn durable_at_client(&mut self, i: usize, fact: &[u8]) {
        let fact = PayerFact::decode(fact).expect("facts are read as they were written");
        if let PayerFact::Out(OutFact::Signed { escrow, k, cumulative }) = fact {
            let before = self.clients[i]
                .signed
                .insert(escrow, (k, cumulative))
                .unwrap_or_default();
            assert!(
                k > before.0 && cumulative >= before.1,
                "client {i} signed less than before"
            );
        }
    }

    pub(crate) fn check_link_message(&mut self, i: RelayId, body: &[u8]) {
        let message = LinkMessage::decode(body).expect("a relay says what a relay can read");
        if let LinkMessage::LegPay(pay) = message {
            let r = &mut self.relays[i];
            let durable = r.durable.signed.get(&pay.escrow).copied().unwrap_or_default();
            assert!(
                pay.k <= durable.0 && pay.cumulative <= durable.1,
                "relay {i} sent a claim before it was durable"
            );
            let sent = r.sent.entry(pay.escrow).or_default();
            if pay.k >= sent.0 {
                assert!(pay.cumulative >= sent.1, "relay {i} signed less than it ever did");
                *sent = (pay.k, pay.cumulative);
            }
            self.check_forwarding(i);
        }
    }

    /// Invariant 1.
    fn check_forwarding(&self, i: RelayId) {
        let r = &self.relays[i];
        let outgoing = r.sent.values().map(|(_, c)| i128::from(c.get())).sum::<i128>();
        let incoming = r
            .durable
            .claims
            .values()
            .map(|(_, c, _)| i128::from(c.get()))
            .sum::<i128>();
        assert!(
            outgoing <= incoming,
            "relay {i} paid {outgoing} on and was paid {incoming}"
        );
    }

    pub(crate) fn check_message(&mut self, client: usize, tunnel: TunnelId, hop: u8, message: &ToNode) {
        if let ToNode::Pay(pay) = message {
            if pay.forward == Forward::Pass(Stroops::ZERO)
                && let Some(t) = self.tunnels.get_mut(&tunnel)
            {
                t.given_up.insert(pay.n);
            }
            assert_eq!(pay.claim.is_some(), hop == 1, "only hop 1 is told of a claim");
            if let (Some(claim), Some(t)) = (&pay.claim, self.tunnels.get_mut(&tunnel)) {
                let c = &mut self.clients[client];
                let durable = c.signed.get(&claim.escrow).copied().unwrap_or_default();
                assert!(
                    claim.k <= durable.0 && claim.cumulative <= durable.1,
                    "a claim left before it was durable"
                );
                let sent = c.sent.entry(claim.escrow).or_default();
                if claim.k >= sent.0 {
                    assert!(
                        claim.cumulative >= sent.1,
                        "client {client} signed less than it ever did"
                    );
                    t.signed += i128::from(claim.cumulative.get()) - i128::from(sent.1.get());
                    *sent = (claim.k, claim.cumulative);
                }
                let allocated = t.allocations.entry(pay.n).or_default();
                *allocated = claim.allocation.max(*allocated);
            }
        } else if hop > 1 {
            let neutral = matches!(
                message,
                ToNode::QuoteQuery | ToNode::Listen { .. } | ToNode::Cancel { .. }
            );
            assert!(neutral, "hop {hop} was told of an escrow");
        }
    }

    pub(crate) fn check_answer(&mut self, i: RelayId, circuit: CircuitId, body: &[u8]) {
        let answer = ToOrigin::decode(body).expect("a relay answers what a client can read");
        let c = &self.relays[i].circuits[&circuit];
        assert!(
            c.answers <= c.questions,
            "relay {i} answered more often than it was asked"
        );
        match answer {
            ToOrigin::Quote(quote) => {
                let day = self.now / 86_400_000;
                let first = self.quotes.entry((i, day)).or_insert(quote.tariff);
                assert_eq!(*first, quote.tariff, "relay {i} quotes differently on one day");
            }
            ToOrigin::Complete { n, .. } => {
                let sold = self.relays[i]
                    .durable
                    .spent
                    .get(&circuit)
                    .is_some_and(|s| s.contains(&n));
                assert!(
                    sold,
                    "relay {i} said that payment {n} is complete before it was durable"
                );
            }
            ToOrigin::Balance(balance) => {
                assert!(balance.unallocated <= balance.cumulative);
            }
            _ => {}
        }
    }

    pub(crate) fn check_flush(&mut self, i: RelayId, escrow: EscrowId, k: u32) {
        assert_eq!(
            self.relays[i].durable.flushing.get(&escrow),
            Some(&k),
            "a flush was asked for before it was recorded"
        );
    }

    /// A machine that was told the time is not due again at that time: its driver would spin.
    pub(crate) fn check_awake(&self, party: Party) {
        let due = match party {
            Party::Relay(i) => self.relays[i].node.as_ref().and_then(|n| n.next_wake()),
            Party::Client(i) => self.clients[i].payer.as_ref().and_then(|p| p.next_wake()),
        };
        assert!(due.is_none_or(|at| at > self.time_of(party)), "{party:?} would spin");
    }

    /// After every step.
    pub(crate) fn check(&mut self) {
        for i in 0..self.relays.len() {
            self.check_forwarding(i);
            let r = &self.relays[i];
            for (id, c) in &r.circuits {
                let bought = c.granted - c.initial;
                let durable = r.durable.credit.get(id).copied().unwrap_or(0);
                assert!(
                    bought <= durable,
                    "relay {i} gave {bought} bytes of credit, paid for are {durable}"
                );
            }
            r.durable.check(i);
            if let Some(node) = &r.node {
                let totals = node.totals();
                assert!(
                    totals.signed <= totals.claimed,
                    "relay {i} signed more than it was paid"
                );
                let known = node.sizes().circuits;
                assert!(
                    known <= r.circuits.len(),
                    "relay {i} remembers {known} circuits of {}",
                    r.circuits.len()
                );
            }
        }
        for (i, c) in self.clients.iter().enumerate() {
            let known = c.payer.as_ref().map_or(0, |p| p.tunnel_count());
            let open = self.tunnels.values().filter(|t| t.client == i).count();
            assert!(known <= open, "client {i} remembers {known} tunnels of {open}");
        }
        let tunnels: Vec<_> = self.tunnels.keys().copied().collect();
        for tunnel in tunnels {
            self.check_loss(tunnel);
        }
    }

    /// When all tunnels have ended and the last timers ran out: nothing of them is left at any relay.
    pub(crate) fn check_left(&self) {
        assert!(self.tunnels.is_empty(), "{} tunnels are still open", self.tunnels.len());
        for (i, r) in self.relays.iter().enumerate() {
            let Some(node) = &r.node else { continue };
            let sizes = node.sizes();
            assert_eq!((sizes.circuits, sizes.questions), (0, 0), "relay {i}");
            let things = sizes.escrows + r.links.len() + 2;
            assert!(
                sizes.timers <= 4 * things,
                "relay {i} has {} timers for {things} things",
                sizes.timers
            );
        }
    }

    /// Invariant 3. Of what reached hop 1 for this circuit, everything was sold by some hop of it, but the payment under way (its
    /// step, with its forward part) and those given up; and whoever lies, the client signed at most one payment for each hop
    /// that is not complete.
    fn check_loss(&self, tunnel: TunnelId) {
        let t = &self.tunnels[&tunnel];
        let Some((first, circuit)) = t.path.first() else {
            return;
        };
        let entrusted = self.relays[*first].durable.arrived.get(circuit).copied().unwrap_or(0);
        let most = sum(t.allocations.values().max().into_iter());
        let hops = t.path.len() as i128;
        assert!(
            sum(t.allocations.values()) - t.proven <= hops * most,
            "{tunnel:?}: {:?} allocated, {} proven, a payment is {most}",
            t.allocations,
            t.proven
        );
        if self.liar.is_some() {
            return;
        }
        let sold: i128 = t
            .path
            .iter()
            .map(|(r, c)| self.relays[*r].durable.spent_sum.get(c).copied().unwrap_or(0))
            .sum();
        let passed: i128 = t
            .path
            .iter()
            .skip(1)
            .map(|(r, c)| self.relays[*r].durable.arrived.get(c).copied().unwrap_or(0))
            .sum();
        // What hop 1 holds is the client's again when the circuit ends.
        let at_hop_1 = self.relays[*first].durable.held.get(circuit).copied().unwrap_or(0);
        assert!(
            at_hop_1 <= most,
            "{tunnel:?}: hop 1 holds {at_hop_1}, a payment is {most}"
        );
        let lost = entrusted + passed - sold - at_hop_1;
        assert!(
            lost <= (1 + t.given_up.len() as i128) * most,
            "{tunnel:?}: {lost} are on their way or held, a payment is {most}, {:?} were given up",
            t.given_up
        );
    }
}
