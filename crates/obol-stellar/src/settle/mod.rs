//! Settlement: what is done on the ledger, over a [`Rail`] and an [`Outbox`].
//!
//! Every procedure here may be called again at any time, after a crash too: it looks at the ledger and at the outbox
//! first, and goes on from there. What makes that safe, for one purpose ([`Purpose`]):
//!
//! 1. a transaction is recorded before it is submitted;
//! 2. it is alive until a ledger has it, or shows that it never will (its time is over, its sequence number is used);
//! 3. while one is alive, another is only made with *the same sequence number of the same source*, so that the ledger
//!    itself lets at most one of them through.
//!
//! A rejection ends nothing: who saw the transaction can submit it again while it is alive. And a server is a witness of
//! absence only as of a closed ledger of its own, and only as far back as its memory goes.

mod batch;
mod carry;
mod funding;
mod owed;
mod payee;
mod payer;
mod wallet;

pub use batch::{Batch, LeftOut, MAX_PAYMENTS, Paid, Payment};
pub use carry::{CarryError, Resumed};
pub use funding::{MAX_ONE_TIME, Need, TopUp};
pub use owed::{OwedOutcome, owed_reference};
pub use payee::{FlushError, FlushOrder, Flushed};
pub use payer::{EndError, Ended, OpenError, Opened, WindUp, WindUpError};
pub use wallet::{Money, OneTime, Transfer, WalletError};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use obol_cell::{AccountId, Stroops};

use crate::network::Network;
use crate::outbox::{Outbox, Purpose};
use crate::rail::Rail;

/// What tells one transaction of a wallet from another: 32 bytes that the caller chose and keeps. The same again asks for
/// the same transaction.
pub type Reference = [u8; 32];

/// How transactions are offered to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The most that one transaction may offer in fees, stroops of lumens.
    pub highest_fee: i64,
    /// How often to look while nobody knows what became of a transaction.
    pub poll: Duration,
    /// How long to look before giving the question back ([`CarryError::Pending`]).
    pub patience: Duration,
    /// How long a transaction without another bound stays valid, seconds of the ledger's clock; an hour at most.
    pub valid_for: u64,
    /// After how many ledgers without it a fee bump is bumped again.
    pub bump_after: u32,
    /// That a transaction which pays more than this (in stroops of assets, not lumens) never got into a ledger is believed
    /// only when two servers say so, since it is then made anew. Needs a rail over several.
    pub two_witnesses_above: Option<Stroops>,
}

impl Default for Policy {
    /// Up to 0.1 XLM; every 2 s, for 2 minutes; valid for 5 minutes; bumped after 3 ledgers; one witness.
    fn default() -> Policy {
        Policy {
            highest_fee: 1_000_000,
            poll: Duration::from_secs(2),
            patience: Duration::from_secs(120),
            valid_for: 300,
            bump_after: 3,
            two_witnesses_above: None,
        }
    }
}

/// Does everything on the ledger, for one party. Cheap to clone.
#[derive(Clone)]
pub struct Settler {
    rail: Arc<dyn Rail>,
    outbox: Arc<dyn Outbox>,
    network: Network,
    policy: Policy,
    turns: Turns,
}

/// Whose turn it is: per account that lends its sequence number, and per purpose, one at a time.
type Turns = Arc<Mutex<HashMap<Turn, Arc<tokio::sync::Mutex<()>>>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Turn {
    Source(AccountId),
    Purpose(Purpose),
    /// A settlement, from the look at its payees on.
    Owed(Reference),
}

impl Settler {
    /// On this network, by this rail, recording in this outbox.
    pub fn new(rail: Arc<dyn Rail>, outbox: Arc<dyn Outbox>, network: Network, policy: Policy) -> Settler {
        Settler {
            rail,
            outbox,
            network,
            policy,
            turns: Turns::default(),
        }
    }

    /// The rail.
    pub fn rail(&self) -> &Arc<dyn Rail> {
        &self.rail
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Waits for the turn; held until the guard is dropped.
    async fn turn(&self, turn: Turn) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are forgotten.
            turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(turns.entry(turn).or_default())
        };
        lock.lock_owned().await
    }
}
