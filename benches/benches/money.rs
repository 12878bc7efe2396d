//! What a payment costs: claims signed and verified, facts made durable.

use divan::Bencher;
use divan::counter::ItemsCount;
use obol_cell::{AccountId, Asset, EscrowTerms, PeerId, Signature, Stroops};
use obol_stellar::escrow::{EscrowSecret, PayerSecret};
use obol_stellar::keys::{EscrowPayee, EscrowPayer};
use obol_stellar::{Keypair, Network};
use obol_store::Journal;
use obol_toll::fact::NodeFact;
use obol_toll::keys::{PayeeKeys as _, PayerKeys as _};

fn main() {
    divan::main();
}

fn stroops(n: u32) -> Stroops {
    Stroops::new(n.into()).expect("not negative")
}

/// An escrow with both sides' keys.
fn escrow() -> (EscrowPayer, EscrowPayee, obol_toll::Escrow) {
    let network = Network::new("a benchmark").id();
    let payer = EscrowPayer::new(PayerSecret::from_bytes([1; 32]), network);
    let payee = EscrowPayee::new(EscrowSecret::from_bytes([2; 32]));
    let terms = EscrowTerms {
        network,
        asset: Asset {
            code: *b"OBOL\0\0\0\0\0\0\0\0",
            issuer: Keypair::from_seed(&[3; 32]).account().0,
        },
        payee: PeerId([4; 32]),
        payee_account: AccountId(Keypair::from_seed(&[5; 32]).account().0),
        escrow: payer.add(&[6; 32]),
        s0: 1 << 40,
        expiry: 2_000_000_000,
        min_deposit: stroops(1),
    };
    let signer = payee.signer(&terms);
    (payer, payee, obol_toll::Escrow { terms, signer })
}

#[divan::bench]
fn claim_sign(bencher: Bencher<'_, '_>) {
    let (payer, _, escrow) = escrow();
    let mut k = 0;
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        k += 1;
        payer.sign_claim(&escrow, k, stroops(k))
    });
}

#[divan::bench]
fn claim_verify(bencher: Bencher<'_, '_>) {
    let (payer, payee, escrow) = escrow();
    let signature = payer.sign_claim(&escrow, 7, stroops(700)).expect("the key is at hand");
    assert!(payee.verify_claim(&escrow, 7, stroops(700), &signature));
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench_local(|| payee.verify_claim(&escrow, 7, stroops(700), &signature));
}

/// Facts until they are on the disk: the journal puts what waits into one transaction.
#[divan::bench(args = [1, 10, 100])]
fn journal_append(bencher: Bencher<'_, '_>, facts: u32) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let opened = Journal::<NodeFact>::open(&directory.path().join("journal.sqlite"));
    let (journal, _) = opened.expect("a new journal opens");
    let (_, _, escrow) = escrow();
    let mut k = 0;
    bencher.counter(ItemsCount::new(facts)).bench_local(|| {
        let batch = (0..facts).map(|_| {
            k += 1;
            NodeFact::Claim {
                escrow: escrow.id(),
                k,
                cumulative: stroops(k),
                signature: Signature([7; 64]),
            }
        });
        runtime
            .block_on(journal.append(batch.collect()))
            .expect("the disk takes it")
    });
}
