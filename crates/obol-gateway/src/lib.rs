#![doc = include_str!("../README.md")]

mod dashboard;
mod door;
mod history;
mod live;
pub mod metrics;
mod paging;
mod problem;
mod records;
mod services;
mod subject;
mod token;
pub mod v1;
mod whole;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use history::History;
pub use live::Live;
pub use records::{Records, RecordsError};
pub use subject::{Refused, Subject, Wallet};
pub use token::{Token, TokenError};

use services::Services;
use v1::Desk;

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
    /// For `/api/v1`; `None`: there is none.
    pub subject: Option<Arc<dyn Subject>>,
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
    going_on: Option<JoinHandle<()>>,
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
        let token = Arc::new(token);
        let (services, router) = pages(backend, &token);
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
        let going_on = services.map(|services| tokio::spawn(go_on(services)));
        Ok(Gateway {
            address,
            stop,
            task: Some(task),
            going_on,
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
            if tokio::time::timeout(Duration::from_secs(1), task).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for task in [self.task.take(), self.going_on.take()].into_iter().flatten() {
            task.abort();
        }
    }
}

/// How often transfers are looked at of which nobody knows what became of them.
const GO_ON: Duration = Duration::from_secs(30);

/// Goes on with transfers that an earlier run, or a ledger that did not answer, left open.
async fn go_on(services: Services) {
    loop {
        if let Err(problem) = services.resume().await {
            tracing::warn!(detail = problem.detail(), "transfers cannot be looked for");
        }
        tokio::time::sleep(GO_ON).await;
    }
}

/// All pages, those that need the token behind it.
fn pages(backend: Backend, token: &Arc<Token>) -> (Option<Services>, Router) {
    let services = backend.subject.as_ref().and_then(|subject| {
        let wallet = subject.wallet()?;
        Some(Services::new(subject.history(), wallet))
    });
    let api = backend
        .subject
        .as_ref()
        .map(|subject| v1::routes(Desk::new(Arc::clone(subject), services.clone())));
    let own = Router::new()
        .route("/state", get(state_page))
        .route("/control/{name}", post(control_page))
        .with_state(backend.clone());
    let (behind_token, open) = match api {
        Some((routes, document)) => (own.merge(routes), v1::document(document).merge(dashboard::routes())),
        None => (own, Router::new()),
    };
    let behind_token = behind_token.layer(middleware::from_fn_with_state(Arc::clone(token), door::with_token));
    let router = open
        .route("/metrics", get(metrics_page).with_state(backend))
        .merge(behind_token)
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .fallback(door::nowhere)
        .method_not_allowed_fallback(door::other_method)
        .layer(middleware::from_fn(door::named_by_address));
    (services, router)
}

async fn metrics_page(State(backend): State<Backend>) -> Response {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        (backend.metrics)(),
    )
        .into_response()
}

async fn state_page(State(backend): State<Backend>) -> Response {
    json(StatusCode::OK, &(backend.state)())
}

async fn control_page(State(backend): State<Backend>, Path(name): Path<String>, body: Bytes) -> Response {
    let body = match body.iter().all(u8::is_ascii_whitespace) {
        true => Ok(serde_json::Value::Null),
        false => serde_json::from_slice(&body),
    };
    let outcome = match (&backend.control, body) {
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

#[cfg(test)]
mod tests;
