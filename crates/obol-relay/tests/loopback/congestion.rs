//! Congestion control with a stock client, which closes circuits whose flow control breaks its rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use obol_onion::engine::{Congestion, Counters, EngineConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tor_proto::ClientTunnel;

use super::harness::*;

/// What a relay of ours advertises in a network with congestion control.
const CONTROLLED: &str = "FlowCtrl=1-2 Link=4-5 LinkAuth=3 Relay=2-5";

/// A relay that has read a consensus.
async fn controlled(congestion: Congestion) -> Node {
    node(Options {
        engine: EngineConfig {
            congestion,
            ..EngineConfig::default()
        },
        ..Options::default()
    })
    .await
}

async fn three_controlled() -> [Node; 3] {
    let defaults = Congestion::from_consensus(|_| None);
    [
        controlled(defaults).await,
        controlled(defaults).await,
        controlled(defaults).await,
    ]
}

/// Waits until a relay's counters are as they should be.
async fn until(node: &Node, right: impl Fn(&Counters) -> bool) -> Counters {
    loop {
        let counters = node.handle.engine().counters();
        if right(&counters) {
            return counters;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A server with a small buffer that reads nothing until it is told, and then says whether it got this pattern.
async fn lazy(len: usize) -> (SocketAddr, Arc<Notify>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(8).unwrap();
    let address = listener.local_addr().unwrap();
    let go = Arc::new(Notify::new());
    let told = Arc::clone(&go);
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        told.notified().await;
        let mut got = vec![0; len];
        tcp.read_exact(&mut got).await.unwrap();
        let whole = got == pattern(len);
        tcp.write_all(if whole { b"whole" } else { b"wrong" }).await.unwrap();
        let _ = tcp.shutdown().await;
    });
    (address, go)
}

/// Sends a pattern to a lazy server; it must arrive whole.
async fn upload(tunnel: &Arc<ClientTunnel>, to: SocketAddr, len: usize) {
    let mut stream = tunnel.begin_stream("127.0.0.1", to.port(), None).await.unwrap();
    stream.write_all(&pattern(len)).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_downloads_and_uploads_with_congestion_control() {
    within(async {
        let nodes = three_controlled().await;
        let [guard, middle, last] = &nodes;
        let tunnel = circuit(&[guard, middle, last], CONTROLLED).await;
        for node in &nodes {
            assert_eq!(node.handle.engine().counters().circuits_controlled, 1);
        }
        let from = source(2_000_000).await;
        download(&tunnel, from, 2_000_000).await;
        let (to, go) = lazy(2_000_000).await;
        go.notify_one();
        upload(&tunnel, to, 2_000_000).await;
        // Several streams share the window.
        let downloads = (0..3).map(|_| download(&tunnel, from, 2_000_000));
        futures::future::join_all(downloads).await;
        for node in &nodes {
            assert_eq!(node.handle.engine().counters().protocol_errors, 0);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_to_a_target_that_stalls_is_paused_and_goes_on_without_offending_the_client() {
    within(async {
        let nodes = three_controlled().await;
        let [guard, middle, last] = &nodes;
        let tunnel = circuit(&[guard, middle, last], CONTROLLED).await;
        // More than the sockets on the way to the target hold.
        let len = 6_000_000;
        let (to, go) = lazy(len).await;
        let stalled = async {
            let counters = until(last, |counters| counters.xoffs_sent > 0).await;
            assert_eq!(counters.xoffs_sent, 1);
            // The circuit's other streams are not.
            let from = source(300_000).await;
            download(&tunnel, from, 300_000).await;
            go.notify_one();
        };
        futures::join!(upload(&tunnel, to, len), stalled);
        let from = source(100_000).await;
        download(&tunnel, from, 100_000).await;
        let counters = last.handle.engine().counters();
        assert_eq!((counters.protocol_errors, counters.killed_memory), (0, [0, 0]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_pauses_its_download_and_gets_all_of_it_later() {
    within(async {
        let nodes = three_controlled().await;
        let [guard, middle, last] = &nodes;
        let tunnel = circuit(&[guard, middle, last], CONTROLLED).await;
        let from = source(3_000_000).await;
        let mut stream = tunnel.begin_stream("127.0.0.1", from.port(), None).await.unwrap();
        until(last, |counters| counters.xoffs_received > 0).await;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert!(got == pattern(3_000_000), "bytes changed on the way");
        assert_eq!(last.handle.engine().counters().protocol_errors, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consensus_that_lags_by_one_is_tolerated_by_the_client_and_by_two_is_not() {
    within(async {
        let defaults = Congestion::from_consensus(|_| None);
        for (increment, agreed) in [(30, true), (32, true), (29, false), (33, false)] {
            let relay = controlled(Congestion { increment, ..defaults }).await;
            let channel = link(&relay).await;
            let (pending, reactor) = channel.new_tunnel(Arc::new(Patient)).await.unwrap();
            tokio::spawn(reactor.run());
            let made = pending.create_firsthop(&relay.target(CONTROLLED), parameters()).await;
            assert_eq!(made.is_ok(), agreed, "{increment}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_leave_a_limited_exit_by_class() {
    within(async {
        let mut last = node(Options {
            engine: EngineConfig {
                rate: Some(512 << 10),
                congestion: Congestion::from_consensus(|_| None),
                ..EngineConfig::default()
            },
            ..Options::default()
        })
        .await;
        let guard = controlled(Congestion::from_consensus(|_| None)).await;
        let engine = last.handle.engine();
        let paying = circuit(&[&guard, &last], CONTROLLED).await;
        let other = circuit(&[&guard, &last], CONTROLLED).await;
        let mut opened = Vec::new();
        while let Some(event) = last.payments.try_recv() {
            if let obol_onion::engine::PaymentEvent::CircuitOpened { circuit, .. } = event {
                opened.push(circuit);
            }
        }
        engine.grant(opened[0], 1 << 40);
        let to = sink().await;
        let uploading = |tunnel: Arc<ClientTunnel>| async move {
            let mut stream = tunnel.begin_stream("127.0.0.1", to.port(), None).await.unwrap();
            while stream.write_all(&[7; 16 * 1024]).await.is_ok() {}
        };
        let unpaid = tokio::spawn(uploading(other));
        while engine.metered(opened[1]).unwrap() < 200_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let paid = tokio::spawn(uploading(paying));
        while engine.metered(opened[0]).unwrap() < 500_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = [engine.metered(opened[0]).unwrap(), engine.metered(opened[1]).unwrap()];
        while engine.metered(opened[0]).unwrap() < before[0] + 1_000_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let [paid_bytes, unpaid_bytes] = [0, 1].map(|n: usize| engine.metered(opened[n]).unwrap() - before[n]);
        assert!(
            unpaid_bytes * 5 < paid_bytes,
            "{unpaid_bytes} unpaid beside {paid_bytes} paid bytes"
        );
        paid.abort();
        unpaid.abort();
        assert_eq!(engine.counters().protocol_errors, 0);
    })
    .await;
}

/// A server that reads and forgets.
async fn sink() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move { tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await });
        }
    });
    address
}
