//! A whole relay from its configuration, as `obol relay` starts it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use obol_ledger::{Closing, Ledger, LedgerConfig, server};
use obol_relay::config::Config;
use obol_relay::{RunError, payments, run};
use obol_stellar::Keypair;
use obol_stellar::key::account_text;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn ledger() -> (Arc<Ledger>, server::ServerHandle) {
    let config = LedgerConfig {
        closing: Closing::Every(Duration::from_millis(200)),
        ..LedgerConfig::default()
    };
    let ledger = Arc::new(Ledger::open(config).expect("a ledger"));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = server::serve(Arc::clone(&ledger), listen).await.expect("serves");
    (ledger, server)
}

/// A relay whose authority nobody has ever seen.
fn config(directory: &Path, passphrase: &str, url: &str) -> Config {
    let issuer = account_text(&Keypair::random().expect("a key").account());
    let text = format!(
        r#"
nickname = "runner"
data_directory = {directory:?}
[or]
listen = "127.0.0.1:0"
allow_private_addresses = true
[[directory.authorities]]
name = "nobody"
address = "127.0.0.1:1"
v3_identity = "0000000000000000000000000000000000000000"
[payments]
price_per_64_kib = 100
[payments.ledger]
network_passphrase = {passphrase:?}
asset = "OBOL:{issuer}"
urls = [{url:?}]
[gateway]
listen = "127.0.0.1:0"
"#
    );
    Config::parse(&text, Path::new("node.toml")).expect("a configuration")
}

/// The answer to one HTTP request: status and body.
async fn http(address: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let token = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{token}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_says_where_it_is_shows_its_state_and_leaves_nothing_behind() {
    let (ledger, server) = ledger().await;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("relay");
    let config = config(&data, ledger.passphrase(), &server.url());
    let relay = run(config.clone()).await.expect("runs");

    let running: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data.join("running.json")).expect("written")).expect("JSON");
    let gateway = relay.gateway_address().expect("configured");
    assert_eq!(running["or"], relay.addresses()[0].to_string());
    assert_eq!(running["gateway"], gateway.to_string());
    assert_eq!(running["fingerprint"], hex::encode_upper(relay.rsa()));
    assert_eq!(running["pid"], std::process::id());
    assert!(tokio::net::TcpStream::connect(relay.addresses()[0]).await.is_ok());

    let token = std::fs::read_to_string(data.join("gateway.token")).expect("made");
    let (status, metrics) = http(gateway, "GET", "/metrics", None, "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("obol_circuits{class=\"paid\"} 0"), "{metrics}");
    let (status, state) = http(gateway, "GET", "/state", Some(token.trim()), "").await;
    assert_eq!(status, 200);
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["nickname"], "runner");
    assert_eq!(state["totals"]["earned_stroops"], 0);
    assert_eq!(state["escrows"], serde_json::json!([]));
    for (command, body, expected) in [
        ("rate", "{\"bytes_per_second\": 8388608}", 200),
        ("rate", "{\"bytes_per_second\": null}", 200),
        ("rate", "{\"bytes_per_second\": 1}", 400),
        ("rate", "{}", 400),
        ("unpaid", "{\"mode\": \"capped\", \"cap\": 1048576}", 200),
        ("unpaid", "{\"mode\": \"leftover\"}", 200),
        ("unpaid", "{\"mode\": \"capped\"}", 400),
        ("step", "", 200),
        ("audit", "", 200),
        ("close-escrows", "", 200),
        ("rotate-keys", "{\"onions\": true}", 400),
        ("rotate-keys", "{\"onion\": 1}", 400),
        ("explode", "", 404),
    ] {
        let (status, answer) = http(
            gateway,
            "POST",
            &format!("/control/{command}"),
            Some(token.trim()),
            body,
        )
        .await;
        assert_eq!(status, expected, "{command} {body}: {answer}");
    }
    assert_eq!(http(gateway, "POST", "/control/step", None, "").await.0, 401);

    // Keys are renewed on demand, though nobody hears of them here.
    let keys = || std::fs::read_to_string(data.join("keys/rotating.toml")).expect("keys");
    let before = keys();
    let (status, rotated) = http(gateway, "POST", "/control/rotate-keys", Some(token.trim()), "").await;
    assert_eq!(status, 200, "{rotated}");
    let rotated: serde_json::Value = serde_json::from_str(&rotated).expect("JSON");
    assert_eq!(rotated["ntor_onion_key"].as_str().expect("a key").len(), 64);
    assert_eq!(rotated["published"], false);
    assert!(rotated["error"].as_str().expect("why").contains("nobody"), "{rotated}");
    assert_ne!(keys(), before);
    let (_, state) = http(gateway, "GET", "/state", Some(token.trim()), "").await;
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["authorities"][0]["has_our_descriptor"], false);
    assert!(state["reachable"].is_null());

    // A second one on the same files would pay twice.
    let error = run(config.clone()).await.expect_err("in use");
    assert!(
        matches!(error, RunError::Payments(payments::StartError::Journal(_))),
        "{error}"
    );
    assert!(data.join("running.json").exists(), "the first one still runs");

    let (rsa, or) = (relay.rsa(), relay.addresses()[0]);
    relay.shutdown().await;
    assert!(!data.join("running.json").exists());
    assert!(tokio::net::TcpStream::connect(or).await.is_err());
    assert!(tokio::net::TcpStream::connect(gateway).await.is_err());

    let again = run(config).await.expect("runs again");
    assert_eq!(again.rsa(), rsa, "the same relay");
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_another_network_is_an_error_and_one_that_is_down_is_not() {
    let (ledger, server) = ledger().await;
    let directory = tempfile::tempdir().expect("a directory");
    let other = config(&directory.path().join("other"), "Another Network", &server.url());
    let error = run(other).await.expect_err("another network");
    assert!(error.to_string().contains("another network"), "{error}");
    let down = config(
        &directory.path().join("down"),
        ledger.passphrase(),
        "http://127.0.0.1:1",
    );
    run(down).await.expect("runs all the same").shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_an_error_that_names_it() {
    let (ledger, server) = ledger().await;
    let directory = tempfile::tempdir().expect("a directory");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut config = config(&directory.path().join("relay"), ledger.passphrase(), &server.url());
    config.or.listen = taken.local_addr().expect("bound");
    let error = run(config).await.expect_err("taken").to_string();
    assert!(
        error.contains(&taken.local_addr().expect("bound").to_string()),
        "{error}"
    );
}
