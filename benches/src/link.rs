//! A client's link to a guard: TLS on a blocking socket, cells in and out.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use obol_onion::crypto::tor1::BODY_LEN;
use obol_onion::link::{Expected, Facts, Handshake, LinkError, Step, is_variable};
use rustls::ClientConnection;

use crate::wire::{CELL, HEADER};

/// Bytes asked of the socket at once.
const READ: usize = 256 * 1024;
/// A handshake with a relay on this machine that takes longer has failed.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Why there is no link, or no link any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkFailed {
    /// The socket.
    #[error("the link to {0} failed")]
    Socket(SocketAddr, #[source] io::Error),
    /// TLS.
    #[error("TLS with {0} failed")]
    Tls(SocketAddr, #[source] rustls::Error),
    /// The link handshake.
    #[error("the link handshake with {0} failed")]
    Handshake(SocketAddr, #[source] LinkError),
    /// The relay closed it.
    #[error("{0} closed the link")]
    Closed(SocketAddr),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Link {
    remote: SocketAddr,
    tcp: TcpStream,
    tls: ClientConnection,
    /// The socket's read timeout, so that it is set only when it changes.
    patience: Option<Duration>,
    /// What came from the socket.
    wire: Vec<u8>,
    /// What came out of TLS and is not yet a whole cell.
    clear: Vec<u8>,
    /// Cells to be sent.
    out: Vec<u8>,
}

impl Link {
    /// Opens a link to the relay of these identities, as a client.
    pub fn open(remote: SocketAddr, rsa: [u8; 20], ed25519: [u8; 32]) -> Result<Link, LinkFailed> {
        let socket = |error| LinkFailed::Socket(remote, error);
        let tcp = TcpStream::connect(remote).map_err(socket)?;
        tcp.set_nodelay(true).map_err(socket)?;
        let name = obol_relay::tls::random_server_name();
        let mut tls = ClientConnection::new(obol_relay::tls::client_config(), name)
            .map_err(|error| LinkFailed::Tls(remote, error))?;
        tls.set_buffer_limit(None);
        let mut link = Link {
            remote,
            tcp,
            tls,
            patience: None,
            wire: vec![0; READ],
            clear: Vec::with_capacity(READ + CELL),
            out: Vec::new(),
        };
        link.tcp.set_read_timeout(Some(HANDSHAKE)).map_err(socket)?;
        link.patience = Some(HANDSHAKE);
        while link.tls.is_handshaking() {
            link.tls.complete_io(&mut link.tcp).map_err(socket)?;
        }
        link.shake_hands(Expected {
            rsa: Some(rsa),
            ed25519: Some(ed25519),
        })?;
        Ok(link)
    }

    fn shake_hands(&mut self, expected: Expected) -> Result<(), LinkFailed> {
        let remote = self.remote;
        let certificate = self
            .tls
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(|certificate| certificate.to_vec())
            .unwrap_or_default();
        let facts = Facts {
            remote: IpAddr::to_canonical(&remote.ip()),
            advertised: Vec::new(),
            random: rand::random(),
        };
        let (mut handshake, first) = Handshake::initiate(None, expected, &certificate, facts, now());
        self.out.extend_from_slice(&first);
        loop {
            self.flush()?;
            if !self.fill(HANDSHAKE)? {
                return Err(LinkFailed::Socket(remote, io::ErrorKind::TimedOut.into()));
            }
            let bytes = std::mem::take(&mut self.clear);
            // A client does not authenticate: no secret of TLS is asked for.
            match handshake.receive(&bytes, now(), |_| None) {
                Ok(Step::More { handshake: next, send }) => {
                    handshake = next;
                    self.out.extend_from_slice(&send);
                }
                Ok(Step::Done { link, send }) => {
                    self.out.extend_from_slice(&send);
                    self.clear = link.leftover;
                    return self.flush();
                }
                Err(error) => return Err(LinkFailed::Handshake(remote, error)),
            }
        }
    }

    /// Queues a cell of fixed length.
    pub(crate) fn send(&mut self, circuit: u32, command: u8, body: &[u8]) {
        let body = &body[..body.len().min(BODY_LEN)];
        self.out.extend_from_slice(&circuit.to_be_bytes());
        self.out.push(command);
        self.out.extend_from_slice(body);
        self.out.resize(self.out.len() + BODY_LEN - body.len(), 0);
    }

    /// Sends what was queued.
    pub(crate) fn flush(&mut self) -> Result<(), LinkFailed> {
        let remote = self.remote;
        let socket = |error| LinkFailed::Socket(remote, error);
        if !self.out.is_empty() {
            self.tls.writer().write_all(&self.out).map_err(socket)?;
            self.out.clear();
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp).map_err(socket)?;
        }
        Ok(())
    }

    /// Reads once from the socket. False if nothing came within `patience`.
    pub(crate) fn fill(&mut self, patience: Duration) -> Result<bool, LinkFailed> {
        let remote = self.remote;
        let socket = |error| LinkFailed::Socket(remote, error);
        // Zero would mean for ever.
        let patience = patience.max(Duration::from_micros(10));
        if self.patience != Some(patience) {
            self.tcp.set_read_timeout(Some(patience)).map_err(socket)?;
            self.patience = Some(patience);
        }
        let read = match self.tcp.read(&mut self.wire) {
            Ok(0) => return Err(LinkFailed::Closed(remote)),
            Ok(read) => read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(socket(error)),
        };
        let mut wire = &self.wire[..read];
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire).map_err(socket)?;
            let state = self
                .tls
                .process_new_packets()
                .map_err(|error| LinkFailed::Tls(remote, error))?;
            let (held, ready) = (self.clear.len(), state.plaintext_bytes_to_read());
            self.clear.resize(held + ready, 0);
            self.tls.reader().read_exact(&mut self.clear[held..]).map_err(socket)?;
        }
        Ok(true)
    }

    /// Moves the whole cells that came to `cells`, in place of what it held.
    pub(crate) fn take_cells(&mut self, cells: &mut Vec<u8>) {
        let mut end = 0;
        while let Some(len) = cell_len(&self.clear[end..])
            && end + len <= self.clear.len()
        {
            end += len;
        }
        cells.clear();
        std::mem::swap(cells, &mut self.clear);
        self.clear.extend_from_slice(&cells[end..]);
        cells.truncate(end);
    }
}

/// Length of the cell that begins here; `None` if that cannot be told yet.
pub(crate) fn cell_len(bytes: &[u8]) -> Option<usize> {
    match bytes.get(4)? {
        command if is_variable(*command) => {
            let len = bytes.get(HEADER..HEADER + 2)?;
            Some(HEADER + 2 + usize::from(u16::from_be_bytes([len[0], len[1]])))
        }
        _ => Some(CELL),
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
