//! Reading a whole record at once, for readers beside the core: the history, and checks.

use bytes::Bytes;

use super::codec::{BadEntry, Reader};
use super::entry::{Entry, Standing};
use super::frame::{BadFrame, Header, body_of, open, open_header};
use crate::ids::{Birth, Loc, ObjectId};

/// Why bytes are not a record that this program can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The frame is damaged, cut or of a newer format.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// The frame is whole, but an entry does not decode.
    #[error("record {number}: {bad}")]
    Entry {
        /// The record.
        number: u64,
        /// The entry.
        bad: BadEntry,
    },
    /// The body does not hold as many entries as the header says.
    #[error("record {number} holds {found} entries, its header says {expected}")]
    Count {
        /// The record.
        number: u64,
        /// What the header says.
        expected: u32,
        /// What was read before the body ended; one more if it goes on behind them.
        found: u32,
    },
}

/// Opens a record and reads all its entries with their places, in order. Payloads share the
/// record's memory.
pub fn entries(record: &Bytes) -> Result<(Header, Vec<(Loc, Entry)>), BadRecord> {
    let (header, body) = open(record)?;
    read(header, body)
}

/// The same for a record that was sealed by this process, or has passed [`open`]: its hash is not
/// computed again.
pub fn entries_of_sealed(record: &Bytes) -> Result<(Header, Vec<(Loc, Entry)>), BadRecord> {
    read(open_header(record)?, body_of(record))
}

fn read(header: Header, body: Bytes) -> Result<(Header, Vec<(Loc, Entry)>), BadRecord> {
    let number = header.number.0;
    let miscounted = |found| BadRecord::Count { number, expected: header.entries, found };
    // An entry has at least two bytes: a header that claims more reserves no memory for them.
    let room = (header.entries as usize).min(body.len() / 2);
    let mut reader = Reader::new(body);
    let mut entries = Vec::with_capacity(room);
    for position in 0..header.entries {
        if reader.is_done() {
            return Err(miscounted(position));
        }
        let loc = Loc { record: header.number, position };
        let here = Birth { lane: header.lane, epoch: header.epoch, loc };
        let entry = Entry::decode(&mut reader, here)
            .map_err(|bad| BadRecord::Entry { number: header.number.0, bad })?;
        entries.push((loc, entry));
    }
    if !reader.is_done() {
        return Err(miscounted(header.entries.saturating_add(1)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, LaneId, RecordNumber};
    use crate::record::{Writer, seal};
    use crate::time::Wall;

    #[test]
    fn a_miscounted_record_is_refused_both_ways() {
        let mut writer = Writer::default();
        let here = Birth::default();
        let written = [Entry::Generation(7), Entry::Verdict(LaneId([3; 16]))];
        written.iter().for_each(|entry| entry.encode(&mut writer, here));
        let record = |entries| {
            let header = Header {
                lane: LaneId([1; 16]),
                epoch: Epoch(2),
                number: RecordNumber(5),
                wall: Wall(9),
                previous: [0; 16],
                checkpoint: RecordNumber(0),
                entries,
            };
            seal(&header, writer.as_slice())
        };
        let (header, read) = entries(&record(2)).expect("well formed");
        assert_eq!(header.number, RecordNumber(5));
        assert_eq!(read[1].0, Loc { record: RecordNumber(5), position: 1 });
        assert_eq!(read.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), written);
        let found = |count| entries(&record(count)).map(|_| ()).expect_err("miscounted");
        assert_eq!(found(1), BadRecord::Count { number: 5, expected: 1, found: 2 });
        assert_eq!(found(3), BadRecord::Count { number: 5, expected: 3, found: 2 });
    }
}
