//! The network: three C Tor authorities, two C Tor relays, three Obol relays, and a client of each kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use obol_client::TunnelFigures;
use obol_testnet::authority::{ArtiNetwork, EntryRelay};
use obol_testnet::ctor::{AuthorityFiles, CTor, Torrc, Voting, free_port};
use obol_testnet::origin::{Origin, OriginFile};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OnceCell};

use crate::arti::Arti;
use crate::client::Payer;
use crate::money::Money;
use crate::node::Node;
use crate::renewals::{Renewal, Renewals};
use crate::services::{ArtiService, CTorService, Host, PUBLISH, Service};
use crate::tor::TorClient;
use crate::{logs, say, transfer};

/// What every transfer of the trials has, bytes each way.
pub const LENGTH: u64 = 20_000_000;
/// Seconds from one consensus to the next.
pub const INTERVAL: u32 = 20;
/// How long the network may take until everybody is in the consensus.
const COME_UP: Duration = Duration::from_secs(180);
/// The weight of most relays in the consensus, kB/s.
const WEIGHT: u32 = 10_000;
/// The weight of the authorities: as relays they are not wanted.
const LITTLE: u32 = 1;

/// Directories of C Tor onion services, before their numbers.
const C_TOR_SERVICE: &str = "ctorservice";

/// One authority.
pub struct Authority {
    /// Its keys, ports and files.
    pub files: AuthorityFiles,
    torrc: Torrc,
    tor: Mutex<Option<CTor>>,
}

impl Authority {
    /// Starts it, also again.
    pub async fn start(&self) -> anyhow::Result<()> {
        *self.tor.lock().await = Some(CTor::start(&self.files.directory, &self.torrc)?);
        Ok(())
    }

    /// Whom it votes for as guards from now on: RSA fingerprints.
    async fn votes_for_guards(&self, guards: &[&str]) -> anyhow::Result<()> {
        let tor = self.tor.lock().await;
        let mut control = tor.as_ref().context("the authority runs")?.control().await?;
        let list: Vec<String> = guards.iter().map(|guard| format!("${guard}")).collect();
        control
            .tell(&format!("SETCONF TestingDirAuthVoteGuard=\"{}\"", list.join(",")))
            .await?;
        Ok(())
    }

    /// Ends it, as a machine that is cut off does.
    pub async fn stop(&self) {
        if let Some(tor) = self.tor.lock().await.take() {
            tor.stop();
        }
    }
}

/// A C Tor relay.
pub struct CTorRelay {
    /// Its name.
    pub nickname: &'static str,
    /// RSA identity, 40 upper-case hexadecimal digits.
    pub fingerprint: String,
    /// The process.
    pub tor: Mutex<CTor>,
    directory: PathBuf,
}

impl CTorRelay {
    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

/// The onion service of one kind that runs, and how many there have been.
#[derive(Default)]
struct Services {
    now: Option<Service>,
    started: usize,
}

/// Everything.
pub struct World {
    /// The authorities. The last one is lost for a while in one of the trials.
    pub authorities: Vec<Authority>,
    /// C Tor relays: one that does not exit, and one that does.
    pub relays: [CTorRelay; 2],
    /// Our relays: guard, middle and exit by what they are for, but each in every position in some trial.
    pub nodes: [Node; 3],
    /// Ledger and asset.
    pub money: Money,
    /// What is downloaded, and where.
    pub origin: Origin,
    /// The file behind `/file`.
    pub file: OriginFile,
    /// A port at which somebody listens, and which our exit's policy rejects.
    pub forbidden: TcpListener,
    /// All consensuses so far.
    pub renewals: Renewals,
    /// Warnings that a trial provoked itself, to see that they come: whole lines of logs.
    pub provoked: std::sync::Mutex<Vec<String>>,
    /// Escrows that a relay of ours had closed when it was started again, and the newest claim that it had taken.
    pub closed: std::sync::Mutex<BTreeMap<String, i64>>,
    arti: OnceCell<Arti>,
    tor: OnceCell<TorClient>,
    payer: OnceCell<Payer>,
    onion_client: OnceCell<TorClient>,
    /// By [`Host`].
    services: Mutex<[Services; 2]>,
    root: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl World {
    /// Brings it up.
    pub async fn start() -> anyhow::Result<World> {
        let began = Instant::now();
        let (root, temporary) = match std::env::var_os("OBOL_INTEROP_KEEP") {
            Some(path) => (PathBuf::from(path), None),
            None => {
                let directory = tempfile::Builder::new().prefix("obol-interop").tempdir()?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        std::fs::create_dir_all(&root)?;
        say("keys of three authorities and three relays");
        let names = ["ctorauth1", "ctorauth2", "ctorauth3"];
        let making = names.map(|name| {
            let directory = root.join(name);
            tokio::task::spawn_blocking(move || AuthorityFiles::make(&directory, name))
        });
        let mut all = Vec::new();
        for authority in making {
            all.push(authority.await??);
        }
        let nodes = tokio::try_join!(
            Node::prepare(&root, "obolguard", 20),
            Node::prepare(&root, "obolmiddle", 10),
            Node::prepare(&root, "obolexit", 50),
        )?;
        let nodes = [nodes.0, nodes.1, nodes.2];
        let wallet = root.join("payer");
        std::fs::create_dir_all(&wallet)?;
        let homes = nodes.each_ref().map(Node::data);
        let money = Money::start(&homes.each_ref().map(PathBuf::as_path), &[&wallet]).await?;

        let weights = root.join("weights");
        weigh(&weights, &all, &nodes, &[])?;
        let authorities = start_authorities(&all, &nodes, &weights).await?;
        say("relays");
        let torrc = |torrc: Torrc| torrc.authorities(&all).log("[protocol]info notice");
        let relays = [
            start_relay(&root, "ctormiddle", torrc(Torrc::new().exits_nowhere())).await?,
            start_relay(&root, "ctorexit", torrc(Torrc::new().exits())).await?,
        ];
        weigh(&weights, &all, &nodes, &relays)?;
        let forbidden = TcpListener::bind("127.0.0.1:0").await?;
        let policy = |exits: bool| match exits {
            true => vec![
                format!("reject 127.0.0.1:{}", forbidden.local_addr().unwrap().port()),
                "accept 127.0.0.0/8:*".to_owned(),
                "accept *:*".to_owned(),
            ],
            false => vec!["reject *:*".to_owned()],
        };
        for node in &nodes {
            node.configure(&policy(node.nickname == "obolexit"), &all, &money)?;
        }
        futures::future::try_join_all(nodes.iter().map(Node::start)).await?;

        let file = OriginFile::generate(&root.join("file"), LENGTH, 11).await?;
        let world = World {
            renewals: Renewals::watch(all[0].directory_address),
            authorities,
            relays,
            nodes,
            money,
            origin: Origin::start(file.clone()).await?,
            file,
            forbidden,
            provoked: std::sync::Mutex::default(),
            closed: std::sync::Mutex::default(),
            arti: OnceCell::new(),
            tor: OnceCell::new(),
            payer: OnceCell::new(),
            onion_client: OnceCell::new(),
            services: Mutex::default(),
            root,
            _temporary: temporary,
        };
        say("the consensus");
        if let Err(error) = world.comes_up().await {
            anyhow::bail!("{error:#}\n{}", world.tails());
        }
        say(&format!(
            "the network is up after {:.0} s",
            began.elapsed().as_secs_f64()
        ));
        Ok(world)
    }

    /// Waits for a consensus with everybody, which our relays have.
    async fn comes_up(&self) -> anyhow::Result<()> {
        let complete = |renewal: &Renewal| {
            renewal.flags.len() == self.size() && renewal.flags.keys().all(|relay| renewal.has(relay, "Running"))
        };
        self.renewals.next(COME_UP, complete).await?;
        self.nodes_know_everybody().await
    }

    /// Makes every relay with weight a guard, or our guard alone, from the next consensus on. Where everybody is to meet there is one; but a path to an
    /// introduction point or from a rendezvous point that is its guard has to begin elsewhere.
    pub async fn with_many_guards(&self, many: bool) -> anyhow::Result<()> {
        let ours = self.nodes.iter().map(|node| node.fingerprint.as_str());
        let theirs = self.relays.iter().map(|relay| relay.fingerprint.as_str());
        let guards: Vec<&str> = match many {
            true => ours.chain(theirs).collect(),
            false => ours.take(1).collect(),
        };
        let as_voted = |renewal: &Renewal| {
            let flagged = renewal.flags.keys().filter(|relay| renewal.has(relay, "Guard"));
            flagged.count() == guards.len()
        };
        if self.renewals.all().last().is_some_and(as_voted) {
            return Ok(());
        }
        for authority in &self.authorities {
            authority.votes_for_guards(&guards).await?;
        }
        let renewal = self.renewals.next(COME_UP, as_voted).await?;
        self.nodes_have(&renewal).await
    }

    /// Waits until clients get this consensus, or a later one, from each of our relays.
    async fn nodes_have(&self, renewal: &Renewal) -> anyhow::Result<()> {
        let having = async {
            for node in &self.nodes {
                loop {
                    let state = node.control().await?.state().await?;
                    if state["consensus_valid_after"].as_i64() >= Some(renewal.valid_after) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            anyhow::Ok(())
        };
        let outcome = tokio::time::timeout(COME_UP, having).await;
        outcome.context("our relays do not get the newest consensus")?
    }

    /// Relays in the network.
    pub fn size(&self) -> usize {
        self.authorities.len() + self.relays.len() + self.nodes.len()
    }

    /// Fetches the file as a user of its own, and tells of the tunnel that it came by.
    pub async fn fetched(&self, payer: &Payer, user: &str) -> anyhow::Result<TunnelFigures> {
        let known: Vec<u64> = payer.tunnels().iter().map(|tunnel| tunnel.tunnel).collect();
        let stream = payer.connect(user, self.target()).await?;
        self.is_whole(transfer::get(stream, "/file", |_| {}).await?)?;
        let tunnels = payer.tunnels().into_iter();
        let new = tunnels.filter(|tunnel| !known.contains(&tunnel.tunnel));
        new.max_by_key(|tunnel| tunnel.payload_received)
            .context("no new tunnel")
    }

    /// Waits until each of our relays has a directory with everybody, and an escrow to each of the others.
    pub async fn nodes_know_everybody(&self) -> anyhow::Result<()> {
        let knowing = async {
            for node in &self.nodes {
                loop {
                    let state = node.control().await?.state().await?;
                    let known = state["relays_known"].as_u64().unwrap_or_default();
                    let escrows = node.state().await?.escrows;
                    let open = escrows
                        .iter()
                        .filter(|e| e.direction == "out" && e.state == "open")
                        .count();
                    if known as usize == self.size() && open + 1 >= self.nodes.len() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            anyhow::Ok(())
        };
        let outcome = tokio::time::timeout(COME_UP, knowing).await;
        outcome.context("our relays do not get to know each other")?
    }

    /// A directory for the files of something.
    pub fn place(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The fingerprints of relays by their names: a path.
    pub fn path(&self, names: &[&str]) -> anyhow::Result<Vec<String>> {
        let one = |name: &&str| {
            let ours = self
                .nodes
                .iter()
                .find(|node| node.nickname == *name)
                .map(|node| &node.fingerprint);
            let theirs = self
                .relays
                .iter()
                .find(|relay| relay.nickname == *name)
                .map(|relay| &relay.fingerprint);
            ours.or(theirs)
                .cloned()
                .with_context(|| format!("no relay is called {name}"))
        };
        names.iter().map(one).collect()
    }

    /// Our relay of this name.
    pub fn node(&self, name: &str) -> anyhow::Result<&Node> {
        let found = self.nodes.iter().find(|node| node.nickname == name);
        found.with_context(|| format!("no relay of ours is called {name}"))
    }

    /// What a client built on Arti is told: it starts from our relays.
    pub fn arti_network(&self) -> ArtiNetwork {
        ArtiNetwork {
            authorities: self
                .authorities
                .iter()
                .map(|authority| authority.files.entry())
                .collect(),
            fallbacks: self
                .nodes
                .iter()
                .map(|node| EntryRelay {
                    rsa: node.rsa,
                    ed: node.ed,
                    address: node.or,
                })
                .collect(),
        }
    }

    /// What a C Tor client is told: it starts from our relays.
    pub fn tor_network(&self) -> Torrc {
        let files: Vec<AuthorityFiles> = self
            .authorities
            .iter()
            .map(|authority| authority.files.clone())
            .collect();
        self.nodes.iter().fold(Torrc::new().authorities(&files), |torrc, node| {
            torrc.fallback(node.or, node.rsa)
        })
    }

    /// The Arti client.
    pub async fn arti(&self) -> anyhow::Result<&Arti> {
        let starting = || async {
            say("an Arti client");
            Arti::start(&self.place("arti"), &self.arti_network()).await
        };
        self.arti.get_or_try_init(starting).await
    }

    /// The C Tor client, which knows every relay.
    pub async fn tor(&self) -> anyhow::Result<&TorClient> {
        let starting = || async {
            say("a C Tor client");
            let client = TorClient::start(&self.place("ctorclient"), self.tor_network()).await?;
            let ours = self.nodes.iter().map(|node| node.fingerprint.as_str());
            let theirs = self.relays.iter().map(|relay| relay.fingerprint.as_str());
            client.knows(&ours.chain(theirs).collect::<Vec<_>>()).await?;
            client.take_over_streams().await?;
            Ok(client)
        };
        self.tor.get_or_try_init(starting).await
    }

    /// The Obol client, whose guard knows its escrow.
    pub async fn payer(&self) -> anyhow::Result<&Payer> {
        let starting = || async {
            // It pays as soon as its guard is ours.
            self.with_many_guards(false).await?;
            say("an Obol client");
            let payer = Payer::start(&self.place("payer"), &self.arti_network(), &self.money).await?;
            payer.client.ready_to_pay(COME_UP).await?;
            Ok(payer)
        };
        self.payer.get_or_try_init(starting).await
    }

    /// A C Tor client that puts its circuits together itself.
    pub async fn onion_client(&self) -> anyhow::Result<&TorClient> {
        let starting = async || {
            say("a second C Tor client");
            let directory = self.place("onionclient");
            TorClient::start(&directory, self.tor_network()).await
        };
        self.onion_client.get_or_try_init(starting).await
    }

    /// The name of the onion service of this kind.
    pub async fn service(&self, host: Host) -> anyhow::Result<String> {
        let mut services = self.services.lock().await;
        let services = &mut services[host as usize];
        if services.now.is_none() {
            self.start_service(host, services).await?;
        }
        Ok(services.now.as_ref().context("it was started")?.name().to_owned())
    }

    /// Ends the onion service of this kind and starts another, with relays of its own choice.
    pub async fn replace_service(&self, host: Host) -> anyhow::Result<()> {
        let mut services = self.services.lock().await;
        let services = &mut services[host as usize];
        services.now = None;
        self.start_service(host, services).await
    }

    async fn start_service(&self, host: Host, services: &mut Services) -> anyhow::Result<()> {
        services.started += 1;
        services.now = Some(match host {
            Host::CTor => {
                say("a C Tor onion service");
                let directory = self.place(&format!("{C_TOR_SERVICE}{}", services.started));
                Service::CTor(CTorService::start(&directory, self.tor_network(), self.target()).await?)
            }
            Host::Arti => {
                say("an Arti onion service");
                let directory = self.place(&format!("artiservice{}", services.started));
                Service::Arti(self.start_arti_service(&directory).await?)
            }
        });
        Ok(())
    }

    async fn start_arti_service(&self, directory: &Path) -> anyhow::Result<ArtiService> {
        let before = self.onion_descriptors().await?;
        let service = ArtiService::start(directory, &self.arti_network(), self.target()).await?;
        let published = async {
            while self
                .onion_descriptors()
                .await?
                .iter()
                .zip(&before)
                .any(|(now, then)| now <= then)
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            anyhow::Ok(())
        };
        let done = tokio::time::timeout(PUBLISH, published).await;
        done.with_context(|| format!("the Arti service does not publish: {}", service.status()))??;
        Ok(service)
    }

    /// How many descriptors of onion services each of our relays holds.
    async fn onion_descriptors(&self) -> anyhow::Result<Vec<u64>> {
        let mut held = Vec::new();
        for node in &self.nodes {
            let state = node.control().await?.state().await?;
            held.push(
                state["onion_descriptors"]["held"]
                    .as_u64()
                    .context("a number of descriptors")?,
            );
        }
        Ok(held)
    }

    /// The file came as it is.
    pub fn is_whole(&self, (length, sha256): (u64, [u8; 32])) -> anyhow::Result<()> {
        ensure!(
            length == self.file.length,
            "{length} bytes came instead of {}",
            self.file.length
        );
        ensure!(sha256 == self.file.sha256, "the bytes are others than were sent");
        Ok(())
    }

    /// Where the origin listens.
    pub fn target(&self) -> SocketAddr {
        self.origin.address()
    }

    /// The directories of every C Tor that has run so far.
    pub fn c_tors(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self.authorities.iter().map(|a| a.files.directory.clone()).collect();
        all.extend(self.relays.iter().map(|relay| relay.directory.clone()));
        let others = ["ctorclient", "bootstrapper", "onionclient"].map(|name| self.place(name));
        let services = (1..).map(|number| self.place(&format!("{C_TOR_SERVICE}{number}")));
        all.extend(others.into_iter().filter(|place| place.exists()));
        all.extend(services.take_while(|place| place.exists()));
        all
    }

    /// The ends of all logs.
    pub fn tails(&self) -> String {
        let mut text = String::new();
        for directory in self.c_tors() {
            let _ = write!(text, "{}", logs::tail(&directory.join("log"), 6));
        }
        for name in ["obolguard", "obolmiddle", "obolexit"] {
            let _ = write!(text, "{}", logs::tail(&self.place(name).join("log"), 12));
        }
        text
    }

    /// Ends everything.
    pub async fn stop(self) {
        say("ending everything");
        if let Some(payer) = self.payer.into_inner() {
            payer.client.shutdown().await;
        }
        futures::future::join_all(self.nodes.iter().map(Node::stop)).await;
        for authority in &self.authorities {
            authority.stop().await;
        }
        self.money.stop().await;
    }
}

async fn start_authorities(
    all: &[AuthorityFiles],
    nodes: &[Node; 3],
    weights: &Path,
) -> anyhow::Result<Vec<Authority>> {
    let ours: Vec<String> = nodes.iter().map(|node| format!("${}", node.fingerprint)).collect();
    let mut authorities = Vec::new();
    for files in all {
        // A relay becomes a guard, and a directory of onion services, after days; here those do for which the trials want it: one guard, where
        // everybody meets, and no directory of onion services but ours. Stable is who runs longer than half of the others, and half of a network
        // that has just been started never does. Onion services change their directories with the shared random value,
        // whose days would be eight minutes long here; Arti takes them for 24 hours: without it both use the same substitute. On loopback a circuit
        // takes a few milliseconds, and clients learn to give it up after ten: on a machine that is busy for a moment they would build none.
        let torrc = files
            .torrc(
                all,
                Voting {
                    interval: INTERVAL,
                    ..Voting::default()
                },
            )
            .set("TestingDirAuthVoteGuard", &ours[0])
            .set("TestingDirAuthVoteGuardIsStrict", 1)
            .set("TestingDirAuthVoteHSDir", ours.join(","))
            .set("TestingDirAuthVoteHSDirIsStrict", 1)
            .set("AuthDirVoteStableGuaranteeMinUptime", 1)
            .set("AuthDirSharedRandomness", 0)
            .set("V3BandwidthsFile", weights.display())
            .set(
                "ConsensusParams",
                format_args!(
                    "cc_alg=2 bwauthpid=1 ExtendByEd25519ID=1 cbtmintimeout=5000 hsdir_interval={}",
                    24 * INTERVAL / 60
                ),
            );
        let authority = Authority {
            files: files.clone(),
            torrc,
            tor: Mutex::new(None),
        };
        authority.start().await?;
        authorities.push(authority);
    }
    Ok(authorities)
}

async fn start_relay(root: &Path, nickname: &'static str, torrc: Torrc) -> anyhow::Result<CTorRelay> {
    let directory = root.join(nickname);
    let mut tor = CTor::start(&directory, &torrc.relay(nickname, free_port()?))?;
    tor.or_address().await?;
    let (rsa, _) = tor.identity()?;
    Ok(CTorRelay {
        nickname,
        fingerprint: hex::encode_upper(rsa),
        tor: Mutex::new(tor),
        directory,
    })
}

/// Writes what a bandwidth authority would measure: a new relay has carried nothing yet, and nobody would choose it.
fn weigh(path: &Path, authorities: &[AuthorityFiles], nodes: &[Node], relays: &[CTorRelay]) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut text = format!("{now}\n");
    let mut add = |fingerprint: &str, weight: u32| {
        let _ = writeln!(text, "node_id=${fingerprint} bw={weight}");
    };
    for authority in authorities {
        add(&hex::encode_upper(authority.rsa), LITTLE);
    }
    nodes.iter().for_each(|node| add(&node.fingerprint, WEIGHT));
    relays.iter().for_each(|relay| add(&relay.fingerprint, WEIGHT));
    Ok(std::fs::write(path, text)?)
}
