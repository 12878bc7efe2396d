//! The client's own meter of a tunnel (payment-protocol.md, "Metering").
//!
//! A stock Arti client shows no cell counts, but a write is packed into cells of at most 498 bytes, and a read
//! returns the payload of one cell. So cells are reckoned as payload / 498, rounded up per write and per non-empty read.

use std::sync::atomic::{AtomicU64, Ordering};

use obol_toll::payer::meter::{CELL, cells_of};
use tokio::sync::Notify;

/// Counts what one tunnel carries. Every stream of the tunnel adds to it, the payer reads it.
#[derive(Debug, Default)]
pub(crate) struct TunnelMeter {
    payload_sent: AtomicU64,
    payload_received: AtomicU64,
    /// Cells of writes.
    up: AtomicU64,
    /// Cells of non-empty reads.
    down: AtomicU64,
    streams: AtomicU64,
    /// When `up + down` reaches this, the payer is woken.
    wake_at: AtomicU64,
    wake: Notify,
}

impl TunnelMeter {
    /// A write of `bytes` goes into a stream.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.payload_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.up.fetch_add(cells_of(bytes as u64), Ordering::Relaxed);
        self.rouse();
    }

    /// `reads` non-empty reads returned `bytes` together.
    pub(crate) fn read(&self, reads: u64, bytes: usize) {
        self.payload_received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.down
            .fetch_add(reads.max(cells_of(bytes as u64)), Ordering::Relaxed);
        self.rouse();
    }

    /// A stream was opened on the tunnel: one cell went up and one came down.
    pub(crate) fn stream_opened(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.up.fetch_add(1, Ordering::Relaxed);
        self.down.fetch_add(1, Ordering::Relaxed);
        self.rouse();
    }

    fn rouse(&self) {
        let (up, down) = self.cells();
        if up + down >= self.wake_at.load(Ordering::Relaxed) {
            self.wake_at.store(u64::MAX, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Cells of writes, and of reads, so far.
    pub(crate) fn cells(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }

    /// Bytes that relays may have metered, without any allowance.
    pub(crate) fn carried(&self) -> u64 {
        let (up, down) = self.cells();
        (up + down) * CELL
    }

    /// Payload bytes written.
    pub(crate) fn payload_sent(&self) -> u64 {
        self.payload_sent.load(Ordering::Relaxed)
    }

    /// Payload bytes read.
    pub(crate) fn payload_received(&self) -> u64 {
        self.payload_received.load(Ordering::Relaxed)
    }

    /// Streams opened.
    pub(crate) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Waits until there are more cells than `seen`, up and down together.
    ///
    /// For one waiter at a time: the payer's task of this tunnel.
    pub(crate) async fn beyond(&self, seen: u64) {
        loop {
            self.wake_at.store(seen + 1, Ordering::Relaxed);
            // A count between the store and this look is seen here; one after it wakes us.
            let (up, down) = self.cells();
            if up + down > seen {
                return;
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_rounded_up_to_whole_cells() {
        let meter = TunnelMeter::default();
        meter.wrote(1);
        meter.wrote(498);
        meter.wrote(499);
        assert_eq!(meter.carried(), 4 * CELL);
        assert_eq!(meter.payload_sent(), 998);
    }

    #[test]
    fn every_non_empty_read_is_a_cell() {
        let meter = TunnelMeter::default();
        meter.read(3, 10);
        meter.read(1, 498);
        assert_eq!(meter.carried(), 4 * CELL);
        assert_eq!(meter.payload_received(), 508);
    }

    #[tokio::test]
    async fn the_payer_wakes_when_something_was_carried() {
        let meter = std::sync::Arc::new(TunnelMeter::default());
        let waiting = tokio::spawn({
            let meter = std::sync::Arc::clone(&meter);
            async move { meter.beyond(9).await }
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
            meter.wrote(1);
        }
        waiting.await.unwrap();
        // And at once where it already was.
        meter.beyond(1).await;
    }
}
