//! Facts for the tests, and a way to run this test program again as another process.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use obol_cell::{
    AccountId, Asset, EscrowId, EscrowTerms, NetworkId, PeerId, SettlementMemo, Signature, Stroops, TransactionId,
};
use obol_store::Journal;
use obol_toll::fact::{NodeFact, OutFact, Owner, TrustFact};
use obol_toll::{CircuitId, Escrow};
use rand::{RngExt as _, SeedableRng as _};

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

/// Every fact that is stored, in order.
pub fn all_facts(journal: &Journal<NodeFact>) -> Vec<NodeFact> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let facts = runtime.block_on(journal.facts_from(1)).expect("reads");
    facts.into_iter().map(|(_, fact)| fact).collect()
}

/// The audit's verdict.
pub fn audit(journal: &Journal<NodeFact>) -> Result<(), obol_store::AuditError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(journal.audit())
}

/// A relay's history as the rules allow it, append by append, without end: clients 1 and 2 and the relay 3 pay, and what is
/// for next hops goes on by the escrows 11 and 12. Every few hundred appends the process restarts; escrows end and others come.
pub struct History {
    random: rand::rngs::StdRng,
    started: bool,
    incoming: Vec<Incoming>,
    outgoing: Vec<(u8, u32, i64)>,
    held: Vec<(u64, Vec<(u8, i64)>)>,
    forwarding: i64,
    next_circuit: u64,
    next_escrow: u8,
    /// What the peer 5 owes us by trust, and what we owe it: statements and their sums; and how often was paid.
    owed_to_us: (u32, i64),
    owed: (u32, i64),
    payments: u64,
    day: u64,
    /// Escrows that were settled and not asked for yet.
    pub settled: Vec<u8>,
}

struct Incoming {
    id: u8,
    client: bool,
    k: u32,
    cumulative: i64,
    unallocated: i64,
}

impl History {
    pub fn new(seed: u64) -> History {
        History {
            random: rand::rngs::StdRng::seed_from_u64(seed),
            started: false,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            held: Vec::new(),
            forwarding: 0,
            next_circuit: 1,
            // Other ids of the tests are below.
            next_escrow: 20,
            owed_to_us: (0, 0),
            owed: (0, 0),
            payments: 0,
            day: 20_000,
            settled: Vec::new(),
        }
    }

    fn open_escrow(&mut self, client: bool) -> NodeFact {
        let id = self.next_escrow;
        // The ids of few escrows at a time are told apart by one byte; nobody needs more here.
        self.next_escrow = self.next_escrow.checked_add(1).expect("few escrows");
        self.incoming.push(Incoming {
            id,
            client,
            k: 0,
            cumulative: 0,
            unallocated: 0,
        });
        believed(
            id,
            if client {
                Owner::Client
            } else {
                Owner::Peer(PeerId([9; 32]))
            },
        )
    }

    fn open_outgoing(&mut self) -> [NodeFact; 2] {
        let id = self.next_escrow;
        self.next_escrow = self.next_escrow.checked_add(1).expect("few escrows");
        self.outgoing.push((id, 0, 0));
        let accepted = OutFact::Accepted {
            escrow: escrow(id),
            deposit: stroops(1_000_000_000),
            refund: Signature([6; 64]),
            margin: 60,
            payee: PeerId([8; 32]),
            since: 1_700_000_000,
        };
        [NodeFact::Out(accepted), opened(id, 1_000_000_000)]
    }

    /// The escrow that came last.
    pub fn newest_escrow(&self) -> u8 {
        self.next_escrow - 1
    }

    /// The facts of the next append.
    pub fn next(&mut self) -> Vec<NodeFact> {
        if !self.started {
            self.started = true;
            let mut facts = vec![NodeFact::Restarted];
            facts.extend([true, true, false].map(|client| self.open_escrow(client)));
            facts.extend(self.open_outgoing());
            return facts;
        }
        match self.random.random_range(0..300_u32) {
            0 => self.restart(),
            1 if self.next_escrow < 200 => self.end_incoming(),
            2 if self.next_escrow < 200 => self.end_outgoing(),
            3 if self.next_escrow < 200 => self.new_epoch(),
            4 => {
                self.day += u64::from(self.random.random_range(0..4_u32));
                vec![NodeFact::Day { day: self.day }]
            }
            5..30 => self.end_circuit(),
            30..40 => self.trusted(),
            40..50 => self.owe(),
            _ => self.pay(),
        }
    }

    /// As after an import: all escrows are of the past, and others come.
    fn new_epoch(&mut self) -> Vec<NodeFact> {
        self.incoming.clear();
        self.outgoing.clear();
        let mut facts = vec![NodeFact::NewEpoch];
        facts.extend([true, false].map(|client| self.open_escrow(client)));
        facts.extend(self.open_outgoing());
        facts
    }

    fn transaction(&mut self) -> TransactionId {
        self.payments += 1;
        let mut id = [7; 32];
        id[..8].copy_from_slice(&self.payments.to_be_bytes());
        TransactionId(id)
    }

    /// A peer pays by a statement, and now and then on the ledger.
    fn trusted(&mut self) -> Vec<NodeFact> {
        let (peer, circuit, n) = (PeerId([5; 32]), CircuitId(1_000_000 + u64::from(self.owed_to_us.0)), 1);
        let amount = self.random.random_range(1..500_i64);
        self.owed_to_us.0 += 1;
        self.owed_to_us.1 += amount;
        let mut facts = vec![
            TrustFact::Stated {
                peer,
                k: self.owed_to_us.0,
                cumulative: stroops(self.owed_to_us.1),
                memo: SettlementMemo([1; 32]),
                signature: Signature([7; 64]),
            },
            TrustFact::Allocated {
                peer,
                circuit,
                n,
                amount: stroops(amount),
            },
            TrustFact::Spent {
                peer,
                circuit,
                n,
                amount: stroops(amount / 2),
                credit: 65_536,
            },
        ];
        if self.random.random_bool(0.3) {
            facts.push(TrustFact::Settled {
                peer,
                transaction: self.transaction(),
                amount: stroops(self.random.random_range(1..100_i64)),
            });
        }
        facts.into_iter().map(NodeFact::Trust).collect()
    }

    /// What is to go on is owed to a peer, and paid on the ledger.
    fn owe(&mut self) -> Vec<NodeFact> {
        if self.forwarding == 0 {
            return self.pay();
        }
        let peer = PeerId([5; 32]);
        let (amount, account) = (stroops(self.forwarding), AccountId([6; 32]));
        self.owed.0 += 1;
        self.owed.1 += self.forwarding;
        self.forwarding = 0;
        let transaction = self.transaction();
        let batch = self.payments;
        let mut facts = vec![
            TrustFact::Agreed { peer, account },
            TrustFact::Signed {
                peer,
                k: self.owed.0,
                cumulative: stroops(self.owed.1),
            },
            TrustFact::Paying {
                batch,
                peer,
                account,
                amount,
            },
        ];
        match self.random.random_range(0..4_u32) {
            0 => {}
            1 => facts.push(TrustFact::NotPaid { batch }),
            2 => facts.push(TrustFact::Paid { batch, transaction }),
            _ => {
                facts.push(TrustFact::Paid { batch, transaction });
                facts.push(TrustFact::Confirmed { peer, transaction });
            }
        }
        facts.into_iter().map(NodeFact::Trust).collect()
    }

    /// A claim that pays for a circuit, a step of its, and what goes on.
    fn pay(&mut self) -> Vec<NodeFact> {
        let which = self.random.random_range(0..self.incoming.len());
        let step = self.random.random_range(1..500_i64);
        let (earned, forwarded) = (step, if self.random.random_bool(0.7) { step * 2 } else { 0 });
        let from = &mut self.incoming[which];
        from.k += 1;
        from.cumulative += step * 3 + 7;
        from.unallocated += 7;
        let id = from.id;
        let circuit = if self.held.is_empty() || self.random.random_bool(0.1) {
            self.next_circuit += 1;
            self.held.push((self.next_circuit, Vec::new()));
            self.held.len() - 1
        } else {
            self.random.random_range(0..self.held.len())
        };
        let (number, parts) = &mut self.held[circuit];
        let mut facts = vec![claim(id, from.k, from.cumulative), allocated(id, *number, step * 3)];
        match parts.iter_mut().find(|(e, _)| *e == id) {
            Some((_, sum)) => *sum += step * 3,
            None => parts.push((id, step * 3)),
        }
        facts.push(spent(*number, earned, forwarded));
        take(parts, earned + forwarded);
        self.forwarding += forwarded;
        if forwarded > 0 && self.random.random_bool(0.9) {
            let (id, k, cumulative) = self.outgoing.last_mut().expect("one is open");
            *k += 1;
            *cumulative += self.forwarding;
            self.forwarding = 0;
            facts.push(signed(*id, *k, *cumulative));
        }
        facts
    }

    fn end_circuit(&mut self) -> Vec<NodeFact> {
        if self.held.is_empty() {
            return self.pay();
        }
        let which = self.random.random_range(0..self.held.len());
        let (circuit, parts) = self.held.swap_remove(which);
        let mut facts = Vec::new();
        for (id, amount) in parts {
            let from = self.incoming.iter_mut().find(|i| i.id == id);
            if let Some(from) = from.filter(|from| from.client && amount > 0) {
                from.unallocated += amount;
                facts.push(NodeFact::Returned {
                    escrow: escrow_id(id),
                    circuit: CircuitId(circuit),
                    amount: stroops(amount),
                });
            }
        }
        let circuit = CircuitId(circuit);
        facts.push(NodeFact::CircuitEnded { circuit });
        facts
    }

    fn restart(&mut self) -> Vec<NodeFact> {
        for (_, parts) in std::mem::take(&mut self.held) {
            for (id, amount) in parts {
                if let Some(from) = self.incoming.iter_mut().find(|i| i.id == id && i.client) {
                    from.unallocated += amount;
                }
            }
        }
        vec![NodeFact::Restarted]
    }

    /// The oldest escrow that pays us is flushed, and another one comes.
    fn end_incoming(&mut self) -> Vec<NodeFact> {
        let old = self.incoming.remove(0);
        let escrow = escrow_id(old.id);
        self.settled.push(old.id);
        let new = self.open_escrow(old.client);
        vec![
            new,
            NodeFact::InClosing { escrow },
            NodeFact::Flushing { escrow, k: old.k },
            NodeFact::Settled {
                escrow,
                amount: stroops(old.cumulative),
            },
        ]
    }

    fn end_outgoing(&mut self) -> Vec<NodeFact> {
        let (old, _, cumulative) = self.outgoing.remove(0);
        let mut facts = Vec::from(self.open_outgoing());
        let escrow = escrow_id(old);
        facts.push(NodeFact::Out(OutFact::Closing { escrow }));
        facts.push(NodeFact::Out(OutFact::Ended {
            escrow,
            paid: stroops(cumulative),
        }));
        facts
    }

    /// Puts the next `appends` appends into `journal`, and waits for them.
    pub fn append(&mut self, journal: &Journal<NodeFact>, appends: usize) {
        let (tell, told) = std::sync::mpsc::channel();
        for _ in 0..appends {
            let tell = tell.clone();
            journal.append_then(self.next(), move |outcome| {
                tell.send(outcome).expect("heard");
            });
        }
        drop(tell);
        for outcome in told {
            outcome.expect("appends");
        }
    }
}

/// Takes `amount` out of what is held, oldest first.
fn take(parts: &mut Vec<(u8, i64)>, amount: i64) {
    let mut left = amount;
    for (_, sum) in parts.iter_mut() {
        let part = left.min(*sum);
        *sum -= part;
        left -= part;
    }
    parts.retain(|(_, sum)| *sum > 0);
}

/// A day that the journal's clock can be set to, unix seconds; a test's processes have it to themselves.
static CLOCK: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1_800_000_000);

/// The clock to give to a journal.
pub fn clock() -> u64 {
    CLOCK.load(std::sync::atomic::Ordering::SeqCst)
}

/// The tests of a program share the clock, and run side by side: whoever moves it, and cares for what others do to it meanwhile, holds this.
pub async fn days_are_ours() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

/// Moves it on.
pub fn days_pass(days: u64) {
    CLOCK.fetch_add(days * 86_400, std::sync::atomic::Ordering::SeqCst);
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
