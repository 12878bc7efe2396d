//! What is left of payments once the journal has failed: every question gets the protocol's own no.
//!
//! | asked | answer |
//! |---|---|
//! | `QuoteQuery`, `OfferEscrow`, `CloseEscrow` | `Declined {not now}`: the chain ends before this hop |
//! | `BalanceQuery`, `LegQuery`, `LegPay` | an unknown escrow: nothing is credited, it is asked again later |
//! | `Pay` to the last paid hop | `Refused {failed}`; a `Pay` without an answer gets none, and the last hop's clock refuses |
//! | `Listen` | `Nothing`, at once; a `Cancel` then has nothing to cancel |
//! | `LegOffer` | `LegDeclined {not now}` |
//!
//! New links are not greeted, so that relays at their other ends tell clients `next: none`. Nothing here remembers
//! anything: what is owed is what the journal has, and the next start goes on from there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use obol_cell::{
    Balance, DeclineCode, Declined, EscrowId, EscrowState, Forward, LinkMessage, RefuseCode, Stroops, ToNode, ToOrigin,
};
use obol_onion::engine::{CircuitId, LinkId, PaymentEvent};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metric, Metrics};
use crate::payments::plane::{DataPlane, Events};

/// Payment messages that a circuit may still send; beyond it is destroyed. No step can be bought that would refill it.
const MESSAGES: u8 = 16;

/// Refuses everything until `stop`, or until the data plane ends. `greeted`: links to relays that expect answers.
pub(super) async fn refuse<E: Events>(
    plane: Arc<dyn DataPlane>,
    mut events: E,
    mut greeted: HashSet<LinkId>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut asked: HashMap<CircuitId, u8> = HashMap::new();
    loop {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(event) => event,
                None => return,
            },
        };
        match event {
            PaymentEvent::Message { circuit, body, .. } => {
                let asked = asked.entry(circuit).or_default();
                *asked = asked.saturating_add(1);
                match ToNode::decode(&body) {
                    Ok(message) if *asked <= MESSAGES => {
                        if let Some(no) = no(&message) {
                            if matches!(no, ToOrigin::Refused { .. }) {
                                metrics.add(Metric::Refusals, &["failed"], 1);
                            }
                            plane.answer(circuit, &no.encode());
                        }
                    }
                    _ => plane.destroy(circuit),
                }
            }
            PaymentEvent::CircuitClosed { circuit, .. } => drop(asked.remove(&circuit)),
            PaymentEvent::LinkMessage { link, body } if greeted.contains(&link) => match LinkMessage::decode(&body) {
                Ok(message) => {
                    if let Some(no) = no_to_relay(&message) {
                        plane.send_link(link, &no.encode());
                    }
                }
                Err(_) => plane.close_link(link),
            },
            PaymentEvent::LinkDown { link } => drop(greeted.remove(&link)),
            PaymentEvent::LinkMessage { .. }
            | PaymentEvent::LinkUp { .. }
            | PaymentEvent::LinkJudged { .. }
            | PaymentEvent::CircuitOpened { .. }
            | PaymentEvent::CircuitExtended { .. }
            | PaymentEvent::CreditLow { .. } => {}
        }
    }
}

/// The answer to a client's message, if it waits for one.
fn no(message: &ToNode) -> Option<ToOrigin> {
    match message {
        ToNode::QuoteQuery | ToNode::OfferEscrow(_) | ToNode::CloseEscrow { .. } => {
            Some(ToOrigin::Declined(Declined {
                code: DeclineCode::NotNow,
            }))
        }
        ToNode::BalanceQuery { escrow, .. } => Some(ToOrigin::Balance(unknown(*escrow))),
        ToNode::Pay(pay) if pay.forward == Forward::Last => Some(ToOrigin::Refused {
            n: pay.n,
            distance: 0,
            code: RefuseCode::Failed,
        }),
        ToNode::Listen { id, .. } => Some(ToOrigin::Nothing { id: *id }),
        ToNode::Pay(_) | ToNode::Cancel { .. } => None,
    }
}

/// The answer to a neighbour relay's message, if it waits for one.
fn no_to_relay(message: &LinkMessage) -> Option<LinkMessage> {
    match message {
        LinkMessage::LegOffer(offer) => Some(LinkMessage::LegDeclined {
            escrow: offer.escrow,
            code: DeclineCode::NotNow,
        }),
        LinkMessage::LegPay(pay) => Some(LinkMessage::LegBalance(unknown(pay.escrow))),
        LinkMessage::LegQuery { escrow, .. } => Some(LinkMessage::LegBalance(unknown(*escrow))),
        LinkMessage::LegHello { .. }
        | LinkMessage::LegAccepted(_)
        | LinkMessage::LegDeclined { .. }
        | LinkMessage::LegBalance(_)
        | LinkMessage::LegRefused { .. }
        | LinkMessage::LegClose { .. }
        // Not credited, and so neither stored nor settled: the payer states it again after the next start.
        | LinkMessage::LegTrusted(_)
        | LinkMessage::LegTrust(_)
        | LinkMessage::LegPaid { .. }
        | LinkMessage::LegSettled { .. } => None,
    }
}

fn unknown(escrow: EscrowId) -> Balance {
    Balance {
        escrow,
        newest_k: 0,
        cumulative: Stroops::ZERO,
        unallocated: Stroops::ZERO,
        state: EscrowState::Unknown,
    }
}
