//! One circuit at one hop: its credit, and the payment in flight on it.
//!
//! A payment n has two halves: the client's `Pay n`, and the money: `LegPay n` from the hop before (at hop 1 the claim in the
//! `Pay` itself).
//!
//! ```text
//!            Pay n                  money n, or LegRefused n
//!  (idle) ---------> AwaitMoney(n) --------------------------> settle
//!     |                  | 4 s                                   |  \
//!     |  money n         v                                       |   v
//!     +---------> AwaitPay(n) --Pay n--> settle                  |  Done(n): credited and passed on
//!     |                  | 4 s                                   v
//!     |                  +-----------------------------------> Refused(n): the money is held
//!     |  LegRefused n                                            |   ^
//!     +---------> RefusedBefore(n) --Pay n-----------------------+---+-- Pay n again: held money counts, else AwaitMoney(n)
//! ```
//!
//! | message | where | what |
//! |---|---|---|
//! | any half of a lower n | anywhere | money is held; `Pay` to the last hop gets `Refused`, otherwise nothing |
//! | `Pay n` again | Done(n) | the stored answer |
//! | money n again | Done(n), Refused(n) | held |
//! | any half of a higher n | anywhere | begins that payment; what was in flight is given up, its money held |
//! | `Pay n, forward 0` | n not done | everything held becomes credit; Done(n) |

use crate::amounts::{Forwarded, Growth};
use crate::bucket::MessageBucket;
use crate::clock::UnixMillis;
use crate::holdings::Holdings;
use crate::ids::LinkId;
use obol_cell::{EscrowId, Forward, LowWater, PeerId, RefuseCode, Step, Stroops, Tariff};

/// How long half of a payment is held (2.6).
pub(crate) const HOLD_MS: u64 = 4_000;
/// How long a `Listen` stays open.
pub(crate) const LISTEN_MS: u64 = 30_000;

/// The client's half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) step: Step,
    pub(crate) forward: Forward,
}

/// Where the payment in flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No payment was ever seen.
    Idle,
    /// `resumed`: the payment was refused before, so money held already counts.
    AwaitMoney {
        order: Order,
        resumed: bool,
    },
    AwaitPay {
        arrived: Stroops,
    },
    /// The hop before refused; the client's half is not here yet.
    RefusedBefore {
        distance: u8,
        code: RefuseCode,
    },
    /// `by_link`: the hop before said so. `again`: it said so once more, after the client resumed there.
    Refused {
        distance: u8,
        code: RefuseCode,
        by_link: bool,
        again: Option<(u8, RefuseCode)>,
    },
    Done,
}

/// The answer of a finished payment, given again on repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payment {
    pub(crate) n: u16,
    pub(crate) phase: Phase,
    /// Set with `Done` at the last paid hop.
    pub(crate) answer: Option<Vec<u8>>,
}

/// An open long poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) id: u16,
    pub(crate) low: LowWater,
    pub(crate) until: UnixMillis,
}

/// Everything about one circuit.
#[derive(Debug, Clone)]
pub(crate) struct Circuit {
    /// Towards the client.
    pub(crate) prev: (LinkId, u32),
    /// Away from the client.
    pub(crate) next: Option<(LinkId, u32)>,
    /// The neighbour towards the client, if it is a relay; else this is hop 1.
    pub(crate) from: Option<PeerId>,
    /// Bound when the circuit began.
    pub(crate) tariff: Tariff,
    /// Bytes.
    pub(crate) initial: u64,
    /// Bytes.
    pub(crate) bought: u64,
    /// Bytes, as last reported.
    pub(crate) metered: u64,
    pub(crate) growth: Growth,
    pub(crate) forwarded: Forwarded,
    /// Money that arrived and was not spent.
    pub(crate) held: Holdings,
    /// What the hop before owes for it by trust, and was not spent. It buys this hop's own bytes, and never leaves as money (C2).
    pub(crate) owed: Stroops,
    /// At hop 1: what was paid for steps here, by escrow; the unused part goes back.
    pub(crate) paid: Holdings,
    pub(crate) payment: Payment,
    pub(crate) listen: Option<Listen>,
    pub(crate) messages: MessageBucket,
    /// The escrow that its next hop is paid by, and when it moves to that one's successor, once that was drawn.
    pub(crate) leg: Option<(EscrowId, Option<UnixMillis>)>,
    /// An allocation for its next hop waits for the next signature.
    pub(crate) batched: bool,
    /// Whether the journal has anything about this circuit.
    pub(crate) in_journal: bool,
    /// A `Destroy` is on its way: nothing more is answered.
    pub(crate) dead: bool,
}

impl Circuit {
    pub(crate) fn new(
        prev: (LinkId, u32),
        from: Option<PeerId>,
        tariff: Tariff,
        initial: u64,
        now: UnixMillis,
    ) -> Self {
        Circuit {
            prev,
            next: None,
            from,
            tariff,
            initial,
            bought: 0,
            metered: 0,
            growth: Growth::default(),
            forwarded: Forwarded::default(),
            held: Holdings::default(),
            owed: Stroops::ZERO,
            paid: Holdings::default(),
            payment: Payment {
                n: 0,
                phase: Phase::Idle,
                answer: None,
            },
            listen: None,
            messages: MessageBucket::new(now),
            leg: None,
            batched: false,
            in_journal: false,
            dead: false,
        }
    }

    /// Bytes still in the paid class.
    pub(crate) fn credit(&self) -> u64 {
        self.initial.saturating_add(self.bought).saturating_sub(self.metered)
    }

    /// Of that, what was paid for: initial credit is used first.
    pub(crate) fn unused(&self) -> u64 {
        self.bought.min(self.credit())
    }

    /// What is held for a payment that passes `forward` on: only what escrow secures can be passed on.
    pub(crate) fn at_hand(&self, forward: Stroops) -> Stroops {
        let secured = self.held.total();
        if forward.is_zero() {
            secured.checked_add(self.owed).unwrap_or(Stroops::MAX)
        } else {
            secured
        }
    }

    /// Takes note of the data plane's count; it never falls.
    pub(crate) fn meter(&mut self, metered: u64) {
        self.metered = self.metered.max(metered);
    }
}
