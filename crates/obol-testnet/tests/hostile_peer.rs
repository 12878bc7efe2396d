//! A hostile peer before a relay of ours: each of its cases costs its own link or circuit, and nothing of it stays.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod network;

use std::time::{Duration, SystemTime};

use network::Node;
use obol_relay::keys::Keys;
use obol_relay::relay::EngineHandle;
use obol_testnet::authority::{Authority, AuthorityConfig};
use obol_testnet::hostile;
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::state::{Escrow, RelayState};

/// What the relay holds for others: links, circuits, cells' worth of memory, handshakes of circuits and of links.
fn held(engine: &EngineHandle) -> [u64; 6] {
    let counters = engine.counters();
    [
        counters.links,
        counters.circuits.iter().sum(),
        counters.held.iter().sum(),
        counters.slots,
        counters.handshakes_pending,
        engine.door().handshakes,
    ]
}

#[cfg(target_os = "linux")]
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_peer_costs_its_own_links_and_circuits_and_nothing_stays() {
    let authority = Authority::start(AuthorityConfig::default()).await.unwrap();
    let node = Node::start("victim", false, &authority).await;
    let engine = node.handle.engine();
    #[cfg(target_os = "linux")]
    let before = descriptors();
    assert_eq!(held(&engine), [0; 6]);
    match hostile::attack(node.handle.addresses()[0]).await {
        Ok(cases) => assert!(cases > 100, "{cases}"),
        Err(failures) => {
            let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
            panic!("{} failures:\n{}", failures.len(), failures.join("\n"));
        }
    }
    // The links' ends arrive, and with them everything that they held is given back.
    let gone = async {
        while held(&engine) != [0; 6] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(network::PATIENCE, gone).await.is_err() {
        panic!("links, circuits, cells, slots, handshakes stay: {:?}", held(&engine));
    }
    #[cfg(target_os = "linux")]
    {
        let gone = async {
            while descriptors() > before + 8 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let late = tokio::time::timeout(network::PATIENCE, gone).await.is_err();
        assert!(!late, "{before} descriptors became {}", descriptors());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payment_messages_out_of_turn_cost_a_paid_relay_nothing() {
    let files = tempfile::tempdir().unwrap();
    let starting = Network::start(NetworkOptions::new(files.path().join("network")), |_| {});
    let network = tokio::time::timeout(network::PATIENCE, starting)
        .await
        .expect("in time")
        .unwrap();
    // A relay gone bad: who has its keys is what it is to the others.
    let last = network.relays.last().unwrap();
    let directory = last.directory.join("keys");
    let peer = tokio::task::spawn_blocking(move || Keys::open(&directory, SystemTime::now()).unwrap())
        .await
        .unwrap();
    assert_eq!(hex::encode_upper(peer.fingerprint()), last.fingerprint);
    // The others know it when they have an escrow to it.
    let guard = network.guard();
    let known = async {
        loop {
            let state = RelayState::of(&guard.control).await.unwrap();
            let open = |escrow: &&Escrow| escrow.direction == "out" && escrow.state == "open";
            if state.escrows.iter().filter(open).count() == network.relays.len() - 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(network::PATIENCE, known).await.expect("in time");
    match hostile::attack_paid(guard.or, peer).await {
        Ok(cases) => assert!(cases > 70, "{cases}"),
        Err(failures) => {
            let failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
            panic!("{} failures:\n{}", failures.len(), failures.join("\n"));
        }
    }
    network.stop().await;
}
