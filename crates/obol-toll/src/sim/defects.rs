//! Defects put in on purpose, each caught by a test (`crate::defects`).
//!
//! For every defect the tests named with it are run twice: as they are they pass, with the defect in at least one fails.

use super::faults::storm;
use super::{Faults, Plan, attacks};
use crate::defects::{Defect, with};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Test = fn();

/// Which of the tests fail with the defect in.
fn caught_by(defect: Defect, tests: &[(&'static str, Test)]) -> Vec<&'static str> {
    for (name, test) in tests {
        assert!(
            catch_unwind(AssertUnwindSafe(test)).is_ok(),
            "{name} fails without any defect"
        );
    }
    let fails = |test: &Test| with(defect, || catch_unwind(AssertUnwindSafe(test)).is_err());
    tests
        .iter()
        .filter(|(_, test)| fails(test))
        .map(|(name, _)| *name)
        .collect()
}

macro_rules! tests {
    ($($test:path),* $(,)?) => { &[$((stringify!($test), $test as Test)),*] };
}

/// A bad day in the simulation, by itself.
fn a_bad_day() {
    storm(
        Plan {
            seed: 62,
            relays: 5,
            clients: 2,
            hops: 3,
            deposit: 50_000_000,
            faults: Faults::ALL,
            ..Plan::default()
        },
        2,
    );
}

/// Parties crash all the time.
fn a_day_of_crashes() {
    let faults = Faults {
        crash: 400,
        ..Faults::NONE
    };
    storm(
        Plan {
            seed: 9,
            relays: 4,
            clients: 2,
            deposit: 50_000_000,
            faults,
            ..Plan::default()
        },
        2,
    );
}

fn all_caught(defect: Defect, tests: &[(&'static str, Test)]) {
    let caught = caught_by(defect, tests);
    assert_eq!(caught.len(), tests.len(), "{defect:?} is caught by {caught:?} only");
}

#[test]
fn acting_before_facts_are_durable_is_caught() {
    all_caught(
        Defect::ActBeforePersist,
        tests![a_bad_day, attacks::credit_waits_for_the_journal],
    );
}

#[test]
fn taking_a_claim_twice_is_caught() {
    all_caught(
        Defect::NoReplayBitmap,
        tests![
            attacks::a_replayed_claim_is_refused_and_not_credited,
            attacks::a_replayed_leg_payment_is_not_credited
        ],
    );
}

#[test]
fn passing_on_more_than_came_in_is_caught() {
    all_caught(
        Defect::ForwardTooMuch,
        tests![a_bad_day, attacks::a_relay_that_starts_again_never_signs_less],
    );
}

#[test]
fn signing_less_than_before_is_caught() {
    all_caught(
        Defect::SignLess,
        tests![a_day_of_crashes, attacks::a_relay_that_starts_again_never_signs_less],
    );
}

#[test]
fn crediting_a_repeated_payment_is_caught() {
    all_caught(
        Defect::CreditTwice,
        tests![
            attacks::a_repeated_payment_gets_the_stored_answer_and_no_second_credit,
            a_bad_day
        ],
    );
}

#[test]
fn selling_any_step_at_any_time_is_caught() {
    all_caught(
        Defect::NoGrowth,
        tests![attacks::what_a_circuit_forwards_beyond_what_it_used_is_bounded_by_growth],
    );
}

#[test]
fn giving_refused_money_back_upstream_is_caught() {
    all_caught(
        Defect::ReturnUpstream,
        tests![attacks::what_a_relay_cannot_pass_on_it_holds_and_never_gives_back_upstream],
    );
}

#[test]
fn drawing_above_what_the_claims_cover_is_caught() {
    all_caught(
        Defect::DrawAboveBalance,
        tests![attacks::no_more_is_credited_than_the_claims_cover],
    );
}

#[test]
fn forgetting_held_money_at_a_restart_is_caught() {
    all_caught(
        Defect::ForgetHeld,
        tests![attacks::a_restart_returns_what_was_held_for_clients],
    );
}

#[test]
fn taking_more_money_on_a_closing_escrow_is_caught() {
    all_caught(
        Defect::CreditWhileClosing,
        tests![attacks::a_closing_escrow_says_so_and_stores_no_more],
    );
}

#[test]
fn crediting_too_little_in_part_is_caught() {
    all_caught(
        Defect::CreditPart,
        tests![attacks::too_little_is_held_and_never_credited_in_part],
    );
}

#[test]
fn believing_meters_whatever_the_link_carried_is_caught() {
    all_caught(
        Defect::NoLinkBound,
        tests![attacks::a_hop_that_uses_up_every_allowance_is_paid_for_one_window_and_not_one_a_circuit],
    );
}

#[test]
fn paying_again_for_what_was_refused_is_caught() {
    all_caught(
        Defect::PayAgain,
        tests![attacks::a_guard_that_refuses_and_lies_about_its_books_keeps_one_payment_of_a_circuit],
    );
}

#[test]
fn every_defect_is_put_in_somewhere_and_off_by_default() {
    use crate::defects::on;
    let all = [
        Defect::ActBeforePersist,
        Defect::NoReplayBitmap,
        Defect::ForwardTooMuch,
        Defect::SignLess,
        Defect::CreditTwice,
        Defect::NoGrowth,
        Defect::ReturnUpstream,
        Defect::NoCeilings,
        Defect::DrawAboveBalance,
        Defect::ForgetHeld,
        Defect::CreditWhileClosing,
        Defect::CreditPart,
        Defect::NoLinkBound,
        Defect::PayAgain,
    ];
    for defect in all {
        assert!(!on(defect));
        with(defect, || assert!(on(defect)));
        assert!(!on(defect));
    }
}
