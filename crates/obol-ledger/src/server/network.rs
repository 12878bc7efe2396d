//! The root, health, fees, the clock and the audit.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stellar_xdr::{LedgerHeader, Limits, ReadXdr, TransactionEnvelope, TransactionResult};

use super::problem::Problem;
use super::request::Asked;
use super::{Answer, App, MAX_BODY, hal, resources, stream};
use crate::audit::Audit;
use crate::store::{Filter, Page, StoreError};
use crate::text;

/// At most so many ledgers in one call of `/obol/advance`.
const MAX_ADVANCE: u32 = 10_000;

/// `GET /`
pub async fn root(State(app): State<App>, asked: Asked) -> Answer {
    let latest = app.ledger.latest();
    let protocol = app.ledger.header().ledger_version;
    let link = |path: &str| json!({ "href": asked.href(path), "templated": path.contains('{') });
    Ok(hal(&json!({
        "_links": {
            "self": link("/"),
            "account": link("/accounts/{account_id}"),
            "accounts": link("/accounts{?signer,sponsor,asset,cursor,limit,order}"),
            "account_transactions": link("/accounts/{account_id}/transactions{?cursor,limit,order}"),
            "assets": link("/assets{?asset_code,asset_issuer,cursor,limit,order}"),
            "claimable_balances": link("/claimable_balances{?asset,sponsor,claimant,cursor,limit,order}"),
            "effects": link("/effects{?cursor,limit,order}"),
            "fee_stats": link("/fee_stats"),
            "friendbot": link("/friendbot{?addr}"),
            "ledger": link("/ledgers/{sequence}"),
            "ledgers": link("/ledgers{?cursor,limit,order}"),
            "operation": link("/operations/{id}"),
            "operations": link("/operations{?cursor,limit,order,include_failed}"),
            "payments": link("/payments{?cursor,limit,order,include_failed}"),
            "transaction": link("/transactions/{hash}"),
            "transactions": link("/transactions{?cursor,limit,order}"),
        },
        "horizon_version": concat!("obol-ledger-", env!("CARGO_PKG_VERSION")),
        "core_version": concat!("obol-ledger ", env!("CARGO_PKG_VERSION")),
        "ingest_latest_ledger": latest.sequence,
        "history_latest_ledger": latest.sequence,
        "history_latest_ledger_closed_at": text::time(latest.close_time),
        "history_elder_ledger": 1,
        "core_latest_ledger": latest.sequence,
        "network_passphrase": app.ledger.passphrase(),
        "current_protocol_version": protocol,
        "supported_protocol_version": protocol,
        "core_supported_protocol_version": protocol,
    })))
}

/// `GET /health`
pub async fn health() -> Answer {
    Ok(hal(
        &json!({ "database_connected": true, "core_up": true, "core_synced": true }),
    ))
}

/// Fees are told over so many ledgers.
pub const FEE_LEDGERS: u32 = 5;

/// What was bid and paid in the last ledgers, in stroops for each operation.
pub struct RecentFees {
    /// The last header.
    pub header: LedgerHeader,
    /// What each transaction paid.
    pub charged: Vec<i64>,
    /// What each would have paid at most.
    pub bids: Vec<i64>,
    /// The operations in them.
    pub operations: i64,
}

/// The bid of an envelope in stroops, and the operations it is for: of a fee bump one more.
pub fn bid(envelope: &TransactionEnvelope) -> Option<(i64, i64)> {
    let tx = text::inner_transaction(envelope)?;
    let operations = tx.operations.len() as i64;
    Some(match envelope {
        TransactionEnvelope::TxFeeBump(bump) => (bump.tx.fee, operations + 1),
        _ => (i64::from(tx.fee), operations),
    })
}

/// Looks at the last [`FEE_LEDGERS`] ledgers.
pub fn recent_fees(app: &App) -> Result<RecentFees, StoreError> {
    let header = app.ledger.header();
    let first = i64::from(header.ledger_seq.saturating_sub(FEE_LEDGERS - 1)) << 32;
    let page = Page {
        cursor: i64::MAX,
        descending: true,
        limit: 5000,
    };
    let filter = Filter {
        range: Some((first, i64::MAX)),
        failed: true,
        ..Filter::default()
    };
    let mut out = RecentFees {
        header,
        charged: Vec::new(),
        bids: Vec::new(),
        operations: 0,
    };
    for record in app.ledger.transactions(page, &filter)? {
        let damaged = |what| move |_| StoreError::Damaged { what };
        let envelope =
            TransactionEnvelope::from_xdr(&record.envelope, Limits::none()).map_err(damaged("an envelope"))?;
        let result = TransactionResult::from_xdr(&record.result, Limits::none()).map_err(damaged("a result"))?;
        let Some((bid, units)) = bid(&envelope) else { continue };
        out.operations += text::inner_transaction(&envelope).map_or(0, |tx| tx.operations.len() as i64);
        out.charged.push(result.fee_charged / units.max(1));
        out.bids.push(bid / units.max(1));
    }
    Ok(out)
}

/// `GET /fee_stats`: over the last five ledgers.
pub async fn fee_stats(State(app): State<App>) -> Answer {
    let fees = recent_fees(&app)?;
    let header = fees.header;
    let capacity = f64::from(FEE_LEDGERS) * f64::from(header.max_tx_set_size.max(1));
    Ok(hal(&json!({
        "last_ledger": header.ledger_seq.to_string(),
        "last_ledger_base_fee": header.base_fee.to_string(),
        "ledger_capacity_usage": format!("{:.2}", (fees.operations as f64 / capacity).min(1.0)),
        "fee_charged": distribution(fees.charged, header.base_fee),
        "max_fee": distribution(fees.bids, header.base_fee),
    })))
}

/// Percentiles of fees as strings, without any those of `base_fee`.
pub fn distribution(mut fees: Vec<i64>, base_fee: u32) -> Value {
    if fees.is_empty() {
        fees.push(i64::from(base_fee));
    }
    fees.sort_unstable();
    let at = |percent: usize| {
        let index = (fees.len() * percent).div_ceil(100).saturating_sub(1);
        fees.get(index).copied().unwrap_or_default().to_string()
    };
    let mut mode = (0, 0);
    for fee in &fees {
        let count = fees.iter().filter(|f| *f == fee).count();
        if count > mode.1 {
            mode = (*fee, count);
        }
    }
    let mut out = json!({ "max": at(100), "min": at(0), "mode": mode.0.to_string() });
    for percent in [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99] {
        out[format!("p{percent}")] = json!(at(percent));
    }
    out
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    #[serde(default)]
    seconds: u64,
    #[serde(default)]
    ledgers: u32,
}

/// `POST /obol/advance {"seconds": n, "ledgers": n}`: winds the ledger's clock forward and closes ledgers, at least one.
pub async fn advance(State(app): State<App>, request: Request) -> Answer {
    if !app.ledger.config().allow_advance {
        return Err(Problem::forbidden(
            "This ledger's clock cannot be wound; start it with allow_advance.",
        ));
    }
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|_| Problem::bad_request("body", "the body is too long or was cut off"))?;
    // By way of an object: serde would read a list as the fields in order.
    let wanted: Advance = serde_json::from_slice(&body)
        .and_then(|fields: Map<String, Value>| serde_json::from_value(Value::Object(fields)))
        .map_err(|error| Problem::bad_request("body", error.to_string()))?;
    // A century at most, so that no sum of times can overflow.
    if wanted.seconds > 100 * 366 * 86_400 {
        return Err(Problem::bad_request("seconds", "at most a hundred years"));
    }
    if wanted.ledgers > MAX_ADVANCE {
        return Err(Problem::bad_request(
            "ledgers",
            format!("at most {MAX_ADVANCE} at once"),
        ));
    }
    let ledger = app.ledger.clone();
    let closed = tokio::task::spawn_blocking(move || ledger.advance(wanted.seconds, wanted.ledgers))
        .await
        .map_err(|_| Problem::bad_request("body", "interrupted"))??;
    Ok(hal(&json!({
        "sequence": closed.sequence,
        "close_time": closed.close_time,
        "closed_at": text::time(closed.close_time),
        "hash": hex::encode(closed.hash),
    })))
}

/// `GET /obol/audit`: every balance, and whether all of it adds up.
pub async fn audit(State(app): State<App>) -> Answer {
    let ledger = app.ledger.clone();
    let audit = tokio::task::spawn_blocking(move || ledger.audit())
        .await
        .map_err(|_| Problem::bad_request("audit", "interrupted"))??;
    #[derive(serde::Serialize)]
    struct Report<'a> {
        #[serde(flatten)]
        audit: &'a Audit,
        stroops_created_or_lost: i64,
    }
    // Written straight to text: a `serde_json::Value` holds no number beyond 64 bits.
    let report = Report {
        audit: &audit,
        stroops_created_or_lost: audit.created_or_lost(),
    };
    let mut response = serde_json::to_string(&report).unwrap_or_default().into_response();
    response.headers_mut().insert(
        axum::http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// Lists of what this ledger has none of: offers, trades, pools. A stream of them waits for what never comes.
pub async fn empty(State(app): State<App>, asked: Asked) -> Answer {
    if asked.stream {
        return Ok(stream::events(&app, asked.limit()?, |_| Ok(Vec::new())));
    }
    Ok(hal(&resources::page(
        &asked,
        Vec::new(),
        asked.limit()?,
        asked.descending()?,
    )))
}
