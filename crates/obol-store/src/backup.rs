//! Backups: everything a journal holds, encrypted, and a new epoch when it is taken in again (H13 in design-review.md).
//!
//! A backup is older than the journal that it was made from, as soon as that one goes on. As payer it may have signed more
//! since, so that nothing more is signed on the escrows of the backup; as payee it may have taken, or flushed, more, so that
//! nothing more is taken on them, and the newest claim that is known is flushed at once. The first fact of the new epoch
//! (`NewEpoch`) says so to the state machines.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use obol_cell::{Reader, Writer};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use zeroize::Zeroizing;

use crate::checkpoint::{self, Which};
use crate::condense::Condense as _;
use crate::crypt::{Opening, Sealing};
use crate::error::{OpenError, StoreError};
use crate::journal::{EPOCH_SETTING, Fact, Journal, SEALED_SETTING, epoch_of, read_batches};
use crate::keeper::{self, Keeper, Place, Settings};
use crate::{retention, schema, state, submissions};

/// The version of a backup's content.
const FORMAT: u8 = 1;

/// A file that goes with the journal: a key.
#[derive(Clone)]
pub struct SecretFile {
    /// Its name, as the caller knows it.
    pub name: String,
    /// Its content.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SecretFile {
    /// Never shows the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What came out of a backup.
#[derive(Debug)]
pub struct Imported {
    /// The epoch that began.
    pub epoch: u64,
    /// Facts of the backup.
    pub facts: u64,
    /// Escrows on which nothing is signed any more.
    pub sealed: usize,
    /// The files that went with it. The caller puts them where they belong.
    pub files: Vec<SecretFile>,
}

/// Why a backup cannot be made or taken in.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The passphrase is empty, or not the one that the backup was made with.
    #[error("the passphrase is not the one of this backup")]
    Passphrase,
    /// It ends early.
    #[error("the backup is cut off: it was not written or copied to its end")]
    Truncated,
    /// It is not as it was written.
    #[error("the backup was altered or is damaged: nothing of it is used")]
    Altered,
    /// It is something else.
    #[error("this is no backup of a journal")]
    NotABackup,
    /// A later version of this program wrote it.
    #[error("the backup has version {found}, this program knows up to {known}: use the newer program")]
    TooNew {
        /// The version in the file.
        found: u8,
        /// The newest that this program reads.
        known: u8,
    },
    /// It is one of the other program's.
    #[error("the backup is a {found}'s, not a {wanted}'s")]
    OtherKind {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: &'static str,
    },
    /// There is a file already where one was to be made.
    #[error("{path} exists already: it is left as it is; give another path, or move it away")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// More than a backup can hold.
    #[error("the journal is too large for a backup")]
    TooLarge,
    /// It cannot be read or written.
    #[error("the backup cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal cannot be opened or made.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<rusqlite::Error> for BackupError {
    fn from(error: rusqlite::Error) -> BackupError {
        BackupError::Store(error.into())
    }
}

// The kinds of records, in the order in which they come. The head says whose journal it is; the end, how far it goes.
const HEAD: u8 = 1;
const SETTING: u8 = 2;
const SECRET: u8 = 3;
const FILE: u8 = 4;
const BASE: u8 = 5;
const DAY: u8 = 6;
const TRANSACTION: u8 = 7;
const SUBMISSION: u8 = 8;
const BATCH: u8 = 9;
const END: u8 = 10;

fn record<W: Write>(out: &mut Sealing<W>, kind: u8, body: &[u8]) -> Result<(), BackupError> {
    out.write(&[kind])?;
    out.write(&(body.len() as u64).to_be_bytes())?;
    out.write(body)
}

fn blob<'a>(w: &'a mut Writer, bytes: &[u8]) -> &'a mut Writer {
    w.u64(bytes.len() as u64).bytes(bytes)
}

fn read_blob(r: &mut Reader<'_>) -> Result<Vec<u8>, BackupError> {
    let altered = |_| BackupError::Altered;
    let length = usize::try_from(r.u64().map_err(altered)?).map_err(|_| BackupError::Altered)?;
    if length > r.remaining() {
        return Err(BackupError::Altered);
    }
    let mut bytes = Vec::with_capacity(length);
    for _ in 0..length {
        bytes.push(r.u8().map_err(altered)?);
    }
    Ok(bytes)
}

fn read_text(r: &mut Reader<'_>) -> Result<String, BackupError> {
    String::from_utf8(read_blob(r)?).map_err(|_| BackupError::Altered)
}

fn write_place(w: &mut Writer, at: &Place) {
    w.u64(at.sequence).u64(at.batch).u32(at.day).bytes(&at.chain);
}

fn read_place(r: &mut Reader<'_>) -> Result<Place, BackupError> {
    let altered = |_| BackupError::Altered;
    Ok(Place {
        sequence: r.u64().map_err(altered)?,
        batch: r.u64().map_err(altered)?,
        day: r.u32().map_err(altered)?,
        chain: r.array().map_err(altered)?,
    })
}

/// A row whatever its columns hold.
fn write_row(row: &rusqlite::Row<'_>, columns: usize) -> Result<Vec<u8>, BackupError> {
    let mut w = Writer::new();
    for column in 0..columns {
        match row.get::<_, Value>(column)? {
            Value::Null => w.u8(0),
            Value::Integer(number) => w.u8(1).bytes(&number.to_be_bytes()),
            Value::Text(text) => blob(w.u8(2), text.as_bytes()),
            Value::Blob(bytes) => blob(w.u8(3), &bytes),
            Value::Real(_) => return Err(StoreError::Corrupt.into()),
        };
    }
    Ok(w.finish())
}

fn read_row(r: &mut Reader<'_>, columns: usize) -> Result<Vec<Value>, BackupError> {
    let altered = |_| BackupError::Altered;
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        row.push(match r.u8().map_err(altered)? {
            0 => Value::Null,
            1 => Value::Integer(i64::from_be_bytes(r.array().map_err(altered)?)),
            2 => Value::Text(read_text(r)?),
            3 => Value::Blob(read_blob(r)?),
            _ => return Err(BackupError::Altered),
        });
    }
    Ok(row)
}

fn write_all<F: Fact, W: Write>(
    db: &Connection,
    files: &[SecretFile],
    out: W,
    passphrase: &str,
) -> Result<W, BackupError> {
    let mut out = Sealing::new(out, passphrase)?;
    let mut w = Writer::new();
    w.u8(FORMAT);
    blob(&mut w, F::KIND.as_bytes()).u64(epoch_of(db)?);
    record(&mut out, HEAD, &w.finish())?;
    let mut query = db.prepare("SELECT name, value FROM settings ORDER BY name")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        record(&mut out, SETTING, &write_row(row, 2)?)?;
    }
    let mut query = db.prepare("SELECT kind, id, secret FROM secrets ORDER BY kind, id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        record(&mut out, SECRET, &Zeroizing::new(write_row(row, 3)?))?;
    }
    for file in files {
        let mut w = Writer::new();
        blob(blob(&mut w, file.name.as_bytes()), &file.bytes);
        record(&mut out, FILE, &Zeroizing::new(w.finish()))?;
    }
    if let Some((at, state)) = checkpoint::read_encoded(db, Which::Base)? {
        let mut w = Writer::new();
        write_place(&mut w, &at);
        blob(&mut w, &state);
        record(&mut out, BASE, &w.finish())?;
    }
    let tables = [
        (DAY, "SELECT day, body FROM days ORDER BY day".to_owned(), 2),
        (
            TRANSACTION,
            format!("SELECT {} FROM transactions ORDER BY number", retention::TRANSACTION),
            retention::TRANSACTION_COUNT,
        ),
        (
            SUBMISSION,
            format!("SELECT {} FROM submissions ORDER BY number", submissions::DIGESTED),
            submissions::DIGESTED_COUNT,
        ),
    ];
    for (kind, select, columns) in tables {
        let mut query = db.prepare(&select)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            record(&mut out, kind, &write_row(row, columns)?)?;
        }
    }
    let first = checkpoint::read_encoded(db, Which::Base)?.map_or(Place::START, |(at, _)| at);
    let (mut last, mut failed) = (first, None);
    let read = read_batches::<F>(db, first.sequence, u64::MAX, |batch| {
        if batch.chain_after(&last) != Some(batch.place.chain) {
            return Err(StoreError::Corrupt);
        }
        last = batch.place;
        let mut w = Writer::new();
        write_place(&mut w, &batch.place);
        w.u64(batch.bodies().len() as u64);
        for body in batch.bodies() {
            blob(&mut w, body);
        }
        record(&mut out, BATCH, &w.finish()).map_err(|error| {
            failed = Some(error);
            StoreError::Closed
        })
    });
    if let Some(error) = failed {
        return Err(error);
    }
    read?;
    let mut w = Writer::new();
    write_place(&mut w, &last);
    record(&mut out, END, &w.finish())?;
    out.finish()
}

impl<F: Fact> Journal<F> {
    /// Writes everything that this journal holds, and `files`, encrypted with `passphrase`; returns `out` when all is
    /// written (not synced). Blocks; appends wait meanwhile.
    ///
    /// # Errors
    /// The passphrase is empty, `out` cannot be written, or the journal is damaged.
    pub fn export<W: Write + Send + 'static>(
        &self,
        passphrase: &str,
        files: &[SecretFile],
        out: W,
    ) -> Result<W, BackupError> {
        let passphrase = Zeroizing::new(passphrase.to_owned());
        let files = files.to_vec();
        let written = self
            .log
            .read_blocking(move |db| Ok(write_all::<F, W>(db, &files, out, &passphrase)));
        written?
    }

    /// [`Journal::export`] to a new file that only its owner can read, durable when this returns. There is either the whole
    /// file at `path`, or none.
    pub fn export_to(&self, passphrase: &str, files: &[SecretFile], path: &Path) -> Result<(), BackupError> {
        if path.exists() {
            return Err(BackupError::Exists { path: path.into() });
        }
        let part = beside(path, "part");
        let written = new_file(&part)
            .map_err(BackupError::from)
            .and_then(|file| self.export(passphrase, files, io::BufWriter::new(file)))
            .and_then(|file| Ok(file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?))
            .and_then(|()| rename(&part, path));
        if written.is_err() {
            // What is there is worth nothing; if it cannot be removed, it can be overwritten.
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// Makes a journal at `path`, where there must be none, of a backup, and begins a new epoch ([module](crate::backup)).
    /// Blocks.
    ///
    /// # Errors
    /// Then there is no journal at `path`, and nothing of the backup is to be used.
    pub fn import(path: &Path, passphrase: &str, input: impl Read) -> Result<Imported, BackupError> {
        if path.exists() {
            return Err(BackupError::Exists { path: path.into() });
        }
        let part = beside(path, "importing");
        remove_database(&part)?;
        let imported = read_all::<F>(&part, passphrase, input).and_then(|imported| {
            fs::File::open(&part)?.sync_all()?;
            rename(&part, path)?;
            Ok(imported)
        });
        if imported.is_err() {
            // It holds secrets, in a file of its owner's; the next import removes it, too.
            let _ = remove_database(&part);
        }
        imported
    }
}

/// `path` with another ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// An empty file that only its owner can read.
fn new_file(path: &Path) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

/// Removes an unfinished import, with its log.
fn remove_database(path: &Path) -> Result<(), BackupError> {
    for ending in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        match fs::remove_file(PathBuf::from(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Renames, durably.
fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    fs::rename(from, to)?;
    Ok(schema::sync_directory(to)?)
}

fn read_all<F: Fact>(path: &Path, passphrase: &str, input: impl Read) -> Result<Imported, BackupError> {
    let mut input = Opening::new(input, passphrase)?;
    let today = keeper::day_of(keeper::system_clock());
    let how = schema::Opening {
        create: true,
        max_bytes: None,
        today,
        vfs: None,
    };
    let mut db = schema::open(path, how)?;
    let mut taking: Taking<Keeper<F>> = Taking {
        keeper: None,
        epoch: 0,
        files: Vec::new(),
    };
    let writing = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    loop {
        let mut start = [0; 9];
        input.read(&mut start)?;
        let (kind, length) = (
            start[0],
            u64::from_be_bytes([
                start[1], start[2], start[3], start[4], start[5], start[6], start[7], start[8],
            ]),
        );
        let body = read_body(&mut input, length)?;
        if taking.record(&writing, kind, &body)? {
            break;
        }
    }
    // Only now is it known that all of it is as it was written.
    input.finish()?;
    let mut keeper: Keeper<F> = taking.take_keeper(&writing)?;
    let facts = keeper.at.sequence;
    let epoch = taking.epoch.saturating_add(1);
    let mut sealed = state::setting(&writing, SEALED_SETTING)?.unwrap_or_default();
    for escrow in keeper.state.signing() {
        if sealed.as_chunks::<32>().0.iter().all(|id| *id != escrow.0) {
            sealed.extend_from_slice(&escrow.0);
        }
    }
    submissions::restore_numbers(&writing)?;
    state::put_setting(&writing, SEALED_SETTING, &sealed)?;
    state::put_setting(&writing, EPOCH_SETTING, &epoch.to_be_bytes())?;
    let first = keeper.state.new_epoch();
    keeper.append(&writing, &first)?;
    keeper.checkpoint(&writing)?;
    writing.commit()?;
    drop(keeper);
    db.close().map_err(|(_, error)| error)?;
    Ok(Imported {
        epoch,
        facts,
        sealed: sealed.len() / 32,
        files: taking.files,
    })
}

/// A record's body; grows with what is there, whatever the length says.
fn read_body(input: &mut Opening<impl Read>, length: u64) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let mut body = Zeroizing::new(Vec::new());
    let mut left = usize::try_from(length).map_err(|_| BackupError::Altered)?;
    while left > 0 {
        let now = left.min(1 << 20);
        let at = body.len();
        body.resize(at + now, 0);
        input.read(&mut body[at..])?;
        left -= now;
    }
    Ok(body)
}

/// A backup on its way into a journal.
struct Taking<K> {
    /// Begins with the first batch, when what it follows on is there.
    keeper: Option<K>,
    epoch: u64,
    files: Vec<SecretFile>,
}

impl<F: Fact> Taking<Keeper<F>> {
    fn take_keeper(&mut self, db: &Connection) -> Result<Keeper<F>, BackupError> {
        let settings = Settings {
            checkpoint_every: keeper::CHECKPOINT_EVERY,
            keep_days: None,
            clock: keeper::system_clock,
        };
        match self.keeper.take() {
            Some(keeper) => Ok(keeper),
            None => Ok(Keeper::load(db, settings)?.0),
        }
    }

    /// Takes in a record; says whether it is the last.
    fn record(&mut self, db: &Connection, kind: u8, body: &[u8]) -> Result<bool, BackupError> {
        let altered = |_| BackupError::Altered;
        let mut reader = Reader::new(body);
        let r = &mut reader;
        match kind {
            HEAD => {
                let format = r.u8().map_err(altered)?;
                if format != FORMAT {
                    return Err(BackupError::TooNew {
                        found: format,
                        known: FORMAT,
                    });
                }
                let found = read_text(r)?;
                if found != F::KIND {
                    return Err(BackupError::OtherKind { found, wanted: F::KIND });
                }
                self.epoch = r.u64().map_err(altered)?;
            }
            SETTING => {
                let row = read_row(r, 2)?;
                let [Value::Text(name), Value::Blob(value)] = row.as_slice() else {
                    return Err(BackupError::Altered);
                };
                state::put_setting(db, name, value)?;
            }
            SECRET => {
                let row = read_row(r, 3)?;
                let [Value::Text(kind), Value::Blob(id), Value::Blob(secret)] = row.as_slice() else {
                    return Err(BackupError::Altered);
                };
                state::put_secret(db, kind, id, secret)?;
            }
            FILE => {
                let name = read_text(r)?;
                let bytes = Zeroizing::new(read_blob(r)?);
                self.files.push(SecretFile { name, bytes });
            }
            BASE => {
                let at = read_place(r)?;
                checkpoint::write_encoded(db, Which::Base, &at, &read_blob(r)?)?;
            }
            DAY => {
                let row = read_row(r, 2)?;
                let [Value::Integer(day), Value::Blob(body)] = row.as_slice() else {
                    return Err(BackupError::Altered);
                };
                let day = u32::try_from(*day).map_err(|_| BackupError::Altered)?;
                db.execute(
                    "INSERT INTO days (day, body, digest) VALUES (?1, ?2, ?3)",
                    params![day, body, retention::day_digest(day, body)],
                )?;
            }
            TRANSACTION => {
                let row = read_row(r, retention::TRANSACTION_COUNT)?;
                let number = row.first().cloned();
                let insert = format!(
                    "INSERT INTO transactions ({}, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, x'')",
                    retention::TRANSACTION
                );
                db.execute(&insert, params_from_iter(row))?;
                retention::seal_transaction(db, number)?;
            }
            SUBMISSION => {
                let row = read_row(r, submissions::DIGESTED_COUNT)?;
                let Some(Value::Blob(hash)) = row.first().cloned() else {
                    return Err(BackupError::Altered);
                };
                let hash = <[u8; 32]>::try_from(hash).map_err(|_| BackupError::Altered)?;
                let marks: Vec<String> = (1..=submissions::DIGESTED_COUNT).map(|n| format!("?{n}")).collect();
                let insert = format!(
                    "INSERT INTO submissions ({}) VALUES ({})",
                    submissions::DIGESTED,
                    marks.join(", ")
                );
                db.execute(&insert, params_from_iter(row))?;
                submissions::seal(db, &hash)?;
            }
            BATCH => {
                let mut keeper = self.take_keeper(db)?;
                let place = read_place(r)?;
                let mut facts = Vec::new();
                for _ in 0..r.u64().map_err(altered)? {
                    facts.push(F::from_bytes(&read_blob(r)?).map_err(|_| BackupError::Altered)?);
                }
                keeper.append_on(place.day, db, &facts)?;
                if keeper.at != place {
                    return Err(BackupError::Altered);
                }
                self.keeper = Some(keeper);
            }
            END => {
                let keeper = self.take_keeper(db)?;
                if read_place(r)? != keeper.at {
                    return Err(BackupError::Altered);
                }
                self.keeper = Some(keeper);
            }
            _ => return Err(BackupError::Altered),
        }
        reader.end().map_err(altered)?;
        // A head comes first, and once.
        if self.epoch == 0 {
            return Err(BackupError::Altered);
        }
        Ok(kind == END)
    }
}
