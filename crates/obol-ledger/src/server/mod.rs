//! The ledger behind Horizon's HTTP API, as the official SDKs expect it (stellar-facts, section 3), Stellar RPC by `POST /rpc`, and its own
//! two paths: `POST /obol/advance` winds the clock, `GET /obol/audit` adds up every balance.

mod accounts;
mod codes;
mod history;
mod network;
mod operations;
mod problem;
mod request;
mod resources;
mod rpc;
mod stream;
mod submission;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Closing;
use crate::ledger::Ledger;
use problem::Problem;

/// Longest accepted request body.
const MAX_BODY: usize = 512 * 1024;

/// How long a shutdown waits for requests in progress.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
struct App {
    ledger: Arc<Ledger>,
    stopping: watch::Receiver<bool>,
}

type Answer = Result<Response, Problem>;

/// A running server. Dropping it stops it at once.
#[derive(Debug)]
pub struct ServerHandle {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    closer: JoinHandle<()>,
}

impl ServerHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://address:port`, for configurations and SDKs.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where Stellar RPC is answered: the URL for its clients.
    pub fn rpc_url(&self) -> String {
        format!("http://{}/rpc", self.addr)
    }

    /// Stops: ends streams, finishes requests in progress, closes no further ledger.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        self.closer.abort();
        if tokio::time::timeout(GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.closer.abort();
        self.server.abort();
    }
}

/// Serves a ledger at an address (port 0: any free one) and closes its ledgers as it is configured. Needs a tokio runtime.
pub fn serve(ledger: Arc<Ledger>, listen: SocketAddr) -> BoxFuture<'static, io::Result<ServerHandle>> {
    // Boxed: what it runs is compiled with this crate, and not again with everything that calls it.
    bring_up(ledger, listen).boxed()
}

async fn bring_up(ledger: Arc<Ledger>, listen: SocketAddr) -> io::Result<ServerHandle> {
    let listener = TcpListener::bind(listen).await?;
    let addr = listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let app = router(App {
        ledger: Arc::clone(&ledger),
        stopping: stopping.clone(),
    });
    let mut stopped = stopping;
    let server = tokio::spawn(async move {
        let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
            // An error means that the handle is gone, which also ends the server.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        if let Err(error) = serving.await {
            tracing::error!(%error, "the ledger's server ended");
        }
    });
    let closer = tokio::spawn(close_ledgers(ledger));
    Ok(ServerHandle {
        addr,
        stop,
        server,
        closer,
    })
}

async fn close_ledgers(ledger: Arc<Ledger>) {
    match ledger.closing() {
        Closing::Manual => std::future::pending().await,
        Closing::OnDemand => loop {
            ledger.accepted().await;
            close_now(&ledger).await;
        },
        Closing::Every(interval) => {
            let mut timer = tokio::time::interval(interval.max(Duration::from_millis(10)));
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            timer.tick().await;
            loop {
                timer.tick().await;
                close_now(&ledger).await;
            }
        }
    }
}

/// Closes a ledger outside of the runtime's own threads: a thousand signatures take their time.
async fn close_now(ledger: &Arc<Ledger>) {
    let ledger = Arc::clone(ledger);
    match tokio::task::spawn_blocking(move || ledger.close(ledger.now())).await {
        Ok(Ok(closed)) => tracing::debug!(
            sequence = closed.sequence,
            transactions = closed.transactions,
            "ledger closed"
        ),
        Ok(Err(error)) => tracing::error!(%error, "a ledger could not be closed"),
        Err(error) => tracing::error!(%error, "closing a ledger was interrupted"),
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(network::root))
        .route("/health", get(network::health))
        .route("/fee_stats", get(network::fee_stats))
        .route("/friendbot", get(submission::friendbot).post(submission::friendbot))
        .route("/rpc", post(rpc::serve))
        .route("/obol/advance", post(network::advance))
        .route("/obol/audit", get(network::audit))
        .route("/accounts", get(accounts::list))
        .route("/accounts/{id}", get(accounts::one))
        .route("/accounts/{id}/data/{key}", get(accounts::data))
        .route("/accounts/{id}/transactions", get(history::account_transactions))
        .route("/accounts/{id}/operations", get(history::account_operations))
        .route("/accounts/{id}/payments", get(history::account_payments))
        .route("/accounts/{id}/effects", get(history::account_effects))
        .route("/accounts/{id}/offers", get(network::empty))
        .route("/accounts/{id}/trades", get(network::empty))
        .route("/assets", get(accounts::assets))
        .route("/claimable_balances", get(accounts::claimable_balances))
        .route("/claimable_balances/{id}", get(accounts::claimable_balance))
        .route(
            "/claimable_balances/{id}/transactions",
            get(history::claimable_transactions),
        )
        .route(
            "/claimable_balances/{id}/operations",
            get(history::claimable_operations),
        )
        .route("/ledgers", get(history::ledgers))
        .route("/ledgers/{sequence}", get(history::ledger))
        .route("/ledgers/{sequence}/transactions", get(history::ledger_transactions))
        .route("/ledgers/{sequence}/operations", get(history::ledger_operations))
        .route("/ledgers/{sequence}/payments", get(history::ledger_payments))
        .route("/ledgers/{sequence}/effects", get(history::ledger_effects))
        .route("/transactions", get(history::transactions).post(submission::submit))
        .route("/transactions_async", post(submission::submit_async))
        .route("/transactions/{hash}", get(history::transaction))
        .route("/transactions/{hash}/operations", get(history::transaction_operations))
        .route("/transactions/{hash}/payments", get(history::transaction_payments))
        .route("/transactions/{hash}/effects", get(history::transaction_effects))
        .route("/operations", get(history::operations))
        .route("/operations/{id}", get(history::operation))
        .route("/operations/{id}/effects", get(history::operation_effects))
        .route("/payments", get(history::payments))
        .route("/effects", get(history::effects))
        .route("/offers", get(network::empty))
        .route("/trades", get(network::empty))
        .route("/liquidity_pools", get(network::empty))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async { Problem::method() })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), headers))
        .with_state(app)
}

/// The headers every answer has: the latest ledger, the date of the ledger's clock, and leave for any web page to read them.
async fn headers(State(app): State<App>, request: Request, next: Next) -> Response {
    let preflight = request.method() == Method::OPTIONS;
    // The ledger before the look: whoever hears that something is not there may rely on it as of that ledger. A submission waits, and
    // is told of with the ledger after it.
    let before = (request.method() == Method::GET).then(|| app.ledger.latest().sequence);
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(
        "latest-ledger",
        HeaderValue::from(before.unwrap_or_else(|| app.ledger.latest().sequence)),
    );
    if let Some(date) = http_date(app.ledger.now()) {
        headers.insert(header::DATE, date);
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Date, Latest-Ledger"),
    );
    if preflight {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, OPTIONS"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            wanted.unwrap_or(HeaderValue::from_static("*")),
        );
    }
    response
}

/// SDKs take the time bounds of transactions from this header, so it tells the ledger's time, wound or not.
fn http_date(unix: u64) -> Option<HeaderValue> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let when = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix))?;
    let text = time::OffsetDateTime::from(when).format(format).ok()?;
    HeaderValue::from_str(&text).ok()
}

/// An answer in Horizon's content type.
fn hal(value: &Value) -> Response {
    let mut response = value.to_string().into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/hal+json; charset=utf-8"),
    );
    response
}
