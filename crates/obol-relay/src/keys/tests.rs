use super::*;
use obol_onion::handshake::ntor;
use std::fs;
use std::sync::OnceLock;
use tor_llcrypto::pk::keymanip::convert_curve25519_to_ed25519_public;

/// A day of 2026.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

/// A directory of keys that were made at [`now`]: searched once for all tests, and copied.
fn directory() -> tempfile::TempDir {
    static FIRST: OnceLock<tempfile::TempDir> = OnceLock::new();
    let first = FIRST.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        Keys::open(&directory.path().join("keys"), now()).unwrap();
        directory
    });
    let copy = tempfile::tempdir().unwrap();
    let (from, to) = (first.path().join("keys"), copy.path().join("keys"));
    Store::open(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // Permissions come along.
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    copy
}

fn open(directory: &tempfile::TempDir, at: SystemTime) -> Result<Arc<Keys>, KeyError> {
    Keys::open(&directory.path().join("keys"), at)
}

/// Whether the relay answers an onion skin for this onion key.
fn answers(keys: &Keys, onion_key: [u8; 32]) -> bool {
    let (_, skin) = ntor::Client::start(keys.fingerprint(), onion_key, [7; 32]);
    ntor::respond(&keys.onion_keys(), &skin, [8; 32]).is_ok()
}

#[test]
fn a_relay_is_the_same_after_a_restart() {
    let directory = directory();
    let (before, after) = (
        open(&directory, now()).unwrap(),
        open(&directory, now() + HOUR).unwrap(),
    );
    assert_eq!(before.fingerprint(), after.fingerprint());
    assert_eq!(before.ed25519(), after.ed25519());
    let (before, after) = (before.current(), after.current());
    assert_eq!(before.signing_cert(), after.signing_cert());
    assert_eq!(before.signing().to_bytes(), after.signing().to_bytes());
    assert_eq!(before.ntor_public(), after.ntor_public());
    assert_eq!(before.tap_public_der(), after.tap_public_der());
    // Links get a key of their own each time.
    assert!(!Arc::ptr_eq(before.tls(), after.tls()));
}

#[cfg(unix)]
#[test]
fn keys_are_readable_by_their_owner_only_and_otherwise_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = directory();
    let path = directory.path().join("keys");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = open(&directory, now()).unwrap_err();
        assert!(matches!(&refused, KeyError::Exposed { path, mode: 0o640 } if *path == file));
        assert!(refused.to_string().contains(&format!("chmod go= {}", file.display())));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(open(&directory, now()), Err(KeyError::Exposed { .. })));
}

#[test]
fn half_an_identity_is_not_made_up_for() {
    for gone in ["identity-rsa.pem", "identity-ed25519.toml"] {
        let directory = directory();
        let file = directory.path().join("keys").join(gone);
        fs::remove_file(&file).unwrap();
        let refused = open(&directory, now()).unwrap_err();
        assert!(matches!(refused, KeyError::HalfAnIdentity { missing } if missing == file));
    }
}

#[test]
fn a_damaged_file_is_named_and_its_secrets_are_not_told() {
    for (name, damage) in [
        (
            "identity-rsa.pem",
            "-----BEGIN RSA PRIVATE KEY-----\n5ec2e7\n-----END RSA PRIVATE KEY-----\n",
        ),
        ("identity-ed25519.toml", "secret = \"5ec2e7\"\n"),
        ("identity-ed25519.toml", "secret = 5ec2e7\n"),
        ("identity-ed25519.toml", "secret = \"00\"\nother = \"5ec2e7\"\n"),
        ("rotating.toml", "[signing]\nsecret = \"5ec2e7\"\n"),
        ("rotating.toml", ""),
    ] {
        let directory = directory();
        let file = directory.path().join("keys").join(name);
        fs::write(&file, damage).unwrap();
        let refused = open(&directory, now()).unwrap_err();
        assert!(
            matches!(&refused, KeyError::Malformed { path, .. } if *path == file),
            "{refused:?}"
        );
        let said = refused.to_string();
        assert!(said.contains(name) && !said.contains("5ec2e7"), "{said}");
    }
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    let directory = directory();
    let file = directory.path().join("keys/rotating.toml");
    let text = fs::read_to_string(&file).unwrap();
    let keys = open(&directory, now()).unwrap();
    let secret = hex::encode(keys.current().signing().to_bytes());
    fs::write(&file, text.replace(&secret, &hex::encode([9; 32]))).unwrap();
    assert!(matches!(open(&directory, now()), Err(KeyError::Malformed { path, .. }) if path == file));
}

#[test]
fn what_a_file_cannot_hold_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    fs::write(&file, "in the way").unwrap();
    assert!(matches!(open(&directory, now()), Err(KeyError::File { path, .. }) if path == file));
}

#[test]
fn the_signing_key_is_renewed_a_day_before_its_end_and_links_with_it() {
    let directory = directory();
    let keys = open(&directory, now()).unwrap();
    let before = keys.current();
    let life = OnionLifetime::from_days(90, 7);
    let due = now() + DAY * 29;
    assert!(!keys.renew(due - HOUR * 2, life).unwrap().descriptor);
    assert_eq!(keys.current().signing_cert(), before.signing_cert());
    let renewed = keys.renew(due + HOUR, life).unwrap();
    assert_eq!(
        renewed,
        Renewed {
            descriptor: true,
            onion: false,
            links: true
        }
    );
    let after = keys.current();
    assert_ne!(after.signing_cert(), before.signing_cert());
    assert_eq!(after.ntor_public(), before.ntor_public());
    // What was written is what a restart finds; a restart long after the end makes a new one.
    assert_eq!(
        open(&directory, due + HOUR * 2).unwrap().current().signing_cert(),
        after.signing_cert()
    );
    let much_later = open(&directory, due + DAY * 60).unwrap();
    assert_ne!(much_later.current().signing_cert(), after.signing_cert());
    assert!(much_later.current().signing_end > due + DAY * 60);
}

#[test]
fn link_keys_are_renewed_three_hours_before_their_end_and_need_no_new_descriptor() {
    let keys = open(&directory(), now()).unwrap();
    let before = keys.current();
    let life = OnionLifetime::default();
    assert_eq!(keys.renew(now() + HOUR * 44, life).unwrap(), Renewed::default());
    assert!(Arc::ptr_eq(&before, &keys.current()));
    let renewed = keys.renew(now() + HOUR * 45, life).unwrap();
    assert_eq!(
        renewed,
        Renewed {
            links: true,
            ..Renewed::default()
        }
    );
    assert!(!Arc::ptr_eq(before.credentials(), keys.current().credentials()));
}

#[test]
fn onion_keys_rotate_and_the_old_one_is_answered_until_its_grace_is_over() {
    let directory = directory();
    let life = OnionLifetime::from_days(28, 7);
    let keys = open(&directory, now()).unwrap();
    let old = keys.current().ntor_public();
    let old_tap = keys.current().tap_public_der();

    let rotated = now() + DAY * 28;
    let renewed = keys.renew(rotated, life).unwrap();
    assert!(renewed.onion && renewed.descriptor);
    let new = keys.current().ntor_public();
    assert_ne!(new, old);
    assert_ne!(keys.current().tap_public_der(), old_tap);
    assert!(answers(&keys, old) && answers(&keys, new));

    // A restart does not forget the old one.
    let keys = open(&directory, rotated + DAY * 6).unwrap();
    assert!(answers(&keys, old) && answers(&keys, new));
    assert_eq!(keys.next_renewal(life).min(rotated + DAY * 7), keys.next_renewal(life));
    let renewed = keys.renew(rotated + DAY * 7, life).unwrap();
    assert!(renewed.onion && !renewed.descriptor);
    assert!(!answers(&keys, old) && answers(&keys, new));
}

#[test]
fn keys_rotate_early_when_asked_to_and_only_those_that_were_asked_for() {
    let directory = directory();
    let life = OnionLifetime::default();
    let keys = open(&directory, now()).unwrap();
    let before = keys.current();
    let early = Rotate {
        onion: true,
        ..Rotate::default()
    };
    let renewed = keys.rotate(now() + HOUR, life, early).unwrap();
    assert_eq!((renewed.descriptor, renewed.onion, renewed.links), (true, true, false));
    let after = keys.current();
    assert_eq!(after.signing_cert(), before.signing_cert());
    assert!(Arc::ptr_eq(after.tls(), before.tls()));
    assert_ne!(after.ntor_public(), before.ntor_public());
    assert!(answers(&keys, before.ntor_public()) && answers(&keys, after.ntor_public()));

    let early = Rotate {
        signing: true,
        ..Rotate::default()
    };
    let renewed = keys.rotate(now() + HOUR, life, early).unwrap();
    assert_eq!((renewed.descriptor, renewed.onion, renewed.links), (true, false, true));
    assert_ne!(keys.current().signing_cert(), after.signing_cert());
    assert_eq!(keys.current().ntor_public(), after.ntor_public());

    let tap = Rotate {
        tap: true,
        ..Rotate::default()
    };
    keys.rotate(now() + HOUR, life, tap).unwrap();
    assert_ne!(keys.current().tap_public_der(), after.tap_public_der());
    assert_eq!(keys.current().ntor_public(), after.ntor_public());
    // All of it is in the files.
    let again = open(&directory, now() + HOUR).unwrap();
    assert_eq!(again.current().tap_public_der(), keys.current().tap_public_der());
    assert_eq!(again.current().signing_cert(), keys.current().signing_cert());
    assert!(answers(&again, before.ntor_public()));
}

#[test]
fn lifetimes_from_the_consensus_are_clamped() {
    assert_eq!(OnionLifetime::from_days(0, 0), OnionLifetime::from_days(1, 1));
    assert_eq!(OnionLifetime::from_days(1000, 1000), OnionLifetime::from_days(90, 90));
    assert_eq!(OnionLifetime::from_days(5, 28), OnionLifetime::from_days(5, 5));
}

#[test]
fn the_next_renewal_is_the_first_that_is_due() {
    let keys = open(&directory(), now()).unwrap();
    assert_eq!(
        keys.next_renewal(OnionLifetime::default()),
        now() + LINK_LIFE - LINK_MARGIN
    );
    assert_eq!(keys.next_renewal(OnionLifetime::from_days(1, 1)), now() + DAY);
}

#[test]
fn the_onion_keys_certify_both_identities() {
    let keys = open(&directory(), now()).unwrap();
    let current = keys.current();

    let (cert, sign) = current.ntor_crosscert(OnionLifetime::default()).unwrap();
    let as_ed25519 = convert_curve25519_to_ed25519_public(&current.ntor_public().into(), sign).unwrap();
    let cert = Ed25519Cert::decode(&cert)
        .unwrap()
        .should_be_signed_with(&as_ed25519.into())
        .unwrap()
        .check_signature()
        .unwrap()
        .if_valid_at(&now())
        .unwrap();
    assert_eq!(cert.cert_type(), CertType::NTOR_CC_IDENTITY);
    assert_eq!(cert.subject_key().as_ed25519(), Some(&keys.ed25519().into()));

    let tap = rsa::PublicKey::from_der(&current.tap_public_der()).unwrap();
    let identities = [keys.fingerprint().as_slice(), &keys.ed25519()].concat();
    tap.verify(&identities, &current.tap_crosscert().unwrap()).unwrap();
}

#[test]
fn no_secret_shows_in_debug_output() {
    let keys = open(&directory(), now()).unwrap();
    let shown = format!("{keys:?} {:?} {:?}", keys.current(), keys.current().credentials());
    for secret in [
        keys.ed25519.to_bytes(),
        keys.current().signing().to_bytes(),
        keys.current().rotating.onion.ntor.0,
    ] {
        assert!(!shown.contains(&hex::encode(secret)) && !shown.contains(&format!("{secret:?}")));
    }
}
