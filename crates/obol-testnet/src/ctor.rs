//! C Tor as a child process: for everything that is tested, or measured, beside an unmodified Tor.
//!
//! A [`Torrc`] says what it is to be, [`CTor`] runs it: its files lie in one directory, its log is read from there, it is asked
//! over its control port, and it ends with its value (C Tor itself also ends when the process that started it is gone).

mod authority;
mod control;

use std::fmt::{Display, Write as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rand::RngExt as _;

pub use authority::{AuthorityFiles, Voting};
pub use control::{TorControl, TorControlError};

/// Why C Tor does not run, or does not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum CTorError {
    /// A program is missing.
    #[error("`{0}` is not installed: install the package tor")]
    Missing(&'static str),
    /// A file.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It ended.
    #[error("`tor` ended by itself before it said {awaited:?}:\n{tail}")]
    Ended {
        /// What was waited for.
        awaited: String,
        /// The end of its log.
        tail: String,
    },
    /// It never said something.
    #[error("`tor` did not say {awaited:?} within {} s:\n{tail}", patience.as_secs())]
    Late {
        /// What was waited for.
        awaited: String,
        /// How long.
        patience: Duration,
        /// The end of its log.
        tail: String,
    },
    /// A program of the package failed.
    #[error("`{program}` failed: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// A file of its own is not what it should be.
    #[error("{} is not as C Tor writes it", .0.display())]
    Foreign(PathBuf),
    /// No port is free.
    #[error("no free port was found")]
    NoPort,
    /// Its control port.
    #[error(transparent)]
    Control(#[from] TorControlError),
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> CTorError {
    let path = path.to_owned();
    |error| CTorError::File { path, error }
}

/// What `tor --version` says in its first line.
///
/// # Errors
/// If `tor` or `tor-gencert` is missing.
pub fn version() -> Result<String, CTorError> {
    let ask = |program| {
        Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(|_| CTorError::Missing(program))
    };
    ask("tor-gencert")?;
    let text = String::from_utf8_lossy(&ask("tor")?.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned())
}

/// Whether C Tor is here. For tests: where it is not they have nothing to test against, and say so; in continuous integration (`CI` is
/// `true`), where nobody reads that, it is a failure.
///
/// # Panics
/// If it is missing in continuous integration.
pub fn available() -> bool {
    match version() {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{error}");
            eprintln!("skipped: {error}");
            false
        }
    }
}

/// A port of the loopback that nobody listens at, below those that the system gives to outgoing connections: none of these takes it
/// before its owner does, not even while its owner is being started again.
///
/// # Errors
/// If none is found.
pub fn free_port() -> Result<u16, CTorError> {
    let mut rng = rand::rng();
    (0..1_000)
        .map(|_| rng.random_range(10_000..30_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or(CTorError::NoPort)
}

/// A configuration of C Tor, without what [`CTor::start`] adds: places of files, log, control port.
#[derive(Debug, Clone)]
pub struct Torrc {
    text: String,
    log: &'static str,
}

impl Default for Torrc {
    fn default() -> Self {
        Torrc::new()
    }
}

impl Torrc {
    /// What every `tor` of a test network is told.
    pub fn new() -> Torrc {
        Torrc {
            text: String::new(),
            log: "notice",
        }
        .set("TestingTorNetwork", 1)
        .set("UseDefaultFallbackDirs", 0)
        .set("EnforceDistinctSubnets", 0)
        .set("Schedulers", "Vanilla")
        .set("ShutdownWaitLength", 0)
        .set("SafeLogging", 0)
        .set("ProtocolWarnings", 1)
    }

    /// One option. An option that may be repeated may be set again.
    #[must_use]
    pub fn set(mut self, option: &str, value: impl Display) -> Torrc {
        let _ = writeln!(self.text, "{option} {value}");
        self
    }

    /// Options as lines of a torrc.
    #[must_use]
    pub fn lines(mut self, lines: &str) -> Torrc {
        let _ = writeln!(self.text, "{}", lines.trim_end());
        self
    }

    /// What is logged, in the words of its option `Log`; `notice` unless told otherwise.
    #[must_use]
    pub fn log(mut self, what: &'static str) -> Torrc {
        self.log = what;
        self
    }

    /// The authorities that it believes, as `DirAuthority` lines.
    #[must_use]
    pub fn authorities(self, all: &[AuthorityFiles]) -> Torrc {
        all.iter().fold(self, |torrc, authority| torrc.lines(&authority.line()))
    }

    /// An authority that nobody reaches: for a `tor` that needs no directory.
    #[must_use]
    pub fn no_authority(self) -> Torrc {
        let nobody = "0".repeat(39) + "1";
        self.lines(&format!(
            "DirAuthority none orport=1 no-v2 v3ident={nobody} 127.0.0.1:1 {nobody}"
        ))
    }

    /// A relay on this port of the loopback (`auto`: a free one); it does not exit.
    #[must_use]
    pub fn relay(self, nickname: &str, or_port: impl Display) -> Torrc {
        self.set("Nickname", nickname)
            .set("Address", "127.0.0.1")
            .set("ORPort", format_args!("127.0.0.1:{or_port}"))
            .set("SocksPort", 0)
            .set("AssumeReachable", 1)
            .set("ExtendAllowPrivateAddresses", 1)
            .set("ContactInfo", "none")
    }

    /// The policy of a relay that exits to everywhere, this machine included. A policy of 127/8 alone is summarised as
    /// `reject 1-65535`, and no client would try.
    #[must_use]
    pub fn exits(self) -> Torrc {
        self.set("ExitRelay", 1)
            .set("ExitPolicyRejectPrivate", 0)
            .set("ExitPolicy", "accept 127.0.0.0/8:*")
            .set("ExitPolicy", "accept *:*")
    }

    /// The policy of a relay that does not exit.
    #[must_use]
    pub fn exits_nowhere(self) -> Torrc {
        self.set("ExitRelay", 0).set("ExitPolicy", "reject *:*")
    }

    /// A client with a SOCKS port on the loopback (`auto`: a free one) that connects to this machine, too.
    #[must_use]
    pub fn client(self, socks_port: impl Display) -> Torrc {
        self.set("SocksPort", format_args!("127.0.0.1:{socks_port}"))
            .set("ClientRejectInternalAddresses", 0)
            .set("ClientDNSRejectInternalAddresses", 0)
    }

    /// A relay to get the first directory from.
    #[must_use]
    pub fn fallback(self, address: SocketAddr, rsa: [u8; 20]) -> Torrc {
        self.lines(&format!(
            "FallbackDir {address} orport={} id={}",
            address.port(),
            hex::encode_upper(rsa)
        ))
    }

    /// Writes it into `directory`, with places for everything there.
    fn write(&self, directory: &Path) -> Result<PathBuf, CTorError> {
        private(directory)?;
        let path = directory.join("torrc");
        let at = directory.display();
        let text = format!(
            "DataDirectory {at}/data\nLog {log} file {at}/log\nControlPort 127.0.0.1:auto\n\
             ControlPortWriteToFile {at}/control\nCookieAuthentication 1\n__OwningControllerProcess {pid}\n{text}",
            log = self.log,
            pid = std::process::id(),
            text = self.text,
        );
        std::fs::write(&path, text).map_err(file(&path))?;
        Ok(path)
    }
}

/// Makes a directory that only its owner reads.
fn private(directory: &Path) -> Result<(), CTorError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(file(directory))
}

/// `tor` with this configuration file, and nothing of the system's own.
fn tor(torrc: &Path) -> Command {
    let mut command = Command::new("tor");
    command
        .arg("-f")
        .arg(torrc)
        .args(["--defaults-torrc", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// How long it may take to start: it makes RSA keys.
const START: Duration = Duration::from_secs(120);
/// How often a log is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How much of a log an error shows, in lines.
const TAIL: usize = 25;

/// A running `tor`. It ends with this value.
#[derive(Debug)]
pub struct CTor {
    child: Child,
    directory: PathBuf,
}

impl Drop for CTor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl CTor {
    /// Starts it, with all of its files in `directory`. A second start there goes on with the same keys and state.
    ///
    /// # Errors
    /// If the configuration cannot be written, or the program is missing.
    pub fn start(directory: &Path, torrc: &Torrc) -> Result<CTor, CTorError> {
        CTor::start_with(directory, torrc, |_| {})
    }

    /// The same with a command that was changed before, for instance in its environment.
    ///
    /// # Errors
    /// As [`CTor::start`].
    pub fn start_with(directory: &Path, torrc: &Torrc, change: impl FnOnce(&mut Command)) -> Result<CTor, CTorError> {
        let path = torrc.write(directory)?;
        // Those of an earlier run say nothing about this one.
        let _ = std::fs::remove_file(directory.join("control"));
        let mut command = tor(&path);
        change(&mut command);
        let child = command.spawn().map_err(|_| CTorError::Missing("tor"))?;
        Ok(CTor {
            child,
            directory: directory.to_owned(),
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All that it has logged so far, earlier runs in the same directory included.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// The first line of its log that has all of these in it.
    pub fn line_with(&self, parts: &[&str]) -> Option<String> {
        let log = self.log();
        let found = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        found.map(ToOwned::to_owned)
    }

    /// Looks once: the line, nothing yet, or never.
    fn look(&mut self, parts: &[&str], began: Instant, patience: Duration) -> Result<Option<String>, CTorError> {
        let ended = !matches!(self.child.try_wait(), Ok(None));
        let awaited = || parts.join(" ... ");
        match self.line_with(parts) {
            Some(line) => Ok(Some(line)),
            None if ended => Err(CTorError::Ended {
                awaited: awaited(),
                tail: self.tail(),
            }),
            None if began.elapsed() > patience => Err(CTorError::Late {
                awaited: awaited(),
                patience,
                tail: self.tail(),
            }),
            None => Ok(None),
        }
    }

    /// Waits until its log has a line with all of these in it, and returns that line.
    ///
    /// # Errors
    /// If it ends before, or takes longer than `patience`.
    pub async fn says(&mut self, parts: &[&str], patience: Duration) -> Result<String, CTorError> {
        let began = Instant::now();
        loop {
            if let Some(line) = self.look(parts, began, patience)? {
                return Ok(line);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The same for a thread that has nothing else to do.
    ///
    /// # Errors
    /// As [`CTor::says`].
    pub fn says_blocking(&mut self, parts: &[&str], patience: Duration) -> Result<String, CTorError> {
        let began = Instant::now();
        loop {
            if let Some(line) = self.look(parts, began, patience)? {
                return Ok(line);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Where a relay takes links, once it does and has written down who it is.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn or_address(&mut self) -> Result<SocketAddr, CTorError> {
        let line = self.says(&[OR_OPEN], START).await?;
        // The last thing that its start logs, after the files with its keys.
        self.says(&["Bootstrapped 0%"], START).await?;
        self.address_in(&line)
    }

    /// The same for a thread that has nothing else to do.
    ///
    /// # Errors
    /// If it does not start.
    pub fn or_address_blocking(&mut self) -> Result<SocketAddr, CTorError> {
        let line = self.says_blocking(&[OR_OPEN], START)?;
        self.says_blocking(&["Bootstrapped 0%"], START)?;
        self.address_in(&line)
    }

    fn address_in(&self, line: &str) -> Result<SocketAddr, CTorError> {
        let address = line.rsplit(' ').next().and_then(|address| address.parse().ok());
        address.ok_or_else(|| CTorError::Foreign(self.directory.join("log")))
    }

    /// A relay's RSA and Ed25519 identities, once it has started.
    ///
    /// # Errors
    /// If it has not.
    pub fn identity(&self) -> Result<([u8; 20], [u8; 32]), CTorError> {
        identity(&self.directory)
    }

    /// A relay's public ntor key, once it has started.
    ///
    /// # Errors
    /// If it has not.
    pub fn onion_key(&self) -> Result<[u8; 32], CTorError> {
        let path = self.directory.join("data/keys/secret_onion_key_ntor");
        let bytes = std::fs::read(&path).map_err(file(&path))?;
        // Behind a tag of 32 bytes and the secret key.
        let key = bytes.get(64..).and_then(|rest| rest.first_chunk()).copied();
        key.filter(|_| bytes.starts_with(b"== c25519v1: onion =="))
            .ok_or(CTorError::Foreign(path))
    }

    /// Its control port, once it listens there; authenticated.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn control(&self) -> Result<TorControl, CTorError> {
        let began = Instant::now();
        let path = self.directory.join("control");
        let cookie = self.directory.join("data/control_auth_cookie");
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let address = text.trim().strip_prefix("PORT=").and_then(|at| at.parse().ok());
            if let (Some(address), Ok(cookie)) = (address, std::fs::read(&cookie)) {
                return Ok(TorControl::connect(address, &cookie).await?);
            }
            if began.elapsed() > START {
                return Err(CTorError::Late {
                    awaited: "its control port".to_owned(),
                    patience: START,
                    tail: self.tail(),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it, and waits until it has ended. What is on its disk stays.
    pub fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const OR_OPEN: &str = "Opened OR listener connection (ready) on ";

/// Who the relay with its files in `directory` is.
fn identity(directory: &Path) -> Result<([u8; 20], [u8; 32]), CTorError> {
    let data = directory.join("data");
    let rsa = second_word(&data.join("fingerprint"), |word| hex::decode(word).ok())?;
    let ed = second_word(&data.join("fingerprint-ed25519"), |word| {
        STANDARD_NO_PAD.decode(word).ok()
    })?;
    Ok((rsa, ed))
}

/// The second word of a file, decoded.
fn second_word<const N: usize>(path: &Path, decode: impl Fn(&str) -> Option<Vec<u8>>) -> Result<[u8; N], CTorError> {
    let text = std::fs::read_to_string(path).map_err(file(path))?;
    text.split_whitespace()
        .nth(1)
        .and_then(decode)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| CTorError::Foreign(path.to_owned()))
}
