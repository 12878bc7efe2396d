//! Bytes between the engine and a socket, a batch at a time.
//!
//! Towards the client a socket is read only for as many bytes as the windows and the circuit's queue have room for: so an
//! exit slows down its sources, and keeps nothing in memory for them. Away from the client the windows move (or the
//! stream is resumed) only as the socket takes the bytes.

use std::sync::Arc;
use std::time::Duration;

use obol_onion::engine::{DATA_MAX, EndReason, Ending, Engine, Received, StreamId, Time};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{StreamTask, ending, finish};
use crate::relay::Shared;

/// Read at least room for this: some cells.
const READ_MIN: usize = 8 * DATA_MAX;
/// Read at most this at once: full cells.
const READ_MAX: usize = 128 * DATA_MAX;
/// A buffer of received bytes larger than this is not kept while nothing comes.
const KEEP: usize = 16 * 1024;

/// How long a target may take nothing of what is still to be delivered, once the client has ended the stream or the target
/// has said its last (C Tor's own time for a connection that is held open until it is flushed).
const LINGER: Duration = Duration::from_secs(15);

/// Moves bytes both ways until either side is done, and ends the stream: the client is told why, if it was not the client
/// that ended it.
pub(super) async fn run<R, W>(shared: &Arc<Shared>, stream: StreamId, task: &StreamTask, read: R, write: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut upload = Upload::new(write);
    let ending = tokio::select! {
        ending = to_client(shared, stream, task, read) => ending,
        ending = upload.run(shared, stream, task) => return finish(shared, stream, ending),
    };
    // A target that has said its last may still read: what the client has sent before it knew is delivered.
    let mut last = Vec::new();
    shared.with(|engine, _| engine.stream_receive(stream, &mut last));
    finish(shared, stream, ending);
    let _ = tokio::time::timeout(4 * LINGER, upload.finish(last)).await;
}

/// What a stream may send now, and when to ask again although nobody says so.
fn room(engine: &mut Engine, now: Time, stream: StreamId) -> (Option<usize>, Option<Duration>) {
    let room = engine.stream_room(stream);
    let rest = engine
        .stream_rest(stream)
        .map(|at| Duration::from_micros(at.since(now)));
    (room, rest)
}

/// Waits until there is news of a stream, or for as long as the client's rate wants.
async fn rest(task: &StreamTask, rest: Option<Duration>) {
    match rest {
        None => task.send.notified().await,
        // News or time: either way the engine is asked.
        Some(rest) => drop(tokio::time::timeout(rest, task.send.notified()).await),
    }
}

/// Target to client. `None`: the client wants nothing more; but what it has sent is still to be delivered, so then this
/// never returns.
async fn to_client<R: AsyncRead + Unpin>(
    shared: &Arc<Shared>,
    stream: StreamId,
    task: &StreamTask,
    mut read: R,
) -> Option<Ending> {
    let mut buffer = vec![0; READ_MIN];
    let ask = || shared.with(|engine, now| room(engine, now, stream));
    let mut room_now = ask();
    loop {
        let Some(bytes) = room_now.0 else {
            return std::future::pending().await;
        };
        if bytes == 0 {
            rest(task, room_now.1).await;
            room_now = ask();
            continue;
        }
        let most = bytes.min(buffer.len());
        let count = tokio::select! {
            count = read.read(&mut buffer[..most]) => match count {
                Ok(0) => return Some(Ending::Because(EndReason::Done)),
                Ok(count) => count,
                Err(error) => return Some(ending(&error)),
            },
            () = task.send.notified() => {
                room_now = ask();
                continue;
            }
        };
        let mut sent = 0;
        loop {
            let now_sent;
            (now_sent, room_now) = shared.with_stream(|engine, now| {
                let sent = engine.stream_send(stream, &buffer[sent..count]);
                (sent, room(engine, now, stream))
            });
            sent += now_sent;
            if sent == count || room_now.0.is_none() {
                break;
            }
            // Another stream of the circuit was faster, or the client wants it slower.
            rest(task, room_now.1).await;
        }
        if count == buffer.len() && count < READ_MAX {
            buffer.resize((2 * count).min(READ_MAX), 0);
        } else if count * 8 < buffer.len() && buffer.len() > READ_MIN {
            buffer.truncate((buffer.len() / 2 / DATA_MAX * DATA_MAX).max(READ_MIN));
            buffer.shrink_to_fit();
        }
    }
}

/// Why an upload goes no further.
enum Stopped {
    /// The circuit is gone, or the target takes nothing although nothing more will come.
    Abandoned,
    /// The target's error.
    Failed(std::io::Error),
}

/// Client to target.
struct Upload<W> {
    write: W,
    /// What the engine has handed over.
    buffer: Vec<u8>,
    /// Bytes of it that the target has.
    at: usize,
    /// Bytes of those that the engine has not been told of.
    untold: usize,
    /// The client has ended the stream.
    ended: bool,
}

impl<W: AsyncWrite + Unpin> Upload<W> {
    fn new(write: W) -> Self {
        Upload {
            write,
            buffer: Vec::new(),
            at: 0,
            untold: 0,
            ended: false,
        }
    }

    /// Until the client ends the stream, or the circuit is gone. Returns what the client is to be told, if anything.
    async fn run(&mut self, shared: &Arc<Shared>, stream: StreamId, task: &StreamTask) -> Option<Ending> {
        loop {
            self.buffer.clear();
            self.at = 0;
            let received = shared.with(|engine, _| {
                if self.untold > 0 {
                    engine.stream_consumed(stream, core::mem::take(&mut self.untold));
                }
                engine.stream_receive(stream, &mut self.buffer)
            });
            match received {
                Received::Bytes => match self.write_out(shared, stream, task).await {
                    Ok(()) => {}
                    Err(Stopped::Abandoned) => return None,
                    Err(Stopped::Failed(error)) => return Some(ending(&error)),
                },
                Received::Nothing => {
                    if self.buffer.capacity() > KEEP {
                        self.buffer = Vec::new();
                    }
                    task.receive.notified().await;
                }
                Received::Ended => {
                    let _ = tokio::time::timeout(LINGER, self.write.shutdown()).await;
                    return None;
                }
                Received::Gone => return None,
            }
        }
    }

    /// Writes all of the buffer. When the target takes only a part, the engine is told at once; of the last part it is told
    /// when it is next asked for more.
    async fn write_out(&mut self, shared: &Arc<Shared>, stream: StreamId, task: &StreamTask) -> Result<(), Stopped> {
        while self.at < self.buffer.len() {
            if self.untold > 0 {
                shared.with(|engine, _| engine.stream_consumed(stream, core::mem::take(&mut self.untold)));
            }
            let ended = self.ended;
            let patience = async {
                match ended {
                    true => tokio::time::sleep(LINGER).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                wrote = self.write.write(&self.buffer[self.at..]) => match wrote {
                    Ok(0) => return Err(Stopped::Failed(std::io::ErrorKind::WriteZero.into())),
                    Ok(count) => {
                        self.at += count;
                        self.untold = count;
                    }
                    Err(error) => return Err(Stopped::Failed(error)),
                },
                // Nobody else would notice that the circuit is gone while the target takes nothing.
                () = task.receive.notified() => match shared.with(|engine, _| engine.stream_ended(stream)) {
                    None => return Err(Stopped::Abandoned),
                    Some(ended) => self.ended = ended,
                },
                () = patience => return Err(Stopped::Abandoned),
            }
        }
        self.write.flush().await.map_err(Stopped::Failed)
    }

    /// Delivers the rest, and `last` behind it, to a target that goes on taking it.
    async fn finish(mut self, last: Vec<u8>) {
        for mut rest in [&self.buffer[self.at..], &last] {
            while !rest.is_empty() {
                match tokio::time::timeout(LINGER, self.write.write(rest)).await {
                    Ok(Ok(count @ 1..)) => rest = &rest[count..],
                    _ => return,
                }
            }
        }
        let _ = tokio::time::timeout(LINGER, self.write.shutdown()).await;
    }
}
