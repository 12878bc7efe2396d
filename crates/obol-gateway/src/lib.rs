#![doc = include_str!("../README.md")]

mod token;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use token::{Token, TokenError};

/// Longest body of a command, bytes.
const MOST_BODY: usize = 16 * 1024;

/// Makes the metrics in Prometheus' text format (version 0.0.4).
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// Makes the state: one JSON object.
pub type StateObject = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Carries out a command: its name (`POST /control/NAME`) and its JSON body (`null` if there is none).
pub type Control =
    Arc<dyn Fn(String, serde_json::Value) -> BoxFuture<Result<serde_json::Value, ControlError>> + Send + Sync>;

/// A future that a [`Control`] returns.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such command.
    #[error("there is no command of this name")]
    Unknown,
    /// What is wrong with its body, for people.
    #[error("{0}")]
    Body(&'static str),
    /// It cannot be carried out now; why, for people.
    #[error("{0}")]
    NotNow(&'static str),
}

/// What the gateway shows and does.
#[derive(Clone)]
pub struct Backend {
    /// For `GET /metrics`.
    pub metrics: MetricsText,
    /// For `GET /state`.
    pub state: StateObject,
    /// For `POST /control/NAME`; `None`: there are no commands.
    pub control: Option<Control>,
}

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
    pub fn start(options: Options, backend: Backend) -> BoxFuture<Result<Gateway, GatewayError>> {
        // Boxed: what it runs is compiled with this crate, and not again with everything that calls it.
        Box::pin(Gateway::bring_up(options, backend))
    }

    async fn bring_up(options: Options, backend: Backend) -> Result<Gateway, GatewayError> {
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
        let shared = Arc::new(Shared { token, backend });
        let router = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/state", get(state_page))
            .route("/control/{name}", post(control_page))
            .layer(DefaultBodyLimit::max(MOST_BODY))
            .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics, /state and /control/NAME\n") })
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
    backend: Backend,
}

async fn metrics_page(State(shared): State<Arc<Shared>>) -> Response {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        (shared.backend.metrics)(),
    )
        .into_response()
}

async fn state_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match shared.refuse(&headers) {
        Some(refusal) => refusal,
        None => json(StatusCode::OK, &(shared.backend.state)()),
    }
}

async fn control_page(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = shared.refuse(&headers) {
        return refusal;
    }
    let body = match body.iter().all(u8::is_ascii_whitespace) {
        true => Ok(serde_json::Value::Null),
        false => serde_json::from_slice(&body),
    };
    let outcome = match (&shared.backend.control, body) {
        (None, _) => Err(ControlError::Unknown),
        (_, Err(_)) => Err(ControlError::Body("the body is not JSON")),
        (Some(control), Ok(body)) => control(name, body).await,
    };
    let fault = |status, error: ControlError| json(status, &serde_json::json!({ "error": error.to_string() }));
    match outcome {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(error @ ControlError::Unknown) => fault(StatusCode::NOT_FOUND, error),
        Err(error @ ControlError::Body(_)) => fault(StatusCode::BAD_REQUEST, error),
        Err(error @ ControlError::NotNow(_)) => fault(StatusCode::CONFLICT, error),
    }
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, format!("{value:#}\n")).into_response()
}

impl Shared {
    /// The answer to a request without the token; `None` if it has it.
    fn refuse(&self, headers: &HeaderMap) -> Option<Response> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        if given.is_some_and(|given| self.token.is(given.trim())) {
            return None;
        }
        let how = "send the token of the configured file as `Authorization: Bearer TOKEN`\n";
        Some((StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], how).into_response())
    }
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
