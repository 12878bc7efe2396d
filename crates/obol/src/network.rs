//! `obol network`: everything on this machine, until it is asked to end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use obol_client::Pay;
use obol_testnet::network::{Network, NetworkOptions, Stage};

use crate::NetworkArgs;
use crate::demo::workplace::Workplace;

/// The relay that the user may start: nickname, and name of its directory.
const MY_RELAY: &str = "myrelay";
/// The same of the client.
const MY_CLIENT: &str = "myclient";
/// From one consensus to the next: the least that C Tor takes.
const CONSENSUS: Duration = Duration::from_secs(300);

pub(crate) async fn run(args: NetworkArgs) -> anyhow::Result<ExitCode> {
    let place = Workplace::new(args.keep.as_deref())?;
    let mut options = NetworkOptions::new(place.path());
    options.relays = args.relays.into();
    options.wallets = 2;
    options.guests = vec![MY_RELAY.to_owned()];
    options.consensus_interval = CONSENSUS;
    options.relay_program = args
        .processes
        .then(std::env::current_exe)
        .transpose()
        .context("where is this program?")?;
    let up = async {
        let network = Network::start(options, |stage| println!("{}", say(stage))).await?;
        let client = network.client("client", Some(Pay::Always)).await?;
        anyhow::Ok((network, client))
    };
    let (network, client) = tokio::select! {
        up = up => up?,
        () = crate::asked_to_end() => return Ok(ExitCode::SUCCESS),
    };
    let arti = place.path().join("arti.toml");
    std::fs::write(&arti, network.arti_toml(&place.path().join("arti")))
        .with_context(|| format!("cannot write {}", arti.display()))?;
    let my_client = write_my_client(&network, place.path())?;
    println!("SOCKS          {} (this client pays)", client.socks_addr());
    println!("Horizon API    {}", network.ledger_url());
    println!("authority      {}", network.authority.address());
    for relay in &network.relays {
        println!(
            "{:<14} {} at {}, gateway {}",
            relay.nickname,
            relay.fingerprint,
            relay.or,
            relay.control.address()
        );
    }
    println!(
        "arti           arti -c {} proxy   (a stock client, unpaid)",
        arti.display()
    );
    println!("Of your own, with money:");
    println!("client         obol client --config {}", my_client.display());
    for relay in &network.guests {
        println!("relay          obol relay --config {}", relay.display());
    }
    println!(
        "               (others know it by the next consensus: {} minutes at most)",
        CONSENSUS.as_secs() / 60
    );
    println!("Ctrl-C ends all of it.");
    tokio::select! {
        () = crate::asked_to_end() => {}
        () = list_newcomers(&network) => {}
    }
    client.shutdown().await;
    network.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Writes the configuration of a client with money and a dashboard, for the user to start.
fn write_my_client(network: &Network, directory: &Path) -> anyhow::Result<PathBuf> {
    let directory = directory.join(MY_CLIENT);
    let mut config = network.client_config(&directory, Some(Pay::Always))?;
    config.gateway.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let file = directory.join("client.toml");
    std::fs::write(&file, toml::to_string(&config)?).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Makes a new consensus whenever another relay has published: nobody waits for the next one to be listed. Never ends.
async fn list_newcomers(network: &Network) {
    let mut listed = network.relays.len();
    loop {
        network.authority.wait_for(listed + 1).await;
        listed = network.authority.known().len();
        if let Err(error) = network.authority.publish_now().await {
            tracing::warn!(%error, "no new consensus");
        }
    }
}

pub(crate) fn say(stage: Stage) -> String {
    match stage {
        Stage::Money => "ledger: an asset is issued, everybody has an account".to_owned(),
        Stage::Authority => "directory authority: up".to_owned(),
        Stage::Relays(n) => format!("{n} relays: up and published"),
        Stage::Consensus => "consensus: signed".to_owned(),
    }
}
