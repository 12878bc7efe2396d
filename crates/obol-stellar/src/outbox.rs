//! The outbox: every transaction is recorded, with its hash, before it is submitted.
//!
//! A submission whose answer never came may be in a ledger, or get into one. Only the ledger ends that: it has the
//! transaction, or can never have it any more ([`Submission::bound`]). Until then it is *pending*, over restarts too.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use obol_cell::{AccountId, EscrowId, Stroops};

use crate::rail::ResultCodes;
use crate::tx::TxHash;

/// Where submissions are kept. Implemented on the journal by `obol-store`; each call returns when its fact is durable.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Records a submission before it is sent. The same hash again changes nothing.
    async fn record(&self, submission: &Submission) -> Result<(), OutboxError>;

    /// Records what became of a submission: it is pending no more.
    async fn resolve(&self, hash: TxHash, outcome: &Outcome) -> Result<(), OutboxError>;

    /// All submissions without an outcome, oldest first.
    async fn pending(&self) -> Result<Vec<Submission>, OutboxError>;

    /// The submission of this purpose that a ledger applied, with its outcome: so that a wallet's payment that is asked
    /// for again after a crash is not made again. An outbox that forgets what is over answers `None`, and its wallet's
    /// references are worth no more than its memory.
    async fn applied(&self, purpose: Purpose) -> Result<Option<(Submission, Outcome)>, OutboxError> {
        let _ = purpose;
        Ok(None)
    }
}

/// A transaction that is about to be submitted, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Its hash; of the wrapping, for a fee bump.
    pub hash: TxHash,
    /// For a fee bump, the hash of what it wraps: shared by all bumps of one flush or refund.
    pub inner_hash: Option<TxHash>,
    /// The signed envelope, XDR.
    pub envelope: Vec<u8>,
    /// What it is for.
    pub purpose: Purpose,
    /// The account whose sequence number it uses.
    pub source: AccountId,
    /// That number: once the account has used it or a higher one, this transaction is in a ledger or never will be.
    pub sequence: i64,
    /// When it can no longer get into a ledger.
    pub bound: Bound,
    /// What it offers in fees, stroops of lumens.
    pub fee: Stroops,
}

/// When a transaction can no longer get into a ledger, besides by its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound {
    /// When a ledger closed after this (unix seconds; 0: never).
    pub until_time: u64,
    /// From this ledger on (0: never).
    pub before_ledger: u32,
}

/// What a transaction is for: of one purpose, at most one may ever succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Opens this escrow, and perhaps others with it.
    Open(EscrowId),
    /// Flushes this escrow.
    Flush(EscrowId),
    /// Takes this escrow back after its expiry.
    Refund(EscrowId),
    /// Sends on what a closed escrow still holds.
    Sweep(EscrowId),
    /// Ends a closed escrow's account.
    Merge(EscrowId),
    /// Another transaction of the wallet; the caller's reference tells it from others.
    Wallet([u8; 32]),
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in this ledger and did what it says.
    Applied {
        /// The ledger.
        ledger: u32,
        /// What was paid in fees, stroops of lumens.
        fee_charged: Stroops,
    },
    /// It is in this ledger and failed: fee paid, sequence number used, nothing else.
    Failed {
        /// The ledger.
        ledger: u32,
        /// What was paid in fees, stroops of lumens.
        fee_charged: Stroops,
        /// Why.
        codes: ResultCodes,
    },
    /// It is in no ledger and never will be: its time is over, or its sequence number was used by another.
    Dead,
}

/// The outbox's store failed: nothing may be submitted then.
#[derive(Debug, thiserror::Error)]
#[error("the record of submitted transactions cannot be kept")]
pub struct OutboxError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// An outbox that lives as long as the process: for tests and for tools whose every step can be done again.
#[derive(Debug, Default)]
pub struct MemoryOutbox {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    submissions: Vec<Submission>,
    outcomes: BTreeMap<TxHash, Outcome>,
}

impl MemoryOutbox {
    /// An empty one.
    pub fn new() -> MemoryOutbox {
        MemoryOutbox::default()
    }

    /// What became of a submission, if that is known.
    pub fn outcome(&self, hash: TxHash) -> Option<Outcome> {
        self.lock().outcomes.get(&hash).cloned()
    }

    /// Everything ever recorded, oldest first.
    pub fn all(&self) -> Vec<Submission> {
        self.lock().submissions.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn record(&self, submission: &Submission) -> Result<(), OutboxError> {
        let mut entries = self.lock();
        if entries.submissions.iter().all(|s| s.hash != submission.hash) {
            entries.submissions.push(submission.clone());
        }
        Ok(())
    }

    async fn resolve(&self, hash: TxHash, outcome: &Outcome) -> Result<(), OutboxError> {
        self.lock().outcomes.insert(hash, outcome.clone());
        Ok(())
    }

    async fn pending(&self) -> Result<Vec<Submission>, OutboxError> {
        let entries = self.lock();
        Ok(entries
            .submissions
            .iter()
            .filter(|s| !entries.outcomes.contains_key(&s.hash))
            .cloned()
            .collect())
    }

    async fn applied(&self, purpose: Purpose) -> Result<Option<(Submission, Outcome)>, OutboxError> {
        let entries = self.lock();
        Ok(entries
            .submissions
            .iter()
            .filter(|s| s.purpose == purpose)
            .find_map(|s| {
                let outcome = entries.outcomes.get(&s.hash)?;
                matches!(outcome, Outcome::Applied { .. }).then(|| (s.clone(), outcome.clone()))
            }))
    }
}
