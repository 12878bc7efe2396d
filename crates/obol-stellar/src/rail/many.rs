//! Several servers of one network as one rail: the first that is well answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use obol_cell::AccountId;
use tokio::time::Instant;

use super::{
    AccountState, FeeStats, FriendbotError, LedgerHead, Rail, RailError, Sighting, SubmitError, TxPayments, TxRecord,
    Unreachable,
};
use crate::tx::{SignedTx, TxHash};

/// A server that failed is asked last for so long.
const REST: Duration = Duration::from_secs(30);
/// A server so many ledgers behind what any of them has shown is compared with the others.
const FAR_BEHIND: u32 = 5;

/// Asks its rails in order until one answers; one that failed lately comes last. Two witnesses for one fact are
/// [`crate::check::believe`]'s business and [`Rail::looks`]': elsewhere one answer is enough.
pub struct Many {
    rails: Vec<Server>,
    /// The highest ledger that any of them has shown.
    newest: AtomicU32,
}

struct Server {
    rail: Arc<dyn Rail>,
    /// It failed, and is asked last until then.
    rests_until: Mutex<Option<Instant>>,
}

impl Server {
    fn rests(&self, now: Instant) -> bool {
        let until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > now)
    }

    fn is_well(&self, well: bool) {
        let until = (!well).then(|| Instant::now() + REST);
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

impl Many {
    /// These, in this order.
    pub fn new(rails: Vec<Arc<dyn Rail>>) -> Many {
        let server = |rail| Server {
            rail,
            rests_until: Mutex::new(None),
        };
        Many {
            rails: rails.into_iter().map(server).collect(),
            newest: AtomicU32::new(0),
        }
    }

    /// All of them: first those that are well.
    fn order(&self) -> Vec<&Server> {
        let now = Instant::now();
        let (rest, well): (Vec<_>, Vec<_>) = self.rails.iter().partition(|server| server.rests(now));
        well.into_iter().chain(rest).collect()
    }
}

/// The first answer; else the last error.
macro_rules! first {
    ($self:ident, $rail:ident => $ask:expr) => {{
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for server in $self.order() {
            let $rail = &server.rail;
            let answer = $ask.await;
            server.is_well(answer.is_ok());
            match answer {
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
        for server in &self.rails {
            match server.rail.check_network().await {
                Ok(()) => answered = true,
                Err(other @ RailError::OtherNetwork { .. }) => return Err(other),
                Err(error) => {
                    server.is_well(false);
                    last = error;
                }
            }
        }
        if answered { Ok(()) } else { Err(last) }
    }

    /// The first answer, unless that is far behind what was seen before: then the newest of all.
    async fn latest_ledger(&self) -> Result<LedgerHead, RailError> {
        let mut best: Option<LedgerHead> = None;
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for server in self.order() {
            match server.rail.latest_ledger().await {
                Ok(head) => {
                    let newest = self.newest.fetch_max(head.sequence, Ordering::Relaxed);
                    let behind = newest.saturating_sub(head.sequence) > FAR_BEHIND;
                    server.is_well(!behind);
                    if best.is_none_or(|best| best.sequence < head.sequence) {
                        best = Some(head);
                    }
                    if !behind {
                        break;
                    }
                }
                Err(error) => {
                    server.is_well(false);
                    last = error;
                }
            }
        }
        match best {
            // What was seen before may have been a lie, which must not stop us: the best of what is there counts.
            Some(head) => {
                self.newest.store(head.sequence, Ordering::Relaxed);
                Ok(head)
            }
            None => Err(last),
        }
    }

    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        first!(self, rail => rail.account(account))
    }

    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        // One that lags may not have it yet: any that has it is right.
        let mut absent = false;
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for server in self.order() {
            match server.rail.transaction(hash).await {
                Ok(Some(record)) => return Ok(Some(record)),
                Ok(None) => absent = true,
                Err(error) => {
                    server.is_well(false);
                    last = error;
                }
            }
        }
        if absent { Ok(None) } else { Err(last) }
    }

    async fn payments(&self, hash: TxHash) -> Result<Option<TxPayments>, RailError> {
        // As for `transaction`.
        let mut absent = false;
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for server in self.order() {
            match server.rail.payments(hash).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => absent = true,
                Err(error) => {
                    server.is_well(matches!(error, RailError::Unsupported));
                    last = error;
                }
            }
        }
        if absent { Ok(None) } else { Err(last) }
    }

    /// By the first that can tell.
    async fn payments_with_memo(&self, account: AccountId, memo: [u8; 32]) -> Result<Vec<TxPayments>, RailError> {
        let mut last = RailError::Unsupported;
        for server in self.order() {
            match server.rail.payments_with_memo(account, memo).await {
                Ok(found) => return Ok(found),
                Err(RailError::Unsupported) => {}
                Err(error) => {
                    server.is_well(false);
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn look(&self, hash: TxHash, inner: Option<TxHash>, source: AccountId) -> Result<Sighting, RailError> {
        // Each looks by itself: where the ledger is and what is absent must come from one server.
        first!(self, rail => rail.look(hash, inner, source))
    }

    async fn looks(
        &self,
        hash: TxHash,
        inner: Option<TxHash>,
        source: AccountId,
        servers: usize,
    ) -> Result<Vec<Sighting>, RailError> {
        let mut sightings = Vec::with_capacity(servers);
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for server in self.order() {
            let seen = server.rail.look(hash, inner, source).await;
            server.is_well(seen.is_ok());
            match seen {
                Ok(sighting) => sightings.push(sighting),
                Err(error) => last = error,
            }
            if sightings.len() >= servers.max(1) {
                break;
            }
        }
        if sightings.is_empty() { Err(last) } else { Ok(sightings) }
    }

    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        let mut last = RailError::Unreachable(Unreachable::Broken);
        for server in self.order() {
            match server.rail.submit(tx).await {
                // Nothing was sent, so the next server may.
                Err(SubmitError::NotSent(error)) => {
                    server.is_well(false);
                    last = error;
                }
                // Whoever asks again asks with the same transaction: another server may do better.
                unknown @ Err(SubmitError::Unknown { .. }) => {
                    server.is_well(false);
                    return unknown;
                }
                other => return other,
            }
        }
        Err(SubmitError::NotSent(last))
    }

    async fn fee_stats(&self) -> Result<FeeStats, RailError> {
        first!(self, rail => rail.fee_stats())
    }

    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError> {
        match self.rails.first() {
            Some(server) => server.rail.friendbot(account).await,
            None => Err(FriendbotError::None),
        }
    }
}
