//! What a C Tor directory authority needs before it runs: keys, a certificate, and its line in everybody's configuration.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CTorError, Torrc, file, free_port, identity, private, tor};

/// How authorities vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voting {
    /// From one consensus to the next, in seconds; 20 is the least that works.
    pub interval: u32,
    /// Seconds for the votes, and as many for the signatures; less than a quarter of the interval.
    pub delay: u32,
    /// For how many intervals a consensus is valid.
    pub valid: u32,
}

impl Default for Voting {
    /// Every 20 seconds, valid for 200.
    fn default() -> Self {
        Voting {
            interval: 20,
            delay: 2,
            valid: 10,
        }
    }
}

/// An authority before it runs.
#[derive(Debug, Clone)]
pub struct AuthorityFiles {
    /// Its name.
    pub nickname: String,
    /// Where its files are: for [`CTor::start`](super::CTor::start).
    pub directory: PathBuf,
    /// Its OR port on the loopback.
    pub or_port: u16,
    /// Where it answers in plain HTTP.
    pub directory_address: SocketAddr,
    /// Fingerprint of its v3 identity key.
    pub v3_identity: [u8; 20],
    /// Its RSA identity as a relay.
    pub rsa: [u8; 20],
    /// Its Ed25519 identity as a relay.
    pub ed: [u8; 32],
}

impl AuthorityFiles {
    /// Makes its keys and its certificate in `directory`.
    ///
    /// # Errors
    /// If a program of the package `tor` is missing, or fails.
    pub fn make(directory: &Path, nickname: &str) -> Result<AuthorityFiles, CTorError> {
        let (or_port, dir_port) = (free_port()?, free_port()?);
        let directory_address = SocketAddr::from((Ipv4Addr::LOCALHOST, dir_port));
        let v3_identity = certify(directory, directory_address)?;
        // Who it is as a relay follows from keys that tor makes when it is asked for that.
        let torrc = Torrc::new().no_authority().relay(nickname, or_port);
        let path = torrc.write(directory)?;
        let output = tor(&path)
            .args(["--list-fingerprint", "--quiet"])
            .stdout(Stdio::piped())
            .output()
            .map_err(|_| CTorError::Missing("tor"))?;
        if !output.status.success() {
            return Err(CTorError::Failed {
                program: "tor --list-fingerprint",
                said: String::from_utf8_lossy(&output.stdout).into_owned(),
            });
        }
        let (rsa, ed) = identity(directory)?;
        Ok(AuthorityFiles {
            nickname: nickname.to_owned(),
            directory: directory.to_owned(),
            or_port,
            directory_address,
            v3_identity,
            rsa,
            ed,
        })
    }

    /// Its `DirAuthority` line.
    pub fn line(&self) -> String {
        format!(
            "DirAuthority {} orport={} no-v2 v3ident={} {} {}",
            self.nickname,
            self.or_port,
            hex::encode_upper(self.v3_identity),
            self.directory_address,
            hex::encode_upper(self.rsa),
        )
    }

    /// The same as a relay of ours is told.
    pub fn entry(&self) -> obol_relay::directory::Authority {
        obol_relay::directory::Authority {
            name: self.nickname.clone(),
            address: self.directory_address,
            v3_identity: self.v3_identity,
        }
    }

    /// Its configuration, beside `all` authorities; flags that a new network cannot earn yet are voted for whoever is asked for
    /// with further options.
    pub fn torrc(&self, all: &[AuthorityFiles], voting: Voting) -> Torrc {
        let Voting { interval, delay, valid } = voting;
        Torrc::new()
            .authorities(all)
            .relay(&self.nickname, self.or_port)
            .exits_nowhere()
            .set("DirPort", self.directory_address)
            .set("AuthoritativeDirectory", 1)
            .set("V3AuthoritativeDirectory", 1)
            .set("V3AuthVotingInterval", interval)
            .set("V3AuthVoteDelay", delay)
            .set("V3AuthDistDelay", delay)
            .set("V3AuthNIntervalsValid", valid)
            .set("TestingV3AuthInitialVotingInterval", interval)
            .set("TestingV3AuthInitialVoteDelay", delay)
            .set("TestingV3AuthInitialDistDelay", delay)
            .set("TestingMinExitFlagThreshold", 0)
            .set("AuthDirMaxServersPerAddr", 0)
    }
}

/// Makes the identity and signing keys of the authority; returns the fingerprint of the first.
fn certify(directory: &Path, address: SocketAddr) -> Result<[u8; 20], CTorError> {
    let keys = directory.join("data/keys");
    private(&directory.join("data"))?;
    private(&keys)?;
    let program = "tor-gencert";
    // It cannot be asked to do without a passphrase; a file would have to be protected from everybody else.
    let mut making = Command::new(program)
        .current_dir(&keys)
        .args(["--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a"])
        .arg(address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|_| CTorError::Missing(program))?;
    if let Some(mut input) = making.stdin.take() {
        input.write_all(b"a passphrase\n").map_err(file(Path::new(program)))?;
    }
    let output = making.wait_with_output().map_err(file(Path::new(program)))?;
    if !output.status.success() {
        return Err(CTorError::Failed {
            program,
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let path = keys.join("authority_certificate");
    let text = std::fs::read_to_string(&path).map_err(file(&path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("fingerprint "));
    line.and_then(|digits| hex::decode(digits).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(CTorError::Foreign(path))
}
