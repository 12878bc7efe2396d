//! What accounting needs: days, and transactions with their hashes. This is for the owner's own accounts: a hash leads to
//! the accounts on the ledger.

use std::io;

use serde::Serialize;

use super::report::units;
use super::{Auditor, Finding};
use crate::days::{Day, date};
use crate::journal::Fact;

/// A transaction of the journal's owner that is in a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// Its number in the journal.
    pub number: i64,
    /// The day on which it was seen there, days since 1970.
    pub day: u32,
    /// `open`, `flush`, `refund`, `sweep`, `merge` or `wallet`.
    pub purpose: String,
    /// It failed: the fee was paid, and nothing else was done.
    pub failed: bool,
    /// The ledger.
    pub ledger: Option<u32>,
    /// Fee, stroops of lumens.
    pub fee: i64,
    /// What an opening locked or a flush paid us, stroops.
    pub stroops: Option<i64>,
    /// Its hash.
    pub hash: [u8; 32],
}

/// A journal as accounting sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// Day by day.
    pub days: Vec<Day>,
    /// By day.
    pub transactions: Vec<Transaction>,
    /// What an audit found: if there is anything, the figures are not to be relied on.
    pub findings: Vec<Finding>,
}

/// The columns.
const HEAD: [&str; 12] = [
    "day",
    "line",
    "payments",
    "carried_bytes",
    "earned",
    "forwarded",
    "signed",
    "settled",
    "locked",
    "fee_xlm",
    "ledger",
    "transaction",
];

impl Accounting {
    pub(super) fn new<F: Fact>(auditor: Auditor<F>) -> Accounting {
        Accounting {
            days: auditor.days(),
            transactions: auditor.transactions,
            findings: auditor.findings,
        }
    }

    /// Writes it as CSV (RFC 4180) with a line of names. Each day has a line `traffic` and one for each transaction that was
    /// seen in a ledger on it. Amounts are in units of the asset with seven places, fees in lumens.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn write_csv(&self, out: impl io::Write) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(HEAD)?;
        let mut lines: Vec<(String, usize, [String; 12])> = Vec::new();
        for day in &self.days {
            let line = [
                day.day.clone(),
                "traffic".into(),
                day.payments.to_string(),
                day.carried_bytes.to_string(),
                units(day.earned),
                units(day.forwarded),
                units(day.signed),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ];
            lines.push((day.day.clone(), 0, line));
        }
        for (place, transaction) in (1..).zip(&self.transactions) {
            let day = date(transaction.day);
            let amount = |purpose: &str| {
                let amount = transaction.stroops.filter(|_| transaction.purpose == purpose);
                amount.map_or_else(String::new, |stroops| units(stroops.into()))
            };
            let failed = if transaction.failed { " failed" } else { "" };
            let line = [
                day.clone(),
                format!("{}{failed}", transaction.purpose),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                amount("flush"),
                amount("open"),
                units(transaction.fee.into()),
                transaction.ledger.map_or_else(String::new, |ledger| ledger.to_string()),
                hex::encode(transaction.hash),
            ];
            lines.push((day, place, line));
        }
        lines.sort();
        for (_, _, line) in lines {
            csv.write_record(line)?;
        }
        csv.flush()
    }
}
