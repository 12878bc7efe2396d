//! The life of an escrow (docs: settlement), step by step on the ledger: open, claim by fee bump, sweep, merge; and what must not work.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod common;

use common::*;
use ed25519_dalek::SigningKey;
use obol_ledger::Submission;
use stellar_xdr::*;

const DEPOSIT: i64 = 500 * XLM;

/// Payer P, payee R with its account A, issuer I, escrow E.
struct Escrow {
    world: World,
    payer: SigningKey,
    payee: SigningKey,
    payee_account: SigningKey,
    escrow: SigningKey,
    asset: Asset,
    /// The first sequence number of claims.
    s0: i64,
    /// When the refund is valid.
    expiry: u64,
}

impl Escrow {
    fn open() -> Self {
        let (payer, payee, payee_account, issuer, escrow) = (key(1), key(2), key(3), key(4), key(5));
        let mut world = World::new();
        world.fund(&[&payer, &payee_account, &issuer]);
        let asset = asset(&issuer);
        for holder in [&payer, &payee_account] {
            assert!(succeeded(&world.apply(
                holder,
                vec![op(trust(&issuer, i64::MAX))],
                &[holder]
            )));
        }
        assert!(succeeded(&world.apply(
            &issuer,
            vec![op(pay(&payer, asset.clone(), 1000 * XLM))],
            &[&issuer]
        )));

        let latest = world.ledger.latest();
        let s0 = i64::from(latest.sequence + 60) << 32;
        let expiry = world.now + 86_400;
        let operations = vec![
            op(create(&escrow, 3 * XLM)),
            op_of(&escrow, trust(&issuer, i64::MAX)),
            op_of(
                &escrow,
                options(|o| {
                    o.signer = Some(signer(&payee, 1));
                    o.master_weight = Some(1);
                    (o.low_threshold, o.med_threshold, o.high_threshold) = (Some(2), Some(2), Some(2));
                }),
            ),
            op(pay(&escrow, asset.clone(), DEPOSIT)),
        ];
        let mut tx = transaction(&payer, world.sequence(&payer) + 1, 400, operations);
        let bounds = LedgerBounds {
            min_ledger: 0,
            max_ledger: latest.sequence + 60,
        };
        tx.cond = Preconditions::V2(PreconditionsV2 {
            ledger_bounds: Some(bounds),
            ..conditions()
        });
        let submission = world
            .ledger
            .submit(&bytes(signed(tx, world.network(), &[&payer, &escrow])), world.now);
        let result = world.settle(submission);
        assert!(succeeded(&result), "{result:?}");
        Self {
            world,
            payer,
            payee,
            payee_account,
            escrow,
            asset,
            s0,
            expiry,
        }
    }

    fn claim(&self, k: i64, cumulative: i64) -> TransactionV1Envelope {
        let operations = vec![
            op(pay(&self.payee_account, self.asset.clone(), cumulative)),
            op(options(|o| {
                o.signer = Some(signer(&self.payee, 0));
                (o.low_threshold, o.med_threshold, o.high_threshold) = (Some(1), Some(1), Some(1));
            })),
        ];
        let mut tx = transaction(&self.escrow, self.s0 + k, 0, operations);
        tx.cond = Preconditions::V2(PreconditionsV2 {
            min_seq_num: Some(SequenceNumber(0)),
            ..conditions()
        });
        signed(tx, self.world.network(), &[&self.escrow, &self.payee])
    }

    fn refund(&self) -> TransactionV1Envelope {
        let operation = op(options(|o| {
            o.signer = Some(signer(&self.payee, 0));
            (o.low_threshold, o.med_threshold, o.high_threshold) = (Some(1), Some(1), Some(1));
        }));
        let mut tx = transaction(&self.escrow, self.s0 + (1 << 31), 0, vec![operation]);
        tx.cond = Preconditions::V2(PreconditionsV2 {
            time_bounds: Some(TimeBounds {
                min_time: TimePoint(self.expiry),
                max_time: TimePoint(0),
            }),
            min_seq_num: Some(SequenceNumber(0)),
            ..conditions()
        });
        signed(tx, self.world.network(), &[&self.escrow, &self.payee])
    }

    fn bumped(&mut self, inner: TransactionV1Envelope, fee: i64) -> TransactionResultResult {
        let payer = self.payee_account.clone();
        let envelope = bump(inner, &payer, fee, self.world.network());
        let submission = self.world.ledger.submit(&envelope, self.world.now);
        self.world.settle(submission)
    }

    /// The payer takes back what is left and closes the trust line.
    fn sweep(&mut self) {
        let left = self.world.holds(&self.escrow, &self.asset);
        let (payer, escrow) = (self.payer.clone(), self.escrow.clone());
        let Asset::CreditAlphanum4(a) = self.asset.clone() else {
            unreachable!()
        };
        let drop_line = OperationBody::ChangeTrust(ChangeTrustOp {
            line: ChangeTrustAsset::CreditAlphanum4(a),
            limit: 0,
        });
        let operations = vec![
            op_of(&escrow, pay(&payer, self.asset.clone(), left)),
            op_of(&escrow, drop_line),
        ];
        let result = self.world.apply(&payer, operations, &[&payer, &escrow]);
        assert!(succeeded(&result), "{result:?}");
    }

    fn merge(&mut self) -> TransactionResultResult {
        let (payer, escrow) = (self.payer.clone(), self.escrow.clone());
        let merge = OperationBody::AccountMerge(muxed(&payer));
        self.world
            .apply(&payer, vec![op_of(&escrow, merge)], &[&payer, &escrow])
    }
}

fn inner_code(result: &TransactionResultResult) -> &InnerTransactionResultResult {
    match result {
        TransactionResultResult::TxFeeBumpInnerFailed(pair) => &pair.result.result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_opened_escrow_has_what_its_payee_looks_for() {
    let escrow = Escrow::open();
    let account = escrow.world.ledger.account(&raw(&escrow.escrow)).unwrap();
    assert_eq!(account.thresholds, Thresholds([1, 2, 2, 2]));
    assert_eq!(account.signers.to_vec(), vec![signer(&escrow.payee, 1)]);
    assert_eq!(
        account.num_sub_entries, 2,
        "the trust line and the signer, nothing else"
    );
    assert!(account.seq_num.0 < escrow.s0);
    let line = escrow
        .world
        .ledger
        .trust_line(&raw(&escrow.escrow), &escrow.asset)
        .unwrap();
    assert_eq!((line.balance, line.flags), (DEPOSIT, 1));
}

#[test]
fn a_claim_of_fee_zero_pays_the_cumulative_sum_when_the_payee_bumps_its_fee() {
    let mut escrow = Escrow::open();
    let fees = escrow.world.balance(&escrow.payee_account);
    let claim = escrow.claim(7, 120 * XLM);
    let result = escrow.bumped(claim, 300);
    assert!(succeeded(&result), "{result:?}");
    assert_eq!(escrow.world.holds(&escrow.payee_account, &escrow.asset), 120 * XLM);
    assert_eq!(
        escrow.world.balance(&escrow.payee_account),
        fees - 300,
        "two operations and the bump"
    );
    assert_eq!(escrow.world.sequence(&escrow.escrow), escrow.s0 + 7);
    let account = escrow.world.ledger.account(&raw(&escrow.escrow)).unwrap();
    assert_eq!(
        (account.thresholds, account.signers.len()),
        (Thresholds([1, 1, 1, 1]), 0),
        "the payer is alone with the rest"
    );

    escrow.sweep();
    assert_eq!(escrow.world.holds(&escrow.payer, &escrow.asset), 1000 * XLM - 120 * XLM);
    assert_eq!(escrow.world.ledger.audit().unwrap().created_or_lost(), 0);
}

#[test]
fn the_escrow_cannot_be_merged_before_the_ledger_has_passed_its_sequence_and_can_after() {
    let mut escrow = Escrow::open();
    let claim = escrow.claim(1, XLM);
    assert!(succeeded(&escrow.bumped(claim, 300)));
    escrow.sweep();
    let early = escrow.merge();
    assert_eq!(
        failed_operations(&early),
        vec![OperationResult::OpInner(OperationResultTr::AccountMerge(
            AccountMergeResult::SeqnumTooFar
        ))]
    );
    while i64::from(escrow.world.ledger.latest().sequence) <= escrow.s0 >> 32 {
        escrow.world.close();
    }
    let locked = escrow.world.balance(&escrow.escrow);
    let before = escrow.world.balance(&escrow.payer);
    let merged = escrow.merge();
    assert!(succeeded(&merged), "{merged:?}");
    assert!(escrow.world.ledger.account(&raw(&escrow.escrow)).is_none());
    assert_eq!(escrow.world.balance(&escrow.payer), before + locked - 100);
    assert_eq!(escrow.world.ledger.audit().unwrap().created_or_lost(), 0);
}

#[test]
fn a_lower_claim_after_a_higher_one_is_bad_seq() {
    let mut escrow = Escrow::open();
    let (lower, higher) = (escrow.claim(3, 10 * XLM), escrow.claim(4, 20 * XLM));
    assert!(succeeded(&escrow.bumped(higher, 300)));
    let result = escrow.bumped(lower, 300);
    assert_eq!(inner_code(&result), &InnerTransactionResultResult::TxBadSeq);
    assert_eq!(escrow.world.holds(&escrow.payee_account, &escrow.asset), 20 * XLM);
}

#[test]
fn a_refund_before_its_time_is_too_early_and_afterwards_leaves_the_payer_alone_with_everything() {
    let mut escrow = Escrow::open();
    let refund = escrow.refund();
    let early = escrow.bumped(refund.clone(), 200);
    assert_eq!(inner_code(&early), &InnerTransactionResultResult::TxTooEarly);

    // The first ledger after the expiry shows the new time; only then is the refund valid.
    escrow.world.now = escrow.expiry;
    escrow.world.close();
    let result = escrow.bumped(refund, 200);
    assert!(succeeded(&result), "{result:?}");
    let late_claim = escrow.claim(9, 10 * XLM);
    assert_eq!(
        inner_code(&escrow.bumped(late_claim, 300)),
        &InnerTransactionResultResult::TxBadSeq
    );
    escrow.sweep();
    assert_eq!(escrow.world.holds(&escrow.payer, &escrow.asset), 1000 * XLM);
    assert_eq!(escrow.world.ledger.audit().unwrap().created_or_lost(), 0);
}

#[test]
fn neither_side_can_take_the_deposit_alone() {
    let mut escrow = Escrow::open();
    let (payer, payee, e) = (escrow.payer.clone(), escrow.payee.clone(), escrow.escrow.clone());
    for alone in [&e, &payee] {
        let steal = op_of(&e, pay(&payer, escrow.asset.clone(), DEPOSIT));
        let submission = escrow.world.submit(&payer, vec![steal], &[&payer, alone]);
        let result = escrow.world.settle(submission);
        assert_eq!(failed_operations(&result), vec![OperationResult::OpBadAuth]);
        // With thresholds of two not even the sequence can be pushed past the claims by one of them.
        let push = OperationBody::BumpSequence(BumpSequenceOp {
            bump_to: SequenceNumber(i64::MAX),
        });
        let submission = escrow.world.submit(&payer, vec![op_of(&e, push)], &[&payer, alone]);
        assert_eq!(
            failed_operations(&escrow.world.settle(submission)),
            vec![OperationResult::OpBadAuth]
        );
    }
    assert_eq!(escrow.world.holds(&e, &escrow.asset), DEPOSIT);
}

#[test]
fn a_claim_that_fails_in_a_ledger_uses_its_sequence() {
    let mut escrow = Escrow::open();
    let (too_much, next) = (escrow.claim(5, DEPOSIT + 1), escrow.claim(6, DEPOSIT));
    let result = escrow.bumped(too_much.clone(), 300);
    assert_eq!(
        failed_operations(&result)[0],
        OperationResult::OpInner(OperationResultTr::Payment(PaymentResult::Underfunded))
    );
    assert_eq!(escrow.world.sequence(&escrow.escrow), escrow.s0 + 5);
    assert_eq!(
        inner_code(&escrow.bumped(too_much, 300)),
        &InnerTransactionResultResult::TxBadSeq
    );
    assert!(succeeded(&escrow.bumped(next, 300)));
}

#[test]
fn a_waiting_claim_is_replaced_only_by_ten_times_its_fee() {
    let mut escrow = Escrow::open();
    let account = escrow.payee_account.clone();
    let network = escrow.world.network();
    let send = |escrow: &Escrow, fee| {
        let claim = escrow.claim(1, XLM);
        escrow
            .world
            .ledger
            .submit(&bump(claim, &account, fee, network), escrow.world.now)
    };
    assert!(matches!(send(&escrow, 300), Submission::Pending { .. }));
    assert!(matches!(send(&escrow, 300), Submission::Duplicate { .. }));
    let Submission::Rejected { result, .. } = send(&escrow, 2_999) else {
        panic!("replaced for too little")
    };
    assert_eq!(
        (result.result, result.fee_charged),
        (TransactionResultResult::TxInsufficientFee, 3_000)
    );
    assert!(matches!(send(&escrow, 3_000), Submission::Pending { .. }));
    // Anything else of the same source has to wait.
    let other = escrow.claim(2, 2 * XLM);
    assert!(matches!(
        escrow
            .world
            .ledger
            .submit(&bump(other, &account, 30_000, network), escrow.world.now),
        Submission::TryAgainLater { .. }
    ));
    let before = escrow.world.transactions();
    escrow.world.close();
    assert_eq!(escrow.world.transactions(), before + 1, "only the replacement");
    assert_eq!(escrow.world.holds(&account, &escrow.asset), XLM);
}
