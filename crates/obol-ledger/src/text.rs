//! How Horizon writes things: strkeys, amounts, times, assets.

use stellar_strkey::ed25519::{MuxedAccount as MuxedKey, PublicKey as StrKey, SignedPayload};
use stellar_strkey::{HashX, PreAuthTx};
use stellar_xdr::{
    AccountId, Asset, FeeBumpTransactionInnerTx, MuxedAccount, SignerKey, Transaction, TransactionEnvelope, Uint256,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::core::account::raw_key;

/// `G...`
pub fn account(id: &AccountId) -> String {
    key(raw_key(id))
}

/// `G...` of a raw key.
pub fn key(raw: &[u8; 32]) -> String {
    StrKey(*raw).to_string().as_str().to_owned()
}

/// Reads `G...`.
pub fn parse_account(text: &str) -> Option<[u8; 32]> {
    StrKey::from_string(text).ok().map(|key| key.0)
}

/// `M...` and its number, if the address is multiplexed.
pub fn muxed(address: &MuxedAccount) -> Option<(String, u64)> {
    match address {
        MuxedAccount::Ed25519(_) => None,
        MuxedAccount::MuxedEd25519(m) => {
            let text = MuxedKey {
                ed25519: m.ed25519.0,
                id: m.id,
            }
            .to_string();
            Some((text.as_str().to_owned(), m.id))
        }
    }
}

/// A signer as (strkey, Horizon's type).
pub fn signer(key: &SignerKey) -> (String, &'static str) {
    match key {
        SignerKey::Ed25519(Uint256(raw)) => (self::key(raw), "ed25519_public_key"),
        SignerKey::PreAuthTx(Uint256(hash)) => (PreAuthTx(*hash).to_string().as_str().to_owned(), "preauth_tx"),
        SignerKey::HashX(Uint256(hash)) => (HashX(*hash).to_string().as_str().to_owned(), "sha256_hash"),
        SignerKey::Ed25519SignedPayload(p) => (
            signed_payload(p.ed25519.0, p.payload.as_slice()),
            "ed25519_signed_payload",
        ),
    }
}

fn signed_payload(ed25519: [u8; 32], payload: &[u8]) -> String {
    SignedPayload::new(ed25519, payload)
        .map(|p| p.to_string().as_str().to_owned())
        .unwrap_or_default()
}

/// `12.3456789`: stroops as units with seven decimals.
pub fn amount(stroops: i64) -> String {
    let sign = if stroops < 0 { "-" } else { "" };
    let value = stroops.unsigned_abs();
    format!("{sign}{}.{:07}", value / 10_000_000, value % 10_000_000)
}

/// An asset's code, without padding.
pub fn code(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// `native` or `CODE:ISSUER`.
pub fn asset(asset: &Asset) -> String {
    match asset_parts(asset) {
        (_, None) => "native".to_owned(),
        (_, Some((code, issuer))) => format!("{code}:{issuer}"),
    }
}

/// Horizon's asset type, and code and issuer.
pub fn asset_parts(asset: &Asset) -> (&'static str, Option<(String, String)>) {
    match asset {
        Asset::Native => ("native", None),
        Asset::CreditAlphanum4(a) => ("credit_alphanum4", Some((code(&a.asset_code.0), account(&a.issuer)))),
        Asset::CreditAlphanum12(a) => ("credit_alphanum12", Some((code(&a.asset_code.0), account(&a.issuer)))),
    }
}

/// `2026-11-21T12:00:00Z`.
pub fn time(unix: u64) -> String {
    i64::try_from(unix)
        .ok()
        .and_then(|t| OffsetDateTime::from_unix_timestamp(t).ok())
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The transaction with the operations.
pub fn inner_transaction(envelope: &TransactionEnvelope) -> Option<&Transaction> {
    match envelope {
        TransactionEnvelope::Tx(v1) => Some(&v1.tx),
        TransactionEnvelope::TxFeeBump(bump) => {
            let FeeBumpTransactionInnerTx::Tx(v1) = &bump.tx.inner_tx;
            Some(&v1.tx)
        }
        // Rewritten as version 1 at submission.
        TransactionEnvelope::TxV0(_) => None,
    }
}
