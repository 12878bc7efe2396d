//! Bytes through one and three relays, counted and paid for.

use std::time::Duration;

use obol_onion::engine::{EngineConfig, PaymentEvent};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_downloads_through_three_relays_with_ntor_v3_and_with_ntor() {
    within(async {
        let nodes = three().await;
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
async fn circuits_that_want_one_relay_at_once_share_one_link_to_it_whatever_else_they_say_of_it() {
    within(async {
        let (guard, next) = (node(Options::default()).await, node(Options::default()).await);
        let address = next.handle.addresses()[0];
        let mut tunnels = Vec::new();
        for _ in 0..6 {
            tunnels.push(circuit(&[&guard], OURS).await);
        }
        let extended = tunnels.iter().enumerate().map(|(n, tunnel)| {
            // A second address that nobody listens at.
            let second = (n % 2 == 1).then(|| "[::1]:9".parse().unwrap());
            let target = next.target_at(OURS, [address].into_iter().chain(second).collect());
            async move {
                let circuit = tunnel.as_single_circ().unwrap();
                circuit.extend(&target, parameters()).await.unwrap();
            }
        });
        futures::future::join_all(extended).await;
        assert_eq!(next.handle.engine().counters().links, 1);
        assert_eq!(guard.handle.engine().counters().links, 7);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_come_back_whole_on_several_streams_at_once() {
    within(async {
        let nodes = three().await;
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
        let mut guard = node(Options::default()).await;
        let last = node(Options::default()).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_guard_gives_a_paying_circuit_its_share_and_an_unpaid_one_the_rest() {
    within(async {
        let rated = Options {
            engine: EngineConfig {
                rate: Some(256 << 10),
                ..EngineConfig::default()
            },
            ..Options::default()
        };
        let mut guard = node(rated).await;
        let last = node(Options::default()).await;
        let engine = guard.handle.engine();
        let (paying, other) = (
            circuit(&[&guard, &last], OURS).await,
            circuit(&[&guard, &last], OURS).await,
        );
        let mut opened = Vec::new();
        while let Some(event) = guard.payments.try_recv() {
            if let PaymentEvent::CircuitOpened { circuit, .. } = event {
                opened.push(circuit);
            }
        }
        engine.grant(opened[0], 1 << 40);
        let from = endless().await;
        let draining = tokio::spawn(async move {
            let mut stream = other.begin_stream("127.0.0.1", from.port(), None).await.unwrap();
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        // Once the other has started, both want more than there is.
        while engine.metered(opened[1]).unwrap() < 100_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = engine.counters();
        let from = source(600_000).await;
        download(&paying, from, 600_000).await;
        let after = engine.counters();
        let carried = |class: usize| after.cells[class].iter().sum::<u64>() - before.cells[class].iter().sum::<u64>();
        assert!(
            carried(1) * 5 < carried(0),
            "{} unpaid beside {} paid cells",
            carried(1),
            carried(0)
        );
        assert!(carried(1) > 0, "it is slowed, not starved");
        // Alone, it has everything that is left over.
        let alone = engine.metered(opened[1]).unwrap();
        while engine.metered(opened[1]).unwrap() < alone + 400_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        draining.abort();
    })
    .await;
}
