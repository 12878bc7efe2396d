//! What happens, as it does: server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use utoipa::ToSchema;

use super::Desk;
use crate::problem::Problem;

/// How often the whole state is told, whatever happens.
const STATUS: Duration = Duration::from_secs(5);
/// One event, as it stands in the stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document: axum writes events")]
struct ServerSentEvent {
    /// What `data` is: the name of a path, or `gap`.
    event: String,
    /// A JSON object.
    data: String,
    /// Its number, which `Last-Event-ID` takes; a status has none.
    id: Option<String>,
}

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What happens, as it does (`text/event-stream`). Each event's `data` is the JSON object that the path of the same name has; `gap` says that some
/// were missed. `Last-Event-ID` goes on where a connection ended.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was seen; `gap` comes first where others were missed since, or nobody had that one.")),
    responses((status = 200, body = ServerSentEvent, content_type = "text/event-stream"),
        (status = 401, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn events(
    State(desk): State<Desk>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // What was never given out is of another run: it is answered by a gap.
    let seen = headers.get("last-event-id").map(|id| {
        let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
        id.unwrap_or(u64::MAX)
    });
    let history = desk.subject.history();
    let reading = history.feed().read(seen);
    let mut ticks = tokio::time::interval(STATUS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let gap = || Event::default().event("gap").data("{}");
    let mut first: std::collections::VecDeque<Event> = reading.gap.then(gap).into_iter().collect();
    first.extend(reading.missed.iter().map(|event| shown(event)));
    let begin = (first, reading.next, ticks, desk);
    let stream = futures::stream::unfold(begin, move |(mut first, mut next, mut ticks, desk)| async move {
        if let Some(event) = first.pop_front() {
            return Some((Ok(event), (first, next, ticks, desk)));
        }
        let event = tokio::select! {
            event = next.recv() => match event {
                Ok(event) => shown(&event),
                Err(RecvError::Lagged(_)) => gap(),
                Err(RecvError::Closed) => return None,
            },
            _ = ticks.tick() => {
                let status = serde_json::to_string(&desk.subject.status()).unwrap_or_default();
                Event::default().event("status").data(status)
            }
        };
        Some((Ok(event), (first, next, ticks, desk)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn shown(event: &crate::live::Numbered) -> Event {
    Event::default()
        .id(event.id.to_string())
        .event(event.name)
        .data(&event.data)
}
