//! What all of these tests use: relays with keys, and a small relay that answers one kind of stream.

use obol_onion::crypto::tor1::{BODY_LEN, BackwardLayer, ForwardLayer};
use obol_onion::handshake::{fast, ntor, ntor_v3};
use obol_relay::handshake::{Established, Local, Timeouts};
use obol_relay::keys::Keys;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Far more than any stage takes.
const PATIENCE: Duration = Duration::from_secs(60);
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Keys of two relays. RSA keys take a while to find: once for all tests.
pub fn keys(which: usize) -> Arc<Keys> {
    static KEYS: [OnceLock<(tempfile::TempDir, Arc<Keys>)>; 2] = [OnceLock::new(), OnceLock::new()];
    let (_, keys) = KEYS[which].get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::open(&directory.path().join("keys"), SystemTime::now()).unwrap();
        (directory, keys)
    });
    Arc::clone(keys)
}

pub fn local() -> Local {
    Local {
        advertised: vec![LOOPBACK],
        timeouts: Timeouts {
            tcp: PATIENCE,
            tls: PATIENCE,
            link: PATIENCE,
        },
    }
}

/// What a client's circuit has with a small relay.
pub struct Hop {
    pub forward: ForwardLayer,
    pub backward: BackwardLayer,
}

/// Commands of cells and relay messages.
pub mod command {
    pub const RELAY: u8 = 3;
    pub const DESTROY: u8 = 4;
    pub const CREATE_FAST: u8 = 5;
    pub const CREATED_FAST: u8 = 6;
    pub const RELAY_EARLY: u8 = 9;
    pub const CREATE2: u8 = 10;
    pub const CREATED2: u8 = 11;
    pub const DATA: u8 = 2;
    pub const END: u8 = 3;
    pub const CONNECTED: u8 = 4;
    pub const BEGIN_DIR: u8 = 13;
    pub const EXTEND2: u8 = 14;
    pub const EXTENDED2: u8 = 15;
}

/// A link as whole cells.
pub struct Cells {
    link: Established,
    buffer: Vec<u8>,
}

impl Cells {
    pub fn new(mut link: Established) -> Self {
        let buffer = std::mem::take(&mut link.leftover);
        Self { link, buffer }
    }

    /// The next cell of fixed length, with its circuit id and command; `None` at the end.
    pub async fn next(&mut self) -> Option<(u32, u8, [u8; BODY_LEN])> {
        loop {
            let len = match self.buffer.get(4) {
                Some(&command) if obol_onion::link::is_variable(command) => match self.buffer.get(5..7) {
                    Some(len) => 7 + usize::from(u16::from_be_bytes([len[0], len[1]])),
                    None => 7,
                },
                _ => 5 + BODY_LEN,
            };
            if self.buffer.len() >= len {
                let cell: Vec<u8> = self.buffer.drain(..len).collect();
                if let Ok(body) = <[u8; BODY_LEN]>::try_from(&cell[5..]) {
                    return Some((u32::from_be_bytes(*cell.first_chunk().unwrap()), cell[4], body));
                }
                continue;
            }
            let mut bytes = [0; 4096];
            let read = self.link.stream.read(&mut bytes).await.ok().filter(|len| *len > 0)?;
            self.buffer.extend_from_slice(&bytes[..read]);
        }
    }

    pub async fn send(&mut self, circuit: u32, command: u8, body: &[u8]) {
        let mut cell = circuit.to_be_bytes().to_vec();
        cell.push(command);
        cell.extend_from_slice(body);
        cell.resize(5 + BODY_LEN, 0);
        self.link.stream.write_all(&cell).await.unwrap();
        self.link.stream.flush().await.unwrap();
    }
}

/// A relay message as a clear body.
pub fn message(command: u8, stream: u16, data: &[u8]) -> [u8; BODY_LEN] {
    let mut body = [0; BODY_LEN];
    body[0] = command;
    body[3..5].copy_from_slice(&stream.to_be_bytes());
    body[9..11].copy_from_slice(&(data.len() as u16).to_be_bytes());
    body[11..11 + data.len()].copy_from_slice(data);
    body
}

/// What a small relay saw on its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saw {
    Fast,
    Ntor,
    NtorV3,
    BeginDir,
}

/// Serves one link until its end: handshakes of every kind, and directory streams with `answer`. Tells `saw` what it did.
pub async fn serve(link: Established, keys: &Keys, answer: &[u8], saw: tokio::sync::mpsc::UnboundedSender<Saw>) {
    use std::collections::HashMap;
    let mut circuits: HashMap<u32, Hop> = HashMap::new();
    let mut cells = Cells::new(link);
    while let Some((circuit, cell, mut body)) = cells.next().await {
        let onion = keys.onion_keys();
        let (reply, made, how) = match cell {
            command::CREATE_FAST => {
                let (reply, made) = fast::respond(&body[..fast::REQUEST_LEN], &rand::random()).unwrap();
                (reply.to_vec(), made, Saw::Fast)
            }
            command::CREATE2 => {
                let kind = u16::from_be_bytes([body[0], body[1]]);
                let skin = &body[4..4 + usize::from(u16::from_be_bytes([body[2], body[3]]))];
                let (reply, made, how) = match kind {
                    2 => {
                        let (reply, made) = ntor::respond(&onion, skin, rand::random()).unwrap();
                        (reply.to_vec(), made, Saw::Ntor)
                    }
                    3 => {
                        let offer = ntor_v3::Offer::default();
                        let (reply, made, _) = ntor_v3::respond(&onion, skin, rand::random(), offer).unwrap();
                        (reply, made, Saw::NtorV3)
                    }
                    other => panic!("handshake of type {other}"),
                };
                let len = (reply.len() as u16).to_be_bytes();
                ([&len[..], &reply].concat(), made, how)
            }
            command::RELAY | command::RELAY_EARLY => {
                let hop = circuits.get_mut(&circuit).expect("only on circuits that were made");
                hop.forward.open(&mut body).expect("there is no other hop");
                if body[0] == command::BEGIN_DIR {
                    let stream = u16::from_be_bytes([body[3], body[4]]);
                    for mut body in [
                        message(command::CONNECTED, stream, &[]),
                        message(command::DATA, stream, answer),
                        message(command::END, stream, &[6]),
                    ] {
                        hop.backward.originate(&mut body);
                        cells.send(circuit, command::RELAY, &body).await;
                    }
                    let _ = saw.send(Saw::BeginDir);
                }
                continue;
            }
            command::DESTROY => {
                circuits.remove(&circuit);
                continue;
            }
            _ => continue,
        };
        let (forward, backward) = made.relay_layers();
        circuits.insert(circuit, Hop { forward, backward });
        let created = if how == Saw::Fast {
            command::CREATED_FAST
        } else {
            command::CREATED2
        };
        cells.send(circuit, created, &reply).await;
        let _ = saw.send(how);
    }
}
