//! Power loss: whatever of the writes since the last sync got to the disk, torn and in any order, what was acknowledged is
//! there, nothing is there in part, and the books are proved.
//!
//! The journal runs on a file layer that records writes and syncs (`layer.rs`). From that record the content of the disk is made
//! as it may be after a loss of power at any moment, and opened as a start would open it. Sound, because a disk promises
//! nothing but that what was synced is there and that a sector is whole; and every promise of SQLite's (that it syncs the log
//! before it answers, and the file before it reuses the log) is put to the test by it.

mod layer;

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::History;
use layer::{Layer, Told};
use obol_store::{Journal, Options};
use obol_toll::fact::NodeFact;
use rand::{RngExt as _, SeedableRng as _};

/// Lays the files down where a journal can be opened by the usual way.
fn lay_down(files: &BTreeMap<String, Vec<u8>>, at: &Path) {
    for ending in ["", "-wal", "-journal"] {
        let _ = std::fs::remove_file(PathBuf::from(format!("{}{ending}", at.display())));
    }
    for (name, content) in files {
        let ending = ["-wal", "-journal"]
            .into_iter()
            .find(|ending| name.ends_with(ending))
            .unwrap_or("");
        std::fs::write(PathBuf::from(format!("{}{ending}", at.display())), content).expect("written");
    }
}

#[test]
fn what_was_acknowledged_survives_any_loss_of_power() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let layer = Layer::default();
    sqlite_vfs::register("recording", layer.clone(), false).expect("registered");
    let directory = tempfile::tempdir().expect("a directory");
    let (path, found) = (
        directory.path().join("journal.sqlite"),
        directory.path().join("found.sqlite"),
    );
    let options = Options {
        // Checkpoints of ours, and SQLite's of its log, come several times in a run.
        checkpoint_every: Some(100),
        vfs: Some("recording"),
        ..Options::default()
    };

    let (mut before, mut appended) = (BTreeMap::new(), Vec::<Vec<NodeFact>>::new());
    let mut history = History::new(seed);
    let mut losses = 0;
    for _ in 0..5 {
        layer::begin(&layer, before.clone());
        // A run of a process, which ends by itself: its last writes are those of a clean end.
        let (journal, _) = Journal::<NodeFact>::open_with(&path, options).expect("opens");
        for _ in 0..300 {
            let facts = history.next();
            appended.push(facts.clone());
            let (number, layer) = (appended.len() as u64, layer.clone());
            journal.append_then(facts, move |outcome| {
                outcome.expect("appends");
                layer.lock().told.push(Told::Acknowledged(number));
            });
        }
        drop(journal);
        let told = layer.lock().told.clone();
        assert!(
            told.iter().any(|one| matches!(one, Told::Sync { .. })),
            "something is synced"
        );
        for _ in 0..40 {
            let count = random.random_range(0..=told.len());
            let (files, acknowledged) = layer::after_power_loss(&before, &told, count, &mut random);
            let there = check(&files, &found, &appended);
            let already = appended.len() as u64 - 300;
            let known = if acknowledged == 0 { already } else { acknowledged };
            assert!(there >= known, "{known} appends were acknowledged, {there} are there");
            losses += 1;
        }
        // The next run goes on from one of these.
        let (files, _) = layer::after_power_loss(&before, &told, told.len(), &mut random);
        lay_down(&files, &found);
        before = BTreeMap::new();
        for (name, content) in files {
            before.insert(name, content);
        }
    }
    assert_eq!(losses, 200);
}

/// Opens what is on the disk; says how many appends are there, each whole, in order, with books that are proved.
fn check(files: &BTreeMap<String, Vec<u8>>, at: &Path, appended: &[Vec<NodeFact>]) -> u64 {
    lay_down(files, at);
    let (journal, _) = Journal::<NodeFact>::open(at).expect("opens after a loss of power");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let facts = runtime.block_on(journal.facts_from(1)).expect("reads");
    let report = runtime.block_on(journal.audit_report()).expect("reads");
    assert!(report.is_proved(), "{report}");
    let mut rest = facts.as_slice();
    let mut there = 0;
    for batch in appended {
        if rest.is_empty() {
            break;
        }
        assert!(rest.len() >= batch.len(), "append {} is there in part", there + 1);
        let (this, after) = rest.split_at(batch.len());
        assert!(
            this.iter().map(|(_, fact)| fact).eq(batch.iter()),
            "append {}",
            there + 1
        );
        rest = after;
        there += 1;
    }
    assert!(rest.is_empty(), "there is more than was appended");
    there
}
