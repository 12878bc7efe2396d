//! The values of the configuration that only relays have: sizes, and fingerprints.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes: written as a whole number, or as `"8 MiB"`, `"64 KiB"`, `"2 GiB"`, `"1 MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

/// The units of a [`Size`], largest binary unit first so that printing finds the shortest exact form.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    /// A whole number of KiB.
    pub const fn kib(n: u64) -> Size {
        Size(n << 10)
    }

    /// A whole number of MiB.
    pub const fn mib(n: u64) -> Size {
        Size(n << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, unit) in &UNITS[..3] {
            if self.0 >= *unit && self.0.is_multiple_of(*unit) {
                return write!(f, "{} {name}", self.0 / unit);
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Size, ValueError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim();
        let number: u64 = number.parse().map_err(|_| ValueError::Size)?;
        let factor = if unit.is_empty() {
            1
        } else {
            UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, factor)| *factor)
                .ok_or(ValueError::Size)?
        };
        number.checked_mul(factor).map(Size).ok_or(ValueError::Size)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Size, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 65536 or \"64 KiB\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Size, E> {
                Ok(Size(n))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Size, E> {
                u64::try_from(n).map(Size).map_err(|_| E::custom(ValueError::Size))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Twenty bytes in hexadecimal: a relay's or authority's RSA identity (tor-spec, "relay keys").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 20]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_upper(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Fingerprint, ValueError> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text.replace(' ', ""), &mut bytes).map_err(|_| ValueError::Fingerprint)?;
        Ok(Fingerprint(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Fingerprint, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// A text that is not the value it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a number of bytes.
    #[error("not a size: write whole bytes (65536) or a number with a unit (\"64 KiB\", \"8 MiB\")")]
    Size,
    /// Not a fingerprint.
    #[error("not a fingerprint: write 40 hexadecimal digits")]
    Fingerprint,
    /// Not a relay's identity.
    #[error("not a relay's identity: write its Ed25519 identity in base64 (43 characters) or hexadecimal (64)")]
    Identity,
    /// Not an account.
    #[error("not an account: write its address, \"G...\" (56 characters)")]
    Account,
    /// Not the beginning of a period.
    #[error("not the beginning of a period: write \"day HH:MM\", \"week 1-7 HH:MM\" or \"month 1-28 HH:MM\" (UTC)")]
    Start,
}
