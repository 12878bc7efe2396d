//! Outputs in order; those that depend on something durable wait for it.

use std::collections::VecDeque;

use super::io::Output;
use crate::fact::PayerFact;

/// What [`super::Payer::poll`] takes from.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    ready: VecDeque<Output>,
    waiting: VecDeque<(u64, Output)>,
    seq: u64,
}

impl Outbox {
    /// Goes out as soon as it is polled.
    pub(super) fn now(&mut self, output: Output) {
        self.ready.push_back(output);
    }

    /// `facts` go to the journal; `outputs` come out once they are durable.
    pub(super) fn durable_first(&mut self, facts: Vec<PayerFact>, outputs: impl IntoIterator<Item = Output>) {
        self.seq += 1;
        let seq = self.seq;
        self.ready.push_back(Output::Persist { seq, facts });
        self.waiting.extend(outputs.into_iter().map(|o| (seq, o)));
    }

    /// Everything up to `upto` is durable.
    pub(super) fn persisted(&mut self, upto: u64) {
        while self.waiting.front().is_some_and(|(seq, _)| *seq <= upto) {
            if let Some((_, output)) = self.waiting.pop_front() {
                self.ready.push_back(output);
            }
        }
    }

    /// Drops what has not left yet and `unwanted` says so of: it belongs to a tunnel that is gone.
    pub(super) fn discard(&mut self, unwanted: impl Fn(&Output) -> bool) {
        self.ready.retain(|o| !unwanted(o));
        self.waiting.retain(|(_, o)| !unwanted(o));
    }

    pub(super) fn poll(&mut self) -> Option<Output> {
        self.ready.pop_front()
    }
}
