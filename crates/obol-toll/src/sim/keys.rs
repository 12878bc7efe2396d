//! A signature scheme for the simulation: a keyed hash that anybody can check and only the owner makes.

use crate::escrow::Escrow;
use crate::keys::{PayeeKeys, PayerKeys};
use crate::trust::Statement;
use obol_cell::{
    AccountId, EscrowId, EscrowTerms, OwnerAsks, Ownership, PeerId, SettlementMemo, Signature, Stroops, Writer,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// FNV-1a over the parts, spread over the length asked for. Not secure, and need not be: nobody here breaks it.
fn hash<const N: usize>(label: &str, parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    for (i, chunk) in out.chunks_mut(8).enumerate() {
        let mut h = 0xcbf2_9ce4_8422_2325u64 ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in label.bytes().chain(parts.iter().flat_map(|p| p.iter().copied())) {
            h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        h ^= h >> 29;
        chunk.copy_from_slice(&h.to_be_bytes()[..chunk.len()]);
    }
    out
}

fn terms(t: &EscrowTerms) -> Vec<u8> {
    let mut w = Writer::new();
    t.write(&mut w);
    w.finish()
}

/// E's signature on a claim.
pub(crate) fn claim(escrow: &Escrow, k: u32, cumulative: Stroops) -> Signature {
    let t = terms(&escrow.terms);
    Signature(hash(
        "claim",
        &[&t, &escrow.signer.0, &k.to_be_bytes(), &cumulative.get().to_be_bytes()],
    ))
}

/// r's signature on a refund.
pub(crate) fn refund(escrow: &Escrow) -> Signature {
    Signature(hash("refund", &[&terms(&escrow.terms), &escrow.signer.0]))
}

/// The signature of the account that a statement names.
pub(crate) fn statement(statement: &Statement) -> Signature {
    Signature(hash("statement", &[&statement.to_bytes()]))
}

/// E's signature on an ownership.
pub(crate) fn owner(ownership: &Ownership) -> Signature {
    Signature(hash("owner", &[&ownership.message()]))
}

/// E's signature on what is asked of `payee`, in the simulation's network.
pub(crate) fn owner_of(escrow: EscrowId, payee: PeerId, asks: OwnerAsks) -> Signature {
    owner(&Ownership {
        network: super::world::NETWORK,
        payee,
        escrow,
        asks,
    })
}

/// One party's keys.
#[derive(Debug, Clone)]
pub(crate) struct SimKeys {
    pub(crate) secret: u64,
    pub(crate) own: Rc<RefCell<BTreeSet<EscrowId>>>,
    /// How often a signature was checked.
    pub(crate) verified: Rc<RefCell<u64>>,
}

impl SimKeys {
    pub(crate) fn new(secret: u64) -> Self {
        SimKeys {
            secret,
            own: Rc::default(),
            verified: Rc::default(),
        }
    }

    /// The account that this party settles from, and its memo.
    pub(crate) fn settles(&self) -> (AccountId, SettlementMemo) {
        let secret = self.secret.to_be_bytes();
        (
            AccountId(hash("account", &[&secret])),
            SettlementMemo(hash("memo", &[&secret])),
        )
    }

    /// A fresh E of this party.
    pub(crate) fn fresh(&self, number: u64) -> EscrowId {
        let id = EscrowId(hash("E", &[&self.secret.to_be_bytes(), &number.to_be_bytes()]));
        self.own.borrow_mut().insert(id);
        id
    }
}

impl PayeeKeys for SimKeys {
    fn signer(&self, t: &EscrowTerms) -> AccountId {
        AccountId(hash("r", &[&self.secret.to_be_bytes(), &terms(t)]))
    }

    fn sign_refund(&self, escrow: &Escrow) -> Signature {
        refund(escrow)
    }

    fn verify_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops, signature: &Signature) -> bool {
        *self.verified.borrow_mut() += 1;
        *signature == claim(escrow, k, cumulative)
    }

    fn verify_statement(&self, stated: &Statement, signature: &Signature) -> bool {
        *self.verified.borrow_mut() += 1;
        *signature == statement(stated)
    }

    fn verify_owner(&self, ownership: &Ownership, signature: &Signature) -> bool {
        *self.verified.borrow_mut() += 1;
        *signature == owner(ownership)
    }
}

impl PayerKeys for SimKeys {
    fn sign_claim(&self, escrow: &Escrow, k: u32, cumulative: Stroops) -> Option<Signature> {
        self.own
            .borrow()
            .contains(&escrow.id())
            .then(|| claim(escrow, k, cumulative))
    }

    fn sign_owner(&self, ownership: &Ownership) -> Option<Signature> {
        self.own.borrow().contains(&ownership.escrow).then(|| owner(ownership))
    }

    fn verify_refund(&self, escrow: &Escrow, signature: &Signature) -> bool {
        *signature == refund(escrow)
    }

    fn settles_from(&self) -> Option<(AccountId, SettlementMemo)> {
        Some(self.settles())
    }

    fn sign_statement(&self, stated: &Statement) -> Option<Signature> {
        (self.settles() == (stated.account, stated.memo)).then(|| statement(stated))
    }
}
