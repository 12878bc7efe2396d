//! A circuit of two hops to ourselves, built with what the engine is tested with: a client's link, ntor, and the layers of tor1.

use std::net::SocketAddrV4;
use std::time::Duration;

use obol_onion::crypto::tor1::{BODY_LEN, ClientLayers};
use obol_onion::engine::CELL_LEN;
use obol_onion::handshake::ntor;
use obol_onion::link::Expected;
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::directory::RelayInfo;
use crate::handshake::{self, LinkFailed, LinkStream, Local};
use crate::keys::Keys;

/// How long one circuit may take to be built.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a circuit under load is given cells.
const TICK: Duration = Duration::from_millis(100);

// Commands of cells, and of relay cells (tor-spec, "Cell Packet format" and "Relay cells").
const RELAY: u8 = 3;
const DESTROY: u8 = 4;
const VERSIONS: u8 = 7;
const RELAY_EARLY: u8 = 9;
const CREATE2: u8 = 10;
const CREATED2: u8 = 11;
const FIRST_VARIABLE: u8 = 128;
const EXTEND2: u8 = 14;
const EXTENDED2: u8 = 15;
const DROP: u8 = 10;
/// ntor, as a handshake type.
const NTOR: u16 = 2;
/// Bytes of a relay cell before its data.
const RELAY_HEADER: usize = 11;

/// Why a circuit to ourselves was not built.
#[derive(Debug, thiserror::Error)]
pub enum NotReached {
    /// The relay in between cannot be reached, or does not prove to be who it should be.
    #[error("no link to the relay in between")]
    Link(#[from] LinkFailed),
    /// Its connection was lost.
    #[error("the connection to the relay in between failed")]
    Connection(#[from] std::io::Error),
    /// It said no: it could not connect to us, for instance.
    #[error("the relay in between ended the circuit (reason {0})")]
    Destroyed(u8),
    /// Whoever answered does not have the onion key.
    #[error("a handshake failed")]
    Handshake,
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The directory does not tell enough of that relay.
    #[error("not enough is known of the relay in between")]
    Unknown,
}

/// Cells of our own, through others to ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Bytes of cells a second.
    pub rate: u64,
    /// For so long.
    pub duration: Duration,
}

impl Load {
    /// Bytes of cells in all.
    pub fn bytes(&self) -> u64 {
        let bytes = u128::from(self.rate) * self.duration.as_millis() / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// A circuit whose second hop we are. It ends with its link.
pub(super) struct Circuit {
    cells: Cells,
    layers: ClientLayers,
}

impl Circuit {
    /// Builds one through `through` to the relay with these keys at this address.
    pub(super) async fn open(through: &RelayInfo, keys: &Keys, at: SocketAddrV4) -> Result<Circuit, NotReached> {
        tokio::time::timeout(PATIENCE, build(through, keys, at))
            .await
            .unwrap_or(Err(NotReached::TimedOut))
    }

    /// Sends as many cells as `load` says, as long as it lasts; its end throws them away. Returns how many were sent, once they
    /// have had time to come as well.
    pub(super) async fn carry(mut self, load: Load) -> u64 {
        let mut sent = 0;
        let mut ticks = tokio::time::interval(TICK);
        let began = Instant::now();
        loop {
            ticks.tick().await;
            let elapsed = began.elapsed().min(load.duration);
            let due = u128::from(load.rate) * elapsed.as_millis() / 1000 / CELL_LEN as u128;
            let due = u64::try_from(due).unwrap_or(u64::MAX);
            if let Err(error) = self.fill(due.saturating_sub(sent)).await {
                tracing::debug!(%error, "a circuit to ourselves ended under load");
                return sent;
            }
            sent = due;
            if elapsed == load.duration {
                // What still waits on the way would be lost with the circuit.
                tokio::time::sleep(load.duration).await;
                self.close().await;
                return sent;
            }
        }
    }

    async fn fill(&mut self, cells: u64) -> Result<(), NotReached> {
        for _ in 0..cells {
            let mut body = [0; BODY_LEN];
            body[0] = DROP;
            self.layers.originate(1, &mut body).ok_or(NotReached::Handshake)?;
            self.cells.write(RELAY, &body).await?;
        }
        Ok(self.cells.stream.flush().await?)
    }

    pub(super) async fn close(mut self) {
        // REQUESTED. What becomes of it is of no consequence.
        let mut body = [0; BODY_LEN];
        body[0] = 3;
        let _ = self.cells.send(DESTROY, &body).await;
    }
}

async fn build(through: &RelayInfo, keys: &Keys, at: SocketAddrV4) -> Result<Circuit, NotReached> {
    let (Some(ntor_key), Some(address)) = (through.ntor, through.addresses.first()) else {
        return Err(NotReached::Unknown);
    };
    let expected = Expected {
        rsa: Some(through.rsa),
        ed25519: through.ed,
    };
    let local = Local {
        advertised: Vec::new(),
        timeouts: handshake::Timeouts::default(),
    };
    let link = handshake::connect_as_client(*address, expected, &local).await?;
    let mut cells = Cells {
        stream: link.stream,
        read: link.leftover,
        // The initiator's half of the circuit numbers.
        circuit: rand::rng().random::<u32>() | 1 << 31,
    };

    let (first, skin) = ntor::Client::start(through.rsa, ntor_key, rand::rng().random());
    let mut body = [0; BODY_LEN];
    put(&mut body, &[&handshake_data(&skin)]);
    cells.send(CREATE2, &body).await?;
    let created = cells.receive(CREATED2).await?;
    let mut layers = ClientLayers::new();
    layers.push(&first.finish(reply(&created)?).map_err(|_| NotReached::Handshake)?);

    let onion = keys.onion_keys();
    let (second, skin) = ntor::Client::start(keys.fingerprint(), *onion.current().public(), rand::rng().random());
    let specifiers = [
        &[3, 0, 6][..],
        &at.ip().octets(),
        &at.port().to_be_bytes(),
        &[2, 20],
        &keys.fingerprint(),
        &[3, 32],
        &keys.ed25519(),
    ]
    .concat();
    let data = [specifiers, handshake_data(&skin)].concat();
    let length = u16::try_from(data.len()).unwrap_or_default().to_be_bytes();
    let mut body = [0; BODY_LEN];
    put(&mut body, &[&[EXTEND2, 0, 0, 0, 0, 0, 0, 0, 0], &length, &data]);
    layers.originate(0, &mut body).ok_or(NotReached::Handshake)?;
    cells.send(RELAY_EARLY, &body).await?;
    let mut answer = cells.receive(RELAY).await?;
    layers.open(&mut answer).ok_or(NotReached::Handshake)?;
    if answer[0] != EXTENDED2 {
        // TRUNCATED, with its reason.
        return Err(NotReached::Destroyed(answer[RELAY_HEADER]));
    }
    let ours = second.finish(reply(&answer[RELAY_HEADER..])?);
    layers.push(&ours.map_err(|_| NotReached::Handshake)?);
    Ok(Circuit { cells, layers })
}

/// The type and length of a handshake's data, and the data.
fn handshake_data(skin: &[u8; ntor::REQUEST_LEN]) -> Vec<u8> {
    let length = u16::try_from(skin.len()).unwrap_or_default();
    [&NTOR.to_be_bytes()[..], &length.to_be_bytes(), skin].concat()
}

/// Writes pieces one after the other.
fn put(body: &mut [u8; BODY_LEN], pieces: &[&[u8]]) {
    let all = pieces.concat();
    let fits = all.len().min(BODY_LEN);
    body[..fits].copy_from_slice(&all[..fits]);
}

/// What a CREATED2 or EXTENDED2 carries.
fn reply(body: &[u8]) -> Result<&[u8], NotReached> {
    let (length, data) = body.split_first_chunk::<2>().ok_or(NotReached::Handshake)?;
    data.get(..usize::from(u16::from_be_bytes(*length)))
        .ok_or(NotReached::Handshake)
}

/// The cells of one circuit on a link of version 4 or 5.
struct Cells {
    stream: LinkStream,
    read: Vec<u8>,
    circuit: u32,
}

impl Cells {
    async fn write(&mut self, command: u8, body: &[u8; BODY_LEN]) -> Result<(), NotReached> {
        let cell = [&self.circuit.to_be_bytes()[..], &[command], body].concat();
        Ok(self.stream.write_all(&cell).await?)
    }

    async fn send(&mut self, command: u8, body: &[u8; BODY_LEN]) -> Result<(), NotReached> {
        self.write(command, body).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next cell of our circuit, which must be this one.
    async fn receive(&mut self, command: u8) -> Result<[u8; BODY_LEN], NotReached> {
        loop {
            let (circuit, got, body) = self.next().await?;
            match (circuit == self.circuit, got) {
                (true, got) if got == command => {
                    return body.try_into().map_err(|_| NotReached::Handshake);
                }
                (true, DESTROY) => return Err(NotReached::Destroyed(body.first().copied().unwrap_or_default())),
                // Padding, and whatever else does not concern us.
                _ => {}
            }
        }
    }

    async fn next(&mut self) -> Result<(u32, u8, Vec<u8>), NotReached> {
        self.fill(5).await?;
        let command = self.read[4];
        let circuit = u32::from_be_bytes([self.read[0], self.read[1], self.read[2], self.read[3]]);
        let (header, length) = if command == VERSIONS || command >= FIRST_VARIABLE {
            self.fill(7).await?;
            (7, usize::from(u16::from_be_bytes([self.read[5], self.read[6]])))
        } else {
            (5, BODY_LEN)
        };
        self.fill(header + length).await?;
        let body = self.read[header..header + length].to_vec();
        self.read.drain(..header + length);
        Ok((circuit, command, body))
    }

    /// Reads until there are this many bytes, which is at most the longest cell.
    async fn fill(&mut self, wanted: usize) -> Result<(), NotReached> {
        while self.read.len() < wanted {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }
}
