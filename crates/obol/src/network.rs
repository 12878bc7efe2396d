//! `obol network`: everything on this machine, until it is asked to end.

use std::process::ExitCode;

use anyhow::Context;
use obol_client::Pay;
use obol_testnet::network::{Network, NetworkOptions, Stage};

use crate::NetworkArgs;
use crate::demo::workplace::Workplace;

pub(crate) async fn run(args: NetworkArgs) -> anyhow::Result<ExitCode> {
    let place = Workplace::new(args.keep.as_deref())?;
    let mut options = NetworkOptions::new(place.path());
    options.relays = args.relays.into();
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
    println!("Ctrl-C ends all of it.");
    crate::asked_to_end().await;
    client.shutdown().await;
    network.stop().await;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn say(stage: Stage) -> String {
    match stage {
        Stage::Money => "ledger: an asset is issued, everybody has an account".to_owned(),
        Stage::Authority => "directory authority: up".to_owned(),
        Stage::Relays(n) => format!("{n} relays: up and published"),
        Stage::Consensus => "consensus: signed".to_owned(),
    }
}
