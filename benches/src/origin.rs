//! What is downloaded: a server that sends as many bytes as it is asked for, and is as cheap as a server can be.
//!
//! A request is eight bytes: how many, big-endian. A connection takes one request after the other.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::error::BenchError;

/// Bytes written at once. They are the same every time; to a relay they are noise once encrypted.
const BLOCK: usize = 256 * 1024;

/// The running server. It ends when it is dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Origin {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// If no socket can be opened.
    pub async fn start() -> Result<Origin, BenchError> {
        let failed = |error| BenchError::System {
            what: "the origin server",
            error,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away in the middle is nothing to report.
                tokio::spawn(async move {
                    let _ = serve(stream).await;
                });
            }
        });
        Ok(Origin { address, task })
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

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    static BYTES: [u8; BLOCK] = [0x5a; BLOCK];
    stream.set_nodelay(true)?;
    loop {
        let mut left = stream.read_u64().await?;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            stream.write_all(&BYTES[..part]).await?;
            left -= part as u64;
        }
    }
}
