//! What payment buys: priority under congestion. The guard is limited; one circuit pays, one does not.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use obol_testnet::download::drain;
use obol_testnet::state::RelayState;
use serde_json::json;
use tokio::task::JoinHandle;

use super::Stage;
use super::report::Report;
use super::show::{Show, bytes};

/// The guard's limit, and the unpaid class's cap: so little that nothing else is a limit, not even on a busy machine.
const LIMIT: u64 = 3 << 20;
const CAP: u64 = 1 << 20;
/// How long each rate is measured, by the guard's own counters.
const MEASURE: Duration = Duration::from_secs(4);
/// How long a circuit may take to get going.
const PATIENCE: Duration = Duration::from_secs(45);

/// A download without end; it ends when this is dropped.
struct Busy(JoinHandle<()>);

impl Busy {
    fn start(proxy: SocketAddr, origin: SocketAddr) -> Self {
        Busy(tokio::spawn(async move {
            if let Err(error) = drain(proxy, "contention", origin, "/endless").await {
                tracing::warn!(%error, "a circuit of the contention ended");
            }
        }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn run(stage: &Stage, show: &Show, report: &mut Report) -> anyhow::Result<()> {
    show.part(&format!(
        "The guard, limited to {}/s: a paying and a non-paying circuit side by side",
        bytes(LIMIT)
    ));
    let guard = &stage.network.guard().control;
    let origin = stage.origin.address();
    guard.tell("unpaid", json!({ "mode": "leftover" })).await?;
    guard.tell("rate", json!({ "bytes_per_second": LIMIT })).await?;

    let before = RelayState::of(guard).await?;
    let unpaid = Busy::start(stage.free_rider.socks_addr(), origin);
    let paid = Busy::start(stage.payer.socks_addr(), origin);
    // Both are under way once each class has carried something; the first steps are small, so that takes a moment.
    let wait = show.wait("both circuits get under way");
    wait_until(stage, |now| {
        now.class_bytes.paid >= before.class_bytes.paid + (4 << 20)
            && now.class_bytes.unpaid > before.class_bytes.unpaid
    })
    .await
    .context("the paying and the non-paying circuit did not get under way together")?;
    wait.finish_and_clear();

    let (paid_rate, unpaid_rate) = measure(stage).await?;
    drop(paid);
    // What the paying circuit still has queued goes first.
    let (_, _) = measure_for(stage, Duration::from_millis(1_000)).await?;
    let (_, alone) = measure(stage).await?;
    guard.tell("unpaid", json!({ "mode": "capped", "cap": CAP })).await?;
    let (_, _) = measure_for(stage, Duration::from_millis(1_000)).await?;
    let (_, capped) = measure(stage).await?;
    drop(unpaid);
    guard.tell("unpaid", json!({ "mode": "leftover" })).await?;
    guard.tell("rate", json!({ "bytes_per_second": null })).await?;

    report.guard_limit = LIMIT;
    report.cap = CAP;
    report.paid_rate = paid_rate;
    report.unpaid_rate = unpaid_rate;
    report.unpaid_alone_rate = alone;
    report.unpaid_capped_rate = capped;
    let rate = |r: f64| format!("{}/s", bytes(r as u64));
    show.line(&format!(
        "contended: {} paid, {} unpaid",
        rate(paid_rate),
        rate(unpaid_rate)
    ));
    show.line(&format!(
        "unpaid alone, unpaid = leftover: {}; unpaid = capped at {}: {}",
        rate(alone),
        rate(CAP as f64),
        rate(capped)
    ));
    let (limit, cap) = (LIMIT as f64, CAP as f64);
    report.check(
        "contended, the unpaid circuit gets at most a fifth",
        unpaid_rate <= (paid_rate + unpaid_rate) / 5.0 && paid_rate > 0.0,
        format!("{} of {}", rate(unpaid_rate), rate(paid_rate + unpaid_rate)),
    );
    report.check(
        "alone, it gets at least 0.8 of the limit",
        alone >= 0.8 * limit,
        format!("{:.2} of it", alone / limit),
    );
    report.check(
        "capped, it gets the cap",
        (0.8 * cap..=1.1 * cap).contains(&capped),
        format!("{:.2} of it", capped / cap),
    );
    report.check(
        "the limit holds",
        paid_rate + unpaid_rate <= 1.1 * limit && alone <= 1.1 * limit,
        format!("{:.2} of it", (paid_rate + unpaid_rate) / limit),
    );
    Ok(())
}

/// Bytes per second by class, by the guard's own counters.
async fn measure(stage: &Stage) -> anyhow::Result<(f64, f64)> {
    measure_for(stage, MEASURE).await
}

async fn measure_for(stage: &Stage, time: Duration) -> anyhow::Result<(f64, f64)> {
    let guard = &stage.network.guard().control;
    let (from, began) = (RelayState::of(guard).await?.class_bytes, Instant::now());
    tokio::time::sleep(time).await;
    let (to, seconds) = (RelayState::of(guard).await?.class_bytes, began.elapsed().as_secs_f64());
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    Ok((rate(from.paid, to.paid), rate(from.unpaid, to.unpaid)))
}

async fn wait_until(stage: &Stage, holds: impl Fn(&RelayState) -> bool) -> anyhow::Result<()> {
    let guard = &stage.network.guard().control;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let state = RelayState::of(guard).await?;
        if holds(&state) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("it did not happen within {} s", PATIENCE.as_secs())
}
