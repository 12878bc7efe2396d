//! Relay command 52: what a client says to one hop.

use crate::ids::{EscrowId, Signature};
use crate::terms::{EscrowOffer, OpeningTerms};
use crate::units::{Step, Stroops};
use crate::wire::{DecodeError, Reader, Writer, kind};

/// A claim of the client on its escrow with hop 1, and what it assigns to this circuit. 116 bytes, 172 with terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The escrow.
    pub escrow: EscrowId,
    /// The claim's number: its transaction has sequence S0 + k.
    pub k: u32,
    /// What the payee may have had in all, by this claim.
    pub cumulative: Stroops,
    /// The part for this circuit; the payer's unallocated balance is used where the cumulative rises by less.
    pub allocation: Stroops,
    /// By E's key, on claim k.
    pub signature: Signature,
    /// Given until the payee has said that it knows the escrow.
    pub opening: Option<OpeningTerms>,
}

/// What a hop does with the rest of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    /// This is the last paid hop: nothing is passed on, and it answers `Complete` or `Refused`.
    Last,
    /// Pass this on to the next hop; no answer from here. Zero: turn what is held for this circuit into credit (2.1).
    Pass(Stroops),
}

/// "Of what reaches you for payment `n`, pass this on; the rest buys `step` here."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pay {
    /// The payment's number on its circuit, from 1.
    pub n: u16,
    /// What it buys, at every hop of the chain.
    pub step: Step,
    /// What is passed on.
    pub forward: Forward,
    /// At hop 1, always; nowhere else.
    pub claim: Option<Claim>,
}

/// A message of relay command 52.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToNode {
    /// Your price for this circuit?
    QuoteQuery,
    /// To hop 1: will you be payee of this escrow?
    OfferEscrow(EscrowOffer),
    /// To hop 1: what do you hold of this escrow? With the terms until the payee has said that it knows it.
    BalanceQuery {
        /// The escrow.
        escrow: EscrowId,
        /// So that the payee can read the escrow from the ledger before the first payment.
        opening: Option<OpeningTerms>,
        /// By E's key, on [`crate::OwnerAsks::Books`].
        owner: Signature,
    },
    /// To the last paid hop: answer when this circuit's credit falls below `low` bytes.
    Listen {
        /// Repeated in the answer.
        id: u16,
        /// On the wire the power of two, one byte: 10 for 1 KiB up to 40.
        low: LowWater,
    },
    /// Answer the open `Listen` of this id now. No effect if there is none.
    Cancel {
        /// The Listen's id.
        id: u16,
    },
    /// A payment's part for this hop.
    Pay(Pay),
    /// To hop 1: flush this escrow soon; nothing more will be signed on it than claim `final_k`.
    CloseEscrow {
        /// The escrow.
        escrow: EscrowId,
        /// The last claim.
        final_k: u32,
        /// By E's key, on [`crate::OwnerAsks::Close`].
        owner: Signature,
    },
}

/// A low-water mark: a power of two, from 1 KiB to 1 TiB (2.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LowWater(u8);

impl LowWater {
    const MIN: u8 = 10;
    const MAX: u8 = 40;

    /// The smallest mark that is not below `bytes` (or the largest there is).
    pub fn at_least(bytes: u64) -> Self {
        let power = bytes
            .checked_next_power_of_two()
            .map_or(Self::MAX, |p| p.trailing_zeros() as u8);
        LowWater(power.clamp(Self::MIN, Self::MAX))
    }

    /// The largest mark that is not above `bytes` (or the smallest there is).
    pub fn at_most(bytes: u64) -> Self {
        let power = bytes.checked_ilog2().unwrap_or(0) as u8;
        LowWater(power.clamp(Self::MIN, Self::MAX))
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            p @ Self::MIN..=Self::MAX => Ok(LowWater(p)),
            other => Err(DecodeError::Undefined {
                field: "low-water mark",
                value: other.into(),
            }),
        }
    }
}

const QUOTE_QUERY: u8 = 1;
const OFFER: u8 = 2;
const BALANCE_QUERY: u8 = 3;
const LISTEN: u8 = 4;
const CANCEL: u8 = 5;
const PAY: u8 = 6;
const CLOSE: u8 = 7;

const PAY_LAST: u8 = 1;
const PAY_CLAIM: u8 = 2;
const PAY_OPENING: u8 = 4;

fn opening(r: &mut Reader<'_>, present: bool) -> Result<Option<OpeningTerms>, DecodeError> {
    if present {
        OpeningTerms::read(r).map(Some)
    } else {
        Ok(None)
    }
}

impl Pay {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = r.u8()?;
        if flags & !(PAY_LAST | PAY_CLAIM | PAY_OPENING) != 0 || flags & (PAY_CLAIM | PAY_OPENING) == PAY_OPENING {
            return Err(DecodeError::Undefined {
                field: "payment flags",
                value: flags.into(),
            });
        }
        let n = r.u16()?;
        if n == 0 {
            return Err(DecodeError::Undefined {
                field: "payment number",
                value: 0,
            });
        }
        let step = r.step()?;
        let forward = if flags & PAY_LAST != 0 {
            Forward::Last
        } else {
            Forward::Pass(r.stroops()?)
        };
        let claim = if flags & PAY_CLAIM != 0 {
            Some(Claim {
                escrow: EscrowId::read(r)?,
                k: r.u32()?,
                cumulative: r.stroops()?,
                allocation: r.stroops()?,
                signature: Signature::read(r)?,
                opening: opening(r, flags & PAY_OPENING != 0)?,
            })
        } else {
            None
        };
        Ok(Pay {
            n,
            step,
            forward,
            claim,
        })
    }

    fn write(&self, w: &mut Writer) {
        let mut flags = 0;
        if self.forward == Forward::Last {
            flags |= PAY_LAST;
        }
        if let Some(claim) = &self.claim {
            flags |= PAY_CLAIM;
            if claim.opening.is_some() {
                flags |= PAY_OPENING;
            }
        }
        w.u8(flags).u16(self.n).step(self.step);
        if let Forward::Pass(amount) = self.forward {
            w.stroops(amount);
        }
        if let Some(c) = &self.claim {
            w.bytes(&c.escrow.0)
                .u32(c.k)
                .stroops(c.cumulative)
                .stroops(c.allocation)
                .bytes(&c.signature.0);
            if let Some(opening) = &c.opening {
                opening.write(w);
            }
        }
    }
}

impl ToNode {
    /// The body of the relay message, at most [`crate::MAX_CELL_BODY`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w;
        match self {
            ToNode::QuoteQuery => w = Writer::message(QUOTE_QUERY),
            ToNode::OfferEscrow(offer) => {
                w = Writer::message(OFFER);
                offer.write(&mut w);
            }
            ToNode::BalanceQuery { escrow, opening, owner } => {
                w = Writer::message(BALANCE_QUERY);
                w.bytes(&escrow.0).bytes(&owner.0).bool(opening.is_some());
                if let Some(opening) = opening {
                    opening.write(&mut w);
                }
            }
            ToNode::Listen { id, low } => {
                w = Writer::message(LISTEN);
                w.u16(*id).u8(low.0);
            }
            ToNode::Cancel { id } => {
                w = Writer::message(CANCEL);
                w.u16(*id);
            }
            ToNode::Pay(pay) => {
                w = Writer::message(PAY);
                pay.write(&mut w);
            }
            ToNode::CloseEscrow { escrow, final_k, owner } => {
                w = Writer::message(CLOSE);
                w.bytes(&escrow.0).u32(*final_k).bytes(&owner.0);
            }
        }
        w.finish()
    }

    /// Reads a whole body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let message = match kind(&mut r)? {
            QUOTE_QUERY => ToNode::QuoteQuery,
            OFFER => ToNode::OfferEscrow(EscrowOffer::read(&mut r)?),
            BALANCE_QUERY => {
                let (escrow, owner) = (EscrowId::read(&mut r)?, Signature::read(&mut r)?);
                let present = r.bool("opening terms")?;
                ToNode::BalanceQuery {
                    escrow,
                    opening: opening(&mut r, present)?,
                    owner,
                }
            }
            LISTEN => ToNode::Listen {
                id: r.u16()?,
                low: LowWater::read(&mut r)?,
            },
            CANCEL => ToNode::Cancel { id: r.u16()? },
            PAY => ToNode::Pay(Pay::read(&mut r)?),
            CLOSE => ToNode::CloseEscrow {
                escrow: EscrowId::read(&mut r)?,
                final_k: r.u32()?,
                owner: Signature::read(&mut r)?,
            },
            other => return Err(DecodeError::Kind(other)),
        };
        r.end()?;
        Ok(message)
    }
}
