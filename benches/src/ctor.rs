//! C Tor's relays, each with its best settings: no directory, no consensus, nothing but circuits.
//!
//! C Tor leaves Nagle's algorithm on, which on one machine costs it 40 ms a round trip; a preloaded library that
//! turns it off is compiled here, so that what is compared is the relays.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::chain::{Chain, Member, wait_for_exit};
use crate::driver::{DriverError, Target};

/// How long `tor` may take to start: it makes RSA keys.
const START: Duration = Duration::from_secs(60);

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
    /// It ended, or took too long.
    #[error("`tor` did not start; its log is {}", log.display())]
    Start {
        /// Its log.
        log: PathBuf,
    },
    /// It carries nothing.
    #[error("C Tor's relays carry no circuit")]
    NoCircuit {
        /// Why.
        #[source]
        error: Box<DriverError>,
    },
    /// A file of its own is not what it should be.
    #[error("{} is not as C Tor writes it", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
}

impl CTorError {
    /// Whether something has to be installed: C Tor is then left out, and everything else measured.
    pub fn is_missing(&self) -> bool {
        matches!(self, CTorError::Missing { .. })
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

/// A running `tor`. It ends with this value.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three running C Tor relays. They end with this value.
#[derive(Debug)]
pub struct CTor {
    /// Guard, middle and exit.
    pub chain: Chain,
    /// What `tor --version` says.
    pub version: String,
    _processes: Vec<Process>,
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> CTorError {
    let path = path.to_owned();
    |error| CTorError::File { path, error }
}

/// The first line that a program says about itself, or that it is missing.
fn version_of(program: &'static str, package: &'static str) -> Result<String, CTorError> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|_| CTorError::Missing { program, package })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned())
}

/// Builds the shim in `directory`.
fn build_shim(directory: &Path) -> Result<PathBuf, CTorError> {
    let source = directory.join("nodelay.c");
    let library = directory.join("nodelay.so");
    std::fs::File::create(&source)
        .and_then(|mut to| to.write_all(SHIM.as_bytes()))
        .map_err(file(&source))?;
    let built = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| CTorError::Missing {
            program: "cc",
            package: "a C compiler (for instance the package gcc)",
        })?;
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
        let version = version_of("tor", "the package tor")?;
        version_of("cc", "a C compiler (for instance the package gcc)")?;
        std::fs::create_dir_all(directory).map_err(file(directory))?;
        let shim = build_shim(directory)?;
        let mut started = Vec::new();
        for (name, exit) in [("guard", false), ("middle", false), ("exit", true)] {
            started.push(start_one(&directory.join(name), name, exit, scheduler, &shim)?);
        }
        let mut members = Vec::new();
        let mut processes = Vec::new();
        for (mut process, directory) in started {
            members.push(Member {
                pid: process.0.id(),
                target: wait_for(&mut process.0, &directory)?,
            });
            processes.push(process);
        }
        let chain = Chain::new(members).ok_or_else(|| CTorError::Start {
            log: directory.to_owned(),
        })?;
        wait_for_exit(&chain, START).map_err(|error| CTorError::NoCircuit { error: Box::new(error) })?;
        Ok(CTor {
            chain,
            version,
            _processes: processes,
        })
    }
}

fn start_one(
    directory: &Path,
    name: &str,
    exit: bool,
    scheduler: Scheduler,
    shim: &Path,
) -> Result<(Process, PathBuf), CTorError> {
    let data = directory.join("data");
    std::fs::create_dir_all(directory).map_err(file(directory))?;
    let policy = match exit {
        true => "ExitRelay 1\nExitPolicyRejectPrivate 0\nExitPolicy accept *:*",
        false => "ExitRelay 0\nExitPolicy reject *:*",
    };
    // An authority that does not answer: relays carry circuits without a consensus.
    let torrc = format!(
        "DataDirectory {data}\nNickname {name}\nLog notice file {log}\nTestingTorNetwork 1\nAssumeReachable 1\n\
         PublishServerDescriptor 0\nContactInfo none\nORPort 127.0.0.1:auto\nAddress 127.0.0.1\nSocksPort 0\nControlPort 0\n\
         ExtendAllowPrivateAddresses 1\nRefuseUnknownExits 0\nSchedulers {scheduler}\nShutdownWaitLength 0\n\
         MaxMemInQueues 4 GB\nDirAuthority none orport=1 no-v2 v3ident={ident} 127.0.0.1:1 {ident}\n{policy}\n",
        data = data.display(),
        log = directory.join("log").display(),
        scheduler = scheduler.name(),
        ident = "0".repeat(39) + "1",
    );
    let path = directory.join("torrc");
    std::fs::write(&path, torrc).map_err(file(&path))?;
    let process = Command::new("tor")
        .arg("-f")
        .arg(&path)
        .args(["--defaults-torrc", "/dev/null"])
        .env("LD_PRELOAD", shim)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|_| CTorError::Missing {
            program: "tor",
            package: "the package tor",
        })?;
    Ok((Process(process), directory.to_owned()))
}

/// Waits until it listens, and reads who it is.
fn wait_for(process: &mut Child, directory: &Path) -> Result<Target, CTorError> {
    let log = directory.join("log");
    let began = Instant::now();
    let address: SocketAddr = loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let listening = text
            .lines()
            .find_map(|line| line.split_once("Opened OR listener connection (ready) on "));
        // The last thing that its start logs, after the files with its keys.
        let started = text.contains("Bootstrapped 0%");
        if let Some(address) = listening.and_then(|(_, address)| address.trim().parse().ok())
            && started
        {
            break address;
        }
        if !matches!(process.try_wait(), Ok(None)) || began.elapsed() > START {
            return Err(CTorError::Start { log });
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let data = directory.join("data");
    let rsa = second_word(&data.join("fingerprint"), |word| hex::decode(word).ok())?;
    let ed25519 = second_word(&data.join("fingerprint-ed25519"), |word| {
        STANDARD_NO_PAD.decode(word).ok()
    })?;
    Ok(Target {
        address,
        rsa,
        ed25519,
        ntor: onion_key(&data.join("keys/secret_onion_key_ntor"))?,
    })
}

/// The second word of a file, decoded.
fn second_word<const N: usize>(path: &Path, decode: impl Fn(&str) -> Option<Vec<u8>>) -> Result<[u8; N], CTorError> {
    let text = std::fs::read_to_string(path).map_err(file(path))?;
    text.split_whitespace()
        .nth(1)
        .and_then(decode)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| CTorError::Foreign { path: path.to_owned() })
}

/// Its public onion key: behind a tag of 32 bytes and the secret one.
fn onion_key(path: &Path) -> Result<[u8; 32], CTorError> {
    let bytes = std::fs::read(path).map_err(file(path))?;
    bytes
        .get(64..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .filter(|_| bytes.starts_with(b"== c25519v1: onion =="))
        .ok_or_else(|| CTorError::Foreign { path: path.to_owned() })
}
