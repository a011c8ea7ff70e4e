//! Objects on their way in.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dpc_proto::google::protobuf::{Any, Timestamp};
use dpc_proto::v1;
use prost::{Message, Name};
use uuid::Uuid;

use crate::ids::Ids;

/// The host that a type name without one gets. Nodes ignore it.
const TYPE_HOST: &str = "type.googleapis.com/";

/// A type, a payload and headers: what an object is, and what an advance makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    type_url: String,
    payload: Bytes,
    headers: BTreeMap<String, String>,
}

impl Entity {
    /// A payload of a type: a full protobuf message name (`acme.orders.v1.Order`), or a type URL.
    pub fn new(type_name: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let mut type_url = type_name.into();
        if !type_url.contains('/') && !type_url.is_empty() {
            type_url = [TYPE_HOST, &type_url].concat();
        }
        Self { type_url, payload: payload.into(), headers: BTreeMap::new() }
    }

    /// A protobuf message under its own name.
    pub fn message<M: Message + Name>(message: &M) -> Self {
        Self::new(M::full_name(), message.encode_to_vec())
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(key.into(), value.into());
        self
    }

    pub(crate) fn into_wire(self) -> (Any, BTreeMap<String, String>) {
        (Any { type_url: self.type_url, value: self.payload }, self.headers)
    }
}

/// An object to push, or to emit with a settle.
///
/// ```
/// # use dpc_client::Object;
/// # use std::time::Duration;
/// let object = Object::new("acme.orders.v1.Order", "{\"number\": 7}")
///     .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
///     .delay(Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    id: Option<Uuid>,
    entity: Entity,
    start: Option<v1::object::Start>,
    end: Option<v1::object::End>,
}

impl Object {
    /// An object of a type: a full protobuf message name, or a type URL.
    pub fn new(type_name: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Entity::new(type_name, payload).into()
    }

    /// A protobuf message under its own name.
    pub fn message<M: Message + Name>(message: &M) -> Self {
        Entity::message(message).into()
    }

    /// Names the object. Without this the library makes a UUID of version 7, before it sends
    /// anything, so that no retry makes a second object. Name it yourself if the push may be
    /// repeated by another process.
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.entity = self.entity.header(key, value);
        self
    }

    /// Not delivered before this moment, by the clock of the node.
    #[must_use]
    pub fn not_before(mut self, at: SystemTime) -> Self {
        self.start = Some(v1::object::Start::NotBefore(timestamp(at)));
        self
    }

    /// Not delivered before so much time has passed at the node.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.start = Some(v1::object::Start::Delay(delay.into()));
        self
    }

    /// Parked if not delivered by this moment, by the clock of the node.
    #[must_use]
    pub fn expires_at(mut self, at: SystemTime) -> Self {
        self.end = Some(v1::object::End::ExpiresAt(timestamp(at)));
        self
    }

    /// Parked if not delivered before so much time has passed at the node.
    #[must_use]
    pub fn expires_in(mut self, span: Duration) -> Self {
        self.end = Some(v1::object::End::ExpiresIn(span.into()));
        self
    }

    /// Its form on the wire, with an id that stays the same however often it is sent.
    pub(crate) fn into_wire(self, ids: &Ids) -> (Uuid, v1::Object) {
        let id = self.id.unwrap_or_else(|| ids.next());
        let (entity, headers) = self.entity.into_wire();
        let object = v1::Object {
            id: id.hyphenated().to_string(),
            entity: Some(entity),
            headers,
            start: self.start,
            end: self.end,
        };
        (id, object)
    }
}

impl From<Entity> for Object {
    fn from(entity: Entity) -> Self {
        Self { id: None, entity, start: None, end: None }
    }
}

/// Moments before 1970 become negative: the node refuses them and names the field.
fn timestamp(at: SystemTime) -> Timestamp {
    let (span, sign) = match at.duration_since(UNIX_EPOCH) {
        Ok(span) => (span, 1),
        Err(before) => (before.duration(), -1),
    };
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    let nanos = if sign > 0 { i32::try_from(span.subsec_nanos()).unwrap_or_default() } else { 0 };
    Timestamp { seconds: seconds * sign, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gets_a_host_and_a_url_keeps_its_own() {
        assert_eq!(Entity::new("a.B", "x").type_url, "type.googleapis.com/a.B");
        assert_eq!(Entity::new("acme.org/a.B", "x").type_url, "acme.org/a.B");
        assert_eq!(Entity::new("", "x").type_url, "", "the node says what is missing");
    }

    #[test]
    fn an_object_without_an_id_gets_one_and_one_with_an_id_keeps_it() {
        let ids = Ids::new(|| Uuid::from_u128(7));
        let (id, wire) = Object::new("a.B", "x").into_wire(&ids);
        assert_eq!(
            (id, wire.id.as_str()),
            (Uuid::from_u128(7), "00000000-0000-0000-0000-000000000007")
        );
        let (id, _) = Object::new("a.B", "x").id(Uuid::from_u128(8)).into_wire(&ids);
        assert_eq!(id, Uuid::from_u128(8));
    }

    #[test]
    fn moments_before_the_epoch_stay_before_it() {
        assert_eq!(timestamp(UNIX_EPOCH - Duration::from_millis(1_500)).seconds, -1);
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_millis(1_500)).nanos, 500_000_000);
    }
}
