//! Links: which one a circuit takes, when they are closed, their padding. One engine, and the links' other ends played.

use super::*;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;

/// One relay, its clock, and what its links sent.
struct Relay {
    engine: Engine,
    now: Time,
}

fn client() -> LinkInfo {
    LinkInfo {
        peer: None,
        remote: SocketAddr::from(([192, 0, 2, 1], 40_000)),
        initiated: false,
        canonical: false,
        canonical_to_peer: false,
        pads: true,
        known: true,
    }
}

fn relay() -> LinkInfo {
    LinkInfo {
        peer: Some(peer(1)),
        remote: address(1),
        initiated: false,
        canonical: true,
        canonical_to_peer: true,
        pads: true,
        known: true,
    }
}

fn with(parameters: &[(&str, i32)]) -> Relay {
    let parameter = |name: &str, default| {
        let found = parameters.iter().find(|(of, _)| *of == name);
        found.map_or(default, |(_, value)| *value)
    };
    let config = EngineConfig {
        links: LinkParameters::new(parameter),
        allow_private_addresses: true,
        // Here it is the links that are looked at.
        idle_looks: None,
        ..EngineConfig::default()
    };
    Relay {
        engine: Engine::new(config, [3; 32]),
        now: Time(SECOND),
    }
}

impl Relay {
    fn up(&mut self, info: LinkInfo) -> LinkId {
        self.engine.link_up(self.now, info)
    }

    fn cell(&mut self, link: LinkId, id: u32, command: u8, body: &[u8]) {
        let mut cell = id.to_be_bytes().to_vec();
        cell.push(command);
        cell.extend_from_slice(body);
        cell.resize(CELL_LEN, 0);
        assert_eq!(self.engine.receive(self.now, link, &mut cell), Ok(CELL_LEN));
    }

    /// A circuit of the other end, by CREATE2 or CREATE_FAST.
    fn create(&mut self, link: LinkId, id: u32, command: u8) {
        self.cell(link, id, command, &[0, 2, 0, 84]);
        while let Some(event) = self.engine.poll_event() {
            if let Event::Handshake(job) = event {
                let answer = HandshakeAnswer {
                    reply: vec![9; 64],
                    keys: keys(1),
                    congestion_control: None,
                };
                self.engine.created(self.now, job.circuit, Some(answer));
            }
        }
    }

    fn destroy(&mut self, link: LinkId, id: u32) {
        self.cell(link, id, command::DESTROY, &[0]);
    }

    /// PADDING_NEGOTIATE.
    fn negotiate(&mut self, link: LinkId, version: u8, command: u8, low: u16, high: u16) {
        let mut body = vec![version, command];
        body.extend(low.to_be_bytes());
        body.extend(high.to_be_bytes());
        self.cell(link, 0, command::PADDING_NEGOTIATE, &body);
    }

    /// What a link's writer takes until it is told to sleep: the commands of the cells.
    fn take(&mut self, link: LinkId) -> Vec<u8> {
        let mut out = Vec::new();
        while self.engine.transmit(self.now, link, &mut out, 64 * 1024) == Transmit::More {}
        out.chunks(CELL_LEN).map(|cell| cell[4]).collect()
    }

    /// Lets time pass as the housekeeper does; returns after how many milliseconds each PADDING came on `link`.
    fn pass(&mut self, link: LinkId, micros: u64) -> Vec<u64> {
        let (start, mut padding) = (self.now, Vec::new());
        while self.now.since(start) < micros {
            self.now = self.now.plus(100_000);
            self.engine.tick(self.now);
            let came = self
                .take(link)
                .into_iter()
                .filter(|command| *command == command::PADDING);
            padding.extend(came.map(|_| self.now.since(start) / 1000));
        }
        padding
    }

    /// Lets much time pass at once, and returns which links are to be closed.
    fn jump(&mut self, micros: u64) -> Vec<(LinkId, LinkFault)> {
        self.now = self.now.plus(micros);
        self.engine.tick(self.now);
        let mut closed = Vec::new();
        while let Some(event) = self.engine.poll_event() {
            if let Event::CloseLink { link, why } = event {
                self.engine.link_down(self.now, link);
                closed.push((link, why));
            }
        }
        closed
    }

    fn best(&self) -> Option<u32> {
        self.engine.best_link(&peer(1).rsa, None, &[])
    }
}

fn gaps(times: &[u64]) -> Vec<u64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_quiet_client_link_with_circuits_is_padded_at_random_times() {
    let mut relay = with(&[]);
    let link = relay.up(client());
    relay.create(link, 0x8000_0001, command::CREATE2);
    let times = relay.pass(link, 600 * SECOND);
    let gaps = gaps(&times);
    assert!((60..200).contains(&gaps.len()), "{}", gaps.len());
    // Looked at every tenth of a second.
    assert!(gaps.iter().all(|gap| (1_400..=9_700).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap < 4_000) && gaps.iter().any(|gap| *gap > 8_500));
    assert_eq!(relay.engine.counters().padding_sent, times.len() as u64);
    // Not into anything else that is sent.
    for _ in 0..40 {
        relay.negotiate(link, 0, 2, 1_500, 1_500);
        relay.create(link, 0x8000_0002, command::CREATE_FAST);
        relay.destroy(link, 0x8000_0002);
        assert_eq!(relay.pass(link, SECOND), []);
    }
}

#[test]
fn a_peer_stops_and_starts_padding_and_may_ask_for_less_but_not_for_more() {
    let mut relay = with(&[]);
    let link = relay.up(client());
    relay.create(link, 0x8000_0001, command::CREATE2);
    relay.negotiate(link, 0, 1, 0, 0);
    assert_eq!(relay.pass(link, 60 * SECOND), []);
    for (asked, expected) in [((20_000, 20_000), 20_000), ((0, 1), 1_500), ((3_000, 10), 3_000)] {
        relay.negotiate(link, 0, 2, asked.0, asked.1);
        relay.pass(link, 30 * SECOND);
        let gaps = gaps(&relay.pass(link, 100 * SECOND));
        assert!(
            gaps.len() >= 3 && gaps.iter().all(|gap| gap.abs_diff(expected) <= 150),
            "{asked:?}: {gaps:?}"
        );
    }
    // Two zeros ask for the default.
    relay.negotiate(link, 0, 2, 0, 0);
    let default = gaps(&relay.pass(link, 600 * SECOND));
    assert!(default.iter().any(|gap| *gap > 8_000), "{default:?}");
    // Neither of another version nor an unknown command means anything.
    relay.negotiate(link, 1, 1, 0, 0);
    relay.negotiate(link, 0, 7, 0, 0);
    assert!(!relay.pass(link, 10 * SECOND).is_empty());
}

#[test]
fn links_that_are_not_used_or_not_to_clients_or_not_able_to_are_not_padded() {
    let mut relay_ = with(&[]);
    let directory = relay_.up(client());
    relay_.create(directory, 0x8000_0001, command::CREATE_FAST);
    assert_eq!(relay_.pass(directory, 60 * SECOND), []);
    let old = relay_.up(LinkInfo {
        pads: false,
        ..client()
    });
    relay_.create(old, 0x8000_0001, command::CREATE2);
    relay_.negotiate(old, 0, 2, 1_500, 1_500);
    assert_eq!(relay_.pass(old, 60 * SECOND), []);
    let between = relay_.up(relay());
    relay_.create(between, 0x8000_0001, command::CREATE2);
    assert_eq!(relay_.pass(between, 60 * SECOND), []);
    // Until the consensus knows it, whoever is there may be a client.
    relay_.engine.judge_links(relay_.now, |_| false);
    assert!(!relay_.pass(between, 60 * SECOND).is_empty());
    relay_.engine.judge_links(relay_.now, |_| true);
    assert_eq!(relay_.pass(between, 60 * SECOND), []);
    for (parameters, pads) in [
        (&[("nf_pad_relays", 1)][..], true),
        (&[("nf_pad_relays", 1), ("nf_ito_low", 0), ("nf_ito_high", 0)], false),
        (
            &[("nf_pad_relays", 1), ("nf_ito_low", -7), ("nf_ito_high", i32::MAX)],
            true,
        ),
    ] {
        let mut relay_ = with(parameters);
        let link = relay_.up(relay());
        relay_.create(link, 0x8000_0001, command::CREATE2);
        assert_eq!(!relay_.pass(link, 240 * SECOND).is_empty(), pads, "{parameters:?}");
    }
}

#[test]
fn padding_can_begin_with_the_first_cell_that_is_carried() {
    let mut net = Net::of_size(2);
    let parameters = LinkParameters::new(|name, default| if name == "nf_pad_before_usage" { 0 } else { default });
    net.nodes[0].set_link_parameters(parameters);
    let client = net.client(0);
    let mut circ = net.open(client, &[0, 1]);
    let padding = |net: &mut Net| {
        let mut cells = 0;
        for _ in 0..200 {
            net.now = net.now.plus(100_000);
            let now = net.now;
            net.nodes[0].tick(now);
            net.deliver_woken();
            cells += net.cells(client, 0).len();
        }
        cells
    };
    assert_eq!(padding(&mut net), 0, "built, not used");
    net.stream(&mut circ, 1);
    net.run();
    assert!(padding(&mut net) >= 1);
}

#[test]
fn circuits_take_the_canonical_link_then_the_older_one_and_the_others_die_out() {
    let mut relay_ = with(&[]);
    let client = relay_.up(client());
    assert_eq!(relay_.best(), None, "never a client's");
    let elsewhere = relay_.up(LinkInfo {
        canonical: false,
        remote: address(9),
        ..relay()
    });
    assert_eq!(relay_.best(), None, "not at an address that is not the peer's own");
    assert_eq!(
        relay_.engine.best_link(&peer(1).rsa, None, &[address(9)]),
        Some(elsewhere.index),
        "unless it is the one that was asked for"
    );
    relay_.now = relay_.now.plus(SECOND);
    let unseen = relay_.up(LinkInfo {
        canonical_to_peer: false,
        ..relay()
    });
    relay_.now = relay_.now.plus(SECOND);
    let first = relay_.up(relay());
    relay_.now = relay_.now.plus(SECOND);
    let second = relay_.up(LinkInfo {
        initiated: true,
        ..relay()
    });
    assert_eq!(relay_.best(), Some(first.index));
    // As long as it carries something, even a worse link stays.
    relay_.create(second, 0x0000_0001, command::CREATE2);
    let mut closed: Vec<LinkId> = relay_.jump(90 * SECOND).into_iter().map(|(link, _)| link).collect();
    closed.sort();
    assert_eq!(closed, [elsewhere, unseen]);
    relay_.destroy(second, 0x0000_0001);
    assert_eq!(relay_.jump(90 * SECOND), [(second, LinkFault::Idle)]);
    assert_eq!(relay_.jump(90 * SECOND), [(client, LinkFault::Idle)]);
    assert_eq!(relay_.best(), Some(first.index));
}

#[test]
fn an_old_link_takes_no_new_circuits_and_ends_with_its_last_one() {
    let mut relay_ = with(&[]);
    let link = relay_.up(relay());
    relay_.create(link, 0x8000_0001, command::CREATE2);
    relay_.take(link);
    for _ in 0..7 * 24 {
        assert_eq!(relay_.jump(HOUR), []);
        relay_.take(link);
    }
    assert_eq!(relay_.best(), None);
    relay_.destroy(link, 0x8000_0001);
    assert_eq!(relay_.jump(SECOND), [(link, LinkFault::Idle)]);
}

#[test]
fn links_without_circuits_are_closed_at_random_times_and_quiet_ones_kept_alive() {
    let mut relay_ = with(&[]);
    let clients: Vec<LinkId> = (0..50).map(|_| relay_.up(client())).collect();
    let relays: Vec<LinkId> = (0..50)
        .map(|n| {
            relay_.up(LinkInfo {
                peer: Some(peer(n)),
                ..relay()
            })
        })
        .collect();
    let used = relay_.up(client());
    relay_.create(used, 0x8000_0001, command::CREATE2);
    relay_.negotiate(used, 0, 1, 0, 0);
    relay_.take(used);
    let mut ages: HashMap<LinkId, u64> = HashMap::new();
    let mut alive = 0;
    for minute in 1..=120 {
        for (link, why) in relay_.jump(60 * SECOND) {
            assert_eq!(why, LinkFault::Idle);
            ages.insert(link, minute);
        }
        alive += relay_.take(used).len();
        for link in clients.iter().chain(&relays) {
            relay_.take(*link);
        }
    }
    let range = |links: &[LinkId]| {
        let ages = links.iter().map(|link| ages[link]);
        (ages.clone().min().unwrap(), ages.max().unwrap())
    };
    let (least, most) = range(&clients);
    assert!(least >= 3 && most <= 5 && least < most, "{least} {most}");
    let (least, most) = range(&relays);
    assert!((45..50).contains(&least) && (70..=76).contains(&most), "{least} {most}");
    assert!(!ages.contains_key(&used));
    assert_eq!(alive, 24, "every five minutes");
}

#[test]
fn a_link_whose_peer_takes_nothing_for_fifty_minutes_is_closed() {
    let mut relay_ = with(&[]);
    let link = relay_.up(client());
    relay_.create(link, 0x8000_0001, command::CREATE2);
    // Its writer has taken something, and is not heard of again.
    let mut out = Vec::new();
    assert_eq!(relay_.engine.transmit(relay_.now, link, &mut out, 1000), Transmit::More);
    assert_eq!(relay_.jump(49 * 60 * SECOND), []);
    assert_eq!(relay_.jump(2 * 60 * SECOND), [(link, LinkFault::Stalled)]);
}

#[test]
fn a_lone_circuit_that_says_nothing_has_as_long_as_one_of_many() {
    let mut relay_ = with(&[]);
    relay_.engine.config.idle_looks = Some(2);
    let link = relay_.up(client());
    relay_.create(link, 0x8000_0001, command::CREATE_FAST);
    for _ in 0..60 {
        relay_.jump(SECOND);
    }
    assert_eq!(relay_.engine.counters().circuits[1], 1, "a minute is not too long");
    for _ in 0..130 {
        relay_.jump(SECOND);
    }
    assert_eq!(relay_.engine.counters().circuits_idle, 1);
}

#[test]
fn a_clients_circuit_that_goes_nowhere_and_says_nothing_is_closed_and_others_are_not() {
    let mut relay_ = with(&[]);
    relay_.engine.config.idle_looks = Some(2);
    let (ours, theirs) = (relay_.up(client()), relay_.up(relay()));
    for id in 1..=100 {
        relay_.create(ours, 0x8000_0000 + id, command::CREATE_FAST);
    }
    relay_.create(theirs, 0x8000_0001, command::CREATE2);
    assert_eq!(relay_.engine.counters().circuits[1], 101);
    for _ in 0..45 {
        relay_.jump(SECOND);
    }
    assert_eq!(relay_.engine.counters().circuits[1], 101, "not yet");
    // What is said on one of them is not understood: it ends at once.
    relay_.cell(ours, 0x8000_0007, command::RELAY, &[7; 509]);
    let said = relay_.engine.counters().circuits[1];
    for _ in 0..77 {
        relay_.jump(SECOND);
    }
    let counters = relay_.engine.counters();
    assert_eq!(counters.circuits_idle, said - 1, "all but the relay's");
    assert_eq!(counters.circuits[1], 1);
    assert!(relay_.take(ours).contains(&command::DESTROY));
}

#[test]
fn one_address_cannot_have_all_circuits() {
    let mut relay_ = with(&[]);
    relay_.engine.config.circuits_per_neighbour = 10;
    let (first, second) = (relay_.up(client()), relay_.up(client()));
    for id in 1..=8 {
        relay_.create(first, 0x8000_0000 + id, command::CREATE_FAST);
        relay_.create(second, 0x8000_0000 + id, command::CREATE_FAST);
    }
    assert_eq!(relay_.engine.counters().circuits[1], 10);
    assert_eq!(relay_.engine.counters().creates_refused, 6);
    let other = relay_.up(LinkInfo {
        remote: SocketAddr::from(([192, 0, 2, 2], 40_000)),
        ..client()
    });
    relay_.create(other, 0x8000_0001, command::CREATE_FAST);
    assert_eq!(relay_.engine.counters().circuits[1], 11);
    relay_.destroy(first, 0x8000_0001);
    relay_.create(first, 0x8000_0009, command::CREATE_FAST);
    assert_eq!(relay_.engine.counters().circuits[1], 11);
}
