//! Circuits that go on: EXTEND2 in, CREATE2 to the next hop, CREATED2 back, EXTENDED2 to the client.
//! tor-spec, [create and created cells](https://spec.torproject.org/tor-spec/create-created-cells.html#extend).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::Engine;
use super::cells::Kind;
use super::circuit::{BACKWARD, End, FORWARD, Next, Waiting};
use super::event::{Event, ExtendId, NextHop, PaymentEvent};
use super::ids::{LinkId, Time};
use super::link::Place;
use super::wire::{DATA_MAX, DestroyReason, command, relay};
use crate::crypto::tor1::BODY_LEN;

/// Tries for a circuit id that is free.
const ID_TRIES: usize = 64;
/// Handshake types that must not be passed on: TAP, and CREATE_FAST's.
const TYPE_TAP: u16 = 0;
const TYPE_FAST: u16 = 1;

impl Engine {
    /// From now on these addresses are our own: nobody is extended there.
    pub fn set_own_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.config.own_addresses = addresses;
    }

    /// EXTEND2 from the client. `early`: it came in a RELAY_EARLY cell, as it must.
    pub(crate) fn extend2(&mut self, index: u32, early: bool, stream: u16, data: &[u8]) {
        if stream != 0 || !(early || self.config.defences.late_extends) {
            return;
        }
        let Some(circuit) = self.circuits.at(index) else { return };
        let Some(before) = self.links.at(circuit.prev.link) else {
            return;
        };
        let (from, neighbour) = (before.info.peer, before.info.neighbour());
        let parsed = matches!(circuit.next, Next::Nowhere).then(|| parse(data)).flatten();
        let Some((mut to, handshake)) = parsed else {
            return self.protocol_error(index);
        };
        let back = from.is_some_and(|peer| peer.rsa == to.rsa || Some(peer.ed) == to.ed);
        if !self.config.allow_private_addresses {
            to.addresses.retain(|address| is_public(address.ip()));
        }
        to.addresses
            .retain(|address| !self.config.own_addresses.contains(address));
        if back || to.addresses.is_empty() {
            return self.protocol_error(index);
        }
        let link = self.best_link(&to.rsa, to.ed.as_ref(), &to.addresses);
        let Some(name) = self.circuits.name(index) else { return };
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        circuit.extends = circuit.extends.wrapping_add(1);
        let extend = ExtendId {
            circuit: name,
            number: circuit.extends,
        };
        let waiting = Waiting {
            number: extend.number,
            to: to.clone(),
            handshake: handshake.to_vec(),
        };
        circuit.next = Next::Waiting(Box::new(waiting));
        match link.and_then(|link| self.links.name(link)) {
            Some(link) => self.extend_via(self.now, extend, link),
            None => self.events.push_back(Event::NeedLink { extend, neighbour, to }),
        }
    }

    /// What waits for a link because of this EXTEND2, if the circuit has not thought better of it.
    fn waiting(&self, extend: ExtendId) -> Option<&Waiting> {
        match &self.circuits.get(extend.circuit)?.next {
            Next::Waiting(waiting) if waiting.number == extend.number => Some(waiting),
            _ => None,
        }
    }

    /// There is a link to the next hop that an [`Event::NeedLink`] named: this one. If it is another relay's, the circuit
    /// is ended.
    pub fn extend_via(&mut self, now: Time, extend: ExtendId, link: LinkId) {
        self.now = self.now.max(now);
        let circuit = extend.circuit;
        let Some(waiting) = self.waiting(extend) else { return };
        let Some(over) = self.links.get(link) else {
            return self.extend_failed(now, extend, DestroyReason::ConnectFailed);
        };
        let fits =
            |peer: super::event::Peer| peer.rsa == waiting.to.rsa && waiting.to.ed.is_none_or(|ed| ed == peer.ed);
        if !over.info.peer.is_some_and(fits) {
            return self.extend_failed(now, extend, DestroyReason::Identity);
        }
        let (initiated, full) = (
            over.info.initiated,
            over.circuits.len() >= self.config.circuits_per_link || over.is_slow(),
        );
        let handshake = waiting.handshake.clone();
        let half = u32::from(initiated) << 31;
        let id = (0..ID_TRIES)
            .map(|_| (self.rng.next_u32() & 0x7fff_ffff) | half)
            .find(|id| *id != 0 && self.links.get(link).is_some_and(|link| !link.circuits.contains_key(id)));
        let Some(id) = id.filter(|_| !full) else {
            return self.extend_failed(now, extend, DestroyReason::ResourceLimit);
        };
        if let Some(over) = self.links.get_mut(link) {
            over.circuits.insert(id, Place::Next(circuit.index));
        }
        if let Some(this) = self.circuits.get_mut(circuit) {
            this.next = Next::Asked(End { link: link.index, id });
        }
        self.used_for_circuits(link.index);
        self.send_control(link.index, id, command::CREATE2, &handshake);
    }

    /// The next hop that an [`Event::NeedLink`] named cannot be reached.
    pub fn extend_failed(&mut self, now: Time, extend: ExtendId, reason: DestroyReason) {
        self.now = self.now.max(now);
        if self.waiting(extend).is_some() {
            self.counters.extends_failed += 1;
            self.end_circuit(extend.circuit.index, Some(reason), None);
        }
    }

    pub(crate) fn created2_cell(&mut self, link: u32, id: u32, body: &[u8; BODY_LEN]) {
        let Some(Place::Next(index)) = self.links.at(link).and_then(|link| link.circuits.get(&id)).copied() else {
            return self.unexpected_created(link, id);
        };
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        let Next::Asked(end) = circuit.next else {
            return self.protocol_error(index);
        };
        let len = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        if len > DATA_MAX {
            return self.protocol_error(index);
        }
        circuit.next = Next::Open(end);
        self.originate(index, relay::EXTENDED2, 0, &body[..len]);
        if let (Some(circuit), Some(link)) = (self.circuits.name(index), self.links.name(link)) {
            self.events
                .push_back(Event::Payment(PaymentEvent::CircuitExtended { circuit, link, id }));
        }
    }

    /// A CREATED of any kind that nobody asked for.
    pub(crate) fn unexpected_created(&mut self, link: u32, id: u32) {
        if let Some(Place::Prev(index) | Place::Next(index)) =
            self.links.at(link).and_then(|link| link.circuits.get(&id)).copied()
        {
            self.protocol_error(index);
        }
    }

    /// TRUNCATE from the client: this becomes the last hop again.
    pub(crate) fn truncate(&mut self, index: u32, data: &[u8]) {
        if data.is_empty() {
            return self.protocol_error(index);
        }
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        let end = circuit.end(FORWARD);
        if matches!(circuit.next, Next::Waiting(_) | Next::Asked(_) | Next::Open(_)) {
            circuit.next = Next::Nowhere;
        }
        let cells = circuit.queues[FORWARD].clear(&mut self.pool);
        circuit.held = circuit.held.saturating_sub(cells as u32);
        self.memory.update(&mut self.circuits, index);
        if let Some(end) = end {
            self.leave_link(end, Some(DestroyReason::Requested));
        }
        self.originate(index, relay::TRUNCATED, 0, &[DestroyReason::Requested as u8]);
    }

    /// Queues a relay message of our own to the client, other than DATA.
    pub(crate) fn originate(&mut self, index: u32, command: u8, stream: u16, data: &[u8]) {
        let slot = self.compose(Kind::Originated, command, stream, data);
        self.enqueue(index, BACKWARD, slot);
    }

    /// A relay message of our own in a slot, in clear: header, data, four zero bytes, random padding.
    #[inline]
    pub(crate) fn compose(&mut self, kind: Kind, command: u8, stream: u16, data: &[u8]) -> u32 {
        let data = &data[..data.len().min(DATA_MAX)];
        let slot = self.pool.take(kind);
        let body = &mut self.pool.slot_mut(slot).body;
        body[..11].fill(0);
        body[0] = command;
        body[3..5].copy_from_slice(&stream.to_be_bytes());
        body[9..11].copy_from_slice(&(data.len() as u16).to_be_bytes());
        body[11..11 + data.len()].copy_from_slice(data);
        let zeros = (11 + data.len() + 4).min(BODY_LEN);
        body[11 + data.len()..zeros].fill(0);
        self.rng.fill(&mut body[zeros..]);
        slot
    }
}

/// The next hop, and type, length and onionskin as they go into CREATE2. `None`: malformed, or not allowed.
///
/// Laxer than tor-linkspec, as C Tor is: the Ed25519 identity may be missing, and so may the IPv4 address if there is
/// an IPv6 one; link specifiers of unknown types are passed over.
fn parse(data: &[u8]) -> Option<(NextHop, &[u8])> {
    let (count, mut rest) = data.split_first()?;
    let (mut rsa, mut ed) = (None, None);
    let (mut v4, mut v6) = (None, None);
    for _ in 0..*count {
        let (&[kind, len], tail) = rest.split_first_chunk::<2>()?;
        let (value, tail) = tail.split_at_checked(usize::from(len))?;
        rest = tail;
        match kind {
            0 => {
                let (address, port) = value.split_first_chunk::<4>()?;
                let port = u16::from_be_bytes(port.try_into().ok()?);
                v4 = v4.or(Some(SocketAddr::from((Ipv4Addr::from(*address), port))));
            }
            1 => {
                let (address, port) = value.split_first_chunk::<16>()?;
                let port = u16::from_be_bytes(port.try_into().ok()?);
                v6 = v6.or(Some(SocketAddr::from((Ipv6Addr::from(*address), port))));
            }
            2 if rsa.is_none() => rsa = Some(<[u8; 20]>::try_from(value).ok()?),
            3 if ed.is_none() => ed = Some(<[u8; 32]>::try_from(value).ok()?),
            2 | 3 => return None,
            _ => {}
        }
    }
    let (&[t0, t1, l0, l1], onionskin) = rest.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let kind = u16::from_be_bytes([t0, t1]);
    onionskin.get(..len)?;
    let handshake = &rest[..4 + len];
    let addresses: SmallVec<[SocketAddr; 2]> = v4.into_iter().chain(v6).filter(|address| address.port() != 0).collect();
    let rsa = rsa.filter(|rsa| *rsa != [0; 20])?;
    let allowed = !addresses.is_empty() && kind != TYPE_TAP && kind != TYPE_FAST && handshake.len() <= BODY_LEN;
    allowed.then_some((NextHop { rsa, ed, addresses }, handshake))
}

/// Whether an address is one of the public internet: what a relay of the public network may be asked to connect to.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(a == 0
                || a == 10
                || a == 127
                || a >= 224
                || (a == 100 && (64..128).contains(&b))
                || (a == 169 && b == 254)
                || (a == 172 && (16..32).contains(&b))
                || (a == 192 && b == 168))
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            // ::/8, fc00::/7, fe80::/10, fec0::/10, ff00::/8
            !(first < 0x100 || first & 0xfe00 == 0xfc00 || first & 0xff80 == 0xfe80 || first >= 0xff00)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_in_every_notation() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.31.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fc00::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "ff02::1",
            "224.0.0.1",
            "100.64.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "100.128.0.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    /// One IPv4 link specifier, one RSA one, then an ntor onionskin of nothing.
    fn extend2(specs: &[(u8, &[u8])], kind: u16) -> Vec<u8> {
        let mut data = vec![specs.len() as u8];
        for (kind, value) in specs {
            data.extend([*kind, value.len() as u8]);
            data.extend_from_slice(value);
        }
        data.extend(kind.to_be_bytes());
        data.extend([0, 2, 9, 9]);
        data
    }

    #[test]
    fn an_extend_without_an_ed25519_identity_and_with_unknown_specifiers_is_understood() {
        let data = extend2(&[(0, &[1, 2, 3, 4, 0, 80]), (99, &[1, 2, 3]), (2, &[7; 20])], 2);
        let (to, handshake) = parse(&data).unwrap();
        assert_eq!(to.rsa, [7; 20]);
        assert_eq!(to.ed, None);
        assert_eq!(to.addresses.as_slice(), &["1.2.3.4:80".parse().unwrap()]);
        assert_eq!(handshake, [0, 2, 0, 2, 9, 9]);
    }

    #[test]
    fn malformed_extends_are_refused() {
        let v4: (u8, &[u8]) = (0, &[1, 2, 3, 4, 0, 80]);
        let rsa: (u8, &[u8]) = (2, &[7; 20]);
        assert!(parse(&extend2(&[v4, rsa], 3)).is_some());
        for (specs, kind, why) in [
            (vec![v4], 2, "no RSA identity"),
            (vec![rsa], 2, "no address"),
            (vec![v4, rsa, rsa], 2, "two RSA identities"),
            (vec![v4, (2, &[0; 20][..])], 2, "RSA identity of zeros"),
            (vec![(0, &[1, 2, 3, 4, 0, 0][..]), rsa], 2, "port 0"),
            (vec![(0, &[1, 2, 3][..]), rsa], 2, "short address"),
            (vec![v4, rsa], 0, "TAP"),
            (vec![v4, rsa], 1, "fast"),
        ] {
            assert!(parse(&extend2(&specs, kind)).is_none(), "{why}");
        }
        let whole = extend2(&[v4, rsa], 2);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_none(), "cut at {len}");
        }
    }
}
