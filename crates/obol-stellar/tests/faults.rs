//! Ledger servers that break, lie or hold back; crashes at any step. Nothing is ever paid twice, and nothing is sent that
//! was not recorded first.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use common::faulty::{Fault, Faulty};
use common::{DEPOSIT, LIFE, WEALTH, World, stroops};
use obol_stellar::outbox::{Outbox, OutboxError, Outcome, Purpose, Submission};
use obol_stellar::rail::TxRecord;
use obol_stellar::settle::{CarryError, Flushed, OpenError, WalletError};
use obol_stellar::tx::{SignedTx, TxHash};
use obol_stellar::{Rail, Settler};

fn settler(world: &World, rail: &Arc<Faulty>) -> Settler {
    world.settler(
        Arc::clone(rail) as Arc<dyn Rail>,
        Arc::clone(&world.outbox) as Arc<dyn Outbox>,
    )
}

fn submit_errors_are_pending<T: std::fmt::Debug>(result: Result<T, CarryError>) {
    assert!(matches!(result, Err(CarryError::Pending { .. })), "{result:?}");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_on_the_ledger_and_nothing_is_done_twice() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::LosesAnswers);
    let settler = settler(&world, &rail);
    let agreed = world.agree(10);
    settler.open(&world.payer, &[agreed.opening()]).await.unwrap();
    let flushed = settler.flush(&world.order(&agreed, 5, 5_000)).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { amount, .. } if amount == stroops(5_000)));
    settler
        .pay([1; 32], &world.payer, world.payee.account(), world.asset, stroops(7))
        .await
        .unwrap();
    assert_eq!(rail.submissions.load(Ordering::Relaxed), 3);
    assert_eq!(world.balance(world.payee.account()).await, 5_007);
    assert_eq!(world.outbox.pending().await.unwrap(), []);
    world.adds_up();
}

#[tokio::test]
async fn what_a_server_dropped_stays_pending_and_gets_through_when_asked_again() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::Drops);
    let settler = settler(&world, &rail);
    let pay = || settler.pay([1; 32], &world.payer, world.payee.account(), world.asset, stroops(7));
    let carried = |result: Result<TxRecord, WalletError>| match result {
        Err(WalletError::Carry(error)) => Err(error),
        Ok(record) => Ok(record),
        other => panic!("{other:?}"),
    };
    submit_errors_are_pending(carried(pay().await));
    submit_errors_are_pending(carried(pay().await));
    rail.becomes(Fault::Down);
    submit_errors_are_pending(carried(pay().await));
    rail.becomes(Fault::None);
    pay().await.unwrap();
    pay().await.unwrap();
    assert_eq!(world.balance(world.payee.account()).await, 7);
    let distinct: std::collections::BTreeSet<_> = rail.seen().iter().map(SignedTx::sequence).collect();
    assert_eq!(distinct.len(), 1, "every attempt had the same sequence number");
    world.adds_up();
}

/// A server says "rejected", keeps the transaction, and submits it after the payer made another attempt.
#[tokio::test]
async fn a_payment_that_was_withheld_and_comes_late_is_not_made_twice() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::Withholds);
    let settler = settler(&world, &rail);
    let payee = world.payee.account();
    let pay = || settler.pay([1; 32], &world.payer, payee, world.asset, stroops(7));
    assert!(matches!(
        pay().await,
        Err(WalletError::Carry(CarryError::Rejected { .. }))
    ));
    world.pass_time(20);
    rail.becomes(Fault::None);
    // Another purpose of the same account may go on meanwhile: it takes the sequence number, or leaves it.
    settler
        .pay([2; 32], &world.payer, payee, world.asset, stroops(100))
        .await
        .unwrap();
    pay().await.unwrap();
    for kept in rail.seen() {
        let _ = world.rail.submit(&kept).await;
    }
    assert_eq!(world.balance(payee).await, 107);
    world.adds_up();
}

#[tokio::test]
async fn a_withheld_payment_that_gets_through_before_the_second_attempt_is_the_payment() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::Withholds);
    let settler = settler(&world, &rail);
    let payee = world.payee.account();
    let pay = || settler.pay([1; 32], &world.payer, payee, world.asset, stroops(7));
    assert!(pay().await.is_err());
    world.rail.submit(&rail.seen()[0]).await.unwrap();
    let record = pay().await.unwrap();
    assert_eq!(record.hash, rail.seen()[0].hash());
    assert_eq!(world.balance(payee).await, 7);
}

/// Two accounts have two sequence numbers: the ledger would let both through.
#[tokio::test]
async fn a_payment_that_may_still_get_through_is_not_made_from_another_account() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::Withholds);
    let settler = settler(&world, &rail);
    let payee = world.payee.account();
    let pay = |from| settler.pay([1; 32], from, payee, world.asset, stroops(7));
    assert!(pay(&world.payer).await.is_err());
    rail.becomes(Fault::Drops);
    let other = pay(&world.issuer).await;
    assert!(
        matches!(other, Err(WalletError::Carry(CarryError::Pending { .. }))),
        "{other:?}"
    );
    assert_eq!(
        world
            .outbox
            .all()
            .iter()
            .filter(|s| s.purpose == Purpose::Wallet([1; 32]))
            .count(),
        1
    );
    world.rail.submit(&rail.seen()[0]).await.unwrap();
    rail.becomes(Fault::None);
    pay(&world.issuer).await.unwrap();
    assert_eq!(world.balance(payee).await, 7);
    world.adds_up();
}

#[tokio::test]
async fn a_transaction_whose_time_is_over_is_dead_and_may_be_made_anew() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::Withholds);
    let settler = settler(&world, &rail);
    let payee = world.payee.account();
    let pay = || settler.pay([1; 32], &world.payer, payee, world.asset, stroops(7));
    assert!(pay().await.is_err());
    let kept = rail.seen().remove(0);
    world.pass_time(400);
    let resumed = settler.resume().await.unwrap();
    assert_eq!((resumed.dead, resumed.alive), (1, 0));
    assert_eq!(world.outbox.outcome(kept.hash()), Some(Outcome::Dead));
    assert!(world.refused(&kept).await.is("tx_too_late"));
    rail.becomes(Fault::None);
    pay().await.unwrap();
    assert_eq!(world.balance(payee).await, 7);
}

#[tokio::test]
async fn a_flush_offers_ten_times_as_much_until_the_ledger_takes_it_and_stops_at_the_highest_fee() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::WantsFee(20_000));
    let settler = settler(&world, &rail);
    let agreed = world.opened(10).await;
    let flushed = settler.flush(&world.order(&agreed, 5, 5_000)).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { .. }), "{flushed:?}");
    let fees: Vec<i64> = world
        .outbox
        .all()
        .iter()
        .filter(|s| matches!(s.purpose, Purpose::Flush(_)))
        .map(|s| s.fee.get())
        .collect();
    assert_eq!(fees, [300, 3_000, 30_000]);
    // One wrapping is in the ledger, the others never will be.
    assert_eq!(world.outbox.pending().await.unwrap(), []);
    let hashes: Vec<TxHash> = rail.seen().iter().map(SignedTx::hash).collect();
    assert_eq!(world.outbox.outcome(hashes[0]), Some(Outcome::Dead));
    assert!(matches!(world.outbox.outcome(hashes[2]), Some(Outcome::Applied { .. })));

    let second = world.opened(11).await;
    rail.becomes(Fault::WantsFee(i64::MAX));
    let refused = settler.flush(&world.order(&second, 5, 5_000)).await;
    assert!(refused.is_err());
    let highest = world.outbox.all().iter().map(|s| s.fee.get()).max();
    assert_eq!(highest, Some(300_000), "the next would be above the limit of 1,000,000");
    // The fee spike ends, and the claim is as good as ever.
    rail.becomes(Fault::None);
    settler.flush(&world.order(&second, 5, 5_000)).await.unwrap();
    assert_eq!(world.balance(world.payee.account()).await, 10_000);
    world.adds_up();
}

#[tokio::test]
async fn a_flush_that_no_ledger_takes_is_bumped_as_ledgers_pass() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::Drops);
    let settler = settler(&world, &rail);
    let agreed = world.opened(10).await;
    let order = world.order(&agreed, 5, 5_000);
    let flushing = settler.flush(&order);
    let ledgers = async {
        // One more ledger whenever the server was asked once more, until three bumps were seen.
        let mut asked = 0;
        while rail
            .seen()
            .iter()
            .map(SignedTx::hash)
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            < 3
        {
            let now = rail.submissions.load(Ordering::Relaxed);
            if now != asked {
                asked = now;
                world.pass_ledgers(1);
            }
            tokio::task::yield_now().await;
        }
        rail.becomes(Fault::None);
    };
    let (flushed, ()) = tokio::join!(flushing, ledgers);
    assert!(matches!(flushed.unwrap(), Flushed::Settled { .. }));
    world.adds_up();
}

#[tokio::test]
async fn somebody_else_may_wrap_our_claim_and_it_still_counts_as_settled() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let claim = agreed
        .escrow
        .countersigned(
            4,
            stroops(4_000),
            agreed.claim(4, 4_000),
            &world.secret.signer(agreed.escrow.terms()),
        )
        .unwrap();
    let rail = Faulty::of(&world, Fault::Withholds);
    let settler = settler(&world, &rail);
    assert!(settler.flush(&world.order(&agreed, 4, 4_000)).await.is_err());
    let strangers = claim.bumped(world.network.id(), &world.payer, stroops(500)).unwrap();
    world.rail.submit(&strangers).await.unwrap();
    let flushed = settler.flush(&world.order(&agreed, 4, 4_000)).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { amount, .. } if amount == stroops(4_000)));
    assert_eq!(world.balance(world.payee.account()).await, 4_000);
}

#[tokio::test]
async fn an_opening_whose_fate_is_unknown_is_decided_by_the_ledger_alone() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::Withholds);
    let settler = settler(&world, &rail);
    let agreed = world.agree(10);
    let open = || async { settler.open(&world.payer, &[agreed.opening()]).await };
    let first = open().await;
    assert!(matches!(first, Err(OpenError::Carry(CarryError::Rejected { .. }))));
    // The withheld opening still fits into a ledger before S0: it is not given up.
    world.pass_ledgers(58);
    let late = open().await;
    assert!(matches!(late, Err(OpenError::Carry(_))), "{late:?}");
    world.pass_ledgers(4);
    assert!(matches!(open().await, Err(OpenError::TooLate)));
    assert!(world.refused(&rail.seen()[0]).await.is("tx_too_late"));
    assert_eq!(world.balance(world.payer.account()).await, WEALTH);

    // The same, but it got through in the last moment.
    let agreed = world.agree(11);
    assert!(settler.open(&world.payer, &[agreed.opening()]).await.is_err());
    let kept = rail.seen().pop().unwrap();
    world.rail.submit(&kept).await.unwrap();
    let opened = settler.open(&world.payer, &[agreed.opening()]).await.unwrap();
    assert_eq!(opened.escrows[0].1, stroops(DEPOSIT));
}

#[tokio::test]
async fn after_a_crash_between_recording_and_sending_the_next_start_sends_it() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    // The process ended after the record: what the ledger's server never saw.
    let rail = Faulty::of(&world, Fault::Down);
    assert!(
        settler(&world, &rail)
            .flush(&world.order(&agreed, 5, 5_000))
            .await
            .is_err()
    );
    assert_eq!(world.outbox.pending().await.unwrap().len(), 4, "each fee was recorded");

    let restarted = world.settler(Arc::clone(&world.rail), Arc::clone(&world.outbox) as Arc<dyn Outbox>);
    let resumed = restarted.resume().await.unwrap();
    assert_eq!(resumed.alive, 0);
    assert_eq!(world.balance(world.payee.account()).await, 5_000);
    let flushed = restarted.flush(&world.order(&agreed, 5, 5_000)).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { amount, .. } if amount == stroops(5_000)));
    world.adds_up();
}

#[tokio::test]
async fn a_refund_whose_answer_was_lost_returns_the_deposit_once() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    world.pass_time(LIFE + 1);
    let rail = Faulty::of(&world, Fault::LosesAnswers);
    let settler = settler(&world, &rail);
    for _ in 0..2 {
        let ended = settler
            .refund(&agreed.escrow, stroops(DEPOSIT), &agreed.e, agreed.refund, &world.payer)
            .await
            .unwrap();
        assert_eq!(ended.rest, stroops(DEPOSIT));
    }
    assert_eq!(rail.submissions.load(Ordering::Relaxed), 1);
}

/// An outbox that cannot write.
struct Full;

#[async_trait]
impl Outbox for Full {
    async fn record(&self, _: &Submission) -> Result<(), OutboxError> {
        Err(OutboxError("no space left".into()))
    }
    async fn resolve(&self, _: TxHash, _: &Outcome) -> Result<(), OutboxError> {
        Err(OutboxError("no space left".into()))
    }
    async fn pending(&self) -> Result<Vec<Submission>, OutboxError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_submitted() {
    let world = World::funded().await;
    let rail = Faulty::of(&world, Fault::None);
    let settler = world.settler(Arc::clone(&rail) as Arc<dyn Rail>, Arc::new(Full));
    let agreed = world.agree(10);
    let opened = settler.open(&world.payer, &[agreed.opening()]).await;
    assert!(
        matches!(opened, Err(OpenError::Carry(CarryError::Outbox(_)))),
        "{opened:?}"
    );
    assert_eq!(rail.submissions.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn many_payments_of_one_account_at_once_all_get_through_once() {
    let world = World::funded().await;
    let payee = world.payee.account();
    let payments = (1..=12u8).map(|n| {
        let settler = world.settler.clone();
        let payer = world.payer.clone();
        let asset = world.asset;
        async move { settler.pay([n; 32], &payer, payee, asset, stroops(i64::from(n))).await }
    });
    let mut tasks = tokio::task::JoinSet::new();
    payments.for_each(|payment| {
        tasks.spawn(payment);
    });
    while let Some(paid) = tasks.join_next().await {
        paid.unwrap().unwrap();
    }
    assert_eq!(world.balance(payee).await, (1..=12).sum::<i64>());
    world.adds_up();
}
