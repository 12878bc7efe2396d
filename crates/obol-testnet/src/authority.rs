//! A Tor directory authority in this process.
//!
//! It has the identity and the signing key of a v3 authority, takes server descriptors (`POST /tor/`), checks them as a C Tor
//! authority does, votes alone, and signs the consensus in both flavours. What it serves, and how, is the code that
//! relays serve their caches with (`obol_relay::directory`): C Tor knows headers by their exact spelling and reads reasons
//! from the status line, which a modern HTTP server has no part in. Stock Arti and C Tor bootstrap from it.
//!
//! Intervals are legal ones, minutes long; whoever cannot wait calls [`Authority::publish_now`].

mod arti;
mod keys;
mod vote;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use obol_relay::directory::answer::answer;
use obol_relay::directory::documents::{Certificate, Documents};
use obol_relay::directory::{self, http};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

pub use arti::{ArtiNetwork, EntryRelay};
pub use keys::{AuthorityKeys, KeysError};
pub use vote::{Known, Role, VoteError};

/// What a peer may send. The longest upload is a server descriptor and an extra-info document, each of the greatest length
/// that C Tor takes.
const LIMITS: http::Limits = http::Limits {
    head: 50_000,
    body: 20_000 + 50_000,
    patience: Duration::from_secs(60),
};

/// Connections at one time; further ones wait to be accepted.
const CONNECTIONS: usize = 256;

/// How long a relay may take to accept a connection when the authority looks whether it is there.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// What an authority is told.
#[derive(Debug, Clone)]
pub struct AuthorityConfig {
    /// Where it listens for HTTP. Port 0: a free one.
    pub listen: SocketAddr,
    /// Its name: letters and digits.
    pub nickname: String,
    /// The time from one consensus to the next, made by itself. C Tor refuses less than five minutes outside its own test
    /// networks.
    pub interval: Duration,
    /// How long a consensus is valid. Long, so that a network whose authority is gone goes on.
    pub validity: Duration,
    /// Consensus parameters.
    pub params: BTreeMap<String, i32>,
    /// Whether only relays that accept a TCP connection at their OR port are `Running`.
    pub probe: bool,
}

impl Default for AuthorityConfig {
    fn default() -> AuthorityConfig {
        // Congestion control as the public network has it; arti's own defaults are others. And on loopback a client would learn to give
        // circuits up after ten milliseconds: on a machine that is busy for a moment it would build none.
        let params = [
            ("ExtendByEd25519ID", 1),
            ("bwauthpid", 1),
            ("cbtmintimeout", 5_000),
            ("cc_alg", 2),
            ("cc_cwnd_full_gap", 4),
            ("cc_cwnd_inc", 1),
            ("cc_cwnd_inc_pct_ss", 100),
            ("cc_cwnd_inc_rate", 31),
            ("cc_cwnd_init", 124),
            ("cc_cwnd_min", 124),
            ("cc_sendme_inc", 31),
        ];
        AuthorityConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            nickname: "obolauth".to_owned(),
            interval: Duration::from_secs(600),
            validity: Duration::from_secs(3 * 3600),
            params: params
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            probe: true,
        }
    }
}

/// Why an authority did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address is taken, or not ours.
    #[error("the authority cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It can only be reached by IPv4: consensus documents have no other form for it.
    #[error("an authority needs an IPv4 address, not {0}")]
    NotIpv4(SocketAddr),
    /// Its keys could not be made.
    #[error("the authority's keys")]
    Keys(#[from] KeysError),
}

/// A consensus that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// How many relays it lists.
    pub relays: usize,
    /// From when on it is valid.
    pub valid_after: SystemTime,
    /// Until when.
    pub valid_until: SystemTime,
}

/// A running authority. Dropped, it stops.
#[derive(Debug)]
pub struct Authority {
    /// All it knows.
    inner: Arc<Inner>,
    /// The HTTP server.
    server: JoinHandle<()>,
    /// The vote at each interval.
    voter: JoinHandle<()>,
}

/// What the server, the voter and the handle share.
#[derive(Debug)]
struct Inner {
    /// What it was told.
    config: AuthorityConfig,
    /// Where it listens.
    address: std::net::SocketAddrV4,
    /// Its keys.
    keys: AuthorityKeys,
    /// What relays uploaded.
    relays: Mutex<Relays>,
    /// What is served.
    documents: watch::Sender<Arc<Documents>>,
    /// One vote at a time.
    voting: tokio::sync::Mutex<()>,
    /// Number of relays known, for those who wait.
    known: watch::Sender<usize>,
}

/// The uploads.
#[derive(Debug, Default)]
struct Relays {
    /// The newest good descriptor of each relay, by RSA identity.
    known: BTreeMap<[u8; 20], Arc<Known>>,
    /// The Ed25519 identity that once came with an RSA identity stays with it.
    pinned: HashMap<[u8; 20], [u8; 32]>,
    /// Which flags which nickname gets.
    roles: HashMap<String, Role>,
    /// Consensus parameters that were set after the start.
    params: BTreeMap<String, i32>,
}

impl Inner {
    /// The uploads. Nothing panics while it holds the lock; were it to, what is in there is still whole.
    fn relays(&self) -> MutexGuard<'_, Relays> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an upload, or says why not. `Ok(false)`: nothing new.
    fn take(&self, body: &[u8], now: SystemTime) -> Result<bool, vote::Refusal> {
        let without_tap = self.params(&self.relays()).get(vote::TAP_WANTED) == Some(&0);
        let known = vote::check_descriptor(body, without_tap, now)?;
        let mut relays = self.relays();
        let pinned = *relays.pinned.entry(known.rsa).or_insert(known.ed);
        let foreign = relays
            .pinned
            .iter()
            .any(|(rsa, ed)| *ed == known.ed && *rsa != known.rsa);
        if pinned != known.ed || foreign {
            return Err(vote::Refusal::Pinned);
        }
        if let Some(old) = relays.known.get(&known.rsa)
            && old.published >= known.published
        {
            return Ok(false);
        }
        debug!(nickname = known.nickname, "descriptor accepted");
        relays.known.insert(known.rsa, Arc::new(known));
        let count = relays.known.len();
        drop(relays);
        self.known.send_replace(count);
        Ok(true)
    }

    /// The parameters of the next consensus.
    fn params(&self, relays: &Relays) -> BTreeMap<String, i32> {
        let mut params = self.config.params.clone();
        params.extend(relays.params.iter().map(|(name, value)| (name.clone(), *value)));
        params
    }

    /// Votes, signs, and serves the result.
    async fn publish(&self) -> Result<Published, VoteError> {
        let _one = self.voting.lock().await;
        let (known, roles, params) = {
            let relays = self.relays();
            let known: Vec<_> = relays.known.values().cloned().collect();
            (known, relays.roles.clone(), self.params(&relays))
        };
        let now = SystemTime::now();
        let known: Vec<_> = known.into_iter().filter(|relay| relay.is_current(now)).collect();
        let running = if self.config.probe {
            answering(known).await
        } else {
            known
        };
        let before = self.documents.borrow().microdesc.as_ref().map(|c| c.valid_after);
        let ballot = vote::Ballot {
            config: &self.config,
            address: self.address,
            keys: &self.keys,
            relays: &running,
            roles: &roles,
            params: &params,
            not_before: before,
        };
        let mut documents = ballot.count(now)?;
        documents.certificates = self.documents.borrow().certificates.clone();
        let Some(consensus) = &documents.microdesc else {
            return Err(VoteError::Empty);
        };
        let published = Published {
            relays: running.len(),
            valid_after: consensus.valid_after,
            valid_until: consensus.valid_until,
        };
        self.documents.send_replace(Arc::new(documents));
        info!(relays = published.relays, "new consensus");
        Ok(published)
    }
}

/// Those relays that accept a TCP connection.
async fn answering(relays: Vec<Arc<Known>>) -> Vec<Arc<Known>> {
    let probes = relays.into_iter().map(|relay| async move {
        let connecting = tokio::time::timeout(PROBE_TIME, TcpStream::connect(relay.address));
        matches!(connecting.await, Ok(Ok(_))).then_some(relay)
    });
    futures::future::join_all(probes).await.into_iter().flatten().collect()
}

impl Authority {
    /// Makes keys, listens, and serves. The first consensus comes with [`publish_now`](Self::publish_now) or, if relays
    /// have published by then, after one interval.
    pub fn start(config: AuthorityConfig) -> BoxFuture<'static, Result<Authority, StartError>> {
        // Boxed: what it runs is compiled with this crate, and not again with everything that calls it.
        Authority::bring_up(config).boxed()
    }

    async fn bring_up(config: AuthorityConfig) -> Result<Authority, StartError> {
        let listen = config.listen;
        let listen_error = |source| StartError::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
        let address = match listener.local_addr().map_err(listen_error)? {
            SocketAddr::V4(address) => address,
            other => return Err(StartError::NotIpv4(other)),
        };
        let keys = AuthorityKeys::generate(address, SystemTime::now()).await?;
        let mut documents = Documents::default();
        let certificate = Bytes::from(keys.certificate().to_owned());
        documents
            .certificates
            .extend(Certificate::read(certificate, SystemTime::now()));
        let inner = Arc::new(Inner {
            config,
            address,
            keys,
            relays: Mutex::default(),
            documents: watch::Sender::new(Arc::new(documents)),
            voting: tokio::sync::Mutex::default(),
            known: watch::Sender::new(0),
        });
        let server = tokio::spawn(serve(Arc::clone(&inner), listener));
        let voter = tokio::spawn(vote_regularly(Arc::clone(&inner)));
        Ok(Authority { inner, server, voter })
    }

    /// Where it speaks HTTP.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::V4(self.inner.address)
    }

    /// SHA-1 of its identity key.
    pub fn v3_identity(&self) -> [u8; 20] {
        self.inner.keys.v3_identity()
    }

    /// The entry for it in a relay's list of authorities.
    pub fn entry(&self) -> directory::Authority {
        directory::Authority {
            name: self.inner.config.nickname.clone(),
            address: self.address(),
            v3_identity: self.v3_identity(),
        }
    }

    /// The line for it in a C Tor's `torrc`. C Tor wants an OR port and a relay's fingerprint there; this authority is not
    /// a relay, and C Tor clients must have a `FallbackDir` to start from.
    pub fn torrc_line(&self) -> String {
        let address = self.inner.address;
        let v3 = hex::encode_upper(self.v3_identity());
        format!(
            "DirAuthority {} orport={} no-v2 v3ident={v3} {address} {v3}",
            self.inner.config.nickname,
            address.port(),
        )
    }

    /// Decides the flags of the relay with this nickname, from the next vote on. Without a role, a relay whose policy allows
    /// the web is an exit, any other a guard.
    pub fn assign(&self, nickname: impl Into<String>, role: Role) {
        self.inner.relays().roles.insert(nickname.into(), role);
    }

    /// Sets a consensus parameter, from the next vote on. With `publish-dummy-tap-key` at 0, descriptors without a TAP key are
    /// taken.
    pub fn set_param(&self, name: impl Into<String>, value: i32) {
        self.inner.relays().params.insert(name.into(), value);
    }

    /// The relays that have published, whether they run or not.
    pub fn known(&self) -> Vec<Arc<Known>> {
        self.inner.relays().known.values().cloned().collect()
    }

    /// The newest descriptor that it has of the relay with this RSA identity.
    pub fn descriptor(&self, relay: &[u8; 20]) -> Option<String> {
        let known = self.inner.relays().known.get(relay).cloned()?;
        Some(String::from_utf8_lossy(known.text()).into_owned())
    }

    /// Waits until so many relays have published.
    pub async fn wait_for(&self, relays: usize) {
        let mut known = self.inner.known.subscribe();
        // The sender lives as long as we do, so this ends with the condition only.
        let _ = known.wait_for(|known| *known >= relays).await;
    }

    /// Makes a new consensus of the relays that have published so far (and answer), valid from now on.
    pub async fn publish_now(&self) -> Result<Published, VoteError> {
        self.inner.publish().await
    }

    /// What it serves at this moment.
    pub fn documents(&self) -> Arc<Documents> {
        Arc::clone(&self.inner.documents.borrow())
    }

    /// How a stock Arti client uses the network of this authority and the relays it knows.
    pub fn arti_network(&self) -> ArtiNetwork {
        let entries = self.known().into_iter().map(|relay| EntryRelay {
            rsa: relay.rsa,
            ed: relay.ed,
            address: SocketAddr::V4(relay.address),
        });
        ArtiNetwork {
            authorities: vec![self.entry()],
            fallbacks: entries.collect(),
        }
    }

    /// Stops listening and voting.
    pub async fn shutdown(self) {
        self.server.abort();
        self.voter.abort();
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.server.abort();
        self.voter.abort();
    }
}

/// Makes a consensus at each interval, once there is somebody to list.
async fn vote_regularly(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(inner.config.interval).await;
        if inner.relays().known.is_empty() {
            continue;
        }
        if let Err(error) = inner.publish().await {
            warn!(%error, "no consensus this time");
        }
    }
}

/// Accepts connections until the task is ended.
async fn serve(inner: Arc<Inner>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    if let Err(error) = serve_one(&inner, stream).await {
                        debug!(%error, "a directory connection failed");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "the authority cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One request, one answer.
async fn serve_one(inner: &Inner, mut stream: TcpStream) -> Result<(), http::HttpError> {
    stream.set_nodelay(true)?;
    let Some(request) = http::read_request(&mut stream, &LIMITS).await? else {
        return Ok(());
    };
    let now = SystemTime::now();
    let response = if request.method == http::Method::Post {
        post(inner, &request, now)
    } else {
        let documents = Arc::clone(&inner.documents.borrow());
        answer(&documents, &request, now)
    };
    http::write_response(&mut stream, &response, &LIMITS).await
}

/// Takes an upload.
fn post(inner: &Inner, request: &http::Request, now: SystemTime) -> http::Response {
    if request.path != "/tor/" {
        return http::Response::empty(404, "Not found");
    }
    match inner.take(&request.body, now) {
        Ok(true) => http::Response::empty(200, "OK"),
        Ok(false) => {
            let mut response = http::Response::empty(200, "OK");
            response.headers.push("X-Descriptor-Not-New", "Yes");
            response
        }
        Err(refusal) => {
            debug!(%refusal, "descriptor refused");
            http::Response::empty(400, refusal.to_string())
        }
    }
}
