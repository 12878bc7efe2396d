//! Circuits of clients that go nowhere and carry nothing: they are closed, so that nobody fills the relay's table with them.
//!
//! C Tor closes such a circuit when nothing was sent on its link for a while (`circuit_expire_old_circuits_serverside`).
//! Here it is the circuit that counts: a link that pads is never silent.

use super::Engine;
use super::circuit::Next;
use super::wire::DestroyReason;

/// All circuits are looked at once in so many seconds.
const ROUND: usize = 60;

/// What a look at a circuit remembers for the next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Bytes that it had carried.
    metered: u64,
    /// Looks since it last carried any.
    looks: u8,
}

impl Engine {
    /// Looks at some of the circuits; called once a second.
    pub(crate) fn look_through_circuits(&mut self) {
        let all = self.circuits.indices().len();
        // In a small table not every second has one to look at: a round takes as long.
        self.looks_due += all;
        let looks = self.looks_due / ROUND;
        self.looks_due %= ROUND;
        for _ in 0..looks {
            self.circuit_looked_at = match self.circuit_looked_at + 1 {
                next if (next as usize) < all => next,
                _ => 0,
            };
            if self.is_idle(self.circuit_looked_at) {
                self.counters.circuits_idle += 1;
                self.end_circuit(self.circuit_looked_at, Some(DestroyReason::Finished), None);
            }
        }
    }

    /// Whether a client's circuit ends here, for nothing, and has carried nothing since it was looked at before.
    fn is_idle(&mut self, index: u32) -> bool {
        let most = self.config.idle_looks;
        let Some(circuit) = self.circuits.at_mut(index) else {
            return false;
        };
        let to_client = self
            .links
            .at(circuit.prev.link)
            .is_some_and(|link| link.info.relay().is_none());
        let streams = circuit.edge.as_ref().is_some_and(|edge| !edge.streams.is_empty());
        let ends = matches!(circuit.next, Next::Nowhere) && circuit.layers.is_some() && !streams;
        if !to_client || !ends || circuit.metered != circuit.seen.metered {
            circuit.seen = Seen {
                metered: circuit.metered,
                looks: 0,
            };
            return false;
        }
        circuit.seen.looks = circuit.seen.looks.saturating_add(1);
        most.is_some_and(|most| circuit.seen.looks >= most)
    }
}
