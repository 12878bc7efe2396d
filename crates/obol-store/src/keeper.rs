//! Keeps the books while facts are appended: entries, hashes, checkpoints. Lives on the journal's thread.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::books::{Account, Books};
use crate::chain::{self, GENESIS, Hash, Link};
use crate::checkpoint::{self, Checkpoint, Which};
use crate::condense::Condense as _;
use crate::error::StoreError;
use crate::journal::Fact;
use crate::retention;

/// Facts between two checkpoints: reading so many takes well under a second.
pub(crate) const CHECKPOINT_EVERY: u64 = 50_000;

/// Where the journal is: its last fact, that fact's append, its day, and the hash of all up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) batch: u64,
    /// Days since 1970.
    pub(crate) day: u32,
    pub(crate) chain: Hash,
}

impl Place {
    pub(crate) const START: Place = Place {
        sequence: 0,
        batch: 0,
        day: 0,
        chain: GENESIS,
    };
}

/// The system's clock, unix seconds.
pub(crate) fn system_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The day of a time in unix seconds.
pub(crate) fn day_of(seconds: u64) -> u32 {
    u32::try_from(seconds / 86_400).unwrap_or(u32::MAX)
}

/// What the keeper is told by the journal's options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) checkpoint_every: u64,
    pub(crate) keep_days: Option<u32>,
    pub(crate) clock: fn() -> u64,
}

/// The books as of the last append, and what the facts come to.
pub(crate) struct Keeper<F: Fact> {
    pub(crate) books: Books,
    pub(crate) state: F::State,
    pub(crate) at: Place,
    pub(crate) settings: Settings,
    /// The last fact in the latest checkpoint.
    pub(crate) checkpointed: u64,
    /// Days before this one hold nothing any more that has to be erased.
    pub(crate) erased_before: u32,
    accounts: HashMap<Account, i64>,
}

impl<F: Fact> Keeper<F> {
    /// Reads the journal: the facts that its state follows from, and the keeper of what comes next.
    pub(crate) fn load(db: &Connection, settings: Settings) -> Result<(Keeper<F>, Vec<F>), StoreError> {
        let latest = match checkpoint::read::<F>(db, Which::Latest) {
            Err(StoreError::Corrupt) => {
                tracing::warn!("the journal's checkpoint is damaged: everything is read instead");
                None
            }
            read => read?,
        };
        let start = match latest {
            Some(latest) => Some(latest),
            None => checkpoint::read::<F>(db, Which::Base)?,
        };
        let mut keeper = Keeper::<F> {
            books: Books::default(),
            state: F::State::default(),
            at: Place::START,
            settings,
            checkpointed: 0,
            erased_before: 0,
            accounts: HashMap::new(),
        };
        let mut facts = Vec::new();
        if let Some(Checkpoint { at, books, state }) = start {
            facts = state.facts();
            (keeper.at, keeper.books, keeper.state) = (at, books, state);
            keeper.checkpointed = at.sequence;
        }
        let from = keeper.at.sequence;
        let read = crate::journal::read_batches::<F>(db, from, u64::MAX, |batch| {
            // The chain says that this is what was appended, and that nothing before it is missing.
            if batch.chain_after(&keeper.at) != Some(batch.place.chain) {
                return Err(StoreError::Corrupt);
            }
            for fact in &batch.facts {
                keeper.state.take(fact);
                fact.post(&mut keeper.books);
            }
            facts.extend(batch.facts);
            keeper.at = batch.place;
            Ok(())
        });
        read?;
        let last: i64 = db.query_row("SELECT coalesce(max(sequence), 0) FROM facts", [], |row| row.get(0))?;
        if last.unsigned_abs() > keeper.at.sequence {
            return Err(StoreError::Corrupt);
        }
        Ok((keeper, facts))
    }

    /// Today, never before the day of the last append: a clock that is set back does not disorder the days.
    pub(crate) fn today(&self) -> u32 {
        day_of((self.settings.clock)()).max(self.at.day)
    }

    /// Appends facts in the transaction that `db` is in; returns the place of the last one.
    pub(crate) fn append(&mut self, db: &Connection, facts: &[F]) -> Result<u64, StoreError> {
        self.append_on(self.today(), db, facts)
    }

    /// [`Keeper::append`] on a day.
    pub(crate) fn append_on(&mut self, day: u32, db: &Connection, facts: &[F]) -> Result<u64, StoreError> {
        if facts.is_empty() {
            return Ok(self.at.sequence);
        }
        let mut at = self.at;
        at.batch += 1;
        at.day = day;
        let mut link = Link::new(&self.at.chain, at.batch, at.day, at.sequence + 1);
        let mut insert_fact = db.prepare_cached("INSERT INTO facts (sequence, batch, body) VALUES (?1, ?2, ?3)")?;
        let mut insert_entry = db.prepare_cached(
            "INSERT INTO entries (sequence, line, debit, credit, stroops) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for fact in facts {
            at.sequence += 1;
            let body = fact.to_bytes();
            link.fact(&body);
            insert_fact.execute(params![at.sequence.cast_signed(), at.batch.cast_signed(), body])?;
            for (line, entry) in (0_i64..).zip(fact.post(&mut self.books)) {
                let debit = account(&mut self.accounts, db, entry.debit)?;
                let credit = account(&mut self.accounts, db, entry.credit)?;
                insert_entry.execute(params![at.sequence.cast_signed(), line, debit, credit, entry.stroops])?;
            }
            self.state.take(fact);
        }
        at.chain = link.end();
        db.prepare_cached("INSERT INTO batches (batch, last, day, chain) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                at.batch.cast_signed(),
                at.sequence.cast_signed(),
                at.day,
                at.chain
            ])?;
        self.at = at;
        Ok(at.sequence)
    }

    /// What is done between appends, in a transaction of its own: a checkpoint when it is due, and a part of what has to be
    /// erased. Says whether more of that is left.
    pub(crate) fn maintain(&mut self, db: &mut Connection) -> Result<bool, StoreError> {
        let due = self.at.sequence.saturating_sub(self.checkpointed) >= self.settings.checkpoint_every;
        let erase_before = self.settings.keep_days.map(|days| self.today().saturating_sub(days));
        let erase = erase_before.is_some_and(|day| day > self.erased_before);
        if !due && !erase {
            return Ok(false);
        }
        let writing = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if due {
            self.checkpoint(&writing)?;
        }
        let more = match erase_before {
            Some(day) if erase => retention::erase(self, &writing, day)?,
            _ => false,
        };
        writing.commit()?;
        if let (false, Some(day)) = (more, erase_before) {
            self.erased_before = self.erased_before.max(day);
        }
        Ok(more)
    }

    /// Writes the latest checkpoint.
    pub(crate) fn checkpoint(&mut self, db: &Connection) -> Result<(), StoreError> {
        checkpoint::write::<F>(db, Which::Latest, &self.at, &self.books, &self.state)?;
        self.checkpointed = self.at.sequence;
        Ok(())
    }

    /// Accounts are looked up in the file again: some may have been erased.
    pub(crate) fn forget_accounts(&mut self) {
        self.accounts.clear();
    }
}

/// The number of an account in the file; given to it now if it is new.
fn account(known: &mut HashMap<Account, i64>, db: &Connection, account: Account) -> Result<i64, StoreError> {
    if let Some(id) = known.get(&account) {
        return Ok(*id);
    }
    let name = account.to_string();
    let found = db
        .prepare_cached("SELECT id FROM accounts WHERE name = ?1")?
        .query_row([&name], |row| row.get(0))
        .optional()?;
    let id = match found {
        Some(id) => id,
        None => {
            let id = "SELECT coalesce(max(id), 0) + 1 FROM accounts";
            let id: i64 = db.prepare_cached(id)?.query_row([], |row| row.get(0))?;
            db.prepare_cached("INSERT INTO accounts (id, name, digest) VALUES (?1, ?2, ?3)")?
                .execute(params![id, name, account_digest(id, &name)])?;
            id
        }
    };
    known.insert(account, id);
    Ok(id)
}

/// The digest of an account's row.
pub(crate) fn account_digest(id: i64, name: &str) -> Vec<u8> {
    chain::Row::new("accounts").number(id).bytes(name.as_bytes()).digest()
}
