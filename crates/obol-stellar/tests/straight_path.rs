//! An escrow's whole life, over HTTP, against the embedded ledger.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{DEPOSIT, LIFE, WEALTH, World, key, stroops};
use obol_stellar::check::{Belief, EscrowStatus, believe};
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::rail::{FriendbotError, RailError};
use obol_stellar::settle::{EndError, Ended, Flushed, OneTime, OpenError, WindUp};
use obol_stellar::{Network, Rail as _, Tcp};
use std::sync::Arc;

#[tokio::test]
async fn an_escrow_opens_is_believed_settles_the_last_claim_to_the_stroop_and_leaves_nothing_behind() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let rails = [Arc::clone(&world.rail)];
    let believed = believe(&rails, &agreed.escrow, &Belief::default(), world.ledger.now()).await;
    assert_eq!(believed, Ok(stroops(DEPOSIT)));

    let flushed = world.settler.flush(&world.order(&agreed, 40, 123_457)).await.unwrap();
    let Flushed::Settled {
        amount, fee_charged, ..
    } = flushed
    else {
        panic!("{flushed:?}")
    };
    assert_eq!(amount, stroops(123_457));
    assert_eq!(fee_charged, stroops(300));
    assert_eq!(world.balance(world.payee.account()).await, 123_457);

    let ended = world.settler.ended(&agreed.escrow, stroops(DEPOSIT)).await.unwrap();
    let rest = DEPOSIT - 123_457;
    assert_eq!(
        ended,
        Some(Ended {
            paid: stroops(123_457),
            rest: stroops(rest)
        })
    );

    let home = world.payer.account();
    let swept = world
        .settler
        .wind_up(&agreed.escrow, &agreed.e, home, home)
        .await
        .unwrap();
    let merge_from = agreed.escrow.base_ledger();
    assert_eq!(swept, WindUp::Swept { merge_from });
    assert_eq!(world.balance(home).await, WEALTH - 123_457);
    world.pass_ledgers(60);
    let done = world
        .settler
        .wind_up(&agreed.escrow, &agreed.e, home, home)
        .await
        .unwrap();
    assert_eq!(done, WindUp::Done);
    assert_eq!(world.rail.account(agreed.e.account()).await, Ok(None));
    // 4 operations to open, 3 to flush, 1 to sweep, 2 to merge.
    assert_eq!(world.settler.status(&agreed.escrow).await, Ok(EscrowStatus::Absent));
    world.adds_up();
}

#[tokio::test]
async fn every_step_may_be_called_again_and_changes_nothing_the_second_time() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let before = world.ledger.latest().sequence;
    world.settler.open(&world.payer, &[agreed.opening()]).await.unwrap();
    assert_eq!(world.ledger.latest().sequence, before);

    let order = world.order(&agreed, 1, 7_000);
    let first = world.settler.flush(&order).await.unwrap();
    let again = world.settler.flush(&order).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(world.balance(world.payee.account()).await, 7_000);

    world.pass_ledgers(60);
    let home = world.payer.account();
    for _ in 0..3 {
        let done = world
            .settler
            .wind_up(&agreed.escrow, &agreed.e, home, home)
            .await
            .unwrap();
        assert_eq!(done, WindUp::Done);
    }
    assert_eq!(world.balance(home).await, WEALTH - 7_000);
    world.adds_up();
}

#[tokio::test]
async fn an_expired_escrow_goes_back_to_its_payer_and_not_a_second_earlier() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let deposit = stroops(DEPOSIT);
    let refund = || {
        world
            .settler
            .refund(&agreed.escrow, deposit, &agreed.e, agreed.refund, &world.payer)
    };
    assert!(matches!(refund().await, Err(EndError::NotYet { .. })));
    // The ledger itself refuses it too.
    let raw = agreed
        .escrow
        .signed_refund(agreed.refund, &agreed.e)
        .unwrap()
        .bumped(world.network.id(), &world.payer, stroops(200))
        .unwrap();
    assert!(world.refused(&raw).await.is("tx_too_early"));

    world.pass_time(LIFE + 1);
    let ended = refund().await.unwrap();
    assert_eq!(
        ended,
        Ended {
            paid: stroops(0),
            rest: deposit
        }
    );
    assert_eq!(refund().await.unwrap(), ended);
    world.pass_ledgers(60);
    let home = world.payer.account();
    let done = world
        .settler
        .wind_up(&agreed.escrow, &agreed.e, home, home)
        .await
        .unwrap();
    assert_eq!(done, WindUp::Done);
    assert_eq!(world.balance(home).await, WEALTH);
    // The payee comes too late.
    let late = world.settler.flush(&world.order(&agreed, 3, 5_000)).await.unwrap();
    assert_eq!(late, Flushed::Lost);
    world.adds_up();
}

#[tokio::test]
async fn several_escrows_open_in_one_transaction_out_of_a_one_time_account() {
    let world = World::funded().await;
    let one_time = key(60);
    let funding = OneTime {
        key: &one_time,
        money: stroops(2 * DEPOSIT),
        lumens: stroops(60_000_000),
    };
    for _ in 0..2 {
        world
            .settler
            .fund_one_time(&world.payer, world.asset, &[funding])
            .await
            .unwrap();
    }
    assert_eq!(world.balance(world.payer.account()).await, WEALTH - 2 * DEPOSIT);

    let (first, second) = (world.agree(10), world.agree(11));
    let before = world.ledger.latest().sequence;
    let opened = world
        .settler
        .open(&one_time, &[first.opening(), second.opening()])
        .await
        .unwrap();
    assert_eq!(world.ledger.latest().sequence, before + 1);
    assert_eq!(opened.escrows.len(), 2);
    for agreed in [&first, &second] {
        let rails = [Arc::clone(&world.rail)];
        let believed = believe(&rails, &agreed.escrow, &Belief::default(), world.ledger.now()).await;
        assert_eq!(believed, Ok(stroops(DEPOSIT)));
    }
    world.settler.flush(&world.order(&first, 1, DEPOSIT)).await.unwrap();
    world.settler.flush(&world.order(&second, 1, 1)).await.unwrap();
    assert_eq!(world.balance(world.payee.account()).await, DEPOSIT + 1);
    world.pass_ledgers(60);
    let next = world.payer.account();
    for agreed in [&first, &second] {
        let done = world
            .settler
            .wind_up(&agreed.escrow, &agreed.e, next, next)
            .await
            .unwrap();
        assert_eq!(done, WindUp::Done);
    }
    world.adds_up();
}

#[tokio::test]
async fn an_escrow_whose_time_to_open_has_passed_is_never_opened() {
    let world = World::funded().await;
    let agreed = world.agree(10);
    world.pass_ledgers(60);
    let opened = world.settler.open(&world.payer, &[agreed.opening()]).await;
    assert!(matches!(opened, Err(OpenError::TooLate)), "{opened:?}");
    assert_eq!(world.balance(world.payer.account()).await, WEALTH);
}

#[tokio::test]
async fn an_opening_that_cannot_be_paid_for_is_not_submitted() {
    let world = World::funded().await;
    let agreed = world.agree(10);
    let before = world.outbox.all().len();
    let mut dear = agreed.opening();
    dear.deposit = stroops(WEALTH + 1);
    let opened = world.settler.open(&world.payer, &[dear]).await;
    assert!(matches!(opened, Err(OpenError::NoMoney { .. })), "{opened:?}");
    let poor = key(61);
    let lumens = stroops(30_000_000);
    let create = obol_stellar::tx::Op::CreateAccount {
        account: poor.account(),
        lumens,
    };
    world
        .settler
        .transact([1; 32], &world.payer, &[], &[(None, create)])
        .await
        .unwrap();
    let opened = world.settler.open(&poor, &[agreed.opening()]).await;
    assert!(matches!(opened, Err(OpenError::NoLumens { .. })), "{opened:?}");
    assert_eq!(world.outbox.all().len(), before + 1);
}

#[tokio::test]
async fn the_wallet_pays_once_for_one_reference_and_asks_who_can_take_it() {
    let world = World::funded().await;
    let payee = world.payee.account();
    let pay = |reference, to, amount| {
        world
            .settler
            .pay([reference; 32], &world.payer, to, world.asset, stroops(amount))
    };
    for reference in [1, 2, 1, 2] {
        pay(reference, payee, 500).await.unwrap();
    }
    assert_eq!(world.balance(payee).await, 1_000);
    // The issuer takes everything back, and needs no trust line for it.
    pay(3, world.issuer.account(), 1).await.unwrap();
    let stranger = key(62);
    world.rail.friendbot(stranger.account()).await.unwrap();
    let refused = pay(4, stranger.account(), 1).await;
    assert!(
        matches!(refused, Err(obol_stellar::settle::WalletError::NoLine { .. })),
        "{refused:?}"
    );
    world.adds_up();
}

#[tokio::test]
async fn the_rail_tells_the_network_the_ledger_the_fees_and_who_is_not_there() {
    let world = World::funded().await;
    world.rail.check_network().await.unwrap();
    let other = Horizon::new(
        &world.server.url(),
        Network::testnet(),
        Arc::new(Tcp),
        Timeouts::default(),
    )
    .unwrap();
    assert!(matches!(
        other.check_network().await,
        Err(RailError::OtherNetwork { .. })
    ));
    let head = world.rail.latest_ledger().await.unwrap();
    let truth = world.ledger.latest();
    assert_eq!((head.sequence, head.close_time), (truth.sequence, truth.close_time));
    assert_eq!((head.base_fee, head.base_reserve), (100, 5_000_000));
    assert_eq!(world.rail.fee_stats().await.unwrap().base_fee, 100);
    assert_eq!(world.rail.account(key(99).account()).await, Ok(None));
    assert_eq!(
        world.rail.transaction(obol_stellar::tx::TxHash([7; 32])).await,
        Ok(None)
    );
    assert_eq!(
        world.rail.friendbot(world.payer.account()).await,
        Err(FriendbotError::AlreadyFunded)
    );
}
