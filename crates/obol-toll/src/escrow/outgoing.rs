//! The payer's books on one escrow: the same for a relay that pays a neighbour and a client that pays its guard.
//!
//! ```text
//!  offer accepted
//!     |            in a ledger          T - margin, or asked           ledger shows the end
//!  Opening ----------------------> Open ---------------------> Closing -------------------> Ended
//!     |                             | sign: cumulative rises      | draws only: cumulative stays   (draws go on until T)
//!     +-- failed for good: dropped  +-- unused until the payee said that it knows the escrow
//! ```
//! Never signs less than it ever signed: (k, cumulative) is a fact before the claim leaves, and both only rise.

use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::escrow::Escrow;
use crate::fact::OutFact;
use obol_cell::{Balance, EscrowState, PeerId, Signature, Stroops};

/// Where an outgoing escrow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Open,
    Closing,
    Ended,
}

/// A claim to be signed: its number and amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextClaim {
    pub(crate) k: u32,
    pub(crate) cumulative: Stroops,
}

/// One escrow that we pay by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) escrow: Escrow,
    pub(crate) payee: PeerId,
    pub(crate) deposit: Stroops,
    pub(crate) refund: Signature,
    /// Seconds.
    pub(crate) margin: u32,
    /// Unix seconds.
    pub(crate) since: u64,
    pub(crate) phase: Phase,
    pub(crate) balance: Stroops,
    /// The last claim signed.
    pub(crate) k: u32,
    pub(crate) cumulative: Stroops,
    /// What we assigned to payments so far, as far as we know; less than `cumulative` where the payee reported a balance.
    pub(crate) allocated: Stroops,
    /// The payee said that it knows the escrow: terms need not be repeated, and it may be used.
    pub(crate) known: bool,
    /// How often the payee said that it does not know it (a relay's books; a client's are in the payer).
    pub(crate) unknown: u8,
    /// The time for the next escrow came, or little is left: another one is wanted.
    pub(crate) succeeded: bool,
    /// The refund was asked for in this run.
    pub(crate) refunding: bool,
}

/// The largest k that is signed: below 2^31.
const LAST_K: u32 = (1 << 31) - 1;

impl Outgoing {
    pub(crate) fn accepted(fact: &OutFact) -> Option<Self> {
        let OutFact::Accepted {
            escrow,
            deposit,
            refund,
            margin,
            payee,
            since,
        } = *fact
        else {
            return None;
        };
        Some(Outgoing {
            escrow,
            payee,
            deposit,
            refund,
            margin,
            since,
            phase: Phase::Opening,
            balance: Stroops::ZERO,
            k: 0,
            cumulative: Stroops::ZERO,
            allocated: Stroops::ZERO,
            known: false,
            unknown: 0,
            succeeded: false,
            refunding: false,
        })
    }

    /// Applies a fact about this escrow. For claims on replay only; live, [`Outgoing::signed`] knows more.
    pub(crate) fn apply(&mut self, fact: &OutFact) {
        match *fact {
            OutFact::Opened { balance, .. } => {
                self.phase = Phase::Open;
                self.balance = balance;
            }
            OutFact::Signed { k, cumulative, .. } => {
                self.k = self.k.max(k);
                self.cumulative = self.cumulative.max(cumulative);
                // What the payee has of it unallocated is not known after a restart, until it says so.
                self.allocated = self.allocated.max(self.cumulative);
                if defects::on(Defect::SignLess) {
                    (self.cumulative, self.allocated) = (Stroops::ZERO, Stroops::ZERO);
                }
            }
            OutFact::Closing { .. } => {
                if self.phase != Phase::Ended {
                    self.phase = Phase::Closing;
                }
            }
            OutFact::Ended { .. } => self.phase = Phase::Ended,
            OutFact::Accepted { .. } | OutFact::Abandoned { .. } => {}
        }
    }

    /// Books a claim that was just signed.
    pub(crate) fn signed(&mut self, claim: NextClaim) {
        self.k = claim.k;
        self.cumulative = claim.cumulative;
    }

    /// Facts that give this state again.
    pub(crate) fn facts(&self) -> Vec<OutFact> {
        let escrow = self.escrow.id();
        let mut facts = vec![OutFact::Accepted {
            escrow: self.escrow,
            deposit: self.deposit,
            refund: self.refund,
            margin: self.margin,
            payee: self.payee,
            since: self.since,
        }];
        if self.phase != Phase::Opening {
            facts.push(OutFact::Opened {
                escrow,
                balance: self.balance,
            });
        }
        if self.k > 0 {
            facts.push(OutFact::Signed {
                escrow,
                k: self.k,
                cumulative: self.cumulative,
            });
        }
        match self.phase {
            Phase::Closing => facts.push(OutFact::Closing { escrow }),
            Phase::Ended => facts.push(OutFact::Ended {
                escrow,
                paid: self.cumulative,
            }),
            Phase::Opening | Phase::Open => {}
        }
        facts
    }

    /// The payee takes no payment from here on, unix seconds.
    pub(crate) fn stops_at(&self) -> u64 {
        self.escrow.terms.expiry.saturating_sub(self.margin.into())
    }

    /// Between these two, unix seconds, its successor is opened at a random time: T - life / 2 and T - margin - 1 h (2.16).
    pub(crate) fn successor_between(&self) -> (u64, u64) {
        let expiry = self.escrow.terms.expiry;
        let from = expiry.saturating_sub(expiry.saturating_sub(self.since) / 2);
        (from, from.max(self.stops_at().saturating_sub(3_600)))
    }

    /// What the payee holds of our claims that no circuit has.
    pub(crate) fn unallocated(&self) -> Stroops {
        self.cumulative.saturating_sub(self.allocated)
    }

    /// What can be paid by it now, the unallocated balance included.
    pub(crate) fn available(&self, now: UnixMillis) -> Stroops {
        if !self.known || self.k >= LAST_K {
            return Stroops::ZERO;
        }
        match self.phase {
            Phase::Open if now.secs() < self.stops_at() => self.balance.saturating_sub(self.allocated),
            // After the margin began the payee still takes draws.
            Phase::Open | Phase::Closing | Phase::Ended if now.secs() < self.escrow.terms.expiry => self.unallocated(),
            _ => Stroops::ZERO,
        }
    }

    /// Assigns `amount` to a payment. The caller looked at [`Outgoing::available`].
    pub(crate) fn reserve(&mut self, amount: Stroops) {
        self.allocated = self.allocated.checked_add(amount).unwrap_or(Stroops::MAX);
    }

    /// Takes back what was reserved and never left.
    pub(crate) fn unreserve(&mut self, amount: Stroops) {
        self.allocated = self.allocated.saturating_sub(amount);
    }

    /// The claim that covers everything reserved. Becomes the last one when its fact is applied.
    pub(crate) fn next_claim(&self) -> NextClaim {
        NextClaim {
            k: self.k.saturating_add(1),
            cumulative: self.cumulative.max(self.allocated),
        }
    }

    /// Books what the payee says, if it saw our last claim and nothing is on its way. Says whether it may be used.
    ///
    /// A payee that reports *more* allocated than we ever assigned is not believed: it would only hurt itself by less.
    pub(crate) fn reported(&mut self, balance: &Balance) -> bool {
        self.known = balance.state != EscrowState::Unknown;
        if balance.newest_k == self.k && balance.cumulative == self.cumulative && balance.unallocated <= self.cumulative
        {
            self.allocated = self.cumulative.saturating_sub(balance.unallocated);
        }
        self.known
    }
}
