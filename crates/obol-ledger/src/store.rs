//! The ledger on disk: entries, headers and history in one SQLite database, one database transaction per ledger.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, params};
use stellar_xdr::{LedgerEntry, LedgerHeader, LedgerKey, Limits, ReadXdr, WriteXdr};

use crate::core::close::{Closed, header_hash};
use crate::core::state::State;
use crate::history::{self, LedgerRecord, TransactionRecord};

/// Why the ledger could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be made or entered.
    #[error("cannot use the ledger's directory {path}: {reason}")]
    Directory {
        /// The directory.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// The database refused.
    #[error("the ledger's database failed while {doing}: {reason}")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// What SQLite says.
        reason: String,
    },
    /// What was read is no ledger.
    #[error("the ledger's database is damaged: {what} cannot be read")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

fn database(doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| StoreError::Database {
        doing,
        reason: error.to_string(),
    }
}

/// Which way a page goes, from where, how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Records after (ascending) or before (descending) this paging token.
    pub cursor: i64,
    /// Newest first.
    pub descending: bool,
    /// At most so many.
    pub limit: u32,
}

impl Page {
    fn sql(&self, column: &str) -> String {
        let (compare, order) = if self.descending { ("<", "DESC") } else { (">", "ASC") };
        format!("{column} {compare} ?1 ORDER BY {column} {order} LIMIT ?2")
    }
}

/// Which transactions or operations a page shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those that concern this account.
    pub account: Option<[u8; 32]>,
    /// Only those of the ids `from..to`: of a ledger, or of a transaction.
    pub range: Option<(i64, i64)>,
    /// Failed ones too.
    pub failed: bool,
    /// Of operations: only those that move money.
    pub payments: bool,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    db: Connection,
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, entry BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledgers (sequence INTEGER PRIMARY KEY, header BLOB NOT NULL, successful INTEGER NOT NULL,
  failed INTEGER NOT NULL, operations INTEGER NOT NULL, set_operations INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS transactions (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, inner_hash BLOB, closed INTEGER NOT NULL,
  successful INTEGER NOT NULL, envelope BLOB NOT NULL, result BLOB NOT NULL, meta BLOB NOT NULL, fee_meta BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS transactions_inner ON transactions (inner_hash) WHERE inner_hash IS NOT NULL;
CREATE TABLE IF NOT EXISTS operations (id INTEGER PRIMARY KEY, successful INTEGER NOT NULL, payment INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS transaction_accounts (account BLOB NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (account, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operation_accounts (account BLOB NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (account, id)) WITHOUT ROWID;
";

impl Store {
    /// In memory.
    pub fn memory() -> Result<Self, StoreError> {
        Self::prepare(Connection::open_in_memory().map_err(database("opening"))?)
    }

    /// In `ledger.sqlite` in a directory.
    pub fn directory(path: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path).map_err(|error| StoreError::Directory {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        let db = Connection::open(path.join("ledger.sqlite")).map_err(database("opening"))?;
        // The other process will not let go: say so soon.
        db.busy_timeout(std::time::Duration::from_millis(300))
            .map_err(database("locking"))?;
        // Exclusive: two processes on one ledger would close different ledgers of the same number.
        // Full: a ledger that was told of is on the disk, also when the power fails the moment after. It is one sync a ledger.
        db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            .map_err(database("locking"))?;
        Self::prepare(db)
    }

    fn prepare(db: Connection) -> Result<Self, StoreError> {
        db.execute_batch(SCHEMA).map_err(database("making tables"))?;
        Ok(Self { db })
    }

    /// Reads a setting.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.db
            .query_row("SELECT value FROM settings WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(database("reading a setting"))
    }

    /// Writes a setting.
    pub fn set(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.db
            .execute(
                "INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)",
                params![name, value],
            )
            .map(|_| ())
            .map_err(database("writing a setting"))
    }

    /// Reads the last closed ledger, if there is any.
    pub fn state(&self) -> Result<Option<State>, StoreError> {
        let damaged = |what| StoreError::Damaged { what };
        let header: Option<Vec<u8>> = self
            .db
            .query_row("SELECT header FROM ledgers ORDER BY sequence DESC LIMIT 1", [], |row| {
                row.get(0)
            })
            .optional()
            .map_err(database("reading the last header"))?;
        let Some(header) = header else {
            return Ok(None);
        };
        let header = LedgerHeader::from_xdr(header, Limits::none()).map_err(|_| damaged("a header"))?;
        let mut entries = BTreeMap::new();
        let mut statement = self
            .db
            .prepare("SELECT key, entry FROM entries")
            .map_err(database("reading entries"))?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))
            .map_err(database("reading entries"))?;
        for row in rows {
            let (key, entry) = row.map_err(database("reading entries"))?;
            entries.insert(
                LedgerKey::from_xdr(key, Limits::none()).map_err(|_| damaged("a key"))?,
                LedgerEntry::from_xdr(entry, Limits::none()).map_err(|_| damaged("an entry"))?,
            );
        }
        Ok(Some(State { header, entries }))
    }

    /// Writes a closed ledger: all of it or nothing.
    pub fn commit(&mut self, closed: &Closed) -> Result<(), StoreError> {
        let failed = database("writing a ledger");
        let db = self.db.transaction().map_err(&failed)?;
        let bytes = |value: &dyn Fn() -> Result<Vec<u8>, stellar_xdr::Error>, what| {
            value().map_err(|_| StoreError::Damaged { what })
        };
        for (key, entry) in &closed.changes {
            let key = bytes(&|| key.to_xdr(Limits::none()), "a key")?;
            match entry {
                Some(entry) => {
                    let entry = bytes(&|| entry.to_xdr(Limits::none()), "an entry")?;
                    db.prepare_cached("INSERT OR REPLACE INTO entries (key, entry) VALUES (?1, ?2)")
                        .and_then(|mut s| s.execute(params![key, entry]))
                        .map_err(&failed)?;
                }
                None => {
                    db.prepare_cached("DELETE FROM entries WHERE key = ?1")
                        .and_then(|mut s| s.execute(params![key]))
                        .map_err(&failed)?;
                }
            }
        }
        let (mut successful, mut failed_count, mut operations, mut set_operations) = (0_u32, 0_u32, 0_u32, 0_u32);
        let closed_at = closed.header.scp_value.close_time.0 as i64;
        for (index, tx) in closed.transactions.iter().enumerate() {
            let count = tx.frame.inner.tx.operations.len() as u32;
            set_operations += count;
            if tx.successful() {
                successful += 1;
                operations += count;
            } else {
                failed_count += 1;
            }
            let id = history::transaction_id(closed.header.ledger_seq, index as u32 + 1);
            db.prepare_cached(
                "INSERT INTO transactions (id, hash, inner_hash, closed, successful, envelope, result, meta, fee_meta) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    id,
                    tx.frame.hash().as_slice(),
                    tx.frame.bump.as_ref().map(|_| tx.frame.inner.hash.to_vec()),
                    closed_at,
                    tx.successful(),
                    tx.frame.envelope.to_xdr(Limits::none()).unwrap_or_default(),
                    tx.result.to_xdr(Limits::none()).unwrap_or_default(),
                    tx.meta.to_xdr(Limits::none()).unwrap_or_default(),
                    tx.fee_changes.to_xdr(Limits::none()).unwrap_or_default(),
                ])
            })
            .map_err(&failed)?;
            for account in history::transaction_accounts(tx) {
                db.prepare_cached("INSERT OR IGNORE INTO transaction_accounts (account, id) VALUES (?1, ?2)")
                    .and_then(|mut s| s.execute(params![account.as_slice(), id]))
                    .map_err(&failed)?;
            }
            for (op_index, operation) in tx.frame.inner.tx.operations.iter().enumerate() {
                let op_id = id + op_index as i64 + 1;
                db.prepare_cached("INSERT INTO operations (id, successful, payment) VALUES (?1, ?2, ?3)")
                    .and_then(|mut s| s.execute(params![op_id, tx.successful(), history::is_payment(&operation.body)]))
                    .map_err(&failed)?;
                for account in history::operation_accounts(tx, op_index) {
                    db.prepare_cached("INSERT OR IGNORE INTO operation_accounts (account, id) VALUES (?1, ?2)")
                        .and_then(|mut s| s.execute(params![account.as_slice(), op_id]))
                        .map_err(&failed)?;
                }
            }
        }
        db.execute(
            "INSERT INTO ledgers (sequence, header, successful, failed, operations, set_operations) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                closed.header.ledger_seq,
                closed.header.to_xdr(Limits::none()).unwrap_or_default(),
                successful,
                failed_count,
                operations,
                set_operations
            ],
        )
        .map_err(&failed)?;
        db.commit().map_err(&failed)
    }

    fn ledger_of(row: &Row<'_>) -> rusqlite::Result<(Vec<u8>, [u32; 4])> {
        Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))
    }

    fn record(
        (header, [successful, failed, operations, set_operations]): (Vec<u8>, [u32; 4]),
    ) -> Result<LedgerRecord, StoreError> {
        let header =
            LedgerHeader::from_xdr(header, Limits::none()).map_err(|_| StoreError::Damaged { what: "a header" })?;
        Ok(LedgerRecord {
            hash: header_hash(&header),
            header,
            successful,
            failed,
            operations,
            set_operations,
        })
    }

    /// One ledger.
    pub fn ledger(&self, sequence: u32) -> Result<Option<LedgerRecord>, StoreError> {
        self.db
            .query_row(
                "SELECT header, successful, failed, operations, set_operations FROM ledgers WHERE sequence = ?1",
                [sequence],
                Self::ledger_of,
            )
            .optional()
            .map_err(database("reading a ledger"))?
            .map(Self::record)
            .transpose()
    }

    /// A page of ledgers; paging tokens are sequence << 32.
    pub fn ledgers(&self, page: Page) -> Result<Vec<LedgerRecord>, StoreError> {
        let failed = database("reading ledgers");
        // The same bound on the bare sequence, so that the primary key finds it.
        let cursor = if page.descending {
            (page.cursor.saturating_sub(1) >> 32) + 1
        } else {
            page.cursor >> 32
        };
        let sql = format!(
            "SELECT header, successful, failed, operations, set_operations FROM ledgers WHERE {}",
            page.sql("sequence")
        );
        let mut statement = self.db.prepare_cached(&sql).map_err(&failed)?;
        let rows = statement
            .query_map(params![cursor, page.limit], Self::ledger_of)
            .map_err(&failed)?;
        rows.map(|row| row.map_err(&failed).and_then(Self::record)).collect()
    }

    const TRANSACTION: &'static str = "SELECT t.id, t.hash, t.inner_hash, t.closed, t.successful, t.envelope, t.result, t.meta, t.fee_meta FROM transactions t";

    fn transaction_of(row: &Row<'_>) -> rusqlite::Result<TransactionRecord> {
        Ok(TransactionRecord {
            id: row.get(0)?,
            hash: row.get(1)?,
            inner_hash: row.get(2)?,
            close_time: row.get::<_, i64>(3)?.unsigned_abs(),
            successful: row.get(4)?,
            envelope: row.get(5)?,
            result: row.get(6)?,
            meta: row.get(7)?,
            fee_meta: row.get(8)?,
        })
    }

    /// A transaction by its own hash or, for a fee bump, its inner one.
    pub fn transaction(&self, hash: &[u8; 32]) -> Result<Option<TransactionRecord>, StoreError> {
        let sql = format!(
            "{} WHERE t.hash = ?1 UNION ALL {} WHERE t.inner_hash = ?1 LIMIT 1",
            Self::TRANSACTION,
            Self::TRANSACTION
        );
        self.db
            .prepare_cached(&sql)
            .and_then(|mut s| s.query_row([hash.as_slice()], Self::transaction_of).optional())
            .map_err(database("reading a transaction"))
    }

    /// A transaction by its paging token.
    pub fn transaction_by_id(&self, id: i64) -> Result<Option<TransactionRecord>, StoreError> {
        self.db
            .prepare_cached(&format!("{} WHERE t.id = ?1", Self::TRANSACTION))
            .and_then(|mut s| s.query_row([id], Self::transaction_of).optional())
            .map_err(database("reading a transaction"))
    }

    /// A page of transactions.
    pub fn transactions(&self, page: Page, filter: &Filter) -> Result<Vec<TransactionRecord>, StoreError> {
        let failed = database("reading transactions");
        let (join, who) = match &filter.account {
            Some(_) => (" JOIN transaction_accounts a ON a.id = t.id AND a.account = ?3", "a.id"),
            None => ("", "t.id"),
        };
        let sql = format!(
            "{}{join} WHERE (?3 IS NULL OR 1) AND (?4 OR t.successful) AND t.id >= ?5 AND t.id < ?6 AND {}",
            Self::TRANSACTION,
            page.sql(who)
        );
        let (from, to) = filter.range.unwrap_or((0, i64::MAX));
        let account = filter.account.as_ref().map(<[u8; 32]>::as_slice);
        let mut statement = self.db.prepare_cached(&sql).map_err(&failed)?;
        let rows = statement
            .query_map(
                params![page.cursor, page.limit, account, filter.failed, from, to],
                Self::transaction_of,
            )
            .map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)).collect()
    }

    /// A page of operations, as their ids.
    pub fn operations(&self, page: Page, filter: &Filter) -> Result<Vec<i64>, StoreError> {
        let failed = database("reading operations");
        let (join, who) = match &filter.account {
            Some(_) => (" JOIN operation_accounts a ON a.id = o.id AND a.account = ?3", "a.id"),
            None => ("", "o.id"),
        };
        let sql = format!(
            "SELECT o.id FROM operations o{join} WHERE (?3 IS NULL OR 1) AND (?4 OR o.successful) AND o.id >= ?5 AND o.id < ?6 \
             AND (NOT ?7 OR o.payment) AND {}",
            page.sql(who)
        );
        let (from, to) = filter.range.unwrap_or((0, i64::MAX));
        let account = filter.account.as_ref().map(<[u8; 32]>::as_slice);
        let mut statement = self.db.prepare_cached(&sql).map_err(&failed)?;
        let rows = statement
            .query_map(
                params![
                    page.cursor,
                    page.limit,
                    account,
                    filter.failed,
                    from,
                    to,
                    filter.payments
                ],
                |row| row.get(0),
            )
            .map_err(&failed)?;
        rows.map(|row| row.map_err(&failed)).collect()
    }

    /// Whether an operation exists.
    pub fn has_operation(&self, id: i64) -> Result<bool, StoreError> {
        self.db
            .query_row("SELECT 1 FROM operations WHERE id = ?1", [id], |_| Ok(()))
            .optional()
            .map(|found| found.is_some())
            .map_err(database("reading an operation"))
    }
}
