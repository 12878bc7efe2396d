//! A program that ends at a chosen step: before, within or after anything that it records or sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use obol_cell::AccountId;
use obol_stellar::outbox::{Outbox, OutboxError, Outcome, Purpose, Submission};
use obol_stellar::rail::{
    AccountState, FeeStats, FriendbotError, LedgerHead, RailError, Sighting, SubmitError, TxPayments, TxRecord,
};
use obol_stellar::tx::{SignedTx, TxHash};
use obol_stellar::{MemoryOutbox, Rail, Settler};
use tokio::sync::Notify;

use super::sim::Sim;

/// Where the program ends.
pub struct Crash {
    /// Steps until then.
    left: AtomicUsize,
    now: Notify,
}

impl Crash {
    /// At the step with this number, from 0.
    pub fn at(step: usize) -> Arc<Crash> {
        Arc::new(Crash {
            left: AtomicUsize::new(step + 1),
            now: Notify::new(),
        })
    }

    /// Is never passed by a program that has ended.
    async fn step(&self) {
        if self.ends() {
            self.end().await;
        }
    }

    fn ends(&self) -> bool {
        let left = self.left.load(Ordering::SeqCst);
        if left > 0 {
            self.left.store(left - 1, Ordering::SeqCst);
        }
        left <= 1
    }

    async fn end(&self) {
        self.now.notify_one();
        std::future::pending::<()>().await;
    }

    /// What the program does until it ends: its result, or `None` if it was cut off. Everything that it had in memory is gone
    /// then.
    pub async fn run<T>(&self, program: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.now.notified() => None,
            result = program => Some(result),
        }
    }
}

struct Recording {
    outbox: Arc<MemoryOutbox>,
    crash: Arc<Crash>,
}

#[async_trait]
impl Outbox for Recording {
    async fn record(&self, submission: &Submission) -> Result<(), OutboxError> {
        self.crash.step().await;
        self.outbox.record(submission).await?;
        self.crash.step().await;
        Ok(())
    }
    async fn resolve(&self, hash: TxHash, outcome: &Outcome) -> Result<(), OutboxError> {
        self.crash.step().await;
        self.outbox.resolve(hash, outcome).await?;
        self.crash.step().await;
        Ok(())
    }
    async fn pending(&self) -> Result<Vec<Submission>, OutboxError> {
        self.outbox.pending().await
    }
    async fn applied(&self, purpose: Purpose) -> Result<Option<(Submission, Outcome)>, OutboxError> {
        self.outbox.applied(purpose).await
    }
}

struct Sending {
    rail: Arc<dyn Rail>,
    outbox: Arc<MemoryOutbox>,
    crash: Arc<Crash>,
}

#[async_trait]
impl Rail for Sending {
    async fn check_network(&self) -> Result<(), RailError> {
        self.rail.check_network().await
    }
    async fn latest_ledger(&self) -> Result<LedgerHead, RailError> {
        self.rail.latest_ledger().await
    }
    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        self.rail.account(account).await
    }
    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        self.rail.transaction(hash).await
    }
    async fn look(&self, hash: TxHash, inner: Option<TxHash>, source: AccountId) -> Result<Sighting, RailError> {
        self.rail.look(hash, inner, source).await
    }
    async fn payments(&self, hash: TxHash) -> Result<Option<TxPayments>, RailError> {
        self.rail.payments(hash).await
    }
    async fn payments_with_memo(&self, account: AccountId, memo: [u8; 32]) -> Result<Vec<TxPayments>, RailError> {
        self.rail.payments_with_memo(account, memo).await
    }
    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        let recorded = self.outbox.all().iter().any(|s| s.hash == tx.hash());
        assert!(recorded, "submitted before it was recorded");
        self.crash.step().await;
        if self.crash.ends() {
            // What it sent is on its way, and goes on without it.
            let (rail, tx) = (Arc::clone(&self.rail), tx.clone());
            tokio::spawn(async move { rail.submit(&tx).await });
            self.crash.end().await;
        }
        let answer = self.rail.submit(tx).await;
        self.crash.step().await;
        answer
    }
    async fn fee_stats(&self) -> Result<FeeStats, RailError> {
        self.rail.fee_stats().await
    }
    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError> {
        self.rail.friendbot(account).await
    }
}

/// A settler of a program that ends at a step; what it recorded is kept in the sim's outbox.
pub fn settler(sim: &Sim, crash: &Arc<Crash>) -> Settler {
    let rail = Sending {
        rail: sim.rail("a"),
        outbox: Arc::clone(&sim.outbox),
        crash: Arc::clone(crash),
    };
    let outbox = Recording {
        outbox: Arc::clone(&sim.outbox),
        crash: Arc::clone(crash),
    };
    Settler::new(Arc::new(rail), Arc::new(outbox), sim.network.clone(), sim.policy)
}
