//! Detail goes after its time; the books stay whole, and accounting keeps what it needs. One test to a process: it has the
//! clock.

mod common;

use common::{History, clock, days_pass, stroops};
use obol_cell::{AccountId, EscrowId, NetworkId};
use obol_stellar::Keypair;
use obol_stellar::asset::asset;
use obol_stellar::outbox::{Bound, Outbox as _, Outcome, Purpose, Submission};
use obol_stellar::tx::{Op, Tx, TxHash, Validity};
use obol_store::{Journal, Options};
use obol_toll::fact::NodeFact;

fn open(path: &std::path::Path, keep_days: Option<u32>) -> Journal<NodeFact> {
    let options = Options {
        keep_days,
        clock: Some(clock),
        checkpoint_every: Some(100),
        ..Options::default()
    };
    Journal::open_with(path, options).expect("opens").0
}

/// The flush of the oldest escrow, as a settler records it.
async fn flush(journal: &Journal<NodeFact>, n: u8) {
    let submission = Submission {
        hash: TxHash([n + 100; 32]),
        inner_hash: None,
        envelope: vec![n; 100],
        purpose: Purpose::Flush(EscrowId([n; 32])),
        source: AccountId([9; 32]),
        sequence: 1,
        bound: Bound::default(),
        fee: stroops(300),
    };
    journal.record(&submission).await.expect("recorded");
    let applied = Outcome::Applied {
        ledger: 70,
        fee_charged: stroops(200),
    };
    journal.resolve(submission.hash, &applied).await.expect("resolved");
}

/// An opening of two escrows at once, as a settler records it.
async fn open_two(journal: &Journal<NodeFact>) {
    let asset = asset("OBOL", AccountId([9; 32])).expect("an asset");
    let deposit = |n: u8, amount| Op::Pay {
        to: AccountId([n; 32]),
        asset,
        amount: stroops(amount),
    };
    let operations = [(None, deposit(0xE1, 400)), (None, deposit(0xE2, 300))];
    let key = Keypair::from_seed(&[8; 32]);
    let tx = Tx::new(key.account(), 7, 200, Validity::default(), operations).expect("a transaction");
    let tx = tx.sign(NetworkId([1; 32]), &[&key]).expect("signed");
    let submission = Submission {
        hash: tx.hash(),
        inner_hash: None,
        envelope: tx.to_bytes().expect("an envelope"),
        purpose: Purpose::Open(EscrowId([0xE1; 32])),
        source: key.account(),
        sequence: 7,
        bound: Bound::default(),
        fee: stroops(200),
    };
    journal.record(&submission).await.expect("recorded");
    let applied = Outcome::Applied {
        ledger: 69,
        fee_charged: stroops(200),
    };
    journal.resolve(submission.hash, &applied).await.expect("resolved");
}

#[tokio::test]
async fn detail_is_erased_day_by_day_and_nothing_that_counts_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let (kept_path, path) = (
        directory.path().join("all.sqlite"),
        directory.path().join("journal.sqlite"),
    );
    let (all, journal) = (open(&kept_path, None), open(&path, Some(3)));
    let (mut one, mut other) = (History::new(11), History::new(11));
    let mut flushed = Vec::new();
    for journal in [&all, &journal] {
        open_two(journal).await;
    }
    for day in 0..12 {
        one.append(&all, 200);
        other.append(&journal, 200);
        let settled = std::mem::take(&mut one.settled);
        flushed.extend_from_slice(&settled);
        for journal in [&all, &journal] {
            for escrow in &settled {
                flush(journal, *escrow).await;
            }
            // Wherever the erasing has got to.
            assert_eq!(journal.audit().await, Ok(()), "day {day}");
        }
        days_pass(1);
    }
    other.append(&journal, 1);
    one.append(&all, 1);
    journal.keep_days(3).await.expect("erased");
    let (whole, short) = (
        all.audit_report().await.expect("reads"),
        journal.audit_report().await.expect("reads"),
    );
    assert_eq!(short.findings, []);
    assert!(short.erased > 0 && short.facts < whole.facts);
    assert_eq!(short.facts + short.erased, whole.facts);
    // Day by day the same, from sums or from facts.
    for (short, whole) in short.days.iter().zip(&whole.days) {
        assert_eq!(
            (
                &short.day,
                short.carried_bytes,
                short.earned,
                &short.moves,
                &short.steps
            ),
            (
                &whole.day,
                whole.carried_bytes,
                whole.earned,
                &whole.moves,
                &whole.steps
            )
        );
    }
    assert_eq!(short.days.len(), whole.days.len());
    assert_eq!(short.balances, whole.balances);
    assert_eq!(short.submissions, whole.submissions);
    // And so are the accounts, transactions and their hashes included.
    let csv = |accounting: obol_store::Accounting| {
        let mut text = Vec::new();
        accounting.write_csv(&mut text).expect("writes");
        String::from_utf8(text).expect("text")
    };
    let (short_csv, whole_csv) = (
        csv(journal.accounting().await.expect("reads")),
        csv(all.accounting().await.expect("reads")),
    );
    assert_eq!(short_csv, whole_csv);
    assert!(
        whole_csv.starts_with("day,line,payments,carried_bytes,earned,"),
        "{whole_csv}"
    );
    // One transaction, and the deposits of both its escrows.
    let opening = whole_csv
        .lines()
        .find(|line| line.contains(",open,"))
        .expect("it is there");
    assert!(opening.contains(",0.0000700,"), "{opening}");
    assert!(flushed.len() > 2, "escrows are settled in this history");
    assert_eq!(whole_csv.matches(",flush,").count(), flushed.len());
    for n in &flushed {
        assert!(whole_csv.contains(&hex::encode([n + 100; 32])) && whole_csv.contains("0.0000200"));
    }
    let mut lines = csv::Reader::from_reader(whole_csv.as_bytes());
    let days: std::collections::BTreeSet<String> = lines
        .records()
        .map(|line| line.expect("a line")[0].to_owned())
        .collect();
    assert_eq!(days.len(), 13);

    // A month later: escrows that are over are forgotten by name, and a start needs nothing that is gone.
    days_pass(30);
    other.append(&journal, 1);
    journal.keep_days(3).await.expect("erased");
    assert_eq!(journal.audit().await, Ok(()));
    let balances = journal.balances();
    drop((journal, all));
    let bytes = std::fs::read(&path).expect("reads");
    let named = |n: u8| {
        let (raw, text) = ([n; 32], hex::encode([n; 32]));
        bytes.windows(32).any(|window| window == raw) || bytes.windows(64).any(|window| window == text.as_bytes())
    };
    // All that were settled are over by now; the newest is open.
    for n in flushed {
        assert!(!named(n), "escrow {n} is over and still named");
    }
    let newest = one.newest_escrow();
    assert!(named(newest), "the newest is known");
    let journal = open(&path, Some(3));
    assert_eq!(
        journal
            .balances()
            .into_iter()
            .filter(|(_, b)| *b != 0)
            .collect::<Vec<_>>(),
        { balances.into_iter().filter(|(_, b)| *b != 0).collect::<Vec<_>>() }
    );
    other.append(&journal, 50);
    assert_eq!(journal.audit().await, Ok(()));
}
