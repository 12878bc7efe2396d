//! Ledger entries in XDR, as Stellar RPC gives them, put together to an account.

use obol_cell::{AccountId, Asset, Stroops};
use stellar_xdr::{self as xdr, Limits, ReadXdr as _, WriteXdr as _};

use super::{AccountState, BadReply, Holding, IssuerFlags, SignerEntry, TrustLine};
use crate::asset::{account_to_xdr, asset_from_xdr, asset_to_xdr};

/// An account's entry with twenty sponsored signers is far below this.
const LARGEST_ENTRY: Limits = Limits {
    depth: 32,
    len: 64 * 1024,
};

/// The data entry that says whether payments need a memo (SEP-29).
const MEMO_REQUIRED: &str = "config.memo_required";

/// The keys of everything that is read of an account: itself, whether it asks for memos, and its lines to `assets`.
/// Base64 XDR.
pub(super) fn keys(account: &AccountId, assets: &[Asset]) -> Result<Vec<String>, BadReply> {
    let account_id = account_to_xdr(account);
    let name = MEMO_REQUIRED.try_into().map_err(|_| BadReply::Field("keys"))?;
    let mut keys = vec![
        xdr::LedgerKey::Account(xdr::LedgerKeyAccount {
            account_id: account_id.clone(),
        }),
        xdr::LedgerKey::Data(xdr::LedgerKeyData {
            account_id: account_id.clone(),
            data_name: xdr::String64(name),
        }),
    ];
    for asset in assets {
        let asset = match asset_to_xdr(asset).map_err(|_| BadReply::Field("keys"))? {
            xdr::Asset::Native => continue,
            xdr::Asset::CreditAlphanum4(a) => xdr::TrustLineAsset::CreditAlphanum4(a),
            xdr::Asset::CreditAlphanum12(a) => xdr::TrustLineAsset::CreditAlphanum12(a),
        };
        keys.push(xdr::LedgerKey::Trustline(xdr::LedgerKeyTrustLine {
            account_id: account_id.clone(),
            asset,
        }));
    }
    keys.iter()
        .map(|key| key.to_xdr_base64(Limits::none()).map_err(|_| BadReply::Field("keys")))
        .collect()
}

/// One entry of an answer.
pub(super) struct Entry {
    data: xdr::LedgerEntryData,
    /// Whether another account pays its reserve, where the server says so.
    sponsored: Option<bool>,
}

impl Entry {
    /// Reads the entry's data, and its extension where there is one (base64 XDR).
    pub(super) fn read(data: &str, ext: Option<&str>) -> Result<Entry, BadReply> {
        let data =
            xdr::LedgerEntryData::from_xdr_base64(data, LARGEST_ENTRY).map_err(|_| BadReply::Field("entries.xdr"))?;
        let sponsored = ext
            .map(|ext| {
                xdr::LedgerEntryExt::from_xdr_base64(ext, LARGEST_ENTRY).map_err(|_| BadReply::Field("entries.extXdr"))
            })
            .transpose()?
            .map(|ext| match ext {
                xdr::LedgerEntryExt::V0 => false,
                xdr::LedgerEntryExt::V1(v1) => v1.sponsoring_id.0.is_some(),
            });
        Ok(Entry { data, sponsored })
    }
}

/// The account that these entries are of; `None` when its own is not among them.
///
/// # Errors
/// When an entry is of another account, or holds what no ledger does.
pub(super) fn account(id: AccountId, entries: Vec<Entry>) -> Result<Option<AccountState>, BadReply> {
    let of_another = |account: &xdr::AccountId| *account != account_to_xdr(&id);
    let mut state = None;
    let mut lines = Vec::new();
    let mut memo_required = false;
    for Entry { data, sponsored } in entries {
        match data {
            xdr::LedgerEntryData::Account(entry) => {
                if of_another(&entry.account_id) {
                    return Err(BadReply::Field("entries.account"));
                }
                state = Some(account_state(id, &entry)?);
            }
            xdr::LedgerEntryData::Trustline(line) => {
                if of_another(&line.account_id) {
                    return Err(BadReply::Field("entries.trustline"));
                }
                lines.extend(trust_line(&line)?.map(|line| (line, sponsored)));
            }
            xdr::LedgerEntryData::Data(data) => {
                if of_another(&data.account_id) {
                    return Err(BadReply::Field("entries.data"));
                }
                memo_required |=
                    data.data_name.0.as_slice() == MEMO_REQUIRED.as_bytes() && data.data_value.0.as_slice() == b"1";
            }
            _ => return Err(BadReply::Field("entries")),
        }
    }
    let Some(mut state) = state else { return Ok(None) };
    state.memo_required = memo_required;
    for (mut line, sponsored) in lines {
        // A server that does not say leaves only this: something of the account is sponsored, perhaps the line.
        line.sponsored = sponsored.unwrap_or(state.sponsored > 0);
        state.lines.push(line);
    }
    Ok(Some(state))
}

fn amount(stroops: i64, field: &'static str) -> Result<Stroops, BadReply> {
    Stroops::new(stroops).map_err(|_| BadReply::Field(field))
}

fn holding(balance: i64, liabilities: Option<&xdr::Liabilities>) -> Result<Holding, BadReply> {
    Ok(Holding {
        balance: amount(balance, "balance")?,
        buying: amount(liabilities.map_or(0, |l| l.buying), "liabilities")?,
        selling: amount(liabilities.map_or(0, |l| l.selling), "liabilities")?,
    })
}

fn account_state(id: AccountId, entry: &xdr::AccountEntry) -> Result<AccountState, BadReply> {
    let v1 = match &entry.ext {
        xdr::AccountEntryExt::V0 => None,
        xdr::AccountEntryExt::V1(v1) => Some(v1),
    };
    let (sponsored, sponsoring) = match v1.map(|v1| &v1.ext) {
        Some(xdr::AccountEntryExtensionV1Ext::V2(v2)) => (v2.num_sponsored, v2.num_sponsoring),
        _ => (0, 0),
    };
    let [master, low, medium, high] = entry.thresholds.0;
    let mut signers = Vec::with_capacity(entry.signers.len() + 1);
    if master != 0 {
        signers.push(SignerEntry {
            key: Some(id),
            weight: master.into(),
        });
    }
    signers.extend(entry.signers.iter().map(|signer| SignerEntry {
        key: match &signer.key {
            xdr::SignerKey::Ed25519(key) => Some(AccountId(key.0)),
            _ => None,
        },
        weight: signer.weight,
    }));
    let domain = String::from_utf8_lossy(entry.home_domain.0.as_slice()).into_owned();
    let flag = |bit: xdr::AccountFlags| entry.flags & bit as u32 != 0;
    Ok(AccountState {
        id,
        sequence: entry.seq_num.0,
        lumens: holding(entry.balance, v1.map(|v1| &v1.liabilities))?,
        subentries: entry.num_sub_entries,
        sponsoring,
        sponsored,
        thresholds: [low, medium, high],
        signers,
        flags: IssuerFlags {
            auth_required: flag(xdr::AccountFlags::RequiredFlag),
            auth_revocable: flag(xdr::AccountFlags::RevocableFlag),
            auth_immutable: flag(xdr::AccountFlags::ImmutableFlag),
            clawback_enabled: flag(xdr::AccountFlags::ClawbackEnabledFlag),
        },
        lines: Vec::new(),
        home_domain: Some(domain).filter(|domain| !domain.is_empty()),
        memo_required: false,
    })
}

/// A line to an asset; `None` for pool shares.
fn trust_line(entry: &xdr::TrustLineEntry) -> Result<Option<TrustLine>, BadReply> {
    let asset = match &entry.asset {
        xdr::TrustLineAsset::CreditAlphanum4(a) => xdr::Asset::CreditAlphanum4(a.clone()),
        xdr::TrustLineAsset::CreditAlphanum12(a) => xdr::Asset::CreditAlphanum12(a.clone()),
        xdr::TrustLineAsset::Native | xdr::TrustLineAsset::PoolShare(_) => return Ok(None),
    };
    let liabilities = match &entry.ext {
        xdr::TrustLineEntryExt::V0 => None,
        xdr::TrustLineEntryExt::V1(v1) => Some(&v1.liabilities),
    };
    let flag = |bit: xdr::TrustLineFlags| entry.flags & bit as u32 != 0;
    Ok(Some(TrustLine {
        asset: asset_from_xdr(&asset).ok_or(BadReply::Field("entries.trustline"))?,
        holding: holding(entry.balance, liabilities)?,
        limit: amount(entry.limit, "limit")?,
        authorized: flag(xdr::TrustLineFlags::AuthorizedFlag),
        clawback: flag(xdr::TrustLineFlags::TrustlineClawbackEnabledFlag),
        sponsored: false,
    }))
}
