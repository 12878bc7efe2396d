//! `obol ledger`: the embedded Stellar ledger, by itself; `obol ledger replay`: how it compares with a real one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use obol_ledger::replay::{Recording, replay, replay_against};
use obol_ledger::{Closing, Ledger, LedgerConfig, Storage, server};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LedgerArgs {
    #[command(subcommand)]
    command: Option<LedgerCommand>,
    /// Where the Horizon-compatible server listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Keep the ledger in this directory (default: in memory, gone at the end).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Milliseconds from one ledger to the next.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    close_ms: u64,
    /// Let `POST /obol/advance` wind the ledger's clock forward.
    #[arg(long)]
    allow_advance: bool,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Replay what a real stellar-core answered, and compare every answer of this ledger with it.
    #[command(after_help = "Ends with `N of N agree`, and with exit code 0 only if all do.\n\n\
                            Example:\n  obol ledger replay stellar-core-classic.json --json > report.json")]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The recording.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Compare with the answers of this recording; FILE may then be a copy of it without any.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Write every answer and every difference as JSON.
    #[arg(long)]
    json: bool,
}

fn read_recording(path: &std::path::Path) -> anyhow::Result<Recording> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Recording::read(&text).with_context(|| path.display().to_string())
}

fn replay_file(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let recording = read_recording(&args.file)?;
    let report = match &args.against {
        None => replay(&recording)?,
        Some(path) => replay_against(&recording, &read_recording(path)?)?,
    };
    if args.json {
        println!("{}", report.json());
        eprintln!("{} of {} agree", report.agree, report.total);
    } else {
        println!("{report}");
    }
    Ok(if report.all_agree() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(crate) async fn run(args: LedgerArgs) -> anyhow::Result<ExitCode> {
    if let Some(LedgerCommand::Replay(args)) = &args.command {
        return replay_file(args);
    }
    let ledger = Ledger::open(LedgerConfig {
        storage: args.keep.map_or(Storage::Memory, Storage::Directory),
        closing: Closing::Every(Duration::from_millis(args.close_ms)),
        allow_advance: args.allow_advance,
        ..LedgerConfig::default()
    })
    .context("the ledger's state cannot be opened")?;
    let ledger = Arc::new(ledger);
    let server = server::serve(Arc::clone(&ledger), args.listen)
        .await
        .with_context(|| format!("cannot listen on {}: choose another address with --listen", args.listen))?;
    println!("Horizon API    {}", server.url());
    println!("Stellar RPC    {}/rpc", server.url());
    println!("friendbot      {}/friendbot?addr=G...", server.url());
    println!("passphrase     {}", ledger.passphrase());
    println!("This is a test ledger: its money is worth nothing. Ctrl-C ends it.");
    crate::asked_to_end().await;
    server.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
