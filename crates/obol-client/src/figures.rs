//! Figures of a running client, as plain numbers: what was carried, what was paid, to whom.

use crate::events::{FarSide, Refusal};

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Every tunnel that carried a stream since the start, newest last; ended ones too (the newest thousand).
    pub tunnels: Vec<TunnelFigures>,
    /// Every escrow that is not settled yet, and those settled since the start.
    pub escrows: Vec<EscrowFigures>,
    /// Every guard connection, in the order of first use.
    pub guards: Vec<GuardFigures>,
    /// Every onion service that is hosted, as in the configuration.
    pub services: Vec<ServiceFigures>,
}

/// One tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelFigures {
    /// A number that names this tunnel in [`Event`](crate::Event)s; counts from 1 in each run.
    pub tunnel: u64,
    /// Whether it still exists.
    pub open: bool,
    /// Streams that it carried so far.
    pub streams: u64,
    /// Payload bytes written by this side.
    pub payload_sent: u64,
    /// Payload bytes read by this side.
    pub payload_received: u64,
    /// Bytes that the own meter reckons were carried, as relays count them: 514 a cell (without the tolerance).
    pub own_meter: u64,
    /// The hops, guard first.
    pub hops: Vec<HopFigures>,
    /// On a tunnel that meets another's at a rendezvous point: what is known of the hops behind it.
    pub far_side: Option<FarSide>,
    /// Whether it belongs to an onion service that is hosted here.
    pub hosted: bool,
    /// Payments that were completed.
    pub payments: u64,
    /// Payments that were refused.
    pub refused: u64,
    /// Payment requests that came from the last paid hop.
    pub requests: u64,
    /// 51 and 52 cells of payments and requests, each counted once (not those of quotes and escrows).
    pub payment_cells: u64,
    /// 51 and 52 cells of quotes, escrows and balances.
    pub setup_cells: u64,
    /// How many hops are paid, from the guard.
    pub paid_hops: u8,
    /// From the first stream's request to the first credit at the last paid hop, in milliseconds.
    pub first_payment_ms: Option<u64>,
    /// Bytes bought so far (at every paid hop).
    pub bought: u64,
    /// Stroops that left the wallet for this tunnel: what was allocated to hop 1.
    pub spent: i64,
}

/// One hop of a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HopFigures {
    /// The relay's RSA identity, 40 upper-case hexadecimal digits; empty for a virtual hop.
    pub fingerprint: String,
    /// The relay's Ed25519 identity.
    pub identity: Option<[u8; 32]>,
    /// What the consensus calls it.
    pub nickname: Option<String>,
    /// Whether it can be paid.
    pub paid_hop: bool,
    /// Why it is not paid, where it is not.
    pub unpaid: Option<Refusal>,
    /// Its quoted price in stroops per 64 KiB.
    pub price_per_64_kib: Option<i64>,
    /// Bytes that it says it carried, where it said so last.
    pub metered: Option<u64>,
    /// Stroops allocated to it for its own bytes.
    pub paid: i64,
}

/// One escrow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EscrowFigures {
    /// The guard's RSA identity where known, else its Ed25519 identity, in hexadecimal.
    pub guard: String,
    /// The guard's Ed25519 identity.
    pub identity: [u8; 32],
    /// The escrow account.
    pub escrow: String,
    /// Deposit in stroops.
    pub deposit: i64,
    /// Highest cumulative amount signed, in stroops.
    pub signed: i64,
    /// Claim number of it.
    pub claim: u64,
    /// When it expires, in unix seconds.
    pub expiry: u64,
    /// Where it stands, in words.
    pub state: &'static str,
    /// What the ledger says that the guard got, once it is known.
    pub settled: Option<i64>,
}

/// All connections to one address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardFigures {
    /// `address:port`.
    pub address: String,
    /// Bytes sent to it, TLS included.
    pub sent: u64,
    /// Bytes received from it, TLS included.
    pub received: u64,
}

/// A hosted onion service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceFigures {
    /// Its name in the configuration.
    pub nickname: String,
    /// Its address, `....onion`.
    pub address: String,
    /// What Arti believes of it, in words; it may be reachable before that.
    pub state: &'static str,
}
