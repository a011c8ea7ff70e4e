//! What clients carry is not recorded: payloads and headers are replaced by their lengths, and come
//! back as zeros. Limits, windows and records count bytes, so lengths stay what they were.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::record::{BadRecord, Entry, HASH_BYTES, HEADER_BYTES, entries, open_header, seal};

/// For `#[serde(with = …)]` of a payload.
pub(crate) mod payload {
    use serde::{Deserializer, Serializer};

    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        (bytes.len() as u64).serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Bytes, D::Error> {
        u64::deserialize(from).and_then(zeros)
    }
}

/// For `#[serde(with = …)]` of packed headers: the texts' lengths stay.
pub(crate) mod headers {
    use serde::{Deserializer, Serializer};

    use super::*;

    pub(crate) fn serialize<S: Serializer>(packed: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        let mut lengths = Vec::new();
        let mut rest = &packed[..];
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            lengths.push(length);
            rest = &tail[length as usize..];
        }
        lengths.serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Bytes, D::Error> {
        let mut packed = BytesMut::new();
        for length in Vec::<u32>::deserialize(from)? {
            packed.put_u32_le(length);
            packed.put_bytes(0, zeros::<D::Error>(u64::from(length))?.len());
        }
        Ok(packed.freeze())
    }
}

/// The bytes between these ranges, which lie in order and within.
pub(crate) fn without<'a>(bytes: &'a [u8], ranges: &[(u32, u32)]) -> Vec<&'a [u8]> {
    let mut at = 0;
    let mut kept = Vec::with_capacity(ranges.len() + 1);
    for (start, length) in ranges {
        kept.push(&bytes[at..*start as usize]);
        at = (start + length) as usize;
    }
    kept.push(&bytes[at..]);
    kept
}

/// The inverse of [`without`], with zeros in the ranges. `None` if they do not fit.
pub(crate) fn with_zeros(kept: &[u8], ranges: &[(u32, u32)]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(kept.len());
    let mut rest = kept;
    for (start, length) in ranges {
        let (before, behind) =
            rest.split_at_checked((*start as usize).checked_sub(bytes.len())?)?;
        bytes.extend_from_slice(before);
        let end = bytes.len() + *length as usize;
        if end > ELIDED_BYTES_MAX {
            return None;
        }
        bytes.resize(end, 0);
        rest = behind;
    }
    bytes.extend_from_slice(rest);
    Some(bytes)
}

/// No payload, header or open record is longer, so a longer one is damage and reserves no memory.
const ELIDED_BYTES_MAX: usize = 64 << 20;

fn zeros<E: serde::de::Error>(length: u64) -> Result<Bytes, E> {
    /// What most payloads share.
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    match usize::try_from(length) {
        Ok(length) if length <= ZEROS.len() => Ok(Bytes::from_static(&ZEROS[..length])),
        Ok(length) if length <= ELIDED_BYTES_MAX => Ok(Bytes::from(vec![0; length])),
        _ => Err(E::custom("an elided length is out of all bounds")),
    }
}

/// A record that was read, without what clients carry.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ElidedRecord {
    /// Its bytes up to its hash.
    kept: Bytes,
    carried: Vec<(u32, u32)>,
}

impl ElidedRecord {
    /// Leaves out payloads and headers' texts.
    pub(crate) fn of(record: &Bytes) -> Result<Self, BadRecord> {
        let (_, entries) = entries(record)?;
        let mut carried = Vec::new();
        let mut leave_out = |bytes: &[u8]| {
            if !bytes.is_empty() {
                let int = |n| u32::try_from(n).expect("records are bounded");
                // What an entry carries shares the record's memory.
                let start = bytes.as_ptr() as usize - record.as_ptr() as usize;
                carried.push((int(start), int(bytes.len())));
            }
        };
        for (_, entry) in &entries {
            if let Entry::Object { object, .. } = entry {
                // In the order in which an entry holds them.
                leave_out(&object.entity.payload);
                object.entity.headers.iter().for_each(|(key, value)| {
                    leave_out(key.as_bytes());
                    leave_out(value.as_bytes());
                });
            }
        }
        let kept = without(&record[..record.len() - HASH_BYTES], &carried).concat().into();
        Ok(Self { kept, carried })
    }

    /// A whole record of the same shape. `None` if it is not one.
    pub(crate) fn restore(&self) -> Option<Bytes> {
        let mut bytes = with_zeros(&self.kept, &self.carried)?;
        let body = bytes.len();
        bytes.resize(body + HASH_BYTES, 0);
        let header = open_header(&bytes).ok()?;
        Some(seal(&header, &bytes[HEADER_BYTES..body]))
    }
}
