//! Server-sent events, as Horizon sends them: a greeting, each record under its paging token, a farewell after `limit` records
//! (the SDKs then come back with the last token).

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::watch;

use super::App;
use super::problem::Problem;

const HELLO: &str = "retry: 1000\nevent: open\ndata: \"hello\"\n\n";
const BYE: &str = "retry: 10\nevent: close\ndata: \"byebye\"\n\n";

/// Reads the records after a cursor, at most so many, with their paging tokens.
pub trait Source: Send + 'static {
    /// The next records. An error ends the stream.
    fn next(&mut self, limit: u32) -> Result<Vec<(String, Value)>, Problem>;
}

impl<F: FnMut(u32) -> Result<Vec<(String, Value)>, Problem> + Send + 'static> Source for F {
    fn next(&mut self, limit: u32) -> Result<Vec<(String, Value)>, Problem> {
        self(limit)
    }
}

struct Streaming<S> {
    source: S,
    ledgers: watch::Receiver<u32>,
    stopping: watch::Receiver<bool>,
    ready: VecDeque<String>,
    left: u32,
    done: bool,
}

impl<S: Source> Streaming<S> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            if self.done {
                return None;
            }
            self.ledgers.mark_unchanged();
            match self.source.next(self.left) {
                Ok(records) => {
                    self.left = self.left.saturating_sub(records.len() as u32);
                    self.ready.extend(
                        records
                            .into_iter()
                            .map(|(id, data)| format!("id: {id}\ndata: {data}\n\n")),
                    );
                }
                Err(_) => {
                    self.ready
                        .push_back("event: error\ndata: Unexpected stream error\n\n".to_owned());
                    self.done = true;
                }
            }
            if self.left == 0 {
                self.done = true;
                self.ready.push_back(BYE.to_owned());
            }
            if self.ready.is_empty() {
                let over = tokio::select! {
                    changed = self.ledgers.changed() => changed.is_err(),
                    _ = self.stopping.wait_for(|stop| *stop) => true,
                };
                if over {
                    self.done = true;
                    self.ready.push_back(BYE.to_owned());
                }
            }
        }
    }
}

/// Streams at most `limit` records of a source, waiting for further ledgers.
pub fn events(app: &App, limit: u32, source: impl Source) -> Response {
    let state = Streaming {
        source,
        ledgers: app.ledger.watch(),
        stopping: app.stopping.clone(),
        ready: VecDeque::from([HELLO.to_owned()]),
        left: limit,
        done: false,
    };
    let chunks = futures::stream::unfold(state, |mut state| async move {
        state.next().await.map(|chunk| (Ok::<_, Infallible>(chunk), state))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
