//! Time for payments: the later of the own clock and the ledger's (settlement.md), which never stops in between.

use std::time::{SystemTime, UNIX_EPOCH};

use obol_toll::UnixMillis;

/// The own clock, moved ahead by as much as the ledger's was ahead when a ledger was last heard of.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ahead_ms: u64,
}

impl Clock {
    /// A ledger closed at `close_time`, unix seconds, and was heard of now.
    pub(super) fn ledger_closed(&mut self, close_time: u64) {
        self.ahead_ms = UnixMillis::from_secs(close_time).since(own());
    }

    /// Now.
    pub(super) fn now(&self) -> UnixMillis {
        own().plus(self.ahead_ms)
    }
}

/// The own clock.
pub(super) fn own() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
