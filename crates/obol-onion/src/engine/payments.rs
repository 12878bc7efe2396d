//! What the payments driver calls. The engine knows bytes and classes; who paid, and with what, is not its business.

use super::Engine;
use super::cells::Kind;
use super::circuit::BACKWARD;
use super::event::{Event, PaymentEvent};
use super::ids::CircuitId;
use super::schedule::Class;
use super::wire::{CELL_LEN, DATA_MAX, DestroyReason, relay};

impl Engine {
    /// Lets a circuit carry `bytes` more in the paid class.
    pub fn grant(&mut self, circuit: CircuitId, bytes: u64) {
        let Some(this) = self.circuits.get_mut(circuit) else {
            return;
        };
        this.credit = this.credit.saturating_add(bytes);
        if this.credit >= CELL_LEN as u64 && this.payer().is_none() {
            self.set_class(circuit.index, Class::Paid);
        }
        self.pace(self.now);
    }

    /// Asks for one [`PaymentEvent::CreditLow`] when the circuit's credit is below `below` bytes: at once if it is
    /// already. 0 asks for none. A later call replaces an earlier one.
    pub fn watch_credit(&mut self, circuit: CircuitId, below: u64) {
        let Some(this) = self.circuits.get_mut(circuit) else {
            return;
        };
        this.low = below;
        if this.credit < below {
            this.low = 0;
            let (metered, credit) = (this.metered, this.credit);
            self.events.push_back(Event::Payment(PaymentEvent::CreditLow {
                circuit,
                metered,
                credit,
            }));
        }
    }

    /// Bytes that a circuit may still carry in the paid class.
    pub fn credit(&self, circuit: CircuitId) -> Option<u64> {
        self.circuits.get(circuit).map(|this| this.credit)
    }

    /// Bytes that a circuit has carried, both directions, 514 a cell.
    pub fn metered(&self, circuit: CircuitId) -> Option<u64> {
        self.circuits.get(circuit).map(|this| this.metered)
    }

    /// Sends a relay message 51 to the client, ahead of all else that waits on the circuit. Longer than 498 bytes: not sent.
    pub fn answer(&mut self, circuit: CircuitId, body: &[u8]) {
        let Some(this) = self.circuits.get(circuit) else { return };
        if body.len() > DATA_MAX || this.layers.is_none() {
            return;
        }
        let slot = self.compose(Kind::Answer, relay::PAYMENT_TO_ORIGIN, 0, body);
        self.enqueue(circuit.index, BACKWARD, slot);
        self.pace(self.now);
    }

    /// Ends a circuit on both sides.
    pub fn destroy(&mut self, circuit: CircuitId, reason: DestroyReason) {
        if let Some(index) = self.index(circuit) {
            self.end_circuit(index, Some(reason), Some(reason));
        }
    }
}
