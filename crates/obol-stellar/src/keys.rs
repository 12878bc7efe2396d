//! obol-toll's signatures, with the real transactions: each is built from the escrow's terms, here, and never taken from
//! anybody.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use obol_cell::{AccountId, EscrowId, EscrowTerms, NetworkId, Signature, Stroops};
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
}

/// The payer's keys: E of every escrow that was added. Clones share them.
#[derive(Clone)]
pub struct EscrowPayer {
    secret: PayerSecret,
    network: NetworkId,
    keys: Arc<Mutex<HashMap<EscrowId, Keypair>>>,
    hashers: Memory<obol_toll::Escrow, Arc<ClaimHasher>>,
}

impl EscrowPayer {
    /// With this secret, on this network, with no escrow yet.
    pub fn new(secret: PayerSecret, network: NetworkId) -> EscrowPayer {
        EscrowPayer {
            secret,
            network,
            keys: Arc::default(),
            hashers: Memory::default(),
        }
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

    fn verify_refund(&self, escrow: &obol_toll::Escrow, refund: &Signature) -> bool {
        Escrow::try_from(escrow).is_ok_and(|escrow| escrow.refund_is_signed(refund))
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
}

impl PayerKeys for RelayKeys {
    fn sign_claim(&self, escrow: &obol_toll::Escrow, k: u32, cumulative: Stroops) -> Option<Signature> {
        self.payer.sign_claim(escrow, k, cumulative)
    }
    fn verify_refund(&self, escrow: &obol_toll::Escrow, refund: &Signature) -> bool {
        self.payer.verify_refund(escrow, refund)
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
