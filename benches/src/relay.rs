//! `obol bench relay`: the same bytes through our relays and through C Tor's, in turn, and what the floor needs for
//! them.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::chain::{Chain, Position};
use crate::ctor::{CTor, Scheduler};
use crate::error::BenchError;
use crate::floor::{self, RawCiphers};
use crate::lane::{Carried, Lane, LaneError};
use crate::origin::Origin;
use crate::ours::{Money, Ours};
use crate::report::Spread;

/// Steps grow until as much again was bought: past this they are as large as relays sell.
const GROWN: u64 = 16 << 20;

/// So many times more circuits where steps are small, and what each of them asks for at once: a circuit pays one step in a
/// round trip, and would else be faster than it can pay.
const MORE: usize = 8;
const PACE: u64 = 32 << 10;

/// Whose relays, in what state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Ours, paid, with grown steps.
    Ours,
    /// C Tor's.
    #[serde(rename = "ctor")]
    CTor,
    /// Nobody's: what must be done at least.
    Floor,
    /// Ours without payments.
    Unpaid,
    /// Ours, paid in steps of 64 KiB, at a pace that such payments can keep.
    SmallSteps,
    /// Ours without payments, at the same pace.
    Paced,
}

impl Who {
    /// All, in the order of a run.
    pub const ALL: [Who; 6] = [
        Who::Ours,
        Who::CTor,
        Who::Floor,
        Who::Unpaid,
        Who::SmallSteps,
        Who::Paced,
    ];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Who::Ours => "Obol, paid",
            Who::CTor => "C Tor",
            Who::Floor => "floor",
            Who::Unpaid => "Obol, payments off",
            Who::SmallSteps => "Obol, 64 KiB steps",
            Who::Paced => "Obol, off, same pace",
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
    /// Who was wanted and left out, and why.
    pub left_out: Vec<(Who, String)>,
}

impl Outcome {
    /// CPU seconds per GB of one of them at a position, run by run.
    pub fn cpu(&self, who: Who, position: Position) -> Vec<f64> {
        let of = self.measured.iter().filter(|measured| measured.who == who);
        of.map(|measured| measured.cpu_s_per_gb[position as usize]).collect()
    }

    /// Ratios of two of them at a position, pair by pair: of runs in which both were measured.
    pub fn ratios(&self, who: Who, to: Who, position: Position) -> Vec<f64> {
        let of = |who: Who| self.measured.iter().filter(move |measured| measured.who == who);
        let pair = |this: &Measured| {
            let that = of(to).find(|that| that.run == this.run)?;
            Some(this.cpu_s_per_gb[position as usize] / that.cpu_s_per_gb[position as usize])
        };
        of(who).filter_map(pair).collect()
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
    /// Somebody is left out.
    LeftOut(Who, &'a str),
    /// Something was measured.
    Measured(&'a Measured),
}

/// Measures; `told` hears of everything.
///
/// # Errors
/// See [`BenchError`]. Without `tor` or `cc`, C Tor is left out and everything else measured.
pub async fn run(options: Options, mut told: impl FnMut(Progress<'_>) + Send + 'static) -> Result<Outcome, BenchError> {
    let wanted = |who: Who| options.who.contains(&who);
    let origin = Origin::start().await?;
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
    let (mut ctor, mut left_out) = (None, Vec::new());
    if wanted(Who::CTor) {
        told(Progress::Now("starting three C Tor relays"));
        match CTor::start(&options.directory.join("ctor"), options.scheduler) {
            Ok(running) => ctor = Some(running),
            Err(error) if error.is_missing() => {
                let why = error.to_string();
                told(Progress::LeftOut(Who::CTor, &why));
                left_out.push((Who::CTor, why));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let tor = ctor.as_ref().map(|ctor| ctor.version.clone());
    let (runtime, circuits) = (Handle::current(), options.circuits);
    let address = origin.address();
    let work = tokio::task::spawn_blocking(move || {
        let chain = ctor.as_ref().map(|ctor| ctor.chain);
        let measured = measure(&options, &networks, chain, address, &runtime, &mut told, &mut left_out);
        (measured, networks, left_out)
    });
    let (measured, networks, left_out) = work.await.map_err(|_| BenchError::Panicked)?;
    for (_, network) in networks {
        network.stop().await;
    }
    Ok(Outcome {
        measured: measured?,
        raw: RawCiphers::measure(circuits),
        tor,
        left_out,
    })
}

fn measure(
    options: &Options,
    networks: &[(Who, Ours)],
    ctor: Option<Chain>,
    origin: std::net::SocketAddr,
    runtime: &Handle,
    told: &mut impl FnMut(Progress<'_>),
    left_out: &mut Vec<(Who, String)>,
) -> Result<Vec<Measured>, BenchError> {
    let mut lanes: Vec<(Who, Lane<'_>)> = Vec::new();
    for who in Who::ALL {
        let of = match who {
            Who::Paced if options.who.contains(&Who::SmallSteps) => Who::Unpaid,
            other => other,
        };
        let network = networks.iter().find(|(whose, _)| *whose == of);
        let (chain, money) = match (network, ctor) {
            (Some((_, ours)), _) => (ours.chain, ours.till()?.map(|parts| (parts, ours))),
            (None, Some(chain)) if who == Who::CTor => (chain, None),
            _ => continue,
        };
        told(Progress::Now(&format!("warming up: {}", who.name())));
        let paced = matches!(who, Who::SmallSteps | Who::Paced);
        let circuits = options.circuits * if paced { MORE } else { 1 };
        let bought = if who == Who::Ours { GROWN } else { 1 };
        let ready = Lane::open(chain, circuits, origin, money, runtime.clone()).and_then(|mut lane| {
            if paced {
                lane.pace(PACE);
            }
            lane.warm_up(bought, options.size.min(64 << 20)).map(|()| lane)
        });
        let lane = match ready {
            Ok(lane) => lane,
            Err(error) => {
                leave_out(who, error, told, left_out)?;
                continue;
            }
        };
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
                    cpu_s_per_gb: floors(&options.program, options.circuits, options.size)?,
                    carried: None,
                }
            } else {
                let Some((_, lane)) = lanes.iter_mut().find(|(whose, _)| *whose == who) else {
                    continue;
                };
                told(Progress::Now(&format!("run {}: {}", run + 1, who.name())));
                let carried = match lane.measure(options.size) {
                    Ok(carried) => carried,
                    Err(error) => {
                        leave_out(who, error, told, left_out)?;
                        lanes.retain(|(whose, _)| *whose != who);
                        continue;
                    }
                };
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

/// Goes on without one of them, if the rest says something without it.
fn leave_out(
    who: Who,
    error: LaneError,
    told: &mut impl FnMut(Progress<'_>),
    left_out: &mut Vec<(Who, String)>,
) -> Result<(), BenchError> {
    if !matches!(who, Who::SmallSteps | Who::Paced) {
        return Err(BenchError::Lane {
            whose: who.name(),
            error,
        });
    }
    let why = error.to_string();
    told(Progress::LeftOut(who, &why));
    left_out.push((who, why));
    Ok(())
}

/// The hidden command line that runs [`floor::serve`].
pub const FLOOR: [&str; 2] = ["bench", "floor"];

fn floors(program: &Path, circuits: usize, size: u64) -> Result<[f64; 3], BenchError> {
    let used = floor::measure(program, &FLOOR, circuits, size).map_err(BenchError::Floor)?;
    Ok(used.map(|used| used.as_secs_f64() / size as f64 * 1e9))
}

#[cfg(test)]
impl Outcome {
    /// Of these, with ciphers of round figures.
    pub(crate) fn example(measured: Vec<Measured>) -> Outcome {
        Outcome {
            measured,
            raw: RawCiphers {
                open: 0.1,
                seal: 0.1,
                ctr: 0.1,
                sha1: 0.1,
            },
            tor: None,
            left_out: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(run: usize, who: Who, cpu: f64) -> Measured {
        Measured {
            run,
            who,
            cpu_s_per_gb: [cpu; 3],
            carried: None,
        }
    }

    #[test]
    fn ratios_are_of_the_same_run() {
        let outcome = Outcome::example(vec![
            measured(0, Who::Ours, 1.0),
            measured(0, Who::CTor, 4.0),
            measured(1, Who::CTor, 8.0),
            measured(2, Who::Ours, 3.0),
            measured(2, Who::CTor, 6.0),
        ]);
        assert_eq!(outcome.ratios(Who::Ours, Who::CTor, Position::Middle), [0.25, 0.5]);
        assert!(outcome.ratios(Who::Unpaid, Who::CTor, Position::Middle).is_empty());
    }
}
