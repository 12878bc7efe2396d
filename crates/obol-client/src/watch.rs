//! What people see: figures and events, kept up to date by whoever knows.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use obol_cell::{EscrowId, PeerId, Stroops};
use obol_toll::TunnelId;
use tokio::sync::broadcast;
use tracing::info;

use crate::events::{Event, FarSide, Refusal};
use crate::figures::{EscrowFigures, Figures, GuardFigures, HopFigures, ServiceFigures, TunnelFigures};
use crate::runtime::LinkMeters;
use crate::tunnels::{Tunnel, TunnelKind};

/// Events that a listener may lag behind before it misses some.
const BACKLOG: usize = 4096;
/// Closed tunnels that figures still show.
const CLOSED_SHOWN: usize = 1000;

/// The one place that figures and events come from. Clones are the same place.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    events: broadcast::Sender<Event>,
    links: LinkMeters,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, (Arc<Tunnel>, TunnelFigures)>,
    closed: VecDeque<TunnelFigures>,
    escrows: Vec<(EscrowId, EscrowFigures)>,
    /// Fingerprints of guards.
    names: HashMap<PeerId, String>,
    services: Vec<ServiceFigures>,
}

impl Watch {
    pub(crate) fn new(links: LinkMeters) -> Watch {
        let (events, _) = broadcast::channel(BACKLOG);
        let inner = Inner {
            events,
            links,
            state: Mutex::default(),
        };
        Watch { inner: Arc::new(inner) }
    }

    /// Tells whoever listens.
    pub(crate) fn tell(&self, event: Event) {
        // No listener is no error.
        let _ = self.inner.events.send(event);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tunnel carries its first stream. `pays`: whether this client pays at all.
    pub(crate) fn opened(&self, tunnel: &Arc<Tunnel>, pays: bool) {
        let hops: Vec<HopFigures> = tunnel
            .hops()
            .iter()
            .map(|hop| HopFigures {
                fingerprint: hop.fingerprint(),
                identity: hop.peer.map(|peer| peer.0),
                nickname: hop.nickname.clone(),
                paid_hop: hop.paid(),
                unpaid: match hop.payable {
                    Err(why) => Some(why),
                    Ok(()) => (!pays).then_some(Refusal::NotPaying),
                },
                ..HopFigures::default()
            })
            .collect();
        self.tell(Event::TunnelOpened {
            tunnel: tunnel.id().0,
            hops: hops.iter().map(|hop| hop.fingerprint.clone()).collect(),
            paid: hops.iter().map(|hop| hop.paid_hop).collect(),
        });
        let far_side = tunnel.kind().has_far_side().then_some(FarSide::NotKnown);
        let figures = TunnelFigures {
            tunnel: tunnel.id().0,
            open: true,
            hops,
            far_side,
            hosted: tunnel.kind() == TunnelKind::Hosted,
            ..TunnelFigures::default()
        };
        self.state().open.insert(tunnel.id().0, (Arc::clone(tunnel), figures));
        if let Some(known) = far_side {
            self.tell_far_side(tunnel.id(), known);
        }
    }

    fn tell_far_side(&self, tunnel: TunnelId, known: FarSide) {
        info!(tunnel = tunnel.0, "{known}");
        self.tell(Event::FarSide {
            tunnel: tunnel.0,
            known,
        });
    }

    /// It was found out whether paying helps on a tunnel. Where it does not, and there is a far side, that is the slower one.
    pub(crate) fn helps(&self, tunnel: TunnelId, helps: bool) {
        let mut news = None;
        self.tunnel(tunnel, |figures| {
            let known = if helps { FarSide::NotKnown } else { FarSide::Slower };
            if figures.far_side.is_some_and(|before| before != known) {
                figures.far_side = Some(known);
                news = Some(known);
            }
        });
        if let Some(known) = news {
            self.tell_far_side(tunnel, known);
        }
        self.tell(Event::Helps {
            tunnel: tunnel.0,
            helps,
        });
    }

    /// Something is known of a hosted service.
    pub(crate) fn service(&self, figures: ServiceFigures) {
        let services = &mut self.state().services;
        match services.iter_mut().find(|known| known.nickname == figures.nickname) {
            Some(known) => *known = figures,
            None => services.push(figures),
        }
    }

    /// Changes the figures of an open tunnel.
    pub(crate) fn tunnel(&self, tunnel: TunnelId, change: impl FnOnce(&mut TunnelFigures)) {
        if let Some((_, figures)) = self.state().open.get_mut(&tunnel.0) {
            change(figures);
        }
    }

    /// A tunnel closed.
    pub(crate) fn closed(&self, tunnel: TunnelId) {
        let mut state = self.state();
        if let Some((tunnel, mut figures)) = state.open.remove(&tunnel.0) {
            metered(&tunnel, &mut figures);
            figures.open = false;
            state.closed.push_back(figures);
            if state.closed.len() > CLOSED_SHOWN {
                state.closed.pop_front();
            }
        }
        drop(state);
        self.tell(Event::TunnelClosed { tunnel: tunnel.0 });
    }

    /// Changes the figures of one escrow, which are made if there are none.
    pub(crate) fn escrow(&self, escrow: EscrowId, change: impl FnOnce(&mut EscrowFigures)) {
        let mut state = self.state();
        match state.escrows.iter_mut().find(|(id, _)| *id == escrow) {
            Some((_, figures)) => change(figures),
            None => {
                let mut figures = EscrowFigures::default();
                change(&mut figures);
                state.escrows.push((escrow, figures));
            }
        }
    }

    /// Takes over what was signed on each escrow: claim number and sum.
    pub(crate) fn signed(&self, of: impl Fn(EscrowId) -> Option<(u32, Stroops)>) {
        for (escrow, figures) in &mut self.state().escrows {
            if let Some((k, cumulative)) = of(*escrow) {
                figures.claim = k.into();
                figures.signed = cumulative.get();
            }
        }
    }

    /// The guards of escrows that have not ended, of those that are `wanted`.
    pub(crate) fn guards(&self, wanted: impl Fn(&EscrowId) -> bool) -> BTreeSet<PeerId> {
        let state = self.state();
        let live = state
            .escrows
            .iter()
            .filter(|(id, figures)| figures.settled.is_none() && figures.state != "never opened" && wanted(id));
        live.map(|(_, figures)| PeerId(figures.identity)).collect()
    }

    /// Remembers what a guard is called.
    pub(crate) fn name(&self, guard: PeerId, fingerprint: String) {
        self.state().names.insert(guard, fingerprint);
    }

    /// What a guard is called: its fingerprint, or before it was ever used in this run its Ed25519 identity.
    pub(crate) fn guard(&self, guard: PeerId) -> String {
        let name = self.state().names.get(&guard).cloned();
        name.unwrap_or_else(|| hex::encode_upper(guard.0))
    }

    /// All of it.
    pub(crate) fn figures(&self) -> Figures {
        let state = self.state();
        let mut tunnels: Vec<_> = state.closed.iter().cloned().collect();
        for (tunnel, figures) in state.open.values() {
            let mut figures = figures.clone();
            metered(tunnel, &mut figures);
            tunnels.push(figures);
        }
        tunnels.sort_by_key(|figures| figures.tunnel);
        let guard = |(address, sent, received): (std::net::SocketAddr, u64, u64)| GuardFigures {
            address: address.to_string(),
            sent,
            received,
        };
        Figures {
            tunnels,
            escrows: state.escrows.iter().map(|(_, figures)| figures.clone()).collect(),
            guards: self.inner.links.list().into_iter().map(guard).collect(),
            services: state.services.clone(),
        }
    }
}

fn metered(tunnel: &Tunnel, figures: &mut TunnelFigures) {
    let meter = tunnel.meter();
    figures.streams = meter.streams();
    figures.payload_sent = meter.payload_sent();
    figures.payload_received = meter.payload_received();
    figures.own_meter = meter.carried();
}
