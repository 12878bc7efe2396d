//! Rendezvous points: two circuits become one, and what that costs whom.

use super::*;

/// The relay at which circuits meet; 0 is the client's guard, 2 the service's.
const POINT: usize = 1;
const COOKIE: [u8; 20] = [0xc0; 20];
const DESTROYED: Option<u8> = Some(DestroyReason::Destroyed as u8);
/// A relay message that is for nobody.
const DROP: u8 = 10;
/// Bytes of a cell, as they are metered.
const CELL: u64 = CELL_LEN as u64;

/// A hop that client and service share with each other: what one sends the other receives.
fn shared(at_service: bool) -> CircuitKeys {
    let mut material = [0; KEY_MATERIAL_LEN];
    Rng::new(&[0x5e; 32]).fill(&mut material);
    if at_service {
        let (digests, ciphers) = material.split_at_mut(40);
        digests.rotate_left(20);
        ciphers[..32].rotate_left(16);
    }
    CircuitKeys::from_kdf(&material)
}

/// The client's circuit and the service's, not joined yet.
fn circuits(net: &mut Net) -> (Circ, Circ) {
    let (client, service) = (net.client(0), net.client_at(2, "192.0.2.77"));
    (net.open(client, &[0, POINT]), net.open(service, &[2, POINT]))
}

fn wait(net: &mut Net, client: &mut Circ) {
    let hop = client.path.len() - 1;
    net.send(client, hop, relay::ESTABLISH_RENDEZVOUS, 0, &COOKIE);
    net.run();
    let got = net.messages(client);
    assert_eq!(
        (got.len(), got[0].hop, got[0].command),
        (1, hop, relay::RENDEZVOUS_ESTABLISHED)
    );
    assert!(got[0].data.is_empty());
}

fn meet(net: &mut Net, client: &mut Circ, service: &mut Circ) {
    let handshake: Vec<u8> = (0..64).collect();
    let last = service.path.len() - 1;
    net.send(
        service,
        last,
        relay::RENDEZVOUS1,
        0,
        &[&COOKIE[..], &handshake].concat(),
    );
    net.run();
    let got = net.messages(client);
    assert_eq!((got.len(), got[0].command), (1, relay::RENDEZVOUS2));
    assert_eq!(got[0].data, handshake);
    client.layers.push(&shared(false));
    service.layers.push(&shared(true));
}

/// Client and service, joined at the point.
fn joined(configs: [EngineConfig; 3]) -> (Net, Circ, Circ) {
    let mut net = Net::new(configs);
    let (mut client, mut service) = circuits(&mut net);
    wait(&mut net, &mut client);
    meet(&mut net, &mut client, &mut service);
    (net, client, service)
}

fn plain() -> (Net, Circ, Circ) {
    joined([(); 3].map(|()| EngineConfig::default()))
}

/// What came from the other end; everything else is a mistake.
fn heard(net: &mut Net, circ: &mut Circ) -> Vec<Vec<u8>> {
    let messages = net.messages(circ);
    assert!(messages.iter().all(|message| message.hop == 2), "{messages:?}");
    messages.into_iter().map(|message| message.data).collect()
}

/// What the point has counted on both circuits.
fn metered(net: &Net, client: &Circ, service: &Circ) -> (u64, u64) {
    let of = |circ: &Circ| net.nodes[POINT].metered(circ.names[1]).unwrap();
    (of(client), of(service))
}

#[test]
fn a_client_and_a_service_that_know_one_cookie_talk_to_each_other() {
    let (mut net, mut client, mut service) = plain();
    for n in 0..100u8 {
        net.send(&mut client, 2, relay::DATA, 1, &[n; 498]);
        net.send(&mut service, 2, relay::DATA, 1, &[n, n]);
    }
    net.run();
    let texts = |len: usize| (0..100u8).map(|n| vec![n; len]).collect::<Vec<_>>();
    assert_eq!(heard(&mut net, &mut service), texts(498));
    assert_eq!(heard(&mut net, &mut client), texts(2));
    let counters = net.nodes[POINT].counters();
    assert_eq!((counters.rendezvous_joined, counters.protocol_errors), (1, 0));
    assert_eq!((counters.slots, counters.held), (0, [0, 0]));
}

#[test]
fn a_cookie_joins_two_circuits_once() {
    let (mut net, client, _service) = plain();
    let late = net.client_at(2, "192.0.2.78");
    let mut late = net.open(late, &[2, POINT]);
    net.send(&mut late, 1, relay::RENDEZVOUS1, 0, &[&COOKIE[..], &[1; 64]].concat());
    net.run();
    assert_eq!(net.destroyed(&late), DESTROYED);
    assert_eq!(net.destroyed(&client), None);
    // The cookie is free again: whoever names it waits, and nobody is joined with the first two.
    let other = net.client(0);
    let mut other = net.open(other, &[0, POINT]);
    wait(&mut net, &mut other);
}

#[test]
fn a_cookie_that_somebody_waits_with_is_nobody_elses() {
    let mut net = Net::of_size(3);
    let (mut client, mut second) = circuits(&mut net);
    wait(&mut net, &mut client);
    net.send(&mut second, 1, relay::ESTABLISH_RENDEZVOUS, 0, &COOKIE);
    net.run();
    assert_eq!(net.destroyed(&second), DESTROYED);
    let service = net.client_at(2, "192.0.2.78");
    let mut service = net.open(service, &[2, POINT]);
    meet(&mut net, &mut client, &mut service);
}

#[test]
fn malformed_and_misplaced_messages_close_their_circuit() {
    for (command, data, why) in [
        (relay::ESTABLISH_RENDEZVOUS, vec![1; 19], "a short cookie"),
        (relay::ESTABLISH_RENDEZVOUS, vec![1; 21], "a long cookie"),
        (relay::ESTABLISH_RENDEZVOUS, vec![], "no cookie"),
        (relay::RENDEZVOUS1, vec![1; 19], "a short cookie"),
        (relay::RENDEZVOUS1, vec![1; 84], "a cookie that nobody waits with"),
    ] {
        let mut net = Net::of_size(3);
        let (mut circ, _) = circuits(&mut net);
        net.send(&mut circ, 1, command, 0, &data);
        net.run();
        assert_eq!(net.destroyed(&circ), DESTROYED, "{why}");
    }
    // Where there is a next hop, and where something else was said already.
    for command in [relay::ESTABLISH_RENDEZVOUS, relay::RENDEZVOUS1] {
        let mut net = Net::of_size(3);
        let (mut waiting, _) = circuits(&mut net);
        wait(&mut net, &mut waiting);
        let mut data = COOKIE.to_vec();
        data[0] ^= u8::from(command == relay::ESTABLISH_RENDEZVOUS);
        let client = net.client(0);
        let mut circ = net.open(client, &[0, POINT, 2]);
        net.send(&mut circ, 1, command, 0, &data);
        net.run();
        assert_eq!(net.destroyed(&circ), DESTROYED, "{command} with a next hop");
        net.send(&mut waiting, 1, command, 0, &data);
        net.run();
        assert_eq!(net.destroyed(&waiting), DESTROYED, "{command} on a circuit that waits");
    }
}

#[test]
fn before_the_rendezvous_nothing_passes() {
    let mut net = Net::of_size(3);
    let (mut client, _) = circuits(&mut net);
    wait(&mut net, &mut client);
    client.layers.push(&shared(false));
    net.send(&mut client, 2, relay::DATA, 1, b"too early");
    net.run();
    assert_eq!(net.destroyed(&client), DESTROYED);
    // And the cookie has gone with it.
    let other = net.client(0);
    let mut other = net.open(other, &[0, POINT]);
    wait(&mut net, &mut other);
}

#[test]
fn both_circuits_end_when_either_does() {
    for end in ["client", "service", "protocol error", "client's link", "asked"] {
        let (mut net, mut client, service) = plain();
        match end {
            "client" => net.send_cell(client.client, client.id, command::DESTROY, &[0]),
            "service" => net.send_cell(service.client, service.id, command::DESTROY, &[0]),
            "protocol error" => drop(net.send(&mut client, 1, relay::EXTEND, 0, &[])),
            "asked" => net.nodes[POINT].destroy(service.names[1], DestroyReason::ResourceLimit),
            _ => {
                let at = |link: &[(usize, LinkId); 2]| link[0].0 == 0;
                let of = net.links.iter().position(at).unwrap();
                let [(_, near), (_, far)] = net.links.remove(of);
                net.nodes[0].link_down(net.now, near);
                net.nodes[POINT].link_down(net.now, far);
            }
        }
        net.run();
        let told = (net.destroyed(&client).is_some(), net.destroyed(&service).is_some());
        assert_eq!(told, (end != "client", end != "service"), "{end}");
        for node in &net.nodes {
            let counters = node.counters();
            assert_eq!(
                (counters.circuits, counters.slots, counters.held),
                ([0, 0], 0, [0, 0]),
                "{end}"
            );
        }
    }
}

#[test]
fn messages_for_the_point_are_still_understood_on_both_circuits() {
    let (mut net, mut client, mut service) = plain();
    net.payments(POINT);
    for circ in [&mut client, &mut service] {
        net.send(circ, 1, DROP, 0, b"nothing");
        net.send(circ, 1, relay::PAYMENT_TO_NODE, 0, b"a question");
        net.run();
        let asked = net.payments(POINT).into_iter().find_map(|event| match event {
            PaymentEvent::Message { circuit, body, .. } => Some((circuit, body)),
            _ => None,
        });
        let name = circ.names[1];
        assert_eq!(asked, Some((name, b"a question".to_vec())));
        net.nodes[POINT].answer(name, b"an answer");
        net.run();
        let got = net.messages(circ);
        assert_eq!(
            (got[0].hop, got[0].command, &got[0].data[..]),
            (1, relay::PAYMENT_TO_ORIGIN, &b"an answer"[..])
        );
    }
    // The keystreams have kept up.
    net.send(&mut client, 2, relay::DATA, 1, b"over there");
    net.send(&mut service, 2, relay::DATA, 1, b"and back");
    net.run();
    assert_eq!(heard(&mut net, &mut service), [b"over there"]);
    assert_eq!(heard(&mut net, &mut client), [b"and back"]);
}

#[test]
fn joined_circuits_go_nowhere_else_and_have_no_streams() {
    let (mut net, mut client, mut service) = plain();
    for circ in [&mut client, &mut service] {
        net.send(circ, 1, relay::BEGIN, 3, b"example.com:80\0");
        net.send(circ, 1, relay::RESOLVE, 4, b"example.com\0");
        net.send(circ, 1, relay::BEGIN_DIR, 5, &[]);
        for _ in 0..200 {
            net.send(circ, 1, relay::DATA, 5, &[1; 498]);
        }
        net.run();
        assert_eq!(net.messages(circ), [], "nothing of ours goes where the client pays");
    }
    assert_eq!(net.nodes[POINT].counters().streams_opened, 0);
    net.send(&mut client, 2, relay::DATA, 1, b"still there");
    net.run();
    assert_eq!(heard(&mut net, &mut service), [b"still there"]);
    for command in [
        relay::EXTEND2,
        relay::EXTEND,
        relay::TRUNCATE,
        relay::ESTABLISH_INTRO,
        relay::ESTABLISH_RENDEZVOUS,
        relay::INTRODUCE1,
        relay::RENDEZVOUS1,
    ] {
        let (mut net, client, mut service) = plain();
        let (_, data) = net.extend_data(2);
        net.send_as(&mut service, command::RELAY_EARLY, 1, command, 0, &data);
        net.run();
        assert!(
            net.destroyed(&service).is_some() && net.destroyed(&client).is_some(),
            "{command}"
        );
    }
}

#[test]
fn circuits_with_streams_are_not_joined() {
    for command in [relay::ESTABLISH_RENDEZVOUS, relay::RENDEZVOUS1] {
        let mut net = Net::of_size(3);
        let (mut client, mut service) = circuits(&mut net);
        let early = match command {
            relay::RENDEZVOUS1 => {
                wait(&mut net, &mut client);
                &mut service
            }
            _ => &mut client,
        };
        net.stream(early, 1);
        net.run();
        net.messages(early);
        net.send(early, 1, command, 0, &COOKIE);
        net.run();
        assert_eq!(net.destroyed(early), DESTROYED, "{command}");
    }
}

#[test]
fn relay_early_cells_pass_as_relay_cells_and_not_more_than_eight() {
    let (mut net, mut client, mut service) = plain();
    // The point has seen none yet: the guard took the EXTEND2.
    for n in 0..8u8 {
        // Of the guard's eight, one is gone.
        let command = if n < 7 { command::RELAY_EARLY } else { command::RELAY };
        net.send_as(&mut client, command, 2, relay::DATA, 1, &[n]);
    }
    net.run();
    // `messages` takes nothing else than RELAY.
    assert_eq!(heard(&mut net, &mut service).len(), 8);
    let mut net = Net::of_size(1);
    let (near, far) = (net.client(0), net.client_at(0, "192.0.2.77"));
    let (mut client, mut service) = (net.open(near, &[0]), net.open(far, &[0]));
    wait(&mut net, &mut client);
    meet(&mut net, &mut client, &mut service);
    for _ in 0..9 {
        net.send_as(&mut client, command::RELAY_EARLY, 1, relay::DATA, 1, b"early");
    }
    net.run();
    assert_eq!(net.destroyed(&client), Some(DestroyReason::Protocol as u8));
    assert_eq!(net.nodes[0].counters().circuits, [0, 0]);
}

#[test]
fn what_passes_counts_once_and_on_the_circuit_of_the_client() {
    let (mut net, mut client, mut service) = plain();
    let before = metered(&net, &client, &service);
    for _ in 0..40 {
        net.send(&mut client, 2, relay::DATA, 1, &[1; 498]);
    }
    for _ in 0..25 {
        net.send(&mut service, 2, relay::DATA, 1, &[2; 498]);
    }
    net.run();
    assert_eq!(metered(&net, &client, &service), (before.0 + 65 * CELL, before.1));
    let counters = net.nodes[POINT].counters();
    assert!(counters.cells[Class::Unpaid as usize][0] >= 25 && counters.cells[Class::Unpaid as usize][1] >= 40);
    // What the service says to the point is the service's.
    net.send(&mut service, 1, DROP, 0, b"nothing");
    net.run();
    assert_eq!(
        metered(&net, &client, &service),
        (before.0 + 65 * CELL, before.1 + CELL)
    );
}

#[test]
fn the_clients_credit_makes_both_circuits_paid_and_is_used_up_to_the_cell() {
    let (mut net, mut client, mut service) = plain();
    let name = client.names[1];
    net.nodes[POINT].grant(name, 50 * CELL);
    assert_eq!(net.nodes[POINT].counters().circuits, [2, 0]);
    for _ in 0..30 {
        net.send(&mut client, 2, relay::DATA, 1, &[1; 498]);
        net.send(&mut service, 2, relay::DATA, 1, &[2; 498]);
    }
    net.run();
    assert_eq!(heard(&mut net, &mut client).len(), 30);
    assert_eq!(heard(&mut net, &mut service).len(), 30);
    let counters = net.nodes[POINT].counters();
    assert_eq!(net.nodes[POINT].credit(name), Some(0));
    let paid = counters.cells[Class::Paid as usize];
    assert_eq!(paid[0] + paid[1], 50, "{paid:?}");
    assert_eq!(counters.circuits, [0, 2]);
}

#[test]
fn towards_the_service_no_cell_is_carried_on_credit_that_is_gone() {
    let (mut net, mut client, mut service) = plain();
    let name = client.names[1];
    net.nodes[POINT].grant(name, 20 * CELL + 100);
    net.payments(POINT);
    net.nodes[POINT].watch_credit(name, 5 * CELL);
    // More at once than one run, and one more than there is credit for.
    for _ in 0..45 {
        net.send(&mut client, 2, relay::DATA, 1, &[1; 498]);
    }
    net.run();
    assert_eq!(heard(&mut net, &mut service).len(), 45);
    assert_eq!(net.nodes[POINT].credit(name), Some(100));
    assert_eq!(net.nodes[POINT].counters().cells[Class::Paid as usize], [0, 20]);
    let low = net.payments(POINT).into_iter().find_map(|event| match event {
        PaymentEvent::CreditLow { circuit, credit, .. } => Some((circuit, credit)),
        _ => None,
    });
    assert_eq!(low, Some((name, 4 * CELL + 100)));
}

#[test]
fn credit_on_the_services_circuit_changes_nothing_at_the_point() {
    let mut net = Net::of_size(3);
    let (mut client, mut service) = circuits(&mut net);
    wait(&mut net, &mut client);
    net.nodes[POINT].grant(service.names[1], 100 * CELL);
    assert_eq!(net.nodes[POINT].counters().circuits, [1, 1]);
    meet(&mut net, &mut client, &mut service);
    assert_eq!(net.nodes[POINT].counters().circuits, [0, 2]);
    net.nodes[POINT].grant(service.names[1], 100 * CELL);
    assert_eq!(net.nodes[POINT].counters().circuits, [0, 2]);
    let before = net.nodes[POINT].credit(service.names[1]);
    for _ in 0..10 {
        net.send(&mut client, 2, relay::DATA, 1, &[1; 498]);
        net.send(&mut service, 1, DROP, 0, b"nothing");
    }
    net.run();
    assert_eq!(heard(&mut net, &mut service).len(), 10);
    assert_eq!(net.nodes[POINT].credit(service.names[1]), before);
    net.nodes[POINT].grant(client.names[1], 100 * CELL);
    for _ in 0..10 {
        net.send(&mut service, 1, DROP, 0, b"nothing");
    }
    net.run();
    assert_eq!(net.nodes[POINT].counters().circuits, [2, 0]);
    assert_eq!(net.nodes[POINT].credit(service.names[1]), before);
}

#[test]
fn a_service_that_does_not_read_costs_its_circuit_and_the_clients_and_no_other() {
    let short = EngineConfig {
        circuit_queue: 100,
        ..EngineConfig::default()
    };
    let mut net = Net::new([short]);
    let (near, far) = (net.client(0), net.client_at(0, "192.0.2.77"));
    let (mut client, mut service) = (net.open(near, &[0]), net.open(far, &[0]));
    let bystander = net.client_at(0, "192.0.2.78");
    let bystander = net.open(bystander, &[0]);
    wait(&mut net, &mut client);
    meet(&mut net, &mut client, &mut service);
    for _ in 0..101 {
        net.send(&mut client, 1, relay::DATA, 1, &[1; 498]);
    }
    net.run();
    assert_eq!(net.destroyed(&client), Some(DestroyReason::Destroyed as u8));
    assert_eq!(net.destroyed(&service), Some(DestroyReason::ResourceLimit as u8));
    assert_eq!(net.destroyed(&bystander), None);
    let counters = net.nodes[0].counters();
    assert_eq!((counters.circuits, counters.slots, counters.held), ([0, 1], 0, [0, 0]));
    assert_eq!(counters.killed_queue, 1);
}

#[test]
fn what_waits_for_a_service_is_the_memory_of_the_class_that_the_client_pays_for() {
    let (mut net, mut client, service) = plain();
    for n in 0..30 {
        if n == 10 {
            net.nodes[POINT].grant(client.names[1], 100 * CELL);
        }
        net.send(&mut client, 2, relay::DATA, 1, &[1; 498]);
    }
    // The guard's writer works, the point's does not.
    for [a, b] in net.links.clone() {
        if a.0 == 0 {
            let mut out = Vec::new();
            net.nodes[0].transmit(net.now, a.1, &mut out, 64 * 1024);
            net.feed(b.0, b.1, out);
        }
    }
    assert_eq!(net.nodes[POINT].counters().held, [30, 0]);
    drop(service);
    net.run();
    assert_eq!(net.nodes[POINT].counters().held, [0, 0]);
}

#[test]
fn under_a_configured_rate_what_passes_is_paced_as_everything_else() {
    let paced = EngineConfig {
        rate: Some(100_000),
        ..EngineConfig::default()
    };
    let (mut net, mut client, mut service) = joined([EngineConfig::default(), paced, EngineConfig::default()]);
    // Spends what was saved up.
    for _ in 0..400 {
        net.send(&mut client, 2, relay::DATA, 1, &[1; 498]);
    }
    net.run();
    let at_once = heard(&mut net, &mut service).len();
    assert!(at_once < 40, "{at_once}");
    for _ in 0..1000 {
        net.now = net.now.plus(1000);
        net.nodes[POINT].wake(net.now);
        net.run();
    }
    let then = heard(&mut net, &mut service).len();
    assert!((185..=200).contains(&then), "{then} cells of 514 bytes in a second");
    assert_eq!(heard(&mut net, &mut client).len(), 0);
}

#[test]
fn a_client_without_a_relay_in_between_is_ignored_if_the_consensus_says_so() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let refuse = |name: &str, default| if name.starts_with("DoSRefuse") { 1 } else { default };
    net.nodes[0].set_defences(DefenceParameters::new(refuse));
    net.send(&mut circ, 0, relay::ESTABLISH_RENDEZVOUS, 0, &COOKIE);
    net.run();
    assert_eq!(net.messages(&mut circ), []);
    assert_eq!(net.nodes[0].counters().rendezvous_refused, 1);
    net.nodes[0].set_defences(DefenceParameters::default());
    wait(&mut net, &mut circ);
}
