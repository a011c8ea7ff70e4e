use bytes::Bytes;

use super::*;
use crate::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use crate::names::{Name, TypeName};
use crate::record::{Entry, Glance, HASH_BYTES, HEADER_BYTES, Header, entries_of_sealed};
use crate::record::{Vocabulary, glance_at_sealed, seal};

fn loc(record: u64, position: u32) -> Loc {
    Loc { record: RecordNumber(record), position }
}

/// An end like most: pushed here, settled by the next lease of one session.
fn usual(n: u32) -> End {
    let mut id = [0x0a; 16];
    id[12..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    let (object, lane, incarnation) = (ObjectId(id), LaneId([3; 16]), Incarnation(77));
    let token = Token { lane, epoch: Epoch(2), incarnation, n: 1_000 + u64::from(n), object };
    End {
        id: object,
        was: Some(loc(400, n)),
        carried_from: None,
        ending: Ending::Final,
        ty: TypeName::from_type_url("acme.orders.Order").expect("a good name"),
        version: 1,
        hash: *blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk().expect("long enough"),
        birth: Birth { lane, epoch: Epoch(2), loc: loc(400, n) },
        marks: thin_vec![SettleMark { version: 1, token, content: [9; 16] }],
        by: Some(Name::new("name", "billing").expect("a good name")),
        at: Wall(1_700_000_000_500),
        moves: 0,
        size: 200,
        pushed_at: Wall(1_700_000_000_000 + u64::from(n / 7)),
    }
}

/// What makes an end odd in one way.
type Change<'a> = &'a dyn Fn(&mut End);

/// The same with the parts changed that the bits of `odd` name.
fn unusual(n: u32, odd: u32) -> End {
    let mut end = usual(n);
    let is = |bit: u32| odd >> bit & 1 == 1;
    let transfer = TransferId {
        sender: LaneId([1; 16]),
        receiver: LaneId([2; 16]),
        epoch: Epoch(1),
        incarnation: Incarnation(5),
        n: u64::from(n),
    };
    let mark = end.marks[0].clone();
    let changes: [(bool, Change<'_>); 16] = [
        (is(0), &|end| end.was = None),
        (is(1), &|end| end.carried_from = Some(loc(9, n))),
        (is(2), &|end| end.ending = Ending::Discarded("rotten".into())),
        (is(3), &|end| end.ending = Ending::Moved(transfer)),
        (is(4), &|end| end.ty = TypeName::from_type_url("acme.Other").expect("a good name")),
        (is(5), &|end| (end.version, end.moves, end.size) = (300, 4, u32::MAX)),
        (is(6), &|end| end.birth = Birth { lane: LaneId([8; 16]), ..end.birth }),
        (is(7), &|end| end.birth.loc = loc(399, u32::MAX)),
        (is(8), &|end| end.marks.clear()),
        (is(9), &|end| end.marks.push(mark.clone())),
        (is(10), &|end| end.marks.iter_mut().for_each(|m| m.token.n = u64::MAX)),
        (is(11), &|end| end.marks.iter_mut().for_each(|m| m.token.object = ObjectId([1; 16]))),
        (is(12), &|end| end.by = None),
        (is(13), &|end| end.at = Wall(u64::from(n))),
        (is(14), &|end| end.pushed_at = Wall(u64::MAX)),
        (is(15), &|end| end.id = ObjectId([0xff; 16])),
    ];
    changes.iter().filter(|(is, _)| *is).for_each(|(_, change)| change(&mut end));
    end
}

fn sealed(ends: &[End], writer: &Writer) -> Bytes {
    let header = Header {
        lane: LaneId([3; 16]),
        epoch: Epoch(2),
        number: RecordNumber(500),
        wall: Wall(9),
        previous: [0; 16],
        checkpoint: RecordNumber(0),
        entries: u32::try_from(ends.len()).expect("few"),
    };
    seal(&header, writer.as_slice())
}

/// Ends of which each differs from its neighbour in other parts, by a fixed sequence.
fn mixed() -> Vec<End> {
    let mut odd = 1u32;
    let next = |n| {
        odd ^= odd << 13;
        odd ^= odd >> 17;
        odd ^= odd << 5;
        // Mostly a few parts, sometimes none.
        unusual(n, odd & odd >> 16 & 0xffff)
    };
    (0..2_000).map(next).collect()
}

#[test]
fn ends_are_read_as_they_were_written() {
    let ends = mixed();
    let mut writer = Writer::default();
    ends.iter().for_each(|end| write_end(&mut writer, end));
    let record = sealed(&ends, &writer);
    let (_, read) = entries_of_sealed(&record).expect("well formed");
    for ((at, entry), end) in read.iter().zip(&ends) {
        assert_eq!(entry, &Entry::End(Box::new(end.clone())), "{at}");
    }
    let mut glances = Vec::new();
    glance_at_sealed(&record, &mut Vocabulary::default(), &mut glances).expect("well formed");
    for ((at, glance), end) in glances.iter().zip(&ends) {
        let end = End { marks: ThinVec::new(), ..end.clone() };
        assert_eq!(glance, &Glance::Other(Entry::End(Box::new(end))), "{at}");
    }
    assert_eq!((read.len(), glances.len()), (ends.len(), ends.len()));
}

#[test]
fn a_cut_end_is_an_error_and_no_panic() {
    let ends: Vec<End> = (0..16).flat_map(|bit| [usual(bit), unusual(bit, 1 << bit)]).collect();
    let mut writer = Writer::default();
    ends.iter().for_each(|end| write_end(&mut writer, end));
    let body = writer.as_slice();
    for cut in 0..body.len() {
        let mut half = Writer::default();
        half.fixed(&body[..cut]);
        assert!(entries_of_sealed(&sealed(&ends, &half)).is_err(), "cut at {cut}");
    }
    // The first one compares itself with nothing.
    let alone = [&[END_AFTER, 0, 0, 0][..], &[END_LIKE, 0], &[END_NEXT], &[END_SHARING, 0, 0, 16]];
    for bytes in alone {
        let alone = Bytes::from_static(bytes);
        let read = Entry::decode(&mut Reader::new(alone), Birth::default());
        assert_eq!(read.expect_err("it stands alone").what, "an end before this one");
    }
}

#[test]
fn an_end_among_its_like_takes_little_more_than_its_hash() {
    let bytes = |ends: &mut dyn Iterator<Item = End>| {
        let mut writer = Writer::default();
        let count = ends.inspect(|end| write_end(&mut writer, end)).count();
        writer.len() / count
    };
    // Kind 1, the id's own bytes 5, hash 16, and the flags when they are others.
    assert_eq!(bytes(&mut (0..10_000).map(usual)), 23);
    let carried = |n| End { was: None, carried_from: Some(loc(600, n)), ..usual(n) };
    assert_eq!(bytes(&mut (0..10_000).map(carried)), 23);
    let counted = |n: u32| {
        let mut end = carried(n);
        end.id.0[12..].copy_from_slice(&n.to_be_bytes());
        end.marks[0].token.object = end.id;
        End { pushed_at: Wall(1), ..end }
    };
    // Kind 1, hash 16.
    assert_eq!(bytes(&mut (0..10_000).map(counted)), 17);
}

#[test]
fn a_writer_that_was_kept_goes_on_as_it_would_have() {
    let (mut straight, mut kept) = (Writer::default(), Writer::default());
    for end in mixed().iter().take(100) {
        write_end(&mut straight, end);
        let bytes = postcard::to_stdvec(&kept).expect("in memory");
        kept = postcard::from_bytes(&bytes).expect("as it was written");
        write_end(&mut kept, end);
        assert_eq!(kept.as_slice(), straight.as_slice());
    }
    assert!(sealed(&[], &kept).len() > HEADER_BYTES + HASH_BYTES);
}
