//! The values of the configuration that are more than a string or a number: spans of time, money, Stellar names. Written as
//! in a relay's `node.toml`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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
        Span(Duration::from_secs(n * 3600))
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

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Span, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// An amount of the asset in stroops (10^-7 of a unit): written as a whole number of stroops, or as `"12.5"` units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(pub i64);

/// Stroops in one unit of any Stellar asset.
const STROOPS_PER_UNIT: i64 = 10_000_000;

impl Amount {
    /// The number of stroops; never negative.
    pub const fn stroops(self) -> i64 {
        self.0
    }

    /// A whole number of units of the asset.
    pub const fn units(n: i64) -> Amount {
        Amount(n * STROOPS_PER_UNIT)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:07}", self.0 / STROOPS_PER_UNIT, self.0 % STROOPS_PER_UNIT)
    }
}

impl FromStr for Amount {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Amount, ValueError> {
        let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || part.len() > 7 || !digits(whole) || !digits(part) {
            return Err(ValueError::Amount);
        }
        let whole: i64 = whole.parse().map_err(|_| ValueError::Amount)?;
        let part: i64 = format!("{part:0<7}").parse().map_err(|_| ValueError::Amount)?;
        let sum = whole.checked_mul(STROOPS_PER_UNIT).and_then(|n| n.checked_add(part));
        sum.map(Amount).ok_or(ValueError::Amount)
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
                if n < 0 {
                    Err(E::custom(ValueError::Amount))
                } else {
                    Ok(Amount(n))
                }
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
    /// The code as the ledger keeps it: padded with zero bytes to twelve.
    pub fn padded_code(&self) -> [u8; 12] {
        let mut code = [0; 12];
        for (to, from) in code.iter_mut().zip(self.code.bytes()) {
            *to = from;
        }
        code
    }
}

impl fmt::Display for AssetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.code, stellar_strkey::ed25519::PublicKey(self.issuer))
    }
}

impl FromStr for AssetName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<AssetName, ValueError> {
        let (code, issuer) = text.split_once(':').ok_or(ValueError::Asset)?;
        let good = (1..=12).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
        if !good {
            return Err(ValueError::Asset);
        }
        let issuer: stellar_strkey::ed25519::PublicKey = issuer.parse().map_err(|_| ValueError::Asset)?;
        Ok(AssetName {
            code: code.to_owned(),
            issuer: issuer.0,
        })
    }
}

impl Serialize for AssetName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AssetName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<AssetName, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

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
