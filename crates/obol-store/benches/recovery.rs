//! How long a start takes with a journal of many payments (`cargo bench -p obol-store -- recovery 1000000`): from its latest
//! checkpoint, and by reading everything, as if that were lost.

use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use obol_cell::{AccountId, Asset, EscrowId, EscrowTerms, NetworkId, PeerId, Signature, Stroops};
use obol_store::Journal;
use obol_toll::fact::{NodeFact, OutFact, Owner};
use obol_toll::{CircuitId, Escrow};

/// Escrows that pay.
const ESCROWS: u64 = 100;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (name, count) = (arguments.next(), arguments.next());
    if name.as_deref().is_some_and(|name| name != "recovery") {
        return;
    }
    let count: u64 = count.map_or(20_000, |count| count.parse().expect("a number of payments"));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.sqlite");
    let start = Instant::now();
    fill(&path, count);
    let size = std::fs::metadata(&path).expect("a file").len();
    println!(
        "recovery: a journal of {count} payments, {:.0} MB, written in {:.1} s",
        size as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );
    open(&path, "from the latest checkpoint");
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute("DELETE FROM checkpoints WHERE which = 'latest'", [])
        .expect("deleted");
    drop(db);
    open(&path, "with every fact");
}

fn open(path: &Path, how: &str) {
    let start = Instant::now();
    let (journal, facts) = Journal::<NodeFact>::open(path).expect("opens");
    println!(
        "recovery: opened {how} in {:.3} s; {} facts for the state machine",
        start.elapsed().as_secs_f64(),
        facts.len()
    );
    drop(journal);
}

fn stroops(n: u64) -> Stroops {
    Stroops::try_from(n).expect("within range")
}

fn id(n: u64) -> EscrowId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    EscrowId(id)
}

fn escrow(n: u64) -> Escrow {
    let terms = EscrowTerms {
        network: NetworkId([1; 32]),
        asset: Asset {
            code: *b"OBOL\0\0\0\0\0\0\0\0",
            issuer: [2; 32],
        },
        payee: PeerId([3; 32]),
        payee_account: AccountId([4; 32]),
        escrow: id(n),
        s0: 100 << 32,
        expiry: 2_000_000_000,
        min_deposit: stroops(1),
    };
    Escrow {
        terms,
        signer: AccountId([5; 32]),
    }
}

fn fill(path: &Path, count: u64) {
    let (journal, _) = Journal::<NodeFact>::open(path).expect("opens");
    let mut first: Vec<NodeFact> = (0..ESCROWS)
        .map(|n| NodeFact::Believed {
            escrow: escrow(n),
            owner: Owner::Client,
            balance: Stroops::MAX,
            margin: 60,
        })
        .collect();
    let onward = escrow(ESCROWS);
    first.push(NodeFact::Out(OutFact::Accepted {
        escrow: onward,
        deposit: Stroops::MAX,
        refund: Signature([0; 64]),
        margin: 60,
        payee: PeerId([3; 32]),
        since: 1,
    }));
    first.push(NodeFact::Out(OutFact::Opened {
        escrow: onward.id(),
        balance: Stroops::MAX,
    }));
    let (tell, told) = mpsc::channel();
    let append = |facts: Vec<NodeFact>| {
        let tell = tell.clone();
        journal.append_then(facts, move |outcome| tell.send(outcome).expect("heard"));
    };
    append(first);
    let mut waiting = 1;
    for payment in 0..count {
        let (from, k) = (
            id(payment % ESCROWS),
            u32::try_from(payment / ESCROWS + 1).expect("few"),
        );
        let circuit = CircuitId(payment % 1_000);
        append(vec![
            NodeFact::Claim {
                escrow: from,
                k,
                cumulative: stroops(u64::from(k) * 3),
                signature: Signature([9; 64]),
            },
            NodeFact::Allocated {
                escrow: from,
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
                escrow: onward.id(),
                k: u32::try_from(payment + 1).expect("few"),
                cumulative: stroops((payment + 1) * 2),
            }),
        ]);
        waiting += 1;
        if waiting > 2_000 {
            told.recv().expect("told").expect("the disk takes it");
            waiting -= 1;
        }
    }
    for outcome in told.iter().take(waiting) {
        outcome.expect("the disk takes it");
    }
}
