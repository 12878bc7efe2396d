//! One relay on a table: a client on one link, a relay that pays it on another, a relay that it pays on a third. The test
//! plays everybody else, honest or not.
//!
//! ```text
//!  client --(link 1)--> node --(link 3)--> NEXT
//!  PREV   --(link 2)-->
//! ```

use super::keys::{self, SimKeys};
use super::world::{ASSET, NETWORK, START};
use crate::clock::UnixMillis;
use crate::escrow::Escrow;
use crate::fact::NodeFact;
use crate::ids::{AddressKey, CircuitId, LinkId};
use crate::keys::PayeeKeys;
use crate::node::{Input, Node, NodeConfig, Output};
use obol_cell::{
    AccountId, Allocation, Balance, Claim, EscrowAcceptance, EscrowId, EscrowOffer, EscrowRules, EscrowState,
    EscrowTerms, Forward, ForwardPpm, LegPay, LinkMessage, OpeningTerms, OwnerAsks, Pay, PeerId, PricePer64KiB, Step,
    Stroops, Tariff, ToNode, ToOrigin,
};

pub(crate) const CLIENT: LinkId = LinkId(1);
pub(crate) const PREV: LinkId = LinkId(2);
pub(crate) const NEXT: LinkId = LinkId(3);
pub(crate) const ME: PeerId = PeerId([1; 32]);
pub(crate) const PREV_PEER: PeerId = PeerId([2; 32]);
pub(crate) const NEXT_PEER: PeerId = PeerId([3; 32]);
pub(crate) const PRICE: i64 = 10;
pub(crate) const BALANCE: i64 = 1_000_000;

/// See the module.
pub(crate) struct Desk {
    pub(crate) node: Option<Node<SimKeys>>,
    pub(crate) config: NodeConfig,
    pub(crate) keys: SimKeys,
    /// Of everybody else.
    pub(crate) theirs: SimKeys,
    pub(crate) now: UnixMillis,
    pub(crate) facts: Vec<NodeFact>,
    pub(crate) out: Vec<Output>,
    /// Whether commits are reported at once.
    pub(crate) commits: bool,
    pub(crate) waiting: Vec<(u64, Vec<NodeFact>)>,
    next: u64,
}

pub(crate) fn rules() -> EscrowRules {
    EscrowRules {
        min_deposit: Stroops::new(1_000).unwrap(),
        min_life: 3_600,
        max_life: 8 * 86_400,
        margin: 7_200,
    }
}

/// A question for this relay's books on an escrow, by whoever has E's key.
pub(crate) fn books_query(escrow: EscrowId, opening: Option<OpeningTerms>) -> ToNode {
    ToNode::BalanceQuery {
        escrow,
        opening,
        owner: keys::owner_of(escrow, ME, OwnerAsks::Books),
    }
}

/// The same of a relay.
pub(crate) fn leg_query(escrow: EscrowId, opening: Option<OpeningTerms>) -> LinkMessage {
    LinkMessage::LegQuery {
        escrow,
        opening,
        owner: keys::owner_of(escrow, ME, OwnerAsks::Books),
    }
}

/// The wish to have an escrow flushed, by whoever has E's key.
pub(crate) fn close_escrow(escrow: EscrowId, final_k: u32) -> ToNode {
    ToNode::CloseEscrow {
        escrow,
        final_k,
        owner: keys::owner_of(escrow, ME, OwnerAsks::Close { final_k }),
    }
}

impl Desk {
    pub(crate) fn new() -> Self {
        let price = PricePer64KiB::new(PRICE as u64).unwrap();
        let tariff = Tariff {
            price,
            forward_ppm: ForwardPpm::NONE,
            forward_ceiling: price.at_least_times(20),
            max_step: Step::DEFAULT_LARGEST,
            network: NETWORK,
            asset: ASSET,
            rules: rules(),
        };
        let mut config = NodeConfig::new(ME, tariff, 1_000_000);
        config.initial_credit = 0;
        config.deposit = Stroops::new(BALANCE).unwrap();
        config.opening_jitter_ms = 0;
        config.opening_period_ms = 0;
        config.close_jitter_ms = 0;
        let mut desk = Desk {
            node: None,
            config,
            keys: SimKeys::new(1),
            theirs: SimKeys::new(2),
            now: UnixMillis(START),
            facts: Vec::new(),
            out: Vec::new(),
            commits: true,
            waiting: Vec::new(),
            next: 100,
        };
        desk.start();
        desk
    }

    /// The process begins (again), with what is durable.
    pub(crate) fn start(&mut self) {
        self.waiting.clear();
        self.out.clear();
        self.node = Some(Node::restore(
            self.config,
            self.keys.clone(),
            [7; 32],
            self.facts.clone(),
        ));
        self.tell(Input::PayeeAccount {
            account: AccountId([8; 32]),
            can_accept: true,
        });
        self.ledger();
        let address = Some(AddressKey::of([10, 0, 0, 1].into()));
        self.tell(Input::LinkUp {
            link: CLIENT,
            peer: None,
            obol: false,
            address,
        });
        for (link, peer) in [(PREV, PREV_PEER), (NEXT, NEXT_PEER)] {
            self.tell(Input::LinkUp {
                link,
                peer: Some(peer),
                obol: true,
                address: None,
            });
            self.link(
                link,
                &LinkMessage::LegHello {
                    network: NETWORK,
                    asset: ASSET,
                    rules: rules(),
                },
            );
        }
    }

    pub(crate) fn ledger(&mut self) {
        self.tell(Input::LedgerClosed {
            sequence: 1_000,
            close_time: self.now.secs(),
        });
    }

    pub(crate) fn node(&self) -> &Node<SimKeys> {
        self.node.as_ref().expect("it runs")
    }

    pub(crate) fn tell(&mut self, input: Input) {
        let node = self.node.as_mut().expect("it runs");
        node.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.as_mut().expect("it runs").poll() {
            match output {
                Output::Persist { seq, facts } => {
                    self.waiting.push((seq, facts));
                    if self.commits {
                        self.commit();
                    }
                }
                output => self.out.push(output),
            }
        }
    }

    /// Everything that waits is durable.
    pub(crate) fn commit(&mut self) {
        for (upto, facts) in std::mem::take(&mut self.waiting) {
            // What is written is what is read.
            self.facts
                .extend(facts.iter().map(|f| NodeFact::decode(&f.encode()).expect("as written")));
            self.node
                .as_mut()
                .expect("it runs")
                .handle(self.now, Input::Persisted { upto });
        }
        self.drain();
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while let Some(at) = self.node().next_wake().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
        self.tell(Input::Tick);
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // ---- circuits ----

    /// A circuit from the client (or from the relay before), to the relay after if `extended`. Its id towards us is its number.
    pub(crate) fn circuit(&mut self, from: LinkId, extended: bool) -> CircuitId {
        let id = self.fresh();
        let circuit = CircuitId(id);
        self.tell(Input::CircuitOpened {
            circuit,
            link: from,
            id: id as u32,
        });
        if extended {
            self.tell(Input::CircuitExtended {
                circuit,
                link: NEXT,
                id: 50_000 + id as u32,
            });
        }
        circuit
    }

    pub(crate) fn close(&mut self, circuit: CircuitId, metered: u64) {
        self.tell(Input::CircuitClosed { circuit, metered });
    }

    pub(crate) fn ask(&mut self, circuit: CircuitId, message: &ToNode, metered: u64) {
        self.tell(Input::Message {
            circuit,
            body: message.encode(),
            metered,
        });
    }

    /// The answers on a circuit since the last look.
    pub(crate) fn answers(&mut self, circuit: CircuitId) -> Vec<ToOrigin> {
        let (mine, rest) = std::mem::take(&mut self.out)
            .into_iter()
            .partition(|o| matches!(o, Output::Answer { circuit: c, .. } if *c == circuit));
        self.out = rest;
        let mine: Vec<Output> = mine;
        mine.into_iter()
            .filter_map(|o| match o {
                Output::Answer { body, .. } => Some(ToOrigin::decode(&body).expect("it can be read")),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn answer(&mut self, circuit: CircuitId) -> ToOrigin {
        let answers = self.answers(circuit);
        assert_eq!(answers.len(), 1, "exactly one answer: {answers:?}");
        answers[0]
    }

    /// What left on a link since the last look.
    pub(crate) fn sent(&mut self, on: LinkId) -> Vec<LinkMessage> {
        let (mine, rest): (Vec<Output>, Vec<Output>) = std::mem::take(&mut self.out)
            .into_iter()
            .partition(|o| matches!(o, Output::SendLink { link, .. } if *link == on));
        self.out = rest;
        mine.into_iter()
            .filter_map(|o| match o {
                Output::SendLink { body, .. } => Some(LinkMessage::decode(&body).expect("it can be read")),
                _ => None,
            })
            .collect()
    }

    /// Money that left for the relay after us since the last look.
    pub(crate) fn passed_on(&mut self) -> Vec<LegPay> {
        let pays = self.sent(NEXT).into_iter().filter_map(|m| match m {
            LinkMessage::LegPay(pay) => Some(pay),
            _ => None,
        });
        pays.collect()
    }

    /// Credit given to a circuit since the last look, bytes.
    pub(crate) fn credit(&mut self, circuit: CircuitId) -> u64 {
        let given = self.out.iter().filter_map(|o| match o {
            Output::Grant { circuit: c, bytes } if *c == circuit => Some(*bytes),
            _ => None,
        });
        let given = given.sum();
        self.out
            .retain(|o| !matches!(o, Output::Grant { circuit: c, .. } if *c == circuit));
        given
    }

    pub(crate) fn destroyed(&self, circuit: CircuitId) -> bool {
        self.out.contains(&Output::Destroy { circuit })
    }

    pub(crate) fn link(&mut self, link: LinkId, message: &LinkMessage) {
        self.tell(Input::LinkMessage {
            link,
            body: message.encode(),
        });
    }

    // ---- money in ----

    pub(crate) fn make_offer(&mut self) -> EscrowOffer {
        let number = self.fresh();
        EscrowOffer {
            escrow: self.theirs.fresh(number),
            network: NETWORK,
            asset: ASSET,
            s0: 1_060 << 32,
            expiry: self.now.secs() + 86_400,
            deposit: Stroops::new(BALANCE).unwrap(),
        }
    }

    /// What the node answers to an offer of the client's.
    pub(crate) fn offer(&mut self, offer: &EscrowOffer, exists: bool) -> ToOrigin {
        let c = self.circuit(CLIENT, false);
        self.ask(c, &ToNode::OfferEscrow(*offer), 0);
        if self.out.contains(&Output::CheckAbsent { escrow: offer.escrow }) {
            self.tell(Input::EscrowChecked {
                escrow: offer.escrow,
                exists: Some(exists),
            });
        }
        self.answer(c)
    }

    pub(crate) fn escrow(&self, offer: &EscrowOffer, acceptance: &EscrowAcceptance) -> Escrow {
        let terms = EscrowTerms::new(offer, ME, acceptance.payee_account, acceptance.min_deposit);
        Escrow {
            terms,
            signer: acceptance.signer,
        }
    }

    /// An escrow of the client's, believed.
    pub(crate) fn client_escrow(&mut self) -> Escrow {
        let offer = self.make_offer();
        let ToOrigin::EscrowAccepted(acceptance) = self.offer(&offer, false) else {
            panic!("accepted");
        };
        let escrow = self.escrow(&offer, &acceptance);
        let c = self.circuit(CLIENT, false);
        let opening = Some(escrow.terms.opening());
        self.ask(c, &books_query(escrow.id(), opening), 0);
        self.tell(Input::EscrowRead {
            escrow: escrow.id(),
            result: Ok(offer.deposit),
        });
        let ToOrigin::Balance(Balance {
            state: EscrowState::Open,
            ..
        }) = self.answer(c)
        else {
            panic!("believed");
        };
        escrow
    }

    /// An escrow of the relay before us, believed.
    pub(crate) fn prev_escrow(&mut self) -> Escrow {
        let offer = self.make_offer();
        self.link(PREV, &LinkMessage::LegOffer(offer));
        self.tell(Input::EscrowChecked {
            escrow: offer.escrow,
            exists: Some(false),
        });
        let accepted = self.sent(PREV).into_iter().find_map(|m| match m {
            LinkMessage::LegAccepted(a) => Some(a),
            _ => None,
        });
        let escrow = self.escrow(&offer, &accepted.expect("accepted"));
        let opening = Some(escrow.terms.opening());
        self.link(PREV, &leg_query(escrow.id(), opening));
        self.tell(Input::EscrowRead {
            escrow: escrow.id(),
            result: Ok(offer.deposit),
        });
        let told = self.sent(PREV);
        assert!(
            matches!(
                told[..],
                [LinkMessage::LegBalance(Balance {
                    state: EscrowState::Open,
                    ..
                })]
            ),
            "{told:?}"
        );
        escrow
    }

    /// A claim on an escrow, as its owner signs it.
    pub(crate) fn claim(escrow: &Escrow, k: u32, cumulative: i64, allocation: i64) -> Claim {
        let cumulative = Stroops::new(cumulative).unwrap();
        Claim {
            escrow: escrow.id(),
            k,
            cumulative,
            allocation: Stroops::new(allocation).unwrap(),
            signature: keys::claim(escrow, k, cumulative),
            opening: None,
        }
    }

    pub(crate) fn pay(
        &mut self,
        circuit: CircuitId,
        n: u16,
        step: Step,
        forward: Forward,
        claim: Option<Claim>,
        metered: u64,
    ) {
        self.ask(
            circuit,
            &ToNode::Pay(Pay {
                n,
                step,
                forward,
                claim,
            }),
            metered,
        );
    }

    /// Money from the relay before us: one allocation.
    pub(crate) fn leg_pay(
        &mut self,
        escrow: &Escrow,
        k: u32,
        cumulative: i64,
        circuit: CircuitId,
        n: u16,
        amount: i64,
    ) {
        let allocations = vec![Allocation {
            circuit: circuit.0 as u32,
            n,
            amount: Stroops::new(amount).unwrap(),
        }];
        self.link(PREV, &Self::leg(escrow, k, cumulative, allocations));
    }

    pub(crate) fn leg(escrow: &Escrow, k: u32, cumulative: i64, allocations: Vec<Allocation>) -> LinkMessage {
        let cumulative = Stroops::new(cumulative).unwrap();
        let signature = keys::claim(escrow, k, cumulative);
        LinkMessage::LegPay(LegPay {
            escrow: escrow.id(),
            k,
            cumulative,
            signature,
            opening: None,
            allocations,
        })
    }

    // ---- money out ----

    /// Our escrow with the relay after us, open and known there.
    pub(crate) fn own_escrow(&mut self) -> EscrowId {
        let number = self.fresh();
        let offer = EscrowOffer {
            escrow: self.keys.fresh(number),
            ..self.make_offer()
        };
        self.tell(Input::Offer { peer: NEXT_PEER, offer });
        let offered = self.sent(NEXT);
        assert!(offered.contains(&LinkMessage::LegOffer(offer)), "{offered:?}");
        let account = AccountId([9; 32]);
        let min_deposit = rules().min_deposit;
        let terms = EscrowTerms::new(&offer, NEXT_PEER, account, min_deposit);
        let escrow = Escrow {
            terms,
            signer: self.theirs.signer(&terms),
        };
        let acceptance = EscrowAcceptance {
            escrow: offer.escrow,
            signer: escrow.signer,
            payee_account: account,
            min_deposit,
            refund: keys::refund(&escrow),
        };
        self.link(NEXT, &LinkMessage::LegAccepted(acceptance));
        assert!(
            self.out
                .iter()
                .any(|o| matches!(o, Output::OpenEscrow { escrow: e, .. } if *e == escrow))
        );
        self.tell(Input::EscrowOpened {
            escrow: offer.escrow,
            balance: offer.deposit,
        });
        self.tell_known(offer.escrow, EscrowState::Open, 0, 0, 0);
        self.sent(NEXT);
        offer.escrow
    }

    /// The relay after us tells its books.
    pub(crate) fn tell_known(
        &mut self,
        escrow: EscrowId,
        state: EscrowState,
        k: u32,
        cumulative: i64,
        unallocated: i64,
    ) {
        let balance = Balance {
            escrow,
            newest_k: k,
            cumulative: Stroops::new(cumulative).unwrap(),
            unallocated: Stroops::new(unallocated).unwrap(),
            state,
        };
        self.link(NEXT, &LinkMessage::LegBalance(balance));
    }

    /// Our books on an escrow that pays us, as its owner is told.
    pub(crate) fn balance(&mut self, escrow: &Escrow) -> Balance {
        let c = self.circuit(CLIENT, false);
        self.ask(c, &books_query(escrow.id(), None), 0);
        match self.answer(c) {
            ToOrigin::Balance(balance) => balance,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn prev_balance(&mut self, escrow: &Escrow) -> Balance {
        self.sent(PREV);
        self.link(PREV, &leg_query(escrow.id(), None));
        match self.sent(PREV)[..] {
            [LinkMessage::LegBalance(balance)] => balance,
            ref other => panic!("{other:?}"),
        }
    }
}
