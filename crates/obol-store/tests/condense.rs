//! What a start reads is as good as everything: the same state machine, the same sums, the same books.

mod common;

use common::{History, all_facts, stroops};
use obol_cell::{
    AccountId, Asset, EscrowRules, ForwardPpm, NetworkId, Ownership, PeerId, PricePer64KiB, Signature, Step, Tariff,
};
use obol_store::condense::{Condense as _, NodeState, PayerState};
use obol_store::{Journal, Options};
use obol_toll::fact::{NodeFact, OutFact, PayerFact};
use obol_toll::node::{Input, Node, NodeConfig, Output};
use obol_toll::{Escrow, PayeeKeys, PayerKeys, UnixMillis};

/// Signs nothing and takes everything: what is compared is the books of the machine.
struct NoKeys;

impl PayeeKeys for NoKeys {
    fn signer(&self, _: &obol_cell::EscrowTerms) -> AccountId {
        AccountId([5; 32])
    }
    fn sign_refund(&self, _: &Escrow) -> Signature {
        Signature([0; 64])
    }
    fn verify_claim(&self, _: &Escrow, _: u32, _: obol_cell::Stroops, _: &Signature) -> bool {
        true
    }
    fn verify_owner(&self, _: &Ownership, _: &Signature) -> bool {
        true
    }
}

impl PayerKeys for NoKeys {
    fn sign_claim(&self, _: &Escrow, _: u32, _: obol_cell::Stroops) -> Option<Signature> {
        None
    }
    fn sign_owner(&self, _: &Ownership) -> Option<Signature> {
        None
    }
    fn verify_refund(&self, _: &Escrow, _: &Signature) -> bool {
        true
    }
}

/// The state of a relay's machine that was given these facts, as its own snapshot tells it.
fn machine(facts: Vec<NodeFact>) -> Vec<Vec<u8>> {
    let tariff = Tariff {
        price: PricePer64KiB::new(1).expect("a rung"),
        forward_ppm: ForwardPpm::new(0).expect("a fee"),
        forward_ceiling: PricePer64KiB::new(20).expect("a rung"),
        max_step: Step::FIRST,
        network: NetworkId([1; 32]),
        asset: Asset {
            code: *b"OBOL\0\0\0\0\0\0\0\0",
            issuer: [2; 32],
        },
        rules: EscrowRules {
            min_deposit: stroops(1),
            min_life: 1,
            max_life: u32::MAX,
            margin: 60,
        },
    };
    let config = NodeConfig::new(PeerId([3; 32]), tariff, 1_000_000);
    let mut node = Node::restore(config, NoKeys, [0; 32], facts);
    let start = UnixMillis::from_secs(1_700_000_000);
    node.handle(start, Input::Tick);
    while let Some(output) = node.poll() {
        if let Output::Persist { seq, .. } = output {
            node.handle(start, Input::Persisted { upto: seq });
        }
    }
    let mut facts: Vec<Vec<u8>> = node.snapshot().expect("settled").iter().map(NodeFact::encode).collect();
    facts.sort();
    facts
}

#[test]
fn a_machine_that_starts_from_a_checkpoint_is_the_one_that_read_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    for seed in 0..20 {
        let path = directory.path().join(format!("{seed}.sqlite"));
        let options = Options {
            checkpoint_every: Some(7),
            ..Options::default()
        };
        let mut history = History::new(seed);
        for _ in 0..5 {
            let (journal, from_checkpoint) = Journal::<NodeFact>::open_with(&path, options).expect("opens");
            let all = all_facts(&journal);
            assert_eq!(machine(from_checkpoint.clone()), machine(all.clone()), "seed {seed}");
            assert!(
                all.is_empty() || from_checkpoint.len() < all.len(),
                "seed {seed}: the checkpoint is used"
            );
            history.append(&journal, 200);
        }
    }
}

#[test]
fn condensing_what_is_condensed_changes_nothing() {
    for seed in 0..50 {
        let mut history = History::new(seed);
        let mut state = NodeState::default();
        for _ in 0..300 {
            for fact in history.next() {
                state.take(&fact);
            }
            let mut again = NodeState::default();
            for fact in state.facts() {
                again.take(&fact);
            }
            assert_eq!(again, state, "seed {seed}");
        }
    }
}

#[test]
fn a_clients_facts_condense_to_where_its_escrows_are() {
    let accepted = |n: u8| {
        PayerFact::Out(OutFact::Accepted {
            escrow: common::escrow(n),
            deposit: stroops(100),
            refund: Signature([1; 64]),
            margin: 60,
            payee: PeerId([3; 32]),
            since: 5,
        })
    };
    let out = PayerFact::Out;
    let (one, two, three) = (common::escrow_id(1), common::escrow_id(2), common::escrow_id(3));
    let signed = |escrow, k, amount| {
        out(OutFact::Signed {
            escrow,
            k,
            cumulative: stroops(amount),
        })
    };
    let balance = stroops(100);
    let facts = [
        accepted(1),
        accepted(2),
        out(OutFact::Opened { escrow: one, balance }),
        signed(one, 1, 10),
        PayerFact::Spent { total: stroops(10) },
        signed(one, 2, 15),
        PayerFact::Spent { total: stroops(15) },
        out(OutFact::Abandoned { escrow: two }),
        accepted(3),
        out(OutFact::Closing { escrow: one }),
        out(OutFact::Ended {
            escrow: one,
            paid: stroops(15),
        }),
    ];
    let mut state = PayerState::default();
    facts.iter().for_each(|fact| state.take(fact));
    let expected = [
        accepted(1),
        out(OutFact::Opened { escrow: one, balance }),
        signed(one, 2, 15),
        out(OutFact::Ended {
            escrow: one,
            paid: stroops(15),
        }),
        accepted(3),
        PayerFact::Spent { total: stroops(15) },
    ];
    assert_eq!(state.facts(), expected);
    assert_eq!(state.live(), [three]);
}
