//! The configuration's section `[bandwidth]`.

use serde::{Deserialize, Serialize};

use super::values::Size;
use super::{ConfigError, invalid};

/// What the unpaid class gets of the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpaid {
    /// All that the paid circuits leave.
    Leftover,
    /// Never more than `unpaid_cap`, even where nobody pays.
    Capped,
}

/// Rates, in bytes of cells per second, both directions together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bandwidth {
    /// What the relay carries at most. Absent: as much as it can, self-measured.
    pub rate: Option<Size>,
    /// With `rate`: what may be saved up while less is carried, to be carried at once. Absent: nothing.
    pub burst: Option<Size>,
    /// Without `rate`, and as long as too little is carried to know: send cells to itself through other relays, to measure it.
    pub self_test: bool,
    /// What circuits without credit get.
    pub unpaid: Unpaid,
    /// With `unpaid = "capped"`: the cap of the unpaid class.
    pub unpaid_cap: Size,
    /// Bytes that every new circuit may carry in the paid class before it has paid.
    pub initial_credit: Size,
    /// Bucket of initial credit per client address (IPv6: per /64).
    pub initial_credit_per_address: Size,
    /// Refill of that bucket, per second.
    pub initial_credit_refill: Size,
    /// Bucket of directory answers per client address (IPv6: per /64). Directory service is not paid for.
    pub directory_per_address: Size,
    /// Refill of that bucket, per second.
    pub directory_refill: Size,
}

impl Default for Bandwidth {
    fn default() -> Bandwidth {
        Bandwidth {
            rate: None,
            burst: None,
            self_test: true,
            unpaid: Unpaid::Leftover,
            unpaid_cap: Size::mib(1),
            initial_credit: Size::kib(256),
            initial_credit_per_address: Size::mib(4),
            initial_credit_refill: Size::kib(64),
            directory_per_address: Size::mib(64),
            directory_refill: Size::kib(64),
        }
    }
}

impl Bandwidth {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(rate) = self.rate
            && rate < Size::kib(16)
        {
            return Err(invalid(
                "bandwidth.rate",
                format!("is {rate}"),
                "allow at least \"16 KiB\" a second, or remove the key",
            ));
        }
        if let Some(burst) = self.burst
            && self.rate.is_none_or(|rate| burst < rate)
        {
            return Err(invalid(
                "bandwidth.burst",
                format!("is {burst}"),
                "make it at least bandwidth.rate, which it needs, or remove the key",
            ));
        }
        if self.unpaid == Unpaid::Capped && self.unpaid_cap < Size::kib(16) {
            return Err(invalid(
                "bandwidth.unpaid_cap",
                format!("is {}", self.unpaid_cap),
                "allow at least \"16 KiB\" a second: circuits are built in the unpaid class",
            ));
        }
        if self.directory_per_address < Size::mib(1) {
            return Err(invalid(
                "bandwidth.directory_per_address",
                format!("is {}", self.directory_per_address),
                "allow at least \"1 MiB\": a client needs some to learn the network",
            ));
        }
        Ok(())
    }
}
