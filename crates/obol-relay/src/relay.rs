//! A running relay: the engine behind its lock, and the tasks around it.
//!
//! ```text
//!  listeners ─► link handshake ─► reader + writer per link ─┐
//!  dialler  ──► link handshake ─► reader + writer per link ─┤
//!  streams: one task each ──────────────────────────────────┼─► Mutex<Core>: engine, who is to be woken
//!  handshake workers (public-key operations) ───────────────┤
//!  pacer (configured rate), housekeeper ────────────────────┘
//! ```
//!
//! Every task takes the lock once per batch of work and never across an await. Under the lock only the engine runs; its
//! events are sorted there (so that their order is the engine's) and acted upon after it is released.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use obol_onion::engine::{
    CircuitId, Congestion, Counters, DefenceParameters, DestroyReason, Engine, EngineConfig, Event, LinkId,
    LinkParameters, NextHop, PaymentEvent, Peer, SendmeVersions, StreamId, Time, UnpaidShare,
};
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::circuits::Job;
use crate::defence::{ConnectionLimits, Door, DoorCounters};
use crate::directory::{DirCache, NetView, Snapshot};
use crate::handshake::{Local, Timeouts};
use crate::keys::Keys;
use crate::known::is_known;
use crate::link::{self, Dialler, LinkTask};
use crate::streams::{self, ExitConfig, Resolver, StreamTask};

/// Payment events that may wait for the payments driver before links are read more slowly.
const PAYMENTS_WAITING: usize = 65_536;
/// How often the housekeeper looks. Padding is to come within ten seconds of silence, and may ask for nearly as many.
const TICK: Duration = Duration::from_millis(100);
/// Ticks after which it does what need not be done so often.
const SECOND: u32 = 10;

/// What a relay is made of.
#[derive(Debug)]
pub struct RelayParts {
    /// Its keys.
    pub keys: Arc<Keys>,
    /// Where it accepts links. Port 0: a free one.
    pub listen: Vec<SocketAddr>,
    /// The addresses and ports in its descriptor; empty: those it listens on. Peers that reach it elsewhere open a second
    /// link.
    pub advertised: Vec<SocketAddr>,
    /// How it shares what it has.
    pub engine: EngineConfig,
    /// What it connects to as an exit.
    pub exit: ExitConfig,
    /// What it answers on BEGIN_DIR streams; `None`: it refuses them.
    pub directory: Option<DirCache>,
    /// The network, if it is known: who is a relay, who has which Ed25519 identity.
    pub net: Option<NetView>,
    /// Where payment events go; `None`: nowhere, and all circuits are unpaid.
    pub payments: Option<PaymentSink>,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}. {}", advice(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What to do about an address that cannot be listened on.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "Another program has this port: stop it, or choose another in or.listen",
        std::io::ErrorKind::PermissionDenied => {
            "Choose a port from 1024 on in or.listen, or allow this program the lower ones"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "This machine does not have the address: name one that it has in or.listen, and the one that others reach in \
             or.advertise"
        }
        _ => "Check or.listen",
    }
}

/// Where the relay puts payment events.
#[derive(Debug, Clone)]
pub struct PaymentSink {
    sender: mpsc::UnboundedSender<PaymentEvent>,
    waiting: Arc<AtomicUsize>,
}

/// Where the payments driver takes them from.
#[derive(Debug)]
pub struct PaymentEvents {
    receiver: mpsc::UnboundedReceiver<PaymentEvent>,
    waiting: Arc<AtomicUsize>,
}

/// The two ends of the way from a relay to its payments driver. It does not lose events; while very many wait, the
/// relay's links are read no further.
pub fn payment_channel() -> (PaymentSink, PaymentEvents) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let sink = PaymentSink {
        sender,
        waiting: Arc::clone(&waiting),
    };
    (sink, PaymentEvents { receiver, waiting })
}

impl PaymentSink {
    fn send(&self, event: PaymentEvent) {
        // A driver that has gone away leaves a relay that serves everybody unpaid.
        if self.sender.send(event).is_ok() {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for PaymentEvents {
    fn drop(&mut self) {
        // Nobody waits for what nobody takes.
        self.receiver.close();
        self.waiting.store(0, Ordering::Relaxed);
    }
}

impl PaymentEvents {
    /// The next event, in the engine's order; `None` once the relay has stopped.
    pub async fn recv(&mut self) -> Option<PaymentEvent> {
        let event = self.receiver.recv().await?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }

    /// The next event, if there is one already.
    pub fn try_recv(&mut self) -> Option<PaymentEvent> {
        let event = self.receiver.try_recv().ok()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }
}

/// What the lock protects.
pub(crate) struct Core {
    engine: Engine,
    /// The tasks of each link.
    pub(crate) links: HashMap<LinkId, Arc<LinkTask>>,
    /// The task of each stream.
    pub(crate) streams: HashMap<StreamId, Arc<StreamTask>>,
    woken: Vec<LinkId>,
    /// What is woken by the work under way does well to wait for others' work.
    soon: bool,
    /// Taken out when the relay has stopped, so that the payments driver sees the end.
    payments: Option<PaymentSink>,
    /// The pacer sleeps until it is notified.
    pacer_idle: bool,
}

/// What all tasks of a relay share.
pub(crate) struct Shared {
    core: Mutex<Core>,
    start: Instant,
    pub(crate) keys: Arc<Keys>,
    local: RwLock<Arc<Local>>,
    /// What it advertises, with ports.
    advertised: Mutex<Vec<SocketAddr>>,
    exit: RwLock<Arc<ExitConfig>>,
    /// Parameters that the operator has set, whatever the consensus says.
    overrides: RwLock<HashMap<&'static str, i32>>,
    /// Accept no links and no circuits.
    asleep: AtomicBool,
    pub(crate) resolver: Resolver,
    pub(crate) directory: Option<DirCache>,
    pub(crate) net: Option<NetView>,
    /// Payment events that the driver has not taken.
    payments_waiting: Arc<AtomicUsize>,
    /// A relay has connected to an address that we advertise now. Changes under the lock of `local` only.
    reached: AtomicBool,
    /// Public-key work, by worker.
    workers: Vec<mpsc::UnboundedSender<Job>>,
    dialler: Mutex<Dialler>,
    pub(crate) door: Arc<Door>,
    pacer: Notify,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// All tasks have ended.
    stopped: CancellationToken,
}

impl Core {
    /// Sorts the engine's events: wakes who has to be woken, and leaves the rest for after the lock.
    fn drain(&mut self, shared: &Shared, rest: &mut Vec<Event>) {
        let soon = core::mem::take(&mut self.soon);
        self.engine.take_woken(&mut self.woken);
        for link in self.woken.drain(..) {
            if let Some(task) = self.links.get(&link) {
                task.wake(soon);
            }
        }
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Payment(event) => {
                    if let Some(sink) = &self.payments {
                        sink.send(event);
                    }
                }
                Event::StreamReady { stream } => {
                    if let Some(task) = self.streams.get(&stream) {
                        task.wake();
                    }
                }
                Event::CloseLink { link, why } => {
                    debug!(%why, "closing a link");
                    if let Some(tasks) = self.links.get(&link) {
                        tasks.stop.cancel();
                    }
                }
                // Registered here, so that whatever happens to the stream from now on finds its task.
                Event::Begin { stream, .. } | Event::BeginDir { stream, .. } => {
                    self.streams.insert(stream, Arc::new(StreamTask::default()));
                    rest.push(event);
                }
                other => rest.push(other),
            }
        }
        if self.pacer_idle && self.engine.next_wake().is_some() {
            self.pacer_idle = false;
            shared.pacer.notify_one();
        }
    }
}

impl Shared {
    /// The engine's time now.
    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic inside is a bug of ours that has been reported; the other links need not die of it.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are being made.
    pub(crate) fn dialler(&self) -> MutexGuard<'_, Dialler> {
        self.dialler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it says of itself when it opens a link.
    pub(crate) fn local(&self) -> Arc<Local> {
        Arc::clone(&self.local.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A relay that was told `local` has connected to an address in there.
    pub(crate) fn mark_reached(&self, local: &Arc<Local>) {
        let now = self.local.read().unwrap_or_else(PoisonError::into_inner);
        // What was advertised when the handshake began may not be any more.
        if Arc::ptr_eq(&now, local) {
            self.reached.store(true, Ordering::Relaxed);
        }
    }

    /// What it connects to as an exit.
    pub(crate) fn exit(&self) -> Arc<ExitConfig> {
        Arc::clone(&self.exit.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A parameter: as the operator has set it, or as the consensus has, if either has.
    fn parameter(&self, name: &str) -> Option<i32> {
        let set = self.overrides.read().unwrap_or_else(PoisonError::into_inner);
        let set = set.get(name).copied();
        set.or_else(|| self.net.as_ref().and_then(|net| net.param(name)))
    }

    /// Whether an identity that was proved is that of a relay of our consensus. Without a network to ask, all are.
    pub(crate) fn is_known(&self, peer: &Peer) -> bool {
        self.net.as_ref().is_none_or(|net| is_known(&net.snapshot(), peer))
    }

    /// One batch of work on the engine, under its lock; then what it asks for is done.
    pub(crate) fn with<T>(self: &Arc<Self>, work: impl FnOnce(&mut Engine, Time) -> T) -> T {
        self.with_core(|core, now| work(&mut core.engine, now))
    }

    /// The same for one of many streams: links that it wakes let the other streams that are ready go first, and then send the
    /// cells of all of them at once.
    pub(crate) fn with_stream<T>(self: &Arc<Self>, work: impl FnOnce(&mut Engine, Time) -> T) -> T {
        self.with_core(|core, now| {
            core.soon = true;
            work(&mut core.engine, now)
        })
    }

    /// The same, with the tables of tasks at hand.
    pub(crate) fn with_core<T>(self: &Arc<Self>, work: impl FnOnce(&mut Core, Time) -> T) -> T {
        let mut rest = Vec::new();
        let result = {
            let now = self.now();
            let mut core = self.lock();
            core.engine.advance(now);
            let result = work(&mut core, now);
            core.drain(self, &mut rest);
            result
        };
        for event in rest {
            self.act(event);
        }
        result
    }

    fn act(self: &Arc<Self>, event: Event) {
        match event {
            Event::Handshake(job) => self.work(job.circuit, Job::Handshake(job)),
            Event::Introduction(proof) => self.work(proof.circuit, Job::Introduction(proof)),
            Event::NeedLink { extend, neighbour, to } => link::need(self, extend, neighbour, to),
            Event::Begin {
                stream, peer, target, ..
            } => streams::begin(self, stream, peer, target),
            Event::BeginDir { stream, neighbour } => streams::begin_dir(self, stream, neighbour),
            Event::Resolve { stream, peer, name } => streams::resolve(self, stream, peer, name),
            Event::Payment(_) | Event::StreamReady { .. } | Event::CloseLink { .. } => {}
        }
    }

    /// Gives public-key work to its worker.
    fn work(&self, circuit: CircuitId, job: Job) {
        let worker = circuit.to_u64() as usize % self.workers.len();
        // Gone only when the relay stops.
        let _ = self.workers[worker].send(job);
    }

    /// Whether the payments driver is far behind: then links are read no further.
    pub(crate) fn payments_behind(&self) -> bool {
        self.payments_waiting.load(Ordering::Relaxed) > PAYMENTS_WAITING
    }

    /// Runs a task until it ends or the relay stops.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }
}

impl Core {
    /// The engine, for a batch that also registers tasks.
    pub(crate) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

/// A Tor relay, paid or not.
#[derive(Debug)]
pub struct Relay;

/// A running relay. When the last clone of it is dropped, the relay stops.
#[derive(Debug, Clone)]
pub struct RelayHandle {
    addresses: Arc<[SocketAddr]>,
    engine: EngineHandle,
    _stop: Arc<DropGuard>,
}

/// The way to a running relay's engine, for payments and metrics. Cheap to clone; keeps nothing running. Each call takes
/// the lock once; use [`with`](Self::with) for several things at once.
#[derive(Clone)]
pub struct EngineHandle(Arc<Shared>);

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EngineHandle")
    }
}

impl Relay {
    /// Starts a relay on the current runtime.
    ///
    /// # Errors
    /// An address that cannot be listened on. Then nothing is left running.
    pub fn start(parts: RelayParts) -> BoxFuture<'static, Result<RelayHandle, StartError>> {
        // Boxed: what it runs is compiled with this crate, and not again with everything that calls it.
        Relay::bring_up(parts).boxed()
    }

    async fn bring_up(parts: RelayParts) -> Result<RelayHandle, StartError> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for address in &parts.listen {
            let failed = |source| StartError::Listen {
                address: *address,
                source,
            };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            addresses.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let advertised = match parts.advertised.is_empty() {
            true => addresses.clone(),
            false => parts.advertised,
        };
        let mut config = parts.engine;
        config.own_addresses.extend(addresses.iter().chain(&advertised));
        let mut exit = parts.exit;
        exit.own.extend(advertised.iter().map(SocketAddr::ip));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        config.handshake_workers = cores;
        let (workers, jobs): (Vec<_>, Vec<_>) = (0..cores).map(|_| mpsc::unbounded_channel()).unzip();
        let payments_waiting = parts
            .payments
            .as_ref()
            .map(|sink| Arc::clone(&sink.waiting))
            .unwrap_or_default();
        let stop = CancellationToken::new();
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        let shared = Arc::new(Shared {
            core: Mutex::new(Core {
                engine: Engine::new(config, seed),
                links: HashMap::new(),
                streams: HashMap::new(),
                woken: Vec::new(),
                soon: false,
                payments: parts.payments,
                pacer_idle: true,
            }),
            start: Instant::now(),
            keys: parts.keys,
            local: RwLock::new(Arc::new(Local {
                advertised: advertised.iter().map(SocketAddr::ip).collect(),
                timeouts: Timeouts::default(),
            })),
            advertised: Mutex::new(advertised),
            exit: RwLock::new(Arc::new(exit)),
            overrides: RwLock::default(),
            asleep: AtomicBool::new(false),
            resolver: Resolver::new(),
            directory: parts.directory,
            net: parts.net,
            payments_waiting,
            reached: AtomicBool::new(false),
            workers,
            dialler: Mutex::new(Dialler::default()),
            door: Arc::new(Door::default()),
            pacer: Notify::new(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            stopped: CancellationToken::new(),
        });
        for listener in listeners {
            shared.spawn(listen(Arc::clone(&shared), listener));
        }
        for jobs in jobs {
            shared.spawn(key_worker(Arc::clone(&shared), jobs));
        }
        shared.spawn(pacer(Arc::clone(&shared)));
        shared.spawn(housekeeper(Arc::clone(&shared)));
        tokio::spawn(undertaker(Arc::clone(&shared)));
        Ok(RelayHandle {
            addresses: addresses.into(),
            engine: EngineHandle(shared),
            _stop: Arc::new(stop.drop_guard()),
        })
    }
}

impl RelayHandle {
    /// Where the relay accepts links, in the order of [`RelayParts::listen`], with real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The way to the engine.
    pub fn engine(&self) -> EngineHandle {
        self.engine.clone()
    }

    /// From now on new links and circuits are refused, or accepted again. Those that are open go on.
    pub fn sleep(&self, asleep: bool) {
        let shared = &self.engine.0;
        shared.asleep.store(asleep, Ordering::Relaxed);
        shared.with(|engine, _| engine.refuse_circuits(asleep));
    }

    /// Closes all links, and with them all circuits.
    pub fn close_links(&self) {
        self.engine.0.with_core(|core, _| {
            for task in core.links.values() {
                task.stop.cancel();
            }
        });
    }

    /// From now on it connects to this as an exit; the advertised addresses are added to its own.
    pub fn set_exit(&self, mut exit: ExitConfig) {
        let shared = &self.engine.0;
        exit.own.extend(shared.local().advertised.iter().copied());
        *shared.exit.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(exit);
    }

    /// From now on these addresses are its own: links are opened and accepted with them, nobody is extended to them, and
    /// whether a relay has reached it there is not known yet. Empty: those it listens on. For [`set_exit`](Self::set_exit)
    /// to know them, it comes after this. Returns whether they are others than before.
    pub fn set_advertised(&self, advertised: Vec<SocketAddr>) -> bool {
        let advertised = match advertised.is_empty() {
            true => self.addresses.to_vec(),
            false => advertised,
        };
        let shared = &self.engine.0;
        let mut before = shared.advertised.lock().unwrap_or_else(PoisonError::into_inner);
        if *before == advertised {
            return false;
        }
        let own: Vec<SocketAddr> = self.addresses.iter().chain(&advertised).copied().collect();
        shared.with(|engine, _| engine.set_own_addresses(own));
        let mut local = shared.local.write().unwrap_or_else(PoisonError::into_inner);
        *local = Arc::new(Local {
            advertised: advertised.iter().map(SocketAddr::ip).collect(),
            timeouts: local.timeouts,
        });
        shared.reached.store(false, Ordering::Relaxed);
        *before = advertised;
        true
    }

    /// From now on these parameters hold, by their names in the consensus, whatever that says.
    pub fn set_overrides(&self, overrides: HashMap<&'static str, i32>) {
        *self.engine.0.overrides.write().unwrap_or_else(PoisonError::into_inner) = overrides;
    }

    /// Stops the relay: no more circuits, all links closed, all tasks ended.
    pub async fn shutdown(&self) {
        self.sleep(true);
        let shared = &self.engine.0;
        shared.stop.cancel();
        shared.stopped.cancelled().await;
    }
}

impl EngineHandle {
    /// Several calls under one lock. Neither block nor wait in there.
    pub fn with<T>(&self, work: impl FnOnce(&mut Engine, Time) -> T) -> T {
        self.0.with(work)
    }

    /// Lets a circuit carry `bytes` more in the paid class.
    pub fn grant(&self, circuit: CircuitId, bytes: u64) {
        self.with(|engine, _| engine.grant(circuit, bytes));
    }

    /// Asks for one [`PaymentEvent::CreditLow`] when the circuit's credit is below `below` bytes.
    pub fn watch_credit(&self, circuit: CircuitId, below: u64) {
        self.with(|engine, _| engine.watch_credit(circuit, below));
    }

    /// Bytes that a circuit may still carry in the paid class; `None`: it is gone.
    pub fn credit(&self, circuit: CircuitId) -> Option<u64> {
        self.with(|engine, _| engine.credit(circuit))
    }

    /// Bytes that a circuit has carried, both directions; `None`: it is gone.
    pub fn metered(&self, circuit: CircuitId) -> Option<u64> {
        self.with(|engine, _| engine.metered(circuit))
    }

    /// Sends a relay message 51 to the client of a circuit: at most 498 bytes.
    pub fn answer(&self, circuit: CircuitId, body: &[u8]) {
        self.with(|engine, _| engine.answer(circuit, body));
    }

    /// Sends a link message 200: at most 16 KiB.
    pub fn send_link(&self, link: LinkId, body: &[u8]) {
        self.with(|engine, _| engine.send_link(link, body));
    }

    /// Ends a circuit on both sides.
    pub fn destroy(&self, circuit: CircuitId, reason: DestroyReason) {
        self.with(|engine, _| engine.destroy(circuit, reason));
    }

    /// Closes a link.
    pub fn close_link(&self, link: LinkId) {
        self.with(|engine, _| engine.close_link(link));
    }

    /// Opens a link to a relay ahead of need, unless there is one or is about to be. Whether that works out shows in a
    /// [`PaymentEvent::LinkUp`].
    pub fn connect(&self, to: NextHop) {
        link::ahead(&self.0, to);
    }

    /// Changes the rate that all links share, in bytes per second; `None`: no limit.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.with(|engine, now| engine.set_rate(now, rate));
    }

    /// Changes what may be saved up of that rate, in bytes.
    pub fn set_burst(&self, burst: u64) {
        self.with(|engine, now| engine.set_burst(now, burst));
    }

    /// Changes how much memory cells may take, in bytes.
    pub fn set_cell_memory(&self, bytes: usize) {
        self.with(|engine, _| engine.set_cell_memory(bytes));
    }

    /// Changes what the unpaid class gets of it.
    pub fn set_unpaid(&self, unpaid: UnpaidShare) {
        self.with(|engine, now| engine.set_unpaid(now, unpaid));
    }

    /// Whether it refuses new links and circuits.
    pub fn is_asleep(&self) -> bool {
        self.0.asleep.load(Ordering::Relaxed)
    }

    /// Whether a relay that authenticated itself has connected to an address that we advertise, since we do.
    pub fn was_reached(&self) -> bool {
        self.0.reached.load(Ordering::Relaxed)
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.with(|engine, _| engine.counters())
    }

    /// What was counted at the door, where links are accepted.
    pub fn door(&self) -> DoorCounters {
        self.0.door.counters()
    }
}

/// Accepts links.
async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok(_) if shared.asleep.load(Ordering::Relaxed) => {}
            Ok((tcp, remote)) => match shared.door.knock(remote, Instant::now()) {
                Ok(knock) => drop(shared.tasks.spawn(link::accepted(Arc::clone(&shared), tcp, knock))),
                Err(refused) => debug!(%remote, %refused, "a connection is not let in"),
            },
            Err(error) => {
                // Out of descriptors, usually: whoever holds them will let go of some.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Does public-key operations on a thread where that hinders nobody.
async fn key_worker(shared: Arc<Shared>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut batch = Vec::new();
    while jobs.recv_many(&mut batch, 16).await > 0 {
        let mut work = std::mem::take(&mut batch);
        shared.with(|engine, now| work.retain(|job| job.take_up(engine, now)));
        let keys = shared.keys.onion_keys();
        let done = tokio::task::spawn_blocking(move || work.iter().map(|job| job.done(&keys)).collect::<Vec<_>>());
        // Fails only when the runtime is going away.
        let Ok(done) = done.await else { return };
        shared.with(|engine, now| {
            for done in done {
                done.tell(engine, now);
            }
        });
    }
}

/// When the relay is told to stop: waits for its tasks, and then lets the payments driver see the end.
async fn undertaker(shared: Arc<Shared>) {
    shared.stop.cancelled().await;
    shared.tasks.close();
    shared.tasks.wait().await;
    shared.with_core(|core, _| {
        core.streams.clear();
        core.payments = None;
    });
    shared.stopped.cancel();
}

/// With a configured rate: hands out what it allows, when it allows it.
async fn pacer(shared: Arc<Shared>) {
    loop {
        let next = shared.with_core(|core, now| {
            core.engine.wake(now);
            let next = core.engine.next_wake();
            core.pacer_idle = next.is_none();
            next.map(|next| next.since(now))
        });
        match next {
            None => shared.pacer.notified().await,
            Some(micros) => tokio::time::sleep(Duration::from_micros(micros)).await,
        }
    }
}

/// Pads links, closes those that are of no use, and follows the consensus.
async fn housekeeper(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut judged: Option<Arc<Snapshot>> = None;
    for tick in (0..SECOND).cycle() {
        ticks.tick().await;
        let param = |name: &str, default| shared.parameter(name).unwrap_or(default);
        let defences = (tick == 0).then(|| {
            shared.door.set_limits(ConnectionLimits::new(param));
            DefenceParameters::new(param)
        });
        // Without a network it stays as it was configured.
        let parameters = (tick == 0 && shared.net.is_some()).then(|| {
            let window = param("circwindow", 1000).clamp(100, 1000) as u16;
            let sendmes = SendmeVersions::new(param);
            let congestion = Congestion::from_consensus(|name| shared.parameter(name));
            (window, sendmes, congestion, LinkParameters::new(param))
        });
        // Relays that are new in the consensus are soon treated as such.
        let judge = shared.net.as_ref().filter(|_| tick == 0).map(NetView::snapshot);
        let judge = judge.filter(|new| judged.as_ref().is_none_or(|old| !Arc::ptr_eq(old, new)));
        shared.with(|engine, now| {
            if let Some(snapshot) = &judge {
                engine.judge_links(now, |peer| is_known(snapshot, peer));
            }
            if let Some((window, sendmes, congestion, links)) = parameters {
                engine.set_parameters(window, sendmes, congestion);
                engine.set_link_parameters(links);
            }
            if let Some(defences) = defences {
                engine.set_defences(defences);
            }
            engine.tick(now);
        });
        judged = judge.or(judged);
        if tick == 0 {
            shared.resolver.sweep();
            shared.door.sweep(Instant::now());
        }
    }
}
