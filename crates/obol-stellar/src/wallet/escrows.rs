//! A payer's own escrows: what is locked where, until when; and how it comes back without the payee's help.
//!
//! The payee's signature on the refund came with its acceptance, so from the expiry on nobody needs to ask it for anything.

use obol_cell::{AccountId, EscrowId, Signature, Stroops};

use crate::check::{EscrowStatus, status};
use crate::escrow::Escrow;
use crate::key::Keypair;
use crate::rail::RailError;
use crate::settle::{EndError, Settler, WindUp, WindUpError};

/// An escrow of ours, with what the journal keeps of it.
#[derive(Debug, Clone)]
pub struct OwnEscrow {
    /// The escrow, from the terms that the payee accepted.
    pub escrow: Escrow,
    /// E's key, from the payer's secret and the escrow's nonce.
    pub key: Keypair,
    /// What was paid in.
    pub deposit: Stroops,
    /// r's signature on the refund.
    pub refund: Signature,
}

/// Where an escrow of ours stands, as of a closed ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// The escrow.
    pub escrow: EscrowId,
    /// Who is paid out of it.
    pub payee_account: AccountId,
    /// What it holds of the asset.
    pub money: Stroops,
    /// What it holds of lumens: they come back with the merge.
    pub lumens: Stroops,
    /// From when on it can be taken back, unix seconds of the ledger's clock.
    pub until: u64,
    /// Where it stands.
    pub stands: Stands,
}

/// Where an escrow of ours stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// Not on the ledger: never opened, or wound up.
    Gone,
    /// Open, and locked for so many seconds of the ledger's clock.
    Locked {
        /// Seconds.
        seconds: u64,
    },
    /// Expired: it can be taken back now.
    Expired,
    /// Ended by a flush or a refund: what is left can be swept now.
    Ended,
    /// What stands there is not this escrow.
    Foreign,
}

/// What was done of taking an escrow back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// Still locked: nothing was done.
    Locked {
        /// Until then, unix seconds of the ledger's clock.
        until: u64,
    },
    /// The money is back; E's lumens come once the ledger has this number. Ask again then.
    Money {
        /// What came back.
        returned: Stroops,
        /// From this ledger on.
        merge_from: u32,
    },
    /// Everything is back.
    Done {
        /// What came back of the asset; nothing if it was swept before.
        returned: Stroops,
    },
}

impl Settler {
    /// Where escrows of ours stand, in the order given.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn locked(&self, escrows: &[OwnEscrow]) -> Result<Vec<Locked>, RailError> {
        let head = self.rail().latest_ledger().await?;
        let mut list = Vec::with_capacity(escrows.len());
        for own in escrows {
            let account = self.rail().account(own.escrow.account()).await?;
            let terms = own.escrow.terms();
            let held = account
                .as_ref()
                .and_then(|account| account.line(&terms.asset))
                .map_or(Stroops::ZERO, |line| line.holding.balance);
            let stands = match status(&own.escrow, account.as_ref()) {
                EscrowStatus::Absent => Stands::Gone,
                EscrowStatus::Foreign => Stands::Foreign,
                EscrowStatus::Released { .. } => Stands::Ended,
                EscrowStatus::Open { .. } | EscrowStatus::FlushFailed { .. } => {
                    match terms.expiry.saturating_sub(head.close_time) {
                        0 => Stands::Expired,
                        seconds => Stands::Locked { seconds },
                    }
                }
            };
            list.push(Locked {
                escrow: terms.escrow,
                payee_account: terms.payee_account,
                money: held,
                lumens: account.map_or(Stroops::ZERO, |account| account.lumens.balance),
                until: terms.expiry,
                stands,
            });
        }
        Ok(list)
    }

    /// Takes an escrow back as far as that is possible now: refund, sweep, merge. `fee_payer` pays the refund's fee; what is
    /// left goes to `to`, which has a trust line. May be called again at any time.
    ///
    /// # Errors
    /// When the ledger refuses a step or cannot be reached: call it again.
    pub async fn take_back(
        &self,
        own: &OwnEscrow,
        fee_payer: &Keypair,
        to: AccountId,
    ) -> Result<TakenBack, TakeBackError> {
        let account = self.rail().account(own.escrow.account()).await?;
        let until = own.escrow.terms().expiry;
        let returned = match status(&own.escrow, account.as_ref()) {
            EscrowStatus::Absent => {
                return Ok(TakenBack::Done {
                    returned: Stroops::ZERO,
                });
            }
            EscrowStatus::Foreign => return Err(TakeBackError::Foreign),
            EscrowStatus::Released { rest } => rest,
            EscrowStatus::Open { .. } | EscrowStatus::FlushFailed { .. } => {
                let refund = self.refund(&own.escrow, own.deposit, &own.key, own.refund, fee_payer);
                match refund.await {
                    Ok(ended) => ended.rest,
                    Err(EndError::NotYet { .. }) => return Ok(TakenBack::Locked { until }),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        Ok(match self.wind_up(&own.escrow, &own.key, to, to).await? {
            WindUp::Done => TakenBack::Done { returned },
            WindUp::Swept { merge_from } => TakenBack::Money { returned, merge_from },
        })
    }
}

/// An escrow that could not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum TakeBackError {
    /// What stands there is not this escrow.
    #[error("the account on the ledger is not this escrow")]
    Foreign,
    /// The refund did not get through, or nobody knows yet.
    #[error(transparent)]
    Refund(#[from] EndError),
    /// The sweep or the merge did not get through, or nobody knows yet.
    #[error(transparent)]
    WindUp(#[from] WindUpError),
    /// The ledger cannot be asked.
    #[error(transparent)]
    Rail(#[from] RailError),
}
