//! A process that appends is killed at any moment: what it was told is durable is there, in order, and no half append.

mod common;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc;

use common::{JOURNAL, again, all_facts, audit, claim, line};
use obol_store::{Journal, Options};
use obol_toll::fact::NodeFact;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// How many facts append number `i` has: 1 to 7.
fn size_of(i: u64) -> u64 {
    i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61
}

/// Append number `i`: facts that name it, each other's place in it, and so all of it.
fn batch(i: u64) -> Vec<NodeFact> {
    (0..=size_of(i))
        .map(|place| claim(i as u8, i as u32, (i * 100 + place) as i64))
        .collect()
}

/// Not a test of its own: the process that is killed. It appends until it dies, several appends at a time, and says each
/// one's number once it is durable.
#[test]
fn appending_process() {
    let Some(path) = std::env::var_os(JOURNAL) else { return };
    // Checkpoints, too, are written at any moment.
    let options = Options {
        checkpoint_every: Some(500),
        ..Options::default()
    };
    let (journal, _) = Journal::<NodeFact>::open_with(&PathBuf::from(path), options).expect("opens");
    let mut next = whole_batches(&all_facts(&journal));
    println!("ready");
    loop {
        let (tell, told) = mpsc::channel();
        for _ in 0..5 {
            let (tell, number) = (tell.clone(), next);
            journal.append_then(batch(number), move |outcome| {
                outcome.expect("appends");
                tell.send(number).expect("heard");
            });
            next += 1;
        }
        drop(tell);
        for number in told {
            println!("durable {number}");
            std::io::stdout().flush().expect("flushed");
        }
    }
}

/// How many appends `facts` consist of; fails unless they are 0, 1, 2 ..., each whole.
fn whole_batches(facts: &[NodeFact]) -> u64 {
    let mut rest = facts;
    let mut number = 0;
    while !rest.is_empty() {
        let expected = batch(number);
        assert!(rest.len() >= expected.len(), "append {number} is there in part");
        assert_eq!(rest[..expected.len()], expected, "append {number}");
        rest = &rest[expected.len()..];
        number += 1;
    }
    number
}

#[test]
fn what_was_durable_survives_a_kill_and_no_append_is_there_in_part() {
    let seed: u64 = rand::rng().next_u64();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    let mut known = 0;
    for _ in 0..25 {
        let (mut child, mut output) = again("appending_process", &path);
        line(&mut output, "ready").expect("it started");
        for _ in 0..random.random_range(0..60) {
            let number: u64 = line(&mut output, "durable ")
                .expect("it appends")
                .parse()
                .expect("a number");
            known = known.max(number + 1);
        }
        child.kill().expect("killed");
        child.wait().expect("dead");
        // What it had said before it died counts too.
        while let Some(number) = line(&mut output, "durable ") {
            known = known.max(number.parse::<u64>().expect("a number") + 1);
        }
        let (journal, _) = Journal::<NodeFact>::open(&path).expect("opens after a kill");
        let found = whole_batches(&all_facts(&journal));
        assert!(found >= known, "{known} appends were durable, {found} are there");
        assert_eq!(audit(&journal), Ok(()), "after a kill");
        drop(journal);
    }
    assert!(known > 100, "the processes got somewhere: {known}");
}
