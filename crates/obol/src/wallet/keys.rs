//! Keys out of words (SEP-5).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use obol_stellar::key::account_text;
use obol_stellar::wallet::words::{Length, Phrase};

use super::secret;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Words {
    #[value(name = "12")]
    Twelve,
    #[value(name = "24")]
    TwentyFour,
}

/// Where the key goes, and which one it is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The key file to make; one that is there is never touched.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which of the phrase's accounts: the x of m/44'/148'/x'.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=0x7fff_ffff))]
    account: u32,
    /// The phrase has a passphrase of its own, which is asked for.
    #[arg(long)]
    passphrase: bool,
}

#[derive(Debug, Args)]
pub(crate) struct New {
    #[command(flatten)]
    place: Place,
    /// How many words.
    #[arg(long, value_enum, default_value = "24")]
    words: Words,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    place: Place,
}

pub(super) fn new(args: &New) -> anyhow::Result<ExitCode> {
    let length = match args.words {
        Words::Twelve => Length::Twelve,
        Words::TwentyFour => Length::TwentyFour,
    };
    let passphrase = if args.place.passphrase {
        secret::ask_new("passphrase")?
    } else {
        Default::default()
    };
    let phrase = Phrase::random(length)?;
    let account = save(&phrase, &passphrase, &args.place)?;
    eprintln!(
        "Write these words down, in this order, and show them to nobody. They are the money; they are not shown again:"
    );
    println!("{}", phrase.words());
    eprintln!("account   {account}");
    eprintln!("key file  {}", args.place.out.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn restore(args: &Restore) -> anyhow::Result<ExitCode> {
    let phrase = Phrase::parse(&secret::ask("phrase")?).context("this is no phrase of a wallet")?;
    let passphrase = if args.place.passphrase {
        secret::ask("passphrase")?
    } else {
        Default::default()
    };
    let account = save(&phrase, &passphrase, &args.place)?;
    println!("account   {account}");
    println!("key file  {}", args.place.out.display());
    Ok(ExitCode::SUCCESS)
}

fn save(phrase: &Phrase, passphrase: &str, place: &Place) -> anyhow::Result<String> {
    let key = phrase.key(passphrase, place.account)?;
    let path: &Path = &place.out;
    key.save_new(path)?;
    Ok(account_text(&key.account()))
}
