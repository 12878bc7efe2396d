//! Our relays in every position, C Tor's in the others, with both stock clients: 20 MB each way.

use std::sync::Arc;

use anyhow::ensure;

use crate::Case;
use crate::transfer;
use crate::world::{LENGTH, World};

const GUARD: [&str; 3] = ["obolguard", "ctormiddle", "ctorexit"];
const MIDDLE: [&str; 3] = ["ctormiddle", "obolmiddle", "ctorexit"];
const EXIT: [&str; 3] = ["ctormiddle", "ctorexit", "obolexit"];

pub fn all() -> Vec<Case> {
    vec![
        Case::new("a_c_tor_client_sends_and_gets_20_mb_through_our_guard", |world| {
            Box::pin(with_c_tor(world, GUARD))
        }),
        Case::new("a_c_tor_client_sends_and_gets_20_mb_through_our_middle", |world| {
            Box::pin(with_c_tor(world, MIDDLE))
        }),
        Case::new("a_c_tor_client_sends_and_gets_20_mb_through_our_exit", |world| {
            Box::pin(with_c_tor(world, EXIT))
        }),
        Case::new("an_arti_client_sends_and_gets_20_mb_through_our_guard", |world| {
            Box::pin(with_arti(world, GUARD))
        }),
        Case::new("an_arti_client_sends_and_gets_20_mb_through_our_middle", |world| {
            Box::pin(with_arti(world, MIDDLE))
        }),
        Case::new("an_arti_client_sends_and_gets_20_mb_through_our_exit", |world| {
            Box::pin(with_arti(world, EXIT))
        }),
    ]
}

/// What our relay on the path has carried so far.
async fn carried(world: &World, path: [&str; 3]) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for node in &world.nodes {
        if path.contains(&node.nickname) {
            sum += node.metric("obol_cell_bytes_total").await?;
        }
    }
    Ok(sum)
}

/// Our relay carried both directions.
async fn bore_it(world: &World, path: [&str; 3], before: f64) -> anyhow::Result<()> {
    let carried = carried(world, path).await? - before;
    ensure!(carried > 2.0 * LENGTH as f64, "our relay carried only {carried} bytes");
    Ok(())
}

async fn with_c_tor(world: &World, path: [&str; 3]) -> anyhow::Result<()> {
    let client = world.tor().await?;
    let before = carried(world, path).await?;
    let relays = world.path(&path)?;
    let down = client.pinned(&relays, world.target()).await?;
    world.is_whole(transfer::get(down, "/file", |_| {}).await?)?;
    let up = client.pinned(&relays, world.target()).await?;
    transfer::post(up, LENGTH, 1).await?;
    bore_it(world, path, before).await
}

async fn with_arti(world: &World, path: [&str; 3]) -> anyhow::Result<()> {
    let client = world.arti().await?;
    let before = carried(world, path).await?;
    let tunnel = client.circuit(&world.path(&path)?).await?;
    let target = world.target();
    let host = target.ip().to_string();
    let down = Arc::clone(&tunnel).begin_stream(&host, target.port(), None).await?;
    world.is_whole(transfer::get(down, "/file", |_| {}).await?)?;
    let up = tunnel.begin_stream(&host, target.port(), None).await?;
    transfer::post(up, LENGTH, 2).await?;
    bore_it(world, path, before).await
}
