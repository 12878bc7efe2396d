//! Clients that ask for too much.

use super::*;

const SECOND: u64 = 1_000_000;

/// One relay; everybody is a client of it.
fn net(named: &'static [(&str, i32)]) -> Net {
    let parameters = DefenceParameters::new(|name, default| {
        let found = named.iter().find(|(of, _)| *of == name);
        found.map_or(default, |(_, value)| *value)
    });
    Net::new([EngineConfig {
        defences: parameters,
        ..EngineConfig::default()
    }])
}

const CIRCUITS: &[(&str, i32)] = &[
    ("DoSCircuitCreationEnabled", 1),
    ("DoSCircuitCreationRate", 2),
    ("DoSCircuitCreationBurst", 10),
    ("DoSCircuitCreationDefenseTimePeriod", 100),
];

/// A CREATE_FAST; true: it was answered, false: refused.
fn create(net: &mut Net, client: usize, id: u32) -> bool {
    let id = 0x8000_0000 | id;
    net.send_cell(client, id, command::CREATE_FAST, &id.to_be_bytes());
    net.run();
    let cells = net.cells(client, id);
    match (cells[0].0, cells[0].1[0]) {
        (command::CREATED_FAST, _) => true,
        (command::DESTROY, 5) => false,
        other => panic!("{other:?}"),
    }
}

fn created(net: &mut Net, client: usize, ids: core::ops::Range<u32>) -> usize {
    ids.filter(|id| create(net, client, *id)).count()
}

#[test]
fn an_address_with_many_links_that_asks_for_too_many_circuits_is_refused_for_a_while() {
    let mut net = net(CIRCUITS);
    let clients = [(); 3].map(|()| net.client(0));
    let other = net.client_at(0, "192.0.2.2");
    assert_eq!(created(&mut net, clients[0], 1..100), 9, "the tenth empties the bucket");
    assert_eq!(created(&mut net, clients[1], 1..5), 0, "all links of the address");
    assert_eq!(created(&mut net, other, 1..5), 4);
    let counters = net.nodes[0].counters();
    assert_eq!((counters.clients_marked, counters.creates_defended), (1, 94));
    assert_eq!((counters.creates_refused, counters.protocol_errors), (0, 0));
    // Circuits that there are go on.
    assert_eq!(counters.circuits, [0, 13]);
    net.now = net.now.plus(99 * SECOND);
    assert!(!create(&mut net, clients[0], 200), "for as long as the consensus says");
    net.now = net.now.plus(52 * SECOND);
    assert!(create(&mut net, clients[0], 201), "and at most half as long again");
}

#[test]
fn an_address_that_goes_on_is_refused_for_longer() {
    let mut net = net(CIRCUITS);
    let clients = [(); 3].map(|()| net.client(0));
    assert_eq!(created(&mut net, clients[0], 1..20), 9);
    for n in 0..40 {
        net.now = net.now.plus(10 * SECOND);
        let ids = 100 + 30 * n;
        assert_eq!(created(&mut net, clients[0], ids..ids + 30), 0);
    }
    assert_eq!(net.nodes[0].counters().clients_marked, 1);
}

#[test]
fn few_links_relays_and_slow_clients_are_not_suspected() {
    let mut net = net(CIRCUITS);
    let two = [(); 2].map(|()| net.client(0));
    assert_eq!(created(&mut net, two[0], 1..100), 99, "two links");
    let slow = [(); 3].map(|()| net.client_at(0, "192.0.2.2"));
    for id in 1..60 {
        assert!(create(&mut net, slow[0], id));
        net.now = net.now.plus(SECOND / 2);
    }
    let relays = [(); 3].map(|()| net.peer_at(0, 5, true, "192.0.2.3"));
    assert_eq!(created(&mut net, relays[0], 1..100), 99);
    assert_eq!(net.nodes[0].counters().clients_marked, 0);
}

#[test]
fn addresses_of_one_network_of_ipv6_are_one() {
    let mut net = net(CIRCUITS);
    let clients = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|address| net.client_at(0, address));
    assert_eq!(created(&mut net, clients[0], 1..20), 9);
    assert!(!create(&mut net, clients[2], 1));
    let other = net.client_at(0, "2001:db8:0:1::1");
    assert!(create(&mut net, other, 1));
}

#[test]
fn closing_links_does_not_make_an_address_a_new_one() {
    let mut net = net(CIRCUITS);
    let clients = [(); 3].map(|()| net.client(0));
    assert_eq!(created(&mut net, clients[0], 1..20), 9);
    for client in clients {
        let link = net.clients[client].link;
        net.nodes[0].link_down(net.now, link);
    }
    net.now = net.now.plus(70 * SECOND);
    net.nodes[0].tick(net.now);
    let again = net.client(0);
    assert!(!create(&mut net, again, 1));
    let link = net.clients[again].link;
    net.nodes[0].link_down(net.now, link);
    assert_eq!(net.nodes[0].clients.records.len(), 1);
    net.now = net.now.plus(200 * SECOND);
    net.nodes[0].tick(net.now);
    assert_eq!(net.nodes[0].clients.records.len(), 0, "nothing is kept for ever");
}

#[test]
fn a_consensus_that_only_counts_refuses_nobody_and_one_that_stops_forgets() {
    let mut counting = net(&[
        ("DoSCircuitCreationEnabled", 1),
        ("DoSCircuitCreationBurst", 10),
        ("DoSCircuitCreationDefenseType", 1),
    ]);
    let clients = [(); 3].map(|()| counting.client(0));
    assert_eq!(created(&mut counting, clients[0], 1..50), 49);
    assert_eq!(counting.nodes[0].counters().clients_marked, 1);
    let mut net = net(CIRCUITS);
    let clients = [(); 3].map(|()| net.client(0));
    assert_eq!(created(&mut net, clients[0], 1..20), 9);
    net.nodes[0].set_defences(DefenceParameters::default());
    assert!(create(&mut net, clients[0], 30));
}

#[test]
fn the_consensus_says_how_many_cells_of_a_circuit_may_wait() {
    let mut net = Net::new([
        EngineConfig {
            circuit_queue: 5000,
            defences: DefenceParameters::new(|name, default| if name.starts_with("circ_max") { 60 } else { default }),
            ..EngineConfig::default()
        },
        EngineConfig::default(),
    ]);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1]);
    for cells in 1..=61 {
        net.send(&mut circ, 1, relay::DATA, 1, &[1; 498]);
        assert_eq!(net.nodes[0].counters().killed_queue, u64::from(cells > 60));
    }
}

#[test]
fn clients_whose_queues_grow_too_long_are_refused() {
    let config = EngineConfig {
        circuit_queue: 50,
        defences: DefenceParameters::new(|name, default| match name {
            "DoSCircuitCreationEnabled" => 1,
            "dos_num_circ_max_outq" => 2,
            _ => default,
        }),
        ..EngineConfig::default()
    };
    let mut net = Net::new([config.clone(), config]);
    for n in 0..3 {
        let client = net.client(0);
        let (number, handshake) = net.onionskin();
        net.send_cell(client, 0x8000_0000 | number, command::CREATE2, &handshake);
        net.run();
        let answer = net.cells(client, 0x8000_0000 | number)[0].0;
        assert_eq!(answer == command::CREATED2, n < 2, "{n}");
        if n == 2 {
            break;
        }
        let mut circ = net.open(client, &[0, 1]);
        // The next relay takes none of them.
        for _ in 0..51 {
            net.send(&mut circ, 1, relay::DATA, 1, &[1; 498]);
        }
    }
    assert_eq!(net.nodes[0].counters().killed_queue, 2);
    assert_eq!(net.nodes[0].counters().clients_marked, 1);
}

const STREAMS: &[(&str, i32)] = &[
    ("DoSStreamCreationEnabled", 1),
    ("DoSStreamCreationRate", 1),
    ("DoSStreamCreationBurst", 3),
];

#[test]
fn streams_beyond_what_a_circuit_may_begin_end_and_the_circuit_stays() {
    let mut net = net(STREAMS);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    for number in 1..=5 {
        net.send(&mut circ, 0, relay::BEGIN, number, b"example.com:80\0");
    }
    net.send(&mut circ, 0, relay::RESOLVE, 6, b"example.com\0");
    net.send(&mut circ, 0, relay::BEGIN_DIR, 7, &[]);
    net.run();
    let got: Vec<(u8, u16, u8)> = net
        .messages(&mut circ)
        .iter()
        .map(|message| (message.command, message.stream, message.data[0]))
        .collect();
    let misc = EndReason::Misc as u8;
    // 0xf0: no answer now, perhaps later.
    assert_eq!(
        got,
        [(relay::END, 4, misc), (relay::END, 5, misc), (relay::RESOLVED, 6, 0xf0)]
    );
    let begun = net.events[0]
        .iter()
        .filter(|event| matches!(event, Event::Begin { .. }));
    assert_eq!(begun.count(), 3);
    assert!(
        net.events[0]
            .iter()
            .any(|event| matches!(event, Event::BeginDir { .. })),
        "the directory has limits of its own"
    );
    assert_eq!(net.nodes[0].counters().streams_defended, 3);
    net.now = net.now.plus(SECOND);
    net.send(&mut circ, 0, relay::BEGIN, 8, b"example.com:80\0");
    net.run();
    assert_eq!(net.messages(&mut circ), []);
    let other = net.client(0);
    let mut other = net.open(other, &[0]);
    net.send(&mut other, 0, relay::BEGIN, 1, b"example.com:80\0");
    net.run();
    assert_eq!(net.messages(&mut other), [], "each circuit has its own");
}

#[test]
fn a_consensus_may_have_the_circuit_closed_instead() {
    let mut net = net(&[
        ("DoSStreamCreationEnabled", 1),
        ("DoSStreamCreationBurst", 2),
        ("DoSStreamCreationDefenseType", 3),
    ]);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    for number in 1..=3 {
        net.send(&mut circ, 0, relay::BEGIN, number, b"example.com:80\0");
    }
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::ResourceLimit as u8));
}

#[test]
fn floods_of_padding_cost_nothing_that_stays() {
    let mut net = net(&[]);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let before = net.nodes[0].counters();
    for n in 0..3000u16 {
        net.send_cell(client, 0, command::PADDING, &[]);
        let [low, high] = n.to_be_bytes();
        net.send_cell(client, 0, command::PADDING_NEGOTIATE, &[0, 2, low, high, 0xff, 0xff]);
        net.send(&mut circ, 0, 10, 0, &[1; 498]);
        let Client { node, link, .. } = net.clients[client];
        // VPADDING.
        net.feed(node, link, vec![0, 0, 0, 0, 128, 0, 3, 1, 2, 3]);
    }
    let after = net.nodes[0].counters();
    assert_eq!(
        (after.slots, after.held, after.protocol_errors),
        (before.slots, before.held, 0)
    );
    assert!(net.nodes[0].padding.len() <= 1);
    net.run();
    assert_eq!(net.messages(&mut circ), []);
    // And each DROP was carried, and paid for as such.
    assert_eq!(
        net.nodes[0].metered(circ.names[0]).unwrap(),
        3000 * CELL_LEN as u64,
        "{after:?}"
    );
}

#[test]
fn circuits_destroyed_while_their_handshake_is_somebodys_work_still_count() {
    let mut net = Net::new([EngineConfig {
        pending_handshakes: 3,
        ..EngineConfig::default()
    }]);
    let client = net.client(0);
    let mut jobs = Vec::new();
    for id in 1..=5u32 {
        let id = 0x8000_0000 | id;
        net.send_cell(client, id, command::CREATE_FAST, &id.to_be_bytes());
        while let Some(event) = net.nodes[0].poll_event() {
            if let Event::Handshake(job) = event {
                jobs.push(job);
            }
        }
        net.send_cell(client, id, command::DESTROY, &[0]);
    }
    assert_eq!((jobs.len(), net.nodes[0].counters().creates_refused), (3, 2));
    for job in jobs {
        net.nodes[0].created(net.now, job.circuit, None);
    }
    assert_eq!(net.nodes[0].counters().handshakes_pending, 0);
    net.open(client, &[0]);
}
