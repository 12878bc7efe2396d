//! The relay and the directory: publishing what it is, fetching who else is there, serving both to others.
//!
//! One task fetches the consensus in the first half of the period in which it is no longer fresh; others see to it that every
//! authority has our newest descriptor (`publish`). What there is, is handed out through two handles that are cheap to
//! clone: [`NetView`] for the relay itself, [`DirCache`] for BEGIN_DIR streams.

pub mod answer;
mod diffs;
mod disk;
pub mod documents;
mod fetch;
mod hsdir;
pub mod http;
mod limit;
mod publish;
mod serve;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::debug;

use disk::Disk;
use documents::Documents;
use fetch::Shared;

pub use diffs::{DiffAges, Diffs};
pub use fetch::{Authority, Disbelief, FetchError, Upload, upload};
pub use hsdir::Held;
pub use limit::ClientShare;
pub use publish::{MakeDescriptor, Occasion, PublishError, Standing};
pub use serve::DirCache;
pub use view::{NetView, RelayInfo, Snapshot};

/// The first pause after a failure; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause while there is no consensus at all: a network that is just starting has one soon.
const LONGEST_WITHOUT: Duration = Duration::from_secs(5);

/// The directory's tasks and its handles. Dropped, the tasks end.
#[derive(Debug)]
pub struct Directory {
    /// The network.
    view: NetView,
    /// The documents.
    cache: DirCache,
    /// Requests to publish.
    publishing: mpsc::Sender<publish::Command>,
    /// How each authority stands to our descriptor.
    standings: watch::Receiver<Vec<Standing>>,
    /// Requests to fetch.
    fetching: mpsc::Sender<Request>,
    /// Both tasks.
    tasks: [JoinHandle<()>; 2],
}

/// What the task that fetches is asked for.
enum Request {
    /// Fetch now; the answer goes here.
    Refresh(oneshot::Sender<Result<(), FetchError>>),
    /// Believe these from now on.
    Authorities(Vec<Authority>),
}

impl Directory {
    /// Starts to follow the network that these authorities describe. Must be called in a tokio runtime. Nothing is
    /// published before [`publish_with`](Self::publish_with).
    pub fn start(authorities: Vec<Authority>) -> Directory {
        Directory::start_with(authorities, None)
    }

    /// The same with a place on disk for the documents, made if it is not there: what was kept by an earlier run and is
    /// still valid is known and served as soon as it is read.
    pub fn start_with(authorities: Vec<Authority>, disk: Option<PathBuf>) -> Directory {
        let (snapshots, view) = watch::channel(Arc::new(Snapshot::default()));
        let view = NetView::new(view);
        let (documents, cache) = watch::channel(Shared::default());
        let documents = Arc::new(documents);
        let (fetching, requests) = mpsc::channel(16);
        let keeper = Keeper {
            authorities: authorities.clone(),
            documents: Arc::clone(&documents),
            disk: disk.map(Disk::new),
            snapshots,
            refresh_at: tokio::time::Instant::now(),
            refresh_pause: FIRST_PAUSE,
        };
        let (publishing, commands) = mpsc::channel(16);
        let (publisher, standings) = publish::Publisher::new(authorities, documents, view.clone());
        Directory {
            cache: DirCache::new(cache),
            publishing,
            standings,
            fetching,
            tasks: [
                tokio::spawn(keeper.run(requests)),
                tokio::spawn(publisher.run(commands, view.clone())),
            ],
            view,
        }
    }

    /// The network as this relay knows it.
    pub fn view(&self) -> NetView {
        self.view.clone()
    }

    /// What answers BEGIN_DIR streams.
    pub fn cache(&self) -> DirCache {
        self.cache.clone()
    }

    /// Publishes what `make` makes: now, every 18 hours, when the consensus has lost us, and on
    /// [`publish`](Self::publish). Returns when the first authority has it; fails if none took it at the first attempt. Each
    /// authority that has not taken it is tried again until it has, all the same.
    pub async fn publish_with(&self, make: MakeDescriptor) -> Result<(), PublishError> {
        self.ask(Some(make), None).await
    }

    /// Publishes a new descriptor now: something in it changed.
    pub async fn publish(&self) -> Result<(), PublishError> {
        self.ask(None, None).await
    }

    /// From now on these authorities are believed, and published to. What is held stays until their consensus comes.
    /// Publishes as [`publish`](Self::publish) does.
    pub async fn set_authorities(&self, authorities: Vec<Authority>) -> Result<(), PublishError> {
        // The task ends with this.
        let _ = self.fetching.send(Request::Authorities(authorities.clone())).await;
        self.ask(None, Some(authorities)).await
    }

    async fn ask(&self, make: Option<MakeDescriptor>, authorities: Option<Vec<Authority>>) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        self.publishing
            .send(publish::Command {
                make,
                authorities,
                reply,
            })
            .await
            .map_err(|_| PublishError::ShutDown)?;
        answer.await.unwrap_or(Err(PublishError::ShutDown))
    }

    /// How each authority stands to our newest descriptor, in the order of the configuration.
    pub fn standings(&self) -> watch::Receiver<Vec<Standing>> {
        self.standings.clone()
    }

    /// Fetches the consensus and what belongs to it now.
    pub async fn refresh(&self) -> Result<(), FetchError> {
        let (reply, answer) = oneshot::channel();
        if self.fetching.send(Request::Refresh(reply)).await.is_err() {
            return Err(FetchError::NoAuthority);
        }
        answer.await.unwrap_or(Err(FetchError::NoAuthority))
    }

    /// Ends the tasks. The handles keep what they have.
    pub async fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The state of the task that fetches.
struct Keeper {
    /// Whom we believe.
    authorities: Vec<Authority>,
    /// All documents, for the cache.
    documents: Arc<watch::Sender<Shared>>,
    /// Where they are kept.
    disk: Option<Disk>,
    /// The network, for the relay.
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// When to fetch next.
    refresh_at: tokio::time::Instant,
    /// How long to wait after the next failure to fetch.
    refresh_pause: Duration,
}

impl Keeper {
    /// Runs until the handle is gone.
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        self.restore().await;
        loop {
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(Request::Refresh(reply)) => {
                        let _ = reply.send(self.refresh().await);
                    }
                    Some(Request::Authorities(authorities)) => {
                        self.authorities = authorities;
                        self.refresh_at = tokio::time::Instant::now();
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(self.refresh_at) => {
                    if let Err(error) = self.refresh().await {
                        debug!(%error, "the directory could not be fetched; it will be tried again");
                    }
                }
            }
        }
    }

    /// Shows what an earlier run has left.
    async fn restore(&mut self) {
        let Some(disk) = self.disk.clone() else { return };
        let authorities = self.authorities.clone();
        let now = SystemTime::now();
        let loading = disk.clone();
        let loaded = tokio::task::spawn_blocking(move || loading.load(&authorities, now)).await;
        let Ok(Some((documents, snapshot))) = loaded else {
            return;
        };
        debug!(
            relays = snapshot.relays().len(),
            "the directory of an earlier run is still good"
        );
        self.show(documents.clone(), snapshot);
        // That takes longer, and nobody has to wait for it.
        if let Ok(documents) = tokio::task::spawn_blocking(move || disk.with_earlier(documents)).await {
            self.serve(documents);
        }
    }

    /// Hands out documents.
    fn serve(&self, documents: Documents) {
        self.documents.send_modify(|held| {
            *held = Arc::new(documents.with_own_of(held));
        });
    }

    /// Hands out documents and what they say.
    fn show(&self, documents: Documents, snapshot: Snapshot) {
        self.serve(documents);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Fetches, shows what came, and decides when to fetch again.
    async fn refresh(&mut self) -> Result<(), FetchError> {
        let held = Arc::clone(&self.documents.borrow());
        let now = SystemTime::now();
        match fetch::refresh(&self.authorities, &held, now).await {
            Ok((documents, snapshot)) => {
                let pause = documents
                    .microdesc
                    .as_ref()
                    .map_or(LONGEST_PAUSE, |c| next_fetch(c, now));
                let (ready, disk) = (documents.clone(), self.disk.clone());
                let prepared = tokio::task::spawn_blocking(move || {
                    let documents = ready.with_diffs();
                    if let Some(disk) = disk {
                        disk.save(&documents);
                    }
                    documents
                });
                let documents = prepared.await.unwrap_or(documents);
                debug!(relays = snapshot.relays().len(), "the directory is fresh");
                self.refresh_pause = FIRST_PAUSE;
                self.show(documents, snapshot);
                self.refresh_at = tokio::time::Instant::now() + pause;
                Ok(())
            }
            Err(error) => {
                let longest = if held.microdesc.is_some() {
                    LONGEST_PAUSE
                } else {
                    LONGEST_WITHOUT
                };
                let pause = self.refresh_pause;
                self.refresh_pause = (pause * 2).min(longest);
                self.refresh_at = tokio::time::Instant::now() + pause;
                Err(error)
            }
        }
    }
}

/// How long to wait for the successor of a consensus: until it is no longer fresh, and then a random part of half the
/// interval, so that not all caches come at once (*dir-spec*, "Downloading consensuses").
fn next_fetch(consensus: &documents::Consensus, now: SystemTime) -> Duration {
    let interval = consensus
        .fresh_until
        .duration_since(consensus.valid_after)
        .unwrap_or(LONGEST_PAUSE);
    let until_stale = consensus.fresh_until.duration_since(now).unwrap_or_default();
    let share: u32 = rand::random_range(0..=1000);
    (until_stale + interval / 2 / 1000 * share).max(FIRST_PAUSE)
}
