//! What happened on a day, without who it was: what an audit explains, what accounting gets, and what is left of facts
//! that were erased.

use std::collections::BTreeMap;

use obol_cell::{DecodeError, Reader, Writer};
use serde::Serialize;

use crate::books::Entry;
use crate::journal::Fact;

/// The version of the encoding.
const FORMAT: u8 = 1;

/// The classes of accounts in the order of their numbers in the encoding; new ones come last.
const CLASSES: [&str; 17] = [
    "claims",
    "payer",
    "held",
    "forwarding",
    "earned",
    "kept",
    "signed",
    "deposit",
    "capital",
    "received",
    "lost",
    "gained",
    "spent",
    "owed-by",
    "trusted",
    "owed-to",
    "held-by-trust",
];

/// Everything of one day, added up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DaySum {
    pub(crate) facts: u64,
    /// By debited and credited class of account: how many entries, and stroops.
    pub(crate) moves: BTreeMap<(&'static str, &'static str), (u64, i128)>,
    /// By size of a step in bytes.
    pub(crate) steps: BTreeMap<u64, StepSum>,
}

/// All steps of one size on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StepSum {
    pub(crate) count: u64,
    pub(crate) earned: i128,
    pub(crate) forwarded: i128,
}

impl DaySum {
    /// Adds a fact and the entries that it makes.
    pub(crate) fn add<F: Fact>(&mut self, fact: &F, entries: &[Entry]) {
        self.facts += 1;
        if let Some(carried) = fact.carried() {
            let step = self.steps.entry(carried.bytes).or_default();
            step.count += 1;
            step.earned += i128::from(carried.earned.get());
            step.forwarded += i128::from(carried.forwarded.get());
        }
        for entry in entries {
            let (count, stroops) = self
                .moves
                .entry((entry.debit.class(), entry.credit.class()))
                .or_default();
            *count += 1;
            *stroops += i128::from(entry.stroops);
        }
    }

    /// Adds another day's sums, or another part of the same.
    pub(crate) fn merge(&mut self, other: &DaySum) {
        self.facts += other.facts;
        for (between, (count, stroops)) in &other.moves {
            let sum = self.moves.entry(*between).or_default();
            sum.0 += count;
            sum.1 += stroops;
        }
        for (bytes, step) in &other.steps {
            let sum = self.steps.entry(*bytes).or_default();
            sum.count += step.count;
            sum.earned += step.earned;
            sum.forwarded += step.forwarded;
        }
    }

    /// What went from accounts of class `credit` to accounts of class `debit`, stroops.
    pub(crate) fn moved(&self, debit: &str, credit: &str) -> i128 {
        let between = self.moves.iter().find(|((d, c), _)| *d == debit && *c == credit);
        between.map_or(0, |(_, (_, stroops))| *stroops)
    }

    /// How many entries there are between these two classes.
    pub(crate) fn count(&self, debit: &str, credit: &str) -> u64 {
        let between = self.moves.iter().find(|((d, c), _)| *d == debit && *c == credit);
        between.map_or(0, |(_, (count, _))| *count)
    }

    /// Bytes that were paid for.
    pub(crate) fn carried(&self) -> u128 {
        let bytes = self.steps.iter();
        bytes
            .map(|(bytes, step)| u128::from(*bytes) * u128::from(step.count))
            .sum()
    }

    /// Own income less what of it was given back.
    pub(crate) fn earned(&self) -> i128 {
        self.moved("held", "earned") + self.moved("held-by-trust", "earned") - self.moved("earned", "payer")
    }

    /// Debits less credits that the day put on each class of account.
    pub(crate) fn balances(&self, into: &mut BTreeMap<&'static str, i128>) {
        for ((debit, credit), (_, stroops)) in &self.moves {
            *into.entry(debit).or_default() += stroops;
            *into.entry(credit).or_default() -= stroops;
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(FORMAT).u64(self.facts).u64(self.moves.len() as u64);
        let number = |class: &str| CLASSES.iter().position(|c| *c == class).map_or(u8::MAX, |n| n as u8);
        for ((debit, credit), (count, stroops)) in &self.moves {
            w.u8(number(debit)).u8(number(credit)).u64(*count);
            w.bytes(&stroops.to_be_bytes());
        }
        w.u64(self.steps.len() as u64);
        for (bytes, step) in &self.steps {
            w.u64(*bytes).u64(step.count);
            w.bytes(&step.earned.to_be_bytes()).bytes(&step.forwarded.to_be_bytes());
        }
        w.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<DaySum, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        match r.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::Version(other)),
        }
        let mut sum = DaySum {
            facts: r.u64()?,
            ..DaySum::default()
        };
        for _ in 0..r.u64()? {
            let mut class = || {
                let number = r.u8()?;
                CLASSES
                    .get(usize::from(number))
                    .copied()
                    .ok_or(DecodeError::Kind(number))
            };
            let between = (class()?, class()?);
            sum.moves.insert(between, (r.u64()?, i128::from_be_bytes(r.array()?)));
        }
        for _ in 0..r.u64()? {
            let bytes = r.u64()?;
            let step = StepSum {
                count: r.u64()?,
                earned: i128::from_be_bytes(r.array()?),
                forwarded: i128::from_be_bytes(r.array()?),
            };
            sum.steps.insert(bytes, step);
        }
        reader.end()?;
        Ok(sum)
    }
}

/// A day's date: `2026-11-22`.
pub(crate) fn date(day: u32) -> String {
    let seconds = i64::from(day) * 86_400;
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(time) => time.date().to_string(),
        // Beyond the year 9999.
        Err(_) => format!("day {day}"),
    }
}

/// One day, as an audit explains it: what was moved, between which kinds of accounts, and for which steps of traffic.
/// Amounts are stroops; nobody is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Day {
    /// The date, UTC: `2026-11-22`.
    pub day: String,
    /// Whether only these sums are left of it.
    pub erased: bool,
    /// Facts that were recorded.
    pub facts: u64,
    /// Steps of traffic that were paid for.
    pub payments: u64,
    /// Bytes of traffic that were paid for. A client's facts do not say.
    pub carried_bytes: u128,
    /// Own income, less what of it was given back.
    pub earned: i128,
    /// Taken from circuits for next hops.
    pub forwarded: i128,
    /// Signed away to others: by a relay for its circuits, by a client for its own.
    pub signed: i128,
    /// Received on the ledger.
    pub received: i128,
    /// Steps of traffic by their size.
    pub steps: Vec<Steps>,
    /// Entries of the books, by the kinds of the accounts between which they are.
    pub moves: Vec<Move>,
}

/// Steps of one size on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Steps {
    /// What one step carried, bytes.
    pub bytes: u64,
    /// How many there were.
    pub count: u64,
    /// What they earned together, stroops.
    pub earned: i128,
    /// What went on to next hops, stroops.
    pub forwarded: i128,
}

/// Entries between accounts of two kinds on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The kind of account that was debited.
    pub debit: &'static str,
    /// The kind of account that was credited.
    pub credit: &'static str,
    /// How many entries.
    pub count: u64,
    /// Their sum, stroops.
    pub stroops: i128,
    /// What such an entry means.
    pub meaning: &'static str,
}

impl Day {
    pub(crate) fn new(day: u32, erased: bool, sum: &DaySum) -> Day {
        // A step for which escrow paid one part and trust another is there twice, once without bytes.
        let steps = sum.steps.iter().filter(|(bytes, _)| **bytes > 0);
        Day {
            day: date(day),
            erased,
            facts: sum.facts,
            // A client's payments are its claims.
            payments: steps.map(|(_, step)| step.count).sum::<u64>() + sum.count("spent", "signed"),
            carried_bytes: sum.carried(),
            earned: sum.earned(),
            forwarded: sum.moved("held", "forwarding"),
            signed: sum.moved("forwarding", "signed")
                + sum.moved("forwarding", "owed-to")
                + sum.moved("spent", "signed"),
            received: sum.moved("received", "claims")
                + sum.moved("received", "owed-by")
                + sum.moved("received", "gained"),
            steps: sum
                .steps
                .iter()
                .map(|(bytes, step)| Steps {
                    bytes: *bytes,
                    count: step.count,
                    earned: step.earned,
                    forwarded: step.forwarded,
                })
                .collect(),
            moves: sum
                .moves
                .iter()
                .map(|((debit, credit), (count, stroops))| Move {
                    debit,
                    credit,
                    count: *count,
                    stroops: *stroops,
                    meaning: meaning(debit, credit),
                })
                .collect(),
        }
    }
}

/// What an entry between these two kinds of accounts means.
fn meaning(debit: &str, credit: &str) -> &'static str {
    match (debit, credit) {
        ("claims", "payer") => "claimed by payers' signatures",
        ("payer", "held") => "assigned to circuits",
        ("held", "earned") => "earned for steps of traffic",
        ("held", "forwarding") => "taken for next hops",
        ("held", "payer") => "given back unspent by circuits that ended",
        ("earned", "payer") => "given back for traffic that was bought and not used",
        ("held", "kept") => "kept of circuits that ended",
        ("forwarding", "signed") => "signed on to next hops",
        ("spent", "signed") => "signed away for traffic",
        ("deposit", "capital") => "locked in escrows of ours",
        ("capital", "deposit") => "came back from escrows of ours",
        ("signed", "deposit") => "paid out of escrows of ours to their payees",
        ("signed", "gained") => "claims of ours that payees let lapse",
        ("lost", "deposit") => "paid out of escrows of ours without a claim",
        ("received", "claims") => "paid to us by the ledger",
        ("lost", "claims") => "claimed, and not paid by the ledger",
        ("received", "gained") => "paid to us by the ledger beyond the claims",
        ("owed-by", "trusted") => "owed by peers' statements",
        ("trusted", "held-by-trust") => "assigned to circuits by trust",
        ("held-by-trust", "earned") => "earned for steps of traffic, by trust",
        ("received", "owed-by") => "paid to us by peers for their statements",
        ("forwarding", "owed-to") => "owed to peers by our statements",
        ("lost", "owed-to") => "owed to peers by statements of ours that a backup did not have",
        ("held-by-trust", "kept") => "kept of circuits that ended, by trust",
        ("owed-to", "capital") => "paid by us for our statements",
        _ => "moved",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates_and_sums_are_read_as_they_were_written() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(20_779), "2026-11-22");
        let mut sum = DaySum {
            facts: 3,
            ..DaySum::default()
        };
        for (i, debit) in CLASSES.iter().enumerate() {
            sum.moves.insert((debit, "kept"), (i as u64, i128::from(i64::MAX) * 2));
        }
        let step = StepSum {
            count: 2,
            earned: 5,
            forwarded: -1,
        };
        sum.steps.insert(65_536, step);
        let bytes = sum.encode();
        assert_eq!(DaySum::decode(&bytes), Ok(sum.clone()));
        for end in 0..bytes.len() {
            assert!(DaySum::decode(&bytes[..end]).is_err());
        }
        assert_eq!(sum.carried(), 131_072);
        let mut twice = sum.clone();
        twice.merge(&sum);
        assert_eq!(twice.carried(), 262_144);
        assert_eq!(twice.moved("spent", "kept"), i128::from(i64::MAX) * 4);
    }
}
