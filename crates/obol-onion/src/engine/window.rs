//! A circuit's flow control at its edge, with fixed windows
//! (tor-spec, [flow control](https://spec.torproject.org/tor-spec/flow-control.html)).
//!
//! Only DATA cells count. The engine asks [`CircuitWindow`] and knows no numbers of its own, so that congestion control
//! (proposal 324) can stand in the same place.

use std::collections::VecDeque;

use crate::crypto::tor1::Tag;

/// DATA cells per circuit SENDME.
pub(crate) const CIRCUIT_INCREMENT: u16 = 100;
/// Most DATA cells under way on a circuit.
pub(crate) const CIRCUIT_WINDOW: u16 = 1000;
/// DATA cells per stream SENDME.
pub(crate) const STREAM_INCREMENT: u16 = 50;
/// Most DATA cells under way on a stream.
pub(crate) const STREAM_WINDOW: u16 = 500;

/// What is wrong with a SENDME or a DATA cell: the circuit has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WindowError {
    #[error("more DATA than the window allows")]
    TooMuchData,
    #[error("a SENDME for DATA that was not sent")]
    NotDue,
    #[error("a SENDME with the wrong tag")]
    WrongTag,
    #[error("a SENDME of an unknown or refused version")]
    Version,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct CircuitWindow {
    /// DATA cells that we may still send.
    package: u16,
    /// DATA cells that we may still receive.
    deliver: u16,
    /// DATA cells encrypted since the last one whose tag was kept.
    since_tag: u16,
    /// The tags that the client has to quote, oldest first.
    tags: VecDeque<Tag>,
}

impl CircuitWindow {
    /// `package`: the initial window towards the client (`circwindow`).
    pub(crate) fn new(package: u16) -> Self {
        CircuitWindow {
            package: package.clamp(CIRCUIT_INCREMENT, CIRCUIT_WINDOW),
            deliver: CIRCUIT_WINDOW,
            since_tag: 0,
            tags: VecDeque::new(),
        }
    }

    /// DATA cells that may be sent now.
    pub(crate) fn room(&self) -> u16 {
        self.package
    }

    /// A DATA cell was queued.
    pub(crate) fn queued(&mut self) {
        self.package = self.package.saturating_sub(1);
    }

    /// A DATA cell was encrypted, with this tag; they are encrypted in the order in which they are sent.
    pub(crate) fn encrypted(&mut self, tag: Tag) {
        self.since_tag += 1;
        if self.since_tag == CIRCUIT_INCREMENT {
            self.since_tag = 0;
            self.tags.push_back(tag);
        }
    }

    /// A DATA cell came. True if a SENDME with its tag is due at once, which is then counted as sent.
    pub(crate) fn received(&mut self) -> Result<bool, WindowError> {
        self.deliver = self.deliver.checked_sub(1).ok_or(WindowError::TooMuchData)?;
        if self.deliver > CIRCUIT_WINDOW - CIRCUIT_INCREMENT {
            return Ok(false);
        }
        self.deliver += CIRCUIT_INCREMENT;
        Ok(true)
    }

    /// A SENDME for the circuit came. `accept_min` is the least version that is believed.
    pub(crate) fn sendme(&mut self, body: &[u8], accept_min: u8) -> Result<(), WindowError> {
        let expected = self.tags.pop_front().ok_or(WindowError::NotDue)?;
        match body.split_first() {
            None | Some((0, _)) if accept_min == 0 => {}
            Some((1, rest)) => {
                let (len, rest) = rest.split_first_chunk::<2>().ok_or(WindowError::WrongTag)?;
                let len = usize::from(u16::from_be_bytes(*len));
                let tag = rest.get(..len).ok_or(WindowError::WrongTag)?;
                if !expected.matches(tag) {
                    return Err(WindowError::WrongTag);
                }
            }
            _ => return Err(WindowError::Version),
        }
        self.package += CIRCUIT_INCREMENT;
        if self.package > CIRCUIT_WINDOW {
            return Err(WindowError::NotDue);
        }
        Ok(())
    }
}
