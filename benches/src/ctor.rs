//! C Tor's relays, each with its best settings: no directory, no consensus, nothing but circuits.
//!
//! C Tor leaves Nagle's algorithm on, which on one machine costs it 40 ms a round trip; a preloaded library that
//! turns it off is compiled here, so that what is compared is the relays.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use obol_testnet::ctor::{self, Torrc};

use crate::chain::{Chain, Member, wait_for_exit};
use crate::driver::{DriverError, Target};

/// How long the relays may take until they carry a circuit.
const START: Duration = Duration::from_secs(60);
/// A C compiler, and where it is found.
const COMPILER: (&str, &str) = ("cc", "a C compiler (for instance the package gcc)");

/// The preloaded library: TCP_NODELAY on every socket that is connected or accepted.
const SHIM: &str = r#"#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* Other kinds of sockets refuse it, which does no harm; what the caller finds in errno stays. */
static void no_delay(int fd) {
  int on = 1, kept = errno;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  errno = kept;
}

int connect(int fd, const struct sockaddr *to, socklen_t len) {
  static int (*real)(int, const struct sockaddr *, socklen_t);
  if (!real) real = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
  no_delay(fd);
  return real(fd, to, len);
}

int accept(int fd, struct sockaddr *from, socklen_t *len) {
  static int (*real)(int, struct sockaddr *, socklen_t *);
  if (!real) real = (int (*)(int, struct sockaddr *, socklen_t *))dlsym(RTLD_NEXT, "accept");
  int got = real(fd, from, len);
  if (got >= 0) no_delay(got);
  return got;
}

int accept4(int fd, struct sockaddr *from, socklen_t *len, int flags) {
  static int (*real)(int, struct sockaddr *, socklen_t *, int);
  if (!real) real = (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
  int got = real(fd, from, len, flags);
  if (got >= 0) no_delay(got);
  return got;
}
"#;

/// Why C Tor is not measured.
#[derive(Debug, thiserror::Error)]
pub enum CTorError {
    /// A program is missing.
    #[error("`{program}` is not installed: install {package} to measure C Tor")]
    Missing {
        /// The program.
        program: &'static str,
        /// A package that has it.
        package: &'static str,
    },
    /// The compiler refused the shim.
    #[error("`cc` cannot build the TCP_NODELAY shim: {0}")]
    Shim(String),
    /// A file.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// `tor` is missing, or does not run.
    #[error(transparent)]
    Tor(#[from] ctor::CTorError),
    /// There are not three of them.
    #[error("the relays are no chain")]
    NoChain,
    /// It carries nothing.
    #[error("C Tor's relays carry no circuit")]
    NoCircuit {
        /// Why.
        #[source]
        error: Box<DriverError>,
    },
}

impl CTorError {
    /// Whether something has to be installed: C Tor is then left out, and everything else measured.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            CTorError::Missing { .. } | CTorError::Tor(ctor::CTorError::Missing(_))
        )
    }
}

/// C Tor's cell scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheduler {
    /// `Schedulers Vanilla`: as much as there is, at once. The cheapest.
    #[default]
    Vanilla,
    /// `Schedulers KIST`, its default: in rounds of 10 ms.
    Kist,
}

impl Scheduler {
    fn name(self) -> &'static str {
        match self {
            Scheduler::Vanilla => "Vanilla",
            Scheduler::Kist => "KIST",
        }
    }
}

/// Three running C Tor relays. They end with this value.
#[derive(Debug)]
pub struct CTor {
    /// Guard, middle and exit.
    pub chain: Chain,
    /// What `tor --version` says.
    pub version: String,
    /// Held, so that they run.
    _relays: Vec<ctor::CTor>,
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> CTorError {
    let path = path.to_owned();
    |error| CTorError::File { path, error }
}

/// Builds the shim in `directory`.
fn build_shim(directory: &Path) -> Result<PathBuf, CTorError> {
    let source = directory.join("nodelay.c");
    let library = directory.join("nodelay.so");
    std::fs::write(&source, SHIM).map_err(file(&source))?;
    let (program, package) = COMPILER;
    let built = Command::new(program)
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| CTorError::Missing { program, package })?;
    if !built.status.success() {
        return Err(CTorError::Shim(String::from_utf8_lossy(&built.stderr).into_owned()));
    }
    Ok(library)
}

impl CTor {
    /// Starts three relays, with their files below `directory`.
    ///
    /// # Errors
    /// See [`CTorError`].
    pub fn start(directory: &Path, scheduler: Scheduler) -> Result<CTor, CTorError> {
        let version = ctor::version()?;
        std::fs::create_dir_all(directory).map_err(file(directory))?;
        let shim = build_shim(directory)?;
        let mut relays = Vec::new();
        for (name, exit) in [("guard", false), ("middle", false), ("exit", true)] {
            let torrc = torrc(name, exit, scheduler);
            let preload = |command: &mut Command| {
                command.env("LD_PRELOAD", &shim);
            };
            relays.push(ctor::CTor::start_with(&directory.join(name), &torrc, preload)?);
        }
        let members: Result<Vec<Member>, CTorError> = relays.iter_mut().map(member).collect();
        let chain = Chain::new(members?).ok_or(CTorError::NoChain)?;
        wait_for_exit(&chain, START).map_err(|error| CTorError::NoCircuit { error: Box::new(error) })?;
        Ok(CTor {
            chain,
            version,
            _relays: relays,
        })
    }
}

/// A relay that carries circuits without a consensus: its authority does not answer.
fn torrc(name: &str, exit: bool, scheduler: Scheduler) -> Torrc {
    let torrc = Torrc::new()
        .no_authority()
        .relay(name, "auto")
        .set("PublishServerDescriptor", 0)
        .set("RefuseUnknownExits", 0)
        .set("Schedulers", scheduler.name())
        .set("MaxMemInQueues", "4 GB");
    match exit {
        true => torrc.exits(),
        false => torrc.exits_nowhere(),
    }
}

/// Waits until it listens, and reads who it is.
fn member(relay: &mut ctor::CTor) -> Result<Member, CTorError> {
    let address = relay.or_address_blocking()?;
    let (rsa, ed25519) = relay.identity()?;
    let target = Target {
        address,
        rsa,
        ed25519,
        ntor: relay.onion_key()?,
    };
    Ok(Member {
        pid: relay.pid(),
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_c_tor_relays_carry_a_circuit_with_the_scheduler_that_was_asked_for() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        for (scheduler, said) in [
            (Scheduler::Vanilla, "Schedulers=Vanilla"),
            (Scheduler::Kist, "Schedulers=KIST"),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            // It returns once a circuit through all three was used.
            let tor = match CTor::start(directory.path(), scheduler) {
                Err(error) if error.is_missing() => {
                    assert!(std::env::var("CI").as_deref() != Ok("true"), "{error}");
                    eprintln!("skipped: {error}");
                    return;
                }
                started => started.expect("they start"),
            };
            for relay in &tor._relays {
                let told = runtime.block_on(async {
                    let mut control = relay.control().await.expect("its control port is open");
                    control.tell("GETCONF Schedulers").await
                });
                assert_eq!(told.expect("it answers"), [said]);
                // Without the preloaded library it would be another relay that is measured.
                let maps = std::fs::read_to_string(format!("/proc/{}/maps", relay.pid()));
                assert!(maps.is_ok_and(|maps| maps.contains("nodelay.so")));
            }
        }
    }
}
