//! What the network thinks of our relays.

use std::time::Duration;

use anyhow::ensure;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use crate::Case;
use crate::tor::TorClient;
use crate::transfer;
use crate::world::World;

pub fn in_the_beginning() -> Vec<Case> {
    vec![
        Case::new(
            "our_relays_are_in_the_consensus_with_the_flags_that_they_earn",
            |world| Box::pin(flags(world)),
        ),
        Case::new("a_c_tor_client_bootstraps_from_our_directory_cache_alone", |world| {
            Box::pin(bootstraps_from_us_alone(world))
        }),
    ]
}

async fn flags(world: &World) -> anyhow::Result<()> {
    let everywhere = ["Fast", "HSDir", "Running", "Stable", "Valid", "V2Dir"];
    let wanted: Vec<(&str, &str)> = world
        .nodes
        .iter()
        .flat_map(|node| everywhere.map(|flag| (node.nickname, flag)))
        .chain([("obolguard", "Guard"), ("obolexit", "Exit")])
        .collect();
    let good = |renewal: &crate::renewals::Renewal| wanted.iter().all(|(relay, flag)| renewal.has(relay, flag));
    let renewal = world.renewals.next(Duration::from_secs(120), good).await?;
    ensure!(renewal.signatures == world.authorities.len(), "{renewal:?}");
    for node in ["obolguard", "obolmiddle"] {
        ensure!(!renewal.has(node, "Exit"), "{node} is no exit");
    }
    Ok(())
}

/// The client knows the authorities' keys, but not where they are: whatever it learns, it learns from our relay.
async fn bootstraps_from_us_alone(world: &World) -> anyhow::Result<()> {
    let guard = &world.nodes[0];
    let before = guard.metric("obol_directory_bytes_total").await?;
    let mut torrc = obol_testnet::ctor::Torrc::new()
        .fallback(guard.or, guard.rsa)
        .set("EntryNodes", format_args!("${}", guard.fingerprint));
    for authority in &world.authorities {
        let mut nowhere = authority.files.clone();
        (nowhere.or_port, nowhere.directory_address) = (1, "127.0.0.1:1".parse()?);
        torrc = torrc.lines(&nowhere.line());
    }
    let client = TorClient::start(&world.place("bootstrapper"), torrc).await?;
    let stream: TcpStream = Socks5Stream::connect(client.socks, world.target()).await?.into_inner();
    ensure!(transfer::page(stream, "/hello").await? == b"hello\n");
    let links = client.control().await.info("orconn-status").await?;
    let others: Vec<&String> = links
        .iter()
        .filter(|link| !link.contains(&guard.fingerprint) && link.contains("CONNECTED"))
        .collect();
    ensure!(others.is_empty(), "it has links to others: {links:?}");
    let served = guard.metric("obol_directory_bytes_total").await? - before;
    ensure!(served > 0.0, "our guard served it nothing");
    Ok(())
}
