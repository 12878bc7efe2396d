//! The driver's money: the same payer that the client has, over the driver's own circuits.
//!
//! What happens on the ledger is done by tasks beside the driver's thread. Nothing is written to a disk: what a
//! load driver forgets when it ends is play money on a ledger that ends with it.

use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use obol_cell::{Asset, EscrowId, EscrowOffer, PeerId, PricePer64KiB, Stroops};
use obol_stellar::escrow::{Escrow, Opening, PayerSecret};
use obol_stellar::keys::EscrowPayer;
use obol_stellar::rail::horizon::{BadUrl, Horizon, Timeouts};
use obol_stellar::settle::{OneTime, Policy, Settler};
use obol_stellar::{Keypair, MemoryOutbox, Network, Tcp};
use obol_toll::payer::{Hop, Input, Output, PayPolicy, Payer, PayerConfig, Report, Second, finishes};
use obol_toll::{TunnelId, UnixMillis};
use std::sync::Arc;
use tokio::runtime::Handle;

use crate::driver::{Driver, DriverError, Traffic};

/// Traffic is told to the payer at most this often.
const TRAFFIC: Duration = Duration::from_millis(5);
/// An offer names the ledger until which the escrow can be opened, as far from now.
const LEDGERS_TO_OPEN: u64 = 60;
/// A funding account: its own reserves, the escrow's, and fees.
const RESERVES: i64 = 8;
/// Bytes of a cell, as relays count them.
const CELL: u64 = 514;

/// What a till is made of.
#[derive(Debug)]
pub struct TillParts {
    /// The account that pays.
    pub account: Keypair,
    /// The ledger's passphrase.
    pub passphrase: String,
    /// Its Horizon URL.
    pub url: String,
    /// The asset.
    pub asset: Asset,
    /// What to pay into the escrow.
    pub deposit: Stroops,
    /// The relays, guard first, by their Ed25519 identities.
    pub hops: Vec<[u8; 32]>,
}

/// Why nothing is paid.
#[derive(Debug, thiserror::Error)]
pub enum TillError {
    /// The ledger's URL.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// The ledger.
    #[error("the driver's escrow: {0}")]
    Ledger(String),
    /// The driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A relay, or a rule of the payer, stands against it.
    #[error("circuit {circuit} is not paid: {why}")]
    NotPaid {
        /// The circuit.
        circuit: u64,
        /// Why.
        why: String,
    },
    /// It took too long.
    #[error("{0} did not happen in time")]
    Late(&'static str),
}

/// What the ledger's tasks report.
enum Note {
    Input(Input),
    Failed(String),
}

/// Sums of what was paid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paid {
    /// Payments that arrived at every hop.
    pub payments: u64,
    /// Bytes that they bought at each hop.
    pub bytes: u64,
    /// Cells of payment conversations, both ways.
    pub cells: u64,
}

/// One tunnel's open conversation.
#[derive(Debug, Clone, Copy, Default)]
struct Talk {
    open: bool,
    second: Option<Second>,
    told: Traffic,
    bought: u64,
}

/// See the [module](self).
pub struct Till {
    payer: Payer<EscrowPayer>,
    keys: EscrowPayer,
    account: Arc<Keypair>,
    settler: Arc<Settler>,
    asset: Asset,
    hops: Vec<Hop>,
    runtime: Handle,
    notes: mpsc::Receiver<Note>,
    tell: mpsc::Sender<Note>,
    talks: Vec<Talk>,
    told: Instant,
    paid: Paid,
    /// An escrow is open, and the guard knows it.
    open: bool,
    trouble: Option<TillError>,
    stepping: std::collections::HashMap<(u64, u16), u64>,
}

impl Till {
    /// A till without an escrow: it opens one with its first circuit.
    ///
    /// # Errors
    /// If the ledger's URL is none.
    pub fn new(parts: TillParts, runtime: Handle) -> Result<Till, TillError> {
        let network = Network::new(&parts.passphrase);
        let rail = Horizon::new(&parts.url, network.clone(), Arc::new(Tcp), Timeouts::default())?;
        let policy = Policy {
            poll: Duration::from_millis(100),
            ..Policy::default()
        };
        let settler = Settler::new(Arc::new(rail), Arc::new(MemoryOutbox::new()), network.clone(), policy);
        let keys = EscrowPayer::new(PayerSecret::from_bytes(rand::random()), network.id());
        // Relays of a test network ask less.
        let ceiling = PricePer64KiB::from_rung(12).map_err(|_| TillError::Late("a price"))?;
        let config = PayerConfig {
            pay: PayPolicy::Always,
            opening_jitter_ms: 0,
            rollover_jitter_ms: 0,
            ..PayerConfig::new(network.id(), parts.asset, ceiling, parts.deposit)
        };
        let (tell, notes) = mpsc::channel();
        let hop = |identity: &[u8; 32]| Hop {
            peer: PeerId(*identity),
            paid: true,
        };
        Ok(Till {
            payer: Payer::new(config, keys.clone(), rand::random()),
            keys,
            account: Arc::new(parts.account),
            settler: Arc::new(settler),
            asset: parts.asset,
            hops: parts.hops.iter().map(hop).collect(),
            runtime,
            notes,
            tell,
            talks: Vec::new(),
            told: Instant::now(),
            paid: Paid::default(),
            open: false,
            trouble: None,
            stepping: std::collections::HashMap::new(),
        })
    }

    /// Sums so far.
    pub fn paid(&self) -> Paid {
        self.paid
    }

    /// Whether an escrow is open and in use.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Payments that have left and not arrived everywhere.
    pub fn under_way(&self) -> usize {
        self.stepping.len()
    }

    /// The least that any circuit has bought.
    pub fn least_bought(&self) -> u64 {
        self.talks.iter().map(|talk| talk.bought).min().unwrap_or(0)
    }

    /// Makes the payer know the driver's circuits that it does not know yet.
    ///
    /// # Errors
    /// See [`TillError`].
    pub fn attend(&mut self, driver: &mut Driver) -> Result<(), TillError> {
        for circuit in self.talks.len()..driver.circuits() {
            self.talks.push(Talk::default());
            let hops = self.hops.clone();
            let tunnel = TunnelId(circuit as u64);
            self.tell(driver, Input::TunnelOpened { tunnel, hops })?;
        }
        Ok(())
    }

    /// Takes in what happened since the last time, and does what follows from it. To be called after every turn of
    /// the driver.
    ///
    /// # Errors
    /// If a circuit is not paid as it should be.
    pub fn turn(&mut self, driver: &mut Driver) -> Result<(), TillError> {
        for answer in driver.take_answers() {
            self.paid.cells += 1;
            if let Some(talk) = self.talks.get_mut(answer.circuit)
                && finishes(talk.second, &answer.body)
            {
                talk.open = false;
                talk.second = None;
            }
            let tunnel = TunnelId(answer.circuit as u64);
            self.tell(
                driver,
                Input::Answer {
                    tunnel,
                    body: answer.body,
                },
            )?;
        }
        while let Ok(note) = self.notes.try_recv() {
            match note {
                Note::Input(input) => self.tell(driver, input)?,
                Note::Failed(why) => return Err(TillError::Ledger(why)),
            }
        }
        if self.told.elapsed() >= TRAFFIC {
            self.told = Instant::now();
            let mut cells = 0;
            for circuit in 0..self.talks.len() {
                let now = driver.traffic(circuit);
                let before = std::mem::replace(&mut self.talks[circuit].told, now);
                let (up, down) = (now.up - before.up, now.down - before.down);
                if up + down > 0 {
                    cells += up + down;
                    let tunnel = TunnelId(circuit as u64);
                    self.tell(driver, Input::Traffic { tunnel, up, down })?;
                }
            }
            // The link carries SENDMEs, payments and TLS' own bytes beside the payload.
            if let Some(guard) = self.hops.first() {
                let (guard, bytes) = (guard.peer, cells * CELL + cells * CELL / 20);
                self.tell(driver, Input::LinkBytes { guard, bytes })?;
            }
            if self.payer.next_wake().is_some_and(|at| at <= now()) {
                self.tell(driver, Input::Tick)?;
            }
        }
        self.trouble.take().map_or(Ok(()), Err)
    }

    /// Turns until `done`, at most for `patience`.
    ///
    /// # Errors
    /// If it takes longer, or anything fails.
    pub fn until(
        &mut self,
        driver: &mut Driver,
        patience: Duration,
        what: &'static str,
        done: impl Fn(&Till, &Driver) -> bool,
    ) -> Result<(), TillError> {
        let began = Instant::now();
        while !done(self, driver) {
            if began.elapsed() > patience {
                return Err(TillError::Late(what));
            }
            driver.turn(TRAFFIC)?;
            self.turn(driver)?;
        }
        Ok(())
    }

    fn tell(&mut self, driver: &mut Driver, input: Input) -> Result<(), TillError> {
        self.payer.handle(now(), input);
        while let Some(output) = self.payer.poll() {
            self.carry_out(driver, output)?;
        }
        Ok(())
    }

    fn send(&mut self, driver: &mut Driver, tunnel: TunnelId, hop: u8, body: &[u8]) -> Result<(), TillError> {
        self.paid.cells += 1;
        Ok(driver.pay(tunnel.0 as usize, hop, body)?)
    }

    fn carry_out(&mut self, driver: &mut Driver, output: Output) -> Result<(), TillError> {
        match output {
            Output::Persist { seq, .. } => self.payer.handle(now(), Input::Persisted { upto: seq }),
            Output::Ask { tunnel, hop, body } => {
                if let Some(talk) = self.talks.get_mut(tunnel.0 as usize) {
                    (talk.open, talk.second) = (true, None);
                }
                self.send(driver, tunnel, hop, &body)?;
            }
            Output::Continue {
                tunnel,
                hop,
                second,
                body,
            } => {
                let Some(talk) = self.talks.get_mut(tunnel.0 as usize) else {
                    return Ok(());
                };
                // The answer that it would have cancelled is there already.
                if !talk.open && second == Second::Cancel {
                    return Ok(());
                }
                talk.second = talk.open.then_some(second);
                talk.open = true;
                self.send(driver, tunnel, hop, &body)?;
            }
            Output::Send { tunnel, hop, body } => self.send(driver, tunnel, hop, &body)?,
            Output::GiveUp { tunnel, why } => self.not_paid(tunnel, format!("given up: {why:?}")),
            // A client would begin nothing new on it. What is on it goes on, and how much of that unpaid, is measured.
            Output::Retire { .. } => {}
            Output::WantEscrow {
                guard, deposit, life, ..
            } => self.want_escrow(guard, deposit, life),
            Output::OpenEscrow {
                escrow,
                deposit,
                refund,
            } => self.open_escrow(escrow, deposit, refund),
            Output::Refund { .. } => {}
            Output::Report(report) => self.report(report),
        }
        Ok(())
    }

    fn not_paid(&mut self, tunnel: TunnelId, why: String) {
        self.trouble
            .get_or_insert(TillError::NotPaid { circuit: tunnel.0, why });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Chain { tunnel, paid_hops } if usize::from(paid_hops) < self.hops.len() => {
                self.not_paid(tunnel, format!("only {paid_hops} hops take money"));
            }
            Report::Unpaid { tunnel, hop, why } => self.not_paid(tunnel, format!("hop {hop}: {why:?}")),
            Report::Paying { tunnel, n, step, .. } => {
                self.stepping.insert((tunnel.0, n), step.bytes());
            }
            Report::Paid { tunnel, n, .. } => {
                let bytes = self.stepping.remove(&(tunnel.0, n)).unwrap_or(0);
                self.paid.payments += 1;
                self.paid.bytes += bytes;
                if let Some(talk) = self.talks.get_mut(tunnel.0 as usize) {
                    talk.bought += bytes;
                }
            }
            Report::EscrowInUse { .. } => self.open = true,
            _ => {}
        }
    }

    fn want_escrow(&self, guard: PeerId, deposit: Stroops, life: u32) {
        let (settler, account, keys) = (Arc::clone(&self.settler), Arc::clone(&self.account), self.keys.clone());
        let (asset, tell) = (self.asset, self.tell.clone());
        self.runtime.spawn(async move {
            let made = async {
                let head = settler.rail().latest_ledger().await.map_err(|e| e.to_string())?;
                settler.trust(&account, asset).await.map_err(|e| e.to_string())?;
                let funder = keys.secret().funding_key(settler.network().id(), 0);
                let lumens = Stroops::new(RESERVES * i64::from(head.base_reserve)).map_err(|e| e.to_string())?;
                let one = OneTime {
                    key: &funder,
                    money: deposit,
                    lumens,
                };
                let funded = settler.fund_one_time(&account, asset, &[one]).await;
                funded.map_err(|e| e.to_string())?;
                Ok::<_, String>(EscrowOffer {
                    escrow: keys.add(&rand::random()),
                    network: settler.network().id(),
                    asset,
                    s0: (u64::from(head.sequence) + LEDGERS_TO_OPEN) << 32,
                    expiry: now().secs().max(head.close_time).saturating_add(life.into()),
                    deposit,
                })
            };
            let note = match made.await {
                Ok(offer) => Note::Input(Input::Offer { guard, offer }),
                Err(why) => Note::Failed(why),
            };
            // Nobody listens any more when the driver has ended.
            let _ = tell.send(note);
        });
    }

    fn open_escrow(&self, escrow: obol_toll::Escrow, deposit: Stroops, refund: obol_cell::Signature) {
        let (settler, keys, tell) = (Arc::clone(&self.settler), self.keys.clone(), self.tell.clone());
        self.runtime.spawn(async move {
            let id: EscrowId = escrow.id();
            let opened = async {
                let built = Escrow::try_from(&escrow).map_err(|e| e.to_string())?;
                let key = keys.key(&id).ok_or("the escrow's key is gone")?;
                let funder = keys.secret().funding_key(settler.network().id(), 0);
                let opening = Opening {
                    escrow: &built,
                    key: &key,
                    deposit,
                    refund,
                };
                let opened = settler.open(&funder, &[opening]).await.map_err(|e| e.to_string())?;
                Ok::<_, String>(opened.escrows.first().map_or(deposit, |(_, balance)| *balance))
            };
            let note = match opened.await {
                Ok(balance) => Note::Input(Input::EscrowOpened { escrow: id, balance }),
                Err(why) => Note::Failed(why),
            };
            let _ = tell.send(note);
        });
    }
}

/// The system's clock.
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis().try_into().unwrap_or(u64::MAX))
}
