//! Three relays in a row, whoever made them.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use crate::driver::{Driver, DriverError, Flow, Target};
use crate::process;

/// A place on the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Next to the client.
    Guard,
    /// In between.
    Middle,
    /// Next to the origin.
    Exit,
}

impl Position {
    /// All, from the client.
    pub const ALL: [Position; 3] = [Position::Guard, Position::Middle, Position::Exit];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Position::Guard => "guard",
            Position::Middle => "middle",
            Position::Exit => "exit",
        }
    }
}

/// One relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its process.
    pub pid: u32,
    /// How a client reaches it.
    pub target: Target,
}

/// Guard, middle and exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    members: [Member; 3],
}

impl Chain {
    /// Of three; `None` of any other number.
    pub fn new(members: Vec<Member>) -> Option<Chain> {
        let members = members.try_into().ok()?;
        Some(Chain { members })
    }

    /// The path that the driver takes.
    pub fn path(&self) -> [Target; 3] {
        self.members.map(|member| member.target)
    }

    /// The processes, guard first.
    pub fn pids(&self) -> [u32; 3] {
        self.members.map(|member| member.pid)
    }

    /// What each has used so far.
    ///
    /// # Errors
    /// If one of them has ended.
    pub fn cpu(&self) -> io::Result<[Duration; 3]> {
        let mut used = [Duration::ZERO; 3];
        for (used, pid) in used.iter_mut().zip(self.pids()) {
            *used = process::cpu_time(pid)?;
        }
        Ok(used)
    }

    /// The memory of each.
    ///
    /// # Errors
    /// If one of them has ended.
    pub fn resident(&self) -> io::Result<[u64; 3]> {
        let mut held = [0; 3];
        for (held, pid) in held.iter_mut().zip(self.pids()) {
            *held = process::resident(pid)?;
        }
        Ok(held)
    }
}

/// Waits until a stream through a chain is open. A young exit refuses every stream: ours until it knows from a
/// consensus that who asks is a relay, C Tor's until it has made its descriptor.
///
/// # Errors
/// When `patience` is over, or a circuit fails for another reason.
pub fn wait_for_exit(chain: &Chain, patience: Duration) -> Result<(), DriverError> {
    let began = Instant::now();
    let somewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(DriverError::Loopback)?;
    let address = somewhere.local_addr().map_err(DriverError::Loopback)?;
    loop {
        let tried = Driver::new(&chain.path(), Flow::Fixed).and_then(|mut driver| driver.open(1, 1, address));
        match tried {
            Err(DriverError::StreamEnded { .. }) if began.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(100));
            }
            done => return done,
        }
    }
}
