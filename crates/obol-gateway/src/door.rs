//! Who gets in: requests that name the gateway by its address, with the token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::problem::Problem;
use crate::token::Token;

/// Lets a request pass only if its `Host` is an address or `localhost`: a web page that points a name of its own at 127.0.0.1 gets nothing (DNS rebinding).
pub(crate) async fn named_by_address(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    // A request may name it in its first line instead (RFC 9112, section 3.2.2).
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if host.is_some_and(is_address) {
        next.run(request).await
    } else {
        Problem::forbidden_name("name the gateway by its address, or as localhost").into_response()
    }
}

/// Lets a request pass only if it has the token.
pub(crate) async fn with_token(State(token): State<Arc<Token>>, request: Request, next: Next) -> Response {
    match has_token(request.headers(), &token) {
        true => next.run(request).await,
        false => Problem::unauthorized("send the token of the configured file as `Authorization: Bearer TOKEN`")
            .into_response(),
    }
}

fn has_token(headers: &HeaderMap, token: &Token) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    given.is_some_and(|given| token.is(given.trim()))
}

/// What is answered to paths that are none.
pub(crate) async fn nowhere(uri: Uri) -> Problem {
    Problem::not_found(format!(
        "{} is no path of this interface: see /api/v1/openapi.json",
        uri.path()
    ))
}

/// What is answered to methods that a path does not have.
pub(crate) async fn other_method() -> Problem {
    Problem::method("see /api/v1/openapi.json for the methods of this path")
}

fn is_address(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<IpAddr>().is_ok()
}
