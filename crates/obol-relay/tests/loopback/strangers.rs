//! A relay that is met before the consensus has it.

use std::collections::HashMap;
use std::sync::Arc;

use obol_onion::engine::{Neighbour, PaymentEvent};
use obol_relay::directory::{NetView, RelayInfo, Snapshot};
use tokio::sync::watch;

use crate::harness::{Node, OURS, Options, circuit, node, within};

/// A consensus that has this relay, with this Ed25519 identity.
fn with(node: &Node, ed: Option<[u8; 32]>) -> Arc<Snapshot> {
    let relay = RelayInfo {
        rsa: node.keys.fingerprint(),
        ed,
        addresses: node.handle.addresses().to_vec(),
        ..RelayInfo::default()
    };
    Arc::new(Snapshot::new(None, HashMap::new(), [relay]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_from_a_stranger_becomes_a_relays_when_the_consensus_has_it() {
    within(async {
        let (consensus, net) = watch::channel(Arc::new(Snapshot::default()));
        let options = Options {
            net: Some(NetView::new(net)),
            ..Options::default()
        };
        let mut last = node(options).await;
        let young = node(Options::default()).await;
        let _tunnel = circuit(&[&young, &last], OURS).await;
        let address = Neighbour::Client([127, 0, 0, 1].into());
        match last.payments.recv().await.unwrap() {
            PaymentEvent::LinkUp {
                peer: Some(peer),
                neighbour,
                ..
            } => assert_eq!((peer.ed, neighbour), (young.keys.ed25519(), address)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            last.payments.recv().await,
            Some(PaymentEvent::CircuitOpened { .. })
        ));
        for (snapshot, expected) in [
            (
                with(&young, Some(young.keys.ed25519())),
                Neighbour::Relay(young.keys.ed25519()),
            ),
            (Arc::new(Snapshot::default()), address),
            (with(&young, None), Neighbour::Relay(young.keys.ed25519())),
        ] {
            consensus.send_replace(snapshot);
            match last.payments.recv().await.unwrap() {
                PaymentEvent::LinkJudged { neighbour, .. } => assert_eq!(neighbour, expected),
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}
