//! Replays what another ledger answered, and says where this one answers differently.
//!
//! A recording is a JSON file: every submission with the last closed ledger of that moment and its answer, every ledger's header, and of
//! every applied transaction its place, result, meta and fee changes (all XDR in base64). It begins with ledger 1, so the genesis
//! state follows from the passphrase and the first header, and protocol upgrades are among what is replayed.
//!
//! | module | what | sees answers |
//! |---|---|---|
//! | [`recording`] | reads the file | yes |
//! | [`run`] | the ledger's side: [`Script`] in, [`Answers`](run::Answers) out | no: a script has no field for them |
//! | [`compare`] | both sides, submission by submission | yes |
//!
//! The ledger's side is given, for each ledger, its close time, the hash of its transaction set, its upgrades and its transactions in
//! the recorded order; and each submission's envelope. It answers with the queue's and the core's own code, the same as the
//! server's.

mod compare;
mod recording;
mod run;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use compare::{Difference, What};
pub use recording::{Recording, Script, Status};

/// Why a recording cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Not JSON, or not in the format.
    #[error("this is no recording of a ledger: {0}")]
    Format(String),
    /// One of its parts makes no sense.
    #[error("the recording is damaged at {place}: {problem}")]
    Damaged {
        /// Which part.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What an account has after a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountAfter {
    /// Its sequence number, if the transaction touched the account itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// Its balances that were touched, in stroops, by `native` or `CODE:ISSUER`.
    pub balances: BTreeMap<String, i64>,
}

/// One submission: what this ledger answered, and how that compares.
#[derive(Clone, Debug, Serialize)]
pub struct SubmissionReport {
    /// Its place in the recording, from 0.
    pub index: usize,
    /// Its hash, in hexadecimal.
    pub hash: String,
    /// The last closed ledger when it was submitted.
    pub lcl: u32,
    /// What this ledger answered at once.
    pub status: Status,
    /// The result of the refusal or, once applied, of the transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_xdr: Option<String>,
    /// The fee that the result names, in stroops. A refusal names one and takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_charged: Option<i64>,
    /// The ledger it was applied in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<u32>,
    /// Its place in that ledger, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// The changes of taking the fee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_changes_xdr: Option<String>,
    /// The changes of applying it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_xdr: Option<String>,
    /// The accounts it touched, as it left them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<String, AccountAfter>,
    /// Whether everything is recorded, and the same.
    pub agrees: bool,
    /// What the recording does not have, so that nothing can be said of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<&'static str>,
    /// What differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

/// One ledger's header.
#[derive(Clone, Debug, Serialize)]
pub struct LedgerReport {
    /// Its sequence.
    pub sequence: u32,
    /// How many transactions it has.
    pub transactions: usize,
    /// Whether it is the same, as far as headers can be: the hash over all entries is stellar-core's own affair.
    pub agrees: bool,
    /// What differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

/// The whole comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many submissions there are.
    pub total: usize,
    /// How many of them agree in everything.
    pub agree: usize,
    /// How many ledgers there are after the first.
    pub ledgers_total: usize,
    /// How many of their headers agree.
    pub ledgers_agree: usize,
    /// Every submission.
    pub submissions: Vec<SubmissionReport>,
    /// Every ledger after the first.
    pub ledgers: Vec<LedgerReport>,
}

impl Report {
    /// Whether everything agrees, and there was something to compare.
    pub fn all_agree(&self) -> bool {
        self.total > 0 && self.agree == self.total && self.ledgers_agree == self.ledgers_total
    }

    /// The report as JSON.
    pub fn json(&self) -> String {
        // It consists of strings, numbers and lists of them, which serde_json always writes.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// What differs, line by line, and at the end `N of N agree`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.submissions {
            for difference in &one.differences {
                writeln!(f, "submission {} ({}): {difference}", one.index, one.hash)?;
            }
            if !one.missing.is_empty() {
                let missing = one.missing.join(", ");
                writeln!(f, "submission {} ({}): not recorded: {missing}", one.index, one.hash)?;
            }
        }
        for one in &self.ledgers {
            for difference in &one.differences {
                writeln!(f, "ledger {}: {difference}", one.sequence)?;
            }
        }
        writeln!(
            f,
            "{} of {} ledger headers agree",
            self.ledgers_agree, self.ledgers_total
        )?;
        write!(f, "{} of {} agree", self.agree, self.total)
    }
}

/// Replays a recording and compares every answer with the recorded one. The ledger sees none of those.
pub fn replay(recording: &Recording) -> Result<Report, ReplayError> {
    replay_against(recording, recording)
}

/// Replays one copy of a recording, which may be without any answers, and compares with another.
pub fn replay_against(copy: &Recording, full: &Recording) -> Result<Report, ReplayError> {
    if !copy.is_of_the_same(full) {
        return Err(ReplayError::Damaged {
            place: "submissions".to_owned(),
            problem: "the two files are not of the same recording".to_owned(),
        });
    }
    let answers = run::answers(&copy.script())?;
    Ok(compare::compare(full, &answers))
}
