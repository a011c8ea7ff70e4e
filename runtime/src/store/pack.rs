//! Records as they travel to a database and lie there: packed, because each of their bytes goes over
//! the network once for each copy, into each copy's commit log and tables, and comes back when a
//! backlog is read. Ids and names stand in a record again and again, so that even around payloads
//! that cannot be packed there is something to win.
//!
//! ```text
//! magic "dpcZ" | length of the record u32, little-endian | LZ4 block of all but … | its last 16 bytes
//! ```
//!
//! A record that would not become shorter stays as it is; its own magic tells the two apart. The last
//! bytes of a record are its hash: they stand at the end either way, so a database can say which record
//! it has without unpacking it. Hashes and the chain are those of the record itself, so nothing that is
//! checked changes by packing.

use bytes::{BufMut, Bytes};
use dpc_core::record::HASH_BYTES;
use dpc_core::store::RECORD_BYTES_MAX;

const MAGIC: &[u8; 4] = b"dpcZ";

/// Bytes before the block.
const HEADER_BYTES: usize = MAGIC.len() + 4;

/// What is written for a record.
pub(super) fn packed(record: &Bytes) -> Bytes {
    let (Ok(length), Some((body, hash))) =
        (u32::try_from(record.len()), record.split_last_chunk::<HASH_BYTES>())
    else {
        return record.clone();
    };
    let mut packed = Vec::with_capacity(HEADER_BYTES + body.len() + HASH_BYTES);
    packed.put_slice(MAGIC);
    packed.put_u32_le(length);
    packed.put_bytes(0, lz4_flex::block::get_maximum_output_size(body.len()));
    let block = lz4_flex::block::compress_into(body, &mut packed[HEADER_BYTES..]);
    packed.truncate(HEADER_BYTES + block.expect("the largest block has room"));
    packed.put_slice(hash);
    if packed.len() < record.len() { packed.into() } else { record.clone() }
}

/// The record of what was written. What cannot be unpacked stays as it is: then it is no record, and
/// whoever checks it says so (P16).
pub(super) fn unpacked(written: Bytes) -> Bytes {
    unpack(&written).unwrap_or(written)
}

fn unpack(written: &[u8]) -> Option<Bytes> {
    let (length, rest) = written.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let (block, hash) = rest.split_last_chunk::<HASH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    // No more memory is taken on a damaged row's word.
    let body = length.checked_sub(HASH_BYTES).filter(|_| length <= RECORD_BYTES_MAX)?;
    let mut record = Vec::with_capacity(length);
    record.put_bytes(0, body);
    let found = lz4_flex::block::decompress_into(block, &mut record).ok()?;
    record.put_slice(hash);
    (found == body).then(|| record.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize, of: impl Fn(usize) -> u8) -> Bytes {
        (0..length).map(of).collect()
    }

    /// Bytes in which nothing comes again.
    fn random(length: usize) -> Bytes {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes.into()
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for length in [0, 1, 15, 16, 17, 100, 256 << 10] {
            for record in [bytes(length, |at| (at / 16) as u8), random(length)] {
                let written = packed(&record);
                assert!(written.len() <= record.len());
                let end = length.saturating_sub(HASH_BYTES);
                assert!(written.ends_with(&record[end..]), "the hash stays at the end");
                assert_eq!(unpacked(written), record, "{length} bytes");
            }
        }
    }

    #[test]
    fn what_comes_again_is_written_once_and_what_cannot_be_packed_is_left() {
        let record = bytes(64 << 10, |at| (at % 100) as u8);
        assert!(packed(&record).len() * 50 < record.len());
        let record = random(64 << 10);
        assert_eq!(packed(&record), record);
    }

    #[test]
    fn damage_makes_another_record_or_none_and_no_panic() {
        let record = bytes(5_000, |at| (at / 16) as u8);
        let written = packed(&record);
        assert!(written.len() < record.len());
        for at in 0..written.len() {
            let mut damaged = written.to_vec();
            damaged[at] ^= 0x41;
            assert_ne!(unpacked(damaged.into()), record, "byte {at}");
            assert_ne!(unpacked(written.slice(..at)), record, "cut at {at}");
        }
    }

    #[test]
    fn no_memory_is_taken_for_a_length_that_no_record_has() {
        let mut written = MAGIC.to_vec();
        written.extend(u32::MAX.to_le_bytes());
        written.extend([0; 8]);
        assert_eq!(unpacked(written.clone().into()), written);
    }
}
