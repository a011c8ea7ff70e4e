//! An end's entry. Ends are kept for long (P9) and look alike: one finaliser, one type, one moment.
//! So only the first one of a record is written out; each further one says what differs from the
//! one before it. Of an end whose neighbours ended with it, little more is left than the hash of
//! what was pushed, and of its id what does not follow from that of the one before (ADR 0035).

use serde::{Deserialize, Serialize};
use thin_vec::{ThinVec, thin_vec};

use super::codec::{BadEntry, Reader, Writer};
use super::entry::{End, Ending, TransferId, decode_birth, encode_birth, name, type_name};
use super::object::{decode_marks, encode_marks, skip_marks};
use crate::ids::{Birth, Loc, ObjectId};
use crate::names::{Name, TypeName};
use crate::object::{Hash16, Object, SettleMark, Token};
use crate::time::Wall;

/// The kind of an end that is written out.
const END: u8 = 1;

/// The kind of an end that says what differs from the one before it in its record.
const END_AFTER: u8 = 19;

/// The kind of an end that differs from the one before it in the same things as that one did.
const END_LIKE: u8 = 20;

/// The same, and its id is one further than the last one of its record.
const END_NEXT: u8 = 21;

/// What [`END_AFTER`] was in format 2, with an id by the bytes that it shares with the one before.
const END_SHARING: u8 = 16;

type Marks = ThinVec<SettleMark>;

/// An end as it is written: what it shares with the object is borrowed from there. A name that is cloned
/// and let go of waits for all memory that was written before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndRef<'a> {
    id: ObjectId,
    was: Option<Loc>,
    carried_from: Option<Loc>,
    ending: &'a Ending,
    ty: &'a TypeName,
    version: u32,
    hash: Hash16,
    birth: Birth,
    marks: &'a [SettleMark],
    by: Option<&'a Name>,
    at: Wall,
    moves: u32,
    size: u32,
    pushed_at: Wall,
}

impl<'a> EndRef<'a> {
    /// What is kept of an object whose entry stands at `was`.
    pub(crate) fn of(
        object: &'a Object,
        was: Loc,
        ending: &'a Ending,
        by: Option<&'a Name>,
        at: Wall,
    ) -> Self {
        Self {
            id: object.id,
            was: Some(was),
            carried_from: None,
            ending,
            ty: &object.entity.ty,
            version: object.version,
            hash: object.hash,
            birth: object.birth,
            marks: &object.marks,
            by,
            at,
            moves: object.moves,
            size: u32::try_from(object.entity.payload.len()).unwrap_or(u32::MAX),
            pushed_at: object.pushed_at,
        }
    }
}

impl<'a> From<&'a End> for EndRef<'a> {
    fn from(end: &'a End) -> Self {
        let End { ending, ty, marks, by, .. } = end;
        Self {
            id: end.id,
            was: end.was,
            carried_from: end.carried_from,
            ending,
            ty,
            version: end.version,
            hash: end.hash,
            birth: end.birth,
            marks,
            by: by.as_ref(),
            at: end.at,
            moves: end.moves,
            size: end.size,
            pushed_at: end.pushed_at,
        }
    }
}

/// The last end of a record: what the next one is compared with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Before {
    /// The end, without its marks.
    end: End,
    /// Its mark, if it has one and no more.
    mark: Option<SettleMark>,
    /// In what it differed from the end before it.
    flags: u16,
}

// How a place is told, in two bits each.
const WAS: u16 = 0;
const CARRIED_FROM: u16 = 2;
const BIRTH: u16 = 4;
/// There is none. A birth has one: it is where the object stood.
const NO_PLACE: u16 = 0;
/// The place behind that of the end before.
const NEXT_PLACE: u16 = 1;
/// Another one in the record of that of the end before.
const SAME_RECORD: u16 = 2;
const ELSEWHERE: u16 = 3;

// How the marks are told, in two bits.
const MARKS: u16 = 6;
const NO_MARKS: u16 = 0;
/// One like that of the end before, with the next lease.
const NEXT_LEASE: u16 = 1;
/// One like that, with another lease.
const OTHER_LEASE: u16 = 2;
const WRITTEN_OUT: u16 = 3;

// What is as it was with the end before.
const SAME_ENDING: u16 = 1 << 8;
const SAME_TYPE: u16 = 1 << 9;
const SAME_BY: u16 = 1 << 10;
const SAME_COUNTS: u16 = 1 << 11;
const SAME_LANE: u16 = 1 << 12;
const SAME_AT: u16 = 1 << 13;
const SAME_PUSHED_AT: u16 = 1 << 14;
const FLAGS: u16 = (1 << 15) - 1;

/// Whether this is the kind of an end.
pub(super) fn is_end(kind: u8) -> bool {
    matches!(kind, END | END_AFTER | END_LIKE | END_NEXT | END_SHARING)
}

/// Writes the entry of an end.
pub(crate) fn write_end<'a>(w: &mut Writer, end: impl Into<EndRef<'a>>) {
    let end = &end.into();
    match w.end.take() {
        None => {
            w.byte(END);
            write_out(w, end);
            w.end = Some(Box::new(Before::of(end)));
        }
        Some(mut before) => {
            let flags = write_after(w, &before, end);
            before.set(end, flags);
            w.end = Some(before);
        }
    }
}

/// Reads an end of this kind.
pub(super) fn decode_end(r: &mut Reader, kind: u8) -> Result<End, BadEntry> {
    read_end(r, kind, read_marks)
}

/// Reads what an end says, but for its marks: only the lane itself needs those.
pub(super) fn glance_at_end(r: &mut Reader, kind: u8) -> Result<End, BadEntry> {
    read_end(r, kind, |r, how, _, _| {
        match how {
            WRITTEN_OUT => skip_marks(r)?,
            OTHER_LEASE => drop(r.int()?),
            _ => {}
        }
        Ok(ThinVec::new())
    })
}

/// Reads an end. Its marks are read by `marks`: told in which way, of which id, after which mark.
fn read_end(
    r: &mut Reader,
    kind: u8,
    marks: impl FnOnce(&mut Reader, u16, ObjectId, Option<SettleMark>) -> Result<Marks, BadEntry>,
) -> Result<End, BadEntry> {
    if kind == END {
        let end = read_out(r, |r, id| marks(r, WRITTEN_OUT, id, None))?;
        r.end = Some(Box::new(Before::of(&EndRef::from(&end))));
        return Ok(end);
    }
    let mut before = r.end.take().ok_or_else(|| r.bad("an end before this one"))?;
    let mark = before.mark.take();
    let flags = match kind {
        END_LIKE | END_NEXT => before.flags,
        _ => u16::from_le_bytes(r.fixed()?),
    };
    if flags & !FLAGS != 0 {
        return Err(r.bad("flags of an end"));
    }
    let id = match kind {
        END_NEXT => r.next_id(),
        END_SHARING => read_id(r, before.end.id)?,
        _ => r.id()?,
    };
    let end = read_after(r, &before.end, (id, flags), |r, how| marks(r, how, id, mark))?;
    before.set(&EndRef::from(&end), flags);
    r.end = Some(before);
    Ok(end)
}

impl Before {
    fn of(end: &EndRef<'_>) -> Self {
        let whole = End {
            id: end.id,
            was: end.was,
            carried_from: end.carried_from,
            ending: end.ending.clone(),
            ty: end.ty.clone(),
            version: end.version,
            hash: end.hash,
            birth: end.birth,
            marks: ThinVec::new(),
            by: end.by.cloned(),
            at: end.at,
            moves: end.moves,
            size: end.size,
            pushed_at: end.pushed_at,
        };
        Self { end: whole, mark: only(end.marks).cloned(), flags: 0 }
    }

    /// Takes the next end in place of this one. Names are shared, and the flags say which are the same
    /// already.
    fn set(&mut self, end: &EndRef<'_>, flags: u16) {
        self.flags = flags;
        let before = &mut self.end;
        (before.id, before.was, before.carried_from) = (end.id, end.was, end.carried_from);
        (before.version, before.moves, before.size) = (end.version, end.moves, end.size);
        (before.hash, before.birth) = (end.hash, end.birth);
        (before.at, before.pushed_at) = (end.at, end.pushed_at);
        if flags & SAME_ENDING == 0 {
            before.ending.clone_from(end.ending);
        }
        if flags & SAME_TYPE == 0 {
            before.ty.clone_from(end.ty);
        }
        if flags & SAME_BY == 0 {
            before.by = end.by.cloned();
        }
        self.mark = only(end.marks).cloned();
    }
}

fn only(marks: &[SettleMark]) -> Option<&SettleMark> {
    if let [mark] = marks { Some(mark) } else { None }
}

fn write_out(w: &mut Writer, end: &EndRef<'_>) {
    w.first_id(end.id);
    let flags = [end.was.is_some(), end.by.is_some(), end.carried_from.is_some()];
    w.byte(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
    for at in end.was.iter().chain(&end.carried_from) {
        w.loc(*at);
    }
    write_ending(w, end.ending);
    w.string(end.ty.as_str());
    w.int(u64::from(end.version));
    w.fixed(&end.hash);
    encode_birth(w, &end.birth);
    encode_marks(w, end.marks);
    if let Some(by) = end.by {
        w.string(by.as_str());
    }
    w.int(end.at.0);
    w.int(u64::from(end.moves));
    w.int(u64::from(end.size));
    w.int(end.pushed_at.0);
}

fn read_out(
    r: &mut Reader,
    marks: impl FnOnce(&mut Reader, ObjectId) -> Result<Marks, BadEntry>,
) -> Result<End, BadEntry> {
    let id = r.first_id()?;
    let flags = r.byte()?;
    Ok(End {
        id,
        was: if flags & 1 != 0 { Some(r.loc()?) } else { None },
        carried_from: if flags & 4 != 0 { Some(r.loc()?) } else { None },
        ending: read_ending(r)?,
        ty: type_name(r)?,
        version: r.u32()?,
        hash: r.fixed()?,
        birth: decode_birth(r)?,
        marks: marks(r, id)?,
        by: if flags & 2 != 0 { Some(name(r)?) } else { None },
        at: Wall(r.int()?),
        moves: r.u32()?,
        size: r.u32()?,
        pushed_at: Wall(r.int()?),
    })
}

fn write_ending(w: &mut Writer, ending: &Ending) {
    match ending {
        Ending::Final => w.byte(0),
        Ending::Discarded(reason) => {
            w.byte(1);
            w.string(reason);
        }
        Ending::Moved(transfer) => {
            w.byte(2);
            transfer.encode(w);
        }
        Ending::Duplicate => w.byte(3),
    }
}

fn read_ending(r: &mut Reader) -> Result<Ending, BadEntry> {
    Ok(match r.byte()? {
        0 => Ending::Final,
        1 => Ending::Discarded(r.string()?),
        2 => Ending::Moved(TransferId::decode(r)?),
        3 => Ending::Duplicate,
        _ => return Err(r.bad("an ending")),
    })
}

/// Writes an end beside the one before it: two bytes of flags, if they are not those of that one, then what
/// they leave open. Says what the flags are.
fn write_after(w: &mut Writer, before: &Before, end: &EndRef<'_>) -> u16 {
    let Before { end: before, mark, flags: flags_before } = before;
    let (was, from) =
        (place_after(before.was, end.was), place_after(before.carried_from, end.carried_from));
    let birth = match end.birth.loc {
        loc if Some(loc) == end.was => NO_PLACE,
        loc => place_after(Some(before.birth.loc), Some(loc)),
    };
    let marks = marks_after(mark.as_ref(), end);
    let counts = (end.version, end.moves, end.size);
    let flag = |same: bool, bit: u16| if same { bit } else { 0 };
    let same_lane = (before.birth.lane, before.birth.epoch) == (end.birth.lane, end.birth.epoch);
    let flags = was << WAS
        | from << CARRIED_FROM
        | birth << BIRTH
        | marks << MARKS
        | flag(before.ending == *end.ending, SAME_ENDING)
        | flag(before.ty == *end.ty, SAME_TYPE)
        | flag(before.by.as_ref() == end.by, SAME_BY)
        | flag((before.version, before.moves, before.size) == counts, SAME_COUNTS)
        | flag(same_lane, SAME_LANE)
        | flag(before.at == end.at, SAME_AT)
        | flag(before.pushed_at == end.pushed_at, SAME_PUSHED_AT);
    if flags != *flags_before {
        w.byte(END_AFTER);
        w.fixed(&flags.to_le_bytes());
        w.id(end.id);
    } else if w.goes_to_next(end.id) {
        w.byte(END_NEXT);
    } else {
        w.byte(END_LIKE);
        w.id(end.id);
    }
    w.fixed(&end.hash);
    write_place(w, was, end.was);
    write_place(w, from, end.carried_from);
    if flags & SAME_LANE == 0 {
        w.fixed(&end.birth.lane.0);
        w.int(end.birth.epoch.0);
    }
    write_place(w, birth, Some(end.birth.loc));
    match (marks, mark, end.marks) {
        (OTHER_LEASE, Some(before), [mark]) => w.change(before.token.n, mark.token.n),
        (WRITTEN_OUT, _, marks) => encode_marks(w, marks),
        _ => {}
    }
    if flags & SAME_ENDING == 0 {
        write_ending(w, end.ending);
    }
    if flags & SAME_TYPE == 0 {
        w.string(end.ty.as_str());
    }
    if flags & SAME_BY == 0 {
        w.byte(u8::from(end.by.is_some()));
        end.by.iter().for_each(|by| w.string(by.as_str()));
    }
    if flags & SAME_COUNTS == 0 {
        [end.version, end.moves, end.size].iter().for_each(|n| w.int(u64::from(*n)));
    }
    if flags & SAME_AT == 0 {
        w.change(before.at.0, end.at.0);
    }
    if flags & SAME_PUSHED_AT == 0 {
        w.change(before.pushed_at.0, end.pushed_at.0);
    }
    flags
}

fn read_after(
    r: &mut Reader,
    before: &End,
    (id, flags): (ObjectId, u16),
    marks: impl FnOnce(&mut Reader, u16) -> Result<Marks, BadEntry>,
) -> Result<End, BadEntry> {
    let (same, two) = (|bit: u16| flags & bit != 0, |shift: u16| flags >> shift & 3);
    let hash = r.fixed()?;
    let was = read_place(r, two(WAS), before.was)?;
    let carried_from = read_place(r, two(CARRIED_FROM), before.carried_from)?;
    let Birth { mut lane, mut epoch, .. } = before.birth;
    if !same(SAME_LANE) {
        lane.0 = r.fixed()?;
        epoch.0 = r.int()?;
    }
    let born = read_place(r, two(BIRTH), Some(before.birth.loc))?.or(was);
    let loc = born.ok_or_else(|| r.bad("the place of a birth"))?;
    let marks = marks(r, two(MARKS))?;
    let ending = if same(SAME_ENDING) { before.ending.clone() } else { read_ending(r)? };
    let ty = if same(SAME_TYPE) { before.ty.clone() } else { type_name(r)? };
    let by = match same(SAME_BY) {
        true => before.by.clone(),
        false if r.byte()? == 1 => Some(name(r)?),
        false => None,
    };
    let (version, moves, size) = match same(SAME_COUNTS) {
        true => (before.version, before.moves, before.size),
        false => (r.u32()?, r.u32()?, r.u32()?),
    };
    let at = if same(SAME_AT) { before.at } else { Wall(r.change(before.at.0)?) };
    let pushed_at = match same(SAME_PUSHED_AT) {
        true => before.pushed_at,
        false => Wall(r.change(before.pushed_at.0)?),
    };
    let birth = Birth { lane, epoch, loc };
    Ok(End {
        id,
        was,
        carried_from,
        ending,
        ty,
        version,
        hash,
        birth,
        marks,
        by,
        at,
        moves,
        size,
        pushed_at,
    })
}

/// How the marks of an end are told beside the mark of the one before.
fn marks_after(before: Option<&SettleMark>, end: &EndRef<'_>) -> u16 {
    let (before, mark) = match (before, end.marks) {
        (_, []) => return NO_MARKS,
        (Some(before), [mark]) => (before, mark),
        _ => return WRITTEN_OUT,
    };
    let token = Token { n: mark.token.n, object: end.id, ..before.token };
    let SettleMark { version, token: used, content } = mark;
    if (*version, *used, *content) != (before.version, token, before.content) {
        return WRITTEN_OUT;
    }
    if before.token.n.checked_add(1) == Some(mark.token.n) { NEXT_LEASE } else { OTHER_LEASE }
}

fn read_marks(
    r: &mut Reader,
    how: u16,
    id: ObjectId,
    before: Option<SettleMark>,
) -> Result<Marks, BadEntry> {
    match how {
        NO_MARKS => return Ok(ThinVec::new()),
        WRITTEN_OUT => return decode_marks(r),
        _ => {}
    }
    let mut mark = before.ok_or_else(|| r.bad("a mark before this one"))?;
    let n = mark.token.n;
    mark.token.n = match how {
        NEXT_LEASE => n.checked_add(1).ok_or_else(|| r.bad("a lease's number"))?,
        _ => r.change(n)?,
    };
    mark.token.object = id;
    Ok(thin_vec![mark])
}

fn place_after(before: Option<Loc>, at: Option<Loc>) -> u16 {
    match (before, at) {
        (_, None) => NO_PLACE,
        (Some(before), Some(at)) if before.record == at.record => {
            if before.next_in_record() == Some(at) { NEXT_PLACE } else { SAME_RECORD }
        }
        _ => ELSEWHERE,
    }
}

fn write_place(w: &mut Writer, how: u16, at: Option<Loc>) {
    match (how, at) {
        (SAME_RECORD, Some(at)) => w.int(u64::from(at.position)),
        (ELSEWHERE, Some(at)) => w.loc(at),
        _ => {}
    }
}

fn read_place(r: &mut Reader, how: u16, before: Option<Loc>) -> Result<Option<Loc>, BadEntry> {
    match how {
        NO_PLACE => return Ok(None),
        ELSEWHERE => return r.loc().map(Some),
        _ => {}
    }
    let before = before.ok_or_else(|| r.bad("a place before this one"))?;
    match how {
        NEXT_PLACE => before.next_in_record().ok_or_else(|| r.bad("a place")).map(Some),
        _ => Ok(Some(Loc { position: r.u32()?, ..before })),
    }
}

/// An id as format 2 tells it: how many bytes it shares with the one before, and the rest.
fn read_id(r: &mut Reader, before: ObjectId) -> Result<ObjectId, BadEntry> {
    let shared = usize::from(r.byte()?);
    let mut id = before;
    let rest = id.0.get_mut(shared..).ok_or_else(|| r.bad("the bytes of an id"))?;
    r.fill(rest)?;
    Ok(id)
}

#[cfg(test)]
mod tests;
