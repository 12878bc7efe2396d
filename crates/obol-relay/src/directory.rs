//! The relay and the directory: publishing what it is, fetching who else is there, serving both to others.
//!
//! One task keeps everything fresh. It publishes the descriptor (at once when it changes, and every 18 hours), fetches the
//! consensus in the first half of the period in which it is no longer fresh, and hands out what it has through two
//! handles that are cheap to clone: [`NetView`] for the relay itself, [`DirCache`] for BEGIN_DIR streams.

pub mod answer;
pub mod documents;
mod fetch;
pub mod http;
mod limit;
mod serve;
mod view;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::descriptor::DescriptorError;
use documents::Server;
use fetch::Shared;

pub use fetch::{Authority, Disbelief, FetchError, Upload, upload};
pub use limit::ClientShare;
pub use serve::DirCache;
pub use view::{NetView, RelayInfo, Snapshot};

/// How often a descriptor is published without a reason (*dir-spec*, "Uploading server descriptors").
const REPUBLISH: Duration = Duration::from_secs(18 * 3600);

/// The first pause after a failure; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause while there is no consensus at all: a network that is just starting has one soon.
const LONGEST_WITHOUT: Duration = Duration::from_secs(5);

/// Makes the relay's descriptor as it is to be published at the given time.
pub type MakeDescriptor = Box<dyn Fn(SystemTime) -> Result<String, DescriptorError> + Send + Sync>;

/// Why a descriptor was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It could not be made.
    #[error("no descriptor could be made")]
    Make(#[from] DescriptorError),
    /// There is none to publish: [`Directory::publish_with`] was never called.
    #[error("there is no descriptor to publish")]
    Nothing,
    /// An authority could not be reached.
    #[error("no authority took the descriptor")]
    Fetch(#[from] FetchError),
    /// An authority refused it.
    #[error("{authority} refuses the descriptor: {reason}")]
    Refused {
        /// Which.
        authority: String,
        /// Its reason.
        reason: String,
    },
    /// The directory was shut down meanwhile.
    #[error("the directory is shut down")]
    ShutDown,
}

/// What the task is asked to do.
enum Command {
    /// Publish what this makes from now on, and at once.
    PublishWith(MakeDescriptor, oneshot::Sender<Result<(), PublishError>>),
    /// Publish again.
    Publish(oneshot::Sender<Result<(), PublishError>>),
    /// Fetch now.
    Refresh(oneshot::Sender<Result<(), FetchError>>),
}

/// The directory's task and its handles. Dropped, the task ends.
#[derive(Debug)]
pub struct Directory {
    /// The network.
    view: NetView,
    /// The documents.
    cache: DirCache,
    /// Requests to the task.
    commands: mpsc::Sender<Command>,
    /// The task.
    task: JoinHandle<()>,
}

impl Directory {
    /// Starts to follow the network that these authorities describe. Must be called in a tokio runtime. Nothing is
    /// published before [`publish_with`](Self::publish_with).
    pub fn start(authorities: Vec<Authority>) -> Directory {
        let (snapshots, view) = watch::channel(Arc::new(Snapshot::default()));
        let (documents, cache) = watch::channel(Shared::default());
        let (commands, requests) = mpsc::channel(16);
        let keeper = Keeper {
            authorities,
            documents,
            snapshots,
            make: None,
            publish_at: None,
            publish_pause: FIRST_PAUSE,
            refresh_at: tokio::time::Instant::now(),
            refresh_pause: FIRST_PAUSE,
        };
        Directory {
            view: NetView::new(view),
            cache: DirCache::new(cache),
            commands,
            task: tokio::spawn(keeper.run(requests)),
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

    /// Publishes what `make` makes: now, every 18 hours, and on [`publish`](Self::publish). Fails if not a single authority
    /// took it; it is tried again then, all the same.
    pub async fn publish_with(&self, make: MakeDescriptor) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::PublishWith(make, reply))
            .await
            .map_err(|_| PublishError::ShutDown)?;
        answer.await.unwrap_or(Err(PublishError::ShutDown))
    }

    /// Publishes a new descriptor now: something in it changed.
    pub async fn publish(&self) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Publish(reply))
            .await
            .map_err(|_| PublishError::ShutDown)?;
        answer.await.unwrap_or(Err(PublishError::ShutDown))
    }

    /// Fetches the consensus and what belongs to it now.
    pub async fn refresh(&self) -> Result<(), FetchError> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Refresh(reply)).await.is_err() {
            return Err(FetchError::NoAuthority);
        }
        answer.await.unwrap_or(Err(FetchError::NoAuthority))
    }

    /// Ends the task. The handles keep what they have.
    pub async fn shutdown(self) {
        self.task.abort();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task's state.
struct Keeper {
    /// Whom we believe.
    authorities: Vec<Authority>,
    /// All documents, for the cache.
    documents: watch::Sender<Shared>,
    /// The network, for the relay.
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Makes our descriptor.
    make: Option<MakeDescriptor>,
    /// When to publish next; never without a descriptor.
    publish_at: Option<tokio::time::Instant>,
    /// How long to wait after the next failure to publish.
    publish_pause: Duration,
    /// When to fetch next.
    refresh_at: tokio::time::Instant,
    /// How long to wait after the next failure to fetch.
    refresh_pause: Duration,
}

impl Keeper {
    /// Runs until the handle is gone.
    async fn run(mut self, mut requests: mpsc::Receiver<Command>) {
        loop {
            let publish_at = self.publish_at;
            let publish_time = async move {
                match publish_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(Command::PublishWith(make, reply)) => {
                        self.make = Some(make);
                        let _ = reply.send(self.publish().await);
                    }
                    Some(Command::Publish(reply)) => {
                        let _ = reply.send(self.publish().await);
                    }
                    Some(Command::Refresh(reply)) => {
                        let _ = reply.send(self.refresh().await);
                    }
                    None => return,
                },
                () = publish_time => {
                    if let Err(error) = self.publish().await {
                        warn!(%error, "the descriptor could not be published; it will be tried again");
                    }
                }
                () = tokio::time::sleep_until(self.refresh_at) => {
                    if let Err(error) = self.refresh().await {
                        debug!(%error, "the directory could not be fetched; it will be tried again");
                    }
                }
            }
        }
    }

    /// Makes the descriptor, serves it as our own, and hands it to every authority.
    async fn publish(&mut self) -> Result<(), PublishError> {
        let outcome = self.publish_once().await;
        let pause = match &outcome {
            Ok(()) => {
                self.publish_pause = FIRST_PAUSE;
                REPUBLISH
            }
            Err(_) => {
                let pause = self.publish_pause;
                self.publish_pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        self.publish_at = self.make.is_some().then(|| tokio::time::Instant::now() + pause);
        outcome
    }

    /// One attempt.
    async fn publish_once(&mut self) -> Result<(), PublishError> {
        let make = self.make.as_ref().ok_or(PublishError::Nothing)?;
        let text = make(SystemTime::now())?;
        let server = Server::new(Bytes::from(text.clone()));
        if let Some(id) = fetch::fingerprint(&server.text) {
            self.documents.send_modify(|documents| {
                let documents = Arc::make_mut(documents);
                documents.servers.insert(id, server);
                documents.own = Some(id);
            });
        }
        let mut failure = None;
        let mut taken = false;
        for authority in &self.authorities {
            match upload(authority, &text).await {
                Ok(Upload::Accepted) => {
                    debug!(authority = authority.name, "descriptor accepted");
                    taken = true;
                }
                Ok(Upload::NotNew) => {
                    info!(
                        authority = authority.name,
                        "the authority keeps the descriptor that it has"
                    );
                    taken = true;
                }
                Ok(Upload::Refused(reason)) => {
                    warn!(
                        authority = authority.name,
                        reason, "the authority refuses our descriptor"
                    );
                    failure = Some(PublishError::Refused {
                        authority: authority.name.clone(),
                        reason,
                    });
                }
                Err(error) => failure = Some(error.into()),
            }
        }
        match failure {
            _ if taken => Ok(()),
            Some(error) => Err(error),
            None => Err(PublishError::Fetch(FetchError::NoAuthority)),
        }
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
                debug!(relays = snapshot.relays().len(), "the directory is fresh");
                self.refresh_pause = FIRST_PAUSE;
                self.documents.send_replace(Arc::new(documents));
                self.snapshots.send_replace(Arc::new(snapshot));
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
