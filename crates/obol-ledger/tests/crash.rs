//! What a process that is killed, or a machine that loses its power, leaves on disk: the last whole ledger, never a part of one.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use obol_ledger::{Closing, Ledger, LedgerConfig, Page, Storage};
use stellar_xdr::*;

fn on(path: &Path) -> LedgerConfig {
    LedgerConfig {
        storage: Storage::Directory(path.to_owned()),
        closing: Closing::Manual,
        ..LedgerConfig::default()
    }
}

/// Every ledger's hash, by its sequence.
fn hashes(ledger: &Ledger) -> BTreeMap<u32, [u8; 32]> {
    let page = Page {
        cursor: 0,
        descending: false,
        limit: 100_000,
    };
    let records = ledger.ledgers(page).unwrap();
    records.iter().map(|r| (r.header.ledger_seq, r.hash)).collect()
}

/// Whole: every ledger follows the one before, every stroop is there, and the last transaction's history is, too.
fn is_whole(ledger: &Ledger) {
    let known = hashes(ledger);
    let latest = ledger.latest();
    assert_eq!(known.len(), latest.sequence as usize, "no ledger is missing");
    for sequence in 2..=latest.sequence {
        let header = ledger.ledger(sequence).unwrap().unwrap().header;
        assert_eq!(header.previous_ledger_hash.0, known[&(sequence - 1)]);
    }
    assert_eq!(ledger.audit().unwrap().created_or_lost(), 0);
    same_as_recorded(ledger);
}

/// One payment, one ledger.
fn step(world: &mut World, number: i64) {
    let (alice, bob) = (key(1), key(2));
    let paid = world.apply(&alice, vec![op(pay(&bob, Asset::Native, number))], &[&alice]);
    assert!(succeeded(&paid), "{paid:?}");
}

const DIRECTORY: &str = "OBOL_TEST_CRASH_DIRECTORY";

/// Not a test of its own: what the killed process does.
#[test]
fn the_process_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let ledger = Ledger::open(on(Path::new(&directory))).unwrap();
    let now = ledger.latest().close_time;
    let mut world = World { ledger, now };
    if world.ledger.account(&raw(&key(1))).is_none() {
        world.fund(&[&key(1), &key(2)]);
    }
    for number in 1.. {
        step(&mut world, number);
        let latest = world.ledger.latest();
        println!("closed {} {}", latest.sequence, hex::encode(latest.hash));
    }
}

#[test]
fn a_killed_process_has_kept_every_ledger_that_it_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let mut passphrase = None;
    // Killed after ever more ledgers: whatever it does at that moment is cut short.
    for round in 1..=8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["the_process_that_is_killed", "--exact", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut told = BTreeMap::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while told.len() < 3 * round {
            let line = lines.next().expect("it goes on until it is killed").unwrap();
            // The harness's own words may stand before ours.
            if let Some((_, closed)) = line.split_once("closed ") {
                let (sequence, hash) = closed.split_once(' ').unwrap();
                told.insert(sequence.parse::<u32>().unwrap(), hash.to_owned());
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some((_, closed)) = line.split_once("closed ")
                && let Some((sequence, hash)) = closed.split_once(' ')
                && hash.len() == 64
            {
                told.insert(sequence.parse().unwrap(), hash.to_owned());
            }
        }
        let ledger = Ledger::open(on(directory.path())).unwrap();
        let known = hashes(&ledger);
        for (sequence, hash) in &told {
            let kept = known.get(sequence).map(hex::encode);
            assert_eq!(kept.as_ref(), Some(hash), "ledger {sequence} of round {round}");
        }
        is_whole(&ledger);
        let before = passphrase.get_or_insert_with(|| ledger.passphrase().to_owned());
        assert_eq!(ledger.passphrase(), before, "the same network in round {round}");
    }
}

#[test]
fn a_write_that_is_torn_anywhere_leaves_the_last_whole_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::with(on(directory.path()));
    world.fund(&[&key(1), &key(2)]);
    // Closed, so that what follows is all there is in the log.
    drop(world);
    let ledger = Ledger::open(on(directory.path())).unwrap();
    let now = ledger.latest().close_time;
    let mut world = World { ledger, now };
    let first = world.ledger.latest().sequence;
    for number in 1..=12 {
        step(&mut world, number);
    }
    let known = hashes(&world.ledger);
    let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    let (database, log) = (read("ledger.sqlite"), read("ledger.sqlite-wal"));
    assert!(log.len() > 12 * 4096, "every ledger is in the log: {} bytes", log.len());

    let open = |log: &[u8]| -> u32 {
        let copy = tempfile::tempdir().unwrap();
        std::fs::write(copy.path().join("ledger.sqlite"), &database).unwrap();
        std::fs::write(copy.path().join("ledger.sqlite-wal"), log).unwrap();
        let ledger = Ledger::open(on(copy.path())).unwrap();
        for (sequence, hash) in hashes(&ledger) {
            assert_eq!(hash, known[&sequence], "ledger {sequence}");
        }
        is_whole(&ledger);
        // And it goes on from there.
        let latest = ledger.latest();
        let mut world = World {
            ledger,
            now: latest.close_time,
        };
        step(&mut world, 1);
        assert_eq!(world.ledger.latest().sequence, latest.sequence + 1);
        latest.sequence
    };
    let last = first + 12;
    assert_eq!(open(&log), last, "nothing is lost of a log that is whole");
    let mut reached = Vec::new();
    // Cut off at odd places, through headers and pages.
    for cut in (0..log.len()).step_by(log.len() / 40 + 1) {
        reached.push(open(&log[..cut]));
    }
    assert!(reached.is_sorted(), "{reached:?}");
    assert_eq!(
        (reached.first(), reached.last().map(|r| *r < last)),
        (Some(&first), Some(true))
    );
    assert!(reached.windows(2).filter(|w| w[0] < w[1]).count() >= 10, "{reached:?}");
    // Written out of order: a page in the middle never reached the disk, those after it did.
    for at in (100..log.len()).step_by(log.len() / 15 + 1) {
        let mut torn = log.clone();
        let end = (at + 512).min(torn.len());
        torn[at..end].fill(0xa5);
        let sequence = open(&torn);
        assert!(
            (first..last).contains(&sequence),
            "{sequence} with the log damaged at {at}"
        );
    }
}
