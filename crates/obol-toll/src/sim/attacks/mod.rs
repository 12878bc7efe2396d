//! The attacks of the two design reviews, and those found while building, against what was built. Which test is for which
//! finding: docs/attacks.md.

mod first;
mod observer;
mod other;
mod second;
mod strangers;
mod third;

pub(in crate::sim) use first::*;
pub(in crate::sim) use other::*;
pub(in crate::sim) use second::*;
pub(in crate::sim) use third::*;

use crate::escrow::{Escrow, NotBelieved};
use crate::keys::PayeeKeys;
use crate::node::{Input, Output};
use crate::payer::Unpaid;
use crate::sim::desk::{CLIENT, Desk, NEXT, PREV, PRICE, books_query, close_escrow, leg_query};
use crate::sim::scenarios::ready;
use crate::sim::world::{Party, Plan};
use crate::sim::{Books, Lie, Sim, keys, s};
use obol_cell::{
    Allocation, DeclineCode, Declined, EscrowState, EscrowTerms, Forward, LinkMessage, LowWater, MAX_ALLOCATIONS,
    RefuseCode, Step, ToNode, ToOrigin, UNIT,
};

pub(super) const FIRST: Step = Step::FIRST;
pub(super) const MIB: u64 = 1 << 20;

pub(super) fn refused(answer: ToOrigin) -> (u16, u8, RefuseCode) {
    match answer {
        ToOrigin::Refused { n, distance, code } => (n, distance, code),
        other => panic!("{other:?}"),
    }
}

pub(super) fn complete(answer: ToOrigin) -> u16 {
    match answer {
        ToOrigin::Complete { n, .. } => n,
        other => panic!("{other:?}"),
    }
}

pub(super) fn pass(amount: i64) -> Forward {
    Forward::Pass(s(amount))
}

pub(super) fn signed(sim: &Sim) -> i64 {
    sim.clients[0].signed.values().map(|(_, c)| c.get()).sum()
}
