//! Numbers of the wire: cells (tor-spec, [cell packet format](https://spec.torproject.org/tor-spec/cell-packet-format.html)),
//! relay messages ([relay cells](https://spec.torproject.org/tor-spec/relay-cells.html)), reasons.

use crate::crypto::tor1::BODY_LEN;

/// Circuit id and command.
pub(crate) const HEADER_LEN: usize = 5;
/// A fixed-length cell on a link of protocol 4 or 5.
pub const CELL_LEN: usize = HEADER_LEN + BODY_LEN;

/// The body of a whole cell.
#[inline]
pub(crate) fn body(cell: &mut [u8; CELL_LEN]) -> &mut [u8; BODY_LEN] {
    // As many as `HEADER_LEN`, or the lengths would not fit.
    let [_, _, _, _, _, body @ ..] = cell;
    body
}
/// Most data in one relay message.
pub const DATA_MAX: usize = 498;
/// Longest link message that is taken; longer ones of this command are an error, of other commands passed over.
pub const LINK_MESSAGE_MAX: usize = 16 * 1024;

/// Commands of cells.
pub(crate) mod command {
    pub(crate) const PADDING: u8 = 0;
    pub(crate) const CREATE: u8 = 1;
    pub(crate) const RELAY: u8 = 3;
    pub(crate) const DESTROY: u8 = 4;
    pub(crate) const CREATE_FAST: u8 = 5;
    pub(crate) const CREATED_FAST: u8 = 6;
    pub(crate) const RELAY_EARLY: u8 = 9;
    pub(crate) const CREATE2: u8 = 10;
    pub(crate) const CREATED2: u8 = 11;
    pub(crate) const PADDING_NEGOTIATE: u8 = 12;
    /// Payments, between Obol relays.
    pub(crate) const LINK_MESSAGE: u8 = 200;

    /// Whether cells of this command carry their length.
    #[inline]
    pub(crate) fn is_variable(command: u8) -> bool {
        command == 7 || command >= 128
    }
}

/// Commands of relay messages.
pub(crate) mod relay {
    pub(crate) const BEGIN: u8 = 1;
    pub(crate) const DATA: u8 = 2;
    pub(crate) const END: u8 = 3;
    pub(crate) const CONNECTED: u8 = 4;
    pub(crate) const SENDME: u8 = 5;
    pub(crate) const EXTEND: u8 = 6;
    pub(crate) const TRUNCATE: u8 = 8;
    pub(crate) const TRUNCATED: u8 = 9;
    pub(crate) const RESOLVE: u8 = 11;
    pub(crate) const RESOLVED: u8 = 12;
    pub(crate) const BEGIN_DIR: u8 = 13;
    pub(crate) const EXTEND2: u8 = 14;
    pub(crate) const EXTENDED2: u8 = 15;
    pub(crate) const ESTABLISH_INTRO: u8 = 32;
    pub(crate) const ESTABLISH_RENDEZVOUS: u8 = 33;
    pub(crate) const INTRODUCE1: u8 = 34;
    pub(crate) const INTRODUCE2: u8 = 35;
    pub(crate) const RENDEZVOUS1: u8 = 36;
    pub(crate) const RENDEZVOUS2: u8 = 37;
    pub(crate) const INTRO_ESTABLISHED: u8 = 38;
    pub(crate) const RENDEZVOUS_ESTABLISHED: u8 = 39;
    pub(crate) const INTRODUCE_ACK: u8 = 40;
    pub(crate) const XOFF: u8 = 43;
    pub(crate) const XON: u8 = 44;
    pub(crate) const PAYMENT_TO_ORIGIN: u8 = 51;
    pub(crate) const PAYMENT_TO_NODE: u8 = 52;
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$d:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$d])* $variant = $number,)+ }
    };
}

reasons! {
    /// Why a circuit ends (tor-spec, [tearing down circuits](https://spec.torproject.org/tor-spec/tearing-down-circuits.html)).
    DestroyReason {
        /// No reason given.
        None = 0,
        /// The other side broke the protocol.
        Protocol = 1,
        /// A fault of ours.
        Internal = 2,
        /// Asked for by a TRUNCATE.
        Requested = 3,
        /// We are shutting down.
        Hibernating = 4,
        /// Out of memory, circuit ids, or patience.
        ResourceLimit = 5,
        /// The next hop cannot be reached.
        ConnectFailed = 6,
        /// The next hop is not who it should be.
        Identity = 7,
        /// The link that carried the circuit is gone.
        ChannelClosed = 8,
        /// The circuit has done its work.
        Finished = 9,
        /// Building took too long.
        Timeout = 10,
        /// The circuit was destroyed further on.
        Destroyed = 11,
    }
}

reasons! {
    /// Why a stream ends (tor-spec, [closing streams](https://spec.torproject.org/tor-spec/closing-streams.html)).
    EndReason {
        /// None of the others.
        Misc = 1,
        /// The name does not resolve.
        ResolveFailed = 2,
        /// The target refused the connection.
        ConnectRefused = 3,
        /// The exit policy does not allow the target. Written with the address: see [`Ending::Policy`].
        ExitPolicy = 4,
        /// The circuit is going away.
        Destroy = 5,
        /// Finished.
        Done = 6,
        /// The target did not answer in time.
        Timeout = 7,
        /// No route to the target.
        NoRoute = 8,
        /// We are shutting down.
        Hibernating = 9,
        /// A fault of ours.
        Internal = 10,
        /// Out of sockets or buffers. Clients then avoid this exit for hours.
        ResourceLimit = 11,
        /// The target reset the connection.
        ConnReset = 12,
        /// The client broke the protocol.
        TorProtocol = 13,
        /// No directory here.
        NotDirectory = 14,
    }
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// For a reason without more to say.
    Because(EndReason),
    /// The exit policy refuses this address; told to the client with its time to live in seconds.
    Policy(std::net::IpAddr, u32),
}
