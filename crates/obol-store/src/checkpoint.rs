//! Checkpoints: what all facts up to one come to, so that a start need not read them all (docs/adr/0035).
//!
//! `latest` is where a start goes on from. `base` stands for facts that were erased. Both are derived: while its facts are
//! there, a checkpoint that is lost or damaged costs time only, and [`crate::Journal::audit`] computes it anew and compares.

use obol_cell::{DecodeError, Reader, Writer};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::books::Books;
use crate::chain::Row;
use crate::condense::Condense as _;
use crate::error::StoreError;
use crate::journal::Fact;
use crate::keeper::Place;

/// The version of the encoding of `state`.
const FORMAT: u8 = 1;

/// Which checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Latest,
    Base,
}

impl Which {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Which::Latest => "latest",
            Which::Base => "base",
        }
    }
}

/// A checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint<F: Fact> {
    pub(crate) at: Place,
    pub(crate) books: Books,
    pub(crate) state: F::State,
}

/// Books and condensed facts as bytes.
pub(crate) fn encode<F: Fact>(books: &Books, state: &F::State) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(FORMAT);
    books.write(&mut w);
    let facts = state.facts();
    w.u64(facts.len() as u64);
    for fact in facts {
        let body: Vec<u8> = F::to_bytes(&fact);
        w.u64(body.len() as u64).bytes(&body);
    }
    w.finish()
}

/// What [`encode`] wrote.
pub(crate) fn decode<F: Fact>(bytes: &[u8]) -> Result<(Books, F::State), DecodeError> {
    let mut reader = Reader::new(bytes);
    let r = &mut reader;
    match r.u8()? {
        FORMAT => {}
        other => return Err(DecodeError::Version(other)),
    }
    let books = Books::read(r)?;
    let mut state = F::State::default();
    for _ in 0..r.u64()? {
        let length = usize::try_from(r.u64()?).map_err(|_| DecodeError::TooShort)?;
        let at = bytes.len() - r.remaining();
        let body = bytes
            .get(at..at.checked_add(length).ok_or(DecodeError::TooShort)?)
            .ok_or(DecodeError::TooShort)?;
        state.take(&F::from_bytes(body)?);
        *r = Reader::new(&bytes[at + length..]);
    }
    reader.end()?;
    Ok((books, state))
}

fn digest(which: Which, at: &Place, state: &[u8]) -> Vec<u8> {
    Row::new("checkpoints")
        .bytes(which.name().as_bytes())
        .number(at.sequence.cast_signed())
        .number(at.batch.cast_signed())
        .number(at.day.into())
        .bytes(&at.chain)
        .bytes(state)
        .digest()
}

/// Writes one, in the place of the one before.
pub(crate) fn write<F: Fact>(
    db: &Connection,
    which: Which,
    at: &Place,
    books: &Books,
    state: &F::State,
) -> Result<(), StoreError> {
    write_encoded(db, which, at, &encode::<F>(books, state))
}

/// [`write`] of what is encoded already.
pub(crate) fn write_encoded(db: &Connection, which: Which, at: &Place, state: &[u8]) -> Result<(), StoreError> {
    db.execute(
        "INSERT OR REPLACE INTO checkpoints (which, sequence, batch, day, chain, state, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            which.name(),
            at.sequence.cast_signed(),
            at.batch.cast_signed(),
            at.day,
            at.chain,
            state,
            digest(which, at, state)
        ],
    )?;
    Ok(())
}

/// Reads one as it is stored; [`StoreError::Corrupt`] if its digest is not right.
pub(crate) fn read_encoded(db: &Connection, which: Which) -> Result<Option<(Place, Vec<u8>)>, StoreError> {
    let select = "SELECT sequence, batch, day, chain, state, digest FROM checkpoints WHERE which = ?1";
    let found = db
        .query_row(select, [which.name()], |row| {
            let at = Place {
                sequence: row.get::<_, i64>(0)?.unsigned_abs(),
                batch: row.get::<_, i64>(1)?.unsigned_abs(),
                day: row.get(2)?,
                chain: row.get(3)?,
            };
            Ok((at, row.get::<_, Vec<u8>>(4)?, row.get::<_, Vec<u8>>(5)?))
        })
        .optional()?;
    let Some((at, state, stored)) = found else {
        return Ok(None);
    };
    if stored == digest(which, &at, &state) {
        Ok(Some((at, state)))
    } else {
        Err(StoreError::Corrupt)
    }
}

/// Reads one.
pub(crate) fn read<F: Fact>(db: &Connection, which: Which) -> Result<Option<Checkpoint<F>>, StoreError> {
    let Some((at, bytes)) = read_encoded(db, which)? else {
        return Ok(None);
    };
    let (books, state) = decode::<F>(&bytes).map_err(|_| StoreError::Corrupt)?;
    Ok(Some(Checkpoint { at, books, state }))
}
