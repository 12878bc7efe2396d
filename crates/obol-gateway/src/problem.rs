//! Errors as problem documents (RFC 9457).

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// What went wrong, for programs (`type`, `status`) and for people (`title`, `detail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem: a name that stays the same, below `/problems/`.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    kind: &'static str,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request, and what to do.
    detail: String,
}

macro_rules! kinds {
    ($($name:ident $status:ident $kind:literal $title:literal;)*) => {
        impl Problem {
            $(
                #[doc = $title]
                pub(crate) fn $name(detail: impl Into<String>) -> Problem {
                    let status = StatusCode::$status.as_u16();
                    Problem { kind: concat!("/problems/", $kind), title: $title, status, detail: detail.into() }
                }
            )*
        }
    };
}

kinds! {
    unauthorized UNAUTHORIZED "unauthorized" "The request has not the token.";
    forbidden_name FORBIDDEN "forbidden-name" "The gateway was named by something else than its address.";
    not_found NOT_FOUND "not-found" "There is no such thing.";
    not_for_this_role NOT_FOUND "not-for-this-role" "This program has no such thing.";
    method METHOD_NOT_ALLOWED "method-not-allowed" "This can be asked for by another method only.";
    bad_parameter BAD_REQUEST "bad-parameter" "A parameter cannot be used.";
    bad_body BAD_REQUEST "bad-body" "The body cannot be used.";
    too_long PAYLOAD_TOO_LARGE "too-long" "The body is too long.";
    media_type UNSUPPORTED_MEDIA_TYPE "media-type" "The body is not JSON.";
    not_now CONFLICT "not-now" "This cannot be done now.";
    impossible UNPROCESSABLE_ENTITY "impossible" "The request is of the right form, but cannot be done.";
    other_request UNPROCESSABLE_ENTITY "other-request" "The idempotency key belongs to another request.";
    ledger BAD_GATEWAY "ledger" "The ledger cannot be asked.";
    broken INTERNAL_SERVER_ERROR "broken" "The program failed.";
}

impl Problem {
    /// What is wrong with this request.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let headers = [(CONTENT_TYPE, "application/problem+json"), (CACHE_CONTROL, "no-store")];
        let mut response = (self.status(), headers, body).into_response();
        if self.status() == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, how);
        }
        response
    }
}
