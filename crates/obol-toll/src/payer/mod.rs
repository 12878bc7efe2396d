//! A client's payer: every tunnel and every escrow of one client.

mod config;
mod io;
pub mod meter;

pub use config::{PayPolicy, PayerConfig};
pub use io::{CloseReason, GiveUp, Hop, Input, Output, Report, Second, Unpaid, finishes};

use crate::clock::UnixMillis;
use crate::fact::PayerFact;
use crate::keys::PayerKeys;
use crate::outbox::Outbox;

/// All payment state of one client.
#[derive(Debug)]
pub struct Payer<K> {
    config: PayerConfig,
    keys: K,
    out: Outbox<PayerFact, Output>,
}

impl<K: PayerKeys> Payer<K> {
    /// A client that never paid before. `seed`: random bytes, for the choice of times and of withheld steps only.
    pub fn new(config: PayerConfig, keys: K, seed: [u8; 32]) -> Self {
        Self::restore(config, keys, seed, std::iter::empty())
    }

    /// A client with the facts of its earlier runs, in order.
    pub fn restore(config: PayerConfig, keys: K, _seed: [u8; 32], _facts: impl IntoIterator<Item = PayerFact>) -> Self {
        Payer {
            config,
            keys,
            out: Outbox::default(),
        }
    }

    /// Takes in one event; outputs are fetched with [`Payer::poll`].
    pub fn handle(&mut self, _now: UnixMillis, input: Input) {
        match input {
            Input::Persisted { upto } => self.out.persisted(upto),
            Input::SetPolicy(pay) => self.config.pay = pay,
            _ => {}
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
    pub fn snapshot(&self) -> Vec<PayerFact> {
        Vec::new()
    }
}
