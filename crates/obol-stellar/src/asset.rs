//! Assets: as people write them (`CODE:G...`), as messages carry them, and as XDR has them.

use obol_cell::{AccountId, Asset};
use stellar_xdr as xdr;

use crate::key::{account_text, parse_account};

/// The asset of a code (1 to 12 letters and digits) and an issuer.
///
/// # Errors
/// When the code is not one that Stellar allows.
pub fn asset(code: &str, issuer: AccountId) -> Result<Asset, NotAnAsset> {
    if code.is_empty() || code.len() > 12 || !code.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(NotAnAsset);
    }
    let mut padded = [0u8; 12];
    padded[..code.len()].copy_from_slice(code.as_bytes());
    Ok(Asset {
        code: padded,
        issuer: issuer.0,
    })
}

/// Reads `CODE:G...`.
///
/// # Errors
/// When the text is not an asset. Lumens (`native`) are none: they pay fees only.
pub fn parse_asset(text: &str) -> Result<Asset, NotAnAsset> {
    let (code, issuer) = text.split_once(':').ok_or(NotAnAsset)?;
    asset(code, parse_account(issuer).map_err(|_| NotAnAsset)?)
}

/// The asset as `CODE:G...`.
pub fn asset_text(asset: &Asset) -> String {
    format!("{}:{}", asset_code(asset), account_text(&AccountId(asset.issuer)))
}

/// The code without its padding; what is not a letter or digit is escaped.
pub fn asset_code(asset: &Asset) -> String {
    unpadded(&asset.code).escape_ascii().to_string()
}

fn unpadded(code: &[u8; 12]) -> &[u8] {
    let length = code.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    &code[..length]
}

/// The XDR form. Codes of up to four characters are `alphanum4`, longer ones `alphanum12`.
///
/// # Errors
/// When the code, which may come from the network, is not one that Stellar allows.
pub fn asset_to_xdr(asset: &Asset) -> Result<xdr::Asset, NotAnAsset> {
    let code = unpadded(&asset.code);
    if code.is_empty() || !code.iter().all(u8::is_ascii_alphanumeric) {
        return Err(NotAnAsset);
    }
    let issuer = account_to_xdr(&AccountId(asset.issuer));
    Ok(if let ([a, b, c, d], [0, 0, 0, 0, 0, 0, 0, 0]) = split(&asset.code) {
        xdr::Asset::CreditAlphanum4(xdr::AlphaNum4 {
            asset_code: xdr::AssetCode4([a, b, c, d]),
            issuer,
        })
    } else {
        xdr::Asset::CreditAlphanum12(xdr::AlphaNum12 {
            asset_code: xdr::AssetCode12(asset.code),
            issuer,
        })
    })
}

fn split(code: &[u8; 12]) -> ([u8; 4], [u8; 8]) {
    let [a, b, c, d, rest @ ..] = *code;
    ([a, b, c, d], rest)
}

/// Back from the XDR form; `None` for lumens.
pub fn asset_from_xdr(asset: &xdr::Asset) -> Option<Asset> {
    let mut code = [0u8; 12];
    let issuer = match asset {
        xdr::Asset::Native => return None,
        xdr::Asset::CreditAlphanum4(a) => {
            code[..4].copy_from_slice(&a.asset_code.0);
            &a.issuer
        }
        xdr::Asset::CreditAlphanum12(a) => {
            code = a.asset_code.0;
            &a.issuer
        }
    };
    Some(Asset {
        code,
        issuer: account_from_xdr(issuer).0,
    })
}

/// An account as XDR's `AccountID`.
pub(crate) fn account_to_xdr(account: &AccountId) -> xdr::AccountId {
    xdr::AccountId(xdr::PublicKey::PublicKeyTypeEd25519(xdr::Uint256(account.0)))
}

fn account_from_xdr(account: &xdr::AccountId) -> AccountId {
    let xdr::AccountId(xdr::PublicKey::PublicKeyTypeEd25519(xdr::Uint256(key))) = account;
    AccountId(*key)
}

/// An account as XDR's `MuxedAccount`, without a sub-account.
pub(crate) fn muxed(account: &AccountId) -> xdr::MuxedAccount {
    xdr::MuxedAccount::Ed25519(xdr::Uint256(account.0))
}

/// Not an asset: a code of 1 to 12 letters and digits, a colon, and the issuer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an asset, such as OBOL:GA..., with a code of 1 to 12 letters and digits")]
pub struct NotAnAsset;
