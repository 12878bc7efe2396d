//! A program that ends at any step of anything that it does on the ledger, every step in its turn, and goes on after its next
//! start: in the end everything was done exactly once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::Duration;

use common::crash::{self, Crash};
use common::sim::Sim;
use common::{Agreed, DEPOSIT, LIFE, WEALTH, key, stroops};
use obol_cell::{AccountId, SettlementMemo, Stroops};
use obol_stellar::outbox::Outbox as _;
use obol_stellar::settle::{Flushed, MAX_PAYMENTS, Need, OwedOutcome, Paid, Payment, TopUp, WindUp};
use obol_stellar::tx::{Memo, TxHash};
use obol_stellar::wallet::escrows::{OwnEscrow, TakenBack};
use obol_stellar::{Keypair, Settler};
use obol_toll::trust::ExpectedPayment;

/// No procedure has more steps than this.
const ENOUGH: usize = 200;

/// For each step of `program`: a new world in which the program ends there, starts again, looks what became of what it had
/// sent if `resumes`, and is asked for the same until it says that it is done. Then `check` looks at the world.
macro_rules! at_every_step {
    ($least:expr, $prepare:expr, $program:expr, $check:expr) => {
        for resumes in [false, true] {
            let mut steps = 0;
            for step in 0..ENOUGH {
                let sim = Sim::funded().await;
                let prepared = $prepare(&sim).await;
                let crash = Crash::at(step);
                let mortal = crash::settler(&sim, &crash);
                let done = crash
                    .run(until_done(async || $program(&sim, &mortal, &prepared).await))
                    .await;
                drop(mortal);
                let crashed = done.is_none();
                if crashed {
                    steps += 1;
                    let restarted = sim.settler_over(sim.rail("a"));
                    if resumes {
                        restarted.resume().await.unwrap();
                    }
                    until_done(async || $program(&sim, &restarted, &prepared).await).await;
                }
                // Done again, it changes nothing.
                let again = sim.settler_over(sim.rail("a"));
                until_done(async || $program(&sim, &again, &prepared).await).await;
                again.resume().await.unwrap();
                sim.ledgers(70).await;
                assert_eq!(again.resume().await.unwrap().alive, 0, "step {step}");
                $check(&sim, &prepared).await;
                if !crashed {
                    break;
                }
            }
            assert!(($least..ENOUGH).contains(&steps), "{steps} steps");
        }
    };
}

/// Asks again, as a node does, until it is done.
async fn until_done(program: impl AsyncFn() -> bool) {
    for _ in 0..100 {
        if program().await {
            return;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    panic!("it never ends");
}

fn holders(sim: &Sim, others: &[AccountId]) -> Vec<AccountId> {
    let mut holders = vec![sim.payer.account(), sim.payee.account()];
    holders.extend_from_slice(others);
    holders
}

#[tokio::test(start_paused = true)]
async fn a_payment_is_made_once() {
    at_every_step!(
        7,
        async |_: &Sim| (),
        async |sim: &Sim, settler: &Settler, (): &()| {
            settler
                .pay([1; 32], &sim.payer, sim.payee.account(), sim.asset, stroops(7))
                .await
                .is_ok()
        },
        async |sim: &Sim, (): &()| {
            assert_eq!(sim.balance(sim.payee.account()), 7);
            sim.adds_up(&holders(sim, &[]));
        }
    );
}

#[tokio::test(start_paused = true)]
async fn money_with_a_memo_is_sent_once() {
    at_every_step!(
        7,
        async |_: &Sim| (),
        async |sim: &Sim, settler: &Settler, (): &()| {
            let transfer = obol_stellar::settle::Transfer {
                to: sim.payee.account(),
                money: obol_stellar::settle::Money::Asset(sim.asset, stroops(9)),
                memo: Memo::Text("for the ferryman".into()),
            };
            settler.send([2; 32], &sim.payer, &transfer).await.is_ok()
        },
        async |sim: &Sim, (): &()| {
            assert_eq!(sim.balance(sim.payee.account()), 9);
            sim.adds_up(&holders(sim, &[]));
        }
    );
}

#[tokio::test(start_paused = true)]
async fn escrows_are_opened_once() {
    at_every_step!(
        7,
        async |sim: &Sim| [sim.agree(10), sim.agree(11), sim.agree(12)],
        async |sim: &Sim, settler: &Settler, agreed: &[Agreed; 3]| {
            let openings = agreed.each_ref().map(Agreed::opening);
            settler.open(&sim.payer, &openings).await.is_ok()
        },
        async |sim: &Sim, agreed: &[Agreed; 3]| {
            let escrows = agreed.each_ref().map(|agreed| agreed.escrow.account());
            assert_eq!(escrows.map(|e| sim.balance(e)), [DEPOSIT; 3]);
            assert_eq!(sim.balance(sim.payer.account()), WEALTH - 3 * DEPOSIT);
            sim.adds_up(&holders(sim, &escrows));
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_flush_settles_once() {
    at_every_step!(
        7,
        async |sim: &Sim| sim.opened(10).await,
        async |sim: &Sim, settler: &Settler, agreed: &Agreed| {
            match settler.flush(&sim.order(agreed, 5, 5_000)).await {
                Ok(flushed) => {
                    assert!(matches!(flushed, Flushed::Settled { amount, .. } if amount == stroops(5_000)));
                    true
                }
                Err(_) => false,
            }
        },
        async |sim: &Sim, agreed: &Agreed| {
            assert_eq!(sim.balance(sim.payee.account()), 5_000);
            sim.adds_up(&holders(sim, &[agreed.escrow.account()]));
        }
    );
}

async fn expired(sim: &Sim) -> Agreed {
    let agreed = sim.opened(10).await;
    sim.pass(Duration::from_secs(LIFE)).await;
    agreed
}

#[tokio::test(start_paused = true)]
async fn a_refund_gives_everything_back_once() {
    at_every_step!(
        7,
        expired,
        async |sim: &Sim, settler: &Settler, agreed: &Agreed| {
            settler
                .refund(&agreed.escrow, stroops(DEPOSIT), &agreed.e, agreed.refund, &sim.payer)
                .await
                .is_ok()
        },
        async |sim: &Sim, agreed: &Agreed| {
            let ended = sim
                .settler
                .ended(&agreed.escrow, stroops(DEPOSIT))
                .await
                .unwrap()
                .unwrap();
            assert_eq!((ended.paid, ended.rest), (Stroops::ZERO, stroops(DEPOSIT)));
            sim.adds_up(&holders(sim, &[agreed.escrow.account()]));
        }
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_flush_left_is_swept_and_the_escrow_merged_once() {
    at_every_step!(
        14,
        async |sim: &Sim| {
            let agreed = sim.opened(10).await;
            sim.settler.flush(&sim.order(&agreed, 5, 5_000)).await.unwrap();
            agreed
        },
        async |sim: &Sim, settler: &Settler, agreed: &Agreed| {
            let to = sim.payer.account();
            matches!(
                settler.wind_up(&agreed.escrow, &agreed.e, to, to).await,
                Ok(WindUp::Done)
            )
        },
        async |sim: &Sim, agreed: &Agreed| {
            assert!(!sim.exists(agreed.escrow.account()));
            assert_eq!(sim.balance(sim.payer.account()), WEALTH - 5_000);
            sim.adds_up(&holders(sim, &[]));
        }
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_escrow_is_taken_back_once_without_the_payee() {
    at_every_step!(
        21,
        expired,
        async |sim: &Sim, settler: &Settler, agreed: &Agreed| {
            let own = OwnEscrow {
                escrow: agreed.escrow.clone(),
                key: agreed.e.clone(),
                deposit: stroops(DEPOSIT),
                refund: agreed.refund,
            };
            let taken = settler.take_back(&own, &sim.payer, sim.payer.account()).await;
            matches!(taken, Ok(TakenBack::Done { .. }))
        },
        async |sim: &Sim, agreed: &Agreed| {
            assert!(!sim.exists(agreed.escrow.account()));
            assert_eq!(sim.balance(sim.payer.account()), WEALTH);
            sim.adds_up(&holders(sim, &[]));
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_paid_once() {
    at_every_step!(
        7,
        async |sim: &Sim| sim.account_with_line(20).await,
        async |sim: &Sim, settler: &Settler, second: &Keypair| {
            let mut payments = vec![
                Payment {
                    to: sim.payee.account(),
                    amount: stroops(1),
                };
                MAX_PAYMENTS - 2
            ];
            payments.push(Payment {
                to: second.account(),
                amount: stroops(1_000),
            });
            // Nobody is there.
            payments.push(Payment {
                to: key(99).account(),
                amount: stroops(5),
            });
            match settler.pay_batch([7; 32], &sim.payer, sim.asset, &payments).await {
                Ok(batch) => {
                    let (paid, left) = batch.payments.split_at(MAX_PAYMENTS - 1);
                    assert!(paid.iter().all(|paid| *paid == Paid::Paid));
                    assert!(matches!(left, [Paid::LeftOut(_)]));
                    true
                }
                Err(_) => false,
            }
        },
        async |sim: &Sim, second: &Keypair| {
            assert_eq!(sim.balance(sim.payee.account()), 98);
            assert_eq!(sim.balance(second.account()), 1_000);
            sim.adds_up(&holders(sim, &[second.account()]));
        }
    );
}

#[tokio::test(start_paused = true)]
async fn one_time_accounts_are_filled_once_and_the_last_ones_rest_goes_on_once() {
    let small = Need {
        money: stroops(1_000),
        escrows: 1,
    };
    let large = Need {
        money: stroops(50_000),
        escrows: 1,
    };
    at_every_step!(
        14,
        async |sim: &Sim| {
            let left = key(40);
            let made = sim
                .settler
                .top_up(&sim.payer, sim.asset, small, &[], std::slice::from_ref(&left))
                .await;
            assert_eq!(made.unwrap(), TopUp::Ready(left.account()));
            left
        },
        async |sim: &Sim, settler: &Settler, left: &Keypair| {
            let fresh = [key(41), key(42)];
            let left = std::slice::from_ref(left);
            match settler.top_up(&sim.payer, sim.asset, large, left, &fresh).await {
                Ok(ready) => {
                    assert_eq!(ready, TopUp::Ready(key(41).account()));
                    // As long as something is left there, it is asked for again.
                    !sim.exists(left[0].account())
                        || settler.empty_into(&left[0], key(41).account(), sim.asset).await.is_ok()
                }
                Err(_) => false,
            }
        },
        async |sim: &Sim, left: &Keypair| {
            assert!(!sim.exists(left.account()));
            assert_eq!(sim.balance(key(41).account()), 51_000);
            assert_eq!(sim.balance(key(42).account()), 50_000);
            assert_eq!(sim.balance(sim.payer.account()), WEALTH - 101_000);
            sim.adds_up(&holders(sim, &[key(41).account(), key(42).account()]));
        }
    );
}

/// The second start ends, too, wherever it is.
#[tokio::test(start_paused = true)]
async fn a_payment_is_made_once_by_a_program_that_ends_twice() {
    for first in 0..ENOUGH {
        let mut first_ended = false;
        for second in 0..ENOUGH {
            let sim = Sim::funded().await;
            let mut ended = [false; 2];
            for (step, ended) in [first, second].into_iter().zip(&mut ended) {
                let crash = Crash::at(step);
                let settler = crash::settler(&sim, &crash);
                let pay = || settler.pay([1; 32], &sim.payer, sim.payee.account(), sim.asset, stroops(7));
                *ended = crash.run(async { pay().await.is_ok() }).await.is_none();
            }
            let settler = sim.settler_over(sim.rail("a"));
            let pay = || settler.pay([1; 32], &sim.payer, sim.payee.account(), sim.asset, stroops(7));
            until_done(async || pay().await.is_ok()).await;
            sim.ledgers(70).await;
            settler.resume().await.unwrap();
            assert_eq!(sim.balance(sim.payee.account()), 7, "steps {first} and {second}");
            assert!(sim.outbox.pending().await.unwrap().is_empty());
            first_ended |= ended[0];
            if !ended[1] {
                break;
            }
        }
        if !first_ended {
            assert!(first >= 7, "{first} steps");
            return;
        }
    }
    panic!("it never ends");
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_is_paid_once_and_has_one_name() {
    let memo = [0x4d; 32];
    at_every_step!(
        7,
        async |sim: &Sim| (sim.account_with_line(20).await, std::sync::Mutex::new(None)),
        async |sim: &Sim, settler: &Settler, (other, told): &(Keypair, std::sync::Mutex<Option<TxHash>>)| {
            let owed = [(sim.payee.account(), 7), (other.account(), 8)].map(|(to, amount)| Payment {
                to,
                amount: stroops(amount),
            });
            match settler.pay_owed([1; 32], &sim.payer, sim.asset, memo, &owed).await {
                Ok(OwedOutcome::Paid { hash }) => {
                    let before = told.lock().unwrap().replace(hash);
                    assert!(before.is_none_or(|before| before == hash), "the same name each time");
                    true
                }
                Ok(OwedOutcome::NotPaid) => panic!("everybody can be paid"),
                Err(_) => false,
            }
        },
        async |sim: &Sim, (other, told): &(Keypair, std::sync::Mutex<Option<TxHash>>)| {
            assert_eq!((sim.balance(sim.payee.account()), sim.balance(other.account())), (7, 8));
            let expected = ExpectedPayment {
                from: sim.payer.account(),
                to: other.account(),
                memo: SettlementMemo(memo),
            };
            let hash = told.lock().unwrap().unwrap();
            let checked = sim.settler.check_payment(hash, &expected, sim.asset).await;
            assert_eq!(checked, Ok(stroops(8)));
            sim.adds_up(&holders(sim, &[other.account()]));
        }
    );
}
