//! What is owed by trust, on the embedded ledger over both of its interfaces: paid all or nothing and once, looked up by the payee,
//! found again after a backup; and servers that lie about it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::faulty::{Fault, Faulty};
use common::{WEALTH, World, key, stroops};
use obol_cell::{AccountId, SettlementMemo, TransactionId};
use obol_stellar::outbox::Outbox;
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::rail::many::Many;
use obol_stellar::rail::rpc::Rpc;
use obol_stellar::rail::{
    AccountState, BadReply, FeeStats, FriendbotError, LedgerHead, LedgerPayment, RailError, SubmitError, TxPayments,
    TxRecord,
};
use obol_stellar::settle::{CarryError, OwedOutcome, Payment, WalletError, owed_reference};
use obol_stellar::tx::{Memo, Op, SignedTx, Tx, TxHash, Validity};
use obol_stellar::{Keypair, MemoryOutbox, Rail, Settler, Tcp};
use obol_toll::trust::{ExpectedPayment, NotPaid, OwedPayment};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MEMO: [u8; 32] = [0x4d; 32];

fn rpc(world: &World) -> Arc<dyn Rail> {
    let url = world.server.rpc_url();
    let rpc = Rpc::new(&url, world.network.clone(), Arc::new(Tcp), Timeouts::default()).unwrap();
    Arc::new(rpc.with_assets(vec![world.asset]))
}

/// The same ledger over Horizon and over RPC.
fn both(world: &World) -> [Arc<dyn Rail>; 2] {
    [Arc::clone(&world.rail), rpc(world)]
}

fn payment(to: AccountId, amount: i64) -> Payment {
    Payment {
        to,
        amount: stroops(amount),
    }
}

fn expected(world: &World, to: AccountId) -> ExpectedPayment {
    ExpectedPayment {
        from: world.payer.account(),
        to,
        memo: SettlementMemo(MEMO),
    }
}

async fn with_line(world: &World, n: u8) -> Keypair {
    let account = key(n);
    world.rail.friendbot(account.account()).await.unwrap();
    world.settler.trust(&account, world.asset).await.unwrap();
    account
}

/// Pays what is owed under this reference; it has to be paid.
async fn paid(world: &World, settler: &Settler, reference: u8, payments: &[Payment]) -> TxHash {
    let outcome = settler
        .pay_owed([reference; 32], &world.payer, world.asset, MEMO, payments)
        .await;
    match outcome {
        Ok(OwedOutcome::Paid { hash }) => hash,
        other => panic!("{other:?}"),
    }
}

fn has_pending(answer: &Result<OwedOutcome, WalletError>) -> bool {
    matches!(answer, Err(WalletError::Carry(CarryError::Pending { .. })))
}

#[tokio::test]
async fn both_interfaces_show_what_was_paid_and_only_what_was_expected_counts() {
    let world = World::funded().await;
    let other = with_line(&world, 20).await;
    let rails = both(&world);
    for (n, rail) in rails.iter().enumerate() {
        let settler = world.settler(Arc::clone(rail), Arc::clone(&world.outbox) as Arc<dyn Outbox>);
        let before = [&world.payee, &other].map(Keypair::account);
        let before = [world.balance(before[0]).await, world.balance(before[1]).await];
        let owed = [
            payment(world.payee.account(), 7),
            payment(other.account(), 8),
            payment(world.payee.account(), 2),
        ];
        let reference = u8::try_from(n).unwrap();
        let hash = paid(&world, &settler, reference, &owed).await;
        assert_eq!(
            paid(&world, &settler, reference, &owed).await,
            hash,
            "asked again, paid once"
        );
        assert_eq!(world.balance(world.payee.account()).await, before[0] + 9);
        assert_eq!(world.balance(other.account()).await, before[1] + 8);

        let seen = [
            rails[0].payments(hash).await.unwrap().unwrap(),
            rails[1].payments(hash).await.unwrap().unwrap(),
        ];
        assert_eq!(seen[0], seen[1]);
        assert_eq!((seen[0].transaction, seen[0].record.hash), (hash, hash));
        assert_eq!(seen[0].memo, Memo::Hash(MEMO));
        let shown = owed.map(|Payment { to, amount }| LedgerPayment {
            from: world.payer.account(),
            to,
            asset: Some(world.asset),
            amount,
        });
        assert_eq!(seen[0].payments, shown);

        let it = expected(&world, world.payee.account());
        let check = async |hash, payment: &ExpectedPayment| settler.check_payment(hash, payment, world.asset).await;
        assert_eq!(check(hash, &it).await, Ok(stroops(9)));
        assert_eq!(check(hash, &expected(&world, other.account())).await, Ok(stroops(8)));
        let (from, to, memo) = (world.payee.account(), key(99).account(), SettlementMemo([1; 32]));
        for wrong in [
            ExpectedPayment { from, ..it },
            ExpectedPayment { to, ..it },
            ExpectedPayment { memo, ..it },
        ] {
            assert_eq!(check(hash, &wrong).await, Err(NotPaid::Wrong));
        }
        let elsewhere = obol_stellar::asset::asset("OTHER", world.issuer.account()).unwrap();
        assert_eq!(
            settler.check_payment(hash, &it, elsewhere).await,
            Err(NotPaid::Wrong),
            "another asset"
        );
        assert_eq!(check(TxHash([9; 32]), &it).await, Err(NotPaid::Absent));
    }
    // In a ledger, as announced, and failed: more than there is.
    let too_much = Op::Pay {
        to: world.payee.account(),
        asset: world.asset,
        amount: stroops(2 * WEALTH),
    };
    let failed = with_memo(&world, &world.payer, too_much).await;
    assert!(world.refused(&failed).await.has_operation("op_underfunded"));
    for rail in rails {
        let settler = world.settler(rail, Arc::new(MemoryOutbox::new()));
        let it = expected(&world, world.payee.account());
        let checked = settler.check_payment(failed.hash(), &it, world.asset).await;
        assert_eq!(checked, Err(NotPaid::Wrong));
    }
    let nobody = Horizon::new(
        "http://127.0.0.1:1",
        world.network.clone(),
        Arc::new(Tcp),
        Timeouts::default(),
    );
    let nobody = world.settler(Arc::new(nobody.unwrap()), Arc::new(MemoryOutbox::new()));
    let it = expected(&world, world.payee.account());
    let checked = nobody.check_payment(failed.hash(), &it, world.asset).await;
    assert_eq!(checked, Err(NotPaid::Unreachable));
    world.adds_up();
}

/// A transaction with the memo, by anybody.
async fn with_memo(world: &World, by: &Keypair, op: Op) -> SignedTx {
    let sequence = world.account(by.account()).await.sequence + 1;
    Tx::new(by.account(), sequence, 100, Validity::default(), [(None, op)])
        .unwrap()
        .with_memo(&Memo::Hash(MEMO))
        .unwrap()
        .sign(world.network.id(), &[by])
        .unwrap()
}

#[tokio::test]
async fn a_settlement_that_is_asked_for_twice_at_once_is_made_once() {
    let world = World::funded().await;
    let owed = [payment(world.payee.account(), 7)];
    let once = paid(&world, &world.settler, 1, &owed);
    let twice = paid(&world, &world.settler, 1, &owed);
    let (once, twice) = tokio::join!(once, twice);
    assert_eq!(once, twice);
    // The same payments under another reference are another settlement.
    assert_ne!(paid(&world, &world.settler, 2, &owed).await, once);
    assert_eq!(world.balance(world.payee.account()).await, 14);
}

#[tokio::test]
async fn a_settlement_that_a_stranger_wraps_is_paid_once_and_counts_under_one_name() {
    for over_rpc in [false, true] {
        let world = World::funded().await;
        let outbox = Arc::clone(&world.outbox) as Arc<dyn Outbox>;
        let owed = [payment(world.payee.account(), 7)];
        let server = Faulty::of(&world, Fault::Drops);
        let lost = world
            .settler(Arc::clone(&server) as Arc<dyn Rail>, Arc::clone(&outbox))
            .pay_owed([1; 32], &world.payer, world.asset, MEMO, &owed)
            .await;
        assert!(has_pending(&lost), "{lost:?}");
        // Who saw it pays its fee, and has it go into a ledger wrapped.
        let ours = server.seen().remove(0);
        let wrapped = ours.bumped(world.network.id(), &world.payee, stroops(400)).unwrap();
        world.rail.submit(&wrapped).await.unwrap();
        let rail = Arc::clone(&both(&world)[usize::from(over_rpc)]);
        for _ in 0..2 {
            let settler = world.settler(Arc::clone(&rail), Arc::clone(&outbox));
            assert_eq!(paid(&world, &settler, 1, &owed).await, ours.hash());
            settler.resume().await.unwrap();
        }
        assert_eq!(world.balance(world.payee.account()).await, 7, "once");
        let it = expected(&world, world.payee.account());
        let settler = world.settler(rail, outbox);
        let checked = settler.check_payment(ours.hash(), &it, world.asset).await;
        assert_eq!(checked, Ok(stroops(7)));
        let again = settler.check_payment(wrapped.hash(), &it, world.asset).await;
        assert_eq!(again, Err(NotPaid::Wrong), "or it would count twice");
    }
}

#[tokio::test]
async fn not_paid_is_said_only_when_no_ledger_will_ever_have_it() {
    let world = World::funded().await;
    let other = with_line(&world, 20).await;
    let owed = [payment(world.payee.account(), 7), payment(other.account(), 8)];
    let pay = async |settler: &Settler, reference: u8, owed: &[Payment]| {
        settler
            .pay_owed([reference; 32], &world.payer, world.asset, MEMO, owed)
            .await
    };
    // Nobody there: nothing is submitted, and nobody else is paid.
    let recorded = world.outbox.all().len();
    let with_nobody = [owed[0], payment(key(99).account(), 1)];
    assert_eq!(
        pay(&world.settler, 1, &with_nobody).await.unwrap(),
        OwedOutcome::NotPaid
    );
    // More than there is: that can change.
    let poor = pay(&world.settler, 2, &[payment(world.payee.account(), 2 * WEALTH)]).await;
    assert!(matches!(poor, Err(WalletError::NoMoney { .. })), "{poor:?}");
    assert!(pay(&world.settler, 3, &[]).await.is_err());
    assert_eq!(world.outbox.all().len(), recorded);

    // Handed over, and nobody knows: not "not paid", whatever becomes of a payee.
    let server = Faulty::of(&world, Fault::Drops);
    let outbox = Arc::clone(&world.outbox) as Arc<dyn Outbox>;
    let settler = world.settler(Arc::clone(&server) as Arc<dyn Rail>, outbox);
    let unknown = pay(&settler, 4, &owed).await;
    assert!(has_pending(&unknown), "{unknown:?}");
    let drop_line = Op::Trust {
        asset: world.asset,
        limit: stroops(0),
    };
    world
        .settler
        .transact([9; 32], &other, &[], &[(None, drop_line)])
        .await
        .unwrap();
    let unknown = pay(&settler, 4, &owed).await;
    assert!(has_pending(&unknown), "{unknown:?}");
    // The ledger decides: it fails, with both payments.
    server.becomes(Fault::None);
    assert_eq!(pay(&settler, 4, &owed).await.unwrap(), OwedOutcome::NotPaid);
    assert_eq!(world.balance(world.payee.account()).await, 0);
    settler.resume().await.unwrap();
    assert!(world.outbox.pending().await.unwrap().is_empty());
    world.adds_up();
}

#[tokio::test]
async fn after_a_backup_everything_that_was_paid_is_found_and_nothing_comes_after() {
    let world = World::funded().await;
    let other = with_line(&world, 20).await;
    let memo = SettlementMemo(MEMO);
    let mut settled = Vec::new();
    // More than a page, with other transactions between them.
    for n in 0..24u8 {
        let to = if n % 2 == 0 { &world.payee } else { &other }.account();
        let amount = 100 + i64::from(n);
        let owed = [payment(to, amount), payment(world.payee.account(), 1)];
        let hash = paid(&world, &world.settler, n, &owed).await;
        let payments = owed.map(|p| OwedPayment {
            account: p.to,
            amount: p.amount,
        });
        settled.push((TransactionId(hash.0), payments.to_vec()));
        if n % 4 == 0 {
            let reference = [100 + n; 32];
            let without = world
                .settler
                .pay(reference, &world.payer, other.account(), world.asset, stroops(3));
            without.await.unwrap();
        }
    }
    // A payee has the memo too, and uses it.
    let back = Op::Pay {
        to: world.payer.account(),
        asset: world.asset,
        amount: stroops(5),
    };
    let strangers = with_memo(&world, &world.payee, back).await;
    world.rail.submit(&strangers).await.unwrap();
    // And one is under way, in hands that wait.
    let server = Faulty::of(&world, Fault::Drops);
    let outbox = Arc::clone(&world.outbox) as Arc<dyn Outbox>;
    let late = [payment(world.payee.account(), 1_000)];
    let lost = world
        .settler(Arc::clone(&server) as Arc<dyn Rail>, outbox)
        .pay_owed([77; 32], &world.payer, world.asset, MEMO, &late)
        .await;
    assert!(has_pending(&lost), "{lost:?}");

    let empty = || Arc::new(MemoryOutbox::new()) as Arc<dyn Outbox>;
    let before = world.account(world.payer.account()).await.sequence;
    let by_rpc = world.settler(rpc(&world), empty());
    let cannot = by_rpc.find_owed(&world.payer, world.asset, memo).await;
    assert!(
        matches!(
            cannot,
            Err(WalletError::Carry(CarryError::Rail(RailError::Unsupported)))
        ),
        "{cannot:?}"
    );
    assert_eq!(
        world.account(world.payer.account()).await.sequence,
        before,
        "nothing was done for no answer"
    );
    let many = Many::new(vec![rpc(&world), Arc::clone(&world.rail)]);
    let restored = world.settler(Arc::new(many), empty());
    let found = restored.find_owed(&world.payer, world.asset, memo).await.unwrap();
    assert_eq!(found, settled);
    // What was under way cannot come to be any more.
    for waiting in server.seen() {
        assert!(world.refused(&waiting).await.is("tx_bad_seq"));
    }
    let again = restored.find_owed(&world.payer, world.asset, memo).await.unwrap();
    assert_eq!(again, settled);
    let all = world
        .rail
        .payments_with_memo(world.payer.account(), MEMO)
        .await
        .unwrap();
    assert!(all.iter().any(|paid| paid.transaction == strangers.hash()));
    assert!(all.is_sorted_by_key(|paid| paid.record.ledger));
    assert_eq!(
        world.rail.payments_with_memo(key(99).account(), MEMO).await.unwrap(),
        [],
        "an account that never was"
    );
    world.adds_up();
}

/// A server that lists payments which were never made.
struct Inventing {
    real: Arc<dyn Rail>,
    invented: (Horizon, TxHash),
}

#[async_trait]
impl Rail for Inventing {
    async fn check_network(&self) -> Result<(), RailError> {
        self.real.check_network().await
    }
    async fn latest_ledger(&self) -> Result<LedgerHead, RailError> {
        self.real.latest_ledger().await
    }
    async fn account(&self, account: AccountId) -> Result<Option<AccountState>, RailError> {
        self.real.account(account).await
    }
    async fn transaction(&self, hash: TxHash) -> Result<Option<TxRecord>, RailError> {
        self.real.transaction(hash).await
    }
    async fn payments_with_memo(&self, account: AccountId, memo: [u8; 32]) -> Result<Vec<TxPayments>, RailError> {
        let mut found = self.real.payments_with_memo(account, memo).await?;
        let (server, hash) = &self.invented;
        found.extend(server.payments(*hash).await?);
        Ok(found)
    }
    async fn submit(&self, tx: &SignedTx) -> Result<TxRecord, SubmitError> {
        self.real.submit(tx).await
    }
    async fn fee_stats(&self) -> Result<FeeStats, RailError> {
        self.real.fee_stats().await
    }
    async fn friendbot(&self, account: AccountId) -> Result<(), FriendbotError> {
        self.real.friendbot(account).await
    }
}

#[tokio::test]
async fn a_payment_that_the_payer_never_signed_is_not_found() {
    let world = World::funded().await;
    let hash = paid(&world, &world.settler, 1, &[payment(world.payee.account(), 7)]).await;
    // As if the payer had paid, signed by somebody else.
    let pay = Op::Pay {
        to: world.payee.account(),
        asset: world.asset,
        amount: stroops(1_000),
    };
    let invented = Tx::new(world.payer.account(), 1, 100, Validity::default(), [(None, pay)])
        .unwrap()
        .with_memo(&Memo::Hash(MEMO))
        .unwrap()
        .sign(world.network.id(), &[&world.payee])
        .unwrap();
    let shown = serde_json::json!({
        "hash": invented.hash().to_string(), "ledger": 7, "successful": true, "fee_charged": "100",
        "envelope_xdr": BASE64.encode(invented.to_bytes().unwrap()),
    });
    let liar = Horizon::new(
        &always(shown.to_string()).await,
        world.network.clone(),
        Arc::new(Tcp),
        Timeouts::default(),
    )
    .unwrap();
    let rail = Inventing {
        real: Arc::clone(&world.rail),
        invented: (liar, invented.hash()),
    };
    let listed = rail.payments_with_memo(world.payer.account(), MEMO).await.unwrap();
    assert!(listed.iter().any(|paid| paid.transaction == invented.hash()));
    let restored = world.settler(Arc::new(rail), Arc::new(MemoryOutbox::new()));
    let found = restored
        .find_owed(&world.payer, world.asset, SettlementMemo(MEMO))
        .await;
    let real = OwedPayment {
        account: world.payee.account(),
        amount: stroops(7),
    };
    assert_eq!(found.unwrap(), [(TransactionId(hash.0), vec![real])]);
}

#[test]
fn each_settlement_has_a_reference_of_its_own() {
    let asset = obol_stellar::asset::asset("OBOL", key(1).account()).unwrap();
    let (one, other) = (key(2).account(), key(3).account());
    let reference = owed_reference(one, &asset, 1);
    assert_eq!(owed_reference(one, &asset, 1), reference);
    for another in [
        owed_reference(one, &asset, 2),
        owed_reference(one, &asset, u64::MAX),
        owed_reference(other, &asset, 1),
    ] {
        assert_ne!(another, reference);
    }
}

/// A server that answers everything with this body.
async fn always(body: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_server_that_shows_another_transactions_envelope_is_not_believed() {
    let world = World::funded().await;
    let hash = paid(&world, &world.settler, 1, &[payment(world.payee.account(), 7)]).await;
    let announced = TxHash([9; 32]);
    let submission = world.outbox.all().into_iter().find(|s| s.hash == hash).unwrap();
    let envelope = BASE64.encode(&submission.envelope);
    let transaction = |hash: TxHash, place: u32| {
        serde_json::json!({
            "hash": hash.to_string(), "ledger": 7, "successful": true, "fee_charged": "100",
            "envelope_xdr": envelope, "paging_token": place.to_string(),
        })
    };
    let horizon = async |body: serde_json::Value| {
        let url = always(body.to_string()).await;
        Horizon::new(&url, world.network.clone(), Arc::new(Tcp), Timeouts::default()).unwrap()
    };
    let bad = |field| RailError::BadReply(BadReply::Field(field));
    // The real transaction, said to be the one that was announced.
    let liar = horizon(transaction(announced, 1)).await;
    assert_eq!(liar.payments(announced).await, Err(bad("envelope_xdr")));
    let it = expected(&world, world.payee.account());
    let asked = world.settler(Arc::new(liar), Arc::new(MemoryOutbox::new()));
    let checked = asked.check_payment(announced, &it, world.asset).await;
    assert_eq!(checked, Err(NotPaid::Unreachable));
    // The same server, asked for what it shows, is right: so it is the envelope that tells.
    let honest = horizon(transaction(hash, 1)).await;
    assert_eq!(honest.payments(hash).await.unwrap().unwrap().transaction, hash);
    for broken in [
        serde_json::json!("AAAA"),
        serde_json::json!(null),
        serde_json::json!("?"),
    ] {
        let mut shown = transaction(hash, 1);
        shown["envelope_xdr"] = broken;
        assert_eq!(horizon(shown).await.payments(hash).await, Err(bad("envelope_xdr")));
    }

    let page = |records: &[serde_json::Value]| serde_json::json!({ "_embedded": { "records": records } });
    let account = world.payer.account();
    let liar = horizon(page(&[transaction(announced, 1)])).await;
    let listed = liar.payments_with_memo(account, MEMO).await;
    assert_eq!(listed, Err(bad("envelope_xdr")));
    // The same page for ever.
    let endless = horizon(page(&[transaction(hash, 1), transaction(hash, 2)])).await;
    let listed = endless.payments_with_memo(account, MEMO).await;
    assert_eq!(listed, Err(bad("paging_token")));

    let url = world.server.rpc_url();
    let honest = Rpc::new(&url, world.network.clone(), Arc::new(Tcp), Timeouts::default()).unwrap();
    assert!(honest.payments(hash).await.unwrap().is_some());
    let url = always(
        serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": {
            "status": "SUCCESS", "latestLedger": 9, "latestLedgerCloseTime": "9", "oldestLedger": 1,
            "oldestLedgerCloseTime": "1", "ledger": 7, "envelopeXdr": envelope, "resultXdr": "AAAAAAAAAGQAAAAAAAAAAAAAAAA=",
        }})
        .to_string(),
    )
    .await;
    let liar = Rpc::new(&url, world.network.clone(), Arc::new(Tcp), Timeouts::default()).unwrap();
    assert_eq!(liar.payments(announced).await, Err(bad("envelopeXdr")));
    assert_eq!(
        liar.payments(hash).await.unwrap().unwrap().transaction,
        hash,
        "it is the envelope that tells"
    );
}
