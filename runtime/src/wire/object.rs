//! Objects on their way in, deliveries on their way out.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use dpc_core::Limits;
use dpc_core::effect::Delivery;
use dpc_core::ids::ObjectId;
use dpc_core::limits::PATH_MAX;
use dpc_core::names::TypeName;
use dpc_core::object::{Entity, Headers, Push, Time};
use dpc_core::refusal::Refusal;
use dpc_core::time::{Span, Wall};
use dpc_proto::google::protobuf::{Any, Duration, Timestamp};
use dpc_proto::v1;

/// A payload shares the buffer of the message it arrived in. Smaller ones are copied, so that one
/// small object that stays does not keep a large buffer.
const PAYLOAD_SHARED_BYTES_MIN: usize = 1_024;

/// What a delivery's type URL starts with: the host part is not kept.
pub(super) const TYPE_URL_HOST: &str = "type.googleapis.com/";

/// What a delivery adds to the bytes of payload and headers, roughly.
const DELIVERY_OVERHEAD_BYTES: usize = 256;

/// The names of types that streams have used: most objects are of a few types, whose names are
/// checked and kept once.
#[derive(Debug, Default)]
pub(crate) struct TypeNames(HashMap<String, TypeName>);

/// Names kept; with more it begins anew.
const TYPE_NAMES_MAX: usize = 16_384;

/// The longest type URL that is kept: its host may be of any length.
const TYPE_URL_BYTES_MAX: usize = 512;

impl TypeNames {
    /// The name that a type URL gives.
    pub(crate) fn of(&mut self, url: String) -> Result<TypeName, Refusal> {
        if let Some(known) = self.0.get(&url) {
            return Ok(known.clone());
        }
        let ty = TypeName::from_type_url(&url)?;
        if url.len() <= TYPE_URL_BYTES_MAX {
            if self.0.len() == TYPE_NAMES_MAX {
                self.0.clear();
            }
            self.0.insert(url, ty.clone());
        }
        Ok(ty)
    }
}

pub(crate) fn push(object: v1::Object, limits: &Limits) -> Result<Push, Refusal> {
    push_of(object, limits, type_name)
}

/// The same by a stream, whose node knows the names of types ([`TypeNames`]).
pub(crate) fn push_of(
    object: v1::Object,
    limits: &Limits,
    type_name: impl FnOnce(String) -> Result<TypeName, Refusal>,
) -> Result<Push, Refusal> {
    let id = if object.id.is_empty() { None } else { Some(object_id("id", &object.id)?) };
    let entity = entity_of(object.entity, &object.headers, limits, type_name)?;
    let not_before = match object.start {
        None => None,
        Some(v1::object::Start::NotBefore(at)) => Some(moment("not_before", &at)?),
        Some(v1::object::Start::Delay(span)) => Some(Time::In(self::span("delay", span)?)),
    };
    let expires_at = match object.end {
        None => None,
        Some(v1::object::End::ExpiresAt(at)) => Some(moment("expires_at", &at)?),
        Some(v1::object::End::ExpiresIn(span)) => Some(Time::In(self::span("expires_in", span)?)),
    };
    Ok(Push::new(id, entity).timed(not_before, expires_at))
}

pub(crate) fn entity(
    any: Option<Any>,
    headers: &BTreeMap<String, String>,
    limits: &Limits,
) -> Result<Entity, Refusal> {
    entity_of(any, headers, limits, type_name)
}

fn type_name(url: String) -> Result<TypeName, Refusal> {
    TypeName::from_type_url(&url)
}

fn entity_of(
    any: Option<Any>,
    headers: &BTreeMap<String, String>,
    limits: &Limits,
    type_name: impl FnOnce(String) -> Result<TypeName, Refusal>,
) -> Result<Entity, Refusal> {
    let any = any.unwrap_or_default();
    let ty = type_name(any.type_url)?;
    let headers =
        Headers::pack(headers.iter().map(|(key, value)| (key.as_str(), value.as_str())), limits)?;
    let entity = Entity { ty, payload: own(any.value), headers };
    entity.check(limits)?;
    Ok(entity)
}

pub(crate) fn object_id(field: &'static str, text: &str) -> Result<ObjectId, Refusal> {
    text.parse().map_err(|error| {
        Refusal::invalid(field, "ID_MALFORMED", format!("{field} is {error}")).given(text)
    })
}

/// A span that a client gives; negative or absurd ones are refused.
pub(crate) fn span(field: &'static str, given: Duration) -> Result<Span, Refusal> {
    let text = format!("{}.{:09}s", given.seconds, given.nanos);
    std::time::Duration::try_from(given).map(Span::from).map_err(|error| {
        Refusal::invalid(field, "TIME_OUT_OF_RANGE", format!("{field}: {error}")).given(text)
    })
}

/// A moment that a client gives.
pub(crate) fn wall(field: &'static str, given: &Timestamp) -> Result<Wall, Refusal> {
    given
        .unix_millis()
        .map(Wall)
        .map_err(|error| Refusal::invalid(field, "TIME_OUT_OF_RANGE", format!("{field}: {error}")))
}

fn moment(field: &'static str, given: &Timestamp) -> Result<Time, Refusal> {
    Ok(Time::At(wall(field, given)?))
}

pub(crate) fn any(entity: &Entity) -> Any {
    Any { type_url: [TYPE_URL_HOST, entity.ty.as_str()].concat(), value: entity.payload.clone() }
}

pub(crate) fn headers(headers: &Headers) -> BTreeMap<String, String> {
    headers.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A delivery of this node as a message, without a token. Streams write theirs
/// ([`super::delivery::Writer`]).
pub(crate) fn delivery(delivery: &Delivery, node: &str) -> v1::Delivery {
    let object = &delivery.object;
    // Objects carry the nodes that had them before; one that was never handed on has no path.
    let mut path: Vec<String> = object.path.iter().map(|name| name.as_str().to_owned()).collect();
    if !path.is_empty() {
        path.push(node.to_owned());
        path.drain(..path.len().saturating_sub(PATH_MAX));
    }
    v1::Delivery {
        subscription: delivery.subscription.0,
        lease: delivery.lease,
        id: object.id.to_string(),
        entity: Some(any(&object.entity)),
        version: object.version,
        delivery: object.deliveries,
        failed_deliveries: object.failed,
        headers: headers(&object.entity.headers),
        origin: if object.moves == 0 { String::new() } else { object.origin.as_str().to_owned() },
        hops: object.moves,
        path,
        pushed_at: Some(super::timestamp(object.pushed_at)),
        lease_until: Some(super::timestamp(delivery.until_wall)),
        possible_duplicate: object.possible_duplicate,
        token: Bytes::new(),
    }
}

/// Bytes that a delivery takes in a message, roughly and not less.
pub(crate) fn delivery_bytes(delivery: &Delivery) -> usize {
    let entity = &delivery.object.entity;
    entity.payload.len() + entity.headers.as_packed().len() + DELIVERY_OVERHEAD_BYTES
}

fn own(payload: Bytes) -> Bytes {
    if payload.len() < PAYLOAD_SHARED_BYTES_MIN {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_names_are_kept_and_no_check_is_forgotten() {
        let mut types = TypeNames::default();
        for n in 0..3 * TYPE_NAMES_MAX {
            for _ in 0..2 {
                let ty = types.of(format!("type.googleapis.com/acme.T{n}")).expect("a good name");
                assert_eq!(ty.as_str(), format!("acme.T{n}"));
            }
            assert!((1..=TYPE_NAMES_MAX).contains(&types.0.len()));
        }
        let long = format!("{}/acme.T", "host".repeat(TYPE_URL_BYTES_MAX));
        assert_eq!(types.of(long.clone()).expect("a good name").as_str(), "acme.T");
        assert!(!types.0.contains_key(&long), "it takes too much room");
        for _ in 0..2 {
            assert!(types.of("type.googleapis.com/not a name".into()).is_err());
        }
    }
}
