//! ntor-v3: CREATE2 with handshake type 3, which carries a few settings under encryption.
//!
//! tor-spec, [the ntor-v3 handshake](https://spec.torproject.org/tor-spec/create-created-cells.html#ntor-v3);
//! proposals 332 and 346.

use super::{BadReply, OnionKey, Refused, RelayOnionKeys, contributory, take};
use crate::crypto::tor1::{CircuitKeys, KEY_MATERIAL_LEN};
use cipher::{KeyIvInit as _, StreamCipher as _};
use sha3::digest::{Digest as _, ExtendableOutput as _, FixedOutput as _, XofReader as _};
use sha3::{Sha3_256, Shake256};
use subtle::ConstantTimeEq as _;
use tor_llcrypto::pk::curve25519::{PublicKey, SharedSecret};
use zeroize::Zeroizing;

/// The least length of what a CREATE2 carries: `ID`, `B`, `X`, `MAC`, 32 bytes each, with the message before `MAC`.
pub const REQUEST_MIN_LEN: usize = 128;
/// The least length of what a CREATED2 carries: `Y`, `AUTH`, 32 bytes each, with the message behind them.
pub const REPLY_MIN_LEN: usize = 64;

/// `PROTOID`.
const PROTOCOL: &[u8] = b"ntor3-curve25519-sha3_256-1";
/// `VER`, when the handshake makes a circuit.
const CIRCUIT_EXTEND: &[u8] = b"circuit extend";

/// Extension of a request: congestion control, please.
const CC_REQUEST: u8 = 1;
/// Extension of a request: subprotocols that the client wants used on this circuit.
const SUBPROTO_REQUEST: u8 = 3;
/// Extension of a reply: congestion control is on, and its `cc_sendme_inc`.
const CC_RESPONSE: u8 = 2;

type Cipher = ctr::Ctr128BE<aes::Aes256>;

/// Something that swallows bytes, with what the specification calls `ENCAP`: the length (8 bytes) in front.
trait Absorb: sha3::digest::Update + Sized {
    fn add(mut self, bytes: &[u8]) -> Self {
        self.update(bytes);
        self
    }

    fn encap(self, bytes: &[u8]) -> Self {
        self.add(&(bytes.len() as u64).to_be_bytes()).add(bytes)
    }

    /// `ENCAP(PROTOID ":" suffix)`: what each use of a hash starts with.
    fn tweak(self, suffix: &[u8]) -> Self {
        let len = PROTOCOL.len() + 1 + suffix.len();
        self.add(&(len as u64).to_be_bytes())
            .add(PROTOCOL)
            .add(b":")
            .add(suffix)
    }
}

impl Absorb for Sha3_256 {}
impl Absorb for Shake256 {}

/// The relay in question: its identity and its onion key.
#[derive(Clone, Copy, Debug)]
struct Target {
    id: [u8; 32],
    b: [u8; 32],
}

/// Keys of the client's message, from `Bx`: its cipher, and its MAC with everything hashed except the message.
fn message_keys(bx: &SharedSecret, target: &Target, x: &[u8; 32], verification: &[u8]) -> (Cipher, Sha3_256) {
    let mut keys = Shake256::default()
        .tweak(b"kdf_phase1")
        .add(bx.as_bytes())
        .add(&target.id)
        .add(x)
        .add(&target.b)
        .add(PROTOCOL)
        .encap(verification)
        .finalize_xof();
    let mut key = Zeroizing::new([0; 32]);
    let mut mac_key = Zeroizing::new([0; 32]);
    keys.read(key.as_mut_slice());
    keys.read(mac_key.as_mut_slice());
    let mac = Sha3_256::new()
        .tweak(b"msg_mac")
        .encap(mac_key.as_slice())
        .add(&target.id)
        .add(&target.b)
        .add(x);
    (cipher(&key), mac)
}

fn cipher(key: &[u8; 32]) -> Cipher {
    Cipher::new(key.into(), &[0; 16].into())
}

/// What both sides derive when both ephemeral keys are known.
struct Final {
    /// For the relay's message.
    cipher: Cipher,
    keys: CircuitKeys,
    /// `AUTH`, all hashed but for the relay's encrypted message and what follows it.
    auth: Sha3_256,
}

impl Final {
    fn derive(
        (xy, xb): (&SharedSecret, &SharedSecret),
        target: &Target,
        (x, y): (&[u8; 32], &[u8; 32]),
        request_mac: &[u8; 32],
        verification: &[u8],
    ) -> Self {
        let secret = |hash: Sha3_256| -> Zeroizing<[u8; 32]> {
            Zeroizing::new(
                hash.add(xy.as_bytes())
                    .add(xb.as_bytes())
                    .add(&target.id)
                    .add(&target.b)
                    .add(x)
                    .add(y)
                    .add(PROTOCOL)
                    .encap(verification)
                    .finalize_fixed()
                    .into(),
            )
        };
        let seed = secret(Sha3_256::new().tweak(b"key_seed"));
        let verify = secret(Sha3_256::new().tweak(b"verify"));

        let mut stream = Shake256::default()
            .tweak(b"kdf_final")
            .add(seed.as_slice())
            .finalize_xof();
        let mut key = Zeroizing::new([0; 32]);
        let mut material = Zeroizing::new([0; KEY_MATERIAL_LEN]);
        stream.read(key.as_mut_slice());
        stream.read(material.as_mut_slice());

        let auth = Sha3_256::new()
            .tweak(b"auth_final")
            .add(verify.as_slice())
            .add(&target.id)
            .add(&target.b)
            .add(y)
            .add(x)
            .add(request_mac);
        Self {
            cipher: cipher(&key),
            keys: CircuitKeys::from_kdf(&material),
            auth,
        }
    }
}

fn finish_auth(auth: Sha3_256, encrypted: &[u8]) -> [u8; 32] {
    auth.encap(encrypted)
        .add(PROTOCOL)
        .add(b"Server")
        .finalize_fixed()
        .into()
}

/// What a relay is ready to agree to, beyond keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The consensus' `cc_sendme_inc` (cells), if this relay does congestion control: `None` while the consensus or we
    /// do not. A client gives up if it differs by more than one from its own.
    pub congestion_control: Option<u8>,
}

/// What was agreed for one circuit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Congestion control is on, with this many cells to each SENDME; otherwise fixed windows.
    pub congestion_control: Option<u8>,
}

/// The extensions of a list, `N` times type, length, body. `None` if it cannot be read to its end, or goes on after it.
fn extensions(message: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let (&count, mut rest) = message.split_first()?;
    let mut list = Vec::with_capacity(usize::from(count).min(message.len() / 2));
    for _ in 0..count {
        let &[kind, len] = take(&mut rest)?;
        let (body, tail) = rest.split_at_checked(usize::from(len))?;
        rest = tail;
        list.push((kind, body));
    }
    rest.is_empty().then_some(list)
}

/// Reads the client's extensions and decides. Unknown ones are ignored, of repeated ones the first counts.
fn negotiate(message: &[u8], offer: Offer) -> Result<Agreed, Refused> {
    let list = extensions(message).ok_or(Refused::Extensions)?;
    let first = |kind| list.iter().find(|(is, _)| *is == kind).map(|(_, body)| *body);

    if let Some(wanted) = first(SUBPROTO_REQUEST) {
        if wanted.len() % 2 != 0 {
            return Err(Refused::Extensions);
        }
        // There is none yet that would have to be asked for: the only one known to others is Relay=6, CGO.
        if let Some(&[protocol, version]) = wanted.first_chunk() {
            return Err(Refused::Subprotocol { protocol, version });
        }
    }
    Ok(Agreed {
        // C Tor looks only for the presence of CC_REQUEST, never at its body; so do we.
        congestion_control: offer.congestion_control.filter(|_| first(CC_REQUEST).is_some()),
    })
}

/// The list of extensions that answers the client.
fn reply_message(agreed: Agreed) -> Vec<u8> {
    match agreed.congestion_control {
        Some(increment) => vec![1, CC_RESPONSE, 1, increment],
        None => vec![0],
    }
}

/// The relay's side: answers an onion skin with the ephemeral secret `y`, which is used for nothing else.
///
/// # Errors
/// [`Refused`]; the work done does not depend on which of the keys is wrong.
pub fn respond(
    keys: &RelayOnionKeys,
    request: &[u8],
    y: [u8; 32],
    offer: Offer,
) -> Result<(Vec<u8>, CircuitKeys, Agreed), Refused> {
    respond_with(keys, request, y, CIRCUIT_EXTEND, |message| {
        let agreed = negotiate(message, offer)?;
        Ok((reply_message(agreed), agreed))
    })
}

/// The handshake itself; `decide` makes the relay's message from the client's.
fn respond_with<T>(
    keys: &RelayOnionKeys,
    request: &[u8],
    y: [u8; 32],
    verification: &[u8],
    decide: impl FnOnce(&[u8]) -> Result<(Vec<u8>, T), Refused>,
) -> Result<(Vec<u8>, CircuitKeys, T), Refused> {
    let length = Refused::Length {
        got: request.len(),
        expected: REQUEST_MIN_LEN,
    };
    let mut rest = request;
    let id: &[u8; 32] = take(&mut rest).ok_or(length)?;
    let b: &[u8; 32] = take(&mut rest).ok_or(length)?;
    let x: &[u8; 32] = take(&mut rest).ok_or(length)?;
    let (message, request_mac) = rest.split_last_chunk::<32>().ok_or(length)?;

    let (known, key) = keys.find(b);
    let target = Target {
        id: keys.ed25519,
        b: *key.public(),
    };
    let ours = target.id.ct_eq(id);
    let point = PublicKey::from(*x);
    let ephemeral = OnionKey::from_secret(y);
    let xb = key.secret.diffie_hellman(&point);
    let xy = ephemeral.secret.diffie_hellman(&point);

    let (mut message_cipher, mac) = message_keys(&xb, &target, x, verification);
    let expected: [u8; 32] = mac.add(message).finalize_fixed().into();
    let mut end = Final::derive((&xy, &xb), &target, (x, ephemeral.public()), request_mac, verification);

    let authentic = expected.ct_eq(request_mac);
    if !bool::from(known & ours & authentic & contributory(&xb) & contributory(&xy)) {
        return Err(Refused::NotForUs);
    }
    let mut message = Zeroizing::new(message.to_vec());
    message_cipher.apply_keystream(&mut message);
    let (mut answer, decided) = decide(&message)?;
    end.cipher.apply_keystream(&mut answer);

    let mut reply = Vec::with_capacity(REPLY_MIN_LEN + answer.len());
    reply.extend_from_slice(ephemeral.public());
    reply.extend_from_slice(&finish_auth(end.auth, &answer));
    reply.extend_from_slice(&answer);
    Ok((reply, end.keys, decided))
}

/// The client's side, between CREATE2 and CREATED2.
pub struct Client {
    target: Target,
    ephemeral: OnionKey,
    bx: SharedSecret,
    request_mac: [u8; 32],
    verification: &'static [u8],
    asked: Asked,
}

/// What a client asks for, beyond keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Congestion control (CC_REQUEST).
    pub congestion_control: bool,
}

impl Client {
    /// Starts a handshake with the relay of Ed25519 identity `id` and onion key `b`, with the ephemeral secret `x`. The
    /// bytes are what the CREATE2 carries.
    pub fn start(id: [u8; 32], b: [u8; 32], x: [u8; 32], asked: Asked) -> (Self, Vec<u8>) {
        let message: &[u8] = if asked.congestion_control {
            &[1, CC_REQUEST, 0]
        } else {
            &[0]
        };
        Self::start_with(Target { id, b }, x, message, CIRCUIT_EXTEND, asked)
    }

    fn start_with(
        target: Target,
        x: [u8; 32],
        message: &[u8],
        verification: &'static [u8],
        asked: Asked,
    ) -> (Self, Vec<u8>) {
        let ephemeral = OnionKey::from_secret(x);
        let bx = ephemeral.secret.diffie_hellman(&PublicKey::from(target.b));
        let (mut cipher, mac) = message_keys(&bx, &target, ephemeral.public(), verification);
        let mut request = Vec::with_capacity(REQUEST_MIN_LEN + message.len());
        request.extend_from_slice(&target.id);
        request.extend_from_slice(&target.b);
        request.extend_from_slice(ephemeral.public());
        request.extend_from_slice(message);
        cipher.apply_keystream(&mut request[96..]);
        let request_mac: [u8; 32] = mac.add(&request[96..]).finalize_fixed().into();
        request.extend_from_slice(&request_mac);
        let client = Self {
            target,
            ephemeral,
            bx,
            request_mac,
            verification,
            asked,
        };
        (client, request)
    }

    /// Ends with what the CREATED2 carries.
    ///
    /// # Errors
    /// [`BadReply`], if it was not made with the secret half of `b`, or answers what was not asked.
    pub fn finish(self, reply: &[u8]) -> Result<(CircuitKeys, Agreed), BadReply> {
        let asked = self.asked;
        let (keys, message) = self.finish_with(reply)?;
        let list = extensions(&message).ok_or(BadReply::Extensions)?;
        let mut agreed = Agreed::default();
        if let Some((_, body)) = list.iter().find(|(kind, _)| *kind == CC_RESPONSE) {
            let &[increment] = *body else {
                return Err(BadReply::Extensions);
            };
            if !asked.congestion_control {
                return Err(BadReply::Extensions);
            }
            agreed.congestion_control = Some(increment);
        }
        Ok((keys, agreed))
    }

    fn finish_with(self, reply: &[u8]) -> Result<(CircuitKeys, Vec<u8>), BadReply> {
        let length = BadReply::Length {
            got: reply.len(),
            expected: REPLY_MIN_LEN,
        };
        let mut rest = reply;
        let y: &[u8; 32] = take(&mut rest).ok_or(length)?;
        let auth: &[u8; 32] = take(&mut rest).ok_or(length)?;
        let xy = self.ephemeral.secret.diffie_hellman(&PublicKey::from(*y));
        let mut end = Final::derive(
            (&xy, &self.bx),
            &self.target,
            (self.ephemeral.public(), y),
            &self.request_mac,
            self.verification,
        );
        let expected = finish_auth(end.auth, rest);
        if !bool::from(expected.ct_eq(auth) & contributory(&xy) & contributory(&self.bx)) {
            return Err(BadReply::NotAuthentic);
        }
        let mut message = rest.to_vec();
        end.cipher.apply_keystream(&mut message);
        Ok((end.keys, message))
    }
}

#[cfg(test)]
mod tests;
