//! Consensuses come and go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use obol_client::Pay;
use serde_json::json;

use crate::Case;
use crate::client::Payer;
use crate::renewals::Renewal;
use crate::transfer;
use crate::world::{INTERVAL, World};

/// So many in a row, counted from the start of the suite.
const RENEWALS: usize = 50;
/// How long it may take until the client pays our guard.
const PAID_AGAIN: Duration = Duration::from_secs(300);
/// Ledgers until an escrow's account may be merged.
const LEDGERS_TO_MERGE: u32 = 70;

pub fn all() -> Vec<Case> {
    vec![
        Case::new("fifty_consensuses_in_a_row_lose_no_relay_and_no_payment", |world| {
            Box::pin(fifty(world))
        })
        .long(),
    ]
}

/// The consensuses since the network was complete.
fn since_complete(world: &World) -> Vec<Renewal> {
    let all = world.renewals.all();
    let complete = |renewal: &Renewal| world.nodes.iter().all(|node| renewal.has(node.nickname, "Running"));
    let first = all.iter().position(complete).unwrap_or(all.len());
    all[first..].to_vec()
}

async fn fifty(world: &World) -> anyhow::Result<()> {
    let payer = world.payer().await?;
    is_paid_again(world, payer).await?;
    let mut download = 0;
    loop {
        let renewals = since_complete(world);
        for pair in renewals.windows(2) {
            let step = pair[1].valid_after - pair[0].valid_after;
            ensure!(
                step == i64::from(INTERVAL),
                "one was left out: {step} s lie between {pair:?}"
            );
        }
        for renewal in &renewals {
            for node in &world.nodes {
                ensure!(
                    renewal.has(node.nickname, "Running"),
                    "{} was lost in {renewal:?}",
                    node.nickname
                );
            }
        }
        if renewals.len() > RENEWALS {
            break;
        }
        if download % 5 == 0 {
            crate::say(&format!("  {} of {RENEWALS} consensuses", renewals.len() - 1));
        }
        download += 1;
        let tunnel = world.fetched(payer, &format!("renewal {download}")).await?;
        ensure!(
            tunnel.payments > 0 && tunnel.refused == 0,
            "download {download} was not paid: {tunnel:?}\n{}",
            payer.money()
        );
        world
            .renewals
            .next(2 * Duration::from_secs(INTERVAL.into()), |_| true)
            .await?;
    }
    keeps_up(world).await?;
    settles(world).await
}

/// Waits until downloads by way of our guard are paid. Since it was started again the client may have been with another one: then the escrow, which the
/// guard closed when it ended, is replaced only when a tunnel begins there anew, and 20 MB are there before the ledger has it.
async fn is_paid_again(world: &World, payer: &Payer) -> anyhow::Result<()> {
    let (began, mut attempt) = (Instant::now(), 0);
    loop {
        attempt += 1;
        let tunnel = world.fetched(payer, &format!("before renewals {attempt}")).await?;
        let guard = tunnel.hops.first().map(|hop| &hop.fingerprint);
        if tunnel.payments > 0 && guard == Some(&world.node("obolguard")?.fingerprint) {
            return Ok(());
        }
        ensure!(
            began.elapsed() < PAID_AGAIN,
            "nothing is paid by way of our guard: {tunnel:?}\n{}",
            payer.money()
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Our caches hold the newest consensus, or the one before.
async fn keeps_up(world: &World) -> anyhow::Result<()> {
    let newest = world.renewals.all().last().context("there is a consensus")?.valid_after;
    for node in &world.nodes {
        let tunnel = world
            .arti()
            .await?
            .circuit(std::slice::from_ref(&node.fingerprint))
            .await?;
        let stream = Arc::clone(&tunnel).begin_dir_stream().await?;
        let body = transfer::page(stream, "/tor/status-vote/current/consensus-microdesc").await?;
        let held = Renewal::parse(&String::from_utf8(body)?)?.valid_after;
        ensure!(
            held + i64::from(INTERVAL) >= newest,
            "{} is {} s behind",
            node.nickname,
            newest - held
        );
    }
    Ok(())
}

/// Everything that was signed is settled, to the stroop; where a relay was stopped meanwhile, everything that it had taken before it closed the escrow:
/// what is signed after that is refused, and stays the client's.
async fn settles(world: &World) -> anyhow::Result<()> {
    let payer = world.payer().await?;
    // Tunnels go on buying until nobody uses them; from here on nothing more is signed.
    payer.client.set_pay(Pay::Never);
    let merging = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.money.ledger.advance(0, LEDGERS_TO_MERGE)?;
        }
        #[allow(unreachable_code, reason = "it names the type of the error")]
        anyhow::Ok(())
    };
    tokio::select! {
        closed = payer.client.close_escrows(Duration::from_secs(300)) => closed?,
        failed = merging => failed?,
    }
    for escrow in payer.client.figures().escrows {
        let closed = world.closed.lock().unwrap().get(&escrow.escrow).copied();
        let owed = closed.unwrap_or(escrow.signed);
        ensure!(
            escrow.settled == Some(owed) && owed > 0 && owed <= escrow.signed,
            "{owed} are owed: {escrow:?}"
        );
    }
    for node in &world.nodes {
        let audit = node.control().await?.tell("audit", json!({})).await?;
        ensure!(audit["ok"] == true, "{}'s books: {audit}", node.nickname);
    }
    world.money.is_conserved()
}
