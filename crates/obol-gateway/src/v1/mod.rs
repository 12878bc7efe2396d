//! `/api/v1`: what a relay or a client shows and does, for programs and for the dashboard. The document at `/api/v1/openapi.json` is made from the
//! handlers here.

#![expect(unused_qualifications, reason = "what utoipa writes names its types in full")]

mod live;
mod money;
mod services;
mod settings;
mod state;
pub mod types;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::services::Services;
use crate::subject::{Refused, Subject};

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Desk {
    subject: Arc<dyn Subject>,
    services: Option<Services>,
}

impl Desk {
    pub(crate) fn new(subject: Arc<dyn Subject>, services: Option<Services>) -> Desk {
        Desk { subject, services }
    }

    fn services(&self) -> Result<&Services, Problem> {
        let none = || Problem::not_for_this_role("this program is configured without payments, and has no wallet");
        self.services.as_ref().ok_or_else(none)
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Obol",
        description = "A relay's or a client's local interface. Amounts are stroops, times unix seconds, sizes bytes. \
                       Errors are problem documents (RFC 9457)."
    ),
    security(("token" = [])),
    modifiers(&Security),
    tags(
        (name = "state", description = "How the program is, and what it carried"),
        (name = "money", description = "What there is, what is locked, what was paid"),
        (name = "settings", description = "What may be spent, and settling now"),
        (name = "services", description = "Payment for services beyond the circuit"),
        (name = "events", description = "What happens, as it does")
    )
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", scheme);
    }
}

/// The handlers that need the token, and the document that describes them.
pub(crate) fn routes(desk: Desk) -> (Router, utoipa::openapi::OpenApi) {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(state::status))
        .routes(routes!(state::peers))
        .routes(routes!(state::circuits))
        .routes(routes!(state::tunnels))
        .routes(routes!(state::tariff))
        .routes(routes!(state::limits))
        .routes(routes!(state::history))
        .routes(routes!(money::balances))
        .routes(routes!(money::escrows))
        .routes(routes!(money::escrow))
        .routes(routes!(money::claims))
        .routes(routes!(money::payments))
        .routes(routes!(money::payment_requests))
        .routes(routes!(settings::budgets, settings::set_budgets))
        .routes(routes!(settings::ceilings, settings::set_ceilings))
        .routes(routes!(settings::flush))
        .routes(routes!(services::invoices, services::new_invoice))
        .routes(routes!(services::invoice))
        .routes(routes!(services::check))
        .routes(routes!(services::transfers, services::new_transfer))
        .routes(routes!(services::transfer))
        .routes(routes!(live::events))
        .with_state(desk)
        .split_for_parts();
    (router, document)
}

/// The document, which needs no token: it says what anybody may know.
pub(crate) fn document(document: utoipa::openapi::OpenApi) -> Router {
    let text = document.to_json().unwrap_or_default();
    let shown = move || async move { ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], text) };
    Router::new().route("/api/v1/openapi.json", get(shown))
}

/// An answer.
struct Answer<T>(T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        ([(CACHE_CONTROL, "no-store")], Json(self.0)).into_response()
    }
}

/// A JSON body; what cannot be read is a problem document.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        let kind = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let kind = kind
            .and_then(|kind| kind.split(';').next())
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if kind != "application/json" {
            return Err(Problem::media_type("send `Content-Type: application/json`"));
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| match rejection.status() {
                axum::http::StatusCode::PAYLOAD_TOO_LARGE => Problem::too_long("at most 16 KiB are read"),
                _ => Problem::bad_body("it was cut off"),
            })?;
        // An array would be taken for an object's values in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::bad_body("it is not a JSON object"));
        }
        match serde_json::from_slice(&bytes) {
            Ok(body) => Ok(Body(body)),
            Err(error) => Err(Problem::bad_body(error.to_string())),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::Wrong(why) => Problem::impossible(why),
            Refused::NotNow(why) => Problem::not_now(why),
            Refused::Unknown(why) => Problem::not_found(why),
        }
    }
}
