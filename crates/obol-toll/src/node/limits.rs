//! Limits on what others may cost us, and alarms before they are reached (settlement.md, M6).
//!
//! | limit | of | when it is near (80 %) | when it is reached |
//! |---|---|---|---|
//! | unsettled | one payer, all payers | the largest escrow is flushed at a random time within the delay for closing; no new payers | it is flushed now, and takes nothing more |
//! | locked | one peer, all peers | alarm | smaller deposits, then no openings |
//! | new escrows a minute | one network of clients or one peer, all | alarm | `NotNow` |
//! | lumens | the payee's account, the payer's | alarm | no new escrows |
//! | owed by trust | one peer, all (`trust.rs`) | settled early | `next: none`, or the statement is not credited |
//!
//! Payment messages of a circuit have a bucket of their own (`bucket.rs`). Nobody is named in an alarm.

use super::payee::Asker;
use super::{FlushReason, Node, Report};
use crate::clock::UnixMillis;
use crate::escrow::incoming::{Incoming, Phase};
use crate::escrow::outgoing;
use crate::fact::Owner;
use crate::ids::NetworkKey;
use crate::keys::{PayeeKeys, PayerKeys};
use obol_cell::{EscrowId, PeerId, Stroops};
use std::collections::{BTreeSet, HashMap};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limited {
    /// Claims of all payers that no ledger has settled, stroops.
    Unsettled,
    /// Those of one payer.
    UnsettledOfPayer,
    /// What is locked in escrows to all peers, stroops.
    Locked,
    /// In those to one peer.
    LockedWithPeer,
    /// New escrows looked at in this minute.
    NewEscrows,
    /// Lumens (in stroops) that the open escrows may need of the payee's account.
    PayeeLumens,
    /// Openings that are under way, and the next one, of those that the lumens of the capital account suffice for.
    PayerLumens,
    /// What one relay owes us by trust, stroops.
    OwedToUs,
    /// What we owe to all relays by trust, stroops.
    Owed,
    /// What we owe to one.
    OwedToPeer,
}

/// The limits of a [`super::Node`]; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The most that may be unsettled of one payer: a client's escrow, or all escrows of a relay.
    pub unsettled_of_payer: Option<Stroops>,
    /// The most that may be unsettled of all payers.
    pub unsettled: Option<Stroops>,
    /// The most that may be locked in escrows to one peer.
    pub locked_with_peer: Option<Stroops>,
    /// The most that may be locked in escrows to all peers.
    pub locked: Option<Stroops>,
    /// At most this many new escrows a minute are looked at for one network of client addresses (an IPv4 /24, an IPv6 /48), and
    /// for one peer, so that none of them uses up what is there for all.
    pub escrows_per_minute_of_one: Option<u32>,
}

/// From this part of a limit on there is an alarm, in percent; below the other one it is over.
const ALARM: u128 = 80;
const CALM: u128 = 70;

fn is_near(used: Stroops, limit: Stroops) -> bool {
    u128::from(used.get_u64()) * 100 >= u128::from(limit.get_u64()) * ALARM
}

/// Whom an alarm is about; kept here only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    All,
    Peer(PeerId),
    Escrow(EscrowId),
}

/// For whom a new escrow is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Network(NetworkKey),
    Peer(PeerId),
    /// Of whom nothing is known: they share what is there for one.
    Nobody,
    /// Whoever is behind this machine's own addresses: only the limit for all counts.
    Anybody,
}

/// Alarms, and what was counted last.
#[derive(Debug, Default)]
pub(super) struct Watch {
    alarms: BTreeSet<(Limited, About)>,
    /// An upper bound of what is unsettled: as counted last, and what came since.
    unsettled: Stroops,
    /// The minute, and how many new escrows were looked at in it: in all, and for whom.
    minute: u64,
    looked_at: u32,
    looked_at_for: HashMap<Who, u32>,
    /// What the capital account has: asset and openings that its lumens suffice for.
    pub(super) capital: Option<(Stroops, u32)>,
}

/// What is unsettled of some escrows.
#[derive(Debug, Clone, Copy, Default)]
struct Unsettled {
    all: Stroops,
    /// Of that, what no flush is on its way for.
    open: Stroops,
    largest_open: Option<(Stroops, EscrowId)>,
}

impl Unsettled {
    fn of<'a>(escrows: impl Iterator<Item = &'a Incoming>) -> Self {
        let mut sum = Unsettled::default();
        for i in escrows.filter(|i| i.phase != Phase::Settled) {
            let amount = i.cumulative();
            sum.all = sum.all.checked_add(amount).unwrap_or(Stroops::MAX);
            if i.phase == Phase::Open {
                sum.open = sum.open.checked_add(amount).unwrap_or(Stroops::MAX);
                sum.largest_open = sum.largest_open.max(Some((amount, i.escrow.id())));
            }
        }
        sum
    }
}

impl<K: PayeeKeys + PayerKeys> Node<K> {
    /// Takes note of how much of a limit is used, and reports when that becomes much, or is no longer.
    pub(super) fn level(&mut self, of: Limited, about: About, used: u64, limit: u64) {
        let (parts, whole) = (u128::from(used) * 100, u128::from(limit));
        let changed = if used > 0 && parts >= whole * ALARM {
            self.watch.alarms.insert((of, about))
        } else if used == 0 || parts < whole * CALM {
            self.watch.alarms.remove(&(of, about))
        } else {
            false
        };
        if changed {
            let alarm = self.watch.alarms.contains(&(of, about));
            self.report(Report::Level { of, used, limit, alarm });
        }
    }

    /// The alarms that stand now, each kind once, for metrics.
    pub fn alarms(&self) -> BTreeSet<Limited> {
        self.watch.alarms.iter().map(|(of, _)| *of).collect()
    }

    // ---- unsettled ----

    /// After a start.
    pub(super) fn count_unsettled(&mut self) {
        self.watch.unsettled = Unsettled::of(self.incoming.values()).all;
    }

    fn unsettled_of_payer(&self, escrow: EscrowId) -> Unsettled {
        match self.incoming.get(&escrow) {
            None => Unsettled::default(),
            Some(i) if i.owner == Owner::Client => Unsettled::of(std::iter::once(i)),
            Some(i) => {
                let owner = i.owner;
                Unsettled::of(self.incoming.values().filter(|i| i.owner == owner))
            }
        }
    }

    /// Whether `rise` more on this escrow would be more than a payer, or all of them, may have unsettled.
    pub(super) fn too_much_unsettled(&mut self, escrow: EscrowId, rise: Stroops) -> bool {
        let limits = self.config.limits;
        let above = |sum: Stroops, limit: Stroops| sum.checked_add(rise).is_none_or(|sum| sum > limit);
        if let Some(limit) = limits.unsettled_of_payer
            && above(self.unsettled_of_payer(escrow).all, limit)
        {
            return true;
        }
        let Some(limit) = limits.unsettled else {
            return false;
        };
        // The bound only ever errs upwards, and is made exact when it matters.
        if above(self.watch.unsettled, limit) {
            self.watch.unsettled = Unsettled::of(self.incoming.values()).all;
        }
        above(self.watch.unsettled, limit)
    }

    /// Whether there is no room for another payer.
    pub(super) fn is_much_unsettled(&self) -> bool {
        self.config
            .limits
            .unsettled
            .is_some_and(|limit| is_near(self.watch.unsettled, limit))
    }

    /// A claim of this escrow rose: the larger what is unsettled becomes, the earlier some of it is flushed.
    pub(super) fn exposed(&mut self, now: UnixMillis, escrow: EscrowId, rise: Stroops) {
        let limits = self.config.limits;
        self.watch.unsettled = self.watch.unsettled.checked_add(rise).unwrap_or(Stroops::MAX);
        if let Some(limit) = limits.unsettled_of_payer {
            let about = match self.incoming.get(&escrow).map(|i| i.owner) {
                Some(Owner::Peer(peer)) => About::Peer(peer),
                _ => About::Escrow(escrow),
            };
            let unsettled = self.unsettled_of_payer(escrow);
            self.flush_in_time(now, Limited::UnsettledOfPayer, about, unsettled, limit);
        }
        if let Some(limit) = limits.unsettled
            && is_near(self.watch.unsettled, limit)
        {
            let unsettled = Unsettled::of(self.incoming.values());
            self.watch.unsettled = unsettled.all;
            self.flush_in_time(now, Limited::Unsettled, About::All, unsettled, limit);
        }
    }

    fn flush_in_time(&mut self, now: UnixMillis, of: Limited, about: About, sum: Unsettled, limit: Stroops) {
        self.level(of, about, sum.all.get_u64(), limit.get_u64());
        if is_near(sum.open, limit)
            && let Some((_, largest)) = sum.largest_open
        {
            self.begin_closing(now, largest);
            self.tell_owner(largest);
        }
    }

    /// No more money is taken by this escrow: there is too much unsettled already.
    pub(super) fn close_at_limit(&mut self, now: UnixMillis, escrow: EscrowId) {
        self.flush(now, escrow, FlushReason::Own);
        self.stop_crediting(escrow);
    }

    /// Something was settled: alarms may be over.
    pub(super) fn calm(&mut self, escrow: EscrowId) {
        let limits = self.config.limits;
        let owner = self.incoming.get(&escrow).map(|i| i.owner);
        if let (Some(limit), Some(owner)) = (limits.unsettled_of_payer, owner) {
            let (about, used) = match owner {
                Owner::Client => (About::Escrow(escrow), Stroops::ZERO),
                Owner::Peer(peer) => (About::Peer(peer), self.unsettled_of_payer(escrow).all),
            };
            self.level(Limited::UnsettledOfPayer, about, used.get_u64(), limit.get_u64());
        }
        if let Some(limit) = limits.unsettled {
            self.watch.unsettled = Unsettled::of(self.incoming.values()).all;
            let used = self.watch.unsettled.get_u64();
            self.level(Limited::Unsettled, About::All, used, limit.get_u64());
        }
    }

    // ---- new escrows ----

    /// Whether one more offer or reading is looked at in this minute.
    pub(super) fn one_more_escrow(&mut self, now: UnixMillis, asker: Asker) -> bool {
        let minute = now.secs() / 60;
        if self.watch.minute != minute {
            self.watch.minute = minute;
            self.watch.looked_at = 0;
            self.watch.looked_at_for.clear();
        }
        // Offers and readings share the limit: each escrow needs one of both.
        let limit = self.config.escrows_per_minute.saturating_mul(2);
        if self.watch.looked_at >= limit {
            return false;
        }
        let of_one = self.config.limits.escrows_per_minute_of_one;
        let of_one = of_one.map_or(limit, |most| most.saturating_mul(2));
        let who = match asker {
            Asker::Client(circuit) => {
                let link = self.circuits.get(&circuit).map(|c| c.prev.0);
                let address = link.and_then(|l| self.links.get(&l)).and_then(|l| l.address);
                address.map_or(Who::Nobody, |a| a.network().map_or(Who::Anybody, Who::Network))
            }
            Asker::Peer(link) => {
                let peer = self.links.get(&link).and_then(|l| l.peer);
                peer.map_or(Who::Nobody, Who::Peer)
            }
        };
        let count = self.watch.looked_at_for.entry(who).or_insert(0);
        if *count >= of_one && who != Who::Anybody {
            return false;
        }
        *count += 1;
        self.watch.looked_at += 1;
        let used = self.watch.looked_at.into();
        self.level(Limited::NewEscrows, About::All, used, limit.into());
        true
    }

    // ---- locked ----

    /// What is locked, or about to be, in escrows to this peer, and to all.
    pub(super) fn locked(&self, peer: PeerId) -> (Stroops, Stroops) {
        let escrows = self.outgoing.values().filter(|o| o.phase != outgoing::Phase::Ended);
        let escrows = escrows.map(|o| (o.payee, o.deposit.max(o.balance)));
        let (mut with_peer, mut all) = (Stroops::ZERO, Stroops::ZERO);
        for (payee, amount) in escrows.chain(self.openings_under_way()) {
            all = all.checked_add(amount).unwrap_or(Stroops::MAX);
            if payee == peer {
                with_peer = with_peer.checked_add(amount).unwrap_or(Stroops::MAX);
            }
        }
        (with_peer, all)
    }

    /// How much may still be locked in an escrow to this peer.
    pub(super) fn lockable(&mut self, peer: PeerId) -> Stroops {
        let limits = self.config.limits;
        let (with_peer, all) = self.locked(peer);
        let mut room = Stroops::MAX;
        if let Some(limit) = limits.locked_with_peer {
            self.level(
                Limited::LockedWithPeer,
                About::Peer(peer),
                with_peer.get_u64(),
                limit.get_u64(),
            );
            room = room.min(limit.saturating_sub(with_peer));
        }
        if let Some(limit) = limits.locked {
            self.level(Limited::Locked, About::All, all.get_u64(), limit.get_u64());
            room = room.min(limit.saturating_sub(all));
        }
        if let Some((asset, openings)) = self.watch.capital {
            let under_way = self.openings_under_way().count();
            let enough = usize::try_from(openings).is_ok_and(|openings| under_way < openings);
            let promised: Stroops = self.openings_under_way().map(|(_, amount)| amount).sum();
            room = if enough {
                room.min(asset.saturating_sub(promised))
            } else {
                Stroops::ZERO
            };
        }
        room
    }

    /// How many lumens a payee account has, and how many the open escrows may need.
    pub(super) fn payee_lumens(&mut self, have: Stroops, need: Stroops) {
        self.level(Limited::PayeeLumens, About::All, need.get_u64(), have.get_u64());
    }
}
