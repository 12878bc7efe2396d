//! Megabytes each way over any stream, with checksums.

use anyhow::{Context as _, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

use std::time::Duration;

/// How long nothing may come.
const STALL: Duration = Duration::from_secs(60);
const PIECE: usize = 1 << 16;

/// Reads the head of an HTTP answer, which must be a good one. Returns how many bytes follow, if it says so.
async fn head(answer: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Option<u64>> {
    let (mut status, mut length) = (None, None);
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(STALL, answer.read_line(&mut line)).await;
        ensure!(
            read.context("no answer came")?? > 0,
            "the stream ended before an answer"
        );
        let line = line.trim_end();
        match &status {
            None => status = Some(line.to_owned()),
            Some(status) if line.is_empty() => {
                ensure!(status.contains(" 200 "), "the server answered {status:?}");
                return Ok(length);
            }
            Some(_) => {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                if name.eq_ignore_ascii_case("content-length") {
                    length = Some(value.trim().parse()?);
                }
            }
        }
    }
}

/// `GET path`; tells `progress` how many bytes have come, and returns how many came and their SHA-256.
pub async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<(u64, [u8; 32])> {
    let mut stream = BufReader::with_capacity(PIECE, stream);
    let request = format!("GET {path} HTTP/1.0\r\nHost: origin\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    // Arti ends every stream with the reason MISC, which Arti takes for an error: what was announced is the end.
    let announced = head(&mut stream).await?;
    let (mut hash, mut length, mut piece) = (Sha256::new(), 0u64, vec![0; PIECE]);
    loop {
        if announced == Some(length) {
            return Ok((length, hash.finalize().into()));
        }
        let read = tokio::time::timeout(STALL, stream.read(&mut piece)).await;
        let read = read.with_context(|| format!("nothing more came after {length} bytes"))?;
        match read.with_context(|| format!("it broke after {length} bytes"))? {
            0 => return Ok((length, hash.finalize().into())),
            got => {
                hash.update(&piece[..got]);
                length += got as u64;
                progress(length);
            }
        }
    }
}

/// Takes so many bytes of `/endless`, and leaves.
pub async fn take(stream: impl AsyncRead + AsyncWrite + Unpin, length: u64) -> anyhow::Result<()> {
    let (enough, reached) = tokio::sync::oneshot::channel();
    let mut enough = Some(enough);
    let taking = get(stream, "/endless", move |got| {
        if got >= length
            && let Some(enough) = enough.take()
        {
            let _ = enough.send(());
        }
    });
    tokio::select! {
        ended = taking => anyhow::bail!("the endless download ended: {ended:?}"),
        _ = reached => Ok(()),
    }
}

/// The whole body of `GET path`.
pub async fn page(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = BufReader::new(stream);
    let request = format!("GET {path} HTTP/1.0\r\nHost: origin\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    head(&mut stream).await?;
    let mut body = Vec::new();
    let read = tokio::time::timeout(STALL, stream.read_to_end(&mut body)).await;
    read.context("nothing more came")??;
    Ok(body)
}

/// Posts `length` random bytes to `/upload`, and checks that the server got just these.
pub async fn post(stream: impl AsyncRead + AsyncWrite + Unpin, length: u64, seed: u64) -> anyhow::Result<()> {
    let mut stream = BufReader::with_capacity(PIECE, stream);
    let request = format!("POST /upload HTTP/1.0\r\nHost: origin\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (mut rng, mut hash, mut left, mut piece) = (StdRng::seed_from_u64(seed), Sha256::new(), length, vec![0; PIECE]);
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        rng.fill_bytes(&mut piece[..part]);
        hash.update(&piece[..part]);
        let written = tokio::time::timeout(STALL, stream.write_all(&piece[..part])).await;
        written.with_context(|| format!("nothing more was taken with {left} bytes to go"))??;
        left -= part as u64;
    }
    stream.flush().await?;
    head(&mut stream).await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    let expected = format!("{length} {}", hex::encode(hash.finalize()));
    ensure!(
        said.trim() == expected,
        "the server got {said:?} instead of {expected:?}"
    );
    Ok(())
}
