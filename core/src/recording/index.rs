//! A map that is asked by key and never walked in the order of its hashes.
//!
//! What is in it stands at positions, in the order of insertion. So two cores that did the same have the
//! same order, whatever their hashes, and a snapshot walks the positions (ADR 0022).

use foldhash::fast::FixedState;
use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::neighbours::{Neighbours, Number};
use super::sliced::{Cursor, Slices, load_by_position};

/// A map by hash, for keys of which there are few: its seed is the core's, but one half of each product has a key
/// that is the same in every program. What clients choose without a bound stands in a [`SlicedIndex`] or a
/// [`Lookup`](super::Lookup).
pub(crate) type Index<K, V> = IndexMap<K, V, FixedState>;

/// An empty index.
pub(crate) fn index<K, V>(seed: u64) -> Index<K, V> {
    IndexMap::with_hasher(FixedState::with_seed(seed))
}

/// An index by numbers that goes into a snapshot in slices.
#[derive(Debug)]
pub(crate) struct SlicedIndex<K, V> {
    map: IndexMap<K, V, Neighbours>,
    cursor: Cursor<usize>,
}

impl<K, V> Default for SlicedIndex<K, V> {
    /// For a state that is read from a snapshot: a replay has nobody to be afraid of.
    fn default() -> Self {
        Self::with_seed(0)
    }
}

impl<K, V> SlicedIndex<K, V> {
    pub(crate) fn with_seed(seed: u64) -> Self {
        let map = IndexMap::with_hasher(Neighbours::with_seed(seed));
        Self { map, cursor: Cursor::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

impl<K: Number + Ord + Serialize, V: Serialize> SlicedIndex<K, V> {
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        self.map.get(&key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.cursor.is_walking() {
            let at = self.map.get_index_of(&key).unwrap_or(self.map.len());
            self.touch(at);
        }
        self.map.insert(key, value)
    }

    /// What stands at a position.
    pub(crate) fn at(&self, position: usize) -> Option<(K, &V)> {
        self.map.get_index(position).map(|(key, value)| (*key, value))
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.map.reserve(more);
    }

    /// Forgets everything, and keeps the memory for what comes.
    pub(crate) fn clear(&mut self) {
        self.touch_all(self.map.len());
        self.map.clear();
    }

    /// Changes its content for that of another.
    pub(crate) fn swap(&mut self, other: &mut Self) {
        // Positions that only the other has were not there before, nor are they written.
        let all = self.map.len().max(other.map.len());
        self.touch_all(all);
        other.touch_all(all);
        std::mem::swap(&mut self.map, &mut other.map);
    }

    fn touch_all(&mut self, positions: usize) {
        if self.cursor.is_walking() {
            (0..positions).for_each(|at| self.touch(at));
        }
    }

    #[inline]
    fn touch(&mut self, at: usize) {
        self.cursor.touch(&at, || self.map.get_index(at).map(|entry| (at, entry)));
    }
}

impl<K, V> Slices for SlicedIndex<K, V>
where
    K: Number + Ord + Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    fn begin(&mut self) {
        self.cursor.begin();
    }

    fn step(&mut self, budget: &mut usize, out: &mut Vec<u8>) -> bool {
        let from = self.cursor.next_position().min(self.map.len());
        let rest = self.map.get_range(from..).into_iter().flatten();
        let rest = (from..).zip(rest).map(|(at, entry)| (at, (at, entry)));
        self.cursor.step(rest, budget, out)
    }

    fn cancel(&mut self) {
        self.cursor.cancel();
    }

    fn load(&mut self, bytes: &[u8]) -> Option<()> {
        let mut entries = load_by_position(bytes)?;
        entries.all(|(key, value): (K, V)| self.map.insert(key, value).is_none()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a walk in slices of one entry writes while the index changes under it.
    fn walked(
        index: &mut SlicedIndex<u64, u64>,
        mut change: impl FnMut(&mut SlicedIndex<u64, u64>),
    ) -> Vec<u8> {
        index.begin();
        let (mut out, mut done) = (Vec::new(), false);
        while !done {
            done = index.step(&mut 1, &mut out);
            change(index);
        }
        out
    }

    fn state(index: &mut SlicedIndex<u64, u64>) -> Vec<u8> {
        walked(index, |_| {})
    }

    #[test]
    fn a_walk_writes_the_index_as_it_was_at_its_begin_whatever_changes_meanwhile() {
        for seed in 0..200u64 {
            let mut index = SlicedIndex::with_seed(seed);
            (0..20).for_each(|n| {
                index.insert(n * 7 % 20, n);
            });
            let before = state(&mut index);
            let mut other = SlicedIndex::with_seed(seed);
            let mut n = seed;
            let written = walked(&mut index, |index| {
                n = n
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                match n >> 62 {
                    0 | 1 => drop(index.insert(n >> 58, n)),
                    _ if n >> 58 & 0x7 == 0 => index.clear(),
                    _ if n >> 59 & 1 == 1 => index.swap(&mut other),
                    _ => {}
                }
            });
            let mut loaded = SlicedIndex::default();
            assert_eq!(loaded.load(&written), Some(()), "seed {seed}");
            assert_eq!(state(&mut loaded), before, "seed {seed}");
        }
    }

    #[test]
    fn everything_comes_out_in_the_order_of_the_positions() {
        let mut index = SlicedIndex::with_seed(3);
        for key in [5u64, 1, 9, 3] {
            index.insert(key, key * 10);
        }
        assert_eq!(index.insert(1, 70), Some(10));
        let mut other = SlicedIndex::with_seed(3);
        index.swap(&mut other);
        assert_eq!((index.len(), index.at(0)), (0, None));
        let all = [(5, &50), (1, &70), (9, &90), (3, &30)].map(Some);
        assert_eq!([0, 1, 2, 3].map(|at| other.at(at)), all);
        other.clear();
        assert_eq!((other.len(), other.get(5)), (0, None));
    }
}
