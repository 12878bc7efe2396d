//! Errors as Horizon tells them: `application/problem+json`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::store::StoreError;

/// An error answer.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    extras: Option<Value>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            title,
            detail: detail.into(),
            extras: None,
        }
    }

    fn with(mut self, extras: Value) -> Self {
        self.extras = Some(extras);
        self
    }

    /// 404.
    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "Resource Missing",
            "The resource at the url requested was not found. This usually occurs for one of two reasons: The url requested is not valid, \
             or no data in our database could be found with the parameters provided.",
        )
    }

    /// 405.
    pub fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Method Not Allowed",
            "This path does not know the method.",
        )
    }

    /// 400 about one parameter.
    pub fn bad_request(field: &str, reason: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "Bad Request",
            "The request you sent was invalid in some way.",
        )
        .with(json!({ "invalid_field": field, "reason": reason.into() }))
    }

    /// 400 with a sentence and nothing else (friendbot).
    pub fn refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "Bad Request", detail)
    }

    /// 403: turned off here.
    pub fn forbidden(detail: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    /// 415.
    pub fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Unsupported Media Type",
            "The request has an unsupported content type. Presently, the only supported content type is application/x-www-form-urlencoded.",
        )
    }

    /// 400: no transaction in it.
    pub fn malformed(envelope: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "transaction_malformed",
            "Transaction Malformed",
            "Horizon could not decode the transaction envelope in this request. A transaction should be an XDR TransactionEnvelope struct \
             encoded using base64.",
        )
        .with(json!({ "envelope_xdr": envelope }))
    }

    /// 400: the ledger refused the transaction, or it failed.
    pub fn failed(extras: Value) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "transaction_failed",
            "Transaction Failed",
            "The transaction failed when submitted to the stellar network. The `extras.result_codes` field on this response contains \
             further details.",
        )
        .with(extras)
    }

    /// 504: nobody knows yet.
    pub fn timeout(hash: &str, envelope: &str) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "transaction_submission_timeout",
            "Transaction Submission Timeout",
            "Your transaction submission request has timed out. This does not necessarily mean the submission has failed. Before \
             resubmitting, please use the transaction hash provided in `extras.hash` to poll the GET /transactions endpoint.",
        )
        .with(json!({ "hash": hash, "envelope_xdr": envelope }))
    }

    /// 406: a stream was asked for where there is none.
    pub fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            "An acceptable response content-type could not be provided for \
             this request",
            "This resource cannot be streamed.",
        )
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "Internal Server Error",
            "An error occurred while processing this request.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("https://stellar.org/horizon-errors/{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let (Some(extras), Some(object)) = (self.extras, body.as_object_mut()) {
            object.insert("extras".to_owned(), extras);
        }
        let mut response = (self.status, body.to_string()).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json; charset=utf-8"),
        );
        response
    }
}
