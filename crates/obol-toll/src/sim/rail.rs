//! The way to the ledger: what the drivers ask and submit, and what they are answered, in all weathers.
//!
//! The drivers are as obol-stellar's settler is: a question that nobody answers comes back as "nobody knows"; a transaction
//! is recorded and carried until the ledger says what became of it, and asked again it says the same.

use super::ledger::Flushed;
use super::moments::Moment;
use super::world::{Event, LEDGER_MS, Party, RelayId, Sim};
use crate::escrow::NotBelieved;
use crate::{node, payer};
use obol_cell::{EscrowId, Stroops};

/// How the ledger is today, and the servers in front of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Until then nothing is answered, applied or closed.
    pub(crate) down_until: u64,
    /// Until then fees are so high that no transaction of ours gets in.
    pub(crate) dear_until: u64,
    /// So much longer, milliseconds, an answer takes at most.
    pub(crate) slow_ms: u64,
    /// In a thousand: "not found" for an account that is there.
    pub(crate) absent: u64,
    /// In a thousand: a time-out for what was applied.
    pub(crate) lost: u64,
    /// In a thousand: the newest ledger is told as it was a minute ago.
    pub(crate) stale: u64,
}

/// What the ledger answers, to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Exists {
        relay: RelayId,
        escrow: EscrowId,
        exists: Option<bool>,
    },
    Read {
        relay: RelayId,
        escrow: EscrowId,
        result: Result<Stroops, NotBelieved>,
    },
    Opened {
        party: Party,
        escrow: EscrowId,
        balance: Stroops,
    },
    Settled {
        relay: RelayId,
        escrow: EscrowId,
        amount: Stroops,
    },
    Failed {
        relay: RelayId,
        escrow: EscrowId,
        k: u32,
    },
    Ended {
        party: Party,
        escrow: EscrowId,
        paid: Stroops,
    },
}

impl Sim {
    /// A question, or a transaction, comes to the ledger.
    pub(crate) fn at_ledger(&mut self, event: Event) {
        let asks = matches!(event, Event::Checked { .. } | Event::Read { .. });
        if let Event::Flush { relay, epoch, .. } = event
            && (self.relays[relay].node.is_none() || self.relays[relay].epoch != epoch)
        {
            // The driver is part of the process: the flush is repeated after the restart.
            return;
        }
        if self.now < self.weather.down_until || !asks && self.now < self.weather.dear_until {
            return self.without_ledger(event);
        }
        if self.ledger_dies(Moment::Asked) {
            return self.without_ledger(event);
        }
        let answer = self.apply(&event);
        if !asks && (self.ledger_dies(Moment::Answers) || self.chance(self.weather.lost)) {
            // It was applied and nobody says so: "unknown" is not "failed".
            return self.later(LEDGER_MS, event);
        }
        match answer {
            None => self.later(12 * LEDGER_MS, event),
            Some(answer) if self.weather.slow_ms > 0 => {
                let wait = self.rng.up_to(self.weather.slow_ms);
                self.later(wait, Event::Told(answer));
            }
            Some(answer) => self.told(answer),
        }
    }

    /// Nobody answers: a question is answered so, a transaction is carried on.
    fn without_ledger(&mut self, event: Event) {
        match event {
            Event::Checked { relay, escrow } => self.told(Answer::Exists {
                relay,
                escrow,
                exists: None,
            }),
            Event::Read { relay, escrow } => self.told(Answer::Read {
                relay,
                escrow: escrow.id(),
                result: Err(NotBelieved::Unreachable),
            }),
            event => self.later(LEDGER_MS, event),
        }
    }

    /// What the ledger makes of it; `None`: not yet.
    fn apply(&mut self, event: &Event) -> Option<Answer> {
        match *event {
            Event::Checked { relay, escrow } => {
                let there = self.ledger.accounts.contains_key(&escrow);
                let exists = Some(there && !self.chance(self.weather.absent));
                Some(Answer::Exists { relay, escrow, exists })
            }
            Event::Read { relay, escrow } => {
                let missed = self.chance(self.weather.absent);
                let result = match self.ledger.accounts.get(&escrow.id()) {
                    Some(_) if missed => Err(NotBelieved::Absent),
                    None => Err(NotBelieved::Absent),
                    Some(a) if a.escrow == escrow && a.paid.is_none() => Ok(a.deposit),
                    Some(_) => Err(NotBelieved::Wrong),
                };
                let escrow = escrow.id();
                Some(Answer::Read { relay, escrow, result })
            }
            Event::Open {
                party, escrow, deposit, ..
            } => {
                // Opened whether or not the payer lives to hear of it; after a restart it asks again and is told.
                self.ledger.open(&escrow, deposit);
                let (escrow, balance) = (escrow.id(), deposit);
                Some(Answer::Opened { party, escrow, balance })
            }
            Event::Flush {
                relay,
                escrow,
                k,
                cumulative,
                signature,
                ..
            } => {
                let id = escrow.id();
                Some(match self.ledger.flush(&escrow, k, cumulative, &signature) {
                    Flushed::Paid(amount) => Answer::Settled {
                        relay,
                        escrow: id,
                        amount,
                    },
                    Flushed::Failed => Answer::Failed { relay, escrow: id, k },
                    Flushed::Over => {
                        let paid = self.ledger.accounts.get(&id).and_then(|a| a.paid);
                        Answer::Settled {
                            relay,
                            escrow: id,
                            amount: paid.unwrap_or(Stroops::ZERO),
                        }
                    }
                })
            }
            Event::Refund { party, escrow, refund } => {
                let done = self.ledger.refund(&escrow, &refund, self.now / 1_000);
                let escrow = escrow.id();
                let paid = self.ledger.accounts.get(&escrow).and_then(|a| a.paid);
                // Too early by the ledger's clock: it is submitted again.
                (done || paid.is_some()).then(|| Answer::Ended {
                    party,
                    escrow,
                    paid: paid.unwrap_or(Stroops::ZERO),
                })
            }
            _ => None,
        }
    }

    /// An answer reaches who asked, and what it means those who watch.
    pub(crate) fn told(&mut self, answer: Answer) {
        match answer {
            Answer::Exists { relay, escrow, exists } => {
                if !self.dies(Party::Relay(relay), Moment::Told) {
                    self.tell(relay, node::Input::EscrowChecked { escrow, exists });
                }
            }
            Answer::Read { relay, escrow, result } => {
                if !self.dies(Party::Relay(relay), Moment::Told) {
                    self.tell(relay, node::Input::EscrowRead { escrow, result });
                }
            }
            Answer::Opened { party, escrow, balance } => {
                if self.dies(party, Moment::Told) {
                    return;
                }
                match party {
                    Party::Relay(i) => self.tell(i, node::Input::EscrowOpened { escrow, balance }),
                    Party::Client(i) => self.say(i, payer::Input::EscrowOpened { escrow, balance }),
                }
            }
            Answer::Settled { relay, escrow, amount } => self.settled(relay, escrow, amount),
            Answer::Failed { relay, escrow, k } => {
                if !self.dies(Party::Relay(relay), Moment::Told) {
                    self.tell(relay, node::Input::FlushFailed { escrow, k });
                }
            }
            Answer::Ended { party, escrow, paid } => self.ended(party, escrow, paid),
        }
    }

    fn settled(&mut self, relay: RelayId, escrow: EscrowId, amount: Stroops) {
        self.relays[relay].settled.insert(escrow, amount);
        if !self.dies(Party::Relay(relay), Moment::Told) {
            self.tell(relay, node::Input::Settled { escrow, amount });
        }
        let clients = (0..self.clients.len()).filter(|i| self.clients[*i].keys.own.borrow().contains(&escrow));
        let relays = (0..self.relays.len()).filter(|i| self.relays[*i].keys.own.borrow().contains(&escrow));
        let owners: Vec<Party> = clients.map(Party::Client).chain(relays.map(Party::Relay)).collect();
        for owner in owners {
            self.ended(owner, escrow, amount);
        }
    }

    fn ended(&mut self, party: Party, escrow: EscrowId, paid: Stroops) {
        if self.dies(party, Moment::Told) {
            return;
        }
        match party {
            Party::Relay(i) => self.tell(i, node::Input::EscrowEnded { escrow, paid }),
            Party::Client(i) => self.say(i, payer::Input::EscrowEnded { escrow, paid }),
        }
    }
}
