//! What a cell costs: its cryptography, and a middle relay's engine around it, without sockets and TLS.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use obol_bench::middle::Middle;
use obol_bench::wire::CELL;
use obol_onion::crypto::tor1::{BODY_LEN, CircuitKeys, ClientLayers, Digest, KEY_MATERIAL_LEN, Marker};

/// As many cells as a read of 64 KiB brings.
const BATCH: usize = 127;

fn main() {
    divan::main();
}

fn keys() -> CircuitKeys {
    CircuitKeys::from_kdf(&[0x42; KEY_MATERIAL_LEN])
}

#[divan::bench_group]
mod tor1 {
    use super::*;

    #[divan::bench]
    fn open_not_ours(bencher: Bencher<'_, '_>) {
        let (mut forward, _) = keys().relay_layers();
        let mut body = [0xa7; BODY_LEN];
        let bencher = bencher.counter(BytesCount::new(BODY_LEN));
        bencher.bench_local(|| forward.open(black_box(&mut body)).is_some());
    }

    /// Each cell has to be opened in its turn: a client makes them beside the clock.
    #[divan::bench(sample_size = 1, sample_count = 5000)]
    fn open_ours(bencher: Bencher<'_, '_>) {
        let (mut forward, _) = keys().relay_layers();
        let mut client = ClientLayers::new();
        client.push(&keys());
        let mut make = || {
            let mut body = [0; BODY_LEN];
            client.originate(0, &mut body);
            body
        };
        let bencher = bencher.counter(BytesCount::new(BODY_LEN));
        bencher
            .with_inputs(&mut make)
            .bench_local_refs(|body| forward.open(body).is_some());
    }

    #[divan::bench]
    fn seal(bencher: Bencher<'_, '_>) {
        let (_, mut backward) = keys().relay_layers();
        let mut body = [0xa7; BODY_LEN];
        let bencher = bencher.counter(BytesCount::new(BODY_LEN));
        bencher.bench_local(|| backward.seal(black_box(&mut body)));
    }

    #[divan::bench]
    fn originate(bencher: Bencher<'_, '_>) {
        let (_, mut backward) = keys().relay_layers();
        let mut body = [0xa7; BODY_LEN];
        let bencher = bencher.counter(BytesCount::new(BODY_LEN));
        bencher.bench_local(|| backward.originate(black_box(&mut body)));
    }

    /// A batch of cells of several circuits, in turn, marked but not encrypted.
    #[divan::bench(args = [1, 4, 8, 16, 64])]
    fn mark_circuits(bencher: Bencher<'_, '_>, circuits: usize) {
        let mut digests: Vec<Digest> = (0..circuits).map(|_| keys().relay_layers().1.digest()).collect();
        let mut marker = Marker::new();
        let mut out = [0xa7; BATCH * CELL];
        bencher.counter(BytesCount::new(BATCH * BODY_LEN)).bench_local(|| {
            for digest in digests.drain(..) {
                marker.circuit(digest);
            }
            for number in 0..BATCH {
                marker.cell(number % circuits, (number + 1) * CELL - BODY_LEN);
            }
            marker.mark(black_box(&mut out));
            digests.extend(marker.digests());
        });
    }
}

/// A read of 64 KiB through a middle relay's engine.
#[divan::bench(args = [(1, true), (1, false), (100, true), (10_000, true)])]
fn engine_forwards_circuits_paid(bencher: Bencher<'_, '_>, (circuits, paid): (u32, bool)) {
    let mut middle = Middle::new(circuits, paid).expect("the engine opens circuits");
    let mut batch = middle.batch(BATCH);
    bencher
        .counter(BytesCount::new(BATCH * CELL))
        .bench_local(|| middle.forward(black_box(&mut batch)));
}

/// Cells of circuits that do not exist are looked up and dropped: what finding a circuit costs.
#[divan::bench(args = [1, 10_000])]
fn circuit_table(bencher: Bencher<'_, '_>, circuits: u32) {
    let mut middle = Middle::new(circuits, true).expect("the engine opens circuits");
    let mut batch = middle.batch(BATCH);
    for cell in batch.chunks_exact_mut(CELL) {
        cell[..4].copy_from_slice(&[0x7f, 1, 2, 3]);
    }
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| middle.forward(black_box(&mut batch)));
}
