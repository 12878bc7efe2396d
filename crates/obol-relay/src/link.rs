//! Links on sockets: accepting and opening them, and the two tasks that move their bytes.
//!
//! ```text
//!  reader: read as much as there is ─► lock: Engine::receive (whole cells, in place) ─► again
//!  writer: lock: Engine::transmit (up to 64 KiB) ─► one write ─► again, until there is nothing: sleep until woken
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use obol_onion::engine::{CircuitId, DestroyReason, LinkId, LinkInfo, NextHop, Peer, Transmit};
use obol_onion::link::{Expected, Role, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::handshake::{self, Established};
use crate::relay::Shared;

/// Bytes that a writer takes from the engine at once.
const WRITE: usize = 64 * 1024;
/// A reader's buffer: as small as this while a link is quiet, as large as [`READ_MAX`] while it is not.
const READ_MIN: usize = 4 * 1024;
/// See [`READ_MIN`]. More than the longest cell that the engine wants whole.
const READ_MAX: usize = 64 * 1024;
/// A write that takes longer means that nobody is there.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);
/// Connections to next hops that may be under way at once.
const DIALS: usize = 4096;

/// How to reach the tasks of a link.
#[derive(Debug, Default)]
pub(crate) struct LinkTasks {
    /// There is something to write.
    pub(crate) writer: Notify,
    /// The link is to be closed.
    pub(crate) stop: CancellationToken,
}

/// Connections to next hops that are being made, each with the circuits that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Dialler {
    under_way: HashMap<NextHop, Vec<CircuitId>>,
}

/// Finishes an accepted connection's handshake and serves the link until it ends.
pub(crate) async fn accepted(shared: Arc<Shared>, tcp: TcpStream, permit: OwnedSemaphorePermit) {
    let done = tokio::select! {
        () = shared.stop.cancelled() => return,
        done = handshake::accept(tcp, &shared.keys, &shared.local) => done,
    };
    drop(permit);
    match done {
        Ok(established) => {
            let link = up(&shared, &established);
            serve(shared, link, established).await;
        }
        Err(error) => debug!(%error, "a link handshake failed"),
    }
}

/// A circuit needs a link to its next hop: joins a connection that is being made, or makes one.
pub(crate) fn need(shared: &Arc<Shared>, circuit: CircuitId, to: NextHop) {
    if let Err(reason) = dial_for(shared, Some(circuit), to) {
        shared.with(|engine, now| engine.extend_failed(now, circuit, reason));
    }
}

/// Makes a link to a relay if there is none.
pub(crate) fn ahead(shared: &Arc<Shared>, to: NextHop) {
    if !shared.with(|engine, _| engine.has_link(&to)) {
        // What stands against it, stands against it for circuits too; there is nobody to be told.
        let _ = dial_for(shared, None, to);
    }
}

/// Joins a connection to a relay that is being made, or makes one.
fn dial_for(shared: &Arc<Shared>, circuit: Option<CircuitId>, mut to: NextHop) -> Result<(), DestroyReason> {
    if to.rsa == shared.keys.fingerprint() || to.ed == Some(shared.keys.ed25519()) {
        return Err(DestroyReason::ConnectFailed);
    }
    if to.ed.is_none() {
        to.ed = shared
            .net
            .as_ref()
            .and_then(|net| net.by_rsa(&to.rsa))
            .and_then(|relay| relay.ed);
    }
    let mut dialler = shared.dialler.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(waiting) = dialler.under_way.get_mut(&to) {
        waiting.extend(circuit);
        return Ok(());
    }
    if dialler.under_way.len() >= DIALS {
        return Err(DestroyReason::ResourceLimit);
    }
    dialler.under_way.insert(to.clone(), circuit.into_iter().collect());
    shared.tasks.spawn(dial(Arc::clone(shared), to));
    Ok(())
}

/// Connects to a next hop, lets the circuits that wait for it go on, and serves the link until it ends.
async fn dial(shared: Arc<Shared>, to: NextHop) {
    let expected = Expected {
        rsa: Some(to.rsa),
        ed25519: to.ed,
    };
    let mut established = None;
    for address in &to.addresses {
        let done = tokio::select! {
            () = shared.stop.cancelled() => return,
            done = handshake::connect(*address, expected, &shared.keys, &shared.local) => done,
        };
        match done {
            Ok(done) => {
                established = Some(done);
                break;
            }
            Err(error) => debug!(%error, "cannot reach a next hop"),
        }
    }
    let link = established.as_ref().map(|established| up(&shared, established));
    let waiting = {
        let mut dialler = shared.dialler.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        dialler.under_way.remove(&to).unwrap_or_default()
    };
    shared.with(|engine, now| {
        for circuit in waiting {
            match link {
                Some((link, _)) => engine.extend_via(now, circuit, link),
                None => engine.extend_failed(now, circuit, DestroyReason::ConnectFailed),
            }
        }
    });
    if let (Some(link), Some(established)) = (link, established) {
        serve(shared, link, established).await;
    }
}

/// Makes a link known to the engine.
fn up(shared: &Arc<Shared>, established: &Established) -> (LinkId, Arc<LinkTasks>) {
    let info = LinkInfo {
        peer: established.peer.map(|peer| Peer {
            ed: peer.ed25519,
            rsa: peer.rsa,
        }),
        remote: established.remote,
        initiated: established.role == Role::Initiator,
        canonical: established.canonical,
        canonical_to_peer: established.canonical_to_peer,
        pads: established.version > Version::V4,
    };
    let tasks = Arc::new(LinkTasks {
        writer: Notify::new(),
        stop: shared.stop.child_token(),
    });
    let registered = Arc::clone(&tasks);
    let link = shared.with_core(|core, now| {
        let link = core.engine().link_up(now, info);
        core.links.insert(link, registered);
        link
    });
    (link, tasks)
}

/// Moves a link's bytes until either side ends it.
async fn serve(shared: Arc<Shared>, (link, tasks): (LinkId, Arc<LinkTasks>), established: Established) {
    let Established {
        reader,
        writer,
        leftover,
        ..
    } = established;
    let writing = write(Arc::clone(&shared), link, Arc::clone(&tasks), writer);
    // A task of its own, so that both directions can use a core each.
    let writing = shared.tasks.spawn(writing);
    tokio::select! {
        () = tasks.stop.cancelled() => {}
        () = read(&shared, link, reader, leftover) => tasks.stop.cancel(),
    }
    shared.with_core(|core, now| {
        core.engine().link_down(now, link);
        core.links.remove(&link);
    });
    // It has seen `stop`; a panic in there is already reported.
    let _ = writing.await;
}

/// The reader: returns when the link is to be closed.
async fn read(shared: &Arc<Shared>, link: LinkId, mut reader: handshake::LinkReader, leftover: Vec<u8>) {
    let mut buffer = leftover;
    let mut filled = buffer.len();
    let mut quiet = 0;
    loop {
        if filled > 0 {
            let done = shared.with(|engine, now| engine.receive(now, link, &mut buffer[..filled]));
            let done = match done {
                Ok(done) => done,
                Err(error) => {
                    debug!(%error, "a link broke the protocol");
                    return;
                }
            };
            buffer.copy_within(done..filled, 0);
            // Grow when a read filled it; shrink when many reads in a row would have been served by a smaller one.
            let full = filled == buffer.len();
            quiet = if filled * 4 > buffer.len() { 0 } else { quiet + 1 };
            filled -= done;
            if full {
                buffer.resize((buffer.len() * 2).clamp(READ_MIN, READ_MAX), 0);
            } else if quiet > 64 && buffer.len() > READ_MIN && filled < READ_MIN {
                buffer.truncate(READ_MIN);
                buffer.shrink_to_fit();
                quiet = 0;
            }
            shared.payments_keep_up().await;
        }
        if buffer.len() < READ_MIN {
            buffer.resize(READ_MIN, 0);
        }
        match reader.read(&mut buffer[filled..]).await {
            Ok(0) => return,
            Ok(read) => filled += read,
            Err(error) => {
                debug!(%error, "a link is lost");
                return;
            }
        }
    }
}

/// The writer: ends when the link is to be closed, or the socket takes nothing any more.
async fn write(shared: Arc<Shared>, link: LinkId, tasks: Arc<LinkTasks>, mut writer: handshake::LinkWriter) {
    let mut out = Vec::new();
    loop {
        out.clear();
        match shared.with(|engine, now| engine.transmit(now, link, &mut out, WRITE)) {
            Transmit::Idle => {
                if out.capacity() > READ_MIN {
                    // Worth keeping for a link in use, not for a quiet one.
                    let soon = tokio::time::timeout(Duration::from_secs(1), tasks.writer.notified());
                    tokio::select! {
                        () = tasks.stop.cancelled() => break,
                        woken = soon => if woken.is_ok() { continue },
                    }
                    out = Vec::new();
                }
                tokio::select! {
                    () = tasks.stop.cancelled() => break,
                    () = tasks.writer.notified() => {}
                }
            }
            Transmit::More => {
                let written = async {
                    writer.write_all(&out).await?;
                    writer.flush().await
                };
                let written = tokio::time::timeout(WRITE_TIMEOUT, written);
                tokio::select! {
                    () = tasks.stop.cancelled() => break,
                    done = written => if !matches!(done, Ok(Ok(()))) { break },
                }
            }
        }
    }
    tasks.stop.cancel();
    // Best effort: the peer may be gone.
    let _ = tokio::time::timeout(Duration::from_secs(1), writer.shutdown()).await;
}
