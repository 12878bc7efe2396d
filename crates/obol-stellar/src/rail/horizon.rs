//! The rail over Horizon's HTTP interface: the public servers', and the embedded ledger's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use obol_cell::AccountId;
use serde::de::DeserializeOwned;

use super::connect::Connect;
use super::http::{Answer, Base, HttpClient, HttpError};
use super::json;
use super::{
    AccountState, BadReply, FeeStats, FriendbotError, LedgerHead, Rail, RailConfig, RailError, SubmitError, TxRecord,
};
use crate::key::account_text;
use crate::network::Network;
use crate::tx::{SignedTx, TxHash};

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the answer to a question.
    pub ask: Duration,
    /// For the answer to a submission. Horizon itself waits 30 s for a ledger.
    pub submit: Duration,
}

impl Default for Timeouts {
    /// 15 s, 30 s and 60 s: long enough over Tor.
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(15),
            ask: Duration::from_secs(30),
            submit: Duration::from_secs(60),
        }
    }
}

/// One Horizon server.
pub struct Horizon {
    http: HttpClient,
    network: Network,
    friendbot: Option<HttpClient>,
    friendbot_path: String,
    connector: Arc<dyn Connect>,
    timeouts: Timeouts,
}

impl Horizon {
    /// A rail to the server at `url` (`http://` or `https://`, no query), which has to serve `network`.
    ///
    /// # Errors
    /// When `url` is not such a URL.
    pub fn new(
        url: &str,
        network: Network,
        connector: Arc<dyn Connect>,
        timeouts: Timeouts,
    ) -> Result<Horizon, BadUrl> {
        let base = Base::parse(url).ok_or_else(|| BadUrl { url: url.to_owned() })?;
        Ok(Horizon {
            http: HttpClient::new(base, Arc::clone(&connector), timeouts.connect),
            network,
            friendbot: None,
            friendbot_path: "/friendbot".to_owned(),
            connector,
            timeouts,
        })
    }

    /// With a friendbot at another URL than the server's own `/friendbot`.
    ///
    /// # Errors
    /// When `url` is no URL.
    pub fn with_friendbot(mut self, url: &str) -> Result<Horizon, BadUrl> {
        let base = Base::parse(url).ok_or_else(|| BadUrl { url: url.to_owned() })?;
        self.friendbot = Some(HttpClient::new(
            base,
            Arc::clone(&self.connector),
            self.timeouts.connect,
        ));
        self.friendbot_path = String::new();
        Ok(self)
    }

    /// One rail for each server of a configuration, in its order.
    ///
    /// # Errors
    /// When there is none, or one is no URL.
    pub fn all(
        config: &RailConfig,
        connector: &Arc<dyn Connect>,
        timeouts: Timeouts,
    ) -> Result<Vec<Arc<dyn Rail>>, BadUrl> {
        if config.urls.is_empty() {
            return Err(BadUrl { url: String::new() });
        }
        config
            .urls
            .iter()
            .map(|url| {
                let horizon = Horizon::new(url, config.network(), Arc::clone(connector), timeouts)?;
                let horizon = match &config.friendbot {
                    Some(friendbot) => horizon.with_friendbot(friendbot)?,
                    None => horizon,
                };
                Ok(Arc::new(horizon) as Arc<dyn Rail>)
            })
            .collect()
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, RailError> {
        let answer = self.http.get(path, self.timeouts.ask).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(parse(&answer)?)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refusal(&answer)),
        }
    }

    async fn must<T: DeserializeOwned>(&self, path: &str) -> Result<T, RailError> {
        match self.get(path).await? {
            Some(value) => Ok(value),
            None => Err(RailError::Refused { status: 404 }),
        }
    }
}

fn parse<T: DeserializeOwned>(answer: &Answer) -> Result<T, RailError> {
    serde_json::from_slice(&answer.body).map_err(|_| RailError::BadReply(BadReply::NotJson))
}

fn refusal(answer: &Answer) -> RailError {
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => RailError::Busy {
            retry_after: answer.retry_after,
        },
        other => RailError::Refused { status: other.as_u16() },
    }
}

#[async_trait]
impl Rail for Horizon {
    async fn check_network(&self) -> Result<(), RailError> {
        let root: json::Root = self.must("/").await?;
        if root.network_passphrase == self.network.passphrase() {
            return Ok(());
        }
        let served = root
            .network_passphrase
            .chars()
            .take(80)
            .flat_map(char::escape_debug)
            .collect();
        Err(RailError::OtherNetwork { served })
    }

    async fn latest_ledger(&self) -> Result<LedgerHead, RailError> {
        let page: json::Page<json::Ledger> = self.must("/ledgers?order=desc&limit=1").await?;
        let newest = page
            .embedded
            .records
            .first()
            .ok_or(RailError::BadReply(BadReply::Field("records")))?;
        newest.read().map_err(RailError::BadReply)
    }

    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        let path = format!("/accounts/{}", account_text(&account));
        let Some(found) = self.get::<json::Account>(&path).await? else {
            return Ok(None);
        };
        let state = found.read().map_err(RailError::BadReply)?;
        if state.id != account {
            return Err(RailError::BadReply(BadReply::Field("account_id")));
        }
        Ok(Some(state))
    }

    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        let found: Option<json::Transaction> = self.get(&format!("/transactions/{hash}")).await?;
        found
            .map(|transaction| transaction.read().map_err(RailError::BadReply))
            .transpose()
    }

    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        let form = format!("tx={}", form_encoded(&BASE64.encode(tx.to_bytes()?)));
        let answer = match self.http.post_form("/transactions", form, self.timeouts.submit).await {
            Ok(answer) => answer,
            Err(HttpError {
                error,
                may_have_arrived: false,
            }) => return Err(SubmitError::NotSent(error)),
            Err(HttpError { error, .. }) => return Err(SubmitError::Unknown { cause: error }),
        };
        let unknown = |cause| SubmitError::Unknown { cause };
        match answer.status {
            StatusCode::OK | StatusCode::CREATED => {
                let transaction: json::Transaction = parse(&answer).map_err(unknown)?;
                let record = transaction.read().map_err(|e| unknown(RailError::BadReply(e)))?;
                if record.hash != tx.hash() {
                    return Err(unknown(RailError::BadReply(BadReply::Field("hash"))));
                }
                Ok(record)
            }
            StatusCode::BAD_REQUEST => match parse::<json::Problem>(&answer).ok().and_then(|p| p.codes()) {
                Some(codes) => Err(SubmitError::Rejected { codes }),
                None => Err(unknown(refusal(&answer))),
            },
            // 504: Horizon gave up waiting. Any other: who knows what stands between.
            _ => Err(unknown(refusal(&answer))),
        }
    }

    async fn fee_stats(&self) -> Result<FeeStats, RailError> {
        let fees: json::Fees = self.must("/fee_stats").await?;
        fees.read().map_err(RailError::BadReply)
    }

    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError> {
        let query = format!("?addr={}", account_text(&account));
        let path = format!("{}{query}", self.friendbot_path);
        let bot = self.friendbot.as_ref().unwrap_or(&self.http);
        let mut answer = bot.get(&path, self.timeouts.submit).await?;
        if answer.status.is_redirection() {
            // Public test networks answer with the address of their friendbot, with or without the query.
            let location = answer.location.take().ok_or(FriendbotError::None)?;
            let bare = location.split('?').next().unwrap_or_default();
            let base = Base::parse(bare).ok_or(FriendbotError::None)?;
            let elsewhere = HttpClient::new(base, Arc::clone(&self.connector), self.timeouts.connect);
            answer = elsewhere.get(&query, self.timeouts.submit).await?;
        }
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(FriendbotError::None),
            StatusCode::BAD_REQUEST => {
                let problem: json::Problem = parse(&answer)?;
                if problem
                    .detail
                    .is_some_and(|d| d.contains("already funded") || d.contains("AlreadyExist"))
                {
                    Err(FriendbotError::AlreadyFunded)
                } else {
                    Err(FriendbotError::Rail(refusal(&answer)))
                }
            }
            _ => Err(FriendbotError::Rail(refusal(&answer))),
        }
    }
}

/// Base64 in a form: its three characters that mean something else there are escaped.
fn form_encoded(base64: &str) -> String {
    base64.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

/// Not the URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{url}\" is not the URL of a Horizon server, such as https://horizon.stellar.org")]
pub struct BadUrl {
    /// What was given.
    pub url: String,
}
