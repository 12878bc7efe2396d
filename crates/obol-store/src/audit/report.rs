//! What an audit tells people and programs. No account, no identity, no hash is in it.

use std::fmt;

use serde::Serialize;

use super::{Auditor, Finding};
use crate::days::Day;
use crate::journal::Fact;

/// Whether the books are proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is as it must be.
    Proved,
    /// Something is not: see the findings.
    Refuted,
}

/// What became of submissions to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Submissions {
    /// In a ledger, and did what they say.
    pub applied: u64,
    /// In a ledger, and failed.
    pub failed: u64,
    /// In no ledger, ever.
    pub dead: u64,
    /// Nobody knows yet.
    pub pending: u64,
    /// Fees paid, stroops of lumens.
    pub fees: i128,
}

impl Submissions {
    pub(super) fn count(&mut self, outcome: Option<&str>, fee: i64) {
        match outcome {
            Some("applied") => self.applied += 1,
            Some("failed") => self.failed += 1,
            Some(_) => self.dead += 1,
            None => self.pending += 1,
        }
        self.fees += i128::from(fee);
    }
}

/// The balance of all accounts of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// The kind of account.
    pub account: &'static str,
    /// Debits less credits, stroops.
    pub stroops: i128,
    /// What it holds.
    pub meaning: &'static str,
}

/// The result of an audit. Amounts are stroops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `relay` or `client`.
    pub journal: &'static str,
    /// 1, and one more for each import.
    pub epoch: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// What is wrong, the first hundred things.
    pub findings: Vec<Finding>,
    /// Facts that were looked at.
    pub facts: u64,
    /// Appends in which these came.
    pub appends: u64,
    /// Facts of which only daily sums are left.
    pub erased: u64,
    /// Income over the journal's life, less what was given back.
    pub earned: i128,
    /// Balances by kind of account; together they are zero.
    pub balances: Vec<Balance>,
    /// Submissions to the ledger.
    pub submissions: Submissions,
    /// Day by day, and step by step.
    pub days: Vec<Day>,
}

impl Report {
    pub(super) fn new<F: Fact>(auditor: Auditor<F>) -> Report {
        let days = auditor.days();
        let balances = auditor.books.by_class();
        Report {
            journal: F::KIND,
            epoch: auditor.epoch,
            verdict: if auditor.findings.is_empty() {
                Verdict::Proved
            } else {
                Verdict::Refuted
            },
            facts: auditor.at.sequence.saturating_sub(auditor.erased),
            appends: auditor.appends,
            erased: auditor.erased,
            earned: days.iter().map(|day| day.earned).sum(),
            balances: balances
                .into_iter()
                .map(|(account, stroops)| Balance {
                    account,
                    stroops,
                    meaning: meaning(account),
                })
                .collect(),
            submissions: auditor.submissions,
            days,
            findings: auditor.findings,
        }
    }

    /// Whether the books are proved.
    pub fn is_proved(&self) -> bool {
        self.verdict == Verdict::Proved
    }
}

fn meaning(class: &str) -> &'static str {
    match class {
        "claims" => "what payers' claims are worth to us",
        "payer" => "of that, what no circuit has",
        "held" => "of that, what circuits have not spent",
        "forwarding" => "taken for next hops, not signed on yet",
        "earned" => "income",
        "kept" => "income of circuits that ended",
        "signed" => "our claims, owed to payees",
        "deposit" => "locked in escrows of ours",
        "capital" => "own money outside of escrows",
        "received" => "paid to us on the ledger",
        "lost" => "claimed and not paid, or paid without a claim",
        "gained" => "claims of ours that lapsed, and gifts",
        "spent" => "signed away for traffic",
        "owed-by" => "owed to us by peers, unsecured",
        "trusted" => "of that, what no circuit has",
        "held-by-trust" => "of that, what circuits have not spent",
        "owed-to" => "owed by us to peers, unsecured",
        _ => "",
    }
}

/// Stroops as units with seven places, with their sign.
pub(crate) fn units(stroops: i128) -> String {
    let sign = if stroops < 0 { "-" } else { "" };
    let stroops = stroops.unsigned_abs();
    format!("{sign}{}.{:07}", stroops / 10_000_000, stroops % 10_000_000)
}

impl fmt::Display for Report {
    /// As `obol wallet audit` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "journal of a {}, epoch {}", self.journal, self.epoch)?;
        for day in &self.days {
            write_day(f, day)?;
        }
        if !self.balances.is_empty() {
            writeln!(f, "\nbalances (debits less credits):")?;
        }
        for balance in self.balances.iter().filter(|balance| balance.stroops != 0) {
            let amount = units(balance.stroops);
            writeln!(f, "  {:<14} {amount:>24}  {}", balance.account, balance.meaning)?;
        }
        let sum: i128 = self.balances.iter().map(|balance| balance.stroops).sum();
        writeln!(f, "  {:<14} {:>24}", "in all", units(sum))?;
        let Submissions {
            applied,
            failed,
            dead,
            pending,
            fees,
        } = self.submissions;
        writeln!(
            f,
            "\nledger: {applied} transactions applied, {failed} failed, {dead} never got there, {pending} not known yet; \
             fees {} XLM",
            units(fees)
        )?;
        let (facts, appends) = (self.facts, self.appends);
        write!(f, "\n{facts} facts in {appends} appends were looked at")?;
        if self.erased > 0 {
            write!(f, "; of {} before them the daily sums are kept", self.erased)?;
        }
        writeln!(f)?;
        match self.verdict {
            Verdict::Proved => writeln!(
                f,
                "verdict: the books are proved: sums are zero, every claim is covered, nothing is settled twice"
            ),
            Verdict::Refuted => {
                writeln!(f, "verdict: THE BOOKS ARE NOT PROVED: {} findings", self.findings.len())?;
                self.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
            }
        }
    }
}

fn write_day(f: &mut fmt::Formatter<'_>, day: &Day) -> fmt::Result {
    let erased = if day.erased { " (sums only)" } else { "" };
    writeln!(
        f,
        "\n{}{erased}: {} payments, {} bytes, earned {}",
        day.day,
        day.payments,
        day.carried_bytes,
        units(day.earned)
    )?;
    for step in &day.steps {
        writeln!(
            f,
            "  {:>8} steps of {:>10} bytes: earned {}, on to next hops {}",
            step.count,
            step.bytes,
            units(step.earned),
            units(step.forwarded)
        )?;
    }
    for moved in &day.moves {
        writeln!(
            f,
            "  {:>8} x {:>22}  {} -> {}: {}",
            moved.count,
            units(moved.stroops),
            moved.credit,
            moved.debit,
            moved.meaning
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::units;

    #[test]
    fn amounts_have_seven_places_and_their_sign() {
        assert_eq!(units(0), "0.0000000");
        assert_eq!(units(-1), "-0.0000001");
        assert_eq!(units(12_345_678), "1.2345678");
    }
}
