//! The extra-info document: statistics that only statisticians fetch (*dir-spec*, "Extra-info document format").
//!
//! `tor-netdoc` encodes none, so it is written item by item as the server descriptor is; its parser checks ours in the tests.

use std::time::SystemTime;

use sha1::Digest as _;
use tor_llcrypto::pk::rsa;
use tor_netdoc::encode::NetdocEncoder;
use tor_netdoc::types::{B64, Iso8601TimeSp};

use crate::descriptor::{self, DescriptorError};
use crate::keys::Current;
use crate::traffic::{History, INTERVAL};

/// The longest extra-info document that authorities accept, in bytes.
pub const MAX_LENGTH: usize = 50_000;

/// What C Tor rounds sums of bytes down to, so that they say less about single clients.
const ROUNDED: u64 = 1024;

/// An extra-info document, and the names that a descriptor gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraInfo {
    /// The document.
    pub text: String,
    /// SHA-1 of its signed part.
    pub sha1: [u8; 20],
    /// SHA-256 of all of it, signatures included: a mistake of C Tor's that has become the rule.
    pub sha256: [u8; 32],
}

/// Makes and signs the document of a descriptor that is published at `now`. Both name the same signing key: `current` must
/// be the descriptor's.
pub(crate) fn build(
    nickname: &str,
    current: &Current,
    rsa: &rsa::KeyPair,
    history: Option<&History>,
    now: SystemTime,
) -> Result<ExtraInfo, DescriptorError> {
    let mut doc = NetdocEncoder::new();
    doc.item("extra-info")
        .arg(&nickname)
        .arg(&hex::encode_upper(rsa.to_public_key().to_rsa_identity().to_bytes()));
    doc.item("identity-ed25519")
        .object_bytes("ED25519 CERT", current.signing_cert());
    doc.item("published").arg(&Iso8601TimeSp::from(now));
    if let Some(history) = history {
        let bytes: Vec<String> = history
            .bytes
            .iter()
            .map(|bytes| (bytes / ROUNDED * ROUNDED).to_string())
            .collect();
        // A relay writes what it reads: cells are counted once, for both.
        for keyword in ["write-history", "read-history"] {
            let end = Iso8601TimeSp::from(history.end);
            doc.item(keyword)
                .args_raw_string(&format_args!("{end} ({} s) {}", INTERVAL.as_secs(), bytes.join(",")));
        }
    }
    let text = descriptor::sign(doc, current, rsa)?;
    if text.len() > MAX_LENGTH {
        return Err(DescriptorError::TooLong(text.len()));
    }
    Ok(ExtraInfo {
        sha1: super::directory::documents::descriptor_digest(text.as_bytes()),
        sha256: sha2::Sha256::digest(text.as_bytes()).into(),
        text,
    })
}

impl ExtraInfo {
    /// The arguments of `extra-info-digest`.
    pub(crate) fn digests(&self) -> (String, B64) {
        (hex::encode_upper(self.sha1), B64(self.sha256.to_vec()))
    }
}
