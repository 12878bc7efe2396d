//! The payee's books on one escrow.
//!
//! ```text
//!  believed
//!     |
//!   Open --close asked, margin, limit--> Closing --due--> Flushing(k) --in a ledger--> Settled
//!     |                                     |               |    ^
//!     +-- claims: cumulative may rise       |        failed |    | a higher k is there
//!                                           |               v    |
//!                                           +--------> FlushFailed(k)
//! ```
//! From `Closing` on only *draws* are taken: claims of unchanged cumulative amount that assign the unallocated balance.
//!
//! | claim | Open | Closing, Flushing, FlushFailed, Settled |
//! |---|---|---|
//! | k seen | `Seen` | `Seen` |
//! | cumulative falls with rising k | `Falls` | `Falls` |
//! | cumulative rises | stored | `Closing`, not stored |
//! | allocations above cumulative - allocated | `TooLittle` | `TooLittle` |

use crate::defects::{self, Defect};
use crate::escrow::Escrow;
use crate::fact::Owner;
use crate::keys::PayeeKeys;
use crate::series::{BadK, Series};
use obol_cell::{Balance, EscrowState, Signature, Stroops};

/// Where an incoming escrow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Closing,
    Flushing { k: u32 },
    FlushFailed { k: u32 },
    Settled,
}

/// Why a claim is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimError {
    Seen,
    OutOfRange,
    Falls,
    OverBalance,
    TooLittle,
    Closing,
    BadSignature,
}

/// The newest claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredClaim {
    pub(crate) k: u32,
    pub(crate) cumulative: Stroops,
    pub(crate) signature: Signature,
}

/// One escrow that pays us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) escrow: Escrow,
    pub(crate) owner: Owner,
    /// Read from the ledger; cumulative amounts never exceed it.
    pub(crate) balance: Stroops,
    /// Seconds.
    pub(crate) margin: u32,
    pub(crate) phase: Phase,
    pub(crate) series: Series,
    pub(crate) newest: Option<StoredClaim>,
    /// The first claim of the newest one's amount: it is published before any other, so that those with a higher k are left should it fail
    /// in a ledger [H11].
    pub(crate) first: Option<StoredClaim>,
    /// The claim that is being flushed. Draws of the same amount may have come after it.
    pub(crate) flushing: Option<StoredClaim>,
    /// The sum of all allocations so far, less what was returned.
    pub(crate) allocated: Stroops,
    /// It came with a backup (H13): who knows what was claimed, allocated or flushed since. Nothing is taken on it.
    pub(crate) sealed: bool,
}

impl Incoming {
    pub(crate) fn new(escrow: Escrow, owner: Owner, balance: Stroops, margin: u32) -> Self {
        Incoming {
            escrow,
            owner,
            balance,
            margin,
            phase: Phase::Open,
            series: Series::default(),
            newest: None,
            first: None,
            flushing: None,
            allocated: Stroops::ZERO,
            sealed: false,
        }
    }

    /// The newest claim's amount.
    pub(crate) fn cumulative(&self) -> Stroops {
        self.newest.map_or(Stroops::ZERO, |c| c.cumulative)
    }

    /// What no circuit has.
    pub(crate) fn unallocated(&self) -> Stroops {
        self.cumulative().saturating_sub(self.allocated)
    }

    /// Unix seconds from which on it is not credited.
    pub(crate) fn stops_at(&self) -> u64 {
        self.escrow.terms.expiry.saturating_sub(self.margin.into())
    }

    /// What is told to the payer.
    pub(crate) fn report(&self) -> Balance {
        Balance {
            escrow: self.escrow.id(),
            newest_k: self.series.newest(),
            cumulative: self.cumulative(),
            unallocated: self.unallocated(),
            state: if self.phase == Phase::Open {
                EscrowState::Open
            } else {
                EscrowState::Closing
            },
        }
    }

    /// Everything but the signature. `allocations`: the sum that the message assigns.
    pub(crate) fn check(&self, k: u32, cumulative: Stroops, allocations: Stroops) -> Result<(), ClaimError> {
        if self.sealed {
            return Err(ClaimError::Closing);
        }
        self.series.check(k).map_err(|bad| match bad {
            BadK::Seen => ClaimError::Seen,
            BadK::OutOfRange => ClaimError::OutOfRange,
        })?;
        let stored = self.cumulative();
        let newest_k = self.newest.map_or(0, |c| c.k);
        if (k > newest_k && cumulative < stored) || (k < newest_k && cumulative > stored) {
            return Err(ClaimError::Falls);
        }
        if cumulative > self.balance {
            return Err(ClaimError::OverBalance);
        }
        if self.phase != Phase::Open && cumulative > stored && !defects::on(Defect::CreditWhileClosing) {
            return Err(ClaimError::Closing);
        }
        let free = stored.max(cumulative).saturating_sub(self.allocated);
        if allocations > free && !defects::on(Defect::DrawAboveBalance) {
            return Err(ClaimError::TooLittle);
        }
        Ok(())
    }

    /// Whether the owner said it: by far the dearest check.
    pub(crate) fn verify(
        &self,
        keys: &impl PayeeKeys,
        k: u32,
        cumulative: Stroops,
        signature: &Signature,
    ) -> Result<(), ClaimError> {
        if keys.verify_claim(&self.escrow, k, cumulative, signature) {
            Ok(())
        } else {
            Err(ClaimError::BadSignature)
        }
    }

    /// Stores a claim that passed both checks (or that the journal holds). Says by how much the cumulative rose.
    pub(crate) fn store(&mut self, claim: StoredClaim) -> Stroops {
        self.series.mark(claim.k);
        if self.newest.is_some_and(|newest| newest.k >= claim.k) {
            return Stroops::ZERO;
        }
        let rise = claim.cumulative.saturating_sub(self.cumulative());
        if self.first.is_none() || !rise.is_zero() {
            self.first = Some(claim);
        }
        self.newest = Some(claim);
        rise
    }

    /// The claim to publish next: the first of its amount, and after that failed in a ledger the newest.
    pub(crate) fn to_flush(&self) -> Option<StoredClaim> {
        match self.phase {
            Phase::FlushFailed { .. } => self.newest,
            _ => self.first,
        }
    }

    /// The claim with this number, if it is one of the two that are kept.
    pub(crate) fn claim(&self, k: u32) -> Option<StoredClaim> {
        [self.first, self.newest].into_iter().flatten().find(|c| c.k == k)
    }

    /// A new epoch began.
    pub(crate) fn seal(&mut self) {
        self.sealed = true;
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
        }
    }

    /// Assigns a part to a circuit.
    pub(crate) fn allocate(&mut self, amount: Stroops) {
        self.allocated = self.allocated.checked_add(amount).unwrap_or(Stroops::MAX);
    }

    /// Takes a part back from a circuit.
    pub(crate) fn give_back(&mut self, amount: Stroops) {
        self.allocated = self.allocated.saturating_sub(amount);
    }
}
