//! `obol bench relay`: the same bytes through our relays and through C Tor's, in turn, and what the floor needs for
//! them.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::chain::{Chain, Position};
use crate::ctor::{CTor, Scheduler};
use crate::error::BenchError;
use crate::floor::{self, RawCiphers};
use crate::lane::{Carried, Lane};
use crate::origin::Origin;
use crate::ours::{Money, Ours};
use crate::report::Spread;

/// Steps grow until as much again was bought: past this they are as large as relays sell.
const GROWN: u64 = 16 << 20;

/// So many times more circuits where steps are small.
const SLOWER: usize = 8;

/// Whose relays, in what state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Ours, paid, with grown steps.
    Ours,
    /// C Tor's.
    CTor,
    /// Nobody's: what must be done at least.
    Floor,
    /// Ours without payments.
    Unpaid,
    /// Ours, paid in steps of 64 KiB.
    SmallSteps,
}

impl Who {
    /// All, in the order of a run.
    pub const ALL: [Who; 5] = [Who::Ours, Who::CTor, Who::Floor, Who::Unpaid, Who::SmallSteps];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Who::Ours => "Obol, paid",
            Who::CTor => "C Tor",
            Who::Floor => "floor",
            Who::Unpaid => "Obol, payments off",
            Who::SmallSteps => "Obol, 64 KiB steps",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program, which runs relays with `relay` and floors with [`FLOOR`].
    pub program: PathBuf,
    /// Where everything puts its files.
    pub directory: PathBuf,
    /// How often.
    pub runs: usize,
    /// Bytes of payload for each run.
    pub size: u64,
    /// Circuits that share them.
    pub circuits: usize,
    /// Which of them.
    pub who: Vec<Who>,
    /// C Tor's scheduler.
    pub scheduler: Scheduler,
}

/// One measurement of one of them.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// The run, from 0.
    pub run: usize,
    /// Who.
    pub who: Who,
    /// CPU seconds per GB of payload: guard, middle, exit.
    pub cpu_s_per_gb: [f64; 3],
    /// The download; a floor has none.
    pub carried: Option<Carried>,
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// In the order in which it was.
    pub measured: Vec<Measured>,
    /// The bare ciphers.
    pub raw: RawCiphers,
    /// What `tor --version` says.
    pub tor: Option<String>,
    /// Why C Tor was left out, if it was wanted.
    pub tor_skipped: Option<String>,
}

impl Outcome {
    /// CPU seconds per GB of one of them at a position, run by run.
    pub fn cpu(&self, who: Who, position: Position) -> Vec<f64> {
        let of = self.measured.iter().filter(|measured| measured.who == who);
        of.map(|measured| measured.cpu_s_per_gb[position as usize]).collect()
    }

    /// Ratios of two of them at a position, pair by pair.
    pub fn ratios(&self, who: Who, to: Who, position: Position) -> Vec<f64> {
        let (these, those) = (self.cpu(who, position), self.cpu(to, position));
        these.iter().zip(those).map(|(this, that)| this / that).collect()
    }

    /// The downloads of one of them.
    pub fn carried(&self, who: Who) -> Vec<Carried> {
        let of = self.measured.iter().filter(|measured| measured.who == who);
        of.filter_map(|measured| measured.carried).collect()
    }

    /// Share of raw cipher speed that the floor reaches at a position.
    pub fn floor_share(&self, position: Position) -> Option<f64> {
        Spread::of(&self.cpu(Who::Floor, position)).map(|floor| self.raw.of(position) / floor.median)
    }
}

/// What happens, for people.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Something takes a while.
    Now(&'a str),
    /// C Tor is left out.
    Skipped(&'a str),
    /// Something was measured.
    Measured(&'a Measured),
}

/// Measures; `told` hears of everything.
///
/// # Errors
/// See [`BenchError`]. Without `tor` or `cc`, C Tor is left out and everything else measured.
pub async fn run(options: Options, mut told: impl FnMut(Progress<'_>) + Send + 'static) -> Result<Outcome, BenchError> {
    let wanted = |who: Who| options.who.contains(&who);
    let origin = Origin::start().await.map_err(|error| BenchError::System {
        what: "the origin server",
        error,
    })?;
    let mut networks = Vec::new();
    for (who, money) in [
        (Who::Ours, Money::Grown),
        (Who::Unpaid, Money::Off),
        (Who::SmallSteps, Money::SmallSteps),
    ] {
        if wanted(who) {
            told(Progress::Now(&format!("starting three relays: {}", who.name())));
            let directory = options.directory.join(format!("{who:?}").to_lowercase());
            networks.push((who, Ours::start(&options.program, &directory, money).await?));
        }
    }
    let (mut ctor, mut tor_skipped) = (None, None);
    if wanted(Who::CTor) {
        told(Progress::Now("starting three C Tor relays"));
        match CTor::start(&options.directory.join("ctor"), options.scheduler) {
            Ok(running) => ctor = Some(running),
            Err(error) if error.is_missing() => {
                let why = error.to_string();
                told(Progress::Skipped(&why));
                tor_skipped = Some(why);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let tor = ctor.as_ref().map(|ctor| ctor.version.clone());
    let runtime = Handle::current();
    let address = origin.address();
    let work = tokio::task::spawn_blocking(move || {
        let chain = ctor.as_ref().map(|ctor| ctor.chain);
        let measured = measure(&options, &networks, chain, address, &runtime, &mut told);
        (measured, networks)
    });
    let (measured, networks) = work.await.map_err(|_| BenchError::Panicked)?;
    for (_, network) in networks {
        network.stop().await;
    }
    Ok(Outcome {
        measured: measured?,
        raw: RawCiphers::measure(),
        tor,
        tor_skipped,
    })
}

fn measure(
    options: &Options,
    networks: &[(Who, Ours)],
    ctor: Option<Chain>,
    origin: std::net::SocketAddr,
    runtime: &Handle,
    told: &mut impl FnMut(Progress<'_>),
) -> Result<Vec<Measured>, BenchError> {
    let mut lanes: Vec<(Who, Lane<'_>)> = Vec::new();
    for who in Who::ALL {
        let over = |error| BenchError::Lane {
            whose: who.name(),
            error,
        };
        let network = networks.iter().find(|(whose, _)| *whose == who);
        let (chain, money) = match (network, ctor) {
            (Some((_, ours)), _) => (ours.chain, ours.till()?.map(|parts| (parts, ours))),
            (None, Some(chain)) if who == Who::CTor => (chain, None),
            _ => continue,
        };
        told(Progress::Now(&format!("warming up: {}", who.name())));
        let circuits = match who {
            // A circuit pays one step in a round trip: few circuits would be faster than they can pay.
            Who::SmallSteps => options.circuits * SLOWER,
            _ => options.circuits,
        };
        let mut lane = Lane::open(chain, circuits, origin, money, runtime.clone()).map_err(over)?;
        let bought = if who == Who::Ours { GROWN } else { 1 };
        lane.warm_up(bought, options.size.min(64 << 20)).map_err(over)?;
        lanes.push((who, lane));
    }
    let mut all = Vec::new();
    for run in 0..options.runs {
        for who in Who::ALL {
            let measured = if who == Who::Floor {
                if !options.who.contains(&who) {
                    continue;
                }
                told(Progress::Now(&format!("run {}: {}", run + 1, who.name())));
                Measured {
                    run,
                    who,
                    cpu_s_per_gb: floors(&options.program, options.size)?,
                    carried: None,
                }
            } else {
                let Some((_, lane)) = lanes.iter_mut().find(|(whose, _)| *whose == who) else {
                    continue;
                };
                told(Progress::Now(&format!("run {}: {}", run + 1, who.name())));
                let over = |error| BenchError::Lane {
                    whose: who.name(),
                    error,
                };
                let carried = lane.measure(options.size).map_err(over)?;
                Measured {
                    run,
                    who,
                    cpu_s_per_gb: carried.cpu_s_per_gb,
                    carried: Some(carried),
                }
            };
            told(Progress::Measured(&measured));
            all.push(measured);
        }
    }
    Ok(all)
}

/// The hidden command line that runs [`floor::serve`].
pub const FLOOR: [&str; 2] = ["bench", "floor"];

fn floors(program: &Path, size: u64) -> Result<[f64; 3], BenchError> {
    let mut floors = [0.0; 3];
    for (to, position) in floors.iter_mut().zip(Position::ALL) {
        *to = floor::measure(program, &FLOOR, position, size)
            .map(|floor| floor.cpu.as_secs_f64() / size as f64 * 1e9)
            .map_err(|error| BenchError::Floor { position, error })?;
    }
    Ok(floors)
}
