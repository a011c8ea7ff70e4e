//! A list of what stands, in its order, from which what has fallen is sifted out now and then.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Items in the order in which they came. One that has fallen stays among them until the list is longer
/// than twice what stands, and `SLACK`: most fall soon, and it costs them nothing. Only the owner of the
/// list knows which stand, and says so when they are sifted.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sifted<T, const SLACK: usize> {
    items: VecDeque<T>,
    standing: usize,
}

impl<T: Copy, const SLACK: usize> Sifted<T, SLACK> {
    /// Adds one that stands.
    pub(crate) fn add(&mut self, item: T, stands: impl Fn(T) -> bool) {
        self.add_again(item, stands);
        self.standing += 1;
    }

    /// Adds one in the place of another, which has fallen with that.
    pub(crate) fn add_again(&mut self, item: T, stands: impl Fn(T) -> bool) {
        if self.items.len() > 2 * self.standing + SLACK {
            self.items.retain(|item| stands(*item));
        }
        self.items.push_back(item);
    }

    /// One has fallen, and none comes in its place. With the last one the list is empty.
    pub(crate) fn fall(&mut self) {
        self.standing -= 1;
        if self.standing == 0 {
            self.items.clear();
        }
    }

    /// How many stand.
    pub(crate) fn standing(&self) -> usize {
        self.standing
    }

    /// The first that stands. What has fallen before it goes.
    pub(crate) fn first(&mut self, stands: impl Fn(T) -> bool) -> Option<T> {
        while let Some(item) = self.items.front().copied() {
            if stands(item) {
                return Some(item);
            }
            self.items.pop_front();
        }
        None
    }

    /// All that stand, and some that have fallen.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.items.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_fallen_goes_when_there_is_too_much_of_it() {
        let mut list = Sifted::<u32, 4>::default();
        let stands = |n: u32| n >= 3;
        for n in 0..3 {
            list.add(n, stands);
            list.fall();
        }
        assert_eq!(list.iter().count(), 0, "with the last one all go");
        list.add(3, stands);
        for n in 0..3 {
            list.add(n, stands);
        }
        (0..3).for_each(|_| list.fall());
        assert_eq!((list.standing(), list.iter().count()), (1, 4), "it costs nothing to fall");
        for n in 4..8 {
            list.add(n, stands);
        }
        assert_eq!(list.iter().collect::<Vec<_>>(), [3, 0, 1, 2, 4, 5, 6, 7]);
        assert_eq!(list.first(|n| n > 4), Some(5), "and what stands no longer before it goes");
        assert_eq!(list.iter().collect::<Vec<_>>(), [5, 6, 7]);
        (0..4).for_each(|_| list.fall());
        (8..14).for_each(|n| list.add_again(n, |n| n > 6));
        assert_eq!(list.standing(), 1);
        assert_eq!(list.iter().collect::<Vec<_>>(), [7, 8, 9, 10, 11, 12, 13]);
    }
}
