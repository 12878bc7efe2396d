//! Ordinary transactions of a wallet: trust lines, payments, one-time accounts, and an asset of one's own.

use obol_cell::{AccountId, Asset, Stroops};

use super::carry::{CarryError, Draft, Ground};
use super::{Reference, Settler};
use crate::key::Keypair;
use crate::outbox::{Bound, Purpose};
use crate::rail::{RailError, TxRecord};
use crate::tx::{Memo, Op, Options, Tx};

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

/// Money to be sent ([`Settler::send`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// To whom.
    pub to: AccountId,
    /// How much of what.
    pub money: Money,
    /// What the payee is told, in public.
    pub memo: Memo,
}

/// An amount of an asset or of lumens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Money {
    /// Of an asset, stroops.
    Asset(Asset, Stroops),
    /// Of lumens, stroops.
    Lumens(Stroops),
}

impl Settler {
    /// Carries any transaction of `source` to the ledger, signed by it and by `others`. Of one `reference`, at most one
    /// ever gets through while an earlier one may: the same reference again asks for the same payment, not for another.
    ///
    /// # Errors
    /// When it does not get through, or nobody knows yet.
    pub async fn transact(
        &self,
        reference: Reference,
        source: &Keypair,
        others: &[&Keypair],
        operations: &[(Option<AccountId>, Op)],
    ) -> Result<TxRecord, CarryError> {
        self.transact_with(reference, source, others, operations, &Memo::None)
            .await
    }

    /// [`Settler::transact`], with a memo.
    async fn transact_with(
        &self,
        reference: Reference,
        source: &Keypair,
        others: &[&Keypair],
        operations: &[(Option<AccountId>, Op)],
        memo: &Memo,
    ) -> Result<TxRecord, CarryError> {
        let build = |ground: &Ground| -> Result<Draft, CarryError> {
            let fee = self.fee_for(ground, operations.len())?;
            let validity = crate::tx::Validity {
                from_time: told_apart(&reference),
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
            )?
            .with_memo(memo)?;
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
        reference: Reference,
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

    /// Sends money, with a memo if the payee asks for one. See [`Settler::transact`] for `reference`. Lumens for an account
    /// that is not there make it.
    ///
    /// # Errors
    /// When the payee cannot take it, asks for a memo and gets none (SEP-29), or the payment does not get through.
    pub async fn send(
        &self,
        reference: Reference,
        from: &Keypair,
        transfer: &Transfer,
    ) -> Result<TxRecord, WalletError> {
        // What was done already is not looked at again: the payee may have changed since.
        if let Some(record) = self.applied_before(Purpose::Wallet(reference)).await? {
            return Ok(record);
        }
        let to = transfer.to;
        let payee = self.rail.account(to).await?;
        let asks_for_memo = payee.as_ref().is_some_and(|payee| payee.memo_required);
        if asks_for_memo && transfer.memo == Memo::None {
            return Err(WalletError::MemoRequired);
        }
        let op = match (transfer.money, &payee) {
            (Money::Asset(asset, amount), _) => {
                let payee = payee.as_ref().ok_or(CarryError::NoAccount { account: to })?;
                let takes_it = payee.line(&asset).is_some_and(|l| l.authorized && l.room() >= amount);
                if asset.issuer != to.0 && !takes_it {
                    return Err(WalletError::NoLine { account: to });
                }
                Op::Pay { to, asset, amount }
            }
            (Money::Lumens(amount), Some(_)) => Op::PayLumens { to, amount },
            (Money::Lumens(lumens), None) => {
                let head = self.rail.latest_ledger().await?;
                let least = Stroops::new(2 * i64::from(head.base_reserve)).unwrap_or(Stroops::ZERO);
                if lumens < least {
                    return Err(WalletError::TooLittle { least });
                }
                Op::CreateAccount { account: to, lumens }
            }
        };
        Ok(self
            .transact_with(reference, from, &[], &[(None, op)], &transfer.memo)
            .await?)
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
            let create = Op::CreateAccount {
                account,
                lumens: one.lumens,
            };
            operations.extend([(None, create), (Some(account), trust)]);
            if !one.money.is_zero() {
                let pay = Op::Pay {
                    to: account,
                    asset,
                    amount: one.money,
                };
                operations.push((None, pay));
            }
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

/// A moment of long ago from which on a wallet's transaction is valid, out of its reference: two payments that are alike
/// in everything else, sequence number and all, are two transactions by it, and one is never taken for the other.
pub(super) fn told_apart(reference: &Reference) -> u64 {
    use sha2::Digest as _;
    let [a, b, c, d, ..] = <[u8; 32]>::from(sha2::Sha256::digest(reference));
    // Before 2004.
    u64::from(u32::from_be_bytes([a & 0x3f, b, c, d])).max(1)
}

/// The reference of something that is done for an account and an asset: once, or, where the ledger shows whether it has
/// to be done again, once for a sequence number.
pub(super) fn reference(what: &[u8], account: &AccountId, asset: &Asset, sequence: i64) -> [u8; 32] {
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
    /// The account that should be paid asks for a memo (SEP-29), and this payment has none.
    #[error("the account to be paid asks for a memo, and there is none")]
    MemoRequired,
    /// Lumens for an account that is not there have to be enough to make it.
    #[error("the account is not on the ledger, and takes {} stroops of XLM to be made", least.get())]
    TooLittle {
        /// The least, stroops.
        least: Stroops,
    },
    /// The paying account has too little of the asset.
    #[error("the account holds {} stroops of the asset, and {} are needed", held.get(), needed.get())]
    NoMoney {
        /// What it can spend, stroops.
        held: Stroops,
        /// What is needed, stroops.
        needed: Stroops,
    },
    /// The paying account has too few lumens.
    #[error("the account has {} stroops of XLM to spend, and {} are needed", held.get(), needed.get())]
    NoLumens {
        /// What it can spend, stroops.
        held: Stroops,
        /// What is needed, stroops.
        needed: Stroops,
    },
    /// The transaction did not get through, or nobody knows yet.
    #[error(transparent)]
    Carry(#[from] CarryError),
}

impl From<RailError> for WalletError {
    fn from(error: RailError) -> WalletError {
        WalletError::Carry(CarryError::Rail(error))
    }
}
