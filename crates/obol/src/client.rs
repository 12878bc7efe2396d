//! `obol client`: the paying SOCKS proxy, until it is asked to end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use obol_client::{Client, ClientConfig};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Its configuration, TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, one object a line: first where everything is, then each thing that happens.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: ClientArgs) -> anyhow::Result<ExitCode> {
    let config = ClientConfig::load(&args.config)?;
    let client = Client::start(config).await?;
    let mut events = client.events();
    let services = client.figures().services;
    if args.json {
        let services: Vec<_> = services
            .iter()
            .map(|service| json!({ "nickname": service.nickname, "address": service.address }))
            .collect();
        let (socks, wallet) = (client.socks_addr(), client.wallet_account());
        println!(
            "{}",
            json!({ "event": "started", "socks": socks, "wallet": wallet, "services": services })
        );
    } else {
        println!("SOCKS          {}", client.socks_addr());
        if let Some(account) = client.wallet_account() {
            println!("wallet         {account}");
        }
        for service in services {
            println!("onion service  {}  {}", service.address, service.nickname);
        }
    }
    let shown = tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(event) if args.json => match serde_json::to_string(&event) {
                    Ok(line) => println!("{line}"),
                    Err(error) => tracing::warn!(%error, "an event cannot be shown"),
                },
                Ok(event) => tracing::info!(?event, "client"),
                // Too slow for some of them; the next ones come all the same.
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "events were missed"),
                Err(RecvError::Closed) => return,
            }
        }
    });
    crate::asked_to_end().await;
    shown.abort();
    client.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
