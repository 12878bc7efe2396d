//! The attacks of design-review.md (C1 to C3, H1 to H3, H8) and design-review-2.md (2.1 to 2.9), against what was built.

use super::desk::{CLIENT, Desk, NEXT, PREV, PRICE};
use super::scenarios::ready;
use super::world::{Party, Plan};
use super::{Sim, keys, s};
use crate::escrow::{Escrow, NotBelieved};
use crate::keys::PayeeKeys;
use crate::node::{Input, Output};
use crate::payer::Unpaid;
use obol_cell::{
    Allocation, DeclineCode, Declined, EscrowState, EscrowTerms, Forward, LinkMessage, LowWater, MAX_ALLOCATIONS,
    RefuseCode, Step, ToNode, ToOrigin, UNIT,
};

const FIRST: Step = Step::FIRST;
const MIB: u64 = 1 << 20;

fn refused(answer: ToOrigin) -> (u16, u8, RefuseCode) {
    match answer {
        ToOrigin::Refused { n, distance, code } => (n, distance, code),
        other => panic!("{other:?}"),
    }
}

fn complete(answer: ToOrigin) -> u16 {
    match answer {
        ToOrigin::Complete { n, .. } => n,
        other => panic!("{other:?}"),
    }
}

fn pass(amount: i64) -> Forward {
    Forward::Pass(s(amount))
}

// ---- C1: the refund signature is tied to one set of terms ----

#[test]
pub(super) fn an_escrow_offered_under_two_sets_of_terms_has_two_signers_and_two_refunds() {
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
    d.ask(
        c,
        &ToNode::BalanceQuery {
            escrow: offer.escrow,
            opening: Some(opening),
        },
        0,
    );
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
pub(super) fn an_account_that_exists_is_never_accepted_as_an_escrow() {
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
pub(super) fn one_claim_shown_to_two_relays_is_credited_by_one() {
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
pub(super) fn initial_credit_and_promises_are_never_passed_on() {
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
pub(super) fn a_claim_above_the_balance_that_was_read_is_refused() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let c = d.circuit(CLIENT, false);
    let too_much = super::desk::BALANCE + 1;
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, too_much, PRICE)), 0);
    assert_eq!(refused(d.answer(c)), (1, 0, RefuseCode::NoFunds));
    assert_eq!(d.credit(c), 0);
    assert_eq!(d.balance(&e).cumulative, s(0));
}

// ---- C3: the payee is the neighbour on the link, whatever a client says ----

#[test]
pub(super) fn money_goes_to_the_neighbour_that_the_circuit_goes_to_and_opens_nothing() {
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
pub(super) fn a_client_cannot_make_a_relay_pass_on_more_than_its_ceiling() {
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
pub(super) fn what_a_circuit_forwards_beyond_what_it_used_is_bounded_by_growth() {
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
pub(super) fn claims_may_arrive_out_of_order_on_two_circuits_and_both_count() {
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
pub(super) fn a_replayed_claim_is_refused_and_not_credited() {
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
pub(super) fn a_replayed_leg_payment_is_not_credited() {
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
pub(super) fn no_more_is_credited_than_the_claims_cover() {
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
pub(super) fn a_repeated_payment_gets_the_stored_answer_and_no_second_credit() {
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
pub(super) fn too_little_is_held_and_never_credited_in_part() {
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
pub(super) fn a_wrong_signature_credits_nothing_and_the_third_closes_the_link() {
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
pub(super) fn cheap_checks_come_before_signatures() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let before = *d.keys.verified.borrow();
    let c = d.circuit(CLIENT, false);
    for claim in [
        Desk::claim(&e, 0, 10, PRICE),
        Desk::claim(&e, 5_000, 10, PRICE),
        Desk::claim(&e, 1, super::desk::BALANCE + 1, PRICE),
        Desk::claim(&e, 1, 9, PRICE),
    ] {
        let n = d.fresh() as u16;
        d.pay(c, n, FIRST, Forward::Last, Some(claim), 0);
        refused(d.answer(c));
    }
    assert_eq!(*d.keys.verified.borrow(), before, "no signature was looked at");
}

// ---- H3: unused money at hop 1 comes back, what was held too, also after a crash ----

#[test]
pub(super) fn a_restart_returns_what_was_held_for_clients() {
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
pub(super) fn a_short_circuit_gives_back_what_it_did_not_use_at_hop_1() {
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
pub(super) fn a_guard_that_takes_the_money_and_runs_gets_a_few_first_steps_and_then_nothing() {
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

fn signed(sim: &Sim) -> i64 {
    sim.clients[0].signed.values().map(|(_, c)| c.get()).sum()
}

// ---- H8: every Listen is answered once ----

#[test]
pub(super) fn a_cancel_that_crosses_the_request_gets_no_second_answer() {
    let mut d = Desk::new();
    let c = d.circuit(CLIENT, false);
    let low = LowWater::at_least(1_024);
    d.ask(c, &ToNode::Listen { id: 7, low }, 0);
    assert!(matches!(d.answer(c), ToOrigin::PaymentRequest { id: 7, credit: 0, .. }));
    d.ask(c, &ToNode::Cancel { id: 7 }, 0);
    assert!(d.answers(c).is_empty());
}

#[test]
pub(super) fn a_cancel_is_answered_once_and_so_is_a_long_poll() {
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
pub(super) fn a_payment_ends_an_open_listen_without_an_answer_of_its_own() {
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

// ---- 2.1: a refusal behind hop 1 ----

#[test]
pub(super) fn what_a_relay_cannot_pass_on_it_holds_and_never_gives_back_upstream() {
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
pub(super) fn held_money_becomes_credit_by_a_payment_that_forwards_nothing() {
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
pub(super) fn held_money_at_hop_1_goes_back_to_the_client_when_the_circuit_ends() {
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
pub(super) fn a_late_half_never_meets_the_next_payment() {
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
pub(super) fn either_half_may_come_first() {
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
pub(super) fn a_refusal_counts_as_the_money_half_in_either_order() {
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
pub(super) fn a_closing_escrow_says_so_and_stores_no_more() {
    let mut d = Desk::new();
    let e = d.client_escrow();
    let (a, c) = (d.circuit(CLIENT, false), d.circuit(CLIENT, false));
    d.pay(c, 1, FIRST, Forward::Last, Some(Desk::claim(&e, 1, 25, PRICE)), 0);
    assert_eq!(complete(d.answer(c)), 1);
    d.ask(
        a,
        &ToNode::CloseEscrow {
            escrow: e.id(),
            final_k: 1,
        },
        0,
    );
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
pub(super) fn one_claim_pays_for_64_circuits() {
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
pub(super) fn payments_that_come_together_leave_under_one_signature_in_parts_of_64() {
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
pub(super) fn two_allocations_for_one_circuit_in_one_message_close_the_link() {
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
pub(super) fn an_allocation_for_a_circuit_that_is_gone_is_the_payers_balance() {
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
pub(super) fn an_idle_stream_listens_for_hours() {
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
pub(super) fn a_flood_of_payment_messages_destroys_its_circuit_alone() {
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
pub(super) fn the_last_hop_answers_within_six_seconds_whatever_happens() {
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
pub(super) fn a_first_payment_waits_for_its_escrow_to_be_read() {
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
pub(super) fn a_dear_exit_behind_cheap_hops_is_paid() {
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
pub(super) fn an_exit_beyond_its_neighbours_ceiling_is_not_a_reason_to_sign_anything_in_vain() {
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
pub(super) fn the_client_learns_which_hop_refused() {
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
pub(super) fn a_guard_that_keeps_the_forward_part_is_found_out() {
    let mut sim = ready(Plan::default());
    sim.liar = Some(0);
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

// ---- others ----

#[test]
pub(super) fn garbage_closes_its_circuit_or_link_alone() {
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
pub(super) fn a_claim_on_somebody_elses_escrow_is_refused() {
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
pub(super) fn an_escrow_in_its_margin_is_not_credited_and_a_silent_ledger_is_no_reason_to_stop() {
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
pub(super) fn a_flush_that_failed_in_a_ledger_is_repeated_with_a_higher_k_of_the_same_amount() {
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
pub(super) fn a_relay_gives_its_payee_a_spare_claim_when_that_begins_to_close() {
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
pub(super) fn offers_outside_the_rules_are_declined_and_floods_of_them_too() {
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
pub(super) fn money_for_a_link_that_went_down_is_not_signed_away() {
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
pub(super) fn credit_waits_for_the_journal() {
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
pub(super) fn a_relay_that_starts_again_never_signs_less() {
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
pub(super) fn a_clients_crash_at_any_time_loses_no_more_than_the_step_in_force() {
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
