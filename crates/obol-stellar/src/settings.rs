//! What configurations say about money, the ledger and time, in one notation for clients and relays, and what is wrong with
//! a value that cannot be used.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use obol_cell::{AccountId, Asset, Stroops};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::amount::{STROOPS_PER_UNIT, amount_text, parse_amount};
use crate::asset::{asset_code, parse_asset};
use crate::key::account_text;

/// A span of time: written as `"5s"`, `"24h"`, `"7 days"`, or `"0s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

impl Span {
    /// A whole number of milliseconds.
    pub const fn millis(n: u64) -> Span {
        Span(Duration::from_millis(n))
    }

    /// A whole number of seconds.
    pub const fn seconds(n: u64) -> Span {
        Span(Duration::from_secs(n))
    }

    /// A whole number of hours.
    pub const fn hours(n: u64) -> Span {
        Span(Duration::from_secs(n.saturating_mul(3600)))
    }

    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Span, ValueError> {
        humantime::parse_duration(text).map(Span).map_err(|_| ValueError::Span)
    }
}

/// An amount of the asset in stroops (10^-7 of a unit): written as a whole number of stroops, or as `"12.5"` units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(pub i64);

impl Amount {
    /// The number of stroops; never negative.
    pub const fn stroops(self) -> i64 {
        self.0
    }

    /// A whole number of units of the asset.
    pub const fn units(n: i64) -> Amount {
        Amount(n.saturating_mul(STROOPS_PER_UNIT))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&amount_text(Stroops::new(self.0).unwrap_or(Stroops::ZERO)))
    }
}

impl FromStr for Amount {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Amount, ValueError> {
        let amount = parse_amount(text.trim()).map_err(|_| ValueError::Amount)?;
        Ok(Amount(amount.get()))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Amount, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of stroops, or units of the asset as a string such as \"12.5\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Amount, E> {
                i64::try_from(n).map(Amount).map_err(|_| E::custom(ValueError::Amount))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Amount, E> {
                u64::try_from(n)
                    .map_err(|_| E::custom(ValueError::Amount))
                    .and_then(|n| self.visit_u64(n))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// A Stellar asset, written `CODE:ISSUER`: one to twelve letters and digits, and the issuer's `G...` account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AssetName {
    /// The asset code, 1 to 12 characters of `[A-Za-z0-9]`.
    pub code: String,
    /// The issuer's account: an Ed25519 public key.
    pub issuer: [u8; 32],
}

impl AssetName {
    /// The asset as messages carry it, its code padded with zero bytes to twelve.
    pub fn asset(&self) -> Asset {
        let mut code = [0; 12];
        for (to, from) in code.iter_mut().zip(self.code.bytes()) {
            *to = from;
        }
        Asset {
            code,
            issuer: self.issuer,
        }
    }
}

impl fmt::Display for AssetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.code, account_text(&AccountId(self.issuer)))
    }
}

impl FromStr for AssetName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<AssetName, ValueError> {
        let asset = parse_asset(text).map_err(|_| ValueError::Asset)?;
        Ok(AssetName {
            code: asset_code(&asset),
            issuer: asset.issuer,
        })
    }
}

/// Serde by the text form.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(Span, AssetName);

/// A text that is not the value it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a span of time.
    #[error("not a span of time: write a number with a unit (\"5s\", \"10min\", \"24h\", \"7days\")")]
    Span,
    /// Not an amount of money.
    #[error(
        "not an amount: write whole stroops (10000000) or units as a string (\"12.5\"), at most 7 decimals, not negative"
    )]
    Amount,
    /// Not an asset.
    #[error("not an asset: write CODE:ISSUER, for example \"OBOL:G...\" (issuer: 56 characters)")]
    Asset,
}

/// A value of a configuration that can be read, but not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}: {advice}")]
pub struct Invalid {
    /// The key, with its section.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub advice: &'static str,
}

impl Invalid {
    /// The value of `key` "is ..." or "has ...": `advice` is what to write instead.
    pub fn new(key: &'static str, problem: impl Into<String>, advice: &'static str) -> Invalid {
        Invalid {
            key,
            problem: problem.into(),
            advice,
        }
    }
}

/// Checks what clients and relays both are told of a ledger (section `payments.ledger`).
///
/// # Errors
/// The first value that cannot be used.
pub fn check_ledger(passphrase: &str, urls: &[String], poll: Span, highest_fee: i64) -> Result<(), Invalid> {
    if passphrase.is_empty() {
        return Err(Invalid::new(
            "payments.ledger.network_passphrase",
            "is empty",
            "give the passphrase of the network",
        ));
    }
    if urls.is_empty() {
        return Err(Invalid::new(
            "payments.ledger.urls",
            "is empty",
            "name at least one server of the ledger",
        ));
    }
    if let Some(url) = urls
        .iter()
        .find(|url| !url.starts_with("http://") && !url.starts_with("https://"))
    {
        return Err(Invalid::new(
            "payments.ledger.urls",
            format!("has {url:?}"),
            "start it with http:// or https://",
        ));
    }
    if poll.0.is_zero() {
        return Err(Invalid::new(
            "payments.ledger.poll",
            "is 0",
            "use some seconds, such as \"5s\"",
        ));
    }
    if highest_fee < 300 {
        return Err(Invalid::new(
            "payments.ledger.highest_fee",
            format!("is {highest_fee}"),
            "a flush costs at least 300",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_amounts_and_assets_read_back_what_they_print() {
        for amount in [0, 1, 9_999_999, 10_000_000, 125_000_000, i64::MAX] {
            assert_eq!(Amount(amount).to_string().parse(), Ok(Amount(amount)));
        }
        for span in [Span::millis(250), Span::seconds(600), Span::hours(8 * 24)] {
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        let name = "OBOL:GAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSABOV";
        let asset: AssetName = name.parse().unwrap();
        assert_eq!((asset.to_string().as_str(), asset.code.as_str()), (name, "OBOL"));
        assert_eq!(asset.asset().code, *b"OBOL\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn what_is_too_large_or_too_fine_is_no_amount() {
        assert_eq!("12.5".parse(), Ok(Amount(125_000_000)));
        for text in ["922337203685.4775808", "1.23456789", "-1", "", ".", "1e3"] {
            assert_eq!(text.parse::<Amount>(), Err(ValueError::Amount), "{text}");
        }
        assert_eq!("OBOL".parse::<AssetName>(), Err(ValueError::Asset));
        assert_eq!("5 lightyears".parse::<Span>(), Err(ValueError::Span));
    }
}
