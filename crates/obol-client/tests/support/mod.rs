//! A small network of stock C Tor processes on loopback: one authority, three more relays that are all guard and exit.
//!
//! For tests of what a client does on any Tor network. Needs the programs `tor` and `tor-gencert` (package `tor` on Debian).

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use obol_client::{Authority, Fallback, private_network};

/// How long the network may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running network; its processes end with it.
pub struct TorNetwork {
    _directory: tempfile::TempDir,
    processes: Vec<Child>,
    authority: Authority,
    fallbacks: Vec<Fallback>,
}

impl Drop for TorNetwork {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn fingerprint(text: &str) -> [u8; 20] {
    let mut bytes = [0; 20];
    hex::decode_to_slice(text.trim().replace(' ', ""), &mut bytes).unwrap();
    bytes
}

struct Node {
    name: String,
    directory: PathBuf,
    or_port: u16,
    dir_port: u16,
}

impl Node {
    fn new(root: &Path, name: &str) -> Node {
        let directory = root.join(name);
        std::fs::create_dir_all(directory.join("keys")).unwrap();
        set_private(&directory);
        Node {
            name: name.to_owned(),
            directory,
            or_port: free_port(),
            dir_port: free_port(),
        }
    }

    /// RSA and Ed25519 identities, after `tor --list-fingerprint` made the keys.
    fn identities(&self) -> ([u8; 20], [u8; 32]) {
        let rsa = std::fs::read_to_string(self.directory.join("fingerprint")).unwrap();
        let ed = std::fs::read(self.directory.join("keys/ed25519_master_id_public_key")).unwrap();
        let rsa = fingerprint(rsa.split_once(' ').unwrap().1);
        (rsa, ed[ed.len() - 32..].try_into().unwrap())
    }
}

fn set_private(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).unwrap();
}

impl TorNetwork {
    /// Starts it. `None`, with a message, where the programs are missing; a failure where `CI` is set.
    pub fn start() -> Option<TorNetwork> {
        let found = |program: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
        };
        if !found("tor") || !found("tor-gencert") {
            let text = "`tor` and `tor-gencert` are not installed (package `tor`)";
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{text}");
            eprintln!("skipped: {text}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let authority = Node::new(root, "authority");
        let relays: Vec<Node> = (0..3).map(|n| Node::new(root, &format!("relay{n}"))).collect();
        let v3 = certify(&authority);
        let common = |node: &Node| {
            format!(
                "TestingTorNetwork 1\nAssumeReachable 1\nEnforceDistinctSubnets 0\nSchedulers Vanilla\n\
                 DataDirectory {}\nNickname {}\nAddress 127.0.0.1\nORPort 127.0.0.1:{}\nSocksPort 0\n\
                 ExtendAllowPrivateAddresses 1\nLog notice file {}\nContactInfo test@example.com\n\
                 ExitRelay 1\nExitPolicyRejectPrivate 0\nExitPolicy accept 127.0.0.0/8:*\nExitPolicy accept *:*\n",
                node.directory.display(),
                node.name,
                node.or_port,
                node.directory.join("log").display(),
            )
        };
        // The authority's fingerprint comes from its keys, which tor makes when asked for it.
        let torrc = |node: &Node, text: &str| {
            let path = node.directory.join("torrc");
            std::fs::write(&path, text).unwrap();
            path
        };
        let list = |node: &Node, more: &str| {
            let path = torrc(node, &(common(node) + more));
            let run = Command::new("tor")
                .arg("-f")
                .arg(&path)
                .arg("--list-fingerprint")
                .output()
                .unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        };
        let placeholder = format!(
            "DirAuthority a orport=1 no-v2 v3ident={} 127.0.0.1:1 {}\n",
            hex::encode_upper(v3),
            hex::encode_upper([0; 20])
        );
        list(&authority, &placeholder);
        let (rsa, _) = authority.identities();
        let dir_authority = format!(
            "DirAuthority authority orport={} no-v2 v3ident={} 127.0.0.1:{} {}\n",
            authority.or_port,
            hex::encode_upper(v3),
            authority.dir_port,
            hex::encode_upper(rsa)
        );
        let mut processes = Vec::new();
        let mut run = |node: &Node, text: String| {
            let path = torrc(node, &text);
            let process = Command::new("tor")
                .arg("-f")
                .arg(path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            processes.push(process);
        };
        let authority_text = common(&authority)
            + &dir_authority
            + &format!("DirPort 127.0.0.1:{}\n", authority.dir_port)
            + "AuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\nV3AuthVotingInterval 20\nV3AuthVoteDelay 2\n\
               V3AuthDistDelay 2\nV3AuthNIntervalsValid 10\nTestingV3AuthInitialVotingInterval 20\n\
               TestingV3AuthInitialVoteDelay 2\nTestingV3AuthInitialDistDelay 2\nTestingDirAuthVoteExit *\n\
               TestingDirAuthVoteGuard *\nTestingDirAuthVoteHSDir *\nTestingMinExitFlagThreshold 0\n\
               AuthDirMaxServersPerAddr 0\nConsensusParams cc_alg=2 bwauthpid=1 ExtendByEd25519ID=1\n";
        run(&authority, authority_text);
        let mut fallbacks = Vec::new();
        for relay in &relays {
            list(relay, &dir_authority);
            run(relay, common(relay) + &dir_authority);
            let (rsa_identity, ed_identity) = relay.identities();
            fallbacks.push(Fallback {
                rsa_identity,
                ed_identity,
                or_ports: vec![SocketAddr::from(([127, 0, 0, 1], relay.or_port))],
            });
        }
        let network = TorNetwork {
            processes,
            authority: Authority {
                v3_identity: v3,
                directory: SocketAddr::from(([127, 0, 0, 1], authority.dir_port)),
            },
            fallbacks,
            _directory: directory,
        };
        network.wait_for_consensus(&relays);
        Some(network)
    }

    /// The `tor` section of a client of this network.
    pub fn section(&self) -> toml::Table {
        private_network(std::slice::from_ref(&self.authority), &self.fallbacks)
    }

    /// Waits until relays hold a consensus that lists all four of them as running.
    fn wait_for_consensus(&self, relays: &[Node]) {
        let began = Instant::now();
        let complete = |relay: &Node| {
            let consensus =
                std::fs::read_to_string(relay.directory.join("cached-microdesc-consensus")).unwrap_or_default();
            let flags = consensus.lines().filter(|line| line.starts_with("s "));
            let usable = flags
                .filter(|line| line.contains("Running") && line.contains("Guard"))
                .count();
            // The microdescriptors too: a relay serves them to clients.
            let descriptors = ["cached-microdescs", "cached-microdescs.new"]
                .iter()
                .filter_map(|name| std::fs::read_to_string(relay.directory.join(name)).ok())
                .flat_map(|text| {
                    text.lines()
                        .filter(|line| *line == "onion-key")
                        .map(drop)
                        .collect::<Vec<_>>()
                })
                .count();
            usable >= 4 && descriptors >= 4
        };
        while !relays.iter().all(complete) {
            assert!(
                began.elapsed() < PATIENCE,
                "the network of C Tor relays did not come up"
            );
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

/// Makes the authority's identity and signing keys; returns the fingerprint of the first.
fn certify(authority: &Node) -> [u8; 20] {
    let keys = authority.directory.join("keys");
    let mut making = Command::new("tor-gencert")
        .current_dir(&keys)
        .args(["--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a"])
        .arg(format!("127.0.0.1:{}", authority.dir_port))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    making.stdin.take().unwrap().write_all(b"passphrase\n").unwrap();
    assert!(making.wait().unwrap().success(), "tor-gencert failed");
    let certificate = std::fs::read_to_string(keys.join("authority_certificate")).unwrap();
    let line = certificate
        .lines()
        .find(|line| line.starts_with("fingerprint "))
        .unwrap();
    fingerprint(line.trim_start_matches("fingerprint "))
}
