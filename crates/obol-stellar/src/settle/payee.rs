//! The payee's side: the flush.

use obol_cell::{Signature, Stroops};

use super::carry::{CarryError, Fate};
use super::{Settler, Turn};
use crate::check::{EscrowStatus, FlushFault, check_flush, status};
use crate::escrow::{ClaimError, Escrow, EscrowSecret, LEDGERS_TO_OPEN, Used};
use crate::key::Keypair;
use crate::outbox::Purpose;
use crate::rail::RailError;
use crate::tx::SignedTx;

/// A claim to be flushed. That it will be is recorded in the journal already: nothing more is accepted on the escrow.
pub struct FlushOrder<'a> {
    /// The escrow.
    pub escrow: &'a Escrow,
    /// The claim.
    pub k: u32,
    /// What it pays.
    pub cumulative: Stroops,
    /// The payer's signature on it.
    pub by_payer: Signature,
    /// The secret that r is derived from.
    pub secret: &'a EscrowSecret,
    /// The key of the payee account: it pays the fee.
    pub payee: &'a Keypair,
}

/// How an escrow ended, for its payee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flushed {
    /// A claim of ours is in a ledger.
    Settled {
        /// What it paid us.
        amount: Stroops,
        /// The ledger.
        ledger: u32,
        /// What the fee bump cost, stroops of lumens.
        fee_charged: Stroops,
    },
    /// The flush is in a ledger and failed: claims up to `k` are dead, the escrow is open (H11).
    FailedInLedger {
        /// The claim.
        k: u32,
    },
    /// The escrow ended without our claim: refunded after its expiry.
    Lost,
}

impl Settler {
    /// Flushes an escrow: countersigns the claim, wraps it in a fee bump that rises up to the highest fee, and waits for
    /// the ledger. May be called again after any error, and after a restart.
    ///
    /// # Errors
    /// [`FlushError`] tells what stands in the way, or that the outcome is unknown: then ask again, never sign anew.
    pub async fn flush(&self, order: &FlushOrder<'_>) -> Result<Flushed, FlushError> {
        let escrow = order.escrow;
        let purpose = Purpose::Flush(escrow.terms().escrow);
        let _turn = self.turn(Turn::Purpose(purpose)).await;

        let claim = escrow.countersigned(
            order.k,
            order.cumulative,
            order.by_payer,
            &order.secret.signer(escrow.terms()),
        )?;
        if let Some(flushed) = self.earlier_flush(order, purpose).await? {
            return Ok(flushed);
        }
        let head = self.rail.latest_ledger().await?;
        let fee = self.bump_fee(&head, &claim).await;
        let e = self.rail.account(escrow.account()).await?;
        let payee = self.rail.account(order.payee.account()).await?;
        match check_flush(
            escrow,
            order.k,
            order.cumulative,
            e.as_ref(),
            payee.as_ref(),
            &head,
            fee,
        ) {
            Ok(()) => {}
            Err(FlushFault::Ended) => return self.how_it_ended(order, &claim).await,
            Err(FlushFault::ClaimUsed { used }) => return Ok(Flushed::FailedInLedger { k: used }),
            Err(fault) => return Err(FlushError::NotNow(fault)),
        }
        match self.carry_bumped(purpose, &claim, order.payee).await {
            Ok(Some(record)) => Ok(Flushed::Settled {
                amount: order.cumulative,
                ledger: record.ledger,
                fee_charged: record.fee_charged,
            }),
            // Another transaction of E was first: the refund, or the same claim in another wrapping.
            Ok(None) => self.how_it_ended(order, &claim).await,
            Err(CarryError::Failed { .. }) => self.how_it_ended(order, &claim).await,
            Err(error) => Err(error.into()),
        }
    }

    /// What flushes that were recorded before came to, whatever claim they were of.
    async fn earlier_flush(&self, order: &FlushOrder<'_>, purpose: Purpose) -> Result<Option<Flushed>, FlushError> {
        let mut failed = None;
        for submission in self.pending_for(purpose).await? {
            match self.fate(&submission).await? {
                Fate::Applied(record) => {
                    let amount = SignedTx::from_bytes(self.network.id(), &submission.envelope)
                        .ok()
                        .and_then(|tx| tx.first_payment())
                        .unwrap_or(order.cumulative);
                    return Ok(Some(Flushed::Settled {
                        amount,
                        ledger: record.ledger,
                        fee_charged: record.fee_charged,
                    }));
                }
                Fate::Failed(_) => {
                    let offset = u64::try_from(submission.sequence)
                        .unwrap_or(0)
                        .saturating_sub(order.escrow.terms().s0);
                    failed = u32::try_from(offset).ok();
                }
                Fate::Dead | Fate::Alive { .. } => {}
            }
        }
        // A failed claim below this one is why this one is flushed now.
        Ok(failed.filter(|k| *k >= order.k).map(|k| Flushed::FailedInLedger { k }))
    }

    /// The escrow has ended, or our transaction failed in a ledger: was it our claim, and did it pay?
    async fn how_it_ended(&self, order: &FlushOrder<'_>, claim: &SignedTx) -> Result<Flushed, FlushError> {
        let escrow = order.escrow;
        let sighting = self.rail.look(claim.hash(), None, escrow.account()).await?;
        if let Some(record) = &sighting.record
            && record.successful
        {
            return Ok(Flushed::Settled {
                amount: order.cumulative,
                ledger: record.ledger,
                fee_charged: record.fee_charged,
            });
        }
        let unknown = Err(FlushError::Carry(CarryError::Pending { hash: claim.hash() }));
        // The claim can be in any ledger since the opening. A server that has forgotten some of these cannot say that it
        // is in none; the escrow's account still can, while it is there, if the refund came first.
        let remembered = sighting.oldest.is_none_or(|oldest| {
            let opened_from = escrow.base_ledger().saturating_sub(2 * LEDGERS_TO_OPEN);
            oldest.ledger <= opened_from.max(2)
        });
        let refunded = sighting
            .source
            .as_ref()
            .is_some_and(|e| matches!(escrow.used(e.sequence), Used::Refund));
        match status(escrow, sighting.source.as_ref()) {
            EscrowStatus::FlushFailed { k, .. } => Ok(Flushed::FailedInLedger { k }),
            EscrowStatus::Open { .. } => unknown,
            _ if remembered || refunded => Ok(Flushed::Lost),
            _ => unknown,
        }
    }
}

/// A flush that did not end. It may be tried again at once or later, as long as the escrow's margin lasts.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The claim must not be signed now: it would fail in the ledger, and be used up.
    #[error("the escrow cannot be flushed now: {0}")]
    NotNow(FlushFault),
    /// The claim is not the payer's, or cannot be built.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The transaction did not get through, or nobody knows yet.
    #[error(transparent)]
    Carry(#[from] CarryError),
}

impl From<RailError> for FlushError {
    fn from(error: RailError) -> FlushError {
        FlushError::Carry(CarryError::Rail(error))
    }
}
