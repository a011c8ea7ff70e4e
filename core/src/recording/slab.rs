//! A collection whose members keep their places while they are in it.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sliced::{SlicedVec, Slices};

/// For what is bounded: the room of what has left stays for what comes. What is in it goes into a snapshot in
/// slices, and which places are free into its head.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct SlicedSlab<T> {
    #[serde(skip)]
    places: SlicedVec<Option<T>>,
    /// The place that was left last is taken first: it is still in the processor's cache.
    free: Vec<u32>,
}

impl<T> Default for SlicedSlab<T> {
    fn default() -> Self {
        Self { places: SlicedVec::default(), free: Vec::new() }
    }
}

impl<T: Serialize + DeserializeOwned> SlicedSlab<T> {
    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> &mut dyn Slices {
        &mut self.places
    }

    /// Whether what the slices have brought is what the head says of it: the free places, each once.
    pub(crate) fn fits(&self) -> bool {
        let empty = |place: &u32| self.places.get(*place as usize).is_some_and(Option::is_none);
        let free: BTreeSet<u32> = self.free.iter().copied().filter(empty).collect();
        let all = self.places.iter().filter(|member| member.is_none()).count();
        free.len() == self.free.len() && free.len() == all
    }
}

impl<T: Serialize> SlicedSlab<T> {
    /// Puts a member in, and says where.
    #[inline]
    pub(crate) fn insert(&mut self, member: T) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(member);
            return place;
        }
        self.places.push(Some(member));
        u32::try_from(self.places.len() - 1).expect("memory is bounded")
    }

    /// Takes a member out.
    #[inline]
    pub(crate) fn remove(&mut self, place: u32) -> T {
        let member = self.places[place as usize].take();
        self.free.push(place);
        member.expect("a place is known while something is there")
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> &mut T {
        self.places[place as usize].as_mut().expect("a place is known while something is there")
    }
}

impl<T> SlicedSlab<T> {
    pub(crate) fn get(&self, place: u32) -> &T {
        self.places[place as usize].as_ref().expect("a place is known while something is there")
    }

    /// Everything with its place, in no order that means something.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(self.places.iter()).filter_map(|(place, member)| Some((place, member.as_ref()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stay_where_they_are_and_leave_room_for_others() {
        let mut slab = SlicedSlab::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| slab.insert(name.to_owned()));
        slab.get_mut(c).push('!');
        assert_eq!((slab.remove(b), slab.len()), ("b".to_owned(), 2));
        assert_eq!(slab.insert("d".to_owned()), b);
        let all: Vec<(u32, &str)> = slab.iter().map(|(place, name)| (place, &name[..])).collect();
        assert_eq!(all, [(a, "a"), (b, "d"), (c, "c!")]);
        assert_eq!((slab.get(a), slab.len()), (&"a".to_owned(), 3));
    }

    #[test]
    fn one_that_comes_back_from_a_snapshot_fills_the_same_places() {
        let mut here = SlicedSlab::default();
        (0..10_u64).for_each(|n| assert_eq!(u64::from(here.insert(n)), n));
        for place in [3, 7, 5] {
            assert_eq!(here.remove(place), u64::from(place));
        }
        let head = postcard::to_stdvec(&here).expect("plain data");
        let mut slices = Vec::new();
        here.slices().begin();
        while !here.slices().step(&mut 1, &mut slices) {}
        let mut there: SlicedSlab<u64> = postcard::from_bytes(&head).expect("just written");
        assert!(!there.fits(), "places are free that are not there");
        assert_eq!(there.slices().load(&slices), Some(()));
        assert!(there.fits());
        for n in 20..25 {
            assert_eq!(here.insert(n), there.insert(n));
        }
        assert!(here.iter().eq(there.iter()));
        // Something stands at 3, and nothing at all at 99.
        for wrong in [3, 99] {
            there.free = vec![wrong];
            assert!(!there.fits());
        }
    }

    /// What is in a slab and where, and what the head says.
    fn state(slab: &SlicedSlab<u64>) -> (Vec<(u32, u64)>, Vec<u32>) {
        (slab.iter().map(|(place, member)| (place, *member)).collect(), slab.free.clone())
    }

    #[test]
    fn a_walk_writes_the_slab_as_it_was_at_its_begin_whatever_changes_meanwhile() {
        for seed in 0..200u64 {
            let mut slab = SlicedSlab::default();
            let mut known: Vec<u32> = (0..20).map(|n| slab.insert(n)).collect();
            (0..seed % 7).for_each(|_| assert!(slab.remove(known.remove(3)) < 20));
            let (before, head) = (state(&slab), postcard::to_stdvec(&slab).expect("plain data"));
            slab.slices().begin();
            let (mut written, mut n) = (Vec::new(), seed);
            while !slab.slices().step(&mut 1, &mut written) {
                n = n
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (n >> 8) as usize % known.len();
                match n >> 62 {
                    0 | 1 => known.push(slab.insert(n)),
                    2 if known.len() > 1 => drop(slab.remove(known.swap_remove(at))),
                    _ => *slab.get_mut(known[at]) += 1,
                }
            }
            let mut loaded: SlicedSlab<u64> = postcard::from_bytes(&head).expect("just written");
            assert_eq!(loaded.slices().load(&written), Some(()), "seed {seed}");
            assert!(loaded.fits(), "seed {seed}");
            assert_eq!(state(&loaded), before, "seed {seed}");
        }
    }
}
