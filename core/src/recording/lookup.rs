//! A map by numbers that is only asked by key.
//!
//! Nothing can walk it, so its hashes decide nothing and no snapshot has it: whoever owns it can make
//! it again. [`Index`](super::Index) keeps an order besides, and to mend that when something leaves
//! costs as much again.

use std::fmt;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::neighbours::{Neighbours, Number};

/// See the module. Its seed is the core's.
pub(crate) struct Lookup<K, V> {
    table: HashTable<(K, V)>,
    hashes: Neighbours,
}

impl<K, V> Default for Lookup<K, V> {
    /// For a state that is read from a snapshot: a replay has nobody to be afraid of.
    fn default() -> Self {
        Self::with_seed(0)
    }
}

impl<K, V> fmt::Debug for Lookup<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<K, V> Lookup<K, V> {
    pub(crate) fn with_seed(seed: u64) -> Self {
        Self { table: HashTable::new(), hashes: Neighbours::with_seed(seed) }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

impl<K: Number, V> Lookup<K, V> {
    /// One made again from a snapshot. `None` if a key is there twice.
    pub(crate) fn of(entries: impl IntoIterator<Item = (K, V)>) -> Option<Self> {
        let mut lookup = Self::default();
        let mut before = entries.into_iter().map(|(key, value)| lookup.insert(key, value));
        let once = before.all(|before| before.is_none());
        once.then_some(lookup)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.table.find(self.hashes.hash_one(key), |(k, _)| k == key).map(|(_, value)| value)
    }

    /// Puts a value in the place of the one before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash_of = |(k, _): &(K, V)| self.hashes.hash_one(k);
        match self.table.entry(self.hashes.hash_one(key), |(k, _)| *k == key, hash_of) {
            Entry::Occupied(mut there) => Some(std::mem::replace(&mut there.get_mut().1, value)),
            Entry::Vacant(room) => {
                room.insert((key, value));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let found = self.table.find_entry(self.hashes.hash_one(key), |(k, _)| k == key).ok()?;
        Some(found.remove().0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_value_that_was_put_last() {
        let mut lookup = Lookup::with_seed(3);
        assert!((0..1_000u64).all(|n| lookup.insert(n, n + 1).is_none()));
        assert_eq!(
            (lookup.insert(7, 70), lookup.remove(&8), lookup.remove(&8)),
            (Some(8), Some(9), None)
        );
        assert_eq!(
            [6, 7, 8, 1_000].map(|n| lookup.get(&n).copied()),
            [Some(7), Some(70), None, None]
        );
        assert_eq!(lookup.len(), 999);
        assert_eq!(Lookup::of([(1u64, 'a'), (2, 'b')]).map(|all| all.len()), Some(2));
        assert!(Lookup::of([(1u64, 'a'), (1, 'b')]).is_none());
    }
}
