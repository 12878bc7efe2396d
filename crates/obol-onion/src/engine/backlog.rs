//! What waits for a link's writer besides RELAY cells: control cells (CREATE, CREATED, padding, link messages), and DESTROYs.
//!
//! No circuit's account has it, and strangers can make it grow: by CREATEs on a link that they do not read. So it has
//! limits of its own, and a link that is beyond one of them is closed:
//!
//! | limit | who is closed |
//! |---|---|
//! | control cells, and DESTROYs, of one link | that link |
//! | all links of one neighbour | its link with most |
//! | all links: an eighth of the memory for cells, at least 1 MiB | the link with most of the neighbour with most |
//!
//! One link may have the answers to a thousand CREATEs at once, since workers compute them faster than its writer has its
//! turn. A relay of the consensus may have more DESTROYs, and more in all, than a client: its links carry many circuits, and
//! are not to die of the strangers on them.

use std::collections::VecDeque;

use super::Engine;
use super::circuit::End;
use super::event::LinkFault;
use super::ids::LinkId;
use super::link::{Link, LinkInfo, Place};
use super::wire::{CELL_LEN, DestroyReason, LINK_MESSAGE_MAX, command};
use crate::crypto::tor1::BODY_LEN;

/// What a DESTROY that waits is counted as, in bytes: its entry, and that of its id in the link's table.
const DESTROY_SIZE: usize = 48;
/// A queue that has been longer than this many bytes gives its memory back when it is empty.
const KEPT: usize = 16 * 1024;
/// All backlogs together get one in so many parts of the memory for cells.
const PART: usize = 8;

/// And never less than this many bytes.
const ALL_LEAST: usize = 1 << 20;

/// How much may wait.
struct Limits {
    /// Control cells of one link, in bytes.
    control: usize,
    /// DESTROYs of one link.
    destroys: usize,
    /// All of one neighbour's links, in bytes.
    neighbour: usize,
}

const CLIENT: Limits = Limits {
    control: 1 << 20,
    destroys: 16 << 10,
    neighbour: 2 << 20,
};

/// DESTROYs: more than there are circuits, since each of them costs a few bytes only.
const RELAY: Limits = Limits {
    control: 1 << 20,
    destroys: 1 << 18,
    neighbour: 32 << 20,
};

impl Limits {
    fn of(info: &LinkInfo) -> &'static Limits {
        match info.relay() {
            None => &CLIENT,
            Some(_) => &RELAY,
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    control: Vec<u8>,
    /// Ids whose DESTROY is still to be written, and its reason.
    buried: VecDeque<(u32, DestroyReason)>,
}

impl Backlog {
    /// Bytes that it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.control.len() + self.buried.len() * DESTROY_SIZE
    }

    /// DESTROYs that wait.
    pub(crate) fn destroys(&self) -> usize {
        self.buried.len()
    }
}

impl Link {
    /// Whether so many control cells wait that strangers must not add any.
    pub(crate) fn is_slow(&self) -> bool {
        self.backlog.control.len() > Limits::of(&self.info).control / 2
    }
}

/// Adds a fixed-length cell to `out`.
fn put_cell(out: &mut Vec<u8>, id: u32, command: u8, body: &[u8]) {
    let end = out.len() + CELL_LEN;
    out.extend_from_slice(&id.to_be_bytes());
    out.push(command);
    out.extend_from_slice(&body[..body.len().min(BODY_LEN)]);
    out.resize(end, 0);
}

impl Engine {
    /// Queues a DESTROY. Until it is written, its id is not used again.
    pub(crate) fn send_destroy(&mut self, end: End, reason: DestroyReason) {
        self.counters.destroys_sent += 1;
        self.wait(end.link, |link| {
            link.circuits.insert(end.id, Place::Buried);
            link.backlog.buried.push_back((end.id, reason));
        });
    }

    /// Queues a fixed-length cell that goes before all RELAY cells.
    pub(crate) fn send_control(&mut self, link: u32, id: u32, command: u8, body: &[u8]) {
        self.wait(link, |link| put_cell(&mut link.backlog.control, id, command, body));
    }

    /// Queues a link message (command 200). Longer than 16 KiB: not sent.
    pub fn send_link(&mut self, link: LinkId, body: &[u8]) {
        let Ok(len) = u16::try_from(body.len()) else { return };
        if self.links.get(link).is_none() || body.len() > LINK_MESSAGE_MAX {
            return;
        }
        self.wait(link.index, |link| {
            let control = &mut link.backlog.control;
            control.extend_from_slice(&0u32.to_be_bytes());
            control.push(command::LINK_MESSAGE);
            control.extend_from_slice(&len.to_be_bytes());
            control.extend_from_slice(body);
        });
    }

    /// Adds to what waits on a link, unless that is closing, and wakes its writer.
    fn wait(&mut self, index: u32, add: impl FnOnce(&mut Link)) {
        let Some(link) = self.links.at_mut(index).filter(|link| !link.closing) else {
            return;
        };
        let before = link.backlog.size();
        add(link);
        let (limits, neighbour) = (Limits::of(&link.info), link.neighbour);
        let full = link.backlog.control.len() > limits.control || link.backlog.buried.len() > limits.destroys;
        self.neighbours.backlog(neighbour, before, link.backlog.size());
        if full {
            return self.stall(index);
        }
        self.wake_link(index);
        if self.neighbours.share(neighbour).backlog > limits.neighbour {
            self.stall_slowest_of(neighbour);
        } else if self.neighbours.all().backlog > (self.config.cell_memory / PART).max(ALL_LEAST)
            && let Some(slowest) = self.neighbours.slowest()
        {
            self.stall_slowest_of(slowest);
        }
    }

    /// Closes a link that does not take what is sent to it.
    fn stall(&mut self, index: u32) {
        self.drop_backlog(index);
        if let Some(name) = self.links.name(index) {
            self.fault(name, LinkFault::Stalled);
        }
    }

    /// Closes the link of a neighbour on which most waits.
    #[cold]
    fn stall_slowest_of(&mut self, neighbour: u32) {
        let of = self.links.iter().filter(|(_, link)| link.neighbour == neighbour);
        if let Some((slowest, _)) = of.max_by_key(|(_, link)| link.backlog.size()) {
            self.stall(slowest.index);
        }
    }

    /// Forgets what waits on a link.
    pub(crate) fn drop_backlog(&mut self, index: u32) {
        if let Some(link) = self.links.at_mut(index) {
            let before = core::mem::take(&mut link.backlog).size();
            self.neighbours.backlog(link.neighbour, before, 0);
        }
    }

    /// Takes what waits on a link to the end of `out`: all control cells, and at most so many DESTROYs. The ids of these
    /// may be used again.
    pub(crate) fn take_backlog(&mut self, index: u32, out: &mut Vec<u8>, destroys: usize) {
        let Some(link) = self.links.at_mut(index) else { return };
        let before = link.backlog.size();
        if before == 0 {
            return;
        }
        let Backlog { control, buried } = &mut link.backlog;
        out.append(control);
        if control.capacity() > KEPT {
            *control = Vec::new();
        }
        for (id, reason) in buried.drain(..destroys.min(buried.len())) {
            if link.circuits.get(&id) == Some(&Place::Buried) {
                link.circuits.remove(&id);
            }
            put_cell(out, id, command::DESTROY, &[reason as u8]);
        }
        if buried.is_empty() && buried.capacity() * DESTROY_SIZE > KEPT {
            *buried = VecDeque::new();
            link.circuits.shrink_to_fit();
        }
        self.neighbours.backlog(link.neighbour, before, link.backlog.size());
    }
}
