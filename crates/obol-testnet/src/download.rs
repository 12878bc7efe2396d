//! A download through a SOCKS port, hashed as it comes: what a user's browser would do, in one call.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

/// Why a download did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The proxy could not be reached, or could not connect to the target.
    #[error("the SOCKS proxy at {proxy} could not connect to {target}: {error}")]
    Proxy {
        /// The proxy.
        proxy: SocketAddr,
        /// What was asked for.
        target: SocketAddr,
        /// What the proxy said.
        error: tokio_socks::Error,
    },
    /// HTTP failed on the way.
    #[error("the download broke off after {received} bytes: {error}")]
    Http {
        /// Body bytes received before.
        received: u64,
        /// What hyper said.
        error: hyper::Error,
    },
    /// The server answered something other than 200.
    #[error("the server answered {0}")]
    Status(u16),
    /// Nothing arrived for a long time.
    #[error("nothing came for {} s, after {received} bytes", waited.as_secs())]
    Stalled {
        /// Body bytes received before.
        received: u64,
        /// How long nothing came.
        waited: Duration,
    },
}

/// What was downloaded, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Downloaded {
    /// Body bytes.
    pub bytes: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
    /// From the request to the first byte of the body.
    pub first_byte: Duration,
    /// From the request to the last byte.
    pub total: Duration,
}

/// How long a download may stand still before it counts as failed.
const STALL: Duration = Duration::from_secs(60);

/// The response to a GET for `http://target{path}` through the SOCKS5 port `proxy`, and the task that drives its connection.
async fn get(
    proxy: SocketAddr,
    isolation: &str,
    target: SocketAddr,
    path: &str,
) -> Result<(hyper::body::Incoming, AbortOnDrop), DownloadError> {
    let stream: Socks5Stream<TcpStream> = Socks5Stream::connect_with_password(proxy, target, isolation, "obol")
        .await
        .map_err(|error| DownloadError::Proxy { proxy, target, error })?;
    let http = |error| DownloadError::Http { received: 0, error };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream.into_inner()))
        .await
        .map_err(http)?;
    let connection = AbortOnDrop(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let request = Request::get(path)
        .header(header::HOST, target.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("a path and two fixed headers make a request");
    let response = sender.send_request(request).await.map_err(http)?;
    if response.status() != hyper::StatusCode::OK {
        return Err(DownloadError::Status(response.status().as_u16()));
    }
    Ok((response.into_body(), connection))
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The next piece of a body; `None` at its end.
async fn next(body: &mut hyper::body::Incoming, received: u64) -> Result<Option<Bytes>, DownloadError> {
    loop {
        match tokio::time::timeout(STALL, body.frame()).await {
            Err(_) => {
                return Err(DownloadError::Stalled {
                    received,
                    waited: STALL,
                });
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(DownloadError::Http { received, error }),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Downloads `http://target{path}` through the SOCKS5 port `proxy`. `isolation` (a SOCKS user name) keeps its
/// circuits apart from others'. `progress` is told the bytes received so far.
///
/// # Errors
/// See [`DownloadError`].
pub async fn download(
    proxy: SocketAddr,
    isolation: &str,
    target: SocketAddr,
    path: &str,
    mut progress: impl FnMut(u64),
) -> Result<Downloaded, DownloadError> {
    let started = Instant::now();
    let (mut body, _connection) = get(proxy, isolation, target, path).await?;
    let (mut hash, mut bytes, mut first_byte) = (Sha256::new(), 0u64, None);
    while let Some(data) = next(&mut body, bytes).await? {
        first_byte.get_or_insert_with(|| started.elapsed());
        hash.update(&data);
        bytes += data.len() as u64;
        progress(bytes);
    }
    let total = started.elapsed();
    Ok(Downloaded {
        bytes,
        sha256: hash.finalize().into(),
        first_byte: first_byte.unwrap_or(total),
        total,
    })
}

/// Downloads and throws away, until the body ends (an endless one does not) or this future is dropped.
///
/// # Errors
/// See [`DownloadError`].
pub async fn drain(proxy: SocketAddr, isolation: &str, target: SocketAddr, path: &str) -> Result<u64, DownloadError> {
    let (mut body, _connection) = get(proxy, isolation, target, path).await?;
    let mut bytes = 0u64;
    while let Some(data) = next(&mut body, bytes).await? {
        bytes += data.len() as u64;
    }
    Ok(bytes)
}
