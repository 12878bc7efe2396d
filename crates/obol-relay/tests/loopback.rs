//! Relays of ours on loopback, with a stock tor-proto client as the other side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use obol_onion::engine::{EngineConfig, PaymentEvent};
use obol_relay::keys::Keys;
use obol_relay::relay::{PaymentEvents, Relay, RelayHandle, RelayParts, payment_channel};
use obol_relay::streams::ExitConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tor_linkspec::{ChannelMethod, OwnedCircTarget};
use tor_netdoc::types::policy::{AddrPolicy, RuleKind};
use tor_proto::channel::Channel;
use tor_proto::circuit::CircParameters;
use tor_proto::client::circuit::TimeoutEstimator;
use tor_proto::memquota::{ChannelAccount, SpecificAccount as _};
use tor_proto::peer::PeerAddr;
use tor_proto::{ClientChannelBuilder, ClientTunnel};
use tor_rtcompat::tls::CertifiedConn as _;
use tor_rtcompat::tls::TlsConnector as _;
use tor_rtcompat::tokio::TokioRustlsRuntime;
use tor_rtcompat::{NetStreamProvider as _, TlsProvider as _};

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// A relay, and how a client names it.
struct Node {
    handle: RelayHandle,
    keys: Arc<Keys>,
    payments: PaymentEvents,
    _directory: tempfile::TempDir,
}

fn exit() -> ExitConfig {
    let mut policy = AddrPolicy::new();
    policy.push(RuleKind::Accept, "*:*".parse().unwrap());
    ExitConfig {
        policy,
        reject_private: false,
        ..ExitConfig::closed()
    }
}

async fn node(engine: EngineConfig) -> Node {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let keys = tokio::task::spawn_blocking(move || Keys::open(&path, SystemTime::now()).unwrap())
        .await
        .unwrap();
    let (sink, payments) = payment_channel();
    let handle = Relay::start(RelayParts {
        keys: Arc::clone(&keys),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        advertised: vec![],
        engine: EngineConfig {
            allow_private_addresses: true,
            ..engine
        },
        exit: exit(),
        directory: None,
        net: None,
        payments: Some(sink),
    })
    .await
    .unwrap();
    Node {
        handle,
        keys,
        payments,
        _directory: directory,
    }
}

impl Node {
    fn target(&self, protocols: &str) -> OwnedCircTarget {
        let mut builder = OwnedCircTarget::builder();
        let address = self.handle.addresses()[0];
        builder
            .chan_target()
            .ed_identity(self.keys.ed25519().into())
            .rsa_identity(self.keys.fingerprint().into())
            .addrs(vec![address])
            .method(ChannelMethod::Direct(vec![address]));
        builder
            .ntor_onion_key(self.keys.current().ntor_public().into())
            .protocols(protocols.parse().unwrap())
            .build()
            .unwrap()
    }
}

/// What a relay of ours advertises: ntor-v3 is used.
const OURS: &str = "FlowCtrl=1 Link=4-5 LinkAuth=3 Relay=2-5";
/// Without Relay=4: ntor is used.
const OLD: &str = "FlowCtrl=1 Link=4-5 LinkAuth=3 Relay=2";

struct Patient;

impl TimeoutEstimator for Patient {
    fn circuit_build_timeout(&self, _: usize) -> Duration {
        PATIENCE
    }
}

fn parameters() -> CircParameters {
    let defaults = tor_netdir::params::NetParameters::default();
    tor_circmgr::build::exit_circparams_from_netparams(&defaults).unwrap()
}

/// A stock client's link to a relay.
async fn link(node: &Node) -> Arc<Channel> {
    let runtime = TokioRustlsRuntime::current().unwrap();
    let target = node.target(OURS);
    let address = node.handle.addresses()[0];
    let tcp = runtime.connect(&address, &Default::default()).await.unwrap();
    let tls = runtime
        .tls_connector()
        .negotiate_unvalidated(tcp, "www.example.net")
        .await
        .unwrap();
    let certificate = tls.peer_certificate().unwrap().unwrap().into_owned();
    let mut builder = ClientChannelBuilder::new();
    builder.set_declared_method(ChannelMethod::Direct(vec![address]));
    let (channel, reactor) = builder
        .launch(tls, runtime, ChannelAccount::new_noop())
        .connect(SystemTime::now)
        .await
        .unwrap()
        .verify(target.chan_target(), &certificate, Some(SystemTime::now()))
        .unwrap()
        .finish(safelog::MaybeSensitive::sensitive(PeerAddr::Direct(address)))
        .await
        .unwrap();
    tokio::spawn(reactor.run());
    channel
}

/// A stock client's circuit.
async fn circuit(nodes: &[&Node], protocols: &str) -> Arc<ClientTunnel> {
    let channel = link(nodes[0]).await;
    let (pending, reactor) = channel.new_tunnel(Arc::new(Patient)).await.unwrap();
    tokio::spawn(reactor.run());
    let tunnel = pending
        .create_firsthop(&nodes[0].target(protocols), parameters())
        .await
        .unwrap();
    for node in &nodes[1..] {
        tunnel
            .as_single_circ()
            .unwrap()
            .extend(&node.target(protocols), parameters())
            .await
            .unwrap();
    }
    Arc::new(tunnel)
}

/// Bytes that no two places share.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// A server that sends `len` bytes to everybody, and ends.
async fn source(len: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = tcp.write_all(&pattern(len)).await;
                let _ = tcp.shutdown().await;
            });
        }
    });
    address
}

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

async fn download(tunnel: &Arc<ClientTunnel>, from: SocketAddr, len: usize) {
    let stream = tunnel
        .begin_stream(&from.ip().to_string(), from.port(), None)
        .await
        .unwrap();
    let (mut read, _write) = tokio::io::split(stream);
    let mut got = Vec::with_capacity(len);
    read.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), len);
    assert!(got == pattern(len), "bytes changed on the way");
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("hangs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_downloads_through_three_relays_with_ntor_v3_and_with_ntor() {
    within(async {
        let nodes = [
            node(EngineConfig::default()).await,
            node(EngineConfig::default()).await,
            node(EngineConfig::default()).await,
        ];
        let [guard, middle, last] = &nodes;
        let from = source(2_000_000).await;
        for protocols in [OURS, OLD] {
            let tunnel = circuit(&[guard, middle, last], protocols).await;
            download(&tunnel, from, 2_000_000).await;
            download(&tunnel, from, 2_000_000).await;
        }
        // Every hop carried it, unpaid: nobody granted anything.
        for node in &nodes {
            let counters = node.handle.engine().counters();
            assert!(counters.cells[1][0] >= 4 * 2_000_000 / 498, "{counters:?}");
            assert_eq!(counters.cells[0], [0, 0]);
            assert_eq!(counters.protocol_errors, 0);
        }
        for node in &nodes {
            node.handle.shutdown().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_come_back_whole_on_several_streams_at_once() {
    within(async {
        let nodes = [
            node(EngineConfig::default()).await,
            node(EngineConfig::default()).await,
            node(EngineConfig::default()).await,
        ];
        let [guard, middle, last] = &nodes;
        let tunnel = circuit(&[guard, middle, last], OURS).await;
        let to = echo().await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let stream = tunnel
                .begin_stream(&to.ip().to_string(), to.port(), None)
                .await
                .unwrap();
            streams.push(tokio::spawn(async move {
                let sent = pattern(2_000_000);
                let (mut read, mut write) = tokio::io::split(stream);
                let writing = async {
                    write.write_all(&sent).await.unwrap();
                    write.flush().await.unwrap();
                };
                let reading = async {
                    let mut got = vec![0; 2_000_000];
                    read.read_exact(&mut got).await.unwrap();
                    got
                };
                let ((), got) = futures::join!(writing, reading);
                assert!(got == pattern(2_000_000), "bytes changed on the way");
            }));
        }
        for stream in streams {
            stream.await.unwrap();
        }
        assert_eq!(last.handle.engine().counters().protocol_errors, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payment_events_tell_of_links_circuits_and_their_ends() {
    within(async {
        let mut guard = node(EngineConfig::default()).await;
        let last = node(EngineConfig::default()).await;
        let tunnel = circuit(&[&guard, &last], OURS).await;
        let PaymentEvent::LinkUp {
            link: client,
            peer: None,
            ..
        } = guard.payments.recv().await.unwrap()
        else {
            panic!("the client's link comes first")
        };
        let PaymentEvent::CircuitOpened { circuit, link, .. } = guard.payments.recv().await.unwrap() else {
            panic!("then its circuit")
        };
        assert_eq!(link, client);
        let PaymentEvent::LinkUp {
            link: next,
            peer: Some(peer),
            ..
        } = guard.payments.recv().await.unwrap()
        else {
            panic!("then the link to the next hop")
        };
        assert_eq!(peer.ed, last.keys.ed25519());
        let PaymentEvent::CircuitExtended {
            circuit: extended,
            link,
            ..
        } = guard.payments.recv().await.unwrap()
        else {
            panic!("then the circuit goes on")
        };
        assert_eq!((extended, link), (circuit, next));
        // Credit moves it to the paid class, and back when it is used up.
        let engine = guard.handle.engine();
        engine.watch_credit(circuit, 1);
        assert!(matches!(
            guard.payments.recv().await,
            Some(PaymentEvent::CreditLow { credit: 0, .. })
        ));
        engine.grant(circuit, 100 * 514);
        engine.watch_credit(circuit, 51_400);
        let from = source(200_000).await;
        download(&tunnel, from, 200_000).await;
        assert!(matches!(
            guard.payments.recv().await,
            Some(PaymentEvent::CreditLow { .. })
        ));
        let counters = engine.counters();
        assert_eq!(counters.cells[0][0] + counters.cells[0][1], 100);
        assert!(engine.metered(circuit).unwrap() > 200_000);
        tunnel.terminate();
        let Some(PaymentEvent::CircuitClosed {
            circuit: closed,
            metered,
        }) = guard.payments.recv().await
        else {
            panic!("the circuit ends")
        };
        assert_eq!(closed, circuit);
        assert!(metered > 200_000);
        guard.handle.shutdown().await;
        while let Some(event) = guard.payments.recv().await {
            assert!(matches!(event, PaymentEvent::LinkDown { .. }), "{event:?}");
        }
    })
    .await;
}
