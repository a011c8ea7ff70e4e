//! One core against a peer that is played by hand: the corners of the receiver's half.

use bytes::Bytes;
use dpc_core::ids::{
    Birth, Epoch, Incarnation, LaneId, LinkId, ObjectId, RecordNumber, RequestId, SessionId,
    SubscriptionId,
};
use dpc_core::input::{ReplyTo, Subscribe};
use dpc_core::message::{
    DemandKey, Hello, LaneHello, Message, Offer, OfferRefused, PROTOCOL, Protocols,
};
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Object};
use dpc_core::record::TransferId;
use dpc_core::store::Claimed;
use dpc_core::{Core, Effect, Input, Limits, Mono, Now, Settings, Wall};

const HERE: LaneId = LaneId([1; 16]);
const PEER: LaneId = LaneId([2; 16]);

struct Bench {
    core: Core,
    now: Now,
    sent: Vec<Message>,
    delivered: Vec<ObjectId>,
}

impl Bench {
    fn start() -> Self {
        let settings = Settings {
            name: name("here"),
            lane: HERE,
            incarnation: Incarnation(1),
            seed: 7,
            limits: Limits::default(),
            protocols: Protocols::default(),
            fence: None,
            heir: None,
        };
        let (first, last) = (RecordNumber(1), RecordNumber(0));
        let claimed = Claimed { epoch: Epoch(1), first, last, last_hash: [0; 16] };
        let now = Now { mono: Mono(1), wall: Wall(1_700_000_000_000) };
        let core = Core::new(settings, claimed);
        let mut bench = Self { core, now, sent: Vec::new(), delivered: Vec::new() };
        let mut fx = Vec::new();
        bench.core.start(now, &mut fx);
        bench.perform(fx);
        bench
    }

    /// Commits at once whatever there is to commit, so that `after` never has to be waited for.
    fn tell(&mut self, input: Input) {
        self.now.mono.0 += 1_000;
        let mut fx = Vec::new();
        self.core.handle(self.now, input, &mut fx);
        self.perform(fx);
    }

    fn perform(&mut self, fx: Vec<Effect>) {
        for effect in fx {
            match effect {
                Effect::Send { message, .. } => self.sent.push(*message),
                Effect::Deliver(_, delivery) => self.delivered.push(delivery.object.id),
                _ => {}
            }
        }
        while let Some(record) = self.core.take_record(self.now) {
            self.tell(Input::Committed(record.number));
        }
    }

    fn link(&mut self, link: LinkId, lane: LaneId, called: &str) {
        self.tell(Input::LinkUp { link, dialled: false });
        let number = RecordNumber(1);
        let (epoch, incarnation) = (Epoch(1), Incarnation(9));
        let hello = Hello {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL,
            name: name(called),
            lanes: vec![LaneHello { lane, epoch, incarnation, number, hash: [0; 16] }],
            generation: 0,
            known: Vec::new(),
        };
        self.tell(Input::Peer(link, Message::Hello(hello)));
    }

    fn subscribe(&mut self) {
        self.tell(Input::OpenSession(SessionId(1)));
        let (pattern, processor) = (key().pattern.clone(), key().processor.clone());
        let (session, subscription) = (SessionId(1), SubscriptionId(1));
        let s = Subscribe { session, subscription, pattern, processor, credit: 8, lease: None };
        self.tell(Input::Subscribe(ReplyTo { request: RequestId(1), seq: 0 }, s));
    }
}

fn name(text: &str) -> Name {
    Name::new("name", text).expect("valid")
}

fn key() -> DemandKey {
    DemandKey::new(Pattern::new("img").expect("valid"), name("default"))
}

fn transfer(n: u64) -> TransferId {
    TransferId { sender: PEER, receiver: HERE, epoch: Epoch(1), incarnation: Incarnation(9), n }
}

fn offer(n: u64) -> Message {
    let ty = TypeName::from_type_url("img").expect("valid");
    let entity = Entity { ty, payload: Bytes::from_static(b"x"), headers: Headers::default() };
    let hash = entity.hash();
    let pushed_at = Wall(1_700_000_000_000);
    let object = Object {
        birth: Birth { lane: PEER, ..Birth::default() },
        moves: 1,
        path: [name("peer")].into(),
        ..Object::new(ObjectId([5; 16]), entity, hash, pushed_at, name("peer"))
    };
    Message::Offer(Offer {
        transfer: transfer(n),
        key: key(),
        objects: vec![object.into()],
        early: false,
    })
}

#[test]
fn a_second_offer_of_an_object_in_doubt_is_declined_and_not_kept_out_as_a_duplicate() {
    let mut bench = Bench::start();
    bench.subscribe();
    bench.link(LinkId(1), PEER, "peer");
    bench.tell(Input::Peer(LinkId(1), offer(1)));
    bench.sent.clear();
    bench.tell(Input::Peer(LinkId(1), offer(2)));
    let declined = Message::Decline { transfer: transfer(2), reason: OfferRefused::NotNow };
    assert!(bench.sent.contains(&declined), "{:?}", bench.sent);
    bench.tell(Input::Peer(LinkId(1), Message::Abort(transfer(1))));
    bench.sent.clear();
    bench.tell(Input::Peer(LinkId(1), offer(3)));
    assert!(bench.sent.contains(&Message::Accept { transfer: transfer(3), refused: Vec::new() }));
    bench.tell(Input::Peer(LinkId(1), Message::Release(transfer(3))));
    assert_eq!(bench.delivered, [ObjectId([5; 16])]);
}

#[test]
fn a_transfer_is_ended_by_its_sender_and_by_nobody_else() {
    let mut bench = Bench::start();
    bench.subscribe();
    bench.link(LinkId(1), PEER, "peer");
    bench.link(LinkId(2), LaneId([3; 16]), "other");
    bench.tell(Input::Peer(LinkId(1), offer(1)));
    bench.tell(Input::Peer(LinkId(2), Message::Abort(transfer(1))));
    bench.tell(Input::Peer(LinkId(1), Message::Release(transfer(1))));
    assert_eq!(bench.delivered, [ObjectId([5; 16])]);
}
