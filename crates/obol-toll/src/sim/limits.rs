//! Limits at one relay: what happens at 80 % of each, at it, and past it.

use super::desk::{BALANCE, CLIENT, Desk, NEXT_PEER, PREV, PRICE, close_escrow};
use super::s;
use crate::escrow::Escrow;
use crate::ids::{AddressKey, LinkId};
use crate::node::{FlushReason, Input, Limited, Output, Report};
use obol_cell::{
    Allocation, DeclineCode, Declined, EscrowState, Forward, LinkMessage, PeerId, RefuseCode, Step, Stroops, ToNode,
    ToOrigin,
};

const FIRST: Step = Step::FIRST;
const HOUR: u64 = 3_600_000;

fn flushes(d: &mut Desk) -> Vec<FlushReason> {
    let flushed = d.out.iter().filter_map(|o| match o {
        Output::Flush { reason, .. } => Some(*reason),
        _ => None,
    });
    let flushed = flushed.collect();
    d.out.retain(|o| !matches!(o, Output::Flush { .. }));
    flushed
}

/// Alarms since the last look: what, how much of it, and whether it began.
fn levels(d: &mut Desk) -> Vec<(Limited, u64, bool)> {
    let levels = d.out.iter().filter_map(|o| match o {
        Output::Report(Report::Level { of, used, alarm, .. }) => Some((*of, *used, *alarm)),
        _ => None,
    });
    let levels = levels.collect();
    d.out.retain(|o| !matches!(o, Output::Report(_)));
    levels
}

/// The client's claim of so much; whether it was taken.
fn claims(d: &mut Desk, e: &Escrow, k: u32, cumulative: i64) -> bool {
    let c = d.circuit(CLIENT, false);
    d.pay(
        c,
        1,
        FIRST,
        Forward::Last,
        Some(Desk::claim(e, k, cumulative, PRICE)),
        0,
    );
    match d.answer(c) {
        ToOrigin::Complete { .. } => true,
        ToOrigin::Refused {
            code: RefuseCode::Closing,
            ..
        } => false,
        other => panic!("{other:?}"),
    }
}

fn settle(d: &mut Desk, e: &Escrow, amount: i64) {
    let (escrow, amount) = (e.id(), s(amount));
    d.tell(Input::Settled { escrow, amount });
}

#[test]
fn a_payer_near_its_limit_is_flushed_at_a_random_time_and_the_alarm_ends_when_it_is_settled() {
    let mut d = Desk::new();
    d.config.limits.unsettled_of_payer = Some(s(100));
    d.config.close_jitter_ms = HOUR;
    d.start();
    let e = d.client_escrow();
    levels(&mut d);
    assert!(claims(&mut d, &e, 1, 79));
    assert_eq!((levels(&mut d), d.balance(&e).state), (vec![], EscrowState::Open));
    assert!(claims(&mut d, &e, 2, 80), "the money is good");
    assert_eq!(levels(&mut d), [(Limited::UnsettledOfPayer, 80, true)]);
    assert_eq!(d.node().alarms().len(), 1);
    assert_eq!(d.balance(&e).state, EscrowState::Closing);
    assert_eq!(flushes(&mut d), [], "not at once, which would show the payment");
    assert!(!claims(&mut d, &e, 3, 90));
    d.wait(HOUR);
    assert_eq!(flushes(&mut d), [FlushReason::Requested]);
    settle(&mut d, &e, 80);
    assert_eq!(levels(&mut d), [(Limited::UnsettledOfPayer, 0, false)]);
    assert!(d.node().alarms().is_empty());
}

#[test]
fn no_claim_makes_more_unsettled_than_a_payer_may_have() {
    let mut d = Desk::new();
    d.config.limits.unsettled_of_payer = Some(s(100));
    d.config.close_jitter_ms = HOUR;
    d.start();
    let (e, at, other) = (d.client_escrow(), d.client_escrow(), d.client_escrow());
    assert!(claims(&mut d, &e, 1, 50));
    // Somebody else who read the escrow on the ledger closes nothing.
    let mut forged = Desk::claim(&e, 2, 101, PRICE);
    forged.signature.0[0] ^= 1;
    let c = d.circuit(CLIENT, false);
    d.pay(c, 1, FIRST, Forward::Last, Some(forged), 0);
    let code = RefuseCode::Failed;
    assert!(matches!(d.answer(c), ToOrigin::Refused { code: c, .. } if c == code));
    assert_eq!(d.balance(&e).state, EscrowState::Open);
    assert!(!claims(&mut d, &e, 2, 101), "past it");
    assert_eq!(d.balance(&e).cumulative, s(50));
    assert_eq!(flushes(&mut d), [FlushReason::Own], "and flushed now");
    assert!(claims(&mut d, &at, 1, 100), "at it");
    assert!(claims(&mut d, &other, 1, 50), "each for itself");
    // All escrows of a relay are one payer's.
    let (a, b) = (d.prev_escrow(), d.prev_escrow());
    let c = d.circuit(PREV, false);
    d.leg_pay(&a, 1, 60, c, 1, PRICE);
    d.leg_pay(&b, 1, 30, c, 2, PRICE);
    assert_eq!(
        (d.prev_balance(&a).cumulative, d.prev_balance(&b).cumulative),
        (s(60), s(30))
    );
    assert_eq!(
        d.prev_balance(&a).state,
        EscrowState::Closing,
        "the larger one, at 80 %"
    );
    d.leg_pay(&b, 2, 41, c, 3, PRICE);
    assert_eq!(d.prev_balance(&b).cumulative, s(30));
}

#[test]
fn what_is_unsettled_of_all_payers_is_limited_and_the_largest_is_flushed_first() {
    let mut d = Desk::new();
    d.config.limits.unsettled = Some(s(100));
    d.config.close_jitter_ms = HOUR;
    d.start();
    let (small, large, new) = (d.client_escrow(), d.client_escrow(), d.client_escrow());
    assert!(claims(&mut d, &small, 1, 30));
    assert!(claims(&mut d, &large, 1, 45));
    assert_eq!(d.balance(&large).state, EscrowState::Open);
    assert!(claims(&mut d, &small, 2, 40));
    assert_eq!(d.balance(&large).state, EscrowState::Closing);
    assert_eq!(d.balance(&small).state, EscrowState::Open);
    assert!(claims(&mut d, &small, 3, 50), "a part is on its way to the ledger");
    assert!(!claims(&mut d, &new, 1, 10), "but no more than the limit");
    let offer = d.make_offer();
    let code = DeclineCode::NotNow;
    assert_eq!(
        d.offer(&offer, false),
        ToOrigin::Declined(Declined { code }),
        "nor new payers"
    );
    settle(&mut d, &large, 45);
    assert!(levels(&mut d).contains(&(Limited::Unsettled, 50, false)));
    let offer = d.make_offer();
    assert!(matches!(d.offer(&offer, false), ToOrigin::EscrowAccepted(_)));
    // After a restart it is counted anew.
    d.start();
    d.ledger();
    let e = d.client_escrow();
    assert!(!claims(&mut d, &e, 1, 51));
    let e = d.client_escrow();
    assert!(claims(&mut d, &e, 1, 50));
}

#[test]
fn draws_are_taken_at_any_limit() {
    let mut d = Desk::new();
    d.config.limits.unsettled = Some(s(20));
    d.config.limits.unsettled_of_payer = Some(s(20));
    d.start();
    let e = d.client_escrow();
    assert!(claims(&mut d, &e, 1, 20));
    assert!(claims(&mut d, &e, 2, 20), "ten were free");
}

// ---- new escrows ----

fn client_at(d: &mut Desk, n: u64, address: [u8; 4]) -> LinkId {
    let link = LinkId(10_000 + n);
    d.tell(Input::LinkUp {
        link,
        peer: None,
        obol: false,
        address: Some(AddressKey::of(address.into())),
    });
    link
}

fn accepts_from(d: &mut Desk, link: LinkId) -> bool {
    let offer = d.make_offer();
    let c = d.circuit(link, false);
    d.ask(c, &ToNode::OfferEscrow(offer), 0);
    d.tell(Input::EscrowChecked {
        escrow: offer.escrow,
        exists: Some(false),
    });
    matches!(d.answer(c), ToOrigin::EscrowAccepted(_))
}

#[test]
fn one_network_of_clients_and_one_peer_cannot_use_up_what_there_is_for_all() {
    let mut d = Desk::new();
    d.config.escrows_per_minute = 5;
    d.config.limits.escrows_per_minute_of_one = Some(2);
    d.start();
    // To the begin of a minute.
    d.wait(60_000 - d.now.0 % 60_000);
    d.ledger();
    let hostile: Vec<LinkId> = (0..20).map(|n| client_at(&mut d, n, [10, 0, 0, n as u8])).collect();
    let accepted = hostile.iter().filter(|link| accepts_from(&mut d, **link)).count();
    assert_eq!(accepted, 4, "offers and readings are counted alike");
    let mut of_peer = 0;
    for _ in 0..6 {
        let offer = d.make_offer();
        d.link(PREV, &LinkMessage::LegOffer(offer));
        d.tell(Input::EscrowChecked {
            escrow: offer.escrow,
            exists: Some(false),
        });
        let sent = d.sent(PREV);
        of_peer += sent.iter().filter(|m| matches!(m, LinkMessage::LegAccepted(_))).count();
    }
    assert_eq!(of_peer, 4);
    let honest = client_at(&mut d, 30, [10, 0, 1, 1]);
    levels(&mut d);
    assert!(accepts_from(&mut d, honest));
    assert!(accepts_from(&mut d, honest));
    let third = client_at(&mut d, 31, [10, 0, 2, 1]);
    assert!(!accepts_from(&mut d, third), "ten in all");
    d.wait(60_000);
    d.ledger();
    assert!(accepts_from(&mut d, third) && accepts_from(&mut d, hostile[0]));
    // This machine's own addresses say nothing of who is behind them.
    let own = client_at(&mut d, 32, [127, 0, 0, 1]);
    assert!((0..8).all(|_| accepts_from(&mut d, own)));
    assert!(!accepts_from(&mut d, own));
    assert!(
        levels(&mut d).contains(&(Limited::NewEscrows, 1, false)),
        "a new minute"
    );
}

// ---- locked ----

fn wanted(d: &mut Desk) -> Vec<(PeerId, Stroops)> {
    let wanted = d.out.iter().filter_map(|o| match o {
        Output::WantEscrow { peer, deposit, .. } => Some((*peer, *deposit)),
        _ => None,
    });
    let wanted = wanted.collect();
    d.out.retain(|o| !matches!(o, Output::WantEscrow { .. }));
    wanted
}

#[test]
fn no_more_is_locked_than_the_limits_with_one_peer_and_with_all() {
    // Both neighbours are wanted at the start.
    for (with_peer, all, expected) in [
        (None, None, vec![BALANCE, BALANCE]),
        (Some(BALANCE - 1), None, vec![BALANCE - 1, BALANCE - 1]),
        (None, Some(BALANCE + 5_000), vec![5_000, BALANCE]),
        // Less than the payee's minimum is left: only one.
        (None, Some(BALANCE + 999), vec![BALANCE]),
        (Some(999), None, vec![]),
    ] {
        let mut d = Desk::new();
        d.config.limits.locked_with_peer = with_peer.map(s);
        d.config.limits.locked = all.map(s);
        d.start();
        let mut deposits: Vec<i64> = wanted(&mut d).iter().map(|(_, deposit)| deposit.get()).collect();
        deposits.sort_unstable();
        assert_eq!(deposits, expected, "{with_peer:?}, {all:?}");
        if all.is_some() {
            assert!(d.node().alarms().contains(&Limited::Locked));
        }
    }
}

#[test]
fn what_ended_is_not_locked_any_more() {
    let mut d = Desk::new();
    d.config.limits.locked_with_peer = Some(s(BALANCE));
    d.start();
    let own = d.own_escrow();
    wanted(&mut d);
    d.tell(Input::Close { escrow: own });
    d.wait(60_000);
    assert_eq!(wanted(&mut d), [], "all that may be is locked");
    d.tell(Input::EscrowEnded {
        escrow: own,
        paid: s(0),
    });
    d.wait(60_000);
    assert_eq!(wanted(&mut d), [(NEXT_PEER, s(BALANCE))]);
}

#[test]
fn nothing_is_opened_that_the_capital_account_cannot_pay() {
    for (asset, openings, expected) in [
        (10 * BALANCE, 10, vec![BALANCE, BALANCE]),
        (BALANCE + 2_000, 10, vec![2_000, BALANCE]),
        (10 * BALANCE, 1, vec![BALANCE]),
        (10 * BALANCE, 0, vec![]),
    ] {
        let mut d = Desk::new();
        d.config.opening_jitter_ms = 1_000;
        d.start();
        d.tell(Input::Capital {
            asset: s(asset),
            openings,
        });
        d.out.clear();
        d.wait(1_001);
        let mut deposits: Vec<i64> = wanted(&mut d).iter().map(|(_, deposit)| deposit.get()).collect();
        deposits.sort_unstable();
        assert_eq!(deposits, expected, "{asset}, {openings}");
    }
}

#[test]
fn lumens_that_run_low_raise_an_alarm_once() {
    let mut d = Desk::new();
    let need = s(100);
    for (have, expected) in [
        (126, vec![]),
        (125, vec![(Limited::PayeeLumens, 100, true)]),
        (50, vec![]),
        (130, vec![]),
        (143, vec![(Limited::PayeeLumens, 100, false)]),
    ] {
        let have = s(have);
        d.tell(Input::PayeeLumens { have, need });
        assert_eq!(levels(&mut d), expected, "{have}");
    }
    d.tell(Input::Capital {
        asset: s(1),
        openings: 0,
    });
    assert_eq!(
        d.node().alarms().into_iter().collect::<Vec<_>>(),
        [Limited::PayerLumens]
    );
}

#[test]
fn an_alarm_names_nobody() {
    let mut d = Desk::new();
    d.config.limits.unsettled_of_payer = Some(s(10));
    d.start();
    let e = d.prev_escrow();
    let c = d.circuit(PREV, false);
    let allocations = vec![Allocation {
        circuit: c.0 as u32,
        n: 1,
        amount: s(PRICE),
    }];
    d.link(PREV, &Desk::leg(&e, 1, 10, allocations));
    let said: Vec<String> = d
        .out
        .iter()
        .filter(|o| matches!(o, Output::Report(Report::Level { .. })))
        .map(|o| format!("{o:?}"))
        .collect();
    assert_eq!(said.len(), 1);
    assert!(!said[0].contains("PeerId") && !said[0].contains("EscrowId"), "{said:?}");
}

// ---- a flush that fails ----

#[test]
fn a_claim_that_fails_in_a_ledger_leaves_another_one_whenever_that_came() {
    // The same amount at a higher number: before the flush, after it, and after its failure.
    for (before, after, failed) in [(true, false, false), (false, true, false), (false, false, true)] {
        for restart in [false, true] {
            let mut d = Desk::new();
            d.config.close_jitter_ms = HOUR;
            d.start();
            let e = d.client_escrow();
            let spare = |d: &mut Desk| {
                let c = d.circuit(CLIENT, false);
                let claim = Some(Desk::claim(&e, 2, 25, 0));
                // What a client sends that wants nothing for it: it has no answer.
                d.pay(c, 1, FIRST, Forward::Pass(s(0)), claim, 0);
                assert_eq!((d.answers(c), d.credit(c)), (vec![], 0));
            };
            assert!(claims(&mut d, &e, 1, 25));
            let c = d.circuit(CLIENT, false);
            let (escrow, final_k) = (e.id(), 1);
            d.ask(c, &close_escrow(escrow, final_k), 0);
            if before {
                spare(&mut d);
            }
            d.wait(HOUR);
            let published = |d: &mut Desk| {
                let flushed = d.out.iter().filter_map(|o| match o {
                    Output::Flush { k, cumulative, .. } => Some((*k, cumulative.get())),
                    _ => None,
                });
                let flushed = flushed.collect::<Vec<_>>();
                d.out.retain(|o| !matches!(o, Output::Flush { .. }));
                flushed
            };
            assert_eq!(published(&mut d), [(1, 25)]);
            if after {
                spare(&mut d);
            }
            if restart {
                d.facts = d.node().snapshot().expect("settled");
                d.start();
                assert_eq!(published(&mut d), [(1, 25)], "repeated");
            }
            d.tell(Input::FlushFailed { escrow, k: 1 });
            if failed {
                assert_eq!(published(&mut d), [], "its number is used");
                spare(&mut d);
            }
            assert_eq!(published(&mut d), [(2, 25)]);
        }
    }
}
