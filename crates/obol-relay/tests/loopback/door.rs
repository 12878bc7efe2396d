//! Who comes in when one address wants too much.

use crate::harness::*;

use std::collections::HashMap;
use std::net::SocketAddr;

use obol_relay::directory::{NetView, Snapshot};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};

/// A connection from another of this machine's addresses.
async fn connection(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the relay ends it without a word.
async fn is_closed(connection: &mut TcpStream) -> bool {
    matches!(within(connection.read(&mut [0; 1])).await, Ok(0) | Err(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_holds_all_handshakes_it_can_keeps_nobody_else_out() {
    let node = node(Options::default()).await;
    let address = node.handle.addresses()[0];
    let mut held = Vec::new();
    // They say nothing: half-open links.
    while node.handle.engine().door().refused_handshakes == 0 {
        held.push(connection([127, 0, 0, 2], address).await);
        assert!(held.len() < 1024, "one address holds everything");
    }
    let tunnel = circuit(&[&node], OURS).await;
    assert!(tunnel.as_single_circ().is_ok());
    // They do not hold on for ever either.
    within(async {
        for connection in &mut held {
            assert!(is_closed(connection).await);
        }
    })
    .await;
    within(async {
        while node.handle.engine().door().handshakes > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consensus_switches_the_limit_of_circuits_on() {
    let limits = [("DoSCircuitCreationEnabled", 1), ("DoSCircuitCreationBurst", 10)];
    let limits: HashMap<String, i32> = limits.map(|(name, value)| (name.to_owned(), value)).into();
    let options = Options {
        net: Some(NetView::fixed(Snapshot::new(None, limits, []))),
        ..Options::default()
    };
    let node = node(options).await;
    let links = [link(&node).await, link(&node).await, link(&node).await];
    within(async {
        // The relay learns of the parameters in its own time.
        for link in links.iter().cycle() {
            let (pending, reactor) = link.new_tunnel(std::sync::Arc::new(Patient)).await.unwrap();
            tokio::spawn(reactor.run());
            if pending.create_firsthop(&node.target(OURS), parameters()).await.is_err() {
                break;
            }
        }
    })
    .await;
    let counters = node.handle.engine().counters();
    assert_eq!((counters.clients_marked, counters.creates_refused), (1, 0));
    assert!(counters.creates_defended >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consensus_switches_the_limit_of_client_links_on() {
    let limits = [("DoSConnectionEnabled", 1), ("DoSConnectionMaxConcurrentCount", 4)];
    let limits: HashMap<String, i32> = limits.map(|(name, value)| (name.to_owned(), value)).into();
    let options = Options {
        net: Some(NetView::fixed(Snapshot::new(None, limits, []))),
        ..Options::default()
    };
    let node = node(options).await;
    let mut links = Vec::new();
    for _ in 0..4 {
        links.push(link(&node).await);
    }
    let address = node.handle.addresses()[0];
    within(async {
        // The relay learns of the parameters and of the links' end of their handshakes in its own time.
        while node.handle.engine().door().refused_concurrent == 0 {
            drop(connection([127, 0, 0, 1], address).await);
        }
    })
    .await;
    assert!(is_closed(&mut connection([127, 0, 0, 1], address).await).await);
    // Those that are open go on.
    let (_pending, reactor) = links[0].new_tunnel(std::sync::Arc::new(Patient)).await.unwrap();
    drop(reactor);
}
