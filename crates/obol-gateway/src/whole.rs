//! Whole numbers of JSON: `1`, and `1.0`, which JSON Schema takes for an integer, too.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// Up to here a float tells whole numbers apart.
const EXACT: f64 = 9_007_199_254_740_992.0;

struct Whole<T>(T);

struct Reader<T>(PhantomData<T>);

impl<T: TryFrom<i128>> Visitor<'_> for Reader<T> {
    type Value = Whole<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number within bounds")
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Whole<T>, E> {
        let told = Unexpected::Signed(n);
        T::try_from(n.into())
            .map(Whole)
            .map_err(|_| E::invalid_value(told, &self))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Whole<T>, E> {
        let told = Unexpected::Unsigned(n);
        T::try_from(n.into())
            .map(Whole)
            .map_err(|_| E::invalid_value(told, &self))
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Whole<T>, E> {
        let told = Unexpected::Float(n);
        if n.fract() != 0.0 || n.abs() > EXACT {
            return Err(E::invalid_value(told, &self));
        }
        T::try_from(n as i128)
            .map(Whole)
            .map_err(|_| E::invalid_value(told, &self))
    }
}

impl<'de, T: TryFrom<i128>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

/// For a field that is there.
pub(crate) fn whole<'de, T: TryFrom<i128>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Whole::deserialize(deserializer).map(|Whole(n)| n)
}

/// For a field that may be `null`; with `#[serde(default)]`, absent.
pub(crate) fn whole_or_none<'de, T: TryFrom<i128>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let found = Option::<Whole<T>>::deserialize(deserializer)?;
    Ok(found.map(|Whole(n)| n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize as Derive;

    #[derive(Debug, PartialEq, Derive)]
    struct Asked {
        #[serde(deserialize_with = "whole")]
        n: i64,
        #[serde(default, deserialize_with = "whole_or_none")]
        or: Option<u64>,
    }

    fn read(text: &str) -> Option<(i64, Option<u64>)> {
        serde_json::from_str::<Asked>(text)
            .ok()
            .map(|asked| (asked.n, asked.or))
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point_and_nothing_is_rounded() {
        assert_eq!(read(r#"{"n": 7}"#), Some((7, None)));
        assert_eq!(read(r#"{"n": -7.0, "or": 1e3}"#), Some((-7, Some(1000))));
        assert_eq!(
            read(r#"{"n": 9223372036854775807, "or": null}"#),
            Some((i64::MAX, None))
        );
        for wrong in [
            r#"{"n": 1.5}"#,
            r#"{"n": 9223372036854775808}"#,
            r#"{"n": 1e17}"#,
            r#"{"n": "7"}"#,
            r#"{"n": null}"#,
            r#"{"or": 7}"#,
            r#"{"n": 7, "or": -1.0}"#,
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
