//! Payments that go well, and what stands in their way.

use super::*;

#[test]
fn the_first_payment_pays_every_hop_its_price_and_only_hop_1_gets_a_claim() {
    let (desk, pays) = Desk::paying(&[100, 50, 200]);
    let forwards: Vec<Forward> = pays.iter().map(|p| p.forward).collect();
    assert_eq!(forwards, [Forward::Pass(s(251)), Forward::Pass(s(200)), Forward::Last]);
    assert!(pays.iter().all(|p| p.n == 1 && p.step == Step::FIRST));
    let claim = pays[0].claim.unwrap();
    assert_eq!((claim.k, claim.cumulative, claim.allocation), (1, s(352), s(352)));
    assert!(claim.opening.is_none(), "the guard has said that it knows the escrow");
    assert!(pays[1].claim.is_none() && pays[2].claim.is_none());
    assert_eq!(desk.payer.signed(E), Some((1, s(352))));
}

#[test]
fn nothing_of_a_payment_leaves_before_the_claim_is_durable() {
    let mut desk = Desk::new(config(), &[100]);
    desk.open();
    desk.quote();
    desk.accept([1; 64]);
    desk.out.clear();
    desk.say(Input::EscrowOpened {
        escrow: E,
        balance: s(1_000_000_000),
    });
    desk.asked();
    let told = ToOrigin::Balance(Balance {
        escrow: E,
        newest_k: 0,
        cumulative: Stroops::ZERO,
        unallocated: Stroops::ZERO,
        state: EscrowState::Open,
    });
    desk.payer.handle(
        desk.now,
        Input::Answer {
            tunnel: T,
            body: told.encode(),
        },
    );
    let mut persist = None;
    while let Some(output) = desk.payer.poll() {
        match output {
            Output::Persist { seq, facts } => persist = Some((seq, facts)),
            Output::Report(_) => {}
            other => panic!("{other:?} left before the claim was durable"),
        }
    }
    let (seq, facts) = persist.unwrap();
    assert!(
        facts
            .iter()
            .any(|f| matches!(f, PayerFact::Out(OutFact::Signed { k: 1, .. })))
    );
    desk.say(Input::Persisted { upto: seq });
    assert_eq!(desk.payment(1).len(), 1);
}

#[test]
fn steps_grow_with_what_was_carried_and_what_is_bought_is_never_a_permitted_step_ahead() {
    let (mut desk, mut pays) = Desk::paying(&[100, 50, 200]);
    let (mut bought, mut carried, mut steps) = (0u64, 0u64, Vec::new());
    while carried < 64 << 20 {
        if let Some(pay) = pays.last() {
            bought += pay.step.bytes();
            steps.push(pay.step.bytes());
            let n = pay.n;
            desk.complete(n, carried);
        }
        desk.keep_payments();
        if desk.out.is_empty() {
            carried += UNIT / 4;
            desk.carry(UNIT / 4);
            desk.keep_payments();
        }
        pays = if desk.out.is_empty() {
            Vec::new()
        } else {
            desk.payment(1)
        };
        let permitted = Step::largest_within(carried)
            .unwrap_or(Step::FIRST)
            .bytes()
            .max(2 * UNIT);
        assert!(
            bought <= carried + carried / 10 + 64 * meter::CELL + permitted,
            "{bought} bought, {carried} carried"
        );
    }
    assert!(steps.windows(2).all(|w| w[0] <= w[1]), "{steps:?}");
    assert!(steps.len() < 30, "{} payments for 64 MiB", steps.len());
    assert!(
        bought >= carried,
        "{bought} bought, {carried} carried in {steps:?}; {:?}",
        desk.unpaid()
    );
}

#[test]
fn no_budget_of_a_tunnel_a_day_a_month_or_in_all_is_ever_exceeded() {
    let none = Budgets::default();
    let all = Some(s(500));
    for budgets in [
        Budgets { tunnel: all, ..none },
        Budgets { day: all, ..none },
        Budgets { month: all, ..none },
        Budgets { total: all, ..none },
    ] {
        let config = PayerConfig { budgets, ..config() };
        let mut desk = Desk::new(config, &[100, 50, 200]);
        desk.open();
        desk.quote();
        desk.fund();
        desk.payment(1);
        desk.complete(1, 0);
        desk.carry(2 * UNIT);
        assert!(desk.unpaid().contains(&(1, Unpaid::Budget)), "{budgets:?}");
        let sum = s(352);
        let spent = Spent {
            day: sum,
            month: sum,
            total: sum,
        };
        assert_eq!(desk.payer.spent(desk.now), spent);
    }
}

#[test]
fn a_payment_ends_an_open_listen_and_a_request_that_crosses_it_is_consumed() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.complete(1, 0);
    // A second small step may follow at once; then there is nothing to do but to listen.
    while desk.out.iter().any(|o| matches!(o, Output::Send { .. })) {
        let n = desk.payment(1)[0].n;
        desk.complete(n, 0);
    }
    let (hop, question) = desk.asked();
    assert!(matches!((hop, question), (3, ToNode::Listen { .. })), "{question:?}");
    let ToNode::Listen { id, .. } = question else { panic!() };
    desk.carry(3 * UNIT);
    let last = desk.out.last().cloned();
    assert!(
        matches!(
            last,
            Some(Output::Continue {
                hop: 3,
                second: Second::Pay,
                ..
            })
        ),
        "{last:?}"
    );
    let n = desk.payment(1)[0].n;
    let crossing = ToOrigin::PaymentRequest {
        id,
        metered: 100,
        paid: 0,
        credit: 0,
    };
    assert!(!finishes(Some(Second::Pay), &crossing.encode()));
    desk.answer(crossing);
    assert!(desk.out.is_empty(), "{:?}", desk.out);
    desk.complete(n, 3 * UNIT);
    assert!(
        desk.reports
            .iter()
            .any(|r| matches!(r, Report::Paid { n: paid, .. } if *paid == n))
    );
}

#[test]
fn a_hop_that_says_nothing_costs_one_tunnel_and_no_new_signature() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.now = desk.payer.next_wake().unwrap();
    desk.say(Input::Tick);
    assert!(desk.out.iter().any(|o| matches!(
        o,
        Output::GiveUp {
            why: GiveUp::Silent,
            ..
        }
    )));
    assert_eq!(desk.payer.signed(E), Some((1, s(352))));
    assert!(desk.now.since(START) <= 10_000);
}

#[test]
fn cells_on_the_tunnel_keep_a_slow_hop_alive_for_a_minute_and_no_longer() {
    let (mut desk, _) = Desk::paying(&[100]);
    let gave_up = |desk: &Desk| desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. }));
    while desk.now.since(START) < 59_000 {
        desk.now = desk.now.plus(1_000);
        desk.say(Input::Traffic {
            tunnel: T,
            up: 0,
            down: 1,
        });
        desk.say(Input::Tick);
        assert!(!gave_up(&desk));
    }
    desk.now = START.plus(60_000);
    desk.say(Input::Tick);
    assert!(gave_up(&desk));
}

#[test]
fn an_answer_to_another_question_or_garbage_gives_the_tunnel_up() {
    for body in [vec![], vec![0xff; 488], ToOrigin::Nothing { id: 1 }.encode()] {
        let mut desk = Desk::new(config(), &[100]);
        desk.open();
        desk.out.clear();
        desk.say(Input::Answer { tunnel: T, body });
        assert!(
            matches!(
                desk.out[..],
                [Output::GiveUp {
                    why: GiveUp::Protocol { hop: 1 },
                    ..
                }]
            ),
            "{:?}",
            desk.out
        );
    }
}

proptest::proptest! {
    /// Whatever hops answer, in whatever order: no panic, never more signed than the escrow holds, and sums never fall.
    #[test]
    fn hostile_answers_never_make_it_sign_more_than_the_escrow(
        moves in proptest::collection::vec((0u8..9, proptest::prelude::any::<u64>()), 1..120)
    ) {
        let (mut desk, _) = Desk::paying(&[100, 50, 200]);
        let mut last = Stroops::ZERO;
        for (kind, value) in moves {
            let n = (value % 4) as u16;
            let code = [RefuseCode::NoFunds, RefuseCode::OverLimit, RefuseCode::Failed, RefuseCode::Closing][(value % 4) as usize];
            match kind {
                0 => desk.answer(ToOrigin::Complete { n, metered: value, paid: value, credit: value }),
                1 => desk.answer(ToOrigin::Refused { n, distance: (value % 5) as u8, code }),
                2 => desk.balance((value % 9) as u32, (value % 5_000) as i64, (value % 7_000) as i64),
                3 => desk.answer(ToOrigin::Nothing { id: n }),
                4 => desk.answer(ToOrigin::PaymentRequest { id: n, metered: value, paid: 0, credit: 0 }),
                5 => desk.carry(value % (1 << 22)),
                6 => { desk.now = desk.now.plus(value % 20_000); desk.say(Input::Tick) }
                7 => desk.open(),
                _ => desk.say(Input::TunnelClosed { tunnel: T, why: CloseReason::Broke }),
            }
            let signed = desk.payer.signed(E).unwrap().1;
            proptest::prop_assert!(signed >= last && signed <= s(1_000_000_000));
            last = signed;
        }
    }
}

#[test]
fn a_conversation_that_broke_is_a_tunnel_given_up() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.payer.conversation_failed(T);
    desk.collect();
    assert!(matches!(
        desk.out[..],
        [Output::GiveUp {
            tunnel: T,
            why: GiveUp::Silent
        }]
    ));
    assert_eq!(desk.payer.tunnel_count(), 0);
}

/// A desk with this question open, and the question.
fn asked_about(what: &str) -> (Desk, ToNode) {
    let mut desk = Desk::new(config(), &[100]);
    desk.open();
    desk.quote();
    if what == "offer" {
        desk.out.clear();
        let offer = desk.offer();
        desk.say(Input::Offer {
            guard: PeerId([1; 32]),
            offer,
        });
        return asked_now(desk);
    }
    if what == "balance" {
        desk.accept([1; 64]);
        desk.out.clear();
        desk.say(Input::EscrowOpened {
            escrow: E,
            balance: s(1_000_000_000),
        });
        return asked_now(desk);
    }
    desk.fund();
    if what == "pay" {
        let pay = desk.payment(1).remove(0);
        return (desk, ToNode::Pay(pay));
    }
    while !matches!(&desk.out[..], [Output::Ask { body, .. }] if matches!(ToNode::decode(body), Ok(ToNode::Listen { .. })))
    {
        let n = desk.payment(1)[0].n;
        desk.complete(n, 0);
    }
    if what == "listen" {
        return asked_now(desk);
    }
    let (_, listen) = desk.asked();
    let ToNode::Listen { id, .. } = listen else { panic!() };
    desk.say(Input::Close { escrow: E });
    desk.out.clear();
    desk.answer(ToOrigin::Nothing { id });
    desk.out.retain(|o| matches!(o, Output::Ask { .. }));
    asked_now(desk)
}

fn asked_now(mut desk: Desk) -> (Desk, ToNode) {
    let (_, question) = desk.asked();
    (desk, question)
}

#[test]
fn an_answer_is_taken_only_if_it_names_what_was_asked_about() {
    let balance = |escrow| {
        ToOrigin::Balance(Balance {
            escrow,
            newest_k: 0,
            cumulative: Stroops::ZERO,
            unallocated: Stroops::ZERO,
            state: EscrowState::Open,
        })
    };
    let accepted = |escrow| {
        ToOrigin::EscrowAccepted(EscrowAcceptance {
            escrow,
            signer: AccountId([4; 32]),
            payee_account: AccountId([6; 32]),
            min_deposit: s(1_000),
            refund: Signature([1; 64]),
        })
    };
    let (metered, paid, credit) = (0, 0, 0);
    let request = |id| ToOrigin::PaymentRequest {
        id,
        metered,
        paid,
        credit,
    };
    let refused = |n| ToOrigin::Refused {
        n,
        distance: 0,
        code: RefuseCode::Failed,
    };
    let complete = |n| ToOrigin::Complete {
        n,
        metered,
        paid,
        credit,
    };
    let closing = |escrow| ToOrigin::Closing { escrow, newest_k: 2 };
    let other = EscrowId([9; 32]);
    let declined = ToOrigin::Declined(obol_cell::Declined {
        code: DeclineCode::Unknown,
    });
    for (what, answer, fits) in [
        ("offer", accepted(E), true),
        ("offer", accepted(other), false),
        ("balance", balance(E), true),
        ("balance", balance(other), false),
        ("listen", request(1), true),
        ("listen", request(2), false),
        ("listen", ToOrigin::Nothing { id: 1 }, true),
        ("listen", ToOrigin::Nothing { id: 2 }, false),
        ("pay", complete(1), true),
        ("pay", complete(2), false),
        ("pay", refused(1), true),
        ("pay", refused(2), false),
        ("close", closing(E), true),
        ("close", closing(other), false),
        ("close", declined, true),
    ] {
        let (mut desk, question) = asked_about(what);
        desk.out.clear();
        desk.answer(answer);
        let given_up = desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. }));
        assert_eq!(!given_up, fits, "{answer:?} to {question:?}");
    }
}

#[test]
fn what_has_not_left_for_a_tunnel_that_is_gone_never_does_and_the_others_goes() {
    let mut desk = Desk::new(config(), &[100]);
    let hops = |tunnel| Input::TunnelOpened {
        tunnel,
        hops: vec![Hop {
            peer: PeerId([1; 32]),
            paid: true,
        }],
    };
    for tunnel in [T, TunnelId(2)] {
        desk.payer.handle(desk.now, hops(tunnel));
    }
    desk.payer.handle(
        desk.now,
        Input::TunnelClosed {
            tunnel: T,
            why: CloseReason::Unused,
        },
    );
    desk.collect();
    assert!(
        matches!(
            desk.out[..],
            [Output::Ask {
                tunnel: TunnelId(2),
                ..
            }]
        ),
        "{:?}",
        desk.out
    );
}

#[test]
fn an_offer_whose_tunnel_went_away_is_made_on_the_next() {
    let (mut desk, _) = asked_about("offer");
    let offer = desk.offer();
    desk.say(Input::TunnelClosed {
        tunnel: T,
        why: CloseReason::Unused,
    });
    desk.out.clear();
    desk.open();
    desk.quote();
    assert_eq!(desk.asked(), (1, ToNode::OfferEscrow(offer)));
    // A tunnel that had nothing to do with it changes nothing.
    desk.say(Input::TunnelOpened {
        tunnel: TunnelId(5),
        hops: vec![Hop {
            peer: PeerId([1; 32]),
            paid: true,
        }],
    });
    desk.say(Input::TunnelClosed {
        tunnel: TunnelId(5),
        why: CloseReason::Unused,
    });
    desk.out.clear();
    desk.say(Input::Tick);
    assert_eq!(desk.out, [], "it is asked already");
}

#[test]
fn an_escrow_whose_key_is_gone_is_passed_over_whatever_is_left_of_it() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    let guard = desk.payer.guards.get_mut(&PeerId([1; 32])).unwrap();
    let mut older = guard.get(E).unwrap().books.clone();
    older.escrow.terms.escrow = LOST;
    older.phase = outgoing::Phase::Ended;
    (older.cumulative, older.allocated) = (s(1_000_000), Stroops::ZERO);
    guard.escrows.insert(0, super::super::escrows::OutEscrow::new(older));
    let mut carried = 0;
    let pays = desk.next_payment(&mut carried);
    assert_eq!(pays[0].claim.unwrap().escrow, E);
    assert_eq!(desk.unpaid(), []);
    let left = desk.payer.guards[&PeerId([1; 32])].get(LOST).unwrap();
    assert_eq!(left.books.unallocated(), s(1_000_000), "nothing was assigned of it");
}

#[test]
fn hops_that_take_money_and_break_their_tunnels_are_left_and_nobody_else() {
    let (mut desk, mut pays) = Desk::paying(&[100, 50]);
    let elsewhere = TunnelId(77);
    desk.say(Input::TunnelOpened {
        tunnel: elsewhere,
        hops: vec![Hop {
            peer: PeerId([7; 32]),
            paid: false,
        }],
    });
    for round in 1..=4 {
        desk.out.clear();
        let retired = |desk: &Desk, tunnel| desk.out.contains(&Output::Retire { tunnel });
        let watched = TunnelId(100 + round);
        desk.say(Input::TunnelOpened {
            tunnel: watched,
            hops: vec![Hop {
                peer: PeerId([2; 32]),
                paid: false,
            }],
        });
        // Paid, never carried.
        assert_eq!(pays[0].n, 1);
        desk.say(Input::TunnelClosed {
            tunnel: T,
            why: CloseReason::Broke,
        });
        assert_eq!(retired(&desk, watched), round == 4);
        assert!(!retired(&desk, elsewhere));
        let guard = PeerId([1; 32]);
        assert_eq!(desk.reports.contains(&Report::GuardNotPaid { guard }), round == 4);
        if round < 4 {
            desk.out.clear();
            desk.open();
            desk.quote();
            desk.asked();
            let (k, signed) = desk.payer.signed(E).unwrap();
            desk.balance(k, signed.get(), 0);
            pays = desk.payment(1);
        }
    }
    let other = PeerId([2; 32]);
    assert!(!desk.reports.contains(&Report::GuardNotPaid { guard: other }));
}

#[test]
fn a_listen_may_take_its_30_seconds() {
    let (mut desk, _) = asked_about("listen");
    desk.now = desk.now.plus(39_999);
    desk.say(Input::Tick);
    assert_eq!(desk.out, []);
    desk.now = desk.now.plus(1);
    desk.say(Input::Tick);
    assert!(matches!(
        desk.out[..],
        [Output::GiveUp {
            why: GiveUp::Silent,
            ..
        }]
    ));
}

#[test]
fn who_stops_paying_is_not_listening_either() {
    let (mut desk, question) = asked_about("listen");
    let ToNode::Listen { id, .. } = question else { panic!() };
    desk.say(Input::SetPolicy(PayPolicy::Never));
    desk.carry(20 * 514);
    desk.answer(ToOrigin::Nothing { id });
    desk.carry(20 * 514);
    assert_eq!(desk.out, []);
}

#[test]
fn what_we_send_keeps_no_silent_hop_alive() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.now = desk.now.plus(9_000);
    desk.say(Input::Traffic {
        tunnel: T,
        up: 500,
        down: 0,
    });
    desk.now = desk.now.plus(1_000);
    desk.say(Input::Tick);
    assert!(desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. })));
}
