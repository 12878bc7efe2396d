//! Fetching documents from the authorities over plain HTTP, and believing only what they signed.
//!
//! A consensus counts when more than half of the configured authorities signed it, with signing keys that their identity
//! keys certified. Everything else is believed because a consensus names its digest.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rand::seq::SliceRandom as _;
use sha2::Digest as _;
use tokio::net::TcpStream;
use tor_checkable::{ExternallySigned as _, TimeBound as _};
use tor_netdoc::doc::authcert::{AuthCert, AuthCertKeyIds};
use tor_netdoc::doc::microdesc::MicrodescAndHash;
use tor_netdoc::doc::netstatus::{ConsensusFlavor, MdConsensus, PlainConsensus, RelayWeight};
use tor_netdoc::types::relay_flags::RelayFlag;
use tracing::debug;

use super::documents::{Certificate, Consensus, Documents, NotAConsensus, RsaId, Server};
use super::http::{HttpError, Limits, Method, Request, Response, exchange, format_date};
use super::view::{RelayInfo, Snapshot};

/// What an authority may send.
const LIMITS: Limits = Limits {
    head: 16 * 1024,
    body: 16 * 1024 * 1024,
    patience: Duration::from_secs(30),
};

/// How long one authority may make us wait before another is asked as well.
const BESIDE: Duration = Duration::from_secs(5);

/// Documents asked for in one request, as C Tor does.
const BATCH: usize = 90;

/// How a difference between two consensuses begins.
const DIFFERENCE: &[u8] = b"network-status-diff-version ";

/// How far our clock may lag behind the authorities'.
const EARLY: Duration = Duration::from_secs(600);

/// How long after its end a consensus is better than none.
const LATE: Duration = Duration::from_secs(24 * 3600);

/// A directory authority, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// A name for messages.
    pub name: String,
    /// Where it speaks plain HTTP.
    pub address: SocketAddr,
    /// SHA-1 of its v3 identity key.
    pub v3_identity: RsaId,
}

/// Why nothing new was learned.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is nobody to ask.
    #[error("no directory authority is configured")]
    NoAuthority,
    /// No connection, or one that failed.
    #[error("{authority} cannot be reached")]
    Connect {
        /// Whom we asked.
        authority: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The exchange failed.
    #[error("{authority} does not answer as it should")]
    Http {
        /// Whom we asked.
        authority: String,
        /// What went wrong.
        #[source]
        source: HttpError,
    },
    /// It has no such document, or is busy.
    #[error("{authority} answers {status} {reason} to {path}")]
    Status {
        /// Whom we asked.
        authority: String,
        /// The HTTP status.
        status: u16,
        /// The words after it.
        reason: String,
        /// What we asked for.
        path: String,
    },
    /// What it sent is not to be believed.
    #[error("{authority} sent a consensus that we do not believe")]
    Consensus {
        /// Whom we asked.
        authority: String,
        /// Why.
        #[source]
        source: Disbelief,
    },
}

/// Why a consensus is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Disbelief {
    /// It does not parse.
    #[error(transparent)]
    Parse(#[from] NotAConsensus),
    /// It came as a difference, which does not lead from the one that we have to another.
    #[error("a difference that cannot be applied")]
    Difference(#[from] tor_consdiff::Error),
    /// Too few of our authorities signed it, or a signature is wrong.
    #[error("not signed by more than half of our authorities")]
    Signature,
    /// Too old, or from the future.
    #[error("not valid at this time")]
    Time(#[from] tor_checkable::TimeValidityError),
    /// We have a newer one.
    #[error("older than the one that we have")]
    Older,
}

/// What a consensus lists, apart from its text.
enum Listed {
    /// Digests of microdescriptors, with what the relays' view needs.
    Micro(Box<MdConsensus>),
    /// Digests of server descriptors.
    Servers(HashSet<[u8; 20]>),
}

/// Fetches from one authority with a connection for each request.
pub(crate) async fn request(authority: &Authority, request: &Request) -> Result<Response, FetchError> {
    let name = || authority.name.clone();
    let connecting = tokio::time::timeout(LIMITS.patience, TcpStream::connect(authority.address));
    let mut stream = connecting
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|source| FetchError::Connect {
            authority: name(),
            source,
        })?;
    exchange(&mut stream, &authority.address.to_string(), request, &LIMITS)
        .await
        .map_err(|source| FetchError::Http {
            authority: name(),
            source,
        })
}

/// A GET that must succeed.
async fn get(authority: &Authority, path: String) -> Result<Bytes, FetchError> {
    let response = request(authority, &Request::get(path.clone())).await?;
    match response.status {
        200 => Ok(Bytes::from(response.concat())),
        status => Err(FetchError::Status {
            authority: authority.name.clone(),
            status,
            reason: response.reason,
            path,
        }),
    }
}

/// What there is after asking the authorities, in an order that differs each time, until one gave a consensus we believe.
/// One that fails is followed by the next at once, and one that makes us wait by the next beside it.
pub(crate) async fn refresh(
    authorities: &[Authority],
    held: &Documents,
    now: SystemTime,
) -> Result<(Documents, Snapshot), FetchError> {
    let mut order: Vec<&Authority> = authorities.iter().collect();
    order.shuffle(&mut rand::rng());
    let mut next = order.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut error = FetchError::NoAuthority;
    loop {
        match next.next() {
            Some(authority) => asked.push(refresh_from(authority, authorities, held.clone(), now)),
            None if asked.is_empty() => return Err(error),
            None => {}
        }
        let patience = if next.len() == 0 { Duration::MAX } else { BESIDE };
        match tokio::time::timeout(patience, asked.next()).await {
            Ok(Some(Ok(fetched))) => return Ok(fetched),
            Ok(Some(Err(e))) => {
                debug!(error = %e, "an authority was of no use");
                error = e;
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Everything anew from one authority.
async fn refresh_from(
    authority: &Authority,
    authorities: &[Authority],
    mut held: Documents,
    now: SystemTime,
) -> Result<(Documents, Snapshot), FetchError> {
    let listed = consensus(authority, authorities, &mut held, ConsensusFlavor::Microdesc, now).await?;
    let Listed::Micro(micro) = listed else {
        return Err(FetchError::NoAuthority);
    };
    microdescriptors(authority, &micro, &mut held).await?;
    // Relays and old clients ask for the other flavour and what belongs to it. We do without if we must.
    match consensus(authority, authorities, &mut held, ConsensusFlavor::Plain, now).await {
        Ok(Listed::Servers(digests)) => {
            if let Err(error) = servers(authority, digests, &mut held).await {
                debug!(%error, "no server descriptors");
            }
        }
        Ok(Listed::Micro(_)) => {}
        Err(error) => debug!(%error, "no plain consensus"),
    }
    let snapshot = snapshot(&micro, &held);
    Ok((held.with_limits(&snapshot), snapshot))
}

/// A consensus as it came.
enum Answer {
    /// The one that we have is the newest.
    Same,
    /// All of it.
    Whole(Bytes),
    /// What is different in it (*dir-spec*, "Consensus diffs").
    Difference(Bytes),
}

/// Fetches a consensus of some flavour, with the certificates that it needs, and stores both. Answered with "not
/// modified", it reads the stored one again. Of one that is not old the difference is asked for, and if that is of no use
/// the whole document.
async fn consensus(
    authority: &Authority,
    authorities: &[Authority],
    held: &mut Documents,
    flavor: ConsensusFlavor,
    now: SystemTime,
) -> Result<Listed, FetchError> {
    let disbelieve = |source: Disbelief| FetchError::Consensus {
        authority: authority.name.clone(),
        source,
    };
    let have = held.consensus(flavor).cloned();
    let recent = |have: &&Consensus| {
        let age = now.duration_since(have.valid_after).unwrap_or_default();
        age <= held.diff_ages.asked
    };
    let base = have.as_ref().filter(recent);
    let text = match ask_consensus(authority, authorities, have.as_ref(), base, flavor).await? {
        Answer::Same => have.as_ref().map(|have| have.text.clone()).unwrap_or_default(),
        Answer::Whole(text) => text,
        Answer::Difference(difference) => {
            let outcome = match base.map(|base| apply(base, &difference)) {
                Some(Ok(text)) => believe(authority, authorities, held, flavor, text, now).await,
                Some(Err(error)) => Err(error),
                None => Err(Disbelief::Parse(NotAConsensus::Unasked)),
            };
            match outcome {
                Ok(listed) => return Ok(listed),
                Err(error) => {
                    debug!(authority = authority.name, %error, "a difference of no use: asking for the whole")
                }
            }
            match ask_consensus(authority, authorities, have.as_ref(), None, flavor).await? {
                Answer::Same => have.as_ref().map(|have| have.text.clone()).unwrap_or_default(),
                Answer::Whole(text) | Answer::Difference(text) => text,
            }
        }
    };
    believe(authority, authorities, held, flavor, text, now)
        .await
        .map_err(disbelieve)
}

/// Asks for a consensus that is newer than what we have, or for the difference to it from `base`.
async fn ask_consensus(
    authority: &Authority,
    authorities: &[Authority],
    have: Option<&Consensus>,
    base: Option<&Consensus>,
    flavor: ConsensusFlavor,
) -> Result<Answer, FetchError> {
    let names: Vec<String> = authorities.iter().map(|a| hex::encode_upper(a.v3_identity)).collect();
    let flavored = if flavor == ConsensusFlavor::Microdesc {
        "-microdesc"
    } else {
        ""
    };
    let path = format!("/tor/status-vote/current/consensus{flavored}/{}", names.join("+"));
    let mut ask = Request::get(path.clone());
    if let Some(have) = have {
        ask.headers.push("If-Modified-Since", format_date(have.valid_after));
    }
    if let Some(base) = base {
        ask.headers
            .push("X-Or-Diff-From-Consensus", hex::encode_upper(base.digest));
    }
    let response = request(authority, &ask).await?;
    match response.status {
        200 => {
            let text = Bytes::from(response.concat());
            Ok(if text.starts_with(DIFFERENCE) {
                Answer::Difference(text)
            } else {
                Answer::Whole(text)
            })
        }
        304 if have.is_some() => Ok(Answer::Same),
        status => Err(FetchError::Status {
            authority: authority.name.clone(),
            status,
            reason: response.reason,
            path,
        }),
    }
}

/// The consensus that a difference leads to from `base`. That it is what the difference promises is checked here, and that it
/// is signed later.
fn apply(base: &Consensus, difference: &[u8]) -> Result<Bytes, Disbelief> {
    let utf8 = |bytes| std::str::from_utf8(bytes).map_err(NotAConsensus::from);
    let strictness = tor_consdiff::DiffSizeStrictness::Apply;
    let result = tor_consdiff::apply_diff(utf8(&base.text)?, utf8(difference)?, Some(base.digest), strictness)?;
    result.check_digest()?;
    Ok(Bytes::from(result.to_string()))
}

/// Stores a consensus if it is to be believed, after the certificates that it needs.
async fn believe(
    authority: &Authority,
    authorities: &[Authority],
    held: &mut Documents,
    flavor: ConsensusFlavor,
    text: Bytes,
    now: SystemTime,
) -> Result<Listed, Disbelief> {
    let document = Consensus::read(flavor, text)?;
    if held
        .consensus(flavor)
        .is_some_and(|have| document.valid_after < have.valid_after)
    {
        return Err(Disbelief::Older);
    }
    let wanted = missing_certificates(flavor, &document, authorities, held);
    certificates(authority, wanted, held, now).await;
    let trusted = trusted(held, authorities, now);
    let listed = verify(flavor, &document, authorities.len(), &trusted, now)?;
    match flavor {
        ConsensusFlavor::Microdesc => held.microdesc = Some(document),
        _ => held.plain = Some(document),
    }
    Ok(listed)
}

/// Documents that were kept, checked as if they had just been sent: `texts` are the consensus of flavour `microdesc`, which must
/// be there, and of flavour `ns`.
pub(crate) fn restore(
    mut documents: Documents,
    [micro, plain]: [Bytes; 2],
    microdescriptors: &Bytes,
    servers: &Bytes,
    authorities: &[Authority],
    now: SystemTime,
) -> Result<(Documents, Snapshot), Disbelief> {
    let trusted = trusted(&documents, authorities, now);
    let verified = |flavor, text| -> Result<(Consensus, Listed), Disbelief> {
        let document = Consensus::read(flavor, text)?;
        let listed = verify(flavor, &document, authorities.len(), &trusted, now)?;
        Ok((document, listed))
    };
    let (document, listed) = verified(ConsensusFlavor::Microdesc, micro)?;
    let Listed::Micro(consensus) = listed else {
        return Err(Disbelief::Signature);
    };
    documents.microdesc = Some(document);
    let wanted: HashSet<[u8; 32]> = consensus.relays().iter().map(|relay| *relay.md_digest()).collect();
    for text in split_before(microdescriptors, b"onion-key") {
        let digest: [u8; 32] = sha2::Sha256::digest(&text).into();
        if wanted.contains(&digest) {
            documents.microdescriptors.insert(digest, text);
        }
    }
    if let Ok((document, Listed::Servers(wanted))) = verified(ConsensusFlavor::Plain, plain) {
        documents.plain = Some(document);
        for text in split_before(servers, b"router ") {
            let server = Server::new(text);
            if let (true, Some(id)) = (wanted.contains(&server.digest), fingerprint(&server.text)) {
                documents.servers.insert(id, server);
            }
        }
    }
    let snapshot = snapshot(&consensus, &documents);
    Ok((documents.with_limits(&snapshot), snapshot))
}

/// The certificates of our authorities that are valid now.
fn trusted(held: &Documents, authorities: &[Authority], now: SystemTime) -> Vec<AuthCert> {
    held.certificates
        .iter()
        .filter(|c| authorities.iter().any(|a| a.v3_identity == c.identity) && c.expires > now)
        .map(|c| c.parsed.clone())
        .collect()
}

/// Which certificates of our own authorities a consensus needs and we lack.
fn missing_certificates(
    flavor: ConsensusFlavor,
    document: &Consensus,
    authorities: &[Authority],
    held: &Documents,
) -> Vec<AuthCertKeyIds> {
    let Ok(text) = std::str::from_utf8(&document.text) else {
        return Vec::new();
    };
    let ids: Vec<AuthCertKeyIds> = match flavor {
        ConsensusFlavor::Microdesc => MdConsensus::parse(text)
            .map(|(_, _, c)| c.dangerously_assume_timely().signing_cert_ids().collect())
            .unwrap_or_default(),
        _ => PlainConsensus::parse(text)
            .map(|(_, _, c)| c.dangerously_assume_timely().signing_cert_ids().collect())
            .unwrap_or_default(),
    };
    ids.into_iter()
        .filter(|ids| {
            authorities
                .iter()
                .any(|a| a.v3_identity == ids.id_fingerprint.to_bytes())
        })
        .filter(|ids| {
            let key = (ids.id_fingerprint.to_bytes(), ids.sk_fingerprint.to_bytes());
            !held.certificates.iter().any(|c| (c.identity, c.signing_key) == key)
        })
        .collect()
}

/// Fetches certificates and keeps those that are what was asked for. Without them the signatures will not verify.
async fn certificates(authority: &Authority, wanted: Vec<AuthCertKeyIds>, held: &mut Documents, now: SystemTime) {
    for ids in wanted {
        let path = format!(
            "/tor/keys/fp-sk/{}-{}",
            ids.id_fingerprint.as_hex_upper(),
            ids.sk_fingerprint.as_hex_upper()
        );
        match get(authority, path).await {
            Ok(text) => match Certificate::read(text, now) {
                Some(certificate) if certificate.parsed.key_ids() == ids => held.add_certificate(certificate),
                _ => debug!(authority = authority.name, "a certificate that is none, or another one"),
            },
            Err(error) => debug!(%error, "no certificate"),
        }
    }
}

/// Checks a consensus: its time, and signatures of more than half of the `n` authorities by `certificates`.
fn verify(
    flavor: ConsensusFlavor,
    document: &Consensus,
    n: usize,
    certificates: &[AuthCert],
    now: SystemTime,
) -> Result<Listed, Disbelief> {
    let text = std::str::from_utf8(&document.text).map_err(NotAConsensus::from)?;
    match flavor {
        ConsensusFlavor::Microdesc => {
            let (_, _, unchecked) = MdConsensus::parse(text).map_err(NotAConsensus::from)?;
            let timely = unchecked
                .extend_start_bound(EARLY)
                .extend_end_bound(LATE)
                .if_valid_at(&now)?;
            let unsigned = timely.set_n_authorities(n);
            unsigned
                .key_is_correct(certificates)
                .map_err(|_| Disbelief::Signature)?;
            let consensus = unsigned
                .check_signature(certificates)
                .map_err(|_| Disbelief::Signature)?;
            Ok(Listed::Micro(Box::new(consensus)))
        }
        _ => {
            let (_, _, unchecked) = PlainConsensus::parse(text).map_err(NotAConsensus::from)?;
            let timely = unchecked
                .extend_start_bound(EARLY)
                .extend_end_bound(LATE)
                .if_valid_at(&now)?;
            let unsigned = timely.set_n_authorities(n);
            unsigned
                .key_is_correct(certificates)
                .map_err(|_| Disbelief::Signature)?;
            let consensus = unsigned
                .check_signature(certificates)
                .map_err(|_| Disbelief::Signature)?;
            Ok(Listed::Servers(
                consensus.relays().iter().map(|relay| *relay.rd_digest()).collect(),
            ))
        }
    }
}

/// Brings the stock of microdescriptors to what the consensus lists.
async fn microdescriptors(authority: &Authority, listed: &MdConsensus, held: &mut Documents) -> Result<(), FetchError> {
    let wanted: HashSet<[u8; 32]> = listed.relays().iter().map(|relay| *relay.md_digest()).collect();
    held.microdescriptors.retain(|digest, _| wanted.contains(digest));
    let missing: Vec<[u8; 32]> = wanted
        .into_iter()
        .filter(|digest| !held.microdescriptors.contains_key(digest))
        .collect();
    for batch in missing.chunks(BATCH) {
        let names: Vec<String> = batch.iter().map(|digest| STANDARD_NO_PAD.encode(digest)).collect();
        let text = get(authority, format!("/tor/micro/d/{}", names.join("-"))).await?;
        for document in split_before(&text, b"onion-key") {
            let digest: [u8; 32] = sha2::Sha256::digest(&document).into();
            if batch.contains(&digest) {
                held.microdescriptors.insert(digest, document);
            }
        }
    }
    Ok(())
}

/// Brings the stock of server descriptors to what the consensus lists; our own stays.
async fn servers(authority: &Authority, wanted: HashSet<[u8; 20]>, held: &mut Documents) -> Result<(), FetchError> {
    let own = held.own;
    held.servers
        .retain(|id, server| Some(*id) == own || wanted.contains(&server.digest));
    let here: HashSet<[u8; 20]> = held.servers.values().map(|server| server.digest).collect();
    let missing: Vec<[u8; 20]> = wanted.difference(&here).copied().collect();
    for batch in missing.chunks(BATCH) {
        let names: Vec<String> = batch.iter().map(hex::encode_upper).collect();
        let text = get(authority, format!("/tor/server/d/{}", names.join("+"))).await?;
        for document in split_before(&text, b"router ") {
            let server = Server::new(document);
            if let (true, Some(id)) = (batch.contains(&server.digest), fingerprint(&server.text)) {
                held.servers.insert(id, server);
            }
        }
    }
    Ok(())
}

/// The RSA identity that a server descriptor belongs to, from its `fingerprint` line.
pub(crate) fn fingerprint(descriptor: &[u8]) -> Option<RsaId> {
    let text = std::str::from_utf8(descriptor).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("fingerprint "))?;
    hex::decode(line.replace(' ', "")).ok()?.try_into().ok()
}

/// Cuts a text of several documents before each line that starts with `keyword`.
pub(super) fn split_before(text: &Bytes, keyword: &[u8]) -> Vec<Bytes> {
    let starts: Vec<usize> = (0..text.len())
        .filter(|at| text[*at..].starts_with(keyword) && (*at == 0 || text[*at - 1] == b'\n'))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| text.slice(*start..end))
        .collect()
}

/// The relays' view of a consensus and its microdescriptors.
fn snapshot(consensus: &MdConsensus, held: &Documents) -> Snapshot {
    let params: HashMap<String, i32> = consensus
        .params()
        .iter()
        .map(|(name, value)| (name.clone(), *value))
        .collect();
    let relays = consensus.relays().iter().map(|relay| {
        let text = held
            .microdescriptors
            .get(relay.md_digest())
            .and_then(|text| std::str::from_utf8(text).ok());
        let micro = text.and_then(|text| MicrodescAndHash::parse(text).ok());
        RelayInfo {
            rsa: relay.rsa_identity().to_bytes(),
            ed: micro.as_ref().map(|micro| (*micro.ed25519_id()).into()),
            ntor: micro.as_ref().map(|micro| *micro.ntor_key().as_bytes()),
            nickname: relay.nickname().to_owned(),
            addresses: relay.addrs().collect(),
            obol: relay.protovers().supports_subver("Obol", 1),
            exit: relay.is_flagged_exit(),
            guard: relay.is_flagged_guard(),
            stale: relay.flags().contains(RelayFlag::StaleDesc),
            weight: match relay.weight() {
                RelayWeight::Measured(weight) | RelayWeight::Unmeasured(weight) => *weight,
                _ => 0,
            },
            families: micro.map_or_else(Vec::new, |micro| micro.family_ids().to_vec()),
        }
    });
    let lifetime = consensus.lifetime();
    let interval = lifetime.fresh_until().duration_since(lifetime.valid_after()).ok();
    Snapshot::new(Some(lifetime.valid_after()), params, relays).every(interval)
}

/// What an authority said to an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upload {
    /// It took the descriptor.
    Accepted,
    /// It kept the one it had: the same, one that differs too little, or ours is out of date. Worth a line in the log: C Tor
    /// says 200 here too.
    NotNew,
    /// It refused, with this reason.
    Refused(String),
}

/// Hands a descriptor, or one with its extra-info document after it, to an authority (POST to `/tor/`).
pub async fn upload(authority: &Authority, documents: &str) -> Result<Upload, FetchError> {
    let mut post = Request::get("/tor/");
    post.method = Method::Post;
    post.body = documents.as_bytes().to_vec();
    let response = request(authority, &post).await?;
    let not_new = response
        .headers
        .get("X-Descriptor-Not-New")
        .is_some_and(|value| value.eq_ignore_ascii_case("yes"));
    match response.status {
        200 if not_new => Ok(Upload::NotNew),
        200 => Ok(Upload::Accepted),
        400 => Ok(Upload::Refused(response.reason)),
        status => Err(FetchError::Status {
            authority: authority.name.clone(),
            status,
            reason: response.reason,
            path: "/tor/".to_owned(),
        }),
    }
}

/// The server descriptor of a relay that an authority would give to others.
pub(crate) async fn held_of(authority: &Authority, relay: RsaId) -> Result<Bytes, FetchError> {
    get(authority, format!("/tor/server/fp/{}", hex::encode_upper(relay))).await
}

/// The documents, shared.
pub(crate) type Shared = Arc<Documents>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_before_each_document() {
        let text = Bytes::from_static(b"onion-key\na\nntor-onion-key b\nonion-key\nc\n");
        let parts = split_before(&text, b"onion-key");
        assert_eq!(
            parts,
            [&b"onion-key\na\nntor-onion-key b\n"[..], &b"onion-key\nc\n"[..]]
        );
        assert!(split_before(&Bytes::from_static(b"nothing"), b"onion-key").is_empty());
    }

    #[test]
    fn a_descriptor_belongs_to_the_fingerprint_that_it_names() {
        let text = "router a\nfingerprint 0101 0101 0101 0101 0101 0101 0101 0101 0101 0101\n";
        assert_eq!(fingerprint(text.as_bytes()), Some([1; 20]));
        assert_eq!(fingerprint(b"router a\nfingerprint 01\n"), None);
    }
}
