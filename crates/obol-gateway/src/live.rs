//! What happens, as it does: numbered, so that a reader who was away can go on where it was.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::v1::types::{Balances, Escrow, Payment, PaymentRequest, Tunnel};

/// How many are kept for those who come back.
const REMEMBERED: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Live {
    /// A payment was made, or ended.
    Payment(Payment),
    /// A payment request came, or something became of it.
    PaymentRequest(PaymentRequest),
    /// A payment was refused here.
    Refusal {
        /// The code on the wire.
        code: String,
    },
    /// An escrow has changed.
    Escrow(Escrow),
    /// What there is has changed.
    Balance(Balances),
    /// A tunnel was opened, or has changed, or ended.
    Tunnel(Tunnel),
    /// Something that a person should know.
    Warning {
        /// The whole of it.
        text: String,
    },
}

impl Live {
    fn name(&self) -> &'static str {
        match self {
            Live::Payment(_) => "payment",
            Live::PaymentRequest(_) => "payment_request",
            Live::Refusal { .. } => "refusal",
            Live::Escrow(_) => "escrow",
            Live::Balance(_) => "balance",
            Live::Tunnel(_) => "tunnel",
            Live::Warning { .. } => "warning",
        }
    }
}

/// An event with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbered {
    /// Counts from 1 in each run.
    pub(crate) id: u64,
    /// The event's name.
    pub(crate) name: &'static str,
    /// What it says, JSON.
    pub(crate) data: String,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Feed {
    newest: Mutex<VecDeque<Arc<Numbered>>>,
    out: broadcast::Sender<Arc<Numbered>>,
}

/// Where a reader begins.
pub(crate) struct Reading {
    /// What it missed, and is still known.
    pub(crate) missed: Vec<Arc<Numbered>>,
    /// Whether it missed more than that.
    pub(crate) gap: bool,
    /// What comes.
    pub(crate) next: broadcast::Receiver<Arc<Numbered>>,
}

impl Feed {
    pub(crate) fn new() -> Feed {
        Feed {
            newest: Mutex::new(VecDeque::new()),
            out: broadcast::channel(REMEMBERED).0,
        }
    }

    /// Tells everybody.
    pub(crate) fn tell(&self, live: &Live) {
        let Ok(data) = serde_json::to_string(live) else {
            return;
        };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let id = newest.back().map_or(1, |last| last.id + 1);
        let event = Arc::new(Numbered {
            id,
            name: live.name(),
            data,
        });
        newest.push_back(Arc::clone(&event));
        if newest.len() > REMEMBERED {
            newest.pop_front();
        }
        // Under the lock, so that they go out in order. Without a reader there is nobody to tell.
        let _ = self.out.send(event);
    }

    /// A reader that has seen all up to `seen`; `None`: a new one, who misses nothing.
    pub(crate) fn read(&self, seen: Option<u64>) -> Reading {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.out.subscribe();
        let Some(seen) = seen else {
            return Reading {
                missed: Vec::new(),
                gap: false,
                next,
            };
        };
        let last = newest.back().map_or(0, |event| event.id);
        // Numbers begin anew with each run: one that is not reached yet is of another.
        let of_another_run = seen > last;
        let missed: Vec<_> = newest
            .iter()
            .filter(|event| of_another_run || event.id > seen)
            .cloned()
            .collect();
        let first = missed.first().map_or(last + 1, |event| event.id);
        Reading {
            gap: of_another_run || first > seen + 1,
            missed,
            next,
        }
    }
}
