//! A journal of version 1 becomes one of this version; one of a later version is refused.

mod common;

use common::{allocated, believed, claim, spent};
use obol_stellar::outbox::{Outbox as _, Outcome};
use obol_store::{Account, Journal, OpenError};
use obol_toll::fact::{NodeFact, Owner};
use rusqlite::params;

/// The tables as version 1 made them.
const VERSION_1: &str = "
CREATE TABLE facts (
    sequence INTEGER PRIMARY KEY,
    batch    INTEGER NOT NULL,
    body     BLOB NOT NULL
) STRICT;
CREATE TABLE entries (
    sequence INTEGER NOT NULL REFERENCES facts (sequence),
    debit    TEXT NOT NULL,
    credit   TEXT NOT NULL,
    stroops  INTEGER NOT NULL CHECK (stroops > 0)
) STRICT;
CREATE INDEX entries_by_fact ON entries (sequence);
CREATE TABLE submissions (
    number        INTEGER PRIMARY KEY,
    hash          BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    inner_hash    BLOB CHECK (length(inner_hash) = 32),
    envelope      BLOB NOT NULL,
    purpose       TEXT NOT NULL,
    subject       BLOB NOT NULL CHECK (length(subject) = 32),
    source        BLOB NOT NULL CHECK (length(source) = 32),
    source_sequence INTEGER NOT NULL,
    until_time    INTEGER NOT NULL,
    before_ledger INTEGER NOT NULL,
    fee           INTEGER NOT NULL,
    outcome       TEXT CHECK (outcome IN ('applied', 'failed', 'dead')),
    ledger        INTEGER,
    fee_charged   INTEGER,
    codes         TEXT
) STRICT;
CREATE INDEX submissions_by_purpose ON submissions (purpose, subject);
CREATE INDEX submissions_pending ON submissions (number) WHERE outcome IS NULL;
CREATE TABLE secrets (
    kind  TEXT NOT NULL,
    id    BLOB NOT NULL,
    secret BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
PRAGMA application_id = 1329745740;
PRAGMA user_version = 1;
";

fn facts() -> [NodeFact; 4] {
    [
        believed(1, Owner::Client),
        claim(1, 1, 500),
        allocated(1, 7, 300),
        spent(7, 200, 100),
    ]
}

fn old_journal(path: &std::path::Path) {
    let db = rusqlite::Connection::open(path).expect("opens");
    db.execute_batch(VERSION_1).expect("makes");
    for (place, fact) in facts().iter().enumerate() {
        // Two appends of two facts.
        db.execute(
            "INSERT INTO facts VALUES (?1, ?2, ?3)",
            params![place as i64 + 1, place as i64 / 2 + 1, fact.encode()],
        )
        .expect("inserts");
    }
    let escrow = hex::encode([1; 32]);
    let entries = [
        (2, format!("claims:{escrow}"), format!("payer:{escrow}"), 500),
        (3, format!("payer:{escrow}"), "held".to_owned(), 300),
        (4, "held".to_owned(), "earned".to_owned(), 200),
        (4, "held".to_owned(), "forwarding".to_owned(), 100),
    ];
    for (sequence, debit, credit, stroops) in entries {
        db.execute(
            "INSERT INTO entries VALUES (?1, ?2, ?3, ?4)",
            params![sequence, debit, credit, stroops],
        )
        .expect("inserts");
    }
    for (number, outcome) in [(1, Some("applied")), (2, None)] {
        db.execute(
            "INSERT INTO submissions VALUES (?1, ?2, NULL, x'01', 'flush', ?3, ?3, 5, 0, 0, 300, ?4, ?5, ?5, NULL)",
            params![number, [number as u8; 32], [9_u8; 32], outcome, outcome.map(|_| 70)],
        )
        .expect("inserts");
    }
    db.execute("INSERT INTO secrets VALUES ('nonce', x'01', x'02')", [])
        .expect("inserts");
    db.execute("INSERT INTO settings VALUES ('journal-of', ?1)", [&b"relay"[..]])
        .expect("inserts");
}

#[tokio::test]
async fn a_journal_of_version_1_is_brought_up_to_date_and_proved() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    old_journal(&path);
    for _ in 0..2 {
        let (journal, found) = Journal::<NodeFact>::open(&path).expect("opens");
        assert_eq!(found, facts());
        let report = journal.audit_report().await.expect("reads");
        assert_eq!(report.findings, []);
        assert_eq!(
            (report.facts, report.appends, report.earned, report.days.len()),
            (4, 2, 200, 1)
        );
        assert_eq!(journal.secrets("nonce").await.expect("reads")[0].1.as_slice(), [2]);
        let submissions = journal.submissions().await.expect("reads");
        assert!(matches!(submissions[0].1, Some(Outcome::Applied { ledger: 70, .. })));
        assert_eq!(journal.pending().await.expect("reads").len(), 1);
        let earned = journal
            .balances()
            .into_iter()
            .find(|(account, _)| *account == Account::Earned);
        assert_eq!(earned, Some((Account::Earned, -200)));
    }
    let (journal, _) = Journal::<NodeFact>::open(&path).expect("opens");
    journal.append(vec![allocated(1, 8, 1)]).await.expect("goes on");
    assert_eq!(journal.audit().await, Ok(()));
}

#[test]
fn a_journal_of_a_later_version_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    drop(Journal::<NodeFact>::open(&path).expect("opens"));
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.pragma_update(None, "user_version", 77).expect("changed");
    drop(db);
    let error = Journal::<NodeFact>::open(&path).expect_err("newer");
    assert!(matches!(error, OpenError::TooNew { found: 77, .. }), "{error}");
    assert!(error.to_string().contains("use the newer program"), "{error}");
    let db = rusqlite::Connection::open(&path).expect("opens");
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .expect("reads");
    assert_eq!(version, 77);
}
