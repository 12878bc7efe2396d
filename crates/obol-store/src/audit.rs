//! The audit: proves the books from the facts, row by row, and explains them without naming anybody.
//!
//! | what | how |
//! |---|---|
//! | no row was changed, lost or added | the file's own check, the chain over the facts, the digests of all other rows |
//! | sums are zero, every claim is covered | every fact is entered into books of the auditor's own; after each append no balance is where it cannot be |
//! | stored entries are those of the facts | compared one by one |
//! | running balances are right | the latest checkpoint is compared with the auditor's books at that fact |
//! | what was erased is accounted for | the daily totals of erased days add up to the balances at which the kept facts begin |
//! | nothing is settled twice | each escrow ends once, and of one purpose one transaction at most was applied |
//! | nothing was signed back | the numbers of our claims rise, their amounts do not fall |
//! | every submission has one fate | pending, or resolved once with what the ledger showed |
//!
//! It reads in parts, so that a journal in use goes on taking appends; what is appended meanwhile is not looked at.

mod accounting;
mod beside;
mod report;

use std::collections::{BTreeMap, HashMap};

use obol_cell::EscrowId;
use rusqlite::Connection;
use serde::Serialize;

use crate::books::{Account, Books, Entry};
use crate::checkpoint::{self, Which};
use crate::condense::Condense as _;
use crate::days::{Day, DaySum};
use crate::error::StoreError;
use crate::journal::{AuditError, Batch, Fact, Journal, OnLedger, epoch_of, read_batches};
use crate::keeper::{self, Place};
use crate::retention;

pub use accounting::{Accounting, Transaction};
pub use report::{Balance, Report, Submissions, Verdict};

/// Facts read at once.
const PART: u64 = 20_000;
/// Findings beyond these are not listed: the journal is beyond doubt by then.
const MOST_FINDINGS: usize = 100;

/// Something that is not as it must be. Names rows by their numbers, and nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Finding {
    /// The row: `fact 12`, `entry 1 of fact 12`, `submission 3`.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

/// What an auditor has found out so far.
pub(crate) struct Auditor<F: Fact> {
    pub(crate) findings: Vec<Finding>,
    pub(crate) books: Books,
    pub(crate) state: F::State,
    pub(crate) at: Place,
    /// Facts that were there when the audit began.
    until: u64,
    pub(crate) erased: u64,
    pub(crate) appends: u64,
    /// The latest checkpoint, until its place is reached.
    latest: Option<(Place, Vec<u8>)>,
    pub(crate) days: BTreeMap<u32, DaySum>,
    /// Days of which only sums are left (of the last one perhaps facts, too).
    erased_until: Option<u32>,
    accounts: HashMap<i64, Account>,
    /// What facts that are kept say of the ledger, for accounting: opened, and paid to us.
    pub(crate) opened: HashMap<EscrowId, i64>,
    pub(crate) settled: HashMap<EscrowId, i64>,
    pub(crate) epoch: u64,
    pub(crate) submissions: Submissions,
    pub(crate) transactions: Vec<Transaction>,
    /// The numbers of all submissions that are accounted for.
    numbers: Vec<i64>,
}

impl<F: Fact> Auditor<F> {
    fn new() -> Auditor<F> {
        Auditor {
            findings: Vec::new(),
            books: Books::default(),
            state: F::State::default(),
            at: Place::START,
            until: 0,
            erased: 0,
            appends: 0,
            latest: None,
            days: BTreeMap::new(),
            erased_until: None,
            accounts: HashMap::new(),
            opened: HashMap::new(),
            settled: HashMap::new(),
            epoch: 1,
            submissions: Submissions::default(),
            transactions: Vec::new(),
            numbers: Vec::new(),
        }
    }

    pub(crate) fn find(&mut self, place: impl Into<String>, what: impl Into<String>) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding {
                place: place.into(),
                what: what.into(),
            });
        }
    }

    /// The file as such, and where its kept facts begin.
    fn begin(&mut self, db: &Connection) -> Result<(), StoreError> {
        let verdict: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(StoreError::Corrupt);
        }
        let last =
            "SELECT max(coalesce((SELECT max(last) FROM batches), 0), coalesce((SELECT max(sequence) FROM facts), 0))";
        self.until = db.query_row(last, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
        self.epoch = match epoch_of(db) {
            Err(StoreError::Corrupt) => 0,
            epoch => epoch?,
        };
        self.read_accounts(db)?;
        self.erased_days(db)?;
        match checkpoint::read::<F>(db, Which::Base) {
            Ok(Some(base)) => {
                self.erased = base.at.sequence;
                self.erased_until = Some(base.at.day);
                (self.at, self.books, self.state) = (base.at, base.books, base.state);
                self.compare_erased();
                // What erased facts said of escrows that are still known.
                for fact in self.state.facts() {
                    self.note_amounts(&fact);
                }
                if let Err(imbalance) = self.books.check() {
                    self.find("checkpoint base", imbalance.to_string());
                }
            }
            Ok(None) if self.days.is_empty() => {}
            Ok(None) => self.find("checkpoint base", "days were erased, and what they came to is missing"),
            Err(StoreError::Corrupt) => self.find("checkpoint base", "it is not what was written"),
            Err(error) => return Err(error),
        }
        match checkpoint::read_encoded(db, Which::Latest) {
            Ok(latest) => self.latest = latest,
            Err(StoreError::Corrupt) => self.find("checkpoint latest", "it is not what was written"),
            Err(error) => return Err(error),
        }
        self.compare_latest();
        Ok(())
    }

    fn read_accounts(&mut self, db: &Connection) -> Result<(), StoreError> {
        let known = self.accounts.keys().max().copied().unwrap_or(0);
        let mut query = db.prepare("SELECT id, name, digest FROM accounts WHERE id > ?1")?;
        let mut rows = query.query([known])?;
        while let Some(row) = rows.next()? {
            let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
            if row.get::<_, Vec<u8>>(2)? != keeper::account_digest(id, &name) {
                self.find(format!("account {id}"), "it is not what was written");
            }
            match Account::from_name(&name) {
                Some(account) => {
                    self.accounts.insert(id, account);
                }
                None => self.find(format!("account {id}"), "no account has this name"),
            }
        }
        Ok(())
    }

    fn erased_days(&mut self, db: &Connection) -> Result<(), StoreError> {
        let mut query = db.prepare("SELECT day, body, digest FROM days ORDER BY day")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (day, body): (u32, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let name = || format!("day {}", crate::days::date(day));
            if row.get::<_, Vec<u8>>(2)? != retention::day_digest(day, &body) {
                self.find(name(), "it is not what was written");
            }
            match DaySum::decode(&body) {
                Ok(sum) => {
                    self.days.insert(day, sum);
                }
                Err(_) => self.find(name(), "it cannot be read"),
            }
        }
        Ok(())
    }

    /// The balances at which the kept facts begin are the sums of the erased days.
    fn compare_erased(&mut self) {
        let mut sums = BTreeMap::new();
        for sum in self.days.values() {
            sum.balances(&mut sums);
        }
        let base = self.books.by_class();
        let classes: Vec<&'static str> = sums.keys().chain(base.keys()).copied().collect();
        for class in classes {
            let of = |map: &BTreeMap<&str, i128>| map.get(class).copied().unwrap_or(0);
            let (days, base) = (of(&sums), of(&base));
            if days != base {
                self.find(
                    "checkpoint base",
                    format!("accounts {class} begin with {base} stroops, and the erased days come to {days}"),
                );
                return;
            }
        }
    }

    fn compare_latest(&mut self) {
        let Some((place, state)) = self.latest.take_if(|(place, _)| place.sequence <= self.at.sequence) else {
            return;
        };
        if place != self.at || state != checkpoint::encode::<F>(&self.books, &self.state) {
            self.find(
                "checkpoint latest",
                format!(
                    "the running balances at fact {} are not those that the facts come to",
                    place.sequence
                ),
            );
        }
    }

    /// Some batches; says whether there are more.
    fn part(&mut self, db: &Connection) -> Result<bool, StoreError> {
        if self.at.sequence >= self.until {
            return Ok(false);
        }
        let before = self.at.sequence;
        self.read_accounts(db)?;
        let mut batches = Vec::new();
        let read = read_batches::<F>(db, before, PART, |batch| {
            batches.push(batch);
            Ok(())
        });
        if let Err(StoreError::Unreadable { sequence }) = read {
            self.find(format!("fact {sequence}"), "it cannot be read");
            // What comes after cannot be proved without it.
            self.at.sequence = self.until;
            return Ok(false);
        }
        read?;
        let last = batches.last().map_or(before, |batch| batch.place.sequence);
        let mut entries = self.entries(db, before, last)?;
        for batch in &batches {
            self.batch(batch, &mut entries);
            if self.at.sequence >= self.until {
                break;
            }
        }
        if batches.is_empty() {
            let (from, to) = (self.at.sequence + 1, self.until);
            self.find(format!("facts {from} to {to}"), "they belong to no append");
            self.at.sequence = self.until;
        }
        Ok(self.at.sequence < self.until)
    }

    /// The stored entries of facts `after` to `upto`, by fact.
    fn entries(&mut self, db: &Connection, after: u64, upto: u64) -> Result<HashMap<u64, Vec<Stored>>, StoreError> {
        let mut found: HashMap<u64, Vec<Stored>> = HashMap::new();
        let mut query = db.prepare_cached(
            "SELECT sequence, line, debit, credit, stroops FROM entries WHERE sequence > ?1 AND sequence <= ?2
             ORDER BY sequence, line",
        )?;
        let mut rows = query.query([after.cast_signed(), upto.cast_signed()])?;
        while let Some(row) = rows.next()? {
            let stored = Stored {
                line: row.get(1)?,
                debit: self.accounts.get(&row.get(2)?).copied(),
                credit: self.accounts.get(&row.get(3)?).copied(),
                stroops: row.get(4)?,
            };
            found
                .entry(row.get::<_, i64>(0)?.unsigned_abs())
                .or_default()
                .push(stored);
        }
        Ok(found)
    }

    fn batch(&mut self, batch: &Batch<F>, entries: &mut HashMap<u64, Vec<Stored>>) {
        let name = format!(
            "append {} (facts {} to {})",
            batch.place.batch,
            self.at.sequence + 1,
            batch.place.sequence
        );
        match batch.chain_after(&self.at) {
            None => self.find(
                name.clone(),
                "a fact is missing or out of order, or an append before it is missing",
            ),
            Some(chain) if chain != batch.place.chain => {
                self.find(name.clone(), "it is not what was appended");
            }
            Some(_) => {}
        }
        if batch.place.day < self.at.day {
            self.find(name.clone(), "its day is before that of the append before it");
        }
        let mut touched = Vec::new();
        for (sequence, fact) in (batch.first..).zip(&batch.facts) {
            self.fact_is_new(sequence, fact);
            let made = fact.post(&mut self.books);
            let stored = entries.remove(&sequence).unwrap_or_default();
            self.compare_entries(sequence, &made, &stored);
            self.state.take(fact);
            self.days.entry(batch.place.day).or_default().add(fact, &made);
            touched.extend(made.iter().flat_map(|entry| [entry.debit, entry.credit]));
        }
        touched.sort_unstable();
        touched.dedup();
        for account in touched {
            if let Err(imbalance) = self.books.check_account(account) {
                self.find(name.clone(), imbalance.to_string());
            }
        }
        self.appends += 1;
        self.at = batch.place;
        self.compare_latest();
    }

    fn note_amounts(&mut self, fact: &F) {
        match fact.on_ledger() {
            Some(OnLedger::Settled(escrow, amount)) => {
                self.settled.insert(escrow, amount.get());
            }
            Some(OnLedger::Opened(escrow, balance)) => {
                self.opened.insert(escrow, balance.get());
            }
            _ => {}
        }
    }

    /// What a fact may say only once, or only in one direction.
    fn fact_is_new(&mut self, sequence: u64, fact: &F) {
        self.note_amounts(fact);
        let name = || format!("fact {sequence}");
        match fact.on_ledger() {
            Some(OnLedger::Settled(escrow, _)) => {
                if self.state.is_settled(&escrow) {
                    self.find(name(), "an escrow is settled for the second time");
                }
            }
            Some(OnLedger::Ended(escrow, _)) => {
                if self.state.has_ended(&escrow) {
                    self.find(name(), "an escrow of ours ends for the second time");
                }
            }
            Some(OnLedger::Signed(escrow, k, cumulative)) => {
                if let Some((before, amount)) = self.state.signed(&escrow)
                    && (k <= before || cumulative < amount)
                {
                    self.find(
                        name(),
                        "a claim of ours is signed for less, or with an older number, than one before it",
                    );
                }
            }
            Some(OnLedger::Paid(peer, transaction)) => {
                if self.state.has_settlement(&peer, &transaction) {
                    self.find(name(), "a peer's payment is counted for the second time");
                }
            }
            Some(OnLedger::Opened(..)) | None => {}
        }
    }

    fn compare_entries(&mut self, sequence: u64, made: &[Entry], stored: &[Stored]) {
        let text = |entry: Option<(Option<Account>, Option<Account>, i64)>| match entry {
            None => "none".to_owned(),
            Some((debit, credit, stroops)) => {
                let class = |account: Option<Account>| account.map_or("unknown", Account::class);
                format!("{stroops} stroops from {} to {}", class(credit), class(debit))
            }
        };
        for line in 0..made.len().max(stored.len()) {
            let derived = made.get(line).map(|e| (Some(e.debit), Some(e.credit), e.stroops));
            let there = stored.get(line).map(|e| (e.debit, e.credit, e.stroops));
            let in_place = stored.get(line).is_none_or(|e| e.line == line as i64);
            if derived != there || !in_place {
                let (there, derived) = (text(there), text(derived));
                let what = if there == derived {
                    format!("it is about another account than its fact, or out of place ({there})")
                } else {
                    format!("it is {there}, and its fact makes {derived}")
                };
                return self.find(format!("entry {line} of fact {sequence}"), what);
            }
        }
    }

    /// What stands beside the facts, and what nothing accounts for.
    fn end(&mut self, db: &Connection) -> Result<(), StoreError> {
        if let Some((place, _)) = self.latest.take()
            && place.sequence > self.until
        {
            self.find("checkpoint latest", "it is about facts that are missing");
        }
        if let Err(imbalance) = self.books.check() {
            self.find("the books", imbalance.to_string());
        }
        let lost = "SELECT min(sequence) FROM entries WHERE sequence <= ?1 OR sequence > ?2";
        let erased = self.erased.cast_signed();
        // What was appended since the audit began is not looked at.
        let newest: i64 = db.query_row("SELECT coalesce(max(last), 0) FROM batches", [], |row| row.get(0))?;
        let lost: Option<i64> = db.query_row(lost, [erased, newest.max(self.until.cast_signed())], |row| row.get(0))?;
        if let Some(sequence) = lost {
            self.find(format!("entry of fact {sequence}"), "there is no such fact");
        }
        self.beside(db)
    }

    /// The days with their sums.
    pub(crate) fn days(&self) -> Vec<Day> {
        let erased = |day: u32| self.erased > 0 && self.erased_until.is_some_and(|until| day <= until);
        self.days
            .iter()
            .map(|(day, sum)| Day::new(*day, erased(*day), sum))
            .collect()
    }
}

/// An entry as it is stored.
struct Stored {
    line: i64,
    debit: Option<Account>,
    credit: Option<Account>,
    stroops: i64,
}

impl<F: Fact> Journal<F> {
    /// Proves the books ([module](crate::audit)) and explains them. Reads everything, in parts: appends go on meanwhile.
    ///
    /// # Errors
    /// The journal cannot be read. What is wrong in it is no error: see [`Report::verdict`] and [`Report::findings`].
    pub async fn audit_report(&self) -> Result<Report, StoreError> {
        Ok(Report::new(self.examine().await?))
    }

    /// [`Journal::audit_report`] in short: whether the books are proved.
    pub async fn audit(&self) -> Result<(), AuditError> {
        match self.examine().await?.findings.into_iter().next() {
            Some(finding) => Err(finding.into()),
            None => Ok(()),
        }
    }

    /// What accounting needs, day by day: traffic, income, and every transaction on the ledger with its hash and fee.
    pub async fn accounting(&self) -> Result<Accounting, StoreError> {
        Ok(Accounting::new(self.examine().await?))
    }

    async fn examine(&self) -> Result<Auditor<F>, StoreError> {
        loop {
            let begun = self.log.read_async(|db| {
                let mut auditor = Auditor::<F>::new();
                auditor.begin(db)?;
                Ok(auditor)
            });
            let mut auditor = begun.await?;
            let mut more = true;
            while more {
                let part = self.log.read_async(move |db| {
                    let more = auditor.part(db)?;
                    Ok((auditor, more))
                });
                (auditor, more) = part.await?;
            }
            let end = self.log.read_async(move |db| {
                let base = checkpoint::read_encoded(db, Which::Base);
                let moved = matches!(&base, Ok(Some((place, _))) if place.sequence != auditor.erased);
                auditor.end(db)?;
                Ok((auditor, moved))
            });
            let (auditor, moved) = end.await?;
            // Something was erased while it was read: once more, from where the facts begin now.
            if !moved {
                return Ok(auditor);
            }
        }
    }
}
