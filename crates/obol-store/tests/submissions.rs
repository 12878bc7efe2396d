//! The outbox of obol-stellar, kept by the journal.

use obol_cell::{AccountId, EscrowId, Stroops};
use obol_stellar::outbox::{Bound, Outbox as _, Outcome, Purpose, Submission};
use obol_stellar::rail::{Code, ResultCodes};
use obol_stellar::tx::TxHash;
use obol_store::Journal;
use obol_toll::fact::NodeFact;

fn submission(n: u8, purpose: Purpose) -> Submission {
    Submission {
        hash: TxHash([n; 32]),
        inner_hash: n.is_multiple_of(2).then_some(TxHash([n + 100; 32])),
        envelope: vec![n; 300],
        purpose,
        source: AccountId([9; 32]),
        sequence: i64::MAX - i64::from(n),
        bound: Bound {
            until_time: u64::MAX,
            before_ledger: u32::MAX,
        },
        fee: Stroops::new(300).expect("not negative"),
    }
}

fn all_purposes() -> Vec<Submission> {
    let escrow = EscrowId([7; 32]);
    let purposes = [
        Purpose::Open(escrow),
        Purpose::Flush(escrow),
        Purpose::Refund(escrow),
        Purpose::Sweep(escrow),
        Purpose::Merge(escrow),
        Purpose::Wallet([1; 32]),
    ];
    purposes
        .into_iter()
        .zip(1..)
        .map(|(purpose, n)| submission(n, purpose))
        .collect()
}

#[tokio::test]
async fn what_was_recorded_is_pending_until_its_outcome_is_known_over_restarts_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    let (journal, _) = Journal::<NodeFact>::open(&path).expect("opens");
    let all = all_purposes();
    for submission in &all {
        journal.record(submission).await.expect("recorded");
        journal.record(submission).await.expect("recorded twice");
    }
    assert_eq!(journal.pending().await.expect("read"), all);
    drop(journal);

    let (journal, _) = Journal::<NodeFact>::open(&path).expect("opens");
    assert_eq!(journal.pending().await.expect("read"), all);
    let fee_charged = Stroops::new(200).expect("not negative");
    let codes = ResultCodes {
        transaction: Code::new("tx_fee_bump_inner_failed"),
        inner: Some(Code::new("tx_failed")),
        operations: vec![Code::new("op_success"), Code::new("op_underfunded")],
    };
    let outcomes = [
        Outcome::Applied {
            ledger: 70,
            fee_charged,
        },
        Outcome::Failed {
            ledger: 71,
            fee_charged,
            codes,
        },
        Outcome::Failed {
            ledger: 72,
            fee_charged,
            codes: ResultCodes::default(),
        },
        Outcome::Dead,
    ];
    for (submission, outcome) in all.iter().zip(&outcomes) {
        journal.resolve(submission.hash, outcome).await.expect("resolved");
        journal.resolve(submission.hash, outcome).await.expect("resolved twice");
    }
    drop(journal);

    let (journal, _) = Journal::<NodeFact>::open(&path).expect("opens");
    assert_eq!(journal.pending().await.expect("read"), all[4..]);
    let listed = journal.submissions().await.expect("read");
    let expected = outcomes.into_iter().map(Some).chain([None, None]);
    assert_eq!(listed, all.into_iter().zip(expected).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_ledger_showed_is_final_and_dead_can_be_corrected_by_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = Journal::<NodeFact>::open(&directory.path().join("journal.sqlite")).expect("opens");
    let submission = submission(1, Purpose::Flush(EscrowId([7; 32])));
    let applied = Outcome::Applied {
        ledger: 70,
        fee_charged: Stroops::ZERO,
    };
    journal
        .resolve(submission.hash, &Outcome::Dead)
        .await
        .expect_err("never recorded");
    journal.record(&submission).await.expect("recorded");
    journal
        .resolve(submission.hash, &Outcome::Dead)
        .await
        .expect("resolved");
    journal
        .resolve(submission.hash, &applied)
        .await
        .expect("the ledger had it");
    journal
        .resolve(submission.hash, &Outcome::Dead)
        .await
        .expect_err("it is in a ledger");
    assert_eq!(journal.submissions().await.expect("read")[0].1, Some(applied.clone()));
    // It is found by what it was for, and nothing else is.
    let found = journal.applied(submission.purpose).await.expect("read");
    assert_eq!(found, Some((submission, applied)));
    let other = Purpose::Sweep(EscrowId([7; 32]));
    assert_eq!(journal.applied(other).await.expect("read"), None);
}
