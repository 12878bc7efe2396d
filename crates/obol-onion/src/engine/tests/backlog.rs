//! Links that do not take what is sent to them.

use super::*;
use crate::engine::neighbours::Share;

/// Sends CREATE_FASTs, each with the next id, and reads nothing.
fn create(net: &mut Net, client: usize, ids: core::ops::Range<u32>) {
    for id in ids {
        net.send_cell(client, 0x8000_0000 | id, command::CREATE_FAST, &id.to_be_bytes());
        net.answer_events(0);
    }
}

/// Links that were to be closed since the last time, which they now are.
fn closed(net: &mut Net) -> Vec<(LinkId, LinkFault)> {
    net.answer_events(0);
    let events = std::mem::take(&mut net.events[0]).into_iter();
    let closed: Vec<(LinkId, LinkFault)> = events
        .filter_map(|event| match event {
            Event::CloseLink { link, why } => Some((link, why)),
            _ => None,
        })
        .collect();
    for (link, _) in &closed {
        net.nodes[0].link_down(net.now, *link);
    }
    closed
}

fn answered(net: &mut Net, client: usize) -> usize {
    net.deliver(client, 100_000)
}

#[test]
fn a_client_that_reads_no_answers_loses_its_link() {
    let mut net = Net::of_size(1);
    let (client, other) = (net.client(0), net.client(0));
    create(&mut net, client, 1..2041);
    create(&mut net, other, 1..100);
    assert_eq!(closed(&mut net), [], "so far");
    create(&mut net, client, 2041..2042);
    assert_eq!(closed(&mut net), [(net.clients[client].link, LinkFault::Stalled)]);
    assert_eq!(answered(&mut net, other), 99);
    assert_eq!(net.nodes[0].counters().circuits, [0, 99]);
}

#[test]
fn a_client_that_reads_no_refusals_loses_its_link() {
    let mut net = Net::of_size(1);
    let client = net.client(0);
    // Ids of the wrong half.
    for id in 1..=16 << 10 {
        net.send_cell(client, id, command::CREATE_FAST, &[]);
    }
    assert_eq!(closed(&mut net), []);
    net.send_cell(client, 1 << 20, command::CREATE_FAST, &[]);
    assert_eq!(closed(&mut net), [(net.clients[client].link, LinkFault::Stalled)]);
    assert_eq!(net.nodes[0].neighbours.all(), Share::default());
}

#[test]
fn of_an_addresss_links_the_one_on_which_most_waits_goes_when_together_they_are_too_much() {
    let mut net = Net::of_size(1);
    let slowest = net.client_at(0, "192.0.2.1");
    create(&mut net, slowest, 1..121);
    let other = net.client_at(0, "192.0.2.2");
    create(&mut net, other, 1..125);
    let crowd: Vec<usize> = (0..39).map(|_| net.client_at(0, "192.0.2.1")).collect();
    for client in &crowd {
        create(&mut net, *client, 1..101);
    }
    // 120 + 39 * 100 cells are less than two megabytes; eighty more are not.
    assert_eq!(closed(&mut net), []);
    let last = net.client_at(0, "192.0.2.1");
    create(&mut net, last, 1..81);
    assert_eq!(closed(&mut net), [(net.clients[slowest].link, LinkFault::Stalled)]);
    assert_eq!(answered(&mut net, other), 124);
    assert_eq!(answered(&mut net, crowd[7]), 100);
    for client in crowd.into_iter().chain([other, last]) {
        let link = net.clients[client].link;
        net.nodes[0].link_down(net.now, link);
    }
    assert_eq!(net.nodes[0].neighbours.all(), Share::default());
}

#[test]
fn all_links_together_have_an_eighth_of_the_memory_for_cells() {
    let mut net = Net::new([EngineConfig {
        cell_memory: 16 << 20,
        ..EngineConfig::default()
    }]);
    let honest = net.client_at(0, "192.0.2.1");
    create(&mut net, honest, 1..10);
    let mut gone = 0;
    for address in 2..60 {
        for _ in 0..2 {
            let client = net.client_at(0, &format!("192.0.2.{address}"));
            create(&mut net, client, 1..120);
        }
        gone += closed(&mut net).len();
        assert!(net.nodes[0].neighbours.all().backlog <= 2 << 20);
    }
    assert!(gone > 58, "{gone}");
    assert_eq!(answered(&mut net, honest), 9, "not who has least");
}
