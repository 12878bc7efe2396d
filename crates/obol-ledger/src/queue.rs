//! Accepted transactions that wait for the next ledger: one per source account, replaced only by a fee bump of ten times the fee
//! (stellar-core's `TransactionQueue`).

use std::collections::BTreeMap;

use stellar_xdr::AccountId;

use crate::core::transaction::Frame;

/// A replacement must bid this many times the fee rate of what it replaces.
const FEE_MULTIPLIER: i128 = 10;

/// What may become of a transaction before its validity is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing of this source waits.
    Free,
    /// It follows the waiting ones of its source, the last with this sequence number.
    After(i64),
    /// It may replace the waiting one.
    Replaces,
    /// It is waiting already.
    Duplicate,
    /// Its sequence number is lower than that of the waiting one.
    BadSequence,
    /// Something else of this source waits.
    Later,
    /// It could replace the waiting one at this fee in stroops.
    FeeTooLow(i64),
}

/// Transactions waiting for the next ledger.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    by_source: BTreeMap<AccountId, Vec<Frame>>,
}

impl Queue {
    /// Finds the place of a transaction. `chain`: the source may have several waiting (the friendbot's).
    pub fn place(&self, frame: &Frame, chain: bool) -> Place {
        let Some(waiting) = self.by_source.get(&frame.inner.source()).and_then(|list| list.last()) else {
            return Place::Free;
        };
        let (hash, sequence) = (frame.hash(), frame.inner.tx.seq_num.0);
        if hash == waiting.hash() || (frame.bump.is_none() && hash == waiting.inner.hash) {
            return Place::Duplicate;
        }
        if chain {
            return Place::After(waiting.inner.tx.seq_num.0);
        }
        if sequence < waiting.inner.tx.seq_num.0 {
            return Place::BadSequence;
        }
        if frame.bump.is_none() || sequence != waiting.inner.tx.seq_num.0 {
            return Place::Later;
        }
        let wanted = i128::from(waiting.fee_bid()) * FEE_MULTIPLIER * i128::from(frame.fee_units());
        let units = i128::from(waiting.fee_units()).max(1);
        if i128::from(frame.fee_bid()) * units < wanted {
            return Place::FeeTooLow(i64::try_from((wanted + units - 1) / units).unwrap_or(i64::MAX));
        }
        Place::Replaces
    }

    /// What `payer` has bid for waiting transactions, in stroops, not counting what `frame` would replace.
    pub fn fees_of(&self, payer: &AccountId, frame: &Frame) -> i64 {
        let replaced = frame.inner.source();
        self.by_source
            .iter()
            .filter(|(source, list)| !(**source == replaced && list.len() == 1))
            .flat_map(|(_, list)| list)
            .filter(|waiting| waiting.fee_source() == *payer)
            .fold(0_i64, |sum, waiting| sum.saturating_add(waiting.fee_bid()))
    }

    /// Adds a valid transaction at its place.
    pub fn add(&mut self, frame: Frame, place: &Place) {
        let list = self.by_source.entry(frame.inner.source()).or_default();
        if *place == Place::Replaces {
            list.pop();
        }
        list.push(frame);
    }

    /// The sequence number of the last waiting transaction of a source.
    pub fn last_sequence(&self, source: &AccountId) -> Option<i64> {
        self.by_source.get(source)?.last().map(|frame| frame.inner.tx.seq_num.0)
    }

    /// How many operations wait, as fees count them.
    pub fn operations(&self) -> i64 {
        self.by_source.values().flatten().map(Frame::fee_units).sum()
    }

    /// Takes everything that waits, each source's in sequence order.
    pub fn take(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.by_source).into_values().flatten().collect()
    }

    /// Puts back what found no room in a ledger.
    pub fn put_back(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            self.by_source.entry(frame.inner.source()).or_default().push(frame);
        }
        for list in self.by_source.values_mut() {
            list.sort_by_key(|f| f.inner.tx.seq_num.0);
        }
    }
}
