//! Our layer on cells towards the client: put on when they leave, to all of a batch at once.
//!
//! ```text
//!  queues ── emit ──► out:  cell │ cell │ cell │ ...       (raw)
//!                     list: circuit, place, kind ...
//!                       │
//!                       ├─ 1. our own: marked, which moves their circuit's running digest
//!                       └─ 2. all: encrypted, which moves their circuit's key stream
//! ```
//!
//! Both go through the list in order, and nothing towards the client is sent that was not in it. The digest is of clear
//! text, so that all marks of a batch may come before all encryption. A cell whose circuit is gone by then, as it may be
//! after it has waited for its writer under a configured rate, leaves as PADDING and never in clear.

use super::Engine;
use super::cells::Kind;
use super::ids::CircuitId;
use super::wire::{CELL_LEN, HEADER_LEN, body};
use crate::crypto::tor1::Marker;

/// A PADDING cell: circuit 0, command 0.
const PADDING: [u8; CELL_LEN] = [0; CELL_LEN];

/// A cell in a writer's buffer that still needs our layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw {
    circuit: CircuitId,
    /// Where it begins.
    at: usize,
    kind: Kind,
}

impl Raw {
    #[inline]
    pub(crate) fn new(circuit: CircuitId, kind: Kind, at: usize) -> Raw {
        Raw { circuit, at, kind }
    }

    /// The same cell once its buffer is behind as many other bytes.
    pub(crate) fn behind(self, bytes: usize) -> Raw {
        Raw {
            at: self.at + bytes,
            ..self
        }
    }

    #[inline]
    fn cell(self, out: &mut [u8]) -> Option<&mut [u8; CELL_LEN]> {
        out.get_mut(self.at..)?.first_chunk_mut()
    }
}

/// Room for marking a batch; empty in between.
#[derive(Debug, Default)]
pub(crate) struct Marking {
    marker: Marker,
    /// The circuits of its rows.
    rows: Vec<CircuitId>,
    /// Its cells that count in their circuit's window, in order.
    data: Vec<(CircuitId, usize)>,
}

impl Engine {
    /// Puts our layer on the cells in `out` that need it.
    pub(crate) fn seal(&mut self, out: &mut [u8], raw: &[Raw]) {
        self.mark(out, raw);
        for run in raw.chunk_by(|one, next| one.circuit == next.circuit) {
            let circuit = run.first().and_then(|first| self.circuits.get_mut(first.circuit));
            let mut layers = circuit.and_then(|circuit| circuit.layers.as_mut());
            for one in run {
                let Some(cell) = one.cell(out) else { continue };
                match &mut layers {
                    Some(layers) => layers.backward.seal(body(cell)),
                    None => *cell = PADDING,
                }
            }
        }
    }

    /// Marks those that we have originated, all circuits side by side.
    fn mark(&mut self, out: &mut [u8], raw: &[Raw]) {
        let Marking { marker, rows, data } = &mut self.marking;
        for one in raw.iter().filter(|one| one.kind != Kind::Relayed) {
            let circuit = self.circuits.get_mut(one.circuit);
            let Some(layers) = circuit.and_then(|circuit| circuit.layers.as_mut()) else {
                continue;
            };
            let row = *layers.row.get_or_insert_with(|| {
                rows.push(one.circuit);
                marker.circuit(layers.backward.digest())
            });
            if let (Some(cell), Kind::Data) = (marker.cell(row, one.at + HEADER_LEN), one.kind) {
                data.push((one.circuit, cell));
            }
        }
        if rows.is_empty() {
            return;
        }
        marker.mark(out);
        for (circuit, cell) in data.drain(..) {
            let edge = self.circuits.get_mut(circuit).and_then(|circuit| circuit.edge.as_mut());
            if let (Some(edge), Some(tag)) = (edge, marker.tag(cell)) {
                edge.window.encrypted(tag);
            }
        }
        for (circuit, digest) in rows.drain(..).zip(marker.digests()) {
            let circuit = self.circuits.get_mut(circuit);
            if let Some(layers) = circuit.and_then(|circuit| circuit.layers.as_mut()) {
                layers.backward.set_digest(digest);
                layers.row = None;
            }
        }
    }
}
