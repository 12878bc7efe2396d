//! The server descriptor: what a relay says about itself, signed with its identity (*dir-spec*, "Server descriptor format").
//!
//! `tor-netdoc` has no way to encode the TAP key and its cross-certificate, which 0.4.9 authorities still demand, so the
//! document is written item by item with its encoder and signed with its signature types.

use std::net::{SocketAddrV4, SocketAddrV6};
use std::time::{Duration, SystemTime};

use tor_llcrypto::pk::rsa;
use tor_netdoc::encode::{NetdocEncodableFields as _, NetdocEncoder};
use tor_netdoc::types::descriptor::RouterSigEd25519;
use tor_netdoc::types::policy::{AddrPolicy, AddrPortPattern, PortSummaryThresholds, RuleKind};
use tor_netdoc::types::{B64, Iso8601TimeSp, RsaSha1Signature};

use crate::extra_info::{self, ExtraInfo};
use crate::keys::{Current, FamilyKey, KeyError, Keys, OnionLifetime};
use crate::traffic::History;

/// The subprotocols of an Obol relay that is paid, in the form of a `proto` line. `Relay=6` is left out on purpose: in the
/// cell format that it brings unknown relay commands cannot be parsed, and payment messages are such. `Desc=3` and
/// `Microdesc=3` say that TAP keys may be missing, and that ours is left out on demand; `Desc=4` that families by key are
/// heeded: in what we publish, serve, and choose for paths.
pub const PROTOCOLS: &str = "Cons=2 Desc=2-4 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 Link=4-5 LinkAuth=3 \
                             Microdesc=2-3 Obol=1 Relay=2-5";

/// The same for a relay that is not paid.
pub const UNPAID_PROTOCOLS: &str = "Cons=2 Desc=2-4 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 Link=4-5 LinkAuth=3 \
                                    Microdesc=2-3 Relay=2-5";

/// The longest descriptor that authorities accept, in bytes.
pub const MAX_LENGTH: usize = 20_000;

/// What a relay says about itself.
#[derive(Debug, Clone)]
pub struct Description {
    /// 1 to 19 letters and digits.
    pub nickname: String,
    /// Name and version of the software and its system. Must not start with `Tor `.
    pub platform: String,
    /// How to reach the operator; empty: not said.
    pub contact: String,
    /// Where other relays and clients reach it.
    pub address: SocketAddrV4,
    /// The same in IPv6, if it listens there.
    pub ipv6: Option<SocketAddrV6>,
    /// Bytes per second that it carries in the long run; at least 1.
    pub bandwidth_rate: u64,
    /// Bytes per second in a burst.
    pub bandwidth_burst: u64,
    /// Bytes per second that it has seen itself carry. With 0, nobody selects the relay.
    pub bandwidth_observed: u64,
    /// How long it has been running.
    pub uptime: Duration,
    /// It has carried what it may in this period, and accepts nothing new.
    pub hibernating: bool,
    /// Whether it shows a TAP key, which is used for nothing, but demanded until the consensus' `publish-dummy-tap-key` is 0.
    pub tap: bool,
    /// What it connects to as an exit.
    pub policy: AddrPolicy,
    /// Whether it exits to IPv6 as well, under the same policy.
    pub ipv6_exit: bool,
    /// Its subprotocols: [`PROTOCOLS`] or [`UNPAID_PROTOCOLS`].
    pub protocols: &'static str,
    /// The RSA identities of the other relays of its operator: the old way to name a family, which each member has to do.
    pub family: Vec<[u8; 20]>,
    /// The keys of the families that it belongs to.
    pub family_keys: Vec<FamilyKey>,
    /// What it has carried on whole days, for its extra-info document.
    pub history: Option<History>,
}

/// A descriptor, and what is uploaded with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The server descriptor.
    pub descriptor: String,
    /// The extra-info document that it names.
    pub extra_info: ExtraInfo,
}

impl Publication {
    /// What an authority is handed: one document after the other.
    pub fn body(&self) -> String {
        [self.descriptor.as_str(), self.extra_info.text.as_str()].concat()
    }
}

/// Why no descriptor was made.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The nickname is not 1 to 19 letters and digits.
    #[error("a nickname has 1 to 19 letters and digits, not {0:?}")]
    Nickname(String),
    /// A text would break out of its line.
    #[error("{0} must be a single line of printable characters")]
    NotOneLine(&'static str),
    /// The platform claims to be C Tor.
    #[error("the platform must not claim to be Tor")]
    Impostor,
    /// A certificate could not be made.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The encoder refused.
    #[error("the document cannot be encoded")]
    Encode(#[source] tor_bytes::EncodeError),
    /// The relay is being shut down.
    #[error("the relay is ending")]
    Ending,
    /// Authorities would refuse it for its length.
    #[error("a document has {0} bytes; authorities accept {MAX_LENGTH}; shorten the exit policy or the contact")]
    TooLong(usize),
}

/// Makes and signs a descriptor and its extra-info document, published at `now`. The descriptor's certificates hold as long
/// as `onion` lets the onion key live.
pub fn build(
    keys: &Keys,
    onion: OnionLifetime,
    about: &Description,
    now: SystemTime,
) -> Result<Publication, DescriptorError> {
    check(about)?;
    let current = keys.current();
    let extra_info = extra_info::build(&about.nickname, &current, keys.rsa(), about.history.as_ref(), now)?;
    let mut doc = NetdocEncoder::new();

    doc.item("router")
        .arg(&about.nickname)
        .arg(&about.address.ip().to_string())
        .arg(&about.address.port())
        .arg(&0_u16)
        .arg(&0_u16);
    doc.item("identity-ed25519")
        .object_bytes("ED25519 CERT", current.signing_cert());
    doc.item("master-key-ed25519").arg(&B64(keys.ed25519().to_vec()));
    if let Some(ipv6) = about.ipv6 {
        doc.item("or-address").arg(&ipv6.to_string());
    }
    doc.item("platform").args_raw_string(&about.platform);
    doc.item("proto").args_raw_string(&about.protocols);
    doc.item("published").arg(&Iso8601TimeSp::from(now));
    doc.item("fingerprint")
        .args_raw_string(&spaced(&hex::encode_upper(keys.fingerprint())));
    let (sha1, sha256) = extra_info.digests();
    doc.item("extra-info-digest").arg(&sha1).arg(&sha256);
    if about.hibernating {
        doc.item("hibernating").arg(&1_u16);
    }
    doc.item("uptime").arg(&about.uptime.as_secs());
    doc.item("bandwidth")
        .arg(&about.bandwidth_rate.max(1))
        .arg(&about.bandwidth_burst.max(about.bandwidth_rate))
        .arg(&about.bandwidth_observed);
    if about.tap {
        doc.item("onion-key")
            .object_bytes("RSA PUBLIC KEY", current.tap_public_der());
    }
    doc.item("signing-key")
        .object_bytes("RSA PUBLIC KEY", keys.rsa().to_public_key().to_der());
    if about.tap {
        doc.item("onion-key-crosscert")
            .object_bytes("CROSSCERT", current.tap_crosscert()?);
    }
    let (certificate, sign_bit) = current.ntor_crosscert(onion)?;
    doc.item("ntor-onion-key-crosscert")
        .arg(&sign_bit)
        .object_bytes("ED25519 CERT", certificate);
    if !about.contact.is_empty() {
        doc.item("contact").args_raw_string(&about.contact);
    }
    doc.item("ntor-onion-key").arg(&B64(current.ntor_public().to_vec()));
    ipv4_rules(&about.policy).encode_fields(&mut doc).map_err(encode)?;
    if about.ipv6_exit {
        // The summary takes what no rule matches for accepted; here it is rejected.
        let mut policy = about.policy.clone();
        policy.push(RuleKind::Reject, AddrPortPattern::new_all());
        let summary = policy.summarise_precise(&PortSummaryThresholds::DEFAULT, private_ranges());
        doc.item("ipv6-policy").args_raw_string(&summary.v6);
    }
    if !about.family.is_empty() {
        let members: Vec<String> = about
            .family
            .iter()
            .map(|member| format!("${}", hex::encode_upper(member)))
            .collect();
        doc.item("family").args_raw_string(&members.join(" "));
    }
    for family in &about.family_keys {
        doc.item("family-cert")
            .object_bytes("FAMILY CERT", family.certify(keys.ed25519(), now)?);
    }
    doc.item("hidden-service-dir");
    doc.item("tunnelled-dir-server");

    let descriptor = sign(doc, &current, keys.rsa())?;
    if descriptor.len() > MAX_LENGTH {
        return Err(DescriptorError::TooLong(descriptor.len()));
    }
    Ok(Publication { descriptor, extra_info })
}

/// Appends both signatures.
pub(crate) fn sign(mut doc: NetdocEncoder, current: &Current, rsa: &rsa::KeyPair) -> Result<String, DescriptorError> {
    let signature = RouterSigEd25519::new_sign_netdoc(current.signing(), &doc, "router-sig-ed25519").map_err(encode)?;
    doc.item("router-sig-ed25519")
        .arg(&B64(signature.0.to_bytes().to_vec()));
    let signature = RsaSha1Signature::new_sign_netdoc(rsa, &doc, "router-signature").map_err(encode)?;
    doc.item("router-signature")
        .object_bytes("SIGNATURE", signature.signature);
    doc.finish().map_err(encode)
}

/// Refuses what would make another document of it.
fn check(about: &Description) -> Result<(), DescriptorError> {
    let name = &about.nickname;
    if name.is_empty() || name.len() > 19 || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(DescriptorError::Nickname(name.clone()));
    }
    for (text, what) in [(&about.contact, "the contact"), (&about.platform, "the platform")] {
        if text.chars().any(char::is_control) || text.trim() != text.as_str() {
            return Err(DescriptorError::NotOneLine(what));
        }
    }
    if about.platform.is_empty() {
        return Err(DescriptorError::NotOneLine("the platform"));
    }
    if about.platform.split(' ').next() == Some("Tor") {
        return Err(DescriptorError::Impostor);
    }
    Ok(())
}

/// An encoder's complaint.
fn encode(bug: impl Into<tor_bytes::EncodeError>) -> DescriptorError {
    DescriptorError::Encode(bug.into())
}

/// A fingerprint in groups of four.
fn spaced(hex: &str) -> String {
    let groups: Vec<&str> = (0..hex.len()).step_by(4).filter_map(|at| hex.get(at..at + 4)).collect();
    groups.join(" ")
}

/// The rules that a descriptor may list: IPv6 has a summary line instead.
fn ipv4_rules(policy: &AddrPolicy) -> AddrPolicy {
    let mut rules = AddrPolicy::new();
    for (kind, pattern) in policy.rules() {
        if !pattern.addrs.to_string().starts_with('[') {
            rules.push(kind, pattern);
        }
    }
    rules
}

/// Networks that are nobody's in public: rejecting them does not make a port a closed one.
pub fn private_ranges<N: std::str::FromStr>() -> Vec<N> {
    const PRIVATE: [&str; 9] = [
        "0.0.0.0/8",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "192.168.0.0/16",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
    ];
    PRIVATE.iter().filter_map(|range| range.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use tor_checkable::TimeBound as _;
    use tor_netdoc::doc::extra_info::ExtraInfoUnverified;
    use tor_netdoc::doc::routerdesc::RouterDescUnverified;
    use tor_netdoc::parse2::{ParseInput, parse_netdoc};

    use super::*;
    use crate::keys::family_file;

    fn about() -> Description {
        Description {
            nickname: "obol1".to_owned(),
            platform: "Obol 0.1.0 on Linux".to_owned(),
            contact: "someone at example".to_owned(),
            address: SocketAddrV4::new([127, 0, 0, 1].into(), 9001),
            ipv6: None,
            bandwidth_rate: 1 << 20,
            bandwidth_burst: 1 << 21,
            bandwidth_observed: 1 << 20,
            uptime: Duration::from_secs(60),
            hibernating: false,
            tap: true,
            policy: AddrPolicy::new(),
            ipv6_exit: false,
            protocols: PROTOCOLS,
            family: Vec::new(),
            family_keys: Vec::new(),
            history: None,
        }
    }

    fn keys() -> (tempfile::TempDir, std::sync::Arc<Keys>) {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(&dir.path().join("keys"), SystemTime::now()).unwrap();
        (dir, keys)
    }

    fn parse(text: &str) -> RouterDescUnverified {
        parse_netdoc(&ParseInput::new(text, "<test>")).unwrap()
    }

    #[test]
    fn tor_netdoc_parses_and_verifies_the_descriptor() {
        let (_dir, keys) = keys();
        let now = SystemTime::now();
        let text = build(&keys, OnionLifetime::default(), &about(), now)
            .unwrap()
            .descriptor;
        let desc = parse(&text).verify().unwrap().if_valid_at(&now).unwrap();
        assert_eq!(desc.rsa_identity().to_bytes(), keys.fingerprint());
        assert_eq!(desc.ed_identity().as_bytes(), &keys.ed25519());
        assert_eq!(desc.ntor_onion_key().as_bytes(), &keys.current().ntor_public());
        assert!(desc.protocols().supports_subver("Obol", 1));
        assert!(desc.tunnelled_dir_server.is_some());
        assert_eq!(desc.router.orport, 9001);
        let old_parser = tor_netdoc::doc::routerdesc::RouterDesc::parse(&text).unwrap();
        tor_checkable::SelfSigned::check_signature(old_parser)
            .unwrap()
            .if_valid_at(&now)
            .unwrap();
    }

    #[test]
    fn tor_netdoc_verifies_the_extra_info_document_against_the_descriptor() {
        let (_dir, keys) = keys();
        let now = SystemTime::now();
        let mut about = about();
        about.history = Some(History {
            end: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            bytes: vec![0, 5000, 1 << 40],
        });
        let published = build(&keys, OnionLifetime::default(), &about, now).unwrap();
        let desc = parse(&published.descriptor)
            .verify()
            .unwrap()
            .if_valid_at(&now)
            .unwrap();
        let text = &published.extra_info.text;
        let line = "(86400 s) 0,4096,1099511627776\n";
        assert!(
            text.contains(&format!("\nwrite-history 2026-09-21 14:13:20 {line}")),
            "{text}"
        );
        assert!(
            text.contains(&format!("\nread-history 2026-09-21 14:13:20 {line}")),
            "{text}"
        );
        let verify = |text: &str| {
            let parsed: ExtraInfoUnverified = parse_netdoc(&ParseInput::new(text, "<test>")).unwrap();
            parsed.verify(&desc)
        };
        assert!(verify(text).is_ok());
        assert!(verify(&text.replace("4096", "8192")).is_err());
    }

    #[test]
    fn a_second_address_the_exit_to_ipv6_and_the_family_are_in_the_descriptor() {
        let (_dir, keys) = keys();
        let (family, _files) = family_file();
        let now = SystemTime::now();
        let mut about = about();
        about.ipv6 = Some("[2001:db8::7]:9001".parse().unwrap());
        about.ipv6_exit = true;
        about
            .policy
            .push(RuleKind::Reject, "[2001:db8::]/32:*".parse().unwrap());
        about.policy.push(RuleKind::Accept, "*:443".parse().unwrap());
        about.family = vec![[0xAB; 20], [1; 20]];
        about.family_keys = vec![family.clone()];
        let text = build(&keys, OnionLifetime::default(), &about, now).unwrap().descriptor;
        let desc = parse(&text).verify().unwrap().if_valid_at(&now).unwrap();
        assert_eq!(desc.or_address, ["[2001:db8::7]:9001".parse().unwrap()]);
        assert!(text.contains("\nipv6-policy accept 443\n"), "{text}");
        assert!(
            text.contains("\naccept *:443\n") && !text.contains("2001:db8::]/32"),
            "{text}"
        );
        let line = format!("\nfamily ${} ${}\n", "AB".repeat(20), "01".repeat(20));
        assert!(text.contains(&line), "{text}");
        let ids = tor_netdoc::doc::routerdesc::RouterDesc::parse(&text).unwrap();
        let ids = tor_checkable::SelfSigned::check_signature(ids)
            .unwrap()
            .if_valid_at(&now)
            .unwrap();
        let expected = format!("ed25519:{}", B64(family.public().to_vec()));
        assert_eq!(
            ids.family_ids()
                .as_ref()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            [expected]
        );
    }

    #[test]
    fn a_descriptor_without_a_tap_key_is_as_good_as_any() {
        let (_dir, keys) = keys();
        let now = SystemTime::now();
        let mut about = about();
        about.tap = false;
        let text = build(&keys, OnionLifetime::default(), &about, now).unwrap().descriptor;
        assert!(!text.contains("\nonion-key"), "{text}");
        let desc = parse(&text).verify().unwrap().if_valid_at(&now).unwrap();
        assert_eq!(desc.ntor_onion_key().as_bytes(), &keys.current().ntor_public());
        let old_parser = tor_netdoc::doc::routerdesc::RouterDesc::parse(&text).unwrap();
        assert!(tor_checkable::SelfSigned::check_signature(old_parser).is_ok());
    }

    #[test]
    fn a_changed_descriptor_is_no_longer_signed() {
        let (_dir, keys) = keys();
        let text = build(&keys, OnionLifetime::default(), &about(), SystemTime::now())
            .unwrap()
            .descriptor;
        let forged = text.replace("router obol1 ", "router obol2 ");
        assert!(parse(&forged).verify().is_err());
    }

    #[test]
    fn texts_that_would_break_the_document_are_refused() {
        let (_dir, keys) = keys();
        let refused = |change: &dyn Fn(&mut Description)| {
            let mut about = about();
            change(&mut about);
            build(&keys, OnionLifetime::default(), &about, SystemTime::now()).unwrap_err()
        };
        assert!(matches!(
            refused(&|a| a.nickname = "no-dash".to_owned()),
            DescriptorError::Nickname(_)
        ));
        assert!(matches!(
            refused(&|a| a.nickname = "a".repeat(20)),
            DescriptorError::Nickname(_)
        ));
        assert!(matches!(
            refused(&|a| a.contact = "me\nrouter x".to_owned()),
            DescriptorError::NotOneLine(_)
        ));
        assert!(matches!(
            refused(&|a| a.platform = "Tor 0.4.9.11 on Linux".to_owned()),
            DescriptorError::Impostor
        ));
        assert!(matches!(
            refused(&|a| a.contact = "x".repeat(30_000)),
            DescriptorError::TooLong(_)
        ));
    }
}
