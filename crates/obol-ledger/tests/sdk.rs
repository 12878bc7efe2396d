//! The official Python and JavaScript SDKs against the server. Where one is not installed its test is skipped and says what to install,
//! unless `CI` is set: then it fails.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use obol_ledger::{Closing, Ledger, LedgerConfig, server};

/// What a script ends with when its SDK is not there.
const SKIPPED: i32 = 77;

/// Runs a script with the server's URL as its first argument; every stroop must be accounted for afterwards.
async fn drive(program: String, script: &'static str, more: Vec<PathBuf>, install: &str) {
    let config = LedgerConfig {
        closing: Closing::OnDemand,
        allow_advance: true,
        ..LedgerConfig::default()
    };
    let ledger = Arc::new(Ledger::open(config).unwrap());
    let server = server::serve(Arc::clone(&ledger), "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let url = server.url();
    let output = tokio::task::spawn_blocking(move || Command::new(program).arg(script).arg(url).args(more).output())
        .await
        .unwrap();
    let missing = match &output {
        Err(error) if error.kind() == ErrorKind::NotFound => Some(error.to_string()),
        Err(error) => panic!("{error}"),
        Ok(output) if output.status.code() == Some(SKIPPED) => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            let (out, err) = (&output.stdout, &output.stderr);
            assert!(
                output.status.success(),
                "{}\n{}",
                String::from_utf8_lossy(out),
                String::from_utf8_lossy(err)
            );
            None
        }
    };
    if let Some(missing) = missing {
        assert!(std::env::var_os("CI").is_none(), "{install} ({missing})");
        eprintln!("skipped: to run this, {install} ({missing})");
        return;
    }
    assert_eq!(ledger.audit().unwrap().created_or_lost(), 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_does_all_of_it() {
    let python = std::env::var("OBOL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    drive(python, "sdk.py", Vec::new(), "pip install -r .ci/requirements.txt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_javascript_sdk_does_all_of_it() {
    let node = std::env::var("OBOL_NODE").unwrap_or_else(|_| "node".to_owned());
    let modules = std::env::var_os("OBOL_NODE_MODULES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/ci-node"),
        PathBuf::from,
    );
    let install =
        "copy .ci/package.json and .ci/package-lock.json to target/ci-node and run npm ci there, with Node 20 or later";
    drive(node, "sdk.mjs", vec![modules], install).await;
}
