//! Accepted transactions that wait for the next ledger: one per source account, replaced only by a fee bump of ten times the fee
//! (stellar-core's `TransactionQueue`).

use std::collections::BTreeMap;

use stellar_xdr::{AccountId, TransactionResult, TransactionResultExt, TransactionResultResult};

use crate::core::account::available_balance;
use crate::core::close::validation_header;
use crate::core::state::{State, Txn};
use crate::core::transaction::{Frame, Validity};

/// A replacement must bid this many times the fee rate of what it replaces.
const FEE_MULTIPLIER: i128 = 10;

/// So many ledgers' worth of operations may wait (stellar-core's default).
const QUEUE_LEDGERS: i64 = 4;

/// What submissions are measured by, besides the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Operations that fit into a ledger.
    pub max_operations: u32,
    /// One source may have several waiting: until protocol 19, and the friendbot.
    pub chain: bool,
    /// How many seconds after the last close time the next ledger may close.
    pub close_time_ahead: u64,
}

/// What comes of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may wait, at this place.
    Takes(Place),
    /// It is waiting already.
    Duplicate,
    /// Not now.
    Later,
    /// Refused, free of charge.
    Rejected(Box<TransactionResult>),
}

/// Says what comes of submitting a transaction, without doing it.
pub fn consider(state: &State, queue: &Queue, frame: &Frame, rules: Rules) -> Verdict {
    let header = validation_header(&state.header);
    let refuse = |fee: i64, result: TransactionResultResult| {
        Verdict::Rejected(Box::new(TransactionResult {
            fee_charged: fee,
            result,
            ext: TransactionResultExt::V0,
        }))
    };
    // What fits into no ledger would block the queue, and an endless queue the memory.
    let room = i64::from(rules.max_operations);
    let waiting = queue.operations().saturating_add(frame.fee_units());
    if frame.fee_units() > room || waiting > room.saturating_mul(QUEUE_LEDGERS) {
        return Verdict::Later;
    }
    let min_fee = frame.min_fee(header.base_fee);
    let place = queue.place(frame, rules.chain);
    let current = match place {
        Place::Duplicate => return Verdict::Duplicate,
        Place::Later => return Verdict::Later,
        Place::BadSequence => return refuse(min_fee, TransactionResultResult::TxBadSeq),
        Place::FeeTooLow(wanted) => return refuse(wanted, TransactionResultResult::TxInsufficientFee),
        Place::After(sequence) => sequence,
        Place::Free | Place::Replaces => 0,
    };
    // The next ledger closes then or later: what ends before would never be in it.
    let validity = Validity {
        current,
        close_time_ahead: rules.close_time_ahead,
    };
    let mut txn = Txn::new(state, header);
    let result = frame.check(&mut txn, validity);
    if !is_success(&result) {
        return Verdict::Rejected(Box::new(result));
    }
    // Several waiting transactions of one payer must not bid more than it has.
    let payer = frame.fee_source();
    let spendable = txn
        .peek_account(&payer)
        .map_or(0, |account| available_balance(&txn.header, account));
    if spendable.saturating_sub(frame.fee_bid()) < queue.fees_of(&payer, frame) {
        return refuse(min_fee, TransactionResultResult::TxInsufficientBalance);
    }
    Verdict::Takes(place)
}

/// Whether a result is one of a transaction that is accepted, or of one that succeeded.
pub fn is_success(result: &TransactionResult) -> bool {
    matches!(
        result.result,
        TransactionResultResult::TxSuccess(_) | TransactionResultResult::TxFeeBumpInnerSuccess(_)
    )
}

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
    /// Finds the place of a transaction. `chain`: the source may have several waiting.
    pub fn place(&self, frame: &Frame, chain: bool) -> Place {
        let list = self.by_source.get(&frame.inner.source());
        let Some((waiting, list)) = list.and_then(|list| list.last().zip(Some(list))) else {
            return Place::Free;
        };
        let (hash, sequence, last) = (frame.hash(), frame.inner.tx.seq_num.0, waiting.inner.tx.seq_num.0);
        let known = |w: &Frame| hash == w.hash() || (frame.bump.is_none() && hash == w.inner.hash);
        if list.iter().any(known) {
            return Place::Duplicate;
        }
        let replaces = frame.bump.is_some() && sequence == last;
        if chain && !replaces {
            return Place::After(last);
        }
        if sequence < last {
            return Place::BadSequence;
        }
        if !replaces {
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

    /// Forgets the transaction with this hash: a ledger has it.
    pub fn remove(&mut self, hash: [u8; 32]) {
        for list in self.by_source.values_mut() {
            list.retain(|frame| frame.hash() != hash);
        }
        self.by_source.retain(|_, list| !list.is_empty());
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use stellar_xdr::{
        FeeBumpTransaction, FeeBumpTransactionEnvelope, FeeBumpTransactionExt, FeeBumpTransactionInnerTx, Memo,
        MuxedAccount, Operation, OperationBody, Preconditions, SequenceNumber, Transaction, TransactionEnvelope,
        TransactionExt, TransactionV1Envelope, Uint256,
    };

    use super::*;

    fn inner(sequence: i64, fee: u32) -> TransactionV1Envelope {
        let operation = Operation {
            source_account: None,
            body: OperationBody::Inflation,
        };
        TransactionV1Envelope {
            tx: Transaction {
                source_account: MuxedAccount::Ed25519(Uint256([1; 32])),
                fee,
                seq_num: SequenceNumber(sequence),
                cond: Preconditions::None,
                memo: Memo::None,
                operations: vec![operation].try_into().unwrap(),
                ext: TransactionExt::V0,
            },
            signatures: Default::default(),
        }
    }

    fn plain(sequence: i64, fee: u32) -> Frame {
        Frame::new(TransactionEnvelope::Tx(inner(sequence, fee)), [0; 32]).unwrap()
    }

    fn bump(sequence: i64, inner_fee: u32, fee: i64) -> Frame {
        let tx = FeeBumpTransaction {
            fee_source: MuxedAccount::Ed25519(Uint256([2; 32])),
            fee,
            inner_tx: FeeBumpTransactionInnerTx::Tx(inner(sequence, inner_fee)),
            ext: FeeBumpTransactionExt::V0,
        };
        let envelope = FeeBumpTransactionEnvelope {
            tx,
            signatures: Default::default(),
        };
        Frame::new(TransactionEnvelope::TxFeeBump(envelope), [0; 32]).unwrap()
    }

    fn queue(frame: Frame) -> Queue {
        let mut queue = Queue::default();
        queue.add(frame, &Place::Free);
        queue
    }

    #[test]
    fn one_source_has_one_transaction_in_the_queue() {
        let queue = queue(plain(5, 100));
        assert_eq!(queue.place(&plain(5, 100), false), Place::Duplicate);
        assert_eq!(queue.place(&plain(6, 100), false), Place::Later);
        // Another one of the same sequence number, however much it bids: only a fee bump replaces.
        assert_eq!(queue.place(&plain(5, 100_000), false), Place::Later);
        assert_eq!(queue.place(&plain(4, 100), false), Place::BadSequence);
        assert_eq!(queue.place(&bump(6, 100, 1 << 40), false), Place::Later);
        assert_eq!(queue.place(&plain(6, 100), true), Place::After(5));
    }

    #[test]
    fn a_fee_bump_replaces_at_ten_times_the_rate_and_not_one_stroop_below() {
        // 100 stroops for one operation: ten times the rate is 1000 an operation, and a fee bump counts as two.
        let waiting = queue(plain(5, 100));
        assert_eq!(waiting.place(&bump(5, 100, 1_999), false), Place::FeeTooLow(2_000));
        assert_eq!(waiting.place(&bump(5, 100, 2_000), false), Place::Replaces);
        // A fee bump by another one.
        let waiting = queue(bump(5, 0, 300));
        assert_eq!(waiting.place(&bump(5, 0, 2_999), false), Place::FeeTooLow(3_000));
        assert_eq!(waiting.place(&bump(5, 0, 3_000), false), Place::Replaces);
        // The transaction inside of a waiting fee bump is known; and no overflow at the largest of bids.
        assert_eq!(waiting.place(&plain(5, 0), false), Place::Duplicate);
        let waiting = queue(bump(5, 0, i64::MAX));
        assert_eq!(waiting.place(&bump(5, 1, i64::MAX), false), Place::FeeTooLow(i64::MAX));
    }

    #[test]
    fn what_is_replaced_is_gone_and_what_a_ledger_has_too() {
        let mut queue = queue(plain(5, 100));
        let better = bump(5, 100, 2_000);
        let place = queue.place(&better, false);
        queue.add(better.clone(), &place);
        assert_eq!(
            (queue.operations(), queue.last_sequence(&better.inner.source())),
            (2, Some(5))
        );
        queue.remove(better.hash());
        assert_eq!(
            (queue.operations(), queue.last_sequence(&better.inner.source())),
            (0, None)
        );
        assert_eq!(queue.place(&plain(9, 100), false), Place::Free);
    }
}
