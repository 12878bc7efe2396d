//! One relay, message by message: when it flushes.

use super::desk::{CLIENT, Desk, PRICE, close_escrow, rules};
use super::s;
use crate::clock::UnixMillis;
use crate::node::{FlushReason, Input, Output};
use obol_cell::{EscrowState, Forward, Step};

const FIRST: Step = Step::FIRST;

fn flushes(d: &mut Desk) -> Vec<(u32, FlushReason)> {
    let flushed = d.out.iter().filter_map(|o| match o {
        Output::Flush { k, reason, .. } => Some((*k, *reason)),
        _ => None,
    });
    let flushed = flushed.collect();
    d.out.retain(|o| !matches!(o, Output::Flush { .. }));
    flushed
}

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
