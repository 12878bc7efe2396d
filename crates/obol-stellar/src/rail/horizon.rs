//! The rail over Horizon's HTTP interface: the public servers', and the embedded ledger's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::{Method, StatusCode};
use obol_cell::AccountId;
use serde::de::DeserializeOwned;

use super::connect::Connect;
use super::http::{Answer, Base, Body, HttpClient, HttpError};
use super::{
    AccountState, BadReply, FeeStats, FriendbotError, LedgerHead, Newest, Oldest, Rail, RailError, Sighting,
    SubmitError, TxPayments, TxRecord,
};
use super::{friendbot, json};
use crate::key::account_text;
use crate::network::Network;
use crate::tx::{Memo, SignedTx, TxHash};

/// Transactions of a page, and its largest size: each may have 100 operations, and everything that they changed.
const PAGE: usize = 20;
const LARGEST_PAGE: usize = 16 * 1024 * 1024;
/// The longest history of an account that is read, in pages.
const MOST_PAGES: usize = 10_000;

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
    newest: Newest,
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
            newest: Newest::default(),
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

    /// Asked at most so often in a minute; `None`: without a limit.
    pub fn paced(mut self, requests_per_minute: Option<u32>) -> Horizon {
        self.http = self.http.paced(requests_per_minute);
        self
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, RailError> {
        Ok(self.get_as_of(path).await?.0)
    }

    /// What is there, and the ledger that the answer is from, where the server says so.
    async fn get_as_of<T: DeserializeOwned>(&self, path: &str) -> Result<(Option<T>, Option<u32>), RailError> {
        let answer = self.http.get(path, self.timeouts.ask).await?;
        let found = match answer.status {
            StatusCode::OK => Some(parse(&answer)?),
            StatusCode::NOT_FOUND => None,
            _ => return Err(refusal(&answer)),
        };
        if let Some(ledger) = answer.latest_ledger {
            self.newest.see(ledger)?;
        }
        Ok((found, answer.latest_ledger))
    }

    async fn account_as_of(&self, account: AccountId) -> Result<(Option<AccountState>, Option<u32>), RailError> {
        let path = format!("/accounts/{}", account_text(&account));
        let (found, ledger) = self.get_as_of::<json::Account>(&path).await?;
        let Some(found) = found else {
            return Ok((None, ledger));
        };
        let state = found.read().map_err(RailError::BadReply)?;
        if state.id != account {
            return Err(RailError::BadReply(BadReply::Field("account_id")));
        }
        Ok((Some(state), ledger))
    }

    async fn transaction_as_of(&self, hash: TxHash) -> Result<(Option<TxRecord>, Option<u32>), RailError> {
        let (found, ledger) = self
            .get_as_of::<json::Transaction>(&format!("/transactions/{hash}"))
            .await?;
        let Some(found) = found else {
            return Ok((None, ledger));
        };
        if !found.answers(hash) {
            return Err(RailError::BadReply(BadReply::Field("hash")));
        }
        Ok((Some(found.read().map_err(RailError::BadReply)?), ledger))
    }

    /// How far back the server's history goes.
    async fn oldest(&self) -> Result<Oldest, RailError> {
        let root: json::Root = self.must("/").await?;
        let ledger = root
            .history_elder_ledger
            .ok_or(RailError::BadReply(BadReply::Field("history_elder_ledger")))?;
        Ok(Oldest {
            ledger,
            close_time: None,
        })
    }

    async fn must<T: DeserializeOwned>(&self, path: &str) -> Result<T, RailError> {
        match self.get(path).await? {
            Some(value) => Ok(value),
            None => Err(RailError::Refused { status: 404 }),
        }
    }
}

pub(super) fn parse<T: DeserializeOwned>(answer: &Answer) -> Result<T, RailError> {
    serde_json::from_slice(&answer.body).map_err(|_| RailError::BadReply(BadReply::NotJson))
}

pub(super) fn refusal(answer: &Answer) -> RailError {
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
        let head = newest.read().map_err(RailError::BadReply)?;
        self.newest.see(head.sequence)?;
        Ok(head)
    }

    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        Ok(self.account_as_of(account).await?.0)
    }

    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        Ok(self.transaction_as_of(hash).await?.0)
    }

    async fn payments(&self, hash: TxHash) -> Result<Option<TxPayments>, RailError> {
        let found: Option<json::Transaction> = self.get(&format!("/transactions/{hash}")).await?;
        found
            .map(|found| found.payments(self.network.id(), Some(hash)))
            .transpose()
    }

    async fn payments_with_memo(&self, account: AccountId, memo: [u8; 32]) -> Result<Vec<TxPayments>, RailError> {
        let account = account_text(&account);
        let mut found = Vec::new();
        let mut last: Option<u64> = None;
        for _ in 0..MOST_PAGES {
            let from = last.map_or_else(String::new, |last| format!("&cursor={last}"));
            let path = format!("/accounts/{account}/transactions?order=asc&limit={PAGE}{from}");
            let answer = self
                .http
                .ask(Method::GET, &path, None, self.timeouts.ask, LARGEST_PAGE)
                .await?;
            let page: json::Page<json::Transaction> = match answer.status {
                StatusCode::OK => parse(&answer)?,
                // Of an account that never was there is no list.
                StatusCode::NOT_FOUND if last.is_none() => return Ok(found),
                _ => return Err(refusal(&answer)),
            };
            if let Some(ledger) = answer.latest_ledger {
                self.newest.see(ledger)?;
            }
            let records = page.embedded.records;
            if records.is_empty() {
                return Ok(found);
            }
            for record in records {
                let place = record.place().map_err(RailError::BadReply)?;
                // Oldest first, each once: a server cannot keep us here.
                if last.is_some_and(|last| place <= last) {
                    return Err(RailError::BadReply(BadReply::Field("paging_token")));
                }
                last = Some(place);
                let paid = record.payments(self.network.id(), None)?;
                if paid.record.successful && paid.memo == Memo::Hash(memo) {
                    found.push(paid);
                }
            }
        }
        Err(RailError::BadReply(BadReply::TooLong))
    }

    async fn look(&self, hash: TxHash, inner: Option<TxHash>, source: AccountId) -> Result<Sighting, RailError> {
        let head = self.latest_ledger().await?;
        let (source, account_ledger) = self.account_as_of(source).await?;
        // What is not there must be absent as of what the account and the head are from, or it says nothing: several
        // machines may be behind one name.
        let needed = head.sequence.max(account_ledger.unwrap_or(0));
        for hash in [Some(hash), inner].into_iter().flatten() {
            let (record, ledger) = self.transaction_as_of(hash).await?;
            if record.is_some() {
                return Ok(Sighting {
                    head,
                    source,
                    record,
                    oldest: None,
                });
            }
            match ledger.map(|ledger| needed.saturating_sub(ledger)) {
                Some(behind) if behind > 0 => return Err(RailError::Stale { behind }),
                _ => {}
            }
        }
        Ok(Sighting {
            head,
            source,
            record: None,
            oldest: Some(self.oldest().await?),
        })
    }

    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        let form = format!("tx={}", form_encoded(&BASE64.encode(tx.to_bytes()?)));
        let form = Body {
            content_type: "application/x-www-form-urlencoded",
            bytes: form.into(),
        };
        let answer = match self.http.post_once("/transactions", form, self.timeouts.submit).await {
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
        let bot = self.friendbot.as_ref().unwrap_or(&self.http);
        friendbot::ask(bot, &self.friendbot_path, account, &self.connector, self.timeouts).await
    }
}

/// Base64 in a form: its three characters that mean something else there are escaped.
fn form_encoded(base64: &str) -> String {
    base64.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

/// Not the URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{url}\" is not the URL of a ledger's server, such as https://horizon.stellar.org")]
pub struct BadUrl {
    /// What was given.
    pub url: String,
}
