//! Relays, servers and a stock client on loopback.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use obol_onion::engine::EngineConfig;
use obol_relay::directory::{DirCache, NetView};
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
pub struct Node {
    pub handle: RelayHandle,
    pub keys: Arc<Keys>,
    pub payments: PaymentEvents,
    _directory: tempfile::TempDir,
}

pub fn exit() -> ExitConfig {
    let mut policy = AddrPolicy::new();
    policy.push(RuleKind::Accept, "*:*".parse().unwrap());
    ExitConfig {
        policy,
        reject_private: false,
        ..ExitConfig::closed()
    }
}

/// What may differ between the relays of these tests.
#[derive(Default)]
pub struct Options {
    pub engine: EngineConfig,
    pub exit: Option<ExitConfig>,
    pub directory: Option<DirCache>,
    pub net: Option<NetView>,
    /// It listens on IPv6, and there only.
    pub ipv6: bool,
}

pub async fn node(options: Options) -> Node {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let keys = tokio::task::spawn_blocking(move || Keys::open(&path, SystemTime::now()).unwrap())
        .await
        .unwrap();
    let (sink, payments) = payment_channel();
    let handle = Relay::start(RelayParts {
        keys: Arc::clone(&keys),
        listen: vec![match options.ipv6 {
            true => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
            false => SocketAddr::from(([127, 0, 0, 1], 0)),
        }],
        advertised: vec![],
        engine: EngineConfig {
            allow_private_addresses: true,
            ..options.engine
        },
        exit: options.exit.unwrap_or_else(exit),
        directory: options.directory,
        net: options.net,
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

/// Three of them.
pub async fn three() -> [Node; 3] {
    [
        node(Options::default()).await,
        node(Options::default()).await,
        node(Options::default()).await,
    ]
}

impl Node {
    /// How a client names it.
    pub fn target(&self, protocols: &str) -> OwnedCircTarget {
        self.target_at(protocols, self.handle.addresses()[..1].to_vec())
    }

    /// The same with other addresses.
    pub fn target_at(&self, protocols: &str, addresses: Vec<SocketAddr>) -> OwnedCircTarget {
        let mut builder = OwnedCircTarget::builder();
        builder
            .chan_target()
            .ed_identity(self.keys.ed25519().into())
            .rsa_identity(self.keys.fingerprint().into())
            .addrs(addresses.clone())
            .method(ChannelMethod::Direct(addresses));
        builder
            .ntor_onion_key(self.keys.current().ntor_public().into())
            .protocols(protocols.parse().unwrap())
            .build()
            .unwrap()
    }
}

/// What a relay of ours advertises: ntor-v3 is used.
pub const OURS: &str = "FlowCtrl=1 Link=4-5 LinkAuth=3 Relay=2-5";
/// Without Relay=4: ntor is used.
pub const OLD: &str = "FlowCtrl=1 Link=4-5 LinkAuth=3 Relay=2";

pub struct Patient;

impl TimeoutEstimator for Patient {
    fn circuit_build_timeout(&self, _: usize) -> Duration {
        PATIENCE
    }
}

pub fn parameters() -> CircParameters {
    let defaults = tor_netdir::params::NetParameters::default();
    tor_circmgr::build::exit_circparams_from_netparams(&defaults).unwrap()
}

/// A stock client's link to a relay.
pub async fn link(node: &Node) -> Arc<Channel> {
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
pub async fn circuit(nodes: &[&Node], protocols: &str) -> Arc<ClientTunnel> {
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
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// A server that sends `len` bytes to everybody, and ends.
pub async fn source(len: usize) -> SocketAddr {
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

/// A server that sends to everybody until they leave.
pub async fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move { while tcp.write_all(&[7; 16 * 1024]).await.is_ok() {} });
        }
    });
    address
}

/// A server that returns what it gets.
pub async fn echo() -> SocketAddr {
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

pub async fn download(tunnel: &Arc<ClientTunnel>, from: SocketAddr, len: usize) {
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

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("hangs")
}
