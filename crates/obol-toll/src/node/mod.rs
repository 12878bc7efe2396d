//! The payment state of one relay: every circuit, every leg in and out.
//!
//! See [`Node`]; its inputs are [`Input`], its outputs [`Output`].

mod config;
mod io;

pub use config::NodeConfig;
pub use io::{FlushReason, Input, Output, Report};

use crate::clock::UnixMillis;
use crate::fact::NodeFact;
use crate::keys::{PayeeKeys, PayerKeys};
use crate::outbox::Outbox;

/// All payment state of one relay.
#[derive(Debug)]
pub struct Node<K> {
    config: NodeConfig,
    keys: K,
    out: Outbox<NodeFact, Output>,
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// A relay that never ran before. `seed`: random bytes, for the choice of times only.
    pub fn new(config: NodeConfig, keys: K, seed: [u8; 32]) -> Self {
        Self::restore(config, keys, seed, std::iter::empty())
    }

    /// A relay with the facts of its earlier runs, in order. Its first output is a `Persist`.
    pub fn restore(config: NodeConfig, keys: K, _seed: [u8; 32], _facts: impl IntoIterator<Item = NodeFact>) -> Self {
        let mut out = Outbox::default();
        out.fact(NodeFact::Restarted);
        Node { config, keys, out }
    }

    /// Changes settings for new circuits and new escrows.
    pub fn reconfigure(&mut self, config: NodeConfig) {
        self.config = config;
    }

    /// Takes in one event. Cheap, apart from the signatures that it may check; outputs are fetched with [`Node::poll`].
    pub fn handle(&mut self, _now: UnixMillis, input: Input) {
        if let Input::Persisted { upto } = input {
            self.out.persisted(upto);
        }
    }

    /// The next thing to do. Call until `None` after each batch of inputs.
    pub fn poll(&mut self, _now: UnixMillis) -> Option<Output> {
        let _ = &self.keys;
        if let Some((seq, facts)) = self.out.take_persist() {
            return Some(Output::Persist { seq, facts });
        }
        self.out.pop()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_wake(&self) -> Option<UnixMillis> {
        None
    }

    /// Facts that restore the present durable state: to replace the journal's by, when it is compacted.
    pub fn snapshot(&self) -> Vec<NodeFact> {
        Vec::new()
    }
}
