//! What a journal of an older version lacks.

use rusqlite::{Connection, params};

use crate::chain::{GENESIS, Link};
use crate::error::StoreError;
use crate::{keeper, state, submissions};

/// Chains the batches of a file that had none, all on the day `today`: its version did not record days. Gives the rows
/// beside them their digests.
pub(crate) fn add_digests(db: &Connection, today: u32) -> Result<(), StoreError> {
    let mut insert = db.prepare("INSERT INTO batches (batch, last, day, chain) VALUES (?1, ?2, ?3, ?4)")?;
    let mut query = db.prepare("SELECT sequence, batch, body FROM facts ORDER BY sequence")?;
    let mut rows = query.query([])?;
    let mut chain = GENESIS;
    let mut open: Option<(i64, i64, Link)> = None;
    while let Some(row) = rows.next()? {
        let (sequence, batch): (i64, i64) = (row.get(0)?, row.get(1)?);
        if let Some((of, last, link)) = open.take_if(|(of, ..)| *of != batch) {
            chain = link.end();
            insert.execute(params![of, last, today, chain])?;
        }
        let (_, last, link) = open.get_or_insert_with(|| {
            let link = Link::new(&chain, batch.unsigned_abs(), today, sequence.unsigned_abs());
            (batch, sequence, link)
        });
        *last = sequence;
        link.fact(row.get_ref(2)?.as_blob().map_err(|_| StoreError::Corrupt)?);
    }
    if let Some((of, last, link)) = open {
        insert.execute(params![of, last, today, link.end()])?;
    }
    let mut query = db.prepare("SELECT id, name FROM accounts")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
        let digest = keeper::account_digest(id, &name);
        db.execute("UPDATE accounts SET digest = ?2 WHERE id = ?1", params![id, digest])?;
    }
    state::seal_all(db)?;
    submissions::seal_all(db, today)
}
