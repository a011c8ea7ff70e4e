//! Hashes of numbers that follow one another, by which these stand beside one another in a table.
//!
//! The leases of a delivery have numbers in a row, and so have the ids that one client or node makes
//! within a millisecond. They are given together and settled together; with hashes that scatter them each
//! touches lines of the cache of its own.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

/// The lowest bits of a number, which say where it stands among its neighbours.
const PLACE_BITS: u32 = 3;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// Hashes numbers by blocks of eight: what is above the lowest three bits is hashed with the seed, so that nobody who
/// chooses ids can choose more than their places in such a block. Other keys are hashed as a whole.
#[derive(Clone, Debug)]
pub(super) struct Neighbours(FixedState);

impl Neighbours {
    pub(super) fn with_seed(seed: u64) -> Self {
        Self(FixedState::with_seed(seed))
    }
}

impl BuildHasher for Neighbours {
    type Hasher = NeighbourHasher<<FixedState as BuildHasher>::Hasher>;

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
    /// Sixteen bytes are an id, a number with its highest byte first.
    fn write(&mut self, bytes: &[u8]) {
        match <[u8; 16]>::try_from(bytes) {
            Ok(id) => self.write_u128(u128::from_be_bytes(id)),
            Err(_) => self.block.write(bytes),
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.place = n & PLACE;
        self.block.write_u64(n >> PLACE_BITS);
    }

    fn write_u128(&mut self, n: u128) {
        self.place = n as u64 & PLACE;
        self.block.write_u128(n >> PLACE_BITS);
    }

    /// A length says nothing about keys of one length.
    fn write_usize(&mut self, n: usize) {
        self.block.write_usize(n);
    }

    /// Tables take the lowest bits for the place, and the highest to tell apart what stands near it.
    fn finish(&self) -> u64 {
        let block = self.block.finish();
        (block & !PLACE | self.place) ^ (self.place << (u64::BITS - PLACE_BITS))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::ObjectId;

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
}
