//! The two secrets that escrow keys come from: the payee's (r of each escrow) and the payer's (E of each escrow).

use std::fmt;
use std::path::Path;

use hkdf::Hkdf;
use obol_cell::{EscrowTerms, NetworkId, SettlementMemo, Signature};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Escrow, TermsError};
use crate::key::{KeyFileError, Keypair};
use crate::tx::TxError;

/// A relay's escrow secret. Each relay has its own: sharing it between relays would let one claim be shown to both
/// (C1). Part of every backup, since without it no escrow can be flushed.
#[derive(Clone)]
pub struct EscrowSecret(Zeroizing<[u8; 32]>);

impl EscrowSecret {
    /// The secret of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> EscrowSecret {
        EscrowSecret(Zeroizing::new(bytes))
    }

    /// The secret of the file at `path`, in the form of a key file; where there is none, a new one is made.
    ///
    /// # Errors
    /// As [`Keypair::load_or_create`].
    pub fn load_or_create(path: &Path) -> Result<EscrowSecret, KeyFileError> {
        Keypair::load_or_create(path).map(|key| EscrowSecret(key.seed()))
    }

    /// r for these terms: HKDF-SHA-256 with `"obol-escrow-1" | network id | asset | relay identity | payee account | E |
    /// S0 | expiry | minimum deposit` as info (C1). A signature of r under other terms is then worthless.
    pub fn signer(&self, terms: &EscrowTerms) -> Keypair {
        let mut info = Vec::with_capacity(13 + 196);
        info.extend_from_slice(b"obol-escrow-1");
        info.extend_from_slice(&terms.network.0);
        info.extend_from_slice(&terms.asset.to_bytes());
        info.extend_from_slice(&terms.payee.0);
        info.extend_from_slice(&terms.payee_account.0);
        info.extend_from_slice(&terms.escrow.0);
        info.extend_from_slice(&terms.s0.to_be_bytes());
        info.extend_from_slice(&terms.expiry.to_be_bytes());
        info.extend_from_slice(&terms.min_deposit.get().to_be_bytes());
        derive(&self.0, &info)
    }

    /// The escrow of these terms, with our r.
    ///
    /// # Errors
    /// When no transactions can be built from the terms.
    pub fn escrow(&self, terms: EscrowTerms) -> Result<Escrow, TermsError> {
        Escrow::new(terms, self.signer(&terms).account())
    }

    /// Accepts an offer: the escrow with our r, and r's signature on its refund.
    ///
    /// Nothing is remembered: an offer that is never opened costs nothing. That the terms suit us is checked before,
    /// by obol-toll's node.
    ///
    /// # Errors
    /// When no transactions can be built from the terms.
    pub fn accept(&self, terms: EscrowTerms) -> Result<(Escrow, Signature), TermsError> {
        let signer = self.signer(&terms);
        let escrow = Escrow::new(terms, signer.account())?;
        let refund = escrow.refund().and_then(|tx| tx.hash(terms.network));
        match refund {
            Ok(hash) => Ok((escrow, signer.sign(&hash.0))),
            Err(TxError::Asset(e)) => Err(TermsError::Asset(e)),
            // One operation is never too long, and nothing else can fail.
            Err(_) => Err(TermsError::SequenceBase),
        }
    }
}

impl fmt::Debug for EscrowSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EscrowSecret(..)")
    }
}

/// The secret from which a payer derives the key of each escrow account E, so that a backup of it and of the list of
/// nonces is enough to get every deposit back.
#[derive(Clone)]
pub struct PayerSecret(Zeroizing<[u8; 32]>);

impl PayerSecret {
    /// The secret of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> PayerSecret {
        PayerSecret(Zeroizing::new(bytes))
    }

    /// The secret of the file at `path`, in the form of a key file; where there is none, a new one is made.
    ///
    /// # Errors
    /// As [`Keypair::load_or_create`].
    pub fn load_or_create(path: &Path) -> Result<PayerSecret, KeyFileError> {
        Keypair::load_or_create(path).map(|key| PayerSecret(key.seed()))
    }

    /// The key of the escrow account with this nonce: 32 random bytes that the journal holds before the key is used,
    /// never used twice.
    pub fn escrow_key(&self, network: NetworkId, nonce: &[u8; 32]) -> Keypair {
        let mut info = Vec::with_capacity(12 + 64);
        info.extend_from_slice(b"obol-payer-1");
        info.extend_from_slice(&network.0);
        info.extend_from_slice(nonce);
        derive(&self.0, &info)
    }

    /// The key of the one-time account with this number, which funds escrows in place of the wallet (C4).
    pub fn funding_key(&self, network: NetworkId, number: u64) -> Keypair {
        let mut info = Vec::with_capacity(14 + 40);
        info.extend_from_slice(b"obol-funding-1");
        info.extend_from_slice(&network.0);
        info.extend_from_slice(&number.to_be_bytes());
        derive(&self.0, &info)
    }

    /// The memo of all settlements of what is owed by trust (ADR 39): the same after every restart, and to whoever does not have
    /// this secret 32 random bytes.
    pub fn trust_memo(&self, network: NetworkId) -> SettlementMemo {
        let mut info = Vec::with_capacity(17 + 32);
        info.extend_from_slice(b"obol-trust-memo-1");
        info.extend_from_slice(&network.0);
        let mut memo = [0u8; 32];
        expand(&self.0, &info, &mut memo);
        SettlementMemo(memo)
    }
}

impl fmt::Debug for PayerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayerSecret(..)")
    }
}

fn derive(secret: &[u8; 32], info: &[u8]) -> Keypair {
    let mut seed = Zeroizing::new([0u8; 32]);
    expand(secret, info, &mut seed);
    Keypair::from_seed(&seed)
}

fn expand(secret: &[u8; 32], info: &[u8], into: &mut [u8; 32]) {
    Hkdf::<Sha256>::new(None, secret)
        .expand(info, into)
        .expect("32 bytes are less than HKDF-SHA-256 can give");
}
