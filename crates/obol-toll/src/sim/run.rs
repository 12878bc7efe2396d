//! One event after another.

use super::moments::Moment;
use super::world::{Circuit, Event, LEDGER_MS, Party, RelayId, Sim, Tunnel};
use crate::fact::{NodeFact, PayerFact};
use crate::ids::{AddressKey, CircuitId, LinkId, TunnelId};
use crate::node::{self, Node};
use crate::payer::{self, CloseReason, Hop, Payer, finishes};
use obol_cell::{Forward, ToNode, ToOrigin};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Milliseconds between two looks at a tunnel's traffic.
const TRAFFIC_MS: u64 = 40;
/// Bytes per second in the paid class, and in the unpaid.
const PAID: u64 = 4_000_000;
const UNPAID: u64 = 200_000;
const CELL: u64 = 514;

impl Sim {
    // ---- parties ----

    pub(crate) fn start(&mut self, party: Party) {
        let mut seed = [0; 32];
        for byte in &mut seed {
            *byte = self.rng.up_to(255) as u8;
        }
        match party {
            Party::Relay(i) => {
                let account = self.account(i);
                let r = &mut self.relays[i];
                let facts = r
                    .journal
                    .iter()
                    .map(|f| NodeFact::decode(f).expect("facts are read as they were written"));
                r.node = Some(Node::restore(r.config, r.keys.clone(), seed, facts.collect::<Vec<_>>()));
                self.tell(
                    i,
                    node::Input::PayeeAccount {
                        account,
                        can_accept: true,
                    },
                );
                let (sequence, close_time) = (self.ledger.sequence, self.now / 1_000);
                self.tell(i, node::Input::LedgerClosed { sequence, close_time });
                for other in 0..self.relays.len() {
                    if other != i {
                        self.connect(i, other);
                    }
                }
            }
            Party::Client(i) => {
                let c = &mut self.clients[i];
                let facts = c
                    .journal
                    .iter()
                    .map(|f| PayerFact::decode(f).expect("facts are read as they were written"));
                let facts: Vec<_> = facts.collect();
                c.payer = Some(Payer::restore(c.config, c.keys.clone(), seed, facts));
                self.say(i, payer::Input::Tick);
            }
        }
    }

    /// A party dies with whatever is durable: of the commits under way, the first few.
    pub(crate) fn crash(&mut self, party: Party) {
        let pending = self.pending_of(party);
        let made_it = self.rng.up_to(pending as u64) as usize;
        self.crash_with(party, made_it);
    }

    pub(crate) fn pending_of(&self, party: Party) -> usize {
        match party {
            Party::Relay(i) => self.relays[i].pending.len(),
            Party::Client(i) => self.clients[i].pending.len(),
        }
    }

    /// A party dies with so many of the commits under way.
    pub(crate) fn crash_with(&mut self, party: Party, made_it: usize) {
        self.note(|| format!("{party:?} crashes, {made_it} commits make it"));
        for _ in 0..made_it {
            self.commit(party);
        }
        let tunnels: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, t)| match party {
                Party::Relay(i) => t.path.iter().any(|(r, _)| *r == i),
                Party::Client(i) => t.client == i,
            })
            .map(|(id, _)| *id)
            .collect();
        match party {
            Party::Relay(i) => {
                let r = &mut self.relays[i];
                r.node = None;
                r.epoch += 1;
                r.pending.clear();
                r.circuits.clear();
                for other in std::mem::take(&mut r.links).into_keys() {
                    self.link_lost(other, i);
                }
            }
            Party::Client(i) => {
                let c = &mut self.clients[i];
                c.payer = None;
                c.epoch += 1;
                c.pending.clear();
            }
        }
        for tunnel in tunnels {
            self.close_tunnel(tunnel, true);
        }
        let wait = 200 + self.rng.up_to(15_000);
        self.later(wait, Event::Restart { party });
    }

    /// `at` notices that its link to `other` is gone.
    fn link_lost(&mut self, at: RelayId, other: RelayId) {
        if let Some(link) = self.relays[at].links.remove(&other) {
            self.tell(at, node::Input::LinkDown { link });
        }
    }

    pub(crate) fn connect(&mut self, a: RelayId, b: RelayId) {
        let up = |r: RelayId, sim: &Sim| sim.relays.get(r).is_some_and(|r| r.node.is_some());
        if !up(a, self) || !up(b, self) || self.relays[a].links.contains_key(&b) {
            return;
        }
        let link = LinkId(self.fresh());
        self.relays[a].links.insert(b, link);
        self.relays[b].links.insert(a, link);
        for (one, other) in [(a, b), (b, a)] {
            if self.relays[one].links.get(&other) != Some(&link) {
                // It died while it was told.
                return;
            }
            let peer = Some(self.relays[other].id);
            self.tell(
                one,
                node::Input::LinkUp {
                    link,
                    peer,
                    obol: true,
                    address: None,
                },
            );
        }
    }

    pub(crate) fn cut(&mut self, a: RelayId, b: RelayId) {
        if !self.relays[a].links.contains_key(&b) {
            return;
        }
        self.note(|| format!("the link between relays {a} and {b} is cut"));
        let next_to = |t: &Tunnel| {
            t.path
                .windows(2)
                .any(|w| (w[0].0, w[1].0) == (a, b) || (w[0].0, w[1].0) == (b, a))
        };
        let tunnels: Vec<_> = self
            .tunnels
            .iter()
            .filter(|(_, t)| next_to(t))
            .map(|(id, _)| *id)
            .collect();
        for tunnel in tunnels {
            self.close_tunnel(tunnel, true);
        }
        self.link_lost(a, b);
        self.link_lost(b, a);
        let wait = 100 + self.rng.up_to(5_000);
        self.later(wait, Event::Connect { a, b });
    }

    // ---- tunnels ----

    pub(crate) fn open_tunnel(&mut self, client: usize, path: &[RelayId], wanted: u64) -> Option<TunnelId> {
        let linked = path.windows(2).all(|w| self.relays[w[0]].links.contains_key(&w[1]));
        let up = path.iter().all(|r| self.relays[*r].node.is_some());
        if !linked || !up || self.clients[client].payer.is_none() {
            return None;
        }
        let tunnel = TunnelId(self.fresh());
        let first = LinkId(self.fresh());
        let address = AddressKey::of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, client as u8)));
        self.tell(
            path[0],
            node::Input::LinkUp {
                link: first,
                peer: None,
                obol: false,
                address: Some(address),
            },
        );
        let mut circuits = Vec::new();
        let mut prev = first;
        for (i, &r) in path.iter().enumerate() {
            if self.relays[r].node.is_none() {
                // It died meanwhile, and those before it give up.
                self.give_up(&circuits);
                return None;
            }
            let id = self.fresh() as u32;
            let relay = &mut self.relays[r];
            // Circuit ids of the data plane begin anew with each run of the process.
            let circuit = CircuitId(relay.next_circuit);
            relay.next_circuit += 1;
            let new = Circuit {
                tunnel,
                granted: 0,
                initial: 0,
                metered: 0,
                watch: None,
                questions: 0,
                answers: 0,
            };
            relay.circuits.insert(circuit, new);
            circuits.push((r, circuit));
            self.tell(
                r,
                node::Input::CircuitOpened {
                    circuit,
                    link: prev,
                    id,
                },
            );
            if let Some(c) = self.relays[r].circuits.get_mut(&circuit) {
                c.initial = c.granted;
            }
            if i > 0 {
                let (before, its) = circuits[i - 1];
                self.tell(
                    before,
                    node::Input::CircuitExtended {
                        circuit: its,
                        link: prev,
                        id,
                    },
                );
            }
            if let Some(next) = path.get(i + 1) {
                let Some(link) = self.relays[r].links.get(next).copied() else {
                    self.give_up(&circuits);
                    return None;
                };
                prev = link;
            }
        }
        if path.iter().any(|r| self.relays[*r].node.is_none()) || self.clients[client].payer.is_none() {
            self.give_up(&circuits);
            return None;
        }
        let hops = path
            .iter()
            .map(|r| Hop {
                peer: self.relays[*r].id,
                paid: true,
            })
            .collect();
        let new = Tunnel {
            client,
            path: circuits,
            conversation: None,
            wanted,
            carried: 0,
            allocations: BTreeMap::new(),
            signed: 0,
            proven: 0,
            given_up: BTreeSet::new(),
            // Building it.
            link_bytes: 20 * CELL,
            complete: 0,
            refused: 0,
            cells: 0,
        };
        self.tunnels.insert(tunnel, new);
        self.note(|| format!("client {client} opens {tunnel:?} over {path:?}"));
        self.say(client, payer::Input::TunnelOpened { tunnel, hops });
        self.later(TRAFFIC_MS, Event::Traffic { tunnel });
        Some(tunnel)
    }

    pub(crate) fn close_tunnel(&mut self, tunnel: TunnelId, broke: bool) {
        let Some(t) = self.tunnels.remove(&tunnel) else {
            return;
        };
        self.note(|| format!("{tunnel:?} ends, broke: {broke}"));
        self.give_up(&t.path);
        let client = t.client;
        self.past.push(t);
        if self.clients[client].payer.is_some() {
            let why = if broke { CloseReason::Broke } else { CloseReason::Unused };
            self.say(client, payer::Input::TunnelClosed { tunnel, why });
        }
    }

    /// Circuits end at all relays that they still are at.
    fn give_up(&mut self, circuits: &[(RelayId, CircuitId)]) {
        for (r, circuit) in circuits {
            let relay = &mut self.relays[*r];
            if let Some(c) = relay.circuits.remove(circuit)
                && relay.node.is_some()
            {
                self.tell(
                    *r,
                    node::Input::CircuitClosed {
                        circuit: *circuit,
                        metered: c.metered,
                    },
                );
            }
        }
    }

    // ---- the loop ----

    /// Runs for so many milliseconds.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs for so many days, with a ledger every half hour: nothing much happens.
    pub(crate) fn run_days(&mut self, days: u64) {
        self.run_slowly(days * 86_400_000, 1_800_000);
    }

    /// Runs for so many milliseconds, with a ledger every so many.
    pub(crate) fn run_slowly(&mut self, ms: u64, ledger_ms: u64) {
        self.ledger_ms = ledger_ms;
        self.run(ms);
        self.ledger_ms = LEDGER_MS;
    }

    pub(crate) fn step(&mut self) {
        let Some(event) = self.pop() else {
            return;
        };
        self.steps += 1;
        assert!(self.steps < 2_000_000, "somebody spins: {event:?}");
        self.handle(event);
        self.mishaps();
        self.check();
    }

    fn mishaps(&mut self) {
        let (crash, cut) = (self.plan.faults.crash, self.plan.faults.cut);
        if self.faults_on && crash > 0 && self.rng.up_to(99_999) < crash {
            let parties = self.relays.len() + self.clients.len();
            let victim = self.rng.up_to(parties as u64 - 1) as usize;
            let party = match victim.checked_sub(self.relays.len()) {
                None => Party::Relay(victim),
                Some(client) => Party::Client(client),
            };
            let up = match party {
                Party::Relay(i) => self.relays[i].node.is_some(),
                Party::Client(i) => self.clients[i].payer.is_some(),
            };
            if up {
                self.crash(party);
            }
        }
        if self.faults_on && cut > 0 && self.rng.up_to(99_999) < cut {
            let a = self.rng.up_to(self.relays.len() as u64 - 1) as usize;
            let b = self.rng.up_to(self.relays.len() as u64 - 1) as usize;
            self.cut(a, b);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::ToHop { tunnel, hop, body } => self.at_hop(tunnel, hop, body),
            Event::ToClient { tunnel, hop, body } => self.at_client(tunnel, hop, body),
            Event::Link { from, to, link, body } => {
                // What was on its way on a link that is gone is gone.
                if self.relays[to].links.get(&from) == Some(&link) {
                    if let Some(kept) = &mut self.kept {
                        kept.push((to, Some(from), body.clone()));
                    }
                    self.tell(to, node::Input::LinkMessage { link, body });
                }
            }
            Event::Persisted { party, epoch } => self.persisted(party, epoch),
            Event::Wake { party } => {
                if self.wakes.get(&party).is_some_and(|at| *at <= self.now) {
                    self.wakes.remove(&party);
                }
                match party {
                    Party::Relay(i) => self.tell(i, node::Input::Tick),
                    Party::Client(i) => self.say(i, payer::Input::Tick),
                }
                self.check_awake(party);
            }
            Event::Ledger => self.close_ledger(),
            Event::Traffic { tunnel } => self.traffic(tunnel),
            Event::Low { relay, circuit } => {
                if let Some(c) = self.relays[relay].circuits.get(&circuit) {
                    let metered = c.metered;
                    self.tell(relay, node::Input::CreditLow { circuit, metered });
                }
            }
            Event::Checked { .. }
            | Event::Read { .. }
            | Event::Open { .. }
            | Event::Flush { .. }
            | Event::Refund { .. } => self.at_ledger(event),
            Event::Told(answer) => self.told(answer),
            Event::Offer {
                party,
                peer,
                deposit,
                life,
            } => {
                if self.dies(party, Moment::Told) {
                    return;
                }
                let offer = self.make_offer(party, deposit, life);
                match party {
                    Party::Relay(i) => self.tell(i, node::Input::Offer { peer, offer }),
                    Party::Client(i) => self.say(i, payer::Input::Offer { guard: peer, offer }),
                }
            }
            Event::Restart { party } => {
                self.note(|| format!("{party:?} starts again"));
                self.start(party);
            }
            Event::Connect { a, b } => self.connect(a, b),
            Event::Close { tunnel, broke } => self.close_tunnel(tunnel, broke),
        }
    }

    /// The oldest commit under way is done.
    fn persisted(&mut self, party: Party, epoch: u32) {
        if self.epoch_of(party) != epoch || self.pending_of(party) == 0 || self.dies(party, Moment::Persists) {
            return;
        }
        let Some(upto) = self.commit(party) else { return };
        if self.dies(party, Moment::Durable) {
            return;
        }
        // A journal commits what has gathered at once: all of it may be durable before the machine hears of any.
        if self.pending_of(party) > 0 && self.dies(party, Moment::AllDurable) {
            return;
        }
        match party {
            Party::Relay(i) => self.tell(i, node::Input::Persisted { upto }),
            Party::Client(i) => self.say(i, payer::Input::Persisted { upto }),
        }
    }

    fn at_hop(&mut self, tunnel: TunnelId, hop: usize, body: Vec<u8>) {
        let Some((r, circuit)) = self.tunnels.get(&tunnel).and_then(|t| t.path.get(hop).copied()) else {
            return;
        };
        let asks = !matches!(
            ToNode::decode(&body),
            Ok(ToNode::Cancel { .. })
                | Ok(ToNode::Pay(obol_cell::Pay {
                    forward: Forward::Pass(_),
                    ..
                }))
                | Err(_)
        );
        let Some(c) = self.relays[r].circuits.get_mut(&circuit) else {
            return;
        };
        c.questions += u64::from(asks);
        let metered = c.metered;
        if let Some(kept) = &mut self.kept {
            kept.push((r, None, body.clone()));
        }
        self.tell(r, node::Input::Message { circuit, body, metered });
    }

    fn at_client(&mut self, tunnel: TunnelId, hop: u8, body: Vec<u8>) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return;
        };
        let Some(conversation) = t.conversation.filter(|c| c.hop == hop) else {
            // Stock Arti closes the circuit. In an honest network without faults it never comes to this.
            assert!(
                self.plan.faults != super::Faults::NONE || !self.faults_on,
                "an answer that nobody asked for, from hop {hop}: {:?}",
                ToOrigin::decode(&body)
            );
            return;
        };
        match ToOrigin::decode(&body) {
            Ok(ToOrigin::Complete { n, .. }) => {
                t.complete += 1;
                t.proven += t.allocations.get(&n).map_or(0, |a| i128::from(a.get()));
            }
            Ok(ToOrigin::Refused { .. }) => t.refused += 1,
            _ => {}
        }
        if finishes(conversation.second, &body) {
            t.conversation = None;
        }
        let client = t.client;
        self.say(client, payer::Input::Answer { tunnel, body });
    }

    fn traffic(&mut self, tunnel: TunnelId) {
        let Some(t) = self.tunnels.get_mut(&tunnel) else {
            return;
        };
        if t.wanted == 0 {
            // It lingers a while, as streams do.
            self.later(2_000, Event::Close { tunnel, broke: false });
            return;
        }
        let paid = t
            .path
            .iter()
            .all(|(r, c)| self.relays[*r].circuits.get(c).is_some_and(|c| c.granted > c.metered));
        let bytes = if paid { PAID } else { UNPAID } * TRAFFIC_MS / 1_000;
        let cells = bytes.min(t.wanted).div_ceil(498);
        t.wanted = t.wanted.saturating_sub(cells * 498);
        t.carried += cells * CELL;
        // One cell in fifty for flow control, and a hundredth for TLS.
        let bytes = std::mem::take(&mut t.link_bytes) + cells * CELL + cells * CELL / 50 + cells * CELL / 100;
        let (client, path) = (t.client, t.path.clone());
        for &(r, circuit) in &path {
            let Some(c) = self.relays[r].circuits.get_mut(&circuit) else {
                continue;
            };
            c.metered += cells * CELL;
            let metered = c.metered;
            let credit = c.granted.saturating_sub(metered);
            if c.watch.is_some_and(|below| credit < below) {
                c.watch = None;
                self.tell(r, node::Input::CreditLow { circuit, metered });
            }
        }
        if self.counts_links {
            let guard = self.relays[path[0].0].id;
            self.say(client, payer::Input::LinkBytes { guard, bytes });
        }
        self.say(
            client,
            payer::Input::Traffic {
                tunnel,
                up: 0,
                down: cells,
            },
        );
        self.later(TRAFFIC_MS, Event::Traffic { tunnel });
    }
}
