//! The authority's documents, and what relays believe of them.

#![allow(clippy::unwrap_used)]

mod network;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use network::{Network, description, keys, policy};
use obol_relay::descriptor;
use obol_relay::directory::answer::answer;
use obol_relay::directory::http::{Request, format_date};
use obol_relay::directory::{self, Directory, Disbelief, FetchError, Occasion, Upload, upload};
use obol_relay::keys::OnionLifetime;
use obol_testnet::authority::{Authority, AuthorityConfig, Role};
use obol_testnet::ctor::free_port;
use tor_checkable::{ExternallySigned as _, TimeBound as _};
use tor_netdoc::doc::microdesc::MicrodescAndHash;
use tor_netdoc::doc::netstatus::{MdConsensus, PlainConsensus};

/// An authority that lists relays whether they answer or not.
async fn credulous() -> Authority {
    let config = AuthorityConfig {
        probe: false,
        ..AuthorityConfig::default()
    };
    Authority::start(config).await.unwrap()
}

/// A new relay's descriptor.
async fn new_descriptor(nickname: &str, exit: bool) -> String {
    let (keys, _files) = keys().await;
    // Nobody listens there.
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let about = description(nickname, address, policy(exit));
    descriptor::build(&keys, OnionLifetime::default(), &about, SystemTime::now())
        .unwrap()
        .descriptor
}

/// The flags of each relay, by nickname, in the newest consensus.
fn flags(authority: &Authority) -> BTreeSet<(String, String)> {
    let documents = authority.documents();
    let text = String::from_utf8(documents.microdesc.as_ref().unwrap().text.to_vec()).unwrap();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("r "))
        .map(|r| r.split(' ').next().unwrap().to_owned());
    let flags = text
        .lines()
        .filter_map(|line| line.strip_prefix("s "))
        .map(str::to_owned);
    names.zip(flags).collect()
}

#[tokio::test]
async fn both_consensus_flavours_verify_against_the_authoritys_certificate_and_name_their_documents() {
    let authority = credulous().await;
    for nickname in ["a", "b", "c"] {
        let text = new_descriptor(nickname, nickname == "c").await;
        assert_eq!(upload(&authority.entry(), &text).await.unwrap(), Upload::Accepted);
    }
    authority.publish_now().await.unwrap();
    let documents = authority.documents();
    let certificates = [documents.certificates[0].parsed.clone()];
    let now = SystemTime::now();

    let text = String::from_utf8(documents.microdesc.as_ref().unwrap().text.to_vec()).unwrap();
    let (_, _, unchecked) = MdConsensus::parse(&text).unwrap();
    let unsigned = unchecked.if_valid_at(&now).unwrap().set_n_authorities(1);
    let micro = unsigned.check_signature(&certificates).unwrap();
    assert_eq!(micro.relays().len(), 3);
    for relay in micro.relays() {
        let document = &documents.microdescriptors[relay.md_digest()];
        let parsed = MicrodescAndHash::parse(std::str::from_utf8(document).unwrap()).unwrap();
        assert_eq!(parsed.digest(), relay.md_digest());
        assert_eq!(parsed.ipv4_policy().allows_some_port(), relay.nickname() == "c");
        assert!(relay.protovers().supports_subver("Obol", 1));
    }

    let text = String::from_utf8(documents.plain.as_ref().unwrap().text.to_vec()).unwrap();
    let (_, _, unchecked) = PlainConsensus::parse(&text).unwrap();
    let unsigned = unchecked.if_valid_at(&now).unwrap().set_n_authorities(1);
    let plain = unsigned.check_signature(&certificates).unwrap();
    for relay in plain.relays() {
        assert_eq!(
            &documents.servers[&relay.rsa_identity().to_bytes()].digest,
            relay.rd_digest()
        );
    }
}

#[tokio::test]
async fn a_relay_believes_no_consensus_of_an_authority_that_it_does_not_know() {
    let network = Network::start(1).await;
    let mut stranger = network.authority.entry();
    stranger.v3_identity = [0x77; 20];
    let directory = Directory::start(vec![stranger]);
    // This authority does not serve a consensus that others must have signed.
    assert!(matches!(
        directory.refresh().await,
        Err(FetchError::Status { status: 404, .. })
    ));

    // Asked for one signature of three it does not either; and of two, one is not more than half.
    let mut second = network.authority.entry();
    second.v3_identity = [0x66; 20];
    let directory = Directory::start(vec![network.authority.entry(), second]);
    let refused = directory.refresh().await.unwrap_err();
    assert!(
        matches!(
            refused,
            FetchError::Status { status: 404, .. }
                | FetchError::Consensus {
                    source: Disbelief::Signature,
                    ..
                }
        ),
        "{refused}"
    );
    assert!(directory.view().snapshot().relays().is_empty());
}

#[tokio::test]
async fn a_forged_consensus_is_not_believed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let network = Network::start(1).await;
    let genuine = network.authority.documents();
    let certificate = genuine.certificates[0].text.clone();
    let text = String::from_utf8(genuine.microdesc.as_ref().unwrap().text.to_vec()).unwrap();
    let forged = text.replace("s Fast Guard", "s Exit Fast Guard");
    assert_ne!(text, forged);
    // Somebody in the middle, who answers with the right certificate and the forged consensus.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut entry = network.authority.entry();
    entry.address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).await.unwrap();
            let keys = request[..n].starts_with(b"GET /tor/keys/");
            let body = if keys {
                certificate.to_vec()
            } else {
                forged.clone().into_bytes()
            };
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    });
    let directory = Directory::start(vec![entry]);
    let refused = directory.refresh().await.unwrap_err();
    assert!(
        matches!(
            refused,
            FetchError::Consensus {
                source: Disbelief::Signature,
                ..
            }
        ),
        "{refused}"
    );
    assert!(directory.view().snapshot().relays().is_empty());
}

#[tokio::test]
async fn relays_get_the_flags_of_their_roles_and_a_relay_that_does_not_answer_is_not_listed() {
    let authority = Authority::start(AuthorityConfig::default()).await.unwrap();
    let gone = new_descriptor("gone", false).await;
    upload(&authority.entry(), &gone).await.unwrap();
    let middle = network::Node::start("middle", false, &authority).await;
    let _exit = network::Node::start("exit", true, &authority).await;
    let _guard = network::Node::start("guard", false, &authority).await;
    authority.assign("middle", Role::Middle);
    let published = authority.publish_now().await.unwrap();
    assert_eq!(published.relays, 3);
    let expected = [
        ("exit", "Exit Fast HSDir Running Stable V2Dir Valid"),
        ("guard", "Fast Guard HSDir Running Stable V2Dir Valid"),
        ("middle", "Fast HSDir Running Stable V2Dir Valid"),
    ];
    assert_eq!(
        flags(&authority),
        expected.map(|(name, flags)| (name.to_owned(), flags.to_owned())).into()
    );

    // A later consensus is a newer one, even within the same second, and relays see it.
    authority.assign("middle", Role::Guard);
    let again = authority.publish_now().await.unwrap();
    assert!(again.valid_after > published.valid_after);
    middle.directory.refresh().await.unwrap();
    let view = middle.directory.view();
    assert!(view.by_rsa(&middle.keys.fingerprint()).unwrap().guard);
    assert_eq!(
        view.by_ed(&middle.keys.ed25519()).unwrap().ntor,
        Some(middle.keys.current().ntor_public())
    );
    assert_eq!(view.param("bwauthpid"), Some(1));
}

/// A relay's directory with these authorities, which publishes, and the outcome.
async fn publisher(authorities: Vec<directory::Authority>) -> (Directory, tempfile::TempDir) {
    let (keys, files) = keys().await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let about = description("a", address, policy(false));
    let make = move |occasion: Occasion| descriptor::build(&keys, OnionLifetime::default(), &about, occasion.now);
    let directory = Directory::start(authorities);
    directory.publish_with(Arc::new(make)).await.unwrap();
    (directory, files)
}

#[tokio::test]
async fn an_authority_that_does_not_answer_holds_up_no_other() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = credulous().await;
    let mut dead = authority.entry();
    dead.name = "silent".to_owned();
    dead.address = silent.local_addr().unwrap();
    dead.v3_identity = [0x55; 20];
    let (directory, _files) = publisher(vec![dead, authority.entry()]).await;
    assert_eq!(authority.known().len(), 1);
    let standings = directory.standings().borrow().clone();
    assert!(standings[1].has_it);
    // It is still being waited for.
    assert!(!standings[0].has_it && standings[0].problem.is_none(), "{standings:?}");
}

#[tokio::test]
async fn an_authority_that_was_away_gets_the_descriptor_when_it_is_back() {
    let authority = credulous().await;
    let mut away = authority.entry();
    away.name = "away".to_owned();
    away.address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let listen = away.address;
    let (directory, _files) = publisher(vec![away, authority.entry()]).await;
    let mut standings = directory.standings();
    let refused = standings.wait_for(|standings| standings[0].problem.is_some()).await;
    assert!(refused.unwrap()[1].has_it);

    let back = AuthorityConfig {
        listen,
        probe: false,
        ..AuthorityConfig::default()
    };
    let back = Authority::start(back).await.unwrap();
    let all = standings.wait_for(|standings| standings.iter().all(|standing| standing.has_it));
    tokio::time::timeout(network::PATIENCE, all).await.unwrap().unwrap();
    assert_eq!(back.known().len(), 1);
}

#[tokio::test]
async fn an_upload_counts_once_and_a_forged_one_is_refused_with_its_reason() {
    let authority = credulous().await;
    let entry = authority.entry();
    let text = new_descriptor("a", false).await;
    assert_eq!(upload(&entry, &text).await.unwrap(), Upload::Accepted);
    assert_eq!(upload(&entry, &text).await.unwrap(), Upload::NotNew);
    let forged = text.replace("bandwidth 10000000", "bandwidth 90000000");
    let refusal = upload(&entry, &forged).await.unwrap();
    assert_eq!(
        refusal,
        Upload::Refused("Router descriptor is not correctly signed.".to_owned())
    );
    assert_eq!(authority.known().len(), 1);
}

#[tokio::test]
async fn a_consensus_is_served_to_those_who_lack_it_and_believe_its_signers() {
    let authority = credulous().await;
    upload(&authority.entry(), &new_descriptor("a", false).await)
        .await
        .unwrap();
    authority.publish_now().await.unwrap();
    let documents = authority.documents();
    let consensus = documents.microdesc.as_ref().unwrap();
    let now = SystemTime::now();
    let ask = |path: &str, header: Option<(&str, String)>| {
        let mut request = Request::get(format!("/tor/status-vote/current/consensus-microdesc{path}"));
        if let Some((name, value)) = header {
            request.headers.push(name, value);
        }
        answer(&documents, &request, now)
    };
    let whole = ask("", None);
    assert_eq!((whole.status, whole.concat()), (200, consensus.text.to_vec()));
    assert_eq!(
        whole.headers.get("Expires"),
        Some(format_date(consensus.fresh_until).as_str())
    );
    assert!(ask(".z", None).len() < whole.len());

    // Signers, by prefix or in full: more than half of them must have signed.
    let ours = hex::encode_upper(authority.v3_identity());
    assert_eq!(ask(&format!("/{ours}"), None).status, 200);
    assert_eq!(ask(&format!("/{}", &ours[..6]), None).status, 200);
    assert_eq!(ask(&format!("/{ours}+{}", "00".repeat(20)), None).status, 404);

    // Those who have it are told so; those who have another one and ask for the difference get the whole.
    let since = format_date(consensus.valid_after);
    assert_eq!(ask("", Some(("If-Modified-Since", since))).status, 304);
    let digest = hex::encode(consensus.digest);
    assert_eq!(ask("", Some(("X-Or-Diff-From-Consensus", digest))).status, 304);
    let other = ask("", Some(("X-Or-Diff-From-Consensus", "ab".repeat(32))));
    assert_eq!((other.status, other.concat()), (200, consensus.text.to_vec()));

    // A day after its end it is not served any more.
    let request = Request::get("/tor/status-vote/current/consensus");
    let late = consensus.valid_until + std::time::Duration::from_secs(25 * 3600);
    assert_eq!(answer(&documents, &request, now).status, 200);
    assert_eq!(answer(&documents, &request, late).status, 404);
}
