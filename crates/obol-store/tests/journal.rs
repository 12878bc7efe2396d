//! The journal as its owner meets it: order, one owner, failures that say what to do.

mod common;

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use common::{JOURNAL, again, allocated, believed, claim, line, spent};
use obol_store::{Journal, OpenError, Options, StoreError};
use obol_toll::fact::{NodeFact, Owner, PayerFact};

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    (directory, path)
}

fn open(path: &Path) -> (Journal<NodeFact>, Vec<NodeFact>) {
    Journal::open(path).expect("opens")
}

#[tokio::test]
async fn facts_come_back_in_order_with_their_appends() {
    let (_directory, path) = fresh();
    let (journal, facts) = open(&path);
    assert!(facts.is_empty());
    let first = vec![NodeFact::Restarted, believed(1, Owner::Client), claim(1, 1, 500)];
    assert_eq!(journal.append(first.clone()).await, Ok(3));
    // Many at once go through one group and keep their order.
    let mut waiting = Vec::new();
    for i in 0..1_000 {
        let (tell, told) = tokio::sync::oneshot::channel();
        journal.append_then(vec![claim(1, i + 2, i64::from(i) + 501)], move |outcome| {
            let _ = tell.send(outcome);
        });
        waiting.push(told);
    }
    for (i, told) in waiting.into_iter().enumerate() {
        assert_eq!(told.await.expect("answered"), Ok(4 + i as u64));
    }
    let expected: Vec<NodeFact> = first
        .into_iter()
        .chain((0..1_000).map(|i| claim(1, i + 2, i64::from(i) + 501)))
        .collect();
    let listed = journal.facts_from(1).await.expect("reads");
    assert_eq!(listed.iter().map(|(_, fact)| *fact).collect::<Vec<_>>(), expected);
    assert_eq!(
        listed.iter().map(|(batch, _)| *batch).take(5).collect::<Vec<_>>(),
        [1, 1, 1, 2, 3]
    );
    assert_eq!(journal.facts_from(1_003).await.expect("reads").len(), 1);
    drop(journal);
    assert_eq!(open(&path).1, expected);
}

#[tokio::test]
async fn an_empty_append_is_durable_with_all_before_it() {
    let (_directory, path) = fresh();
    let (journal, _) = open(&path);
    journal.append_then(vec![claim(1, 1, 5)], |outcome| assert_eq!(outcome, Ok(1)));
    assert_eq!(journal.append(Vec::new()).await, Ok(1));
}

/// Not a test of its own: the process that holds a journal, or tries to.
#[test]
fn holding_process() {
    let Some(path) = std::env::var_os(JOURNAL) else { return };
    let opened = Journal::<NodeFact>::open(&PathBuf::from(path));
    match &opened {
        Ok(_) => println!("held"),
        Err(e) => println!("refused {e}"),
    }
    // Until the parent closes its end.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[test]
fn a_second_process_and_a_second_opening_here_are_refused() {
    let (_directory, path) = fresh();
    let (journal, _) = open(&path);
    for _ in 0..2 {
        // A failed opening in this process must not release the lock for another process.
        let error = Journal::<NodeFact>::open(&path).expect_err("in use");
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        let (mut child, mut output) = again("holding_process", &path);
        let refused = line(&mut output, "refused ").expect("it answered");
        assert!(refused.contains("in use by another process"), "{refused}");
        child.wait().expect("ended");
    }
    drop(journal);
    open(&path);
}

#[tokio::test]
async fn a_full_disk_stops_appending_and_keeps_what_was_there() {
    let (_directory, path) = fresh();
    let options = Options {
        max_bytes: Some(200_000),
        ..Options::default()
    };
    let (journal, _) = Journal::<NodeFact>::open_with(&path, options).expect("opens");
    let mut stored = Vec::new();
    let error = loop {
        let facts: Vec<NodeFact> = (0..20).map(|i| claim(1, i + 1, 1_000 + stored.len() as i64)).collect();
        match journal.append(facts.clone()).await {
            Ok(_) => stored.extend(facts),
            Err(error) => break error,
        }
        assert!(stored.len() < 100_000, "the limit was never reached");
    };
    assert_eq!(error, StoreError::Full);
    // A smaller one would fit, and would come after the lost one: it is refused.
    assert_eq!(journal.append(vec![claim(1, 9, 9)]).await, Err(StoreError::Stopped));
    drop(journal);
    let (journal, facts) = open(&path);
    assert_eq!(facts, stored);
    journal.append(vec![claim(1, 9, 9)]).await.expect("there is room again");
}

#[tokio::test]
async fn appends_queued_behind_one_that_fails_are_refused_too() {
    let (_directory, path) = fresh();
    let options = Options {
        max_bytes: Some(200_000),
        ..Options::default()
    };
    let (journal, _) = Journal::<NodeFact>::open_with(&path, options).expect("opens");
    let mut waiting = Vec::new();
    for i in 0..2_000u32 {
        let (tell, told) = tokio::sync::oneshot::channel();
        journal.append_then(vec![claim(1, i + 1, i64::from(i)); 3], move |outcome| {
            let _ = tell.send(outcome);
        });
        waiting.push(told);
    }
    let mut outcomes = Vec::new();
    for told in waiting {
        outcomes.push(told.await.expect("answered").is_ok());
    }
    let stored = outcomes.iter().take_while(|ok| **ok).count();
    assert!(
        stored < 2_000 && outcomes[stored..].iter().all(|ok| !ok),
        "nothing is stored after a failure"
    );
    drop(journal);
    let expected: Vec<NodeFact> = (0..stored as u32)
        .flat_map(|i| vec![claim(1, i + 1, i64::from(i)); 3])
        .collect();
    assert_eq!(open(&path).1, expected);
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    let (_directory, path) = fresh();
    let (journal, _) = open(&path);
    let facts: Vec<NodeFact> = (0..2_000).map(|i| claim(1, i + 1, i64::from(i))).collect();
    journal.append(facts).await.expect("appends");
    drop(journal);
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("a file");
    let length = file.metadata().expect("a length").len();
    file.seek(SeekFrom::Start(length / 2 / 4096 * 4096)).expect("inside");
    file.write_all(&[0xA5; 4096]).expect("written");
    drop(file);
    let before = std::fs::read(&path).expect("a file");
    let error = Journal::<NodeFact>::open(&path).expect_err("damaged");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("a file"), before);
}

#[test]
fn a_file_that_is_no_journal_is_refused() {
    let (directory, path) = fresh();
    std::fs::write(
        &path,
        "notes about relays, much longer than a header of a hundred bytes ".repeat(40),
    )
    .expect("written");
    assert!(matches!(
        Journal::<NodeFact>::open(&path),
        Err(OpenError::Corrupt { .. })
    ));
    assert!(matches!(
        Journal::<NodeFact>::open(directory.path()),
        Err(OpenError::NotWritable {
            kind: std::io::ErrorKind::IsADirectory,
            ..
        })
    ));
    let nowhere = directory.path().join("no/such/journal.sqlite");
    let error = Journal::<NodeFact>::open(&nowhere).expect_err("no directory");
    assert!(
        error.to_string().contains("permissions") && error.to_string().contains("no/such"),
        "{error}"
    );
}

#[test]
fn a_relays_journal_is_not_a_clients() {
    let (_directory, path) = fresh();
    drop(open(&path));
    let error = Journal::<PayerFact>::open(&path).expect_err("a relay's");
    assert!(
        matches!(&error, OpenError::OtherKind { found, wanted: "client", .. } if found == "relay"),
        "{error}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_can_read_it_even_if_others_could_before() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, path) = fresh();
    let (journal, _) = open(&path);
    journal.append(vec![claim(1, 1, 1)]).await.expect("appends");
    for entry in std::fs::read_dir(directory.path()).expect("a directory") {
        let mode = entry
            .expect("a file")
            .metadata()
            .expect("its mode")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0);
    }
    drop(journal);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("opened up");
    drop(open(&path));
    assert_eq!(
        std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn secrets_and_settings_are_kept_and_a_secret_is_never_replaced() {
    let (_directory, path) = fresh();
    let (journal, _) = open(&path);
    journal.keep_secret("escrow", &[1], b"seed one").await.expect("kept");
    journal
        .keep_secret("escrow", &[1], b"seed one")
        .await
        .expect("the same again");
    assert_eq!(
        journal.keep_secret("escrow", &[1], b"another").await,
        Err(StoreError::Conflict)
    );
    // A failed write of this kind does not stop the journal.
    journal.append(vec![claim(1, 1, 1)]).await.expect("appends");
    journal.keep_secret("escrow", &[2], b"seed two").await.expect("kept");
    journal
        .keep_secret("other", &[1], b"of another kind")
        .await
        .expect("kept");
    journal.forget_secret("escrow", &[2]).await.expect("forgotten");
    journal.set("cursor", Some(b"17")).await.expect("set");
    journal.set("cursor", Some(b"18")).await.expect("set");
    journal.set("gone", Some(b"x")).await.expect("set");
    journal.set("gone", None).await.expect("removed");
    drop(journal);
    let (journal, _) = open(&path);
    let secrets = journal.secrets("escrow").await.expect("read");
    assert_eq!(
        secrets
            .iter()
            .map(|(id, s)| (id.as_slice(), s.as_slice()))
            .collect::<Vec<_>>(),
        [(&[1][..], &b"seed one"[..])]
    );
    assert_eq!(journal.get("cursor").await, Ok(Some(b"18".to_vec())));
    assert_eq!(journal.get("gone").await, Ok(None));
}

#[tokio::test]
async fn an_audit_finds_entries_that_were_changed() {
    let (_directory, path) = fresh();
    let (journal, _) = open(&path);
    let facts = vec![
        believed(1, Owner::Client),
        claim(1, 1, 500),
        allocated(1, 7, 300),
        spent(7, 200, 100),
    ];
    journal.append(facts).await.expect("appends");
    journal.audit().await.expect("the books add up");
    drop(journal);
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute(
        "UPDATE entries SET stroops = stroops + 1 WHERE debit = (SELECT id FROM accounts WHERE name = 'held')
             AND credit = (SELECT id FROM accounts WHERE name = 'earned')",
        [],
    )
    .expect("changed");
    drop(db);
    let (journal, _) = open(&path);
    let error = journal.audit().await.expect_err("changed").to_string();
    assert!(error.contains("earned") || error.contains("held"), "{error}");
}
