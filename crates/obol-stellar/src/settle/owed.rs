//! What is owed by trust: paid all or nothing, looked up by the payee, found again after a backup (settlement.md, ADR 39, ADR 46).
//!
//! A settlement is known by the hash of the transaction that its payer signed, whoever wraps that in a fee bump.

use obol_cell::{AccountId, Asset, SettlementMemo, Stroops, TransactionId};
use obol_toll::trust::{ExpectedPayment, NotPaid, OwedPayment};

use super::batch::{MAX_PAYMENTS, Payment, cannot_take};
use super::carry::{CarryError, Draft, Ground};
use super::wallet::{WalletError, reference, told_apart};
use super::{Reference, Settler, Turn};
use crate::key::Keypair;
use crate::outbox::{Bound, Purpose};
use crate::rail::{RailError, TxPayments};
use crate::tx::{Memo, Op, Options, SignedTx, Tx, TxError, TxHash, Validity};

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwedOutcome {
    /// A closed ledger has it.
    Paid {
        /// What to announce to the payees: the hash of the transaction that the payer signed.
        hash: TxHash,
    },
    /// It failed in a ledger; or a payee cannot take its payment, and nothing was ever submitted that a ledger could still take.
    NotPaid,
}

/// One of the payments to be made.
enum Ready {
    /// All of them can be.
    All,
    /// One cannot, for this reason.
    Not(super::LeftOut),
}

/// The reference of the settlement with this number, for [`Settler::pay_owed`].
pub fn owed_reference(from: AccountId, asset: &Asset, batch: u64) -> Reference {
    reference(b"owed", &from, asset, i64::from_be_bytes(batch.to_be_bytes()))
}

impl Settler {
    /// Pays all of `payments`, up to [`MAX_PAYMENTS`], in one transaction of `from` with this hash memo, or none. Of one
    /// `reference`, which stands for these payments only, at most one transaction ever gets through: asked again, after an error or a
    /// crash, this looks first.
    ///
    /// # Errors
    /// When nobody knows yet, or the payer's account is not able to pay: ask again with the same reference.
    pub async fn pay_owed(
        &self,
        reference: Reference,
        from: &Keypair,
        asset: Asset,
        memo: [u8; 32],
        payments: &[Payment],
    ) -> Result<OwedOutcome, WalletError> {
        if payments.is_empty() || payments.len() > MAX_PAYMENTS {
            return Err(CarryError::Tx(TxError::TooLong).into());
        }
        // Asked twice at once, neither says "not paid" while the other pays.
        let _turn = self.turn(Turn::Owed(reference)).await;
        let purpose = Purpose::Wallet(reference);
        if let Some(hash) = self.settled_before(purpose).await? {
            return Ok(OwedOutcome::Paid { hash });
        }
        // While one may get through, it decides, and not what could be paid now.
        if self.pending_for(purpose).await?.is_empty()
            && let Ready::Not(why) = self.ready(from.account(), asset, payments).await?
        {
            tracing::warn!(%why, "what is owed cannot be paid to one of the payees");
            return Ok(OwedOutcome::NotPaid);
        }
        let build = |ground: &Ground| self.owed_draft(ground, &reference, from, asset, memo, payments);
        match self.carry(purpose, from.account(), build).await {
            Ok(record) => {
                if let Some(hash) = self.settled_before(purpose).await? {
                    return Ok(OwedOutcome::Paid { hash });
                }
                // The outbox has no memory; the ledger has.
                let paid = self.rail.payments(record.hash).await?;
                let paid = paid.ok_or(CarryError::Pending { hash: record.hash })?;
                Ok(OwedOutcome::Paid { hash: paid.transaction })
            }
            // All others of the reference have the same sequence number, and that is used.
            Err(CarryError::Failed { ledger, codes }) => {
                tracing::warn!(ledger, %codes, "the payment of what is owed failed in a ledger");
                Ok(OwedOutcome::NotPaid)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The hash of a purpose's transaction, once a ledger has it.
    async fn settled_before(&self, purpose: Purpose) -> Result<Option<TxHash>, CarryError> {
        let applied = self.outbox.applied(purpose).await?;
        Ok(applied.map(|(submission, _)| submission.inner_hash.unwrap_or(submission.hash)))
    }

    /// Whether all can be paid as things are.
    async fn ready(&self, from: AccountId, asset: Asset, payments: &[Payment]) -> Result<Ready, WalletError> {
        let payees = self.accounts(payments.iter().map(|payment| payment.to)).await?;
        let mut total = Stroops::ZERO;
        for (n, payment) in payments.iter().enumerate() {
            if payment.to == from || payment.amount.is_zero() {
                return Ok(Ready::Not(super::LeftOut::Pointless));
            }
            // What this and all earlier payments bring to that account.
            let brings = payments[..n]
                .iter()
                .filter(|earlier| earlier.to == payment.to)
                .try_fold(payment.amount, |sum, earlier| sum.checked_add(earlier.amount))
                .unwrap_or(Stroops::MAX);
            let mut payee = payees.get(n).cloned().flatten();
            if let Some(payee) = &mut payee {
                // A settlement has a memo.
                payee.memo_required = false;
            }
            if let Some(why) = cannot_take(payee.as_ref(), payment.to, &asset, brings) {
                return Ok(Ready::Not(why));
            }
            total = total.checked_add(payment.amount).ok_or(WalletError::NoMoney {
                held: Stroops::ZERO,
                needed: Stroops::MAX,
            })?;
        }
        let payer = self.rail.account(from).await?;
        let payer = payer.ok_or(CarryError::NoAccount { account: from })?;
        let held = payer.line(&asset).map_or(Stroops::ZERO, |line| {
            line.holding.balance.saturating_sub(line.holding.selling)
        });
        if from.0 != asset.issuer && held < total {
            return Err(WalletError::NoMoney { held, needed: total });
        }
        Ok(Ready::All)
    }

    fn owed_draft(
        &self,
        ground: &Ground,
        reference: &Reference,
        from: &Keypair,
        asset: Asset,
        memo: [u8; 32],
        payments: &[Payment],
    ) -> Result<Draft, CarryError> {
        let pay = |payment: &Payment| {
            let Payment { to, amount } = *payment;
            (None, Op::Pay { to, asset, amount })
        };
        self.memo_draft(ground, reference, from, memo, payments.iter().map(pay).collect())
    }

    fn memo_draft(
        &self,
        ground: &Ground,
        reference: &Reference,
        from: &Keypair,
        memo: [u8; 32],
        operations: Vec<(Option<AccountId>, Op)>,
    ) -> Result<Draft, CarryError> {
        let fee = self.fee_for(ground, operations.len())?;
        let validity = Validity {
            from_time: told_apart(reference),
            until_time: ground.until_time,
            ..Validity::default()
        };
        let tx = Tx::new(from.account(), ground.sequence, fee, validity, operations)?.with_memo(&Memo::Hash(memo))?;
        let tx: SignedTx = tx.sign(self.network.id(), &[from])?;
        Ok(Draft {
            tx,
            bound: Bound {
                until_time: ground.until_time,
                before_ledger: 0,
            },
            fee: Stroops::new(i64::from(fee)).unwrap_or(Stroops::ZERO),
        })
    }

    /// How much of the asset a transaction paid as expected, all such payments of it together; others have theirs in it.
    ///
    /// # Errors
    /// Why it does not count. [`NotPaid::Wrong`] is final.
    pub async fn check_payment(
        &self,
        hash: TxHash,
        expected: &ExpectedPayment,
        asset: Asset,
    ) -> Result<Stroops, NotPaid> {
        let found = match self.rail.payments(hash).await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(NotPaid::Absent),
            Err(error) => {
                tracing::debug!(%error, "a settlement cannot be looked up");
                return Err(NotPaid::Unreachable);
            }
        };
        // One payment has one name, or it could be announced twice: by its own hash, and by that of a wrapping.
        if found.transaction != hash || !found.record.successful || found.memo != Memo::Hash(expected.memo.0) {
            return Err(NotPaid::Wrong);
        }
        let paid = found
            .of(expected.from, asset)
            .filter(|(to, _)| *to == expected.to)
            .try_fold(Stroops::ZERO, |sum, (_, amount)| sum.checked_add(amount))
            .ok_or(NotPaid::Wrong)?;
        if paid.is_zero() { Err(NotPaid::Wrong) } else { Ok(paid) }
    }

    /// All settlements of `from` with this memo, oldest first, once no earlier one can come to be any more: for books out of a backup,
    /// which do not know what was paid, or signed, since. To that end this uses up the account's next sequence number with a transaction
    /// that does nothing but bear the memo; the list has to show it.
    ///
    /// # Errors
    /// When nobody knows yet, or no server can tell ([`RailError::Unsupported`]: Stellar RPC cannot list an account's transactions).
    pub async fn find_owed(
        &self,
        from: &Keypair,
        asset: Asset,
        memo: SettlementMemo,
    ) -> Result<Vec<(TransactionId, Vec<OwedPayment>)>, WalletError> {
        let account = from.account();
        // Before anything is spent: whether anybody can tell.
        self.rail.payments_with_memo(account, memo.0).await?;
        let head = self.rail.latest_ledger().await?;
        let state = self.rail.account(account).await?;
        let state = state.ok_or(CarryError::NoAccount { account })?;
        let reference = reference(b"find-owed", &account, &asset, state.sequence);
        let nothing = Op::SetOptions(Options::default());
        let build = |ground: &Ground| self.memo_draft(ground, &reference, from, memo.0, vec![(None, nothing)]);
        let mark = self.carry(Purpose::Wallet(reference), account, build).await?;
        if mark.ledger <= head.sequence {
            // The account was shown as it was before an earlier search.
            let behind = head.sequence.saturating_sub(mark.ledger);
            return Err(RailError::Stale { behind }.into());
        }
        let found = self.rail.payments_with_memo(account, memo.0).await?;
        let marked = |paid: &TxPayments| paid.record.ledger == mark.ledger && paid.is_signed_by(&account);
        if !found.iter().any(marked) {
            return Err(RailError::Stale { behind: 1 }.into());
        }
        // What the key did not sign, a server has invented.
        let signed = found.into_iter().filter(|paid| paid.is_signed_by(&account));
        let settlements = signed.filter_map(|paid| {
            let payments: Vec<OwedPayment> = paid
                .of(account, asset)
                .map(|(account, amount)| OwedPayment { account, amount })
                .collect();
            (!payments.is_empty()).then_some((TransactionId(paid.transaction.0), payments))
        });
        Ok(settlements.collect())
    }
}
