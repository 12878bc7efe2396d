//! Circuits: made, extended, used, ended.

use super::*;

#[test]
fn a_circuit_over_three_relays_carries_streams_both_ways() {
    let mut net = Net::of_size(3);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1, 2]);
    let stream = net.stream(&mut circ, 7);
    assert_eq!(net.nodes[2].stream_send(stream, &[5; 1200]), 1200);
    net.run();
    let got = net.messages(&mut circ);
    assert_eq!(got[0].command, relay::CONNECTED);
    assert_eq!(got[0].data, [192, 0, 2, 9, 0, 0, 1, 44]);
    let lengths: Vec<usize> = got[1..].iter().map(|message| message.data.len()).collect();
    assert_eq!(lengths, [498, 498, 204]);
    assert!(got.iter().all(|message| message.hop == 2 && message.stream == 7));
    net.send(&mut circ, 2, relay::DATA, 7, b"hello");
    net.send(&mut circ, 2, relay::DATA, 7, b" world");
    net.settle();
    let mut buffer = Vec::new();
    assert_eq!(net.nodes[2].stream_receive(stream, &mut buffer), Received::Bytes);
    assert_eq!(buffer, b"hello world");
    net.nodes[2].stream_consumed(stream, buffer.len());
    net.send(&mut circ, 2, relay::END, 7, &[6]);
    net.settle();
    buffer.clear();
    assert_eq!(net.nodes[2].stream_receive(stream, &mut buffer), Received::Ended);
    net.nodes[2].stream_end(stream, Some(Ending::Because(EndReason::Done)));
    assert_eq!(net.nodes[2].stream_receive(stream, &mut buffer), Received::Gone);
    net.run();
    assert_eq!(net.messages(&mut circ), [], "no END in answer to an END");
    // What the last relay counted, those before it did too, and what made the circuit.
    assert!(net.nodes[0].metered(circ.names[0]) >= net.nodes[2].metered(circ.names[2]));
    net.send_cell(client, circ.id, command::DESTROY, &[0]);
    net.run();
    for node in &net.nodes {
        let counters = node.counters();
        assert_eq!((counters.circuits, counters.slots, counters.held), ([0, 0], 0, [0, 0]));
        assert_eq!(counters.protocol_errors, 0);
    }
}

#[test]
fn circuits_share_the_link_between_two_relays() {
    let mut net = Net::of_size(2);
    for n in 0..20 {
        let client = net.client_at(0, &format!("192.0.2.{n}"));
        net.open(client, &[0, 1]);
    }
    assert_eq!(net.links.len(), 1);
    assert_eq!(net.nodes[1].counters().circuits, [0, 20]);
    let [_, (_, link)] = net.links[0];
    net.nodes[1].link_down(net.now, link);
    let [(_, link), _] = net.links[0];
    net.nodes[0].link_down(net.now, link);
    net.links.clear();
    net.run();
    assert_eq!(net.nodes[0].counters().circuits, [0, 0]);
    assert_eq!(net.nodes[1].counters().circuits, [0, 0]);
}

#[test]
fn the_ninth_relay_early_cell_closes_the_circuit() {
    let mut net = Net::of_size(2);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1]);
    // One was the EXTEND2.
    for _ in 0..7 {
        net.send_as(&mut circ, command::RELAY_EARLY, 1, 10, 0, &[]);
    }
    net.run();
    assert_eq!(net.nodes[0].counters().circuits, [0, 1]);
    net.send_as(&mut circ, command::RELAY_EARLY, 1, 10, 0, &[]);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));
    assert_eq!(net.nodes[1].counters().circuits, [0, 0]);
}

#[test]
fn an_extend_outside_of_relay_early_is_dropped_and_a_second_one_closes() {
    let mut net = Net::of_size(3);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let (_, data) = net.extend_data(1);
    net.send(&mut circ, 0, relay::EXTEND2, 0, &data);
    net.run();
    assert_eq!(net.messages(&mut circ), []);
    assert_eq!(net.nodes[0].counters().circuits, [0, 1]);
    net.extend(&mut circ, 1);
    net.run();
    assert_eq!(net.messages(&mut circ)[0].command, relay::EXTENDED2);
    net.extend(&mut circ, 2);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));
}

#[test]
fn a_consensus_may_allow_extends_outside_of_relay_early() {
    let mut net = Net::of_size(2);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let allow = |name: &str, default| if name == "AllowNonearlyExtend" { 1 } else { default };
    net.nodes[0].set_defences(DefenceParameters::new(allow));
    let (_, data) = net.extend_data(1);
    net.send(&mut circ, 0, relay::EXTEND2, 0, &data);
    net.run();
    assert_eq!(net.messages(&mut circ)[0].command, relay::EXTENDED2);
}

#[test]
fn a_relay_is_not_sent_to_itself_under_another_name() {
    for own in [true, false] {
        let own_addresses = if own { vec![address(1)] } else { vec![] };
        let mut net = Net::new([
            EngineConfig {
                own_addresses,
                ..EngineConfig::default()
            },
            EngineConfig::default(),
        ]);
        let client = net.client(0);
        let mut circ = net.open(client, &[0]);
        net.extend(&mut circ, 1);
        net.run();
        let closed = own.then_some(DestroyReason::Protocol as u8);
        assert_eq!(net.destroyed(&circ), closed);
        assert_eq!(net.links.is_empty(), own);
    }
}

#[test]
fn a_relay_that_moves_is_not_sent_to_its_new_address_either() {
    let mut net = Net::of_size(2);
    let client = net.client(0);
    net.nodes[0].set_own_addresses(vec![address(1)]);
    let mut circ = net.open(client, &[0]);
    net.extend(&mut circ, 1);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));
    net.nodes[0].set_own_addresses(vec![address(0)]);
    let mut circ = net.open(client, &[0]);
    net.extend(&mut circ, 1);
    net.run();
    assert_eq!(net.destroyed(&circ), None);
}

#[test]
fn an_unreachable_next_hop_is_said_to_be_so() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    net.extend(&mut circ, 66);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::ConnectFailed as u8));
}

#[test]
fn a_truncated_circuit_can_be_extended_elsewhere() {
    let mut net = Net::of_size(3);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1]);
    net.send(&mut circ, 0, relay::TRUNCATE, 0, &[1]);
    net.run();
    let got = net.messages(&mut circ);
    assert_eq!(
        (got[0].hop, got[0].command, &got[0].data[..]),
        (0, relay::TRUNCATED, &[3][..])
    );
    assert_eq!(net.nodes[1].counters().circuits, [0, 0]);
    let (_, data) = net.extend_data(2);
    net.send_as(&mut circ, command::RELAY_EARLY, 0, relay::EXTEND2, 0, &data);
    net.run();
    assert_eq!(net.nodes[2].counters().circuits, [0, 1]);
}

#[test]
fn empty_end_and_truncate_close_the_circuit_and_unknown_commands_do_not() {
    for (command, stream, closes) in [
        (relay::END, 1, true),
        (relay::TRUNCATE, 0, true),
        (relay::TRUNCATED, 0, true),
        (99, 0, false),
        (10, 0, false),
        (43, 1, false),
        (relay::EXTEND, 0, true),
    ] {
        let mut net = Net::of_size(1);
        let client = net.client(0);
        let mut circ = net.open(client, &[0]);
        net.send(&mut circ, 0, command, stream, &[]);
        net.run();
        assert_eq!(net.destroyed(&circ).is_some(), closes, "command {command}");
    }
}

#[test]
fn a_cell_that_nobody_recognises_closes_the_circuit() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let circ = net.open(client, &[0]);
    net.send_cell(client, circ.id, command::RELAY, &[7; BODY_LEN]);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));
    // Nobody knows the circuit now: what still comes is dropped without an answer.
    net.send_cell(client, circ.id, command::RELAY, &[7; BODY_LEN]);
    net.run();
    assert_eq!(net.cells(client, circ.id), []);
}

#[test]
fn circuit_ids_of_the_wrong_half_are_refused_and_those_in_use_ignored() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let (_, handshake) = net.onionskin();
    net.send_cell(client, 5, command::CREATE2, &handshake);
    net.send_cell(client, 0, command::CREATE2, &handshake);
    net.run();
    assert_eq!(net.cells(client, 5)[0].1[0], DestroyReason::Protocol as u8);
    let circ = net.open(client, &[0]);
    net.send_cell(client, circ.id, command::CREATE2, &handshake);
    net.run();
    assert_eq!(net.cells(client, circ.id), []);
    assert_eq!(net.nodes[0].counters().circuits, [0, 1]);
    // TAP, and handshakes that nobody knows.
    net.send_cell(client, 0x8000_1000, command::CREATE, &handshake);
    net.send_cell(client, 0x8000_1001, command::CREATE2, &[0, 9, 0, 0]);
    net.run();
    for id in [0x8000_1000, 0x8000_1001] {
        assert_eq!(net.cells(client, id)[0].1[0], DestroyReason::Protocol as u8);
    }
}

#[test]
fn an_id_is_not_used_again_before_its_destroy_is_written() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let circ = net.open(client, &[0]);
    net.nodes[0].destroy(circ.names[0], DestroyReason::Finished);
    let (_, handshake) = net.onionskin();
    net.send_cell(client, circ.id, command::CREATE2, &handshake);
    net.run();
    let cells = net.cells(client, circ.id);
    assert_eq!(cells.len(), 1, "only the DESTROY");
    assert_eq!((cells[0].0, cells[0].1[0]), (command::DESTROY, 9));
    net.send_cell(client, circ.id, command::CREATE2, &handshake);
    net.run();
    assert_eq!(net.cells(client, circ.id)[0].0, command::CREATED2);
}

/// A megabyte of DESTROY cells and more is no reason to close a link on which others pay.
#[test]
fn a_crowd_that_ends_at_once_neither_closes_a_link_nor_holds_up_its_cells() {
    const CROWD: usize = 2_200;
    let mut net = Net::of_size(2);
    let honest = net.client_at(0, "192.0.2.1");
    let mut circ = net.open(honest, &[0, 1]);
    let crowd = net.client_at(0, "192.0.2.2");
    for _ in 0..CROWD {
        net.open(crowd, &[0, 1]);
    }
    assert_eq!(net.nodes[1].counters().circuits, [0, CROWD as u64 + 1]);
    let [(_, between), _] = net.links[0];
    let gone = net.clients[crowd].link;
    net.nodes[0].link_down(net.now, gone);
    net.send(&mut circ, 1, relay::BEGIN_DIR, 7, &[]);
    let mut out = Vec::new();
    net.nodes[0].transmit(net.now, between, &mut out, 31 * CELL_LEN);
    let commands: Vec<u8> = out.chunks(CELL_LEN).map(|cell| cell[4]).collect();
    assert!(
        commands.contains(&command::RELAY) && commands.contains(&command::DESTROY),
        "{commands:?}"
    );
    let mut destroyed = commands.iter().filter(|command| **command == command::DESTROY).count();
    loop {
        out.clear();
        if net.nodes[0].transmit(net.now, between, &mut out, 31 * CELL_LEN) == Transmit::Idle {
            break;
        }
        assert!(out.len() <= 31 * CELL_LEN);
        destroyed += out.chunks(CELL_LEN).filter(|cell| cell[4] == command::DESTROY).count();
    }
    assert_eq!(destroyed, CROWD);
    while let Some(event) = net.nodes[0].poll_event() {
        assert!(!matches!(event, Event::CloseLink { .. }), "{event:?}");
    }
    assert_eq!(net.nodes[0].counters().circuits, [0, 1]);
}

#[test]
fn directory_streams_and_lookups_are_answered_in_the_clients_form() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    net.send(&mut circ, 0, relay::BEGIN_DIR, 1, &[]);
    net.send(&mut circ, 0, relay::RESOLVE, 2, b"example.com\0");
    net.settle();
    let stream = |number| {
        move |event: &Event| match event {
            Event::BeginDir {
                stream,
                neighbour: Neighbour::Client(_),
            }
            | Event::Resolve { stream, .. }
                if stream.number == number =>
            {
                Some(*stream)
            }
            _ => None,
        }
    };
    let directory = net.events[0].iter().find_map(stream(1)).unwrap();
    let lookup = net.events[0].iter().find_map(stream(2)).unwrap();
    net.nodes[0].stream_connected(directory, Connected::Directory);
    net.nodes[0].stream_resolved(
        lookup,
        &[Answer::Address("1.2.3.4".parse().unwrap()), Answer::Transient],
    );
    net.run();
    let got = net.messages(&mut circ);
    assert_eq!((got[0].command, got[0].data.len()), (relay::CONNECTED, 0));
    assert_eq!(got[1].command, relay::RESOLVED);
    assert_eq!(got[1].data[..10], [4, 4, 1, 2, 3, 4, 0, 0, 0, 60]);
    assert_eq!(got[1].data[10..12], [0xf0, 24]);
    // Without a stream number there is no stream.
    net.send(&mut circ, 0, relay::BEGIN_DIR, 0, &[]);
    net.run();
    assert_eq!(net.messages(&mut circ), []);
}

#[test]
fn what_becomes_of_a_link_that_a_truncated_circuit_asked_for_is_nothing_to_its_next_extend() {
    for first_is_made in [false, true] {
        let mut net = Net::of_size(3);
        net.slow_dials = true;
        let client = net.client(0);
        let mut circ = net.open(client, &[0]);
        net.extend(&mut circ, 1);
        net.send(&mut circ, 0, relay::TRUNCATE, 0, &[1]);
        net.extend(&mut circ, 2);
        net.run();
        let asked: Vec<ExtendId> = std::mem::take(&mut net.events[0])
            .into_iter()
            .filter_map(|event| match event {
                Event::NeedLink { extend, .. } => Some(extend),
                _ => None,
            })
            .collect();
        let [first, second] = asked[..] else {
            panic!("{asked:?}")
        };
        if first_is_made {
            let link = net.connect(0, 1);
            net.nodes[0].extend_via(net.now, first, link);
        } else {
            net.nodes[0].extend_failed(net.now, first, DestroyReason::ConnectFailed);
        }
        net.run();
        assert_eq!(net.nodes[1].counters().circuits_opened, 0, "nobody wants it any more");
        let link = net.connect(0, 2);
        net.nodes[0].extend_via(net.now, second, link);
        net.run();
        let got: Vec<u8> = net.messages(&mut circ).iter().map(|message| message.command).collect();
        assert_eq!(got, [relay::TRUNCATED, relay::EXTENDED2], "made: {first_is_made}");
        assert_eq!(net.nodes[2].counters().circuits_opened, 1);
        let counters = net.nodes[0].counters();
        assert_eq!((counters.protocol_errors, counters.extends_failed), (0, 0));
    }
}
