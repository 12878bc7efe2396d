//! What the demonstration found: one JSON object for programs, tables for people.

use std::collections::BTreeMap;

use serde::Serialize;

use super::show::{Show, bytes, units};

/// One paid hop of the download's circuit.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct HopReport {
    pub(crate) position: &'static str,
    pub(crate) fingerprint: String,
    /// Stroops per 64 KiB, as quoted, and per MiB.
    pub(crate) price_per_64_kib: i64,
    pub(crate) price_per_mib: i64,
    /// Bytes that the hop itself counted on the circuit.
    pub(crate) metered_bytes: u64,
    /// Bytes that were bought there.
    pub(crate) bought_bytes: u64,
    /// What the hop booked for the circuit: its price, and its fee for passing money on.
    pub(crate) paid_stroops: i64,
    /// What it passed on for the circuit.
    pub(crate) forwarded_stroops: i64,
    /// Everything that its escrows paid it on the ledger, whatever circuit it was for, less what it paid on by its own.
    pub(crate) settled_stroops: i64,
    /// The same by the last claims that it held and gave.
    pub(crate) last_claims_stroops: i64,
}

/// Something that must hold.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    pub(crate) what: &'static str,
    pub(crate) ok: bool,
    pub(crate) found: String,
}

/// Resident memory of one relay's process.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) nickname: String,
    /// A tenth into the download, at its end, and the most seen, in KiB.
    pub(crate) early_kib: u64,
    pub(crate) late_kib: u64,
    pub(crate) most_kib: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    pub(crate) bytes: u64,
    pub(crate) sha256_ok: bool,
    pub(crate) sha256: String,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) hops: Vec<HopReport>,
    pub(crate) payments: u64,
    pub(crate) round_trips_per_payment: f64,
    pub(crate) payment_cells_per_payment: f64,
    /// Payment bytes (cells to and from every hop, quotes and offers too, and link messages) / bytes carried.
    pub(crate) payment_overhead: f64,
    pub(crate) first_payment_ms: Option<u64>,
    /// Bytes per second at the guard while both want more than there is.
    pub(crate) guard_limit: u64,
    pub(crate) paid_rate: f64,
    pub(crate) unpaid_rate: f64,
    /// The unpaid circuit alone, under `leftover` and under `capped`.
    pub(crate) unpaid_alone_rate: f64,
    pub(crate) cap: u64,
    pub(crate) unpaid_capped_rate: f64,
    pub(crate) escrows_flushed: usize,
    pub(crate) escrows_refunded: usize,
    pub(crate) ledger_transactions: usize,
    pub(crate) stroops_created_or_lost: i64,
    /// What every account holds of the asset at the end, in stroops.
    pub(crate) balances: BTreeMap<String, i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) relay_memory: Vec<Memory>,
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(crate) fn check(&mut self, what: &'static str, ok: bool, found: impl Into<String>) {
        self.checks.push(Check {
            what,
            ok,
            found: found.into(),
        });
    }

    /// All that was checked held.
    pub(crate) fn conclude(&mut self) {
        self.ok = !self.checks.is_empty() && self.checks.iter().all(|c| c.ok);
    }

    pub(crate) fn print(&self, show: &Show) {
        show.part("What each relay earned");
        show.line("hop      relay     stroops/64 KiB     metered      bought   paid (stroops)   settled on the ledger");
        for hop in &self.hops {
            show.line(&format!(
                "{:<8} {:<9} {:>14} {:>11} {:>11} {:>16} {:>23}",
                hop.position,
                hop.fingerprint.get(..8).unwrap_or(""),
                hop.price_per_64_kib,
                bytes(hop.metered_bytes),
                bytes(hop.bought_bytes),
                hop.paid_stroops,
                hop.settled_stroops,
            ));
        }
        show.line(&format!(
            "{} payments, {:.1} cells and {:.2} round trips each, {:.4} % of the bytes; first credit after {} ms",
            self.payments,
            self.payment_cells_per_payment,
            self.round_trips_per_payment,
            self.payment_overhead * 100.0,
            self.first_payment_ms
                .map_or_else(|| "-".to_owned(), |ms| ms.to_string()),
        ));
        show.part("The ledger at the end");
        for (account, balance) in &self.balances {
            show.line(&format!("{account:<44} {:>20}", units(*balance)));
        }
        show.line(&format!(
            "{} transactions, {} escrows flushed, {} refunded; created or lost: {} stroops",
            self.ledger_transactions, self.escrows_flushed, self.escrows_refunded, self.stroops_created_or_lost
        ));
        show.part("Checks");
        for check in &self.checks {
            show.line(&format!(
                "{} {}: {}",
                if check.ok { "ok  " } else { "FAIL" },
                check.what,
                check.found
            ));
        }
    }
}
