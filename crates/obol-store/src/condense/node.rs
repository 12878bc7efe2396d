//! A relay's facts, condensed.

use std::collections::BTreeMap;

use obol_cell::{EscrowId, PeerId, Signature, Stroops, TransactionId};
use obol_toll::fact::{NodeFact, OutFact, Owner};
use obol_toll::series::Series;
use obol_toll::{CircuitId, Escrow};

use super::trust::TrustState;
use super::{BEFORE, Condense, Outs, add};

/// Where an incoming escrow is in its life, as in obol-toll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Flushing { k: u32 },
    FlushFailed { k: u32 },
    Settled { amount: Stroops },
}

/// An escrow that pays us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct In {
    escrow: Escrow,
    owner: Owner,
    balance: Stroops,
    margin: u32,
    newest: Option<(u32, Stroops, Signature)>,
    /// The first claim of the newest one's amount.
    first: Option<(u32, Stroops, Signature)>,
    series: Series,
    /// What circuits have or had of it, less what they gave back.
    allocated: Stroops,
    /// All that was ever allocated, and all that circuits gave back: for people's sums.
    ever: Stroops,
    returned: Stroops,
    phase: Phase,
    /// It is of an earlier epoch.
    sealed: bool,
}

/// What is held for one circuit, by escrow, oldest first; and its newest payment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Held {
    n: u16,
    parts: Vec<(EscrowId, Stroops)>,
}

impl Held {
    fn put(&mut self, escrow: EscrowId, amount: Stroops) {
        match self.parts.iter_mut().find(|(e, _)| *e == escrow) {
            Some((_, sum)) => add(sum, amount),
            None => self.parts.push((escrow, amount)),
        }
    }

    /// All of `amount`, oldest first, or nothing.
    fn take(&mut self, amount: Stroops) {
        let total: Stroops = self.parts.iter().map(|(_, sum)| *sum).sum();
        if total < amount {
            return;
        }
        let mut left = amount;
        for (_, sum) in &mut self.parts {
            let part = left.min(*sum);
            *sum = sum.saturating_sub(part);
            left = left.saturating_sub(part);
        }
        self.parts.retain(|(_, sum)| !sum.is_zero());
    }

    /// Up to `most` of what came from one escrow; says how much that was.
    fn take_of(&mut self, escrow: &EscrowId, most: Stroops) -> Stroops {
        let Some((_, sum)) = self.parts.iter_mut().find(|(e, _)| e == escrow) else {
            return Stroops::ZERO;
        };
        let part = most.min(*sum);
        *sum = sum.saturating_sub(part);
        self.parts.retain(|(_, sum)| !sum.is_zero());
        part
    }
}

/// Sums as obol-toll keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Totals {
    claimed: Stroops,
    signed: Stroops,
    held: Stroops,
    earned: Stroops,
}

/// Everything that was ever spent out of circuits: for people's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Spent {
    earned: Stroops,
    forwarded: Stroops,
    credit: u64,
}

/// What a relay's facts come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeState {
    incoming: BTreeMap<EscrowId, In>,
    outs: Outs,
    held: BTreeMap<CircuitId, Held>,
    totals: Totals,
    spent: Spent,
    trust: TrustState,
}

impl NodeState {
    /// Circuits do not outlive their process. What was held for a client's is its balance again; a relay's stays here.
    fn end_all(&mut self) {
        for (_, held) in std::mem::take(&mut self.held) {
            for (escrow, amount) in held.parts {
                if let Some(i) = self.incoming.get_mut(&escrow)
                    && i.owner == Owner::Client
                {
                    i.allocated = i.allocated.saturating_sub(amount);
                    self.totals.held = self.totals.held.saturating_sub(amount);
                }
            }
        }
    }

    fn phase(&mut self, escrow: &EscrowId, phase: Phase) {
        if let Some(i) = self.incoming.get_mut(escrow) {
            i.phase = phase;
        }
    }

    fn claim(&mut self, escrow: &EscrowId, k: u32, cumulative: Stroops, signature: Signature) {
        let Some(i) = self.incoming.get_mut(escrow) else { return };
        i.series.mark(k);
        if i.newest.is_some_and(|(newest, ..)| newest >= k) {
            return;
        }
        let before = i.newest.map_or(Stroops::ZERO, |(_, cumulative, _)| cumulative);
        let rise = cumulative.saturating_sub(before);
        add(&mut self.totals.claimed, rise);
        if i.first.is_none() || !rise.is_zero() {
            i.first = Some((k, cumulative, signature));
        }
        i.newest = Some((k, cumulative, signature));
    }
}

impl NodeState {
    /// Facts about escrows that pay us: those of earlier epochs, or the others. `live`: what circuits hold of them.
    fn incoming_facts(&self, sealed: bool, live: &BTreeMap<EscrowId, Stroops>, facts: &mut Vec<NodeFact>) {
        for (id, i) in self.incoming.iter().filter(|(_, i)| i.sealed == sealed) {
            let (escrow, held) = (*id, live.get(id).copied().unwrap_or(Stroops::ZERO));
            facts.push(NodeFact::Believed {
                escrow: i.escrow,
                owner: i.owner,
                balance: i.balance,
                margin: i.margin,
            });
            facts.push(NodeFact::Allocated {
                escrow,
                circuit: BEFORE,
                n: 0,
                amount: i.ever.saturating_sub(held),
            });
            facts.push(NodeFact::Returned {
                escrow,
                circuit: BEFORE,
                amount: i.returned,
            });
            let earlier = i.first.filter(|first| i.newest != Some(*first));
            let claims = [earlier, i.newest].into_iter().flatten();
            facts.extend(claims.map(|(k, cumulative, signature)| NodeFact::Claim {
                escrow,
                k,
                cumulative,
                signature,
            }));
            facts.push(NodeFact::IncomingState {
                escrow,
                newest_k: i.series.newest(),
                seen: i.series.to_bytes(),
                allocated: i.allocated.saturating_sub(held),
            });
            match i.phase {
                Phase::Open => {}
                Phase::Closing => facts.push(NodeFact::InClosing { escrow }),
                Phase::Flushing { k } => facts.push(NodeFact::Flushing { escrow, k }),
                Phase::FlushFailed { k } => facts.push(NodeFact::FlushFailed { escrow, k }),
                Phase::Settled { amount } => facts.push(NodeFact::Settled { escrow, amount }),
            }
        }
    }
}

impl Condense for NodeState {
    type Fact = NodeFact;

    fn take(&mut self, fact: &NodeFact) {
        match fact {
            NodeFact::Restarted => self.end_all(),
            NodeFact::Believed {
                escrow,
                owner,
                balance,
                margin,
            } => {
                let new = In {
                    escrow: *escrow,
                    owner: *owner,
                    balance: *balance,
                    margin: *margin,
                    newest: None,
                    first: None,
                    series: Series::default(),
                    allocated: Stroops::ZERO,
                    ever: Stroops::ZERO,
                    returned: Stroops::ZERO,
                    phase: Phase::Open,
                    sealed: false,
                };
                self.incoming.insert(escrow.id(), new);
            }
            NodeFact::Claim {
                escrow,
                k,
                cumulative,
                signature,
            } => self.claim(escrow, *k, *cumulative, *signature),
            NodeFact::Allocated {
                escrow,
                circuit,
                n,
                amount,
            } => {
                if let Some(i) = self.incoming.get_mut(escrow) {
                    add(&mut i.allocated, *amount);
                    add(&mut i.ever, *amount);
                }
                if !amount.is_zero() {
                    let held = self.held.entry(*circuit).or_default();
                    held.n = *n;
                    held.put(*escrow, *amount);
                }
                add(&mut self.totals.held, *amount);
            }
            NodeFact::Spent {
                circuit,
                earned,
                forwarded,
                credit,
                ..
            } => {
                let total = earned.checked_add(*forwarded).unwrap_or(Stroops::MAX);
                if let Some(held) = self.held.get_mut(circuit) {
                    held.take(total);
                    if held.parts.is_empty() {
                        self.held.remove(circuit);
                    }
                }
                self.totals.held = self.totals.held.saturating_sub(total);
                add(&mut self.totals.earned, *earned);
                add(&mut self.spent.earned, *earned);
                add(&mut self.spent.forwarded, *forwarded);
                self.spent.credit = self.spent.credit.saturating_add(*credit);
            }
            NodeFact::Returned {
                escrow,
                circuit,
                amount,
            } => {
                if let Some(i) = self.incoming.get_mut(escrow) {
                    i.allocated = i.allocated.saturating_sub(*amount);
                    add(&mut i.returned, *amount);
                }
                // First what was held, then what was bought and not used.
                let mut from_held = Stroops::ZERO;
                if let Some(held) = self.held.get_mut(circuit) {
                    from_held = held.take_of(escrow, *amount);
                    if held.parts.is_empty() {
                        self.held.remove(circuit);
                    }
                }
                self.totals.held = self.totals.held.saturating_sub(from_held);
                let from_earned = amount.saturating_sub(from_held);
                self.totals.earned = self.totals.earned.saturating_sub(from_earned);
            }
            NodeFact::CircuitEnded { circuit } => {
                self.held.remove(circuit);
            }
            NodeFact::InClosing { escrow } => self.phase(escrow, Phase::Closing),
            NodeFact::Flushing { escrow, k } => self.phase(escrow, Phase::Flushing { k: *k }),
            NodeFact::FlushFailed { escrow, k } => self.phase(escrow, Phase::FlushFailed { k: *k }),
            NodeFact::Settled { escrow, amount } => self.phase(escrow, Phase::Settled { amount: *amount }),
            NodeFact::Out(out) => {
                let rise = self.outs.rise(out);
                add(&mut self.totals.signed, rise);
                self.outs.take(out);
                if let OutFact::Signed { escrow, .. } = out
                    && let Some(payee) = self.outs.payee(escrow)
                {
                    self.trust.volume_today(payee, rise);
                }
            }
            NodeFact::Trust(fact) => {
                let rise = self.trust.take(fact);
                add(&mut self.totals.signed, rise);
            }
            NodeFact::Day { day } => self.trust.set_day(*day),
            NodeFact::Volume { peer, day, amount } => self.trust.volume(*peer, *day, *amount),
            NodeFact::NewEpoch => {
                for i in self.incoming.values_mut() {
                    i.sealed = true;
                    if i.phase == Phase::Open {
                        i.phase = Phase::Closing;
                    }
                }
                self.outs.seal();
                self.trust.seal();
            }
            NodeFact::Totals {
                claimed,
                signed,
                held,
                earned,
            } => {
                self.totals = Totals {
                    claimed: *claimed,
                    signed: *signed,
                    held: *held,
                    earned: *earned,
                };
            }
            NodeFact::IncomingState {
                escrow,
                newest_k,
                seen,
                allocated,
            } => {
                if let Some(i) = self.incoming.get_mut(escrow) {
                    i.series = Series::from_bytes(*newest_k, seen);
                    i.allocated = *allocated;
                }
            }
        }
    }

    fn facts(&self) -> Vec<NodeFact> {
        let mut live = BTreeMap::<EscrowId, Stroops>::new();
        let mut live_held = Stroops::ZERO;
        let mut held_facts = Vec::new();
        for (circuit, held) in &self.held {
            for (escrow, amount) in &held.parts {
                add(live.entry(*escrow).or_default(), *amount);
                add(&mut live_held, *amount);
                held_facts.push(NodeFact::Allocated {
                    escrow: *escrow,
                    circuit: *circuit,
                    n: held.n,
                    amount: *amount,
                });
            }
        }
        let mut facts = Vec::with_capacity(self.incoming.len() * 6 + held_facts.len() + 4);
        for sealed in [true, false] {
            self.incoming_facts(sealed, &live, &mut facts);
            facts.extend(self.outs.facts(sealed).into_iter().map(NodeFact::Out));
            self.trust.debtor_facts(sealed, &mut facts);
            self.trust.creditor_facts(sealed, &mut facts);
            if sealed && !facts.is_empty() {
                facts.push(NodeFact::NewEpoch);
            }
        }
        self.trust.day_facts(&mut facts);
        facts.push(NodeFact::Spent {
            circuit: BEFORE,
            n: 0,
            earned: self.spent.earned,
            forwarded: self.spent.forwarded,
            credit: self.spent.credit,
        });
        facts.push(NodeFact::CircuitEnded { circuit: BEFORE });
        let Totals {
            claimed,
            signed,
            held,
            earned,
        } = self.totals;
        facts.push(NodeFact::Totals {
            claimed,
            signed,
            held: held.saturating_sub(live_held),
            earned,
        });
        facts.append(&mut held_facts);
        facts
    }

    fn forget(&mut self, time: u64) -> Vec<EscrowId> {
        let mut forgotten = self.outs.forget(time);
        self.incoming.retain(|id, i| {
            let over = matches!(i.phase, Phase::Settled { .. }) && i.escrow.terms.expiry < time;
            if over {
                forgotten.push(*id);
            }
            !over
        });
        forgotten
    }

    fn forget_these(&mut self, escrows: &[EscrowId]) {
        self.outs.0.retain(|(id, _)| !escrows.contains(id));
        self.incoming.retain(|id, _| !escrows.contains(id));
    }

    fn live(&self) -> Vec<EscrowId> {
        let incoming = self.incoming.iter();
        let incoming = incoming.filter(|(_, i)| !matches!(i.phase, Phase::Settled { .. }));
        incoming.map(|(id, _)| *id).chain(self.outs.live()).collect()
    }

    fn signing(&self) -> Vec<EscrowId> {
        self.outs.live()
    }

    fn signed(&self, escrow: &EscrowId) -> Option<(u32, Stroops)> {
        self.outs.signed(escrow)
    }

    fn has_ended(&self, escrow: &EscrowId) -> bool {
        self.outs.has_ended(escrow)
    }

    fn is_settled(&self, escrow: &EscrowId) -> bool {
        let found = self.incoming.get(escrow);
        found.is_some_and(|i| matches!(i.phase, Phase::Settled { .. }))
    }

    fn has_settlement(&self, peer: &PeerId, transaction: &TransactionId) -> bool {
        self.trust.has_settlement(peer, transaction)
    }

    fn new_epoch(&self) -> Vec<NodeFact> {
        vec![NodeFact::NewEpoch]
    }
}
