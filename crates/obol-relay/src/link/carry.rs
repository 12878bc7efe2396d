//! Moves a link's bytes: one task for both directions.
//!
//! ```text
//!  round: what the engine has for this link ─► TLS ─► socket, as long as the socket takes it
//!         what the socket has ─► TLS ─► Engine::receive (whole cells, in place)
//! ```
//! A round that found a full read ends the task's turn: what it has queued for other links is hot, and they go first.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use obol_onion::engine::{CELL_LEN, Layout, LinkFault, LinkId, Transmit};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection::{Connection, Got, Outgoing, with_scratch};
use crate::relay::Shared;
use crate::tls::records::{CONTENT_MAX, HEAD, TAIL};

/// What is written at once: four TLS records of 31 cells.
const LAYOUT: Layout = Layout {
    stretches: 4,
    most: CONTENT_MAX / CELL_LEN * CELL_LEN,
    head: HEAD,
    tail: TAIL,
};
/// How long a link is not read while the payments driver is far behind.
const PAYMENTS_PAUSE: Duration = Duration::from_millis(5);
/// Rounds without a pause for others.
const ROUNDS: usize = 4;

/// Whether the engine has something to write.
const NOT: u8 = 0;
/// It has, and will have more when those have run who are ready now.
const SOON: u8 = 1;
/// It has.
const NOW: u8 = 2;

/// How to reach the task of a link.
#[derive(Debug)]
pub(crate) struct LinkTask {
    /// The engine has something to write.
    due: AtomicU8,
    waker: AtomicWaker,
    /// The link is to be closed.
    pub(crate) stop: CancellationToken,
}

impl LinkTask {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            due: AtomicU8::new(NOT),
            waker: AtomicWaker::new(),
            stop,
        }
    }

    /// There is something to write; if `soon`, whoever is ready now may have more.
    pub(crate) fn wake(&self, soon: bool) {
        self.due.fetch_max(if soon { SOON } else { NOW }, Ordering::Release);
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
    /// The engine said that it has nothing for us; it will wake us.
    idle: bool,
    /// It has woken us, and we have let those run who may have more for us.
    ripe: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        link: LinkId,
        task: &'a LinkTask,
        connection: &'a mut Connection,
    ) -> Self {
        Self {
            shared,
            link,
            task,
            connection,
            idle: false,
            ripe: false,
            pause: None,
        }
    }

    /// Gives the engine the whole cells at the start of `cells`; returns the rest.
    fn receive<'b>(&self, cells: &'b mut [u8]) -> Result<&'b [u8], Over> {
        match self.shared.with(|engine, now| engine.receive(now, self.link, cells)) {
            Ok(done) => Ok(&cells[done..]),
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
        match self.connection.poll_flush(cx) {
            Poll::Ready(flushed) => flushed.map_err(lost)?,
            Poll::Pending => return Ok(Step::Wait),
        }
        if self.idle {
            match self.task.due.load(Ordering::Acquire) {
                NOT => return Ok(Step::Wait),
                SOON if !self.ripe => {
                    self.ripe = true;
                    return Ok(Step::Yield);
                }
                _ => self.task.due.store(NOT, Ordering::Release),
            }
        }
        self.ripe = false;
        with_scratch(|scratch| {
            scratch.out.clear();
            let Outgoing { bytes, contents } = &mut scratch.out;
            let said = self
                .shared
                .with(|engine, now| engine.transmit_stretches(now, self.link, bytes, LAYOUT, contents));
            self.idle = said == Transmit::Idle;
            if scratch.out.is_empty() {
                // It may have woken us between the two.
                return Ok(match self.task.due.load(Ordering::Acquire) {
                    NOT => Step::Wait,
                    _ => Step::Again,
                });
            }
            match self.connection.poll_send(cx, &mut scratch.out) {
                Poll::Ready(Ok(())) => Ok(Step::Again),
                Poll::Ready(Err(error)) => Err(lost(error)),
                // For how long is the engine's business: it closes a link whose peer takes nothing any more.
                Poll::Pending => Ok(Step::Wait),
            }
        })
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
            let Poll::Ready(read) = self.connection.poll_read(cx, &mut scratch.wire) else {
                return Ok(Step::Wait);
            };
            let (got, incoming) = read.map_err(lost)?;
            let cell = self.receive(incoming.cells)?;
            self.connection.keep(cell, incoming.rest);
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

    /// Carries until the link is over. `first`: cells, and the start of one, that came with the handshake.
    pub(super) async fn run(mut self, mut first: Vec<u8>) {
        match self.receive(&mut first) {
            Ok(cell) => self.connection.keep_first(cell),
            Err(Over) => return,
        }
        loop {
            let round = std::future::poll_fn(|cx| {
                self.task.waker.register(cx.waker());
                match self.round(cx) {
                    Ok(Step::Wait) => Poll::Pending,
                    done => Poll::Ready(done),
                }
            });
            if round.await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// An error that ends a link.
fn lost(error: std::io::Error) -> Over {
    debug!(%error, "a link is lost");
    Over
}
