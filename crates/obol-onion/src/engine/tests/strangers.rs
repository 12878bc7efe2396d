//! Peers that have proved an identity of which no consensus knows: clients, until one does.

use super::*;

const HERE: &str = "192.0.2.9";

/// One relay, on which no neighbour may have more than three circuits.
fn net() -> Net {
    Net::new([EngineConfig {
        circuits_per_neighbour: 3,
        idle_looks: Some(1),
        ..EngineConfig::default()
    }])
}

/// CREATE_FASTs; how many of them are answered.
fn created(net: &mut Net, client: usize, ids: core::ops::Range<u32>) -> usize {
    let answered = |id: &u32| {
        let id = 0x8000_0000 | id;
        net.send_cell(client, id, command::CREATE_FAST, &id.to_be_bytes());
        net.run();
        net.cells(client, id)[0].0 == command::CREATED_FAST
    };
    ids.filter(answered).count()
}

/// The consensus now knows of these.
fn judge(net: &mut Net, known: &[usize]) {
    let now = net.now;
    net.nodes[0].judge_links(now, |who| known.iter().any(|node| peer(*node) == *who));
}

fn judged(net: &mut Net) -> Vec<Neighbour> {
    let payments = net.payments(0).into_iter();
    payments
        .filter_map(|event| match event {
            PaymentEvent::LinkJudged { neighbour, .. } => Some(neighbour),
            _ => None,
        })
        .collect()
}

#[test]
fn made_up_identities_of_one_address_share_what_one_client_may_have() {
    let mut net = net();
    let strangers = [1, 2].map(|of| net.peer_at(0, of, false, HERE));
    let client = net.client_at(0, HERE);
    let relay = net.peer_at(0, 3, true, HERE);
    assert_eq!(created(&mut net, strangers[0], 1..3), 2);
    assert_eq!(created(&mut net, strangers[1], 1..3), 1);
    assert_eq!(created(&mut net, client, 1..3), 0);
    assert_eq!(
        created(&mut net, relay, 1..5),
        3,
        "a relay of the consensus has its own"
    );
    let up: Vec<Neighbour> = net
        .payments(0)
        .into_iter()
        .filter_map(|event| match event {
            PaymentEvent::LinkUp {
                peer: Some(_),
                neighbour,
                ..
            } => Some(neighbour),
            _ => None,
        })
        .collect();
    let address = Neighbour::Client(HERE.parse().unwrap());
    assert_eq!(up, [address, address, Neighbour::Relay(peer(3).ed)]);
}

#[test]
fn a_new_consensus_moves_links_and_their_circuits_to_the_share_that_they_have_now() {
    let mut net = net();
    let young = net.peer_at(0, 1, false, HERE);
    let client = net.client_at(0, HERE);
    assert_eq!(created(&mut net, young, 1..4), 3);
    assert_eq!(created(&mut net, client, 1..2), 0, "the address has its three");
    judge(&mut net, &[1]);
    assert_eq!(judged(&mut net), [Neighbour::Relay(peer(1).ed)]);
    assert_eq!(created(&mut net, young, 4..5), 0, "its circuits came with it");
    assert_eq!(created(&mut net, client, 2..6), 3, "and are no longer its address's");
    judge(&mut net, &[1]);
    assert_eq!(judged(&mut net), [], "nothing has changed");
    let link = net.clients[client].link;
    net.nodes[0].link_down(net.now, link);
    judge(&mut net, &[]);
    assert_eq!(judged(&mut net), [Neighbour::Client(HERE.parse().unwrap())]);
    let client = net.client_at(0, HERE);
    assert_eq!(
        created(&mut net, client, 1..2),
        0,
        "voted out, it counts as its address again"
    );
    for client in [young, client] {
        let link = net.clients[client].link;
        net.nodes[0].link_down(net.now, link);
    }
    let client = net.client_at(0, HERE);
    assert_eq!(created(&mut net, client, 1..5), 3, "all accounts are closed");
}

#[test]
fn cells_that_wait_when_a_peer_comes_to_be_a_relay_arrive_all_the_same() {
    for rate in [None, Some(500_000)] {
        let mut net = Net::new([EngineConfig {
            rate,
            ..EngineConfig::default()
        }]);
        let peers = [1, 2].map(|of| net.peer_at(0, of, false, HERE));
        let mut circuits = peers.map(|client| net.open(client, &[0]));
        let streams: Vec<StreamId> = circuits.iter_mut().map(|circ| net.stream(circ, 1)).collect();
        for stream in &streams {
            assert_eq!(net.nodes[0].stream_send(*stream, &[7; 100 * DATA_MAX]), 100 * DATA_MAX);
        }
        judge(&mut net, &[1]);
        for _ in 0..1000 {
            net.now = net.now.plus(10_000);
            net.nodes[0].wake(net.now);
            net.run();
        }
        for circ in &mut circuits {
            let data = net.messages(circ).into_iter();
            assert_eq!(data.filter(|message| message.command == relay::DATA).count(), 100);
        }
    }
}

#[test]
fn a_strangers_idle_circuit_is_closed_and_a_relays_is_not() {
    let mut net = net();
    let (stranger, relay) = (net.peer_at(0, 1, false, HERE), net.peer_at(0, 2, true, HERE));
    for client in [stranger, relay] {
        assert_eq!(created(&mut net, client, 1..2), 1);
    }
    for _ in 0..130 {
        net.now = net.now.plus(1_000_000);
        net.nodes[0].tick(net.now);
    }
    net.run();
    assert_eq!(net.nodes[0].counters().circuits_idle, 1);
    assert_eq!(net.cells(stranger, 0x8000_0001)[0].0, command::DESTROY);
}
