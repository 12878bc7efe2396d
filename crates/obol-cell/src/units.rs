//! Money, prices and steps. Integers only; every sum is checked.

/// What prices are per: 64 KiB.
pub const UNIT: u64 = 64 * 1024;

/// A number that its unit does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Above 2^63 - 1, or negative.
    #[error("an amount of stroops is between 0 and 2^63 - 1")]
    Amount,
    /// Not 1, 2 or 5 times a power of ten.
    #[error("{0} stroops per 64 KiB is not on the price ladder")]
    OffLadder(u64),
    /// Not a power of two times 64 KiB, or too large.
    #[error("not a step: a power of two of 64 KiB, at most 2^{max} of them", max = Step::MAX_POWER)]
    Step,
    /// Not 0, 1,000 or 10,000 parts per million.
    #[error("{0} ppm is not a forwarding fee")]
    Ppm(u32),
}

/// An amount of the asset, in stroops (1e-7 of it): never negative, never above 2^63 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stroops(i64);

impl Stroops {
    /// Nothing.
    pub const ZERO: Stroops = Stroops(0);
    /// The most that a Stellar balance can hold.
    pub const MAX: Stroops = Stroops(i64::MAX);

    /// `amount`, unless it is negative.
    pub const fn new(amount: i64) -> Result<Stroops, UnitError> {
        if amount < 0 {
            Err(UnitError::Amount)
        } else {
            Ok(Stroops(amount))
        }
    }

    /// As the `int64` of Stellar.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// As an unsigned number; the same value.
    pub const fn get_u64(self) -> u64 {
        self.0.unsigned_abs()
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, unless it is more than [`Stroops::MAX`].
    pub fn checked_add(self, other: Stroops) -> Option<Stroops> {
        self.0.checked_add(other.0).map(Stroops)
    }

    /// The difference, unless `other` is more.
    pub fn checked_sub(self, other: Stroops) -> Option<Stroops> {
        if other.0 > self.0 {
            None
        } else {
            Some(Stroops(self.0 - other.0))
        }
    }

    /// The difference, or nothing where `other` is more.
    pub fn saturating_sub(self, other: Stroops) -> Stroops {
        self.checked_sub(other).unwrap_or(Stroops::ZERO)
    }

    /// `self` times `by`, unless that is more than [`Stroops::MAX`].
    pub fn checked_mul(self, by: u64) -> Option<Stroops> {
        i64::try_from(by)
            .ok()
            .and_then(|by| self.0.checked_mul(by))
            .map(Stroops)
    }

    /// How many whole times `price` fits, and what is left. `None` if `price` is nothing.
    pub fn div_rem(self, price: Stroops) -> Option<(u64, Stroops)> {
        if price.is_zero() {
            return None;
        }
        Some(((self.0 / price.0).unsigned_abs(), Stroops(self.0 % price.0)))
    }
}

impl TryFrom<u64> for Stroops {
    type Error = UnitError;
    fn try_from(v: u64) -> Result<Self, UnitError> {
        i64::try_from(v).map(Stroops).map_err(|_| UnitError::Amount)
    }
}

impl std::fmt::Display for Stroops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::iter::Sum for Stroops {
    /// Saturates at [`Stroops::MAX`]: for reports, not for books.
    fn sum<I: Iterator<Item = Stroops>>(iter: I) -> Stroops {
        iter.fold(Stroops::ZERO, |a, b| a.checked_add(b).unwrap_or(Stroops::MAX))
    }
}

/// A price in stroops per 64 KiB, on the ladder 1, 2, 5, 10, 20, 50, ... (H6, 2.11).
///
/// On the wire one byte: the rung, 0 for 1, 1 for 2, 2 for 5, 3 for 10, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PricePer64KiB(u8);

impl PricePer64KiB {
    /// The highest rung: 10^12 stroops (100,000 of the asset) per 64 KiB.
    pub const MAX_RUNG: u8 = 36;

    /// The price on rung `rung`.
    pub const fn from_rung(rung: u8) -> Result<Self, UnitError> {
        if rung > Self::MAX_RUNG {
            Err(UnitError::OffLadder(rung as u64))
        } else {
            Ok(PricePer64KiB(rung))
        }
    }

    /// `stroops` per 64 KiB, if that is on the ladder.
    pub fn new(stroops: u64) -> Result<Self, UnitError> {
        let rung = Self::at_least(stroops).ok_or(UnitError::OffLadder(stroops))?;
        if rung.stroops().get_u64() == stroops {
            Ok(rung)
        } else {
            Err(UnitError::OffLadder(stroops))
        }
    }

    /// The first rung that is not below `stroops`; `None` above the ladder.
    pub fn at_least(stroops: u64) -> Option<Self> {
        (0..=Self::MAX_RUNG)
            .map(PricePer64KiB)
            .find(|p| p.stroops().get_u64() >= stroops)
    }

    /// The first rung that is at least `times` this price (the default forward ceiling is the one for 20), or the last.
    pub fn at_least_times(self, times: u64) -> Self {
        self.stroops()
            .get_u64()
            .checked_mul(times)
            .and_then(Self::at_least)
            .unwrap_or(PricePer64KiB(Self::MAX_RUNG))
    }

    /// The rung, as on the wire.
    pub const fn rung(self) -> u8 {
        self.0
    }

    /// The price of 64 KiB.
    pub const fn stroops(self) -> Stroops {
        let digit = match self.0 % 3 {
            0 => 1,
            1 => 2,
            _ => 5,
        };
        Stroops(digit * 10_i64.pow((self.0 / 3) as u32))
    }

    /// The exact cost of a step; `None` only if it does not fit (the ladder's top and the largest steps).
    pub fn cost(self, step: Step) -> Option<Stroops> {
        self.stroops().checked_mul(step.units())
    }
}

impl std::fmt::Display for PricePer64KiB {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} stroops/64 KiB", self.stroops())
    }
}

/// What one payment buys at every hop: a power of two times 64 KiB.
///
/// On the wire one byte: that power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step(u8);

impl Step {
    /// The largest power: 2^20 x 64 KiB = 64 GiB.
    pub const MAX_POWER: u8 = 20;
    /// The first step: 64 KiB.
    pub const FIRST: Step = Step(0);
    /// The default largest step: 16 MiB.
    pub const DEFAULT_LARGEST: Step = Step(8);

    /// 2^`power` x 64 KiB.
    pub const fn from_power(power: u8) -> Result<Self, UnitError> {
        if power > Self::MAX_POWER {
            Err(UnitError::Step)
        } else {
            Ok(Step(power))
        }
    }

    /// `bytes`, if that is a step.
    pub fn from_bytes(bytes: u64) -> Result<Self, UnitError> {
        match Self::largest_within(bytes) {
            Some(step) if step.bytes() == bytes => Ok(step),
            _ => Err(UnitError::Step),
        }
    }

    /// The largest step not above `bytes`; `None` below 64 KiB.
    pub fn largest_within(bytes: u64) -> Option<Self> {
        let power = (bytes / UNIT).checked_ilog2()?;
        Some(Step(u8::try_from(power).unwrap_or(u8::MAX).min(Self::MAX_POWER)))
    }

    /// The power, as on the wire.
    pub const fn power(self) -> u8 {
        self.0
    }

    /// How many times 64 KiB.
    pub const fn units(self) -> u64 {
        1 << self.0
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.units() * UNIT
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} KiB", self.bytes() / 1024)
    }
}

/// The fee for forwarding money, in parts per million: 0, 1,000 or 10,000 (H1, 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ForwardPpm(u32);

impl ForwardPpm {
    /// No fee.
    pub const NONE: ForwardPpm = ForwardPpm(0);

    /// `ppm`, if that is one of the three.
    pub const fn new(ppm: u32) -> Result<Self, UnitError> {
        match ppm {
            0 | 1_000 | 10_000 => Ok(ForwardPpm(ppm)),
            other => Err(UnitError::Ppm(other)),
        }
    }

    /// Parts per million.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The whole fee on `forwarded` (everything a circuit had this hop forward so far), rounded up once.
    pub fn fee_on(self, forwarded: Stroops) -> Stroops {
        let fee = (u128::from(forwarded.get_u64()) * u128::from(self.0)).div_ceil(1_000_000);
        // At most 1 % of an i64, so it fits.
        Stroops(i64::try_from(fee).unwrap_or(i64::MAX))
    }
}
