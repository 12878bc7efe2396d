//! Circuit handshakes that wait to be computed: not more than can be computed soon, and none for which nobody waits any longer.
//!
//! The average of the last ones says how long those that wait will take. A CREATE that would have to wait for longer than
//! `MaxOnionQueueDelay` is refused at once, and one that has waited for longer than `onion_queue_wait_cutoff` all the same is
//! given up when its turn comes: its client has, too. Both with RESOURCELIMIT, as C Tor does.

use super::Engine;
use super::event::HandshakeJob;
use super::ids::Time;
use super::wire::DestroyReason;

/// So many may wait, however long they take.
const ALWAYS: usize = 50;
/// Microseconds that one takes, before it is known how many.
const UNKNOWN: u64 = 1000;
/// After so many, what was known before counts half.
const REMEMBERED: u64 = 1024;
/// Nobody takes so long, microseconds: something else went on.
const BELIEVABLE: u64 = 2_000_000;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    /// Those that wait, or are being computed.
    pub(crate) pending: usize,
    /// Those that were computed lately, and the microseconds that they took.
    computed: u64,
    took: u64,
}

impl Handshakes {
    fn note(&mut self, micros: u64) {
        if micros >= BELIEVABLE {
            return;
        }
        if self.computed >= REMEMBERED {
            self.computed /= 2;
            self.took /= 2;
        }
        self.computed += 1;
        self.took += micros;
    }

    /// Microseconds that one more would have to wait.
    pub(crate) fn delay(&self, workers: usize) -> u64 {
        if self.pending < ALWAYS {
            return 0;
        }
        let each = self.took.checked_div(self.computed).unwrap_or(UNKNOWN);
        self.pending as u64 * each / workers.max(1) as u64
    }
}

impl Engine {
    /// A handshake's turn has come. False: it need not be computed, and is done with; there is no
    /// [`created`](Self::created) for it.
    pub fn take_up(&mut self, now: Time, job: &HandshakeJob) -> bool {
        self.now = self.now.max(now);
        let is_late = self.now.since(job.since) > self.config.defences.handshakes.cutoff;
        if self.circuits.get(job.circuit).is_some() && !is_late {
            return true;
        }
        self.handshakes.pending = self.handshakes.pending.saturating_sub(1);
        if self.circuits.get(job.circuit).is_some() {
            self.counters.handshakes_late += 1;
            self.end_circuit(job.circuit.index, Some(DestroyReason::ResourceLimit), None);
        }
        false
    }

    /// Computing a handshake took so many microseconds of a worker's time.
    pub fn handshake_took(&mut self, micros: u64) {
        self.handshakes.note(micros);
    }
}
