//! Asking the friendbot of a test network for lumens.

use std::sync::Arc;

use hyper::StatusCode;
use obol_cell::AccountId;
use serde::Deserialize;

use super::FriendbotError;
use super::connect::Connect;
use super::horizon::Timeouts;
use super::http::{Base, HttpClient};
use crate::key::account_text;

/// A problem document's detail, all that is read of it.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    detail: Option<String>,
}

/// Asks `bot` at `path` to fund an account; follows it once to where it says that friendbot is.
pub(super) async fn ask(
    bot: &HttpClient,
    path: &str,
    account: AccountId,
    connector: &Arc<dyn Connect>,
    timeouts: Timeouts,
) -> Result<(), FriendbotError> {
    let query = format!("?addr={}", account_text(&account));
    let mut answer = bot.get(&format!("{path}{query}"), timeouts.submit).await?;
    if answer.status.is_redirection() {
        // Public test networks answer with the address of their friendbot, with or without the query.
        let location = answer.location.take().ok_or(FriendbotError::None)?;
        let bare = location.split('?').next().unwrap_or_default();
        let base = Base::parse(bare).ok_or(FriendbotError::None)?;
        let elsewhere = HttpClient::new(base, Arc::clone(connector), timeouts.connect);
        answer = elsewhere.get(&query, timeouts.submit).await?;
    }
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(FriendbotError::None),
        StatusCode::BAD_REQUEST => {
            let refusal: Refusal = super::horizon::parse(&answer)?;
            let funded = |d: String| d.contains("already funded") || d.contains("AlreadyExist");
            if refusal.detail.is_some_and(funded) {
                Err(FriendbotError::AlreadyFunded)
            } else {
                Err(FriendbotError::Rail(super::horizon::refusal(&answer)))
            }
        }
        _ => Err(FriendbotError::Rail(super::horizon::refusal(&answer))),
    }
}

/// Asks the friendbot at `url`.
pub(super) async fn ask_at(
    url: &str,
    account: AccountId,
    connector: &Arc<dyn Connect>,
    timeouts: Timeouts,
) -> Result<(), FriendbotError> {
    let base = Base::parse(url).ok_or(FriendbotError::None)?;
    let bot = HttpClient::new(base, Arc::clone(connector), timeouts.connect);
    ask(&bot, "", account, connector, timeouts).await
}
