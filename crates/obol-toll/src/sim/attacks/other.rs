//! Garbage, expiry, failed flushes, floods, the journal.

use super::*;

#[test]
pub(in crate::sim) fn garbage_closes_its_circuit_or_link_alone() {
    let mut d = Desk::new();
    let (a, b) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    d.tell(Input::Message {
        circuit: a,
        body: vec![1, 99, 3],
        metered: 0,
    });
    assert!(d.destroyed(a) && !d.destroyed(b));
    d.tell(Input::LinkMessage {
        link: PREV,
        body: vec![0; 40],
    });
    assert!(d.out.contains(&Output::CloseLink { link: PREV }));
    assert!(!d.out.contains(&Output::CloseLink { link: NEXT }));
    // A client that talks like a relay is not heard.
    let e = d.client_escrow();
    d.tell(Input::LinkMessage {
        link: CLIENT,
        body: Desk::leg(&e, 1, 10, Vec::new()).encode(),
    });
    assert_eq!(d.balance(&e).cumulative, s(0));
}

#[test]
pub(in crate::sim) fn a_claim_on_somebody_elses_escrow_is_refused() {
    let mut d = Desk::new();
    let (mine, theirs) = (d.client_escrow(), d.prev_escrow());
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&theirs, 1, 10, PRICE)), 0);
    assert_eq!(refused(d.answer(c)).2, RefuseCode::Failed);
    let b = d.circuit(PREV, false);
    d.leg_pay(&mine, 1, 10, b, 1, PRICE);
    assert_eq!(d.balance(&mine).cumulative, s(0));
}

#[test]
pub(in crate::sim) fn an_escrow_in_its_margin_is_not_credited_and_a_silent_ledger_is_no_reason_to_stop() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 10, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 1);
    // An hour without a ledger: half the margin.
    d.wait(3_590_000);
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 20, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 2);
    d.wait(20_000);
    d.pay(c, 3, FIRST, Forward::Last, Some(Desk::claim(&e, 3, 30, PRICE)), UNIT);
    assert_eq!(refused(d.answer(c)).2, RefuseCode::Closing);
    d.ledger();
    d.pay(c, 4, FIRST, Forward::Last, Some(Desk::claim(&e, 4, 40, PRICE)), UNIT);
    assert_eq!(complete(d.answer(c)), 4);
    // The ledger's clock counts as well as ours.
    d.tell(Input::LedgerClosed {
        sequence: 2_000,
        close_time: e.terms.expiry - 7_200,
    });
    d.pay(
        c,
        5,
        FIRST,
        Forward::Last,
        Some(Desk::claim(&e, 5, 50, PRICE)),
        2 * UNIT,
    );
    assert_eq!(refused(d.answer(c)).2, RefuseCode::Closing);
}

#[test]
pub(in crate::sim) fn a_flush_that_failed_in_a_ledger_is_repeated_with_a_higher_k_of_the_same_amount() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    d.tell(Input::FlushNow { escrow: e.id() });
    d.out.clear();
    d.tell(Input::FlushFailed { escrow: e.id(), k: 1 });
    assert!(
        !d.out.iter().any(|o| matches!(o, Output::Flush { .. })),
        "claim 1 is dead"
    );
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 25, PRICE)), 0);
    assert!(
        d.out
            .iter()
            .any(|o| matches!(o, Output::Flush { k: 2, cumulative, .. } if *cumulative == s(25)))
    );
}

#[test]
pub(in crate::sim) fn a_relay_gives_its_payee_a_spare_claim_when_that_begins_to_close() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let own = d.own_escrow();
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, pass(20), Some(Desk::claim(&e, 1, 30, 30)), 0);
    assert_eq!(d.passed_on().len(), 1);
    d.tell_known(own, EscrowState::Closing, 1, 20, 0);
    let spare = d.passed_on();
    assert_eq!(
        (spare[0].k, spare[0].cumulative, spare[0].allocations.len()),
        (2, s(20), 0)
    );
    // Said again, it is not given again; and nothing more is paid by it.
    d.tell_known(own, EscrowState::Closing, 2, 20, 0);
    d.pay(c, 2, FIRST, pass(20), Some(Desk::claim(&e, 2, 60, 30)), 0);
    assert!(d.passed_on().is_empty());
}

#[test]
pub(in crate::sim) fn offers_outside_the_rules_are_declined_and_floods_of_them_too() {
    let mut d = Desk::new();
    let good = d.make_offer();
    let declined = |code| ToOrigin::Declined(Declined { code });
    for (offer, code) in [
        (
            obol_cell::EscrowOffer {
                deposit: s(999),
                ..good
            },
            DeclineCode::OutsideRules,
        ),
        (
            obol_cell::EscrowOffer {
                expiry: good.expiry + 8 * 86_400,
                ..good
            },
            DeclineCode::OutsideRules,
        ),
        (
            obol_cell::EscrowOffer {
                expiry: d.now.secs() + 600,
                ..good
            },
            DeclineCode::OutsideRules,
        ),
        (
            obol_cell::EscrowOffer {
                s0: 1_100 << 32,
                ..good
            },
            DeclineCode::OutsideRules,
        ),
        (
            obol_cell::EscrowOffer {
                s0: good.s0 + 1,
                ..good
            },
            DeclineCode::OutsideRules,
        ),
        (
            obol_cell::EscrowOffer {
                network: obol_cell::NetworkId([0; 32]),
                ..good
            },
            DeclineCode::OtherMoney,
        ),
    ] {
        assert_eq!(d.offer(&offer, false), declined(code));
    }
    let mut accepted = 0;
    for _ in 0..200 {
        let offer = d.make_offer();
        accepted += usize::from(matches!(d.offer(&offer, false), ToOrigin::EscrowAccepted(_)));
    }
    assert!(accepted < 200, "there is a limit a minute");
    d.wait(61_000);
    assert_eq!(
        d.offer(&good, false),
        declined(DeclineCode::NotNow),
        "the newest ledger is too old"
    );
    d.ledger();
    let late = d.make_offer();
    assert!(matches!(d.offer(&late, false), ToOrigin::EscrowAccepted(_)));
}

#[test]
pub(in crate::sim) fn money_for_a_link_that_went_down_is_not_signed_away() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    d.own_escrow();
    let c = d.circuit(CLIENT, true);
    let now = d.now;
    let claim = Some(Desk::claim(&e, 1, 30, 30));
    let pay = ToNode::Pay(obol_cell::Pay {
        n: 1,
        step: FIRST,
        forward: pass(20),
        claim,
    });
    let node = d.node.as_mut().unwrap();
    node.handle(
        now,
        Input::Message {
            circuit: c,
            body: pay.encode(),
            metered: 0,
        },
    );
    node.handle(now, Input::LinkDown { link: NEXT });
    d.tell(Input::Tick);
    assert!(d.passed_on().is_empty());
    assert_eq!(d.node().totals().signed, s(0));
    assert_eq!(d.node().totals().claimed, s(30));
}

#[test]
pub(in crate::sim) fn credit_waits_for_the_journal() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.commits = false;
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 10, PRICE)), 0);
    assert_eq!(d.credit(c), 0);
    assert!(d.answers(c).is_empty());
    d.commit();
    assert_eq!(d.credit(c), UNIT);
    assert_eq!(complete(d.answer(c)), 1);
}

#[test]
pub(in crate::sim) fn a_relay_that_starts_again_never_signs_less() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let own = d.own_escrow();
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, pass(20), Some(Desk::claim(&e, 1, 30, 30)), 0);
    assert_eq!(d.passed_on()[0].cumulative, s(20));
    d.start();
    d.tell_known(own, EscrowState::Open, 1, 20, 0);
    d.sent(NEXT);
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, pass(20), Some(Desk::claim(&e, 2, 60, 30)), 0);
    let pays = d.passed_on();
    assert_eq!((pays[0].k, pays[0].cumulative), (2, s(40)));
}

#[test]
pub(in crate::sim) fn a_clients_crash_at_any_time_loses_no_more_than_the_step_in_force() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], 4 * MIB).unwrap();
    sim.run(9_000);
    sim.crash(Party::Client(0));
    sim.run(30_000);
    sim.open_tunnel(0, &[0, 1, 2], MIB).unwrap();
    sim.run(60_000);
    assert!(!sim.clients[0].unpaid.contains(&Unpaid::Budget));
    assert!(sim.past.last().unwrap().complete > 0);
}
