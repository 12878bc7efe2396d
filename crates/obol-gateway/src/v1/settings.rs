//! What may be spent, and settling now.

use axum::extract::State;
use axum::http::StatusCode;

use super::types::{Budgets, BudgetsWanted, Ceilings, FlushWanted, Flushing};
use super::{Answer, Body, Desk};
use crate::problem::Problem;

fn not_here(what: &str) -> Problem {
    Problem::not_for_this_role(format!("this program has no {what}"))
}

/// What a client may sign away, and what it has.
#[utoipa::path(get, path = "/api/v1/budgets", tag = "settings",
    responses((status = 200, body = Budgets), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A relay has none.")))]
pub(super) async fn budgets(State(desk): State<Desk>) -> Result<Answer<Budgets>, Problem> {
    Ok(Answer(desk.subject.budgets().ok_or_else(|| not_here("budgets"))?))
}

/// Sets what a client may sign away from now on; kept across restarts.
#[utoipa::path(put, path = "/api/v1/budgets", tag = "settings", request_body = BudgetsWanted,
    responses((status = 200, body = Budgets), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A relay has none."),
        (status = 415, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn set_budgets(
    State(desk): State<Desk>,
    Body(wanted): Body<BudgetsWanted>,
) -> Result<Answer<Budgets>, Problem> {
    desk.subject.budgets().ok_or_else(|| not_here("budgets"))?;
    let all = [wanted.circuit, wanted.day, wanted.month, wanted.total];
    if all.into_iter().flatten().any(|budget| budget < 0) {
        return Err(Problem::bad_body("a budget is at least 0; null is none"));
    }
    desk.subject.set_budgets(wanted)?;
    budgets(State(desk)).await
}

/// What a client pays at most, and for what.
#[utoipa::path(get, path = "/api/v1/ceilings", tag = "settings",
    responses((status = 200, body = Ceilings), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A relay has none.")))]
pub(super) async fn ceilings(State(desk): State<Desk>) -> Result<Answer<Ceilings>, Problem> {
    Ok(Answer(desk.subject.ceilings().ok_or_else(|| not_here("ceilings"))?))
}

/// Sets what a client pays at most from now on, for new tunnels; kept across restarts.
#[utoipa::path(put, path = "/api/v1/ceilings", tag = "settings", request_body = Ceilings,
    responses((status = 200, body = Ceilings), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A relay has none."),
        (status = 415, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn set_ceilings(
    State(desk): State<Desk>,
    Body(wanted): Body<Ceilings>,
) -> Result<Answer<Ceilings>, Problem> {
    desk.subject.ceilings().ok_or_else(|| not_here("ceilings"))?;
    let ceilings_wanted = [Some(wanted.price_per_64_kib), wanted.tunnel_price_per_64_kib];
    let most = i64::MAX.unsigned_abs();
    if ceilings_wanted.into_iter().flatten().any(|ceiling| ceiling > most) {
        return Err(Problem::bad_body("a ceiling is less than 2^63 stroops"));
    }
    if ceilings_wanted.contains(&Some(0)) {
        return Err(Problem::bad_body(
            "a ceiling is at least 1 stroop; `pay` = \"never\" pays nobody",
        ));
    }
    desk.subject.set_ceilings(wanted)?;
    ceilings(State(desk)).await
}

/// Settles an escrow now, or all: a relay flushes those that pay it, a client asks its guards to.
#[utoipa::path(post, path = "/api/v1/flush", tag = "settings", request_body = FlushWanted,
    responses((status = 202, body = Flushing), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn flush(
    State(desk): State<Desk>,
    Body(wanted): Body<FlushWanted>,
) -> Result<(StatusCode, Answer<Flushing>), Problem> {
    let flushing = desk.subject.flush(wanted.escrow).await?;
    Ok((StatusCode::ACCEPTED, Answer(Flushing { flushing })))
}
