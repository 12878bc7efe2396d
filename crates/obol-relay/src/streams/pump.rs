//! Bytes between the engine and a socket, a batch at a time.
//!
//! Towards the client a socket is read only for as many bytes as the windows and the circuit's queue have room for: so an
//! exit slows down its sources, and keeps nothing in memory for them. Away from the client the windows move only when the
//! socket has taken the bytes.

use std::sync::Arc;

use obol_onion::engine::{DATA_MAX, EndReason, Ending, Received, StreamId};
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

/// Target to client. `None`: the client wants nothing more; but what it has sent is still to be delivered, so then this
/// never returns.
async fn to_client<R: AsyncRead + Unpin>(
    shared: &Arc<Shared>,
    stream: StreamId,
    task: &StreamTask,
    mut read: R,
) -> Option<Ending> {
    let mut buffer = vec![0; READ_MIN];
    let mut room = shared.with(|engine, _| engine.stream_room(stream));
    loop {
        let Some(bytes) = room else {
            return std::future::pending().await;
        };
        if bytes == 0 {
            task.send.notified().await;
            room = shared.with(|engine, _| engine.stream_room(stream));
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
                room = shared.with(|engine, _| engine.stream_room(stream));
                continue;
            }
        };
        let mut sent = 0;
        loop {
            let (now_sent, now_room) = shared.with(|engine, _| {
                let now_sent = engine.stream_send(stream, &buffer[sent..count]);
                (now_sent, engine.stream_room(stream))
            });
            sent += now_sent;
            room = now_room;
            if sent == count || room.is_none() {
                break;
            }
            // Another stream of the circuit was faster.
            task.send.notified().await;
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
    let mut consumed = 0;
    loop {
        buffer.clear();
        let received = shared.with(|engine, _| {
            if consumed > 0 {
                engine.stream_consumed(stream, consumed);
            }
            engine.stream_receive(stream, &mut buffer)
        });
        consumed = 0;
        match received {
            Received::Cells(cells) => {
                let written = async {
                    write.write_all(&buffer).await?;
                    write.flush().await
                };
                if let Err(error) = written.await {
                    return Some(ending(&error));
                }
                consumed = cells;
            }
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
