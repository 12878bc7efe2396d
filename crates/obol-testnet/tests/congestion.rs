//! Stock clients on a network of ours whose consensus has congestion control: megabytes both ways.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod network;

use std::net::SocketAddr;

use network::{Network, PATIENCE};
use obol_onion::engine::Counters;
use obol_testnet::ctor::{CTor, Torrc, available, free_port};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes each way.
const LENGTH: usize = 4_000_000;

/// A server that returns what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Sends [`LENGTH`] bytes and gets them back.
async fn both_ways(stream: impl AsyncRead + AsyncWrite) {
    let sent: Vec<u8> = (0..LENGTH as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.flush().await.unwrap();
    };
    let reading = async {
        let mut got = vec![0; LENGTH];
        read.read_exact(&mut got).await.unwrap();
        got
    };
    let exchanging = async { tokio::join!(writing, reading).1 };
    let got = tokio::time::timeout(PATIENCE, exchanging).await.expect("it hangs");
    assert!(got == sent, "bytes changed on the way");
}

/// The exit saw what it should: circuits with congestion control, and nothing that broke a rule.
fn judge(network: &Network) {
    let counters: Counters = network.nodes[2].handle.engine().counters();
    assert!(counters.circuits_controlled > 0, "{counters:?}");
    assert_eq!(counters.protocol_errors, 0);
    let cells = (LENGTH / 498) as u64;
    assert!(counters.cells[1].iter().all(|carried| *carried > cells), "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn arti_sends_and_gets_megabytes_with_congestion_control() {
    let network = Network::start(3).await;
    let server = echo().await;
    let (client, _files) = network.arti().await;
    let stream = client.connect((server.ip().to_string(), server.port())).await.unwrap();
    both_ways(stream).await;
    judge(&network);
}

#[tokio::test(flavor = "multi_thread")]
async fn c_tor_sends_and_gets_megabytes_with_congestion_control() {
    if !available() {
        return;
    }
    let network = Network::start(3).await;
    let server = echo().await;
    let files = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let guard = &network.nodes[0];
    let torrc = Torrc::new()
        .lines(&network.authority.torrc_line())
        .client(port)
        .fallback(guard.handle.addresses()[0], guard.keys.fingerprint());
    let mut tor = CTor::start(files.path(), &torrc).unwrap();
    tor.says(&["Bootstrapped 100%"], PATIENCE).await.unwrap();
    let stream: TcpStream = tokio_socks::tcp::Socks5Stream::connect(("127.0.0.1", port), server)
        .await
        .unwrap()
        .into_inner();
    both_ways(stream).await;
    judge(&network);
}
