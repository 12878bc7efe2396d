//! A served ledger and a small client.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use obol_ledger::server::{self, ServerHandle};
use obol_ledger::{Closing, Ledger, LedgerConfig};
use serde_json::Value;
use stellar_xdr::Asset;

use super::{bytes, op, pay, raw, signed, transaction};

/// A ledger and its server.
pub struct Served {
    pub ledger: Arc<Ledger>,
    pub server: ServerHandle,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub fn problem(&self, status: u16, kind: &str) -> Value {
        let body = self.json();
        assert_eq!(
            self.headers["content-type"], "application/problem+json; charset=utf-8",
            "{body}"
        );
        assert_eq!(
            (self.status.as_u16(), &body["status"]),
            (status, &Value::from(status)),
            "{body}"
        );
        assert_eq!(
            body["type"],
            format!("https://stellar.org/horizon-errors/{kind}"),
            "{body}"
        );
        body
    }
}

pub async fn exchange(addr: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

impl Served {
    pub async fn start(config: LedgerConfig) -> Self {
        let ledger = Arc::new(Ledger::open(config).unwrap());
        let server = server::serve(Arc::clone(&ledger), "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        Self { ledger, server }
    }

    pub async fn on_demand() -> Self {
        Self::start(LedgerConfig {
            closing: Closing::OnDemand,
            allow_advance: true,
            ..LedgerConfig::default()
        })
        .await
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.server.addr().to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = exchange(self.server.addr(), request).await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn form(&self, path: &str, envelope: &[u8]) -> Answer {
        let encoded = BASE64
            .encode(envelope)
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.send("POST", path, &headers, format!("tx={encoded}")).await
    }

    pub async fn fund(&self, key: &SigningKey) {
        let answer = self
            .send("POST", &format!("/friendbot?addr={}", address(key)), &[], "")
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    pub fn payment(&self, from: &SigningKey, to: &SigningKey, amount: i64) -> Vec<u8> {
        let sequence = self.ledger.account(&raw(from)).unwrap().seq_num.0 + 1;
        let tx = transaction(from, sequence, 100, vec![op(pay(to, Asset::Native, amount))]);
        bytes(signed(tx, self.ledger.network_id(), &[from]))
    }
}

pub fn address(key: &SigningKey) -> String {
    stellar_strkey::ed25519::PublicKey(raw(key))
        .to_string()
        .as_str()
        .to_owned()
}

/// The events of a stream, as they come.
pub struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// Opens a stream, going on after `last` if there is one.
    pub async fn open(served: &Served, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::builder()
            .uri(path)
            .header("host", served.server.addr().to_string())
            .header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = exchange(served.server.addr(), request.body(Full::new(Bytes::new())).unwrap()).await;
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// The next record with its identifier; `None` when the server says farewell.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name).map(str::to_owned))
                };
                match (field("id: "), field("data: ")) {
                    (Some(id), Some(data)) => return Some((id, serde_json::from_str(&data).unwrap())),
                    (None, Some(data)) => assert!(data == "\"hello\"" || data == "\"byebye\"", "{data}"),
                    _ => panic!("{event}"),
                }
            }
            // Far longer than it takes: a lost event must fail the test, not stop it.
            let frame = tokio::time::timeout(std::time::Duration::from_secs(60), self.body.frame());
            let data = frame.await.unwrap()?.unwrap().into_data().unwrap();
            self.text += std::str::from_utf8(&data).unwrap();
        }
    }
}
