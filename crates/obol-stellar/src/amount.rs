//! Amounts as people and Horizon write them: decimal numbers with up to seven places.

use obol_cell::Stroops;

/// How many stroops one unit of any asset has.
pub const STROOPS_PER_UNIT: i64 = 10_000_000;

/// `12345678` stroops is `"1.2345678"`: always seven places, as Horizon writes it.
pub fn amount_text(amount: Stroops) -> String {
    let stroops = amount.get();
    format!("{}.{:07}", stroops / STROOPS_PER_UNIT, stroops % STROOPS_PER_UNIT)
}

/// Reads a decimal amount: digits, and up to seven places after a point. No sign, no exponent, no spaces.
///
/// # Errors
/// When the text is something else, or more than an `i64` of stroops holds.
pub fn parse_amount(text: &str) -> Result<Stroops, NotAnAmount> {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let point_without_places = text.contains('.') && places.is_empty();
    if whole.is_empty() || point_without_places || places.len() > 7 || !digits(whole) || !digits(places) {
        return Err(NotAnAmount);
    }
    let whole: i64 = whole.parse().map_err(|_| NotAnAmount)?;
    let mut part: i64 = 0;
    for position in 0..7 {
        let digit = places.as_bytes().get(position).map_or(0, |b| i64::from(b - b'0'));
        part = part * 10 + digit;
    }
    whole
        .checked_mul(STROOPS_PER_UNIT)
        .and_then(|stroops| stroops.checked_add(part))
        .and_then(|stroops| Stroops::new(stroops).ok())
        .ok_or(NotAnAmount)
}

/// The text is not an amount with at most seven decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an amount with at most seven decimal places, such as 12.5")]
pub struct NotAnAmount;
