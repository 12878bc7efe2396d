//! C Tor beside us: its authority takes our relays, its client and its relays take our authority.

#![allow(clippy::unwrap_used)]

mod network;

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use network::{Network, Node, PATIENCE, REQUEST, config, description, fetch, keys, origin, policy};
use obol_relay::descriptor;
use obol_relay::directory::{Directory, Occasion, Upload, http, upload};
use obol_relay::keys::{FamilyKey, OnionLifetime, Rotate};
use obol_relay::run;
use obol_relay::traffic::History;
use obol_testnet::authority::{Authority, AuthorityConfig, Role};
use obol_testnet::ctor::{AuthorityFiles, CTor, Torrc, Voting, available, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A C Tor directory authority that votes alone, every 20 seconds.
fn authority(files: &tempfile::TempDir) -> (AuthorityFiles, CTor) {
    let authority = AuthorityFiles::make(&files.path().join("authority"), "cauthority").unwrap();
    let torrc = authority
        .torrc(std::slice::from_ref(&authority), Voting::default())
        .set("ConsensusParams", "cc_alg=0");
    let tor = CTor::start(&authority.directory, &torrc).unwrap();
    (authority, tor)
}

/// The key of a family, as C Tor makes it.
fn family_key(directory: &Path) -> FamilyKey {
    let made = std::process::Command::new("tor")
        .args(["--keygen-family", "ours", "--quiet"])
        .current_dir(directory)
        .stdin(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let key = FamilyKey::load(&directory.join("ours.secret_family_key")).unwrap();
    let public = std::fs::read_to_string(directory.join("ours.public_family_id")).unwrap();
    assert_eq!(public.trim_end(), STANDARD_NO_PAD.encode(key.public()));
    key
}

/// What an authority has under a path.
async fn get(authority: &AuthorityFiles, path: &str) -> String {
    let mut stream = TcpStream::connect(authority.entry().address).await.unwrap();
    let limits = http::Limits {
        head: 10_000,
        body: 100_000,
        patience: PATIENCE,
    };
    let request = http::Request::get(path);
    let answer = http::exchange(&mut stream, "127.0.0.1", &request, &limits)
        .await
        .unwrap();
    String::from_utf8(answer.concat()).unwrap()
}

/// Fetches a page from `server` through a SOCKS5 proxy at `port`.
async fn through_socks(port: u16, server: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(server) = server else {
        panic!("an IPv4 address is wanted")
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).await.unwrap();
    assert_eq!(choice, [5, 0]);
    let mut request = vec![5, 1, 0, 1];
    request.extend(server.ip().octets());
    request.extend(server.port().to_be_bytes());
    stream.write_all(&request).await.unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[1], 0, "SOCKS refuses");
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_c_tor_client_bootstraps_through_our_relays_and_fetches_a_page() {
    if !available() {
        return;
    }
    let network = Network::start(3).await;
    let page: &'static [u8] = Box::leak(vec![b'c'; 300_000].into_boxed_slice());
    let server = origin(page).await;
    let files = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let guard = &network.nodes[0];
    let torrc = Torrc::new()
        .lines(&network.authority.torrc_line())
        .client(port)
        .fallback(guard.handle.addresses()[0], guard.keys.fingerprint());
    let mut tor = CTor::start(files.path(), &torrc).unwrap();
    tor.says(&["Bootstrapped 100%"], PATIENCE).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, through_socks(port, server))
        .await
        .expect("the page takes too long");
    assert!(answer.starts_with(b"HTTP/1.0 200 OK"));
    assert!(answer.ends_with(page));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_c_tor_relay_joins_our_network_and_stands_between_our_guard_and_our_exit() {
    if !available() {
        return;
    }
    let network = Network::with(&[Role::Guard, Role::Exit]).await;
    network.authority.assign("ctormiddle", Role::Middle);
    let files = tempfile::tempdir().unwrap();
    let torrc = Torrc::new()
        .lines(&network.authority.torrc_line())
        .relay("ctormiddle", free_port().unwrap())
        .exits_nowhere();
    let mut tor = CTor::start(files.path(), &torrc).unwrap();
    tokio::time::timeout(PATIENCE, network.authority.wait_for(3))
        .await
        .unwrap_or_else(|_| panic!("no descriptor came: {}", tor.log()));
    network.publish().await;
    assert_eq!(network.nodes[0].directory.view().snapshot().relays().len(), 3);
    // It verified our consensus and has the microdescriptors.
    tor.says(&["Tor can build exit and internal paths"], PATIENCE)
        .await
        .unwrap();
    let server = origin(b"through three kinds").await;
    let (client, _arti_files) = network.arti().await;
    assert!(fetch(&client, server).await.ends_with(b"through three kinds"));
}

#[tokio::test]
async fn a_c_tor_authority_accepts_our_descriptor_and_knows_a_second_upload_again() {
    if !available() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let (authority, mut tor) = authority(&files);
    tor.says(&["Opened Directory listener"], PATIENCE).await.unwrap();
    let (keys, _files) = keys().await;
    let mut about = description("obolrelay", "127.0.0.1:5999".parse().unwrap(), policy(true));
    about.ipv6 = Some("[::1]:5999".parse().unwrap());
    about.ipv6_exit = true;
    about.family = vec![[0xAB; 20]];
    about.family_keys = vec![family_key(files.path())];
    about.history = Some(History {
        end: SystemTime::now() - Duration::from_secs(7200),
        bytes: vec![1 << 30, 3 << 30],
    });
    let published = descriptor::build(&keys, OnionLifetime::default(), &about, SystemTime::now()).unwrap();
    let text = published.body();
    assert_eq!(
        upload(&authority.entry(), &text).await.unwrap(),
        Upload::Accepted,
        "{}",
        tor.log()
    );
    assert_eq!(upload(&authority.entry(), &text).await.unwrap(), Upload::NotNew);
    // It took the statistics as well.
    let held = get(
        &authority,
        &format!("/tor/extra/fp/{}", hex::encode_upper(keys.fingerprint())),
    )
    .await;
    assert_eq!(held, published.extra_info.text);
}

#[tokio::test]
async fn a_change_that_a_c_tor_authority_finds_cosmetic_reaches_it_all_the_same() {
    if !available() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let (authority, mut tor) = authority(&files);
    tor.says(&["Opened Directory listener"], PATIENCE).await.unwrap();
    let (keys, _files) = keys().await;
    let relay = keys.fingerprint();
    let unpaid = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&unpaid);
    let make = move |occasion: Occasion| {
        let mut about = description("obolrelay", "127.0.0.1:5999".parse().unwrap(), policy(true));
        if unpaid.load(Ordering::Relaxed) {
            about.protocols = descriptor::UNPAID_PROTOCOLS;
        }
        let onion = OnionLifetime::default();
        if occasion.distinct {
            let tap = Rotate {
                tap: true,
                ..Rotate::default()
            };
            keys.rotate(occasion.now, onion, tap)?;
        }
        descriptor::build(&keys, onion, &about, occasion.now)
    };
    let directory = Directory::start(vec![authority.entry()]);
    directory.publish_with(Arc::new(make)).await.unwrap();
    switch.store(true, Ordering::Relaxed);
    directory.publish().await.unwrap();
    assert!(directory.standings().borrow()[0].has_it, "{}", tor.log());

    let held = get(&authority, &format!("/tor/server/fp/{}", hex::encode_upper(relay))).await;
    assert!(
        held.contains(descriptor::UNPAID_PROTOCOLS) && !held.contains("Obol=1"),
        "{held}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_c_tor_authority_finds_our_relay_running_and_our_relay_believes_its_consensus() {
    if !available() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let (authority, mut tor) = authority(&files);
    tor.says(&["Opened Directory listener"], PATIENCE).await.unwrap();
    let node = Node::start_at("obolrelay", true, authority.entry()).await;
    let ours = node.keys.ed25519();
    let listed = async {
        loop {
            let _ = node.directory.refresh().await;
            if let Some(relay) = node.directory.view().by_ed(&ours) {
                break relay;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let relay = tokio::time::timeout(PATIENCE, listed)
        .await
        .unwrap_or_else(|_| panic!("never listed: {}", tor.log()));
    assert_eq!(relay.rsa, node.keys.fingerprint());
    assert_eq!(relay.ntor, Some(node.keys.current().ntor_public()));
    assert!(relay.obol, "the authority passes our subprotocols on");
    assert_eq!(node.directory.view().param("cc_alg"), Some(0));
    assert!(Arc::strong_count(&relay) > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_c_tor_authority_reaches_our_ipv6_port_and_passes_our_family_on() {
    if !available() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let authority = AuthorityFiles::make(&files.path().join("authority"), "cauthority").unwrap();
    // It looks for itself, and at both addresses.
    let torrc = authority
        .torrc(std::slice::from_ref(&authority), Voting::default())
        .set("AssumeReachable", 0)
        .set("AuthDirHasIPv6Connectivity", 1);
    let mut tor = CTor::start(&authority.directory, &torrc).unwrap();
    tor.says(&["Opened Directory listener"], PATIENCE).await.unwrap();

    let free = || free_port().unwrap();
    let own = tempfile::tempdir().unwrap();
    let family = family_key(own.path());
    let mut settings = config(&authority.entry(), &own);
    settings.or.ipv6_listen = Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, free(), 0, 0));
    settings.family.keys = vec![own.path().join("ours.secret_family_key")];
    let ipv6 = settings.or.ipv6_listen.map(SocketAddr::V6).unwrap();
    // One that claims an address where nobody is; earlier, so that it has had its time.
    let other = tempfile::tempdir().unwrap();
    let mut unreached = config(&authority.entry(), &other);
    unreached.nickname = "unreached".to_owned();
    unreached.or.ipv6_listen = Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, free(), 0, 0));
    unreached.or.ipv6_advertise = Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, free(), 0, 0));
    let unreached = run(unreached).await.unwrap();
    let relay = run(settings).await.unwrap();

    let listed = async {
        loop {
            let _ = relay.directory().refresh().await;
            if let Some(found) = relay.directory().view().by_ed(&relay.ed()) {
                break found;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, listed)
        .await
        .unwrap_or_else(|_| panic!("never listed: {}", tor.log()));
    assert!(found.addresses.contains(&ipv6), "{found:?}");
    assert_eq!(found.families, [family.id()]);
    assert!(relay.directory().view().by_rsa(&unreached.rsa()).is_none());
    relay.shutdown().await;
    unreached.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_c_tor_client_that_has_ipv6_only_uses_our_guard() {
    if !available() {
        return;
    }
    let authority = Authority::start(AuthorityConfig::default()).await.unwrap();
    let mut nodes = Vec::new();
    for (nickname, role) in [
        ("v6guard", Role::Guard),
        ("v6middle", Role::Middle),
        ("v6exit", Role::Exit),
    ] {
        authority.assign(nickname, role);
        nodes.push(Node::start_on_both(nickname, role == Role::Exit, authority.entry()).await);
    }
    authority.publish_now().await.unwrap();
    for node in &nodes {
        node.directory.refresh().await.unwrap();
    }
    let server = origin(b"over six").await;
    let files = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let [ipv4, ipv6] = nodes[0].handle.addresses() else {
        panic!("two addresses are wanted")
    };
    let torrc = Torrc::new()
        .lines(&authority.torrc_line())
        .client(port)
        .set("ClientUseIPv4", 0)
        .set("ClientUseIPv6", 1)
        .set(
            "FallbackDir",
            format_args!(
                "{ipv4} orport={} id={} ipv6={ipv6}",
                ipv4.port(),
                hex::encode_upper(nodes[0].keys.fingerprint())
            ),
        );
    let mut tor = CTor::start(files.path(), &torrc).unwrap();
    tor.says(&["Bootstrapped 100%"], PATIENCE).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, through_socks(port, server)).await;
    assert!(answer.expect("the page takes too long").ends_with(b"over six"));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_relay_follows_a_c_tor_authority_by_its_differences() {
    if !available() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let (authority, mut tor) = authority(&files);
    tor.says(&["Opened Directory listener"], PATIENCE).await.unwrap();
    // In between somebody listens to what is asked for and what comes.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut entry = authority.entry();
    let behind = entry.address;
    entry.address = listener.local_addr().unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let limits = http::Limits {
            head: 10_000,
            body: 1 << 20,
            patience: PATIENCE,
        };
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = http::read_request(&mut stream, &limits).await.unwrap().unwrap();
            let mut there = TcpStream::connect(behind).await.unwrap();
            let mut answer = http::exchange(&mut there, "127.0.0.1", &request, &limits)
                .await
                .unwrap();
            if request.path.contains("/consensus") {
                let asked = request.headers.get("X-Or-Diff-From-Consensus").is_some();
                let text = String::from_utf8(answer.concat()).unwrap();
                told.send((asked, tor_consdiff::looks_like_diff(&text))).unwrap();
            }
            answer.headers = http::Headers::default();
            http::write_response(&mut stream, &answer, &limits).await.unwrap();
        }
    });
    let follower = Directory::start(vec![entry]);
    let following = async {
        loop {
            while heard.try_recv().is_ok() {}
            let believed = follower.refresh().await.is_ok();
            let mut seen = Vec::new();
            seen.extend(std::iter::from_fn(|| heard.try_recv().ok()));
            // A difference came, and nothing had to be asked for without one.
            if believed && seen.contains(&(true, true)) {
                return seen;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, following)
        .await
        .unwrap_or_else(|_| panic!("no difference came: {}", tor.log()));
    assert!(seen.iter().all(|(asked, _)| *asked), "{seen:?}");
}
