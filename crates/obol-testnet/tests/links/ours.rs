//! Between two of ours.

use crate::fixture::*;
use obol_onion::link::{Expected, LinkError, PeerIdentity, Role, Version};
use obol_relay::handshake::{self, Established, LinkFailed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn identity(which: usize) -> PeerIdentity {
    PeerIdentity {
        ed25519: keys(which).ed25519(),
        rsa: keys(which).fingerprint(),
    }
}

fn expected(which: usize) -> Expected {
    Expected {
        rsa: Some(identity(which).rsa),
        ed25519: Some(identity(which).ed25519),
    }
}

/// A link between relay 0, which calls, and relay 1.
async fn link(as_client: bool) -> (Established, Established) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (keys0, keys1, local) = (keys(0), keys(1), local());
    let responder = async { handshake::accept(listener.accept().await.unwrap().0, &keys1, &local).await };
    let initiator = async {
        if as_client {
            handshake::connect_as_client(address, expected(1), &local).await
        } else {
            handshake::connect(address, expected(1), &keys0, &local).await
        }
    };
    let (initiator, responder) = tokio::join!(initiator, responder);
    (initiator.unwrap(), responder.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_authenticate_each_other() {
    let (a, b) = link(false).await;
    assert_eq!((a.peer, b.peer), (Some(identity(1)), Some(identity(0))));
    assert_eq!((a.role, b.role), (Role::Initiator, Role::Responder));
    assert_eq!((a.version, b.version), (Version::V5, Version::V5));
    assert!(a.canonical && b.canonical && a.canonical_to_peer && b.canonical_to_peer);
    assert!(a.clock_skew.unwrap().abs() < 60 && b.clock_skew.unwrap().abs() < 60);
    assert_eq!(a.remote.ip(), LOOPBACK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_authenticates_the_relay_only() {
    let (a, b) = link(true).await;
    assert_eq!((a.peer, b.peer), (Some(identity(1)), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_uses_the_cheapest_cipher_that_both_ends_know() {
    let (a, b) = link(false).await;
    for end in [a, b] {
        let (_, session) = end.stream.get_ref();
        let suite = session.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_as_they_were_sent_whatever_their_number() {
    let (a, b) = link(false).await;
    assert!(a.leftover.is_empty() && b.leftover.is_empty());
    // Some megabytes, in parts of different lengths.
    let data: Vec<u8> = (0..4_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (mut writer, mut reader) = (a.stream, b.stream);
    let sender = async {
        for part in [&data[..3_000_000], &data[3_000_000..3_000_100], &data[3_000_100..]] {
            writer.write_all(part).await.unwrap();
            writer.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        writer.shutdown().await.unwrap();
    };
    let receiver = async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = tokio::join!(sender, receiver);
    assert!(received == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_not_the_one_meant_is_refused() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (keys0, keys1, local) = (keys(0), keys(1), local());
    let responder = async { handshake::accept(listener.accept().await.unwrap().0, &keys1, &local).await };
    let wrong = Expected {
        ed25519: Some([7; 32]),
        ..expected(1)
    };
    let (initiator, responder) = tokio::join!(handshake::connect(address, wrong, &keys0, &local), responder);
    let failed = initiator.unwrap_err();
    assert!(failed.is_wrong_identity());
    assert!(matches!(failed, LinkFailed::Refused(LinkError::WrongIdentity)));
    assert!(responder.is_err());
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_not_waited_for_for_ever() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut local = local();
    local.timeouts.tls = Duration::from_millis(50);
    let _silent = TcpStream::connect(address).await.unwrap();
    let failed = handshake::accept(listener.accept().await.unwrap().0, &keys(1), &local)
        .await
        .unwrap_err();
    assert!(matches!(failed, LinkFailed::TimedOut));
}

#[tokio::test]
async fn a_peer_that_says_nothing_after_tls_or_a_byte_now_and_then_is_not_waited_for_either() {
    for drips in [false, true] {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut local = local();
        local.timeouts.link = Duration::from_millis(200);
        let over = tokio_util::sync::CancellationToken::new();
        let ended = over.clone();
        let peer = async move {
            let tcp = TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(obol_relay::tls::client_config());
            let name = obol_relay::tls::random_server_name();
            let mut tls = connector.connect(name, tcp).await.unwrap();
            // The start of a VPADDING cell of 4 KiB.
            let _ = tls.write_all(&[0, 0, 128, 16, 0]).await;
            let _ = tls.flush().await;
            while drips && !over.is_cancelled() {
                if tls.write_all(&[0]).await.is_err() || tls.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            over.cancelled().await;
        };
        let keys = keys(1);
        let accepting = async {
            let failed = handshake::accept(listener.accept().await.unwrap().0, &keys, &local).await;
            ended.cancel();
            failed.unwrap_err()
        };
        let ((), failed) = tokio::join!(peer, accepting);
        assert!(matches!(failed, LinkFailed::TimedOut), "{failed}");
    }
}

#[tokio::test]
async fn what_is_not_tls_and_who_is_not_there_are_told_apart() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut stranger = TcpStream::connect(address).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let failed = handshake::accept(listener.accept().await.unwrap().0, &keys(1), &local())
        .await
        .unwrap_err();
    assert!(matches!(failed, LinkFailed::Connection(_)));
    drop(listener);
    let failed = handshake::connect(address, expected(1), &keys(0), &local())
        .await
        .unwrap_err();
    assert!(matches!(failed, LinkFailed::Unreachable(_)));
}
