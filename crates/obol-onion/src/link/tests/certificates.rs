//! What is accepted as proof of who a relay is.

use super::*;

/// What the initiator makes of a responder with these certificates.
fn with_certificates(change: impl FnOnce(&mut Certificates)) -> LinkError {
    let mut certificates = CALLED.certificates();
    change(&mut certificates);
    let responder = Handshake::respond(CALLED.credentials(certificates), facts("192.0.2.10", "192.0.2.20"));
    talk(caller(Some(Arc::clone(&GOOD[0]))), responder, untouched).0.error()
}

#[test]
fn certificates_that_prove_nothing_are_refused() {
    let relay = &*CALLED;
    let id_key = || CertifiedKey::Ed25519(relay.identity.verifying_key().into());
    let signing_key = || CertifiedKey::Ed25519(relay.signing.verifying_key().into());
    let stranger = Keypair::from_bytes(&[99; 32]);
    let fault = LinkError::Certificate;

    // Expired; an hour is the unit of these dates.
    let old = NOW - 7200;
    let made = relay.certify(CertType::IDENTITY_V_SIGNING, &relay.identity, signing_key(), old);
    assert_eq!(with_certificates(|c| c.signing = made), fault(CertFault::Expired(4)));
    let tls = CertifiedKey::X509Sha256Digest(Sha256::digest(&relay.tls).into());
    let made = relay.certify(CertType::SIGNING_V_TLS_CERT, &relay.signing, tls.clone(), old);
    assert_eq!(with_certificates(|c| c.tls = made), fault(CertFault::Expired(5)));
    let made =
        EncodedRsaCrosscert::encode_and_sign(&relay.rsa, &relay.identity.verifying_key().into(), time(old)).unwrap();
    assert_eq!(
        with_certificates(|c| c.crosscert = made.to_vec()),
        fault(CertFault::Expired(7))
    );

    // Of the wrong kind, for the wrong key, by the wrong key.
    let made = relay.certify(CertType::SIGNING_V_LINK_AUTH, &relay.identity, signing_key(), NOW + DAY);
    assert_eq!(with_certificates(|c| c.signing = made), fault(CertFault::Malformed(4)));
    let made = relay.certify(CertType::SIGNING_V_TLS_CERT, &relay.signing, id_key(), NOW + DAY);
    assert_eq!(with_certificates(|c| c.tls = made), fault(CertFault::WrongKey(5)));
    let made = relay.certify(CertType::SIGNING_V_TLS_CERT, &stranger, tls, NOW + DAY);
    assert_eq!(with_certificates(|c| c.tls = made), fault(CertFault::Signature(5)));
    let made =
        EncodedRsaCrosscert::encode_and_sign(&relay.rsa, &stranger.verifying_key().into(), time(NOW + DAY)).unwrap();
    assert_eq!(
        with_certificates(|c| c.crosscert = made.to_vec()),
        fault(CertFault::WrongKey(7))
    );
    let made =
        EncodedRsaCrosscert::encode_and_sign(&CALLER.rsa, &relay.identity.verifying_key().into(), time(NOW + DAY))
            .unwrap();
    assert_eq!(
        with_certificates(|c| c.crosscert = made.to_vec()),
        fault(CertFault::Signature(7))
    );

    // Altered or continued.
    assert_eq!(
        with_certificates(|c| c.crosscert.push(0)),
        fault(CertFault::Malformed(7))
    );
    assert_eq!(
        with_certificates(|c| c.crosscert.truncate(40)),
        fault(CertFault::Malformed(7))
    );
    assert_eq!(with_certificates(|c| c.signing.push(0)), fault(CertFault::Malformed(4)));
    assert_eq!(
        with_certificates(|c| *c.signing.last_mut().unwrap() ^= 1),
        fault(CertFault::Signature(4))
    );
    assert_eq!(
        with_certificates(|c| *c.rsa_x509.last_mut().unwrap() ^= 1),
        fault(CertFault::Malformed(2))
    );
    assert_eq!(
        with_certificates(|c| c.rsa_x509.clear()),
        fault(CertFault::Malformed(2))
    );
}

#[test]
fn the_identitys_x509_certificate_is_held_to_its_dates_with_c_tors_slack() {
    let made = |at: u64| {
        tor_cert_x509::create_legacy_rsa_id_cert(&mut StdRng::seed_from_u64(2), time(at), "www.a.net", &CALLED.rsa)
            .unwrap()
    };
    // Valid from the day before it was made, for 365 days.
    assert!(x509::identity_key(&made(NOW), NOW).is_some());
    assert!(x509::identity_key(&made(NOW), NOW + 364 * DAY).is_some());
    assert!(x509::identity_key(&made(NOW), NOW + 368 * DAY).is_none());
    assert!(x509::identity_key(&made(NOW), NOW - 30 * DAY).is_some());
    assert!(x509::identity_key(&made(NOW), NOW - 32 * DAY).is_none());
    assert!(x509::identity_key(&made(NOW), u64::MAX).is_none());
}

#[test]
fn missing_and_repeated_certificates_are_refused() {
    let body = GOOD[1].for_initiator();
    let parsed = |body: &[u8]| certs::Received::parse(body).map(|_| ());
    assert_eq!(parsed(&body), Ok(()));
    // The same list again behind itself.
    let mut twice = body.clone();
    twice[0] *= 2;
    twice.extend_from_slice(&body[1..]);
    assert_eq!(parsed(&twice), Err(LinkError::Certificate(CertFault::Repeated(4))));

    // One after the other left out, by giving it a type that nobody knows.
    let mut at = 1;
    for missing in [4, 5, 2, 7] {
        assert_eq!(body[at], missing);
        let mut without = body.clone();
        without[at] = 200;
        let mut end = End::Open(caller(None).0);
        end.hear(&[cell::versions(), cell::variable(command::CERTS, &without)].concat());
        assert_eq!(end.error(), LinkError::Certificate(CertFault::Missing(missing)));
        at += 3 + usize::from(u16::from_be_bytes([body[at + 1], body[at + 2]]));
    }
    // A responder needs 6 instead of 5.
    let mut end = End::Open(called());
    end.hear(&[cell::versions(), cell::variable(command::CERTS, &body)].concat());
    assert_eq!(end.error(), LinkError::Certificate(CertFault::Missing(6)));
}

proptest! {
    #[test]
    fn an_x509_certificate_that_was_altered_or_cut_is_refused(
        at in any::<prop::sample::Index>(), bit in 0..8_u32, cut in any::<bool>(),
    ) {
        let mut certificate = GOOD_X509.clone();
        let at = at.index(certificate.len());
        if cut {
            certificate.truncate(at);
        } else {
            certificate[at] ^= 1 << bit;
        }
        prop_assert!(x509::identity_key(&certificate, NOW).is_none());
    }

    #[test]
    fn noise_is_no_certificate(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(x509::identity_key(&noise, NOW).is_none());
        if let Ok(received) = certs::Received::parse(&noise) {
            prop_assert!(received.chain(NOW).is_err());
        }
    }
}

/// The caller's, as it should be.
static GOOD_X509: LazyLock<Vec<u8>> = LazyLock::new(|| CALLER.certificates().rsa_x509);
