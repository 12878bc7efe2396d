//! Publishing: every authority gets every edition of our descriptor, each at its own pace.
//!
//! One task makes editions: when something changed, every 18 hours, and when the consensus does not list us though it should
//! (*dir-spec*, "Uploading server descriptors and extra-info documents"). One task for each authority uploads the newest
//! edition until that authority has it. An authority that is gone holds up nobody but itself.
//!
//! An authority answers 200 to what it throws away, too: C Tor keeps what it has if that is less than two hours old and
//! differs in nothing that it compares. Onion keys, `proto` and certificates are not among that. So we look at what it
//! kept, and if that says less than ours, make an edition with a new TAP key, which is compared and used for nothing else
//! (or, where the consensus wants none, with another byte of bandwidth).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::documents::{RsaId, Server};
use super::fetch::{self, Authority, FetchError, Shared, Upload, upload};
use super::view::{NetView, Snapshot};
use crate::descriptor::{DescriptorError, Publication};

/// How often a descriptor is published without a reason (*dir-spec*, "Uploading server descriptors").
const REPUBLISH: Duration = Duration::from_secs(18 * 3600);

/// How long a consensus may lack us, or call our descriptor stale, before we publish again, as in C Tor. In a network that
/// votes more often than every half an hour: three votes.
const UNLISTED: Duration = Duration::from_secs(90 * 60);

/// The first pause after a failure; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after an authority could not be reached.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The first pause after a refusal: what is refused now will most probably be refused again.
const FIRST_REFUSED: Duration = Duration::from_secs(60);

/// The longest pause after a refusal.
const LONGEST_REFUSED: Duration = Duration::from_secs(3600);

/// Why and when a descriptor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occasion {
    /// The publication time that it is to name. Later than that of every edition before.
    pub now: SystemTime,
    /// It must differ from the edition before in what authorities compare: a new TAP key, or without one something else.
    pub distinct: bool,
}

/// Makes the relay's documents for an occasion. May block.
pub type MakeDescriptor = Arc<dyn Fn(Occasion) -> Result<Publication, DescriptorError> + Send + Sync>;

/// Why a descriptor was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// It could not be made.
    #[error("no descriptor could be made: {0}")]
    Make(Arc<DescriptorError>),
    /// There is none to publish: [`super::Directory::publish_with`] was never called.
    #[error("there is no descriptor to publish")]
    Nothing,
    /// No authority took it; what each said.
    #[error("no authority took the descriptor: {0}")]
    NotTaken(String),
    /// The directory was shut down meanwhile.
    #[error("the directory is shut down")]
    ShutDown,
}

/// How an authority stands to our newest descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The authority's name.
    pub authority: String,
    /// Whether it has that descriptor, or one that says the same.
    pub has_it: bool,
    /// Why it does not, as far as that is known.
    pub problem: Option<String>,
}

/// A request to publish: what this makes from now on, or what was made before.
pub(super) struct Command {
    /// Replaces what made the descriptor so far.
    pub make: Option<MakeDescriptor>,
    /// Replaces those that it is uploaded to.
    pub authorities: Option<Vec<Authority>>,
    /// Gets the outcome: the first authority that has it, or the failure of all.
    pub reply: oneshot::Sender<Result<(), PublishError>>,
}

/// One descriptor, with what belongs to it.
struct Edition {
    /// Counts from 1.
    number: u64,
    /// Whose it is.
    relay: RsaId,
    /// SHA-1 of its signed part.
    digest: [u8; 20],
    /// What is uploaded.
    body: String,
    /// It has a new TAP key.
    distinct: bool,
    /// When it was made.
    made: Instant,
}

/// What became of one attempt.
enum Outcome {
    /// The authority has it.
    Taken,
    /// It keeps an older one that says the same.
    Kept,
    /// It keeps an older one that says something else.
    KeptAnother,
    /// It refused, with this reason.
    Refused(String),
    /// It could not be asked.
    Failed(FetchError),
}

/// An [`Outcome`], from whom and of what.
struct Report {
    /// Index of the authority.
    authority: usize,
    /// Number of the edition.
    edition: u64,
    outcome: Outcome,
}

/// The state of the task that makes editions.
pub(super) struct Publisher {
    authorities: Vec<Authority>,
    /// Where our own descriptor is served from.
    documents: Arc<watch::Sender<Shared>>,
    editions: watch::Sender<Option<Arc<Edition>>>,
    standings: watch::Sender<Vec<Standing>>,
    make: Option<MakeDescriptor>,
    /// Those who wait for the newest edition to be taken.
    waiting: Vec<oneshot::Sender<Result<(), PublishError>>>,
    /// When the next edition is due.
    due: Option<Instant>,
    /// The pause after the next failure to make one.
    pause: Duration,
    /// The publication time of the newest edition.
    published: Option<SystemTime>,
    view: NetView,
}

/// Authorities of whom nothing was heard.
fn unknown(authorities: &[Authority]) -> Vec<Standing> {
    let unknown = |authority: &Authority| Standing {
        authority: authority.name.clone(),
        has_it: false,
        problem: None,
    };
    authorities.iter().map(unknown).collect()
}

impl Publisher {
    /// A task for each authority; they end when the set is dropped.
    fn upload(&self, reporter: &mpsc::Sender<Report>) -> JoinSet<()> {
        let mut uploads = JoinSet::new();
        for (index, authority) in self.authorities.iter().enumerate() {
            let uploading = keep_up_to_date(index, authority.clone(), self.editions.subscribe(), reporter.clone());
            uploads.spawn(uploading);
        }
        uploads
    }

    pub(super) fn new(
        authorities: Vec<Authority>,
        documents: Arc<watch::Sender<Shared>>,
        view: NetView,
    ) -> (Publisher, watch::Receiver<Vec<Standing>>) {
        let (standings, watcher) = watch::channel(unknown(&authorities));
        let publisher = Publisher {
            authorities,
            documents,
            editions: watch::channel(None).0,
            standings,
            make: None,
            waiting: Vec::new(),
            due: None,
            pause: FIRST_PAUSE,
            published: None,
            view,
        };
        (publisher, watcher)
    }

    /// Runs until the directory is gone, and the uploads with it.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut consensuses: NetView) {
        let (mut reporter, mut reports) = mpsc::channel(16);
        let mut _uploads = self.upload(&reporter);
        let mut followed = true;
        loop {
            let due = self.due;
            let due = async move {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command { make, authorities, reply }) => {
                        if let Some(authorities) = authorities {
                            self.standings.send_replace(unknown(&authorities));
                            self.authorities = authorities;
                            // Reports of the old ones, which are known by their places, go nowhere.
                            (reporter, reports) = mpsc::channel(16);
                            _uploads = self.upload(&reporter);
                        }
                        self.make = make.or(self.make.take());
                        self.waiting.push(reply);
                        self.publish(false).await;
                    }
                    None => return,
                },
                // One sender is ours: there is always another report to wait for.
                Some(report) = reports.recv() => self.heard(report).await,
                () = due => self.publish(false).await,
                more = consensuses.changed(), if followed => {
                    followed = more;
                    self.look_for_ourselves();
                }
            }
        }
    }

    /// Makes an edition, serves it as our own, and puts it before the uploading tasks.
    async fn publish(&mut self, distinct: bool) {
        let Some(make) = self.make.clone() else {
            return self.answer(&Err(PublishError::Nothing));
        };
        // Of two editions with one publication time authorities keep the first.
        let now = SystemTime::now();
        let now = self
            .published
            .map_or(now, |last| now.max(last + Duration::from_secs(1)));
        let made = tokio::task::spawn_blocking(move || make(Occasion { now, distinct })).await;
        let publication = match made {
            Ok(Ok(publication)) => publication,
            Ok(Err(error)) => {
                warn!(%error, "no descriptor could be made; it will be tried again");
                self.due = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                return self.answer(&Err(PublishError::Make(Arc::new(error))));
            }
            // The runtime is going away.
            Err(_) => return self.answer(&Err(PublishError::ShutDown)),
        };
        self.pause = FIRST_PAUSE;
        self.due = Some(Instant::now() + REPUBLISH);
        self.published = Some(now);
        let body = publication.body();
        let server = Server {
            extra_info: Some(publication.extra_info.into()),
            ..Server::new(Bytes::from(publication.descriptor))
        };
        let Some(relay) = fetch::fingerprint(&server.text) else {
            return self.answer(&Err(PublishError::Nothing));
        };
        let edition = Edition {
            number: self.editions.borrow().as_ref().map_or(1, |last| last.number + 1),
            relay,
            digest: server.digest,
            body,
            distinct,
            made: Instant::now(),
        };
        self.documents.send_modify(|documents| {
            let documents = Arc::make_mut(documents);
            documents.servers.insert(relay, server);
            documents.own = Some(relay);
        });
        self.standings.send_modify(|standings| {
            for standing in standings {
                standing.has_it = false;
                standing.problem = None;
            }
        });
        debug!(number = edition.number, distinct, "a new edition of the descriptor");
        self.editions.send_replace(Some(Arc::new(edition)));
        if self.authorities.is_empty() {
            self.answer(&Err(PublishError::NotTaken(FetchError::NoAuthority.to_string())));
        }
    }

    /// Takes note of what an authority said.
    async fn heard(&mut self, report: Report) {
        let Some(edition) = self.editions.borrow().clone() else {
            return;
        };
        if edition.number != report.edition {
            return;
        }
        let authority = self.authorities.get(report.authority).map_or("", |a| a.name.as_str());
        let problem = match report.outcome {
            Outcome::Taken => {
                debug!(authority, "the authority has our descriptor");
                None
            }
            Outcome::Kept => {
                info!(authority, "the authority keeps a descriptor that says the same");
                None
            }
            Outcome::KeptAnother if edition.distinct => {
                let problem = "it keeps another descriptor of this relay: compare the clocks, and see that no other relay \
                               runs with these keys";
                warn!(authority, "our descriptor is not taken: {problem}");
                Some(problem.to_owned())
            }
            Outcome::KeptAnother => {
                info!(
                    authority,
                    "what changed does not count for the authority: publishing what differs more"
                );
                return self.publish(true).await;
            }
            Outcome::Refused(reason) => {
                warn!(authority, reason, "the authority refuses our descriptor");
                Some(reason)
            }
            Outcome::Failed(error) => {
                debug!(authority, %error, "the descriptor could not be handed over");
                Some(error.to_string())
            }
        };
        self.standings.send_modify(|standings| {
            if let Some(standing) = standings.get_mut(report.authority) {
                standing.has_it = problem.is_none();
                standing.problem = problem;
            }
        });
        let standings = self.standings.borrow().clone();
        if standings.iter().any(|standing| standing.has_it) {
            self.answer(&Ok(()));
        } else if standings.iter().all(|standing| standing.problem.is_some()) {
            let problems: Vec<String> = standings
                .iter()
                .map(|s| format!("{}: {}", s.authority, s.problem.as_deref().unwrap_or_default()))
                .collect();
            self.answer(&Err(PublishError::NotTaken(problems.join("; "))));
        }
    }

    /// Tells those who wait.
    fn answer(&mut self, outcome: &Result<(), PublishError>) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(outcome.clone());
        }
    }

    /// Publishes soon if a new consensus should list us and does not, or says that what authorities have of us is stale.
    fn look_for_ourselves(&mut self) {
        let Some(edition) = self.editions.borrow().clone() else {
            return;
        };
        if is_missed(&self.view.snapshot(), edition.relay, edition.made.elapsed()) {
            info!("the consensus does not list us as we are: publishing again");
            self.due = Some(Instant::now());
        }
    }
}

/// Whether a consensus lacks a relay, or calls its descriptor stale, so long after it was published that something is wrong.
fn is_missed(consensus: &Snapshot, relay: RsaId, age: Duration) -> bool {
    let wait = consensus
        .interval
        .map_or(UNLISTED, |interval| UNLISTED.min(interval * 3));
    age > wait && consensus.valid_after.is_some() && consensus.by_rsa(&relay).is_none_or(|relay| relay.stale)
}

/// Uploads each edition until this authority has it.
async fn keep_up_to_date(
    index: usize,
    authority: Authority,
    mut editions: watch::Receiver<Option<Arc<Edition>>>,
    reports: mpsc::Sender<Report>,
) {
    let mut failures = 0;
    loop {
        let edition = editions.borrow_and_update().clone();
        let attempt = async {
            let Some(edition) = edition else {
                // Nothing to publish yet.
                return std::future::pending().await;
            };
            let outcome = hand_over(&authority, &edition).await;
            let pause = match &outcome {
                Outcome::Taken | Outcome::Kept => None,
                Outcome::Refused(_) | Outcome::KeptAnother => Some((FIRST_REFUSED, LONGEST_REFUSED)),
                Outcome::Failed(_) => Some((FIRST_PAUSE, LONGEST_PAUSE)),
            };
            let report = Report {
                authority: index,
                edition: edition.number,
                outcome,
            };
            // Gone only with the directory.
            let _ = reports.send(report).await;
            match pause {
                None => {
                    failures = 0;
                    std::future::pending().await
                }
                Some((first, longest)) => {
                    let pause = longest.min(first * (1 << failures.min(16)));
                    failures += 1;
                    // Relays that lost an authority at the same time do not come back at the same time.
                    let part: u32 = rand::random_range(750..=1250);
                    tokio::time::sleep(pause / 1000 * part).await;
                }
            }
        };
        // A newer edition ends the attempt with an older one.
        tokio::select! {
            changed = editions.changed() => if changed.is_err() {
                return;
            },
            () = attempt => {}
        }
    }
}

/// One attempt.
async fn hand_over(authority: &Authority, edition: &Edition) -> Outcome {
    match upload(authority, &edition.body).await {
        Ok(Upload::Accepted) => Outcome::Taken,
        Ok(Upload::Refused(reason)) => Outcome::Refused(reason),
        Ok(Upload::NotNew) => match fetch::held_of(authority, edition.relay).await {
            Ok(text) => compare(&Server::new(text), edition),
            Err(FetchError::Status { status: 404, .. }) => Outcome::Refused(
                "it finds our descriptor too old, or its certificates over: compare the clocks".to_owned(),
            ),
            Err(error) => Outcome::Failed(error),
        },
        Err(error) => Outcome::Failed(error),
    }
}

/// What it means that an authority kept `held` when it was handed `edition`.
fn compare(held: &Server, edition: &Edition) -> Outcome {
    if held.digest == edition.digest {
        return Outcome::Taken;
    }
    match std::str::from_utf8(&held.text) {
        Ok(text) if decisive(text) == decisive(&edition.body) => Outcome::Kept,
        _ => Outcome::KeptAnother,
    }
}

/// The lines of a descriptor that matter to others, but that C Tor's authorities do not compare
/// (`router_differences_are_cosmetic`).
fn decisive(descriptor: &str) -> Vec<&str> {
    const ITEMS: [&str; 6] = [
        "identity-ed25519",
        "proto",
        "ntor-onion-key",
        "family-cert",
        "ipv6-policy",
        "hidden-service-dir",
    ];
    // Without the extra-info document, which has an item of the same name.
    let end = descriptor.find("\nrouter-signature\n").unwrap_or(descriptor.len());
    let mut lines = Vec::new();
    let mut object_of_item = false;
    let mut in_object = false;
    for line in descriptor[..end].lines() {
        if line.starts_with("-----BEGIN ") {
            in_object = true;
        } else if !in_object {
            object_of_item = ITEMS.contains(&line.split(' ').next().unwrap_or_default());
        }
        if object_of_item {
            lines.push(line);
        }
        if line.starts_with("-----END ") {
            in_object = false;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::view::RelayInfo;
    use super::*;

    const HELD: &str = "router a 127.0.0.1 1 0 0\nidentity-ed25519\n-----BEGIN ED25519 CERT-----\nAAAA\n-----END ED25519 \
                        CERT-----\nproto Link=4\nuptime 5\nntor-onion-key k\nrouter-signature\n-----BEGIN \
                        SIGNATURE-----\nxxxx\n-----END SIGNATURE-----\n";

    fn edition(body: &str) -> Edition {
        Edition {
            number: 1,
            relay: [1; 20],
            digest: Server::new(Bytes::from(body.to_owned())).digest,
            body: body.to_owned(),
            distinct: false,
            made: Instant::now(),
        }
    }

    #[test]
    fn an_authority_that_kept_an_older_descriptor_has_ours_only_if_that_says_the_same_to_others() {
        let held = Server::new(Bytes::from_static(HELD.as_bytes()));
        let outcome = |body: &str| compare(&held, &edition(body));
        assert!(matches!(outcome(HELD), Outcome::Taken));
        assert!(matches!(outcome(&HELD.replace("uptime 5", "uptime 9")), Outcome::Kept));
        for (from, to) in [
            ("proto Link=4", "proto Link=4 Obol=1"),
            ("ntor-onion-key k", "ntor-onion-key l"),
            ("AAAA", "BBBB"),
            ("uptime 5", "hidden-service-dir"),
        ] {
            let changed = HELD.replace(from, to);
            assert!(matches!(outcome(&changed), Outcome::KeptAnother), "{to}");
        }
    }

    #[test]
    fn a_relay_publishes_again_when_the_consensus_has_lacked_it_for_long_or_calls_it_stale() {
        let relay = |n: u8, stale| RelayInfo {
            rsa: [n; 20],
            stale,
            ..RelayInfo::default()
        };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let consensus = |relays: Vec<RelayInfo>, interval| {
            Snapshot::new(Some(SystemTime::UNIX_EPOCH), HashMap::new(), relays).every(Some(interval))
        };
        let without = consensus(vec![relay(2, false)], minutes(60));
        assert!(!is_missed(&without, [1; 20], minutes(89)));
        assert!(is_missed(&without, [1; 20], minutes(91)));
        let stale = consensus(vec![relay(1, true)], minutes(60));
        assert!(is_missed(&stale, [1; 20], minutes(91)));
        let listed = consensus(vec![relay(1, false)], minutes(60));
        assert!(!is_missed(&listed, [1; 20], minutes(1000)));
        // A network that votes every minute.
        assert!(is_missed(&consensus(vec![], minutes(1)), [1; 20], minutes(4)));
        // No consensus at all.
        assert!(!is_missed(&Snapshot::default(), [1; 20], minutes(1000)));
    }
}
