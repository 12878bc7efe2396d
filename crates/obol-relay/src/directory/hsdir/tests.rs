//! The onion-service directory against descriptors that are signed as a service signs them.

use tor_cert::{CertType, CertifiedKey};
use tor_llcrypto::pk::ed25519::Keypair;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// What a service may say.
struct Service {
    blinded: Keypair,
    revision: u64,
    minutes: u64,
    encrypted: usize,
    expires: SystemTime,
    kind: CertType,
}

fn service(seed: u8) -> Service {
    Service {
        blinded: Keypair::from_bytes(&[seed; 32]),
        revision: 10,
        minutes: 180,
        encrypted: 2000,
        expires: SystemTime::now() + 54 * HOUR,
        kind: CertType::HS_BLINDED_ID_V_SIGNING,
    }
}

fn armoured(kind: &str, bytes: &[u8]) -> String {
    let base64 = STANDARD.encode(bytes);
    let lines: Vec<&str> = (0..base64.len())
        .step_by(64)
        .map(|at| &base64[at..base64.len().min(at + 64)])
        .collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

impl Service {
    /// Its name in a GET.
    fn name(&self) -> String {
        STANDARD_NO_PAD.encode(self.blinded.verifying_key().to_bytes())
    }

    fn descriptor(&self) -> String {
        let signing = Keypair::from_bytes(&[0x55; 32]);
        let certificate = Ed25519Cert::builder()
            .cert_type(self.kind)
            .expiration(self.expires)
            .signing_key(self.blinded.verifying_key().into())
            .cert_key(CertifiedKey::Ed25519(signing.verifying_key().into()))
            .encode_and_sign(&self.blinded)
            .unwrap();
        let text = format!(
            "hs-descriptor 3\ndescriptor-lifetime {}\ndescriptor-signing-key-cert\n{}revision-counter {}\nsuperencrypted\n{}",
            self.minutes,
            armoured("ED25519 CERT", &certificate),
            self.revision,
            armoured("MESSAGE", &vec![7; self.encrypted]),
        );
        let signature = signing.sign(format!("Tor onion service descriptor sig v3{text}").as_bytes());
        format!("{text}signature {}\n", STANDARD_NO_PAD.encode(signature.to_bytes()))
    }
}

fn post(body: String) -> Request {
    Request {
        method: Method::Post,
        body: body.into_bytes(),
        ..Request::get("/tor/hs/3/publish")
    }
}

/// Status and body of the answer to a relay.
fn answered(directory: &HsDir, request: &Request, now: SystemTime) -> (u16, Vec<u8>) {
    let response = directory.answer(request, true, MAX_LENGTH, now).unwrap();
    (response.status, response.concat())
}

fn upload(directory: &HsDir, service: &Service) -> u16 {
    answered(directory, &post(service.descriptor()), SystemTime::now()).0
}

fn download(directory: &HsDir, service: &Service) -> u16 {
    let request = Request::get(format!("/tor/hs/3/{}", service.name()));
    answered(directory, &request, SystemTime::now()).0
}

#[test]
fn a_descriptor_is_given_out_byte_for_byte_under_its_blinded_key_for_its_lifetime() {
    let directory = HsDir::default();
    let service = service(1);
    let now = SystemTime::now();
    let text = service.descriptor();
    assert_eq!(answered(&directory, &post(text.clone()), now).0, 200);
    let request = Request::get(format!("/tor/hs/3/{}", service.name()));
    assert_eq!(answered(&directory, &request, now), (200, text.into_bytes()));
    assert_eq!(answered(&directory, &request, now + 3 * HOUR).0, 404);
    assert_eq!(directory.held(), Held::default());
}

#[test]
fn a_circuit_of_one_hop_gets_nothing_and_leaves_nothing() {
    let directory = HsDir::default();
    let service = service(1);
    let now = SystemTime::now();
    let upload = directory.answer(&post(service.descriptor()), false, MAX_LENGTH, now);
    assert_eq!(upload.unwrap().status, 503);
    let fetch = Request::get(format!("/tor/hs/3/{}", service.name()));
    assert_eq!(directory.answer(&fetch, false, MAX_LENGTH, now).unwrap().status, 503);
    assert_eq!(directory.held().descriptors, 0);
}

#[test]
fn only_a_higher_revision_replaces_a_descriptor() {
    let directory = HsDir::default();
    let mut service = service(1);
    assert_eq!(upload(&directory, &service), 200);
    assert_eq!(upload(&directory, &service), 400);
    service.revision = 9;
    assert_eq!(upload(&directory, &service), 400);
    service.revision = 11;
    assert_eq!(upload(&directory, &service), 200);
    assert_eq!(directory.held().descriptors, 1);
    let held = directory.held().bytes;
    assert_eq!(held, service.descriptor().len() as u64 + OVERHEAD);
}

#[test]
fn what_a_service_would_not_write_is_refused() {
    let directory = HsDir::default();
    let refused = |change: &dyn Fn(&mut Service)| {
        let mut service = service(1);
        change(&mut service);
        upload(&directory, &service)
    };
    assert_eq!(refused(&|s| s.minutes = 721), 400, "a life of more than twelve hours");
    assert_eq!(refused(&|s| s.encrypted = 48), 400, "nothing encrypted");
    assert_eq!(refused(&|s| s.encrypted = 40_000), 400, "too long");
    assert_eq!(refused(&|s| s.expires = SystemTime::now() - 2 * HOUR), 400, "over");
    assert_eq!(
        refused(&|s| s.kind = CertType::IDENTITY_V_SIGNING),
        400,
        "another certificate"
    );
    let text = service(1).descriptor();
    for (from, to) in [
        ("hs-descriptor 3", "hs-descriptor 4"),
        ("revision-counter 10", "revision-counter 11"),
        ("revision-counter 10\n", ""),
        ("BwcH", "CAgI"),
    ] {
        let forged = text.replacen(from, to, 1);
        assert_ne!(forged, text);
        assert_eq!(answered(&directory, &post(forged), SystemTime::now()).0, 400, "{to}");
    }
    assert_eq!(answered(&directory, &post(String::new()), SystemTime::now()).0, 400);
    assert_eq!(directory.held(), Held::default());
}

#[test]
fn without_room_the_least_wanted_descriptor_goes_first() {
    let directory = HsDir::default();
    let cost = service(1).descriptor().len() as u64 + OVERHEAD;
    directory.limit_memory(3 * cost + 10);
    let [first, second, third, fourth] = [1, 2, 3, 4].map(service);
    for service in [&first, &second, &third] {
        assert_eq!(upload(&directory, service), 200);
    }
    assert_eq!(download(&directory, &first), 200);
    assert_eq!(download(&directory, &third), 200);
    assert_eq!(upload(&directory, &fourth), 200);
    assert_eq!(
        [&first, &second, &third, &fourth].map(|s| download(&directory, s)),
        [200, 404, 200, 200]
    );
    assert!(directory.held().bytes <= 3 * cost + 10);
}

#[test]
fn other_paths_are_not_its_business_and_other_names_are_unknown() {
    let directory = HsDir::default();
    let now = SystemTime::now();
    assert!(
        directory
            .answer(&Request::get("/tor/server/all"), true, MAX_LENGTH, now)
            .is_none()
    );
    for name in ["", "publish", "AAAA", "a/b", &"A".repeat(43), &"A".repeat(9999)] {
        let request = Request::get(format!("/tor/hs/3/{name}"));
        assert_eq!(answered(&directory, &request, now).0, 404, "{name:.20}");
    }
}

proptest::proptest! {
    #[test]
    fn no_upload_makes_it_panic(at in 0_usize..3000, byte: u8, cut in 0_usize..3000) {
        let mut body = service(1).descriptor().into_bytes();
        let at = at % body.len();
        body[at] = byte;
        body.truncate(cut.max(1));
        let _ = HsDir::default().store(&body, MAX_LENGTH, SystemTime::now());
    }
}
