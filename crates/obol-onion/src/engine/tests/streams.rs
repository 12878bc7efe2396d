//! How many streams there may be.

use super::*;
use crate::engine::neighbours::Share;

/// One relay with room for 1024 streams: 32 of a client's address, 256 of a relay, 200 of a circuit.
fn net() -> Net {
    Net::new([EngineConfig {
        cell_memory: 4 << 20,
        streams_per_circuit: 200,
        ..EngineConfig::default()
    }])
}

/// Begins streams with these numbers, of every kind; how many are not refused. For the others there has to be an END for
/// want of room.
fn begin(net: &mut Net, circ: &mut Circ, numbers: core::ops::Range<u16>) -> usize {
    let all = numbers.len();
    for number in numbers {
        let (command, data): (u8, &[u8]) = match number % 3 {
            0 => (relay::BEGIN, b"example.com:80\0"),
            1 => (relay::BEGIN_DIR, b""),
            _ => (relay::RESOLVE, b"example.com\0"),
        };
        net.send(circ, 0, command, number, data);
    }
    net.run();
    let refused = net.messages(circ);
    assert!(
        refused
            .iter()
            .all(|message| message.command == relay::END && message.data == [11]),
        "{refused:?}"
    );
    assert_eq!(refused.len() as u64, net.nodes[0].counters().streams_refused);
    net.nodes[0].counters.streams_refused = 0;
    all - refused.len()
}

fn streams(net: &mut Net) -> Vec<StreamId> {
    let events = std::mem::take(&mut net.events[0]).into_iter();
    events
        .filter_map(|event| match event {
            Event::Begin { stream, .. } | Event::BeginDir { stream, .. } | Event::Resolve { stream, .. } => {
                Some(stream)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_circuit_a_neighbour_and_all_together_may_have_so_many_streams_and_no_more() {
    let mut net = net();
    let clients = [(); 2].map(|()| net.client_at(0, "192.0.2.1"));
    let mut of_client = clients.map(|client| net.open(client, &[0]));
    assert_eq!(begin(&mut net, &mut of_client[0], 1..21), 20);
    assert_eq!(begin(&mut net, &mut of_client[1], 1..21), 12, "of one address");
    let mut circuits = Vec::new();
    for of in 1..=4 {
        let peer = net.peer_at(0, of, true, &format!("192.0.2.{}", of + 1));
        let mut two = [(); 2].map(|()| net.open(peer, &[0]));
        assert_eq!(begin(&mut net, &mut two[0], 1..251), 200, "of one circuit");
        let room = if of < 4 { 56 } else { 24 };
        assert_eq!(begin(&mut net, &mut two[1], 1..251), room, "of one relay, and of all");
        circuits.push(two);
    }
    assert_eq!(net.nodes[0].counters().streams, 1024);
    let late = net.peer_at(0, 9, true, "192.0.2.99");
    let mut late = net.open(late, &[0]);
    assert_eq!(begin(&mut net, &mut late, 1..5), 0);
    // What ends makes room: streams by themselves, in either form, and with their circuits.
    for stream in streams(&mut net).into_iter().take(7) {
        match stream.number % 3 {
            2 => net.nodes[0].stream_resolved(stream, &[Answer::Transient]),
            _ => net.nodes[0].stream_end(stream, None),
        }
    }
    assert_eq!(begin(&mut net, &mut late, 5..20), 7);
    let gone = &circuits[0][0];
    net.send_cell(gone.client, gone.id, command::DESTROY, &[0]);
    assert_eq!(net.nodes[0].counters().streams, 824);
    assert_eq!(begin(&mut net, &mut late, 20..40), 20);
    assert_eq!(net.nodes[0].counters().protocol_errors, 0);
    for client in 0..net.clients.len() {
        let link = net.clients[client].link;
        net.nodes[0].link_down(net.now, link);
    }
    assert_eq!(net.nodes[0].neighbours.all(), Share::default());
}

#[test]
fn streams_of_a_peer_that_comes_to_be_a_relay_count_as_its_own() {
    let mut net = net();
    let address = "192.0.2.1";
    let young = net.peer_at(0, 1, false, address);
    let client = net.client_at(0, address);
    let mut circuits = [young, client].map(|client| net.open(client, &[0]));
    assert_eq!(begin(&mut net, &mut circuits[0], 1..41), 32);
    assert_eq!(begin(&mut net, &mut circuits[1], 1..2), 0);
    net.nodes[0].judge_links(net.now, |_| true);
    assert_eq!(begin(&mut net, &mut circuits[1], 1..41), 32);
    assert_eq!(begin(&mut net, &mut circuits[0], 41..301), 200 - 32);
}
