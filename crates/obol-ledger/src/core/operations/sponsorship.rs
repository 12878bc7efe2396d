//! Sponsored reserves (CAP-33): begin, end, revoke.

use stellar_xdr::{
    AccountEntry, AccountId, BeginSponsoringFutureReservesOp, BeginSponsoringFutureReservesResult as Begin,
    EndSponsoringFutureReservesResult as End, LedgerEntry, LedgerEntryData, LedgerKey, OperationResultTr as Tr,
    RevokeSponsorshipOp, RevokeSponsorshipOpSigner, RevokeSponsorshipResult as Revoke, SponsorshipDescriptor,
    TrustLineAsset,
};

use super::{Failure, reserve_failure};
use crate::core::account::{asset_is_valid, ext_v2_mut, issuer, signer_sponsors, text_is_valid};
use crate::core::reserve::{self, Refused};
use crate::core::state::Txn;

pub fn check_begin(source: &AccountId, op: &BeginSponsoringFutureReservesOp) -> Result<(), Begin> {
    if op.sponsored_id == *source {
        Err(Begin::Malformed)
    } else {
        Ok(())
    }
}

pub fn begin(txn: &mut Txn<'_>, source: &AccountId, op: &BeginSponsoringFutureReservesOp) -> Result<(), Begin> {
    if txn.sponsor_of(&op.sponsored_id).is_some() {
        return Err(Begin::AlreadySponsored);
    }
    if txn.sponsor_of(source).is_some() || txn.is_sponsoring(&op.sponsored_id) {
        return Err(Begin::Recursive);
    }
    txn.set_sponsor(&op.sponsored_id, Some(source.clone()));
    Ok(())
}

pub fn end(txn: &mut Txn<'_>, source: &AccountId) -> Result<(), End> {
    if txn.sponsor_of(source).is_none() {
        return Err(End::NotSponsored);
    }
    txn.set_sponsor(source, None);
    Ok(())
}

pub fn check_revoke(op: &RevokeSponsorshipOp) -> Result<(), Revoke> {
    let RevokeSponsorshipOp::LedgerEntry(key) = op else {
        return Ok(());
    };
    let fine = match key {
        LedgerKey::Account(_) | LedgerKey::ClaimableBalance(_) => true,
        LedgerKey::Trustline(line) => match &line.asset {
            TrustLineAsset::Native => false,
            TrustLineAsset::PoolShare(_) => true,
            TrustLineAsset::CreditAlphanum4(a) => {
                let asset = stellar_xdr::Asset::CreditAlphanum4(a.clone());
                asset_is_valid(&asset) && issuer(&asset) != Some(&line.account_id)
            }
            TrustLineAsset::CreditAlphanum12(a) => {
                let asset = stellar_xdr::Asset::CreditAlphanum12(a.clone());
                asset_is_valid(&asset) && issuer(&asset) != Some(&line.account_id)
            }
        },
        LedgerKey::Offer(offer) => offer.offer_id > 0,
        LedgerKey::Data(data) => !data.data_name.0.is_empty() && text_is_valid(data.data_name.0.as_slice()),
        _ => false,
    };
    if fine { Ok(()) } else { Err(Revoke::Malformed) }
}

/// Reserves of an entry.
fn reserves(entry: &LedgerEntry) -> u32 {
    match &entry.data {
        LedgerEntryData::Account(_) => 2,
        LedgerEntryData::ClaimableBalance(balance) => balance.claimants.len() as u32,
        _ => 1,
    }
}

/// Who owns an entry: of a claimable balance, its sponsor.
fn owner(entry: &LedgerEntry) -> Option<AccountId> {
    match &entry.data {
        LedgerEntryData::Account(account) => Some(account.account_id.clone()),
        LedgerEntryData::Trustline(line) => Some(line.account_id.clone()),
        LedgerEntryData::Offer(offer) => Some(offer.seller_id.clone()),
        LedgerEntryData::Data(data) => Some(data.account_id.clone()),
        LedgerEntryData::ClaimableBalance(_) => reserve::sponsor(&entry.ext).cloned(),
        _ => None,
    }
}

fn fail(code: Revoke) -> Failure {
    stellar_xdr::OperationResult::OpInner(Tr::RevokeSponsorship(code))
}

fn refused(refused: Refused) -> Failure {
    reserve_failure(refused, Tr::RevokeSponsorship(Revoke::LowReserve))
}

/// Moves `count` reserves of `of` (none for a claimable balance) from one sponsor to another; `None` is the owner itself. Checks
/// before it writes.
fn transfer(
    txn: &mut Txn<'_>,
    of: Option<&AccountId>,
    count: u32,
    from: Option<&AccountId>,
    to: Option<&AccountId>,
) -> Result<(), Failure> {
    let gone = || fail(Revoke::DoesNotExist);
    let account = |txn: &Txn<'_>, id: &AccountId| -> Option<AccountEntry> { txn.peek_account(id).cloned() };
    let delta = i64::from(count);
    match to {
        Some(sponsor) => {
            // A transfer leaves the owner's own count as it is.
            let owned = match (from, of) {
                (None, Some(id)) => Some(account(txn, id).ok_or_else(gone)?),
                _ => None,
            };
            let sponsor = account(txn, sponsor).ok_or_else(gone)?;
            reserve::can_sponsor(txn, &sponsor, owned.as_ref(), count).map_err(refused)?;
        }
        None => {
            if let Some(id) = of {
                let owned = account(txn, id).ok_or_else(gone)?;
                reserve::can_unsponsor(txn, &owned, count).map_err(refused)?;
            }
        }
    }
    for (sponsor, delta) in [(from, -delta), (to, delta)] {
        if let Some(mut loaded) = sponsor.and_then(|id| txn.load_account(id)) {
            reserve::add_sponsoring(&mut loaded.data, delta);
            txn.save(loaded);
        }
    }
    let own = match (from, to) {
        (None, Some(_)) => delta,
        (Some(_), None) => -delta,
        _ => 0,
    };
    if own != 0
        && let Some(mut loaded) = of.and_then(|id| txn.load_account(id))
    {
        reserve::add_sponsored(&mut loaded.data, own);
        txn.save(loaded);
    }
    Ok(())
}

pub fn revoke(txn: &mut Txn<'_>, source: &AccountId, op: &RevokeSponsorshipOp) -> Result<(), Failure> {
    match op {
        RevokeSponsorshipOp::LedgerEntry(key) => revoke_entry(txn, source, key),
        RevokeSponsorshipOp::Signer(signer) => revoke_signer(txn, source, signer),
    }
}

fn revoke_entry(txn: &mut Txn<'_>, source: &AccountId, key: &LedgerKey) -> Result<(), Failure> {
    let entry = txn.load(key).ok_or_else(|| fail(Revoke::DoesNotExist))?;
    let was = reserve::sponsor(&entry.ext).cloned();
    let owner = owner(&entry);
    if was.as_ref().or(owner.as_ref()) != Some(source) {
        return Err(fail(Revoke::NotSponsor));
    }
    let will = txn.sponsor_of(source).filter(|sponsor| Some(sponsor) != owner.as_ref());
    if was.is_none() && will.is_none() {
        return Ok(());
    }
    let claimable = matches!(entry.data, LedgerEntryData::ClaimableBalance(_));
    if claimable && will.is_none() {
        return Err(fail(Revoke::OnlyTransferable));
    }
    let of = if claimable { None } else { owner.as_ref() };
    transfer(txn, of, reserves(&entry), was.as_ref(), will.as_ref())?;
    // Read again: the entry may be the owner's account itself, whose counters just changed.
    if let Some(mut entry) = txn.load(key) {
        reserve::set_sponsor(&mut entry.ext, will);
        txn.store(entry);
    }
    Ok(())
}

fn revoke_signer(txn: &mut Txn<'_>, source: &AccountId, op: &RevokeSponsorshipOpSigner) -> Result<(), Failure> {
    let missing = || fail(Revoke::DoesNotExist);
    let account = txn.load_account(&op.account_id).ok_or_else(missing)?;
    let index = account
        .data
        .signers
        .iter()
        .position(|s| s.key == op.signer_key)
        .ok_or_else(missing)?;
    let was = signer_sponsors(&account.data).get(index).and_then(|s| s.0.clone());
    if was.as_ref().unwrap_or(&op.account_id) != source {
        return Err(fail(Revoke::NotSponsor));
    }
    let will = txn.sponsor_of(source).filter(|sponsor| *sponsor != op.account_id);
    if was.is_none() && will.is_none() {
        return Ok(());
    }
    transfer(txn, Some(&op.account_id), 1, was.as_ref(), will.as_ref())?;
    if let Some(mut account) = txn.load_account(&op.account_id) {
        let v2 = ext_v2_mut(&mut account.data);
        if let Some(slot) = v2.signer_sponsoring_i_ds.iter_mut().nth(index) {
            *slot = SponsorshipDescriptor(will);
        }
        txn.save(account);
    }
    Ok(())
}
