//! Two relays whose operators trust each other: nothing is locked between them, one owes and pays.

use std::sync::Arc;

use obol_cell::{Step, ToOrigin};
use obol_relay::config::{AccountName, Amount, Owing, RelayIdentity, Span, TrustedRelay};
use obol_relay::metrics::Metric;
use obol_relay::payments::Direction;
use obol_stellar::Keypair;

use crate::bench::{CAPITAL, Client, Money, Node, PRICE, World, settings, start_with, until};
use crate::{A, B, amounts, escrows, payable};

/// What a relay's account for what is owed starts with, and may owe.
const PURSE: i64 = 1_000_000;

/// A relay with these keys for its account for what is owed, which has lumens, and trusts these.
async fn relay(money: &Money, world: &Arc<World>, ed: [u8; 32], trust: &Keypair, list: Vec<TrustedRelay>) -> Node {
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let (capital, payee) = (Keypair::random().expect("a key"), Keypair::random().expect("a key"));
    for (key, file) in [
        (&capital, "capital.seed"),
        (&payee, "payee.seed"),
        (trust, "trust.seed"),
    ] {
        key.save_new(&directory.path().join(file)).expect("saved");
    }
    money.fund(&capital, CAPITAL).await;
    money.fund(&payee, 0).await;
    let mut settings = settings(money);
    // No escrows: whoever is paid on is paid by trust.
    settings.peers.open = ed == B;
    settings.trust = list;
    settings.owing = Owing {
        max_owed: Some(Amount(PURSE)),
        period: Span::millis(500),
        min_payment: Amount(1),
        ..Owing::default()
    };
    start_with(world, ed, &[A, B], directory, capital, payee, settings).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_trusted_owes_and_pays_to_the_stroop() {
    let money = Money::start().await;
    let world = Arc::new(World::default());
    let (of_a, of_b) = (Keypair::random().expect("a key"), Keypair::random().expect("a key"));
    money.fund(&of_a, PURSE).await;
    // Its trust line is the relay's own business.
    money.fund(&of_b, 0).await;
    let trusted = TrustedRelay {
        peer: RelayIdentity(A),
        account: AccountName(of_a.account()),
        max_unsettled: Some(Amount(PURSE)),
    };
    let a = relay(&money, &world, A, &of_a, Vec::new()).await;
    let b = relay(&money, &world, B, &of_b, vec![trusted]).await;

    let path = [&a, &b];
    let mut client = Client::new(&money, &path, 42, 10_000_000).await;
    payable(&client, &a).await;
    client.open_escrow(&money, &a).await;
    let initial = b.plane.granted(42);
    for n in [1, 2] {
        let answer = client.pay(&path, n, Step::FIRST, &amounts(n.into())).await;
        assert!(matches!(answer, ToOrigin::Complete { .. }), "{answer:?}");
    }
    until("the second hop's credit", || {
        (b.plane.granted(42) == initial + 131_072).then_some(())
    })
    .await;
    assert!(escrows(&a, Direction::Out).is_empty(), "nothing is locked");

    // Nobody asks for it: the period passes.
    let owed = 2 * PRICE;
    until("the settlement, as the payee sees it", || {
        (b.metrics.get(Metric::StroopsOwedSettled, &[]) == owed.unsigned_abs()).then_some(())
    })
    .await;
    assert_eq!(b.metrics.get(Metric::StroopsOwed, &[]), owed.unsigned_abs());
    assert!(a.metrics.get(Metric::LedgerTransactions, &["owed", "applied"]) > 0);
    assert_eq!(money.holding(of_b.account()).await, owed);
    assert_eq!(money.holding(of_a.account()).await, PURSE - owed);
    let (a_owes, b_is_owed) = (a.state().sums, b.state().sums);
    assert_eq!((a_owes.owed, b_is_owed.owed_to_us), (owed, owed));
    assert_eq!(b_is_owed.owed_to_us_settled, owed);
    assert_eq!(b_is_owed.claimed, 0, "what is owed is no claim");
    for node in path {
        node.payments.audit().await.expect("the books add up");
    }
    let audit = money.ledger.audit().expect("audits");
    assert!(
        audit.assets.values().all(|asset| asset.difference == 0),
        "money was created or lost"
    );
}
