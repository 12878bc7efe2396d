//! Stellar RPC as the embedded ledger serves it, over sockets: it shows what Horizon shows, and everything can be done over it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use common::{DEPOSIT, LIFE, World, key, stroops};
use obol_stellar::check::{Belief, believe};
use obol_stellar::outbox::Outbox;
use obol_stellar::rail::horizon::Timeouts;
use obol_stellar::rail::rpc::Rpc;
use obol_stellar::rail::{FriendbotError, RailConfig, RailError, RailKind, SubmitError};
use obol_stellar::settings::AssetName;
use obol_stellar::settle::{Flushed, Paid, Payment, WindUp};
use obol_stellar::tx::{Op, TxHash};
use obol_stellar::{Connect, Network, Rail, Tcp};

/// The rail of a configuration that names the ledger's RPC.
fn rpc(world: &World) -> Arc<dyn Rail> {
    let config = RailConfig {
        kind: RailKind::Rpc,
        network_passphrase: world.network.passphrase().to_owned(),
        urls: vec![world.server.rpc_url()],
        friendbot: None,
        assets: vec![AssetName {
            code: "OBOL".to_owned(),
            issuer: world.asset.issuer,
        }],
        requests_per_minute: None,
    };
    let tcp: Arc<dyn Connect> = Arc::new(Tcp);
    config.servers(&tcp, Timeouts::default()).unwrap().remove(0)
}

#[tokio::test]
async fn both_interfaces_show_the_same() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let (horizon, rpc) = (&world.rail, rpc(&world));
    rpc.check_network().await.unwrap();
    let ids = [
        world.issuer.account(),
        world.payer.account(),
        world.payee.account(),
        agreed.escrow.account(),
        key(99).account(),
    ];
    for id in ids {
        let (mut here, mut there) = (horizon.account(id).await.unwrap(), rpc.account(id).await.unwrap());
        for state in [&mut here, &mut there].into_iter().flatten() {
            state.signers.sort_by_key(|signer| signer.key.map(|key| key.0));
        }
        assert_eq!(here, there);
    }
    assert_eq!(horizon.latest_ledger().await, rpc.latest_ledger().await);
    for submission in world.outbox.all() {
        let found = horizon.transaction(submission.hash).await.unwrap();
        assert!(found.is_some());
        assert_eq!(rpc.transaction(submission.hash).await.unwrap(), found);
    }
    assert_eq!(rpc.transaction(TxHash([9; 32])).await, Ok(None));
    let head = rpc.latest_ledger().await.unwrap();
    assert!(rpc.fee_stats().await.unwrap().base_fee >= head.base_fee);
    rpc.friendbot(key(50).account()).await.unwrap();
    assert!(rpc.account(key(50).account()).await.unwrap().is_some());
    assert_eq!(
        rpc.friendbot(key(50).account()).await,
        Err(FriendbotError::AlreadyFunded)
    );
    let elsewhere = Rpc::new(
        &world.server.rpc_url(),
        Network::testnet(),
        Arc::new(Tcp),
        Timeouts::default(),
    )
    .unwrap();
    let refused = elsewhere.check_network().await;
    assert!(matches!(refused, Err(RailError::OtherNetwork { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_escrow_lives_its_whole_life_over_rpc() {
    let world = World::funded().await;
    let rail = rpc(&world);
    let settler = world.settler(Arc::clone(&rail), Arc::clone(&world.outbox) as Arc<dyn Outbox>);
    let (flushed, refunded) = (world.agree(10), world.agree(11));
    settler
        .open(&world.payer, &[flushed.opening(), refunded.opening()])
        .await
        .unwrap();
    let rails = [Arc::clone(&rail)];
    let balance = believe(&rails, &flushed.escrow, &Belief::default(), world.ledger.now()).await;
    assert_eq!(balance, Ok(stroops(DEPOSIT)));
    let settled = settler.flush(&world.order(&flushed, 5, 5_000)).await.unwrap();
    assert!(matches!(settled, Flushed::Settled { amount, .. } if amount == stroops(5_000)));
    world.pass_time(LIFE + 1);
    let ended = settler
        .refund(
            &refunded.escrow,
            stroops(DEPOSIT),
            &refunded.e,
            refunded.refund,
            &world.payer,
        )
        .await
        .unwrap();
    assert_eq!(ended.rest, stroops(DEPOSIT));
    world.pass_ledgers(61);
    let home = world.payer.account();
    for agreed in [&flushed, &refunded] {
        let wound_up = settler.wind_up(&agreed.escrow, &agreed.e, home, home).await.unwrap();
        assert_eq!(wound_up, WindUp::Done);
    }
    let payments = [
        Payment {
            to: world.payee.account(),
            amount: stroops(7),
        },
        Payment {
            to: key(99).account(),
            amount: stroops(7),
        },
    ];
    let batch = settler
        .pay_batch([7; 32], &world.payer, world.asset, &payments)
        .await
        .unwrap();
    assert_eq!(batch.payments[0], Paid::Paid);
    assert!(matches!(batch.payments[1], Paid::LeftOut(_)));
    assert_eq!(world.balance(world.payee.account()).await, 5_007);
    assert!(world.outbox.pending().await.unwrap().is_empty());
    world.adds_up();
}

#[tokio::test]
async fn what_a_ledger_has_already_is_no_refusal_over_either() {
    let world = World::funded().await;
    let rail = rpc(&world);
    let pay = Op::Pay {
        to: world.payee.account(),
        asset: world.asset,
        amount: stroops(1),
    };
    let tx = world.tx(&world.payer, &[&world.payer], &[(None, pay)]).await;
    let record = rail.submit(&tx).await.unwrap();
    assert_eq!(rail.submit(&tx).await, Ok(record.clone()));
    assert_eq!(world.rail.submit(&tx).await, Ok(record));
    assert_eq!(world.balance(world.payee.account()).await, 1);
}

#[tokio::test]
async fn a_refusal_has_the_same_codes_over_both() {
    let world = World::funded().await;
    let rail = rpc(&world);
    let pay = Op::Pay {
        to: world.payee.account(),
        asset: world.asset,
        amount: stroops(1),
    };
    // Signed by somebody else; and, in a ledger, more than there is.
    let unsigned = world.tx(&world.payer, &[&world.payee], &[(None, pay)]).await;
    let too_much = Op::Pay {
        to: world.payer.account(),
        asset: world.asset,
        amount: stroops(1),
    };
    let failing = world.tx(&world.payee, &[&world.payee], &[(None, too_much)]).await;
    for (tx, code) in [(&unsigned, "tx_bad_auth"), (&failing, "tx_failed")] {
        let Err(SubmitError::Rejected { codes }) = rail.submit(tx).await else {
            panic!("the ledger took it, or nobody knows")
        };
        assert!(codes.is(code), "{codes}");
        if code == "tx_failed" {
            assert!(codes.has_operation("op_underfunded"), "{codes}");
            let record = rail.transaction(tx.hash()).await.unwrap().unwrap();
            assert_eq!((record.successful, record.codes), (false, codes));
        }
    }
}
