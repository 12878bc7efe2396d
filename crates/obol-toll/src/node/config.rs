//! What an operator sets.

use super::limits::Limits;
use super::trust::TrustConfig;
use obol_cell::{PeerId, Stroops, Tariff, UNIT};

/// The settings of a [`super::Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeConfig {
    /// This relay's Ed25519 identity.
    pub identity: PeerId,
    /// Price terms, ledger, asset and escrow rules for *incoming* money. A change binds new circuits and escrows only.
    pub tariff: Tariff,
    /// Initial credit of a circuit, bytes (256 KiB).
    pub initial_credit: u64,
    /// What a client address may take of it at once, bytes (4 MiB).
    pub address_bucket: u64,
    /// How fast that refills, bytes per second (64 KiB/s).
    pub address_refill: u64,
    /// How fast a relay neighbour's bucket refills, bytes per second (1 % of the rate); it holds 64 seconds' worth.
    pub neighbour_refill: u64,
    /// At most this many new escrows are believed in a minute.
    pub escrows_per_minute: u32,
    /// Deposit of an escrow to another relay: at least this, and three times what the pair's last week came to.
    pub deposit: Stroops,
    /// That much at most, however much the week came to (but never less than the payee's minimum); `None`: no bound.
    pub max_deposit: Option<Stroops>,
    /// Life of an escrow to another relay, seconds (7 days), within the payee's rules.
    pub life: u32,
    /// An escrow to another relay with less than this left is not offered for new circuits (`next: none`), and the next
    /// one is asked for.
    pub reserve: Stroops,
    /// Longest random delay after a start before the first escrows are asked for, milliseconds (0 on the embedded ledger).
    pub opening_jitter_ms: u64,
    /// After that escrows are asked for in batches, one at a random time of each period of this length, milliseconds (6 hours). Zero
    /// (the embedded ledger): whenever one is wanted, after the delay above.
    pub opening_period_ms: u64,
    /// At most this many in a batch; who is in it is drawn by consensus weight and past volume.
    pub openings_per_batch: u32,
    /// Flush after a `CloseEscrow` at a random time within this, milliseconds (an hour; 0 on the embedded ledger).
    pub close_jitter_ms: u64,
    /// Flush an escrow once this much is unsettled on it, the exposure limit; `None`: only by time and request.
    pub flush_above: Option<Stroops>,
    /// Whether this relay opens escrows to other relays at all.
    pub pays_others: bool,
    /// What others may cost us, besides.
    pub limits: Limits,
    /// What may be owed instead of secured.
    pub trust: TrustConfig,
}

impl NodeConfig {
    /// The defaults for a relay with this tariff, which shares `rate` bytes per second.
    pub fn new(identity: PeerId, tariff: Tariff, rate: u64) -> Self {
        NodeConfig {
            identity,
            tariff,
            initial_credit: 4 * UNIT,
            address_bucket: 64 * UNIT,
            address_refill: UNIT,
            neighbour_refill: (rate / 100).max(1),
            escrows_per_minute: 60,
            deposit: tariff.rules.min_deposit,
            life: 7 * 86_400,
            reserve: Stroops::ZERO,
            max_deposit: None,
            opening_jitter_ms: 600_000,
            opening_period_ms: 21_600_000,
            openings_per_batch: 32,
            close_jitter_ms: 3_600_000,
            flush_above: None,
            pays_others: true,
            limits: Limits {
                escrows_per_minute_of_one: Some(15),
                ..Limits::default()
            },
            trust: TrustConfig::default(),
        }
    }
}
