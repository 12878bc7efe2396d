//! Accounts: create, set options, merge, bump sequence, data entries.

use stellar_xdr::{
    AccountEntry, AccountId, AccountMergeResult, BumpSequenceOp, BumpSequenceResult, CreateAccountOp,
    CreateAccountResult, DataEntry, DataEntryExt, ManageDataOp, ManageDataResult, MuxedAccount, OperationResult,
    OperationResultTr as Tr, SetOptionsOp, SetOptionsResult, Signer, SignerKey, Uint256,
};

use super::{Failure, account_of, reserve_failure};
use crate::core::account::{
    ACCOUNT_FLAGS, AUTH_CLAWBACK, AUTH_IMMUTABLE, AUTH_REVOCABLE, add_balance, available_balance, new_account,
    num_sponsoring, raw_key, starting_sequence, text_is_valid, touch_sequence,
};
use crate::core::reserve;
use crate::core::state::{Loaded, Txn, account_key, data_key};

/// At most so many signers besides the master key.
const MAX_SIGNERS: usize = 20;

fn load_source(txn: &mut Txn<'_>, source: &AccountId) -> Result<Loaded<AccountEntry>, Failure> {
    txn.load_account(source).ok_or(OperationResult::OpNoAccount)
}

pub fn check_create(source: &AccountId, op: &CreateAccountOp) -> Result<(), CreateAccountResult> {
    // A balance of zero is well formed since protocol 14: a sponsor may pay the reserve.
    if op.starting_balance < 0 || op.destination == *source {
        return Err(CreateAccountResult::Malformed);
    }
    Ok(())
}

pub fn create(txn: &mut Txn<'_>, source: &AccountId, op: &CreateAccountOp) -> Result<(), Failure> {
    let fail = |code| OperationResult::OpInner(Tr::CreateAccount(code));
    if txn.peek_account(&op.destination).is_some() {
        return Err(fail(CreateAccountResult::AlreadyExist));
    }
    let sequence = starting_sequence(txn.header.ledger_seq);
    let mut account = Loaded::new(new_account(op.destination.clone(), op.starting_balance, sequence));
    reserve::take_account(txn, &mut account)
        .map_err(|refused| reserve_failure(refused, Tr::CreateAccount(CreateAccountResult::LowReserve)))?;
    let mut payer = load_source(txn, source)?;
    if available_balance(&txn.header, &payer.data) < op.starting_balance
        || !add_balance(&txn.header, &mut payer.data, -op.starting_balance)
    {
        return Err(fail(CreateAccountResult::Underfunded));
    }
    txn.save(payer);
    txn.save(account);
    Ok(())
}

pub fn check_options(source: &AccountId, op: &SetOptionsOp) -> Result<(), SetOptionsResult> {
    let (set, clear) = (op.set_flags.unwrap_or(0), op.clear_flags.unwrap_or(0));
    if set & !ACCOUNT_FLAGS != 0 || clear & !ACCOUNT_FLAGS != 0 {
        return Err(SetOptionsResult::UnknownFlag);
    }
    if set & clear != 0 {
        return Err(SetOptionsResult::BadFlags);
    }
    let weights = [op.master_weight, op.low_threshold, op.med_threshold, op.high_threshold];
    if weights.into_iter().flatten().any(|w| w > 255) {
        return Err(SetOptionsResult::ThresholdOutOfRange);
    }
    if let Some(signer) = &op.signer {
        let itself = signer.key == SignerKey::Ed25519(Uint256(*raw_key(source)));
        let empty = matches!(&signer.key, SignerKey::Ed25519SignedPayload(p) if p.payload.is_empty());
        if itself || empty || signer.weight > 255 {
            return Err(SetOptionsResult::BadSigner);
        }
    }
    if op
        .home_domain
        .as_ref()
        .is_some_and(|domain| !text_is_valid(domain.0.as_slice()))
    {
        return Err(SetOptionsResult::InvalidHomeDomain);
    }
    Ok(())
}

pub fn set_options(txn: &mut Txn<'_>, source: &AccountId, op: &SetOptionsOp) -> Result<(), Failure> {
    let fail = |code| OperationResult::OpInner(Tr::SetOptions(code));
    let mut account = load_source(txn, source)?;
    if let Some(dest) = &op.inflation_dest {
        if txn.peek_account(dest).is_none() {
            return Err(fail(SetOptionsResult::InvalidInflation));
        }
        account.data.inflation_dest = Some(dest.clone());
    }
    let (set, clear) = (op.set_flags.unwrap_or(0), op.clear_flags.unwrap_or(0));
    // Every flag there is concerns authorisation, and none of them may change on an immutable account.
    if (set | clear) & ACCOUNT_FLAGS != 0 && account.data.flags & AUTH_IMMUTABLE != 0 {
        return Err(fail(SetOptionsResult::CantChange));
    }
    account.data.flags = (account.data.flags & !clear) | set;
    if account.data.flags & AUTH_CLAWBACK != 0 && account.data.flags & AUTH_REVOCABLE == 0 {
        return Err(fail(SetOptionsResult::AuthRevocableRequired));
    }
    if let Some(domain) = &op.home_domain {
        account.data.home_domain = domain.clone();
    }
    let weights = [op.master_weight, op.low_threshold, op.med_threshold, op.high_threshold];
    for (slot, weight) in account.data.thresholds.0.iter_mut().zip(weights) {
        if let Some(weight) = weight {
            *slot = weight.min(255) as u8;
        }
    }
    if let Some(signer) = &op.signer {
        set_signer(txn, &mut account, signer)?;
    }
    txn.save(account);
    Ok(())
}

fn set_signer(txn: &mut Txn<'_>, account: &mut Loaded<AccountEntry>, signer: &Signer) -> Result<(), Failure> {
    let found = account.data.signers.iter().position(|s| s.key == signer.key);
    match (found, signer.weight) {
        (Some(index), 0) => reserve::release_signer(txn, account, index),
        (None, 0) => {}
        (Some(index), weight) => {
            if let Some(known) = account.data.signers.iter_mut().nth(index) {
                known.weight = weight;
            }
        }
        (None, _) if account.data.signers.len() >= MAX_SIGNERS => {
            return Err(OperationResult::OpInner(Tr::SetOptions(
                SetOptionsResult::TooManySigners,
            )));
        }
        (None, _) => reserve::take_signer(txn, account, signer.clone())
            .map_err(|refused| reserve_failure(refused, Tr::SetOptions(SetOptionsResult::LowReserve)))?,
    }
    Ok(())
}

pub fn check_merge(source: &AccountId, to: &MuxedAccount) -> Result<(), AccountMergeResult> {
    if account_of(to) == *source {
        Err(AccountMergeResult::Malformed)
    } else {
        Ok(())
    }
}

/// Merges `source` into `to`; returns the balance that moved.
pub fn merge(txn: &mut Txn<'_>, source: &AccountId, to: &AccountId) -> Result<i64, AccountMergeResult> {
    if txn.load_account(to).is_none() {
        return Err(AccountMergeResult::NoAccount);
    }
    let Some(mut account) = txn.load_account(source) else {
        return Err(AccountMergeResult::NoAccount);
    };
    if account.data.flags & AUTH_IMMUTABLE != 0 {
        return Err(AccountMergeResult::ImmutableSet);
    }
    if account.data.num_sub_entries as usize != account.data.signers.len() {
        return Err(AccountMergeResult::HasSubEntries);
    }
    // Otherwise the account could be created again with a lower sequence number, and old transactions would be valid again.
    if account.data.seq_num.0 >= starting_sequence(txn.header.ledger_seq) {
        return Err(AccountMergeResult::SeqnumTooFar);
    }
    if txn.is_sponsoring(source) || num_sponsoring(&account.data) != 0 {
        return Err(AccountMergeResult::IsSponsor);
    }
    while let Some(last) = account.data.signers.len().checked_sub(1) {
        reserve::release_signer(txn, &mut account, last);
    }
    let balance = account.data.balance;
    let Some(mut into) = txn.load_account(to) else {
        return Err(AccountMergeResult::NoAccount);
    };
    if !add_balance(&txn.header, &mut into.data, balance) {
        return Err(AccountMergeResult::DestFull);
    }
    txn.save(into);
    reserve::release_account(txn, &account.ext);
    txn.erase(&account_key(source));
    Ok(balance)
}

pub fn check_bump(op: &BumpSequenceOp) -> Result<(), BumpSequenceResult> {
    if op.bump_to.0 < 0 {
        Err(BumpSequenceResult::BadSeq)
    } else {
        Ok(())
    }
}

pub fn bump_sequence(txn: &mut Txn<'_>, source: &AccountId, op: &BumpSequenceOp) {
    let Some(mut account) = txn.load_account(source) else {
        return;
    };
    // A lower target succeeds and changes nothing but the stamp.
    if op.bump_to.0 > account.data.seq_num.0 {
        account.data.seq_num = op.bump_to.clone();
    }
    touch_sequence(&txn.header, &mut account.data);
    txn.save(account);
}

pub fn check_data(op: &ManageDataOp) -> Result<(), ManageDataResult> {
    let name = op.data_name.0.as_slice();
    if name.is_empty() || !text_is_valid(name) {
        Err(ManageDataResult::InvalidName)
    } else {
        Ok(())
    }
}

pub fn manage_data(txn: &mut Txn<'_>, source: &AccountId, op: &ManageDataOp) -> Result<(), Failure> {
    let known = txn.load_data(source, &op.data_name);
    match (known, &op.data_value) {
        (Some(mut data), Some(value)) => {
            data.data.data_value = value.clone();
            txn.save(data);
        }
        (None, Some(value)) => {
            let mut owner = load_source(txn, source)?;
            let mut data = Loaded::new(DataEntry {
                account_id: source.clone(),
                data_name: op.data_name.clone(),
                data_value: value.clone(),
                ext: DataEntryExt::V0,
            });
            reserve::take_subentry(txn, &mut owner, &mut data.ext)
                .map_err(|refused| reserve_failure(refused, Tr::ManageData(ManageDataResult::LowReserve)))?;
            txn.save(owner);
            txn.save(data);
        }
        (Some(data), None) => {
            let mut owner = load_source(txn, source)?;
            reserve::release_subentry(txn, &mut owner, &data.ext);
            txn.save(owner);
            txn.erase(&data_key(source, &op.data_name));
        }
        (None, None) => return Err(OperationResult::OpInner(Tr::ManageData(ManageDataResult::NameNotFound))),
    }
    Ok(())
}
