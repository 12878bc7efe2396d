//! The one thread that owns the database.
//!
//! Commands reach it through a queue and are done strictly in order. All writes that wait when it is free go into one
//! transaction (group commit): one flush to the disk for all of them, and each is answered after it. A write that fails
//! is undone alone; a failed *append* ends all appending, because a fact after a lost one must not be stored.

use std::sync::mpsc;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::StoreError;

/// Most writes in one transaction.
const GROUP: usize = 512;

/// A write: runs inside the group's transaction, then is told whether it is durable.
pub(crate) trait Write: Send {
    /// Does it. Called once.
    fn run(&mut self, db: &Connection) -> Result<(), StoreError>;
    /// Whether a failure ends all later writes of this kind.
    fn is_append(&self) -> bool {
        false
    }
    /// It is on the disk, or never will be.
    fn done(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// Work of the journal's own, done between groups of writes, in small parts: says whether a part is left.
pub(crate) type Maintain = Box<dyn FnMut(&mut Connection) -> Result<bool, StoreError> + Send>;

/// What the thread is asked to do.
pub(crate) enum Command {
    Write(Box<dyn Write>),
    /// Sees every write that was queued before it.
    Read(Box<dyn FnOnce(&Connection) + Send>),
    /// What is done between groups from now on.
    Maintain(Maintain),
    /// Finish and let the file go.
    Close,
}

/// The thread's whole life.
pub(crate) fn run(mut db: Connection, commands: &mpsc::Receiver<Command>) {
    let mut stopped = false;
    let mut open = true;
    let mut maintain: Option<Maintain> = None;
    let mut more = false;
    while open {
        // While a part of the own work is left, nobody is waited for.
        let first = if more {
            match commands.try_recv() {
                Ok(first) => Some(first),
                Err(mpsc::TryRecvError::Empty) => None,
                Err(mpsc::TryRecvError::Disconnected) => break,
            }
        } else {
            let Ok(first) = commands.recv() else { break };
            Some(first)
        };
        let mut writes: Vec<Box<dyn Write>> = Vec::new();
        let mut next = first;
        let mut read = None;
        while let Some(command) = next.take() {
            match command {
                Command::Write(write) => writes.push(write),
                Command::Read(f) => {
                    read = Some(f);
                    break;
                }
                Command::Maintain(work) => maintain = Some(work),
                Command::Close => {
                    open = false;
                    break;
                }
            }
            if writes.len() < GROUP {
                next = commands.try_recv().ok();
            }
        }
        if !writes.is_empty() {
            group(&mut db, writes, &mut stopped);
        }
        if let Some(read) = read {
            read(&db);
        }
        more = false;
        if !stopped
            && open
            && let Some(work) = &mut maintain
        {
            match work(&mut db) {
                Ok(left) => more = left,
                Err(error) => {
                    // Nothing that anybody was promised depends on it; it is tried again at the next start.
                    tracing::error!("the journal could not be put in order: {error}");
                    maintain = None;
                }
            }
        }
    }
    // Folds the log into the file; what fails here is in the log and read from it the next time.
    if let Err((_, e)) = db.close() {
        tracing::warn!("the journal was not closed cleanly: {e}");
    }
}

/// Runs `writes` in one transaction and answers each.
fn group(db: &mut Connection, mut writes: Vec<Box<dyn Write>>, stopped: &mut bool) {
    let stopped_before = *stopped;
    let outcome = try_group(db, &mut writes, stopped);
    match outcome {
        Ok(results) => writes
            .into_iter()
            .zip(results)
            .for_each(|(write, result)| write.done(result)),
        Err(error) => {
            // Nothing of the group is stored, so an append among it is lost.
            tracing::error!("the journal cannot be written: {error}");
            *stopped = stopped_before || writes.iter().any(|write| write.is_append());
            for write in writes {
                let was_stopped = stopped_before && write.is_append();
                write.done(Err(if was_stopped { StoreError::Stopped } else { error }));
            }
        }
    }
}

fn try_group(
    db: &mut Connection,
    writes: &mut [Box<dyn Write>],
    stopped: &mut bool,
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut results = Vec::with_capacity(writes.len());
    for write in writes.iter_mut() {
        if write.is_append() && *stopped {
            results.push(Err(StoreError::Stopped));
            continue;
        }
        let savepoint = transaction.savepoint()?;
        let result = write
            .run(&savepoint)
            .and_then(|()| savepoint.commit().map_err(StoreError::from));
        if let Err(error) = result {
            tracing::error!("a write to the journal failed: {error}");
            *stopped |= write.is_append();
            // On some errors (a full disk, for one) SQLite undoes the whole transaction by itself.
            if transaction.is_autocommit() {
                return Err(error);
            }
        }
        results.push(result);
    }
    transaction.commit()?;
    Ok(results)
}
