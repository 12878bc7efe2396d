//! What is owed by trust, and what peers were paid lately, condensed.

use std::collections::BTreeMap;

use obol_cell::{AccountId, PeerId, Stroops, TransactionId};
use obol_toll::fact::{NodeFact, TrustFact};
use obol_toll::series::Series;

use super::add;

/// Days of which a relay remembers what it paid to a peer.
const WEEK: u64 = 7;
/// Payments to one peer that are remembered one by one when it has confirmed them.
const REMEMBERED: usize = 64;

/// Who owes us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Debtor {
    /// The newest statement, and its number and amount.
    stated: Option<(u32, Stroops, TrustFact)>,
    series: Series,
    allocated: Stroops,
    settled: BTreeMap<TransactionId, Stroops>,
    sealed: bool,
}

/// A payment to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Payment {
    batch: u64,
    account: AccountId,
    amount: Stroops,
    transaction: Option<TransactionId>,
    confirmed: bool,
}

/// Whom we owe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Creditor {
    account: Option<AccountId>,
    k: u32,
    cumulative: Stroops,
    old: Stroops,
    payments: Vec<Payment>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TrustState {
    debtors: BTreeMap<PeerId, Debtor>,
    creditors: BTreeMap<PeerId, Creditor>,
    next_batch: u64,
    /// What was paid since a backup was made is not known.
    unsure: bool,
    day: u64,
    volumes: BTreeMap<PeerId, BTreeMap<u64, Stroops>>,
}

impl TrustState {
    /// Takes in a fact; says by how much what we owe rose.
    pub(super) fn take(&mut self, fact: &TrustFact) -> Stroops {
        match *fact {
            TrustFact::Stated {
                peer, k, cumulative, ..
            } => {
                let debtor = self.debtors.entry(peer).or_default();
                debtor.series.mark(k);
                if debtor.stated.is_none_or(|(newest, ..)| k > newest) {
                    debtor.stated = Some((k, cumulative, *fact));
                }
            }
            TrustFact::Allocated { peer, amount, .. } => {
                add(&mut self.debtors.entry(peer).or_default().allocated, amount)
            }
            TrustFact::Spent { .. } => {}
            TrustFact::Settled {
                peer,
                transaction,
                amount,
            } => {
                let debtor = self.debtors.entry(peer).or_default();
                debtor.settled.insert(transaction, amount);
            }
            TrustFact::InState {
                peer,
                newest_k,
                ref seen,
                allocated,
            } => {
                let debtor = self.debtors.entry(peer).or_default();
                debtor.series = Series::from_bytes(newest_k, seen);
                debtor.allocated = allocated;
                debtor.sealed = false;
            }
            TrustFact::Agreed { peer, account } => {
                self.creditors.entry(peer).or_default().account = Some(account);
            }
            TrustFact::Signed { peer, k, cumulative } => {
                let creditor = self.creditors.entry(peer).or_default();
                let rise = cumulative.saturating_sub(creditor.cumulative);
                creditor.k = creditor.k.max(k);
                creditor.cumulative = creditor.cumulative.max(cumulative);
                self.volume_today(peer, rise);
                return rise;
            }
            TrustFact::Paying {
                batch,
                peer,
                account,
                amount,
            } => {
                self.next_batch = self.next_batch.max(batch.saturating_add(1));
                self.creditors.entry(peer).or_default().payments.push(Payment {
                    batch,
                    account,
                    amount,
                    transaction: None,
                    confirmed: false,
                });
            }
            TrustFact::Paid { batch, transaction } => {
                let payments = self.creditors.values_mut().flat_map(|c| &mut c.payments);
                for payment in payments.filter(|p| p.batch == batch) {
                    payment.transaction = Some(transaction);
                }
            }
            TrustFact::NotPaid { batch } => {
                for creditor in self.creditors.values_mut() {
                    creditor
                        .payments
                        .retain(|p| p.batch != batch || p.transaction.is_some());
                }
            }
            TrustFact::Confirmed { peer, transaction } => {
                if let Some(creditor) = self.creditors.get_mut(&peer) {
                    let of_it = |p: &&mut Payment| p.transaction == Some(transaction);
                    creditor
                        .payments
                        .iter_mut()
                        .filter(of_it)
                        .for_each(|p| p.confirmed = true);
                    while creditor.payments.len() > REMEMBERED && creditor.payments.first().is_some_and(|p| p.confirmed)
                    {
                        let payment = creditor.payments.remove(0);
                        add(&mut creditor.old, payment.amount);
                    }
                }
            }
            TrustFact::Found => self.unsure = false,
            TrustFact::OldPayments {
                peer,
                amount,
                next_batch,
            } => {
                self.next_batch = self.next_batch.max(next_batch);
                self.creditors.entry(peer).or_default().old = amount;
            }
        }
        Stroops::ZERO
    }

    pub(super) fn set_day(&mut self, day: u64) {
        self.day = day;
    }

    /// What is signed for a peer now counts for the day that was said last.
    pub(super) fn volume_today(&mut self, peer: PeerId, amount: Stroops) {
        if self.day > 0 {
            self.volume(peer, self.day, amount);
        }
    }

    pub(super) fn volume(&mut self, peer: PeerId, day: u64, amount: Stroops) {
        let days = self.volumes.entry(peer).or_default();
        let newest = days.keys().next_back().copied().unwrap_or(0).max(day);
        if newest - day < WEEK && !amount.is_zero() {
            add(days.entry(day).or_default(), amount);
        }
        days.retain(|day, _| newest - day < WEEK);
    }

    /// A new epoch began.
    pub(super) fn seal(&mut self) {
        self.debtors.values_mut().for_each(|debtor| debtor.sealed = true);
        self.unsure = !self.creditors.is_empty();
    }

    pub(super) fn has_settlement(&self, peer: &PeerId, transaction: &TransactionId) -> bool {
        let debtor = self.debtors.get(peer);
        debtor.is_some_and(|debtor| debtor.settled.contains_key(transaction))
    }

    /// Facts about those who owe us: those of an earlier epoch, or the others.
    pub(super) fn debtor_facts(&self, sealed: bool, facts: &mut Vec<NodeFact>) {
        for (peer, debtor) in self.debtors.iter().filter(|(_, debtor)| debtor.sealed == sealed) {
            let peer = *peer;
            facts.extend(debtor.stated.map(|(_, _, stated)| NodeFact::Trust(stated)));
            facts.push(NodeFact::Trust(TrustFact::InState {
                peer,
                newest_k: debtor.series.newest(),
                seen: debtor.series.to_bytes(),
                allocated: debtor.allocated,
            }));
            facts.extend(debtor.settled.iter().map(|(&transaction, &amount)| {
                NodeFact::Trust(TrustFact::Settled {
                    peer,
                    transaction,
                    amount,
                })
            }));
        }
    }

    /// Facts about those whom we owe, if what was paid to them is as unsure as that.
    pub(super) fn creditor_facts(&self, unsure: bool, facts: &mut Vec<NodeFact>) {
        if self.unsure != unsure {
            return;
        }
        let mut trust = Vec::new();
        for (&peer, creditor) in &self.creditors {
            trust.extend(creditor.account.map(|account| TrustFact::Agreed { peer, account }));
            if creditor.k > 0 {
                trust.push(TrustFact::Signed {
                    peer,
                    k: creditor.k,
                    cumulative: creditor.cumulative,
                });
            }
            trust.push(TrustFact::OldPayments {
                peer,
                amount: creditor.old,
                next_batch: self.next_batch,
            });
            trust.extend(creditor.payments.iter().map(|p| TrustFact::Paying {
                batch: p.batch,
                peer,
                account: p.account,
                amount: p.amount,
            }));
        }
        let mut paid: BTreeMap<u64, TransactionId> = BTreeMap::new();
        for payment in self.creditors.values().flat_map(|creditor| &creditor.payments) {
            paid.extend(payment.transaction.map(|transaction| (payment.batch, transaction)));
        }
        trust.extend(
            paid.into_iter()
                .map(|(batch, transaction)| TrustFact::Paid { batch, transaction }),
        );
        for (&peer, creditor) in &self.creditors {
            let confirmed = creditor.payments.iter().filter(|p| p.confirmed);
            let confirmed = confirmed.filter_map(|p| p.transaction);
            trust.extend(confirmed.map(|transaction| TrustFact::Confirmed { peer, transaction }));
        }
        facts.extend(trust.into_iter().map(NodeFact::Trust));
    }

    /// Days come after all that is signed: it must not count for them again.
    pub(super) fn day_facts(&self, facts: &mut Vec<NodeFact>) {
        for (&peer, days) in &self.volumes {
            facts.extend(
                days.iter()
                    .map(|(&day, &amount)| NodeFact::Volume { peer, day, amount }),
            );
        }
        if self.day > 0 {
            facts.push(NodeFact::Day { day: self.day });
        }
    }
}
