//! docs/attacks.md against the sources: each test that it names exists, and each finding has its row.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document() -> String {
    fs::read_to_string(workspace().join("docs/attacks.md")).unwrap()
}

/// What stands between single backquotes and looks like a test: `crate path::of::test` or `crate::file path::of::test`.
fn tests_in(text: &str) -> Vec<(&str, &str)> {
    let spans = text.split('`').skip(1).step_by(2);
    let named = spans.filter_map(|span| {
        let (binary, test) = span.split_once(' ')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':' || c == '-';
        let is_test = binary.starts_with("obol") && binary.chars().all(plain) && test.chars().all(plain);
        is_test.then_some((binary, test))
    });
    named.collect()
}

/// The file of a module below `root`, or of the module that has it inline.
fn file_of(root: &Path, modules: &[&str]) -> Option<PathBuf> {
    for depth in (0..=modules.len()).rev() {
        let path = modules[..depth].iter().fold(root.to_owned(), |path, m| path.join(m));
        let candidates = match depth {
            0 => vec![root.join("lib.rs"), root.join("main.rs")],
            _ => vec![path.with_extension("rs"), path.join("mod.rs"), path.join("main.rs")],
        };
        // Modules within a file are only ever called `tests`.
        let inline = modules[depth..].iter().all(|m| *m == "tests");
        if let Some(found) = candidates.into_iter().find(|c| inline && c.is_file()) {
            return Some(found);
        }
    }
    None
}

/// Whether the file has a function of this name with a test's attribute.
fn has_test(file: &Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let after = line.find("fn ").map(|at| &line[at + 3..]);
        after
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    let is_test = |at: usize| {
        let before = lines[..at].iter().rev();
        let mut attributes = before.take_while(|l| l.starts_with("#[") || l.starts_with("//") || l.ends_with(")]"));
        attributes.any(|l| l.starts_with("#[test]") || l.starts_with("#[tokio::test"))
    };
    (0..lines.len()).any(|at| begins(lines[at]) && is_test(at))
}

fn exists(binary: &str, test: &str) -> bool {
    let (krate, target) = binary.split_once("::").map_or((binary, None), |(c, t)| (c, Some(t)));
    let root = workspace().join("crates").join(krate);
    let mut path: Vec<&str> = test.split("::").collect();
    let Some(name) = path.pop() else { return false };
    let file = match target {
        None => file_of(&root.join("src"), &path),
        Some(target) if path.is_empty() => file_of(&root.join("tests"), &[target]),
        Some(target) => file_of(&root.join("tests").join(target), &path),
    };
    file.is_some_and(|file| has_test(&file, name))
}

#[test]
fn every_test_that_the_table_of_attacks_names_exists() {
    let text = document();
    let named = tests_in(&text);
    assert!(named.len() > 150, "{} tests are named", named.len());
    let missing: BTreeSet<_> = named.iter().filter(|(binary, test)| !exists(binary, test)).collect();
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(exists("obol-toll::attacks", "a_test_that_is_not_there_is_missed"));
    assert!(exists("obol-toll", "sim::faults::invariants_hold_on_random_days"));
    for (binary, test) in [
        ("obol-toll", "sim::faults::invariants_hold_on_no_day"),
        // A function, and no test.
        ("obol-toll", "sim::faults::storm"),
        ("obol-toll", "sim::scenarios::invariants_hold_on_random_days"),
        ("obol-toll", "invariants_hold_on_random_days"),
        ("obol-toll::attacks", "exists"),
        ("obol-none", "sim::faults::invariants_hold_on_random_days"),
    ] {
        assert!(!exists(binary, test), "{binary} {test}");
    }
}

#[test]
fn every_finding_of_the_reviews_has_a_row_with_a_test_or_a_reason() {
    let text = document();
    let rows: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| Some((line.strip_prefix("| ")?.split_once(" | ")?.0, line)))
        .collect();
    let series = [("C", 5), ("H", 15), ("M", 16), ("L", 8), ("2.", 27), ("R", 18)];
    let findings = series
        .iter()
        .flat_map(|(s, last)| (1..=*last).map(move |n| format!("{s}{n}")));
    let mut by_id: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, line) in rows {
        by_id.entry(id).or_default().push(line);
    }
    for finding in findings {
        let rows = by_id.get(finding.as_str()).map_or(&[][..], Vec::as_slice);
        let [row] = rows else {
            panic!("{} rows for {finding}", rows.len());
        };
        let shown =
            !tests_in(row).is_empty() || row.contains("| nothing to attack: ") || row.contains("| no attack, but ");
        assert!(shown, "{finding} has neither a test nor a reason why there is none");
    }
}
