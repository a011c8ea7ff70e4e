//! An object's entry: by far the most frequent, and laid out so that a fresh push costs least.

use thin_vec::ThinVec;

use super::codec::{BadEntry, Reader, Writer};
use super::entry::{
    Entry, How, Standing, decode_chase, decode_names, encode_generation, encode_names, name,
    type_name,
};
use super::walk::Glance;
use crate::ids::{Birth, LaneId, Loc, ObjectId};
use crate::object::{Entity, Hash16, Headers, Object, SettleMark, Token};
use crate::time::Wall;

/// The kind of an object's entry.
pub(super) const OBJECT: u8 = 17;

/// The kind that it had until format 2: nothing in it is told beside what stands before it.
pub(super) const OBJECT_ALONE: u8 = 0;

const HAS_PLACE: u64 = 1;
const HAS_WAS: u64 = 1 << 1;
const HAS_HEADERS: u64 = 1 << 2;
const HAS_TIMES: u64 = 1 << 3;
const HAS_COUNTS: u64 = 1 << 4;
const HAS_PATH: u64 = 1 << 5;
const HAS_HANDLED: u64 = 1 << 6;
const HAS_CHASE: u64 = 1 << 7;
const HAS_MARKS: u64 = 1 << 8;
const HAS_BIRTH: u64 = 1 << 9;
const IS_DUPLICATE: u64 = 1 << 10;

/// Writes an object's entry from its parts: the hot path takes nothing apart.
pub(crate) fn write_object(
    w: &mut Writer,
    how: How,
    was: Option<Loc>,
    place: Option<Loc>,
    standing: &Standing,
    object: &Object,
    here: Birth,
) {
    w.byte(OBJECT);
    let times = object.has_times();
    let counts = object.version != 1 || object.deliveries + object.failed + object.moves != 0;
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    let flags = flag(place.is_some(), HAS_PLACE)
        | flag(was.is_some(), HAS_WAS)
        | flag(!object.entity.headers.as_packed().is_empty(), HAS_HEADERS)
        | flag(times, HAS_TIMES)
        | flag(counts, HAS_COUNTS)
        | flag(!object.path.is_empty(), HAS_PATH)
        | flag(!object.handled.is_empty(), HAS_HANDLED)
        | flag(object.chase.is_some(), HAS_CHASE)
        | flag(!object.marks.is_empty(), HAS_MARKS)
        | flag(object.birth != here, HAS_BIRTH)
        | flag(object.possible_duplicate, IS_DUPLICATE);
    w.byte(how.code());
    w.int(flags);
    if let Some(was) = was {
        w.loc(was);
    }
    if let Some(place) = place {
        w.loc(place);
    }
    match standing {
        Standing::Flowing => w.byte(0),
        Standing::Parked(reason) => {
            w.byte(1);
            w.string(reason);
        }
        Standing::Held(transfer) => {
            w.byte(2);
            w.transfer(transfer);
        }
        Standing::Shadow(transfer) => {
            w.byte(3);
            w.transfer(transfer);
        }
        Standing::HeldParked(transfer, reason) => {
            w.byte(4);
            w.transfer(transfer);
            w.string(reason);
        }
    }
    w.id(object.id);
    w.string(object.entity.ty.as_str());
    w.carried(&object.entity.payload);
    w.time(object.pushed_at);
    w.string(object.origin.as_str());
    w.fixed(&object.hash);
    if flags & HAS_HEADERS != 0 {
        w.carried(object.entity.headers.as_packed());
    }
    if times {
        w.int(object.not_before.map_or(0, |t| t.0 + 1));
        w.int(object.expires_at.map_or(0, |t| t.0 + 1));
    }
    if counts {
        for n in [object.version, object.deliveries, object.failed, object.moves] {
            w.int(u64::from(n));
        }
    }
    if flags & HAS_PATH != 0 {
        encode_names(w, &object.path);
    }
    if flags & HAS_HANDLED != 0 {
        encode_names(w, &object.handled);
    }
    if let Some(chase) = &object.chase {
        encode_generation(w, &chase.generation);
        w.int(chase.crossed.len() as u64);
        chase.crossed.iter().for_each(|lane| w.fixed(&lane.0));
    }
    if flags & HAS_MARKS != 0 {
        encode_marks(w, &object.marks);
    }
    if flags & HAS_BIRTH != 0 {
        w.birth(&object.birth);
    }
}

pub(super) fn decode_object(r: &mut Reader, here: Birth) -> Result<Entry, BadEntry> {
    let how = How::from_code(r.byte()?).ok_or_else(|| r.bad("how"))?;
    let flags = r.int()?;
    let has = |bit: u64| flags & bit != 0;
    let was = if has(HAS_WAS) { Some(r.loc()?) } else { None };
    let place = if has(HAS_PLACE) { Some(r.loc()?) } else { None };
    let standing = decode_standing(r)?;
    let id = r.id()?;
    let ty = type_name(r)?;
    let payload = r.bytes()?;
    let pushed_at = r.time()?;
    let origin = name(r)?;
    let hash = r.fixed()?;
    let headers = if has(HAS_HEADERS) {
        Headers::from_packed(r.bytes()?).ok_or_else(|| r.bad("headers"))?
    } else {
        Headers::default()
    };
    let time = |n: u64| n.checked_sub(1).map(Wall);
    let (not_before, expires_at) =
        if has(HAS_TIMES) { (time(r.int()?), time(r.int()?)) } else { (None, None) };
    let [version, deliveries, failed, moves] =
        if has(HAS_COUNTS) { [r.u32()?, r.u32()?, r.u32()?, r.u32()?] } else { [1, 0, 0, 0] };
    let path = if has(HAS_PATH) { decode_names(r)? } else { ThinVec::new() };
    let handled = if has(HAS_HANDLED) { decode_names(r)? } else { ThinVec::new() };
    let chase = if has(HAS_CHASE) { Some(Box::new(decode_chase(r)?)) } else { None };
    let marks = if has(HAS_MARKS) { decode_marks(r)? } else { ThinVec::new() };
    let birth = if has(HAS_BIRTH) { r.birth()? } else { here };
    let object = Object {
        id,
        entity: Entity { ty, payload, headers },
        version,
        pushed_at,
        origin,
        birth,
        hash,
        not_before,
        expires_at,
        deliveries,
        failed,
        moves,
        path,
        handled,
        chase,
        marks,
        possible_duplicate: has(IS_DUPLICATE),
    };
    Ok(Entry::Object { how, was, place, standing, object: Box::new(object) })
}

/// Reads how an object came to stand and of which type it is, and leaves out the rest: its strings
/// are read, because later entries may name them by their numbers.
pub(super) fn glance_at_object(r: &mut Reader) -> Result<Glance, BadEntry> {
    let how = How::from_code(r.byte()?).ok_or_else(|| r.bad("how"))?;
    let flags = r.int()?;
    let has = |bit: u64| flags & bit != 0;
    for _ in 0..(flags & (HAS_WAS | HAS_PLACE)).count_ones() {
        r.loc()?;
    }
    decode_standing(r)?;
    r.id()?;
    let ty = type_name(r)?;
    r.skip_bytes()?;
    r.time()?;
    r.word()?;
    r.skip(size_of::<Hash16>())?;
    if has(HAS_HEADERS) {
        r.skip_bytes()?;
    }
    for _ in 0..if has(HAS_TIMES) { 2 } else { 0 } + if has(HAS_COUNTS) { 4 } else { 0 } {
        r.int()?;
    }
    for _ in 0..(flags & (HAS_PATH | HAS_HANDLED)).count_ones() {
        for _ in 0..r.count()? {
            r.word()?;
        }
    }
    if has(HAS_CHASE) {
        r.int()?;
        r.skip(size_of::<LaneId>() + size_of::<u64>())?;
        let crossed = r.count()?;
        r.skip(crossed.saturating_mul(size_of::<LaneId>()))?;
    }
    if has(HAS_MARKS) {
        skip_marks(r)?;
    }
    if has(HAS_BIRTH) {
        r.birth()?;
    }
    Ok(Glance::Object { how, ty })
}

fn decode_standing(r: &mut Reader) -> Result<Standing, BadEntry> {
    Ok(match r.byte()? {
        0 => Standing::Flowing,
        1 => Standing::Parked(r.string()?),
        2 => Standing::Held(r.transfer()?),
        3 => Standing::Shadow(r.transfer()?),
        4 => Standing::HeldParked(r.transfer()?, r.string()?),
        _ => return Err(r.bad("a standing")),
    })
}

pub(super) fn encode_marks(w: &mut Writer, marks: &[SettleMark]) {
    w.int(marks.len() as u64);
    for mark in marks {
        w.int(u64::from(mark.version));
        w.fixed(&mark.token.to_bytes()[..40]);
        w.fixed(&mark.content);
        w.fixed(&mark.token.object.0);
    }
}

pub(super) fn decode_marks(r: &mut Reader) -> Result<ThinVec<SettleMark>, BadEntry> {
    let mut marks = ThinVec::new();
    for _ in 0..r.count()? {
        let version = r.u32()?;
        let head: [u8; 40] = r.fixed()?;
        let content = r.fixed()?;
        let object: [u8; 16] = r.fixed()?;
        let token = Token::from_bytes(&[&head[..], &object[..]].concat())
            .map_err(|_| r.bad("a lease token"))?;
        marks.push(SettleMark { version, token, content });
    }
    Ok(marks)
}

/// Leaves out what [`decode_marks`] reads.
pub(super) fn skip_marks(r: &mut Reader) -> Result<(), BadEntry> {
    for _ in 0..r.count()? {
        r.int()?;
        r.skip(40 + size_of::<Hash16>() + size_of::<ObjectId>())?;
    }
    Ok(())
}
