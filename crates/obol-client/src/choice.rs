//! Which tunnel a stream goes on: what is known of the relays of a tunnel, and how long one looks for a better one.
//!
//! Pure. Nothing here picks relays: Arti does, by its guards, families and weights, and this module says of each tunnel that Arti made
//! whether it will do (ADR 0023). Only what a tunnel can be paid for counts, and that is a prefix of it: the chain of payments ends at
//! the first hop that is no paid hop, asks too much, or cannot be paid by the hop before it (payment-protocol.md, "The chain").

use std::collections::HashMap;
use std::time::Duration;

use obol_cell::PeerId;
use obol_toll::UnixMillis;

use crate::config::Paths;
use crate::events::Refusal;

/// Tunnels looked at for one choice, at most.
pub(crate) const MOST_TRIES: usize = 8;
/// How long one choice may take before the best so far is taken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// After a search that found nothing better, so long what there is will do.
pub(crate) const CONTENT: Duration = Duration::from_secs(60);
/// A refusal that may pass (no quote now, no escrow between two relays yet) is believed for so long.
const PASSING_MS: u64 = 10 * 60 * 1000;
/// Relays, and pairs of them, that are remembered.
const MOST_REMEMBERED: usize = 8192;

/// The highest prices of the configuration, stroops per 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ceilings {
    /// For one hop.
    pub(crate) hop: i64,
    /// For a whole tunnel.
    pub(crate) tunnel: i64,
}

/// A relay of a tunnel, without the virtual hop of an onion service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its Ed25519 identity.
    pub(crate) peer: Option<PeerId>,
    /// Whether it can be paid at all; if not, why.
    pub(crate) payable: Result<(), Refusal>,
}

/// How far a tunnel can be paid for, by what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Its relays.
    pub(crate) hops: u8,
    /// How many of them can be paid, from the guard.
    pub(crate) payable: u8,
    /// Why the next one cannot; `None`: there is none.
    pub(crate) why: Option<Refusal>,
}

impl Verdict {
    /// Every hop can be paid.
    pub(crate) fn is_whole(&self) -> bool {
        self.hops > 0 && self.payable == self.hops
    }
}

/// What a relay said or did that outlives the tunnel on which it did.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// Its price, stroops per 64 KiB.
    price: Option<i64>,
    refused: Option<Refusal>,
    until: UnixMillis,
}

/// What is remembered of relays: prices hold for a UTC day, as quotes do.
#[derive(Debug, Default)]
pub(crate) struct Known {
    relays: HashMap<PeerId, Standing>,
    /// Of two neighbours, that the first cannot pay the second.
    gaps: HashMap<(PeerId, PeerId), (Refusal, UnixMillis)>,
}

fn end_of_day(now: UnixMillis) -> UnixMillis {
    const DAY: u64 = 86_400_000;
    UnixMillis((now.0 / DAY + 1).saturating_mul(DAY))
}

impl Known {
    /// A relay named its price, in stroops per 64 KiB.
    pub(crate) fn quoted(&mut self, peer: PeerId, price: i64, now: UnixMillis) {
        let standing = Standing {
            price: Some(price),
            refused: None,
            until: end_of_day(now),
        };
        self.forget(now);
        self.relays.insert(peer, standing);
    }

    /// A hop is not paid. `before` is the relay in front of it, where there is one.
    pub(crate) fn unpaid(&mut self, before: Option<PeerId>, peer: PeerId, why: Refusal, now: UnixMillis) {
        let passing = now.plus(PASSING_MS);
        self.forget(now);
        match why {
            Refusal::TooDear { price_per_64_kib } => self.quoted(peer, price_per_64_kib, now),
            // Of the pair, not of the relay: another one may pay it.
            Refusal::ChainEnds => {
                if let Some(before) = before {
                    self.gaps.insert((before, peer), (why, passing));
                }
            }
            Refusal::ForwardCeiling => {
                if let Some(before) = before {
                    self.gaps.insert((before, peer), (why, end_of_day(now)));
                }
            }
            Refusal::Declined => self.refused(peer, why, passing),
            Refusal::OtherMoney | Refusal::QuoteChanged | Refusal::Unreliable | Refusal::OverClaimed => {
                self.refused(peer, why, end_of_day(now));
            }
            // Nothing that the relay could help.
            _ => {}
        }
    }

    fn refused(&mut self, peer: PeerId, why: Refusal, until: UnixMillis) {
        let price = self.relays.get(&peer).and_then(|standing| standing.price);
        let refused = Some(why);
        self.relays.insert(peer, Standing { price, refused, until });
    }

    /// Bounds what is remembered: first what is out of date goes, then everything.
    fn forget(&mut self, now: UnixMillis) {
        if self.relays.len() >= MOST_REMEMBERED {
            self.relays.retain(|_, standing| standing.until > now);
        }
        if self.gaps.len() >= MOST_REMEMBERED {
            self.gaps.retain(|_, (_, until)| *until > now);
        }
        if self.relays.len() >= MOST_REMEMBERED || self.gaps.len() >= MOST_REMEMBERED {
            self.relays.clear();
            self.gaps.clear();
        }
    }

    /// How far a tunnel over these relays can be paid for. A price that nobody knows yet is taken to fit: it is asked for on the tunnel.
    pub(crate) fn judge(&self, relays: &[Candidate], ceilings: Ceilings, now: UnixMillis) -> Verdict {
        let (mut payable, mut why, mut sum) = (0_u8, None, 0_i64);
        let mut before = None;
        for relay in relays {
            if let Err(refusal) = self.fits(before, relay, &mut sum, ceilings, now) {
                why = Some(refusal);
                break;
            }
            before = relay.peer;
            payable = payable.saturating_add(1);
        }
        Verdict {
            hops: u8::try_from(relays.len()).unwrap_or(u8::MAX),
            payable,
            why,
        }
    }

    fn fits(
        &self,
        before: Option<PeerId>,
        relay: &Candidate,
        sum: &mut i64,
        ceilings: Ceilings,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        relay.payable?;
        let Some(peer) = relay.peer else {
            return Err(Refusal::NotPaidHop);
        };
        if let Some((why, until)) = before.and_then(|before| self.gaps.get(&(before, peer)))
            && *until > now
        {
            return Err(*why);
        }
        let Some(standing) = self.relays.get(&peer).filter(|standing| standing.until > now) else {
            return Ok(());
        };
        if let Some(why) = standing.refused {
            return Err(why);
        }
        if let Some(price_per_64_kib) = standing.price {
            let whole = sum.saturating_add(price_per_64_kib);
            if price_per_64_kib > ceilings.hop || whole > ceilings.tunnel {
                return Err(Refusal::TooDear { price_per_64_kib });
            }
            *sum = whole;
        }
        Ok(())
    }
}

/// What is to be done after a look at a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Take the tunnel that was seen as this one, from 0.
    Take(usize),
    /// Look at another.
    Another,
    /// Take none: refuse the stream.
    Refuse,
}

/// One search for a tunnel.
#[derive(Debug)]
pub(crate) struct Search {
    paths: Paths,
    seen: usize,
    best: Option<(usize, Verdict)>,
    /// The first relay of the last tunnel, if it was one that cannot be paid.
    unpaid_guard: Option<Option<PeerId>>,
}

impl Search {
    pub(crate) fn new(paths: Paths) -> Search {
        Search {
            paths,
            seen: 0,
            best: None,
            unpaid_guard: None,
        }
    }

    /// Tunnels seen so far.
    pub(crate) fn tries(&self) -> usize {
        self.seen
    }

    /// Which is the best so far, and how good it is.
    pub(crate) fn best(&self) -> Option<(usize, Verdict)> {
        self.best
    }

    /// Arti gave a tunnel over `guard`. A tie goes to the earlier one: what was not needed was not chosen.
    pub(crate) fn saw(&mut self, guard: Option<PeerId>, verdict: Verdict) -> Next {
        let index = self.seen;
        self.seen += 1;
        if self.best.is_none_or(|(_, best)| verdict.payable > best.payable) {
            self.best = Some((index, verdict));
        }
        if self.paths == Paths::Any || verdict.is_whole() {
            return Next::Take(index);
        }
        // Arti keeps its guards, as it should: where they cannot be paid, no other middle helps.
        let same_guard_again = verdict.payable == 0 && self.unpaid_guard == Some(guard);
        self.unpaid_guard = (verdict.payable == 0).then_some(guard);
        if self.seen >= MOST_TRIES || same_guard_again {
            return self.settle();
        }
        Next::Another
    }

    /// There will be no other one: time or circuits ran out.
    pub(crate) fn settle(&self) -> Next {
        match (self.paths, self.best) {
            (Paths::Only, Some((index, verdict))) if verdict.is_whole() => Next::Take(index),
            (Paths::Only, _) | (_, None) => Next::Refuse,
            (_, Some((index, _))) => Next::Take(index),
        }
    }
}

/// Circuits that may be built for nothing: 32 at once, one more every two seconds. Building costs every relay on the path.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u32,
    filled: UnixMillis,
}

impl Allowance {
    const MOST: u32 = 32;
    const EVERY_MS: u64 = 2_000;

    pub(crate) fn new(now: UnixMillis) -> Allowance {
        Allowance {
            left: Allowance::MOST,
            filled: now,
        }
    }

    /// Takes one; false: there is none left.
    pub(crate) fn take(&mut self, now: UnixMillis) -> bool {
        let came = now.since(self.filled) / Allowance::EVERY_MS;
        self.filled = self.filled.plus(came.saturating_mul(Allowance::EVERY_MS));
        let came = u32::try_from(came).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(came).min(Allowance::MOST);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
