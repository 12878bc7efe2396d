//! How a rail's HTTP gets its connections: by plain TCP, or by whatever the program passes in its place.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a server.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Opens byte streams. The client passes one that dials through Tor, so that no ledger server learns its address;
/// names are then resolved there, never here. TLS is laid over it by the rail.
#[async_trait]
pub trait Connect: Send + Sync {
    /// A stream to this host (a name, or an address without brackets) and port.
    async fn connect(&self, host: &str, port: u16) -> io::Result<Box<dyn ByteStream>>;
}

/// Plain TCP from this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait]
impl Connect for Tcp {
    async fn connect(&self, host: &str, port: u16) -> io::Result<Box<dyn ByteStream>> {
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}
