//! Every transaction of an escrow, each determined by its terms and the few numbers that are given here.

use obol_cell::{AccountId, Signature, Stroops};

use super::{Escrow, REFUND_OFFSET};
use crate::key::Keypair;
use crate::tx::{Op, Options, SignedTx, Tx, TxError, Validity};

/// Thresholds of an open escrow: neither side can do anything alone, not even raise the sequence number.
pub(crate) const OPEN_THRESHOLD: u32 = 2;

/// One escrow of an opening.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The escrow that the payee accepted.
    pub escrow: &'a Escrow,
    /// E's key.
    pub key: &'a Keypair,
    /// What is paid in.
    pub deposit: Stroops,
    /// r's signature on the refund: without it nothing is paid in.
    pub refund: Signature,
}

/// Most escrows that one transaction can open: 20 signatures, one of them the funder's.
pub const MAX_OPENINGS: usize = 19;

impl Escrow {
    /// The transaction that opens these escrows at once, signed by the funding account and by each E. Each E gets the
    /// four base reserves that it needs. `sequence` is the funder's next, `fee` the whole bid in stroops of lumens.
    ///
    /// # Errors
    /// When there are more than [`MAX_OPENINGS`], or none, or a key is not its escrow's, or a refund is not signed.
    pub fn open(
        funder: &Keypair,
        sequence: i64,
        fee: u32,
        base_reserve: u32,
        openings: &[Opening<'_>],
    ) -> Result<SignedTx, TxError> {
        let first = openings.first().ok_or(TxError::TooLong)?;
        if openings.len() > MAX_OPENINGS {
            return Err(TxError::TooLong);
        }
        let network = first.escrow.terms.network;
        let lumens = Stroops::new(4 * i64::from(base_reserve)).unwrap_or(Stroops::ZERO);
        let mut operations = Vec::with_capacity(4 * openings.len());
        for opening in openings {
            let e = opening.escrow.account();
            if opening.key.account() != e || opening.escrow.terms.network != network {
                return Err(TxError::BadSignature { by: e });
            }
            if !opening.escrow.refund_is_signed(&opening.refund) {
                return Err(TxError::BadSignature {
                    by: opening.escrow.signer,
                });
            }
            let asset = opening.escrow.terms.asset;
            operations.extend([
                (None, Op::CreateAccount { account: e, lumens }),
                (
                    Some(e),
                    Op::Trust {
                        asset,
                        limit: Stroops::MAX,
                    },
                ),
                (
                    Some(e),
                    Op::SetOptions(Options {
                        master_weight: Some(1),
                        thresholds: Some(OPEN_THRESHOLD),
                        signer: Some((opening.escrow.signer, 1)),
                        set_flags: None,
                    }),
                ),
                (
                    None,
                    Op::Pay {
                        to: e,
                        asset,
                        amount: opening.deposit,
                    },
                ),
            ]);
        }
        let validity = Validity {
            // E's first sequence is its ledger's number << 32, and must stay below S0.
            before_ledger: openings
                .iter()
                .map(|o| o.escrow.base_ledger())
                .min()
                .unwrap_or(u32::MAX),
            ..Validity::default()
        };
        let mut signers = vec![funder];
        signers.extend(openings.iter().map(|o| o.key));
        Tx::new(funder.account(), sequence, fee, validity, operations)?.sign(network, &signers)
    }

    /// How many operations an opening of so many escrows has: what its fee is counted by.
    pub const fn open_operations(escrows: usize) -> u32 {
        4 * escrows as u32
    }

    /// Claim `k`: pays `cumulative` to the payee and gives E back to its own key. Fee 0: the payee's fee bump pays.
    ///
    /// # Errors
    /// When `k` is 0 or not below 2^31, or nothing is paid.
    pub fn claim(&self, k: u32, cumulative: Stroops) -> Result<Tx, ClaimError> {
        if k == 0 || u64::from(k) >= REFUND_OFFSET {
            return Err(ClaimError::Number { k });
        }
        if cumulative.is_zero() {
            return Err(ClaimError::Nothing);
        }
        let validity = Validity {
            any_lower_sequence: true,
            ..Validity::default()
        };
        let pay = Op::Pay {
            to: self.terms.payee_account,
            asset: self.terms.asset,
            amount: cumulative,
        };
        Ok(Tx::new(
            self.account(),
            self.sequence(u64::from(k)),
            0,
            validity,
            [(None, pay), (None, self.release())],
        )?)
    }

    /// Claim `k` with both signatures: what a flush wraps in a fee bump. `by_payer` is checked.
    ///
    /// # Errors
    /// When it is not the payer's signature on this claim, or `signer` is not r.
    pub fn countersigned(
        &self,
        k: u32,
        cumulative: Stroops,
        by_payer: Signature,
        signer: &Keypair,
    ) -> Result<SignedTx, ClaimError> {
        let tx = self.claim(k, cumulative)?;
        Ok(self.both(tx, by_payer, signer.account(), |hash| signer.sign(hash))?)
    }

    /// The refund, valid from the expiry on: gives E back to its own key. Fee 0.
    ///
    /// # Errors
    /// Never for terms that passed [`Escrow::new`].
    pub fn refund(&self) -> Result<Tx, TxError> {
        let validity = Validity {
            from_time: self.terms.expiry,
            any_lower_sequence: true,
            ..Validity::default()
        };
        Tx::new(
            self.account(),
            self.sequence(REFUND_OFFSET),
            0,
            validity,
            [(None, self.release())],
        )
    }

    /// The refund with both signatures: r's came with the acceptance.
    ///
    /// # Errors
    /// When `by_payee` is not r's signature on this refund, or `key` is not E's.
    pub fn signed_refund(&self, by_payee: Signature, key: &Keypair) -> Result<SignedTx, TxError> {
        let tx = self.refund()?;
        let hash = tx.hash(self.terms.network)?;
        tx.with_signatures(
            self.terms.network,
            &[(self.account(), key.sign(&hash.0)), (self.signer, by_payee)],
        )
    }

    /// Whether `by_payee` is r's signature on the refund: the payer opens nothing before it is.
    pub fn refund_is_signed(&self, by_payee: &Signature) -> bool {
        self.refund()
            .and_then(|tx| tx.hash(self.terms.network))
            .is_ok_and(|hash| crate::tx::signed_by(&self.signer, &hash, by_payee))
    }

    /// Sends what is left of the asset to `to`; E pays the fee from its own lumens. `sequence` is E's next.
    ///
    /// # Errors
    /// Never for terms that passed [`Escrow::new`].
    pub fn sweep(
        &self,
        sequence: i64,
        fee: u32,
        until_time: u64,
        to: AccountId,
        amount: Stroops,
    ) -> Result<Tx, TxError> {
        let validity = Validity {
            until_time,
            ..Validity::default()
        };
        let pay = Op::Pay {
            to,
            asset: self.terms.asset,
            amount,
        };
        Tx::new(self.account(), sequence, fee, validity, [(None, pay)])
    }

    /// Drops the trust line and merges E into `into`. The ledger refuses it (`op_seq_num_too_far`) until its own number
    /// has passed S0 >> 32 (M5).
    ///
    /// # Errors
    /// Never for terms that passed [`Escrow::new`].
    pub fn merge(&self, sequence: i64, fee: u32, until_time: u64, into: AccountId) -> Result<Tx, TxError> {
        let validity = Validity {
            until_time,
            ..Validity::default()
        };
        let drop_line = Op::Trust {
            asset: self.terms.asset,
            limit: Stroops::ZERO,
        };
        Tx::new(
            self.account(),
            sequence,
            fee,
            validity,
            [(None, drop_line), (None, Op::Merge { into })],
        )
    }

    fn release(&self) -> Op {
        Op::SetOptions(Options {
            thresholds: Some(1),
            signer: Some((self.signer, 0)),
            ..Options::default()
        })
    }

    fn both(
        &self,
        tx: Tx,
        by_payer: Signature,
        signer: AccountId,
        sign: impl FnOnce(&[u8]) -> Signature,
    ) -> Result<SignedTx, TxError> {
        if signer != self.signer {
            return Err(TxError::BadSignature { by: self.signer });
        }
        let hash = tx.hash(self.terms.network)?;
        tx.with_signatures(
            self.terms.network,
            &[(self.account(), by_payer), (self.signer, sign(&hash.0))],
        )
    }
}

/// A claim that cannot be built or countersigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Numbers are 1 to 2^31 - 1.
    #[error("claim number {k} is not between 1 and 2^31 - 1")]
    Number {
        /// The number.
        k: u32,
    },
    /// A claim of nothing is no payment.
    #[error("a claim of nothing")]
    Nothing,
    /// The transaction or a signature on it is wrong.
    #[error(transparent)]
    Tx(#[from] TxError),
}
