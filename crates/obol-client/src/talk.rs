//! Conversations with the hops of a tunnel (arti-conversation.md).
//!
//! Arti allows one conversation per circuit at a time and closes the circuit on any control message that none expects. So:
//!
//! - one task per tunnel holds all of its conversations, one after the other;
//! - a conversation is a 52 that gets exactly one 51, and at most one second message on the way: the `Cancel` of a Listen, or the
//!   `Pay` that ends it;
//! - the second message may cross the answer. [`Conversation`] decides under its lock which of the two was first;
//! - what was begun is never dropped half-way: a started conversation lives in a task that nobody cancels;
//! - nothing frees the place of a conversation but its answer: a hop that does not answer costs the circuit.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cashier::Note;
use obol_cell::{CMD_TO_NODE, CMD_TO_ORIGIN, MAX_CELL_BODY};
use obol_toll::TunnelId;
use obol_toll::payer::{Second, finishes};
use tokio::sync::mpsc;
use tor_cell::relaycell::msg::{AnyRelayMsg, Unrecognized};
use tor_cell::relaycell::{RelayCmd, RelayMsg as _};
use tor_proto::{ClientTunnel, HopLocation, HopNum, MetaCellDisposition, MsgHandler, TargetHop};

/// What the payer wants done on one tunnel. Hops count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Start a conversation.
    Ask { hop: u8, body: Vec<u8> },
    /// Send a second message on the open one.
    Continue { hop: u8, second: Second, body: Vec<u8> },
    /// Send a message that gets no answer.
    Send { hop: u8, body: Vec<u8> },
    /// End the circuit.
    Terminate,
}

/// An order could not be carried out; the circuit is gone or must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TalkError {
    /// The circuit has closed.
    #[error("the circuit has closed")]
    Closed,
    /// Longer than a message may be: our own error, and never sent.
    #[error("a message of {0} bytes is too long for a cell")]
    TooLong(usize),
}

/// What conversations need of a circuit.
pub(crate) trait Circuit: Send + Sync + 'static {
    /// Sends `body` to `hop` and hands all 51 from there to `conversation`, until that is finished. Returns when it is on its way.
    fn ask(
        &self,
        hop: u8,
        body: Vec<u8>,
        conversation: Conversation,
    ) -> impl Future<Output = Result<(), TalkError>> + Send;

    /// Sends `body` to `hop`.
    fn send(&self, hop: u8, body: Vec<u8>) -> impl Future<Output = Result<(), TalkError>> + Send;

    /// Ends the circuit.
    fn terminate(&self);
}

/// What is to be done with a message that came in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// It was the answer.
    Finished,
    /// It crossed our second message; the answer is still to come.
    Consumed,
    /// It has no place here: the circuit must go.
    Violation,
}

/// The state of one conversation, shared by the one who asks and the handler inside of Arti.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tunnel: TunnelId,
    answers: mpsc::UnboundedSender<Note>,
    second: Option<Second>,
    crossed: bool,
    finished: bool,
}

impl Conversation {
    pub(crate) fn new(tunnel: TunnelId, answers: mpsc::UnboundedSender<Note>) -> Conversation {
        Conversation {
            state: Arc::new(Mutex::new(State {
                tunnel,
                answers,
                second: None,
                crossed: false,
                finished: false,
            })),
        }
    }

    /// A message came from the hop. For Arti's handler: never waits.
    pub(crate) fn message(&self, body: Vec<u8>) -> Disposition {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.finished {
            return Disposition::Violation;
        }
        let disposition = if finishes(state.second, &body) {
            state.finished = true;
            Disposition::Finished
        } else if state.crossed {
            // One message may cross ours; a second one is a hop that makes us work for nothing.
            return Disposition::Violation;
        } else {
            state.crossed = true;
            Disposition::Consumed
        };
        let tunnel = state.tunnel;
        // Sent under the lock, so that whoever sees `finished` also finds the answer in the queue. Nobody listens at the end of the client.
        let _ = state.answers.send(Note::Answer { tunnel, body });
        disposition
    }

    /// Announces a second message. `false`: the answer was first, nothing may be sent in this conversation any more.
    pub(crate) fn second(&self, second: Second) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.finished {
            return false;
        }
        state.second = Some(second);
        true
    }

    /// Whether the answer came.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).finished
    }
}

/// Holds the conversations of one tunnel.
#[derive(Debug)]
pub(crate) struct Talker {
    tunnel: TunnelId,
    answers: mpsc::UnboundedSender<Note>,
    current: Option<Conversation>,
}

impl Talker {
    /// For a tunnel; answers go to `answers`.
    pub(crate) fn new(tunnel: TunnelId, answers: mpsc::UnboundedSender<Note>) -> Talker {
        Talker {
            tunnel,
            answers,
            current: None,
        }
    }

    /// Carries one order out. After an error the circuit is of no use any more, and has been told to end.
    pub(crate) async fn carry_out<C: Circuit>(&mut self, circuit: &Arc<C>, order: Order) -> Result<(), TalkError> {
        let outcome = match order {
            Order::Ask { hop, body } => self.ask(circuit, hop, body).await,
            Order::Send { hop, body } => match within_a_cell(&body) {
                Ok(()) => circuit.send(hop, body).await,
                Err(error) => Err(error),
            },
            Order::Continue { hop, second, body } => self.go_on(circuit, hop, second, body).await,
            Order::Terminate => Err(TalkError::Closed),
        };
        if outcome.is_err() {
            circuit.terminate();
        }
        outcome
    }

    async fn ask<C: Circuit>(&mut self, circuit: &Arc<C>, hop: u8, body: Vec<u8>) -> Result<(), TalkError> {
        within_a_cell(&body)?;
        if self.current.as_ref().is_some_and(|current| !current.is_finished()) {
            // A second conversation would kill the circuit inside of Arti, noisily. The payer never asks for it.
            return Err(TalkError::Closed);
        }
        let conversation = Conversation::new(self.tunnel, self.answers.clone());
        self.current = Some(conversation.clone());
        let circuit = Arc::clone(circuit);
        // A task of its own: dropping this future half-way would leave a handler that nobody knows of.
        let asking = tokio::spawn(async move { circuit.ask(hop, body, conversation).await });
        asking.await.unwrap_or(Err(TalkError::Closed))
    }

    async fn go_on<C: Circuit>(
        &mut self,
        circuit: &Arc<C>,
        hop: u8,
        second: Second,
        body: Vec<u8>,
    ) -> Result<(), TalkError> {
        within_a_cell(&body)?;
        if self.current.as_ref().is_some_and(|current| current.second(second)) {
            return circuit.send(hop, body).await;
        }
        match second {
            Second::Cancel => Ok(()),
            Second::Pay => self.ask(circuit, hop, body).await,
        }
    }
}

fn within_a_cell(body: &[u8]) -> Result<(), TalkError> {
    if body.len() > MAX_CELL_BODY {
        return Err(TalkError::TooLong(body.len()));
    }
    Ok(())
}

fn message(body: Vec<u8>) -> AnyRelayMsg {
    AnyRelayMsg::Unrecognized(Unrecognized::new(RelayCmd::from(CMD_TO_NODE), body))
}

fn target(circuit: &ClientTunnel, hop: u8) -> Result<TargetHop, TalkError> {
    // Arti closes a circuit when asked for a hop beyond its end; hops count from 0 there.
    let hops = circuit.n_hops().map_err(|_| TalkError::Closed)?;
    if hop == 0 || usize::from(hop) > hops {
        return Err(TalkError::Closed);
    }
    Ok(TargetHop::Hop(HopLocation::Hop((
        circuit.unique_id(),
        HopNum::from(hop - 1),
    ))))
}

struct Handler {
    conversation: Conversation,
}

impl MsgHandler for Handler {
    fn handle_msg(&mut self, message: AnyRelayMsg) -> tor_proto::Result<MetaCellDisposition> {
        let violation = || tor_proto::Error::CircProto("unexpected message in a payment conversation".to_owned());
        if message.cmd() != RelayCmd::from(CMD_TO_ORIGIN) {
            return Err(violation());
        }
        let mut body = Vec::new();
        message.encode_onto(&mut body).map_err(|_| violation())?;
        match self.conversation.message(body) {
            Disposition::Finished => Ok(MetaCellDisposition::ConversationFinished),
            Disposition::Consumed => Ok(MetaCellDisposition::Consumed),
            Disposition::Violation => Err(violation()),
        }
    }
}

impl Circuit for ClientTunnel {
    async fn ask(&self, hop: u8, body: Vec<u8>, conversation: Conversation) -> Result<(), TalkError> {
        let target = target(self, hop)?;
        self.start_conversation(Some(message(body)), Handler { conversation }, target)
            .await
            .map(drop)
            .map_err(|_| TalkError::Closed)
    }

    async fn send(&self, hop: u8, body: Vec<u8>) -> Result<(), TalkError> {
        let target = target(self, hop)?;
        self.send_raw_msg(message(body), target)
            .await
            .map_err(|_| TalkError::Closed)
    }

    fn terminate(&self) {
        ClientTunnel::terminate(self);
    }
}

#[cfg(test)]
mod tests;
