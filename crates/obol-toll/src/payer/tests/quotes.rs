//! What hops ask, and what is not paid.

use super::*;

#[test]
fn a_hop_over_the_ceiling_ends_the_chain_before_it() {
    let mut desk = Desk::new(config(), &[100, 500, 100]);
    desk.open();
    let (_, first) = desk.asked();
    assert_eq!(first, ToNode::QuoteQuery);
    desk.answer(ToOrigin::Quote(Quote {
        tariff: tariff(100),
        next: true,
        credit: 0,
        valid_until: 0,
    }));
    desk.asked();
    desk.answer(ToOrigin::Quote(Quote {
        tariff: tariff(500),
        next: true,
        credit: 0,
        valid_until: 0,
    }));
    assert!(matches!(desk.unpaid()[..], [(2, Unpaid::TooDear { .. })]));
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 1
    }));
}

#[test]
fn paying_whatever_is_quoted_would_be_noticed() {
    let dear = || {
        let mut desk = Desk::new(config(), &[500]);
        desk.open();
        desk.asked();
        desk.answer(ToOrigin::Quote(Quote {
            tariff: tariff(500),
            next: false,
            credit: 0,
            valid_until: 0,
        }));
        desk.reports.contains(&Report::Chain {
            tunnel: T,
            paid_hops: 0,
        })
    };
    assert!(dear());
    assert!(!defects::with(defects::Defect::NoCeilings, dear));
}

#[test]
fn a_second_quote_on_the_same_day_ends_payment_to_that_relay() {
    let (mut desk, _) = Desk::paying(&[100]);
    desk.complete(1, 0);
    desk.out.clear();
    let other = TunnelId(2);
    desk.say(Input::TunnelOpened {
        tunnel: other,
        hops: vec![Hop {
            peer: PeerId([1; 32]),
            paid: true,
        }],
    });
    let mut quote = Quote {
        tariff: tariff(50),
        next: false,
        credit: 0,
        valid_until: 0,
    };
    desk.out.clear();
    desk.say(Input::Answer {
        tunnel: other,
        body: ToOrigin::Quote(quote).encode(),
    });
    assert_eq!(desk.unpaid(), [(1, Unpaid::QuoteChanged)]);
    // Another day, another quote.
    desk.now = desk.now.plus(86_400_000);
    quote.tariff.price = PricePer64KiB::new(20).unwrap();
    desk.say(Input::TunnelOpened {
        tunnel: TunnelId(3),
        hops: vec![Hop {
            peer: PeerId([1; 32]),
            paid: true,
        }],
    });
    desk.say(Input::Answer {
        tunnel: TunnelId(3),
        body: ToOrigin::Quote(quote).encode(),
    });
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: TunnelId(3),
        paid_hops: 1
    }));
}

#[test]
fn money_of_another_network_or_asset_is_not_paid() {
    for change in [
        |t: &mut Tariff| t.network = NetworkId([8; 32]),
        |t: &mut Tariff| t.asset.issuer = [8; 32],
    ] {
        let mut desk = Desk::new(config(), &[100]);
        desk.open();
        desk.asked();
        let mut tariff = tariff(100);
        change(&mut tariff);
        desk.answer(ToOrigin::Quote(Quote {
            tariff,
            next: false,
            credit: 0,
            valid_until: 0,
        }));
        assert_eq!(desk.unpaid(), [(1, Unpaid::OtherMoney)]);
    }
}

fn chain_of(ceilings: &[(u64, u64)], chain_ceiling: i64) -> (Vec<(u8, Unpaid)>, u8) {
    let config = PayerConfig {
        chain_ceiling: s(chain_ceiling),
        ..config()
    };
    let mut desk = Desk::new(config, &vec![1; ceilings.len()]);
    desk.open();
    for (i, (price, forward_ceiling)) in ceilings.iter().enumerate() {
        let mut tariff = tariff(*price);
        tariff.forward_ceiling = PricePer64KiB::new(*forward_ceiling).unwrap();
        desk.answer(ToOrigin::Quote(Quote {
            tariff,
            next: i + 1 < ceilings.len(),
            credit: 0,
            valid_until: 0,
        }));
    }
    let hops = desk.reports.iter().rev().find_map(|r| match r {
        Report::Chain { paid_hops, .. } => Some(*paid_hops),
        _ => None,
    });
    (desk.unpaid(), hops.unwrap())
}

#[test]
fn the_chain_ends_at_the_hop_whose_ceiling_does_not_cover_those_after_it() {
    let any = 1_000_000;
    // Hop 2 passes on exactly what hop 3 asks, and hop 1 both of them with hop 2's fee.
    assert_eq!(chain_of(&[(100, any), (50, 200), (200, any)], 100_000), (vec![], 3));
    assert_eq!(
        chain_of(&[(100, any), (50, 100), (200, any)], 100_000),
        (vec![(3, Unpaid::ForwardCeiling)], 2)
    );
    assert_eq!(
        chain_of(&[(100, 200), (50, any), (200, any)], 100_000),
        (vec![(2, Unpaid::ForwardCeiling)], 1)
    );
}

#[test]
fn a_chain_that_is_too_dear_as_a_whole_is_paid_up_to_where_it_is_not() {
    let any = 1_000_000;
    let hops = [(100, any), (50, any), (200, any)];
    let too_dear = |price| Unpaid::TooDear {
        price: PricePer64KiB::new(price).unwrap(),
    };
    assert_eq!(chain_of(&hops, 352), (vec![], 3));
    assert_eq!(chain_of(&hops, 351), (vec![(3, too_dear(200))], 2));
    assert_eq!(chain_of(&hops, 150), (vec![(3, too_dear(200)), (2, too_dear(50))], 1));
    assert_eq!(chain_of(&hops, 99).1, 0);
}

#[test]
fn a_hop_that_will_not_quote_ends_the_chain_before_it() {
    let mut desk = Desk::new(config(), &[100, 50]);
    desk.open();
    desk.answer(ToOrigin::Quote(Quote {
        tariff: tariff(100),
        next: true,
        credit: 0,
        valid_until: 0,
    }));
    desk.answer(ToOrigin::Declined(obol_cell::Declined {
        code: DeclineCode::NotNow,
    }));
    assert_eq!(desk.unpaid(), [(2, Unpaid::Declined)]);
    assert!(desk.reports.contains(&Report::Chain {
        tunnel: T,
        paid_hops: 1
    }));
    assert!(!desk.out.iter().any(|o| matches!(o, Output::GiveUp { .. })));
}
