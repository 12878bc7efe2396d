//! `obol config`: check a configuration, print the complete commented ones, explain a key.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use obol_client::ClientConfig;
use obol_relay::config::Config;

/// The complete configuration of a relay, every key with its meaning.
const RELAY: &str = include_str!("../../../node.toml");
/// The complete configuration of a client.
const CLIENT: &str = include_str!("../../../client.toml");

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration and say whether a relay or a client can use it.
    #[command(after_help = "Examples:\n  obol config check node.toml\n  obol config check client.toml")]
    Check {
        /// The file: a client's names a state_directory, a relay's a data_directory.
        file: PathBuf,
    },
    /// Print node.toml or client.toml: every key with its default and its meaning.
    #[command(after_help = "Examples:\n  obol config example > node.toml\n  obol config example client > client.toml")]
    Example {
        /// Whose.
        #[arg(default_value = "relay")]
        of: Of,
    },
    /// Say what a key means, and what it is by default.
    #[command(after_help = "Examples:\n  obol config explain payments.price_per_64_kib\n  obol config explain budget")]
    Explain {
        /// The key, with its section or without: payments.escrows.margin, or margin.
        key: String,
    },
}

/// Whose configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Of {
    /// node.toml
    Relay,
    /// client.toml
    Client,
}

impl Of {
    fn file(self) -> &'static str {
        match self {
            Of::Relay => "node.toml",
            Of::Client => "client.toml",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Of::Relay => RELAY,
            Of::Client => CLIENT,
        }
    }
}

pub(crate) fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check { file } => {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let table: toml::Table = toml::from_str(&text).with_context(|| format!("{} is no TOML", file.display()))?;
            if table.contains_key("state_directory") {
                let config = ClientConfig::load(&file)?;
                println!("{}: good; a client, SOCKS at {}", file.display(), config.socks.listen);
            } else {
                let config = Config::load(&file)?;
                println!("{}: good; relay {}", file.display(), config.nickname);
            }
        }
        ConfigCommand::Example { of } => print!("{}", of.text()),
        ConfigCommand::Explain { key } => {
            let found: Vec<_> = [Of::Relay, Of::Client]
                .into_iter()
                .flat_map(|of| keys(of.text()).into_iter().map(move |known| (of, known)))
                .filter(|(_, known)| known.is_called(&key))
                .collect();
            if found.is_empty() {
                bail!(
                    "no configuration has a key {key}: `obol config example` and `obol config example client` print all of them"
                );
            }
            for (n, (of, known)) in found.iter().enumerate() {
                if n > 0 {
                    println!();
                }
                println!("{}  {}", of.file(), known.path);
                println!("{}", known.meaning);
                match known.is_absent {
                    true => println!("absent by default; for instance: {}", known.value),
                    false => println!("default: {}", known.value),
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A key as the complete configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    /// With its sections.
    path: String,
    /// The comment above it.
    meaning: String,
    /// What is written there.
    value: String,
    /// Whether the line is a comment itself: absent by default.
    is_absent: bool,
}

impl Key {
    fn is_called(&self, name: &str) -> bool {
        self.path == name || self.path.ends_with(&format!(".{name}"))
    }
}

/// A key's name and value, if the line has them.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(" = ")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then_some((name, value))
}

/// All keys of a complete configuration, in their order.
fn keys(text: &str) -> Vec<Key> {
    let (mut all, mut section, mut comment) = (Vec::<Key>::new(), String::new(), Vec::new());
    let mut of_section = Vec::new();
    let mut commented_before = false;
    for line in text.lines() {
        let (bare, is_comment) = match line.strip_prefix('#') {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        let head = bare
            .trim()
            .trim_start_matches('[')
            .split(']')
            .next()
            .unwrap_or_default();
        if bare.starts_with('[') {
            section = format!("{head}.");
            of_section = std::mem::take(&mut comment);
            commented_before = false;
        } else if let Some((name, value)) = assignment(bare) {
            // Keys that follow each other without a comment in between share the one above, and the first may have its section's.
            if comment.is_empty() {
                comment = match all.last() {
                    Some(last) if commented_before => vec![last.meaning.clone()],
                    _ => of_section.clone(),
                };
            }
            all.push(Key {
                path: format!("{section}{name}"),
                meaning: comment.join("\n"),
                value: value.to_owned(),
                is_absent: is_comment,
            });
            comment.clear();
            commented_before = true;
        } else if is_comment {
            comment.push(bare.trim().to_owned());
        } else {
            comment.clear();
            commented_before = false;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_both_files_is_explained() {
        for (of, least) in [(Of::Relay, 80), (Of::Client, 25)] {
            let all = keys(of.text());
            assert!(all.len() >= least, "{}: {}", of.file(), all.len());
            for key in &all {
                assert!(
                    !key.meaning.is_empty() && !key.value.is_empty(),
                    "{}: {key:?}",
                    of.file()
                );
            }
        }
    }

    #[test]
    fn a_key_is_found_by_its_whole_name_and_by_its_last_part() {
        let all = keys(RELAY);
        let margin = all
            .iter()
            .find(|key| key.is_called("payments.escrows.margin"))
            .expect("it is there");
        assert!(margin.is_called("margin") && margin.is_called("escrows.margin") && !margin.is_called("argin"));
        let rate = all
            .iter()
            .find(|key| key.path == "bandwidth.rate")
            .expect("it is there");
        assert!(rate.is_absent && rate.value == "\"8 MiB\"");
    }

    #[test]
    fn the_client_s_complete_configuration_can_be_read() {
        ClientConfig::parse(CLIENT).expect("it is a configuration");
        // And with every optional key switched on, every key is known. Two witnesses have to be two servers.
        let whole: String = CLIENT
            .replace("\nurls = [", "\nurls = [\"https://horizon.example\", ")
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(bare) if assignment(bare).is_some() || bare.starts_with('[') => format!("{bare}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        ClientConfig::parse(&whole).expect("with every optional key, too");
    }
}
