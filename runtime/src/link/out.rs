//! What waits to be sent over one link.

use std::collections::VecDeque;
use std::sync::Arc;

use dpc_core::message::{Message, Offer};
use dpc_proto::v1;

use super::rate::Counts;
use crate::service::Gather;
use crate::wire::{link, offer};

/// Bytes of offers that may be sent before the peer grants more.
pub(super) const BYTE_WINDOW: u64 = 4 << 20;

/// Messages without bodies that may wait; beyond it the peer does not read.
const SMALL_MAX: usize = 65_536;

/// Bytes of offers that may wait; beyond it the peer does not read.
const BODIES_BYTES_MAX: u64 = 128 << 20;

/// Messages in one piece of the stream.
const TOGETHER_MAX: usize = 256;

/// Adverts or windows in one message: a longer list is cut into several.
const LIST_MAX: usize = 1_000;

/// The queue of one link.
pub(crate) struct LinkOut {
    small: VecDeque<v1::LinkMessage>,
    bodies: VecDeque<Body>,
    bodies_bytes: u64,
    /// Bytes of offers taken so far, and how many may be in all.
    sent_bytes: u64,
    granted_bytes: u64,
    /// Where sent messages are counted, once the peer has a name; what was sent before.
    counts: Option<Arc<Counts>>,
    uncounted: (u64, u64),
}

/// What is sent through the byte window, in order.
enum Body {
    Offer(Offer),
    /// The abort of an offer that is still in the queue: it must not overtake it, or the peer would
    /// hold the offer for good and the offer's share of its window would be lost.
    After(v1::LinkMessage),
}

impl LinkOut {
    pub(super) fn new() -> Self {
        Self {
            small: VecDeque::new(),
            bodies: VecDeque::new(),
            bodies_bytes: 0,
            sent_bytes: 0,
            granted_bytes: BYTE_WINDOW,
            counts: None,
            uncounted: (0, 0),
        }
    }

    /// Adds what core says. False if too much waits.
    pub(super) fn push(&mut self, message: Message) -> bool {
        match message {
            Message::Offer(offer) => {
                self.bodies_bytes += offer::byte_cost(&offer);
                self.bodies.push_back(Body::Offer(offer));
            }
            Message::Abort(transfer) if self.waits(transfer) => {
                self.bodies.push_back(Body::After(link::to_wire(&Message::Abort(transfer))));
            }
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

    /// The peer grants bytes of offers: an absolute total that never shrinks.
    pub(super) fn grant(&mut self, total: u64) {
        self.granted_bytes = self.granted_bytes.max(total);
    }

    /// The peer has a name: sent messages are counted there.
    pub(super) fn count_in(&mut self, counts: Arc<Counts>) {
        let (messages, payload) = std::mem::take(&mut self.uncounted);
        counts.sent(messages, payload);
        self.counts = Some(counts);
    }

    fn waits(&self, transfer: dpc_core::record::TransferId) -> bool {
        self.bodies.iter().any(|b| matches!(b, Body::Offer(offer) if offer.transfer == transfer))
    }

    fn fits(&self) -> bool {
        self.small.len() <= SMALL_MAX && self.bodies_bytes <= BODIES_BYTES_MAX
    }

    /// The next body that the byte window lets pass. The window may be overdrawn by one offer, so
    /// that an offer larger than the window still leaves.
    fn next_body(&mut self) -> Option<(v1::LinkMessage, u64)> {
        if let Some(Body::Offer(_)) = self.bodies.front()
            && self.sent_bytes >= self.granted_bytes
        {
            return None;
        }
        Some(match self.bodies.pop_front()? {
            Body::After(message) => (message, 0),
            Body::Offer(offer) => {
                let cost = offer::byte_cost(&offer);
                self.bodies_bytes -= cost;
                self.sent_bytes += cost;
                (link::to_wire(&Message::Offer(offer.clone())), offer::payload_bytes(&offer))
            }
        })
    }
}

impl Gather for LinkOut {
    type Message = Vec<v1::LinkMessage>;

    /// Small messages first, and one body at most: what is said meanwhile goes before the next body.
    fn next_message(&mut self) -> Option<Self::Message> {
        let count = self.small.len().min(TOGETHER_MAX);
        let mut messages: Vec<v1::LinkMessage> = self.small.drain(..count).collect();
        let mut payload = 0;
        if self.small.is_empty()
            && let Some((body, bytes)) = self.next_body()
        {
            messages.push(body);
            payload = bytes;
        }
        if messages.is_empty() {
            return None;
        }
        match &self.counts {
            Some(counts) => counts.sent(messages.len() as u64, payload),
            None => {
                self.uncounted.0 += messages.len() as u64;
                self.uncounted.1 += payload;
            }
        }
        Some(messages)
    }

    /// A link that ends does not wait for its bodies: their offers are aborted by the end.
    fn is_drained(&self) -> bool {
        self.small.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use dpc_core::ids::{Birth, Epoch, Incarnation, LaneId, ObjectId};
    use dpc_core::message::DemandKey;
    use dpc_core::names::{Name, Pattern, TypeName};
    use dpc_core::object::{Entity, Headers, Object};
    use dpc_core::record::TransferId;
    use dpc_core::time::Wall;

    use super::*;

    fn transfer(n: u64) -> TransferId {
        let lane = LaneId([1; 16]);
        TransferId { sender: lane, receiver: lane, epoch: Epoch(1), incarnation: Incarnation(1), n }
    }

    fn offer(n: u64, bytes: usize) -> Message {
        let object = Object {
            id: ObjectId([7; 16]),
            entity: Entity {
                ty: TypeName::from_type_url("img").expect("valid"),
                payload: vec![0; bytes].into(),
                headers: Headers::default(),
            },
            version: 1,
            pushed_at: Wall(0),
            origin: Name::new("name", "a").expect("valid"),
            birth: Birth::default(),
            hash: [0; 16],
            not_before: None,
            expires_at: None,
            deliveries: 0,
            failed: 0,
            moves: 1,
            path: Vec::new(),
            handled: Vec::new(),
            chase: None,
            marks: Vec::new(),
            possible_duplicate: false,
        };
        let pattern = Pattern::new("img").expect("valid");
        let key = DemandKey::new(pattern, Name::new("name", "default").expect("valid"));
        Message::Offer(Offer { transfer: transfer(n), key, objects: [object].into() })
    }

    fn kinds(out: &mut LinkOut) -> Vec<&'static str> {
        use v1::link_message::Message as Wire;
        let mut kinds = Vec::new();
        while let Some(messages) = out.next_message() {
            kinds.extend(messages.iter().map(|m| match &m.message {
                Some(Wire::Offer(_)) => "offer",
                Some(Wire::Abort(_)) => "abort",
                Some(Wire::Status(_)) => "status",
                other => panic!("{other:?}"),
            }));
        }
        kinds
    }

    #[test]
    fn small_messages_overtake_bodies_and_bodies_wait_for_their_window() {
        let mut out = LinkOut::new();
        for n in 1..=6 {
            assert!(out.push(offer(n, 1 << 20)));
        }
        assert!(out.push(Message::Status(transfer(9))));
        assert_eq!(kinds(&mut out), ["status", "offer", "offer", "offer", "offer"]);
        out.grant(BYTE_WINDOW + 2_048);
        assert_eq!(kinds(&mut out), ["offer"]);
        out.grant(1);
        assert_eq!(kinds(&mut out), [""; 0], "a window never shrinks, nor does it grow by that");
    }

    #[test]
    fn an_abort_never_overtakes_its_offer() {
        let mut out = LinkOut::new();
        for n in 1..=5 {
            assert!(out.push(offer(n, 1 << 20)));
        }
        assert!(out.push(Message::Abort(transfer(5))));
        assert!(out.push(Message::Abort(transfer(99))), "of an offer that has left");
        assert_eq!(kinds(&mut out), ["abort", "offer", "offer", "offer", "offer"]);
        out.grant(2 * BYTE_WINDOW);
        assert_eq!(kinds(&mut out), ["offer", "abort"]);
    }

    #[test]
    fn a_peer_that_does_not_read_is_noticed() {
        let mut out = LinkOut::new();
        assert!((0..128).all(|n| out.push(offer(n, (1 << 20) - 256))));
        assert!(!out.push(offer(200, 1)));
    }
}
