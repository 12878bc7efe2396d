//! One relay, message by message: what it answers about escrows and quotes, whom it believes, when it flushes.

use super::desk::{
    BALANCE, CLIENT, Desk, ME, NEXT, NEXT_PEER, PREV, PRICE, books_query, close_escrow, leg_query, rules,
};
use super::s;
use super::world::{ASSET, NETWORK};
use crate::clock::UnixMillis;
use crate::escrow::{Escrow, NotBelieved};
use crate::ids::{AddressKey, CircuitId, LinkId};
use crate::keys::PayeeKeys;
use crate::node::{FlushReason, Input, Output, Report};
use obol_cell::{
    AccountId, Allocation, Asset, Balance, DeclineCode, Declined, EscrowId, EscrowOffer, EscrowState, EscrowTerms,
    Forward, LinkMessage, NetworkId, PeerId, PricePer64KiB, Step, Tariff, ToNode, ToOrigin, UNIT,
};

const FIRST: Step = Step::FIRST;

fn state(answer: ToOrigin) -> EscrowState {
    match answer {
        ToOrigin::Balance(balance) => balance.state,
        other => panic!("{other:?}"),
    }
}

fn query(escrow: &Escrow) -> ToNode {
    books_query(escrow.id(), Some(escrow.terms.opening()))
}

/// An escrow of the client's that was accepted and never read.
fn accepted(d: &mut Desk) -> Escrow {
    let offer = d.make_offer();
    let ToOrigin::EscrowAccepted(acceptance) = d.offer(&offer, false) else {
        panic!("accepted")
    };
    d.escrow(&offer, &acceptance)
}

fn reads(d: &mut Desk) -> usize {
    let n = d.out.iter().filter(|o| matches!(o, Output::ReadEscrow { .. })).count();
    d.out.retain(|o| !matches!(o, Output::ReadEscrow { .. }));
    n
}

fn flushes(d: &mut Desk) -> Vec<(u32, FlushReason)> {
    let flushed = d.out.iter().filter_map(|o| match o {
        Output::Flush { k, reason, .. } => Some((*k, *reason)),
        _ => None,
    });
    let flushed = flushed.collect();
    d.out.retain(|o| !matches!(o, Output::Flush { .. }));
    flushed
}

// ---- quotes ----

#[test]
fn a_quote_holds_until_midnight() {
    let mut d = Desk::new();
    let c = d.circuit(CLIENT, false);
    d.ask(c, &ToNode::QuoteQuery, 0);
    let ToOrigin::Quote(quote) = d.answer(c) else { panic!() };
    assert_eq!(quote.valid_until % 86_400, 0);
    assert!((1..=86_400).contains(&(quote.valid_until - d.now.secs())));
}

#[test]
fn a_new_price_waits_for_the_midnight_until_which_the_old_one_was_quoted() {
    let mut d = Desk::new();
    let quoted = |d: &mut Desk, c| {
        d.ask(c, &ToNode::QuoteQuery, 0);
        let ToOrigin::Quote(quote) = d.answer(c) else { panic!() };
        quote
    };
    let dearer = |d: &mut Desk| {
        let price = PricePer64KiB::new(500).unwrap();
        d.config.tariff = Tariff {
            price,
            ..d.config.tariff
        };
        d.node.as_mut().expect("it runs").reconfigure(d.config);
        price
    };
    let c = d.circuit(CLIENT, false);
    let before = quoted(&mut d, c);
    let price = dearer(&mut d);
    // Everybody is told the same today, on old circuits and on new ones.
    let new = d.circuit(CLIENT, false);
    assert_eq!(quoted(&mut d, new).tariff, before.tariff);
    assert_eq!(quoted(&mut d, c).tariff, before.tariff);
    let left = before.valid_until * 1_000 - d.now.0;
    d.wait(left - 1);
    let new = d.circuit(CLIENT, false);
    assert_eq!(quoted(&mut d, new).tariff, before.tariff);
    d.wait(1);
    let new = d.circuit(CLIENT, false);
    assert_eq!(quoted(&mut d, new).tariff.price, price);
    assert_eq!(
        quoted(&mut d, c).tariff.price,
        price,
        "it has paid nothing at the old one"
    );
    // Who was asked by nobody today changes at once.
    let mut d = Desk::new();
    let price = dearer(&mut d);
    let c = d.circuit(CLIENT, false);
    assert_eq!(quoted(&mut d, c).tariff.price, price);
}

// ---- who may ask what ----

#[test]
fn only_a_clients_own_neighbour_is_asked_about_escrows() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    for message in [query(&e), ToNode::OfferEscrow(d.make_offer()), close_escrow(e.id(), 0)] {
        let c = d.circuit(PREV, false);
        d.ask(c, &message, 0);
        assert!(d.destroyed(c), "{message:?}");
        assert_eq!(d.answers(c), []);
    }
}

#[test]
fn nobody_is_told_of_or_can_close_an_escrow_that_is_not_its_own() {
    let mut d = Desk::new();
    let (mine, theirs) = (d.client_escrow(), d.prev_escrow());
    let c = d.circuit(CLIENT, false);
    d.ask(c, &books_query(theirs.id(), None), 0);
    assert_eq!(state(d.answer(c)), EscrowState::Unknown);
    d.ask(c, &close_escrow(theirs.id(), 0), 0);
    let code = DeclineCode::Unknown;
    assert_eq!(d.answer(c), ToOrigin::Declined(Declined { code }));
    for (link, escrow) in [(PREV, &mine), (NEXT, &theirs)] {
        d.sent(link);
        let (id, opening) = (escrow.id(), None);
        d.link(link, &leg_query(id, opening));
        assert!(
            matches!(
                d.sent(link)[..],
                [LinkMessage::LegBalance(Balance {
                    state: EscrowState::Unknown,
                    ..
                })]
            ),
            "{link:?}"
        );
        d.link(link, &LinkMessage::LegClose { escrow: id, final_k: 0 });
        assert_eq!(d.sent(link), []);
    }
    assert_eq!(d.balance(&mine).state, EscrowState::Open);
    assert_eq!(d.prev_balance(&theirs).state, EscrowState::Open);
    // Its own: the owner's word begins the end.
    d.link(
        PREV,
        &LinkMessage::LegClose {
            escrow: theirs.id(),
            final_k: 0,
        },
    );
    assert_eq!(d.prev_balance(&theirs).state, EscrowState::Closing);
}

#[test]
fn a_relay_with_other_money_is_not_paid_and_not_heard() {
    let other = Asset {
        issuer: [1; 32],
        ..ASSET
    };
    for (network, asset, heard) in [
        (NETWORK, ASSET, true),
        (NetworkId([1; 32]), ASSET, false),
        (NETWORK, other, false),
    ] {
        let mut d = Desk::new();
        let link = LinkId(77);
        d.tell(Input::LinkUp {
            link,
            peer: Some(PeerId([9; 32])),
            obol: true,
            address: None,
        });
        let rules = rules();
        d.link(link, &LinkMessage::LegHello { network, asset, rules });
        d.sent(link);
        let offer = d.make_offer();
        d.link(link, &LinkMessage::LegOffer(offer));
        let asked = d.out.contains(&Output::CheckAbsent { escrow: offer.escrow });
        assert_eq!(asked, heard);
    }
}

// ---- offers ----

#[test]
fn an_offer_that_the_ledger_says_nothing_of_is_declined_after_a_while() {
    let mut d = Desk::new();
    let c = d.circuit(CLIENT, false);
    let offer = d.make_offer();
    d.ask(c, &ToNode::OfferEscrow(offer), 0);
    d.wait(19_999);
    assert_eq!(d.answers(c), []);
    d.wait(1);
    let code = DeclineCode::NotNow;
    assert_eq!(d.answer(c), ToOrigin::Declined(Declined { code }));
    // Too late.
    d.tell(Input::EscrowChecked {
        escrow: offer.escrow,
        exists: Some(false),
    });
    assert_eq!(d.answers(c), []);
}

#[test]
fn an_offer_that_is_made_again_over_another_circuit_is_answered_there() {
    let mut d = Desk::new();
    let offer = d.make_offer();
    let (first, second) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    d.ask(first, &ToNode::OfferEscrow(offer), 0);
    d.close(first, 0);
    // The ledger has not been asked to the end when the client comes again.
    d.ask(second, &ToNode::OfferEscrow(offer), 0);
    d.tell(Input::EscrowChecked {
        escrow: offer.escrow,
        exists: Some(false),
    });
    assert!(matches!(d.answer(second), ToOrigin::EscrowAccepted(_)));
    // Another offer with the same key is none.
    let third = d.circuit(CLIENT, false);
    d.ask(third, &ToNode::OfferEscrow(offer), 0);
    let other = EscrowOffer {
        expiry: offer.expiry - 1,
        ..offer
    };
    let fourth = d.circuit(CLIENT, false);
    d.ask(fourth, &ToNode::OfferEscrow(other), 0);
    let code = DeclineCode::Exists;
    assert_eq!(d.answer(fourth), ToOrigin::Declined(Declined { code }));
}

#[test]
fn a_ledger_that_was_heard_of_now_and_closed_long_ago_is_no_ground_for_a_new_escrow() {
    let mut d = Desk::new();
    d.wait(600_000);
    // Five minutes may be the clock's fault, and one is a ledger's age.
    let close_time = d.now.secs() - 361;
    d.tell(Input::LedgerClosed {
        sequence: 1_001,
        close_time,
    });
    let offer = d.make_offer();
    let code = DeclineCode::NotNow;
    assert_eq!(d.offer(&offer, false), ToOrigin::Declined(Declined { code }));
    let close_time = d.now.secs() - 360;
    d.tell(Input::LedgerClosed {
        sequence: 1_001,
        close_time,
    });
    let offer = d.make_offer();
    assert!(matches!(d.offer(&offer, false), ToOrigin::EscrowAccepted(_)));
}

#[test]
fn accounts_rotate_for_new_escrows_and_each_keeps_the_one_that_it_was_accepted_with() {
    let mut d = Desk::new();
    let before = d.client_escrow();
    let (account, can_accept) = (AccountId([0x5a; 32]), true);
    assert_ne!(before.terms.payee_account, account);
    d.tell(Input::PayeeAccount { account, can_accept });
    let after = accepted(&mut d);
    assert_eq!(after.terms.payee_account, account);
    // The older one is still paid by and flushed to its own.
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&before, 1, 25, PRICE)), 0);
    d.ask(c, &close_escrow(before.id(), 1), 0);
    d.wait(d.config.close_jitter_ms + 1);
    let flushed = d.out.iter().find_map(|o| match o {
        Output::Flush { escrow, .. } => Some(escrow.terms.payee_account),
        _ => None,
    });
    assert_eq!(flushed, Some(before.terms.payee_account));
}

#[test]
fn the_limit_on_new_escrows_is_for_a_whole_minute() {
    let mut d = Desk::new();
    d.config.escrows_per_minute = 4;
    d.start();
    // To the begin of a minute.
    d.wait(60_000 - d.now.0 % 60_000);
    let accepted = |d: &mut Desk| {
        d.ledger();
        let offer = d.make_offer();
        matches!(d.offer(&offer, false), ToOrigin::EscrowAccepted(_))
    };
    let first: Vec<bool> = (0..12)
        .map(|_| {
            d.wait(4_000);
            accepted(&mut d)
        })
        .collect();
    assert_eq!(
        first,
        [vec![true; 8], vec![false; 4]].concat(),
        "readings share the limit"
    );
    d.wait(20_000);
    assert!(accepted(&mut d));
}

// ---- belief ----

#[test]
fn all_who_wait_for_an_escrow_are_answered_when_it_was_read() {
    let mut d = Desk::new();
    let e = accepted(&mut d);
    let (a, b) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    for c in [a, b] {
        d.ask(c, &query(&e), 0);
        assert_eq!(d.answers(c), []);
    }
    assert_eq!(reads(&mut d), 1, "it is read once");
    // Other terms for the same account are not joined to it.
    let c = d.circuit(CLIENT, false);
    let mut opening = e.terms.opening();
    opening.expiry += 1;
    d.ask(c, &books_query(e.id(), Some(opening)), 0);
    assert_eq!(state(d.answer(c)), EscrowState::Unknown);
    // Nor another owner.
    let (escrow, opening) = (e.id(), Some(e.terms.opening()));
    d.sent(PREV);
    d.link(PREV, &leg_query(escrow, opening));
    assert_eq!(d.sent(PREV).len(), 1);
    d.tell(Input::EscrowRead {
        escrow: e.id(),
        result: Ok(s(BALANCE)),
    });
    for c in [a, b] {
        assert_eq!(state(d.answer(c)), EscrowState::Open);
    }
}

#[test]
fn no_more_than_32_wait_for_an_escrow() {
    let mut d = Desk::new();
    let e = accepted(&mut d);
    let answered: Vec<bool> = (0..34)
        .map(|_| {
            let c = d.circuit(CLIENT, false);
            d.ask(c, &query(&e), 0);
            !d.answers(c).is_empty()
        })
        .collect();
    assert_eq!(answered, [vec![false; 32], vec![true; 2]].concat());
}

#[test]
fn an_escrow_whose_life_is_over_or_too_long_is_not_even_read() {
    let mut d = Desk::new();
    let now = d.now.secs();
    let margin = u64::from(rules().margin);
    // As long as clocks may be off, and an offer on its way.
    let longest = u64::from(rules().max_life) + 360;
    for (expiry, read) in [
        (now + margin, 0),
        (now + margin + 1, 1),
        (now + longest, 1),
        (now + longest + 1, 0),
    ] {
        let e = accepted(&mut d);
        let mut opening = e.terms.opening();
        opening.expiry = expiry;
        let c = d.circuit(CLIENT, false);
        d.ask(c, &books_query(e.id(), Some(opening)), 0);
        assert_eq!(reads(&mut d), read, "{} s before its end", expiry - now);
    }
    d.wait(120_000);
    let e = Escrow {
        terms: EscrowTerms {
            escrow: EscrowId([3; 32]),
            payee: ME,
            ..accepted_terms(&mut d)
        },
        signer: AccountId([1; 32]),
    };
    let c = d.circuit(CLIENT, false);
    d.wait(120_000);
    d.ask(c, &query(&e), 0);
    assert_eq!(reads(&mut d), 0, "nor by a ledger that is too old");
}

fn accepted_terms(d: &mut Desk) -> EscrowTerms {
    d.ledger();
    accepted(d).terms
}

#[test]
fn an_escrow_that_holds_less_than_its_minimum_is_not_believed() {
    let mut d = Desk::new();
    for (balance, believed) in [(999, EscrowState::Unknown), (1_000, EscrowState::Open)] {
        let e = accepted(&mut d);
        let c = d.circuit(CLIENT, false);
        d.ask(c, &query(&e), 0);
        d.tell(Input::EscrowRead {
            escrow: e.id(),
            result: Ok(s(balance)),
        });
        assert_eq!(state(d.answer(c)), believed);
    }
}

#[test]
fn a_leg_payment_waits_for_its_escrow_to_be_read_and_is_credited_then_or_not_at_all() {
    for (result, credited) in [(Ok(s(BALANCE)), true), (Err(NotBelieved::Wrong), false)] {
        let mut d = Desk::new();
        let offer = d.make_offer();
        let account = AccountId([8; 32]);
        let terms = EscrowTerms::new(&offer, ME, account, rules().min_deposit);
        let e = Escrow {
            terms,
            signer: d.keys.signer(&terms),
        };
        let c = d.circuit(PREV, false);
        let allocation = Allocation {
            circuit: c.0 as u32,
            n: 1,
            amount: s(PRICE),
        };
        let LinkMessage::LegPay(mut pay) = Desk::leg(&e, 1, PRICE, vec![allocation]) else {
            panic!()
        };
        pay.opening = Some(e.terms.opening());
        d.pay(c, 1, FIRST, Forward::Last, None, 0);
        d.sent(PREV);
        d.link(PREV, &LinkMessage::LegPay(pay));
        assert_eq!((reads(&mut d), d.credit(c)), (1, 0));
        d.tell(Input::EscrowRead { escrow: e.id(), result });
        assert_eq!(d.credit(c) > 0, credited);
        let told = d.sent(PREV);
        let unknown = told.iter().any(|m| {
            matches!(
                m,
                LinkMessage::LegBalance(Balance {
                    state: EscrowState::Unknown,
                    ..
                })
            )
        });
        assert_eq!(unknown, !credited, "{told:?}");
    }
}

#[test]
fn the_newest_claim_repeated_is_answered_with_the_books_and_another_one_is_not() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.leg_pay(&e, 1, 10, c, 1, PRICE);
    d.sent(PREV);
    d.link(PREV, &Desk::leg(&e, 1, 10, Vec::new()));
    assert!(matches!(
        d.sent(PREV)[..],
        [LinkMessage::LegBalance(Balance { newest_k: 1, .. })]
    ));
    d.leg_pay(&e, 1, 10, c, 1, PRICE);
    assert_eq!(d.sent(PREV), []);
}

// ---- flush ----

#[test]
fn the_flush_falls_into_the_first_half_of_the_margin() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    let stops = UnixMillis::from_secs(e.terms.expiry - u64::from(rules().margin));
    d.wait(stops.since(d.now) - 1);
    d.ledger();
    assert_eq!(flushes(&mut d), []);
    d.wait(2);
    assert_eq!(flushes(&mut d), [], "at a random time of it");
    d.wait(u64::from(rules().margin) * 500 - 1);
    assert_eq!(flushes(&mut d), [(1, FlushReason::Expiry)]);
    // A draw is still taken, money is not.
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 25, PRICE)), 0);
    assert_eq!(d.balance(&e).unallocated, s(5));
    d.pay(c, 3, FIRST, Forward::Last, Some(Desk::claim(&e, 3, 35, PRICE)), 0);
    assert_eq!(d.balance(&e).cumulative, s(25));
    // Settled, it is remembered until a day after its end.
    d.tell(Input::Settled {
        escrow: e.id(),
        amount: s(25),
    });
    let end = UnixMillis::from_secs(e.terms.expiry + 86_400);
    d.wait(end.since(d.now) - 1_000);
    assert_eq!(d.balance(&e).state, EscrowState::Closing);
    d.wait(1_000);
    assert_eq!(d.balance(&e).state, EscrowState::Unknown);
}

#[test]
fn what_was_never_settled_is_not_forgotten() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    let end = UnixMillis::from_secs(e.terms.expiry + 5 * 86_400);
    d.wait(end.since(d.now));
    assert_eq!(d.balance(&e).cumulative, s(25));
    let wake = d.node().next_wake().unwrap();
    assert!(wake > d.now && wake.since(d.now) <= 86_400_000, "looked at once a day");
    let looks = (0..100).filter(|_| {
        let before = d.node().next_wake();
        d.wait(3_600_000);
        d.node().next_wake() != before
    });
    assert!(looks.count() <= 5);
    d.start();
    assert_eq!(d.balance(&e).cumulative, s(25), "nor by a restart");
}

#[test]
fn an_escrow_above_the_exposure_limit_is_flushed_at_once() {
    let mut d = Desk::new();
    d.config.flush_above = Some(s(20));
    d.start();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 20, PRICE)), 0);
    assert_eq!(flushes(&mut d), []);
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 21, PRICE)), 0);
    assert_eq!(flushes(&mut d), [(2, FlushReason::Own)]);
}

#[test]
fn a_close_that_was_asked_for_flushes_once_and_says_why() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    for _ in 0..2 {
        d.ask(c, &close_escrow(e.id(), 1), 0);
    }
    d.wait(1);
    assert_eq!(flushes(&mut d), [(1, FlushReason::Requested)]);
}

#[test]
fn a_dead_claim_and_a_claim_of_nothing_are_not_flushed() {
    let mut d = Desk::new();
    let (e, nothing) = (d.client_escrow(), d.client_escrow());
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&nothing, 1, 0, 0)), 0);
    d.tell(Input::FlushNow { escrow: nothing.id() });
    assert_eq!(flushes(&mut d), []);
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    d.tell(Input::FlushNow { escrow: e.id() });
    assert_eq!(flushes(&mut d), [(1, FlushReason::Own)]);
    d.tell(Input::FlushFailed { escrow: e.id(), k: 1 });
    d.tell(Input::FlushNow { escrow: e.id() });
    assert_eq!(flushes(&mut d), []);
}

#[test]
fn a_flush_that_was_under_way_is_repeated_after_a_restart_and_a_settled_one_is_not() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    d.tell(Input::FlushNow { escrow: e.id() });
    d.start();
    assert_eq!(flushes(&mut d), [(1, FlushReason::Again)]);
    d.tell(Input::Settled {
        escrow: e.id(),
        amount: s(25),
    });
    d.start();
    assert_eq!(flushes(&mut d), []);
    assert_eq!(d.balance(&e).state, EscrowState::Closing, "and remembered");
    d.now = UnixMillis::from_secs(e.terms.expiry + 86_400);
    d.start();
    assert_eq!(d.balance(&e).state, EscrowState::Unknown);
}

// ---- links ----

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

#[test]
fn an_offer_at_the_limits_of_the_rules_is_within_them() {
    let mut d = Desk::new();
    let mut offer = d.make_offer();
    offer.expiry = d.now.secs() + u64::from(rules().max_life) + 360;
    offer.deposit = rules().min_deposit;
    assert!(matches!(d.offer(&offer, false), ToOrigin::EscrowAccepted(_)));
}

#[test]
fn a_flush_that_draws_came_after_is_repeated_with_its_own_claim() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    d.tell(Input::FlushNow { escrow: e.id() });
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 25, PRICE)), 0);
    let claims = |d: &mut Desk| {
        let claims = d.out.iter().filter_map(|o| match o {
            Output::Flush {
                k,
                cumulative,
                signature,
                ..
            } => Some((*k, *cumulative, *signature)),
            _ => None,
        });
        claims.collect::<Vec<_>>()
    };
    let first = (1, s(25), Desk::claim(&e, 1, 25, PRICE).signature);
    d.start();
    assert_eq!(
        claims(&mut d),
        [first],
        "claim 2 is not the one that may be on the ledger"
    );
    // From a compacted journal too.
    let snapshot = d.node().snapshot().expect("settled");
    d.facts = snapshot;
    d.start();
    assert_eq!(claims(&mut d), [first]);
    assert_eq!(d.balance(&e).unallocated, s(5));
}

#[test]
fn a_refusal_is_reported_by_its_author_alone() {
    let reported = |d: &Desk| {
        d.out
            .iter()
            .any(|o| matches!(o, Output::Report(Report::Refused { .. })))
    };
    let mut d = Desk::new();
    d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.out.clear();
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    d.link(
        PREV,
        &LinkMessage::LegRefused {
            circuit: c.0 as u32,
            n: 1,
            distance: 1,
            code: obol_cell::RefuseCode::NoFunds,
        },
    );
    assert!(!reported(&d));
    d.pay(c, 2, FIRST, Forward::Last, None, 0);
    d.wait(5_000);
    assert!(reported(&d));
}

#[test]
fn what_is_held_becomes_credit_whatever_the_hop_before_has_refused() {
    let refused = |c: CircuitId, n| LinkMessage::LegRefused {
        circuit: c.0 as u32,
        n,
        distance: 1,
        code: obol_cell::RefuseCode::NoFunds,
    };
    // The refusal comes before the client's word, or after one that was refused already.
    for asked_before in [false, true] {
        let mut d = Desk::new();
        let e = d.prev_escrow();
        let c = d.circuit(PREV, false);
        // Of payment 1 the money is here, and is held when payment 2 begins.
        d.leg_pay(&e, 1, PRICE, c, 1, PRICE);
        if asked_before {
            d.pay(c, 2, FIRST, Forward::Last, None, 0);
            d.wait(5_000);
        }
        d.link(PREV, &refused(c, 2));
        d.pay(c, 2, FIRST, Forward::Pass(s(0)), None, 0);
        assert_eq!(d.credit(c), UNIT, "asked before: {asked_before}");
    }
}
