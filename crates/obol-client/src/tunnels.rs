//! The tunnels that carry applications' streams, found from those streams.
//!
//! A tunnel is keyed by Arti's `UniqId`, which a process never uses twice. It is held weakly: a strong reference would keep the circuit open,
//! and paid for, after nobody uses it any more (arti-conversation.md, section 7).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arti_client::{DataStream, TorClient};
use obol_cell::PeerId;
use obol_toll::TunnelId;
use tokio::sync::mpsc;
use tor_chanmgr::ChannelUsage;
use tor_circmgr::build::exit_circparams_from_netparams;
use tor_linkspec::{CircTarget as _, HasAddrs as _, HasRelayIds as _};
use tor_llcrypto::pk::ed25519::Ed25519Identity;
use tor_netdir::{NetDir, Timeliness};
use tor_proto::ClientTunnel;
use tor_proto::circuit::UniqId;
use tor_proto::client::circuit::{PathEntry, TimeoutEstimator};
use tor_proto::client::stream::ClientStreamCtrl as _;
use tracing::debug;

use crate::choice::Candidate;
use crate::events::Refusal;
use crate::meter::TunnelMeter;
use crate::runtime::MeteredRuntime;

/// A hop, as it was when the tunnel was first used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TunnelHop {
    /// Its Ed25519 identity. `None` for a virtual hop (an onion service).
    pub(crate) peer: Option<PeerId>,
    /// Its RSA identity.
    pub(crate) rsa: Option<[u8; 20]>,
    /// What the consensus calls it.
    pub(crate) nickname: Option<String>,
    /// Whether it can be paid: it advertises `Obol=1`, and the tunnel is one of whose hops there is no doubt. Else why not.
    pub(crate) payable: Result<(), Refusal>,
    /// Where it is reached.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl TunnelHop {
    /// Whether it is asked for its price, and may get payment messages at all.
    pub(crate) fn paid(&self) -> bool {
        self.payable.is_ok()
    }

    /// Whether it is the virtual hop of an onion service's connection: no relay, and never spoken to.
    pub(crate) fn is_virtual(&self) -> bool {
        self.rsa.is_none() && self.peer.is_none()
    }

    /// The RSA identity in hexadecimal; empty for a virtual hop.
    pub(crate) fn fingerprint(&self) -> String {
        self.rsa.map(hex::encode_upper).unwrap_or_default()
    }
}

/// What a tunnel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelKind {
    /// It ends at an exit.
    Exit,
    /// It ends at a rendezvous point, and an onion service is behind that.
    Onion,
    /// It ends at a rendezvous point, and a client of an onion service that is hosted here is behind that.
    Hosted,
}

impl TunnelKind {
    /// Whether another side has built a half of the way.
    pub(crate) fn has_far_side(self) -> bool {
        self != TunnelKind::Exit
    }
}

/// One tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    id: TunnelId,
    unique: UniqId,
    circuit: Weak<ClientTunnel>,
    kind: TunnelKind,
    hops: Vec<TunnelHop>,
    meter: TunnelMeter,
    /// When the first stream's application asked for it.
    asked: Instant,
    streams_open: AtomicUsize,
    /// It closed while a stream was using it.
    broke: AtomicBool,
}

impl Tunnel {
    pub(crate) fn id(&self) -> TunnelId {
        self.id
    }

    /// The circuit, while it exists. To be held for one request at most.
    pub(crate) fn circuit(&self) -> Option<Arc<ClientTunnel>> {
        self.circuit.upgrade()
    }

    pub(crate) fn hops(&self) -> &[TunnelHop] {
        &self.hops
    }

    pub(crate) fn kind(&self) -> TunnelKind {
        self.kind
    }

    pub(crate) fn meter(&self) -> &TunnelMeter {
        &self.meter
    }

    pub(crate) fn asked(&self) -> Instant {
        self.asked
    }

    /// Whether it ended under a stream.
    pub(crate) fn broke(&self) -> bool {
        self.broke.load(Ordering::Relaxed) || self.streams_open.load(Ordering::Relaxed) > 0
    }
}

/// A stream on a tunnel: while this lives, the tunnel is in use.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    tunnel: Arc<Tunnel>,
}

impl StreamGuard {
    pub(crate) fn meter(&self) -> &TunnelMeter {
        &self.tunnel.meter
    }

    pub(crate) fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        // A stream that outlives its circuit was cut off by it.
        if self.tunnel.circuit().is_none_or(|circuit| circuit.is_closed()) {
            self.tunnel.broke.store(true, Ordering::Relaxed);
        }
        self.tunnel.streams_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A tunnel to one relay, held open.
pub(crate) struct Reached {
    _stream_guard: StreamGuard,
    _stream: DataStream,
    _tunnel: Arc<ClientTunnel>,
}

/// Why a relay is not reached.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("{0}")]
    Tor(#[from] arti_client::Error),
    #[error("{0}")]
    Directory(#[from] tor_netdir::Error),
    #[error("{0}")]
    Parameters(#[from] tor_circmgr::Error),
    #[error("{0}")]
    Channel(#[from] tor_chanmgr::Error),
    #[error("{0}")]
    Circuit(#[from] tor_proto::Error),
}

/// Whoever reaches a relay has its own patience, [`REACHED_IN`].
struct Patient;

impl TimeoutEstimator for Patient {
    fn circuit_build_timeout(&self, _length: usize) -> Duration {
        REACHED_IN
    }
}

/// How long a circuit to one relay may take.
const REACHED_IN: Duration = Duration::from_secs(10);

/// All tunnels in use.
pub(crate) struct Tunnels {
    tor: Arc<TorClient<MeteredRuntime>>,
    by_unique: Mutex<HashMap<UniqId, Arc<Tunnel>>>,
    next: AtomicU64,
    /// Where every new tunnel is announced, once.
    opened: mpsc::UnboundedSender<Arc<Tunnel>>,
}

impl Tunnels {
    /// None yet. Every tunnel that appears is sent to `opened`.
    pub(crate) fn new(tor: Arc<TorClient<MeteredRuntime>>, opened: mpsc::UnboundedSender<Arc<Tunnel>>) -> Tunnels {
        Tunnels {
            tor,
            by_unique: Mutex::default(),
            next: AtomicU64::new(1),
            opened,
        }
    }

    /// Notes a new stream. `None` where its circuit is gone already.
    pub(crate) fn carries(&self, stream: &DataStream, asked: Instant) -> Option<StreamGuard> {
        self.note(stream, asked, false)
    }

    /// Notes a stream that a client of a hosted service has opened. `None` where its circuit is gone already.
    pub(crate) fn serves(&self, stream: &DataStream, asked: Instant) -> Option<StreamGuard> {
        self.note(stream, asked, true)
    }

    fn note(&self, stream: &DataStream, asked: Instant, hosted: bool) -> Option<StreamGuard> {
        let circuit = stream.client_stream_ctrl()?.tunnel()?;
        let unique = circuit.unique_id();
        let mut tunnels = self.by_unique.lock().unwrap_or_else(PoisonError::into_inner);
        let tunnel = match tunnels.get(&unique) {
            Some(tunnel) => Arc::clone(tunnel),
            None => {
                let mut hops = self.hops(&circuit);
                let kind = match hops.last() {
                    _ if hosted => TunnelKind::Hosted,
                    Some(last) if last.is_virtual() => TunnelKind::Onion,
                    _ => TunnelKind::Exit,
                };
                if kind == TunnelKind::Hosted
                    && let Some(rendezvous) = hops.iter_mut().rev().find(|hop| !hop.is_virtual())
                {
                    // It counts what passes on the client's circuit, so a step bought there would never be used.
                    rendezvous.payable = rendezvous.payable.and(Err(Refusal::RendezvousPoint));
                }
                let tunnel = Arc::new(Tunnel {
                    id: TunnelId(self.next.fetch_add(1, Ordering::Relaxed)),
                    unique,
                    circuit: Arc::downgrade(&circuit),
                    kind,
                    hops,
                    meter: TunnelMeter::default(),
                    asked,
                    streams_open: AtomicUsize::new(0),
                    broke: AtomicBool::new(false),
                });
                tunnels.insert(unique, Arc::clone(&tunnel));
                // Nobody listens any more when the client is ending.
                let _ = self.opened.send(Arc::clone(&tunnel));
                tunnel
            }
        };
        drop(tunnels);
        tunnel.meter.stream_opened();
        tunnel.streams_open.fetch_add(1, Ordering::Relaxed);
        Some(StreamGuard { tunnel })
    }

    /// Opens a tunnel to each of these guards through which none is open. What is returned keeps them open.
    pub(crate) async fn reach_all(&self, guards: impl IntoIterator<Item = PeerId>) -> Vec<Reached> {
        let mut all = Vec::new();
        for guard in guards {
            if self.is_open_through(guard) {
                continue;
            }
            match tokio::time::timeout(REACHED_IN, self.reach(guard)).await {
                Ok(Ok(reached)) => all.extend(reached),
                Ok(Err(error)) => debug!(%error, "a guard that has an escrow is not reached"),
                Err(_) => debug!("a guard that has an escrow is not reached in time"),
            }
        }
        all
    }

    fn is_open_through(&self, guard: PeerId) -> bool {
        let tunnels = self.by_unique.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.values().any(|tunnel| {
            let first = tunnel.hops.first().and_then(|hop| hop.peer);
            first == Some(guard) && tunnel.circuit().is_some_and(|circuit| !circuit.is_closed())
        })
    }

    /// Opens a tunnel to this relay alone, as for its directory: enough to speak with it. `None`: the directory does not have it.
    async fn reach(&self, guard: PeerId) -> Result<Option<Reached>, ReachError> {
        let directory = self.tor.dirmgr()?.netdir(Timeliness::Unchecked)?;
        let Some(relay) = directory.by_id(&Ed25519Identity::from(guard.0)) else {
            return Ok(None);
        };
        let parameters = exit_circparams_from_netparams(directory.params())?;
        let (channel, _) = self
            .tor
            .chanmgr()?
            .get_or_launch(&relay, ChannelUsage::UserTraffic)
            .await?;
        let (pending, reactor) = channel.new_tunnel(Arc::new(Patient)).await?;
        tokio::spawn(reactor.run());
        let tunnel = Arc::new(pending.create_firsthop(&relay, parameters).await?);
        let stream = Arc::clone(&tunnel).begin_dir_stream().await?;
        let stream_guard = self.carries(&stream, Instant::now());
        Ok(stream_guard.map(|stream_guard| Reached {
            _stream_guard: stream_guard,
            _stream: stream,
            _tunnel: tunnel,
        }))
    }

    /// Lets no new stream use a tunnel. Streams on it go on.
    pub(crate) fn retire(&self, tunnel: &Tunnel) {
        if let Ok(manager) = self.tor.circmgr() {
            manager.retire_circ(&tunnel.unique);
        }
    }

    /// Forgets a tunnel that closed.
    pub(crate) fn closed(&self, tunnel: &Tunnel) {
        let mut tunnels = self.by_unique.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.remove(&tunnel.unique);
    }

    /// The hops and what they advertise. Remembered from now on: a relay that leaves the consensus is not found there any more.
    pub(crate) fn hops(&self, circuit: &ClientTunnel) -> Vec<TunnelHop> {
        let directory = self
            .tor
            .dirmgr()
            .ok()
            .and_then(|dirmgr| dirmgr.netdir(Timeliness::Unchecked).ok());
        // A tunnel of several circuits (conflux) is not paid: a hop number would be ambiguous.
        let paths = circuit.all_paths();
        let Some(path) = paths.first() else { return Vec::new() };
        let alone = paths.len() == 1;
        let payable = |target: &_| {
            let listed = directory
                .as_deref()
                .is_some_and(|directory| advertises(directory, target));
            match (alone, listed) {
                (false, _) => Err(Refusal::SeveralCircuits),
                (true, false) => Err(Refusal::NotPaidHop),
                (true, true) => Ok(()),
            }
        };
        let nickname = |target: &_| {
            let relay = directory.as_deref()?.by_ids(target)?;
            Some(relay.rs().nickname().to_owned())
        };
        let hop = |entry: &PathEntry| match entry.as_chan_target() {
            Some(target) => TunnelHop {
                peer: target.ed_identity().map(|id| PeerId((*id).into())),
                rsa: target.rsa_identity().map(|id| id.to_bytes()),
                nickname: nickname(target),
                payable: payable(target),
                addresses: target.addrs().collect(),
            },
            None => TunnelHop {
                peer: None,
                rsa: None,
                nickname: None,
                payable: Err(Refusal::NotPaidHop),
                addresses: Vec::new(),
            },
        };
        path.iter().map(hop).collect()
    }
}

/// The relays of a tunnel, as a choice between tunnels sees them: without a virtual hop.
pub(crate) fn candidates(hops: &[TunnelHop]) -> Vec<Candidate> {
    let relays = hops.iter().filter(|hop| !hop.is_virtual());
    relays
        .map(|hop| Candidate {
            peer: hop.peer,
            payable: hop.payable,
        })
        .collect()
}

/// Whether the directory lists this relay with `Obol=1`.
fn advertises(directory: &NetDir, target: &impl tor_linkspec::HasRelayIds) -> bool {
    directory
        .by_ids(target)
        .is_some_and(|relay| relay.protovers().supports_subver("Obol", 1))
}
