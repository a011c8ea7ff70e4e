//! Ids for objects that come without one: UUIDs of version 7. Those of one millisecond follow one another, as
//! RFC 9562 has it in section 6.2, method 2, so that a log tells each in a byte (`record::steps`).

use rand_core::Rng;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use crate::ids::ObjectId;
use crate::time::Wall;

/// Version and variant, at their places.
const VERSION_7: u128 = 0x7000_8000_0000_0000_0000;

/// What is random in the first id of a millisecond: all but the time, the version, the variant, and the
/// highest bit that is counted, so that counting never reaches the variant.
const RANDOM: u128 = 0x0fff_1fff_ffff_ffff_ffff;

/// Makes ids.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mint {
    random: Pcg64Mcg,
    last: Option<ObjectId>,
}

impl Mint {
    pub(crate) fn new(random: Pcg64Mcg) -> Self {
        Self { random, last: None }
    }

    /// The next id.
    pub(crate) fn next(&mut self, now: Wall) -> ObjectId {
        let time = u128::from(now.0) << 80;
        let last = self.last.map(|last| u128::from_be_bytes(last.0));
        let id = match last.filter(|last| last >> 80 == time >> 80) {
            Some(last) => last + 1,
            None => {
                let [high, low] = [(); 2].map(|()| u128::from(self.random.next_u64()));
                time | VERSION_7 | (high << 64 | low) & RANDOM
            }
        };
        let id = ObjectId(id.to_be_bytes());
        self.last = Some(id);
        id
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn ids_of_a_millisecond_follow_one_another_and_others_begin_anew() {
        let mut mint = Mint::new(Pcg64Mcg::seed_from_u64(1));
        let mut ids = Vec::new();
        for ms in [0, 5, 5, 5, 6, 5, (1 << 48) - 1] {
            let id = mint.next(Wall(ms));
            assert_eq!(id.0[..6], ms.to_be_bytes()[2..], "it begins with its time");
            assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (7, 2), "version and variant of {id}");
            ids.push(u128::from_be_bytes(id.0));
        }
        assert_eq!((ids[2], ids[3]), (ids[1] + 1, ids[1] + 2));
        assert_ne!(ids[5] & RANDOM, ids[1] & RANDOM, "the clock went back: drawn anew");
        assert_eq!(RANDOM & VERSION_7, 0);
    }
}
