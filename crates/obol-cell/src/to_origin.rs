//! Relay command 51: a hop's one answer to a 52 that asks.

use crate::ids::EscrowId;
use crate::terms::{EscrowAcceptance, Tariff};
use crate::units::Stroops;
use crate::wire::{DecodeError, Reader, Writer, kind};

/// The tariff as bound to this circuit, for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quote {
    /// Price terms: the same in every quote of this relay on this UTC day.
    pub tariff: Tariff,
    /// Whether this hop can pay the circuit's next hop now; `false` ends the chain here (2.1).
    pub next: bool,
    /// Credit that the circuit has now (of the initial credit), bytes.
    pub credit: u64,
    /// Until when a *new* circuit would get the same terms, unix seconds.
    pub valid_until: u64,
}

/// What the payee thinks of an escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EscrowState {
    /// It credits claims on it.
    Open,
    /// A flush is recorded, or due: only draws on the unallocated balance are accepted.
    Closing,
    /// It does not know it (never believed, or long settled).
    Unknown,
}

/// The payee's books on one escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Balance {
    /// The escrow.
    pub escrow: EscrowId,
    /// The newest claim it stored (0: none).
    pub newest_k: u32,
    /// That claim's amount.
    pub cumulative: Stroops,
    /// The part of it that no circuit has.
    pub unallocated: Stroops,
    /// Whether it may be used.
    pub state: EscrowState,
}

/// Why a payment was refused. Codes only: never ceilings or budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefuseCode {
    /// The payer has no money for it: at hop 1 the client's escrow, elsewhere the hop's own escrow with the next.
    NoFunds,
    /// A step that growth does not allow, or more forwarding than the ceiling.
    OverLimit,
    /// The halves did not meet in time, or do not fit each other.
    Failed,
    /// From hop 1 only: the escrow is being flushed.
    Closing,
}

impl RefuseCode {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            1 => Ok(RefuseCode::NoFunds),
            2 => Ok(RefuseCode::OverLimit),
            3 => Ok(RefuseCode::Failed),
            4 => Ok(RefuseCode::Closing),
            other => Err(DecodeError::Undefined {
                field: "refusal code",
                value: other.into(),
            }),
        }
    }

    pub(crate) fn write(self, w: &mut Writer) {
        w.u8(match self {
            RefuseCode::NoFunds => 1,
            RefuseCode::OverLimit => 2,
            RefuseCode::Failed => 3,
            RefuseCode::Closing => 4,
        });
    }
}

/// Why a question other than a payment is answered with no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeclineCode {
    /// Not payable now: no fresh ledger, no means for the fee, too many new escrows this minute. Later, perhaps.
    NotNow,
    /// Another ledger or asset.
    OtherMoney,
    /// Life, deposit or S0 outside the rules.
    OutsideRules,
    /// E exists already.
    Exists,
    /// This hop does not know that escrow (CloseEscrow).
    Unknown,
}

impl DeclineCode {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            1 => Ok(DeclineCode::NotNow),
            2 => Ok(DeclineCode::OtherMoney),
            3 => Ok(DeclineCode::OutsideRules),
            4 => Ok(DeclineCode::Exists),
            5 => Ok(DeclineCode::Unknown),
            other => Err(DecodeError::Undefined {
                field: "decline code",
                value: other.into(),
            }),
        }
    }

    pub(crate) fn write(self, w: &mut Writer) {
        w.u8(match self {
            DeclineCode::NotNow => 1,
            DeclineCode::OtherMoney => 2,
            DeclineCode::OutsideRules => 3,
            DeclineCode::Exists => 4,
            DeclineCode::Unknown => 5,
        });
    }
}

/// A no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Declined {
    /// Why.
    pub code: DeclineCode,
}

/// A message of relay command 51. Bytes are metered as RELAY cells of 514 bytes, both directions, since the circuit began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToOrigin {
    /// To `QuoteQuery`.
    Quote(Quote),
    /// To `OfferEscrow`.
    EscrowAccepted(EscrowAcceptance),
    /// To `BalanceQuery`.
    Balance(Balance),
    /// To `Listen`: "this circuit has used so much: buy the next step".
    PaymentRequest {
        /// The Listen's id.
        id: u16,
        /// Bytes sent on so far.
        metered: u64,
        /// Bytes bought here so far.
        paid: u64,
        /// Bytes still in the paid class.
        credit: u64,
    },
    /// To `Listen`: 30 s passed, or it was cancelled.
    Nothing {
        /// The Listen's id.
        id: u16,
    },
    /// To `Pay` at the last paid hop: the step is bought at every hop of the chain.
    Complete {
        /// The payment.
        n: u16,
        /// As in `PaymentRequest`.
        metered: u64,
        /// As in `PaymentRequest`, this step included.
        paid: u64,
        /// As in `PaymentRequest`, this step included.
        credit: u64,
    },
    /// To `Pay` at the last paid hop.
    Refused {
        /// The payment.
        n: u16,
        /// How many hops before the last paid one refused it: 0 for that one itself (2.8).
        distance: u8,
        /// Why.
        code: RefuseCode,
    },
    /// To `CloseEscrow`: it will be flushed; nothing more is accepted.
    Closing {
        /// The escrow.
        escrow: EscrowId,
        /// The newest claim that is stored.
        newest_k: u32,
    },
    /// To any question but `Listen`, `BalanceQuery` and `Pay`.
    Declined(Declined),
}

const QUOTE: u8 = 1;
const ACCEPTED: u8 = 2;
const BALANCE: u8 = 3;
const REQUEST: u8 = 4;
const NOTHING: u8 = 5;
const COMPLETE: u8 = 6;
const REFUSED: u8 = 7;
const CLOSING: u8 = 8;
const DECLINED: u8 = 9;

impl EscrowState {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            0 => Ok(EscrowState::Unknown),
            1 => Ok(EscrowState::Open),
            2 => Ok(EscrowState::Closing),
            other => Err(DecodeError::Undefined {
                field: "escrow state",
                value: other.into(),
            }),
        }
    }

    fn write(self, w: &mut Writer) {
        w.u8(match self {
            EscrowState::Unknown => 0,
            EscrowState::Open => 1,
            EscrowState::Closing => 2,
        });
    }
}

impl Balance {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Balance {
            escrow: EscrowId::read(r)?,
            newest_k: r.u32()?,
            cumulative: r.stroops()?,
            unallocated: r.stroops()?,
            state: EscrowState::read(r)?,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.bytes(&self.escrow.0)
            .u32(self.newest_k)
            .stroops(self.cumulative)
            .stroops(self.unallocated);
        self.state.write(w);
    }
}

impl ToOrigin {
    /// The body of the relay message, at most [`crate::MAX_CELL_BODY`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w;
        match self {
            ToOrigin::Quote(q) => {
                w = Writer::message(QUOTE);
                q.tariff.write(&mut w);
                w.bool(q.next).u64(q.credit).u64(q.valid_until);
            }
            ToOrigin::EscrowAccepted(a) => {
                w = Writer::message(ACCEPTED);
                a.write(&mut w);
            }
            ToOrigin::Balance(b) => {
                w = Writer::message(BALANCE);
                b.write(&mut w);
            }
            ToOrigin::PaymentRequest {
                id,
                metered,
                paid,
                credit,
            } => {
                w = Writer::message(REQUEST);
                w.u16(*id).u64(*metered).u64(*paid).u64(*credit);
            }
            ToOrigin::Nothing { id } => {
                w = Writer::message(NOTHING);
                w.u16(*id);
            }
            ToOrigin::Complete {
                n,
                metered,
                paid,
                credit,
            } => {
                w = Writer::message(COMPLETE);
                w.u16(*n).u64(*metered).u64(*paid).u64(*credit);
            }
            ToOrigin::Refused { n, distance, code } => {
                w = Writer::message(REFUSED);
                w.u16(*n).u8(*distance);
                code.write(&mut w);
            }
            ToOrigin::Closing { escrow, newest_k } => {
                w = Writer::message(CLOSING);
                w.bytes(&escrow.0).u32(*newest_k);
            }
            ToOrigin::Declined(d) => {
                w = Writer::message(DECLINED);
                d.code.write(&mut w);
            }
        }
        w.finish()
    }

    /// Reads a whole body.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let r_ = &mut r;
        let message = match kind(r_)? {
            QUOTE => ToOrigin::Quote(Quote {
                tariff: Tariff::read(r_)?,
                next: r_.bool("next")?,
                credit: r_.u64()?,
                valid_until: r_.u64()?,
            }),
            ACCEPTED => ToOrigin::EscrowAccepted(EscrowAcceptance::read(r_)?),
            BALANCE => ToOrigin::Balance(Balance::read(r_)?),
            REQUEST => ToOrigin::PaymentRequest {
                id: r_.u16()?,
                metered: r_.u64()?,
                paid: r_.u64()?,
                credit: r_.u64()?,
            },
            NOTHING => ToOrigin::Nothing { id: r_.u16()? },
            COMPLETE => ToOrigin::Complete {
                n: r_.u16()?,
                metered: r_.u64()?,
                paid: r_.u64()?,
                credit: r_.u64()?,
            },
            REFUSED => ToOrigin::Refused {
                n: r_.u16()?,
                distance: r_.u8()?,
                code: RefuseCode::read(r_)?,
            },
            CLOSING => ToOrigin::Closing {
                escrow: EscrowId::read(r_)?,
                newest_k: r_.u32()?,
            },
            DECLINED => ToOrigin::Declined(Declined {
                code: DeclineCode::read(r_)?,
            }),
            other => return Err(DecodeError::Kind(other)),
        };
        r.end()?;
        Ok(message)
    }
}
