//! Submitting transactions, and friendbot.

use std::collections::BTreeMap;

use axum::extract::{Form, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use stellar_xdr::{Limits, ReadXdr, TransactionResult, WriteXdr};

use super::codes::result_codes;
use super::problem::Problem;
use super::request::{Asked, account_id};
use super::{Answer, App, hal, resources};
use crate::history::TransactionRecord;
use crate::ledger::{FriendbotError, Submission};

/// The envelope of a submission: as it was sent, and as bytes.
async fn envelope(request: Request) -> Result<(String, Vec<u8>), Problem> {
    let form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|kind| {
            kind.split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    if !form {
        return Err(Problem::media_type());
    }
    let Form(fields) = Form::<BTreeMap<String, String>>::from_request(request, &())
        .await
        .map_err(|_| Problem::bad_request("tx", "the form cannot be read"))?;
    let text = fields
        .get("tx")
        .cloned()
        .ok_or_else(|| Problem::bad_request("tx", "the form has no field tx"))?;
    match BASE64.decode(text.trim()) {
        Ok(bytes) => Ok((text, bytes)),
        Err(_) => Err(Problem::malformed(&text)),
    }
}

/// Hands an envelope to the ledger, off the runtime's threads: signatures are checked under the ledger's lock.
pub async fn hand_over(app: &App, bytes: Vec<u8>) -> Result<Submission, Problem> {
    let ledger = app.ledger.clone();
    tokio::task::spawn_blocking(move || ledger.submit(&bytes, ledger.now()))
        .await
        .map_err(|_| Problem::bad_request("tx", "interrupted"))
}

fn rejected(result: &TransactionResult, envelope: &str) -> Problem {
    Problem::failed(json!({
        "envelope_xdr": envelope,
        "result_xdr": result.to_xdr_base64(Limits::none()).unwrap_or_default(),
        "result_codes": result_codes(result),
    }))
}

/// A recorded transaction as the answer to its submission: itself, or the problem if it failed.
fn settled(asked: &Asked, record: &TransactionRecord) -> Result<Value, Problem> {
    if record.successful {
        return Ok(resources::transaction(asked, record, None)?);
    }
    let result = TransactionResult::from_xdr(&record.result, Limits::none())
        .map_err(|_| crate::store::StoreError::Damaged { what: "a result" })?;
    let mut extras = json!({
        "hash": hex::encode(&record.hash),
        "envelope_xdr": BASE64.encode(&record.envelope),
        "result_xdr": BASE64.encode(&record.result),
        "result_codes": result_codes(&result),
    });
    extras["result_meta_xdr"] = json!(BASE64.encode(&record.meta));
    Err(Problem::failed(extras))
}

/// Waits until a transaction is in a ledger.
async fn wait(app: &App, hash: &[u8; 32]) -> Result<Option<TransactionRecord>, Problem> {
    let mut ledgers = app.ledger.watch();
    let mut stopping = app.stopping.clone();
    let deadline = tokio::time::sleep(app.ledger.config().submission_timeout);
    tokio::pin!(deadline);
    loop {
        ledgers.mark_unchanged();
        if let Some(record) = app.ledger.transaction(hash)? {
            return Ok(Some(record));
        }
        tokio::select! {
            changed = ledgers.changed() => if changed.is_err() { return Ok(None) },
            _ = stopping.wait_for(|stop| *stop) => return Ok(None),
            () = &mut deadline => return Ok(None),
        }
    }
}

/// `POST /transactions`: answers when the transaction is in a ledger.
pub async fn submit(State(app): State<App>, asked: Asked, request: Request) -> Answer {
    let (text, bytes) = envelope(request).await?;
    // What is in a ledger already is answered from there, however often it is sent.
    if let Some(hash) = app.ledger.hash_of(&bytes)
        && let Some(record) = app.ledger.transaction(&hash)?
    {
        return Ok(hal(&settled(&asked, &record)?));
    }
    let hash = match hand_over(&app, bytes).await? {
        Submission::Malformed => return Err(Problem::malformed(&text)),
        Submission::Rejected { hash, result } => {
            // It may have been applied between the look and the submission.
            return match app.ledger.transaction(&hash)? {
                Some(record) => Ok(hal(&settled(&asked, &record)?)),
                None => Err(rejected(&result, &text)),
            };
        }
        // Horizon waits its time-out for a transaction that the queue did not take, and then knows nothing. We know at once that there
        // is nothing to wait for, and say the same.
        Submission::TryAgainLater { hash } => return Err(Problem::timeout(&hex::encode(hash), &text)),
        Submission::Pending { hash } | Submission::Duplicate { hash } => hash,
    };
    match wait(&app, &hash).await? {
        Some(record) => Ok(hal(&settled(&asked, &record)?)),
        None => Err(Problem::timeout(&hex::encode(hash), &text)),
    }
}

/// `POST /transactions_async`: answers what the queue says.
pub async fn submit_async(State(app): State<App>, request: Request) -> Answer {
    let (text, bytes) = envelope(request).await?;
    let answer = |status: StatusCode, name: &str, hash: [u8; 32], result: Option<&TransactionResult>| -> Response {
        let mut body = json!({ "tx_status": name, "hash": hex::encode(hash) });
        if let Some(result) = result {
            body["error_result_xdr"] = json!(result.to_xdr_base64(Limits::none()).unwrap_or_default());
        }
        let mut response = hal(&body);
        *response.status_mut() = status;
        response.into_response()
    };
    if let Some(hash) = app.ledger.hash_of(&bytes)
        && app.ledger.transaction(&hash)?.is_some()
    {
        return Ok(answer(StatusCode::CONFLICT, "DUPLICATE", hash, None));
    }
    Ok(match hand_over(&app, bytes).await? {
        Submission::Malformed => return Err(Problem::malformed(&text)),
        Submission::Pending { hash } => answer(StatusCode::CREATED, "PENDING", hash, None),
        Submission::Duplicate { hash } => answer(StatusCode::CONFLICT, "DUPLICATE", hash, None),
        Submission::TryAgainLater { hash } => answer(StatusCode::SERVICE_UNAVAILABLE, "TRY_AGAIN_LATER", hash, None),
        Submission::Rejected { hash, result } => answer(StatusCode::BAD_REQUEST, "ERROR", hash, Some(&result)),
    })
}

/// `GET|POST /friendbot?addr=G...`: a new account with lumens.
pub async fn friendbot(State(app): State<App>, asked: Asked, request: Request) -> Answer {
    let from_form = async {
        let Form(fields) = Form::<BTreeMap<String, String>>::from_request(request, &())
            .await
            .ok()?;
        fields.get("addr").cloned()
    };
    let addr = match asked.get("addr") {
        Some(addr) => addr.to_owned(),
        None => from_form
            .await
            .ok_or_else(|| Problem::bad_request("addr", "an account is needed: ?addr=G..."))?,
    };
    let account = account_id("addr", &addr)?;
    let ledger = app.ledger.clone();
    let funded = tokio::task::spawn_blocking(move || ledger.fund(account, ledger.now()))
        .await
        .map_err(|_| Problem::bad_request("addr", "interrupted"))?;
    let hash = match funded {
        Ok(hash) => hash,
        Err(FriendbotError::Off) => return Err(Problem::not_found()),
        Err(FriendbotError::Funded) => return Err(Problem::refused("account already funded to starting balance")),
        Err(FriendbotError::Refused(Submission::Rejected { result, .. })) => return Err(rejected(&result, "")),
        Err(FriendbotError::Refused(_)) => {
            return Err(Problem::refused("friendbot cannot fund accounts at the moment"));
        }
    };
    match wait(&app, &hash).await? {
        Some(record) if !record.successful => Err(Problem::refused("account already funded to starting balance")),
        Some(record) => Ok(hal(&settled(&asked, &record)?)),
        None => Err(Problem::timeout(&hex::encode(hash), "")),
    }
}
