//! What happens to a disk that nobody asked for: bits that flip, records that vanish or come back as
//! others, tails that are cut, and a whole disk put back to what it was once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dpc_core::ids::{Epoch, RecordNumber};

use super::{Row, SimDisk, draw};

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

/// What a disk held at some time.
#[derive(Clone)]
pub struct Backup {
    epoch: Epoch,
    first: RecordNumber,
    head: RecordNumber,
    head_hash: [u8; 16],
    rows: BTreeMap<RecordNumber, (Bytes, bool)>,
    /// What was damaged already.
    damaged: BTreeSet<RecordNumber>,
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

    /// A copy of everything on the disk that is synced.
    pub fn backup(&self) -> Backup {
        let disk = self.lock();
        let rows = disk.rows.range(..=disk.head).map(|(n, r)| (*n, (r.bytes.clone(), r.synced)));
        Backup {
            epoch: disk.epoch,
            first: disk.first,
            head: disk.head,
            head_hash: disk.head_hash,
            rows: rows.collect(),
            damaged: disk.damaged.clone(),
        }
    }

    /// Puts the disk back to what it was. No store may be open on it.
    pub fn restore(&self, backup: &Backup) {
        let disk = &mut *self.lock();
        (disk.epoch, disk.first) = (backup.epoch, backup.first);
        (disk.head, disk.head_hash) = (backup.head, backup.head_hash);
        let row = |(bytes, synced): &(Bytes, bool)| Row { bytes: bytes.clone(), synced: *synced };
        disk.rows = backup.rows.iter().map(|(n, kept)| (*n, row(kept))).collect();
        disk.late.clear();
        disk.damaged = backup.damaged.clone();
    }
}
