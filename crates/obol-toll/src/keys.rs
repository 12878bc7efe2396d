//! What the machines need of cryptography. obol-stellar implements it with the real transactions; the simulation with a
//! keyed hash.
//!
//! Every signature is on a transaction that is determined by the [`Escrow`] and the numbers given here, or on an [`Ownership`]: an
//! implementation builds what it signs itself and never signs bytes that it was handed.

use crate::escrow::Escrow;
use crate::trust::Statement;
use obol_cell::{AccountId, EscrowTerms, Ownership, SettlementMemo, Signature, Stroops};

/// The payee's side.
pub trait PayeeKeys {
    /// r for these terms: an Ed25519 key from HKDF(relay escrow secret, terms) (settlement.md, C1). The same terms give the
    /// same r; other terms another.
    fn signer(&self, terms: &EscrowTerms) -> AccountId;

    /// r's signature on the refund of an escrow with these terms. `escrow.signer` is [`PayeeKeys::signer`] of the terms.
    fn sign_refund(&self, escrow: &Escrow) -> Signature;

    /// Whether `signature` is E's, on claim `k` over `cumulative` of this escrow. The expensive check: a message costs
    /// one, and messages are limited for each circuit.
    fn verify_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops, signature: &Signature) -> bool;

    /// Whether `signature` is by the key of `statement.account`, on [`Statement::to_bytes`]. As it is, nobody's statement is
    /// believed.
    fn verify_statement(&self, statement: &Statement, signature: &Signature) -> bool {
        let _ = (statement, signature);
        false
    }

    /// Whether `signature` is E's, on [`Ownership::message`]: who asks is the owner of the escrow.
    fn verify_owner(&self, ownership: &Ownership, signature: &Signature) -> bool;
}

/// The payer's side.
pub trait PayerKeys {
    /// E's signature on claim `k` over `cumulative`; `None` if this E's key is not (any more) at hand. Must be a function of
    /// its arguments: a repeated claim is signed again, and must come out the same.
    fn sign_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops) -> Option<Signature>;

    /// E's signature on [`Ownership::message`]; `None` if this E's key is not (any more) at hand.
    fn sign_owner(&self, ownership: &Ownership) -> Option<Signature>;

    /// Whether `refund` is `escrow.signer`'s, on the refund of this escrow: checked before any money goes in.
    fn verify_refund(&self, escrow: &Escrow, refund: &Signature) -> bool;

    /// The account that settles what is owed by trust, and the memo of its settlements; `None`, as it is: nothing is owed by trust.
    fn settles_from(&self) -> Option<(AccountId, SettlementMemo)> {
        None
    }

    /// The signature of the account that settles, on [`Statement::to_bytes`]. A function of its argument, as claims are.
    fn sign_statement(&self, statement: &Statement) -> Option<Signature> {
        let _ = statement;
        None
    }
}
