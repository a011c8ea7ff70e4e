//! A chunk of the id index: a few hundred ids, ascending, each with the place of its object. Ids of
//! one time are near each other, and so are the places of one part, so both are packed:
//!
//! ```text
//! lowest record, then for each entry:
//! the step from the id before (`IdSteps`) | 0 at the next place of the same record
//!                                           or the record less the lowest, plus 1 | position
//! ```
//!
//! Numbers are LEB128.

use dpc_core::ids::{Loc, ObjectId, RecordNumber};
use dpc_core::record::IdSteps;
use prost::encoding::{decode_varint, encode_varint};

/// Packs entries, whose ids ascend.
pub(super) fn pack(entries: &[(ObjectId, Loc)], out: &mut Vec<u8>) {
    let lowest = entries.iter().map(|(_, loc)| loc.record.0).min().unwrap_or(0);
    encode_varint(lowest, out);
    let (mut ids, mut before) = (IdSteps::default(), Loc::default());
    for (id, loc) in entries {
        ids.write(out, *id);
        if before.next_in_record() == Some(*loc) {
            encode_varint(0, out);
        } else {
            encode_varint(loc.record.0 - lowest + 1, out);
            encode_varint(u64::from(loc.position), out);
        }
        before = *loc;
    }
}

/// Where an object of this id is, if the chunk says so. `None`: these bytes are no chunk.
pub(super) fn find(mut chunk: &[u8], wanted: ObjectId) -> Option<Option<Loc>> {
    let lowest = decode_varint(&mut chunk).ok()?;
    let (mut ids, mut before) = (IdSteps::default(), Loc::default());
    while !chunk.is_empty() {
        let id = ids.read(&mut chunk)?;
        let loc = match decode_varint(&mut chunk).ok()? {
            0 => before.next_in_record()?,
            record => Loc {
                record: RecordNumber(lowest.checked_add(record - 1)?),
                position: u32::try_from(decode_varint(&mut chunk).ok()?).ok()?,
            },
        };
        if id == wanted {
            return Some(Some(loc));
        }
        if id > wanted {
            break;
        }
        before = loc;
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<(ObjectId, Loc)> {
        let id = |n: u64| {
            let mut id = [7; 16];
            id[8..].copy_from_slice(&(n * n * 1_000_003).to_be_bytes());
            ObjectId(id)
        };
        let loc = |n: u64| Loc {
            record: RecordNumber(u64::MAX - 500 + n * 37 % 400),
            position: if n == 9 { u32::MAX } else { (n * 91 % 700) as u32 },
        };
        (0..200).map(|n| (id(n), loc(n))).collect()
    }

    #[test]
    fn what_was_packed_is_found_and_nothing_else() {
        let entries = entries();
        let mut chunk = Vec::new();
        pack(&entries, &mut chunk);
        assert!(chunk.len() < 200 * 14, "{} bytes", chunk.len());
        for (id, loc) in &entries {
            assert_eq!(find(&chunk, *id), Some(Some(*loc)));
            let mut beside = *id;
            beside.0[15] ^= 1;
            assert_eq!(find(&chunk, beside), Some(None));
        }
        assert_eq!(find(&chunk, ObjectId([0xff; 16])), Some(None));
    }

    #[test]
    fn ids_and_places_in_a_row_take_two_bytes_each() {
        let record = RecordNumber(1 << 40);
        let entry = |n: u32| {
            let id = ObjectId((u128::MAX - 1_000 + u128::from(n)).to_be_bytes());
            (id, Loc { record, position: n })
        };
        let entries: Vec<_> = (0..192).map(entry).collect();
        let mut chunk = Vec::new();
        pack(&entries, &mut chunk);
        assert!(chunk.len() < 192 * 2 + 16, "{} bytes", chunk.len());
        assert!(entries.iter().all(|(id, loc)| find(&chunk, *id) == Some(Some(*loc))));
    }

    /// The hash of its row finds a cut chunk; here it is enough that nothing is found that is not so.
    #[test]
    fn of_cut_bytes_nothing_false_is_said() {
        let entries = entries();
        let (mut chunk, (first, last)) = (Vec::new(), (entries[0], entries[199]));
        pack(&entries, &mut chunk);
        for cut in 0..chunk.len() {
            assert!(matches!(find(&chunk[..cut], last.0), None | Some(None)), "cut at {cut}");
            let found = find(&chunk[..cut], first.0);
            assert!(found.is_none_or(|found| found.is_none_or(|loc| loc == first.1)), "{cut}");
        }
        assert_eq!(find(&[], first.0), None);
        assert_eq!(find(&[0, 255], first.0), None, "sixteen bytes follow");
    }
}
