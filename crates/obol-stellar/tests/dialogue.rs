//! `docs/protocol/vectors/dialogue.json`: what a relay with the real keys answers, message by message, as hop 1 of a client and as hop 2 behind
//! another relay. The test says what stands in the file to a relay's state machine and compares what comes back, byte for byte.
//! `OBOL_WRITE_VECTORS=1` writes the file anew (docs/protocol/vectors.md).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use obol_cell::*;
use obol_stellar::asset::asset;
use obol_stellar::escrow::{EscrowSecret, PayerSecret};
use obol_stellar::keys::{EscrowPayee, EscrowPayer, RelayKeys};
use obol_stellar::{Keypair, Network};
use obol_toll::node::{Input, Node, NodeConfig, Output};
use obol_toll::trust::{Statement, Trusted};
use obol_toll::{AddressKey, CircuitId, Escrow, LinkId, PayeeKeys as _, PayerKeys as _, UnixMillis};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const START_MS: u64 = 1_800_000_000_000;
const LEDGER: u32 = 1_000;
const CIRCUIT: CircuitId = CircuitId(1);
/// Towards the client, and on to the next hop.
const LINK: LinkId = LinkId(1);
const NEXT_LINK: LinkId = LinkId(2);
const ID_ON_LINK: u32 = 0x8000_0001;
const ID_ON_NEXT: u32 = 0x0000_0007;
/// What an escrow holds when it is read.
const BALANCE: i64 = 100_000_000;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol/vectors/dialogue.json")
}

/// The file; written first from what the code says, if that was asked for.
fn file() -> Value {
    if std::env::var_os("OBOL_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&current()).unwrap() + "\n";
        fs::write(path(), text).unwrap();
    }
    serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap()
}

fn s(amount: i64) -> Stroops {
    Stroops::new(amount).unwrap()
}

// ---- the relay that is spoken to ----

fn tariff() -> Tariff {
    Tariff {
        price: PricePer64KiB::new(100).unwrap(),
        forward_ppm: ForwardPpm::new(1_000).unwrap(),
        forward_ceiling: PricePer64KiB::new(2_000).unwrap(),
        max_step: Step::DEFAULT_LARGEST,
        network: Network::testnet().id(),
        asset: asset("OBOL", Keypair::from_seed(&[1; 32]).account()).unwrap(),
        rules: EscrowRules {
            min_deposit: s(100_000),
            min_life: 21_600,
            max_life: 691_200,
            margin: 7_200,
        },
    }
}

const RELAY: PeerId = PeerId([0x21; 32]);
const BEFORE: PeerId = PeerId([0x22; 32]);
const NEXT: PeerId = PeerId([0x26; 32]);
/// What this relay derives the keys of its own escrows from, and the nonce of the one to the next hop.
const PAYER_SECRET: [u8; 32] = [0x24; 32];
const NONCE: [u8; 32] = [0x27; 32];

/// What the relay before signs what it owes with.
fn debtor() -> EscrowPayer {
    let payer = EscrowPayer::new(PayerSecret::from_bytes([0x29; 32]), tariff().network);
    payer.with_trust_account(Keypair::from_seed(&[5; 32]))
}

/// The relay's own escrow to the next hop.
fn onward() -> EscrowOffer {
    let payer = EscrowPayer::new(PayerSecret::from_bytes(PAYER_SECRET), tariff().network);
    EscrowOffer {
        escrow: payer.add(&NONCE),
        network: tariff().network,
        asset: tariff().asset,
        s0: u64::from(LEDGER + 60) << 32,
        expiry: START_MS / 1_000 + 604_800,
        deposit: s(BALANCE),
    }
}

/// The next hop's escrow secret, and its answer to that offer.
fn next_keys() -> EscrowPayee {
    EscrowPayee::new(EscrowSecret::from_bytes([0x28; 32]))
}

fn accepted_onward() -> EscrowAcceptance {
    let (account, min_deposit) = (Keypair::from_seed(&[3; 32]).account(), s(200_000));
    let terms = EscrowTerms::new(&onward(), NEXT, account, min_deposit);
    let signer = next_keys().signer(&terms);
    EscrowAcceptance {
        escrow: terms.escrow,
        signer,
        payee_account: account,
        min_deposit,
        refund: next_keys().sign_refund(&Escrow { terms, signer }),
    }
}

fn payee_keys() -> EscrowPayee {
    EscrowPayee::new(EscrowSecret::from_bytes([0x23; 32]))
}

fn payee_account() -> AccountId {
    Keypair::from_seed(&[2; 32]).account()
}

struct Scene {
    node: Node<RelayKeys>,
    now: u64,
}

impl Scene {
    /// `hop`: 1, with a client on the link, or 2, with the relay `BEFORE`. `goes_on`: the circuit is extended to the relay `NEXT`.
    fn new(hop: u64, goes_on: bool) -> Scene {
        let config = NodeConfig::new(RELAY, tariff(), 1 << 20);
        let config = NodeConfig {
            close_jitter_ms: 0,
            pays_others: false,
            ..config
        };
        let keys = RelayKeys {
            payee: payee_keys(),
            payer: EscrowPayer::new(PayerSecret::from_bytes(PAYER_SECRET), tariff().network),
        };
        keys.payer.add(&NONCE);
        let mut scene = Scene {
            node: Node::new(config, keys, [0; 32]),
            now: START_MS,
        };
        let account = payee_account();
        let (peer, address) = match hop {
            1 => (None, Some(AddressKey::of(IpAddr::from([192, 0, 2, 1])))),
            _ => (Some(BEFORE), None),
        };
        scene.tell(Input::PayeeAccount {
            account,
            can_accept: true,
        });
        scene.tell(Input::LinkUp {
            link: LINK,
            peer,
            obol: peer.is_some(),
            address,
        });
        scene.tell(Input::CircuitOpened {
            circuit: CIRCUIT,
            link: LINK,
            id: ID_ON_LINK,
        });
        if goes_on {
            scene.tell(Input::LinkUp {
                link: NEXT_LINK,
                peer: Some(NEXT),
                obol: true,
                address: None,
            });
            scene.tell(Input::CircuitExtended {
                circuit: CIRCUIT,
                link: NEXT_LINK,
                id: ID_ON_NEXT,
            });
        }
        scene
    }

    /// What follows from an input, with a journal that is durable at once and a ledger that shows what was agreed.
    fn tell(&mut self, input: Input) -> Value {
        let now = UnixMillis(self.now);
        self.node.handle(
            now,
            Input::LedgerClosed {
                sequence: LEDGER,
                close_time: now.secs(),
            },
        );
        self.node.handle(now, input);
        let mut replies = Vec::new();
        let mut granted = 0;
        let mut ends = Value::Null;
        let mut flush = Value::Null;
        while let Some(output) = self.node.poll() {
            match output {
                Output::Persist { seq, .. } => self.node.handle(now, Input::Persisted { upto: seq }),
                Output::CheckAbsent { escrow } => self.node.handle(
                    now,
                    Input::EscrowChecked {
                        escrow,
                        exists: Some(false),
                    },
                ),
                Output::ReadEscrow { escrow } => self.node.handle(
                    now,
                    Input::EscrowRead {
                        escrow: escrow.id(),
                        result: Ok(s(BALANCE)),
                    },
                ),
                Output::Answer { body, .. } => {
                    replies.push(json!({"command": CMD_TO_ORIGIN, "body": hex::encode(body)}));
                }
                Output::SendLink { link, body } => {
                    replies.push(json!({"command": CMD_LINK, "link": link.0, "body": hex::encode(body)}));
                }
                Output::Grant { bytes, .. } => granted += bytes,
                Output::Destroy { .. } => ends = json!("circuit"),
                Output::CloseLink { .. } => ends = json!("link"),
                Output::Flush { k, cumulative, .. } => {
                    flush = json!({"k": k, "cumulative": cumulative.to_string()});
                }
                // A closed ledger has the settlement, and it paid 200.
                Output::CheckPayment { peer, transaction, .. } => self.node.handle(
                    now,
                    Input::PaymentChecked {
                        peer,
                        transaction,
                        result: Ok(s(200)),
                    },
                ),
                // Whether the ledger takes it is an event of the file.
                Output::OpenEscrow { escrow, deposit, .. } => {
                    assert_eq!((escrow.id(), deposit), (onward().escrow, s(BALANCE)));
                }
                Output::Watch { .. } | Output::Report(_) => {}
                other => panic!("not in these scenes: {other:?}"),
            }
        }
        json!({"replies": replies, "granted": granted.to_string(), "ends": ends, "flush": flush})
    }

    /// Says what an entry says.
    fn say(&mut self, entry: &Value) -> Value {
        self.now += entry["after_ms"].as_u64().unwrap();
        let metered = entry["metered"].as_str().unwrap().parse().unwrap();
        let body = || hex::decode(entry["body"].as_str().unwrap()).unwrap();
        match entry["command"].as_u64().unwrap() {
            0 => self.tell(match entry["event"].as_str().unwrap() {
                "time" => Input::Tick,
                "wants to offer" => Input::Offer {
                    peer: NEXT,
                    offer: onward(),
                },
                "opened" => Input::EscrowOpened {
                    escrow: onward().escrow,
                    balance: s(BALANCE),
                },
                "trusts" => Input::Trust {
                    account: Keypair::from_seed(&[4; 32]).account(),
                    peers: vec![Trusted {
                        peer: BEFORE,
                        account: debtor().settles_from().unwrap().0,
                        max_unsettled: Some(s(1_000)),
                    }],
                },
                other => panic!("event {other}"),
            }),
            52 => self.tell(Input::Message {
                circuit: CIRCUIT,
                body: body(),
                metered,
            }),
            200 => self.tell(Input::LinkMessage {
                link: LinkId(entry["link"].as_u64().unwrap()),
                body: body(),
            }),
            other => panic!("command {other}"),
        }
    }
}

/// A dialogue's entries with what really came back.
fn play(hop: u64, goes_on: bool, entries: &[Value]) -> Vec<Value> {
    let mut scene = Scene::new(hop, goes_on);
    let all = entries.iter().map(|entry| {
        let mut entry = entry.clone();
        let outcome = scene.say(&entry);
        entry["outcome"] = outcome;
        entry
    });
    all.collect()
}

// ---- what is said ----

/// A payer: a client, or a relay.
struct Payer {
    keys: EscrowPayer,
    escrow: Escrow,
    deposit: Stroops,
}

impl Payer {
    fn new(nonce: u8) -> Payer {
        let keys = EscrowPayer::new(PayerSecret::from_bytes([0x25; 32]), tariff().network);
        let id = keys.add(&[nonce; 32]);
        let terms = EscrowTerms {
            network: tariff().network,
            asset: tariff().asset,
            payee: RELAY,
            payee_account: payee_account(),
            escrow: id,
            s0: u64::from(LEDGER + 60) << 32,
            expiry: START_MS / 1_000 + 86_400,
            min_deposit: tariff().rules.min_deposit,
        };
        let signer = payee_keys().signer(&terms);
        Payer {
            keys,
            escrow: Escrow { terms, signer },
            deposit: s(BALANCE),
        }
    }

    fn offer(&self) -> EscrowOffer {
        let t = self.escrow.terms;
        EscrowOffer {
            escrow: t.escrow,
            network: t.network,
            asset: t.asset,
            s0: t.s0,
            expiry: t.expiry,
            deposit: self.deposit,
        }
    }

    fn owner(&self, asks: OwnerAsks) -> Signature {
        let t = self.escrow.terms;
        let ownership = Ownership {
            network: t.network,
            payee: t.payee,
            escrow: t.escrow,
            asks,
        };
        self.keys.sign_owner(&ownership).unwrap()
    }

    fn sign(&self, k: u32, cumulative: i64) -> Signature {
        self.keys.sign_claim(&self.escrow, k, s(cumulative)).unwrap()
    }

    /// A `Pay` to hop 1 that is the last paid hop too.
    fn pay(&self, n: u16, units: u64, claim: (u32, i64, i64)) -> ToNode {
        self.pay_on(n, units, Forward::Last, claim)
    }

    /// A `Pay` to hop 1.
    fn pay_on(&self, n: u16, units: u64, forward: Forward, (k, cumulative, allocation): (u32, i64, i64)) -> ToNode {
        ToNode::Pay(Pay {
            n,
            step: Step::from_bytes(units * UNIT).unwrap(),
            forward,
            claim: Some(Claim {
                escrow: self.escrow.id(),
                k,
                cumulative: s(cumulative),
                allocation: s(allocation),
                signature: self.sign(k, cumulative),
                opening: None,
            }),
        })
    }

    fn leg_pay(&self, k: u32, cumulative: i64, allocations: &[(u16, i64)]) -> LegPay {
        let all = allocations.iter().map(|(n, amount)| Allocation {
            circuit: ID_ON_LINK,
            n: *n,
            amount: s(*amount),
        });
        LegPay {
            escrow: self.escrow.id(),
            k,
            cumulative: s(cumulative),
            signature: self.sign(k, cumulative),
            opening: None,
            allocations: all.collect(),
        }
    }
}

fn entry(note: &str, command: u8, body: &[u8], metered: u64, after_ms: u64) -> Value {
    json!({
        "note": note,
        "after_ms": after_ms,
        "command": command,
        "body": hex::encode(body),
        "metered": metered.to_string(),
    })
}

fn ask(note: &str, message: &ToNode, metered: u64) -> Value {
    entry(note, CMD_TO_NODE, &message.encode(), metered, 1_000)
}

fn on(link: LinkId, note: &str, message: &LinkMessage) -> Value {
    let mut entry = entry(note, CMD_LINK, &message.encode(), 0, 100);
    entry["link"] = json!(link.0);
    entry
}

fn link(note: &str, message: &LinkMessage) -> Value {
    on(LINK, note, message)
}

fn event(note: &str, event: &str, ms: u64) -> Value {
    let mut entry = entry(note, 0, &[], 0, ms);
    entry["event"] = json!(event);
    entry
}

fn wait(note: &str, ms: u64) -> Value {
    event(note, "time", ms)
}

fn hello() -> LinkMessage {
    LinkMessage::LegHello {
        network: tariff().network,
        asset: tariff().asset,
        rules: tariff().rules,
    }
}

fn as_hop_1() -> Vec<Value> {
    let p = Payer::new(1);
    let id = p.escrow.id();
    let books = p.owner(OwnerAsks::Books);
    let opening = Some(p.escrow.terms.opening());
    let u = UNIT;
    let query = |owner, opening| ToNode::BalanceQuery {
        escrow: id,
        opening,
        owner,
    };
    let listen = |listen_id, low| ToNode::Listen {
        id: listen_id,
        low: LowWater::at_least(low),
    };
    let offer = |offer| ToNode::OfferEscrow(offer);
    let other_network = EscrowOffer {
        network: Network::public().id(),
        ..p.offer()
    };
    let small = EscrowOffer {
        deposit: s(99_999),
        ..p.offer()
    };
    let forged = {
        let ToNode::Pay(mut pay) = p.pay(7, 1, (7, 900, 100)) else {
            unreachable!("a payment")
        };
        pay.claim.as_mut().unwrap().signature.0[0] ^= 1;
        ToNode::Pay(pay)
    };
    let close = ToNode::CloseEscrow {
        escrow: id,
        final_k: 6,
        owner: p.owner(OwnerAsks::Close { final_k: 6 }),
    };
    let initial = 4 * u;
    vec![
        ask(
            "the price: this hop is the circuit's end, so next is 0",
            &ToNode::QuoteQuery,
            0,
        ),
        ask("an offer on another network", &offer(other_network), 0),
        ask("an offer below the minimum deposit", &offer(small), 0),
        ask("an offer: E does not exist", &offer(p.offer()), 0),
        ask(
            "a question that E's key did not sign",
            &query(Signature([0; 64]), opening),
            0,
        ),
        ask(
            "the owner's question, with the terms: the escrow is read",
            &query(books, opening),
            0,
        ),
        ask("payment 1: 64 KiB for 100", &p.pay(1, 1, (1, 100, 100)), 0),
        ask("payment 1 again: the stored answer", &p.pay(1, 1, (1, 100, 100)), 0),
        ask(
            "payment 2 with a claim that was seen: nothing arrives",
            &p.pay(2, 1, (1, 100, 100)),
            0,
        ),
        ask(
            "payment 3: a step that growth does not allow yet; the money is held",
            &p.pay(3, 2, (2, 300, 200)),
            0,
        ),
        ask(
            "payment 3 resumed with 64 KiB: out of what is held",
            &p.pay(3, 1, (3, 300, 0)),
            0,
        ),
        ask("payment 2: a lower number", &p.pay(2, 1, (1, 100, 100)), 0),
        ask(
            "a long poll, credit is above the mark: no answer yet",
            &listen(1, 1_024),
            u,
        ),
        ask("its end", &ToNode::Cancel { id: 1 }, u),
        ask("a long poll, credit is below the mark", &listen(2, 2 * initial), u),
        ask("a long poll", &listen(3, 1_024), u),
        wait("30 s without an answer: nothing", 30_000),
        ask("another long poll", &listen(4, 1_024), 4 * u),
        ask(
            "payment 4 ends it; the claim rises by 500, 300 remain unallocated",
            &p.pay(4, 2, (4, 800, 200)),
            4 * u,
        ),
        ask(
            "payment 5: more than the claims cover",
            &p.pay(5, 4, (5, 800, 400)),
            8 * u,
        ),
        ask("payment 6: a claim that falls", &p.pay(6, 1, (6, 700, 100)), 8 * u),
        ask("payment 7: a claim that E's key did not sign", &forged, 8 * u),
        ask(
            "a wish to close: no delay in this relay, so the first claim of the newest amount is flushed",
            &close,
            8 * u,
        ),
        ask(
            "payment 8: the amount rises on an escrow that closes",
            &p.pay(8, 1, (8, 900, 100)),
            8 * u,
        ),
        ask(
            "payment 9: a draw of what is unallocated",
            &p.pay(9, 1, (9, 800, 100)),
            8 * u,
        ),
        ask("the books", &query(books, None), 8 * u),
        entry(
            "a body with a byte too much: the circuit ends",
            CMD_TO_NODE,
            &[1, 1, 0],
            8 * u,
            1_000,
        ),
        ask("nothing is answered on it any more", &ToNode::QuoteQuery, 8 * u),
    ]
}

fn as_hop_2() -> Vec<Value> {
    let p = Payer::new(2);
    let id = p.escrow.id();
    let other_network = EscrowOffer {
        network: Network::public().id(),
        ..p.offer()
    };
    let query = LinkMessage::LegQuery {
        escrow: id,
        opening: Some(p.escrow.terms.opening()),
        owner: p.owner(OwnerAsks::Books),
    };
    let pay = |n, units| {
        ToNode::Pay(Pay {
            n,
            step: Step::from_bytes(units * UNIT).unwrap(),
            forward: Forward::Last,
            claim: None,
        })
    };
    let leg = |k, cumulative, allocations: &[(u16, i64)]| LinkMessage::LegPay(p.leg_pay(k, cumulative, allocations));
    let refused = |n| LinkMessage::LegRefused {
        circuit: ID_ON_LINK,
        n,
        distance: 1,
        code: RefuseCode::NoFunds,
    };
    let convert = ToNode::Pay(Pay {
        n: 5,
        step: Step::FIRST,
        forward: Forward::Pass(Stroops::ZERO),
        claim: None,
    });
    let mut gone = p.leg_pay(7, 900, &[(9, 50)]);
    gone.allocations[0].circuit = 0x8000_0099;
    let mut twice = p.leg_pay(8, 1_000, &[(9, 50), (10, 50)]);
    twice.signature = p.sign(8, 1_000);
    vec![
        link("the greeting", &hello()),
        link("an offer on another network", &LinkMessage::LegOffer(other_network)),
        link("an offer", &LinkMessage::LegOffer(p.offer())),
        link("a question for the books, with the terms: the escrow is read", &query),
        ask("payment 1: the client's half first", &pay(1, 1), 0),
        link("and the money: exactly 100", &leg(1, 100, &[(1, 100)])),
        link(
            "the same message again: nothing is credited, nothing is said",
            &leg(1, 100, &[(1, 100)]),
        ),
        link("payment 2: the money first", &leg(2, 200, &[(2, 100)])),
        ask("and the client's half", &pay(2, 1), 0),
        ask("payment 3", &pay(3, 1), 0),
        link("the hop before could not pass it on", &refused(3)),
        ask("payment 4", &pay(4, 1), 0),
        link("and a stroop too much: held", &leg(3, 301, &[(4, 101)])),
        ask("payment 4 resumed: out of what is held", &pay(4, 1), 2 * UNIT),
        ask("payment 5", &pay(5, 1), 2 * UNIT),
        wait("4 s without the money", 4_000),
        link("it comes late: held", &leg(4, 501, &[(5, 200)])),
        ask(
            "payment 5 is given up: what is held becomes credit, one stroop stays",
            &convert,
            2 * UNIT,
        ),
        link(
            "the newest claim, repeated after a reconnect: the books",
            &leg(4, 501, &[]),
        ),
        link(
            "an allocation for a circuit that is gone: the payer's balance",
            &LinkMessage::LegPay(gone),
        ),
        link(
            "the owner's wish to close",
            &LinkMessage::LegClose { escrow: id, final_k: 7 },
        ),
        link(
            "a rise on an escrow that closes: not stored",
            &leg(9, 1_000, &[(9, 50)]),
        ),
        link("the spare: the same amount under a higher number", &leg(10, 900, &[])),
        link(
            "two allocations for one circuit: the link ends",
            &LinkMessage::LegPay(twice),
        ),
    ]
}

fn passing_on() -> Vec<Value> {
    let p = Payer::new(3);
    let id = p.escrow.id();
    let query = ToNode::BalanceQuery {
        escrow: id,
        opening: Some(p.escrow.terms.opening()),
        owner: p.owner(OwnerAsks::Books),
    };
    let books = |newest_k, cumulative, state| {
        LinkMessage::LegBalance(Balance {
            escrow: onward().escrow,
            newest_k,
            cumulative: s(cumulative),
            unallocated: s(0),
            state,
        })
    };
    let pass = |amount| Forward::Pass(s(amount));
    let next = |note, message: &LinkMessage| on(NEXT_LINK, note, message);
    vec![
        ask("before the next hop has greeted: next is 0", &ToNode::QuoteQuery, 0),
        next("it greets", &hello()),
        event("this relay wants an escrow to it", "wants to offer", 100),
        next(
            "it accepts: the refund is checked, then the escrow is opened",
            &LinkMessage::LegAccepted(accepted_onward()),
        ),
        event(
            "a closed ledger has it: the next hop is asked whether it knows it",
            "opened",
            5_000,
        ),
        next("not yet: asked again after 5 s", &books(0, 0, EscrowState::Unknown)),
        event("5 s later", "time", 5_000),
        next("now it does", &books(0, 0, EscrowState::Open)),
        ask("the price: next is 1", &ToNode::QuoteQuery, 0),
        ask("the client's escrow is read", &query, 0),
        ask(
            "payment 1: 100 for the step, 200 to be passed on, 1 for that",
            &p.pay_on(1, 1, pass(200), (1, 301, 301)),
            0,
        ),
        ask(
            "payment 2: more to be passed on than the ceiling allows",
            &p.pay_on(2, 1, pass(2_001), (2, 2_404, 2_103)),
            0,
        ),
        ask(
            "given up: 21 times 64 KiB out of what is held, 3 stroops stay",
            &p.pay_on(2, 1, pass(0), (3, 2_404, 0)),
            0,
        ),
        ask(
            "payment 3: a stroop too little",
            &p.pay_on(3, 1, pass(200), (4, 2_703, 299)),
            20 * UNIT,
        ),
        ask(
            "payment 3 resumed: with the 3 that were held before there is enough",
            &p.pay_on(3, 1, pass(200), (5, 2_703, 0)),
            20 * UNIT,
        ),
        next(
            "the next hop's flush is due: the spare goes to it",
            &books(2, 400, EscrowState::Closing),
        ),
        ask("the price: next is 0 again", &ToNode::QuoteQuery, 20 * UNIT),
    ]
}

fn refusals_passed_on() -> Vec<Value> {
    let pay = ToNode::Pay(Pay {
        n: 1,
        step: Step::FIRST,
        forward: Forward::Pass(s(200)),
        claim: None,
    });
    let refused = LinkMessage::LegRefused {
        circuit: ID_ON_LINK,
        n: 1,
        distance: 1,
        code: RefuseCode::OverLimit,
    };
    vec![
        link("the hop before greets", &hello()),
        on(NEXT_LINK, "the next hop greets", &hello()),
        ask(
            "payment 1: the client's half; a hop before the last one answers nothing",
            &pay,
            0,
        ),
        link("the hop before refused it: passed on, one farther", &refused),
        ask("payment 1 resumed here", &pay, 0),
        wait("4 s without the money: this hop's own refusal", 4_000),
        on(NEXT_LINK, "a second greeting: the link ends", &hello()),
    ]
}

fn owed() -> Vec<Value> {
    let state = |k, cumulative, allocations: &[(u16, i64)]| {
        let (account, memo) = debtor().settles_from().unwrap();
        let statement = Statement {
            network: tariff().network,
            asset: tariff().asset,
            payer: BEFORE,
            payee: RELAY,
            account,
            memo,
            k,
            cumulative: s(cumulative),
        };
        let all = allocations.iter().map(|(n, amount)| Allocation {
            circuit: ID_ON_LINK,
            n: *n,
            amount: s(*amount),
        });
        LegTrust {
            k,
            cumulative: s(cumulative),
            memo,
            signature: debtor().sign_statement(&statement).unwrap(),
            allocations: all.collect(),
        }
    };
    let stated = |k, cumulative, allocations: &[(u16, i64)]| LinkMessage::LegTrust(state(k, cumulative, allocations));
    let forged = LegTrust {
        cumulative: s(301),
        ..state(3, 300, &[])
    };
    let pay = |n, forward| {
        ToNode::Pay(Pay {
            n,
            step: Step::FIRST,
            forward,
            claim: None,
        })
    };
    let paid = |transaction, amount| LinkMessage::LegPaid {
        transaction: TransactionId([transaction; 32]),
        amount: s(amount),
    };
    vec![
        event(
            "the operator lists the relay before, with a limit of 1,000",
            "trusts",
            100,
        ),
        link("it greets: it is told that it is trusted", &hello()),
        on(NEXT_LINK, "the next hop greets", &hello()),
        ask("payment 1: the client's half", &pay(1, Forward::Last), 0),
        link("and a statement of 100", &stated(1, 100, &[(1, 100)])),
        link("the same number again: the books", &stated(1, 100, &[(1, 100)])),
        link("a sum that falls: the books", &stated(2, 50, &[])),
        link("more than the limit: the books", &stated(2, 1_101, &[(2, 1_001)])),
        ask("payment 2: the client's half", &pay(2, Forward::Last), 0),
        link(
            "and a statement of 300 that allocates 100",
            &stated(2, 300, &[(2, 100)]),
        ),
        link("the newest statement, repeated: the books", &stated(2, 300, &[])),
        link(
            "a sum that the account did not sign: no answer",
            &LinkMessage::LegTrust(forged),
        ),
        link("a settlement of 200, which the ledger shows", &paid(0xd1, 200)),
        link("announced again: the same answer", &paid(0xd1, 200)),
        link(
            "a settlement of 50, where the ledger shows 200: it does not count",
            &paid(0xd2, 50),
        ),
        ask(
            "payment 3: part of it is to be passed on",
            &pay(3, Forward::Pass(s(100))),
            0,
        ),
        link(
            "what is only owed is not passed on: refused, held",
            &stated(3, 501, &[(3, 201)]),
        ),
        ask(
            "given up: what is held becomes credit, a stroop stays",
            &pay(3, Forward::Pass(s(0))),
            0,
        ),
    ]
}

fn dialogue(about: &str, hop: u64, goes_on: bool, entries: &[Value]) -> Value {
    json!({
        "about": about,
        "hop": hop,
        "goes_on": goes_on,
        "entries": play(hop, goes_on, entries),
    })
}

fn current() -> Value {
    let t = tariff();
    json!({
        "about": "What a relay answers, message by message: as hop 1 of a client and as hop 2 behind another relay (`metered` is its meter when the message comes). Link 1 goes towards the client, link 2 to the next hop. Command 0 is something else that happens. `granted` is credit in bytes, `ends` what it closes, `flush` the claim that it publishes. The journal is durable at once, and the ledger shows each escrow as agreed.",
        "owner": "obol-stellar tests/dialogue.rs",
        "relay": {
            "identity": hex::encode(RELAY.0),
            "escrow_secret": hex::encode([0x23; 32]),
            "payee_account": hex::encode(payee_account().0),
            "network": hex::encode(t.network.0),
            "asset": {"code": "OBOL", "issuer": hex::encode(t.asset.issuer)},
            "initial_credit": "262144",
            "balance_of_escrows": BALANCE.to_string(),
            "ledger": LEDGER,
            "start_ms": START_MS.to_string(),
            "circuit_id_on_link_1": ID_ON_LINK,
            "circuit_id_on_link_2": ID_ON_NEXT,
            "before": hex::encode(BEFORE.0),
            "next": hex::encode(NEXT.0),
            "before_settles_from": hex::encode(debtor().settles_from().unwrap().0.0),
        },
        "dialogues": [
            dialogue("hop 1 of a client, and the last paid hop", 1, false, &as_hop_1()),
            dialogue("hop 2 behind another relay, and the last paid hop", 2, false, &as_hop_2()),
            dialogue("hop 1, which opens an escrow to hop 2 and passes money on", 1, true, &passing_on()),
            dialogue("hop 2, which passes refusals on", 2, true, &refusals_passed_on()),
            dialogue("hop 2, to which the relay before owes", 2, true, &owed()),
        ],
    })
}

#[test]
fn a_relay_answers_every_message_of_the_file_as_the_file_says() {
    let file = file();
    for dialogue in file["dialogues"].as_array().unwrap() {
        let entries = dialogue["entries"].as_array().unwrap();
        let (hop, goes_on) = (dialogue["hop"].as_u64().unwrap(), dialogue["goes_on"] == true);
        let played = play(hop, goes_on, entries);
        for (is, said) in played.iter().zip(entries) {
            assert_eq!(
                is["outcome"], said["outcome"],
                "{}: {}",
                dialogue["about"], said["note"]
            );
        }
        assert_eq!(played.len(), entries.len());
    }
    assert_eq!(file, current(), "dialogue.json is not what the code writes");
}

/// The outcomes in words, so that the file cannot be right only because it was written.
#[test]
fn the_dialogues_show_what_their_notes_say() {
    let file = file();
    let outcomes = |which: usize| -> Vec<(Vec<String>, String)> {
        let entries = file["dialogues"][which - 1]["entries"].as_array().unwrap();
        entries.iter().map(|e| in_words(&e["outcome"])).collect()
    };
    let words = |which| -> Vec<String> {
        let all = outcomes(which).into_iter();
        all.map(|(replies, rest)| format!("{} {rest}", replies.join(" ")).trim().to_owned())
            .collect()
    };
    assert_eq!(
        words(1),
        [
            "Quote(next false)",
            "Declined(OtherMoney)",
            "Declined(OutsideRules)",
            "EscrowAccepted",
            "Balance(Unknown 0)",
            "Balance(Open 0)",
            "Complete(1) +65536",
            "Complete(1)",
            "Refused(2 0 Failed)",
            "Refused(3 0 OverLimit)",
            "Complete(3) +65536",
            "Refused(2 0 Failed)",
            "",
            "Nothing(1)",
            "PaymentRequest(2)",
            "",
            "Nothing(3)",
            "",
            "Complete(4) +131072",
            "Refused(5 0 NoFunds)",
            "Refused(6 0 Failed)",
            "Refused(7 0 Failed)",
            "Closing flush 4",
            "Refused(8 0 Closing)",
            "Complete(9) +65536",
            "Balance(Closing 200)",
            "ends circuit",
            "",
        ]
    );
    assert_eq!(
        words(2),
        [
            "",
            "LegDeclined(OtherMoney)",
            "LegAccepted",
            "LegBalance(Open 0)",
            "",
            "Complete(1) +65536",
            "",
            "",
            "Complete(2) +65536",
            "",
            "Refused(3 1 NoFunds)",
            "",
            "Refused(4 0 Failed)",
            "Complete(4) +65536",
            "",
            "Refused(5 0 Failed)",
            "",
            "+131072",
            "LegBalance(Open 0)",
            "",
            "LegBalance(Closing 399) LegBalance(Closing 399) flush 7",
            "LegBalance(Closing 399)",
            "LegBalance(Closing 399)",
            "ends link",
        ]
    );
    assert_eq!(
        words(3),
        [
            "Quote(next false)",
            "",
            "LegOffer",
            "",
            "LegQuery",
            "",
            "LegQuery",
            "",
            "Quote(next true)",
            "Balance(Open 0)",
            "LegPay(1 200, 7 1 200) +65536",
            "LegRefused(7 2 1 OverLimit)",
            "+1376256",
            "LegRefused(7 3 1 Failed)",
            "LegPay(2 400, 7 3 200) +65536",
            "LegPay(3 400)",
            "Quote(next false)",
        ]
    );
    assert_eq!(
        words(4),
        [
            "",
            "",
            "",
            "LegRefused(7 1 2 OverLimit)",
            "",
            "LegRefused(7 1 1 Failed)",
            "ends link",
        ]
    );
    assert_eq!(
        words(5),
        [
            "",
            "LegTrusted(1000, 0 0 0 0)",
            "",
            "",
            "Complete(1) +65536",
            "LegTrusted(1000, 1 100 0 0)",
            "LegTrusted(1000, 1 100 0 0)",
            "LegTrusted(1000, 1 100 0 0)",
            "",
            "Complete(2) +65536",
            "LegTrusted(1000, 2 300 100 0)",
            "",
            "LegSettled(200)",
            "LegSettled(200)",
            "",
            "",
            "LegRefused(7 3 1 NoFunds)",
            "+131072",
        ]
    );
}

fn in_words(outcome: &Value) -> (Vec<String>, String) {
    let replies = outcome["replies"].as_array().unwrap().iter().map(|reply| {
        let body = hex::decode(reply["body"].as_str().unwrap()).unwrap();
        if reply["command"] == CMD_LINK {
            return match LinkMessage::decode(&body).unwrap() {
                LinkMessage::LegAccepted(_) => "LegAccepted".to_owned(),
                LinkMessage::LegBalance(b) => format!("LegBalance({:?} {})", b.state, b.unallocated),
                LinkMessage::LegTrusted(b) => {
                    let (limit, books) = (b.max_unsettled, (b.k, b.cumulative, b.unallocated, b.settled));
                    format!("LegTrusted({limit}, {} {} {} {})", books.0, books.1, books.2, books.3)
                }
                LinkMessage::LegSettled { total, .. } => format!("LegSettled({total})"),
                LinkMessage::LegDeclined { code, .. } => format!("LegDeclined({code:?})"),
                LinkMessage::LegOffer(_) => "LegOffer".to_owned(),
                LinkMessage::LegQuery { .. } => "LegQuery".to_owned(),
                LinkMessage::LegPay(p) => {
                    let all = p.allocations.iter();
                    let all: String = all.map(|a| format!(", {} {} {}", a.circuit, a.n, a.amount)).collect();
                    format!("LegPay({} {}{all})", p.k, p.cumulative)
                }
                LinkMessage::LegRefused {
                    circuit,
                    n,
                    distance,
                    code,
                } => {
                    format!("LegRefused({circuit} {n} {distance} {code:?})")
                }
                other => format!("{other:?}"),
            };
        }
        match ToOrigin::decode(&body).unwrap() {
            ToOrigin::Quote(q) => format!("Quote(next {})", q.next),
            ToOrigin::EscrowAccepted(_) => "EscrowAccepted".to_owned(),
            ToOrigin::Balance(b) => format!("Balance({:?} {})", b.state, b.unallocated),
            ToOrigin::PaymentRequest { id, .. } => format!("PaymentRequest({id})"),
            ToOrigin::Nothing { id } => format!("Nothing({id})"),
            ToOrigin::Complete { n, .. } => format!("Complete({n})"),
            ToOrigin::Refused { n, distance, code } => format!("Refused({n} {distance} {code:?})"),
            ToOrigin::Closing { .. } => "Closing".to_owned(),
            ToOrigin::Declined(d) => format!("Declined({:?})", d.code),
        }
    });
    let mut rest = Vec::new();
    if outcome["granted"] != "0" {
        rest.push(format!("+{}", outcome["granted"].as_str().unwrap()));
    }
    if let Some(ends) = outcome["ends"].as_str() {
        rest.push(format!("ends {ends}"));
    }
    if let Some(k) = outcome["flush"]["k"].as_u64() {
        rest.push(format!("flush {k}"));
    }
    (replies.collect(), rest.join(" "))
}

/// Commands and kinds that are said or answered somewhere.
fn kinds(file: &Value) -> BTreeSet<(u64, u8)> {
    let entries = file["dialogues"].as_array().unwrap().iter();
    let entries = entries.flat_map(|d| d["entries"].as_array().unwrap());
    let messages = entries.flat_map(|e| std::iter::once(e).chain(e["outcome"]["replies"].as_array().unwrap()));
    let of = messages.filter_map(|m| {
        let body = hex::decode(m["body"].as_str()?).unwrap();
        Some((m["command"].as_u64()?, *body.get(1)?))
    });
    of.collect()
}

#[test]
fn every_kind_of_message_is_in_a_dialogue() {
    let known = |command: u8, kind: u8| {
        let body = [VERSION, kind];
        let error = match command {
            CMD_TO_NODE => ToNode::decode(&body).err(),
            CMD_TO_ORIGIN => ToOrigin::decode(&body).err(),
            _ => LinkMessage::decode(&body).err(),
        };
        error != Some(DecodeError::Kind(kind))
    };
    let all: BTreeSet<(u64, u8)> = [CMD_TO_NODE, CMD_TO_ORIGIN, CMD_LINK]
        .into_iter()
        .flat_map(|command| (0..=u8::MAX).map(move |kind| (command, kind)))
        .filter(|(command, kind)| known(*command, *kind))
        .map(|(command, kind)| (command.into(), kind))
        .collect();
    assert_eq!(kinds(&file()), all);
}
