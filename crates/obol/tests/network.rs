//! `obol network`, and what it prepares for its user: a client that pays, and a relay that joins.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use obol_testnet::download::download;
use obol_testnet::origin::{Origin, OriginFile};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program, ended with the test.
struct Running {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_obol"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, said }
    }

    /// Reads on until a line is what is wanted.
    async fn says<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let reading = async {
            loop {
                let line = self
                    .said
                    .next_line()
                    .await
                    .unwrap()
                    .expect("it ended before it said that");
                if let Some(found) = wanted(&line) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("it says that")
    }

    /// Asks it to end, as Ctrl-C does, and waits.
    async fn end(mut self) {
        let pid = self.child.id().unwrap().to_string();
        let asked = Command::new("kill").args(["-s", "TERM", &pid]).status().await.unwrap();
        assert!(asked.success());
        let reading = async { while let Ok(Some(_)) = self.said.next_line().await {} };
        tokio::time::timeout(PATIENCE, reading).await.expect("it ends");
        let status = self.child.wait().await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

/// The rest of a line that begins so.
fn after<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    line.strip_prefix(begin).map(str::trim)
}

/// How many relays the authority's consensus lists.
async fn listed(authority: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(authority).await.unwrap();
    let ask = b"GET /tor/status-vote/current/consensus HTTP/1.0\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer)
        .lines()
        .filter(|line| line.starts_with("r "))
        .count()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_relay_of_ones_own_join_the_network_that_is_kept_running() {
    let directory = tempfile::tempdir().unwrap();
    let net = directory.path().join("net");
    let mut network = Running::start(&["network", "--keep", path(&net)]);
    let authority = network.says(|line| after(line, "authority ")?.parse().ok()).await;
    network.says(|line| line.starts_with("Ctrl-C").then_some(())).await;
    assert_eq!(listed(authority).await, 3);

    let config = net.join("myclient/client.toml");
    let mut client = Running::start(&["client", "--json", "--config", path(&config)]);
    let event = |line: &str, name: &str| -> Option<Value> {
        let event: Value = serde_json::from_str(line).ok()?;
        (event["event"] == name).then_some(event)
    };
    let started = client.says(|line| event(line, "started")).await;
    let socks: SocketAddr = started["socks"].as_str().unwrap().parse().unwrap();
    let file = OriginFile::generate(&directory.path().join("file"), 2 << 20, 3)
        .await
        .unwrap();
    let origin = Origin::start(file.clone()).await.unwrap();
    // The first is served before there is an escrow; one of the next is paid for.
    let paid = client.says(|line| event(line, "paid"));
    let fetching = async {
        for user in 0_u64.. {
            let fetched = download(socks, &user.to_string(), origin.address(), "/file", |_| {})
                .await
                .unwrap();
            assert_eq!(fetched.sha256, file.sha256);
        }
    };
    tokio::select! {
        _ = paid => {}
        () = fetching => {}
    }
    client.end().await;

    let config = net.join("myrelay/node.toml");
    let relay = Running::start(&["relay", "--config", path(&config)]);
    let joining = async {
        while listed(authority).await < 4 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, joining)
        .await
        .expect("the relay is listed");
    relay.end().await;
    network.end().await;
}
