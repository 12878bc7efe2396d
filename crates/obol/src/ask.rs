//! Questions to a program on this machine, each answered in time or not at all.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// Longest first line of an answer, bytes.
const MOST_LINE: usize = 256;
/// Longest answer, bytes.
const MOST: usize = 16 << 20;

/// The body of a page of a local interface.
pub(crate) fn page(address: SocketAddr, path: &str, token: Option<&str>, patience: Duration) -> anyhow::Result<String> {
    let answer = found(address, path, token, patience)?.rest()?;
    let answer = String::from_utf8(answer).context("the answer is not text")?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.context("the answer ends within its head")
}

/// Asks for a page, and reads that it is there: status 200. The rest of the answer is still to come.
pub(crate) fn found(
    address: SocketAddr,
    path: &str,
    token: Option<&str>,
    patience: Duration,
) -> anyhow::Result<Stream> {
    let mut stream = connect(address, patience)?;
    // The gateway answers only to whoever names it by its address.
    let token = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\n{token}Connection: close\r\n\r\n",
        stream.peer()?
    );
    stream.send(request.as_bytes())?;
    let line = stream.line()?;
    let status = line.split(' ').nth(1);
    ensure!(
        line.starts_with("HTTP/1.") && status == Some("200"),
        "{address} answers {line:?} for {path}"
    );
    Ok(stream)
}

/// A connection of which each step ends when the whole time is over.
pub(crate) struct Stream {
    stream: TcpStream,
    end: Instant,
}

pub(crate) fn connect(address: SocketAddr, patience: Duration) -> anyhow::Result<Stream> {
    ensure!(
        address.port() != 0,
        "{address} has no port of its own: nobody knows which one it got"
    );
    // Whoever listens everywhere is found here.
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    let address = SocketAddr::new(ip, address.port());
    let end = Instant::now() + patience;
    let stream =
        TcpStream::connect_timeout(&address, patience).with_context(|| format!("nobody answers at {address}"))?;
    Ok(Stream { stream, end })
}

impl Stream {
    pub(crate) fn peer(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.stream.peer_addr()?)
    }

    fn left(&self) -> anyhow::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer in time");
        Ok(left)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes).context("the connection was cut")
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        for byte in buffer {
            self.stream.set_read_timeout(Some(self.left()?))?;
            self.stream
                .read_exact(std::slice::from_mut(byte))
                .context("no answer in time, or the connection was cut")?;
        }
        Ok(())
    }

    /// Everything until the other side ends.
    pub(crate) fn rest(mut self) -> anyhow::Result<Vec<u8>> {
        let (mut all, mut some) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            self.stream.set_read_timeout(Some(self.left()?))?;
            let length = self
                .stream
                .read(&mut some)
                .context("no answer in time, or the connection was cut")?;
            if length == 0 {
                return Ok(all);
            }
            ensure!(all.len() + length <= MOST, "the answer has more than {MOST} bytes");
            all.extend_from_slice(&some[..length]);
        }
    }

    /// The first line, without its end.
    pub(crate) fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            ensure!(line.len() < MOST_LINE, "the answer is not HTTP");
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
