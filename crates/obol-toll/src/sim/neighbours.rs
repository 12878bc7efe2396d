//! One relay, message by message: which links it takes for whom, and whom it lets carry before they pay.

use super::desk::{CLIENT, Desk, NEXT, NEXT_PEER, rules};
use super::world::{ASSET, NETWORK};
use crate::ids::{AddressKey, LinkId};
use crate::node::{Input, Output, Report};
use obol_cell::{LinkMessage, PeerId, ToNode, ToOrigin};

fn next_is_open(d: &mut Desk) -> bool {
    let c = d.circuit(CLIENT, true);
    d.ask(c, &ToNode::QuoteQuery, 0);
    match d.answer(c) {
        ToOrigin::Quote(quote) => quote.next,
        other => panic!("{other:?}"),
    }
}

fn up(d: &mut Desk, link: LinkId, peer: PeerId, obol: bool) {
    d.tell(Input::LinkUp {
        link,
        peer: Some(peer),
        obol,
        address: None,
    });
}

fn hello() -> LinkMessage {
    LinkMessage::LegHello {
        network: NETWORK,
        asset: ASSET,
        rules: rules(),
    }
}

#[test]
fn a_neighbour_is_paid_only_over_a_link_on_which_it_said_hello_and_nothing_wrong() {
    let mut d = Desk::new();
    assert!(!next_is_open(&mut d), "no escrow");
    d.own_escrow();
    assert!(next_is_open(&mut d));
    d.tell(Input::LinkDown { link: NEXT });
    assert!(!next_is_open(&mut d));
    up(&mut d, NEXT, NEXT_PEER, true);
    assert!(!next_is_open(&mut d), "it did not say hello");
    d.link(NEXT, &hello());
    assert!(next_is_open(&mut d));
    d.tell(Input::LinkMessage {
        link: NEXT,
        body: vec![0; 40],
    });
    assert!(d.out.contains(&Output::CloseLink { link: NEXT }));
    assert!(!next_is_open(&mut d), "the link is being closed");
}

#[test]
fn a_relay_that_is_not_ours_is_told_nothing() {
    let mut d = Desk::new();
    let link = LinkId(77);
    up(&mut d, link, PeerId([9; 32]), false);
    assert_eq!(d.sent(link), []);
    up(&mut d, LinkId(78), PeerId([9; 32]), true);
    assert_eq!(d.sent(LinkId(78)).len(), 1);
}

#[test]
fn of_two_links_to_a_neighbour_the_one_that_stays_is_used() {
    let mut d = Desk::new();
    let own = d.own_escrow();
    let second = LinkId(77);
    up(&mut d, second, NEXT_PEER, true);
    d.link(second, &hello());
    d.sent(second);
    d.tell(Input::LinkDown { link: NEXT });
    d.tell(Input::Close { escrow: own });
    let (escrow, final_k) = (own, 0);
    assert_eq!(d.sent(second), [LinkMessage::LegClose { escrow, final_k }]);
}

#[test]
fn initial_credit_is_granted_once_for_a_circuit_and_reported() {
    for (initial, outputs) in [(0, 0), (256 * 1024, 2)] {
        let mut d = Desk::new();
        d.config.initial_credit = initial;
        d.start();
        d.out.clear();
        let c = d.circuit(CLIENT, false);
        assert_eq!(d.out.len(), outputs, "{:?}", d.out);
        assert_eq!(d.credit(c), initial);
        let bytes = initial;
        assert_eq!(
            d.out.contains(&Output::Report(Report::InitialCredit { bytes })),
            initial > 0
        );
    }
}

#[test]
fn peers_that_no_consensus_knows_share_their_addresss_bucket_until_one_does() {
    let mut d = Desk::new();
    d.config.initial_credit = 1_000;
    d.config.address_bucket = 1_500;
    d.config.neighbour_refill = 1_000;
    d.start();
    let address = Some(AddressKey::of(std::net::Ipv4Addr::LOCALHOST.into()));
    let links = [1, 2, 3].map(|n| {
        let link = LinkId(1_000 + u64::from(n));
        let peer = Some(PeerId([n; 32]));
        d.tell(Input::LinkUp {
            link,
            peer,
            obol: false,
            address,
        });
        link
    });
    let credit = |d: &mut Desk, link| {
        let circuit = d.circuit(link, false);
        d.credit(circuit)
    };
    assert_eq!(credit(&mut d, links[0]), 1_000);
    assert_eq!(credit(&mut d, links[1]), 500, "another identity, the same bucket");
    assert_eq!(credit(&mut d, links[2]), 0);
    let link = links[2];
    d.tell(Input::LinkJudged { link, address: None });
    assert_eq!(credit(&mut d, link), 1_000, "a relay's own bucket");
    d.tell(Input::LinkJudged { link, address });
    assert_eq!(credit(&mut d, link), 0, "and no longer");
}

#[test]
fn addresses_and_neighbours_are_forgotten_when_their_credit_is_back() {
    for relays in [false, true] {
        let mut d = Desk::new();
        d.config.initial_credit = 1_000;
        d.start();
        let one_more = |d: &mut Desk, i: u64| {
            let link = LinkId(1_000 + i);
            let mut id = [0; 32];
            id[..8].copy_from_slice(&i.to_be_bytes());
            d.tell(Input::LinkUp {
                link,
                peer: relays.then_some(PeerId(id)),
                obol: false,
                address: (!relays).then(|| AddressKey::of(std::net::Ipv4Addr::from(i as u32).into())),
            });
            d.circuit(link, false);
            d.out.clear();
        };
        // The last one only just used its credit.
        (0..8_191).for_each(|i| one_more(&mut d, i));
        d.wait(600_000);
        one_more(&mut d, 8_191);
        assert_eq!(d.node().sizes().buckets, 8_192);
        one_more(&mut d, 8_192);
        assert_eq!(d.node().sizes().buckets, 2, "the two that were not full again");
    }
}
