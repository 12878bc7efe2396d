//! The attacks of the design reviews [C1 a-c, H11, M5] and of settlement.md's table, against the embedded ledger.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use common::{DEPOSIT, IDENTITY, LIFE, MINIMUM, WEALTH, World, key, stroops};
use obol_cell::{EscrowId, EscrowTerms, PeerId};
use obol_ledger::Closing;
use obol_stellar::check::{
    Belief, EscrowFault, EscrowStatus, FlushFault, IssuerFault, believe, check_escrow, check_issuer,
};
use obol_stellar::escrow::{Escrow, EscrowSecret};
use obol_stellar::key::account_text;
use obol_stellar::rail::many::Many;
use obol_stellar::settle::{FlushError, Flushed, WindUp};
use obol_stellar::tx::{Op, Options, SignedTx, TxError};
use obol_stellar::{Keypair, Rail};
use obol_toll::NotBelieved;
use stellar_xdr as xdr;

/// C1 a: the payer gets refund signatures for two expiries of one E, opens it, lets the early one pass and takes it back.
#[tokio::test]
async fn a_refund_signed_under_other_terms_of_the_same_escrow_is_worthless() {
    let world = World::funded().await;
    let long = world.agree(10);
    let short_terms = EscrowTerms {
        expiry: world.ledger.now() + 300,
        ..*long.escrow.terms()
    };
    let (short, short_refund) = world.secret.accept(short_terms).unwrap();
    assert_ne!(short.signer(), long.escrow.signer());
    world.settler.open(&world.payer, &[long.opening()]).await.unwrap();
    world.pass_time(301);

    let stolen = short
        .signed_refund(short_refund, &long.e)
        .unwrap()
        .bumped(world.network.id(), &world.payer, stroops(200))
        .unwrap();
    assert!(world.refused(&stolen).await.is("tx_bad_auth"));
    // Nor is the early refund a signature on the late one's transaction.
    assert!(!long.escrow.refund_is_signed(&short_refund));
    assert!(matches!(
        long.escrow.signed_refund(short_refund, &long.e),
        Err(TxError::BadSignature { .. })
    ));

    let flushed = world.settler.flush(&world.order(&long, 7, 900_000)).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { amount, .. } if amount == stroops(900_000)));
    world.adds_up();
}

/// C1 b: the payer offers as E an account on which the payee already signs, so that the "refund" removes the payee from it.
#[tokio::test]
async fn an_account_on_which_the_payee_already_signs_cannot_be_offered_as_escrow() {
    let world = World::funded().await;
    let treasury = key(20);
    world.rail.friendbot(treasury.account()).await.unwrap();
    world.settler.trust(&treasury, world.asset).await.unwrap();
    let shared = Op::SetOptions(Options {
        thresholds: Some(2),
        signer: Some((world.payee.account(), 1)),
        ..Options::default()
    });
    let join = world.tx(&treasury, &[&treasury], &[(None, shared)]).await;
    world.rail.submit(&join).await.unwrap();

    let (escrow, refund) = world.secret.accept(world.terms(&treasury)).unwrap();
    assert_ne!(escrow.signer(), world.payee.account());
    world.pass_time(LIFE + 1);
    let theft = escrow
        .signed_refund(refund, &treasury)
        .unwrap()
        .bumped(world.network.id(), &world.payer, stroops(200))
        .unwrap();
    assert!(world.refused(&theft).await.is("tx_bad_auth"));
    let account = world.account(treasury.account()).await;
    assert!(account.signers.iter().any(|s| s.key == Some(world.payee.account())));
    let rails = [Arc::clone(&world.rail)];
    let believed = believe(&rails, &escrow, &Belief::default(), world.ledger.now()).await;
    assert_eq!(believed, Err(NotBelieved::Wrong));
}

/// C1 c: two relays with one payee account; the client shows both the same escrow and the same claim.
#[tokio::test]
async fn one_claim_shown_to_two_relays_is_believed_by_one_of_them() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let claim = agreed.claim(1, 5_000);
    let rails = [Arc::clone(&world.rail)];
    // The other relay: its own secret and identity, the same payee account, the same terms from the client.
    let other_secret = EscrowSecret::from_bytes([0x77; 32]);
    let same_secret_other_identity = world.secret.clone();
    for secret in [other_secret, same_secret_other_identity] {
        let terms = EscrowTerms {
            payee: PeerId([0x78; 32]),
            ..*agreed.escrow.terms()
        };
        let there = secret.escrow(terms).unwrap();
        let believed = believe(&rails, &there, &Belief::default(), world.ledger.now()).await;
        assert_eq!(believed, Err(NotBelieved::Wrong));
        // The claim does not even verify there: it removes another r.
        let verifier = obol_stellar::escrow::ClaimVerifier::new(&there).unwrap();
        assert!(!verifier.verify(1, stroops(5_000), &claim));
    }
    let believed = believe(&rails, &agreed.escrow, &Belief::default(), world.ledger.now()).await;
    assert_eq!(believed, Ok(stroops(DEPOSIT)));
}

#[tokio::test]
async fn the_payer_alone_can_do_nothing_to_an_open_escrow_not_even_bump_its_sequence() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let e = agreed.e.account();
    let home = world.payer.account();
    let bump = raw_operation(
        &world,
        &agreed.e,
        xdr::OperationBody::BumpSequence(xdr::BumpSequenceOp {
            bump_to: xdr::SequenceNumber(i64::MAX - 1),
        }),
    )
    .await;
    assert!(world.refused(&bump).await.is("tx_bad_auth"));
    let alone = [
        Op::Pay {
            to: home,
            asset: world.asset,
            amount: stroops(1),
        },
        Op::PayLumens {
            to: home,
            amount: stroops(1),
        },
        Op::Trust {
            asset: world.asset,
            limit: stroops(DEPOSIT),
        },
        Op::SetOptions(Options {
            thresholds: Some(0),
            ..Options::default()
        }),
        Op::SetOptions(Options {
            signer: Some((agreed.escrow.signer(), 0)),
            ..Options::default()
        }),
        Op::SetOptions(Options {
            master_weight: Some(2),
            ..Options::default()
        }),
        Op::Merge { into: home },
    ];
    for op in alone {
        let tx = world.tx(&agreed.e, &[&agreed.e], &[(None, op)]).await;
        assert!(world.refused(&tx).await.is("tx_bad_auth"), "{op:?}");
        // As an operation in a transaction of another source.
        let tx = world
            .tx(&world.payer, &[&world.payer, &agreed.e], &[(Some(e), op)])
            .await;
        let codes = world.refused(&tx).await;
        assert!(codes.has_operation("op_bad_auth"), "{op:?}: {codes}");
    }
    assert_eq!(
        world.settler.status(&agreed.escrow).await,
        Ok(EscrowStatus::Open {
            balance: stroops(DEPOSIT)
        })
    );
}

#[tokio::test]
async fn a_lower_claim_cannot_follow_a_higher_one() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let low = world.flush_envelope(&agreed, 3, 300);
    let high = world.flush_envelope(&agreed, 9, 900);
    world.rail.submit(&high).await.unwrap();
    world.refused(&low).await;
    assert_eq!(world.balance(world.payee.account()).await, 900);
    // The other way round both fit by their numbers; the first one closes the escrow all the same.
    let second = world.opened(11).await;
    world.rail.submit(&world.flush_envelope(&second, 3, 300)).await.unwrap();
    world.refused(&world.flush_envelope(&second, 9, 900)).await;
    assert_eq!(world.balance(world.payee.account()).await, 1_200);
    world.adds_up();
}

#[tokio::test]
async fn at_expiry_whoever_comes_first_wins_and_the_other_learns_it() {
    let world = World::funded().await;
    let (first, second) = (world.opened(10).await, world.opened(11).await);
    world.pass_time(LIFE + 1);
    // The payer first.
    let refunded = world
        .settler
        .refund(&first.escrow, stroops(DEPOSIT), &first.e, first.refund, &world.payer)
        .await
        .unwrap();
    assert_eq!(refunded.paid, stroops(0));
    let flushed = world.settler.flush(&world.order(&first, 1, 5_000)).await.unwrap();
    assert_eq!(flushed, Flushed::Lost);
    // The payee first.
    let flushed = world.settler.flush(&world.order(&second, 1, 5_000)).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { .. }));
    let ended = world
        .settler
        .refund(&second.escrow, stroops(DEPOSIT), &second.e, second.refund, &world.payer)
        .await
        .unwrap();
    assert_eq!((ended.paid, ended.rest), (stroops(5_000), stroops(DEPOSIT - 5_000)));
    let raw = second
        .escrow
        .signed_refund(second.refund, &second.e)
        .unwrap()
        .bumped(world.network.id(), &world.payer, stroops(200))
        .unwrap();
    world.refused(&raw).await;
    world.adds_up();
}

/// M5.
#[tokio::test]
async fn a_merge_before_the_ledger_has_passed_s0_fails_and_is_not_tried() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    world.settler.flush(&world.order(&agreed, 1, DEPOSIT)).await.unwrap();
    let home = world.payer.account();
    let sequence = world.account(agreed.e.account()).await.sequence + 1;
    let early = agreed.escrow.merge(sequence, 200, 0, home).unwrap();
    let early = early.sign(world.network.id(), &[&agreed.e]).unwrap();
    let recorded = world.outbox.all().len();
    let wound_up = world
        .settler
        .wind_up(&agreed.escrow, &agreed.e, home, home)
        .await
        .unwrap();
    let merge_from = agreed.escrow.base_ledger();
    assert_eq!(wound_up, WindUp::Swept { merge_from });
    assert_eq!(world.outbox.all().len(), recorded);
    assert!(world.refused(&early).await.has_operation("op_seq_num_too_far"));
    world.pass_ledgers(60);
    let done = world
        .settler
        .wind_up(&agreed.escrow, &agreed.e, home, home)
        .await
        .unwrap();
    assert_eq!(done, WindUp::Done);
}

/// H11: a flush that fails in a ledger uses its claim, and the same amount at the next k goes through.
#[tokio::test]
async fn after_a_flush_that_failed_in_a_ledger_the_same_amount_at_a_higher_k_settles() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let drop_line = Op::Trust {
        asset: world.asset,
        limit: stroops(0),
    };
    let tx = world.tx(&world.payee, &[&world.payee], &[(None, drop_line)]).await;
    world.rail.submit(&tx).await.unwrap();
    // The settler sees it coming, and signs nothing.
    let recorded = world.outbox.all().len();
    let refused = world.settler.flush(&world.order(&agreed, 1, 5_000)).await;
    assert!(
        matches!(refused, Err(FlushError::NotNow(FlushFault::NoLine))),
        "{refused:?}"
    );
    assert_eq!(world.outbox.all().len(), recorded);
    // Without the look, the claim is used up.
    let codes = world.refused(&world.flush_envelope(&agreed, 8, 5_000)).await;
    assert!(codes.has_operation("op_no_trust"), "{codes}");
    assert_eq!(
        world.settler.status(&agreed.escrow).await,
        Ok(EscrowStatus::FlushFailed {
            k: 8,
            balance: stroops(DEPOSIT)
        })
    );
    world.settler.trust(&world.payee, world.asset).await.unwrap();
    for k in [7, 8] {
        let dead = world.settler.flush(&world.order(&agreed, k, 5_000)).await.unwrap();
        assert_eq!(dead, Flushed::FailedInLedger { k: 8 });
    }
    let flushed = world.settler.flush(&world.order(&agreed, 9, 5_000)).await.unwrap();
    assert!(matches!(flushed, Flushed::Settled { amount, .. } if amount == stroops(5_000)));
    world.adds_up();
}

#[tokio::test]
async fn a_claim_above_the_balance_or_by_another_key_is_never_countersigned() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let over = world.settler.flush(&world.order(&agreed, 1, DEPOSIT + 1)).await;
    assert!(
        matches!(over, Err(FlushError::NotNow(FlushFault::Underfunded { .. }))),
        "{over:?}"
    );
    let mut order = world.order(&agreed, 1, 5_000);
    order.by_payer = agreed.claim(1, 4_999);
    assert!(matches!(world.settler.flush(&order).await, Err(FlushError::Claim(_))));
    let mut order = world.order(&agreed, 1, 5_000);
    let other = EscrowSecret::from_bytes([9; 32]);
    order.secret = &other;
    assert!(matches!(world.settler.flush(&order).await, Err(FlushError::Claim(_))));
}

#[tokio::test]
async fn a_payee_without_lumens_for_the_fee_keeps_its_claim() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    // All but a few stroops above the reserve of two base reserves and a line.
    let spendable = world.account(world.payee.account()).await.spendable_lumens(5_000_000);
    let spend = Op::PayLumens {
        to: world.payer.account(),
        amount: stroops(spendable.get() - 100 - 299),
    };
    let tx = world.tx(&world.payee, &[&world.payee], &[(None, spend)]).await;
    world.rail.submit(&tx).await.unwrap();
    let poor = world.settler.flush(&world.order(&agreed, 1, 5_000)).await;
    assert!(
        matches!(poor, Err(FlushError::NotNow(FlushFault::NoLumens { lumens })) if lumens == stroops(299)),
        "{poor:?}"
    );
}

/// What a payer could open in place of what was agreed, each on the ledger, each seen through.
#[tokio::test]
async fn the_payee_believes_no_escrow_that_is_not_exactly_as_agreed() {
    let world = World::funded().await;
    let rails = [Arc::clone(&world.rail)];
    let stranger = key(30).account();
    // (E, thresholds, an extra signer, r's weight, deposit)
    let defects: [(u8, u32, Option<u32>, u32, i64, EscrowFault); 6] = [
        (40, 1, None, 1, DEPOSIT, EscrowFault::Thresholds),
        (41, 0, None, 1, DEPOSIT, EscrowFault::Thresholds),
        (42, 2, Some(1), 1, DEPOSIT, EscrowFault::Signers),
        (43, 2, Some(2), 1, DEPOSIT, EscrowFault::Signers),
        (44, 2, None, 2, DEPOSIT, EscrowFault::Signers),
        (
            45,
            2,
            None,
            1,
            MINIMUM - 1,
            EscrowFault::Balance {
                balance: stroops(MINIMUM - 1),
            },
        ),
    ];
    for (e, thresholds, extra, weight, deposit, fault) in defects {
        let agreed = world.agree(e);
        let account = agreed.e.account();
        let mut ops = vec![
            (
                None,
                Op::CreateAccount {
                    account,
                    lumens: stroops(30_000_000),
                },
            ),
            (
                Some(account),
                Op::Trust {
                    asset: world.asset,
                    limit: stroops(i64::MAX),
                },
            ),
        ];
        if let Some(weight) = extra {
            ops.push((
                Some(account),
                Op::SetOptions(Options {
                    signer: Some((stranger, weight)),
                    ..Options::default()
                }),
            ));
        }
        ops.push((
            Some(account),
            Op::SetOptions(Options {
                master_weight: Some(1),
                thresholds: Some(thresholds),
                signer: Some((agreed.escrow.signer(), weight)),
                set_flags: None,
            }),
        ));
        ops.push((
            None,
            Op::Pay {
                to: account,
                asset: world.asset,
                amount: stroops(deposit),
            },
        ));
        let tx = world.tx(&world.payer, &[&world.payer, &agreed.e], &ops).await;
        world.rail.submit(&tx).await.unwrap();
        let head = world.rail.latest_ledger().await.unwrap();
        let state = world.account(account).await;
        assert_eq!(check_escrow(&agreed.escrow, &state, &head), Err(fault), "E {e}");
        let believed = believe(&rails, &agreed.escrow, &Belief::default(), world.ledger.now()).await;
        assert_eq!(believed, Err(NotBelieved::Wrong), "E {e}");
    }
}

/// An account that passes in all but one field, field by field.
#[tokio::test]
async fn every_single_field_of_an_escrow_counts() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let head = world.rail.latest_ledger().await.unwrap();
    let good = world.account(agreed.e.account()).await;
    let check = |account: &_| check_escrow(&agreed.escrow, account, &head);
    assert_eq!(check(&good), Ok(stroops(DEPOSIT)));
    let bent = |bend: &dyn Fn(&mut obol_stellar::rail::AccountState)| {
        let mut account = good.clone();
        bend(&mut account);
        check(&account)
    };
    let s0 = agreed.escrow.terms().s0 as i64;
    assert_eq!(bent(&|a| a.sequence = s0), Ok(stroops(DEPOSIT)));
    assert_eq!(bent(&|a| a.sequence = s0 + 1), Err(EscrowFault::Sequence));
    assert_eq!(bent(&|a| a.subentries = 3), Err(EscrowFault::Entries));
    assert_eq!(bent(&|a| a.sponsoring = 1), Err(EscrowFault::Entries));
    assert_eq!(bent(&|a| a.sponsored = 1), Err(EscrowFault::Entries));
    assert_eq!(bent(&|a| a.thresholds[0] = 1), Err(EscrowFault::Thresholds));
    assert_eq!(bent(&|a| a.thresholds[1] = 1), Err(EscrowFault::Thresholds));
    assert_eq!(bent(&|a| a.thresholds[2] = 3), Err(EscrowFault::Thresholds));
    assert_eq!(
        bent(&|a| a.lumens.balance = stroops(19_999_999)),
        Err(EscrowFault::Lumens)
    );
    assert_eq!(bent(&|a| a.lumens.selling = stroops(1)), Err(EscrowFault::Lumens));
    assert_eq!(bent(&|a| a.lines[0].authorized = false), Err(EscrowFault::Line));
    assert_eq!(bent(&|a| a.lines[0].clawback = true), Err(EscrowFault::Line));
    assert_eq!(bent(&|a| a.lines[0].sponsored = true), Err(EscrowFault::Line));
    assert_eq!(
        bent(&|a| a.lines[0].holding.selling = stroops(1)),
        Err(EscrowFault::Liabilities)
    );
    assert_eq!(
        bent(&|a| a.lines[0].holding.buying = stroops(1)),
        Err(EscrowFault::Liabilities)
    );
    assert_eq!(bent(&|a| a.lines[0].asset.issuer[0] ^= 1), Err(EscrowFault::OtherAsset));
    assert_eq!(bent(&|a| a.lines.clear()), Err(EscrowFault::Entries));
    assert_eq!(bent(&|a| a.signers[0].weight = 2), Err(EscrowFault::Signers));
    assert_eq!(bent(&|a| a.signers[0].key = None), Err(EscrowFault::Signers));
    assert_eq!(bent(&|a| a.signers.push(a.signers[0])), Err(EscrowFault::Signers));
    assert_eq!(bent(&|a| a.id.0[0] ^= 1), Err(EscrowFault::OtherAccount));
}

#[tokio::test]
async fn an_asset_that_its_issuer_can_freeze_or_change_is_refused_unless_the_operator_allows_it() {
    let world = World::funded().await;
    let issuer = world.account(world.issuer.account()).await;
    assert_eq!(check_issuer(Some(&issuer), false), Ok(()));
    let flagged = |bend: &dyn Fn(&mut obol_stellar::rail::IssuerFlags)| {
        let mut issuer = issuer.clone();
        bend(&mut issuer.flags);
        issuer
    };
    let cases = [
        (flagged(&|f| f.auth_required = true), IssuerFault::AuthRequired),
        (flagged(&|f| f.auth_revocable = true), IssuerFault::Revocable),
        (flagged(&|f| f.clawback_enabled = true), IssuerFault::Clawback),
        (flagged(&|f| f.auth_immutable = false), IssuerFault::Mutable),
    ];
    for (issuer, fault) in cases {
        assert_eq!(check_issuer(Some(&issuer), false), Err(fault));
        assert_eq!(check_issuer(Some(&issuer), true), Ok(()));
    }
    let mut locked = flagged(&|f| f.auth_immutable = false);
    locked.signers.iter_mut().for_each(|s| s.weight = 0);
    assert_eq!(check_issuer(Some(&locked), false), Ok(()));
    assert_eq!(check_issuer(None, true), Err(IssuerFault::Absent));
}

#[tokio::test]
async fn above_the_configured_sum_two_servers_must_have_read_the_escrow() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let now = world.ledger.now();
    let belief = Belief {
        two_witnesses_above: Some(stroops(DEPOSIT - 1)),
        ..Belief::default()
    };
    let one = [Arc::clone(&world.rail)];
    assert_eq!(
        believe(&one, &agreed.escrow, &belief, now).await,
        Err(NotBelieved::Unreachable)
    );
    let two = [Arc::clone(&world.rail), Arc::clone(&world.rail)];
    assert_eq!(believe(&two, &agreed.escrow, &belief, now).await, Ok(stroops(DEPOSIT)));
    // The second knows nothing of it: a server that lies, or lags.
    let elsewhere = World::with(Closing::OnDemand).await;
    let disagreeing = [Arc::clone(&world.rail), Arc::clone(&elsewhere.rail)];
    assert_eq!(
        believe(&disagreeing, &agreed.escrow, &belief, now).await,
        Err(NotBelieved::Unreachable)
    );
    let below = Belief {
        two_witnesses_above: Some(stroops(DEPOSIT)),
        ..Belief::default()
    };
    assert_eq!(believe(&one, &agreed.escrow, &below, now).await, Ok(stroops(DEPOSIT)));
}

#[tokio::test]
async fn nothing_is_believed_on_a_stale_ledger_or_without_one() {
    let world = World::funded().await;
    let agreed = world.opened(10).await;
    let rails = [Arc::clone(&world.rail)];
    let later = world.rail.latest_ledger().await.unwrap().close_time + 61;
    let believed = believe(&rails, &agreed.escrow, &Belief::default(), later).await;
    assert_eq!(believed, Err(NotBelieved::Unreachable));
    let unopened = world.agree(11);
    let believed = believe(&rails, &unopened.escrow, &Belief::default(), world.ledger.now()).await;
    assert_eq!(believed, Err(NotBelieved::Absent));
    let none: [Arc<dyn Rail>; 0] = [];
    let believed = believe(&none, &agreed.escrow, &Belief::default(), later).await;
    assert_eq!(believed, Err(NotBelieved::Unreachable));
    let nobody = Many::new(Vec::new());
    assert!(nobody.latest_ledger().await.is_err());
}

#[tokio::test]
async fn nothing_is_paid_in_before_the_refund_is_signed() {
    let world = World::funded().await;
    let agreed = world.agree(10);
    let mut opening = agreed.opening();
    opening.refund = agreed.claim(1, 1);
    let opened = world.settler.open(&world.payer, &[opening]).await;
    assert!(opened.is_err());
    assert_eq!(world.rail.account(agreed.e.account()).await, Ok(None));
    assert_eq!(world.balance(world.payer.account()).await, WEALTH);
}

/// The opening cannot happen in a ledger in which E's first sequence number would be S0 or more: all claims would be dead.
#[tokio::test]
async fn an_opening_that_was_held_back_past_s0_is_refused_by_the_ledger() {
    let world = World::funded().await;
    let agreed = world.agree(10);
    let sequence = world.account(world.payer.account()).await.sequence + 1;
    let opening = Escrow::open(&world.payer, sequence, 400, 5_000_000, &[agreed.opening()]).unwrap();
    world.pass_ledgers(60);
    assert!(world.refused(&opening).await.is("tx_too_late"));
}

#[test]
fn an_offer_for_the_payees_own_account_cannot_become_an_escrow() {
    let payee = key(3);
    let terms = EscrowTerms {
        network: obol_stellar::Network::testnet().id(),
        asset: obol_stellar::asset::asset("OBOL", key(1).account()).unwrap(),
        payee: IDENTITY,
        payee_account: payee.account(),
        escrow: EscrowId(payee.account().0),
        s0: 100 << 32,
        expiry: 1_800_000_000,
        min_deposit: stroops(1),
    };
    assert!(EscrowSecret::from_bytes([1; 32]).accept(terms).is_err());
}

/// A transaction with one operation that this crate never builds.
async fn raw_operation(world: &World, source: &Keypair, body: xdr::OperationBody) -> SignedTx {
    use xdr::WriteXdr as _;
    let account = world.account(source.account()).await;
    let tx = xdr::Transaction {
        source_account: xdr::MuxedAccount::Ed25519(xdr::Uint256(source.account().0)),
        fee: 100,
        seq_num: xdr::SequenceNumber(account.sequence + 1),
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
    let hash = tx.hash(world.network.id().0).unwrap();
    let signature = source.sign(&hash).0.to_vec();
    let envelope = xdr::TransactionEnvelope::Tx(xdr::TransactionV1Envelope {
        tx,
        signatures: vec![xdr::DecoratedSignature {
            hint: xdr::SignatureHint(source.hint()),
            signature: xdr::Signature(signature.try_into().unwrap()),
        }]
        .try_into()
        .unwrap(),
    });
    assert!(account_text(&source.account()).starts_with('G'));
    SignedTx::from_bytes(world.network.id(), &envelope.to_xdr(xdr::Limits::none()).unwrap()).unwrap()
}
