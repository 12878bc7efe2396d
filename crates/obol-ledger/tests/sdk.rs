//! The official Python SDK against the server. Skipped with a message where `stellar-sdk` is not installed, unless `CI=true`.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::process::Command;
use std::sync::Arc;

use obol_ledger::{Closing, Ledger, LedgerConfig, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_loads_pays_bumps_pages_and_streams() {
    let config = LedgerConfig {
        closing: Closing::OnDemand,
        ..LedgerConfig::default()
    };
    let ledger = Arc::new(Ledger::open(config).unwrap());
    let server = server::serve(Arc::clone(&ledger), "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let python = std::env::var("OBOL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk_smoke.py");
    let url = server.url();
    let output = tokio::task::spawn_blocking(move || Command::new(python).arg(script).arg(url).output())
        .await
        .unwrap();
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) if output.status.code() == Some(77) && !ci => {
            eprintln!(
                "skipped: pip install stellar-sdk to run this ({})",
                String::from_utf8_lossy(&output.stdout).trim()
            );
            return;
        }
        Ok(output) => panic!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) if !ci => {
            eprintln!("skipped: no Python ({error})");
            return;
        }
        Err(error) => panic!("no Python: {error}"),
    }
    assert_eq!(ledger.audit().unwrap().created_or_lost(), 0);
    server.shutdown().await;
}
