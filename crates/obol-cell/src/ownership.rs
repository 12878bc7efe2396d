//! What the owner of an escrow signs when it asks about it.
//!
//! E and its balance are public on the ledger. Who names E is therefore not yet its owner: a question about an escrow, or the wish
//! to have it flushed, carries a signature of E's key. (A claim is one itself.)

use crate::ids::{EscrowId, NetworkId, PeerId};
use crate::wire::Writer;

/// What the owner asks of the payee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnerAsks {
    /// The payee's books on the escrow: `BalanceQuery`, `LegQuery`.
    Books,
    /// A flush, soon: `CloseEscrow`.
    Close {
        /// The last claim.
        final_k: u32,
    },
}

/// "I hold E's key, and ask this of this payee." Both ends make it of what they know; only the signature travels.
///
/// It holds for good, for one payee and one question: nobody but that payee ever sees it, and it needs no signature to look
/// into its own books or to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ownership {
    /// The ledger.
    pub network: NetworkId,
    /// Who is asked.
    pub payee: PeerId,
    /// The escrow whose key signs.
    pub escrow: EscrowId,
    /// For what.
    pub asks: OwnerAsks,
}

impl Ownership {
    /// What a signed message begins with.
    pub const LABEL: &'static [u8; 12] = b"obol-owner-1";
    /// Length of [`Ownership::message`], bytes.
    pub const LEN: usize = 12 + 32 + 32 + 32 + 1 + 4;

    /// The bytes that E's key signs: label, network id, payee's identity, E, 1 for the books or 2 for a flush, final k (0 for
    /// the books). Longer than the 32 bytes of a transaction's hash: never taken for one.
    pub fn message(&self) -> Vec<u8> {
        let (kind, final_k) = match self.asks {
            OwnerAsks::Books => (1, 0),
            OwnerAsks::Close { final_k } => (2, final_k),
        };
        let mut w = Writer::new();
        w.bytes(Self::LABEL).bytes(&self.network.0).bytes(&self.payee.0);
        w.bytes(&self.escrow.0).u8(kind).u32(final_k);
        w.finish()
    }
}
