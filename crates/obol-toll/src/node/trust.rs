//! Legs that are owed instead of secured, on both sides (settlement.md "Two backings", ADR 39).
//!
//! ```text
//!  payer                                              payee
//!   |  <-- LegTrusted: account, limit, books ---------- |   after the hellos, if the payer is on its list
//!   |  --- LegTrust k: owed in all, allocations ------> |   stored, then credited: this hop's own bytes only
//!   |        at a random time of each period:           |
//!   |  PayOwed (up to 100 payees in one transaction)    |
//!   |  --- LegPaid: transaction, amount --------------> |   CheckPayment: is it in a closed ledger, as announced?
//!   |  <-- LegSettled ---------------------------------- |   counts once
//! ```
//!
//! | | |
//! |---|---|
//! | a statement that falls, or whose k was seen | not stored; the payer is told the books |
//! | more unsettled than `max_unsettled` | not stored; the payer is told the books |
//! | the payer knows less than it signed (a backup) | its own signature in the payee's books tells it |
//! | the payee knows less than was signed | the newest statement is repeated; what nobody knows to be free of it is taken as spent |
//! | a settlement announced twice | the stored answer |
//! | another memo, account, asset or amount | never counts |
//!
//! What is owed to us is not money that we hold: it is no part of what invariant 1 counts as incoming. What we owe is money out,
//! exactly like a signed claim.

mod books;
mod creditors;
mod debtors;

use super::Node;
use crate::clock::UnixMillis;
use crate::keys::{PayeeKeys, PayerKeys};
use crate::series::Series;
use crate::trust::Trusted;
use obol_cell::{AccountId, PeerId, SettlementMemo, Signature, Stroops, TransactionId};
use std::collections::BTreeMap;

/// Payments in one ledger transaction.
pub const PAYMENTS_IN_ONE: usize = 100;
/// Payments to one payee that it has not confirmed; with so many nothing more is paid, or owed, to it.
const MAX_UNCONFIRMED: usize = 16;
/// Confirmed payments to one payee that are remembered one by one, to be announced again should it forget them.
const REMEMBERED: usize = 64;

/// The settings of what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustConfig {
    /// What a relay that we trust may owe us, unless the list says otherwise.
    pub max_unsettled: Stroops,
    /// The most that we owe, to all payees together; nothing: we never owe.
    pub max_owed: Stroops,
    /// What we owe is paid once in each period of this length, at a random time, milliseconds (6 hours).
    pub period_ms: u64,
    /// Less than this is not worth a payment, and is left for the next period.
    pub min_payment: Stroops,
}

impl Default for TrustConfig {
    /// Nobody owes anything.
    fn default() -> Self {
        TrustConfig {
            max_unsettled: Stroops::ZERO,
            max_owed: Stroops::ZERO,
            period_ms: 21_600_000,
            min_payment: Stroops::ZERO,
        }
    }
}

/// Sums over the whole life of what is owed by trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrustTotals {
    /// Statements stored, of all payers.
    pub owed_to_us: Stroops,
    /// Of that, what the ledger has shown to be paid.
    pub settled: Stroops,
    /// Statements signed, to all payees.
    pub owed: Stroops,
    /// Of that, what was paid on the ledger.
    pub paid: Stroops,
}

/// What one relay owes us.
#[derive(Debug, Default)]
pub(super) struct Debtor {
    memo: Option<SettlementMemo>,
    series: Series,
    k: u32,
    cumulative: Stroops,
    signature: Option<Signature>,
    allocated: Stroops,
    settled: Stroops,
    transactions: BTreeMap<TransactionId, Stroops>,
    /// Settlements that are looked for: amount, looks so far, whether the driver was asked.
    checks: BTreeMap<TransactionId, (Stroops, u8, bool)>,
    /// Its books came with a backup: what it stated since is not known, nor what of that was used up.
    sealed: bool,
}

impl Debtor {
    fn unsettled(&self) -> Stroops {
        self.cumulative.saturating_sub(self.settled)
    }
}

/// A payment of ours.
#[derive(Debug, Clone, Copy)]
struct Payment {
    batch: u64,
    account: AccountId,
    amount: Stroops,
    /// `None`: on its way.
    transaction: Option<TransactionId>,
    confirmed: bool,
}

/// What we owe one relay.
#[derive(Debug, Default)]
pub(super) struct Creditor {
    account: Option<AccountId>,
    /// What it allows, as told on a link of this run.
    max_unsettled: Stroops,
    k: u32,
    cumulative: Stroops,
    allocated: Stroops,
    payments: Vec<Payment>,
    /// Payments that are not remembered one by one any more, all confirmed.
    old: Stroops,
    /// A transaction that paid it and others came to nothing: it is paid by one of its own. Forgotten at a restart, and found out anew.
    apart: bool,
}

impl Creditor {
    fn sum(&self, of: impl Fn(&Payment) -> bool) -> Stroops {
        let payments: Stroops = self.payments.iter().filter(|p| of(p)).map(|p| p.amount).sum();
        self.old.checked_add(payments).unwrap_or(Stroops::MAX)
    }

    /// What the payee has seen.
    fn confirmed(&self) -> Stroops {
        self.sum(|p| p.confirmed)
    }

    /// Paid, or about to be.
    fn paid(&self) -> Stroops {
        self.sum(|_| true)
    }

    fn unconfirmed(&self) -> usize {
        self.payments.iter().filter(|p| !p.confirmed).count()
    }

    /// What it counts, or will count, as unsettled.
    fn unsettled(&self) -> Stroops {
        self.cumulative.max(self.allocated).saturating_sub(self.confirmed())
    }

    /// What it holds of our statements that no circuit has.
    fn free(&self) -> Stroops {
        self.cumulative.saturating_sub(self.allocated)
    }

    fn forget_old(&mut self) {
        while self.payments.len() > REMEMBERED && self.payments.first().is_some_and(|p| p.confirmed) {
            let p = self.payments.remove(0);
            self.old = self.old.checked_add(p.amount).unwrap_or(Stroops::MAX);
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Where we are paid, and who may owe us.
    account: Option<AccountId>,
    list: BTreeMap<PeerId, Trusted>,
    debtors: BTreeMap<PeerId, Debtor>,
    creditors: BTreeMap<PeerId, Creditor>,
    next_batch: u64,
    settle_at: Option<UnixMillis>,
    /// The books come out of a backup, and what was paid since is not known yet.
    unsure: bool,
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// Sums over the whole life of what is owed by trust.
    pub fn trust_totals(&self) -> TrustTotals {
        TrustTotals {
            owed_to_us: self.trust.debtors.values().map(|d| d.cumulative).sum(),
            settled: self.trust.debtors.values().map(|d| d.settled).sum(),
            owed: self.trust.creditors.values().map(|c| c.cumulative).sum(),
            paid: self
                .trust
                .creditors
                .values()
                .map(|c| c.sum(|p| p.transaction.is_some()))
                .sum(),
        }
    }
}
