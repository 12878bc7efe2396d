//! What the payments driver needs of the relay's data plane: events in, calls out.
//!
//! The running relay implements it with its engine; a test can play the data plane before there are sockets.

use std::future::Future;

use obol_onion::engine::{CircuitId, DestroyReason, LinkId, NextHop, PaymentEvent};

use crate::directory::RelayInfo;
use crate::relay::{EngineHandle, PaymentEvents};

/// The calls. None of them waits; a circuit or link that is gone is no error.
pub trait DataPlane: Send + Sync + 'static {
    /// Lets a circuit carry `bytes` more in the paid class.
    fn grant(&self, circuit: CircuitId, bytes: u64);
    /// One [`PaymentEvent::CreditLow`] once the circuit's credit is below `below` bytes; replaces an earlier mark.
    fn watch_credit(&self, circuit: CircuitId, below: u64);
    /// A relay message 51 to the client.
    fn answer(&self, circuit: CircuitId, body: &[u8]);
    /// A link message 200.
    fn send_link(&self, link: LinkId, body: &[u8]);
    /// Ends a circuit for a protocol error.
    fn destroy(&self, circuit: CircuitId);
    /// Closes a link.
    fn close_link(&self, link: LinkId);
    /// Bytes that a circuit has carried.
    fn metered(&self, circuit: CircuitId) -> Option<u64>;
    /// Bytes that a circuit may still carry in the paid class.
    fn credit(&self, circuit: CircuitId) -> Option<u64>;
    /// Has a link to this relay, if that is possible; [`PaymentEvent::LinkUp`] tells of it.
    fn connect(&self, relay: &RelayInfo);
}

/// The events, in the order in which they happened.
pub trait Events: Send + 'static {
    /// The next event; `None` once there will be none.
    fn next(&mut self) -> impl Future<Output = Option<PaymentEvent>> + Send;
    /// The next event, if there is one already.
    fn next_now(&mut self) -> Option<PaymentEvent>;
}

impl Events for PaymentEvents {
    async fn next(&mut self) -> Option<PaymentEvent> {
        self.recv().await
    }

    fn next_now(&mut self) -> Option<PaymentEvent> {
        self.try_recv()
    }
}

impl Events for tokio::sync::mpsc::UnboundedReceiver<PaymentEvent> {
    async fn next(&mut self) -> Option<PaymentEvent> {
        self.recv().await
    }

    fn next_now(&mut self) -> Option<PaymentEvent> {
        self.try_recv().ok()
    }
}

impl DataPlane for EngineHandle {
    fn grant(&self, circuit: CircuitId, bytes: u64) {
        EngineHandle::grant(self, circuit, bytes);
    }

    fn watch_credit(&self, circuit: CircuitId, below: u64) {
        EngineHandle::watch_credit(self, circuit, below);
    }

    fn answer(&self, circuit: CircuitId, body: &[u8]) {
        EngineHandle::answer(self, circuit, body);
    }

    fn send_link(&self, link: LinkId, body: &[u8]) {
        EngineHandle::send_link(self, link, body);
    }

    fn destroy(&self, circuit: CircuitId) {
        EngineHandle::destroy(self, circuit, DestroyReason::Protocol);
    }

    fn close_link(&self, link: LinkId) {
        EngineHandle::close_link(self, link);
    }

    fn metered(&self, circuit: CircuitId) -> Option<u64> {
        EngineHandle::metered(self, circuit)
    }

    fn credit(&self, circuit: CircuitId) -> Option<u64> {
        EngineHandle::credit(self, circuit)
    }

    fn connect(&self, relay: &RelayInfo) {
        let to = NextHop {
            rsa: relay.rsa,
            ed: relay.ed,
            addresses: relay.addresses.iter().copied().collect(),
        };
        EngineHandle::connect(self, to);
    }
}
