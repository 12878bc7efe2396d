//! Secrets that people type: from the terminal without being shown, else from standard input; never from a flag.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context, ensure};
use zeroize::Zeroizing;

/// Longest line that is a secret, bytes.
const LONGEST: usize = 4096;

/// Asks for a secret.
pub(super) fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let typed = rpassword::prompt_password(format!("{prompt}: ")).context("the terminal cannot be read")?;
        return Ok(Zeroizing::new(typed));
    }
    let mut line = Zeroizing::new(String::with_capacity(LONGEST));
    let mut input = std::io::Read::take(stdin.lock(), LONGEST as u64);
    input.read_line(&mut line).context("standard input cannot be read")?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    ensure!(!line.is_empty(), "standard input has no {prompt}");
    Ok(line)
}

/// Asks for a new secret, twice on a terminal.
pub(super) fn ask_new(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    let first = ask(prompt)?;
    ensure!(!first.is_empty(), "an empty {prompt} protects nothing");
    if std::io::stdin().is_terminal() {
        let again = ask(&format!("{prompt} again"))?;
        ensure!(first == again, "the two are not the same: nothing was written");
    }
    Ok(first)
}
