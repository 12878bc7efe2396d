//! `obol bench`: what a relay costs, measured beside C Tor and beside what must be done at least.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;
use obol_bench::chain::Position;
use obol_bench::ctor::Scheduler;
use obol_bench::instructions::{self, Kind};
use obol_bench::relay::{self, Progress, Who};
use obol_bench::{crowd, latency, path, report, scale};

use crate::demo::workplace::Workplace;

/// The exit code when something that was asked for could not be measured, and the rest was.
const SKIPPED: u8 = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// CPU seconds per GB of our relays, C Tor's, and the floor, for guard, middle and exit.
    #[command(
        after_help = "Examples:\n  obol bench relay --runs 5\n  obol bench relay --json --svg relay.svg > relay.json\n  \
                      obol bench relay --runs 3 --size 128MiB --only unpaid,floor"
    )]
    Relay(RelayArgs),
    /// How long a small request takes, alone and beside bulk downloads, over our relays and over C Tor's.
    #[command(after_help = "Example:\n  obol bench latency --bulk 8 --requests 500")]
    Latency(LatencyArgs),
    /// What circuits cost when there are many: CPU per cell, memory per circuit, latency; idle and busy.
    #[command(after_help = "Example:\n  obol bench scale --circuits 1,10,100,1000,10000")]
    Scale(ScaleArgs),
    /// What paying circuits get beside thousands that do not pay and whose windows are full.
    #[command(after_help = "Example:\n  obol bench crowd --circuits 10000 --cell-memory 1GiB")]
    Crowd(CrowdArgs),
    /// Instructions of a forwarded cell, counted by valgrind: the same on a busy machine.
    #[command(after_help = "Example:\n  obol bench instructions --json")]
    Instructions(InstructionsArgs),
    /// One circuit over an emulated path of 100 Mbit/s and 100 ms: fixed windows, congestion control, C Tor. Needs
    /// root.
    #[command(after_help = "Example:\n  obol bench path --runs 3")]
    Path(PathArgs),
    /// The floor program itself: a child of `relay`.
    #[command(hide = true)]
    Floor(FloorArgs),
    /// The counted program itself: a child of `instructions`.
    #[command(hide = true)]
    Forward(ForwardArgs),
    /// The delay line itself: a child of `path`.
    #[command(hide = true)]
    DelayLine(DelayLineArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// How often each is measured, in turn.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Payload of each run.
    #[arg(long, value_name = "BYTES", default_value = "512MiB", value_parser = crate::parse_size)]
    size: u64,
    /// Circuits that carry it.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    circuits: u16,
    /// Measure only these.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHO")]
    only: Vec<Which>,
    /// C Tor's cell scheduler: the first is its cheapest, the second its default.
    #[arg(long, value_enum, default_value = "vanilla")]
    scheduler: CTorScheduler,
    /// Print one JSON object at the end instead of the table.
    #[arg(long)]
    json: bool,
    /// Draw the figures into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Keep keys, configurations, journals and logs in this directory (default: a temporary one, deleted at the end).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Small requests.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Bytes that each asks for.
    #[arg(long, value_name = "BYTES", default_value = "1kB", value_parser = crate::parse_size)]
    bytes: u64,
    /// Circuits with bulk beside them.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    bulk: u16,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Numbers of circuits.
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "1,10,100,1000,10000",
          value_parser = clap::value_parser!(u16).range(1..=20_000))]
    circuits: Vec<u16>,
    /// Payload that busy circuits share.
    #[arg(long, value_name = "BYTES", default_value = "128MiB", value_parser = crate::parse_size)]
    size: u64,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CrowdArgs {
    /// Circuits that do not pay.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    circuits: u16,
    /// Paying circuits with bulk; one more asks for a little.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    bulk: u16,
    /// Small requests in each phase.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Memory for queued cells in each relay; unpaid circuits have a quarter of it.
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = crate::parse_size)]
    cell_memory: u64,
    /// Print one JSON object at the end instead of the table.
    #[arg(long)]
    json: bool,
    /// Keep keys, configurations, journals and logs in this directory (default: a temporary one, deleted at the end).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Leave C Tor out.
    #[arg(long)]
    no_ctor: bool,
    /// Print one JSON object at the end instead of the table.
    #[arg(long)]
    json: bool,
    /// Keep keys, configurations, journals and logs in this directory (default: a temporary one, deleted at the end).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InstructionsArgs {
    /// Print one JSON object at the end instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PathArgs {
    /// How often each is measured, in turn.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DelayLineArgs {
    at: std::net::Ipv4Addr,
    to: std::net::SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    #[arg(value_enum)]
    kind: Circuits,
    batches: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Circuits {
    Paid,
    Unpaid,
    Many,
}

#[derive(Debug, Args)]
pub(crate) struct FloorArgs {
    #[arg(value_enum)]
    position: Place,
    port: u16,
    circuits: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Place {
    Guard,
    Middle,
    Exit,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CTorScheduler {
    Vanilla,
    Kist,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Our relays, paid, with grown steps.
    Ours,
    /// C Tor's relays.
    Ctor,
    /// What must be done at least.
    Floor,
    /// Our relays, without payments.
    Unpaid,
    /// Our relays, paid in steps of 64 KiB; with `unpaid` also without payments at the same pace.
    SmallSteps,
}

impl From<Which> for Who {
    fn from(which: Which) -> Who {
        match which {
            Which::Ours => Who::Ours,
            Which::Ctor => Who::CTor,
            Which::Floor => Who::Floor,
            Which::Unpaid => Who::Unpaid,
            Which::SmallSteps => Who::SmallSteps,
        }
    }
}

impl From<CTorScheduler> for Scheduler {
    fn from(scheduler: CTorScheduler) -> Scheduler {
        match scheduler {
            CTorScheduler::Vanilla => Scheduler::Vanilla,
            CTorScheduler::Kist => Scheduler::Kist,
        }
    }
}

pub(crate) async fn run(command: BenchCommand) -> anyhow::Result<ExitCode> {
    match command {
        BenchCommand::Relay(args) => relays(args).await,
        BenchCommand::Latency(args) => latencies(args).await,
        BenchCommand::Scale(args) => scales(args).await,
        BenchCommand::Crowd(args) => crowds(args).await,
        BenchCommand::Instructions(args) => count(&args),
        BenchCommand::Path(args) => paths(args).await,
        BenchCommand::DelayLine(args) => {
            path::delay_line(args.at, args.to)?;
            Ok(ExitCode::SUCCESS)
        }
        BenchCommand::Forward(args) => {
            let kind = match args.kind {
                Circuits::Paid => Kind::Paid,
                Circuits::Unpaid => Kind::Unpaid,
                Circuits::Many => Kind::Many,
            };
            let forwarded = instructions::forward(kind, args.batches);
            Ok(if forwarded {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        BenchCommand::Floor(args) => {
            let position = match args.position {
                Place::Guard => Position::Guard,
                Place::Middle => Position::Middle,
                Place::Exit => Position::Exit,
            };
            obol_bench::floor::serve(position, args.port, args.circuits)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Relays, floors and counted programs are this program.
fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("where is this program?")
}

/// What is going on, on a terminal; elsewhere nothing.
fn spinner() -> ProgressBar {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

async fn relays(args: RelayArgs) -> anyhow::Result<ExitCode> {
    let workplace = Workplace::new(args.keep.as_deref())?;
    let who: Vec<Who> = match args.only.is_empty() {
        true => Who::ALL.to_vec(),
        false => args
            .only
            .iter()
            .map(|which| (*which).into())
            .chain([Who::Paced])
            .collect(),
    };
    let options = relay::Options {
        program: this_program()?,
        directory: workplace.path().to_owned(),
        runs: args.runs.into(),
        size: args.size,
        circuits: args.circuits.into(),
        who,
        scheduler: args.scheduler.into(),
    };
    let bar = spinner();
    let (shown, quiet) = (bar.clone(), args.json);
    let outcome = relay::run(options, move |progress| match progress {
        Progress::Now(what) => shown.set_message(what.to_owned()),
        Progress::LeftOut(who, why) => shown.suspend(|| eprintln!("{} is left out: {why}", who.name())),
        Progress::Measured(measured) if !quiet => shown.suspend(|| {
            let [guard, middle, exit] = measured.cpu_s_per_gb;
            let speed = measured.carried.map_or(String::new(), |carried| {
                format!("{:8.1} MB/s", carried.bytes_per_second / 1e6)
            });
            println!(
                "run {:<3}{:<22}{guard:8.3}{middle:8.3}{exit:8.3}  {speed}",
                measured.run + 1,
                measured.who.name()
            );
        }),
        Progress::Measured(_) => {}
    })
    .await;
    bar.finish_and_clear();
    let outcome = outcome?;
    if let Some(path) = &args.svg {
        std::fs::write(path, obol_bench::picture::relay(&outcome))
            .with_context(|| format!("cannot write {} (--svg)", path.display()))?;
    }
    if args.json {
        let json = report::relay_json(&outcome, args.size, args.circuits.into());
        print(&json)?;
    } else {
        println!("\n{}", report::relay_text(&outcome));
    }
    Ok(ExitCode::from(if !outcome.left_out.is_empty() { SKIPPED } else { 0 }))
}

fn print(json: &serde_json::Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(json)?);
    Ok(())
}

/// Tells what is going on; what was left out stays on the screen.
fn teller(bar: &ProgressBar) -> impl Fn(&str) + Clone + Send + 'static {
    let bar = bar.clone();
    move |what| match what.contains("left out") {
        true => bar.suspend(|| eprintln!("{what}")),
        false => bar.set_message(what.to_owned()),
    }
}

async fn latencies(args: LatencyArgs) -> anyhow::Result<ExitCode> {
    let workplace = Workplace::new(args.common.keep.as_deref())?;
    let options = latency::Options {
        program: this_program()?,
        directory: workplace.path().to_owned(),
        requests: args.requests as usize,
        bytes: args.bytes,
        bulk: args.bulk.into(),
        ctor: !args.common.no_ctor,
    };
    let bar = spinner();
    let all = latency::run(options.clone(), teller(&bar)).await;
    bar.finish_and_clear();
    let all = all?;
    match args.common.json {
        true => print(&latency::json(&all, &options))?,
        false => println!("{}", latency::text(&all, &options)),
    }
    let skipped = options.ctor && all.iter().all(|latency| latency.who != latency::Contender::CTorVanilla);
    Ok(ExitCode::from(if skipped { SKIPPED } else { 0 }))
}

async fn scales(args: ScaleArgs) -> anyhow::Result<ExitCode> {
    let workplace = Workplace::new(args.common.keep.as_deref())?;
    let mut circuits: Vec<usize> = args.circuits.iter().map(|n| usize::from(*n)).collect();
    circuits.sort_unstable();
    circuits.dedup();
    let options = scale::Options {
        program: this_program()?,
        directory: workplace.path().to_owned(),
        circuits,
        size: args.size,
        ctor: !args.common.no_ctor,
    };
    let bar = spinner();
    let rows = scale::run(options.clone(), teller(&bar)).await;
    bar.finish_and_clear();
    let rows = rows?;
    match args.common.json {
        true => print(&scale::json(&rows, &options))?,
        false => println!("{}", scale::text(&rows)),
    }
    let skipped = options.ctor && rows.iter().all(|row| row.relays != latency::Contender::CTorVanilla);
    Ok(ExitCode::from(if skipped { SKIPPED } else { 0 }))
}

async fn crowds(args: CrowdArgs) -> anyhow::Result<ExitCode> {
    let workplace = Workplace::new(args.keep.as_deref())?;
    let options = crowd::Options {
        program: this_program()?,
        directory: workplace.path().to_owned(),
        circuits: args.circuits.into(),
        bulk: args.bulk.into(),
        requests: args.requests as usize,
        cell_memory: args.cell_memory,
    };
    let bar = spinner();
    let phases = crowd::run(options.clone(), teller(&bar)).await;
    bar.finish_and_clear();
    let phases = phases?;
    match args.json {
        true => print(&crowd::json(&phases, &options))?,
        false => println!("{}", crowd::text(&phases, &options)),
    }
    Ok(ExitCode::SUCCESS)
}

fn count(args: &InstructionsArgs) -> anyhow::Result<ExitCode> {
    let program = this_program()?;
    let mut figures = serde_json::Map::new();
    for kind in Kind::ALL {
        let per_cell = instructions::per_cell(&program, kind)?;
        if !args.json {
            println!("{:<8}{per_cell:10.1} instructions per relayed cell", kind.name());
        }
        figures.insert(kind.name().to_owned(), per_cell.into());
    }
    if args.json {
        print(&serde_json::json!({ "instructions_per_relayed_cell": figures }))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn paths(args: PathArgs) -> anyhow::Result<ExitCode> {
    let workplace = Workplace::new(args.common.keep.as_deref())?;
    let options = path::Options {
        program: this_program()?,
        directory: workplace.path().to_owned(),
        runs: args.runs.into(),
        ctor: !args.common.no_ctor,
    };
    let bar = spinner();
    let rows = path::run(options.clone(), teller(&bar)).await;
    bar.finish_and_clear();
    let rows = rows?;
    match args.common.json {
        true => print(&path::json(&rows))?,
        false => println!("{}", path::text(&rows)),
    }
    let skipped = options.ctor && rows.iter().all(|row| row.relays != latency::Contender::CTorVanilla);
    Ok(ExitCode::from(if skipped { SKIPPED } else { 0 }))
}
