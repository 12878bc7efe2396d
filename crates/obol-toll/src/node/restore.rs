//! Facts back into state, and state into facts.

use super::{Node, Totals};
use crate::defects::{self, Defect};
use crate::escrow::incoming::{Incoming, Phase, StoredClaim};
use crate::escrow::outgoing::Outgoing;
use crate::fact::{NodeFact, OutFact, Owner};
use crate::holdings::Holdings;
use crate::ids::CircuitId;
use crate::keys::{PayeeKeys, PayerKeys};
use crate::series::Series;
use obol_cell::{EscrowId, Stroops};
use std::collections::HashMap;

/// What is held for circuits that did not end.
type Held = HashMap<CircuitId, Holdings>;

impl<K: PayeeKeys + PayerKeys> Node<K> {
    pub(super) fn replay(&mut self, facts: impl IntoIterator<Item = NodeFact>) {
        let mut held = Held::new();
        for fact in facts {
            self.replay_one(fact, &mut held);
        }
        // The circuits of the last run are over, whether or not it could say so.
        self.end_all(&mut held);
    }

    /// Circuits do not outlive their process. What was held for a client's is its balance again; a relay's stays here.
    fn end_all(&mut self, held: &mut Held) {
        for (_, mut holdings) in held.drain() {
            for (escrow, amount) in holdings.drain() {
                if let Some(i) = self.incoming.get_mut(&escrow)
                    && i.owner == Owner::Client
                    && !defects::on(Defect::ForgetHeld)
                {
                    i.give_back(amount);
                    self.totals.held = self.totals.held.saturating_sub(amount);
                }
            }
        }
    }

    /// What is known is a backup's: nothing more is signed or credited on it.
    pub(super) fn begin_epoch(&mut self) {
        self.incoming.values_mut().for_each(Incoming::seal);
        self.outgoing.values_mut().for_each(Outgoing::seal);
        self.seal_trust();
    }

    fn replay_one(&mut self, fact: NodeFact, held: &mut Held) {
        let add = |to: &mut Stroops, amount: Stroops| *to = to.checked_add(amount).unwrap_or(Stroops::MAX);
        match fact {
            NodeFact::Restarted => self.end_all(held),
            NodeFact::Believed {
                escrow,
                owner,
                balance,
                margin,
            } => {
                self.incoming
                    .insert(escrow.id(), Incoming::new(escrow, owner, balance, margin));
            }
            NodeFact::Claim {
                escrow,
                k,
                cumulative,
                signature,
            } => {
                if let Some(i) = self.incoming.get_mut(&escrow) {
                    let rise = i.store(StoredClaim {
                        k,
                        cumulative,
                        signature,
                    });
                    add(&mut self.totals.claimed, rise);
                }
            }
            NodeFact::Allocated {
                escrow,
                circuit,
                amount,
                ..
            } => {
                if let Some(i) = self.incoming.get_mut(&escrow) {
                    i.allocate(amount);
                }
                held.entry(circuit).or_default().put(escrow, amount);
                add(&mut self.totals.held, amount);
            }
            NodeFact::Spent {
                circuit,
                earned,
                forwarded,
                ..
            } => {
                let total = earned.checked_add(forwarded).unwrap_or(Stroops::MAX);
                if let Some(holdings) = held.get_mut(&circuit) {
                    holdings.take(total);
                }
                self.totals.held = self.totals.held.saturating_sub(total);
                add(&mut self.totals.earned, earned);
            }
            NodeFact::Returned {
                escrow,
                circuit,
                amount,
            } => {
                if let Some(i) = self.incoming.get_mut(&escrow) {
                    i.give_back(amount);
                }
                // First what was held, then what was bought and not used.
                let from_held = held
                    .get_mut(&circuit)
                    .map_or(Stroops::ZERO, |h| h.take_of(escrow, amount));
                self.totals.held = self.totals.held.saturating_sub(from_held);
                let from_earned = amount.saturating_sub(from_held);
                self.totals.earned = self.totals.earned.saturating_sub(from_earned);
            }
            NodeFact::CircuitEnded { circuit } => {
                held.remove(&circuit);
            }
            NodeFact::InClosing { escrow } => self.phase(escrow, Phase::Closing),
            NodeFact::Flushing { escrow, k } => {
                if let Some(i) = self.incoming.get_mut(&escrow) {
                    i.phase = Phase::Flushing { k };
                    i.flushing = i.claim(k);
                }
            }
            NodeFact::FlushFailed { escrow, k } => self.phase(escrow, Phase::FlushFailed { k }),
            NodeFact::Settled { escrow, .. } => self.phase(escrow, Phase::Settled),
            NodeFact::IncomingState {
                escrow,
                newest_k,
                seen,
                allocated,
            } => {
                if let Some(i) = self.incoming.get_mut(&escrow) {
                    i.series = Series::from_bytes(newest_k, &seen);
                    i.allocated = allocated;
                }
            }
            NodeFact::Totals {
                claimed,
                signed,
                held,
                earned,
            } => {
                self.totals = Totals {
                    claimed,
                    signed,
                    held,
                    earned,
                };
            }
            NodeFact::Out(out) => self.replay_out(&out),
            NodeFact::Trust(fact) => self.replay_trust(fact),
            NodeFact::Day { day } => self.day = day,
            NodeFact::Volume { peer, day, amount } => self.volumes.entry(peer).or_default().add(day, amount),
            NodeFact::NewEpoch => self.begin_epoch(),
        }
    }

    fn phase(&mut self, escrow: EscrowId, phase: Phase) {
        if let Some(i) = self.incoming.get_mut(&escrow) {
            i.phase = phase;
        }
    }

    fn replay_out(&mut self, fact: &OutFact) {
        let escrow = match fact {
            OutFact::Accepted { escrow, payee, .. } => {
                if let Some(outgoing) = Outgoing::accepted(fact) {
                    self.outgoing.insert(escrow.id(), outgoing);
                    self.by_payee.entry(*payee).or_default().push(escrow.id());
                }
                return;
            }
            OutFact::Abandoned { escrow } => {
                if let Some(o) = self.outgoing.remove(escrow)
                    && let Some(escrows) = self.by_payee.get_mut(&o.payee)
                {
                    escrows.retain(|e| e != escrow);
                }
                return;
            }
            OutFact::Opened { escrow, .. }
            | OutFact::Signed { escrow, .. }
            | OutFact::Closing { escrow }
            | OutFact::Ended { escrow, .. } => escrow,
        };
        if let Some(o) = self.outgoing.get_mut(escrow) {
            let before = o.cumulative;
            o.apply(fact);
            let (payee, rise) = (o.payee, o.cumulative.saturating_sub(before));
            self.replay_volume(payee, rise);
            self.totals.signed = self.totals.signed.checked_add(rise).unwrap_or(Stroops::MAX);
        }
    }

    /// Facts that restore the present state, to replace all of the journal's by when it is compacted; `None` while facts are
    /// on their way to the journal.
    pub fn snapshot(&self) -> Option<Vec<NodeFact>> {
        if !self.out.is_settled() {
            return None;
        }
        let mut facts = Vec::new();
        let mut live = HashMap::new();
        let mut live_held = Stroops::ZERO;
        for (circuit, c) in &self.circuits {
            for (escrow, amount) in c.held.iter() {
                let sum: &mut Stroops = live.entry(escrow).or_default();
                *sum = sum.checked_add(amount).unwrap_or(Stroops::MAX);
                live_held = live_held.checked_add(amount).unwrap_or(Stroops::MAX);
                facts.push(NodeFact::Allocated {
                    escrow,
                    circuit: *circuit,
                    n: c.payment.n,
                    amount,
                });
            }
        }
        // Those of earlier epochs first, then the epoch, then the others.
        let mut first = Vec::with_capacity(self.incoming.len() * 3);
        for sealed in [true, false] {
            self.escrow_facts(sealed, &live, &mut first);
            first.extend(self.debtor_facts(sealed));
            first.extend(self.creditor_facts(sealed));
            if sealed && !first.is_empty() {
                first.push(NodeFact::NewEpoch);
            }
        }
        // After all sums: these are not volumes of any day.
        first.extend(self.volumes.iter().flat_map(|(peer, week)| week.facts(*peer)));
        if self.day > 0 {
            first.push(NodeFact::Day { day: self.day });
        }
        let Totals {
            claimed,
            signed,
            held,
            earned,
        } = self.totals;
        first.push(NodeFact::Totals {
            claimed,
            signed,
            held: held.saturating_sub(live_held),
            earned,
        });
        first.append(&mut facts);
        Some(first)
    }

    /// Facts that restore the escrows of earlier epochs, or the others. `live`: what is held for circuits that are open.
    fn escrow_facts(&self, sealed: bool, live: &HashMap<EscrowId, Stroops>, first: &mut Vec<NodeFact>) {
        for (id, i) in self.incoming.iter().filter(|(_, i)| i.sealed == sealed) {
            first.push(NodeFact::Believed {
                escrow: i.escrow,
                owner: i.owner,
                balance: i.balance,
                margin: i.margin,
            });
            // In the order in which they came, and the flush right after its claim.
            let mut claims: Vec<StoredClaim> = [i.first, i.flushing, i.newest].into_iter().flatten().collect();
            claims.sort_by_key(|claim| claim.k);
            claims.dedup();
            for claim in claims {
                let StoredClaim {
                    k,
                    cumulative,
                    signature,
                } = claim;
                first.push(NodeFact::Claim {
                    escrow: *id,
                    k,
                    cumulative,
                    signature,
                });
                if i.phase == (Phase::Flushing { k }) {
                    first.push(NodeFact::Flushing { escrow: *id, k });
                }
            }
            // What is held for live circuits is stated on its own, after this.
            let held = live.get(id).copied().unwrap_or(Stroops::ZERO);
            first.push(NodeFact::IncomingState {
                escrow: *id,
                newest_k: i.series.newest(),
                seen: i.series.to_bytes(),
                allocated: i.allocated.saturating_sub(held),
            });
            match i.phase {
                // Said above, with its claim.
                Phase::Open | Phase::Flushing { .. } => {}
                Phase::Closing => first.push(NodeFact::InClosing { escrow: *id }),
                Phase::FlushFailed { k } => first.push(NodeFact::FlushFailed { escrow: *id, k }),
                Phase::Settled => first.push(NodeFact::Settled {
                    escrow: *id,
                    amount: i.cumulative(),
                }),
            }
        }
        let outgoing = self.outgoing.values().filter(|o| o.sealed == sealed);
        first.extend(outgoing.flat_map(Outgoing::facts).map(NodeFact::Out));
    }
}
