//! The audit: it passes on any history that the rules allow, and finds any row that was changed.

mod common;

use std::path::{Path, PathBuf};

use common::{History, clock, escrow_id, stroops};
use obol_cell::AccountId;
use obol_stellar::outbox::{Bound, Outbox as _, Outcome, Purpose, Submission};
use obol_stellar::rail::{Code, ResultCodes};
use obol_stellar::tx::TxHash;
use obol_store::{Journal, OpenError, Options, Report, StoreError, Verdict};
use obol_toll::fact::{NodeFact, OutFact, Owner, PayerFact};

fn submission(n: u8, purpose: Purpose) -> Submission {
    Submission {
        hash: TxHash([n; 32]),
        inner_hash: None,
        envelope: vec![n; 40],
        purpose,
        source: AccountId([9; 32]),
        sequence: i64::from(n),
        bound: Bound::default(),
        fee: stroops(300),
    }
}

fn options(keep_days: Option<u32>) -> Options {
    Options {
        checkpoint_every: Some(40),
        keep_days,
        clock: Some(clock),
        ..Options::default()
    }
}

async fn audit(path: &Path) -> Result<Report, OpenError> {
    let (journal, _) = Journal::<NodeFact>::open_existing_with(path, options(None))?;
    Ok(match journal.audit_report().await {
        Ok(report) => report,
        // A page that SQLite itself finds damaged.
        Err(StoreError::Corrupt) => return Err(OpenError::Corrupt { path: path.into() }),
        Err(error) => panic!("{error}"),
    })
}

/// A journal with rows in every table, erased ones among them.
async fn everything(path: &Path, days: u64) {
    let _turn = common::days_are_ours().await;
    let (journal, _) = Journal::<NodeFact>::open_with(path, options(None)).expect("opens");
    let mut history = History::new(7);
    history.append(&journal, 60);
    let applied = Outcome::Applied {
        ledger: 70,
        fee_charged: stroops(200),
    };
    let failed = Outcome::Failed {
        ledger: 71,
        fee_charged: stroops(100),
        codes: ResultCodes {
            transaction: Code::new("tx_failed"),
            ..ResultCodes::default()
        },
    };
    for (n, outcome) in [(1, &applied), (2, &failed), (3, &Outcome::Dead)] {
        let submission = submission(n, Purpose::Wallet([n; 32]));
        journal.record(&submission).await.expect("recorded");
        journal.resolve(submission.hash, outcome).await.expect("resolved");
    }
    common::days_pass(days);
    history.append(&journal, 30);
    journal.keep_days(1).await.expect("erased");
    for (n, outcome) in [(4, Some(&applied)), (5, None)] {
        let submission = submission(n, Purpose::Wallet([n; 32]));
        journal.record(&submission).await.expect("recorded");
        if let Some(outcome) = outcome {
            journal.resolve(submission.hash, outcome).await.expect("resolved");
        }
    }
    journal.keep_secret("nonce", &[1], &[2; 32]).await.expect("kept");
    journal.set("cursor", Some(b"17")).await.expect("set");
}

#[tokio::test]
async fn any_allowed_history_is_proved_and_explained() {
    let directory = tempfile::tempdir().expect("a directory");
    for seed in 0..6 {
        let path = directory.path().join(format!("{seed}.sqlite"));
        let (journal, _) = Journal::<NodeFact>::open_with(&path, options(None)).expect("opens");
        let mut history = History::new(seed);
        for _ in 0..4 {
            history.append(&journal, 150);
            let report = journal.audit_report().await.expect("reads");
            assert_eq!(report.findings, [], "seed {seed}");
            assert_eq!(report.verdict, Verdict::Proved);
            let sum: i128 = report.balances.iter().map(|balance| balance.stroops).sum();
            assert_eq!(sum, 0);
            assert_eq!(journal.audit().await, Ok(()));
        }
        let report = journal.audit_report().await.expect("reads");
        let by_step: i128 = report
            .days
            .iter()
            .flat_map(|day| &day.steps)
            .map(|step| step.earned)
            .sum();
        let given_back: i128 = report
            .days
            .iter()
            .flat_map(|day| &day.moves)
            .filter(|moved| (moved.debit, moved.credit) == ("earned", "payer"))
            .map(|moved| moved.stroops)
            .sum();
        assert_eq!(report.earned, by_step - given_back);
        assert!(report.earned > 0);
    }
}

#[tokio::test]
async fn a_report_names_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    everything(&path, 3).await;
    let report = audit(&path).await.expect("opens");
    assert!(report.is_proved(), "{report}");
    let text = format!("{report}\n{}", serde_json::to_string(&report).expect("serialises"));
    for byte in 0..=255_u8 {
        // Every account, identity, hash and secret of these tests is one byte over and over.
        assert!(!text.contains(&hex::encode([byte; 8])), "{byte:#x}: {text}");
    }
    assert!(text.contains("verdict: the books are proved"), "{text}");
    // What was erased is told in sums, and what was not in full.
    assert!(report.days.iter().any(|day| day.erased) && report.days.iter().any(|day| !day.erased));
    assert!(report.erased > 0 && report.facts > 0);
}

/// Tables, their keys and columns, and what a finding about one of their rows may be called.
const TABLES: [(&str, &str, &[&str], &[&str]); 9] = [
    ("facts", "sequence", &["sequence", "batch", "body"], &["append", "fact"]),
    (
        "batches",
        "batch",
        &["batch", "last", "day", "chain"],
        &["append", "fact", "checkpoint"],
    ),
    (
        "entries",
        "sequence * 100 + line",
        &["sequence", "line", "debit", "credit", "stroops"],
        &["entry"],
    ),
    ("accounts", "id", &["id", "name", "digest"], &["account", "entry"]),
    (
        "checkpoints",
        "which",
        &["sequence", "batch", "day", "chain", "state", "digest"],
        &["checkpoint"],
    ),
    ("days", "day", &["day", "body", "digest"], &["day", "checkpoint base"]),
    (
        "transactions",
        "number",
        &[
            "number", "day", "purpose", "outcome", "ledger", "fee", "stroops", "hash", "digest",
        ],
        &["transaction", "submission"],
    ),
    (
        "submissions",
        "number",
        &[
            "number",
            "hash",
            "envelope",
            "purpose",
            "subject",
            "source",
            "source_sequence",
            "until_time",
            "before_ledger",
            "fee",
            "outcome",
            "ledger",
            "fee_charged",
            "codes",
            "day",
            "resolved",
            "digest",
        ],
        &["submission"],
    ),
    ("secrets", "hex(id)", &["kind", "id", "secret", "digest"], &["secret"]),
];

/// Changes a column as little as its type allows; says whether the file's own constraints let that happen.
fn change(db: &rusqlite::Connection, table: &str, key: &str, row: &str, column: &str) -> bool {
    let update = format!(
        "UPDATE {table} SET {column} = CASE typeof({column})
             WHEN 'integer' THEN {column} + 1
             WHEN 'text' THEN CASE {column} WHEN 'applied' THEN 'failed' WHEN 'failed' THEN 'applied' WHEN 'dead' THEN 'failed'
                  ELSE {column} || 'x' END
             WHEN 'blob' THEN CAST(substr({column}, 1, length({column}) - 1) AS BLOB) ||
                  CASE substr({column}, -1) WHEN x'07' THEN x'08' ELSE x'07' END
             ELSE CASE WHEN '{column}' IN ('ledger', 'fee_charged', 'resolved', 'stroops') THEN 7 ELSE 'x' END END
         WHERE CAST({key} AS TEXT) = ?1"
    );
    match db.execute(&update, [row]) {
        Ok(changed) => changed == 1,
        Err(rusqlite::Error::SqliteFailure(e, _)) => {
            let refused = matches!(
                e.code,
                rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TypeMismatch
            );
            assert!(refused, "{table}.{column}: {e}");
            false
        }
        Err(error) => panic!("{table}.{column}: {error}"),
    }
}

/// A row as it is.
fn whole_row(db: &rusqlite::Connection, table: &str, key: &str, row: &str, columns: &[&str]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
    let select = format!(
        "SELECT {} FROM {table} WHERE CAST({key} AS TEXT) = ?1",
        columns.join(" || ',' || ")
    );
    db.query_row(&select, [row], |row| row.get(0)).unwrap_or_default()
}

fn keys(db: &rusqlite::Connection, table: &str, key: &str) -> Vec<String> {
    let mut query = db
        .prepare(&format!("SELECT CAST({key} AS TEXT) FROM {table}"))
        .expect("prepares");
    let rows = query.query_map([], |row| row.get(0)).expect("reads");
    rows.collect::<Result<Vec<String>, _>>().expect("reads")
}

/// Some of many: the first, the last and every so many.
fn some(keys: Vec<String>) -> Vec<String> {
    let (last, every) = (keys.len().saturating_sub(1), keys.len().div_ceil(6).max(1));
    let chosen = keys.into_iter().enumerate();
    chosen
        .filter(|(i, _)| i % every == 0 || *i == last)
        .map(|(_, key)| key)
        .collect()
}

#[tokio::test]
async fn a_change_of_any_column_of_any_table_is_found_and_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = directory.path().join("whole.sqlite");
    everything(&whole, 5).await;
    assert!(audit(&whole).await.expect("opens").is_proved());
    let path: PathBuf = directory.path().join("changed.sqlite");
    let mut found = 0;
    for (table, key, columns, names) in TABLES {
        let rows = some(keys(&rusqlite::Connection::open(&whole).expect("opens"), table, key));
        assert!(!rows.is_empty(), "{table} has rows");
        for row in &rows {
            for column in columns {
                std::fs::copy(&whole, &path).expect("copied");
                let db = rusqlite::Connection::open(&path).expect("opens");
                if !change(&db, table, key, row, column) {
                    continue;
                }
                let damaged = whole_row(&db, table, key, row, columns);
                drop(db);
                let what = format!("{table}.{column} of row {row}");
                match audit(&path).await {
                    // The start read everything instead, and may have written another one in its place before the audit looked.
                    Ok(report) if row == "latest" && report.is_proved() => {
                        let db = rusqlite::Connection::open(&path).expect("opens");
                        assert_ne!(whole_row(&db, table, key, row, columns), damaged, "{what} is not found");
                    }
                    // A start that would rely on it refuses already.
                    Err(OpenError::Corrupt { .. }) => {}
                    Err(OpenError::Failed { trouble, .. }) => {
                        assert!(matches!(trouble, StoreError::Unreadable { .. }), "{what}: {trouble}");
                    }
                    Err(error) => panic!("{what}: {error}"),
                    Ok(report) => {
                        assert!(!report.is_proved(), "{what} is not found");
                        let named = |place: &str| names.iter().any(|name| place.contains(name));
                        assert!(
                            report.findings.iter().any(|f| named(&f.place)),
                            "{what}: {:?}",
                            report.findings
                        );
                    }
                }
                found += 1;
            }
        }
    }
    assert!(found > 100, "{found} changes were tried");
}

#[tokio::test]
async fn a_row_that_is_gone_or_there_twice_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = directory.path().join("whole.sqlite");
    everything(&whole, 9).await;
    let path = directory.path().join("changed.sqlite");
    for (table, key, ..) in TABLES {
        let db = rusqlite::Connection::open(&whole).expect("opens");
        for row in some(keys(&db, table, key)) {
            // A secret may be forgotten, the latest checkpoint saves time and nothing else, and the name of an account may be all
            // that is left of it.
            if matches!(table, "secrets" | "accounts") || row == "latest" {
                continue;
            }
            std::fs::copy(&whole, &path).expect("copied");
            let db = rusqlite::Connection::open(&path).expect("opens");
            db.execute(&format!("DELETE FROM {table} WHERE CAST({key} AS TEXT) = ?1"), [&row])
                .expect("deleted");
            drop(db);
            match audit(&path).await {
                Err(OpenError::Corrupt { .. }) => {}
                Err(error) => panic!("{table} {row}: {error}"),
                Ok(report) => assert!(!report.is_proved(), "{table} without row {row} is proved"),
            }
        }
    }
    std::fs::copy(&whole, &path).expect("copied");
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute_batch(
        "INSERT INTO entries SELECT sequence, line + 50, debit, credit, stroops FROM entries ORDER BY sequence DESC LIMIT 1",
    )
    .expect("doubled");
    drop(db);
    let report = audit(&path).await.expect("opens");
    assert!(
        report.findings.iter().any(|f| f.place.contains("entry")),
        "{:?}",
        report.findings
    );
}

#[tokio::test]
async fn what_must_not_happen_twice_or_uncovered_is_found_in_the_facts_themselves() {
    let settled = NodeFact::Settled {
        escrow: escrow_id(1),
        amount: stroops(500),
    };
    let ended = NodeFact::Out(OutFact::Ended {
        escrow: escrow_id(9),
        paid: stroops(1),
    });
    let before = || {
        vec![
            common::believed(1, Owner::Client),
            common::claim(1, 1, 500),
            common::allocated(1, 7, 400),
            common::spent(7, 100, 300),
            NodeFact::Out(OutFact::Accepted {
                escrow: common::escrow(9),
                deposit: stroops(1_000),
                refund: obol_cell::Signature([6; 64]),
                margin: 60,
                payee: obol_cell::PeerId([8; 32]),
                since: 1,
            }),
            common::opened(9, 1_000),
            common::signed(9, 5, 200),
        ]
    };
    let cases: [(&str, Vec<NodeFact>); 6] = [
        ("settled for the second time", vec![settled, settled]),
        ("ends for the second time", vec![ended, ended]),
        ("signed for less", vec![common::signed(9, 6, 199)]),
        ("older number", vec![common::signed(9, 5, 250)]),
        ("forwarding is overdrawn", vec![common::signed(9, 6, 301)]),
        ("payer is overdrawn", vec![common::allocated(1, 7, 101)]),
    ];
    for (finding, facts) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal.sqlite");
        let (journal, _) = Journal::<NodeFact>::open(&path).expect("opens");
        journal.append(before()).await.expect("appends");
        assert_eq!(journal.audit().await, Ok(()));
        journal.append(facts).await.expect("appends");
        let report = journal.audit_report().await.expect("reads");
        assert_eq!(report.verdict, Verdict::Refuted);
        assert!(
            report
                .findings
                .iter()
                .any(|f| f.what.contains(finding) && !f.place.is_empty()),
            "{finding}: {:?}",
            report.findings
        );
        journal.audit().await.expect_err("refuted");
    }
}

#[tokio::test]
async fn one_purpose_that_two_transactions_did_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    let (journal, _) = Journal::<PayerFact>::open(&path).expect("opens");
    let applied = Outcome::Applied {
        ledger: 70,
        fee_charged: stroops(200),
    };
    for n in [1, 2] {
        let submission = submission(n, Purpose::Flush(escrow_id(1)));
        journal.record(&submission).await.expect("recorded");
        assert_eq!(journal.audit().await, Ok(()));
        journal.resolve(submission.hash, &applied).await.expect("resolved");
    }
    let report = journal.audit_report().await.expect("reads");
    let finding = &report.findings[0];
    assert_eq!(finding.place, "submission 2");
    assert!(finding.what.contains("submission 1 had done"), "{finding}");
    assert_eq!(report.submissions.applied, 2);
    assert_eq!(report.submissions.fees, 400);
}
