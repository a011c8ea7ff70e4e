//! Ids beside one another. Those of one producer follow each other: version 7 puts the time in front, and who
//! makes them as its specification recommends counts within a millisecond. So each is told by how far it is
//! from the one before it, mostly in one byte, and an id that is like no other in seventeen.

use serde::{Deserialize, Serialize};

use crate::ids::ObjectId;

/// Steps below this are the byte itself. From here on a byte says how many bytes of the step follow it, the
/// lowest first: one more for each number above this.
const FOLLOWED: u8 = 240;

/// The last id that was written or read. It starts as the lowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdSteps(ObjectId);

impl IdSteps {
    /// Goes to an id without writing it: it stands there in another way.
    pub fn go_to(&mut self, id: ObjectId) {
        self.0 = id;
    }

    /// The id that is one further than the last one.
    pub fn next(&self) -> ObjectId {
        ObjectId(number(self.0).wrapping_add(1).to_be_bytes())
    }

    /// Writes the next id behind what is there, in 1 to 17 bytes.
    pub fn write(&mut self, out: &mut Vec<u8>, id: ObjectId) {
        let step = number(id).wrapping_sub(number(self.0)).cast_signed();
        // Near ones in few bytes whichever way they lie.
        let folded = (step << 1 ^ step >> 127).cast_unsigned();
        self.0 = id;
        match u8::try_from(folded) {
            Ok(small) if small < FOLLOWED => out.push(small),
            _ => {
                let bytes = folded.to_le_bytes();
                let length = bytes.len() - folded.leading_zeros() as usize / 8;
                out.push(FOLLOWED - 1 + u8::try_from(length).expect("at most sixteen"));
                out.extend_from_slice(&bytes[..length]);
            }
        }
    }

    /// Reads the next id from the front of what is left. `None`: it ends early, and nothing was read.
    pub fn read(&mut self, rest: &mut &[u8]) -> Option<ObjectId> {
        let (first, behind) = rest.split_first()?;
        let length = usize::from(first.saturating_sub(FOLLOWED - 1));
        let (followed, behind) = behind.split_at_checked(length)?;
        let mut bytes = [0; 16];
        bytes[..length].copy_from_slice(followed);
        let folded = if length == 0 { u128::from(*first) } else { u128::from_le_bytes(bytes) };
        let step = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
        *rest = behind;
        self.0 = ObjectId(number(self.0).wrapping_add(step.cast_unsigned()).to_be_bytes());
        Some(self.0)
    }
}

fn number(id: ObjectId) -> u128 {
    u128::from_be_bytes(id.0)
}

#[cfg(test)]
mod tests {
    use rand_core::{Rng, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn id(n: u128) -> ObjectId {
        ObjectId(n.to_be_bytes())
    }

    #[test]
    fn every_step_reads_back_and_one_cut_short_is_not_read() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let edges =
            [0, 1, 119, 120, 121, 127, 128, 255, 256, 1 << 64, (1 << 127) - 1, 1 << 127, u128::MAX];
        let mut ids: Vec<_> = edges.into_iter().chain([0, 7, 6, 5, u128::MAX, 1]).map(id).collect();
        for bits in 0..128 {
            let wide = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
            ids.extend([id(wide >> bits), id(1 << bits), id((1 << bits) - 1)]);
        }
        let (mut out, mut steps) = (Vec::new(), IdSteps::default());
        for id in &ids {
            let before = out.len();
            steps.write(&mut out, *id);
            assert!((1..=17).contains(&(out.len() - before)), "{id}");
        }
        let (mut rest, mut steps) = (&out[..], IdSteps::default());
        for id in &ids {
            for cut in 0..rest.len().min(17) {
                let (mut short, mut copy) = (&rest[..cut], steps);
                assert!(copy.read(&mut short).is_none_or(|read| read == *id), "cut at {cut}");
            }
            assert_eq!(steps.read(&mut rest), Some(*id));
        }
        assert_eq!((rest, steps.read(&mut rest)), (&[][..], None));
    }

    #[test]
    fn who_counts_needs_a_byte_for_each() {
        let (mut out, mut steps) = (Vec::new(), IdSteps::default());
        let first = 0x0190_0000_0000_7000_8000_0000_0000_0000;
        (0..100).for_each(|n| steps.write(&mut out, id(first + n)));
        assert_eq!(out.len(), 17 + 99);
    }
}
