//! A whole relay from its configuration, as `obol relay` starts it.

mod hibernation;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use obol_ledger::{Closing, Ledger, LedgerConfig, server};
use obol_onion::link::Expected;
use obol_relay::config::{Config, Size, Span};
use obol_relay::handshake::{self, LinkStream, Local, Timeouts};
use obol_relay::{RunError, RunningRelay, payments, run};
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

/// A client's link.
async fn link(relay: &RunningRelay) -> LinkStream {
    let local = Local {
        advertised: Vec::new(),
        timeouts: Timeouts::default(),
    };
    let expected = Expected {
        rsa: Some(relay.rsa()),
        ed25519: Some(relay.ed()),
    };
    let link = handshake::connect_as_client(relay.addresses()[0], expected, &local).await;
    let link = link.expect("a link");
    assert!(link.leftover.is_empty(), "a relay has nothing to say to a client");
    link.stream
}

const CREATE_FAST: u8 = 5;
const CREATED_FAST: u8 = 6;
const DESTROY: u8 = 4;

async fn send(link: &mut LinkStream, circuit: u32, command: u8) {
    let mut cell = circuit.to_be_bytes().to_vec();
    cell.push(command);
    cell.resize(514, 1);
    link.write_all(&cell).await.expect("sent");
    link.flush().await.expect("sent");
}

/// The next cell about a circuit: its command, and the first byte of its body.
async fn next(link: &mut LinkStream, circuit: u32) -> (u8, u8) {
    loop {
        let mut cell = [0; 514];
        link.read_exact(&mut cell).await.expect("a cell");
        if cell[..4] == circuit.to_be_bytes() {
            return (cell[4], cell[5]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_winds_down_finishes_its_circuits_and_takes_no_new_ones() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ledger, server) = ledger().await;
    let mut config = config(directory.path(), ledger.passphrase(), &server.url());
    config.shutdown_wait = Span::hours(1);
    let relay = run(config).await.expect("runs");
    let address = relay.addresses()[0];
    let (old, new) = (0x8000_0001, 0x8000_0002);
    let mut client = link(&relay).await;
    send(&mut client, old, CREATE_FAST).await;
    assert_eq!(next(&mut client, old).await.0, CREATED_FAST);
    let winding_down = relay.wind_down();
    let finishing = async {
        // Whether it has begun to wind down shows in a connection that is closed at once.
        loop {
            let mut late = tokio::net::TcpStream::connect(address).await.expect("connects");
            let closed = tokio::time::timeout(Duration::from_millis(500), late.read(&mut [0; 1])).await;
            if matches!(closed, Ok(Ok(0) | Err(_))) {
                break;
            }
        }
        send(&mut client, new, CREATE_FAST).await;
        const HIBERNATING: u8 = 4;
        assert_eq!(next(&mut client, new).await, (DESTROY, HIBERNATING));
        assert_eq!(
            relay.engine().counters().circuits.iter().sum::<u64>(),
            1,
            "the old one lives"
        );
        send(&mut client, old, DESTROY).await;
    };
    // An hour is the failure; the circuit's end is what it waits for.
    let both = futures::future::join(winding_down, finishing);
    tokio::time::timeout(Duration::from_secs(120), both)
        .await
        .expect("ends with its last circuit");
    relay.shutdown().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reloaded_relay_has_its_new_prices_and_limits_and_refuses_another_ledger() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ledger, server) = ledger().await;
    let old = config(directory.path(), ledger.passphrase(), &server.url());
    let relay = run(old.clone()).await.expect("runs");
    let mut new = old.clone();
    new.bandwidth.rate = Some(Size::mib(3));
    new.payments.as_mut().expect("paid").price_per_64_kib = 500;
    let changed = relay.reload(new.clone()).expect("reloads");
    assert_eq!(changed, ["bandwidth.rate", "payments.price_per_64_kib"]);
    assert_eq!(*relay.config(), new);
    let mut other = new.clone();
    other.nickname = "other".to_owned();
    other.payments.as_mut().expect("paid").ledger.highest_fee += 1;
    let refused = relay.reload(other).expect_err("another ledger").to_string();
    assert!(
        refused.contains("payments.ledger.highest_fee") && !refused.contains("nickname"),
        "{refused}"
    );
    assert_eq!(*relay.config(), new, "nothing of it is used");
    relay.shutdown().await;
    server.shutdown().await;
}
