//! What the drivers around the machines do: inputs in, outputs done, facts made durable.

use super::moments::Moment;
use super::world::{Conversation, Event, LEDGER_MS, Party, RelayId, Sim};
use crate::fact::{NodeFact, PayerFact};
use crate::ids::{LinkId, TunnelId};
use crate::node::{self, Node};
use crate::payer::{self, Payer, Second};
use obol_cell::{LinkMessage, ToNode, ToOrigin};

const CELL: u64 = 514;

impl Sim {
    /// One input for a relay, and everything that comes of it.
    pub(crate) fn tell(&mut self, relay: RelayId, input: node::Input) {
        let now = self.time_of(Party::Relay(relay));
        let Some(node) = &mut self.relays[relay].node else {
            return;
        };
        node.handle(now, input);
        while let Some(output) = self.relays[relay].node.as_mut().and_then(Node::poll) {
            if acts(&output) && self.dies(Party::Relay(relay), Moment::Acts) {
                return;
            }
            self.do_for_relay(relay, output);
        }
        let wake = self.relays[relay].node.as_ref().and_then(Node::next_wake);
        self.schedule_wake(Party::Relay(relay), wake.map(|w| w.0));
    }

    /// One input for a client, and everything that comes of it.
    pub(crate) fn say(&mut self, client: usize, input: payer::Input) {
        let now = self.time_of(Party::Client(client));
        let Some(payer) = &mut self.clients[client].payer else {
            return;
        };
        payer.handle(now, input);
        while let Some(output) = self.clients[client].payer.as_mut().and_then(Payer::poll) {
            if client_acts(&output) && self.dies(Party::Client(client), Moment::Acts) {
                return;
            }
            self.do_for_client(client, output);
        }
        let wake = self.clients[client].payer.as_ref().and_then(Payer::next_wake);
        self.schedule_wake(Party::Client(client), wake.map(|w| w.0));
    }

    pub(crate) fn schedule_wake(&mut self, party: Party, at: Option<u64>) {
        let ahead = self.clock_of(party);
        let Some(at) = at.map(|at| at.saturating_add_signed(-ahead).max(self.now)) else {
            return;
        };
        if self
            .wakes
            .get(&party)
            .is_none_or(|known| *known > at || *known < self.now)
        {
            self.wakes.insert(party, at);
            // A machine that is due at once, again and again, must not stop the clock.
            self.later((at - self.now).max(1), Event::Wake { party });
        }
    }

    fn do_for_relay(&mut self, i: RelayId, output: node::Output) {
        use node::Output as O;
        let party = Party::Relay(i);
        if self.mute.contains(&party) && matches!(output, O::Answer { .. } | O::SendLink { .. }) {
            return;
        }
        match output {
            O::Persist { seq, facts } => {
                let facts = facts.iter().map(NodeFact::encode).collect();
                self.relays[i].pending.push_back((seq, facts));
                self.commit_later(party);
            }
            O::Answer { circuit, body } => {
                let Some(c) = self.relays[i].circuits.get_mut(&circuit) else {
                    return;
                };
                c.answers += 1;
                let tunnel = c.tunnel;
                if let Some(hop) = self.hop_of(tunnel, i) {
                    self.note(|| format!("relay {i} answers {:?} on {tunnel:?}", ToOrigin::decode(&body)));
                    self.check_answer(i, circuit, &body);
                    let answer = ToOrigin::decode(&body).expect("it was just checked");
                    let body = self.lies_to_client(i, circuit, answer).encode();
                    self.in_circuit(
                        tunnel,
                        hop,
                        Event::ToClient {
                            tunnel,
                            hop: hop as u8 + 1,
                            body,
                        },
                    );
                }
            }
            O::SendLink { link, body } => {
                let Some(to) = self.relays[i]
                    .links
                    .iter()
                    .find(|(_, l)| **l == link)
                    .map(|(to, _)| *to)
                else {
                    return;
                };
                self.note(|| format!("relay {i} to {to}: {:?}", LinkMessage::decode(&body)));
                self.check_link_message(i, &body);
                let message = LinkMessage::decode(&body).expect("it was just checked");
                for message in self.lies_on_link(i, message) {
                    self.on_link(link, i, to, message.encode());
                }
            }
            O::Grant { circuit, bytes } => {
                if let Some(c) = self.relays[i].circuits.get_mut(&circuit) {
                    c.granted += bytes;
                }
            }
            O::Watch { circuit, below } => {
                if let Some(c) = self.relays[i].circuits.get_mut(&circuit) {
                    c.watch = Some(below);
                    if c.granted.saturating_sub(c.metered) < below {
                        self.later(1, Event::Low { relay: i, circuit });
                    }
                }
            }
            O::Destroy { circuit } => {
                self.relays[i].destroyed += 1;
                if let Some(tunnel) = self.relays[i].circuits.get(&circuit).map(|c| c.tunnel) {
                    self.note(|| format!("relay {i} destroys {tunnel:?}"));
                    self.later(1, Event::Close { tunnel, broke: true });
                }
            }
            O::CloseLink { link } => {
                self.relays[i].closed_links += 1;
                if let Some(other) = self.relays[i].links.iter().find(|(_, l)| **l == link).map(|(o, _)| *o) {
                    self.cut(i, other);
                }
            }
            O::CheckAbsent { escrow } => self.later(20, Event::Checked { relay: i, escrow }),
            O::ReadEscrow { escrow } => self.later(30, Event::Read { relay: i, escrow }),
            O::Flush {
                escrow,
                k,
                cumulative,
                signature,
                ..
            } => {
                self.note(|| format!("relay {i} flushes {:?} claim {k}: {cumulative}", escrow.id()));
                self.check_flush(i, escrow.id(), k);
                let wait = 1_000 + self.rng.up_to(5_000);
                let epoch = self.relays[i].epoch;
                self.later(
                    wait,
                    Event::Flush {
                        relay: i,
                        epoch,
                        escrow,
                        k,
                        cumulative,
                        signature,
                    },
                );
            }
            O::WantEscrow {
                peer, deposit, life, ..
            } => {
                self.later(
                    10,
                    Event::Offer {
                        party,
                        peer,
                        deposit,
                        life,
                    },
                );
            }
            O::OpenEscrow { escrow, deposit, .. } => {
                let epoch = self.relays[i].epoch;
                self.later(
                    LEDGER_MS,
                    Event::Open {
                        party,
                        epoch,
                        escrow,
                        deposit,
                    },
                );
            }
            O::Refund { escrow, refund } => self.later(LEDGER_MS, Event::Refund { party, escrow, refund }),
            // Nobody is trusted in this town: `sim/trust.rs` has one of its own.
            O::PayOwed { .. } | O::FindPayments { .. } | O::CheckPayment { .. } => panic!("nobody owes anything"),
            O::OfferDeclined { .. } | O::Report(_) => {}
        }
    }

    fn do_for_client(&mut self, i: usize, output: payer::Output) {
        use payer::Output as O;
        let party = Party::Client(i);
        if self.mute.contains(&party) && matches!(output, O::Ask { .. } | O::Continue { .. } | O::Send { .. }) {
            return;
        }
        match output {
            O::Persist { seq, facts } => {
                let facts = facts.iter().map(PayerFact::encode).collect();
                self.clients[i].pending.push_back((seq, facts));
                self.commit_later(party);
            }
            O::Ask { tunnel, hop, body } => self.ask(i, tunnel, hop, body),
            O::Continue {
                tunnel,
                hop,
                second,
                body,
            } => {
                let Some(t) = self.tunnels.get_mut(&tunnel) else {
                    return;
                };
                match (&mut t.conversation, second) {
                    (Some(c), _) => {
                        assert_eq!(c.hop, hop, "the second message goes to the hop of the first");
                        assert!(c.second.is_none(), "a third message in one conversation");
                        c.second = Some(second);
                        self.send_to_hop(i, tunnel, hop, body);
                    }
                    (None, Second::Cancel) => {}
                    (None, Second::Pay) => self.ask(i, tunnel, hop, body),
                }
            }
            O::Send { tunnel, hop, body } => self.send_to_hop(i, tunnel, hop, body),
            O::GiveUp { tunnel, why } => {
                self.note(|| format!("client {i} gives {tunnel:?} up: {why:?}"));
                self.later(1, Event::Close { tunnel, broke: true });
            }
            O::WantEscrow {
                guard, deposit, life, ..
            } => {
                self.later(
                    10,
                    Event::Offer {
                        party,
                        peer: guard,
                        deposit,
                        life,
                    },
                );
            }
            O::OpenEscrow { escrow, deposit, .. } => {
                let epoch = self.clients[i].epoch;
                self.later(
                    LEDGER_MS,
                    Event::Open {
                        party,
                        epoch,
                        escrow,
                        deposit,
                    },
                );
            }
            O::Refund { escrow, refund } => self.later(LEDGER_MS, Event::Refund { party, escrow, refund }),
            O::Report(payer::Report::Unpaid { why, .. }) => self.clients[i].unpaid.push(why),
            O::Report(report) => self.note(|| format!("client {i}: {report:?}")),
            O::Retire { .. } => {}
        }
    }

    fn ask(&mut self, client: usize, tunnel: TunnelId, hop: u8, body: Vec<u8>) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return;
        };
        assert!(
            t.conversation.is_none(),
            "a second conversation would close the circuit"
        );
        t.conversation = Some(Conversation { hop, second: None });
        self.send_to_hop(client, tunnel, hop, body);
    }

    fn send_to_hop(&mut self, client: usize, tunnel: TunnelId, hop: u8, body: Vec<u8>) {
        let message = ToNode::decode(&body).expect("a client says what a hop can read");
        self.note(|| format!("client {client} to hop {hop} on {tunnel:?}: {message:?}"));
        self.check_message(client, tunnel, hop, &message);
        let hop = usize::from(hop) - 1;
        self.in_circuit(tunnel, hop, Event::ToHop { tunnel, hop, body });
    }

    /// A cell between the client and a hop: hops before it carry it, and things happen to it.
    fn in_circuit(&mut self, tunnel: TunnelId, hop: usize, event: Event) {
        if let Some(t) = self.tunnels.get_mut(&tunnel) {
            t.cells += 1;
            t.link_bytes += CELL;
            for (r, circuit) in t.path.iter().take(hop) {
                if let Some(c) = self.relays[*r].circuits.get_mut(circuit) {
                    c.metered += CELL;
                }
            }
        }
        let faults = self.plan.faults;
        if self.chance(faults.drop) {
            return;
        }
        let copies = if self.chance(faults.double) { 2 } else { 1 };
        for _ in 0..copies {
            let mut wait = 5 + 15 * hop as u64;
            if self.chance(faults.delay) {
                // Later messages overtake it.
                wait += self.rng.up_to(8_000);
            }
            self.later(wait, event.clone());
        }
    }

    /// A cell on a link: ordered, whole, or never.
    fn on_link(&mut self, link: LinkId, from: RelayId, to: RelayId, body: Vec<u8>) {
        let stall = if self.chance(self.plan.faults.stall) {
            self.rng.up_to(8_000)
        } else {
            0
        };
        let before = self.order.get(&(link, to)).copied().unwrap_or(0);
        let at = (self.now + 10 + stall).max(before);
        self.order.insert((link, to), at);
        self.later(at - self.now, Event::Link { from, to, link, body });
    }

    fn commit_later(&mut self, party: Party) {
        let wait = self.rng.up_to(4);
        let epoch = self.epoch_of(party);
        self.later(wait, Event::Persisted { party, epoch });
    }

    /// The oldest commit under way is durable. Says its number.
    pub(crate) fn commit(&mut self, party: Party) -> Option<u64> {
        let (seq, facts) = match party {
            Party::Relay(i) => self.relays[i].pending.pop_front()?,
            Party::Client(i) => self.clients[i].pending.pop_front()?,
        };
        for fact in facts {
            match party {
                Party::Relay(i) => {
                    self.durable_at_relay(i, &fact);
                    self.relays[i].journal.push(fact);
                }
                Party::Client(i) => {
                    self.durable_at_client(i, &fact);
                    self.clients[i].journal.push(fact);
                }
            }
        }
        Some(seq)
    }

    pub(crate) fn close_ledger(&mut self) {
        if self.now < self.weather.down_until {
            let next = self.ledger_ms;
            return self.later(next, Event::Ledger);
        }
        self.ledger.sequence += 1;
        let (mut sequence, mut close_time) = (self.ledger.sequence, self.now / 1_000);
        if self.chance(self.weather.stale) {
            (sequence, close_time) = (sequence - 12, close_time - 60);
        }
        for i in 0..self.relays.len() {
            self.tell(i, node::Input::LedgerClosed { sequence, close_time });
        }
        let next = self.ledger_ms;
        self.later(next, Event::Ledger);
    }
}

/// Whether somebody else, or the ledger, hears of it. What it does to the own data plane ends with the process.
fn acts(output: &node::Output) -> bool {
    use node::Output as O;
    !matches!(
        output,
        O::Persist { .. } | O::Grant { .. } | O::Watch { .. } | O::OfferDeclined { .. } | O::Report(_)
    )
}

fn client_acts(output: &payer::Output) -> bool {
    use payer::Output as O;
    !matches!(output, O::Persist { .. } | O::Retire { .. } | O::Report(_))
}
