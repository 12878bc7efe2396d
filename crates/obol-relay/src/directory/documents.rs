//! The directory documents that we hold, byte for byte as their signers wrote them, and the answers made from them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::Digest as _;
use tor_checkable::{SelfSigned as _, TimeBound as _};
use tor_netdoc::doc::authcert::AuthCert;
use tor_netdoc::doc::netstatus::{ConsensusFlavor, MdConsensus, PlainConsensus};

use super::diffs::{DiffAges, Diffs};
use super::hsdir;
use super::http::Encoding;
use super::view::Snapshot;
use crate::extra_info::ExtraInfo;

/// SHA-1 of an RSA identity key.
pub type RsaId = [u8; 20];

/// A text and its compressed forms, made when first asked for. Clones share them.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The text.
    pub text: Bytes,
    compressed: Arc<[OnceLock<Bytes>; 3]>,
}

impl Encoded {
    /// Nothing compressed yet.
    pub fn new(text: Bytes) -> Encoded {
        Encoded {
            text,
            compressed: Arc::default(),
        }
    }

    /// The text in some encoding; compressed once, then kept.
    pub fn encoded(&self, encoding: Encoding) -> std::io::Result<Bytes> {
        let slot = match encoding {
            Encoding::Identity => return Ok(self.text.clone()),
            Encoding::Deflate => &self.compressed[0],
            Encoding::Gzip => &self.compressed[1],
            Encoding::Zstd => &self.compressed[2],
        };
        if let Some(done) = slot.get() {
            return Ok(done.clone());
        }
        let done = Bytes::from(encoding.compress(std::slice::from_ref(&self.text))?);
        Ok(slot.get_or_init(|| done).clone())
    }
}

/// One consensus document.
#[derive(Debug, Clone)]
pub struct Consensus {
    /// The text, with its signatures.
    pub text: Bytes,
    /// When it starts to be valid.
    pub valid_after: SystemTime,
    /// Until when nothing newer is to be expected.
    pub fresh_until: SystemTime,
    /// When it stops to be valid.
    pub valid_until: SystemTime,
    /// Who signed it, by v3 identity.
    pub signers: Vec<RsaId>,
    /// SHA3-256 of its signed part: the name under which a client asks for a difference to it.
    pub digest: [u8; 32],
    /// Compressed forms. Each client's fetch begins with a consensus.
    forms: Encoded,
}

/// Why a text is not a consensus that we can serve.
#[derive(Debug, thiserror::Error)]
pub enum NotAConsensus {
    /// tor-netdoc does not parse it.
    #[error("the text does not parse")]
    Parse(#[from] tor_netdoc::Error),
    /// It is not even text.
    #[error("it is not UTF-8")]
    NotText(#[from] std::str::Utf8Error),
    /// It is a difference that nobody asked for.
    #[error("a difference that was not asked for")]
    Unasked,
}

impl Consensus {
    /// Reads the few facts that serving needs out of a consensus. Checks **no signature**.
    pub fn read(flavor: ConsensusFlavor, text: Bytes) -> Result<Consensus, NotAConsensus> {
        let utf8 = std::str::from_utf8(&text)?;
        let (signed, lifetime, signers) = match flavor {
            ConsensusFlavor::Microdesc => {
                let (signed, _, unchecked) = MdConsensus::parse(utf8)?;
                let consensus = unchecked.dangerously_assume_timely();
                (
                    signed,
                    consensus.peek_lifetime().clone(),
                    consensus.signing_cert_ids().collect::<Vec<_>>(),
                )
            }
            _ => {
                let (signed, _, unchecked) = PlainConsensus::parse(utf8)?;
                let consensus = unchecked.dangerously_assume_timely();
                (
                    signed,
                    consensus.peek_lifetime().clone(),
                    consensus.signing_cert_ids().collect::<Vec<_>>(),
                )
            }
        };
        Ok(Consensus {
            valid_after: lifetime.valid_after(),
            fresh_until: lifetime.fresh_until(),
            valid_until: lifetime.valid_until(),
            signers: signers.iter().map(|ids| ids.id_fingerprint.to_bytes()).collect(),
            digest: tor_llcrypto::d::Sha3_256::digest(signed.as_bytes()).into(),
            forms: Encoded::new(text.clone()),
            text,
        })
    }

    /// The text in some encoding; compressed once, then kept.
    pub fn encoded(&self, encoding: Encoding) -> std::io::Result<Bytes> {
        self.forms.encoded(encoding)
    }
}

/// An authority's key certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The authority's identity.
    pub identity: RsaId,
    /// The signing key that it certifies.
    pub signing_key: RsaId,
    /// The text.
    pub text: Bytes,
    /// The parsed certificate; its signatures were checked.
    pub parsed: AuthCert,
    /// The time after which it must not be used.
    pub expires: SystemTime,
}

impl Certificate {
    /// Parses a certificate and checks its signatures and dates, but not whose it is.
    pub fn read(text: Bytes, now: SystemTime) -> Option<Certificate> {
        let utf8 = std::str::from_utf8(&text).ok()?;
        let parsed = AuthCert::parse(utf8)
            .ok()?
            .check_signature()
            .ok()?
            .if_valid_at(&now)
            .ok()?;
        let ids = parsed.key_ids();
        Some(Certificate {
            identity: ids.id_fingerprint.to_bytes(),
            signing_key: ids.sk_fingerprint.to_bytes(),
            expires: parsed.expires(),
            parsed,
            text,
        })
    }
}

/// A server descriptor.
#[derive(Debug, Clone)]
pub struct Server {
    /// SHA-1 of its signed part.
    pub digest: [u8; 20],
    /// The text.
    pub text: Bytes,
    /// The extra-info document that it names. We have our own only.
    pub extra_info: Option<Extra>,
}

/// An extra-info document.
#[derive(Debug, Clone)]
pub struct Extra {
    /// SHA-1 of its signed part.
    pub digest: [u8; 20],
    /// The text.
    pub text: Bytes,
}

impl From<ExtraInfo> for Extra {
    fn from(document: ExtraInfo) -> Extra {
        Extra {
            digest: document.sha1,
            text: Bytes::from(document.text),
        }
    }
}

impl Server {
    /// Takes a descriptor that starts with `router ` and ends with its RSA signature.
    pub fn new(text: Bytes) -> Server {
        Server {
            digest: descriptor_digest(&text),
            text,
            extra_info: None,
        }
    }
}

/// SHA-1 of the signed part of a server descriptor or extra-info document, from its start up to and with `router-signature` and its line feed.
pub fn descriptor_digest(text: &[u8]) -> [u8; 20] {
    const LAST: &[u8] = b"\nrouter-signature\n";
    let end = text
        .windows(LAST.len())
        .position(|w| w == LAST)
        .map_or(text.len(), |at| at + LAST.len());
    sha1::Sha1::digest(&text[..end]).into()
}

/// All documents that are served, at one moment. Cheap to clone: texts are shared.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// The consensus of flavour `microdesc`.
    pub microdesc: Option<Consensus>,
    /// The consensus of flavour `ns`.
    pub plain: Option<Consensus>,
    /// The authorities' certificates.
    pub certificates: Vec<Certificate>,
    /// Differences from earlier consensuses of flavour `microdesc` to this one.
    pub microdesc_diffs: Diffs,
    /// The same of flavour `ns`.
    pub plain_diffs: Diffs,
    /// Microdescriptors, by SHA-256.
    pub microdescriptors: HashMap<[u8; 32], Bytes>,
    /// Server descriptors, by RSA identity.
    pub servers: BTreeMap<RsaId, Server>,
    /// Which of those is our own.
    pub own: Option<RsaId>,
    /// The longest descriptor of an onion service, in bytes, if the consensus says so.
    pub onion_descriptor: Option<usize>,
    /// From how old a consensus differences are made and asked for.
    pub diff_ages: DiffAges,
}

impl Documents {
    /// These documents with our own descriptor as `newer` has it: it may have been published while these were fetched.
    pub(super) fn with_own_of(mut self, newer: &Documents) -> Documents {
        self.own = newer.own;
        if let Some(own) = newer.own
            && let Some(server) = newer.servers.get(&own)
        {
            self.servers.insert(own, server.clone());
        }
        self
    }

    /// Adds a microdescriptor under its digest.
    pub fn add_microdescriptor(&mut self, text: Bytes) -> [u8; 32] {
        let digest: [u8; 32] = sha2::Sha256::digest(&text).into();
        self.microdescriptors.insert(digest, text);
        digest
    }

    /// Adds or replaces an authority certificate.
    pub fn add_certificate(&mut self, certificate: Certificate) {
        self.certificates
            .retain(|c| (c.identity, c.signing_key) != (certificate.identity, certificate.signing_key));
        self.certificates.push(certificate);
    }

    /// The consensus of a flavour.
    pub fn consensus(&self, flavor: ConsensusFlavor) -> Option<&Consensus> {
        match flavor {
            ConsensusFlavor::Microdesc => self.microdesc.as_ref(),
            _ => self.plain.as_ref(),
        }
    }

    /// The differences to the consensus of a flavour.
    pub fn diffs(&self, flavor: ConsensusFlavor) -> &Diffs {
        match flavor {
            ConsensusFlavor::Microdesc => &self.microdesc_diffs,
            _ => &self.plain_diffs,
        }
    }

    /// These documents with the limits that the consensus sets.
    pub(super) fn with_limits(mut self, consensus: &Snapshot) -> Documents {
        self.onion_descriptor = consensus.params.get("HSV3MaxDescriptorSize").and_then(|limit| {
            let bounds = hsdir::MAX_LENGTH_BOUNDS;
            usize::try_from(*limit.clamp(bounds.start(), bounds.end())).ok()
        });
        self.diff_ages = DiffAges::new(|name| consensus.params.get(name).copied());
        self
    }

    /// These documents with the differences to their consensuses. Takes its time.
    pub(super) fn with_diffs(mut self) -> Documents {
        if let Some(consensus) = &self.microdesc {
            self.microdesc_diffs.follow(consensus, self.diff_ages);
        }
        if let Some(consensus) = &self.plain {
            self.plain_diffs.follow(consensus, self.diff_ages);
        }
        self
    }
}
