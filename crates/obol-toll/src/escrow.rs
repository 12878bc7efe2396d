//! Escrows as the machines see them (settlement.md).
//!
//! - the payee keeps the claims it stored, what it allocated of them, what is left;
//! - the payer keeps what it offered, opened, signed and closed.

pub(crate) mod incoming;
pub(crate) mod outgoing;

use obol_cell::{AccountId, EscrowId, EscrowTerms};

/// An escrow: its terms, and the payee's one-time signer that belongs to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Escrow {
    /// What both ends agreed on.
    pub terms: EscrowTerms,
    /// r.
    pub signer: AccountId,
}

impl Escrow {
    /// E.
    pub fn id(&self) -> EscrowId {
        self.terms.escrow
    }
}

/// Why a payee does not believe an escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotBelieved {
    /// No such account in a closed ledger (yet): the question may be asked again.
    #[error("no such escrow account on the ledger")]
    Absent,
    /// The ledger could not be asked, or is stale: the question may be asked again.
    #[error("the ledger could not be asked")]
    Unreachable,
    /// It is there and is not what was agreed (signers, thresholds, sequence, line, balance, entries): final.
    #[error("the escrow account is not what was agreed")]
    Wrong,
}
