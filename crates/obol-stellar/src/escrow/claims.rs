//! The hot path: signing and verifying claims without building a transaction each time.
//!
//! All claims of one escrow differ in two fields of their signature payload, the sequence number and the amount. The
//! rest is serialised once, and the SHA-256 state up to the first of them is kept.

use ed25519_dalek::{Signature as DalekSignature, VerifyingKey};
use obol_cell::{Signature, Stroops};
use sha2::{Digest as _, Sha256};

use super::{ClaimError, Escrow, REFUND_OFFSET, TermsError};
use crate::key::Keypair;
use crate::tx::TxHash;

/// Where the sequence number stands in the payload: network id, tag, key type, E, fee.
const SEQUENCE_AT: usize = 32 + 4 + 4 + 32 + 4;
/// From the start to the payment's asset: the above, sequence, preconditions, memo, count, operation, destination.
const ASSET_AT: usize = SEQUENCE_AT + 8 + 40 + 4 + 4 + 8 + 36;

/// Hashes of the claims of one escrow.
#[derive(Clone)]
pub struct ClaimHasher {
    s0: u64,
    before_sequence: Sha256,
    between: Vec<u8>,
    after_amount: Vec<u8>,
}

impl ClaimHasher {
    /// For the claims of `escrow`.
    ///
    /// # Errors
    /// Never for terms that passed [`Escrow::new`].
    pub fn new(escrow: &Escrow) -> Result<ClaimHasher, ClaimError> {
        let payload = escrow.claim(1, Stroops::MAX)?.signature_payload(escrow.terms.network)?;
        let amount_at = ASSET_AT
            + match escrow.asset {
                stellar_xdr::Asset::CreditAlphanum12(_) => 4 + 12 + 36,
                _ => 4 + 4 + 36,
            };
        Ok(ClaimHasher {
            s0: escrow.terms.s0,
            before_sequence: Sha256::new_with_prefix(&payload[..SEQUENCE_AT]),
            between: payload[SEQUENCE_AT + 8..amount_at].to_vec(),
            after_amount: payload[amount_at + 8..].to_vec(),
        })
    }

    /// The hash of claim `k`; `None` for a number or amount that no claim has.
    pub fn hash(&self, k: u32, cumulative: Stroops) -> Option<TxHash> {
        if k == 0 || u64::from(k) >= REFUND_OFFSET || cumulative.is_zero() {
            return None;
        }
        let sequence = self.s0 + u64::from(k);
        let mut hash = self.before_sequence.clone();
        hash.update(sequence.to_be_bytes());
        hash.update(&self.between);
        hash.update(cumulative.get().to_be_bytes());
        hash.update(&self.after_amount);
        Some(TxHash(hash.finalize().into()))
    }

    /// The payer's signature on claim `k`; `None` for a number or amount that no claim has.
    ///
    /// The caller has stored (k, cumulative) before, and never signs less than it ever signed (H2).
    pub fn sign(&self, key: &Keypair, k: u32, cumulative: Stroops) -> Option<Signature> {
        self.hash(k, cumulative).map(|hash| key.sign(&hash.0))
    }
}

/// Verifies the claims of one escrow, with E's key decompressed once.
#[derive(Clone)]
pub struct ClaimVerifier {
    key: VerifyingKey,
    claims: ClaimHasher,
}

impl ClaimVerifier {
    /// For the claims of `escrow`.
    ///
    /// # Errors
    /// When E is no sound key; never for terms that passed [`Escrow::new`].
    pub fn new(escrow: &Escrow) -> Result<ClaimVerifier, TermsError> {
        Ok(ClaimVerifier {
            key: VerifyingKey::from_bytes(&escrow.terms.escrow.0).map_err(|_| TermsError::BadKey)?,
            claims: ClaimHasher::new(escrow).map_err(|_| TermsError::SequenceBase)?,
        })
    }

    /// Whether this is the payer's signature on claim `k` of `cumulative`, in the strict sense that every ledger accepts.
    pub fn verify(&self, k: u32, cumulative: Stroops, signature: &Signature) -> bool {
        self.claims.hash(k, cumulative).is_some_and(|hash| {
            self.key
                .verify_strict(&hash.0, &DalekSignature::from_bytes(&signature.0))
                .is_ok()
        })
    }
}
