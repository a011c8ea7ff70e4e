//! Hashes of numbers that follow one another, by which these stand beside one another in a table.
//!
//! The leases of a delivery have numbers in a row, and so have the ids that one client or node makes
//! within a millisecond. They are given together and settled together; with hashes that scatter them each
//! touches lines of the cache of its own.

use std::hash::{BuildHasher, Hash, Hasher};

use ahash::RandomState;

use crate::ids::ObjectId;

/// The lowest bits of a number, which say where it stands among its neighbours.
const PLACE_BITS: u32 = 3;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// A key that is one number, and is hashed as nothing else.
pub(crate) trait Number: Copy + Eq + Hash {}

impl Number for u64 {}
impl Number for ObjectId {}

/// Hashes a [`Number`] by blocks of eight: what is above the lowest three bits is hashed with the seed, so that nobody
/// who chooses ids can choose more than their places in such a block.
#[derive(Clone, Debug)]
pub(super) struct Neighbours(RandomState);

impl Neighbours {
    pub(super) fn with_seed(seed: u64) -> Self {
        Self(RandomState::with_seed(seed as usize))
    }
}

impl BuildHasher for Neighbours {
    type Hasher = NeighbourHasher<<RandomState as BuildHasher>::Hasher>;

    fn build_hasher(&self) -> Self::Hasher {
        NeighbourHasher { block: self.0.build_hasher(), place: 0 }
    }
}

/// See [`Neighbours`].
pub(super) struct NeighbourHasher<H> {
    block: H,
    place: u64,
}

impl<H: Hasher> Hasher for NeighbourHasher<H> {
    fn write_u64(&mut self, n: u64) {
        self.place = n & PLACE;
        self.block.write_u64(n >> PLACE_BITS);
    }

    fn write_u128(&mut self, n: u128) {
        self.place = n as u64 & PLACE;
        self.block.write_u128(n >> PLACE_BITS);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a Number is hashed as one number");
    }

    /// Tables take the lowest bits for the place, and on machines of 64 bits the highest to tell apart what
    /// stands near it.
    fn finish(&self) -> u64 {
        let block = self.block.finish();
        (block & !PLACE | self.place) ^ (self.place << (u64::BITS - PLACE_BITS))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn eight_in_a_row_stand_beside_one_another_and_have_tags_of_their_own() {
        let hashes = Neighbours::with_seed(3);
        let id = |n: u128| ObjectId((0x0199_0000_0000_7000_8000 << 48 | n).to_be_bytes());
        for block in 0..100u64 {
            let row = block * 8..block * 8 + 8;
            let numbers: Vec<u64> = row.clone().map(|n| hashes.hash_one(n)).collect();
            let ids: Vec<u64> = row.map(|n| hashes.hash_one(id(n.into()))).collect();
            for hashes in [numbers, ids] {
                let places: Vec<u64> = hashes.iter().map(|hash| hash & 0xffff).collect();
                assert!(places.windows(2).all(|two| two[0] + 1 == two[1]), "{places:x?}");
                let tags: BTreeSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
                assert_eq!(tags.len(), 8);
            }
        }
    }

    #[test]
    fn blocks_are_scattered_by_the_seed() {
        let places = |seed: u64| -> BTreeSet<u64> {
            let hashes = Neighbours::with_seed(seed);
            (0..4_096u64).map(|block| hashes.hash_one(block * 8) & 0xffff).collect()
        };
        let (one, other) = (places(1), places(0x9e37_79b9_7f4a_7c15));
        // Of 8,192 places that blocks have in a table of 65,536, such a number takes four tenths.
        assert!((3_000..3_500).contains(&one.len()), "{}", one.len());
        assert!(one.intersection(&other).count() < 1_700);
    }

    #[test]
    fn ids_cannot_be_chosen_so_that_they_share_a_place() {
        // A hash whose products have a known side is spoilt by an upper half that makes it 0, or a power of two. These
        // did so while the keys were the same in each program: the second in blocks of eight, the first without.
        for upper in [0x00ac_29b7_c97c_50dd_u128, 0x0561_4dbe_4be2_86e8] {
            for shift in [3, 20, 40, 48] {
                let id = |n: u128| ObjectId((upper << 64 | n << shift).to_be_bytes());
                let hashes = Neighbours::with_seed(3);
                let places: BTreeSet<u64> =
                    (0..4_096).map(|n| hashes.hash_one(id(n)) & 0xffff).collect();
                assert!(places.len() > 2_000, "{} with {upper:x} and {shift}", places.len());
            }
        }
    }
}
