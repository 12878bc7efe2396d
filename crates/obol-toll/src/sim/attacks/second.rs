//! The attacks of design-review-2.md: 2.1 to 2.9.

use super::*;

// ---- 2.1: a refusal behind hop 1 ----

#[test]
pub(in crate::sim) fn what_a_relay_cannot_pass_on_it_holds_and_never_gives_back_upstream() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, true);
    d.pay(c, 1, FIRST, pass(20), None, 0);
    d.leg_pay(&e, 1, 30, c, 1, 30);
    let told = d.sent(NEXT);
    let id = 50_000 + c.0 as u32;
    assert!(
        told.contains(&LinkMessage::LegRefused {
            circuit: id,
            n: 1,
            distance: 1,
            code: RefuseCode::NoFunds
        }),
        "{told:?}"
    );
    assert_eq!(d.credit(c), 0);
    assert_eq!(d.prev_balance(&e).unallocated, s(0), "it is not the payer's again");
    // Resumed with the same number, nothing new signed: it goes through once there is an escrow.
    d.own_escrow();
    d.pay(c, 1, FIRST, pass(20), None, 0);
    let pays = d.passed_on();
    assert_eq!(
        pays[0].allocations,
        [Allocation {
            circuit: id,
            n: 1,
            amount: s(20)
        }]
    );
    assert_eq!(d.credit(c), UNIT);
    assert_eq!(d.prev_balance(&e).unallocated, s(0));
    // And not a second time.
    d.pay(c, 1, FIRST, pass(20), None, 0);
    assert!(d.passed_on().is_empty());
    assert_eq!(d.credit(c), 0);
}

#[test]
pub(in crate::sim) fn held_money_becomes_credit_by_a_payment_that_forwards_nothing() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, true);
    d.pay(c, 1, FIRST, pass(20), None, 0);
    d.leg_pay(&e, 1, 35, c, 1, 35);
    assert_eq!(d.credit(c), 0);
    d.pay(c, 1, FIRST, pass(0), None, 0);
    assert_eq!(d.credit(c), 3 * UNIT, "35 stroops are three units of 64 KiB");
    d.pay(c, 1, FIRST, pass(0), None, 0);
    assert_eq!(d.credit(c), 0);
    // Only what is left when the circuit ends stays here.
    assert_eq!(d.node().totals().held, s(5));
    d.close(c, 0);
    assert_eq!(d.node().totals().held, s(5));
    assert_eq!(d.prev_balance(&e).unallocated, s(0));
}

#[test]
pub(in crate::sim) fn held_money_at_hop_1_goes_back_to_the_client_when_the_circuit_ends() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, true);
    d.pay(c, 1, FIRST, pass(20), Some(Desk::claim(&e, 1, 30, 30)), 0);
    assert_eq!(d.balance(&e).unallocated, s(0));
    d.close(c, 0);
    assert_eq!(d.balance(&e).unallocated, s(30));
    assert_eq!(d.node().totals().held, s(0));
}

// ---- 2.2: halves pair by n ----

#[test]
pub(in crate::sim) fn a_late_half_never_meets_the_next_payment() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    d.wait(4_001);
    assert_eq!(refused(d.answer(c)), (1, 0, RefuseCode::Failed));
    d.pay(c, 2, FIRST, Forward::Last, None, 0);
    // The money of payment 1 comes now, then that of payment 2.
    d.leg_pay(&e, 1, 10, c, 1, PRICE);
    assert!(d.answers(c).is_empty());
    assert_eq!(d.credit(c), 0);
    d.leg_pay(&e, 2, 20, c, 2, PRICE);
    assert_eq!(complete(d.answer(c)), 2);
    assert_eq!(d.credit(c), UNIT);
    assert_eq!(d.node().totals().held, s(PRICE), "the late half is held");
}

#[test]
pub(in crate::sim) fn either_half_may_come_first() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let (a, b) = (d.circuit(PREV, false), d.circuit(PREV, false));
    d.leg_pay(&e, 1, 10, a, 1, PRICE);
    d.wait(3_999);
    d.pay(a, 1, FIRST, Forward::Last, None, 0);
    assert_eq!(complete(d.answer(a)), 1);
    d.pay(b, 1, FIRST, Forward::Last, None, 0);
    d.wait(3_999);
    d.leg_pay(&e, 2, 20, b, 1, PRICE);
    assert_eq!(complete(d.answer(b)), 1);
}

#[test]
pub(in crate::sim) fn a_refusal_counts_as_the_money_half_in_either_order() {
    let mut d = Desk::new();
    d.prev_escrow();
    let (a, b) = (d.circuit(PREV, true), d.circuit(PREV, false));
    let refuse = |c: crate::ids::CircuitId| LinkMessage::LegRefused {
        circuit: c.0 as u32,
        n: 1,
        distance: 2,
        code: RefuseCode::NoFunds,
    };
    d.link(PREV, &refuse(b));
    d.pay(b, 1, FIRST, Forward::Last, None, 0);
    assert_eq!(refused(d.answer(b)), (1, 2, RefuseCode::NoFunds));
    // Passed on downstream, one hop further.
    d.pay(a, 1, FIRST, pass(20), None, 0);
    d.link(PREV, &refuse(a));
    let id = 50_000 + a.0 as u32;
    let on = LinkMessage::LegRefused {
        circuit: id,
        n: 1,
        distance: 3,
        code: RefuseCode::NoFunds,
    };
    assert!(d.sent(NEXT).contains(&on));
}

// ---- 2.3: hop 1 has a voice ----

#[test]
pub(in crate::sim) fn a_closing_escrow_says_so_and_stores_no_more() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let (a, c) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 1);
    d.ask(a, &close_escrow(e.id(), 1), 0);
    assert_eq!(
        d.answer(a),
        ToOrigin::Closing {
            escrow: e.id(),
            newest_k: 1
        }
    );
    d.wait(1);
    assert!(
        d.out
            .iter()
            .any(|o| matches!(o, Output::Flush { k: 1, cumulative, .. } if *cumulative == s(25)))
    );
    d.pay(c, 2, FIRST, Forward::Last, Some(Desk::claim(&e, 2, 35, PRICE)), 0);
    assert_eq!(refused(d.answer(c)), (2, 0, RefuseCode::Closing));
    let balance = d.balance(&e);
    assert_eq!(
        (balance.state, balance.newest_k, balance.cumulative),
        (EscrowState::Closing, 1, s(25))
    );
    // What is unallocated is drawn by a claim of the same amount, even now.
    d.pay(c, 3, FIRST, Forward::Last, Some(Desk::claim(&e, 3, 25, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 3);
    assert_eq!(d.balance(&e).unallocated, s(5));
}

// ---- 2.4: one signature, many allocations ----

#[test]
pub(in crate::sim) fn one_claim_pays_for_64_circuits() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let circuits: Vec<_> = (0..MAX_ALLOCATIONS).map(|_| d.circuit(PREV, false)).collect();
    for c in &circuits {
        d.pay(*c, 1, FIRST, Forward::Last, None, 0);
    }
    let allocations = circuits
        .iter()
        .map(|c| Allocation {
            circuit: c.0 as u32,
            n: 1,
            amount: s(PRICE),
        })
        .collect();
    let before = *d.keys.verified.borrow();
    d.link(PREV, &Desk::leg(&e, 1, 640, allocations));
    assert_eq!(*d.keys.verified.borrow(), before + 1);
    for c in &circuits {
        assert_eq!(complete(d.answer(*c)), 1);
    }
}

#[test]
pub(in crate::sim) fn payments_that_come_together_leave_under_one_signature_in_parts_of_64() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    d.own_escrow();
    d.commits = false;
    let circuits: Vec<_> = (0..100).map(|_| d.circuit(CLIENT, true)).collect();
    for (i, c) in circuits.iter().enumerate() {
        let k = i as u32 + 1;
        // Handled without asking for outputs in between, as a driver does with a batch.
        let claim = Some(Desk::claim(&e, k, 30 * i64::from(k), 30));
        let pay = ToNode::Pay(obol_cell::Pay {
            n: 1,
            step: FIRST,
            forward: pass(20),
            claim,
        });
        let now = d.now;
        let input = Input::Message {
            circuit: *c,
            body: pay.encode(),
            metered: 0,
        };
        d.node.as_mut().unwrap().handle(now, input);
    }
    d.tell(Input::Tick);
    assert!(d.passed_on().is_empty(), "nothing before it is durable");
    d.commit();
    let pays = d.passed_on();
    assert_eq!(pays.iter().map(|p| p.allocations.len()).collect::<Vec<_>>(), [64, 36]);
    assert_eq!(
        pays.iter().map(|p| (p.k, p.cumulative)).collect::<Vec<_>>(),
        [(1, s(2_000)), (2, s(2_000))]
    );
}

#[test]
pub(in crate::sim) fn two_allocations_for_one_circuit_in_one_message_close_the_link() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    let one = Allocation {
        circuit: c.0 as u32,
        n: 1,
        amount: s(PRICE),
    };
    d.link(PREV, &Desk::leg(&e, 1, 20, vec![one, Allocation { n: 2, ..one }]));
    assert!(d.out.contains(&Output::CloseLink { link: PREV }));
}

#[test]
pub(in crate::sim) fn an_allocation_for_a_circuit_that_is_gone_is_the_payers_balance() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.close(c, 0);
    d.leg_pay(&e, 1, 10, c, 1, PRICE);
    assert!(d.sent(PREV).is_empty(), "without an answer");
    assert_eq!(d.prev_balance(&e).unallocated, s(PRICE));
    let b = d.circuit(PREV, false);
    d.pay(b, 1, FIRST, Forward::Last, None, 0);
    d.leg_pay(&e, 2, 10, b, 1, PRICE);
    assert_eq!(complete(d.answer(b)), 1);
    assert_eq!(d.prev_balance(&e).unallocated, s(0));
}

// ---- 2.5: idle circuits live, floods do not ----

#[test]
pub(in crate::sim) fn an_idle_stream_listens_for_hours() {
    let mut d = Desk::new();
    d.config.initial_credit = 256 * 1024;
    d.start();
    let c = d.circuit(CLIENT, false);
    for id in 0..600 {
        d.ask(
            c,
            &ToNode::Listen {
                id,
                low: LowWater::at_least(1_024),
            },
            0,
        );
        d.wait(30_001);
        assert_eq!(d.answer(c), ToOrigin::Nothing { id });
    }
    assert!(!d.destroyed(c));
}

#[test]
pub(in crate::sim) fn a_flood_of_payment_messages_destroys_its_circuit_alone() {
    let mut d = Desk::new();
    let (a, b) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    for i in 0..17 {
        d.ask(a, &ToNode::QuoteQuery, 0);
        assert_eq!(d.destroyed(a), i == 16);
    }
    d.ask(b, &ToNode::QuoteQuery, 0);
    assert!(!d.destroyed(b));
    // 64 KiB carried are one message more.
    let c = d.circuit(CLIENT, false);
    for i in 0..40u64 {
        d.ask(c, &ToNode::QuoteQuery, (i + 1) * UNIT);
    }
    assert!(!d.destroyed(c));
}

// ---- 2.6: clocks ----

#[test]
pub(in crate::sim) fn the_last_hop_answers_within_six_seconds_whatever_happens() {
    let mut d = Desk::new();
    d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    d.wait(6_000);
    assert_eq!(refused(d.answer(c)).2, RefuseCode::Failed);
    // Also while an escrow is being read.
    let offer = d.make_offer();
    let ToOrigin::EscrowAccepted(a) = d.offer(&offer, false) else {
        panic!()
    };
    let e = d.escrow(&offer, &a);
    let c = d.circuit(CLIENT, false);
    let mut claim = Desk::claim(&e, 1, 10, PRICE);
    claim.opening = Some(e.terms.opening());
    d.pay(c, 1, FIRST, Forward::Last, Some(claim), 0);
    d.wait(6_000);
    assert_eq!(refused(d.answer(c)).2, RefuseCode::Failed);
    d.tell(Input::EscrowRead {
        escrow: e.id(),
        result: Ok(s(1_000)),
    });
    assert!(d.answers(c).is_empty());
    // Nothing of that claim was stored, so nothing is lost: the next one covers it.
    assert_eq!(d.balance(&e).cumulative, s(0));
}

#[test]
pub(in crate::sim) fn a_first_payment_waits_for_its_escrow_to_be_read() {
    let mut d = Desk::new();
    let offer = d.make_offer();
    let ToOrigin::EscrowAccepted(a) = d.offer(&offer, false) else {
        panic!()
    };
    let e = d.escrow(&offer, &a);
    let c = d.circuit(CLIENT, false);
    let mut claim = Desk::claim(&e, 1, 10, PRICE);
    claim.opening = Some(e.terms.opening());
    d.pay(c, 1, FIRST, Forward::Last, Some(claim), 0);
    assert!(d.answers(c).is_empty());
    assert_eq!(d.credit(c), 0, "no credit on an escrow that was not read");
    // Not in the ledger yet; then it is.
    d.tell(Input::EscrowRead {
        escrow: e.id(),
        result: Err(NotBelieved::Absent),
    });
    d.out.clear();
    d.wait(1_500);
    assert!(
        d.out.iter().any(|o| matches!(o, Output::ReadEscrow { .. })),
        "it is looked for again"
    );
    d.tell(Input::EscrowRead {
        escrow: e.id(),
        result: Ok(offer.deposit),
    });
    assert_eq!(complete(d.answer(c)), 1);
    assert_eq!(d.credit(c), UNIT);
}

// ---- 2.7: ceilings and what they are good for ----

#[test]
pub(in crate::sim) fn a_dear_exit_behind_cheap_hops_is_paid() {
    let mut sim = ready(Plan {
        prices: vec![1, 1, 5],
        ..Plan::default()
    });
    sim.open_tunnel(0, &[0, 1, 2], 2 * MIB).unwrap();
    sim.run(60_000);
    assert!(sim.relays[2].durable.earned > 0);
    assert_eq!(sim.past[0].refused, 0);
}

#[test]
pub(in crate::sim) fn an_exit_beyond_its_neighbours_ceiling_is_not_a_reason_to_sign_anything_in_vain() {
    let mut sim = ready(Plan {
        prices: vec![1, 1, 100],
        ..Plan::default()
    });
    sim.open_tunnel(0, &[0, 1, 2], 2 * MIB).unwrap();
    sim.run(60_000);
    let held: i64 = sim
        .relays
        .iter()
        .map(|r| r.node.as_ref().unwrap().totals().held.get())
        .sum();
    assert!(held <= 400, "{held} stroops are stuck");
    assert!(sim.relays[0].durable.earned > 0, "the hops before it are paid");
}

// ---- 2.8: who refused ----

#[test]
pub(in crate::sim) fn the_client_learns_which_hop_refused() {
    for broke in 0..3usize {
        let mut sim = ready(Plan {
            relays: 4,
            prices: vec![10, 5, 20, 5],
            ..Plan::default()
        });
        let t = sim.open_tunnel(0, &[0, 1, 2, 3], 400 * MIB).unwrap();
        sim.run(7_000);
        // This hop's escrow with the next closes between the quote and the payment.
        let ids: Vec<_> = sim.relays[broke].durable.signed.keys().copied().collect();
        let next = sim.relays[broke + 1].id;
        for id in ids
            .into_iter()
            .chain(sim.ledger.accounts.keys().copied().collect::<Vec<_>>())
        {
            let account = &sim.ledger.accounts[&id];
            if account.escrow.terms.payee == next && sim.relays[broke].keys.own.borrow().contains(&id) {
                sim.relays[broke].config.pays_others = false;
                let config = sim.relays[broke].config;
                sim.relays[broke].node.as_mut().unwrap().reconfigure(config);
                sim.tell(broke, Input::Close { escrow: id });
            }
        }
        sim.log.clear();
        for _ in 0..20_000 {
            sim.step();
            if sim.tunnels.get(&t).is_none_or(|t| t.refused > 0) {
                break;
            }
        }
        let told = sim
            .log
            .iter()
            .any(|l| l.contains("Refused") && l.contains(&format!("hop: {}", broke + 1)));
        assert!(told, "hop {} refused: {:#?}", broke + 1, sim.log);
        // The chain goes on up to that hop.
        sim.run(30_000);
        sim.check();
    }
}

// ---- 2.9: hop 1 lies about its LegPay ----

#[test]
pub(in crate::sim) fn a_guard_that_keeps_the_forward_part_is_found_out() {
    let mut sim = ready(Plan::default());
    let (code, distance, books) = (RefuseCode::NoFunds, 1, Books::True);
    sim.liar = Some((0, Lie::Keeps { code, distance, books }));
    for _ in 0..30 {
        sim.open_tunnel(0, &[0, 1, 2], 2 * MIB);
        sim.run(25_000);
        let open: Vec<_> = sim.tunnels.keys().copied().collect();
        for t in open {
            sim.close_tunnel(t, false);
        }
    }
    // Kept: what was to be passed on and never was.
    let kept: i128 = sim.relays[0]
        .durable
        .signed
        .values()
        .map(|(_, c)| i128::from(c.get()))
        .sum();
    let reached: i128 = sim.relays[1].durable.earned;
    assert_eq!(reached, 0, "the liar passed nothing on");
    assert!(kept <= 30 * 10, "{kept} stroops kept");
}

#[test]
pub(in crate::sim) fn a_resumed_payment_waits_for_its_money_again() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    let refusal = LinkMessage::LegRefused {
        circuit: c.0 as u32,
        n: 1,
        distance: 1,
        code: RefuseCode::NoFunds,
    };
    d.link(PREV, &refusal);
    assert_eq!(refused(d.answer(c)), (1, 1, RefuseCode::NoFunds));
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    assert!(d.answers(c).is_empty(), "nothing is held yet");
    d.leg_pay(&e, 1, 10, c, 1, PRICE);
    assert_eq!(complete(d.answer(c)), 1);
    assert_eq!(d.credit(c), UNIT);
}

#[test]
pub(in crate::sim) fn the_clock_of_a_payment_that_is_over_says_nothing_of_the_next() {
    let mut d = Desk::new();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    d.pay(c, 1, FIRST, Forward::Last, None, 0);
    d.leg_pay(&e, 1, 10, c, 1, PRICE);
    assert_eq!(complete(d.answer(c)), 1);
    d.wait(3_900);
    d.pay(c, 2, FIRST, Forward::Last, None, 0);
    d.wait(200);
    assert!(d.answers(c).is_empty(), "its own four seconds are not over");
    d.leg_pay(&e, 2, 20, c, 2, PRICE);
    assert_eq!(complete(d.answer(c)), 2);
}
