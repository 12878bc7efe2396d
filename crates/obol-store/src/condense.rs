//! Many facts as few: what a checkpoint keeps of the facts before it.
//!
//! A state machine of obol-toll that is given the condensed facts is in the same state as one that is given all of them
//! (`restore.rs` there); so are the sums that people see. Circuits that ended are told as one made-up circuit
//! ([`BEFORE`]) that was given, spent and gave back what all of them did together.
//!
//! Condensing condensed facts changes nothing, so a checkpoint needs no other form than a list of facts.

mod node;
mod payer;
mod trust;

use std::fmt::Debug;

use obol_cell::{EscrowId, PeerId, Stroops, TransactionId};
use obol_toll::CircuitId;
use obol_toll::fact::OutFact;

pub use node::NodeState;
pub use payer::PayerState;

/// The circuit that stands for all that ended. The data plane counts circuits from 1 and never gets here.
pub(crate) const BEFORE: CircuitId = CircuitId(u64::MAX);

fn add(to: &mut Stroops, amount: Stroops) {
    *to = to.checked_add(amount).unwrap_or(Stroops::MAX);
}

/// Facts of one kind, condensed.
pub trait Condense: Default + Clone + Debug + PartialEq + Send + 'static {
    /// What is condensed.
    type Fact;

    /// Takes in the next fact.
    fn take(&mut self, fact: &Self::Fact);

    /// Facts that say the same, in an order in which they can be taken in again.
    fn facts(&self) -> Vec<Self::Fact>;

    /// Forgets the escrows that have ended and expired before `time` (unix seconds), and says which those are.
    fn forget(&mut self, time: u64) -> Vec<EscrowId>;

    /// Forgets these escrows.
    fn forget_these(&mut self, escrows: &[EscrowId]);

    /// Escrows that have not ended, in either direction.
    fn live(&self) -> Vec<EscrowId>;

    /// Escrows that this journal's owner pays by and that have not ended: on these nothing more is signed after an import.
    fn signing(&self) -> Vec<EscrowId>;

    /// The newest claim that was signed on an escrow of the owner's: its number and amount.
    fn signed(&self, escrow: &EscrowId) -> Option<(u32, Stroops)>;

    /// Whether an escrow of the owner's has ended.
    fn has_ended(&self, escrow: &EscrowId) -> bool;

    /// Whether an escrow that pays the owner has been settled.
    fn is_settled(&self, escrow: &EscrowId) -> bool;

    /// Whether a peer's payment of what it owes by trust is known.
    fn has_settlement(&self, peer: &PeerId, transaction: &TransactionId) -> bool;

    /// The facts that begin a new epoch (H13 in design-review.md), once these were restored from a backup.
    fn new_epoch(&self) -> Vec<Self::Fact>;
}

/// Where an outgoing escrow is in its life, as in obol-toll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutPhase {
    Opening,
    Open,
    Closing,
    Ended,
}

/// An escrow that we pay by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Out {
    accepted: OutFact,
    expiry: u64,
    opened: Option<Stroops>,
    k: u32,
    cumulative: Stroops,
    phase: OutPhase,
    paid: Stroops,
    /// It is of an earlier epoch.
    sealed: bool,
}

/// Outgoing escrows in the order in which they were accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Outs(Vec<(EscrowId, Out)>);

impl Outs {
    fn take(&mut self, fact: &OutFact) {
        match fact {
            OutFact::Accepted { escrow, .. } => {
                let new = Out {
                    accepted: *fact,
                    expiry: escrow.terms.expiry,
                    opened: None,
                    k: 0,
                    cumulative: Stroops::ZERO,
                    phase: OutPhase::Opening,
                    paid: Stroops::ZERO,
                    sealed: false,
                };
                match self.get(&escrow.id()) {
                    Some(known) => *known = new,
                    None => self.0.push((escrow.id(), new)),
                }
            }
            OutFact::Opened { escrow, balance } => {
                if let Some(out) = self.get(escrow) {
                    out.phase = OutPhase::Open;
                    out.opened = Some(*balance);
                }
            }
            OutFact::Abandoned { escrow } => self.0.retain(|(id, _)| id != escrow),
            OutFact::Signed { escrow, k, cumulative } => {
                if let Some(out) = self.get(escrow) {
                    out.k = out.k.max(*k);
                    out.cumulative = out.cumulative.max(*cumulative);
                }
            }
            OutFact::Closing { escrow } => {
                if let Some(out) = self.get(escrow)
                    && out.phase != OutPhase::Ended
                {
                    out.phase = OutPhase::Closing;
                }
            }
            OutFact::Ended { escrow, paid } => {
                if let Some(out) = self.get(escrow) {
                    out.phase = OutPhase::Ended;
                    out.paid = *paid;
                }
            }
        }
    }

    /// By how much the newest claim on `escrow` rises when `fact` is taken in.
    fn rise(&self, fact: &OutFact) -> Stroops {
        let OutFact::Signed { escrow, cumulative, .. } = fact else {
            return Stroops::ZERO;
        };
        self.find(escrow)
            .map_or(Stroops::ZERO, |out| cumulative.saturating_sub(out.cumulative))
    }

    /// The newest are asked for most often.
    fn get(&mut self, escrow: &EscrowId) -> Option<&mut Out> {
        let mut from_newest = self.0.iter_mut().rev();
        from_newest.find(|(id, _)| id == escrow).map(|(_, out)| out)
    }

    fn find(&self, escrow: &EscrowId) -> Option<&Out> {
        let mut from_newest = self.0.iter().rev();
        from_newest.find(|(id, _)| id == escrow).map(|(_, out)| out)
    }

    fn signed(&self, escrow: &EscrowId) -> Option<(u32, Stroops)> {
        let out = self.find(escrow)?;
        (out.k > 0).then_some((out.k, out.cumulative))
    }

    fn has_ended(&self, escrow: &EscrowId) -> bool {
        self.find(escrow).is_some_and(|out| out.phase == OutPhase::Ended)
    }

    /// Facts about those of earlier epochs, or about the others.
    fn facts(&self, sealed: bool) -> Vec<OutFact> {
        let mut facts = Vec::with_capacity(self.0.len() * 4);
        for (escrow, out) in self.0.iter().filter(|(_, out)| out.sealed == sealed) {
            let escrow = *escrow;
            facts.push(out.accepted);
            facts.extend(out.opened.map(|balance| OutFact::Opened { escrow, balance }));
            if out.k > 0 || !out.cumulative.is_zero() {
                facts.push(OutFact::Signed {
                    escrow,
                    k: out.k,
                    cumulative: out.cumulative,
                });
            }
            match out.phase {
                OutPhase::Opening | OutPhase::Open => {}
                OutPhase::Closing => facts.push(OutFact::Closing { escrow }),
                OutPhase::Ended => facts.push(OutFact::Ended { escrow, paid: out.paid }),
            }
        }
        facts
    }

    fn forget(&mut self, time: u64) -> Vec<EscrowId> {
        let mut forgotten = Vec::new();
        self.0.retain(|(id, out)| {
            let over = out.phase == OutPhase::Ended && out.expiry < time;
            if over {
                forgotten.push(*id);
            }
            !over
        });
        forgotten
    }

    fn live(&self) -> Vec<EscrowId> {
        let live = self.0.iter().filter(|(_, out)| out.phase != OutPhase::Ended);
        live.map(|(id, _)| *id).collect()
    }

    /// A new epoch began.
    fn seal(&mut self) {
        for (_, out) in &mut self.0 {
            out.sealed = true;
            if matches!(out.phase, OutPhase::Opening | OutPhase::Open) {
                out.phase = OutPhase::Closing;
            }
        }
    }

    fn payee(&self, escrow: &EscrowId) -> Option<PeerId> {
        match self.find(escrow)?.accepted {
            OutFact::Accepted { payee, .. } => Some(payee),
            _ => None,
        }
    }
}
