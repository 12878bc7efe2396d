//! `obol client`: the paying SOCKS proxy, until it is asked to end.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use obol_client::{Client, ClientConfig};
use obol_stellar::wallet::qr::Qr;
use obol_stellar::wallet::request::PayRequest;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::wallet::source::Source;

#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Its configuration, TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, one object a line: first where everything is, then each thing that happens.
    #[arg(long)]
    json: bool,
}

/// How to send money to a wallet that has opened no escrow yet (what it holds is not known before the ledger was asked); nothing without payments.
fn funding(config: &std::path::Path) {
    let Ok(source) = Source::load(config) else { return };
    let (Ok((passphrase, asset)), Ok(account)) = (source.ledger(), source.account()) else {
        return;
    };
    let mut request = PayRequest::new(account.account(), &obol_stellar::Network::new(passphrase));
    request.asset = Some(asset.asset());
    let uri = request.to_string();
    if std::io::stdout().is_terminal()
        && let Ok(qr) = Qr::new(&uri)
    {
        println!("\n{}", qr.text(false));
    }
    println!("fund it        {uri}");
    println!(
        "               and with lumens: obol wallet fund --lumens --config {}",
        config.display()
    );
    println!("While it is empty, circuits are served in the unpaid class.");
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
        if let Some(address) = client.gateway_addr() {
            println!("dashboard      http://{address}/");
        }
        if let Some(account) = client.wallet_account() {
            println!("wallet         {account}");
        }
        for service in services {
            println!("onion service  {}  {}", service.address, service.nickname);
        }
    }
    if !args.json && client.figures().escrows.is_empty() {
        funding(&args.config);
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
