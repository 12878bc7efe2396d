//! Real processes, killed (SIGKILL) at named points: relays and clients, before and after facts and submissions are on the disk. Each is
//! started again, has lost nothing that it had acknowledged, its books balance, and the network goes on.
//!
//! Where a process stops is named by `OBOL_HOLD` (obol-store's `hold`), which debug builds have.

#![cfg(all(unix, debug_assertions))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use obol_client::{ClientHandle, Pay};
use obol_store::Journal;
use obol_testnet::download::download;
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};
use obol_testnet::state::{Escrow, RelayState};
use obol_toll::fact::{OutFact, PayerFact};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// Of an escrow between relays, and an hour.
const A_LIFE: u64 = 7 * 86_400 + 3_600;

/// What makes a relay come to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A client pays.
    Paying,
    /// It opens escrows to its peers, as those that were open have expired.
    Opening,
    /// All its escrows are to be closed.
    Closing,
}

/// Relay, point, and what brings it there.
const POINTS: &[(usize, &str, By)] = &[
    (0, "after/Believed/1", By::Paying),
    (0, "before/Claim/2", By::Paying),
    (0, "after/Claim/2", By::Paying),
    (0, "before/Out.Signed/1", By::Paying),
    (0, "after/Out.Signed/1", By::Paying),
    (1, "before/Spent/1", By::Paying),
    (1, "after/Spent/1", By::Paying),
    (2, "after/Claim/1", By::Paying),
    (1, "after/Flushing/1", By::Closing),
    (2, "after/record.flush/1", By::Closing),
    (1, "after/resolve.flush/1", By::Closing),
    (2, "before/Settled/1", By::Closing),
    (0, "before/Out.Accepted/1", By::Opening),
    (0, "after/record.open/1", By::Opening),
    (0, "after/resolve.open/1", By::Opening),
    (0, "after/Out.Opened/1", By::Opening),
];

struct World {
    network: Network,
    origin: Origin,
    directory: tempfile::TempDir,
    clients: usize,
}

impl World {
    async fn start(wallets: usize) -> World {
        let directory = tempfile::tempdir().unwrap();
        let file = OriginFile::generate(&directory.path().join("file"), 2 << 20, 7)
            .await
            .unwrap();
        let origin = Origin::start(file).await.unwrap();
        let options = NetworkOptions {
            relay_program: Some(PathBuf::from(env!("CARGO_BIN_EXE_obol"))),
            wallets,
            ..NetworkOptions::new(directory.path().join("network"))
        };
        let starting = Network::start(options, |_| {});
        let network = tokio::time::timeout(PATIENCE, starting).await.unwrap().unwrap();
        World {
            network,
            origin,
            directory,
            clients: 0,
        }
    }

    /// A new client, with its own wallet: it remembers no relay that was away.
    async fn client(&mut self) -> ClientHandle {
        self.clients += 1;
        let name = format!("client{}", self.clients);
        self.network.client(&name, Some(Pay::Always)).await.unwrap()
    }

    async fn fetch(&self, socks: SocketAddr, user: &str) -> bool {
        let fetching = download(socks, user, self.origin.address(), "/file", |_| {});
        match tokio::time::timeout(PATIENCE, fetching).await {
            Ok(Ok(got)) => got.bytes == 2 << 20,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn payments(&self, relay: usize) -> u64 {
        RelayState::of(&self.network.relays[relay].control)
            .await
            .unwrap()
            .totals
            .payments
    }

    /// Downloads come through and are paid at every hop.
    async fn goes_on(&mut self) {
        for relay in 0..3 {
            self.has_peers(relay).await;
        }
        let client = self.client().await;
        client.ready_to_pay(PATIENCE).await.unwrap();
        let mut before = Vec::new();
        for relay in 0..3 {
            before.push(self.payments(relay).await);
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for attempt in 0.. {
            let whole = self.fetch(client.socks_addr(), &format!("afterwards{attempt}")).await;
            let mut paid = true;
            for (relay, before) in before.iter().enumerate() {
                paid &= self.payments(relay).await > *before;
            }
            if whole && paid {
                break;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no download is paid at every hop"
            );
        }
        client.shutdown().await;
    }

    /// Waits until a relay can pay some other one: the last one need not.
    async fn has_peers(&self, relay: usize) {
        if relay == 2 {
            return;
        }
        let open = async || {
            let state = RelayState::of(&self.network.relays[relay].control).await.unwrap();
            state.escrows.iter().any(|e| e.direction == "out" && e.state == "open")
        };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !open().await {
            assert!(tokio::time::Instant::now() < deadline, "relay {relay} opens no escrow");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn restart(&mut self, relay: usize, hold: Option<&str>) {
        self.network.relays[relay].kill().await.unwrap();
        self.network.relays[relay].start_again(hold).await.unwrap();
    }
}

async fn is_there(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What was acknowledged is still there.
fn nothing_is_lost(before: &[Escrow], after: &[Escrow], point: &str) {
    for was in before {
        let is = after
            .iter()
            .find(|e| e.escrow == was.escrow && e.direction == was.direction);
        let is = is.unwrap_or_else(|| panic!("{point}: {was:?} is forgotten"));
        assert!(
            is.k >= was.k && is.cumulative >= was.cumulative && is.deposit == was.deposit,
            "{point}: {is:?} instead of {was:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_at_any_named_point_goes_on_where_its_journal_ends() {
    let mut world = World::start(3 * POINTS.len()).await;
    world.goes_on().await;
    for (turn, &(relay, point, by)) in POINTS.iter().enumerate() {
        let held = world.directory.path().join(format!("held{turn}"));
        let hold = format!("{point}/{}", held.display());
        world.restart(relay, Some(&hold)).await;
        match by {
            By::Opening => {
                // The life of its escrows is over: it takes them back, and the next ones are due.
                world.network.ledger.advance(A_LIFE, 1).unwrap();
                tokio::time::timeout(PATIENCE, is_there(&held)).await.expect(point);
            }
            By::Paying => {
                for relay in 0..3 {
                    world.has_peers(relay).await;
                }
                let client = world.client().await;
                let deadline = tokio::time::Instant::now() + PATIENCE;
                for attempt in 0.. {
                    assert!(tokio::time::Instant::now() < deadline, "{point} is not reached");
                    let user = format!("before{attempt}");
                    tokio::select! {
                        () = is_there(&held) => break,
                        _ = world.fetch(client.socks_addr(), &user) => {}
                    }
                }
                client.shutdown().await;
            }
            By::Closing => {
                let control = world.network.relays[relay].control.clone();
                // It may be killed before it answers.
                let asked = tokio::spawn(async move { control.tell("close-escrows", json!({})).await });
                tokio::time::timeout(PATIENCE, is_there(&held)).await.expect(point);
                asked.abort();
            }
        }
        let before = RelayState::of(&world.network.relays[relay].control).await.unwrap();
        world.restart(relay, None).await;
        let control = world.network.relays[relay].control.clone();
        let audit: Value = control.tell("audit", json!({})).await.unwrap();
        assert_eq!(audit["ok"], true, "{point}: {audit}");
        let after = RelayState::of(&control).await.unwrap();
        nothing_is_lost(&before.escrows, &after.escrows, point);
        world.goes_on().await;
    }
    let audit = world.network.ledger.audit().unwrap();
    assert!(audit.assets.values().all(|asset| asset.difference == 0), "{audit:?}");
    // What each relay's own books say that it was paid is what its accounts have.
    for relay in &world.network.relays {
        let state = relay.control.state().await.unwrap();
        let payees: Vec<String> = serde_json::from_value(state["accounts"]["payees"].clone()).unwrap();
        let held = payees.iter().filter_map(|account| audit.accounts.get(account));
        let held: i64 = held.flat_map(|held| held.assets.values()).sum();
        let escrows = RelayState::of(&relay.control).await.unwrap().escrows;
        let settled: i64 = escrows
            .iter()
            .filter(|e| e.direction == "in")
            .filter_map(|e| e.settled_stroops)
            .sum();
        assert_eq!(held, settled, "{}: {escrows:?}", relay.nickname);
    }
    world.network.stop().await;
}

/// Points of a client.
const OF_CLIENT: &[&str] = &[
    "before/Out.Accepted/1",
    "after/Out.Accepted/1",
    "before/record.open/1",
    "after/record.open/1",
    "after/resolve.open/1",
    "after/Out.Opened/1",
    "before/Out.Signed/1",
    "after/Out.Signed/1",
    "after/Out.Signed/3",
];

/// `obol client`, and where its proxy is.
async fn client_process(config: &Path, hold: Option<&str>) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obol"));
    command
        .args(["client", "--json", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(hold) = hold {
        command.env("OBOL_HOLD", hold);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap();
    let first: Value = serde_json::from_str(&first.unwrap().expect("it says where it is")).unwrap();
    let socks = first["socks"].as_str().unwrap().parse().unwrap();
    // What it says further is read, or it would stop at a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, socks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_killed_at_any_named_point_opens_once_and_never_pays_twice() {
    let mut world = World::start(OF_CLIENT.len() + 1).await;
    world.goes_on().await;
    for (turn, point) in OF_CLIENT.iter().enumerate() {
        let place = world.directory.path().join(format!("victim{turn}"));
        let config = world.network.client_config(&place, Some(Pay::Always)).unwrap();
        let file = world.directory.path().join(format!("victim{turn}.toml"));
        std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        let held = world.directory.path().join(format!("held{turn}"));
        let (mut child, socks) = client_process(&file, Some(&format!("{point}/{}", held.display()))).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for attempt in 0.. {
            assert!(tokio::time::Instant::now() < deadline, "{point} is not reached");
            let user = format!("before{attempt}");
            tokio::select! {
                () = is_there(&held) => break,
                _ = world.fetch(socks, &user) => {}
            }
        }
        child.kill().await.unwrap();

        let (mut child, socks) = client_process(&file, None).await;
        let before = world.payments(2).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for attempt in 0.. {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{point}: it does not pay any more"
            );
            let whole = world.fetch(socks, &format!("after{attempt}")).await;
            if whole && world.payments(2).await > before {
                break;
            }
        }
        child.kill().await.unwrap();

        let path = place.join("payments.sqlite");
        let (journal, facts) = tokio::task::spawn_blocking(move || Journal::<PayerFact>::open(&path))
            .await
            .unwrap()
            .unwrap();
        journal.audit().await.unwrap();
        let opened = facts
            .iter()
            .filter(|f| matches!(f, PayerFact::Out(OutFact::Opened { .. })));
        assert_eq!(
            opened.count(),
            1,
            "{point}: one escrow, however often it began: {facts:?}"
        );
        let rises = facts.iter().filter_map(|fact| match fact {
            PayerFact::Out(OutFact::Signed { k, cumulative, .. }) => Some((*k, *cumulative)),
            _ => None,
        });
        let rises: Vec<_> = rises.collect();
        assert!(
            rises.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1),
            "{point}: no claim is signed again or lower: {rises:?}"
        );
    }
    let audit = world.network.ledger.audit().unwrap();
    assert!(audit.assets.values().all(|asset| asset.difference == 0), "{audit:?}");
    world.network.stop().await;
}
