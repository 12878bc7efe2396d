//! Key files: the owner's alone, never overwritten, never mistaken for something else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use obol_stellar::Keypair;
use obol_stellar::escrow::{EscrowSecret, PayerSecret};
use obol_stellar::key::KeyFileFault;

#[test]
fn a_key_file_is_made_once_and_read_ever_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("payee.seed");
    let made = Keypair::load_or_create(&path).unwrap();
    let read = Keypair::load_or_create(&path).unwrap();
    assert_eq!(made.account(), read.account());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.trim(), made.secret_strkey().as_str());
    let overwritten = Keypair::random().unwrap().save_new(&path).unwrap_err();
    assert!(matches!(overwritten.fault, KeyFileFault::Io(_)));
    assert_eq!(Keypair::load(&path).unwrap().account(), made.account());
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("payee.seed");
    Keypair::load_or_create(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o660, 0o644] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = Keypair::load(&path).unwrap_err();
        assert!(matches!(refused.fault, KeyFileFault::OpenToOthers { mode: m } if m == mode));
        let refused = EscrowSecret::load_or_create(&path).unwrap_err();
        assert!(matches!(refused.fault, KeyFileFault::OpenToOthers { .. }));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    Keypair::load(&path).unwrap();
}

#[test]
fn a_file_that_holds_something_else_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let public = obol_stellar::key::account_text(&Keypair::from_seed(&[1; 32]).account());
    for text in ["", "\n", "hello", public.as_str(), &"S".repeat(1_000_000)] {
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let refused = PayerSecret::load_or_create(&path).unwrap_err();
        assert!(matches!(refused.fault, KeyFileFault::NotASeed), "{text:.10}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
