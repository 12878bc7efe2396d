//! The little of HTTP/1.0 that Tor's directory protocol uses: one request, one response, one connection.
//!
//! Both directions, over any byte stream, with every length bounded before memory is taken for it: a peer can make us
//! wait at most [`Limits::patience`] between two pieces, and hold at most [`Limits::head`] + [`Limits::body`] bytes.
//! See *dir-spec*, "Standards compliance" and "General-use HTTP URLs".

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much a peer may send, and how long it may pause.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the first line and the headers together.
    pub head: usize,
    /// Bytes of the body, before and after decompression.
    pub body: usize,
    /// The longest pause between two pieces of input or output.
    pub patience: Duration,
}

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The stream failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The peer made us wait too long.
    #[error("the peer was silent for too long")]
    Stalled,
    /// The peer sent more than [`Limits`] allow.
    #[error("the peer sent more than we accept")]
    TooLong,
    /// What came is not HTTP as we know it.
    #[error("not HTTP: {0}")]
    Malformed(&'static str),
}

/// Header lines, in order; names are compared without regard to case.
#[derive(Debug, Clone, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of the first header of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// All of them, name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds one.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Parses header lines (without the empty line that ends them).
    fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Headers, HttpError> {
        let mut headers = Headers::default();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or(HttpError::Malformed("a header without a colon"))?;
            headers.push(name.trim(), value.trim());
        }
        Ok(headers)
    }
}

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Fetch a document.
    Get,
    /// Hand one in.
    Post,
    /// Anything else, which nobody serves.
    Other,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// The path, without a host.
    pub path: String,
    /// The headers.
    pub headers: Headers,
    /// The body of a POST.
    pub body: Vec<u8>,
}

impl Request {
    /// A request for `path`.
    pub fn get(path: impl Into<String>) -> Request {
        Request {
            method: Method::Get,
            path: path.into(),
            headers: Headers::default(),
            body: Vec::new(),
        }
    }
}

/// A response, as it came or as it is to be sent.
#[derive(Debug, Clone)]
pub struct Response {
    /// 200, 304, 400, 404, 503.
    pub status: u16,
    /// The words after it. C Tor puts the reason for a refused upload there.
    pub reason: String,
    /// The headers, without `Content-Length`.
    pub headers: Headers,
    /// The body, in pieces that share the documents they are made of.
    pub body: Vec<Bytes>,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: u16, reason: impl Into<String>) -> Response {
        Response {
            status,
            reason: reason.into(),
            headers: Headers::default(),
            body: Vec::new(),
        }
    }

    /// Length of the body in bytes.
    pub fn len(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// Whether there is no body.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole body in one piece.
    pub fn concat(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        for piece in &self.body {
            all.extend_from_slice(piece);
        }
        all
    }

    /// Compresses the body, and says so in the headers.
    pub fn encode(&mut self, encoding: Encoding) -> std::io::Result<()> {
        if let Some(name) = encoding.name() {
            self.body = vec![Bytes::from(encoding.compress(&self.body)?)];
            self.headers.push("Content-Encoding", name);
        }
        Ok(())
    }
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// zlib (RFC 1950), which HTTP and Tor call `deflate`.
    Deflate,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// The name in `Content-Encoding`.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Encoding::Identity => None,
            Encoding::Deflate => Some("deflate"),
            Encoding::Gzip => Some("gzip"),
            Encoding::Zstd => Some("x-zstd"),
        }
    }

    /// The best that an `Accept-Encoding` header allows; identity without one. Compressed as it is sent, zstd is the
    /// cheapest for its size, as C Tor orders them too.
    pub fn preferred(accept: Option<&str>) -> Encoding {
        let accepted = |name: &str| {
            accept.is_some_and(|list| {
                list.split(',').any(|entry| {
                    let mut parts = entry.split(';').map(str::trim);
                    parts.next() == Some(name) && !parts.any(|q| q.replace(' ', "") == "q=0")
                })
            })
        };
        if accepted("x-zstd") {
            Encoding::Zstd
        } else if accepted("deflate") {
            Encoding::Deflate
        } else if accepted("gzip") {
            Encoding::Gzip
        } else {
            Encoding::Identity
        }
    }

    /// The compressed form of all pieces together.
    pub fn compress(self, pieces: &[Bytes]) -> std::io::Result<Vec<u8>> {
        match self {
            Encoding::Identity => Ok(pieces.concat()),
            Encoding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                write_all(&mut encoder, pieces)?;
                encoder.finish()
            }
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                write_all(&mut encoder, pieces)?;
                encoder.finish()
            }
            Encoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
                write_all(&mut encoder, pieces)?;
                encoder.finish()
            }
        }
    }
}

/// Writes all pieces into a compressor.
fn write_all(to: &mut impl std::io::Write, pieces: &[Bytes]) -> std::io::Result<()> {
    pieces.iter().try_for_each(|piece| to.write_all(piece))
}

/// Undoes a `Content-Encoding` of `deflate` or none, never growing beyond `limit`.
fn decompress(encoding: Option<&str>, body: Vec<u8>, limit: usize) -> Result<Vec<u8>, HttpError> {
    match encoding {
        None | Some("identity") => Ok(body),
        Some("deflate") => {
            let mut plain = Vec::new();
            flate2::read::ZlibDecoder::new(&body[..])
                .take(limit as u64 + 1)
                .read_to_end(&mut plain)
                .map_err(|_| HttpError::Malformed("a body that does not decompress"))?;
            if plain.len() > limit {
                return Err(HttpError::TooLong);
            }
            Ok(plain)
        }
        Some(_) => Err(HttpError::Malformed("an encoding that was not asked for")),
    }
}

/// Does `what` unless it takes longer than the peer may pause.
async fn in_time<T>(patience: Duration, what: impl Future<Output = std::io::Result<T>>) -> Result<T, HttpError> {
    match tokio::time::timeout(patience, what).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(HttpError::Stalled),
    }
}

/// Reads up to the empty line that ends the head. Returns the head and what was read beyond it.
async fn read_head<S>(stream: &mut S, limits: &Limits) -> Result<Option<(String, Vec<u8>)>, HttpError>
where
    S: AsyncRead + Unpin,
{
    let mut buffer = Vec::new();
    let mut searched = 0_usize;
    loop {
        let from = searched.saturating_sub(3);
        let found = buffer[from..]
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .map(|at| (from + at, 4));
        // C Tor also takes bare line feeds; so do we.
        let found = found.or_else(|| {
            buffer[from..]
                .windows(2)
                .position(|w| w == b"\n\n")
                .map(|at| (from + at, 2))
        });
        if let Some((end, separator)) = found {
            let rest = buffer.split_off(end + separator);
            let head = String::from_utf8(buffer).map_err(|_| HttpError::Malformed("a head that is not UTF-8"))?;
            return Ok(Some((head, rest)));
        }
        searched = buffer.len();
        if buffer.len() > limits.head {
            return Err(HttpError::TooLong);
        }
        let mut piece = [0_u8; 4096];
        let n = in_time(limits.patience, stream.read(&mut piece)).await?;
        if n == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(HttpError::Malformed("a head that stops"))
            };
        }
        buffer.extend_from_slice(&piece[..n]);
    }
}

/// Reads a body: `length` bytes if the peer announced so many, otherwise all until the end of the stream.
async fn read_body<S>(
    stream: &mut S,
    mut body: Vec<u8>,
    length: Option<usize>,
    limits: &Limits,
) -> Result<Vec<u8>, HttpError>
where
    S: AsyncRead + Unpin,
{
    if length.is_some_and(|length| length > limits.body) {
        return Err(HttpError::TooLong);
    }
    let wanted = length.unwrap_or(usize::MAX);
    let mut piece = vec![0_u8; 16 * 1024];
    while body.len() < wanted {
        if body.len() > limits.body {
            return Err(HttpError::TooLong);
        }
        let n = in_time(limits.patience, stream.read(&mut piece)).await?;
        if n == 0 {
            break;
        }
        body.extend_from_slice(&piece[..n]);
    }
    match length {
        Some(length) if body.len() < length => Err(HttpError::Malformed("a body that stops")),
        Some(length) => {
            body.truncate(length);
            Ok(body)
        }
        None => Ok(body),
    }
}

/// The announced length of a body.
fn content_length(headers: &Headers) -> Result<Option<usize>, HttpError> {
    headers
        .get("Content-Length")
        .map(|value| {
            value
                .parse()
                .map_err(|_| HttpError::Malformed("a length that is no number"))
        })
        .transpose()
}

/// Reads one request; `None` if the peer closed without asking anything.
pub async fn read_request<S>(stream: &mut S, limits: &Limits) -> Result<Option<Request>, HttpError>
where
    S: AsyncRead + Unpin,
{
    let Some((head, rest)) = read_head(stream, limits).await? else {
        return Ok(None);
    };
    let mut lines = head.lines();
    let mut first = lines
        .next()
        .unwrap_or_default()
        .split(' ')
        .filter(|word| !word.is_empty());
    let method = match first.next() {
        Some("GET") => Method::Get,
        Some("POST") => Method::Post,
        Some(_) => Method::Other,
        None => return Err(HttpError::Malformed("no request line")),
    };
    let target = first.next().ok_or(HttpError::Malformed("no path"))?;
    let path = match target.strip_prefix("http://") {
        Some(absolute) => absolute.find('/').map_or("/", |slash| &absolute[slash..]),
        None => target,
    }
    .to_owned();
    let headers = Headers::parse(lines)?;
    let body = match method {
        Method::Get => Vec::new(),
        Method::Post | Method::Other => {
            let length = content_length(&headers)?.unwrap_or(0);
            read_body(stream, rest, Some(length), limits).await?
        }
    };
    Ok(Some(Request {
        method,
        path,
        headers,
        body,
    }))
}

/// Writes a response and ends our side of the stream.
pub async fn write_response<S>(stream: &mut S, response: &Response, limits: &Limits) -> Result<(), HttpError>
where
    S: AsyncWrite + Unpin,
{
    let mut head = Vec::with_capacity(256);
    write!(head, "HTTP/1.0 {} {}\r\n", response.status, response.reason)?;
    for (name, value) in &response.headers.0 {
        write!(head, "{name}: {value}\r\n")?;
    }
    write!(head, "Content-Length: {}\r\n\r\n", response.len())?;
    in_time(limits.patience, stream.write_all(&head)).await?;
    for piece in &response.body {
        // Piece by piece, so that patience is about progress and not about size.
        for chunk in piece.chunks(64 * 1024) {
            in_time(limits.patience, stream.write_all(chunk)).await?;
        }
    }
    in_time(limits.patience, stream.flush()).await?;
    in_time(limits.patience, stream.shutdown()).await
}

/// Sends a request on a fresh stream and reads the whole answer, decompressed.
pub async fn exchange<S>(stream: &mut S, host: &str, request: &Request, limits: &Limits) -> Result<Response, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::with_capacity(256);
    let method = if request.method == Method::Post { "POST" } else { "GET" };
    write!(
        head,
        "{method} {} HTTP/1.0\r\nHost: {host}\r\nAccept-Encoding: deflate, identity\r\n",
        request.path
    )?;
    for (name, value) in &request.headers.0 {
        write!(head, "{name}: {value}\r\n")?;
    }
    if request.method == Method::Post {
        write!(head, "Content-Length: {}\r\n", request.body.len())?;
    }
    head.extend_from_slice(b"\r\n");
    in_time(limits.patience, stream.write_all(&head)).await?;
    in_time(limits.patience, stream.write_all(&request.body)).await?;
    in_time(limits.patience, stream.flush()).await?;

    let (head, rest) = read_head(stream, limits)
        .await?
        .ok_or(HttpError::Malformed("no answer"))?;
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    if !first.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(HttpError::Malformed("no status line"));
    }
    let status = first
        .next()
        .and_then(|code| code.parse().ok())
        .ok_or(HttpError::Malformed("no status"))?;
    let reason = first.next().unwrap_or_default().to_owned();
    let headers = Headers::parse(lines)?;
    let length = if status == 304 {
        Some(0)
    } else {
        content_length(&headers)?
    };
    let body = read_body(stream, rest, length, limits).await?;
    let body = decompress(headers.get("Content-Encoding"), body, limits.body)?;
    Ok(Response {
        status,
        reason,
        headers,
        body: vec![Bytes::from(body)],
    })
}

/// The form of dates in HTTP headers (RFC 9110, 5.6.7).
const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// `when` as HTTP writes it; empty for a time that has no such form.
pub fn format_date(when: SystemTime) -> String {
    OffsetDateTime::from(when).format(HTTP_DATE).unwrap_or_default()
}

/// The time that a header names.
pub fn parse_date(date: &str) -> Option<SystemTime> {
    let date = PrimitiveDateTime::parse(date, HTTP_DATE).ok()?;
    Some(date.assume_utc().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: 1000,
        body: 10_000,
        patience: Duration::from_secs(30),
    };

    fn response(text: &str) -> Response {
        let mut response = Response::empty(200, "OK");
        response.body.push(Bytes::from(text.to_owned()));
        response
    }

    /// What `exchange` makes of `raw`.
    async fn answered_with(raw: Vec<u8>) -> Result<Response, HttpError> {
        let (mut ours, mut theirs) = tokio::io::duplex(100_000);
        theirs.write_all(&raw).await.unwrap();
        theirs.shutdown().await.unwrap();
        exchange(&mut ours, "host", &Request::get("/"), &LIMITS).await
    }

    #[tokio::test]
    async fn a_request_and_its_answer_cross_a_stream() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let serving = async {
            let request = read_request(&mut server, &LIMITS).await.unwrap().unwrap();
            assert_eq!(request.method, Method::Post);
            assert_eq!(request.path, "/tor/");
            assert_eq!(request.headers.get("x-thing"), Some("7"));
            assert_eq!(request.body, b"a document");
            let mut answer = response("thank you");
            answer.encode(Encoding::Deflate).unwrap();
            write_response(&mut server, &answer, &LIMITS).await.unwrap();
        };
        let mut request = Request::get("/tor/");
        request.method = Method::Post;
        request.body = b"a document".to_vec();
        request.headers.push("X-Thing", "7");
        let (answer, ()) = tokio::join!(exchange(&mut client, "host", &request, &LIMITS), serving);
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.concat().as_slice()), (200, &b"thank you"[..]));
    }

    #[tokio::test]
    async fn a_body_that_decompresses_without_end_is_refused() {
        let bomb = Encoding::Deflate
            .compress(&[Bytes::from(vec![0_u8; 5_000_000])])
            .unwrap();
        assert!(bomb.len() < LIMITS.body);
        let mut raw = b"HTTP/1.0 200 OK\r\nContent-Encoding: deflate\r\n\r\n".to_vec();
        raw.extend(bomb);
        assert!(matches!(answered_with(raw).await, Err(HttpError::TooLong)));
    }

    #[tokio::test]
    async fn a_head_or_a_body_without_end_is_refused() {
        let long_head = [b"HTTP/1.0 200 OK\r\nA: ".to_vec(), vec![b'a'; 5000]].concat();
        assert!(matches!(answered_with(long_head).await, Err(HttpError::TooLong)));
        let long_body = [b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), vec![b'a'; 50_000]].concat();
        assert!(matches!(answered_with(long_body).await, Err(HttpError::TooLong)));
        let claims = b"HTTP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec();
        assert!(matches!(answered_with(claims).await, Err(HttpError::TooLong)));
    }

    #[tokio::test]
    async fn a_body_shorter_than_announced_is_refused() {
        let short = b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec();
        assert!(matches!(answered_with(short).await, Err(HttpError::Malformed(_))));
    }

    #[tokio::test]
    async fn a_peer_that_never_finishes_its_request_is_left() {
        let (_client, mut server) = tokio::io::duplex(64);
        let impatient = Limits {
            patience: Duration::ZERO,
            ..LIMITS
        };
        assert!(matches!(
            read_request(&mut server, &impatient).await,
            Err(HttpError::Stalled)
        ));
    }

    #[test]
    fn the_encoding_is_the_best_that_was_asked_for_and_none_without_asking() {
        assert_eq!(Encoding::preferred(None), Encoding::Identity);
        assert_eq!(
            Encoding::preferred(Some("deflate, gzip, x-tor-lzma, x-zstd")),
            Encoding::Zstd
        );
        assert_eq!(Encoding::preferred(Some("gzip,identity")), Encoding::Gzip);
        assert_eq!(Encoding::preferred(Some("deflate;q=0, identity")), Encoding::Identity);
        assert_eq!(Encoding::preferred(Some("br")), Encoding::Identity);
    }

    #[test]
    fn dates_keep_their_meaning() {
        let when = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        assert_eq!(format_date(when), "Sun, 13 Sep 2020 12:26:40 GMT");
        assert_eq!(parse_date("Sun, 13 Sep 2020 12:26:40 GMT"), Some(when));
        assert_eq!(parse_date("yesterday"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(raw in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _ = answered_with(raw.clone()).await;
                let _ = read_request(&mut &raw[..], &LIMITS).await;
            });
        }
    }
}
