//! Onion services that this client hosts, and whose own side it pays.
//!
//! Arti introduces, publishes and meets clients; what a client's stream carries goes to a local port. An accepted stream names the tunnel that
//! Arti built to the rendezvous point, so that its hops can be paid as those of any tunnel, up to the hop before the rendezvous point: that one
//! counts what passes on the client's circuit (payment-protocol.md, "Metering and service"). `tor-hsrproxy` does the same forwarding, but keeps
//! the streams to itself (ADR 0024).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arti_client::TorClient;
use futures::{Stream, StreamExt as _};
use safelog::DisplayRedacted as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tor_cell::relaycell::msg::{Connected, End, EndReason};
use tor_hsservice::config::OnionServiceConfigBuilder;
use tor_hsservice::status::State;
use tor_hsservice::{HsNickname, RendRequest, RunningOnionService, StreamRequest};
use tor_proto::stream::IncomingStreamRequest;
use tracing::debug;

use crate::config::Service;
use crate::error::StartError;
use crate::events::Event;
use crate::figures::ServiceFigures;
use crate::paths::TunnelFinder;
use crate::proxy::both_ways;
use crate::runtime::MeteredRuntime;
use crate::tor::tor_error_text;
use crate::tunnels::Tunnels;
use crate::watch::Watch;

/// Clients' circuits that are served at the same time, for each service; those beyond wait.
const MOST_CIRCUITS: usize = 1024;
/// Streams of all circuits of a service that are open at the same time; those beyond are refused.
const MOST_STREAMS: usize = 4096;
/// How long a local server may take to accept a connection.
const LOCAL_PATIENCE: Duration = Duration::from_secs(10);

/// What a service needs to serve.
struct Host {
    nickname: String,
    ports: BTreeMap<u16, SocketAddr>,
    tunnels: Arc<Tunnels>,
    finder: Arc<TunnelFinder>,
    circuits: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A service that runs. It ends when this is dropped.
pub(crate) struct Hosted {
    _service: Arc<RunningOnionService>,
}

/// Starts a service.
pub(crate) fn launch(
    tor: &TorClient<MeteredRuntime>,
    service: &Service,
    tunnels: &Arc<Tunnels>,
    finder: &Arc<TunnelFinder>,
    watch: &Watch,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Hosted, StartError> {
    let failed = |reason: String| StartError::Service {
        nickname: service.nickname.clone(),
        reason,
    };
    let nickname: HsNickname = service
        .nickname
        .parse()
        .map_err(|error: tor_hsservice::InvalidNickname| failed(error.to_string()))?;
    let mut config = OnionServiceConfigBuilder::default();
    config.nickname(nickname);
    config.num_intro_points(service.introduction_points);
    let config = config.build().map_err(|error| failed(tor_error_text(&error)))?;
    let launched = tor
        .launch_onion_service(config)
        .map_err(|error| failed(tor_error_text(&error)))?;
    // Only a service that is disabled is not launched.
    let (running, requests) = launched.ok_or_else(|| failed("it is disabled".to_owned()))?;
    let address = running.onion_address().map(|id| id.display_unredacted().to_string());
    let address = address.ok_or_else(|| failed("it has no key".to_owned()))?;
    watch.service(ServiceFigures {
        nickname: service.nickname.clone(),
        address: address.clone(),
        state: STARTING,
    });
    let host = Arc::new(Host {
        nickname: service.nickname.clone(),
        ports: service.ports.iter().map(|port| (port.port, port.to)).collect(),
        tunnels: Arc::clone(tunnels),
        finder: Arc::clone(finder),
        circuits: Arc::new(Semaphore::new(MOST_CIRCUITS)),
        streams: Arc::new(Semaphore::new(MOST_STREAMS)),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    let mut states = running.status_events();
    let (watch, nickname) = (watch.clone(), service.nickname.clone());
    let telling = async move {
        let mut before = STARTING;
        while let Some(status) = states.next().await {
            let state = state_in_words(status.state());
            if state != before {
                before = state;
                watch.service(ServiceFigures {
                    nickname: nickname.clone(),
                    address: address.clone(),
                    state,
                });
                watch.tell(Event::Service {
                    nickname: nickname.clone(),
                    address: address.clone(),
                    state,
                });
            }
        }
    };
    tasks.spawn(stop.clone().run_until_cancelled_owned(telling));
    tasks.spawn(stop.clone().run_until_cancelled_owned(host.meet(Box::pin(requests))));
    Ok(Hosted { _service: running })
}

const STARTING: &str = "starting";

/// What Arti believes of a service. It may be reachable before Arti believes it.
fn state_in_words(state: State) -> &'static str {
    match state {
        State::Shutdown => "ended",
        State::Bootstrapping => STARTING,
        State::Running => "running",
        State::DegradedReachable => "running with fewer introduction points than it wants",
        State::DegradedUnreachable => "not in all directories",
        State::Recovering => "recovering",
        State::Broken => "broken",
        _ => "in a state that this version does not know",
    }
}

impl Host {
    /// Meets clients, each in a task of its own.
    async fn meet(self: Arc<Self>, mut requests: impl Stream<Item = RendRequest> + Unpin) {
        while let Some(request) = requests.next().await {
            let Ok(permit) = Arc::clone(&self.circuits).acquire_owned().await else {
                return;
            };
            let host = Arc::clone(&self);
            let meeting = async move {
                match request.accept().await {
                    Ok(mut streams) => {
                        while let Some(stream) = streams.next().await {
                            host.stream(stream);
                        }
                    }
                    Err(error) => debug!(service = host.nickname, %error, "a client could not be met"),
                }
                drop(permit);
            };
            self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(meeting));
        }
    }

    /// Serves a stream in a task of its own.
    fn stream(self: &Arc<Self>, request: StreamRequest) {
        let host = Arc::clone(self);
        let serving = async move {
            if let Err(error) = host.serve(request).await {
                debug!(service = host.nickname, %error, "a client's stream ended early");
            }
        };
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(serving));
    }

    async fn serve(&self, request: StreamRequest) -> Result<(), ServeError> {
        let asked = Instant::now();
        let port = match request.request() {
            IncomingStreamRequest::Begin(begin) => self.ports.get(&begin.port()),
            _ => None,
        };
        let Some(local) = port else {
            // As C Tor does, so that ports cannot be tried out cheaply.
            return request
                .shutdown_circuit()
                .map_err(|error| ServeError::Internal(Box::new(error)));
        };
        let connecting = tokio::time::timeout(LOCAL_PATIENCE, TcpStream::connect(*local));
        let room = self.streams.try_acquire();
        let (Ok(_room), Ok(Ok(server))) = (room, connecting.await) else {
            debug!(service = self.nickname, %local, "the local server does not accept");
            // No other reason: it would tell C Tor's services from others.
            let end = End::new_with_reason(EndReason::DONE);
            return Ok(request.reject(end).await?);
        };
        let stream = request.accept(Connected::new_empty()).await?;
        let tunnel = self.tunnels.serves(&stream, asked);
        if let Some(tunnel) = &tunnel {
            self.finder.tell_of(tunnel);
        }
        server.set_nodelay(true)?;
        let meter = tunnel.as_ref().map(|tunnel| tunnel.meter());
        Ok(both_ways(server, stream, &[], meter).await?)
    }
}

/// A stream could not be served to its end.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Tor(#[from] tor_hsservice::ClientError),
    #[error("{0}")]
    Internal(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
