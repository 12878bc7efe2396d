//! C Tor at the other end, in both roles.

use crate::fixture::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use obol_onion::crypto::tor1::ClientLayers;
use obol_onion::handshake::{fast, ntor, ntor_v3};
use obol_onion::link::{Expected, PeerIdentity, Role, Version};
use obol_relay::handshake::{self, Established};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Whether C Tor is there. Says so if not; fails in continuous integration, where nobody reads it.
fn c_tor_is_installed() -> bool {
    let found = Command::new("tor")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    let message = "`tor` (C Tor, Debian package `tor`) is not installed: links with it are not tested";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    eprintln!("skipped: {message}");
    false
}

/// A running C Tor; ends with its value.
struct CTor {
    process: Child,
    directory: tempfile::TempDir,
}

impl Drop for CTor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl CTor {
    /// Starts one whose only directory authority is the relay with keys 0, at `authority`.
    fn start(authority: SocketAddr, options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let torrc = format!(
            "DataDirectory {data}\nLog info file {log}\nLog warn stdout\nSafeLogging 0\nTestingTorNetwork 1\nAssumeReachable 1\n\
             ContactInfo none\nDirAuthority test orport={port} no-v2 v3ident={ident} 127.0.0.1:1 {fingerprint}\n{options}\n",
            data = data.display(),
            log = directory.path().join("log").display(),
            port = authority.port(),
            ident = "0".repeat(39) + "1",
            fingerprint = hex::encode_upper(keys(0).fingerprint()),
        );
        let path = directory.path().join("torrc");
        std::fs::write(&path, torrc).unwrap();
        let process = Command::new("tor")
            .arg("-f")
            .arg(&path)
            .args(["--defaults-torrc", "/dev/null"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, directory }
    }

    fn relay(authority: SocketAddr) -> Self {
        Self::start(
            authority,
            "ORPort 127.0.0.1:auto\nAddress 127.0.0.1\nSocksPort 0\nExitRelay 0\nExtendAllowPrivateAddresses 1",
        )
    }

    fn client(authority: SocketAddr) -> Self {
        Self::start(authority, "SocksPort auto\nClientRejectInternalAddresses 0")
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// Waits until its log has a line with all of these in it, and returns that line.
    async fn logged(&mut self, parts: &[&str]) -> String {
        let start = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.to_owned();
            }
            let ended = self.process.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < Duration::from_secs(120),
                "never logged {parts:?}:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its address, once it listens and has written down who it is.
    async fn address(&mut self) -> SocketAddr {
        let line = self.logged(&["Opened OR listener connection (ready) on "]).await;
        // The last file that its start writes.
        self.logged(&["Bootstrapped 0%"]).await;
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn identity(&self) -> PeerIdentity {
        let second = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.split_whitespace().nth(1).unwrap().to_owned()
        };
        let rsa = hex::decode(second(&self.data().join("fingerprint"))).unwrap();
        let ed25519 = STANDARD_NO_PAD
            .decode(second(&self.data().join("fingerprint-ed25519")))
            .unwrap();
        PeerIdentity {
            rsa: rsa.try_into().unwrap(),
            ed25519: ed25519.try_into().unwrap(),
        }
    }

    /// Its public onion key: behind a tag of 32 bytes and the secret one.
    fn onion_key(&self) -> [u8; 32] {
        let file = std::fs::read(self.data().join("keys/secret_onion_key_ntor")).unwrap();
        assert!(file.starts_with(b"== c25519v1: onion =="));
        *file[64..].first_chunk().unwrap()
    }
}

fn base64_of(bytes: &[u8]) -> String {
    STANDARD_NO_PAD.encode(bytes)
}

fn expected(identity: PeerIdentity) -> Expected {
    Expected {
        rsa: Some(identity.rsa),
        ed25519: Some(identity.ed25519),
    }
}

/// Asks for a directory stream through a one-hop circuit, and waits for whatever C Tor says to it: that it can be read is
/// the point.
async fn ask(cells: &mut Cells, circuit: u32, keys: &obol_onion::crypto::tor1::CircuitKeys) {
    let mut layers = ClientLayers::new();
    layers.push(keys);
    let mut body = message(command::BEGIN_DIR, 1, &[]);
    layers.originate(0, &mut body).unwrap();
    cells.send(circuit, command::RELAY, &body).await;
    loop {
        let (id, cell, mut body) = cells.next().await.expect("C Tor keeps the link");
        if (id, cell) == (circuit, command::RELAY) {
            let (hop, _) = layers.open(&mut body).expect("C Tor's answer is for us");
            assert_eq!(hop, 0);
            assert!(
                [command::CONNECTED, command::END].contains(&body[0]),
                "answered with {}",
                body[0]
            );
            return;
        }
        assert_ne!(
            (id, cell),
            (circuit, command::DESTROY),
            "destroyed with reason {}",
            body[0]
        );
    }
}

/// The next cell of a circuit, which must have this command.
async fn created(cells: &mut Cells, circuit: u32, wanted: u8) -> Vec<u8> {
    loop {
        let (id, cell, body) = cells.next().await.expect("C Tor keeps the link");
        if id == circuit {
            assert_eq!(cell, wanted, "reason {}", body[0]);
            return body.to_vec();
        }
    }
}

/// The body of a CREATE2.
fn create2(kind: u16, skin: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(skin.len() as u16).to_be_bytes(), skin].concat()
}

/// What a CREATED2 or EXTENDED2 carries.
fn reply_in(body: &[u8]) -> &[u8] {
    &body[2..2 + usize::from(u16::from_be_bytes([body[0], body[1]]))]
}

/// Makes a circuit of each kind on a link to C Tor, and uses it.
async fn use_link(link: Established, tor: &CTor) {
    assert_eq!((link.role, link.version), (Role::Initiator, Version::V5));
    let mut cells = Cells::new(link);
    let identity = tor.identity();
    let first = 0x8000_0001;

    let (client, x) = fast::Client::start(rand::random());
    cells.send(first, command::CREATE_FAST, &x).await;
    let reply = created(&mut cells, first, command::CREATED_FAST).await;
    let keys = client.finish(&reply[..fast::REPLY_LEN]).unwrap();
    ask(&mut cells, first, &keys).await;

    let (client, skin) = ntor::Client::start(identity.rsa, tor.onion_key(), rand::random());
    cells.send(first + 1, command::CREATE2, &create2(2, &skin)).await;
    let reply = created(&mut cells, first + 1, command::CREATED2).await;
    let keys = client.finish(reply_in(&reply)).unwrap();
    ask(&mut cells, first + 1, &keys).await;

    for congestion_control in [false, true] {
        let circuit = first + 2 + u32::from(congestion_control);
        let asked = ntor_v3::Asked { congestion_control };
        let (client, skin) = ntor_v3::Client::start(identity.ed25519, tor.onion_key(), rand::random(), asked);
        cells.send(circuit, command::CREATE2, &create2(3, &skin)).await;
        let reply = created(&mut cells, circuit, command::CREATED2).await;
        let (keys, agreed) = client.finish(reply_in(&reply)).unwrap();
        assert_eq!(agreed.congestion_control.is_some(), congestion_control);
        ask(&mut cells, circuit, &keys).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_tor_authenticates_us_when_we_call() {
    if !c_tor_is_installed() {
        return;
    }
    let mut tor = CTor::relay("127.0.0.1:9".parse().unwrap());
    let address = tor.address().await;
    let identity = tor.identity();
    let link = handshake::connect(address, expected(identity), &keys(1), &local())
        .await
        .unwrap();
    assert_eq!(link.peer, Some(identity));
    // It names us by the identity that we proved.
    let us = format!("ID={} ", base64_of(&keys(1).ed25519()));
    tor.logged(&["Got good NETINFO cell on OR connection (open)", &us])
        .await;
    use_link(link, &tor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_tor_serves_us_when_we_call_as_a_client() {
    if !c_tor_is_installed() {
        return;
    }
    let mut tor = CTor::relay("127.0.0.1:9".parse().unwrap());
    let address = tor.address().await;
    let identity = tor.identity();
    let link = handshake::connect_as_client(address, expected(identity), &local())
        .await
        .unwrap();
    assert_eq!(link.peer, Some(identity));
    use_link(link, &tor).await;
}

/// The next of something that is sure to come within two minutes.
async fn next<T>(from: &mut UnboundedReceiver<T>) -> T {
    let within = tokio::time::timeout(Duration::from_secs(120), from.recv());
    within.await.expect("it came in time").expect("there is one")
}

/// A small relay with keys 0 for C Tor to call. Who called, and what it did.
async fn called() -> (
    SocketAddr,
    UnboundedReceiver<Option<PeerIdentity>>,
    UnboundedReceiver<Saw>,
) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (who, callers) = unbounded_channel();
    let (saw, seen) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (who, saw) = (who.clone(), saw.clone());
            tokio::spawn(async move {
                let keys = keys(0);
                let link = handshake::accept(tcp, &keys, &local()).await.unwrap();
                let _ = who.send(link.peer);
                serve(link, &keys, b"HTTP/1.0 404 Not found\r\n\r\n", saw).await;
            });
        }
    });
    (address, callers, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_c_tor_client_takes_us_for_the_relay_that_we_are() {
    if !c_tor_is_installed() {
        return;
    }
    let (address, mut callers, mut seen) = called().await;
    let _tor = CTor::client(address);
    assert_eq!(next(&mut callers).await, None);
    assert_eq!(next(&mut seen).await, Saw::Fast);
    assert_eq!(next(&mut seen).await, Saw::BeginDir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_c_tor_relay_authenticates_to_us_when_it_extends_a_circuit_to_us() {
    if !c_tor_is_installed() {
        return;
    }
    let (address, mut callers, mut seen) = called().await;
    let mut tor = CTor::relay("127.0.0.1:9".parse().unwrap());
    let first_address = tor.address().await;
    let first = tor.identity();
    let link = handshake::connect_as_client(first_address, expected(first), &local())
        .await
        .unwrap();
    let mut cells = Cells::new(link);
    let circuit = 0x8000_0001;

    let (client, skin) = ntor::Client::start(first.rsa, tor.onion_key(), rand::random());
    cells.send(circuit, command::CREATE2, &create2(2, &skin)).await;
    let reply = created(&mut cells, circuit, command::CREATED2).await;
    let mut layers = ClientLayers::new();
    layers.push(&client.finish(reply_in(&reply)).unwrap());

    // EXTEND2: our address, our two identities, and an onion skin for our onion key.
    let ours = keys(0);
    let (client, skin) = ntor_v3::Client::start(
        ours.ed25519(),
        ours.current().ntor_public(),
        rand::random(),
        ntor_v3::Asked::default(),
    );
    let mut extend = vec![3, 0, 6, 127, 0, 0, 1];
    extend.extend_from_slice(&address.port().to_be_bytes());
    extend.extend_from_slice(&[2, 20]);
    extend.extend_from_slice(&ours.fingerprint());
    extend.extend_from_slice(&[3, 32]);
    extend.extend_from_slice(&ours.ed25519());
    extend.extend_from_slice(&create2(3, &skin));
    let mut body = message(command::EXTEND2, 0, &extend);
    layers.originate(0, &mut body).unwrap();
    cells.send(circuit, command::RELAY_EARLY, &body).await;

    assert_eq!(next(&mut callers).await, Some(first));
    assert_eq!(next(&mut seen).await, Saw::NtorV3);
    let mut body: [u8; 509] = created(&mut cells, circuit, command::RELAY).await.try_into().unwrap();
    assert_eq!(layers.open(&mut body).map(|(hop, _)| hop), Some(0));
    assert_eq!(body[0], command::EXTENDED2);
    let (keys, _) = client.finish(reply_in(&body[11..])).unwrap();
    layers.push(&keys);

    // Through C Tor to us and back.
    let mut body = message(command::BEGIN_DIR, 7, &[]);
    layers.originate(1, &mut body).unwrap();
    cells.send(circuit, command::RELAY_EARLY, &body).await;
    for wanted in [command::CONNECTED, command::DATA, command::END] {
        let mut body: [u8; 509] = created(&mut cells, circuit, command::RELAY).await.try_into().unwrap();
        assert_eq!(layers.open(&mut body).map(|(hop, _)| hop), Some(1));
        assert_eq!((body[0], body[4]), (wanted, 7));
    }
}
