//! Streams that end at this relay: connections to the world, to our directory, and look-ups.
//!
//! | module | subject |
//! |---|---|
//! | [`policy`] | what an exit connects to, and what it tells a client about it |
//! | [`dns`] | names to addresses, and back |
//! | [`pump`] | bytes between the engine and a socket |

mod dns;
mod policy;
mod pump;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use obol_onion::engine::{Answer, Connected, EndReason, Ending, Neighbour, Peer, StreamId, Target};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::debug;

pub(crate) use dns::Resolver;
pub use policy::ExitConfig;

use crate::relay::Shared;
use policy::{LITERAL_TTL, end_reason, fuzzed, name_ttl};

/// A target that does not answer in this time does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes between a directory stream and the directory.
const DIRECTORY_PIPE: usize = 64 * 1024;

/// How to reach the task of a stream.
#[derive(Debug, Default)]
pub(crate) struct StreamTask {
    /// The half that takes bytes from the client.
    pub(crate) receive: Notify,
    /// The half that sends bytes to the client.
    pub(crate) send: Notify,
}

impl StreamTask {
    pub(crate) fn wake(&self) {
        self.receive.notify_one();
        self.send.notify_one();
    }
}

/// Ends a stream whose task is not running (any longer).
fn finish(shared: &Arc<Shared>, stream: StreamId, ending: Option<Ending>) {
    shared.with_core(|core, _| {
        core.engine().stream_end(stream, ending);
        core.streams.remove(&stream);
    });
}

/// Waits until the client has ended a stream, or its circuit is gone.
async fn abandoned(shared: &Arc<Shared>, stream: StreamId, task: &StreamTask) {
    loop {
        if shared.with(|engine, _| engine.stream_room(stream)).is_none() {
            return;
        }
        task.send.notified().await;
    }
}

/// The task that was registered when the stream was begun.
fn task_of(shared: &Arc<Shared>, stream: StreamId) -> Option<Arc<StreamTask>> {
    shared.with_core(|core, _| core.streams.get(&stream).cloned())
}

/// A client wants to reach the world.
pub(crate) fn begin(shared: &Arc<Shared>, stream: StreamId, peer: Option<Peer>, target: Target) {
    if let Some(refused) = refused(shared, peer) {
        return finish(shared, stream, Some(Ending::Because(refused)));
    }
    let Some(task) = task_of(shared, stream) else { return };
    let this = Arc::clone(shared);
    shared.spawn(async move {
        let connecting = async {
            tokio::time::timeout(CONNECT_TIMEOUT, connect(&this, &target))
                .await
                .unwrap_or(Err(Ending::Because(EndReason::Timeout)))
        };
        let connected = tokio::select! {
            () = abandoned(&this, stream, &task) => return finish(&this, stream, None),
            connected = connecting => connected,
        };
        match connected {
            Ok((tcp, address, ttl)) => {
                this.with(|engine, _| engine.stream_connected(stream, Connected::To(address, ttl)));
                let (read, write) = tcp.into_split();
                pump::run(&this, stream, &task, read, write).await;
            }
            Err(ending) => finish(&this, stream, Some(ending)),
        }
    });
}

/// Why a stream of this neighbour is refused, if it is: exits serve circuits, not proxies of one hop, and trust nobody
/// to be a relay whom the consensus does not know.
fn refused(shared: &Arc<Shared>, peer: Option<Peer>) -> Option<EndReason> {
    let Some(peer) = peer else {
        return (!shared.exit().allow_single_hop).then_some(EndReason::TorProtocol);
    };
    let net = shared.net.as_ref()?;
    let strict = net.param("refuseunknownexits").unwrap_or(1) != 0;
    (strict && !shared.is_known(&peer)).then_some(EndReason::Misc)
}

/// Resolves, checks and connects. The address is the one that was dialled: a target that has closed already has none.
async fn connect(shared: &Arc<Shared>, target: &Target) -> Result<(TcpStream, IpAddr, u32), Ending> {
    let exit = shared.exit();
    let failed = |reason| Ending::Because(reason);
    // BEGIN's flags.
    let v6_welcome = exit.ipv6 && target.flags & 1 != 0;
    let v4_welcome = target.flags & 2 == 0;
    let v6_first = target.flags & 4 != 0;
    let literal: Option<IpAddr> = target.host.parse().ok();
    let (addresses, ttl) = match literal {
        Some(address) => (vec![address], LITERAL_TTL),
        // A relay that connects to nothing resolves nothing either.
        None if exit.is_closed() => return Err(failed(EndReason::ResolveFailed)),
        None => {
            let found = shared.resolver.resolve(&target.host).await;
            let found = found.map_err(|_| failed(EndReason::ResolveFailed))?;
            (found.addresses.clone(), name_ttl(found.ttl))
        }
    };
    let mut addresses: Vec<SocketAddr> = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address.to_canonical(), target.port))
        .filter(|address| {
            if address.is_ipv6() {
                v6_welcome || literal.is_some() && exit.ipv6
            } else {
                v4_welcome
            }
        })
        .collect();
    addresses.sort_by_key(|address| address.is_ipv6() != v6_first);
    let mut why = failed(EndReason::ExitPolicy);
    for address in addresses {
        if !exit.allows(&address) {
            why = Ending::Policy(address.ip(), fuzzed(ttl));
            continue;
        }
        if is_relay(shared, &address) {
            why = failed(EndReason::ConnectRefused);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                // Cells are full when there is data; Nagle would only hold back what is not.
                let _ = tcp.set_nodelay(true);
                return Ok((tcp, address.ip(), fuzzed(ttl)));
            }
            Err(error) => {
                debug!(%error, "a target cannot be reached");
                why = failed(end_reason(&error));
            }
        }
    }
    Err(why)
}

/// Whether an address is a relay's: entering the network from its own exits is refused unless the consensus allows it.
fn is_relay(shared: &Arc<Shared>, address: &SocketAddr) -> bool {
    let Some(net) = &shared.net else { return false };
    if net.param("allow-network-reentry").unwrap_or(0) != 0 {
        return false;
    }
    net.snapshot()
        .relays()
        .iter()
        .any(|relay| relay.addresses.contains(address))
}

/// A client wants to talk to our directory.
pub(crate) fn begin_dir(shared: &Arc<Shared>, stream: StreamId, neighbour: Neighbour) {
    let Some(directory) = shared.directory.clone() else {
        return finish(shared, stream, Some(Ending::Because(EndReason::NotDirectory)));
    };
    let Some(task) = task_of(shared, stream) else { return };
    let client = match neighbour {
        Neighbour::Client(address) => Some(address),
        Neighbour::Relay(_) => None,
    };
    let this = Arc::clone(shared);
    shared.spawn(async move {
        this.with(|engine, _| engine.stream_connected(stream, Connected::Directory));
        let (ours, theirs) = tokio::io::duplex(DIRECTORY_PIPE);
        let (read, write) = tokio::io::split(ours);
        tokio::join!(
            directory.serve(theirs, client),
            pump::run(&this, stream, &task, read, write)
        );
    });
}

/// A client wants a name looked up.
pub(crate) fn resolve(shared: &Arc<Shared>, stream: StreamId, peer: Option<Peer>, name: String) {
    let answer = move |shared: &Arc<Shared>, answers: &[Answer]| {
        shared.with(|engine, _| engine.stream_resolved(stream, answers));
    };
    if refused(shared, peer).is_some() || shared.exit().is_closed() {
        return answer(shared, &[Answer::Permanent]);
    }
    // Literal addresses are an error in C Tor too.
    if name.parse::<IpAddr>().is_ok() {
        return answer(shared, &[Answer::Permanent]);
    }
    match dns::reverse(&name) {
        None => {}
        // Nor is it anybody's business what the networks around this relay are called.
        Some(Ok(address)) if !shared.exit().reject_private || obol_onion::engine::is_public(address) => {
            let this = Arc::clone(shared);
            shared.spawn(async move {
                let found = this.resolver.name_of(address).await;
                let found = found.map_or_else(no_answer, |name| Answer::Name(name.to_string()));
                answer(&this, &[found]);
            });
            return;
        }
        Some(_) => return answer(shared, &[Answer::Permanent]),
    }
    let this = Arc::clone(shared);
    shared.spawn(async move {
        let answers = match this.resolver.resolve(&name).await {
            Ok(found) => {
                let exit = this.exit();
                let visible = |address: &&IpAddr| exit.ipv6 || address.is_ipv4();
                // What the tables of this host and its networks say of themselves is nobody's business.
                let public = |address: &&IpAddr| !exit.reject_private || obol_onion::engine::is_public(**address);
                let known: Vec<&IpAddr> = found.addresses.iter().filter(public).collect();
                let answers: Vec<Answer> = known
                    .iter()
                    .copied()
                    .filter(visible)
                    .map(|address| Answer::Address(*address))
                    .collect();
                match (known.is_empty(), answers.is_empty()) {
                    (true, _) => vec![Answer::Permanent],
                    (_, true) => vec![Answer::Transient],
                    _ => answers,
                }
            }
            Err(failed) => vec![no_answer(failed)],
        };
        answer(&this, &answers);
    });
}

fn no_answer(failed: dns::Failed) -> Answer {
    match failed {
        dns::Failed::NoSuchName => Answer::Permanent,
        dns::Failed::NoAnswer => Answer::Transient,
    }
}

/// How a stream ends after an error of its socket.
pub(crate) fn ending(error: &io::Error) -> Ending {
    Ending::Because(end_reason(error))
}
