//! Against rustls, in memory: what it seals we open, what we seal it opens, with any of the suites, from either end.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::super::{PossessionOnly, ServerKey, random_server_name};
use super::*;

/// Who goes on without rustls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

fn server_config() -> ServerConfig {
    static CONFIG: std::sync::LazyLock<Arc<ServerConfig>> = std::sync::LazyLock::new(|| {
        let key = ServerKey::generate(SystemTime::now()).unwrap();
        key.into_config().unwrap()
    });
    ServerConfig::clone(&CONFIG)
}

fn carry(from: &mut Connection, to: &mut Connection) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets().unwrap();
    }
}

/// Our end and the other of a connection after its handshake, and the secrets that our end told.
fn shaken(end: End, suite: CipherSuite) -> (Connection, Connection, Arc<TrafficSecrets>) {
    let secrets = Arc::new(TrafficSecrets::default());
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|other| other.suite() == suite);
    let verifier = PossessionOnly(provider.signature_verification_algorithms);
    let version = if SUITES.contains(&suite) { &TLS13 } else { &TLS12 };
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let mut server = server_config();
    match end {
        End::Client => client.key_log = Arc::<TrafficSecrets>::clone(&secrets),
        End::Server => server.key_log = Arc::<TrafficSecrets>::clone(&secrets),
    }
    server.send_tls13_tickets = 2;
    let mut client = Connection::Client(ClientConnection::new(Arc::new(client), random_server_name()).unwrap());
    let mut server = Connection::Server(ServerConnection::new(Arc::new(server)).unwrap());
    while client.is_handshaking() || server.is_handshaking() {
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
    }
    match end {
        End::Client => (client, server, secrets),
        End::Server => (server, client, secrets),
    }
}

struct Pair {
    sealer: Sealer,
    opener: Opener,
    peer: Connection,
}

fn pair(end: End, suite: CipherSuite) -> Pair {
    let (ours, peer, secrets) = shaken(end, suite);
    let (sealer, opener) = take_over(ours, &secrets).expect("TLS 1.3").unwrap();
    Pair { sealer, opener, peer }
}

impl Pair {
    /// What the peer sends when it is given `content`.
    fn peer_says(&mut self, content: &[u8]) -> Vec<u8> {
        self.peer.writer().write_all(content).unwrap();
        let mut wire = Vec::new();
        while self.peer.wants_write() {
            self.peer.write_tls(&mut wire).unwrap();
        }
        wire
    }

    /// What the peer reads of `wire`.
    fn peer_hears(&mut self, mut wire: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        while !wire.is_empty() {
            self.peer.read_tls(&mut wire).unwrap();
            let state = self.peer.process_new_packets().unwrap();
            let start = content.len();
            content.resize(start + state.plaintext_bytes_to_read(), 0);
            self.peer.reader().read_exact(&mut content[start..]).unwrap();
        }
        content
    }

    fn seal(&mut self, content: &[u8]) -> Vec<u8> {
        let mut wire = vec![0; HEAD];
        wire.extend_from_slice(content);
        wire.extend_from_slice(&[0; TAIL]);
        self.sealer.seal(&mut wire).unwrap();
        wire
    }

    /// Opens everything in `wire`, which has to be whole records.
    fn open(&mut self, mut wire: Vec<u8>) -> io::Result<(Vec<u8>, bool)> {
        let opened = self.opener.open(&mut wire, 0)?;
        assert!(opened.ended || opened.rest == wire.len());
        wire.truncate(opened.content);
        Ok((wire, opened.ended))
    }
}

/// Two of ours, one opening what the other seals: for what rustls does not send.
fn twins() -> (Sealer, Opener) {
    let (client, _, secrets) = shaken(End::Client, SUITES[0]);
    let (sealer, opener) = take_over(client, &secrets).expect("TLS 1.3").unwrap();
    let theirs = &sealer.protection;
    let secret = OkmBlock::new(theirs.secret.as_ref());
    let protection = Protection::new(theirs.suite, secret, theirs.sequence).unwrap();
    (sealer, Opener { protection, ..opener })
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

#[test]
fn both_ends_agree_with_rustls_in_every_suite() {
    for end in [End::Client, End::Server] {
        for suite in SUITES {
            let mut pair = pair(end, suite);
            for (round, len) in [1, 509, 514 * 31, CONTENT_MAX, 0, 7].into_iter().enumerate() {
                let content = noise(len, round as u8);
                let wire = pair.seal(&content);
                assert_eq!(wire.len(), HEAD + len + TAIL);
                assert_eq!(pair.peer_hears(&wire), content, "{end:?} {suite:?}");
                let wire = pair.peer_says(&content);
                assert_eq!(pair.open(wire).unwrap(), (content, false), "{end:?} {suite:?}");
            }
        }
    }
}

#[test]
fn a_connection_of_tls_1_2_stays_with_rustls() {
    let (ours, mut peer, secrets) = shaken(End::Server, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256);
    let mut ours = take_over(ours, &secrets).expect_err("TLS 1.2");
    ours.writer().write_all(b"as before").unwrap();
    carry(&mut ours, &mut peer);
    let mut read = [0; 9];
    peer.reader().read_exact(&mut read).unwrap();
    assert_eq!(&read, b"as before");
}

#[test]
fn new_keys_of_the_peer_are_followed_and_its_wish_for_ours_is_known() {
    let mut pair = pair(End::Server, CipherSuite::TLS13_AES_256_GCM_SHA384);
    for round in 0..3 {
        pair.peer.refresh_traffic_keys().unwrap();
        let wire = pair.peer_says(&noise(1000, round));
        assert_eq!(pair.open(wire).unwrap().0, noise(1000, round));
        assert!(core::mem::take(&mut pair.opener.asked), "rustls asks for ours as well");
        let mut wire = Vec::new();
        pair.sealer.update(&mut wire).unwrap();
        wire.extend(pair.seal(b"under new keys"));
        assert_eq!(pair.peer_hears(&wire), b"under new keys");
    }
}

#[test]
fn our_keys_are_due_before_they_have_sealed_too_much() {
    let mut pair = pair(End::Client, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(pair.sealer.limit, 1 << 24, "what rustls allows AES-GCM");
    pair.sealer.limit = pair.sealer.protection.sequence + 3;
    assert!(!pair.sealer.is_due(2) && pair.sealer.is_due(3));
    pair.sealer.update(&mut Vec::new()).unwrap();
    assert!(!pair.sealer.is_due(2), "counted from the new keys on");
}

#[test]
fn a_goodbye_is_understood_on_both_sides() {
    let mut pair = pair(End::Client, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut wire = Vec::new();
    pair.sealer.close(&mut wire).unwrap();
    pair.peer.read_tls(&mut wire.as_slice()).unwrap();
    assert!(pair.peer.process_new_packets().unwrap().peer_has_closed());
    let mut wire = pair.peer_says(b"last words");
    pair.peer.send_close_notify();
    wire.extend(pair.peer_says(b""));
    wire.extend(b"\x17\x03\x03 what comes after the end is not looked at");
    assert_eq!(pair.open(wire).unwrap(), (b"last words".to_vec(), true));
}

#[test]
fn padding_is_taken_off_and_nothing_but_padding_is_refused() {
    let (mut sealer, mut opener) = twins();
    // The type is the last byte that is not zero: content that ends so, with a type of zero behind it, is padded.
    let record = |sealer: &mut Sealer, content: &[u8]| {
        let mut wire = Vec::new();
        sealer.append_as(0, content, &mut wire).unwrap();
        wire
    };
    let mut padded = record(&mut sealer, b"cells\x17\0\0\0");
    let opened = opener.open(&mut padded, 0).unwrap();
    assert_eq!(&padded[..opened.content], b"cells");
    let mut empty = record(&mut sealer, &[0; 40]);
    assert!(opener.open(&mut empty, 0).is_err());
}

#[test]
fn what_a_peer_must_not_send_ends_the_connection() {
    let honest = || {
        let mut pair = pair(End::Server, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let wire = pair.peer_says(&noise(600, 3));
        (pair, wire)
    };
    for at in [0, 3, HEAD, 300, 600 + HEAD + TAIL - 1] {
        let (mut pair, mut wire) = honest();
        wire[at] ^= 0x40;
        let result = pair.opener.open(&mut wire, 0);
        // A length that became larger is a record that never comes as a whole, or one that is too long.
        assert!(result.is_err() || result.unwrap().content == 0, "byte {at}");
    }
    let (mut pair, wire) = honest();
    pair.open(wire.clone()).unwrap();
    assert!(pair.open(wire).is_err(), "a record twice");
    for kind in [CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, 99] {
        let (mut pair, _) = honest();
        assert!(
            pair.open(vec![kind, 3, 3, 0, 1, 1]).is_err(),
            "a record of type {kind} in clear"
        );
    }
    let (mut pair, _) = honest();
    let mut long = vec![APPLICATION_DATA, 3, 3];
    long.extend((BODY_MAX as u16 + 1).to_be_bytes());
    assert!(pair.open(long).is_err());
}

#[test]
fn handshake_messages_that_do_not_fit_end_the_connection() {
    let sent = |parts: &[(u8, &[u8])]| {
        let (mut sealer, mut opener) = twins();
        let mut wire = Vec::new();
        for (kind, content) in parts {
            sealer.append_as(*kind, content, &mut wire).unwrap();
        }
        opener.open(&mut wire, 0).map(|opened| opened.content)
    };
    let ticket = [&[NEW_SESSION_TICKET, 0, 0, 40][..], &[7; 40]].concat();
    assert_eq!(sent(&[(HANDSHAKE, &ticket), (APPLICATION_DATA, b"on")]).unwrap(), 2);
    assert_eq!(
        sent(&[
            (HANDSHAKE, &ticket[..9]),
            (HANDSHAKE, &ticket[9..]),
            (APPLICATION_DATA, b"on")
        ])
        .unwrap(),
        2
    );
    assert!(sent(&[(HANDSHAKE, &ticket[..9]), (APPLICATION_DATA, b"between")]).is_err());
    assert!(sent(&[(HANDSHAKE, b"")]).is_err());
    assert!(sent(&[(HANDSHAKE, &[1, 0, 0, 1, 0])]).is_err(), "a ClientHello");
    assert!(sent(&[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2])]).is_err());
    assert!(sent(&[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 2, 0, 0])]).is_err());
    let behind = [&[KEY_UPDATE, 0, 0, 1, 0][..], &ticket].concat();
    assert!(
        sent(&[(HANDSHAKE, &behind)]).is_err(),
        "new keys begin with a new record"
    );
    assert!(sent(&[(ALERT, &[2, 40])]).is_err());
    assert!(sent(&[(ALERT, &[1, USER_CANCELED]), (APPLICATION_DATA, b"on")]).is_ok());
    let (mut sealer, mut opener) = twins();
    let mut updates = Vec::new();
    for _ in 0..=UPDATES_MAX {
        sealer.update(&mut updates).unwrap();
    }
    assert!(opener.open(&mut updates, 0).is_err(), "nothing but key updates");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the bytes are cut up on their way, the content is what was sent.
    #[test]
    fn records_may_come_in_any_pieces(
        contents in proptest::collection::vec(1..40_000usize, 1..5),
        cuts in proptest::collection::vec(1..20_000usize, 1..40),
    ) {
        let mut pair = pair(End::Server, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let mut wire = Vec::new();
        let mut sent = Vec::new();
        for (seed, len) in contents.iter().enumerate() {
            let content = noise(*len, seed as u8);
            wire.extend(pair.peer_says(&content));
            sent.extend(content);
        }
        let mut got = Vec::new();
        // What of `held` is content, and what the start of a record.
        let (mut held, mut cells) = (Vec::new(), 0);
        let mut wire = wire.as_slice();
        for cut in cuts.iter().cycle() {
            if wire.is_empty() {
                break;
            }
            let (piece, rest) = wire.split_at((*cut).min(wire.len()));
            wire = rest;
            held.extend_from_slice(piece);
            let opened = pair.opener.open(&mut held, cells).unwrap();
            // Whole cells are used, the rest stays in front of what comes.
            let whole = opened.content / 514 * 514;
            got.extend_from_slice(&held[..whole]);
            held = [&held[whole..opened.content], &held[opened.rest..]].concat();
            cells = opened.content - whole;
        }
        got.extend_from_slice(&held[..cells]);
        prop_assert!(got == sent);
    }
}
