//! Escrows: accepted, restored, closed, taken back.

use super::*;

#[test]
fn a_refund_that_does_not_verify_means_no_money_and_no_tunnel() {
    let mut desk = Desk::new(config(), &[100, 100]);
    desk.open();
    desk.quote();
    desk.accept([2; 64]);
    assert!(desk.out.iter().any(|o| matches!(
        o,
        Output::GiveUp {
            why: GiveUp::Protocol { hop: 1 },
            ..
        }
    )));
    assert!(!desk.out.iter().any(|o| matches!(o, Output::OpenEscrow { .. })));
    assert!(desk.facts.is_empty());
}

#[test]
fn a_restored_payer_never_signs_less_and_asks_what_is_left_first() {
    let (mut desk, _) = Desk::paying(&[100, 50, 200]);
    desk.complete(1, 0);
    let facts = desk.facts.clone();
    let mut after = Desk::new(config(), &[100, 50, 200]);
    after.payer = Payer::restore(config(), Keys, [8; 32], facts);
    assert_eq!(after.payer.signed(E), Some((1, s(352))));
    assert_eq!(after.payer.spent(after.now).total, s(352));
    after.now = desk.now.plus(60_000);
    after.open();
    after.quote();
    let (_, question) = after.asked();
    assert!(
        matches!(question, ToNode::BalanceQuery { opening: Some(_), .. }),
        "{question:?}"
    );
    // 100 of the last run's circuit returned to the balance.
    after.balance(1, 352, 100);
    let claim = after.payment(1)[0].claim.unwrap();
    assert_eq!((claim.k, claim.cumulative, claim.allocation), (2, s(604), s(352)));
}

#[test]
fn a_closed_escrow_is_not_paid_by_and_its_guard_is_asked_to_flush_the_last_claim() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    desk.out.clear();
    let paid = desk.payer.signed(E).unwrap();
    desk.say(Input::Close { escrow: E });
    // The last amount once more, under the next number, for no bytes and without an answer.
    let spare = desk.out.iter().find_map(|o| match o {
        Output::Send { hop: 1, body, .. } => match ToNode::decode(body) {
            Ok(ToNode::Pay(pay)) => Some(pay),
            _ => None,
        },
        _ => None,
    });
    let spare = spare.expect("a spare claim");
    let claim = spare.claim.unwrap();
    assert_eq!(
        (claim.k, claim.cumulative, claim.allocation),
        (paid.0 + 1, paid.1, s(0))
    );
    assert_eq!((spare.n, spare.forward), (2, Forward::Pass(s(0))));
    desk.out.retain(|o| !matches!(o, Output::Send { .. }));
    if matches!(
        desk.out.last(),
        Some(Output::Continue {
            second: Second::Cancel,
            ..
        })
    ) {
        let (_, cancel) = desk.asked();
        let ToNode::Cancel { id } = cancel else {
            panic!("{cancel:?}")
        };
        desk.answer(ToOrigin::Nothing { id });
    }
    let asked: Vec<ToNode> = desk
        .out
        .drain(..)
        .filter_map(|o| {
            if let Output::Ask { body, .. } = o {
                ToNode::decode(&body).ok()
            } else {
                None
            }
        })
        .collect();
    let (k, cumulative) = desk.payer.signed(E).unwrap();
    let close = ToNode::CloseEscrow {
        escrow: E,
        final_k: k,
        owner: owner(E, OwnerAsks::Close { final_k: k }),
    };
    assert!(asked.contains(&close), "{asked:?}");
    desk.answer(ToOrigin::Closing { escrow: E, newest_k: k });
    desk.carry(10 << 20);
    assert_eq!(desk.payer.signed(E), Some((k, cumulative)));
    assert_eq!(cumulative, paid.1);
}

/// The escrows that anything said since then names.
fn named(desk: &mut Desk) -> Vec<EscrowId> {
    let bodies = desk.out.drain(..).filter_map(|o| match o {
        Output::Ask { body, .. } | Output::Send { body, .. } | Output::Continue { body, .. } => Some(body),
        _ => None,
    });
    let escrows = bodies.filter_map(|body| match ToNode::decode(&body).expect("a message") {
        ToNode::Pay(pay) => pay.claim.map(|claim| claim.escrow),
        ToNode::BalanceQuery { escrow, .. } | ToNode::CloseEscrow { escrow, .. } => Some(escrow),
        ToNode::OfferEscrow(offer) => Some(offer.escrow),
        _ => None,
    });
    escrows.collect()
}

#[test]
fn an_escrow_of_another_place_is_not_named_to_its_guard_whatever_happens_and_comes_home() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    desk.say(Input::TunnelClosed {
        tunnel: T,
        why: CloseReason::Unused,
    });
    let mut facts = desk.facts.clone();
    let signed = desk.payer.signed(E);
    // The laptop is carried somewhere else, and started there.
    let mut there = Desk::new(config(), &[100]);
    there.payer = Payer::restore(config(), Keys, [8; 32], facts.clone());
    there.now = desk.now.plus(60_000);
    there.say(Input::Away { escrows: vec![E] });
    there.open();
    there.quote();
    assert!(
        there.out.iter().any(|o| matches!(o, Output::WantEscrow { .. })),
        "one of its own for this place"
    );
    there.carry(10 << 20);
    there.say(Input::Close { escrow: E });
    assert_eq!(named(&mut there), []);
    assert_eq!(there.payer.signed(E), signed);
    facts.append(&mut there.facts);
    // Back home it is asked to be closed, as was wished; without that wish it would be used.
    there.say(Input::Away { escrows: Vec::new() });
    assert_eq!(named(&mut there), [E]);
    // Nobody has to be asked for what is left when it expires.
    let mut late = Desk::new(config(), &[100]);
    late.payer = Payer::restore(config(), Keys, [8; 32], facts);
    late.say(Input::Away { escrows: vec![E] });
    late.now = UnixMillis::from_secs(START.secs() + 86_400);
    late.say(Input::Tick);
    assert!(late.out.iter().any(|o| matches!(o, Output::Refund { .. })));
    assert_eq!(named(&mut late), []);
}

#[test]
fn an_escrow_is_used_again_where_it_was_opened() {
    let (desk, _) = Desk::paying(&[100]);
    let mut back = Desk::new(config(), &[100]);
    back.payer = Payer::restore(config(), Keys, [8; 32], desk.facts);
    back.say(Input::Away { escrows: vec![E] });
    back.open();
    back.quote();
    assert_eq!(named(&mut back), []);
    back.say(Input::Away { escrows: Vec::new() });
    assert_eq!(named(&mut back), [E], "what is left is asked for");
}

#[test]
fn a_key_that_was_offered_at_one_place_is_not_offered_at_another() {
    let (mut before, _) = Desk::paying(&[100]);
    before.complete(1, 0);
    let mut desk = Desk::new(config(), &[100]);
    desk.payer = Payer::restore(config(), Keys, [8; 32], before.facts);
    let escrow = EscrowId([6; 32]);
    let offer = EscrowOffer { escrow, ..desk.offer() };
    desk.say(Input::Offer {
        guard: PeerId([1; 32]),
        offer,
    });
    desk.say(Input::Away { escrows: vec![E] });
    desk.open();
    desk.quote();
    let wants = |desk: &Desk| {
        let wanted = desk.out.iter().filter(|o| matches!(o, Output::WantEscrow { .. }));
        wanted.count()
    };
    assert_eq!(wants(&desk), 1, "another key");
    assert_eq!(named(&mut desk), []);
    // Nor one that was being made before the move, and comes after it.
    let escrow = EscrowId([7; 32]);
    desk.say(Input::Away {
        escrows: vec![E, escrow],
    });
    let offer = EscrowOffer { escrow, ..offer };
    desk.say(Input::Offer {
        guard: PeerId([1; 32]),
        offer,
    });
    assert_eq!(wants(&desk), 1, "another one is made");
    assert_eq!(named(&mut desk), []);
}

#[test]
fn an_expired_escrow_is_taken_back_once() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    desk.say(Input::TunnelClosed {
        tunnel: T,
        why: CloseReason::Unused,
    });
    desk.out.clear();
    desk.now = UnixMillis::from_secs(START.secs() + 86_400);
    desk.say(Input::Tick);
    desk.say(Input::Tick);
    let refunds = desk.out.iter().filter(|o| matches!(o, Output::Refund { .. })).count();
    assert_eq!(refunds, 1);
}

/// When an escrow is wanted, waking up until then.
fn wants_by(desk: &mut Desk, until: UnixMillis) -> Option<UnixMillis> {
    while !desk.out.iter().any(|o| matches!(o, Output::WantEscrow { .. })) {
        let at = desk.payer.next_wake().filter(|at| *at <= until)?;
        desk.now = at;
        desk.say(Input::Tick);
    }
    Some(desk.now)
}

#[test]
fn an_offer_that_found_no_tunnel_for_long_is_made_anew() {
    for (waits_ms, stale) in [(20_000, false), (20_001, true)] {
        let mut desk = Desk::new(config(), &[100]);
        desk.open();
        desk.quote();
        // It is asked for over a tunnel that ends before the offer is made, or before the guard has answered.
        let offer = desk.offer();
        desk.say(Input::Offer {
            guard: PeerId([1; 32]),
            offer,
        });
        desk.asked();
        desk.say(Input::TunnelClosed {
            tunnel: T,
            why: CloseReason::Unused,
        });
        desk.out.clear();
        desk.now = desk.now.plus(waits_ms);
        desk.open();
        desk.quote();
        let wanted = desk.out.iter().any(|o| matches!(o, Output::WantEscrow { .. }));
        assert_eq!(wanted, stale, "after {waits_ms} ms");
        if stale {
            // Nothing is asked until there is one of today's ledger.
            let newer = EscrowOffer {
                s0: offer.s0 + (1 << 32),
                ..offer
            };
            desk.say(Input::Offer {
                guard: PeerId([1; 32]),
                offer: newer,
            });
            assert_eq!(desk.asked(), (1, ToNode::OfferEscrow(newer)));
        } else {
            assert_eq!(desk.asked(), (1, ToNode::OfferEscrow(offer)));
        }
    }
}

#[test]
fn an_offer_that_is_declined_is_made_again_after_a_minute_or_ever_longer_up_to_an_hour() {
    let minutes = |waits: [u64; 8]| waits.map(|minutes| minutes * 60_000);
    for (code, waits) in [
        (DeclineCode::NotNow, minutes([1; 8])),
        (DeclineCode::Exists, minutes([1, 2, 4, 8, 16, 32, 60, 60])),
        (DeclineCode::OutsideRules, minutes([1, 2, 4, 8, 16, 32, 60, 60])),
        (DeclineCode::OtherMoney, minutes([60; 8])),
    ] {
        let mut desk = Desk::new(config(), &[100]);
        desk.open();
        desk.quote();
        for wait in waits {
            desk.out.clear();
            let offer = desk.offer();
            desk.say(Input::Offer {
                guard: PeerId([1; 32]),
                offer,
            });
            desk.asked();
            desk.answer(ToOrigin::Declined(obol_cell::Declined { code }));
            assert_eq!(desk.unpaid().last(), Some(&(1, Unpaid::Declined)));
            assert!(!desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. })));
            let since = desk.now;
            let again = wants_by(&mut desk, since.plus(2 * wait));
            assert_eq!(again, Some(since.plus(wait)), "{code:?}");
        }
    }
}

#[test]
fn the_next_escrow_is_wanted_in_the_second_half_of_this_ones_life_before_its_margin() {
    let mut seen = Vec::new();
    for seed in 0..8 {
        let mut desk = Desk::new(config(), &[100]);
        desk.payer = Payer::new(config(), Keys, [seed; 32]);
        desk.open();
        desk.quote();
        desk.fund();
        desk.out.clear();
        desk.complete(1, 0);
        desk.out.clear();
        // Nothing happens on the tunnel but time.
        let (half, last) = (START.plus(43_200_000), START.plus((86_400 - 7_200 - 3_600) * 1_000));
        desk.now = UnixMillis(half.0 - 1_000);
        desk.say(Input::Tick);
        assert!(
            !desk.out.iter().any(|o| matches!(o, Output::WantEscrow { .. })),
            "not before half its life"
        );
        while !desk.out.iter().any(|o| matches!(o, Output::WantEscrow { .. })) {
            desk.now = desk.now.plus(60_000);
            // The tunnel would be given up for its silence.
            if desk.payer.tunnel_count() == 0 {
                desk.out.clear();
                desk.open();
                desk.quote();
            }
            desk.say(Input::Tick);
            assert!(desk.now <= last.plus(60_000), "not in time");
        }
        seen.push(desk.now);
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 4, "at random times: {seen:?}");
}

#[test]
fn who_never_pays_wants_no_escrow() {
    let (mut desk, pays) = Desk::paying(&[100]);
    desk.complete(pays[0].n, 0);
    desk.say(Input::SetPolicy(PayPolicy::Never));
    desk.out.clear();
    desk.say(Input::Close { escrow: E });
    desk.carry(10 << 20);
    assert!(
        !desk.out.iter().any(|o| matches!(o, Output::WantEscrow { .. })),
        "{:?}",
        desk.out
    );
}

#[test]
fn a_guard_that_does_not_know_the_escrow_yet_is_asked_again_after_ever_longer_times() {
    let mut desk = Desk::new(config(), &[100]);
    desk.open();
    desk.quote();
    desk.accept([1; 64]);
    desk.out.clear();
    desk.say(Input::EscrowOpened {
        escrow: E,
        balance: s(1_000_000_000),
    });
    let mut asked = Vec::new();
    for _ in 0..6 {
        let (_, question) = desk.asked();
        assert!(
            matches!(question, ToNode::BalanceQuery { opening: Some(_), .. }),
            "{question:?}"
        );
        asked.push(desk.now);
        desk.answer(ToOrigin::Balance(Balance {
            escrow: E,
            newest_k: 0,
            cumulative: Stroops::ZERO,
            unallocated: Stroops::ZERO,
            state: EscrowState::Unknown,
        }));
        assert_eq!(desk.out, []);
        desk.now = desk.payer.next_wake().unwrap();
        desk.say(Input::Tick);
    }
    let waits: Vec<u64> = asked.windows(2).map(|w| w[1].since(w[0])).collect();
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000]);
}

#[test]
fn an_escrow_in_its_margin_pays_nothing() {
    for (before_stop, pays) in [(1, true), (0, false)] {
        let (mut desk, first) = Desk::paying(&[100]);
        desk.complete(first[0].n, 0);
        desk.say(Input::TunnelClosed {
            tunnel: T,
            why: CloseReason::Unused,
        });
        let stop = START.secs() + 86_400 - 7_200;
        desk.now = UnixMillis::from_secs(stop - before_stop);
        desk.out.clear();
        desk.open();
        desk.quote();
        desk.out.retain(|o| !matches!(o, Output::WantEscrow { .. }));
        assert_eq!(!desk.out.is_empty(), pays, "{:?}", desk.out);
    }
}

#[test]
fn a_tunnel_moves_to_a_newer_escrow_after_a_while_and_not_at_once() {
    let slowly = PayerConfig {
        rollover_jitter_ms: 20_000,
        ..config()
    };
    let mut used = Vec::new();
    for seed in 0..6 {
        let mut desk = Desk::new(slowly, &[100]);
        desk.payer = Payer::new(slowly, Keys, [seed; 32]);
        desk.open();
        desk.quote();
        desk.fund();
        let mut n = desk.payment(1)[0].n;
        let newer = EscrowId([6; 32]);
        let mut offer = desk.offer();
        offer.escrow = newer;
        let guard = PeerId([1; 32]);
        desk.complete(n, 0);
        desk.keep_payments();
        while !desk.out.is_empty() {
            n = desk.payment(1)[0].n;
            desk.complete(n, 0);
            desk.keep_payments();
        }
        let facts = [
            OutFact::Accepted {
                escrow: Escrow {
                    terms: obol_cell::EscrowTerms::new(&offer, guard, AccountId([6; 32]), s(1_000)),
                    signer: AccountId([4; 32]),
                },
                deposit: offer.deposit,
                refund: Signature([1; 64]),
                margin: 7_200,
                payee: guard,
                since: START.secs(),
            },
            OutFact::Opened {
                escrow: newer,
                balance: offer.deposit,
            },
        ];
        for fact in &facts {
            desk.payer
                .guards
                .get_mut(&guard)
                .unwrap()
                .apply(fact, &mut desk.payer.jitter);
        }
        desk.payer
            .guards
            .get_mut(&guard)
            .unwrap()
            .get_mut(newer)
            .unwrap()
            .books
            .known = true;
        let mut moved = None;
        for i in 0..40 {
            desk.now = desk.now.plus(1_000);
            desk.carry(UNIT);
            desk.keep_payments();
            while !desk.out.is_empty() {
                let pay = desk.payment(1).remove(0);
                if pay.claim.unwrap().escrow == newer {
                    moved.get_or_insert(i);
                } else {
                    assert_eq!(moved, None, "and not back");
                }
                desk.complete(pay.n, 0);
                desk.keep_payments();
            }
        }
        used.push(moved.expect("it moves in the end"));
    }
    used.sort();
    assert!(used[0] < used[5] && used[5] > 2, "at random times: {used:?}");
}

#[test]
fn a_guard_whose_books_say_closing_is_not_paid_by_that_escrow_and_it_is_noted_once() {
    let (mut desk, pays) = Desk::paying(&[100]);
    desk.complete(pays[0].n, 0);
    desk.say(Input::TunnelClosed {
        tunnel: T,
        why: CloseReason::Unused,
    });
    desk.out.clear();
    desk.open();
    desk.quote();
    desk.asked();
    let (k, signed) = desk.payer.signed(E).unwrap();
    desk.answer(ToOrigin::Balance(Balance {
        escrow: E,
        newest_k: k,
        cumulative: signed,
        unallocated: Stroops::ZERO,
        state: EscrowState::Closing,
    }));
    let closing = desk
        .facts
        .iter()
        .filter(|f| matches!(f, PayerFact::Out(OutFact::Closing { .. })));
    assert_eq!(closing.count(), 1);
    desk.carry(1 << 20);
    assert_eq!(desk.payer.signed(E).unwrap().0, k);
}

#[test]
fn no_more_is_locked_with_all_guards_than_the_limit() {
    for (max_locked, wanted) in [(999_999_999, false), (1_000_000_000, true)] {
        let config = PayerConfig {
            max_locked: Some(s(max_locked)),
            ..config()
        };
        let mut desk = Desk::new(config, &[100]);
        desk.open();
        desk.quote();
        assert_eq!(wants_by(&mut desk, START.plus(600_000)).is_some(), wanted);
    }
}
