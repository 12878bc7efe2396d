//! Does every stroop add up?
//!
//! Lumens: all accounts, all claimable balances and the fee pool must be the total that the header states. Any other asset: what is
//! held now must be what its issuer paid out less what came back to it, counted from the recorded transactions, not from the
//! state.

use std::collections::BTreeMap;

use serde::Serialize;
use stellar_xdr::{
    AccountId, Asset, ClaimableBalanceEntry, LedgerEntryChange, LedgerEntryData, Limits, OperationBody,
    OperationResult, OperationResultTr, ReadXdr, TransactionEnvelope, TransactionMeta, TransactionResult,
    TransactionResultResult, TrustLineAsset,
};

use crate::core::account::issuer;
use crate::core::state::State;
use crate::history::{TransactionRecord, operation_changes};
use crate::store::StoreError;
use crate::text;

/// The sums over a whole ledger. Amounts in stroops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The ledger it was made of.
    pub ledger: u32,
    /// Lumens.
    pub native: NativeAudit,
    /// Every other asset, by `CODE:ISSUER`.
    pub assets: BTreeMap<String, AssetAudit>,
    /// Every account's balances.
    pub accounts: BTreeMap<String, AccountBalances>,
}

/// The sum of all lumens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NativeAudit {
    /// On accounts.
    pub accounts: i64,
    /// In claimable balances.
    pub claimable: i64,
    /// Fees taken so far.
    pub fee_pool: i64,
    /// What there should be.
    pub total_coins: i64,
    /// Created (positive) or lost: always 0.
    pub difference: i64,
}

/// The sum of an issued asset. Every balance fits in an `i64`; sums over accounts, or over all time, may not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AssetAudit {
    /// On trust lines.
    pub trust_lines: i128,
    /// In claimable balances.
    pub claimable: i128,
    /// Paid out by the issuer, ever.
    pub issued: i128,
    /// Come back to the issuer, ever.
    pub returned: i128,
    /// Created (positive) or lost: always 0.
    pub difference: i128,
}

/// The balances of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountBalances {
    /// Lumens.
    pub native: i64,
    /// Other assets, by `CODE:ISSUER`.
    pub assets: BTreeMap<String, i64>,
}

impl Audit {
    /// Adds up a ledger.
    pub(crate) fn new(state: &State, movements: &Movements) -> Self {
        let mut native = NativeAudit {
            fee_pool: state.header.fee_pool,
            total_coins: state.header.total_coins,
            ..Default::default()
        };
        let mut assets: BTreeMap<String, AssetAudit> = BTreeMap::new();
        let mut accounts: BTreeMap<String, AccountBalances> = BTreeMap::new();
        // There are fewer lumens than i64 holds: a sum that passes it was created, which `difference` then shows.
        for entry in state.entries.values() {
            match &entry.data {
                LedgerEntryData::Account(account) => {
                    native.accounts = native.accounts.saturating_add(account.balance);
                    accounts.entry(text::account(&account.account_id)).or_default().native = account.balance;
                }
                LedgerEntryData::Trustline(line) => {
                    let Some(name) = line_name(&line.asset) else { continue };
                    let sum = assets.entry(name.clone()).or_default();
                    sum.trust_lines += i128::from(line.balance);
                    accounts
                        .entry(text::account(&line.account_id))
                        .or_default()
                        .assets
                        .insert(name, line.balance);
                }
                LedgerEntryData::ClaimableBalance(ClaimableBalanceEntry {
                    asset: Asset::Native,
                    amount,
                    ..
                }) => {
                    native.claimable = native.claimable.saturating_add(*amount);
                }
                LedgerEntryData::ClaimableBalance(balance) => {
                    let sum = assets.entry(text::asset(&balance.asset)).or_default();
                    sum.claimable += i128::from(balance.amount);
                }
                _ => {}
            }
        }
        for (name, (issued, returned)) in &movements.assets {
            let sum = assets.entry(name.clone()).or_default();
            (sum.issued, sum.returned) = (*issued, *returned);
        }
        for sum in assets.values_mut() {
            sum.difference = sum.trust_lines + sum.claimable - (sum.issued - sum.returned);
        }
        let held = native
            .accounts
            .saturating_add(native.claimable)
            .saturating_add(native.fee_pool);
        native.difference = held.saturating_sub(native.total_coins);
        Self {
            ledger: state.header.ledger_seq,
            native,
            assets,
            accounts,
        }
    }

    /// Stroops created or lost over all assets: 0 in a sound ledger (and `i64::MAX` for more than that).
    pub fn created_or_lost(&self) -> i64 {
        let assets: i128 = self.assets.values().map(|asset| asset.difference.abs()).sum();
        i64::try_from(i128::from(self.native.difference).abs() + assets).unwrap_or(i64::MAX)
    }
}

fn line_name(asset: &TrustLineAsset) -> Option<String> {
    match asset {
        TrustLineAsset::CreditAlphanum4(a) => Some(text::asset(&Asset::CreditAlphanum4(a.clone()))),
        TrustLineAsset::CreditAlphanum12(a) => Some(text::asset(&Asset::CreditAlphanum12(a.clone()))),
        TrustLineAsset::Native | TrustLineAsset::PoolShare(_) => None,
    }
}

/// What issuers paid out and took back, counted from transactions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Movements {
    assets: BTreeMap<String, (i128, i128)>,
}

impl Movements {
    fn note(&mut self, asset: &Asset, from: Option<&AccountId>, to: Option<&AccountId>, amount: i64) {
        let Some(issuer) = issuer(asset) else { return };
        let (out, back) = (from == Some(issuer), to == Some(issuer));
        if out || back {
            let (issued, returned) = self.assets.entry(text::asset(asset)).or_default();
            if out {
                *issued += i128::from(amount);
            }
            if back {
                *returned += i128::from(amount);
            }
        }
    }

    /// Counts a transaction.
    pub(crate) fn add(&mut self, record: &TransactionRecord) -> Result<(), StoreError> {
        if !record.successful {
            return Ok(());
        }
        let damaged = |what| move |_| StoreError::Damaged { what };
        let envelope =
            TransactionEnvelope::from_xdr(&record.envelope, Limits::none()).map_err(damaged("an envelope"))?;
        let meta = TransactionMeta::from_xdr(&record.meta, Limits::none()).map_err(damaged("a transaction's meta"))?;
        let result = TransactionResult::from_xdr(&record.result, Limits::none()).map_err(damaged("a result"))?;
        debug_assert_eq!(
            operations_of(&result).map(<[_]>::len),
            Some(operation_changes(&meta).len())
        );
        let Some(tx) = text::inner_transaction(&envelope) else {
            return Ok(());
        };
        let changes = operation_changes(&meta);
        for (index, operation) in tx.operations.iter().enumerate() {
            let source = operation
                .source_account
                .clone()
                .unwrap_or_else(|| tx.source_account.clone())
                .account_id();
            match &operation.body {
                OperationBody::Payment(op) => {
                    let to = op.destination.clone().account_id();
                    self.note(&op.asset, Some(&source), Some(&to), op.amount);
                }
                OperationBody::CreateClaimableBalance(op) => self.note(&op.asset, Some(&source), None, op.amount),
                OperationBody::Clawback(op) => self.note(&op.asset, None, Some(&source), op.amount),
                OperationBody::ClaimClaimableBalance(_) | OperationBody::ClawbackClaimableBalance(_) => {
                    for change in changes.get(index).into_iter().flat_map(|c| c.0.iter()) {
                        if let LedgerEntryChange::State(entry) = change
                            && let LedgerEntryData::ClaimableBalance(balance) = &entry.data
                        {
                            self.note(&balance.asset, None, Some(&source), balance.amount);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The results of a transaction's operations, if they were reached.
pub(crate) fn operations_of(result: &TransactionResult) -> Option<&[OperationResult]> {
    use stellar_xdr::InnerTransactionResultResult as Inner;
    match &result.result {
        TransactionResultResult::TxSuccess(ops) | TransactionResultResult::TxFailed(ops) => Some(ops.as_slice()),
        TransactionResultResult::TxFeeBumpInnerSuccess(pair) | TransactionResultResult::TxFeeBumpInnerFailed(pair) => {
            match &pair.result.result {
                Inner::TxSuccess(ops) | Inner::TxFailed(ops) => Some(ops.as_slice()),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What a merge moved.
pub(crate) fn merged_balance(result: Option<&OperationResult>) -> Option<i64> {
    match result {
        Some(OperationResult::OpInner(OperationResultTr::AccountMerge(stellar_xdr::AccountMergeResult::Success(
            balance,
        )))) => Some(*balance),
        _ => None,
    }
}
