//! A middle relay's engine in memory, with one circuit: what a forwarded cell costs without sockets and TLS.

use std::net::SocketAddr;

use obol_onion::crypto::tor1::{CircuitKeys, ClientLayers, KEY_MATERIAL_LEN};
use obol_onion::engine::{Engine, EngineConfig, Event, HandshakeAnswer, LinkId, LinkInfo, Peer, Time};

use crate::wire::{self, CELL, cell, relay};

/// See the [module](self).
pub struct Middle {
    engine: Engine,
    now: Time,
    towards_client: LinkId,
    next: LinkId,
    /// Circuit ids on the link to the next hop, of all circuits.
    ids: Vec<u32>,
    out: Vec<u8>,
    woken: Vec<LinkId>,
}

/// The first of our circuit ids on the link towards the client.
const FIRST: u32 = 0x8000_0001;
/// Credit for more than any benchmark sends.
const CREDIT: u64 = 1 << 60;

fn keys(number: u32) -> CircuitKeys {
    let mut material = [0x5d; KEY_MATERIAL_LEN];
    material[..4].copy_from_slice(&number.to_be_bytes());
    material[40..44].copy_from_slice(&number.to_be_bytes());
    CircuitKeys::from_kdf(&material)
}

fn peer(number: u8) -> Peer {
    Peer {
        ed: [number; 32],
        rsa: [number; 20],
    }
}

fn raw(id: u32, command: u8, body: &[u8]) -> Vec<u8> {
    let mut cell = id.to_be_bytes().to_vec();
    cell.push(command);
    cell.extend_from_slice(body);
    cell.resize(CELL, 0);
    cell
}

impl Middle {
    /// With so many circuits through it, each with credit if `paid`. `None` if the engine does not do what it should.
    pub fn new(circuits: u32, paid: bool) -> Option<Middle> {
        let config = EngineConfig {
            allow_private_addresses: true,
            ..EngineConfig::default()
        };
        let mut engine = Engine::new(config, [7; 32]);
        let now = Time(1_000_000);
        let link = |number, initiated| LinkInfo {
            peer: Some(peer(number)),
            remote: SocketAddr::from(([10, 0, 0, number], 9001)),
            initiated,
            canonical: true,
            canonical_to_peer: true,
            pads: false,
            known: true,
        };
        let towards_client = engine.link_up(now, link(1, false));
        let next = engine.link_up(now, link(2, true));
        let mut this = Middle {
            engine,
            now,
            towards_client,
            next,
            ids: Vec::new(),
            out: Vec::new(),
            woken: Vec::new(),
        };
        for number in 0..circuits {
            this.open(number, paid)?;
        }
        Some(this)
    }

    fn open(&mut self, number: u32, paid: bool) -> Option<()> {
        let id = FIRST + number;
        let skin = wire::create2(wire::NTOR, &[0; 84]);
        self.receive(self.towards_client, raw(id, cell::CREATE2, &skin))?;
        let circuit = loop {
            match self.engine.poll_event()? {
                Event::Handshake(job) => break job.circuit,
                _ => continue,
            }
        };
        let answer = HandshakeAnswer {
            reply: vec![0; 64],
            keys: keys(number),
            congestion_control: None,
        };
        self.engine.created(self.now, circuit, Some(answer));
        if paid {
            self.engine.grant(circuit, CREDIT);
        }
        self.transmit(self.towards_client);

        let mut layers = ClientLayers::new();
        layers.push(&keys(number));
        let mut extend = vec![3, 0, 6, 10, 0, 0, 2];
        extend.extend_from_slice(&9001_u16.to_be_bytes());
        extend.extend_from_slice(&[2, 20]);
        extend.extend_from_slice(&peer(2).rsa);
        extend.extend_from_slice(&[3, 32]);
        extend.extend_from_slice(&peer(2).ed);
        extend.extend_from_slice(&skin);
        let mut body = wire::message(relay::EXTEND2, 0, &extend);
        layers.originate(0, &mut body)?;
        self.receive(self.towards_client, raw(id, cell::RELAY_EARLY, &body))?;
        while self.engine.poll_event().is_some() {}
        self.transmit(self.next);
        let asked = u32::from_be_bytes(*self.out.first_chunk()?);
        let mut reply = vec![0, 64];
        reply.extend_from_slice(&[0; 64]);
        self.receive(self.next, raw(asked, cell::CREATED2, &reply))?;
        while self.engine.poll_event().is_some() {}
        self.transmit(self.towards_client);
        self.ids.push(asked);
        Some(())
    }

    fn receive(&mut self, link: LinkId, mut bytes: Vec<u8>) -> Option<()> {
        let taken = self.engine.receive(self.now, link, &mut bytes).ok()?;
        (taken == bytes.len()).then_some(())
    }

    fn transmit(&mut self, link: LinkId) {
        self.out.clear();
        self.engine.transmit(self.now, link, &mut self.out, 64 * 1024);
    }

    /// `cells` cells as they come from the next hop, by turns for each circuit.
    pub fn batch(&self, cells: usize) -> Vec<u8> {
        let ids = self.ids.iter().cycle().take(cells);
        ids.flat_map(|id| raw(*id, cell::RELAY, &[0xa7; 509])).collect()
    }

    /// Forwards a batch towards the client; returns how many bytes went out.
    pub fn forward(&mut self, batch: &mut [u8]) -> usize {
        let Ok(_) = self.engine.receive(self.now, self.next, batch) else {
            return 0;
        };
        self.woken.clear();
        self.engine.take_woken(&mut self.woken);
        while self.engine.poll_event().is_some() {}
        let mut sent = 0;
        loop {
            self.transmit(self.towards_client);
            if self.out.is_empty() {
                return sent;
            }
            sent += self.out.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_that_comes_goes_out_with_a_layer_on() {
        for paid in [false, true] {
            let mut middle = Middle::new(3, paid).unwrap();
            let mut batch = middle.batch(60);
            let before = batch.clone();
            assert_eq!(middle.forward(&mut batch), 60 * CELL);
            assert_ne!(middle.out, before);
        }
    }
}
