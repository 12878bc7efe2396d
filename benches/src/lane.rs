//! A chain of relays with a driver on it, ready to carry: circuits are built once, buffers have grown, money is
//! flowing.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::chain::Chain;
use crate::driver::{Driver, DriverError, Flow};
use crate::ours::{Books, Ours, OursError};
use crate::till::{Till, TillError, TillParts};
use crate::wire::CELL;

/// How long the driver's escrow may take.
const ESCROW: Duration = Duration::from_secs(60);
/// Nothing for so long: something is broken.
const SILENCE: Duration = Duration::from_secs(30);
/// How long payments may go on after the last byte.
const SETTLE: Duration = Duration::from_secs(20);

/// Why a lane does not carry.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The money.
    #[error(transparent)]
    Till(#[from] TillError),
    /// The relays' books.
    #[error(transparent)]
    Books(#[from] OursError),
    /// A relay's process.
    #[error("reading what a relay's process used")]
    Process(#[from] io::Error),
}

/// One download over three relays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Carried {
    /// CPU seconds per GB of payload: guard, middle, exit.
    pub cpu_s_per_gb: [f64; 3],
    /// Payload bytes per second.
    pub bytes_per_second: f64,
    /// Payload bytes.
    pub payload: u64,
    /// Bytes of payment conversations and link messages.
    pub payment_bytes: u64,
    /// Payments that arrived.
    pub payments: u64,
    /// The share of bytes that relays carried without credit; 1 where nothing is paid.
    pub unpaid_share: f64,
}

/// See the [module](self).
pub struct Lane<'a> {
    /// The relays.
    pub chain: Chain,
    driver: Driver,
    circuits: usize,
    /// What a circuit asks for at once.
    pace: u64,
    money: Option<(Till, &'a Ours)>,
    runtime: Handle,
}

impl<'a> Lane<'a> {
    /// Builds so many circuits over `chain`, each with a stream to `origin`.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub fn open(
        chain: Chain,
        circuits: usize,
        origin: SocketAddr,
        money: Option<(TillParts, &'a Ours)>,
        runtime: Handle,
    ) -> Result<Lane<'a>, LaneError> {
        let mut driver = Driver::new(&chain.path(), Flow::Fixed)?;
        driver.open(1, 1, origin)?;
        let mut paying = None;
        if let Some((parts, ours)) = money {
            let mut till = Till::new(parts, runtime.clone())?;
            till.attend(&mut driver)?;
            // A first request, as any client's: the escrow is opened beside it.
            driver.ask(0, 1);
            till.until(
                &mut driver,
                ESCROW,
                "the opening of the driver's escrow",
                |till, driver| till.is_open() && driver.busy() == 0,
            )?;
            paying = Some((till, ours));
        }
        driver.open(circuits.saturating_sub(1), 64, origin)?;
        if let Some((till, _)) = &mut paying {
            till.attend(&mut driver)?;
        }
        Ok(Lane {
            chain,
            driver,
            circuits: circuits.max(1),
            pace: u64::MAX,
            money: paying,
            runtime,
        })
    }

    /// Builds circuits until there are so many.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub fn grow(&mut self, circuits: usize, at_once: usize, origin: SocketAddr) -> Result<(), LaneError> {
        let more = circuits.saturating_sub(self.circuits);
        self.driver.open(more, at_once, origin)?;
        self.circuits += more;
        if let Some((till, _)) = &mut self.money {
            till.attend(&mut self.driver)?;
        }
        Ok(())
    }

    /// Has every circuit ask for no more than so many bytes at once, and for the next when they have come.
    pub fn pace(&mut self, bytes: u64) {
        self.pace = bytes.max(1);
    }

    /// The driver.
    pub fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// Downloads `bytes`, shared by all circuits.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub fn download(&mut self, bytes: u64) -> Result<(), LaneError> {
        let share = bytes.div_ceil(self.circuits as u64);
        let mut left = vec![share; self.circuits];
        loop {
            for (circuit, left) in left.iter_mut().enumerate() {
                if *left > 0 && self.driver.due(circuit) == 0 {
                    let bytes = self.pace.min(*left);
                    self.driver.ask(circuit, bytes);
                    *left -= bytes;
                }
            }
            if self.driver.busy() == 0 {
                return Ok(());
            }
            if !self.driver.turn(SILENCE)? {
                return Err(DriverError::Silent { what: "downloading" }.into());
            }
            if let Some((till, _)) = &mut self.money {
                till.turn(&mut self.driver)?;
            }
        }
    }

    /// Asks for `bytes` over one circuit `count` times, `pause` after each answer. How long each took, in seconds.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub fn small_requests(&mut self, count: usize, bytes: u64, pause: Duration) -> Result<Vec<f64>, LaneError> {
        let (circuit, mut silent) = (0, Instant::now());
        self.driver.ask_again_and_again(circuit, bytes, pause);
        while self.driver.answered(circuit) < count {
            if self.driver.turn(pause)? {
                silent = Instant::now();
            } else if silent.elapsed() > SILENCE {
                return Err(DriverError::Silent {
                    what: "asking for a little",
                }
                .into());
            }
            if let Some((till, _)) = &mut self.money {
                till.turn(&mut self.driver)?;
            }
        }
        let took = self.driver.take_latencies(circuit);
        Ok(took.iter().map(Duration::as_secs_f64).collect())
    }

    /// Downloads until every circuit has bought so many bytes: its steps are then as large as they get. Without
    /// money, once.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub fn warm_up(&mut self, bought: u64, least: u64) -> Result<(), LaneError> {
        self.download(least)?;
        while self
            .money
            .as_ref()
            .is_some_and(|(till, _)| till.least_bought() < bought)
        {
            self.download(least)?;
        }
        Ok(())
    }

    fn books(&self) -> Result<Books, LaneError> {
        Ok(match &self.money {
            Some((_, ours)) => self.runtime.block_on(ours.books())?,
            None => Books::default(),
        })
    }

    /// Downloads `bytes`, and tells what that took.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub fn measure(&mut self, bytes: u64) -> Result<Carried, LaneError> {
        let books = self.books()?;
        let paid = self.money.as_ref().map(|(till, _)| till.paid()).unwrap_or_default();
        let received = self.driver.received();
        let (cpu, began) = (self.chain.cpu()?, Instant::now());
        self.download(bytes)?;
        let wall = began.elapsed();
        // What was begun is part of the price: payments under way, and what relays do after them.
        if let Some((till, _)) = &mut self.money {
            let quiet = |till: &Till, _: &Driver| till.under_way() == 0;
            till.until(&mut self.driver, SETTLE, "the last payment", quiet)?;
        }
        let after = self.chain.cpu()?;
        let now = self.money.as_ref().map(|(till, _)| till.paid()).unwrap_or_default();
        let later = self.books()?;
        let payload = self.driver.received() - received;
        let mut cpu_s_per_gb = [0.0; 3];
        for (per_gb, (after, before)) in cpu_s_per_gb.iter_mut().zip(after.into_iter().zip(cpu)) {
            *per_gb = (after - before).as_secs_f64() / payload as f64 * 1e9;
        }
        let (carried, unpaid) = (
            (later.paid - books.paid) + (later.unpaid - books.unpaid),
            later.unpaid - books.unpaid,
        );
        Ok(Carried {
            cpu_s_per_gb,
            bytes_per_second: payload as f64 / wall.as_secs_f64(),
            payload,
            payment_bytes: (now.cells - paid.cells) * CELL as u64 + (later.link_messages - books.link_messages),
            payments: now.payments - paid.payments,
            unpaid_share: if carried == 0 {
                1.0
            } else {
                unpaid as f64 / carried as f64
            },
        })
    }
}
