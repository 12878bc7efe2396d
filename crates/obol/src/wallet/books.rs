//! The books: proved, explained, written for accounting, backed up.

use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use obol_stellar::Keypair;
use obol_store::{Accounting, Fact, Imported, Journal, Report, SecretFile};
use obol_toll::fact::{NodeFact, PayerFact};
use serde_json::json;
use zeroize::Zeroizing;

use super::Whose;
use super::secret;
use super::source::Source;

#[derive(Debug, Args)]
pub(crate) struct Csv {
    #[command(flatten)]
    whose: Whose,
    /// The file to write (default: standard output).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    whose: Whose,
    /// The backup to make. Its passphrase is read from the terminal or from standard input.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    whose: Whose,
    /// The backup. Its passphrase is read from the terminal or from standard input.
    file: PathBuf,
}

/// Runs `work` on the journal of a configuration, whichever kind it is, where it may block.
async fn on_journal<T: Send + 'static>(
    source: &Source,
    work: impl FnOnce(Opened) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let path = source.journal()?;
    let is_relay = matches!(source, Source::Relay(_));
    let running = tokio::runtime::Handle::current();
    let outcome = tokio::task::spawn_blocking(move || {
        let opened = if is_relay {
            Opened::Relay(Journal::open_existing(&path)?.0, running)
        } else {
            Opened::Client(Journal::open_existing(&path)?.0, running)
        };
        work(opened)
    });
    outcome.await.context("the journal's task was cut off")?
}

/// A journal of either kind.
enum Opened {
    Client(Journal<PayerFact>, tokio::runtime::Handle),
    Relay(Journal<NodeFact>, tokio::runtime::Handle),
}

impl Opened {
    fn report(&self) -> anyhow::Result<Report> {
        Ok(match self {
            Opened::Client(journal, running) => running.block_on(journal.audit_report())?,
            Opened::Relay(journal, running) => running.block_on(journal.audit_report())?,
        })
    }

    fn accounting(&self) -> anyhow::Result<Accounting> {
        Ok(match self {
            Opened::Client(journal, running) => running.block_on(journal.accounting())?,
            Opened::Relay(journal, running) => running.block_on(journal.accounting())?,
        })
    }

    fn export(&self, passphrase: &str, files: &[SecretFile], path: &Path) -> anyhow::Result<()> {
        match self {
            Opened::Client(journal, _) => journal.export_to(passphrase, files, path)?,
            Opened::Relay(journal, _) => journal.export_to(passphrase, files, path)?,
        }
        Ok(())
    }
}

pub(super) async fn audit(whose: &Whose) -> anyhow::Result<ExitCode> {
    let source = Source::load(&whose.config)?;
    let report = on_journal(&source, |journal| journal.report()).await?;
    if whose.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).context("the report as JSON")?
        );
    } else {
        print!("{report}");
    }
    Ok(if report.is_proved() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) async fn csv(args: &Csv) -> anyhow::Result<ExitCode> {
    let source = Source::load(&args.whose.config)?;
    let accounting = on_journal(&source, |journal| journal.accounting()).await?;
    match &args.out {
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            let mut out = BufWriter::new(file);
            accounting.write_csv(&mut out).and_then(|()| out.flush())
        }
        .with_context(|| format!("cannot write {}", path.display()))?,
        None => accounting.write_csv(std::io::stdout().lock()).context("cannot write")?,
    }
    for finding in &accounting.findings {
        eprintln!("the books are not proved: {}: {}", finding.place, finding.what);
    }
    Ok(if accounting.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) async fn export(args: &Export) -> anyhow::Result<ExitCode> {
    let source = Source::load(&args.whose.config)?;
    let mut files = Vec::new();
    for (name, path) in source.keys_to_back_up()? {
        // Read as a key first, so that a backup never holds something else.
        Keypair::load(&path)?;
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push(SecretFile {
            name,
            bytes: Zeroizing::new(bytes),
        });
    }
    let keys = files.len();
    let passphrase = secret::ask_new("passphrase")?;
    let file = args.file.clone();
    on_journal(&source, move |journal| journal.export(&passphrase, &files, &file)).await?;
    if args.whose.json {
        println!("{}", json!({ "backup": args.file, "keys": keys }));
    } else {
        println!("{}: the journal and {keys} keys", args.file.display());
        println!(
            "It is the money of this moment: make a new one often, and never run what it was made from once it is taken in."
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn import(args: &Import) -> anyhow::Result<ExitCode> {
    let source = Source::load(&args.whose.config)?;
    let keys = source.key_files()?;
    for (_, path) in &keys {
        ensure!(
            !path.exists(),
            "{} is there already: move it away, or give another configuration; nothing was changed",
            path.display()
        );
    }
    let passphrase = secret::ask("passphrase")?;
    let (journal, file) = (source.journal()?, args.file.clone());
    if let Some(directory) = journal.parent() {
        private_directory(directory)?;
    }
    let is_relay = matches!(source, Source::Relay(_));
    let imported = tokio::task::spawn_blocking(move || {
        let input = std::fs::File::open(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let input = BufReader::new(input);
        if is_relay {
            import_as::<NodeFact>(&journal, &passphrase, input, &keys)
        } else {
            import_as::<PayerFact>(&journal, &passphrase, input, &keys)
        }
    });
    let imported = imported.await.context("the import's task was cut off")??;
    if args.whose.json {
        println!(
            "{}",
            json!({ "epoch": imported.epoch, "facts": imported.facts, "sealed_escrows": imported.sealed })
        );
    } else {
        println!(
            "epoch {} begins, with {} facts; {} escrows are closed and no longer paid by",
            imported.epoch, imported.facts, imported.sealed
        );
        println!("Whatever the backup was made from must never run again.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Journal and keys out of a backup.
fn import_as<F: Fact>(
    journal: &Path,
    passphrase: &str,
    input: impl std::io::Read,
    keys: &[(String, PathBuf)],
) -> anyhow::Result<Imported> {
    let imported = Journal::<F>::import(journal, passphrase, input)?;
    for file in &imported.files {
        let Some((_, path)) = keys.iter().find(|(name, _)| *name == file.name) else {
            // Of another configuration: a payee account that this one does not name.
            eprintln!(
                "the backup has a key `{}` that this configuration does not name: it is left in the backup",
                file.name
            );
            continue;
        };
        let text = std::str::from_utf8(&file.bytes).ok().map(str::trim);
        let key = text.and_then(|text| Keypair::from_strkey(text).ok());
        let key = key.with_context(|| format!("the backup's key `{}` is none", file.name))?;
        if let Some(directory) = path.parent() {
            private_directory(directory)?;
        }
        key.save_new(path)?;
    }
    Ok(imported)
}

/// Makes a directory that only its owner can read, if it is not there.
fn private_directory(path: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}
