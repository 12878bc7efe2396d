//! `obol completions` and `obol man`: for shells and for `man`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// For which shell.
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory that gets the pages, one for each command; made if it is not there.
    directory: PathBuf,
}

pub(crate) fn completions(args: &Completions, mut command: Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "obol", &mut text);
    print!("{}", String::from_utf8_lossy(&text));
    ExitCode::SUCCESS
}

pub(crate) fn man(args: &Man, command: Command) -> anyhow::Result<ExitCode> {
    let directory = &args.directory;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("cannot write the pages into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
