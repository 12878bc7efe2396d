//! Whatever comes from the network, and in whatever order: nothing panics, and nothing is left behind.

use proptest::prelude::*;

use super::*;

fn drain(net: &mut Net) {
    net.run();
    for events in &mut net.events {
        events.clear();
    }
}

/// A cell whose header is often meant seriously.
fn cell() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![Just(0u32), Just(0x8000_0001), Just(0x8000_0002), any::<u32>()];
    let command = prop_oneof![
        Just(command::CREATE2),
        Just(command::CREATE_FAST),
        Just(command::RELAY),
        Just(command::RELAY_EARLY),
        Just(command::DESTROY),
        Just(command::CREATED2),
        Just(command::LINK_MESSAGE),
        Just(7u8),
        Just(128u8),
        any::<u8>(),
    ];
    let start = prop_oneof![
        Just(vec![0, 2, 0, 84]),
        Just(vec![0, 3, 0, 200]),
        Just(vec![0, 2, 255, 255]),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    (id, command, start, any::<u8>()).prop_map(|(id, command, start, fill)| {
        let mut cell = id.to_be_bytes().to_vec();
        cell.push(command);
        if command::is_variable(command) {
            let len = u16::from(fill) * 4;
            cell.extend(len.to_be_bytes());
            cell.resize(7 + usize::from(len), fill);
        } else {
            cell.extend(start);
            cell.resize(CELL_LEN, fill);
        }
        cell
    })
}

/// A relay message of any kind, properly encrypted.
#[derive(Debug, Clone)]
struct Said {
    early: bool,
    hop: usize,
    command: u8,
    stream: u16,
    data: Vec<u8>,
}

fn said() -> impl Strategy<Value = Said> {
    let data = prop_oneof![
        Just(b"example.com:80\0".to_vec()),
        Just(vec![1, 0, 20]),
        Just(vec![0]),
        Just(vec![0, 0, 0, 0, 9]),
        proptest::collection::vec(any::<u8>(), 0..498),
    ];
    let command = prop_oneof![0..16u8, 30..60u8, 43..45u8, any::<u8>()];
    (any::<bool>(), 0..2usize, command, 0..4u16, data).prop_map(|(early, hop, command, stream, data)| Said {
        early,
        hop,
        command,
        stream,
        data,
    })
}

/// What somebody does at a relay where onion services and their clients meet.
#[derive(Debug, Clone)]
enum Move {
    Open,
    Establish(u8),
    Introduce(u8),
    Wait(u8),
    Meet(u8),
    Say(u8, u16, usize),
    Across(u8),
    Destroy,
    Grant(u64),
    Deliver,
    Pass(u64),
}

fn move_() -> impl Strategy<Value = Move> {
    prop_oneof![
        2 => Just(Move::Open),
        2 => (0..3u8).prop_map(Move::Establish),
        2 => (0..3u8).prop_map(Move::Introduce),
        3 => (0..3u8).prop_map(Move::Wait),
        3 => (0..3u8).prop_map(Move::Meet),
        1 => (0..60u8, 0..3u16, 0..499usize).prop_map(|(command, stream, len)| Move::Say(command, stream, len)),
        4 => (1..40u8).prop_map(Move::Across),
        1 => Just(Move::Destroy),
        1 => (0..20_000u64).prop_map(Move::Grant),
        2 => Just(Move::Deliver),
        1 => (0..2_000_000u64).prop_map(Move::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_on_a_link_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let mut net = Net::of_size(1);
        let client = net.client(0);
        net.open(client, &[0]);
        let (node, link) = (net.clients[client].node, net.clients[client].link);
        net.feed(node, link, bytes);
        drain(&mut net);
    }

    #[test]
    fn random_cells_of_client_and_relay_never_panic_and_leave_nothing(cells in proptest::collection::vec((any::<bool>(), cell()), 0..60)) {
        let mut net = Net::of_size(2);
        let client = net.client(0);
        net.open(client, &[0, 1]);
        let relay_link = net.links[0][0];
        for (from_client, cell) in cells {
            let (node, link) = if from_client { (0, net.clients[client].link) } else { relay_link };
            net.feed(node, link, cell);
            drain(&mut net);
        }
        for link in [net.clients[client].link, relay_link.1] {
            let now = net.now;
            net.nodes[0].link_down(now, link);
        }
        drain(&mut net);
        let counters = net.nodes[0].counters();
        prop_assert_eq!((counters.circuits, counters.slots, counters.held, counters.links), ([0, 0], 0, [0, 0], 0));
        prop_assert_eq!(counters.handshakes_pending, 0);
    }

    #[test]
    fn services_and_clients_in_any_order_leave_nothing_and_pay_no_cell_twice(
        moves in proptest::collection::vec((0..6usize, move_()), 0..120),
        rate in proptest::option::of(20_000..1_000_000u64),
        circuit_queue in 20..200usize,
    ) {
        let mut net = Net::new([EngineConfig { rate, circuit_queue, ..EngineConfig::default() }]);
        let mut circs: [Option<Circ>; 6] = Default::default();
        let mut granted = 0;
        for (who, what) in moves {
            let Some(circ) = circs[who].as_mut().filter(|_| !matches!(what, Move::Open)) else {
                if circs[who].is_none() {
                    let client = net.client_at(0, &format!("192.0.2.{}", who + 1));
                    // So that it may introduce itself, it is a relay's.
                    let link = net.clients[client].link;
                    net.nodes[0].links.get_mut(link).unwrap().info.peer = (who % 2 == 0).then(|| peer(20 + who));
                    let mut circ = net.open(client, &[0]);
                    // A hop further on, for what is to pass.
                    circ.layers.push(&keys(4000 + who as u32));
                    circs[who] = Some(circ);
                }
                continue;
            };
            match what {
                Move::Open => {}
                Move::Establish(key) => {
                    let key = tor_llcrypto::pk::ed25519::Keypair::from_bytes(&[key + 1; 32]);
                    let details = tor_cell::relaycell::hs::est_intro::EstablishIntroDetails::new(key.verifying_key().into());
                    let data = details.sign_and_encode(&key, &circ.bindings[0][..]).unwrap();
                    net.send(circ, 0, relay::ESTABLISH_INTRO, 0, &data);
                }
                Move::Introduce(key) => {
                    let key = tor_llcrypto::pk::ed25519::Keypair::from_bytes(&[key + 1; 32]);
                    let data = [&[0; 20][..], &[2, 0, 32], &key.verifying_key().to_bytes(), &[0, 1]].concat();
                    net.send(circ, 0, relay::INTRODUCE1, 0, &data);
                }
                Move::Wait(cookie) => drop(net.send(circ, 0, relay::ESTABLISH_RENDEZVOUS, 0, &[cookie; 20])),
                Move::Meet(cookie) => drop(net.send(circ, 0, relay::RENDEZVOUS1, 0, &[cookie; 84])),
                Move::Say(command, stream, len) => drop(net.send(circ, 0, command, stream, &vec![1; len])),
                Move::Across(cells) => {
                    for _ in 0..cells {
                        net.send(circ, 1, relay::DATA, 1, &[7; 300]);
                    }
                }
                Move::Destroy => net.send_cell(circ.client, circ.id, command::DESTROY, &[0]),
                Move::Grant(bytes) => {
                    granted += bytes;
                    net.nodes[0].grant(circ.names[0], bytes);
                }
                Move::Deliver => drop(net.deliver(circ.client, 20)),
                Move::Pass(micros) => {
                    net.now = net.now.plus(micros);
                    let now = net.now;
                    net.nodes[0].wake(now);
                }
            }
            net.settle();
            net.events[0].clear();
            let gone = net.nodes[0].circuits.get(circ.names[0]).is_none();
            if gone {
                circs[who] = None;
            }
        }
        let paid: u64 = net.nodes[0].counters().cells[Class::Paid as usize].iter().sum();
        // Messages to a relay on a service's circuit count in the client's class and use up nothing.
        let aside: u64 = net.nodes[0].counters().messages_dropped;
        prop_assert!(paid * CELL_LEN as u64 <= granted + aside * CELL_LEN as u64, "{} {} {}", paid, granted, aside);
        for circ in circs.iter().flatten() {
            net.send_cell(circ.client, circ.id, command::DESTROY, &[0]);
        }
        let counters = net.nodes[0].counters();
        prop_assert_eq!((counters.circuits, counters.slots, counters.held), ([0, 0], 0, [0, 0]));
        prop_assert_eq!(counters.services, 0);
        prop_assert!(net.nodes[0].rendezvous.is_empty());
    }

    #[test]
    fn relay_messages_of_all_kinds_never_panic_and_leave_nothing(
        messages in proptest::collection::vec(said(), 0..60),
        enabled in any::<bool>(),
        rate in proptest::option::of(1..100_000u64),
    ) {
        let congestion = Congestion { enabled, ..Congestion::disabled() };
        let mut net = Net::new([0, 1].map(|_| EngineConfig { congestion, rate, ..EngineConfig::default() }));
        let client = net.client(0);
        let mut circ = net.open(client, &[0, 1]);
        for said in messages {
            let cell = if said.early { command::RELAY_EARLY } else { command::RELAY };
            net.send_as(&mut circ, cell, said.hop, said.command, said.stream, &said.data);
            drain(&mut net);
        }
        net.send_cell(client, circ.id, command::DESTROY, &[0]);
        drain(&mut net);
        for node in &net.nodes {
            let counters = node.counters();
            prop_assert_eq!((counters.circuits, counters.slots, counters.held), ([0, 0], 0, [0, 0]));
        }
    }
}
