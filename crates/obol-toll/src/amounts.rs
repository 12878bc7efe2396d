//! What a step costs at each hop, and how steps grow (2.7, 2.11, 2.13, 2.14).
//!
//! From the end of the chain: a_i = c_i + f_i + fee_i, f_i = a_(i+1), the last f = 0; fee_i = ceil(ppm x F / 10^6) less the fees
//! taken so far, F = everything that this circuit had this hop forward.

use crate::payer::meter::{CELL, WINDOW};
use obol_cell::{ForwardPpm, PricePer64KiB, Step, Stroops, UNIT};

/// What one circuit had one hop forward so far. Kept by the hop, and by the client for each hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarded {
    /// F.
    pub sum: Stroops,
    /// The fees taken for it.
    pub fees: Stroops,
}

/// One hop's part of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// What the step costs here.
    pub cost: Stroops,
    /// What is passed on.
    pub forward: Stroops,
    /// The fee for that.
    pub fee: Stroops,
}

impl Part {
    /// What this hop earns.
    pub fn earned(&self) -> Option<Stroops> {
        self.cost.checked_add(self.fee)
    }

    /// a_i: what must reach this hop, exactly.
    pub fn total(&self) -> Option<Stroops> {
        self.earned()?.checked_add(self.forward)
    }
}

impl Forwarded {
    /// One hop's part of a payment of `step` that passes `forward` on. `None`: the sums do not fit.
    pub fn part(&self, price: PricePer64KiB, ppm: ForwardPpm, step: Step, forward: Stroops) -> Option<Part> {
        let fee = ppm.fee_on(self.sum.checked_add(forward)?).checked_sub(self.fees)?;
        // Nothing forwarded, nothing charged: the last hop's fee stays zero whatever its tariff says.
        let fee = if forward.is_zero() { Stroops::ZERO } else { fee };
        Some(Part {
            cost: price.cost(step)?,
            forward,
            fee,
        })
    }

    /// Books a part that was passed on.
    pub fn book(&mut self, part: &Part) {
        // Both were summed up already when the part was made.
        self.sum = self.sum.checked_add(part.forward).unwrap_or(Stroops::MAX);
        self.fees = self.fees.checked_add(part.fee).unwrap_or(Stroops::MAX);
    }
}

/// How much a hop that bought `step` here may be made to forward, at most (H1).
pub fn ceiling(forward_ceiling: PricePer64KiB, step: Step) -> Stroops {
    forward_ceiling.cost(step).unwrap_or(Stroops::MAX)
}

/// How a circuit's steps have grown so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth {
    /// How many steps were bought.
    pub count: u32,
    /// The last one.
    pub last: Option<Step>,
}

impl Growth {
    /// Steps that are the first one whatever was carried.
    const FIRST_STEPS: u32 = 2;

    /// The next step by the rule: 64 KiB twice, then the largest power of two not above `carried`, at least the step before,
    /// at most `largest`.
    pub fn next(&self, carried: u64, largest: Step) -> Step {
        if self.count < Self::FIRST_STEPS {
            return Step::FIRST;
        }
        let grown = Step::largest_within(carried).unwrap_or(Step::FIRST);
        grown.max(self.last.unwrap_or(Step::FIRST)).min(largest)
    }

    /// Whether a hop sells `step` now. `metered` is its own count, `unused` what was bought here and not used.
    ///
    /// The rule, with the tolerance that meters of different hops need: an eighth and 64 KiB on what was carried, a flow
    /// control window on what may be unused (2.14).
    pub fn allows(&self, step: Step, metered: u64, unused: u64, largest: Step) -> bool {
        let carried = metered.saturating_add(metered / 8).saturating_add(UNIT);
        step <= self.next(carried, largest).min(largest) && unused <= step.bytes().saturating_add(WINDOW * CELL)
    }

    /// Books a step.
    pub fn book(&mut self, step: Step) {
        self.count = self.count.saturating_add(1);
        self.last = Some(step);
    }
}

/// Whether the next step is due: credit < min(step, max(step / 4, 2 x rate x payment time)) (2.13, 2.15).
///
/// `rate` in bytes per second, `took_ms` how long the last payment took.
pub fn low_water(step: Step, rate: u64, took_ms: u64) -> u64 {
    let ahead = u128::from(rate) * u128::from(took_ms) * 2 / 1_000;
    let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
    step.bytes().min(ahead.max(step.bytes() / 4))
}
