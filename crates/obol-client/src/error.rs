//! What can go wrong at the start of a client and at the settlement of its escrows.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::ConfigError;

/// The client did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Somebody else listens there.
    #[error(
        "the SOCKS port {address} is taken: another program listens there. Change `socks.listen`, or stop that program"
    )]
    PortTaken {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address cannot be bound for another reason.
    #[error("cannot listen on {address} (`socks.listen`): {source}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A file or directory of the client's state.
    #[error("cannot use {path}: {source}", path = .path.display())]
    State {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A key file that others can read, or that holds no key.
    #[error(transparent)]
    KeyFile {
        /// Which one, and what to do.
        source: obol_stellar::key::KeyFileError,
    },
    /// The journal of payment facts cannot be opened.
    #[error(transparent)]
    Journal {
        /// Why.
        source: obol_store::OpenError,
    },
    /// The journal of payment facts cannot be read.
    #[error("the payment journal cannot be read: {source}")]
    Books {
        /// Why.
        source: obol_store::StoreError,
    },
    /// The local interface does not start.
    #[error(transparent)]
    Gateway(#[from] obol_gateway::GatewayError),
    /// What the local interface keeps cannot be read.
    #[error(transparent)]
    Records(#[from] obol_gateway::RecordsError),
    /// The program is ending.
    #[error("the program is ending")]
    Ending,
    /// There is no money to work on.
    #[error("this client has no wallet: `payments` is absent from its configuration")]
    NoPayments,
    /// Arti did not accept its part of the configuration.
    #[error("section `tor` of the configuration: {reason}")]
    TorConfig {
        /// What Arti says.
        reason: String,
    },
    /// Arti could not start.
    #[error("the Tor client cannot start: {reason}")]
    Tor {
        /// What Arti says.
        reason: String,
    },
    /// An onion service cannot be hosted.
    #[error("the onion service `{nickname}` cannot start: {reason}")]
    Service {
        /// Which.
        nickname: String,
        /// What Arti says.
        reason: String,
    },
    /// The network could not be reached, or is not usable.
    #[error("the Tor network cannot be used: {reason}")]
    Bootstrap {
        /// What Arti says.
        reason: String,
    },
}

/// Escrows could not be settled as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// Nothing to settle with: `pay = "never"`, or no ledger in the configuration.
    #[error("this client has no wallet: `payments` is absent from its configuration")]
    NoWallet,
    /// The client is shutting down.
    #[error("the client is shutting down")]
    ShuttingDown,
    /// The time given was not enough for an escrow to be opened.
    #[error("no escrow to a guard is open yet")]
    NotReady,
    /// The time given was not enough; everything goes on, and is resumed after a restart.
    #[error("{open} escrows are not settled yet; settlement goes on, and is resumed after a restart")]
    Unsettled {
        /// How many.
        open: usize,
    },
    /// All escrows are settled, and what they left is on the ledger, but not back in the wallet's account.
    #[error("what the escrows left could not be brought back to the wallet yet: {reason}")]
    NotHome {
        /// What stands in the way.
        reason: String,
    },
}
