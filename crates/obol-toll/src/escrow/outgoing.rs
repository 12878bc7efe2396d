//! The payer's books on one escrow: the same for a relay that pays a neighbour and a client that pays its guard.
//!
//! ```text
//!  offer accepted
//!     |            in a ledger          T - margin, or asked           ledger shows the end
//!  Opening ----------------------> Open ---------------------> Closing -------------------> Ended
//!     |                             | sign: cumulative rises      | draws only: cumulative stays   (draws go on until T)
//!     +-- failed for good: dropped  +-- unused until the payee said that it knows the escrow
//! ```
//! Never signs less than it ever signed: (k, cumulative) is a fact before the claim leaves, and both only rise.

use crate::clock::UnixMillis;
use crate::defects::{self, Defect};
use crate::escrow::Escrow;
use crate::fact::OutFact;
use obol_cell::{Balance, EscrowState, PeerId, Signature, Stroops};

/// Where an outgoing escrow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Open,
    Closing,
    Ended,
}

/// A claim to be signed: its number and amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextClaim {
    pub(crate) k: u32,
    pub(crate) cumulative: Stroops,
}

/// One escrow that we pay by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) escrow: Escrow,
    pub(crate) payee: PeerId,
    pub(crate) deposit: Stroops,
    pub(crate) refund: Signature,
    /// Seconds.
    pub(crate) margin: u32,
    /// Unix seconds.
    pub(crate) since: u64,
    pub(crate) phase: Phase,
    pub(crate) balance: Stroops,
    /// The last claim signed.
    pub(crate) k: u32,
    pub(crate) cumulative: Stroops,
    /// What we assigned to payments so far, as far as we know; less than `cumulative` where the payee reported a balance.
    pub(crate) allocated: Stroops,
    /// The payee said that it knows the escrow: terms need not be repeated, and it may be used.
    pub(crate) known: bool,
    /// How often the payee said that it does not know it (a relay's books; a client's are in the payer).
    pub(crate) unknown: u8,
    /// The time for the next escrow came, or little is left: another one is wanted.
    pub(crate) succeeded: bool,
    /// The refund was asked for in this run.
    pub(crate) refunding: bool,
    /// E's key is not at hand any more: nothing can be paid by it.
    pub(crate) keyless: bool,
    /// It came with a backup (H13): more may have been signed on it than is known, so nothing is any more.
    pub(crate) sealed: bool,
}

/// The largest k that is signed: below 2^31.
const LAST_K: u32 = (1 << 31) - 1;

impl Outgoing {
    pub(crate) fn accepted(fact: &OutFact) -> Option<Self> {
        let OutFact::Accepted {
            escrow,
            deposit,
            refund,
            margin,
            payee,
            since,
        } = *fact
        else {
            return None;
        };
        Some(Outgoing {
            escrow,
            payee,
            deposit,
            refund,
            margin,
            since,
            phase: Phase::Opening,
            balance: Stroops::ZERO,
            k: 0,
            cumulative: Stroops::ZERO,
            allocated: Stroops::ZERO,
            known: false,
            unknown: 0,
            succeeded: false,
            refunding: false,
            keyless: false,
            sealed: false,
        })
    }

    /// Applies a fact about this escrow. For claims on replay only; live, [`Outgoing::signed`] knows more.
    pub(crate) fn apply(&mut self, fact: &OutFact) {
        match *fact {
            OutFact::Opened { balance, .. } => {
                self.phase = Phase::Open;
                self.balance = balance;
            }
            OutFact::Signed { k, cumulative, .. } => {
                self.k = self.k.max(k);
                self.cumulative = self.cumulative.max(cumulative);
                // What the payee has of it unallocated is not known after a restart, until it says so.
                self.allocated = self.allocated.max(self.cumulative);
                if defects::on(Defect::SignLess) {
                    (self.cumulative, self.allocated) = (Stroops::ZERO, Stroops::ZERO);
                }
            }
            OutFact::Closing { .. } => {
                if self.phase != Phase::Ended {
                    self.phase = Phase::Closing;
                }
            }
            OutFact::Ended { .. } => self.phase = Phase::Ended,
            OutFact::Accepted { .. } | OutFact::Abandoned { .. } => {}
        }
    }

    /// Books a claim that was just signed.
    pub(crate) fn signed(&mut self, claim: NextClaim) {
        self.k = claim.k;
        self.cumulative = claim.cumulative;
    }

    /// A new epoch began. One that was being opened may be open by now: it is taken back after its expiry, if it is there.
    pub(crate) fn seal(&mut self) {
        self.sealed = true;
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            self.phase = Phase::Closing;
        }
    }

    /// Facts that give this state again.
    pub(crate) fn facts(&self) -> Vec<OutFact> {
        let escrow = self.escrow.id();
        let mut facts = vec![OutFact::Accepted {
            escrow: self.escrow,
            deposit: self.deposit,
            refund: self.refund,
            margin: self.margin,
            payee: self.payee,
            since: self.since,
        }];
        if self.phase != Phase::Opening {
            facts.push(OutFact::Opened {
                escrow,
                balance: self.balance,
            });
        }
        if self.k > 0 {
            facts.push(OutFact::Signed {
                escrow,
                k: self.k,
                cumulative: self.cumulative,
            });
        }
        match self.phase {
            Phase::Closing => facts.push(OutFact::Closing { escrow }),
            Phase::Ended => facts.push(OutFact::Ended {
                escrow,
                paid: self.cumulative,
            }),
            Phase::Opening | Phase::Open => {}
        }
        facts
    }

    /// The payee takes no payment from here on, unix seconds.
    pub(crate) fn stops_at(&self) -> u64 {
        self.escrow.terms.expiry.saturating_sub(self.margin.into())
    }

    /// Between these two, unix seconds, its successor is opened at a random time: T - life / 2 and T - margin - 1 h (2.16), or as much
    /// earlier as an opening may have to wait for its batch.
    pub(crate) fn successor_between(&self, wait_secs: u64) -> (u64, u64) {
        let expiry = self.escrow.terms.expiry;
        let from = expiry.saturating_sub(expiry.saturating_sub(self.since) / 2);
        let to = self.stops_at().saturating_sub(3_600).saturating_sub(wait_secs);
        (from, from.max(to))
    }

    /// What the payee holds of our claims that no circuit has.
    pub(crate) fn unallocated(&self) -> Stroops {
        self.cumulative.saturating_sub(self.allocated)
    }

    /// What can be paid by it now, the unallocated balance included.
    pub(crate) fn available(&self, now: UnixMillis) -> Stroops {
        if !self.known || self.keyless || self.sealed || self.k >= LAST_K {
            return Stroops::ZERO;
        }
        match self.phase {
            Phase::Open if now.secs() < self.stops_at() => self.balance.saturating_sub(self.allocated),
            // After the margin began the payee still takes draws.
            Phase::Open | Phase::Closing | Phase::Ended if now.secs() < self.escrow.terms.expiry => self.unallocated(),
            _ => Stroops::ZERO,
        }
    }

    /// Assigns `amount` to a payment. The caller looked at [`Outgoing::available`].
    pub(crate) fn reserve(&mut self, amount: Stroops) {
        self.allocated = self.allocated.checked_add(amount).unwrap_or(Stroops::MAX);
    }

    /// Takes back what was reserved and never left.
    pub(crate) fn unreserve(&mut self, amount: Stroops) {
        self.allocated = self.allocated.saturating_sub(amount);
    }

    /// The claim that covers everything reserved. Becomes the last one when its fact is applied.
    pub(crate) fn next_claim(&self) -> NextClaim {
        NextClaim {
            k: self.k.saturating_add(1),
            cumulative: self.cumulative.max(self.allocated),
        }
    }

    /// Books what the payee says, if it saw our last claim and nothing is on its way. Says whether it may be used.
    ///
    /// A payee that reports *more* allocated than we ever assigned is not believed: it would only hurt itself by less.
    pub(crate) fn reported(&mut self, balance: &Balance) -> bool {
        self.known = balance.state != EscrowState::Unknown;
        if balance.newest_k == self.k && balance.cumulative == self.cumulative && balance.unallocated <= self.cumulative
        {
            self.allocated = self.cumulative.saturating_sub(balance.unallocated);
        }
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use obol_cell::{AccountId, EscrowId, EscrowTerms};

    const T: u64 = 1_800_000_000;
    const LIFE: u64 = 86_400;
    const MARGIN: u32 = 7_200;

    fn s(n: i64) -> Stroops {
        Stroops::new(n).unwrap()
    }

    fn at(secs: u64) -> UnixMillis {
        UnixMillis::from_secs(secs)
    }

    fn accepted() -> OutFact {
        let terms = EscrowTerms {
            escrow: EscrowId([1; 32]),
            network: obol_cell::NetworkId([2; 32]),
            asset: obol_cell::Asset {
                code: *b"OBOL\0\0\0\0\0\0\0\0",
                issuer: [3; 32],
            },
            payee: PeerId([4; 32]),
            payee_account: AccountId([5; 32]),
            s0: 7 << 32,
            expiry: T + LIFE,
            min_deposit: s(10),
        };
        OutFact::Accepted {
            escrow: Escrow {
                terms,
                signer: AccountId([6; 32]),
            },
            deposit: s(1_000),
            refund: Signature([7; 64]),
            margin: MARGIN,
            payee: PeerId([4; 32]),
            since: T,
        }
    }

    /// Open with 1,000, of which 100 are signed and 70 allocated; the payee knows it.
    fn open() -> Outgoing {
        let mut o = Outgoing::accepted(&accepted()).unwrap();
        let escrow = o.escrow.id();
        o.apply(&OutFact::Opened {
            escrow,
            balance: s(1_000),
        });
        o.known = true;
        o.reserve(s(100));
        o.signed(o.next_claim());
        o.unreserve(s(30));
        o
    }

    #[test]
    fn an_open_escrow_pays_until_its_margin_and_gives_draws_until_its_end() {
        let mut o = open();
        assert_eq!(
            (o.k, o.cumulative, o.allocated, o.unallocated()),
            (1, s(100), s(70), s(30))
        );
        let (stop, end) = (T + LIFE - u64::from(MARGIN), T + LIFE);
        assert_eq!(o.stops_at(), stop);
        for phase in [Phase::Open, Phase::Closing, Phase::Ended] {
            o.phase = phase;
            let whole = if phase == Phase::Open { s(930) } else { s(30) };
            assert_eq!(o.available(at(stop - 1)), whole);
            assert_eq!(o.available(at(stop)), s(30));
            assert_eq!(o.available(at(end - 1)), s(30));
            assert_eq!(o.available(at(end)), s(0));
        }
        o.phase = Phase::Opening;
        assert_eq!(o.available(at(T)), s(0));
    }

    #[test]
    fn nothing_is_paid_by_what_the_payee_does_not_know_or_after_the_last_number() {
        let mut o = open();
        o.known = false;
        assert_eq!(o.available(at(T)), s(0));
        o.known = true;
        o.k = LAST_K - 1;
        assert_eq!(o.available(at(T)), s(930));
        o.k = LAST_K;
        assert_eq!(o.available(at(T)), s(0));
    }

    #[test]
    fn draws_come_first_and_the_sum_never_falls() {
        let mut o = open();
        o.reserve(s(30));
        assert_eq!((o.next_claim().k, o.next_claim().cumulative), (2, s(100)));
        o.reserve(s(1));
        assert_eq!(o.next_claim().cumulative, s(101));
        o.unreserve(s(101));
        assert_eq!(o.next_claim().cumulative, s(100));
    }

    #[test]
    fn the_payees_books_are_taken_over_if_they_are_of_our_last_claim_and_possible() {
        let books = |newest_k, cumulative, unallocated, state| Balance {
            escrow: EscrowId([1; 32]),
            newest_k,
            cumulative: s(cumulative),
            unallocated: s(unallocated),
            state,
        };
        let open_state = EscrowState::Open;
        for (told, allocated) in [
            (books(1, 100, 55, open_state), 45),
            (books(1, 100, 100, open_state), 0),
            (books(1, 100, 0, EscrowState::Closing), 100),
            // Of an older claim, of another sum, of more than there is.
            (books(0, 100, 55, open_state), 70),
            (books(2, 100, 55, open_state), 70),
            (books(1, 99, 55, open_state), 70),
            (books(1, 100, 101, open_state), 70),
        ] {
            let mut o = open();
            o.known = false;
            assert!(o.reported(&told));
            assert!(o.known);
            assert_eq!(o.allocated, s(allocated), "{told:?}");
        }
        let mut o = open();
        assert!(!o.reported(&books(1, 100, 55, EscrowState::Unknown)));
        assert!(!o.known);
    }

    #[test]
    fn its_successor_is_opened_in_the_second_half_of_its_life_an_hour_before_the_margin() {
        let o = open();
        assert_eq!(
            o.successor_between(0),
            (T + LIFE / 2, T + LIFE - u64::from(MARGIN) - 3_600)
        );
        assert_eq!(o.successor_between(600).1, T + LIFE - u64::from(MARGIN) - 4_200);
        assert_eq!(o.successor_between(LIFE), (T + LIFE / 2, T + LIFE / 2));
    }

    #[test]
    fn one_of_a_backup_pays_nothing_and_is_left_to_its_end() {
        for (before, after) in [
            (Phase::Opening, Phase::Closing),
            (Phase::Open, Phase::Closing),
            (Phase::Closing, Phase::Closing),
            (Phase::Ended, Phase::Ended),
        ] {
            let mut o = open();
            o.phase = before;
            o.seal();
            assert_eq!((o.phase, o.available(at(T))), (after, s(0)));
        }
    }

    #[test]
    fn its_facts_give_the_same_state_again() {
        for phase in [Phase::Opening, Phase::Open, Phase::Closing, Phase::Ended] {
            let mut o = open();
            if phase == Phase::Opening {
                o = Outgoing::accepted(&accepted()).unwrap();
            }
            o.phase = phase;
            let facts = o.facts();
            let mut again = Outgoing::accepted(&facts[0]).unwrap();
            facts[1..].iter().for_each(|f| again.apply(f));
            assert_eq!(
                (again.phase, again.balance, again.k, again.cumulative),
                (o.phase, o.balance, o.k, o.cumulative)
            );
            // What the payee has unallocated is asked for again.
            assert_eq!(again.allocated, o.cumulative);
        }
        // One that was never paid by has no claim.
        let mut unused = Outgoing::accepted(&accepted()).unwrap();
        unused.apply(&OutFact::Opened {
            escrow: EscrowId([1; 32]),
            balance: s(9),
        });
        assert_eq!(unused.facts().len(), 2);
    }
}
