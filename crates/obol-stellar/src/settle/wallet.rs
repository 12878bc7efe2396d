//! Ordinary transactions of a wallet: trust lines, payments, one-time accounts, and an asset of one's own.

use obol_cell::{AccountId, Asset, Stroops};

use super::Settler;
use super::carry::{CarryError, Draft, Ground};
use crate::key::Keypair;
use crate::outbox::{Bound, Purpose};
use crate::rail::{RailError, TxRecord};
use crate::tx::{Op, Options, Tx, TxError};

/// The flag that makes an issuer's flags, all absent, final (AUTH_IMMUTABLE).
const AUTH_IMMUTABLE: u32 = 4;

/// A one-time account that funds one escrow or a few (C4).
#[derive(Debug, Clone, Copy)]
pub struct OneTime<'a> {
    /// Its key.
    pub key: &'a Keypair,
    /// What it gets of the asset.
    pub money: Stroops,
    /// What it gets of lumens, stroops: three base reserves for itself, four for each escrow, and fees.
    pub lumens: Stroops,
}

impl Settler {
    /// Carries any transaction of `source` to the ledger, signed by it and by `others`. Of one `reference`, at most one
    /// ever gets through while an earlier one may: the same reference again asks for the same payment, not for another.
    ///
    /// # Errors
    /// When it does not get through, or nobody knows yet.
    pub async fn transact(
        &self,
        reference: [u8; 32],
        source: &Keypair,
        others: &[&Keypair],
        operations: &[(Option<AccountId>, Op)],
    ) -> Result<TxRecord, CarryError> {
        let build = |ground: &Ground| -> Result<Draft, CarryError> {
            let count = u32::try_from(operations.len()).map_err(|_| TxError::TooLong)?;
            let least = i64::from(ground.head.base_fee).saturating_mul(i64::from(count));
            let bid = i64::from(ground.fee_per_operation).saturating_mul(i64::from(count));
            let fee = u32::try_from(bid.min(self.policy.highest_fee.max(least))).unwrap_or(u32::MAX);
            let validity = crate::tx::Validity {
                until_time: ground.until_time,
                ..Default::default()
            };
            let mut signers = vec![source];
            signers.extend(others);
            let tx = Tx::new(
                source.account(),
                ground.sequence,
                fee,
                validity,
                operations.iter().copied(),
            )?;
            Ok(Draft {
                tx: tx.sign(self.network.id(), &signers)?,
                bound: Bound {
                    until_time: ground.until_time,
                    before_ledger: 0,
                },
                fee: Stroops::new(i64::from(fee)).unwrap_or(Stroops::ZERO),
            })
        };
        self.carry(Purpose::Wallet(reference), source.account(), build).await
    }

    /// Makes sure that an account has a trust line to the asset, without limit.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn trust(&self, account: &Keypair, asset: Asset) -> Result<(), WalletError> {
        let state = self
            .rail
            .account(account.account())
            .await?
            .ok_or(CarryError::NoAccount {
                account: account.account(),
            })?;
        if state.line(&asset).is_some() {
            return Ok(());
        }
        let trust = Op::Trust {
            asset,
            limit: Stroops::MAX,
        };
        self.transact(
            reference(b"trust", &account.account(), &asset, state.sequence),
            account,
            &[],
            &[(None, trust)],
        )
        .await?;
        Ok(())
    }

    /// Pays `amount` of the asset. See [`Settler::transact`] for `reference`.
    ///
    /// # Errors
    /// When the payee cannot take it, asks for a memo (SEP-29), or the payment does not get through.
    pub async fn pay(
        &self,
        reference: [u8; 32],
        from: &Keypair,
        to: AccountId,
        asset: Asset,
        amount: Stroops,
    ) -> Result<TxRecord, WalletError> {
        let payee = self
            .rail
            .account(to)
            .await?
            .ok_or(CarryError::NoAccount { account: to })?;
        if payee.memo_required {
            return Err(WalletError::MemoRequired);
        }
        let is_issuer = asset.issuer == to.0;
        let takes_it = payee.line(&asset).is_some_and(|l| l.authorized && l.room() >= amount);
        if !is_issuer && !takes_it {
            return Err(WalletError::NoLine { account: to });
        }
        let pay = Op::Pay { to, asset, amount };
        Ok(self.transact(reference, from, &[], &[(None, pay)]).await?)
    }

    /// Makes one-time accounts with trust lines and money, out of the wallet, in one transaction: 19 at most. Accounts
    /// that exist are left as they are, with all others.
    ///
    /// # Errors
    /// When there are too many, or the transaction does not get through.
    pub async fn fund_one_time(
        &self,
        wallet: &Keypair,
        asset: Asset,
        accounts: &[OneTime<'_>],
    ) -> Result<(), WalletError> {
        let Some(first) = accounts.first() else {
            return Ok(());
        };
        let mut there = 0;
        for account in accounts {
            if self.rail.account(account.key.account()).await?.is_some() {
                there += 1;
            }
        }
        if there == accounts.len() {
            return Ok(());
        }
        let mut operations = Vec::with_capacity(3 * accounts.len());
        for one in accounts {
            let account = one.key.account();
            let trust = Op::Trust {
                asset,
                limit: Stroops::MAX,
            };
            operations.extend([
                (
                    None,
                    Op::CreateAccount {
                        account,
                        lumens: one.lumens,
                    },
                ),
                (Some(account), trust),
                (
                    None,
                    Op::Pay {
                        to: account,
                        asset,
                        amount: one.money,
                    },
                ),
            ]);
        }
        let others: Vec<&Keypair> = accounts.iter().map(|one| one.key).collect();
        let sequence = self
            .rail
            .account(wallet.account())
            .await?
            .map_or(0, |state| state.sequence);
        self.transact(
            reference(b"one-time", &first.key.account(), &asset, sequence),
            wallet,
            &others,
            &operations,
        )
        .await?;
        Ok(())
    }

    /// Makes an asset: `issuer` becomes AUTH_IMMUTABLE and issues `amount` to `holder`. Both accounts exist. For test
    /// networks and for those who know what an issuer owes.
    ///
    /// # Errors
    /// When the transaction does not get through.
    pub async fn create_asset(
        &self,
        issuer: &Keypair,
        holder: &Keypair,
        asset: Asset,
        amount: Stroops,
    ) -> Result<(), WalletError> {
        let operations = [
            (
                None,
                Op::SetOptions(Options {
                    set_flags: Some(AUTH_IMMUTABLE),
                    ..Options::default()
                }),
            ),
            (
                Some(holder.account()),
                Op::Trust {
                    asset,
                    limit: Stroops::MAX,
                },
            ),
            (
                None,
                Op::Pay {
                    to: holder.account(),
                    asset,
                    amount,
                },
            ),
        ];
        let holds = self
            .rail
            .account(holder.account())
            .await?
            .and_then(|state| state.line(&asset).map(|line| line.holding.balance))
            .is_some_and(|balance| !balance.is_zero());
        if holds {
            return Ok(());
        }
        self.transact(
            reference(b"asset", &holder.account(), &asset, 0),
            issuer,
            &[holder],
            &operations,
        )
        .await?;
        Ok(())
    }
}

/// The reference of something that is done for an account and an asset: once, or, where the ledger shows whether it has
/// to be done again, once for a sequence number.
fn reference(what: &[u8], account: &AccountId, asset: &Asset, sequence: i64) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::new()
        .chain_update([what.len() as u8])
        .chain_update(what)
        .chain_update(account.0)
        .chain_update(asset.to_bytes())
        .chain_update(sequence.to_be_bytes())
        .finalize()
        .into()
}

/// A wallet's transaction that was not made.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// The account that should be paid cannot take it.
    #[error("{account:?} has no trust line with room for the payment")]
    NoLine {
        /// The account.
        account: AccountId,
    },
    /// The account that should be paid asks for a memo (SEP-29), and our payments have none.
    #[error("the account to be paid asks for a memo; Obol's payments have none")]
    MemoRequired,
    /// The transaction did not get through, or nobody knows yet.
    #[error(transparent)]
    Carry(#[from] CarryError),
}

impl From<RailError> for WalletError {
    fn from(error: RailError) -> WalletError {
        WalletError::Carry(CarryError::Rail(error))
    }
}
