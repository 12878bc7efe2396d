//! Many payments in one transaction: how what is owed on trust is settled (settlement.md, "Two backings").

use std::sync::{Mutex, PoisonError};

use obol_cell::{AccountId, Asset, Stroops};

use super::carry::{CarryError, Draft, Ground};
use super::wallet::{WalletError, told_apart};
use super::{Reference, Settler, Turn};
use crate::key::Keypair;
use crate::outbox::{Bound, Purpose};
use crate::rail::{AccountState, Code, ResultCodes, TxRecord};
use crate::tx::{Op, SignedTx, Tx, TxHash, Validity};

/// Most payments of one batch: a transaction has at most so many operations.
pub const MAX_PAYMENTS: usize = 100;
/// How often a batch that failed in a ledger is tried again without the payments that made it fail.
const TRIES: u32 = 4;
/// Accounts looked up at once.
const LOOKS: usize = 8;

/// One payment of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// To whom.
    pub to: AccountId,
    /// How much of the batch's asset.
    pub amount: Stroops,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// One for each payment, in the order given.
    pub payments: Vec<Paid>,
    /// The transaction; `None` when every payment was left out and there is none.
    pub transaction: Option<TxRecord>,
}

/// What became of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paid {
    /// It is in the batch's transaction.
    Paid,
    /// It is not, and nothing was paid: it may be in another batch.
    LeftOut(LeftOut),
}

/// Why a payment is not in its batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeftOut {
    /// There is no such account.
    #[error("the account is not on the ledger")]
    NoAccount,
    /// It has no trust line to the asset.
    #[error("the account has no trust line to the asset")]
    NoLine,
    /// Its trust line is not authorised.
    #[error("the account's trust line is not authorised")]
    NotAuthorized,
    /// Its trust line cannot take so much.
    #[error("the account's trust line has too little room")]
    LineFull,
    /// It asks for a memo (SEP-29), and payments in a batch have none.
    #[error("the account asks for a memo")]
    MemoRequired,
    /// It is nothing, or to the payer itself.
    #[error("it pays nothing, or the payer itself")]
    Pointless,
    /// The ledger refused it when it was applied, for this reason.
    #[error("the ledger refused it: {0:?}")]
    Refused(Code),
    /// The batch of this reference was made before, without this payment.
    #[error("the batch was made without it")]
    NotInIt,
}

/// A batch that was carried to a ledger just now.
#[derive(Clone, Copy)]
struct Carried<'a> {
    record: &'a TxRecord,
    /// The transaction that was made for it in this call, if one was.
    made: Option<&'a SignedTx>,
    plan: &'a [Option<LeftOut>],
}

impl Settler {
    /// Pays up to [`MAX_PAYMENTS`] accounts in one transaction of `from`. Of one `reference` at most one transaction ever
    /// gets through: asked again, after an error or a crash, this tells which of the payments are in it. What cannot be
    /// paid is found before and left out, with its reason; if a payment fails in the ledger nevertheless, the whole
    /// transaction does, and is made again without it.
    ///
    /// # Errors
    /// When there are too many payments, the payer lacks the money, or the transaction does not get through. Ask again
    /// with the same reference.
    pub async fn pay_batch(
        &self,
        reference: Reference,
        from: &Keypair,
        asset: Asset,
        payments: &[Payment],
    ) -> Result<Batch, WalletError> {
        if payments.len() > MAX_PAYMENTS {
            return Err(CarryError::Tx(crate::tx::TxError::TooLong).into());
        }
        let purpose = Purpose::Wallet(reference);
        let mut refused: Vec<Option<Code>> = vec![None; payments.len()];
        for _ in 0..TRIES {
            if let Some(batch) = self.batch_of(purpose, payments, None).await? {
                return Ok(batch);
            }
            let plan = self.plan(from.account(), asset, payments, &refused).await?;
            let chosen: Vec<usize> = (0..payments.len()).filter(|n| plan[*n].is_none()).collect();
            // One that is still alive decides, even if nothing could be paid now.
            if chosen.is_empty() && self.pending_for(purpose).await?.is_empty() {
                return Ok(Batch {
                    payments: plan.into_iter().flatten().map(Paid::LeftOut).collect(),
                    transaction: None,
                });
            }
            let made: Mutex<Option<SignedTx>> = Mutex::new(None);
            let build = |ground: &Ground| -> Result<Draft, CarryError> {
                let payments = chosen.iter().map(|n| payments[*n]);
                let draft = self.batch_draft(ground, &reference, from, asset, payments)?;
                *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(draft.tx.clone());
                Ok(draft)
            };
            let carried = if chosen.is_empty() {
                let _turn = self.turn(Turn::Purpose(purpose)).await;
                self.earlier(purpose).await.map(|earlier| earlier.ok_or(()))
            } else {
                self.carry(purpose, from.account(), build).await.map(Ok)
            };
            let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
            match carried {
                Ok(Ok(record)) => {
                    let carried = Carried {
                        record: &record,
                        made: made.as_ref(),
                        plan: &plan,
                    };
                    if let Some(batch) = self.batch_of(purpose, payments, Some(carried)).await? {
                        return Ok(batch);
                    }
                    // An outbox without memory of a transaction that an earlier process made: nobody can tell what is
                    // in it.
                    return Err(CarryError::Pending { hash: record.hash }.into());
                }
                Ok(Err(())) => {
                    if let Some(alive) = self.pending_for(purpose).await?.first() {
                        return Err(CarryError::Pending { hash: alive.hash }.into());
                    }
                }
                // In a ledger, and nothing of it was done: whose fault it was, the codes tell. If an earlier process made
                // it, looking again does.
                Err(CarryError::Failed { ledger, codes }) => {
                    if made.is_some() && !blame(&chosen, &codes, &mut refused) {
                        return Err(CarryError::Failed { ledger, codes }.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(CarryError::Expired.into())
    }

    /// The batch that was made under a purpose, as the outbox or the caller remembers it.
    async fn batch_of(
        &self,
        purpose: Purpose,
        payments: &[Payment],
        carried: Option<Carried<'_>>,
    ) -> Result<Option<Batch>, WalletError> {
        let read = |envelope: &[u8]| SignedTx::from_bytes(self.network.id(), envelope).map_err(CarryError::Tx);
        let (record, tx) = match self.outbox.applied(purpose).await.map_err(CarryError::Outbox)? {
            Some((submission, outcome)) => {
                let Some(record) = TxRecord::of(submission.hash, &outcome) else {
                    return Ok(None);
                };
                (record, read(&submission.envelope)?)
            }
            None => match carried {
                Some(Carried {
                    record,
                    made: Some(made),
                    ..
                }) if made.hash() == record.hash => (record.clone(), made.clone()),
                _ => return Ok(None),
            },
        };
        // Why the others are not in it is known only of a transaction that was made just now.
        let reasons = carried
            .filter(|carried| carried.made.is_some_and(|made| made.hash() == record.hash))
            .map_or(&[][..], |carried| carried.plan);
        let mut inside: Vec<Payment> = tx.payments().map(|(to, _, amount)| Payment { to, amount }).collect();
        let payments = payments
            .iter()
            .enumerate()
            .map(|(n, payment)| {
                let reason = reasons.get(n).cloned().flatten();
                match inside.iter().position(|paid| paid == payment) {
                    // Of two that are alike, the one that was not left out.
                    Some(at) if reason.is_none() => {
                        inside.swap_remove(at);
                        Paid::Paid
                    }
                    _ => Paid::LeftOut(reason.unwrap_or(LeftOut::NotInIt)),
                }
            })
            .collect();
        Ok(Some(Batch {
            payments,
            transaction: Some(record),
        }))
    }

    /// For each payment why it must be left out, if it must; and whether the payer has what the others take.
    async fn plan(
        &self,
        from: AccountId,
        asset: Asset,
        payments: &[Payment],
        refused: &[Option<Code>],
    ) -> Result<Vec<Option<LeftOut>>, WalletError> {
        let payees = self.accounts(payments.iter().map(|payment| payment.to)).await?;
        let mut taken: Vec<(AccountId, Stroops)> = Vec::new();
        let mut total = Stroops::ZERO;
        let mut plan = Vec::with_capacity(payments.len());
        for (n, payment) in payments.iter().enumerate() {
            let before = taken
                .iter()
                .filter(|(to, _)| *to == payment.to)
                .try_fold(payment.amount, |sum, (_, amount)| sum.checked_add(*amount))
                .unwrap_or(Stroops::MAX);
            let fault = match refused.get(n) {
                Some(Some(code)) => Some(LeftOut::Refused(code.clone())),
                _ if payment.to == from || payment.amount.is_zero() => Some(LeftOut::Pointless),
                _ => cannot_take(payees.get(n).and_then(Option::as_ref), payment.to, &asset, before),
            };
            if fault.is_none() {
                taken.push((payment.to, payment.amount));
                total = total.checked_add(payment.amount).ok_or(WalletError::NoMoney {
                    held: Stroops::ZERO,
                    needed: Stroops::MAX,
                })?;
            }
            plan.push(fault);
        }
        if from.0 != asset.issuer && !total.is_zero() {
            let payer = self.rail.account(from).await?;
            let payer = payer.ok_or(CarryError::NoAccount { account: from })?;
            let held = payer.line(&asset).map_or(Stroops::ZERO, |line| {
                line.holding.balance.saturating_sub(line.holding.selling)
            });
            if held < total {
                return Err(WalletError::NoMoney { held, needed: total });
            }
        }
        Ok(plan)
    }

    /// Looks accounts up, a few at a time, in their order.
    pub(super) async fn accounts(
        &self,
        accounts: impl Iterator<Item = AccountId>,
    ) -> Result<Vec<Option<AccountState>>, CarryError> {
        let accounts: Vec<AccountId> = accounts.collect();
        let mut found: Vec<Option<AccountState>> = vec![None; accounts.len()];
        let mut asking = tokio::task::JoinSet::new();
        let mut next = accounts.iter().copied().enumerate();
        loop {
            while asking.len() < LOOKS
                && let Some((n, account)) = next.next()
            {
                let rail = std::sync::Arc::clone(&self.rail);
                asking.spawn(async move { (n, rail.account(account).await) });
            }
            match asking.join_next().await {
                None => return Ok(found),
                Some(Ok((n, state))) => {
                    let state = state?;
                    if let Some(place) = found.get_mut(n) {
                        *place = state;
                    }
                }
                // Only if the runtime ends.
                Some(Err(_)) => {
                    return Err(crate::rail::RailError::Unreachable(crate::rail::Unreachable::Broken).into());
                }
            }
        }
    }

    fn batch_draft(
        &self,
        ground: &Ground,
        reference: &Reference,
        from: &Keypair,
        asset: Asset,
        payments: impl Iterator<Item = Payment>,
    ) -> Result<Draft, CarryError> {
        let operations: Vec<_> = payments
            .map(|Payment { to, amount }| (None, Op::Pay { to, asset, amount }))
            .collect();
        let fee = self.fee_for(ground, operations.len())?;
        let validity = Validity {
            from_time: told_apart(reference),
            until_time: ground.until_time,
            ..Validity::default()
        };
        let tx = Tx::new(from.account(), ground.sequence, fee, validity, operations)?;
        Ok(Draft {
            tx: tx.sign(self.network.id(), &[from])?,
            bound: Bound {
                until_time: ground.until_time,
                before_ledger: 0,
            },
            fee: Stroops::new(i64::from(fee)).unwrap_or(Stroops::ZERO),
        })
    }
}

impl TxRecord {
    /// The record of a submission that a ledger applied.
    pub(super) fn of(hash: TxHash, outcome: &crate::outbox::Outcome) -> Option<TxRecord> {
        match outcome {
            crate::outbox::Outcome::Applied { ledger, fee_charged } => Some(TxRecord {
                hash,
                ledger: *ledger,
                successful: true,
                fee_charged: *fee_charged,
                codes: ResultCodes::default(),
            }),
            _ => None,
        }
    }
}

/// Why an account cannot be paid `amount` without a memo; `None` if it can.
pub(super) fn cannot_take(
    payee: Option<&AccountState>,
    to: AccountId,
    asset: &Asset,
    amount: Stroops,
) -> Option<LeftOut> {
    let Some(payee) = payee else {
        return Some(LeftOut::NoAccount);
    };
    if payee.memo_required {
        return Some(LeftOut::MemoRequired);
    }
    if asset.issuer == to.0 {
        return None;
    }
    let Some(line) = payee.line(asset) else {
        return Some(LeftOut::NoLine);
    };
    if !line.authorized {
        return Some(LeftOut::NotAuthorized);
    }
    (line.room() < amount).then_some(LeftOut::LineFull)
}

/// Notes which payments made a transaction fail; whether any did.
fn blame(chosen: &[usize], codes: &ResultCodes, refused: &mut [Option<Code>]) -> bool {
    let mut any = false;
    for (n, code) in chosen.iter().zip(&codes.operations) {
        // The payer's own want is not the payee's fault, and leaving payments out one by one would hide it.
        let payers = [
            "op_success",
            "op_underfunded",
            "op_src_no_trust",
            "op_src_not_authorized",
        ];
        if !payers.contains(&code.as_str())
            && let Some(place) = refused.get_mut(*n)
        {
            *place = Some(code.clone());
            any = true;
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_made_a_batch_fail_is_told_by_the_codes_and_a_payers_own_want_is_nobody_elses_fault() {
        let codes = |texts: &[&str]| ResultCodes {
            transaction: Code::new("tx_failed"),
            inner: None,
            operations: texts.iter().map(|text| Code::new(text)).collect(),
        };
        let mut refused = vec![None; 4];
        assert!(blame(
            &[0, 2, 3],
            &codes(&["op_success", "op_no_trust", "op_success"]),
            &mut refused
        ));
        assert_eq!(refused, [None, None, Some(Code::new("op_no_trust")), None]);
        let mut refused = vec![None; 2];
        assert!(!blame(&[0, 1], &codes(&["op_success", "op_underfunded"]), &mut refused));
        assert!(!blame(&[0, 1], &codes(&[]), &mut refused), "a server that does not say");
        assert_eq!(refused, [None, None]);
    }
}
