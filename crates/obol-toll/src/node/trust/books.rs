//! The books on both sides: the same live and on replay, and as facts again.

use super::Payment;
use crate::fact::{NodeFact, TrustFact};
use crate::keys::{PayeeKeys, PayerKeys};
use crate::node::Node;
use crate::series::Series;
use obol_cell::{AccountId, PeerId, Stroops, TransactionId};
use std::collections::BTreeSet;

impl<K: PayeeKeys + PayerKeys> Node<K> {
    pub(super) fn apply_stated(&mut self, fact: TrustFact) -> Stroops {
        let TrustFact::Stated {
            peer,
            k,
            cumulative,
            memo,
            signature,
        } = fact
        else {
            return Stroops::ZERO;
        };
        let d = self.trust.debtors.entry(peer).or_default();
        d.series.mark(k);
        if k <= d.k {
            return Stroops::ZERO;
        }
        let rise = cumulative.saturating_sub(d.cumulative);
        (d.k, d.cumulative) = (k, cumulative);
        (d.memo, d.signature) = (Some(memo), Some(signature));
        rise
    }

    pub(super) fn apply_settled(&mut self, peer: PeerId, transaction: TransactionId, amount: Stroops) {
        let d = self.trust.debtors.entry(peer).or_default();
        if d.transactions.insert(transaction, amount).is_none() {
            d.settled = d.settled.checked_add(amount).unwrap_or(Stroops::MAX);
        }
    }

    pub(super) fn apply_signed(&mut self, peer: PeerId, k: u32, cumulative: Stroops) -> Stroops {
        let c = self.trust.creditors.entry(peer).or_default();
        let rise = cumulative.saturating_sub(c.cumulative);
        c.k = c.k.max(k);
        c.cumulative = c.cumulative.max(cumulative);
        self.totals.signed = self.totals.signed.checked_add(rise).unwrap_or(Stroops::MAX);
        rise
    }

    pub(super) fn apply_paying(&mut self, batch: u64, peer: PeerId, account: AccountId, amount: Stroops) {
        self.trust.next_batch = self.trust.next_batch.max(batch.saturating_add(1));
        let c = self.trust.creditors.entry(peer).or_default();
        c.payments.push(Payment {
            batch,
            account,
            amount,
            transaction: None,
            confirmed: false,
        });
    }

    pub(super) fn apply_paid(&mut self, batch: u64, transaction: TransactionId) {
        for c in self.trust.creditors.values_mut() {
            for p in c.payments.iter_mut().filter(|p| p.batch == batch) {
                p.transaction = Some(transaction);
            }
        }
    }

    pub(super) fn apply_not_paid(&mut self, batch: u64) {
        for c in self.trust.creditors.values_mut() {
            c.payments.retain(|p| p.batch != batch || p.transaction.is_some());
        }
    }

    pub(super) fn apply_confirmed(&mut self, peer: PeerId, transaction: TransactionId) {
        if let Some(c) = self.trust.creditors.get_mut(&peer) {
            for p in c.payments.iter_mut().filter(|p| p.transaction == Some(transaction)) {
                p.confirmed = true;
            }
            c.forget_old();
        }
    }

    pub(in crate::node) fn replay_trust(&mut self, fact: TrustFact) {
        match fact {
            TrustFact::Stated { .. } => {
                self.apply_stated(fact);
            }
            TrustFact::Allocated { peer, amount, .. } => {
                let d = self.trust.debtors.entry(peer).or_default();
                d.allocated = d.allocated.checked_add(amount).unwrap_or(Stroops::MAX);
            }
            TrustFact::Spent { .. } => {}
            TrustFact::Settled {
                peer,
                transaction,
                amount,
            } => self.apply_settled(peer, transaction, amount),
            TrustFact::InState {
                peer,
                newest_k,
                seen,
                allocated,
            } => {
                let d = self.trust.debtors.entry(peer).or_default();
                d.series = Series::from_bytes(newest_k, &seen);
                d.allocated = allocated;
                d.sealed = false;
            }
            TrustFact::Agreed { peer, account } => {
                self.trust.creditors.entry(peer).or_default().account = Some(account);
            }
            TrustFact::Signed { peer, k, cumulative } => {
                let rise = self.apply_signed(peer, k, cumulative);
                self.replay_volume(peer, rise);
                // What the payee has of it unallocated is not known, until it says so.
                if let Some(c) = self.trust.creditors.get_mut(&peer) {
                    c.allocated = c.allocated.max(c.cumulative);
                }
            }
            TrustFact::Paying {
                batch,
                peer,
                account,
                amount,
            } => self.apply_paying(batch, peer, account, amount),
            TrustFact::Paid { batch, transaction } => self.apply_paid(batch, transaction),
            TrustFact::NotPaid { batch } => self.apply_not_paid(batch),
            TrustFact::Confirmed { peer, transaction } => self.apply_confirmed(peer, transaction),
            TrustFact::OldPayments {
                peer,
                amount,
                next_batch,
            } => {
                self.trust.next_batch = self.trust.next_batch.max(next_batch);
                self.trust.creditors.entry(peer).or_default().old = amount;
            }
            TrustFact::Found => self.trust.unsure = false,
        }
    }

    /// A new epoch. What a debtor stated since the backup is not known: it is told our books when it comes, and repeats its newest
    /// statement; what it cannot show to be free of that is taken as used up. What we paid since is not known, either.
    pub(in crate::node) fn seal_trust(&mut self) {
        for d in self.trust.debtors.values_mut() {
            d.sealed = true;
        }
        self.trust.unsure = !self.trust.creditors.is_empty();
    }

    /// Facts that give the books on debtors again: of those of an earlier epoch, or of the others.
    pub(in crate::node) fn debtor_facts(&self, sealed: bool) -> Vec<NodeFact> {
        let mut facts = Vec::new();
        for (&peer, d) in self.trust.debtors.iter().filter(|(_, d)| d.sealed == sealed) {
            if let (Some(memo), Some(signature)) = (d.memo, d.signature) {
                facts.push(TrustFact::Stated {
                    peer,
                    k: d.k,
                    cumulative: d.cumulative,
                    memo,
                    signature,
                });
            }
            facts.push(TrustFact::InState {
                peer,
                newest_k: d.series.newest(),
                seen: d.series.to_bytes(),
                allocated: d.allocated,
            });
            facts.extend(d.transactions.iter().map(|(&transaction, &amount)| TrustFact::Settled {
                peer,
                transaction,
                amount,
            }));
        }
        facts.into_iter().map(NodeFact::Trust).collect()
    }

    /// The same on those whom we owe, if what was paid to them is known as `unsure` says.
    pub(in crate::node) fn creditor_facts(&self, unsure: bool) -> Vec<NodeFact> {
        if self.trust.unsure != unsure {
            return Vec::new();
        }
        let mut facts = Vec::new();
        let next_batch = self.trust.next_batch;
        for (&peer, c) in &self.trust.creditors {
            facts.extend(c.account.map(|account| TrustFact::Agreed { peer, account }));
            if c.k > 0 {
                facts.push(TrustFact::Signed {
                    peer,
                    k: c.k,
                    cumulative: c.cumulative,
                });
            }
            facts.push(TrustFact::OldPayments {
                peer,
                amount: c.old,
                next_batch,
            });
            facts.extend(c.payments.iter().map(|p| TrustFact::Paying {
                batch: p.batch,
                peer,
                account: p.account,
                amount: p.amount,
            }));
        }
        let payments = self
            .trust
            .creditors
            .iter()
            .flat_map(|(peer, c)| c.payments.iter().map(|p| (*peer, p)));
        let mut paid = BTreeSet::new();
        for (_, p) in payments.clone() {
            if let Some(transaction) = p.transaction
                && paid.insert(p.batch)
            {
                let batch = p.batch;
                facts.push(TrustFact::Paid { batch, transaction });
            }
        }
        for (peer, p) in payments.filter(|(_, p)| p.confirmed) {
            facts.extend(
                p.transaction
                    .map(|transaction| TrustFact::Confirmed { peer, transaction }),
            );
        }
        facts.into_iter().map(NodeFact::Trust).collect()
    }
}
