//! HTTP/1.1 over any byte stream: one request, one bounded answer, a time-out on everything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::connect::{ByteStream, Connect};
use super::pace::Pace;
use super::{BadReply, RailError, Unreachable};

/// What an answer's body may be at most, unless more is asked for: an account with a thousand trust lines is about half
/// of this.
pub(crate) const LARGEST_BODY: usize = 1024 * 1024;
/// What an answer's head may be at most.
const LARGEST_HEAD: usize = 32 * 1024;
/// A question is asked again by itself when the server wants to be left alone for so many seconds at most.
const SOON: u32 = 3;
/// Idle connections kept per server.
const IDLE_CONNECTIONS: usize = 4;

/// A server: scheme, host, port and path prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) tls: bool,
    host: String,
    port: u16,
    prefix: String,
}

impl Base {
    /// Of a URL without query: `http://host[:port][/prefix]` or `https://...`.
    pub(crate) fn parse(url: &str) -> Option<Base> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let authority = uri.authority()?.as_str();
        // What follows the host is a port, or the authority has a part that we do not take.
        let port = match authority.strip_prefix(host)?.strip_prefix(':') {
            None if authority == host => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return None,
            Some(port) => port.parse().ok()?,
        };
        if bare.is_empty() || uri.query().is_some() {
            return None;
        }
        Some(Base {
            tls,
            host: bare.to_owned(),
            port,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let default_port = if self.tls { 443 } else { 80 };
        if self.port == default_port {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) retry_after: Option<u32>,
    pub(crate) location: Option<String>,
    /// The ledger that the answer is from (`Latest-Ledger`), where the server says so.
    pub(crate) latest_ledger: Option<u32>,
}

/// What a request carries.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) content_type: &'static str,
    pub(crate) bytes: Bytes,
}

/// How a request failed; whether it may have reached the server decides what a submission is afterwards.
#[derive(Debug)]
pub(crate) struct HttpError {
    pub(crate) error: RailError,
    pub(crate) may_have_arrived: bool,
}

/// A client of one server, with a few idle connections.
pub(crate) struct HttpClient {
    base: Base,
    connector: Arc<dyn Connect>,
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    connect_timeout: Duration,
    pace: Pace,
}

impl HttpClient {
    pub(crate) fn new(base: Base, connector: Arc<dyn Connect>, connect_timeout: Duration) -> HttpClient {
        let tls = base.tls.then(|| {
            let roots = RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            };
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring supports the default protocol versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            TlsConnector::from(Arc::new(config))
        });
        HttpClient {
            base,
            connector,
            tls,
            idle: Mutex::new(Vec::new()),
            connect_timeout,
            pace: Pace::new(None),
        }
    }

    /// Asked at most so often in a minute.
    pub(crate) fn paced(mut self, requests_per_minute: Option<u32>) -> HttpClient {
        self.pace = Pace::new(requests_per_minute);
        self
    }

    /// The path's answer.
    pub(crate) async fn get(&self, path: &str, timeout: Duration) -> Result<Answer, RailError> {
        self.ask(Method::GET, path, None, timeout, LARGEST_BODY).await
    }

    /// The answer to a question, which may be asked twice: when an idle connection turns out closed, and when the server
    /// asks to come again soon.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        timeout: Duration,
        largest: usize,
    ) -> Result<Answer, RailError> {
        let deadline = Instant::now() + timeout;
        loop {
            self.pace.pass(deadline).await?;
            let attempt = self.attempt(method.clone(), path, body.clone(), largest);
            let answer = tokio::time::timeout_at(deadline, attempt)
                .await
                .unwrap_or(Err(RailError::Unreachable(Unreachable::TimedOut)))?;
            match self.heed(&answer) {
                // Turns are given only for what is soon enough: this ends.
                Some(seconds) if seconds <= SOON => {}
                _ => return Ok(answer),
            }
        }
    }

    /// Leaves the server alone if its answer asks for that; for how many seconds.
    fn heed(&self, answer: &Answer) -> Option<u32> {
        let busy = matches!(
            answer.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let seconds = answer.retry_after.filter(|seconds| busy && *seconds > 0)?;
        self.pace.silence(seconds);
        Some(seconds)
    }

    async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        largest: usize,
    ) -> Result<Answer, RailError> {
        while let Some(mut connection) = self.take_idle().await {
            let request = self.request(method.clone(), path, body.clone())?;
            match exchange(&mut connection, request, largest).await {
                Ok(answer) => {
                    self.keep(connection).await;
                    return Ok(answer);
                }
                // A server may close an idle connection at any time: that says nothing about the request.
                Err(RailError::Unreachable(_)) => {}
                Err(other) => return Err(other),
            }
        }
        let mut connection = self.open().await?;
        let answer = exchange(&mut connection, self.request(method, path, body)?, largest).await?;
        self.keep(connection).await;
        Ok(answer)
    }

    /// Posts what must not be posted twice unknowingly, always on a new connection, so that an error before it is sent can
    /// be told from one after.
    pub(crate) async fn post_once(&self, path: &str, body: Body, timeout: Duration) -> Result<Answer, HttpError> {
        let before = |error| HttpError {
            error,
            may_have_arrived: false,
        };
        let after = |error| HttpError {
            error,
            may_have_arrived: true,
        };
        self.pace.pass(Instant::now() + timeout).await.map_err(before)?;
        let mut connection = self.open().await.map_err(before)?;
        let request = self.request(Method::POST, path, Some(body)).map_err(before)?;
        let answer = tokio::time::timeout(timeout, exchange(&mut connection, request, LARGEST_BODY))
            .await
            .unwrap_or(Err(RailError::Unreachable(Unreachable::TimedOut)))
            .map_err(after)?;
        self.heed(&answer);
        self.keep(connection).await;
        Ok(answer)
    }

    fn request(&self, method: Method, path: &str, body: Option<Body>) -> Result<Request<Full<Bytes>>, RailError> {
        let path = if path.is_empty() && self.base.prefix.is_empty() {
            "/"
        } else {
            path
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base.prefix))
            .header(header::HOST, self.base.authority())
            .header(header::ACCEPT, "application/json");
        if let Some(body) = &body {
            request = request.header(header::CONTENT_TYPE, body.content_type);
        }
        request
            .body(Full::new(body.map_or_else(Bytes::new, |body| body.bytes)))
            .map_err(|_| RailError::BadReply(BadReply::NotHttp))
    }

    async fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().await;
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    async fn keep(&self, mut connection: SendRequest<Full<Bytes>>) {
        // Ready again once the answer was read; a connection that the server closes is not kept.
        if tokio::time::timeout(Duration::from_millis(100), connection.ready())
            .await
            .is_ok_and(|ready| ready.is_ok())
        {
            let mut idle = self.idle.lock().await;
            if idle.len() < IDLE_CONNECTIONS {
                idle.push(connection);
            }
        }
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, RailError> {
        let open = async {
            let plain = self
                .connector
                .connect(&self.base.host, self.base.port)
                .await
                .map_err(|e| RailError::Unreachable(Unreachable::Connect(e.kind())))?;
            let stream: Box<dyn ByteStream> = match &self.tls {
                None => plain,
                Some(tls) => {
                    let name = ServerName::try_from(self.base.host.clone())
                        .map_err(|_| RailError::Unreachable(Unreachable::Tls))?;
                    let stream = tls
                        .connect(name, plain)
                        .await
                        .map_err(|_| RailError::Unreachable(Unreachable::Tls))?;
                    Box::new(stream)
                }
            };
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(LARGEST_HEAD)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|_| RailError::Unreachable(Unreachable::Broken))?;
            // Ends when the sender is dropped or the server closes.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::trace!(%error, "a connection to a ledger server ended");
                }
            });
            Ok(sender)
        };
        tokio::time::timeout(self.connect_timeout, open)
            .await
            .unwrap_or(Err(RailError::Unreachable(Unreachable::TimedOut)))
    }
}

async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    largest: usize,
) -> Result<Answer, RailError> {
    let broken = |e: hyper::Error| {
        if e.is_parse() {
            RailError::BadReply(BadReply::NotHttp)
        } else {
            RailError::Unreachable(Unreachable::Broken)
        }
    };
    connection.ready().await.map_err(broken)?;
    let answer = connection.send_request(request).await.map_err(broken)?;
    let (head, body) = answer.into_parts();
    let location = head
        .headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let number =
        |name: header::HeaderName| -> Option<u32> { head.headers.get(name)?.to_str().ok()?.trim().parse().ok() };
    let retry_after = number(header::RETRY_AFTER);
    let latest_ledger = number(header::HeaderName::from_static("latest-ledger"));
    let body = Limited::new(body, largest).collect().await.map_err(|e| {
        if e.is::<LengthLimitError>() {
            RailError::BadReply(BadReply::TooLong)
        } else {
            RailError::Unreachable(Unreachable::Broken)
        }
    })?;
    Ok(Answer {
        status: head.status,
        body: body.to_bytes(),
        retry_after,
        location,
        latest_ledger,
    })
}
