//! Validity and application of a whole transaction or fee bump.
//!
//! The order of checks is stellar-core's (`TransactionFrame::commonValid`), because it decides which code a caller sees:
//!
//! | step | code |
//! |---|---|
//! | extra signers well formed | `txMALFORMED` |
//! | at least one operation | `txMISSING_OPERATION` |
//! | time and ledger bounds | `txTOO_EARLY`, `txTOO_LATE` |
//! | fee | `txINSUFFICIENT_FEE` |
//! | source exists | `txNO_ACCOUNT` |
//! | sequence number | `txBAD_SEQ` |
//! | age and gap of the sequence number | `txBAD_MIN_SEQ_AGE_OR_GAP` |
//! | signatures of the source (low), extra signers | `txBAD_AUTH` |
//! | spendable balance covers the fee | `txINSUFFICIENT_BALANCE` |
//! | each operation, its signatures first | `txFAILED` |
//! | no signature left over | `txBAD_AUTH_EXTRA` |

use sha2::{Digest, Sha256};
use stellar_xdr::{
    AccountId, DecoratedSignature, FeeBumpTransactionInnerTx, Hash, InnerTransactionResult, InnerTransactionResultExt,
    InnerTransactionResultPair, InnerTransactionResultResult, LedgerEntryChanges, LedgerHeader, Limits, MuxedAccount,
    Operation, OperationResult, Preconditions, PreconditionsV2, SequenceNumber, SignerKey, TimeBounds, Transaction,
    TransactionEnvelope, TransactionExt, TransactionResult, TransactionResultExt, TransactionResultResult,
    TransactionV1Envelope, Uint256, VecM, WriteXdr,
};

use super::account::{account_id, available_balance, sequence_touched, starting_sequence, touch_sequence};
use super::operations::{self, Context};
use super::reserve;
use super::signatures::{Checker, Threshold};
use super::state::Txn;

/// A parsed transaction with its hashes; nothing about it is verified yet.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The envelope, a version-0 one rewritten as version 1 (CAP-15; same hash).
    pub envelope: TransactionEnvelope,
    /// The transaction, or the inner one of a fee bump.
    pub inner: Inner,
    /// The fee bump around it.
    pub bump: Option<Bump>,
}

/// The part of a [`Frame`] that has operations.
#[derive(Clone, Debug)]
pub struct Inner {
    /// The transaction.
    pub tx: Transaction,
    /// Its signatures.
    pub signatures: Vec<DecoratedSignature>,
    /// What they sign.
    pub hash: [u8; 32],
    /// Its preconditions, in their widest form.
    pub conditions: PreconditionsV2,
}

/// The fee bump part of a [`Frame`].
#[derive(Clone, Debug)]
pub struct Bump {
    /// Who pays the fee.
    pub source: AccountId,
    /// The bid for all operations and one more, in stroops.
    pub fee: i64,
    /// Its signatures.
    pub signatures: Vec<DecoratedSignature>,
    /// What they sign.
    pub hash: [u8; 32],
}

/// What a transaction is validated against besides the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validity {
    /// The sequence number to follow, if not the account's: that of a transaction already waiting. Zero: the account's.
    pub current: i64,
    /// How many seconds after the last close time the next ledger may close: a transaction that ends before then is too late.
    pub close_time_ahead: u64,
}

/// A result code before it is known whether it stands inside a fee bump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every operation succeeded (or would pass its checks).
    Success(Vec<OperationResult>),
    /// At least one did not.
    Failed(Vec<OperationResult>),
    /// The transaction as a whole was refused.
    Refused(InnerTransactionResultResult),
}

impl Outcome {
    /// Whether the transaction stands.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success(_))
    }

    fn into_inner(self) -> InnerTransactionResultResult {
        match self {
            Self::Success(ops) => InnerTransactionResultResult::TxSuccess(ops.try_into().unwrap_or_default()),
            Self::Failed(ops) => InnerTransactionResultResult::TxFailed(ops.try_into().unwrap_or_default()),
            Self::Refused(code) => code,
        }
    }
}

/// A transaction applied: its result and what it changed.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The result as history records it.
    pub result: TransactionResult,
    /// Changes before the operations: the sequence number, one-time signers.
    pub before: LedgerEntryChanges,
    /// The changes of each operation, empty if the transaction failed.
    pub operations: Vec<LedgerEntryChanges>,
}

type Refusal = InnerTransactionResultResult;

impl Frame {
    /// Prepares an envelope of the network with this identifier. `None` if it cannot be encoded back, which no decoded envelope
    /// does.
    pub fn new(envelope: TransactionEnvelope, network_id: [u8; 32]) -> Option<Self> {
        let envelope = match envelope {
            TransactionEnvelope::TxV0(v0) => {
                let tx = Transaction {
                    source_account: MuxedAccount::Ed25519(v0.tx.source_account_ed25519),
                    fee: v0.tx.fee,
                    seq_num: v0.tx.seq_num,
                    cond: v0.tx.time_bounds.map_or(Preconditions::None, Preconditions::Time),
                    memo: v0.tx.memo,
                    operations: v0.tx.operations,
                    ext: TransactionExt::V0,
                };
                TransactionEnvelope::Tx(TransactionV1Envelope {
                    tx,
                    signatures: v0.signatures,
                })
            }
            other => other,
        };
        let (v1, bump) = match &envelope {
            TransactionEnvelope::Tx(v1) => (v1, None),
            TransactionEnvelope::TxFeeBump(bump) => {
                let FeeBumpTransactionInnerTx::Tx(v1) = &bump.tx.inner_tx;
                let bump = Bump {
                    source: bump.tx.fee_source.clone().account_id(),
                    fee: bump.tx.fee,
                    signatures: bump.signatures.to_vec(),
                    hash: bump.tx.hash(network_id).ok()?,
                };
                (v1, Some(bump))
            }
            TransactionEnvelope::TxV0(_) => return None,
        };
        let inner = Inner {
            tx: v1.tx.clone(),
            signatures: v1.signatures.to_vec(),
            hash: v1.tx.hash(network_id).ok()?,
            conditions: conditions(&v1.tx.cond),
        };
        Some(Self { envelope, inner, bump })
    }

    /// The hash that names the transaction: the outer one of a fee bump.
    pub fn hash(&self) -> [u8; 32] {
        self.bump.as_ref().map_or(self.inner.hash, |bump| bump.hash)
    }

    /// Who pays the fee.
    pub fn fee_source(&self) -> AccountId {
        self.bump
            .as_ref()
            .map_or_else(|| self.inner.source(), |bump| bump.source.clone())
    }

    /// The bid in stroops, for [`Frame::fee_units`] operations.
    pub fn fee_bid(&self) -> i64 {
        self.bump.as_ref().map_or(i64::from(self.inner.tx.fee), |bump| bump.fee)
    }

    /// The number of operations that the fee is counted over: a fee bump counts as one more.
    pub fn fee_units(&self) -> i64 {
        self.inner.operation_count() + i64::from(self.bump.is_some())
    }

    /// The least fee in stroops.
    pub fn min_fee(&self, base_fee: u32) -> i64 {
        i64::from(base_fee) * self.fee_units().max(1)
    }

    /// Checks the transaction as a validator does at submission. `txn` shows the next ledger's sequence over the last closed
    /// ledger's entries and close time; nothing in it changes.
    pub fn check(&self, txn: &mut Txn<'_>, validity: Validity) -> TransactionResult {
        txn.push();
        let header = txn.header.clone();
        let fee = self.min_fee(header.base_fee);
        let result = match &self.bump {
            None => wrap(fee, self.inner.check(txn, true, validity)),
            Some(bump) => match bump.check(txn, &self.inner, &header) {
                Err((fee, code)) => TransactionResult {
                    fee_charged: fee,
                    result: code,
                    ext: TransactionResultExt::V0,
                },
                Ok(()) => self.wrap_bump(fee, 0, self.inner.check(txn, false, validity)),
            },
        };
        txn.rollback();
        result
    }

    /// The fee that is taken when the transaction is in a ledger with this base fee, in stroops.
    pub fn fee_charged(&self, base_fee: u32) -> i64 {
        self.fee_bid().min(self.min_fee(base_fee))
    }

    /// Takes the fee, before any transaction of the ledger is applied. Returns what was taken.
    pub fn take_fee(&self, txn: &mut Txn<'_>, base_fee: u32) -> i64 {
        let Some(mut source) = txn.load_account(&self.fee_source()) else {
            return 0;
        };
        // Not add_balance: fees may go below the reserve, never below zero.
        let fee = self.fee_charged(base_fee).clamp(0, source.data.balance.max(0));
        source.data.balance -= fee;
        txn.header.fee_pool = txn.header.fee_pool.saturating_add(fee);
        txn.save(source);
        fee
    }

    /// Applies the transaction, its fee being taken already.
    pub fn apply(&self, txn: &mut Txn<'_>, base_fee: u32, fee_charged: i64) -> Applied {
        let mut before = Vec::new();
        if let Some(bump) = &self.bump {
            txn.push();
            if let Some(source) = txn.load_account(&bump.source) {
                remove_one_time_signer(txn, source, bump.hash);
            }
            before.extend(txn.changes().0.into_vec());
            txn.commit();
        }
        let (outcome, inner_before, operations) = self.inner.apply(txn, self.bump.is_none());
        before.extend(inner_before.0.into_vec());
        let result = match &self.bump {
            None => wrap(fee_charged, outcome),
            Some(_) => {
                let min = i64::from(base_fee) * self.inner.operation_count().max(1);
                let bid = i64::from(self.inner.tx.fee).min(min);
                // Since protocol 25 the fee is reported once, outside.
                let inner_fee = if txn.header.ledger_version >= 25 { 0 } else { bid };
                self.wrap_bump(fee_charged, inner_fee, outcome)
            }
        };
        Applied {
            result,
            before: LedgerEntryChanges(before.try_into().unwrap_or_default()),
            operations,
        }
    }

    fn wrap_bump(&self, fee: i64, inner_fee: i64, outcome: Outcome) -> TransactionResult {
        let success = outcome.is_success();
        let pair = InnerTransactionResultPair {
            transaction_hash: Hash(self.inner.hash),
            result: InnerTransactionResult {
                fee_charged: inner_fee,
                result: outcome.into_inner(),
                ext: InnerTransactionResultExt::V0,
            },
        };
        let result = if success {
            TransactionResultResult::TxFeeBumpInnerSuccess(pair)
        } else {
            TransactionResultResult::TxFeeBumpInnerFailed(pair)
        };
        TransactionResult {
            fee_charged: fee,
            result,
            ext: TransactionResultExt::V0,
        }
    }
}

impl Bump {
    /// The outer checks of a fee bump; an error carries the fee the result shows.
    fn check(&self, txn: &Txn<'_>, inner: &Inner, header: &LedgerHeader) -> Result<(), (i64, TransactionResultResult)> {
        let units = inner.operation_count().max(0);
        let min = i64::from(header.base_fee) * (units + 1);
        let inner_min = i64::from(header.base_fee) * units.max(1);
        if self.fee < min {
            return Err((min, TransactionResultResult::TxInsufficientFee));
        }
        // The rate must be at least the inner one: fee / min >= inner fee / inner min.
        let offered = i128::from(self.fee) * i128::from(inner_min);
        let wanted = i128::from(inner.tx.fee) * i128::from(min);
        if offered < wanted {
            let fee = (wanted + i128::from(inner_min) - 1) / i128::from(inner_min).max(1);
            return Err((
                i64::try_from(fee).unwrap_or(i64::MAX),
                TransactionResultResult::TxInsufficientFee,
            ));
        }
        let Some(source) = txn.peek_account(&self.source) else {
            return Err((min, TransactionResultResult::TxNoAccount));
        };
        let mut checker = Checker::new(self.hash, &self.signatures);
        if !checker.account(source, Threshold::Low.needed(source)) {
            return Err((min, TransactionResultResult::TxBadAuth));
        }
        if available_balance(header, source) < self.fee {
            return Err((min, TransactionResultResult::TxInsufficientBalance));
        }
        if !checker.all_used() {
            return Err((min, TransactionResultResult::TxBadAuthExtra));
        }
        Ok(())
    }
}

/// How far validation came before it failed: what is still done at application depends on it.
enum Failed {
    /// Before the sequence number was found right: it stays.
    Early(Refusal),
    /// After: the transaction uses its sequence number.
    UsesSequence(Refusal),
}

impl Inner {
    /// The source account.
    pub fn source(&self) -> AccountId {
        self.tx.source_account.clone().account_id()
    }

    /// The number of operations.
    pub fn operation_count(&self) -> i64 {
        self.tx.operations.len() as i64
    }

    /// The source of an operation: its own or the transaction's.
    pub fn operation_source(&self, operation: &Operation) -> AccountId {
        operation
            .source_account
            .clone()
            .map_or_else(|| self.source(), MuxedAccount::account_id)
    }

    fn context<'a>(&'a self, index: usize, operation: &'a Operation) -> Context<'a> {
        Context {
            tx_source: self.source(),
            sequence: self.tx.seq_num.0,
            index: index as u32,
            source: self.operation_source(operation),
            operation,
        }
    }

    fn default_results(&self) -> Vec<OperationResult> {
        self.tx
            .operations
            .iter()
            .map(|op| operations::success(&op.body))
            .collect()
    }

    fn check(&self, txn: &mut Txn<'_>, charge_fee: bool, validity: Validity) -> Outcome {
        let mut checker = Checker::new(self.hash, &self.signatures);
        if let Err(Failed::Early(code) | Failed::UsesSequence(code)) =
            self.common(txn, &mut checker, charge_fee, false, validity)
        {
            return Outcome::Refused(code);
        }
        let mut results = self.default_results();
        for ((index, operation), result) in self.tx.operations.iter().enumerate().zip(results.iter_mut()) {
            let context = self.context(index, operation);
            let checked = context
                .supported()
                .and_then(|()| context.check_signatures(txn, &mut checker))
                .and_then(|()| operations::check(&context));
            if let Err(code) = checked {
                *result = code;
                return Outcome::Failed(results);
            }
        }
        if !checker.all_used() {
            return Outcome::Refused(Refusal::TxBadAuthExtra);
        }
        Outcome::Success(results)
    }

    fn common(
        &self,
        txn: &Txn<'_>,
        checker: &mut Checker<'_>,
        charge_fee: bool,
        applying: bool,
        validity: Validity,
    ) -> Result<(), Failed> {
        let header = &txn.header;
        self.before_sequence(header, charge_fee, validity)
            .map_err(Failed::Early)?;
        let Some(source) = txn.peek_account(&self.source()) else {
            return Err(Failed::Early(Refusal::TxNoAccount));
        };
        let current = if validity.current == 0 {
            source.seq_num.0
        } else {
            validity.current
        };
        if self.is_bad_sequence(header, current) {
            return Err(Failed::Early(Refusal::TxBadSeq));
        }
        let (seq_ledger, seq_time) = sequence_touched(source);
        let close_time = header.scp_value.close_time.0;
        let old_enough = close_time
            .checked_sub(self.conditions.min_seq_age.0)
            .is_some_and(|t| t >= seq_time);
        let far_enough = header
            .ledger_seq
            .checked_sub(self.conditions.min_seq_ledger_gap)
            .is_some_and(|l| l >= seq_ledger);
        if !old_enough || !far_enough {
            return Err(Failed::UsesSequence(Refusal::TxBadMinSeqAgeOrGap));
        }
        if !checker.account(source, Threshold::Low.needed(source))
            || !checker.extra_signers(&self.conditions.extra_signers)
        {
            return Err(Failed::UsesSequence(Refusal::TxBadAuth));
        }
        // When applying, the fee is already taken.
        let fee = if applying { 0 } else { i64::from(self.tx.fee) };
        if charge_fee && available_balance(header, source) < fee {
            return Err(Failed::UsesSequence(Refusal::TxInsufficientBalance));
        }
        Ok(())
    }

    fn before_sequence(&self, header: &LedgerHeader, charge_fee: bool, validity: Validity) -> Result<(), Refusal> {
        let conditions = &self.conditions;
        if let [a, b] = conditions.extra_signers.as_slice()
            && a == b
        {
            return Err(Refusal::TxMalformed);
        }
        let empty = |key: &SignerKey| matches!(key, SignerKey::Ed25519SignedPayload(p) if p.payload.is_empty());
        if conditions.extra_signers.iter().any(empty) {
            return Err(Refusal::TxMalformed);
        }
        if self.tx.operations.is_empty() {
            return Err(Refusal::TxMissingOperation);
        }
        let close_time = header.scp_value.close_time.0;
        let time = conditions.time_bounds.as_ref();
        let ledgers = conditions.ledger_bounds.as_ref();
        if time.is_some_and(|t| t.min_time.0 > close_time) || ledgers.is_some_and(|l| l.min_ledger > header.ledger_seq)
        {
            return Err(Refusal::TxTooEarly);
        }
        let latest = close_time.saturating_add(validity.close_time_ahead);
        if time.is_some_and(|t| t.max_time.0 != 0 && t.max_time.0 < latest)
            || ledgers.is_some_and(|l| l.max_ledger != 0 && l.max_ledger <= header.ledger_seq)
        {
            return Err(Refusal::TxTooLate);
        }
        let bid = i64::from(self.tx.fee);
        if charge_fee && bid < i64::from(header.base_fee) * self.operation_count().max(1) {
            return Err(Refusal::TxInsufficientFee);
        }
        Ok(())
    }

    fn is_bad_sequence(&self, header: &LedgerHeader, current: i64) -> bool {
        let wanted = self.tx.seq_num.0;
        // A sequence number that a new account of this ledger would start with is never valid: merge and re-creation could repeat it.
        if wanted == starting_sequence(header.ledger_seq) {
            return true;
        }
        match &self.conditions.min_seq_num {
            Some(SequenceNumber(min)) => current < *min || current >= wanted,
            None => current.checked_add(1) != Some(wanted),
        }
    }

    /// Everything after the fee: sequence number, signatures, operations.
    fn apply(&self, txn: &mut Txn<'_>, charge_fee: bool) -> (Outcome, LedgerEntryChanges, Vec<LedgerEntryChanges>) {
        let mut checker = Checker::new(self.hash, &self.signatures);
        txn.clear_sponsorships();
        txn.push();
        let common = self.common(txn, &mut checker, charge_fee, true, Validity::default());
        let source = self.source();
        if !matches!(common, Err(Failed::Early(_)))
            && let Some(mut account) = txn.load_account(&source)
        {
            account.data.seq_num = self.tx.seq_num.clone();
            touch_sequence(&txn.header, &mut account.data);
            txn.save(account);
        }
        let signed = match common {
            Err(Failed::Early(code) | Failed::UsesSequence(code)) => Err(Outcome::Refused(code)),
            Ok(()) => self.check_all_signatures(txn, &mut checker),
        };
        self.remove_one_time_signers(txn);
        let before = txn.changes();
        txn.commit();
        if let Err(refused) = signed {
            return (refused, before, Vec::new());
        }
        let (outcome, operations) = self.apply_operations(txn);
        (outcome, before, operations)
    }

    fn check_all_signatures(&self, txn: &mut Txn<'_>, checker: &mut Checker<'_>) -> Result<(), Outcome> {
        let mut results = self.default_results();
        let mut all = true;
        for ((index, operation), result) in self.tx.operations.iter().enumerate().zip(results.iter_mut()) {
            if let Err(code) = self.context(index, operation).check_signatures(txn, checker) {
                *result = code;
                all = false;
            }
        }
        if !all {
            return Err(Outcome::Failed(results));
        }
        if checker.all_used() {
            Ok(())
        } else {
            Err(Outcome::Refused(Refusal::TxBadAuthExtra))
        }
    }

    fn remove_one_time_signers(&self, txn: &mut Txn<'_>) {
        let mut accounts = vec![self.source()];
        accounts.extend(self.tx.operations.iter().map(|op| self.operation_source(op)));
        accounts.sort();
        accounts.dedup();
        let key = SignerKey::PreAuthTx(Uint256(self.hash));
        for id in accounts {
            if txn
                .peek_account(&id)
                .is_some_and(|account| account.signers.iter().any(|s| s.key == key))
                && let Some(account) = txn.load_account(&id)
            {
                remove_one_time_signer(txn, account, self.hash);
            }
        }
    }

    fn apply_operations(&self, txn: &mut Txn<'_>) -> (Outcome, Vec<LedgerEntryChanges>) {
        let mut results = Vec::with_capacity(self.tx.operations.len());
        let mut meta = Vec::with_capacity(self.tx.operations.len());
        let mut success = true;
        txn.push();
        for (index, operation) in self.tx.operations.iter().enumerate() {
            let context = self.context(index, operation);
            txn.push();
            let applied = context
                .supported()
                .and_then(|()| context.check_source_exists(txn))
                .and_then(|()| operations::check(&context))
                .and_then(|()| operations::apply(&context, txn));
            match applied {
                Ok(result) => {
                    meta.push(txn.changes());
                    txn.commit();
                    results.push(result);
                }
                Err(result) => {
                    success = false;
                    txn.rollback();
                    results.push(result);
                }
            }
        }
        let outcome = if !success {
            Outcome::Failed(results)
        } else if txn.any_sponsorship() {
            Outcome::Refused(Refusal::TxBadSponsorship)
        } else {
            txn.commit();
            return (Outcome::Success(results), meta);
        };
        txn.rollback();
        (outcome, Vec::new())
    }
}

/// Removes the signer that stands for the transaction with this hash, used up by it, and writes the account.
fn remove_one_time_signer(
    txn: &mut Txn<'_>,
    mut account: super::state::Loaded<stellar_xdr::AccountEntry>,
    hash: [u8; 32],
) {
    let key = SignerKey::PreAuthTx(Uint256(hash));
    if let Some(index) = account.data.signers.iter().position(|s| s.key == key) {
        reserve::release_signer(txn, &mut account, index);
        txn.save(account);
    }
}

fn conditions(cond: &Preconditions) -> PreconditionsV2 {
    let plain = |time_bounds: Option<TimeBounds>| PreconditionsV2 {
        time_bounds,
        ledger_bounds: None,
        min_seq_num: None,
        min_seq_age: stellar_xdr::Duration(0),
        min_seq_ledger_gap: 0,
        extra_signers: VecM::default(),
    };
    match cond {
        Preconditions::None => plain(None),
        Preconditions::Time(bounds) => plain(Some(bounds.clone())),
        Preconditions::V2(v2) => v2.clone(),
    }
}

fn wrap(fee: i64, outcome: Outcome) -> TransactionResult {
    use InnerTransactionResultResult as I;
    use TransactionResultResult as T;
    let result = match outcome.into_inner() {
        I::TxSuccess(ops) => T::TxSuccess(ops),
        I::TxFailed(ops) => T::TxFailed(ops),
        I::TxTooEarly => T::TxTooEarly,
        I::TxTooLate => T::TxTooLate,
        I::TxMissingOperation => T::TxMissingOperation,
        I::TxBadSeq => T::TxBadSeq,
        I::TxBadAuth => T::TxBadAuth,
        I::TxInsufficientBalance => T::TxInsufficientBalance,
        I::TxNoAccount => T::TxNoAccount,
        I::TxInsufficientFee => T::TxInsufficientFee,
        I::TxBadAuthExtra => T::TxBadAuthExtra,
        I::TxInternalError => T::TxInternalError,
        I::TxNotSupported => T::TxNotSupported,
        I::TxBadSponsorship => T::TxBadSponsorship,
        I::TxBadMinSeqAgeOrGap => T::TxBadMinSeqAgeOrGap,
        I::TxMalformed => T::TxMalformed,
        I::TxSorobanInvalid => T::TxSorobanInvalid,
        I::TxFrozenKeyAccessed => T::TxFrozenKeyAccessed,
    };
    TransactionResult {
        fee_charged: fee,
        result,
        ext: TransactionResultExt::V0,
    }
}

/// SHA-256 over the XDR of a value.
pub fn xdr_hash(value: &impl WriteXdr) -> [u8; 32] {
    Sha256::digest(value.to_xdr(Limits::none()).unwrap_or_default()).into()
}

/// The genesis account of a network: its key is the network identifier used as a seed, so everybody knows it.
pub fn root_account(network_id: [u8; 32]) -> AccountId {
    account_id(
        ed25519_dalek::SigningKey::from_bytes(&network_id)
            .verifying_key()
            .to_bytes(),
    )
}
