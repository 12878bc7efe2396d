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
