//! A collection whose members keep their places while they are in it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sliced::{SlicedVec, Slices};

/// What is in it goes into a snapshot in slices; which places are free goes with whoever owns it.
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
        assert_eq!(there.slices().load(&slices), Some(()));
        for n in 20..25 {
            assert_eq!(here.insert(n), there.insert(n));
        }
        assert!(here.iter().eq(there.iter()));
    }
}
