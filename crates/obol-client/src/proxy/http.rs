//! HTTP CONNECT (RFC 9110, section 9.3.6; Tor proposal 365 for the isolating headers), and the file that tells browsers of the proxy.

use std::io;
use std::net::SocketAddr;

use arti_client::ErrorKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::isolation::StreamIsolation;
use super::{Dialect, Failure, Heard, Wanted};

/// The longest head of a request.
const MOST_HEAD: usize = 8 * 1024;

/// Reads a request. `None`: it was refused, or the application left.
pub(super) async fn hear(app: &mut TcpStream) -> io::Result<Option<Heard>> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if head.len() >= MOST_HEAD {
            refuse(app, "431 Request Header Fields Too Large", "The request is too long.").await?;
            return Ok(None);
        }
        if app.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    };
    let early = head.split_off(end + 4);
    if head.starts_with(b"GET /proxy.pac HTTP/1.") {
        let text = automatic(app.local_addr()?);
        answer(app, "200 OK", "application/x-ns-proxy-autoconfig", &text).await?;
        return Ok(None);
    }
    match parse(&head) {
        Ok((wanted, isolation)) => Ok(Some(Heard {
            wanted,
            isolation,
            dialect: Dialect::Http,
            early,
        })),
        Err(Refused { status, text }) => {
            refuse(app, status, text).await?;
            Ok(None)
        }
    }
}

/// The file for browsers (proxy auto-configuration): everything but this machine itself goes through the proxy, names included, and nothing past it.
fn automatic(proxy: SocketAddr) -> String {
    format!(
        "function FindProxyForURL(url, host) {{\n\
         \x20 if (host === \"localhost\" || host === \"127.0.0.1\" || host === \"[::1]\" || host === \"::1\") return \"DIRECT\";\n\
         \x20 return \"SOCKS5 {proxy}; SOCKS {proxy}\";\n\
         }}\n"
    )
}

#[derive(Debug, PartialEq, Eq)]
struct Refused {
    status: &'static str,
    text: &'static str,
}

const NOT_A_REQUEST: Refused = Refused {
    status: "400 Bad Request",
    text: "This is not an HTTP request that can be read.",
};

fn parse(head: &[u8]) -> Result<(Wanted, StreamIsolation), Refused> {
    let head = std::str::from_utf8(head).map_err(|_| NOT_A_REQUEST)?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (first.next(), first.next(), first.next());
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(NOT_A_REQUEST);
    }
    if method != Some("CONNECT") {
        return Err(Refused {
            status: "405 Method Not Allowed",
            text: "This is a Tor proxy: it knows SOCKS and the HTTP method CONNECT.",
        });
    }
    let (host, port) = target.and_then(|target| target.rsplit_once(':')).ok_or(NOT_A_REQUEST)?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let port = port.parse().map_err(|_| NOT_A_REQUEST)?;
    let mut isolation = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        for known in ["proxy-authorization", "x-tor-stream-isolation", "tor-stream-isolation"] {
            if name.eq_ignore_ascii_case(known) {
                isolation.extend_from_slice(known.as_bytes());
                isolation.push(0);
                isolation.extend_from_slice(value.trim().as_bytes());
                isolation.push(0);
            }
        }
    }
    let isolation = if isolation.is_empty() {
        StreamIsolation::None
    } else {
        StreamIsolation::Http(isolation)
    };
    let host = host.to_owned();
    Ok((Wanted::Connect { host, port }, isolation))
}

/// The stream is open.
pub(super) async fn succeeded(app: &mut TcpStream) -> io::Result<()> {
    app.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await
}

/// The stream could not be opened.
pub(super) async fn failed(app: &mut TcpStream, failure: Failure) -> io::Result<()> {
    let kind = match failure {
        Failure::Tor(kind) => kind,
        Failure::NoPaidPath => {
            let text = "No path was found whose relays can all be paid within the ceilings, and paths = \"only\".";
            return refuse(app, "503 Service Unavailable", text).await;
        }
    };
    let status = match kind {
        ErrorKind::ForbiddenStreamTarget | ErrorKind::ExitPolicyRejected => "403 Forbidden",
        ErrorKind::InvalidStreamTarget => "400 Bad Request",
        ErrorKind::ExitTimeout | ErrorKind::RemoteNetworkTimeout | ErrorKind::TorNetworkTimeout => {
            "504 Gateway Timeout"
        }
        _ => "502 Bad Gateway",
    };
    refuse(app, status, &kind.to_string()).await
}

async fn refuse(app: &mut TcpStream, status: &str, text: &str) -> io::Result<()> {
    answer(app, status, "text/plain; charset=utf-8", &format!("{text}\n")).await
}

async fn answer(app: &mut TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    app.write_all(head.as_bytes()).await?;
    app.write_all(body.as_bytes()).await?;
    app.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_for_browsers_names_the_proxy_and_no_way_past_it() {
        let text = automatic("127.0.0.1:9150".parse().unwrap());
        assert!(
            text.contains("return \"SOCKS5 127.0.0.1:9150; SOCKS 127.0.0.1:9150\""),
            "{text}"
        );
        assert_eq!(text.matches("DIRECT").count(), 1, "for this machine alone");
    }

    fn target(head: &str) -> Result<(Wanted, StreamIsolation), Refused> {
        parse(head.as_bytes())
    }

    #[test]
    fn a_connect_request_names_host_and_port() {
        let wanted = |host: &str, port| Wanted::Connect {
            host: host.to_owned(),
            port,
        };
        let (got, isolation) = target("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443").unwrap();
        assert_eq!((got, isolation), (wanted("example.com", 443), StreamIsolation::None));
        let (got, _) = target("CONNECT [::1]:80 HTTP/1.1").unwrap();
        assert_eq!(got, wanted("::1", 80));
    }

    #[test]
    fn requests_with_different_credentials_are_isolated() {
        let of = |header: &str| target(&format!("CONNECT a:1 HTTP/1.1\r\n{header}")).unwrap().1;
        let one = of("Proxy-Authorization: Basic YTpi");
        assert_eq!(one, of("proxy-authorization:  Basic YTpi"));
        assert_ne!(one, of("Proxy-Authorization: Basic YTpj"));
        assert_ne!(one, of("X-Tor-Stream-Isolation: Basic YTpi"));
    }

    #[test]
    fn other_methods_and_garbage_are_refused() {
        assert_eq!(target("GET / HTTP/1.1").unwrap_err().status, "405 Method Not Allowed");
        for head in ["CONNECT", "CONNECT a HTTP/1.1", "CONNECT a:99999 HTTP/1.1", "HELLO", ""] {
            assert_eq!(target(head).unwrap_err(), NOT_A_REQUEST, "{head:?}");
        }
    }
}
