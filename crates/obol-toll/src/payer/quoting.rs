//! Prices: asked hop by hop, checked, and the chain that follows from them.

use super::io::{Output, Report, Unpaid};
use super::tunnel::Phase;
use super::{PayPolicy, Payer};
use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::ids::TunnelId;
use crate::keys::PayerKeys;
use obol_cell::{Quote, Step};

impl<K: PayerKeys> Payer<K> {
    pub(super) fn begin_quoting(&mut self, tunnel: TunnelId, now: UnixMillis) {
        let never = self.config.pay == PayPolicy::Never;
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        let Some(guard) = t.hops.first().copied() else { return };
        let why = if !guard.hop.paid {
            Some(Unpaid::ChainEnds)
        } else if self.scores.shunned(guard.peer(), now) {
            Some(Unpaid::Score)
        } else {
            None
        };
        if let Some(why) = why {
            t.phase = Phase::Stopped;
            self.outbox
                .push_now(Output::Report(Report::Unpaid { tunnel, hop: 1, why }));
        } else if never {
            t.phase = Phase::Stopped;
        }
    }

    /// A hop named its terms. False: a protocol error.
    pub(super) fn quoted(&mut self, tunnel: TunnelId, hop: u8, quote: Quote, now: UnixMillis) -> bool {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return true;
        };
        let Some(state) = usize::from(hop).checked_sub(1).and_then(|i| t.hops.get_mut(i)) else {
            return true;
        };
        let peer = state.peer();
        let tariff = quote.tariff;
        let (price, credit) = (tariff.price, quote.credit);
        let day = now.day();
        let first_today = match self.quotes.get(&peer) {
            Some((of, first)) if *of == day => *first,
            _ => {
                self.quotes.insert(peer, (day, tariff));
                tariff
            }
        };
        let why_not = if first_today != tariff {
            Some(Unpaid::QuoteChanged)
        } else if tariff.network != self.config.network || tariff.asset != self.config.asset {
            Some(Unpaid::OtherMoney)
        } else if price > self.config.hop_ceiling && !defects::on(Defect::NoCeilings) {
            Some(Unpaid::TooDear { price })
        } else {
            None
        };
        if let Some(why) = why_not {
            self.outbox
                .push_now(Output::Report(Report::Unpaid { tunnel, hop, why }));
            self.chain_ends_before(tunnel, hop);
            return true;
        }
        state.quote = Some(quote);
        t.chain = hop;
        self.outbox.push_now(Output::Report(Report::Quoted {
            tunnel,
            hop,
            price,
            credit,
        }));
        if hop == 1 {
            self.guards.entry(peer).or_default().rules = Some(tariff.rules);
        }
        let next_is_paid = self
            .tunnels
            .get(&tunnel)
            .is_some_and(|t| t.hops.get(usize::from(hop)).is_some_and(|h| h.hop.paid));
        let shunned = self.scores.shunned(peer, now);
        if quote.next && next_is_paid && !shunned {
            if let Some(t) = self.tunnels.get_mut(&tunnel) {
                t.phase = Phase::Quoting(hop + 1);
            }
        } else {
            if next_is_paid {
                let why = if shunned { Unpaid::Score } else { Unpaid::ChainEnds };
                self.outbox.push_now(Output::Report(Report::Unpaid {
                    tunnel,
                    hop: hop + 1,
                    why,
                }));
            }
            self.chain_ends_before(tunnel, hop.saturating_add(1));
        }
        true
    }

    pub(super) fn not_quoted(&mut self, tunnel: TunnelId, hop: u8) -> bool {
        self.outbox.push_now(Output::Report(Report::Unpaid {
            tunnel,
            hop,
            why: Unpaid::Declined,
        }));
        self.chain_ends_before(tunnel, hop);
        true
    }

    /// The chain is known: hops before `hop`, as far as ceilings reach.
    pub(super) fn chain_ends_before(&mut self, tunnel: TunnelId, hop: u8) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else { return };
        t.chain = hop.saturating_sub(1).min(t.chain);
        // A hop that may not pass on enough ends the chain; so does a hop that makes the whole too dear.
        while t.chain > 0 {
            let Some(parts) = t.parts(Step::FIRST) else { break };
            let over = parts.iter().zip(&t.hops).position(|(part, h)| {
                h.quote
                    .is_none_or(|q| part.forward > q.tariff.forward_ceiling.stroops())
            });
            let whole = parts.first().and_then(|p| p.total());
            let why = if let Some(i) = over {
                // Too much for the hop at i: it is the last one that can be paid.
                t.chain = u8::try_from(i + 1).unwrap_or(u8::MAX);
                Unpaid::ForwardCeiling
            } else if whole.is_none_or(|whole| whole > self.config.chain_ceiling) && !defects::on(Defect::NoCeilings) {
                let price = t
                    .hops
                    .get(usize::from(t.chain) - 1)
                    .and_then(|h| h.quote)
                    .map_or(self.config.hop_ceiling, |q| q.tariff.price);
                t.chain -= 1;
                Unpaid::TooDear { price }
            } else {
                break;
            };
            self.outbox.push_now(Output::Report(Report::Unpaid {
                tunnel,
                hop: t.chain + 1,
                why,
            }));
        }
        t.phase = if t.chain == 0 { Phase::Stopped } else { Phase::Ready };
        self.outbox.push_now(Output::Report(Report::Chain {
            tunnel,
            paid_hops: t.chain,
        }));
    }
}
