//! What waits to be sent over one link: bodies, with what must not overtake them, and all the rest.
//! Each leaves on a stream of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use dpc_core::message::Message;
use dpc_proto::v1::link_message::Message as Wire;
use dpc_proto::{LinkMessages, v1};

use super::rate::Counts;
use crate::service::Gather;
use crate::wire::{link, offer};

/// Bytes of bodies that may be sent before the peer grants more.
pub(super) const BYTE_WINDOW: u64 = 4 << 20;

/// Messages without bodies that may wait; beyond it the peer does not read.
const SMALL_MAX: usize = 65_536;

/// Bytes of bodies that may wait; beyond it the peer does not read.
const BODIES_BYTES_MAX: u64 = 128 << 20;

/// Messages in one piece of a stream.
const TOGETHER_MAX: usize = 256;

/// Adverts or windows in one message: a longer list is cut into several.
const LIST_MAX: usize = 1_000;

/// Everything that nothing waits before.
#[derive(Default)]
pub(crate) struct LinkOut {
    small: VecDeque<v1::LinkMessage>,
    counted: Counted,
}

/// Bodies, and in their order what undoes or forgets them: an abort that overtook its offer would
/// be lost on the peer, and the offer's share of its window with it.
pub(crate) struct BodiesOut {
    waiting: VecDeque<Message>,
    waiting_bytes: u64,
    /// Bytes of bodies taken so far, and how many may be in all.
    sent_bytes: u64,
    granted_bytes: u64,
    counted: Counted,
}

/// Counts what is sent: at the peer, once it has a name.
#[derive(Default)]
struct Counted {
    at: Option<Arc<Counts>>,
    before: (u64, u64),
}

impl LinkOut {
    /// Adds what core says. False if too much waits.
    pub(super) fn push(&mut self, message: Message) -> bool {
        match message {
            Message::Adverts(adverts) if adverts.len() > LIST_MAX => {
                for part in adverts.chunks(LIST_MAX) {
                    self.small.push_back(link::to_wire(&Message::Adverts(part.to_vec())));
                }
            }
            Message::Windows(windows) if windows.len() > LIST_MAX => {
                for part in windows.chunks(LIST_MAX) {
                    self.small.push_back(link::to_wire(&Message::Windows(part.to_vec())));
                }
            }
            message => self.small.push_back(link::to_wire(&message)),
        }
        self.fits()
    }

    /// Adds a message of the edge itself.
    pub(super) fn push_wire(&mut self, message: v1::link_message::Message) -> bool {
        self.small.push_back(v1::LinkMessage { message: Some(message) });
        self.fits()
    }

    /// The peer has a name: sent messages are counted there.
    pub(super) fn count_in(&mut self, counts: Arc<Counts>) {
        self.counted.at(counts);
    }

    fn fits(&self) -> bool {
        self.small.len() <= SMALL_MAX
    }
}

impl BodiesOut {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent_bytes: 0,
            granted_bytes: BYTE_WINDOW,
            counted: Counted::default(),
        }
    }

    /// Adds what core says. False if too much waits.
    pub(super) fn push(&mut self, message: Message) -> bool {
        self.waiting_bytes += offer::cost_of(&message);
        self.waiting.push_back(message);
        self.waiting_bytes <= BODIES_BYTES_MAX && self.waiting.len() <= SMALL_MAX
    }

    /// The peer grants bytes of bodies: an absolute total that never shrinks.
    pub(super) fn grant(&mut self, total: u64) {
        self.granted_bytes = self.granted_bytes.max(total);
    }

    /// The peer has a name: sent messages are counted there.
    pub(super) fn count_in(&mut self, counts: Arc<Counts>) {
        self.counted.at(counts);
    }
}

impl Counted {
    fn at(&mut self, counts: Arc<Counts>) {
        let (messages, payload) = std::mem::take(&mut self.before);
        counts.sent(messages, payload);
        self.at = Some(counts);
    }

    fn add(&mut self, messages: u64, payload: u64) {
        match &self.at {
            Some(counts) => counts.sent(messages, payload),
            None => {
                self.before.0 += messages;
                self.before.1 += payload;
            }
        }
    }
}

impl Gather for LinkOut {
    type Message = LinkMessages;

    fn next_message(&mut self) -> Option<Self::Message> {
        let count = self.small.len().min(TOGETHER_MAX);
        if count == 0 {
            return None;
        }
        self.counted.add(count as u64, 0);
        Some(self.small.drain(..count).collect::<Vec<_>>().into())
    }

    fn is_drained(&self) -> bool {
        self.small.is_empty()
    }
}

impl Gather for BodiesOut {
    type Message = LinkMessages;

    /// One message at a time, as the byte window lets it pass. The window may be overdrawn by one
    /// body, so that a body larger than the window still leaves.
    fn next_message(&mut self) -> Option<Self::Message> {
        let cost = offer::cost_of(self.waiting.front()?);
        if cost > 0 && self.sent_bytes >= self.granted_bytes {
            return None;
        }
        let message = self.waiting.pop_front().expect("just seen");
        self.waiting_bytes -= cost;
        self.sent_bytes += cost;
        self.counted.add(1, offer::payload_of(&message));
        let mut messages = LinkMessages::default();
        match link::to_wire(&message) {
            v1::LinkMessage { message: Some(Wire::Offer(offer)) } => messages.write_offer(offer),
            message => messages.items.push(message),
        }
        Some(messages)
    }

    /// A link that ends does not wait for its bodies: their offers are aborted by the end.
    fn is_drained(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use dpc_core::ids::{Epoch, Incarnation, LaneId, ObjectId};
    use dpc_core::message::{DemandKey, Offer};
    use dpc_core::names::{Name, Pattern, TypeName};
    use dpc_core::object::{Entity, Headers, Object};
    use dpc_core::record::TransferId;
    use dpc_core::time::Wall;
    use prost::Message as _;

    use super::*;

    fn transfer(n: u64) -> TransferId {
        let lane = LaneId([1; 16]);
        TransferId { sender: lane, receiver: lane, epoch: Epoch(1), incarnation: Incarnation(1), n }
    }

    fn offer(n: u64, bytes: usize) -> Message {
        let entity = Entity {
            ty: TypeName::from_type_url("img").expect("valid"),
            payload: vec![0; bytes].into(),
            headers: Headers::default(),
        };
        let origin = Name::new("name", "a").expect("valid");
        let object = Object::new(ObjectId([7; 16]), entity, [0; 16], Wall(0), origin);
        let object = Object { moves: 1, ..object };
        let pattern = Pattern::new("img").expect("valid");
        let key = DemandKey::new(pattern, Name::new("name", "default").expect("valid"));
        Message::Offer(Offer {
            transfer: transfer(n),
            key,
            objects: vec![object.into()],
            early: false,
        })
    }

    fn kinds(out: &mut BodiesOut) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        while let Some(messages) = out.next_message() {
            let sent = LinkMessages::decode(&messages.encode_to_vec()[..]).expect("decodes");
            kinds.extend(sent.items.iter().map(|m| match &m.message {
                Some(Wire::Offer(_)) => "offer",
                Some(Wire::Abort(_)) => "abort",
                other => panic!("{other:?}"),
            }));
        }
        kinds
    }

    #[test]
    fn bodies_wait_for_their_window() {
        let mut out = BodiesOut::new();
        for n in 1..=6 {
            assert!(out.push(offer(n, 1 << 20)));
        }
        assert_eq!(kinds(&mut out), ["offer", "offer", "offer", "offer"]);
        out.grant(BYTE_WINDOW + 2_048);
        assert_eq!(kinds(&mut out), ["offer"]);
        out.grant(1);
        assert_eq!(kinds(&mut out), [""; 0], "a window never shrinks, nor does it grow by that");
    }

    #[test]
    fn an_abort_never_overtakes_its_offer() {
        let mut out = BodiesOut::new();
        for n in 1..=5 {
            assert!(out.push(offer(n, 1 << 20)));
        }
        assert!(out.push(Message::Abort(transfer(5))));
        assert_eq!(kinds(&mut out), ["offer", "offer", "offer", "offer"]);
        out.grant(2 * BYTE_WINDOW);
        assert_eq!(kinds(&mut out), ["offer", "abort"]);
        assert!(out.push(Message::Abort(transfer(99))));
        assert_eq!(kinds(&mut out), ["abort"], "it takes nothing from the window");
    }

    #[test]
    fn a_peer_that_does_not_read_is_noticed() {
        let mut out = BodiesOut::new();
        assert!((0..128).all(|n| out.push(offer(n, (1 << 20) - 256))));
        assert!(!out.push(offer(200, 1)));
    }
}
