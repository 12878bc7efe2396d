//! A relay that lies: its machine is an honest one, what it says on the wire is not.

use super::world::{RelayId, Sim};
use crate::ids::CircuitId;
use crate::payer::meter::{CELL, WINDOW};
use obol_cell::{Balance, EscrowState, LinkMessage, RefuseCode, Stroops, ToOrigin};

/// What it says of an escrow that pays it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Books {
    True,
    /// Nothing of it is free, whatever came back.
    NothingFree,
    /// All of it is free: whatever was paid was never used.
    AllFree,
    /// The newest claim never came.
    NotStored,
    Unknown,
    Closing,
}

/// How a relay lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It keeps what it should pass on, says that it does not, and tells these books.
    Keeps {
        code: RefuseCode,
        /// How many hops before the next one it says that the refusal was made.
        distance: u8,
        books: Books,
    },
    /// It says that it metered more, by so much that the client can believe it and the other hops sell the steps.
    Inflates,
}

impl Books {
    pub(crate) const ALL: [Books; 6] = [
        Books::True,
        Books::NothingFree,
        Books::AllFree,
        Books::NotStored,
        Books::Unknown,
        Books::Closing,
    ];

    fn tell(self, mut balance: Balance, amount: Stroops) -> Balance {
        match self {
            Books::True => {}
            Books::NothingFree => balance.unallocated = Stroops::ZERO,
            Books::AllFree => balance.unallocated = balance.cumulative,
            Books::NotStored => {
                balance.newest_k = balance.newest_k.saturating_sub(1);
                balance.cumulative = balance.cumulative.saturating_sub(amount);
            }
            Books::Unknown => balance.state = EscrowState::Unknown,
            Books::Closing => balance.state = EscrowState::Closing,
        }
        balance
    }
}

impl Sim {
    fn lie_of(&self, relay: RelayId) -> Option<Lie> {
        self.liar.filter(|(liar, _)| *liar == relay).map(|(_, lie)| lie)
    }

    /// What leaves on a link instead of `message`.
    pub(crate) fn lies_on_link(&self, relay: RelayId, message: LinkMessage) -> Vec<LinkMessage> {
        match (self.lie_of(relay), message) {
            (Some(Lie::Keeps { code, distance, .. }), LinkMessage::LegPay(pay)) if !pay.allocations.is_empty() => {
                let refusals = pay.allocations.iter().map(|a| LinkMessage::LegRefused {
                    circuit: a.circuit,
                    n: a.n,
                    distance,
                    code,
                });
                refusals.collect()
            }
            (_, message) => vec![message],
        }
    }

    /// What a client is answered instead of `answer`.
    pub(crate) fn lies_to_client(&self, relay: RelayId, circuit: CircuitId, answer: ToOrigin) -> ToOrigin {
        let metered = self.relays[relay].circuits[&circuit].metered;
        let inflated = metered + metered / 11 + WINDOW * CELL * 7 / 10;
        match (self.lie_of(relay), answer) {
            (Some(Lie::Keeps { books, .. }), ToOrigin::Balance(balance)) => {
                let tunnel = self.relays[relay].circuits[&circuit].tunnel;
                let newest = self.tunnels.get(&tunnel).and_then(|t| t.allocations.values().last());
                ToOrigin::Balance(books.tell(balance, newest.copied().unwrap_or_default()))
            }
            (Some(Lie::Inflates), ToOrigin::Complete { n, paid, credit, .. }) => ToOrigin::Complete {
                n,
                metered: inflated,
                paid,
                credit,
            },
            (Some(Lie::Inflates), ToOrigin::PaymentRequest { id, paid, credit, .. }) => ToOrigin::PaymentRequest {
                id,
                metered: inflated,
                paid,
                credit,
            },
            (_, answer) => answer,
        }
    }
}
