//! Stellar RPC on the same ledger: JSON-RPC 2.0 by `POST /rpc` (stellar-facts, section 3.4). Field by field as the official server writes
//! them, its inconsistencies included: which times are strings and which are numbers differs from method to method.
//!
//! | method | answer |
//! |---|---|
//! | getHealth, getNetwork, getVersionInfo, getLatestLedger, getFeeStats | what this ledger is and how far it has come |
//! | getLedgerEntries | accounts, trust lines, data and claimable balances by their keys |
//! | getLedgers, getTransactions | pages, oldest first, with cursors |
//! | sendTransaction, getTransaction | what the queue says; what became of it |
//! | simulateTransaction, getEvents | not supported: this ledger runs no contracts |
//!
//! Nothing is ever forgotten here, so the oldest ledger is 1.

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use stellar_xdr::{
    ExtensionPoint, Hash, LedgerCloseMeta, LedgerCloseMetaExt, LedgerCloseMetaV0, LedgerCloseMetaV1, LedgerCloseMetaV2,
    LedgerEntryChanges, LedgerHeaderHistoryEntry, LedgerHeaderHistoryEntryExt, LedgerKey, Limits, ReadXdr,
    TransactionEnvelope, TransactionMeta, TransactionResult, TransactionResultMeta, TransactionResultMetaV1,
    TransactionResultPair, VecM, WriteXdr,
};

use super::request::Asked;
use super::{App, MAX_BODY, network, submission};
use crate::core::close::TransactionSet;
use crate::history::{LedgerRecord, TransactionRecord};
use crate::ledger::Submission;
use crate::store::{Filter, Page, StoreError};

/// At most so many calls in one request.
const MAX_BATCH: usize = 100;

/// At most so many keys in one getLedgerEntries (the official server's limit).
const MAX_KEYS: usize = 200;

/// At most so many ledgers or transactions on a page (the official server's limits).
const MAX_PAGE: u32 = 200;

/// Everything is kept; the field has no word for that.
const RETENTION: u32 = u32::MAX;

/// A ledger key may be so long and nest so deep: those of contracts hold values of their own.
const KEY_LIMITS: Limits = Limits {
    depth: 50,
    len: 64 * 1024,
};

/// An error of JSON-RPC.
#[derive(Debug)]
struct Fault {
    code: i32,
    message: String,
}

impl Fault {
    fn request(message: impl Into<String>) -> Self {
        Self {
            code: -32600,
            message: message.into(),
        }
    }

    fn method(message: impl Into<String>) -> Self {
        Self {
            code: -32601,
            message: message.into(),
        }
    }

    fn params(message: impl Into<String>) -> Self {
        Self {
            code: -32602,
            message: message.into(),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a call failed");
        Self {
            code: -32603,
            message: "internal error".to_owned(),
        }
    }
}

type Answer = Result<Value, Fault>;

/// `POST /rpc`: one call or a batch of them.
pub async fn serve(State(app): State<App>, asked: Asked, request: Request) -> Response {
    let answer = match to_bytes(request.into_body(), MAX_BODY).await {
        Err(_) => Some(failed(
            Value::Null,
            Fault::request("the request is too long or was cut off"),
        )),
        Ok(body) => match serde_json::from_slice(&body) {
            Err(error) => Some(failed(
                Value::Null,
                Fault {
                    code: -32700,
                    message: format!("no JSON: {error}"),
                },
            )),
            Ok(Value::Array(calls)) if calls.is_empty() || calls.len() > MAX_BATCH => {
                let problem = format!("a batch has 1 to {MAX_BATCH} calls");
                Some(failed(Value::Null, Fault::request(problem)))
            }
            Ok(Value::Array(calls)) => {
                let mut answers = Vec::with_capacity(calls.len());
                for one in calls {
                    answers.extend(call(&app, &asked, one).await);
                }
                (!answers.is_empty()).then_some(Value::Array(answers))
            }
            Ok(one) => call(&app, &asked, one).await,
        },
    };
    let Some(answer) = answer else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let mut response = answer.to_string().into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn failed(id: Value, fault: Fault) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": fault.code, "message": fault.message } })
}

/// Answers one call; `None` for a notification, which has no identifier and wants no answer.
async fn call(app: &App, asked: &Asked, call: Value) -> Option<Value> {
    let Value::Object(mut call) = call else {
        return Some(failed(Value::Null, Fault::request("a call is an object")));
    };
    let id = call.remove("id");
    if !matches!(id, None | Some(Value::Null | Value::Number(_) | Value::String(_))) {
        return Some(failed(Value::Null, Fault::request("an id is a number or a string")));
    }
    let told = id.clone().unwrap_or(Value::Null);
    if call.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Some(failed(told, Fault::request("this is version 2.0 of JSON-RPC")));
    }
    let Some(Value::String(method)) = call.remove("method") else {
        return Some(failed(told, Fault::request("a call has a method")));
    };
    let answer = match call.remove("params") {
        None | Some(Value::Null) => dispatch(app, asked, &method, Map::new()).await,
        Some(Value::Object(params)) => dispatch(app, asked, &method, params).await,
        Some(_) => Err(Fault::params("parameters go by their names")),
    };
    id.map(|id| match answer {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(fault) => failed(id, fault),
    })
}

async fn dispatch(app: &App, asked: &Asked, method: &str, params: Map<String, Value>) -> Answer {
    match method {
        "getHealth" => Ok(health(app)),
        "getNetwork" => Ok(network_info(app, asked)),
        "getVersionInfo" => Ok(json!({
            "version": concat!("obol-ledger-", env!("CARGO_PKG_VERSION")),
            "commitHash": "",
            "buildTimestamp": "",
            "captiveCoreVersion": concat!("obol-ledger ", env!("CARGO_PKG_VERSION")),
            "protocolVersion": app.ledger.header().ledger_version,
        })),
        "getLatestLedger" => latest_ledger(app),
        "getFeeStats" => fee_stats(app),
        "getLedgerEntries" => ledger_entries(app, read(params)?),
        "getLedgers" => ledgers(app, &read(params)?),
        "getTransactions" => transactions(app, &read(params)?),
        "getTransaction" => transaction(app, &read(params)?),
        "sendTransaction" => send(app, read(params)?).await,
        "simulateTransaction" | "getEvents" => Err(Fault::method(format!(
            "{method} is not supported: this ledger runs no contracts"
        ))),
        _ => Err(Fault::method(format!("no such method: {method}"))),
    }
}

/// The parameters of a method. Every one of them may say how it wants its XDR.
fn read<P: DeserializeOwned>(params: Map<String, Value>) -> Result<P, Fault> {
    match params
        .get("xdrFormat")
        .filter(|format| !format.is_null())
        .map(Value::as_str)
    {
        None | Some(Some("" | "base64")) => {}
        Some(_) => return Err(Fault::params("XDR is told in base64 here")),
    }
    serde_json::from_value(Value::Object(params)).map_err(|error| Fault::params(error.to_string()))
}

/// The first and the last ledger: (sequence, close time) of each.
fn ends(app: &App) -> Result<[(u32, u64); 2], StoreError> {
    let latest = app.ledger.latest();
    let oldest = app.ledger.ledger(1)?.ok_or(StoreError::Damaged {
        what: "the first ledger",
    })?;
    Ok([
        (1, oldest.header.scp_value.close_time.0),
        (latest.sequence, latest.close_time),
    ])
}

fn health(app: &App) -> Value {
    let latest = app.ledger.latest();
    json!({
        "status": "healthy",
        "latestLedger": latest.sequence,
        "latestLedgerCloseTime": latest.close_time,
        "oldestLedger": 1,
        "ledgerRetentionWindow": RETENTION,
    })
}

fn network_info(app: &App, asked: &Asked) -> Value {
    let mut out = json!({
        "passphrase": app.ledger.passphrase(),
        "protocolVersion": app.ledger.header().ledger_version,
    });
    if app.ledger.config().friendbot_amount > 0 {
        out["friendbotUrl"] = json!(asked.href("/friendbot"));
    }
    out
}

fn latest_ledger(app: &App) -> Answer {
    let latest = app.ledger.latest();
    let record = app.ledger.ledger(latest.sequence)?.ok_or(StoreError::Damaged {
        what: "the latest ledger",
    })?;
    Ok(json!({
        "id": hex::encode(record.hash),
        "protocolVersion": record.header.ledger_version,
        "sequence": latest.sequence,
        "closeTime": latest.close_time.to_string(),
        "headerXdr": xdr(&record.header),
        "metadataXdr": xdr(&close_meta(app, &record)?),
    }))
}

fn fee_stats(app: &App) -> Answer {
    let fees = network::recent_fees(app)?;
    let told = |fees: Vec<i64>| {
        let count = fees.len();
        let mut out = network::distribution(fees, 0);
        out["transactionCount"] = json!(count.to_string());
        out["ledgerCount"] = json!(network::FEE_LEDGERS);
        out
    };
    Ok(json!({
        "sorobanInclusionFee": told(Vec::new()),
        "inclusionFee": told(fees.charged),
        "latestLedger": fees.header.ledger_seq,
    }))
}

#[derive(Debug, Deserialize)]
struct Keys {
    keys: Vec<String>,
}

fn ledger_entries(app: &App, params: Keys) -> Answer {
    if params.keys.len() > MAX_KEYS {
        let count = params.keys.len();
        return Err(Fault::params(format!(
            "key count ({count}) exceeds maximum supported ({MAX_KEYS})"
        )));
    }
    let mut keys = Vec::with_capacity(params.keys.len());
    for (index, text) in params.keys.into_iter().enumerate() {
        match LedgerKey::from_xdr_base64(&text, KEY_LIMITS) {
            Ok(LedgerKey::Ttl(_)) => return Err(Fault::params("ledger ttl entries cannot be queried directly")),
            Ok(key) => keys.push((text, key)),
            Err(_) => return Err(Fault::params(format!("key {index} is no ledger key in base64"))),
        }
    }
    Ok(app.ledger.with_state(|state| {
        let found = keys.iter().filter_map(|(text, key)| {
            let entry = state.entries.get(key)?;
            Some(json!({
                "key": text,
                "xdr": xdr(&entry.data),
                "lastModifiedLedgerSeq": entry.last_modified_ledger_seq,
                "extXdr": xdr(&entry.ext),
            }))
        });
        json!({ "entries": found.collect::<Vec<_>>(), "latestLedger": state.header.ledger_seq })
    }))
}

#[derive(Debug, Default, Deserialize)]
struct Pagination {
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paged {
    #[serde(default)]
    start_ledger: Option<u32>,
    #[serde(default)]
    pagination: Option<Pagination>,
}

/// Where a page begins.
enum Start {
    Ledger(u32),
    After(i64),
}

impl Paged {
    /// Where the page begins, and how long it may be.
    fn page(&self, latest: u32, usual: u32) -> Result<(Start, u32), Fault> {
        let pagination = self.pagination.as_ref();
        let limit = match pagination.and_then(|p| p.limit) {
            None | Some(0) => usual,
            Some(limit) if limit <= MAX_PAGE => limit,
            Some(_) => return Err(Fault::params(format!("limit must not exceed {MAX_PAGE}"))),
        };
        let cursor = pagination.and_then(|p| p.cursor.as_deref()).filter(|c| !c.is_empty());
        match (cursor, self.start_ledger.unwrap_or(0)) {
            (Some(cursor), 0) => match cursor.parse() {
                Ok(after @ 0..) => Ok((Start::After(after), limit)),
                _ => Err(Fault::params(format!("{cursor:?} is no cursor"))),
            },
            (Some(_), _) => Err(Fault::params("startLedger and cursor cannot both be set")),
            (None, start) if (1..=latest).contains(&start) => Ok((Start::Ledger(start), limit)),
            (None, start) => Err(Fault::params(format!(
                "start ledger ({start}) must be between the oldest ledger: 1 and the latest ledger: {latest} for this rpc instance"
            ))),
        }
    }
}

fn ledgers(app: &App, params: &Paged) -> Answer {
    let [(oldest, oldest_time), (latest, latest_time)] = ends(app)?;
    let (start, limit) = params.page(latest, 50)?;
    // The cursor is the sequence of the last ledger seen.
    let after = match start {
        Start::Ledger(start) => i64::from(start) - 1,
        Start::After(sequence) => sequence.min(i64::from(latest)),
    };
    let page = Page {
        cursor: after << 32,
        descending: false,
        limit,
    };
    let mut out = Vec::new();
    let mut cursor = after;
    for record in app.ledger.ledgers(page)? {
        let history = LedgerHeaderHistoryEntry {
            hash: Hash(record.hash),
            header: record.header.clone(),
            ext: LedgerHeaderHistoryEntryExt::V0,
        };
        cursor = i64::from(record.header.ledger_seq);
        out.push(json!({
            "hash": hex::encode(record.hash),
            "sequence": record.header.ledger_seq,
            "ledgerCloseTime": record.header.scp_value.close_time.0.to_string(),
            "headerXdr": xdr(&history),
            "metadataXdr": xdr(&close_meta(app, &record)?),
        }));
    }
    Ok(json!({
        "ledgers": out,
        "latestLedger": latest,
        "latestLedgerCloseTime": latest_time,
        "oldestLedger": oldest,
        "oldestLedgerCloseTime": oldest_time,
        "cursor": cursor.to_string(),
    }))
}

fn transactions(app: &App, params: &Paged) -> Answer {
    let [(oldest, oldest_time), (latest, latest_time)] = ends(app)?;
    let (start, limit) = params.page(latest, 50)?;
    let cursor = match start {
        Start::Ledger(start) => (i64::from(start) << 32) - 1,
        Start::After(cursor) => cursor,
    };
    let page = Page {
        cursor,
        descending: false,
        limit,
    };
    let filter = Filter {
        failed: true,
        ..Filter::default()
    };
    let records = app.ledger.transactions(page, &filter)?;
    // The token of the last one's first operation, as the official server has it: what follows is after that, too.
    let last = records.last().map_or(cursor.max(0), |record| record.id | 1);
    let list = records.iter().map(|record| {
        let mut out = details(record);
        out.insert("createdAt".to_owned(), json!(record.close_time));
        Value::Object(out)
    });
    Ok(json!({
        "transactions": list.collect::<Vec<_>>(),
        "latestLedger": latest,
        "latestLedgerCloseTimestamp": latest_time,
        "oldestLedger": oldest,
        "oldestLedgerCloseTimestamp": oldest_time,
        "cursor": last.to_string(),
    }))
}

fn details(record: &TransactionRecord) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
    put("status", json!(if record.successful { "SUCCESS" } else { "FAILED" }));
    put("txHash", json!(hex::encode(&record.hash)));
    put("applicationOrder", json!((record.id & 0xffff_ffff) >> 12));
    put("feeBump", json!(record.inner_hash.is_some()));
    put("envelopeXdr", json!(BASE64.encode(&record.envelope)));
    put("resultXdr", json!(BASE64.encode(&record.result)));
    put("resultMetaXdr", json!(BASE64.encode(&record.meta)));
    put("events", json!({}));
    put("ledger", json!(record.ledger()));
    out
}

#[derive(Debug, Deserialize)]
struct Hashed {
    hash: String,
}

fn transaction(app: &App, params: &Hashed) -> Answer {
    let hash: [u8; 32] = hex::decode(&params.hash)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Fault::params("a hash has 64 hexadecimal digits"))?;
    // The ledger first: what is not found is then told as missing in a ledger that was looked at, never in one that closed since.
    let mut known = ends(app)?;
    let record = app.ledger.transaction(&hash)?;
    if record.as_ref().is_some_and(|record| record.ledger() > known[1].0) {
        known = ends(app)?;
    }
    let [(oldest, oldest_time), (latest, latest_time)] = known;
    let mut out = match &record {
        Some(record) => {
            let mut out = details(record);
            out.insert("createdAt".to_owned(), json!(record.close_time.to_string()));
            out
        }
        None => {
            let nothing = json!({
                "status": "NOT_FOUND", "txHash": params.hash, "applicationOrder": 0, "feeBump": false, "events": {},
                "ledger": 0, "createdAt": "0",
            });
            nothing.as_object().cloned().unwrap_or_default()
        }
    };
    out.insert("latestLedger".to_owned(), json!(latest));
    out.insert("latestLedgerCloseTime".to_owned(), json!(latest_time.to_string()));
    out.insert("oldestLedger".to_owned(), json!(oldest));
    out.insert("oldestLedgerCloseTime".to_owned(), json!(oldest_time.to_string()));
    Ok(Value::Object(out))
}

#[derive(Debug, Deserialize)]
struct Sent {
    transaction: String,
}

async fn send(app: &App, params: Sent) -> Answer {
    let malformed = || Fault::params("invalid_xdr");
    let bytes = BASE64.decode(params.transaction.trim()).map_err(|_| malformed())?;
    let submission = submission::hand_over(app, bytes).await.map_err(|_| Fault {
        code: -32603,
        message: "interrupted".to_owned(),
    })?;
    let (status, hash, error) = match submission {
        Submission::Malformed => return Err(malformed()),
        Submission::Pending { hash } => ("PENDING", hash, None),
        Submission::Duplicate { hash } => ("DUPLICATE", hash, None),
        Submission::TryAgainLater { hash } => ("TRY_AGAIN_LATER", hash, None),
        Submission::Rejected { hash, result } => ("ERROR", hash, Some(result)),
    };
    let latest = app.ledger.latest();
    let mut out = json!({
        "status": status,
        "hash": hex::encode(hash),
        "latestLedger": latest.sequence,
        "latestLedgerCloseTime": latest.close_time.to_string(),
    });
    if let Some(result) = error {
        out["errorResultXdr"] = json!(xdr(&*result));
    }
    Ok(out)
}

fn xdr(value: &impl WriteXdr) -> String {
    value.to_xdr_base64(Limits::none()).unwrap_or_default()
}

/// A ledger as validators hand it out: header, transaction set, and of every transaction in the order of application its result and
/// what it changed.
fn close_meta(app: &App, record: &LedgerRecord) -> Result<LedgerCloseMeta, StoreError> {
    let sequence = i64::from(record.header.ledger_seq);
    let page = Page {
        cursor: 0,
        descending: false,
        limit: u32::MAX,
    };
    let filter = Filter {
        range: Some((sequence << 32, (sequence + 1) << 32)),
        failed: true,
        ..Filter::default()
    };
    let mut envelopes = Vec::new();
    let mut applied: Vec<TransactionResultMeta> = Vec::new();
    for one in app.ledger.transactions(page, &filter)? {
        let damaged = |what| move |_| StoreError::Damaged { what };
        let envelope = TransactionEnvelope::from_xdr(&one.envelope, Limits::none()).map_err(damaged("an envelope"))?;
        let result = TransactionResult::from_xdr(&one.result, Limits::none()).map_err(damaged("a result"))?;
        let fees = LedgerEntryChanges::from_xdr(&one.fee_meta, Limits::none()).map_err(damaged("a fee's changes"))?;
        let meta = TransactionMeta::from_xdr(&one.meta, Limits::none()).map_err(damaged("a transaction's meta"))?;
        let hash = one
            .hash
            .try_into()
            .map_err(|_| StoreError::Damaged { what: "a hash" })?;
        envelopes.push(envelope);
        applied.push(TransactionResultMeta {
            result: TransactionResultPair {
                transaction_hash: Hash(hash),
                result,
            },
            fee_processing: fees,
            tx_apply_processing: meta,
        });
    }
    let ledger_header = LedgerHeaderHistoryEntry {
        hash: Hash(record.hash),
        header: record.header.clone(),
        ext: LedgerHeaderHistoryEntryExt::V0,
    };
    let later = |applied: Vec<TransactionResultMeta>| -> Vec<TransactionResultMetaV1> {
        let one = |meta: TransactionResultMeta| TransactionResultMetaV1 {
            ext: ExtensionPoint::V0,
            result: meta.result,
            fee_processing: meta.fee_processing,
            tx_apply_processing: meta.tx_apply_processing,
            post_tx_apply_fee_processing: LedgerEntryChanges::default(),
        };
        applied.into_iter().map(one).collect()
    };
    let version = record.header.ledger_version;
    Ok(match transaction_set(record, envelopes) {
        TransactionSet::Plain(tx_set) => LedgerCloseMeta::V0(LedgerCloseMetaV0 {
            ledger_header,
            tx_set,
            tx_processing: applied.try_into().unwrap_or_default(),
            upgrades_processing: VecM::default(),
            scp_info: VecM::default(),
        }),
        TransactionSet::General(tx_set) if version < 23 => LedgerCloseMeta::V1(LedgerCloseMetaV1 {
            ext: LedgerCloseMetaExt::V0,
            ledger_header,
            tx_set,
            tx_processing: applied.try_into().unwrap_or_default(),
            upgrades_processing: VecM::default(),
            scp_info: VecM::default(),
            total_byte_size_of_live_soroban_state: 0,
            evicted_keys: VecM::default(),
            unused: VecM::default(),
        }),
        TransactionSet::General(tx_set) => LedgerCloseMeta::V2(LedgerCloseMetaV2 {
            ext: LedgerCloseMetaExt::V0,
            ledger_header,
            tx_set,
            tx_processing: later(applied).try_into().unwrap_or_default(),
            upgrades_processing: VecM::default(),
            scp_info: VecM::default(),
            total_byte_size_of_live_soroban_state: 0,
            evicted_keys: VecM::default(),
        }),
    })
}

/// The set that the header commits to. Its base fee is not recorded: it is the usual one or, in a full ledger, the lowest that was bid.
fn transaction_set(record: &LedgerRecord, envelopes: Vec<TransactionEnvelope>) -> TransactionSet {
    let header = &record.header;
    let of = |base_fee: u32| {
        let previous = header.previous_ledger_hash.0;
        TransactionSet::of_envelopes(header.ledger_version, previous, envelopes.clone(), base_fee)
    };
    let set = of(header.base_fee);
    if set.hash() == header.scp_value.tx_set_hash.0 {
        return set;
    }
    let lowest = envelopes.iter().filter_map(network::bid).map(|(bid, units)| {
        let units = units.max(1);
        (bid.saturating_add(units - 1)) / units
    });
    let surge = of(u32::try_from(lowest.min().unwrap_or(0)).unwrap_or(u32::MAX));
    if surge.hash() == header.scp_value.tx_set_hash.0 {
        surge
    } else {
        set
    }
}
