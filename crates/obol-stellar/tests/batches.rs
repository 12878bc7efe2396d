//! Many payments in one transaction, and one-time accounts: who cannot be paid is left out with the reason, nobody is paid
//! twice, and nothing goes straight back to where it came from.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::sim::Sim;
use common::{DEPOSIT, WEALTH, key, stroops};
use obol_cell::AccountId;
use obol_stellar::Keypair;
use obol_stellar::outbox::Outbox as _;
use obol_stellar::rail::Code;
use obol_stellar::settle::{
    CarryError, LeftOut, MAX_PAYMENTS, Money, Need, Paid, Payment, TopUp, Transfer, WalletError,
};
use obol_stellar::tx::{Memo, Op, Tx, Validity};
use stellar_xdr as xdr;

fn payment(to: AccountId, amount: i64) -> Payment {
    Payment {
        to,
        amount: stroops(amount),
    }
}

/// Submits a transaction that obol-stellar has no operation for.
async fn raw(sim: &Sim, source: &Keypair, body: xdr::OperationBody) {
    let sequence = sim.ledger.account(&source.account().0).unwrap().seq_num.0 + 1;
    let tx = xdr::Transaction {
        source_account: xdr::MuxedAccount::Ed25519(xdr::Uint256(source.account().0)),
        fee: 100,
        seq_num: xdr::SequenceNumber(sequence),
        cond: xdr::Preconditions::None,
        memo: xdr::Memo::None,
        operations: vec![xdr::Operation {
            source_account: None,
            body,
        }]
        .try_into()
        .unwrap(),
        ext: xdr::TransactionExt::V0,
    };
    let hash = tx.hash(sim.network.id().0).unwrap();
    let signature = xdr::DecoratedSignature {
        hint: xdr::SignatureHint(source.hint()),
        signature: xdr::Signature(source.sign(&hash).0.to_vec().try_into().unwrap()),
    };
    let envelope = xdr::TransactionEnvelope::Tx(xdr::TransactionV1Envelope {
        tx,
        signatures: vec![signature].try_into().unwrap(),
    });
    let bytes = xdr::WriteXdr::to_xdr(&envelope, xdr::Limits::none()).unwrap();
    let sent = sim.ledger.submit(&bytes, sim.now());
    assert!(matches!(sent, obol_ledger::Submission::Pending { .. }), "{sent:?}");
    sim.ledgers(1).await;
}

async fn demands_memos(sim: &Sim, account: &Keypair) {
    let body = xdr::OperationBody::ManageData(xdr::ManageDataOp {
        data_name: xdr::String64("config.memo_required".try_into().unwrap()),
        data_value: Some(xdr::DataValue(b"1".to_vec().try_into().unwrap())),
    });
    raw(sim, account, body).await;
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_paid_is_left_out_with_the_reason_and_the_others_are_paid() {
    let sim = Sim::funded().await;
    let memo = sim.account_with_line(20).await;
    demands_memos(&sim, &memo).await;
    let without_line = key(21);
    sim.ledger.fund(without_line.account().0, sim.now()).unwrap();
    let small = key(22);
    sim.ledger.fund(small.account().0, sim.now()).unwrap();
    sim.ledgers(1).await;
    let limited = Op::Trust {
        asset: sim.asset,
        limit: stroops(100),
    };
    sim.settler
        .transact([8; 32], &small, &[], &[(None, limited)])
        .await
        .unwrap();
    let payments = [
        payment(sim.payee.account(), 10),
        payment(memo.account(), 11),
        payment(without_line.account(), 12),
        payment(key(99).account(), 13),
        payment(small.account(), 60),
        payment(small.account(), 50),
        payment(small.account(), 40),
        payment(sim.payer.account(), 14),
        payment(sim.payee.account(), 0),
        payment(sim.issuer.account(), 15),
        payment(sim.payee.account(), 10),
    ];
    let batch = || sim.settler.pay_batch([7; 32], &sim.payer, sim.asset, &payments);
    let made = batch().await.unwrap();
    use LeftOut::{LineFull, MemoRequired, NoAccount, NoLine, Pointless};
    let left = |reason| Paid::LeftOut(reason);
    let expected = [
        Paid::Paid,
        left(MemoRequired),
        left(NoLine),
        left(NoAccount),
        Paid::Paid,
        left(LineFull),
        Paid::Paid,
        left(Pointless),
        left(Pointless),
        Paid::Paid,
        Paid::Paid,
    ];
    assert_eq!(made.payments, expected);
    assert!(made.transaction.as_ref().unwrap().successful);
    assert_eq!(sim.balance(sim.payee.account()), 20);
    assert_eq!(sim.balance(small.account()), 100);
    assert_eq!(sim.balance(sim.payer.account()), WEALTH - 20 - 100 - 15);

    // Asked again it tells what was done, and why the others were left out is not known any more.
    sim.settler.trust(&without_line, sim.asset).await.unwrap();
    let again = batch().await.unwrap();
    assert_eq!(again.transaction, made.transaction);
    let paid = |batch: &obol_stellar::settle::Batch| -> Vec<bool> {
        batch.payments.iter().map(|paid| *paid == Paid::Paid).collect()
    };
    assert_eq!(paid(&again), paid(&made));
    assert_eq!(again.payments[2], left(LeftOut::NotInIt));
    // What was left out is paid under another reference.
    let rest = [payments[2]];
    let second = sim
        .settler
        .pay_batch([6; 32], &sim.payer, sim.asset, &rest)
        .await
        .unwrap();
    assert_eq!(second.payments, [Paid::Paid]);
    assert_eq!(sim.balance(without_line.account()), 12);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_are_paid_in_one_transaction_and_more_are_refused() {
    let sim = Sim::funded().await;
    let payments = vec![payment(sim.payee.account(), 1); MAX_PAYMENTS];
    let before = sim.outbox.all().len();
    let batch = sim
        .settler
        .pay_batch([7; 32], &sim.payer, sim.asset, &payments)
        .await
        .unwrap();
    assert!(batch.payments.iter().all(|paid| *paid == Paid::Paid));
    assert_eq!(sim.outbox.all().len(), before + 1);
    assert_eq!(sim.balance(sim.payee.account()), 100);
    let fee = batch.transaction.unwrap().fee_charged;
    assert_eq!(fee, stroops(100 * 100));
    let more = vec![payment(sim.payee.account(), 1); MAX_PAYMENTS + 1];
    let refused = sim.settler.pay_batch([6; 32], &sim.payer, sim.asset, &more).await;
    assert!(matches!(refused, Err(WalletError::Carry(CarryError::Tx(_)))));
    let beyond = [payment(sim.payee.account(), WEALTH)];
    let refused = sim.settler.pay_batch([5; 32], &sim.payer, sim.asset, &beyond).await;
    assert!(
        matches!(refused, Err(WalletError::NoMoney { needed, .. }) if needed == stroops(WEALTH)),
        "{refused:?}"
    );
    let nobody = [payment(key(99).account(), 1)];
    let nothing = sim
        .settler
        .pay_batch([4; 32], &sim.payer, sim.asset, &nobody)
        .await
        .unwrap();
    assert_eq!(nothing.payments, [Paid::LeftOut(LeftOut::NoAccount)]);
    assert_eq!(nothing.transaction, None);
    assert_eq!(sim.outbox.all().len(), before + 1, "nothing was sent");
}

/// A payee drops its line between the look and the ledger: the transaction fails, and is made again without it.
#[tokio::test(start_paused = true)]
async fn a_payment_that_fails_in_the_ledger_is_left_out_of_the_next_transaction() {
    let sim = Sim::funded().await;
    let fickle = sim.account_with_line(20).await;
    let sequence = sim.ledger.account(&fickle.account().0).unwrap().seq_num.0 + 1;
    let drop_line = Op::Trust {
        asset: sim.asset,
        limit: stroops(0),
    };
    let drop_line = Tx::new(
        fickle.account(),
        sequence,
        100,
        Validity::default(),
        [(None, drop_line)],
    )
    .unwrap()
    .sign(sim.network.id(), &[&fickle])
    .unwrap();
    let payments = [payment(fickle.account(), 5), payment(sim.payee.account(), 6)];
    let batch = async {
        let mut made = sim.settler.pay_batch([7; 32], &sim.payer, sim.asset, &payments).await;
        while made.is_err() {
            sim.ledgers(4).await;
            made = sim.settler.pay_batch([7; 32], &sim.payer, sim.asset, &payments).await;
        }
        made.unwrap()
    };
    let meanwhile = async {
        // The batch waits for its ledger; this one is in a ledger before it, or in the same in either order.
        while sim.outbox.pending().await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let _ = sim.ledger.submit(&drop_line.to_bytes().unwrap(), sim.now());
    };
    let (made, ()) = tokio::join!(batch, meanwhile);
    // In which order the ledger applied the two is drawn by lot: either way the books say what was done.
    match &made.payments[0] {
        Paid::Paid => assert_eq!(sim.balance(fickle.account()), 5),
        Paid::LeftOut(reason) => {
            assert!(
                matches!(reason, LeftOut::NoLine | LeftOut::NotInIt)
                    || *reason == LeftOut::Refused(Code::new("op_no_trust")),
                "{reason:?}"
            );
            assert_eq!(sim.balance(fickle.account()), 0);
        }
    }
    assert_eq!(made.payments[1], Paid::Paid);
    assert_eq!(sim.balance(sim.payee.account()), 6);
    sim.adds_up(&[sim.payer.account(), sim.payee.account(), fickle.account()]);
}

#[tokio::test(start_paused = true)]
async fn money_is_sent_with_the_memo_that_is_asked_for_and_lumens_make_an_account() {
    let sim = Sim::funded().await;
    let exchange = sim.account_with_line(20).await;
    demands_memos(&sim, &exchange).await;
    let transfer = |to, money, memo| Transfer { to, money, memo };
    let asset = Money::Asset(sim.asset, stroops(5));
    let without = sim
        .settler
        .send([1; 32], &sim.payer, &transfer(exchange.account(), asset, Memo::None))
        .await;
    assert!(matches!(without, Err(WalletError::MemoRequired)));
    let with = transfer(exchange.account(), asset, Memo::Id(77));
    let record = sim.settler.send([2; 32], &sim.payer, &with).await.unwrap();
    assert_eq!(sim.balance(exchange.account()), 5);
    let again = sim.settler.send([2; 32], &sim.payer, &with).await.unwrap();
    assert_eq!((again.hash, sim.balance(exchange.account())), (record.hash, 5));
    let too_long = transfer(exchange.account(), asset, Memo::Text("x".repeat(29)));
    assert!(sim.settler.send([3; 32], &sim.payer, &too_long).await.is_err());

    let newcomer = key(30);
    let lumens = |n| Money::Lumens(stroops(n));
    let little = transfer(newcomer.account(), lumens(9_999_999), Memo::None);
    let refused = sim.settler.send([4; 32], &sim.payer, &little).await;
    assert!(matches!(refused, Err(WalletError::TooLittle { least }) if least == stroops(10_000_000)));
    let enough = transfer(newcomer.account(), lumens(20_000_000), Memo::Text("welcome".into()));
    sim.settler.send([5; 32], &sim.payer, &enough).await.unwrap();
    sim.settler
        .send(
            [6; 32],
            &sim.payer,
            &transfer(newcomer.account(), lumens(1), Memo::None),
        )
        .await
        .unwrap();
    assert_eq!(sim.ledger.account(&newcomer.account().0).unwrap().balance, 20_000_001);
    let no_line = transfer(newcomer.account(), asset, Memo::None);
    let refused = sim.settler.send([7; 32], &sim.payer, &no_line).await;
    assert!(matches!(refused, Err(WalletError::NoLine { .. })));
}

/// Capital fills one-time accounts with equal amounts; escrows are opened from these and swept into these, and what becomes
/// too little goes to the next: no transaction but the filling names the capital account.
#[tokio::test(start_paused = true)]
async fn escrows_are_funded_by_one_time_accounts_and_nothing_goes_straight_back() {
    let sim = Sim::funded().await;
    let need = Need {
        money: stroops(DEPOSIT),
        escrows: 1,
    };
    let ones = [key(40), key(41), key(42)];
    let top_up = |need, left: Vec<Keypair>, fresh: Vec<Keypair>| {
        let sim = &sim;
        async move { sim.settler.top_up(&sim.payer, sim.asset, need, &left, &fresh).await }
    };
    assert_eq!(top_up(need, vec![], vec![]).await.unwrap(), TopUp::Short);
    let ready = top_up(need, vec![], ones.to_vec()).await.unwrap();
    assert_eq!(ready, TopUp::Ready(ones[0].account()));
    let equal: Vec<(i64, i64)> = ones
        .iter()
        .map(|one| {
            let lumens = sim.ledger.account(&one.account().0).unwrap().balance;
            (sim.balance(one.account()), lumens)
        })
        .collect();
    assert_eq!(equal, [(DEPOSIT, 40_000_000); 3], "all alike");
    let capital_after = sim.ledger.account(&sim.payer.account().0).unwrap();

    // An escrow from the first: flushed, swept, merged into it.
    let agreed = sim.agree(10);
    sim.settler.open(&ones[0], &[agreed.opening()]).await.unwrap();
    sim.settler.flush(&sim.order(&agreed, 1, 600_000)).await.unwrap();
    sim.ledgers(70).await;
    let to = ones[0].account();
    sim.settler.wind_up(&agreed.escrow, &agreed.e, to, to).await.unwrap();
    assert_eq!(sim.balance(to), 400_000);
    // Too little for another: the second is taken, which has enough.
    let left = vec![ones[0].clone(), ones[1].clone()];
    assert_eq!(
        top_up(need, left, vec![]).await.unwrap(),
        TopUp::Ready(ones[1].account())
    );
    // What is left serves a smaller one as it is.
    let smaller = Need {
        money: stroops(300_000),
        escrows: 1,
    };
    let left = vec![ones[0].clone()];
    assert_eq!(top_up(smaller, left, vec![]).await.unwrap(), TopUp::Ready(to));
    // Nobody has enough for a large one: a new account gets it, and what the first had left.
    let large = Need {
        money: stroops(5 * DEPOSIT),
        escrows: 2,
    };
    let fresh = key(50);
    let before = sim.ledger.account(&sim.payer.account().0).unwrap();
    assert_eq!(
        (before.seq_num.0, before.balance),
        (capital_after.seq_num.0, capital_after.balance),
        "nothing but the filling touched the capital account"
    );
    let ready = top_up(large, vec![ones[0].clone()], vec![fresh.clone()]).await.unwrap();
    assert_eq!(ready, TopUp::Ready(fresh.account()));
    assert!(!sim.exists(ones[0].account()));
    assert_eq!(sim.balance(fresh.account()), 5 * DEPOSIT + 400_000);
    // Two escrows at once can be opened from it.
    let both = [sim.agree(11), sim.agree(12)];
    let openings = both.each_ref().map(common::Agreed::opening);
    sim.settler.open(&fresh, &openings).await.unwrap();
    let holders = [
        &ones[1], &ones[2], &fresh, &both[0].e, &both[1].e, &sim.payer, &sim.payee,
    ];
    sim.adds_up(&holders.map(Keypair::account));

    let poor = Need {
        money: stroops(WEALTH),
        escrows: 1,
    };
    let refused = top_up(poor, vec![], vec![key(51)]).await;
    assert!(matches!(refused, Err(WalletError::NoMoney { .. })), "{refused:?}");
    let many = Need {
        money: stroops(1),
        escrows: 10_000,
    };
    let refused = top_up(many, vec![], vec![key(51)]).await;
    assert!(matches!(refused, Err(WalletError::NoLumens { .. })), "{refused:?}");
}
