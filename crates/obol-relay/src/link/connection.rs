//! The connection under a link: TLS on a socket, driven by hand, so that one task reads and writes without a lock between
//! its halves, and so that a quiet link holds no buffers.
//!
//! ```text
//!  socket ─ read ─► scratch.wire: records ─ opened where they lie ─► cells, behind what is left of the last one
//!  cells ─► scratch.out, with room for heads and tails ─ sealed where they lie: records ─ one write ─► socket
//! ```
//!
//! With TLS 1.2, which no implementation of Tor still prefers, rustls goes on with the records, and copies.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection as Session;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use obol_onion::engine::LINK_MESSAGE_MAX;

use crate::handshake::LinkStream;
use crate::tls::records::{self, CONTENT_MAX, HEAD, Opener, RECORD_MAX, Sealer, TAIL};

/// Bytes that are asked of the system at once.
const READ: usize = 64 * 1024;

/// What may be left of an earlier read: the start of a cell, of which a link message is the longest, and that of a record.
const REST_MAX: usize = VARIABLE_HEADER_LEN + LINK_MESSAGE_MAX + RECORD_MAX;
/// Circuit id, command and length of a cell of variable length.
const VARIABLE_HEADER_LEN: usize = 7;

/// Bytes that the system may hold of what is not sent yet. More would only be a queue in which nobody has priority; less,
/// and a fast link runs dry between two wakes.
const UNSENT: u32 = 256 * 1024;

/// A read and what is left of those before it.
pub(super) type Wire = [u8; REST_MAX + READ];

/// Buffers that are in use only between two awaits: one set for each thread, whatever the number of links.
pub(super) struct Scratch {
    pub(super) wire: Box<Wire>,
    pub(super) out: Outgoing,
}

/// What was read.
pub(super) struct Incoming<'a> {
    /// Cells, and the start of one.
    pub(super) cells: &'a mut [u8],
    /// The start of a record.
    pub(super) rest: &'a [u8],
}

/// Cells to be sent, a record's worth each, with room for what TLS puts around them.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    /// Where the contents are: [`HEAD`] bytes are free before each, [`TAIL`] behind it.
    pub(super) contents: Vec<Range<usize>>,
}

impl Outgoing {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.contents.clear();
    }

    /// Whether there is nothing to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        wire: Box::new([0; REST_MAX + READ]),
        out: Outgoing::default(),
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

/// Who seals and opens.
#[derive(Debug)]
enum Tls {
    Ours(Sealer, Opener),
    Rustls(Box<Session>),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    tls: Tls,
    /// Read and not used yet: `cells` bytes of the start of a cell, then the start of a record.
    rest: Vec<u8>,
    cells: usize,
    /// Records that the socket did not take; the first `sent` bytes are gone.
    unsent: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Goes on with a connection on which the handshakes are done. Adds to `cells` what TLS has read already.
    pub(super) fn new(stream: LinkStream, cells: &mut Vec<u8>) -> io::Result<Self> {
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
        let state = session.process_new_packets().map_err(io::Error::other)?;
        let mut read = vec![0; state.plaintext_bytes_to_read()];
        session.reader().read_exact(&mut read)?;
        cells.append(&mut read);
        let mut unsent = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut unsent)?;
        }
        let (socket, mut rest, secrets) = socket.into_parts();
        // Where the system knows no such limit, its own holds.
        let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
        let tls = match records::take_over(session, &secrets) {
            Ok(taken) => {
                let (sealer, opener) = taken?;
                Tls::Ours(sealer, opener)
            }
            Err(mut session) => {
                // What is given to it is taken at once, so that its own limit would only be in the way.
                session.set_buffer_limit(None);
                rest.clear();
                Tls::Rustls(Box::new(session))
            }
        };
        Ok(Self {
            socket,
            tls,
            rest,
            cells: 0,
            unsent,
            sent: 0,
        })
    }

    /// Reads once.
    pub(super) fn poll_read<'a>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &'a mut Wire,
    ) -> Poll<io::Result<(Got, Incoming<'a>)>> {
        let start = self.rest.len();
        let space = wire.get_mut(start..start + READ).ok_or(io::ErrorKind::InvalidData)?;
        let mut buffer = ReadBuf::new(space);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        let got = match read {
            0 => Got::End,
            READ => Got::Full,
            _ => Got::Some,
        };
        wire[..start].copy_from_slice(&self.rest);
        let end = start + read;
        let (cells, rest, ended) = match &mut self.tls {
            Tls::Ours(_, opener) => {
                let opened = opener.open(&mut wire[..end], self.cells)?;
                (opened.content, opened.rest..end, opened.ended)
            }
            Tls::Rustls(session) => {
                let records = wire[start..end].to_vec();
                let (cells, ended) = decrypt(session, &records, &mut wire[..], start)?;
                (cells, cells..cells, ended)
            }
        };
        let (cells, behind) = wire.split_at_mut(cells);
        let rest = &behind[rest.start - cells.len()..rest.end - cells.len()];
        Poll::Ready(Ok((if ended { Got::End } else { got }, Incoming { cells, rest })))
    }

    /// Keeps what was read and is of no use yet: the start of a cell, the start of a record.
    pub(super) fn keep(&mut self, cell: &[u8], record: &[u8]) {
        self.rest.clear();
        self.rest.extend_from_slice(cell);
        self.rest.extend_from_slice(record);
        self.cells = cell.len();
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
    }

    /// Keeps the start of a cell that was read before anything else.
    pub(super) fn keep_first(&mut self, cell: &[u8]) {
        let record = core::mem::take(&mut self.rest);
        self.keep(cell, &record);
    }

    /// Sends what is in `out`. Ready: the system has taken all of it. Pending: the rest is kept, and has to be
    /// [flushed](Self::poll_flush) before more is sent.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut Outgoing) -> Poll<io::Result<()>> {
        self.tls.seal(out)?;
        let mut sent = 0;
        while sent < out.bytes.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &out.bytes[sent..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(len) => sent += len,
                Poll::Pending => {
                    self.unsent.extend_from_slice(&out.bytes[sent..]);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands the system what it takes of what was kept. Ready: all of it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.sent += len,
            }
        }
        if self.sent > 0 {
            self.unsent = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye, as far as the peer still listens.
    pub(super) async fn close(mut self) {
        if self.tls.close(&mut self.unsent).is_err() {
            return;
        }
        // Best effort: the peer may be gone.
        let _ = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
        let _ = std::future::poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await;
    }
}

impl Tls {
    /// Makes records of the contents in `out`.
    fn seal(&mut self, out: &mut Outgoing) -> io::Result<()> {
        match self {
            Tls::Ours(sealer, opener) => {
                let update = core::mem::take(&mut opener.asked) || sealer.is_due(out.contents.len());
                if !update && out.contents.iter().all(|content| content.len() <= CONTENT_MAX) {
                    return out
                        .contents
                        .iter()
                        .try_for_each(|content| sealer.seal(&mut out.bytes[content.start - HEAD..content.end + TAIL]));
                }
                let mut records = Vec::new();
                if update {
                    sealer.update(&mut records)?;
                }
                for content in &out.contents {
                    for part in out.bytes[content.clone()].chunks(CONTENT_MAX) {
                        sealer.append(part, &mut records)?;
                    }
                }
                out.bytes = records;
            }
            Tls::Rustls(session) => {
                for content in &out.contents {
                    session.writer().write_all(&out.bytes[content.clone()])?;
                }
                out.bytes.clear();
                while session.wants_write() {
                    session.write_tls(&mut out.bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Adds what is said last to `unsent`.
    fn close(&mut self, unsent: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Tls::Ours(sealer, _) => sealer.close(unsent),
            Tls::Rustls(session) => {
                session.send_close_notify();
                while session.wants_write() {
                    session.write_tls(unsent)?;
                }
                Ok(())
            }
        }
    }
}

/// Opens `records` with rustls; their content goes to `out[at..]`. Returns its end, and whether the peer sends no more.
fn decrypt(session: &mut Session, mut records: &[u8], out: &mut [u8], mut at: usize) -> io::Result<(usize, bool)> {
    let mut ended = false;
    while !records.is_empty() && !ended {
        session.read_tls(&mut records)?;
        let state = session.process_new_packets().map_err(io::Error::other)?;
        let len = state.plaintext_bytes_to_read();
        let space = out.get_mut(at..at + len).ok_or(io::ErrorKind::InvalidData)?;
        session.reader().read_exact(space)?;
        at += len;
        ended = state.peer_has_closed();
    }
    Ok((at, ended))
}

#[cfg(test)]
mod tests;
