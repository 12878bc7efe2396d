//! `obol demo`: the main job. A file comes through three paid relays; everybody is paid, on a ledger; nothing is lost.
//!
//! Parts: the network comes up, a download is paid for, a limited guard shows what payment buys, everything is settled and
//! audited. Each part adds to one report, and the exit code says whether all of it held.

mod contention;
mod download;
mod report;
mod settlement;
pub(crate) mod show;
pub(crate) mod workplace;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use obol_client::{ClientHandle, Pay};
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};

use crate::DemoArgs;
use report::Report;
use show::Show;
use workplace::Workplace;

/// Everything that runs while the demonstration does.
struct Stage {
    network: Network,
    origin: Origin,
    file: OriginFile,
    /// Pays.
    payer: ClientHandle,
    /// Never pays.
    free_rider: ClientHandle,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.file {
        // Before anything starts.
        let meta = std::fs::metadata(file).with_context(|| format!("cannot read {} (--file)", file.display()))?;
        ensure!(meta.is_file(), "{} is not a file (--file)", file.display());
        ensure!(
            meta.len() > 0,
            "{} is empty: there is nothing to download (--file)",
            file.display()
        );
    }
    let show = Show::new(args.json);
    let place = Workplace::new(args.network.keep.as_deref())?;
    let outcome = tokio::select! {
        outcome = whole(&args, &show, place.path()) => Some(outcome),
        () = crate::asked_to_end() => None,
    };
    let Some(outcome) = outcome else {
        // Dropping the parts has ended them; the temporary directory goes with `place`.
        eprintln!("obol: interrupted, everything is stopped");
        return Ok(ExitCode::from(130));
    };
    let report = outcome?;
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).context("the report as JSON")?
        );
    } else {
        report.print(&show);
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn whole(args: &DemoArgs, show: &Show, directory: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let stage = set_up(args, show, directory).await?;
    download::run(&stage, show, &mut report, args.network.processes).await?;
    contention::run(&stage, show, &mut report).await?;
    settlement::run(&stage, show, &mut report).await?;
    report.conclude();
    let wait = show.wait("ending everything");
    stage.payer.shutdown().await;
    stage.free_rider.shutdown().await;
    stage.network.stop().await;
    wait.finish_and_clear();
    Ok(report)
}

async fn set_up(args: &DemoArgs, show: &Show, directory: &Path) -> anyhow::Result<Stage> {
    show.part("A network on this machine");
    let wait = show.wait("starting");
    let file = match &args.file {
        Some(path) => OriginFile::existing(path, |_| {}).await?,
        None => {
            let path = directory.join("file");
            OriginFile::generate(&path, args.size, rand::random()).await?
        }
    };
    let origin = Origin::start(file.clone()).await?;
    let mut options = NetworkOptions::new(directory);
    options.relays = args.network.relays.into();
    options.relay_program = args
        .network
        .processes
        .then(std::env::current_exe)
        .transpose()
        .context("where is this program?")?;
    let network = Network::start(options, |stage| wait.suspend(|| show.line(&crate::network::say(stage)))).await?;
    wait.set_message("relays open escrows to each other; clients load the directory");
    let (payer, free_rider) = tokio::join!(
        network.client("client", Some(Pay::Always)),
        network.client("stranger", None)
    );
    let (payer, free_rider) = (payer?, free_rider?);
    settlement::wait_for_relay_escrows(&network).await?;
    wait.finish_and_clear();
    let n = network.relays.len();
    let stage = Stage {
        network,
        origin,
        file,
        payer,
        free_rider,
    };
    download::open_escrow(&stage, show).await?;
    show.line(&format!(
        "{} escrows between the relays are open; both clients are ready",
        n * (n - 1)
    ));
    Ok(stage)
}
