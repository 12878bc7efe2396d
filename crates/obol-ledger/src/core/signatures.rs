//! Signers, weights and thresholds, as stellar-core's `SignatureChecker`.

use ed25519_dalek::{Signature as DalekSignature, VerifyingKey};
use sha2::{Digest, Sha256};
use stellar_xdr::{
    AccountEntry, AccountId, DecoratedSignature, OperationBody, SetOptionsOp, Signer, SignerKey,
    SignerKeyEd25519SignedPayload, Uint256,
};

use super::account::raw_key;

/// The threshold an operation has to reach on its source account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Authorising trust, bumping a sequence, claiming; and being the source of a transaction.
    Low,
    /// Most operations.
    Medium,
    /// Merging; changing signers, weights or thresholds.
    High,
}

impl Threshold {
    /// The threshold of an operation.
    pub fn of(body: &OperationBody) -> Self {
        match body {
            OperationBody::AllowTrust(_)
            | OperationBody::SetTrustLineFlags(_)
            | OperationBody::BumpSequence(_)
            | OperationBody::ClaimClaimableBalance(_)
            | OperationBody::Inflation
            | OperationBody::ExtendFootprintTtl(_)
            | OperationBody::RestoreFootprint(_) => Self::Low,
            OperationBody::AccountMerge(_) => Self::High,
            OperationBody::SetOptions(SetOptionsOp {
                master_weight: None,
                low_threshold: None,
                med_threshold: None,
                high_threshold: None,
                signer: None,
                ..
            }) => Self::Medium,
            OperationBody::SetOptions(_) => Self::High,
            _ => Self::Medium,
        }
    }

    /// The weight this threshold asks for on `account`.
    pub fn needed(self, account: &AccountEntry) -> u32 {
        let [_, low, medium, high] = account.thresholds.0;
        u32::from(match self {
            Self::Low => low,
            Self::Medium => medium,
            Self::High => high,
        })
    }
}

/// Checks the signatures of one transaction, and remembers which of them were used.
#[derive(Debug)]
pub struct Checker<'t> {
    hash: [u8; 32],
    signatures: &'t [DecoratedSignature],
    used: Vec<bool>,
}

impl<'t> Checker<'t> {
    /// For the transaction with this hash.
    pub fn new(hash: [u8; 32], signatures: &'t [DecoratedSignature]) -> Self {
        Self {
            hash,
            signatures,
            used: vec![false; signatures.len()],
        }
    }

    /// Whether every signature was needed by somebody.
    pub fn all_used(&self) -> bool {
        self.used.iter().all(|used| *used)
    }

    /// Whether the signatures reach `needed` on an account. Even a threshold of zero needs one valid signer.
    pub fn account(&mut self, account: &AccountEntry, needed: u32) -> bool {
        let mut signers = Vec::with_capacity(account.signers.len() + 1);
        let [master, ..] = account.thresholds.0;
        if master > 0 {
            signers.push(master_signer(&account.account_id, u32::from(master)));
        }
        signers.extend(account.signers.iter().cloned());
        self.check(signers, needed)
    }

    /// Whether the master key of an account that does not exist signed.
    pub fn missing_account(&mut self, id: &AccountId) -> bool {
        self.check(vec![master_signer(id, 1)], 0)
    }

    /// Whether every extra signer of the preconditions signed (CAP-21).
    pub fn extra_signers(&mut self, extra: &[SignerKey]) -> bool {
        if extra.is_empty() {
            return true;
        }
        let signers = extra
            .iter()
            .map(|key| Signer {
                key: key.clone(),
                weight: 1,
            })
            .collect();
        self.check(signers, extra.len() as u32)
    }

    fn check(&mut self, signers: Vec<Signer>, needed: u32) -> bool {
        let mut total: u32 = 0;
        let weight = |signer: &Signer| signer.weight.min(255);
        for signer in &signers {
            if let SignerKey::PreAuthTx(Uint256(hash)) = &signer.key
                && *hash == self.hash
            {
                total += weight(signer);
                if total >= needed {
                    return true;
                }
            }
        }
        let kinds: [fn(&SignerKey) -> bool; 3] = [
            |key| matches!(key, SignerKey::HashX(_)),
            |key| matches!(key, SignerKey::Ed25519(_)),
            |key| matches!(key, SignerKey::Ed25519SignedPayload(_)),
        ];
        for kind in kinds {
            let mut left: Vec<&Signer> = signers.iter().filter(|s| kind(&s.key)).collect();
            for (signature, used) in self.signatures.iter().zip(self.used.iter_mut()) {
                let Some(at) = left
                    .iter()
                    .position(|signer| verifies(signature, &signer.key, &self.hash))
                else {
                    continue;
                };
                *used = true;
                total += weight(left.remove(at));
                if total >= needed {
                    return true;
                }
            }
        }
        false
    }
}

fn master_signer(id: &AccountId, weight: u32) -> Signer {
    Signer {
        key: SignerKey::Ed25519(Uint256(*raw_key(id))),
        weight,
    }
}

fn hint(bytes: &[u8]) -> [u8; 4] {
    let mut out = [0; 4];
    let tail = bytes.get(bytes.len().saturating_sub(4)..).unwrap_or_default();
    for (to, from) in out.iter_mut().zip(tail) {
        *to = *from;
    }
    out
}

fn ed25519(key: &[u8; 32], message: &[u8], signature: &DecoratedSignature) -> bool {
    let Ok(bytes) = <[u8; 64]>::try_from(signature.signature.0.as_slice()) else {
        return false;
    };
    // Strict: like libsodium, which stellar-core uses, it refuses keys and points of small order.
    VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(message, &DalekSignature::from_bytes(&bytes)).is_ok())
}

fn verifies(signature: &DecoratedSignature, key: &SignerKey, hash: &[u8; 32]) -> bool {
    match key {
        SignerKey::Ed25519(Uint256(key)) => signature.hint.0 == hint(key) && ed25519(key, hash, signature),
        SignerKey::HashX(Uint256(image)) => {
            signature.hint.0 == hint(image) && Sha256::digest(signature.signature.0.as_slice()).as_slice() == image
        }
        SignerKey::Ed25519SignedPayload(SignerKeyEd25519SignedPayload {
            ed25519: Uint256(key),
            payload,
        }) => {
            let (a, b) = (hint(key), hint(payload.as_slice()));
            let both = [a[0] ^ b[0], a[1] ^ b[1], a[2] ^ b[2], a[3] ^ b[3]];
            signature.hint.0 == both && ed25519(key, payload.as_slice(), signature)
        }
        SignerKey::PreAuthTx(_) => false,
    }
}
