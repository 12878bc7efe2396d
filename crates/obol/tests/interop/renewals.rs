//! Watching the network's consensuses, from the start of the suite to its end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::transfer;

/// One consensus.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// Its `valid-after`, unix seconds.
    pub valid_after: i64,
    /// How many authorities signed it.
    pub signatures: usize,
    /// Every relay's flags, by nickname.
    pub flags: BTreeMap<String, Vec<String>>,
}

impl Renewal {
    /// Reads a consensus.
    pub fn parse(text: &str) -> anyhow::Result<Renewal> {
        let mut renewal = Renewal {
            valid_after: 0,
            signatures: 0,
            flags: BTreeMap::new(),
        };
        let mut relay = String::new();
        for line in text.lines() {
            let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
            match keyword {
                "valid-after" => renewal.valid_after = unix(rest).with_context(|| format!("no time: {rest}"))?,
                "r" => relay = rest.split(' ').next().unwrap_or_default().to_owned(),
                "s" => {
                    let flags = rest.split(' ').map(ToOwned::to_owned).collect();
                    renewal.flags.insert(std::mem::take(&mut relay), flags);
                }
                "directory-signature" => renewal.signatures += 1,
                _ => {}
            }
        }
        Ok(renewal)
    }

    /// Whether a relay is in it and has a flag.
    pub fn has(&self, relay: &str, flag: &str) -> bool {
        self.flags
            .get(relay)
            .is_some_and(|flags| flags.iter().any(|f| f == flag))
    }
}

/// `2026-11-21 22:35:00` in unix seconds.
fn unix(text: &str) -> Option<i64> {
    let numbers: Vec<i64> = text
        .split(['-', ' ', ':'])
        .filter_map(|part| part.parse().ok())
        .collect();
    let [year, month, day, hour, minute, second] = numbers[..] else {
        return None;
    };
    // Days from 1970 by the civil calendar: years begin in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The watch.
pub struct Renewals {
    seen: Arc<Mutex<Vec<Renewal>>>,
    task: JoinHandle<()>,
}

impl Drop for Renewals {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Renewals {
    /// Watches what the authority at this address publishes.
    pub fn watch(authority: SocketAddr) -> Renewals {
        let seen = Arc::new(Mutex::new(Vec::<Renewal>::new()));
        let sink = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                // Before the first consensus there is nothing to get.
                if let Ok(renewal) = Renewals::ask(authority).await {
                    let mut seen = sink.lock().unwrap();
                    if seen.last().is_none_or(|last| last.valid_after < renewal.valid_after) {
                        seen.push(renewal);
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Renewals { seen, task }
    }

    /// The consensus that an authority has now.
    pub async fn ask(authority: SocketAddr) -> anyhow::Result<Renewal> {
        let path = "/tor/status-vote/current/consensus-microdesc";
        let body = transfer::page(TcpStream::connect(authority).await?, path).await?;
        Renewal::parse(&String::from_utf8(body)?)
    }

    /// All that were seen, the oldest first.
    pub fn all(&self) -> Vec<Renewal> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits for the next one that `wanted` likes, among those that are still to come.
    pub async fn next(&self, patience: Duration, wanted: impl Fn(&Renewal) -> bool) -> anyhow::Result<Renewal> {
        let mut known = self.seen.lock().unwrap().len();
        let waiting = async {
            loop {
                let new = self.seen.lock().unwrap().get(known).cloned();
                match new {
                    Some(renewal) if wanted(&renewal) => return renewal,
                    Some(_) => known += 1,
                    None => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let found = tokio::time::timeout(patience, waiting).await;
        found.with_context(|| {
            let last = self.seen.lock().unwrap().last().cloned();
            format!(
                "no consensus came within {} s that is as it should be; the last: {last:#?}",
                patience.as_secs()
            )
        })
    }
}
