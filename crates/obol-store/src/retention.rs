//! Retention: detail is added up to daily totals and erased after a configured time.
//!
//! Erased are facts, their entries, the names of accounts of escrows that are over, and submissions whose fate is known. Kept
//! are what they come to (the checkpoint `base`: the books and the condensed facts at that place), what each day moved between
//! which kinds of accounts (`days`), and of each transaction what accounting needs (`transactions`). Base and days prove
//! each other, and the kept facts follow on the base, so that an audit proves the books as before.
//!
//! It is done in parts of whole appends, each in one transaction, between groups of other writes.

use std::collections::{BTreeMap, HashMap, HashSet};

use obol_cell::EscrowId;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::books::{self, Books};
use crate::chain;
use crate::checkpoint::{self, Checkpoint, Which};
use crate::condense::Condense as _;
use crate::days::DaySum;
use crate::error::StoreError;
use crate::journal::{Fact, Journal, OnLedger, read_batches};
use crate::keeper::{Keeper, Place, day_of};
use crate::submissions::locked_by;

/// Facts erased at once.
const PART: u64 = 10_000;
/// A relay still gives service for what is left on an escrow for so long after its expiry, at most; seconds.
const AFTER_EXPIRY: u64 = 2 * 86_400;

/// The columns that a transaction's digest is of.
pub(crate) const TRANSACTION: &str = "number, day, purpose, outcome, ledger, fee, stroops, hash";
pub(crate) const TRANSACTION_COUNT: usize = 8;

/// The digest of a row of [`TRANSACTION`].
pub(crate) fn transaction_digest(row: &Row<'_>) -> Result<Vec<u8>, StoreError> {
    let digest = chain::Row::new("transactions").columns(row, TRANSACTION_COUNT)?;
    Ok(digest.digest())
}

/// Computes the digest of a transaction's row.
pub(crate) fn seal_transaction(db: &Connection, number: Option<Value>) -> Result<(), StoreError> {
    let digest = db.query_row(
        &format!("SELECT {TRANSACTION} FROM transactions WHERE number = ?1"),
        [&number],
        |row| Ok(transaction_digest(row)),
    )??;
    db.execute(
        "UPDATE transactions SET digest = ?2 WHERE number = ?1",
        params![number, digest],
    )?;
    Ok(())
}

/// The digest of a day's row.
pub(crate) fn day_digest(day: u32, body: &[u8]) -> Vec<u8> {
    chain::Row::new("days").number(day.into()).bytes(body).digest()
}

/// Erases some of what was recorded before `day`; says whether more is left. Runs in a transaction of its own.
pub(crate) fn erase<F: Fact>(keeper: &mut Keeper<F>, db: &Connection, day: u32) -> Result<bool, StoreError> {
    let base = match checkpoint::read::<F>(db, Which::Base)? {
        Some(base) => base,
        None => Checkpoint {
            at: Place::START,
            books: Books::default(),
            state: F::State::default(),
        },
    };
    let Checkpoint {
        mut at,
        mut books,
        mut state,
    } = base;
    let mut days = BTreeMap::<u32, DaySum>::new();
    let mut amounts = HashMap::new();
    let mut count = 0_u64;
    read_batches::<F>(db, at.sequence, PART, |batch| {
        if batch.place.day >= day {
            return Ok(());
        }
        if batch.chain_after(&at) != Some(batch.place.chain) {
            return Err(StoreError::Corrupt);
        }
        for fact in &batch.facts {
            let entries = fact.post(&mut books);
            state.take(fact);
            days.entry(batch.place.day).or_default().add(fact, &entries);
            match fact.on_ledger() {
                Some(OnLedger::Opened(escrow, amount)) => {
                    amounts.insert(("open", escrow), amount.get());
                }
                Some(OnLedger::Settled(escrow, amount)) => {
                    amounts.insert(("flush", escrow), amount.get());
                }
                _ => {}
            }
        }
        count += batch.facts.len() as u64;
        at = batch.place;
        Ok(())
    })?;
    let left = "SELECT EXISTS (SELECT 1 FROM batches WHERE last > ?1 AND day < ?2)";
    let more: bool = db.query_row(left, params![at.sequence.cast_signed(), day], |row| row.get(0))?;
    let forgotten = if more {
        Vec::new()
    } else {
        state.forget((u64::from(day) * 86_400).saturating_sub(AFTER_EXPIRY))
    };
    if count == 0 && forgotten.is_empty() && !has_old_submissions(db, day)? {
        return Ok(more);
    }
    tracing::debug!(facts = count, "detail of payments is added up and erased");
    for (day, sum) in &days {
        add_day(db, *day, sum)?;
    }
    let last = at.sequence.cast_signed();
    db.execute("DELETE FROM entries WHERE sequence <= ?1", [last])?;
    db.execute("DELETE FROM facts WHERE sequence <= ?1", [last])?;
    db.execute("DELETE FROM batches WHERE last <= ?1", [last])?;
    books.forget(&forgotten);
    for escrow in &forgotten {
        for account in books::of_escrow(*escrow) {
            db.execute("DELETE FROM accounts WHERE name = ?1", [account.to_string()])?;
        }
    }
    erase_submissions::<F>(db, day, &keeper.state, &amounts)?;
    checkpoint::write::<F>(db, Which::Base, &at, &books, &state)?;
    // The running books forget the same, and a start must not need what is gone.
    keeper.state.forget_these(&forgotten);
    keeper.books.forget(&forgotten);
    keeper.forget_accounts();
    keeper.checkpoint(db)?;
    Ok(more)
}

fn add_day(db: &Connection, day: u32, sum: &DaySum) -> Result<(), StoreError> {
    let select = "SELECT body FROM days WHERE day = ?1";
    let known: Option<Vec<u8>> = db.query_row(select, [day], |row| row.get(0)).optional()?;
    let mut sum = sum.clone();
    if let Some(known) = known {
        sum.merge(&DaySum::decode(&known).map_err(|_| StoreError::Corrupt)?);
    }
    let body = sum.encode();
    db.execute(
        "INSERT OR REPLACE INTO days (day, body, digest) VALUES (?1, ?2, ?3)",
        params![day, body, day_digest(day, &body)],
    )?;
    Ok(())
}

fn has_old_submissions(db: &Connection, day: u32) -> Result<bool, StoreError> {
    let select = "SELECT EXISTS (SELECT 1 FROM submissions WHERE resolved < ?1)";
    Ok(db.query_row(select, [day], |row| row.get(0))?)
}

/// Submissions whose fate has been known since before `day`, and whose escrow is over, become what accounting needs of them.
fn erase_submissions<F: Fact>(
    db: &Connection,
    day: u32,
    state: &F::State,
    amounts: &HashMap<(&str, EscrowId), i64>,
) -> Result<(), StoreError> {
    let live: HashSet<EscrowId> = state.live().into_iter().collect();
    let mut query = db.prepare(
        "SELECT number, resolved, purpose, subject, outcome, ledger, fee_charged, hash, envelope FROM submissions
         WHERE resolved < ?1 ORDER BY number",
    )?;
    let mut rows = query.query([day])?;
    let mut over = Vec::new();
    while let Some(row) = rows.next()? {
        let (number, purpose, subject): (i64, String, [u8; 32]) = (row.get(0)?, row.get(2)?, row.get(3)?);
        if live.contains(&EscrowId(subject)) {
            continue;
        }
        over.push(number);
        let outcome: String = row.get(4)?;
        // It may have opened others with it: its envelope tells.
        let paid = match purpose.as_str() {
            "open" => locked_by(&row.get::<_, Vec<u8>>(8)?),
            _ => None,
        };
        let known = paid.or_else(|| amounts.get(&(purpose.as_str(), EscrowId(subject))).copied());
        let amount = match known {
            Some(amount) => Some(amount),
            None => stored_amount::<F>(state, &purpose, EscrowId(subject)),
        };
        db.execute(
            "INSERT INTO transactions (number, day, purpose, outcome, ledger, fee, stroops, hash, digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, x'')",
            params![
                number,
                row.get::<_, u32>(1)?,
                purpose,
                outcome,
                row.get::<_, Option<u32>>(5)?,
                row.get::<_, Option<i64>>(6)?.unwrap_or(0),
                amount.filter(|_| outcome == "applied"),
                row.get::<_, [u8; 32]>(7)?,
            ],
        )?;
        seal_transaction(db, Some(Value::Integer(number)))?;
    }
    for number in over {
        db.execute("DELETE FROM submissions WHERE number = ?1", [number])?;
    }
    Ok(())
}

/// What an escrow's transaction moved, as the condensed facts tell.
fn stored_amount<F: Fact>(state: &F::State, purpose: &str, escrow: EscrowId) -> Option<i64> {
    state
        .facts()
        .iter()
        .find_map(|fact| match (fact.on_ledger()?, purpose) {
            (OnLedger::Opened(of, amount), "open") if of == escrow => Some(amount.get()),
            (OnLedger::Settled(of, amount), "flush") if of == escrow => Some(amount.get()),
            _ => None,
        })
}

impl<F: Fact> Journal<F> {
    /// Adds up and erases what is older than `days` days now, instead of in the course of time as
    /// [`crate::Options::keep_days`] has it. Returns when it is done; appends go on meanwhile.
    ///
    /// # Errors
    /// The journal cannot be read or written; what was erased until then stays so, and the books are whole.
    pub async fn keep_days(&self, days: u32) -> Result<(), StoreError> {
        let before = day_of((self.clock)()).saturating_sub(days);
        let mut more = true;
        while more {
            let keeper = std::sync::Arc::clone(&self.keeper);
            more = self
                .log
                .write_async(move |db| {
                    let mut keeper = keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    erase(&mut keeper, db, before)
                })
                .await?;
        }
        Ok(())
    }
}
