//! Arti's runtime with a socket layer of our own: it counts the bytes of every connection, per address, and switches Nagle's
//! algorithm off.
//!
//! A stock Arti client shows no cell counts. The bytes of the connection to a guard are what all of its circuits together can have
//! carried at most (payment-protocol.md, "Metering"), so they bound what that guard may claim.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tor_rtcompat::{
    CompoundRuntime, NetStreamListener, NetStreamProvider, PreferredRuntime, RuntimeSubstExt as _, StreamOps,
    TcpConnectOptions, TcpListenOptions,
};

/// Arti's usual runtime, with [`MeteredTcp`] in place of its TCP.
pub(crate) type MeteredRuntime = CompoundRuntime<
    PreferredRuntime,
    PreferredRuntime,
    PreferredRuntime,
    MeteredTcp,
    PreferredRuntime,
    PreferredRuntime,
    PreferredRuntime,
>;

/// Makes the runtime for the tokio runtime that this is called in.
pub(crate) fn metered(meters: LinkMeters) -> io::Result<MeteredRuntime> {
    Ok(PreferredRuntime::current()?.with_tcp_provider(MeteredTcp { meters }))
}

/// Bytes of all connections to one address, TLS included.
#[derive(Debug, Default)]
pub(crate) struct LinkMeter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl LinkMeter {
    /// Bytes sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes received.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The meters of all addresses that were connected to, in the order of first use.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkMeters {
    all: Arc<Mutex<Meters>>,
}

#[derive(Debug, Default)]
struct Meters {
    by_address: HashMap<SocketAddr, Arc<LinkMeter>>,
    order: Vec<SocketAddr>,
}

impl LinkMeters {
    fn meter(&self, address: SocketAddr) -> Arc<LinkMeter> {
        let mut meters = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let Meters { by_address, order } = &mut *meters;
        Arc::clone(by_address.entry(address).or_insert_with(|| {
            order.push(address);
            Arc::default()
        }))
    }

    /// Bytes sent to and received from any of these addresses.
    pub(crate) fn carried(&self, addresses: &[SocketAddr]) -> u64 {
        let meters = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |address| meters.by_address.get(address).map_or(0, |m| m.sent() + m.received());
        addresses.iter().map(of).sum()
    }

    /// Address, bytes sent and bytes received of each, in the order of first use.
    pub(crate) fn list(&self) -> Vec<(SocketAddr, u64, u64)> {
        let meters = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |address: &SocketAddr| {
            let meter = meters.by_address.get(address)?;
            Some((*address, meter.sent(), meter.received()))
        };
        meters.order.iter().filter_map(of).collect()
    }
}

/// TCP for Arti: counted, and without Nagle's delay.
#[derive(Debug, Clone)]
pub(crate) struct MeteredTcp {
    meters: LinkMeters,
}

#[async_trait]
impl NetStreamProvider<SocketAddr> for MeteredTcp {
    type Stream = MeteredStream;
    type Listener = NoListener;
    type ConnectOptions = TcpConnectOptions;
    type ListenOptions = TcpListenOptions;

    async fn connect(&self, address: &SocketAddr, options: &TcpConnectOptions) -> io::Result<MeteredStream> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(bytes) = options.common().send_buffer_size() {
            socket.set_send_buffer_size(size(*bytes))?;
        }
        if let Some(bytes) = options.common().recv_buffer_size() {
            socket.set_recv_buffer_size(size(*bytes))?;
        }
        let stream = socket.connect(*address).await?;
        // Without it a cell can wait 40 ms for the acknowledgement of the one before.
        stream.set_nodelay(true)?;
        Ok(MeteredStream {
            stream: stream.compat(),
            meter: self.meters.meter(*address),
        })
    }

    async fn listen(&self, _address: &SocketAddr, _options: &TcpListenOptions) -> io::Result<NoListener> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a client's runtime does not listen",
        ))
    }
}

/// One counted connection.
#[derive(Debug)]
pub(crate) struct MeteredStream {
    stream: Compat<TcpStream>,
    meter: Arc<LinkMeter>,
}

/// No option of the socket layer can be changed after the connection is made; Arti does without.
impl StreamOps for MeteredStream {}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(n)) = &outcome {
            self.meter.received.fetch_add(*n as u64, Ordering::Relaxed);
        }
        outcome
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &outcome {
            self.meter.sent.fetch_add(*n as u64, Ordering::Relaxed);
        }
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = &outcome {
            self.meter.sent.fetch_add(*n as u64, Ordering::Relaxed);
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// What a runtime that does not listen listens with: there is no value of it.
#[derive(Debug)]
pub(crate) enum NoListener {}

impl NetStreamListener<SocketAddr> for NoListener {
    type Stream = MeteredStream;
    type Incoming = futures::stream::Pending<io::Result<(MeteredStream, SocketAddr)>>;

    fn incoming(self) -> Self::Incoming {
        match self {}
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn both_directions_of_a_connection_are_counted_per_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let other = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut got = [0; 5];
            tokio::io::AsyncReadExt::read_exact(&mut peer, &mut got).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut peer, &[7; 1000])
                .await
                .unwrap();
        });
        let meters = LinkMeters::default();
        let tcp = MeteredTcp { meters: meters.clone() };
        let mut stream = tcp.connect(&address, &TcpConnectOptions::default()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        other.await.unwrap();
        assert_eq!(meters.list(), vec![(address, 5, 1000)]);
        assert_eq!(meters.carried(&[address, SocketAddr::from(([127, 0, 0, 1], 1))]), 1005);
    }
}
