//! `obol wallet` as a person uses it: keys from words; what is locked where; money back without anybody's help; books proved, written and backed up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use obol_client::Pay;
use obol_testnet::download::download;
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};
use serde_json::Value;

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(180);
/// The life of a client's escrow, and an hour.
const PAST_EXPIRY: u64 = 25 * 3_600;
/// Ledgers from an escrow's opening until its account may be merged, and some more.
const LEDGERS_TO_MERGE: u32 = 70;

fn wallet(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_obol"))
        .arg("wallet")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Some commands end without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints with `--json`, off the threads of the network that it talks to.
async fn json(arguments: Vec<String>, input: &'static str) -> Value {
    let output = run(arguments, input).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn run(arguments: Vec<String>, input: &'static str) -> Output {
    let running = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        wallet(&arguments, input)
    });
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap()
}

fn with_config(command: &[&str], config: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = command.iter().map(|a| (*a).to_owned()).collect();
    arguments.extend(["--config".to_owned(), config.display().to_string(), "--json".to_owned()]);
    arguments
}

#[test]
fn a_wallet_is_made_of_words_and_made_again_from_them() {
    let directory = tempfile::tempdir().unwrap();
    let (first, again) = (directory.path().join("first.seed"), directory.path().join("again.seed"));
    for words in ["12", "24"] {
        let _ = std::fs::remove_file(&first);
        let _ = std::fs::remove_file(&again);
        let made = wallet(&["new", "--words", words, "--out", first.to_str().unwrap()], "");
        assert!(made.status.success(), "{}", text(&made.stderr));
        let phrase = text(&made.stdout);
        assert_eq!(phrase.split_whitespace().count().to_string(), words);
        let restored = wallet(&["restore", "--out", again.to_str().unwrap()], &phrase);
        assert!(restored.status.success(), "{}", text(&restored.stderr));
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&again).unwrap());
    }
    // What is there is never overwritten, and a phrase with a wrong word is none.
    let before = std::fs::read(&first).unwrap();
    assert!(!wallet(&["new", "--out", first.to_str().unwrap()], "").status.success());
    assert_eq!(std::fs::read(&first).unwrap(), before);
    let wrong = wallet(
        &["restore", "--out", directory.path().join("no").to_str().unwrap()],
        "abandon abandon abandon",
    );
    assert!(!wrong.status.success());
    assert!(!directory.path().join("no").exists());
}

#[test]
fn what_is_no_configuration_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.toml");
    std::fs::write(&file, "colour = \"blue\"\n").unwrap();
    let refused = wallet(&["show", "--config", file.to_str().unwrap()], "");
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("neither a relay's configuration"),
        "{}",
        text(&refused.stderr)
    );
    let absent = wallet(&["audit", "--config", "nowhere.toml"], "");
    assert!(
        text(&absent.stderr).contains("nowhere.toml"),
        "{}",
        text(&absent.stderr)
    );
}

#[test]
fn who_only_looks_makes_no_keys() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("client.toml");
    let example = Command::new(env!("CARGO_BIN_EXE_obol"))
        .args(["config", "example", "client"])
        .output()
        .unwrap();
    std::fs::write(&file, &example.stdout).unwrap();
    let refused = wallet(&["show", "--config", file.to_str().unwrap()], "");
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(
        said.contains("there is no journal") && said.contains("obol wallet import"),
        "{said}"
    );
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_shows_proves_backs_up_and_takes_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = OriginFile::generate(&directory.path().join("file"), 2 << 20, 7)
        .await
        .unwrap();
    let origin = Origin::start(file).await.unwrap();
    let options = NetworkOptions {
        wallets: 2,
        ..NetworkOptions::new(directory.path().join("network"))
    };
    let starting = Network::start(options, |_| {});
    let network = tokio::time::timeout(PATIENCE, starting).await.unwrap().unwrap();

    // One client pays, another only opens its escrow: nobody but itself can end that one.
    let mut configs: Vec<PathBuf> = Vec::new();
    let mut signed = 0;
    for (name, pays) in [("payer", true), ("saver", false)] {
        let config = network
            .client_config(&directory.path().join(name), Some(Pay::Always))
            .unwrap();
        let path = directory.path().join(format!("{name}.toml"));
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let client = obol_client::Client::start(config).await.unwrap();
        client.ready_to_pay(PATIENCE).await.unwrap();
        if pays {
            let fetching = download(client.socks_addr(), "a", origin.address(), "/file", |_| {});
            tokio::time::timeout(PATIENCE, fetching).await.unwrap().unwrap();
        }
        // A wallet in use is not opened by a second process.
        let busy = run(with_config(&["audit"], &path), "").await;
        assert!(!busy.status.success());
        assert!(text(&busy.stderr).contains("another process"), "{}", text(&busy.stderr));
        signed = client.figures().escrows.iter().map(|escrow| escrow.signed).sum();
        client.shutdown().await;
        configs.push(path);
    }
    let (payer, saver) = (&configs[0], &configs[1]);

    let shown = json(with_config(&["show"], saver), "").await;
    assert_eq!(shown["locked"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["locked"][0]["state"], "locked");
    assert_eq!(shown["locked_stroops"], 500_000_000, "a deposit of 50 units");
    let funded = json(with_config(&["fund", "--amount", "3"], saver), "").await;
    assert!(
        funded["request"]
            .as_str()
            .unwrap()
            .starts_with("web+stellar:pay?destination=G"),
        "{funded}"
    );
    let issuer = json(with_config(&["issuer"], saver), "").await;
    assert_ne!(issuer["verdict"], "refused", "{issuer}");

    for config in &configs {
        let report = json(with_config(&["audit"], config), "").await;
        assert_eq!(report["verdict"], "proved", "{report}");
    }
    let csv = run(vec!["csv".into(), "--config".into(), payer.display().to_string()], "").await;
    assert!(csv.status.success(), "{}", text(&csv.stderr));
    let csv = text(&csv.stdout);
    assert!(csv.lines().any(|line| line.contains(",traffic,")), "{csv}");
    assert!(csv.lines().any(|line| line.contains(",open,")), "{csv}");

    // A backup is taken in elsewhere, by the right passphrase only; a new epoch begins.
    let backup = directory.path().join("saver.obol-backup");
    let mut export = with_config(&["export"], saver);
    export.push(backup.display().to_string());
    json(export, "correct horse\n").await;
    let elsewhere = directory.path().join("elsewhere.toml");
    let moved = std::fs::read_to_string(saver).unwrap().replace(
        directory.path().join("saver").to_str().unwrap(),
        directory.path().join("else").to_str().unwrap(),
    );
    std::fs::write(&elsewhere, moved).unwrap();
    let mut import = with_config(&["import"], &elsewhere);
    import.push(backup.display().to_string());
    let wrong = run(import.clone(), "wrong horse\n").await;
    assert!(!wrong.status.success());
    assert!(text(&wrong.stderr).contains("passphrase"), "{}", text(&wrong.stderr));
    let imported = json(import, "correct horse\n").await;
    assert_eq!(imported["epoch"], 2, "{imported}");
    let report = json(with_config(&["audit"], &elsewhere), "").await;
    assert_eq!(report["verdict"], "proved", "{report}");

    // Before it expires nobody gets it back; afterwards its owner does, alone: here by the backup.
    let taken = json(with_config(&["take-back"], &elsewhere), "").await;
    assert_eq!(taken["escrows_locked"], 1, "{taken}");
    network.ledger.advance(PAST_EXPIRY, 1).unwrap();
    network.ledger.advance(0, LEDGERS_TO_MERGE).unwrap();
    let taken = json(with_config(&["take-back"], &elsewhere), "").await;
    assert_eq!(taken["escrows_ended"], 1, "{taken}");
    assert_eq!(taken["escrows_locked"], 0, "{taken}");
    let shown = json(with_config(&["show"], &elsewhere), "").await;
    assert_eq!(shown["locked"].as_array().unwrap().len(), 0, "{shown}");
    // The tunnel over which the guard was met may have bought a step, for which the guard flushes in time, or not.
    let back = shown["account"]["stroops"].as_i64().unwrap();
    assert!(
        [0, signed].contains(&(1_000_000_000_000 - back)),
        "all 100,000 units but {signed}: {shown}"
    );

    // It can be sent on, and not more than there is.
    let relay = network.relays[0].control.state().await.unwrap()["accounts"]["payees"][0].clone();
    let to = relay.as_str().unwrap();
    let mut send = with_config(&["send", to, "1.5"], &elsewhere);
    send.extend(["--memo".to_owned(), "thanks".to_owned()]);
    let sent = json(send, "").await;
    assert_eq!(sent["transaction"].as_str().unwrap().len(), 64, "{sent}");
    let shown = json(with_config(&["show"], &elsewhere), "").await;
    assert_eq!(shown["account"]["stroops"], back - 15_000_000, "{shown}");
    let much = run(with_config(&["send", to, "200000"], &elsewhere), "").await;
    assert!(!much.status.success());

    // A relay's books, once it does not run.
    let node = network.relays[0].directory.join("node.toml");
    let ledger = std::sync::Arc::clone(&network.ledger);
    network.stop().await;
    let report = json(with_config(&["audit"], &node), "").await;
    assert_eq!(report["verdict"], "proved", "{report}");
    assert!(
        report["days"].as_array().is_some_and(|days| !days.is_empty()),
        "{report}"
    );
    let audit = ledger.audit().unwrap();
    assert!(audit.assets.values().all(|asset| asset.difference == 0), "{audit:?}");
}
