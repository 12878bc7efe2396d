//! A ledger server with a fault.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use obol_cell::AccountId;
use obol_stellar::rail::{
    AccountState, Code, FeeStats, FriendbotError, LedgerHead, RailError, ResultCodes, SubmitError, TxPayments,
    TxRecord, Unreachable,
};
use obol_stellar::tx::{SignedTx, TxHash};
use obol_stellar::{MemoryOutbox, Rail};

use super::World;

/// What a faulty server does with submissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Passes them on, and the answer is lost.
    LosesAnswers,
    /// Cannot be reached for submissions.
    Down,
    /// Says 504, and drops them.
    Drops,
    /// Says that the ledger rejected them, and keeps them.
    Withholds,
    /// Rejects everything that offers less than this in all.
    WantsFee(i64),
    /// Works.
    None,
}

/// A server with a fault, which also holds everything that it saw, and checks that all of it had been recorded.
pub struct Faulty {
    inner: Arc<dyn Rail>,
    outbox: Arc<MemoryOutbox>,
    fault: Mutex<Fault>,
    seen: Mutex<Vec<SignedTx>>,
    pub submissions: AtomicU32,
}

impl Faulty {
    pub fn of(world: &World, fault: Fault) -> Arc<Faulty> {
        Arc::new(Faulty {
            inner: Arc::clone(&world.rail),
            outbox: Arc::clone(&world.outbox),
            fault: Mutex::new(fault),
            seen: Mutex::new(Vec::new()),
            submissions: AtomicU32::new(0),
        })
    }

    pub fn becomes(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn seen(&self) -> Vec<SignedTx> {
        self.seen.lock().unwrap().clone()
    }
}

#[async_trait]
impl Rail for Faulty {
    async fn check_network(&self) -> Result<(), RailError> {
        self.inner.check_network().await
    }
    async fn latest_ledger(&self) -> Result<LedgerHead, RailError> {
        self.inner.latest_ledger().await
    }
    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        self.inner.account(account).await
    }
    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        self.inner.transaction(hash).await
    }
    async fn payments(&self, hash: TxHash) -> Result<Option<TxPayments>, RailError> {
        self.inner.payments(hash).await
    }
    async fn payments_with_memo(&self, account: AccountId, memo: [u8; 32]) -> Result<Vec<TxPayments>, RailError> {
        self.inner.payments_with_memo(account, memo).await
    }
    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        let recorded = self.outbox.all().iter().any(|s| s.hash == tx.hash());
        assert!(recorded, "submitted before it was recorded");
        self.submissions.fetch_add(1, Ordering::Relaxed);
        self.seen.lock().unwrap().push(tx.clone());
        let timed_out = RailError::Unreachable(Unreachable::TimedOut);
        let rejected = |code: &str| SubmitError::Rejected {
            codes: ResultCodes {
                transaction: Code::new(code),
                ..ResultCodes::default()
            },
        };
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::None => self.inner.submit(tx).await,
            Fault::LosesAnswers => {
                let _ = self.inner.submit(tx).await;
                Err(SubmitError::Unknown { cause: timed_out })
            }
            Fault::Down => Err(SubmitError::NotSent(timed_out)),
            Fault::Drops => Err(SubmitError::Unknown { cause: timed_out }),
            Fault::Withholds => Err(rejected("tx_internal_error")),
            Fault::WantsFee(fee) => {
                let offered = self.outbox.all().iter().find(|s| s.hash == tx.hash()).unwrap().fee;
                if offered.get() < fee {
                    Err(rejected("tx_insufficient_fee"))
                } else {
                    self.inner.submit(tx).await
                }
            }
        }
    }
    async fn fee_stats(&self) -> Result<FeeStats, RailError> {
        Err(RailError::Busy { retry_after: None })
    }
    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError> {
        self.inner.friendbot(account).await
    }
}
