#![doc = include_str!("../README.md")]

pub mod books;
mod error;
mod journal;
mod log;
mod schema;
mod state;
mod submissions;
mod writer;

pub use books::{Account, Books, Entry, Imbalance};
pub use error::{OpenError, StoreError};
pub use journal::{AuditError, Fact, Journal, Options};
