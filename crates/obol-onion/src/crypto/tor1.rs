//! `tor1`, the relay-cell encryption of every circuit that did not negotiate anything newer.
//!
//! tor-spec, [routing relay cells](https://spec.torproject.org/tor-spec/routing-relay-cells.html) and
//! [relay cells](https://spec.torproject.org/tor-spec/relay-cells.html): AES-128 in counter mode (zero IV, one stream
//! per direction that never restarts) over the whole 509-byte body, and a running SHA-1 per direction, seeded with `Df`
//! or `Db`, of which a cell carries the first four bytes.
//!
//! ```text
//!  body   0        1..3         3..5      5..9     9..11   11..
//!         command  recognized   stream    digest   length  data, padding
//! ```
//!
//! | end | away from the client | towards the client |
//! |---|---|---|
//! | relay | [`ForwardLayer::open`] | [`BackwardLayer::seal`], [`BackwardLayer::originate`], many at once: [`Marker`] |
//! | client | [`ClientLayers::originate`] | [`ClientLayers::open`] |
//!
//! Everything works in place and allocates nothing. A body is only hashed when its `recognized` field is zero after
//! the layer came off, and the running digest moves only when the four bytes match: a cell for another hop, or a forged
//! one, leaves no trace in it.

mod digest;
mod lanes;
mod marker;

use cipher::{KeyIvInit as _, StreamCipher as _};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use digest::Digest;
pub use marker::Marker;

/// Length of a relay cell's body: a fixed-length cell without its circuit id and command.
pub const BODY_LEN: usize = 509;

/// Length of the key material that one hop needs: `Df`, `Db`, `Kf`, `Kb`, `KH`.
pub const KEY_MATERIAL_LEN: usize = 20 + 20 + 16 + 16 + 20;

/// Where a body says whether it may be for us.
const RECOGNIZED: core::ops::Range<usize> = 1..3;
/// Where a body carries the first bytes of the running digest.
const DIGEST: core::ops::Range<usize> = 5..9;

/// AES-128 with a 128-bit big-endian counter.
type Cipher = ctr::Ctr128BE<aes::Aes128>;

/// The value of the running SHA-1 after one cell: what an authenticated SENDME has to quote
/// (tor-spec, [flow control](https://spec.torproject.org/tor-spec/flow-control.html)).
#[derive(Clone, Copy)]
pub struct Tag([u8; 20]);

impl Tag {
    /// The twenty bytes that go into a SENDME of version 1.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Whether a received SENDME quotes this tag: exact length, compared in constant time.
    pub fn matches(&self, received: &[u8]) -> bool {
        self.0.as_slice().ct_eq(received).into()
    }
}

impl From<Tag> for [u8; 20] {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl core::fmt::Debug for Tag {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // A tag is what proves that its holder saw a cell: no business of a log.
        f.write_str("Tag(..)")
    }
}

/// The secrets that one circuit handshake gives one hop. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct CircuitKeys {
    /// Seed of the digest away from the client.
    df: [u8; 20],
    /// Seed of the digest towards the client.
    db: [u8; 20],
    /// Cipher key away from the client.
    kf: [u8; 16],
    /// Cipher key towards the client.
    kb: [u8; 16],
    /// What binds other protocols to this circuit.
    kh: [u8; 20],
}

impl core::fmt::Debug for CircuitKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CircuitKeys(..)")
    }
}

/// `KH` of one circuit: the proof that whoever quotes it made this very circuit. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Binding([u8; 20]);

impl Binding {
    /// The key for a MAC that binds something to the circuit.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl core::fmt::Debug for Binding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Binding(..)")
    }
}

/// The first `N` bytes of `rest`, which then starts behind them.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk().expect("the parts add up to KEY_MATERIAL_LEN");
    *rest = tail;
    *head
}

impl CircuitKeys {
    /// Cuts up the output of ntor's or ntor-v3's key derivation: `Df`, `Db`, `Kf`, `Kb`, `KH`
    /// (tor-spec, [setting circuit keys](https://spec.torproject.org/tor-spec/setting-circuit-keys.html)).
    pub fn from_kdf(material: &[u8; KEY_MATERIAL_LEN]) -> Self {
        let mut rest = material.as_slice();
        Self {
            df: take(&mut rest),
            db: take(&mut rest),
            kf: take(&mut rest),
            kb: take(&mut rest),
            kh: take(&mut rest),
        }
    }

    /// Cuts up the output of KDF-TOR, which CREATE_FAST uses and which has `KH` in front.
    pub fn from_kdf_tor(material: &[u8; KEY_MATERIAL_LEN]) -> Self {
        let mut rest = material.as_slice();
        let kh = take(&mut rest);
        Self {
            df: take(&mut rest),
            db: take(&mut rest),
            kf: take(&mut rest),
            kb: take(&mut rest),
            kh,
        }
    }

    /// `KH`: the shared secret that ESTABLISH_INTRO is bound to, and that a CREATED_FAST carries.
    pub fn kh(&self) -> &[u8; 20] {
        &self.kh
    }

    /// The same, to be kept with the circuit.
    pub fn binding(&self) -> Binding {
        Binding(self.kh)
    }

    /// The relay's two layers.
    pub fn relay_layers(&self) -> (ForwardLayer, BackwardLayer) {
        (
            ForwardLayer(Layer::new(&self.kf, &self.df)),
            BackwardLayer(Layer::new(&self.kb, &self.db)),
        )
    }
}

/// One direction of one hop: the key stream and the running digest.
struct Layer {
    cipher: Cipher,
    digest: Digest,
}

impl Layer {
    fn new(key: &[u8; 16], seed: &[u8; 20]) -> Self {
        Self {
            cipher: Cipher::new(key.into(), &[0; 16].into()),
            digest: Digest::new(seed),
        }
    }

    /// Adds or takes off the encryption: the same operation.
    #[inline]
    fn crypt(&mut self, body: &mut [u8; BODY_LEN]) {
        self.cipher.apply_keystream(body);
    }

    /// Makes a clear body recognisable to whoever holds the same state.
    #[inline]
    fn mark(&mut self, body: &mut [u8; BODY_LEN]) -> Tag {
        body[RECOGNIZED].fill(0);
        body[DIGEST].fill(0);
        self.digest.update(body.as_slice());
        let tag = self.digest.value();
        body[DIGEST].copy_from_slice(&tag[..4]);
        Tag(tag)
    }

    /// Whether a body that has just been decrypted was marked for us.
    #[inline]
    fn recognise(&mut self, body: &mut [u8; BODY_LEN]) -> Option<Tag> {
        if body[RECOGNIZED] != [0, 0] {
            return None;
        }
        self.check_digest(body)
    }

    /// The dearer half of [`recognise`](Self::recognise): once in 65536 cells of others, and for each of ours.
    fn check_digest(&mut self, body: &mut [u8; BODY_LEN]) -> Option<Tag> {
        let carried: [u8; 4] = [body[5], body[6], body[7], body[8]];
        body[DIGEST].fill(0);
        let mut ahead = self.digest.clone();
        ahead.update(body.as_slice());
        // What goes on to the next hop must be what came: put the field back in any case.
        body[DIGEST].copy_from_slice(&carried);
        let tag = ahead.value();
        if bool::from(carried.ct_eq(&tag[..4])) {
            self.digest = ahead;
            Some(Tag(tag))
        } else {
            None
        }
    }
}

impl core::fmt::Debug for Layer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Layer(..)")
    }
}

/// The relay's layer on cells that go away from the client.
#[derive(Debug)]
pub struct ForwardLayer(Layer);

impl ForwardLayer {
    /// Takes our layer off a body, in place. `Some` if the cell is for us: `body` is then its clear text. `None` if it is
    /// for somebody further on (or nobody): forward it as it now is.
    #[inline]
    pub fn open(&mut self, body: &mut [u8; BODY_LEN]) -> Option<Tag> {
        self.0.crypt(body);
        self.0.recognise(body)
    }
}

/// The relay's layer on cells that go towards the client.
#[derive(Debug)]
pub struct BackwardLayer(Layer);

impl BackwardLayer {
    /// Adds our layer to a body that a later hop sent, or that was marked here.
    #[inline]
    pub fn seal(&mut self, body: &mut [u8; BODY_LEN]) {
        self.0.crypt(body);
    }

    /// Marks and encrypts a body of our own, in clear until now. `recognized` and `digest` are filled in here.
    #[inline]
    pub fn originate(&mut self, body: &mut [u8; BODY_LEN]) -> Tag {
        let tag = self.0.mark(body);
        self.0.crypt(body);
        tag
    }

    /// The running digest, for a [`Marker`]. What that gives back is to be put back with [`set_digest`](Self::set_digest)
    /// before the next cell is originated.
    #[inline]
    pub fn digest(&self) -> Digest {
        self.0.digest.clone()
    }

    /// Puts back the digest that a [`Marker`] has moved on. Bodies that it marked are then encrypted with
    /// [`seal`](Self::seal), in the order in which they were added to it.
    #[inline]
    pub fn set_digest(&mut self, digest: Digest) {
        self.0.digest = digest;
    }
}

/// The client's end of a circuit: one pair of layers per hop, nearest first.
#[derive(Debug, Default)]
pub struct ClientLayers {
    hops: Vec<ClientHop>,
}

/// What the client shares with one hop.
#[derive(Debug)]
struct ClientHop {
    forward: Layer,
    backward: Layer,
}

impl ClientLayers {
    /// A circuit without any hop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next hop, after its handshake.
    pub fn push(&mut self, keys: &CircuitKeys) {
        self.hops.push(ClientHop {
            forward: Layer::new(&keys.kf, &keys.df),
            backward: Layer::new(&keys.kb, &keys.db),
        });
    }

    /// The number of hops.
    pub fn len(&self) -> usize {
        self.hops.len()
    }

    /// Whether no hop was added yet.
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// Marks a clear body for `hop` (0 is the nearest) and puts on all layers up to it. `None`, with `body` untouched,
    /// if there is no such hop.
    pub fn originate(&mut self, hop: usize, body: &mut [u8; BODY_LEN]) -> Option<Tag> {
        let up_to = self.hops.get_mut(..=hop)?;
        let (last, nearer) = up_to.split_last_mut()?;
        let tag = last.forward.mark(body);
        last.forward.crypt(body);
        for layer in nearer.iter_mut().rev() {
            layer.forward.crypt(body);
        }
        Some(tag)
    }

    /// Takes off layers until a hop's mark appears: that hop's index, and the tag for a SENDME. `None` if it never does:
    /// the circuit must be closed, because the key streams no longer agree.
    pub fn open(&mut self, body: &mut [u8; BODY_LEN]) -> Option<(usize, Tag)> {
        for (index, hop) in self.hops.iter_mut().enumerate() {
            hop.backward.crypt(body);
            if let Some(tag) = hop.backward.recognise(body) {
                return Some((index, tag));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
