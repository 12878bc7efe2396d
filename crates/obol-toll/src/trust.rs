//! What a relay owes by trust, as it is signed (settlement.md, ADR 39).

use obol_cell::{AccountId, Asset, NetworkId, PeerId, SettlementMemo, Stroops, Writer};

/// A statement: "I owe you this much in all". Everything that its signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Statement {
    /// The ledger.
    pub network: NetworkId,
    /// The asset.
    pub asset: Asset,
    /// Who owes: its relay identity.
    pub payer: PeerId,
    /// To whom: its relay identity.
    pub payee: PeerId,
    /// The account that the payer settles from; its key signs.
    pub account: AccountId,
    /// The memo of the payer's settlements.
    pub memo: SettlementMemo,
    /// The statement's number.
    pub k: u32,
    /// What is owed in all, settled or not.
    pub cumulative: Stroops,
}

impl Statement {
    /// What is signed: a label that no other signature of that key begins with, and all fields.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(b"obol-trust-1")
            .bytes(&self.network.0)
            .bytes(&self.asset.to_bytes())
            .bytes(&self.payer.0)
            .bytes(&self.payee.0)
            .bytes(&self.account.0)
            .bytes(&self.memo.0)
            .u32(self.k)
            .stroops(self.cumulative);
        w.finish()
    }
}

/// A relay that may owe us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trusted {
    /// Its relay identity.
    pub peer: PeerId,
    /// The account that it signs with and settles from.
    pub account: AccountId,
    /// The most that may be unsettled; `None`: as configured for all.
    pub max_unsettled: Option<Stroops>,
}

/// One payment of what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwedPayment {
    /// The payee's account.
    pub account: AccountId,
    /// How much of the asset.
    pub amount: Stroops,
}

/// What the ledger has to show before a settlement counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExpectedPayment {
    /// The source of its payments.
    pub from: AccountId,
    /// Their destination.
    pub to: AccountId,
    /// The transaction's memo, a hash.
    pub memo: SettlementMemo,
}

/// Why a settlement does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPaid {
    /// No closed ledger has it (yet).
    #[error("no such transaction in a closed ledger")]
    Absent,
    /// The ledger could not be asked.
    #[error("the ledger could not be asked")]
    Unreachable,
    /// It failed, or has another memo, or pays from or to another account, or another asset: final.
    #[error("the transaction is not the payment that was announced")]
    Wrong,
}
