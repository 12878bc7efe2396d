//! Links on sockets: accepting and opening them. [`carry`] moves their bytes, [`dialler`] keeps count of those being opened.

mod carry;
mod connection;
mod dialler;

use std::sync::Arc;
use std::time::{Duration, Instant};

use obol_onion::engine::{DestroyReason, ExtendId, LinkId, LinkInfo, Neighbour, NextHop, Peer};
use obol_onion::link::{Expected, Role, Version};
use tokio::net::TcpStream;
use tracing::debug;

use carry::Carrier;
pub(crate) use carry::LinkTask;
use connection::Connection;
pub(crate) use dialler::Dialler;
use dialler::{Destination, Dial};

use crate::defence::{Knock, Visit};
use crate::directory::NetView;
use crate::handshake::{self, Established};
use crate::relay::Shared;

/// How long a peer has to take what is still to be said to it.
const GOODBYE: Duration = Duration::from_secs(1);

/// Finishes an accepted connection's handshake and serves the link until it ends.
pub(crate) async fn accepted(shared: Arc<Shared>, tcp: TcpStream, knock: Knock) {
    let local = shared.local();
    let done = tokio::select! {
        () = shared.stop.cancelled() => return,
        () = knock.cut.cancelled() => return debug!("a link handshake gave way to others"),
        done = handshake::accept(tcp, &shared.keys, &local) => done,
    };
    match done {
        Ok(established) => {
            if established.peer.is_some() && established.canonical_to_peer {
                shared.mark_reached(&local);
            }
            let _visit = counted(&shared, knock, &established);
            let link = up(&shared, &established);
            serve(shared, link, established).await;
        }
        Err(error) => debug!(%error, "a link handshake failed"),
    }
}

/// Counts the link of a client. Relays of the consensus are not limited, and neither is who shares an address with one.
/// Judged once, as C Tor does: who is counted here is only turned away at the door.
fn counted(shared: &Shared, knock: Knock, established: &Established) -> Option<Visit> {
    let address = established.remote.ip().to_canonical();
    let known = |net: &NetView| net.snapshot().is_address(&address);
    let is_relay = proved(established).is_some_and(|peer| shared.is_known(&peer));
    let is_exempt = is_relay || shared.net.as_ref().is_some_and(known);
    (!is_exempt).then(|| knock.open(Instant::now()))
}

/// A circuit that came from `neighbour` needs a link to its next hop: joins a connection that is being made, or makes one.
pub(crate) fn need(shared: &Arc<Shared>, extend: ExtendId, neighbour: Neighbour, to: NextHop) {
    dial_for(shared, Some((extend, neighbour)), to);
}

/// Makes a link to a relay if there is none.
pub(crate) fn ahead(shared: &Arc<Shared>, to: NextHop) {
    if shared.with(|engine, _| engine.link_to(&to)).is_none() {
        dial_for(shared, None, to);
    }
}

/// Joins a connection to a relay that is being made, or makes one.
fn dial_for(shared: &Arc<Shared>, who: Option<(ExtendId, Neighbour)>, mut to: NextHop) {
    if to.rsa == shared.keys.fingerprint() || to.ed == Some(shared.keys.ed25519()) {
        let waiting = who.map(|(extend, _)| extend);
        return failed(shared, waiting, DestroyReason::ConnectFailed);
    }
    if to.ed.is_none() {
        to.ed = shared
            .net
            .as_ref()
            .and_then(|net| net.by_rsa(&to.rsa))
            .and_then(|relay| relay.ed);
    }
    let asked = shared.dialler().ask(Destination::of(&to), who);
    if let Some(dial) = asked.dial {
        shared.tasks.spawn(connect(Arc::clone(shared), to, dial));
    }
    failed(shared, asked.gave_way, DestroyReason::ResourceLimit);
}

/// These get no link.
fn failed(shared: &Arc<Shared>, waiting: impl IntoIterator<Item = ExtendId>, reason: DestroyReason) {
    let mut waiting = waiting.into_iter().peekable();
    if waiting.peek().is_some() {
        shared.with(|engine, now| waiting.for_each(|extend| engine.extend_failed(now, extend, reason)));
    }
}

/// Connects to a next hop, lets the circuits that wait for it go on, and serves the link until it ends.
async fn connect(shared: Arc<Shared>, to: NextHop, dial: Dial) {
    let expected = Expected {
        rsa: Some(to.rsa),
        ed25519: to.ed,
    };
    let local = shared.local();
    let mut established = None;
    let mut reason = DestroyReason::ConnectFailed;
    // Another connection may have come about since the circuit asked; now that this one is known to be under way, none can
    // any more without being found.
    let found = shared.with(|engine, _| engine.link_to(&to));
    for address in to.addresses.iter().filter(|_| found.is_none()) {
        let done = tokio::select! {
            () = shared.stop.cancelled() => return,
            () = dial.cut.cancelled() => return debug!("a next hop that does not answer gave way to others"),
            done = handshake::connect(*address, expected, &shared.keys, &local) => done,
        };
        match done {
            Ok(done) => {
                established = Some(done);
                break;
            }
            Err(error) => {
                debug!(%error, "cannot reach a next hop");
                if error.is_wrong_identity() {
                    reason = DestroyReason::Identity;
                }
            }
        }
    }
    let link = established.as_ref().map(|established| up(&shared, established));
    let waiting = shared.dialler().done(dial.number);
    match found.or(link.as_ref().map(|(link, _)| *link)) {
        Some(over) => shared.with(|engine, now| {
            for extend in waiting {
                engine.extend_via(now, extend, over);
            }
        }),
        None => failed(&shared, waiting, reason),
    }
    if let (Some(link), Some(established)) = (link, established) {
        serve(shared, link, established).await;
    }
}

/// The identity that the other end has proved.
fn proved(established: &Established) -> Option<Peer> {
    established.peer.map(|peer| Peer {
        ed: peer.ed25519,
        rsa: peer.rsa,
    })
}

/// Makes a link known to the engine.
fn up(shared: &Arc<Shared>, established: &Established) -> (LinkId, Arc<LinkTask>) {
    let peer = proved(established);
    let mut info = LinkInfo {
        peer,
        known: false,
        remote: established.remote,
        initiated: established.role == Role::Initiator,
        canonical: established.canonical,
        canonical_to_peer: established.canonical_to_peer,
        pads: established.version > Version::V4,
    };
    let task = Arc::new(LinkTask::new(shared.stop.child_token()));
    let registered = Arc::clone(&task);
    let link = shared.with_core(|core, now| {
        // Asked under the lock: no consensus can come in between that would judge all links but this one.
        info.known = peer.is_some_and(|peer| shared.is_known(&peer));
        let link = core.engine().link_up(now, info);
        core.links.insert(link, registered);
        link
    });
    (link, task)
}

/// Moves a link's bytes until either side ends it.
async fn serve(shared: Arc<Shared>, (link, task): (LinkId, Arc<LinkTask>), established: Established) {
    let mut first = established.leftover;
    let connection = Connection::new(established.stream, &mut first);
    let connection = match connection {
        Ok(mut connection) => {
            let carrier = Carrier::new(&shared, link, &task, &mut connection);
            tokio::select! {
                () = task.stop.cancelled() => {}
                () = carrier.run(first) => {}
            }
            Some(connection)
        }
        Err(error) => {
            debug!(%error, "a link was lost with its handshake");
            None
        }
    };
    shared.with_core(|core, now| {
        core.engine().link_down(now, link);
        core.links.remove(&link);
    });
    if let Some(connection) = connection {
        // Best effort: the peer may be gone.
        let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
    }
}
