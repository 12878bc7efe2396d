//! Amounts at and past the limits of what can be said, stored and added: a relay neither panics nor gives anything for them.

use super::desk::{CLIENT, Desk, NEXT, PREV, PRICE, books_query, leg_query, rules};
use super::s;
use crate::escrow::Escrow;
use crate::node::{Input, Output};
use obol_cell::{
    Allocation, DeclineCode, Declined, EscrowState, Forward, LegPay, LinkMessage, RefuseCode, Step, Stroops, ToNode,
    ToOrigin,
};

const MAX: i64 = i64::MAX;
const FIRST: Step = Step::FIRST;

/// An escrow of the client's that holds as much as an account can.
fn richest(d: &mut Desk) -> Escrow {
    let mut offer = d.make_offer();
    offer.deposit = Stroops::MAX;
    let ToOrigin::EscrowAccepted(acceptance) = d.offer(&offer, false) else {
        panic!("accepted")
    };
    let escrow = d.escrow(&offer, &acceptance);
    let c = d.circuit(CLIENT, false);
    d.ask(c, &books_query(escrow.id(), Some(escrow.terms.opening())), 0);
    d.tell(Input::EscrowRead {
        escrow: escrow.id(),
        result: Ok(Stroops::MAX),
    });
    d.answers(c);
    escrow
}

/// The same of the relay before us.
fn richest_relays(d: &mut Desk) -> Escrow {
    let mut offer = d.make_offer();
    offer.deposit = Stroops::MAX;
    d.link(PREV, &LinkMessage::LegOffer(offer));
    d.tell(Input::EscrowChecked {
        escrow: offer.escrow,
        exists: Some(false),
    });
    let accepted = d.sent(PREV).into_iter().find_map(|m| match m {
        LinkMessage::LegAccepted(a) => Some(a),
        _ => None,
    });
    let escrow = d.escrow(&offer, &accepted.expect("accepted"));
    d.link(PREV, &leg_query(escrow.id(), Some(escrow.terms.opening())));
    d.tell(Input::EscrowRead {
        escrow: escrow.id(),
        result: Ok(Stroops::MAX),
    });
    d.sent(PREV);
    escrow
}

fn code(answer: ToOrigin) -> Option<RefuseCode> {
    match answer {
        ToOrigin::Refused { code, .. } => Some(code),
        ToOrigin::Complete { .. } => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_largest_claim_there_is_is_taken_and_nothing_can_follow_it() {
    let mut d = Desk::new();
    let e = richest(&mut d);
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, MAX, PRICE)), 0);
    assert_eq!(code(d.answer(c)), None);
    let balance = d.balance(&e);
    assert_eq!((balance.cumulative, balance.unallocated), (s(MAX), s(MAX - PRICE)));
    assert_eq!(d.node().totals().claimed, s(MAX));
    // Drawn to the last stroop, and not one more: all the rest at once is no step's price and is held.
    d.pay(
        c,
        2,
        FIRST,
        Forward::Last,
        Some(Desk::claim(&e, 2, MAX, MAX - PRICE)),
        0,
    );
    assert_eq!(code(d.answer(c)), Some(RefuseCode::Failed));
    d.pay(c, 3, FIRST, Forward::Last, Some(Desk::claim(&e, 3, MAX, 1)), 0);
    assert_eq!(code(d.answer(c)), Some(RefuseCode::NoFunds));
    assert_eq!(d.node().totals().held, s(MAX - PRICE));
    d.close(c, 0);
    assert_eq!(
        d.balance(&e).unallocated,
        s(MAX),
        "all of it comes back when the circuit ends"
    );
    // And what is in the journal says the same.
    d.start();
    let balance = d.balance(&e);
    assert_eq!((balance.cumulative, balance.unallocated), (s(MAX), s(MAX)));
}

#[test]
fn held_money_beyond_what_can_be_sold_becomes_no_credit_out_of_nothing() {
    let mut d = Desk::new();
    let e = richest_relays(&mut d);
    let c = d.circuit(PREV, true);
    d.leg_pay(&e, 1, MAX, c, 1, MAX);
    d.pay(c, 1, FIRST, Forward::Pass(s(0)), None, 0);
    let sold = d.credit(c);
    let worth = u128::from(MAX as u64 / PRICE as u64) * u128::from(obol_cell::UNIT);
    assert!(
        u128::from(sold) <= worth,
        "{sold} bytes were given, {worth} were paid for"
    );
    assert!(d.node().totals().earned <= s(MAX));
    d.close(c, 0);
    d.start();
    assert_eq!(d.node().totals().claimed, s(MAX));
}

#[test]
fn two_escrows_of_the_largest_sum_overflow_no_total_that_decides() {
    let mut d = Desk::new();
    let (one, other) = (richest(&mut d), richest(&mut d));
    for e in [one, other] {
        let c = d.circuit(CLIENT, false);
        d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, MAX, PRICE)), 0);
        assert_eq!(code(d.answer(c)), None);
        assert_eq!(d.balance(&e).cumulative, s(MAX));
    }
    // The sum of both is more than can be said: it stays at the largest.
    assert_eq!(d.node().totals().claimed, s(MAX));
    d.start();
    assert_eq!(d.node().totals().claimed, s(MAX));
    for e in [one, other] {
        d.tell(Input::FlushNow { escrow: e.id() });
        let flushed = d
            .out
            .iter()
            .any(|o| matches!(o, Output::Flush { escrow, cumulative, .. } if *escrow == e && *cumulative == s(MAX)));
        assert!(flushed, "each is flushed to the stroop");
    }
}

#[test]
fn allocations_that_add_up_to_more_than_there_can_be_close_the_link() {
    let mut d = Desk::new();
    let e = richest_relays(&mut d);
    let (a, b) = (d.circuit(PREV, false), d.circuit(PREV, false));
    let allocations = [a, b].map(|c| Allocation {
        circuit: c.0 as u32,
        n: 1,
        amount: s(MAX),
    });
    d.link(PREV, &Desk::leg(&e, 1, MAX, allocations.to_vec()));
    assert!(d.out.contains(&Output::CloseLink { link: PREV }));
    assert_eq!(d.node().totals().held, s(0));
    assert_eq!(d.node().totals().claimed, s(0));
}

#[test]
fn the_largest_forward_part_is_refused_and_nothing_of_it_leaves() {
    let mut d = Desk::new();
    let e = richest(&mut d);
    d.own_escrow();
    for (k, forward) in [(1, MAX), (2, MAX - 1), (3, MAX - PRICE), (4, MAX / 2)] {
        let c = d.circuit(CLIENT, true);
        d.pay(
            c,
            1,
            FIRST,
            Forward::Pass(s(forward)),
            Some(Desk::claim(&e, k, MAX, MAX)),
            0,
        );
        assert!(d.passed_on().is_empty());
        assert_eq!(d.credit(c), 0);
        d.close(c, 0);
    }
    assert_eq!(d.node().totals().signed, s(0));
    assert_eq!(d.balance(&e).unallocated, s(MAX));
}

#[test]
fn the_largest_step_at_the_largest_number_is_judged_like_any_other() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    let step = Step::from_power(Step::MAX_POWER).expect("the largest");
    d.pay(
        c,
        u16::MAX,
        step,
        Forward::Last,
        Some(Desk::claim(&e, 1, 100, 100)),
        u64::MAX,
    );
    assert_eq!(code(d.answer(c)), Some(RefuseCode::Failed));
    assert_eq!(d.credit(c), 0);
    // After the last number there is none.
    d.pay(
        c,
        1,
        FIRST,
        Forward::Last,
        Some(Desk::claim(&e, 2, 110, PRICE)),
        u64::MAX,
    );
    assert_eq!(code(d.answer(c)), Some(RefuseCode::Failed));
}

#[test]
fn claim_numbers_at_the_end_of_their_range_are_taken_by_nobody() {
    for k in [0, 1_025, 1 << 31, u32::MAX] {
        let mut d = Desk::new();
        let e = d.client_escrow();
        let c = d.circuit(CLIENT, false);
        d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, k, 10, PRICE)), 0);
        assert_eq!(code(d.answer(c)), Some(RefuseCode::Failed), "claim {k}");
        assert_eq!(d.balance(&e).newest_k, 0);
    }
}

#[test]
fn offers_and_terms_at_the_ends_of_time_are_declined_or_not_read() {
    let mut d = Desk::new();
    let good = d.make_offer();
    let code = DeclineCode::OutsideRules;
    for (s0, expiry, deposit) in [
        (u64::MAX, good.expiry, good.deposit),
        (0, good.expiry, good.deposit),
        (good.s0, u64::MAX, good.deposit),
        (good.s0, 0, good.deposit),
        (good.s0, good.expiry, Stroops::ZERO),
    ] {
        let mut offer = good;
        (offer.s0, offer.expiry, offer.deposit) = (s0, expiry, deposit);
        assert_eq!(d.offer(&offer, false), ToOrigin::Declined(Declined { code }));
    }
    let ToOrigin::EscrowAccepted(acceptance) = d.offer(&good, false) else {
        panic!("accepted")
    };
    let mut opening = d.escrow(&good, &acceptance).terms.opening();
    for expiry in [0, 1, u64::MAX] {
        opening.expiry = expiry;
        let c = d.circuit(CLIENT, false);
        d.ask(c, &books_query(good.escrow, Some(opening)), 0);
        let ToOrigin::Balance(balance) = d.answer(c) else {
            panic!()
        };
        assert_eq!(balance.state, EscrowState::Unknown);
    }
    assert!(!d.out.iter().any(|o| matches!(o, Output::ReadEscrow { .. })));
    assert!(good.deposit >= rules().min_deposit);
}

#[test]
fn a_neighbour_that_tells_impossible_books_gains_nothing_by_it() {
    for (k, cumulative, unallocated) in [
        (u32::MAX, MAX, MAX),
        (0, MAX, MAX),
        (1, 20, MAX),
        (1, MAX, 0),
        (1, 0, 0),
    ] {
        let mut d = Desk::new();
        let e = d.client_escrow();
        let own = d.own_escrow();
        let c = d.circuit(CLIENT, true);
        d.pay(c, 1, FIRST, Forward::Pass(s(20)), Some(Desk::claim(&e, 1, 30, 30)), 0);
        assert_eq!(d.passed_on().len(), 1);
        d.tell_known(own, EscrowState::Open, k, cumulative, unallocated);
        d.sent(NEXT);
        let c = d.circuit(CLIENT, true);
        d.pay(c, 1, FIRST, Forward::Pass(s(20)), Some(Desk::claim(&e, 2, 60, 30)), 0);
        let pays: Vec<LegPay> = d.passed_on();
        assert_eq!((pays[0].k, pays[0].cumulative), (2, s(40)));
        assert_eq!(d.node().totals().signed, s(40));
    }
}

#[test]
fn meters_and_marks_at_their_limits_are_answered() {
    let mut d = Desk::new();
    d.config.initial_credit = u64::MAX;
    d.config.address_bucket = u64::MAX;
    d.config.address_refill = u64::MAX;
    d.start();
    let c = d.circuit(CLIENT, false);
    assert_eq!(d.credit(c), u64::MAX);
    d.ask(c, &ToNode::QuoteQuery, u64::MAX);
    assert!(matches!(d.answer(c), ToOrigin::Quote(_)));
    d.tell(Input::CreditLow {
        circuit: c,
        metered: u64::MAX,
    });
    let e = d.client_escrow();
    d.pay(
        c,
        1,
        FIRST,
        Forward::Last,
        Some(Desk::claim(&e, 1, 10, PRICE)),
        u64::MAX,
    );
    d.answers(c);
    d.close(c, u64::MAX);
    d.start();
    assert_eq!(d.node().totals().claimed, s(10));
}
