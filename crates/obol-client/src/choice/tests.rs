use proptest::prelude::*;

use super::*;

const CEILINGS: Ceilings = Ceilings { hop: 100, tunnel: 250 };
const NOON: UnixMillis = UnixMillis(1_000 * 86_400_000 + 43_200_000);

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn paid(n: u8) -> Candidate {
    Candidate {
        peer: Some(peer(n)),
        payable: Ok(()),
    }
}

fn plain(n: u8) -> Candidate {
    Candidate {
        peer: Some(peer(n)),
        payable: Err(Refusal::NotPaidHop),
    }
}

fn judge(known: &Known, relays: &[Candidate]) -> (u8, Option<Refusal>) {
    let verdict = known.judge(relays, CEILINGS, NOON);
    assert_eq!(usize::from(verdict.hops), relays.len());
    (verdict.payable, verdict.why)
}

#[test]
fn only_the_hops_before_the_first_unpaid_one_can_be_paid() {
    let known = Known::default();
    let not = Some(Refusal::NotPaidHop);
    assert_eq!(judge(&known, &[paid(1), paid(2), paid(3)]), (3, None));
    assert_eq!(judge(&known, &[paid(1), plain(2), paid(3)]), (1, not));
    assert_eq!(judge(&known, &[plain(1), paid(2), paid(3)]), (0, not));
}

#[test]
fn prices_that_relays_named_are_held_against_both_ceilings_until_the_day_ends() {
    let mut known = Known::default();
    for (n, price) in [(1, 100), (2, 101), (3, 50), (4, 100)] {
        known.quoted(peer(n), price, NOON);
    }
    let dear = |price_per_64_kib| Some(Refusal::TooDear { price_per_64_kib });
    assert_eq!(judge(&known, &[paid(1), paid(3), paid(4)]), (3, None));
    assert_eq!(judge(&known, &[paid(1), paid(2), paid(3)]), (1, dear(101)));
    known.quoted(peer(3), 51, NOON);
    assert_eq!(judge(&known, &[paid(1), paid(3), paid(4)]), (2, dear(100)));
    let tomorrow = UnixMillis(NOON.0 + 43_200_000);
    assert!(known.judge(&[paid(1), paid(2), paid(3)], CEILINGS, tomorrow).is_whole());
}

/// Cheap relays would draw paths to themselves, and be one owner's.
#[test]
fn below_the_ceilings_the_cheaper_tunnel_is_no_better_than_the_first() {
    let mut known = Known::default();
    for (n, price) in [(1, 100), (2, 50), (3, 90), (4, 1), (5, 1)] {
        known.quoted(peer(n), price, NOON);
    }
    for paths in [Paths::Any, Paths::Prefer, Paths::Only] {
        let mut search = Search::new(paths);
        let dear = known.judge(&[paid(1), paid(2), paid(3)], CEILINGS, NOON);
        assert_eq!(search.saw(Some(peer(1)), dear), Next::Take(0));
    }
    // Where the first falls short, the one that can be paid farthest is taken, not the cheapest.
    let mut search = Search::new(Paths::Prefer);
    let cheap = known.judge(&[paid(4), plain(5)], CEILINGS, NOON);
    let dear = known.judge(&[paid(1), paid(2), plain(3)], CEILINGS, NOON);
    assert_eq!(search.saw(Some(peer(4)), cheap), Next::Another);
    assert_eq!(search.saw(Some(peer(1)), dear), Next::Another);
    assert_eq!(search.settle(), Next::Take(1));
}

#[test]
fn a_gap_is_remembered_of_the_pair_and_not_of_the_relay() {
    let mut known = Known::default();
    known.unpaid(Some(peer(1)), peer(2), Refusal::ChainEnds, NOON);
    assert_eq!(judge(&known, &[paid(1), paid(2)]), (1, Some(Refusal::ChainEnds)));
    assert_eq!(judge(&known, &[paid(3), paid(2)]), (2, None));
    let later = NOON.plus(PASSING_MS);
    assert!(known.judge(&[paid(1), paid(2)], CEILINGS, later).is_whole());
}

#[test]
fn what_is_no_fault_of_a_relay_is_not_held_against_it() {
    let mut known = Known::default();
    for why in [Refusal::BudgetSpent, Refusal::NotPaidHop, Refusal::NotPaying] {
        known.unpaid(None, peer(1), why, NOON);
    }
    assert_eq!(judge(&known, &[paid(1)]), (1, None));
    known.unpaid(None, peer(1), Refusal::Unreliable, NOON);
    assert_eq!(judge(&known, &[paid(1)]), (0, Some(Refusal::Unreliable)));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut known = Known::default();
    for n in 0..3 * MOST_REMEMBERED as u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        known.quoted(PeerId(id), 1, NOON);
        known.unpaid(Some(peer(1)), PeerId(id), Refusal::ChainEnds, NOON);
    }
    assert!(known.relays.len() <= MOST_REMEMBERED && known.gaps.len() <= MOST_REMEMBERED);
}

fn verdict(payable: u8) -> Verdict {
    Verdict {
        hops: 3,
        payable,
        why: (payable < 3).then_some(Refusal::NotPaidHop),
    }
}

#[test]
fn a_guard_that_cannot_be_paid_ends_the_search_when_it_comes_again() {
    let mut search = Search::new(Paths::Prefer);
    assert_eq!(search.saw(Some(peer(1)), verdict(0)), Next::Another);
    assert_eq!(search.saw(Some(peer(1)), verdict(0)), Next::Take(0));
    let mut search = Search::new(Paths::Only);
    assert_eq!(search.saw(Some(peer(1)), verdict(0)), Next::Another);
    assert_eq!(search.saw(Some(peer(2)), verdict(0)), Next::Another);
    assert_eq!(search.saw(Some(peer(2)), verdict(0)), Next::Refuse);
}

#[test]
fn circuits_for_nothing_come_from_an_allowance_that_fills_slowly() {
    let mut allowance = Allowance::new(NOON);
    let taken = |allowance: &mut Allowance, at| (0..100).filter(|_| allowance.take(at)).count();
    assert_eq!(taken(&mut allowance, NOON), 32);
    assert_eq!(taken(&mut allowance, NOON.plus(5_000)), 2);
    assert_eq!(taken(&mut allowance, NOON.plus(6_000)), 1);
    assert_eq!(taken(&mut allowance, NOON.plus(10_000_000)), 32);
}

fn mode() -> impl Strategy<Value = Paths> {
    prop_oneof![Just(Paths::Any), Just(Paths::Prefer), Just(Paths::Only)]
}

fn relay() -> impl Strategy<Value = Candidate> {
    (any::<bool>(), 0_u8..6).prop_map(|(obol, n)| if obol { paid(n) } else { plain(n) })
}

proptest! {
    #[test]
    fn every_search_ends_with_the_best_that_it_saw(
        paths in mode(),
        seen in proptest::collection::vec((0_u8..=3, 0_u8..3), MOST_TRIES..=MOST_TRIES),
    ) {
        let mut search = Search::new(paths);
        let mut taken = None;
        for (n, (payable, guard)) in seen.iter().enumerate() {
            match search.saw(Some(peer(*guard)), verdict(*payable)) {
                Next::Another => prop_assert!(*payable < 3 && paths != Paths::Any),
                next => {
                    taken = Some((n, next));
                    break;
                }
            }
        }
        let (last, next) = taken.expect("a search ends");
        let best = seen[..=last].iter().map(|(payable, _)| *payable).max().unwrap();
        match next {
            Next::Take(index) => {
                prop_assert_eq!(seen[index].0, best);
                prop_assert!(paths != Paths::Only || best == 3);
            }
            Next::Refuse => prop_assert!(paths == Paths::Only && best < 3),
            Next::Another => unreachable!(),
        }
    }

    #[test]
    fn what_is_called_payable_is_a_prefix_of_paid_hops_within_the_ceilings(
        relays in proptest::collection::vec(relay(), 0..5),
        prices in proptest::collection::vec((0_u8..6, 1_i64..200), 0..8),
        gaps in proptest::collection::vec((0_u8..6, 0_u8..6), 0..4),
    ) {
        let mut known = Known::default();
        let mut price_of = HashMap::new();
        for (n, price) in prices {
            known.quoted(peer(n), price, NOON);
            price_of.insert(peer(n), price);
        }
        for (one, other) in &gaps {
            known.unpaid(Some(peer(*one)), peer(*other), Refusal::ChainEnds, NOON);
        }
        let verdict = known.judge(&relays, CEILINGS, NOON);
        let prefix = &relays[..verdict.payable.into()];
        let mut sum = 0;
        for relay in prefix {
            prop_assert!(relay.payable.is_ok());
            let price = relay.peer.and_then(|peer| price_of.get(&peer)).copied().unwrap_or(0);
            prop_assert!(price <= CEILINGS.hop);
            sum += price;
        }
        prop_assert!(sum <= CEILINGS.tunnel);
        for pair in prefix.windows(2) {
            let is = |n: u8, relay: &Candidate| relay.peer == Some(peer(n));
            prop_assert!(!gaps.iter().any(|(one, other)| is(*one, &pair[0]) && is(*other, &pair[1])));
        }
        prop_assert_eq!(verdict.why.is_none(), prefix.len() == relays.len());
        // A hop that stops to be a paid one never makes a tunnel better.
        for n in 0..relays.len() {
            let mut worse = relays.clone();
            worse[n].payable = Err(Refusal::NotPaidHop);
            prop_assert!(known.judge(&worse, CEILINGS, NOON).payable <= verdict.payable);
        }
    }
}
