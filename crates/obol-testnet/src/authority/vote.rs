//! Checking descriptors, and counting the one vote: consensus documents of both flavours, microdescriptors.
//!
//! tor-netdoc's consensus types are another type for each flavour, and have no way to sign; the documents differ in five
//! lines. So they are written item by item with its encoder (*dir-spec*, "Computing a consensus from a set of votes").

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use obol_relay::descriptor::private_ranges;
use obol_relay::directory::documents::{Consensus, Documents, NotAConsensus, Server};
use sha1::Digest as _;
use tor_checkable::TimeBound as _;
use tor_netdoc::doc::netstatus::ConsensusFlavor;
use tor_netdoc::doc::routerdesc::RouterDescUnverified;
use tor_netdoc::encode::NetdocEncoder;
use tor_netdoc::parse2::{ParseInput, parse_netdoc};
use tor_netdoc::types::policy::PortSummaryThresholds;
use tor_netdoc::types::{B64, Iso8601TimeSp};

use super::AuthorityConfig;
use super::keys::AuthorityKeys;

/// How old a descriptor may be when it is uploaded, and how old in a consensus.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// How far in the future it may be dated.
const NEWEST: Duration = Duration::from_secs(12 * 3600);

/// The consensus method: what microdescriptors and entries look like. C Tor's 33 writes no publication times.
const METHOD: u32 = 33;

/// The time that stands for "not said" since that method.
const NO_TIME: &str = "2038-01-01 00:00:00";

/// The least weight of a relay, in kilobytes a second: a fresh one has measured nothing, and would never be chosen.
const LEAST_WEIGHT: u64 = 1000;

/// Which flags a relay gets besides Running, Valid, V2Dir, Fast and Stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Guard: the first hop.
    Guard,
    /// Neither: the second hop.
    Middle,
    /// Exit: the last hop.
    Exit,
}

/// A relay that has published a good descriptor.
#[derive(Debug, Clone)]
pub struct Known {
    /// SHA-1 of its RSA identity key.
    pub rsa: [u8; 20],
    /// Its Ed25519 identity.
    pub ed: [u8; 32],
    /// Its name.
    pub nickname: String,
    /// Its OR port.
    pub address: SocketAddrV4,
    /// Its OR port in IPv6.
    pub ipv6: Option<SocketAddr>,
    /// When it made the descriptor.
    pub published: SystemTime,
    /// Until when the descriptor's certificates hold.
    expires: Option<SystemTime>,
    /// Its subprotocols, as it wrote them.
    pub protocols: String,
    /// Its software.
    version: String,
    /// Bytes per second that it can carry by its own account.
    bandwidth: u64,
    /// Ports that it exits to, in the form of a `p` line.
    policy: String,
    /// Whether it serves directory requests.
    directory: bool,
    /// Whether it wants to keep descriptors of onion services.
    hsdir: bool,
    /// Whether its policy allows ports 80 and 443.
    exits: bool,
    /// Its microdescriptor.
    micro: Bytes,
    /// Its descriptor.
    server: Server,
}

impl Known {
    /// Its descriptor.
    pub(super) fn text(&self) -> &[u8] {
        &self.server.text
    }

    /// Whether it may be in a consensus made at `now`.
    pub(super) fn is_current(&self, now: SystemTime) -> bool {
        let young = now.duration_since(self.published).is_ok_and(|age| age < OLDEST) || self.published > now;
        young && self.expires.is_none_or(|expires| expires > now)
    }
}

/// Why an upload was refused. What C Tor also says, in its words.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No descriptor in it.
    #[error("No descriptors found in your POST.")]
    Nothing,
    /// Not text, or not a descriptor as we know it.
    #[error("Malformed descriptor: {0}")]
    Malformed(String),
    /// A signature or certificate does not hold.
    #[error("Router descriptor is not correctly signed.")]
    Signature,
    /// A certificate is not valid now.
    #[error("Router descriptor's certificates are not valid now.")]
    Certificates,
    /// Published too long ago, or in the future.
    #[error("Router descriptor was published too long ago or in the future.")]
    Time,
    /// No TAP key.
    #[error("Missing TAP key in descriptor.")]
    Tap,
    /// One of its identities is known with another one.
    #[error("Ed25519 identity key or RSA identity key has changed.")]
    Pinned,
}

/// Why there is no consensus.
#[derive(Debug, thiserror::Error)]
pub enum VoteError {
    /// A document could not be written.
    #[error("a document could not be encoded")]
    Encode(#[source] tor_bytes::EncodeError),
    /// The signing key does not sign.
    #[error("the signing key does not sign")]
    Sign,
    /// What was written is not a consensus.
    #[error("what was made is not a consensus")]
    Check(#[from] NotAConsensus),
    /// The count gave nothing.
    #[error("no consensus was made")]
    Empty,
}

/// The parameter that says whether descriptors must have a TAP key.
pub(super) const TAP_WANTED: &str = "publish-dummy-tap-key";

/// Reads an upload, a server descriptor and perhaps an extra-info document after it, and checks it.
pub(super) fn check_descriptor(body: &[u8], without_tap: bool, now: SystemTime) -> Result<Known, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::Malformed("not UTF-8".to_owned()))?;
    let text = whole_descriptor(text).ok_or(Refusal::Nothing)?;
    let unverified: RouterDescUnverified =
        parse_netdoc(&ParseInput::new(text, "<upload>")).map_err(|error| Refusal::Malformed(explain(&error)))?;
    let verified = unverified.verify().map_err(|_| Refusal::Signature)?;
    let (_, expires) = verified.bounds_start_end();
    // The lower bound is the publication time, for which authorities have a rule of their own.
    let desc = verified
        .extend_start_bound(NEWEST)
        .if_valid_at(&now)
        .map_err(|_| Refusal::Certificates)?;
    let published = desc.published();
    if published > now + NEWEST || published + OLDEST < now {
        return Err(Refusal::Time);
    }
    let tap = match object_of(text, "onion-key") {
        Some(tap) => tap,
        None if without_tap => "",
        None => return Err(Refusal::Tap),
    };
    let policies = desc
        .ipv4_policy
        .summarise_precise(&PortSummaryThresholds::DEFAULT, private_ranges());
    let mut known = Known {
        rsa: desc.rsa_identity().to_bytes(),
        ed: (*desc.ed_identity()).into(),
        nickname: desc.router.nickname.to_string(),
        address: SocketAddrV4::new(desc.router.address, desc.router.orport),
        ipv6: desc.or_address.iter().copied().find(SocketAddr::is_ipv6),
        published,
        expires,
        protocols: line_of(text, "proto").unwrap_or_default().to_owned(),
        version: version_of(line_of(text, "platform").unwrap_or_default()),
        bandwidth: bandwidth_of(line_of(text, "bandwidth").unwrap_or_default()),
        exits: policies.v4.allows_port(80) && policies.v4.allows_port(443),
        policy: policies.v4.to_string(),
        directory: desc.tunnelled_dir_server.is_some(),
        hsdir: desc.hidden_service_dir.is_some(),
        micro: Bytes::new(),
        server: Server::new(Bytes::from(text.to_owned())),
    };
    let ipv6_policy = line_of(text, "ipv6-policy").filter(|policy| *policy != "reject 1-65535");
    let ntor = desc.ntor_onion_key().as_bytes().to_vec();
    known.micro = microdescriptor(&known, tap, ntor, ipv6_policy, line_of(text, "family"))
        .map_err(|_| Refusal::Malformed("it makes no microdescriptor".to_owned()))?;
    Ok(known)
}

/// The text from the `router` item to the end of its last signature, without what C Tor sends after it: an empty line, an
/// extra-info document. Without a `proto` line authorities see no descriptor at all.
fn whole_descriptor(text: &str) -> Option<&str> {
    const END: &str = "\n-----END SIGNATURE-----\n";
    let signature = text.find("\nrouter-signature\n")?;
    let end = signature + text[signature..].find(END)? + END.len();
    let descriptor = &text[..end];
    (descriptor.starts_with("router ") && descriptor.contains("\nproto ")).then_some(descriptor)
}

/// An error with what caused it, in one line that fits a status line.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let all: Vec<String> = causes.map(ToString::to_string).collect();
    all.join(": ").replace(['\n', '\r'], " ")
}

/// The arguments of the first line with this keyword.
fn line_of<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '))
}

/// The object that follows the line that is just this keyword, with its BEGIN and END lines.
fn object_of<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let start = text.find(&format!("\n{keyword}\n-----BEGIN "))? + keyword.len() + 2;
    let rest = &text[start..];
    let end = rest.find("\n-----END ")? + 1;
    let length = end + rest[end..].find('\n')? + 1;
    Some(&rest[..length])
}

/// What a `v` line says of a platform: name and version. C Tor writes "Tor 0.4.9.11 on Linux".
fn version_of(platform: &str) -> String {
    platform.split(" on ").next().unwrap_or_default().to_owned()
}

/// The least of rate and observed bandwidth, in bytes a second.
fn bandwidth_of(line: &str) -> u64 {
    let numbers: Vec<u64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [rate, _, observed] => rate.min(observed),
        _ => 0,
    }
}

/// A relay's microdescriptor (*dir-spec*, "Computing microdescriptors").
fn microdescriptor(
    relay: &Known,
    tap: &str,
    ntor: Vec<u8>,
    ipv6_policy: Option<&str>,
    family: Option<&str>,
) -> Result<Bytes, tor_bytes::EncodeError> {
    let mut doc = NetdocEncoder::new();
    doc.item("onion-key");
    doc.push_raw_string(&tap);
    doc.item("ntor-onion-key").arg(&B64(ntor));
    if let Some(family) = family {
        doc.item("family").args_raw_string(&family);
    }
    if relay.policy != "reject 1-65535" {
        doc.item("p").args_raw_string(&relay.policy);
    }
    if let Some(policy) = ipv6_policy {
        doc.item("p6").args_raw_string(&policy);
    }
    doc.item("id").arg(&"ed25519").arg(&B64(relay.ed.to_vec()));
    Ok(Bytes::from(doc.finish()?))
}

/// A vote that is to be counted.
pub(super) struct Ballot<'a> {
    /// Times.
    pub(super) config: &'a AuthorityConfig,
    /// Where the authority is.
    pub(super) address: SocketAddrV4,
    /// What it signs with.
    pub(super) keys: &'a AuthorityKeys,
    /// Who is in the network, sorted by RSA identity.
    pub(super) relays: &'a [Arc<Known>],
    /// Flags by nickname.
    pub(super) roles: &'a HashMap<String, Role>,
    /// Consensus parameters.
    pub(super) params: &'a BTreeMap<String, i32>,
    /// The last consensus started then; this one must be later.
    pub(super) not_before: Option<SystemTime>,
}

/// The three times of a consensus.
struct Times {
    /// From when on it is valid.
    valid_after: SystemTime,
    /// Until when it is fresh.
    fresh_until: SystemTime,
    /// Until when it is valid.
    valid_until: SystemTime,
}

impl Ballot<'_> {
    /// All documents of the network at `now`, without certificates.
    pub(super) fn count(&self, now: SystemTime) -> Result<Documents, VoteError> {
        let times = self.times(now);
        let mut documents = Documents::default();
        let micro = Bytes::from(self.consensus(ConsensusFlavor::Microdesc, &times)?);
        let plain = Bytes::from(self.consensus(ConsensusFlavor::Plain, &times)?);
        documents.microdesc = Some(Consensus::read(ConsensusFlavor::Microdesc, micro)?);
        documents.plain = Some(Consensus::read(ConsensusFlavor::Plain, plain)?);
        for relay in self.relays {
            documents.add_microdescriptor(relay.micro.clone());
            documents.servers.insert(relay.rsa, relay.server.clone());
        }
        Ok(documents)
    }

    /// Whole seconds, and always later than the consensus before: that is how clients see that it is a new one.
    fn times(&self, now: SystemTime) -> Times {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut valid_after = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
        if let Some(before) = self.not_before {
            valid_after = valid_after.max(before + Duration::from_secs(1));
        }
        Times {
            valid_after,
            fresh_until: valid_after + self.config.interval,
            valid_until: valid_after + self.config.validity.max(self.config.interval * 2),
        }
    }

    /// The role of a relay.
    fn role(&self, relay: &Known) -> Role {
        let default = if relay.exits { Role::Exit } else { Role::Guard };
        self.roles.get(&relay.nickname).copied().unwrap_or(default)
    }

    /// The flags of a relay, in their order.
    fn flags(&self, relay: &Known) -> String {
        let role = self.role(relay);
        let flags = [
            ("Exit", role == Role::Exit),
            ("Fast", true),
            ("Guard", role == Role::Guard),
            ("HSDir", relay.hsdir && relay.directory),
            ("Running", true),
            ("Stable", true),
            ("V2Dir", relay.directory),
            ("Valid", true),
        ];
        let set: Vec<&str> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        set.join(" ")
    }

    /// One signed consensus.
    fn consensus(&self, flavor: ConsensusFlavor, times: &Times) -> Result<String, VoteError> {
        let micro = flavor == ConsensusFlavor::Microdesc;
        let mut doc = NetdocEncoder::new();
        if micro {
            doc.item("network-status-version").arg(&3).arg(&"microdesc");
        } else {
            doc.item("network-status-version").arg(&3);
        }
        self.preamble(&mut doc, times);
        for relay in self.relays {
            self.entry(&mut doc, relay, micro);
        }
        doc.item("directory-footer");
        doc.item("bandwidth-weights").args_raw_string(&self.weights());
        self.sign(doc, micro)
    }

    /// Everything before the relays.
    fn preamble(&self, doc: &mut NetdocEncoder, times: &Times) {
        doc.item("vote-status").arg(&"consensus");
        doc.item("consensus-method").arg(&METHOD);
        doc.item("valid-after").arg(&Iso8601TimeSp::from(times.valid_after));
        doc.item("fresh-until").arg(&Iso8601TimeSp::from(times.fresh_until));
        doc.item("valid-until").arg(&Iso8601TimeSp::from(times.valid_until));
        doc.item("voting-delay").arg(&20).arg(&20);
        // Nothing is recommended; but a C Tor relay without these lines ends with a failed assertion (0.4.9.11).
        doc.item("client-versions").args_raw_string(&"");
        doc.item("server-versions").args_raw_string(&"");
        doc.item("known-flags")
            .args_raw_string(&"Exit Fast Guard HSDir Running Stable V2Dir Valid");
        // As C Tor 0.4.9's: without congestion control a client is not up to date, and a relay not welcome.
        let client = "Cons=2 Desc=2 FlowCtrl=1 Link=4 Microdesc=2 Relay=2";
        let recent = "Cons=2 Desc=2 FlowCtrl=1-2 Link=4 Microdesc=2 Relay=2";
        let relay = "Cons=2 Desc=2 DirCache=2 FlowCtrl=1-2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2-4";
        doc.item("recommended-client-protocols").args_raw_string(&recent);
        doc.item("recommended-relay-protocols").args_raw_string(&relay);
        doc.item("required-client-protocols").args_raw_string(&client);
        doc.item("required-relay-protocols").args_raw_string(&relay);
        let params: Vec<String> = self
            .params
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !params.is_empty() {
            doc.item("params").args_raw_string(&params.join(" "));
        }
        let name = &self.config.nickname;
        let (ip, port) = (self.address.ip().to_string(), self.address.port());
        doc.item("dir-source")
            .arg(name)
            .arg(&hex::encode_upper(self.keys.v3_identity()))
            .arg(&ip)
            .arg(&ip)
            .arg(&port)
            .arg(&port);
        doc.item("contact").args_raw_string(&"none");
        // There is one vote, and it is this document: its digest so far stands for it.
        let digest = sha1::Sha1::digest(doc.text_sofar().unwrap_or_default());
        doc.item("vote-digest").arg(&hex::encode_upper(digest));
    }

    /// One relay.
    fn entry(&self, doc: &mut NetdocEncoder, relay: &Known, micro: bool) {
        let (ip, port) = (relay.address.ip().to_string(), relay.address.port());
        let identity = B64(relay.rsa.to_vec());
        if micro {
            let r = doc.item("r").arg(&relay.nickname).arg(&identity);
            let mut r = r;
            r.args_raw_string(&NO_TIME);
            r.arg(&ip).arg(&port).arg(&0);
        } else {
            doc.item("r")
                .arg(&relay.nickname)
                .arg(&identity)
                .arg(&B64(relay.server.digest.to_vec()))
                .arg(&Iso8601TimeSp::from(relay.published))
                .arg(&ip)
                .arg(&port)
                .arg(&0);
        }
        if let Some(ipv6) = relay.ipv6 {
            doc.item("a").arg(&ipv6.to_string());
        }
        if micro {
            let digest: [u8; 32] = sha2::Sha256::digest(&relay.micro).into();
            doc.item("m").arg(&B64(digest.to_vec()));
        }
        doc.item("s").args_raw_string(&self.flags(relay));
        if !relay.version.is_empty() {
            doc.item("v").args_raw_string(&relay.version);
        }
        doc.item("pr").args_raw_string(&relay.protocols);
        let weight = (relay.bandwidth / 1000).max(LEAST_WEIGHT);
        doc.item("w").arg(&format!("Bandwidth={weight}"));
        if !micro {
            doc.item("p").args_raw_string(&relay.policy);
        }
    }

    /// The weights of positions: guards and exits are kept for their own position as long as there is somebody else for
    /// the middle (*dir-spec*, "Computing bandwidth weights").
    fn weights(&self) -> String {
        let middles = self.relays.iter().any(|relay| self.role(relay) == Role::Middle);
        let other = if middles { 0 } else { 10_000 };
        format!(
            "Wbd=10000 Wbe=10000 Wbg=10000 Wbm=10000 Wdb=10000 Web=10000 Wed=10000 Wee=10000 Weg=10000 Wem=10000 Wgb=10000 \
             Wgd=0 Wgg=10000 Wgm=10000 Wmb=10000 Wmd=0 Wme={other} Wmg={other} Wmm=10000"
        )
    }

    /// Appends the signature.
    fn sign(&self, mut doc: NetdocEncoder, micro: bool) -> Result<String, VoteError> {
        let encode = |e: tor_bytes::EncodeError| VoteError::Encode(e);
        let signed = format!(
            "{}directory-signature ",
            doc.text_sofar().map_err(|e| encode(e.into()))?
        );
        let digest = if micro {
            sha2::Sha256::digest(&signed).to_vec()
        } else {
            sha1::Sha1::digest(&signed).to_vec()
        };
        let signature = self.keys.sign(&digest).ok_or(VoteError::Sign)?;
        let item = doc.item("directory-signature");
        let item = if micro { item.arg(&"sha256") } else { item };
        item.arg(&hex::encode_upper(self.keys.v3_identity()))
            .arg(&hex::encode_upper(self.keys.signing_id()))
            .object_bytes("SIGNATURE", signature);
        doc.finish().map_err(|e| encode(e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_ends_with_its_signature() {
        let descriptor =
            "router a\nproto Link=4\nrouter-signature\n-----BEGIN SIGNATURE-----\nx\n-----END SIGNATURE-----\n";
        let upload = format!("{descriptor}\nextra-info a\nrouter-signature\n");
        assert_eq!(whole_descriptor(&upload), Some(descriptor));
        assert_eq!(whole_descriptor("router a\n"), None);
        assert_eq!(whole_descriptor(&upload.replace("proto", "x-proto")), None);
    }

    #[test]
    fn what_is_no_descriptor_is_refused_with_a_reason_of_one_line() {
        let now = SystemTime::now();
        assert!(matches!(check_descriptor(b"", false, now), Err(Refusal::Nothing)));
        assert!(matches!(
            check_descriptor(&[0xff, 0xfe], false, now),
            Err(Refusal::Malformed(_))
        ));
        let broken = "router a\nproto x\nrouter-signature\n-----BEGIN SIGNATURE-----\nx\n-----END SIGNATURE-----\n";
        let refusal = check_descriptor(broken.as_bytes(), false, now).unwrap_err().to_string();
        assert!(
            refusal.starts_with("Malformed descriptor: ") && !refusal.contains('\n'),
            "{refusal}"
        );
    }

    #[test]
    fn lines_and_objects_are_found() {
        let text =
            "router a\nonion-key\n-----BEGIN RSA PUBLIC KEY-----\nAA\n-----END RSA PUBLIC KEY-----\nbandwidth 5 6 4\n";
        assert_eq!(
            object_of(text, "onion-key"),
            Some("-----BEGIN RSA PUBLIC KEY-----\nAA\n-----END RSA PUBLIC KEY-----\n")
        );
        assert_eq!(object_of(text, "signing-key"), None);
        assert_eq!(line_of(text, "bandwidth").map(bandwidth_of), Some(4));
        assert_eq!(bandwidth_of("x"), 0);
        assert_eq!(version_of("Tor 0.4.9.11 on Linux"), "Tor 0.4.9.11");
    }

    proptest::proptest! {
        #[test]
        fn no_upload_makes_it_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..500)) {
            let _ = check_descriptor(&body, true, SystemTime::now());
        }
    }
}
