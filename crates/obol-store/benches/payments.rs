//! Payments a second and core through what each costs a relay in the end: the claim signed by its payer, verified by its payee,
//! and the facts of it durable in the journal (`cargo bench -p obol-store -- payments 100000`).

use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use obol_cell::{AccountId, Asset, EscrowTerms, PeerId, Stroops};
use obol_stellar::escrow::{EscrowSecret, PayerSecret};
use obol_stellar::keys::{EscrowPayee, EscrowPayer};
use obol_stellar::{Keypair, Network};
use obol_store::Journal;
use obol_toll::fact::{NodeFact, OutFact, Owner};
use obol_toll::keys::{PayeeKeys as _, PayerKeys as _};
use obol_toll::{CircuitId, Escrow};

/// Payments on their way to the disk at once: some circuits of a busy relay.
const WAITING: usize = 256;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (name, count) = (arguments.next(), arguments.next());
    if name.as_deref().is_some_and(|name| name != "payments") {
        return;
    }
    let count: u32 = count.map_or(20_000, |count| count.parse().expect("a number of payments"));
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = Journal::<NodeFact>::open(&directory.path().join("journal.sqlite")).expect("opens");
    let (payer, payee, escrow) = keys(1);
    let onward = keys(2);
    begin(&journal, &escrow, &onward.2);

    let (tell, told) = mpsc::channel();
    let (cpu, wall) = (cpu_time(), Instant::now());
    let mut waiting = 0;
    for k in 1..=count {
        let cumulative = stroops(i64::from(k) * 3);
        let signature = payer.sign_claim(&escrow, k, cumulative).expect("the key is at hand");
        assert!(payee.verify_claim(&escrow, k, cumulative, &signature));
        let circuit = CircuitId(u64::from(k % 100));
        let facts = vec![
            NodeFact::Claim {
                escrow: escrow.id(),
                k,
                cumulative,
                signature,
            },
            NodeFact::Allocated {
                escrow: escrow.id(),
                circuit,
                n: 1,
                amount: stroops(3),
            },
            NodeFact::Spent {
                circuit,
                n: 1,
                earned: stroops(1),
                forwarded: stroops(2),
                credit: 1 << 20,
            },
            NodeFact::Out(OutFact::Signed {
                escrow: onward.2.id(),
                k,
                cumulative: stroops(i64::from(k) * 2),
            }),
        ];
        let tell = tell.clone();
        journal.append_then(facts, move |outcome| {
            outcome.expect("the disk takes it");
            tell.send(()).expect("heard");
        });
        waiting += 1;
        while waiting >= WAITING {
            told.recv().expect("told");
            waiting -= 1;
        }
    }
    for () in told.iter().take(waiting) {}
    let (cpu, wall) = (cpu_time() - cpu, wall.elapsed());
    println!(
        "payments: {count} signed, verified and durable in {:.2} s; {:.2} s of CPU: {:.0} a second and core, {:.1} us each",
        wall.as_secs_f64(),
        cpu.as_secs_f64(),
        f64::from(count) / cpu.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / f64::from(count),
    );
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("its usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn stroops(n: i64) -> Stroops {
    Stroops::new(n).expect("not negative")
}

/// An escrow with both sides' keys.
fn keys(n: u8) -> (EscrowPayer, EscrowPayee, Escrow) {
    let network = Network::new("a benchmark").id();
    let payer = EscrowPayer::new(PayerSecret::from_bytes([n; 32]), network);
    let payee = EscrowPayee::new(EscrowSecret::from_bytes([n + 10; 32]));
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
    (payer, payee, Escrow { terms, signer })
}

fn begin(journal: &Journal<NodeFact>, incoming: &Escrow, outgoing: &Escrow) {
    let facts = vec![
        NodeFact::Believed {
            escrow: *incoming,
            owner: Owner::Client,
            balance: Stroops::MAX,
            margin: 60,
        },
        NodeFact::Out(OutFact::Accepted {
            escrow: *outgoing,
            deposit: Stroops::MAX,
            refund: obol_cell::Signature([0; 64]),
            margin: 60,
            payee: PeerId([4; 32]),
            since: 1,
        }),
        NodeFact::Out(OutFact::Opened {
            escrow: outgoing.id(),
            balance: Stroops::MAX,
        }),
    ];
    let (tell, told) = mpsc::channel();
    journal.append_then(facts, move |outcome| tell.send(outcome).expect("heard"));
    told.recv().expect("told").expect("the disk takes it");
}
