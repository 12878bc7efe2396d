//! Payment for services beyond the circuit.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};

use super::{Answer, Body, Desk};
use crate::paging::{Page, PageQuery, Params, number_key, page};
use crate::problem::Problem;
use crate::services::{Check, Invoice, InvoiceWanted, Transfer, TransferWanted};

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    match headers.get("idempotency-key") {
        None => Ok(None),
        Some(key) => match key.to_str() {
            Ok(key) => Ok(Some(key.to_owned())),
            Err(_) => Err(Problem::bad_parameter(
                "an Idempotency-Key has visible ASCII characters only",
            )),
        },
    }
}

/// A record's number, out of its name.
fn numbered(id: &str) -> u64 {
    id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The invoices.
#[utoipa::path(get, path = "/api/v1/invoices", tag = "services", params(PageQuery),
    responses((status = 200, body = Page<Invoice>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no wallet.")))]
pub(super) async fn invoices(
    State(desk): State<Desk>,
    Params(query): Params<PageQuery>,
) -> Result<Answer<Page<Invoice>>, Problem> {
    let all = desk.services()?.invoices().await?;
    page(&query, all, |invoice| {
        (invoice.created_at, number_key(numbered(&invoice.id)))
    })
    .map(Answer)
}

/// Makes an invoice: a payment request (SEP-7) with a memo that no other has. The same `Idempotency-Key` again is the same invoice.
#[utoipa::path(post, path = "/api/v1/invoices", tag = "services", request_body = InvoiceWanted,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 200, description = "Names this request: up to 200 characters.")),
    responses((status = 201, body = Invoice), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no wallet."),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "The key belongs to another request; or of the right form, but impossible.")))]
pub(super) async fn new_invoice(
    State(desk): State<Desk>,
    headers: HeaderMap,
    Body(wanted): Body<InvoiceWanted>,
) -> Result<(StatusCode, Answer<Invoice>), Problem> {
    let invoice = desk.services()?.new_invoice(key(&headers)?, wanted).await?;
    Ok((StatusCode::CREATED, Answer(invoice)))
}

/// One invoice, as of the last look at the ledger.
#[utoipa::path(get, path = "/api/v1/invoices/{id}", tag = "services", params(("id" = String, Path, description = "Its name here.")),
    responses((status = 200, body = Invoice), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn invoice(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Answer<Invoice>, Problem> {
    desk.services()?.invoice(&id).await.map(Answer)
}

/// Looks on the ledger whether an invoice was paid.
#[utoipa::path(post, path = "/api/v1/invoices/{id}/check", tag = "services", request_body = Check,
    params(("id" = String, Path, description = "Its name here.")),
    responses((status = 200, body = Invoice), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The ledger's server cannot search."),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 502, body = Problem, content_type = "application/problem+json", description = "The ledger cannot be asked.")))]
pub(super) async fn check(
    State(desk): State<Desk>,
    Path(id): Path<String>,
    Body(wanted): Body<Check>,
) -> Result<Answer<Invoice>, Problem> {
    desk.services()?.check(&id, wanted).await.map(Answer)
}

/// The payments from the wallet.
#[utoipa::path(get, path = "/api/v1/transfers", tag = "services", params(PageQuery),
    responses((status = 200, body = Page<Transfer>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no wallet.")))]
pub(super) async fn transfers(
    State(desk): State<Desk>,
    Params(query): Params<PageQuery>,
) -> Result<Answer<Page<Transfer>>, Problem> {
    let all = desk.services()?.transfers().await?;
    page(&query, all, |transfer| {
        (transfer.created_at, number_key(numbered(&transfer.id)))
    })
    .map(Answer)
}

/// Pays from the wallet: a payment request (SEP-7), or an account. The same `Idempotency-Key` again is the same payment, also after a restart.
#[utoipa::path(post, path = "/api/v1/transfers", tag = "services", request_body = TransferWanted,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 200, description = "Names this request: up to 200 characters. Without it a request that is repeated pays twice.")),
    responses((status = 202, body = Transfer), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no wallet."),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "The key belongs to another request; or of the right form, but impossible.")))]
pub(super) async fn new_transfer(
    State(desk): State<Desk>,
    headers: HeaderMap,
    Body(wanted): Body<TransferWanted>,
) -> Result<(StatusCode, Answer<Transfer>), Problem> {
    let transfer = desk.services()?.new_transfer(key(&headers)?, wanted).await?;
    Ok((StatusCode::ACCEPTED, Answer(transfer)))
}

/// One payment from the wallet.
#[utoipa::path(get, path = "/api/v1/transfers/{id}", tag = "services", params(("id" = String, Path, description = "Its name here.")),
    responses((status = 200, body = Transfer), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn transfer(State(desk): State<Desk>, Path(id): Path<String>) -> Result<Answer<Transfer>, Problem> {
    desk.services()?.transfer(&id).await.map(Answer)
}
