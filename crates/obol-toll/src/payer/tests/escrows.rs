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
    assert_eq!(after.payer.spent(), s(352));
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
    desk.say(Input::Close { escrow: E });
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
    let k = desk.payer.signed(E).unwrap().0;
    assert!(
        asked.contains(&ToNode::CloseEscrow { escrow: E, final_k: k }),
        "{asked:?}"
    );
    desk.answer(ToOrigin::Closing { escrow: E, newest_k: k });
    desk.carry(10 << 20);
    assert_eq!(desk.payer.signed(E).unwrap().0, k);
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
