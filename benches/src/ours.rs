//! Our relays, each in a process of its own, in a network with a ledger and an authority in this process.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use obol_cell::Stroops;
use obol_client::Pay;
use obol_stellar::Keypair;
use obol_stellar::key::KeyFileError;
use obol_testnet::control::ControlError;
use obol_testnet::network::{Network, NetworkError, NetworkOptions, RelayNode};
use obol_testnet::state::RelayState;

use crate::chain::{Chain, Member, wait_for_exit};
use crate::driver::{DriverError, Target};
use crate::till::TillParts;

/// How long the escrows between the relays may take.
const ESCROWS: Duration = Duration::from_secs(60);
/// How long the exit may take to learn who is a relay.
const YOUNG: Duration = Duration::from_secs(90);
/// Memory for queued cells of each relay.
const CELL_MEMORY: u64 = 4 << 30;
/// What the driver pays into its escrow: 50 units, enough for hundreds of GB.
const DEPOSIT: i64 = 500_000_000;

/// Why our relays do not start.
#[derive(Debug, thiserror::Error)]
pub enum OursError {
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A relay's gateway.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The wallet's key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Something that a running network has.
    #[error("relay {0} published no descriptor with an onion key")]
    NoDescriptor(String),
    /// It runs in this process.
    #[error("relay {0} has no process of its own")]
    NoProcess(String),
    /// They carry nothing.
    #[error("they carry no circuit")]
    NoCircuit(#[from] Box<DriverError>),
    /// The harness.
    #[error("the load driver's thread panicked")]
    Panicked,
    /// The chain of payments would end early.
    #[error("the relays' escrows to each other were not open within {} s", ESCROWS.as_secs())]
    NoEscrows,
}

/// What the relays take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Money {
    /// Nothing: plain Tor relays.
    Off,
    /// Steps that grow to 16 MiB.
    Grown,
    /// Steps that stay at 64 KiB.
    SmallSteps,
}

/// A running network of three relays.
#[derive(Debug)]
pub struct Ours {
    /// The network.
    pub network: Network,
    /// Guard, middle and exit.
    pub chain: Chain,
    money: Money,
}

/// What the relays' own books say, all three together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Books {
    /// Bytes sent on for circuits with credit.
    pub paid: u64,
    /// Bytes sent on for circuits without.
    pub unpaid: u64,
    /// Bytes of link messages about payments.
    pub link_messages: u64,
}

impl Ours {
    /// Starts three relays by `program` (`obol`), with their files below `directory`.
    ///
    /// # Errors
    /// See [`OursError`].
    pub async fn start(program: &Path, directory: &Path, money: Money) -> Result<Ours, OursError> {
        // Many unpaid circuits with full windows are load here, not an attack. C Tor gets as much.
        Ours::start_with(program, directory, money, CELL_MEMORY).await
    }

    /// The same with so much memory for queued cells in each relay.
    ///
    /// # Errors
    /// See [`OursError`].
    pub async fn start_with(
        program: &Path,
        directory: &Path,
        money: Money,
        cell_memory: u64,
    ) -> Result<Ours, OursError> {
        let mut options = NetworkOptions::new(directory);
        options.relay_program = Some(program.to_owned());
        options.payments = money != Money::Off;
        options.cell_memory = cell_memory;
        // Circuits that ask for congestion control get it; the others keep fixed windows.
        options.consensus = vec![("cc_alg".to_owned(), 2)];
        if money == Money::SmallSteps {
            options.largest_step = 64 << 10;
        }
        let network = Network::start(options, |_| {}).await?;
        let mut members = Vec::new();
        for (relay, target) in network.relays.iter().zip(targets(&network)?) {
            let pid = relay.pid().filter(|pid| *pid != std::process::id());
            let pid = pid.ok_or_else(|| OursError::NoProcess(relay.nickname.clone()))?;
            members.push(Member { pid, target });
        }
        let chain = Chain::new(members).ok_or(OursError::NoDescriptor(String::new()))?;
        let ours = Ours { network, chain, money };
        let trying = tokio::task::spawn_blocking(move || wait_for_exit(&chain, YOUNG)).await;
        trying.map_err(|_| OursError::Panicked)?.map_err(Box::new)?;
        if money != Money::Off {
            ours.wait_for_escrows().await?;
        }
        Ok(ours)
    }

    /// Relays open escrows to each other ahead of need; until then a chain of payments ends at the guard.
    async fn wait_for_escrows(&self) -> Result<(), OursError> {
        let began = Instant::now();
        let others = self.network.relays.len() - 1;
        loop {
            let mut ready = true;
            for relay in &self.network.relays {
                let state = RelayState::of(&relay.control).await?;
                let open = state
                    .escrows
                    .iter()
                    .filter(|escrow| escrow.direction == "out" && escrow.state == "open");
                ready &= open.count() >= others;
            }
            if ready {
                return Ok(());
            }
            if began.elapsed() > ESCROWS {
                return Err(OursError::NoEscrows);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the driver pays with; `None` where nothing is paid.
    ///
    /// # Errors
    /// If the wallet's key file cannot be written or read.
    pub fn till(&self) -> Result<Option<TillParts>, OursError> {
        if self.money == Money::Off {
            return Ok(None);
        }
        let directory = self.network.options.directory.join("driver");
        self.network.client_config(&directory, Some(Pay::Always))?;
        Ok(Some(TillParts {
            account: Keypair::load(&directory.join("wallet.seed"))?,
            passphrase: self.network.ledger.passphrase().to_owned(),
            url: self.network.ledger_url(),
            asset: self.network.economy.asset,
            deposit: Stroops::new(DEPOSIT).unwrap_or(Stroops::ZERO),
            hops: self.chain.path().map(|target| target.ed25519).to_vec(),
        }))
    }

    /// What the relays' books say.
    ///
    /// # Errors
    /// If a relay does not answer.
    pub async fn books(&self) -> Result<Books, OursError> {
        let mut books = Books::default();
        for relay in &self.network.relays {
            let state = RelayState::of(&relay.control).await?;
            books.paid += state.class_bytes.paid;
            books.unpaid += state.class_bytes.unpaid;
            books.link_messages += state.totals.link_payment_bytes_sent;
        }
        Ok(books)
    }

    /// Ends everything.
    pub async fn stop(self) {
        self.network.stop().await;
    }
}

/// How a client reaches the relays of a network, guard first.
///
/// # Errors
/// If one of them is not in the consensus.
pub fn targets(network: &Network) -> Result<Vec<Target>, OursError> {
    let known = network.authority.known();
    let documents = network.authority.documents();
    let target = |relay: &RelayNode| {
        let known = known.iter().find(|known| known.nickname == relay.nickname)?;
        let server = documents.servers.get(&known.rsa)?;
        Some(Target {
            address: relay.or,
            rsa: known.rsa,
            ed25519: known.ed,
            ntor: ntor_key(&server.text)?,
        })
    };
    let of = |relay| target(relay).ok_or_else(|| OursError::NoDescriptor(relay.nickname.clone()));
    network.relays.iter().map(of).collect()
}

/// The onion key in a descriptor.
fn ntor_key(descriptor: &[u8]) -> Option<[u8; 32]> {
    let text = String::from_utf8_lossy(descriptor);
    let line = text.lines().find_map(|line| line.strip_prefix("ntor-onion-key "))?;
    STANDARD_NO_PAD
        .decode(line.trim().trim_end_matches('='))
        .ok()?
        .try_into()
        .ok()
}
