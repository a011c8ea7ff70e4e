//! A chunk of the id index: a few hundred ids, ascending, each with the place of its object. Ids of
//! one time begin alike and places of one part are near each other, so both are packed:
//!
//! ```text
//! lowest record, then for each entry:
//! bytes shared with the id before 1 | the id's other bytes | record less the lowest | position
//! ```
//!
//! Numbers are LEB128.

use dpc_core::ids::{Loc, ObjectId, RecordNumber};
use prost::encoding::{decode_varint, encode_varint};

/// Packs entries, whose ids ascend.
pub(super) fn pack(entries: &[(ObjectId, Loc)], out: &mut Vec<u8>) {
    let lowest = entries.iter().map(|(_, loc)| loc.record.0).min().unwrap_or(0);
    encode_varint(lowest, out);
    let mut before = [0; 16];
    for (ObjectId(id), loc) in entries {
        let shared = before.iter().zip(id).take_while(|(a, b)| a == b).count();
        out.push(u8::try_from(shared).expect("an id has sixteen bytes"));
        out.extend_from_slice(&id[shared..]);
        encode_varint(loc.record.0 - lowest, out);
        encode_varint(u64::from(loc.position), out);
        before = *id;
    }
}

/// Where an object of this id is, if the chunk says so. `None`: these bytes are no chunk.
pub(super) fn find(mut chunk: &[u8], wanted: ObjectId) -> Option<Option<Loc>> {
    let lowest = decode_varint(&mut chunk).ok()?;
    let mut id = [0; 16];
    while !chunk.is_empty() {
        let shared = usize::from(*chunk.split_off_first()?);
        let rest = id.get_mut(shared..)?;
        rest.copy_from_slice(chunk.split_off(..rest.len())?);
        let record = RecordNumber(lowest.checked_add(decode_varint(&mut chunk).ok()?)?);
        let position = u32::try_from(decode_varint(&mut chunk).ok()?).ok()?;
        if id == wanted.0 {
            return Some(Some(Loc { record, position }));
        }
        if id > wanted.0 {
            break;
        }
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
        assert_eq!(find(&[0, 17], first.0), None, "no id has seventeen bytes");
    }
}
