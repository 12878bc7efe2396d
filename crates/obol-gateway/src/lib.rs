#![doc = include_str!("../README.md")]

mod token;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use token::{Token, TokenError};

/// Makes the metrics in Prometheus' text format (version 0.0.4).
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// Makes the state: one JSON object.
pub type StateObject = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Where the gateway listens, and who may read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Allow an address other than loopback.
    pub allow_remote: bool,
    /// The file with the token; made when absent.
    pub token: PathBuf,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address is not loopback, and that was not allowed.
    #[error("the gateway's address {0} can be reached by other machines: use 127.0.0.1, or allow it expressly")]
    NotLoopback(SocketAddr),
    /// The address cannot be bound.
    #[error("the gateway cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The token cannot be read or made.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A running gateway; dropping it stops it.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Binds the address, reads or makes the token, and serves until stopped. Needs a tokio runtime.
    pub async fn start(options: Options, metrics: MetricsText, state: StateObject) -> Result<Gateway, GatewayError> {
        if !options.listen.ip().is_loopback() && !options.allow_remote {
            return Err(GatewayError::NotLoopback(options.listen));
        }
        let token = Token::load_or_make(&options.token)?;
        let bind = |source| GatewayError::Bind {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let shared = Arc::new(Shared { token, metrics, state });
        let router = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/state", get(state_page))
            .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics and /state\n") })
            .layer(middleware::from_fn(named_by_address))
            .with_state(shared);
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let until_stopped = async move {
                // An error means that the handle is gone, which stops the gateway too.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            if let Err(e) = axum::serve(listener, router)
                .with_graceful_shutdown(until_stopped)
                .await
            {
                tracing::warn!("the gateway ended: {e}");
            }
        });
        Ok(Gateway {
            address,
            stop,
            task: Some(task),
        })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it. Requests that are being answered end first, idle connections do not hold it up.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // A client that keeps its connection open must not keep the relay from ending.
            let abort = task.abort_handle();
            if tokio::time::timeout(std::time::Duration::from_secs(1), task)
                .await
                .is_err()
            {
                abort.abort();
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// What the pages need.
struct Shared {
    token: Token,
    metrics: MetricsText,
    state: StateObject,
}

async fn metrics_page(State(shared): State<Arc<Shared>>) -> Response {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        (shared.metrics)(),
    )
        .into_response()
}

async fn state_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    if !given.is_some_and(|given| shared.token.is(given.trim())) {
        let how = "send the token of the configured file as `Authorization: Bearer TOKEN`\n";
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], how).into_response();
    }
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (headers, format!("{:#}\n", (shared.state)())).into_response()
}

/// Lets a request pass only if its `Host` is an address or `localhost`.
async fn named_by_address(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    if host.is_some_and(is_address) {
        next.run(request).await
    } else {
        (
            StatusCode::FORBIDDEN,
            "name the gateway by its address, or as localhost\n",
        )
            .into_response()
    }
}

fn is_address(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost"
        || name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok()
}

#[cfg(test)]
mod tests;
