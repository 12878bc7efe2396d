//! The paid download, and what each side's books say of it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use obol_client::TunnelFigures;
use obol_testnet::download::download;
use obol_testnet::network::Network;
use obol_testnet::state::{Circuit, RelayState};

use super::report::{HopReport, Memory, Report};
use super::show::{Show, bytes};
use super::{Stage, settlement};

const UNIT: u64 = 64 * 1024;
const CELL: u64 = 514;
const POSITIONS: [&str; 3] = ["guard", "middle", "exit"];

/// How long the payment for the last bytes may take.
const LAST_PAYMENT: Duration = Duration::from_secs(15);
/// How long an escrow may take: a conversation with the guard, a ledger or two.
const ESCROW_PATIENCE: Duration = Duration::from_secs(60);

/// A client opens an escrow to a guard that it meets for the first time, long before much is carried: here a first small
/// request is what makes them meet.
pub(crate) async fn open_escrow(stage: &Stage, show: &Show) -> anyhow::Result<()> {
    let wait = show.wait("the client meets its guard, and opens an escrow to it");
    let told = show.follow(&stage.payer, &wait);
    let meeting = async {
        download(
            stage.payer.socks_addr(),
            "meeting",
            stage.origin.address(),
            "/hello",
            |_| {},
        )
        .await?;
        stage.payer.ready_to_pay(ESCROW_PATIENCE).await?;
        anyhow::Ok(())
    };
    let met = meeting.await;
    told.abort();
    wait.finish_and_clear();
    met.context("no escrow to the guard is in use")
}

pub(crate) async fn run(stage: &Stage, show: &Show, report: &mut Report, processes: bool) -> anyhow::Result<()> {
    let length = stage.file.length;
    show.part(&format!(
        "A download of {} through three relays, paid hop by hop",
        bytes(length)
    ));
    let bar = show.bar(length);
    let told = show.follow(&stage.payer, &bar);
    let watch = processes.then(|| MemoryWatch::start(&stage.network, bar.clone(), length));
    let proxy = stage.payer.socks_addr();
    let done = download(proxy, "download", stage.origin.address(), "/file", |n| {
        bar.set_position(n)
    })
    .await;
    bar.finish_and_clear();
    told.abort();
    let done = done?;
    report.relay_memory = match watch {
        Some(watch) => watch.finish().await,
        None => Vec::new(),
    };

    report.bytes = done.bytes;
    report.sha256 = hex::encode(done.sha256);
    report.sha256_ok = done.sha256 == stage.file.sha256 && done.bytes == length;
    report.seconds = done.total.as_secs_f64();
    report.bytes_per_second = done.bytes as f64 / done.total.as_secs_f64().max(1e-9);
    show.line(&format!(
        "{} in {:.1} s: {}/s",
        bytes(done.bytes),
        report.seconds,
        bytes(report.bytes_per_second as u64)
    ));
    report.check(
        "the file arrived whole (SHA-256)",
        report.sha256_ok,
        report.sha256.clone(),
    );

    let (tunnel, states) = last_payment(stage).await?;
    hops(stage, &tunnel, &states, report)?;

    report.payments = tunnel.payments;
    let payments = tunnel.payments.max(1) as f64;
    report.payment_cells_per_payment = tunnel.payment_cells as f64 / payments;
    // One round trip each, and half of one more where the hop's request came first.
    report.round_trips_per_payment = 1.0 + 0.5 * tunnel.requests as f64 / payments;
    report.first_payment_ms = tunnel.first_payment_ms;
    let link: u64 = states.iter().map(|(_, s)| s.totals.link_payment_bytes_sent).sum();
    let cells = (tunnel.payment_cells + tunnel.setup_cells) * CELL;
    report.payment_overhead = (cells + link) as f64 / done.bytes.max(1) as f64;

    report.check(
        "payments were made",
        tunnel.payments > 0,
        format!("{}", tunnel.payments),
    );
    let (cells, trips) = (report.payment_cells_per_payment, report.round_trips_per_payment);
    report.check("at most 6 cells a payment", cells <= 6.0, format!("{cells:.2}"));
    report.check("at most 1.5 round trips a payment", trips <= 1.5, format!("{trips:.2}"));
    if length >= 64 << 20 {
        let overhead = report.payment_overhead;
        report.check(
            "payment bytes are at most 0.1 % of the download",
            overhead <= 0.001,
            format!("{:.4} %", overhead * 100.0),
        );
    }
    Ok(())
}

/// The tunnel and the relays once the last payment has arrived: the client may still owe for the last bytes when the file is
/// complete, and pays for them.
async fn last_payment(stage: &Stage) -> anyhow::Result<(TunnelFigures, Vec<(String, RelayState)>)> {
    let began = Instant::now();
    loop {
        let tunnel = busiest_tunnel(stage)?;
        let states = settlement::states(&stage.network).await?;
        let of_hop = |fingerprint: &str| {
            states
                .iter()
                .find(|(of, _)| of == fingerprint)
                .and_then(|(_, s)| s.busiest())
        };
        let paid = tunnel
            .hops
            .iter()
            .all(|h| of_hop(&h.fingerprint).is_some_and(|c| c.bought >= c.metered));
        if paid || began.elapsed() > LAST_PAYMENT {
            return Ok((tunnel, states));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn busiest_tunnel(stage: &Stage) -> anyhow::Result<TunnelFigures> {
    let tunnel = stage
        .payer
        .figures()
        .tunnels
        .into_iter()
        .max_by_key(|t| t.payload_received);
    let tunnel = tunnel.context("the client reports no tunnel")?;
    ensure!(
        tunnel.hops.len() == 3,
        "the download's tunnel has {} hops instead of 3",
        tunnel.hops.len()
    );
    Ok(tunnel)
}

/// What each hop of the tunnel counted and booked.
fn hops(
    stage: &Stage,
    tunnel: &TunnelFigures,
    states: &[(String, RelayState)],
    report: &mut Report,
) -> anyhow::Result<()> {
    let largest = 16 << 20;
    let (mut least_ok, mut most_ok, mut found) = (true, true, Vec::new());
    for (hop, position) in tunnel.hops.iter().zip(POSITIONS) {
        let relay = stage.network.relays.iter().find(|r| r.fingerprint == hop.fingerprint);
        let relay = relay.with_context(|| format!("{} is not a relay of this network", hop.fingerprint))?;
        let state = states.iter().find(|(of, _)| *of == relay.fingerprint).map(|(_, s)| s);
        let circuit: Circuit = state.and_then(RelayState::busiest).cloned().unwrap_or_default();
        // "At least what it metered, and at most one step more": the step that growth permits by now.
        let step = (circuit.metered.max(2 * UNIT) / UNIT).ilog2();
        let step = (UNIT << step).min(largest);
        least_ok &= circuit.bought >= circuit.metered;
        most_ok &= circuit.bought <= circuit.metered + step;
        found.push(format!(
            "{position} {} of {}",
            bytes(circuit.bought),
            bytes(circuit.metered)
        ));
        report.hops.push(HopReport {
            position,
            fingerprint: hop.fingerprint.clone(),
            price_per_64_kib: relay.price,
            price_per_mib: relay.price * 16,
            metered_bytes: circuit.metered,
            bought_bytes: circuit.bought,
            paid_stroops: circuit.earned_stroops,
            forwarded_stroops: circuit.forwarded_stroops,
            settled_stroops: 0,
            last_claims_stroops: 0,
        });
        let own = i64::try_from(circuit.bought / UNIT)
            .unwrap_or(i64::MAX)
            .saturating_mul(relay.price);
        let fee = circuit.earned_stroops - own;
        report.check(
            "a hop booked exactly its price for what was bought, and its fee",
            fee >= 0 && fee <= circuit.forwarded_stroops / 1_000 + 1,
            format!("{position}: {} = {own} + {fee}", circuit.earned_stroops),
        );
    }
    report.check(
        "every relay was paid at least what it metered",
        least_ok,
        found.join(", "),
    );
    report.check("and at most one step more", most_ok, found.join(", "));
    Ok(())
}

/// Samples the resident memory of the relays' processes while the download runs.
struct MemoryWatch {
    task: tokio::task::JoinHandle<Vec<Memory>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl MemoryWatch {
    fn start(network: &Network, bar: indicatif::ProgressBar, length: u64) -> Self {
        let relays: Vec<(String, u32)> = network
            .relays
            .iter()
            .filter_map(|r| r.pid().map(|pid| (r.nickname.clone(), pid)))
            .collect();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut found: Vec<Memory> = relays
                .iter()
                .map(|(nickname, _)| Memory {
                    nickname: nickname.clone(),
                    ..Memory::default()
                })
                .collect();
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                let last = tokio::select! {
                    _ = tick.tick() => false,
                    _ = &mut stopped => true,
                };
                for (memory, (_, pid)) in found.iter_mut().zip(&relays) {
                    let Some(kib) = resident_kib(*pid) else { continue };
                    if memory.early_kib == 0 && bar.position() >= length / 10 {
                        memory.early_kib = kib;
                    }
                    memory.late_kib = kib;
                    memory.most_kib = memory.most_kib.max(kib);
                }
                if last {
                    return found;
                }
            }
        });
        MemoryWatch { task, stop }
    }

    async fn finish(self) -> Vec<Memory> {
        let _ = self.stop.send(());
        self.task.await.unwrap_or_default()
    }
}

/// `VmRSS` of a process, where the system tells.
fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
