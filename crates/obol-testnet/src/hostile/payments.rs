//! Payment messages to a relay that is paid: malformed, out of turn, replayed, too many, from somebody whose turn it is not.

use obol_cell::{
    AccountId, Allocation, Asset, Balance, Claim, DeclineCode, Declined, EscrowAcceptance, EscrowId, EscrowOffer,
    EscrowState, Forward, LegPay, LinkMessage, LowWater, NetworkId, OpeningTerms, Pay, RefuseCode, Signature, Step,
    Stroops, Tariff, ToNode, ToOrigin,
};

use super::wire::{Circuit, Link, cell, relay, variable};
use super::{Case, Cost, Failure, Who, case, failure};

/// Whether an answer is as it should be.
type Fits = fn(&ToOrigin) -> bool;

/// An escrow that there is not.
const NO_ESCROW: EscrowId = EscrowId([7; 32]);
/// A signature of nobody's.
const NOBODYS: Signature = Signature([9; 64]);

fn most() -> Stroops {
    Stroops::new(i64::MAX).unwrap_or(Stroops::ZERO)
}

/// A claim on nothing, as large as can be.
fn claim(opening: Option<OpeningTerms>) -> Claim {
    Claim {
        escrow: NO_ESCROW,
        k: u32::MAX,
        cumulative: most(),
        allocation: most(),
        signature: Signature([9; 64]),
        opening,
    }
}

/// The terms of an escrow without end.
fn opening() -> OpeningTerms {
    OpeningTerms {
        s0: u64::MAX,
        expiry: u64::MAX,
        payee_account: AccountId([3; 32]),
        min_deposit: most(),
    }
}

fn pay(n: u16, claim: Option<Claim>) -> ToNode {
    ToNode::Pay(Pay {
        n,
        step: Step::FIRST,
        forward: Forward::Last,
        claim,
    })
}

fn offer(escrow: EscrowId) -> EscrowOffer {
    EscrowOffer {
        escrow,
        network: NetworkId([1; 32]),
        asset: Asset {
            code: *b"NONE\0\0\0\0\0\0\0\0",
            issuer: [2; 32],
        },
        s0: u64::MAX,
        expiry: u64::MAX,
        deposit: most(),
    }
}

/// Bodies of relay message 52 on a circuit.
fn on_a_circuit(name: &str, cost: Cost, bodies: Vec<Vec<u8>>) -> Case {
    case(format!("payment: {name}"), cost, move |target| {
        let bodies = bodies.clone();
        async move {
            let mut link = Link::open(target).await?;
            let mut circuit = link.circuit().await?;
            let cells: Vec<Vec<u8>> = bodies
                .iter()
                .map(|body| circuit.message(relay::TO_NODE, 0, body))
                .collect();
            link.send(&cells.concat()).await?;
            if cost == Cost::Nothing {
                circuit.fetch(&mut link, 1).await?;
            }
            link.check(cost, circuit.id).await
        }
    })
}

/// Questions on a circuit, each with the answer that it has to get, in this order.
fn answered(name: &str, questions: Vec<(ToNode, Fits)>) -> Case {
    case(format!("payment: {name}"), Cost::Nothing, move |target| {
        let questions = questions.clone();
        async move {
            let mut link = Link::open(target).await?;
            let mut circuit = link.circuit().await?;
            let cells: Vec<Vec<u8>> = questions.iter().map(|(question, _)| circuit.pay(question)).collect();
            link.send(&cells.concat()).await?;
            for (question, fits) in &questions {
                let answer = circuit.answer(&mut link).await?;
                if !fits(&answer) {
                    return failure(format!("{question:?} was answered with {answer:?}"));
                }
            }
            circuit.fetch(&mut link, 1).await?;
            link.check(Cost::Nothing, circuit.id).await
        }
    })
}

fn is_refused(answer: &ToOrigin) -> bool {
    matches!(
        answer,
        ToOrigin::Refused {
            distance: 0,
            code: RefuseCode::NoFunds | RefuseCode::Failed,
            ..
        }
    )
}

fn is_declined(answer: &ToOrigin) -> bool {
    let code = match answer {
        ToOrigin::Declined(Declined { code }) => *code,
        _ => return false,
    };
    matches!(code, DeclineCode::OtherMoney | DeclineCode::Unknown)
}

fn is_unknown(answer: &ToOrigin) -> bool {
    matches!(
        answer,
        ToOrigin::Balance(Balance {
            state: EscrowState::Unknown,
            ..
        })
    )
}

fn is_nothing(answer: &ToOrigin) -> bool {
    matches!(answer, ToOrigin::Nothing { .. })
}

fn is_quote(answer: &ToOrigin) -> bool {
    matches!(answer, ToOrigin::Quote(_))
}

/// What nobody may say on a circuit, whoever he is.
fn malformed() -> Vec<Case> {
    use Cost::Circuit as Destroyed;
    let whole = pay(1, Some(claim(Some(opening())))).encode();
    let with = |at: usize, byte: u8| {
        let mut body = whole.clone();
        body[at] = byte;
        vec![body]
    };
    let listen = |low: u8| {
        let mut body = ToNode::Listen {
            id: 1,
            low: LowWater::at_least(1),
        }
        .encode();
        if let Some(last) = body.last_mut() {
            *last = low;
        }
        vec![body]
    };
    vec![
        on_a_circuit("nothing", Destroyed, vec![vec![]]),
        on_a_circuit("a version that there is not", Destroyed, with(0, 0xee)),
        on_a_circuit("a kind that there is not", Destroyed, with(1, 0xee)),
        on_a_circuit("a Pay with flags that there are not", Destroyed, with(2, 0xff)),
        on_a_circuit("a Pay with terms and without a claim", Destroyed, with(2, 4)),
        on_a_circuit(
            "a Pay without its last byte",
            Destroyed,
            vec![whole[..whole.len() - 1].to_vec()],
        ),
        on_a_circuit(
            "a Pay with a byte too many",
            Destroyed,
            vec![[&whole[..], &[0]].concat()],
        ),
        on_a_circuit("a Pay of step 255", Destroyed, with(5, 255)),
        on_a_circuit("payment number 0", Destroyed, vec![pay(0, Some(claim(None))).encode()]),
        on_a_circuit("a Listen for nothing", Destroyed, listen(0)),
        on_a_circuit("a Listen for more than there is", Destroyed, listen(255)),
        on_a_circuit("garbage, as long as there can be", Destroyed, vec![vec![1; 498]]),
        on_a_circuit(
            "more messages than anybody needs",
            Destroyed,
            vec![ToNode::QuoteQuery.encode(); 40],
        ),
    ]
}

/// A circuit of a client, whose first hop the relay is.
fn of_a_client() -> Vec<Case> {
    use Cost::Circuit as Destroyed;
    let listen = |id| ToNode::Listen {
        id,
        low: LowWater::at_least(1),
    };
    let cancel = |id| ToNode::Cancel { id }.encode();
    vec![
        on_a_circuit(
            "a Pay without a claim, as to a later hop",
            Destroyed,
            vec![pay(1, None).encode()],
        ),
        answered(
            "as many questions as there may be",
            vec![(ToNode::QuoteQuery, is_quote); 16],
        ),
        answered(
            "a claim on an escrow that there is not, again and again",
            // The third would close the link: nobody can show that the escrow is his.
            vec![(pay(1, Some(claim(None))), is_refused); 2],
        ),
        answered(
            "an escrow without end, read from the ledger",
            vec![(pay(1, Some(claim(Some(opening())))), is_refused); 2],
        ),
        answered(
            "payments in the wrong order",
            vec![
                (pay(u16::MAX, Some(claim(None))), is_refused),
                (pay(7, Some(claim(None))), is_refused),
                (pay(u16::MAX, Some(claim(None))), is_refused),
            ],
        ),
        answered(
            "escrows that there are not",
            vec![
                (ToNode::OfferEscrow(offer(NO_ESCROW)), is_declined),
                (
                    ToNode::CloseEscrow {
                        escrow: NO_ESCROW,
                        final_k: u32::MAX,
                        owner: NOBODYS,
                    },
                    is_declined,
                ),
                (
                    ToNode::BalanceQuery {
                        escrow: NO_ESCROW,
                        opening: None,
                        owner: NOBODYS,
                    },
                    is_unknown,
                ),
            ],
        ),
        case(
            "payment: one Listen after the other",
            Cost::Nothing,
            move |target| async move {
                let mut link = Link::open(target).await?;
                let mut circuit = link.circuit().await?;
                // With what it has been given it would wait; the next one ends it.
                let cells: Vec<Vec<u8>> = (0..10).map(|id| circuit.pay(&listen(id))).collect();
                link.send(&cells.concat()).await?;
                for _ in 0..9 {
                    let answer = circuit.answer(&mut link).await?;
                    if !is_nothing(&answer) && !matches!(answer, ToOrigin::PaymentRequest { .. }) {
                        return failure(format!("a Listen was answered with {answer:?}"));
                    }
                }
                link.check(Cost::Nothing, circuit.id).await
            },
        ),
        on_a_circuit("Cancel of nothing", Cost::Nothing, (0..10).map(cancel).collect()),
    ]
}

/// A circuit that comes from somebody with an identity: then the relay is no first hop.
fn of_a_relay() -> Vec<Case> {
    use Cost::Circuit as Destroyed;
    let refused: Fits = is_refused;
    vec![
        on_a_circuit(
            "a claim, as to the first hop",
            Destroyed,
            vec![pay(1, Some(claim(None))).encode()],
        ),
        on_a_circuit(
            "an offer, as to the first hop",
            Destroyed,
            vec![ToNode::OfferEscrow(offer(NO_ESCROW)).encode()],
        ),
        on_a_circuit(
            "a question for a balance, as to the first hop",
            Destroyed,
            vec![
                ToNode::BalanceQuery {
                    escrow: NO_ESCROW,
                    opening: Some(opening()),
                    owner: NOBODYS,
                }
                .encode(),
            ],
        ),
        answered("a payment whose money never comes", vec![(pay(1, None), refused)]),
    ]
}

/// Link messages, and what they cost somebody whom the relay takes for a paid relay. Somebody whom it does not know is not
/// listened to, but for what is no cell at all.
fn on_a_link(name: &str, cost: Cost, messages: fn(&Tariff) -> Vec<Vec<u8>>) -> [Case; 2] {
    [(Who::Relay, cost), (Who::Stranger, Cost::Nothing)].map(|(who, cost)| {
        case(format!("link payment: {name}"), cost, move |target| async move {
            let mut link = Link::open(target).await?;
            let mut circuit = link.circuit().await?;
            let tariff = tariff(&mut link, &mut circuit).await?;
            let messages = messages(&tariff);
            let cells: Vec<Vec<u8>> = messages
                .iter()
                .map(|message| variable(0, cell::LINK_PAYMENT, message))
                .collect();
            let sent = link.send(&cells.concat()).await;
            if cost != Cost::Link {
                sent?;
                circuit.fetch(&mut link, 1).await?;
            }
            link.check(cost, circuit.id).await
        })
        .by(who)
    })
}

/// What the relay says that it takes.
async fn tariff(link: &mut Link, circuit: &mut Circuit) -> Result<Tariff, Failure> {
    let ask = circuit.pay(&ToNode::QuoteQuery);
    link.send(&ask).await?;
    match circuit.answer(link).await? {
        ToOrigin::Quote(quote) => Ok(quote.tariff),
        other => failure(format!("no quote, but {other:?}")),
    }
}

fn hello(tariff: &Tariff) -> Vec<u8> {
    LinkMessage::LegHello {
        network: tariff.network,
        asset: tariff.asset,
        rules: tariff.rules,
    }
    .encode()
}

/// Money of no escrow for these circuits.
fn leg_pay(allocations: &[(u32, Stroops)]) -> Vec<u8> {
    LinkMessage::LegPay(LegPay {
        escrow: NO_ESCROW,
        k: 1,
        cumulative: Stroops::ZERO,
        signature: Signature([9; 64]),
        opening: None,
        allocations: allocations
            .iter()
            .map(|(circuit, amount)| Allocation {
                circuit: *circuit,
                n: 1,
                amount: *amount,
            })
            .collect(),
    })
    .encode()
}

fn link_messages() -> Vec<Case> {
    use Cost::{Link, Nothing};
    let all = [
        on_a_link("nothing", Link, |_| vec![vec![]]),
        on_a_link("garbage", Link, |_| vec![vec![0xff; 300]]),
        on_a_link("before any greeting", Link, |_| vec![leg_pay(&[])]),
        on_a_link("two greetings", Link, |tariff| vec![hello(tariff), hello(tariff)]),
        on_a_link("a greeting of other money, and a payment", Nothing, |tariff| {
            let other = Tariff {
                network: NetworkId([1; 32]),
                ..*tariff
            };
            vec![hello(&other), leg_pay(&[(1, Stroops::ZERO)])]
        }),
        on_a_link("a greeting that is cut off", Link, |tariff| {
            let whole = hello(tariff);
            vec![whole[..whole.len() - 1].to_vec()]
        }),
        on_a_link("a payment with a byte too many", Link, |tariff| {
            vec![hello(tariff), [&leg_pay(&[])[..], &[0]].concat()]
        }),
        on_a_link("twice for one circuit", Link, |tariff| {
            vec![hello(tariff), leg_pay(&[(5, Stroops::ZERO), (5, Stroops::ZERO)])]
        }),
        on_a_link("more money than there is", Link, |tariff| {
            vec![hello(tariff), leg_pay(&[(5, most()), (6, most())])]
        }),
        on_a_link(
            "a payment of no escrow for circuits of others, a hundred times",
            Nothing,
            |tariff| {
                let mut all = vec![hello(tariff)];
                all.extend((0..100).map(|_| leg_pay(&[(1, Stroops::ZERO), (2, most())])));
                all
            },
        ),
        on_a_link(
            "a thousand questions for an escrow of somebody else's",
            // The third wrong signature closes it.
            Link,
            |tariff| {
                let question = LinkMessage::LegQuery {
                    escrow: NO_ESCROW,
                    opening: None,
                    owner: NOBODYS,
                };
                let mut all = vec![hello(tariff)];
                all.extend((0..1000).map(|_| question.encode()));
                all
            },
        ),
        on_a_link("answers to what was not asked", Nothing, |tariff| {
            let acceptance = EscrowAcceptance {
                escrow: NO_ESCROW,
                signer: AccountId([1; 32]),
                payee_account: AccountId([2; 32]),
                min_deposit: most(),
                refund: Signature([3; 64]),
            };
            let balance = Balance {
                escrow: NO_ESCROW,
                newest_k: u32::MAX,
                cumulative: most(),
                unallocated: most(),
                state: EscrowState::Open,
            };
            let declined = LinkMessage::LegDeclined {
                escrow: NO_ESCROW,
                code: DeclineCode::NotNow,
            };
            let refused = LinkMessage::LegRefused {
                circuit: 5,
                n: 1,
                distance: 255,
                code: RefuseCode::Failed,
            };
            let close = LinkMessage::LegClose {
                escrow: NO_ESCROW,
                final_k: u32::MAX,
            };
            vec![
                hello(tariff),
                LinkMessage::LegAccepted(acceptance).encode(),
                LinkMessage::LegBalance(balance).encode(),
                declined.encode(),
                refused.encode(),
                close.encode(),
            ]
        }),
        on_a_link("offers of money that is not ours", Nothing, |tariff| {
            let offers = (0..100).map(|n| LinkMessage::LegOffer(offer(EscrowId([n; 32]))).encode());
            [hello(tariff)].into_iter().chain(offers).collect()
        }),
    ];
    all.into_iter().flatten().collect()
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = malformed();
    all.extend(of_a_client());
    for who in [Who::Stranger, Who::Relay] {
        all.extend(malformed().into_iter().chain(of_a_relay()).map(|case| case.by(who)));
    }
    all.extend(link_messages());
    all
}
