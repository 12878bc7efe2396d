//! What a user sets.

use super::budget::Budgets;
use obol_cell::{Asset, NetworkId, PricePer64KiB, Stroops};

/// When to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayPolicy {
    /// Keep every paid hop in credit.
    Always,
    /// Withhold one step in 16 at random, and pay half as often where that slows nothing (2.12).
    #[default]
    WhenItHelps,
    /// Never; everything is carried in the unpaid class.
    Never,
}

/// The settings of a [`super::Payer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayerConfig {
    /// When to pay.
    pub pay: PayPolicy,
    /// The ledger that its money is on.
    pub network: NetworkId,
    /// The asset that its money is.
    pub asset: Asset,
    /// No hop is paid more than this.
    pub hop_ceiling: PricePer64KiB,
    /// 64 KiB over the whole chain, fees included, may not cost more than this.
    pub chain_ceiling: Stroops,
    /// The most that is signed away.
    pub budgets: Budgets,
    /// Deposit of an escrow to a guard (at least the guard's minimum).
    pub deposit: Stroops,
    /// The most that may be locked in escrows to all guards together, those that are being closed included; `None`: no limit.
    pub max_locked: Option<Stroops>,
    /// Life of an escrow to a guard, seconds (24 hours), within the guard's rules.
    pub life: u32,
    /// Longest random delay before an escrow to a guard first seen is asked for, milliseconds (10 minutes; 0 on the
    /// embedded ledger).
    pub opening_jitter_ms: u64,
    /// How long tunnels take at random to move to a new escrow, milliseconds.
    pub rollover_jitter_ms: u64,
}

impl PayerConfig {
    /// The defaults, with these ceilings.
    pub fn new(network: NetworkId, asset: Asset, hop_ceiling: PricePer64KiB, deposit: Stroops) -> Self {
        PayerConfig {
            pay: PayPolicy::default(),
            network,
            asset,
            hop_ceiling,
            chain_ceiling: hop_ceiling.stroops().checked_mul(8).unwrap_or(Stroops::MAX),
            budgets: Budgets::default(),
            deposit,
            max_locked: None,
            life: 86_400,
            opening_jitter_ms: 600_000,
            rollover_jitter_ms: 600_000,
        }
    }
}
