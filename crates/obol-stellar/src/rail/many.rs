//! Several servers of one network as one rail: the first that can be reached answers.

use std::sync::Arc;

use async_trait::async_trait;
use obol_cell::AccountId;

use super::{
    AccountState, FeeStats, FriendbotError, LedgerHead, Rail, RailError, Sighting, SubmitError, TxRecord, Unreachable,
};
use crate::tx::{SignedTx, TxHash};

/// Asks its rails in order until one answers. Two witnesses for one fact are [`crate::check::believe`]'s business: here
/// one answer is enough.
pub struct Many(Vec<Arc<dyn Rail>>);

impl Many {
    /// These, in this order.
    pub fn new(rails: Vec<Arc<dyn Rail>>) -> Many {
        Many(rails)
    }
}

/// The first answer; else the last error.
macro_rules! first {
    ($self:ident, $rail:ident => $ask:expr) => {{
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for $rail in &$self.0 {
            match $ask.await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }};
}

#[async_trait]
impl Rail for Many {
    /// Every server that answers has to serve the network; one that is down is left out.
    async fn check_network(&self) -> Result<(), RailError> {
        let mut answered = false;
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for rail in &self.0 {
            match rail.check_network().await {
                Ok(()) => answered = true,
                Err(other @ RailError::OtherNetwork { .. }) => return Err(other),
                Err(error) => last = error,
            }
        }
        if answered { Ok(()) } else { Err(last) }
    }

    async fn latest_ledger(&self) -> Result<LedgerHead, RailError> {
        first!(self, rail => rail.latest_ledger())
    }

    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        first!(self, rail => rail.account(account))
    }

    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        // One that lags may not have it yet: any that has it is right.
        let mut absent = false;
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for rail in &self.0 {
            match rail.transaction(hash).await {
                Ok(Some(record)) => return Ok(Some(record)),
                Ok(None) => absent = true,
                Err(error) => last = error,
            }
        }
        if absent { Ok(None) } else { Err(last) }
    }

    async fn look(&self, hash: TxHash, inner: Option<TxHash>, source: AccountId) -> Result<Sighting, RailError> {
        // Each looks by itself: where the ledger is and what is absent must come from one server.
        first!(self, rail => rail.look(hash, inner, source))
    }

    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for rail in &self.0 {
            match rail.submit(tx).await {
                // Nothing was sent, so the next server may.
                Err(SubmitError::NotSent(error)) => last = error,
                other => return other,
            }
        }
        Err(SubmitError::NotSent(last))
    }

    async fn fee_stats(&self) -> Result<FeeStats, RailError> {
        first!(self, rail => rail.fee_stats())
    }

    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError> {
        match self.0.first() {
            Some(rail) => rail.friendbot(account).await,
            None => Err(FriendbotError::None),
        }
    }
}
