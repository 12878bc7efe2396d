//! What an [`Engine`](super::Engine) is told once, by its operator and by the consensus.

use std::net::SocketAddr;

use super::congestion::Congestion;
use super::defence::DefenceParameters;
use super::padding::LinkParameters;

/// What the unpaid class gets of the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnpaidShare {
    /// All that the paid circuits leave, and a seventeenth when they leave nothing.
    #[default]
    Leftover,
    /// The same, but never more than this many bytes per second.
    Capped(u64),
}

/// Versions of the SENDMEs of circuits (tor-spec, [flow control](https://spec.torproject.org/tor-spec/flow-control.html)): 0 has
/// no tag, 1 quotes one. There are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendmeVersions {
    /// `sendme_accept_min_version`: 0 tolerates those without a tag.
    pub accept: u8,
    /// `sendme_emit_min_version`: of ours.
    pub emit: u8,
}

impl Default for SendmeVersions {
    fn default() -> Self {
        SendmeVersions::new(|_, default| default)
    }
}

impl SendmeVersions {
    /// The parameters by their names; `param` gives one, or the default that it is told.
    pub fn new(param: impl Fn(&str, i32) -> i32) -> Self {
        let version = |name, default| param(name, default).clamp(0, 1) as u8;
        SendmeVersions {
            accept: version("sendme_accept_min_version", 0),
            emit: version("sendme_emit_min_version", 1),
        }
    }
}

/// How the engine shares what it has. Every field has a default that suits a relay of the public network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Bytes of cells per second that all links together send; `None`: as fast as they take them.
    pub rate: Option<u64>,
    /// With a rate: bytes that may be saved up while less is sent, to be sent at once. What little every relay needs to
    /// keep its rate is always there.
    pub burst: u64,
    /// What the unpaid class gets of it.
    pub unpaid: UnpaidShare,
    /// Bytes of memory for queued cells and for what streams have not yet passed on. The buffers of streams and what else waits
    /// on links may take about as much again: there is one stream for each 4 KiB. A quarter is the unpaid class's own
    /// budget, out of which its largest queue is killed first; the rest is that of the paid circuits.
    pub cell_memory: usize,
    /// Cells that one circuit may have waiting in one direction, unless the consensus says so (`circ_max_cell_queue_size`).
    pub circuit_queue: usize,
    /// Circuits that one link may have at once.
    pub circuits_per_link: usize,
    /// Circuits of all links together.
    pub circuits: usize,
    /// Circuits that one neighbour may have at once: a client's address, or a relay.
    pub circuits_per_neighbour: usize,
    /// A client's circuit that goes nowhere and has carried nothing is closed at this look, of which there is one a minute;
    /// `None`: it is not.
    pub idle_looks: Option<u8>,
    /// Streams that one circuit may have at once.
    pub streams_per_circuit: usize,
    /// Circuit handshakes that may wait for their result at once; further CREATEs are refused. As many signatures of onion
    /// services.
    pub pending_handshakes: usize,
    /// Threads that compute them.
    pub handshake_workers: usize,
    /// Whether EXTEND2 may name private addresses (test networks only).
    pub allow_private_addresses: bool,
    /// Where this relay itself is reached. Under another's name, such an address would cost both sides of a link handshake.
    pub own_addresses: Vec<SocketAddr>,
    /// `circwindow`: DATA cells that may be under way to a client before the first SENDME; 100 to 1000.
    pub circuit_window: u16,
    /// Congestion control of circuits whose clients ask for it.
    pub congestion: Congestion,
    /// Which SENDMEs circuits speak.
    pub sendmes: SendmeVersions,
    /// What the consensus says of links.
    pub links: LinkParameters,
    /// What it says of those who ask for too much.
    pub defences: DefenceParameters,
}

/// Bytes of memory for cells for each stream: the length of its buffer, which is no part of that memory.
const STREAM: usize = 4096;
/// Streams for which there is always room.
const STREAMS_LEAST: usize = 256;

impl EngineConfig {
    /// Streams that all circuits together may have.
    pub(crate) fn streams(&self) -> usize {
        (self.cell_memory / STREAM).max(STREAMS_LEAST)
    }

    /// Streams of the circuits that come from one client's address, which has use for the directory only, or from one relay.
    pub(crate) fn streams_per_neighbour(&self, is_relay: bool) -> usize {
        self.streams() / if is_relay { 4 } else { 32 }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            rate: None,
            burst: 0,
            unpaid: UnpaidShare::Leftover,
            cell_memory: 256 << 20,
            circuit_queue: 2500,
            circuits_per_link: 65_536,
            circuits: 262_144,
            circuits_per_neighbour: 32_768,
            idle_looks: Some(2),
            streams_per_circuit: 1024,
            pending_handshakes: 4096,
            handshake_workers: 1,
            allow_private_addresses: false,
            own_addresses: Vec::new(),
            circuit_window: 1000,
            congestion: Congestion::disabled(),
            sendmes: SendmeVersions::default(),
            links: LinkParameters::default(),
            defences: DefenceParameters::default(),
        }
    }
}
