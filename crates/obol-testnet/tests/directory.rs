//! The authority's documents, and what relays believe of them.

#![allow(clippy::unwrap_used)]

mod network;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use network::{Network, description, keys, policy};
use obol_relay::descriptor;
use obol_relay::directory::answer::answer;
use obol_relay::directory::documents::Documents;
use obol_relay::directory::http::{self, Request, format_date};
use obol_relay::directory::{self, DirCache, Directory, Disbelief, FetchError, Occasion, Upload, upload};
use obol_relay::keys::OnionLifetime;
use obol_relay::reach::{self, NotReached, Reachability, SelfTest, Subject};
use obol_testnet::authority::{Authority, AuthorityConfig, Role};
use obol_testnet::ctor::free_port;
use tokio::sync::{mpsc, watch};
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
async fn a_relay_finds_out_that_others_reach_it_and_that_they_do_not_where_nobody_listens() {
    let network = Network::start(3).await;
    let node = &network.nodes[0];
    let SocketAddr::V4(address) = node.handle.addresses()[0] else {
        panic!("an IPv4 address is wanted")
    };
    let SocketAddr::V4(nowhere) = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())) else {
        panic!("an IPv4 address is wanted")
    };
    let through = node
        .directory
        .view()
        .by_rsa(&network.nodes[1].keys.fingerprint())
        .unwrap();
    let refused = reach::circuit(&through, &node.keys, nowhere).await.unwrap_err();
    assert!(matches!(refused, NotReached::Destroyed(_)), "{refused}");
    assert!(!node.handle.engine().was_reached());

    let net = node.directory.view();
    let subject = Subject {
        at: address,
        families: Vec::new(),
        members: Vec::new(),
    };
    let test = SelfTest::new(Arc::clone(&node.keys), subject, net, node.handle.engine());
    assert_eq!(test.state(), Reachability::Unknown);
    tokio::time::timeout(network::PATIENCE, test.until_reached())
        .await
        .unwrap();
    assert_eq!(test.state(), Reachability::Reachable);
}

#[tokio::test]
async fn a_client_that_has_an_older_consensus_gets_the_difference_and_it_leads_to_the_newest() {
    let network = Network::start(2).await;
    let node = &network.nodes[0];
    let older = network.authority.documents();
    network.authority.assign("relay1", Role::Exit);
    network.publish().await;
    let newer = network.authority.documents();
    for (flavor, old, new) in [
        ("-microdesc", &older.microdesc, &newer.microdesc),
        ("", &older.plain, &newer.plain),
    ] {
        let (old, new) = (old.as_ref().unwrap(), new.as_ref().unwrap());
        let hash = hex::encode_upper(old.digest);
        let whole = format!("/tor/status-vote/current/consensus{flavor}");
        let signer = hex::encode_upper(network.authority.v3_identity());
        for (path, header) in [
            (whole.clone(), Some(hash.clone())),
            (whole.clone(), Some(format!("{}, {hash}", "00".repeat(32)))),
            (format!("{whole}/diff/{hash}/{signer}"), None),
        ] {
            let answer = ask_cache(node, &path, header).await;
            assert_eq!(answer.status, 200);
            let diff = String::from_utf8(answer.concat()).unwrap();
            assert!(
                tor_consdiff::looks_like_diff(&diff) && diff.len() < new.text.len(),
                "{path}: {diff}"
            );
            let base = std::str::from_utf8(&old.text).unwrap();
            let applied =
                tor_consdiff::apply_diff(base, &diff, Some(old.digest), tor_consdiff::DiffSizeStrictness::Apply)
                    .unwrap();
            applied.check_digest().unwrap();
            assert_eq!(applied.to_string().as_bytes(), &new.text[..]);
        }
        let unknown = ask_cache(node, &format!("{whole}/diff/{}/{signer}", "00".repeat(32)), None).await;
        assert_eq!(unknown.status, 404);
        let other = ask_cache(node, &whole, Some("00".repeat(32))).await;
        assert_eq!((other.status, other.concat()), (200, new.text.to_vec()));
        let same = ask_cache(node, &whole, Some(hex::encode(new.digest))).await;
        assert_eq!(same.status, 304);
    }
}

/// What becomes of differences on their way.
#[derive(Clone, Copy)]
enum Way {
    /// They come as they were sent.
    Untouched,
    /// They say that they lead to something else.
    Mislabelled,
    /// A line of them is another one.
    Garbled,
    /// They lead to a consensus that nobody has signed.
    Forged,
}

/// An authority's DirPort that a relay's cache answers at. What came of each request for a consensus is told: whether a
/// difference was asked for, and whether one was sent.
async fn front(
    cache: DirCache,
    way: watch::Receiver<Way>,
    base: Arc<Mutex<String>>,
) -> (SocketAddr, mpsc::UnboundedReceiver<(bool, bool)>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, heard) = mpsc::unbounded_channel();
    let limits = http::Limits {
        head: 10_000,
        body: 1 << 20,
        patience: network::PATIENCE,
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = http::read_request(&mut stream, &limits).await.unwrap().unwrap();
            let has = request.headers.get("X-Or-Diff-From-Consensus").map(str::to_owned);
            let asked = has.is_some();
            let mut response = ask(&cache, &request.path, has).await;
            let text = String::from_utf8(response.concat()).unwrap();
            let sent = tor_consdiff::looks_like_diff(&text);
            // It came to us as it suited us.
            response.headers = http::Headers::default();
            if sent {
                let base = base.lock().unwrap().clone();
                let text = match *way.borrow() {
                    Way::Untouched => text,
                    Way::Mislabelled => {
                        let mut lines: Vec<&str> = text.lines().collect();
                        let hashes = format!("{} {}", &lines[1][..69], "AB".repeat(32));
                        lines[1] = &hashes;
                        lines.join("\n") + "\n"
                    }
                    Way::Garbled => text.replace("valid-after", "valid-after "),
                    Way::Forged if !request.path.contains("-microdesc") => text,
                    Way::Forged => {
                        let genuine = apply(&base, &text);
                        let forged = genuine.replacen("\ns Fast", "\ns BadExit Fast", 1);
                        assert_ne!(genuine, forged);
                        let strictness = tor_consdiff::DiffSizeStrictness::Generate;
                        tor_consdiff::gen_cons_diff(&base, &forged, strictness).unwrap()
                    }
                };
                response.body = vec![text.into()];
            }
            if request.path.contains("/consensus") {
                told.send((asked, sent)).unwrap();
            }
            http::write_response(&mut stream, &response, &limits).await.unwrap();
        }
    });
    (address, heard)
}

/// What a difference leads to.
fn apply(base: &str, difference: &str) -> String {
    let strictness = tor_consdiff::DiffSizeStrictness::Apply;
    let applied = tor_consdiff::apply_diff(base, difference, None, strictness).unwrap();
    applied.to_string()
}

/// The consensus of the flavour `microdesc`.
fn microdesc(documents: &Documents) -> String {
    String::from_utf8(documents.microdesc.as_ref().unwrap().text.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_fetches_differences_and_the_whole_when_one_of_them_leads_nowhere() {
    let network = Network::start(2).await;
    let cache = network.nodes[0].directory.cache();
    let (way, seen) = watch::channel(Way::Untouched);
    let base = Arc::new(Mutex::new(String::new()));
    let (address, mut heard) = front(cache, seen, Arc::clone(&base)).await;
    let mut entry = network.authority.entry();
    entry.address = address;
    let follower = Directory::start(vec![entry]);
    follower.refresh().await.unwrap();
    let roles = [Role::Middle, Role::Exit];
    let ways = [Way::Untouched, Way::Mislabelled, Way::Garbled, Way::Forged];
    for (round, how) in ways.into_iter().enumerate() {
        *base.lock().unwrap() = microdesc(&network.authority.documents());
        way.send_replace(how);
        while heard.try_recv().is_ok() {}
        network.authority.assign("relay1", roles[round % 2]);
        network.publish().await;
        follower.refresh().await.unwrap();
        let newest = microdesc(&network.authority.documents());
        assert_ne!(newest, *base.lock().unwrap());
        let path = "/tor/status-vote/current/consensus-microdesc";
        let got = ask(&follower.cache(), path, None).await.concat();
        assert_eq!(String::from_utf8(got).unwrap(), newest, "round {round}");
        // The difference was asked for and sent; if that was of no use, the whole was.
        assert_eq!(heard.try_recv(), Ok((true, true)), "round {round}");
        if !matches!(how, Way::Untouched) {
            assert_eq!(heard.try_recv(), Ok((false, false)), "round {round}");
        }
    }
}

#[tokio::test]
async fn a_relay_that_is_restarted_serves_the_differences_from_what_it_had_before() {
    let network = Network::start(2).await;
    let files = tempfile::tempdir().unwrap();
    let disk = files.path().join("directory");
    let first = Directory::start_with(vec![network.authority.entry()], Some(disk.clone()));
    first.refresh().await.unwrap();
    let older = network.authority.documents();
    network.authority.assign("relay1", Role::Exit);
    network.publish().await;
    first.refresh().await.unwrap();
    first.shutdown().await;
    // What is of no use is not used.
    std::fs::write(disk.join("earlier/microdesc-00"), "nonsense").unwrap();
    std::fs::write(disk.join("earlier/stranger"), "").unwrap();

    let mut gone = network.authority.entry();
    gone.address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let again = Directory::start_with(vec![gone], Some(disk.clone()));
    let newer = network.authority.documents();
    for (flavor, old, new) in [
        ("-microdesc", &older.microdesc, &newer.microdesc),
        ("", &older.plain, &newer.plain),
    ] {
        let (old, new) = (old.as_ref().unwrap(), new.as_ref().unwrap());
        let path = format!("/tor/status-vote/current/consensus{flavor}");
        let got = async {
            loop {
                let answer = ask(&again.cache(), &path, Some(hex::encode_upper(old.digest))).await;
                let text = String::from_utf8(answer.concat()).unwrap();
                if tor_consdiff::looks_like_diff(&text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let difference = tokio::time::timeout(network::PATIENCE, got).await.unwrap();
        let base = std::str::from_utf8(&old.text).unwrap();
        assert_eq!(apply(base, &difference).as_bytes(), &new.text[..]);
    }
    // The next consensus clears up, and what was remembered stays.
    drop(again);
    let third = Directory::start_with(vec![network.authority.entry()], Some(disk.clone()));
    network.authority.assign("relay1", Role::Middle);
    network.publish().await;
    third.refresh().await.unwrap();
    assert!(!disk.join("earlier/stranger").exists());
    let kept = std::fs::read_dir(disk.join("earlier")).unwrap().count();
    assert_eq!(kept, 6, "three consensuses of two flavours");
}

#[tokio::test]
async fn a_relay_that_is_restarted_without_its_authority_serves_what_it_had_and_believes_nothing_else() {
    let network = Network::start(2).await;
    let files = tempfile::tempdir().unwrap();
    let disk = files.path().join("directory");
    let first = Directory::start_with(vec![network.authority.entry()], Some(disk.clone()));
    first.refresh().await.unwrap();
    let microdesc = network.authority.documents().microdesc.as_ref().unwrap().text.clone();
    first.shutdown().await;

    let mut gone = network.authority.entry();
    gone.address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let again = Directory::start_with(vec![gone.clone()], Some(disk.clone()));
    let mut view = again.view();
    assert!(tokio::time::timeout(network::PATIENCE, view.changed()).await.unwrap());
    let ours = &network.nodes[0].keys;
    assert_eq!(
        view.by_ed(&ours.ed25519()).unwrap().ntor,
        Some(ours.current().ntor_public())
    );
    for (path, expected) in [
        ("/tor/status-vote/current/consensus-microdesc", &microdesc[..]),
        ("/tor/keys/all", &network.authority.documents().certificates[0].text[..]),
    ] {
        assert_eq!(ask(&again.cache(), path, None).await.concat(), expected, "{path}");
    }
    let all = ask(&again.cache(), "/tor/server/all", None).await;
    assert!(all.concat().starts_with(b"router relay"));
    drop(again);

    // Somebody has changed a file: after a first, failed attempt to fetch there still is no network.
    let path = disk.join("consensus-microdesc");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("s Fast Guard", "s Exit Fast Guard", 1)).unwrap();
    let deceived = Directory::start_with(vec![gone], Some(disk));
    assert!(deceived.refresh().await.is_err());
    assert!(deceived.view().snapshot().relays().is_empty());
}

/// What a relay's cache answers.
async fn ask_cache(node: &network::Node, path: &str, has: Option<String>) -> http::Response {
    ask(&node.directory.cache(), path, has).await
}

/// What a cache answers.
async fn ask(cache: &DirCache, path: &str, has: Option<String>) -> http::Response {
    let mut request = Request::get(path);
    if let Some(has) = has {
        request.headers.push("X-Or-Diff-From-Consensus", has);
    }
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let limits = http::Limits {
        head: 10_000,
        body: 1 << 20,
        patience: network::PATIENCE,
    };
    let (answer, ()) = tokio::join!(
        http::exchange(&mut client, "relay", &request, &limits),
        cache.serve(server, None)
    );
    answer.unwrap()
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
    let late = consensus.valid_until + Duration::from_secs(25 * 3600);
    assert_eq!(answer(&documents, &request, now).status, 200);
    assert_eq!(answer(&documents, &request, late).status, 404);
}
