//! Persist, then act: outputs wait for the facts that were made before them.
//!
//! ```text
//! fact() --> waiting facts --take_persist()--> in flight (seq) --persisted(seq)--> durable
//! push() --> behind all facts so far ------------------------------> out, in order
//! push_now() ----------------------------------> out at once: promises nothing, costs nobody money
//! ```

use crate::defects::{self, Defect};
use std::collections::VecDeque;

/// Facts on their way to the journal, and outputs on their way out.
#[derive(Debug)]
pub(crate) struct Outbox<F, O> {
    facts: Vec<F>,
    /// The number that `facts` will get.
    next_seq: u64,
    durable: u64,
    gated: VecDeque<(u64, O)>,
    free: VecDeque<O>,
}

impl<F, O> Default for Outbox<F, O> {
    fn default() -> Self {
        Outbox {
            facts: Vec::new(),
            next_seq: 1,
            durable: 0,
            gated: VecDeque::new(),
            free: VecDeque::new(),
        }
    }
}

impl<F, O> Outbox<F, O> {
    /// To be made durable with the next [`Outbox::take_persist`].
    pub(crate) fn fact(&mut self, fact: F) {
        self.facts.push(fact);
    }

    /// Leaves once every fact so far is durable.
    pub(crate) fn push(&mut self, output: O) {
        let need = if self.facts.is_empty() {
            self.next_seq - 1
        } else {
            self.next_seq
        };
        self.gated.push_back((need, output));
    }

    /// Leaves at once.
    pub(crate) fn push_now(&mut self, output: O) {
        self.free.push_back(output);
    }

    /// The journal has everything up to `upto`.
    pub(crate) fn persisted(&mut self, upto: u64) {
        // Never ahead of what was handed out, whatever the caller says.
        self.durable = self.durable.max(upto.min(self.next_seq - 1));
    }

    /// The next output that may leave.
    pub(crate) fn pop(&mut self) -> Option<O> {
        if let Some(output) = self.free.pop_front() {
            return Some(output);
        }
        match self.gated.front() {
            Some((need, _)) if *need <= self.durable || defects::on(Defect::ActBeforePersist) => {
                self.gated.pop_front().map(|(_, output)| output)
            }
            _ => None,
        }
    }

    /// Forgets outputs that have not left and never should: what they concern is gone.
    pub(crate) fn discard(&mut self, unwanted: impl Fn(&O) -> bool) {
        self.free.retain(|output| !unwanted(output));
        self.gated.retain(|(_, output)| !unwanted(output));
    }

    /// All facts that are not on their way yet, under the next number.
    pub(crate) fn take_persist(&mut self) -> Option<(u64, Vec<F>)> {
        if self.facts.is_empty() {
            return None;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        Some((seq, std::mem::take(&mut self.facts)))
    }

    /// Whether every fact is durable.
    pub(crate) fn is_settled(&self) -> bool {
        self.facts.is_empty() && self.durable + 1 == self.next_seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_waits_for_every_fact_before_it_and_for_none_after() {
        let mut o: Outbox<u8, &str> = Outbox::default();
        o.push("free of facts");
        assert_eq!(o.pop(), Some("free of facts"));
        o.fact(1);
        o.push("after 1");
        assert_eq!(o.pop(), None);
        assert_eq!(o.take_persist(), Some((1, vec![1])));
        o.fact(2);
        o.push("after 2");
        o.push_now("at once");
        assert_eq!(o.pop(), Some("at once"));
        assert_eq!(o.pop(), None);
        o.persisted(1);
        assert_eq!(o.pop(), Some("after 1"));
        assert_eq!(o.pop(), None);
        assert!(!o.is_settled());
        assert_eq!(o.take_persist(), Some((2, vec![2])));
        assert_eq!(o.take_persist(), None);
        o.persisted(2);
        assert_eq!(o.pop(), Some("after 2"));
        assert!(o.is_settled());
    }

    #[test]
    fn nothing_is_durable_that_was_never_handed_out() {
        let mut o: Outbox<u8, &str> = Outbox::default();
        o.persisted(100);
        o.fact(1);
        o.push("after 1");
        o.persisted(100);
        assert_eq!(o.pop(), None);
        assert_eq!(o.take_persist(), Some((1, vec![1])));
        assert_eq!(o.pop(), None);
        o.persisted(100);
        assert_eq!(o.pop(), Some("after 1"));
        // An older number changes nothing.
        o.persisted(0);
        assert!(o.is_settled());
    }

    #[test]
    fn what_is_discarded_never_leaves_and_the_rest_does() {
        let mut o: Outbox<u8, &str> = Outbox::default();
        o.push_now("a");
        o.push_now("b");
        o.push("a");
        o.push("c");
        o.discard(|x| *x == "a");
        assert_eq!([o.pop(), o.pop(), o.pop()], [Some("b"), Some("c"), None]);
    }
}
