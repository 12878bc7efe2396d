//! What an exit does, and what it refuses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use obol_onion::engine::DATA_MAX;
use obol_relay::directory::documents::Documents;
use obol_relay::directory::{DirCache, NetView, RelayInfo, Snapshot};
use obol_relay::streams::ExitConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tor_cell::relaycell::msg::EndReason;
use tor_cert::{CertType, CertifiedKey, Ed25519Cert};
use tor_llcrypto::pk::ed25519::Keypair;
use tor_proto::{ClientTunnel, Error};

use super::harness::*;

/// Why a stream cannot be had.
async fn refusal(tunnel: &Arc<ClientTunnel>, host: &str, port: u16) -> EndReason {
    match tunnel.begin_stream(host, port, None).await {
        Err(Error::EndReceived(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is connected"),
    }
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_resolved_and_connected_to() {
    within(async {
        let nodes = three().await;
        let tunnel = circuit(&[&nodes[0], &nodes[1], &nodes[2]], OURS).await;
        let found = tunnel.resolve("localhost").await.unwrap();
        assert!(found.iter().all(|address| address.is_loopback()) && !found.is_empty());
        assert!(tunnel.resolve("nosuchname.invalid").await.is_err());
        // What the machine calls itself is its own matter: the name has to lead back.
        let names = tunnel.resolve_ptr([127, 0, 0, 1].into()).await.unwrap();
        let back = tunnel.resolve(&names[0]).await.unwrap();
        assert!(back.contains(&[127, 0, 0, 1].into()), "{names:?}: {back:?}");
        let from = source(1000).await;
        let mut stream = tunnel.begin_stream("localhost", from.port(), None).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, pattern(1000));
        assert_eq!(
            refusal(&tunnel, "nosuchname.invalid", 80).await,
            EndReason::RESOLVEFAILED
        );
        assert_eq!(
            refusal(&tunnel, "127.0.0.1", closed_port().await).await,
            EndReason::CONNECTREFUSED
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_are_refused_unless_the_operator_allows_them() {
    within(async {
        let [guard, _, _] = three().await;
        let strict = ExitConfig {
            reject_private: true,
            ..exit()
        };
        let last = node(Options {
            exit: Some(strict),
            ..Options::default()
        })
        .await;
        let tunnel = circuit(&[&guard, &last], OURS).await;
        let from = source(10).await;
        assert_eq!(refusal(&tunnel, "127.0.0.1", from.port()).await, EndReason::EXITPOLICY);
        assert_eq!(refusal(&tunnel, "localhost", from.port()).await, EndReason::EXITPOLICY);
        assert!(tunnel.resolve("localhost").await.is_err());
        assert!(tunnel.resolve_ptr([127, 0, 0, 1].into()).await.is_err());
        let closed = node(Options {
            exit: Some(ExitConfig::closed()),
            ..Options::default()
        })
        .await;
        let tunnel = circuit(&[&guard, &closed], OURS).await;
        assert_eq!(
            refusal(&tunnel, "localhost", from.port()).await,
            EndReason::RESOLVEFAILED
        );
        assert!(tunnel.resolve("localhost").await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_hop_and_unknown_relays_are_refused() {
    within(async {
        let last = node(Options::default()).await;
        let from = source(10).await;
        let tunnel = circuit(&[&last], OURS).await;
        assert_eq!(refusal(&tunnel, "127.0.0.1", from.port()).await, EndReason::TORPROTOCOL);
        // An exit that knows a network in which the relay before it is not.
        let guard = node(Options::default()).await;
        let known = |node: &Node| RelayInfo {
            rsa: node.keys.fingerprint(),
            ed: Some(node.keys.ed25519()),
            nickname: "known".to_owned(),
            addresses: node.handle.addresses().to_vec(),
            obol: true,
            ..RelayInfo::default()
        };
        for (relays, refused) in [(vec![], true), (vec![known(&guard)], false)] {
            let net = NetView::fixed(Snapshot::new(None, HashMap::new(), relays));
            let last = node(Options {
                net: Some(net),
                ..Options::default()
            })
            .await;
            let tunnel = circuit(&[&guard, &last], OURS).await;
            if refused {
                assert_eq!(refusal(&tunnel, "127.0.0.1", from.port()).await, EndReason::MISC);
            } else {
                download(&tunnel, from, 10).await;
                // The network is not entered from its own exits.
                let entry = guard.handle.addresses()[0].port();
                assert_eq!(refusal(&tunnel, "127.0.0.1", entry).await, EndReason::CONNECTREFUSED);
            }
        }
    })
    .await;
}

/// Sends a request on a directory stream; the whole answer.
async fn ask_directory(tunnel: &Arc<ClientTunnel>, request: &str) -> String {
    let mut stream = tunnel.clone().begin_dir_stream().await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What an onion service uploads. The key is the blinded key of nobody.
fn onion_descriptor(blinded: &Keypair) -> String {
    let armoured = |kind: &str, bytes: &[u8]| {
        let base64 = STANDARD.encode(bytes);
        format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
    };
    let signing = Keypair::from_bytes(&[0x55; 32]);
    let certificate = Ed25519Cert::builder()
        .cert_type(CertType::HS_BLINDED_ID_V_SIGNING)
        .expiration(SystemTime::now() + Duration::from_secs(86_400))
        .signing_key(blinded.verifying_key().into())
        .cert_key(CertifiedKey::Ed25519(signing.verifying_key().into()))
        .encode_and_sign(blinded)
        .unwrap();
    let text = format!(
        "hs-descriptor 3\ndescriptor-lifetime 180\ndescriptor-signing-key-cert\n{}revision-counter 1\nsuperencrypted\n{}",
        armoured("ED25519 CERT", &certificate),
        armoured("MESSAGE", &[7; 10_000]),
    );
    let signature = signing.sign(format!("Tor onion service descriptor sig v3{text}").as_bytes());
    format!("{text}signature {}\n", STANDARD_NO_PAD.encode(signature.to_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_onion_descriptor_is_kept_for_circuits_of_more_than_one_hop_only() {
    within(async {
        let guard = node(Options::default()).await;
        let (_keep, documents) = tokio::sync::watch::channel(Arc::new(Documents::default()));
        let cache = DirCache::new(documents);
        let last = node(Options {
            directory: Some(cache.clone()),
            ..Options::default()
        })
        .await;
        let blinded = Keypair::from_bytes(&[0x44; 32]);
        let descriptor = onion_descriptor(&blinded);
        let name = STANDARD_NO_PAD.encode(blinded.verifying_key().to_bytes());
        let length = descriptor.len();
        let upload = format!("POST /tor/hs/3/publish HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{descriptor}");
        let fetch = format!("GET /tor/hs/3/{name} HTTP/1.0\r\n\r\n");

        let short = circuit(&[&last], OURS).await;
        let long = circuit(&[&guard, &last], OURS).await;
        assert!(ask_directory(&short, &upload).await.starts_with("HTTP/1.0 503 "));
        assert!(ask_directory(&long, &fetch).await.starts_with("HTTP/1.0 404 "));
        assert!(ask_directory(&long, &upload).await.starts_with("HTTP/1.0 200 "));
        assert_eq!(cache.onion_services().descriptors, 1);
        assert!(ask_directory(&short, &fetch).await.starts_with("HTTP/1.0 503 "));
        let answer = ask_directory(&long, &fetch).await;
        assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with(&descriptor));
        assert!(
            ask_directory(&long, &upload).await.starts_with("HTTP/1.0 400 "),
            "the same revision again"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_served_on_a_circuit_of_one_hop() {
    within(async {
        let (_keep, documents) = tokio::sync::watch::channel(Arc::new(Documents::default()));
        let with = node(Options {
            directory: Some(DirCache::new(documents)),
            ..Options::default()
        })
        .await;
        let tunnel = circuit(&[&with], OURS).await;
        let mut stream = tunnel.begin_dir_stream().await.unwrap();
        stream.write_all(b"GET /tor/robots.txt HTTP/1.0\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut got = String::new();
        stream.read_to_string(&mut got).await.unwrap();
        assert!(got.starts_with("HTTP/1.0 "), "{got}");
        let without = node(Options::default()).await;
        let tunnel = circuit(&[&without], OURS).await;
        let mut stream = tunnel.begin_dir_stream().await.unwrap();
        let _ = stream.write_all(b"GET /tor/robots.txt HTTP/1.0\r\n\r\n").await;
        let _ = stream.flush().await;
        assert!(stream.read_to_end(&mut Vec::new()).await.is_err(), "NOTDIRECTORY");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_hop_that_is_not_there_fails_the_circuit_and_nothing_else() {
    within(async {
        let [guard, middle, last] = three().await;
        let good = circuit(&[&guard, &middle], OURS).await;
        let gone = last.target(OURS);
        last.handle.shutdown().await;
        let bad = circuit(&[&guard, &middle], OURS).await;
        let failed = bad.as_single_circ().unwrap().extend(&gone, parameters()).await;
        assert!(failed.is_err());
        assert!(bad.is_closed());
        let from = source(100).await;
        download(&good, from, 100).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_ends_or_resets_ends_the_stream_and_a_client_that_ends_it_ends_the_connection() {
    within(async {
        let [guard, _, last] = three().await;
        let tunnel = circuit(&[&guard, &last], OURS).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to: SocketAddr = listener.local_addr().unwrap();
        // The client ends: the target sees what was written, then the end.
        let mut stream = tunnel.begin_stream("127.0.0.1", to.port(), None).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        stream.write_all(b"last words").await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        let mut got = Vec::new();
        accepted.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");
        // The target resets.
        let mut stream = tunnel.begin_stream("127.0.0.1", to.port(), None).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&accepted)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(accepted);
        assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
        // The circuit ends: so does the connection.
        let _stream = tunnel.begin_stream("127.0.0.1", to.port(), None).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        tunnel.terminate();
        assert_eq!(accepted.read(&mut [0; 1]).await.unwrap_or(0), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_read_stalls_its_own_stream_only() {
    within(async {
        let [guard, _, last] = three().await;
        let tunnel = circuit(&[&guard, &last], OURS).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        socket2::SockRef::from(&listener)
            .set_recv_buffer_size(32 * 1024)
            .unwrap();
        let to = listener.local_addr().unwrap();
        let stalled = tunnel.begin_stream("127.0.0.1", to.port(), None).await.unwrap();
        let (mut unread, _) = listener.accept().await.unwrap();
        const LEN: usize = 6_000_000;
        let writing = tokio::spawn(async move {
            let mut stalled = stalled;
            stalled.write_all(&pattern(LEN)).await.unwrap();
            stalled.flush().await.unwrap();
            stalled
        });
        let from = source(100_000).await;
        download(&tunnel, from, 100_000).await;
        assert!(!writing.is_finished(), "more than all buffers on the way");
        let mut got = vec![0; LEN];
        unread.read_exact(&mut got).await.unwrap();
        assert!(got == pattern(LEN));
        writing.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_shut_down_ends_its_links_and_says_so() {
    within(async {
        let [mut guard, _, last] = three().await;
        let tunnel = circuit(&[&guard, &last], OURS).await;
        guard.handle.shutdown().await;
        tunnel.wait_for_close().await;
        let mut open = 0;
        while let Some(event) = guard.payments.recv().await {
            use obol_onion::engine::PaymentEvent as Event;
            match event {
                Event::LinkUp { .. } | Event::CircuitOpened { .. } => open += 1,
                Event::LinkDown { .. } | Event::CircuitClosed { .. } => open -= 1,
                _ => {}
            }
        }
        assert_eq!(open, 0, "what was opened was closed");
        assert_eq!(guard.handle.engine().counters().links, 0);
    })
    .await;
}

/// A stream to a target that does not read, once the relay holds what it can of an upload; the target, and the upload.
async fn stalled(tunnel: &Arc<ClientTunnel>, last: &Node) -> (TcpStream, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    socket2::SockRef::from(&listener)
        .set_recv_buffer_size(32 * 1024)
        .unwrap();
    let to = listener.local_addr().unwrap();
    let mut stream = tunnel.begin_stream("127.0.0.1", to.port(), None).await.unwrap();
    let (target, _) = listener.accept().await.unwrap();
    let upload = tokio::spawn(async move {
        stream.write_all(&pattern(8_000_000)).await?;
        stream.flush().await
    });
    let held = || last.handle.engine().counters().held.iter().sum::<u64>();
    while held() < 450 {
        assert!(!upload.is_finished(), "less than all buffers on the way");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (target, upload)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_that_ends_takes_its_streams_along_even_if_their_targets_do_not_read() {
    within(async {
        let [guard, _, last] = three().await;
        let tunnel = circuit(&[&guard, &last], OURS).await;
        let (mut target, upload) = stalled(&tunnel, &last).await;
        tunnel.terminate();
        assert!(upload.await.unwrap().is_err());
        // Nobody reads at either end: only a closed connection refuses more.
        while target.write_all(&[0; 16 * 1024]).await.is_ok() {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_has_said_its_last_still_gets_what_the_client_had_sent() {
    within(async {
        let [guard, _, last] = three().await;
        let tunnel = circuit(&[&guard, &last], OURS).await;
        let (mut target, upload) = stalled(&tunnel, &last).await;
        target.shutdown().await.unwrap();
        assert!(upload.await.unwrap().is_err());
        let mut got = Vec::new();
        target.read_to_end(&mut got).await.unwrap();
        assert!(pattern(got.len()) == got, "bytes changed on the way");
        // All cells that went away from the client are DATA but for some: BEGIN and SENDMEs.
        let cells = last.handle.engine().counters().cells;
        let came = (cells[0][1] + cells[1][1]) as usize * DATA_MAX;
        assert!(got.len() + 40 * DATA_MAX >= came, "{} of {came}", got.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_over_relays_that_have_ipv6_only_carries_a_download() {
    within(async {
        let relay = || {
            node(Options {
                ipv6: true,
                ..Options::default()
            })
        };
        let nodes = [relay().await, relay().await, relay().await];
        assert!(nodes.iter().all(|node| node.handle.addresses()[0].is_ipv6()));
        // Linked to the first over IPv6, and extended with nothing but IPv6 specifiers.
        let tunnel = circuit(&[&nodes[0], &nodes[1], &nodes[2]], OURS).await;
        download(&tunnel, source(300_000).await, 300_000).await;
    })
    .await;
}
