//! `obol relay`: one relay, until it is asked to end.
//!
//! | signal | does |
//! |---|---|
//! | SIGTERM, SIGINT | winds the relay down ([`RunningRelay::wind_down`]) and ends with 0; a second one ends at once, with [`HURRIED`] |
//! | SIGHUP | reads the configuration again; what cannot be used is said, and changes nothing |
//!
//! Under systemd it says when it is ready, reloads and stops, what it is doing, and that it lives (sd_notify(3)).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use obol_relay::RunningRelay;
use obol_relay::config::Config;
use sd_notify::NotifyState;

use crate::log::Log;

/// The exit code after a second signal: what was under way was not waited for.
const HURRIED: u8 = 3;
/// How often systemd is told what the relay is doing, if it does not want to hear more often.
const STATUS: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// Its configuration (`obol config example` prints one to start from).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End when standard input ends: for a parent process that must not leave a relay behind.
    #[arg(long, hide = true)]
    end_with_input: bool,
}

pub(crate) async fn run(args: RelayArgs, log: Log) -> anyhow::Result<ExitCode> {
    let Some(file) = args.config else {
        eprintln!(
            "obol: which relay? Name its configuration with --config FILE.\n\
             `obol config example > node.toml` writes one to start from, with every key and its meaning."
        );
        return Ok(ExitCode::from(2));
    };
    let (mut end, mut hangup) = signals()?;
    let config = Config::load(&file)?;
    log.follow(config.log.as_deref())?;
    raise_descriptor_limit();
    let relay = obol_relay::run::run(config).await?;
    for address in relay.addresses() {
        println!("relay          {} at {address}", hex::encode_upper(relay.rsa()));
    }
    if let Some(gateway) = relay.gateway_address() {
        println!("dashboard      http://{gateway}/");
    }
    tell(&[NotifyState::Ready, NotifyState::Status(&status(&relay))]);
    let beat = sd_notify::watchdog_enabled().map_or(STATUS, |limit| (limit / 2).min(STATUS));
    let mut beats = tokio::time::interval(beat.max(Duration::from_millis(100)));
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut input = std::pin::pin!(end_of_input(args.end_with_input));
    // Not even a journal that fails is a reason to end: the relay goes on unpaid, and says so.
    loop {
        tokio::select! {
            () = end.next() => break,
            () = hangup.next() => reload(&relay, &file, &log),
            // Whoever held the other end is gone: nobody waits.
            () = &mut input => {
                relay.shutdown().await;
                return Ok(ExitCode::SUCCESS);
            }
            // The status asks the data plane: a relay that hangs there does not beat.
            _ = beats.tick() => tell(&[NotifyState::Watchdog, NotifyState::Status(&status(&relay))]),
        }
    }
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("waiting for circuits and the ledger"),
    ]);
    let wait = relay.config().shutdown_wait;
    tracing::info!(%wait, "asked to end: nothing new is accepted; a second signal ends at once");
    let code = {
        let mut ending = std::pin::pin!(relay.wind_down());
        loop {
            tokio::select! {
                () = &mut ending => break ExitCode::SUCCESS,
                () = end.next() => break ExitCode::from(HURRIED),
                () = &mut input => break ExitCode::from(HURRIED),
                _ = beats.tick() => tell(&[NotifyState::Watchdog]),
            }
        }
    };
    relay.shutdown().await;
    Ok(code)
}

/// A relay of the public network has links to some thousands of others, and a socket for each stream of an exit.
const DESCRIPTORS: u64 = 10_000;

/// Raises the limit of open files to what this process may have.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    if limit < DESCRIPTORS {
        tracing::warn!(
            limit,
            "few files may be open at once: links and streams beyond that are refused. Raise the limit (`ulimit -n`, \
             LimitNOFILE= of a systemd unit) to {DESCRIPTORS} at least"
        );
    }
}

/// Reads the file again, and goes on with what it says if all of it can be used.
fn reload(relay: &RunningRelay, file: &Path, log: &Log) {
    let mut began = vec![NotifyState::Reloading];
    began.extend(NotifyState::monotonic_usec_now());
    tell(&began);
    let outcome = Config::load(file).map_err(anyhow::Error::from).and_then(|config| {
        let filter = config.log.clone();
        log.check(filter.as_deref())?;
        let changed = match relay.reload(config)? {
            none if none.is_empty() => "nothing".to_owned(),
            some => some.join(", "),
        };
        // By the old filter: whoever asked for less wants to see that it worked.
        tracing::info!("the configuration was read again; changed: {changed}");
        log.follow(filter.as_deref())
    });
    if let Err(error) = outcome {
        let error = crate::with_causes(&error);
        tracing::error!("the new configuration is not used, the old one stays: {error}");
    }
    tell(&[NotifyState::Ready, NotifyState::Status(&status(relay))]);
}

/// One line for `systemctl status`.
fn status(relay: &RunningRelay) -> String {
    let counters = relay.engine().counters();
    let [paid, unpaid] = counters.circuits;
    format!(
        "{}: {} links, {paid} paid and {unpaid} unpaid circuits",
        relay.config().nickname,
        counters.links
    )
}

/// Tells systemd, if it is there and listens.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

/// On a thread of its own: it is left behind when the relay ends for another reason.
async fn end_of_input(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let ended = tokio::task::spawn_blocking(|| {
        let mut buffer = [0; 64];
        while let Ok(1..) = std::io::Read::read(&mut std::io::stdin(), &mut buffer) {}
    });
    let _ = ended.await;
}

/// Signals of some kinds, from the moment this is made: one that comes early is not lost.
struct Signals {
    #[cfg(unix)]
    kinds: Vec<tokio::signal::unix::Signal>,
    #[cfg(not(unix))]
    end: bool,
}

#[cfg(unix)]
impl Signals {
    fn of(kinds: &[tokio::signal::unix::SignalKind]) -> std::io::Result<Self> {
        let kinds = kinds.iter().map(|kind| tokio::signal::unix::signal(*kind));
        Ok(Signals {
            kinds: kinds.collect::<Result<_, _>>()?,
        })
    }

    /// The next one of them.
    async fn next(&mut self) {
        let any = |cx: &mut std::task::Context<'_>| {
            let mut came = self.kinds.iter_mut().map(|kind| kind.poll_recv(cx));
            // All are asked, so that each wakes us.
            match came.by_ref().filter(std::task::Poll::is_ready).count() {
                0 => std::task::Poll::Pending,
                _ => std::task::Poll::Ready(()),
            }
        };
        std::future::poll_fn(any).await;
    }
}

/// Those that ask the relay to end, and those that ask it to read its configuration again.
#[cfg(unix)]
fn signals() -> std::io::Result<(Signals, Signals)> {
    use tokio::signal::unix::SignalKind;
    Ok((
        Signals::of(&[SignalKind::terminate(), SignalKind::interrupt()])?,
        Signals::of(&[SignalKind::hangup()])?,
    ))
}

#[cfg(not(unix))]
impl Signals {
    /// Ctrl-C; there is no other.
    async fn next(&mut self) {
        if !self.end || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(not(unix))]
fn signals() -> std::io::Result<(Signals, Signals)> {
    Ok((Signals { end: true }, Signals { end: false }))
}
