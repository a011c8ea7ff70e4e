//! The queues that have something for a group.
//!
//! A group of many types takes from another queue with each object, and most of these are empty then: a
//! queue enters and leaves with each. So they stand as the bits of words, which cost a few instructions
//! each where a tree of numbers costs a hundred.

use serde::{Deserialize, Serialize};

use crate::catalogue::QueueId;

/// A set of queues, in the order of their numbers.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Blocks of 64 numbers, in order, each with those of its queues that are in the set: at least one.
    blocks: Vec<(u32, u64)>,
    len: usize,
}

impl Ready {
    pub(crate) fn insert(&mut self, queue: QueueId) {
        let (block, bit) = place_of(queue);
        match self.position(block) {
            Ok(at) => {
                self.len += usize::from(self.blocks[at].1 & bit == 0);
                self.blocks[at].1 |= bit;
            }
            Err(at) => {
                self.len += 1;
                self.blocks.insert(at, (block, bit));
            }
        }
    }

    pub(crate) fn remove(&mut self, queue: QueueId) {
        let (block, bit) = place_of(queue);
        let Ok(at) = self.position(block) else { return };
        let bits = &mut self.blocks[at].1;
        self.len -= usize::from(*bits & bit != 0);
        *bits &= !bit;
        if *bits == 0 {
            self.blocks.remove(at);
        }
    }

    pub(crate) fn contains(&self, queue: QueueId) -> bool {
        let (block, bit) = place_of(queue);
        self.position(block).is_ok_and(|at| self.blocks[at].1 & bit != 0)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first one behind this, or of all if there is none.
    fn next_after(&self, queue: QueueId) -> Option<QueueId> {
        let (block, bit) = place_of(queue);
        let up_to = bit | (bit - 1);
        let at = match self.position(block) {
            Ok(at) => match self.blocks[at].1 & !up_to {
                0 => at + 1,
                behind => return first_of((block, behind)),
            },
            Err(at) => at,
        };
        self.blocks.get(at).or_else(|| self.blocks.first()).copied().and_then(first_of)
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.blocks.iter().flat_map(|block| queues_of(*block))
    }

    /// All of them, in order, beginning with the first one behind this.
    pub(crate) fn iter_after(&self, queue: QueueId) -> impl Iterator<Item = QueueId> + '_ {
        let mut last = queue;
        (0..self.len).map_while(move |_| {
            last = self.next_after(last)?;
            Some(last)
        })
    }

    fn position(&self, block: u32) -> Result<usize, usize> {
        self.blocks.binary_search_by_key(&block, |(number, _)| *number)
    }
}

/// The block of a queue, and its bit in it.
fn place_of(QueueId(number): QueueId) -> (u32, u64) {
    (number / u64::BITS, 1 << (number % u64::BITS))
}

fn first_of((block, bits): (u32, u64)) -> Option<QueueId> {
    (bits != 0).then(|| QueueId(block * u64::BITS + bits.trailing_zeros()))
}

fn queues_of((block, mut bits): (u32, u64)) -> impl Iterator<Item = QueueId> {
    std::iter::from_fn(move || {
        let first = first_of((block, bits))?;
        bits &= bits - 1;
        Some(first)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_a_set_in_the_order_of_the_numbers() {
        let (mut ready, mut set) = (Ready::default(), BTreeSet::new());
        for n in 0..4_000_u32 {
            // Few numbers, near and far, that come and go.
            let queue = QueueId(n * 7_919 % 23 * (1 + n % 3 * 61));
            if n * 31 % 5 < 3 {
                ready.insert(queue);
                set.insert(queue);
            } else {
                ready.remove(queue);
                set.remove(&queue);
            }
            assert!(ready.iter().eq(set.iter().copied()));
            assert_eq!((ready.len(), ready.is_empty()), (set.len(), set.is_empty()));
            assert_eq!(ready.contains(queue), set.contains(&queue));
            let after = set.iter().filter(|other| **other > queue);
            let turn = after.chain(set.iter().filter(|other| **other <= queue)).copied();
            assert_eq!(ready.next_after(queue), turn.clone().next(), "after {queue:?} in {set:?}");
            assert!(ready.iter_after(queue).eq(turn), "after {queue:?} in {set:?}");
        }
        set.iter().for_each(|queue| ready.remove(*queue));
        assert_eq!(ready, Ready::default(), "it keeps no empty blocks");
    }
}
