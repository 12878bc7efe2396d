//! One relay, message by message: what it answers about escrows and quotes, and whom it believes.

use super::desk::{BALANCE, CLIENT, Desk, ME, NEXT, PREV, PRICE, books_query, close_escrow, leg_query, rules};
use super::s;
use super::world::{ASSET, NETWORK};
use crate::escrow::{Escrow, NotBelieved};
use crate::ids::{CircuitId, LinkId};
use crate::keys::PayeeKeys;
use crate::node::{Input, Output, Report};
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

#[test]
fn an_offer_at_the_limits_of_the_rules_is_within_them() {
    let mut d = Desk::new();
    let mut offer = d.make_offer();
    offer.expiry = d.now.secs() + u64::from(rules().max_life) + 360;
    offer.deposit = rules().min_deposit;
    assert!(matches!(d.offer(&offer, false), ToOrigin::EscrowAccepted(_)));
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
