//! The gateway's own file: what happened hour by hour, and what was asked for and sent beyond circuits. No money depends on the first;
//! the second is durable before anything is done.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

/// Marks the file as ours ("OBOH"), for `file(1)` and for us.
const APPLICATION_ID: i32 = 0x4F42_4F48;

/// One script for each version that the file has had: the file's `user_version` says how many of them it has seen.
const MIGRATIONS: &[&str] = &["
CREATE TABLE hours (
    start          INTEGER NOT NULL,
    peer           TEXT NOT NULL,
    carried_paid   INTEGER NOT NULL,
    carried_unpaid INTEGER NOT NULL,
    requests       INTEGER NOT NULL,
    payments       INTEGER NOT NULL,
    refusals       INTEGER NOT NULL,
    earned         INTEGER NOT NULL,
    forwarded      INTEGER NOT NULL,
    signed         INTEGER NOT NULL,
    settled_in     INTEGER NOT NULL,
    settled_out    INTEGER NOT NULL,
    owed           INTEGER,
    PRIMARY KEY (start, peer)
) STRICT, WITHOUT ROWID;
CREATE TABLE invoices (
    number     INTEGER PRIMARY KEY,
    key        TEXT NOT NULL UNIQUE,
    asked      TEXT NOT NULL,
    memo       BLOB NOT NULL UNIQUE CHECK (length(memo) = 32),
    created_at INTEGER NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    message    TEXT
) STRICT;
CREATE TABLE invoice_payments (
    number INTEGER NOT NULL REFERENCES invoices (number),
    hash   TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    PRIMARY KEY (number, hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE transfers (
    number      INTEGER PRIMARY KEY,
    key         TEXT NOT NULL UNIQUE,
    asked       TEXT NOT NULL,
    reference   BLOB NOT NULL UNIQUE CHECK (length(reference) = 32),
    created_at  INTEGER NOT NULL,
    body        TEXT NOT NULL,
    state       TEXT NOT NULL DEFAULT 'pending',
    transaction_hash TEXT,
    detail      TEXT
) STRICT;
"];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// It cannot be made, opened or written.
    #[error("the gateway's records {path}: {source}")]
    Database {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// It cannot be made.
    #[error("the gateway's records {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is another program's file.
    #[error("{path} is no file of gateway records: name another one, or move it away")]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error(
        "the gateway's records {path} are of version {found}, and this program knows up to {known}: use a newer one"
    )]
    TooNew {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest known one.
        known: u32,
    },
}

/// The open file.
#[derive(Debug)]
pub struct Records {
    db: Mutex<Connection>,
    path: PathBuf,
}

impl Records {
    /// Opens the file, or makes it, readable by its owner only; an older version's is brought up to date.
    pub fn open(path: &Path) -> Result<Records, RecordsError> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path).map_err(|source| RecordsError::File {
            path: path.into(),
            source,
        })?;
        let db = Connection::open(path).map_err(|source| RecordsError::Database {
            path: path.into(),
            source,
        })?;
        Records::prepare(db, path)
    }

    /// Keeps everything in memory.
    pub fn in_memory() -> Result<Records, RecordsError> {
        let path = Path::new(":memory:");
        let db = Connection::open_in_memory().map_err(|source| RecordsError::Database {
            path: path.into(),
            source,
        })?;
        Records::prepare(db, path)
    }

    fn prepare(mut db: Connection, path: &Path) -> Result<Records, RecordsError> {
        let failed = |source| RecordsError::Database {
            path: path.into(),
            source,
        };
        db.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
        let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (application, version) = (
            number("application_id").map_err(failed)?,
            number("user_version").map_err(failed)?,
        );
        let tables = "SELECT count(*) FROM sqlite_schema";
        let is_new = db.query_row(tables, [], |row| row.get::<_, i64>(0)).map_err(failed)? == 0;
        if !is_new && application != i64::from(APPLICATION_ID) {
            return Err(RecordsError::Foreign { path: path.into() });
        }
        let seen = usize::try_from(version).unwrap_or(usize::MAX);
        if seen > MIGRATIONS.len() {
            return Err(RecordsError::TooNew {
                path: path.into(),
                found: u32::try_from(version).unwrap_or(u32::MAX),
                known: MIGRATIONS.len() as u32,
            });
        }
        db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        let upgrade = db.transaction().map_err(failed)?;
        for script in MIGRATIONS.iter().skip(seen) {
            upgrade.execute_batch(script).map_err(failed)?;
        }
        upgrade
            .pragma_update(None, "application_id", APPLICATION_ID)
            .map_err(failed)?;
        upgrade
            .pragma_update(None, "user_version", MIGRATIONS.len() as i64)
            .map_err(failed)?;
        upgrade.commit().map_err(failed)?;
        Ok(Records {
            db: Mutex::new(db),
            path: path.into(),
        })
    }

    /// The connection, for a short while.
    pub(crate) fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error of the connection, with the file's name.
    pub(crate) fn failed(&self, source: rusqlite::Error) -> RecordsError {
        RecordsError::Database {
            path: self.path.clone(),
            source,
        }
    }
}
