//! One tunnel as its payer sees it.
//!
//! ```text
//! Quoting(1) --Quote, next: open--> Quoting(2) ... --next: none, no paid hop, too dear, other money--> Ready --failures--> Stopped
//! ```
//! In `Ready`: listen at the last paid hop while nothing else is to be said; pay when the own meter (or the hop) says that credit
//! runs low. One conversation at a time, always.

use super::io::{Hop, Second};
use super::meter::{ARRIVAL_MS, CELL, LEAD, Meter, SET_UP};
use crate::amounts::{Forwarded, Growth, Part, low_water};
use crate::clock::UnixMillis;
use obol_cell::{EscrowId, LowWater, PeerId, Quote, Step, Stroops};

/// What was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Quote,
    Offer(EscrowId),
    Balance(EscrowId),
    Listen(u16),
    Pay(u16),
    Close(EscrowId),
}

/// The open conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conversation {
    pub(super) hop: u8,
    pub(super) question: Question,
    pub(super) since: UnixMillis,
    pub(super) second: Option<Second>,
}

/// A relay answers a Listen after this long in any case.
pub(super) const LISTEN_MS: u64 = 30_000;
const NO_CELL_MS: u64 = 10_000;
const IN_ALL_MS: u64 = 60_000;

impl Conversation {
    /// When it is given up, if no cell at all comes on the tunnel (2.6).
    pub(super) fn deadline(&self, last_cell: UnixMillis) -> UnixMillis {
        let asked = match (self.question, self.second) {
            (Question::Listen(_), None) => self.since.plus(LISTEN_MS),
            _ => self.since,
        };
        last_cell.max(asked).plus(NO_CELL_MS).min(asked.plus(IN_ALL_MS))
    }
}

/// A hop of the tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) struct HopState {
    pub(super) hop: Hop,
    pub(super) quote: Option<Quote>,
    /// What this tunnel had it pass on.
    pub(super) forwarded: Forwarded,
    /// Entrusted to it (own share, and what it was to pass on), and proved to have been used as meant.
    pub(super) entrusted: Stroops,
    pub(super) proved: Stroops,
}

impl HopState {
    pub(super) fn peer(&self) -> PeerId {
        self.hop.peer
    }
}

/// A payment without its answer.
#[derive(Debug, Clone)]
pub(super) struct Payment {
    pub(super) n: u16,
    pub(super) step: Step,
    pub(super) parts: Vec<Part>,
    pub(super) escrow: EscrowId,
    pub(super) started: UnixMillis,
    pub(super) attempt: u8,
    /// The hop where it came to a stop, as far as refusals tell.
    pub(super) stopped_at: Option<u8>,
    /// After a refusal: the hop to begin with again, and when.
    pub(super) resume: Option<(u8, UnixMillis)>,
    /// The last claim to hop 1 that allocated money, and how far all of this payment's claims raised what is signed: never more than
    /// the payment's amount.
    pub(super) k: u32,
    pub(super) signed: Stroops,
    /// After a refusal by hop 1: whether it holds what was allocated for this payment, by its books; `None`: not asked.
    pub(super) held_at_first: Option<bool>,
}

impl Payment {
    /// a_1: what it takes out of the escrow.
    pub(super) fn amount(&self) -> Stroops {
        self.parts.first().and_then(Part::total).unwrap_or(Stroops::ZERO)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Quoting(u8),
    Ready,
    Stopped,
}

/// Whether paying helps (2.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    None,
    /// A step is withheld; measuring begins when the credit at the hops is gone.
    Waiting {
        before: u64,
    },
    Measuring {
        before: u64,
        since: UnixMillis,
        from: u64,
    },
}

/// Bytes per second over the last moments.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    since: UnixMillis,
    bytes: u64,
    per_second: u64,
}

impl Rate {
    const WINDOW_MS: u64 = 250;

    pub(super) fn add(&mut self, bytes: u64, now: UnixMillis) {
        self.bytes = self.bytes.saturating_add(bytes);
        let elapsed = now.since(self.since);
        if elapsed >= Self::WINDOW_MS {
            let latest = self.bytes.saturating_mul(1_000) / elapsed;
            // A long pause says nothing about the pace of what comes now.
            self.per_second = if elapsed > 8 * Self::WINDOW_MS {
                latest
            } else {
                (self.per_second + latest) / 2
            };
            self.bytes = 0;
            self.since = now;
        }
    }

    pub(super) fn per_second(&self) -> u64 {
        self.per_second
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) hops: Vec<HopState>,
    pub(super) opened: UnixMillis,
    pub(super) phase: Phase,
    /// How many hops are paid, from the guard.
    pub(super) chain: u8,
    pub(super) conversation: Option<Conversation>,
    pub(super) escrow: Option<EscrowId>,
    /// What was allocated to hop 1 for it.
    pub(super) allocated: Stroops,
    pub(super) move_at: Option<UnixMillis>,
    pub(super) meter: Meter,
    pub(super) rate: Rate,
    pub(super) last_cell: UnixMillis,
    /// The last hop's meter when it last told, and ours at that time.
    told: (u64, u64),
    /// More than was believable when it was told, and when that was.
    pub(super) doubted: Option<(u64, UnixMillis)>,
    pub(super) n: u16,
    pub(super) payment: Option<Payment>,
    /// Bytes bought at every hop, and bytes that we chose not to pay for.
    pub(super) bought: u64,
    pub(super) forgiven: u64,
    pub(super) growth: Growth,
    pub(super) step_cap: Option<Step>,
    pub(super) payment_ms: u64,
    pub(super) listen_id: u16,
    /// What our meter showed when the last Listen ended: another one waits for traffic.
    pub(super) listened_at: Option<u64>,
    pub(super) trial: Trial,
    pub(super) helps: bool,
    pub(super) over_claimed: bool,
}

impl Tunnel {
    pub(super) fn new(hops: Vec<Hop>, now: UnixMillis) -> Self {
        let hops = hops
            .into_iter()
            .map(|hop| HopState {
                hop,
                quote: None,
                forwarded: Forwarded::default(),
                entrusted: Stroops::ZERO,
                proved: Stroops::ZERO,
            })
            .collect();
        Tunnel {
            hops,
            opened: now,
            phase: Phase::Quoting(1),
            chain: 0,
            conversation: None,
            escrow: None,
            allocated: Stroops::ZERO,
            move_at: None,
            meter: Meter::default(),
            rate: Rate::default(),
            last_cell: now,
            told: (0, 0),
            doubted: None,
            n: 0,
            payment: None,
            bought: 0,
            forgiven: 0,
            growth: Growth::default(),
            step_cap: None,
            payment_ms: 50,
            listen_id: 0,
            listened_at: None,
            trial: Trial::None,
            helps: true,
            over_claimed: false,
        }
    }

    pub(super) fn guard(&self) -> Option<PeerId> {
        self.hops.first().map(HopState::peer)
    }

    /// What one of its hops did for what was entrusted to it.
    pub(super) fn kept_word(&self, hop: &HopState) -> Stroops {
        let Some(quote) = hop.quote else { return Stroops::ZERO };
        let units = self.meter.floor().min(self.bought).div_ceil(obol_cell::UNIT);
        let own = quote.tariff.price.stroops().checked_mul(units).unwrap_or(Stroops::MAX);
        let kept = hop.proved.checked_add(own).unwrap_or(Stroops::MAX);
        kept.min(hop.entrusted)
    }

    /// What `step` costs at each paid hop, guard first: from the end of the chain, a_i = c_i + f_i + fee_i (2.7, 2.11). `None`:
    /// no paid hop, or more than can be counted.
    pub(super) fn parts(&self, step: Step) -> Option<Vec<Part>> {
        let mut parts = Vec::with_capacity(self.chain.into());
        let mut forward = Stroops::ZERO;
        for h in self.hops.iter().take(self.chain.into()).rev() {
            let tariff = h.quote?.tariff;
            let part = h.forwarded.part(tariff.price, tariff.forward_ppm, step, forward)?;
            forward = part.total()?;
            parts.push(part);
        }
        parts.reverse();
        Some(parts).filter(|p| !p.is_empty())
    }

    /// The last paid hop told its meter: what can be believed of it counts. Returns whether it is beyond all reason.
    pub(super) fn told(&mut self, metered: u64, now: UnixMillis) -> bool {
        let believable = self.believable();
        self.told = (metered.min(believable), self.meter.floor());
        if metered > believable && self.doubted.is_none() {
            self.doubted = Some((metered, now));
        }
        metered > believable.saturating_add(LEAD * CELL)
    }

    /// Whether something that was told is still not believable although what was under way then has had its time.
    pub(super) fn doubt_stands(&mut self, now: UnixMillis) -> bool {
        let Some((metered, since)) = self.doubted else {
            return false;
        };
        if metered <= self.believable() {
            self.doubted = None;
            return false;
        }
        now.since(since) >= ARRIVAL_MS
    }

    fn believable(&self) -> u64 {
        self.meter.believable().saturating_add(self.growth.payment_bytes())
    }

    /// Bytes that the busiest hop has carried by now, as well as we can tell: what was told, what came since with 5 % for flow
    /// control, what only hop 1 meters; never more than is believable.
    pub(super) fn used(&self) -> u64 {
        let since = self.meter.floor().saturating_sub(self.told.1);
        let used = self
            .told
            .0
            .saturating_add(since)
            .saturating_add(since / 20)
            .saturating_add(self.growth.payment_bytes());
        used.min(self.believable())
    }

    /// The next step: 64 KiB twice, then half of what growth permits (the largest power of two not above what this tunnel
    /// carried, at most the smallest quote's largest), at least the step before. Half, so that what is bought while the
    /// last step's low water is still there never exceeds the permitted step.
    pub(super) fn next_step(&self) -> Step {
        let largest = self
            .hops
            .iter()
            .take(self.chain.into())
            .filter_map(|h| h.quote.map(|q| q.tariff.max_step))
            .min();
        let most = Step::from_power(Step::MAX_POWER).unwrap_or(Step::FIRST);
        let cap = largest.unwrap_or(Step::FIRST).min(self.step_cap.unwrap_or(most));
        let permitted = self.growth.next(self.meter.floor(), cap);
        let half = Step::from_power(permitted.power().saturating_sub(1)).unwrap_or(Step::FIRST);
        half.max(self.growth.last.unwrap_or(Step::FIRST)).min(cap)
    }

    /// Credit below which `step` is bought: min(step, max(step / 4, 2 x rate x payment time)).
    pub(super) fn low_water(&self, step: Step) -> u64 {
        low_water(step, self.rate.per_second(), self.payment_ms)
    }

    /// What we reckon is left: bought less used. Initial credit is not counted, so what is carried is also paid for.
    pub(super) fn credit(&self) -> u64 {
        self.bought.saturating_add(self.forgiven).saturating_sub(self.used())
    }

    /// Whether the next step should be bought, by our own meter and what the last hop told.
    pub(super) fn is_low(&self) -> bool {
        self.credit() < self.low_water(self.next_step())
    }

    /// What went through this tunnel by our own count alone, with 5 % for flow control and what only hop 1 meters.
    fn counted(&self) -> u64 {
        let floor = self.meter.floor();
        floor
            .saturating_add(floor / 20)
            .saturating_add(self.growth.payment_bytes())
    }

    /// Whether the next step should be bought, whatever hops told.
    pub(super) fn is_low_by_count(&self) -> bool {
        let credit = self.bought.saturating_add(self.forgiven).saturating_sub(self.counted());
        credit < self.low_water(self.next_step())
    }

    /// Whether this tunnel was paid for more than our own count explains, with its tenth and its set-up.
    pub(super) fn paid_beyond_count(&self) -> bool {
        let floor = self.meter.floor();
        let explained = self.counted().saturating_add(floor / 20).saturating_add(SET_UP * CELL);
        self.charged() > explained
    }

    /// The mark for a Listen: well below our own, which acts first while traffic is seen.
    pub(super) fn listen_mark(&self) -> LowWater {
        LowWater::at_least(self.low_water(self.next_step()) / 4)
    }

    /// Whether a Listen is worth its cells: not while the own meter will ask for a payment within two seconds anyway, nor
    /// without traffic since the last one.
    pub(super) fn should_listen(&self) -> bool {
        let traffic = self.listened_at.is_none_or(|at| self.meter.floor() > at);
        traffic && self.rate.per_second().saturating_mul(2) < self.credit().max(1)
    }
}
