//! Starting a client and holding on to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arti_client::{DataStream, StreamPrefs, TorClient};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use obol_cell::{Asset, PricePer64KiB, Stroops};
use obol_gateway::{Backend, Gateway, History, Records, Subject as _};
use obol_stellar::escrow::PayerSecret;
use obol_stellar::key::{KeyFileError, account_text};
use obol_stellar::keys::EscrowPayer;
use obol_stellar::rail::horizon::Timeouts;
use obol_stellar::rail::many::Many;
use obol_stellar::settle::{Policy, Settler};
use obol_stellar::{Connect, Keypair, Network, Outbox, Rail, RailConfig};
use obol_store::{AuditError, Journal};
use obol_toll::fact::PayerFact;
use obol_toll::payer::{Budgets, Input, Payer, PayerConfig};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::cashier::{Cashier, Note, Till, now};
use crate::choice::{Ceilings, Known};
use crate::config::{Amount, ClientConfig, ConfigError, Invalid, Pay, Payments};
use crate::error::{SettleError, StartError};
use crate::events::Event;
use crate::figures::Figures;
use crate::paths::{TunnelFinder, Wish};
use crate::place::{Place, Whereabouts};
use crate::proxy::Proxy;
use crate::runtime::{LinkMeters, MeteredRuntime};
use crate::services::{self, Hosted};
use crate::shown::{self, Shown};
use crate::tor::{self, StreamTimeouts, tor_error_text};
use crate::tunnels::{StreamGuard, Tunnels};
use crate::wallet::{ThroughTor, Wallet, WalletParts};
use crate::watch::Watch;

/// How long the end of a client may take.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// The client: see [`Client::start`].
#[derive(Debug)]
pub struct Client;

impl Client {
    /// Starts a client: binds the proxy, opens the wallet and the journal, loads the Tor directory and waits until circuits can be built.
    ///
    /// To be called within a tokio runtime (multi-threaded). Applications are served from the moment this returns.
    pub fn start(config: ClientConfig) -> BoxFuture<'static, Result<ClientHandle, StartError>> {
        // Boxed, as the long ones below: what it runs is compiled with this crate, and not again with everything that calls it.
        Client::bring_up(config).boxed()
    }

    async fn bring_up(mut config: ClientConfig) -> Result<ClientHandle, StartError> {
        config.check()?;
        let limits = shown::kept(&config).map_err(|source| StartError::State {
            path: config.path(Path::new(shown::LIMITS)),
            source,
        })?;
        if let (Some(limits), Some(payments)) = (limits, &mut config.payments) {
            tracing::info!(
                "what was set by the local interface goes before the configuration ({})",
                shown::LIMITS
            );
            limits.put_into(payments);
            config.check()?;
        }
        // What can fail for the user's fault comes first, before the network is touched.
        let proxy = Proxy::bind(config.socks.listen).await?;
        private_directory(&config.state_directory)?;
        let books = match &config.payments {
            Some(payments) => Some(Books::open(&config, payments).await?),
            None => None,
        };
        let links = LinkMeters::default();
        let watch = Watch::new(links.clone());
        let tor = tor::client(&config.tor, &config.state_directory, links.clone()).await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tor.bootstrap().await.map_err(|error| StartError::Bootstrap {
            reason: tor_error_text(&error),
        })?;
        watch.tell(Event::Bootstrapped);

        let (tell, notes) = mpsc::unbounded_channel();
        let (opened, new_tunnels) = mpsc::unbounded_channel();
        let tunnels = Arc::new(Tunnels::new(Arc::clone(&tor), opened));
        let known = Arc::new(Mutex::new(Known::default()));
        let wish = config.payments.as_ref().map_or_else(Wish::none, wish);
        let finder = Arc::new(TunnelFinder::new(
            Arc::clone(&tor),
            Arc::clone(&tunnels),
            wish,
            Arc::clone(&known),
            StreamTimeouts::of(&config.tor)?,
            watch.clone(),
        ));
        let account = books.as_ref().map(|books| account_text(&books.account.account()));
        let ledger = config
            .payments
            .as_ref()
            .and_then(|payments| payments.ledger.urls.first().cloned());
        let till = match (books, &config.payments) {
            (Some(books), Some(payments)) => Some(books.till(payments, &tor, &watch, &tell, &stop, &tasks).await?),
            _ => None,
        };
        let wallet = till.as_ref().map(|till| till.wallet.clone());
        let cashier = Cashier::new(till, Arc::clone(&tunnels), links, known, watch.clone(), tell.clone());
        let (ready, spent) = (cashier.ready(), cashier.spent());
        tasks.spawn(cashier.run(new_tunnels, notes, stop.clone()));
        let launch = |service| services::launch(&tor, service, &tunnels, &finder, &watch, &tasks, &stop);
        let services = config.services.iter().map(launch).collect::<Result<Vec<_>, _>>()?;
        let gateway = match config.gateway.listen {
            None => None,
            Some(listen) => {
                let keep_days = config.gateway.history_days;
                let records = match keep_days == 0 && wallet.is_none() {
                    true => Records::in_memory()?,
                    false => Records::open(&config.path(Path::new(shown::RECORDS)))?,
                };
                let shown = Shown::new(shown::Parts {
                    config: config.clone(),
                    account: account.clone(),
                    wallet: wallet.as_ref().map(Wallet::purse),
                    own: wallet.clone(),
                    watch: watch.clone(),
                    finder: Arc::clone(&finder),
                    tunnels: Arc::clone(&tunnels),
                    notes: tell.clone(),
                    spent,
                    history: Arc::new(History::new(Arc::new(records), keep_days)),
                    stop: stop.clone(),
                });
                tasks.spawn(Arc::clone(&shown).follow());
                let options = obol_gateway::Options {
                    listen,
                    allow_remote: config.gateway.allow_remote,
                    token: config.path(&config.gateway.token),
                };
                let (state, metrics) = (Arc::clone(&shown), Arc::clone(&shown));
                let backend = Backend {
                    metrics: Arc::new(move || metrics.metrics()),
                    state: Arc::new(move || serde_json::to_value(state.status()).unwrap_or_default()),
                    control: None,
                    subject: Some(shown),
                };
                Some(Gateway::start(options, backend).await?)
            }
        };
        let socks = proxy.address();
        tasks.spawn(proxy.serve(Arc::clone(&finder), stop.clone(), tasks.clone()));
        Ok(ClientHandle {
            inner: Arc::new(Inner {
                socks,
                account,
                ledger,
                wallet,
                ready,
                notes: tell,
                tor,
                tunnels,
                finder,
                _services: services,
                gateway,
                watch,
                tasks,
                _stop_at_drop: stop.clone().drop_guard(),
                stop,
            }),
        })
    }

    /// The wallet's account of a configuration, `G...`, made if it is not there yet: to be funded before the client starts. `None` without payments.
    pub fn wallet_account(config: &ClientConfig) -> Result<Option<String>, StartError> {
        let Some(payments) = &config.payments else {
            return Ok(None);
        };
        config.check()?;
        private_directory(&config.state_directory)?;
        let account = wallet_key(config, payments)?;
        Ok(Some(account_text(&account.account())))
    }
}

fn wallet_key(config: &ClientConfig, payments: &Payments) -> Result<Keypair, StartError> {
    Keypair::load_or_create(&config.path(&payments.wallet))
        .map_err(|source: KeyFileError| StartError::KeyFile { source })
}

/// What a paying client has on its disk.
pub(crate) struct Books {
    pub(crate) account: Keypair,
    pub(crate) secret: PayerSecret,
    pub(crate) journal: Journal<PayerFact>,
    pub(crate) facts: Vec<PayerFact>,
}

impl Books {
    pub(crate) async fn open(config: &ClientConfig, payments: &Payments) -> Result<Books, StartError> {
        let account = wallet_key(config, payments)?;
        // Escrow keys come from the wallet's own secret: one file to keep.
        let secret = PayerSecret::from_bytes(*account.seed());
        let path = config.path(&payments.journal);
        let options = obol_store::Options {
            keep_days: payments.keep_days,
            ..obol_store::Options::default()
        };
        let opened = tokio::task::spawn_blocking(move || Journal::open_with(&path, options)).await;
        let (journal, facts) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(source)) => return Err(StartError::Journal { source }),
            // The task panicked or the runtime is ending.
            Err(_) => return Err(StartError::Ending),
        };
        Ok(Books {
            account,
            secret,
            journal,
            facts,
        })
    }

    /// Opens the till.
    async fn till(
        self,
        payments: &Payments,
        tor: &TorClient<MeteredRuntime>,
        watch: &Watch,
        notes: &mpsc::UnboundedSender<Note>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Till, StartError> {
        let network = Network::new(payments.ledger.network_passphrase.clone());
        let asset = payments.ledger.asset.asset();
        let keys = EscrowPayer::new(self.secret, network.id());
        let settler = settler(payments, tor, &self.journal)?;
        let parts = WalletParts {
            settler,
            keys: keys.clone(),
            account: self.account,
            asset,
            allow_revocable_asset: payments.ledger.allow_revocable_asset,
            poll: payments.ledger.poll.0,
            journal: self.journal.clone(),
            notes: notes.clone(),
            watch: watch.clone(),
            whereabouts: payments.escrow_per_place.then(|| Arc::new(Place::here) as Whereabouts),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        let wallet = Wallet::open_with(parts, &self.facts)
            .await
            .map_err(|source| StartError::Books { source })?;
        let config = payer_config(payments, &network, asset);
        let mut payer = Payer::restore(config, keys, rand::random(), self.facts);
        // Before the first word to a guard.
        if let Some(escrows) = wallet.away() {
            payer.handle(now(), Input::Away { escrows });
        }
        Ok(Till {
            payer,
            journal: self.journal,
            wallet,
        })
    }
}

/// How a client reaches the ledger: through Tor, and recording in its journal.
pub(crate) fn settler(
    payments: &Payments,
    tor: &TorClient<MeteredRuntime>,
    journal: &Journal<PayerFact>,
) -> Result<Settler, StartError> {
    let network = Network::new(payments.ledger.network_passphrase.clone());
    let connector: Arc<dyn Connect> = Arc::new(ThroughTor::new(tor));
    let rail_config = RailConfig {
        kind: payments.ledger.kind,
        network_passphrase: payments.ledger.network_passphrase.clone(),
        urls: payments.ledger.urls.clone(),
        friendbot: None,
        assets: vec![payments.ledger.asset.clone()],
        requests_per_minute: payments.ledger.requests_per_minute,
    };
    let bad_url = |_| {
        Invalid::new(
            "payments.ledger.urls",
            "has an address that is none",
            "write https://HOST[:PORT][/PATH]",
        )
    };
    let rails = rail_config
        .servers(&connector, Timeouts::default())
        .map_err(bad_url)
        .map_err(ConfigError::from)?;
    let rail: Arc<dyn Rail> = Arc::new(Many::new(rails));
    let policy = Policy {
        highest_fee: payments.ledger.highest_fee,
        poll: payments.ledger.poll.0,
        two_witnesses_above: payments.ledger.two_witnesses_above.map(stroops),
        ..Policy::default()
    };
    let outbox: Arc<dyn Outbox> = Arc::new(journal.clone());
    Ok(Settler::new(rail, outbox, network, policy))
}

/// An amount of the configuration, which has no sign.
pub(crate) fn stroops(amount: Amount) -> Stroops {
    Stroops::new(amount.stroops()).unwrap_or(Stroops::MAX)
}

fn payer_config(payments: &Payments, network: &Network, asset: Asset) -> PayerConfig {
    let ceiling = i64::try_from(payments.tunnel_ceiling());
    let millis = payments.random_delay.0.as_millis().try_into().unwrap_or(u64::MAX);
    PayerConfig {
        pay: payments.pay.into(),
        network: network.id(),
        asset,
        hop_ceiling: rung_within(payments.max_price_per_64_kib),
        chain_ceiling: ceiling.ok().and_then(|n| Stroops::new(n).ok()).unwrap_or(Stroops::MAX),
        budgets: Budgets {
            tunnel: payments.budget_per_tunnel.map(stroops),
            day: payments.budget_per_day.map(stroops),
            month: payments.budget_per_month.map(stroops),
            total: payments.budget.map(stroops),
        },
        deposit: stroops(payments.deposit),
        max_locked: payments.max_locked.map(stroops),
        life: payments.life.as_secs().try_into().unwrap_or(u32::MAX),
        opening_jitter_ms: millis,
        rollover_jitter_ms: millis,
    }
}

/// What tunnels a paying client wants.
fn wish(payments: &Payments) -> Wish {
    let stroops = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    Wish {
        paths: payments.paths,
        ceilings: Ceilings {
            hop: stroops(payments.max_price_per_64_kib),
            tunnel: stroops(payments.tunnel_ceiling()),
        },
        pays: payments.pay != Pay::Never,
    }
}

/// The highest rung of the price ladder that is not above `stroops`, which is at least 1.
pub(crate) fn rung_within(stroops: u64) -> PricePer64KiB {
    let rungs = (0..=u8::MAX).map_while(|rung| PricePer64KiB::from_rung(rung).ok());
    let within = rungs.take_while(|price| price.stroops().get_u64() <= stroops);
    within
        .last()
        .unwrap_or_else(|| PricePer64KiB::from_rung(0).expect("the ladder has a lowest rung"))
}

/// Makes a directory that only its owner can read.
pub(crate) fn private_directory(path: &Path) -> Result<(), StartError> {
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
#[derive(Clone)]
pub struct ClientHandle {
    inner: Arc<Inner>,
}

struct Inner {
    socks: SocketAddr,
    account: Option<String>,
    /// The first ledger server, `http://host:port`.
    ledger: Option<String>,
    wallet: Option<Wallet>,
    ready: watch::Receiver<bool>,
    notes: mpsc::UnboundedSender<Note>,
    tor: Arc<TorClient<MeteredRuntime>>,
    tunnels: Arc<Tunnels>,
    finder: Arc<TunnelFinder>,
    _services: Vec<Hosted>,
    gateway: Option<Gateway>,
    watch: Watch,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_at_drop: DropGuard,
}

impl std::fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHandle")
            .field("socks", &self.inner.socks)
            .finish_non_exhaustive()
    }
}

impl ClientHandle {
    /// Where applications find the proxy.
    pub fn socks_addr(&self) -> SocketAddr {
        self.inner.socks
    }

    /// Where the local interface is, if there is one.
    pub fn gateway_addr(&self) -> Option<SocketAddr> {
        self.inner.gateway.as_ref().map(Gateway::address)
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

    /// Changes when to pay, from now on and for this run. Without payments in the configuration nothing changes.
    ///
    /// With [`Pay::Never`] no tunnel is preferred for being paid either; with `paths = "only"` new streams are refused until something is paid again,
    /// and those that are open go on.
    pub fn set_pay(&self, pay: Pay) {
        self.inner.finder.set_pays(pay != Pay::Never);
        // A client that is ending pays nothing anyway.
        let _ = self.inner.notes.send(Note::SetPay(pay));
    }

    /// Waits until an escrow to a guard is open and that guard knows it, so that the next tunnel through it is paid from its first bytes on. Where no
    /// tunnel is open yet, one is opened: the guard's terms come with it.
    ///
    /// Never needed: a tunnel is served in the unpaid class until then.
    ///
    /// # Errors
    /// [`SettleError::NotReady`] when `patience` was not enough; it goes on in the background, and [`Event`]s tell what is in the way.
    pub fn ready_to_pay(&self, patience: Duration) -> BoxFuture<'_, Result<(), SettleError>> {
        self.until_ready(patience).boxed()
    }

    async fn until_ready(&self, patience: Duration) -> Result<(), SettleError> {
        self.inner.wallet.as_ref().ok_or(SettleError::NoWallet)?;
        let mut ready = self.inner.ready.clone();
        let became_ready = async {
            if *ready.borrow_and_update() {
                return Ok(());
            }
            loop {
                // Held until then, so that the tunnel stays.
                let _reaching = self.reach_guards().await;
                match tokio::time::timeout(REACH_AGAIN, ready.wait_for(|ready| *ready)).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(_)) => return Err(SettleError::ShuttingDown),
                    Err(_) => {}
                }
            }
        };
        let outcome = tokio::time::timeout(patience, became_ready).await;
        outcome.unwrap_or(Err(SettleError::NotReady))
    }

    /// Asks every guard to settle, waits until the ledger shows the claims, and brings everything else back to the wallet's account: the
    /// escrows' rest and the funding accounts.
    ///
    /// A guard is asked over a tunnel through it; where there is none, as the client has another guard by now, one to it alone is opened. An escrow that was never paid by has no claim to settle with: it
    /// comes back when it expires.
    ///
    /// # Errors
    /// [`SettleError::Unsettled`] when `patience` was not enough; it goes on in the background.
    pub fn close_escrows(&self, patience: Duration) -> BoxFuture<'_, Result<(), SettleError>> {
        self.until_settled(patience).boxed()
    }

    async fn until_settled(&self, patience: Duration) -> Result<(), SettleError> {
        let inner = &self.inner;
        let wallet = inner.wallet.as_ref().ok_or(SettleError::NoWallet)?;
        wallet.hurry();
        inner
            .notes
            .send(Note::CloseEscrows)
            .map_err(|_| SettleError::ShuttingDown)?;
        let mut unsettled = wallet.unsettled();
        let settled = async {
            // Held until then, so that the tunnels stay.
            let mut reached = Vec::new();
            loop {
                reached.extend(inner.tunnels.reach_all(wallet.guards()).await);
                // One that the directory does not have may be this client's guard all the same, as a bridge is.
                let _reaching = self.reach_guards().await;
                let waiting = unsettled.wait_for(|open| *open == 0);
                if tokio::time::timeout(REACH_AGAIN, waiting).await.is_ok() {
                    return;
                }
            }
        };
        let outcome = tokio::time::timeout(patience, settled).await;
        let open = *wallet.unsettled().borrow();
        if outcome.is_err() && open > 0 {
            return Err(SettleError::Unsettled { open });
        }
        wallet.bring_home().await.map_err(|error| SettleError::NotHome {
            reason: tor_error_text(&error),
        })
    }

    /// Where no tunnel is open, opens one, so that guards can be asked. It goes to the ledger's server, where nothing is said.
    async fn reach_guards(&self) -> Option<(StreamGuard, DataStream)> {
        let inner = &self.inner;
        if inner.watch.figures().tunnels.iter().any(|tunnel| tunnel.open) {
            return None;
        }
        let (host, port) = host_and_port(inner.ledger.as_deref()?)?;
        let mut prefs = StreamPrefs::new();
        prefs.new_isolation_group();
        match inner.tor.connect_with_prefs((host, port), &prefs).await {
            Ok(stream) => {
                let guard = inner.tunnels.carries(&stream, std::time::Instant::now())?;
                Some((guard, stream))
            }
            Err(error) => {
                debug!(%error, "no tunnel to a guard could be opened");
                None
            }
        }
    }

    /// Proves the books: the journal's pages, its entries against its facts, every balance against its side ([`obol_store::Journal::audit`]).
    /// `None` without payments.
    pub fn audit(&self) -> BoxFuture<'_, Option<Result<(), AuditError>>> {
        async {
            match &self.inner.wallet {
                Some(wallet) => Some(wallet.audit().await),
                None => None,
            }
        }
        .boxed()
    }

    /// Ends the proxy, every stream and all tasks. Escrows stay open on the ledger.
    pub async fn shutdown(self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        // What hangs is cut off with the runtime; everything durable is durable already.
        let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, self.inner.tasks.wait()).await;
    }
}

/// When no answer came from a guard for so long, a tunnel to it is looked for again.
const REACH_AGAIN: Duration = Duration::from_secs(10);

/// Host and port of `http[s]://host[:port][/...]`.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let default = if scheme == "https" { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hop_ceiling_is_the_rung_at_or_below_what_was_configured() {
        for (configured, rung) in [(1, 1), (3, 2), (5, 5), (999, 500), (1000, 1000), (4999, 2000)] {
            assert_eq!(rung_within(configured).stroops().get_u64(), rung);
        }
        assert!(rung_within(u64::MAX).stroops().get() > 1_000_000_000);
    }

    #[test]
    fn a_ledger_url_names_host_and_port() {
        let of = |url| host_and_port(url).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(of("http://127.0.0.1:8000").as_deref(), Some("127.0.0.1 8000"));
        assert_eq!(
            of("https://horizon.example/a?b").as_deref(),
            Some("horizon.example 443")
        );
        assert_eq!(of("http://[::1]:80/").as_deref(), Some("::1 80"));
        assert_eq!(of("http://:80"), None);
        assert_eq!(of("nonsense"), None);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_says_so() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut config = ClientConfig::new(state.path());
        config.socks.listen = taken.local_addr().unwrap();
        let error = Client::start(config).await.unwrap_err();
        assert!(matches!(error, StartError::PortTaken { .. }));
        assert!(error.to_string().contains("is taken"), "{error}");
    }
}
