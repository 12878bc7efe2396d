//! Money that is held for one circuit, by the escrow that it came from.

use obol_cell::{EscrowId, Stroops};

/// In the order of arrival; an escrow appears once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Holdings(Vec<(EscrowId, Stroops)>);

impl Holdings {
    pub(crate) fn total(&self) -> Stroops {
        self.0.iter().map(|(_, amount)| *amount).sum()
    }

    pub(crate) fn put(&mut self, escrow: EscrowId, amount: Stroops) {
        if amount.is_zero() {
            return;
        }
        match self.0.iter_mut().find(|(e, _)| *e == escrow) {
            Some((_, sum)) => *sum = sum.checked_add(amount).unwrap_or(Stroops::MAX),
            None => self.0.push((escrow, amount)),
        }
    }

    /// Takes `amount`, oldest first, and says which escrows it came from; `None` (and nothing taken) if there is less.
    pub(crate) fn take(&mut self, amount: Stroops) -> Option<Vec<(EscrowId, Stroops)>> {
        if self.total() < amount {
            return None;
        }
        let mut left = amount;
        let mut parts = Vec::with_capacity(1);
        for (escrow, sum) in &mut self.0 {
            let part = left.min(*sum);
            *sum = sum.saturating_sub(part);
            left = left.saturating_sub(part);
            if !part.is_zero() {
                parts.push((*escrow, part));
            }
        }
        self.0.retain(|(_, sum)| !sum.is_zero());
        Some(parts)
    }

    /// Takes up to `most` of what came from one escrow; says how much that was.
    pub(crate) fn take_of(&mut self, escrow: EscrowId, most: Stroops) -> Stroops {
        let Some((_, sum)) = self.0.iter_mut().find(|(e, _)| *e == escrow) else {
            return Stroops::ZERO;
        };
        let part = most.min(*sum);
        *sum = sum.saturating_sub(part);
        self.0.retain(|(_, sum)| !sum.is_zero());
        part
    }

    /// Takes up to `most`, newest first.
    pub(crate) fn take_newest(&mut self, most: Stroops) -> Vec<(EscrowId, Stroops)> {
        let mut left = most;
        let mut parts = Vec::new();
        for (escrow, sum) in self.0.iter_mut().rev() {
            let part = left.min(*sum);
            *sum = sum.saturating_sub(part);
            left = left.saturating_sub(part);
            if !part.is_zero() {
                parts.push((*escrow, part));
            }
        }
        self.0.retain(|(_, sum)| !sum.is_zero());
        parts
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (EscrowId, Stroops)> + '_ {
        self.0.drain(..)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (EscrowId, Stroops)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EscrowId = EscrowId([1; 32]);
    const B: EscrowId = EscrowId([2; 32]);

    fn s(n: i64) -> Stroops {
        Stroops::new(n).unwrap()
    }

    fn held() -> Holdings {
        let mut h = Holdings::default();
        h.put(A, s(10));
        h.put(B, s(5));
        h.put(A, s(1));
        h.put(B, s(0));
        h
    }

    #[test]
    fn what_is_put_is_there_and_is_taken_oldest_first_all_or_nothing() {
        let mut h = held();
        assert_eq!(h.total(), s(16));
        assert_eq!(h.take(s(17)), None);
        assert_eq!(h.total(), s(16));
        assert_eq!(h.take(s(13)), Some(vec![(A, s(11)), (B, s(2))]));
        assert_eq!(h.iter().collect::<Vec<_>>(), [(B, s(3))]);
        assert_eq!(h.take(s(3)), Some(vec![(B, s(3))]));
        assert_eq!(h, Holdings::default());
        assert_eq!(h.take(s(0)), Some(vec![]));
    }

    #[test]
    fn what_goes_back_is_taken_newest_first_and_at_most_what_is_there() {
        let mut h = held();
        assert_eq!(h.take_newest(s(7)), [(B, s(5)), (A, s(2))]);
        assert_eq!(h.take_newest(s(100)), [(A, s(9))]);
        assert_eq!(h, Holdings::default());
    }

    #[test]
    fn a_part_of_one_escrow_is_taken_alone() {
        let mut h = held();
        assert_eq!(h.take_of(B, s(3)), s(3));
        assert_eq!(h.take_of(B, s(3)), s(2));
        assert_eq!(h.take_of(B, s(3)), s(0));
        assert_eq!(h.iter().collect::<Vec<_>>(), [(A, s(11))]);
    }
}
