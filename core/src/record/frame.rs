//! The frame of a record: a fixed header, the packed entries, and a hash over both.
//!
//! All integers are little-endian:
//!
//! ```text
//! magic "dpcR" | format u16 | reserved u16 | lane 16 | epoch u64 | number u64 | wall u64 (ms)
//! | previous hash 16 | checkpoint u64 | entries u32 | body length u32 | body … | hash 16
//! ```
//!
//! The hash is the first 16 bytes of BLAKE3 over everything before it, so any flipped bit in the
//! record is found; `previous hash` links the records to a chain, so a lost, repeated or foreign
//! record is found. `checkpoint` is the number of the latest complete checkpoint's first record (0
//! if there is none): whoever holds the last record knows where to start reading.

use bytes::Bytes;

use crate::ids::{Epoch, LaneId, RecordNumber};
use crate::planted::{Bug, planted};
use crate::store::RECORD_BYTES_MAX;
use crate::time::Wall;

/// The version of the record format that this program writes, and the highest it reads.
pub const FORMAT: u16 = 3;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 80;

/// Bytes of the hash behind the body.
pub const HASH_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"dpcR";

/// What stands in front of a record's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The lane the record belongs to.
    pub lane: LaneId,
    /// The epoch of the owner that wrote it.
    pub epoch: Epoch,
    /// Its number.
    pub number: RecordNumber,
    /// When it was closed.
    pub wall: Wall,
    /// The hash of the record before it, zeros for record 1.
    pub previous: [u8; 16],
    /// Where the latest complete checkpoint starts, zero if there is none.
    pub checkpoint: RecordNumber,
    /// How many entries the body holds.
    pub entries: u32,
}

/// Why bytes are not an undamaged record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Fewer or more bytes than the header says.
    #[error("length {found}, expected {expected}")]
    Length {
        /// What the header, or the smallest record, needs.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// The bytes do not start as a record does.
    #[error("not a record: wrong magic")]
    Magic,
    /// Written by a later program.
    #[error("format {found} is newer than {FORMAT}, the newest this program reads")]
    Newer {
        /// The format of the record.
        found: u16,
    },
    /// Content and hash do not agree.
    #[error("the content does not match its hash")]
    Hash,
}

/// Builds the bytes of a record. The body must be below the hard limit.
pub fn seal(header: &Header, body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len() + HASH_BYTES);
    out.resize(HEADER_BYTES, 0);
    out.extend_from_slice(body);
    seal_in_place(header, out)
}

/// The same for a body that stands behind room for its header: it is not copied.
pub(super) fn seal_in_place(header: &Header, mut out: Vec<u8>) -> Bytes {
    assert!(out.len() + HASH_BYTES <= RECORD_BYTES_MAX, "groups are split before");
    let body = u32::try_from(out.len() - HEADER_BYTES).expect("bounded above");
    let fields: [&[u8]; 11] = [
        &MAGIC,
        &FORMAT.to_le_bytes(),
        &0u16.to_le_bytes(),
        &header.lane.0,
        &header.epoch.0.to_le_bytes(),
        &header.number.0.to_le_bytes(),
        &header.wall.0.to_le_bytes(),
        &header.previous,
        &header.checkpoint.0.to_le_bytes(),
        &header.entries.to_le_bytes(),
        &body.to_le_bytes(),
    ];
    let mut at = 0;
    for field in fields {
        out[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    assert_eq!(at, HEADER_BYTES, "the header has a fixed size");
    let hash = blake3::hash(&out);
    out.extend_from_slice(&hash.as_bytes()[..HASH_BYTES]);
    Bytes::from(out)
}

/// Checks a record's frame and hash, and returns its header and body.
///
/// Lane, number and chain are the caller's to compare: it knows what it asked for.
pub fn open(record: &Bytes) -> Result<(Header, Bytes), BadFrame> {
    let header = open_header(record)?;
    let end = record.len() - HASH_BYTES;
    if computed_hash(record) != record[end..] && !planted(Bug::ChecksumNotChecked) {
        return Err(BadFrame::Hash);
    }
    Ok((header, body_of(record)))
}

/// The entries of a record that has passed [`open_header`], packed.
pub(super) fn body_of(record: &Bytes) -> Bytes {
    record.slice(HEADER_BYTES..record.len() - HASH_BYTES)
}

/// The hash that a record has by its content, whatever it says itself; zeros for bytes that are too few.
/// The next one links to it.
pub fn computed_hash(record: &[u8]) -> [u8; 16] {
    let Some(end) = record.len().checked_sub(HASH_BYTES) else { return [0; HASH_BYTES] };
    blake3::hash(&record[..end]).as_bytes()[..HASH_BYTES].try_into().expect("sixteen bytes")
}

/// The hash of a record, as the next one links to it. The record must have passed [`open`] or come
/// from [`seal`].
pub fn hash_of(record: &[u8]) -> [u8; 16] {
    record[record.len() - HASH_BYTES..].try_into().expect("sixteen bytes")
}

/// Reads a record's header without checking its hash: enough for a record that was just sealed,
/// never for one that comes from outside.
pub fn open_header(record: &[u8]) -> Result<Header, BadFrame> {
    let least = HEADER_BYTES + HASH_BYTES;
    if record.len() < least {
        return Err(BadFrame::Length { expected: least, found: record.len() });
    }
    let (header, length) = open_start(record)?;
    if length != record.len() {
        return Err(BadFrame::Length { expected: length, found: record.len() });
    }
    Ok(header)
}

/// Reads a header from the first [`HEADER_BYTES`] of what may be a record, and how many bytes the
/// record has if it is one. Nothing is checked but magic, format, and that a record may be that long.
pub fn open_start(start: &[u8]) -> Result<(Header, usize), BadFrame> {
    if start.len() < HEADER_BYTES {
        return Err(BadFrame::Length { expected: HEADER_BYTES, found: start.len() });
    }
    if start[..4] != MAGIC {
        return Err(BadFrame::Magic);
    }
    let format = u16::from_le_bytes(array(start, 4));
    if format > FORMAT {
        return Err(BadFrame::Newer { found: format });
    }
    let length = length_of(start)?;
    let header = Header {
        lane: LaneId(array(start, 8)),
        epoch: Epoch(u64::from_le_bytes(array(start, 24))),
        number: RecordNumber(u64::from_le_bytes(array(start, 32))),
        wall: Wall(u64::from_le_bytes(array(start, 40))),
        previous: array(start, 48),
        checkpoint: RecordNumber(u64::from_le_bytes(array(start, 64))),
        entries: u32::from_le_bytes(array(start, 72)),
    };
    Ok((header, length))
}

/// How long a record is by its first [`HEADER_BYTES`], whatever else they say.
pub fn length_of(start: &[u8]) -> Result<usize, BadFrame> {
    if start.len() < HEADER_BYTES {
        return Err(BadFrame::Length { expected: HEADER_BYTES, found: start.len() });
    }
    let length = HEADER_BYTES + u32::from_le_bytes(array(start, 76)) as usize + HASH_BYTES;
    if length > RECORD_BYTES_MAX {
        return Err(BadFrame::Length { expected: RECORD_BYTES_MAX, found: length });
    }
    Ok(length)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the length was checked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let header = Header {
            lane: LaneId([7; 16]),
            epoch: Epoch(3),
            number: RecordNumber(41),
            wall: Wall(1_700_000_000_000),
            previous: [9; 16],
            checkpoint: RecordNumber(12),
            entries: 2,
        };
        let record = seal(&header, b"some entries");
        assert_eq!(open(&record), Ok((header, Bytes::from_static(b"some entries"))));
        for bit in 0..record.len() * 8 {
            let mut flipped = record.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&Bytes::from(flipped)).is_err(), "bit {bit}");
        }
        for cut in 0..record.len() {
            assert!(open(&record.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
