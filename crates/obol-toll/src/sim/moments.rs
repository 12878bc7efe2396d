//! The moments at which a party, or the ledger, can die: counted in one run, died at in the next.
//!
//! ```text
//!  input -> machine -> facts --(Persists)--> journal --(Durable, AllDurable)--> machine -> output --(Acts)--> others, ledger
//!                                                                                                             |
//!        input <----(Told)---- answer <--(Answers)-- applied <--(Asked)-- question, transaction <-------------+
//! ```
//! What lies between two of them is computed: nobody else, no journal and no ledger can tell at which instruction of it a
//! process ended. So to die at each moment once is to die between any two steps.

use super::world::{Party, Sim};
use std::collections::BTreeMap;

/// A moment just before something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// Facts are durable: they, and all behind them, are lost.
    Persists,
    /// The machine hears that they are: nothing was done about it, and what follows them is lost.
    Durable,
    /// The same, but all that was on its way is durable.
    AllDurable,
    /// Something is sent, or the ledger is asked.
    Acts,
    /// An answer of the ledger, or an account that was made, is told.
    Told,
    /// The ledger takes a question or a transaction.
    Asked,
    /// The ledger, which has applied it, answers.
    Answers,
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dies {
    Party(Party),
    Ledger,
}

/// Who dies, when, and the how many-th time that comes.
pub(crate) type Point = (Dies, Moment, u64);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    pub(crate) counting: bool,
    pub(crate) seen: BTreeMap<(Dies, Moment), u64>,
    at: Option<Point>,
    /// It came to it.
    pub(crate) died: bool,
}

impl Moments {
    pub(crate) fn counting(at: Option<Point>) -> Self {
        Moments {
            counting: true,
            at,
            ..Moments::default()
        }
    }

    fn is_now(&mut self, who: Dies, moment: Moment) -> bool {
        if !self.counting {
            return false;
        }
        let seen = self.seen.entry((who, moment)).or_default();
        let now = self.at == Some((who, moment, *seen));
        *seen += 1;
        self.died |= now;
        now
    }
}

/// How long a ledger that died is away, milliseconds.
pub(crate) const LEDGER_AWAY_MS: u64 = 60_000;

impl Sim {
    /// Counts a moment of a party's. True: the party has died at it.
    pub(crate) fn dies(&mut self, party: Party, moment: Moment) -> bool {
        let is_up = match party {
            Party::Relay(i) => self.relays.get(i).is_some_and(|r| r.node.is_some()),
            Party::Client(i) => self.clients.get(i).is_some_and(|c| c.payer.is_some()),
        };
        if !is_up || !self.moments.is_now(Dies::Party(party), moment) {
            return false;
        }
        let made_it = match moment {
            Moment::AllDurable => self.pending_of(party),
            _ => 0,
        };
        self.crash_with(party, made_it);
        true
    }

    /// Counts a moment of the ledger's. True: it has died at it, and is away for a minute.
    pub(crate) fn ledger_dies(&mut self, moment: Moment) -> bool {
        let dies = self.moments.is_now(Dies::Ledger, moment);
        if dies {
            self.note(|| "the ledger crashes".to_owned());
            self.weather.down_until = self.now + LEDGER_AWAY_MS;
        }
        dies
    }
}
