//! A hostile peer: every malformed, mistimed and oversized thing that we could think of, sent to a running relay.
//!
//! | module | subject |
//! |---|---|
//! | `wire.rs` | a link and circuits of our own, that send what they are told to |
//! | `opening.rs` | before a link is open: TCP, TLS, the link handshake |
//! | `cells.rs` | cells on an open link |
//! | `messages.rs` | relay messages on a circuit |
//! | `payments.rs` | payment messages to a relay that is paid |
//!
//! Cells and messages come from a client, and once more from a peer that has proved an identity which it has just made up. Payment
//! messages come from a relay of the consensus, too.
//!
//! Every [`Case`] says what it may cost: its link, its circuit, or nothing. [`attack`] runs them all against one relay, while a
//! [`Witness`], whose link and circuit are older than all of them, carries data over that relay. What it costs in
//! memory and handles is for who holds the relay to see: its gauges are back where they were when [`attack`] has returned.
//!
//! The driver speaks the protocol by itself and knows nothing of the relay but where it listens, so it can be turned on any
//! relay that serves a directory.

mod cells;
mod messages;
mod opening;
mod payments;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use obol_relay::keys::Keys;
use tokio_util::sync::CancellationToken;

use wire::{Circuit, Link};

/// Far more than a relay may take for anything here: it is waited for so long, and not longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the witness testifies while a case takes its time.
const BETWEEN: Duration = Duration::from_secs(1);

/// What a case may cost, and has to: a link that lives on after a breach of the link protocol is a fault, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// The connection, or the link: the relay closes it.
    Link,
    /// The circuit: the relay destroys it, and the link goes on.
    Circuit,
    /// Nothing: link and circuit go on.
    Nothing,
}

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Somebody without an identity.
    Client,
    /// Somebody who has proved one that nobody knows.
    Stranger,
    /// A relay of the consensus that is paid.
    Relay,
}

/// The relay to which something is done, and the identity of who does it, if any.
#[derive(Clone)]
struct Target {
    relay: SocketAddr,
    keys: Option<Arc<Keys>>,
}

impl From<SocketAddr> for Target {
    fn from(relay: SocketAddr) -> Self {
        Target { relay, keys: None }
    }
}

/// One thing that a peer should not do.
pub struct Case {
    /// What it does.
    pub name: String,
    /// What that costs.
    pub cost: Cost,
    /// Who does it.
    pub who: Who,
    run: Box<dyn Fn(Target) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?}, by {:?})", self.name, self.cost, self.who)
    }
}

/// How a relay failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A connection that should work does not.
    #[error("the connection: {0}")]
    Connection(#[from] io::Error),
    /// It did not come to what it should.
    #[error("{0}")]
    Other(String),
    /// In this case.
    #[error("{name}: {error}")]
    In {
        /// The case.
        name: String,
        /// What was wrong.
        error: Box<Failure>,
    },
}

fn failure<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Other(text.into()))
}

/// A link and a circuit that do nothing wrong, and fetch a document over and over. On loopback it comes from another address
/// than the cases, since what one address may have is limited.
pub struct Witness {
    link: Link,
    circuit: Circuit,
    stream: u16,
}

impl Witness {
    /// Opens both.
    ///
    /// # Errors
    /// The relay does not serve as it should.
    pub async fn new(relay: SocketAddr) -> Result<Self, Failure> {
        let mut link = Link::of_another(relay).await?;
        let circuit = link.circuit().await?;
        let mut witness = Witness {
            link,
            circuit,
            stream: 0,
        };
        witness.testify().await?;
        Ok(witness)
    }

    /// Fetches the relay's own descriptor over the circuit.
    ///
    /// # Errors
    /// The link or the circuit is gone, or the relay does not serve.
    pub async fn testify(&mut self) -> Result<(), Failure> {
        self.stream = self.stream.wrapping_add(1).max(1);
        let answer = self.circuit.fetch(&mut self.link, self.stream).await?;
        match answer.starts_with(b"HTTP/1.0 200") && answer.len() > 500 {
            true => Ok(()),
            false => failure(format!(
                "the witness got {} bytes: {}",
                answer.len(),
                String::from_utf8_lossy(&answer[..answer.len().min(80)])
            )),
        }
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Witness")
    }
}

/// All cases, in the order in which [`attack`] runs them.
pub fn cases() -> Vec<Case> {
    let mut all = opening::cases();
    all.extend(cells::cases());
    all.extend(messages::cases());
    let twice = cells::cases().into_iter().chain(messages::cases());
    all.extend(twice.map(|case| case.by(Who::Stranger)));
    all
}

/// New keys of a relay.
///
/// # Errors
/// They cannot be made.
pub async fn make_up() -> Result<Arc<Keys>, Failure> {
    let making = tokio::task::spawn_blocking(|| {
        let files = tempfile::tempdir()?;
        Keys::open(&files.path().join("keys"), SystemTime::now()).map_err(io::Error::other)
    });
    Ok(making.await.map_err(io::Error::other)??)
}

impl Case {
    /// The same by somebody else.
    fn by(self, who: Who) -> Case {
        Case {
            name: format!("{who:?}: {}", self.name),
            who,
            ..self
        }
    }
}

/// Runs every case against the relay at this address, with a witness after each. Returns how many there were.
///
/// # Errors
/// All cases that did not cost what they should, or that the witness did not survive.
pub fn attack(relay: SocketAddr) -> BoxFuture<'static, Result<usize, Vec<Failure>>> {
    // Boxed: what it runs is compiled with this crate, and not again with everything that calls it.
    play(relay, cases(), None).boxed()
}

/// The same with payment messages against a relay that is paid. `peer`: keys of a relay that is paid according to the consensus
/// that it has.
///
/// # Errors
/// As [`attack`].
pub fn attack_paid(relay: SocketAddr, peer: Arc<Keys>) -> BoxFuture<'static, Result<usize, Vec<Failure>>> {
    play(relay, payments::cases(), Some(peer)).boxed()
}

async fn play(relay: SocketAddr, all: Vec<Case>, peer: Option<Arc<Keys>>) -> Result<usize, Vec<Failure>> {
    let stranger = make_up().await.map_err(|error| vec![error])?;
    let mut witness = Witness::new(relay).await.map_err(|error| vec![error])?;
    let mut failures = Vec::new();
    let number = all.len();
    for case in all {
        let over = CancellationToken::new();
        // Meanwhile, and once more afterwards.
        let testifying = async {
            while !over.is_cancelled() {
                patiently(witness.testify()).await?;
                let _ = tokio::time::timeout(BETWEEN, over.cancelled()).await;
            }
            patiently(witness.testify()).await
        };
        let acting = async {
            let keys = match case.who {
                Who::Client => None,
                Who::Stranger => Some(Arc::clone(&stranger)),
                Who::Relay => peer.clone(),
            };
            let outcome = patiently((case.run)(Target { relay, keys })).await;
            over.cancel();
            outcome
        };
        let (outcome, testimony) = futures::join!(acting, testifying);
        let outcome = outcome.and(testimony);
        if let Err(error) = outcome {
            failures.push(Failure::In {
                name: case.name,
                error: Box::new(error),
            });
            // The next one is judged by itself.
            match Witness::new(relay).await {
                Ok(new) => witness = new,
                Err(error) => {
                    failures.push(error);
                    break;
                }
            }
        }
    }
    match failures.is_empty() {
        true => Ok(number),
        false => Err(failures),
    }
}

async fn patiently(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| failure("nothing came of it in time"))
}

/// A case that is made of these parts.
fn case<F>(name: impl Into<String>, cost: Cost, run: impl Fn(Target) -> F + Send + Sync + 'static) -> Case
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    Case {
        name: name.into(),
        cost,
        who: Who::Client,
        run: Box::new(move |target| Box::pin(run(target))),
    }
}
