//! What the client tells people while it works: one stream of small facts, for a progress display or a log.
//!
//! Nothing here is needed to operate the client, and nothing may be inferred from a missing event: the stream is a
//! broadcast, and a listener that is too slow misses some.

use std::fmt;

/// Something that people may like to see.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The directory is loaded, circuits can be built.
    Bootstrapped,
    /// The wallet looked at its own account on the ledger.
    Wallet {
        /// The account, `G...`.
        account: String,
        /// What it holds of the asset, in stroops.
        balance: i64,
    },
    /// An escrow to a guard is wanted; its opening transaction goes out now.
    EscrowOpening {
        /// The guard, as [`HopFigures::fingerprint`](crate::HopFigures::fingerprint).
        guard: String,
        /// Deposit, in stroops.
        deposit: i64,
    },
    /// The ledger has the escrow.
    EscrowOpened {
        /// The guard.
        guard: String,
        /// The escrow account, `G...`.
        escrow: String,
        /// Deposit, in stroops.
        deposit: i64,
        /// When it expires, in unix seconds.
        expiry: u64,
    },
    /// The escrow could not be opened now; it is tried again later where that makes sense.
    EscrowFailed {
        /// The guard.
        guard: String,
        /// Why, for people.
        reason: String,
    },
    /// An escrow was settled: the claim reached the ledger, the rest came back.
    EscrowSettled {
        /// The guard.
        guard: String,
        /// The escrow account, `G...`.
        escrow: String,
        /// What the guard received, in stroops.
        paid: i64,
        /// What came back to the wallet, in stroops.
        returned: i64,
    },
    /// The escrow expired without a claim on the ledger, and the deposit was taken back whole.
    EscrowRefunded {
        /// The guard.
        guard: String,
        /// The escrow account, `G...`.
        escrow: String,
        /// What came back to the wallet, in stroops.
        returned: i64,
    },
    /// A tunnel carries its first stream.
    TunnelOpened {
        /// The tunnel, as [`TunnelFigures::tunnel`](crate::TunnelFigures::tunnel).
        tunnel: u64,
        /// The hops' fingerprints, guard first; empty for a virtual hop.
        hops: Vec<String>,
        /// Whether each of them can be paid (`Obol=1`).
        paid: Vec<bool>,
    },
    /// A hop named its price.
    Quoted {
        /// The tunnel.
        tunnel: u64,
        /// The hop, from 1 at the guard.
        hop: u8,
        /// Price in stroops per 64 KiB.
        price_per_64_kib: i64,
        /// What it takes for passing money on, in parts per million.
        forward_ppm: u32,
    },
    /// The last paid hop asked for the next step.
    Requested {
        /// The tunnel.
        tunnel: u64,
        /// Bytes that hop says it carried.
        metered: u64,
        /// Bytes of credit that are left there.
        credit: u64,
    },
    /// A payment goes out.
    Paying {
        /// The tunnel.
        tunnel: u64,
        /// Its number on the tunnel, from 1.
        payment: u16,
        /// Bytes bought at every hop.
        step: u64,
        /// What each paid hop gets and forwards, in stroops, guard first.
        amounts: Vec<i64>,
    },
    /// All hops have it: the step is credited.
    Paid {
        /// The tunnel.
        tunnel: u64,
        /// Its number.
        payment: u16,
        /// Bytes of credit at the last paid hop.
        credit: u64,
        /// From sending the payment to its completion, in milliseconds.
        millis: u64,
    },
    /// A hop could not or would not pass a payment on.
    PaymentRefused {
        /// The tunnel.
        tunnel: u64,
        /// Its number.
        payment: u16,
        /// How many legs from the last paid hop the refusal came from.
        distance: u8,
        /// The code on the wire, in words.
        code: String,
    },
    /// This client does not pay; the tunnel goes on in the unpaid class.
    NotPaying {
        /// The tunnel.
        tunnel: u64,
        /// Why.
        why: Refusal,
    },
    /// A tunnel was given up.
    TunnelRetired {
        /// The tunnel.
        tunnel: u64,
        /// Why.
        why: RetireReason,
    },
    /// A tunnel ended, as tunnels do.
    TunnelClosed {
        /// The tunnel.
        tunnel: u64,
    },
    /// Something that a person should know and that fits nowhere else.
    Warning {
        /// The whole of it.
        text: String,
    },
}

/// Why this client does not pay on a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// `pay = "never"`.
    Never,
    /// The guard does not advertise `Obol=1`.
    GuardIsNotPaid,
    /// A hop asks more than its ceiling.
    PriceOverCeiling,
    /// A step would exceed the budget of the day.
    BudgetSpent,
    /// A hop named another price than before on the same day.
    PriceChanged,
    /// A hop claims to have carried more than the own meter can believe.
    MeterDisputed,
    /// A hop is paid in another asset, or on another network.
    OtherMoney,
    /// No escrow to the guard is open (yet).
    NoEscrow,
    /// The guard failed too often to be trusted with money.
    GuardUnreliable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Never => "this client never pays",
            Refusal::GuardIsNotPaid => "the guard is not a paid relay",
            Refusal::PriceOverCeiling => "a hop's price is over the ceiling",
            Refusal::BudgetSpent => "the day's budget is spent",
            Refusal::PriceChanged => "a hop changed its price during the day",
            Refusal::MeterDisputed => "a hop claims to have carried more than was carried",
            Refusal::OtherMoney => "a hop is paid in another asset or on another network",
            Refusal::NoEscrow => "no escrow to the guard is open",
            Refusal::GuardUnreliable => "the guard failed too often",
        })
    }
}

/// Why a tunnel was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetireReason {
    /// A hop did not answer in its time.
    Silent,
    /// A hop answered what cannot be.
    ProtocolError,
    /// A hop claims more than the own meter can believe, and was left.
    MeterDisputed,
    /// A hop of it is not trusted any more.
    Unreliable,
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RetireReason::Silent => "a hop did not answer",
            RetireReason::ProtocolError => "a hop broke the payment protocol",
            RetireReason::MeterDisputed => "a hop claims to have carried more than was carried",
            RetireReason::Unreliable => "a hop failed too often",
        })
    }
}
