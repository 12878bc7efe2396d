//! `obol wallet`: keys, what there is and what is locked where, money in and out, the books and their backup.

mod books;
mod keys;
mod money;
mod secret;
pub(crate) mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Whose wallet.
#[derive(Debug, Clone, Args)]
pub(crate) struct Whose {
    /// A client's or a relay's configuration (client.toml, node.toml), whose wallet this is.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WalletCommand {
    /// Make a wallet: a phrase of words to write down, and the key file that follows from it (SEP-5).
    #[command(after_help = "Example:\n  obol wallet new --out wallet.seed")]
    New(keys::New),
    /// Make the key file again from its phrase, which is read from the terminal or from standard input.
    #[command(after_help = "Example:\n  obol wallet restore --out wallet.seed < phrase.txt")]
    Restore(keys::Restore),
    /// Show what the wallet holds, and what is locked where and until when.
    #[command(after_help = "Example:\n  obol wallet show --config client.toml")]
    Show(Whose),
    /// Show how to send money to the wallet: its address, a payment request (SEP-7) and its QR code.
    #[command(after_help = "Examples:\n  obol wallet fund --config client.toml --amount 25\n  \
                            obol wallet fund --config node.toml --lumens --svg fund.svg")]
    Fund(money::Fund),
    /// Show what the asset's issuer can do to it, and what it says of it (SEP-1).
    #[command(after_help = "Example:\n  obol wallet issuer --config client.toml")]
    Issuer(Whose),
    /// Add the wallet's trust line to the asset, unless its issuer can freeze or claw back.
    #[command(after_help = "Example:\n  obol wallet trust --config client.toml")]
    Trust(money::Trust),
    /// Send money from the wallet's account.
    #[command(after_help = "Examples:\n  obol wallet send --config client.toml GABC... 12.5\n  \
                            obol wallet send --config client.toml GABC... 2 --lumens --memo invoice-7")]
    Send(money::Send),
    /// Take back escrows that have ended or expired, without their payees' help, and empty the one-time accounts into the wallet.
    #[command(after_help = "Example:\n  obol wallet take-back --config client.toml")]
    TakeBack(Whose),
    /// Prove the books, and explain them day by day. Exits with 1 if they are not proved.
    #[command(
        after_help = "Examples:\n  obol wallet audit --config node.toml\n  obol wallet audit --config node.toml --json"
    )]
    Audit(Whose),
    /// Write the books as CSV for accounting: carried, earned, settled with transaction hash, fees.
    #[command(after_help = "Example:\n  obol wallet csv --config node.toml --out 2026.csv")]
    Csv(books::Csv),
    /// Write an encrypted backup of the journal and the keys.
    #[command(after_help = "Example:\n  obol wallet export --config node.toml relay.obol-backup")]
    Export(books::Export),
    /// Make journal and keys from a backup. A new epoch begins: old escrows are closed, none is paid by any more.
    #[command(after_help = "Example:\n  obol wallet import --config node.toml relay.obol-backup")]
    Import(books::Import),
}

pub(crate) async fn run(command: WalletCommand) -> anyhow::Result<ExitCode> {
    match command {
        WalletCommand::New(args) => keys::new(&args),
        WalletCommand::Restore(args) => keys::restore(&args),
        WalletCommand::Show(whose) => money::show(&whose).await,
        WalletCommand::Fund(args) => money::fund(&args),
        WalletCommand::Issuer(whose) => money::issuer(&whose).await,
        WalletCommand::Trust(args) => money::trust(&args).await,
        WalletCommand::Send(args) => money::send(&args).await,
        WalletCommand::TakeBack(whose) => money::take_back(&whose).await,
        WalletCommand::Audit(whose) => books::audit(&whose).await,
        WalletCommand::Csv(args) => books::csv(&args).await,
        WalletCommand::Export(args) => books::export(&args).await,
        WalletCommand::Import(args) => books::import(&args).await,
    }
}
