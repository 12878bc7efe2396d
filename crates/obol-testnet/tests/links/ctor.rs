//! C Tor at the other end, in both roles.

use crate::fixture::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use obol_onion::crypto::tor1::ClientLayers;
use obol_onion::handshake::{fast, ntor, ntor_v3};
use obol_onion::link::{Expected, PeerIdentity, Role, Version};
use obol_relay::handshake::{self, Established};
use obol_testnet::ctor::{CTor, Torrc, available};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running C Tor with its files.
struct Peer {
    tor: CTor,
    _files: tempfile::TempDir,
}

impl Peer {
    fn start(torrc: &Torrc) -> Peer {
        let files = tempfile::tempdir().unwrap();
        let tor = CTor::start(files.path(), torrc).unwrap();
        Peer { tor, _files: files }
    }

    /// A relay that knows no authority.
    fn relay() -> Peer {
        Peer::start(
            &Torrc::new()
                .no_authority()
                .relay("peer", "auto")
                .exits_nowhere()
                .log("info"),
        )
    }

    /// A client whose only directory authority is the relay with keys 0, at `authority`.
    fn client(authority: SocketAddr) -> Peer {
        let line = format!(
            "DirAuthority test orport={port} no-v2 v3ident={nobody} 127.0.0.1:1 {fingerprint}",
            port = authority.port(),
            nobody = "0".repeat(39) + "1",
            fingerprint = hex::encode_upper(keys(0).fingerprint()),
        );
        Peer::start(&Torrc::new().lines(&line).client("auto"))
    }

    /// Its address, once it listens and has written down who it is.
    async fn address(&mut self) -> SocketAddr {
        self.tor.or_address().await.unwrap()
    }

    fn identity(&self) -> PeerIdentity {
        let (rsa, ed25519) = self.tor.identity().unwrap();
        PeerIdentity { rsa, ed25519 }
    }

    fn onion_key(&self) -> [u8; 32] {
        self.tor.onion_key().unwrap()
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
async fn use_link(link: Established, tor: &Peer) {
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
    if !available() {
        return;
    }
    let mut tor = Peer::relay();
    let address = tor.address().await;
    let identity = tor.identity();
    let link = handshake::connect(address, expected(identity), &keys(1), &local())
        .await
        .unwrap();
    assert_eq!(link.peer, Some(identity));
    // It names us by the identity that we proved.
    let us = format!("ID={} ", base64_of(&keys(1).ed25519()));
    tor.tor
        .says(&["Got good NETINFO cell on OR connection (open)", &us], PATIENCE)
        .await
        .unwrap();
    use_link(link, &tor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_tor_serves_us_when_we_call_as_a_client() {
    if !available() {
        return;
    }
    let mut tor = Peer::relay();
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
    let within = tokio::time::timeout(PATIENCE, from.recv());
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
    if !available() {
        return;
    }
    let (address, mut callers, mut seen) = called().await;
    let _tor = Peer::client(address);
    assert_eq!(next(&mut callers).await, None);
    assert_eq!(next(&mut seen).await, Saw::Fast);
    assert_eq!(next(&mut seen).await, Saw::BeginDir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_c_tor_relay_authenticates_to_us_when_it_extends_a_circuit_to_us() {
    if !available() {
        return;
    }
    let (address, mut callers, mut seen) = called().await;
    let mut tor = Peer::relay();
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
