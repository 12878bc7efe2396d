//! PADDING_NEGOTIATE: a client says how it wants its link padded.
//!
//! padding-spec, [connection-level padding](https://spec.torproject.org/padding-spec/connection-level-padding.html). It
//! comes after the link handshake, on links of version 5, and is never sent by a relay. Whoever does not understand one
//! ignores it.

/// The command of the cell.
pub const PADDING_NEGOTIATE: u8 = 12;

/// What the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingNegotiate {
    /// No padding from now on.
    Stop,
    /// Padding after a time of silence between these two, in milliseconds; 0 stands for the consensus' value.
    Start {
        /// The least time.
        low: u16,
        /// The greatest time.
        high: u16,
    },
}

impl PaddingNegotiate {
    /// Reads the body of a cell; `None` if it is of a version or has a command that we do not know: ignore it.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let &[version, command, low_high, low_low, high_high, high_low] = body.first_chunk()?;
        match (version, command) {
            (0, 1) => Some(Self::Stop),
            (0, 2) => Some(Self::Start {
                low: u16::from_be_bytes([low_high, low_low]),
                high: u16::from_be_bytes([high_high, high_low]),
            }),
            _ => None,
        }
    }

    /// The times to use, in milliseconds, when the consensus says `nf_ito_low` and `nf_ito_high`: a client may ask for less
    /// padding than that, not for more. `None`: no padding.
    pub fn timeouts(self, consensus_low: u16, consensus_high: u16) -> Option<(u16, u16)> {
        match self {
            Self::Stop => None,
            Self::Start { low, high } => {
                let low = low.max(consensus_low);
                let high = if high == 0 { consensus_high } else { high };
                Some((low, high.max(low)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tor_cell::chancell::msg::{Body as _, PaddingNegotiate as Theirs};

    #[test]
    fn what_arti_sends_is_understood() {
        let mut body = Vec::new();
        Theirs::stop().encode_onto(&mut body).unwrap();
        assert_eq!(PaddingNegotiate::decode(&body), Some(PaddingNegotiate::Stop));
        let mut body = Vec::new();
        Theirs::start_default().encode_onto(&mut body).unwrap();
        let asked = PaddingNegotiate::decode(&body).unwrap();
        assert_eq!(asked, PaddingNegotiate::Start { low: 0, high: 0 });
        assert_eq!(asked.timeouts(1500, 9500), Some((1500, 9500)));
    }

    #[test]
    fn a_client_may_ask_for_less_padding_but_not_for_more() {
        let start = |low, high| PaddingNegotiate::Start { low, high };
        assert_eq!(start(9000, 14000).timeouts(1500, 9500), Some((9000, 14000)));
        assert_eq!(start(1, 2).timeouts(1500, 9500), Some((1500, 1500)));
        assert_eq!(start(20000, 0).timeouts(1500, 9500), Some((20000, 20000)));
        assert_eq!(PaddingNegotiate::Stop.timeouts(1500, 9500), None);
    }

    #[test]
    fn other_versions_commands_and_short_bodies_are_ignored() {
        for body in [&[1, 2, 0, 0, 0, 0][..], &[0, 3, 0, 0, 0, 0], &[0, 2, 0, 0, 0], &[]] {
            assert_eq!(PaddingNegotiate::decode(body), None);
        }
    }
}
