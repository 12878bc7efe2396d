//! Serving directory requests on BEGIN_DIR streams (and any other byte stream).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use super::answer::answer;
use super::documents::Documents;
use super::hsdir::{self, Held, HsDir};
use super::http::{HttpError, Limits, Response, format_date, read_request, write_response};
use super::limit::{ClientShare, Limit};

/// What a client may send: C Tor's own limit for the head. Only onion services send a body here, and its limit is the
/// consensus' affair.
const LIMITS: Limits = Limits {
    head: 50_000,
    body: hsdir::MAX_LENGTH,
    patience: Duration::from_secs(60),
};

/// A whole request comes within this time.
const REQUEST: Duration = Duration::from_secs(60);

/// Requests that are served at one time. More of them get `503 Directory busy`.
const AT_ONCE: usize = 1024;

/// How many of those places clients leave to relays, which fetch for many.
const FOR_RELAYS: usize = 128;

/// Answers directory requests from documents that somebody else keeps fresh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DirCache {
    /// The documents as they are now.
    documents: watch::Receiver<Arc<Documents>>,
    /// Places for requests.
    places: Arc<Semaphore>,
    /// What one client address may have.
    limit: Limit,
    /// Descriptors of onion services.
    onion_services: HsDir,
}

impl DirCache {
    /// A cache that serves whatever `documents` holds at the time of each request.
    pub fn new(documents: watch::Receiver<Arc<Documents>>) -> DirCache {
        DirCache {
            documents,
            places: Arc::new(Semaphore::new(AT_ONCE)),
            limit: Limit::default(),
            onion_services: HsDir::default(),
        }
    }

    /// The same documents, for clients that get this much of them.
    pub fn sharing(self, share: ClientShare) -> DirCache {
        DirCache {
            limit: Limit::new(share),
            ..self
        }
    }

    /// The same, with so many bytes of memory for the descriptors of onion services.
    pub fn keeping(self, onion_descriptors: u64) -> DirCache {
        self.set_onion_memory(onion_descriptors);
        self
    }

    /// Sets how many bytes of memory the descriptors of onion services may take, from the next one on.
    pub fn set_onion_memory(&self, onion_descriptors: u64) {
        self.onion_services.limit_memory(onion_descriptors);
    }

    /// The onion services' descriptors that are held now.
    pub fn onion_services(&self) -> Held {
        self.onion_services.held()
    }

    /// From now on clients get this much, of this cache and of all its clones.
    pub fn set_share(&self, share: ClientShare) {
        self.limit.set_share(share);
    }

    /// Bytes of answers so far, and requests refused because their client's address had had its share.
    pub fn counted(&self) -> (u64, u64) {
        self.limit.counted()
    }

    /// Reads one request from `stream`, writes its answer, and closes our side. Nothing is reported: whatever goes wrong
    /// concerns this stream alone. `client`: the address of a client (IPv6: its /64); `None` for a neighbour that
    /// authenticated itself as a relay.
    pub async fn serve<S>(&self, mut stream: S, client: Option<IpAddr>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let pass = self.limit.admit(client, Instant::now());
        let documents = Arc::clone(&self.documents.borrow());
        let onion_descriptor = documents.onion_descriptor.unwrap_or(hsdir::MAX_LENGTH);
        let limits = Limits {
            body: onion_descriptor,
            ..LIMITS
        };
        let request = tokio::time::timeout(REQUEST, read_request(&mut stream, &limits)).await;
        let request = match request.unwrap_or(Err(HttpError::Stalled)) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                debug!(%error, "no directory request came");
                let _ = write_response(&mut stream, &Response::empty(400, "Bad request"), &LIMITS).await;
                return;
            }
        };
        // Only now: who says nothing has no place.
        let busy = pass.is_none() || (client.is_some() && self.places.available_permits() <= FOR_RELAYS);
        let place = if busy { None } else { self.places.try_acquire().ok() };
        let mut response = match (&pass, place.is_some()) {
            (Some(pass), true) => {
                let now = SystemTime::now();
                let of_onion_service = self
                    .onion_services
                    .answer(&request, client.is_none(), onion_descriptor, now)
                    .map(|mut response| {
                        response.headers.push("Date", format_date(now));
                        response
                    });
                let response = of_onion_service.unwrap_or_else(|| answer(&documents, &request, now));
                pass.charge(response.len() as u64);
                response
            }
            _ => Response::empty(503, "Directory busy, try again later"),
        };
        // Of an IPv6 address we are told the network only, and of a relay nothing.
        if let Some(IpAddr::V4(address)) = client {
            response.headers.push("X-Your-Address-Is", address.to_string());
        }
        debug!(
            path = request.path.get(..60).unwrap_or(&request.path),
            status = response.status,
            "directory request"
        );
        if let Err(error) = write_response(&mut stream, &response, &LIMITS).await {
            debug!(%error, "a directory answer was not taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::documents::Server;
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// The raw answer to a raw request.
    async fn served(cache: &DirCache, raw: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(100_000);
        client.write_all(raw).await.unwrap();
        cache.serve(server, Some(CLIENT)).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn cache() -> (watch::Sender<Arc<Documents>>, DirCache) {
        let mut documents = Documents::default();
        documents
            .servers
            .insert([1; 20], Server::new("router a\nrouter-signature\nsig\n".into()));
        let (sender, receiver) = watch::channel(Arc::new(documents));
        (sender, DirCache::new(receiver))
    }

    #[tokio::test]
    async fn a_request_on_a_stream_gets_its_document() {
        let (_keep, cache) = cache();
        let answer = served(&cache, b"GET /tor/server/all HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nX-Your-Address-Is: 192.0.2.1\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nrouter a\nrouter-signature\nsig\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn what_is_no_request_gets_400_and_a_request_with_a_body_too() {
        let (_keep, cache) = cache();
        assert!(served(&cache, b"\r\n\r\n").await.starts_with("HTTP/1.0 400 "));
        let post = b"POST /tor/ HTTP/1.0\r\nContent-Length: 100000000\r\n\r\n";
        assert!(served(&cache, post).await.starts_with("HTTP/1.0 400 "));
    }

    #[tokio::test]
    async fn who_says_nothing_has_no_place() {
        let (_keep, mut cache) = cache();
        cache.places = Arc::new(Semaphore::new(FOR_RELAYS + 1));
        let mut silent = Vec::new();
        for _ in 0..2 * FOR_RELAYS {
            let (client, server) = tokio::io::duplex(100);
            silent.push(client);
            let cache = cache.clone();
            tokio::spawn(async move { cache.serve(server, None).await });
        }
        tokio::task::yield_now().await;
        let answer = served(&cache, b"GET /tor/server/all HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_busy_cache_says_so() {
        let (_keep, mut cache) = cache();
        cache.places = Arc::new(Semaphore::new(0));
        let answer = served(&cache, b"GET /tor/server/all HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 503 Directory busy"), "{answer}");
    }
    #[tokio::test]
    async fn an_address_that_has_had_its_share_is_told_to_come_later_and_others_are_served() {
        let (_keep, cache) = cache();
        let cache = cache.sharing(ClientShare { bucket: 100, refill: 0 });
        let request = b"GET /tor/server/all HTTP/1.0\r\n\r\n";
        assert!(served(&cache, request).await.starts_with("HTTP/1.0 200 "));
        assert!(served(&cache, request).await.starts_with("HTTP/1.0 503 Directory busy"));
        let (mut relay, server) = tokio::io::duplex(100_000);
        relay.write_all(request).await.unwrap();
        cache.serve(server, None).await;
        let mut answer = String::new();
        relay.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
        let length = "router a\nrouter-signature\nsig\n".len() as u64;
        assert_eq!(cache.counted(), (2 * length, 1));
    }
}
