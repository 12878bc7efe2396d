//! Relays that are started again, keys that change, an authority that is lost: while everything goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tor_linkspec::CircTarget as _;

use crate::Case;
use crate::arti::{Arti, by_rsa};
use crate::renewals::Renewals;
use crate::transfer;
use crate::world::{INTERVAL, World};

const OURS: [&str; 3] = ["obolguard", "obolmiddle", "obolexit"];
/// How long it may take until clients find their way again.
const RECOVER: Duration = Duration::from_secs(180);
/// How long one new client is waited for.
const COMING: Duration = Duration::from_secs(50);

pub fn all() -> Vec<Case> {
    vec![
        Case::new("ntor_and_signing_keys_change_with_circuits_open", |world| {
            Box::pin(rotation(world))
        }),
        Case::new("our_exit_is_started_again_in_mid_download", |world| {
            Box::pin(restart(world, "obolexit"))
        }),
        Case::new("our_middle_is_started_again_in_mid_download", |world| {
            Box::pin(restart(world, "obolmiddle"))
        }),
        Case::new("our_guard_is_started_again_in_mid_download", |world| {
            Box::pin(restart(world, "obolguard"))
        }),
        Case::new("an_authority_is_lost_and_comes_back", |world| {
            Box::pin(authority_lost(world))
        }),
    ]
}

/// A download without end, and how far it is.
struct Flow {
    task: JoinHandle<anyhow::Result<(u64, [u8; 32])>>,
    bytes: Arc<AtomicU64>,
}

impl Flow {
    fn start(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Flow {
        let bytes = Arc::new(AtomicU64::new(0));
        let sink = Arc::clone(&bytes);
        let task = tokio::spawn(async move {
            transfer::get(stream, "/endless", move |got| sink.store(got, Ordering::Relaxed)).await
        });
        Flow { task, bytes }
    }

    /// Waits until a megabyte more has come.
    async fn flows(&self) -> anyhow::Result<()> {
        let goal = self.bytes.load(Ordering::Relaxed) + (1 << 20);
        let flowing = async {
            while self.bytes.load(Ordering::Relaxed) < goal {
                ensure!(!self.task.is_finished(), "the download ended");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        tokio::time::timeout(RECOVER, flowing)
            .await
            .context("the download stands still")?
    }

    /// Waits until it breaks: it must not hang.
    async fn breaks(self) -> anyhow::Result<()> {
        let broken = tokio::time::timeout(RECOVER, self.task).await;
        // An end in mid-body is as good as an error: there is no end to what is served.
        let _ = broken.context("the download hangs")??;
        Ok(())
    }

    fn end(self) {
        self.task.abort();
    }
}

/// Tries until it works.
async fn eventually(what: &str, mut attempt: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let began = std::time::Instant::now();
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > RECOVER => bail!("{what}: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn restart(world: &World, name: &str) -> anyhow::Result<()> {
    world.with_many_guards(false).await?;
    let node = world.node(name)?;
    let stock = world.tor().await?;
    let payer = world.payer().await?;
    let path = world.path(&OURS)?;
    let flow = Flow::start(stock.pinned(&path, world.target()).await?);
    let paying = Flow::start(payer.connect(&format!("before {name}"), world.target()).await?);
    flow.flows().await?;
    paying.flows().await?;
    let escrows = node.state().await?.escrows;
    let open = escrows.iter().filter(|escrow| escrow.state == "open");
    let open: Vec<_> = open.collect();
    ensure!(!open.is_empty(), "{name} has no money to keep: {escrows:?}");

    node.terminate().await?;
    flow.breaks().await?;
    // The same configuration and data directory; that it is who it was is asserted there.
    node.start().await?;
    paying.end();

    let audit = node.control().await?.tell("audit", json!({})).await?;
    ensure!(audit["ok"] == true, "{name}'s books: {audit}");
    let now = node.state().await?.escrows;
    for before in open {
        let found = now.iter().find(|escrow| escrow.escrow == before.escrow);
        let found = found.with_context(|| format!("{name} has forgotten {before:?}"))?;
        ensure!(
            found.cumulative >= before.cumulative && found.k >= before.k && found.deposit == before.deposit,
            "{name} remembers {found:?} instead of {before:?}"
        );
        if found.state != "open" {
            let mut closed = world.closed.lock().unwrap();
            closed.insert(found.escrow.clone(), found.cumulative);
        }
    }
    world.nodes_know_everybody().await?;
    eventually("a stock client's download afterwards", async || {
        let stream = stock.pinned(&path, world.target()).await?;
        world.is_whole(transfer::get(stream, "/file", |_| {}).await?)
    })
    .await?;
    let mut attempt = 0;
    eventually("a paid download afterwards", async || {
        attempt += 1;
        let paid = world.fetched(payer, &format!("after {name} {attempt}")).await?;
        ensure!(
            paid.payments > 0 && paid.paid_hops > 0 && paid.refused == 0,
            "it was not paid: {paid:?}\n{}",
            payer.money()
        );
        if name == "obolguard" {
            // What was held of the escrow that it closed may pay for a while yet; what comes after has one that is open.
            let mut escrows = payer.client.figures().escrows.into_iter();
            let closed = world.closed.lock().unwrap();
            let newer = escrows.any(|escrow| escrow.state == "open" && !closed.contains_key(&escrow.escrow));
            ensure!(newer, "its escrow was closed, and there is no other\n{}", payer.money());
        }
        Ok(())
    })
    .await?;
    world.money.is_conserved()
}

async fn rotation(world: &World) -> anyhow::Result<()> {
    world.with_many_guards(false).await?;
    let stock = world.tor().await?;
    let arti = world.arti().await?;
    let path = world.path(&OURS)?;
    let target = world.target();
    let host = target.ip().to_string();
    let tunnel = arti.circuit(&path).await?;
    let flows = [
        Flow::start(stock.pinned(&path, target).await?),
        Flow::start(tunnel.begin_stream(&host, target.port(), None).await?),
    ];
    for flow in &flows {
        flow.flows().await?;
    }
    let mut keys = Vec::new();
    for node in &world.nodes {
        let rotated = node
            .control()
            .await?
            .tell("rotate-keys", json!({ "signing": true, "onion": true, "links": true }))
            .await?;
        ensure!(rotated["published"] == true, "{}: {rotated}", node.nickname);
        keys.push(hex::decode(rotated["ntor_onion_key"].as_str().context("a key")?)?);
    }
    for flow in &flows {
        flow.flows().await.context("after the keys had changed")?;
    }
    // Both still have the keys of before, and new circuits are made with these.
    let stream = stock.pinned(&path, target).await?;
    world.is_whole(transfer::get(stream, "/file", |_| {}).await?)?;
    drop(arti.circuit(&path).await?);

    // Whoever comes now gets the new keys from our caches, and uses them.
    let two = 2 * Duration::from_secs(INTERVAL.into());
    let mut comers = 0;
    eventually("a new client with the new keys", async || {
        comers += 1;
        let place = world.place(&format!("newcomer{comers}"));
        // One that met a relay just as its keys changed may rest for longer than this; the next one has not met it.
        let network = world.arti_network();
        let coming = tokio::time::timeout(COMING, Arti::start(&place, &network));
        let comer = coming.await.context("the newcomer does not bootstrap")??;
        let netdir = comer.netdir()?;
        for (node, key) in world.nodes.iter().zip(&keys) {
            let relay = by_rsa(&netdir, &node.fingerprint)?;
            ensure!(
                relay.ntor_onion_key().as_bytes()[..] == key[..],
                "{} still has its old key",
                node.nickname
            );
        }
        let tunnel = comer.circuit(&path).await?;
        let stream = tunnel.begin_stream(&host, target.port(), None).await?;
        world.is_whole(transfer::get(stream, "/file", |_| {}).await?)
    })
    .await?;
    world
        .renewals
        .next(2 * two, |renewal| OURS.iter().all(|name| renewal.has(name, "Running")))
        .await?;
    for flow in flows {
        flow.flows().await.context("long after the keys had changed")?;
        flow.end();
    }
    Ok(())
}

async fn authority_lost(world: &World) -> anyhow::Result<()> {
    let (lost, rest) = world.authorities.split_last().context("there are authorities")?;
    let patience = 8 * Duration::from_secs(INTERVAL.into());
    let running = |renewal: &crate::renewals::Renewal| OURS.iter().all(|name| renewal.has(name, "Running"));
    // Just after a consensus: far from the vote, which an authority may lose half-way.
    world.renewals.next(patience, |_| true).await?;
    lost.stop().await;
    let without = world
        .renewals
        .next(patience, |renewal| renewal.signatures == rest.len())
        .await?;
    ensure!(running(&without), "{without:?}");
    // Our relays have it, and go on.
    let stream = world.tor().await?.pinned(&world.path(&OURS)?, world.target()).await?;
    world.is_whole(transfer::get(stream, "/file", |_| {}).await?)?;

    world.renewals.next(patience, |_| true).await?;
    lost.start().await?;
    let whole = |renewal: &crate::renewals::Renewal| renewal.signatures == rest.len() + 1;
    let with = world.renewals.next(patience, whole).await?;
    ensure!(running(&with), "{with:?}");
    // Each authority publishes what all have signed when its own clock says so.
    let at = lost.files.directory_address;
    eventually("the authority has not what it signed", async || {
        let there = Renewals::ask(at).await?;
        ensure!(
            there.valid_after >= with.valid_after,
            "it has the consensus of {}, not that of {}",
            there.valid_after,
            with.valid_after
        );
        Ok(())
    })
    .await?;
    // It knows what we publish.
    for node in &world.nodes {
        let path = format!("/tor/server/fp/{}", node.fingerprint);
        let descriptor = transfer::page(TcpStream::connect(at).await?, &path).await;
        ensure!(
            descriptor.is_ok_and(|text| text.starts_with(b"router ")),
            "it has no descriptor of {}",
            node.nickname
        );
    }
    Ok(())
}
