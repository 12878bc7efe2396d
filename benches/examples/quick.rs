//! A small program for working on the data path: relays and benchmarks without the client, quicker to build than
//! `obol`.
//!
//! ```text
//! cargo build --release -p obol-bench --example quick
//! target/release/examples/quick [RUNS] [MiB] [ours,ctor,floor,unpaid,small]
//! target/release/examples/quick latency | scale [N,...] | crowd [N] | path | instructions
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use obol_bench::chain::Position;
use obol_bench::relay::{self, Options, Progress, Who};
use obol_bench::{crowd as crowds, floor, instructions, latency, path, report, scale};

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        // As `obol` is called by the harness.
        ["relay", "--end-with-input", "--config", file] => serve(file.into()),
        ["bench", "floor", position, port, circuits] => be_floor(position, port, circuits),
        ["bench", "forward", kind, batches] => forward(kind, batches),
        ["bench", "delay-line", at, to] => be_delay_line(at, to),
        ["latency"] => latencies(),
        ["scale"] => scales("1,10,100,1000,10000"),
        ["scale", circuits] => scales(circuits),
        ["path"] => paths(),
        ["crowd"] => crowd("10000"),
        ["crowd", circuits] => crowd(circuits),
        ["instructions"] => count(),
        _ => measure(&words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quick: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn serve(file: PathBuf) -> Result<(), Failed> {
    let config = obol_relay::config::Config::load(&file)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let relay = obol_relay::run::run(config).await?;
        let ended = tokio::task::spawn_blocking(|| {
            let mut buffer = [0; 64];
            while let Ok(1..) = std::io::Read::read(&mut std::io::stdin(), &mut buffer) {}
        });
        let _ = ended.await;
        relay.shutdown().await;
        Ok(())
    })
}

fn be_floor(position: &str, port: &str, circuits: &str) -> Result<(), Failed> {
    let position = Position::ALL.into_iter().find(|p| p.name() == position);
    Ok(floor::serve(
        position.ok_or("no such position")?,
        port.parse()?,
        circuits.parse()?,
    )?)
}

fn measure(words: &[&str]) -> Result<(), Failed> {
    let number = |at: usize, default: u64| words.get(at).map_or(Ok(default), |word| word.parse());
    let chosen = words.get(2).copied().unwrap_or("unpaid,floor");
    let name = |who: Who| match who {
        Who::Ours => "ours",
        Who::CTor => "ctor",
        Who::Floor => "floor",
        Who::Unpaid => "unpaid",
        Who::SmallSteps | Who::Paced => "small",
    };
    let directory = tempfile::tempdir()?;
    let options = Options {
        program: std::env::current_exe()?,
        directory: directory.path().to_owned(),
        runs: usize::try_from(number(0, 3)?)?,
        size: number(1, 256)? << 20,
        circuits: 8,
        who: Who::ALL
            .into_iter()
            .filter(|who| chosen.split(',').any(|word| word == name(*who)))
            .collect(),
        scheduler: Default::default(),
    };
    let outcome = tokio::runtime::Runtime::new()?.block_on(relay::run(options, |progress| match progress {
        Progress::Now(what) => eprintln!("{what}"),
        Progress::LeftOut(who, why) => eprintln!("{} is left out: {why}", who.name()),
        Progress::Measured(_) => {}
    }))?;
    println!("{}", report::relay_text(&outcome));
    Ok(())
}

fn forward(kind: &str, batches: &str) -> Result<(), Failed> {
    let kind = instructions::Kind::ALL.into_iter().find(|known| known.name() == kind);
    match instructions::forward(kind.ok_or("no such kind")?, batches.parse()?) {
        true => Ok(()),
        false => Err("the engine forwards nothing".into()),
    }
}

fn be_delay_line(at: &str, to: &str) -> Result<(), Failed> {
    Ok(path::delay_line(at.parse()?, to.parse()?)?)
}

fn count() -> Result<(), Failed> {
    for kind in instructions::Kind::ALL {
        let per_cell = instructions::per_cell(&std::env::current_exe()?, kind)?;
        println!("{:<8}{per_cell:10.1} instructions per relayed cell", kind.name());
    }
    Ok(())
}

fn latencies() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let options = latency::Options {
        program: std::env::current_exe()?,
        directory: directory.path().to_owned(),
        requests: 500,
        bytes: 1000,
        bulk: 8,
        ctor: true,
    };
    let all = tokio::runtime::Runtime::new()?.block_on(latency::run(options.clone(), |what| eprintln!("{what}")))?;
    println!("{}", latency::text(&all, &options));
    Ok(())
}

fn scales(circuits: &str) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let options = scale::Options {
        program: std::env::current_exe()?,
        directory: directory.path().to_owned(),
        circuits: circuits.split(',').map(str::parse).collect::<Result<_, _>>()?,
        size: 128 << 20,
        ctor: true,
    };
    let rows = tokio::runtime::Runtime::new()?.block_on(scale::run(options, |what| eprintln!("{what}")))?;
    println!("{}", scale::text(&rows));
    Ok(())
}

fn crowd(circuits: &str) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let options = crowds::Options {
        program: std::env::current_exe()?,
        directory: directory.path().to_owned(),
        circuits: circuits.parse()?,
        bulk: 1,
        requests: 300,
        cell_memory: 1 << 30,
    };
    let run = crowds::run(options.clone(), |told| eprintln!("{told}"));
    let phases = tokio::runtime::Runtime::new()?.block_on(run)?;
    print!("{}", crowds::text(&phases, &options));
    Ok(())
}

fn paths() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let options = path::Options {
        program: std::env::current_exe()?,
        directory: directory.path().to_owned(),
        runs: 1,
        ctor: true,
    };
    let rows = tokio::runtime::Runtime::new()?.block_on(path::run(options, |what| eprintln!("{what}")))?;
    println!("{}", path::text(&rows));
    Ok(())
}
