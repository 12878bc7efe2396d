//! `obol bench path`: one circuit over a long fat path: 100 Mbit/s with 100 ms there and back between client and
//! guard.
//!
//! ```text
//!  guard ─► hand ─► [tbf: 100 Mbit/s] ─► delay line ─────────► driver
//!        loopback     a pair of virtual     50 ms each way
//!                     interfaces, in a network namespace
//! ```
//! The rate is the kernel's (`tc tbf`: a real queue that really drops). The delay is a line of our own, a child
//! process within the namespace: many kernels come without `netem`. The hand only carries bytes from the guard's
//! loopback socket to the interface.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::driver::{Driver, Flow, Target};
use crate::error::BenchError;
use crate::lane::LaneError;
use crate::latency::{Contender, Running};
use crate::origin::Origin;
use crate::report::machine;

/// Half of the way there and back.
const DELAY: Duration = Duration::from_millis(50);
/// The rate, as `tc` writes it, and in bytes per second.
const RATE: &str = "100mbit";
/// See [`RATE`].
pub const BYTES_PER_SECOND: f64 = 12_500_000.0;
/// Until the circuit is as fast as it gets, and how long it is then measured.
const WARM_UP: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(10);
/// Nothing takes so long on this path.
const SILENCE: Duration = Duration::from_secs(10);
/// More than is downloaded in that time.
const ENDLESS: u64 = 1 << 40;
/// The two ends of the pair.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 2);

/// Why there is no path.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// A program is missing.
    #[error("`{0}` is not installed: install the package iproute2 to measure a long path")]
    Missing(&'static str),
    /// Not allowed, or already there.
    #[error("`{command}` failed: {said}. Network namespaces need root")]
    Refused {
        /// What was run.
        command: String,
        /// What it said.
        said: String,
    },
    /// A socket or a child.
    #[error("the delay line: {0}")]
    Line(#[from] io::Error),
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program.
    pub program: PathBuf,
    /// Where everything puts its files.
    pub directory: PathBuf,
    /// How often.
    pub runs: usize,
    /// Whether C Tor is measured too.
    pub ctor: bool,
}

/// One circuit's speed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Row {
    /// Whose relays.
    pub relays: Contender,
    /// Whether the exit controls congestion, or keeps fixed windows.
    pub congestion_control: bool,
    /// Payload bytes per second.
    pub bytes_per_second: f64,
}

/// Runs a command to its end.
fn command(program: &'static str, arguments: &[&str]) -> Result<(), PathError> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|_| PathError::Missing(program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(PathError::Refused {
        command: format!("{program} {}", arguments.join(" ")),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// A network namespace with a pair of interfaces into it, the way in as slow as the path. It goes with this value.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Result<Namespace, PathError> {
        let number = std::process::id() % 100_000;
        let name = format!("obol{number}");
        let (near, far) = (format!("obol{number}n"), format!("obol{number}f"));
        command("ip", &["netns", "add", &name])?;
        let this = Namespace { name };
        let name = this.name.as_str();
        command(
            "ip",
            &[
                "link", "add", &near, "type", "veth", "peer", "name", &far, "netns", name,
            ],
        )?;
        command("ip", &["address", "add", &format!("{NEAR}/30"), "dev", &near])?;
        command("ip", &["link", "set", &near, "up"])?;
        command("ip", &["-n", name, "address", "add", &format!("{FAR}/30"), "dev", &far])?;
        command("ip", &["-n", name, "link", "set", &far, "up"])?;
        command("ip", &["-n", name, "link", "set", "lo", "up"])?;
        let queue = ["burst", "128kb", "latency", "50ms"];
        let limit = ["qdisc", "add", "dev", &near, "root", "tbf", "rate", RATE];
        command("tc", &[&limit[..], &queue[..]].concat())?;
        Ok(this)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The interfaces go with it.
        let _ = command("ip", &["netns", "delete", &self.name]);
    }
}

/// The child process with the delay. It ends with this value.
struct DelayLine {
    child: Child,
    address: SocketAddr,
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The hidden command line that runs [`delay_line`].
pub const DELAY_LINE: [&str; 2] = ["bench", "delay-line"];

impl DelayLine {
    fn start(namespace: &Namespace, program: &Path, to: SocketAddr) -> Result<DelayLine, PathError> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &namespace.name])
            .arg(program)
            .args(DELAY_LINE)
            .args([FAR.to_string(), to.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|_| PathError::Missing("ip"))?;
        let mut line = String::new();
        if let Some(said) = child.stdout.take() {
            io::BufRead::read_line(&mut io::BufReader::new(said), &mut line)?;
        }
        let address = line.trim().parse::<SocketAddr>().map_err(io::Error::other);
        let address = address.inspect_err(|_| {
            let _ = child.kill();
        })?;
        Ok(DelayLine { child, address })
    }
}

/// The delay line: listens at `at`, tells its address on standard output, and carries every connection to `to`, late.
///
/// # Errors
/// If it cannot listen.
pub fn delay_line(at: Ipv4Addr, to: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind((at, 0))?;
    println!("{}", listener.local_addr()?);
    carry_all(&listener, to, DELAY)
}

/// Carries every connection to `to`, bytes after `delay`.
fn carry_all(listener: &TcpListener, to: SocketAddr, delay: Duration) -> io::Result<()> {
    loop {
        let (here, _) = listener.accept()?;
        let there = TcpStream::connect(to)?;
        for stream in [&here, &there] {
            stream.set_nodelay(true)?;
        }
        for (from, into) in [(here.try_clone()?, there.try_clone()?), (there, here)] {
            let (tell, told) = mpsc::channel::<(Instant, Vec<u8>)>();
            std::thread::spawn(move || read_from(from, &tell, delay));
            std::thread::spawn(move || write_to(into, &told));
        }
    }
}

fn read_from(mut from: TcpStream, tell: &mpsc::Sender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if tell.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
            return;
        }
    }
}

fn write_to(mut into: TcpStream, told: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Ok((when, bytes)) = told.recv() {
        std::thread::sleep(when.saturating_duration_since(Instant::now()));
        if into.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = into.shutdown(Shutdown::Write);
}

/// Measures; `told` hears what is going on.
///
/// # Errors
/// See [`BenchError`].
pub async fn run(options: Options, mut told: impl FnMut(&str)) -> Result<Vec<Row>, BenchError> {
    let namespace = Namespace::new()?;
    let origin = Origin::start().await?;
    let mut who = vec![Contender::Unpaid];
    if options.ctor {
        who.push(Contender::CTorVanilla);
    }
    let mut rows = Vec::new();
    for who in who {
        let Some(running) = Running::start(who, &options.program, &options.directory, &mut told).await? else {
            continue;
        };
        let mut path = running.chain().path();
        let guard = path[0].address;
        let hand = TcpListener::bind((NEAR, 0)).map_err(PathError::Line)?;
        let near = hand.local_addr().map_err(PathError::Line)?;
        std::thread::spawn(move || carry_all(&hand, guard, Duration::ZERO));
        let line = DelayLine::start(&namespace, &options.program, near)?;
        path[0].address = line.address;
        for run in 0..options.runs {
            for flow in [Flow::Fixed, Flow::Congestion] {
                told(&format!("run {}: {}, {flow:?}", run + 1, who.name()));
                let address = origin.address();
                let work = tokio::task::spawn_blocking(move || speed(&path, flow, address));
                let speed = work.await.map_err(|_| BenchError::Panicked)?;
                rows.push(Row {
                    relays: who,
                    congestion_control: flow == Flow::Congestion,
                    bytes_per_second: speed.map_err(|error| BenchError::Lane {
                        whose: who.name(),
                        error,
                    })?,
                });
            }
        }
        running.stop().await;
    }
    Ok(rows)
}

/// What one circuit downloads in a second, once it is as fast as it gets.
fn speed(path: &[Target], flow: Flow, origin: SocketAddr) -> Result<f64, LaneError> {
    let mut driver = Driver::new(path, flow)?;
    driver.open(1, 1, origin)?;
    driver.ask(0, ENDLESS);
    let mut turn = |until: Duration| -> Result<(u64, f64), LaneError> {
        let (began, before) = (Instant::now(), driver.received());
        while began.elapsed() < until {
            if !driver.turn(SILENCE)? {
                return Err(crate::driver::DriverError::Silent { what: "downloading" }.into());
            }
        }
        Ok((driver.received() - before, began.elapsed().as_secs_f64()))
    };
    turn(WARM_UP)?;
    let (bytes, seconds) = turn(MEASURED)?;
    Ok(bytes as f64 / seconds)
}

/// For programs.
pub fn json(rows: &[Row]) -> Value {
    json!({
        "machine": machine(),
        "path_bytes_per_second": BYTES_PER_SECOND,
        "round_trip_s": 2.0 * DELAY.as_secs_f64(),
        "rows": rows,
    })
}

/// For people.
pub fn text(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let flow = if row.congestion_control {
            "congestion control"
        } else {
            "fixed windows"
        };
        let share = row.bytes_per_second / BYTES_PER_SECOND * 100.0;
        format!(
            "{:<22}{flow:<20}{:6.2} MB/s {share:5.1} % of the path\n",
            row.relays.name(),
            row.bytes_per_second / 1e6
        )
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_brings_every_byte_and_none_of_them_early() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = echo.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut bytes = [0; 4];
            while stream.read_exact(&mut bytes).is_ok() {
                stream.write_all(&bytes).unwrap();
            }
        });
        let line = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = line.local_addr().unwrap();
        let delay = Duration::from_millis(10);
        std::thread::spawn(move || carry_all(&line, to, delay));
        let mut stream = TcpStream::connect(at).unwrap();
        for word in [b"once", b"more"] {
            let began = Instant::now();
            stream.write_all(word).unwrap();
            let mut back = [0; 4];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, word);
            assert!(began.elapsed() >= 2 * delay);
        }
    }
}
