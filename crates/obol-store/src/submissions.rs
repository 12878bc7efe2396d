//! What was sent to the ledger, recorded before it is sent: obol-stellar's outbox on the journal.

use async_trait::async_trait;
use obol_cell::{AccountId, EscrowId, Stroops};
use obol_stellar::outbox::{Bound, Outbox, OutboxError, Outcome, Purpose, Submission};
use obol_stellar::rail::{Code, ResultCodes};
use obol_stellar::tx::TxHash;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::journal::Journal;

/// The columns of a submission, in the order in which [`read_submission`] takes them.
const COLUMNS: &str = "hash, inner_hash, envelope, purpose, subject, source, source_sequence, until_time, before_ledger, \
                       fee, outcome, ledger, fee_charged, codes";

impl<F> Journal<F> {
    /// Everything that was ever recorded, oldest first, with what is known to have become of it.
    pub async fn submissions(&self) -> Result<Vec<(Submission, Option<Outcome>)>, StoreError> {
        self.log.read_async(|db| select(db, "TRUE", [])).await
    }
}

#[async_trait]
impl<F> Outbox for Journal<F> {
    async fn record(&self, submission: &Submission) -> Result<(), OutboxError> {
        let submission = submission.clone();
        self.log
            .write_async(move |db| insert(db, &submission))
            .await
            .map_err(outbox_error)
    }

    async fn resolve(&self, hash: TxHash, outcome: &Outcome) -> Result<(), OutboxError> {
        let outcome = outcome.clone();
        self.log
            .write_async(move |db| update(db, hash, &outcome))
            .await
            .map_err(outbox_error)
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

fn insert(db: &Connection, s: &Submission) -> Result<(), StoreError> {
    let (purpose, subject) = purpose_columns(&s.purpose);
    // The hash covers what is sent, so the same hash is the same submission.
    db.execute(
        "INSERT OR IGNORE INTO submissions (hash, inner_hash, envelope, purpose, subject, source, source_sequence,
             until_time, before_ledger, fee)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
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
        ],
    )?;
    Ok(())
}

fn update(db: &Connection, hash: TxHash, outcome: &Outcome) -> Result<(), StoreError> {
    let known: Option<Option<String>> = db
        .query_row("SELECT outcome FROM submissions WHERE hash = ?1", [hash.0], |row| {
            row.get(0)
        })
        .optional()?;
    let (name, ledger, fee, codes) = match outcome {
        Outcome::Applied { ledger, fee_charged } => ("applied", Some(*ledger), Some(*fee_charged), None),
        Outcome::Failed {
            ledger,
            fee_charged,
            codes,
        } => ("failed", Some(*ledger), Some(*fee_charged), Some(codes_text(codes))),
        Outcome::Dead => ("dead", None, None, None),
    };
    match known.as_ref().map(Option::as_deref) {
        None => return Err(StoreError::Conflict),
        // What a ledger has shown is final; "dead" was an inference, and the ledger may correct it.
        Some(Some(known)) if known != "dead" => {
            return if known == name {
                Ok(())
            } else {
                Err(StoreError::Conflict)
            };
        }
        Some(_) => {}
    }
    db.execute(
        "UPDATE submissions SET outcome = ?2, ledger = ?3, fee_charged = ?4, codes = ?5 WHERE hash = ?1",
        params![hash.0, name, ledger, fee.map(Stroops::get), codes],
    )?;
    Ok(())
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
