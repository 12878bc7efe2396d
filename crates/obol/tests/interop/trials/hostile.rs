//! A peer that breaks every rule.

use anyhow::ensure;
use obol_testnet::hostile;

use crate::Case;
use crate::world::World;

pub fn all() -> Vec<Case> {
    vec![Case::new(
        "a_hostile_peer_costs_our_relay_its_own_links_and_circuits_only",
        |world| Box::pin(attacked(world)),
    )]
}

async fn attacked(world: &World) -> anyhow::Result<()> {
    let middle = world.node("obolmiddle")?;
    match hostile::attack(middle.or).await {
        Ok(cases) => ensure!(cases > 100, "only {cases} cases"),
        Err(failures) => {
            let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
            anyhow::bail!("{} failures:\n{}", failures.len(), failures.join("\n"));
        }
    }
    // The same process goes on serving others.
    let log = middle.log();
    ensure!(!log.contains("panicked"), "it panicked");
    Ok(())
}
