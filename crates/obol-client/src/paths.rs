//! Finds a tunnel for a stream, and opens the stream on it.
//!
//! Arti builds every tunnel, with its own guards, families, weights and exit policies. Where tunnels that can be paid are preferred, this asks
//! it for a tunnel of a fresh isolation group, looks at the hops, and asks again where they do not do: so what is chosen among are tunnels, never
//! relays, and no more of them than [`choice`](crate::choice) allows. Tunnels that were looked at for nothing are retired at once. Streams of
//! one application's isolation stay on the tunnel that was found for it (ADR 0023). While nobody is paid nothing is preferred: the first tunnel will
//! do, and where only paid ones will (`paths = "only"`) streams are refused before anything is asked for.
//!
//! Connections to onion services are Arti's whole: another rendezvous would cost the service an introduction for each try. Arti 0.47 gives the tunnel
//! of such a connection only with its first stream: the connector that makes it is private to `TorClient`, and `experimental-api` shows the pool
//! of circuits below it alone. So where `paths = "only"` refuses, the service has seen a BEGIN and an END, and no byte of the application's. A
//! connector of our own (`tor_hsclient::HsClientConnector`) would look before the BEGIN, but it would keep descriptors and rendezvous beside Arti's,
//! and Arti's address filter and keys for services in restricted discovery would be ours to apply: too much to spare a service one BEGIN, when the
//! introduction, which costs it more, has been made by then.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arti_client::config::BoolOrAuto;
use arti_client::isolation::StreamIsolation as ArtiIsolation;
use arti_client::{DataStream, ErrorKind, HasKind as _, IntoTorAddr as _, IsolationToken, StreamPrefs, TorClient};
use obol_toll::TunnelId;
use tor_circmgr::{ClientDataTunnel, TargetPort};
use tor_proto::ClientTunnel;
use tracing::debug;

use crate::cashier::now;
use crate::choice::{Allowance, CONTENT, Ceilings, Known, MOST_TRIES, Next, PATIENCE, Search, Verdict};
use crate::config::Paths;
use crate::events::Event;
use crate::proxy::StreamIsolation;
use crate::runtime::MeteredRuntime;
use crate::tor::StreamTimeouts;
use crate::tunnels::{StreamGuard, Tunnels, candidates};
use crate::watch::Watch;

/// Groups of streams that are remembered.
const MOST_GROUPS: usize = 4096;
/// A group that had no stream for so long is forgotten: Arti's circuits are given up by then.
const GROUP_LIFE: Duration = Duration::from_secs(3600);

/// Why there is no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Tor could not open it.
    Tor(ErrorKind),
    /// No tunnel was found whose hops can all be paid, and no other is wanted.
    NoPaidPath,
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Failure {
        Failure::Tor(kind)
    }
}

/// What tunnels are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// By the configuration, where this client pays.
    pub(crate) paths: Paths,
    pub(crate) ceilings: Ceilings,
    /// Whether this client pays anybody now.
    pub(crate) pays: bool,
}

impl Wish {
    /// Of a client that pays nobody: the first tunnel is as good as any.
    pub(crate) fn none() -> Wish {
        Wish {
            paths: Paths::Any,
            ceilings: Ceilings {
                hop: i64::MAX,
                tunnel: i64::MAX,
            },
            pays: false,
        }
    }

    /// What holds now: who pays nobody has nothing to prefer, and no tunnel at all that is paid whole.
    fn paths(&self) -> Result<Paths, Failure> {
        match (self.pays, self.paths) {
            (true, paths) => Ok(paths),
            (false, Paths::Any | Paths::Prefer) => Ok(Paths::Any),
            (false, Paths::Only) => Err(Failure::NoPaidPath),
        }
    }
}

/// The streams of one application's isolation.
#[derive(Debug)]
struct Group {
    /// One search at a time; others wait for what it finds.
    state: tokio::sync::Mutex<GroupState>,
    used: Mutex<Instant>,
}

#[derive(Debug)]
struct GroupState {
    /// Arti keeps the group's tunnels apart by it.
    token: IsolationToken,
    /// Until then no better tunnel is looked for.
    content: Option<Instant>,
}

/// A tunnel that Arti gave.
struct Found {
    tunnel: ClientDataTunnel,
    token: IsolationToken,
}

/// See the [module](self).
pub(crate) struct TunnelFinder {
    tor: Arc<TorClient<MeteredRuntime>>,
    tunnels: Arc<Tunnels>,
    wish: Mutex<Wish>,
    known: Arc<Mutex<Known>>,
    allowance: Mutex<Allowance>,
    groups: Mutex<HashMap<StreamIsolation, Arc<Group>>>,
    timeouts: StreamTimeouts,
    watch: Watch,
}

impl TunnelFinder {
    pub(crate) fn new(
        tor: Arc<TorClient<MeteredRuntime>>,
        tunnels: Arc<Tunnels>,
        wish: Wish,
        known: Arc<Mutex<Known>>,
        timeouts: StreamTimeouts,
        watch: Watch,
    ) -> TunnelFinder {
        TunnelFinder {
            tor,
            tunnels,
            wish: Mutex::new(wish),
            known,
            allowance: Mutex::new(Allowance::new(now())),
            groups: Mutex::default(),
            timeouts,
            watch,
        }
    }

    /// Whether anybody is paid from now on. Streams that are open stay where they are.
    pub(crate) fn set_pays(&self, pays: bool) {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner).pays = pays;
    }

    /// Which tunnels are wanted from now on.
    pub(crate) fn set_wish(&self, wish: Wish) {
        *self.wish.lock().unwrap_or_else(PoisonError::into_inner) = wish;
    }

    fn wish(&self) -> Wish {
        *self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream, and notes its tunnel. `asked`: when the application did.
    pub(crate) async fn connect(
        &self,
        isolation: &StreamIsolation,
        host: &str,
        port: u16,
        asked: Instant,
    ) -> Result<(DataStream, Option<StreamGuard>), Failure> {
        let paths = self.wish().paths()?;
        let stream = if paths == Paths::Any || is_onion(host) {
            self.connect_by_arti(isolation, host, port).await?
        } else {
            let address = (host, port).into_tor_addr().map_err(|error| error.kind())?;
            self.may_go_there(host, address.as_ip_address().copied()).await?;
            let tunnel = self.tunnel(isolation, &[TargetPort::ipv4(port)], paths).await?;
            within(self.timeouts.connect(), tunnel.begin_stream(&bare(host), port, None)).await?
        };
        let guard = self.tunnels.carries(&stream, asked);
        if let Some(guard) = &guard {
            let tunnel = guard.tunnel();
            let verdict = self.judge(&candidates(tunnel.hops()));
            if paths == Paths::Only && !verdict.is_whole() {
                debug!(
                    tunnel = tunnel.id().0,
                    ?verdict,
                    "a stream is refused: its tunnel cannot be paid whole"
                );
                // What was whole when it was taken no longer is: a hop has named its price since.
                self.watch.tell(Event::Searched {
                    tries: 1,
                    payable: verdict.payable,
                    hops: verdict.hops,
                    taken: false,
                });
                return Err(Failure::NoPaidPath);
            }
            self.tell(tunnel.id(), verdict);
        }
        Ok((stream, guard))
    }

    async fn connect_by_arti(&self, isolation: &StreamIsolation, host: &str, port: u16) -> Result<DataStream, Failure> {
        let target = (host, port).into_tor_addr().map_err(|error| error.kind())?;
        let connected = self.tor.connect_with_prefs(target, &isolation.prefs()).await;
        connected.map_err(|error| {
            debug!(%error, "a stream could not be opened");
            Failure::Tor(error.kind())
        })
    }

    /// Looks a name up.
    pub(crate) async fn resolve(&self, isolation: &StreamIsolation, host: &str) -> Result<Option<IpAddr>, Failure> {
        // Of an address or an onion service nothing is asked in the network.
        let local = host.parse::<IpAddr>().is_ok() || is_onion(host);
        let paths = if local { Paths::Any } else { self.wish().paths()? };
        if paths == Paths::Any {
            let found = self.tor.resolve_with_prefs(host, &isolation.prefs()).await;
            return match found {
                Ok(found) => Ok(found.first().copied()),
                Err(error) => Err(Failure::Tor(error.kind())),
            };
        }
        self.may_go_there(host, None).await?;
        let tunnel = self.tunnel(isolation, &[], paths).await?;
        for address in within(self.timeouts.resolve(), tunnel.resolve(host)).await? {
            if self.may_be_told(address).await.is_ok() {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// Looks an address up.
    pub(crate) async fn resolve_ptr(
        &self,
        isolation: &StreamIsolation,
        address: IpAddr,
    ) -> Result<Option<String>, Failure> {
        let paths = self.wish().paths()?;
        let names = if paths == Paths::Any {
            let found = self.tor.resolve_ptr_with_prefs(address, &isolation.prefs()).await;
            found.map_err(|error| Failure::Tor(error.kind()))?
        } else {
            self.may_be_told(address).await?;
            let tunnel = self.tunnel(isolation, &[], paths).await?;
            within(self.timeouts.resolve_ptr(), tunnel.resolve_ptr(address)).await?
        };
        Ok(names.into_iter().next())
    }

    /// Arti's own address filter, asked through the one door that it has: "resolving" an address takes no network.
    async fn may_go_there(&self, host: &str, address: Option<IpAddr>) -> Result<(), Failure> {
        let address = match address {
            Some(address) => address,
            None if host.eq_ignore_ascii_case("localhost") => IpAddr::from([127, 0, 0, 1]),
            None => return Ok(()),
        };
        let mut prefs = StreamPrefs::new();
        prefs.resolve_local_addrs(BoolOrAuto::Explicit(true));
        self.filtered(address, &prefs).await
    }

    /// Whether applications may be told of this address.
    async fn may_be_told(&self, address: IpAddr) -> Result<(), Failure> {
        let mut prefs = StreamPrefs::new();
        prefs.connect_to_local_addrs(BoolOrAuto::Explicit(true));
        self.filtered(address, &prefs).await
    }

    async fn filtered(&self, address: IpAddr, prefs: &StreamPrefs) -> Result<(), Failure> {
        let allowed = self.tor.resolve_with_prefs(&address.to_string(), prefs).await;
        allowed.map(drop).map_err(|error| Failure::Tor(error.kind()))
    }

    fn judge(&self, relays: &[crate::choice::Candidate]) -> Verdict {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.judge(relays, self.wish().ceilings, now())
    }

    /// Tells of a stream of a hosted service.
    pub(crate) fn tell_of(&self, stream: &StreamGuard) {
        let tunnel = stream.tunnel();
        self.tell(tunnel.id(), self.judge(&candidates(tunnel.hops())));
    }

    fn tell(&self, tunnel: TunnelId, verdict: Verdict) {
        let Verdict { hops, payable, why } = verdict;
        debug!(tunnel = tunnel.0, hops, payable, ?why, "a stream is open");
        self.watch.tell(Event::Stream {
            tunnel: tunnel.0,
            hops,
            payable,
            why,
        });
    }

    /// The group of these streams.
    fn group(&self, isolation: &StreamIsolation) -> Arc<Group> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let used = |group: &Group| *group.used.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= MOST_GROUPS && !groups.contains_key(isolation) {
            groups.retain(|_, group| used(group).elapsed() < GROUP_LIFE);
            if groups.len() >= MOST_GROUPS {
                let oldest = groups.iter().min_by_key(|(_, group)| used(group));
                let oldest = oldest.map(|(isolation, _)| isolation.clone());
                oldest.and_then(|oldest| groups.remove(&oldest));
            }
        }
        let fresh = || {
            Arc::new(Group {
                state: tokio::sync::Mutex::new(GroupState {
                    token: IsolationToken::new(),
                    content: None,
                }),
                used: Mutex::new(Instant::now()),
            })
        };
        let group = Arc::clone(groups.entry(isolation.clone()).or_insert_with(fresh));
        *group.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        group
    }

    /// The tunnel for a stream to these ports (none: a look-up).
    async fn tunnel(
        &self,
        isolation: &StreamIsolation,
        ports: &[TargetPort],
        paths: Paths,
    ) -> Result<ClientDataTunnel, Failure> {
        let group = self.group(isolation);
        let mut state = group.state.lock().await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut search = Search::new(paths);
        let mut found: Vec<Found> = Vec::new();
        let mut token = state.token;
        let next = loop {
            let asked = self.ask(ports, token);
            let tunnel = match found.is_empty() {
                // The first one takes what Arti takes, and fails as Arti fails.
                true => asked.await?,
                false => match tokio::time::timeout_at(deadline, asked).await {
                    Ok(Ok(tunnel)) => tunnel,
                    Ok(Err(_)) | Err(_) => break search.settle(),
                },
            };
            let relays = candidates(&self.tunnels.hops(proto(&tunnel)));
            let guard = relays.first().and_then(|relay| relay.peer);
            let next = search.saw(guard, self.judge(&relays));
            found.push(Found { tunnel, token });
            if next != Next::Another {
                break next;
            }
            let content = state.content.is_some_and(|until| until > Instant::now());
            if content || tokio::time::Instant::now() >= deadline || !self.may_build() {
                break search.settle();
            }
            token = IsolationToken::new();
        };
        let taken = match next {
            Next::Take(index) if index < found.len() => Some(found.swap_remove(index)),
            _ => None,
        };
        self.retire(&found);
        self.searched(&search, taken.is_some(), &mut state);
        match taken {
            Some(Found { tunnel, token }) => {
                state.token = token;
                Ok(tunnel)
            }
            None => {
                state.token = IsolationToken::new();
                Err(Failure::NoPaidPath)
            }
        }
    }

    fn searched(&self, search: &Search, taken: bool, state: &mut GroupState) {
        let Some((_, Verdict { hops, payable, why })) = search.best() else {
            return;
        };
        if why.is_none() {
            state.content = None;
        } else if state.content.is_none_or(|until| until <= Instant::now()) {
            state.content = Some(Instant::now() + CONTENT);
        }
        let tries = search.tries();
        if tries > 1 || !taken {
            debug!(
                tries,
                payable,
                hops,
                ?why,
                taken,
                "tunnels that can be paid were looked for"
            );
            self.watch.tell(Event::Searched {
                tries,
                payable,
                hops,
                taken,
            });
        }
    }

    fn may_build(&self) -> bool {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.take(now())
    }

    /// Asks Arti for a tunnel of this group: one that it has, or a new one.
    async fn ask(&self, ports: &[TargetPort], token: IsolationToken) -> Result<ClientDataTunnel, Failure> {
        let directory = self.tor.dirmgr().map_err(|error| error.kind())?;
        let directory = directory.timely_netdir().map_err(|error| error.kind())?;
        let isolation = ArtiIsolation::builder()
            .stream_isolation(token.into())
            .build()
            .map_err(|_| ErrorKind::Internal)?;
        let manager = self.tor.circmgr().map_err(|error| error.kind())?;
        let asked = manager.get_or_launch_exit(directory.as_ref().into(), ports, isolation);
        asked.await.map_err(|error| {
            debug!(%error, "a tunnel could not be built");
            Failure::Tor(error.kind())
        })
    }

    /// Lets no stream use these. Without one they close.
    fn retire(&self, found: &[Found]) {
        debug_assert!(found.len() <= MOST_TRIES);
        if let Ok(manager) = self.tor.circmgr() {
            for one in found {
                manager.retire_circ(&one.tunnel.unique_id());
            }
        }
    }
}

fn proto(tunnel: &ClientDataTunnel) -> &ClientTunnel {
    tunnel.as_ref()
}

/// What an exit is given so long for.
async fn within<T>(patience: Duration, asked: impl Future<Output = tor_circmgr::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(got)) => Ok(got),
        Ok(Err(error)) => {
            debug!(%error, "an exit did not open a stream");
            Err(Failure::Tor(error.kind()))
        }
        Err(_) => Err(Failure::Tor(ErrorKind::ExitTimeout)),
    }
}

/// Whether a host is an onion service's.
pub(crate) fn is_onion(host: &str) -> bool {
    let at = host.len().saturating_sub(".onion".len());
    host.get(at..)
        .is_some_and(|suffix| suffix.eq_ignore_ascii_case(".onion"))
}

/// A host as a BEGIN message wants it: an address in its plain form.
fn bare(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::LinkMeters;

    fn wish(paths: Paths, pays: bool) -> Wish {
        let ceilings = Wish::none().ceilings;
        Wish { paths, ceilings, pays }
    }

    #[test]
    fn who_pays_nobody_takes_the_first_tunnel_or_none_where_only_paid_ones_will_do() {
        for paths in [Paths::Any, Paths::Prefer, Paths::Only] {
            assert_eq!(wish(paths, true).paths(), Ok(paths));
        }
        for paths in [Paths::Any, Paths::Prefer] {
            assert_eq!(wish(paths, false).paths(), Ok(Paths::Any));
        }
        assert_eq!(wish(Paths::Only, false).paths(), Err(Failure::NoPaidPath));
        assert_eq!(Wish::none().paths(), Ok(Paths::Any));
    }

    #[tokio::test]
    async fn where_only_paid_tunnels_will_do_streams_are_refused_while_nobody_is_paid_and_before_tor_is_asked() {
        let state = tempfile::tempdir().unwrap();
        let links = LinkMeters::default();
        // Never started: whatever is asked of it fails for that.
        let tor = crate::tor::client(&toml::Table::new(), state.path(), links.clone())
            .await
            .unwrap();
        let (opened, _tunnels) = tokio::sync::mpsc::unbounded_channel();
        let tunnels = Arc::new(Tunnels::new(Arc::clone(&tor), opened));
        let finder = TunnelFinder::new(
            tor,
            tunnels,
            wish(Paths::Only, true),
            Arc::default(),
            StreamTimeouts::default(),
            Watch::new(links),
        );
        let everybody = StreamIsolation::None;
        let asked = || finder.connect(&everybody, "host.example", 80, Instant::now());
        assert!(matches!(asked().await, Err(Failure::Tor(_))));
        finder.set_pays(false);
        let refused = Some(Failure::NoPaidPath);
        assert_eq!(asked().await.err(), refused);
        let onion = format!("{}.onion", "a".repeat(56));
        let connecting = finder.connect(&everybody, &onion, 80, Instant::now());
        assert_eq!(connecting.await.err(), refused);
        assert_eq!(finder.resolve(&everybody, "host.example").await.err(), refused);
        let address = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(finder.resolve_ptr(&everybody, address).await.err(), refused);
        finder.set_pays(true);
        assert!(matches!(asked().await, Err(Failure::Tor(_))));
    }

    #[tokio::test]
    async fn an_exit_that_says_nothing_is_given_the_time_that_was_configured() {
        let silent = || std::future::pending::<tor_circmgr::Result<()>>();
        let short = within(Duration::from_millis(1), silent());
        let long = within(Duration::from_secs(3600), silent());
        tokio::select! {
            said = short => assert_eq!(said, Err(Failure::Tor(ErrorKind::ExitTimeout))),
            _ = long => panic!("an hour is over before a millisecond"),
        }
    }

    #[test]
    fn onion_hosts_are_known_by_their_end() {
        for onion in ["abc.onion", "www.ABC.Onion"] {
            assert!(is_onion(onion));
        }
        for other in ["onion", "abc.onion.example", "", "ü.onio"] {
            assert!(!is_onion(other));
        }
    }
}
