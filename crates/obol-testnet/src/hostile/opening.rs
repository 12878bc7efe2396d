//! Before a link is open: TCP, TLS, the link handshake.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::wire::{Link, VERSIONS, cell, fixed, netinfo, tls, variable, versions};
use super::{Case, Cost, Failure, failure};

/// Connections that say nothing at once.
const SILENT: usize = 200;

/// A case that is made of these parts: nobody has proved anything yet.
fn case<F>(name: impl Into<String>, cost: Cost, run: impl Fn(SocketAddr) -> F + Send + Sync + 'static) -> Case
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    super::case(name, cost, move |target| run(target.relay))
}

/// Waits until the relay ends a connection.
async fn ended(mut tcp: TcpStream) -> Result<(), Failure> {
    let mut buffer = [0; 4096];
    while let Ok(1..) = tcp.read(&mut buffer).await {}
    Ok(())
}

/// Bytes instead of TLS.
fn instead_of_tls(name: &str, bytes: Vec<u8>) -> Case {
    case(format!("tcp: {name}"), Cost::Link, move |relay| {
        let bytes = bytes.clone();
        async move {
            let mut tcp = TcpStream::connect(relay).await?;
            // It may be closed before all of it is sent.
            let _ = tcp.write_all(&bytes).await;
            ended(tcp).await
        }
    })
}

/// Bytes in TLS, instead of a link handshake.
fn instead_of_handshake(name: &str, cells: Vec<Vec<u8>>) -> Case {
    case(format!("handshake: {name}"), Cost::Link, move |relay| {
        let cells = cells.concat();
        async move {
            let mut tls = tls(relay).await?;
            let _ = tls.write_all(&cells).await;
            let _ = tls.flush().await;
            let mut buffer = [0; 4096];
            while let Ok(1..) = tls.read(&mut buffer).await {}
            Ok(())
        }
    })
}

/// What a handshake may have in it, and what costs nothing.
fn within_handshake(name: &str, cells: Vec<Vec<u8>>) -> Case {
    case(format!("handshake: {name}"), Cost::Nothing, move |relay| {
        let cells = cells.concat();
        async move {
            let mut link = Link::half_open(relay).await?;
            link.send(&cells).await?;
            link.send(&netinfo()).await?;
            link.lives(None).await
        }
    })
}

/// A TLS record.
fn record(kind: u8, version: [u8; 2], content: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, version[0], version[1]];
    record.extend_from_slice(&u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes());
    record.extend_from_slice(content);
    record
}

/// A ClientHello of this version, without any extension: nothing newer is offered.
fn client_hello(version: [u8; 2], suites: &[u8]) -> Vec<u8> {
    let mut hello = version.to_vec();
    hello.extend_from_slice(&[7; 32]);
    hello.push(0);
    hello.extend_from_slice(&u16::try_from(suites.len()).unwrap_or(0).to_be_bytes());
    hello.extend_from_slice(suites);
    hello.extend_from_slice(&[1, 0]);
    let len = u32::try_from(hello.len()).unwrap_or(0).to_be_bytes();
    let message = [&[1, len[1], len[2], len[3]], &hello[..]].concat();
    record(22, [3, 1], &message)
}

/// Several certificates in one CERTS: number, then type, length and body of each.
fn certs(number: u8, all: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = vec![number];
    for (kind, certificate) in all {
        body.push(*kind);
        body.extend_from_slice(&u16::try_from(certificate.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(certificate);
    }
    variable(0, cell::CERTS, &body)
}

async fn silent(relay: SocketAddr) -> Result<(), Failure> {
    let mut held = Vec::new();
    for _ in 0..SILENT {
        match TcpStream::connect(relay).await {
            Ok(tcp) => held.push(tcp),
            Err(_) => break,
        }
    }
    // Somebody else comes in meanwhile.
    Link::open(relay).await?.lives(None).await?;
    for tcp in held {
        ended(tcp).await?;
    }
    Ok(())
}

/// A byte, and a pause, and a byte, for as long as the relay takes them.
async fn drip(mut tcp: TcpStream, bytes: &[u8]) -> Result<(), Failure> {
    for byte in bytes.iter().cycle() {
        if tcp.write_all(&[*byte]).await.is_err() {
            return Ok(());
        }
        let mut answer = [0; 1024];
        let pause = std::time::Duration::from_millis(200);
        if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(pause, tcp.read(&mut answer)).await {
            return Ok(());
        }
    }
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    let big = |version: [u8; 2]| record(22, version, &[1; 17_000]);
    let good = || versions(VERSIONS);
    let mut all = vec![
        instead_of_tls("HTTP", b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n".to_vec()),
        instead_of_tls("zeros", vec![0; 100_000]),
        instead_of_tls("all ones", vec![255; 100_000]),
        instead_of_tls(
            "an SSL 2 hello",
            vec![0x80, 0x2e, 1, 0, 2, 0, 5, 0, 0, 0, 16, 1, 0, 0x80, 0, 0],
        ),
        instead_of_tls("TLS 1.0 only", client_hello([3, 1], &[0xc0, 0x13, 0, 0x2f])),
        instead_of_tls("TLS 1.1 only", client_hello([3, 2], &[0xc0, 0x13, 0, 0x2f])),
        instead_of_tls("TLS 1.2 without a suite that we have", client_hello([3, 3], &[0, 1])),
        instead_of_tls("TLS without any suite", client_hello([3, 3], &[])),
        instead_of_tls("a TLS record that is too long", big([3, 1])),
        instead_of_tls("a TLS alert", record(21, [3, 3], &[2, 40])),
        instead_of_tls("TLS data before its handshake", record(23, [3, 3], &[5; 64])),
        instead_of_tls("an empty TLS record", record(22, [3, 1], &[])),
        instead_of_tls("half a ClientHello, and the end", {
            let mut hello = client_hello([3, 3], &[0xc0, 0x2f]);
            hello.truncate(20);
            // A record that is complete and a message that is not, and then garbage.
            [hello, vec![0xee; 3000]].concat()
        }),
        case("tcp: connected and closed at once", Cost::Link, |relay| async move {
            for _ in 0..100 {
                drop(TcpStream::connect(relay).await?);
            }
            Ok(())
        }),
        case("tcp: two hundred half-open connections", Cost::Link, silent),
        case(
            "tcp: a ClientHello, byte by byte (slow loris)",
            Cost::Link,
            |relay| async move {
                let tcp = TcpStream::connect(relay).await?;
                drip(tcp, &record(22, [3, 1], &[1; 4000])).await
            },
        ),
        case(
            "tls: garbage where a record should be",
            Cost::Link,
            |relay| async move {
                let mut tcp = Link::open(relay).await?.into_tcp()?;
                let _ = tcp.write_all(&[0x17, 3, 3, 0xff, 0xff]).await;
                let _ = tcp.write_all(&[9; 70_000]).await;
                ended(tcp).await
            },
        ),
        case("tls: a record that does not decrypt", Cost::Link, |relay| async move {
            let mut tcp = Link::open(relay).await?.into_tcp()?;
            let _ = tcp.write_all(&record(23, [3, 3], &[9; 600])).await;
            ended(tcp).await
        }),
        case(
            "tls: a new handshake on an open link (renegotiation)",
            Cost::Link,
            |relay| async move {
                let mut tcp = Link::open(relay).await?.into_tcp()?;
                let _ = tcp.write_all(&client_hello([3, 3], &[0xc0, 0x2f])).await;
                ended(tcp).await
            },
        ),
        case("tls: half a record, and the end", Cost::Link, |relay| async move {
            let mut tcp = Link::open(relay).await?.into_tcp()?;
            tcp.write_all(&[0x17, 3, 3, 1, 0, 1, 2, 3]).await?;
            tcp.shutdown().await?;
            ended(tcp).await
        }),
        case("tls: silence after it", Cost::Link, |relay| async move {
            let mut tls = tls(relay).await?;
            let mut buffer = [0; 64];
            match tls.read(&mut buffer).await {
                Ok(1..) => failure("the relay spoke first"),
                _ => Ok(()),
            }
        }),
        case(
            "handshake: VPADDING, byte by byte (slow loris)",
            Cost::Link,
            |relay| async move {
                let mut tls = tls(relay).await?;
                let mut bytes = vec![0, 0, cell::VPADDING, 0x0f, 0xff];
                bytes.resize(4000, 0);
                for byte in bytes {
                    if tls.write_all(&[byte]).await.is_err() || tls.flush().await.is_err() {
                        return Ok(());
                    }
                    let mut buffer = [0; 64];
                    let pause = std::time::Duration::from_millis(50);
                    if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(pause, tls.read(&mut buffer)).await {
                        return Ok(());
                    }
                }
                failure("a cell was waited for for minutes")
            },
        ),
        case("handshake: everything but NETINFO", Cost::Link, |relay| async move {
            Link::half_open(relay).await?.is_closed().await
        }),
    ];
    let two = |second: Vec<u8>| vec![good(), second];
    let refused: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("VERSIONS of an odd length", vec![versions(&[0, 4, 0])]),
        ("VERSIONS without any", vec![versions(&[])]),
        ("VERSIONS that nobody speaks", vec![versions(&[0, 3, 0, 99])]),
        ("VERSIONS of 65535 bytes", vec![versions(&[0xff; 65_535])]),
        ("VERSIONS twice", two(versions(VERSIONS))),
        (
            "VERSIONS twice, the second with a long id",
            two(variable(0, cell::VERSIONS, VERSIONS)),
        ),
        ("NETINFO before VERSIONS", vec![vec![0, 0, cell::NETINFO], vec![0; 509]]),
        (
            "CREATE_FAST before VERSIONS",
            vec![vec![0x80, 1, cell::CREATE_FAST], vec![0; 509]],
        ),
        ("CERTS before VERSIONS", vec![vec![0, 0, cell::CERTS, 0, 1, 0]]),
        (
            "CREATE_FAST before NETINFO",
            two(fixed(0x8000_0001, cell::CREATE_FAST, &[1; 20])),
        ),
        (
            "CREATE2 before NETINFO",
            two(fixed(0x8000_0001, cell::CREATE2, &[0, 2, 0, 84])),
        ),
        ("RELAY before NETINFO", two(fixed(0x8000_0001, cell::RELAY, &[1; 509]))),
        ("DESTROY before NETINFO", two(fixed(0x8000_0001, cell::DESTROY, &[0]))),
        (
            "PADDING_NEGOTIATE before NETINFO",
            two(fixed(0, cell::PADDING_NEGOTIATE, &[0, 1])),
        ),
        ("CERTS that is empty", two(variable(0, cell::CERTS, &[]))),
        ("CERTS that promises 255", two(certs(255, &[]))),
        (
            "CERTS with a length beyond its end",
            two(variable(0, cell::CERTS, &[1, 4, 0xff, 0xff, 0])),
        ),
        (
            "CERTS with nothing but garbage",
            two(certs(2, &[(4, &[7; 100]), (6, &[8; 100])])),
        ),
        (
            "CERTS with one type twice",
            two(certs(2, &[(4, &[7; 100]), (4, &[7; 100])])),
        ),
        ("CERTS of 65535 bytes", two(variable(0, cell::CERTS, &[255; 65_535]))),
        (
            "AUTHENTICATE without CERTS",
            two(variable(0, cell::AUTHENTICATE, &[0, 3, 1, 0x60])),
        ),
        (
            "AUTHENTICATE of the wrong length",
            two(variable(0, cell::AUTHENTICATE, &[0; 4])),
        ),
        (
            "AUTHENTICATE of 65535 bytes",
            two(variable(0, cell::AUTHENTICATE, &[3; 65_535])),
        ),
        ("AUTH_CHALLENGE to who called", {
            let mut challenge = vec![9; 32];
            challenge.extend_from_slice(&[0, 1, 0, 3]);
            two(variable(0, cell::AUTH_CHALLENGE, &challenge))
        }),
        ("NETINFO that promises 255 addresses", {
            let mut body = vec![0, 0, 0, 0, 4, 4, 127, 0, 0, 1, 255];
            body.resize(509, 255);
            two(fixed(0, cell::NETINFO, &body))
        }),
    ];
    all.extend(
        refused
            .into_iter()
            .map(|(name, cells)| instead_of_handshake(name, cells)),
    );
    all.extend([
        within_handshake("VPADDING of 1000 bytes", vec![variable(0, cell::VPADDING, &[1; 1000])]),
        within_handshake(
            "a cell of variable length that nobody knows",
            vec![variable(0, 250, &[1; 30])],
        ),
        within_handshake(
            "AUTHORIZE, which is reserved",
            vec![variable(0, cell::AUTHORIZE, &[1; 30])],
        ),
        within_handshake("PADDING", vec![fixed(0, cell::PADDING, &[]); 5]),
    ]);
    all
}
