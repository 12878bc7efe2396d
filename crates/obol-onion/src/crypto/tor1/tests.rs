use super::*;
use proptest::prelude::*;
use sha3::digest::{ExtendableOutput as _, Update as _, XofReader as _};

/// Key material of the three hops of C Tor's test_relaycrypt.c.
const KEYS: [&[u8; KEY_MATERIAL_LEN]; 3] = [
    b"    'My public key is in this signed x509 object', said Tom assertively.      (N-PREG-VIRYL)",
    b"'Let's chart the pedal phlanges in the tomb', said Tom cryptographically.  (PELCG-GBR-TENCU)",
    b"     'Segmentation fault bugs don't _just happen_', said Tom seethingly.        (P-GUVAT-YL)",
];
/// Where the contents of its cells come from, through SHAKE-256.
const BODIES: &[u8] =
    b"'You mean to tell me that there's a version of Sha-3 with no limit on the output length?', said Tom shakily.";

fn circuit() -> (ClientLayers, Vec<(ForwardLayer, BackwardLayer)>) {
    let mut client = ClientLayers::new();
    let mut relays = Vec::new();
    for key in KEYS {
        let keys = CircuitKeys::from_kdf(key);
        client.push(&keys);
        relays.push(keys.relay_layers());
    }
    (client, relays)
}

/// A DATA cell's body with recognisable contents.
fn body(fill: u8) -> [u8; BODY_LEN] {
    let mut body = [fill; BODY_LEN];
    body[0] = 2;
    body[1..3].fill(0);
    body[5..9].fill(0);
    body
}

/// A body with the digest field blanked, to compare what was said with what was heard.
fn blank(mut body: [u8; BODY_LEN]) -> [u8; BODY_LEN] {
    body[5..9].fill(0);
    body
}

#[test]
fn cells_to_the_third_hop_are_those_that_c_tor_sends() {
    let vectors: Vec<(usize, Vec<u8>)> = include_str!("../../../testdata/tor1_cells.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (number, cell) = line.split_once(' ').unwrap();
            (number.parse().unwrap(), hex::decode(cell).unwrap())
        })
        .collect();
    assert_eq!(vectors.len(), 8);
    let mut expected = vectors.into_iter().peekable();

    let (mut client, mut relays) = circuit();
    let mut bodies = sha3::Shake256::default().chain(BODIES).finalize_xof();
    for number in 0..51 {
        let mut cell = [0; BODY_LEN];
        (cell[0], cell[4], cell[9], cell[10]) = (2, 1, 1, 242);
        bodies.read(&mut cell[11..]);
        let clear = cell;

        let sent = client.originate(2, &mut cell).unwrap();
        if let Some((_, vector)) = expected.next_if(|(at, _)| *at == number) {
            assert_eq!(cell.as_slice(), vector, "cell {number}");
        }
        assert!(relays[0].0.open(&mut cell).is_none());
        assert!(relays[1].0.open(&mut cell).is_none());
        let heard = relays[2].0.open(&mut cell).unwrap();
        assert_eq!(heard.as_bytes(), sent.as_bytes());
        assert_eq!(blank(cell), clear);
    }
    assert!(expected.next().is_none());
}

#[test]
fn a_forged_cell_leaves_the_running_digest_alone() {
    let (mut client, mut relays) = circuit();
    let (mut forger, _) = circuit();
    // The forger knows the key stream (so `recognized` comes out as zero) but not the digest: cell 0 is spent on it.
    let mut forged = body(7);
    forger.originate(0, &mut forged).unwrap();
    forged[6] ^= 1;
    let sent_on = {
        let mut copy = forged;
        assert!(relays[0].0.open(&mut copy).is_none());
        copy
    };
    // It goes on as it was decrypted, wrong digest and all.
    let mut clear = body(7);
    let mut marked = Layer::new(&CircuitKeys::from_kdf(KEYS[0]).kf, &CircuitKeys::from_kdf(KEYS[0]).df);
    marked.mark(&mut clear);
    clear[6] ^= 1;
    assert_eq!(sent_on, clear);

    // The client's key stream has to stand where the relay's does; its digest never saw the forged cell.
    client.hops[0].forward.crypt(&mut body(0));
    let mut honest = body(9);
    client.originate(0, &mut honest).unwrap();
    assert!(relays[0].0.open(&mut honest).is_some());
    assert_eq!(blank(honest), body(9));
}

#[test]
fn a_tag_matches_only_its_twenty_bytes() {
    let (mut client, _) = circuit();
    let tag = client.originate(0, &mut body(1)).unwrap();
    let bytes: [u8; 20] = tag.into();
    assert!(tag.matches(&bytes));
    assert!(!tag.matches(&bytes[..4]));
    assert!(!tag.matches(&[]));
    let mut other = bytes;
    other[19] ^= 1;
    assert!(!tag.matches(&other));
}

#[test]
fn a_hop_that_does_not_exist_gets_nothing() {
    let (mut client, _) = circuit();
    let mut cell = body(3);
    assert!(client.originate(3, &mut cell).is_none());
    assert!(client.originate(usize::MAX, &mut cell).is_none());
    assert_eq!(cell, body(3));
}

#[test]
fn no_secret_shows_in_debug_output() {
    let keys = CircuitKeys::from_kdf(KEYS[0]);
    let (forward, _) = keys.relay_layers();
    assert_eq!(
        format!("{keys:?} {forward:?}"),
        "CircuitKeys(..) ForwardLayer(Layer(..))"
    );
}

#[test]
fn the_two_key_derivations_differ_only_in_where_kh_stands() {
    let mut fast = [0; KEY_MATERIAL_LEN];
    fast[..20].copy_from_slice(&KEYS[0][72..]);
    fast[20..].copy_from_slice(&KEYS[0][..72]);
    let (a, b) = (CircuitKeys::from_kdf(KEYS[0]), CircuitKeys::from_kdf_tor(&fast));
    assert_eq!((a.df, a.db, a.kf, a.kb, a.kh), (b.df, b.db, b.kf, b.kb, b.kh));
    assert_eq!(a.kh(), &KEYS[0][72..]);
}

/// One cell of a conversation.
#[derive(Clone, Debug)]
enum Move {
    /// The client to a hop.
    Out(usize),
    /// A hop to the client.
    In(usize),
}

proptest! {
    #[test]
    fn whatever_the_order_each_cell_is_opened_by_its_addressee_alone(
        moves in prop::collection::vec(
            prop_oneof![(0..3usize).prop_map(Move::Out), (0..3usize).prop_map(Move::In)], 1..40),
        fill in any::<u8>(),
    ) {
        let (mut client, mut relays) = circuit();
        for step in moves {
            let mut cell = body(fill);
            match step {
                Move::Out(hop) => {
                    let sent = client.originate(hop, &mut cell).unwrap();
                    for relay in &mut relays[..hop] {
                        prop_assert!(relay.0.open(&mut cell).is_none());
                    }
                    let heard = relays[hop].0.open(&mut cell).unwrap();
                    prop_assert_eq!(heard.as_bytes(), sent.as_bytes());
                }
                Move::In(hop) => {
                    let sent = relays[hop].1.originate(&mut cell);
                    for relay in relays[..hop].iter_mut().rev() {
                        relay.1.seal(&mut cell);
                    }
                    let (from, heard) = client.open(&mut cell).unwrap();
                    prop_assert_eq!(from, hop);
                    prop_assert_eq!(heard.as_bytes(), sent.as_bytes());
                }
            }
            prop_assert_eq!(blank(cell), body(fill));
        }
    }

    #[test]
    fn a_body_of_noise_is_never_taken_for_ours(noise in prop::collection::vec(any::<u8>(), BODY_LEN)) {
        let (mut client, mut relays) = circuit();
        let mut cell: [u8; BODY_LEN] = noise.try_into().unwrap();
        prop_assert!(relays[0].0.open(&mut cell).is_none());
        prop_assert!(client.open(&mut cell).is_none());
    }
}
