//! The database file: opened exclusively, durable on every commit, its tables made or checked.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{OpenError, StoreError};

/// Marks the file as ours ("OBOL"), for `file(1)` and for us.
const APPLICATION_ID: i32 = 0x4F42_4F4C;

/// The schema's version, in the file's `user_version`.
pub(crate) const VERSION: u32 = 1;

/// `facts` is the journal; everything else is derived from it (`entries`), or stands beside it.
/// A fact's `sequence` counts from 1 without gaps; the facts of one append share a `batch`.
const TABLES: &str = "
CREATE TABLE facts (
    sequence INTEGER PRIMARY KEY,
    batch    INTEGER NOT NULL,
    body     BLOB NOT NULL
) STRICT;
CREATE TABLE entries (
    sequence INTEGER NOT NULL REFERENCES facts (sequence),
    debit    TEXT NOT NULL,
    credit   TEXT NOT NULL,
    stroops  INTEGER NOT NULL CHECK (stroops > 0)
) STRICT;
CREATE INDEX entries_by_fact ON entries (sequence);
CREATE TABLE submissions (
    number        INTEGER PRIMARY KEY,
    hash          BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    inner_hash    BLOB CHECK (length(inner_hash) = 32),
    envelope      BLOB NOT NULL,
    purpose       TEXT NOT NULL,
    subject       BLOB NOT NULL CHECK (length(subject) = 32),
    source        BLOB NOT NULL CHECK (length(source) = 32),
    source_sequence INTEGER NOT NULL,
    until_time    INTEGER NOT NULL,
    before_ledger INTEGER NOT NULL,
    fee           INTEGER NOT NULL,
    outcome       TEXT CHECK (outcome IN ('applied', 'failed', 'dead')),
    ledger        INTEGER,
    fee_charged   INTEGER,
    codes         TEXT
) STRICT;
CREATE INDEX submissions_by_purpose ON submissions (purpose, subject);
CREATE INDEX submissions_pending ON submissions (number) WHERE outcome IS NULL;
CREATE TABLE secrets (
    kind  TEXT NOT NULL,
    id    BLOB NOT NULL,
    secret BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
";

/// Opens or creates the file at `path` and holds it exclusively.
pub(crate) fn open(path: &Path, max_bytes: Option<u64>) -> Result<Connection, OpenError> {
    owner_only(path).map_err(|e| OpenError::NotWritable {
        path: path.into(),
        kind: e.kind(),
    })?;
    let failed = |error: rusqlite::Error| match &error {
        rusqlite::Error::SqliteFailure(e, _) => match e.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => OpenError::InUse { path: path.into() },
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => OpenError::Corrupt { path: path.into() },
            ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => OpenError::NotWritable {
                path: path.into(),
                kind: io::ErrorKind::PermissionDenied,
            },
            ErrorCode::DiskFull => OpenError::NotWritable {
                path: path.into(),
                kind: io::ErrorKind::StorageFull,
            },
            _ => OpenError::Failed {
                path: path.into(),
                trouble: StoreError::from_sqlite(&error),
            },
        },
        _ => OpenError::Failed {
            path: path.into(),
            trouble: StoreError::from_sqlite(&error),
        },
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(Duration::ZERO).map_err(failed)?;
    // Exclusive before WAL: the index of the log then lives in this process's memory, and nobody else can get in.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed)?;
    let mode: String = db
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(failed)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(OpenError::NotWritable {
            path: path.into(),
            kind: io::ErrorKind::Unsupported,
        });
    }
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    db.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    db.pragma_update(None, "trusted_schema", false).map_err(failed)?;
    db.pragma_update(None, "cell_size_check", true).map_err(failed)?;
    if let Some(bytes) = max_bytes {
        let page: u32 = db.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
        // The setter returns the new value as a row.
        db.query_row(
            &format!(
                "PRAGMA max_page_count = {}",
                (bytes / u64::from(page)).clamp(1, u64::from(u32::MAX - 1))
            ),
            [],
            |row| row.get::<_, i64>(0),
        )
        .map_err(failed)?;
    }
    make_or_check(&mut db, path).map_err(|e| match e {
        Checked::Sqlite(e) => failed(e),
        Checked::Open(e) => e,
    })?;
    Ok(db)
}

/// The two ways in which [`make_or_check`] fails.
enum Checked {
    Sqlite(rusqlite::Error),
    Open(OpenError),
}

impl From<rusqlite::Error> for Checked {
    fn from(e: rusqlite::Error) -> Checked {
        Checked::Sqlite(e)
    }
}

fn make_or_check(db: &mut Connection, path: &Path) -> Result<(), Checked> {
    let corrupt = || Checked::Open(OpenError::Corrupt { path: path.into() });
    let version: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: u32 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 && version == 0 && application == 0 {
        let making = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        making.execute_batch(TABLES)?;
        making.pragma_update(None, "application_id", APPLICATION_ID)?;
        making.pragma_update(None, "user_version", VERSION)?;
        making.commit()?;
        return Ok(());
    }
    if application != APPLICATION_ID || version == 0 {
        return Err(corrupt());
    }
    if version > VERSION {
        return Err(Checked::Open(OpenError::TooNew {
            path: path.into(),
            found: version,
            known: VERSION,
        }));
    }
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(corrupt());
    }
    // A gap means that a fact was lost, however intact the pages are.
    let (count, last): (i64, i64) =
        db.query_row("SELECT count(*), coalesce(max(sequence), 0) FROM facts", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if count != last {
        return Err(corrupt());
    }
    // Take the write lock now rather than at the first append.
    db.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
    Ok(())
}

/// Makes the file if absent, and lets only its owner read it: it holds escrow keys. SQLite gives its log the same mode.
///
/// A file that exists is never opened here: closing it would release the locks that this process may hold on it through
/// SQLite (POSIX locks belong to the process), and let a second process in.
fn owner_only(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    match options.open(path) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!("the journal could be read by others: its permissions are tightened to its owner");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}
