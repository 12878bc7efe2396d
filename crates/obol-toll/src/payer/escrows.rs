//! The client's books on its escrows, one list for each guard (settlement.md). What is signed on one of them, and how it
//! lives and ends, is [`Outgoing`]'s; here is what only a client needs.

use crate::clock::UnixMillis;
use crate::escrow::outgoing::{Outgoing, Phase};
use crate::fact::OutFact;
use crate::ids::TunnelId;
use crate::jitter::Jitter;
use obol_cell::{Balance, EscrowId, EscrowOffer, EscrowRules, Stroops};

/// Claims are numbered below 2^31.
const LAST_SPARE: u32 = (1 << 31) - 1;

/// One escrow to a guard.
#[derive(Debug)]
pub(super) struct OutEscrow {
    pub(super) books: Outgoing,
    /// Payments on it that have no answer yet. One that was refused has its answer, until it is sent again.
    pub(super) in_flight: u32,
    /// The guard's books were asked last at this time.
    pub(super) balance_asked: Option<UnixMillis>,
    /// How often the guard said that it does not know the escrow.
    pub(super) unknown: u8,
    /// Something happened (a failure, a circuit's end) after which only the guard knows what is unallocated.
    pub(super) stale: bool,
    /// What was allocated to payments that were given up, of which nobody said whether it reached the guard.
    pub(super) unheard_of: Stroops,
    /// The next escrow is wanted from then on.
    renew_at: UnixMillis,
    /// The guard is to be asked to flush it.
    pub(super) close_wanted: bool,
    /// The last amount was signed once more, under a higher number: all that its guard needs, should its flush fail in a ledger [H11].
    pub(super) spare_given: bool,
    /// It was opened where the client is not now: its guard would know the client by it again, so it is not named [M3].
    pub(super) away: bool,
}

impl OutEscrow {
    pub(super) fn new(books: Outgoing) -> Self {
        OutEscrow {
            books,
            in_flight: 0,
            balance_asked: None,
            unknown: 0,
            stale: false,
            unheard_of: Stroops::ZERO,
            renew_at: UnixMillis(u64::MAX),
            close_wanted: false,
            spare_given: false,
            away: false,
        }
    }

    pub(super) fn id(&self) -> EscrowId {
        self.books.escrow.id()
    }

    /// What can be allocated at `now`, whether or not the guard has said yet that it knows the escrow.
    pub(super) fn left(&self, now: UnixMillis) -> Stroops {
        match self.books.phase {
            Phase::Open if now.secs() < self.books.stops_at() && !self.books.keyless && !self.away => {
                self.books.balance.saturating_sub(self.books.allocated)
            }
            _ => Stroops::ZERO,
        }
    }

    /// Whether its guard should get the last amount once more: nothing rises on it any more, and something was paid by it.
    pub(super) fn needs_spare(&self, now: UnixMillis) -> bool {
        let is_over = match self.books.phase {
            Phase::Open => now.secs() >= self.books.stops_at(),
            Phase::Closing => true,
            Phase::Opening | Phase::Ended => false,
        };
        let can_sign = self.books.known && !self.books.keyless && !self.books.sealed && self.books.k < LAST_SPARE;
        let quiet = self.in_flight == 0 && now.secs() < self.books.escrow.terms.expiry;
        is_over && can_sign && quiet && !self.away && !self.spare_given && !self.books.cumulative.is_zero()
    }

    /// How long to wait before asking a guard again that does not know the escrow yet: it reads closed ledgers, which come in
    /// seconds, and its bucket of messages holds 16.
    pub(super) fn patience_ms(&self) -> u64 {
        250 << self.unknown.min(8)
    }

    /// Takes over the guard's books. Only right while no other payment is in flight.
    pub(super) fn reconcile(&mut self, told: &Balance, now: UnixMillis) {
        let allocated = told.cumulative.saturating_sub(told.unallocated);
        // A guard that reports more than was ever signed is not believed.
        self.books.allocated = allocated.min(self.books.cumulative);
        self.stale = false;
        self.unheard_of = Stroops::ZERO;
        self.balance_asked = Some(now);
    }

    fn plan_renewal(&mut self, jitter: &mut Jitter) {
        // Between T - life / 2 and T - margin - 1 h [2.16].
        let expiry = self.books.escrow.terms.expiry;
        let life = expiry.saturating_sub(self.books.since);
        let from = expiry.saturating_sub(life / 2);
        let to = self.books.stops_at().saturating_sub(3_600).max(from);
        self.renew_at = UnixMillis::from_secs(from.saturating_add(jitter.up_to(to - from)));
    }
}

/// How far the wish for an(other) escrow went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    None,
    /// Asked for when this time comes.
    At(UnixMillis),
    /// The driver makes a key and a funding account.
    Asked,
    /// The guard is to be asked: on this tunnel, if one was picked.
    Offer {
        offer: EscrowOffer,
        /// It came from the driver then.
        made: UnixMillis,
        asked: Option<TunnelId>,
    },
}

/// A guard, as far as money is concerned.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) rules: Option<EscrowRules>,
    pub(super) escrows: Vec<OutEscrow>,
    pub(super) wish: Wish,
    /// Offers in a row that it declined for what they say.
    pub(super) declined: u32,
    /// Bytes on its TLS link, if anybody counts them.
    pub(super) link_bytes: Option<u64>,
    /// What tunnels that ended stand for against that (`link`).
    pub(super) ended: u64,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            rules: None,
            escrows: Vec::new(),
            wish: Wish::None,
            declined: 0,
            link_bytes: None,
            ended: 0,
        }
    }
}

impl Guard {
    pub(super) fn get(&self, id: EscrowId) -> Option<&OutEscrow> {
        self.escrows.iter().find(|e| e.id() == id)
    }

    pub(super) fn get_mut(&mut self, id: EscrowId) -> Option<&mut OutEscrow> {
        self.escrows.iter_mut().find(|e| e.id() == id)
    }

    /// Whether an escrow is open on the ledger and still in service.
    pub(super) fn newest_open(&self) -> Option<EscrowId> {
        self.escrows
            .iter()
            .rev()
            .find(|e| e.books.phase == Phase::Open && !e.away)
            .map(OutEscrow::id)
    }

    /// Which escrow a payment of `amount` should use: an older one whose unallocated balance covers it (so that it is drawn
    /// down), else `current` while it is good and the tunnel stays there, else the newest that is.
    pub(super) fn choose(
        &self,
        current: Option<EscrowId>,
        stay: bool,
        amount: Stroops,
        now: UnixMillis,
    ) -> Option<EscrowId> {
        let usable = |e: &&OutEscrow| e.left(now) >= amount;
        let newest = self.escrows.iter().rev().find(usable)?;
        let drawable = |e: &&OutEscrow| {
            e.id() != newest.id()
                && !e.stale
                && !e.away
                && e.books.known
                && e.books.unallocated() >= amount
                && e.books.available(now) >= amount
        };
        if let Some(older) = self.escrows.iter().find(drawable) {
            return Some(older.id());
        }
        let current = current.and_then(|id| self.get(id)).filter(|e| stay && usable(e));
        Some(current.unwrap_or(newest).id())
    }

    /// Whether another escrow should be asked for at this time.
    pub(super) fn needs_another(&self, now: UnixMillis) -> bool {
        let newest = self
            .escrows
            .iter()
            .rev()
            .find(|e| matches!(e.books.phase, Phase::Opening | Phase::Open) && !e.books.keyless && !e.away);
        match newest {
            None => true,
            Some(e) if e.books.phase == Phase::Opening => false,
            Some(e) => now >= e.renew_at || e.left(now).get() < e.books.balance.get() / 4,
        }
    }

    /// Replays or applies a fact that concerns an escrow in this list.
    pub(super) fn apply(&mut self, fact: &OutFact, jitter: &mut Jitter) {
        let id = subject(fact);
        match fact {
            OutFact::Accepted { .. } => {
                if self.get(id).is_none() {
                    self.escrows.extend(Outgoing::accepted(fact).map(OutEscrow::new));
                }
            }
            OutFact::Abandoned { .. } => self.escrows.retain(|e| e.id() != id),
            _ => {
                if let Some(e) = self.get_mut(id) {
                    e.books.apply(fact);
                    if matches!(fact, OutFact::Opened { .. }) {
                        e.plan_renewal(jitter);
                    }
                }
            }
        }
    }
}

/// Which escrow a fact is about.
pub(super) fn subject(fact: &OutFact) -> EscrowId {
    match *fact {
        OutFact::Accepted { escrow, .. } => escrow.id(),
        OutFact::Opened { escrow, .. }
        | OutFact::Abandoned { escrow }
        | OutFact::Signed { escrow, .. }
        | OutFact::Closing { escrow }
        | OutFact::Ended { escrow, .. } => escrow,
    }
}
