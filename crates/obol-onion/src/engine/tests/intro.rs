//! Introduction points, with the messages that tor-cell makes.

use sha3::Sha3_256;
use sha3::digest::Digest as _;
use tor_cell::relaycell::hs::est_intro::{DosParams, EstablishIntroDetails};
use tor_llcrypto::pk::ed25519::Keypair;

use super::*;

/// The relay at which everything here happens, behind another one.
const POINT: usize = 1;

fn service_key(number: u8) -> Keypair {
    Keypair::from_bytes(&[number; 32])
}

/// What a service says on a circuit with this `KH`.
fn establish(key: &Keypair, kh: &[u8; 20], limit: Option<(i32, i32)>) -> Vec<u8> {
    let mut details = EstablishIntroDetails::new(key.verifying_key().into());
    if let Some((rate, burst)) = limit {
        details.set_extension_dos(DosParams::new(Some(rate), Some(burst)).unwrap());
    }
    details.sign_and_encode(key, &kh[..]).unwrap()
}

/// What a client says to a service.
fn introduce1(key: &Keypair, extensions: &[u8], encrypted: &[u8]) -> Vec<u8> {
    let mut data = vec![0; 20];
    data.extend([2, 0, 32]);
    data.extend(key.verifying_key().to_bytes());
    data.extend(extensions);
    data.extend(encrypted);
    data
}

fn parameters(named: &'static [(&str, i32)]) -> DefenceParameters {
    DefenceParameters::new(|name, default| {
        let found = named.iter().find(|(of, _)| *of == name);
        found.map_or(default, |(_, value)| *value)
    })
}

/// A guard and the point.
fn net() -> Net {
    Net::of_size(2)
}

/// A circuit to the point, of somebody whose guard is the first relay.
fn circuit(net: &mut Net) -> Circ {
    let client = net.client(0);
    net.open(client, &[0, POINT])
}

/// A service that is established.
fn service(net: &mut Net, key: &Keypair, limit: Option<(i32, i32)>) -> Circ {
    let mut circ = circuit(net);
    let data = establish(key, &circ.bindings[1], limit);
    net.send(&mut circ, 1, relay::ESTABLISH_INTRO, 0, &data);
    net.run();
    let got = net.messages(&mut circ);
    assert_eq!(
        (got.len(), got[0].hop, got[0].command),
        (1, 1, relay::INTRO_ESTABLISHED)
    );
    assert_eq!(got[0].data, [0], "no extensions");
    circ
}

/// Introduces somebody; returns the status that came back.
fn introduce(net: &mut Net, data: &[u8]) -> u8 {
    let mut circ = circuit(net);
    net.send(&mut circ, 1, relay::INTRODUCE1, 0, data);
    net.run();
    let got = net.messages(&mut circ);
    assert_eq!((got.len(), got[0].hop, got[0].command), (1, 1, relay::INTRODUCE_ACK));
    assert_eq!((got[0].data.len(), got[0].data[0], got[0].data[2]), (3, 0, 0));
    got[0].data[1]
}

/// Sends a message to the point on a new circuit; returns the reason for which it was destroyed, if it was.
fn closes(net: &mut Net, command: u8, data: impl Fn(&Circ) -> Vec<u8>) -> Option<u8> {
    let mut circ = circuit(net);
    let data = data(&circ);
    net.send(&mut circ, 1, command, 0, &data);
    net.run();
    net.destroyed(&circ)
}

const DESTROYED: Option<u8> = Some(DestroyReason::Destroyed as u8);

#[test]
fn a_service_hears_word_for_word_what_a_client_says_and_the_client_that_it_was_told() {
    let mut net = net();
    let key = service_key(1);
    let mut service = service(&mut net, &key, None);
    assert_eq!(net.nodes[POINT].counters().services, 1);
    for (extensions, len) in [(&[0][..], 1), (&[2, 9, 0, 200, 2, 5, 6][..], 300), (&[0][..], 434)] {
        let data = introduce1(&key, extensions, &vec![0xa5; len]);
        assert_eq!(introduce(&mut net, &data), 0);
        let heard = net.messages(&mut service);
        assert_eq!((heard.len(), heard[0].hop, heard[0].command), (1, 1, relay::INTRODUCE2));
        assert_eq!(heard[0].data, data);
    }
    let counters = net.nodes[POINT].counters();
    assert_eq!((counters.introductions, counters.introductions_refused), (3, 0));
    assert_eq!(counters.protocol_errors, 0);
}

#[test]
fn a_service_that_is_not_here_or_not_any_more_is_unknown() {
    let mut net = net();
    let key = service_key(1);
    let data = introduce1(&key, &[0], b"hello");
    assert_eq!(introduce(&mut net, &data), 1);
    let service = service(&mut net, &key, None);
    assert_eq!(introduce(&mut net, &data), 0);
    net.send_cell(service.client, service.id, command::DESTROY, &[0]);
    net.run();
    assert_eq!(introduce(&mut net, &data), 1);
    assert_eq!(net.nodes[POINT].counters().services, 0);
}

#[test]
fn a_new_circuit_of_a_service_takes_the_place_of_the_old_one() {
    let mut net = net();
    let key = service_key(1);
    let first = service(&mut net, &key, None);
    let mut second = service(&mut net, &key, None);
    // The guard is told FINISHED, and tells its own side no more than that it was destroyed.
    assert_eq!(net.destroyed(&first), DESTROYED);
    let data = introduce1(&key, &[0], b"hello");
    assert_eq!(introduce(&mut net, &data), 0);
    assert_eq!(net.messages(&mut second)[0].data, data);
    let others = service_key(2);
    let _other = service(&mut net, &others, None);
    assert_eq!(net.nodes[POINT].counters().services, 2);
    assert_eq!(introduce(&mut net, &data), 0);
}

#[test]
fn an_old_circuit_is_told_that_it_has_done_its_work() {
    // Of the point itself, without a guard.
    let mut net = Net::of_size(1);
    let key = service_key(1);
    let mut circuits: Vec<Circ> = (0..2)
        .map(|_| {
            let client = net.client(0);
            net.open(client, &[0])
        })
        .collect();
    for circ in &mut circuits {
        let data = establish(&key, &circ.bindings[0], None);
        net.send(circ, 0, relay::ESTABLISH_INTRO, 0, &data);
        net.run();
    }
    let old = &mut circuits[0];
    let cells = net.cells(old.client, old.id);
    let last = cells.last().unwrap();
    assert_eq!((last.0, last.1[0]), (command::DESTROY, DestroyReason::Finished as u8));
}

#[test]
fn a_message_of_another_circuit_or_with_another_signature_closes_the_circuit() {
    let mut net = net();
    let key = service_key(1);
    let other = circuit(&mut net).bindings[1];
    let replayed = closes(&mut net, relay::ESTABLISH_INTRO, |_| establish(&key, &other, None));
    assert_eq!(replayed, DESTROYED);
    let forged = closes(&mut net, relay::ESTABLISH_INTRO, |circ| {
        let mut data = establish(&key, &circ.bindings[1], None);
        *data.last_mut().unwrap() ^= 1;
        data
    });
    assert_eq!(forged, DESTROYED);
    // Bound to the circuit, but not signed by the key that it names.
    let stolen = closes(&mut net, relay::ESTABLISH_INTRO, |circ| {
        let kh = &circ.bindings[1];
        let mut data = establish(&key, kh, None);
        data[3..35].copy_from_slice(&service_key(2).verifying_key().to_bytes());
        let mac = Sha3_256::new()
            .chain_update(20u64.to_be_bytes())
            .chain_update(kh)
            .chain_update(&data[..36]);
        data[36..68].copy_from_slice(&mac.finalize());
        data
    });
    assert_eq!(stolen, DESTROYED);
    assert_eq!(net.nodes[POINT].counters().services, 0);
    assert_eq!(net.nodes[POINT].counters().protocol_errors, 3);
}

#[test]
fn every_shorter_message_and_those_of_older_services_close_the_circuit() {
    let mut net = net();
    let key = service_key(1);
    let whole = establish(&key, &[0; 20], None).len();
    for len in (0..whole).step_by(7).chain([whole - 1]) {
        let closed = closes(&mut net, relay::ESTABLISH_INTRO, |circ| {
            establish(&key, &circ.bindings[1], None)[..len].to_vec()
        });
        assert_eq!(closed, DESTROYED, "cut at {len}");
    }
    for kind in [0, 1, 3] {
        let closed = closes(&mut net, relay::ESTABLISH_INTRO, |circ| {
            let mut data = establish(&key, &circ.bindings[1], None);
            data[0] = kind;
            data
        });
        assert_eq!(closed, DESTROYED, "type {kind}");
    }
}

#[test]
fn a_circuit_is_a_services_once_and_nothing_else_afterwards() {
    let key = service_key(1);
    for command in [
        relay::ESTABLISH_INTRO,
        relay::INTRODUCE1,
        relay::ESTABLISH_RENDEZVOUS,
        relay::RENDEZVOUS1,
    ] {
        let mut net = net();
        let mut circ = service(&mut net, &key, None);
        let data = match command {
            relay::ESTABLISH_INTRO => establish(&key, &circ.bindings[1], None),
            relay::INTRODUCE1 => introduce1(&key, &[0], b"hello"),
            _ => vec![7; 20],
        };
        net.send(&mut circ, 1, command, 0, &data);
        net.run();
        assert_eq!(net.destroyed(&circ), DESTROYED, "{command}");
        assert_eq!(net.nodes[POINT].counters().services, 0);
    }
    let mut net = net();
    let mut circ = service(&mut net, &key, None);
    net.send(&mut circ, 1, relay::BEGIN_DIR, 5, &[]);
    net.send(&mut circ, 1, relay::TRUNCATE, 0, &[1]);
    net.run();
    let got = net.messages(&mut circ);
    assert_eq!(
        (got[0].command, &got[0].data[..]),
        (relay::END, &[EndReason::NotDirectory as u8][..])
    );
    assert_eq!(got[1].command, relay::TRUNCATED);
    assert_eq!(introduce(&mut net, &introduce1(&key, &[0], b"hello")), 0, "still there");
    let mut circ = circ;
    net.extend(&mut circ, 0);
    net.run();
    let cells = net.cells(circ.client, circ.id);
    assert_eq!(cells.last().unwrap().0, command::DESTROY);
}

#[test]
fn a_circuit_that_goes_on_is_no_introduction_point() {
    let mut net = Net::of_size(3);
    let key = service_key(1);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, POINT, 2]);
    let data = establish(&key, &circ.bindings[1], None);
    net.send(&mut circ, 1, relay::ESTABLISH_INTRO, 0, &data);
    net.run();
    assert_eq!(net.destroyed(&circ), DESTROYED);
}

#[test]
fn a_client_introduces_itself_once_on_a_circuit_and_never_without_a_relay_in_between() {
    let mut net = net();
    let key = service_key(1);
    let _service = service(&mut net, &key, None);
    let data = introduce1(&key, &[0], b"hello");
    let mut circ = circuit(&mut net);
    net.send(&mut circ, 1, relay::INTRODUCE1, 0, &data);
    net.run();
    assert_eq!(net.messages(&mut circ).len(), 1);
    net.send(&mut circ, 1, relay::INTRODUCE1, 0, &data);
    net.run();
    assert_eq!(net.destroyed(&circ), DESTROYED);
    let client = net.client(POINT);
    let mut circ = net.open(client, &[POINT]);
    net.send(&mut circ, 0, relay::INTRODUCE1, 0, &data);
    net.run();
    assert_eq!(net.destroyed(&circ), Some(DestroyReason::Protocol as u8));
}

#[test]
fn a_client_that_was_refused_may_go_on_to_another_introduction_point() {
    let mut net = Net::of_size(3);
    let key = service_key(1);
    let mut circ = circuit(&mut net);
    net.send(&mut circ, 1, relay::INTRODUCE1, 0, &introduce1(&key, &[0], b"hello"));
    net.run();
    assert_eq!(net.messages(&mut circ)[0].data, [0, 1, 0]);
    net.extend(&mut circ, 2);
    net.run();
    assert_eq!(net.messages(&mut circ)[0].command, relay::EXTENDED2);
}

#[test]
fn malformed_introductions_are_said_to_be_so() {
    let mut net = net();
    let key = service_key(1);
    let mut service = service(&mut net, &key, None);
    let good = introduce1(&key, &[0], b"hello");
    let with = |at: usize, byte: u8| {
        let mut data = good.clone();
        data[at] = byte;
        data
    };
    for (data, why) in [
        (with(0, 1), "a legacy key"),
        (with(20, 1), "another type of key"),
        (with(22, 33), "another length"),
        (with(55, 1), "an extension that is not there"),
        (introduce1(&key, &[0], b""), "nothing encrypted"),
        (introduce1(&key, &[0], &[1; 435]), "longer than every circuit takes"),
        (introduce1(&key, &[2, 1, 1, 1], b""), "the second extension cut off"),
        (good[..40].to_vec(), "cut off"),
        (vec![], "empty"),
    ] {
        assert_eq!(introduce(&mut net, &data), 2, "{why}");
    }
    assert_eq!(net.messages(&mut service), []);
    assert_eq!(introduce(&mut net, &good), 0);
}

#[test]
fn a_service_that_wants_to_hear_of_few_clients_hears_of_few() {
    let mut net = net();
    let key = service_key(1);
    let mut service = service(&mut net, &key, Some((2, 5)));
    let data = introduce1(&key, &[0], b"hello");
    let statuses: Vec<u8> = (0..7).map(|_| introduce(&mut net, &data)).collect();
    assert_eq!(statuses, [0, 0, 0, 0, 0, 1, 1]);
    net.now = net.now.plus(1_000_000);
    let statuses: Vec<u8> = (0..3).map(|_| introduce(&mut net, &data)).collect();
    assert_eq!(statuses, [0, 0, 1], "two a second");
    assert_eq!(net.messages(&mut service).len(), 7);
    // The consensus has no say.
    net.nodes[POINT].set_defences(parameters(&[("HiddenServiceEnableIntroDoSDefense", 1)]));
    assert_eq!(introduce(&mut net, &data), 1);
}

#[test]
fn the_consensus_limits_services_that_do_not_do_it_themselves() {
    let mut net = net();
    let (key, explicit) = (service_key(1), service_key(2));
    let _service = service(&mut net, &key, None);
    // Zero: no limit, whatever the consensus says.
    let _unlimited = service(&mut net, &explicit, Some((0, 0)));
    let data = introduce1(&key, &[0], b"hello");
    assert!((0..10).all(|_| introduce(&mut net, &data) == 0));
    net.nodes[POINT].set_defences(parameters(&[
        ("HiddenServiceEnableIntroDoSDefense", 1),
        ("HiddenServiceEnableIntroDoSRatePerSec", 1),
        ("HiddenServiceEnableIntroDoSBurstPerSec", 3),
    ]));
    let statuses: Vec<u8> = (0..4).map(|_| introduce(&mut net, &data)).collect();
    assert_eq!(statuses, [0, 0, 0, 1]);
    let other = introduce1(&explicit, &[0], b"hello");
    assert!((0..10).all(|_| introduce(&mut net, &other) == 0));
    let late = service_key(3);
    let _late = service(&mut net, &late, None);
    let data = introduce1(&late, &[0], b"hello");
    assert_eq!((0..4).filter(|_| introduce(&mut net, &data) == 0).count(), 3);
    net.nodes[POINT].set_defences(DefenceParameters::default());
    assert!((0..10).all(|_| introduce(&mut net, &data) == 0));
}

#[test]
fn a_service_that_does_not_read_keeps_its_circuit_and_hears_of_no_more() {
    let mut net = net();
    let key = service_key(1);
    // Its guard is the point, so that nothing else holds what it does not read.
    let client = net.client(POINT);
    let mut circ = net.open(client, &[POINT]);
    let data = establish(&key, &circ.bindings[0], None);
    net.send(&mut circ, 0, relay::ESTABLISH_INTRO, 0, &data);
    net.run();
    let data = introduce1(&key, &[0], b"hello");
    let mut circuits: Vec<Circ> = (0..300).map(|_| circuit(&mut net)).collect();
    let mut statuses = Vec::new();
    for circ in &mut circuits {
        net.send(circ, 1, relay::INTRODUCE1, 0, &data);
        net.settle();
        // Only the guard's writer is awake.
        net.deliver(circ.client, 1000);
        statuses.extend(net.messages(circ).iter().map(|message| message.data[1]));
    }
    assert_eq!(statuses.len(), 300);
    assert!((200..=256).contains(&statuses.iter().filter(|status| **status == 0).count()));
    assert_eq!(statuses.last(), Some(&1));
    net.run();
    assert_eq!(net.destroyed(&circ), None);
    assert_eq!(introduce(&mut net, &data), 0, "it has read");
}

#[test]
fn signatures_waiting_to_be_checked_are_bounded_also_when_their_circuits_are_gone() {
    let config = EngineConfig {
        pending_handshakes: 4,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config, [9; 32]);
    let mut net = Net::of_size(1);
    let now = net.now;
    std::mem::swap(&mut net.nodes[0], &mut engine);
    let key = service_key(1);
    let mut proofs = Vec::new();
    let mut reasons = Vec::new();
    for _ in 0..6 {
        let client = net.client(0);
        let mut circ = net.open(client, &[0]);
        let data = establish(&key, &circ.bindings[0], None);
        net.send(&mut circ, 0, relay::ESTABLISH_INTRO, 0, &data);
        // Nobody has looked at its signature yet.
        while let Some(event) = net.nodes[0].poll_event() {
            if let Event::Introduction(proof) = event {
                proofs.push(proof);
            }
        }
        net.send_cell(circ.client, circ.id, command::DESTROY, &[0]);
        net.run();
        reasons.push(net.destroyed(&circ));
    }
    assert_eq!(proofs.len(), 4);
    assert_eq!(reasons[4..], [Some(DestroyReason::ResourceLimit as u8); 2]);
    for proof in proofs {
        net.nodes[0].introduced(now, proof.circuit, true);
    }
    assert_eq!(net.nodes[0].counters().services, 0, "their circuits are gone");
    let client = net.client(0);
    let mut circ = net.open(client, &[0]);
    let data = establish(&key, &circ.bindings[0], None);
    net.send(&mut circ, 0, relay::ESTABLISH_INTRO, 0, &data);
    net.run();
    assert_eq!(net.messages(&mut circ)[0].command, relay::INTRO_ESTABLISHED);
}
