//! The client's own meter (H7): a stock Arti client shows no cell counts, so it counts payload.

/// Payload bytes of a full DATA cell.
pub const CELL_PAYLOAD: u64 = 498;
/// Bytes of a cell, as relays count them.
pub const CELL: u64 = 514;
/// Cells that may be between a hop's meter and ours: one circuit window.
pub const WINDOW: u64 = 1_000;
/// Cells that congestion control may have under way beyond [`WINDOW`]: 16 MiB, more than a second of a gigabit. A lead of so much
/// is not paid for until it arrives, but it does not cost the tunnel either.
pub const LEAD: u64 = 32_768;
/// How long what is under way may take to arrive.
pub const ARRIVAL_MS: u64 = 120_000;
/// Cells of a circuit that no stream shows: building it, opening streams.
pub const SET_UP: u64 = 64;

/// How many cells a write, or a non-empty read straight from a stream, of `len` bytes stands for.
pub const fn cells_of(len: u64) -> u64 {
    len.div_ceil(CELL_PAYLOAD)
}

/// What went through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meter {
    cells: u64,
}

impl Meter {
    /// Counts.
    pub fn add(&mut self, cells: u64) {
        self.cells = self.cells.saturating_add(cells);
    }

    /// Bytes that every hop has carried at least.
    pub fn floor(&self) -> u64 {
        self.cells.saturating_mul(CELL)
    }

    /// Bytes that a hop may believably claim: payload cells x 1.10 (flow control, short cells), [`SET_UP`], and the window that
    /// may still be under way to us.
    pub fn believable(&self) -> u64 {
        let cells = self
            .cells
            .saturating_add(self.cells / 10)
            .saturating_add(SET_UP + WINDOW);
        cells.saturating_mul(CELL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_rounded_up_to_cells() {
        assert_eq!([0, 1, 498, 499, 996, 997].map(cells_of), [0, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_hop_may_claim_a_tenth_more_and_an_allowance() {
        let mut meter = Meter::default();
        assert_eq!(meter.believable(), (SET_UP + WINDOW) * CELL);
        meter.add(10_000);
        assert_eq!(meter.floor(), 10_000 * CELL);
        assert_eq!(meter.believable(), (11_000 + SET_UP + WINDOW) * CELL);
    }
}
