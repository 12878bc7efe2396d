//! `obol config`: check a relay's configuration, or print the complete commented one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use obol_relay::config::Config;

/// The complete configuration, every key with its meaning.
const EXAMPLE: &str = include_str!("../../../node.toml");

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration and say whether a relay can use it.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print node.toml: every key with its default and its meaning.
    Example,
}

pub(crate) fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check { file } => {
            let config = Config::load(&file)?;
            println!("{}: good; relay {}", file.display(), config.nickname);
        }
        ConfigCommand::Example => print!("{EXAMPLE}"),
    }
    Ok(ExitCode::SUCCESS)
}
