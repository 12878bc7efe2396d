//! Hashes over rows, so that none can change unseen.
//!
//! Against accidents (bad memory, bad disks, hands in the file), not against the journal's owner, who could compute them
//! anew: nobody else relies on this file.

use rusqlite::types::ValueRef;
use sha2::{Digest as _, Sha256};

/// A hash of a row, or of all batches up to one.
pub(crate) type Hash = [u8; 32];

/// Before the first batch.
pub(crate) const GENESIS: Hash = [0; 32];

/// What one batch is hashed from: [`Link::new`], then each fact, then [`Link::end`].
pub(crate) struct Link(Sha256);

impl Link {
    /// `batch` and `day` of the batch, `first` the sequence of its first fact.
    pub(crate) fn new(before: &Hash, batch: u64, day: u32, first: u64) -> Link {
        let mut hash = Sha256::new();
        hash.update(before);
        hash.update(batch.to_be_bytes());
        hash.update(day.to_be_bytes());
        hash.update(first.to_be_bytes());
        Link(hash)
    }

    pub(crate) fn fact(&mut self, body: &[u8]) {
        self.0.update((body.len() as u64).to_be_bytes());
        self.0.update(body);
    }

    pub(crate) fn end(self) -> Hash {
        self.0.finalize().into()
    }
}

/// The digest of a row: of its table's name and its columns, each with its length.
pub(crate) struct Row(Sha256);

impl Row {
    pub(crate) fn new(table: &str) -> Row {
        Row(Sha256::new()).bytes(table.as_bytes())
    }

    pub(crate) fn bytes(mut self, column: &[u8]) -> Row {
        self.0.update((column.len() as u64).to_be_bytes());
        self.0.update(column);
        self
    }

    pub(crate) fn number(self, column: i64) -> Row {
        self.bytes(&column.to_be_bytes())
    }

    /// The first `count` columns of a row, whatever they hold.
    pub(crate) fn columns(mut self, row: &rusqlite::Row<'_>, count: usize) -> rusqlite::Result<Row> {
        for column in 0..count {
            self = match row.get_ref(column)? {
                ValueRef::Null => self.bytes(b"null"),
                ValueRef::Integer(number) => self.bytes(b"integer").number(number),
                ValueRef::Real(number) => self.bytes(b"real").bytes(&number.to_be_bytes()),
                ValueRef::Text(text) => self.bytes(b"text").bytes(text),
                ValueRef::Blob(blob) => self.bytes(b"blob").bytes(blob),
            };
        }
        Ok(self)
    }

    /// Half of SHA-256 is plenty against accidents.
    pub(crate) fn digest(self) -> Vec<u8> {
        self.0.finalize()[..16].to_vec()
    }
}
