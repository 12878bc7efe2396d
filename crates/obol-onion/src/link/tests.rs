use super::cell::command;
use super::*;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};
use tor_cert::rsa::EncodedRsaCrosscert;
use tor_cert::{CertType, CertifiedKey, Ed25519Cert};
use tor_llcrypto::pk::{ed25519::Keypair, rsa};

mod certificates;

/// Seconds since 1970, some day of 2026.
const NOW: u64 = 1_790_000_000;
const DAY: u64 = 86400;

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A relay with everything in its hands, to make good and bad certificates from.
struct Relay {
    rsa: rsa::KeyPair,
    identity: Keypair,
    signing: Keypair,
    link: Keypair,
    tls: Vec<u8>,
}

impl Relay {
    fn new(seed: u8) -> Self {
        Self {
            rsa: rsa::KeyPair::generate(&mut StdRng::seed_from_u64(seed.into())).unwrap(),
            identity: Keypair::from_bytes(&[seed; 32]),
            signing: Keypair::from_bytes(&[seed + 1; 32]),
            link: Keypair::from_bytes(&[seed + 2; 32]),
            tls: vec![seed; 300],
        }
    }

    fn certify(&self, kind: CertType, signer: &Keypair, key: CertifiedKey, end: u64) -> Vec<u8> {
        Ed25519Cert::builder()
            .cert_type(kind)
            .expiration(time(end))
            .signing_key(signer.verifying_key().into())
            .cert_key(key)
            .encode_and_sign(signer)
            .unwrap()
            .to_vec()
    }

    fn certificates(&self) -> Certificates {
        let signing = CertifiedKey::Ed25519(self.signing.verifying_key().into());
        let link = CertifiedKey::Ed25519(self.link.verifying_key().into());
        let tls = CertifiedKey::X509Sha256Digest(Sha256::digest(&self.tls).into());
        let end = NOW + DAY;
        Certificates {
            rsa_x509: tor_cert_x509::create_legacy_rsa_id_cert(
                &mut StdRng::seed_from_u64(1),
                time(NOW),
                "www.a.net",
                &self.rsa,
            )
            .unwrap(),
            signing: self.certify(CertType::IDENTITY_V_SIGNING, &self.identity, signing, end),
            tls: self.certify(CertType::SIGNING_V_TLS_CERT, &self.signing, tls, end),
            link_auth: self.certify(CertType::SIGNING_V_LINK_AUTH, &self.signing, link, end),
            crosscert: EncodedRsaCrosscert::encode_and_sign(
                &self.rsa,
                &self.identity.verifying_key().into(),
                time(end),
            )
            .unwrap()
            .to_vec(),
        }
    }

    fn credentials(&self, certificates: Certificates) -> Arc<Credentials> {
        Arc::new(Credentials::new(
            self.identity.verifying_key().to_bytes(),
            &self.rsa.to_public_key().to_der(),
            &self.tls,
            &self.link.to_bytes(),
            certificates,
        ))
    }

    fn id(&self) -> PeerIdentity {
        PeerIdentity {
            ed25519: self.identity.verifying_key().to_bytes(),
            rsa: self.rsa.to_public_key().to_rsa_identity().to_bytes(),
        }
    }

    fn expected(&self) -> Expected {
        Expected {
            rsa: Some(self.id().rsa),
            ed25519: Some(self.id().ed25519),
        }
    }
}

/// The relay that calls, and the one that is called. RSA keys take a while to make: once for all tests.
static CALLER: LazyLock<Relay> = LazyLock::new(|| Relay::new(10));
static CALLED: LazyLock<Relay> = LazyLock::new(|| Relay::new(20));
static GOOD: LazyLock<[Arc<Credentials>; 2]> =
    LazyLock::new(|| [&CALLER, &CALLED].map(|relay| relay.credentials(relay.certificates())));

fn facts(remote: &str, advertised: &str) -> Facts {
    Facts {
        remote: remote.parse().unwrap(),
        advertised: vec![advertised.parse().unwrap()],
        random: [7; 32],
    }
}

/// Both ends have the same TLS session.
fn export(context: &[u8; 32]) -> Option<[u8; 32]> {
    Some(Sha256::digest(context).into())
}

fn caller(ours: Option<Arc<Credentials>>) -> (Handshake, Vec<u8>) {
    let facts = facts("192.0.2.20", "192.0.2.10");
    Handshake::initiate(ours, CALLED.expected(), &CALLED.tls, facts, NOW)
}

fn called() -> Handshake {
    Handshake::respond(Arc::clone(&GOOD[1]), facts("192.0.2.10", "192.0.2.20"))
}

/// One end of a conversation.
#[expect(clippy::large_enum_variant, reason = "two per test")]
enum End {
    Open(Handshake),
    Done(Box<Established>),
    Failed(LinkError),
}

impl End {
    /// Gives it bytes, and returns what it says.
    fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        let nobody = End::Failed(LinkError::TooLong);
        match std::mem::replace(self, nobody) {
            End::Open(handshake) => match handshake.receive(bytes, NOW, export) {
                Ok(Step::More { handshake, send }) => {
                    *self = End::Open(handshake);
                    send
                }
                Ok(Step::Done { link, send }) => {
                    *self = End::Done(link);
                    send
                }
                Err(error) => {
                    *self = End::Failed(error);
                    Vec::new()
                }
            },
            End::Done(mut link) => {
                link.leftover.extend_from_slice(bytes);
                *self = End::Done(link);
                Vec::new()
            }
            failed @ End::Failed(_) => {
                *self = failed;
                Vec::new()
            }
        }
    }

    fn link(self) -> Established {
        match self {
            End::Done(link) => *link,
            End::Open(_) => panic!("the handshake is not done"),
            End::Failed(error) => panic!("the handshake failed: {error}"),
        }
    }

    fn error(self) -> LinkError {
        match self {
            End::Failed(error) => error,
            End::Open(_) => panic!("the handshake goes on"),
            End::Done(_) => panic!("the handshake succeeded"),
        }
    }
}

/// Lets both ends talk until neither has anything to say. `wire` sees, and may change, what goes over it.
fn talk(
    (initiator, first): (Handshake, Vec<u8>),
    responder: Handshake,
    mut wire: impl FnMut(Role, Vec<u8>) -> Vec<u8>,
) -> (End, End) {
    let (mut initiator, mut responder) = (End::Open(initiator), End::Open(responder));
    let mut to_responder = first;
    while !to_responder.is_empty() {
        let to_initiator = responder.hear(&wire(Role::Initiator, to_responder));
        to_responder = initiator.hear(&wire(Role::Responder, to_initiator));
    }
    (initiator, responder)
}

fn untouched(_: Role, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// The cells in what one end said, the first with a circuit id of two bytes if `versions`.
fn cells(mut bytes: &[u8], versions: bool) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    while let Some(cell) = cell::parse(bytes, if versions && list.is_empty() { 2 } else { 4 }) {
        list.push(cell.wire.to_vec());
        bytes = &bytes[cell.wire.len()..];
    }
    assert!(bytes.is_empty());
    list
}

/// What the responder says at once: VERSIONS, CERTS, AUTH_CHALLENGE, NETINFO.
fn greeting() -> Vec<Vec<u8>> {
    let mut end = End::Open(called());
    let list = cells(&end.hear(&cell::versions()), true);
    assert_eq!(list.len(), 4);
    list
}

#[test]
fn two_relays_know_each_other_afterwards() {
    let (a, b) = talk(caller(Some(Arc::clone(&GOOD[0]))), called(), untouched);
    let (a, b) = (a.link(), b.link());
    assert_eq!((a.version, b.version), (Version::V5, Version::V5));
    assert_eq!((a.role, b.role), (Role::Initiator, Role::Responder));
    assert_eq!((a.peer, b.peer), (Some(CALLED.id()), Some(CALLER.id())));
    assert!(!a.is_client() && !b.is_client());
    assert!(a.canonical && a.canonical_to_peer && b.canonical && b.canonical_to_peer);
    assert_eq!((a.clock_skew, b.clock_skew), (Some(0), Some(0)));
    assert_eq!(a.observed, Some("192.0.2.10".parse().unwrap()));
    assert_eq!(b.peer_addresses, ["192.0.2.10".parse::<IpAddr>().unwrap()]);
    assert!(a.leftover.is_empty() && b.leftover.is_empty());
}

#[test]
fn a_client_learns_who_the_relay_is_and_tells_nothing() {
    let mut said = Vec::new();
    let (a, b) = talk(caller(None), called(), |from, bytes| {
        if from == Role::Initiator {
            said.extend_from_slice(&bytes);
        }
        bytes
    });
    let (a, b) = (a.link(), b.link());
    assert_eq!(a.peer, Some(CALLED.id()));
    assert!(b.is_client());
    assert_eq!(b.clock_skew, None);
    assert!(b.peer_addresses.is_empty() && !b.canonical);
    let commands: Vec<u8> = cells(&said, true).iter().skip(1).map(|cell| cell[4]).collect();
    assert_eq!(commands, [command::NETINFO]);
}

#[test]
fn how_bytes_are_cut_up_makes_no_difference() {
    let (a, mut to_b) = caller(Some(Arc::clone(&GOOD[0])));
    let (mut a, mut b) = (End::Open(a), End::Open(called()));
    while !to_b.is_empty() {
        let to_a: Vec<u8> = to_b.iter().flat_map(|byte| b.hear(&[*byte])).collect();
        to_b = to_a.iter().flat_map(|byte| a.hear(&[*byte])).collect();
    }
    assert_eq!(a.link().peer, Some(CALLED.id()));
    assert_eq!(b.link().peer, Some(CALLER.id()));
}

#[test]
fn what_follows_the_handshake_is_handed_on_untouched() {
    let first_cell = [0x80, 0, 0, 1, 5, 9, 9, 9];
    let (a, b) = talk(caller(Some(Arc::clone(&GOOD[0]))), called(), |from, mut bytes| {
        // The initiator's last words are NETINFO; a cell comes right behind it.
        if from == Role::Initiator && bytes.len() > 1000 && bytes[bytes.len() - 510] == command::NETINFO {
            bytes.extend_from_slice(&first_cell);
        }
        bytes
    });
    a.link();
    assert_eq!(b.link().leftover, first_cell);
}

#[test]
fn padding_that_its_sender_hashed_does_not_disturb_authentication() {
    let padding = cell::variable(command::VPADDING, &[1; 99]);
    // Before VERSIONS, with a short circuit id; between CERTS and AUTHENTICATE, with a long one.
    let (mut a, versions) = {
        let (mut a, versions) = caller(Some(Arc::clone(&GOOD[0])));
        a = a.with_log_of(&[&padding[2..], &versions]);
        (a, [&padding[2..], &versions].concat())
    };
    let mut b = End::Open(called());
    let greeting = b.hear(&versions);
    let list = cells(&greeting, true);
    let Step::More { handshake, send } = a.receive(&list[0], NOW, export).unwrap() else {
        panic!("done after VERSIONS");
    };
    a = handshake;
    assert_eq!(send[4], command::CERTS);
    assert!(b.hear(&send).is_empty());
    let mut extra = Vec::new();
    a.send(&mut extra, padding.clone());
    assert!(b.hear(&extra).is_empty());
    let rest = [list[1].as_slice(), &list[2], &list[3]].concat();
    let Step::Done { link, send } = a.receive(&rest, NOW, export).unwrap() else {
        panic!("not done after NETINFO");
    };
    assert_eq!(link.peer, Some(CALLED.id()));
    assert!(b.hear(&send).is_empty());
    assert_eq!(b.link().peer, Some(CALLER.id()));
}

#[test]
fn padding_that_somebody_else_put_in_breaks_authentication() {
    for victim in [Role::Initiator, Role::Responder] {
        let mut once = true;
        let (_, b) = talk(caller(Some(Arc::clone(&GOOD[0]))), called(), |from, bytes| {
            if from == victim && std::mem::take(&mut once) {
                let padding = cell::variable(command::VPADDING, &[0; 20]);
                return [&padding[2..], &bytes].concat();
            }
            bytes
        });
        assert_eq!(b.error(), LinkError::NotAuthentic);
    }
}

#[test]
fn padding_cells_are_ignored() {
    let (a, b) = talk(caller(None), called(), |from, bytes| match from {
        Role::Initiator if bytes.len() > 500 => [cell::fixed(command::PADDING, &[]), bytes].concat(),
        Role::Responder if !bytes.is_empty() => {
            let list = cells(&bytes, true);
            let padding = [cell::fixed(command::PADDING, &[]), cell::variable(200, b"unknown")].concat();
            [list[0].as_slice(), &padding, &list[1..].concat()].concat()
        }
        _ => bytes,
    });
    a.link();
    b.link();
}

#[test]
fn the_highest_common_version_is_used() {
    for (numbers, expected) in [
        (&[3, 4][..], Ok(Version::V4)),
        (&[5, 4, 3], Ok(Version::V5)),
        (&[4, 5, 6, 7], Ok(Version::V5)),
        (&[1, 2, 3], Err(LinkError::NoCommonVersion)),
        (&[], Err(LinkError::NoCommonVersion)),
    ] {
        let body: Vec<u8> = numbers.iter().flat_map(|number: &u16| number.to_be_bytes()).collect();
        assert_eq!(cell::best_version(&body), expected, "{numbers:?}");
    }
    assert_eq!(cell::best_version(&[0, 4, 0]), Err(LinkError::Malformed("VERSIONS")));
    // What a C Tor client of old sends: 3, 4, 5.
    let mut end = End::Open(called());
    assert_eq!(cells(&end.hear(&[0, 0, 7, 0, 6, 0, 3, 0, 4, 0, 5]), true).len(), 4);
}

#[test]
fn a_relay_that_is_not_the_one_meant_is_refused() {
    for wrong in [
        Expected {
            rsa: Some([1; 20]),
            ed25519: None,
        },
        Expected {
            rsa: Some(CALLED.id().rsa),
            ed25519: Some([1; 32]),
        },
    ] {
        let facts = facts("192.0.2.20", "192.0.2.10");
        let ours = Some(Arc::clone(&GOOD[0]));
        let (a, _) = talk(
            Handshake::initiate(ours, wrong, &CALLED.tls, facts, NOW),
            called(),
            untouched,
        );
        assert_eq!(a.error(), LinkError::WrongIdentity);
    }
}

#[test]
fn another_tls_certificate_than_the_relays_is_refused() {
    let facts = facts("192.0.2.20", "192.0.2.10");
    let calling = Handshake::initiate(None, CALLED.expected(), b"somebody in between", facts, NOW);
    let (a, _) = talk(calling, called(), untouched);
    assert_eq!(a.error(), LinkError::Certificate(CertFault::WrongKey(5)));
}

#[test]
fn another_tls_session_is_not_authenticated() {
    let (mut a, first) = caller(Some(Arc::clone(&GOOD[0])));
    let mut b = End::Open(called());
    let mut to_a = b.hear(&first);
    let reply = loop {
        match a.receive(&to_a, NOW, |_| Some([0; 32])).unwrap() {
            Step::More { handshake, send } => {
                a = handshake;
                to_a = b.hear(&send);
            }
            Step::Done { send, .. } => break send,
        }
    };
    b.hear(&reply);
    assert_eq!(b.error(), LinkError::NotAuthentic);
}

#[test]
fn a_session_without_a_secret_ends_the_handshake() {
    let (a, first) = caller(Some(Arc::clone(&GOOD[0])));
    let mut b = End::Open(called());
    assert_eq!(
        a.receive(&b.hear(&first), NOW, |_| None).unwrap_err(),
        LinkError::NoTlsSecret
    );
}

#[test]
fn cells_out_of_place_close_the_link() {
    let greeting = greeting();
    let [versions, certs, challenge, netinfo] = [0, 1, 2, 3].map(|at| greeting[at].as_slice());
    let create = cell::fixed(1, &[]);
    let authenticate = cell::variable(command::AUTHENTICATE, &[0; 356]);
    // To an initiator that authenticates, and to one that does not.
    for ours in [Some(Arc::clone(&GOOD[0])), None] {
        for (wrong, blamed) in [
            (vec![&certs[2..]], command::CERTS),
            (vec![&netinfo[2..]], command::NETINFO),
            (vec![versions, versions], 0),
            (
                vec![versions, &cell::variable(command::VERSIONS, &[0, 5])],
                command::VERSIONS,
            ),
            (vec![versions, challenge], command::AUTH_CHALLENGE),
            (vec![versions, netinfo], command::NETINFO),
            (vec![versions, certs, certs], command::CERTS),
            (vec![versions, certs, challenge, challenge], command::AUTH_CHALLENGE),
            (vec![versions, certs, &create], 1),
            (vec![versions, &authenticate], command::AUTHENTICATE),
        ] {
            let (a, _) = caller(ours.clone());
            let mut end = End::Open(a);
            end.hear(&wrong.concat());
            // A second VERSIONS in the old framing reads as padding of a later one: whatever it is, it does not succeed.
            if blamed == 0 {
                assert!(!matches!(end, End::Done(_)));
            } else {
                assert_eq!(end.error(), LinkError::Unexpected(blamed));
            }
        }
    }
    // A relay wants to be asked who it is.
    let (a, _) = caller(Some(Arc::clone(&GOOD[0])));
    let mut end = End::Open(a);
    end.hear(&[versions, certs, netinfo].concat());
    assert_eq!(end.error(), LinkError::Unexpected(command::NETINFO));

    let certs = cell::variable(command::CERTS, &GOOD[0].for_responder());
    let start = cell::versions();
    for (wrong, blamed) in [
        (vec![create.as_slice()], 0),
        (vec![&start, &create], 1),
        (vec![&start, &authenticate], command::AUTHENTICATE),
        (vec![&start, &certs, &certs], command::CERTS),
        (vec![&start, &certs, challenge], command::AUTH_CHALLENGE),
        (vec![&start, challenge], command::AUTH_CHALLENGE),
    ] {
        let mut end = End::Open(called());
        end.hear(&wrong.concat());
        assert_eq!(end.error(), LinkError::Unexpected(blamed));
    }
}

#[test]
fn authenticating_twice_closes_the_link() {
    let (_, b) = talk(caller(Some(Arc::clone(&GOOD[0]))), called(), |from, bytes| {
        if from == Role::Initiator && bytes.len() > 800 {
            let list = cells(&bytes, false);
            if let Some(at) = list.iter().position(|cell| cell[4] == command::AUTHENTICATE) {
                let mut list = list;
                list.insert(at, list[at].clone());
                return list.concat();
            }
        }
        bytes
    });
    assert_eq!(b.error(), LinkError::Unexpected(command::AUTHENTICATE));
}

#[test]
fn certificates_without_authentication_make_a_client() {
    let mut b = End::Open(called());
    let certs = cell::variable(command::CERTS, &GOOD[0].for_responder());
    b.hear(&[cell::versions(), certs, cell::fixed(command::NETINFO, &[0; 20])].concat());
    assert!(b.link().is_client());
}

#[test]
fn methods_that_nobody_knows_are_passed_over_but_ours_must_be_there() {
    let method = |list: &[u16]| {
        let mut body = vec![9; 32];
        body.extend_from_slice(&(list.len() as u16).to_be_bytes());
        list.iter()
            .for_each(|method| body.extend_from_slice(&method.to_be_bytes()));
        body
    };
    assert_eq!(auth::challenge_has_our_method(&method(&[1, 7, 3, 99])), Ok(true));
    assert_eq!(auth::challenge_has_our_method(&method(&[1, 2])), Ok(false));
    let mut short = method(&[1, 3]);
    short.pop();
    assert_eq!(
        auth::challenge_has_our_method(&short),
        Err(LinkError::Malformed("AUTH_CHALLENGE"))
    );

    let greeting = greeting();
    let other = cell::variable(command::AUTH_CHALLENGE, &method(&[1]));
    let bytes = [greeting[0].as_slice(), &greeting[1], &other].concat();
    let mut end = End::Open(caller(Some(Arc::clone(&GOOD[0]))).0);
    end.hear(&bytes);
    assert_eq!(end.error(), LinkError::NoCommonMethod);
    // A client does not care.
    let mut end = End::Open(caller(None).0);
    end.hear(&[bytes, greeting[3].clone()].concat());
    end.link();
}

#[test]
fn a_link_is_canonical_only_if_the_address_is_the_peers_own() {
    let responder = Handshake::respond(Arc::clone(&GOOD[1]), facts("198.51.100.1", "203.0.113.5"));
    let (a, b) = talk(caller(Some(Arc::clone(&GOOD[0]))), responder, untouched);
    let (a, b) = (a.link(), b.link());
    // We dialled 192.0.2.20, the relay says that it is 203.0.113.5; it sees us come from 198.51.100.1.
    assert!(!a.canonical && !a.canonical_to_peer);
    assert!(!b.canonical && !b.canonical_to_peer);
}

#[test]
fn a_clock_that_is_wrong_is_reported_and_nothing_else() {
    let greeting = greeting();
    let skewed = |at: u64| {
        let netinfo = netinfo::Netinfo {
            timestamp: (NOW + 7200) as u32,
            other: None,
            own: vec!["2001:db8::1".parse().unwrap()],
        };
        let netinfo = cell::fixed(command::NETINFO, &netinfo.encode());
        let bytes = [greeting[0].as_slice(), &greeting[1], &greeting[2], &netinfo].concat();
        match caller(None).0.receive(&bytes, at, export).unwrap() {
            Step::Done { link, .. } => link.clock_skew,
            Step::More { .. } => panic!("not done"),
        }
    };
    assert_eq!(skewed(NOW + 1), Some(7199));
    // It took minutes: the comparison would say more about the network.
    assert_eq!(skewed(NOW + 180), None);
}

#[test]
fn netinfo_is_read_whatever_addresses_it_has() {
    let own = vec!["192.0.2.1".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    let netinfo = netinfo::Netinfo {
        timestamp: 5,
        other: Some("2001:db8::1".parse().unwrap()),
        own,
    };
    let mut body = netinfo.encode();
    body.resize(FIXED_BODY_LEN, 0);
    assert_eq!(netinfo::Netinfo::decode(&body), Ok(netinfo));
    // A host name as the receiver's address; then one of an unknown type and one of a wrong length.
    let strange = [
        &[0, 0, 0, 5, 0, 3][..],
        b"abc",
        &[3, 9, 1, 0, 4, 5, 1, 2, 3, 4, 5, 4, 4, 1, 2, 3, 4],
    ]
    .concat();
    let read = netinfo::Netinfo::decode(&strange).unwrap();
    assert_eq!(read.other, None);
    assert_eq!(read.own, ["1.2.3.4".parse::<IpAddr>().unwrap()]);
    for len in 0..strange.len() {
        assert_eq!(
            netinfo::Netinfo::decode(&strange[..len]),
            Err(LinkError::Malformed("NETINFO"))
        );
    }
}

#[test]
fn arti_reads_our_cells() {
    use tor_cell::chancell::codec::ChannelCodec;
    use tor_cell::chancell::msg::AnyChanMsg;
    let mut bytes = bytes_of(&greeting()[1..]);
    let mut codec = ChannelCodec::new(5);
    let mut kinds = Vec::new();
    while let Some((cell, _)) = codec.decode_cell::<AnyChanMsg>(&mut bytes).unwrap() {
        kinds.push(match cell.into_circid_and_msg().1 {
            AnyChanMsg::Certs(certs) => {
                for kind in [2, 4, 5, 7] {
                    assert!(certs.cert_body(CertType::from(kind)).is_some());
                }
                "certs"
            }
            AnyChanMsg::AuthChallenge(challenge) => {
                assert_eq!(challenge.methods(), [3]);
                "challenge"
            }
            AnyChanMsg::Netinfo(netinfo) => {
                assert_eq!(netinfo.timestamp(), Some(time(NOW)));
                assert_eq!(netinfo.their_addr(), Some(&"192.0.2.10".parse().unwrap()));
                assert_eq!(netinfo.my_addrs(), ["192.0.2.20".parse::<IpAddr>().unwrap()]);
                "netinfo"
            }
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds, ["certs", "challenge", "netinfo"]);
}

fn bytes_of(cells: &[Vec<u8>]) -> bytes::BytesMut {
    bytes::BytesMut::from(cells.concat().as_slice())
}

#[test]
fn a_handshake_without_end_is_given_up() {
    let mut end = End::Open(called());
    end.hear(&cell::versions());
    let padding = cell::variable(command::VPADDING, &[0; 60000]);
    for _ in 0..4 {
        end.hear(&padding);
        assert!(matches!(end, End::Open(_)));
    }
    end.hear(&padding);
    assert_eq!(end.error(), LinkError::TooLong);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bit_of_what_is_signed_or_hashed_can_be_changed(
        cell in 0..2_usize, at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        // Of the initiator: CERTS and AUTHENTICATE.
        let wanted = [command::CERTS, command::AUTHENTICATE][cell];
        let (_, b) = talk(caller(Some(Arc::clone(&GOOD[0]))), called(), |from, bytes| {
            let versions = bytes == cell::versions();
            if from != Role::Initiator || versions || bytes.is_empty() {
                return bytes;
            }
            let mut list = cells(&bytes, false);
            if let Some(cell) = list.iter_mut().find(|cell| cell[4] == wanted) {
                // Behind circuit id, command and length: those are framing.
                let at = 7 + at.index(cell.len() - 7);
                cell[at] ^= 1 << bit;
            }
            list.concat()
        });
        prop_assert!(!matches!(b, End::Done(link) if link.peer.is_some()));
    }

    #[test]
    fn noise_never_opens_a_link_or_panics(noise in prop::collection::vec(any::<u8>(), 0..3000), start in any::<bool>()) {
        for handshake in [called(), caller(None).0, caller(Some(Arc::clone(&GOOD[0]))).0] {
            let mut end = End::Open(handshake);
            if start {
                end.hear(&cell::versions());
            }
            end.hear(&noise);
            let authenticated = matches!(&end, End::Done(link) if link.peer.is_some());
            prop_assert!(!authenticated);
        }
    }

    #[test]
    fn cells_in_any_order_and_number_never_panic(
        order in prop::collection::vec((0..12_usize, any::<prop::sample::Index>()), 0..12), to_relay in any::<bool>(),
    ) {
        let greeting = greeting();
        let pool = [
            cell::versions(),
            greeting[1].clone(),
            greeting[2].clone(),
            greeting[3].clone(),
            cell::variable(command::CERTS, &GOOD[0].for_responder()),
            cell::variable(command::AUTHENTICATE, &[3; 356]),
            cell::variable(command::VPADDING, &[]),
            cell::variable(command::AUTHORIZE, &[1]),
            cell::fixed(command::PADDING, &[]),
            cell::fixed(12, &[0, 1]),
            cell::variable(command::CERTS, &[]),
            cell::variable(command::AUTH_CHALLENGE, &[0; 33]),
        ];
        let mut end = End::Open(if to_relay { called() } else { caller(Some(Arc::clone(&GOOD[0]))).0 });
        for (which, cut) in order {
            let cell = &pool[which];
            let at = cut.index(cell.len());
            end.hear(&cell[..at]);
            end.hear(&cell[at..]);
        }
    }

    #[test]
    fn noise_in_any_cell_is_read_or_refused(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(netinfo) = netinfo::Netinfo::decode(&noise) {
            // What was understood of it survives being said again, up to the number of addresses that we ever say.
            if netinfo.own.len() <= 16 {
                prop_assert_eq!(netinfo::Netinfo::decode(&netinfo.encode()), Ok(netinfo));
            }
        }
        let _ = auth::challenge_has_our_method(&noise);
        let _ = cell::best_version(&noise);
        for id_len in [2, 4] {
            if let Some(cell) = cell::parse(&noise, id_len) {
                prop_assert!(noise.starts_with(cell.wire));
            }
        }
    }
}
