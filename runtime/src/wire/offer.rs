//! Offers: objects with all that travels with them. What they share stands once, in tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dpc_core::ids::{Birth, Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::limits::{HANDLED_MAX, MARKS_MAX, OFFER_OBJECTS_MAX, PATH_MAX, REASON_BYTES_MAX};
use dpc_core::message::{Estate, Message, Offer};
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Chase, Entity, Generation, Headers, Object, SettleMark, Token};
use dpc_core::record::TransferId;
use dpc_core::time::Wall;
use dpc_proto::v1;

use super::link::{
    BadMessage, fixed, key_from_wire, key_to_wire, lane_from_wire, lane_to_wire,
    transfer_from_wire, transfer_to_wire,
};

/// What each object of an offer counts in the byte window besides payload and headers.
const OBJECT_COST_BYTES: u64 = 256;

/// What a message takes from the byte window: only bodies do.
pub(crate) fn cost_of(message: &Message) -> u64 {
    bodies(message).iter().map(|object| object.weight() + OBJECT_COST_BYTES).sum()
}

/// The bytes of payloads in a message.
pub(crate) fn payload_of(message: &Message) -> u64 {
    bodies(message).iter().map(|object| object.entity.payload.len() as u64).sum()
}

fn bodies(message: &Message) -> &[Arc<Object>] {
    match message {
        Message::Offer(offer) => &offer.objects,
        Message::Estate(estate) => &estate.objects,
        _ => &[],
    }
}

/// Gives each distinct value a position.
struct Table<K> {
    positions: BTreeMap<K, u32>,
    in_order: Vec<K>,
}

impl<K: Ord + Clone> Table<K> {
    fn new() -> Self {
        Self { positions: BTreeMap::new(), in_order: Vec::new() }
    }

    fn position<Q: Ord + ?Sized>(&mut self, key: &Q) -> u32
    where
        K: std::borrow::Borrow<Q> + for<'a> From<&'a Q>,
    {
        if let Some(at) = self.positions.get(key) {
            return *at;
        }
        let at = u32::try_from(self.in_order.len()).expect("an offer is bounded");
        self.in_order.push(K::from(key));
        self.positions.insert(K::from(key), at);
        at
    }
}

/// A lane as a key that can be made of a reference to itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LaneKey(LaneId);

impl From<&LaneId> for LaneKey {
    fn from(lane: &LaneId) -> Self {
        Self(*lane)
    }
}

impl std::borrow::Borrow<LaneId> for LaneKey {
    fn borrow(&self) -> &LaneId {
        &self.0
    }
}

pub(super) fn to_wire(offer: &Offer) -> v1::Offer {
    let key = Some(key_to_wire(&offer.key));
    v1::Offer { key, early: offer.early, ..objects_to_wire(&offer.transfer, &offer.objects) }
}

pub(super) fn estate_to_wire(estate: &Estate) -> v1::Estate {
    let parked = estate.parked.iter().map(|(position, reason)| v1::ParkedObject {
        position: *position,
        reason: reason.to_string(),
    });
    v1::Estate {
        offer: Some(objects_to_wire(&estate.transfer, &estate.objects)),
        parked: parked.collect(),
    }
}

fn objects_to_wire(transfer: &TransferId, objects: &[Arc<Object>]) -> v1::Offer {
    let mut names: Table<String> = Table::new();
    let mut lanes: Table<LaneKey> = Table::new();
    let objects =
        objects.iter().map(|object| object_to_wire(object, &mut names, &mut lanes)).collect();
    v1::Offer {
        transfer: Some(transfer_to_wire(transfer)),
        key: None,
        names: names.in_order,
        lanes: lanes.in_order.iter().map(|lane| lane_to_wire(&lane.0)).collect(),
        objects,
        early: false,
    }
}

fn object_to_wire(
    object: &Object,
    names: &mut Table<String>,
    lanes: &mut Table<LaneKey>,
) -> v1::MovedObject {
    v1::MovedObject {
        id: Bytes::copy_from_slice(&object.id.0),
        r#type: names.position(object.entity.ty.as_str()),
        payload: object.entity.payload.clone(),
        headers: object.entity.headers.as_packed().clone(),
        version: object.version,
        birth: Some(v1::Birth {
            lane: lanes.position(&object.birth.lane),
            epoch: object.birth.epoch.0,
            record: object.birth.loc.record.0,
            position: object.birth.loc.position,
        }),
        content_hash: Bytes::copy_from_slice(&object.hash),
        pushed_at_ms: object.pushed_at.0,
        expires_at_ms: object.expires_at.map(|at| at.0),
        deliveries: object.deliveries,
        failed_deliveries: object.failed,
        moves: object.moves,
        origin: names.position(object.origin.as_str()),
        path: object.path.iter().map(|name| names.position(name.as_str())).collect(),
        handled: object.handled.iter().map(|name| names.position(name.as_str())).collect(),
        chase: object.chase.as_ref().map(|chase| v1::Chase {
            counter: chase.generation.counter,
            lane: lanes.position(&chase.generation.lane),
            incarnation: chase.generation.incarnation.0,
            crossed: chase.crossed.iter().map(|lane| lanes.position(lane)).collect(),
        }),
        settle_marks: object
            .marks
            .iter()
            .map(|mark| v1::SettleMark {
                lane: lanes.position(&mark.token.lane),
                epoch: mark.token.epoch.0,
                incarnation: mark.token.incarnation.0,
                n: mark.token.n,
                version: mark.version,
                content_hash: Bytes::copy_from_slice(&mark.content),
            })
            .collect(),
        possible_duplicate: object.possible_duplicate,
        not_before_ms: object.not_before.map(|at| at.0),
    }
}

/// The tables of an offer that is read. Each name is checked once, as what it is used for first.
struct Tables {
    texts: Vec<String>,
    names: Vec<Option<Name>>,
    types: Vec<Option<TypeName>>,
    lanes: Vec<LaneId>,
}

impl Tables {
    fn name(&mut self, at: u32) -> Result<Name, BadMessage> {
        let slot = self.names.get_mut(at as usize).ok_or_else(|| outside("names"))?;
        if slot.is_none() {
            *slot = Some(Name::new("name", &self.texts[at as usize])?);
        }
        Ok(slot.clone().expect("filled above"))
    }

    fn names<T: FromIterator<Name>>(
        &mut self,
        places: &[u32],
        max: usize,
    ) -> Result<T, BadMessage> {
        if places.len() > max {
            return Err(BadMessage(format!(
                "an object with {} names, at most {max}",
                places.len()
            )));
        }
        places.iter().map(|at| self.name(*at)).collect()
    }

    fn ty(&mut self, at: u32) -> Result<TypeName, BadMessage> {
        let slot = self.types.get_mut(at as usize).ok_or_else(|| outside("names"))?;
        if slot.is_none() {
            *slot = Some(TypeName::from_type_url(&self.texts[at as usize])?);
        }
        Ok(slot.clone().expect("filled above"))
    }

    fn lane(&self, at: u32) -> Result<LaneId, BadMessage> {
        self.lanes.get(at as usize).copied().ok_or_else(|| outside("lanes"))
    }
}

fn outside(table: &str) -> BadMessage {
    BadMessage(format!("a position outside the offer's {table}"))
}

pub(super) fn from_wire(mut offer: v1::Offer) -> Result<Offer, BadMessage> {
    let key = key_from_wire(offer.key.take())?;
    let transfer = transfer_from_wire(offer.transfer.take())?;
    let early = offer.early;
    Ok(Offer { transfer, key, objects: objects_from_wire(offer)?, early })
}

pub(super) fn estate_from_wire(estate: v1::Estate) -> Result<Estate, BadMessage> {
    let mut offer = estate.offer.ok_or_else(|| BadMessage::new("an estate without objects"))?;
    let transfer = transfer_from_wire(offer.transfer.take())?;
    let objects = objects_from_wire(offer)?;
    let mut parked = Vec::new();
    for of in estate.parked {
        if of.position as usize >= objects.len() || of.reason.len() > REASON_BYTES_MAX {
            return Err(BadMessage::new("a parked object outside the estate, or a long reason"));
        }
        parked.push((of.position, Arc::from(of.reason)));
    }
    Ok(Estate { transfer, objects, parked })
}

fn objects_from_wire(offer: v1::Offer) -> Result<Vec<Arc<Object>>, BadMessage> {
    let count = offer.objects.len();
    if count == 0 || count > OFFER_OBJECTS_MAX {
        return Err(BadMessage(format!("an offer of {count} objects")));
    }
    let mut tables = Tables {
        names: vec![None; offer.names.len()],
        types: vec![None; offer.names.len()],
        texts: offer.names,
        lanes: offer.lanes.iter().map(|lane| lane_from_wire(lane)).collect::<Result<_, _>>()?,
    };
    let object = |wire| object_from_wire(wire, &mut tables).map(Arc::new);
    offer.objects.into_iter().map(object).collect()
}

fn object_from_wire(wire: v1::MovedObject, tables: &mut Tables) -> Result<Object, BadMessage> {
    let id = ObjectId(fixed("id", &wire.id)?);
    let birth = wire.birth.ok_or_else(|| BadMessage::new("an object without its birth"))?;
    if wire.settle_marks.len() > MARKS_MAX {
        return Err(BadMessage::new("an object with too many settle marks"));
    }
    let headers = Headers::from_packed(wire.headers)
        .ok_or_else(|| BadMessage::new("headers that are not packed as they should be"))?;
    let marks = wire
        .settle_marks
        .iter()
        .map(|mark| mark_from_wire(mark, id, tables))
        .collect::<Result<_, _>>()?;
    Ok(Object {
        id,
        entity: Entity { ty: tables.ty(wire.r#type)?, payload: wire.payload, headers },
        version: wire.version,
        pushed_at: Wall(wire.pushed_at_ms),
        origin: tables.name(wire.origin)?,
        birth: Birth {
            lane: tables.lane(birth.lane)?,
            epoch: Epoch(birth.epoch),
            loc: Loc { record: RecordNumber(birth.record), position: birth.position },
        },
        hash: fixed("content_hash", &wire.content_hash)?,
        not_before: wire.not_before_ms.map(Wall),
        expires_at: wire.expires_at_ms.map(Wall),
        deliveries: wire.deliveries,
        failed: wire.failed_deliveries,
        moves: wire.moves,
        path: tables.names(&wire.path, PATH_MAX)?,
        handled: tables.names(&wire.handled, HANDLED_MAX)?,
        chase: wire.chase.map(|chase| chase_from_wire(&chase, tables).map(Box::new)).transpose()?,
        marks,
        possible_duplicate: wire.possible_duplicate,
    })
}

fn chase_from_wire(chase: &v1::Chase, tables: &Tables) -> Result<Chase, BadMessage> {
    Ok(Chase {
        generation: Generation {
            counter: chase.counter,
            lane: tables.lane(chase.lane)?,
            incarnation: Incarnation(chase.incarnation),
        },
        crossed: chase.crossed.iter().map(|at| tables.lane(*at)).collect::<Result<_, _>>()?,
    })
}

fn mark_from_wire(
    mark: &v1::SettleMark,
    object: ObjectId,
    tables: &Tables,
) -> Result<SettleMark, BadMessage> {
    Ok(SettleMark {
        version: mark.version,
        token: Token {
            lane: tables.lane(mark.lane)?,
            epoch: Epoch(mark.epoch),
            incarnation: Incarnation(mark.incarnation),
            n: mark.n,
            object,
        },
        content: fixed("content_hash", &mark.content_hash)?,
    })
}
