//! Names for links, circuits and streams, the tables behind them, and the engine's clock.
//!
//! A name is an index and a generation: it stays unique for the life of the engine, so that an answer for a circuit that
//! has gone in the meantime finds nothing instead of its successor.

/// A moment, in microseconds since an arbitrary one. Only differences mean anything. Never from the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// Microseconds from `earlier` to this moment; 0 if that one is later.
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment and `micros` microseconds.
    pub fn plus(self, micros: u64) -> Time {
        Time(self.0.saturating_add(micros))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pub(crate) generation: u32,
            pub(crate) index: u32,
        }

        impl $name {
            /// The name as one number, for those who keep names of several kinds in a table of their own.
            pub fn to_u64(self) -> u64 {
                u64::from(self.generation) << 32 | u64::from(self.index)
            }

            /// What [`to_u64`](Self::to_u64) made.
            pub fn from_u64(number: u64) -> Self {
                Self { generation: (number >> 32) as u32, index: number as u32 }
            }
        }

        impl Name for $name {
            fn new(generation: u32, index: u32) -> Self {
                Self { generation, index }
            }
            fn generation(self) -> u32 {
                self.generation
            }
            fn index(self) -> u32 {
                self.index
            }
        }
    };
}

/// What the names of all kinds have.
pub(crate) trait Name: Copy {
    fn new(generation: u32, index: u32) -> Self;
    fn generation(self) -> u32;
    fn index(self) -> u32;
}

name! {
    /// One link (a TLS connection to another Tor node), never used again for another.
    LinkId
}
name! {
    /// One circuit at this relay, never used again for another.
    CircuitId
}

/// One stream that ends at this relay. The number may come again on the same circuit once the stream has ended;
/// `serial` tells the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The circuit that carries the stream.
    pub circuit: CircuitId,
    /// The stream's number in relay cells, chosen by the client.
    pub number: u16,
    pub(crate) serial: u32,
}

/// A table whose entries have names of kind `N`.
#[derive(Debug)]
pub(crate) struct Table<N, T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    live: usize,
    kind: core::marker::PhantomData<N>,
}

impl<N: Name, T> Table<N, T> {
    pub(crate) fn new() -> Self {
        Table {
            entries: Vec::new(),
            free: Vec::new(),
            live: 0,
            kind: core::marker::PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn insert(&mut self, value: T) -> N {
        self.live += 1;
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.1 = Some(value);
            return N::new(entry.0, index);
        }
        let index = self.entries.len() as u32;
        self.entries.push((1, Some(value)));
        N::new(1, index)
    }

    pub(crate) fn remove(&mut self, name: N) -> Option<T> {
        let entry = self.entries.get_mut(name.index() as usize)?;
        if entry.0 != name.generation() {
            return None;
        }
        let value = entry.1.take()?;
        self.live -= 1;
        // A generation that has run through all numbers would repeat: such an entry is not used again.
        if let Some(next) = entry.0.checked_add(1) {
            entry.0 = next;
            self.free.push(name.index());
        }
        Some(value)
    }

    pub(crate) fn get(&self, name: N) -> Option<&T> {
        match self.entries.get(name.index() as usize) {
            Some((generation, value)) if *generation == name.generation() => value.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, name: N) -> Option<&mut T> {
        match self.entries.get_mut(name.index() as usize) {
            Some((generation, value)) if *generation == name.generation() => value.as_mut(),
            _ => None,
        }
    }

    /// The entry with this index, whatever its generation.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize).and_then(|entry| entry.1.as_ref())
    }

    /// The entry with this index, whatever its generation.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize).and_then(|entry| entry.1.as_mut())
    }

    /// The entry with this index, and its full name.
    #[inline]
    pub(crate) fn named_mut(&mut self, index: u32) -> Option<(N, &mut T)> {
        let (generation, value) = self.entries.get_mut(index as usize)?;
        Some((N::new(*generation, index), value.as_mut()?))
    }

    /// The full name of the entry that now has this index.
    pub(crate) fn name(&self, index: u32) -> Option<N> {
        match self.entries.get(index as usize) {
            Some((generation, Some(_))) => Some(N::new(*generation, index)),
            _ => None,
        }
    }

    /// All indices that ever were in use.
    pub(crate) fn indices(&self) -> core::ops::Range<u32> {
        0..self.entries.len() as u32
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (N, &T)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, (generation, value))| Some((N::new(*generation, index as u32), value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_find_the_successor_of_what_it_named() {
        let mut table: Table<CircuitId, &str> = Table::new();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(first.index, second.index);
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(CircuitId::from_u64(second.to_u64())), Some(&"second"));
        assert_eq!(table.len(), 1);
    }
}
