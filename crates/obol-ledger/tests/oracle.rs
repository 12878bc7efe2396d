//! The ledger against what a real stellar-core (19.0.0, protocol 19) answered to 275 submissions; and the comparison itself, which must
//! notice every single thing that is changed in the recording.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use obol_ledger::replay::{Recording, ReplayError, Report, What, replay, replay_against};
use serde_json::{Value, json};
use stellar_xdr::{
    AccountEntry, LedgerEntryChange, LedgerEntryChanges, LedgerEntryData, LedgerHeader, LedgerUpgrade, Limits, ReadXdr,
    TransactionMeta, TransactionResult, TransactionResultPair, TransactionResultResult, TrustLineEntry, UpgradeType,
    WriteXdr,
};

const ORACLE: &str = include_str!("data/stellar-core-classic.json");

fn file() -> Value {
    serde_json::from_str(ORACLE).unwrap()
}

fn read(file: &Value) -> Recording {
    Recording::read(&file.to_string()).unwrap()
}

/// A copy without results, meta and fee history, and without what headers tell of them.
fn stripped(mut file: Value) -> Value {
    for submission in file["submissions"].as_array_mut().unwrap() {
        let fields = submission.as_object_mut().unwrap();
        assert!(fields.remove("status").is_some() && fields.remove("error_result").is_some());
    }
    for transaction in file["txhistory"].as_array_mut().unwrap() {
        let fields = transaction.as_object_mut().unwrap();
        assert!(fields.remove("txresult").is_some() && fields.remove("txmeta").is_some());
    }
    assert!(file.as_object_mut().unwrap().remove("txfeehistory").is_some());
    for entry in file["ledgerheaders"].as_array_mut().unwrap() {
        let mut header: LedgerHeader = xdr(&entry["data"]);
        header.fee_pool = 0;
        header.tx_set_result_hash = Default::default();
        header.bucket_list_hash = Default::default();
        header.previous_ledger_hash = Default::default();
        entry["data"] = base64(&header);
        entry.as_object_mut().unwrap().remove("ledgerhash");
    }
    file
}

fn xdr<T: ReadXdr>(value: &Value) -> T {
    T::from_xdr_base64(value.as_str().unwrap(), Limits::none()).unwrap()
}

fn base64(value: &impl WriteXdr) -> Value {
    Value::from(value.to_xdr_base64(Limits::none()).unwrap())
}

fn agrees(report: &Report) {
    assert_eq!((report.agree, report.total), (275, 275), "{report}");
    assert_eq!((report.ledgers_agree, report.ledgers_total), (89, 89), "{report}");
    assert!(report.all_agree());
    assert!(report.to_string().ends_with("275 of 275 agree"));
}

#[test]
fn every_answer_of_stellar_core_is_given_again() {
    let report = replay(&read(&file())).unwrap();
    agrees(&report);
    let applied = report.submissions.iter().filter(|s| s.ledger.is_some()).count();
    assert_eq!(applied, 135, "as many as the recording's history has");
    assert!(report.submissions.iter().all(|s| s.missing.is_empty()));
}

#[test]
fn the_same_comes_out_when_the_ledger_is_handed_a_copy_without_any_answer() {
    let (full, bare) = (read(&file()), read(&stripped(file())));
    let from_full = replay(&full).unwrap();
    let from_bare = replay_against(&bare, &full).unwrap();
    agrees(&from_bare);
    assert_eq!(from_full.json(), from_bare.json());
    // By itself the copy proves nothing, and the report says so; but what the ledger answered is in it all the same.
    let alone = replay(&bare).unwrap();
    assert!(!alone.all_agree() && alone.agree == 0, "{}", alone.agree);
    assert!(alone.to_string().ends_with("0 of 275 agree"));
    for (one, other) in alone.submissions.iter().zip(&from_full.submissions) {
        assert_eq!(
            (&one.result_xdr, &one.fee_changes_xdr, &one.meta_xdr, &one.accounts),
            (
                &other.result_xdr,
                &other.fee_changes_xdr,
                &other.meta_xdr,
                &other.accounts
            )
        );
    }
}

/// Replays a changed copy; the only differences must be these, all at one submission.
fn names(changed: &Value, index: usize, expected: &[What]) {
    let report = replay(&read(changed)).unwrap();
    assert!(!report.all_agree());
    assert_eq!(report.agree, 274, "{report}");
    let wrong: Vec<usize> = report
        .submissions
        .iter()
        .filter(|s| !s.agrees)
        .map(|s| s.index)
        .collect();
    assert_eq!(wrong, [index], "{report}");
    let found: Vec<What> = report.submissions[index].differences.iter().map(|d| d.what).collect();
    assert_eq!(found, expected, "{report}");
    assert!(
        report.to_string().contains(&format!("submission {index} (")),
        "{report}"
    );
}

/// The submission of a recorded transaction, and the transaction's place in the history.
fn place_of(file: &Value, history: usize) -> usize {
    let hash = &file["txhistory"][history]["txid"];
    file["submissions"]
        .as_array()
        .unwrap()
        .iter()
        .position(|s| &s["hash"] == hash)
        .unwrap()
}

#[test]
fn whatever_is_changed_in_the_recording_is_named() {
    let file = file();
    let submissions = file["submissions"].as_array().unwrap();
    let refused = submissions.iter().position(|s| s["status"] == "ERROR").unwrap();

    let mut changed = file.clone();
    changed["submissions"][refused]["status"] = json!("DUPLICATE");
    names(&changed, refused, &[What::Status]);

    let mut changed = file.clone();
    let mut result: TransactionResult = xdr(&changed["submissions"][refused]["error_result"]);
    result.fee_charged += 1;
    changed["submissions"][refused]["error_result"] = base64(&result);
    names(&changed, refused, &[What::Result, What::Fee]);

    // One in thirty: a replay takes its time.
    for (history, transaction) in file["txhistory"].as_array().unwrap().iter().enumerate().step_by(30) {
        let mut pair: TransactionResultPair = xdr(&transaction["txresult"]);
        pair.result.result = TransactionResultResult::TxInternalError;
        let mut changed = file.clone();
        changed["txhistory"][history]["txresult"] = base64(&pair);
        names(&changed, place_of(&file, history), &[What::Result]);
    }

    // One stroop, one sequence number, one flag in the changes that a transaction made.
    let changes: [(Change, What); 5] = [
        (|data| account(data, |a| a.balance += 1), What::Balance),
        (|data| account(data, |a| a.seq_num.0 += 1), What::Sequence),
        (|data| account(data, |a| a.flags ^= 1), What::Entry),
        (|data| line(data, |l| l.balance += 1), What::Balance),
        (|data| line(data, |l| l.limit -= 1), What::Entry),
    ];
    for (change, what) in changes {
        let mut found = None;
        for (history, transaction) in file["txhistory"].as_array().unwrap().iter().enumerate() {
            let mut meta: TransactionMeta = xdr(&transaction["txmeta"]);
            if change_meta(&mut meta, change) {
                found = Some((history, meta));
                break;
            }
        }
        let (history, meta) = found.expect("the recording has such an entry");
        let mut changed = file.clone();
        changed["txhistory"][history]["txmeta"] = base64(&meta);
        names(&changed, place_of(&file, history), &[what]);
    }

    // What the fee took.
    let mut changed = file.clone();
    let mut fee: LedgerEntryChanges = xdr(&changed["txfeehistory"][3]["txchanges"]);
    let mut list = fee.0.to_vec();
    for change in &mut list {
        if let LedgerEntryChange::Updated(entry) = change
            && let LedgerEntryData::Account(account) = &mut entry.data
        {
            account.balance -= 1;
        }
    }
    fee.0 = list.try_into().unwrap();
    changed["txfeehistory"][3]["txchanges"] = base64(&fee);
    let txid = changed["txfeehistory"][3]["txid"].clone();
    let history = file["txhistory"]
        .as_array()
        .unwrap()
        .iter()
        .position(|t| t["txid"] == txid)
        .unwrap();
    names(&changed, place_of(&file, history), &[What::Balance]);

    // What a ledger's header says.
    let mut changed = file.clone();
    let mut header: LedgerHeader = xdr(&changed["ledgerheaders"][40]["data"]);
    header.fee_pool += 1;
    changed["ledgerheaders"][40]["data"] = base64(&header);
    let report = replay(&read(&changed)).unwrap();
    assert!(!report.all_agree());
    assert_eq!((report.agree, report.ledgers_agree), (275, 88), "{report}");
    assert_eq!(report.ledgers[39].differences[0].what, What::Header, "{report}");
    assert!(report.to_string().contains("ledger 41: header of fee pool"), "{report}");
}

type Change = fn(&mut LedgerEntryData) -> bool;

fn account(data: &mut LedgerEntryData, change: fn(&mut AccountEntry)) -> bool {
    match data {
        LedgerEntryData::Account(account) => change(account),
        _ => return false,
    }
    true
}

fn line(data: &mut LedgerEntryData, change: fn(&mut TrustLineEntry)) -> bool {
    match data {
        LedgerEntryData::Trustline(line) => change(line),
        _ => return false,
    }
    true
}

/// Changes the last version of the first fitting entry that an operation of the transaction left.
fn change_meta(meta: &mut TransactionMeta, change: Change) -> bool {
    let TransactionMeta::V2(v2) = meta else {
        panic!("protocol 19 writes meta version 2")
    };
    let mut operations = v2.operations.to_vec();
    let mut done = false;
    for operation in &mut operations {
        let mut list = operation.changes.0.to_vec();
        for one in &mut list {
            if let LedgerEntryChange::Updated(entry) = one
                && !done
            {
                done = change(&mut entry.data);
            }
        }
        operation.changes.0 = list.try_into().unwrap();
    }
    v2.operations = operations.try_into().unwrap();
    done
}

#[test]
fn another_order_of_application_is_noticed() {
    let mut file = file();
    let history = file["txhistory"].as_array_mut().unwrap();
    let first = history
        .iter()
        .position(|t| t["txindex"] == 2)
        .expect("some ledger has two transactions")
        - 1;
    assert_eq!(history[first]["ledgerseq"], history[first + 1]["ledgerseq"]);
    history[first]["txindex"] = json!(2);
    history[first + 1]["txindex"] = json!(1);
    let ledger = history[first]["ledgerseq"].as_u64().unwrap() as usize;
    let report = replay(&read(&file)).unwrap();
    let differences = &report.ledgers[ledger - 2].differences;
    assert!(differences.iter().any(|d| d.what == What::Order), "{report}");
}

#[test]
fn the_upgrade_is_part_of_what_is_replayed() {
    let mut file = file();
    // Without it the reserve stays at ten lumens, and protocol 0 knows no accounts of less.
    let mut header: LedgerHeader = xdr(&file["ledgerheaders"][5]["data"]);
    assert_eq!((header.ledger_seq, header.scp_value.upgrades.len()), (6, 3));
    header.scp_value.upgrades = Default::default();
    file["ledgerheaders"][5]["data"] = base64(&header);
    let report = replay(&read(&file)).unwrap();
    assert!(!report.all_agree());
    let at_six: Vec<&str> = report.ledgers[4].differences.iter().map(|d| d.place.as_str()).collect();
    assert_eq!(at_six, ["protocol version", "base reserve", "largest set"], "{report}");
}

#[test]
fn an_upgrade_that_nobody_knows_here_ends_the_replay_and_is_named() {
    for upgrade in [LedgerUpgrade::Flags(1).to_xdr(Limits::none()).unwrap(), vec![0xff; 4]] {
        let mut file = file();
        let mut header: LedgerHeader = xdr(&file["ledgerheaders"][6]["data"]);
        let raw = UpgradeType(upgrade.try_into().unwrap());
        header.scp_value.upgrades = vec![raw].try_into().unwrap();
        file["ledgerheaders"][6]["data"] = base64(&header);
        let error = replay(&read(&file)).unwrap_err();
        assert!(error.to_string().contains("ledger 7"), "{error}");
    }
}

#[test]
fn a_bad_file_is_refused_and_the_place_is_named() {
    let format = |text: &str| match Recording::read(text) {
        Err(ReplayError::Format(problem)) => problem,
        other => panic!("{other:?}"),
    };
    assert!(format("").contains("EOF"), "{}", format(""));
    assert!(format("{\"submissions\": 5}").contains("line 1"));
    assert!(format("{}").contains("network_passphrase"));
    assert!(format(&ORACLE[..ORACLE.len() / 2]).contains("EOF"));

    let damaged = |change: &dyn Fn(&mut Value)| {
        let mut file = file();
        change(&mut file);
        match Recording::read(&file.to_string()) {
            Err(error @ ReplayError::Damaged { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    type Case<'a> = (&'a dyn Fn(&mut Value), &'a str);
    let cases: [Case; 11] = [
        (
            &|f| f["network_passphrase"] = json!("another network"),
            "submissions[0]",
        ),
        (&|f| f["submissions"][7]["envelope"] = json!("!!"), "submissions[7]"),
        (&|f| f["submissions"][7]["hash"] = json!("00"), "submissions[7]"),
        (&|f| f["submissions"][7]["lcl"] = json!(1000), "submissions[7]"),
        (&|f| f["submissions"][7]["lcl_close_time"] = json!(1), "submissions[7]"),
        (&|f| f["submissions"][274]["lcl"] = json!(1), "submissions[274]"),
        (&|f| f["txhistory"][3]["txmeta"] = json!("AAAA"), "txhistory[3].txmeta"),
        (&|f| f["txhistory"][3]["ledgerseq"] = json!(1), "txhistory[3]"),
        (&|f| f["txhistory"][3]["txindex"] = json!(9), "of txhistory"),
        (&|f| f["ledgerheaders"][3]["ledgerseq"] = json!(9), "ledgerheaders[3]"),
        (&|f| f["submissions"] = json!([]), "submissions"),
    ];
    for (change, place) in cases {
        let message = damaged(change);
        assert!(message.contains(place), "{message} should name {place}");
    }
    // Another recording's copy is no copy of this one.
    let mut other = file();
    let submissions = other["submissions"].as_array_mut().unwrap();
    let refused = submissions.iter().position(|s| s["status"] == "ERROR").unwrap();
    submissions.remove(refused);
    let error = replay_against(&read(&other), &read(&file())).unwrap_err();
    assert!(error.to_string().contains("same recording"), "{error}");
}
