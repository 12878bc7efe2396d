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
        let before = desk.payer.spent(desk.now).total.get() - 352;
        desk.reports.clear();
        let (mut proven, mut n, mut most) = (0, 1, 352);
        let mut amounts = BTreeMap::from([(1, 352)]);
        for (kind, distance, cumulative, unallocated, k) in moves {
            let gone = desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. }));
            if gone {
                break;
            }
            desk.out.clear();
            let codes = [RefuseCode::NoFunds, RefuseCode::OverLimit, RefuseCode::Failed, RefuseCode::Closing];
            match kind {
                0 => desk.complete(n, 0),
                1 | 2 => desk.answer(ToOrigin::Refused { n, distance, code: codes[(k % 4) as usize] }),
                3 => desk.balance(k, cumulative, unallocated),
                4 => desk.carry(200_000),
                _ => {
                    desk.now = desk.now.plus(1_000);
                    desk.say(Input::Tick);
                }
            }
            for report in std::mem::take(&mut desk.reports) {
                match report {
                    Report::Paying { n: new, amount, .. } => {
                        n = new;
                        most = most.max(amount.get());
                        amounts.insert(n, amount.get());
                    }
                    Report::Paid { n, .. } => proven += amounts[&n],
                    _ => {}
                }
            }
            let lost = desk.payer.spent(desk.now).total.get() - before - proven;
            proptest::prop_assert!(lost <= 3 * most, "{lost} of payments of {most}");
        }
    }
}

#[test]
fn what_a_later_hop_says_of_its_own_money_is_believed() {
    let (mut desk, _) = Desk::paying(&[100, 50, 50, 200]);
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 2,
        code: RefuseCode::Failed,
    });
    assert_eq!(desk.payment(2).len(), 3);
    // The money went on to hop 3, which cannot pass it on.
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 1,
        code: RefuseCode::NoFunds,
    });
    assert!(matches!(desk.out[0], Output::Send { hop: 3, .. }), "{:?}", desk.out);
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 3
    }));
}

#[test]
fn a_hop_that_finds_a_step_too_large_is_asked_again_after_a_while_and_then_for_smaller_ones() {
    let (mut desk, mut pays) = Desk::paying(&[100, 50, 200]);
    let mut carried = 0;
    while pays[0].step.units() < 8 {
        desk.complete(pays[0].n, carried);
        pays = desk.next_payment(&mut carried);
    }
    let (n, step) = (pays[0].n, pays[0].step);
    for attempt in 1..=2u64 {
        desk.answer(ToOrigin::Refused {
            n,
            distance: 1,
            code: RefuseCode::OverLimit,
        });
        desk.now = desk.now.plus(attempt * 1_000 - 1);
        desk.say(Input::Tick);
        assert!(desk.out.is_empty(), "not at once: {:?}", desk.out);
        desk.now = desk.now.plus(1);
        desk.say(Input::Tick);
        assert_eq!(desk.payment(2)[0].step, step);
    }
    desk.answer(ToOrigin::Refused {
        n,
        distance: 1,
        code: RefuseCode::OverLimit,
    });
    desk.out.clear();
    desk.carry(32 * UNIT);
    desk.keep_payments();
    let step_of = |o: &Output| match o {
        Output::Send { body, .. } => match ToNode::decode(body) {
            Ok(ToNode::Pay(pay)) => pay.step.units(),
            other => panic!("{other:?}"),
        },
        _ => 0,
    };
    let steps: Vec<u64> = desk.out.iter().map(step_of).collect();
    assert!(
        !steps.is_empty() && steps.iter().all(|units| *units <= step.units() / 2),
        "{steps:?}"
    );
}

#[test]
fn a_meter_that_is_behind_for_a_moment_costs_no_relay_its_name_and_one_that_stays_behind_does() {
    for stubborn in [false, true] {
        let (mut desk, mut pays) = Desk::paying(&[100, 50, 200]);
        let retired = |desk: &Desk| desk.out.contains(&Output::Retire { tunnel: T });
        let (mut carried, mut left) = (0, false);
        for _ in 0..10 {
            let n = pays[0].n;
            for _ in 0..if stubborn { 2 } else { 1 } {
                desk.answer(ToOrigin::Refused {
                    n,
                    distance: 1,
                    code: RefuseCode::OverLimit,
                });
                left |= retired(&desk);
                desk.keep_payments();
                desk.now = desk.now.plus(2_000);
                desk.say(Input::Tick);
                desk.keep_payments();
                desk.payment(2);
            }
            if left {
                break;
            }
            desk.complete(n, carried);
            pays = desk.next_payment(&mut carried);
        }
        assert_eq!(left, stubborn);
    }
}

#[test]
fn fees_go_on_where_they_were_after_a_payment_that_was_given_up() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 1,
        code: RefuseCode::NoFunds,
    });
    desk.out.clear();
    desk.carry(UNIT);
    desk.prices.pop();
    // Hop 1 took its fee of 1 for 251 passed on; 50 more are within what that covers.
    let claim = desk.payment(1)[0].claim.unwrap();
    assert_eq!(claim.allocation, s(150));
}

#[test]
fn money_that_never_came_for_a_payment_that_was_given_up_is_not_taken_for_that_of_the_next() {
    // Whether the first payment's money reached hop 1 is not known: the second hop refused it.
    for ((k, cumulative, unallocated), allocation) in [
        // The second one's is held, the first one's never came.
        ((2, 502, 352), 0),
        // Both are held.
        ((2, 502, 0), 0),
        // The second claim never came.
        ((1, 352, 0), 150),
        // Neither did.
        ((0, 0, 0), 150),
    ] {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        desk.answer(ToOrigin::Refused {
            n: 1,
            distance: 1,
            code: RefuseCode::NoFunds,
        });
        desk.out.clear();
        desk.carry(UNIT);
        desk.prices.pop();
        desk.payment(1);
        desk.answer(ToOrigin::Refused {
            n: 2,
            distance: 1,
            code: RefuseCode::Failed,
        });
        desk.asked();
        desk.balance(k, cumulative, unallocated);
        let claim = desk.payment(1)[0].claim.unwrap();
        assert_eq!(claim.allocation, s(allocation), "{k} {cumulative} {unallocated}");
    }
}

#[test]
fn however_hop_1s_books_read_a_payment_is_not_signed_for_twice() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 2,
        code: RefuseCode::Failed,
    });
    desk.asked();
    // It never saw the claim, and has nothing left of it.
    desk.balance(0, 352, 0);
    assert_eq!(desk.payer.signed(E).unwrap().1, s(352));
    assert_eq!(desk.unpaid().last(), Some(&(1, Unpaid::Declined)));
    desk.carry(10 << 20);
    assert_eq!(desk.payer.signed(E).unwrap().1, s(352));
}

#[test]
fn closing_by_hop_1_closes_its_escrow_and_by_another_hop_nothing() {
    let closing = |desk: &Desk| {
        desk.facts
            .iter()
            .filter(|f| matches!(f, PayerFact::Out(OutFact::Closing { .. })))
            .count()
    };
    for (distance, closed) in [(2, 1), (1, 0)] {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        let code = RefuseCode::Closing;
        desk.answer(ToOrigin::Refused { n: 1, distance, code });
        assert_eq!(closing(&desk), closed);
        if closed == 1 {
            desk.now = desk.now.plus(2_000);
            desk.say(Input::Tick);
            desk.out.retain(|o| !matches!(o, Output::WantEscrow { .. }));
            desk.asked();
            desk.balance(1, 352, 0);
            desk.answer(ToOrigin::Refused { n: 1, distance, code });
            assert_eq!(closing(&desk), 1, "once");
        }
    }
}

#[test]
fn blame_falls_on_the_hop_that_refused_and_the_one_before_it() {
    for (distance, guard_is_left) in [(2, true), (0, false)] {
        let mut desk = Desk::paying(&[100, 50, 200]).0;
        for _ in 0..3 {
            desk.answer(ToOrigin::Refused {
                n: 1,
                distance,
                code: RefuseCode::Failed,
            });
            desk.now = desk.now.plus(2_000);
            desk.say(Input::Tick);
            desk.out.retain(|o| matches!(o, Output::Ask { .. }));
            if distance == 2 && !desk.out.is_empty() {
                desk.asked();
                desk.balance(1, 352, 0);
            }
        }
        let guard = PeerId([1; 32]);
        assert_eq!(desk.reports.contains(&Report::GuardNotPaid { guard }), guard_is_left);
        desk.reports.clear();
        desk.out.clear();
        let tunnel = TunnelId(9);
        let hops = (1..=3).map(|i| Hop {
            peer: PeerId([i; 32]),
            paid: true,
        });
        desk.say(Input::TunnelOpened {
            tunnel,
            hops: hops.collect(),
        });
        for price in [100, 50] {
            let quote = Quote {
                tariff: tariff(price),
                next: true,
                credit: 0,
                valid_until: 0,
            };
            desk.say(Input::Answer {
                tunnel,
                body: ToOrigin::Quote(quote).encode(),
            });
        }
        // Nothing goes through a relay with a low score; by it at hop 2 the chain ends there.
        let expected = if guard_is_left {
            (1, Unpaid::Score)
        } else {
            (3, Unpaid::Score)
        };
        assert_eq!(desk.unpaid().first(), Some(&expected));
    }
}

#[test]
fn books_are_asked_for_when_no_other_payment_is_on_its_way() {
    let (mut desk, _) = Desk::paying(&[100]);
    let other = TunnelId(2);
    desk.say(Input::TunnelOpened {
        tunnel: other,
        hops: vec![Hop {
            peer: PeerId([1; 32]),
            paid: true,
        }],
    });
    let quote = ToOrigin::Quote(Quote {
        tariff: tariff(100),
        next: false,
        credit: 0,
        valid_until: 0,
    });
    desk.out.clear();
    desk.say(Input::Answer {
        tunnel: other,
        body: quote.encode(),
    });
    assert_eq!(desk.payment(1)[0].claim.unwrap().k, 2, "both are on their way");
    desk.answer(ToOrigin::Refused {
        n: 1,
        distance: 0,
        code: RefuseCode::Failed,
    });
    for _ in 0..8 {
        desk.now = desk.payer.next_wake().unwrap();
        desk.say(Input::Tick);
        assert!(desk.out.is_empty(), "{:?}", desk.out);
    }
    desk.say(Input::Answer {
        tunnel: other,
        body: ToOrigin::Complete {
            n: 1,
            metered: 0,
            paid: 0,
            credit: 0,
        }
        .encode(),
    });
    desk.out.clear();
    // The other's next payment is on its way as well, or none is: then it is asked.
    desk.say(Input::TunnelClosed {
        tunnel: other,
        why: CloseReason::Unused,
    });
    desk.now = desk.now.plus(1_000);
    desk.say(Input::Tick);
    assert!(matches!(desk.asked(), (1, ToNode::BalanceQuery { .. })));
}

#[test]
fn after_a_refusal_by_hop_1_the_next_tunnel_asks_for_its_books_first() {
    for (distance, asks) in [(2, true), (1, false)] {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        desk.answer(ToOrigin::Refused {
            n: 1,
            distance,
            code: RefuseCode::OverLimit,
        });
        desk.out.clear();
        let tunnel = TunnelId(2);
        desk.say(Input::TunnelOpened {
            tunnel,
            hops: vec![Hop {
                peer: PeerId([1; 32]),
                paid: true,
            }],
        });
        desk.out.clear();
        let quote = Quote {
            tariff: tariff(100),
            next: false,
            credit: 0,
            valid_until: 0,
        };
        desk.say(Input::Answer {
            tunnel,
            body: ToOrigin::Quote(quote).encode(),
        });
        let (_, question) = desk.asked();
        assert_eq!(matches!(question, ToNode::BalanceQuery { .. }), asks, "{question:?}");
    }
}
