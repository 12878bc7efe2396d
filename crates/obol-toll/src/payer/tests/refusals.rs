//! Payments that are refused.

use super::*;

#[test]
fn a_refusal_behind_hop_1_is_resumed_there_with_the_same_number_and_no_new_claim() {
    let (mut desk, first) = Desk::paying(&[100, 50, 200]);
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 1,
        code: RefuseCode::Failed,
    });
    let again = desk.payment(2);
    assert_eq!(again[0], first[1]);
    assert_eq!(again[1], first[2]);
    assert_eq!(desk.payer.signed(E), Some((1, s(352))), "nothing new is signed");
    desk.complete(1, 0);
    assert!(desk.reports.iter().any(|r| matches!(r, Report::Paid { n: 1, .. })));
}

#[test]
fn a_hop_without_money_for_the_next_becomes_the_last_and_turns_what_it_holds_into_credit() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 1,
        code: RefuseCode::NoFunds,
    });
    let Output::Send { hop, body, .. } = &desk.out[0] else {
        panic!("{:?}", desk.out)
    };
    let Ok(ToNode::Pay(pay)) = ToNode::decode(body) else {
        panic!()
    };
    assert_eq!((*hop, pay.n, pay.forward), (2, 1, Forward::Pass(Stroops::ZERO)));
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 2
    }));
    assert_eq!(desk.payer.signed(E), Some((1, s(352))));
}

#[test]
fn after_a_refusal_by_hop_1_its_books_decide_whether_the_allocation_is_sent_again() {
    for (stored, allocation) in [(true, 0), (false, 352)] {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        desk.answer(ToOrigin::Refused {
            n: 1,
            distance: 2,
            code: RefuseCode::Failed,
        });
        let (hop, question) = desk.asked();
        assert_eq!(hop, 1);
        assert!(matches!(question, ToNode::BalanceQuery { .. }), "{question:?}");
        // Either hop 1 stored the claim and holds the allocation, or nothing arrived there.
        if stored {
            desk.balance(1, 352, 0)
        } else {
            desk.balance(0, 0, 0)
        }
        let claim = desk.payment(1)[0].claim.unwrap();
        assert_eq!(
            (claim.k, claim.cumulative, claim.allocation),
            (2, s(352), s(allocation))
        );
    }
}

#[test]
fn a_payment_that_hop_1_refuses_for_good_is_the_last_on_its_circuit() {
    for code in [
        RefuseCode::Failed,
        RefuseCode::OverLimit,
        RefuseCode::NoFunds,
        RefuseCode::Closing,
    ] {
        // Whether it says that it holds the money, or that nothing ever came.
        for (k, cumulative) in [(1, 352), (0, 0)] {
            let (mut desk, _) = Desk::paying(&[100, 50, 200]);
            for attempt in 1..=3 {
                desk.answer(ToOrigin::Refused {
                    n: 1,
                    distance: 2,
                    code,
                });
                if attempt == 3 {
                    break;
                }
                desk.now = desk.now.plus(2_000);
                desk.say(Input::Tick);
                let (hop, question) = desk.asked();
                assert!(
                    matches!((hop, question), (1, ToNode::BalanceQuery { .. })),
                    "{question:?}"
                );
                desk.balance(k, cumulative, 0);
                // An escrow that is closing is followed by another; the payment stays with this one.
                desk.out.retain(|o| !matches!(o, Output::WantEscrow { .. }));
                let claim = desk.payment(1)[0].claim.unwrap();
                assert_eq!(claim.cumulative, s(352), "nothing new is signed");
                assert_eq!(claim.k, attempt + 1);
            }
            assert!(desk.out.contains(&Output::Retire { tunnel: T }));
            assert!(desk.reports.contains(&Report::Chain {
                tunnel: T,
                paid_hops: 0
            }));
            desk.out.clear();
            desk.carry(10 << 20);
            desk.say(Input::Tick);
            assert_eq!(desk.out, [], "nothing more is said or paid on it");
            assert_eq!(desk.payer.signed(E).unwrap().1, s(352));
        }
    }
}

#[test]
fn the_last_hop_refusing_for_good_ends_the_chain_before_it() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    for attempt in 1..=3 {
        desk.answer(ToOrigin::Refused {
            n: 1,
            distance: 0,
            code: RefuseCode::Failed,
        });
        if attempt < 3 {
            desk.now = desk.now.plus(2_000);
            desk.say(Input::Tick);
            assert_eq!(desk.payment(3).len(), 1);
        }
    }
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 2
    }));
    assert!(desk.unpaid().contains(&(3, Unpaid::ChainEnds)));
}

#[test]
fn failed_by_a_later_hop_is_no_reason_to_believe_that_an_earlier_one_passed_the_money_on() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    for (distance, resumed_at) in [(1, 2), (0, 2)] {
        desk.answer(ToOrigin::Refused {
            n: 1,
            distance,
            code: RefuseCode::Failed,
        });
        desk.now = desk.now.plus(2_000);
        desk.say(Input::Tick);
        desk.payment(resumed_at);
    }
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 0,
        code: RefuseCode::Failed,
    });
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 2
    }));
    let converted = desk.out.iter().any(|o| {
        matches!(o, Output::Send { hop: 2, body, .. } if matches!(
            ToNode::decode(body),
            Ok(ToNode::Pay(Pay { n: 1, forward: Forward::Pass(Stroops::ZERO), .. }))
        ))
    });
    assert!(converted, "{:?}", desk.out);
}

#[test]
fn a_claim_that_hop_1_never_took_may_still_be_covered_by_new_money_up_to_its_amount() {
    let (mut desk, pays) = Desk::paying(&[100]);
    desk.complete(pays[0].n, 0);
    // 90 of the first circuit came back, says the guard, and says later that it was 40.
    desk.say(Input::TunnelClosed {
        tunnel: T,
        why: CloseReason::Unused,
    });
    desk.out.clear();
    desk.open();
    desk.quote();
    desk.asked();
    let (k, signed) = desk.payer.signed(E).unwrap();
    desk.balance(k, signed.get(), 90);
    let claim = desk.payment(1)[0].claim.unwrap();
    assert_eq!((claim.cumulative.get(), claim.allocation), (signed.get() + 10, s(100)));
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 0,
        code: RefuseCode::NoFunds,
    });
    desk.now = desk.now.plus(1_000);
    desk.say(Input::Tick);
    desk.asked();
    desk.balance(k, signed.get(), 40);
    let claim = desk.payment(1)[0].claim.unwrap();
    assert_eq!((claim.cumulative.get(), claim.allocation), (signed.get() + 60, s(100)));
}

proptest::proptest! {
    /// Whatever hop 1 and the others say of refusals and books: what a circuit's payments cost that were never completed is one
    /// payment for each hop at most.
    #[test]
    fn a_circuit_loses_at_most_one_payment_for_each_hop(
        moves in proptest::collection::vec((0u8..6, 0u8..4, 0i64..2_000, 0i64..2_000, 0u32..6), 1..100)
    ) {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        let before = desk.payer.spent().get() - 352;
        let (mut proven, mut n, mut amount, mut most) = (0, 1, 352, 352);
        for (kind, distance, cumulative, unallocated, k) in moves {
            for report in std::mem::take(&mut desk.reports) {
                if let Report::Paying { n: new, amount: new_amount, .. } = report {
                    (n, amount) = (new, new_amount.get());
                    most = most.max(amount);
                }
            }
            let gone = desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. }));
            if gone {
                break;
            }
            desk.out.clear();
            let codes = [RefuseCode::NoFunds, RefuseCode::OverLimit, RefuseCode::Failed, RefuseCode::Closing];
            match kind {
                0 => {
                    let before = desk.reports.len();
                    desk.complete(n, 0);
                    let paid = |r: &Report| matches!(r, Report::Paid { .. });
                    proven += if desk.reports[before..].iter().any(paid) { amount } else { 0 };
                }
                1 | 2 => desk.answer(ToOrigin::Refused { n, distance, code: codes[(k % 4) as usize] }),
                3 => desk.balance(k, cumulative, unallocated),
                4 => desk.carry(200_000),
                _ => {
                    desk.now = desk.now.plus(1_000);
                    desk.say(Input::Tick);
                }
            }
            let lost = desk.payer.spent().get() - before - proven;
            proptest::prop_assert!(lost <= 3 * most, "{lost} of payments of {most}");
        }
    }
}
