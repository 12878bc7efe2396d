//! Who pays the reserve of an entry: its owner, or a sponsor (CAP-33).
//!
//! The sponsor is whoever began to sponsor the owner's future reserves in the same transaction. A claimable balance has no
//! owner and is sponsored by its creator.

use stellar_xdr::{
    AccountEntry, AccountId, LedgerEntryExt, LedgerEntryExtensionV1, LedgerEntryExtensionV1Ext, Signer,
    SponsorshipDescriptor,
};

use super::account::{
    available_balance, ext_v2_mut, has_ext_v2, min_balance, num_sponsored, num_sponsoring, signer_sponsors,
};
use super::state::{Loaded, Txn};

/// At most so many sub-entries on an account.
const SUBENTRY_LIMIT: u32 = 1000;

/// Why a reserve cannot be taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The owner or the sponsor has too few lumens.
    LowReserve,
    /// The owner has 1,000 sub-entries.
    TooManySubentries,
    /// A counter of sponsored reserves is full.
    TooManySponsoring,
}

/// The sponsor recorded on an entry.
pub fn sponsor(ext: &LedgerEntryExt) -> Option<&AccountId> {
    match ext {
        LedgerEntryExt::V0 => None,
        LedgerEntryExt::V1(v1) => v1.sponsoring_id.0.as_ref(),
    }
}

/// Records or removes the sponsor of an entry.
pub fn set_sponsor(ext: &mut LedgerEntryExt, sponsor: Option<AccountId>) {
    *ext = LedgerEntryExt::V1(LedgerEntryExtensionV1 {
        sponsoring_id: SponsorshipDescriptor(sponsor),
        ext: LedgerEntryExtensionV1Ext::V0,
    });
}

/// Whether `sponsor` can take on `count` reserves, of `owner` if there is one.
pub fn can_sponsor(
    txn: &Txn<'_>,
    sponsor: &AccountEntry,
    owner: Option<&AccountEntry>,
    count: u32,
) -> Result<(), Refused> {
    let reserve = i64::from(count) * i64::from(txn.header.base_reserve);
    if available_balance(&txn.header, sponsor) < reserve {
        return Err(Refused::LowReserve);
    }
    let room = |n: u32| n.checked_add(count).ok_or(Refused::TooManySponsoring).map(|_| ());
    room(num_sponsoring(sponsor))?;
    owner.map_or(Ok(()), |owner| room(num_sponsored(owner)))
}

/// Whether `owner` can pay for reserves that `sponsor` paid until now.
pub fn can_unsponsor(txn: &Txn<'_>, owner: &AccountEntry, count: u32) -> Result<(), Refused> {
    let reserve = i64::from(count) * i64::from(txn.header.base_reserve);
    if available_balance(&txn.header, owner) < reserve {
        Err(Refused::LowReserve)
    } else {
        Ok(())
    }
}

/// Adds to an account's count of reserves it pays for others.
pub fn add_sponsoring(account: &mut AccountEntry, delta: i64) {
    let v2 = ext_v2_mut(account);
    v2.num_sponsoring = (i64::from(v2.num_sponsoring) + delta).clamp(0, i64::from(u32::MAX)) as u32;
}

/// Adds to an account's count of its reserves that others pay.
pub fn add_sponsored(account: &mut AccountEntry, delta: i64) {
    let v2 = ext_v2_mut(account);
    v2.num_sponsored = (i64::from(v2.num_sponsored) + delta).clamp(0, i64::from(u32::MAX)) as u32;
}

/// Changes the sponsoring count of an account that is not at hand.
fn sponsor_account(txn: &mut Txn<'_>, id: &AccountId, delta: i64) {
    if let Some(mut account) = txn.load_account(id) {
        add_sponsoring(&mut account.data, delta);
        txn.save(account);
    }
}

/// Takes on the reserve of a new sub-entry (trust line, data entry) of `owner`, whose entry the caller stores afterwards;
/// `ext` is the new entry's.
pub fn take_subentry(
    txn: &mut Txn<'_>,
    owner: &mut Loaded<AccountEntry>,
    ext: &mut LedgerEntryExt,
) -> Result<(), Refused> {
    if owner.data.num_sub_entries >= SUBENTRY_LIMIT {
        return Err(Refused::TooManySubentries);
    }
    match txn.sponsor_of(&owner.data.account_id) {
        Some(id) => {
            let Some(sponsor) = txn.peek_account(&id).cloned() else {
                return Err(Refused::LowReserve);
            };
            can_sponsor(txn, &sponsor, Some(&owner.data), 1)?;
            sponsor_account(txn, &id, 1);
            add_sponsored(&mut owner.data, 1);
            set_sponsor(ext, Some(id));
        }
        None => {
            if available_balance(&txn.header, &owner.data) < i64::from(txn.header.base_reserve) {
                return Err(Refused::LowReserve);
            }
        }
    }
    owner.data.num_sub_entries += 1;
    Ok(())
}

/// Gives back the reserve of a sub-entry of `owner`; `ext` is the removed entry's.
pub fn release_subentry(txn: &mut Txn<'_>, owner: &mut Loaded<AccountEntry>, ext: &LedgerEntryExt) {
    if let Some(id) = sponsor(ext).cloned() {
        sponsor_account(txn, &id, -1);
        add_sponsored(&mut owner.data, -1);
    }
    owner.data.num_sub_entries = owner.data.num_sub_entries.saturating_sub(1);
}

/// Takes on the two reserves of a new account.
pub fn take_account(txn: &mut Txn<'_>, account: &mut Loaded<AccountEntry>) -> Result<(), Refused> {
    match txn.sponsor_of(&account.data.account_id) {
        Some(id) => {
            let Some(sponsor) = txn.peek_account(&id).cloned() else {
                return Err(Refused::LowReserve);
            };
            can_sponsor(txn, &sponsor, None, 2)?;
            sponsor_account(txn, &id, 2);
            add_sponsored(&mut account.data, 2);
            set_sponsor(&mut account.ext, Some(id));
            Ok(())
        }
        None if account.data.balance < min_balance(&txn.header, &account.data) => Err(Refused::LowReserve),
        None => Ok(()),
    }
}

/// Gives back the reserves of a removed account.
pub fn release_account(txn: &mut Txn<'_>, ext: &LedgerEntryExt) {
    if let Some(id) = sponsor(ext).cloned() {
        sponsor_account(txn, &id, -2);
    }
}

/// Takes on the reserves of a claimable balance, one per claimant; `creator` pays unless somebody sponsors it.
pub fn take_claimable(
    txn: &mut Txn<'_>,
    creator: &AccountId,
    claimants: u32,
    ext: &mut LedgerEntryExt,
) -> Result<(), Refused> {
    let id = txn.sponsor_of(creator).unwrap_or_else(|| creator.clone());
    let Some(sponsor) = txn.peek_account(&id).cloned() else {
        return Err(Refused::LowReserve);
    };
    can_sponsor(txn, &sponsor, None, claimants)?;
    sponsor_account(txn, &id, i64::from(claimants));
    set_sponsor(ext, Some(id));
    Ok(())
}

/// Gives back the reserves of a claimable balance.
pub fn release_claimable(txn: &mut Txn<'_>, claimants: u32, ext: &LedgerEntryExt) {
    if let Some(id) = sponsor(ext).cloned() {
        sponsor_account(txn, &id, -i64::from(claimants));
    }
}

/// Adds a signer at its sorted place and takes on its reserve.
pub fn take_signer(txn: &mut Txn<'_>, owner: &mut Loaded<AccountEntry>, signer: Signer) -> Result<(), Refused> {
    let mut signers = owner.data.signers.to_vec();
    let at = signers.partition_point(|s| s.key < signer.key);
    let mut none = LedgerEntryExt::V0;
    take_subentry(txn, owner, &mut none)?;
    let by = sponsor(&none).cloned();
    // The list of sponsors exists once any sponsorship or sequence stamp was recorded; it always matches the signers.
    if by.is_some() || has_ext_v2(&owner.data) {
        let v2 = ext_v2_mut(&mut owner.data);
        let mut sponsors = v2.signer_sponsoring_i_ds.to_vec();
        sponsors.insert(at.min(sponsors.len()), SponsorshipDescriptor(by));
        v2.signer_sponsoring_i_ds = sponsors.try_into().unwrap_or_default();
    }
    signers.insert(at, signer);
    owner.data.signers = signers.try_into().unwrap_or_default();
    Ok(())
}

/// Removes the signer at `index` and gives back its reserve.
pub fn release_signer(txn: &mut Txn<'_>, owner: &mut Loaded<AccountEntry>, index: usize) {
    let mut signers = owner.data.signers.to_vec();
    if index >= signers.len() {
        return;
    }
    let mut ext = LedgerEntryExt::V0;
    if let Some(SponsorshipDescriptor(Some(by))) = signer_sponsors(&owner.data).get(index) {
        set_sponsor(&mut ext, Some(by.clone()));
    }
    release_subentry(txn, owner, &ext);
    if has_ext_v2(&owner.data) {
        let v2 = ext_v2_mut(&mut owner.data);
        let mut sponsors = v2.signer_sponsoring_i_ds.to_vec();
        if index < sponsors.len() {
            sponsors.remove(index);
        }
        v2.signer_sponsoring_i_ds = sponsors.try_into().unwrap_or_default();
    }
    signers.remove(index);
    owner.data.signers = signers.try_into().unwrap_or_default();
}
