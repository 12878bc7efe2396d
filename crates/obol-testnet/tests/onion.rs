//! Onion services over our relays alone: C Tor's service, reached by C Tor's client and by Arti's.

#![allow(clippy::unwrap_used)]

mod network;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use network::{Network, PATIENCE};
use obol_onion::engine::Counters;
use obol_testnet::authority::{AuthorityConfig, Role};
use obol_testnet::ctor::{CTor, Torrc, available, free_port};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// What goes each way.
const BYTES: usize = 2_000_000;
/// Guards of every client and service differ from introduction, rendezvous and directory points.
const RELAYS: usize = 9;

/// Our authority and relays. With `TestingTorNetwork`, C Tor has an onion service's period last for 24 votes, whatever the
/// consensus says; arti has it last for what the consensus says, but not less than 30 minutes. Where the two differ they
/// look for different keys.
async fn network() -> Network {
    let mut config = AuthorityConfig::default();
    let minutes = i32::try_from(config.interval.as_secs() * 24 / 60).unwrap();
    config.params.insert("hsdir_interval".to_owned(), minutes);
    let roles = [Role::Guard, Role::Middle, Role::Exit];
    let roles: Vec<Role> = roles.iter().cycle().take(RELAYS).copied().collect();
    Network::under(config, &roles).await
}

/// A server that returns what it is given, [`BYTES`] of it at a time.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut data = vec![0; BYTES];
                while stream.read_exact(&mut data).await.is_ok() {
                    if stream.write_all(&data).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Sends so much through a stream, and wants it back.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut sent = vec![0; BYTES];
    rand::rng().fill_bytes(&mut sent);
    let exchanged = async {
        stream.write_all(&sent).await.unwrap();
        stream.flush().await.unwrap();
        let mut got = vec![0; BYTES];
        stream.read_exact(&mut got).await.unwrap();
        got
    };
    let got = timeout(PATIENCE, exchanged).await.expect("2 MB each way take too long");
    assert_eq!(Sha256::digest(&got), Sha256::digest(&sent));
}

/// What a C Tor that is no relay has to know of the network.
fn bootstrapped_by(network: &Network) -> Torrc {
    let guard = &network.nodes[0];
    Torrc::new()
        .lines(&network.authority.torrc_line())
        .fallback(guard.handle.addresses()[0], guard.keys.fingerprint())
}

/// A C Tor service in front of `server`, with its descriptor in the directories; and its address.
async fn service(network: &Network, files: &Path, server: SocketAddr) -> (CTor, String) {
    let torrc = bootstrapped_by(network)
        .set("SocksPort", 0)
        .set("HiddenServiceDir", files.join("service").display())
        .set("HiddenServicePort", format_args!("80 {server}"));
    let mut tor = CTor::start(files, &torrc).unwrap();
    tor.says(&["Bootstrapped 100%"], PATIENCE).await.unwrap();
    let mut control = tor.control().await.unwrap();
    control.tell("SETEVENTS HS_DESC").await.unwrap();
    let uploaded = async {
        // Two descriptors, for this time period and the next: each to as many directories as there are.
        let mut times = 0;
        while times < 2 {
            times += usize::from(control.event().await.is_ok_and(|event| event.contains(" UPLOADED ")));
        }
    };
    let done = timeout(PATIENCE, uploaded).await;
    assert!(done.is_ok(), "no descriptor was uploaded:\n{}", tor.tail());
    let name = std::fs::read_to_string(files.join("service/hostname")).unwrap();
    (tor, name.trim().to_owned())
}

/// A stream to `host` through a SOCKS5 proxy; `None`: it is refused.
async fn socks(port: u16, host: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await.unwrap();
    assert_eq!(choice, [5, 0]);
    let request = [&[5, 1, 0, 3, host.len() as u8], host.as_bytes(), &[0, 80]].concat();
    stream.write_all(&request).await.unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.ok()?;
    (reply[1] == 0).then_some(stream)
}

/// What our relays have counted together.
fn sum(network: &Network, of: impl Fn(&Counters) -> u64) -> u64 {
    let nodes = network.nodes.iter();
    nodes.map(|node| of(&node.handle.engine().counters())).sum()
}

/// No warning of `tor` is about what a relay has sent.
fn is_content(tor: &CTor) {
    let log = tor.log();
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("[warn]") && line.to_lowercase().contains("protocol"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_c_tor_service_is_reached_by_c_tors_and_artis_clients_over_our_relays_alone() {
    if !available() {
        return;
    }
    let network = network().await;
    let files = tempfile::tempdir().unwrap();
    let (tor, name) = service(&network, &files.path().join("ctor"), echo().await).await;
    assert!(
        sum(&network, |counters| counters.services) > 0,
        "it is introduced somewhere"
    );

    let port = free_port().unwrap();
    let torrc = bootstrapped_by(&network).client(port);
    let mut client = CTor::start(&files.path().join("client"), &torrc).unwrap();
    client.says(&["Bootstrapped 100%"], PATIENCE).await.unwrap();
    let connected = async {
        loop {
            if let Some(stream) = socks(port, &name).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let stream = timeout(PATIENCE, connected).await;
    let stream = stream.unwrap_or_else(|_| panic!("not reached:\n{}\n{}", client.tail(), tor.tail()));
    exchange(stream).await;
    let (introductions, rendezvous) = (
        sum(&network, |counters| counters.introductions),
        sum(&network, |counters| counters.rendezvous_joined),
    );
    assert!(introductions > 0 && rendezvous > 0, "{introductions} {rendezvous}");

    let (arti, _arti_files) = network.arti().await;
    let connected = timeout(PATIENCE, arti.connect((name.as_str(), 80))).await;
    exchange(connected.expect("arti takes too long").unwrap()).await;
    assert!(sum(&network, |counters| counters.introductions) > introductions);
    assert!(sum(&network, |counters| counters.rendezvous_joined) > rendezvous);

    assert_eq!(sum(&network, |counters| counters.protocol_errors), 0);
    is_content(&tor);
    is_content(&client);
}
