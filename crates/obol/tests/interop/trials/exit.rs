//! What else an exit does: names, and its policy.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{bail, ensure};
use futures::FutureExt as _;
use tor_proto::Error;

use crate::Case;
use crate::world::World;

const PATH: [&str; 3] = ["ctormiddle", "ctorexit", "obolexit"];

pub fn all() -> Vec<Case> {
    vec![
        Case::new(
            "a_c_tor_client_looks_names_and_addresses_up_through_our_exit",
            |world| Box::pin(names_with_c_tor(world)),
        ),
        Case::new(
            "an_arti_client_looks_names_and_addresses_up_through_our_exit",
            |world| Box::pin(names_with_arti(world)),
        ),
        Case::new("our_exit_refuses_a_c_tor_client_what_its_policy_rejects", |world| {
            Box::pin(policy_with_c_tor(world))
        }),
        Case::new("our_exit_refuses_an_arti_client_what_its_policy_rejects", |world| {
            Box::pin(policy_with_arti(world))
        }),
    ]
}

/// A machine may have many names for its own address; each of them leads back there.
fn is_own_name(name: &str) -> anyhow::Result<()> {
    let addresses: Vec<SocketAddr> = (name, 0).to_socket_addrs()?.collect();
    let leads_back = addresses.iter().any(|address| address.ip() == Ipv4Addr::LOCALHOST);
    ensure!(leads_back, "127.0.0.1 is called {name}, which is {addresses:?}");
    Ok(())
}

async fn names_with_c_tor(world: &World) -> anyhow::Result<()> {
    let client = world.tor().await?;
    let path = world.path(&PATH)?;
    let address = client.resolve(&path, "localhost").await?;
    ensure!(address == Ipv4Addr::LOCALHOST, "localhost is {address}");
    let name = client.resolve_ptr(&path, Ipv4Addr::LOCALHOST).await?;
    is_own_name(&name)
}

async fn names_with_arti(world: &World) -> anyhow::Result<()> {
    let tunnel = world.arti().await?.circuit(&world.path(&PATH)?).await?;
    let addresses = tunnel.resolve("localhost").await?;
    ensure!(
        addresses.contains(&Ipv4Addr::LOCALHOST.into()),
        "localhost is {addresses:?}"
    );
    let names = tunnel.resolve_ptr(Ipv4Addr::LOCALHOST.into()).await?;
    ensure!(!names.is_empty(), "127.0.0.1 has no name");
    names.iter().try_for_each(|name| is_own_name(name))
}

/// Nobody has connected to the forbidden port.
fn untouched(world: &World) -> anyhow::Result<()> {
    ensure!(
        world.forbidden.accept().now_or_never().is_none(),
        "our exit connected to a forbidden port"
    );
    Ok(())
}

async fn policy_with_c_tor(world: &World) -> anyhow::Result<()> {
    let event = world
        .tor()
        .await?
        .refused(&world.path(&PATH)?, world.forbidden.local_addr()?)
        .await?;
    ensure!(event.contains("REMOTE_REASON=EXITPOLICY"), "the exit said {event:?}");
    untouched(world)
}

async fn policy_with_arti(world: &World) -> anyhow::Result<()> {
    let tunnel = world.arti().await?.circuit(&world.path(&PATH)?).await?;
    let target = world.forbidden.local_addr()?;
    let host = target.ip().to_string();
    let begun = tunnel.begin_stream(&host, target.port(), None);
    match tokio::time::timeout(Duration::from_secs(60), begun).await? {
        Ok(_) => bail!("the exit connected to {target}"),
        Err(Error::EndReceived(reason)) => {
            ensure!(
                reason == tor_cell::relaycell::msg::EndReason::EXITPOLICY,
                "the exit said {reason}"
            );
        }
        Err(error) => bail!("the exit did not answer: {error}"),
    }
    untouched(world)
}
