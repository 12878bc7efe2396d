//! What the machines need of cryptography. obol-stellar implements it with the real transactions; the simulation with a
//! keyed hash.
//!
//! Every signature is on a transaction that is determined by the [`Escrow`] and the numbers given here: an implementation
//! builds the transaction itself and never signs bytes that it was handed.

use crate::escrow::Escrow;
use obol_cell::{AccountId, EscrowTerms, Signature, Stroops};

/// The payee's side.
pub trait PayeeKeys {
    /// r for these terms: an Ed25519 key from HKDF(relay escrow secret, terms) (settlement.md, C1). The same terms give the
    /// same r; other terms another.
    fn signer(&self, terms: &EscrowTerms) -> AccountId;

    /// r's signature on the refund of an escrow with these terms. `escrow.signer` is [`PayeeKeys::signer`] of the terms.
    fn sign_refund(&self, escrow: &Escrow) -> Signature;

    /// Whether `signature` is E's, on claim `k` over `cumulative` of this escrow. The expensive check: the machines make
    /// all others first.
    fn verify_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops, signature: &Signature) -> bool;
}

/// The payer's side.
pub trait PayerKeys {
    /// E's signature on claim `k` over `cumulative`; `None` if this E's key is not (any more) at hand. Must be a function of
    /// its arguments: a repeated claim is signed again, and must come out the same.
    fn sign_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops) -> Option<Signature>;

    /// Whether `refund` is `escrow.signer`'s, on the refund of this escrow: checked before any money goes in.
    fn verify_refund(&self, escrow: &Escrow, refund: &Signature) -> bool;
}
