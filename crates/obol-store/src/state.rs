//! What stands beside the facts: secrets and settings.

use rusqlite::{OptionalExtension as _, params};
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::journal::Journal;

impl<F> Journal<F> {
    /// Keeps a secret (an escrow key, say) under a kind and an id; durable when this returns. The same secret again is no
    /// error, another one under the same name is [`StoreError::Conflict`].
    pub async fn keep_secret(&self, kind: &'static str, id: &[u8], secret: &[u8]) -> Result<(), StoreError> {
        let (id, secret) = (id.to_vec(), Zeroizing::new(secret.to_vec()));
        self.log
            .write_async(move |db| {
                let insert = "INSERT OR IGNORE INTO secrets (kind, id, secret) VALUES (?1, ?2, ?3)";
                db.execute(insert, params![kind, id, secret.as_slice()])?;
                let select = "SELECT secret = ?3 FROM secrets WHERE kind = ?1 AND id = ?2";
                let same: bool = db.query_row(select, params![kind, id, secret.as_slice()], |row| row.get(0))?;
                if same { Ok(()) } else { Err(StoreError::Conflict) }
            })
            .await
    }

    /// All secrets of a kind, with their ids.
    pub async fn secrets(&self, kind: &'static str) -> Result<Vec<(Vec<u8>, Zeroizing<Vec<u8>>)>, StoreError> {
        self.log
            .read_async(move |db| {
                let mut query = db.prepare("SELECT id, secret FROM secrets WHERE kind = ?1 ORDER BY id")?;
                let rows = query.query_map([kind], |row| Ok((row.get(0)?, Zeroizing::new(row.get(1)?))))?;
                rows.collect::<Result<_, _>>().map_err(StoreError::from)
            })
            .await
    }

    /// Forgets a secret that is of no use any more. Forgetting one that is not there is no error.
    pub async fn forget_secret(&self, kind: &'static str, id: &[u8]) -> Result<(), StoreError> {
        let id = id.to_vec();
        self.log
            .write_async(move |db| {
                db.execute("DELETE FROM secrets WHERE kind = ?1 AND id = ?2", params![kind, id])?;
                Ok(())
            })
            .await
    }

    /// Sets a small value, or with `None` removes it; durable when this returns.
    pub async fn set(&self, name: &'static str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let value = value.map(<[u8]>::to_vec);
        self.log
            .write_async(move |db| {
                match value {
                    Some(value) => db.execute(
                        "INSERT INTO settings (name, value) VALUES (?1, ?2)
                         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                        params![name, value],
                    )?,
                    None => db.execute("DELETE FROM settings WHERE name = ?1", [name])?,
                };
                Ok(())
            })
            .await
    }

    /// A small value.
    pub async fn get(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.log
            .read_async(move |db| {
                let select = "SELECT value FROM settings WHERE name = ?1";
                Ok(db.query_row(select, [name], |row| row.get(0)).optional()?)
            })
            .await
    }
}
