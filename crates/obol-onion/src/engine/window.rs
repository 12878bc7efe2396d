//! A circuit's flow control at its edge (tor-spec, [flow control](https://spec.torproject.org/tor-spec/flow-control.html)).
//!
//! Only DATA cells count. Towards the client the number under way is limited by a fixed window, or by [`Vegas`] if
//! congestion control was negotiated. From the client a SENDME is due for each so many cells: it quotes the tag of the
//! last of them, and is sent when as many have *passed*, which is at once unless a configured rate holds them back.

use std::collections::VecDeque;

use super::congestion::{Congestion, VegasParameters};
use super::ids::Time;
use super::vegas::Vegas;
use crate::crypto::tor1::Tag;

/// DATA cells per circuit SENDME with fixed windows.
pub(crate) const CIRCUIT_INCREMENT: u16 = 100;
/// Most DATA cells under way on a circuit with fixed windows.
pub(crate) const CIRCUIT_WINDOW: u16 = 1000;
/// DATA cells per stream SENDME.
pub(crate) const STREAM_INCREMENT: u16 = 50;
/// Most DATA cells under way on a stream with fixed windows.
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

/// What limits the DATA cells under way.
#[derive(Debug)]
enum Limit {
    Fixed {
        /// DATA cells that we may still send.
        package: u16,
        /// DATA cells that we may still receive.
        deliver: u16,
    },
    Vegas(Vegas),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct CircuitWindow {
    limit: Limit,
    /// DATA cells per SENDME.
    increment: u16,
    /// DATA cells encrypted since the last one whose tag was kept.
    since_tag: u16,
    /// The tags that the client has to quote, oldest first.
    tags: VecDeque<Tag>,
    /// DATA cells that came since the last one whose tag was kept.
    arrived: u16,
    /// DATA cells that passed since the last SENDME.
    passed: u16,
    /// The tags that we have to quote, oldest first.
    due: VecDeque<Tag>,
}

impl CircuitWindow {
    fn with(limit: Limit, increment: u16) -> Self {
        CircuitWindow {
            limit,
            increment,
            since_tag: 0,
            tags: VecDeque::new(),
            arrived: 0,
            passed: 0,
            due: VecDeque::new(),
        }
    }

    /// `package`: the initial window towards the client (`circwindow`).
    pub(crate) fn fixed(package: u16) -> Self {
        let limit = Limit::Fixed {
            package: package.clamp(CIRCUIT_INCREMENT, CIRCUIT_WINDOW),
            deliver: CIRCUIT_WINDOW,
        };
        CircuitWindow::with(limit, CIRCUIT_INCREMENT)
    }

    /// With congestion control, which was negotiated with this increment.
    pub(crate) fn controlled(increment: u8, parameters: &VegasParameters) -> Self {
        let increment = increment.max(1);
        CircuitWindow::with(Limit::Vegas(Vegas::new(increment, parameters)), u16::from(increment))
    }

    /// Whether congestion control was negotiated: streams then have no windows, but XON and XOFF.
    #[inline]
    pub(crate) fn is_controlled(&self) -> bool {
        matches!(self.limit, Limit::Vegas(_))
    }

    /// DATA cells that may be sent now.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        match &self.limit {
            Limit::Fixed { package, .. } => u32::from(*package),
            Limit::Vegas(vegas) => vegas.room(),
        }
    }

    /// DATA cells are queued: not more than there is room for.
    pub(crate) fn queued(&mut self, now: Time, cells: u32) {
        match &mut self.limit {
            Limit::Fixed { package, .. } => {
                *package = package.saturating_sub(u16::try_from(cells).unwrap_or(u16::MAX));
            }
            Limit::Vegas(vegas) => vegas.queued(now, cells),
        }
    }

    /// A DATA cell was encrypted, with this tag; they are encrypted in the order in which they are sent.
    #[inline]
    pub(crate) fn encrypted(&mut self, tag: Tag) {
        self.since_tag += 1;
        if self.since_tag == self.increment {
            self.since_tag = 0;
            self.tags.push_back(tag);
        }
    }

    /// A DATA cell came, with this tag.
    #[inline]
    pub(crate) fn arrived(&mut self, tag: Tag) -> Result<(), WindowError> {
        if let Limit::Fixed { deliver, .. } = &mut self.limit {
            *deliver = deliver.checked_sub(1).ok_or(WindowError::TooMuchData)?;
        }
        self.arrived += 1;
        if self.arrived == self.increment {
            self.arrived = 0;
            self.due.push_back(tag);
        }
        Ok(())
    }

    /// A DATA cell that came has passed. A SENDME with the returned tag is due, and counts as sent.
    #[inline]
    pub(crate) fn passed(&mut self) -> Option<Tag> {
        self.passed += 1;
        if self.passed < self.increment {
            return None;
        }
        self.passed = 0;
        if let Limit::Fixed { deliver, .. } = &mut self.limit {
            *deliver += CIRCUIT_INCREMENT;
        }
        self.due.pop_front()
    }

    /// A SENDME for the circuit came. `accept_min` is the least version that is believed; `blocked`: our own queue is full.
    pub(crate) fn sendme(
        &mut self,
        body: &[u8],
        accept_min: u8,
        congestion: &Congestion,
        now: Time,
        blocked: bool,
    ) -> Result<(), WindowError> {
        let expected = self.tags.pop_front().ok_or(WindowError::NotDue)?;
        match body.split_first() {
            // With congestion control a cheat could make the window grow: there the tag is asked for in any case.
            None | Some((0, _)) if accept_min == 0 && !self.is_controlled() => {}
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
        match &mut self.limit {
            Limit::Fixed { package, .. } => {
                *package += CIRCUIT_INCREMENT;
                if *package > CIRCUIT_WINDOW {
                    return Err(WindowError::NotDue);
                }
            }
            Limit::Vegas(vegas) => vegas.confirmed(&congestion.vegas, now, blocked),
        }
        Ok(())
    }
}
