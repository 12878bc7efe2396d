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
