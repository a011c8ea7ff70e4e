//! The entries of a record: everything that a lane remembers, in the order it happened.
//!
//! Each entry that replaces an earlier one of the same object names its place (`was`), so that a
//! replay needs no index of ids.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use super::codec::{BadEntry, Reader, Writer};
use super::end::{decode_end, is_end, write_end};
use super::object::{OBJECT, decode_object, write_object};
use crate::decision::{Candidate, Decision, Refused, Step};
use crate::ids::{Birth, Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use crate::names::{Name, TypeName};
use crate::object::{Chase, Generation, Hash16, Object, SettleMark};
use crate::time::Wall;

/// The kind of a decision's entry.
pub(super) const DECISION: u8 = 18;

/// The kind that it had until format 2: nothing in it is told beside what stands before it.
pub(super) const DECISION_ALONE: u8 = 9;

/// The kind of a checkpoint's piece.
const CHECKPOINT: u8 = 22;

/// The kind that it had until format 2, when there was one layout.
const CHECKPOINT_1: u8 = 13;

/// One change of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object as it stands from here on.
    Object {
        /// How it came to stand so.
        how: How,
        /// The entry of this lane that it replaces.
        was: Option<Loc>,
        /// Its place in the order of arrival, if that is not here.
        place: Option<Loc>,
        /// Where it is in its life.
        standing: Standing,
        /// The object.
        object: Box<Object>,
    },
    /// An object that ended here, or moved on.
    End(Box<End>),
    /// A transfer's commit point at the sender: the ends before this entry, in the same record.
    Moved {
        /// The transfer.
        transfer: TransferId,
        /// The receiver's name, for people.
        receiver: Name,
        /// The entries that are the shadow copies.
        shadows: Vec<Loc>,
    },
    /// The receiver has confirmed: the shadow may go after its retention.
    Taken {
        /// The transfer.
        transfer: TransferId,
        /// When.
        at: Wall,
    },
    /// The receiver was told that it owns the transfer's held objects: they are ready.
    Released {
        /// The transfer.
        transfer: TransferId,
    },
    /// The transfer came to nothing at the receiver: its held objects are gone.
    Aborted {
        /// The transfer.
        transfer: TransferId,
    },
    /// The receiver may forget transfers of this sender up to `n`.
    Forgotten {
        /// The sender's lane.
        sender: LaneId,
        /// The sender's epoch.
        epoch: Epoch,
        /// The sender's incarnation.
        incarnation: Incarnation,
        /// All transfers up to and with this one are decided.
        through: u64,
    },
    /// Sessions have started to work on these objects.
    Begun(Vec<Loc>),
    /// A decision, for these objects.
    Decision {
        /// The decision.
        decision: Decision,
        /// The objects with their moves so far.
        objects: Vec<(ObjectId, u32)>,
    },
    /// What a peer's lane was known to be at the last handshake.
    Peer(PeerSeen),
    /// No generation counter above this one has been used.
    Generation(u64),
    /// The lane was forgotten for ever: its copies were reclaimed.
    Verdict(LaneId),
    /// The end that stands there says nothing any more: its object is brought back from its copy.
    Undone(Loc),
    /// A second object of an id came with a transfer and was kept out.
    Duplicate {
        /// The transfer.
        transfer: TransferId,
        /// The id.
        id: ObjectId,
        /// Its type.
        ty: TypeName,
    },
    /// A piece of a checkpoint: `index` of `of`, all within consecutive records.
    Checkpoint {
        /// Which piece, from 0.
        index: u32,
        /// How many.
        of: u32,
        /// The bytes.
        piece: Bytes,
        /// How they are laid out: see the checkpoint's own module.
        layout: u8,
    },
}

/// Names a transfer. Never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TransferId {
    /// The sender's lane.
    pub sender: LaneId,
    /// The receiver's lane.
    pub receiver: LaneId,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// Counts within the incarnation, from 1.
    pub n: u64,
}

/// What a peer's lane was known to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSeen {
    /// The lane.
    pub lane: LaneId,
    /// Its node's name.
    pub name: Name,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its last committed number.
    pub number: RecordNumber,
}

/// Where an object is in its life, as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// In the flow: ready, or delayed until its `not_before`.
    Flowing,
    /// Out of the flow, with the reason.
    Parked(Arc<str>),
    /// Held for a transfer that is not decided.
    Held(TransferId),
    /// The copy of an object that moved on with this transfer.
    Shadow(TransferId),
    /// Held like that, and parked when the transfer is released: with the reason.
    HeldParked(TransferId, Arc<str>),
}

/// An object's end in this lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The object.
    pub id: ObjectId,
    /// The entry it stood in, or for a carried end, none.
    pub was: Option<Loc>,
    /// For a carried end: where it was written before.
    pub carried_from: Option<Loc>,
    /// How it ended.
    pub ending: Ending,
    /// Its type at the end.
    pub ty: TypeName,
    /// Its version at the end.
    pub version: u32,
    /// The hash of what was pushed under its id.
    pub hash: Hash16,
    /// Birth, to tell a returning object from a second push.
    pub birth: Birth,
    /// The last settle of each version.
    pub marks: ThinVec<SettleMark>,
    /// The processor that ended it.
    pub by: Option<Name>,
    /// When.
    pub at: Wall,
    /// Its handoffs at the end.
    pub moves: u32,
    /// Bytes of its payload at the end.
    pub size: u32,
    /// When its first owner took it.
    pub pushed_at: Wall,
}

/// How an object ended in a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Done for good.
    Final,
    /// Ended without success, with the reason.
    Discarded(Arc<str>),
    /// Handed to the transfer's receiver.
    Moved(TransferId),
    /// Gave way to another object of its id, of an earlier birth, that a peer has offered (P9).
    Duplicate,
}

impl Ending {
    /// Why the object ended without success. `None` if it did not: it is final, or moved on.
    pub fn reason(&self) -> Option<Arc<str>> {
        match self {
            Self::Final | Self::Moved(_) => None,
            Self::Discarded(reason) => Some(Arc::clone(reason)),
            Self::Duplicate => Some("a duplicate: an earlier object of its id has come".into()),
        }
    }
}

macro_rules! how {
    ($($(#[$doc:meta])* $variant:ident = $code:literal;)*) => {
        /// How an object came to stand as an entry says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum How { $($(#[$doc])* $variant,)* }
        impl How {
            pub(super) fn code(self) -> u8 { match self { $(Self::$variant => $code,)* } }
            pub(super) fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

how! {
    /// Pushed by a client.
    Pushed = 0;
    /// Emitted by a settle.
    Emitted = 1;
    /// Advanced to a new entity, or handled and kept.
    Advanced = 2;
    /// Received from a peer and held.
    Received = 3;
    /// Written again so that an old part can go; nothing else changed.
    Carried = 4;
    /// Released, failed, or its lease ran out.
    Returned = 5;
    /// Parked.
    Parked = 6;
    /// Redriven.
    Redriven = 7;
    /// Brought back from a shadow or from a held copy.
    Reclaimed = 8;
}

impl Entry {
    /// Writes the entry; `here` is the place it gets, `birth` the lane and epoch that write.
    pub fn encode(&self, w: &mut Writer, here: Birth) {
        match self {
            Self::Object { how, was, place, standing, object } => {
                write_object(w, *how, *was, *place, standing, object, here);
            }
            Self::End(end) => write_end(w, &**end),
            Self::Moved { transfer, receiver, shadows } => {
                w.byte(2);
                transfer.encode(w);
                w.string(receiver.as_str());
                encode_locs(w, shadows);
            }
            Self::Taken { transfer, at } => {
                w.byte(3);
                transfer.encode(w);
                w.int(at.0);
            }
            Self::Released { transfer } => {
                w.byte(4);
                transfer.encode(w);
            }
            Self::Aborted { transfer } => {
                w.byte(5);
                transfer.encode(w);
            }
            Self::Forgotten { sender, epoch, incarnation, through } => {
                w.byte(6);
                w.fixed(&sender.0);
                w.int(epoch.0);
                w.fixed(&incarnation.0.to_le_bytes());
                w.int(*through);
            }
            Self::Begun(locs) => {
                w.byte(7);
                encode_locs(w, locs);
            }
            Self::Decision { decision, objects } => write_decision(w, decision, objects),
            Self::Peer(peer) => {
                w.byte(10);
                w.fixed(&peer.lane.0);
                w.string(peer.name.as_str());
                w.int(peer.epoch.0);
                w.int(peer.number.0);
            }
            Self::Generation(counter) => {
                w.byte(11);
                w.int(*counter);
            }
            Self::Verdict(lane) => {
                w.byte(12);
                w.fixed(&lane.0);
            }
            Self::Undone(end) => {
                w.byte(15);
                w.loc(*end);
            }
            Self::Duplicate { transfer, id, ty } => {
                w.byte(14);
                transfer.encode(w);
                w.fixed(&id.0);
                w.string(ty.as_str());
            }
            Self::Checkpoint { index, of, piece, layout } => {
                w.byte(CHECKPOINT);
                w.byte(*layout);
                w.int(u64::from(*index));
                w.int(u64::from(*of));
                w.bytes(piece);
            }
        }
    }

    /// Reads the next entry; `here` is its place with the lane and epoch of its record.
    pub fn decode(r: &mut Reader, here: Birth) -> Result<Self, BadEntry> {
        let kind = r.kind()?;
        Self::decode_kind(r, kind, here)
    }

    /// Reads the rest of an entry of this kind.
    pub(super) fn decode_kind(r: &mut Reader, kind: u8, here: Birth) -> Result<Self, BadEntry> {
        Ok(match kind {
            OBJECT => decode_object(r, here)?,
            kind if is_end(kind) => Self::End(Box::new(decode_end(r, kind)?)),
            2 => Self::Moved {
                transfer: TransferId::decode(r)?,
                receiver: name(r)?,
                shadows: decode_locs(r)?,
            },
            3 => Self::Taken { transfer: TransferId::decode(r)?, at: Wall(r.int()?) },
            4 => Self::Released { transfer: TransferId::decode(r)? },
            5 => Self::Aborted { transfer: TransferId::decode(r)? },
            6 => Self::Forgotten {
                sender: LaneId(r.fixed()?),
                epoch: Epoch(r.int()?),
                incarnation: Incarnation(u64::from_le_bytes(r.fixed()?)),
                through: r.int()?,
            },
            7 => Self::Begun(decode_locs(r)?),
            DECISION => decode_decision(r)?,
            10 => Self::Peer(PeerSeen {
                lane: LaneId(r.fixed()?),
                name: name(r)?,
                epoch: Epoch(r.int()?),
                number: RecordNumber(r.int()?),
            }),
            11 => Self::Generation(r.int()?),
            12 => Self::Verdict(LaneId(r.fixed()?)),
            kind @ (CHECKPOINT | CHECKPOINT_1) => Self::Checkpoint {
                layout: if kind == CHECKPOINT { r.byte()? } else { 1 },
                index: r.u32()?,
                of: r.u32()?,
                piece: r.bytes()?,
            },
            14 => Self::Duplicate {
                transfer: TransferId::decode(r)?,
                id: ObjectId(r.fixed()?),
                ty: type_name(r)?,
            },
            15 => Self::Undone(r.loc()?),
            _ => return Err(r.bad("an entry's kind")),
        })
    }
}

impl TransferId {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.fixed(&self.sender.0);
        w.fixed(&self.receiver.0);
        w.int(self.epoch.0);
        w.fixed(&self.incarnation.0.to_le_bytes());
        w.int(self.n);
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, BadEntry> {
        Ok(Self {
            sender: LaneId(r.fixed()?),
            receiver: LaneId(r.fixed()?),
            epoch: Epoch(r.int()?),
            incarnation: Incarnation(u64::from_le_bytes(r.fixed()?)),
            n: r.int()?,
        })
    }
}

/// Writes a decision's entry.
pub(crate) fn write_decision(w: &mut Writer, decision: &Decision, objects: &[(ObjectId, u32)]) {
    w.byte(DECISION);
    w.time(decision.at);
    w.byte(decision.step.code());
    w.string(decision.chosen.as_deref().unwrap_or(""));
    match &decision.generation {
        Some(generation) => {
            w.byte(1);
            encode_generation(w, generation);
        }
        None => w.byte(0),
    }
    w.int(decision.candidates.len() as u64);
    for candidate in &decision.candidates {
        w.string(&candidate.who);
        w.byte(candidate.refused.code());
    }
    w.int(objects.len() as u64);
    for (id, moves) in objects {
        w.id(*id);
        w.int(u64::from(*moves));
    }
}

fn decode_decision(r: &mut Reader) -> Result<Entry, BadEntry> {
    let at = r.time()?;
    let step = Step::from_code(r.byte()?).ok_or_else(|| r.bad("a step"))?;
    let chosen = Some(r.string()?).filter(|text| !text.is_empty());
    let generation = if r.byte()? == 1 { Some(decode_generation(r)?) } else { None };
    let mut candidates = Vec::new();
    for _ in 0..r.count()? {
        let who = r.string()?;
        let refused = Refused::from_code(r.byte()?).ok_or_else(|| r.bad("a refusal"))?;
        candidates.push(Candidate { who, refused });
    }
    let mut objects = Vec::new();
    for _ in 0..r.count()? {
        objects.push((r.id()?, r.u32()?));
    }
    Ok(Entry::Decision { decision: Decision { at, step, chosen, generation, candidates }, objects })
}

pub(super) fn encode_birth(w: &mut Writer, birth: &Birth) {
    w.fixed(&birth.lane.0);
    w.int(birth.epoch.0);
    w.loc(birth.loc);
}

pub(super) fn decode_birth(r: &mut Reader) -> Result<Birth, BadEntry> {
    Ok(Birth { lane: LaneId(r.fixed()?), epoch: Epoch(r.int()?), loc: r.loc()? })
}

pub(super) fn encode_generation(w: &mut Writer, generation: &Generation) {
    w.int(generation.counter);
    w.fixed(&generation.lane.0);
    w.fixed(&generation.incarnation.0.to_le_bytes());
}

fn decode_generation(r: &mut Reader) -> Result<Generation, BadEntry> {
    Ok(Generation {
        counter: r.int()?,
        lane: LaneId(r.fixed()?),
        incarnation: Incarnation(u64::from_le_bytes(r.fixed()?)),
    })
}

pub(super) fn decode_chase(r: &mut Reader) -> Result<Chase, BadEntry> {
    let generation = decode_generation(r)?;
    let mut crossed = Vec::new();
    for _ in 0..r.count()? {
        crossed.push(LaneId(r.fixed()?));
    }
    Ok(Chase { generation, crossed })
}

pub(super) fn encode_names(w: &mut Writer, names: &[Name]) {
    w.int(names.len() as u64);
    names.iter().for_each(|n| w.string(n.as_str()));
}

pub(super) fn decode_names(r: &mut Reader) -> Result<ThinVec<Name>, BadEntry> {
    (0..r.count()?).map(|_| name(r)).collect()
}

pub(crate) fn encode_locs(w: &mut Writer, locs: &[Loc]) {
    w.int(locs.len() as u64);
    locs.iter().for_each(|loc| w.loc(*loc));
}

pub(crate) fn decode_locs(r: &mut Reader) -> Result<Vec<Loc>, BadEntry> {
    (0..r.count()?).map(|_| r.loc()).collect()
}

pub(crate) fn name(r: &mut Reader) -> Result<Name, BadEntry> {
    let bad = r.bad("a name");
    let (text, meaning) = r.word()?;
    if meaning.name.is_none() {
        meaning.name = Some(Name::new("name", text).map_err(|_| bad)?);
    }
    Ok(meaning.name.clone().expect("it is there now"))
}

pub(crate) fn type_name(r: &mut Reader) -> Result<TypeName, BadEntry> {
    let bad = r.bad("a type's name");
    let (text, meaning) = r.word()?;
    if meaning.ty.is_none() {
        meaning.ty = Some(TypeName::from_type_url(text).map_err(|_| bad)?);
    }
    Ok(meaning.ty.clone().expect("it is there now"))
}
