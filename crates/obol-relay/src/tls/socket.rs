//! The socket under a link as long as TLS is rustls' business.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::records::HEAD;
use super::secrets::TrafficSecrets;

/// Gives rustls one record at a time, so that it never holds more than the record of which this remembers the start: what it
/// holds would be lost when [`records`](super::records) takes over.
#[derive(Debug)]
pub struct Socket {
    tcp: TcpStream,
    /// Of a record that has not come as a whole: what was given to rustls.
    record: Vec<u8>,
    secrets: Arc<TrafficSecrets>,
}

impl Socket {
    /// `secrets`: what the connection's configuration tells them to.
    pub fn new(tcp: TcpStream, secrets: Arc<TrafficSecrets>) -> Self {
        Self {
            tcp,
            record: Vec::new(),
            secrets,
        }
    }

    /// The socket, the start of a record that rustls could not open yet, and the secrets.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>, Arc<TrafficSecrets>) {
        (self.tcp, self.record, self.secrets)
    }

    /// Bytes until the head or the record is complete.
    fn wanted(&self) -> usize {
        match self.record.first_chunk::<HEAD>() {
            None => HEAD - self.record.len(),
            Some(&[.., high, low]) => {
                (HEAD + usize::from(u16::from_be_bytes([high, low]))).saturating_sub(self.record.len())
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut space = [0; 4096];
        let len = this.wanted().min(buf.remaining()).min(space.len());
        let mut part = ReadBuf::new(&mut space[..len]);
        ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut part))?;
        this.record.extend_from_slice(part.filled());
        buf.put_slice(part.filled());
        if this.record.len() >= HEAD && this.wanted() == 0 {
            this.record.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
