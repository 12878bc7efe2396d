//! `obol bench latency`: how long a small request takes alone, and beside bulk downloads through the same relays.
//!
//! The small requests and the bulk come from two clients, each with a link of its own to the guard.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::chain::Chain;
use crate::ctor::{CTor, Scheduler};
use crate::error::BenchError;
use crate::lane::{Lane, LaneError};
use crate::origin::Origin;
use crate::ours::{Money, Ours};
use crate::report::{machine, percentile};

/// Between two small requests.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);
/// Bulk is asked for in pieces of this size, until the small requests are through.
pub(crate) const PIECE: u64 = 32 << 20;

/// Whose relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// Ours, paid.
    Ours,
    /// Ours without payments.
    Unpaid,
    /// C Tor's, with the scheduler that is cheapest.
    CTorVanilla,
    /// C Tor's, with the scheduler that is its default.
    CTorKist,
}

impl Contender {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Contender::Ours => "Obol, paid",
            Contender::Unpaid => "Obol, payments off",
            Contender::CTorVanilla => "C Tor, Vanilla",
            Contender::CTorKist => "C Tor, KIST",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program.
    pub program: PathBuf,
    /// Where everything puts its files.
    pub directory: PathBuf,
    /// How many small requests.
    pub requests: usize,
    /// Bytes that each asks for.
    pub bytes: u64,
    /// Circuits with bulk beside them.
    pub bulk: usize,
    /// Whether C Tor is measured too.
    pub ctor: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Latency {
    /// Whose relays.
    pub who: Contender,
    /// Seconds that each request took with nothing beside it.
    pub alone: Vec<f64>,
    /// And beside the bulk.
    pub beside: Vec<f64>,
    /// What the bulk got, bytes per second.
    pub bulk_bytes_per_second: f64,
}

/// Running relays of either kind.
pub(crate) enum Running {
    /// Ours.
    Ours(Box<Ours>),
    /// C Tor's.
    CTor(CTor),
}

impl Running {
    /// Three relays. `None`, and `told` hears why: C Tor, and what it needs is not here.
    pub(crate) async fn start(
        who: Contender,
        program: &std::path::Path,
        directory: &std::path::Path,
        told: &mut impl FnMut(&str),
    ) -> Result<Option<Running>, BenchError> {
        told(&format!("starting three relays: {}", who.name()));
        let directory = directory.join(format!("{who:?}").to_lowercase());
        let ours = |money| Ours::start(program, &directory, money);
        let scheduler = match who {
            Contender::Ours => return Ok(Some(Running::Ours(Box::new(ours(Money::Grown).await?)))),
            Contender::Unpaid => return Ok(Some(Running::Ours(Box::new(ours(Money::Off).await?)))),
            Contender::CTorVanilla => Scheduler::Vanilla,
            Contender::CTorKist => Scheduler::Kist,
        };
        match CTor::start(&directory, scheduler) {
            Ok(ctor) => Ok(Some(Running::CTor(ctor))),
            Err(error) if error.is_missing() => {
                told(&format!("C Tor is left out: {error}"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn chain(&self) -> Chain {
        match self {
            Running::Ours(ours) => ours.chain,
            Running::CTor(ctor) => ctor.chain,
        }
    }

    /// A client of its own.
    pub(crate) fn lane(&self, circuits: usize, origin: SocketAddr, runtime: &Handle) -> Result<Lane<'_>, LaneError> {
        let money = match self {
            Running::Ours(ours) => ours.till()?.map(|parts| (parts, ours.as_ref())),
            Running::CTor(_) => None,
        };
        Lane::open(self.chain(), circuits, origin, money, runtime.clone())
    }

    pub(crate) async fn stop(self) {
        if let Running::Ours(ours) = self {
            ours.stop().await;
        }
    }
}

/// Measures one after the other.
///
/// # Errors
/// See [`BenchError`]. Where `tor` or `cc` is missing, C Tor is left out, and `told` hears of it.
pub async fn run(options: Options, mut told: impl FnMut(&str)) -> Result<Vec<Latency>, BenchError> {
    let origin = Origin::start().await?;
    let mut who = vec![Contender::Ours, Contender::Unpaid];
    if options.ctor {
        who.extend([Contender::CTorVanilla, Contender::CTorKist]);
    }
    let mut all = Vec::new();
    for who in who {
        let Some(running) = Running::start(who, &options.program, &options.directory, &mut told).await? else {
            continue;
        };
        told(&format!("asking for a little: {}", who.name()));
        let (options, address, runtime) = (options.clone(), origin.address(), Handle::current());
        let work = tokio::task::spawn_blocking(move || {
            let measured = measure(&options, who, &running, address, &runtime);
            (measured, running)
        });
        let (measured, running) = work.await.map_err(|_| BenchError::Panicked)?;
        running.stop().await;
        all.push(measured.map_err(|error| BenchError::Lane {
            whose: who.name(),
            error,
        })?);
    }
    Ok(all)
}

fn measure(
    options: &Options,
    who: Contender,
    running: &Running,
    origin: SocketAddr,
    runtime: &Handle,
) -> Result<Latency, LaneError> {
    let mut small = running.lane(1, origin, runtime)?;
    let mut bulk = running.lane(options.bulk, origin, runtime)?;
    small.small_requests(20, options.bytes, PAUSE)?;
    let alone = small.small_requests(options.requests, options.bytes, PAUSE)?;
    bulk.warm_up(0, PIECE)?;
    let (beside, speed) = beside(&mut small, &mut bulk, options.requests, options.bytes)?;
    Ok(Latency {
        who,
        alone,
        beside,
        bulk_bytes_per_second: speed,
    })
}

/// Small requests on one lane while the other downloads without end; and what the other got, bytes per second.
pub(crate) fn beside(
    small: &mut Lane<'_>,
    bulk: &mut Lane<'_>,
    requests: usize,
    bytes: u64,
) -> Result<(Vec<f64>, f64), LaneError> {
    let through = AtomicBool::new(false);
    let (took, got) = std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let (began, before) = (Instant::now(), bulk.driver().received());
            while !through.load(Ordering::Relaxed) {
                bulk.download(PIECE)?;
            }
            let got = bulk.driver().received() - before;
            Ok::<f64, LaneError>(got as f64 / began.elapsed().as_secs_f64())
        });
        let took = small.small_requests(requests, bytes, PAUSE);
        through.store(true, Ordering::Relaxed);
        (took, loading.join())
    });
    let got = got.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok((took?, got?))
}

/// For programs.
pub fn json(all: &[Latency], options: &Options) -> Value {
    let figures = |took: &[f64]| json!({ "p50_s": percentile(took, 0.5), "p99_s": percentile(took, 0.99) });
    let rows = all.iter().map(|latency| {
        json!({
            "relays": latency.who,
            "alone": figures(&latency.alone),
            "beside_bulk": figures(&latency.beside),
            "bulk_bytes_per_second": latency.bulk_bytes_per_second,
        })
    });
    json!({
        "machine": machine(),
        "requests": options.requests,
        "request_bytes": options.bytes,
        "bulk_circuits": options.bulk,
        "relays": rows.collect::<Vec<_>>(),
    })
}

/// For people.
pub fn text(all: &[Latency], options: &Options) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "{} bytes, {} times         alone p50      p99     beside {} bulk circuits p50      p99        bulk\n",
        options.bytes, options.requests, options.bulk
    );
    for latency in all {
        let ms = |took: &[f64], share| percentile(took, share).map_or(f64::NAN, |s| s * 1e3);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<24}{:11.2} ms{:6.2} ms{:29.2} ms{:6.2} ms{:7.1} MB/s",
            latency.who.name(),
            ms(&latency.alone, 0.5),
            ms(&latency.alone, 0.99),
            ms(&latency.beside, 0.5),
            ms(&latency.beside, 0.99),
            latency.bulk_bytes_per_second / 1e6,
        );
    }
    text
}
