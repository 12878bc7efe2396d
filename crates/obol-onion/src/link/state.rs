//! The state of a link handshake. The table of what may come when is in the [module above](super).

use super::auth::{self, Binding};
use super::cell::{self, Parsed, command};
use super::certs::{Chain, Credentials, Received};
use super::netinfo::Netinfo;
use super::{Established, Expected, Facts, LinkError, PeerIdentity, Role, Version};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tor_llcrypto::pk::ed25519::PublicKey;

/// Bytes after which a handshake that is not done is given up. A usual one takes about 2000; the rest may be padding.
const MAX_LEN: usize = 256 << 10;

/// Seconds after which the peer's time has grown too old to compare.
const CLOCK_LIMIT: u64 = 180;

/// What came of some bytes. `send` goes to the peer in any case.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart where it is returned")]
pub enum Step {
    /// Not done: give it more bytes.
    More {
        /// The handshake.
        handshake: Handshake,
        /// Bytes for the peer.
        send: Vec<u8>,
    },
    /// The link is open.
    Done {
        /// The link.
        link: Box<Established>,
        /// Bytes for the peer.
        send: Vec<u8>,
    },
}

/// A link handshake under way, at either end.
#[derive(Debug)]
pub struct Handshake {
    facts: Facts,
    side: Side,
    /// What came and is not yet a whole cell.
    buffer: Vec<u8>,
    /// Bytes of whole cells that came.
    taken: usize,
    sent: Sha256,
    received: Sha256,
    /// When our VERSIONS went out.
    started: Option<u64>,
    version: Option<Version>,
}

/// Who we are, and what we know of the peer.
#[derive(Debug)]
enum Side {
    Initiator {
        /// `None`: we are a client.
        ours: Option<Arc<Credentials>>,
        expected: Expected,
        /// SHA-256 of the certificate that the peer's TLS showed.
        certificate: [u8; 32],
        progress: Calling,
    },
    Responder {
        ours: Arc<Credentials>,
        /// Our side of the log, up to and with AUTH_CHALLENGE.
        log: Option<[u8; 32]>,
        progress: Called,
    },
}

/// An initiator's progress.
#[derive(Debug)]
enum Calling {
    NoCerts,
    /// The peer is who we meant.
    Certs(Peer),
    /// And asked who we are.
    Challenged(PeerIdentity),
}

/// A responder's progress.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per handshake, and relays are half of those"
)]
enum Called {
    NoCerts,
    /// The peer says who it is; `PublicKey` will have to prove it.
    Certs(Peer, PublicKey),
    Authenticated(PeerIdentity),
}

/// A peer's identity, with the hash of its RSA key that AUTHENTICATE needs.
#[derive(Debug)]
struct Peer {
    identity: PeerIdentity,
    rsa_sha256: [u8; 32],
}

impl From<Chain> for Peer {
    fn from(chain: Chain) -> Self {
        Self {
            identity: chain.identity,
            rsa_sha256: chain.rsa_sha256,
        }
    }
}

/// A log so far.
fn log(hash: &Sha256) -> [u8; 32] {
    hash.clone().finalize().into()
}

impl Handshake {
    /// Begins as the initiator, at `now` (seconds since 1970); the bytes are to be sent. `ours` is `None` for a client.
    /// `certificate` is the DER of the certificate that the peer's TLS showed.
    pub fn initiate(
        ours: Option<Arc<Credentials>>,
        expected: Expected,
        certificate: &[u8],
        facts: Facts,
        now: u64,
    ) -> (Self, Vec<u8>) {
        let mut this = Self::new(
            facts,
            Side::Initiator {
                ours,
                expected,
                certificate: Sha256::digest(certificate).into(),
                progress: Calling::NoCerts,
            },
        );
        let mut send = Vec::new();
        this.send(&mut send, cell::versions());
        this.started = Some(now);
        (this, send)
    }

    /// Begins as the responder. `ours` must hold the certificate of this very TLS session.
    pub fn respond(ours: Arc<Credentials>, facts: Facts) -> Self {
        Self::new(
            facts,
            Side::Responder {
                ours,
                log: None,
                progress: Called::NoCerts,
            },
        )
    }

    fn new(facts: Facts, side: Side) -> Self {
        Self {
            facts,
            side,
            buffer: Vec::new(),
            taken: 0,
            sent: Sha256::new(),
            received: Sha256::new(),
            started: None,
            version: None,
        }
    }

    /// Takes bytes from the peer, at `now` (seconds since 1970). `export` gives the TLS session's secret for a context
    /// ([`EXPORTER_LABEL`](super::EXPORTER_LABEL)).
    ///
    /// # Errors
    /// [`LinkError`]: close the link.
    pub fn receive(
        mut self,
        bytes: &[u8],
        now: u64,
        export: impl Fn(&[u8; 32]) -> Option<[u8; 32]>,
    ) -> Result<Step, LinkError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut send = Vec::new();
        let mut at = 0;
        loop {
            let id_len = if self.version.is_some() { 4 } else { 2 };
            let Some(cell) = cell::parse(&buffer[at..], id_len) else {
                break;
            };
            at += cell.wire.len();
            self.taken += cell.wire.len();
            if self.taken > MAX_LEN {
                return Err(LinkError::TooLong);
            }
            if let Some(netinfo) = self.take(&cell, now, &export, &mut send)? {
                let leftover = buffer.split_off(at);
                let link = Box::new(self.open(netinfo, now, leftover)?);
                return Ok(Step::Done { link, send });
            }
            self.received.update(cell.wire);
        }
        buffer.drain(..at);
        self.buffer = buffer;
        Ok(Step::More { handshake: self, send })
    }

    /// As if this had been sent so far.
    #[cfg(test)]
    pub(super) fn with_log_of(mut self, sent: &[&[u8]]) -> Self {
        self.sent = Sha256::new();
        sent.iter().for_each(|bytes| self.sent.update(bytes));
        self
    }

    /// One cell. Its bytes are not yet in `self.received`. `Some` ends the handshake.
    fn take(
        &mut self,
        cell: &Parsed<'_>,
        now: u64,
        export: &impl Fn(&[u8; 32]) -> Option<[u8; 32]>,
        send: &mut Vec<u8>,
    ) -> Result<Option<Netinfo>, LinkError> {
        match (cell.command, self.version.is_some()) {
            (command::VPADDING | command::AUTHORIZE, _) => {}
            (command::VERSIONS, false) => self.versions(cell.body, now, send)?,
            (other, false) | (other @ command::VERSIONS, true) => return Err(LinkError::Unexpected(other)),
            (command::CERTS, true) => self.certs(cell.body, now, send)?,
            (command::AUTH_CHALLENGE, true) => self.challenge(cell, now, export, send)?,
            (command::AUTHENTICATE, true) => self.authenticate(cell.body, export)?,
            (command::NETINFO, true) => return Netinfo::decode(cell.body).map(Some),
            (command::PADDING, true) => {}
            (other, true) if cell::is_variable(other) => {}
            (other, true) => return Err(LinkError::Unexpected(other)),
        }
        Ok(None)
    }

    pub(super) fn send(&mut self, out: &mut Vec<u8>, cell: Vec<u8>) {
        self.sent.update(&cell);
        out.extend_from_slice(&cell);
    }

    /// Our NETINFO: `now`, or 0 if we are a client.
    fn send_netinfo(&mut self, out: &mut Vec<u8>, now: u64) {
        let relay = !matches!(self.side, Side::Initiator { ours: None, .. });
        let netinfo = Netinfo {
            // The field is what it is; it wraps in 2106.
            timestamp: if relay { now as u32 } else { 0 },
            other: Some(self.facts.remote),
            own: if relay {
                self.facts.advertised.clone()
            } else {
                Vec::new()
            },
        };
        self.send(out, cell::fixed(command::NETINFO, &netinfo.encode()));
    }

    fn versions(&mut self, body: &[u8], now: u64, out: &mut Vec<u8>) -> Result<(), LinkError> {
        self.version = Some(cell::best_version(body)?);
        match &self.side {
            Side::Initiator { ours: None, .. } => {}
            Side::Initiator { ours: Some(ours), .. } => {
                let certs = cell::variable(command::CERTS, &ours.for_responder());
                self.send(out, certs);
            }
            Side::Responder { ours, .. } => {
                let certs = cell::variable(command::CERTS, &ours.for_initiator());
                self.started = Some(now);
                self.send(out, cell::versions());
                self.send(out, certs);
                self.send(
                    out,
                    cell::variable(command::AUTH_CHALLENGE, &auth::challenge(&self.facts.random)),
                );
                let so_far = log(&self.sent);
                if let Side::Responder { log, .. } = &mut self.side {
                    *log = Some(so_far);
                }
                self.send_netinfo(out, now);
            }
        }
        Ok(())
    }

    fn certs(&mut self, body: &[u8], now: u64, out: &mut Vec<u8>) -> Result<(), LinkError> {
        match &mut self.side {
            Side::Initiator {
                ours,
                expected,
                certificate,
                progress: progress @ Calling::NoCerts,
            } => {
                let received = Received::parse(body)?;
                let chain = received.chain(now)?;
                received.check_tls(&chain, certificate, now)?;
                if !expected.is(&chain.identity) {
                    return Err(LinkError::WrongIdentity);
                }
                *progress = Calling::Certs(chain.into());
                if ours.is_none() {
                    self.send_netinfo(out, now);
                }
                Ok(())
            }
            Side::Responder {
                progress: progress @ Called::NoCerts,
                ..
            } => {
                let received = Received::parse(body)?;
                let chain = received.chain(now)?;
                let link_key = received.link_key(&chain, now)?;
                *progress = Called::Certs(chain.into(), link_key);
                Ok(())
            }
            _ => Err(LinkError::Unexpected(command::CERTS)),
        }
    }

    fn challenge(
        &mut self,
        cell: &Parsed<'_>,
        now: u64,
        export: &impl Fn(&[u8; 32]) -> Option<[u8; 32]>,
        out: &mut Vec<u8>,
    ) -> Result<(), LinkError> {
        let Side::Initiator {
            ours,
            certificate,
            progress,
            ..
        } = &mut self.side
        else {
            return Err(LinkError::Unexpected(command::AUTH_CHALLENGE));
        };
        let Calling::Certs(peer) = progress else {
            return Err(LinkError::Unexpected(command::AUTH_CHALLENGE));
        };
        let has_our_method = auth::challenge_has_our_method(cell.body)?;
        let identity = peer.identity;
        let Some(ours) = ours else {
            *progress = Calling::Challenged(identity);
            return Ok(());
        };
        if !has_our_method {
            return Err(LinkError::NoCommonMethod);
        }
        let responder_log = self.received.clone().chain_update(cell.wire).finalize().into();
        let binding = Binding {
            initiator: (ours.identity, &ours.rsa_sha256),
            responder: (identity, &peer.rsa_sha256),
            responder_log,
            initiator_log: log(&self.sent),
            certificate,
            tls_secret: export(&ours.rsa_sha256).ok_or(LinkError::NoTlsSecret)?,
        };
        let random = self.facts.random.first_chunk().expect("24 of 32");
        let authenticate = binding.sign(random, |message| ours.sign(message));
        *progress = Calling::Challenged(identity);
        self.send(out, cell::variable(command::AUTHENTICATE, &authenticate));
        self.send_netinfo(out, now);
        Ok(())
    }

    fn authenticate(&mut self, body: &[u8], export: &impl Fn(&[u8; 32]) -> Option<[u8; 32]>) -> Result<(), LinkError> {
        let Side::Responder {
            ours,
            log: Some(responder_log),
            progress,
        } = &mut self.side
        else {
            return Err(LinkError::Unexpected(command::AUTHENTICATE));
        };
        let Called::Certs(peer, link_key) = progress else {
            return Err(LinkError::Unexpected(command::AUTHENTICATE));
        };
        let binding = Binding {
            initiator: (peer.identity, &peer.rsa_sha256),
            responder: (ours.identity, &ours.rsa_sha256),
            responder_log: *responder_log,
            initiator_log: log(&self.received),
            certificate: &ours.tls_sha256,
            tls_secret: export(&peer.rsa_sha256).ok_or(LinkError::NoTlsSecret)?,
        };
        binding.check(body, link_key)?;
        *progress = Called::Authenticated(peer.identity);
        Ok(())
    }

    /// The end: the peer's NETINFO came.
    fn open(self, netinfo: Netinfo, now: u64, leftover: Vec<u8>) -> Result<Established, LinkError> {
        let unexpected = Err(LinkError::Unexpected(command::NETINFO));
        let (role, peer) = match self.side {
            Side::Initiator { ours, progress, .. } => match (ours, progress) {
                (None, Calling::Certs(peer)) => (Role::Initiator, Some(peer.identity)),
                (_, Calling::Challenged(identity)) => (Role::Initiator, Some(identity)),
                _ => return unexpected,
            },
            Side::Responder { progress, .. } => match progress {
                Called::Authenticated(identity) => (Role::Responder, Some(identity)),
                Called::NoCerts | Called::Certs(..) => (Role::Responder, None),
            },
        };
        let Some(version) = self.version else {
            return unexpected;
        };
        let recent = self
            .started
            .is_some_and(|started| now.saturating_sub(started) < CLOCK_LIMIT);
        let clock_skew =
            (recent && netinfo.timestamp != 0).then(|| i64::from(netinfo.timestamp).saturating_sub_unsigned(now));
        // An IPv4 peer on a socket for both kinds shows as a mapped IPv6 address.
        let remote = self.facts.remote.to_canonical();
        Ok(Established {
            version,
            role,
            peer,
            canonical: netinfo.own.contains(&remote),
            canonical_to_peer: netinfo.other.is_some_and(|seen| self.facts.advertised.contains(&seen)),
            peer_addresses: netinfo.own,
            observed: netinfo.other,
            clock_skew,
            leftover,
        })
    }
}
