//! Ledgers, transactions and accounts as Horizon writes them (fields: the official SDKs' response types).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use stellar_xdr::{
    AccountEntry, AccountId, Asset, DecoratedSignature, FeeBumpTransactionInnerTx, LedgerEntry, LedgerEntryData,
    Limits, Memo, Preconditions, ReadXdr, String64, Transaction, TransactionEnvelope, TransactionResult,
    TrustLineAsset, WriteXdr,
};

use super::request::Asked;
use crate::core::account::{
    AUTH_CLAWBACK, AUTH_IMMUTABLE, AUTH_REQUIRED, AUTH_REVOCABLE, LINE_AUTHORIZED, LINE_CLAWBACK, LINE_MAINTAIN,
    liabilities, line_liabilities, num_sponsored, num_sponsoring, sequence_touched, signer_sponsors,
};
use crate::core::reserve::sponsor;
use crate::core::state::{State, account_key, data_key, trust_line_key};
use crate::effects::Effect;
use crate::history::{LedgerRecord, TransactionRecord};
use crate::store::StoreError;
use crate::text;

/// A page of records; each needs its `paging_token`.
pub fn page(asked: &Asked, records: Vec<Value>, limit: u32, descending: bool) -> Value {
    let token = |record: Option<&Value>| {
        record
            .and_then(|r| r["paging_token"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let asked_for = asked.get("cursor").unwrap_or_default();
    let first = if records.is_empty() {
        asked_for.to_owned()
    } else {
        token(records.first())
    };
    let last = if records.is_empty() {
        asked_for.to_owned()
    } else {
        token(records.last())
    };
    json!({
        "_links": {
            "self": { "href": asked.link(asked_for, limit, descending) },
            "next": { "href": asked.link(&last, limit, descending) },
            "prev": { "href": asked.link(&first, limit, !descending) },
        },
        "_embedded": { "records": records },
    })
}

/// A ledger.
pub fn ledger(asked: &Asked, record: &LedgerRecord) -> Value {
    let header = &record.header;
    let path = format!("/ledgers/{}", header.ledger_seq);
    let templated =
        |what: &str| json!({ "href": asked.href(&format!("{path}/{what}{{?cursor,limit,order}}")), "templated": true });
    json!({
        "_links": {
            "self": { "href": asked.href(&path) },
            "transactions": templated("transactions"),
            "operations": templated("operations"),
            "payments": templated("payments"),
            "effects": templated("effects"),
        },
        "id": hex::encode(record.hash),
        "paging_token": (i64::from(header.ledger_seq) << 32).to_string(),
        "hash": hex::encode(record.hash),
        "prev_hash": hex::encode(header.previous_ledger_hash.0),
        "sequence": header.ledger_seq,
        "successful_transaction_count": record.successful,
        "failed_transaction_count": record.failed,
        "operation_count": record.operations,
        "tx_set_operation_count": record.set_operations,
        "closed_at": text::time(header.scp_value.close_time.0),
        "total_coins": text::amount(header.total_coins),
        "fee_pool": text::amount(header.fee_pool),
        "base_fee_in_stroops": header.base_fee,
        "base_reserve_in_stroops": header.base_reserve,
        "max_tx_set_size": header.max_tx_set_size,
        "protocol_version": header.ledger_version,
        "header_xdr": header.to_xdr_base64(Limits::none()).unwrap_or_default(),
    })
}

/// A transaction. `hash`: the one it was asked for by, if that is the inner one of a fee bump.
pub fn transaction(asked: &Asked, record: &TransactionRecord, by: Option<&[u8; 32]>) -> Result<Value, StoreError> {
    let envelope = TransactionEnvelope::from_xdr(&record.envelope, Limits::none())
        .map_err(|_| StoreError::Damaged { what: "an envelope" })?;
    let result = TransactionResult::from_xdr(&record.result, Limits::none())
        .map_err(|_| StoreError::Damaged { what: "a result" })?;
    let tx = text::inner_transaction(&envelope).ok_or(StoreError::Damaged { what: "an envelope" })?;
    let outer_hash = hex::encode(&record.hash);
    let hash = by.map_or_else(|| outer_hash.clone(), hex::encode);
    let path = format!("/transactions/{hash}");
    let source = text::account(&tx.source_account.clone().account_id());
    let token = record.id.to_string();
    let templated =
        |what: &str| json!({ "href": asked.href(&format!("{path}/{what}{{?cursor,limit,order}}")), "templated": true });
    let mut out = json!({
        "_links": {
            "self": { "href": asked.href(&path) },
            "account": { "href": asked.href(&format!("/accounts/{source}")) },
            "ledger": { "href": asked.href(&format!("/ledgers/{}", record.ledger())) },
            "operations": templated("operations"),
            "effects": templated("effects"),
            "precedes": { "href": asked.href(&format!("/transactions?order=asc&cursor={token}")) },
            "succeeds": { "href": asked.href(&format!("/transactions?order=desc&cursor={token}")) },
            "transaction": { "href": asked.href(&path) },
        },
        "id": hash,
        "paging_token": token,
        "successful": record.successful,
        "hash": hash,
        "ledger": record.ledger(),
        "created_at": text::time(record.close_time),
        "source_account": source,
        "source_account_sequence": tx.seq_num.0.to_string(),
        "fee_account": source,
        "fee_charged": result.fee_charged.to_string(),
        "max_fee": tx.fee.to_string(),
        "operation_count": tx.operations.len(),
        "envelope_xdr": BASE64.encode(&record.envelope),
        "result_xdr": BASE64.encode(&record.result),
        "result_meta_xdr": BASE64.encode(&record.meta),
        "fee_meta_xdr": BASE64.encode(&record.fee_meta),
        "memo_type": "none",
        "signatures": signatures(envelope_signatures(&envelope)),
    });
    let Some(fields) = out.as_object_mut() else {
        return Ok(out);
    };
    memo(tx, fields);
    if let Some((muxed, id)) = text::muxed(&tx.source_account) {
        fields.insert("account_muxed".into(), json!(muxed));
        fields.insert("account_muxed_id".into(), json!(id.to_string()));
    }
    preconditions(&tx.cond, fields);
    if let (TransactionEnvelope::TxFeeBump(bump), Some(inner_hash)) = (&envelope, &record.inner_hash) {
        let FeeBumpTransactionInnerTx::Tx(inner) = &bump.tx.inner_tx;
        fields.insert(
            "fee_account".into(),
            json!(text::account(&bump.tx.fee_source.clone().account_id())),
        );
        if let Some((muxed, id)) = text::muxed(&bump.tx.fee_source) {
            fields.insert("fee_account_muxed".into(), json!(muxed));
            fields.insert("fee_account_muxed_id".into(), json!(id.to_string()));
        }
        fields.insert("max_fee".into(), json!(bump.tx.fee.to_string()));
        fields.insert(
            "fee_bump_transaction".into(),
            json!({ "hash": outer_hash, "signatures": signatures(bump.signatures.as_slice()) }),
        );
        fields.insert(
            "inner_transaction".into(),
            json!({
                "hash": hex::encode(inner_hash),
                "signatures": signatures(inner.signatures.as_slice()),
                "max_fee": inner.tx.fee.to_string(),
            }),
        );
        if by.is_some_and(|by| by.as_slice() == inner_hash.as_slice()) {
            fields.insert("signatures".into(), signatures(inner.signatures.as_slice()));
        }
    }
    Ok(out)
}

fn envelope_signatures(envelope: &TransactionEnvelope) -> &[DecoratedSignature] {
    match envelope {
        TransactionEnvelope::TxV0(e) => e.signatures.as_slice(),
        TransactionEnvelope::Tx(e) => e.signatures.as_slice(),
        TransactionEnvelope::TxFeeBump(e) => e.signatures.as_slice(),
    }
}

fn signatures(list: &[DecoratedSignature]) -> Value {
    list.iter().map(|s| BASE64.encode(s.signature.0.as_slice())).collect()
}

fn memo(tx: &Transaction, fields: &mut Map<String, Value>) {
    let (kind, value) = match &tx.memo {
        Memo::None => ("none", None),
        Memo::Text(text) => {
            fields.insert("memo_bytes".into(), json!(BASE64.encode(text.as_slice())));
            ("text", Some(String::from_utf8_lossy(text.as_slice()).into_owned()))
        }
        Memo::Id(id) => ("id", Some(id.to_string())),
        Memo::Hash(hash) => ("hash", Some(BASE64.encode(hash.0))),
        Memo::Return(hash) => ("return", Some(BASE64.encode(hash.0))),
    };
    fields.insert("memo_type".into(), json!(kind));
    if let Some(value) = value {
        fields.insert("memo".into(), json!(value));
    }
}

fn preconditions(cond: &Preconditions, fields: &mut Map<String, Value>) {
    let (time, v2) = match cond {
        Preconditions::None => return,
        Preconditions::Time(bounds) => (Some(bounds), None),
        Preconditions::V2(v2) => (v2.time_bounds.as_ref(), Some(v2)),
    };
    let mut out = Map::new();
    if let Some(time) = time {
        let mut bounds = json!({ "min_time": time.min_time.0.to_string() });
        fields.insert("valid_after".into(), json!(text::time(time.min_time.0)));
        if time.max_time.0 != 0 {
            bounds["max_time"] = json!(time.max_time.0.to_string());
            fields.insert("valid_before".into(), json!(text::time(time.max_time.0)));
        }
        out.insert("timebounds".into(), bounds);
    }
    if let Some(v2) = v2 {
        if let Some(ledgers) = &v2.ledger_bounds {
            let mut bounds = json!({ "min_ledger": ledgers.min_ledger });
            if ledgers.max_ledger != 0 {
                bounds["max_ledger"] = json!(ledgers.max_ledger);
            }
            out.insert("ledgerbounds".into(), bounds);
        }
        if let Some(min) = &v2.min_seq_num {
            out.insert("min_account_sequence".into(), json!(min.0.to_string()));
        }
        if v2.min_seq_age.0 != 0 {
            out.insert("min_account_sequence_age".into(), json!(v2.min_seq_age.0.to_string()));
        }
        if v2.min_seq_ledger_gap != 0 {
            out.insert("min_account_sequence_ledger_gap".into(), json!(v2.min_seq_ledger_gap));
        }
        if !v2.extra_signers.is_empty() {
            out.insert(
                "extra_signers".into(),
                v2.extra_signers.iter().map(|key| text::signer(key).0).collect(),
            );
        }
    }
    fields.insert("preconditions".into(), Value::Object(out));
}

/// Asset fields, each name with this prefix.
pub fn asset_fields(asset: &Asset, prefix: &str, fields: &mut Map<String, Value>) {
    let (kind, parts) = text::asset_parts(asset);
    fields.insert(format!("{prefix}asset_type"), json!(kind));
    if let Some((code, issuer)) = parts {
        fields.insert(format!("{prefix}asset_code"), json!(code));
        fields.insert(format!("{prefix}asset_issuer"), json!(issuer));
    }
}

/// An account with everything it holds.
pub fn account(asked: &Asked, state: &State, id: &AccountId) -> Option<Value> {
    let entry = state.entries.get(&account_key(id))?;
    let LedgerEntryData::Account(account) = &entry.data else {
        return None;
    };
    let name = text::account(id);
    let path = format!("/accounts/{name}");
    let templated =
        |what: &str, query: &str| json!({ "href": asked.href(&format!("{path}/{what}{query}")), "templated": true });
    let (seq_ledger, seq_time) = sequence_touched(account);
    let [master, low, medium, high] = account.thresholds.0;
    let mut out = json!({
        "_links": {
            "self": { "href": asked.href(&path) },
            "transactions": templated("transactions", "{?cursor,limit,order}"),
            "operations": templated("operations", "{?cursor,limit,order}"),
            "payments": templated("payments", "{?cursor,limit,order}"),
            "effects": templated("effects", "{?cursor,limit,order}"),
            "offers": templated("offers", "{?cursor,limit,order}"),
            "trades": templated("trades", "{?cursor,limit,order}"),
            "data": templated("data/{key}", ""),
        },
        "id": name,
        "account_id": name,
        "sequence": account.seq_num.0.to_string(),
        "subentry_count": account.num_sub_entries,
        "last_modified_ledger": entry.last_modified_ledger_seq,
        "thresholds": { "low_threshold": low, "med_threshold": medium, "high_threshold": high },
        "flags": {
            "auth_required": account.flags & AUTH_REQUIRED != 0,
            "auth_revocable": account.flags & AUTH_REVOCABLE != 0,
            "auth_immutable": account.flags & AUTH_IMMUTABLE != 0,
            "auth_clawback_enabled": account.flags & AUTH_CLAWBACK != 0,
        },
        "num_sponsoring": num_sponsoring(account),
        "num_sponsored": num_sponsored(account),
        "paging_token": name,
    });
    let fields = out.as_object_mut()?;
    if seq_ledger != 0 {
        fields.insert("sequence_ledger".into(), json!(seq_ledger));
        fields.insert("sequence_time".into(), json!(seq_time.to_string()));
    }
    if !account.home_domain.0.is_empty() {
        fields.insert(
            "home_domain".into(),
            json!(account.home_domain.0.to_utf8_string_lossy()),
        );
    }
    if let Some(dest) = &account.inflation_dest {
        fields.insert("inflation_destination".into(), json!(text::account(dest)));
    }
    if let Some(by) = sponsor(&entry.ext) {
        fields.insert("sponsor".into(), json!(text::account(by)));
    }
    let mut balances = Vec::new();
    let mut data = Map::new();
    for entry in owned(state, id) {
        match &entry.data {
            LedgerEntryData::Trustline(_) => balances.extend(trust_line(entry)),
            LedgerEntryData::Data(entry) => {
                let name = entry.data_name.0.to_utf8_string_lossy();
                data.insert(name, json!(BASE64.encode(entry.data_value.0.as_slice())));
            }
            _ => {}
        }
    }
    let (buying, selling) = liabilities(account);
    balances.push(json!({
        "balance": text::amount(account.balance),
        "buying_liabilities": text::amount(buying),
        "selling_liabilities": text::amount(selling),
        "asset_type": "native",
    }));
    fields.insert("balances".into(), json!(balances));
    fields.insert("signers".into(), signers(account, master));
    fields.insert("data".into(), Value::Object(data));
    Some(out)
}

fn signers(account: &AccountEntry, master: u8) -> Value {
    let sponsors = signer_sponsors(account);
    let mut out: Vec<Value> = account
        .signers
        .iter()
        .enumerate()
        .map(|(index, signer)| {
            let (key, kind) = text::signer(&signer.key);
            let mut one = json!({ "weight": signer.weight, "key": key, "type": kind });
            if let Some(by) = sponsors.get(index).and_then(|s| s.0.as_ref()) {
                one["sponsor"] = json!(text::account(by));
            }
            one
        })
        .collect();
    out.push(json!({ "weight": master, "key": text::account(&account.account_id), "type": "ed25519_public_key" }));
    Value::Array(out)
}

/// The trust lines and data entries of an account: each kind is one run of keys.
fn owned<'s>(state: &'s State, id: &'s AccountId) -> impl Iterator<Item = &'s LedgerEntry> {
    let lines = state
        .entries
        .range(trust_line_key(id, &Asset::Native)..)
        .take_while(|(_, entry)| match &entry.data {
            LedgerEntryData::Trustline(line) => line.account_id == *id,
            _ => false,
        });
    let data = state
        .entries
        .range(data_key(id, &String64::default())..)
        .take_while(|(_, entry)| match &entry.data {
            LedgerEntryData::Data(data) => data.account_id == *id,
            _ => false,
        });
    lines.chain(data).map(|(_, entry)| entry)
}

fn trust_line(entry: &LedgerEntry) -> Option<Value> {
    let LedgerEntryData::Trustline(line) = &entry.data else {
        return None;
    };
    let asset = match &line.asset {
        TrustLineAsset::CreditAlphanum4(a) => Asset::CreditAlphanum4(a.clone()),
        TrustLineAsset::CreditAlphanum12(a) => Asset::CreditAlphanum12(a.clone()),
        TrustLineAsset::Native | TrustLineAsset::PoolShare(_) => return None,
    };
    let (buying, selling) = line_liabilities(line);
    let mut fields = Map::new();
    fields.insert("balance".into(), json!(text::amount(line.balance)));
    fields.insert("limit".into(), json!(text::amount(line.limit)));
    fields.insert("buying_liabilities".into(), json!(text::amount(buying)));
    fields.insert("selling_liabilities".into(), json!(text::amount(selling)));
    fields.insert("last_modified_ledger".into(), json!(entry.last_modified_ledger_seq));
    fields.insert("is_authorized".into(), json!(line.flags & LINE_AUTHORIZED != 0));
    fields.insert(
        "is_authorized_to_maintain_liabilities".into(),
        json!(line.flags & (LINE_AUTHORIZED | LINE_MAINTAIN) != 0),
    );
    fields.insert("is_clawback_enabled".into(), json!(line.flags & LINE_CLAWBACK != 0));
    if let Some(by) = sponsor(&entry.ext) {
        fields.insert("sponsor".into(), json!(text::account(by)));
    }
    asset_fields(&asset, "", &mut fields);
    Some(Value::Object(fields))
}

/// An effect.
pub fn effect(asked: &Asked, operation: i64, record: &TransactionRecord, effect: &Effect) -> Value {
    let token = format!("{operation}-{}", effect.number);
    let mut out = json!({
        "_links": {
            "operation": { "href": asked.href(&format!("/operations/{operation}")) },
            "succeeds": { "href": asked.href(&format!("/effects?order=desc&cursor={token}")) },
            "precedes": { "href": asked.href(&format!("/effects?order=asc&cursor={token}")) },
        },
        "id": format!("{operation:019}-{:010}", effect.number),
        "paging_token": token,
        "account": text::key(&effect.account),
        "type": effect.kind,
        "type_i": effect.kind_number,
        "created_at": text::time(record.close_time),
    });
    if let Some(fields) = out.as_object_mut() {
        fields.extend(effect.fields.clone());
    }
    out
}
