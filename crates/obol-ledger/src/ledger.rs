//! The ledger as a whole: state, queue, storage and clock behind one lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use stellar_xdr::{
    AccountEntry, Asset, CreateAccountOp, DecoratedSignature, Hash, LedgerEntry, LedgerEntryData, LedgerHeader,
    LedgerHeaderExt, Limits, Memo, MuxedAccount, Operation, OperationBody, Preconditions, ReadXdr, SequenceNumber,
    Signature, SignatureHint, StellarValue, StellarValueExt, TimePoint, Transaction, TransactionEnvelope,
    TransactionExt, TransactionResult, TransactionV1Envelope, TrustLineEntry,
};
use tokio::sync::{Notify, watch};

use crate::audit::{Audit, Movements};
use crate::config::{Closing, LedgerConfig, Storage};
use crate::core::account::{account_id, new_account};
use crate::core::close::{self, Closed, header_hash};
use crate::core::state::{Loaded, State, Txn, account_key, trust_line_key};
use crate::core::transaction::{Frame, Validity, root_account};
use crate::history::{LedgerRecord, TransactionRecord};
use crate::queue::{self, Queue, Rules, Verdict};
use crate::store::{Filter, Page, Store, StoreError};

/// Every lumen there is, in stroops: 100 billion XLM, as on the public network at its genesis.
pub const GENESIS_COINS: i64 = 1_000_000_000_000_000_000;

/// A submitted envelope may be so long and nest so deep. 100 operations with 20 signatures are well below.
const ENVELOPE_LIMITS: Limits = Limits {
    depth: 100,
    len: 128 * 1024,
};

/// What came of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submission {
    /// Accepted; it will be in one of the next ledgers.
    Pending {
        /// Its hash.
        hash: [u8; 32],
    },
    /// It is waiting already.
    Duplicate {
        /// Its hash.
        hash: [u8; 32],
    },
    /// Another transaction of its source is waiting. Nothing was kept.
    TryAgainLater {
        /// Its hash.
        hash: [u8; 32],
    },
    /// Refused, free of charge.
    Rejected {
        /// Its hash.
        hash: [u8; 32],
        /// Why.
        result: Box<TransactionResult>,
    },
    /// No transaction envelope.
    Malformed,
}

/// The last closed ledger in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerSummary {
    /// Its sequence.
    pub sequence: u32,
    /// Its close time in unix seconds.
    pub close_time: u64,
    /// The hash of its header.
    pub hash: [u8; 32],
    /// How many transactions it has; 0 for one that was only read.
    pub transactions: usize,
}

/// Why friendbot gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FriendbotError {
    /// It is turned off.
    #[error("friendbot is turned off")]
    Off,
    /// The account exists.
    #[error("account already funded to starting balance")]
    Funded,
    /// The ledger refused its transaction.
    #[error("the ledger refused friendbot's transaction")]
    Refused(Submission),
}

/// An embedded Stellar ledger. All methods take `&self`; share it in an `Arc`.
#[derive(Debug)]
pub struct Ledger {
    config: LedgerConfig,
    passphrase: String,
    network_id: [u8; 32],
    root: SigningKey,
    /// Seconds that the clock was wound forward.
    wound: AtomicU64,
    inner: Mutex<Inner>,
    closed: watch::Sender<u32>,
    /// Told about every accepted transaction.
    accepted: Notify,
}

#[derive(Debug)]
struct Inner {
    state: State,
    queue: Queue,
    store: Store,
}

impl Ledger {
    /// Opens the ledger of a configuration: continues what is on disk, or starts at ledger 1 with one account that holds everything.
    pub fn open(config: LedgerConfig) -> Result<Self, StoreError> {
        let mut store = match &config.storage {
            Storage::Memory => Store::memory()?,
            Storage::Directory(path) => Store::directory(path)?,
        };
        let state = store.state()?;
        let stored = store
            .setting("passphrase")?
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let wound = store
            .setting("wound_seconds")?
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_be_bytes);
        let (passphrase, state) = match (stored, state) {
            (Some(passphrase), Some(state)) => (passphrase, state),
            (None, None) => {
                let passphrase = if config.exact_passphrase {
                    config.passphrase.clone()
                } else {
                    format!("{} ; {}", config.passphrase, hex::encode(rand::random::<[u8; 8]>()))
                };
                store.set("passphrase", passphrase.as_bytes())?;
                let state = genesis(&config, &passphrase, system_now());
                store.commit(&Closed {
                    header: state.header.clone(),
                    changes: state
                        .entries
                        .iter()
                        .map(|(k, e)| (k.clone(), Some(e.clone())))
                        .collect(),
                    transactions: Vec::new(),
                })?;
                (passphrase, state)
            }
            // The passphrase is written before the first ledger; a crash between the two leaves no ledger to continue.
            (Some(passphrase), None) => {
                let state = genesis(&config, &passphrase, system_now());
                store.commit(&Closed {
                    header: state.header.clone(),
                    changes: state
                        .entries
                        .iter()
                        .map(|(k, e)| (k.clone(), Some(e.clone())))
                        .collect(),
                    transactions: Vec::new(),
                })?;
                (passphrase, state)
            }
            (None, Some(_)) => return Err(StoreError::Damaged { what: "the passphrase" }),
        };
        let network_id: [u8; 32] = Sha256::digest(passphrase.as_bytes()).into();
        let (closed, _) = watch::channel(state.header.ledger_seq);
        Ok(Self {
            config,
            passphrase,
            network_id,
            root: SigningKey::from_bytes(&network_id),
            wound: AtomicU64::new(wound),
            inner: Mutex::new(Inner {
                state,
                queue: Queue::default(),
                store,
            }),
            closed,
            accepted: Notify::new(),
        })
    }

    // Everything behind the lock is written only after it is complete, so a poisoned lock guards sound data.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it was started with.
    pub fn config(&self) -> &LedgerConfig {
        &self.config
    }

    /// The network passphrase, with its random part.
    pub fn passphrase(&self) -> &str {
        &self.passphrase
    }

    /// SHA-256 of the passphrase.
    pub fn network_id(&self) -> [u8; 32] {
        self.network_id
    }

    /// The secret seed of the genesis account. Everybody can derive it from the passphrase: this is a test network.
    pub fn root_secret(&self) -> [u8; 32] {
        self.network_id
    }

    /// The ledger's clock: the system's, and what it was wound, in unix seconds.
    pub fn now(&self) -> u64 {
        system_now().saturating_add(self.wound.load(Ordering::Relaxed))
    }

    /// Tells the sequence of every ledger as it closes.
    pub fn watch(&self) -> watch::Receiver<u32> {
        self.closed.subscribe()
    }

    /// Waits until a transaction was accepted since the last call.
    pub async fn accepted(&self) {
        self.accepted.notified().await;
    }

    /// Submits a transaction envelope (XDR, not base64) at a time in unix seconds.
    pub fn submit(&self, envelope: &[u8], now: u64) -> Submission {
        let Ok(envelope) = TransactionEnvelope::from_xdr(envelope, ENVELOPE_LIMITS) else {
            return Submission::Malformed;
        };
        let Some(frame) = Frame::new(envelope, self.network_id) else {
            return Submission::Malformed;
        };
        self.submit_frame(&mut self.lock(), frame, now, false)
    }

    /// The hash of an envelope on this network; `None` if it is none.
    pub fn hash_of(&self, envelope: &[u8]) -> Option<[u8; 32]> {
        let envelope = TransactionEnvelope::from_xdr(envelope, ENVELOPE_LIMITS).ok()?;
        Frame::new(envelope, self.network_id).map(|frame| frame.hash())
    }

    fn submit_frame(&self, inner: &mut Inner, frame: Frame, now: u64, chain: bool) -> Submission {
        let hash = frame.hash();
        let rules = Rules {
            max_operations: self.config.max_tx_set_ops,
            chain,
            close_time_ahead: now.saturating_sub(inner.state.header.scp_value.close_time.0),
        };
        let place = match queue::consider(&inner.state, &inner.queue, &frame, rules) {
            Verdict::Takes(place) => place,
            Verdict::Duplicate => return Submission::Duplicate { hash },
            Verdict::Later => return Submission::TryAgainLater { hash },
            Verdict::Rejected(result) => return Submission::Rejected { hash, result },
        };
        inner.queue.add(frame, &place);
        self.accepted.notify_one();
        Submission::Pending { hash }
    }

    /// Closes a ledger over what waits, at a time in unix seconds. Close times never go back; unlike on a public network two
    /// ledgers within one second have the same.
    pub fn close(&self, now: u64) -> Result<LedgerSummary, StoreError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let close_time = now.max(inner.state.header.scp_value.close_time.0);
        let waiting = inner.queue.take();
        let (chosen, rest, base_fee) = close::choose(
            self.still_valid(&inner.state, waiting, close_time),
            self.config.max_tx_set_ops,
            inner.state.header.base_fee,
        );
        let before = &inner.state.header;
        let set = close::TransactionSet::new(before.ledger_version, header_hash(before), &chosen, base_fee);
        let set_hash = set.hash();
        let ordered = close::order(chosen, set_hash);
        let closed = close::apply(&inner.state, ordered.clone(), set_hash, close_time, base_fee);
        if let Err(error) = inner.store.commit(&closed) {
            // Nothing happened: the same transactions wait for the next attempt.
            inner.queue.put_back(ordered);
            inner.queue.put_back(rest);
            return Err(error);
        }
        let waits = !rest.is_empty();
        inner.queue.put_back(rest);
        let summary = LedgerSummary {
            sequence: closed.header.ledger_seq,
            close_time,
            hash: header_hash(&closed.header),
            transactions: closed.transactions.len(),
        };
        inner.state.take_over(closed.header, closed.changes);
        let more = waits && summary.transactions > 0;
        drop(guard);
        if more {
            self.accepted.notify_one();
        }
        self.closed.send_replace(summary.sequence);
        Ok(summary)
    }

    /// Drops what has become invalid while it waited.
    fn still_valid(&self, state: &State, waiting: Vec<Frame>, close_time: u64) -> Vec<Frame> {
        let header = close::validation_header(&state.header);
        let close_time_ahead = close_time.saturating_sub(header.scp_value.close_time.0);
        let mut txn = Txn::new(state, header);
        let mut last: BTreeMap<_, i64> = BTreeMap::new();
        let mut valid = Vec::with_capacity(waiting.len());
        for frame in waiting {
            let source = frame.inner.source();
            let current = last.get(&source).copied().unwrap_or(0);
            let result = frame.check(
                &mut txn,
                Validity {
                    current,
                    close_time_ahead,
                },
            );
            if queue::is_success(&result) {
                last.insert(source, frame.inner.tx.seq_num.0);
                valid.push(frame);
            }
        }
        valid
    }

    /// Winds the clock forward and closes ledgers: at least one, so that the new time can be seen.
    pub fn advance(&self, seconds: u64, ledgers: u32) -> Result<LedgerSummary, StoreError> {
        {
            // Under the lock nobody else winds it, and what could not be written is not wound.
            let inner = self.lock();
            let wound = self.wound.load(Ordering::Relaxed).saturating_add(seconds);
            inner.store.set("wound_seconds", &wound.to_be_bytes())?;
            self.wound.store(wound, Ordering::Relaxed);
        }
        let mut summary = self.close(self.now())?;
        for _ in 1..ledgers {
            summary = self.close(self.now())?;
        }
        Ok(summary)
    }

    /// Asks the genesis account to create an account with the friendbot's amount, at a time in unix seconds. Any number may wait
    /// for one ledger.
    pub fn fund(&self, account: [u8; 32], now: u64) -> Result<[u8; 32], FriendbotError> {
        if self.config.friendbot_amount <= 0 {
            return Err(FriendbotError::Off);
        }
        let mut inner = self.lock();
        let destination = account_id(account);
        if inner.state.entries.contains_key(&account_key(&destination)) {
            return Err(FriendbotError::Funded);
        }
        let root = root_account(self.network_id);
        let sequence = inner
            .queue
            .last_sequence(&root)
            .or_else(|| account_in(&inner.state, &root).map(|a| a.seq_num.0));
        let operation = Operation {
            source_account: None,
            body: OperationBody::CreateAccount(CreateAccountOp {
                destination,
                starting_balance: self.config.friendbot_amount,
            }),
        };
        let tx = Transaction {
            source_account: MuxedAccount::from(root),
            fee: inner.state.header.base_fee,
            seq_num: SequenceNumber(sequence.unwrap_or(0).saturating_add(1)),
            cond: Preconditions::None,
            memo: Memo::None,
            operations: vec![operation].try_into().unwrap_or_default(),
            ext: TransactionExt::V0,
        };
        let hash = tx.hash(self.network_id).unwrap_or_default();
        let key = self.root.verifying_key().to_bytes();
        let [.., a, b, c, d] = key;
        let signature = DecoratedSignature {
            hint: SignatureHint([a, b, c, d]),
            signature: Signature(self.root.sign(&hash).to_bytes().to_vec().try_into().unwrap_or_default()),
        };
        let envelope = TransactionEnvelope::Tx(TransactionV1Envelope {
            tx,
            signatures: vec![signature].try_into().unwrap_or_default(),
        });
        let Some(frame) = Frame::new(envelope, self.network_id) else {
            return Err(FriendbotError::Refused(Submission::Malformed));
        };
        match self.submit_frame(&mut inner, frame, now, true) {
            Submission::Pending { hash } => Ok(hash),
            refused => Err(FriendbotError::Refused(refused)),
        }
    }

    // --- reads -------------------------------------------------------------------------------------------------------

    /// The last closed ledger.
    pub fn latest(&self) -> LedgerSummary {
        let inner = self.lock();
        let header = &inner.state.header;
        LedgerSummary {
            sequence: header.ledger_seq,
            close_time: header.scp_value.close_time.0,
            hash: header_hash(header),
            transactions: 0,
        }
    }

    /// The header of the last closed ledger.
    pub fn header(&self) -> LedgerHeader {
        self.lock().state.header.clone()
    }

    /// One account.
    pub fn account(&self, id: &[u8; 32]) -> Option<AccountEntry> {
        account_in(&self.lock().state, &account_id(*id)).cloned()
    }

    /// One trust line.
    pub fn trust_line(&self, id: &[u8; 32], asset: &Asset) -> Option<TrustLineEntry> {
        match &self
            .lock()
            .state
            .entries
            .get(&trust_line_key(&account_id(*id), asset))?
            .data
        {
            LedgerEntryData::Trustline(line) => Some(line.clone()),
            _ => None,
        }
    }

    /// Every entry of the ledger.
    pub fn entries(&self) -> Vec<LedgerEntry> {
        self.lock().state.entries.values().cloned().collect()
    }

    /// Looks at the last closed state under the lock.
    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// One ledger.
    pub fn ledger(&self, sequence: u32) -> Result<Option<LedgerRecord>, StoreError> {
        self.lock().store.ledger(sequence)
    }

    /// A page of ledgers.
    pub fn ledgers(&self, page: Page) -> Result<Vec<LedgerRecord>, StoreError> {
        self.lock().store.ledgers(page)
    }

    /// A transaction in a closed ledger, by its hash or, of a fee bump, the inner one.
    pub fn transaction(&self, hash: &[u8; 32]) -> Result<Option<TransactionRecord>, StoreError> {
        self.lock().store.transaction(hash)
    }

    /// A page of transactions.
    pub fn transactions(&self, page: Page, filter: &Filter) -> Result<Vec<TransactionRecord>, StoreError> {
        self.lock().store.transactions(page, filter)
    }

    /// A page of operations: each with its transaction and its place in it.
    pub fn operations(&self, page: Page, filter: &Filter) -> Result<Vec<(i64, TransactionRecord)>, StoreError> {
        let inner = self.lock();
        let ids = inner.store.operations(page, filter)?;
        let mut out: Vec<(i64, TransactionRecord)> = Vec::with_capacity(ids.len());
        for id in ids {
            let (transaction, _) = crate::history::split_operation_id(id);
            let record = match out.last() {
                Some((_, known)) if known.id == transaction => known.clone(),
                _ => inner.store.transaction_by_id(transaction)?.ok_or(StoreError::Damaged {
                    what: "an operation's transaction",
                })?,
            };
            out.push((id, record));
        }
        Ok(out)
    }

    /// One operation by its id.
    pub fn operation(&self, id: i64) -> Result<Option<TransactionRecord>, StoreError> {
        let inner = self.lock();
        if !inner.store.has_operation(id)? {
            return Ok(None);
        }
        inner.store.transaction_by_id(crate::history::split_operation_id(id).0)
    }

    /// Adds up every balance, and what issuers paid out and took back, and says what is missing.
    pub fn audit(&self) -> Result<Audit, StoreError> {
        let inner = self.lock();
        let mut movements = Movements::default();
        let mut cursor = 0;
        loop {
            let page = Page {
                cursor,
                descending: false,
                limit: 500,
            };
            let records = inner.store.transactions(page, &Filter::default())?;
            for record in &records {
                movements.add(record)?;
                cursor = record.id;
            }
            if records.len() < 500 {
                break;
            }
        }
        Ok(Audit::new(&inner.state, &movements))
    }
}

fn account_in<'s>(state: &'s State, id: &stellar_xdr::AccountId) -> Option<&'s AccountEntry> {
    match &state.entries.get(&account_key(id))?.data {
        LedgerEntryData::Account(account) => Some(account),
        _ => None,
    }
}

fn system_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn genesis(config: &LedgerConfig, passphrase: &str, now: u64) -> State {
    let network_id: [u8; 32] = Sha256::digest(passphrase.as_bytes()).into();
    let mut root = Loaded::new(new_account(root_account(network_id), GENESIS_COINS, 0)).into_entry();
    root.last_modified_ledger_seq = 1;
    let zero = Hash([0; 32]);
    let header = LedgerHeader {
        ledger_version: config.protocol,
        previous_ledger_hash: zero.clone(),
        scp_value: StellarValue {
            tx_set_hash: zero.clone(),
            close_time: TimePoint(now),
            upgrades: Default::default(),
            ext: StellarValueExt::Basic,
        },
        tx_set_result_hash: zero.clone(),
        bucket_list_hash: zero.clone(),
        ledger_seq: 1,
        total_coins: GENESIS_COINS,
        fee_pool: 0,
        inflation_seq: 0,
        id_pool: 0,
        base_fee: config.base_fee,
        base_reserve: config.base_reserve,
        max_tx_set_size: config.max_tx_set_ops,
        skip_list: [zero.clone(), zero.clone(), zero.clone(), zero],
        ext: LedgerHeaderExt::V0,
    };
    State {
        header,
        entries: BTreeMap::from([(root.to_key(), root)]),
    }
}

impl Ledger {
    /// Whether ledgers close on a timer, on demand or by hand.
    pub fn closing(&self) -> Closing {
        self.config.closing
    }
}
