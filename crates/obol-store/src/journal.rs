//! The journal: facts in order, and the books that follow from them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use obol_cell::{DecodeError, EscrowId, PeerId, Stroops, TransactionId};
use obol_toll::fact::{NodeFact, OutFact, PayerFact, TrustFact};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::audit::Finding;
use crate::books::{Account, Books, Entry};
use crate::chain::{Hash, Link};
use crate::condense::{Condense, NodeState, PayerState};
use crate::error::{OpenError, StoreError};
use crate::keeper::{self, Keeper, Place, Settings};
use crate::log::Log;
use crate::{schema, state};

/// What a journal keeps: the facts of a relay, or those of a client.
pub trait Fact: Sized + Clone + Copy + std::fmt::Debug + Send + 'static {
    /// What facts come to.
    type State: Condense<Fact = Self>;
    /// What a journal of these is called in its file.
    const KIND: &'static str;
    /// The fact as bytes.
    fn to_bytes(&self) -> Vec<u8>;
    /// The fact of these bytes.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError>;
    /// Enters the fact into the books, and returns the entries it made.
    fn post(&self, books: &mut Books) -> Vec<Entry>;
    /// What it says of traffic that was paid for.
    fn carried(&self) -> Option<Carried>;
    /// What it says of a transaction on the ledger.
    fn on_ledger(&self) -> Option<OnLedger>;
}

/// Traffic that was paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Bytes of credit; zero for a client, whose facts do not say.
    pub bytes: u64,
    /// What the relay earned by it; what the client spent.
    pub earned: Stroops,
    /// What went on to the next hop.
    pub forwarded: Stroops,
}

/// What a fact says of an escrow on the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLedger {
    /// An escrow of ours was opened with this balance.
    Opened(EscrowId, Stroops),
    /// An escrow of ours ended, and its payee was paid this.
    Ended(EscrowId, Stroops),
    /// An escrow that pays us ended, and we were paid this.
    Settled(EscrowId, Stroops),
    /// A claim of ours: its number and amount.
    Signed(EscrowId, u32, Stroops),
    /// A peer paid what it owed by trust.
    Paid(PeerId, TransactionId),
}

fn out_on_ledger(fact: &OutFact) -> Option<OnLedger> {
    match fact {
        OutFact::Opened { escrow, balance } => Some(OnLedger::Opened(*escrow, *balance)),
        OutFact::Ended { escrow, paid } => Some(OnLedger::Ended(*escrow, *paid)),
        OutFact::Signed { escrow, k, cumulative } => Some(OnLedger::Signed(*escrow, *k, *cumulative)),
        OutFact::Accepted { .. } | OutFact::Abandoned { .. } | OutFact::Closing { .. } => None,
    }
}

impl Fact for NodeFact {
    type State = NodeState;

    const KIND: &'static str = "relay";

    fn to_bytes(&self) -> Vec<u8> {
        self.encode()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        NodeFact::decode(bytes)
    }

    fn post(&self, books: &mut Books) -> Vec<Entry> {
        books.node_fact(self)
    }

    fn carried(&self) -> Option<Carried> {
        match self {
            NodeFact::Spent {
                earned,
                forwarded,
                credit,
                ..
            } => Some(Carried {
                bytes: *credit,
                earned: *earned,
                forwarded: *forwarded,
            }),
            NodeFact::Trust(TrustFact::Spent { amount, credit, .. }) => Some(Carried {
                bytes: *credit,
                earned: *amount,
                forwarded: Stroops::ZERO,
            }),
            _ => None,
        }
    }

    fn on_ledger(&self) -> Option<OnLedger> {
        match self {
            NodeFact::Out(fact) => out_on_ledger(fact),
            NodeFact::Settled { escrow, amount } => Some(OnLedger::Settled(*escrow, *amount)),
            NodeFact::Trust(TrustFact::Settled { peer, transaction, .. }) => Some(OnLedger::Paid(*peer, *transaction)),
            _ => None,
        }
    }
}

impl Fact for PayerFact {
    type State = PayerState;

    const KIND: &'static str = "client";

    fn to_bytes(&self) -> Vec<u8> {
        self.encode()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        PayerFact::decode(bytes)
    }

    fn post(&self, books: &mut Books) -> Vec<Entry> {
        books.payer_fact(self)
    }

    fn carried(&self) -> Option<Carried> {
        None
    }

    fn on_ledger(&self) -> Option<OnLedger> {
        match self {
            PayerFact::Out(fact) => out_on_ledger(fact),
            PayerFact::Spent { .. } | PayerFact::Day { .. } | PayerFact::NewEpoch => None,
        }
    }
}

/// The setting that tells a relay's journal from a client's.
const KIND_SETTING: &str = "journal-of";

/// The setting that says how often this journal was imported, plus one.
pub(crate) const EPOCH_SETTING: &str = "epoch";
/// The setting that lists the escrows on which nothing is signed any more since an import.
pub(crate) const SEALED_SETTING: &str = "sealed";

/// Limits of a journal, and what it does by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Size that the file may not exceed, bytes; an append beyond it fails as on a full disk.
    pub max_bytes: Option<u64>,
    /// Facts older than so many days are added up to daily totals and erased. `None`: all are kept.
    pub keep_days: Option<u32>,
    /// Facts between two checkpoints. `None`: 50,000.
    pub checkpoint_every: Option<u64>,
    /// The time, unix seconds. `None`: the system's clock.
    pub clock: Option<fn() -> u64>,
    /// The name of SQLite's file layer. `None`: the system's. For tests: with another one the journal does not look after the
    /// file's permissions.
    pub vfs: Option<&'static str>,
}

/// An open journal of `F`. Clones share it; the file is let go with the last of them.
pub struct Journal<F: Fact> {
    pub(crate) log: Log,
    pub(crate) keeper: Arc<Mutex<Keeper<F>>>,
    pub(crate) clock: fn() -> u64,
    epoch: u64,
    sealed: Arc<[EscrowId]>,
}

impl<F: Fact> Clone for Journal<F> {
    fn clone(&self) -> Self {
        Journal {
            log: self.log.clone(),
            keeper: Arc::clone(&self.keeper),
            clock: self.clock,
            epoch: self.epoch,
            sealed: Arc::clone(&self.sealed),
        }
    }
}

impl<F: Fact> std::fmt::Debug for Journal<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.log.path())
            .finish_non_exhaustive()
    }
}

impl<F: Fact> Journal<F> {
    /// Opens the journal at `path`, or makes it, and returns it with the facts that its state follows from, in order: all of
    /// them, or what the older ones come to (`condense.rs`) and those after it.
    ///
    /// Blocks for as long as reading them takes.
    pub fn open(path: &Path) -> Result<(Journal<F>, Vec<F>), OpenError> {
        Self::open_with(path, Options::default())
    }

    /// [`Journal::open`] with limits.
    pub fn open_with(path: &Path, options: Options) -> Result<(Journal<F>, Vec<F>), OpenError> {
        Self::open_or(path, true, options)
    }

    /// [`Journal::open`] of a journal that is there: [`OpenError::Missing`] if it is not. For tools that look at one.
    pub fn open_existing(path: &Path) -> Result<(Journal<F>, Vec<F>), OpenError> {
        Self::open_or(path, false, Options::default())
    }

    /// [`Journal::open_existing`] with limits.
    pub fn open_existing_with(path: &Path, options: Options) -> Result<(Journal<F>, Vec<F>), OpenError> {
        Self::open_or(path, false, options)
    }

    fn open_or(path: &Path, create: bool, options: Options) -> Result<(Journal<F>, Vec<F>), OpenError> {
        let settings = Settings {
            checkpoint_every: options.checkpoint_every.unwrap_or(keeper::CHECKPOINT_EVERY).max(1),
            keep_days: options.keep_days,
            clock: options.clock.unwrap_or(keeper::system_clock),
        };
        let how = schema::Opening {
            create,
            max_bytes: options.max_bytes,
            today: keeper::day_of((settings.clock)()),
            vfs: options.vfs,
        };
        let log = Log::open(path, how)?;
        let failed = |trouble| match trouble {
            StoreError::Corrupt => OpenError::Corrupt { path: path.into() },
            trouble => OpenError::Failed {
                path: path.into(),
                trouble,
            },
        };
        let kind = log.write_blocking(|db| kind_of(db, F::KIND)).map_err(failed)?;
        if kind != F::KIND {
            return Err(OpenError::OtherKind {
                path: path.into(),
                found: kind,
                wanted: F::KIND,
            });
        }
        let load = move |db: &Connection| {
            let (keeper, facts) = Keeper::<F>::load(db, settings)?;
            Ok((keeper, facts, epoch_of(db)?, sealed_of(db)?))
        };
        let (keeper, facts, epoch, sealed) = log.read_blocking(load).map_err(failed)?;
        let keeper = Arc::new(Mutex::new(keeper));
        let of_thread = Arc::clone(&keeper);
        log.maintain(Box::new(move |db| {
            of_thread.lock().unwrap_or_else(PoisonError::into_inner).maintain(db)
        }));
        let journal = Journal {
            log,
            keeper,
            clock: settings.clock,
            epoch,
            sealed: sealed.into(),
        };
        Ok((journal, facts))
    }

    /// 1, and one more for each time that this journal came out of a backup (H13 in design-review.md).
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Escrows of an earlier epoch that this journal's owner paid by: nothing more may be signed on them, because the journal
    /// from which the backup was made may have signed more since. Their ends (the payee's flush, the refund, the sweep) are
    /// seen to as always. Empty where nothing was imported.
    ///
    /// The facts say the same to the state machines (`NewEpoch`), which also take nothing more on the escrows that pay them and
    /// flush those at their start; nobody has to ask for this list to be safe.
    pub fn sealed(&self) -> &[EscrowId] {
        &self.sealed
    }

    /// Appends `facts`, all or none, after everything that was appended before, and calls `done` with the place of the
    /// last one once they are on the disk. Returns at once. `done` runs on the journal's own thread: it must be short.
    ///
    /// After a failure nothing more is appended ([`StoreError::Stopped`]): the memory of whoever appends is ahead of the
    /// journal then, and the journal alone decides what is owed.
    pub fn append_then(&self, facts: Vec<F>, done: impl FnOnce(Result<u64, StoreError>) + Send + 'static) {
        self.log.append(facts, Arc::clone(&self.keeper), Box::new(done));
    }

    /// [`Journal::append_then`], awaited. The facts are queued when this is first polled.
    pub async fn append(&self, facts: Vec<F>) -> Result<u64, StoreError> {
        let (tell, told) = oneshot::channel();
        // Nobody waits for the outcome any more if this fails.
        self.append_then(facts, move |outcome| {
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// The balance of every account, debits less credits, as of the last append.
    pub fn balances(&self) -> Vec<(Account, i128)> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper
            .books
            .balances()
            .iter()
            .map(|(account, balance)| (*account, *balance))
            .collect()
    }

    /// Facts `from` to the end, `from` counted from 1; with the number of the append that each came in. Those that were erased
    /// are not among them.
    pub async fn facts_from(&self, from: u64) -> Result<Vec<(u64, F)>, StoreError> {
        self.log
            .read_async(move |db| {
                let mut facts = Vec::new();
                let first = db.query_row(
                    "SELECT coalesce(max(last), 0) FROM batches WHERE last < ?1",
                    [i64::try_from(from).unwrap_or(i64::MAX)],
                    |row| row.get::<_, i64>(0),
                )?;
                read_batches::<F>(db, first.unsigned_abs(), u64::MAX, |batch| {
                    let numbered = (batch.first..).zip(&batch.facts);
                    let wanted = numbered.filter(|(sequence, _)| *sequence >= from);
                    facts.extend(wanted.map(|(_, fact)| (batch.place.batch, *fact)));
                    Ok(())
                })?;
                Ok(facts)
            })
            .await
    }
}

/// Why an audit does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The journal cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something in it is not as it must be: the first such thing.
    #[error(transparent)]
    Found(#[from] Finding),
}

/// One append as it is stored.
pub(crate) struct Batch<F> {
    /// Its last fact, number, day, and the chain that is stored with it.
    pub(crate) place: Place,
    /// Its first fact.
    pub(crate) first: u64,
    pub(crate) facts: Vec<F>,
    bodies: Vec<Vec<u8>>,
}

impl<F> Batch<F> {
    /// The chain after this batch when it follows on `before`; `None` if it does not, or if facts of it are missing.
    pub(crate) fn chain_after(&self, before: &Place) -> Option<Hash> {
        let follows = self.place.batch == before.batch + 1
            && self.first == before.sequence + 1
            && self.place.sequence.checked_sub(before.sequence) == Some(self.bodies.len() as u64);
        if !follows {
            return None;
        }
        let mut link = Link::new(&before.chain, self.place.batch, self.place.day, self.first);
        self.bodies.iter().for_each(|body| link.fact(body));
        Some(link.end())
    }

    /// The facts as they are stored.
    pub(crate) fn bodies(&self) -> &[Vec<u8>] {
        &self.bodies
    }
}

/// Reads the batches after fact `after`, in order, up to the one with which `most` facts are reached.
pub(crate) fn read_batches<F: Fact>(
    db: &Connection,
    after: u64,
    most: u64,
    mut each: impl FnMut(Batch<F>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut batches =
        db.prepare_cached("SELECT batch, last, day, chain FROM batches WHERE last > ?1 ORDER BY batch")?;
    let mut batches = batches.query([after])?;
    let mut facts =
        db.prepare_cached("SELECT sequence, batch, body FROM facts WHERE sequence > ?1 ORDER BY sequence")?;
    let mut facts = facts.query([after])?;
    let mut next = read_fact(&mut facts)?;
    let mut count = 0;
    while let Some(row) = batches.next()? {
        let place = Place {
            batch: row.get::<_, i64>(0)?.unsigned_abs(),
            sequence: row.get::<_, i64>(1)?.unsigned_abs(),
            day: row.get(2)?,
            chain: row.get(3)?,
        };
        let mut batch = Batch {
            first: next.as_ref().map_or(0, |(sequence, ..)| *sequence),
            place,
            facts: Vec::new(),
            bodies: Vec::new(),
        };
        while let Some((sequence, _, body)) =
            next.take_if(|(sequence, of, _)| *sequence <= place.sequence && *of == place.batch)
        {
            let fact = F::from_bytes(&body).map_err(|_| StoreError::Unreadable { sequence })?;
            batch.facts.push(fact);
            batch.bodies.push(body);
            next = read_fact(&mut facts)?;
        }
        count += batch.facts.len() as u64;
        each(batch)?;
        if count >= most {
            break;
        }
    }
    Ok(())
}

fn read_fact(rows: &mut rusqlite::Rows<'_>) -> Result<Option<(u64, u64, Vec<u8>)>, StoreError> {
    let Some(row) = rows.next()? else { return Ok(None) };
    let sequence = row.get::<_, i64>(0)?.unsigned_abs();
    Ok(Some((sequence, row.get::<_, i64>(1)?.unsigned_abs(), row.get(2)?)))
}

/// The kind in the file; a new file becomes one of `kind`.
fn kind_of(db: &Connection, kind: &str) -> Result<String, StoreError> {
    let found = match state::setting(db, KIND_SETTING)? {
        Some(found) => found,
        None => {
            state::put_setting(db, KIND_SETTING, kind.as_bytes())?;
            kind.as_bytes().to_vec()
        }
    };
    String::from_utf8(found).map_err(|_| StoreError::Corrupt)
}

pub(crate) fn epoch_of(db: &Connection) -> Result<u64, StoreError> {
    let Some(epoch) = state::setting(db, EPOCH_SETTING)? else {
        return Ok(1);
    };
    let epoch = <[u8; 8]>::try_from(epoch).map_err(|_| StoreError::Corrupt)?;
    Ok(u64::from_be_bytes(epoch))
}

fn sealed_of(db: &Connection) -> Result<Vec<EscrowId>, StoreError> {
    let sealed = state::setting(db, SEALED_SETTING)?.unwrap_or_default();
    let (ids, []) = sealed.as_chunks::<32>() else {
        return Err(StoreError::Corrupt);
    };
    Ok(ids.iter().map(|id| EscrowId(*id)).collect())
}
