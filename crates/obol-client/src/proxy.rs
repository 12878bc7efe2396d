//! The proxy that applications use: SOCKS 4, 4a and 5, and HTTP CONNECT, on one port.
//!
//! Streams are isolated by what the application says about itself: SOCKS user name and password (a SOCKS 4 user name; an HTTP
//! `Proxy-Authorization` or `X-Tor-Stream-Isolation` header). None of it is checked, all of it is compared.

mod copy;
mod http;
mod isolation;
mod socks;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arti_client::ErrorKind;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tor_socksproto::{SocksAddr, SocksHostname, SocksStatus};
use tracing::debug;

use crate::error::StartError;
use crate::paths::{Failure, TunnelFinder};

pub(crate) use copy::both_ways;
pub(crate) use isolation::StreamIsolation;

/// Applications' connections at the same time; those beyond wait in the listener's queue.
const MOST_CONNECTIONS: usize = 4096;
/// How long an application may take to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);

/// What an application asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// A stream to a host name or address, in text.
    Connect { host: String, port: u16 },
    /// The address of a host name (Tor's SOCKS extension RESOLVE).
    Resolve { host: String },
    /// The host name of an address (RESOLVE_PTR).
    ResolvePtr { address: IpAddr },
}

/// A request, as far as it was read.
#[derive(Debug)]
struct Heard {
    wanted: Wanted,
    isolation: StreamIsolation,
    /// How the application speaks: in this form it gets its answer.
    dialect: Dialect,
    /// What it sent after the request already: the first bytes for the other side.
    early: Vec<u8>,
}

#[derive(Debug)]
enum Dialect {
    Socks(Box<tor_socksproto::SocksRequest>),
    Http,
}

/// The bound port.
#[derive(Debug)]
pub(crate) struct Proxy {
    listener: TcpListener,
    address: SocketAddr,
}

impl Proxy {
    /// Binds `address`.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Proxy, StartError> {
        let listener = TcpListener::bind(address).await.map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                StartError::PortTaken { address }
            } else {
                StartError::Listen { address, source }
            }
        })?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address, source })?;
        Ok(Proxy { listener, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves applications until `stop`. Every connection is a task of `tasks` that ends with `stop` too.
    pub(crate) async fn serve(self, finder: Arc<TunnelFinder>, stop: CancellationToken, tasks: TaskTracker) {
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = Arc::clone(&room).acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let app = match accepted {
                Ok((app, _)) => app,
                Err(error) => {
                    // Out of descriptors, or an application that left already: neither is a reason to end.
                    debug!(%error, "an application's connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (finder, stop) = (Arc::clone(&finder), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    outcome = serve_one(app, &finder) => {
                        if let Err(error) = outcome {
                            debug!(%error, "an application's connection ended early");
                        }
                    }
                }
                drop(permit);
            });
        }
    }
}

async fn serve_one(mut app: TcpStream, finder: &TunnelFinder) -> io::Result<()> {
    app.set_nodelay(true)?;
    let heard = tokio::time::timeout(REQUEST_PATIENCE, hear(&mut app))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let Some(Heard {
        wanted,
        isolation,
        dialect,
        early,
    }) = heard
    else {
        return Ok(());
    };
    let asked = Instant::now();
    let nothing = Failure::Tor(ErrorKind::RemoteHostNotFound);
    match wanted {
        Wanted::Connect { host, port } => match finder.connect(&isolation, &host, port, asked).await {
            Ok((stream, tunnel)) => {
                dialect.succeeded(&mut app).await?;
                both_ways(app, stream, &early, tunnel.as_ref().map(|tunnel| tunnel.meter())).await
            }
            Err(failure) => dialect.failed(&mut app, failure).await,
        },
        Wanted::Resolve { host } => match finder.resolve(&isolation, &host).await {
            Ok(Some(address)) => dialect.resolved(&mut app, address).await,
            Ok(None) => dialect.failed(&mut app, nothing).await,
            Err(failure) => dialect.failed(&mut app, failure).await,
        },
        Wanted::ResolvePtr { address } => match finder.resolve_ptr(&isolation, address).await {
            Ok(Some(name)) => dialect.named(&mut app, name).await,
            Ok(None) => dialect.failed(&mut app, nothing).await,
            Err(failure) => dialect.failed(&mut app, failure).await,
        },
    }
}

/// Reads the request, in whatever dialect. `None`: the application got its refusal, or left.
async fn hear(app: &mut TcpStream) -> io::Result<Option<Heard>> {
    let mut first = [0];
    if app.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    match first[0] {
        4 | 5 => socks::hear(app).await,
        b'A'..=b'Z' => http::hear(app).await,
        _ => Ok(None),
    }
}

impl Dialect {
    async fn succeeded(&self, app: &mut TcpStream) -> io::Result<()> {
        match self {
            Dialect::Socks(request) => socks::reply(app, request, SocksStatus::SUCCEEDED, None).await,
            Dialect::Http => http::succeeded(app).await,
        }
    }

    async fn failed(&self, app: &mut TcpStream, failure: Failure) -> io::Result<()> {
        match self {
            Dialect::Socks(request) => socks::reply(app, request, socks::status(failure), None).await,
            Dialect::Http => http::failed(app, failure).await,
        }
    }

    async fn resolved(&self, app: &mut TcpStream, address: IpAddr) -> io::Result<()> {
        match self {
            Dialect::Socks(request) => {
                socks::reply(app, request, SocksStatus::SUCCEEDED, Some(SocksAddr::Ip(address))).await
            }
            Dialect::Http => Ok(()),
        }
    }

    async fn named(&self, app: &mut TcpStream, name: String) -> io::Result<()> {
        match (self, SocksHostname::try_from(name)) {
            (Dialect::Socks(request), Ok(name)) => {
                socks::reply(app, request, SocksStatus::SUCCEEDED, Some(SocksAddr::Hostname(name))).await
            }
            (_, Err(_)) => self.failed(app, Failure::Tor(ErrorKind::RemoteProtocolViolation)).await,
            (Dialect::Http, Ok(_)) => Ok(()),
        }
    }
}
