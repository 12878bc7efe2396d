//! A relay's own account of itself, as its gateway gives it.

use serde::Deserialize;

use crate::control::{Control, ControlError};

/// One circuit through a relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Circuit {
    /// Its handle, of this run only.
    pub circuit: u64,
    /// Whether the relay is its first hop.
    pub from_client: bool,
    /// Bytes sent on, both directions.
    pub metered: u64,
    /// Bytes bought here.
    pub bought: u64,
    /// What the relay earned by it, its forwarding fees included, in stroops.
    pub earned_stroops: i64,
    /// What the relay passed on for it, in stroops.
    pub forwarded_stroops: i64,
    /// Whether it still exists.
    pub open: bool,
}

/// Sums over everything since the relay started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Totals {
    /// What it earned, in stroops.
    pub earned_stroops: i64,
    /// What it passed on, in stroops.
    pub forwarded_stroops: i64,
    /// Payments credited here.
    pub payments: u64,
    /// Bytes of link messages about payments that it sent.
    pub link_payment_bytes_sent: u64,
}

/// One escrow, as payee (`in`) or payer (`out`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Escrow {
    /// `in` or `out`.
    pub direction: String,
    /// The account, `G...`.
    pub escrow: String,
    /// What was paid in, in stroops.
    pub deposit: i64,
    /// The last claim's sum, in stroops.
    pub cumulative: i64,
    /// The last claim's number.
    pub k: u32,
    /// Where it stands.
    pub state: String,
    /// What the ledger paid out by it, once it is known.
    pub settled_stroops: Option<i64>,
}

/// Bytes sent on by class, both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct ClassBytes {
    /// Of circuits with credit.
    pub paid: u64,
    /// Of circuits without.
    pub unpaid: u64,
}

/// The whole of it (fields that nobody here needs are left out).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RelayState {
    /// Its circuits, open ones and the last that ended.
    pub circuits: Vec<Circuit>,
    /// Sums.
    pub totals: Totals,
    /// Its escrows.
    pub escrows: Vec<Escrow>,
    /// What went out by class.
    pub class_bytes: ClassBytes,
}

impl RelayState {
    /// Asks a relay.
    ///
    /// # Errors
    /// If it does not answer, or not with this.
    pub async fn of(control: &Control) -> Result<Self, ControlError> {
        Ok(serde_json::from_value(control.state().await?)?)
    }

    /// The circuit that carried most.
    pub fn busiest(&self) -> Option<&Circuit> {
        self.circuits.iter().max_by_key(|c| c.metered)
    }
}
