//! What was sent to the ledger, recorded before it is sent: obol-stellar's outbox on the journal.

use async_trait::async_trait;
use obol_cell::{AccountId, EscrowId, NetworkId, Stroops};
use obol_stellar::outbox::{Bound, Outbox, OutboxError, Outcome, Purpose, Submission};
use obol_stellar::rail::{Code, ResultCodes};
use obol_stellar::tx::{SignedTx, TxHash};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::chain;
use crate::error::StoreError;
use crate::hold::{self, Side};
use crate::journal::{Fact, Journal};
use crate::keeper::day_of;

/// The columns of a submission, in the order in which [`read_submission`] takes them.
const COLUMNS: &str = "hash, inner_hash, envelope, purpose, subject, source, source_sequence, until_time, before_ledger, \
                       fee, outcome, ledger, fee_charged, codes";

/// All columns that a submission's digest is of, and how many.
pub(crate) const DIGESTED: &str = "hash, inner_hash, envelope, purpose, subject, source, source_sequence, until_time, \
                                   before_ledger, fee, outcome, ledger, fee_charged, codes, day, resolved, number";
pub(crate) const DIGESTED_COUNT: usize = 17;

impl<F: Fact> Journal<F> {
    /// Everything that was ever recorded, oldest first, with what is known to have become of it.
    pub async fn submissions(&self) -> Result<Vec<(Submission, Option<Outcome>)>, StoreError> {
        self.log.read_async(|db| select(db, "TRUE", [])).await
    }
}

impl<F: Fact> Journal<F> {
    /// Comes to the point after a commit, on the journal's own thread: a thread of the runtime would take others' tasks with it.
    async fn passed(&self, names: Vec<String>) -> Result<(), OutboxError> {
        if names.is_empty() {
            return Ok(());
        }
        let reached = move |_: &Connection| {
            hold::reached(Side::After, &names);
            Ok(())
        };
        self.log.read_async(reached).await.map_err(outbox_error)
    }
}

#[async_trait]
impl<F: Fact> Outbox for Journal<F> {
    async fn record(&self, submission: &Submission) -> Result<(), OutboxError> {
        let (submission, day) = (submission.clone(), day_of((self.clock)()));
        let name = hold::named(|| format!("record.{}", purpose_columns(&submission.purpose).0));
        let before = name.clone();
        self.log
            .write_async(move |db| {
                hold::reached(Side::Before, &before);
                insert(db, &submission, day)
            })
            .await
            .map_err(outbox_error)?;
        self.passed(name).await
    }

    async fn resolve(&self, hash: TxHash, outcome: &Outcome) -> Result<(), OutboxError> {
        let (outcome, day) = (outcome.clone(), day_of((self.clock)()));
        let purpose = self
            .log
            .write_async(move |db| update(db, hash, &outcome, day))
            .await
            .map_err(outbox_error)?;
        self.passed(hold::named(|| format!("resolve.{purpose}"))).await
    }

    async fn pending(&self) -> Result<Vec<Submission>, OutboxError> {
        let found = self
            .log
            .read_async(|db| select(db, "outcome IS NULL", []))
            .await
            .map_err(outbox_error)?;
        Ok(found.into_iter().map(|(submission, _)| submission).collect())
    }

    async fn applied(&self, purpose: Purpose) -> Result<Option<(Submission, Outcome)>, OutboxError> {
        let find = move |db: &Connection| {
            let (purpose, subject) = purpose_columns(&purpose);
            select(
                db,
                "purpose = ?1 AND subject = ?2 AND outcome = 'applied'",
                params![purpose, subject],
            )
        };
        let found = self.log.read_async(find).await.map_err(outbox_error)?;
        Ok(found
            .into_iter()
            .find_map(|(submission, outcome)| Some((submission, outcome?))))
    }
}

fn outbox_error(error: StoreError) -> OutboxError {
    OutboxError(Box::new(error))
}

/// What an opening's envelope pays in assets, stroops: the deposits of all escrows that it opens. `None`: it cannot be read.
pub(crate) fn locked_by(envelope: &[u8]) -> Option<i64> {
    // The network matters to the hash alone.
    let tx = SignedTx::from_bytes(NetworkId([0; 32]), envelope).ok()?;
    Some(tx.pays().get())
}

/// The digest of a row of [`DIGESTED`].
pub(crate) fn digest(row: &Row<'_>) -> Result<Vec<u8>, StoreError> {
    Ok(chain::Row::new("submissions").columns(row, DIGESTED_COUNT)?.digest())
}

/// Computes a row's digest anew.
pub(crate) fn seal(db: &Connection, hash: &[u8; 32]) -> Result<(), StoreError> {
    let select = format!("SELECT {DIGESTED} FROM submissions WHERE hash = ?1");
    let digest = db
        .prepare_cached(&select)?
        .query_row([hash], |row| Ok(digest(row)))
        .optional()?;
    let digest = digest.ok_or(StoreError::Conflict)??;
    db.execute(
        "UPDATE submissions SET digest = ?2 WHERE hash = ?1",
        params![hash, digest],
    )?;
    Ok(())
}

/// After an import: numbers go on after all that were ever used.
pub(crate) fn restore_numbers(db: &Connection) -> Result<(), StoreError> {
    let used = "SELECT max(coalesce((SELECT max(number) FROM submissions), 0), coalesce((SELECT max(number) FROM transactions), 0))";
    let used: i64 = db.query_row(used, [], |row| row.get(0))?;
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'submissions'", [])?;
    db.execute(
        "INSERT INTO sqlite_sequence (name, seq) VALUES ('submissions', ?1)",
        [used],
    )?;
    Ok(())
}

/// Gives the rows of a migrated file, which did not say on which day they came, the day `today` and their digests.
pub(crate) fn seal_all(db: &Connection, today: u32) -> Result<(), StoreError> {
    db.execute(
        "UPDATE submissions SET day = ?1, resolved = CASE WHEN outcome IS NULL THEN NULL ELSE ?1 END",
        [today],
    )?;
    let mut query = db.prepare("SELECT hash FROM submissions")?;
    let hashes: Vec<[u8; 32]> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    hashes.iter().try_for_each(|hash| seal(db, hash))
}

fn insert(db: &Connection, s: &Submission, day: u32) -> Result<(), StoreError> {
    let (purpose, subject) = purpose_columns(&s.purpose);
    // The hash covers what is sent, so the same hash is the same submission.
    let known: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM submissions WHERE hash = ?1)")?
        .query_row([s.hash.0], |row| row.get(0))?;
    if known {
        return Ok(());
    }
    // Numbers are never used again, so that a missing row shows.
    db.execute(
        "INSERT INTO submissions (hash, inner_hash, envelope, purpose, subject, source, source_sequence,
             until_time, before_ledger, fee, day)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            s.hash.0,
            s.inner_hash.map(|hash| hash.0),
            s.envelope,
            purpose,
            subject,
            s.source.0,
            s.sequence,
            s.bound.until_time.cast_signed(),
            s.bound.before_ledger,
            s.fee.get(),
            day,
        ],
    )?;
    seal(db, &s.hash.0)
}

/// Stores what became of a submission, and says what it was for.
fn update(db: &Connection, hash: TxHash, outcome: &Outcome, day: u32) -> Result<String, StoreError> {
    let known: Option<(Option<String>, String)> = db
        .query_row(
            "SELECT outcome, purpose FROM submissions WHERE hash = ?1",
            [hash.0],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((known, purpose)) = known else {
        return Err(StoreError::Conflict);
    };
    let (name, ledger, fee, codes) = match outcome {
        Outcome::Applied { ledger, fee_charged } => ("applied", Some(*ledger), Some(*fee_charged), None),
        Outcome::Failed {
            ledger,
            fee_charged,
            codes,
        } => ("failed", Some(*ledger), Some(*fee_charged), Some(codes_text(codes))),
        Outcome::Dead => ("dead", None, None, None),
    };
    // What a ledger has shown is final; "dead" was an inference, and the ledger may correct it.
    if let Some(known) = known.filter(|known| known != "dead") {
        return if known == name {
            Ok(purpose)
        } else {
            Err(StoreError::Conflict)
        };
    }
    db.execute(
        "UPDATE submissions SET outcome = ?2, ledger = ?3, fee_charged = ?4, codes = ?5, resolved = ?6 WHERE hash = ?1",
        params![hash.0, name, ledger, fee.map(Stroops::get), codes, day],
    )?;
    seal(db, &hash.0)?;
    Ok(purpose)
}

/// The submissions for which `condition` holds, oldest first.
fn select(
    db: &Connection,
    condition: &'static str,
    values: impl rusqlite::Params,
) -> Result<Vec<(Submission, Option<Outcome>)>, StoreError> {
    let mut query = db.prepare(&format!(
        "SELECT {COLUMNS} FROM submissions WHERE {condition} ORDER BY number"
    ))?;
    let mut rows = query.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_submission(row)?);
    }
    Ok(found)
}

fn read_submission(row: &Row<'_>) -> Result<(Submission, Option<Outcome>), StoreError> {
    let stroops = |n: i64| Stroops::new(n).map_err(|_| StoreError::Corrupt);
    let submission = Submission {
        hash: TxHash(row.get(0)?),
        inner_hash: row.get::<_, Option<[u8; 32]>>(1)?.map(TxHash),
        envelope: row.get(2)?,
        purpose: purpose(&row.get::<_, String>(3)?, row.get(4)?)?,
        source: AccountId(row.get(5)?),
        sequence: row.get(6)?,
        bound: Bound {
            until_time: row.get::<_, i64>(7)?.cast_unsigned(),
            before_ledger: row.get(8)?,
        },
        fee: stroops(row.get(9)?)?,
    };
    let ledger = || row.get(11).map_err(StoreError::from);
    let fee = || row.get(12).map_err(StoreError::from).and_then(stroops);
    let outcome = match row.get::<_, Option<String>>(10)?.as_deref() {
        None => None,
        Some("applied") => Some(Outcome::Applied {
            ledger: ledger()?,
            fee_charged: fee()?,
        }),
        Some("failed") => {
            let codes = codes(&row.get::<_, String>(13)?);
            Some(Outcome::Failed {
                ledger: ledger()?,
                fee_charged: fee()?,
                codes,
            })
        }
        Some("dead") => Some(Outcome::Dead),
        Some(_) => return Err(StoreError::Corrupt),
    };
    Ok((submission, outcome))
}

fn purpose_columns(purpose: &Purpose) -> (&'static str, [u8; 32]) {
    match purpose {
        Purpose::Open(escrow) => ("open", escrow.0),
        Purpose::Flush(escrow) => ("flush", escrow.0),
        Purpose::Refund(escrow) => ("refund", escrow.0),
        Purpose::Sweep(escrow) => ("sweep", escrow.0),
        Purpose::Merge(escrow) => ("merge", escrow.0),
        Purpose::Wallet(reference) => ("wallet", *reference),
    }
}

fn purpose(name: &str, subject: [u8; 32]) -> Result<Purpose, StoreError> {
    let escrow = EscrowId(subject);
    Ok(match name {
        "open" => Purpose::Open(escrow),
        "flush" => Purpose::Flush(escrow),
        "refund" => Purpose::Refund(escrow),
        "sweep" => Purpose::Sweep(escrow),
        "merge" => Purpose::Merge(escrow),
        "wallet" => Purpose::Wallet(subject),
        _ => return Err(StoreError::Corrupt),
    })
}

/// `transaction|inner|operation operation ...`: a code has neither bars nor spaces.
fn codes_text(codes: &ResultCodes) -> String {
    let inner = codes.inner.as_ref().map_or("", Code::as_str);
    let operations: Vec<&str> = codes.operations.iter().map(Code::as_str).collect();
    format!("{}|{inner}|{}", codes.transaction.as_str(), operations.join(" "))
}

fn codes(text: &str) -> ResultCodes {
    let mut parts = text.splitn(3, '|');
    let mut part = || parts.next().unwrap_or("");
    let transaction = Code::new(part());
    let inner = Some(part()).filter(|text| !text.is_empty()).map(Code::new);
    ResultCodes {
        transaction,
        inner,
        operations: part().split(' ').filter(|c| !c.is_empty()).map(Code::new).collect(),
    }
}
