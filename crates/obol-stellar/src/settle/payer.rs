//! The payer's side: opening, noticing the end, refund, sweep and merge.

use obol_cell::{AccountId, EscrowId, Signature, Stroops};

use super::Settler;
use super::carry::{CarryError, Draft, Ground};
use crate::check::{EscrowStatus, status};
use crate::escrow::{Escrow, Opening};
use crate::key::Keypair;
use crate::outbox::{Bound, Purpose};
use crate::rail::{AccountState, LedgerHead, RailError};
use crate::tx::{Tx, TxError};

/// Escrows that were opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Each with its balance, in the order given.
    pub escrows: Vec<(EscrowId, Stroops)>,
}

/// How an escrow ended, for its payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What the payee was paid: the deposit less what was left.
    pub paid: Stroops,
    /// What is left, to be swept.
    pub rest: Stroops,
}

/// What was done of winding an escrow up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindUp {
    /// Swept; the merge has to wait until the ledger has this number (M5).
    Swept {
        /// From this ledger on.
        merge_from: u32,
    },
    /// Swept and merged, or gone before: nothing is left to do.
    Done,
}

impl Settler {
    /// Opens escrows with one transaction of `funder`: the payer's account, or a one-time account (C4). May be called
    /// again after any error, and after a restart: it looks first.
    ///
    /// # Errors
    /// [`OpenError::TooLate`] is final: the escrows will never be open, and nothing is locked up.
    pub async fn open(&self, funder: &Keypair, openings: &[Opening<'_>]) -> Result<Opened, OpenError> {
        let first = openings.first().ok_or(CarryError::Tx(TxError::TooLong))?;
        if let Some(opened) = self.all_open(openings).await? {
            return Ok(opened);
        }
        let purpose = Purpose::Open(first.escrow.terms().escrow);
        let before_ledger = openings.iter().map(|o| o.escrow.base_ledger()).min().unwrap_or(0);
        let head = self.rail.latest_ledger().await?;
        if head.sequence >= before_ledger.saturating_sub(1) {
            // An earlier submission may still be on its way into the last ledger that could take it.
            return match self.earlier(purpose).await {
                Ok(Some(_)) => self.all_open(openings).await?.ok_or(OpenError::TooLate),
                Ok(None) if self.pending_for(purpose).await?.is_empty() => {
                    self.all_open(openings).await?.ok_or(OpenError::TooLate)
                }
                Ok(None) => Err(self.still_pending(purpose).await),
                Err(CarryError::Failed { .. }) => Err(OpenError::TooLate),
                Err(error) => Err(error.into()),
            };
        }
        self.can_fund(funder.account(), openings, &head).await?;
        let build = |ground: &Ground| -> Result<Draft, CarryError> {
            let fee = self.fee_for(ground, Escrow::open_operations(openings.len()) as usize)?;
            let tx = Escrow::open(funder, ground.sequence, fee, ground.head.base_reserve, openings)?;
            Ok(Draft {
                tx,
                bound: Bound {
                    until_time: 0,
                    before_ledger,
                },
                fee: Stroops::new(i64::from(fee)).unwrap_or(Stroops::ZERO),
            })
        };
        match self.carry(purpose, funder.account(), build).await {
            Ok(_) => {}
            // It was open already, by another transaction than this.
            Err(CarryError::Failed { codes, .. }) if codes.has_operation("op_already_exists") => {}
            Err(error) => return Err(error.into()),
        }
        self.all_open(openings)
            .await?
            .ok_or_else(|| RailError::Busy { retry_after: None }.into())
    }

    async fn still_pending(&self, purpose: Purpose) -> OpenError {
        match self.pending_for(purpose).await {
            Ok(pending) => match pending.last() {
                Some(submission) => CarryError::Pending { hash: submission.hash }.into(),
                None => OpenError::TooLate,
            },
            Err(error) => error.into(),
        }
    }

    /// The balances, if all of these are open.
    async fn all_open(&self, openings: &[Opening<'_>]) -> Result<Option<Opened>, OpenError> {
        let mut escrows = Vec::with_capacity(openings.len());
        for opening in openings {
            let account = self.rail.account(opening.escrow.account()).await?;
            match status(opening.escrow, account.as_ref()) {
                EscrowStatus::Absent => return Ok(None),
                EscrowStatus::Open { balance }
                | EscrowStatus::FlushFailed { balance, .. }
                | EscrowStatus::Released { rest: balance } => {
                    escrows.push((opening.escrow.terms().escrow, balance));
                }
                EscrowStatus::Foreign => {
                    return Err(OpenError::Foreign {
                        escrow: opening.escrow.terms().escrow,
                    });
                }
            }
        }
        Ok(Some(Opened { escrows }))
    }

    async fn can_fund(&self, funder: AccountId, openings: &[Opening<'_>], head: &LedgerHead) -> Result<(), OpenError> {
        let account = self
            .rail
            .account(funder)
            .await?
            .ok_or(CarryError::NoAccount { account: funder })?;
        let count = openings.len() as i64;
        let fees = i64::from(head.base_fee).saturating_mul(i64::from(Escrow::open_operations(openings.len())));
        let reserves = 4i64.saturating_mul(i64::from(head.base_reserve)).saturating_mul(count);
        let needed = Stroops::new(fees.saturating_add(reserves)).unwrap_or(Stroops::MAX);
        let held = account.spendable_lumens(head.base_reserve);
        if held < needed {
            return Err(OpenError::NoLumens { held, needed });
        }
        // One payer, one asset: openings in one transaction share it.
        for opening in openings {
            let asset = opening.escrow.terms().asset;
            let needed = openings
                .iter()
                .filter(|o| o.escrow.terms().asset == asset)
                .try_fold(Stroops::ZERO, |sum, o| sum.checked_add(o.deposit))
                .unwrap_or(Stroops::MAX);
            let held = account.line(&asset).map_or(Stroops::ZERO, |line| {
                line.holding.balance.saturating_sub(line.holding.selling)
            });
            if held < needed {
                return Err(OpenError::NoMoney { held, needed });
            }
        }
        Ok(())
    }

    /// Whether the payee has flushed an escrow, or we have refunded it: `None` while it is open, or gone.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn ended(&self, escrow: &Escrow, deposit: Stroops) -> Result<Option<Ended>, RailError> {
        let account = self.rail.account(escrow.account()).await?;
        Ok(match status(escrow, account.as_ref()) {
            EscrowStatus::Released { rest } => Some(Ended {
                paid: deposit.saturating_sub(rest),
                rest,
            }),
            _ => None,
        })
    }

    /// Takes an escrow back after its expiry, unless the payee flushed it: `by_payee` is r's signature on the refund, and
    /// `payer` pays the fee.
    ///
    /// # Errors
    /// [`EndError::NotYet`] before the ledger's clock has passed the expiry.
    pub async fn refund(
        &self,
        escrow: &Escrow,
        deposit: Stroops,
        key: &Keypair,
        by_payee: Signature,
        payer: &Keypair,
    ) -> Result<Ended, EndError> {
        if let Some(ended) = self.ended(escrow, deposit).await? {
            return Ok(ended);
        }
        let refund = escrow.signed_refund(by_payee, key).map_err(CarryError::Tx)?;
        if self.rail.account(escrow.account()).await?.is_none() {
            return Err(EndError::Absent);
        }
        let head = self.rail.latest_ledger().await?;
        if head.close_time < escrow.terms().expiry {
            return Err(EndError::NotYet {
                expiry: escrow.terms().expiry,
            });
        }
        let purpose = Purpose::Refund(escrow.terms().escrow);
        match self.carry_bumped(purpose, &refund, payer).await {
            Ok(_) => {}
            // The payee was faster; E's account tells.
            Err(CarryError::Rejected { codes }) if codes.is("tx_bad_auth") || codes.is("tx_bad_auth_extra") => {}
            Err(error) => return Err(error.into()),
        }
        self.ended(escrow, deposit).await?.ok_or(EndError::Absent)
    }

    /// Winds up an escrow that has ended: sends what is left of the asset to `rest_to` (which needs a trust line), and as
    /// soon as the ledger allows, E's lumens to `lumens_to`. E pays the fees. Best not the wallet, but the next one-time
    /// account (C4).
    ///
    /// # Errors
    /// When E has not ended, or the ledger refuses a step or cannot be reached: call it again.
    pub async fn wind_up(
        &self,
        escrow: &Escrow,
        key: &Keypair,
        rest_to: AccountId,
        lumens_to: AccountId,
    ) -> Result<WindUp, WindUpError> {
        let Some(account) = self.rail.account(escrow.account()).await? else {
            return Ok(WindUp::Done);
        };
        let EscrowStatus::Released { rest } = status(escrow, Some(&account)) else {
            return Err(WindUpError::NotEnded);
        };
        if !rest.is_zero() {
            self.sweep(escrow, key, rest_to, rest).await?;
        }
        let head = self.rail.latest_ledger().await?;
        if head.sequence < escrow.base_ledger() {
            return Ok(WindUp::Swept {
                merge_from: escrow.base_ledger(),
            });
        }
        self.merge(escrow, key, lumens_to).await?;
        Ok(WindUp::Done)
    }

    async fn sweep(&self, escrow: &Escrow, key: &Keypair, to: AccountId, rest: Stroops) -> Result<(), WindUpError> {
        let heir = self.rail.account(to).await?;
        let asset = &escrow.terms().asset;
        let takes_it = heir
            .as_ref()
            .and_then(|heir| heir.line(asset))
            .is_some_and(|line| line.authorized && line.room() >= rest);
        if !takes_it {
            return Err(WindUpError::NoLine { account: to });
        }
        let build = |ground: &Ground| -> Result<Draft, CarryError> {
            let fee = self.own_fee(ground, 1);
            let tx = escrow.sweep(ground.sequence, fee, ground.until_time, to, rest)?;
            self.signed(tx, key, fee, ground)
        };
        self.carry(Purpose::Sweep(escrow.terms().escrow), escrow.account(), build)
            .await?;
        Ok(())
    }

    async fn merge(&self, escrow: &Escrow, key: &Keypair, into: AccountId) -> Result<(), WindUpError> {
        if self.rail.account(into).await?.is_none() {
            return Err(CarryError::NoAccount { account: into }.into());
        }
        let build = |ground: &Ground| -> Result<Draft, CarryError> {
            let fee = self.own_fee(ground, 2);
            let tx = escrow.merge(ground.sequence, fee, ground.until_time, into)?;
            self.signed(tx, key, fee, ground)
        };
        self.carry(Purpose::Merge(escrow.terms().escrow), escrow.account(), build)
            .await?;
        Ok(())
    }

    /// A fee that E can pay: of the one reserve that r's removal set free, a tenth for each operation at most.
    fn own_fee(&self, ground: &Ground, operations: u32) -> u32 {
        let affordable = (ground.head.base_reserve / 10).max(ground.head.base_fee);
        ground.fee_per_operation.min(affordable).saturating_mul(operations)
    }

    fn signed(&self, tx: Tx, key: &Keypair, fee: u32, ground: &Ground) -> Result<Draft, CarryError> {
        Ok(Draft {
            tx: tx.sign(self.network.id(), &[key])?,
            bound: Bound {
                until_time: ground.until_time,
                before_ledger: 0,
            },
            fee: Stroops::new(i64::from(fee)).unwrap_or(Stroops::ZERO),
        })
    }

    /// Where an escrow stands on the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn status(&self, escrow: &Escrow) -> Result<EscrowStatus, RailError> {
        let account: Option<AccountState> = self.rail.account(escrow.account()).await?;
        Ok(status(escrow, account.as_ref()))
    }
}

/// Escrows that are not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ledger has passed S0 and they are not there: they never will be.
    #[error("the ledger has passed the time in which the escrow could be opened")]
    TooLate,
    /// Another account stands where the escrow should.
    #[error("the account of {escrow:?} exists and is not this escrow")]
    Foreign {
        /// Which.
        escrow: EscrowId,
    },
    /// The funding account lacks lumens.
    #[error("the funding account lacks lumens for fees and reserves")]
    NoLumens {
        /// What it can spend, stroops.
        held: Stroops,
        /// What is needed, stroops.
        needed: Stroops,
    },
    /// The funding account lacks the asset.
    #[error("the funding account does not hold the deposit")]
    NoMoney {
        /// What it holds.
        held: Stroops,
        /// What is needed.
        needed: Stroops,
    },
    /// The transaction did not get through, or nobody knows yet.
    #[error(transparent)]
    Carry(#[from] CarryError),
}

impl From<RailError> for OpenError {
    fn from(error: RailError) -> OpenError {
        OpenError::Carry(CarryError::Rail(error))
    }
}

/// An escrow that could not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// The ledger's clock has not passed the expiry.
    #[error("the escrow does not expire before {expiry} (unix seconds)")]
    NotYet {
        /// The expiry, unix seconds.
        expiry: u64,
    },
    /// There is no such escrow on the ledger: never opened, or merged already.
    #[error("there is no such escrow on the ledger")]
    Absent,
    /// The transaction did not get through, or nobody knows yet.
    #[error(transparent)]
    Carry(#[from] CarryError),
}

impl From<RailError> for EndError {
    fn from(error: RailError) -> EndError {
        EndError::Carry(CarryError::Rail(error))
    }
}

/// An escrow that could not be wound up.
#[derive(Debug, thiserror::Error)]
pub enum WindUpError {
    /// It was neither flushed nor refunded yet.
    #[error("the escrow has not ended")]
    NotEnded,
    /// The account that should get the rest cannot take it.
    #[error("{account:?} has no trust line with room for the rest")]
    NoLine {
        /// The account.
        account: AccountId,
    },
    /// The transaction did not get through, or nobody knows yet.
    #[error(transparent)]
    Carry(#[from] CarryError),
}

impl From<RailError> for WindUpError {
    fn from(error: RailError) -> WindUpError {
        WindUpError::Carry(CarryError::Rail(error))
    }
}
