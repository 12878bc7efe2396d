//! To which peers escrows are opened, when, and how large (C4, settlement.md).
//!
//! ```text
//!  start --(random delay)--> batch --> batch --> batch ...    one at a random time of each period, from a random
//!                              |                              sequence that nothing else draws on
//!     wanted: candidates without an escrow, or whose escrow ages, runs low, or closes
//!             some of them, at random, by consensus weight and by what they were paid in the last week
//! ```
//! What a circuit does changes sums, and with them deposits and when an escrow runs low; it changes neither the times nor who is a
//! candidate. Without a period (the embedded ledger) what is wanted is asked for at once, or after the random delay.

use super::limits::About;
use super::{Limited, Node, Output, Timer};
use crate::clock::UnixMillis;
use crate::escrow::outgoing::Phase;
use crate::fact::NodeFact;
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{EscrowRules, PeerId, Stroops};
use std::collections::BTreeMap;

/// A declined offer is followed by another want not sooner than this, and twice as long after each further one, up to
/// 2^[`BACK_OFF`] times.
const WANT_AGAIN_MS: u64 = 5_000;
const BACK_OFF: u8 = 8;
/// Days that a volume is remembered for.
const WEEK: usize = 7;
/// What consensus weight, and what volume, count for against each other, and against nothing at all.
const SHARE: u128 = 1_000;

/// An escrow that a peer should be paid by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// The driver was asked for it, with this deposit.
    asked: Option<Stroops>,
    /// It was declined, and is not asked for again before this.
    not_before: UnixMillis,
}

/// What a peer was paid, day by day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Week {
    /// The newest day, since the epoch.
    day: u64,
    /// Of that day, and of those before it.
    sums: [Stroops; WEEK],
}

impl Week {
    pub(super) fn add(&mut self, day: u64, amount: Stroops) {
        let ahead = usize::try_from(day.saturating_sub(self.day)).unwrap_or(WEEK);
        if ahead > 0 {
            let kept = WEEK.saturating_sub(ahead);
            self.sums.copy_within(0..kept, WEEK - kept);
            self.sums[..WEEK - kept].fill(Stroops::ZERO);
            self.day = day;
        }
        // A clock that was set back: it is of the day that it says, if that is remembered.
        let back = usize::try_from(self.day - day.min(self.day)).unwrap_or(WEEK);
        if let Some(sum) = self.sums.get_mut(back) {
            *sum = sum.checked_add(amount).unwrap_or(Stroops::MAX);
        }
    }

    /// Of the seven days up to `day`.
    pub(super) fn total(&self, day: u64) -> Stroops {
        self.days()
            .filter(|(of, _)| of + (WEEK as u64) > day)
            .map(|(_, sum)| sum)
            .sum()
    }

    fn days(&self) -> impl Iterator<Item = (u64, Stroops)> + '_ {
        let days = self.sums.iter().enumerate();
        days.filter_map(|(back, sum)| Some((self.day.checked_sub(back as u64)?, *sum)))
            .filter(|(_, sum)| !sum.is_zero())
    }

    /// Facts that give it again, oldest first.
    pub(super) fn facts(&self, peer: PeerId) -> Vec<NodeFact> {
        let mut facts: Vec<_> = self
            .days()
            .map(|(day, amount)| NodeFact::Volume { peer, day, amount })
            .collect();
        facts.reverse();
        facts
    }
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// The consensus: which relays take payments, and how much traffic goes to each.
    pub(super) fn candidates(&mut self, now: UnixMillis, weights: BTreeMap<PeerId, u64>) {
        self.wanted
            .retain(|peer, want| want.asked.is_some() || weights.contains_key(peer));
        let linked: Vec<PeerId> = weights
            .keys()
            .filter(|p| self.link_to(**p).is_some())
            .copied()
            .collect();
        self.candidates = Some(weights);
        for peer in linked {
            self.want(now, peer);
        }
    }

    /// Without a consensus everybody is one.
    fn is_candidate(&self, peer: PeerId) -> bool {
        self.candidates.as_ref().is_none_or(|c| c.contains_key(&peer))
    }

    pub(super) fn want(&mut self, now: UnixMillis, peer: PeerId) {
        let not = !self.config.pays_others || self.wanted.contains_key(&peer);
        if not || !self.is_candidate(peer) || self.is_provided(now, peer) {
            return;
        }
        let want = Want {
            asked: None,
            not_before: now,
        };
        self.wanted.insert(peer, want);
        if self.config.opening_period_ms == 0 {
            self.schedule_wants(now, 0);
        }
    }

    fn schedule_wants(&mut self, now: UnixMillis, not_before_ms: u64) {
        if self.wants_at.is_none() {
            let wait = self.opening_times.up_to(self.config.opening_jitter_ms);
            self.set_wants(now.plus(not_before_ms.saturating_add(wait)));
        }
    }

    fn set_wants(&mut self, at: UnixMillis) {
        self.wants_at = Some(at);
        self.at(at, Timer::Wants);
    }

    /// After a start: the first batch.
    pub(super) fn schedule_openings(&mut self, now: UnixMillis) {
        if self.config.opening_period_ms > 0 {
            self.schedule_wants(now, 0);
        }
    }

    pub(super) fn wants_due(&mut self, now: UnixMillis) {
        if self.wants_at.is_none_or(|at| at > now) {
            return;
        }
        self.wants_at = None;
        let period = self.config.opening_period_ms;
        let started = self.started.unwrap_or(now);
        if let Some(passed) = now.since(started).checked_div(period) {
            // Periods are counted from the start, so that no batch has a say in when the next one is.
            let begins = started.plus(passed.saturating_add(1).saturating_mul(period));
            let within = self.opening_times.up_to(period - 1);
            self.set_wants(begins.plus(within));
        }
        // A peer that went away is wanted again when it says hello.
        let here = |peer: &PeerId| self.rules_of(*peer).is_some();
        let gone: Vec<PeerId> = self.wanted.keys().filter(|p| !here(p)).copied().collect();
        for peer in gone {
            self.wanted.remove(&peer);
        }
        let due = self.wanted.iter().filter(|(_, w)| w.asked.is_none());
        let ready: Vec<PeerId> = due
            .clone()
            .filter(|(_, w)| w.not_before <= now)
            .map(|(p, _)| *p)
            .collect();
        let later = due.map(|(_, w)| w.not_before).filter(|at| *at > now).min();
        let mut left = self.config.openings_per_batch;
        let mut put_off = false;
        for peer in self.shuffled(now, ready) {
            if left == 0 {
                put_off = true;
                break;
            }
            if self.ask_for(now, peer) {
                left -= 1;
            } else {
                put_off = true;
            }
        }
        if period == 0 && (put_off || later.is_some()) {
            let wait = later.map_or(WANT_AGAIN_MS, |at| at.since(now));
            self.schedule_wants(now, if put_off { WANT_AGAIN_MS } else { wait });
        }
    }

    /// In random order, the heavier the sooner: by consensus weight and by what each was paid in the last week.
    fn shuffled(&mut self, now: UnixMillis, peers: Vec<PeerId>) -> Vec<PeerId> {
        let weight = |p: &PeerId| self.candidates.as_ref().and_then(|c| c.get(p)).copied().unwrap_or(0);
        let volume = |p: &PeerId| self.volumes.get(p).map_or(0, |w| w.total(now.day()).get_u64());
        let most_weight = u128::from(peers.iter().map(weight).max().unwrap_or(0).max(1));
        let most_volume = u128::from(peers.iter().map(volume).max().unwrap_or(0).max(1));
        let mut tickets: Vec<(PeerId, u64)> = peers
            .iter()
            .map(|p| {
                let weight = u128::from(weight(p)) * SHARE / most_weight;
                let volume = u128::from(volume(p)) * SHARE / most_volume;
                (*p, u64::try_from(1 + weight + volume).unwrap_or(u64::MAX))
            })
            .collect();
        let mut order = Vec::with_capacity(tickets.len());
        while !tickets.is_empty() {
            let all: u64 = tickets.iter().map(|(_, t)| *t).sum();
            let mut drawn = self.opening_order.up_to(all - 1);
            let which = tickets.iter().position(|(_, t)| {
                let here = drawn < *t;
                drawn = drawn.saturating_sub(*t);
                here
            });
            order.push(tickets.swap_remove(which.unwrap_or(0)).0);
        }
        order
    }

    /// Asks the driver for an escrow to this peer; false: there is no money for it now.
    fn ask_for(&mut self, _now: UnixMillis, peer: PeerId) -> bool {
        let Some(rules) = self.rules_of(peer) else {
            return true;
        };
        let deposit = self.deposit_for(peer, &rules).min(self.lockable(peer));
        if deposit < rules.min_deposit || deposit.is_zero() {
            return false;
        }
        if let Some(want) = self.wanted.get_mut(&peer) {
            want.asked = Some(deposit);
        }
        // What is locked now, with this one.
        self.lockable(peer);
        let life = self.config.life.min(rules.max_life).max(rules.min_life);
        self.emit(Output::WantEscrow {
            peer,
            rules,
            deposit,
            life,
        });
        true
    }

    pub(super) fn rules_of(&self, peer: PeerId) -> Option<EscrowRules> {
        let link = self.link_to(peer)?;
        self.links.get(&link)?.hello
    }

    /// Three times what the pair's last week came to, within the configured bounds, and at least the payee's minimum.
    fn deposit_for(&self, peer: PeerId, rules: &EscrowRules) -> Stroops {
        let week = self
            .volumes
            .get(&peer)
            .map_or(Stroops::ZERO, |w| w.total(self.now.day()));
        let thrice = week.checked_mul(3).unwrap_or(Stroops::MAX);
        let bounded = self.config.max_deposit.map_or(thrice, |most| thrice.min(most));
        bounded.max(self.config.deposit).max(rules.min_deposit)
    }

    /// What the driver was asked for, and what was offered and has no answer: peers and deposits.
    pub(super) fn openings_under_way(&self) -> impl Iterator<Item = (PeerId, Stroops)> + '_ {
        let asked = self.wanted.iter().filter_map(|(p, w)| Some((*p, w.asked?)));
        asked.chain(self.offered.values().map(|o| (o.peer, o.offer.deposit)))
    }

    /// The peer declined, or did not answer.
    pub(super) fn want_again(&mut self, now: UnixMillis, peer: PeerId) {
        let failures = self.declines.entry(peer).or_insert(0);
        let wait = WANT_AGAIN_MS << (*failures).min(BACK_OFF);
        *failures = failures.saturating_add(1);
        if self.config.pays_others && self.link_to(peer).is_some() {
            let want = Want {
                asked: None,
                not_before: now.plus(wait),
            };
            self.wanted.insert(peer, want);
            if self.config.opening_period_ms == 0 {
                self.schedule_wants(now, wait);
            }
        }
    }

    /// How long a want may have to wait for its batch, seconds.
    pub(super) fn longest_wait_secs(&self) -> u64 {
        self.config.opening_period_ms.saturating_mul(2) / 1_000
    }

    /// A claim to this peer rose: today's volume.
    pub(super) fn volume(&mut self, peer: PeerId, amount: Stroops) {
        let day = self.now.day();
        if day != self.day {
            self.day = day;
            self.fact(NodeFact::Day { day });
        }
        self.volumes.entry(peer).or_default().add(day, amount);
    }

    /// The same on replay. In a snapshot sums come before any day: they are of no day.
    pub(super) fn replay_volume(&mut self, peer: PeerId, amount: Stroops) {
        if self.day > 0 {
            self.volumes.entry(peer).or_default().add(self.day, amount);
        }
    }

    /// The driver read what the capital account has: of the asset, and lumens for so many openings.
    pub(super) fn capital(&mut self, asset: Stroops, openings: u32) {
        self.watch.capital = Some((asset, openings));
        let under_way = u64::try_from(self.openings_under_way().count()).unwrap_or(u64::MAX);
        let need = under_way.saturating_add(1);
        self.level(Limited::PayerLumens, About::All, need, openings.into());
    }

    /// Whether an escrow to this peer is in use with enough left, or on its way.
    pub(super) fn is_provided(&self, now: UnixMillis, peer: PeerId) -> bool {
        let on_its_way = self.offered.values().any(|o| o.peer == peer);
        on_its_way
            || self
                .by_payee
                .get(&peer)
                .into_iter()
                .flatten()
                .filter_map(|e| self.outgoing.get(e))
                .any(|o| match o.phase {
                    Phase::Opening => true,
                    Phase::Open => {
                        !o.succeeded
                            && now.secs() < o.stops_at()
                            && o.balance.saturating_sub(o.allocated) > self.config.reserve
                    }
                    Phase::Closing | Phase::Ended => false,
                })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: i64) -> Stroops {
        Stroops::new(n).unwrap()
    }

    #[test]
    fn a_week_is_the_last_seven_days_whatever_the_clock_does() {
        let mut week = Week::default();
        for day in 100..=106 {
            week.add(day, s(1));
            week.add(day, s(1));
        }
        assert_eq!(week.total(106), s(14));
        assert_eq!(week.total(107), s(12), "a day without anything");
        assert_eq!(week.total(112), s(2));
        assert_eq!(week.total(113), s(0));
        week.add(107, s(10));
        assert_eq!(week.total(107), s(22));
        week.add(105, s(5));
        assert_eq!(week.total(107), s(27), "set back by two days");
        week.add(3, s(5));
        assert_eq!(week.total(107), s(27), "set back by years");
        week.add(1_000, s(1));
        assert_eq!(week.total(1_000), s(1));
        week.add(1_000, Stroops::MAX);
        assert_eq!(week.total(1_000), Stroops::MAX);
    }

    #[test]
    fn its_facts_give_the_same_week_again() {
        let mut week = Week::default();
        for day in [100, 101, 104, 106] {
            week.add(day, s(day as i64));
        }
        let mut again = Week::default();
        for fact in week.facts(PeerId([1; 32])) {
            let NodeFact::Volume { day, amount, .. } = fact else {
                panic!("{fact:?}")
            };
            again.add(day, amount);
        }
        assert_eq!(again, week);
    }
}
