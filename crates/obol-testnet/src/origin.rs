//! The origin server: serves one file over HTTP on loopback, so that there is something real to download, and takes what is uploaded.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt as _;
use rand::{Rng as _, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

/// What can go wrong with the file that is served, or with its server.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The path names something that is not a plain file.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The generated file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The server's socket cannot be opened.
    #[error("cannot listen on loopback: {0}")]
    Listen(std::io::Error),
}

/// A file, its length and its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
    /// The SHA-256 of its content.
    pub sha256: [u8; 32],
}

const CHUNK: usize = 1 << 20;

impl OriginFile {
    /// Reads an existing file once, to learn its length and hash; `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// If the path names no plain file, or reading fails.
    pub async fn existing(path: &Path, mut progress: impl FnMut(u64)) -> Result<Self, OriginError> {
        use tokio::io::AsyncReadExt;
        let read = |error| OriginError::Read {
            path: path.to_owned(),
            error,
        };
        let mut file = tokio::fs::File::open(path).await.map_err(read)?;
        if !file.metadata().await.map_err(read)?.is_file() {
            return Err(OriginError::NotAFile { path: path.to_owned() });
        }
        let (mut hash, mut length, mut buffer) = (Sha256::new(), 0u64, vec![0; CHUNK]);
        loop {
            let got = file.read(&mut buffer).await.map_err(read)?;
            if got == 0 {
                break;
            }
            hash.update(&buffer[..got]);
            length += got as u64;
            progress(length);
        }
        Ok(Self {
            path: path.to_owned(),
            length,
            sha256: hash.finalize().into(),
        })
    }

    /// Writes `length` incompressible bytes, the same for the same `seed`, to `path`.
    ///
    /// # Errors
    /// If the file cannot be written, for instance because the disk is full.
    pub async fn generate(path: &Path, length: u64, seed: u64) -> Result<Self, OriginError> {
        let write = |error| OriginError::Write {
            path: path.to_owned(),
            error,
        };
        let mut file = tokio::fs::File::create(path).await.map_err(write)?;
        let (mut hash, mut rng, mut buffer) = (Sha256::new(), StdRng::seed_from_u64(seed), vec![0; CHUNK]);
        let mut left = length;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            rng.fill_bytes(&mut buffer[..part]);
            hash.update(&buffer[..part]);
            file.write_all(&buffer[..part]).await.map_err(write)?;
            left -= part as u64;
        }
        file.flush().await.map_err(write)?;
        Ok(Self {
            path: path.to_owned(),
            length,
            sha256: hash.finalize().into(),
        })
    }
}

/// The running server. It ends when it is dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Origin {
    /// Serves `file` as `/file` on a free loopback port. What is posted to `/upload` is answered with its length and its SHA-256
    /// in hexadecimal, a space between them.
    ///
    /// # Errors
    /// If no socket can be opened.
    pub async fn start(file: OriginFile) -> Result<Self, OriginError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(OriginError::Listen)?;
        let address = listener.local_addr().map_err(OriginError::Listen)?;
        let app = Router::new()
            .route("/file", get(serve_file))
            .route("/hello", get(|| async { "hello\n" }))
            .route("/endless", get(serve_endlessly))
            .route("/upload", post(take))
            .with_state(file);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::warn!("the origin server ended: {error}");
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_file(State(file): State<OriginFile>) -> Response {
    match tokio::fs::File::open(&file.path).await {
        Ok(opened) => (
            [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, file.length.to_string()),
            ],
            Body::from_stream(ReaderStream::with_capacity(opened, 1 << 18)),
        )
            .into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot open the file: {error}\n"),
        )
            .into_response(),
    }
}

/// Hashes what comes, and says what came.
async fn take(body: Body) -> Result<String, StatusCode> {
    let (mut hash, mut length, mut pieces) = (Sha256::new(), 0u64, body.into_data_stream());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| StatusCode::BAD_REQUEST)?;
        hash.update(&piece);
        length += piece.len() as u64;
    }
    Ok(format!("{length} {}\n", hex::encode(hash.finalize())))
}

/// Bytes without end: for whoever wants a circuit busy for as long as it listens.
async fn serve_endlessly() -> Response {
    let block = bytes::Bytes::from(vec![0x5a; 1 << 16]);
    let stream = futures::stream::repeat_with(move || Ok::<_, std::convert::Infallible>(block.clone()));
    (
        [(header::CONTENT_TYPE, "application/octet-stream")],
        Body::from_stream(stream),
    )
        .into_response()
}
