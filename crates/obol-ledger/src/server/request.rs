//! What every request has: where it came in, its query, its page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::{FromRequestParts, Query};
use axum::http::header;
use axum::http::request::Parts;

use super::problem::Problem;
use crate::store::Page;
use crate::text;

/// The parts of a request that answers are built from.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `http://host:port`
    pub base: String,
    /// The path.
    pub path: String,
    /// The query, decoded; of a repeated name the last.
    pub query: BTreeMap<String, String>,
    /// Whether the caller wants a stream of events.
    pub stream: bool,
    /// `Last-Event-ID`: where a stream is to go on.
    pub last_event: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = |name| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let host = text(header::HOST).unwrap_or("localhost");
        let query: Query<Vec<(String, String)>> = Query::try_from_uri(&parts.uri)
            .map_err(|_| Problem::bad_request("query", "the query string cannot be read"))?;
        Ok(Self {
            base: format!("http://{host}"),
            path: parts.uri.path().to_owned(),
            query: query.0.into_iter().collect(),
            stream: text(header::ACCEPT).is_some_and(|accept| accept.contains("text/event-stream")),
            last_event: parts
                .headers
                .get("last-event-id")
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned),
        })
    }
}

impl Asked {
    /// A parameter, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.query
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A switch.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::bad_request(name, "must be true or false")),
        }
    }

    /// `limit`: 10 unless given, 1 to 200.
    pub fn limit(&self) -> Result<u32, Problem> {
        match self.get("limit").map(str::parse) {
            None => Ok(10),
            Some(Ok(limit @ 1..=200)) => Ok(limit),
            Some(_) => Err(Problem::bad_request("limit", "limit: must be a number from 1 to 200")),
        }
    }

    /// `order`: whether newest first.
    pub fn descending(&self) -> Result<bool, Problem> {
        match self.get("order") {
            None | Some("asc") => Ok(false),
            Some("desc") => Ok(true),
            Some(_) => Err(Problem::bad_request("order", "order: must be asc or desc")),
        }
    }

    /// The page of a resource whose paging tokens are numbers. `latest`: the last closed ledger, for `cursor=now`.
    pub fn page(&self, latest: u32) -> Result<Page, Problem> {
        let (descending, limit) = (self.descending()?, self.limit()?);
        let cursor = self
            .last_event
            .as_deref()
            .filter(|_| self.stream)
            .or(self.get("cursor"));
        let cursor = match cursor {
            None if descending => i64::MAX,
            None => 0,
            Some("now") => ((i64::from(latest) + 1) << 32) - 1,
            Some(cursor) => match cursor.parse() {
                Ok(cursor @ 0..) => cursor,
                _ => return Err(Problem::bad_request("cursor", "cursor: invalid value")),
            },
        };
        Ok(Page {
            cursor,
            descending,
            limit,
        })
    }

    /// The address of this resource with other paging.
    pub fn link(&self, cursor: &str, limit: u32, descending: bool) -> String {
        let mut out = format!(
            "{}{}?cursor={}&limit={limit}&order={}",
            self.base,
            self.path,
            escape(cursor),
            order(descending)
        );
        for (name, value) in &self.query {
            if !matches!(name.as_str(), "cursor" | "limit" | "order") {
                let _ = write!(out, "&{}={}", escape(name), escape(value));
            }
        }
        out
    }

    /// An address under this server.
    pub fn href(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

fn order(descending: bool) -> &'static str {
    if descending { "desc" } else { "asc" }
}

/// Percent-encodes a query value.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Reads `G...` from a path or parameter.
pub fn account_id(field: &str, value: &str) -> Result<[u8; 32], Problem> {
    text::parse_account(value).ok_or_else(|| {
        Problem::bad_request(
            field,
            "Account ID must start with `G` and contain 56 alphanum characters",
        )
    })
}

/// Reads a transaction hash from a path.
pub fn hash(value: &str) -> Result<[u8; 32], Problem> {
    hex::decode(value)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Problem::bad_request("tx_id", "Transaction hash must be 64 hexadecimal digits"))
}

/// Reads a ledger sequence from a path.
pub fn sequence(value: &str) -> Result<u32, Problem> {
    value
        .parse()
        .map_err(|_| Problem::bad_request("ledger_id", "must be a ledger sequence"))
}
