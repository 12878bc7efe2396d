//! How the program is, and what it carried.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::types::{Bins, Circuit, Limit, Peer, Status, Tariff, Tunnel};
use super::{Answer, Desk};
use crate::history::MOST_BINS;
use crate::paging::Params;
use crate::problem::Problem;

/// All of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct All<T> {
    /// They.
    pub(super) records: Vec<T>,
}

/// How the program is.
#[utoipa::path(get, path = "/api/v1/status", tag = "state",
    responses((status = 200, body = Status), (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn status(State(desk): State<Desk>) -> Answer<Status> {
    Answer(desk.subject.status())
}

/// Neighbours with whom there is money: a relay's other relays, a client's guards.
#[utoipa::path(get, path = "/api/v1/peers", tag = "state",
    responses((status = 200, body = All<Peer>), (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn peers(State(desk): State<Desk>) -> Answer<All<Peer>> {
    let records = desk.subject.peers();
    Answer(All { records })
}

fn not_here(what: &str) -> Problem {
    Problem::not_for_this_role(format!("this program has no {what}"))
}

/// A relay's circuits.
#[utoipa::path(get, path = "/api/v1/circuits", tag = "state",
    responses((status = 200, body = All<Circuit>), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A client has tunnels.")))]
pub(super) async fn circuits(State(desk): State<Desk>) -> Result<Answer<All<Circuit>>, Problem> {
    let records = desk.subject.circuits().ok_or_else(|| not_here("circuits of others"))?;
    Ok(Answer(All { records }))
}

/// A client's tunnels, hop by hop.
#[utoipa::path(get, path = "/api/v1/tunnels", tag = "state",
    responses((status = 200, body = All<Tunnel>), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A relay has circuits.")))]
pub(super) async fn tunnels(State(desk): State<Desk>) -> Result<Answer<All<Tunnel>>, Problem> {
    let records = desk.subject.tunnels().ok_or_else(|| not_here("tunnels"))?;
    Ok(Answer(All { records }))
}

/// What a relay asks for.
#[utoipa::path(get, path = "/api/v1/tariff", tag = "state",
    responses((status = 200, body = Tariff), (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "A client asks for nothing.")))]
pub(super) async fn tariff(State(desk): State<Desk>) -> Result<Answer<Tariff>, Problem> {
    Ok(Answer(desk.subject.tariff().ok_or_else(|| not_here("tariff"))?))
}

/// What is limited, and how much of it is used.
#[utoipa::path(get, path = "/api/v1/limits", tag = "state",
    responses((status = 200, body = All<Limit>), (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn limits(State(desk): State<Desk>) -> Answer<All<Limit>> {
    let records = desk.subject.limits();
    Answer(All { records })
}

/// Which span of time, in how long bins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// From this time, unix seconds. Default: before `to` an hour (bins of 60), a day (300), a week (3600) or 90 days.
    from: Option<u64>,
    /// Until this time, unix seconds. Default: now.
    to: Option<u64>,
    /// The length of a bin, seconds: 60 or 300 (known for the last day), 3600 or 86400.
    #[param(minimum = 60, maximum = 86400, default = 3600)]
    bin: Option<u64>,
    /// A neighbour by its Ed25519 identity in hexadecimal. Default: all.
    peer: Option<String>,
}

/// What was carried and paid, in bins of equal length without gaps.
#[utoipa::path(get, path = "/api/v1/history", tag = "state", params(HistoryQuery),
    responses((status = 200, body = Bins), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "Of the right form, but impossible."),
        (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn history(
    State(desk): State<Desk>,
    Params(query): Params<HistoryQuery>,
) -> Result<Answer<Bins>, Problem> {
    let bin = query.bin.unwrap_or(3600);
    if ![60, 300, 3600, 86_400].contains(&bin) {
        return Err(Problem::impossible(format!(
            "bin is {bin}: 60, 300, 3600 or 86400 is possible"
        )));
    }
    let to = query.to.unwrap_or_else(|| crate::history::now().saturating_add(1));
    let usual = match bin {
        60 => 3_600,
        300 => 86_400,
        3_600 => 7 * 86_400,
        _ => 90 * 86_400,
    };
    let from = query.from.unwrap_or_else(|| to.saturating_sub(usual));
    if from > to {
        return Err(Problem::impossible("from is after to"));
    }
    if to > u64::from(u32::MAX) * 16 {
        return Err(Problem::impossible(
            "to is beyond every calendar: unix seconds are asked for",
        ));
    }
    // The bin that `from` falls into counts, too.
    if (to - from).div_ceil(bin) >= MOST_BINS {
        return Err(Problem::impossible(format!(
            "there would be more than {MOST_BINS} bins: ask for a shorter time or longer bins"
        )));
    }
    let history = desk.subject.history();
    let bins = tokio::task::spawn_blocking(move || history.bins(from, to, bin, query.peer.as_deref())).await;
    let broken = |error: &dyn std::fmt::Display| Problem::broken(error.to_string());
    let bins = bins.map_err(|error| broken(&error))?.map_err(|error| broken(&error))?;
    Ok(Answer(Bins { bin, bins }))
}
