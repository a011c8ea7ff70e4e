//! Collections that can be copied while they change.
//!
//! A snapshot of core is of one instant, but it is written in slices between inputs, so that no
//! input waits for it. While one is being written, a cursor walks each large collection; an entry
//! that is about to change before the cursor has come to it is written first, as it was. When none
//! is being written, a change costs one branch more.
//!
//! Reading goes through `Deref`; there is no `DerefMut`, so that no change goes unseen.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::{Bound, Deref, Index, IndexMut};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What visiting an entry counts besides its bytes: it may have been written before.
const VISIT_COST_BYTES: usize = 8;

/// A collection whose entries go into a snapshot in slices.
pub(crate) trait Slices {
    /// From here on, what changes is written as it was.
    fn begin(&mut self);

    /// Writes on until about `budget` bytes are written, at least one entry, and takes what was
    /// written off the budget. Says whether all has been written.
    fn step(&mut self, budget: &mut usize, out: &mut Vec<u8>) -> bool;

    /// The snapshot is not wanted any more.
    fn cancel(&mut self);

    /// Takes back all that the steps have written. `None` if it does not decode.
    fn load(&mut self, bytes: &[u8]) -> Option<()>;
}

/// An ordered map.
#[derive(Debug)]
pub(crate) struct SlicedMap<K, V> {
    map: BTreeMap<K, V>,
    cursor: Cursor<K>,
}

/// An ordered set.
#[derive(Debug)]
pub(crate) struct SlicedSet<K> {
    set: BTreeSet<K>,
    cursor: Cursor<K>,
}

/// A vector that only grows.
#[derive(Debug)]
pub(crate) struct SlicedVec<T> {
    vec: Vec<T>,
    cursor: Cursor<usize>,
}

/// How far a collection has been written, while one is.
#[derive(Debug)]
pub(super) struct Cursor<K>(Option<Box<Walk<K>>>);

#[derive(Debug)]
struct Walk<K> {
    /// Everything up to here is written.
    behind: Option<K>,
    /// Keys beyond that are written, or were not there at the instant.
    early: BTreeSet<K>,
    out: Vec<u8>,
}

impl<K> Default for Cursor<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Ord + Clone> Cursor<K> {
    pub(super) fn begin(&mut self) {
        let walk = Walk { behind: None, early: BTreeSet::new(), out: Vec::new() };
        self.0 = Some(Box::new(walk));
    }

    pub(super) fn cancel(&mut self) {
        self.0 = None;
    }

    pub(super) fn is_walking(&self) -> bool {
        self.0.is_some()
    }

    /// An entry is about to change: it is written if the instant has it and the walk has not.
    #[inline]
    pub(super) fn touch<E: Serialize>(&mut self, key: &K, entry: impl FnOnce() -> Option<E>) {
        if let Some(walk) = &mut self.0 {
            walk.touch(key, entry);
        }
    }

    fn rest(&self) -> (Bound<K>, Bound<K>) {
        let behind = self.0.as_ref().and_then(|walk| walk.behind.clone());
        (behind.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
    }

    /// Visits the entries that are left.
    pub(super) fn step<E: Serialize>(
        &mut self,
        rest: impl Iterator<Item = (K, E)>,
        budget: &mut usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(walk) = &mut self.0 else { return true };
        let (mut spent, mut done, before) = (walk.out.len(), true, out.len());
        out.append(&mut walk.out);
        for (visited, (key, entry)) in rest.enumerate() {
            if visited > 0 && spent >= *budget {
                done = false;
                break;
            }
            if !walk.early.remove(&key) {
                walk.write(&entry);
                out.append(&mut walk.out);
            }
            walk.behind = Some(key);
            spent = out.len() - before + visited * VISIT_COST_BYTES;
        }
        *budget = budget.saturating_sub(spent);
        if done {
            self.0 = None;
        }
        done
    }
}

impl Cursor<usize> {
    /// The first position that has not been visited.
    pub(super) fn next_position(&self) -> usize {
        self.0.as_ref().and_then(|walk| walk.behind).map_or(0, |at| at + 1)
    }
}

impl<K: Ord + Clone> Walk<K> {
    /// Kept apart from the branch that leads here: nearly always nothing is being written.
    #[cold]
    fn touch<E: Serialize>(&mut self, key: &K, entry: impl FnOnce() -> Option<E>) {
        if self.behind.as_ref().is_none_or(|behind| key > behind)
            && self.early.insert(key.clone())
            && let Some(entry) = entry()
        {
            self.write(&entry);
        }
    }
}

impl<K> Walk<K> {
    fn write(&mut self, entry: &impl Serialize) {
        self.out = postcard::to_extend(entry, std::mem::take(&mut self.out))
            .expect("every value of core's state can be written");
    }
}

impl<K, V> Default for SlicedMap<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), cursor: Cursor::default() }
    }
}

impl<K, V> Deref for SlicedMap<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.map
    }
}

impl<'a, K, V> IntoIterator for &'a SlicedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = btree_map::Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.map.iter()
    }
}

impl<K: Ord + Clone + Serialize, V: Serialize> SlicedMap<K, V> {
    #[inline]
    fn touch(&mut self, key: &K) {
        self.cursor.touch(key, || self.map.get_key_value(key));
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.touch(&key);
        self.map.insert(key, value)
    }

    pub(crate) fn entry(&mut self, key: K) -> btree_map::Entry<'_, K, V> {
        self.touch(&key);
        self.map.entry(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.touch(key);
        self.map.get_mut(key)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.touch(key);
        self.map.remove(key)
    }

    pub(crate) fn pop_first(&mut self) -> Option<(K, V)> {
        if self.cursor.is_walking() {
            let key = self.map.first_key_value()?.0.clone();
            self.touch(&key);
        }
        self.map.pop_first()
    }
}

impl<K, V> Slices for SlicedMap<K, V>
where
    K: Ord + Clone + Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    fn begin(&mut self) {
        self.cursor.begin();
    }

    fn step(&mut self, budget: &mut usize, out: &mut Vec<u8>) -> bool {
        let rest = self.map.range(self.cursor.rest()).map(|(k, v)| (k.clone(), (k, v)));
        self.cursor.step(rest, budget, out)
    }

    fn cancel(&mut self) {
        self.cursor.cancel();
    }

    fn load(&mut self, bytes: &[u8]) -> Option<()> {
        load(bytes, |(key, value)| self.map.insert(key, value).is_none())
    }
}

impl<K> Default for SlicedSet<K> {
    fn default() -> Self {
        Self { set: BTreeSet::new(), cursor: Cursor::default() }
    }
}

impl<K> Deref for SlicedSet<K> {
    type Target = BTreeSet<K>;

    fn deref(&self) -> &BTreeSet<K> {
        &self.set
    }
}

impl<K: Ord + Clone + Serialize> SlicedSet<K> {
    #[inline]
    fn touch(&mut self, key: &K) {
        self.cursor.touch(key, || self.set.get(key));
    }

    pub(crate) fn insert(&mut self, key: K) -> bool {
        self.touch(&key);
        self.set.insert(key)
    }

    pub(crate) fn remove(&mut self, key: &K) -> bool {
        self.touch(key);
        self.set.remove(key)
    }

    pub(crate) fn pop_first(&mut self) -> Option<K> {
        if self.cursor.is_walking() {
            let key = self.set.first()?.clone();
            self.touch(&key);
        }
        self.set.pop_first()
    }
}

impl<K: Ord + Clone + Serialize> Extend<K> for SlicedSet<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, keys: I) {
        for key in keys {
            self.insert(key);
        }
    }
}

impl<K: Ord + Clone + Serialize + DeserializeOwned> Slices for SlicedSet<K> {
    fn begin(&mut self) {
        self.cursor.begin();
    }

    fn step(&mut self, budget: &mut usize, out: &mut Vec<u8>) -> bool {
        let rest = self.set.range(self.cursor.rest()).map(|k| (k.clone(), k));
        self.cursor.step(rest, budget, out)
    }

    fn cancel(&mut self) {
        self.cursor.cancel();
    }

    fn load(&mut self, bytes: &[u8]) -> Option<()> {
        load(bytes, |key| self.set.insert(key))
    }
}

impl<T> Default for SlicedVec<T> {
    fn default() -> Self {
        Self { vec: Vec::new(), cursor: Cursor::default() }
    }
}

impl<T> Deref for SlicedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.vec
    }
}

impl<T: Serialize> SlicedVec<T> {
    #[inline]
    fn touch(&mut self, i: usize) {
        self.cursor.touch(&i, || self.vec.get(i).map(|value| (i, value)));
    }

    pub(crate) fn push(&mut self, value: T) {
        self.touch(self.vec.len());
        self.vec.push(value);
    }
}

impl<T> Index<usize> for SlicedVec<T> {
    type Output = T;

    #[inline]
    fn index(&self, i: usize) -> &T {
        &self.vec[i]
    }
}

impl<T: Serialize> IndexMut<usize> for SlicedVec<T> {
    #[inline]
    fn index_mut(&mut self, i: usize) -> &mut T {
        self.touch(i);
        &mut self.vec[i]
    }
}

impl<T: Serialize + DeserializeOwned> Slices for SlicedVec<T> {
    fn begin(&mut self) {
        self.cursor.begin();
    }

    fn step(&mut self, budget: &mut usize, out: &mut Vec<u8>) -> bool {
        let from = self.cursor.next_position();
        let rest = self.vec.iter().enumerate().skip(from).map(|(i, v)| (i, (i, v)));
        self.cursor.step(rest, budget, out)
    }

    fn cancel(&mut self) {
        self.cursor.cancel();
    }

    fn load(&mut self, bytes: &[u8]) -> Option<()> {
        self.vec = load_by_position(bytes)?.collect();
        Some(())
    }
}

/// Reads entries one after the other until one is not taken.
fn load<E: DeserializeOwned>(mut bytes: &[u8], mut take: impl FnMut(E) -> bool) -> Option<()> {
    while !bytes.is_empty() {
        let (entry, rest) = postcard::take_from_bytes(bytes).ok()?;
        bytes = rest;
        take(entry).then_some(())?;
    }
    Some(())
}

/// Reads entries with their positions, none of which may be missing, and gives them in that order.
pub(super) fn load_by_position<T: DeserializeOwned>(
    bytes: &[u8],
) -> Option<impl Iterator<Item = T>> {
    let mut entries = BTreeMap::new();
    load(bytes, |(at, entry): (usize, T)| entries.insert(at, entry).is_none())?;
    let whole = entries.keys().copied().eq(0..entries.len());
    whole.then(|| entries.into_values())
}
