//! Keys, transactions and answers for the tests of this directory.
#![allow(dead_code)]

pub mod served;

use ed25519_dalek::{Signer as _, SigningKey};
use obol_ledger::{Closing, Filter, Ledger, LedgerConfig, Page, Submission};
use stellar_xdr::*;

pub const XLM: i64 = 10_000_000;

/// A key from a number, the same in every run.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub fn raw(key: &SigningKey) -> [u8; 32] {
    key.verifying_key().to_bytes()
}

pub fn id(key: &SigningKey) -> AccountId {
    AccountId(PublicKey::PublicKeyTypeEd25519(Uint256(raw(key))))
}

pub fn muxed(key: &SigningKey) -> MuxedAccount {
    MuxedAccount::Ed25519(Uint256(raw(key)))
}

pub fn asset(issuer: &SigningKey) -> Asset {
    Asset::CreditAlphanum4(AlphaNum4 {
        asset_code: AssetCode4(*b"OBOL"),
        issuer: id(issuer),
    })
}

pub fn op(body: OperationBody) -> Operation {
    Operation {
        source_account: None,
        body,
    }
}

pub fn op_of(source: &SigningKey, body: OperationBody) -> Operation {
    Operation {
        source_account: Some(muxed(source)),
        body,
    }
}

pub fn create(to: &SigningKey, balance: i64) -> OperationBody {
    OperationBody::CreateAccount(CreateAccountOp {
        destination: id(to),
        starting_balance: balance,
    })
}

pub fn pay(to: &SigningKey, asset: Asset, amount: i64) -> OperationBody {
    OperationBody::Payment(PaymentOp {
        destination: muxed(to),
        asset,
        amount,
    })
}

pub fn trust(issuer: &SigningKey, limit: i64) -> OperationBody {
    let Asset::CreditAlphanum4(a) = asset(issuer) else {
        unreachable!()
    };
    OperationBody::ChangeTrust(ChangeTrustOp {
        line: ChangeTrustAsset::CreditAlphanum4(a),
        limit,
    })
}

pub fn options(change: impl FnOnce(&mut SetOptionsOp)) -> OperationBody {
    let mut op = SetOptionsOp {
        inflation_dest: None,
        clear_flags: None,
        set_flags: None,
        master_weight: None,
        low_threshold: None,
        med_threshold: None,
        high_threshold: None,
        home_domain: None,
        signer: None,
    };
    change(&mut op);
    OperationBody::SetOptions(op)
}

pub fn signer(key: &SigningKey, weight: u32) -> Signer {
    Signer {
        key: SignerKey::Ed25519(Uint256(raw(key))),
        weight,
    }
}

pub fn conditions() -> PreconditionsV2 {
    PreconditionsV2 {
        time_bounds: None,
        ledger_bounds: None,
        min_seq_num: None,
        min_seq_age: Duration(0),
        min_seq_ledger_gap: 0,
        extra_signers: VecM::default(),
    }
}

pub fn transaction(source: &SigningKey, sequence: i64, fee: u32, operations: Vec<Operation>) -> Transaction {
    Transaction {
        source_account: muxed(source),
        fee,
        seq_num: SequenceNumber(sequence),
        cond: Preconditions::None,
        memo: Memo::None,
        operations: operations.try_into().unwrap(),
        ext: TransactionExt::V0,
    }
}

pub fn signature(key: &SigningKey, hash: [u8; 32]) -> DecoratedSignature {
    DecoratedSignature {
        hint: SignatureHint(raw(key)[28..].try_into().unwrap()),
        signature: Signature(key.sign(&hash).to_bytes().to_vec().try_into().unwrap()),
    }
}

pub fn signed(tx: Transaction, network: [u8; 32], keys: &[&SigningKey]) -> TransactionV1Envelope {
    let hash = tx.hash(network).unwrap();
    let signatures: Vec<_> = keys.iter().map(|key| signature(key, hash)).collect();
    TransactionV1Envelope {
        tx,
        signatures: signatures.try_into().unwrap(),
    }
}

pub fn bump(inner: TransactionV1Envelope, payer: &SigningKey, fee: i64, network: [u8; 32]) -> Vec<u8> {
    let tx = FeeBumpTransaction {
        fee_source: muxed(payer),
        fee,
        inner_tx: FeeBumpTransactionInnerTx::Tx(inner),
        ext: FeeBumpTransactionExt::V0,
    };
    let hash = tx.hash(network).unwrap();
    let signatures = vec![signature(payer, hash)].try_into().unwrap();
    TransactionEnvelope::TxFeeBump(FeeBumpTransactionEnvelope { tx, signatures })
        .to_xdr(Limits::none())
        .unwrap()
}

pub fn bytes(envelope: TransactionV1Envelope) -> Vec<u8> {
    TransactionEnvelope::Tx(envelope).to_xdr(Limits::none()).unwrap()
}

/// A ledger in memory with a clock of its own.
pub struct World {
    pub ledger: Ledger,
    pub now: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(LedgerConfig::default())
    }

    pub fn with(config: LedgerConfig) -> Self {
        let ledger = Ledger::open(LedgerConfig {
            closing: Closing::Manual,
            ..config
        })
        .unwrap();
        let now = ledger.latest().close_time;
        Self { ledger, now }
    }

    pub fn network(&self) -> [u8; 32] {
        self.ledger.network_id()
    }

    /// Six seconds later a ledger closes.
    pub fn close(&mut self) -> u32 {
        self.now += 6;
        self.ledger.close(self.now).unwrap().sequence
    }

    pub fn fund(&mut self, keys: &[&SigningKey]) {
        for key in keys {
            self.ledger.fund(raw(key), self.now).unwrap();
        }
        self.close();
    }

    pub fn sequence(&self, key: &SigningKey) -> i64 {
        self.ledger.account(&raw(key)).unwrap().seq_num.0
    }

    pub fn balance(&self, key: &SigningKey) -> i64 {
        self.ledger.account(&raw(key)).unwrap().balance
    }

    pub fn holds(&self, key: &SigningKey, asset: &Asset) -> i64 {
        self.ledger.trust_line(&raw(key), asset).unwrap().balance
    }

    /// Builds, signs and submits a transaction of the next sequence number at 100 stroops an operation.
    pub fn submit(&self, source: &SigningKey, operations: Vec<Operation>, keys: &[&SigningKey]) -> Submission {
        let fee = 100 * operations.len() as u32;
        let tx = transaction(source, self.sequence(source) + 1, fee, operations);
        self.ledger.submit(&bytes(signed(tx, self.network(), keys)), self.now)
    }

    /// Submits, closes a ledger and returns the result.
    pub fn apply(
        &mut self,
        source: &SigningKey,
        operations: Vec<Operation>,
        keys: &[&SigningKey],
    ) -> TransactionResultResult {
        let submission = self.submit(source, operations, keys);
        self.settle(submission)
    }

    /// Closes a ledger and returns what became of a submission.
    pub fn settle(&mut self, submission: Submission) -> TransactionResultResult {
        match submission {
            Submission::Pending { hash } => {
                self.close();
                let record = self
                    .ledger
                    .transaction(&hash)
                    .unwrap()
                    .expect("it was accepted and a ledger closed");
                TransactionResult::from_xdr(&record.result, Limits::none())
                    .unwrap()
                    .result
            }
            Submission::Rejected { result, .. } => result.result,
            other => panic!("{other:?}"),
        }
    }

    pub fn transactions(&self) -> usize {
        let page = Page {
            cursor: 0,
            descending: false,
            limit: 10_000,
        };
        self.ledger
            .transactions(
                page,
                &Filter {
                    failed: true,
                    ..Filter::default()
                },
            )
            .unwrap()
            .len()
    }
}

pub fn succeeded(result: &TransactionResultResult) -> bool {
    matches!(
        result,
        TransactionResultResult::TxSuccess(_) | TransactionResultResult::TxFeeBumpInnerSuccess(_)
    )
}

/// The one operation result of a failed transaction, of its inner one if it is a fee bump.
pub fn failed_operations(result: &TransactionResultResult) -> Vec<OperationResult> {
    match result {
        TransactionResultResult::TxFailed(ops) => ops.to_vec(),
        TransactionResultResult::TxFeeBumpInnerFailed(pair) => match &pair.result.result {
            InnerTransactionResultResult::TxFailed(ops) => ops.to_vec(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What the ledger holds must be what its recorded changes make of the genesis: of each transaction first the fee's, then its own.
pub fn same_as_recorded(ledger: &Ledger) {
    let mut page = Page {
        cursor: 0,
        descending: false,
        limit: 100_000,
    };
    let filter = Filter {
        failed: true,
        ..Filter::default()
    };
    let mut records = Vec::new();
    loop {
        let next = ledger.transactions(page, &filter).unwrap();
        let Some(last) = next.last() else { break };
        page.cursor = last.id;
        records.extend(next);
    }
    let changes = |list: LedgerEntryChanges, into: &mut std::collections::BTreeMap<LedgerKey, LedgerEntry>| {
        for change in list.0.into_vec() {
            match change {
                // What was there before must be what we have.
                LedgerEntryChange::State(entry) => {
                    if let Some(known) = into.get(&entry.to_key()) {
                        assert_eq!(known.data, entry.data);
                    }
                }
                LedgerEntryChange::Created(entry)
                | LedgerEntryChange::Updated(entry)
                | LedgerEntryChange::Restored(entry) => {
                    into.insert(entry.to_key(), entry);
                }
                LedgerEntryChange::Removed(key) => {
                    into.remove(&key).expect("what is removed was there");
                }
            }
        }
    };
    let mut made = std::collections::BTreeMap::new();
    let mut waiting = Vec::new();
    let mut current = 0;
    let mut apply = |waiting: &mut Vec<obol_ledger::history::TransactionRecord>| {
        // All fees of a ledger come before all of its transactions.
        for record in waiting.iter() {
            changes(
                LedgerEntryChanges::from_xdr(&record.fee_meta, Limits::none()).unwrap(),
                &mut made,
            );
        }
        for record in waiting.drain(..) {
            let meta = TransactionMeta::from_xdr(&record.meta, Limits::none()).unwrap();
            let before = match &meta {
                TransactionMeta::V2(v2) => v2.tx_changes_before.clone(),
                TransactionMeta::V3(v3) => v3.tx_changes_before.clone(),
                TransactionMeta::V4(v4) => v4.tx_changes_before.clone(),
                other => panic!("{other:?}"),
            };
            changes(before, &mut made);
            for list in obol_ledger::history::operation_changes(&meta) {
                changes(list.clone(), &mut made);
            }
        }
    };
    for record in records {
        if record.ledger() != current {
            apply(&mut waiting);
            current = record.ledger();
        }
        waiting.push(record);
    }
    apply(&mut waiting);
    for entry in ledger.entries() {
        // The genesis account is in no change until something touches it.
        match made.remove(&entry.to_key()) {
            Some(known) => assert_eq!(known, entry),
            None => assert_eq!(entry.last_modified_ledger_seq, 1, "{entry:?} came from nowhere"),
        }
    }
    assert!(made.is_empty(), "recorded, and not there: {made:?}");
}
