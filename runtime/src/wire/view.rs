//! What people are shown: objects, types, subscriptions, nodes.

use std::fmt::Write as _;

use dpc_core::Limits;
use dpc_core::decision::Decision;
use dpc_core::effect::{Books, NodeView, SubscriptionView, TypeView};
use dpc_core::input::ListState;
use dpc_core::names::Name;
use dpc_core::object::{Hash16, Object};
use dpc_core::view::{Ended, State, View, WaitsFor};
use dpc_proto::v1;

use super::object::{any, headers};
use super::{ITEMS_MAX, MESSAGE_BYTES_MAX, WINDOW_ITEMS, duration, timestamp};

/// An object as this node knows it. Lists leave the entity out.
pub(crate) fn object_info(view: &View, here: &Name, with_entity: bool) -> v1::ObjectInfo {
    let mut info = v1::ObjectInfo {
        id: view.id.to_string(),
        owner: owner(view, here),
        parked_reason: view.reason.as_deref().map(str::to_owned),
        ..v1::ObjectInfo::default()
    };
    info.set_state(state(view.state));
    if let Some(object) = &view.object {
        fill_living(&mut info, object, with_entity);
    }
    if let Some(ended) = &view.ended {
        fill_ended(&mut info, ended);
    }
    info
}

fn fill_living(info: &mut v1::ObjectInfo, object: &Object, with_entity: bool) {
    info.r#type = object.entity.ty.as_str().to_owned();
    info.version = object.version;
    info.hops = object.moves;
    info.origin = object.origin.as_str().to_owned();
    info.path = object.path.iter().map(|name| name.as_str().to_owned()).collect();
    info.pushed_at = Some(timestamp(object.pushed_at));
    info.not_before = object.not_before.map(timestamp);
    info.expires_at = object.expires_at.map(timestamp);
    info.deliveries = object.deliveries;
    info.failed_deliveries = object.failed;
    info.payload_size = object.entity.payload.len() as u64;
    info.payload_hash = hash_text(&object.hash);
    info.possible_duplicate = object.possible_duplicate;
    if with_entity {
        info.headers = headers(&object.entity.headers);
        info.entity = Some(any(&object.entity));
    }
}

fn fill_ended(info: &mut v1::ObjectInfo, ended: &Ended) {
    info.r#type = ended.ty.as_str().to_owned();
    info.version = ended.version;
    info.hops = ended.moves;
    info.pushed_at = Some(timestamp(ended.pushed_at));
    info.settled_by = ended.by.as_ref().map(|name| name.as_str().to_owned());
    info.ended_at = Some(timestamp(ended.at));
    info.payload_size = u64::from(ended.size);
    info.payload_hash = hash_text(&ended.hash);
}

/// Why an object is where it is, as this node sees it.
pub(crate) fn object_why(view: &View, here: &Name) -> v1::ObjectWhy {
    let mut why = v1::ObjectWhy {
        id: view.id.to_string(),
        node: here.as_str().to_owned(),
        owner: owner(view, here),
        until: view.until.map(timestamp),
        text: view.text.clone(),
        candidates: view
            .candidates
            .iter()
            .map(|(who, refused)| v1::Candidate { who: who.clone(), refused: refused.clone() })
            .collect(),
        ..v1::ObjectWhy::default()
    };
    why.set_state(state(view.state));
    why.set_waits_for(match view.waits_for {
        WaitsFor::Demand => v1::WaitsFor::Demand,
        WaitsFor::Credit => v1::WaitsFor::Credit,
        WaitsFor::Backoff => v1::WaitsFor::Backoff,
        WaitsFor::Delay => v1::WaitsFor::Delay,
        WaitsFor::Lease => v1::WaitsFor::Lease,
        WaitsFor::Peer => v1::WaitsFor::Peer,
        WaitsFor::Disk => v1::WaitsFor::Disk,
        WaitsFor::Nothing => v1::WaitsFor::Nothing,
    });
    why
}

/// One recorded step; the chosen one and all others are its candidates.
pub(crate) fn decision(step: &Decision, node: &Name, number: u64, moves: u32) -> v1::Decision {
    let refused = step.candidates.iter().map(|candidate| v1::Candidate {
        who: candidate.who.to_string(),
        refused: candidate.refused.to_string(),
    });
    v1::Decision {
        at: Some(timestamp(step.at)),
        node: node.as_str().to_owned(),
        lane_number: number,
        moves,
        decision: step.step.to_string(),
        chosen: step.chosen.as_deref().map(str::to_owned),
        generation: step.generation.map(|generation| generation.to_string()),
        candidates: refused.collect(),
    }
}

pub(crate) fn type_info(view: &TypeView) -> v1::TypeInfo {
    v1::TypeInfo {
        r#type: view.ty.as_str().to_owned(),
        ready: view.ready,
        leased: view.leased,
        delayed: view.delayed,
        parked: view.parked,
        oldest_age: view.oldest_age.map(duration),
        subscribers: view.subscribers,
        demand_elsewhere: view.demand_elsewhere,
        no_demand: view.no_demand,
        offered: view.offered,
        held: view.held,
        books: Some(books(&view.books)),
    }
}

fn books(books: &Books) -> v1::Books {
    v1::Books {
        pushed: books.pushed,
        emitted: books.emitted,
        moved_in: books.moved_in,
        advanced_in: books.advanced_in,
        reclaimed: books.reclaimed,
        finalised: books.finalised,
        discarded: books.discarded,
        moved_out: books.moved_out,
        advanced_out: books.advanced_out,
    }
}

pub(crate) fn subscription_info(view: &SubscriptionView) -> v1::SubscriptionInfo {
    v1::SubscriptionInfo {
        r#type: view.pattern.as_str().to_owned(),
        processor: view.processor.as_str().to_owned(),
        credit: view.credit,
        in_flight: view.in_flight,
        delivered: view.delivered,
        settled: view.settled,
        last_seen: Some(timestamp(view.last_seen)),
        session: view.session.0,
        subscription: view.subscription.0,
    }
}

/// A node; rates, address and problem are the edge's to add.
pub(crate) fn node_info(view: &NodeView) -> v1::NodeInfo {
    let mut demand: Vec<String> =
        view.demand.iter().map(|(pattern, _, _)| pattern.as_str().to_owned()).collect();
    demand.dedup();
    let mut info = v1::NodeInfo {
        node: view.name.as_str().to_owned(),
        lane: view.lane.to_string(),
        self_: view.is_self,
        distance: u32::from(!view.is_self),
        demand,
        in_doubt: view.in_doubt,
        ..v1::NodeInfo::default()
    };
    info.set_link(if view.up || view.is_self { v1::LinkState::Up } else { v1::LinkState::Down });
    info
}

/// The bounds that clients have to know.
pub(crate) fn limits(limits: &Limits) -> v1::Limits {
    v1::Limits {
        payload_bytes: limits.payload_bytes,
        headers: limits.headers,
        header_bytes: u32::try_from(limits.headers_bytes).unwrap_or(u32::MAX),
        items: u32::try_from(ITEMS_MAX).expect("a thousand"),
        message_bytes: MESSAGE_BYTES_MAX as u64,
        window: WINDOW_ITEMS,
        credit: limits.credit_max,
        transaction_items: limits.transaction_items,
        transaction_bytes: limits.transaction_bytes,
        lease: Some(duration(limits.lease)),
    }
}

/// The state to list; `None` for every state, an error text for one that is not listed.
pub(crate) fn list_state(state: v1::ObjectState) -> Result<Option<ListState>, &'static str> {
    Ok(Some(match state {
        v1::ObjectState::Unspecified => return Ok(None),
        v1::ObjectState::Ready => ListState::Ready,
        v1::ObjectState::Delayed => ListState::Delayed,
        v1::ObjectState::Leased => ListState::Leased,
        v1::ObjectState::Offered => ListState::Offered,
        v1::ObjectState::Held => ListState::Held,
        v1::ObjectState::Parked => ListState::Parked,
        v1::ObjectState::Final => return Err("final"),
        v1::ObjectState::Discarded => return Err("discarded"),
        v1::ObjectState::Moved => return Err("moved"),
    }))
}

pub(crate) fn state(state: State) -> v1::ObjectState {
    match state {
        State::Ready => v1::ObjectState::Ready,
        State::Delayed => v1::ObjectState::Delayed,
        State::Leased => v1::ObjectState::Leased,
        State::Offered => v1::ObjectState::Offered,
        State::Held => v1::ObjectState::Held,
        State::Final => v1::ObjectState::Final,
        State::Discarded => v1::ObjectState::Discarded,
        State::Parked => v1::ObjectState::Parked,
        State::Moved => v1::ObjectState::Moved,
        State::Unknown => v1::ObjectState::Unspecified,
    }
}

fn owner(view: &View, here: &Name) -> String {
    match &view.moved_to {
        Some((name, _)) => name.as_str().to_owned(),
        None => here.as_str().to_owned(),
    }
}

fn hash_text(hash: &Hash16) -> String {
    let mut text = String::with_capacity(hash.len() * 2);
    for byte in hash {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}
