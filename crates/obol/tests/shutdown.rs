//! A paid relay, in a process of its own, that is asked to end while it is owed money.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use obol_client::Pay;
use obol_testnet::download::download;
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};
use obol_testnet::state::RelayState;

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// What these accounts hold of the asset by the ledger's own books, in stroops.
fn holding(network: &Network, accounts: &[String]) -> i64 {
    let audit = network.ledger.audit().unwrap();
    assert!(audit.assets.values().all(|asset| asset.difference == 0), "{audit:?}");
    let held = accounts.iter().filter_map(|account| audit.accounts.get(account));
    held.flat_map(|held| held.assets.values()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_owed_money_has_it_on_the_ledger_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let file = OriginFile::generate(&directory.path().join("file"), 3 << 20, 7)
        .await
        .unwrap();
    let origin = Origin::start(file).await.unwrap();
    let options = NetworkOptions {
        relay_program: Some(PathBuf::from(env!("CARGO_BIN_EXE_obol"))),
        ..NetworkOptions::new(directory.path().join("network"))
    };
    let starting = Network::start(options, |_| {});
    let mut network = tokio::time::timeout(PATIENCE, starting).await.unwrap().unwrap();
    let client = network.client("client", Some(Pay::Always)).await.unwrap();
    client.ready_to_pay(PATIENCE).await.unwrap();
    let fetching = download(client.socks_addr(), "a", origin.address(), "/file", |_| {});
    tokio::time::timeout(PATIENCE, fetching).await.unwrap().unwrap();
    // It leaves without a word about its escrow.
    client.shutdown().await;

    let guard = &network.relays[0];
    let accounts = guard.control.state().await.unwrap()["accounts"]["payees"].clone();
    let payees: Vec<String> = serde_json::from_value(accounts).unwrap();
    let state = RelayState::of(&guard.control).await.unwrap();
    let claims = state.escrows.iter().filter(|e| e.direction == "in" && e.k > 0);
    let owed: Vec<(i64, Option<i64>)> = claims.map(|e| (e.cumulative, e.settled_stroops)).collect();
    let [(owed, None)] = owed[..] else {
        panic!("one claim that is not settled is wanted: {owed:?}")
    };
    assert!(owed > 0);
    assert_eq!(holding(&network, &payees), 0);

    let pid = guard.pid().unwrap().to_string();
    let asked = Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap();
    assert!(asked.success());
    let ended = tokio::time::timeout(PATIENCE, network.relays[0].ended()).await;
    let status = ended.expect("it ends").unwrap().unwrap();
    let log = std::fs::read_to_string(network.relays[0].directory.join("relay.log")).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(holding(&network, &payees), owed, "{log}");
    network.stop().await;
}
