//! The client on a network of stock C Tor relays: nobody is paid there, everything is served.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use obol_client::{Authority, Client, ClientConfig, ClientHandle, Event, Fallback, private_network};
use obol_testnet::ctor::{AuthorityFiles, CTor, Torrc, Voting, available};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// An authority and three more relays that are all guard and exit.
struct TorNetwork {
    authority: AuthorityFiles,
    fallbacks: Vec<Fallback>,
    relays: Vec<CTor>,
    _running: CTor,
    _files: tempfile::TempDir,
}

impl TorNetwork {
    async fn start() -> TorNetwork {
        let files = tempfile::tempdir().unwrap();
        let authority = AuthorityFiles::make(&files.path().join("authority"), "authority").unwrap();
        let all = std::slice::from_ref(&authority);
        let torrc = authority
            .torrc(all, Voting::default())
            .set("TestingDirAuthVoteGuard", "*")
            .set("ConsensusParams", "cc_alg=2 bwauthpid=1 ExtendByEd25519ID=1");
        let running = CTor::start(&authority.directory, &torrc).unwrap();
        let (mut relays, mut fallbacks) = (Vec::new(), Vec::new());
        for n in 0..3 {
            let nickname = format!("relay{n}");
            let torrc = Torrc::new().authorities(all).relay(&nickname, "auto").exits();
            relays.push(CTor::start(&files.path().join(nickname), &torrc).unwrap());
        }
        for relay in &mut relays {
            let address = relay.or_address().await.unwrap();
            let (rsa_identity, ed_identity) = relay.identity().unwrap();
            fallbacks.push(Fallback {
                rsa_identity,
                ed_identity,
                or_ports: vec![address],
            });
        }
        let network = TorNetwork {
            authority,
            fallbacks,
            relays,
            _running: running,
            _files: files,
        };
        let complete = async {
            while !network.relays.iter().all(has_whole_directory) {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, complete).await.is_err() {
            panic!("the network did not come up:\n{}", network.relays[0].tail());
        }
        network
    }

    /// The `tor` section of a client of this network.
    fn section(&self) -> toml::Table {
        let authority = Authority {
            v3_identity: self.authority.v3_identity,
            directory: self.authority.directory_address,
        };
        private_network(&[authority], &self.fallbacks)
    }
}

/// Whether a relay has a consensus that lists all four as running guards, and their microdescriptors: it serves both to clients.
fn has_whole_directory(relay: &CTor) -> bool {
    let read = |name| std::fs::read_to_string(relay.directory().join("data").join(name)).unwrap_or_default();
    let consensus = read("cached-microdesc-consensus");
    let flags = consensus.lines().filter(|line| line.starts_with("s "));
    let usable = flags.filter(|line| line.contains("Running") && line.contains("Guard"));
    let descriptors = read("cached-microdescs") + &read("cached-microdescs.new");
    let descriptors = descriptors.lines().filter(|line| *line == "onion-key");
    usable.count() >= 4 && descriptors.count() >= 4
}

/// Sends what it is asked for: eight bytes of length, then that many bytes. Each connection once.
async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            tokio::spawn(async move {
                let length = peer.read_u64().await?;
                let mut left = length;
                let chunk: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
                while left > 0 {
                    let n = left.min(1 << 16) as usize;
                    peer.write_all(&chunk[..n]).await?;
                    left -= n as u64;
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

/// A SOCKS 5 stream with these credentials.
async fn socks5(proxy: SocketAddr, target: SocketAddr, user: &str, password: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(&[5, 1, 2]).await.unwrap();
    let mut two = [0; 2];
    stream.read_exact(&mut two).await.unwrap();
    assert_eq!(two, [5, 2]);
    let mut login = vec![1, user.len() as u8];
    login.extend_from_slice(user.as_bytes());
    login.push(password.len() as u8);
    login.extend_from_slice(password.as_bytes());
    stream.write_all(&login).await.unwrap();
    stream.read_exact(&mut two).await.unwrap();
    assert_eq!(two, [1, 0]);
    let mut request = vec![5, 1, 0, 1, 127, 0, 0, 1];
    request.extend_from_slice(&target.port().to_be_bytes());
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..2], [5, 0], "the stream was refused: {answer:?}");
    stream
}

async fn fetch(mut stream: TcpStream, length: u64) -> Vec<u8> {
    stream.write_u64(length).await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    got
}

async fn client(network: &TorNetwork, state: &tempfile::TempDir) -> ClientHandle {
    let mut config = ClientConfig::new(state.path());
    config.tor = network.section();
    tokio::time::timeout(Duration::from_secs(120), Client::start(config))
        .await
        .expect("the client bootstraps")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_carried_metered_and_isolated_on_stock_relays() {
    if !available() {
        return;
    }
    let network = TorNetwork::start().await;
    let state = tempfile::tempdir().unwrap();
    let client = client(&network, &state).await;
    let mut events = client.events();
    let (proxy, target) = (client.socks_addr(), origin().await);

    // Two people at once, and one of them twice.
    let length = 3 << 20;
    let (one, again, other) = tokio::join!(
        async { fetch(socks5(proxy, target, "one", "x").await, length).await },
        async { fetch(socks5(proxy, target, "one", "x").await, length).await },
        async { fetch(socks5(proxy, target, "other", "x").await, length).await },
    );
    for got in [&one, &again, &other] {
        assert_eq!(got.len() as u64, length);
        assert!(got.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i % 256));
    }

    let figures = client.figures();
    assert!(
        figures.tunnels.len() >= 2,
        "different people share a tunnel: {figures:?}"
    );
    let payload: u64 = figures.tunnels.iter().map(|tunnel| tunnel.payload_received).sum();
    assert_eq!(payload, 3 * length);
    for tunnel in &figures.tunnels {
        assert_eq!(tunnel.hops.len(), 3);
        assert!(
            tunnel
                .hops
                .iter()
                .all(|hop| !hop.paid_hop && hop.fingerprint.len() == 40)
        );
        assert!(tunnel.own_meter >= tunnel.payload_received / 498 * 514);
    }
    let carried: u64 = figures.guards.iter().map(|guard| guard.received).sum();
    assert!(carried > 3 * length, "the links carried {carried} bytes");

    // HTTP CONNECT on the same port.
    let mut http = TcpStream::connect(proxy).await.unwrap();
    http.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = [0; 19];
    http.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(fetch(http, 1000).await.len(), 1000);

    // A port where nobody listens is refused, and nothing else suffers.
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let mut refused = TcpStream::connect(proxy).await.unwrap();
    let mut request = vec![4, 1];
    request.extend_from_slice(&nobody.port().to_be_bytes());
    request.extend_from_slice(&[127, 0, 0, 1, 0]);
    refused.write_all(&request).await.unwrap();
    let mut answer = [0; 8];
    refused.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[1], 0x5b);

    let opened = std::iter::from_fn(|| events.try_recv().ok())
        .filter(|event| matches!(event, Event::TunnelOpened { .. }))
        .count();
    assert!(opened >= 2);
    client.shutdown().await;
    assert!(TcpStream::connect(proxy).await.is_err(), "the port is still open");
}
