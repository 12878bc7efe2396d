//! The journal: facts in order, and the books that follow from them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use obol_cell::DecodeError;
use obol_toll::fact::{NodeFact, PayerFact};
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::oneshot;

use crate::books::{Account, Books, Entry, Imbalance};
use crate::error::{OpenError, StoreError};
use crate::log::{Bookkeeper, Log};

/// What a journal keeps: the facts of a relay, or those of a client.
pub trait Fact: Sized + Clone + Send + 'static {
    /// What a journal of these is called in its file.
    const KIND: &'static str;
    /// The fact as bytes.
    fn to_bytes(&self) -> Vec<u8>;
    /// The fact of these bytes.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError>;
    /// Enters the fact into the books, and returns the entries it made.
    fn post(&self, books: &mut Books) -> Vec<Entry>;
}

impl Fact for NodeFact {
    const KIND: &'static str = "relay";

    fn to_bytes(&self) -> Vec<u8> {
        self.encode()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        NodeFact::decode(bytes)
    }

    fn post(&self, books: &mut Books) -> Vec<Entry> {
        books.node_fact(self)
    }
}

impl Fact for PayerFact {
    const KIND: &'static str = "client";

    fn to_bytes(&self) -> Vec<u8> {
        self.encode()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        PayerFact::decode(bytes)
    }

    fn post(&self, books: &mut Books) -> Vec<Entry> {
        books.payer_fact(self)
    }
}

/// The setting that tells a relay's journal from a client's.
const KIND_SETTING: &str = "journal-of";

/// Limits of a journal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Size that the file may not exceed, bytes; an append beyond it fails as on a full disk.
    pub max_bytes: Option<u64>,
}

/// An open journal of `F`. Clones share it; the file is let go with the last of them.
pub struct Journal<F> {
    pub(crate) log: Log,
    books: Arc<Mutex<Books>>,
    bookkeeper: Bookkeeper,
    facts: std::marker::PhantomData<fn() -> F>,
}

impl<F> Clone for Journal<F> {
    fn clone(&self) -> Self {
        Journal {
            log: self.log.clone(),
            books: Arc::clone(&self.books),
            bookkeeper: Arc::clone(&self.bookkeeper),
            facts: std::marker::PhantomData,
        }
    }
}

impl<F> std::fmt::Debug for Journal<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.log.path())
            .finish_non_exhaustive()
    }
}

impl<F: Fact> Journal<F> {
    /// Opens the journal at `path`, or makes it, and returns it with all its facts in order.
    ///
    /// Blocks for as long as reading them takes.
    pub fn open(path: &Path) -> Result<(Journal<F>, Vec<F>), OpenError> {
        Self::open_with(path, Options::default())
    }

    /// [`Journal::open`] with limits.
    pub fn open_with(path: &Path, options: Options) -> Result<(Journal<F>, Vec<F>), OpenError> {
        let log = Log::open(path, options.max_bytes)?;
        let failed = |trouble| match trouble {
            StoreError::Corrupt => OpenError::Corrupt { path: path.into() },
            trouble => OpenError::Failed {
                path: path.into(),
                trouble,
            },
        };
        let kind = log.write_blocking(|db| kind_of(db, F::KIND)).map_err(failed)?;
        if kind != F::KIND {
            return Err(OpenError::OtherKind {
                path: path.into(),
                found: kind,
                wanted: F::KIND,
            });
        }
        let (facts, books) = log.read_blocking(replay::<F>).map_err(failed)?;
        let books = Arc::new(Mutex::new(books));
        let of_bookkeeper = Arc::clone(&books);
        let bookkeeper = move |sequence: u64, bytes: &[u8]| {
            let fact = F::from_bytes(bytes).map_err(|_| StoreError::Unreadable { sequence })?;
            Ok(fact.post(&mut of_bookkeeper.lock().unwrap_or_else(PoisonError::into_inner)))
        };
        let bookkeeper: Bookkeeper = Arc::new(Mutex::new(bookkeeper));
        Ok((
            Journal {
                log,
                books,
                bookkeeper,
                facts: std::marker::PhantomData,
            },
            facts,
        ))
    }

    /// Appends `facts`, all or none, after everything that was appended before, and calls `done` with the place of the
    /// last one once they are on the disk. Returns at once. `done` runs on the journal's own thread: it must be short.
    ///
    /// After a failure nothing more is appended ([`StoreError::Stopped`]): the memory of whoever appends is ahead of the
    /// journal then, and the journal alone decides what is owed.
    pub fn append_then(&self, facts: Vec<F>, done: impl FnOnce(Result<u64, StoreError>) + Send + 'static) {
        let bytes = facts.iter().map(Fact::to_bytes).collect();
        self.log.append(bytes, Arc::clone(&self.bookkeeper), Box::new(done));
    }

    /// [`Journal::append_then`], awaited. The facts are queued when this is first polled.
    pub async fn append(&self, facts: Vec<F>) -> Result<u64, StoreError> {
        let (tell, told) = oneshot::channel();
        // Nobody waits for the outcome any more if this fails.
        self.append_then(facts, move |outcome| {
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// The balance of every account, debits less credits, as of the last append.
    pub fn balances(&self) -> Vec<(Account, i128)> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books
            .balances()
            .iter()
            .map(|(account, balance)| (*account, *balance))
            .collect()
    }

    /// Checks the books three ways: the file's pages and indices; the stored entries against those that the stored facts
    /// make; and every balance against the side that it must be on. Reads everything.
    pub async fn audit(&self) -> Result<(), AuditError> {
        let (stored, books) = self
            .log
            .read_async(|db| {
                let verdict: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
                if verdict != "ok" {
                    return Err(StoreError::Corrupt);
                }
                let mut stored = std::collections::BTreeMap::<String, i128>::new();
                let mut query = db.prepare("SELECT debit, credit, stroops FROM entries")?;
                let mut rows = query.query([])?;
                while let Some(row) = rows.next()? {
                    let stroops = i128::from(row.get::<_, i64>(2)?);
                    *stored.entry(row.get(0)?).or_default() += stroops;
                    *stored.entry(row.get(1)?).or_default() -= stroops;
                }
                let (_, books) = replay::<F>(db)?;
                Ok((stored, books))
            })
            .await?;
        let derived: std::collections::BTreeMap<String, i128> = books
            .balances()
            .iter()
            .map(|(account, balance)| (account.to_string(), *balance))
            .collect();
        for name in stored.keys().chain(derived.keys()) {
            let of = |map: &std::collections::BTreeMap<String, i128>| map.get(name).copied().unwrap_or(0);
            if of(&stored) != of(&derived) {
                let (stored, derived) = (of(&stored), of(&derived));
                return Err(Imbalance::Differs {
                    account: name.clone(),
                    stored,
                    derived,
                }
                .into());
            }
        }
        books.check()?;
        Ok(())
    }

    /// Facts `from` to the end, `from` counted from 1; with the number of the append that each came in.
    pub async fn facts_from(&self, from: u64) -> Result<Vec<(u64, F)>, StoreError> {
        self.log.read_async(move |db| read_facts::<F>(db, from)).await
    }
}

/// Why an audit does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The journal cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The books do not add up.
    #[error(transparent)]
    Books(#[from] Imbalance),
}

/// The kind in the file; a new file becomes one of `kind`.
fn kind_of(db: &Connection, kind: &str) -> Result<String, StoreError> {
    let insert = "INSERT OR IGNORE INTO settings (name, value) VALUES (?1, ?2)";
    db.execute(insert, params![KIND_SETTING, kind.as_bytes()])?;
    let found: Option<Vec<u8>> = db
        .query_row("SELECT value FROM settings WHERE name = ?1", [KIND_SETTING], |row| {
            row.get(0)
        })
        .optional()?;
    found
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(StoreError::Corrupt)
}

fn read_facts<F: Fact>(db: &Connection, from: u64) -> Result<Vec<(u64, F)>, StoreError> {
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let mut query = db.prepare("SELECT sequence, batch, body FROM facts WHERE sequence >= ?1 ORDER BY sequence")?;
    let mut rows = query.query([from])?;
    let mut facts = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence = row.get::<_, i64>(0)?.unsigned_abs();
        let body = row.get_ref(2)?.as_blob().map_err(|_| StoreError::Corrupt)?;
        let fact = F::from_bytes(body).map_err(|_| StoreError::Unreadable { sequence })?;
        facts.push((row.get::<_, i64>(1)?.unsigned_abs(), fact));
    }
    Ok(facts)
}

fn replay<F: Fact>(db: &Connection) -> Result<(Vec<F>, Books), StoreError> {
    let facts: Vec<F> = read_facts(db, 1)?.into_iter().map(|(_, fact)| fact).collect();
    let mut books = Books::default();
    for fact in &facts {
        fact.post(&mut books);
    }
    Ok((facts, books))
}
