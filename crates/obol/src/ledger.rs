//! `obol ledger`: the embedded Stellar ledger, by itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use obol_ledger::{Closing, Ledger, LedgerConfig, Storage, server};

#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
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

pub(crate) async fn run(args: LedgerArgs) -> anyhow::Result<ExitCode> {
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
    println!("friendbot      {}/friendbot?addr=G...", server.url());
    println!("passphrase     {}", ledger.passphrase());
    println!("This is a test ledger: its money is worth nothing. Ctrl-C ends it.");
    crate::asked_to_end().await;
    server.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
