//! A ledger on disk: a restart continues it; a new one is another network.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod common;

use common::*;
use obol_ledger::{Closing, Ledger, LedgerConfig, Storage, StoreError};
use stellar_xdr::*;

fn on(path: &std::path::Path) -> LedgerConfig {
    LedgerConfig {
        storage: Storage::Directory(path.to_owned()),
        closing: Closing::Manual,
        ..LedgerConfig::default()
    }
}

#[test]
fn a_restart_continues_entries_history_clock_and_passphrase() {
    let directory = tempfile::tempdir().unwrap();
    let (alice, bob) = (key(1), key(2));
    let mut world = World::with(on(directory.path()));
    world.fund(&[&alice, &bob]);
    assert!(succeeded(&world.apply(
        &alice,
        vec![op(pay(&bob, Asset::Native, 5 * XLM))],
        &[&alice]
    )));
    world.now = world.ledger.advance(86_400, 3).unwrap().close_time;
    let (latest, passphrase, entries) = (
        world.ledger.latest(),
        world.ledger.passphrase().to_owned(),
        world.ledger.entries(),
    );
    let count = world.transactions();
    drop(world);

    let ledger = Ledger::open(on(directory.path())).unwrap();
    assert_eq!((ledger.latest(), ledger.passphrase()), (latest, passphrase.as_str()));
    assert_eq!(ledger.entries(), entries);
    assert!(ledger.now() >= latest.close_time, "the clock stays wound");
    let now = ledger.now();
    let mut world = World { ledger, now };
    assert_eq!(world.transactions(), count);
    assert!(succeeded(&world.apply(
        &bob,
        vec![op(pay(&alice, Asset::Native, XLM))],
        &[&bob]
    )));
    assert_eq!(world.ledger.latest().sequence, latest.sequence + 1);
    assert_eq!(
        world
            .ledger
            .ledger(latest.sequence + 1)
            .unwrap()
            .unwrap()
            .header
            .previous_ledger_hash,
        Hash(latest.hash)
    );
    assert_eq!(world.ledger.audit().unwrap().created_or_lost(), 0);
}

#[test]
fn two_processes_cannot_open_one_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let first = Ledger::open(on(directory.path())).unwrap();
    let second = Ledger::open(on(directory.path()));
    assert!(matches!(second, Err(StoreError::Database { .. })), "{second:?}");
    drop(first);
    Ledger::open(on(directory.path())).unwrap();
}

#[test]
fn every_new_ledger_is_a_network_of_its_own() {
    let (one, two) = (World::new(), World::new());
    assert_ne!(one.network(), two.network());
    assert!(one.ledger.passphrase().starts_with("Obol Test Network ; "));
    let exact = World::with(LedgerConfig {
        passphrase: "Standalone Network ; February 2017".to_owned(),
        exact_passphrase: true,
        ..LedgerConfig::default()
    });
    assert_eq!(exact.ledger.passphrase(), "Standalone Network ; February 2017");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let error = Ledger::open(on(&file)).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn a_full_ledger_takes_the_best_fees_and_charges_the_lowest_of_them() {
    let mut world = World::with(LedgerConfig {
        max_tx_set_ops: 2,
        ..LedgerConfig::default()
    });
    let people: Vec<_> = (1..=3).map(key).collect();
    for person in &people {
        world.fund(&[person]);
    }
    for (person, fee) in people.iter().zip([500, 200, 300]) {
        let tx = transaction(
            person,
            world.sequence(person) + 1,
            fee,
            vec![op(pay(person, Asset::Native, 1))],
        );
        let submission = world
            .ledger
            .submit(&bytes(signed(tx, world.network(), &[person])), world.now);
        assert!(
            matches!(submission, obol_ledger::Submission::Pending { .. }),
            "{submission:?}"
        );
    }
    let before: Vec<i64> = people.iter().map(|p| world.balance(p)).collect();
    let paid = |world: &World| -> Vec<i64> { people.iter().zip(&before).map(|(p, b)| b - world.balance(p)).collect() };
    world.close();
    assert_eq!(
        paid(&world),
        vec![300, 0, 300],
        "two had room, at the lower of their fees"
    );
    world.close();
    assert_eq!(paid(&world), vec![300, 100, 300], "the third pays the usual fee");
}
