//! Link command 200: what neighbour relays say to each other.

use crate::ids::{AccountId, Asset, EscrowId, NetworkId, SettlementMemo, Signature, TransactionId};
use crate::terms::{EscrowAcceptance, EscrowOffer, EscrowRules, OpeningTerms};
use crate::to_origin::{Balance, DeclineCode, RefuseCode};
use crate::units::Stroops;
use crate::wire::{DecodeError, Reader, Writer, kind};

/// The most allocations under one signature.
pub const MAX_ALLOCATIONS: usize = 64;
/// The longest body of a link message: a `LegPay` with terms and all its allocations.
pub const MAX_LINK_BODY: usize = 2 + 32 + 4 + 8 + 64 + 1 + 56 + 1 + MAX_ALLOCATIONS * Allocation::LEN;

/// The part of a `LegPay` that is for one circuit. 14 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Allocation {
    /// The circuit, by its id on this link.
    pub circuit: u32,
    /// The payment.
    pub n: u16,
    /// How much.
    pub amount: Stroops,
}

impl Allocation {
    const LEN: usize = 4 + 2 + 8;
}

/// A claim of the payer relay, and the circuits that it is for (none: the newest claim, repeated after a reconnect).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LegPay {
    /// The escrow.
    pub escrow: EscrowId,
    /// The claim's number.
    pub k: u32,
    /// What the payee may have had in all, by this claim; it may rise by less than the allocations (balance is used first).
    pub cumulative: Stroops,
    /// By E's key, on claim k.
    pub signature: Signature,
    /// Given until the payee has said that it knows the escrow.
    pub opening: Option<OpeningTerms>,
    /// At most [`MAX_ALLOCATIONS`], at most one for each circuit.
    pub allocations: Vec<Allocation>,
}

/// What the payer relay owes by trust in all, signed, and the circuits that the newest part is for (none: the newest statement,
/// repeated after a reconnect).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LegTrust {
    /// The statement's number, as of claims.
    pub k: u32,
    /// What is owed in all, settled or not.
    pub cumulative: Stroops,
    /// By which the payer's settlements are known.
    pub memo: SettlementMemo,
    /// By the key of the account that the payer settles from, on all of this and both relays' identities.
    pub signature: Signature,
    /// At most [`MAX_ALLOCATIONS`], at most one for each circuit.
    pub allocations: Vec<Allocation>,
}

/// The payee's books on what a relay that it trusts owes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrustBooks {
    /// Where it is to be paid; this account is used for nothing else.
    pub account: AccountId,
    /// The most that may be unsettled; nothing: the payer is not trusted any more.
    pub max_unsettled: Stroops,
    /// The number of the newest statement stored; zero: none.
    pub k: u32,
    /// Its sum.
    pub cumulative: Stroops,
    /// Its signature, by which its author knows it again; all zeros: none.
    pub signature: Signature,
    /// What of it no circuit has.
    pub unallocated: Stroops,
    /// What the ledger has shown to be paid.
    pub settled: Stroops,
}

/// A message of link command 200.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LinkMessage {
    /// Once in each direction, after NETINFO: on what terms this end is paid.
    LegHello {
        /// The ledger.
        network: NetworkId,
        /// The asset.
        asset: Asset,
        /// What it asks of an escrow; binds new ones only.
        rules: EscrowRules,
    },
    /// Payer to payee: will you be payee of this escrow?
    LegOffer(EscrowOffer),
    /// Payee to payer.
    LegAccepted(EscrowAcceptance),
    /// Payee to payer: no.
    LegDeclined {
        /// The escrow that was offered.
        escrow: EscrowId,
        /// Why.
        code: DeclineCode,
    },
    /// Payer to payee: a claim, with allocations.
    LegPay(LegPay),
    /// Payer to payee: what do you hold of this escrow? With the terms until the payee has said that it knows it, so that it
    /// reads the escrow before the first payment.
    LegQuery {
        /// The escrow.
        escrow: EscrowId,
        /// See above.
        opening: Option<OpeningTerms>,
        /// By E's key, on [`crate::OwnerAsks::Books`]: an escrow becomes the peer's whose question is believed first.
        owner: Signature,
    },
    /// Payee to payer: its books on the escrow. The answer to a `LegQuery` and to a `LegPay` without allocations, and said
    /// when a `LegPay` cannot be credited or the escrow begins to close.
    LegBalance(Balance),
    /// Payer to payee: payment `n` of this circuit will not come.
    LegRefused {
        /// The circuit, by its id on this link.
        circuit: u32,
        /// The payment.
        n: u16,
        /// How many hops back the refusal was made: 1 from its author.
        distance: u8,
        /// Why.
        code: RefuseCode,
    },
    /// Payer to payee: flush this escrow soon; nothing more will be signed on it than claim `final_k`.
    LegClose {
        /// The escrow.
        escrow: EscrowId,
        /// The last claim.
        final_k: u32,
    },
    /// Payee to payer: you are trusted, or were; these are my books. After the `LegHello`, as the answer to a `LegTrust` without
    /// allocations, and when a `LegTrust` cannot be credited.
    LegTrusted(TrustBooks),
    /// Payer to payee: a statement of what is owed, with allocations.
    LegTrust(LegTrust),
    /// Payer to payee: this much of what I owe was paid by this transaction. Repeated on every new link until it is confirmed.
    LegPaid {
        /// The transaction.
        transaction: TransactionId,
        /// What it paid to the payee.
        amount: Stroops,
    },
    /// Payee to payer: the ledger has shown this transaction.
    LegSettled {
        /// The transaction.
        transaction: TransactionId,
        /// What all transactions so far have paid.
        total: Stroops,
    },
}

const HELLO: u8 = 1;
const OFFER: u8 = 2;
const ACCEPTED: u8 = 3;
const DECLINED: u8 = 4;
const PAY: u8 = 5;
const BALANCE: u8 = 6;
const REFUSED: u8 = 7;
const CLOSE: u8 = 8;
const QUERY: u8 = 9;
const TRUSTED: u8 = 10;
const TRUST: u8 = 11;
const PAID: u8 = 12;
const SETTLED: u8 = 13;

fn read_opening(r: &mut Reader<'_>) -> Result<Option<OpeningTerms>, DecodeError> {
    if r.bool("opening terms")? {
        OpeningTerms::read(r).map(Some)
    } else {
        Ok(None)
    }
}

impl LegPay {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let escrow = EscrowId::read(r)?;
        let (k, cumulative, signature) = (r.u32()?, r.stroops()?, Signature::read(r)?);
        let opening = if r.bool("opening terms")? {
            Some(OpeningTerms::read(r)?)
        } else {
            None
        };
        let allocations = read_allocations(r)?;
        Ok(LegPay {
            escrow,
            k,
            cumulative,
            signature,
            opening,
            allocations,
        })
    }

    fn write(&self, w: &mut Writer) {
        w.bytes(&self.escrow.0)
            .u32(self.k)
            .stroops(self.cumulative)
            .bytes(&self.signature.0);
        w.bool(self.opening.is_some());
        if let Some(opening) = &self.opening {
            opening.write(w);
        }
        write_allocations(&self.allocations, w);
    }
}

fn read_allocations(r: &mut Reader<'_>) -> Result<Vec<Allocation>, DecodeError> {
    let count = usize::from(r.u8()?);
    if count > MAX_ALLOCATIONS {
        return Err(DecodeError::Undefined {
            field: "count of allocations",
            value: count as u64,
        });
    }
    (0..count)
        .map(|_| {
            let (circuit, n, amount) = (r.u32()?, r.u16()?, r.stroops()?);
            if n == 0 {
                return Err(DecodeError::Undefined {
                    field: "payment number",
                    value: 0,
                });
            }
            Ok(Allocation { circuit, n, amount })
        })
        .collect()
}

fn write_allocations(allocations: &[Allocation], w: &mut Writer) {
    debug_assert!(allocations.len() <= MAX_ALLOCATIONS, "the payer splits its batches");
    w.u8(allocations.len() as u8);
    for a in allocations {
        w.u32(a.circuit).u16(a.n).stroops(a.amount);
    }
}

impl LegTrust {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(LegTrust {
            k: r.u32()?,
            cumulative: r.stroops()?,
            memo: SettlementMemo::read(r)?,
            signature: Signature::read(r)?,
            allocations: read_allocations(r)?,
        })
    }

    fn write(&self, w: &mut Writer) {
        w.u32(self.k)
            .stroops(self.cumulative)
            .bytes(&self.memo.0)
            .bytes(&self.signature.0);
        write_allocations(&self.allocations, w);
    }
}

impl TrustBooks {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(TrustBooks {
            account: AccountId::read(r)?,
            max_unsettled: r.stroops()?,
            k: r.u32()?,
            cumulative: r.stroops()?,
            signature: Signature::read(r)?,
            unallocated: r.stroops()?,
            settled: r.stroops()?,
        })
    }

    fn write(&self, w: &mut Writer) {
        w.bytes(&self.account.0).stroops(self.max_unsettled);
        w.u32(self.k).stroops(self.cumulative).bytes(&self.signature.0);
        w.stroops(self.unallocated).stroops(self.settled);
    }
}

impl LinkMessage {
    /// The body of the link cell, at most [`MAX_LINK_BODY`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w;
        match self {
            LinkMessage::LegHello { network, asset, rules } => {
                w = Writer::message(HELLO);
                w.bytes(&network.0).bytes(&asset.to_bytes());
                rules.write(&mut w);
            }
            LinkMessage::LegOffer(offer) => {
                w = Writer::message(OFFER);
                offer.write(&mut w);
            }
            LinkMessage::LegAccepted(acceptance) => {
                w = Writer::message(ACCEPTED);
                acceptance.write(&mut w);
            }
            LinkMessage::LegDeclined { escrow, code } => {
                w = Writer::message(DECLINED);
                w.bytes(&escrow.0);
                code.write(&mut w);
            }
            LinkMessage::LegPay(pay) => {
                w = Writer::message(PAY);
                pay.write(&mut w);
            }
            LinkMessage::LegQuery { escrow, opening, owner } => {
                w = Writer::message(QUERY);
                w.bytes(&escrow.0).bytes(&owner.0).bool(opening.is_some());
                if let Some(opening) = opening {
                    opening.write(&mut w);
                }
            }
            LinkMessage::LegBalance(balance) => {
                w = Writer::message(BALANCE);
                balance.write(&mut w);
            }
            LinkMessage::LegRefused {
                circuit,
                n,
                distance,
                code,
            } => {
                w = Writer::message(REFUSED);
                w.u32(*circuit).u16(*n).u8(*distance);
                code.write(&mut w);
            }
            LinkMessage::LegClose { escrow, final_k } => {
                w = Writer::message(CLOSE);
                w.bytes(&escrow.0).u32(*final_k);
            }
            LinkMessage::LegTrusted(books) => {
                w = Writer::message(TRUSTED);
                books.write(&mut w);
            }
            LinkMessage::LegTrust(statement) => {
                w = Writer::message(TRUST);
                statement.write(&mut w);
            }
            LinkMessage::LegPaid { transaction, amount } => {
                w = Writer::message(PAID);
                w.bytes(&transaction.0).stroops(*amount);
            }
            LinkMessage::LegSettled { transaction, total } => {
                w = Writer::message(SETTLED);
                w.bytes(&transaction.0).stroops(*total);
            }
        }
        w.finish()
    }

    /// Reads a whole body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let r = &mut reader;
        let message = match kind(r)? {
            HELLO => LinkMessage::LegHello {
                network: NetworkId::read(r)?,
                asset: Asset::read(r)?,
                rules: EscrowRules::read(r)?,
            },
            OFFER => LinkMessage::LegOffer(EscrowOffer::read(r)?),
            ACCEPTED => LinkMessage::LegAccepted(EscrowAcceptance::read(r)?),
            DECLINED => LinkMessage::LegDeclined {
                escrow: EscrowId::read(r)?,
                code: DeclineCode::read(r)?,
            },
            PAY => LinkMessage::LegPay(LegPay::read(r)?),
            QUERY => {
                let (escrow, owner) = (EscrowId::read(r)?, Signature::read(r)?);
                LinkMessage::LegQuery {
                    escrow,
                    opening: read_opening(r)?,
                    owner,
                }
            }
            BALANCE => LinkMessage::LegBalance(Balance::read(r)?),
            REFUSED => LinkMessage::LegRefused {
                circuit: r.u32()?,
                n: r.u16()?,
                distance: r.u8()?,
                code: RefuseCode::read(r)?,
            },
            CLOSE => LinkMessage::LegClose {
                escrow: EscrowId::read(r)?,
                final_k: r.u32()?,
            },
            TRUSTED => LinkMessage::LegTrusted(TrustBooks::read(r)?),
            TRUST => LinkMessage::LegTrust(LegTrust::read(r)?),
            PAID => LinkMessage::LegPaid {
                transaction: TransactionId::read(r)?,
                amount: r.stroops()?,
            },
            SETTLED => LinkMessage::LegSettled {
                transaction: TransactionId::read(r)?,
                total: r.stroops()?,
            },
            other => return Err(DecodeError::Kind(other)),
        };
        reader.end()?;
        Ok(message)
    }
}
