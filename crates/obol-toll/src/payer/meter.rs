//! The client's own meter [H7].
//!
//! A stock Arti client shows no cell counts, so the payer counts what it can see: payload. A read that returns data returns
//! (at most) one cell's, a write is cut into cells of 498 bytes. That misses control cells and cells that are still on their
//! way, hence the allowance.

use obol_cell::UNIT;

/// Payload of a relay cell, bytes.
pub const CELL_PAYLOAD: u64 = 498;
/// A RELAY cell on the wire, as hops meter it, bytes.
pub const CELL: u64 = 514;
/// Cells that every tunnel is allowed beyond what its payload explains.
pub const ALLOWANCE: u64 = 64;
/// Cells that may be on their way between the last hop's meter and ours: one flow control window, per circuit and never
/// per request [H7].
pub const WINDOW: u64 = 1_000;

/// How many cells a write or non-empty read of `len` payload bytes counts as.
pub const fn cells_of(len: u64) -> u64 {
    len.div_ceil(CELL_PAYLOAD)
}

/// Counts one tunnel's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meter {
    up: u64,
    down: u64,
}

impl Meter {
    /// Adds cells of writes and of reads.
    pub fn add(&mut self, up: u64, down: u64) {
        self.up = self.up.saturating_add(up);
        self.down = self.down.saturating_add(down);
    }

    /// What certainly went through, bytes: no allowance.
    pub fn least(&self) -> u64 {
        self.up.saturating_add(self.down).saturating_mul(CELL)
    }

    /// What came down and so passed every hop, bytes.
    pub fn delivered(&self) -> u64 {
        self.down.saturating_mul(CELL)
    }

    /// What our use justifies, bytes: cells x 1.10 + 64 cells. Steps are bought up to this.
    pub fn justified(&self) -> u64 {
        let cells = self.up.saturating_add(self.down);
        cells
            .saturating_add(cells.div_ceil(10))
            .saturating_add(ALLOWANCE)
            .saturating_mul(CELL)
    }

    /// The most that an honest hop can have metered, bytes: what our use justifies, and a window on its way.
    pub fn most(&self) -> u64 {
        self.justified().saturating_add(WINDOW * CELL)
    }
}

/// How many whole 64 KiB fit.
pub const fn units(bytes: u64) -> u64 {
    bytes / UNIT
}
