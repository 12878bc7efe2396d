//! Connections to next hops that are being made: who waits for them, and whose they are.
//!
//! A next hop that does not answer keeps its place until the connection is given up. So that nobody who names many such can
//! deny others their extends, every neighbour has a share of the places (a client's address, a relay of the consensus,
//! or this relay itself), and who wants more loses the oldest connection of its own: one that leads somewhere is made
//! long before its turn comes. When all places are taken, the neighbour that has most of them gives one up.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use obol_onion::engine::{ExtendId, Neighbour, NextHop};
use tokio_util::sync::CancellationToken;

/// Connections that may be under way at once.
const DIALS: usize = 4096;
/// How many of them one neighbour may have asked for.
const DIALS_OF_ONE: usize = DIALS / 16;

/// What makes two wishes for a link one: the relay and the address that is tried first. A second address that only one of
/// them names makes no difference, or one relay would get two links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    rsa: [u8; 20],
    ed: Option<[u8; 32]>,
    first: Option<SocketAddr>,
}

impl Destination {
    pub(super) fn of(to: &NextHop) -> Self {
        Destination {
            rsa: to.rsa,
            ed: to.ed,
            first: to.addresses.first().copied(),
        }
    }
}

/// A connection to be made.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) number: u64,
    /// Cancelled when it has to give way to another.
    pub(super) cut: CancellationToken,
}

/// What came of a wish for a link.
#[derive(Debug)]
pub(super) struct Asked {
    /// A connection to be made; `None`: one is being made already.
    pub(super) dial: Option<Dial>,
    /// Circuits that waited for one that gave way to it.
    pub(super) gave_way: Vec<ExtendId>,
}

#[derive(Debug)]
struct UnderWay {
    destination: Destination,
    /// Who asked for it first; `None`: this relay itself.
    neighbour: Option<Neighbour>,
    waiting: Vec<ExtendId>,
    cut: CancellationToken,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Dialler {
    /// By number, which rises with time.
    under_way: HashMap<u64, UnderWay>,
    to: HashMap<Destination, u64>,
    /// The numbers of each neighbour's, oldest first.
    of: HashMap<Option<Neighbour>, BTreeSet<u64>>,
    last: u64,
}

impl Dialler {
    /// Somebody wants a link: a circuit that came from a neighbour, or this relay itself.
    pub(super) fn ask(&mut self, destination: Destination, who: Option<(ExtendId, Neighbour)>) -> Asked {
        let (extend, neighbour) = who.unzip();
        let known = self
            .to
            .get(&destination)
            .and_then(|number| self.under_way.get_mut(number));
        if let Some(under_way) = known {
            under_way.waiting.extend(extend);
            return Asked {
                dial: None,
                gave_way: Vec::new(),
            };
        }
        let mut gave_way = Vec::new();
        if self.of(neighbour) >= DIALS_OF_ONE {
            gave_way = self.cut_oldest(neighbour);
        } else if self.under_way.len() >= DIALS {
            let most = self.of.iter().max_by_key(|(_, numbers)| numbers.len());
            if let Some(most) = most.map(|(neighbour, _)| *neighbour) {
                gave_way = self.cut_oldest(most);
            }
        }
        self.last += 1;
        let (number, cut) = (self.last, CancellationToken::new());
        self.under_way.insert(
            number,
            UnderWay {
                destination,
                neighbour,
                waiting: extend.into_iter().collect(),
                cut: cut.clone(),
            },
        );
        self.to.insert(destination, number);
        self.of.entry(neighbour).or_default().insert(number);
        Asked {
            dial: Some(Dial { number, cut }),
            gave_way,
        }
    }

    /// A connection has been made, or cannot be: who waited for it.
    pub(super) fn done(&mut self, number: u64) -> Vec<ExtendId> {
        let Some(gone) = self.under_way.remove(&number) else {
            return Vec::new();
        };
        self.to.remove(&gone.destination);
        if let Some(numbers) = self.of.get_mut(&gone.neighbour) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of.remove(&gone.neighbour);
            }
        }
        gone.waiting
    }

    /// Connections that a neighbour has under way.
    fn of(&self, neighbour: Option<Neighbour>) -> usize {
        self.of.get(&neighbour).map_or(0, BTreeSet::len)
    }

    /// Gives up a neighbour's oldest connection: who waited for it.
    fn cut_oldest(&mut self, neighbour: Option<Neighbour>) -> Vec<ExtendId> {
        let oldest = self.of.get(&neighbour).and_then(|numbers| numbers.first().copied());
        let Some(number) = oldest else { return Vec::new() };
        if let Some(under_way) = self.under_way.get(&number) {
            under_way.cut.cancel();
        }
        self.done(number)
    }
}

#[cfg(test)]
mod tests {
    use obol_onion::engine::CircuitId;

    use super::*;

    fn to(n: u32) -> Destination {
        Destination {
            rsa: [1; 20],
            ed: None,
            first: Some(SocketAddr::from((n.to_be_bytes(), 9001))),
        }
    }

    fn client(n: u8) -> Neighbour {
        Neighbour::Client([192, 0, 2, n].into())
    }

    /// What circuits wish for.
    fn extends(number: usize) -> Vec<ExtendId> {
        let circuits = (0..number as u64).map(CircuitId::from_u64);
        circuits.map(|circuit| ExtendId { circuit, number: 1 }).collect()
    }

    #[test]
    fn who_wants_the_same_link_waits_for_the_same_connection() {
        let all = extends(3);
        let mut dialler = Dialler::default();
        let dial = dialler.ask(to(1), Some((all[0], client(1)))).dial.unwrap();
        assert!(dialler.ask(to(1), Some((all[1], client(2)))).dial.is_none());
        assert!(dialler.ask(to(1), None).dial.is_none());
        assert!(dialler.ask(to(2), Some((all[2], client(2)))).dial.is_some());
        assert_eq!(dialler.done(dial.number), all[..2]);
        assert_eq!(dialler.done(dial.number), []);
        let again = dialler.ask(to(1), None).dial.unwrap();
        assert_eq!(dialler.done(dial.number), [], "the one before it is over");
        assert_eq!(dialler.done(again.number), []);
    }

    #[test]
    fn who_names_many_that_do_not_answer_loses_its_own_oldest() {
        let all = extends(DIALS_OF_ONE + 1);
        let mut dialler = Dialler::default();
        let mut dials = Vec::new();
        for (n, extend) in all[..DIALS_OF_ONE].iter().enumerate() {
            let asked = dialler.ask(to(n as u32), Some((*extend, client(1))));
            assert_eq!(asked.gave_way, []);
            dials.push(asked.dial.unwrap());
        }
        let other = dialler.ask(to(1 << 20), Some((all[0], client(2))));
        assert_eq!(other.gave_way, []);
        let more = dialler.ask(to(1 << 21), Some((all[DIALS_OF_ONE], client(1))));
        assert_eq!(more.gave_way, all[..1]);
        assert!(dials[0].cut.is_cancelled() && more.dial.is_some());
        assert!(!dials[1].cut.is_cancelled() && !other.dial.unwrap().cut.is_cancelled());
        assert_eq!(dialler.done(dials[0].number), [], "they were told");
    }

    #[test]
    fn when_all_places_are_taken_who_has_most_gives_one_up() {
        let all = extends(1);
        let mut dialler = Dialler::default();
        let mut asked = 0;
        let mut oldest = Vec::new();
        // All of one, and a little less of sixteen others.
        for (neighbour, number) in (0..17).map(|n| (n, DIALS_OF_ONE - usize::from(n > 0) * 16)) {
            for place in 0..number {
                asked += 1;
                let ask = dialler.ask(to(asked), Some((all[0], client(neighbour))));
                assert_eq!(ask.gave_way, []);
                if place == 0 {
                    oldest.extend(ask.dial);
                }
            }
        }
        assert_eq!(dialler.under_way.len(), DIALS);
        let last = dialler.ask(to(0), Some((all[0], client(99))));
        assert_eq!(last.gave_way, all);
        assert!(oldest[0].cut.is_cancelled(), "the one with most");
        assert!(oldest[1..].iter().all(|dial| !dial.cut.is_cancelled()));
        assert_eq!(dialler.under_way.len(), DIALS);
        for number in 0..=dialler.last {
            dialler.done(number);
        }
        assert!(dialler.of.is_empty() && dialler.to.is_empty() && dialler.under_way.is_empty());
    }
}
