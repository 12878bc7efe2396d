//! Paid and unpaid: who sends, who waits, who dies, and that every cell can still be decrypted.

use proptest::prelude::*;

use super::*;

/// A circuit of one hop that downloads as fast as it can.
struct Download {
    circ: Circ,
    stream: StreamId,
    got: usize,
}

impl Net {
    fn download(&mut self, client: usize) -> Download {
        let mut circ = self.open(client, &[0]);
        let stream = self.stream(&mut circ, 1);
        Download { circ, stream, got: 0 }
    }

    /// Lets everybody send, deliver and confirm for a while.
    fn download_for(&mut self, loads: &mut [Download], micros: u64) {
        let end = self.now.plus(micros);
        while self.now < end {
            for load in loads.iter_mut() {
                self.nodes[0].stream_send(load.stream, &vec![0; 256 * DATA_MAX]);
            }
            // As the relay's pacer does; but never later than a few milliseconds, as a real source would be read.
            let next = self.nodes[0]
                .next_wake()
                .unwrap_or(end)
                .min(self.now.plus(3000))
                .max(self.now.plus(100));
            self.now = next;
            self.nodes[0].wake(next);
            self.deliver_woken();
            for load in loads.iter_mut() {
                for message in self.messages(&mut load.circ) {
                    if message.command != relay::DATA {
                        continue;
                    }
                    load.got += 1;
                    if load.got.is_multiple_of(100) {
                        let mut body = vec![1, 0, 20];
                        body.extend(message.tag);
                        self.send(&mut load.circ, 0, relay::SENDME, 0, &body);
                    }
                    if load.got.is_multiple_of(50) {
                        self.send(&mut load.circ, 0, relay::SENDME, 1, &[]);
                    }
                }
            }
            self.settle();
            self.events[0].clear();
        }
    }
}

const RICH: u64 = 1 << 40;

fn rated(rate: u64) -> EngineConfig {
    EngineConfig {
        rate: Some(rate),
        ..EngineConfig::default()
    }
}

#[test]
fn a_paid_circuit_gets_sixteen_cells_for_one_on_a_shared_link() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let (mut paid, mut unpaid) = (net.download(client), net.download(client));
    net.nodes[0].grant(paid.circ.names[0], RICH);
    net.run();
    for load in [&paid, &unpaid] {
        assert_eq!(
            net.nodes[0].stream_send(load.stream, &vec![0; 256 * DATA_MAX]),
            256 * DATA_MAX
        );
    }
    assert_eq!(net.deliver(client, 170), 170);
    let mut data = |load: &mut Download| {
        let got = net.messages(&mut load.circ);
        got.iter().filter(|message| message.command == relay::DATA).count()
    };
    assert_eq!((data(&mut paid), data(&mut unpaid)), (160, 10));
}

#[test]
fn a_configured_rate_is_shared_sixteen_to_one_across_links() {
    let mut net = Net::new([rated(500_000)]);
    let (one, two) = (net.client_at(0, "192.0.2.1"), net.client_at(0, "192.0.2.2"));
    let mut loads = [net.download(one), net.download(two)];
    net.nodes[0].grant(loads[0].circ.names[0], RICH);
    net.download_for(&mut loads, 500_000);
    let before = [loads[0].got, loads[1].got];
    net.download_for(&mut loads, 4_000_000);
    let [paid, unpaid] = [loads[0].got - before[0], loads[1].got - before[1]];
    let bytes = (paid + unpaid) * CELL_LEN;
    assert!((1_950_000..2_050_000).contains(&bytes), "{bytes}");
    assert!((15 * unpaid..17 * unpaid).contains(&paid), "{paid} : {unpaid}");
}

#[test]
fn the_unpaid_class_takes_what_is_left_over_or_its_cap() {
    for (unpaid, expected) in [
        (UnpaidShare::Leftover, 400_000),
        (UnpaidShare::Capped(100_000), 100_000),
    ] {
        let mut net = Net::new([EngineConfig {
            unpaid,
            ..rated(400_000)
        }]);
        let client = net.client(0);
        let mut loads = [net.download(client)];
        net.download_for(&mut loads, 100_000);
        let before = loads[0].got;
        net.download_for(&mut loads, 3_000_000);
        let rate = (loads[0].got - before) * CELL_LEN / 3;
        assert!(
            (expected * 95 / 100..expected * 105 / 100).contains(&rate),
            "{rate} of {expected}"
        );
    }
}

#[test]
fn a_cap_without_a_rate_does_not_slow_the_paid_class() {
    let mut net = Net::new([EngineConfig {
        unpaid: UnpaidShare::Capped(50_000),
        ..EngineConfig::default()
    }]);
    let client = net.client(0);
    let paid = net.download(client);
    net.nodes[0].grant(paid.circ.names[0], RICH);
    net.run();
    net.nodes[0].stream_send(paid.stream, &vec![0; 256 * DATA_MAX]);
    // All at once, at one moment.
    let mut cells = 0;
    loop {
        match net.deliver(client, 1000) {
            0 => break,
            n => cells += n,
        }
    }
    assert_eq!(cells, 256);
}

#[test]
fn neighbours_share_the_unpaid_class_equally_however_many_circuits_they_have() {
    let mut net = Net::new([rated(500_000)]);
    let many = net.client_at(0, "2001:db8:1:1::1");
    let same_net = net.client_at(0, "2001:db8:1:1:ffff::2");
    let one = net.client_at(0, "2001:db8:1:2::1");
    let mut loads = vec![
        net.download(many),
        net.download(many),
        net.download(same_net),
        net.download(one),
    ];
    net.download_for(&mut loads, 300_000);
    let before: Vec<usize> = loads.iter().map(|load| load.got).collect();
    net.download_for(&mut loads, 2_400_000);
    let got: Vec<usize> = loads
        .iter()
        .zip(before)
        .map(|(load, before)| load.got - before)
        .collect();
    let crowd: usize = got[..3].iter().sum();
    assert!(crowd.abs_diff(got[3]) * 20 < got[3], "{got:?}");
    assert!(got[0].abs_diff(got[2]) * 10 < got[0], "{got:?}");
}

#[test]
fn unpaid_circuits_get_thirty_two_cells_a_second_each_before_their_neighbours_share_equally() {
    // 280 cells a second for the unpaid class while there is somebody who pays. By neighbours alone, six circuits of one
    // address would get 23 each.
    let mut net = Net::new([rated(17 * 280 * CELL_LEN as u64)]);
    let rich = net.client_at(0, "192.0.2.3");
    let (crowd, one) = (net.client_at(0, "192.0.2.1"), net.client_at(0, "192.0.2.2"));
    let mut loads: Vec<Download> = [rich, one, crowd, crowd, crowd, crowd, crowd, crowd]
        .into_iter()
        .map(|client| net.download(client))
        .collect();
    net.nodes[0].grant(loads[0].circ.names[0], RICH);
    net.download_for(&mut loads, 500_000);
    let before: Vec<usize> = loads.iter().map(|load| load.got).collect();
    net.download_for(&mut loads, 2_000_000);
    let got: Vec<usize> = loads
        .iter()
        .zip(before)
        .map(|(load, before)| load.got - before)
        .collect();
    let unpaid: usize = got[1..].iter().sum();
    assert!(
        (15 * unpaid..17 * unpaid).contains(&got[0]),
        "nothing is taken from who pays: {got:?}"
    );
    assert!(got[2..].iter().all(|cells| *cells >= 2 * 31), "{got:?}");
    assert!(got[1] >= 2 * 60, "what is over is the other's: {got:?}");
}

#[test]
fn the_largest_unpaid_queue_is_killed_first_and_a_paid_circuit_never_for_an_unpaid_one() {
    // 400 cells: 100 of them for the unpaid class.
    let mut net = Net::new([EngineConfig {
        cell_memory: 400 * CELL_LEN,
        ..EngineConfig::default()
    }]);
    let client = net.client(0);
    let paid = net.download(client);
    let unpaid: Vec<Download> = (0..3).map(|_| net.download(client)).collect();
    net.run();
    net.nodes[0].grant(paid.circ.names[0], RICH);
    assert_eq!(
        net.nodes[0].stream_send(paid.stream, &vec![0; 250 * DATA_MAX]),
        250 * DATA_MAX
    );
    for (load, cells) in unpaid.iter().zip([20, 45, 30]) {
        net.nodes[0].stream_send(load.stream, &vec![0; cells * DATA_MAX]);
    }
    assert_eq!(net.nodes[0].counters().held, [250, 95]);
    // The smallest grows: still it is the largest that dies.
    net.nodes[0].stream_send(unpaid[0].stream, &vec![0; 10 * DATA_MAX]);
    let counters = net.nodes[0].counters();
    assert_eq!(counters.killed_memory, [0, 1]);
    assert_eq!(counters.held, [250, 60]);
    assert_eq!(net.nodes[0].credit(unpaid[1].circ.names[0]), None, "the one with 45");
    assert!(net.nodes[0].credit(unpaid[0].circ.names[0]).is_some());
    assert!(net.nodes[0].credit(paid.circ.names[0]).is_some());
    // Beyond the paid class's own budget the largest paid one goes: again not for an unpaid one.
    let other = net.download(client);
    net.nodes[0].grant(other.circ.names[0], RICH);
    // With its CONNECTED: 300.
    net.nodes[0].stream_send(paid.stream, &vec![0; 240 * DATA_MAX]);
    net.nodes[0].stream_send(other.stream, &vec![0; 59 * DATA_MAX]);
    assert_eq!(net.nodes[0].counters().killed_memory, [0, 1]);
    net.nodes[0].stream_send(other.stream, &vec![0; DATA_MAX]);
    assert_eq!(net.nodes[0].counters().killed_memory, [1, 1]);
    assert_eq!(net.nodes[0].credit(paid.circ.names[0]), None);
}

#[test]
fn a_queue_that_was_long_once_is_not_taken_for_the_largest() {
    let mut net = Net::new([EngineConfig {
        cell_memory: 400 * CELL_LEN,
        ..EngineConfig::default()
    }]);
    let client = net.client(0);
    let [was, is] = [net.download(client), net.download(client)];
    net.run();
    net.nodes[0].stream_send(was.stream, &vec![0; 90 * DATA_MAX]);
    net.run();
    net.nodes[0].stream_send(is.stream, &vec![0; 60 * DATA_MAX]);
    net.nodes[0].stream_send(was.stream, &vec![0; 41 * DATA_MAX]);
    let counters = net.nodes[0].counters();
    assert_eq!((counters.killed_memory, counters.held), ([0, 1], [0, 41]));
    assert!(net.nodes[0].credit(was.circ.names[0]).is_some());
}

#[test]
fn memory_holds_with_a_thousand_unpaid_circuits_that_nobody_reads() {
    const CELLS: usize = 9000;
    const UNPAID: u64 = CELLS as u64 / 4;
    let mut net = Net::new([EngineConfig {
        cell_memory: CELLS * CELL_LEN,
        ..EngineConfig::default()
    }]);
    let honest = net.client_at(0, "192.0.2.1");
    let paid = net.download(honest);
    net.nodes[0].grant(paid.circ.names[0], RICH);
    net.run();
    net.nodes[0].stream_send(paid.stream, &vec![0; 200 * DATA_MAX]);
    // No address has more streams than its share of them.
    let crowd: Vec<_> = (0..40).map(|i| net.client_at(0, &format!("198.51.100.{i}"))).collect();
    let loads: Vec<Download> = (0..1000).map(|i| net.download(crowd[i % crowd.len()])).collect();
    // The honest one was drained by the set-up; queue again, and never read from now on.
    net.nodes[0].stream_send(paid.stream, &vec![0; 200 * DATA_MAX]);
    for load in &loads {
        net.nodes[0].stream_send(load.stream, &vec![0; 30 * DATA_MAX]);
        assert!(net.nodes[0].counters().held[1] <= UNPAID);
    }
    let counters = net.nodes[0].counters();
    assert_eq!(counters.held[0], 200);
    assert!(counters.killed_memory[1] > 900, "{counters:?}");
    assert_eq!(counters.killed_memory[0], 0);
    assert!(counters.slots <= UNPAID + 200);
}

#[test]
fn a_queue_beyond_its_cap_ends_its_circuit() {
    let mut net = Net::new([
        EngineConfig {
            circuit_queue: 50,
            ..EngineConfig::default()
        },
        EngineConfig::default(),
    ]);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1]);
    let stream = net.stream(&mut circ, 1);
    net.run();
    net.messages(&mut circ);
    net.nodes[1].stream_send(stream, &[0; 50 * DATA_MAX]);
    net.settle();
    assert_eq!(net.nodes[0].counters().killed_queue, 0);
    net.nodes[1].stream_send(stream, &[0; DATA_MAX]);
    net.settle();
    assert_eq!(net.nodes[0].counters().killed_queue, 1);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::ResourceLimit as u8));
    assert_eq!(net.nodes[1].counters().circuits, [0, 0]);
}

#[test]
fn payment_messages_overtake_waiting_cells_of_either_class_and_cost_nothing() {
    for granted in [0, RICH] {
        payment_messages_overtake(granted);
    }
}

fn payment_messages_overtake(granted: u64) {
    let mut net = Net::of_size(2);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1]);
    let stream = net.stream(&mut circ, 1);
    net.run();
    net.messages(&mut circ);
    net.payments(0);
    net.nodes[0].grant(circ.names[0], granted);
    net.nodes[1].stream_send(stream, &[0; 100 * DATA_MAX]);
    net.settle();
    let before = net.nodes[0].metered(circ.names[0]).unwrap();
    net.send(&mut circ, 0, relay::PAYMENT_TO_NODE, 0, b"a question");
    let events = net.payments(0);
    let PaymentEvent::Message {
        circuit,
        body,
        metered,
        credit,
    } = &events[0]
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        (*circuit, &body[..], *metered, *credit),
        (circ.names[0], &b"a question"[..], before, granted)
    );
    net.nodes[0].answer(circ.names[0], b"an answer");
    assert_eq!(net.deliver(client, 1), 1);
    let got = net.messages(&mut circ);
    assert_eq!(
        (got[0].hop, got[0].command, &got[0].data[..]),
        (0, relay::PAYMENT_TO_ORIGIN, &b"an answer"[..])
    );
    assert_eq!(net.nodes[0].metered(circ.names[0]), Some(before));
    // Then what waited, whole.
    net.run();
    assert_eq!(net.messages(&mut circ).len(), 100);
    assert_eq!(
        net.nodes[0].metered(circ.names[0]),
        Some(before + 100 * CELL_LEN as u64)
    );
    // Too long an answer would not fit a cell.
    net.nodes[0].answer(circ.names[0], &[0; 499]);
    net.run();
    assert_eq!(net.messages(&mut circ), []);
}

#[test]
fn cells_that_wait_for_their_writer_when_their_circuit_ends_leave_as_padding() {
    let mut net = Net::new([rated(1 << 30)]);
    let client = net.client(0);
    let (ended, mut other) = (net.download(client), net.download(client));
    net.run();
    net.messages(&mut other.circ);
    net.cells(client, ended.circ.id);
    net.nodes[0].grant(ended.circ.names[0], RICH);
    net.nodes[0].stream_send(ended.stream, &[0; 5 * DATA_MAX]);
    net.nodes[0].stream_send(other.stream, &[0; 5 * DATA_MAX]);
    assert_eq!(net.nodes[0].counters().held, [0, 0], "all of it has been chosen");
    net.nodes[0].destroy(ended.circ.names[0], DestroyReason::Finished);
    // Its place is taken by another that has keys of its own.
    let next = net.open(client, &[0]);
    assert_eq!(next.names[0].index, ended.circ.names[0].index);
    let cells = net.cells(client, ended.circ.id);
    assert_eq!(cells.len(), 1);
    assert_eq!(cells[0].0, command::DESTROY);
    assert_eq!(net.cells(client, 0), [(command::PADDING, [0; BODY_LEN]); 5]);
    assert_eq!(net.messages(&mut other.circ).len(), 5);
}

#[test]
fn an_answer_is_sent_at_paid_priority_under_a_rate() {
    let mut net = Net::new([EngineConfig {
        unpaid: UnpaidShare::Capped(600),
        ..EngineConfig::default()
    }]);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    for _ in 0..20 {
        net.send(&mut circ, 0, relay::RESOLVE, 0, &[]);
    }
    net.nodes[0].answer(circ.names[0], b"now");
    assert!(net.deliver(client, 10) >= 1);
    assert_eq!(net.messages(&mut circ)[0].data, b"now");
}

#[test]
fn credit_is_spent_by_the_cell_and_running_low_is_told_once() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut load = net.download(client);
    net.run();
    net.messages(&mut load.circ);
    net.payments(0);
    let circuit = load.circ.names[0];
    let base = net.nodes[0].metered(circuit).unwrap();
    net.nodes[0].grant(circuit, 10 * 514 + 100);
    net.nodes[0].watch_credit(circuit, 5 * 514);
    assert_eq!(net.nodes[0].counters().circuits, [1, 0]);
    net.nodes[0].stream_send(load.stream, &[0; 30 * DATA_MAX]);
    net.deliver(client, 5);
    assert_eq!(net.payments(0), []);
    net.deliver(client, 25);
    assert_eq!(
        net.payments(0),
        [PaymentEvent::CreditLow {
            circuit,
            metered: base + 6 * 514,
            credit: 4 * 514 + 100
        }],
        "once"
    );
    assert_eq!(
        net.nodes[0].credit(circuit),
        Some(100),
        "less than a cell is kept for the next grant"
    );
    assert_eq!(net.nodes[0].counters().circuits, [0, 1]);
    assert_eq!(net.nodes[0].counters().cells[0][0], 10);
    net.nodes[0].grant(circuit, 414);
    assert_eq!(net.nodes[0].counters().circuits, [1, 0]);
    net.nodes[0].watch_credit(circuit, 515);
    assert_eq!(net.payments(0).len(), 1, "at once when it is low already");
    assert_eq!(net.messages(&mut load.circ).len(), 30);
}

#[test]
fn the_rate_can_be_changed_while_cells_wait() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut loads = [net.download(client)];
    net.nodes[0].stream_send(loads[0].stream, &vec![0; 200 * DATA_MAX]);
    let now = net.now;
    net.nodes[0].set_rate(now, Some(200_000));
    net.download_for(&mut loads, 100_000);
    let before = loads[0].got;
    net.download_for(&mut loads, 2_000_000);
    let rate = (loads[0].got - before) * CELL_LEN / 2;
    assert!((190_000..210_000).contains(&rate), "{rate}");
    net.nodes[0].stream_send(loads[0].stream, &vec![0; 256 * DATA_MAX]);
    let now = net.now;
    net.nodes[0].set_rate(now, None);
    assert_eq!(net.nodes[0].next_wake(), None);
    net.run();
    assert!(net.messages(&mut loads[0].circ).len() > 100, "all of it, at one moment");
    assert_eq!(net.nodes[0].counters().slots, 0);
}

/// What may happen to a circuit at a relay, in any order.
#[derive(Debug, Clone)]
enum Move {
    /// The next hop sends cells.
    FromNext(usize),
    /// The relay sends stream data of its own.
    Own(usize),
    Answer,
    Grant(u64),
    Deliver(usize),
    /// The operator changes the rate.
    Rate(Option<u64>),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (1..12usize).prop_map(Move::FromNext),
        (1..6usize).prop_map(Move::Own),
        Just(Move::Answer),
        (0..3000u64).prop_map(Move::Grant),
        (1..15usize).prop_map(Move::Deliver),
        proptest::option::of(20_000..1_000_000u64).prop_map(Move::Rate),
    ];
    proptest::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn changes_of_class_never_break_the_encryption_or_the_order(moves in moves(), rate in proptest::option::of(20_000..1_000_000u64)) {
        let mut net = Net::new([EngineConfig { rate, ..EngineConfig::default() }, EngineConfig::default()]);
        let client = net.client(0);
        let mut circ = net.open(client, &[0, 1]);
        let far = net.stream(&mut circ, 1);
        // The first hop may have streams of its own on the same circuit.
        net.send(&mut circ, 0, relay::BEGIN_DIR, 2, &[]);
        net.settle();
        let near = net.events[0].iter().find_map(|event| match event {
            Event::BeginDir { stream, .. } => Some(*stream),
            _ => None,
        }).unwrap();
        let mut sent: [Vec<u8>; 3] = Default::default();
        let mut got: [Vec<u8>; 3] = Default::default();
        let mut number = 0u8;
        let collect = |net: &mut Net, circ: &mut Circ, got: &mut [Vec<u8>; 3]| {
            for message in net.messages(circ) {
                match message.command {
                    relay::DATA => got[message.hop].extend(message.data),
                    relay::PAYMENT_TO_ORIGIN => got[2].extend(message.data),
                    _ => {}
                }
            }
        };
        for one in moves {
            number = number.wrapping_add(1);
            match one {
                Move::FromNext(cells) => {
                    let bytes = vec![number; cells * DATA_MAX - 7];
                    let done = net.nodes[1].stream_send(far, &bytes);
                    sent[1].extend(&bytes[..done]);
                    net.settle();
                }
                Move::Own(cells) => {
                    let bytes = vec![number; cells * DATA_MAX - 7];
                    let done = net.nodes[0].stream_send(near, &bytes);
                    sent[0].extend(&bytes[..done]);
                }
                Move::Answer => {
                    net.nodes[0].answer(circ.names[0], &[number]);
                    sent[2].push(number);
                }
                Move::Rate(rate) => {
                    let now = net.now;
                    net.nodes[0].set_rate(now, rate);
                }
                Move::Grant(bytes) => net.nodes[0].grant(circ.names[0], bytes),
                Move::Deliver(cells) => {
                    net.now = net.now.plus(2000);
                    let now = net.now;
                    net.nodes[0].wake(now);
                    net.deliver(client, cells);
                    collect(&mut net, &mut circ, &mut got);
                }
            }
        }
        for _ in 0..200 {
            net.now = net.now.plus(1_000_000);
            let now = net.now;
            net.nodes[0].wake(now);
            net.run();
        }
        collect(&mut net, &mut circ, &mut got);
        prop_assert_eq!(got, sent);
        prop_assert_eq!(net.nodes[0].counters().held, [0, 0]);
        prop_assert_eq!(net.nodes[0].counters().slots, 0);
    }
}
