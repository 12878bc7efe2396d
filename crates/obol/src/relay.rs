//! `obol relay`: one relay, until it is asked to end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use obol_relay::config::Config;
use tokio::io::AsyncReadExt;

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// Its configuration (see `obol config example`).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End when standard input ends: for a parent process that must not leave a relay behind.
    #[arg(long, hide = true)]
    end_with_input: bool,
}

pub(crate) async fn run(args: RelayArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    let relay = obol_relay::run::run(config).await?;
    for address in relay.addresses() {
        println!("relay          {} at {address}", hex::encode_upper(relay.fingerprint()));
    }
    if let Some(gateway) = relay.gateway_address() {
        println!("gateway        http://{gateway}/metrics");
    }
    if args.end_with_input {
        tokio::select! {
            () = crate::asked_to_end() => {}
            () = end_of_input() => {}
        }
    } else {
        crate::asked_to_end().await;
    }
    relay.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

async fn end_of_input() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 64];
    while let Ok(1..) = input.read(&mut buffer).await {}
}
