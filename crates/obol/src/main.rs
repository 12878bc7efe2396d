//! The `obol` program: `demo`, `network`, `relay`, `client`, `ledger`, `wallet`, `bench`, `config`.

mod ask;
mod bench;
mod client;
mod config;
mod demo;
mod doctor;
mod health;
mod ledger;
mod log;
mod network;
mod relay;
mod shell;
mod wallet;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use log::Log;

/// A Tor relay that is paid by the byte, and a client that pays.
#[derive(Debug, Parser)]
#[command(name = "obol", version, about, arg_required_else_help = true)]
struct Cli {
    /// What to write to standard error, for instance `info` or `obol_relay=debug`. Default: warnings.
    #[arg(long, global = true, value_name = "FILTER", env = "OBOL_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Download a file through three paid relays on this machine, and show who was paid what.
    #[command(
        after_help = "Examples:\n  obol demo\n  obol demo --size 512MiB --relays 5 --processes\n  \
                            obol demo --file video.mkv --json"
    )]
    Demo(DemoArgs),
    /// Bring the whole network up and keep it running until Ctrl-C.
    #[command(
        after_help = "Examples:\n  obol network --keep ./net\n  arti -c ./net/arti.toml proxy   # a stock client, unpaid"
    )]
    Network(NetworkArgs),
    /// Run one relay.
    #[command(after_help = "Example:\n  obol relay --config node.toml")]
    Relay(relay::RelayArgs),
    /// Run the paying SOCKS proxy.
    #[command(after_help = "Example:\n  obol client --config client.toml")]
    Client(client::ClientArgs),
    /// Run the embedded Stellar ledger with its Horizon-compatible server. For tests and demonstrations.
    #[command(after_help = "Example:\n  obol ledger --listen 127.0.0.1:8000 --keep ./ledger")]
    Ledger(ledger::LedgerArgs),
    /// Keys, balances, escrows; the books and their backup; of a client or a relay.
    #[command(
        subcommand,
        after_help = "Examples:\n  obol wallet show --config client.toml\n  obol wallet fund --config client.toml\n  \
                      obol wallet audit --config node.toml"
    )]
    Wallet(wallet::WalletCommand),
    /// Measure what a relay costs, beside C Tor and beside what must be done at least.
    #[command(
        subcommand,
        after_help = "Examples:\n  obol bench relay\n  obol bench relay --json --runs 5 --svg relay.svg"
    )]
    Bench(bench::BenchCommand),
    /// Check a configuration, print the complete commented ones, or explain a key.
    #[command(
        subcommand,
        after_help = "Examples:\n  obol config check node.toml\n  obol config example > node.toml\n  \
                      obol config explain payments.escrows.margin"
    )]
    Config(config::ConfigCommand),
    /// Say what is wrong with a relay or a client, and how to mend it. Exits with 1 if anything is.
    #[command(after_help = "Examples:\n  obol doctor --config node.toml\n  obol doctor --config client.toml --json")]
    Doctor(doctor::DoctorArgs),
    /// Ask a running relay, client or ledger whether it answers; exit code 0 if it does.
    #[command(after_help = "Examples:\n  obol health --config node.toml\n  obol health --ledger 127.0.0.1:8000")]
    Health(health::HealthArgs),
    /// Print what a shell completes commands with.
    #[command(after_help = "Example:\n  obol completions bash > /etc/bash_completion.d/obol")]
    Completions(shell::Completions),
    /// Write the manual pages.
    #[command(after_help = "Example:\n  obol man ./man && man ./man/obol-relay.1")]
    Man(shell::Man),
}

/// What the network and the demonstration share.
#[derive(Debug, Clone, Args)]
struct NetworkArgs {
    /// How many relays; at least 3.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=64))]
    relays: u16,
    /// Run every relay as a process of its own.
    #[arg(long)]
    processes: bool,
    /// Keep keys, configurations, journals and logs in this directory (default: a temporary one, deleted at the end).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct DemoArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// The file to download (default: a generated one).
    #[arg(long, value_name = "PATH", conflicts_with = "size")]
    file: Option<PathBuf>,
    /// The size of the generated file, for instance 64MiB or 1GB.
    #[arg(long, value_name = "N", default_value = "64MiB", value_parser = parse_size)]
    size: u64,
    /// Print one JSON object at the end instead of the progress and the table.
    #[arg(long)]
    json: bool,
}

/// Reads `64MiB`, `1GB`, `500000`: bytes, with decimal or binary units.
fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size: write for instance 64MiB"))?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        other => return Err(format!("`{other}` is not a unit: use B, kB, MB, GB, KiB, MiB or GiB")),
    };
    match number.checked_mul(factor) {
        Some(0) => Err("a size of zero bytes leaves nothing to download".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err(format!("`{text}` is larger than can be counted")),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = match Log::start(cli.log.as_deref()) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("obol: {}", with_causes(&error));
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("obol: the asynchronous runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Network(args) => network::run(args).await,
            Command::Relay(args) => relay::run(args, log).await,
            Command::Client(args) => client::run(args).await,
            Command::Ledger(args) => ledger::run(args).await,
            Command::Wallet(command) => wallet::run(command).await,
            Command::Bench(command) => bench::run(command).await,
            Command::Config(command) => config::run(command),
            Command::Doctor(args) => doctor::run(args).await,
            Command::Health(args) => health::run(&args),
            Command::Completions(args) => Ok(shell::completions(&args, Cli::command())),
            Command::Man(args) => shell::man(&args, Cli::command()),
        }
    });
    // Whatever still runs belongs to what just ended: it is not waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("obol: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, each once: many errors name theirs themselves.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(cause.trim_end()) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text.trim_end().to_owned()
}

/// Ends when the user or the system asks this process to end.
async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_size(" 500 "), Ok(500));
        for bad in ["", "MiB", "12 parsecs", "0", "99999999999999GiB", "-1"] {
            assert!(parse_size(bad).is_err(), "{bad:?} was taken for a size");
        }
    }

    #[test]
    fn fewer_than_three_relays_are_refused() {
        assert!(Cli::try_parse_from(["obol", "demo", "--relays", "2"]).is_err());
        assert!(Cli::try_parse_from(["obol", "demo", "--file", "a", "--size", "1MiB"]).is_err());
    }
}
