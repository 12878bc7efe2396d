//! A ledger that is down, slow, behind, wrong or dear, in virtual time: whatever it does, each payment is made exactly once,
//! and the books balance.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::sim::Sim;
use common::{Agreed, DEPOSIT, LIFE, WEALTH, stroops};
use obol_stellar::check::{Belief, believe};
use obol_stellar::outbox::{Outbox, Outcome};
use obol_stellar::rail::many::Many;
use obol_stellar::rail::{RailError, SubmitError};
use obol_stellar::settle::{EndError, Flushed, Payment, Policy, WalletError};
use obol_stellar::{MemoryOutbox, Rail, Settler};
use obol_toll::NotBelieved;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);
/// How often a node asks again for what did not get through.
const AGAIN: Duration = Duration::from_secs(60);

/// Pays 7 and asks again, as a node does, until it is told that it was paid.
async fn pay_until_paid(sim: &Sim, settler: &Settler, reference: u8) {
    loop {
        let paid = settler
            .pay([reference; 32], &sim.payer, sim.payee.account(), sim.asset, stroops(7))
            .await;
        match paid {
            Ok(_) => return,
            Err(WalletError::Carry(_)) => tokio::time::sleep(AGAIN).await,
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn flush_until_settled(sim: &Sim, settler: &Settler, agreed: &Agreed) {
    let order = sim.order(agreed, 5, 5_000);
    loop {
        match settler.flush(&order).await {
            Ok(Flushed::Settled { amount, .. }) => return assert_eq!(amount, stroops(5_000)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// Everything that is pending comes to its end, and nothing of it changes a balance afterwards.
async fn settles_down(sim: &Sim, settler: &Settler) {
    let before = sim.balance(sim.payee.account());
    sim.ledgers(100).await;
    let resumed = settler.resume().await.unwrap();
    assert_eq!(resumed.alive, 0, "after ten minutes everything has an end");
    assert_eq!(sim.balance(sim.payee.account()), before, "nothing comes late");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_for_an_hour_costs_an_hour_and_nothing_else() {
    let sim = Sim::funded().await;
    let agreed = sim.opened(10).await;
    let start = Instant::now();
    sim.server("a", |faults| faults.down = true);
    let work = async {
        tokio::join!(
            pay_until_paid(&sim, &sim.settler, 1),
            pay_until_paid(&sim, &sim.settler, 2),
            flush_until_settled(&sim, &sim.settler, &agreed),
        );
    };
    let outage = async {
        tokio::time::sleep(HOUR).await;
        assert_eq!(sim.balance(sim.payee.account()), 0);
        sim.server("a", |faults| faults.down = false);
    };
    tokio::join!(work, outage);
    assert!(
        start.elapsed() < HOUR + Duration::from_secs(300),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(sim.balance(sim.payee.account()), 5_014);
    settles_down(&sim, &sim.settler).await;
    sim.adds_up(&[sim.payer.account(), sim.payee.account(), agreed.escrow.account()]);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_closes_no_ledger_for_an_hour_decides_nothing_meanwhile() {
    let sim = Sim::funded().await;
    let agreed = sim.opened(10).await;
    sim.halt(true);
    let work = async {
        tokio::join!(
            pay_until_paid(&sim, &sim.settler, 1),
            flush_until_settled(&sim, &sim.settler, &agreed),
        );
    };
    let outage = async {
        tokio::time::sleep(HOUR).await;
        let pending = sim.outbox.pending().await.unwrap();
        assert!(
            !pending.is_empty(),
            "what was sent stays unknown: only a ledger ends that"
        );
        sim.halt(false);
    };
    tokio::join!(work, outage);
    assert_eq!(sim.balance(sim.payee.account()), 5_007);
    settles_down(&sim, &sim.settler).await;
    sim.adds_up(&[sim.payer.account(), sim.payee.account(), agreed.escrow.account()]);
}

#[tokio::test(start_paused = true)]
async fn slow_servers_are_waited_for_and_slower_ones_left() {
    let sim = Sim::funded().await;
    for delay in [20, 45, 90] {
        let agreed = sim.opened(delay).await;
        sim.server("a", |faults| faults.delay = Duration::from_secs(delay.into()));
        let work = async {
            tokio::join!(
                pay_until_paid(&sim, &sim.settler, delay),
                flush_until_settled(&sim, &sim.settler, &agreed),
            );
        };
        let mending = async {
            tokio::time::sleep(HOUR / 2).await;
            sim.server("a", |faults| faults.delay = Duration::ZERO);
        };
        tokio::join!(work, mending);
    }
    assert_eq!(sim.balance(sim.payee.account()), 3 * 5_007);
    settles_down(&sim, &sim.settler).await;
}

#[tokio::test(start_paused = true)]
async fn a_504_for_what_was_applied_is_no_reason_to_pay_again() {
    let sim = Sim::funded().await;
    let agreed = sim.opened(10).await;
    sim.server("a", |faults| faults.gateway_timeout = true);
    pay_until_paid(&sim, &sim.settler, 1).await;
    flush_until_settled(&sim, &sim.settler, &agreed).await;
    assert_eq!(sim.balance(sim.payee.account()), 5_007);
    settles_down(&sim, &sim.settler).await;
    sim.adds_up(&[sim.payer.account(), sim.payee.account(), agreed.escrow.account()]);
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_and_dropped_is_sent_again_and_made_anew_only_when_its_time_is_over() {
    let sim = Sim::funded().await;
    sim.server("a", |faults| faults.swallows = true);
    let work = pay_until_paid(&sim, &sim.settler, 1);
    let mending = async {
        tokio::time::sleep(Duration::from_secs(900)).await;
        let dead = |s: &obol_stellar::outbox::Submission| sim.outbox.outcome(s.hash) == Some(Outcome::Dead);
        let all = sim.outbox.all();
        assert!(all.iter().filter(|s| dead(s)).count() >= 2, "each lives five minutes");
        sim.server("a", |faults| faults.swallows = false);
    };
    tokio::join!(work, mending);
    assert_eq!(sim.balance(sim.payee.account()), 7);
    settles_down(&sim, &sim.settler).await;
}

/// The server shows that the sequence number is used, and denies the transaction that used it.
#[tokio::test(start_paused = true)]
async fn above_a_sum_one_server_that_denies_what_it_applied_is_not_believed() {
    let mut sim = Sim::funded().await;
    sim.policy = Policy {
        two_witnesses_above: Some(stroops(5)),
        ..Policy::default()
    };
    let many = Arc::new(Many::new(vec![sim.rail("a"), sim.rail("b")]));
    let settler = sim.settler_over(many);
    sim.server("a", |faults| faults.denies_all = true);
    pay_until_paid(&sim, &settler, 1).await;
    assert_eq!(sim.balance(sim.payee.account()), 7);
    // Without the second, nobody knows: nothing is made anew.
    sim.server("b", |faults| faults.down = true);
    let pay = || settler.pay([2; 32], &sim.payer, sim.payee.account(), sim.asset, stroops(7));
    for _ in 0..4 {
        let unknown = pay().await;
        assert!(matches!(unknown, Err(WalletError::Carry(_))), "{unknown:?}");
        sim.ledgers(60).await;
    }
    sim.server("b", |faults| faults.down = false);
    pay().await.unwrap();
    assert_eq!(sim.balance(sim.payee.account()), 14);
    sim.server("a", |faults| faults.denies_all = false);
    settles_down(&sim, &settler).await;
    sim.adds_up(&[sim.payer.account(), sim.payee.account()]);
}

#[tokio::test(start_paused = true)]
async fn stale_reads_are_known_as_such_and_change_nothing() {
    for stale_by in [1, 2, 3, 10, 30] {
        let sim = Sim::funded().await;
        let agreed = sim.opened(10).await;
        sim.ledgers(35).await;
        sim.server("a", |faults| faults.stale_by = stale_by);
        tokio::join!(
            pay_until_paid(&sim, &sim.settler, 1),
            pay_until_paid(&sim, &sim.settler, 2),
            flush_until_settled(&sim, &sim.settler, &agreed),
        );
        assert_eq!(sim.balance(sim.payee.account()), 5_014, "{stale_by} ledgers behind");
        sim.server("a", |faults| faults.stale_by = 0);
        settles_down(&sim, &sim.settler).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_goes_backwards_is_told() {
    let sim = Sim::funded().await;
    sim.ledgers(20).await;
    let rail = sim.rail("a");
    let head = rail.latest_ledger().await.unwrap();
    assert_eq!(head.sequence, sim.served());
    sim.server("a", |faults| faults.stale_by = 10);
    let mut stale = 0;
    for _ in 0..20 {
        match rail.latest_ledger().await {
            Ok(now) => assert_eq!(now, head),
            other => {
                assert_eq!(other, Err(RailError::Stale { behind: 10 }));
                stale += 1;
            }
        }
    }
    assert!((1..20).contains(&stale), "about every other answer is old: {stale}");
}

#[tokio::test(start_paused = true)]
async fn what_a_server_held_back_and_sends_in_another_order_is_paid_once() {
    let sim = Sim::funded().await;
    let agreed = sim.opened(10).await;
    sim.server("a", |faults| faults.holds = true);
    let work = async {
        tokio::join!(
            pay_until_paid(&sim, &sim.settler, 1),
            pay_until_paid(&sim, &sim.settler, 2),
            pay_until_paid(&sim, &sim.settler, 3),
            flush_until_settled(&sim, &sim.settler, &agreed),
        );
    };
    let server = async {
        for minutes in [3u64, 6, 11] {
            tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
            sim.release("a").await;
        }
        sim.server("a", |faults| faults.holds = false);
    };
    tokio::join!(work, server);
    // And once more, everything that it still had.
    sim.release("a").await;
    assert_eq!(sim.balance(sim.payee.account()), 5_021);
    settles_down(&sim, &sim.settler).await;
    sim.adds_up(&[sim.payer.account(), sim.payee.account(), agreed.escrow.account()]);
}

#[tokio::test(start_paused = true)]
async fn a_fee_surge_of_a_thousand_times_is_paid_up_to_the_highest_fee_and_then_waited_out() {
    for hides_surge in [false, true] {
        let sim = Sim::funded().await;
        let agreed = sim.opened(10).await;
        sim.server("a", |faults| {
            faults.surge = 100_000;
            faults.hides_surge = hides_surge;
        });
        // Three operations of 100,000 are below the limit of 1,000,000; if the statistics do not show it, by bumping.
        flush_until_settled(&sim, &sim.settler, &agreed).await;
        pay_until_paid(&sim, &sim.settler, 1).await;
        // Twenty are not.
        let payments = [Payment {
            to: sim.payee.account(),
            amount: stroops(1),
        }; 20];
        let batch = || sim.settler.pay_batch([9; 32], &sim.payer, sim.asset, &payments);
        assert!(batch().await.is_err());
        assert_eq!(sim.balance(sim.payee.account()), 5_007);
        let highest = sim.outbox.all().iter().map(|s| s.fee.get()).max();
        assert!(highest <= Some(1_000_000), "never above the limit: {highest:?}");
        sim.server("a", |faults| faults.surge = 0);
        while batch().await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        assert_eq!(sim.balance(sim.payee.account()), 5_027);
        settles_down(&sim, &sim.settler).await;
    }
}

/// Two programs with one key and two records of what they sent.
#[tokio::test(start_paused = true)]
async fn two_programs_that_race_for_sequence_numbers_each_pay_once() {
    let sim = Sim::funded().await;
    let other = Settler::new(
        sim.rail("b"),
        Arc::new(MemoryOutbox::new()) as Arc<dyn Outbox>,
        sim.network.clone(),
        sim.policy,
    );
    let ours = async {
        for reference in 1..=5 {
            pay_until_paid(&sim, &sim.settler, reference).await;
        }
    };
    let theirs = async {
        for reference in 101..=105 {
            pay_until_paid(&sim, &other, reference).await;
        }
    };
    tokio::join!(ours, theirs);
    assert_eq!(
        sim.balance(sim.payee.account()),
        70,
        "payments that are alike are two all the same"
    );
    settles_down(&sim, &sim.settler).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_with_a_short_memory_does_not_make_a_payment_be_made_twice() {
    let sim = Sim::funded().await;
    let pay = || {
        sim.settler
            .pay([1; 32], &sim.payer, sim.payee.account(), sim.asset, stroops(7))
    };
    sim.server("a", |faults| faults.gateway_timeout = true);
    // The program ends while nobody knows: it looks again after hours, and the server remembers minutes.
    let unknown = tokio::time::timeout(Duration::from_secs(1), pay()).await;
    assert!(unknown.is_err());
    sim.server("a", |faults| {
        faults.gateway_timeout = false;
        faults.retention = 200;
    });
    sim.ledgers(2000).await;
    assert_eq!(sim.balance(sim.payee.account()), 7, "it got through");
    let again = pay().await;
    assert!(matches!(again, Err(WalletError::Carry(_))), "{again:?}");
    assert_eq!(
        sim.settler.resume().await.unwrap().alive,
        1,
        "nobody who could know says so"
    );
    assert_eq!(sim.balance(sim.payee.account()), 7);
    // A server with a longer memory ends it.
    let settler = sim.settler_over(sim.rail("b"));
    assert_eq!(settler.resume().await.unwrap().applied, 1);
    pay().await.unwrap();
    assert_eq!(sim.balance(sim.payee.account()), 7);
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_a_server_has_forgotten_is_not_called_lost() {
    let sim = Sim::funded().await;
    let agreed = sim.opened(10).await;
    let order = sim.order(&agreed, 5, 5_000);
    sim.settler.flush(&order).await.unwrap();
    // A process that has nothing but the journal's word that the flush was wanted.
    let anew = Settler::new(
        sim.rail("a"),
        Arc::new(MemoryOutbox::new()) as Arc<dyn Outbox>,
        sim.network.clone(),
        sim.policy,
    );
    sim.ledgers(2000).await;
    sim.server("a", |faults| faults.retention = 200);
    let unknown = anew.flush(&order).await;
    assert!(unknown.is_err(), "{unknown:?}");
    sim.server("a", |faults| faults.retention = 0);
    let flushed = anew.flush(&order).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { amount, .. } if amount == stroops(5_000)));
}

/// What is decided by time is decided by the ledger's clock; our own decides only whether a ledger is new enough.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_five_minutes_off_loses_nothing() {
    let sim = Sim::funded().await;
    let agreed = sim.opened(10).await;
    let rails = [sim.rail("a")];
    let belief = Belief::default();
    let by_clock = |now: u64| believe(&rails, &agreed.escrow, &belief, now);
    assert_eq!(by_clock(sim.now()).await, Ok(stroops(DEPOSIT)));
    assert_eq!(
        by_clock(sim.now() - 300).await,
        Ok(stroops(DEPOSIT)),
        "slow: believed all the same"
    );
    // Fast: all ledgers look old, and nothing new is believed until the clock is right. Nothing is lost by that.
    assert_eq!(by_clock(sim.now() + 300).await, Err(NotBelieved::Unreachable));

    // A payer whose clock is fast asks too early for its refund, and gets it when the ledger's clock has come.
    let refund = || {
        sim.settler
            .refund(&agreed.escrow, stroops(DEPOSIT), &agreed.e, agreed.refund, &sim.payer)
    };
    sim.pass(Duration::from_secs(LIFE - 300)).await;
    let early = refund().await;
    assert!(matches!(early, Err(EndError::NotYet { .. })), "{early:?}");
    sim.pass(Duration::from_secs(310)).await;
    assert_eq!(refund().await.unwrap().rest, stroops(DEPOSIT));
    sim.adds_up(&[sim.payer.account(), agreed.escrow.account()]);
}

#[tokio::test(start_paused = true)]
async fn with_two_servers_one_that_fails_is_left_for_the_other_and_comes_back() {
    let sim = Sim::funded().await;
    let many: Arc<dyn Rail> = Arc::new(Many::new(vec![sim.rail("a"), sim.rail("b")]));
    let settler = sim.settler_over(Arc::clone(&many));
    sim.server("a", |faults| faults.gateway_timeout = true);
    pay_until_paid(&sim, &settler, 1).await;
    sim.server("a", |faults| faults.down = true);
    let start = Instant::now();
    pay_until_paid(&sim, &settler, 2).await;
    assert!(start.elapsed() < Duration::from_secs(30), "the other is asked at once");
    let asked = sim.questions("b").len();
    sim.server("a", |faults| *faults = Default::default());
    tokio::time::sleep(Duration::from_secs(31)).await;
    pay_until_paid(&sim, &settler, 3).await;
    assert_eq!(
        sim.questions("b").len(),
        asked,
        "after its rest the first is asked first again"
    );
    assert_eq!(sim.balance(sim.payee.account()), 21);

    // One that is behind is compared with the other.
    let head = many.latest_ledger().await.unwrap();
    sim.server("a", |faults| faults.stale_by = 20);
    for _ in 0..4 {
        assert!(many.latest_ledger().await.unwrap().sequence >= head.sequence);
    }
    sim.server("b", |faults| faults.down = true);
    sim.server("a", |faults| faults.down = true);
    assert!(matches!(many.latest_ledger().await, Err(RailError::Unreachable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_to_be_left_alone_is_and_our_own_limit_is_kept() {
    let sim = Sim::funded().await;
    let rail = sim.rail("b");
    rail.latest_ledger().await.unwrap();
    sim.server("b", |faults| faults.limited = Some(60));
    assert_eq!(
        rail.latest_ledger().await,
        Err(RailError::Busy { retry_after: Some(60) })
    );
    sim.server("b", |faults| faults.limited = None);
    let asked = sim.questions("b").len();
    for _ in 0..10 {
        assert!(matches!(rail.latest_ledger().await, Err(RailError::Busy { .. })));
        let tx = obol_stellar::tx::Tx::new(sim.payer.account(), 1, 100, Default::default(), [])
            .unwrap()
            .sign(sim.network.id(), &[&sim.payer])
            .unwrap();
        let sent = rail.submit(&tx).await;
        assert!(
            matches!(sent, Err(SubmitError::NotSent(RailError::Busy { .. }))),
            "{sent:?}"
        );
    }
    assert_eq!(sim.questions("b").len(), asked, "it was left alone");
    tokio::time::sleep(Duration::from_secs(60)).await;
    rail.latest_ledger().await.unwrap();

    // A short silence is waited for.
    sim.server("b", |faults| faults.limited = Some(2));
    let (answer, ()) = tokio::join!(rail.latest_ledger(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sim.server("b", |faults| faults.limited = None);
    });
    answer.unwrap();

    let rail = sim.rail_paced("b", Some(30));
    let (first, start) = (sim.questions("b").len(), Instant::now());
    while start.elapsed() < Duration::from_secs(600) {
        let _ = rail.account(sim.payer.account()).await;
    }
    let at: Vec<Instant> = sim.questions("b")[first..].iter().map(|(_, at)| *at).collect();
    for (n, from) in at.iter().enumerate() {
        let minute = at[n..].iter().take_while(|t| **t - *from < Duration::from_secs(60));
        assert!(minute.count() <= 30);
    }
    assert!(at.len() >= 200, "and it is used: {}", at.len());
}

#[tokio::test(start_paused = true)]
async fn what_a_server_says_of_another_transaction_or_network_is_not_taken() {
    let sim = Sim::funded().await;
    let rail = sim.rail("a");
    rail.check_network().await.unwrap();
    let payer = rail.account(sim.payer.account()).await.unwrap().unwrap();
    assert_eq!(payer.line(&sim.asset).unwrap().holding.balance, stroops(WEALTH));
    assert_eq!(
        (payer.subentries, payer.signers.len(), payer.thresholds),
        (1, 1, [0; 3])
    );
    let issuer = rail.account(sim.issuer.account()).await.unwrap().unwrap();
    assert!(issuer.flags.auth_immutable && !issuer.flags.auth_revocable);
    assert_eq!(rail.account(common::key(99).account()).await, Ok(None));
    assert_eq!(rail.transaction(obol_stellar::tx::TxHash([9; 32])).await, Ok(None));
    let head = rail.latest_ledger().await.unwrap();
    assert_eq!((head.base_fee, head.base_reserve), (100, 5_000_000));
    assert_eq!(rail.fee_stats().await.unwrap().p90_charged, 100);
}
