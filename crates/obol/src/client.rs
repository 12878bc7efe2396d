//! `obol client`: the paying SOCKS proxy, until it is asked to end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use obol_client::{Client, ClientConfig};

#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Its configuration, TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) async fn run(args: ClientArgs) -> anyhow::Result<ExitCode> {
    let config = ClientConfig::load(&args.config)?;
    let client = Client::start(config).await?;
    println!("SOCKS          {}", client.socks_addr());
    if let Some(account) = client.wallet_account() {
        println!("wallet         {account}");
    }
    let mut events = client.events();
    let shown = tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            tracing::info!(?event, "client");
        }
    });
    crate::asked_to_end().await;
    shown.abort();
    client.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
