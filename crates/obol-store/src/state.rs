//! What stands beside the facts: secrets and settings.

use rusqlite::{Connection, OptionalExtension as _, params};
use zeroize::Zeroizing;

use crate::chain::Row;
use crate::error::StoreError;
use crate::journal::{Fact, Journal};

/// The digest of a secret's row.
pub(crate) fn secret_digest(kind: &str, id: &[u8], secret: &[u8]) -> Vec<u8> {
    Row::new("secrets")
        .bytes(kind.as_bytes())
        .bytes(id)
        .bytes(secret)
        .digest()
}

/// The digest of a setting's row.
pub(crate) fn setting_digest(name: &str, value: &[u8]) -> Vec<u8> {
    Row::new("settings").bytes(name.as_bytes()).bytes(value).digest()
}

/// A setting's value.
pub(crate) fn setting(db: &Connection, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let select = "SELECT value, digest FROM settings WHERE name = ?1";
    let found: Option<(Vec<u8>, Vec<u8>)> = db
        .query_row(select, [name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((value, digest)) if digest != setting_digest(name, &value) => Err(StoreError::Corrupt),
        found => Ok(found.map(|(value, _)| value)),
    }
}

/// Sets a setting.
pub(crate) fn put_setting(db: &Connection, name: &str, value: &[u8]) -> Result<(), StoreError> {
    db.execute(
        "INSERT OR REPLACE INTO settings (name, value, digest) VALUES (?1, ?2, ?3)",
        params![name, value, setting_digest(name, value)],
    )?;
    Ok(())
}

/// Keeps a secret; says whether it is the one that is kept.
pub(crate) fn put_secret(db: &Connection, kind: &str, id: &[u8], secret: &[u8]) -> Result<bool, StoreError> {
    let insert = "INSERT OR IGNORE INTO secrets (kind, id, secret, digest) VALUES (?1, ?2, ?3, ?4)";
    db.execute(insert, params![kind, id, secret, secret_digest(kind, id, secret)])?;
    let select = "SELECT secret = ?3 FROM secrets WHERE kind = ?1 AND id = ?2";
    Ok(db.query_row(select, params![kind, id, secret], |row| row.get(0))?)
}

/// Gives the rows of a migrated file their digests.
pub(crate) fn seal_all(db: &Connection) -> Result<(), StoreError> {
    let mut query = db.prepare("SELECT rowid, kind, id, secret FROM secrets")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, id): (String, Vec<u8>) = (row.get(1)?, row.get(2)?);
        let secret: Zeroizing<Vec<u8>> = Zeroizing::new(row.get(3)?);
        let update = "UPDATE secrets SET digest = ?2 WHERE rowid = ?1";
        db.execute(
            update,
            params![row.get::<_, i64>(0)?, secret_digest(&kind, &id, &secret)],
        )?;
    }
    let mut query = db.prepare("SELECT rowid, name, value FROM settings")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (name, value): (String, Vec<u8>) = (row.get(1)?, row.get(2)?);
        let update = "UPDATE settings SET digest = ?2 WHERE rowid = ?1";
        db.execute(update, params![row.get::<_, i64>(0)?, setting_digest(&name, &value)])?;
    }
    Ok(())
}

impl<F: Fact> Journal<F> {
    /// Keeps a secret (an escrow key, say) under a kind and an id; durable when this returns. The same secret again is no
    /// error, another one under the same name is [`StoreError::Conflict`].
    pub async fn keep_secret(&self, kind: &'static str, id: &[u8], secret: &[u8]) -> Result<(), StoreError> {
        let (id, secret) = (id.to_vec(), Zeroizing::new(secret.to_vec()));
        self.log
            .write_async(move |db| {
                if put_secret(db, kind, &id, &secret)? {
                    Ok(())
                } else {
                    Err(StoreError::Conflict)
                }
            })
            .await
    }

    /// All secrets of a kind, with their ids. One that was damaged makes this [`StoreError::Corrupt`]: a wrong key is worse
    /// than none.
    pub async fn secrets(&self, kind: &'static str) -> Result<Vec<(Vec<u8>, Zeroizing<Vec<u8>>)>, StoreError> {
        self.log
            .read_async(move |db| {
                let mut query = db.prepare("SELECT id, secret, digest FROM secrets WHERE kind = ?1 ORDER BY id")?;
                let mut rows = query.query([kind])?;
                let mut secrets = Vec::new();
                while let Some(row) = rows.next()? {
                    let (id, secret): (Vec<u8>, Zeroizing<Vec<u8>>) = (row.get(0)?, Zeroizing::new(row.get(1)?));
                    if row.get::<_, Vec<u8>>(2)? != secret_digest(kind, &id, &secret) {
                        return Err(StoreError::Corrupt);
                    }
                    secrets.push((id, secret));
                }
                Ok(secrets)
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
            .write_async(move |db| match value {
                Some(value) => put_setting(db, name, &value),
                None => {
                    db.execute("DELETE FROM settings WHERE name = ?1", [name])?;
                    Ok(())
                }
            })
            .await
    }

    /// A small value.
    pub async fn get(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.log.read_async(move |db| setting(db, name)).await
    }
}
