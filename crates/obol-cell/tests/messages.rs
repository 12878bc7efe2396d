//! Properties of the codec: everything that can be said is read as it was said, fits, and nothing else is read at all.

use obol_cell::*;
use proptest::prelude::*;

fn stroops() -> impl Strategy<Value = Stroops> {
    prop_oneof![
        Just(Stroops::ZERO),
        Just(Stroops::MAX),
        (0..=i64::MAX).prop_map(|n| Stroops::new(n).expect("not negative"))
    ]
}

fn step() -> impl Strategy<Value = Step> {
    (0..=Step::MAX_POWER).prop_map(|p| Step::from_power(p).expect("in range"))
}

fn price() -> impl Strategy<Value = PricePer64KiB> {
    (0..=PricePer64KiB::MAX_RUNG).prop_map(|r| PricePer64KiB::from_rung(r).expect("in range"))
}

fn bytes<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    proptest::collection::vec(any::<u8>(), N).prop_map(|v| v.try_into().expect("so long"))
}

fn asset() -> impl Strategy<Value = Asset> {
    (bytes(), bytes()).prop_map(|(code, issuer)| Asset { code, issuer })
}

fn rules() -> impl Strategy<Value = EscrowRules> {
    (stroops(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(min_deposit, min_life, max_life, margin)| {
        EscrowRules {
            min_deposit,
            min_life,
            max_life,
            margin,
        }
    })
}

fn tariff() -> impl Strategy<Value = Tariff> {
    let ppm = prop_oneof![Just(0), Just(1_000), Just(10_000)].prop_map(|p| ForwardPpm::new(p).expect("one of three"));
    (price(), ppm, price(), step(), bytes(), asset(), rules()).prop_map(
        |(price, forward_ppm, forward_ceiling, max_step, network, asset, rules)| Tariff {
            price,
            forward_ppm,
            forward_ceiling,
            max_step,
            network: NetworkId(network),
            asset,
            rules,
        },
    )
}

fn offer() -> impl Strategy<Value = EscrowOffer> {
    (bytes(), bytes(), asset(), any::<u64>(), any::<u64>(), stroops()).prop_map(
        |(escrow, network, asset, s0, expiry, deposit)| EscrowOffer {
            escrow: EscrowId(escrow),
            network: NetworkId(network),
            asset,
            s0,
            expiry,
            deposit,
        },
    )
}

fn acceptance() -> impl Strategy<Value = EscrowAcceptance> {
    (bytes(), bytes(), bytes(), stroops(), bytes()).prop_map(|(escrow, signer, account, min_deposit, refund)| {
        EscrowAcceptance {
            escrow: EscrowId(escrow),
            signer: AccountId(signer),
            payee_account: AccountId(account),
            min_deposit,
            refund: Signature(refund),
        }
    })
}

fn opening() -> impl Strategy<Value = Option<OpeningTerms>> {
    proptest::option::of((any::<u64>(), any::<u64>(), bytes(), stroops()).prop_map(
        |(s0, expiry, account, min_deposit)| OpeningTerms {
            s0,
            expiry,
            payee_account: AccountId(account),
            min_deposit,
        },
    ))
}

fn balance() -> impl Strategy<Value = Balance> {
    let state = prop_oneof![
        Just(EscrowState::Open),
        Just(EscrowState::Closing),
        Just(EscrowState::Unknown)
    ];
    (bytes(), any::<u32>(), stroops(), stroops(), state).prop_map(
        |(escrow, newest_k, cumulative, unallocated, state)| Balance {
            escrow: EscrowId(escrow),
            newest_k,
            cumulative,
            unallocated,
            state,
        },
    )
}

fn refuse_code() -> impl Strategy<Value = RefuseCode> {
    prop_oneof![
        Just(RefuseCode::NoFunds),
        Just(RefuseCode::OverLimit),
        Just(RefuseCode::Failed),
        Just(RefuseCode::Closing)
    ]
}

fn decline_code() -> impl Strategy<Value = DeclineCode> {
    prop_oneof![
        Just(DeclineCode::NotNow),
        Just(DeclineCode::OtherMoney),
        Just(DeclineCode::OutsideRules),
        Just(DeclineCode::Exists),
        Just(DeclineCode::Unknown)
    ]
}

fn pay() -> impl Strategy<Value = Pay> {
    let forward = prop_oneof![Just(Forward::Last), stroops().prop_map(Forward::Pass)];
    let claim = (bytes(), any::<u32>(), stroops(), stroops(), bytes(), opening()).prop_map(
        |(escrow, k, cumulative, allocation, signature, opening)| Claim {
            escrow: EscrowId(escrow),
            k,
            cumulative,
            allocation,
            signature: Signature(signature),
            opening,
        },
    );
    (1..=u16::MAX, step(), forward, proptest::option::of(claim)).prop_map(|(n, step, forward, claim)| Pay {
        n,
        step,
        forward,
        claim,
    })
}

fn to_node() -> impl Strategy<Value = ToNode> {
    prop_oneof![
        Just(ToNode::QuoteQuery),
        offer().prop_map(ToNode::OfferEscrow),
        (bytes(), opening(), bytes()).prop_map(|(e, opening, owner)| ToNode::BalanceQuery {
            escrow: EscrowId(e),
            opening,
            owner: Signature(owner)
        }),
        (any::<u16>(), any::<u64>()).prop_map(|(id, low)| ToNode::Listen {
            id,
            low: LowWater::at_least(low)
        }),
        any::<u16>().prop_map(|id| ToNode::Cancel { id }),
        pay().prop_map(ToNode::Pay),
        (bytes(), any::<u32>(), bytes()).prop_map(|(e, final_k, owner)| ToNode::CloseEscrow {
            escrow: EscrowId(e),
            final_k,
            owner: Signature(owner)
        }),
    ]
}

fn to_origin() -> impl Strategy<Value = ToOrigin> {
    let n = any::<u64>;
    prop_oneof![
        (tariff(), any::<bool>(), n(), n()).prop_map(|(tariff, next, credit, valid_until)| {
            ToOrigin::Quote(Quote {
                tariff,
                next,
                credit,
                valid_until,
            })
        }),
        acceptance().prop_map(ToOrigin::EscrowAccepted),
        balance().prop_map(ToOrigin::Balance),
        (any::<u16>(), n(), n(), n()).prop_map(|(id, metered, paid, credit)| {
            ToOrigin::PaymentRequest {
                id,
                metered,
                paid,
                credit,
            }
        }),
        any::<u16>().prop_map(|id| ToOrigin::Nothing { id }),
        (any::<u16>(), n(), n(), n()).prop_map(|(n, metered, paid, credit)| ToOrigin::Complete {
            n,
            metered,
            paid,
            credit
        }),
        (any::<u16>(), any::<u8>(), refuse_code()).prop_map(|(n, distance, code)| ToOrigin::Refused {
            n,
            distance,
            code
        }),
        (bytes(), any::<u32>()).prop_map(|(e, newest_k)| ToOrigin::Closing {
            escrow: EscrowId(e),
            newest_k
        }),
        decline_code().prop_map(|code| ToOrigin::Declined(Declined { code })),
    ]
}

fn link_message() -> impl Strategy<Value = LinkMessage> {
    let allocation =
        || (any::<u32>(), 1..=u16::MAX, stroops()).prop_map(|(circuit, n, amount)| Allocation { circuit, n, amount });
    let allocations = || proptest::collection::vec(allocation(), 0..=MAX_ALLOCATIONS);
    prop_oneof![
        (bytes(), asset(), rules()).prop_map(|(n, asset, rules)| {
            LinkMessage::LegHello {
                network: NetworkId(n),
                asset,
                rules,
            }
        }),
        offer().prop_map(LinkMessage::LegOffer),
        acceptance().prop_map(LinkMessage::LegAccepted),
        (bytes(), decline_code()).prop_map(|(e, code)| LinkMessage::LegDeclined {
            escrow: EscrowId(e),
            code
        }),
        (bytes(), any::<u32>(), stroops(), bytes(), opening(), allocations()).prop_map(
            |(escrow, k, cumulative, signature, opening, allocations)| LinkMessage::LegPay(LegPay {
                escrow: EscrowId(escrow),
                k,
                cumulative,
                signature: Signature(signature),
                opening,
                allocations
            })
        ),
        (bytes(), opening(), bytes()).prop_map(|(e, opening, owner)| LinkMessage::LegQuery {
            escrow: EscrowId(e),
            opening,
            owner: Signature(owner)
        }),
        balance().prop_map(LinkMessage::LegBalance),
        (any::<u32>(), any::<u16>(), any::<u8>(), refuse_code()).prop_map(|(circuit, n, distance, code)| {
            LinkMessage::LegRefused {
                circuit,
                n,
                distance,
                code,
            }
        }),
        (bytes(), any::<u32>()).prop_map(|(e, final_k)| LinkMessage::LegClose {
            escrow: EscrowId(e),
            final_k
        }),
        trust_books().prop_map(LinkMessage::LegTrusted),
        (any::<u32>(), stroops(), bytes(), bytes(), allocations()).prop_map(
            |(k, cumulative, memo, signature, allocations)| LinkMessage::LegTrust(LegTrust {
                k,
                cumulative,
                memo: SettlementMemo(memo),
                signature: Signature(signature),
                allocations
            })
        ),
        (bytes(), stroops()).prop_map(|(t, amount)| LinkMessage::LegPaid {
            transaction: TransactionId(t),
            amount
        }),
        (bytes(), stroops()).prop_map(|(t, total)| LinkMessage::LegSettled {
            transaction: TransactionId(t),
            total
        }),
    ]
}

fn trust_books() -> impl Strategy<Value = TrustBooks> {
    let statement = (any::<u32>(), stroops(), bytes());
    (bytes(), stroops(), statement, stroops(), stroops()).prop_map(
        |(account, max_unsettled, (k, cumulative, signature), unallocated, settled)| TrustBooks {
            account: AccountId(account),
            max_unsettled,
            k,
            cumulative,
            signature: Signature(signature),
            unallocated,
            settled,
        },
    )
}

proptest! {
    #[test]
    fn what_a_client_says_is_read_as_it_was_said_and_fits_one_cell(message in to_node()) {
        let body = message.encode();
        prop_assert!(body.len() <= MAX_CELL_BODY);
        prop_assert_eq!(ToNode::decode(&body), Ok(message));
    }

    #[test]
    fn what_a_hop_says_is_read_as_it_was_said_and_fits_one_cell(message in to_origin()) {
        let body = message.encode();
        prop_assert!(body.len() <= MAX_CELL_BODY);
        prop_assert_eq!(ToOrigin::decode(&body), Ok(message));
    }

    #[test]
    fn what_a_relay_says_is_read_as_it_was_said(message in link_message()) {
        let body = message.encode();
        prop_assert!(body.len() <= MAX_LINK_BODY);
        prop_assert_eq!(LinkMessage::decode(&body), Ok(message));
    }

    #[test]
    fn a_body_that_is_cut_short_or_goes_on_is_an_error(message in to_node(), origin in to_origin(), link in link_message()) {
        for (body, decodes) in [
            (message.encode(), (|b: &[u8]| ToNode::decode(b).is_ok()) as fn(&[u8]) -> bool),
            (origin.encode(), |b| ToOrigin::decode(b).is_ok()),
            (link.encode(), |b| LinkMessage::decode(b).is_ok()),
        ] {
            for end in 0..body.len() {
                prop_assert!(!decodes(&body[..end]));
            }
            let mut longer = body;
            longer.push(0);
            prop_assert!(!decodes(&longer));
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_message_that_encodes_to_them(mut body in proptest::collection::vec(any::<u8>(), 0..600), kind in 0u8..16) {
        if body.len() >= 2 {
            (body[0], body[1]) = (VERSION, kind);
        }
        if let Ok(m) = ToNode::decode(&body) {
            prop_assert_eq!(m.encode(), body.clone());
        }
        if let Ok(m) = ToOrigin::decode(&body) {
            prop_assert_eq!(m.encode(), body.clone());
        }
        if let Ok(m) = LinkMessage::decode(&body) {
            prop_assert_eq!(m.encode(), body);
        }
    }

    #[test]
    fn the_cost_of_a_step_is_exact(rung in 0..=PricePer64KiB::MAX_RUNG, power in 0..=Step::MAX_POWER) {
        let price = PricePer64KiB::from_rung(rung).expect("in range");
        let step = Step::from_power(power).expect("in range");
        let exact = i128::from(price.stroops().get()) * i128::from(step.units());
        match price.cost(step) {
            Some(cost) => prop_assert_eq!(i128::from(cost.get()), exact),
            None => prop_assert!(exact > i128::from(i64::MAX)),
        }
    }

    #[test]
    fn only_rungs_are_prices(n in 0u64..2_000_000) {
        let mut m = n;
        while m >= 10 && m % 10 == 0 {
            m /= 10;
        }
        prop_assert_eq!(PricePer64KiB::new(n).is_ok(), [1, 2, 5].contains(&m));
        if let Some(rung) = PricePer64KiB::at_least(n) {
            prop_assert!(rung.stroops().get_u64() >= n);
            if let Some(lower) = rung.rung().checked_sub(1) {
                prop_assert!(PricePer64KiB::from_rung(lower).expect("lower").stroops().get_u64() < n);
            }
        }
    }

    #[test]
    fn a_step_within_is_the_largest_power_of_two(bytes in any::<u64>()) {
        match Step::largest_within(bytes) {
            None => prop_assert!(bytes < UNIT),
            Some(step) => {
                prop_assert!(step.bytes() <= bytes);
                let top = step.power() == Step::MAX_POWER;
                prop_assert!(top || step.bytes() > bytes / 2);
            }
        }
    }

    #[test]
    fn a_fee_is_rounded_up_once_and_never_falls(a in 0..=i64::MAX / 2, b in 0..=i64::MAX / 2) {
        let ppm = ForwardPpm::new(1_000).expect("one of three");
        let (a, b) = (Stroops::new(a).expect("positive"), Stroops::new(b).expect("positive"));
        let sum = a.checked_add(b).expect("fits");
        let exact = (i128::from(sum.get()) * 1_000 + 999_999) / 1_000_000;
        prop_assert_eq!(i128::from(ppm.fee_on(sum).get()), exact);
        prop_assert!(ppm.fee_on(sum) >= ppm.fee_on(a));
        prop_assert!(ForwardPpm::NONE.fee_on(sum).is_zero());
    }

    #[test]
    fn money_is_added_and_subtracted_with_a_check(a in stroops(), b in stroops()) {
        match a.checked_add(b) {
            Some(sum) => prop_assert_eq!(sum.checked_sub(b), Some(a)),
            None => prop_assert!(i128::from(a.get()) + i128::from(b.get()) > i128::from(i64::MAX)),
        }
        prop_assert_eq!(a.checked_sub(b).is_none(), b > a);
        prop_assert_eq!(a.saturating_sub(b), a.checked_sub(b).unwrap_or(Stroops::ZERO));
        if let Some((times, rest)) = a.div_rem(b) {
            prop_assert!(rest < b);
            let whole = b.checked_mul(times).and_then(|w| w.checked_add(rest));
            prop_assert_eq!(whole, Some(a));
        } else {
            prop_assert!(b.is_zero());
        }
    }
}

#[test]
fn amounts_above_two_to_the_63_are_refused() {
    let mut body = ToNode::Pay(Pay {
        n: 1,
        step: Step::FIRST,
        forward: Forward::Pass(Stroops::MAX),
        claim: None,
    })
    .encode();
    let at = body.len() - 8;
    assert!(ToNode::decode(&body).is_ok());
    body[at] = 0x80;
    assert_eq!(ToNode::decode(&body), Err(DecodeError::Unit(UnitError::Amount)));
}

#[test]
fn the_layout_of_a_payment_is_what_it_was() {
    let pay = Pay {
        n: 0x0102,
        step: Step::from_power(3).expect("in range"),
        forward: Forward::Pass(Stroops::new(0x0a0b).expect("positive")),
        claim: None,
    };
    assert_eq!(hex::encode(ToNode::Pay(pay).encode()), "0106000102030000000000000a0b");
    let last = Pay {
        forward: Forward::Last,
        ..pay
    };
    assert_eq!(hex::encode(ToNode::Pay(last).encode()), "010601010203");
}

#[test]
fn the_layout_of_a_question_about_an_escrow_is_what_it_was() {
    let escrow = EscrowId([0xee; 32]);
    let owner = Signature([0x55; 64]);
    let (e, signature) = ("ee".repeat(32), "55".repeat(64));
    let query = ToNode::BalanceQuery {
        escrow,
        opening: None,
        owner,
    };
    assert_eq!(hex::encode(query.encode()), format!("0103{e}{signature}00"));
    let close = ToNode::CloseEscrow {
        escrow,
        final_k: 0x0102_0304,
        owner,
    };
    assert_eq!(hex::encode(close.encode()), format!("0107{e}01020304{signature}"));
    let query = LinkMessage::LegQuery {
        escrow,
        opening: None,
        owner,
    };
    assert_eq!(hex::encode(query.encode()), format!("0109{e}{signature}00"));
}

#[test]
fn what_an_owner_signs_names_the_ledger_the_payee_the_escrow_and_the_question() {
    let ownership = Ownership {
        network: NetworkId([0x11; 32]),
        payee: PeerId([0x22; 32]),
        escrow: EscrowId([0x33; 32]),
        asks: OwnerAsks::Books,
    };
    let (n, p, e) = ("11".repeat(32), "22".repeat(32), "33".repeat(32));
    let label = hex::encode("obol-owner-1");
    assert_eq!(hex::encode(ownership.message()), format!("{label}{n}{p}{e}0100000000"));
    let close = Ownership {
        asks: OwnerAsks::Close { final_k: 0x0102_0304 },
        ..ownership
    };
    assert_eq!(hex::encode(close.message()), format!("{label}{n}{p}{e}0201020304"));
    assert_eq!(close.message().len(), Ownership::LEN);
}

#[test]
fn undefined_flags_kinds_and_versions_are_refused() {
    assert_eq!(ToNode::decode(&[2, 1]), Err(DecodeError::Version(2)));
    assert_eq!(ToNode::decode(&[1, 0]), Err(DecodeError::Kind(0)));
    assert_eq!(ToNode::decode(&[]), Err(DecodeError::TooShort));
    // Terms without a claim; a flag that nobody knows; payment 0.
    for body in [[1, 6, 4, 0, 1, 0], [1, 6, 9, 0, 1, 0], [1, 6, 1, 0, 0, 0]] {
        assert!(matches!(ToNode::decode(&body), Err(DecodeError::Undefined { .. })));
    }
}

#[test]
fn low_water_marks_are_powers_of_two_from_1_kib() {
    assert_eq!(LowWater::at_least(0).bytes(), 1_024);
    assert_eq!(LowWater::at_least(1_025).bytes(), 2_048);
    assert_eq!(LowWater::at_most(2_047).bytes(), 1_024);
    assert_eq!(LowWater::at_most(2_048).bytes(), 2_048);
    assert_eq!(LowWater::at_least(u64::MAX).bytes(), 1 << 40);
    assert!(ToNode::decode(&[1, 4, 0, 1, 9]).is_err());
    assert!(ToNode::decode(&[1, 4, 0, 1, 41]).is_err());
}
