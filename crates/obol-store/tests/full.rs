//! A full disk: nothing acknowledged is lost, the process says what to do, and goes on when there is room.
//!
//! The disk is a small tmpfs in a mount namespace of the test's own, where the system lets it have one (as root, or with user
//! namespaces); elsewhere the journal's own limit stands for it, at which SQLite fails in the same way.

mod common;

use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{History, JOURNAL, all_facts, audit, line};
use obol_store::{Journal, OpenError, Options, StoreError};
use obol_toll::fact::NodeFact;

/// Says to the child that the directory is no small disk: it limits the journal instead.
const LIMIT: &str = "OBOL_TEST_LIMIT";

/// Not a test of its own: the process whose disk is full. Its directory has room for some appends only while `ballast` is there.
#[test]
fn filling_process() {
    let Some(path) = std::env::var_os(JOURNAL).map(PathBuf::from) else {
        return;
    };
    let limited = std::env::var_os(LIMIT).is_some();
    let ballast = path.with_file_name("ballast");
    std::fs::write(&ballast, vec![0xA5; 500_000]).expect("written");
    let options = Options {
        max_bytes: limited.then_some(300_000),
        checkpoint_every: Some(100),
        ..Options::default()
    };
    let mut history = History::new(5);
    let mut acknowledged: Vec<NodeFact> = Vec::new();
    let (journal, _) = Journal::<NodeFact>::open_with(&path, options).expect("opens");
    let error = loop {
        let facts = history.next();
        let (tell, told) = std::sync::mpsc::channel();
        journal.append_then(facts.clone(), move |outcome| tell.send(outcome).expect("heard"));
        match told.recv().expect("told") {
            Ok(_) => acknowledged.extend(facts),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 100_000, "the disk is never full");
    };
    println!("failed {error:?} {error}");
    drop(journal);
    // While it is full, a start either goes, or says why not.
    match Journal::<NodeFact>::open_existing_with(&path, options) {
        Ok((journal, _)) => {
            let there = all_facts(&journal);
            assert_eq!(
                there[..acknowledged.len().min(there.len())],
                acknowledged,
                "what was acknowledged is there"
            );
            println!("opened full");
        }
        Err(
            error @ (OpenError::NotWritable { .. }
            | OpenError::Failed {
                trouble: StoreError::Full,
                ..
            }),
        ) => {
            println!("opened not: {error}");
        }
        Err(error) => panic!("{error}"),
    }
    // Room is made, as the message says.
    std::fs::remove_file(&ballast).expect("removed");
    let (journal, _) = Journal::<NodeFact>::open_existing(&path).expect("opens when there is room");
    assert_eq!(all_facts(&journal), acknowledged);
    assert_eq!(audit(&journal), Ok(()));
    // The history of before is ahead of the journal, as the memory of a process that is restarted: another begins.
    let more = vec![NodeFact::Restarted];
    let (tell, told) = std::sync::mpsc::channel();
    journal.append_then(more, move |outcome| tell.send(outcome).expect("heard"));
    told.recv().expect("told").expect("it goes on");
    assert_eq!(audit(&journal), Ok(()));
    println!("goes on after {}", acknowledged.len());
}

/// How to run a program with a small disk mounted at `$1`, if the system lets us.
fn small_disk() -> Option<Vec<&'static str>> {
    let ways: [&[&str]; 2] = [
        &["unshare", "--mount"],
        &["unshare", "--user", "--map-root-user", "--mount"],
    ];
    let works = |way: &[&str]| {
        let run = Command::new(way[0])
            .args(&way[1..])
            .args(["mount", "-t", "tmpfs", "-o", "size=1m", "obol-test", "/mnt"])
            .stderr(Stdio::null())
            .status();
        run.is_ok_and(|status| status.success())
    };
    ways.into_iter().find(|way| works(way)).map(<[&str]>::to_vec)
}

#[test]
fn a_full_disk_loses_nothing_and_is_got_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = std::env::current_exe().expect("this program");
    let mut command = match small_disk() {
        Some(way) => {
            println!("on a disk of 1 MB");
            let mut command = Command::new(way[0]);
            command.args(&way[1..]).args(["sh", "-c"]);
            command.arg("mount -t tmpfs -o size=1m obol-test \"$0\" && exec \"$@\"");
            command.arg(directory.path()).arg(&program);
            command
        }
        None => {
            println!("no mounts are allowed here: at the journal's own limit");
            let mut command = Command::new(&program);
            command.env(LIMIT, "1");
            command
        }
    };
    let mut child = command
        .args(["filling_process", "--exact", "--nocapture", "--test-threads", "1"])
        .env(JOURNAL, directory.path().join("journal.sqlite"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let failed = line(&mut output, "failed ").expect("it fills the disk");
    assert!(failed.starts_with("Full") && failed.contains("make room"), "{failed}");
    let opened = line(&mut output, "opened ").expect("it tries to start");
    assert!(opened == "full" || opened.contains("space"), "{opened}");
    let after: u64 = line(&mut output, "goes on after ")
        .expect("it goes on")
        .parse()
        .expect("a number");
    assert!(after > 100, "{after} facts were acknowledged");
    assert!(child.wait().expect("ended").success());
}
