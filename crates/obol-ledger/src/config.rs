//! What a ledger is started with.

use std::path::PathBuf;
use std::time::Duration;

/// The protocol version that headers carry unless configured otherwise: the public network's at the time of writing.
pub const CURRENT_PROTOCOL: u32 = 27;

/// Configuration of a [`Ledger`](crate::Ledger).
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// The network passphrase. A new ledger state appends ` ; ` and 16 random hex digits, so that nothing signed for an earlier
    /// state is ever valid again; see `exact_passphrase`.
    pub passphrase: String,
    /// Take the passphrase as it is. For replays of another network's transactions.
    pub exact_passphrase: bool,
    /// Where the state is kept.
    pub storage: Storage,
    /// When ledgers close.
    pub closing: Closing,
    /// The protocol version in the headers; decides the form of the transaction meta.
    pub protocol: u32,
    /// Stroops per operation.
    pub base_fee: u32,
    /// Stroops per reserved entry.
    pub base_reserve: u32,
    /// At most so many operations in a ledger.
    pub max_tx_set_ops: u32,
    /// What friendbot gives a new account, in stroops; 0 turns it off.
    pub friendbot_amount: i64,
    /// Whether `POST /obol/advance` may wind the clock.
    pub allow_advance: bool,
    /// How long `POST /transactions` waits for a ledger before it answers 504.
    pub submission_timeout: Duration,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            passphrase: "Obol Test Network".to_owned(),
            exact_passphrase: false,
            storage: Storage::Memory,
            closing: Closing::Every(Duration::from_secs(1)),
            protocol: CURRENT_PROTOCOL,
            base_fee: 100,
            base_reserve: 5_000_000,
            max_tx_set_ops: 1000,
            friendbot_amount: 10_000 * 10_000_000,
            allow_advance: false,
            submission_timeout: Duration::from_secs(30),
        }
    }
}

/// Where a ledger keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory, gone with the process.
    Memory,
    /// In `ledger.sqlite` in this directory, which is made if missing. A restart continues it; passphrase, fees and protocol stay as
    /// they were when it was made.
    Directory(PathBuf),
}

/// When ledgers close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// On a timer, transactions or not, as public networks do.
    Every(Duration),
    /// As soon as a transaction was accepted.
    OnDemand,
    /// Only when [`Ledger::close`](crate::Ledger::close) or [`Ledger::advance`](crate::Ledger::advance) is called.
    Manual,
}
