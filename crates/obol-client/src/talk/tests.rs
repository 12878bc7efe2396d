use obol_cell::{ToOrigin, UNIT};

use super::*;

/// A circuit whose hops do what a test says. It refuses, as Arti does, a second conversation while one is open.
#[derive(Default)]
struct Scripted {
    sent: Mutex<Vec<(u8, Vec<u8>)>>,
    conversation: Mutex<Option<Conversation>>,
    terminated: Mutex<bool>,
    closed: bool,
}

impl Scripted {
    fn conversation(&self) -> Conversation {
        self.conversation
            .lock()
            .unwrap()
            .clone()
            .expect("a conversation was begun")
    }

    fn sent(&self) -> Vec<(u8, Vec<u8>)> {
        self.sent.lock().unwrap().clone()
    }

    fn terminated(&self) -> bool {
        *self.terminated.lock().unwrap()
    }
}

impl Circuit for Scripted {
    async fn ask(&self, hop: u8, body: Vec<u8>, conversation: Conversation) -> Result<(), TalkError> {
        if self.closed {
            return Err(TalkError::Closed);
        }
        let before = self.conversation.lock().unwrap().replace(conversation);
        assert!(
            before.is_none_or(|before| before.is_finished()),
            "two conversations at once"
        );
        self.sent.lock().unwrap().push((hop, body));
        Ok(())
    }

    async fn send(&self, hop: u8, body: Vec<u8>) -> Result<(), TalkError> {
        if self.closed {
            return Err(TalkError::Closed);
        }
        self.sent.lock().unwrap().push((hop, body));
        Ok(())
    }

    fn terminate(&self) {
        *self.terminated.lock().unwrap() = true;
    }
}

const TUNNEL: TunnelId = TunnelId(7);

fn request() -> Vec<u8> {
    ToOrigin::PaymentRequest {
        id: 1,
        metered: UNIT,
        paid: 0,
        credit: 0,
    }
    .encode()
}

fn complete() -> Vec<u8> {
    ToOrigin::Complete {
        n: 1,
        metered: UNIT,
        paid: UNIT,
        credit: UNIT,
    }
    .encode()
}

struct Bench {
    circuit: Arc<Scripted>,
    talker: Talker,
    notes: mpsc::UnboundedReceiver<Note>,
}

impl Bench {
    fn new(circuit: Scripted) -> Bench {
        let (tell, notes) = mpsc::unbounded_channel();
        Bench {
            circuit: Arc::new(circuit),
            talker: Talker::new(TUNNEL, tell),
            notes,
        }
    }

    async fn order(&mut self, order: Order) -> Result<(), TalkError> {
        self.talker.carry_out(&self.circuit, order).await
    }

    fn answers(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| match self.notes.try_recv() {
            Ok(Note::Answer { tunnel, body }) => {
                assert_eq!(tunnel, TUNNEL);
                Some(body)
            }
            _ => None,
        })
        .collect()
    }
}

fn ask(hop: u8, body: &[u8]) -> Order {
    Order::Ask {
        hop,
        body: body.to_vec(),
    }
}

fn go_on(second: Second, body: &[u8]) -> Order {
    Order::Continue {
        hop: 3,
        second,
        body: body.to_vec(),
    }
}

#[tokio::test]
async fn an_answer_ends_its_conversation_and_the_next_may_begin() {
    let mut bench = Bench::new(Scripted::default());
    for hop in 1..=3 {
        bench.order(ask(hop, &[hop])).await.unwrap();
        assert_eq!(
            bench.circuit.conversation().message(vec![hop, hop]),
            Disposition::Finished
        );
    }
    assert_eq!(bench.answers(), vec![vec![1, 1], vec![2, 2], vec![3, 3]]);
    assert!(!bench.circuit.terminated());
}

#[tokio::test]
async fn a_second_conversation_before_the_answer_is_never_begun() {
    let mut bench = Bench::new(Scripted::default());
    bench.order(ask(1, &[1])).await.unwrap();
    assert_eq!(bench.order(ask(2, &[2])).await, Err(TalkError::Closed));
    assert_eq!(bench.circuit.sent(), vec![(1, vec![1])]);
    assert!(bench.circuit.terminated());
}

#[tokio::test]
async fn a_second_answer_is_a_violation() {
    let mut bench = Bench::new(Scripted::default());
    bench.order(ask(1, &[1])).await.unwrap();
    let conversation = bench.circuit.conversation();
    assert_eq!(conversation.message(vec![1]), Disposition::Finished);
    assert_eq!(conversation.message(vec![1]), Disposition::Violation);
    assert_eq!(bench.answers().len(), 1);
}

#[tokio::test]
async fn a_cancel_goes_out_and_whatever_answer_comes_is_the_answer() {
    for answer in [request(), ToOrigin::Nothing { id: 1 }.encode()] {
        let mut bench = Bench::new(Scripted::default());
        bench.order(ask(3, &[1])).await.unwrap();
        bench.order(go_on(Second::Cancel, &[9])).await.unwrap();
        assert_eq!(bench.circuit.sent(), vec![(3, vec![1]), (3, vec![9])]);
        assert_eq!(
            bench.circuit.conversation().message(answer.clone()),
            Disposition::Finished
        );
        assert_eq!(bench.answers(), vec![answer]);
    }
}

#[tokio::test]
async fn a_cancel_after_the_answer_is_not_sent() {
    let mut bench = Bench::new(Scripted::default());
    bench.order(ask(3, &[1])).await.unwrap();
    assert_eq!(bench.circuit.conversation().message(request()), Disposition::Finished);
    bench.order(go_on(Second::Cancel, &[9])).await.unwrap();
    assert_eq!(bench.circuit.sent(), vec![(3, vec![1])]);
    assert!(!bench.circuit.terminated());
}

#[tokio::test]
async fn a_request_that_crosses_a_payment_is_consumed_and_the_completion_ends_it() {
    let mut bench = Bench::new(Scripted::default());
    bench.order(ask(3, &[1])).await.unwrap();
    bench.order(go_on(Second::Pay, &[9])).await.unwrap();
    let conversation = bench.circuit.conversation();
    assert_eq!(conversation.message(request()), Disposition::Consumed);
    assert_eq!(conversation.message(complete()), Disposition::Finished);
    assert_eq!(bench.answers(), vec![request(), complete()]);
}

#[tokio::test]
async fn a_payment_after_the_answer_is_a_conversation_of_its_own() {
    let mut bench = Bench::new(Scripted::default());
    bench.order(ask(3, &[1])).await.unwrap();
    assert_eq!(bench.circuit.conversation().message(request()), Disposition::Finished);
    bench.order(go_on(Second::Pay, &[9])).await.unwrap();
    assert_eq!(bench.circuit.sent(), vec![(3, vec![1]), (3, vec![9])]);
    // A new conversation: no request can cross here any more, and the completion ends it.
    assert_eq!(bench.circuit.conversation().message(complete()), Disposition::Finished);
}

#[tokio::test]
async fn only_one_message_may_cross_a_payment() {
    let mut bench = Bench::new(Scripted::default());
    bench.order(ask(3, &[1])).await.unwrap();
    bench.order(go_on(Second::Pay, &[9])).await.unwrap();
    let conversation = bench.circuit.conversation();
    assert_eq!(conversation.message(request()), Disposition::Consumed);
    assert_eq!(conversation.message(request()), Disposition::Violation);
}

#[tokio::test]
async fn a_message_that_fits_no_cell_is_not_sent_and_costs_the_tunnel() {
    for order in [
        ask(1, &[0; 489]),
        Order::Send {
            hop: 1,
            body: vec![0; 489],
        },
        go_on(Second::Pay, &[0; 489]),
    ] {
        let mut bench = Bench::new(Scripted::default());
        assert_eq!(bench.order(order).await, Err(TalkError::TooLong(489)));
        assert!(bench.circuit.sent().is_empty());
        assert!(bench.circuit.terminated());
    }
    let mut bench = Bench::new(Scripted::default());
    bench.order(ask(1, &[0; 488])).await.unwrap();
}

#[tokio::test]
async fn orders_for_a_circuit_that_has_closed_fail_without_a_trace() {
    for order in [ask(1, &[1]), Order::Send { hop: 1, body: vec![1] }, Order::Terminate] {
        let mut bench = Bench::new(Scripted {
            closed: true,
            ..Scripted::default()
        });
        assert_eq!(bench.order(order).await, Err(TalkError::Closed));
        assert!(bench.circuit.sent().is_empty());
        assert!(bench.answers().is_empty());
    }
}

/// However the answer and the second message race, exactly one final answer is delivered, and the second message is sent in this
/// conversation only where the handler still waits for its answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_race_of_answer_and_second_message_has_no_third_outcome() {
    for _ in 0..200 {
        for second in [Second::Cancel, Second::Pay] {
            let mut bench = Bench::new(Scripted::default());
            bench.order(ask(3, &[1])).await.unwrap();
            let conversation = bench.circuit.conversation();
            let hop = tokio::task::spawn_blocking(move || conversation.message(request()));
            bench.order(go_on(second, &[9])).await.unwrap();
            let first = hop.await.unwrap();
            let sent = bench.circuit.sent().len();
            match (second, first) {
                // The answer was first or crossed the cancel: either way it ended the conversation.
                (Second::Cancel, Disposition::Finished) => assert!(sent == 1 || sent == 2),
                // The answer was first, and the payment a new conversation; or it crossed.
                (Second::Pay, Disposition::Finished | Disposition::Consumed) => {
                    assert_eq!(sent, 2);
                    assert_eq!(bench.circuit.conversation().message(complete()), Disposition::Finished);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
