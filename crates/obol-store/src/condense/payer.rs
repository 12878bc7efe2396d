//! A client's facts, condensed.

use obol_cell::{EscrowId, PeerId, Stroops, TransactionId};
use obol_toll::fact::PayerFact;

use super::{Condense, Outs};

/// What a client's facts come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PayerState {
    outs: Outs,
    spent: Option<Stroops>,
    /// The days on which something was spent, each with what was spent before: the newest 31 days' worth, so that a month is known.
    days: Vec<(u32, Stroops)>,
}

impl Condense for PayerState {
    type Fact = PayerFact;

    fn take(&mut self, fact: &PayerFact) {
        match fact {
            PayerFact::Out(fact) => self.outs.take(fact),
            PayerFact::Spent { total } => self.spent = Some(*total),
            PayerFact::Day { day, before } => {
                self.days.retain(|(known, _)| known.saturating_add(31) > *day);
                self.days.push((*day, *before));
            }
            PayerFact::NewEpoch => self.outs.seal(),
        }
    }

    fn facts(&self) -> Vec<PayerFact> {
        let mut facts: Vec<PayerFact> = self.outs.facts(true).into_iter().map(PayerFact::Out).collect();
        if !facts.is_empty() {
            facts.push(PayerFact::NewEpoch);
        }
        facts.extend(self.outs.facts(false).into_iter().map(PayerFact::Out));
        facts.extend(self.days.iter().map(|(day, before)| PayerFact::Day {
            day: *day,
            before: *before,
        }));
        facts.extend(self.spent.map(|total| PayerFact::Spent { total }));
        facts
    }

    fn forget(&mut self, time: u64) -> Vec<EscrowId> {
        self.outs.forget(time)
    }

    fn forget_these(&mut self, escrows: &[EscrowId]) {
        self.outs.0.retain(|(id, _)| !escrows.contains(id));
    }

    fn live(&self) -> Vec<EscrowId> {
        self.outs.live()
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

    fn is_settled(&self, _: &EscrowId) -> bool {
        // Nobody pays a client.
        false
    }

    fn has_settlement(&self, _: &PeerId, _: &TransactionId) -> bool {
        false
    }

    fn new_epoch(&self) -> Vec<PayerFact> {
        vec![PayerFact::NewEpoch]
    }
}
