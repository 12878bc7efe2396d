//! The attacks of design-review.md: C1 to C3, H1 to H3, H8.

use super::*;

// ---- C1: the refund signature is tied to one set of terms ----

#[test]
pub(in crate::sim) fn an_escrow_offered_under_two_sets_of_terms_has_two_signers_and_two_refunds() {
    let mut d = Desk::new();
    let offer = d.make_offer();
    let ToOrigin::EscrowAccepted(one) = d.offer(&offer, false) else {
        panic!()
    };
    let mut sooner = offer;
    sooner.expiry -= 3_600;
    let ToOrigin::EscrowAccepted(two) = d.offer(&sooner, false) else {
        panic!()
    };
    assert_ne!(one.signer, two.signer);
    // The refund of the one is worth nothing for the other.
    assert_ne!(keys::refund(&d.escrow(&offer, &two)), one.refund);
    // Opened under the first terms, claimed under the second: the signers on the ledger are not those that belong to these terms.
    let c = d.circuit(CLIENT, false);
    let opening = d.escrow(&sooner, &two).terms.opening();
    d.ask(c, &books_query(offer.escrow, Some(opening)), 0);
    let asked = d.out.iter().find_map(|o| match o {
        Output::ReadEscrow { escrow } => Some(*escrow),
        _ => None,
    });
    assert_eq!(
        asked.map(|e| e.signer),
        Some(two.signer),
        "the ledger is compared with these terms' signer"
    );
    d.tell(Input::EscrowRead {
        escrow: offer.escrow,
        result: Err(NotBelieved::Wrong),
    });
    let ToOrigin::Balance(balance) = d.answer(c) else {
        panic!()
    };
    assert_eq!(balance.state, EscrowState::Unknown);
}

#[test]
pub(in crate::sim) fn an_account_that_exists_is_never_accepted_as_an_escrow() {
    let mut d = Desk::new();
    let offer = d.make_offer();
    assert_eq!(
        d.offer(&offer, true),
        ToOrigin::Declined(Declined {
            code: DeclineCode::Exists
        })
    );
    let known = d.client_escrow();
    let again = obol_cell::EscrowOffer {
        escrow: known.id(),
        ..offer
    };
    assert_eq!(
        d.offer(&again, false),
        ToOrigin::Declined(Declined {
            code: DeclineCode::Exists
        })
    );
}

#[test]
pub(in crate::sim) fn one_claim_shown_to_two_relays_is_credited_by_one() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], MIB).unwrap();
    sim.run(30_000);
    let (id, (k, cumulative, signature)) = sim.relays[0]
        .durable
        .claims
        .iter()
        .next()
        .map(|(i, c)| (*i, *c))
        .unwrap();
    let escrow = sim.ledger.accounts[&id].escrow;
    // Relay 1 has another secret and another identity: its r is not on E.
    let theirs = EscrowTerms {
        payee: sim.relays[1].id,
        ..escrow.terms
    };
    assert_ne!(sim.relays[1].keys.signer(&theirs), escrow.signer);
    let other = Escrow {
        terms: theirs,
        signer: sim.relays[1].keys.signer(&theirs),
    };
    assert!(!sim.relays[1].keys.verify_claim(&other, k, cumulative, &signature));
}

// ---- C2: nothing unsecured is passed on ----

#[test]
pub(in crate::sim) fn initial_credit_and_promises_are_never_passed_on() {
    let mut d = Desk::new();
    d.config.initial_credit = 256 * 1024;
    d.start();
    d.own_escrow();
    // From a relay that never pays: whatever its client asks for, nothing leaves.
    let c = d.circuit(PREV, true);
    d.pay(c, 1, FIRST, pass(20), None, 0);
    d.wait(10_000);
    assert!(d.passed_on().is_empty());
    // From a client without a claim: a protocol error.
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, pass(20), None, 0);
    assert!(d.destroyed(c));
    assert!(d.passed_on().is_empty());
}

#[test]
pub(in crate::sim) fn a_claim_above_the_balance_that_was_read_is_refused() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    let too_much = crate::sim::desk::BALANCE + 1;
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, too_much, PRICE)), 0);
    assert_eq!(refused(d.answer(c)), (1, 0, RefuseCode::NoFunds));
    assert_eq!(d.credit(c), 0);
    assert_eq!(d.balance(&e).cumulative, s(0));
}

// ---- C3: the payee is the neighbour on the link, whatever a client says ----

#[test]
pub(in crate::sim) fn money_goes_to_the_neighbour_that_the_circuit_goes_to_and_opens_nothing() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    d.out.clear();
    // Nowhere to go: not extended; and no escrow with the neighbour.
    for extended in [false, true] {
        let c = d.circuit(CLIENT, extended);
        let (k, cumulative) = if extended { (2, 60) } else { (1, 30) };
        d.pay(c, 1, FIRST, pass(20), Some(Desk::claim(&e, k, cumulative, 30)), 0);
        assert!(d.passed_on().is_empty());
        assert_eq!(d.credit(c), 0);
    }
    d.wait(60_000);
    let opened = d
        .out
        .iter()
        .any(|o| matches!(o, Output::WantEscrow { .. } | Output::OpenEscrow { .. }));
    assert!(!opened, "no circuit causes an opening");
}

// ---- H1: forwarding is bounded ----

#[test]
pub(in crate::sim) fn a_client_cannot_make_a_relay_pass_on_more_than_its_ceiling() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    d.own_escrow();
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, pass(201), Some(Desk::claim(&e, 1, 211, 211)), 0);
    assert!(d.passed_on().is_empty());
    assert_eq!(d.credit(c), 0, "nothing of it is credited");
    // The same at the ceiling itself is served.
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, pass(200), Some(Desk::claim(&e, 2, 421, 210)), 0);
    assert_eq!(d.passed_on().len(), 1);
    assert_eq!(d.credit(c), UNIT);
}

#[test]
pub(in crate::sim) fn what_a_circuit_forwards_beyond_what_it_used_is_bounded_by_growth() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    d.own_escrow();
    let c = d.circuit(CLIENT, true);
    let (mut k, mut cumulative, mut forwarded) = (0, 0, 0);
    // As much as it takes, without using a byte.
    for n in 1..=15u16 {
        k += 1;
        cumulative += 210;
        d.pay(c, n, FIRST, pass(200), Some(Desk::claim(&e, k, cumulative, 210)), 0);
        forwarded += d
            .passed_on()
            .iter()
            .flat_map(|p| &p.allocations)
            .map(|a| a.amount.get())
            .sum::<i64>();
    }
    let most = 200 * (2 + 514_000 / UNIT as i64);
    assert!(forwarded <= most, "{forwarded} stroops left for {most}");
    // And no large step at all.
    let c = d.circuit(CLIENT, true);
    let large = Step::from_power(8).unwrap();
    d.pay(
        c,
        1,
        large,
        pass(200),
        Some(Desk::claim(&e, k + 1, cumulative + 2_760, 2_760)),
        0,
    );
    assert_eq!(d.credit(c), 0);
    assert!(d.passed_on().is_empty());
}

// ---- H2: what exactly is credited ----

#[test]
pub(in crate::sim) fn claims_may_arrive_out_of_order_on_two_circuits_and_both_count() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let (a, b) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    d.pay(b, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 6, 20, PRICE)), 0);
    d.pay(a, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 5, 10, PRICE)), 0);
    assert_eq!((complete(d.answer(a)), complete(d.answer(b))), (1, 1));
    assert_eq!((d.credit(a), d.credit(b)), (UNIT, UNIT));
    let balance = d.balance(&e);
    assert_eq!(
        (balance.newest_k, balance.cumulative, balance.unallocated),
        (6, s(20), s(0))
    );
}

#[test]
pub(in crate::sim) fn a_replayed_claim_is_refused_and_not_credited() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let (a, b) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    d.pay(a, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 100, PRICE)), 0);
    assert_eq!(complete(d.answer(a)), 1);
    // The same k again, on another circuit; there is unallocated balance that it could take.
    d.pay(b, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 100, PRICE)), 0);
    assert_eq!(refused(d.answer(b)).2, RefuseCode::Failed);
    assert_eq!(d.credit(b), 0);
    assert_eq!(d.balance(&e).unallocated, s(90));
}

#[test]
pub(in crate::sim) fn a_replayed_leg_payment_is_not_credited() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.leg_pay(&e, 1, 100, c, 1, PRICE);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    assert_eq!(complete(d.answer(c)), 1);
    let b = d.circuit(PREV, false);
    d.leg_pay(&e, 1, 100, b, 1, PRICE);
    d.pay(b, 1, FIRST, Forward::Last, None, 0);
    assert!(d.answers(b).is_empty());
    d.wait(5_000);
    assert_eq!(refused(d.answer(b)), (1, 0, RefuseCode::Failed));
    assert_eq!(d.prev_balance(&e).unallocated, s(90));
}

#[test]
pub(in crate::sim) fn no_more_is_credited_than_the_claims_cover() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let (a, b) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    d.pay(a, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 10, PRICE)), 0);
    assert_eq!(complete(d.answer(a)), 1);
    d.pay(b, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 10, PRICE)), 0);
    assert_eq!(refused(d.answer(b)).2, RefuseCode::NoFunds);
    assert_eq!(d.credit(b), 0);
}

#[test]
pub(in crate::sim) fn a_repeated_payment_gets_the_stored_answer_and_no_second_credit() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    let claim = Some(Desk::claim(&e, 1, 100, PRICE));
    d.pay(c, 1, FIRST, Forward::Last, claim, 0);
    let first = d.answer(c);
    assert_eq!(d.credit(c), UNIT);
    for _ in 0..3 {
        d.pay(c, 1, FIRST, Forward::Last, claim, 30_000);
        assert_eq!(d.answer(c), first);
        assert_eq!(d.credit(c), 0);
    }
    // With a new claim too: n was paid.
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 100, PRICE)), 30_000);
    assert_eq!(d.answer(c), first);
    assert_eq!(d.credit(c), 0);
}

#[test]
pub(in crate::sim) fn too_little_is_held_and_never_credited_in_part() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    let step = FIRST;
    d.pay(c, 1, step, Forward::Last, None, 0);
    d.leg_pay(&e, 1, 9, c, 1, 9);
    assert_eq!(refused(d.answer(c)), (1, 0, RefuseCode::Failed));
    assert_eq!(d.credit(c), 0);
}

#[test]
pub(in crate::sim) fn a_wrong_signature_credits_nothing_and_the_third_closes_the_link() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    for k in 1..=3 {
        let c = d.circuit(PREV, false);
        let allocations = vec![Allocation {
            circuit: c.0 as u32,
            n: 1,
            amount: s(PRICE),
        }];
        let LinkMessage::LegPay(mut pay) = Desk::leg(&e, k, 100, allocations) else {
            panic!()
        };
        pay.signature.0[0] ^= 1;
        d.link(PREV, &LinkMessage::LegPay(pay));
        assert_eq!(d.out.contains(&Output::CloseLink { link: PREV }), k == 3);
    }
}

#[test]
pub(in crate::sim) fn a_claim_that_is_refused_costs_one_signature_and_tells_nobody_but_its_owner_why() {
    let too_much = crate::sim::desk::BALANCE + 1;
    for (k, cumulative, code) in [
        (0, 10, RefuseCode::Failed),
        (5_000, 10, RefuseCode::Failed),
        (1, too_much, RefuseCode::NoFunds),
        (1, 9, RefuseCode::NoFunds),
    ] {
        for forged in [false, true] {
            let mut d = Desk::new();
            let e = d.client_escrow();
            let before = *d.keys.verified.borrow();
            let c = d.circuit(CLIENT, false);
            let mut claim = Desk::claim(&e, k, cumulative, PRICE);
            claim.signature.0[0] ^= u8::from(forged);
            d.pay(c, 1, FIRST, Forward::Last, Some(claim), 0);
            let told = if forged { RefuseCode::Failed } else { code };
            assert_eq!(refused(d.answer(c)), (1, 0, told));
            assert_eq!(*d.keys.verified.borrow(), before + 1);
            assert_eq!(d.credit(c), 0);
        }
    }
}

// ---- H3: unused money at hop 1 comes back, what was held too, also after a crash ----

#[test]
pub(in crate::sim) fn a_restart_returns_what_was_held_for_clients() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, true);
    // No escrow with the next hop: held.
    d.pay(c, 1, FIRST, pass(20), Some(Desk::claim(&e, 1, 30, 30)), 0);
    assert_eq!(d.balance(&e).unallocated, s(0));
    d.start();
    assert_eq!(d.balance(&e).unallocated, s(30));
    // Once, however often it starts.
    d.start();
    assert_eq!(d.balance(&e).unallocated, s(30));
}

#[test]
pub(in crate::sim) fn a_short_circuit_gives_back_what_it_did_not_use_at_hop_1() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 10, PRICE)), 0);
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 20, PRICE)), 0);
    d.close(c, 70_000);
    assert_eq!(d.balance(&e).unallocated, s(0), "a unit that was begun is used");
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 3, 30, PRICE)), 0);
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 4, 40, PRICE)), 0);
    d.close(c, 60_000);
    assert_eq!(d.balance(&e).unallocated, s(10));
}

#[test]
pub(in crate::sim) fn a_guard_that_takes_the_money_and_runs_gets_a_few_first_steps_and_then_nothing() {
    let mut sim = ready(Plan::default());
    sim.open_tunnel(0, &[0, 1, 2], MIB).unwrap();
    sim.run(30_000);
    let before = signed(&sim);
    for _ in 0..40 {
        let Some(t) = sim.open_tunnel(0, &[0, 1, 2], MIB) else {
            continue;
        };
        // As soon as the money is there, the circuit is gone.
        for _ in 0..4_000 {
            sim.step();
            let paid = sim.tunnels.get(&t).is_some_and(|t| !t.allocations.is_empty());
            if paid || !sim.tunnels.contains_key(&t) {
                break;
            }
        }
        sim.run(15);
        sim.close_tunnel(t, true);
        sim.run(2_000);
    }
    let lost = signed(&sim) - before;
    // Three or four circuits' first step, with its forward part, a day.
    assert!(lost <= 6 * 40, "{lost} stroops for nothing");
}

// ---- H8: every Listen is answered once ----

#[test]
pub(in crate::sim) fn a_cancel_that_crosses_the_request_gets_no_second_answer() {
    let mut d = Desk::new();
    let c = d.circuit(CLIENT, false);
    let low = LowWater::at_least(1_024);
    d.ask(c, &ToNode::Listen { id: 7, low }, 0);
    assert!(matches!(d.answer(c), ToOrigin::PaymentRequest { id: 7, credit: 0, .. }));
    d.ask(c, &ToNode::Cancel { id: 7 }, 0);
    assert!(d.answers(c).is_empty());
}

#[test]
pub(in crate::sim) fn a_cancel_is_answered_once_and_so_is_a_long_poll() {
    let mut d = Desk::new();
    d.config.initial_credit = 256 * 1024;
    d.start();
    let c = d.circuit(CLIENT, false);
    let low = LowWater::at_least(1_024);
    d.ask(c, &ToNode::Listen { id: 1, low }, 0);
    assert!(d.answers(c).is_empty());
    d.ask(c, &ToNode::Cancel { id: 2 }, 0);
    assert!(d.answers(c).is_empty(), "another Listen's Cancel");
    d.ask(c, &ToNode::Cancel { id: 1 }, 0);
    d.ask(c, &ToNode::Cancel { id: 1 }, 0);
    assert_eq!(d.answer(c), ToOrigin::Nothing { id: 1 });
    d.ask(c, &ToNode::Listen { id: 2, low }, 0);
    d.wait(29_999);
    assert!(d.answers(c).is_empty());
    d.wait(2);
    assert_eq!(d.answer(c), ToOrigin::Nothing { id: 2 });
    d.wait(60_000);
    assert!(d.answers(c).is_empty());
    // And by credit, when it falls.
    d.ask(c, &ToNode::Listen { id: 3, low }, 0);
    assert!(d.out.contains(&Output::Watch {
        circuit: c,
        below: 1_024
    }));
    d.tell(Input::CreditLow {
        circuit: c,
        metered: 256 * 1024 - 100,
    });
    assert!(matches!(
        d.answer(c),
        ToOrigin::PaymentRequest { id: 3, credit: 100, .. }
    ));
}

#[test]
pub(in crate::sim) fn a_payment_ends_an_open_listen_without_an_answer_of_its_own() {
    let mut d = Desk::new();
    d.config.initial_credit = 256 * 1024;
    d.start();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.ask(
        c,
        &ToNode::Listen {
            id: 1,
            low: LowWater::at_least(1_024),
        },
        0,
    );
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 10, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 1);
    d.wait(40_000);
    assert!(d.answers(c).is_empty());
}

#[test]
pub(in crate::sim) fn a_claim_that_falls_with_a_rising_number_is_refused() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 5, 100, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 1);
    // Enough is unallocated for either; it is the sum that is wrong for its number.
    for (n, k, cumulative) in [(2, 6, 50), (3, 4, 200)] {
        d.pay(
            c,
            n,
            FIRST,
            Forward::Last,
            Some(Desk::claim(&e, k, cumulative, PRICE)),
            0,
        );
        assert_eq!(refused(d.answer(c)).2, RefuseCode::Failed);
    }
    let balance = d.balance(&e);
    assert_eq!(
        (balance.newest_k, balance.cumulative, balance.unallocated),
        (5, s(100), s(90))
    );
}

#[test]
pub(in crate::sim) fn an_escrow_pays_up_to_its_last_stroop_and_draws_may_overtake_each_other() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    let all = crate::sim::desk::BALANCE;
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 3, all, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 1);
    // The same sum under a lower number: a draw that was overtaken.
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, all, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 2);
}

#[test]
pub(in crate::sim) fn a_client_whose_signatures_are_wrong_three_times_loses_its_link() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    for k in 1..=3 {
        let c = d.circuit(CLIENT, false);
        let mut claim = Desk::claim(&e, k, 10, PRICE);
        claim.signature.0[0] ^= 1;
        d.pay(c, 1, FIRST, Forward::Last, Some(claim), 0);
        assert_eq!(d.credit(c), 0);
        assert_eq!(d.out.contains(&Output::CloseLink { link: CLIENT }), k == 3);
    }
}
