//! Small sets as bits: a state of the model is copied and hashed millions of times.

use std::fmt;
use std::marker::PhantomData;

/// Something of which there are few, each with a number below 128.
pub(crate) trait Numbered: Copy {
    fn number(self) -> u32;
    fn of_number(number: u32) -> Self;
}

/// A set of numbered things.
pub(crate) struct Set<T>(u128, PhantomData<T>);

impl<T: Numbered> Set<T> {
    pub(crate) const EMPTY: Self = Self(0, PhantomData);

    pub(crate) fn contains(&self, item: T) -> bool {
        self.0 >> item.number() & 1 == 1
    }

    pub(crate) fn insert(&mut self, item: T) {
        self.0 |= 1 << item.number();
    }

    pub(crate) fn remove(&mut self, item: T) {
        self.0 &= !(1 << item.number());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + use<T> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let number = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(T::of_number(number))
        })
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0, PhantomData)
    }
}

impl<T> Clone for Set<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Set<T> {}

impl<T> PartialEq for Set<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Set<T> {}

impl<T> std::hash::Hash for Set<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T: Numbered + fmt::Debug> fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
