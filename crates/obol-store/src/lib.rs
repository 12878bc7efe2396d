#![doc = include_str!("../README.md")]

pub mod audit;
pub mod backup;
pub mod books;
mod chain;
mod checkpoint;
pub mod condense;
mod crypt;
pub mod days;
mod error;
mod hold;
mod journal;
mod keeper;
mod log;
mod migrate;
mod retention;
mod schema;
mod state;
mod submissions;
mod writer;

pub use audit::{Accounting, Finding, Report, Verdict};
pub use backup::{BackupError, Imported, SecretFile};
pub use books::{Account, Books, Entry, Imbalance};
pub use error::{OpenError, StoreError};
pub use journal::{AuditError, Carried, Fact, Journal, OnLedger, Options};
