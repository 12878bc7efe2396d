//! What each hop of a chain gets for one step: a_i = c_i + f_i + fee_i, f_i = a_(i+1), the last f = 0 [2.7, 2.11].

use obol_cell::{ForwardPpm, PricePer64KiB, Step, Stroops};

/// One hop's part of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// c: what the step costs here.
    pub(super) cost: Stroops,
    /// What this hop takes for passing `forward` on.
    pub(super) fee: Stroops,
    /// f: what it passes on.
    pub(super) forward: Stroops,
}

impl Part {
    /// a: what reaches this hop. `None`: more than can be counted.
    pub(super) fn whole(&self) -> Option<Stroops> {
        self.cost.checked_add(self.fee)?.checked_add(self.forward)
    }
}

/// A hop's terms, and what it passed on for this circuit before.
#[derive(Debug, Clone, Copy)]
pub(super) struct HopTerms {
    pub(super) price: PricePer64KiB,
    pub(super) ppm: ForwardPpm,
    /// Everything that this circuit had this hop pass on so far.
    pub(super) forwarded: Stroops,
    /// The fees that it took for that.
    pub(super) fees: Stroops,
}

/// The parts of all hops, guard first. `None`: more than can be counted.
pub(super) fn parts(hops: &[HopTerms], step: Step) -> Option<Vec<Part>> {
    let mut parts = Vec::with_capacity(hops.len());
    let mut forward = Stroops::ZERO;
    for hop in hops.iter().rev() {
        // Rounded up once over the life of the circuit, not at every payment.
        let fee = hop.ppm.fee_on(hop.forwarded.checked_add(forward)?).saturating_sub(hop.fees);
        let fee = if forward.is_zero() { Stroops::ZERO } else { fee };
        let part = Part { cost: hop.price.cost(step)?, fee, forward };
        forward = part.whole()?;
        parts.push(part);
    }
    parts.reverse();
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(stroops: u64, ppm: u32) -> HopTerms {
        HopTerms {
            price: PricePer64KiB::new(stroops).unwrap(),
            ppm: ForwardPpm::new(ppm).unwrap(),
            forwarded: Stroops::ZERO,
            fees: Stroops::ZERO,
        }
    }

    #[test]
    fn every_hop_gets_its_cost_and_passes_the_rest_on() {
        let parts = parts(&[terms(100, 1_000), terms(50, 1_000), terms(200, 0)], Step::FIRST).unwrap();
        let as_numbers: Vec<_> = parts.iter().map(|p| (p.cost.get(), p.fee.get(), p.forward.get())).collect();
        assert_eq!(as_numbers, [(100, 1, 251), (50, 1, 200), (200, 0, 0)]);
    }

    proptest! {
        #[test]
        fn a_hop_is_left_with_exactly_its_cost_and_fee(
            rungs in proptest::collection::vec((0u8..20, 0usize..3), 1..8), power in 0u8..9
        ) {
            let hops: Vec<_> = rungs.iter().map(|(rung, ppm)| HopTerms {
                price: PricePer64KiB::from_rung(*rung).unwrap(),
                ppm: ForwardPpm::new([0, 1_000, 10_000][*ppm]).unwrap(),
                forwarded: Stroops::ZERO,
                fees: Stroops::ZERO,
            }).collect();
            let step = Step::from_power(power).unwrap();
            let parts = parts(&hops, step).unwrap();
            for (i, part) in parts.iter().enumerate() {
                let next = parts.get(i + 1).and_then(Part::whole).unwrap_or(Stroops::ZERO);
                prop_assert_eq!(part.forward, next);
                prop_assert_eq!(Some(part.cost), hops[i].price.cost(step));
                prop_assert!(part.fee.get() <= part.forward.get() / 100 + 1);
            }
        }

        #[test]
        fn the_fee_over_many_payments_is_rounded_up_only_once(payments in 1usize..200) {
            let (mut first, last) = (terms(5, 1_000), terms(1, 0));
            for _ in 0..payments {
                let parts = parts(&[first, last], Step::FIRST).unwrap();
                first.forwarded = first.forwarded.checked_add(parts[0].forward).unwrap();
                first.fees = first.fees.checked_add(parts[0].fee).unwrap();
            }
            prop_assert_eq!(first.fees, first.ppm.fee_on(first.forwarded));
        }
    }
}
