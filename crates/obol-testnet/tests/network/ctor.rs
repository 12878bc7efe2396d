//! C Tor as a child process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Whether `program` of Debian's package `tor` is here. Where it is not, a test has nothing to test against; the gate has it,
/// and fails without it.
pub fn available(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    let gate = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(found || !gate, "{program} is missing: install the package tor");
    if !found {
        eprintln!("skipped: {program} is missing; install the package tor to run this test");
    }
    found
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// What every `tor` of a test network is told.
pub fn common(data: &Path, authority: &str) -> String {
    format!(
        "DataDirectory {}\nTestingTorNetwork 1\nUseDefaultFallbackDirs 0\nSchedulers Vanilla\nShutdownWaitLength 0\n\
         ControlPort 0\nLog notice stdout\n{authority}\n",
        data.display()
    )
}

/// A running `tor`. It ends with this value.
pub struct Tor {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Tor {
    /// Starts it with this configuration.
    pub fn start(data: &Path, torrc: &str) -> Tor {
        std::fs::create_dir_all(data).unwrap();
        let path = data.join("torrc");
        std::fs::write(&path, torrc).unwrap();
        let mut child = Command::new("tor")
            .arg("-f")
            .arg(&path)
            .arg("--defaults-torrc")
            .arg("/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let sink = Arc::clone(&log);
        // Reads until tor ends and its output with it.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Tor { child, log }
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it says `words`; what it said instead is in the panic.
    pub async fn says(&mut self, words: &str) {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        while !self.log().contains(words) {
            let ended = self.child.try_wait().unwrap();
            let late = tokio::time::Instant::now() > deadline;
            assert!(
                ended.is_none() && !late,
                "tor never said {words:?} (ended: {ended:?}):\n{}",
                self.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Tor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A C Tor directory authority that votes alone, every 20 seconds.
pub struct CTorAuthority {
    pub tor: Tor,
    pub entry: obol_relay::directory::Authority,
    files: tempfile::TempDir,
}

impl CTorAuthority {
    /// Makes its keys and starts it.
    pub fn start() -> CTorAuthority {
        let files = tempfile::tempdir().unwrap();
        let data = files.path().join("authority");
        let keys = data.join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        let (or_port, dir_port) = (free_port(), free_port());
        let address = SocketAddr::from(([127, 0, 0, 1], dir_port));
        let certificate = keys.join("authority_certificate");
        let mut gencert = Command::new("tor-gencert")
            .args([
                "--create-identity-key",
                "-m",
                "12",
                "-a",
                &address.to_string(),
                "--passphrase-fd",
                "0",
            ])
            .arg("-i")
            .arg(keys.join("authority_identity_key"))
            .arg("-s")
            .arg(keys.join("authority_signing_key"))
            .arg("-c")
            .arg(&certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut gencert.stdin.take().unwrap(), b"a passphrase\n").unwrap();
        assert!(gencert.wait().unwrap().success(), "tor-gencert failed");
        let certificate = std::fs::read_to_string(certificate).unwrap();
        let v3 = certificate
            .lines()
            .find_map(|line| line.strip_prefix("fingerprint "))
            .unwrap()
            .to_owned();
        let base = format!(
            "{}Nickname cauthority\nAddress 127.0.0.1\nORPort 127.0.0.1:{or_port}\nDirPort 127.0.0.1:{dir_port}\n\
             SocksPort 0\nContactInfo none\nExitPolicy reject *:*\nAssumeReachable 1\nAuthoritativeDirectory 1\n\
             V3AuthoritativeDirectory 1\nV3AuthVotingInterval 20\nV3AuthVoteDelay 4\nV3AuthDistDelay 4\n\
             TestingV3AuthInitialVotingInterval 20\nTestingV3AuthInitialVoteDelay 4\nTestingV3AuthInitialDistDelay 4\n\
             V3AuthNIntervalsValid 10\nTestingMinExitFlagThreshold 0\nAuthDirMaxServersPerAddr 0\n\
             ConsensusParams cc_alg=0\n",
            common(&data, "")
        );
        let fingerprint = list_fingerprint(
            &data,
            &format!(
                "{base}DirAuthority cauthority orport={or_port} no-v2 v3ident={v3} {address} {}\n",
                "0".repeat(40)
            ),
        );
        let line = format!("DirAuthority cauthority orport={or_port} no-v2 v3ident={v3} {address} {fingerprint}\n");
        CTorAuthority {
            tor: Tor::start(&data, &format!("{base}{line}")),
            entry: obol_relay::directory::Authority {
                name: "cauthority".to_owned(),
                address,
                v3_identity: hex::decode(v3).unwrap().try_into().unwrap(),
            },
            files,
        }
    }
}

/// Lets tor make its keys and tell its fingerprint.
fn list_fingerprint(data: &Path, torrc: &str) -> String {
    let path = data.join("torrc");
    std::fs::write(&path, torrc).unwrap();
    let output = Command::new("tor")
        .args(["--list-fingerprint", "--quiet", "--defaults-torrc", "/dev/null", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, fingerprint) = text
        .lines()
        .last()
        .unwrap_or_default()
        .split_once(' ')
        .unwrap_or_else(|| panic!("no fingerprint: {text} {}", String::from_utf8_lossy(&output.stderr)));
    fingerprint.replace(' ', "")
}
