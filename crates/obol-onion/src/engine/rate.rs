//! Token buckets on the engine's clock: of bytes, and of things that may happen only so often.

use super::ids::Time;

/// Tokens come at a rate and are spent by sending; a short burst may be saved up.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    /// Bytes per second.
    rate: u64,
    /// Most millionths of a byte that are saved up.
    burst: u64,
    /// Millionths of a byte at hand.
    level: u64,
    at: Time,
}

/// Millionths of a byte per byte.
const MICRO: u64 = 1_000_000;

impl Bucket {
    pub(crate) fn new(rate: u64) -> Self {
        Bucket::saving(rate, 0)
    }

    /// A bucket that saves up so many bytes, and at least what every bucket does.
    pub(crate) fn saving(rate: u64, burst: u64) -> Self {
        // The public network's rates are below 2^40 bytes/s; this keeps the product with a second's micros in 64 bits.
        let rate = rate.clamp(1, 1 << 40);
        // Forty milliseconds: what a timer may be late on a busy machine; tokens beyond are lost. Some cells at least.
        let burst = burst.clamp((rate / 25).max(8 * 1024), (1 << 43).max(rate / 25)) * MICRO;
        Bucket {
            rate,
            burst,
            level: burst,
            at: Time(0),
        }
    }

    fn refill(&mut self, now: Time) {
        let micros = now.since(self.at);
        if micros > 0 {
            let gained = self.rate.saturating_mul(micros);
            self.level = self.level.saturating_add(gained).min(self.burst);
            self.at = now;
        }
    }

    /// Whole bytes that may be sent now.
    pub(crate) fn available(&mut self, now: Time) -> u64 {
        self.refill(now);
        self.level / MICRO
    }

    /// Takes what was sent; never more than was available.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.level = self.level.saturating_sub(bytes * MICRO);
    }

    /// When it is worth coming back for at least `bytes`: a few milliseconds' worth at once, so that a timer fires a few
    /// hundred times a second and not once a cell.
    pub(crate) fn ready_at(&self, bytes: u64) -> Time {
        let worth = (bytes * MICRO).max(self.rate * 2000).min(self.burst);
        self.at.plus(worth.saturating_sub(self.level).div_ceil(self.rate))
    }
}

/// How often something may still happen.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    /// Times a second.
    rate: u64,
    /// Most millionths of a time that are saved up.
    burst: u64,
    /// Millionths at hand.
    level: u64,
    at: Time,
}

impl Allowance {
    /// `rate` times a second, `burst` times at once; both less than 2^32.
    pub(crate) fn new(rate: u64, burst: u64) -> Self {
        let burst = burst.saturating_mul(MICRO);
        Allowance {
            rate,
            burst,
            level: burst,
            at: Time(0),
        }
    }

    fn refill(&mut self, now: Time) {
        let came = now.since(self.at).saturating_mul(self.rate);
        self.level = self.level.saturating_add(came).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Once more, if that is allowed.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        self.refill(now);
        let allowed = !self.is_empty();
        if allowed {
            self.level -= MICRO;
        }
        allowed
    }

    /// Whether it would not have been allowed once more after the last time.
    pub(crate) fn is_empty(&self) -> bool {
        self.level < MICRO
    }

    /// Whether it is as if nothing had ever happened.
    pub(crate) fn is_full(&mut self, now: Time) -> bool {
        self.refill(now);
        self.level == self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_over_time_and_no_more_than_its_burst_at_once() {
        let mut bucket = Bucket::new(1_000_000);
        assert_eq!(bucket.available(Time(0)), 40_000);
        bucket.spend(40_000);
        let mut sent = 0;
        let mut now = Time(0);
        while now < Time(10_000_000) {
            now = bucket.ready_at(514);
            let bytes = bucket.available(now);
            assert!(bytes >= 514, "woken for nothing");
            bucket.spend(bytes);
            sent += bytes;
        }
        assert!((9_990_000..=10_010_000).contains(&sent), "{sent}");
        assert_eq!(bucket.available(Time(u64::MAX)), 40_000);
    }

    #[test]
    fn an_allowance_gives_its_burst_and_then_its_rate() {
        let mut allowance = Allowance::new(3, 90);
        let mut now = Time(5_000_000);
        assert!((0..90).all(|_| allowance.take(now)));
        assert!(allowance.is_empty() && !allowance.take(now));
        now = now.plus(333_333);
        assert!(!allowance.take(now));
        let mut times = 0;
        for _ in 0..10_000 {
            now = now.plus(1000);
            times += u32::from(allowance.take(now));
        }
        assert!((30..=31).contains(&times), "{times}");
        assert!(!allowance.is_full(now) && allowance.is_full(now.plus(31_000_000)));
        let mut extreme = Allowance::new(u64::from(u32::MAX), u64::from(u32::MAX));
        assert!(extreme.take(Time(u64::MAX)) && extreme.take(Time(0)));
    }

    #[test]
    fn what_is_not_sent_is_saved_up_to_the_burst() {
        let mut bucket = Bucket::saving(1_000_000, 5_000_000);
        bucket.spend(5_000_000);
        assert_eq!(bucket.available(Time(3_000_000)), 3_000_000);
        assert_eq!(bucket.available(Time(60_000_000)), 5_000_000);
        // Less than any bucket saves is not asked for, and more than can be counted is a lot.
        assert_eq!(Bucket::saving(1_000_000, 1).available(Time(0)), 40_000);
        assert_eq!(Bucket::saving(u64::MAX, u64::MAX).available(Time(0)), 1 << 43);
    }
}
