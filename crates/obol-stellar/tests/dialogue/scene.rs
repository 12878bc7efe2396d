//! The relay that is spoken to, with the real keys.

use obol_cell::*;
use obol_stellar::asset::asset;
use obol_stellar::escrow::{EscrowSecret, PayerSecret};
use obol_stellar::keys::{EscrowPayee, EscrowPayer, RelayKeys};
use obol_stellar::{Keypair, Network};
use obol_toll::node::{Input, Node, NodeConfig, Output};
use obol_toll::trust::Trusted;
use obol_toll::{AddressKey, CircuitId, Escrow, LinkId, PayeeKeys as _, PayerKeys as _, UnixMillis};
use serde_json::{Value, json};
use std::net::IpAddr;

pub const START_MS: u64 = 1_800_000_000_000;
pub const LEDGER: u32 = 1_000;
pub const CIRCUIT: CircuitId = CircuitId(1);
/// Towards the client, and on to the next hop.
pub const LINK: LinkId = LinkId(1);
pub const NEXT_LINK: LinkId = LinkId(2);
pub const ID_ON_LINK: u32 = 0x8000_0001;
pub const ID_ON_NEXT: u32 = 0x0000_0007;
/// What an escrow holds when it is read.
pub const BALANCE: i64 = 100_000_000;

pub fn s(amount: i64) -> Stroops {
    Stroops::new(amount).unwrap()
}

pub fn tariff() -> Tariff {
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

pub const RELAY: PeerId = PeerId([0x21; 32]);
pub const BEFORE: PeerId = PeerId([0x22; 32]);
pub const NEXT: PeerId = PeerId([0x26; 32]);
/// What this relay derives the keys of its own escrows from, and the nonce of the one to the next hop.
pub const PAYER_SECRET: [u8; 32] = [0x24; 32];
pub const NONCE: [u8; 32] = [0x27; 32];

/// What the relay before signs what it owes with.
pub fn debtor() -> EscrowPayer {
    let payer = EscrowPayer::new(PayerSecret::from_bytes([0x29; 32]), tariff().network);
    payer.with_trust_account(Keypair::from_seed(&[5; 32]))
}

/// The relay's own escrow to the next hop.
pub fn onward() -> EscrowOffer {
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
pub fn next_keys() -> EscrowPayee {
    EscrowPayee::new(EscrowSecret::from_bytes([0x28; 32]))
}

pub fn accepted_onward() -> EscrowAcceptance {
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

pub fn payee_keys() -> EscrowPayee {
    EscrowPayee::new(EscrowSecret::from_bytes([0x23; 32]))
}

pub fn payee_account() -> AccountId {
    Keypair::from_seed(&[2; 32]).account()
}

pub struct Scene {
    node: Node<RelayKeys>,
    now: u64,
}

impl Scene {
    /// `hop`: 1, with a client on the link, or 2, with the relay `BEFORE`. `goes_on`: the circuit is extended to the relay `NEXT`.
    pub fn new(hop: u64, goes_on: bool) -> Scene {
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
    pub fn tell(&mut self, input: Input) -> Value {
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
    pub fn say(&mut self, entry: &Value) -> Value {
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
pub fn play(hop: u64, goes_on: bool, entries: &[Value]) -> Vec<Value> {
    let mut scene = Scene::new(hop, goes_on);
    let all = entries.iter().map(|entry| {
        let mut entry = entry.clone();
        let outcome = scene.say(&entry);
        entry["outcome"] = outcome;
        entry
    });
    all.collect()
}
