//! A block of finished objects: many to a row.

use dpc_core::Wall;
use dpc_core::ids::{Epoch, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::{Name, TypeName};
use dpc_core::record::{End, Ending, TransferId};

use super::pack::{BadRow, Packer, Unpacker};
use super::rows::{Finished, Outcome};

/// A block that is being filled.
#[derive(Debug, Default)]
pub(super) struct EndedBlock {
    packer: Packer,
    items: u32,
    number: u64,
    at: u64,
    latest: u64,
}

impl EndedBlock {
    /// Adds a finished object and returns which item of the block it is.
    pub(super) fn push(
        &mut self,
        lane: LaneId,
        loc: Loc,
        end: &End,
        receiver: Option<&Name>,
    ) -> u32 {
        let p = &mut self.packer;
        p.lane(lane);
        p.near(self.number, loc.record.0);
        p.int(u64::from(loc.position));
        p.fixed(&end.id.0);
        p.name(end.ty.as_str().as_bytes());
        p.int(u64::from(end.version));
        match &end.ending {
            Ending::Final => p.byte(0),
            Ending::Discarded(_) | Ending::Duplicate => {
                let reason = end.ending.reason().expect("it ended without success");
                p.byte(1);
                p.name(reason.as_bytes());
            }
            Ending::Moved(transfer) => {
                p.byte(2);
                p.owner(transfer.sender, transfer.incarnation);
                p.lane(transfer.receiver);
                p.int(transfer.epoch.0);
                p.int(transfer.n);
                p.maybe_name(receiver.map(|name| name.as_str().as_bytes()));
            }
        }
        p.maybe_name(end.by.as_ref().map(|name| name.as_str().as_bytes()));
        p.near(self.at, end.at.0);
        p.near(end.at.0, end.pushed_at.0);
        p.int(u64::from(end.moves));
        p.int(u64::from(end.size));
        p.fixed(&end.hash);
        self.number = loc.record.0;
        self.at = end.at.0;
        self.latest = self.latest.max(end.at.0);
        self.items += 1;
        self.items - 1
    }

    pub(super) fn len(&self) -> usize {
        self.packer.len()
    }

    /// The latest end stands in front, so that a search can leave the block out unread.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = self.latest.to_le_bytes().to_vec();
        out.extend_from_slice(&self.packer.finish());
        out
    }
}

/// When the last object of a block ended.
pub(super) fn latest(body: &[u8]) -> Result<Wall, BadRow> {
    Unpacker::new(body).fixed().map(|bytes| Wall(u64::from_le_bytes(bytes)))
}

/// Reads a block.
pub(super) fn read(body: &[u8]) -> Result<Vec<Finished>, BadRow> {
    let mut u = Unpacker::new(body);
    u.fixed::<8>()?;
    let (mut number, mut last_at) = (0, 0);
    let mut items = Vec::new();
    while !u.is_done() {
        let lane = u.lane()?;
        number = u.near(number)?;
        let loc = Loc { record: RecordNumber(number), position: u.u32()? };
        let id = ObjectId(u.fixed()?);
        let ty = TypeName::from_type_url(u.text()?).map_err(|_| BadRow("a type's name"))?;
        let version = u.u32()?;
        let outcome = read_outcome(&mut u)?;
        let by = u.maybe_text()?.map(name).transpose()?;
        let at = u.near(last_at)?;
        let pushed_at = Wall(u.near(at)?);
        let (moves, size) = (u.u32()?, u.u32()?);
        let hash = u.fixed()?;
        last_at = at;
        let at = Wall(at);
        items.push(Finished {
            id,
            ty,
            version,
            outcome,
            by,
            at,
            pushed_at,
            moves,
            size,
            hash,
            lane,
            loc,
        });
    }
    Ok(items)
}

fn read_outcome(u: &mut Unpacker<'_>) -> Result<Outcome, BadRow> {
    Ok(match u.byte()? {
        0 => Outcome::Final,
        1 => Outcome::Discarded(u.text()?.into()),
        2 => {
            let (sender, incarnation) = u.owner()?;
            let receiver = u.lane()?;
            let (epoch, n) = (Epoch(u.int()?), u.int()?);
            let transfer = TransferId { sender, receiver, epoch, incarnation, n };
            Outcome::Moved { transfer, receiver: u.maybe_text()?.map(name).transpose()? }
        }
        _ => return Err(BadRow("an unknown outcome")),
    })
}

fn name(text: &str) -> Result<Name, BadRow> {
    Name::new("name", text).map_err(|_| BadRow("a name"))
}
