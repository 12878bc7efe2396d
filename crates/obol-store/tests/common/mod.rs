//! Facts for the tests, and a way to run this test program again as another process.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use obol_cell::{AccountId, Asset, EscrowId, EscrowTerms, NetworkId, PeerId, Signature, Stroops};
use obol_toll::fact::{NodeFact, OutFact, Owner};
use obol_toll::{CircuitId, Escrow};

pub fn stroops(n: i64) -> Stroops {
    Stroops::new(n).expect("not negative")
}

pub fn escrow_id(n: u8) -> EscrowId {
    EscrowId([n; 32])
}

pub fn escrow(n: u8) -> Escrow {
    let terms = EscrowTerms {
        network: NetworkId([1; 32]),
        asset: Asset {
            code: *b"OBOL\0\0\0\0\0\0\0\0",
            issuer: [2; 32],
        },
        payee: PeerId([3; 32]),
        payee_account: AccountId([4; 32]),
        escrow: escrow_id(n),
        s0: 100 << 32,
        expiry: 1_800_000_000,
        min_deposit: stroops(1),
    };
    Escrow {
        terms,
        signer: AccountId([5; 32]),
    }
}

pub fn believed(n: u8, owner: Owner) -> NodeFact {
    NodeFact::Believed {
        escrow: escrow(n),
        owner,
        balance: stroops(1_000_000),
        margin: 60,
    }
}

pub fn claim(n: u8, k: u32, cumulative: i64) -> NodeFact {
    NodeFact::Claim {
        escrow: escrow_id(n),
        k,
        cumulative: stroops(cumulative),
        signature: Signature([7; 64]),
    }
}

pub fn allocated(n: u8, circuit: u64, amount: i64) -> NodeFact {
    NodeFact::Allocated {
        escrow: escrow_id(n),
        circuit: CircuitId(circuit),
        n: 1,
        amount: stroops(amount),
    }
}

pub fn spent(circuit: u64, earned: i64, forwarded: i64) -> NodeFact {
    let (earned, forwarded) = (stroops(earned), stroops(forwarded));
    NodeFact::Spent {
        circuit: CircuitId(circuit),
        n: 1,
        earned,
        forwarded,
        credit: 65_536,
    }
}

pub fn opened(n: u8, balance: i64) -> NodeFact {
    NodeFact::Out(OutFact::Opened {
        escrow: escrow_id(n),
        balance: stroops(balance),
    })
}

pub fn signed(n: u8, k: u32, cumulative: i64) -> NodeFact {
    NodeFact::Out(OutFact::Signed {
        escrow: escrow_id(n),
        k,
        cumulative: stroops(cumulative),
    })
}

/// Where a second process finds its journal.
pub const JOURNAL: &str = "OBOL_TEST_JOURNAL";

/// Runs the test `name` of this program in a process of its own, with `journal` in its environment.
pub fn again(name: &str, journal: &Path) -> (Child, BufReader<ChildStdout>) {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args([name, "--exact", "--nocapture", "--test-threads", "1"])
        .env(JOURNAL, journal)
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    (child, output)
}

/// The next line that begins with `tag`, without it; `None` at the end.
pub fn line(output: &mut impl BufRead, tag: &str) -> Option<String> {
    let mut line = String::new();
    loop {
        line.clear();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        // The test harness may have begun the line.
        if let Some(at) = line.find(tag)
            && line.ends_with('\n')
        {
            return Some(line[at + tag.len()..].trim().to_owned());
        }
    }
}
