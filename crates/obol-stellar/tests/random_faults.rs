//! Payments and flushes under random faults, crashes, late deliveries and passing time: in the end each was made exactly
//! once, and at no time more often.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::faulty::{Fault, Faulty};
use common::{Agreed, DEPOSIT, World, policy, stroops};
use obol_stellar::outbox::Outbox;
use obol_stellar::settle::{Flushed, Policy};
use obol_stellar::{Rail, Settler};
use proptest::prelude::*;

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Move {
    /// The server breaks, or is mended.
    Fault(u8),
    /// The wallet is asked for this payment (0 to 2).
    Pay(u8),
    /// The payee flushes.
    Flush,
    /// A server submits something that it kept, whatever it had said.
    Late(u8),
    /// Time passes, in seconds and ledgers.
    Time(u16, u8),
    /// The process starts again, with nothing but its outbox.
    Restart,
    /// It looks what became of everything.
    Resume,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => (0u8..5).prop_map(Move::Fault),
        4 => (0u8..3).prop_map(Move::Pay),
        2 => Just(Move::Flush),
        3 => any::<u8>().prop_map(Move::Late),
        1 => (0u16..500, 0u8..4).prop_map(|(seconds, ledgers)| Move::Time(seconds, ledgers)),
        1 => Just(Move::Restart),
        1 => Just(Move::Resume),
    ]
}

const FAULTS: [Fault; 5] = [
    Fault::None,
    Fault::LosesAnswers,
    Fault::Down,
    Fault::Drops,
    Fault::Withholds,
];

/// The payment of a reference: each its own power of ten, so that the balance tells how often each was made.
fn amount(reference: u8) -> i64 {
    10i64.pow(u32::from(reference) * 2)
}

const FLUSHED: i64 = 500_000_000 / 1_000;

async fn run(moves: Vec<Move>) {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let rail = Faulty::of(&world, Fault::None);
    let mut settler = start(&world, &rail);
    for step in moves {
        match step {
            Move::Fault(which) => rail.becomes(FAULTS[usize::from(which)]),
            Move::Pay(reference) => {
                let _ = pay(&world, &settler, reference).await;
            }
            Move::Flush => {
                let _ = flush(&world, &settler, &agreed).await;
            }
            Move::Late(which) => {
                let seen = rail.seen();
                if !seen.is_empty() {
                    let _ = world.rail.submit(&seen[usize::from(which) % seen.len()]).await;
                }
            }
            Move::Time(seconds, ledgers) => {
                world
                    .ledger
                    .advance(u64::from(seconds), u32::from(ledgers).max(1))
                    .unwrap();
            }
            Move::Restart => settler = start(&world, &rail),
            Move::Resume => {
                let _ = settler.resume().await;
            }
        }
        at_most_once(&world).await;
    }
    rail.becomes(Fault::None);
    let settler = start(&world, &rail);
    for reference in 0..3 {
        assert!(pay(&world, &settler, reference).await, "payment {reference}");
    }
    assert!(flush(&world, &settler, &agreed).await, "flush");
    // Everything that was ever seen comes once more.
    for kept in rail.seen() {
        let _ = world.rail.submit(&kept).await;
    }
    let all = FLUSHED + (0..3).map(amount).sum::<i64>();
    assert_eq!(world.balance(world.payee.account()).await, all);
    world.adds_up();
}

fn start(world: &World, rail: &Arc<Faulty>) -> Settler {
    let soon = Policy {
        poll: Duration::from_millis(1),
        patience: Duration::from_millis(3),
        ..policy()
    };
    Settler::new(
        Arc::clone(rail) as Arc<dyn Rail>,
        Arc::clone(&world.outbox) as Arc<dyn Outbox>,
        world.network.clone(),
        soon,
    )
}

async fn pay(world: &World, settler: &Settler, reference: u8) -> bool {
    let amount = stroops(amount(reference));
    let to = world.payee.account();
    settler
        .pay([reference; 32], &world.payer, to, world.asset, amount)
        .await
        .is_ok()
}

async fn flush(world: &World, settler: &Settler, agreed: &Agreed) -> bool {
    let order = world.order(agreed, 9, FLUSHED);
    match settler.flush(&order).await {
        Ok(Flushed::Settled { amount, .. }) => {
            assert_eq!(amount, stroops(FLUSHED));
            true
        }
        Ok(other) => panic!("{other:?}"),
        Err(_) => false,
    }
}

async fn at_most_once(world: &World) {
    let mut balance = world.balance(world.payee.account()).await;
    if balance >= FLUSHED {
        balance -= FLUSHED;
    }
    for reference in (0..3).rev() {
        if balance >= amount(reference) {
            balance -= amount(reference);
        }
    }
    assert_eq!(balance, 0, "something was paid twice");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_each_payment_is_made_exactly_once(moves in proptest::collection::vec(moves(), 0..24)) {
        const { assert!(FLUSHED < DEPOSIT) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(moves));
    }
}
