//! Messages between nodes: core's plain values and their protobuf form.

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::message::{
    Advert, Demand, DemandKey, Hello, LaneHello, LinkRefusal, Message, OfferRefused, PassedAnswer,
    Refresh, Window,
};
use dpc_core::names::{Name, Pattern};
use dpc_core::object::{Generation, Token};
use dpc_core::record::TransferId;
use dpc_core::refusal::Refusal;
use dpc_proto::v1;
use v1::link_message::Message as Wire;

use super::offer;

/// What a peer said that no node of this version says: the reason, for the refusal of the link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadMessage(pub(crate) String);

impl BadMessage {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl From<Refusal> for BadMessage {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.to_string())
    }
}

/// The wire form of what core says.
pub(crate) fn to_wire(message: &Message) -> v1::LinkMessage {
    let wire = match message {
        Message::Hello(hello) => Wire::Hello(hello_to_wire(hello)),
        Message::Refuse(refusal) => Wire::Refuse(refusal_to_wire(refusal)),
        Message::Adverts(adverts) => {
            Wire::Adverts(v1::Adverts { adverts: adverts.iter().map(advert_to_wire).collect() })
        }
        Message::Windows(windows) => Wire::Windows(v1::Windows {
            windows: windows
                .iter()
                .map(|w| v1::Window { key: Some(key_to_wire(&w.key)), total: w.total })
                .collect(),
        }),
        Message::Refresh(refresh) => Wire::Refresh(v1::Refresh {
            key: Some(key_to_wire(&refresh.key)),
            generation: Some(generation_to_wire(&refresh.generation)),
            handled: refresh.handled.iter().map(|name| name.as_str().to_owned()).collect(),
        }),
        Message::Offer(offer) => Wire::Offer(offer::to_wire(offer)),
        Message::Estate(estate) => Wire::Estate(offer::estate_to_wire(estate)),
        Message::Accept { transfer, refused } => Wire::Accept(v1::Accept {
            transfer: Some(transfer_to_wire(transfer)),
            refused: refused_to_wire(refused),
        }),
        Message::Decline { transfer, reason } => Wire::Decline(v1::Decline {
            transfer: Some(transfer_to_wire(transfer)),
            reason: refused_reason(*reason).into(),
        }),
        Message::Release(transfer) => Wire::Release(transfer_to_wire(transfer)),
        Message::Abort(transfer) => Wire::Abort(transfer_to_wire(transfer)),
        Message::Taken(transfer) => Wire::Taken(transfer_to_wire(transfer)),
        Message::Status(transfer) => Wire::Status(transfer_to_wire(transfer)),
        Message::Wait(transfer) => Wire::Wait(transfer_to_wire(transfer)),
        Message::TransferUnknown(transfer) => Wire::TransferUnknown(transfer_to_wire(transfer)),
        Message::Forget { sender, epoch, incarnation, through } => Wire::Forget(v1::Forget {
            sender_lane: lane_to_wire(sender),
            epoch: epoch.0,
            incarnation: incarnation.0,
            through: *through,
        }),
        Message::PassSettle { ask, hops_left, token, content } => {
            Wire::PassSettle(v1::PassSettle {
                ask: *ask,
                hops_left: *hops_left,
                token: Bytes::copy_from_slice(&token.to_bytes()),
                content_hash: Bytes::copy_from_slice(content),
            })
        }
        Message::PassedSettle { ask, answer } => Wire::PassedSettle(v1::PassedSettle {
            ask: *ask,
            answer: match answer {
                PassedAnswer::Done => v1::PassedAnswer::Done,
                PassedAnswer::LeaseLost => v1::PassedAnswer::LeaseLost,
                PassedAnswer::Unknown => v1::PassedAnswer::Unknown,
            }
            .into(),
        }),
    };
    v1::LinkMessage { message: Some(wire) }
}

/// What core is told. The edge's own messages (byte window, ask, told) are not core's.
pub(crate) fn from_wire(message: Wire) -> Result<Message, BadMessage> {
    Ok(match message {
        Wire::Hello(hello) => Message::Hello(hello_from_wire(hello)?),
        Wire::Refuse(refuse) => Message::Refuse(refusal_from_wire(&refuse)?),
        Wire::Adverts(adverts) => Message::Adverts(
            adverts.adverts.into_iter().map(advert_from_wire).collect::<Result<_, _>>()?,
        ),
        Wire::Windows(windows) => Message::Windows(
            windows
                .windows
                .into_iter()
                .map(|w| Ok(Window { key: key_from_wire(w.key)?, total: w.total }))
                .collect::<Result<_, BadMessage>>()?,
        ),
        Wire::Refresh(refresh) => Message::Refresh(Refresh {
            key: key_from_wire(refresh.key)?,
            generation: generation_from_wire(refresh.generation)?,
            handled: names_from_wire(&refresh.handled)?,
        }),
        Wire::Offer(offer) => Message::Offer(offer::from_wire(offer)?),
        Wire::Estate(estate) => Message::Estate(offer::estate_from_wire(estate)?),
        Wire::Accept(accept) => Message::Accept {
            transfer: transfer_from_wire(accept.transfer)?,
            refused: refused_from_wire(accept.refused)?,
        },
        Wire::Decline(decline) => Message::Decline {
            reason: refused_reason_from(decline.reason())?,
            transfer: transfer_from_wire(decline.transfer)?,
        },
        Wire::Release(transfer) => Message::Release(transfer_from_wire(Some(transfer))?),
        Wire::Abort(transfer) => Message::Abort(transfer_from_wire(Some(transfer))?),
        Wire::Taken(transfer) => Message::Taken(transfer_from_wire(Some(transfer))?),
        Wire::Status(transfer) => Message::Status(transfer_from_wire(Some(transfer))?),
        Wire::Wait(transfer) => Message::Wait(transfer_from_wire(Some(transfer))?),
        Wire::TransferUnknown(transfer) => {
            Message::TransferUnknown(transfer_from_wire(Some(transfer))?)
        }
        Wire::Forget(forget) => Message::Forget {
            sender: lane_from_wire(&forget.sender_lane)?,
            epoch: Epoch(forget.epoch),
            incarnation: Incarnation(forget.incarnation),
            through: forget.through,
        },
        Wire::PassSettle(pass) => Message::PassSettle {
            ask: pass.ask,
            hops_left: pass.hops_left,
            token: Token::from_bytes(&pass.token)?,
            content: fixed("content_hash", &pass.content_hash)?,
        },
        Wire::PassedSettle(passed) => Message::PassedSettle {
            ask: passed.ask,
            answer: match passed.answer() {
                v1::PassedAnswer::Done => PassedAnswer::Done,
                v1::PassedAnswer::LeaseLost => PassedAnswer::LeaseLost,
                v1::PassedAnswer::Unknown => PassedAnswer::Unknown,
                v1::PassedAnswer::Unspecified => {
                    return Err(BadMessage::new("passed_settle without an answer"));
                }
            },
        },
        Wire::ByteWindow(_) | Wire::Ask(_) | Wire::Told(_) => {
            unreachable!("the link keeps its own messages")
        }
    })
}

fn hello_to_wire(hello: &Hello) -> v1::Hello {
    v1::Hello {
        protocol: hello.protocol,
        protocol_min: hello.protocol_min,
        node: hello.name.as_str().to_owned(),
        lanes: hello
            .lanes
            .iter()
            .map(|lane| v1::LaneHello {
                lane: lane_to_wire(&lane.lane),
                epoch: lane.epoch.0,
                incarnation: lane.incarnation.0,
                last_number: lane.number.0,
                last_hash: Bytes::copy_from_slice(&lane.hash),
            })
            .collect(),
        generation_counter: hello.generation,
        known: hello.known.iter().map(known_to_wire).collect(),
    }
}

fn hello_from_wire(hello: v1::Hello) -> Result<Hello, BadMessage> {
    if hello.lanes.is_empty() {
        return Err(BadMessage::new("hello without a lane"));
    }
    let lanes = hello.lanes.into_iter().map(|lane| {
        Ok(LaneHello {
            lane: lane_from_wire(&lane.lane)?,
            epoch: Epoch(lane.epoch),
            incarnation: Incarnation(lane.incarnation),
            number: RecordNumber(lane.last_number),
            hash: fixed("last_hash", &lane.last_hash)?,
        })
    });
    Ok(Hello {
        protocol: hello.protocol,
        protocol_min: hello.protocol_min,
        name: Name::new("node", &hello.node)?,
        lanes: lanes.collect::<Result<_, BadMessage>>()?,
        generation: hello.generation_counter,
        known: hello.known.iter().map(known_from_wire).collect::<Result<_, _>>()?,
    })
}

fn known_to_wire((lane, epoch, number): &(LaneId, Epoch, RecordNumber)) -> v1::LaneKnown {
    v1::LaneKnown { lane: lane_to_wire(lane), epoch: epoch.0, number: number.0 }
}

fn known_from_wire(known: &v1::LaneKnown) -> Result<(LaneId, Epoch, RecordNumber), BadMessage> {
    Ok((lane_from_wire(&known.lane)?, Epoch(known.epoch), RecordNumber(known.number)))
}

fn refusal_to_wire(refusal: &LinkRefusal) -> v1::Refuse {
    use v1::RefuseReason as Reason;
    let mut wire = v1::Refuse { message: refusal.to_string(), ..v1::Refuse::default() };
    let reason = match refusal {
        LinkRefusal::Itself => Reason::Self_,
        LinkRefusal::DuplicateLink => Reason::DuplicateLink,
        LinkRefusal::DuplicateName(name) => {
            wire.node = name.as_str().to_owned();
            Reason::DuplicateNodeName
        }
        LinkRefusal::RolledBack { lane, known, now } => {
            wire.known = Some(known_to_wire(&(*lane, known.0, known.1)));
            wire.now = Some(known_to_wire(&(*lane, now.0, now.1)));
            Reason::LaneRolledBack
        }
        LinkRefusal::Forgotten(lane) => {
            wire.known =
                Some(v1::LaneKnown { lane: lane_to_wire(lane), ..v1::LaneKnown::default() });
            Reason::LaneForgotten
        }
        LinkRefusal::Protocol { ours } => {
            wire.value = u64::from(*ours);
            Reason::ProtocolVersion
        }
        LinkRefusal::Generation(counter) => {
            wire.value = *counter;
            Reason::GenerationDamaged
        }
        LinkRefusal::Malformed(what) => {
            wire.message.clone_from(what);
            Reason::MalformedMessage
        }
    };
    wire.set_reason(reason);
    wire
}

fn refusal_from_wire(wire: &v1::Refuse) -> Result<LinkRefusal, BadMessage> {
    use v1::RefuseReason as Reason;
    let lane = |known: &Option<v1::LaneKnown>| {
        known
            .as_ref()
            .map(known_from_wire)
            .transpose()?
            .ok_or_else(|| BadMessage::new("refuse without the lane it is about"))
    };
    Ok(match wire.reason() {
        Reason::Self_ => LinkRefusal::Itself,
        Reason::DuplicateLink => LinkRefusal::DuplicateLink,
        Reason::DuplicateNodeName => LinkRefusal::DuplicateName(Name::new("node", &wire.node)?),
        Reason::LaneRolledBack => {
            let (known, now) = (lane(&wire.known)?, lane(&wire.now)?);
            LinkRefusal::RolledBack {
                lane: known.0,
                known: (known.1, known.2),
                now: (now.1, now.2),
            }
        }
        Reason::LaneForgotten => LinkRefusal::Forgotten(lane(&wire.known)?.0),
        Reason::ProtocolVersion => {
            LinkRefusal::Protocol { ours: u32::try_from(wire.value).unwrap_or(u32::MAX) }
        }
        Reason::GenerationDamaged => LinkRefusal::Generation(wire.value),
        Reason::MalformedMessage => LinkRefusal::Malformed(wire.message.clone()),
        Reason::Unspecified => {
            LinkRefusal::Malformed(format!("a reason unknown here: {}", wire.message))
        }
    })
}

fn advert_to_wire(advert: &Advert) -> v1::Advert {
    v1::Advert {
        key: Some(key_to_wire(&advert.key)),
        demand: advert.demand.as_ref().map(|demand| v1::Demand {
            distance: demand.distance,
            path: demand
                .path
                .iter()
                .map(|(name, lane)| v1::Hop {
                    node: name.as_str().to_owned(),
                    lane: lane_to_wire(lane),
                })
                .collect(),
            generation: Some(generation_to_wire(&demand.generation)),
            window: demand.window,
        }),
    }
}

fn advert_from_wire(advert: v1::Advert) -> Result<Advert, BadMessage> {
    let key = key_from_wire(advert.key)?;
    let Some(demand) = advert.demand else { return Ok(Advert { key, demand: None }) };
    let path = demand
        .path
        .iter()
        .map(|hop| Ok((Name::new("node", &hop.node)?, lane_from_wire(&hop.lane)?)))
        .collect::<Result<_, BadMessage>>()?;
    let demand = Demand {
        distance: demand.distance,
        path,
        generation: generation_from_wire(demand.generation)?,
        window: demand.window,
    };
    Ok(Advert { key, demand: Some(demand) })
}

pub(super) fn key_to_wire(key: &DemandKey) -> v1::DemandKey {
    v1::DemandKey {
        pattern: key.pattern.as_str().to_owned(),
        processor: key.processor.as_str().to_owned(),
    }
}

pub(super) fn key_from_wire(key: Option<v1::DemandKey>) -> Result<DemandKey, BadMessage> {
    let key = key.ok_or_else(|| BadMessage::new("a demand without its key"))?;
    Ok(DemandKey::new(Pattern::new(&key.pattern)?, Name::new("processor", &key.processor)?))
}

fn generation_to_wire(generation: &Generation) -> v1::Generation {
    v1::Generation {
        counter: generation.counter,
        lane: lane_to_wire(&generation.lane),
        incarnation: generation.incarnation.0,
    }
}

fn generation_from_wire(generation: Option<v1::Generation>) -> Result<Generation, BadMessage> {
    let wire = generation.ok_or_else(|| BadMessage::new("a demand without its generation"))?;
    Ok(Generation {
        counter: wire.counter,
        lane: lane_from_wire(&wire.lane)?,
        incarnation: Incarnation(wire.incarnation),
    })
}

pub(super) fn transfer_to_wire(transfer: &TransferId) -> v1::TransferId {
    v1::TransferId {
        sender_lane: lane_to_wire(&transfer.sender),
        receiver_lane: lane_to_wire(&transfer.receiver),
        epoch: transfer.epoch.0,
        incarnation: transfer.incarnation.0,
        n: transfer.n,
    }
}

pub(super) fn transfer_from_wire(
    transfer: Option<v1::TransferId>,
) -> Result<TransferId, BadMessage> {
    let wire = transfer.ok_or_else(|| BadMessage::new("a transfer without its id"))?;
    Ok(TransferId {
        sender: lane_from_wire(&wire.sender_lane)?,
        receiver: lane_from_wire(&wire.receiver_lane)?,
        epoch: Epoch(wire.epoch),
        incarnation: Incarnation(wire.incarnation),
        n: wire.n,
    })
}

/// Positions are gathered by reason, in order.
fn refused_to_wire(refused: &[(u32, OfferRefused)]) -> Vec<v1::RefusedObjects> {
    let mut groups: Vec<v1::RefusedObjects> = Vec::new();
    for (position, reason) in refused {
        let reason = i32::from(refused_reason(*reason));
        match groups.iter_mut().find(|group| group.reason == reason) {
            Some(group) => group.positions.push(*position),
            None => groups.push(v1::RefusedObjects { reason, positions: vec![*position] }),
        }
    }
    groups
}

fn refused_from_wire(
    groups: Vec<v1::RefusedObjects>,
) -> Result<Vec<(u32, OfferRefused)>, BadMessage> {
    let mut refused = Vec::new();
    for group in groups {
        let reason = refused_reason_from(group.reason())?;
        refused.extend(group.positions.into_iter().map(|position| (position, reason)));
    }
    refused.sort_by_key(|(position, _)| *position);
    Ok(refused)
}

fn refused_reason(reason: OfferRefused) -> v1::OfferRefusedReason {
    match reason {
        OfferRefused::NoDemand => v1::OfferRefusedReason::NoDemand,
        OfferRefused::NotNow => v1::OfferRefusedReason::NotNow,
        OfferRefused::Malformed => v1::OfferRefusedReason::Malformed,
        OfferRefused::Stale => v1::OfferRefusedReason::Stale,
    }
}

fn refused_reason_from(reason: v1::OfferRefusedReason) -> Result<OfferRefused, BadMessage> {
    Ok(match reason {
        v1::OfferRefusedReason::NoDemand => OfferRefused::NoDemand,
        v1::OfferRefusedReason::NotNow => OfferRefused::NotNow,
        v1::OfferRefusedReason::Malformed => OfferRefused::Malformed,
        v1::OfferRefusedReason::Stale => OfferRefused::Stale,
        v1::OfferRefusedReason::Unspecified => {
            return Err(BadMessage::new("an offer refused without a reason"));
        }
    })
}

pub(super) fn names_from_wire(names: &[String]) -> Result<Vec<Name>, BadMessage> {
    names.iter().map(|name| Ok(Name::new("name", name)?)).collect()
}

pub(super) fn lane_to_wire(lane: &LaneId) -> Bytes {
    Bytes::copy_from_slice(&lane.0)
}

pub(crate) fn lane_from_wire(bytes: &[u8]) -> Result<LaneId, BadMessage> {
    Ok(LaneId(fixed("lane", bytes)?))
}

pub(crate) fn fixed<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], BadMessage> {
    bytes
        .try_into()
        .map_err(|_| BadMessage(format!("{field} has {} bytes, expected {N}", bytes.len())))
}
