//! The few numbers of Tor's wire that a client needs
//! (tor-spec, [cells](https://spec.torproject.org/tor-spec/cell-packet-format.html),
//! [relay cells](https://spec.torproject.org/tor-spec/relay-cells.html)).

use obol_onion::crypto::tor1::BODY_LEN;

/// Circuit id and command.
pub(crate) const HEADER: usize = 5;
/// A cell of fixed length.
pub const CELL: usize = HEADER + BODY_LEN;
/// Most payload of one cell.
pub const PAYLOAD: usize = 498;
/// Command, recognized, stream, digest, length.
pub(crate) const RELAY_HEADER: usize = 11;

/// Commands of cells.
pub(crate) mod cell {
    pub(crate) const RELAY: u8 = 3;
    pub(crate) const DESTROY: u8 = 4;
    pub(crate) const RELAY_EARLY: u8 = 9;
    pub(crate) const CREATE2: u8 = 10;
    pub(crate) const CREATED2: u8 = 11;
}

/// Commands of relay messages.
pub(crate) mod relay {
    pub(crate) const BEGIN: u8 = 1;
    pub(crate) const DATA: u8 = 2;
    pub(crate) const END: u8 = 3;
    pub(crate) const CONNECTED: u8 = 4;
    pub(crate) const SENDME: u8 = 5;
    pub(crate) const EXTEND2: u8 = 14;
    pub(crate) const EXTENDED2: u8 = 15;
    pub(crate) const PAYMENT_TO_ORIGIN: u8 = 51;
    pub(crate) const PAYMENT_TO_NODE: u8 = 52;
}

/// Handshake types of CREATE2.
pub(crate) const NTOR: u16 = 2;
/// See [`NTOR`].
pub(crate) const NTOR_V3: u16 = 3;

/// A relay message as a clear body. `data` is at most [`PAYLOAD`] long.
pub(crate) fn message(command: u8, stream: u16, data: &[u8]) -> [u8; BODY_LEN] {
    let mut body = [0; BODY_LEN];
    body[0] = command;
    body[3..5].copy_from_slice(&stream.to_be_bytes());
    body[9..RELAY_HEADER].copy_from_slice(&(data.len() as u16).to_be_bytes());
    body[RELAY_HEADER..RELAY_HEADER + data.len()].copy_from_slice(data);
    body
}

/// The body of a CREATE2, and the end of an EXTEND2.
pub(crate) fn create2(kind: u16, skin: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + skin.len());
    body.extend_from_slice(&kind.to_be_bytes());
    body.extend_from_slice(&(skin.len() as u16).to_be_bytes());
    body.extend_from_slice(skin);
    body
}

/// What a CREATED2 or EXTENDED2 carries.
pub(crate) fn reply_in(body: &[u8]) -> Option<&[u8]> {
    let (len, rest) = body.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*len)))
}
