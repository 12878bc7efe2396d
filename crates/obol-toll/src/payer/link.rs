//! What the link to a guard bounds (H7).
//!
//! On one tunnel a hop's meter may be ahead of ours by an allowance: flow control, short cells, a window that is still under way. A
//! hop that always uses it up would be paid for that much on every tunnel anew. But all tunnels of one guard share its link,
//! and its bytes are counted: so over all of them, those that ended included, no more is bought than the link carried, a
//! window for each open tunnel, and two steps like the newest of each, which may be unused (how steps grow bounds those).
//!
//! ```text
//! within the link --(bought on all tunnels > carried + a window each)--> beyond it: every tunnel is paid by our own count alone,
//!        ^                                                                 and one that was paid for more than that is left
//!        +----------------------(the link carries more)-----------------------+
//! ```
//! Our own count never exceeds what came over the link, so honest hops stay paid whatever another one claimed.

use super::Payer;
use super::io::{Output, Report, Unpaid};
use super::meter::{CELL, WINDOW};
use super::tunnel::Tunnel;
use crate::defects::{self, Defect};
use crate::ids::TunnelId;
use crate::keys::PayerKeys;
use obol_cell::Step;

impl Tunnel {
    /// Bytes that this tunnel stands for against its guard's link, once it has bought `next` as well: what went through it, or
    /// what was bought for it, without two steps like the newest.
    fn charged_with(&self, next: Option<Step>) -> u64 {
        let in_flight = self.payment.as_ref().map(|p| p.step);
        let newest = self.growth.last.max(in_flight).max(next).map_or(0, Step::bytes);
        let bought = [in_flight, next].into_iter().flatten().map(Step::bytes);
        let bought = bought.fold(self.bought, u64::saturating_add);
        self.meter.floor().max(bought.saturating_sub(newest.saturating_mul(2)))
    }

    /// The same for what was bought already.
    pub(super) fn charged(&self) -> u64 {
        self.charged_with(None)
    }
}

impl<K: PayerKeys> Payer<K> {
    /// Whether the payment that is due on this tunnel would be for bytes that its guard's link cannot have carried. A tunnel
    /// that has been paid for such bytes is left.
    pub(super) fn beyond_link(&mut self, tunnel: TunnelId) -> bool {
        let Some(t) = self.tunnels.get(&tunnel) else {
            return true;
        };
        if !self.would_overdraw(tunnel, t) || defects::on(Defect::NoLinkBound) {
            return false;
        }
        if t.paid_beyond_count() {
            self.leave(tunnel);
            return true;
        }
        !t.is_low_by_count()
    }

    /// Whether the tunnels of a guard would stand for more than its link carried, if this one bought its next step.
    fn would_overdraw(&self, buyer: TunnelId, t: &Tunnel) -> bool {
        let Some(guard) = t.guard() else { return false };
        let Some(g) = self.guards.get(&guard) else { return false };
        let Some(carried) = g.link_bytes else { return false };
        let open = self.tunnels.iter().filter(|(_, t)| t.guard() == Some(guard));
        let (charged, windows) = open.fold((g.ended, 0u64), |(charged, windows), (id, t)| {
            let next = (*id == buyer).then(|| t.next_step());
            let (charged, windows) = (charged.saturating_add(t.charged_with(next)), windows);
            (charged, windows.saturating_add(WINDOW * CELL))
        });
        charged > carried.saturating_add(windows)
    }

    /// The hops of this tunnel claim more than was carried: they are paid up to that, and then left.
    pub(super) fn leave(&mut self, tunnel: TunnelId) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        if std::mem::replace(&mut t.over_claimed, true) {
            return;
        }
        let (hop, why) = (t.chain, Unpaid::OverClaimed);
        self.outbox
            .push_now(Output::Report(Report::Unpaid { tunnel, hop, why }));
        self.outbox.push_now(Output::Retire { tunnel });
    }
}
