//! Congestion control: windows that Vegas moves, XOFF and XON.

use super::*;

fn controlled() -> EngineConfig {
    EngineConfig {
        congestion: Congestion::from_consensus(|_| None),
        ..EngineConfig::default()
    }
}

fn sendme(tag: [u8; 20]) -> Vec<u8> {
    let mut body = vec![1, 0, 20];
    body.extend(tag);
    body
}

/// A relay with one circuit that ends there, and a stream on it.
fn one() -> (Net, Circ, StreamId) {
    let mut net = Net::new([controlled()]);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let stream = net.stream(&mut circ, 1);
    net.run();
    net.messages(&mut circ);
    (net, circ, stream)
}

fn is_data(message: &Message) -> bool {
    message.command == relay::DATA
}

fn count(messages: &[Message], command: u8) -> usize {
    messages.iter().filter(|message| message.command == command).count()
}

#[test]
fn a_window_begins_with_the_consensus_value_and_grows_with_sendmes() {
    let (mut net, mut circ, stream) = one();
    assert_eq!(net.nodes[0].counters().circuits_controlled, 1);
    assert_eq!(
        net.nodes[0].stream_send(stream, &vec![0; 2000 * DATA_MAX]),
        124 * DATA_MAX
    );
    assert_eq!(net.nodes[0].stream_room(stream), Some(0));
    net.run();
    let got: Vec<Message> = net.messages(&mut circ).into_iter().filter(is_data).collect();
    assert_eq!(got.len(), 124);
    net.now = net.now.plus(100_000);
    net.send(&mut circ, 0, relay::SENDME, 0, &sendme(got[30].tag));
    net.settle();
    assert!(net.events[0].contains(&Event::StreamReady { stream }));
    assert_eq!(
        net.nodes[0].stream_room(stream),
        Some((31 + 31) * DATA_MAX),
        "slow start"
    );
}

#[test]
fn every_confirmed_cell_must_be_quoted() {
    for (what, close) in [
        ("the right tag", false),
        ("another tag", true),
        ("no tag", true),
        ("nothing due", true),
    ] {
        let (mut net, mut circ, stream) = one();
        let cells = if what == "nothing due" { 30 } else { 124 };
        net.nodes[0].stream_send(stream, &vec![0; cells * DATA_MAX]);
        net.run();
        let got: Vec<Message> = net.messages(&mut circ).into_iter().filter(is_data).collect();
        let body = match what {
            "another tag" => sendme(got[31].tag),
            "no tag" => vec![0],
            _ => sendme(got[30.min(got.len() - 1)].tag),
        };
        net.send(&mut circ, 0, relay::SENDME, 0, &body);
        net.run();
        assert_eq!(net.destroyed(&circ).is_some(), close, "{what}");
    }
}

#[test]
fn the_exit_confirms_every_thirty_first_cell_with_its_tag() {
    let (mut net, mut circ, _) = one();
    let mut expected = Vec::new();
    for n in 1..=100 {
        let tag = net.send(&mut circ, 0, relay::DATA, 1 + n % 2, &[n as u8; 498]);
        if n % 31 == 0 {
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
fn streams_have_no_windows_and_their_sendmes_are_an_error() {
    let (mut net, mut circ, _) = one();
    for _ in 0..2000 {
        net.send(&mut circ, 0, relay::DATA, 1, &[1; 10]);
    }
    net.run();
    assert_eq!(net.nodes[0].counters().protocol_errors, 0);
    net.messages(&mut circ);
    net.send(&mut circ, 0, relay::SENDME, 1, &[]);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));
}

#[test]
fn a_stream_whose_target_takes_nothing_is_paused_once_and_resumed_when_all_is_taken() {
    let (mut net, mut circ, stream) = one();
    for _ in 0..700 {
        net.now = net.now.plus(100);
        net.send(&mut circ, 0, relay::DATA, 1, &[1; 498]);
    }
    net.run();
    let got = net.messages(&mut circ);
    let xoff = got.iter().find(|message| message.command == relay::XOFF).unwrap();
    assert_eq!((xoff.stream, &xoff.data[..]), (1, &[0][..]));
    assert_eq!((count(&got, relay::XOFF), count(&got, relay::XON)), (1, 0));
    assert_eq!(net.nodes[0].counters().xoffs_sent, 1);
    let mut buffer = Vec::new();
    assert_eq!(net.nodes[0].stream_receive(stream, &mut buffer), Received::Bytes);
    assert_eq!(buffer.len(), 700 * 498);
    for left in (0..7).rev() {
        net.now = net.now.plus(1_000_000);
        net.nodes[0].advance(net.now);
        net.nodes[0].stream_consumed(stream, 100 * 498);
        net.run();
        let xons: Vec<Message> = net.messages(&mut circ);
        assert_eq!(count(&xons, relay::XON), usize::from(left == 0));
        if left == 0 {
            // 49.8 kilobytes in each second.
            assert_eq!(xons[0].data, [0, 0, 0, 0, 49]);
        }
    }
    assert_eq!(net.nodes[0].counters().held, [0, 0]);
}

#[test]
fn a_client_that_goes_on_after_xoff_loses_the_stream_and_not_the_circuit() {
    let (mut net, mut circ, stream) = one();
    for _ in 0..10_001 {
        net.now = net.now.plus(10);
        net.send(&mut circ, 0, relay::DATA, 1, &[1; 498]);
    }
    net.run();
    let got = net.messages(&mut circ);
    let end = got.iter().find(|message| message.command == relay::END).unwrap();
    assert_eq!((end.stream, &end.data[..]), (1, &[EndReason::Misc as u8][..]));
    assert_eq!(net.nodes[0].stream_receive(stream, &mut Vec::new()), Received::Gone);
    assert_eq!(net.nodes[0].counters().held, [0, 0]);
    assert_eq!(net.nodes[0].counters().circuits, [0, 1]);
}

#[test]
fn a_client_pauses_a_stream_resumes_it_and_sets_its_rate() {
    let (mut net, mut circ, stream) = one();
    net.send(&mut circ, 0, relay::XOFF, 1, &[0]);
    net.send(&mut circ, 0, relay::XOFF, 1, &[0]);
    assert_eq!(net.nodes[0].counters().xoffs_received, 1, "the second changes nothing");
    assert_eq!(net.nodes[0].stream_room(stream), Some(0));
    assert_eq!(net.nodes[0].stream_rest(stream), None, "time alone changes nothing");
    net.settle();
    net.events[0].clear();
    net.send(&mut circ, 0, relay::XON, 1, &[0, 0, 0, 0, 0]);
    net.settle();
    assert_eq!(net.events[0], [Event::StreamReady { stream }]);
    assert_eq!(net.nodes[0].stream_room(stream), Some(124 * DATA_MAX));
    // 100 kilobytes a second.
    net.send(&mut circ, 0, relay::XON, 1, &[0, 0, 0, 0, 100]);
    let first = net.nodes[0].stream_send(stream, &[0; 124 * DATA_MAX]);
    assert!(first < 20 * DATA_MAX, "{first}");
    assert_eq!(net.nodes[0].stream_room(stream), Some(0));
    let rest = net.nodes[0].stream_rest(stream).unwrap();
    assert!((1..10_000).contains(&rest.since(net.now)), "{rest:?}");
    net.nodes[0].advance(rest);
    assert_eq!(net.nodes[0].stream_room(stream), Some(DATA_MAX));
    assert_eq!(net.nodes[0].stream_rest(stream), None);
}

#[test]
fn xoff_and_xon_that_nobody_understands_close_the_circuit_and_without_congestion_control_say_nothing() {
    for body in [&[][..], &[1], &[1, 0, 0, 0, 0], &[0, 0, 0, 0]] {
        let (mut net, mut circ, _) = one();
        net.send(&mut circ, 0, relay::XON, 1, body);
        net.run();
        assert!(net.destroyed(&circ).is_some(), "{body:?}");
    }
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let stream = net.stream(&mut circ, 1);
    net.send(&mut circ, 0, relay::XOFF, 1, &[0]);
    net.run();
    assert_eq!(net.destroyed(&circ), None);
    assert!(net.nodes[0].stream_room(stream) > Some(0));
}

#[test]
fn a_download_over_a_long_path_speeds_up_and_no_queue_of_ours_grows_long() {
    let (mut net, mut circ, stream) = one();
    // 50 ms each way; the link takes 4000 cells a second.
    let (delay, tick, each) = (100_000, 1000, 4);
    let mut coming: VecDeque<(Time, [u8; 20])> = VecDeque::new();
    let (mut got, mut last, mut longest) = (0u32, 0, 0);
    for n in 0..7000 {
        net.now = net.now.plus(tick);
        let now = net.now;
        net.nodes[0].advance(now);
        while net.nodes[0].stream_send(stream, &[0; 64 * DATA_MAX]) > 0 {}
        net.deliver(circ.client, each);
        for message in net.messages(&mut circ) {
            got += 1;
            if got.is_multiple_of(31) {
                coming.push_back((now.plus(delay), message.tag));
            }
        }
        while coming.front().is_some_and(|(at, _)| *at <= now) {
            let (_, tag) = coming.pop_front().unwrap();
            net.send(&mut circ, 0, relay::SENDME, 0, &sendme(tag));
        }
        net.events[0].clear();
        if n == 5000 {
            last = got;
        }
        if n > 5000 {
            longest = longest.max(net.nodes[0].counters().held[1]);
        }
    }
    assert!(got - last >= 2 * 3_800, "{} cells in 2 s", got - last);
    assert!(longest <= 320, "{longest}");
    assert_eq!(net.nodes[0].counters().protocol_errors, 0);
}
