//! Padding of links, so that who sees only the times of packets learns less from long silences
//! ([connection-level padding](https://spec.torproject.org/padding-spec/connection-level-padding.html)).
//!
//! ```text
//!            CREATE2 (or, if the consensus says so, the first cell carried)        STOP
//!  not used ───────────────────────────────────────────────────────────────► pads ─────► does not
//!                                                                              ▲           │
//!                                                                              └── START ──┘
//! ```
//!
//! A link that pads gets a PADDING cell when nothing was sent on it for a random time; what is sent in between starts a
//! new one. Only links of protocol 5 to clients pad, and those to relays if the consensus asks for it.

use std::cmp::Reverse;

use super::Engine;
use super::circuit::Next;
use super::ids::{LinkId, Time};
use super::link::Place;
use super::wire::command;
use crate::crypto::tor1::BODY_LEN;

/// Longest timeout that a consensus or a peer may ask for, milliseconds.
const TIMEOUT_MAX: u32 = 60_000;
/// Sent later than this after our last padding is something else.
const PADDING_SENT: u64 = 50_000;

/// What the consensus says of links: padding and idle ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkParameters {
    /// `nf_ito_low`: shortest silence before padding, milliseconds.
    padding_low: u32,
    /// `nf_ito_high`: longest one. Both 0: no padding.
    padding_high: u32,
    /// `nf_pad_relays`: links between relays pad too.
    pad_relays: bool,
    /// `nf_pad_before_usage`: a link pads from its first circuit on, and not only from the first cell carried.
    pad_before_usage: bool,
    /// `nf_conntimeout_relays`: seconds without a circuit after which a relay's link is closed, about.
    idle_relays: u32,
}

impl Default for LinkParameters {
    fn default() -> Self {
        LinkParameters::new(|_, default| default)
    }
}

impl LinkParameters {
    /// The parameters by their names; `param` gives one, or the default that it is told. Every value is brought within
    /// C Tor's limits.
    pub fn new(param: impl Fn(&str, i32) -> i32) -> Self {
        let millis = |name, default| u32::try_from(param(name, default)).unwrap_or(0).min(TIMEOUT_MAX);
        let padding_low = millis("nf_ito_low", 1500);
        LinkParameters {
            padding_low,
            padding_high: millis("nf_ito_high", 9500).max(padding_low),
            pad_relays: param("nf_pad_relays", 0) == 1,
            pad_before_usage: param("nf_pad_before_usage", 1) != 0,
            idle_relays: u32::try_from(param("nf_conntimeout_relays", 3600))
                .unwrap_or(0)
                .clamp(60, 604_800),
        }
    }

    /// Microseconds without a circuit after which a relay's link is closed, about.
    pub(crate) fn idle_relays(&self) -> u64 {
        u64::from(self.idle_relays) * 1_000_000
    }
}

/// What a link has been used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Usage {
    /// Nothing, or the directory.
    None,
    /// Circuits that may become long.
    Circuits,
    /// Cells of such a circuit were carried.
    Cells,
}

/// A link's padding.
#[derive(Debug)]
pub(crate) struct Padding {
    /// Link protocol 5, and the peer has not stopped it.
    on: bool,
    /// Shortest and longest silence that the peer asked for, milliseconds.
    asked: Option<(u32, u32)>,
    usage: Usage,
    /// The silence that is being waited for began here.
    from: Time,
    /// It has a place in the engine's list.
    listed: bool,
}

impl Padding {
    pub(crate) fn new(negotiable: bool) -> Self {
        Padding {
            on: negotiable,
            asked: None,
            usage: Usage::None,
            from: Time(0),
            listed: false,
        }
    }
}

impl Engine {
    /// Changes what the consensus says of links.
    pub fn set_link_parameters(&mut self, parameters: LinkParameters) {
        self.config.links = parameters;
    }

    /// PADDING_NEGOTIATE: version 0, a command, two timeouts in milliseconds. Of other versions, of unknown commands and on
    /// links of protocol 4: ignored.
    pub(crate) fn padding_negotiate(&mut self, link: u32, body: &[u8; BODY_LEN]) {
        let &[0, command, l0, l1, h0, h1, ..] = body else {
            return;
        };
        let ours = self.config.links;
        let Some(this) = self.links.at_mut(link).filter(|link| link.info.pads) else {
            return;
        };
        match command {
            1 => this.padding.on = false,
            2 => {
                let asked = (u16::from_be_bytes([l0, l1]), u16::from_be_bytes([h0, h1]));
                let low = ours.padding_low.max(asked.0.into());
                this.padding.on = true;
                // Two zeros: what the consensus says (arti asks so for the default).
                this.padding.asked = (asked != (0, 0)).then(|| (low, low.max(asked.1.into())));
                self.plan_padding(link);
            }
            _ => {}
        }
    }

    /// A circuit was made on a link that may become a long one.
    pub(crate) fn used_for_circuits(&mut self, link: u32) {
        self.used(link, Usage::Circuits);
    }

    /// A RELAY cell came on a link: does it belong to a circuit that goes on from here?
    #[cold]
    fn note_cells(&mut self, link: u32, id: u32) {
        let place = self.links.at(link).and_then(|link| link.circuits.get(&id));
        let carried = match place {
            Some(Place::Prev(index)) => self
                .circuits
                .at(*index)
                .is_some_and(|circuit| matches!(circuit.next, Next::Open(_) | Next::Spliced(_))),
            Some(Place::Next(_)) => true,
            Some(Place::Buried) | None => false,
        };
        if carried {
            self.used(link, Usage::Cells);
        }
    }

    /// A RELAY cell came on a link.
    #[inline]
    pub(crate) fn used_for_cells(&mut self, link: u32, id: u32) {
        if !self.config.links.pad_before_usage
            && self
                .links
                .at(link)
                .is_some_and(|link| link.padding.usage == Usage::Circuits)
        {
            self.note_cells(link, id);
        }
    }

    fn used(&mut self, link: u32, usage: Usage) {
        if let Some(this) = self.links.at_mut(link)
            && this.padding.usage < usage
        {
            this.padding.usage = usage;
            self.plan_padding(link);
        }
    }

    /// How long a silence a link's next padding waits for, microseconds; `None`: it does not pad. The larger of two uniform
    /// draws, as all of Tor does it.
    fn padding_wait(&mut self, link: u32) -> Option<u64> {
        let ours = self.config.links;
        let this = self.links.at(link)?;
        let (low, high) = this.padding.asked.unwrap_or((ours.padding_low, ours.padding_high));
        let usage = if ours.pad_before_usage {
            Usage::Circuits
        } else {
            Usage::Cells
        };
        let pads = this.padding.on
            && this.padding.usage >= usage
            && (this.info.relay().is_none() || ours.pad_relays)
            && (ours.padding_low, ours.padding_high) != (0, 0);
        if !pads {
            return None;
        }
        let (low, span) = (u64::from(low) * 1000, u64::from(high - low) * 1000 + 1);
        let wait = low + (self.rng.next_u64() % span).max(self.rng.next_u64() % span);
        // A peer may ask for less than a moment.
        Some(wait.max(1000))
    }

    /// Puts a link that pads into the list, once.
    pub(crate) fn plan_padding(&mut self, link: u32) {
        if self.links.at(link).is_none_or(|link| link.padding.listed) {
            return;
        }
        let Some(wait) = self.padding_wait(link) else { return };
        if let (Some(name), Some(this)) = (self.links.name(link), self.links.at_mut(link)) {
            this.padding.listed = true;
            this.padding.from = this.padding.from.max(this.last_sent);
            self.padding.push(Reverse((this.padding.from.plus(wait), name)));
        }
    }

    /// Sends the padding that is due.
    pub(crate) fn pad(&mut self) {
        while let Some(Reverse((due, name))) = self.padding.peek().copied()
            && due <= self.now
        {
            self.padding.pop();
            self.pad_link(name);
        }
    }

    fn pad_link(&mut self, name: LinkId) {
        let now = self.now;
        let Some(this) = self.links.get_mut(name) else { return };
        this.padding.listed = false;
        if this.last_sent.since(this.padding.from) <= PADDING_SENT {
            this.padding.from = now;
            // Else it is sending right now.
            if this.writer_idle && self.padding_wait(name.index).is_some() {
                self.counters.padding_sent += 1;
                self.send_control(name.index, 0, command::PADDING, &[]);
            }
        }
        self.plan_padding(name.index);
    }
}
