//! What must outlive a crash. A journal keeps these in order and gives them back to `restore`.
//!
//! A fact says what happened, not what the state is; replaying all of them gives the state at the crash. The encoding is
//! stable: a kind byte, then a fixed layout, big-endian; new kinds may be added, old ones never change.

mod trust;

pub use trust::TrustFact;

use crate::escrow::Escrow;
use crate::ids::CircuitId;
use obol_cell::{AccountId, DecodeError, EscrowId, EscrowTerms, PeerId, Reader, Signature, Stroops, Writer};

/// Who pays on an incoming escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A client, whoever it is.
    Client,
    /// A neighbour relay.
    Peer(PeerId),
}

/// A fact about an escrow that this party pays by: the same for relays and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutFact {
    /// The payee accepted; stored before it is opened.
    Accepted {
        /// The escrow.
        escrow: Escrow,
        /// What goes in.
        deposit: Stroops,
        /// r's signature on the refund.
        refund: Signature,
        /// The payee takes no payment in the last so many seconds before expiry.
        margin: u32,
        /// The payee.
        payee: PeerId,
        /// When it was accepted, unix seconds.
        since: u64,
    },
    /// It is on the ledger with this balance.
    Opened {
        /// E.
        escrow: EscrowId,
        /// Its balance.
        balance: Stroops,
    },
    /// It will not be opened.
    Abandoned {
        /// E.
        escrow: EscrowId,
    },
    /// A claim was signed; stored before it leaves.
    Signed {
        /// E.
        escrow: EscrowId,
        /// Its number.
        k: u32,
        /// Its amount.
        cumulative: Stroops,
    },
    /// Nothing more is signed on it beyond its cumulative amount.
    Closing {
        /// E.
        escrow: EscrowId,
    },
    /// The ledger shows its end.
    Ended {
        /// E.
        escrow: EscrowId,
        /// What the payee was paid.
        paid: Stroops,
    },
}

/// A fact of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeFact {
    /// The process began: every circuit before this is over; what was held for clients' circuits is theirs again.
    Restarted,
    /// An incoming escrow was read and believed.
    Believed {
        /// The escrow.
        escrow: Escrow,
        /// Who pays by it.
        owner: Owner,
        /// Its balance.
        balance: Stroops,
        /// Seconds before expiry in which it is not credited any more.
        margin: u32,
    },
    /// A claim was stored (and its k is seen).
    Claim {
        /// E.
        escrow: EscrowId,
        /// Its number.
        k: u32,
        /// Its amount.
        cumulative: Stroops,
        /// E's signature.
        signature: Signature,
    },
    /// Part of an escrow's claims was assigned to a circuit's payment, and is held for it until it is spent.
    Allocated {
        /// E.
        escrow: EscrowId,
        /// The circuit.
        circuit: CircuitId,
        /// The payment.
        n: u16,
        /// How much.
        amount: Stroops,
    },
    /// A payment was taken out of what is held for a circuit.
    Spent {
        /// The circuit.
        circuit: CircuitId,
        /// The payment.
        n: u16,
        /// What this relay earned: the step's cost, and its fee.
        earned: Stroops,
        /// What it owes to the next hop.
        forwarded: Stroops,
        /// Bytes of credit.
        credit: u64,
    },
    /// A client's circuit ended; what was held for it, and the unused part of what it bought, is its balance again.
    Returned {
        /// E.
        escrow: EscrowId,
        /// The circuit.
        circuit: CircuitId,
        /// How much.
        amount: Stroops,
    },
    /// A circuit ended; what is still held for it stays here.
    CircuitEnded {
        /// The circuit.
        circuit: CircuitId,
    },
    /// An incoming escrow takes nothing more: the payer asked for its flush, or its margin began.
    InClosing {
        /// E.
        escrow: EscrowId,
    },
    /// An incoming escrow will be flushed; stored before the flush is asked for.
    Flushing {
        /// E.
        escrow: EscrowId,
        /// The claim.
        k: u32,
    },
    /// That flush failed in a ledger.
    FlushFailed {
        /// E.
        escrow: EscrowId,
        /// The claim.
        k: u32,
    },
    /// An incoming escrow ended on the ledger with this amount.
    Settled {
        /// E.
        escrow: EscrowId,
        /// How much arrived.
        amount: Stroops,
    },
    /// About an outgoing escrow.
    Out(OutFact),
    /// About what is owed by trust.
    Trust(TrustFact),
    /// What is signed from here on is signed on this day.
    Day {
        /// Days since the epoch (UTC).
        day: u64,
    },
    /// State instead of history, written by a snapshot: what a peer was paid on a day of the last week.
    Volume {
        /// The payee.
        peer: PeerId,
        /// The day.
        day: u64,
        /// How much.
        amount: Stroops,
    },
    /// The facts before this are those of a backup (H13): nothing more is signed or credited on the escrows that they name.
    NewEpoch,
    /// State instead of history, written by a snapshot: sums over the whole life.
    Totals {
        /// Stored claims.
        claimed: Stroops,
        /// Signed claims.
        signed: Stroops,
        /// What stayed held.
        held: Stroops,
        /// Earned.
        earned: Stroops,
    },
    /// State instead of history, written by a snapshot: an incoming escrow's newest claim, window of seen k and sum of
    /// allocations.
    IncomingState {
        /// E.
        escrow: EscrowId,
        /// The highest k seen.
        newest_k: u32,
        /// Bit i: k = highest - i was seen.
        seen: [u8; 128],
        /// The sum of all allocations so far.
        allocated: Stroops,
    },
}

/// A fact of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayerFact {
    /// About an escrow.
    Out(OutFact),
    /// Spent against the budget, in all so far.
    Spent {
        /// The sum.
        total: Stroops,
    },
    /// The facts before this are those of a backup (H13): nothing more is signed on the escrows that they name.
    NewEpoch,
    /// The first thing is spent on a day.
    Day {
        /// The day, since 1970 (UTC).
        day: u32,
        /// What had been spent in all before it.
        before: Stroops,
    },
}

fn read_escrow(r: &mut Reader<'_>) -> Result<Escrow, DecodeError> {
    Ok(Escrow {
        terms: EscrowTerms::read(r)?,
        signer: AccountId::read(r)?,
    })
}

fn write_escrow(escrow: &Escrow, w: &mut Writer) {
    escrow.terms.write(w);
    w.bytes(&escrow.signer.0);
}

fn read_circuit(r: &mut Reader<'_>) -> Result<CircuitId, DecodeError> {
    Ok(CircuitId(r.u64()?))
}

const OUT_ACCEPTED: u8 = 1;
const OUT_OPENED: u8 = 2;
const OUT_ABANDONED: u8 = 3;
const OUT_SIGNED: u8 = 4;
const OUT_CLOSING: u8 = 5;
const OUT_ENDED: u8 = 6;

impl OutFact {
    fn write(&self, w: &mut Writer) {
        match self {
            OutFact::Accepted {
                escrow,
                deposit,
                refund,
                margin,
                payee,
                since,
            } => {
                w.u8(OUT_ACCEPTED);
                write_escrow(escrow, w);
                w.stroops(*deposit)
                    .bytes(&refund.0)
                    .u32(*margin)
                    .bytes(&payee.0)
                    .u64(*since);
            }
            OutFact::Opened { escrow, balance } => {
                w.u8(OUT_OPENED).bytes(&escrow.0).stroops(*balance);
            }
            OutFact::Abandoned { escrow } => {
                w.u8(OUT_ABANDONED).bytes(&escrow.0);
            }
            OutFact::Signed { escrow, k, cumulative } => {
                w.u8(OUT_SIGNED).bytes(&escrow.0).u32(*k).stroops(*cumulative);
            }
            OutFact::Closing { escrow } => {
                w.u8(OUT_CLOSING).bytes(&escrow.0);
            }
            OutFact::Ended { escrow, paid } => {
                w.u8(OUT_ENDED).bytes(&escrow.0).stroops(*paid);
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            OUT_ACCEPTED => OutFact::Accepted {
                escrow: read_escrow(r)?,
                deposit: r.stroops()?,
                refund: Signature::read(r)?,
                margin: r.u32()?,
                payee: PeerId::read(r)?,
                since: r.u64()?,
            },
            OUT_OPENED => OutFact::Opened {
                escrow: EscrowId::read(r)?,
                balance: r.stroops()?,
            },
            OUT_ABANDONED => OutFact::Abandoned {
                escrow: EscrowId::read(r)?,
            },
            OUT_SIGNED => OutFact::Signed {
                escrow: EscrowId::read(r)?,
                k: r.u32()?,
                cumulative: r.stroops()?,
            },
            OUT_CLOSING => OutFact::Closing {
                escrow: EscrowId::read(r)?,
            },
            OUT_ENDED => OutFact::Ended {
                escrow: EscrowId::read(r)?,
                paid: r.stroops()?,
            },
            other => return Err(DecodeError::Kind(other)),
        })
    }
}

const RESTARTED: u8 = 1;
const BELIEVED: u8 = 2;
const CLAIM: u8 = 3;
const ALLOCATED: u8 = 4;
const SPENT: u8 = 5;
const RETURNED: u8 = 6;
const CIRCUIT_ENDED: u8 = 7;
const FLUSHING: u8 = 8;
const FLUSH_FAILED: u8 = 9;
const SETTLED: u8 = 10;
const OUT: u8 = 11;
const INCOMING_STATE: u8 = 12;
const IN_CLOSING: u8 = 13;
const TOTALS: u8 = 14;
const TRUST: u8 = 17;
const DAY: u8 = 18;
const VOLUME: u8 = 19;
const NEW_EPOCH: u8 = 20;

impl NodeFact {
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            NodeFact::Restarted => {
                w.u8(RESTARTED);
            }
            NodeFact::Believed {
                escrow,
                owner,
                balance,
                margin,
            } => {
                w.u8(BELIEVED);
                write_escrow(escrow, &mut w);
                match owner {
                    Owner::Client => w.u8(0),
                    Owner::Peer(peer) => w.u8(1).bytes(&peer.0),
                };
                w.stroops(*balance).u32(*margin);
            }
            NodeFact::Claim {
                escrow,
                k,
                cumulative,
                signature,
            } => {
                w.u8(CLAIM)
                    .bytes(&escrow.0)
                    .u32(*k)
                    .stroops(*cumulative)
                    .bytes(&signature.0);
            }
            NodeFact::Allocated {
                escrow,
                circuit,
                n,
                amount,
            } => {
                w.u8(ALLOCATED).bytes(&escrow.0).u64(circuit.0).u16(*n).stroops(*amount);
            }
            NodeFact::Spent {
                circuit,
                n,
                earned,
                forwarded,
                credit,
            } => {
                w.u8(SPENT)
                    .u64(circuit.0)
                    .u16(*n)
                    .stroops(*earned)
                    .stroops(*forwarded)
                    .u64(*credit);
            }
            NodeFact::Returned {
                escrow,
                circuit,
                amount,
            } => {
                w.u8(RETURNED).bytes(&escrow.0).u64(circuit.0).stroops(*amount);
            }
            NodeFact::CircuitEnded { circuit } => {
                w.u8(CIRCUIT_ENDED).u64(circuit.0);
            }
            NodeFact::Totals {
                claimed,
                signed,
                held,
                earned,
            } => {
                w.u8(TOTALS)
                    .stroops(*claimed)
                    .stroops(*signed)
                    .stroops(*held)
                    .stroops(*earned);
            }
            NodeFact::InClosing { escrow } => {
                w.u8(IN_CLOSING).bytes(&escrow.0);
            }
            NodeFact::Flushing { escrow, k } => {
                w.u8(FLUSHING).bytes(&escrow.0).u32(*k);
            }
            NodeFact::FlushFailed { escrow, k } => {
                w.u8(FLUSH_FAILED).bytes(&escrow.0).u32(*k);
            }
            NodeFact::Settled { escrow, amount } => {
                w.u8(SETTLED).bytes(&escrow.0).stroops(*amount);
            }
            NodeFact::Out(out) => {
                w.u8(OUT);
                out.write(&mut w);
            }
            NodeFact::Trust(trust) => {
                w.u8(TRUST);
                trust.write(&mut w);
            }
            NodeFact::Day { day } => {
                w.u8(DAY).u64(*day);
            }
            NodeFact::Volume { peer, day, amount } => {
                w.u8(VOLUME).bytes(&peer.0).u64(*day).stroops(*amount);
            }
            NodeFact::NewEpoch => {
                w.u8(NEW_EPOCH);
            }
            NodeFact::IncomingState {
                escrow,
                newest_k,
                seen,
                allocated,
            } => {
                w.u8(INCOMING_STATE)
                    .bytes(&escrow.0)
                    .u32(*newest_k)
                    .bytes(seen)
                    .stroops(*allocated);
            }
        }
        w.finish()
    }

    /// From what was stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let fact = match r.u8()? {
            RESTARTED => NodeFact::Restarted,
            BELIEVED => {
                let escrow = read_escrow(r)?;
                let owner = if r.bool("owner")? {
                    Owner::Peer(PeerId::read(r)?)
                } else {
                    Owner::Client
                };
                NodeFact::Believed {
                    escrow,
                    owner,
                    balance: r.stroops()?,
                    margin: r.u32()?,
                }
            }
            CLAIM => NodeFact::Claim {
                escrow: EscrowId::read(r)?,
                k: r.u32()?,
                cumulative: r.stroops()?,
                signature: Signature::read(r)?,
            },
            ALLOCATED => NodeFact::Allocated {
                escrow: EscrowId::read(r)?,
                circuit: read_circuit(r)?,
                n: r.u16()?,
                amount: r.stroops()?,
            },
            SPENT => NodeFact::Spent {
                circuit: read_circuit(r)?,
                n: r.u16()?,
                earned: r.stroops()?,
                forwarded: r.stroops()?,
                credit: r.u64()?,
            },
            RETURNED => NodeFact::Returned {
                escrow: EscrowId::read(r)?,
                circuit: read_circuit(r)?,
                amount: r.stroops()?,
            },
            CIRCUIT_ENDED => NodeFact::CircuitEnded {
                circuit: read_circuit(r)?,
            },
            TOTALS => NodeFact::Totals {
                claimed: r.stroops()?,
                signed: r.stroops()?,
                held: r.stroops()?,
                earned: r.stroops()?,
            },
            IN_CLOSING => NodeFact::InClosing {
                escrow: EscrowId::read(r)?,
            },
            FLUSHING => NodeFact::Flushing {
                escrow: EscrowId::read(r)?,
                k: r.u32()?,
            },
            FLUSH_FAILED => NodeFact::FlushFailed {
                escrow: EscrowId::read(r)?,
                k: r.u32()?,
            },
            SETTLED => NodeFact::Settled {
                escrow: EscrowId::read(r)?,
                amount: r.stroops()?,
            },
            OUT => NodeFact::Out(OutFact::read(r)?),
            TRUST => NodeFact::Trust(TrustFact::read(r)?),
            DAY => NodeFact::Day { day: r.u64()? },
            VOLUME => NodeFact::Volume {
                peer: PeerId::read(r)?,
                day: r.u64()?,
                amount: r.stroops()?,
            },
            NEW_EPOCH => NodeFact::NewEpoch,
            INCOMING_STATE => NodeFact::IncomingState {
                escrow: EscrowId::read(r)?,
                newest_k: r.u32()?,
                seen: r.array()?,
                allocated: r.stroops()?,
            },
            other => return Err(DecodeError::Kind(other)),
        };
        reader.end()?;
        Ok(fact)
    }
}

const PAYER_OUT: u8 = 1;
const PAYER_SPENT: u8 = 2;
const PAYER_NEW_EPOCH: u8 = 3;
const PAYER_DAY: u8 = 4;

impl PayerFact {
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            PayerFact::Out(out) => {
                w.u8(PAYER_OUT);
                out.write(&mut w);
            }
            PayerFact::Spent { total } => {
                w.u8(PAYER_SPENT).stroops(*total);
            }
            PayerFact::NewEpoch => {
                w.u8(PAYER_NEW_EPOCH);
            }
            PayerFact::Day { day, before } => {
                w.u8(PAYER_DAY).u32(*day).stroops(*before);
            }
        }
        w.finish()
    }

    /// From what was stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let fact = match r.u8()? {
            PAYER_OUT => PayerFact::Out(OutFact::read(r)?),
            PAYER_SPENT => PayerFact::Spent { total: r.stroops()? },
            PAYER_NEW_EPOCH => PayerFact::NewEpoch,
            PAYER_DAY => PayerFact::Day {
                day: r.u32()?,
                before: r.stroops()?,
            },
            other => return Err(DecodeError::Kind(other)),
        };
        reader.end()?;
        Ok(fact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use obol_cell::{Asset, NetworkId};

    fn escrow() -> Escrow {
        let terms = EscrowTerms {
            network: NetworkId([1; 32]),
            asset: Asset {
                code: [2; 12],
                issuer: [3; 32],
            },
            payee: PeerId([4; 32]),
            payee_account: AccountId([5; 32]),
            escrow: EscrowId([6; 32]),
            s0: 7,
            expiry: 8,
            min_deposit: Stroops::MAX,
        };
        Escrow {
            terms,
            signer: AccountId([9; 32]),
        }
    }

    fn outs() -> Vec<OutFact> {
        let id = EscrowId([6; 32]);
        vec![
            OutFact::Accepted {
                escrow: escrow(),
                deposit: Stroops::MAX,
                refund: Signature([1; 64]),
                margin: 2,
                payee: PeerId([3; 32]),
                since: 4,
            },
            OutFact::Opened {
                escrow: id,
                balance: Stroops::MAX,
            },
            OutFact::Abandoned { escrow: id },
            OutFact::Signed {
                escrow: id,
                k: 5,
                cumulative: Stroops::MAX,
            },
            OutFact::Closing { escrow: id },
            OutFact::Ended {
                escrow: id,
                paid: Stroops::ZERO,
            },
        ]
    }

    fn facts() -> Vec<NodeFact> {
        let (id, circuit, amount) = (EscrowId([6; 32]), CircuitId(u64::MAX), Stroops::MAX);
        let mut facts = vec![
            NodeFact::Restarted,
            NodeFact::Believed {
                escrow: escrow(),
                owner: Owner::Client,
                balance: amount,
                margin: 1,
            },
            NodeFact::Believed {
                escrow: escrow(),
                owner: Owner::Peer(PeerId([7; 32])),
                balance: amount,
                margin: 1,
            },
            NodeFact::Claim {
                escrow: id,
                k: 1,
                cumulative: amount,
                signature: Signature([2; 64]),
            },
            NodeFact::Allocated {
                escrow: id,
                circuit,
                n: 3,
                amount,
            },
            NodeFact::Spent {
                circuit,
                n: 4,
                earned: amount,
                forwarded: Stroops::ZERO,
                credit: 5,
            },
            NodeFact::Returned {
                escrow: id,
                circuit,
                amount,
            },
            NodeFact::CircuitEnded { circuit },
            NodeFact::InClosing { escrow: id },
            NodeFact::Flushing { escrow: id, k: 6 },
            NodeFact::FlushFailed { escrow: id, k: 7 },
            NodeFact::Settled { escrow: id, amount },
            NodeFact::IncomingState {
                escrow: id,
                newest_k: 8,
                seen: [9; 128],
                allocated: amount,
            },
            NodeFact::Totals {
                claimed: amount,
                signed: amount,
                held: amount,
                earned: amount,
            },
        ];
        facts.extend(outs().into_iter().map(NodeFact::Out));
        facts.extend(trust::all().into_iter().map(NodeFact::Trust));
        facts.extend([
            NodeFact::Day { day: 1 },
            NodeFact::Volume {
                peer: PeerId([1; 32]),
                day: 2,
                amount,
            },
            NodeFact::NewEpoch,
        ]);
        facts
    }

    #[test]
    fn facts_are_read_as_they_were_written_and_in_no_other_length() {
        for fact in facts() {
            let bytes = fact.encode();
            assert_eq!(NodeFact::decode(&bytes), Ok(fact));
            for end in 0..bytes.len() {
                assert!(NodeFact::decode(&bytes[..end]).is_err());
            }
            assert!(NodeFact::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        let spent = PayerFact::Spent { total: Stroops::MAX };
        let before = Stroops::MAX;
        let day = PayerFact::Day { day: 20_779, before };
        for fact in outs()
            .into_iter()
            .map(PayerFact::Out)
            .chain([spent, PayerFact::NewEpoch, day])
        {
            let bytes = fact.encode();
            assert_eq!(PayerFact::decode(&bytes), Ok(fact));
            for end in 0..bytes.len() {
                assert!(PayerFact::decode(&bytes[..end]).is_err());
            }
            assert!(PayerFact::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn every_kind_of_fact_has_its_own_stable_first_byte() {
        let mut kinds: Vec<u8> = facts().iter().map(|f| f.encode()[0]).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, (1..=14).chain(17..=20).collect::<Vec<_>>());
        assert_eq!(
            NodeFact::CircuitEnded { circuit: CircuitId(1) }.encode(),
            [7, 0, 0, 0, 0, 0, 0, 0, 1]
        );
    }
}
