//! The connection under a link: TLS on a socket, driven by hand, so that one task reads and writes without a lock between
//! its halves, and so that a quiet link holds no buffers.
//!
//! ```text
//!  socket ─ read ─► scratch.wire ─ TLS ─► cells, behind what is left of the last one
//!  cells ─ TLS ─► records ─ one vectored write ─► socket
//! ```

use std::cell::RefCell;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection as Session;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use crate::handshake::LinkStream;

/// Bytes that are asked of the system at once.
const READ: usize = 64 * 1024;

/// Bytes that the system may hold of what is not sent yet. More would only be a queue in which nobody has priority; less,
/// and a fast link runs dry between two wakes.
const UNSENT: u32 = 256 * 1024;

/// Buffers that are in use only between two awaits: one set for each thread, whatever the number of links.
pub(super) struct Scratch {
    /// As it came.
    wire: Box<[u8; READ]>,
    /// Decrypted; whole cells, and the start of one.
    pub(super) cells: Vec<u8>,
    /// Cells to be sent.
    pub(super) out: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        wire: Box::new([0; READ]),
        cells: Vec::with_capacity(READ + 4096),
        out: Vec::with_capacity(READ),
    });
}

/// Works with this thread's buffers; what is in them afterwards is anybody's.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    /// Some bytes; there may be more.
    Some,
    /// As many as were asked for: there is more, most likely.
    Full,
    /// The peer has ended the connection.
    End,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    session: Session,
}

/// A socket as TLS wants it: what would block says so.
struct Socket<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn blocking<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Write for Socket<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        blocking(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection {
    /// Goes on with a connection on which the handshakes are done.
    pub(super) fn new(stream: LinkStream) -> Self {
        let (socket, mut session) = match stream {
            LinkStream::Client(stream) => {
                let (socket, session) = stream.into_inner();
                (socket, Session::Client(session))
            }
            LinkStream::Server(stream) => {
                let (socket, session) = stream.into_inner();
                (socket, Session::Server(session))
            }
        };
        // What is given to it is written at once, so that its own limit would only be in the way.
        session.set_buffer_limit(None);
        // Where the system knows no such limit, its own holds.
        let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
        Self { socket, session }
    }

    /// Reads once, and adds what was decrypted to `scratch.cells`.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<io::Result<Got>> {
        let mut buffer = ReadBuf::new(&mut *scratch.wire);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let mut wire = buffer.filled();
        let got = match wire.len() {
            0 => return Poll::Ready(Ok(Got::End)),
            READ => Got::Full,
            _ => Got::Some,
        };
        while !wire.is_empty() {
            self.session.read_tls(&mut wire)?;
            if self.decrypt(&mut scratch.cells)? {
                return Poll::Ready(Ok(Got::End));
            }
        }
        Poll::Ready(Ok(got))
    }

    /// Adds what the session has read to `cells`. True: the peer sends no more.
    pub(super) fn decrypt(&mut self, cells: &mut Vec<u8>) -> io::Result<bool> {
        let state = self.session.process_new_packets().map_err(io::Error::other)?;
        let mut left = state.plaintext_bytes_to_read();
        let mut reader = self.session.reader();
        while left > 0 {
            let chunk = reader.fill_buf()?;
            let len = chunk.len();
            cells.extend_from_slice(chunk);
            reader.consume(len);
            // A chunk is never empty while something is left.
            left = left.saturating_sub(len.max(1));
        }
        Ok(state.peer_has_closed())
    }

    /// Encrypts cells; [`poll_flush`](Self::poll_flush) sends them.
    pub(super) fn encrypt(&mut self, cells: &[u8]) -> io::Result<()> {
        self.session.writer().write_all(cells)
    }

    /// Whether all that was encrypted has been handed to the system.
    pub(super) fn is_flushed(&self) -> bool {
        !self.session.wants_write()
    }

    /// Hands the system what it takes of what was encrypted. Ready: all of it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut socket = Socket {
                socket: &mut self.socket,
                cx,
            };
            match self.session.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye, as far as the peer still listens.
    pub(super) async fn close(mut self) {
        self.session.send_close_notify();
        // Best effort: the peer may be gone.
        let _ = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
        let _ = std::future::poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await;
    }
}
