//! The pure ledger against what a real stellar-core (19.0.0, protocol 19) answered to 275 submissions.
//!
//! Every submission must be accepted or rejected alike, a rejection with the same result XDR; every applied transaction must give
//! the same result XDR, the same fee changes and the same entries before and after as stellar-core's meta; every header the
//! same fee pool and the same hash over its results.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::{BTreeMap, HashMap};

use obol_ledger::core::account::new_account;
use obol_ledger::core::close::{self, ClosedTransaction};
use obol_ledger::core::state::{Loaded, State, Txn};
use obol_ledger::core::transaction::{Frame, Validity, root_account};
use sha2::{Digest, Sha256};
use stellar_xdr::{
    LedgerEntryChange, LedgerEntryChanges, LedgerHeader, Limits, ReadXdr, TransactionEnvelope, TransactionMeta,
    TransactionResult, TransactionResultPair, TransactionResultResult, WriteXdr,
};

struct Oracle {
    network_id: [u8; 32],
    submissions: Vec<serde_json::Value>,
    headers: BTreeMap<u32, LedgerHeader>,
    history: BTreeMap<u32, Vec<serde_json::Value>>,
    fees: HashMap<String, LedgerEntryChanges>,
}

fn text<'a>(value: &'a serde_json::Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

fn read<T: ReadXdr>(value: &serde_json::Value, key: &str) -> T {
    T::from_xdr_base64(text(value, key), Limits::none()).unwrap()
}

fn oracle() -> Oracle {
    let json: serde_json::Value = serde_json::from_str(include_str!("data/stellar-core-classic.json")).unwrap();
    let mut history: BTreeMap<u32, Vec<serde_json::Value>> = BTreeMap::new();
    for tx in json["txhistory"].as_array().unwrap() {
        history
            .entry(tx["ledgerseq"].as_u64().unwrap() as u32)
            .or_default()
            .push(tx.clone());
    }
    for list in history.values_mut() {
        list.sort_by_key(|tx| tx["txindex"].as_u64().unwrap());
    }
    Oracle {
        network_id: Sha256::digest(text(&json, "network_passphrase")).into(),
        submissions: json["submissions"].as_array().unwrap().clone(),
        headers: json["ledgerheaders"]
            .as_array()
            .unwrap()
            .iter()
            .map(|h| (h["ledgerseq"].as_u64().unwrap() as u32, read(h, "data")))
            .collect(),
        fees: json["txfeehistory"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (text(f, "txid").to_owned(), read(f, "txchanges")))
            .collect(),
        history,
    }
}

/// The changes as a sorted list of (before, after), so that stellar-core's hash-map order does not matter.
fn normal(changes: &LedgerEntryChanges) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut before = None;
    for change in changes.0.iter() {
        match change {
            LedgerEntryChange::State(entry) => before = Some(format!("{entry:?}")),
            LedgerEntryChange::Created(entry) => out.push((String::new(), format!("{entry:?}"))),
            LedgerEntryChange::Updated(entry) => out.push((before.take().unwrap(), format!("{entry:?}"))),
            LedgerEntryChange::Removed(key) => out.push((before.take().unwrap(), format!("{key:?}"))),
            LedgerEntryChange::Restored(entry) => panic!("a classic ledger restores nothing: {entry:?}"),
        }
    }
    out.sort();
    out
}

fn meta_v2(meta: &TransactionMeta) -> Vec<Vec<(String, String)>> {
    let TransactionMeta::V2(v2) = meta else {
        panic!("protocol 19 writes meta version 2")
    };
    let mut out = vec![normal(&v2.tx_changes_before), normal(&v2.tx_changes_after)];
    out.extend(v2.operations.iter().map(|op| normal(&op.changes)));
    out
}

fn accepted(result: &TransactionResult) -> bool {
    matches!(
        result.result,
        TransactionResultResult::TxSuccess(_) | TransactionResultResult::TxFeeBumpInnerSuccess(_)
    )
}

fn frame(envelope: &serde_json::Value, key: &str, network_id: [u8; 32]) -> Frame {
    Frame::new(read::<TransactionEnvelope>(envelope, key), network_id).unwrap()
}

#[test]
fn every_answer_of_stellar_core_is_given_again() {
    let oracle = oracle();
    let first = oracle.headers[&9].clone();
    let root = root_account(oracle.network_id);
    let mut entry = Loaded::new(new_account(root, 1_000_000_000_000_000_000, 0)).into_entry();
    entry.last_modified_ledger_seq = 1;
    let mut state = State {
        header: first,
        entries: BTreeMap::from([(entry.to_key(), entry)]),
    };

    let mut wrong: Vec<String> = Vec::new();
    let (mut submissions, mut applied) = (0, 0);
    let mut waiting = oracle.submissions.iter().enumerate().peekable();
    for (&sequence, header) in oracle.headers.range(10..) {
        let mut pending: HashMap<String, i64> = HashMap::new();
        while let Some((index, submission)) =
            waiting.next_if(|(_, s)| s["lcl"].as_u64().unwrap() as u32 + 1 == sequence)
        {
            submissions += 1;
            let frame = frame(submission, "envelope", oracle.network_id);
            assert_eq!(
                hex::encode(frame.hash()),
                text(submission, "hash"),
                "hash of submission {index}"
            );
            let mut txn = Txn::new(&state, close::validation_header(&state.header));
            let source = format!("{:?}", frame.inner.source());
            let current = pending.get(&source).copied().unwrap_or(0);
            let result = frame.check(
                &mut txn,
                Validity {
                    current,
                    close_time_ahead: 0,
                },
            );
            let as_core = match submission["error_result"].as_str() {
                Some(error) => result.to_xdr_base64(Limits::none()).unwrap() == error,
                None => accepted(&result),
            };
            if as_core && accepted(&result) {
                pending.insert(source, frame.inner.tx.seq_num.0);
            }
            if !as_core {
                let theirs = submission["error_result"]
                    .as_str()
                    .map(|e| TransactionResult::from_xdr_base64(e, Limits::none()).unwrap());
                wrong.push(format!("submission {index}: ours {result:?}\n   theirs {theirs:?}"));
            }
        }

        let list = oracle.history.get(&sequence).cloned().unwrap_or_default();
        let frames: Vec<Frame> = list.iter().map(|tx| frame(tx, "txbody", oracle.network_id)).collect();
        let closed = close::apply(
            &state,
            frames,
            header.scp_value.tx_set_hash.0,
            header.scp_value.close_time.0,
            header.base_fee,
        );
        for (theirs, ours) in list.iter().zip(&closed.transactions) {
            applied += 1;
            compare(&oracle, theirs, ours, &mut wrong);
        }
        if closed.header.fee_pool != header.fee_pool || closed.header.tx_set_result_hash != header.tx_set_result_hash {
            wrong.push(format!("header of ledger {sequence}"));
        }
        state.header = closed.header;
        for (key, entry) in closed.changes {
            match entry {
                Some(entry) => state.entries.insert(key, entry),
                None => state.entries.remove(&key),
            };
        }
    }
    println!(
        "{submissions} submissions, {applied} applied, {} differences",
        wrong.len()
    );
    assert_eq!((submissions, applied), (275, 135), "the whole oracle was replayed");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

fn compare(oracle: &Oracle, theirs: &serde_json::Value, ours: &ClosedTransaction, wrong: &mut Vec<String>) {
    let id = text(theirs, "txid");
    let pair: TransactionResultPair = read(theirs, "txresult");
    if pair.result != ours.result {
        wrong.push(format!(
            "result of {id}: ours {:?}\n   theirs {:?}",
            ours.result, pair.result
        ));
    }
    if oracle.fees[id] != ours.fee_changes {
        wrong.push(format!("fee changes of {id}"));
    }
    let (our_meta, their_meta) = (meta_v2(&ours.meta), meta_v2(&read(theirs, "txmeta")));
    if our_meta != their_meta {
        let mut lines = vec![format!(
            "meta of {id} ({:?})",
            ours.frame
                .inner
                .tx
                .operations
                .iter()
                .map(|o| o.body.name())
                .collect::<Vec<_>>()
        )];
        for (part, (a, b)) in our_meta.iter().zip(&their_meta).enumerate() {
            for x in a.iter().filter(|x| !b.contains(x)) {
                lines.push(format!("   part {part} only ours: {x:?}"));
            }
            for x in b.iter().filter(|x| !a.contains(x)) {
                lines.push(format!("   part {part} only theirs: {x:?}"));
            }
        }
        wrong.push(lines.join("\n"));
    }
}
