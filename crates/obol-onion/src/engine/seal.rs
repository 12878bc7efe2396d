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
use super::wire::{CELL_LEN, body};

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

    /// Marks those that we have originated.
    fn mark(&mut self, out: &mut [u8], raw: &[Raw]) {
        for one in raw.iter().filter(|one| one.kind != Kind::Relayed) {
            let circuit = self.circuits.get_mut(one.circuit);
            let (Some(circuit), Some(cell)) = (circuit, one.cell(out)) else {
                continue;
            };
            let Some(layers) = &mut circuit.layers else { continue };
            let tag = layers.backward.mark(body(cell));
            if let (Kind::Data, Some(edge)) = (one.kind, &mut circuit.edge) {
                edge.window.encrypted(tag);
            }
        }
    }
}
