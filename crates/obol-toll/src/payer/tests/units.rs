//! The parts of the payer on their own: a guard's list of escrows, a tunnel's pace and marks.

use super::*;
use crate::escrow::outgoing::Phase as Life;
use crate::payer::tunnel::{Rate, Tunnel};
use obol_cell::EscrowTerms;

fn guard(ids: &[u8]) -> Guard {
    let mut guard = Guard::default();
    let mut jitter = Jitter::new([1; 32]);
    for id in ids {
        let offer = EscrowOffer {
            escrow: EscrowId([*id; 32]),
            network: NETWORK,
            asset: ASSET,
            s0: 1 << 32,
            expiry: START.secs() + 86_400,
            deposit: s(1_000),
        };
        let terms = EscrowTerms::new(&offer, PeerId([1; 32]), AccountId([6; 32]), s(10));
        let accepted = OutFact::Accepted {
            escrow: Escrow {
                terms,
                signer: AccountId([4; 32]),
            },
            deposit: s(1_000),
            refund: Signature([1; 64]),
            margin: 7_200,
            payee: PeerId([1; 32]),
            since: START.secs(),
        };
        guard.apply(&accepted, &mut jitter);
        let balance = s(1_000);
        let escrow = offer.escrow;
        guard.apply(&OutFact::Opened { escrow, balance }, &mut jitter);
        guard.get_mut(escrow).unwrap().books.known = true;
    }
    guard
}

fn id(n: u8) -> EscrowId {
    EscrowId([n; 32])
}

#[test]
fn an_older_escrow_is_drawn_down_first_if_its_books_are_certain_and_cover_it() {
    let with = |change: &dyn Fn(&mut Guard)| {
        let mut g = guard(&[1, 2]);
        let old = g.get_mut(id(1)).unwrap();
        old.books.reserve(s(100));
        let claim = old.books.next_claim();
        old.books.signed(claim);
        old.books.unreserve(s(50));
        change(&mut g);
        g
    };
    let choose = |g: &Guard, amount| g.choose(Some(id(2)), true, s(amount), START);
    assert_eq!(choose(&with(&|_| {}), 50), Some(id(1)));
    assert_eq!(choose(&with(&|_| {}), 51), Some(id(2)));
    assert_eq!(
        choose(&with(&|g| g.get_mut(id(1)).unwrap().stale = true), 50),
        Some(id(2))
    );
    assert_eq!(
        choose(&with(&|g| g.get_mut(id(1)).unwrap().books.known = false), 50),
        Some(id(2))
    );
    let used_up = with(&|g| g.get_mut(id(1)).unwrap().books.k = u32::MAX);
    assert_eq!(choose(&used_up, 50), Some(id(2)));
    // The newest is not "older", whatever is unallocated of it.
    let mut only = guard(&[2]);
    only.get_mut(id(2)).unwrap().books.cumulative = s(100);
    assert_eq!(choose(&only, 50), Some(id(2)));
}

#[test]
fn a_tunnel_stays_with_its_escrow_while_that_is_good_and_it_may() {
    let g = guard(&[1, 2]);
    assert_eq!(g.choose(Some(id(1)), true, s(50), START), Some(id(1)));
    assert_eq!(g.choose(Some(id(1)), false, s(50), START), Some(id(2)));
    let mut g = guard(&[1, 2]);
    g.get_mut(id(1)).unwrap().books.reserve(s(960));
    assert_eq!(
        g.choose(Some(id(1)), true, s(50), START),
        Some(id(2)),
        "not enough is left of it"
    );
    assert_eq!(g.choose(Some(id(1)), true, s(1_001), START), None);
}

#[test]
fn another_escrow_is_needed_when_there_is_none_when_its_time_comes_and_below_a_quarter() {
    assert!(Guard::default().needs_another(START));
    let mut g = guard(&[1]);
    assert!(!g.needs_another(START));
    g.get_mut(id(1)).unwrap().books.reserve(s(750));
    assert!(!g.needs_another(START));
    g.get_mut(id(1)).unwrap().books.reserve(s(1));
    assert!(g.needs_another(START));
    let late = UnixMillis::from_secs(START.secs() + 86_400 - 7_200 - 3_600);
    assert!(guard(&[1]).needs_another(late));
    // While one is being opened, or beside an old one that is closing.
    let mut g = guard(&[1, 2]);
    g.get_mut(id(2)).unwrap().books.phase = Life::Opening;
    assert!(!g.needs_another(late));
    g.get_mut(id(2)).unwrap().books.phase = Life::Closing;
    g.get_mut(id(1)).unwrap().books.phase = Life::Ended;
    assert!(g.needs_another(START));
}

#[test]
fn an_escrow_that_was_never_opened_is_forgotten_and_the_others_are_not() {
    let mut g = guard(&[1, 2]);
    g.apply(&OutFact::Abandoned { escrow: id(2) }, &mut Jitter::new([1; 32]));
    assert_eq!((g.get(id(2)).is_none(), g.get(id(1)).is_some()), (true, true));
}

#[test]
fn the_pace_is_that_of_the_last_moments() {
    let mut rate = Rate::default();
    rate.add(0, START);
    rate.add(100_000, START.plus(100));
    assert_eq!(rate.per_second(), 0, "too short to tell");
    rate.add(150_000, START.plus(250));
    assert_eq!(
        rate.per_second(),
        500_000,
        "a quarter of a second: half of it is the pace before, which was none"
    );
    rate.add(250_000, START.plus(500));
    assert_eq!(rate.per_second(), 750_000);
    // Two seconds are still one window; after more than that what was before says nothing.
    rate.add(500_000, START.plus(2_500));
    assert_eq!(rate.per_second(), (750_000 + 250_000) / 2);
    rate.add(2_001, START.plus(4_501));
    assert_eq!(rate.per_second(), 1_000);
}

fn tunnel() -> Tunnel {
    Tunnel::new(Vec::new(), START)
}

#[test]
fn a_tunnels_own_count_has_5_percent_for_flow_control_and_what_no_stream_shows() {
    let mut t = tunnel();
    t.meter.add(2_000);
    let quiet = 20 * meter::CELL;
    // Low while what was bought does not exceed the count by a quarter of the first step.
    let counted = 2_100 * meter::CELL + quiet;
    t.bought = counted + UNIT / 4;
    assert!(!t.is_low_by_count());
    t.bought -= 1;
    assert!(t.is_low_by_count());
    // Each payment is six cells more.
    t.growth.count = 2;
    t.bought = counted + 12 * meter::CELL + UNIT / 4;
    assert!(!t.is_low_by_count());
    t.bought -= 1;
    assert!(t.is_low_by_count() && t.is_low());
    t.bought += 1;
    assert!(!t.is_low());
}

#[test]
fn paid_beyond_the_count_is_more_than_a_tenth_and_the_set_up_and_two_steps() {
    let mut t = tunnel();
    t.meter.add(2_000);
    t.growth.book(Step::FIRST);
    let explained = 2_000 * meter::CELL + 2 * (100 * meter::CELL) + 26 * meter::CELL + meter::SET_UP * meter::CELL;
    t.bought = explained + 2 * UNIT;
    assert!(!t.paid_beyond_count());
    t.bought += 1;
    assert!(t.paid_beyond_count());
}

#[test]
fn what_the_last_hop_told_counts_until_traffic_says_more() {
    let mut t = tunnel();
    t.meter.add(1_000);
    assert!(!t.told(1_050 * meter::CELL, START));
    let quiet = 20 * meter::CELL;
    assert_eq!(t.used(), 1_050 * meter::CELL + quiet);
    t.meter.add(100);
    assert_eq!(t.used(), 1_155 * meter::CELL + quiet);
    // As much as can be believed is believed, and not a byte more.
    let most = t.meter.believable() + quiet;
    assert!(!t.told(most, START));
    assert!(!t.doubt_stands(START.plus(meter::ARRIVAL_MS)));
    assert!(!t.told(most + 1, START));
    assert!(!t.doubt_stands(START.plus(meter::ARRIVAL_MS - 1)));
    assert!(t.doubt_stands(START.plus(meter::ARRIVAL_MS)));
    let mut later = tunnel();
    later.meter.add(1_101);
    later.doubted = t.doubted;
    assert!(!later.doubt_stands(START.plus(meter::ARRIVAL_MS)), "it has arrived");
    assert!(!t.told(most + meter::LEAD * meter::CELL, START));
    assert_eq!(t.used(), most);
    assert!(t.told(most + meter::LEAD * meter::CELL + 1, START));
}

#[test]
fn a_listen_is_worth_its_cells_after_traffic_and_while_two_seconds_of_credit_are_left() {
    let mut t = tunnel();
    t.bought = 1 << 20;
    assert!(t.should_listen());
    t.listened_at = Some(t.meter.floor());
    assert!(!t.should_listen(), "no traffic since the last one");
    t.meter.add(1);
    assert!(t.should_listen());
    let credit = t.credit();
    t.rate.add(0, START);
    t.rate.add(credit, START.plus(1_000));
    assert_eq!(t.rate.per_second(), credit / 2);
    assert_eq!(t.should_listen(), 2 * (credit / 2) < credit);
    t.rate.add(2 * credit, START.plus(2_000));
    assert!(!t.should_listen());
    // Its mark is a quarter of the own low water.
    let mut t = tunnel();
    t.growth.book(Step::from_power(6).unwrap());
    assert_eq!(
        t.listen_mark(),
        obol_cell::LowWater::at_least(t.low_water(t.next_step()) / 4)
    );
    assert!(t.low_water(t.next_step()) >= t.next_step().bytes() / 4);
}
