//! What the interface shows and does: the relay or the client behind it.

use std::sync::Arc;

use obol_cell::Asset;
use obol_stellar::{Keypair, Settler};

use crate::BoxFuture;
use crate::history::History;
use crate::v1::types::{
    Balances, Budgets, BudgetsWanted, Ceilings, Circuit, Escrow, Limit, Peer, Role, Status, Tariff, Tunnel,
};

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What is wrong with the request, for people.
    #[error("{0}")]
    Wrong(String),
    /// It cannot be done now; why, for people.
    #[error("{0}")]
    NotNow(String),
    /// There is nothing of this name.
    #[error("{0}")]
    Unknown(String),
}

/// A relay or a client. All answers are of this moment and cheap, but for those that are futures. What a role does not have is `None`.
pub trait Subject: Send + Sync + 'static {
    /// Which of the two.
    fn role(&self) -> Role;
    /// How it is.
    fn status(&self) -> Status;
    /// What there is, and what is locked.
    fn balances(&self) -> BoxFuture<Balances>;
    /// All escrows that are remembered.
    fn escrows(&self) -> Vec<Escrow>;
    /// Neighbours with whom there is or was money: a relay's other relays, a client's guards.
    fn peers(&self) -> Vec<Peer>;
    /// What is limited, and how much of it is used.
    fn limits(&self) -> Vec<Limit>;
    /// A relay's circuits.
    fn circuits(&self) -> Option<Vec<Circuit>> {
        None
    }
    /// A client's tunnels.
    fn tunnels(&self) -> Option<Vec<Tunnel>> {
        None
    }
    /// What a relay asks.
    fn tariff(&self) -> Option<Tariff> {
        None
    }
    /// What a client may spend.
    fn budgets(&self) -> Option<Budgets> {
        None
    }
    /// Sets what a client may spend from now on.
    ///
    /// # Errors
    /// When it cannot be, or cannot be kept.
    fn set_budgets(&self, wanted: BudgetsWanted) -> Result<(), Refused> {
        let _ = wanted;
        Err(Refused::Unknown("a relay has no budgets".to_owned()))
    }
    /// What a client pays at most, and for what.
    fn ceilings(&self) -> Option<Ceilings> {
        None
    }
    /// Sets what a client pays at most from now on.
    ///
    /// # Errors
    /// When it cannot be, or cannot be kept.
    fn set_ceilings(&self, wanted: Ceilings) -> Result<(), Refused> {
        let _ = wanted;
        Err(Refused::Unknown("a relay has no ceilings".to_owned()))
    }
    /// Settles an escrow now, or all: a relay flushes those that pay it, a client asks its guards to.
    ///
    /// # Errors
    /// When there is no such escrow, or it cannot be flushed now.
    fn flush(&self, escrow: Option<String>) -> BoxFuture<Result<Vec<String>, Refused>>;
    /// Its wallet; `None` without payments.
    fn wallet(&self) -> Option<Wallet>;
    /// What happened, by time, and what happens.
    fn history(&self) -> Arc<History>;
}

/// What the program pays and is paid from, for services beyond the circuit.
#[derive(Clone)]
pub struct Wallet {
    /// How the ledger is reached.
    pub settler: Settler,
    /// The account that a person funds: a client's wallet, a relay's capital.
    pub account: Keypair,
    /// The one asset.
    pub asset: Asset,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").finish_non_exhaustive()
    }
}
