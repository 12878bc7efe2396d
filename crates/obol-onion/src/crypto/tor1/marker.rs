//! Marks of many circuits' cells, side by side.
//!
//! The digest of one circuit goes from block to block, but those of different circuits have nothing to do with each
//! other: each takes a lane (docs/adr/0011). What gives a cell's own value, the last blocks on a copy of the digest,
//! waits until all digests are where they will be: these blocks depend on nothing but their cell, and fill the lanes even if
//! there is but one circuit.

use super::digest::{Digest, in_tail, last_block, to_bytes, very_last_block};
use super::lanes::{self, Block, Chains, Lanes};
use super::{BODY_LEN, DIGEST, RECOGNIZED, Tag};

/// Marks a batch of cells: first say which, then [`mark`](Self::mark) them all, then fetch tags, then digests. Made to be
/// used again and again: what it has allocated it keeps.
#[derive(Debug)]
pub struct Marker {
    lanes: Lanes,
    rows: Vec<Row>,
    cells: Vec<Cell>,
    /// The rows in the order in which they come into lanes.
    order: Vec<usize>,
}

/// A circuit of the batch.
#[derive(Debug)]
struct Row {
    digest: Digest,
    /// Its first cell and its last.
    ends: Option<(usize, usize)>,
    cells: usize,
}

/// A cell of the batch.
#[derive(Debug)]
struct Cell {
    /// Where its body begins.
    at: usize,
    /// The next of the same circuit.
    next: Option<usize>,
    /// The digest's chaining value after it, then the value that the cell is marked with.
    chain: [u32; 5],
    /// The digest's bytes up to its end.
    len: u64,
}

/// A row on its way through its cells. Its chaining value and its tail are kept by whoever compresses.
#[derive(Clone, Copy, Default)]
struct Runner {
    row: usize,
    cell: usize,
    /// Where its body goes on.
    from: usize,
    /// How much of its body is not in the digest yet.
    left: usize,
    /// All bytes that are in the digest.
    len: u64,
}

/// The body at `at`.
#[inline]
fn body_mut(out: &mut [u8], at: usize) -> Option<&mut [u8; BODY_LEN]> {
    out.get_mut(at..)?.first_chunk_mut()
}

impl Default for Marker {
    fn default() -> Self {
        Self::new()
    }
}

impl Marker {
    /// An empty one, which does it the fastest way that this machine has.
    pub fn new() -> Self {
        Self::with(Lanes::best())
    }

    pub(super) fn with(lanes: Lanes) -> Self {
        Self {
            lanes,
            rows: Vec::new(),
            cells: Vec::new(),
            order: Vec::new(),
        }
    }

    /// Adds a circuit, whose digest this is: its row, counted from 0.
    pub fn circuit(&mut self, digest: Digest) -> usize {
        self.rows.push(Row {
            digest,
            ends: None,
            cells: 0,
        });
        self.rows.len() - 1
    }

    /// Adds the next cell of a row, whose clear body will be at `at` of the output: its number, counted from 0. The cells
    /// of different rows may come in any order. No row, no cell.
    pub fn cell(&mut self, row: usize, at: usize) -> Option<usize> {
        let row = self.rows.get_mut(row)?;
        let number = self.cells.len();
        self.cells.push(Cell {
            at,
            next: None,
            chain: [0; 5],
            len: 0,
        });
        row.cells += 1;
        row.ends = match row.ends {
            None => Some((number, number)),
            Some((first, last)) => {
                self.cells[last].next = Some(number);
                Some((first, number))
            }
        };
        Some(number)
    }

    /// Whether no circuit was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Marks all cells: fills in `recognized` and `digest` of their bodies, and moves the digests on. Once per batch. If a
    /// body does not lie in `out`, nothing is marked.
    pub fn mark(&mut self, out: &mut [u8]) {
        for cell in &self.cells {
            let Some(body) = body_mut(out, cell.at) else {
                debug_assert!(false, "a body lies outside of the output");
                return;
            };
            body[RECOGNIZED].fill(0);
            body[DIGEST].fill(0);
        }
        match self.lanes {
            Lanes::One => self.one_by_one(out),
            Lanes::Eight => self.run(out, lanes::eight),
            Lanes::EightAvx2 => self.run(out, lanes::eight_avx2),
            Lanes::EightAvx512 => self.run(out, lanes::eight_avx512),
            Lanes::SixteenAvx512 => self.run(out, lanes::sixteen_avx512),
        }
        for cell in &self.cells {
            if let Some(body) = body_mut(out, cell.at) {
                body[DIGEST].copy_from_slice(&to_bytes(cell.chain)[..4]);
            }
        }
    }

    /// The tag of a cell that was marked.
    pub fn tag(&self, cell: usize) -> Option<Tag> {
        self.cells.get(cell).map(|cell| Tag(to_bytes(cell.chain)))
    }

    /// Empties the batch, tags included: gives back the digests, in the order of the rows.
    pub fn digests(&mut self) -> impl Iterator<Item = Digest> {
        self.cells.clear();
        self.rows.drain(..).map(|row| row.digest)
    }

    /// [`run`](Self::run) without lanes.
    fn one_by_one(&mut self, out: &[u8]) {
        for row in &mut self.rows {
            let mut next = row.ends.map(|(first, _)| first);
            while let Some(number) = next {
                let cell = &mut self.cells[number];
                row.digest.update(&out[cell.at..][..BODY_LEN]);
                cell.chain = row.digest.last_chain();
                next = cell.next;
            }
        }
    }

    /// Takes the digests through the cells and gives each cell its value.
    fn run<const L: usize>(&mut self, out: &[u8], compress: impl Fn(&mut Chains<L>, &[Block; L])) {
        let mut side = Side::new(self.lanes.worth(), compress);
        self.advance(out, &mut side);
        side.finish(&mut self.cells, |cell| {
            let end = cell.at + BODY_LEN;
            Some(last_block(&out[end - in_tail(cell.len)..end], cell.len))
        });
        side.finish(&mut self.cells, |cell| very_last_block(cell.len));
    }

    /// Takes the digests through the cells, and leaves in each cell the chaining value behind it.
    fn advance<const L: usize, F: Fn(&mut Chains<L>, &[Block; L])>(&mut self, out: &[u8], side: &mut Side<L, F>) {
        let mut runners = [Runner::default(); L];
        let mut busy = 0;
        self.order.clear();
        self.order.extend(0..self.rows.len());
        // Those with the most cells first: a long one that starts last runs alone.
        self.order
            .sort_unstable_by_key(|row| core::cmp::Reverse(self.rows[*row].cells));
        let mut waiting = self.order.iter();
        loop {
            let mut lane = 0;
            while lane < busy {
                if runners[lane].fill(&mut side.blocks[lane], out, &mut self.cells, || {
                    chain(&side.chains, lane)
                }) {
                    lane += 1;
                    continue;
                }
                self.rows[runners[lane].row].digest = Digest {
                    chain: chain(&side.chains, lane),
                    tail: side.blocks[lane],
                    len: runners[lane].len,
                };
                busy -= 1;
                runners[lane] = runners[busy];
                side.blocks[lane] = side.blocks[busy];
                let moved = chain(&side.chains, busy);
                side.set_chain(lane, moved);
            }
            while busy < L
                && let Some(number) = waiting.next()
            {
                let row = &self.rows[*number];
                let Some((first, _)) = row.ends else { continue };
                let runner = &mut runners[busy];
                *runner = Runner {
                    row: *number,
                    cell: first,
                    from: self.cells[first].at,
                    left: BODY_LEN,
                    len: row.digest.len,
                };
                side.blocks[busy] = row.digest.tail;
                side.set_chain(busy, row.digest.chain);
                // A body is longer than a block: there is a first one.
                runner.fill(&mut side.blocks[busy], out, &mut self.cells, || row.digest.chain);
                busy += 1;
            }
            if busy == 0 {
                break;
            }
            side.compress(busy);
            if busy < side.worth {
                // These were the last, and from now on each is faster without being copied into lanes.
                for (lane, runner) in runners[..busy].iter().enumerate() {
                    self.rows[runner.row].digest = runner.finish(chain(&side.chains, lane), out, &mut self.cells);
                }
                busy = 0;
            }
        }
    }
}

impl Runner {
    /// Fills `block` with the next of its row. At the end of a cell its chaining value, `chain`, goes to the cell. False
    /// after the last: then `block` is the tail.
    #[inline]
    fn fill(&mut self, block: &mut Block, out: &[u8], cells: &mut [Cell], chain: impl Fn() -> [u32; 5]) -> bool {
        loop {
            let kept = in_tail(self.len);
            let free = block.len() - kept;
            if self.left >= free {
                let from = &out[self.from..];
                match from.first_chunk() {
                    // By far the most: a copy of known length.
                    Some(whole) if kept == 0 => *block = *whole,
                    _ => block[kept..].copy_from_slice(&from[..free]),
                }
                self.go_on(free);
                return true;
            }
            block[kept..][..self.left].copy_from_slice(&out[self.from..][..self.left]);
            self.go_on(self.left);
            if !self.next(cells, chain()) {
                return false;
            }
        }
    }

    #[inline]
    fn go_on(&mut self, len: usize) {
        self.from += len;
        self.left -= len;
        self.len = self.len.wrapping_add(len as u64);
    }

    /// Leaves the chaining value at the end of a cell with it, and goes to the row's next, if there is one.
    #[inline]
    fn next(&mut self, cells: &mut [Cell], chain: [u32; 5]) -> bool {
        let cell = &mut cells[self.cell];
        (cell.chain, cell.len) = (chain, self.len);
        let Some(next) = cell.next else { return false };
        (self.cell, self.from, self.left) = (next, cells[next].at, BODY_LEN);
        true
    }

    /// Takes the digest through the rest of the row alone, from the end of a block.
    fn finish(mut self, chain: [u32; 5], out: &[u8], cells: &mut [Cell]) -> Digest {
        let mut digest = Digest {
            chain,
            tail: [0; 64],
            len: self.len,
        };
        loop {
            digest.update(&out[self.from..][..self.left]);
            self.go_on(self.left);
            if !self.next(cells, digest.chain) {
                return digest;
            }
        }
    }
}

/// The chaining value of one lane.
#[inline]
fn chain<const L: usize>(chains: &Chains<L>, lane: usize) -> [u32; 5] {
    core::array::from_fn(|i| chains[i][lane])
}

/// Digests side by side.
struct Side<const L: usize, F> {
    chains: Chains<L>,
    blocks: [Block; L],
    /// The fewest that are compressed side by side.
    worth: usize,
    compress: F,
}

impl<const L: usize, F: Fn(&mut Chains<L>, &[Block; L])> Side<L, F> {
    fn new(worth: usize, compress: F) -> Self {
        Self {
            chains: [[0; L]; 5],
            blocks: [[0; 64]; L],
            worth,
            compress,
        }
    }

    #[inline]
    fn set_chain(&mut self, lane: usize, chain: [u32; 5]) {
        for (words, word) in self.chains.iter_mut().zip(chain) {
            words[lane] = word;
        }
    }

    /// Compresses the blocks of the first `busy` lanes.
    #[inline]
    fn compress(&mut self, busy: usize) {
        if busy >= self.worth {
            (self.compress)(&mut self.chains, &self.blocks);
            return;
        }
        for lane in 0..busy {
            let mut chain = chain(&self.chains, lane);
            lanes::alone(&mut chain, &self.blocks[lane]);
            self.set_chain(lane, chain);
        }
    }

    /// Compresses one more block for each cell that has one.
    fn finish(&mut self, cells: &mut [Cell], block: impl Fn(&Cell) -> Option<Block>) {
        let mut of = [0; L];
        let mut busy = 0;
        for number in 0..cells.len() {
            if let Some(block) = block(&cells[number]) {
                of[busy] = number;
                self.blocks[busy] = block;
                self.set_chain(busy, cells[number].chain);
                busy += 1;
            }
            if busy == L || number + 1 == cells.len() {
                self.compress(busy);
                for (lane, number) in of[..busy].iter().enumerate() {
                    cells[*number].chain = chain(&self.chains, lane);
                }
                busy = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests;
