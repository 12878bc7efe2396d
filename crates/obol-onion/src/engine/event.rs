//! What the engine asks for and tells: drained after every batch with [`Engine::poll_event`](super::Engine::poll_event).
//!
//! | event | who acts | with |
//! |---|---|---|
//! | [`Event::Payment`] | the payments driver | `grant`, `answer`, `send_link`, `watch_credit`, `destroy`, `close_link` |
//! | [`Event::Handshake`] | any thread, outside of the lock | `take_up`, `created` |
//! | [`Event::Introduction`] | any thread, outside of the lock | `introduced` |
//! | [`Event::NeedLink`] | the dialler | `link_up` and `extend_via`, or `extend_failed` |
//! | [`Event::CloseLink`] | the link's tasks | close the socket, then `link_down` |
//! | [`Event::Begin`], [`Event::BeginDir`] | a stream task | `connected`, `send`, `receive`, `consumed`, `end` |
//! | [`Event::Resolve`] | the resolver | `resolved` |
//! | [`Event::StreamReady`] | the stream's task | goes on |

use std::net::{IpAddr, SocketAddr};

use super::ids::{CircuitId, LinkId, StreamId, Time};
use super::intro::IntroductionProof;

/// Who is at the other end of a link, as proved in the link handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its Ed25519 identity.
    pub ed: [u8; 32],
    /// Its RSA identity (SHA-1 of the key).
    pub rsa: [u8; 20],
}

/// Whose share a circuit and its cells come out of.
///
/// Anybody can make up an identity and prove that it is its own. Who did so and is in no consensus counts as a client, by
/// its address (C Tor: `connection_or_digest_is_known_relay`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Neighbour {
    /// A client, or who counts as one, by its address: IPv4 whole, IPv6 its first 64 bits.
    Client(IpAddr),
    /// A relay, by its Ed25519 identity.
    Relay([u8; 32]),
}

impl Neighbour {
    /// The neighbour at the other end of a link; `relay` is there only if it counts as one.
    pub fn of(relay: Option<Peer>, remote: SocketAddr) -> Neighbour {
        match (relay, remote.ip().to_canonical()) {
            (Some(relay), _) => Neighbour::Relay(relay.ed),
            (None, IpAddr::V4(address)) => Neighbour::Client(address.into()),
            (None, IpAddr::V6(address)) => {
                let net = u128::from(address) & !u128::from(u64::MAX);
                Neighbour::Client(std::net::Ipv6Addr::from(net).into())
            }
        }
    }
}

/// What the payments of a relay are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentEvent {
    /// A link is open.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The identity that its other end has proved; `None` for a client.
        peer: Option<Peer>,
        /// Whose initial credit its circuits get.
        neighbour: Neighbour,
    },
    /// The other end of a link counts as another from now on, because the consensus has changed.
    LinkJudged {
        /// The link.
        link: LinkId,
        /// Whose initial credit its next circuits get.
        neighbour: Neighbour,
    },
    /// A link is gone, and all its circuits with it.
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// A circuit's handshake with this relay is done.
    CircuitOpened {
        /// The circuit.
        circuit: CircuitId,
        /// The link that it came on.
        link: LinkId,
        /// Its circuit id there.
        id: u32,
    },
    /// The next hop has accepted a circuit.
    CircuitExtended {
        /// The circuit.
        circuit: CircuitId,
        /// The link that it goes on.
        link: LinkId,
        /// Its circuit id there.
        id: u32,
    },
    /// A circuit is gone. It was opened before.
    CircuitClosed {
        /// The circuit.
        circuit: CircuitId,
        /// Bytes carried, both directions.
        metered: u64,
    },
    /// A relay message 52 for this hop.
    Message {
        /// The circuit.
        circuit: CircuitId,
        /// The message's body: at most 498 bytes.
        body: Vec<u8>,
        /// Bytes carried so far, both directions.
        metered: u64,
        /// Bytes that it may still carry in the paid class.
        credit: u64,
    },
    /// A link message 200 from a relay.
    LinkMessage {
        /// The link.
        link: LinkId,
        /// The message's body.
        body: Vec<u8>,
    },
    /// A circuit's credit has fallen below what [`watch_credit`](super::Engine::watch_credit) named. Once per call of it.
    CreditLow {
        /// The circuit.
        circuit: CircuitId,
        /// Bytes carried so far, both directions.
        metered: u64,
        /// Bytes that it may still carry in the paid class.
        credit: u64,
    },
}

/// Which handshake a circuit asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeKind {
    /// CREATE_FAST: no public key.
    Fast,
    /// CREATE2 of type 2.
    Ntor,
    /// CREATE2 of type 3.
    NtorV3,
}

/// A circuit handshake to be answered: the costly part, so it is done outside of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeJob {
    /// The circuit that waits for it.
    pub circuit: CircuitId,
    /// Since when.
    pub since: Time,
    /// Which handshake.
    pub kind: HandshakeKind,
    /// What the client sent.
    pub onionskin: Vec<u8>,
    /// The SENDME increment to be agreed on if the client asks for congestion control; `None`: it does not get it.
    pub congestion_control: Option<u8>,
}

/// The next hop that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Its RSA identity.
    pub rsa: [u8; 20],
    /// Its Ed25519 identity; C Tor's clients leave it out, and the directory then knows it.
    pub ed: Option<[u8; 32]>,
    /// Where it listens: an IPv4 address, an IPv6 address, or both.
    pub addresses: smallvec::SmallVec<[SocketAddr; 2]>,
}

/// One EXTEND2 of a circuit. After a TRUNCATE there may be another while the first one's link is still being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtendId {
    /// The circuit.
    pub circuit: CircuitId,
    /// Which of its EXTEND2s.
    pub number: u32,
}

/// What a stream wants to reach, as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A host name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
    /// BEGIN's flags: bit 0 IPv6 is welcome, bit 1 IPv4 is not, bit 2 IPv6 is preferred.
    pub flags: u32,
}

/// Why the engine wants a link closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    /// A cell that no node may send on an open link.
    #[error("link protocol error: {0}")]
    Protocol(&'static str),
    /// It does not take what we have to send.
    #[error("the peer does not take what is sent to it")]
    Stalled,
    /// No circuit for a long time.
    #[error("idle")]
    Idle,
    /// Asked for by the relay itself.
    #[error("closed by this relay")]
    Asked,
}

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// For the payments driver.
    Payment(PaymentEvent),
    /// A handshake to be answered.
    Handshake(HandshakeJob),
    /// A signature of an onion service to be checked.
    Introduction(IntroductionProof),
    /// There is no link to a circuit's next hop.
    NeedLink {
        /// Which circuit waits for it, and why.
        extend: ExtendId,
        /// Who is before us on that circuit.
        neighbour: Neighbour,
        /// Where it wants to go.
        to: NextHop,
    },
    /// A link is to be closed.
    CloseLink {
        /// The link.
        link: LinkId,
        /// Why.
        why: LinkFault,
    },
    /// A client wants a connection to the world.
    Begin {
        /// The stream.
        stream: StreamId,
        /// The link that the circuit came on.
        from: LinkId,
        /// The identity that was proved there; `None` for a client, which an exit refuses.
        peer: Option<Peer>,
        /// Where to.
        target: Target,
    },
    /// A client wants to talk to our directory.
    BeginDir {
        /// The stream.
        stream: StreamId,
        /// Who is before us on the circuit.
        neighbour: Neighbour,
    },
    /// A client wants a name looked up.
    Resolve {
        /// The stream.
        stream: StreamId,
        /// The identity that was proved by who is before us; `None` for a client.
        peer: Option<Peer>,
        /// The name, as the client wrote it.
        name: String,
    },
    /// A stream has bytes to be fetched, or room to send, or has ended.
    StreamReady {
        /// The stream.
        stream: StreamId,
    },
}
