//! Accounts, assets and claimable balances as they are now.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use serde_json::{Map, Value, json};
use stellar_xdr::{
    AccountId, AlphaNum4, AlphaNum12, Asset, AssetCode4, AssetCode12, ClaimableBalanceEntry, Claimant, LedgerEntry,
    LedgerEntryData, Limits, TrustLineAsset, WriteXdr,
};

use super::problem::Problem;
use super::request::{Asked, account_id as read_account};
use super::{Answer, App, hal, operations, resources, stream};
use crate::core::account::{
    AUTH_CLAWBACK, AUTH_IMMUTABLE, AUTH_REQUIRED, AUTH_REVOCABLE, LINE_AUTHORIZED, LINE_MAINTAIN, account_id,
    asset_is_valid, raw_key,
};
use crate::core::reserve::sponsor;
use crate::core::state::{State as LedgerState, account_key, trust_line_key};
use crate::text;

fn one_account(app: &App, asked: &Asked, id: &AccountId) -> Result<Value, Problem> {
    let found = app.ledger.with_state(|state| {
        let modified = state
            .entries
            .get(&account_key(id))
            .map(|entry| entry.last_modified_ledger_seq);
        resources::account(asked, state, id).zip(modified)
    });
    let (mut account, modified) = found.ok_or_else(Problem::not_found)?;
    if let Some(ledger) = app.ledger.ledger(modified)? {
        account["last_modified_time"] = json!(text::time(ledger.header.scp_value.close_time.0));
    }
    Ok(account)
}

/// `GET /accounts/{id}`
pub async fn one(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let id = account_id(read_account("account_id", &id)?);
    let account = one_account(&app, &asked, &id)?;
    if !asked.stream {
        return Ok(hal(&account));
    }
    let (streaming, mut last) = (app.clone(), Value::Null);
    // The whole account again whenever something of it changed.
    Ok(stream::events(&app, asked.limit()?, move |_| {
        let account = one_account(&streaming, &asked, &id)?;
        if account == last {
            return Ok(Vec::new());
        }
        last = account.clone();
        Ok(vec![(
            account["paging_token"].as_str().unwrap_or_default().to_owned(),
            account,
        )])
    }))
}

/// `GET /accounts/{id}/data/{key}`
pub async fn data(State(app): State<App>, Path((id, key)): Path<(String, String)>, asked: Asked) -> Answer {
    let id = account_id(read_account("account_id", &id)?);
    let account = one_account(&app, &asked, &id)?;
    let value = account["data"].get(&key).cloned().ok_or_else(Problem::not_found)?;
    Ok(hal(&json!({ "value": value })))
}

/// Reads `native` or `CODE:ISSUER`.
fn read_asset(field: &str, value: &str) -> Result<Asset, Problem> {
    let bad = || Problem::bad_request(field, "Asset must be native or CODE:ISSUER");
    if value == "native" {
        return Ok(Asset::Native);
    }
    let (code, issuer) = value.split_once(':').ok_or_else(bad)?;
    let issuer = account_id(text::parse_account(issuer).ok_or_else(bad)?);
    let asset = if code.len() <= 4 {
        let mut asset_code = [0; 4];
        asset_code
            .iter_mut()
            .zip(code.bytes())
            .for_each(|(to, from)| *to = from);
        Asset::CreditAlphanum4(AlphaNum4 {
            asset_code: AssetCode4(asset_code),
            issuer,
        })
    } else if code.len() <= 12 {
        let mut asset_code = [0; 12];
        asset_code
            .iter_mut()
            .zip(code.bytes())
            .for_each(|(to, from)| *to = from);
        Asset::CreditAlphanum12(AlphaNum12 {
            asset_code: AssetCode12(asset_code),
            issuer,
        })
    } else {
        return Err(bad());
    };
    if asset_is_valid(&asset) { Ok(asset) } else { Err(bad()) }
}

/// Reads a signer's strkey by comparing: every type of signer has its own letter.
fn has_signer(state: &LedgerState, id: &AccountId, wanted: &str) -> bool {
    let Some(LedgerEntry {
        data: LedgerEntryData::Account(account),
        ..
    }) = state.entries.get(&account_key(id))
    else {
        return false;
    };
    let [master, ..] = account.thresholds.0;
    (master > 0 && text::account(id) == wanted) || account.signers.iter().any(|s| text::signer(&s.key).0 == wanted)
}

/// `GET /accounts?signer=|asset=|sponsor=`
pub async fn list(State(app): State<App>, asked: Asked) -> Answer {
    let (descending, limit) = (asked.descending()?, asked.limit()?);
    let signer = asked.get("signer").map(str::to_owned);
    if let Some(signer) = &signer
        && stellar_strkey::Strkey::from_string(signer).is_err()
    {
        return Err(Problem::bad_request("signer", "Signer must be a valid strkey"));
    }
    let asset = asked.get("asset").map(|value| read_asset("asset", value)).transpose()?;
    let by = asked
        .get("sponsor")
        .map(|value| read_account("sponsor", value))
        .transpose()?;
    if [signer.is_some(), asset.is_some(), by.is_some()]
        .into_iter()
        .filter(|given| *given)
        .count()
        != 1
    {
        return Err(Problem::bad_request(
            "filters",
            "Use exactly one of: signer, asset, sponsor",
        ));
    }
    let cursor = asked
        .get("cursor")
        .map(|value| read_account("cursor", value))
        .transpose()?;
    let records = app.ledger.with_state(|state| {
        let mut ids: Vec<AccountId> = state
            .entries
            .values()
            .filter_map(|entry| match &entry.data {
                LedgerEntryData::Account(account) => Some((&account.account_id, entry)),
                _ => None,
            })
            .filter(|(id, _)| signer.as_ref().is_none_or(|wanted| has_signer(state, id, wanted)))
            .filter(|(id, _)| {
                asset
                    .as_ref()
                    .is_none_or(|asset| state.entries.contains_key(&trust_line_key(id, asset)))
            })
            .filter(|(_, entry)| by.is_none_or(|by| sponsor(&entry.ext).is_some_and(|id| *raw_key(id) == by)))
            .map(|(id, _)| id.clone())
            .collect();
        if descending {
            ids.reverse();
        }
        ids.retain(|id| {
            cursor.is_none_or(|cursor| {
                if descending {
                    *raw_key(id) < cursor
                } else {
                    *raw_key(id) > cursor
                }
            })
        });
        ids.iter()
            .take(limit as usize)
            .filter_map(|id| resources::account(&asked, state, id))
            .collect()
    });
    Ok(hal(&resources::page(&asked, records, limit, descending)))
}

#[derive(Debug, Default)]
struct AssetSums {
    accounts: [u64; 3],
    balances: [i64; 3],
    claimable: (u64, i64),
}

/// `GET /assets?asset_code=&asset_issuer=`
pub async fn assets(State(app): State<App>, asked: Asked) -> Answer {
    let (descending, limit) = (asked.descending()?, asked.limit()?);
    let (code, issuer) = (asked.get("asset_code"), asked.get("asset_issuer"));
    if let Some(issuer) = issuer {
        read_account("asset_issuer", issuer)?;
    }
    let mut rows: Vec<(String, Value)> = app.ledger.with_state(|state| {
        let mut sums: BTreeMap<Asset, AssetSums> = BTreeMap::new();
        for entry in state.entries.values() {
            match &entry.data {
                LedgerEntryData::Trustline(line) => {
                    let asset = match &line.asset {
                        TrustLineAsset::CreditAlphanum4(a) => Asset::CreditAlphanum4(a.clone()),
                        TrustLineAsset::CreditAlphanum12(a) => Asset::CreditAlphanum12(a.clone()),
                        TrustLineAsset::Native | TrustLineAsset::PoolShare(_) => continue,
                    };
                    let sum = sums.entry(asset).or_default();
                    let class = match line.flags {
                        f if f & LINE_AUTHORIZED != 0 => 0,
                        f if f & LINE_MAINTAIN != 0 => 1,
                        _ => 2,
                    };
                    if let (Some(count), Some(total)) = (sum.accounts.get_mut(class), sum.balances.get_mut(class)) {
                        *count += 1;
                        *total = total.saturating_add(line.balance);
                    }
                }
                LedgerEntryData::ClaimableBalance(balance) if balance.asset != Asset::Native => {
                    let sum = sums.entry(balance.asset.clone()).or_default();
                    sum.claimable = (sum.claimable.0 + 1, sum.claimable.1.saturating_add(balance.amount));
                }
                _ => {}
            }
        }
        sums.iter()
            .filter_map(|(asset, sum)| asset_row(&asked, state, asset, sum))
            .filter(|(_, row)| code.is_none_or(|code| row["asset_code"] == code))
            .filter(|(_, row)| issuer.is_none_or(|issuer| row["asset_issuer"] == issuer))
            .collect()
    });
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if descending {
        rows.reverse();
    }
    let cursor = asked.get("cursor").unwrap_or_default();
    let after = |token: &str| cursor.is_empty() || if descending { token < cursor } else { token > cursor };
    let records = rows
        .into_iter()
        .filter(|(token, _)| after(token))
        .take(limit as usize)
        .map(|(_, row)| row)
        .collect();
    Ok(hal(&resources::page(&asked, records, limit, descending)))
}

fn asset_row(asked: &Asked, state: &LedgerState, asset: &Asset, sum: &AssetSums) -> Option<(String, Value)> {
    let (kind, Some((code, issuer))) = text::asset_parts(asset) else {
        return None;
    };
    let issuing = crate::core::account::issuer(asset).and_then(|id| state.entries.get(&account_key(id)));
    let (flags, domain) = match issuing.map(|entry| &entry.data) {
        Some(LedgerEntryData::Account(account)) => (account.flags, account.home_domain.0.to_utf8_string_lossy()),
        _ => (0, String::new()),
    };
    let toml = if domain.is_empty() {
        String::new()
    } else {
        format!("https://{domain}/.well-known/stellar.toml")
    };
    let token = format!("{code}_{issuer}_{kind}");
    let [authorized, maintain, unauthorized] = sum.balances;
    let row = json!({
        "_links": { "self": { "href": asked.href("/assets") }, "toml": { "href": toml } },
        "asset_type": kind,
        "asset_code": code,
        "asset_issuer": issuer,
        "paging_token": token,
        "accounts": {
            "authorized": sum.accounts[0],
            "authorized_to_maintain_liabilities": sum.accounts[1],
            "unauthorized": sum.accounts[2],
        },
        "balances": {
            "authorized": text::amount(authorized),
            "authorized_to_maintain_liabilities": text::amount(maintain),
            "unauthorized": text::amount(unauthorized),
        },
        "num_claimable_balances": sum.claimable.0,
        "claimable_balances_amount": text::amount(sum.claimable.1),
        "num_liquidity_pools": 0,
        "liquidity_pools_amount": text::amount(0),
        "num_contracts": 0,
        "contracts_amount": text::amount(0),
        "flags": {
            "auth_required": flags & AUTH_REQUIRED != 0,
            "auth_revocable": flags & AUTH_REVOCABLE != 0,
            "auth_immutable": flags & AUTH_IMMUTABLE != 0,
            "auth_clawback_enabled": flags & AUTH_CLAWBACK != 0,
        },
    });
    Some((token, row))
}

fn claimable_row(asked: &Asked, entry: &LedgerEntry, balance: &ClaimableBalanceEntry) -> Value {
    let id = hex::encode(balance.balance_id.to_xdr(Limits::none()).unwrap_or_default());
    let path = format!("/claimable_balances/{id}");
    let mut fields = Map::new();
    fields.insert("_links".into(), json!({ "self": { "href": asked.href(&path) } }));
    fields.insert("id".into(), json!(id));
    fields.insert("asset".into(), json!(text::asset(&balance.asset)));
    fields.insert("amount".into(), json!(text::amount(balance.amount)));
    if let Some(by) = sponsor(&entry.ext) {
        fields.insert("sponsor".into(), json!(text::account(by)));
    }
    fields.insert("last_modified_ledger".into(), json!(entry.last_modified_ledger_seq));
    fields.insert(
        "claimants".into(),
        balance.claimants.iter().map(operations::claimant).collect(),
    );
    let clawback = matches!(&balance.ext, stellar_xdr::ClaimableBalanceEntryExt::V1(v1) if v1.flags & 1 != 0);
    fields.insert("flags".into(), json!({ "clawback_enabled": clawback }));
    fields.insert(
        "paging_token".into(),
        json!(format!("{}-{id}", entry.last_modified_ledger_seq)),
    );
    Value::Object(fields)
}

fn claimables(state: &LedgerState) -> impl Iterator<Item = (&LedgerEntry, &ClaimableBalanceEntry)> {
    state.entries.values().filter_map(|entry| match &entry.data {
        LedgerEntryData::ClaimableBalance(balance) => Some((entry, balance)),
        _ => None,
    })
}

/// `GET /claimable_balances?claimant=|sponsor=|asset=`
pub async fn claimable_balances(State(app): State<App>, asked: Asked) -> Answer {
    let (descending, limit) = (asked.descending()?, asked.limit()?);
    let asset = asked.get("asset").map(|value| read_asset("asset", value)).transpose()?;
    let by = asked
        .get("sponsor")
        .map(|value| read_account("sponsor", value))
        .transpose()?;
    let to = asked
        .get("claimant")
        .map(|value| read_account("claimant", value))
        .transpose()?;
    let claims = |c: &Claimant, to: [u8; 32]| {
        let Claimant::ClaimantTypeV0(c) = c;
        *raw_key(&c.destination) == to
    };
    let mut rows: Vec<(u32, Value)> = app.ledger.with_state(|state| {
        claimables(state)
            .filter(|(_, balance)| asset.as_ref().is_none_or(|asset| balance.asset == *asset))
            .filter(|(entry, _)| by.is_none_or(|by| sponsor(&entry.ext).is_some_and(|id| *raw_key(id) == by)))
            .filter(|(_, balance)| to.is_none_or(|to| balance.claimants.iter().any(|c| claims(c, to))))
            .map(|(entry, balance)| (entry.last_modified_ledger_seq, claimable_row(&asked, entry, balance)))
            .collect()
    });
    let key = |row: &(u32, Value)| (row.0, row.1["id"].as_str().unwrap_or_default().to_owned());
    rows.sort_by_key(key);
    if descending {
        rows.reverse();
    }
    let cursor = match asked.get("cursor") {
        None => None,
        Some(cursor) => {
            let (ledger, id) = cursor.split_once('-').unwrap_or((cursor, ""));
            let ledger: u32 = ledger
                .parse()
                .map_err(|_| Problem::bad_request("cursor", "cursor: invalid value"))?;
            Some((ledger, id.to_owned()))
        }
    };
    let after = |row: &(u32, Value)| {
        cursor.as_ref().is_none_or(|cursor| {
            if descending {
                key(row) < *cursor
            } else {
                key(row) > *cursor
            }
        })
    };
    let records = rows
        .into_iter()
        .filter(after)
        .take(limit as usize)
        .map(|(_, row)| row)
        .collect();
    Ok(hal(&resources::page(&asked, records, limit, descending)))
}

/// `GET /claimable_balances/{id}`
pub async fn claimable_balance(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let row = app.ledger.with_state(|state| {
        claimables(state)
            .find(|(_, balance)| hex::encode(balance.balance_id.to_xdr(Limits::none()).unwrap_or_default()) == id)
            .map(|(entry, balance)| claimable_row(&asked, entry, balance))
    });
    row.map(|row| hal(&row)).ok_or_else(Problem::not_found)
}
