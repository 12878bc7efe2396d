//! What must be done at least: a program that does nothing but that, over the same kind of sockets.
//!
//! | position | in | work | out |
//! |---|---|---|---|
//! | guard, middle | TLS, full 16 KiB records | one AES-128-CTR pass | TLS, full 16 KiB records |
//! | exit | plain TCP | SHA-1 and one AES-128-CTR pass | TLS, full 16 KiB records |
//!
//! TLS is its record layer alone (AES-128-GCM with the overhead, lengths and nonces of TLS 1.3), in one buffer from
//! read to write: no library can do with less. SHA-1 is the fastest that we know for so many circuits: ours, side by side.
//!
//! The three run at once, one behind the other, as relays do: two virtual processors are often one real one, on which
//! a program that runs alone needs a third less time for the same work. The ends are threads of the harness and do not count.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cipher::{KeyIvInit as _, StreamCipher as _};
use obol_onion::crypto::tor1::{BODY_LEN, CircuitKeys, Digest, KEY_MATERIAL_LEN, Marker};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::chain::Position;
use crate::process;
use crate::wire::{CELL, PAYLOAD};

/// Clear text of a full TLS record.
const RECORD: usize = 16 * 1024;
/// Header of a TLS record.
const HEADER: usize = 5;
/// Content type and authentication tag.
const TRAILER: usize = 1 + 16;
/// A full record on the wire.
const WIRE: usize = HEADER + RECORD + TRAILER;
/// Records per read and write.
const BATCH: usize = 16;
/// Records whose cells are marked at once.
const MARKED: usize = 4;
/// A key for a benchmark on loopback: nothing is secret.
const KEY: [u8; 16] = *b"not a secret key";

/// One direction of a TLS connection, its record layer.
struct Records {
    key: LessSafeKey,
    next: u64,
}

impl Records {
    fn new() -> Records {
        let key = UnboundKey::new(&AES_128_GCM, &KEY).expect("16 bytes are a key of AES-128");
        Records {
            key: LessSafeKey::new(key),
            next: 0,
        }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0x3c; 12];
        for (byte, number) in nonce[4..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= number;
        }
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals the record that `wire` has room for around its clear text.
    fn seal(&mut self, wire: &mut [u8; WIRE]) {
        let header = [0x17, 3, 3, ((WIRE - HEADER) >> 8) as u8, (WIRE - HEADER) as u8];
        wire[..HEADER].copy_from_slice(&header);
        wire[HEADER + RECORD] = 0x17;
        let nonce = self.nonce();
        let (clear, tag) = wire[HEADER..].split_at_mut(RECORD + 1);
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), clear);
        tag.copy_from_slice(sealed.expect("a record is short enough to seal").as_ref());
    }

    /// Opens it again, in place.
    fn open(&mut self, wire: &mut [u8; WIRE]) -> io::Result<()> {
        let nonce = self.nonce();
        let (header, sealed) = wire.split_at_mut(HEADER);
        let header: [u8; HEADER] = header.try_into().map_err(io::Error::other)?;
        self.key
            .open_in_place(nonce, Aad::from(header), sealed)
            .map(drop)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a record was altered"))
    }
}

/// The records in a buffer.
fn records(buffer: &mut [u8]) -> impl Iterator<Item = &mut [u8; WIRE]> {
    buffer.as_chunks_mut::<WIRE>().0.iter_mut()
}

/// The running digests of as many circuits as the relays have.
struct Digests {
    marker: Marker,
    digests: Vec<Digest>,
    next: Vec<Digest>,
}

impl Digests {
    fn new(circuits: usize) -> Digests {
        let (_, layer) = CircuitKeys::from_kdf(&[7; KEY_MATERIAL_LEN]).relay_layers();
        Digests {
            marker: Marker::new(),
            digests: (0..circuits.max(1)).map(|_| layer.digest()).collect(),
            next: Vec::new(),
        }
    }

    /// Marks all cells of the records in `wire`, as many at once as stay in the nearest cache.
    fn mark_all(&mut self, wire: &mut [u8]) {
        wire.chunks_mut(MARKED * WIRE).for_each(|wire| self.mark(wire));
    }

    /// Marks all cells of some records, whose circuits take turns.
    fn mark(&mut self, wire: &mut [u8]) {
        let circuits = self.digests.len();
        for digest in self.digests.drain(..) {
            self.marker.circuit(digest);
        }
        let records = (0..wire.len() / WIRE).map(|record| record * WIRE + HEADER);
        let cells =
            records.flat_map(|record| (0..RECORD / CELL).map(move |cell| record + cell * CELL + CELL - BODY_LEN));
        for (number, at) in cells.enumerate() {
            self.marker.cell(number % circuits, at);
        }
        self.marker.mark(wire);
        self.next.extend(self.marker.digests());
        std::mem::swap(&mut self.digests, &mut self.next);
    }
}

type Ctr = ctr::Ctr128BE<aes::Aes128>;

fn layer() -> Ctr {
    Ctr::new(&KEY.into(), &[0; 16].into())
}

/// The program: takes one connection, makes another to `out`, and moves what comes until it ends. It tells its port
/// on standard output.
///
/// # Errors
/// If a socket fails, or a record does not open.
pub fn serve(position: Position, out: u16, circuits: usize) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let (mut input, _) = listener.accept()?;
    let mut output = TcpStream::connect((Ipv4Addr::LOCALHOST, out))?;
    output.set_nodelay(true)?;
    match position {
        Position::Guard | Position::Middle => relay(&mut input, &mut output),
        Position::Exit => originate(&mut input, &mut output, circuits),
    }
}

fn relay(input: &mut TcpStream, output: &mut TcpStream) -> io::Result<()> {
    let (mut from, mut to, mut layer) = (Records::new(), Records::new(), layer());
    let mut buffer = vec![0; WIRE * BATCH];
    let mut filled = 0;
    loop {
        let read = input.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let whole = filled / WIRE * WIRE;
        for wire in records(&mut buffer[..whole]) {
            from.open(wire)?;
            layer.apply_keystream(&mut wire[HEADER..HEADER + RECORD]);
            to.seal(wire);
        }
        output.write_all(&buffer[..whole])?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

fn originate(input: &mut TcpStream, output: &mut TcpStream, circuits: usize) -> io::Result<()> {
    let (mut to, mut layer, mut digests) = (Records::new(), layer(), Digests::new(circuits));
    let mut clear = vec![0; PAYLOAD_OF_RECORD * BATCH];
    let mut buffer = vec![0; WIRE * BATCH];
    let mut filled = 0;
    loop {
        let read = input.read(&mut clear[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let whole = filled / PAYLOAD_OF_RECORD;
        for (wire, payload) in records(&mut buffer)
            .zip(clear.as_chunks::<PAYLOAD_OF_RECORD>().0)
            .take(whole)
        {
            wire[HEADER..HEADER + PAYLOAD_OF_RECORD].copy_from_slice(payload);
        }
        digests.mark_all(&mut buffer[..whole * WIRE]);
        for wire in records(&mut buffer).take(whole) {
            layer.apply_keystream(&mut wire[HEADER..HEADER + RECORD]);
            to.seal(wire);
        }
        output.write_all(&buffer[..whole * WIRE])?;
        clear.copy_within(whole * PAYLOAD_OF_RECORD..filled, 0);
        filled -= whole * PAYLOAD_OF_RECORD;
    }
}

/// Payload that a record's worth of cells carries.
const PAYLOAD_OF_RECORD: usize = RECORD * PAYLOAD / CELL;

/// A floor program: its process, and the port at which it waits.
fn start(
    program: &Path,
    arguments: &[&str],
    position: Position,
    circuits: usize,
    out: u16,
) -> io::Result<(Ended, u16)> {
    let mut child = Ended(
        Command::new(program)
            .args(arguments)
            .arg(position.name())
            .arg(out.to_string())
            .arg(circuits.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut line = String::new();
    let said = child.0.stdout.take();
    let said = said.ok_or_else(|| io::Error::other("no standard output"))?;
    io::BufRead::read_line(&mut io::BufReader::new(said), &mut line)?;
    let port = line.trim().parse().map_err(io::Error::other)?;
    Ok((child, port))
}

/// Measures the floors of all positions for `payload` bytes over so many circuits, at once, as child processes:
/// `program` is to call [`serve`] when it is started with `arguments`, the position's name, a port and the number of circuits.
/// What each has used: guard, middle, exit.
///
/// # Errors
/// If a child does not start, or ends early.
pub fn measure(program: &Path, arguments: &[&str], circuits: usize, payload: u64) -> io::Result<[Duration; 3]> {
    let sink = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let start = |position, out| start(program, arguments, position, circuits, out);
    let (guard, port) = start(Position::Guard, sink.local_addr()?.port())?;
    let (middle, port) = start(Position::Middle, port)?;
    let (exit, port) = start(Position::Exit, port)?;
    let children = [guard, middle, exit];
    let used = || -> io::Result<[Duration; 3]> {
        let mut used = [Duration::ZERO; 3];
        for (used, child) in used.iter_mut().zip(&children) {
            *used = process::cpu_time(child.0.id())?;
        }
        Ok(used)
    };
    let mut source = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let (mut drain, _) = sink.accept()?;
    let count = payload.div_ceil(PAYLOAD_OF_RECORD as u64);
    let wanted = count * WIRE as u64;
    let reading = std::thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; WIRE * BATCH];
        let mut left = wanted;
        while left > 0 {
            match drain.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => left = left.saturating_sub(read as u64),
            }
        }
        Ok(())
    });
    let before = used()?;
    let mut left = count;
    let plain = vec![0x5a; PAYLOAD_OF_RECORD * BATCH];
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
        source.write_all(&plain[..n * PAYLOAD_OF_RECORD])?;
        left -= n as u64;
    }
    reading.join().map_err(|_| io::Error::other("the sink panicked"))??;
    let after = used()?;
    Ok(std::array::from_fn(|at| after[at].saturating_sub(before[at])))
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds of the bare ciphers for the same bytes: what is left of the floor is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawCiphers {
    /// Opening and sealing records, AES-CTR, SHA-1: seconds per GB of payload.
    pub open: f64,
    /// Sealing.
    pub seal: f64,
    /// One AES-CTR pass.
    pub ctr: f64,
    /// SHA-1, and the value of each cell.
    pub sha1: f64,
}

impl RawCiphers {
    /// Measures each in memory, in this thread; SHA-1 of so many circuits.
    pub fn measure(circuits: usize) -> RawCiphers {
        let mut wire = vec![0x77; WIRE * BATCH];
        let rounds = 256;
        let payload = (rounds * BATCH * PAYLOAD_OF_RECORD) as f64;
        let mut time = |work: &mut dyn FnMut(&mut [u8])| {
            let began = process::thread_time();
            for _ in 0..rounds {
                work(&mut wire);
            }
            process::thread_time().saturating_sub(began).as_secs_f64() / payload * 1e9
        };
        let (mut to, mut from, mut layer) = (Records::new(), Records::new(), layer());
        let mut digests = Digests::new(circuits);
        let seal = time(&mut |wire| records(wire).for_each(|wire| to.seal(wire)));
        // Opening what was not sealed costs the same, and fails at the end; each opening is of a record just sealed
        // here.
        let both = time(&mut |wire| {
            records(wire).for_each(|wire| {
                from.next = 7;
                from.seal(wire);
                from.next = 7;
                let _ = std::hint::black_box(from.open(wire));
            });
        });
        RawCiphers {
            open: (both - seal).max(0.0),
            seal,
            ctr: time(&mut |wire| {
                records(wire).for_each(|wire| layer.apply_keystream(&mut wire[HEADER..HEADER + RECORD]))
            }),
            sha1: time(&mut |wire| digests.mark_all(wire)),
        }
    }

    /// Of a position.
    pub fn of(&self, position: Position) -> f64 {
        match position {
            Position::Guard | Position::Middle => self.open + self.ctr + self.seal,
            Position::Exit => self.sha1 + self.ctr + self.seal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_sealed_opens_to_what_it_was() {
        let mut wire = Box::new([7; WIRE]);
        Records::new().seal(&mut wire);
        assert_ne!(wire[HEADER..HEADER + 64], [7; 64]);
        Records::new().open(&mut wire).unwrap();
        assert_eq!(wire[HEADER..HEADER + RECORD], [7; RECORD]);
    }

    #[test]
    fn an_altered_record_does_not_open() {
        let mut wire = Box::new([7; WIRE]);
        Records::new().seal(&mut wire);
        wire[HEADER + 9] ^= 1;
        assert!(Records::new().open(&mut wire).is_err());
    }
}
