//! Horizon's JSON, as far as a rail reads it. Unknown fields are left alone; wrong ones are errors.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use obol_cell::{NetworkId, Stroops};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::payments::Read;
use super::{
    AccountState, BadReply, Code, FeeStats, Holding, IssuerFlags, LedgerHead, RailError, ResultCodes, SignerEntry,
    TrustLine, TxPayments, TxRecord,
};
use crate::amount::parse_amount;
use crate::asset::asset;
use crate::key::parse_account;
use crate::tx::TxHash;

type Parsed<T> = Result<T, BadReply>;

fn number<T: std::str::FromStr>(text: &str, field: &'static str) -> Parsed<T> {
    text.parse().map_err(|_| BadReply::Field(field))
}

fn amount(text: &str, field: &'static str) -> Parsed<Stroops> {
    parse_amount(text).map_err(|_| BadReply::Field(field))
}

#[derive(Deserialize)]
pub(super) struct Root {
    pub(super) network_passphrase: String,
    /// The oldest ledger whose transactions it knows.
    #[serde(default)]
    pub(super) history_elder_ledger: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct Page<T> {
    #[serde(rename = "_embedded")]
    pub(super) embedded: Embedded<T>,
}

#[derive(Deserialize)]
pub(super) struct Embedded<T> {
    pub(super) records: Vec<T>,
}

#[derive(Deserialize)]
pub(super) struct Ledger {
    sequence: u32,
    closed_at: String,
    base_fee_in_stroops: u32,
    base_reserve_in_stroops: u32,
}

impl Ledger {
    pub(super) fn read(&self) -> Parsed<LedgerHead> {
        let closed = OffsetDateTime::parse(&self.closed_at, &Rfc3339).map_err(|_| BadReply::Field("closed_at"))?;
        Ok(LedgerHead {
            sequence: self.sequence,
            close_time: u64::try_from(closed.unix_timestamp()).map_err(|_| BadReply::Field("closed_at"))?,
            base_fee: self.base_fee_in_stroops,
            base_reserve: self.base_reserve_in_stroops,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct Account {
    account_id: String,
    sequence: String,
    subentry_count: u32,
    #[serde(default)]
    num_sponsoring: u32,
    #[serde(default)]
    num_sponsored: u32,
    thresholds: Thresholds,
    flags: Flags,
    balances: Vec<Balance>,
    signers: Vec<Signer>,
    #[serde(default)]
    home_domain: Option<String>,
    #[serde(default)]
    data: std::collections::HashMap<String, String>,
}

#[derive(Deserialize)]
struct Thresholds {
    low_threshold: u8,
    med_threshold: u8,
    high_threshold: u8,
}

#[derive(Deserialize)]
struct Flags {
    auth_required: bool,
    auth_revocable: bool,
    auth_immutable: bool,
    auth_clawback_enabled: bool,
}

#[derive(Deserialize)]
struct Balance {
    balance: String,
    #[serde(default)]
    limit: Option<String>,
    #[serde(default)]
    buying_liabilities: Option<String>,
    #[serde(default)]
    selling_liabilities: Option<String>,
    asset_type: String,
    #[serde(default)]
    asset_code: Option<String>,
    #[serde(default)]
    asset_issuer: Option<String>,
    #[serde(default)]
    is_authorized: Option<bool>,
    #[serde(default)]
    is_clawback_enabled: Option<bool>,
    #[serde(default)]
    sponsor: Option<String>,
}

impl Balance {
    fn holding(&self) -> Parsed<Holding> {
        let liability = |text: &Option<String>, field| match text {
            None => Ok(Stroops::ZERO),
            Some(text) => amount(text, field),
        };
        Ok(Holding {
            balance: amount(&self.balance, "balance")?,
            buying: liability(&self.buying_liabilities, "buying_liabilities")?,
            selling: liability(&self.selling_liabilities, "selling_liabilities")?,
        })
    }

    fn line(&self) -> Parsed<TrustLine> {
        let code = self.asset_code.as_deref().ok_or(BadReply::Field("asset_code"))?;
        let issuer = self.asset_issuer.as_deref().ok_or(BadReply::Field("asset_issuer"))?;
        let issuer = parse_account(issuer).map_err(|_| BadReply::Field("asset_issuer"))?;
        let limit = self.limit.as_deref().ok_or(BadReply::Field("limit"))?;
        Ok(TrustLine {
            asset: asset(code, issuer).map_err(|_| BadReply::Field("asset_code"))?,
            holding: self.holding()?,
            limit: amount(limit, "limit")?,
            // Absent is the older servers' way to say yes; a server that can say no, says it.
            authorized: self.is_authorized.ok_or(BadReply::Field("is_authorized"))?,
            clawback: self.is_clawback_enabled.unwrap_or(false),
            sponsored: self.sponsor.is_some(),
        })
    }
}

#[derive(Deserialize)]
struct Signer {
    weight: u32,
    key: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Account {
    pub(super) fn read(&self) -> Parsed<AccountState> {
        let mut lumens = None;
        let mut lines = Vec::with_capacity(self.balances.len());
        for balance in &self.balances {
            match balance.asset_type.as_str() {
                "native" => lumens = Some(balance.holding()?),
                "credit_alphanum4" | "credit_alphanum12" => lines.push(balance.line()?),
                "liquidity_pool_shares" => {}
                _ => return Err(BadReply::Field("asset_type")),
            }
        }
        let signers = self
            .signers
            .iter()
            .map(|signer| {
                let key = match signer.kind.as_str() {
                    "ed25519_public_key" => Some(parse_account(&signer.key).map_err(|_| BadReply::Field("signers"))?),
                    _ => None,
                };
                Ok(SignerEntry {
                    key,
                    weight: signer.weight,
                })
            })
            .collect::<Parsed<Vec<_>>>()?;
        Ok(AccountState {
            id: parse_account(&self.account_id).map_err(|_| BadReply::Field("account_id"))?,
            sequence: number(&self.sequence, "sequence")?,
            lumens: lumens.ok_or(BadReply::Field("balances"))?,
            subentries: self.subentry_count,
            sponsoring: self.num_sponsoring,
            sponsored: self.num_sponsored,
            thresholds: [
                self.thresholds.low_threshold,
                self.thresholds.med_threshold,
                self.thresholds.high_threshold,
            ],
            signers,
            flags: IssuerFlags {
                auth_required: self.flags.auth_required,
                auth_revocable: self.flags.auth_revocable,
                auth_immutable: self.flags.auth_immutable,
                clawback_enabled: self.flags.auth_clawback_enabled,
            },
            lines,
            home_domain: self.home_domain.clone().filter(|domain| !domain.is_empty()),
            // SEP-29: base64 of "1".
            memo_required: self.data.get("config.memo_required").is_some_and(|v| v == "MQ=="),
        })
    }
}

#[derive(Deserialize)]
pub(super) struct Transaction {
    hash: String,
    ledger: u32,
    successful: bool,
    fee_charged: String,
    #[serde(default)]
    result_xdr: Option<String>,
    #[serde(default)]
    inner_transaction: Option<Inner>,
    #[serde(default)]
    envelope_xdr: Option<String>,
    #[serde(default)]
    paging_token: Option<String>,
}

/// What a fee bump wraps.
#[derive(Deserialize)]
struct Inner {
    hash: String,
}

impl Transaction {
    /// Whether this is the transaction of `hash`, or wraps it.
    pub(super) fn answers(&self, hash: TxHash) -> bool {
        let is = |text: &str| text.parse() == Ok(hash);
        is(&self.hash) || self.inner_transaction.as_ref().is_some_and(|inner| is(&inner.hash))
    }

    /// Its place among all transactions: later ones have higher ones.
    pub(super) fn place(&self) -> Parsed<u64> {
        number(self.paging_token.as_deref().unwrap_or_default(), "paging_token")
    }

    /// With what its envelope pays; the envelope has to be that of `asked`, or of what the server calls it.
    pub(super) fn payments(&self, network: NetworkId, asked: Option<TxHash>) -> Result<TxPayments, RailError> {
        const FIELD: &str = "envelope_xdr";
        let record = self.read().map_err(RailError::BadReply)?;
        let envelope = self.envelope_xdr.as_deref().and_then(|text| BASE64.decode(text).ok());
        let read = envelope.and_then(|bytes| Read::envelope(network, &bytes));
        let read = read.ok_or(RailError::BadReply(BadReply::Field(FIELD)))?;
        read.of(asked.unwrap_or(record.hash), FIELD, record)
    }

    pub(super) fn read(&self) -> Parsed<TxRecord> {
        let fee: i64 = number(&self.fee_charged, "fee_charged")?;
        Ok(TxRecord {
            hash: number(&self.hash, "hash")?,
            ledger: self.ledger,
            successful: self.successful,
            fee_charged: Stroops::new(fee).map_err(|_| BadReply::Field("fee_charged"))?,
            codes: match &self.result_xdr {
                Some(result) if !self.successful => super::codes::from_result_xdr(result).unwrap_or_default(),
                _ => ResultCodes::default(),
            },
        })
    }
}

/// A problem document (RFC 7807), as Horizon fills it.
#[derive(Deserialize)]
pub(super) struct Problem {
    #[serde(default)]
    pub(super) extras: Option<Extras>,
}

#[derive(Deserialize)]
pub(super) struct Extras {
    #[serde(default)]
    result_codes: Option<Codes>,
}

#[derive(Deserialize)]
struct Codes {
    transaction: String,
    #[serde(default)]
    inner_transaction: Option<String>,
    #[serde(default)]
    operations: Option<Vec<String>>,
}

impl Problem {
    /// Why the ledger refused the transaction, if that is what this says.
    pub(super) fn codes(&self) -> Option<ResultCodes> {
        let codes = self.extras.as_ref()?.result_codes.as_ref()?;
        Some(ResultCodes {
            transaction: Code::new(&codes.transaction),
            inner: codes.inner_transaction.as_deref().map(Code::new),
            operations: codes
                .operations
                .iter()
                .flatten()
                .take(100)
                .map(|code| Code::new(code))
                .collect(),
        })
    }
}

#[derive(Deserialize)]
pub(super) struct Fees {
    last_ledger_base_fee: String,
    fee_charged: Charged,
}

#[derive(Deserialize)]
struct Charged {
    p90: String,
    max: String,
}

impl Fees {
    pub(super) fn read(&self) -> Parsed<FeeStats> {
        Ok(FeeStats {
            base_fee: number(&self.last_ledger_base_fee, "last_ledger_base_fee")?,
            p90_charged: number(&self.fee_charged.p90, "fee_charged.p90")?,
            max_charged: number(&self.fee_charged.max, "fee_charged.max")?,
        })
    }
}
