//! What happens to a disk that nobody asked for: bits that flip, records that vanish or come back as
//! others, and tails that are cut.

use bytes::Bytes;
use dpc_core::ids::RecordNumber;

use super::{SimDisk, draw};

/// A kind of damage to stored records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit of a record flips.
    Flip,
    /// A record is found where another should be: a stale block, a misdirected write.
    Misplace,
    /// A record vanishes.
    Lose,
    /// A record and everything behind it vanish, though it was acknowledged.
    CutTail,
}

impl Damage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Flip, Self::Misplace, Self::Lose, Self::CutTail];
}

impl SimDisk {
    /// Damages a committed record, chosen by its place among those kept, in thousandths. Says which
    /// one, if there was one that this kind can damage.
    pub fn damage(&self, kind: Damage, permille: u64) -> Option<RecordNumber> {
        let disk = &mut *self.lock();
        let head = disk.head;
        let kept: Vec<RecordNumber> = disk.rows.range(..=head).map(|(n, _)| *n).collect();
        let at = kept.len() * permille as usize / 1_000;
        let number = *kept.get(at)?;
        match kind {
            Damage::Flip => {
                let row = disk.rows.get_mut(&number)?;
                let mut bytes = row.bytes.to_vec();
                let bit = draw(&mut disk.rng, bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                row.bytes = Bytes::from(bytes);
            }
            Damage::Misplace => {
                let other = kept.iter().rev().find(|n| **n != number)?;
                let bytes = disk.rows[other].bytes.clone();
                disk.rows.get_mut(&number)?.bytes = bytes;
            }
            Damage::Lose => {
                disk.rows.remove(&number);
            }
            Damage::CutTail => {
                let lost = disk.rows.split_off(&number);
                let unacknowledged = lost.into_iter().filter(|(n, _)| *n > head);
                disk.rows.extend(unacknowledged);
                let rest = kept[at..].iter().copied();
                disk.damaged.extend(rest);
            }
        }
        disk.damaged.insert(number);
        Some(number)
    }

    /// Records that were damaged and are not forgotten yet.
    pub fn damaged(&self) -> Vec<RecordNumber> {
        let disk = self.lock();
        disk.damaged.iter().copied().filter(|n| *n >= disk.first).collect()
    }
}
