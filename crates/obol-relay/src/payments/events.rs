//! What happens, for people who watch.

use serde::Serialize;

/// Something that happened to the money. Escrows are addresses (`G...`), amounts stroops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An escrow that pays us was read on the ledger and believed.
    Believed {
        /// E.
        escrow: String,
        /// Whether a client pays by it, or a relay.
        from_client: bool,
        /// What it holds.
        stroops: i64,
    },
    /// A payer's claim was stored.
    Claim {
        /// E.
        escrow: String,
        /// Its number.
        k: u32,
        /// What it pays in all.
        cumulative: i64,
    },
    /// The client of a circuit was asked to pay.
    Requested {
        /// The circuit's name in this process.
        circuit: u64,
        /// Bytes carried on it.
        metered: u64,
    },
    /// A payment was credited to a circuit.
    Credited {
        /// The circuit's name in this process.
        circuit: u64,
        /// The payment.
        n: u16,
        /// Earned here.
        earned: i64,
        /// Passed on.
        forwarded: i64,
        /// Bytes of credit.
        bytes: u64,
        /// The relay that the circuit came from: its Ed25519 identity. `None`: a client.
        from: Option<String>,
    },
    /// A payment was refused here.
    Refused {
        /// Why.
        code: &'static str,
    },
    /// Another relay accepted to be paid by an escrow of ours.
    Accepted {
        /// E.
        escrow: String,
        /// Its Ed25519 identity.
        payee: String,
        /// What will go in.
        stroops: i64,
    },
    /// An escrow of ours is on the ledger.
    Opened {
        /// E.
        escrow: String,
        /// What it holds.
        stroops: i64,
    },
    /// A claim of ours was signed.
    Signed {
        /// E.
        escrow: String,
        /// Its number.
        k: u32,
        /// What it pays in all.
        cumulative: i64,
    },
    /// An escrow that pays us is being flushed.
    Flushing {
        /// E.
        escrow: String,
        /// What the claim pays.
        stroops: i64,
    },
    /// An escrow that pays us has ended on the ledger.
    Settled {
        /// E.
        escrow: String,
        /// What it paid.
        stroops: i64,
    },
    /// An escrow of ours has ended on the ledger.
    Ended {
        /// E.
        escrow: String,
        /// What it paid the payee.
        stroops: i64,
    },
    /// An escrow of ours was taken back after its expiry.
    Refunded {
        /// E.
        escrow: String,
        /// What came back.
        stroops: i64,
    },
    /// What an ended escrow of ours still held is ours again.
    Swept {
        /// E.
        escrow: String,
    },
    /// An ended escrow's account is gone, its lumens ours again.
    Merged {
        /// E.
        escrow: String,
    },
    /// Payments have stopped; the relay serves everybody unpaid.
    Stopped {
        /// Why.
        why: String,
    },
}
