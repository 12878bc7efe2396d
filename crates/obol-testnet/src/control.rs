//! Asking a running relay, over its own local HTTP interface: the same for relays in this process and in others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Why a relay did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The file with its token cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It cannot be reached.
    #[error("the relay's gateway at {address} cannot be reached: {error}")]
    Connect {
        /// The gateway.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// HTTP broke off.
    #[error("the relay's gateway broke off: {0}")]
    Http(#[from] hyper::Error),
    /// It answered with an error.
    #[error("the relay's gateway answered {status} to {path}: {text}")]
    Status {
        /// What was asked.
        path: String,
        /// The answer's status.
        status: u16,
        /// The answer's text.
        text: String,
    },
    /// It answered something that is no JSON.
    #[error("the relay's gateway answered something that is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It did not answer.
    #[error("the relay's gateway did not answer {0} in time")]
    Late(String),
}

/// The gateway of one relay.
#[derive(Debug, Clone)]
pub struct Control {
    address: SocketAddr,
    token: String,
}

/// A relay settles in seconds; nothing that is asked here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

impl Control {
    /// The gateway at `address`, whose token is in `token`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn new(address: SocketAddr, token: &Path) -> Result<Self, ControlError> {
        let text = std::fs::read_to_string(token).map_err(|error| ControlError::Token {
            path: token.to_owned(),
            error,
        })?;
        Ok(Control {
            address,
            token: text.trim().to_owned(),
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The relay's state.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn state(&self) -> Result<Value, ControlError> {
        self.ask(Method::GET, "/state", None).await
    }

    /// Tells the relay something: `POST /control/{what}`.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn tell(&self, what: &str, body: Value) -> Result<Value, ControlError> {
        self.ask(Method::POST, &format!("/control/{what}"), Some(body)).await
    }

    /// What a metric of the relay is now, all labels together; or, with labels behind its name as `/metrics` shows them, one series of it.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn metric(&self, name: &str) -> Result<f64, ControlError> {
        let text = self.exchange_in_time(Method::GET, "/metrics", None).await?;
        Ok(sum_of(name, &String::from_utf8_lossy(&text)))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, ControlError> {
        Ok(serde_json::from_slice(
            &self.exchange_in_time(method, path, body).await?,
        )?)
    }

    async fn exchange_in_time(&self, method: Method, path: &str, body: Option<Value>) -> Result<Bytes, ControlError> {
        tokio::time::timeout(PATIENCE, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(ControlError::Late(path.to_owned())))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Value>) -> Result<Bytes, ControlError> {
        let address = self.address;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| ControlError::Connect { address, error })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let body = body.map_or_else(Bytes::new, |b| Bytes::from(b.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("a path and fixed headers make a request");
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        connection.abort();
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            return Err(ControlError::Status {
                path: path.to_owned(),
                status: status.as_u16(),
                text,
            });
        }
        Ok(bytes)
    }
}

/// The sum of a metric's samples in the text format of Prometheus; one sample, if the name has its labels with it.
fn sum_of(name: &str, text: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' '])
            .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::sum_of;

    #[test]
    fn samples_of_one_metric_are_added_and_those_of_others_are_not() {
        let text =
            "# HELP obol_x Of it.\nobol_x{class=\"paid\"} 2\nobol_x{class=\"unpaid\"} 40\nobol_x_total 7\nobol_y 1\n";
        assert_eq!(sum_of("obol_x", text), 42.0);
        assert_eq!(sum_of("obol_x{class=\"unpaid\"}", text), 40.0);
        assert_eq!(sum_of("obol_y", text), 1.0);
        assert_eq!(sum_of("obol_z", text), 0.0);
    }
}
