//! Buckets: of initial credit, and of payment messages.

use crate::clock::UnixMillis;
use obol_cell::UNIT;

/// A bucket of bytes that refills with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteBucket {
    level: u64,
    at: UnixMillis,
}

impl ByteBucket {
    pub(crate) fn full(size: u64, now: UnixMillis) -> Self {
        ByteBucket { level: size, at: now }
    }

    fn refill(&mut self, size: u64, per_second: u64, now: UnixMillis) {
        let gained = u128::from(now.since(self.at)) * u128::from(per_second) / 1_000;
        if gained > 0 || now < self.at {
            self.level = self.level.saturating_add(u64::try_from(gained).unwrap_or(u64::MAX));
            self.at = now;
        }
        self.level = self.level.min(size);
    }

    /// Takes up to `want` bytes.
    pub(crate) fn take(&mut self, want: u64, size: u64, per_second: u64, now: UnixMillis) -> u64 {
        self.refill(size, per_second, now);
        let got = want.min(self.level);
        self.level -= got;
        got
    }

    /// Whether it is as full as a new one: then it need not be remembered.
    pub(crate) fn is_full(&mut self, size: u64, per_second: u64, now: UnixMillis) -> bool {
        self.refill(size, per_second, now);
        self.level == size
    }
}

/// A circuit's payment messages: 16, and one more for each 64 KiB metered and each 20 s (M6, 2.5); a `Pay` that bought a step
/// was none (docs/adr/0010).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageBucket {
    level: u32,
    units: u64,
    at: UnixMillis,
}

impl MessageBucket {
    const SIZE: u32 = 16;
    const REFILL_MS: u64 = 20_000;

    pub(crate) fn new(now: UnixMillis) -> Self {
        MessageBucket {
            level: Self::SIZE,
            units: 0,
            at: now,
        }
    }

    /// Whether one more message is allowed.
    pub(crate) fn take(&mut self, metered: u64, now: UnixMillis) -> bool {
        let units = metered / UNIT;
        let by_bytes = units.saturating_sub(self.units);
        self.units = self.units.max(units);
        let by_time = now.since(self.at) / Self::REFILL_MS;
        if now < self.at {
            self.at = now;
        } else {
            // What is left of a period counts on.
            self.at = self.at.plus(by_time.saturating_mul(Self::REFILL_MS));
        }
        let gained = u32::try_from(by_bytes.saturating_add(by_time)).unwrap_or(u32::MAX);
        self.level = self.level.saturating_add(gained).min(Self::SIZE);
        if self.level == 0 {
            return false;
        }
        self.level -= 1;
        true
    }

    /// A message has bought something: whoever pays for what it costs needs no other bound.
    pub(crate) fn give_back(&mut self) {
        self.level = (self.level + 1).min(Self::SIZE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: UnixMillis = UnixMillis(1_000_000);

    #[test]
    fn bytes_are_taken_while_there_are_some_and_come_back_with_time() {
        let mut b = ByteBucket::full(100, T);
        assert_eq!(b.take(60, 100, 10, T), 60);
        assert!(!b.is_full(100, 10, T));
        assert_eq!(b.take(60, 100, 10, T), 40);
        assert_eq!(b.take(60, 100, 10, T.plus(99)), 0);
        assert_eq!(b.take(60, 100, 10, T.plus(2_000)), 20);
        // Never more than it holds, and a clock that goes back gives nothing.
        assert_eq!(b.take(500, 100, 10, T.plus(1_000_000)), 100);
        assert_eq!(b.take(500, 100, 10, T), 0);
        assert_eq!(b.take(500, 100, 10, T.plus(1_000)), 10);
        assert!(b.is_full(100, 10, T.plus(100_000)));
    }

    #[test]
    fn little_time_often_is_as_much_as_much_time_once() {
        let mut b = ByteBucket::full(0, T);
        let mut got = 0;
        for i in 1..=1_000 {
            got += b.take(100, 100, 10, T.plus(i * 10));
        }
        assert_eq!(got, 100);
    }

    #[test]
    fn sixteen_messages_then_one_per_20_s_and_one_per_64_kib() {
        let mut b = MessageBucket::new(T);
        for _ in 0..16 {
            assert!(b.take(0, T));
        }
        assert!(!b.take(0, T));
        assert!(!b.take(UNIT - 1, T.plus(19_999)));
        assert!(b.take(UNIT - 1, T.plus(20_000)));
        assert!(!b.take(UNIT - 1, T.plus(39_999)));
        assert!(b.take(UNIT, T.plus(39_999)));
        assert!(!b.take(UNIT, T.plus(39_999)));
        assert!(b.take(UNIT, T.plus(40_000)), "what was left of a period counts on");
        // A count that falls gives nothing, and what was counted is not counted again.
        assert!(!b.take(0, T.plus(40_001)));
        assert!(!b.take(UNIT, T.plus(40_001)));
        // A clock that was set back refills from there on, and gives nothing for what it repeats.
        let mut set_back = b;
        assert!(!set_back.take(UNIT, T));
        assert!(!set_back.take(UNIT, T.plus(19_999)));
        assert!(set_back.take(UNIT, T.plus(20_000)));
        // One that bought something comes back.
        set_back.give_back();
        assert!(set_back.take(UNIT, T.plus(20_000)));
        assert!(!set_back.take(UNIT, T.plus(20_000)));
        // Never more than 16.
        b.take(1_000 * UNIT, T.plus(40_001));
        (0..5).for_each(|_| b.give_back());
        assert!((0..16).all(|_| b.take(1_000 * UNIT, T.plus(40_001))));
        assert!(!b.take(1_000 * UNIT, T.plus(40_001)));
    }
}
