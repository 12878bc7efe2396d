//! Bytes between an application and a Tor stream, counted where they enter and leave the Tor stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use arti_client::{DataReader, DataStream, DataWriter};
use futures::AsyncRead;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use obol_toll::payer::meter::CELL_PAYLOAD;

use crate::meter::TunnelMeter;

/// Payload bytes of a full cell.
const PAYLOAD: usize = CELL_PAYLOAD as usize;
/// What is moved at once: whole cells, some 32 KiB.
const BUFFER: usize = 64 * PAYLOAD;

/// Copies until either side ends. `early` goes out first.
///
/// Tor streams cannot be closed in one direction: when the application has finished sending, the stream is ended once everything is out
/// (tor-spec, "Closing streams").
pub(crate) async fn both_ways(
    mut app: TcpStream,
    stream: DataStream,
    early: &[u8],
    meter: Option<&TunnelMeter>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    if !early.is_empty() {
        put(&mut writer, early, meter).await?;
        writer.flush().await?;
    }
    let (from_app, to_app) = app.split();
    tokio::select! {
        outcome = outwards(from_app, writer, meter) => outcome,
        outcome = inwards(reader, to_app, meter) => outcome,
    }
}

async fn put(writer: &mut DataWriter, bytes: &[u8], meter: Option<&TunnelMeter>) -> io::Result<()> {
    // Counted first: a relay may meter the cells before this call returns.
    if let Some(meter) = meter {
        meter.wrote(bytes.len());
    }
    writer.write_all(bytes).await
}

async fn outwards(mut app: ReadHalf<'_>, mut writer: DataWriter, meter: Option<&TunnelMeter>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = app.read(&mut buffer).await?;
        if n == 0 {
            return writer.shutdown().await;
        }
        put(&mut writer, &buffer[..n], meter).await?;
        writer.flush().await?;
    }
}

async fn inwards(mut reader: DataReader, mut app: WriteHalf<'_>, meter: Option<&TunnelMeter>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (n, ended) = gather(&mut reader, &mut buffer, meter).await?;
        if n > 0 {
            app.write_all(&buffer[..n]).await?;
        }
        if ended {
            return app.shutdown().await;
        }
    }
}

/// Waits for one read, then takes what else is there already: one system call for many cells. Says how much, and whether the stream ended.
async fn gather(reader: &mut DataReader, buffer: &mut [u8], meter: Option<&TunnelMeter>) -> io::Result<(usize, bool)> {
    let (mut filled, mut reads) = (0, 0);
    let outcome = poll_fn(|cx| {
        loop {
            match AsyncRead::poll_read(Pin::new(&mut *reader), cx, &mut buffer[filled..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(true)),
                Poll::Ready(Ok(n)) => {
                    filled += n;
                    reads += 1;
                    // Room for a whole cell more, or out with it: a read of half a cell would be counted twice.
                    if buffer.len() - filled < PAYLOAD {
                        return Poll::Ready(Ok(false));
                    }
                }
                Poll::Ready(Err(_)) if filled > 0 => return Poll::Ready(Ok(true)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if filled > 0 => return Poll::Ready(Ok(false)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    if let Some(meter) = meter
        && reads > 0
    {
        meter.read(reads, filled);
    }
    Ok((filled, outcome?))
}
