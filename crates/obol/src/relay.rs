//! `obol relay`: one relay, until it is asked to end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use obol_relay::config::Config;

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
        println!("relay          {} at {address}", hex::encode_upper(relay.rsa()));
    }
    if let Some(gateway) = relay.gateway_address() {
        println!("gateway        http://{gateway}/metrics");
    }
    // Not even a journal that fails is a reason: the relay goes on unpaid, and says so.
    tokio::select! {
        () = crate::asked_to_end() => {}
        () = end_of_input(), if args.end_with_input => {}
    }
    relay.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// On a thread of its own: it is left behind when the relay ends for another reason.
async fn end_of_input() {
    let ended = tokio::task::spawn_blocking(|| {
        let mut buffer = [0; 64];
        while let Ok(1..) = std::io::Read::read(&mut std::io::stdin(), &mut buffer) {}
    });
    let _ = ended.await;
}
