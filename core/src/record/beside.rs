//! What entries of one record have in common is told once: an id, a time, a birth or a transfer by what it
//! is beside the last one in the record.

use serde::{Deserialize, Serialize};

use super::codec::{BadEntry, Reader, Writer};
use super::entry::{DECISION, DECISION_ALONE, TransferId, decode_birth, encode_birth};
use super::object::{OBJECT, OBJECT_ALONE};
use super::steps::IdSteps;
use crate::ids::{Birth, Loc, ObjectId, RecordNumber};
use crate::time::Wall;

/// The last ones of a record, so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Beside {
    ids: IdSteps,
    time: Wall,
    birth: Birth,
    transfer: Option<TransferId>,
}

// How a birth is told, in the byte before it.
/// At the next place of the record of the last one.
const NEXT_PLACE: u8 = 0;
/// At another place of the same lane and epoch.
const SAME_LANE: u8 = 1;
const WRITTEN_OUT: u8 = 2;

impl Writer {
    pub(super) fn id(&mut self, id: ObjectId) {
        let (beside, out) = self.beside_and_out();
        beside.ids.write(out, id);
    }

    /// An id that is written out, for the next one to stand beside.
    pub(super) fn first_id(&mut self, id: ObjectId) {
        self.fixed(&id.0);
        self.beside.ids.go_to(id);
    }

    /// Whether an id is one further than the last one: then it need not be written.
    pub(super) fn goes_to_next(&mut self, id: ObjectId) -> bool {
        let is_next = self.beside.ids.next() == id;
        if is_next {
            self.beside.ids.go_to(id);
        }
        is_next
    }

    pub(super) fn time(&mut self, at: Wall) {
        let before = std::mem::replace(&mut self.beside.time, at);
        self.change(before.0, at.0);
    }

    pub(super) fn transfer(&mut self, transfer: &TransferId) {
        let is_the_last = self.beside.transfer.as_ref() == Some(transfer);
        self.byte(u8::from(!is_the_last));
        if !is_the_last {
            transfer.encode(self);
            self.beside.transfer = Some(*transfer);
        }
    }

    pub(super) fn birth(&mut self, birth: &Birth) {
        let before = std::mem::replace(&mut self.beside.birth, *birth);
        if (before.lane, before.epoch) != (birth.lane, birth.epoch) {
            self.byte(WRITTEN_OUT);
            encode_birth(self, birth);
        } else if before.loc.next_in_record() == Some(birth.loc) {
            self.byte(NEXT_PLACE);
        } else {
            self.byte(SAME_LANE);
            self.change(before.loc.record.0, birth.loc.record.0);
            self.int(u64::from(birth.loc.position));
        }
    }

    /// A number by how far it is from another one, near ones in few bytes whichever way they lie.
    pub(crate) fn change(&mut self, before: u64, now: u64) {
        let change = now.wrapping_sub(before).cast_signed();
        self.int((change << 1 ^ change >> 63).cast_unsigned());
    }
}

impl Reader {
    /// The kind of the next entry. One that stood alone until format 2 is named by its kind of now.
    pub(super) fn kind(&mut self) -> Result<u8, BadEntry> {
        let kind = self.byte()?;
        let now = match kind {
            OBJECT_ALONE => OBJECT,
            DECISION_ALONE => DECISION,
            _ => kind,
        };
        self.alone = now != kind;
        Ok(now)
    }

    pub(super) fn id(&mut self) -> Result<ObjectId, BadEntry> {
        if self.alone {
            return self.fixed().map(ObjectId);
        }
        let bad = self.bad("an id");
        let (beside, mut rest) = self.beside_and_rest();
        let id = beside.ids.read(&mut rest).ok_or(bad)?;
        let left = rest.len();
        self.leave(left);
        Ok(id)
    }

    pub(super) fn first_id(&mut self) -> Result<ObjectId, BadEntry> {
        let id = ObjectId(self.fixed()?);
        self.beside.ids.go_to(id);
        Ok(id)
    }

    /// Goes to the id that is one further than the last one.
    pub(super) fn next_id(&mut self) -> ObjectId {
        let id = self.beside.ids.next();
        self.beside.ids.go_to(id);
        id
    }

    pub(super) fn time(&mut self) -> Result<Wall, BadEntry> {
        if self.alone {
            return self.int().map(Wall);
        }
        self.beside.time = Wall(self.change(self.beside.time.0)?);
        Ok(self.beside.time)
    }

    pub(super) fn transfer(&mut self) -> Result<TransferId, BadEntry> {
        if self.alone {
            return TransferId::decode(self);
        }
        if self.byte()? != 0 {
            self.beside.transfer = Some(TransferId::decode(self)?);
        }
        self.beside.transfer.ok_or_else(|| self.bad("a transfer before this one"))
    }

    pub(super) fn birth(&mut self) -> Result<Birth, BadEntry> {
        if self.alone {
            return decode_birth(self);
        }
        let before = self.beside.birth;
        let birth = match self.byte()? {
            NEXT_PLACE => {
                let loc = before.loc.next_in_record().ok_or_else(|| self.bad("a place"))?;
                Birth { loc, ..before }
            }
            SAME_LANE => {
                let record = RecordNumber(self.change(before.loc.record.0)?);
                Birth { loc: Loc { record, position: self.u32()? }, ..before }
            }
            WRITTEN_OUT => decode_birth(self)?,
            _ => return Err(self.bad("how a birth is told")),
        };
        self.beside.birth = birth;
        Ok(birth)
    }

    /// What [`Writer::change`] wrote.
    pub(crate) fn change(&mut self, before: u64) -> Result<u64, BadEntry> {
        let folded = self.int()?;
        let change = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
        Ok(before.wrapping_add(change.cast_unsigned()))
    }
}
