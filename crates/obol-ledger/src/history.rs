//! What is recorded of closed ledgers, and whom it concerns.

use std::collections::BTreeSet;

use stellar_xdr::{
    AccountId, ClaimableBalanceId, Claimant, CreateClaimableBalanceResult, Hash, LedgerEntryChange, LedgerEntryChanges,
    LedgerEntryData, LedgerHeader, LedgerKey, OperationBody, OperationResult, OperationResultTr, RevokeSponsorshipOp,
    TransactionMeta,
};

use crate::audit::operations_of;

use crate::core::account::raw_key;
use crate::core::close::ClosedTransaction;

/// A closed ledger.
#[derive(Clone, Debug)]
pub struct LedgerRecord {
    /// The hash of its header.
    pub hash: [u8; 32],
    /// Its header.
    pub header: LedgerHeader,
    /// Transactions that succeeded.
    pub successful: u32,
    /// Transactions that failed.
    pub failed: u32,
    /// Operations of those that succeeded.
    pub operations: u32,
    /// Operations of all.
    pub set_operations: u32,
}

/// A transaction in a closed ledger; XDR as bytes.
#[derive(Clone, Debug)]
pub struct TransactionRecord {
    /// Its paging token (SEP-35): ledger << 32 | place << 12.
    pub id: i64,
    /// Its hash, the outer one of a fee bump.
    pub hash: Vec<u8>,
    /// The inner hash of a fee bump.
    pub inner_hash: Option<Vec<u8>>,
    /// When its ledger closed, in unix seconds.
    pub close_time: u64,
    /// Whether it succeeded.
    pub successful: bool,
    /// The envelope.
    pub envelope: Vec<u8>,
    /// The result.
    pub result: Vec<u8>,
    /// The meta.
    pub meta: Vec<u8>,
    /// The changes of taking the fee.
    pub fee_meta: Vec<u8>,
}

impl TransactionRecord {
    /// The ledger it is in.
    pub fn ledger(&self) -> u32 {
        (self.id >> 32) as u32
    }
}

/// The paging token of a transaction: its place counts from 1.
pub fn transaction_id(ledger: u32, place: u32) -> i64 {
    (i64::from(ledger) << 32) | (i64::from(place) << 12)
}

/// The transaction of an operation's id, and the operation's place in it from 0.
pub fn split_operation_id(id: i64) -> (i64, usize) {
    (id & !0xfff, ((id & 0xfff) as usize).saturating_sub(1))
}

/// Whether Horizon lists an operation under payments.
pub fn is_payment(body: &OperationBody) -> bool {
    matches!(
        body,
        OperationBody::CreateAccount(_)
            | OperationBody::Payment(_)
            | OperationBody::PathPaymentStrictReceive(_)
            | OperationBody::PathPaymentStrictSend(_)
            | OperationBody::AccountMerge(_)
    )
}

/// The changes of each operation in a meta.
pub fn operation_changes(meta: &TransactionMeta) -> Vec<&LedgerEntryChanges> {
    match meta {
        TransactionMeta::V0(operations) => operations.iter().map(|op| &op.changes).collect(),
        TransactionMeta::V1(v1) => v1.operations.iter().map(|op| &op.changes).collect(),
        TransactionMeta::V2(v2) => v2.operations.iter().map(|op| &op.changes).collect(),
        TransactionMeta::V3(v3) => v3.operations.iter().map(|op| &op.changes).collect(),
        TransactionMeta::V4(v4) => v4.operations.iter().map(|op| &op.changes).collect(),
    }
}

fn changed_accounts(changes: &LedgerEntryChanges, out: &mut BTreeSet<[u8; 32]>) {
    for change in changes.0.iter() {
        match change {
            LedgerEntryChange::Created(entry) | LedgerEntryChange::Updated(entry) => match &entry.data {
                LedgerEntryData::Account(account) => {
                    out.insert(*raw_key(&account.account_id));
                }
                LedgerEntryData::Trustline(line) => {
                    out.insert(*raw_key(&line.account_id));
                }
                _ => {}
            },
            LedgerEntryChange::Removed(LedgerKey::Account(key)) => {
                out.insert(*raw_key(&key.account_id));
            }
            _ => {}
        }
    }
}

/// Every account a transaction concerns.
pub fn transaction_accounts(tx: &ClosedTransaction) -> BTreeSet<[u8; 32]> {
    let mut out = BTreeSet::from([*raw_key(&tx.frame.inner.source()), *raw_key(&tx.frame.fee_source())]);
    for index in 0..tx.frame.inner.tx.operations.len() {
        out.extend(operation_accounts(tx, index));
    }
    for changes in operation_changes(&tx.meta) {
        changed_accounts(changes, &mut out);
    }
    out
}

/// The hash that names a claimable balance. It stands among the accounts that a transaction concerns: both are 32 bytes drawn at random, so
/// none is ever the other.
pub fn claimable_hash(id: &ClaimableBalanceId) -> [u8; 32] {
    let ClaimableBalanceId::ClaimableBalanceIdTypeV0(Hash(hash)) = id;
    *hash
}

/// Every account an operation concerns: its source and those it names; and every claimable balance.
pub fn operation_accounts(tx: &ClosedTransaction, index: usize) -> BTreeSet<[u8; 32]> {
    let mut out = BTreeSet::new();
    let Some(operation) = tx.frame.inner.tx.operations.get(index) else {
        return out;
    };
    let mut add = |id: &AccountId| {
        out.insert(*raw_key(id));
    };
    add(&tx.frame.inner.operation_source(operation));
    match &operation.body {
        OperationBody::CreateAccount(op) => add(&op.destination),
        OperationBody::Payment(op) => add(&op.destination.clone().account_id()),
        OperationBody::PathPaymentStrictReceive(op) => add(&op.destination.clone().account_id()),
        OperationBody::PathPaymentStrictSend(op) => add(&op.destination.clone().account_id()),
        OperationBody::AllowTrust(op) => add(&op.trustor),
        OperationBody::SetTrustLineFlags(op) => add(&op.trustor),
        OperationBody::AccountMerge(to) => add(&to.clone().account_id()),
        OperationBody::CreateClaimableBalance(op) => {
            for Claimant::ClaimantTypeV0(claimant) in &op.claimants {
                add(&claimant.destination);
            }
        }
        OperationBody::BeginSponsoringFutureReserves(op) => add(&op.sponsored_id),
        OperationBody::RevokeSponsorship(RevokeSponsorshipOp::Signer(op)) => add(&op.account_id),
        OperationBody::RevokeSponsorship(RevokeSponsorshipOp::LedgerEntry(LedgerKey::Account(key))) => {
            add(&key.account_id)
        }
        OperationBody::RevokeSponsorship(RevokeSponsorshipOp::LedgerEntry(LedgerKey::Trustline(key))) => {
            add(&key.account_id)
        }
        OperationBody::RevokeSponsorship(RevokeSponsorshipOp::LedgerEntry(LedgerKey::Data(key))) => {
            add(&key.account_id)
        }
        OperationBody::Clawback(op) => add(&op.from.clone().account_id()),
        _ => {}
    }
    match &operation.body {
        OperationBody::CreateClaimableBalance(_) => {
            if let Some(OperationResult::OpInner(OperationResultTr::CreateClaimableBalance(
                CreateClaimableBalanceResult::Success(id),
            ))) = operations_of(&tx.result).and_then(|results| results.get(index))
            {
                out.insert(claimable_hash(id));
            }
        }
        OperationBody::ClaimClaimableBalance(op) => {
            out.insert(claimable_hash(&op.balance_id));
        }
        OperationBody::ClawbackClaimableBalance(op) => {
            out.insert(claimable_hash(&op.balance_id));
        }
        OperationBody::RevokeSponsorship(RevokeSponsorshipOp::LedgerEntry(LedgerKey::ClaimableBalance(key))) => {
            out.insert(claimable_hash(&key.balance_id));
        }
        _ => {}
    }
    out
}
