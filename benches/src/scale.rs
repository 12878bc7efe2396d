//! `obol bench scale`: what a circuit costs when there are many, idle and busy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::error::BenchError;
use crate::lane::{Lane, LaneError};
use crate::latency::{Contender, Running};
use crate::origin::Origin;
use crate::report::{machine, percentile};

/// Handshakes under way at once.
const AT_ONCE: usize = 64;
/// How long idle circuits are watched.
const IDLE: Duration = Duration::from_secs(2);
/// Small requests, and the pause between them.
const REQUESTS: usize = 200;
const REQUEST: u64 = 1000;
const PAUSE: Duration = Duration::from_millis(5);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program.
    pub program: PathBuf,
    /// Where everything puts its files.
    pub directory: PathBuf,
    /// Numbers of circuits, rising.
    pub circuits: Vec<usize>,
    /// Payload that busy circuits share.
    pub size: u64,
    /// Whether C Tor is measured too.
    pub ctor: bool,
}

/// So many circuits. Arrays are guard, middle, exit.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Whose relays.
    pub relays: Contender,
    /// How many circuits.
    pub circuits: usize,
    /// Bytes of memory more than without circuits, for each idle circuit.
    pub idle_bytes_per_circuit: [f64; 3],
    /// CPU seconds per second, all idle.
    pub idle_cpu: [f64; 3],
    /// A small request beside them, seconds: median and 99 of 100.
    pub idle_latency: [f64; 2],
    /// CPU seconds for each cell towards the client, all busy.
    pub busy_cpu_per_cell: [f64; 3],
    /// Most memory while busy, for each circuit.
    pub busy_bytes_per_circuit: [f64; 3],
    /// A small request beside them, seconds.
    pub busy_latency: [f64; 2],
    /// Payload bytes per second, all busy.
    pub busy_bytes_per_second: f64,
}

/// Measures one after the other; `told` hears what is going on.
///
/// # Errors
/// See [`BenchError`].
pub async fn run(options: Options, mut told: impl Fn(&str) + Clone + Send + 'static) -> Result<Vec<Row>, BenchError> {
    allow_sockets(options.circuits.iter().max().copied().unwrap_or(0))?;
    let origin = Origin::start().await?;
    let mut who = vec![Contender::Unpaid];
    if options.ctor {
        who.push(Contender::CTorVanilla);
    }
    let mut rows = Vec::new();
    for who in who {
        let Some(running) = Running::start(who, &options.program, &options.directory, &mut told).await? else {
            continue;
        };
        let (options, told, address, runtime) = (options.clone(), told.clone(), origin.address(), Handle::current());
        let work = tokio::task::spawn_blocking(move || {
            let measured = measure(&options, who, &running, address, &runtime, &told);
            (measured, running)
        });
        let (measured, running) = work.await.map_err(|_| BenchError::Panicked)?;
        running.stop().await;
        rows.extend(measured.map_err(|error| BenchError::Lane {
            whose: who.name(),
            error,
        })?);
    }
    Ok(rows)
}

/// The exit and the origin have a socket for each circuit; children inherit the limit.
pub(crate) fn allow_sockets(circuits: usize) -> Result<(), BenchError> {
    let wanted = 2 * circuits as u64 + 1024;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted), hard).map_err(|error| BenchError::System {
            what: "raising the limit of open files",
            error: error.into(),
        })?;
    }
    Ok(())
}

fn measure(
    options: &Options,
    who: Contender,
    running: &Running,
    origin: SocketAddr,
    runtime: &Handle,
    told: &impl Fn(&str),
) -> Result<Vec<Row>, LaneError> {
    let chain = running.chain();
    let mut small = running.lane(1, origin, runtime)?;
    small.small_requests(20, REQUEST, PAUSE)?;
    let without = chain.resident()?;
    let mut lane = running.lane(1, origin, runtime)?;
    let mut rows = Vec::new();
    for circuits in options.circuits.iter().copied() {
        told(&format!("{}: {circuits} circuits", who.name()));
        lane.grow(circuits, AT_ONCE, origin)?;
        let more =
            |now: [u64; 3]| std::array::from_fn(|at| now[at].saturating_sub(without[at]) as f64 / circuits as f64);
        let (cpu, began) = (chain.cpu()?, Instant::now());
        std::thread::sleep(IDLE);
        let (after, watched) = (chain.cpu()?, began.elapsed().as_secs_f64());
        let idle_bytes_per_circuit = more(chain.resident()?);
        let idle_cpu = std::array::from_fn(|at| (after[at] - cpu[at]).as_secs_f64() / watched);
        let idle_latency = both(&small.small_requests(REQUESTS, REQUEST, PAUSE)?);

        let busy = busy(&mut lane, &mut small, options.size)?;
        rows.push(Row {
            relays: who,
            circuits,
            idle_bytes_per_circuit,
            idle_cpu,
            idle_latency,
            busy_cpu_per_cell: busy.cpu_per_cell,
            busy_bytes_per_circuit: more(busy.most),
            busy_latency: both(&busy.latency),
            busy_bytes_per_second: busy.bytes_per_second,
        });
    }
    Ok(rows)
}

fn both(took: &[f64]) -> [f64; 2] {
    [0.5, 0.99].map(|share| percentile(took, share).unwrap_or(f64::NAN))
}

struct Busy {
    cpu_per_cell: [f64; 3],
    most: [u64; 3],
    latency: Vec<f64>,
    bytes_per_second: f64,
}

/// All circuits of a lane download; the other asks for a little meanwhile.
fn busy(lane: &mut Lane<'_>, small: &mut Lane<'_>, size: u64) -> Result<Busy, LaneError> {
    let chain = lane.chain;
    // As often as it takes to see them all busy for a while.
    let (cpu, began) = (chain.cpu()?, Instant::now());
    let (cells, bytes) = (lane.driver().received_cells(), lane.driver().received());
    let (mut latency, mut most) = (Vec::new(), chain.resident()?);
    std::thread::scope(|scope| -> Result<(), LaneError> {
        let loading = scope.spawn(|| lane.download(size));
        while !loading.is_finished() {
            latency.extend(small.small_requests(5, REQUEST, PAUSE)?);
            for (most, now) in most.iter_mut().zip(chain.resident()?) {
                *most = now.max(*most);
            }
        }
        loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let (after, wall) = (chain.cpu()?, began.elapsed().as_secs_f64());
    let cells = (lane.driver().received_cells() - cells) as f64;
    Ok(Busy {
        cpu_per_cell: std::array::from_fn(|at| (after[at] - cpu[at]).as_secs_f64() / cells),
        most,
        latency,
        bytes_per_second: (lane.driver().received() - bytes) as f64 / wall,
    })
}

/// For programs.
pub fn json(rows: &[Row], options: &Options) -> Value {
    json!({ "machine": machine(), "busy_payload_bytes": options.size, "rows": rows })
}

/// For people.
pub fn text(rows: &[Row]) -> String {
    use std::fmt::Write as _;
    let mut text = "                              idle                                   busy\n\
                    relays             circuits   KiB/circuit g/m/e     p50   p99 ms   us/cell g/m/e        \
                    KiB/circuit g/m/e     p50   p99 ms    MB/s\n"
        .to_owned();
    let three = |figures: [f64; 3], factor: f64| {
        let [guard, middle, exit] = figures.map(|figure| figure * factor);
        format!("{guard:6.1} {middle:6.1} {exit:6.1}")
    };
    let two = |figures: [f64; 2]| format!("{:7.2} {:7.2}", figures[0] * 1e3, figures[1] * 1e3);
    for row in rows {
        let cells = row.busy_cpu_per_cell.map(|cpu| cpu * 1e6);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<20}{:>7}  {}  {}  {:5.2} {:5.2} {:5.2}   {}  {}  {:6.1}",
            row.relays.name(),
            row.circuits,
            three(row.idle_bytes_per_circuit, 1.0 / 1024.0),
            two(row.idle_latency),
            cells[0],
            cells[1],
            cells[2],
            three(row.busy_bytes_per_circuit, 1.0 / 1024.0),
            two(row.busy_latency),
            row.busy_bytes_per_second / 1e6,
        );
    }
    text
}
