//! Balances, reserves, flags and extensions of one account or trust line.
//!
//! All amounts are stroops (`i64`, 1e-7 of the asset). Sums are checked: a failed sum is `false`, and the operation names it
//! (`underfunded`, `line_full`).

use stellar_xdr::{
    AccountEntry, AccountEntryExt, AccountEntryExtensionV1, AccountEntryExtensionV1Ext, AccountEntryExtensionV2,
    AccountEntryExtensionV2Ext, AccountEntryExtensionV3, AccountFlags, AccountId, Asset, ExtensionPoint, LedgerHeader,
    Liabilities, PublicKey, SponsorshipDescriptor, Thresholds, TrustLineEntry, TrustLineEntryExt, TrustLineEntryV1,
    TrustLineFlags, Uint256,
};

/// Bit of an account: trust lines of its assets start unauthorised.
pub const AUTH_REQUIRED: u32 = AccountFlags::RequiredFlag as u32;
/// Bit of an account: its authorisations can be revoked.
pub const AUTH_REVOCABLE: u32 = AccountFlags::RevocableFlag as u32;
/// Bit of an account: no flag can change any more, nor can the account be merged.
pub const AUTH_IMMUTABLE: u32 = AccountFlags::ImmutableFlag as u32;
/// Bit of an account: new trust lines of its assets can be clawed back.
pub const AUTH_CLAWBACK: u32 = AccountFlags::ClawbackEnabledFlag as u32;
/// Every flag an account may have.
pub const ACCOUNT_FLAGS: u32 = AUTH_REQUIRED | AUTH_REVOCABLE | AUTH_IMMUTABLE | AUTH_CLAWBACK;

/// Bit of a trust line: fully authorised.
pub const LINE_AUTHORIZED: u32 = TrustLineFlags::AuthorizedFlag as u32;
/// Bit of a trust line: may keep what it has on offer, not receive or send.
pub const LINE_MAINTAIN: u32 = TrustLineFlags::AuthorizedToMaintainLiabilitiesFlag as u32;
/// Bit of a trust line: the issuer can claw back.
pub const LINE_CLAWBACK: u32 = TrustLineFlags::TrustlineClawbackEnabledFlag as u32;
/// Every flag a trust line may have.
pub const LINE_FLAGS: u32 = LINE_AUTHORIZED | LINE_MAINTAIN | LINE_CLAWBACK;

/// The raw Ed25519 key of an account.
pub fn raw_key(id: &AccountId) -> &[u8; 32] {
    let PublicKey::PublicKeyTypeEd25519(Uint256(key)) = &id.0;
    key
}

/// The account of a raw Ed25519 key.
pub fn account_id(key: [u8; 32]) -> AccountId {
    AccountId(PublicKey::PublicKeyTypeEd25519(Uint256(key)))
}

/// The issuer of an asset; the native asset has none.
pub fn issuer(asset: &Asset) -> Option<&AccountId> {
    match asset {
        Asset::Native => None,
        Asset::CreditAlphanum4(a) => Some(&a.issuer),
        Asset::CreditAlphanum12(a) => Some(&a.issuer),
    }
}

/// Whether an asset's code is well formed: ASCII letters and digits, zero-padded at the end; 1 to 4 of them in a short code, 5 to
/// 12 in a long one.
pub fn asset_is_valid(asset: &Asset) -> bool {
    fn code(bytes: &[u8], least: usize) -> bool {
        let used = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        used >= least
            && bytes.iter().take(used).all(u8::is_ascii_alphanumeric)
            && bytes.iter().skip(used).all(|b| *b == 0)
    }
    match asset {
        Asset::Native => true,
        Asset::CreditAlphanum4(a) => code(&a.asset_code.0, 1),
        Asset::CreditAlphanum12(a) => code(&a.asset_code.0, 5),
    }
}

/// Whether a home domain or data name consists of printable ASCII.
pub fn text_is_valid(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii() && !b.is_ascii_control())
}

/// A new account as `CreateAccount` makes it.
pub fn new_account(id: AccountId, balance: i64, sequence: i64) -> AccountEntry {
    AccountEntry {
        account_id: id,
        balance,
        seq_num: stellar_xdr::SequenceNumber(sequence),
        num_sub_entries: 0,
        inflation_dest: None,
        flags: 0,
        home_domain: Default::default(),
        thresholds: Thresholds([1, 0, 0, 0]),
        signers: Default::default(),
        ext: AccountEntryExt::V0,
    }
}

/// The first sequence number an account created in `ledger` has, and the bound of the merge rule.
pub fn starting_sequence(ledger: u32) -> i64 {
    i64::from(ledger) << 32
}

fn ext_v2(account: &AccountEntry) -> Option<&AccountEntryExtensionV2> {
    match &account.ext {
        AccountEntryExt::V1(AccountEntryExtensionV1 {
            ext: AccountEntryExtensionV1Ext::V2(v2),
            ..
        }) => Some(v2),
        _ => None,
    }
}

/// The extension that counts sponsorships, if the account has it.
pub fn has_ext_v2(account: &AccountEntry) -> bool {
    ext_v2(account).is_some()
}

/// The extension that counts sponsorships, added if missing.
pub fn ext_v2_mut(account: &mut AccountEntry) -> &mut AccountEntryExtensionV2 {
    if matches!(account.ext, AccountEntryExt::V0) {
        account.ext = AccountEntryExt::V1(AccountEntryExtensionV1 {
            liabilities: Liabilities { buying: 0, selling: 0 },
            ext: AccountEntryExtensionV1Ext::V0,
        });
    }
    let signers = account.signers.len();
    let AccountEntryExt::V1(v1) = &mut account.ext else {
        unreachable!("just set to V1");
    };
    if matches!(v1.ext, AccountEntryExtensionV1Ext::V0) {
        v1.ext = AccountEntryExtensionV1Ext::V2(AccountEntryExtensionV2 {
            num_sponsored: 0,
            num_sponsoring: 0,
            signer_sponsoring_i_ds: vec![SponsorshipDescriptor(None); signers]
                .try_into()
                .unwrap_or_default(),
            ext: AccountEntryExtensionV2Ext::V0,
        });
    }
    let AccountEntryExtensionV1Ext::V2(v2) = &mut v1.ext else {
        unreachable!("just set to V2");
    };
    v2
}

/// Notes that the account's sequence number was set in this ledger (CAP-21): what `min_seq_age` and `min_seq_ledger_gap` count from.
pub fn touch_sequence(header: &LedgerHeader, account: &mut AccountEntry) {
    if header.ledger_version < 19 {
        return;
    }
    ext_v2_mut(account).ext = AccountEntryExtensionV2Ext::V3(AccountEntryExtensionV3 {
        ext: ExtensionPoint::V0,
        seq_ledger: header.ledger_seq,
        seq_time: header.scp_value.close_time.clone(),
    });
}

/// The ledger and the close time (unix seconds) in which the sequence number was last set; zeros if never.
pub fn sequence_touched(account: &AccountEntry) -> (u32, u64) {
    match ext_v2(account).map(|v2| &v2.ext) {
        Some(AccountEntryExtensionV2Ext::V3(v3)) => (v3.seq_ledger, v3.seq_time.0),
        _ => (0, 0),
    }
}

/// Reserves this account pays for others.
pub fn num_sponsoring(account: &AccountEntry) -> u32 {
    ext_v2(account).map_or(0, |v2| v2.num_sponsoring)
}

/// Reserves of this account that others pay.
pub fn num_sponsored(account: &AccountEntry) -> u32 {
    ext_v2(account).map_or(0, |v2| v2.num_sponsored)
}

/// Who sponsors the account's signers, in their order; empty when nobody ever did.
pub fn signer_sponsors(account: &AccountEntry) -> &[SponsorshipDescriptor] {
    ext_v2(account).map_or(&[], |v2| v2.signer_sponsoring_i_ds.as_slice())
}

/// What is bound by offers: (buying, selling).
pub fn liabilities(account: &AccountEntry) -> (i64, i64) {
    match &account.ext {
        AccountEntryExt::V0 => (0, 0),
        AccountEntryExt::V1(v1) => (v1.liabilities.buying, v1.liabilities.selling),
    }
}

/// The balance an account must keep: (2 + sub-entries + sponsoring - sponsored) base reserves.
pub fn min_balance(header: &LedgerHeader, account: &AccountEntry) -> i64 {
    let entries =
        2 + i64::from(account.num_sub_entries) + i64::from(num_sponsoring(account)) - i64::from(num_sponsored(account));
    entries.saturating_mul(i64::from(header.base_reserve))
}

/// What an account can spend: its balance over the reserve and what it has on offer. Negative when below its reserve.
pub fn available_balance(header: &LedgerHeader, account: &AccountEntry) -> i64 {
    account.balance - min_balance(header, account) - liabilities(account).1
}

/// Adds `delta` stroops; false (and nothing changed) if the balance would overflow or, for a payment out, fall below the reserve.
pub fn add_balance(header: &LedgerHeader, account: &mut AccountEntry, delta: i64) -> bool {
    let Some(balance) = account.balance.checked_add(delta).filter(|b| *b >= 0) else {
        return false;
    };
    let (buying, selling) = liabilities(account);
    if delta < 0 && balance - min_balance(header, account) < selling {
        return false;
    }
    if balance > i64::MAX - buying {
        return false;
    }
    account.balance = balance;
    true
}

/// What is bound by offers on a trust line: (buying, selling).
pub fn line_liabilities(line: &TrustLineEntry) -> (i64, i64) {
    match &line.ext {
        TrustLineEntryExt::V0 => (0, 0),
        TrustLineEntryExt::V1(TrustLineEntryV1 { liabilities, .. }) => (liabilities.buying, liabilities.selling),
    }
}

/// Adds `delta` to a trust line; false (and nothing changed) if it would leave `0..=limit`, offers counted.
pub fn add_line_balance(line: &mut TrustLineEntry, delta: i64) -> bool {
    let (buying, selling) = line_liabilities(line);
    let Some(balance) = line.balance.checked_add(delta) else {
        return false;
    };
    if balance < 0 || balance > line.limit || balance < selling || balance > line.limit - buying {
        return false;
    }
    line.balance = balance;
    true
}

/// Whether a trust line may send and receive.
pub fn is_authorized(line: &TrustLineEntry) -> bool {
    line.flags & LINE_AUTHORIZED != 0
}

/// Whether a set of trust line flags makes sense: authorised and authorised-to-maintain exclude each other.
pub fn line_flags_are_valid(flags: u32) -> bool {
    flags & !LINE_FLAGS == 0 && flags & (LINE_AUTHORIZED | LINE_MAINTAIN) != (LINE_AUTHORIZED | LINE_MAINTAIN)
}
