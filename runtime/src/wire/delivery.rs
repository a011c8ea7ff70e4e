//! A delivery as it travels, written at once: a node sends more of them than of anything else, and a
//! message made for each would cost it several allocations more.
//!
//! The bytes are those that the message of [`object::delivery`](super::object::delivery) would have.

use dpc_core::effect::Delivery;
use dpc_core::limits::PATH_MAX;
use dpc_core::time::Wall;
use dpc_proto::{Deliveries, Written};
use prost::encoding::{encode_varint, encoded_len_varint};
use uuid::Uuid;

use super::object::TYPE_URL_HOST;
use super::timestamp;

/// Fields of `dpc.v1.Delivery`, in their order.
mod field {
    pub(super) const SUBSCRIPTION: u8 = 1;
    pub(super) const LEASE: u8 = 2;
    pub(super) const ID: u8 = 3;
    pub(super) const ENTITY: u8 = 4;
    pub(super) const VERSION: u8 = 5;
    pub(super) const DELIVERY: u8 = 6;
    pub(super) const FAILED_DELIVERIES: u8 = 7;
    pub(super) const HEADERS: u8 = 8;
    pub(super) const ORIGIN: u8 = 9;
    pub(super) const HOPS: u8 = 10;
    pub(super) const PATH: u8 = 11;
    pub(super) const PUSHED_AT: u8 = 12;
    pub(super) const LEASE_UNTIL: u8 = 13;
    pub(super) const POSSIBLE_DUPLICATE: u8 = 14;
}

/// The field of `dpc.v1.Deliveries` that holds them.
const DELIVERIES: u8 = 1;

/// The first field of the parts that have two: a type's URL, a header's key, a moment's seconds.
const FIRST: u8 = 1;
/// Their second: the value, the nanoseconds.
const SECOND: u8 = 2;

const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// Writes deliveries of one node, without the tokens that their session can put together.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    written: Written,
    /// The delivery that is being written, without its payload: its length goes before it.
    one: Vec<u8>,
}

impl Writer {
    /// A writer with room for so many bytes besides large payloads.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { written: Written::with_capacity(bytes), one: Vec::new() }
    }

    /// What was written, as its message.
    pub(crate) fn finish(self) -> Deliveries {
        Deliveries { items: Vec::new(), written: self.written }
    }

    /// Adds a delivery of the node of that name.
    pub(crate) fn push(&mut self, delivery: &Delivery, node: &str) {
        self.one.clear();
        let behind = write_around_payload(&mut self.one, delivery, node);
        let payload = &delivery.object.entity.payload;
        let (front, back) = self.one.split_at(behind);
        begin(self.written.out(), DELIVERIES, self.one.len() + payload.len());
        self.written.out().extend_from_slice(front);
        self.written.payload(payload);
        self.written.out().extend_from_slice(back);
    }
}

/// Writes all of a delivery but its payload, and says where that belongs.
fn write_around_payload(out: &mut Vec<u8>, delivery: &Delivery, node: &str) -> usize {
    let object = &delivery.object;
    let entity = &object.entity;
    int(out, field::SUBSCRIPTION, delivery.subscription.0);
    int(out, field::LEASE, delivery.lease);
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = Uuid::from_bytes(object.id.0).hyphenated().encode_lower(&mut id);
    bytes(out, field::ID, id.as_bytes());
    let ty = entity.ty.as_str();
    let url = TYPE_URL_HOST.len() + ty.len();
    let value = if entity.payload.is_empty() { 0 } else { length(entity.payload.len()) };
    begin(out, field::ENTITY, length(url) + value);
    begin(out, FIRST, url);
    out.extend_from_slice(TYPE_URL_HOST.as_bytes());
    out.extend_from_slice(ty.as_bytes());
    if value > 0 {
        begin(out, SECOND, entity.payload.len());
    }
    let behind = out.len();
    int(out, field::VERSION, object.version.into());
    int(out, field::DELIVERY, object.deliveries.into());
    int(out, field::FAILED_DELIVERIES, object.failed.into());
    for (name, text) in entity.headers.iter() {
        header(out, name, text);
    }
    if object.moves > 0 && !object.origin.as_str().is_empty() {
        bytes(out, field::ORIGIN, object.origin.as_str().as_bytes());
    }
    int(out, field::HOPS, object.moves.into());
    // Objects carry the nodes that had them before; one that was never handed on has no path.
    if !object.path.is_empty() {
        let before = object.path.len().saturating_sub(PATH_MAX - 1);
        for name in &object.path[before..] {
            bytes(out, field::PATH, name.as_str().as_bytes());
        }
        bytes(out, field::PATH, node.as_bytes());
    }
    moment(out, field::PUSHED_AT, object.pushed_at);
    moment(out, field::LEASE_UNTIL, delivery.until_wall);
    int(out, field::POSSIBLE_DUPLICATE, object.possible_duplicate.into());
    behind
}

/// An entry of the map of headers.
fn header(out: &mut Vec<u8>, name: &str, text: &str) {
    let part = |text: &str| if text.is_empty() { 0 } else { length(text.len()) };
    begin(out, field::HEADERS, part(name) + part(text));
    for (field, text) in [(FIRST, name), (SECOND, text)] {
        if !text.is_empty() {
            bytes(out, field, text.as_bytes());
        }
    }
}

fn moment(out: &mut Vec<u8>, field: u8, at: Wall) {
    let at = timestamp(at);
    let [seconds, nanos] = [at.seconds, at.nanos.into()].map(i64::cast_unsigned);
    let part = |n: u64| if n == 0 { 0 } else { 1 + encoded_len_varint(n) };
    begin(out, field, part(seconds) + part(nanos));
    int(out, FIRST, seconds);
    int(out, SECOND, nanos);
}

/// An integer, left out if it is zero.
fn int(out: &mut Vec<u8>, field: u8, n: u64) {
    if n != 0 {
        key(out, field, VARINT);
        encode_varint(n, out);
    }
}

fn bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    begin(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// What stands before a field of so many bytes.
fn begin(out: &mut Vec<u8>, field: u8, bytes: usize) {
    key(out, field, LENGTH_DELIMITED);
    encode_varint(bytes as u64, out);
}

/// How many bytes so many take as a field.
fn length(bytes: usize) -> usize {
    1 + encoded_len_varint(bytes as u64) + bytes
}

/// Fields up to 15 have a key of one byte.
fn key(out: &mut Vec<u8>, field: u8, wire_type: u8) {
    const { assert!(field::POSSIBLE_DUPLICATE <= 15, "keys of one byte") };
    out.push(field << 3 | wire_type);
}

#[cfg(test)]
mod tests {
    use dpc_core::ids::{Epoch, SubscriptionId};
    use dpc_core::object::Object;
    use dpc_core::time::Mono;
    use prost::Message;

    use super::super::object;
    use super::super::tests::{bare_object, full_object, name};
    use super::*;

    fn deliveries() -> Vec<Delivery> {
        let full = full_object();
        let path = std::iter::repeat_n(name("far"), PATH_MAX + 3).collect();
        let long = Object { path, ..full.clone() };
        let mut objects = vec![full, long, bare_object()];
        objects.push(Object { pushed_at: Wall(1_700_000_000_000), ..bare_object() });
        objects[3].entity.payload = bytes::Bytes::from(vec![3; 100_000]);
        let delivery = |(n, object): (usize, Object)| Delivery {
            subscription: SubscriptionId(1 << (n * 20)),
            lease: 1 << (n * 13),
            until: Mono(1),
            until_wall: Wall(1_700_000_030_123),
            epoch: Epoch(3),
            object: object.into(),
        };
        objects.into_iter().enumerate().map(delivery).collect()
    }

    #[test]
    fn what_is_written_is_what_the_messages_would_be() {
        let all = deliveries();
        let mut writer = Writer::with_capacity(0);
        all.iter().for_each(|one| writer.push(one, "node"));
        let written = writer.finish();
        let messages = all.iter().map(|one| object::delivery(one, "node")).collect::<Vec<_>>();
        let messages = Deliveries::from(messages);
        assert_eq!(written.encode_to_vec(), messages.encode_to_vec());
        assert_eq!(written.encoded_len(), messages.encoded_len());
        let read = Deliveries::decode(&written.encode_to_vec()[..]).expect("it is well formed");
        assert_eq!(read, messages);
    }
}
