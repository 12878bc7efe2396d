//! The load driver against our relays: what it says it downloaded, it did.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use obol_bench::driver::{Driver, DriverError, Flow, Target};
use obol_bench::origin::Origin;
use obol_bench::ours::targets;
use obol_testnet::network::{Network, NetworkOptions};

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Turns until nothing is due.
fn finish(driver: &mut Driver) {
    while driver.busy() > 0 {
        assert!(driver.turn(PATIENCE).unwrap(), "nothing came");
    }
}

/// Opens circuits as soon as the exit knows from a consensus that the middle is a relay.
fn open(path: &[Target], flow: Flow, circuits: usize, origin: SocketAddr) -> Driver {
    let began = Instant::now();
    loop {
        let mut driver = Driver::new(path, flow).unwrap();
        match driver.open(circuits, 4, origin) {
            Ok(()) => return driver,
            Err(DriverError::StreamEnded { .. }) => assert!(began.elapsed() < PATIENCE, "the exit refuses"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_downloads_every_byte_over_our_relays_with_either_flow_control() {
    let directory = tempfile::tempdir().unwrap();
    let options = NetworkOptions {
        payments: false,
        consensus: vec![("cc_alg".to_owned(), 2)],
        ..NetworkOptions::new(directory.path())
    };
    let network = Network::start(options, |_| {}).await.unwrap();
    let path = targets(&network).unwrap();
    let origin = Origin::start().await.unwrap();
    let address = origin.address();
    let work = tokio::task::spawn_blocking(move || {
        for flow in [Flow::Fixed, Flow::Congestion] {
            let mut driver = open(&path, flow, 3, address);
            // More than a window each, so that SENDMEs have to be right.
            for circuit in 0..3 {
                driver.ask(circuit, 1_000_000);
            }
            finish(&mut driver);
            assert_eq!(driver.received(), 3_000_000);

            driver.ask_again_and_again(1, 1000, Duration::ZERO);
            while driver.answered(1) < 20 {
                driver.turn(PATIENCE).unwrap();
            }
            assert!(driver.take_latencies(1).len() >= 20);
        }

        // A port where nobody listens any more.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        let mut driver = Driver::new(&path, Flow::Fixed).unwrap();
        let refused = driver.open(1, 1, nobody);
        assert!(matches!(refused, Err(DriverError::StreamEnded { .. })), "{refused:?}");

        // Whoever answers must hold the onion key that was meant.
        let mut wrong = path.clone();
        wrong[1].ntor = [9; 32];
        let mut driver = Driver::new(&wrong, Flow::Fixed).unwrap();
        assert!(driver.open(1, 1, address).is_err());
    });
    work.await.unwrap();
    network.stop().await;
}
