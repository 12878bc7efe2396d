//! Cells as bytes on a link, before and after its version is settled.
//!
//! tor-spec, [cell packet format](https://spec.torproject.org/tor-spec/cell-packet-format.html). A VERSIONS cell, and all
//! that comes before it, has a circuit id of two bytes; from then on it has four (link protocol 4 and later).

use super::LinkError;

/// Link commands that the handshake knows.
pub(super) mod command {
    pub const PADDING: u8 = 0;
    pub const VERSIONS: u8 = 7;
    pub const NETINFO: u8 = 8;
    pub const VPADDING: u8 = 128;
    pub const CERTS: u8 = 129;
    pub const AUTH_CHALLENGE: u8 = 130;
    pub const AUTHENTICATE: u8 = 131;
    pub const AUTHORIZE: u8 = 132;
}

/// Length of the body of a cell whose command is not one of the variable-length ones.
pub const FIXED_BODY_LEN: usize = 509;

/// Whether cells of this command carry their own length.
pub const fn is_variable(command: u8) -> bool {
    command == command::VERSIONS || command >= 128
}

/// A whole cell at the start of a buffer.
pub(super) struct Parsed<'a> {
    pub command: u8,
    pub body: &'a [u8],
    /// The cell as it was on the wire.
    pub wire: &'a [u8],
}

/// The first cell in `buffer`, with circuit ids of `id_len` bytes. `None` until it is complete.
pub(super) fn parse(buffer: &[u8], id_len: usize) -> Option<Parsed<'_>> {
    let after_id = buffer.get(id_len..)?;
    let (&command, rest) = after_id.split_first()?;
    let (header, len) = if is_variable(command) {
        let &len = rest.first_chunk::<2>()?;
        (id_len + 3, usize::from(u16::from_be_bytes(len)))
    } else {
        (id_len + 1, FIXED_BODY_LEN)
    };
    Some(Parsed {
        command,
        body: buffer.get(header..header + len)?,
        wire: &buffer[..header + len],
    })
}

/// A variable-length cell without circuit; `body` is ours, and shorter than 64 KiB.
pub(super) fn variable(command: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("our own cells are short");
    let mut cell = Vec::with_capacity(7 + body.len());
    cell.extend_from_slice(&[0; 4]);
    cell.push(command);
    cell.extend_from_slice(&len.to_be_bytes());
    cell.extend_from_slice(body);
    cell
}

/// A fixed-length cell without circuit, padded with zeros.
pub(super) fn fixed(command: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= FIXED_BODY_LEN, "our own cells fit");
    let mut cell = vec![0; 4];
    cell.push(command);
    cell.extend_from_slice(body);
    cell.resize(5 + FIXED_BODY_LEN, 0);
    cell
}

/// The VERSIONS cell, which alone keeps the old, short circuit id.
pub(super) fn versions() -> Vec<u8> {
    let mut cell = vec![0, 0, command::VERSIONS, 0, 4];
    for version in [super::Version::V4, super::Version::V5] {
        cell.extend_from_slice(&version.number().to_be_bytes());
    }
    cell
}

/// The highest version that both sides have, from the body of the peer's VERSIONS.
pub(super) fn best_version(body: &[u8]) -> Result<super::Version, LinkError> {
    let (numbers, odd) = body.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(LinkError::Malformed("VERSIONS"));
    }
    let has = |version: super::Version| numbers.contains(&version.number().to_be_bytes());
    [super::Version::V5, super::Version::V4]
        .into_iter()
        .find(|version| has(*version))
        .ok_or(LinkError::NoCommonVersion)
}
