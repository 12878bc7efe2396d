//! A file layer below SQLite that writes down everything it is told: what was written where, and what was synced when.
//!
//! Files are kept in memory. What a disk may hold after the power went at any moment follows from the list: of each file all that
//! was written before its last sync, and of what was written after it any part, in sectors, in any order.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::RngExt as _;
use sqlite_vfs::{DatabaseHandle, LockKind, OpenAccess, OpenOptions, Vfs, WalDisabled};

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// What the layer was told.
#[derive(Debug, Clone)]
pub enum Told {
    Write {
        file: String,
        at: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        file: String,
        length: u64,
    },
    Sync {
        file: String,
    },
    Delete {
        file: String,
    },
    /// Said by the test: an append was acknowledged.
    Acknowledged(u64),
}

/// All that was told, and the files as a process sees them.
#[derive(Debug, Default)]
pub struct Recorded {
    pub told: Vec<Told>,
    files: BTreeMap<String, Vec<u8>>,
}

/// The layer. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Layer(Arc<Mutex<Recorded>>);

impl Layer {
    pub fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().expect("no panic while it is held")
    }
}

/// An open file.
pub struct Handle {
    layer: Layer,
    name: String,
    lock: LockKind,
}

fn write(files: &mut BTreeMap<String, Vec<u8>>, file: &str, at: u64, bytes: &[u8]) {
    let content = files.entry(file.to_owned()).or_default();
    let (from, to) = (at as usize, at as usize + bytes.len());
    if content.len() < to {
        content.resize(to, 0);
    }
    content[from..to].copy_from_slice(bytes);
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> Result<u64, Error> {
        Ok(self.layer.lock().files.get(&self.name).map_or(0, Vec::len) as u64)
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let recorded = self.layer.lock();
        let content = recorded.files.get(&self.name).map_or(&[][..], Vec::as_slice);
        let there = content.get(offset as usize..).unwrap_or(&[]);
        if there.len() < buffer.len() {
            // SQLite wants zeros behind the end.
            buffer.fill(0);
            buffer[..there.len()].copy_from_slice(there);
            return Err(ErrorKind::UnexpectedEof.into());
        }
        buffer.copy_from_slice(&there[..buffer.len()]);
        Ok(())
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let mut recorded = self.layer.lock();
        write(&mut recorded.files, &self.name, offset, bytes);
        recorded.told.push(Told::Write {
            file: self.name.clone(),
            at: offset,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    fn sync(&mut self, _data_only: bool) -> Result<(), Error> {
        let file = self.name.clone();
        self.layer.lock().told.push(Told::Sync { file });
        Ok(())
    }

    fn set_len(&mut self, length: u64) -> Result<(), Error> {
        let mut recorded = self.layer.lock();
        let content = recorded.files.entry(self.name.clone()).or_default();
        content.resize(length as usize, 0);
        recorded.told.push(Told::Truncate {
            file: self.name.clone(),
            length,
        });
        Ok(())
    }

    fn lock(&mut self, lock: LockKind) -> Result<bool, Error> {
        // There is one connection.
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> Result<bool, Error> {
        Ok(matches!(
            self.lock,
            LockKind::Reserved | LockKind::Pending | LockKind::Exclusive
        ))
    }

    fn current_lock(&self) -> Result<LockKind, Error> {
        Ok(self.lock)
    }

    fn wal_index(&self, _readonly: bool) -> Result<WalDisabled, Error> {
        // A journal holds its file alone: the index is in SQLite's own memory.
        Ok(WalDisabled)
    }
}

impl Vfs for Layer {
    type Handle = Handle;

    fn open(&self, name: &str, options: OpenOptions) -> Result<Handle, Error> {
        let mut recorded = self.lock();
        let known = recorded.files.contains_key(name);
        match options.access {
            OpenAccess::Read | OpenAccess::Write if !known => return Err(ErrorKind::NotFound.into()),
            OpenAccess::CreateNew if known => return Err(ErrorKind::AlreadyExists.into()),
            _ => {}
        }
        recorded.files.entry(name.to_owned()).or_default();
        Ok(Handle {
            layer: self.clone(),
            name: name.to_owned(),
            lock: LockKind::None,
        })
    }

    fn delete(&self, name: &str) -> Result<(), Error> {
        let mut recorded = self.lock();
        recorded.files.remove(name).ok_or(ErrorKind::NotFound)?;
        let file = name.to_owned();
        recorded.told.push(Told::Delete { file });
        Ok(())
    }

    fn exists(&self, name: &str) -> Result<bool, Error> {
        Ok(self.lock().files.contains_key(name))
    }

    fn temporary_name(&self) -> String {
        "temporary".to_owned()
    }

    fn random(&self, buffer: &mut [i8]) {
        for byte in buffer {
            *byte = rand::random();
        }
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }
}

/// Starts with these files: those of a process before.
pub fn begin(layer: &Layer, files: BTreeMap<String, Vec<u8>>) {
    let mut recorded = layer.lock();
    recorded.files = files;
    recorded.told.clear();
}

/// What is on the disk when the power goes after the first `count` things that were told, beginning with `before`: all that was
/// synced, and of the rest of each file a random part. Says also which append was acknowledged last by then.
pub fn after_power_loss(
    before: &BTreeMap<String, Vec<u8>>,
    told: &[Told],
    count: usize,
    random: &mut impl rand::Rng,
) -> (BTreeMap<String, Vec<u8>>, u64) {
    let told = &told[..count];
    let mut files = before.clone();
    let mut acknowledged = 0;
    // How much of the list is durable for a file: up to its last sync.
    let mut synced = BTreeMap::<&str, usize>::new();
    for (place, one) in told.iter().enumerate() {
        if let Told::Sync { file } = one {
            synced.insert(file, place);
        }
    }
    // How likely a write gets to the disk is another each time: nothing, everything, and all between.
    let likely = [0.0, 0.1, 0.5, 0.9, 1.0][random.random_range(0..5_usize)];
    for (place, one) in told.iter().enumerate() {
        match one {
            Told::Acknowledged(number) => acknowledged = acknowledged.max(*number),
            Told::Sync { .. } => {}
            Told::Write { file, at, bytes } => {
                if synced.get(file.as_str()).is_some_and(|synced| place < *synced) {
                    write(&mut files, file, *at, bytes);
                    continue;
                }
                let mut from = *at;
                while from < at + bytes.len() as u64 {
                    let to = ((from / SECTOR + 1) * SECTOR).min(at + bytes.len() as u64);
                    if random.random_bool(likely) {
                        write(&mut files, file, from, &bytes[(from - at) as usize..(to - at) as usize]);
                    }
                    from = to;
                }
            }
            Told::Truncate { file, length } => {
                let durable = synced.get(file.as_str()).is_some_and(|synced| place < *synced);
                if durable || random.random_bool(likely) {
                    files.entry(file.clone()).or_default().resize(*length as usize, 0);
                }
            }
            Told::Delete { file } => {
                // A log is removed when all of it is in the file and that is synced; whether its name goes is open. The rollback
                // journal is there only while the file is made; the journal syncs the directory after that, which the layer
                // is not told.
                if file.ends_with("-journal") || random.random_bool(likely) {
                    files.remove(file);
                }
            }
        }
    }
    (files, acknowledged)
}
