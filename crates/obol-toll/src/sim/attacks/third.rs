//! Attacks on what a client believes: of a hop's meter (H7), of hop 1's books, of who refused.

use super::*;
use crate::payer::meter::{CELL, WINDOW};
use crate::sim::world::Tunnel;

// ---- H7: meters against the link ----

const SHORT: u64 = 100_000;

/// Forty short downloads, one after the other, through an exit that claims all that can be believed. Bytes that were bought at
/// it and never carried.
fn bought_for_nothing(counts_links: bool) -> u64 {
    let mut sim = ready(Plan::default());
    sim.counts_links = counts_links;
    sim.liar = Some((2, Lie::Inflates));
    for _ in 0..40 {
        sim.open_tunnel(0, &[0, 1, 2], SHORT).unwrap();
        sim.run(5_000);
    }
    let carried: u64 = sim.past.iter().map(|t| t.carried).sum();
    assert_eq!(sim.past.len(), 40);
    sim.relays[2]
        .durable
        .credit
        .values()
        .sum::<u64>()
        .saturating_sub(carried)
}

#[test]
pub(in crate::sim) fn a_hop_that_uses_up_every_allowance_is_paid_for_one_window_and_not_one_a_circuit() {
    // Two steps a circuit may be unused, as they may at an honest hop (H3).
    let steps = 40 * 2 * UNIT;
    assert!(bought_for_nothing(true) <= WINDOW * CELL + 4 * UNIT + steps);
    assert!(
        bought_for_nothing(false) > 30 * WINDOW * CELL * 7 / 10,
        "without the count it is one a circuit"
    );
}

#[test]
pub(in crate::sim) fn honest_hops_stay_paid_behind_a_link_on_which_another_one_cheated() {
    let mut sim = ready(Plan {
        relays: 4,
        ..Plan::default()
    });
    sim.liar = Some((2, Lie::Inflates));
    for _ in 0..20 {
        sim.open_tunnel(0, &[0, 1, 2], SHORT).unwrap();
        sim.run(5_000);
    }
    sim.clients[0].unpaid.clear();
    sim.open_tunnel(0, &[0, 1, 3], 8 * MIB).unwrap();
    sim.run(60_000);
    assert_eq!(sim.clients[0].unpaid, []);
    let (sold, carried) = (
        sim.relays[3].durable.credit.values().sum::<u64>(),
        sim.past.last().unwrap().carried,
    );
    assert!(sold + 256 * 1024 >= carried, "{sold} of {carried} bytes were paid for");
}

// ---- hop 1 lies about refusals and about its books ----

/// What a circuit cost that nobody proved to have used, in payments.
fn lost(t: &Tunnel) -> i128 {
    let payment = t.allocations.values().max().map_or(1, |a| i128::from(a.get())).max(1);
    (t.signed - t.proven + payment - 1) / payment
}

/// Four circuits through a guard that lies like this; what each lost.
fn with_lying_guard(code: RefuseCode, distance: u8, books: Books) -> Vec<i128> {
    let mut sim = ready(Plan {
        initial: 0,
        ..Plan::default()
    });
    sim.liar = Some((0, Lie::Keeps { code, distance, books }));
    for _ in 0..4 {
        sim.open_tunnel(0, &[0, 1, 2], 4 * MIB);
        sim.run(40_000);
        let open: Vec<_> = sim.tunnels.keys().copied().collect();
        open.into_iter().for_each(|t| sim.close_tunnel(t, false));
    }
    sim.past.iter().map(lost).collect()
}

const CODES: [RefuseCode; 4] = [
    RefuseCode::NoFunds,
    RefuseCode::OverLimit,
    RefuseCode::Failed,
    RefuseCode::Closing,
];

#[test]
pub(in crate::sim) fn a_guard_that_refuses_and_lies_about_its_books_keeps_one_payment_of_a_circuit() {
    for code in CODES {
        for books in Books::ALL {
            let lost = with_lying_guard(code, 1, books);
            assert!(lost.iter().all(|l| *l <= 1), "{code:?}, {books:?}: {lost:?} payments");
        }
    }
}

#[test]
pub(in crate::sim) fn a_guard_that_blames_the_others_as_well_keeps_at_most_one_payment_for_each_of_them() {
    for code in CODES {
        for distance in [0, 2, 255] {
            for books in Books::ALL {
                let lost = with_lying_guard(code, distance, books);
                assert!(
                    lost.iter().all(|l| *l <= 3),
                    "{code:?}, {distance} hops back, {books:?}: {lost:?} payments"
                );
            }
        }
    }
}

#[test]
pub(in crate::sim) fn a_guard_that_refuses_everything_is_not_paid_by_the_next_circuits() {
    let lost = with_lying_guard(RefuseCode::Failed, 1, Books::NothingFree);
    assert!(lost.iter().sum::<i128>() <= 3, "{lost:?}");
}
