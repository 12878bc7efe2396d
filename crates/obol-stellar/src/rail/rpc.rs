//! The rail over Stellar RPC's JSON-RPC interface.
//!
//! RPC has no list of an account's trust lines: those to the rail's assets are read by their keys. It forgets transactions
//! after a day or a week ([`Oldest`]), and every answer says which ledger it is from.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::{Method, StatusCode};
use obol_cell::{AccountId, Asset, Stroops};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stellar_xdr::{self as xdr, Limits, ReadXdr as _};
use tokio::time::Instant;

use super::connect::Connect;
use super::horizon::{BadUrl, Timeouts};
use super::http::{Base, Body, HttpClient, HttpError, LARGEST_BODY};
use super::payments::Read;
use super::{
    AccountState, BadReply, FeeStats, FriendbotError, LedgerHead, Newest, Oldest, Rail, RailError, ResultCodes,
    Sighting, SubmitError, TxPayments, TxRecord,
};
use super::{codes, entries, friendbot};
use crate::network::Network;
use crate::tx::{SignedTx, TxHash};

/// Base fee and base reserve change by a vote of the whole network: they are read again after so long.
const TERMS_LAST: Duration = Duration::from_secs(600);
/// An answer with a whole ledger in it, of which only the header is read.
const LARGEST_LEDGER: usize = 32 * 1024 * 1024;
/// First and longest pause between two looks for a transaction that the server took.
const LOOK: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// No transaction has this hash: asked for to learn where the ledger is.
const NO_TRANSACTION: TxHash = TxHash([0; 32]);

/// One Stellar RPC server.
pub struct Rpc {
    http: HttpClient,
    network: Network,
    assets: Vec<Asset>,
    friendbot: Option<String>,
    connector: Arc<dyn Connect>,
    timeouts: Timeouts,
    newest: Newest,
    terms: Mutex<Option<(Instant, Terms)>>,
}

/// What a ledger's header says beside its number and time.
#[derive(Debug, Clone, Copy)]
struct Terms {
    base_fee: u32,
    base_reserve: u32,
}

impl Rpc {
    /// A rail to the server at `url` (`http://` or `https://`, no query), which has to serve `network`. It sees no trust
    /// lines before it is told of which assets ([`Rpc::with_assets`]).
    ///
    /// # Errors
    /// When `url` is not such a URL.
    pub fn new(url: &str, network: Network, connector: Arc<dyn Connect>, timeouts: Timeouts) -> Result<Rpc, BadUrl> {
        let base = Base::parse(url).ok_or_else(|| BadUrl { url: url.to_owned() })?;
        Ok(Rpc {
            http: HttpClient::new(base, Arc::clone(&connector), timeouts.connect),
            network,
            assets: Vec::new(),
            friendbot: None,
            connector,
            timeouts,
            newest: Newest::default(),
            terms: Mutex::new(None),
        })
    }

    /// Sees the trust lines to these assets: 100 at most, others are left out.
    pub fn with_assets(mut self, mut assets: Vec<Asset>) -> Rpc {
        // A server takes 200 keys at once; two are the account's.
        assets.truncate(100);
        self.assets = assets;
        self
    }

    /// Asked at most so often in a minute; `None`: without a limit.
    pub fn paced(mut self, requests_per_minute: Option<u32>) -> Rpc {
        self.http = self.http.paced(requests_per_minute);
        self
    }

    /// With a friendbot at another URL than the one that the server names.
    ///
    /// # Errors
    /// When `url` is no URL.
    pub fn with_friendbot(mut self, url: &str) -> Result<Rpc, BadUrl> {
        Base::parse(url).ok_or_else(|| BadUrl { url: url.to_owned() })?;
        self.friendbot = Some(url.to_owned());
        Ok(self)
    }

    fn body<P: Serialize>(method: &'static str, params: Option<P>) -> Result<Body, RailError> {
        let call = Call {
            jsonrpc: "2.0",
            id: 1,
            method,
            params,
        };
        let bytes = serde_json::to_vec(&call).map_err(|_| RailError::BadReply(BadReply::NotJson))?;
        Ok(Body {
            content_type: "application/json",
            bytes: bytes.into(),
        })
    }

    /// Calls a method that changes nothing.
    async fn call<P: Serialize, T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Option<P>,
    ) -> Result<T, RailError> {
        self.call_for(method, params, LARGEST_BODY).await
    }

    async fn call_for<P: Serialize, T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Option<P>,
        largest: usize,
    ) -> Result<T, RailError> {
        let body = Rpc::body(method, params)?;
        let answer = self
            .http
            .ask(Method::POST, "", Some(body), self.timeouts.ask, largest)
            .await?;
        if answer.status != StatusCode::OK {
            return Err(super::horizon::refusal(&answer));
        }
        unwrapped(&answer.body)
    }

    /// What became of a transaction, and as of which ledger.
    async fn find(&self, hash: TxHash) -> Result<Found, RailError> {
        self.find_all(hash).await.map(|(found, _)| found)
    }

    /// [`Rpc::find`], with the envelope, base64.
    async fn find_all(&self, hash: TxHash) -> Result<(Found, Option<String>), RailError> {
        let found: Transaction = self
            .call("getTransaction", Some(Hash { hash: hash.to_string() }))
            .await?;
        self.newest.see(found.latest_ledger)?;
        let record = match found.status.as_str() {
            "NOT_FOUND" => None,
            "SUCCESS" => Some(self.record(hash, &found, true)?),
            "FAILED" => Some(self.record(hash, &found, false)?),
            _ => return Err(RailError::BadReply(BadReply::Field("status"))),
        };
        let known = Found {
            record,
            ledger: found.latest_ledger,
            close_time: found.latest_ledger_close_time.0,
            oldest: Oldest {
                ledger: found.oldest_ledger,
                close_time: Some(found.oldest_ledger_close_time.0),
            },
        };
        Ok((known, found.envelope_xdr))
    }

    fn record(&self, asked: TxHash, found: &Transaction, successful: bool) -> Result<TxRecord, RailError> {
        let bad = |field| RailError::BadReply(BadReply::Field(field));
        let envelope = found.envelope_xdr.as_deref().ok_or(bad("envelopeXdr"))?;
        let envelope = BASE64.decode(envelope).map_err(|_| bad("envelopeXdr"))?;
        let tx = SignedTx::from_bytes(self.network.id(), &envelope).map_err(|_| bad("envelopeXdr"))?;
        // The record is of what the envelope itself hashes to, whatever the server calls it.
        if tx.hash() != asked && tx.inner_hash() != Some(asked) {
            return Err(bad("envelopeXdr"));
        }
        let result = found.result_xdr.as_deref().ok_or(bad("resultXdr"))?;
        let fee = codes::fee_charged(result).ok_or(bad("resultXdr"))?;
        let result = codes::from_result_xdr(result).ok_or(bad("resultXdr"))?;
        Ok(TxRecord {
            hash: tx.hash(),
            ledger: found.ledger.ok_or(bad("ledger"))?,
            successful,
            fee_charged: Stroops::new(fee).map_err(|_| bad("resultXdr"))?,
            codes: if successful { ResultCodes::default() } else { result },
        })
    }

    /// Base fee and base reserve, from the newest header or from one that is not old.
    async fn terms(&self) -> Result<Terms, RailError> {
        let known = *self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, terms)) = known
            && at.elapsed() < TERMS_LAST
        {
            return Ok(terms);
        }
        let latest: Latest = self.call_for("getLatestLedger", None::<()>, LARGEST_LEDGER).await?;
        let header = match latest.header_xdr {
            Some(header) => header,
            // Servers of before 2025 give no header here.
            None => {
                let page = Some(Ledgers {
                    start_ledger: latest.sequence,
                    pagination: Pagination { limit: 1 },
                });
                let ledgers: LedgerPage = self.call_for("getLedgers", page, LARGEST_LEDGER).await?;
                let first = ledgers.ledgers.into_iter().next();
                first.ok_or(RailError::BadReply(BadReply::Field("ledgers")))?.header_xdr
            }
        };
        let header = read_header(&header).ok_or(RailError::BadReply(BadReply::Field("headerXdr")))?;
        let terms = Terms {
            base_fee: header.base_fee,
            base_reserve: header.base_reserve,
        };
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), terms));
        Ok(terms)
    }

    fn head(&self, found: &Found, terms: Terms) -> LedgerHead {
        LedgerHead {
            sequence: found.ledger,
            close_time: found.close_time,
            base_fee: terms.base_fee,
            base_reserve: terms.base_reserve,
        }
    }

    async fn account_as_of(&self, account: AccountId) -> Result<(Option<AccountState>, u32), RailError> {
        let keys = entries::keys(&account, &self.assets).map_err(RailError::BadReply)?;
        let answer: Entries = self.call("getLedgerEntries", Some(Keys { keys })).await?;
        self.newest.see(answer.latest_ledger)?;
        let read = answer
            .entries
            .unwrap_or_default()
            .iter()
            .map(|entry| entries::Entry::read(&entry.xdr, entry.ext_xdr.as_deref()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(RailError::BadReply)?;
        let state = entries::account(account, read).map_err(RailError::BadReply)?;
        Ok((state, answer.latest_ledger))
    }
}

/// What was found of a transaction.
struct Found {
    record: Option<TxRecord>,
    ledger: u32,
    close_time: u64,
    oldest: Oldest,
}

fn unwrapped<T: DeserializeOwned>(body: &[u8]) -> Result<T, RailError> {
    let reply: Reply<T> = serde_json::from_slice(body).map_err(|_| RailError::BadReply(BadReply::NotJson))?;
    match (reply.error, reply.result) {
        (Some(error), _) => Err(RailError::Rpc { code: error.code }),
        (None, Some(result)) => Ok(result),
        (None, None) => Err(RailError::BadReply(BadReply::Field("result"))),
    }
}

/// A ledger's header, alone or with its hash before it: servers differ.
fn read_header(base64: &str) -> Option<xdr::LedgerHeader> {
    const LARGEST_HEADER: Limits = Limits {
        depth: 32,
        len: 64 * 1024,
    };
    xdr::LedgerHeader::from_xdr_base64(base64, LARGEST_HEADER)
        .or_else(|_| xdr::LedgerHeaderHistoryEntry::from_xdr_base64(base64, LARGEST_HEADER).map(|entry| entry.header))
        .ok()
}

#[async_trait]
impl Rail for Rpc {
    async fn check_network(&self) -> Result<(), RailError> {
        let served: Served = self.call("getNetwork", None::<()>).await?;
        if served.passphrase != self.network.passphrase() {
            let served = served.passphrase.chars().take(80).flat_map(char::escape_debug);
            return Err(RailError::OtherNetwork {
                served: served.collect(),
            });
        }
        let health: Health = self.call("getHealth", None::<()>).await?;
        if health.status != "healthy" {
            return Err(RailError::Busy { retry_after: None });
        }
        Ok(())
    }

    async fn latest_ledger(&self) -> Result<LedgerHead, RailError> {
        let terms = self.terms().await?;
        // The answer to this is small with every version, and has the close time; a whole ledger is neither.
        let found = self.find(NO_TRANSACTION).await?;
        Ok(self.head(&found, terms))
    }

    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        Ok(self.account_as_of(account).await?.0)
    }

    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        Ok(self.find(hash).await?.record)
    }

    async fn payments(&self, hash: TxHash) -> Result<Option<TxPayments>, RailError> {
        const FIELD: &str = "envelopeXdr";
        let (found, envelope) = self.find_all(hash).await?;
        let Some(record) = found.record else {
            return Ok(None);
        };
        let envelope = envelope.and_then(|text| BASE64.decode(text).ok());
        let read = envelope.and_then(|bytes| Read::envelope(self.network.id(), &bytes));
        let read = read.ok_or(RailError::BadReply(BadReply::Field(FIELD)))?;
        read.of(hash, FIELD, record).map(Some)
    }

    async fn look(&self, hash: TxHash, inner: Option<TxHash>, source: AccountId) -> Result<Sighting, RailError> {
        let terms = self.terms().await?;
        let (source, account_ledger) = self.account_as_of(source).await?;
        let mut first = None;
        for hash in [Some(hash), inner].into_iter().flatten() {
            let found = self.find(hash).await?;
            if found.record.is_some() {
                return Ok(Sighting {
                    head: self.head(&found, terms),
                    source,
                    record: found.record,
                    oldest: None,
                });
            }
            // An answer is absence as of its own ledger, which must not be before the account's.
            let behind = account_ledger.saturating_sub(found.ledger);
            if behind > 0 {
                return Err(RailError::Stale { behind });
            }
            first.get_or_insert(found);
        }
        let found = first.ok_or(RailError::BadReply(BadReply::Field("hash")))?;
        Ok(Sighting {
            head: self.head(&found, terms),
            source,
            record: None,
            oldest: Some(found.oldest),
        })
    }

    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        let deadline = Instant::now() + self.timeouts.submit;
        let envelope = Some(Envelope {
            transaction: BASE64.encode(tx.to_bytes()?),
        });
        let body = Rpc::body("sendTransaction", envelope).map_err(SubmitError::NotSent)?;
        let answer = match self.http.post_once("", body, self.timeouts.submit).await {
            Ok(answer) => answer,
            Err(HttpError {
                error,
                may_have_arrived: false,
            }) => return Err(SubmitError::NotSent(error)),
            Err(HttpError { error, .. }) => return Err(SubmitError::Unknown { cause: error }),
        };
        let unknown = |cause| SubmitError::Unknown { cause };
        if answer.status != StatusCode::OK {
            return Err(unknown(super::horizon::refusal(&answer)));
        }
        let sent: Sent = unwrapped(&answer.body).map_err(unknown)?;
        if sent.hash.parse() != Ok(tx.hash()) {
            return Err(unknown(RailError::BadReply(BadReply::Field("hash"))));
        }
        match sent.status.as_str() {
            "PENDING" | "DUPLICATE" => {}
            "TRY_AGAIN_LATER" => return Err(unknown(RailError::Busy { retry_after: None })),
            "ERROR" => {
                return Err(
                    match sent.error_result_xdr.as_deref().and_then(codes::from_result_xdr) {
                        // Of what a ledger has already, a core says only that its number is used.
                        Some(codes) if codes.is("tx_bad_seq") => match self.find(tx.hash()).await {
                            Ok(Found {
                                record: Some(record), ..
                            }) if record.successful => return Ok(record),
                            Ok(Found { record, .. }) => SubmitError::Rejected {
                                codes: record.map_or(codes, |record| record.codes),
                            },
                            Err(error) => unknown(error),
                        },
                        Some(codes) => SubmitError::Rejected { codes },
                        None => unknown(RailError::BadReply(BadReply::Field("errorResultXdr"))),
                    },
                );
            }
            _ => return Err(unknown(RailError::BadReply(BadReply::Field("status")))),
        }
        let [mut pause, longest] = LOOK;
        loop {
            match self.find(tx.hash()).await {
                Ok(Found {
                    record: Some(record), ..
                }) if record.successful => return Ok(record),
                // As Horizon does it: in a ledger, and failed.
                Ok(Found {
                    record: Some(record), ..
                }) => return Err(SubmitError::Rejected { codes: record.codes }),
                Ok(Found { record: None, .. }) | Err(_) => {}
            }
            if Instant::now() + pause >= deadline {
                return Err(unknown(RailError::Unreachable(super::Unreachable::TimedOut)));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn fee_stats(&self) -> Result<FeeStats, RailError> {
        let terms = self.terms().await?;
        let fees: Fees = self.call("getFeeStats", None::<()>).await?;
        let number =
            |number: Number, field| u32::try_from(number.0).map_err(|_| RailError::BadReply(BadReply::Field(field)));
        Ok(FeeStats {
            // 0 where no ledger of late had a transaction, which is less than any ledger takes.
            base_fee: number(fees.inclusion_fee.min, "inclusionFee.min")?.max(terms.base_fee),
            p90_charged: number(fees.inclusion_fee.p90, "inclusionFee.p90")?,
            max_charged: number(fees.inclusion_fee.max, "inclusionFee.max")?,
        })
    }

    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError> {
        let url = match &self.friendbot {
            Some(url) => url.clone(),
            None => {
                let served: Served = self.call("getNetwork", None::<()>).await?;
                served.friendbot_url.ok_or(FriendbotError::None)?
            }
        };
        friendbot::ask_at(&url, account, &self.connector, self.timeouts).await
    }
}

// ---- what goes over the wire

#[derive(Serialize)]
struct Call<P> {
    jsonrpc: &'static str,
    id: u32,
    method: &'static str,
    /// Absent for methods without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<P>,
}

#[derive(Deserialize)]
struct Reply<T> {
    result: Option<T>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: i64,
}

/// A number, which some versions of the server write as text.
#[derive(Clone, Copy)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Number, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Number(number) => Ok(Number(number)),
            Either::Text(text) => text.parse().map(Number).map_err(serde::de::Error::custom),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Served {
    passphrase: String,
    friendbot_url: Option<String>,
}

#[derive(Deserialize)]
struct Health {
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Latest {
    sequence: u32,
    header_xdr: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ledgers {
    start_ledger: u32,
    pagination: Pagination,
}

#[derive(Serialize)]
struct Pagination {
    limit: u32,
}

#[derive(Deserialize)]
struct LedgerPage {
    ledgers: Vec<LedgerInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LedgerInfo {
    header_xdr: String,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entries {
    entries: Option<Vec<EntryInfo>>,
    latest_ledger: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryInfo {
    xdr: String,
    ext_xdr: Option<String>,
}

#[derive(Serialize)]
struct Hash {
    hash: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transaction {
    status: String,
    latest_ledger: u32,
    latest_ledger_close_time: Number,
    oldest_ledger: u32,
    oldest_ledger_close_time: Number,
    ledger: Option<u32>,
    envelope_xdr: Option<String>,
    result_xdr: Option<String>,
}

#[derive(Serialize)]
struct Envelope {
    transaction: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    status: String,
    hash: String,
    error_result_xdr: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fees {
    inclusion_fee: Charged,
}

#[derive(Deserialize)]
struct Charged {
    min: Number,
    max: Number,
    p90: Number,
}
