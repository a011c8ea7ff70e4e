//! Records: one commit of a lane each.

mod codec;
mod entry;
mod frame;

pub use codec::{BadEntry, Reader, Writer};
pub use entry::{End, Ending, Entry, How, PeerSeen, Standing, TransferId};
pub(crate) use entry::{decode_locs, encode_locs, name, type_name, write_object};
pub use frame::{BadFrame, FORMAT, HASH_BYTES, HEADER_BYTES, Header, hash_of, open, seal};

use bytes::Bytes;

use crate::ids::{Birth, Loc, ObjectId};

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Its frame is damaged.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// An entry does not decode.
    #[error(transparent)]
    Entry(#[from] BadEntry),
    /// It holds fewer or more entries than its header says.
    #[error("{found} entries, the header says {expected}")]
    Count {
        /// What the header says.
        expected: u32,
        /// What there is.
        found: u32,
    },
}

/// Checks a record and reads all its entries with their places. Payloads share its memory.
pub fn entries(record: &Bytes) -> Result<(Header, Vec<(Loc, Entry)>), BadRecord> {
    let (header, body) = open(record)?;
    let mut reader = Reader::new(body);
    let mut entries = Vec::with_capacity(header.entries.min(65_536) as usize);
    let mut position = 0;
    while !reader.is_done() {
        let loc = Loc { record: header.number, position };
        let here = Birth { lane: header.lane, epoch: header.epoch, loc };
        entries.push((loc, Entry::decode(&mut reader, here)?));
        position += 1;
    }
    if position != header.entries {
        return Err(BadRecord::Count { expected: header.entries, found: position });
    }
    Ok((header, entries))
}

/// The ids that a record says something of, each with the place: what the id index holds.
pub fn mentions(entries: &[(Loc, Entry)]) -> impl Iterator<Item = (ObjectId, Loc)> + '_ {
    entries.iter().filter_map(|(at, entry)| match entry {
        Entry::Object { standing: Standing::Shadow(_), .. } => None,
        Entry::Object { object, .. } => Some((object.id, *at)),
        Entry::End(end) => Some((end.id, *at)),
        _ => None,
    })
}
