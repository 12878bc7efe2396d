//! Two connections on loopback, after a TLS handshake of either version.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::handshake::Socket;
use crate::tls::secrets::TrafficSecrets;
use crate::tls::{ServerKey, client_config, client_config_of, random_server_name};

/// Client and server. `first`: what the client says before its end is taken over.
async fn pair(version: &'static SupportedProtocolVersion, first: &[u8]) -> (Connection, Connection, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let secrets = || Arc::new(TrafficSecrets::default());
    let (ours, theirs) = (secrets(), secrets());
    let mut server = ServerConfig::clone(&ServerKey::generate(SystemTime::now()).unwrap().into_config().unwrap());
    server.key_log = Arc::<TrafficSecrets>::clone(&theirs);
    let mut client = match version.version == TLS13.version {
        true => ClientConfig::clone(&client_config()),
        false => client_config_of(&[version]),
    };
    client.key_log = Arc::<TrafficSecrets>::clone(&ours);
    let (client, server) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(random_server_name(), Socket::new(tcp, ours)),
        TlsAcceptor::from(Arc::new(server)).accept(Socket::new(accepted, theirs)),
    );
    let (mut client, server) = (client.unwrap(), server.unwrap());
    client.write_all(first).await.unwrap();
    client.flush().await.unwrap();
    let mut cells = Vec::new();
    let client = Connection::new(client.into(), &mut cells).unwrap();
    assert!(cells.is_empty());
    let server = Connection::new(server.into(), &mut cells).unwrap();
    assert_eq!(matches!(client.tls, Tls::Ours(..)), version.version == TLS13.version);
    (client, server, cells)
}

/// Sends `bytes` as records of `len` bytes, four at once.
async fn send(connection: &mut Connection, bytes: &[u8], len: usize) {
    for batch in bytes.chunks(4 * len) {
        poll_fn(|cx| connection.poll_flush(cx)).await.unwrap();
        poll_fn(|cx| {
            with_scratch(|scratch| {
                scratch.out.clear();
                let Outgoing { bytes, contents } = &mut scratch.out;
                for content in batch.chunks(len) {
                    bytes.extend_from_slice(&[0; HEAD]);
                    contents.push(bytes.len()..bytes.len() + content.len());
                    bytes.extend_from_slice(content);
                    bytes.extend_from_slice(&[0; TAIL]);
                }
                // Pending: the rest is kept, and flushed before the next one.
                match connection.poll_send(cx, &mut scratch.out) {
                    Poll::Ready(done) => Poll::Ready(done),
                    Poll::Pending => Poll::Ready(Ok(())),
                }
            })
        })
        .await
        .unwrap();
    }
    poll_fn(|cx| connection.poll_flush(cx)).await.unwrap();
}

/// Reads until `len` bytes, or the end; takes whole cells of 514 bytes only.
async fn receive(connection: &mut Connection, got: Vec<u8>, len: usize) -> Vec<u8> {
    receive_cells(connection, got, len, 514).await
}

/// The same with cells of another length.
async fn receive_cells(connection: &mut Connection, mut got: Vec<u8>, len: usize, cell: usize) -> Vec<u8> {
    let cells = |cells: &[u8]| cells.len() / cell * cell;
    let whole = cells(&got);
    connection.keep_first(&got.split_off(whole));
    let mut kept = 0;
    while got.len() + kept < len {
        let end = poll_fn(|cx| {
            with_scratch(|scratch| {
                let (end, incoming) = std::task::ready!(connection.poll_read(cx, &mut scratch.wire)).unwrap();
                let (whole, cell) = incoming.cells.split_at(cells(incoming.cells));
                got.extend_from_slice(whole);
                kept = cell.len();
                connection.keep(cell, incoming.rest);
                Poll::Ready(end)
            })
        })
        .await;
        if end == Got::End {
            break;
        }
    }
    let cell = &connection.rest[..connection.cells];
    got.extend_from_slice(cell);
    got
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u8).wrapping_mul(31) ^ (n >> 9) as u8).collect()
}

#[tokio::test]
async fn everything_arrives_in_either_version_of_tls_whatever_the_records() {
    for version in [&TLS13, &TLS12] {
        for len in [1, 514 * 31, 40_000] {
            let first = noise(700);
            let (mut client, mut server, cells) = pair(version, &first).await;
            let bytes = noise(if len == 1 { 3000 } else { 3_000_000 });
            let ((), got) = tokio::join!(
                send(&mut client, &bytes, len),
                receive(&mut server, cells, first.len() + bytes.len())
            );
            assert!(got == [first, bytes.clone()].concat(), "{version:?}, {len}");
            let ((), got) = tokio::join!(
                send(&mut server, &bytes, len),
                receive(&mut client, Vec::new(), bytes.len())
            );
            assert!(got == bytes, "{version:?}, {len}");
        }
    }
}

#[tokio::test]
async fn the_longest_link_messages_arrive_however_they_lie_in_their_records() {
    let longest = VARIABLE_HEADER_LEN + LINK_MESSAGE_MAX;
    for version in [&TLS13, &TLS12] {
        for len in [509, CONTENT_MAX] {
            let (mut client, mut server, cells) = pair(version, b"").await;
            let bytes = noise(longest * 60);
            let ((), got) = tokio::join!(
                send(&mut client, &bytes, len),
                receive_cells(&mut server, cells, bytes.len(), longest)
            );
            assert!(got == bytes, "{version:?}, {len}");
        }
    }
}

#[tokio::test]
async fn a_goodbye_is_the_end_in_either_version_of_tls() {
    for version in [&TLS13, &TLS12] {
        let (client, mut server, cells) = pair(version, b"").await;
        let ((), got) = tokio::join!(client.close(), receive(&mut server, cells, usize::MAX));
        assert_eq!(got, b"");
    }
}

#[tokio::test]
async fn a_quiet_connection_keeps_no_buffers() {
    let (mut client, mut server, cells) = pair(&TLS13, b"").await;
    let bytes = noise(514 * 500);
    let ((), got) = tokio::join!(
        send(&mut client, &bytes, 514 * 31),
        receive(&mut server, cells, bytes.len())
    );
    assert!(got == bytes);
    assert_eq!((client.unsent.capacity(), server.rest.capacity()), (0, 0));
}
