//! Introduction points: services that can be reached here, and what clients have to say to them.
//! rend-spec, [introduction protocol](https://spec.torproject.org/rend-spec/introduction-protocol.html).
//!
//! ```text
//!  service ── ESTABLISH_INTRO ──► MAC: this circuit? ──► event: signature? ──► introduced() ── INTRO_ESTABLISHED ──► service
//!
//!  client ─── INTRODUCE1 ──► its key known, not too often ──► INTRODUCE2, the same body ──► service
//!         ◄── INTRODUCE_ACK ──┘
//! ```
//!
//! The signature costs some ten thousand times what a cell costs, so it is checked where circuit handshakes are. The MAC
//! under the circuit's `KH`, checked here, is what makes a message of one circuit worthless on any other: no cache of those
//! seen is needed.

use sha3::Sha3_256;
use sha3::digest::Digest as _;
use subtle::ConstantTimeEq as _;
use tor_llcrypto::pk::ed25519::{PublicKey, Signature};

use super::Engine;
use super::circuit::{BACKWARD, Next};
use super::defence::IntroductionLimit;
use super::event::Event;
use super::ids::{CircuitId, Time};
use super::queue::EDGE_QUEUE_HIGH;
use super::rate::Allowance;
use super::wire::{DestroyReason, relay};
use crate::crypto::tor1::Binding;

/// The kind of key that a service has here: Ed25519.
const KEY_TYPE: u8 = 2;
const KEY_LEN: usize = 32;
const MAC_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;
/// What a signature covers before the message.
const SIGNED_PREFIX: &[u8] = b"Tor establish-intro cell v1";
/// The key's place in INTRODUCE1 before there were such keys: zeros.
const LEGACY_LEN: usize = 20;
/// Longest INTRODUCE1 that fits every service's circuit.
const INTRODUCE_MAX: usize = 490;
/// Extension of ESTABLISH_INTRO: how many clients the service wants to hear of.
const EXTENSION_LIMIT: u8 = 1;
const PARAMETER_RATE: u8 = 1;
const PARAMETER_BURST: u8 = 2;
const PARAMETER_MAX: u64 = i32::MAX as u64;

/// A service's circuit.
#[derive(Debug)]
pub(crate) struct Introduction {
    /// The key that clients name.
    key: [u8; KEY_LEN],
    /// How many clients it hears of; `None`: of all.
    limit: Option<Allowance>,
    /// It has said that itself, and the consensus has no say.
    explicit: bool,
}

/// An onion service's claim to a key, to be checked: the costly part, so it is done outside of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntroductionProof {
    /// The circuit that waits for it.
    pub circuit: CircuitId,
    key: [u8; KEY_LEN],
    signature: [u8; SIGNATURE_LEN],
    /// With the prefix.
    signed: Vec<u8>,
}

impl IntroductionProof {
    /// Whether the signature is one of the key's. Takes some ten microseconds.
    pub fn holds(&self) -> bool {
        PublicKey::from_bytes(&self.key)
            .is_ok_and(|key| key.verify(&self.signed, &Signature::from(self.signature)).is_ok())
    }
}

/// The statuses of an INTRODUCE_ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ack {
    Success = 0,
    /// Also if the service has heard of enough clients.
    Unknown = 1,
    Malformed = 2,
}

/// What a service says of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Nothing that we understand.
    None,
    /// No limit, or one that makes no sense.
    Unlimited,
    /// So many a second, so many at once.
    Limit(u64, u64),
}

/// ESTABLISH_INTRO, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Establish<'a> {
    key: [u8; KEY_LEN],
    wish: Wish,
    /// What the MAC covers.
    bound: &'a [u8],
    mac: [u8; MAC_LEN],
    /// What the signature covers.
    signed: &'a [u8],
    signature: [u8; SIGNATURE_LEN],
}

/// The first `N` bytes of `rest`, which then starts behind them.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// The next extension: its type and what it says.
fn extension<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let [kind, len] = take(rest)?;
    let (value, tail) = rest.split_at_checked(usize::from(len))?;
    *rest = tail;
    Some((kind, value))
}

/// What an extension of type [`EXTENSION_LIMIT`] wants. One parameter that nobody knows makes all of it unknown.
fn wish(mut value: &[u8]) -> Option<Wish> {
    let [count] = take(&mut value)?;
    let (mut rate, mut burst) = (0, 0);
    for _ in 0..count {
        let [kind] = take(&mut value)?;
        let number = u64::from_be_bytes(take(&mut value)?);
        match kind {
            PARAMETER_RATE => rate = number,
            PARAMETER_BURST => burst = number,
            _ => return None,
        }
    }
    let sound = rate > 0 && burst >= rate && burst <= PARAMETER_MAX;
    Some(if sound {
        Wish::Limit(rate, burst)
    } else {
        Wish::Unlimited
    })
}

impl<'a> Establish<'a> {
    fn parse(data: &'a [u8]) -> Option<Establish<'a>> {
        let mut rest = data;
        if take(&mut rest)? != [KEY_TYPE] || u16::from_be_bytes(take(&mut rest)?) as usize != KEY_LEN {
            return None;
        }
        let key = take(&mut rest)?;
        let [extensions] = take(&mut rest)?;
        let mut wanted = Wish::None;
        for _ in 0..extensions {
            if let (EXTENSION_LIMIT, value) = extension(&mut rest)? {
                wanted = wish(value).unwrap_or(wanted);
            }
        }
        let bound = &data[..data.len() - rest.len()];
        let mac = take(&mut rest)?;
        let signed = &data[..data.len() - rest.len()];
        if u16::from_be_bytes(take(&mut rest)?) as usize != SIGNATURE_LEN {
            return None;
        }
        Some(Establish {
            key,
            wish: wanted,
            bound,
            mac,
            signed,
            signature: take(&mut rest)?,
        })
    }

    /// Whether it was made for the circuit that has this `KH`.
    fn is_bound_to(&self, binding: &Binding) -> bool {
        let key = binding.as_bytes();
        let mac = Sha3_256::new()
            .chain_update((key.len() as u64).to_be_bytes())
            .chain_update(key)
            .chain_update(self.bound)
            .finalize();
        mac.as_slice().ct_eq(&self.mac).into()
    }
}

/// The service that an INTRODUCE1 is for.
fn wanted(data: &[u8]) -> Option<[u8; KEY_LEN]> {
    let mut rest = data;
    let legacy: [u8; LEGACY_LEN] = take(&mut rest)?;
    let [kind] = take(&mut rest)?;
    let len = u16::from_be_bytes(take(&mut rest)?);
    if legacy != [0; LEGACY_LEN] || kind != KEY_TYPE || usize::from(len) != KEY_LEN {
        return None;
    }
    let key = take(&mut rest)?;
    let [extensions] = take(&mut rest)?;
    for _ in 0..extensions {
        extension(&mut rest)?;
    }
    (!rest.is_empty() && data.len() <= INTRODUCE_MAX).then_some(key)
}

impl Engine {
    /// ESTABLISH_INTRO: the circuit is to be the one on which a service hears of clients.
    pub(crate) fn establish_intro(&mut self, index: u32, data: &[u8]) {
        let Some((circuit, this)) = self.circuits.named_mut(index) else {
            return;
        };
        let fits = matches!(this.next, Next::Nowhere)
            .then_some(this.layers.as_ref())
            .flatten();
        let bound = fits.and_then(|layers| Establish::parse(data).filter(|asked| asked.is_bound_to(&layers.binding)));
        let Some(asked) = bound else {
            return self.protocol_error(index);
        };
        if self.pending_proofs >= self.config.pending_handshakes {
            let full = Some(DestroyReason::ResourceLimit);
            return self.end_circuit(index, full, None);
        }
        this.next = Next::Proving(Box::new(Introduction {
            key: asked.key,
            limit: match asked.wish {
                Wish::None => self.config.defences.introductions.allowance(),
                Wish::Unlimited => None,
                Wish::Limit(rate, burst) => Some(Allowance::new(rate, burst)),
            },
            explicit: asked.wish != Wish::None,
        }));
        self.pending_proofs += 1;
        self.events.push_back(Event::Introduction(IntroductionProof {
            circuit,
            key: asked.key,
            signature: asked.signature,
            signed: [SIGNED_PREFIX, asked.signed].concat(),
        }));
    }

    /// The result of an [`Event::Introduction`], once for each.
    pub fn introduced(&mut self, now: Time, circuit: CircuitId, holds: bool) {
        self.now = self.now.max(now);
        self.pending_proofs = self.pending_proofs.saturating_sub(1);
        let Some(this) = self.circuits.get_mut(circuit) else {
            return;
        };
        if !matches!(this.next, Next::Proving(_)) {
            return;
        }
        if !holds {
            return self.protocol_error(circuit.index);
        }
        let Next::Proving(introduction) = core::mem::replace(&mut this.next, Next::Nowhere) else {
            return;
        };
        let before = self.introductions.insert(introduction.key, circuit.index);
        this.next = Next::Introduction(introduction);
        if let Some(before) = before {
            self.end_circuit(before, Some(DestroyReason::Finished), None);
        }
        self.originate(circuit.index, relay::INTRO_ESTABLISHED, 0, &[0]);
        self.pace(now);
    }

    /// A circuit that is a service's has ended; it may have been replaced before.
    pub(crate) fn forget_introduction(&mut self, introduction: &Introduction, index: u32) {
        if self.introductions.get(&introduction.key) == Some(&index) {
            self.introductions.remove(&introduction.key);
        }
    }

    /// INTRODUCE1 from a client.
    pub(crate) fn introduce1(&mut self, index: u32, data: &[u8]) {
        let client = self.is_from_client(index);
        let Some(circuit) = self.circuits.at_mut(index) else {
            return;
        };
        if client || circuit.introduced || !matches!(circuit.next, Next::Nowhere) {
            return self.protocol_error(index);
        }
        circuit.introduced = true;
        let ack = self.introduce(data);
        match ack {
            Ack::Success => self.counters.introductions += 1,
            Ack::Unknown | Ack::Malformed => self.counters.introductions_refused += 1,
        }
        self.originate(index, relay::INTRODUCE_ACK, 0, &[0, ack as u8, 0]);
    }

    /// Passes a client's words on to the service that they are for.
    fn introduce(&mut self, data: &[u8]) -> Ack {
        let Some(key) = wanted(data) else {
            return Ack::Malformed;
        };
        let now = self.now;
        let Some(service) = self.introductions.get(&key).copied() else {
            return Ack::Unknown;
        };
        let Some(circuit) = self.circuits.at_mut(service) else {
            return Ack::Unknown;
        };
        let Next::Introduction(introduction) = &mut circuit.next else {
            return Ack::Unknown;
        };
        let allowed = introduction.limit.as_mut().is_none_or(|limit| limit.take(now));
        // A service that does not take so many would lose its circuit.
        if !allowed || circuit.queues[BACKWARD].len() >= EDGE_QUEUE_HIGH {
            return Ack::Unknown;
        }
        self.originate(service, relay::INTRODUCE2, 0, data);
        Ack::Success
    }

    /// The consensus has another limit for services that name none.
    pub(crate) fn limit_introductions(&mut self, to: IntroductionLimit) {
        for index in self.introductions.values() {
            let circuit = self.circuits.at_mut(*index);
            if let Some(Next::Introduction(introduction)) = circuit.map(|circuit| &mut circuit.next)
                && !introduction.explicit
            {
                introduction.limit = to.allowance();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extended(extensions: &[&[u8]]) -> Vec<u8> {
        let mut data = vec![2, 0, 32];
        data.extend([0x33; 32]);
        data.push(extensions.len() as u8);
        data.extend(extensions.concat());
        data.extend([1; 32]);
        data.extend([0, 64]);
        data.extend([0x15; 64]);
        data
    }

    fn parameter(kind: u8, value: u64) -> Vec<u8> {
        [&[kind][..], &value.to_be_bytes()].concat()
    }

    fn limits(parameters: &[Vec<u8>]) -> Vec<u8> {
        let value = [vec![parameters.len() as u8], parameters.concat()].concat();
        [vec![EXTENSION_LIMIT, value.len() as u8], value].concat()
    }

    #[test]
    fn a_message_made_by_c_tor_is_understood_bound_and_signed() {
        // tor-cell's `establish_intro_canned`, from C Tor in a test network.
        let data = hex::decode(concat!(
            "02002075BC879BF697A9B12E1E10596FEF041127FECD11FDD80706AEAE35812EA74328",
            "00",
            "A3DF998D6749A9323035AD23DAA7F8607E4F87473A975E50A42DEC9C0E565C48",
            "0040",
            "5A7F5E53D55B307B5F7866AE14508DDA3412E2B3E4805176C25413CEDF204F7F",
            "53EAECADC0844472AA7BEC3BDCBA0A65F1FCDEF397B399F534F46E535B0E6301",
        ))
        .unwrap();
        let kh: [u8; 20] = hex::decode("250CCAF964B17B621A58CD82DF5DAFD060BA5F28")
            .unwrap()
            .try_into()
            .unwrap();
        let mut material = [0; crate::crypto::tor1::KEY_MATERIAL_LEN];
        material[72..].copy_from_slice(&kh);
        let binding = crate::crypto::tor1::CircuitKeys::from_kdf(&material).binding();
        let asked = Establish::parse(&data).unwrap();
        assert_eq!(asked.wish, Wish::None);
        assert!(asked.is_bound_to(&binding));
        let proof = |signature| IntroductionProof {
            circuit: CircuitId::from_u64(1),
            key: asked.key,
            signature,
            signed: [SIGNED_PREFIX, asked.signed].concat(),
        };
        assert!(proof(asked.signature).holds());
        let mut forged = asked.signature;
        forged[7] ^= 1;
        assert!(!proof(forged).holds());
        material[91] ^= 1;
        let other = crate::crypto::tor1::CircuitKeys::from_kdf(&material).binding();
        assert!(!asked.is_bound_to(&other), "made for another circuit");
        for len in 0..data.len() {
            assert_eq!(Establish::parse(&data[..len]), None, "cut at {len}");
        }
        for (at, wrong) in [(0, 0), (0, 1), (2, 31), (69, 63)] {
            let mut data = data.clone();
            data[at] = wrong;
            assert_eq!(Establish::parse(&data), None, "{wrong} at {at}");
        }
    }

    #[test]
    fn a_service_may_limit_how_many_clients_it_hears_of() {
        let (rate, burst) = (|n| parameter(PARAMETER_RATE, n), |n| parameter(PARAMETER_BURST, n));
        for (extension, understood) in [
            (limits(&[rate(1), burst(2)]), Wish::Limit(1, 2)),
            (limits(&[burst(25), rate(25)]), Wish::Limit(25, 25)),
            (limits(&[rate(0), burst(2)]), Wish::Unlimited),
            (limits(&[rate(2), burst(0)]), Wish::Unlimited),
            (limits(&[rate(3), burst(2)]), Wish::Unlimited),
            (limits(&[rate(3), burst(1 << 31)]), Wish::Unlimited),
            (limits(&[rate(1 << 31), burst(1 << 31)]), Wish::Unlimited),
            (limits(&[]), Wish::Unlimited),
            (limits(&[rate(1), burst(2), parameter(3, 4)]), Wish::None),
            (vec![EXTENSION_LIMIT, 3, 1, 1, 0], Wish::None),
            (vec![77, 2, 1, 1], Wish::None),
        ] {
            let data = extended(&[&extension]);
            let asked = Establish::parse(&data).map(|asked| asked.wish);
            assert_eq!(asked, Some(understood), "{extension:?}");
            let data = extended(&[&[99, 0], &extension]);
            let asked = Establish::parse(&data).map(|asked| asked.wish);
            assert_eq!(asked, Some(understood), "behind another: {extension:?}");
        }
    }
}
