//! ntor: CREATE2 with handshake type 2.
//!
//! tor-spec, [the ntor handshake](https://spec.torproject.org/tor-spec/create-created-cells.html#ntor);
//! proposal 216.

use super::{BadReply, OnionKey, Refused, RelayOnionKeys, contributory, take};
use crate::crypto::tor1::{CircuitKeys, KEY_MATERIAL_LEN};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use tor_llcrypto::pk::curve25519::{PublicKey, SharedSecret};
use zeroize::Zeroizing;

/// Length of what a CREATE2 carries: `ID` (20), `B` (32), `X` (32).
pub const REQUEST_LEN: usize = 84;
/// Length of what a CREATED2 carries: `Y` (32), `AUTH` (32).
pub const REPLY_LEN: usize = 64;

/// `PROTOID`.
const PROTOCOL: &[u8] = b"ntor-curve25519-sha256-1";
/// `t_mac`.
const MAC: &[u8] = b"ntor-curve25519-sha256-1:mac";
/// `t_verify`.
const VERIFY: &[u8] = b"ntor-curve25519-sha256-1:verify";
/// `t_key`: the salt of the key derivation.
const KEY: &[u8] = b"ntor-curve25519-sha256-1:key_extract";
/// `m_expand`: its context.
const EXPAND: &[u8] = b"ntor-curve25519-sha256-1:key_expand";

/// HMAC-SHA256 with one of the tweaks as its key.
fn hmac(tweak: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(tweak).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The public values that both sides hash.
struct Transcript<'a> {
    /// Fingerprint of the relay.
    id: &'a [u8; 20],
    /// The relay's onion key.
    b: &'a [u8; 32],
    /// The client's ephemeral key.
    x: &'a [u8; 32],
    /// The relay's ephemeral key.
    y: &'a [u8; 32],
}

impl Transcript<'_> {
    /// `AUTH` and the circuit's keys, from the secrets `EXP(X,y)` and `EXP(X,b)`.
    fn derive(&self, xy: &SharedSecret, xb: &SharedSecret) -> ([u8; 32], CircuitKeys) {
        let secrets = [
            xy.as_bytes().as_slice(),
            xb.as_bytes(),
            self.id,
            self.b,
            self.x,
            self.y,
            PROTOCOL,
        ];
        let verify = hmac(VERIFY, &secrets);
        let auth = hmac(MAC, &[&verify, self.id, self.b, self.y, self.x, PROTOCOL, b"Server"]);

        let mut input = Zeroizing::new(Vec::with_capacity(256));
        secrets.iter().for_each(|part| input.extend_from_slice(part));
        let mut material = Zeroizing::new([0; KEY_MATERIAL_LEN]);
        Hkdf::<Sha256>::new(Some(KEY), &input)
            .expand(EXPAND, material.as_mut_slice())
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        (auth, CircuitKeys::from_kdf(&material))
    }
}

/// The relay's side: answers an onion skin with the ephemeral secret `y`, which is used for nothing else.
///
/// # Errors
/// [`Refused`]; the work done does not depend on which of the fields is wrong.
pub fn respond(keys: &RelayOnionKeys, request: &[u8], y: [u8; 32]) -> Result<([u8; REPLY_LEN], CircuitKeys), Refused> {
    let length = Refused::Length {
        got: request.len(),
        expected: REQUEST_LEN,
    };
    if request.len() != REQUEST_LEN {
        return Err(length);
    }
    let mut rest = request;
    let id: &[u8; 20] = take(&mut rest).ok_or(length)?;
    let b: &[u8; 32] = take(&mut rest).ok_or(length)?;
    let x: &[u8; 32] = take(&mut rest).ok_or(length)?;

    let (known, key) = keys.find(b);
    let ours = keys.rsa.ct_eq(id);
    let ephemeral = OnionKey::from_secret(y);
    let point = PublicKey::from(*x);
    let xy = ephemeral.secret.diffie_hellman(&point);
    let xb = key.secret.diffie_hellman(&point);
    let transcript = Transcript {
        id: &keys.rsa,
        b: key.public(),
        x,
        y: ephemeral.public(),
    };
    let (auth, circuit) = transcript.derive(&xy, &xb);

    if !bool::from(known & ours & contributory(&xy) & contributory(&xb)) {
        return Err(Refused::NotForUs);
    }
    let mut reply = [0; REPLY_LEN];
    reply[..32].copy_from_slice(ephemeral.public());
    reply[32..].copy_from_slice(&auth);
    Ok((reply, circuit))
}

/// The client's side, between CREATE2 and CREATED2.
pub struct Client {
    id: [u8; 20],
    b: [u8; 32],
    ephemeral: OnionKey,
}

impl Client {
    /// Starts a handshake with the relay of fingerprint `id` and onion key `b`, with the ephemeral secret `x`. The bytes
    /// are what the CREATE2 carries.
    pub fn start(id: [u8; 20], b: [u8; 32], x: [u8; 32]) -> (Self, [u8; REQUEST_LEN]) {
        let ephemeral = OnionKey::from_secret(x);
        let mut request = [0; REQUEST_LEN];
        request[..20].copy_from_slice(&id);
        request[20..52].copy_from_slice(&b);
        request[52..].copy_from_slice(ephemeral.public());
        (Self { id, b, ephemeral }, request)
    }

    /// Ends with what the CREATED2 carries.
    ///
    /// # Errors
    /// [`BadReply`], if it has another length than [`REPLY_LEN`], or was not made with the secret half of `b`.
    pub fn finish(self, reply: &[u8]) -> Result<CircuitKeys, BadReply> {
        let reply: &[u8; REPLY_LEN] = reply.try_into().map_err(|_| BadReply::Length {
            got: reply.len(),
            expected: REPLY_LEN,
        })?;
        let (y, auth) = reply.split_first_chunk::<32>().expect("32 < REPLY_LEN");
        let xy = self.ephemeral.secret.diffie_hellman(&PublicKey::from(*y));
        let xb = self.ephemeral.secret.diffie_hellman(&PublicKey::from(self.b));
        let transcript = Transcript {
            id: &self.id,
            b: &self.b,
            x: self.ephemeral.public(),
            y,
        };
        let (expected, keys) = transcript.derive(&xy, &xb);
        if bool::from(expected.as_slice().ct_eq(auth) & contributory(&xy) & contributory(&xb)) {
            Ok(keys)
        } else {
            Err(BadReply::NotAuthentic)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::tor1::{BODY_LEN, ClientLayers};
    use proptest::prelude::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    fn relay() -> RelayOnionKeys {
        RelayOnionKeys::new([1; 20], [2; 32], OnionKey::from_secret([3; 32]), None, [4; 32])
    }

    /// Whether a relay with `ours` opens cells that a client with `theirs` made.
    fn agree(ours: &CircuitKeys, theirs: &CircuitKeys) -> bool {
        let mut client = ClientLayers::new();
        client.push(theirs);
        let mut cell = [1; BODY_LEN];
        client.originate(0, &mut cell).unwrap();
        let forward = ours.relay_layers().0.open(&mut cell).is_some();
        let mut cell = [1; BODY_LEN];
        ours.relay_layers().1.originate(&mut cell);
        forward && client.open(&mut cell).is_some() && ours.kh() == theirs.kh()
    }

    /// Published with tor-proto (crypto/handshake/ntor.rs), from C Tor's ntor_ref.py.
    #[test]
    fn skins_replies_and_keys_are_those_of_the_reference() {
        let id = bytes("69546f6c64596f7541626f75745374616972732e");
        let b = bytes("4820544f4c4420594f5520444f474954204b454550532048415050454e494e47");
        let x = bytes("706f6461792069207075742e2e2e2e2e2e2e2e4a454c4c59206f6e2074686973");
        let y = bytes("70686520737175697272656c2e2e2e2e2e2e2e2e686173206869732067616d65");
        let expected: [u8; 72] = bytes(
            "0c62dee7f48893370d0ef896758d35729867beef1a5121df80e00f79ed349af39b51cae125719182f19d932a667dae1a\
             fbf2e336e6910e7822223e763afad0a13342157969dc6b79",
        );
        let keys = RelayOnionKeys::new(id, [0; 32], OnionKey::from_secret(b), None, [9; 32]);

        let (client, request) = Client::start(id, *keys.current().public(), x);
        assert_eq!(
            request,
            bytes(
                "69546f6c64596f7541626f75745374616972732eccbc8541904d18af08753eae967874749e6149f873de937f57f8fd90\
                 3a21c471e65dfdbef8b2635837fe2cebc086a8096eae3213e6830dc407516083d412b078"
            )
        );
        let (reply, ours) = respond(&keys, &request, y).unwrap();
        assert_eq!(
            reply,
            bytes(
                "390480a14362761d6aec1fea840f6e9e928fb2adb7b25c670be1045e35133a371cbdf68b89923e1f85e8e18ee6e805ea\
                 333fe4849c790ffd2670bd80fec95cc8"
            )
        );
        let theirs = client.finish(&reply).unwrap();
        assert!(agree(&ours, &theirs));
        // The reference gives no KH: compare what it gives by its effect.
        let mut material = [0; KEY_MATERIAL_LEN];
        material[..72].copy_from_slice(&expected);
        material[72..].copy_from_slice(ours.kh());
        assert!(agree(&ours, &CircuitKeys::from_kdf(&material)));
    }

    #[test]
    fn the_previous_onion_key_is_accepted_as_long_as_it_is_kept() {
        let (old, new) = (OnionKey::from_secret([5; 32]), OnionKey::from_secret([6; 32]));
        let during = RelayOnionKeys::new([1; 20], [2; 32], new.clone(), Some(old.clone()), [4; 32]);
        let after = RelayOnionKeys::new([1; 20], [2; 32], new.clone(), None, [4; 32]);
        for key in [&old, &new] {
            let (client, request) = Client::start([1; 20], *key.public(), [7; 32]);
            let (reply, ours) = respond(&during, &request, [8; 32]).unwrap();
            assert!(agree(&ours, &client.finish(&reply).unwrap()));
        }
        let (_, request) = Client::start([1; 20], *old.public(), [7; 32]);
        assert_eq!(respond(&after, &request, [8; 32]).unwrap_err(), Refused::NotForUs);
    }

    #[test]
    fn the_junk_key_answers_nobody() {
        let junk = OnionKey::from_secret([4; 32]);
        let (_, request) = Client::start([1; 20], *junk.public(), [7; 32]);
        assert_eq!(respond(&relay(), &request, [8; 32]).unwrap_err(), Refused::NotForUs);
    }

    #[test]
    fn a_skin_for_another_identity_is_refused() {
        let (_, request) = Client::start([9; 20], *relay().current().public(), [7; 32]);
        assert_eq!(respond(&relay(), &request, [8; 32]).unwrap_err(), Refused::NotForUs);
    }

    #[test]
    fn a_point_of_low_order_is_refused_by_either_side() {
        let mut request = Client::start([1; 20], *relay().current().public(), [7; 32]).1;
        for low in [0, 1] {
            request[52..].fill(0);
            request[52] = low;
            assert_eq!(respond(&relay(), &request, [8; 32]).unwrap_err(), Refused::NotForUs);
        }
        let (client, _) = Client::start([1; 20], *relay().current().public(), [7; 32]);
        assert_eq!(client.finish(&[0; REPLY_LEN]).unwrap_err(), BadReply::NotAuthentic);
    }

    #[test]
    fn a_wrong_length_is_refused_by_either_side() {
        for len in (0..200).filter(|len| *len != REQUEST_LEN) {
            let refused = respond(&relay(), &vec![1; len], [8; 32]).unwrap_err();
            assert_eq!(refused, Refused::Length { got: len, expected: 84 });
        }
        for len in (0..200).filter(|len| *len != REPLY_LEN) {
            let (client, _) = Client::start([1; 20], [2; 32], [7; 32]);
            assert!(matches!(client.finish(&vec![1; len]), Err(BadReply::Length { .. })));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn an_altered_reply_is_not_authentic(at in 0..REPLY_LEN, bit in 0..7_u32) {
            // Bit 7 of byte 31 is not part of a Curve25519 point: RFC 7748 has it ignored.
            let (client, request) = Client::start([1; 20], *relay().current().public(), [7; 32]);
            let (mut reply, _) = respond(&relay(), &request, [8; 32]).unwrap();
            reply[at] ^= 1 << bit;
            prop_assert_eq!(client.finish(&reply).unwrap_err(), BadReply::NotAuthentic);
        }

        #[test]
        fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(respond(&relay(), &noise, [8; 32]).is_err());
        }
    }
}
