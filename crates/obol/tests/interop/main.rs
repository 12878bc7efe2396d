//! Obol in a real Tor network: C Tor authorities and relays, unmodified clients and onion services, and everything that is expected of
//! our relays among them. Run with `cargo test --release -p obol --test interop`; a word after `--` selects trials by name.
//!
//! One network for all trials, which run one after the other in the order below; consensuses are renewed meanwhile, and counted. A
//! failure shows the ends of the logs. `OBOL_INTEROP_KEEP=DIRECTORY` keeps all files there.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod arti;
mod client;
mod logs;
mod money;
mod node;
mod renewals;
mod services;
mod tor;
mod transfer;
mod trials;
mod world;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use world::World;

/// No trial takes nearly as long, but for the one that waits for consensuses: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(600);
const LONG_PATIENCE: Duration = Duration::from_secs(1800);

type Outcome<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// One trial.
pub struct Case {
    name: &'static str,
    run: for<'a> fn(&'a World) -> Outcome<'a>,
    patience: Duration,
}

impl Case {
    /// A trial, named as a sentence.
    pub fn new(name: &'static str, run: for<'a> fn(&'a World) -> Outcome<'a>) -> Case {
        Case {
            name,
            run,
            patience: PATIENCE,
        }
    }

    /// One that takes long.
    pub fn long(mut self) -> Case {
        self.patience = LONG_PATIENCE;
        self
    }
}

/// What trials share: the network comes up with the first of them.
struct Suite {
    runtime: Runtime,
    world: OnceLock<Result<World, String>>,
    /// Becomes true with SIGINT and SIGTERM: what has been started is still ended.
    interrupted: watch::Receiver<bool>,
}

impl Suite {
    fn world(&self) -> Result<&World, Failed> {
        let world = self.world.get_or_init(|| {
            let starting = self.unless_interrupted(World::start());
            let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.runtime.block_on(starting)));
            match started {
                Ok(Ok(world)) => Ok(world),
                Ok(Err(error)) => Err(format!("the network does not come up: {error:#}")),
                Err(_) => Err("the network does not come up: it panicked, see above".to_owned()),
            }
        });
        world.as_ref().map_err(Failed::from)
    }

    /// Does it, or gives it up at the first signal.
    async fn unless_interrupted<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let mut interrupted = self.interrupted.clone();
        tokio::select! {
            biased;
            Ok(_) = interrupted.wait_for(|interrupted| *interrupted) => anyhow::bail!("interrupted"),
            outcome = work => outcome,
        }
    }

    fn run(&self, case: &Case) -> Result<(), Failed> {
        let world = self.world()?;
        say(&format!("{} ...", case.name));
        let began = Instant::now();
        let outcome = self.runtime.block_on(self.unless_interrupted(async {
            let trial = tokio::time::timeout(case.patience, (case.run)(world)).await;
            trial.map_err(|_| anyhow::anyhow!("it took longer than {} s", case.patience.as_secs()))?
        }));
        say(&format!("  took {:.1} s", began.elapsed().as_secs_f64()));
        outcome.map_err(|error| format!("{error:#}\n{}", world.tails()).into())
    }
}

/// Progress, for a person.
pub fn say(text: &str) {
    eprintln!("[interop] {text}");
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list && !obol_testnet::ctor::available() {
        return ExitCode::SUCCESS;
    }
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    // They share a network, and some of them break it.
    arguments.test_threads = Some(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (interrupt, interrupted) = watch::channel(false);
    runtime.spawn(async move {
        let (mut int, mut term) = (
            signal(SignalKind::interrupt()).unwrap(),
            signal(SignalKind::terminate()).unwrap(),
        );
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        interrupt.send_replace(true);
        // The channel must not close.
        std::future::pending::<()>().await;
    });
    let suite = Arc::new(Suite {
        runtime,
        world: OnceLock::new(),
        interrupted,
    });
    let trials = trials::all().into_iter().map(|case| {
        let suite = Arc::clone(&suite);
        Trial::test(case.name, move || suite.run(&case))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let suite = Arc::into_inner(suite).expect("all trials have ended");
    if let Some(Ok(world)) = suite.world.into_inner() {
        suite.runtime.block_on(world.stop());
    }
    suite.runtime.shutdown_timeout(Duration::from_secs(10));
    conclusion.exit_code()
}
