//! `obol bench instructions`: instructions of a relayed cell, counted by valgrind. They are the same on a busy
//! machine, so that a regression shows where clocks are noise.
//!
//! Counted without sockets and TLS. valgrind knows no instructions for SHA or AES of 256 bits and more: what is
//! counted is the path that a processor without them takes.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::middle::Middle;

/// Cells of a batch: what a read of 64 KiB brings.
const BATCH: usize = 127;
/// Batches of the shorter and of the longer run; setting up is in both.
const BATCHES: [usize; 2] = [20, 120];

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One circuit with credit.
    Paid,
    /// One circuit without.
    Unpaid,
    /// A thousand circuits with credit, by turns.
    Many,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 3] = [Kind::Paid, Kind::Unpaid, Kind::Many];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Paid => "paid",
            Kind::Unpaid => "unpaid",
            Kind::Many => "many",
        }
    }
}

/// Why nothing was counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// valgrind is missing.
    #[error("`valgrind` is not installed: install the package valgrind to count instructions")]
    Missing,
    /// It ran and said nothing useful.
    #[error("valgrind failed: {0}")]
    Failed(String),
}

/// The counted program: forwards `batches` batches. False if the engine does not do what it should.
pub fn forward(kind: Kind, batches: usize) -> bool {
    let (circuits, paid) = match kind {
        Kind::Paid => (1, true),
        Kind::Unpaid => (1, false),
        Kind::Many => (1000, true),
    };
    let Some(mut middle) = Middle::new(circuits, paid) else {
        return false;
    };
    let mut batch = middle.batch(BATCH);
    (0..batches).all(|_| middle.forward(&mut batch) == batch.len())
}

/// The hidden command line that runs [`forward`].
pub const FORWARD: [&str; 2] = ["bench", "forward"];

/// Instructions per relayed cell.
///
/// # Errors
/// See [`CountError`].
pub fn per_cell(program: &Path, kind: Kind) -> Result<f64, CountError> {
    let [short, long] = BATCHES;
    let counted = count(program, kind, long)?.saturating_sub(count(program, kind, short)?);
    Ok(counted as f64 / ((long - short) * BATCH) as f64)
}

fn count(program: &Path, kind: Kind, batches: usize) -> Result<u64, CountError> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(FORWARD)
        .args([kind.name(), &batches.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CountError::Missing,
            _ => CountError::Failed(error.to_string()),
        })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    collected
        .filter(|_| output.status.success())
        .and_then(|(_, number)| number.trim().parse().ok())
        .ok_or_else(|| CountError::Failed(said.lines().last().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_forwards_all_its_cells() {
        for kind in Kind::ALL {
            assert!(forward(kind, 3), "{kind:?}");
        }
    }
}
