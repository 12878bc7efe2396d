//! The database file: opened exclusively, durable on every commit, its tables made or checked.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{OpenError, StoreError};
use crate::migrate;

/// Marks the file as ours ("OBOL"), for `file(1)` and for us.
const APPLICATION_ID: i32 = 0x4F42_4F4C;

/// The schema's version, in the file's `user_version`.
pub(crate) const VERSION: u32 = 2;

/// Up to this size the whole file is checked at every start; a larger one by [`crate::Journal::audit`] (docs/adr/0035).
const CHECKED_AT_START: u64 = 64 << 20;

/// `facts` is the journal; everything else is derived from it (`entries`, `checkpoints`, `days`), or stands beside it.
///
/// - A fact's `sequence` counts from 1 without gaps; the facts of one append share a `batch`.
/// - `batches.chain` is the hash of the batch's facts and of the chain before it, so that no row can change unseen.
/// - `checkpoints`: `latest`, from which a start goes on; `base`, what the erased facts came to.
/// - `days`: what erased facts moved, by day. `transactions`: what became of erased submissions.
/// - A `digest` is the hash of its row's other columns.
/// - Times are days since 1970, UTC: nothing here says more exactly when somebody paid.
const TABLES: &str = "
CREATE TABLE facts (
    sequence INTEGER PRIMARY KEY,
    batch    INTEGER NOT NULL,
    body     BLOB NOT NULL
) STRICT;
CREATE TABLE batches (
    batch INTEGER PRIMARY KEY,
    last  INTEGER NOT NULL,
    day   INTEGER NOT NULL,
    chain BLOB NOT NULL CHECK (length(chain) = 32)
) STRICT;
CREATE TABLE accounts (
    id     INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE TABLE entries (
    sequence INTEGER NOT NULL,
    line     INTEGER NOT NULL,
    debit    INTEGER NOT NULL,
    credit   INTEGER NOT NULL,
    stroops  INTEGER NOT NULL CHECK (stroops > 0),
    PRIMARY KEY (sequence, line)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (
    which    TEXT PRIMARY KEY CHECK (which IN ('latest', 'base')),
    sequence INTEGER NOT NULL,
    batch    INTEGER NOT NULL,
    day      INTEGER NOT NULL,
    chain    BLOB NOT NULL,
    state    BLOB NOT NULL,
    digest   BLOB NOT NULL
) STRICT;
CREATE TABLE days (
    day    INTEGER PRIMARY KEY,
    body   BLOB NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE TABLE transactions (
    number  INTEGER PRIMARY KEY,
    day     INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    outcome TEXT NOT NULL,
    ledger  INTEGER,
    fee     INTEGER NOT NULL,
    stroops INTEGER,
    hash    BLOB NOT NULL,
    digest  BLOB NOT NULL
) STRICT;
CREATE TABLE submissions (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
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
    codes         TEXT,
    day           INTEGER NOT NULL DEFAULT 0,
    resolved      INTEGER,
    digest        BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE INDEX submissions_by_purpose ON submissions (purpose, subject);
CREATE INDEX submissions_pending ON submissions (number) WHERE outcome IS NULL;
CREATE TABLE secrets (
    kind   TEXT NOT NULL,
    id     BLOB NOT NULL,
    secret BLOB NOT NULL,
    digest BLOB NOT NULL DEFAULT x'',
    PRIMARY KEY (kind, id)
) STRICT;
CREATE TABLE settings (
    name   TEXT PRIMARY KEY,
    value  BLOB NOT NULL,
    digest BLOB NOT NULL DEFAULT x''
) STRICT;
";

/// Makes of a file of version 1, where accounts were written out in each entry and days were not recorded, the tables of
/// version 2. The rows that need hashes get them from [`crate::migrate`].
const FROM_1: &str = "
DROP INDEX entries_by_fact;
ALTER TABLE entries RENAME TO old_entries;
ALTER TABLE facts RENAME TO old_facts;
ALTER TABLE submissions RENAME TO old_submissions;
ALTER TABLE secrets RENAME TO old_secrets;
ALTER TABLE settings RENAME TO old_settings;
DROP INDEX submissions_by_purpose;
DROP INDEX submissions_pending;
";
const MOVE_1: &str = "
INSERT INTO facts (sequence, batch, body) SELECT sequence, batch, body FROM old_facts;
INSERT INTO accounts (name) SELECT debit FROM old_entries UNION SELECT credit FROM old_entries ORDER BY 1;
INSERT INTO entries (sequence, line, debit, credit, stroops)
    SELECT e.sequence, row_number() OVER (PARTITION BY e.sequence ORDER BY e.rowid) - 1, d.id, c.id, e.stroops
    FROM old_entries e JOIN accounts d ON d.name = e.debit JOIN accounts c ON c.name = e.credit;
INSERT INTO submissions (number, hash, inner_hash, envelope, purpose, subject, source, source_sequence, until_time,
        before_ledger, fee, outcome, ledger, fee_charged, codes)
    SELECT number, hash, inner_hash, envelope, purpose, subject, source, source_sequence, until_time, before_ledger, fee,
        outcome, ledger, fee_charged, codes FROM old_submissions;
INSERT INTO secrets (kind, id, secret) SELECT kind, id, secret FROM old_secrets;
INSERT INTO settings (name, value) SELECT name, value FROM old_settings;
DROP TABLE old_entries;
DROP TABLE old_facts;
DROP TABLE old_submissions;
DROP TABLE old_secrets;
DROP TABLE old_settings;
";

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    /// Made if it is not there.
    pub(crate) create: bool,
    pub(crate) max_bytes: Option<u64>,
    /// The day of what an older version recorded without one.
    pub(crate) today: u32,
    /// SQLite's file layer; `None`: the system's.
    pub(crate) vfs: Option<&'static str>,
}

/// Opens the file at `path` and holds it exclusively.
pub(crate) fn open(path: &Path, how: Opening) -> Result<Connection, OpenError> {
    let Opening {
        create,
        max_bytes,
        today,
        vfs,
    } = how;
    if vfs.is_none() {
        owner_only(path, create).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound if !create => OpenError::Missing { path: path.into() },
            kind => OpenError::NotWritable {
                path: path.into(),
                kind,
            },
        })?;
    }
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
    let mut db = match vfs {
        None => Connection::open_with_flags(path, flags),
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags | OpenFlags::SQLITE_OPEN_CREATE, vfs),
    }
    .map_err(failed)?;
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
    // From here on the log has what was acknowledged, so the names of both must outlive a loss of power, and that of the
    // rollback journal of the file's making must not.
    if vfs.is_none() {
        sync_directory(path).map_err(|e| OpenError::NotWritable {
            path: path.into(),
            kind: e.kind(),
        })?;
    }
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    db.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    db.pragma_update(None, "trusted_schema", false).map_err(failed)?;
    db.pragma_update(None, "cell_size_check", true).map_err(failed)?;
    // What is erased, and above all a forgotten secret, is overwritten.
    db.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))
        .map_err(failed)?;
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
    make_or_check(&mut db, path, today).map_err(|e| match e {
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

fn make_or_check(db: &mut Connection, path: &Path, today: u32) -> Result<(), Checked> {
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
    let pages: u64 = db
        .query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))?
        .unsigned_abs();
    let page: u64 = db
        .query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?
        .unsigned_abs();
    if pages.saturating_mul(page) <= CHECKED_AT_START {
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(corrupt());
        }
        // A gap means that a fact was lost, however intact the pages are.
        let (count, first, last): (i64, i64, i64) = db.query_row(
            "SELECT count(*), coalesce(min(sequence), 1), coalesce(max(sequence), 0) FROM facts",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        if count != last - first + 1 {
            return Err(corrupt());
        }
    }
    if version < VERSION {
        tracing::info!("the journal is brought from version {version} to {VERSION}");
        let moving = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        moving.execute_batch(FROM_1)?;
        moving.execute_batch(TABLES)?;
        moving.execute_batch(MOVE_1)?;
        migrate::add_digests(&moving, today).map_err(|trouble| {
            Checked::Open(OpenError::Failed {
                path: path.into(),
                trouble,
            })
        })?;
        moving.pragma_update(None, "user_version", VERSION)?;
        moving.commit()?;
    }
    // Take the write lock now rather than at the first append.
    db.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
    Ok(())
}

/// Makes the names in `path`'s directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Makes the file if absent and wanted, and lets only its owner read it: it holds escrow keys. SQLite gives its log the same mode.
///
/// A file that exists is never opened here: closing it would release the locks that this process may hold on it through
/// SQLite (POSIX locks belong to the process), and let a second process in.
fn owner_only(path: &Path, create: bool) -> io::Result<()> {
    if create {
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
