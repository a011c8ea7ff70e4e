//! The messages that carry objects, pushed, delivered and moved: by far the most bytes on the wire.
//! Each is one repeated field.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{
    self, DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len,
};
use prost::{DecodeError, Message};

use crate::google::protobuf::Any;
use crate::v1;
use crate::written::Written;

/// `dpc.v1.Deliveries`.
pub type Deliveries = Repeated<v1::Delivery>;

/// `dpc.v1.PushStreamRequest`.
pub type PushStreamRequest = Repeated<v1::PushItem>;

/// `dpc.v1.LinkRequest`, `LinkResponse`, `BodiesRequest` and `BodiesResponse`.
pub type LinkMessages = Repeated<v1::LinkMessage>;

/// A message whose only field repeats another one. Whoever has the items in another form writes
/// them as they travel, and spares making a message of each first; whoever receives them finds
/// messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeated<T> {
    /// The items.
    pub items: Vec<T>,
    /// Items that are encoded already, each with its key and length. They go before `items`. Empty
    /// in what was received.
    pub written: Written,
}

/// The number of the field.
const ITEMS: u32 = 1;

/// Room that is made for items at once, at most: what is read says how many there are only when it
/// has been read.
const ROOM_COUNT_MAX: usize = 512;

impl<T> Default for Repeated<T> {
    fn default() -> Self {
        Self { items: Vec::new(), written: Written::default() }
    }
}

impl<T> From<Vec<T>> for Repeated<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, written: Written::default() }
    }
}

impl Repeated<v1::PushItem> {
    /// Adds an item with an object that stays with its owner, as it was.
    pub fn write(&mut self, seq: u64, object: &mut v1::Object) {
        const SEQ: u32 = 1;
        const OBJECT: u32 = 2;
        let out = self.written.out();
        let length = object.encoded_len();
        let item = encoding::uint64::encoded_len(SEQ, &seq) + framed(OBJECT, length);
        begin(ITEMS, item, out);
        encoding::uint64::encode(SEQ, &seq, out);
        begin(OBJECT, length, out);
        match object.entity.take_if(|entity| Written::beside(entity.value.len()) > 0) {
            Some(entity) => object.entity = Some(self.write_large(object, entity)),
            None => object.encode_raw(out),
        }
    }

    /// Fields may stand in any order: the payload comes last. Gives the entity back.
    fn write_large(&mut self, rest: &v1::Object, mut entity: Any) -> Any {
        const ENTITY: u32 = 2;
        const VALUE: u32 = 2;
        let out = self.written.out();
        rest.encode_raw(out);
        begin(ENTITY, entity.encoded_len(), out);
        let payload = std::mem::take(&mut entity.value);
        entity.encode_raw(out);
        begin(VALUE, payload.len(), out);
        self.written.payload(&payload);
        Any { value: payload, ..entity }
    }
}

impl Repeated<v1::LinkMessage> {
    /// Adds an offer. Within three messages, each would be measured by all of them: its objects are
    /// measured once here, and written as they travel, a large payload last.
    pub fn write_offer(&mut self, mut offer: v1::Offer) {
        const OFFER: u32 = 7;
        const OBJECTS: u32 = 5;
        const PAYLOAD: u32 = 3;
        let objects = std::mem::take(&mut offer.objects);
        let lengths: Vec<usize> = objects.iter().map(Message::encoded_len).collect();
        let of_objects: usize = lengths.iter().map(|length| framed(OBJECTS, *length)).sum();
        let of_offer = offer.encoded_len() + of_objects;
        let item = framed(OFFER, of_offer);
        let beside: usize = objects.iter().map(|o| Written::beside(o.payload.len())).sum();
        let out = self.written.out();
        out.reserve(framed(ITEMS, item) - beside);
        begin(ITEMS, item, out);
        begin(OFFER, of_offer, out);
        offer.encode_raw(out);
        for (mut object, length) in objects.into_iter().zip(lengths) {
            let out = self.written.out();
            begin(OBJECTS, length, out);
            if Written::beside(object.payload.len()) == 0 {
                object.encode_raw(out);
                continue;
            }
            let payload = std::mem::take(&mut object.payload);
            object.encode_raw(out);
            begin(PAYLOAD, payload.len(), out);
            self.written.payload(&payload);
        }
    }
}

/// Writes what stands before a field of so many bytes.
fn begin(tag: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// How many bytes so many take as a field.
fn framed(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

impl<T: Message + Default> Message for Repeated<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.written.copy_to(buf);
        encoding::message::encode_repeated(ITEMS, &self.items, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != ITEMS {
            return encoding::skip_field(wire_type, tag, buf, context);
        }
        let before = buf.remaining();
        // An item in one piece is read a third faster than out of the buffer that the transport still
        // reads into. It is taken out of that without being copied.
        let mut item = Bytes::new();
        encoding::bytes::merge(wire_type, &mut item, buf, context)?;
        self.items.push_mut(T::default()).merge(item)?;
        if self.items.len() == self.items.capacity() {
            // Those that follow are about as large as this one.
            let size = before - buf.remaining();
            self.items.reserve((buf.remaining() / size.max(1)).min(ROOM_COUNT_MAX));
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.written.len() + encoding::message::encoded_len_repeated(ITEMS, &self.items)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::google::protobuf::Timestamp;

    #[test]
    fn what_is_written_is_what_the_items_would_be() {
        let mut requests = [PushStreamRequest::default(), PushStreamRequest::default()];
        for seq in [1, 200, 1 << 40] {
            let value = vec![7; usize::try_from(seq % 1_000).expect("small")].into();
            let mut object = v1::Object {
                id: "01932f6e-0000-7000-8000-000000000001".to_owned(),
                entity: Some(Any { type_url: "type.googleapis.com/acme.Order".to_owned(), value }),
                headers: [("traceparent".to_owned(), "00-ab-cd-01".to_owned())].into(),
                ..v1::Object::default()
            };
            requests[0].write(seq, &mut object);
            requests[1].items.push(v1::PushItem { seq, object: Some(object) });
        }
        let [written, items] = requests;
        assert_eq!(written.encode_to_vec(), items.encode_to_vec());
        assert_eq!(written.encoded_len(), items.encoded_len());
        let mut longer = written.encode_to_vec();
        // A field of a later version is left out.
        encoding::uint64::encode(2, &5, &mut longer);
        assert_eq!(PushStreamRequest::decode(&longer[..]), Ok(items));
    }

    #[test]
    fn a_large_payload_stays_where_it_is() {
        let object = |payload: usize| v1::Object {
            id: "01932f6e-0000-7000-8000-000000000001".to_owned(),
            entity: Some(Any {
                type_url: "h/acme.Order".to_owned(),
                value: vec![7; payload].into(),
            }),
            headers: [("a".to_owned(), "b".to_owned())].into(),
            start: Some(v1::object::Start::NotBefore(Timestamp { seconds: 7, nanos: 1 })),
            end: Some(v1::object::End::ExpiresAt(Timestamp { seconds: 9, nanos: 0 })),
        };
        let mut written = PushStreamRequest::default();
        let mut items = Vec::new();
        for (seq, payload) in [(1, 100_000), (2, 10), (3, 1_023), (4, 1_024), (5, 0)] {
            let mut pushed = object(payload);
            written.write(seq, &mut pushed);
            assert_eq!(pushed, object(payload), "it is its owner's as it was");
            items.push(v1::PushItem { seq, object: Some(pushed) });
        }
        let encoded = written.encode_to_vec();
        assert_eq!(written.encoded_len(), encoded.len());
        assert_eq!(PushStreamRequest::decode(&encoded[..]), Ok(items.into()));
        assert!(written.written.out().len() < 2_000, "what is large is not copied");
    }

    #[test]
    fn an_offer_that_is_written_is_what_the_message_would_be() {
        use v1::link_message::Message as Link;

        let object = |payload: usize| v1::MovedObject {
            id: vec![7; 16].into(),
            r#type: 1,
            payload: vec![3; payload].into(),
            headers: vec![5; 30].into(),
            path: vec![1, 2],
            possible_duplicate: true,
            ..v1::MovedObject::default()
        };
        let offer = v1::Offer {
            transfer: Some(v1::TransferId { n: 300, ..v1::TransferId::default() }),
            names: vec!["acme.Order".to_owned(), "a".to_owned()],
            objects: vec![object(20_000), object(0), object(100), object(1_023), object(1_024)],
            ..v1::Offer::default()
        };
        let (mut written, mut items) = (LinkMessages::default(), LinkMessages::default());
        for _ in 0..2 {
            written.write_offer(offer.clone());
            items.items.push(v1::LinkMessage { message: Some(Link::Offer(offer.clone())) });
        }
        assert_eq!(written.encoded_len(), items.encoded_len());
        assert_eq!(written.encoded_len(), written.encode_to_vec().len());
        assert_eq!(LinkMessages::decode(&written.encode_to_vec()[..]), Ok(items));
        assert!(written.written.out().len() < 4_000, "what is large is not copied");
    }

    #[test]
    fn what_is_no_item_is_an_error() {
        let read = |bytes: &[u8]| PushStreamRequest::decode(bytes);
        assert_eq!(read(&[0x0a, 0]), Ok(vec![v1::PushItem::default()].into()), "nothing in it");
        let bad: [(&str, &[u8]); 5] = [
            ("a number", &[0x08, 1]),
            ("longer than what is left", &[0x0a, 3, 0x08, 1]),
            (
                "longer than memory",
                &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ),
            (
                "a field that goes on behind the item",
                &[0x0a, 2, 0x12, 9, 0x08, 1, 0, 0, 0, 0, 0, 0, 0],
            ),
            ("a length that never ends", &[0x0a, 0xff]),
        ];
        for (what, bytes) in bad {
            assert!(read(bytes).is_err(), "{what}");
        }
    }
}
