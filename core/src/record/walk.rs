//! Reading a whole record at once, for readers beside the core: the history, and checks.

use bytes::Bytes;

use super::codec::{BadEntry, Reader, Vocabulary};
use super::end::{glance_at_end, is_end};
use super::entry::{Entry, How, Standing};
use super::frame::{BadFrame, Header, body_of, open, open_header};
use super::object::{OBJECT, glance_at_object};
use crate::ids::{Birth, Loc, ObjectId};
use crate::names::TypeName;

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
    entries_with(record, &mut Vocabulary::default())
}

/// The same for a reader of many records.
pub fn entries_with(
    record: &Bytes,
    vocabulary: &mut Vocabulary,
) -> Result<(Header, Vec<(Loc, Entry)>), BadRecord> {
    let (header, body) = open(record)?;
    read(header, body, vocabulary)
}

/// The same for a record that was sealed by this process, or has passed [`open`]: its hash is not
/// computed again.
pub fn entries_of_sealed(record: &Bytes) -> Result<(Header, Vec<(Loc, Entry)>), BadRecord> {
    read(open_header(record)?, body_of(record), &mut Vocabulary::default())
}

/// What a follower of the log wants to know of an entry: by far the most objects are written once
/// and end once, and nothing of them is taken apart that only their lane needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glance {
    /// An object came to stand somewhere.
    Object {
        /// How.
        how: How,
        /// Its type.
        ty: TypeName,
    },
    /// Any other entry as it is, but for the marks of an end: those are left out.
    Other(Entry),
}

/// The same as [`entries_of_sealed`], at a glance. What was in `glances` goes; its memory is used
/// again. After an error it holds what was read before.
pub fn glance_at_sealed(
    record: &Bytes,
    vocabulary: &mut Vocabulary,
    glances: &mut Vec<(Loc, Glance)>,
) -> Result<Header, BadRecord> {
    let header = open_header(record)?;
    glances.clear();
    read_into(header, body_of(record), vocabulary, Glance::decode, glances)?;
    Ok(header)
}

impl Glance {
    fn decode(r: &mut Reader, here: Birth) -> Result<Self, BadEntry> {
        match r.kind()? {
            OBJECT => glance_at_object(r),
            kind if is_end(kind) => Ok(Self::Other(Entry::End(Box::new(glance_at_end(r, kind)?)))),
            kind => Entry::decode_kind(r, kind, here).map(Self::Other),
        }
    }
}

fn read(
    header: Header,
    body: Bytes,
    vocabulary: &mut Vocabulary,
) -> Result<(Header, Vec<(Loc, Entry)>), BadRecord> {
    // An entry has at least two bytes: a header that claims more reserves no memory for them.
    let room = (header.entries as usize).min(body.len() / 2);
    let mut entries = Vec::with_capacity(room);
    read_into(header, body, vocabulary, Entry::decode, &mut entries)?;
    Ok((header, entries))
}

fn read_into<T>(
    header: Header,
    body: Bytes,
    vocabulary: &mut Vocabulary,
    decode: fn(&mut Reader, Birth) -> Result<T, BadEntry>,
    entries: &mut Vec<(Loc, T)>,
) -> Result<(), BadRecord> {
    let mut reader = Reader::with_vocabulary(body, std::mem::take(vocabulary));
    let read = read_all(header, &mut reader, decode, entries);
    *vocabulary = reader.into_vocabulary();
    read
}

fn read_all<T>(
    header: Header,
    reader: &mut Reader,
    decode: fn(&mut Reader, Birth) -> Result<T, BadEntry>,
    entries: &mut Vec<(Loc, T)>,
) -> Result<(), BadRecord> {
    let number = header.number.0;
    let miscounted = |found| BadRecord::Count { number, expected: header.entries, found };
    for position in 0..header.entries {
        if reader.is_done() {
            return Err(miscounted(position));
        }
        let loc = Loc { record: header.number, position };
        let here = Birth { lane: header.lane, epoch: header.epoch, loc };
        let entry = decode(reader, here).map_err(|bad| BadRecord::Entry { number, bad })?;
        entries.push((loc, entry));
    }
    if !reader.is_done() {
        return Err(miscounted(header.entries.saturating_add(1)));
    }
    Ok(())
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
    use thin_vec::thin_vec;

    use super::*;
    use crate::Limits;
    use crate::decision::{Candidate, Decision, Refused, Step};
    use crate::ids::{Epoch, Incarnation, LaneId, RecordNumber};
    use crate::names::Name;
    use crate::object::{Chase, Entity, Generation, Headers, Object, SettleMark, Token};
    use crate::record::{End, Ending, HASH_BYTES, HEADER_BYTES, TransferId, Writer, seal};
    use crate::time::Wall;

    fn header(entries: u32) -> Header {
        Header {
            lane: LaneId([1; 16]),
            epoch: Epoch(2),
            number: RecordNumber(5),
            wall: Wall(9),
            previous: [0; 16],
            checkpoint: RecordNumber(0),
            entries,
        }
    }

    /// Every part that an object can have, and the other entries that have strings behind one.
    fn all_sorts() -> Vec<Entry> {
        let name = |text: &str| Name::new("name", text).expect("a good name");
        let ty = |text: &str| TypeName::from_type_url(text).expect("a good name");
        let lane = |n: u8| LaneId([n; 16]);
        let loc = |record, position| Loc { record: RecordNumber(record), position };
        let (epoch, incarnation) = (Epoch(2), Incarnation(9));
        let transfer =
            TransferId { sender: lane(1), receiver: lane(2), epoch, incarnation, n: 300 };
        let id = ObjectId([7; 16]);
        let token = Token { lane: lane(1), epoch, incarnation, n: 1 << 40, object: id };
        let marks = thin_vec![SettleMark { version: 200, token, content: [4; 16] }; 2];
        let generation = Generation { counter: 1 << 20, lane: lane(3), incarnation };
        let headers = Headers::pack([("key", "value")], &Limits::default());
        let birth = Birth { lane: lane(5), epoch, loc: loc(3, 4) };
        let full = Object {
            id,
            entity: Entity {
                ty: ty("acme.Full"),
                payload: Bytes::from_static(&[0; 300]),
                headers: headers.expect("few"),
            },
            version: 2,
            pushed_at: Wall(1 << 40),
            origin: name("origin"),
            birth,
            hash: [6; 16],
            not_before: Some(Wall(5)),
            expires_at: Some(Wall(1 << 41)),
            deliveries: 1,
            failed: 300,
            moves: 4,
            path: thin_vec![name("a"), name("origin")],
            handled: thin_vec![name("billing")],
            chase: Some(Box::new(Chase { generation, crossed: vec![lane(8), lane(9)] })),
            marks: marks.clone(),
            possible_duplicate: true,
        };
        let entity =
            Entity { ty: ty("acme.Bare"), payload: Bytes::new(), headers: Headers::default() };
        let bare = Object::new(id, entity, full.hash, full.pushed_at, full.origin.clone());
        let bare = Object { birth, possible_duplicate: true, ..bare };
        let object = |standing, object: &Object| Entry::Object {
            how: How::Received,
            was: Some(loc(2, 300)),
            place: (object.moves > 0).then_some(loc(1, 1)),
            standing,
            object: Box::new(object.clone()),
        };
        let end = End {
            id,
            was: Some(loc(2, 1)),
            carried_from: Some(loc(1, 1)),
            ending: Ending::Discarded("rotten".into()),
            ty: ty("acme.Full"),
            version: 3,
            hash: [1; 16],
            birth,
            marks,
            by: Some(name("billing")),
            at: Wall(77),
            moves: 1,
            size: 300,
            pushed_at: Wall(70),
        };
        let decision = Decision {
            at: Wall(78),
            step: Step::Offer,
            chosen: Some("billing".into()),
            generation: Some(generation),
            candidates: vec![Candidate { who: "a".into(), refused: Refused::NoCredit }],
        };
        let objects = vec![(id, 0), (ObjectId([1; 16]), 300), (ObjectId([9; 16]), 1)];
        // Ends like each other, with ids and places one after the other.
        let like = |n: u8| {
            let id = ObjectId([[7; 15].as_slice(), &[n]].concat().try_into().expect("sixteen"));
            let (at, was) = (Wall(80), Some(loc(4, u32::from(n))));
            let birth = Birth { loc: loc(3, u32::from(n)), ..birth };
            let mark = SettleMark {
                version: 4,
                token: Token { n: u64::from(n), object: id, ..token },
                content: [3; 16],
            };
            let marks = thin_vec![mark];
            Entry::End(Box::new(End { id, at, was, birth, marks, version: 4, ..end.clone() }))
        };
        let ends: Vec<_> = (0..5).map(like).collect();
        let mut all = vec![
            object(Standing::Flowing, &bare),
            object(Standing::Parked("parked".into()), &full),
            object(Standing::Held(transfer), &bare),
            object(Standing::Shadow(transfer), &full),
            object(Standing::HeldParked(transfer, "rotten".into()), &full),
            Entry::End(Box::new(end.clone())),
            Entry::End(Box::new(End { was: None, version: 4, ..end })),
            Entry::Moved { transfer, receiver: name("billing"), shadows: vec![loc(1, 2)] },
            Entry::Duplicate { transfer, id, ty: ty("acme.Bare") },
            Entry::Begun(vec![loc(9, 9)]),
            Entry::Decision { decision, objects },
        ];
        all.extend(ends);
        all
    }

    #[test]
    fn a_glance_sees_what_reading_sees() {
        let mut vocabulary = Vocabulary::default();
        let written = all_sorts();
        let mut writer = Writer::default();
        for entry in &written {
            entry.encode(&mut writer, Birth::default());
        }
        let header = header(u32::try_from(written.len()).expect("few"));
        let record = seal(&header, writer.as_slice());
        let (read, entries) = entries_of_sealed(&record).expect("well formed");
        assert!(entries.iter().map(|(_, entry)| entry).eq(&written));
        let expected = entries.into_iter().map(|(at, entry)| {
            let seen = match entry {
                Entry::Object { how, object, .. } => {
                    Glance::Object { how, ty: object.entity.ty.clone() }
                }
                Entry::End(end) => {
                    Glance::Other(Entry::End(Box::new(End { marks: thin_vec![], ..*end })))
                }
                other => Glance::Other(other),
            };
            (at, seen)
        });
        let mut glances = vec![(Loc::default(), Glance::Other(Entry::Generation(1)))];
        assert_eq!(glance_at_sealed(&record, &mut vocabulary, &mut glances), Ok(read));
        assert!(glances.iter().cloned().eq(expected));
        for cut in HEADER_BYTES..record.len() - HASH_BYTES {
            let cut = seal(&header, &record[HEADER_BYTES..cut]);
            assert!(
                glance_at_sealed(&cut, &mut vocabulary, &mut glances).is_err(),
                "it cannot be whole"
            );
        }
    }

    /// As the last dpc that wrote format 2 wrote it: where nothing but ends is told beside what stands before.
    #[test]
    fn a_record_of_format_2_reads_as_before() {
        let record = Bytes::from_static(include_bytes!("testdata/format_2.record"));
        let (read, entries) = entries(&record).expect("well formed");
        let written = all_sorts();
        assert_eq!(read, header(u32::try_from(written.len()).expect("few")));
        assert!(entries.iter().map(|(_, entry)| entry).eq(&written));
        let (mut vocabulary, mut glances) = (Vocabulary::default(), Vec::new());
        assert_eq!(glance_at_sealed(&record, &mut vocabulary, &mut glances), Ok(read));
        let is_end = |glance: &&(Loc, Glance)| matches!(glance.1, Glance::Other(Entry::End(_)));
        assert_eq!(glances.iter().filter(is_end).count(), 7);
    }

    #[test]
    fn a_miscounted_record_is_refused_both_ways() {
        let mut writer = Writer::default();
        let here = Birth::default();
        let written = [Entry::Generation(7), Entry::Verdict(LaneId([3; 16]))];
        written.iter().for_each(|entry| entry.encode(&mut writer, here));
        let record = |entries| seal(&header(entries), writer.as_slice());
        let (header, read) = entries(&record(2)).expect("well formed");
        assert_eq!(header.number, RecordNumber(5));
        assert_eq!(read[1].0, Loc { record: RecordNumber(5), position: 1 });
        assert_eq!(read.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), written);
        let found = |count| entries(&record(count)).map(|_| ()).expect_err("miscounted");
        assert_eq!(found(1), BadRecord::Count { number: 5, expected: 1, found: 2 });
        assert_eq!(found(3), BadRecord::Count { number: 5, expected: 3, found: 2 });
    }
}
