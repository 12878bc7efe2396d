//! Windows and SENDMEs.

use super::*;

fn sendme(tag: [u8; 20]) -> Vec<u8> {
    let mut body = vec![1, 0, 20];
    body.extend(tag);
    body
}

/// A circuit of one hop with a stream, whose exit has sent `cells` full DATA cells on several streams.
fn sent(net: &mut Net, cells: usize) -> (Circ, Vec<Message>) {
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let mut left = cells;
    let mut got = Vec::new();
    for number in 1..=3 {
        let stream = net.stream(&mut circ, number);
        while left > 0 {
            let room = net.nodes[0].stream_send(stream, &vec![0; left * DATA_MAX]) / DATA_MAX;
            left -= room;
            net.run();
            got.extend(net.messages(&mut circ));
            if room == 0 {
                break;
            }
        }
    }
    got.retain(|message| message.command == relay::DATA);
    assert_eq!(got.len(), cells - left);
    (circ, got)
}

#[test]
fn the_exit_confirms_every_hundredth_cell_with_its_tag_even_for_dead_streams() {
    let mut net = Net::of_size(3);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1, 2]);
    let mut expected = Vec::new();
    for n in 1..=250 {
        let tag = net.send(&mut circ, 2, relay::DATA, 5, &[n as u8; 498]);
        if n % 100 == 0 {
            expected.push(sendme(tag));
        }
    }
    net.run();
    let got: Vec<Vec<u8>> = net
        .messages(&mut circ)
        .into_iter()
        .map(|message| message.data)
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn the_exit_stops_at_its_windows_and_goes_on_after_right_sendmes() {
    let mut net = Net::of_size(1);
    let (mut circ, got) = sent(&mut net, 2000);
    assert_eq!(got.len(), 1000, "the circuit's window");
    assert_eq!(
        got.iter().filter(|message| message.stream == 1).count(),
        500,
        "the stream's"
    );
    net.send(&mut circ, 0, relay::SENDME, 0, &sendme(got[99].tag));
    net.send(&mut circ, 0, relay::SENDME, 0, &sendme(got[199].tag));
    for _ in 0..2 {
        net.send(&mut circ, 0, relay::SENDME, 1, &[]);
    }
    net.settle();
    let ready: Vec<StreamId> = net.events[0]
        .iter()
        .filter_map(|event| match event {
            Event::StreamReady { stream } => Some(*stream),
            _ => None,
        })
        .collect();
    let stream = *ready
        .iter()
        .find(|stream| stream.number == 1)
        .expect("it is told that there is room");
    assert_eq!(net.nodes[0].stream_room(stream), Some(100 * DATA_MAX));
    assert_eq!(net.nodes[0].counters().protocol_errors, 0);
}

#[test]
fn wrong_tags_and_sendmes_that_are_not_due_close_the_circuit() {
    let mut net = Net::of_size(1);
    let (mut circ, got) = sent(&mut net, 300);
    net.send(&mut circ, 0, relay::SENDME, 0, &sendme(got[100].tag));
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));

    let (mut circ, got) = sent(&mut net, 199);
    net.send(&mut circ, 0, relay::SENDME, 0, &sendme(got[99].tag));
    net.run();
    assert_eq!(net.destroyed(&circ), None);
    net.send(&mut circ, 0, relay::SENDME, 0, &sendme(got[198].tag));
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));

    let (mut circ, _) = sent(&mut net, 10);
    net.send(&mut circ, 0, relay::SENDME, 1, &[]);
    net.run();
    assert_eq!(
        net.destroyed(&circ),
        Some(DestroyReason::Protocol as u8),
        "more than the stream's window"
    );
}

#[test]
fn sendmes_without_a_tag_are_tolerated_unless_the_consensus_forbids_them() {
    for (accept, closes) in [(0, false), (1, true)] {
        let mut net = Net::new([EngineConfig {
            sendmes: SendmeVersions { accept, emit: 1 },
            ..EngineConfig::default()
        }]);
        let (mut circ, _) = sent(&mut net, 300);
        net.send(&mut circ, 0, relay::SENDME, 0, &[]);
        net.run();
        assert_eq!(net.destroyed(&circ).is_some(), closes);
    }
    let mut net = Net::of_size(1);
    let (mut circ, got) = sent(&mut net, 300);
    let mut unknown = sendme(got[99].tag);
    unknown[0] = 2;
    net.send(&mut circ, 0, relay::SENDME, 0, &unknown);
    net.run();
    assert!(net.destroyed(&circ).is_some());
}

#[test]
fn our_sendmes_are_of_the_version_that_the_consensus_says_and_with_congestion_control_quote_a_tag_always() {
    let consensus =
        |version| SendmeVersions::new(|name, default| if name.contains("emit") { version } else { default });
    for (version, enabled, len) in [(0, false, 0), (1, false, 23), (7, false, 23), (0, true, 23)] {
        let mut net = Net::new([EngineConfig {
            sendmes: consensus(version),
            congestion: Congestion {
                enabled,
                ..Congestion::disabled()
            },
            ..EngineConfig::default()
        }]);
        let client = net.client(0);
        let mut circ = net.open(client, &[0]);
        net.stream(&mut circ, 1);
        let sent: Vec<[u8; 20]> = (0..100)
            .map(|_| net.send(&mut circ, 0, relay::DATA, 1, &[1; 498]))
            .collect();
        net.run();
        let sendmes: Vec<Message> = net
            .messages(&mut circ)
            .into_iter()
            .filter(|message| message.command == relay::SENDME && message.stream == 0)
            .collect();
        let increment = if enabled { 31 } else { 100 };
        assert_eq!(sendmes.len(), 100 / increment);
        assert_eq!(
            sendmes[0].data.len(),
            len,
            "version {version}, congestion control {enabled}"
        );
        if len > 0 {
            assert_eq!(sendmes[0].data, sendme(sent[increment - 1]));
        }
    }
    assert_eq!(consensus(-1).emit, 0);
    assert_eq!(SendmeVersions::default(), SendmeVersions { accept: 0, emit: 1 });
}

#[test]
fn a_target_that_does_not_read_stalls_its_stream_and_too_much_data_closes_the_circuit() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let stream = net.stream(&mut circ, 1);
    net.run();
    for _ in 0..500 {
        net.send(&mut circ, 0, relay::DATA, 1, &[1; 498]);
    }
    net.run();
    let confirmed = |messages: &[Message]| {
        messages
            .iter()
            .filter(|m| m.command == relay::SENDME && m.stream == 1)
            .count()
    };
    assert_eq!(confirmed(&net.messages(&mut circ)), 0, "nothing was taken yet");
    assert_eq!(net.nodes[0].counters().held, [0, 500]);
    let mut buffer = Vec::new();
    assert_eq!(net.nodes[0].stream_receive(stream, &mut buffer), Received::Bytes);
    assert_eq!(buffer.len(), 500 * 498);
    net.nodes[0].stream_consumed(stream, 120 * 498);
    net.run();
    assert_eq!(confirmed(&net.messages(&mut circ)), 2);
    assert_eq!(net.nodes[0].counters().held, [0, 380]);
    for _ in 0..100 {
        net.send(&mut circ, 0, relay::DATA, 1, &[1; 498]);
    }
    net.run();
    assert_eq!(net.nodes[0].counters().protocol_errors, 0);
    net.send(&mut circ, 0, relay::DATA, 1, &[1; 498]);
    net.run();
    assert_eq!(net.nodes[0].counters().protocol_errors, 1);
    assert_eq!(net.nodes[0].counters().held, [0, 0]);
}

#[test]
fn a_source_is_not_read_while_its_circuits_queue_is_long() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let stream = net.stream(&mut circ, 1);
    net.run();
    let sent = net.nodes[0].stream_send(stream, &vec![0; 500 * DATA_MAX]);
    assert_eq!(sent, 256 * DATA_MAX);
    assert_eq!(net.nodes[0].stream_room(stream), Some(0));
    net.settle();
    net.events[0].clear();
    net.deliver(client, 191);
    net.settle();
    assert!(net.events[0].is_empty(), "not before the queue is short");
    net.deliver(client, 1);
    net.settle();
    assert_eq!(net.events[0], [Event::StreamReady { stream }]);
}
