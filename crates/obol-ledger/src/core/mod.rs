//! The ledger as a pure state machine: transactions and time in, results and changes out.
//!
//! It does what stellar-core does for classic transactions, check by check and in the same order, because callers
//! rely on *which* code an answer carries. No clock, no socket, no database here.
//!
//! | module | what |
//! |---|---|
//! | [`state`] | ledger entries, and layers of changes over them that commit or roll back |
//! | [`account`] | balances, reserves and extensions of one account or trust line |
//! | [`reserve`] | who pays the reserve of an entry: its owner or a sponsor |
//! | [`signatures`] | signers, weights, thresholds |
//! | [`transaction`] | validity and application of a whole transaction or fee bump |
//! | [`operations`] | validity and application of each kind of operation |
//! | [`close`] | a set of transactions becomes a ledger |

#![allow(
    clippy::result_large_err,
    reason = "an operation's result is the answer either way: boxing the failures gains nothing"
)]

pub mod account;
pub mod close;
pub mod operations;
pub mod reserve;
pub mod signatures;
pub mod state;
pub mod transaction;
