//! The X.509 certificate of an RSA identity key (CERTS type 2): just as much of X.509 as that takes.
//!
//! cert-spec, [legacy RSA certificates](https://spec.torproject.org/cert-spec.html#certs-cell). It must be self-signed by
//! a 1024-bit RSA key and be within its dates, give or take the slack that C Tor allows. Identity is proved by what the key
//! signs elsewhere; this is only where the key comes from.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tor_llcrypto::pk::rsa::PublicKey;
use tor_llcrypto::util::x509_extract_rsa_subject_kludge;

/// Seconds for which a certificate is still accepted after its end, and before its beginning.
const SLACK_PAST: i64 = 2 * 86400;
/// See [`SLACK_PAST`].
const SLACK_FUTURE: i64 = 30 * 86400;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERAL_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// sha256WithRSAEncryption (1.2.840.113549.1.1.11) and sha1WithRSAEncryption (…1.5).
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05];
/// What PKCS #1 puts before a hash of either kind (RFC 8017, 9.2).
const INFO_SHA256: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
];
const INFO_SHA1: &[u8] = &[
    0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14,
];

/// One element of DER.
struct Element<'a> {
    tag: u8,
    /// What is in it.
    value: &'a [u8],
    /// All of it, with tag and length.
    whole: &'a [u8],
}

/// Takes one element off the front of `rest`. Lengths of up to two bytes: no certificate in a cell needs more.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Element<'a>> {
    let (&[tag, first], after) = rest.split_first_chunk()?;
    let (header, len) = match first {
        0..=0x7f => (2, usize::from(first)),
        0x81 => (3, usize::from(*after.first()?)),
        0x82 => (4, usize::from(u16::from_be_bytes(*after.first_chunk()?))),
        _ => return None,
    };
    let (whole, tail) = rest.split_at_checked(header + len)?;
    *rest = tail;
    Some(Element {
        tag,
        value: &whole[header..],
        whole,
    })
}

/// The same, if it has this tag.
fn expect<'a>(rest: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    next(rest).filter(|element| element.tag == tag)
}

/// Seconds since 1970 of a UTCTime (`YYMMDDHHMMSSZ`) or GeneralizedTime (`YYYYMMDDHHMMSSZ`).
fn seconds(time: &Element<'_>) -> Option<i64> {
    let two = |bytes: &[u8]| -> Option<i64> {
        let [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = bytes else {
            return None;
        };
        Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    let (year, rest) = match time.tag {
        UTC_TIME => {
            let (year, rest) = time.value.split_at_checked(2)?;
            let year = two(year)?;
            // RFC 5280, 4.1.2.5.1
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERAL_TIME => {
            let (year, rest) = time.value.split_at_checked(4)?;
            (two(&year[..2])? * 100 + two(&year[2..])?, rest)
        }
        _ => return None,
    };
    let (&rest, b"Z") = rest.split_first_chunk::<10>()? else {
        return None;
    };
    let field = |at: usize| two(&rest[at..at + 2]);
    let (month, day) = (field(0)?, field(2)?);
    let (hour, minute, second) = (field(4)?, field(6)?, field(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 in the proleptic Gregorian calendar, with years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86400 + hour * 3600 + minute * 60 + second)
}

/// The identity key in a self-signed certificate that is valid at `now` (seconds since 1970); `None` if anything is wrong
/// with it.
pub(super) fn identity_key(certificate: &[u8], now: u64) -> Option<PublicKey> {
    let key = x509_extract_rsa_subject_kludge(certificate)?;
    if key.bits() != 1024 || !key.exponent_is(65537) {
        return None;
    }

    let mut rest = certificate;
    let mut parts = expect(&mut rest, SEQUENCE).filter(|_| rest.is_empty())?.value;
    let signed = expect(&mut parts, SEQUENCE)?;
    let outer = expect(&mut parts, SEQUENCE)?.whole;
    // The first byte of a bit string counts the bits that are missing from its last one.
    let (0, signature) = expect(&mut parts, BIT_STRING)?.value.split_first()? else {
        return None;
    };

    let mut fields = signed.value;
    expect(&mut fields, VERSION)?;
    expect(&mut fields, INTEGER)?;
    // What is outside of the signature must be what is inside of it (RFC 5280, 4.1.1.2).
    let inner = expect(&mut fields, SEQUENCE).filter(|inner| inner.whole == outer)?;
    let algorithm = expect(&mut { inner.value }, OBJECT)?.value;
    let _issuer = expect(&mut fields, SEQUENCE)?;
    let mut validity = expect(&mut fields, SEQUENCE)?.value;
    let not_before = seconds(&next(&mut validity)?)?;
    let not_after = seconds(&next(&mut validity)?)?;
    let now = i64::try_from(now).ok()?;
    if now < not_before - SLACK_FUTURE || now > not_after + SLACK_PAST {
        return None;
    }

    let hash = match algorithm {
        RSA_SHA256 => [INFO_SHA256, &Sha256::digest(signed.whole)].concat(),
        RSA_SHA1 => [INFO_SHA1, &Sha1::digest(signed.whole)].concat(),
        _ => return None,
    };
    key.verify(&hash, signature).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tag: u8, text: &str) -> Option<i64> {
        let value = text.as_bytes();
        seconds(&Element {
            tag,
            value,
            whole: value,
        })
    }

    #[test]
    fn dates_become_seconds() {
        assert_eq!(at(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(at(GENERAL_TIME, "19700101000000Z"), Some(0));
        assert_eq!(at(UTC_TIME, "260101000001Z"), Some(1_767_225_601));
        assert_eq!(at(GENERAL_TIME, "20000229235959Z"), Some(951_868_799));
        assert_eq!(at(UTC_TIME, "491231000000Z"), Some(2_524_521_600));
        assert_eq!(at(UTC_TIME, "500101000000Z"), Some(-631_152_000));
        for wrong in [
            "",
            "Z",
            "2601010000Z",
            "260101000001",
            "261301000001Z",
            "26010100000aZ",
            "260101000001Z0",
        ] {
            assert_eq!(at(UTC_TIME, wrong), None, "{wrong}");
        }
        assert_eq!(at(INTEGER, "260101000001Z"), None);
    }
}
