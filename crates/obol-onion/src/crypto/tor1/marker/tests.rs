use super::*;
use proptest::prelude::*;
use sha1::{Digest as _, Sha1};

/// Where bodies begin in the outputs of these tests: as in cells on a link.
const CELL: usize = 514;
const HEADER: usize = CELL - BODY_LEN;

/// Bytes that differ from place to place.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b)).rotate_left(i % 32) as u8)
        .collect()
}

/// What the crate `sha1` marks cells with that come after `seed` and each other.
struct Reference(Sha1);

impl Reference {
    fn new(circuit: usize) -> Self {
        Self(Sha1::new_with_prefix([circuit as u8; 20]))
    }

    fn mark(&mut self, body: &mut [u8; BODY_LEN]) -> [u8; 20] {
        body[RECOGNIZED].fill(0);
        body[DIGEST].fill(0);
        self.0.update(body.as_slice());
        let tag: [u8; 20] = self.0.clone().finalize().into();
        body[DIGEST].copy_from_slice(&tag[..4]);
        tag
    }
}

/// Marks batches of cells, each given by its circuit, with `lanes` and with the crate `sha1`.
fn check(lanes: Lanes, circuits: usize, batches: &[Vec<usize>]) {
    let mut digests: Vec<Digest> = (0..circuits).map(|i| Digest::new(&[i as u8; 20])).collect();
    let mut references: Vec<Reference> = (0..circuits).map(Reference::new).collect();
    let mut marker = Marker::with(lanes);
    for (seed, batch) in batches.iter().enumerate() {
        let mut out = noise(batch.len() * CELL, seed as u32);
        let mut expected = out.clone();
        let mut tags = Vec::new();
        for (cell, circuit) in expected.chunks_exact_mut(CELL).zip(batch) {
            tags.push(references[*circuit].mark(cell.last_chunk_mut().unwrap()));
        }
        // One row too many: a circuit may have no cell after all.
        let rows: Vec<usize> = (0..circuits)
            .map(|circuit| marker.circuit(digests[circuit].clone()))
            .collect();
        for (number, circuit) in batch.iter().enumerate() {
            assert_eq!(marker.cell(rows[*circuit], number * CELL + HEADER), Some(number));
        }
        assert_eq!(marker.cell(circuits, HEADER), None);
        marker.mark(&mut out);
        assert!(out == expected, "{lanes:?}: the cells");
        for (number, tag) in tags.iter().enumerate() {
            assert_eq!(marker.tag(number).unwrap().as_bytes(), tag, "{lanes:?}: cell {number}");
        }
        assert!(marker.tag(batch.len()).is_none());
        digests = marker.digests().collect();
        assert_eq!(digests.len(), circuits);
        assert!(marker.is_empty());
    }
    for (digest, reference) in digests.iter().zip(references) {
        assert_eq!(digest.value(), <[u8; 20]>::from(reference.0.finalize()), "{lanes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn marks_are_those_of_the_crate_sha1_whatever_the_circuits_and_the_lanes(
        (circuits, batches) in (1usize..40).prop_flat_map(|circuits| (
            Just(circuits),
            prop::collection::vec(prop::collection::vec(0..circuits, 0..80), 1..4),
        ))
    ) {
        for lanes in Lanes::ALL {
            check(lanes, circuits, &batches);
        }
    }

    #[test]
    fn a_digest_is_sha1_however_its_data_is_cut_up(
        pieces in prop::collection::vec(0usize..300, 0..10),
    ) {
        let mut digest = Digest::new(&[7; 20]);
        let mut reference = Sha1::new_with_prefix([7; 20]);
        for (seed, len) in pieces.into_iter().enumerate() {
            let piece = noise(len, seed as u32);
            digest.update(&piece);
            reference.update(&piece);
            prop_assert_eq!(digest.value(), <[u8; 20]>::from(reference.clone().finalize()));
        }
    }
}

#[test]
fn a_circuit_whose_cells_are_many_shares_lanes_with_circuits_of_one_cell() {
    // All 64 places that a body can begin at in a block come by, and lanes run empty.
    let batch: Vec<usize> = (0..130).map(|i| if i % 2 == 0 { 0 } else { i % 24 }).collect();
    for lanes in Lanes::ALL {
        check(lanes, 24, &[batch.clone(), vec![3; 64], Vec::new(), batch.clone()]);
    }
}

/// A message that was padded by hand to one block.
fn padded(message: &[u8]) -> Block {
    last_block(message, message.len() as u64)
}

#[test]
fn every_compression_gives_the_known_values() {
    let known: [(&[u8], &str); 3] = [
        (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            b"The quick brown fox jumps over the lazy dog",
            "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
        ),
    ];
    fn lanes<const L: usize>(known: &[(&[u8], &str); 3], compress: impl Fn(&mut Chains<L>, &[Block; L])) {
        let mut chains = lanes::START.map(|word| [word; L]);
        compress(&mut chains, &core::array::from_fn(|lane| padded(known[lane % 3].0)));
        for lane in 0..L {
            assert_eq!(hex::encode(to_bytes(chain(&chains, lane))), known[lane % 3].1);
        }
    }
    for (message, value) in known {
        let mut chain = lanes::START;
        lanes::alone(&mut chain, &padded(message));
        assert_eq!(hex::encode(to_bytes(chain)), value);
    }
    lanes(&known, lanes::eight);
    lanes(&known, lanes::eight_avx2);
    lanes(&known, lanes::eight_avx512);
    lanes(&known, lanes::sixteen_avx512);
}
