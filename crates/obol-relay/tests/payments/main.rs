//! The payments driver with the real state machine, journal, ledger and ledger client; only the data plane is played.

mod bench;
mod owing;

use std::sync::Arc;

use bench::{CAPITAL, Client, DEPOSIT, Money, Node, PRICE, World, settings, start, start_in, start_with, until};
use obol_cell::{DeclineCode, Declined, Forward, LowWater, Pay, RefuseCode, Step, ToNode, ToOrigin};
use obol_relay::metrics::Metric;
use obol_relay::payments::{Direction, EscrowView, RelayPurse, Standing};

const A: [u8; 32] = [1; 32];
const B: [u8; 32] = [2; 32];

fn escrows(node: &Node, direction: Direction) -> Vec<EscrowView> {
    let mut escrows = node.state().escrows;
    escrows.retain(|escrow| escrow.direction == direction);
    escrows
}

/// What each of two relays gets for payment `n` of 64 KiB: the first its own price, the second's, and 0.1 % of all that it
/// has passed on, rounded up once.
fn amounts(n: i64) -> [i64; 2] {
    let fee = |n: i64| (n * PRICE * 1_000 + 999_999) / 1_000_000;
    [2 * PRICE + fee(n) - fee(n - 1), PRICE]
}

/// Waits until `a` could pay `b`.
async fn payable(client: &Client, a: &Node) {
    loop {
        match client.ask(a, &ToNode::QuoteQuery).await {
            ToOrigin::Quote(quote) if quote.next => return,
            ToOrigin::Quote(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            other => panic!("not a quote: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_goes_through_two_relays_and_settles_to_the_stroop() {
    let money = Money::start().await;
    let world = Arc::new(World::default());
    let (a, b) = (
        start(&money, &world, A, &[A, B]).await,
        start(&money, &world, B, &[A, B]).await,
    );
    let mut events = a.payments.subscribe();
    // Ahead of any need, each has an escrow to the other.
    for node in [&a, &b] {
        until("an escrow to the other relay", || {
            escrows(node, Direction::Out)
                .into_iter()
                .find(|escrow| escrow.state == Standing::Open)
        })
        .await;
    }

    let path = [&a, &b];
    let mut client = Client::new(&money, &path, 42, 10_000_000).await;
    payable(&client, &a).await;
    client.open_escrow(&money, &a).await;
    let initial = a.plane.granted(42);
    assert!(matches!(
        client.pay(&path, 1, Step::FIRST, &amounts(1)).await,
        ToOrigin::Complete { n: 1, .. }
    ));
    assert!(matches!(
        client.pay(&path, 2, Step::FIRST, &amounts(2)).await,
        ToOrigin::Complete { n: 2, .. }
    ));
    until("both hops' credit", || {
        (a.plane.granted(42) == initial + 131_072).then_some(())
    })
    .await;
    let earned = |node: &Node| node.state().sums.earned;
    assert_eq!((earned(&a), earned(&b)), (client.paid() - 2 * PRICE, 2 * PRICE));
    assert_eq!(a.state().sums.forwarded, 2 * PRICE);
    let circuit = a
        .state()
        .circuits
        .into_iter()
        .find(|circuit| circuit.circuit == 42)
        .expect("listed");
    assert!(circuit.from_client && circuit.open);
    assert_eq!(
        (circuit.bought, circuit.payments, circuit.metered),
        (131_072, 2, 42 * 514)
    );
    assert_eq!(circuit.paid_stroops, client.paid());
    assert_eq!(a.metrics.get(Metric::Payments, &["client"]), 2);
    assert_eq!(b.metrics.get(Metric::Payments, &["relay"]), 2);
    for node in path {
        node.payments.audit().await.expect("the books add up");
    }

    // Everything used, so that nothing goes back; then all escrows are closed.
    client.close_circuit(&path, 1 << 20);
    for node in path {
        node.payments.close_all().await;
    }
    let settled = |node: &Node| node.state().sums.settled_in;
    until("both flushes", || {
        (settled(&a) == client.paid() && settled(&b) == 2 * PRICE).then_some(())
    })
    .await;
    until("the payer's side", || {
        escrows(&a, Direction::Out)
            .into_iter()
            .find(|e| e.state == Standing::Ended && e.settled_stroops == Some(2 * PRICE))
    })
    .await;
    assert_eq!(money.holding(a.payee.account()).await, client.paid());
    assert_eq!(money.holding(b.payee.account()).await, 2 * PRICE);

    // The rest of A's deposit comes back; the account goes once the ledger has passed S0.
    money.ledger.advance(600, 70).expect("wound on");
    for node in path {
        node.payments.step().await;
    }
    until("the end of A's escrow", || {
        let merged = a.metrics.get(Metric::LedgerTransactions, &["merge", "applied"]);
        (merged > 0).then_some(())
    })
    .await;
    for node in path {
        node.payments.audit().await.expect("the books add up at the end");
    }
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(
            serde_json::to_value(event).expect("JSON")["event"]
                .as_str()
                .expect("named")
                .to_owned(),
        );
    }
    for event in [
        "accepted", "opened", "believed", "claim", "credited", "signed", "settled", "ended", "swept", "merged",
    ] {
        assert!(seen.iter().any(|name| name == event), "{event} in {seen:?}");
    }
    let audit = money.ledger.audit().expect("audits");
    assert_eq!(audit.native.difference, 0, "lumens were created or lost");
    assert!(
        audit.assets.values().all(|asset| asset.difference == 0),
        "money was created or lost"
    );
    assert_eq!(brought_home(&money, &world, a).await, CAPITAL - 2 * PRICE);
}

/// What a relay's capital account holds once the relay has ended and its one-time accounts are emptied: their money never goes there before.
async fn brought_home(money: &Money, world: &Arc<World>, node: Node) -> i64 {
    let before = money.holding(node.capital.account()).await;
    let (directory, capital, _) = node.stop(world).await;
    let opened = RelayPurse::open(&settings(money), directory.path()).await;
    let purse = opened.expect("nobody else has the journal").purse;
    let mut on_the_way = 0;
    for key in &purse.one_time {
        on_the_way += money.holding(key.account()).await;
    }
    let home = purse.bring_home(|_, _| {}).await.expect("nothing is in the way");
    assert_eq!((home.locked, home.emptied), (0, 1));
    let after = money.holding(capital.account()).await;
    assert_eq!(after, before + on_the_way);
    after
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_was_stopped_flushes_what_it_was_paid_before() {
    let money = Money::start().await;
    let world = Arc::new(World::default());
    let a = start(&money, &world, A, &[A]).await;
    let mut client = Client::new(&money, &[&a], 5, 10_000_000).await;
    client.open_escrow(&money, &a).await;
    assert!(matches!(
        client.pay(&[&a], 1, Step::FIRST, &[PRICE]).await,
        ToOrigin::Complete { n: 1, .. }
    ));
    let (directory, capital, payee) = a.stop(&world).await;

    let a = start_in(&money, &world, A, &[A], directory, capital, payee).await;
    let before = escrows(&a, Direction::In);
    assert_eq!(before.len(), 1);
    assert_eq!((before[0].cumulative, before[0].state), (PRICE, Standing::Open));
    a.payments.close_all().await;
    until("the flush", || (a.state().sums.settled_in == PRICE).then_some(())).await;
    assert_eq!(money.holding(a.payee.account()).await, PRICE);
    a.payments.audit().await.expect("the books add up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposit_comes_back_after_expiry_when_the_payee_has_vanished() {
    let money = Money::start().await;
    let world = Arc::new(World::default());
    let (a, b) = (
        start(&money, &world, A, &[A, B]).await,
        start(&money, &world, B, &[A, B]).await,
    );
    until("an escrow to B", || {
        escrows(&a, Direction::Out)
            .into_iter()
            .find(|e| e.state == Standing::Open)
    })
    .await;
    b.stop(&world).await;
    assert_eq!(money.holding(a.capital.account()).await, CAPITAL - DEPOSIT);

    money.ledger.advance(49 * 3600, 70).expect("wound on");
    a.payments.step().await;
    until("the refund", || {
        escrows(&a, Direction::Out)
            .into_iter()
            .find(|e| e.state == Standing::Refunded)
    })
    .await;
    until("sweep and merge", || {
        (a.metrics.get(Metric::LedgerTransactions, &["merge", "applied"]) > 0).then_some(())
    })
    .await;
    a.payments.audit().await.expect("the books add up");
    assert_eq!(
        money.holding(a.capital.account()).await,
        CAPITAL - DEPOSIT,
        "the ledger shows no way back"
    );
    assert_eq!(brought_home(&money, &world, a).await, CAPITAL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_relay_on_the_same_journal_does_not_start() {
    let money = Money::start().await;
    let world = Arc::new(World::default());
    let a = start(&money, &world, A, &[A]).await;
    let error = obol_store::Journal::<obol_toll::fact::NodeFact>::open(&a.journal()).expect_err("in use");
    assert!(matches!(error, obol_store::OpenError::InUse { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_journal_stops_payments_before_anything_is_granted_for_what_it_lost() {
    let money = Money::start().await;
    let world = Arc::new(World::default());
    let a = start(&money, &world, A, &[A]).await;
    let mut client = Client::new(&money, &[&a], 5, 1_000_000_000).await;
    client.open_escrow(&money, &a).await;
    assert!(matches!(
        client.pay(&[&a], 1, Step::FIRST, &[PRICE]).await,
        ToOrigin::Complete { n: 1, .. }
    ));
    let (directory, capital, payee) = a.stop(&world).await;

    // Room for a few more payments.
    let mut limited = settings(&money);
    limited.journal_limit = Some(obol_relay::config::Size::kib(160));
    let a = start_with(&world, A, &[A], directory, capital, payee, limited).await;
    client.reconnect(&[&a]);
    let paid = async {
        let mut n = 0;
        loop {
            n += 1;
            client.pay(&[&a], n, Step::FIRST, &[PRICE]).await;
        }
    };
    tokio::select! {
        never = paid => never,
        error = a.payments.failed() => assert_eq!(error, obol_store::StoreError::Full),
    }
    assert!(a.state().stopped);
    assert_eq!(a.metrics.get(Metric::PaymentsStopped, &[]), 1);
    // Nothing is promised that could not be kept, and nobody is left waiting for an answer.
    let not_now = ToOrigin::Declined(Declined {
        code: DeclineCode::NotNow,
    });
    let other = Client::new(&money, &[&a], 6, 1).await;
    assert_eq!(other.ask(&a, &ToNode::QuoteQuery).await, not_now);
    let pay = ToNode::Pay(Pay {
        n: 1,
        step: Step::FIRST,
        forward: Forward::Last,
        claim: None,
    });
    let refused = ToOrigin::Refused {
        n: 1,
        distance: 0,
        code: RefuseCode::Failed,
    };
    assert_eq!(other.ask(&a, &pay).await, refused);
    let listen = ToNode::Listen {
        id: 7,
        low: LowWater::at_least(1 << 40),
    };
    assert_eq!(other.ask(&a, &listen).await, ToOrigin::Nothing { id: 7 });
    a.payments.close_all().await;
    let bought: u64 = a.state().circuits.iter().map(|circuit| circuit.bought).sum();
    let initial: u64 = a.state().circuits.iter().map(|circuit| circuit.initial_credit).sum();
    assert_eq!(
        a.plane.granted(5),
        initial + bought,
        "credit was granted for durable payments only"
    );
    let (directory, capital, payee) = a.stop(&world).await;

    // What the journal has is what is owed.
    let a = start_in(&money, &world, A, &[A], directory, capital, payee).await;
    let claimed = escrows(&a, Direction::In)[0].cumulative;
    assert!(claimed >= PRICE && claimed <= client.paid());
    a.payments.close_all().await;
    until("the flush", || (a.state().sums.settled_in == claimed).then_some(())).await;
    assert_eq!(money.holding(a.payee.account()).await, claimed);
    a.payments.audit().await.expect("the books add up");
}
