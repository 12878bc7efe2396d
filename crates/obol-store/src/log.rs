//! The thread that owns the file, and how everybody reaches it.
//!
//! This half of the crate knows SQLite and not what a fact says; [`crate::Journal`] is the other half.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::{OpenError, StoreError};
use crate::hold::{self, Side};
use crate::journal::Fact;
use crate::keeper::Keeper;
use crate::schema;
use crate::writer::{self, Command, Maintain, Write};

/// Called with the outcome once it is durable.
pub(crate) type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// The open file. Clones share it; it is closed with the last of them.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::Sender<Command>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    path: PathBuf,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What is queued is written before the thread ends.
        let _ = self.commands.send(Command::Close);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            // The last clone may be dropped by a closure that runs on the thread itself.
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the journal's writer ended by a panic");
        }
    }
}

impl Log {
    pub(crate) fn open(path: &Path, how: schema::Opening) -> Result<Log, OpenError> {
        let db = schema::open(path, how)?;
        let (commands, queue) = mpsc::channel();
        let spawned = thread::Builder::new()
            .name("obol-journal".into())
            .spawn(move || writer::run(db, &queue));
        let thread = spawned.map_err(|e| OpenError::NotWritable {
            path: path.into(),
            kind: e.kind(),
        })?;
        let shared = Shared {
            commands,
            thread: Mutex::new(Some(thread)),
            path: path.into(),
        };
        Ok(Log {
            shared: Arc::new(shared),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    fn send(&self, write: Box<dyn Write>) {
        if let Err(mpsc::SendError(Command::Write(write))) = self.shared.commands.send(Command::Write(write)) {
            write.done(Err(StoreError::Closed));
        }
    }

    /// Appends facts, all or none, after all that were appended before.
    pub(crate) fn append<F: Fact>(&self, facts: Vec<F>, keeper: Arc<Mutex<Keeper<F>>>, done: Done<u64>) {
        self.send(Box::new(Append {
            facts,
            keeper,
            last: 0,
            done,
        }));
    }

    /// From now on this is done between groups of writes.
    pub(crate) fn maintain(&self, maintain: Maintain) {
        // A thread that has ended has nothing to maintain.
        let _ = self.shared.commands.send(Command::Maintain(maintain));
    }

    /// A write of another kind.
    pub(crate) fn write<T, F>(&self, run: F, done: Done<T>)
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.send(Box::new(Other {
            run: Some(run),
            value: None,
            done,
        }));
    }

    /// [`Log::write`] whose outcome is awaited.
    pub(crate) async fn write_async<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.write(run, Box::new(move |outcome| drop(tell.send(outcome))));
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// [`Log::write`] that blocks the calling thread, which must not be one of an async runtime.
    pub(crate) fn write_blocking<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = mpsc::channel();
        self.write(run, Box::new(move |outcome| drop(tell.send(outcome))));
        told.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Runs `f` on the writer's thread, after every write that was asked for before.
    pub(crate) fn read<T, F>(&self, f: F, done: Done<T>)
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        // Once: either the thread runs it, or it comes back unsent.
        let slot = Arc::new(Mutex::new(Some((f, done))));
        let take = Arc::clone(&slot);
        let command = Command::Read(Box::new(move |db| {
            if let Some((f, done)) = take.lock().unwrap_or_else(PoisonError::into_inner).take() {
                done(f(db));
            }
        }));
        if self.shared.commands.send(command).is_err()
            && let Some((_, done)) = slot.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            done(Err(StoreError::Closed));
        }
    }

    /// [`Log::read`] whose outcome is awaited.
    pub(crate) async fn read_async<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.read(f, Box::new(move |outcome| drop(tell.send(outcome))));
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// [`Log::read`] that blocks the calling thread, which must not be one of an async runtime.
    pub(crate) fn read_blocking<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (tell, told) = mpsc::channel();
        self.read(f, Box::new(move |outcome| drop(tell.send(outcome))));
        told.recv().unwrap_or(Err(StoreError::Closed))
    }
}

/// An append on its way through the writer.
struct Append<F: Fact> {
    facts: Vec<F>,
    keeper: Arc<Mutex<Keeper<F>>>,
    last: u64,
    done: Done<u64>,
}

impl<F: Fact> Write for Append<F> {
    fn run(&mut self, db: &Connection) -> Result<(), StoreError> {
        hold::reached(Side::Before, &hold::names(&self.facts));
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        self.last = keeper.append(db, &self.facts)?;
        Ok(())
    }

    fn is_append(&self) -> bool {
        true
    }

    fn done(self: Box<Self>, outcome: Result<(), StoreError>) {
        if outcome.is_ok() {
            hold::reached(Side::After, &hold::names(&self.facts));
        }
        let last = self.last;
        (self.done)(outcome.map(|()| last));
    }
}

/// Any other write on its way through the writer.
struct Other<T, F> {
    run: Option<F>,
    value: Option<T>,
    done: Done<T>,
}

impl<T, F> Write for Other<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, db: &Connection) -> Result<(), StoreError> {
        let run = self.run.take().ok_or(StoreError::Closed)?;
        self.value = Some(run(db)?);
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Other { value, done, .. } = *self;
        done(outcome.and_then(|()| value.ok_or(StoreError::Closed)));
    }
}
