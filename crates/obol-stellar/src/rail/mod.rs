//! The rail: how a node reaches a ledger. One trait, whatever serves it.

mod codes;
pub mod connect;
mod entries;
mod friendbot;
pub mod horizon;
pub(crate) mod http;
mod json;
pub mod many;
mod pace;
mod payments;
pub mod rpc;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use obol_cell::{AccountId, Asset, Stroops};
use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::settings::AssetName;
use crate::tx::{SignedTx, TxHash};
use connect::Connect;
use horizon::{BadUrl, Horizon, Timeouts};
use rpc::Rpc;

pub use payments::{LedgerPayment, TxPayments};

/// A ledger, as a node sees it. All answers are from closed ledgers.
#[async_trait]
pub trait Rail: Send + Sync {
    /// Fails unless the other side serves the network that this rail was made for.
    async fn check_network(&self) -> Result<(), RailError>;

    /// The newest closed ledger that the other side serves answers from.
    async fn latest_ledger(&self) -> Result<LedgerHead, RailError>;

    /// An account with its trust lines and signers; `None` where there is none.
    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError>;

    /// What became of a transaction; `None` where no closed ledger has it. A fee bump is also found by the hash of
    /// what it wraps.
    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError>;

    /// [`Rail::transaction`], with what it pays, read from its envelope, which has to hash to `hash` (or to wrap what does).
    async fn payments(&self, hash: TxHash) -> Result<Option<TxPayments>, RailError> {
        let _ = hash;
        Err(RailError::Unsupported)
    }

    /// All successful transactions that an account took part in and that have this hash memo, oldest first. Whose payments they
    /// are, they say themselves: anybody may use a memo.
    ///
    /// # Errors
    /// Stellar RPC cannot tell ([`RailError::Unsupported`]).
    async fn payments_with_memo(&self, account: AccountId, memo: [u8; 32]) -> Result<Vec<TxPayments>, RailError> {
        let _ = (account, memo);
        Err(RailError::Unsupported)
    }

    /// Everything that decides what became of a transaction, read from *one* server in the order that makes its absence
    /// conclusive: first how far the ledger and the source are, then whether it is there.
    async fn look(&self, hash: TxHash, inner: Option<TxHash>, source: AccountId) -> Result<Sighting, RailError> {
        let head = self.latest_ledger().await?;
        let source = self.account(source).await?;
        let mut record = self.transaction(hash).await?;
        if let (None, Some(inner)) = (&record, inner) {
            record = self.transaction(inner).await?;
        }
        Ok(Sighting {
            head,
            source,
            record,
            oldest: None,
        })
    }

    /// [`Rail::look`] by up to `servers` independent servers, one sighting each: as many as answer, at least one.
    async fn looks(
        &self,
        hash: TxHash,
        inner: Option<TxHash>,
        source: AccountId,
        servers: usize,
    ) -> Result<Vec<Sighting>, RailError> {
        let _ = servers;
        Ok(vec![self.look(hash, inner, source).await?])
    }

    /// Hands a transaction to the ledger and waits a while for it. Record it first ([`crate::outbox`]): after
    /// [`SubmitError::Unknown`] only the ledger can tell.
    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError>;

    /// What transactions have paid lately.
    async fn fee_stats(&self) -> Result<FeeStats, RailError>;

    /// Asks the friendbot of a test network for lumens.
    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError>;
}

/// Which kind of server a rail talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RailKind {
    /// Horizon's HTTP interface: the public servers', and the embedded ledger's.
    #[default]
    Horizon,
    /// Stellar RPC's JSON-RPC interface.
    Rpc,
}

/// A network and the servers to reach it by; part of the relay's and the client's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RailConfig {
    /// The kind of all `urls`.
    #[serde(default)]
    pub kind: RailKind,
    /// The passphrase that names the network.
    pub network_passphrase: String,
    /// The servers, `http://` or `https://`; the first is asked first.
    pub urls: Vec<String>,
    /// Where a test network gives lumens away, if not at the servers' own `/friendbot`.
    #[serde(default)]
    pub friendbot: Option<String>,
    /// The assets whose trust lines are looked up: Stellar RPC cannot tell which lines an account has. Horizon shows all.
    #[serde(default)]
    pub assets: Vec<AssetName>,
    /// Each server is asked at most so often in any minute; absent: as often as need be. What a server itself asks for
    /// (`Retry-After`) is heeded in any case.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
}

impl RailConfig {
    /// One rail for each server, in their order.
    ///
    /// # Errors
    /// When there is none, or one is no URL.
    pub fn servers(&self, connector: &Arc<dyn Connect>, timeouts: Timeouts) -> Result<Vec<Arc<dyn Rail>>, BadUrl> {
        if self.urls.is_empty() {
            return Err(BadUrl { url: String::new() });
        }
        let open = |url: &String| -> Result<Arc<dyn Rail>, BadUrl> {
            Ok(match self.kind {
                RailKind::Horizon => {
                    let horizon = Horizon::new(url, self.network(), Arc::clone(connector), timeouts)?
                        .paced(self.requests_per_minute);
                    match &self.friendbot {
                        Some(friendbot) => Arc::new(horizon.with_friendbot(friendbot)?),
                        None => Arc::new(horizon),
                    }
                }
                RailKind::Rpc => {
                    let assets = self.assets.iter().map(AssetName::asset).collect();
                    let rpc = Rpc::new(url, self.network(), Arc::clone(connector), timeouts)?
                        .with_assets(assets)
                        .paced(self.requests_per_minute);
                    match &self.friendbot {
                        Some(friendbot) => Arc::new(rpc.with_friendbot(friendbot)?),
                        None => Arc::new(rpc),
                    }
                }
            })
        };
        self.urls.iter().map(open).collect()
    }

    /// The network.
    pub fn network(&self) -> Network {
        Network::new(self.network_passphrase.clone())
    }
}

/// A closed ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerHead {
    /// Its number.
    pub sequence: u32,
    /// When it closed, unix seconds.
    pub close_time: u64,
    /// The least fee of an operation, stroops of lumens.
    pub base_fee: u32,
    /// Lumens that each entry of an account locks, stroops.
    pub base_reserve: u32,
}

/// What [`Rail::look`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The newest ledger, at least this one.
    pub head: LedgerHead,
    /// The account whose sequence number the transaction uses, in that ledger or a later one.
    pub source: Option<AccountState>,
    /// The transaction, if a ledger up to a later one has it.
    pub record: Option<TxRecord>,
    /// How far back the server's memory of transactions goes: before that it is no witness of absence. `None`: to the
    /// beginning, or the transaction is there.
    pub oldest: Option<Oldest>,
}

/// The oldest ledger whose transactions a server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oldest {
    /// Its number.
    pub ledger: u32,
    /// When it closed, unix seconds, where the server says so.
    pub close_time: Option<u64>,
}

/// How many ledgers a server's answers may be behind one that it gave before: several machines may be behind one name.
const LAG: u32 = 2;

/// The newest ledger that a server ever answered from, by which a stale answer is known.
#[derive(Debug, Default)]
pub(crate) struct Newest(AtomicU32);

impl Newest {
    /// Takes note of an answer's ledger.
    ///
    /// # Errors
    /// [`RailError::Stale`] when the server has answered from a much newer one.
    pub(crate) fn see(&self, ledger: u32) -> Result<(), RailError> {
        let newest = self.0.fetch_max(ledger, Ordering::Relaxed);
        match newest.saturating_sub(ledger) {
            behind if behind > LAG => Err(RailError::Stale { behind }),
            _ => Ok(()),
        }
    }
}

/// An account, as of a closed ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountState {
    /// The account.
    pub id: AccountId,
    /// The sequence number it used last.
    pub sequence: i64,
    /// Lumens, with their liabilities of offers.
    pub lumens: Holding,
    /// Entries it owns: trust lines, signers, offers, data.
    pub subentries: u32,
    /// Reserves it pays for others.
    pub sponsoring: u32,
    /// Reserves others pay for it.
    pub sponsored: u32,
    /// Low, medium, high.
    pub thresholds: [u8; 3],
    /// All signers, the account's own key among them if its weight is not zero.
    pub signers: Vec<SignerEntry>,
    /// The flags of an issuer.
    pub flags: IssuerFlags,
    /// Its trust lines; lines to liquidity pools are left out (they count as entries).
    pub lines: Vec<TrustLine>,
    /// The domain whose stellar.toml speaks for it (SEP-1), as the account claims; the text is anybody's.
    pub home_domain: Option<String>,
    /// Whether payments to it need a memo (SEP-29).
    pub memo_required: bool,
}

impl AccountState {
    /// Its trust line to this asset.
    pub fn line(&self, asset: &Asset) -> Option<&TrustLine> {
        self.lines.iter().find(|line| line.asset == *asset)
    }

    /// Lumens that it may spend on fees and payments.
    pub fn spendable_lumens(&self, base_reserve: u32) -> Stroops {
        let entries = 2 + i64::from(self.subentries) + i64::from(self.sponsoring) - i64::from(self.sponsored);
        let locked = entries
            .max(0)
            .saturating_mul(i64::from(base_reserve))
            .saturating_add(self.lumens.selling.get());
        Stroops::new(self.lumens.balance.get().saturating_sub(locked)).unwrap_or(Stroops::ZERO)
    }
}

/// A balance and what offers hold of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The whole balance.
    pub balance: Stroops,
    /// What open offers would bring in.
    pub buying: Stroops,
    /// What open offers would give away.
    pub selling: Stroops,
}

/// A trust line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustLine {
    /// To which asset.
    pub asset: Asset,
    /// Its balance.
    pub holding: Holding,
    /// The most that it may hold.
    pub limit: Stroops,
    /// Whether the issuer lets it pay and be paid.
    pub authorized: bool,
    /// Whether the issuer may take the balance away.
    pub clawback: bool,
    /// Whether another account pays its reserve, and may stop to.
    pub sponsored: bool,
}

impl TrustLine {
    /// How much more it can take.
    pub fn room(&self) -> Stroops {
        self.limit
            .saturating_sub(self.holding.balance)
            .saturating_sub(self.holding.buying)
    }
}

/// One signer of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignerEntry {
    /// Its key; `None` for kinds other than Ed25519 (hashes, pre-authorised transactions, signed payloads).
    pub key: Option<AccountId>,
    /// Its weight.
    pub weight: u32,
}

/// What an issuer may do to its asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IssuerFlags {
    /// Lines need its consent.
    pub auth_required: bool,
    /// It can freeze lines.
    pub auth_revocable: bool,
    /// It can never change its flags again.
    pub auth_immutable: bool,
    /// New lines can be clawed back.
    pub clawback_enabled: bool,
}

/// A transaction in a closed ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxRecord {
    /// Its hash; for a fee bump, the wrapping's.
    pub hash: TxHash,
    /// The ledger that has it.
    pub ledger: u32,
    /// Whether it did what it says. If not, it has still paid its fee and used its sequence number.
    pub successful: bool,
    /// What it paid in fees.
    pub fee_charged: Stroops,
    /// Why it failed; empty when it did not, or when the server did not say.
    pub codes: ResultCodes,
}

/// Why a ledger refused or failed a transaction, in Horizon's words (`tx_bad_seq`, `op_no_trust` ...).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultCodes {
    /// Of the transaction.
    pub transaction: Code,
    /// Of the wrapped transaction, in a fee bump.
    pub inner: Option<Code>,
    /// Of its operations, in their order.
    pub operations: Vec<Code>,
}

impl ResultCodes {
    /// Whether the transaction, or the one it wraps, has this code.
    pub fn is(&self, code: &str) -> bool {
        self.transaction.as_str() == code || self.inner.as_ref().is_some_and(|inner| inner.as_str() == code)
    }

    /// Whether an operation has this code.
    pub fn has_operation(&self, code: &str) -> bool {
        self.operations.iter().any(|c| c.as_str() == code)
    }
}

impl std::fmt::Display for ResultCodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.transaction.as_str())?;
        if let Some(inner) = &self.inner {
            write!(f, " / {}", inner.as_str())?;
        }
        for code in &self.operations {
            write!(f, " {}", code.as_str())?;
        }
        Ok(())
    }
}

/// A result code: lower-case letters, digits and underscores, at most 48; anything else a server sends is `"?"`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Code(String);

impl Code {
    /// The code of this text.
    pub fn new(text: &str) -> Code {
        let plain = text.len() <= 48
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        Code(if plain { text.to_owned() } else { "?".to_owned() })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What transactions of the last ledgers paid, stroops of lumens per operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeStats {
    /// The least that the newest ledger took.
    pub base_fee: u32,
    /// Nine in ten were charged no more than this.
    pub p90_charged: u32,
    /// The highest charged.
    pub max_charged: u32,
}

/// Asking failed. Nothing was changed by asking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RailError {
    /// The server cannot be reached.
    #[error("the ledger's server cannot be reached: {0}")]
    Unreachable(Unreachable),
    /// It has too much to do, or is not up to date: ask again later.
    #[error("the ledger's server is busy")]
    Busy {
        /// After so many seconds, if it said so.
        retry_after: Option<u32>,
    },
    /// It said no, with this HTTP status.
    #[error("the ledger's server answered with HTTP status {status}")]
    Refused {
        /// The status.
        status: u16,
    },
    /// Its answer is not what it should be.
    #[error("the ledger's server gave a bad answer: {0}")]
    BadReply(BadReply),
    /// It answered a call with this JSON-RPC error.
    #[error("the ledger's server answered with JSON-RPC error {code}")]
    Rpc {
        /// Its code.
        code: i64,
    },
    /// It answers from an older ledger than it did before, or than another part of the same question.
    #[error("the ledger's server answers from a ledger that is {behind} behind")]
    Stale {
        /// How many ledgers.
        behind: u32,
    },
    /// A server of this kind cannot tell.
    #[error("a ledger's server of this kind cannot answer that")]
    Unsupported,
    /// It serves another network.
    #[error("the ledger's server serves another network (\"{served}\") than the one configured")]
    OtherNetwork {
        /// The passphrase of that network, shortened and escaped.
        served: String,
    },
}

/// Why a server cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No connection.
    #[error("no connection ({0})")]
    Connect(std::io::ErrorKind),
    /// Its certificate is not valid, or TLS failed otherwise.
    #[error("TLS failed")]
    Tls,
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
    /// It took too long.
    #[error("it took too long")]
    TimedOut,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// It is longer than an answer may be.
    #[error("too long")]
    TooLong,
    /// It is not HTTP.
    #[error("not HTTP")]
    NotHttp,
    /// It is not the JSON that belongs there.
    #[error("not the expected JSON")]
    NotJson,
    /// A field does not hold what it should.
    #[error("bad field {0}")]
    Field(&'static str),
}

/// A submission that did not end in a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The server says that the ledger does not take it as it is. It cost nothing; but who has seen it may submit it
    /// again while it is valid, and a transaction that is already in a ledger is also "rejected": look before you
    /// build another.
    #[error("the ledger does not take the transaction: {codes}")]
    Rejected {
        /// Why.
        codes: ResultCodes,
    },
    /// Nobody knows: it may be in a ledger, or get into one.
    #[error("nobody knows yet what became of the transaction ({cause})")]
    Unknown {
        /// What came in place of an answer.
        cause: RailError,
    },
    /// It was not handed over.
    #[error("the transaction was not handed over: {0}")]
    NotSent(RailError),
    /// It is no transaction.
    #[error(transparent)]
    Tx(#[from] crate::tx::TxError),
}

/// Friendbot gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FriendbotError {
    /// The account has lumens already.
    #[error("friendbot has funded this account before")]
    AlreadyFunded,
    /// This network has none.
    #[error("this network gives no lumens away")]
    None,
    /// Asking failed.
    #[error(transparent)]
    Rail(#[from] RailError),
}
