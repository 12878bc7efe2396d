//! TLS 1.3 records of a connection on which rustls has done the handshake: sealed and opened where they lie, without a copy and
//! without an allocation (docs/adr/0012).
//!
//! RFC 8446, sections 5 (records), 4.6.3 and 7.2 (key update), 6 (alerts). A record of ours carries what its caller put into it,
//! without padding:
//!
//! ```text
//!  HEAD (5)                       content       type (1)  tag (16)
//!  23, 3, 3, length of the rest   0..=16,384    \__ TAIL (17) ____/
//! ```

use std::io;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::tls13::OkmBlock;
use rustls::{CipherSuite, Connection, ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite};

use super::secrets::TrafficSecrets;

/// What stands before the content of a record.
pub(crate) const HEAD: usize = 5;
/// What stands behind it.
pub(crate) const TAIL: usize = 1 + TAG;
/// Content of a record at most (section 5.1).
pub(crate) const CONTENT_MAX: usize = 1 << 14;
/// A record that a peer sends is no longer than this, without its head (section 5.2).
const BODY_MAX: usize = CONTENT_MAX + 256;
/// A record at most.
pub(crate) const RECORD_MAX: usize = HEAD + BODY_MAX;
const TAG: usize = 16;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Messages of the handshake protocol may be as long; tickets are some hundred bytes.
const MESSAGE_MAX: usize = 1 << 16;
/// Key updates one after the other, without data between them.
const UPDATES_MAX: u32 = 32;

/// A record that cannot be, and the connection with it.
fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The keys of one direction.
struct Protection {
    suite: &'static Tls13CipherSuite,
    secret: OkmBlock,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// The info of HKDF-Expand-Label without a context (section 7.1), in parts.
fn expand(suite: &Tls13CipherSuite, secret: &OkmBlock, label: &[u8], out: &mut [u8]) -> io::Result<()> {
    let expander = suite.hkdf_provider.expander_for_okm(secret);
    let len = (out.len() as u16).to_be_bytes();
    let label_len = [6 + label.len() as u8];
    expander
        .expand_slice(&[&len, &label_len, b"tls13 ", label, &[0]], out)
        .map_err(|_| broken("a TLS key is longer than can be derived"))
}

impl Protection {
    fn new(suite: &'static Tls13CipherSuite, secret: OkmBlock, sequence: u64) -> io::Result<Self> {
        let algorithm = match suite.common.suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128_GCM,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256_GCM,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
            _ => return Err(broken("a TLS cipher suite that is not known")),
        };
        let mut key = zeroize::Zeroizing::new([0; 32]);
        let key = &mut key[..algorithm.key_len()];
        expand(suite, &secret, b"key", key)?;
        let mut iv = [0; 12];
        expand(suite, &secret, b"iv", &mut iv)?;
        let key = UnboundKey::new(algorithm, key).map_err(|_| broken("a TLS key of the wrong length"))?;
        Ok(Self {
            suite,
            secret,
            key: LessSafeKey::new(key),
            iv,
            sequence,
        })
    }

    /// The next keys of this direction (section 7.2).
    fn update(&mut self) -> io::Result<()> {
        let mut next = zeroize::Zeroizing::new([0; OkmBlock::MAX_LEN]);
        let next = &mut next[..self.secret.as_ref().len()];
        expand(self.suite, &self.secret, b"traffic upd", next)?;
        *self = Self::new(self.suite, OkmBlock::new(next), 0)?;
        Ok(())
    }

    /// The nonce of the next record.
    fn nonce(&mut self) -> io::Result<Nonce> {
        let mut nonce = self.iv;
        for (byte, mask) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= mask;
        }
        self.sequence = self
            .sequence
            .checked_add(1)
            .ok_or_else(|| broken("too many TLS records"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// What we send.
pub(crate) struct Sealer {
    protection: Protection,
    /// Records under one key.
    limit: u64,
}

impl Sealer {
    /// Whether so many records more are too many under these keys.
    pub(crate) fn is_due(&self, records: usize) -> bool {
        self.protection.sequence.saturating_add(records as u64) >= self.limit
    }

    /// Makes a record of [`HEAD`] bytes of anything, at most [`CONTENT_MAX`] bytes of content, and [`TAIL`] bytes of anything.
    #[inline]
    pub(crate) fn seal(&mut self, record: &mut [u8]) -> io::Result<()> {
        self.seal_as(APPLICATION_DATA, record)
    }

    #[inline]
    fn seal_as(&mut self, kind: u8, record: &mut [u8]) -> io::Result<()> {
        let short = || broken("a TLS record without room for its head and tail");
        let (head, body) = record.split_first_chunk_mut::<HEAD>().ok_or_else(short)?;
        let len = body.len() as u16;
        let (inner, tag) = body.split_last_chunk_mut::<TAG>().ok_or_else(short)?;
        *inner.last_mut().ok_or_else(short)? = kind;
        let [high, low] = len.to_be_bytes();
        *head = [APPLICATION_DATA, 3, 3, high, low];
        let nonce = self.protection.nonce()?;
        let sealed = self
            .protection
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(*head), inner)
            .map_err(|_| broken("a TLS record that cannot be sealed"))?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    fn append_as(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        out.extend_from_slice(content);
        out.extend_from_slice(&[0; TAIL]);
        self.seal_as(kind, &mut out[start..])
    }

    /// Adds a record with `content`, at most [`CONTENT_MAX`] bytes, to `out`.
    pub(crate) fn append(&mut self, content: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.append_as(APPLICATION_DATA, content, out)
    }

    /// Tells the peer that new keys follow, and takes them.
    pub(crate) fn update(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.append_as(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        self.protection.update()
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.append_as(ALERT, &[1, CLOSE_NOTIFY], out)
    }
}

/// What [`Opener::open`] has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The content is `buffer[..content]`.
    pub(crate) content: usize,
    /// What is no whole record yet starts here.
    pub(crate) rest: usize,
    /// The peer sends no more.
    pub(crate) ended: bool,
}

/// What we receive.
pub(crate) struct Opener {
    protection: Protection,
    /// The start of a handshake message.
    message: Vec<u8>,
    /// Key updates since the last data.
    updates: u32,
    /// The peer wants us to update our keys.
    pub(crate) asked: bool,
}

impl Opener {
    /// Opens the whole records in `buffer[content..]`; their content goes behind `buffer[..content]`.
    ///
    /// # Errors
    /// Whatever a peer must not do: the connection is to be closed.
    pub(crate) fn open(&mut self, buffer: &mut [u8], content: usize) -> io::Result<Opened> {
        let mut at = Opened {
            content,
            rest: content,
            ended: false,
        };
        while !at.ended
            && let Some(aad) = buffer
                .get(at.rest..)
                .and_then(|rest| rest.first_chunk::<HEAD>())
                .copied()
        {
            let [kind, _, _, high, low] = aad;
            let len = usize::from(u16::from_be_bytes([high, low]));
            match kind {
                APPLICATION_DATA if len > BODY_MAX => return Err(broken("a TLS record is too long")),
                APPLICATION_DATA => {}
                CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE => return Err(broken("a TLS record is not encrypted")),
                _ => return Err(broken("a TLS record of an unknown type")),
            }
            let end = at.rest + HEAD + len;
            let Some(span) = buffer.get_mut(at.content..end) else {
                break;
            };
            let nonce = self.protection.nonce()?;
            let inner = self
                .protection
                .key
                .open_within(nonce, Aad::from(aad), span, at.rest + HEAD - at.content..)
                .map_err(|_| broken("a TLS record was changed on its way"))?;
            at.rest = end;
            // Zeros behind the type are padding.
            let Some(last) = inner.iter().rposition(|byte| *byte != 0) else {
                return Err(broken("a TLS record without a type"));
            };
            if last > CONTENT_MAX {
                return Err(broken("a TLS record is too long"));
            }
            let (inner, kind) = (&inner[..last], inner[last]);
            match kind {
                APPLICATION_DATA if self.message.is_empty() => {
                    at.content += last;
                    self.updates = 0;
                }
                HANDSHAKE => self.handshake(inner)?,
                ALERT => match inner {
                    [_, CLOSE_NOTIFY] => at.ended = true,
                    [_, USER_CANCELED] => {}
                    _ => return Err(broken("the peer sent a TLS alert")),
                },
                _ => return Err(broken("a TLS record of a type that does not fit")),
            }
        }
        Ok(at)
    }

    /// A part of the handshake protocol: tickets, which we do not use, and key updates.
    #[cold]
    fn handshake(&mut self, part: &[u8]) -> io::Result<()> {
        if part.is_empty() || self.message.len() + part.len() > MESSAGE_MAX {
            return Err(broken("a TLS handshake message of a length that does not fit"));
        }
        self.message.extend_from_slice(part);
        while let &[kind, a, b, c, ref rest @ ..] = self.message.as_slice() {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(body) = rest.get(..len) else { break };
            match (kind, body) {
                (NEW_SESSION_TICKET, _) => {}
                // The first record under the new keys is the next one.
                (KEY_UPDATE, &[request @ 0..=1]) if rest.len() == len => {
                    self.updates += 1;
                    if self.updates > UPDATES_MAX {
                        return Err(broken("too many TLS key updates"));
                    }
                    self.protection.update()?;
                    self.asked |= request == 1;
                }
                _ => return Err(broken("a TLS handshake message that does not fit")),
            }
            self.message.drain(..4 + len);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }
}

/// Takes a connection over from rustls, which must have nothing left to send or to be read.
///
/// `Err`: the connection as it was, because it is one of TLS 1.2.
pub(crate) fn take_over(
    session: Connection,
    secrets: &TrafficSecrets,
) -> Result<io::Result<(Sealer, Opener)>, Connection> {
    let suite = match session.negotiated_cipher_suite() {
        Some(SupportedCipherSuite::Tls13(suite)) if session.protocol_version() == Some(ProtocolVersion::TLSv1_3) => {
            suite
        }
        _ => return Err(session),
    };
    let Some((client, server)) = secrets.take() else {
        return Err(session);
    };
    let (ours, theirs) = match session {
        Connection::Client(_) => (client, server),
        Connection::Server(_) => (server, client),
    };
    let made = session
        .dangerous_extract_secrets()
        .map_err(io::Error::other)
        .and_then(|extracted| {
            let protection = |secret, sequence| Protection::new(suite, secret, sequence);
            Ok((
                Sealer {
                    protection: protection(ours, extracted.tx.0)?,
                    limit: suite.common.confidentiality_limit,
                },
                Opener {
                    protection: protection(theirs, extracted.rx.0)?,
                    message: Vec::new(),
                    updates: 0,
                    asked: false,
                },
            ))
        });
    Ok(made)
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener(..)")
    }
}

#[cfg(test)]
mod tests;
