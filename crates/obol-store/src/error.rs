//! What can go wrong with the journal, named by what its owner can do about it.

use std::path::PathBuf;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open. Two processes on one journal would pay twice.
    #[error("the journal {path} is in use by another process: stop that one first")]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// There is no such file, and none was to be made.
    #[error("there is no journal {path}: check the path, or start the relay or the client once, which makes it")]
    Missing {
        /// The journal.
        path: PathBuf,
    },
    /// The directory or the file cannot be created or written.
    #[error("the journal {path} cannot be written ({kind}): check the directory's owner, permissions and free space")]
    NotWritable {
        /// The journal.
        path: PathBuf,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// There is a file, and it is no journal of ours, or a damaged one.
    #[error("{path} is not an intact journal: restore a backup; it is left as it is")]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error("the journal {path} has version {found}, this program knows up to {known}: use the newer program")]
    TooNew {
        /// The journal.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// It is a journal of the other program: a relay's and a client's are not interchangeable.
    #[error("the journal {path} belongs to a {found}, not to a {wanted}: give this program a file of its own")]
    OtherKind {
        /// The journal.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: &'static str,
    },
    /// The database failed in another way.
    #[error("the journal {path} cannot be opened: {trouble}")]
    Failed {
        /// The journal.
        path: PathBuf,
        /// How.
        trouble: StoreError,
    },
}

/// Why something could not be written to, or read from, an open journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space is left on the disk, or the journal has reached its size limit.
    #[error("no space is left for the journal: make room on its disk, or raise its limit, and start again")]
    Full,
    /// The file or its directory became read-only.
    #[error("the journal cannot be written any more")]
    ReadOnly,
    /// The file is damaged.
    #[error("the journal is damaged")]
    Corrupt,
    /// An append failed before: facts after a lost one must not be stored. Restart from the journal.
    #[error("the journal has stopped after a failed append")]
    Stopped,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// A stored fact cannot be read by this version.
    #[error("fact {sequence} of the journal cannot be read")]
    Unreadable {
        /// Its place in the journal.
        sequence: u64,
    },
    /// The same key, fact or submission was stored before with another content.
    #[error("the journal holds something else under this name already")]
    Conflict,
    /// An input or output error, or one of the database's own (SQLite's extended result code).
    #[error("the journal's database failed with code {code}")]
    Database {
        /// SQLite's extended result code.
        code: i32,
    },
}

impl StoreError {
    /// Sorts a database error by what can be done about it.
    pub(crate) fn from_sqlite(error: &rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode as Code;
        match error {
            rusqlite::Error::SqliteFailure(e, _) => match e.code {
                Code::DiskFull => StoreError::Full,
                Code::ReadOnly | Code::PermissionDenied | Code::CannotOpen => StoreError::ReadOnly,
                Code::DatabaseCorrupt | Code::NotADatabase => StoreError::Corrupt,
                Code::ConstraintViolation => StoreError::Conflict,
                _ => StoreError::Database { code: e.extended_code },
            },
            // A value of another type than the schema's: the file was changed by something else.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::QueryReturnedNoRows => StoreError::Corrupt,
            _ => StoreError::Database { code: -1 },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        StoreError::from_sqlite(&error)
    }
}
