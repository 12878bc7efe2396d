#![doc = include_str!("../README.md")]

pub mod audit;
pub mod config;
pub mod core;
mod effects;
pub mod history;
mod ledger;
mod queue;
pub mod replay;
pub mod server;
mod store;
mod text;

pub use audit::Audit;
pub use config::{CURRENT_PROTOCOL, Closing, LedgerConfig, Storage};
pub use ledger::{FriendbotError, GENESIS_COINS, Ledger, LedgerSummary, Submission};
pub use store::{Filter, Page, StoreError};
