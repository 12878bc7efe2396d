//! What there is, what is locked, what was paid.

use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::types::{Balances, Claim, ClaimState, Direction, Escrow, EscrowState, Payment, PaymentRequest};
use super::{Answer, Desk};
use crate::paging::{Page, PageQuery, Params, number_key, page};
use crate::problem::Problem;

/// What there is, what is locked and what is owed.
#[utoipa::path(get, path = "/api/v1/balances", tag = "money",
    responses((status = 200, body = Balances), (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn balances(State(desk): State<Desk>) -> Answer<Balances> {
    Answer(desk.subject.balances().await)
}

/// Which escrows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EscrowQuery {
    /// Only those by which somebody pays this relay (`in`), or by which this program pays (`out`).
    #[param(inline)]
    direction: Option<Direction>,
    /// Only those in this state.
    #[param(inline)]
    state: Option<EscrowState>,
}

fn escrow_place(escrow: &Escrow) -> (u64, String) {
    (escrow.expiry, escrow.escrow.clone())
}

/// Escrows, those that have ended lately too, by their expiry.
#[utoipa::path(get, path = "/api/v1/escrows", tag = "money", params(EscrowQuery, PageQuery),
    responses((status = 200, body = Page<Escrow>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn escrows(
    State(desk): State<Desk>,
    Params(which): Params<EscrowQuery>,
    Params(query): Params<PageQuery>,
) -> Result<Answer<Page<Escrow>>, Problem> {
    let mut all = desk.subject.escrows();
    all.retain(|escrow| {
        which.direction.is_none_or(|direction| direction == escrow.direction)
            && which.state.is_none_or(|state| state == escrow.state)
    });
    page(&query, all, escrow_place).map(Answer)
}

/// One escrow.
#[utoipa::path(get, path = "/api/v1/escrows/{escrow}", tag = "money",
    params(("escrow" = String, Path, description = "Its account, `G...`.")),
    responses((status = 200, body = Escrow), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn escrow(State(desk): State<Desk>, Path(name): Path<String>) -> Result<Answer<Escrow>, Problem> {
    let found = desk.subject.escrows().into_iter().find(|escrow| escrow.escrow == name);
    found
        .map(Answer)
        .ok_or_else(|| Problem::not_found("no escrow of this account is known here"))
}

/// Which claims.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ClaimQuery {
    /// Only those that somebody gave this relay (`in`), or that this program gave (`out`).
    #[param(inline)]
    direction: Option<Direction>,
}

/// The newest claim of each escrow that has one, by the escrow's expiry.
#[utoipa::path(get, path = "/api/v1/claims", tag = "money", params(ClaimQuery, PageQuery),
    responses((status = 200, body = Page<Claim>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn claims(
    State(desk): State<Desk>,
    Params(which): Params<ClaimQuery>,
    Params(query): Params<PageQuery>,
) -> Result<Answer<Page<Claim>>, Problem> {
    let mut all = desk.subject.escrows();
    all.retain(|escrow| escrow.k > 0 && which.direction.is_none_or(|direction| direction == escrow.direction));
    let Page { records, next } = page(&query, all, escrow_place)?;
    let claim = |escrow: Escrow| Claim {
        state: match (escrow.state, escrow.direction) {
            (EscrowState::Flushing, _) => ClaimState::Flushing,
            (EscrowState::Settled | EscrowState::Ended | EscrowState::Refunded, _) => ClaimState::Settled,
            (_, Direction::In) => ClaimState::Held,
            (_, Direction::Out) => ClaimState::Signed,
        },
        escrow: escrow.escrow,
        direction: escrow.direction,
        k: escrow.k,
        cumulative: escrow.cumulative,
    };
    let records = records.into_iter().map(claim).collect();
    Ok(Answer(Page { records, next }))
}

/// The newest payments of this run.
#[utoipa::path(get, path = "/api/v1/payments", tag = "money", params(PageQuery),
    responses((status = 200, body = Page<Payment>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn payments(
    State(desk): State<Desk>,
    Params(query): Params<PageQuery>,
) -> Result<Answer<Page<Payment>>, Problem> {
    let all = desk.subject.history().payments();
    page(&query, all, |payment| (payment.at, number_key(payment.id))).map(Answer)
}

/// The newest payment requests of this run.
#[utoipa::path(get, path = "/api/v1/payment-requests", tag = "money", params(PageQuery),
    responses((status = 200, body = Page<PaymentRequest>), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn payment_requests(
    State(desk): State<Desk>,
    Params(query): Params<PageQuery>,
) -> Result<Answer<Page<PaymentRequest>>, Problem> {
    let all = desk.subject.history().requests();
    page(&query, all, |request| (request.at, number_key(request.id))).map(Answer)
}
