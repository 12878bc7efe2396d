//! The escrow between a payer and a payee (settlement.md): from its terms everything follows.
//!
//! ```text
//!   offer --> accept: r = HKDF(terms), r's signature on the refund
//!     |
//!   open (payer): CreateAccount(E), ChangeTrust(E), SetOptions(E: r, 2/2/2), Payment(P -> E)     sequence < S0
//!     |
//!     +-- claim k, signed by E's key, any number of times; the newest is all that counts
//!     |
//!   flush (payee): claim k + r's signature, in a fee bump      S0 + k   |   refund (payer), from T on   S0 + 2^31
//!     +-----------------------------------+-----------------------------------------+
//!                                         |
//!   sweep (payer): what is left           |        E's own key suffices from here on
//!   merge (payer): once the ledger has passed S0 >> 32
//! ```
//!
//! [`Escrow`] holds terms whose form was checked. No function here takes a transaction from elsewhere: both sides
//! build each one from the same terms, so what is signed is never anything else.

mod claims;
mod secret;
mod transactions;

pub use claims::{ClaimHasher, ClaimVerifier};
pub use secret::{EscrowSecret, PayerSecret};
pub use transactions::{ClaimError, MAX_OPENINGS, Opening};

use obol_cell::{AccountId, EscrowTerms};
use stellar_xdr as xdr;

use crate::asset::{NotAnAsset, asset_to_xdr};

/// Claim numbers are below this; the refund has S0 plus this as its sequence number, and so ends all claims.
pub const REFUND_OFFSET: u64 = 1 << 31;

/// How far in the future of the payer's ledger the sequence S0 lies: the opening has so many ledgers to happen in.
pub const LEDGERS_TO_OPEN: u32 = 60;

/// An escrow whose terms have a form that transactions can be built from, with the payee's signer r.
///
/// That the *values* suit the payee is [`crate::check`]'s business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escrow {
    terms: EscrowTerms,
    signer: AccountId,
    asset: xdr::Asset,
}

impl Escrow {
    /// An escrow of these terms, with `signer` as the payee's key on E.
    ///
    /// # Errors
    /// When no transactions can be built from the terms.
    pub fn new(terms: EscrowTerms, signer: AccountId) -> Result<Escrow, TermsError> {
        let asset = asset_to_xdr(&terms.asset)?;
        if terms.s0 & 0xffff_ffff != 0 {
            return Err(TermsError::SequenceBase);
        }
        // A ledger number, and room for the refund's offset in an int64.
        if terms.s0 == 0 || terms.s0 >> 32 >= 1 << 31 {
            return Err(TermsError::SequenceBase);
        }
        if i64::try_from(terms.expiry).is_err() || terms.expiry == 0 {
            return Err(TermsError::Expiry);
        }
        let e = terms.escrow.0;
        let issuer = terms.asset.issuer;
        if e == terms.payee_account.0 || e == issuer || terms.payee_account.0 == issuer || signer.0 == e {
            return Err(TermsError::SameKeys);
        }
        // The ledger accepts no signature of a weak key; a claim by it would be worthless.
        let sound = ed25519_dalek::VerifyingKey::from_bytes(&e).is_ok_and(|key| !key.is_weak());
        if !sound {
            return Err(TermsError::BadKey);
        }
        Ok(Escrow { terms, signer, asset })
    }

    /// The terms.
    pub fn terms(&self) -> &EscrowTerms {
        &self.terms
    }

    /// r: the payee's key on E, used for nothing else.
    pub fn signer(&self) -> AccountId {
        self.signer
    }

    /// E as an account.
    pub fn account(&self) -> AccountId {
        AccountId(self.terms.escrow.0)
    }

    /// S0 >> 32: the opening must be in a ledger before this one, the merge in a later one.
    pub fn base_ledger(&self) -> u32 {
        // Checked in `new`: below 2^31.
        (self.terms.s0 >> 32) as u32
    }

    /// The sequence number of claim `k`, or the refund's for [`REFUND_OFFSET`].
    fn sequence(&self, offset: u64) -> i64 {
        // Checked in `new`: S0 < 2^63 - 2^32, and offsets are at most 2^31.
        (self.terms.s0 + offset) as i64
    }

    /// Which claim, or the refund, a sequence number of E belongs to.
    pub(crate) fn used(&self, sequence: i64) -> Used {
        let Ok(sequence) = u64::try_from(sequence) else {
            return Used::Nothing;
        };
        match sequence.checked_sub(self.terms.s0) {
            None | Some(0) => Used::Nothing,
            Some(REFUND_OFFSET) => Used::Refund,
            Some(k) if k < REFUND_OFFSET => Used::Claim(k as u32),
            Some(_) => Used::Later,
        }
    }
}

/// How far E's sequence number has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Used {
    /// It is below all claims.
    Nothing,
    /// This claim was applied, whether it succeeded or failed.
    Claim(u32),
    /// The refund was applied.
    Refund,
    /// A sweep or merge after the refund.
    Later,
}

/// Terms that no transactions can be built from. Those of an offer come from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// The asset is none.
    #[error(transparent)]
    Asset(#[from] NotAnAsset),
    /// S0 is not a ledger number times 2^32.
    #[error("S0 is not a ledger number shifted by 32 bits")]
    SequenceBase,
    /// The expiry is no time.
    #[error("the expiry is not a time")]
    Expiry,
    /// E, the payee's account, the issuer and r are not four different keys.
    #[error("escrow, payee and issuer must be different accounts")]
    SameKeys,
    /// E is no Ed25519 key that a ledger accepts signatures of.
    #[error("the escrow account is not a sound Ed25519 key")]
    BadKey,
}
