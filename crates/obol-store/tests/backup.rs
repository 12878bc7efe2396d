//! Backups: all of it comes back, in a new epoch, or nothing does.

mod common;

use std::io::Write as _;
use std::path::Path;

use common::{History, escrow_id, stroops};
use obol_cell::AccountId;
use obol_stellar::outbox::{Bound, Outbox as _, Outcome, Purpose, Submission};
use obol_stellar::tx::TxHash;
use obol_store::condense::{Condense as _, NodeState};
use obol_store::{BackupError, Journal, OpenError, Options, SecretFile};
use obol_toll::fact::{NodeFact, OutFact, PayerFact};
use zeroize::Zeroizing;

/// Bytes before the first part.
const HEAD: usize = 14 + 12 + 16 + 19 + 32;

const PASSPHRASE: &str = "correct horse battery staple";

fn options() -> Options {
    Options {
        clock: Some(common::clock),
        checkpoint_every: Some(50),
        ..Options::default()
    }
}

fn files() -> Vec<SecretFile> {
    [("payee.key", vec![1; 40]), ("capital.key", vec![2; 200_000])]
        .map(|(name, bytes)| SecretFile {
            name: name.into(),
            bytes: Zeroizing::new(bytes),
        })
        .into()
}

/// A journal with something of everything, erased days too.
async fn journal(path: &Path) -> Journal<NodeFact> {
    let _turn = common::days_are_ours().await;
    let (journal, _) = Journal::<NodeFact>::open_with(path, options()).expect("opens");
    let mut history = History::new(3);
    history.append(&journal, 200);
    for n in [1, 2] {
        let submission = Submission {
            hash: TxHash([n; 32]),
            inner_hash: Some(TxHash([n + 50; 32])),
            envelope: vec![n; 300],
            purpose: Purpose::Wallet([n; 32]),
            source: AccountId([9; 32]),
            sequence: 5,
            bound: Bound::default(),
            fee: stroops(300),
        };
        journal.record(&submission).await.expect("recorded");
        if n == 1 {
            let applied = Outcome::Applied {
                ledger: 7,
                fee_charged: stroops(200),
            };
            journal.resolve(submission.hash, &applied).await.expect("resolved");
        }
    }
    common::days_pass(3);
    history.append(&journal, 200);
    journal.keep_days(1).await.expect("erased");
    journal.keep_secret("nonce", &[1], &[0xAB; 32]).await.expect("kept");
    journal.set("cursor", Some(b"17")).await.expect("set");
    journal
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_everything_back_in_a_new_epoch() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, backup, other) = (
        directory.path().join("journal.sqlite"),
        directory.path().join("backup"),
        directory.path().join("other.sqlite"),
    );
    let journal = journal(&path).await;
    assert_eq!((journal.epoch(), journal.sealed().len()), (1, 0));
    journal.export_to(PASSPHRASE, &files(), &backup).expect("exports");
    let before = journal.facts_from(1).await.expect("reads");
    let (report, submissions) = (
        journal.audit_report().await.expect("reads"),
        journal.submissions().await.expect("reads"),
    );
    // The first one goes on, as a stolen or forgotten one would.
    let again = journal.export_to(PASSPHRASE, &[], &backup).expect_err("there");
    assert!(matches!(again, BackupError::Exists { .. }), "{again}");

    let sealed = std::fs::read(&backup).expect("reads");
    assert!(
        !sealed.windows(8).any(|w| w == [0xAB; 8] || w == [2; 8]),
        "secrets are not there in plain"
    );
    let imported = Journal::<NodeFact>::import(&other, PASSPHRASE, &sealed[..]).expect("imports");
    assert_eq!(imported.epoch, 2);
    assert_eq!(imported.files.len(), 2);
    for (file, expected) in imported.files.iter().zip(files()) {
        assert_eq!((&file.name, &file.bytes), (&expected.name, &expected.bytes));
    }

    let (restored, state) = Journal::<NodeFact>::open_existing(&other).expect("opens");
    assert_eq!(restored.epoch(), 2);
    let after = restored.facts_from(1).await.expect("reads");
    assert_eq!(&after[..before.len()], &before[..]);
    assert_eq!(restored.submissions().await.expect("reads"), submissions);
    assert_eq!(restored.pending().await.expect("reads").len(), 1);
    assert_eq!(restored.get("cursor").await, Ok(Some(b"17".to_vec())));
    assert_eq!(
        restored.secrets("nonce").await.expect("reads")[0].1.as_slice(),
        [0xAB; 32]
    );
    let found = restored.audit_report().await.expect("reads");
    assert_eq!(found.findings, []);
    assert_eq!((found.earned, found.submissions), (report.earned, report.submissions));

    // What the new epoch is about: no escrow of ours is open, and none that pays us takes anything more.
    assert_eq!(
        after[before.len()..].iter().map(|(_, fact)| *fact).collect::<Vec<_>>(),
        [NodeFact::NewEpoch]
    );
    let mut condensed = NodeState::default();
    state.iter().for_each(|fact| condensed.take(fact));
    assert_eq!(restored.sealed(), condensed.signing());
    assert!(!restored.sealed().is_empty());
    let facts = condensed.facts();
    for escrow in restored.sealed() {
        assert!(facts.contains(&NodeFact::Out(OutFact::Closing { escrow: *escrow })));
    }
    let closed = facts.iter().filter(|fact| matches!(fact, NodeFact::InClosing { .. }));
    assert_eq!(closed.count(), condensed.live().len() - restored.sealed().len());
    let epoch = facts
        .iter()
        .position(|fact| *fact == NodeFact::NewEpoch)
        .expect("a checkpoint knows it, too");
    assert!(
        !facts[epoch..]
            .iter()
            .any(|fact| matches!(fact, NodeFact::Believed { .. }))
    );

    // A backup of that one begins the third epoch, and its escrows stay sealed.
    let mut second = Vec::new();
    second = restored.export(PASSPHRASE, &[], second).expect("exports");
    let third = directory.path().join("third.sqlite");
    let imported = Journal::<NodeFact>::import(&third, PASSPHRASE, &second[..]).expect("imports");
    assert_eq!((imported.epoch, imported.sealed), (3, restored.sealed().len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_wrong_short_or_changed_backup_is_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    let other = directory.path().join("other.sqlite");
    let journal = journal(&path).await;
    let backup = journal.export(PASSPHRASE, &files(), Vec::new()).expect("exports");
    assert!(backup.len() > 3 * 65_536, "it has several parts: {}", backup.len());
    let import = |passphrase: &str, bytes: &[u8]| Journal::<NodeFact>::import(&other, passphrase, bytes);

    let error = import("correct horse", &backup).expect_err("another passphrase");
    assert!(
        matches!(error, BackupError::Passphrase) && error.to_string().contains("passphrase"),
        "{error}"
    );
    assert!(matches!(import("", &backup), Err(BackupError::Passphrase)));
    assert!(matches!(
        journal.export("", &[], Vec::new()),
        Err(BackupError::Passphrase)
    ));
    // Cut off: in the head, in a part, between parts, before the last byte.
    for end in [20, HEAD, HEAD + 1, 3_000, backup.len() / 2, backup.len() - 1] {
        let error = import(PASSPHRASE, &backup[..end]).expect_err("cut off");
        assert!(matches!(error, BackupError::Truncated), "{end}: {error}");
    }
    for at in [HEAD + 20, 70_000, backup.len() / 2, backup.len() - 1] {
        let mut altered = backup.clone();
        altered[at] ^= 1;
        let error = import(PASSPHRASE, &altered).expect_err("altered");
        assert!(matches!(error, BackupError::Altered), "{at}: {error}");
    }
    let longer = [&backup[..], &[0]].concat();
    assert!(matches!(import(PASSPHRASE, &longer), Err(BackupError::Altered)));
    // A part that is dropped, with its frame.
    let part = 5 + 65_536 + 16;
    let dropped = [&backup[..HEAD], &backup[HEAD + part..]].concat();
    assert!(matches!(import(PASSPHRASE, &dropped), Err(BackupError::Altered)));
    assert!(matches!(
        import(PASSPHRASE, b"SQLite format 3\0"),
        Err(BackupError::NotABackup)
    ));
    assert!(matches!(import(PASSPHRASE, b""), Err(BackupError::NotABackup)));
    let error = Journal::<PayerFact>::import(&other, PASSPHRASE, &backup[..]).expect_err("a relay's");
    assert!(
        matches!(&error, BackupError::OtherKind { found, wanted: "client" } if found == "relay"),
        "{error}"
    );
    // After all that there is nothing, not even a part.
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("reads")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .filter(|name| name.starts_with("other"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // And what is there is never written over.
    drop(journal);
    let error = Journal::<NodeFact>::import(&path, PASSPHRASE, &backup[..]).expect_err("there");
    assert!(matches!(error, BackupError::Exists { .. }), "{error}");
    import(PASSPHRASE, &backup).expect("the whole one is taken in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_backup_seals_its_escrows() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, other) = (
        directory.path().join("journal.sqlite"),
        directory.path().join("other.sqlite"),
    );
    let (journal, _) = Journal::<PayerFact>::open(&path).expect("opens");
    let out = PayerFact::Out;
    let facts = vec![
        out(OutFact::Accepted {
            escrow: common::escrow(1),
            deposit: stroops(100),
            refund: obol_cell::Signature([1; 64]),
            margin: 60,
            payee: obol_cell::PeerId([3; 32]),
            since: 5,
        }),
        out(OutFact::Opened {
            escrow: escrow_id(1),
            balance: stroops(100),
        }),
        out(OutFact::Signed {
            escrow: escrow_id(1),
            k: 1,
            cumulative: stroops(10),
        }),
    ];
    journal.append(facts.clone()).await.expect("appends");
    let backup = journal.export(PASSPHRASE, &[], Vec::new()).expect("exports");
    Journal::<PayerFact>::import(&other, PASSPHRASE, &backup[..]).expect("imports");
    let (restored, _) = Journal::<PayerFact>::open_existing(&other).expect("opens");
    assert_eq!(restored.sealed(), [escrow_id(1)]);
    let all = restored.facts_from(1).await.expect("reads");
    assert_eq!(
        all.iter().map(|(_, fact)| *fact).collect::<Vec<_>>(),
        [facts, vec![PayerFact::NewEpoch]].concat()
    );
    assert_eq!(restored.audit().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_written_leaves_no_file() {
    /// A disk that is full after so many bytes.
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let journal = journal(&directory.path().join("journal.sqlite")).await;
    let error = journal
        .export(PASSPHRASE, &files(), Full(100_000))
        .map(drop)
        .expect_err("full");
    assert!(
        matches!(&error, BackupError::Io(e) if e.kind() == std::io::ErrorKind::StorageFull),
        "{error}"
    );
    let nowhere = directory.path().join("no/such/backup");
    let error = journal.export_to(PASSPHRASE, &[], &nowhere).expect_err("no directory");
    assert!(matches!(error, BackupError::Io(_)), "{error}");
    // The journal itself goes on.
    journal.append(vec![NodeFact::Restarted]).await.expect("appends");
    Full(1).flush().expect("nothing to do");
}

#[test]
fn a_journal_that_is_only_looked_at_must_be_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    let error = Journal::<NodeFact>::open_existing(&path).expect_err("missing");
    assert!(
        matches!(error, OpenError::Missing { .. }) && error.to_string().contains("check the path"),
        "{error}"
    );
    assert!(!path.exists());
}
