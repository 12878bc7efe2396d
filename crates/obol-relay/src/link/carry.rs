//! Moves a link's bytes: one task for both directions.
//!
//! ```text
//!  round: what the engine has for this link ─► TLS ─► socket, as long as the socket takes it
//!         what the socket has ─► TLS ─► Engine::receive (whole cells, in place)
//! ```
//! A round that found a full read ends the task's turn: what it has queued for other links is hot, and they go first.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use obol_onion::engine::{LinkFault, LinkId, Transmit};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection::{Connection, Got, Scratch, with_scratch};
use crate::relay::Shared;

/// Bytes that are taken from the engine at once: four full TLS records.
const WRITE: usize = 64 * 1024;
/// How long a link is not read while the payments driver is far behind.
const PAYMENTS_PAUSE: Duration = Duration::from_millis(5);
/// Rounds without a pause for others.
const ROUNDS: usize = 4;

/// How to reach the task of a link.
#[derive(Debug)]
pub(crate) struct LinkTask {
    /// The engine has something to write.
    due: AtomicBool,
    waker: AtomicWaker,
    /// The link is to be closed.
    pub(crate) stop: CancellationToken,
}

impl LinkTask {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            due: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            stop,
        }
    }

    /// There is something to write.
    pub(crate) fn wake(&self) {
        self.due.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// What one step came to.
#[derive(PartialEq, Eq)]
enum Step {
    /// Nothing more until somebody wakes us.
    Wait,
    /// Something; look again.
    Again,
    /// A whole buffer full; let others work on it first.
    Yield,
}

/// The link is over.
struct Over;

/// See the [module](self).
pub(super) struct Carrier<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) link: LinkId,
    pub(super) task: &'a LinkTask,
    pub(super) connection: &'a mut Connection,
    /// The start of a cell whose rest has not come yet.
    rest: Vec<u8>,
    /// The engine said that it has nothing for us; it will wake us.
    idle: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<'a> Carrier<'a> {
    /// `first`: cells, or the start of one, that came with the handshake.
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        link: LinkId,
        task: &'a LinkTask,
        connection: &'a mut Connection,
        first: Vec<u8>,
    ) -> Self {
        Self {
            shared,
            link,
            task,
            connection,
            rest: first,
            idle: false,
            pause: None,
        }
    }

    /// Cells that were read with the handshake.
    fn begin(&mut self) -> Result<(), Over> {
        with_scratch(|scratch| {
            scratch.cells.clear();
            scratch.cells.append(&mut self.rest);
            let ended = self.connection.decrypt(&mut scratch.cells).map_err(lost)?;
            self.receive(scratch)?;
            if ended { Err(Over) } else { Ok(()) }
        })
    }

    /// Gives the engine the whole cells at the start of `scratch.cells`, and keeps the rest.
    fn receive(&mut self, scratch: &mut Scratch) -> Result<(), Over> {
        let cells = &mut scratch.cells;
        let done = self.shared.with(|engine, now| engine.receive(now, self.link, cells));
        match done {
            Ok(done) => {
                self.rest.extend_from_slice(&cells[done..]);
                if self.rest.is_empty() && self.rest.capacity() > 1024 {
                    self.rest = Vec::new();
                }
                Ok(())
            }
            // The engine has said so already.
            Err(LinkFault::Asked) => Err(Over),
            Err(error) => {
                debug!(%error, "a link broke the protocol");
                Err(Over)
            }
        }
    }

    /// Sends what there is and what the socket takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Step, Over> {
        if !self.connection.is_flushed() && !self.flush(cx)? {
            return Ok(Step::Wait);
        }
        if self.idle && !self.task.due.swap(false, Ordering::AcqRel) {
            return Ok(Step::Wait);
        }
        let more = with_scratch(|scratch| {
            scratch.out.clear();
            let said = self
                .shared
                .with(|engine, now| engine.transmit(now, self.link, &mut scratch.out, WRITE));
            self.idle = said == Transmit::Idle;
            if self.idle {
                return Ok(false);
            }
            self.connection.encrypt(&scratch.out).map_err(lost)?;
            Ok(true)
        })?;
        if !more {
            // It may have woken us between the two.
            return Ok(match self.task.due.load(Ordering::Acquire) {
                true => Step::Again,
                false => Step::Wait,
            });
        }
        Ok(match self.flush(cx)? {
            true => Step::Again,
            false => Step::Wait,
        })
    }

    /// True: everything encrypted has been handed to the system.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Over> {
        match self.connection.poll_flush(cx) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(lost(error)),
            // For how long is the engine's business: it closes a link whose peer takes nothing any more.
            Poll::Pending => Ok(false),
        }
    }

    /// Reads once.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<Step, Over> {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return Ok(Step::Wait);
            }
            self.pause = None;
        }
        if self.shared.payments_behind() {
            self.pause = Some(Box::pin(tokio::time::sleep(PAYMENTS_PAUSE)));
            return Ok(Step::Again);
        }
        with_scratch(|scratch| {
            scratch.cells.clear();
            scratch.cells.extend_from_slice(&self.rest);
            let Poll::Ready(got) = self.connection.poll_read(cx, scratch) else {
                return Ok(Step::Wait);
            };
            let got = got.map_err(lost)?;
            self.rest.clear();
            self.receive(scratch)?;
            match got {
                Got::Some => Ok(Step::Again),
                Got::Full => Ok(Step::Yield),
                Got::End => Err(Over),
            }
        })
    }

    fn round(&mut self, cx: &mut Context<'_>) -> Result<Step, Over> {
        for _ in 0..ROUNDS {
            let sent = self.poll_send(cx)?;
            match (self.poll_receive(cx)?, sent) {
                (Step::Yield, _) | (_, Step::Yield) => return Ok(Step::Yield),
                (Step::Wait, Step::Wait) => return Ok(Step::Wait),
                _ => {}
            }
        }
        Ok(Step::Yield)
    }

    /// Carries until the link is over.
    pub(super) async fn run(mut self) {
        if self.begin().is_err() {
            return;
        }
        std::future::poll_fn(|cx| {
            self.task.waker.register(cx.waker());
            match self.round(cx) {
                Err(Over) => Poll::Ready(()),
                Ok(Step::Wait) => Poll::Pending,
                Ok(_) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await;
    }
}

/// An error that ends a link.
fn lost(error: std::io::Error) -> Over {
    debug!(%error, "a link is lost");
    Over
}
