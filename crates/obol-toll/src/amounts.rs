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

/// Cells of messages about payments that hop 1 meters before the first payment: quotes, balances.
const QUIET_CELLS: u64 = 20;
/// And for each payment.
const CELLS_A_PAYMENT: u64 = 6;

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
    /// The rule, with the tolerance that meters of different hops need: an eighth and 64 KiB on what was carried; a flow
    /// control window, and the payments that the hops before it meter, on what may be unused (2.14, ADR 14).
    pub fn allows(&self, step: Step, metered: u64, unused: u64, largest: Step) -> bool {
        let carried = metered.saturating_add(metered / 8).saturating_add(UNIT);
        // Who carries nothing meters no payments either.
        let payments = self.payment_bytes().min(metered / 8);
        let tolerance = (WINDOW * CELL).saturating_add(payments);
        step <= self.next(carried, largest).min(largest) && unused <= step.bytes().saturating_add(tolerance)
    }

    /// Bytes of payment messages that hop 1 has metered when so many steps were bought: those to later hops, which are free at their
    /// own and so are bought there and never used.
    pub fn payment_bytes(&self) -> u64 {
        (QUIET_CELLS + CELLS_A_PAYMENT * u64::from(self.count)).saturating_mul(CELL)
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
    let ahead = u128::from(rate).saturating_mul(u128::from(took_ms)).saturating_mul(2) / 1_000;
    let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
    step.bytes().min(ahead.max(step.bytes() / 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(n: u64) -> PricePer64KiB {
        PricePer64KiB::new(n).unwrap()
    }

    fn s(n: i64) -> Stroops {
        Stroops::new(n).unwrap()
    }

    #[test]
    fn a_circuit_of_small_steps_is_sold_the_ten_thousandth_as_well_although_its_last_hop_meters_no_payments() {
        let mut growth = Growth::default();
        for n in 0..10_000 {
            // The payer buys the next step when the hop that meters most has nothing left.
            let bought = n * UNIT;
            let metered = bought.saturating_sub(growth.payment_bytes());
            assert!(
                growth.allows(Step::FIRST, metered, bought - metered, Step::FIRST),
                "step {n}"
            );
            growth.book(Step::FIRST);
        }
    }

    proptest! {
        /// The fees of many payments are the fee of their sum, rounded up once.
        #[test]
        fn fees_add_up_to_the_stroop(amounts in proptest::collection::vec(1i64..1_000_000, 1..60), ppm in 0usize..3) {
            let ppm = ForwardPpm::new([0, 1_000, 10_000][ppm]).unwrap();
            let mut so_far = Forwarded::default();
            let mut sum = 0;
            for a in amounts {
                let part = so_far.part(price(10), ppm, Step::FIRST, s(a)).unwrap();
                prop_assert_eq!(part.total().unwrap().get(), 10 + a + part.fee.get());
                prop_assert_eq!(part.earned().unwrap().get(), 10 + part.fee.get());
                so_far.book(&part);
                sum += a;
                prop_assert_eq!(so_far.sum, s(sum));
                prop_assert_eq!(so_far.fees, ppm.fee_on(s(sum)));
            }
        }

        /// A client that pays by the rule is never refused by a hop that meters the same or up to a window less.
        #[test]
        fn a_client_that_keeps_the_rule_is_sold_every_step(used in proptest::collection::vec(1u64..2_000_000, 1..80), lag in 0u64..WINDOW * CELL) {
            let (mut growth, mut carried, mut bought) = (Growth::default(), 0u64, 0u64);
            for u in used {
                carried += u;
                let step = growth.next(carried, Step::DEFAULT_LARGEST);
                let credit = bought.saturating_sub(carried);
                if credit >= step.bytes() {
                    continue;
                }
                let metered = carried.max(lag) - lag.min(carried / 9);
                let unused = bought.saturating_sub(carried.saturating_sub(lag)).min(bought);
                prop_assert!(growth.allows(step, metered, unused.min(step.bytes() + WINDOW * CELL), Step::DEFAULT_LARGEST));
                growth.book(step);
                bought += step.bytes();
                // Unused credit is at most two thirds of what was bought, and two first steps.
                let unused = bought.saturating_sub(carried);
                prop_assert!(unused <= bought * 2 / 3 + 2 * UNIT, "{unused} of {bought}");
            }
        }
    }

    #[test]
    fn a_last_hop_charges_no_fee_whatever_its_tariff_says() {
        let part =
            Forwarded { sum: s(1), fees: s(0) }.part(price(5), ForwardPpm::new(10_000).unwrap(), Step::FIRST, s(0));
        assert_eq!(
            part,
            Some(Part {
                cost: s(5),
                forward: s(0),
                fee: s(0)
            })
        );
    }

    #[test]
    fn steps_are_64_kib_twice_and_then_grow_with_what_was_carried() {
        let mut g = Growth::default();
        let most = Step::DEFAULT_LARGEST;
        for _ in 0..2 {
            assert_eq!(g.next(1 << 40, most), Step::FIRST);
            g.book(Step::FIRST);
        }
        assert_eq!(g.next(0, most), Step::FIRST);
        assert_eq!(g.next(3 * UNIT, most).units(), 2);
        g.book(Step::from_power(4).unwrap());
        assert_eq!(g.next(3 * UNIT, most).units(), 16, "never smaller than the step before");
        assert_eq!(g.next(1 << 40, most), most);
    }

    #[test]
    fn a_hop_sells_a_step_that_growth_allows_and_no_other() {
        let mut g = Growth::default();
        let most = Step::DEFAULT_LARGEST;
        let two = Step::from_power(1).unwrap();
        assert!(g.allows(Step::FIRST, 0, 0, most) && !g.allows(two, 1 << 40, 0, most));
        g.book(Step::FIRST);
        g.book(Step::FIRST);
        // With an eighth and 64 KiB of tolerance for its meter.
        assert!(g.allows(two, UNIT, 0, most));
        assert!(!g.allows(two, UNIT / 2, 0, most));
        assert!(!g.allows(Step::from_power(2).unwrap(), 2 * UNIT, 0, most));
        assert!(g.allows(Step::from_power(3).unwrap(), 7 * UNIT, 0, most));
        // And a window of it unused.
        let window = WINDOW * CELL;
        assert!(g.allows(Step::FIRST, 0, UNIT + window, most));
        assert!(!g.allows(Step::FIRST, 0, UNIT + window + 1, most));
        assert!(!g.allows(two, 1 << 30, 0, Step::FIRST), "nor more than it quoted");
    }

    #[test]
    fn the_low_water_is_a_quarter_of_a_step_or_what_a_payment_takes_twice() {
        let step = Step::from_power(4).unwrap();
        assert_eq!(low_water(step, 0, 500), step.bytes() / 4);
        assert_eq!(low_water(step, 400_000, 1_000), 800_000);
        assert_eq!(low_water(step, 100_000_000, 1_000), step.bytes());
        assert_eq!(low_water(step, u64::MAX, u64::MAX), step.bytes());
    }

    #[test]
    fn the_ceiling_is_per_64_kib_bought() {
        assert_eq!(ceiling(price(200), Step::from_power(3).unwrap()), s(1_600));
    }
}
