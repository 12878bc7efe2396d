//! `obol bench crowd`: what paying circuits get beside a crowd of strangers whose client reads nothing, so that the windows of
//! all of them are full and what they asked for waits in the guard.
//!
//! The crowd has a link of its own; the paying circuits have two: one for bulk, one for small requests. All go through the same
//! three relays, and to the same origin.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::error::BenchError;
use crate::lane::{Lane, LaneError};
use crate::latency::{PAUSE, PIECE, beside};
use crate::origin::Origin;
use crate::ours::{Money, Ours};
use crate::report::{machine, percentile};
use crate::scale::allow_sockets;

/// What a stranger asks for: a little more than its windows let through. All that is beyond lies in the kernel's buffers
/// between exit and origin, of which all sockets of this machine share one allowance.
const WANTED: u64 = 256 << 10;
/// Bytes of a small request.
const REQUEST: u64 = 1000;
/// Circuits of the crowd that are built at once.
const AT_ONCE: usize = 256;
/// The crowd's windows are full when the exit has done nothing for so long.
const QUIET: Duration = Duration::from_millis(500);
/// A quiet relay uses at most such a share of a core.
const IDLE: f64 = 0.05;
/// How long they may take to fill.
const FILLING: Duration = Duration::from_secs(300);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program.
    pub program: PathBuf,
    /// Where everything puts its files.
    pub directory: PathBuf,
    /// Circuits of the crowd.
    pub circuits: usize,
    /// Paying circuits with bulk.
    pub bulk: usize,
    /// Small requests in each phase.
    pub requests: usize,
    /// Memory for queued cells in each relay, of which the unpaid class has a quarter.
    pub cell_memory: u64,
}

/// What the paying circuits got in one phase.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// Which.
    pub phase: &'static str,
    /// Payload of the bulk, bytes per second.
    pub bulk_bytes_per_second: f64,
    /// A small request, seconds: median and 99 of 100.
    pub small_requests: [f64; 2],
    /// Memory of guard, middle and exit at the end, bytes.
    pub resident: [u64; 3],
    /// Circuits that all three have killed for memory so far.
    pub killed: u64,
}

/// Measures.
///
/// # Errors
/// See [`BenchError`].
pub async fn run(options: Options, told: impl Fn(&str) + Send + 'static) -> Result<Vec<Phase>, BenchError> {
    allow_sockets(options.circuits)?;
    let origin = Origin::start().await?;
    told("starting three relays");
    let ours = Ours::start_with(&options.program, &options.directory, Money::Grown, options.cell_memory).await?;
    let (address, runtime) = (origin.address(), Handle::current());
    let work = tokio::task::spawn_blocking(move || {
        let measured = measure(&options, &ours, address, &runtime, &told);
        (measured, ours)
    });
    let (measured, ours) = work.await.map_err(|_| BenchError::Panicked)?;
    ours.stop().await;
    measured.map_err(|error| BenchError::Lane {
        whose: "Obol, paid",
        error,
    })
}

fn measure(
    options: &Options,
    ours: &Ours,
    origin: SocketAddr,
    runtime: &Handle,
    told: &impl Fn(&str),
) -> Result<Vec<Phase>, LaneError> {
    let chain = ours.chain;
    let paying = |circuits| {
        let money = ours.till()?.map(|parts| (parts, ours));
        Lane::open(chain, circuits, origin, money, runtime.clone())
    };
    let (mut small, mut bulk) = (paying(1)?, paying(options.bulk)?);
    told("warming up");
    small.small_requests(20, REQUEST, PAUSE)?;
    bulk.warm_up(PIECE, PIECE)?;
    let mut phase = |phase| -> Result<Phase, LaneError> {
        told(phase);
        let (took, speed) = beside(&mut small, &mut bulk, options.requests, REQUEST)?;
        let mut killed = 0.0;
        for relay in &ours.network.relays {
            let metric = relay.control.metric("obol_circuits_killed_memory_total");
            killed += runtime.block_on(metric).map_err(crate::ours::OursError::from)?;
        }
        Ok(Phase {
            phase,
            bulk_bytes_per_second: speed,
            small_requests: [0.5, 0.99].map(|share| percentile(&took, share).unwrap_or(f64::NAN)),
            resident: chain.resident()?,
            killed: killed as u64,
        })
    };
    let mut phases = vec![phase("alone")?];
    told("building the crowd's circuits");
    let mut crowd = Lane::open(chain, 1, origin, None, runtime.clone())?;
    crowd.grow(options.circuits, AT_ONCE, origin)?;
    for circuit in 0..options.circuits {
        crowd.driver().ask(circuit, WANTED);
    }
    crowd.driver().flush()?;
    phases.push(phase("while the crowd's windows fill")?);
    told("waiting until the crowd's windows are full");
    let began = Instant::now();
    loop {
        let before = chain.cpu()?;
        std::thread::sleep(QUIET);
        let after = chain.cpu()?;
        let used = (after[2] - before[2]).as_secs_f64() / QUIET.as_secs_f64();
        if used < IDLE || began.elapsed() > FILLING {
            break;
        }
    }
    phases.push(phase("beside full windows")?);
    Ok(phases)
}

/// For programs.
pub fn json(phases: &[Phase], options: &Options) -> Value {
    json!({
        "machine": machine(),
        "crowd_circuits": options.circuits,
        "paying_bulk_circuits": options.bulk,
        "cell_memory_bytes": options.cell_memory,
        "unpaid_cell_memory_bytes": options.cell_memory / 4,
        "phases": phases,
    })
}

/// For people.
pub fn text(phases: &[Phase], options: &Options) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "{} circuits that pay, beside {} that do not; {} MiB for cells, {} MiB of them for unpaid ones\n{:<32}{:>11}{:>24}{:>22}{:>10}\n",
        options.bulk + 1,
        options.circuits,
        options.cell_memory >> 20,
        options.cell_memory >> 22,
        "",
        "bulk MB/s",
        "1 kB p50, p99 ms",
        "MiB: guard, middle, exit",
        "killed",
    );
    for phase in phases {
        let [median, most] = phase.small_requests.map(|seconds| seconds * 1e3);
        let [guard, middle, exit] = phase.resident.map(|bytes| bytes >> 20);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<32}{:>11.1}{:>14.1}{:>10.1}{guard:>10}{middle:>6}{exit:>6}{:>10}",
            phase.phase,
            phase.bulk_bytes_per_second / 1e6,
            median,
            most,
            phase.killed,
        );
    }
    text
}
