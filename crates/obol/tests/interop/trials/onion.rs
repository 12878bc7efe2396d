//! Onion services of both kinds, reached by clients of all three kinds, with our relays for introduction, rendezvous and directory.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use arti_client::StreamPrefs;
use arti_client::config::BoolOrAuto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use crate::Case;
use crate::services::Host;
use crate::transfer;
use crate::world::World;

/// Clients and services choose their relays themselves; so long they are asked for new ones, until both points are ours. A service may first have told
/// of one point only, or have a descriptor of the period of time before.
const PATIENCE: Duration = Duration::from_secs(480);
/// A service may have chosen none of ours: where nothing was introduced by us in this time, another service is started. C Tor's has three points among
/// seven relays. Arti's publishes what it has a tenth of a second after its first one, and tells of the others only much later.
const PATIENCE_WITH_SERVICE: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// What is fetched in each attempt is the whole file.
const PAGE: &str = "/file";

pub fn all() -> Vec<Case> {
    vec![
        Case::new(
            "a_c_tor_client_reaches_a_c_tor_onion_service_over_our_relays",
            |world| Box::pin(with_c_tor(world, Host::CTor)),
        ),
        Case::new(
            "a_c_tor_client_reaches_an_arti_onion_service_over_our_relays",
            |world| Box::pin(with_c_tor(world, Host::Arti)),
        ),
        Case::new(
            "an_arti_client_reaches_a_c_tor_onion_service_over_our_relays",
            |world| Box::pin(with_arti(world, Host::CTor)),
        ),
        Case::new(
            "an_arti_client_reaches_an_arti_onion_service_over_our_relays",
            |world| Box::pin(with_arti(world, Host::Arti)),
        ),
        Case::new(
            "an_obol_client_reaches_a_c_tor_onion_service_over_our_relays",
            |world| Box::pin(with_obol(world, Host::CTor)),
        ),
        Case::new(
            "an_obol_client_reaches_an_arti_onion_service_over_our_relays",
            |world| Box::pin(with_obol(world, Host::Arti)),
        ),
    ]
}

/// The service's name.
async fn name(world: &World, host: Host) -> anyhow::Result<String> {
    world.with_many_guards(true).await?;
    world.service(host).await
}

/// How many introductions our relays have passed on, and how many circuits they have joined.
async fn counted(world: &World) -> anyhow::Result<(f64, f64)> {
    let (mut introductions, mut rendezvous) = (0.0, 0.0);
    for node in &world.nodes {
        introductions += node.metric("obol_introductions_total{outcome=\"delivered\"}").await?;
        rendezvous += node.metric("obol_rendezvous_total{outcome=\"joined\"}").await?;
    }
    Ok((introductions, rendezvous))
}

/// Fetches the file over connections that `connect` makes anew each time to the service of this name, until one was introduced by one of our relays
/// and met its service at one. The directories of onion services are all ours.
async fn reached<S: AsyncRead + AsyncWrite + Unpin>(
    world: &World,
    host: Host,
    mut connect: impl AsyncFnMut(&str, usize) -> anyhow::Result<S>,
) -> anyhow::Result<()> {
    let mut service = name(world, host).await?;
    let consensus = world.renewals.all().into_iter().next_back().unwrap();
    for (relay, flags) in &consensus.flags {
        let directory = flags.iter().any(|flag| flag == "HSDir");
        let ours = world.nodes.iter().any(|node| node.nickname == relay);
        ensure!(directory == ours, "{relay} has the flags {flags:?}");
    }
    let (mut introductions, mut rendezvous, mut failures) = (0, 0, Vec::new());
    let (began, mut attempt) = (Instant::now(), 0);
    let mut asked_for = began;
    while began.elapsed() < PATIENCE {
        if introductions == 0 && asked_for.elapsed() > PATIENCE_WITH_SERVICE {
            world.replace_service(host).await?;
            service = name(world, host).await?;
            asked_for = Instant::now();
        }
        attempt += 1;
        let before = counted(world).await?;
        match connect(&service, attempt).await {
            Ok(stream) => world.is_whole(transfer::get(stream, PAGE, |_| {}).await?)?,
            // A descriptor that is not there yet, or a point that has gone: clients try again.
            Err(error) => {
                failures.push(format!("{error:#}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        }
        let after = counted(world).await?;
        introductions += usize::from(after.0 > before.0);
        rendezvous += usize::from(after.1 > before.1);
        if introductions > 0 && rendezvous > 0 {
            crate::say(&format!("  at attempt {attempt}, {} of which failed", failures.len()));
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!(
        "{introductions} introductions and {rendezvous} rendezvous by our relays in {attempt} attempts; failures: {failures:#?}"
    )
}

async fn with_c_tor(world: &World, host: Host) -> anyhow::Result<()> {
    let client = world.onion_client().await?;
    reached(world, host, async |service, attempt| {
        // It keeps a descriptor, with all its points, until it forgets everything.
        client.control().await.tell("SIGNAL NEWNYM").await?;
        let user = format!("attempt {attempt}");
        // What differs in the credentials is kept apart, rendezvous included.
        let stream: TcpStream = Socks5Stream::connect_with_password(client.socks, (service, 80), &user, "x")
            .await?
            .into_inner();
        Ok(stream)
    })
    .await
}

async fn with_arti(world: &World, host: Host) -> anyhow::Result<()> {
    let client = world.arti().await?;
    let mut prefs = StreamPrefs::new();
    prefs.connect_to_onion_services(BoolOrAuto::Explicit(true));
    reached(world, host, async |service, _| {
        let alone = client.client.isolated_client();
        Ok(alone.connect_with_prefs((service, 80), &prefs).await?)
    })
    .await
}

async fn with_obol(world: &World, host: Host) -> anyhow::Result<()> {
    let payer = world.payer().await?;
    reached(world, host, async |service, attempt| {
        let user = format!("{service} {attempt}");
        let connecting = Socks5Stream::connect_with_password(payer.client.socks_addr(), (service, 80), &user, "x");
        Ok(connecting.await?.into_inner())
    })
    .await
}
