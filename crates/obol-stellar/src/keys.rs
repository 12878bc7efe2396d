//! obol-toll's signatures, with the real transactions: each is built from the escrow's terms, here, and never taken from
//! anybody. An owner's signature is on no transaction, and longer than the hash of one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::{Signature as DalekSignature, VerifyingKey};
use obol_cell::{AccountId, EscrowId, EscrowTerms, NetworkId, Ownership, SettlementMemo, Signature, Stroops};
use obol_toll::trust::Statement;
use obol_toll::{PayeeKeys, PayerKeys};

use crate::escrow::{ClaimHasher, ClaimVerifier, Escrow, EscrowSecret, PayerSecret, TermsError};
use crate::key::Keypair;

/// Escrows whose constant parts are kept at once; beyond it the table starts anew, which costs time only.
const REMEMBERED: usize = 16 * 1024;

impl TryFrom<&obol_toll::Escrow> for Escrow {
    type Error = TermsError;

    fn try_from(escrow: &obol_toll::Escrow) -> Result<Escrow, TermsError> {
        Escrow::new(escrow.terms, escrow.signer)
    }
}

impl From<&Escrow> for obol_toll::Escrow {
    fn from(escrow: &Escrow) -> obol_toll::Escrow {
        obol_toll::Escrow {
            terms: *escrow.terms(),
            signer: escrow.signer(),
        }
    }
}

/// The payee's keys: r of every escrow, out of the relay's escrow secret. Clones share what they remember.
#[derive(Clone)]
pub struct EscrowPayee {
    secret: EscrowSecret,
    verifiers: Memory<obol_toll::Escrow, Arc<ClaimVerifier>>,
}

impl EscrowPayee {
    /// With this secret.
    pub fn new(secret: EscrowSecret) -> EscrowPayee {
        EscrowPayee {
            secret,
            verifiers: Memory::default(),
        }
    }

    /// The secret, for a flush.
    pub fn secret(&self) -> &EscrowSecret {
        &self.secret
    }
}

impl PayeeKeys for EscrowPayee {
    fn signer(&self, terms: &EscrowTerms) -> AccountId {
        self.secret.signer(terms).account()
    }

    /// For terms that no refund can be built from, all zeros: a signature of nothing. Nobody can build any other
    /// transaction from them either.
    fn sign_refund(&self, escrow: &obol_toll::Escrow) -> Signature {
        self.secret
            .accept(escrow.terms)
            .map_or(Signature([0; 64]), |(_, refund)| refund)
    }

    fn verify_claim(&self, escrow: &obol_toll::Escrow, k: u32, cumulative: Stroops, signature: &Signature) -> bool {
        let verifier = self.verifiers.get_or_make(escrow, || {
            let escrow = Escrow::try_from(escrow).ok()?;
            ClaimVerifier::new(&escrow).ok().map(Arc::new)
        });
        verifier.is_some_and(|verifier| verifier.verify(k, cumulative, signature))
    }

    fn verify_statement(&self, statement: &Statement, signature: &Signature) -> bool {
        is_by(&statement.account.0, &statement.to_bytes(), signature)
    }

    fn verify_owner(&self, ownership: &Ownership, signature: &Signature) -> bool {
        is_by(&ownership.escrow.0, &ownership.message(), signature)
    }
}

/// Whether `signature` is by this key on this message, in the sense that all agree on.
fn is_by(key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        let signature = DalekSignature::from_bytes(&signature.0);
        key.verify_strict(message, &signature).is_ok()
    })
}

/// What settles what is owed by trust.
#[derive(Clone)]
struct Trust {
    account: Keypair,
    memo: SettlementMemo,
}

/// The payer's keys: E of every escrow that was added, and the account that settles what is owed by trust, if there is one.
/// Clones share the escrows.
#[derive(Clone)]
pub struct EscrowPayer {
    secret: PayerSecret,
    network: NetworkId,
    trust: Option<Trust>,
    keys: Arc<Mutex<HashMap<EscrowId, Keypair>>>,
    hashers: Memory<obol_toll::Escrow, Arc<ClaimHasher>>,
}

impl EscrowPayer {
    /// With this secret, on this network, with no escrow yet.
    pub fn new(secret: PayerSecret, network: NetworkId) -> EscrowPayer {
        EscrowPayer {
            secret,
            network,
            trust: None,
            keys: Arc::default(),
            hashers: Memory::default(),
        }
    }

    /// Owes by trust too, and settles from this account (ADR 39): its key signs what is owed. The memo of the settlements is
    /// [`PayerSecret::trust_memo`].
    #[must_use]
    pub fn with_trust_account(mut self, account: Keypair) -> EscrowPayer {
        let memo = self.secret.trust_memo(self.network);
        self.trust = Some(Trust { account, memo });
        self
    }

    /// The key of the account that settles what is owed by trust.
    pub fn trust_account(&self) -> Option<&Keypair> {
        self.trust.as_ref().map(|trust| &trust.account)
    }

    /// Adds the escrow account of a nonce: 32 random bytes, used once, durable before E is offered. After a restart all
    /// nonces in use are added again.
    pub fn add(&self, nonce: &[u8; 32]) -> EscrowId {
        let key = self.secret.escrow_key(self.network, nonce);
        let escrow = EscrowId(key.account().0);
        lock(&self.keys).insert(escrow, key);
        escrow
    }

    /// E's key, for the opening, the refund, the sweep and the merge.
    pub fn key(&self, escrow: &EscrowId) -> Option<Keypair> {
        lock(&self.keys).get(escrow).cloned()
    }

    /// Forgets an escrow: nothing more is signed on it.
    pub fn remove(&self, escrow: &EscrowId) {
        lock(&self.keys).remove(escrow);
    }

    /// The secret, for one-time funding accounts.
    pub fn secret(&self) -> &PayerSecret {
        &self.secret
    }
}

impl PayerKeys for EscrowPayer {
    fn sign_claim(&self, escrow: &obol_toll::Escrow, k: u32, cumulative: Stroops) -> Option<Signature> {
        let key = self.key(&escrow.terms.escrow)?;
        let hasher = self.hashers.get_or_make(escrow, || {
            let escrow = Escrow::try_from(escrow).ok()?;
            ClaimHasher::new(&escrow).ok().map(Arc::new)
        })?;
        // Ed25519 signatures are deterministic: a repeated claim is the same bytes.
        hasher.sign(&key, k, cumulative)
    }

    fn sign_owner(&self, ownership: &Ownership) -> Option<Signature> {
        if ownership.network != self.network {
            return None;
        }
        let key = self.key(&ownership.escrow)?;
        Some(key.sign(&ownership.message()))
    }

    fn verify_refund(&self, escrow: &obol_toll::Escrow, refund: &Signature) -> bool {
        Escrow::try_from(escrow).is_ok_and(|escrow| escrow.refund_is_signed(refund))
    }

    fn settles_from(&self) -> Option<(AccountId, SettlementMemo)> {
        let trust = self.trust.as_ref()?;
        Some((trust.account.account(), trust.memo))
    }

    /// `None` for another network, account or memo: only what this payer itself owes is signed.
    fn sign_statement(&self, statement: &Statement) -> Option<Signature> {
        let trust = self.trust.as_ref()?;
        let own = statement.network == self.network
            && statement.account == trust.account.account()
            && statement.memo == trust.memo;
        own.then(|| trust.account.sign(&statement.to_bytes()))
    }
}

/// Both sides' keys: what a relay has.
#[derive(Clone)]
pub struct RelayKeys {
    /// As payee.
    pub payee: EscrowPayee,
    /// As payer.
    pub payer: EscrowPayer,
}

impl PayeeKeys for RelayKeys {
    fn signer(&self, terms: &EscrowTerms) -> AccountId {
        self.payee.signer(terms)
    }
    fn sign_refund(&self, escrow: &obol_toll::Escrow) -> Signature {
        self.payee.sign_refund(escrow)
    }
    fn verify_claim(&self, escrow: &obol_toll::Escrow, k: u32, cumulative: Stroops, signature: &Signature) -> bool {
        self.payee.verify_claim(escrow, k, cumulative, signature)
    }
    fn verify_statement(&self, statement: &Statement, signature: &Signature) -> bool {
        self.payee.verify_statement(statement, signature)
    }
    fn verify_owner(&self, ownership: &Ownership, signature: &Signature) -> bool {
        self.payee.verify_owner(ownership, signature)
    }
}

impl PayerKeys for RelayKeys {
    fn sign_claim(&self, escrow: &obol_toll::Escrow, k: u32, cumulative: Stroops) -> Option<Signature> {
        self.payer.sign_claim(escrow, k, cumulative)
    }
    fn sign_owner(&self, ownership: &Ownership) -> Option<Signature> {
        self.payer.sign_owner(ownership)
    }
    fn verify_refund(&self, escrow: &obol_toll::Escrow, refund: &Signature) -> bool {
        self.payer.verify_refund(escrow, refund)
    }
    fn settles_from(&self) -> Option<(AccountId, SettlementMemo)> {
        self.payer.settles_from()
    }
    fn sign_statement(&self, statement: &Statement) -> Option<Signature> {
        self.payer.sign_statement(statement)
    }
}

/// A bounded table of things that are costly to make.
struct Memory<K, V>(Arc<Mutex<HashMap<K, V>>>);

impl<K, V> Clone for Memory<K, V> {
    fn clone(&self) -> Memory<K, V> {
        Memory(Arc::clone(&self.0))
    }
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Memory<K, V> {
        Memory(Arc::default())
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Memory<K, V> {
    fn get_or_make(&self, key: &K, make: impl FnOnce() -> Option<V>) -> Option<V> {
        if let Some(value) = lock(&self.0).get(key) {
            return Some(value.clone());
        }
        let value = make()?;
        let mut table = lock(&self.0);
        if table.len() >= REMEMBERED {
            table.clear();
        }
        table.insert(*key, value.clone());
        Some(value)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
