//! What stands beside the facts: submissions, secrets, settings, and transactions whose submissions were erased.

use std::collections::HashMap;

use obol_cell::EscrowId;
use rusqlite::Connection;

use super::{Auditor, Transaction};
use crate::error::StoreError;
use crate::journal::Fact;
use crate::submissions::locked_by;
use crate::{retention, state, submissions};

impl<F: Fact> Auditor<F> {
    pub(super) fn beside(&mut self, db: &Connection) -> Result<(), StoreError> {
        self.erased_transactions(db)?;
        self.submissions(db)?;
        let mut query = db.prepare("SELECT kind, id, secret, digest FROM secrets ORDER BY kind, id")?;
        let mut rows = query.query([])?;
        let mut number = 0;
        while let Some(row) = rows.next()? {
            number += 1;
            let kind: String = row.get(0)?;
            let (id, secret): (Vec<u8>, zeroize::Zeroizing<Vec<u8>>) =
                (row.get(1)?, zeroize::Zeroizing::new(row.get(2)?));
            if row.get::<_, Vec<u8>>(3)? != state::secret_digest(&kind, &id, &secret) {
                self.find(format!("secret {number}"), "it is not what was kept");
            }
        }
        let mut query = db.prepare("SELECT name, value, digest FROM settings ORDER BY name")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (name, value): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            if row.get::<_, Vec<u8>>(2)? != state::setting_digest(&name, &value) {
                self.find(format!("setting {name}"), "it is not what was set");
            }
        }
        Ok(())
    }

    fn erased_transactions(&mut self, db: &Connection) -> Result<(), StoreError> {
        let mut query = db.prepare(&format!(
            "SELECT {}, digest FROM transactions ORDER BY number",
            retention::TRANSACTION
        ))?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get(0)?;
            if row.get::<_, Vec<u8>>(retention::TRANSACTION_COUNT)? != retention::transaction_digest(row)? {
                self.find(format!("transaction {number}"), "it is not what was written");
            }
            let outcome: String = row.get(3)?;
            let fee: i64 = row.get(5)?;
            self.submissions.count(Some(&outcome), fee);
            self.numbers.push(number);
            if outcome == "dead" {
                continue;
            }
            self.transactions.push(Transaction {
                number,
                day: row.get(1)?,
                purpose: row.get(2)?,
                failed: outcome == "failed",
                ledger: row.get(4)?,
                fee,
                stroops: row.get(6)?,
                hash: row.get(7)?,
            });
        }
        Ok(())
    }

    fn submissions(&mut self, db: &Connection) -> Result<(), StoreError> {
        let mut applied = HashMap::<(String, [u8; 32]), i64>::new();
        let mut query = db.prepare(&format!(
            "SELECT {}, digest FROM submissions ORDER BY number",
            submissions::DIGESTED
        ))?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get("number")?;
            self.numbers.push(number);
            let name = || format!("submission {number}");
            if row.get::<_, Vec<u8>>("digest")? != submissions::digest(row)? {
                self.find(name(), "it is not what was recorded");
                continue;
            }
            let outcome: Option<String> = row.get("outcome")?;
            let (ledger, fee): (Option<u32>, Option<i64>) = (row.get("ledger")?, row.get("fee_charged")?);
            let resolved: Option<u32> = row.get("resolved")?;
            let in_ledger = matches!(outcome.as_deref(), Some("applied" | "failed"));
            if outcome.is_some() != resolved.is_some() || in_ledger != (ledger.is_some() && fee.is_some()) {
                self.find(
                    name(),
                    "its outcome is not whole: it has not been resolved exactly once",
                );
            }
            self.submissions.count(outcome.as_deref(), fee.unwrap_or(0));
            let purpose: String = row.get("purpose")?;
            let subject: [u8; 32] = row.get("subject")?;
            if outcome.as_deref() == Some("applied")
                && let Some(before) = applied.insert((purpose.clone(), subject), number)
            {
                self.find(
                    name(),
                    format!("it did on the ledger what submission {before} had done already"),
                );
            }
            if in_ledger {
                let failed = outcome.as_deref() == Some("failed");
                self.transactions.push(Transaction {
                    number,
                    day: resolved.unwrap_or(0),
                    stroops: if failed {
                        None
                    } else {
                        self.amount(&purpose, EscrowId(subject), &row.get::<_, Vec<u8>>("envelope")?)
                    },
                    purpose,
                    failed,
                    ledger,
                    fee: fee.unwrap_or(0),
                    hash: row.get("hash")?,
                });
            }
        }
        self.numbers.sort_unstable();
        let issued = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'submissions'";
        let issued: i64 = db.query_row(issued, [], |row| row.get(0))?;
        let numbers = std::mem::take(&mut self.numbers);
        if let Some(missing) = (1..=issued).find(|number| numbers.binary_search(number).is_err()) {
            self.find(format!("submission {missing}"), "it is missing");
        }
        self.transactions
            .sort_by_key(|transaction| (transaction.day, transaction.number));
        Ok(())
    }

    /// What a transaction moved, as far as the kept facts say.
    fn amount(&self, purpose: &str, escrow: EscrowId, envelope: &[u8]) -> Option<i64> {
        match purpose {
            // It may have opened others with it.
            "open" => locked_by(envelope).or_else(|| self.opened.get(&escrow).copied()),
            "flush" => self.settled.get(&escrow).copied(),
            _ => None,
        }
    }
}
