//! Sets of positions in a record.

use serde::{Deserialize, Serialize};

/// A set of positions: one, or a bitmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Positions {
    One(u32),
    Map(Vec<u64>),
}

impl FromIterator<u32> for Positions {
    fn from_iter<I: IntoIterator<Item = u32>>(positions: I) -> Self {
        let mut positions = positions.into_iter();
        let mut set = positions.next().map_or(Self::Map(Vec::new()), Self::One);
        positions.for_each(|position| _ = set.insert(position));
        set
    }
}

impl Positions {
    pub(crate) fn insert(&mut self, position: u32) -> bool {
        if let Self::One(one) = *self {
            if one == position {
                return false;
            }
            let mut map = Self::Map(Vec::new());
            map.insert(one);
            *self = map;
        }
        let Self::Map(words) = self else { unreachable!("just made a map") };
        let (word, bit) = (position as usize / 64, 1u64 << (position % 64));
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let fresh = words[word] & bit == 0;
        words[word] |= bit;
        fresh
    }

    pub(crate) fn remove(&mut self, position: u32) -> bool {
        match self {
            Self::One(one) if *one == position => {
                *self = Self::Map(Vec::new());
                true
            }
            Self::One(_) => false,
            Self::Map(words) => {
                let Some(word) = words.get_mut(position as usize / 64) else { return false };
                let bit = 1u64 << (position % 64);
                let was = *word & bit != 0;
                *word &= !bit;
                was
            }
        }
    }

    pub(crate) fn contains(&self, position: u32) -> bool {
        match self {
            Self::One(one) => *one == position,
            Self::Map(words) => {
                words.get(position as usize / 64).is_some_and(|w| w & (1 << (position % 64)) != 0)
            }
        }
    }

    /// What it takes besides itself.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Map(words) => size_of_val(&words[..]),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Map(words) => words.iter().map(|w| w.count_ones() as usize).sum(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::Map(words) => words.iter().all(|w| *w == 0),
        }
    }

    /// Those that follow each other: the first of them, and how many.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut positions = self.iter().peekable();
        std::iter::from_fn(move || {
            let first = positions.next()?;
            let mut length = 1;
            while positions.next_if_eq(&(first + length)).is_some() {
                length += 1;
            }
            Some((first, length))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (one, words): (Option<u32>, &[u64]) = match self {
            Self::One(one) => (Some(*one), &[]),
            Self::Map(words) => (None, words),
        };
        one.into_iter().chain(words.iter().enumerate().flat_map(|(i, word)| {
            (0..64u32).filter(move |b| word & (1 << b) != 0).map(move |b| i as u32 * 64 + b)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_behave_like_a_set() {
        let mut positions = Positions::One(70);
        for p in [3, 200, 70, 3] {
            positions.insert(p);
        }
        assert_eq!(positions.iter().collect::<Vec<_>>(), [3, 70, 200]);
        assert!(positions.remove(70) && !positions.remove(70));
        assert_eq!(positions.len(), 2);
        assert!(positions.remove(3) && positions.remove(200) && positions.is_empty());
    }
}
