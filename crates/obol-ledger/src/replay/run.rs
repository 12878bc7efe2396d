//! The ledger's side of a replay: a script in, answers out. Nothing here knows what the other ledger answered.

use std::collections::{BTreeMap, HashMap};

use stellar_xdr::{LedgerEntryChanges, LedgerHeader, TransactionMeta, TransactionResult};

use super::ReplayError;
use super::recording::{Script, Status};
use crate::core::account::new_account;
use crate::core::close;
use crate::core::state::{Loaded, State};
use crate::core::transaction::{Frame, root_account};
use crate::queue::{self, Queue, Rules, Verdict};

/// What this ledger answered to one submission.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: Status,
    /// Of a refusal.
    pub error: Option<TransactionResult>,
    /// Once it was in a ledger.
    pub applied: Option<Applied>,
}

/// What became of a transaction in a ledger.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub ledger: u32,
    /// From 1.
    pub place: u32,
    pub result: TransactionResult,
    pub fee_changes: LedgerEntryChanges,
    pub meta: TransactionMeta,
}

/// Everything this ledger answered.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub submissions: Vec<Answer>,
    pub ledgers: BTreeMap<u32, Ledger>,
}

/// One closed ledger.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pub header: LedgerHeader,
    /// The hashes of its transactions in the order that the rule gives, from the set's hash.
    pub order: Vec<[u8; 32]>,
}

fn genesis(script: &Script) -> State {
    let header = script.genesis.clone();
    let root = root_account(script.network_id);
    let mut entry = Loaded::new(new_account(root, header.total_coins, 0)).into_entry();
    entry.last_modified_ledger_seq = header.ledger_seq;
    State {
        header,
        entries: BTreeMap::from([(entry.to_key(), entry)]),
    }
}

fn submit(state: &State, queue: &mut Queue, frame: &Frame) -> Answer {
    let rules = Rules {
        max_operations: state.header.max_tx_set_size,
        // One transaction of each source: stellar-core's rule since protocol 20.
        chain: state.header.ledger_version < 20,
        // Submissions are dated by the ledger they came after.
        close_time_ahead: 0,
    };
    let (status, error) = match queue::consider(state, queue, frame, rules) {
        Verdict::Takes(place) => {
            queue.add(frame.clone(), &place);
            (Status::Pending, None)
        }
        Verdict::Duplicate => (Status::Duplicate, None),
        Verdict::Later => (Status::TryAgainLater, None),
        Verdict::Rejected(result) => (Status::Error, Some(*result)),
    };
    Answer {
        status,
        error,
        applied: None,
    }
}

/// Runs a script from the genesis on.
pub(super) fn answers(script: &Script) -> Result<Answers, ReplayError> {
    let mut state = genesis(script);
    let mut queue = Queue::default();
    let mut out = Answers {
        submissions: Vec::with_capacity(script.submissions.len()),
        ledgers: BTreeMap::new(),
    };
    // Of a transaction that was submitted again, the first is the one that is applied.
    let mut waiting: HashMap<[u8; 32], usize> = HashMap::new();
    let mut submissions = script.submissions.iter().enumerate().peekable();
    for step in &script.ledgers {
        while let Some((index, (_, frame))) = submissions.next_if(|(_, (lcl, _))| *lcl < step.sequence) {
            out.submissions.push(submit(&state, &mut queue, frame));
            waiting.entry(frame.hash()).or_insert(index);
        }
        let base_fee = state.header.base_fee;
        let mut closed = close::apply(&state, step.frames.clone(), step.set_hash, step.close_time, base_fee);
        if !close::upgrade(&mut closed, &step.upgrades) {
            return Err(ReplayError::Damaged {
                place: format!("ledger {}", step.sequence),
                problem: "it carries an upgrade that this ledger does not know".to_owned(),
            });
        }
        for (index, transaction) in closed.transactions.iter().enumerate() {
            let hash = transaction.frame.hash();
            queue.remove(hash);
            let answer = waiting.remove(&hash).and_then(|index| out.submissions.get_mut(index));
            if let Some(answer) = answer {
                answer.applied = Some(Applied {
                    ledger: step.sequence,
                    place: index as u32 + 1,
                    result: transaction.result.clone(),
                    fee_changes: transaction.fee_changes.clone(),
                    meta: transaction.meta.clone(),
                });
            }
        }
        let order = close::order(step.frames.clone(), step.set_hash);
        out.ledgers.insert(
            step.sequence,
            Ledger {
                header: closed.header.clone(),
                order: order.iter().map(Frame::hash).collect(),
            },
        );
        state.take_over(closed.header, closed.changes);
    }
    for (_, (_, frame)) in submissions {
        out.submissions.push(submit(&state, &mut queue, frame));
    }
    Ok(out)
}
