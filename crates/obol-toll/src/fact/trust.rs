//! Facts about what is owed by trust, on both sides (ADR 39).

use crate::ids::CircuitId;
use obol_cell::{AccountId, DecodeError, PeerId, Reader, SettlementMemo, Signature, Stroops, TransactionId, Writer};

/// What happened between a relay that trusts and one that owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustFact {
    // ---- we are owed ----
    /// A statement was stored (and its k is seen).
    Stated {
        /// Who owes.
        peer: PeerId,
        /// Its number.
        k: u32,
        /// What is owed in all.
        cumulative: Stroops,
        /// By which its settlements are known.
        memo: SettlementMemo,
        /// The payer's signature.
        signature: Signature,
    },
    /// A part of it was assigned to a circuit's payment.
    Allocated {
        /// Who owes it.
        peer: PeerId,
        /// The circuit.
        circuit: CircuitId,
        /// The payment.
        n: u16,
        /// How much.
        amount: Stroops,
    },
    /// It bought this relay's own bytes.
    Spent {
        /// Who owes it.
        peer: PeerId,
        /// The circuit.
        circuit: CircuitId,
        /// The payment.
        n: u16,
        /// How much.
        amount: Stroops,
        /// Bytes of credit; zero if escrow paid for a part of the step, whose fact has all of them.
        credit: u64,
    },
    /// The ledger has shown a settlement.
    Settled {
        /// Who paid.
        peer: PeerId,
        /// The transaction: counts once.
        transaction: TransactionId,
        /// How much arrived.
        amount: Stroops,
    },
    /// State instead of history, written by a snapshot.
    InState {
        /// Who owes.
        peer: PeerId,
        /// The highest k seen.
        newest_k: u32,
        /// Bit i: k = highest - i was seen.
        seen: [u8; 128],
        /// The sum of all allocations so far.
        allocated: Stroops,
    },
    // ---- we owe ----
    /// Where this payee is to be paid.
    Agreed {
        /// The payee.
        peer: PeerId,
        /// Its account.
        account: AccountId,
    },
    /// A statement was signed; stored before it leaves.
    Signed {
        /// The payee.
        peer: PeerId,
        /// Its number.
        k: u32,
        /// What is owed in all.
        cumulative: Stroops,
    },
    /// This will be paid on the ledger; stored before it is asked for. Payments with the same number are one transaction.
    Paying {
        /// The transaction's number; never used again.
        batch: u64,
        /// The payee.
        peer: PeerId,
        /// Its account.
        account: AccountId,
        /// How much.
        amount: Stroops,
    },
    /// The ledger has that transaction.
    Paid {
        /// Its number.
        batch: u64,
        /// Its hash.
        transaction: TransactionId,
    },
    /// That transaction will never be on the ledger.
    NotPaid {
        /// Its number.
        batch: u64,
    },
    /// The payee has seen what was paid to it.
    Confirmed {
        /// The payee.
        peer: PeerId,
        /// The transaction.
        transaction: TransactionId,
    },
    /// State instead of history, written by a snapshot: payments of long ago, all confirmed, and the next transaction's number.
    OldPayments {
        /// The payee.
        peer: PeerId,
        /// Their sum.
        amount: Stroops,
        /// The next transaction's number.
        next_batch: u64,
    },
    /// What was paid since a backup was made is known again.
    Found,
}

const STATED: u8 = 1;
const ALLOCATED: u8 = 2;
const SPENT: u8 = 3;
const SETTLED: u8 = 4;
const IN_STATE: u8 = 5;
const AGREED: u8 = 6;
const SIGNED: u8 = 7;
const PAYING: u8 = 8;
const PAID: u8 = 9;
const NOT_PAID: u8 = 10;
const CONFIRMED: u8 = 11;
const OLD_PAYMENTS: u8 = 12;
const FOUND: u8 = 13;

impl TrustFact {
    pub(super) fn write(&self, w: &mut Writer) {
        match self {
            TrustFact::Stated {
                peer,
                k,
                cumulative,
                memo,
                signature,
            } => {
                w.u8(STATED)
                    .bytes(&peer.0)
                    .u32(*k)
                    .stroops(*cumulative)
                    .bytes(&memo.0)
                    .bytes(&signature.0);
            }
            TrustFact::Allocated {
                peer,
                circuit,
                n,
                amount,
            } => {
                w.u8(ALLOCATED).bytes(&peer.0).u64(circuit.0).u16(*n).stroops(*amount);
            }
            TrustFact::Spent {
                peer,
                circuit,
                n,
                amount,
                credit,
            } => {
                w.u8(SPENT)
                    .bytes(&peer.0)
                    .u64(circuit.0)
                    .u16(*n)
                    .stroops(*amount)
                    .u64(*credit);
            }
            TrustFact::Settled {
                peer,
                transaction,
                amount,
            } => {
                w.u8(SETTLED).bytes(&peer.0).bytes(&transaction.0).stroops(*amount);
            }
            TrustFact::InState {
                peer,
                newest_k,
                seen,
                allocated,
            } => {
                w.u8(IN_STATE)
                    .bytes(&peer.0)
                    .u32(*newest_k)
                    .bytes(seen)
                    .stroops(*allocated);
            }
            TrustFact::Agreed { peer, account } => {
                w.u8(AGREED).bytes(&peer.0).bytes(&account.0);
            }
            TrustFact::Signed { peer, k, cumulative } => {
                w.u8(SIGNED).bytes(&peer.0).u32(*k).stroops(*cumulative);
            }
            TrustFact::Paying {
                batch,
                peer,
                account,
                amount,
            } => {
                w.u8(PAYING)
                    .u64(*batch)
                    .bytes(&peer.0)
                    .bytes(&account.0)
                    .stroops(*amount);
            }
            TrustFact::Paid { batch, transaction } => {
                w.u8(PAID).u64(*batch).bytes(&transaction.0);
            }
            TrustFact::NotPaid { batch } => {
                w.u8(NOT_PAID).u64(*batch);
            }
            TrustFact::Confirmed { peer, transaction } => {
                w.u8(CONFIRMED).bytes(&peer.0).bytes(&transaction.0);
            }
            TrustFact::OldPayments {
                peer,
                amount,
                next_batch,
            } => {
                w.u8(OLD_PAYMENTS).bytes(&peer.0).stroops(*amount).u64(*next_batch);
            }
            TrustFact::Found => {
                w.u8(FOUND);
            }
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            STATED => TrustFact::Stated {
                peer: PeerId::read(r)?,
                k: r.u32()?,
                cumulative: r.stroops()?,
                memo: SettlementMemo::read(r)?,
                signature: Signature::read(r)?,
            },
            ALLOCATED => TrustFact::Allocated {
                peer: PeerId::read(r)?,
                circuit: CircuitId(r.u64()?),
                n: r.u16()?,
                amount: r.stroops()?,
            },
            SPENT => TrustFact::Spent {
                peer: PeerId::read(r)?,
                circuit: CircuitId(r.u64()?),
                n: r.u16()?,
                amount: r.stroops()?,
                credit: r.u64()?,
            },
            SETTLED => TrustFact::Settled {
                peer: PeerId::read(r)?,
                transaction: TransactionId::read(r)?,
                amount: r.stroops()?,
            },
            IN_STATE => TrustFact::InState {
                peer: PeerId::read(r)?,
                newest_k: r.u32()?,
                seen: r.array()?,
                allocated: r.stroops()?,
            },
            AGREED => TrustFact::Agreed {
                peer: PeerId::read(r)?,
                account: AccountId::read(r)?,
            },
            SIGNED => TrustFact::Signed {
                peer: PeerId::read(r)?,
                k: r.u32()?,
                cumulative: r.stroops()?,
            },
            PAYING => TrustFact::Paying {
                batch: r.u64()?,
                peer: PeerId::read(r)?,
                account: AccountId::read(r)?,
                amount: r.stroops()?,
            },
            PAID => TrustFact::Paid {
                batch: r.u64()?,
                transaction: TransactionId::read(r)?,
            },
            NOT_PAID => TrustFact::NotPaid { batch: r.u64()? },
            CONFIRMED => TrustFact::Confirmed {
                peer: PeerId::read(r)?,
                transaction: TransactionId::read(r)?,
            },
            OLD_PAYMENTS => TrustFact::OldPayments {
                peer: PeerId::read(r)?,
                amount: r.stroops()?,
                next_batch: r.u64()?,
            },
            FOUND => TrustFact::Found,
            other => return Err(DecodeError::Kind(other)),
        })
    }
}

#[cfg(test)]
pub(super) fn all() -> Vec<TrustFact> {
    let (peer, circuit, amount) = (PeerId([6; 32]), CircuitId(u64::MAX), Stroops::MAX);
    let (account, transaction) = (AccountId([5; 32]), TransactionId([4; 32]));
    let (n, k, batch) = (3, 4, u64::MAX - 1);
    vec![
        TrustFact::Stated {
            peer,
            k,
            cumulative: amount,
            memo: SettlementMemo([1; 32]),
            signature: Signature([2; 64]),
        },
        TrustFact::Allocated {
            peer,
            circuit,
            n,
            amount,
        },
        TrustFact::Spent {
            peer,
            circuit,
            n,
            amount,
            credit: 5,
        },
        TrustFact::Settled {
            peer,
            transaction,
            amount,
        },
        TrustFact::InState {
            peer,
            newest_k: k,
            seen: [9; 128],
            allocated: amount,
        },
        TrustFact::Agreed { peer, account },
        TrustFact::Signed {
            peer,
            k,
            cumulative: amount,
        },
        TrustFact::Paying {
            batch,
            peer,
            account,
            amount,
        },
        TrustFact::Paid { batch, transaction },
        TrustFact::NotPaid { batch },
        TrustFact::Confirmed { peer, transaction },
        TrustFact::OldPayments {
            peer,
            amount,
            next_batch: batch,
        },
        TrustFact::Found,
    ]
}
