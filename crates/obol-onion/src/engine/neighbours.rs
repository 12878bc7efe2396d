//! Neighbours, and what each of them takes of what all have to share.

use std::collections::HashMap;

use super::event::Neighbour;

/// What one of them takes now, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share {
    /// Circuits that came from there.
    pub(crate) circuits: usize,
    /// Streams of those.
    pub(crate) streams: usize,
    /// Bytes that wait on its links, besides RELAY cells.
    pub(crate) backlog: usize,
}

/// Neighbours, counted by their links.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    by_key: HashMap<Neighbour, (u32, usize)>,
    shares: Vec<Share>,
    all: Share,
    free: Vec<u32>,
}

impl Neighbours {
    /// One of a neighbour's links has come up: the neighbour's index.
    pub(crate) fn join(&mut self, key: Neighbour) -> u32 {
        let (free, shares) = (&mut self.free, &mut self.shares);
        let (index, links) = self.by_key.entry(key).or_insert_with(|| {
            let index = free.pop().unwrap_or_else(|| {
                shares.push(Share::default());
                shares.len() as u32 - 1
            });
            (index, 0)
        });
        *links += 1;
        *index
    }

    /// One of a neighbour's links is gone.
    pub(crate) fn leave(&mut self, key: Neighbour) {
        if let Some((index, links)) = self.by_key.get_mut(&key) {
            *links -= 1;
            if *links == 0 {
                self.free.push(*index);
                self.by_key.remove(&key);
            }
        }
    }

    /// Links of a neighbour now.
    pub(crate) fn links(&self, key: &Neighbour) -> usize {
        self.by_key.get(key).map_or(0, |(_, links)| *links)
    }

    /// What a neighbour takes.
    pub(crate) fn share(&self, neighbour: u32) -> Share {
        self.shares.get(neighbour as usize).copied().unwrap_or_default()
    }

    /// What all of them take.
    pub(crate) fn all(&self) -> Share {
        self.all
    }

    /// The one on whose links most bytes wait.
    pub(crate) fn slowest(&self) -> Option<u32> {
        let (index, _) = self.shares.iter().enumerate().max_by_key(|(_, share)| share.backlog)?;
        Some(index as u32)
    }

    /// A neighbour has one circuit more, with so many streams.
    pub(crate) fn opened(&mut self, neighbour: u32, streams: usize) {
        self.change(neighbour, |share| &mut share.circuits, 0, 1);
        self.streams(neighbour, 0, streams);
    }

    /// A neighbour has one circuit less, which had so many streams.
    pub(crate) fn closed(&mut self, neighbour: u32, streams: usize) {
        self.change(neighbour, |share| &mut share.circuits, 1, 0);
        self.streams(neighbour, streams, 0);
    }

    /// One of a neighbour's circuits had so many streams, and has so many now.
    pub(crate) fn streams(&mut self, neighbour: u32, before: usize, now: usize) {
        self.change(neighbour, |share| &mut share.streams, before, now);
    }

    /// So many bytes waited on one of a neighbour's links, and so many do now.
    pub(crate) fn backlog(&mut self, neighbour: u32, before: usize, now: usize) {
        self.change(neighbour, |share| &mut share.backlog, before, now);
    }

    fn change(&mut self, neighbour: u32, of: impl Fn(&mut Share) -> &mut usize, before: usize, now: usize) {
        if let Some(share) = self.shares.get_mut(neighbour as usize) {
            for part in [of(share), of(&mut self.all)] {
                *part = (*part + now).saturating_sub(before);
            }
        }
    }
}
