//! Bytes between the engine and a socket, a batch at a time.
//!
//! Towards the client a socket is read only for as many bytes as the windows and the circuit's queue have room for: so an
//! exit slows down its sources, and keeps nothing in memory for them. Away from the client the windows move (or the
//! stream is resumed) only as the socket takes the bytes.

use std::sync::Arc;
use std::time::Duration;

use obol_onion::engine::{DATA_MAX, EndReason, Ending, Engine, Received, StreamId, Time};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{StreamTask, ending};
use crate::relay::Shared;

/// Read at least room for this: some cells.
const READ_MIN: usize = 8 * DATA_MAX;
/// Read at most this at once: full cells.
const READ_MAX: usize = 128 * DATA_MAX;
/// A buffer of received bytes larger than this is not kept while nothing comes.
const KEEP: usize = 16 * 1024;

/// Moves bytes both ways until either side is done. Returns what the client is to be told, if anything.
pub(super) async fn run<R, W>(
    shared: &Arc<Shared>,
    stream: StreamId,
    task: &StreamTask,
    read: R,
    write: W,
) -> Option<Ending>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    tokio::select! {
        ending = to_client(shared, stream, task, read) => ending,
        ending = from_client(shared, stream, task, write) => ending,
    }
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

/// Client to target, until the client ends the stream, or the circuit is gone.
async fn from_client<W: AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    stream: StreamId,
    task: &StreamTask,
    mut write: W,
) -> Option<Ending> {
    let mut buffer = Vec::new();
    let mut consumed = None;
    loop {
        buffer.clear();
        let received = shared.with(|engine, _| {
            if let Some(bytes) = consumed.take() {
                engine.stream_consumed(stream, bytes);
            }
            engine.stream_receive(stream, &mut buffer)
        });
        match received {
            Received::Bytes => match write_out(shared, stream, &mut write, &buffer).await {
                Ok(last) => consumed = Some(last),
                Err(error) => return Some(ending(&error)),
            },
            Received::Nothing => {
                if buffer.capacity() > KEEP {
                    buffer = Vec::new();
                }
                task.receive.notified().await;
            }
            Received::Ended => {
                let _ = write.shutdown().await;
                return None;
            }
            Received::Gone => return None,
        }
    }
}

/// Writes all of `bytes`. When the target takes only a part, the engine is told at once; of the last part it is yet to be
/// told, and that is returned.
async fn write_out<W: AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    stream: StreamId,
    write: &mut W,
    bytes: &[u8],
) -> std::io::Result<usize> {
    let mut rest = bytes;
    let mut last = 0;
    while !rest.is_empty() {
        if last > 0 {
            shared.with(|engine, _| engine.stream_consumed(stream, last));
        }
        last = write.write(rest).await?;
        if last == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        rest = &rest[last..];
    }
    write.flush().await?;
    Ok(last)
}
