//! What clients send to targets, under a configured rate: the same tokens, the same classes.

use proptest::prelude::*;

use super::*;

const RICH: u64 = 1 << 40;

fn rated(rate: u64) -> EngineConfig {
    EngineConfig {
        rate: Some(rate),
        ..EngineConfig::default()
    }
}

/// A client that sends as much as its windows allow, to a target that takes everything at once.
struct Upload {
    circ: Circ,
    stream: StreamId,
    /// What the client's windows have left: the circuit's, the stream's.
    room: [usize; 2],
    sent: usize,
    got: usize,
}

impl Net {
    fn upload(&mut self, client: usize) -> Upload {
        let mut circ = self.open(client, &[0]);
        let stream = self.stream(&mut circ, 1);
        Upload {
            circ,
            stream,
            room: [1000, 500],
            sent: 0,
            got: 0,
        }
    }

    fn take(&mut self, load: &mut Upload) {
        let mut buffer = Vec::new();
        if self.nodes[0].stream_receive(load.stream, &mut buffer) == Received::Bytes {
            load.got += buffer.len() / DATA_MAX;
            self.nodes[0].stream_consumed(load.stream, buffer.len());
        }
    }

    fn upload_for(&mut self, loads: &mut [Upload], micros: u64) {
        let end = self.now.plus(micros);
        while self.now < end {
            for load in loads.iter_mut() {
                while load.room.iter().all(|room| *room > 0) {
                    load.room = load.room.map(|room| room - 1);
                    self.send(&mut load.circ, 0, relay::DATA, 1, &[load.sent as u8; DATA_MAX]);
                    load.sent += 1;
                }
            }
            let next = self.nodes[0].next_wake().unwrap_or(end);
            self.now = next.min(self.now.plus(3000)).max(self.now.plus(1000));
            let now = self.now;
            self.nodes[0].wake(now);
            for load in loads.iter_mut() {
                self.take(load);
            }
            self.deliver_woken();
            for load in loads.iter_mut() {
                for message in self.messages(&mut load.circ) {
                    match (message.command, message.stream) {
                        (relay::SENDME, 0) => load.room[0] += 100,
                        (relay::SENDME, _) => load.room[1] += 50,
                        _ => {}
                    }
                }
            }
            self.settle();
            self.events[0].clear();
        }
    }
}

#[test]
fn unpaid_uploads_get_no_more_than_the_unpaid_share_beside_paid_ones() {
    let mut net = Net::new([rated(500_000)]);
    let (one, two) = (net.client_at(0, "192.0.2.1"), net.client_at(0, "192.0.2.2"));
    let mut loads = [net.upload(one), net.upload(two)];
    net.nodes[0].grant(loads[0].circ.names[0], RICH);
    net.upload_for(&mut loads, 500_000);
    let before = [loads[0].got, loads[1].got];
    net.upload_for(&mut loads, 4_000_000);
    let [paid, unpaid] = [loads[0].got - before[0], loads[1].got - before[1]];
    let bytes = (paid + unpaid) * CELL_LEN;
    assert!((1_900_000..2_050_000).contains(&bytes), "{bytes}");
    assert!((15 * unpaid..18 * unpaid).contains(&paid), "{paid} : {unpaid}");
    assert!(
        net.nodes[0].counters().held[1] <= 500,
        "what is held is bounded by the window"
    );
}

#[test]
fn a_cap_on_the_unpaid_class_holds_for_uploads_too() {
    let mut net = Net::new([EngineConfig {
        unpaid: UnpaidShare::Capped(100_000),
        ..EngineConfig::default()
    }]);
    let client = net.client(0);
    let mut loads = [net.upload(client), net.upload(client)];
    net.nodes[0].grant(loads[0].circ.names[0], RICH);
    net.upload_for(&mut loads, 100_000);
    let before = [loads[0].got, loads[1].got];
    net.upload_for(&mut loads, 200_000);
    let unpaid = (loads[1].got - before[1]) * CELL_LEN * 5;
    assert!((85_000..115_000).contains(&unpaid), "{unpaid}");
    let paid = (loads[0].got - before[0]) * CELL_LEN * 5;
    assert!(paid > 10 * 100_000, "who pays is not slowed: {paid}");
}

#[test]
fn a_sendme_goes_out_when_its_cells_have_passed_and_not_before() {
    let mut net = Net::new([rated(100_000)]);
    let client = net.client(0);
    let mut load = net.upload(client);
    net.run();
    net.messages(&mut load.circ);
    for _ in 0..400 {
        net.send(&mut load.circ, 0, relay::DATA, 1, &[0; DATA_MAX]);
    }
    net.deliver(client, 1000);
    assert_eq!(net.messages(&mut load.circ), [], "nobody has had a hundred cells yet");
    assert_eq!(net.nodes[0].counters().held[1], 400);
    let mut sendmes = 0;
    for _ in 0..2500 {
        net.now = net.now.plus(1000);
        let now = net.now;
        net.nodes[0].wake(now);
        net.take(&mut load);
        net.deliver(client, 10);
        let got = net.messages(&mut load.circ);
        sendmes += got
            .iter()
            .filter(|m| m.command == relay::SENDME && m.stream == 0)
            .count();
        assert!(sendmes <= load.got / 100, "{sendmes} after {}", load.got);
    }
    assert_eq!((load.got, sendmes), (400, 4));
    assert_eq!(net.nodes[0].counters().held, [0, 0]);
}

#[test]
fn the_end_of_a_stream_does_not_overtake_what_was_sent_before_it() {
    let mut net = Net::new([rated(100_000)]);
    let client = net.client(0);
    let mut load = net.upload(client);
    for _ in 0..50 {
        net.send(&mut load.circ, 0, relay::DATA, 1, &[0; DATA_MAX]);
    }
    net.send(&mut load.circ, 0, relay::END, 1, &[6]);
    let mut buffer = Vec::new();
    for _ in 0..1000 {
        net.now = net.now.plus(1000);
        let now = net.now;
        net.nodes[0].wake(now);
        match net.nodes[0].stream_receive(load.stream, &mut buffer) {
            Received::Bytes => load.got += core::mem::take(&mut buffer).len() / DATA_MAX,
            Received::Nothing => {}
            Received::Ended => break,
            Received::Gone => panic!("the stream is gone"),
        }
    }
    assert_eq!(load.got, 50);
}

#[test]
fn without_a_rate_any_more_all_that_was_held_passes_at_once() {
    let mut net = Net::new([rated(50_000)]);
    let client = net.client(0);
    let mut load = net.upload(client);
    for _ in 0..300 {
        net.send(&mut load.circ, 0, relay::DATA, 1, &[0; DATA_MAX]);
    }
    net.take(&mut load);
    assert!(load.got < 50);
    let now = net.now;
    net.nodes[0].set_rate(now, None);
    net.take(&mut load);
    assert_eq!(load.got, 300);
    net.run();
    assert_eq!(net.nodes[0].counters().held, [0, 0]);
}

#[test]
fn uploads_and_downloads_share_one_rate() {
    let mut net = Net::new([rated(400_000)]);
    let client = net.client(0);
    let mut loads = [net.upload(client)];
    let mut down = net.open(client, &[0]);
    let source = net.stream(&mut down, 1);
    let mut got = 0;
    let start = net.now;
    while net.now.since(start) < 4_000_000 {
        net.nodes[0].stream_send(source, &[0; 64 * DATA_MAX]);
        net.upload_for(&mut loads, 5000);
        for message in net.messages(&mut down) {
            got += usize::from(message.command == relay::DATA);
            if message.command == relay::DATA && got.is_multiple_of(50) {
                net.send(&mut down, 0, relay::SENDME, 1, &[]);
            }
            if message.command == relay::DATA && got.is_multiple_of(100) {
                let mut body = vec![1, 0, 20];
                body.extend(message.tag);
                net.send(&mut down, 0, relay::SENDME, 0, &body);
            }
        }
    }
    let up = loads[0].got;
    let bytes = (up + got) * CELL_LEN / 4;
    assert!((360_000..=412_000).contains(&bytes), "{bytes}");
    assert!(up.abs_diff(got) * 5 < up, "{up} up, {got} down");
}

/// What may happen to uploads at an exit, in any order.
#[derive(Debug, Clone)]
enum Move {
    Send(usize, u16),
    Take(usize),
    End(usize),
    Grant(u64),
    Rate(Option<u64>),
    Wait(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..2usize, 0..499u16).prop_map(|(stream, len)| Move::Send(stream, len)),
        2 => (0..2usize).prop_map(Move::Take),
        1 => (0..2usize).prop_map(Move::End),
        1 => (0..3000u64).prop_map(Move::Grant),
        1 => proptest::option::of(20_000..200_000u64).prop_map(Move::Rate),
        2 => (0..50_000u64).prop_map(Move::Wait),
    ];
    proptest::collection::vec(one, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order_whatever_the_rate_and_the_class(
        controlled in any::<bool>(),
        rate in proptest::option::of(20_000..200_000u64),
        moves in moves(),
    ) {
        let congestion = Congestion { enabled: controlled, ..Congestion::disabled() };
        let mut net = Net::new([EngineConfig { rate, congestion, ..EngineConfig::default() }]);
        let client = net.client(0);
        let mut circ = net.open(client, &[0]);
        let streams = [net.stream(&mut circ, 1), net.stream(&mut circ, 2)];
        let (mut sent, mut got) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut ended = [false; 2];
        let take = |net: &mut Net, stream: usize, got: &mut [Vec<u8>; 2]| {
            let mut buffer = Vec::new();
            let received = net.nodes[0].stream_receive(streams[stream], &mut buffer);
            net.nodes[0].stream_consumed(streams[stream], buffer.len());
            got[stream].extend(buffer);
            received
        };
        for (n, step) in moves.into_iter().enumerate() {
            match step {
                Move::Send(stream, len) if !ended[stream] => {
                    let data = vec![n as u8; usize::from(len)];
                    net.send(&mut circ, 0, relay::DATA, stream as u16 + 1, &data);
                    sent[stream].extend(data);
                }
                Move::Send(..) => {}
                Move::Take(stream) => drop(take(&mut net, stream, &mut got)),
                Move::End(stream) => {
                    net.send(&mut circ, 0, relay::END, stream as u16 + 1, &[6]);
                    ended[stream] = true;
                }
                Move::Grant(bytes) => net.nodes[0].grant(circ.names[0], bytes),
                Move::Rate(rate) => {
                    let now = net.now;
                    net.nodes[0].set_rate(now, rate);
                }
                Move::Wait(micros) => {
                    net.now = net.now.plus(micros);
                    let now = net.now;
                    net.nodes[0].wake(now);
                }
            }
        }
        for _ in 0..100 {
            net.now = net.now.plus(1_000_000);
            let now = net.now;
            net.nodes[0].wake(now);
            net.run();
        }
        for (stream, ended) in ended.into_iter().enumerate() {
            take(&mut net, stream, &mut got);
            let left = take(&mut net, stream, &mut got);
            prop_assert_eq!(left, if ended { Received::Ended } else { Received::Nothing });
        }
        prop_assert_eq!(got, sent);
        let counters = net.nodes[0].counters();
        prop_assert_eq!((counters.held, counters.slots, counters.protocol_errors), ([0, 0], 0, 0));
    }
}
