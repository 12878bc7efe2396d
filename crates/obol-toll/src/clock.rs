//! Time, always an argument.

/// Milliseconds since the Unix epoch, by the caller's wall clock.
///
/// The machines tolerate a clock that jumps: a step backwards only makes waits longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// From whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        UnixMillis(secs.saturating_mul(1_000))
    }

    /// Whole seconds, rounded down.
    pub const fn secs(self) -> u64 {
        self.0 / 1_000
    }

    /// `ms` later.
    pub const fn plus(self, ms: u64) -> Self {
        UnixMillis(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; zero if that is not earlier.
    pub const fn since(self, earlier: UnixMillis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Days since the epoch (UTC).
    pub const fn day(self) -> u64 {
        self.0 / 86_400_000
    }
}
