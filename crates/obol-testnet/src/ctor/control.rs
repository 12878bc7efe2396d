//! C Tor's control port (*control-spec*): asking it, telling it, and hearing its events.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Why it did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum TorControlError {
    /// The connection broke.
    #[error("the control port of `tor`: {0}")]
    Io(#[from] std::io::Error),
    /// It has ended.
    #[error("`tor` closed its control port")]
    Closed,
    /// It refused.
    #[error("`tor` answered {answer:?} to {command:?}")]
    Refused {
        /// What was said.
        command: String,
        /// What it answered.
        answer: String,
    },
    /// It answered something else.
    #[error("`tor` answered {answer:?} to {command:?}, which says nothing of what was asked")]
    Odd {
        /// What was said.
        command: String,
        /// What it answered.
        answer: String,
    },
    /// A circuit was not built.
    #[error("the circuit through {path} was not built: {event}")]
    NoCircuit {
        /// Its relays.
        path: String,
        /// What happened to it.
        event: String,
    },
    /// No event came.
    #[error("`tor` told of no event that was waited for within {} s", .0.as_secs())]
    Late(Duration),
}

/// How long an event is waited for: it is far more than any circuit takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// An authenticated connection to a control port.
#[derive(Debug)]
pub struct TorControl {
    stream: BufReader<TcpStream>,
    events: VecDeque<String>,
}

impl TorControl {
    /// Connects, and shows the cookie.
    ///
    /// # Errors
    /// If it is not let in.
    pub async fn connect(address: SocketAddr, cookie: &[u8]) -> Result<TorControl, TorControlError> {
        let stream = BufReader::new(TcpStream::connect(address).await?);
        let mut control = TorControl {
            stream,
            events: VecDeque::new(),
        };
        control
            .tell(&format!("AUTHENTICATE {}", hex::encode_upper(cookie)))
            .await?;
        Ok(control)
    }

    async fn line(&mut self) -> Result<String, TorControlError> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(TorControlError::Closed);
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// One whole reply or event: its code, and its lines without theirs.
    async fn reply(&mut self) -> Result<(String, Vec<String>), TorControlError> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            let code = line.get(..3).unwrap_or_default().to_owned();
            let (kind, rest) = (line.as_bytes().get(3), line.get(4..).unwrap_or_default());
            lines.push(rest.to_owned());
            match kind {
                Some(b'+') => loop {
                    let data = self.line().await?;
                    if data == "." {
                        break;
                    }
                    lines.push(data);
                },
                Some(b'-') => {}
                _ => return Ok((code, lines)),
            }
        }
    }

    /// Sends a command; returns the lines of its answer.
    ///
    /// # Errors
    /// If it refuses.
    pub async fn tell(&mut self, command: &str) -> Result<Vec<String>, TorControlError> {
        self.stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        loop {
            let (code, lines) = self.reply().await?;
            if code == "650" {
                self.events.extend(lines);
            } else if code.starts_with('2') {
                return Ok(lines);
            } else {
                return Err(TorControlError::Refused {
                    command: command.to_owned(),
                    answer: format!("{code} {}", lines.join(" ")),
                });
            }
        }
    }

    /// What it knows under a key of `GETINFO`, line by line.
    ///
    /// # Errors
    /// If it does not know it.
    pub async fn info(&mut self, key: &str) -> Result<Vec<String>, TorControlError> {
        let mut lines = self.tell(&format!("GETINFO {key}")).await?;
        lines.retain(|line| line != "OK");
        if let Some(first) = lines.first_mut()
            && let Some(value) = first.strip_prefix(key).and_then(|rest| rest.strip_prefix('='))
        {
            *first = value.to_owned();
        }
        lines.retain(|line| !line.is_empty());
        Ok(lines)
    }

    /// The next event that was asked for with `SETEVENTS`, without its code.
    ///
    /// # Errors
    /// If none comes for a minute.
    pub async fn event(&mut self) -> Result<String, TorControlError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let (code, lines) = self.reply().await?;
                if code == "650" {
                    return Ok::<_, TorControlError>(lines);
                }
            }
        });
        let lines = waited.await.map_err(|_| TorControlError::Late(PATIENCE))??;
        self.events.extend(lines);
        // A reply has at least one line.
        self.events.pop_front().ok_or(TorControlError::Closed)
    }

    /// Prepares for circuits and streams that are put together here: streams wait for [`attach`](TorControl::attach).
    ///
    /// # Errors
    /// If it refuses.
    pub async fn take_over_streams(&mut self) -> Result<(), TorControlError> {
        self.tell("SETCONF __LeaveStreamsUnattached=1").await?;
        self.tell("SETEVENTS CIRC STREAM").await?;
        Ok(())
    }

    /// Builds a circuit through exactly these relays (RSA fingerprints), and waits until it is built; returns its number.
    ///
    /// # Errors
    /// If it is not built.
    pub async fn build(&mut self, path: &[String]) -> Result<String, TorControlError> {
        let named: Vec<String> = path.iter().map(|relay| format!("${relay}")).collect();
        let command = format!("EXTENDCIRCUIT 0 {}", named.join(","));
        let answer = self.tell(&command).await?.concat();
        let Some(circuit) = answer.strip_prefix("EXTENDED ").map(ToOwned::to_owned) else {
            return Err(TorControlError::Odd { command, answer });
        };
        loop {
            let event = self.event().await?;
            if event.starts_with(&format!("CIRC {circuit} BUILT")) {
                return Ok(circuit);
            }
            if event.starts_with(&format!("CIRC {circuit} FAILED"))
                || event.starts_with(&format!("CIRC {circuit} CLOSED"))
            {
                return Err(TorControlError::NoCircuit {
                    path: named.join(","),
                    event,
                });
            }
        }
    }

    /// Waits for a new stream whose target (`host:port`) is `wanted`, and attaches it to this circuit; returns its number.
    ///
    /// # Errors
    /// If none comes, or it is refused.
    pub async fn attach(&mut self, circuit: &str, wanted: impl Fn(&str) -> bool) -> Result<String, TorControlError> {
        let stream = loop {
            let event = self.event().await?;
            let words: Vec<&str> = event.split(' ').collect();
            if let ["STREAM", stream, "NEW" | "NEWRESOLVE", _, target, ..] = words[..]
                && wanted(target)
            {
                break stream.to_owned();
            }
        };
        self.tell(&format!("ATTACHSTREAM {stream} {circuit}")).await?;
        Ok(stream)
    }

    /// The next event of this stream that has `word` in it.
    ///
    /// # Errors
    /// If none comes.
    pub async fn stream_event(&mut self, stream: &str, word: &str) -> Result<String, TorControlError> {
        loop {
            let event = self.event().await?;
            if event.starts_with(&format!("STREAM {stream} ")) && event.contains(word) {
                return Ok(event);
            }
        }
    }
}
