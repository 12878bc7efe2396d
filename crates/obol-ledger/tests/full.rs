//! A disk without room: the ledger that could not be written did not close, nothing of it is seen, and it closes when there is room.
//!
//! The limit is the system's own on the size of a process's files, at which SQLite fails as on a full disk.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use obol_ledger::{Closing, Ledger, LedgerConfig, Storage, Submission};
use stellar_xdr::*;

const DIRECTORY: &str = "OBOL_TEST_FULL_DIRECTORY";

fn on(path: &Path) -> LedgerConfig {
    LedgerConfig {
        storage: Storage::Directory(path.to_owned()),
        closing: Closing::Manual,
        ..LedgerConfig::default()
    }
}

/// Not a test of its own: the process that runs out of room.
#[test]
fn the_process_without_room() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let ledger = Ledger::open(on(Path::new(&directory))).unwrap();
    let now = ledger.latest().close_time;
    let mut world = World { ledger, now };
    let (alice, bob) = (key(1), key(2));
    world.fund(&[&alice, &bob]);
    let (hash, before, held) = loop {
        let (before, held) = (world.ledger.latest(), world.balance(&bob));
        let paid = world.submit(&alice, vec![op(pay(&bob, Asset::Native, 7))], &[&alice]);
        let Submission::Pending { hash } = paid else {
            panic!("{paid:?}")
        };
        world.now += 6;
        match world.ledger.close(world.now) {
            Ok(closed) => println!("\nclosed {} {}", closed.sequence, hex::encode(closed.hash)),
            Err(error) => {
                println!("\nfailed {error}");
                break (hash, before, held);
            }
        }
    };
    // Again and again, as the ledger's clock does: nothing is seen of it, nothing of before is lost.
    for _ in 0..3 {
        world.now += 6;
        assert!(world.ledger.close(world.now).is_err());
        assert_eq!(world.ledger.latest(), before);
        assert_eq!(
            (world.balance(&bob), world.ledger.transaction(&hash).unwrap().is_some()),
            (held, false)
        );
    }
    println!("\nwaits");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    world.now += 6;
    let closed = world.ledger.close(world.now).unwrap();
    assert_eq!((closed.sequence, closed.transactions), (before.sequence + 1, 1));
    assert_eq!(world.balance(&bob), held + 7);
    println!("\nclosed {} {}", closed.sequence, hex::encode(closed.hash));
}

#[test]
fn a_ledger_that_has_no_room_on_the_disk_closes_when_there_is_some() {
    let directory = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes. A signal would end the process: it is to see the error.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 800; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["the_process_without_room", "--exact", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (mut told, mut failed) = (BTreeMap::new(), None);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((sequence, hash)) = line.strip_prefix("closed ").and_then(|closed| closed.split_once(' ')) {
            told.insert(sequence.parse::<u32>().unwrap(), hash.to_owned());
        } else if let Some(error) = line.strip_prefix("failed ") {
            failed = Some(error.to_owned());
        } else if line == "waits" {
            let made = Command::new("prlimit")
                .args(["--fsize=unlimited", "--pid", &child.id().to_string()])
                .status();
            assert!(made.expect("prlimit is a part of util-linux").success());
            writeln!(stdin).unwrap();
        }
    }
    assert!(child.wait().unwrap().success());
    let failed = failed.expect("it ran out of room");
    assert!(failed.starts_with("the ledger's database failed"), "{failed}");
    let ledger = Ledger::open(on(directory.path())).unwrap();
    assert_eq!(told.keys().next_back(), Some(&ledger.latest().sequence));
    for (sequence, hash) in told {
        assert_eq!(hex::encode(ledger.ledger(sequence).unwrap().unwrap().hash), hash);
    }
    assert_eq!(ledger.audit().unwrap().created_or_lost(), 0);
    same_as_recorded(&ledger);
}
