//! Paying in a mixed network.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use obol_client::TunnelFigures;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tor_cell::relaycell::RelayCmd;
use tor_cell::relaycell::msg::Unrecognized;

use crate::Case;
use crate::transfer;
use crate::world::World;

pub fn all() -> Vec<Case> {
    vec![
        Case::new(
            "our_guard_and_middle_are_paid_before_a_c_tor_exit_and_a_stock_client_gets_what_is_left",
            |world| Box::pin(side_by_side(world, "a C Tor exit", GUARD_AND_MIDDLE, 2)),
        ),
        Case::new(
            "our_guard_alone_is_paid_where_a_c_tor_middle_comes_before_our_exit",
            |world| Box::pin(side_by_side(world, "a C Tor middle", GUARD_AND_EXIT, 1)),
        ),
        Case::new("payment_cells_are_never_sent_to_c_tor_relays", |world| {
            Box::pin(none_astray(world))
        }),
        Case::new("a_measuring_client_sees_what_a_paid_relay_has_to_spare", |world| {
            Box::pin(measured(world))
        }),
    ]
}

/// What the guard carries in trials of who gets how much of it, bytes a second: so little that nothing else is a limit, not even on a busy machine.
const RATE: u64 = 512 << 10;
/// What is downloaded then.
const SAMPLE: u64 = 6 << 20;
const GUARD_AND_MIDDLE: [&str; 3] = ["obolguard", "obolmiddle", "ctorexit"];
const GUARD_AND_EXIT: [&str; 3] = ["obolguard", "ctormiddle", "obolexit"];

/// Limits what a relay carries; `None`: no longer.
async fn limit(world: &World, node: &str, rate: Option<u64>) -> anyhow::Result<()> {
    let control = world.node(node)?.control().await?;
    control.tell("rate", json!({ "bytes_per_second": rate })).await?;
    Ok(())
}

/// Runs with a relay limited, and takes the limit away whatever happens.
async fn limited<T>(world: &World, node: &str, trial: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    limit(world, node, Some(RATE)).await?;
    let outcome = trial.await;
    limit(world, node, None).await?;
    outcome
}

/// One paying download and one of a stock client through the same guard, which is the narrowest place: what the first got while the second was served,
/// and the first one's tunnel.
async fn side_by_side(world: &World, what: &str, names: [&str; 3], paid_hops: u8) -> anyhow::Result<()> {
    let payer = world.payer().await?;
    let stock = world.tor().await?;
    let path = world.path(&names)?;
    let (user, number) = payer.find(what, world.target(), |hops| hops == path).await?;
    let before = payer.tunnel(number)?;
    let unpaid = limited(world, "obolguard", async {
        let competing = stock.pinned(&path, world.target()).await?;
        let mut unpaid = 0;
        let downloading = async { transfer::take(payer.connect(&user, world.target()).await?, SAMPLE).await };
        let strangers = transfer::get(competing, "/endless", |bytes| unpaid = bytes);
        tokio::select! {
            paid = downloading => paid?,
            other = strangers => anyhow::bail!("the stock client's endless download ended: {other:?}"),
        }
        Ok(unpaid)
    })
    .await?;
    let ratio = SAMPLE as f64 / unpaid as f64;
    crate::say(&format!("  paid to unpaid {ratio:.1} : 1"));
    ensure!(unpaid > 0, "the stock client was not served");
    ensure!(
        ratio > 3.0,
        "the paid download got only {ratio:.1} times what the unpaid one got"
    );
    let tunnel = payer.tunnel(number)?;
    was_paid(&before, &tunnel, paid_hops)
}

/// Just the first `paid_hops` hops of a tunnel were paid, for all that came through it since.
fn was_paid(before: &TunnelFigures, after: &TunnelFigures, paid_hops: u8) -> anyhow::Result<()> {
    ensure!(
        after.paid_hops == paid_hops,
        "{} hops were paid: {after:?}",
        after.paid_hops
    );
    ensure!(after.payments > before.payments && after.refused == 0, "{after:?}");
    let carried = after.payload_received - before.payload_received;
    ensure!(
        after.bought - before.bought >= carried / 2,
        "hardly anything was bought: {after:?}"
    );
    for (place, hop) in after.hops.iter().enumerate() {
        let to_be_paid = place < usize::from(paid_hops);
        ensure!((hop.paid > 0) == to_be_paid, "hop {}: {after:?}", place + 1);
    }
    Ok(())
}

/// What C Tor writes when it gets a message of a kind that it does not know. It is a protocol warning, which all of ours are told to show.
const UNKNOWN: &str = "Received unknown relay command";

/// The client talks to hops that can be paid and to no others; so that we know that we would see it, one such cell is then sent on purpose, by a stock
/// client.
async fn none_astray(world: &World) -> anyhow::Result<()> {
    let payer = world.payer().await?;
    for (what, names) in [
        ("before a C Tor exit", GUARD_AND_MIDDLE),
        ("around a C Tor middle", GUARD_AND_EXIT),
    ] {
        let path = world.path(&names)?;
        let (user, number) = payer.find(what, world.target(), |hops| hops == path).await?;
        transfer::take(payer.connect(&user, world.target()).await?, 4 << 20).await?;
        let tunnel = payer.tunnel(number)?;
        ensure!(
            tunnel.payments > 0,
            "no payment was made that could have gone astray: {tunnel:?}"
        );
    }
    for relay in &world.relays {
        let log = relay.log();
        let astray: Vec<&str> = log.lines().filter(|line| line.contains(UNKNOWN)).collect();
        ensure!(astray.is_empty(), "{} got {astray:?}", relay.nickname);
    }
    // Relays hold escrows to each other, and to nobody else.
    let ours: Vec<String> = world.nodes.iter().map(|node| hex::encode(node.ed)).collect();
    for node in &world.nodes {
        let state = node.control().await?.state().await?;
        for escrow in state["escrows"].as_array().context("a list of escrows")? {
            let peer = escrow["peer"].as_str();
            ensure!(
                escrow["direction"] != "out" || peer.is_some_and(|peer| ours.iter().any(|id| id == peer)),
                "{} has an escrow to a stranger: {escrow}",
                node.nickname
            );
        }
    }

    let scapegoat = &world.relays[0];
    let tunnel = world
        .arti()
        .await?
        .circuit_in_the_old_format(&world.path(&["obolguard", "ctormiddle"])?)
        .await?;
    let cell = Unrecognized::new(RelayCmd::from(obol_cell::CMD_TO_NODE), vec![0; 8]);
    tunnel.send_raw_msg(cell.into(), tunnel.last_hop()?).await?;
    let mut tor = scapegoat.tor.lock().await;
    let line = tor.says(&[UNKNOWN], Duration::from_secs(60)).await?;
    world.provoked.lock().unwrap().push(line);
    Ok(())
}

/// How long the sample takes, in seconds.
async fn timed(stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<f64> {
    let began = Instant::now();
    transfer::take(stream, SAMPLE).await?;
    Ok(began.elapsed().as_secs_f64())
}

/// A measuring client has circuits of two hops, does not pay, and downloads much. What it measures of a relay that has capacity to spare is the relay's
/// capacity: the same as a paying client gets out of it.
async fn measured(world: &World) -> anyhow::Result<()> {
    let payer = world.payer().await?;
    let arti = world.arti().await?;
    let path = world.path(&GUARD_AND_MIDDLE)?;
    let (user, _) = payer
        .find("a paid download", world.target(), |hops| hops == path)
        .await?;
    let target = world.target();
    let (paid, unpaid) = limited(world, "obolguard", async {
        let stream = payer.connect(&user, target).await?;
        let paid = timed(stream).await?;
        let tunnel = arti.circuit(&world.path(&["obolguard", "ctorexit"])?).await?;
        let stream = tunnel
            .begin_stream(&target.ip().to_string(), target.port(), None)
            .await?;
        let unpaid = timed(stream).await?;
        Ok((paid, unpaid))
    })
    .await?;
    let ratio = paid / unpaid;
    crate::say(&format!("  the measured rate is {ratio:.2} of the paid one"));
    ensure!(
        ratio > 0.75,
        "the measuring client sees {ratio:.2} of what the relay can carry"
    );
    Ok(())
}
