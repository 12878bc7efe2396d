//! The ledger, as far as the machines can tell: escrows that open, pay out once, or are refunded after expiry.

use super::keys;
use crate::escrow::Escrow;
use obol_cell::{EscrowId, Signature, Stroops};
use std::collections::BTreeMap;

/// An escrow account.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) escrow: Escrow,
    pub(crate) deposit: Stroops,
    /// Highest sequence used by a claim, relative to S0.
    pub(crate) used: u32,
    /// Paid to the payee; back to the payer goes the rest.
    pub(crate) paid: Option<Stroops>,
}

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) sequence: u32,
    pub(crate) accounts: BTreeMap<EscrowId, Account>,
    /// What became of each claim that was submitted: asked again, it says the same.
    pub(crate) results: BTreeMap<(EscrowId, u32), Flushed>,
    /// The next so many flushes fail in a ledger (no trust line, say).
    pub(crate) failing: u32,
}

/// What a flush came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    Paid(Stroops),
    /// Its sequence is used up.
    Failed,
    /// Nothing to pay out of (refunded, or already flushed).
    Over,
}

impl Ledger {
    pub(crate) fn open(&mut self, escrow: &Escrow, deposit: Stroops) {
        let account = Account {
            escrow: *escrow,
            deposit,
            used: 0,
            paid: None,
        };
        self.accounts.entry(escrow.id()).or_insert(account);
    }

    pub(crate) fn flush(&mut self, escrow: &Escrow, k: u32, cumulative: Stroops, signature: &Signature) -> Flushed {
        let Some(account) = self.accounts.get_mut(&escrow.id()) else {
            return Flushed::Over;
        };
        let valid = account.escrow == *escrow && *signature == keys::claim(escrow, k, cumulative);
        assert!(valid, "a relay published a claim that the ledger refuses");
        if let Some(before) = self.results.get(&(escrow.id(), k)) {
            return *before;
        }
        if account.paid.is_some() {
            return Flushed::Over;
        }
        if k <= account.used {
            return Flushed::Failed;
        }
        assert!(cumulative <= account.deposit, "a claim above the escrow's balance");
        account.used = k;
        let result = if self.failing > 0 {
            self.failing -= 1;
            Flushed::Failed
        } else {
            account.paid = Some(cumulative);
            Flushed::Paid(cumulative)
        };
        self.results.insert((escrow.id(), k), result);
        result
    }

    /// Whether the refund succeeded now.
    pub(crate) fn refund(&mut self, escrow: &Escrow, signature: &Signature, time: u64) -> bool {
        let Some(account) = self.accounts.get_mut(&escrow.id()) else {
            return false;
        };
        assert_eq!(
            *signature,
            keys::refund(&account.escrow),
            "a refund that is not the one agreed on"
        );
        if account.paid.is_some() || time < escrow.terms.expiry {
            return false;
        }
        account.paid = Some(Stroops::ZERO);
        true
    }
}
