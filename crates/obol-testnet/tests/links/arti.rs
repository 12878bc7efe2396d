//! tor-proto, the stock client's protocol, as the other side of link and circuit handshakes and of the onion encryption.

use crate::fixture::*;
use futures::AsyncReadExt as _;
use obol_relay::handshake;
use obol_relay::keys::Keys;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tor_linkspec::{ChannelMethod, OwnedChanTarget, OwnedCircTarget};
use tor_proto::ccparams::{
    Algorithm, CongestionControlParamsBuilder, CongestionWindowParamsBuilder, FixedWindowParams,
    FixedWindowParamsBuilder, RoundTripEstimatorParamsBuilder,
};
use tor_proto::channel::Channel;
use tor_proto::client::circuit::{CircParameters, PendingClientTunnel, TimeoutEstimator};
use tor_proto::memquota::{ChannelAccount, SpecificAccount as _};
use tor_proto::peer::PeerAddr;
use tor_proto::{CellCount, ClientChannelBuilder, FlowCtrlParameters};
use tor_rtcompat::tls::TlsConnector as _;
use tor_rtcompat::tokio::TokioRustlsRuntime;
use tor_rtcompat::{CertifiedConn as _, NetStreamProvider as _, TlsProvider as _};
use tor_units::Percentage;

struct AMinute;

impl TimeoutEstimator for AMinute {
    fn circuit_build_timeout(&self, _length: usize) -> Duration {
        Duration::from_secs(60)
    }
}

fn windows() -> FixedWindowParams {
    FixedWindowParamsBuilder::default()
        .circ_window_start(1000)
        .circ_window_min(100)
        .circ_window_max(1000)
        .build()
        .unwrap()
}

/// Fixed windows; the values of the rest do not matter then.
fn parameters() -> CircParameters {
    let window = CongestionWindowParamsBuilder::default()
        .cwnd_init(124)
        .cwnd_inc_pct_ss(Percentage::new(100))
        .cwnd_inc(1)
        .cwnd_inc_rate(31)
        .cwnd_min(124)
        .cwnd_max(1 << 20)
        .sendme_inc(31)
        .build()
        .unwrap();
    let round_trip = RoundTripEstimatorParamsBuilder::default()
        .ewma_cwnd_pct(Percentage::new(50))
        .ewma_max(10)
        .ewma_ss_max(2)
        .rtt_reset_pct(Percentage::new(100))
        .build()
        .unwrap();
    let control = CongestionControlParamsBuilder::default()
        .alg(Algorithm::FixedWindow(windows()))
        .fixed_window_params(windows())
        .cwnd_params(window)
        .rtt_params(round_trip)
        .build()
        .unwrap();
    let flow = FlowCtrlParameters {
        cc_xoff_client: CellCount::new(500),
        cc_xoff_exit: CellCount::new(500),
        cc_xon_rate: CellCount::new(500),
        cc_xon_change_pct: 25,
        cc_xon_ewma_cnt: 2,
    };
    CircParameters::new(true, control, flow)
}

/// The relay as arti knows it from a directory.
fn target(keys: &Keys, address: std::net::SocketAddr, protocols: &str) -> OwnedCircTarget {
    let mut builder = OwnedCircTarget::builder();
    builder
        .chan_target()
        .ed_identity(keys.ed25519().into())
        .rsa_identity(keys.fingerprint().into())
        .addrs(vec![address])
        .method(ChannelMethod::Direct(vec![address]));
    builder
        .ntor_onion_key(keys.current().ntor_public().into())
        .protocols(protocols.parse().unwrap());
    builder.build().unwrap()
}

/// What arti's TLS and the tests of this file share.
fn runtime() -> TokioRustlsRuntime {
    // Somebody else's test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    TokioRustlsRuntime::current().unwrap()
}

const DOCUMENT: &[u8] = b"a document of the directory";

/// A link from tor-proto to a small relay of ours.
async fn open(keys: &Arc<Keys>) -> (Arc<Channel>, OwnedChanTarget, UnboundedReceiver<Saw>) {
    let runtime = runtime();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (saw, seen) = tokio::sync::mpsc::unbounded_channel();
    let ours = Arc::clone(keys);
    tokio::spawn(async move {
        let tcp = listener.accept().await.unwrap().0;
        let link = handshake::accept(tcp, &ours, &local()).await.unwrap();
        assert!(link.peer.is_none());
        serve(link, &ours, DOCUMENT, saw).await;
    });

    let target = target(keys, address, "Link=4-5");
    let tcp = runtime.connect(&address, &Default::default()).await.unwrap();
    let tls = runtime
        .tls_connector()
        .negotiate_unvalidated(tcp, "www.example.com")
        .await
        .unwrap();
    let certificate = tls.peer_certificate().unwrap().unwrap().into_owned();
    let mut builder = ClientChannelBuilder::new();
    builder.set_declared_method(ChannelMethod::Direct(vec![address]));
    let unverified = builder
        .launch(tls, runtime, ChannelAccount::new_noop())
        .connect(SystemTime::now)
        .await
        .unwrap();
    let (channel, reactor) = unverified
        .verify(target.chan_target(), &certificate, None)
        .unwrap()
        .finish(safelog::MaybeSensitive::not_sensitive(PeerAddr::Direct(address)))
        .await
        .unwrap();
    tokio::spawn(reactor.run());
    assert!(channel.is_canonical());
    (channel, target.chan_target().clone(), seen)
}

async fn pending(channel: &Arc<Channel>) -> PendingClientTunnel {
    let (tunnel, reactor) = channel.new_tunnel(Arc::new(AMinute)).await.unwrap();
    tokio::spawn(reactor.run());
    tunnel
}

/// Reads the document through a circuit: both directions of the onion encryption work.
async fn read(tunnel: tor_proto::ClientTunnel) {
    let mut stream = Arc::new(tunnel).begin_dir_stream().await.unwrap();
    let mut document = Vec::new();
    stream.read_to_end(&mut document).await.unwrap();
    assert_eq!(document, DOCUMENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_gets_a_document_over_create_fast() {
    let (channel, _, mut seen) = open(&keys(0)).await;
    read(
        pending(&channel)
            .await
            .create_firsthop_fast(parameters())
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        (seen.recv().await, seen.recv().await),
        (Some(Saw::Fast), Some(Saw::BeginDir))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_gets_a_document_over_ntor_and_over_ntor_v3() {
    let keys = keys(0);
    let (channel, relay, mut seen) = open(&keys).await;
    for (protocols, how) in [("Relay=2", Saw::Ntor), ("Relay=2-4", Saw::NtorV3)] {
        let address = *tor_linkspec::HasAddrs::addrs(&relay).next().as_ref().unwrap();
        let target = target(&keys, address, protocols);
        let tunnel = pending(&channel)
            .await
            .create_firsthop(&target, parameters())
            .await
            .unwrap();
        read(tunnel).await;
        assert_eq!((seen.recv().await, seen.recv().await), (Some(how), Some(Saw::BeginDir)));
    }
}
