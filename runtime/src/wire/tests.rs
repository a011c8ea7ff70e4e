//! What goes out comes back as it was.

use dpc_core::Limits;
use dpc_core::ids::{Birth, Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::message::{
    Advert, Demand, DemandKey, Estate, Hello, LaneHello, LinkRefusal, Message, Offer, OfferRefused,
    PassedAnswer, Refresh, Window,
};
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Chase, Entity, Generation, Headers, Object, SettleMark, Token};
use dpc_core::record::TransferId;
use dpc_core::time::Wall;
use dpc_proto::v1;
use prost::Message as _;

use super::link;

pub(super) fn name(text: &str) -> Name {
    Name::new("name", text).unwrap()
}

fn key() -> DemandKey {
    DemandKey::new(Pattern::new("acme.*").unwrap(), name("p"))
}

fn transfer() -> TransferId {
    TransferId {
        sender: LaneId([1; 16]),
        receiver: LaneId([2; 16]),
        epoch: Epoch(3),
        incarnation: Incarnation(u64::MAX),
        n: 5,
    }
}

fn generation() -> Generation {
    Generation { counter: 9, lane: LaneId([4; 16]), incarnation: Incarnation(8) }
}

pub(super) fn full_object() -> Object {
    let id = ObjectId([7; 16]);
    let token = Token {
        lane: LaneId([1; 16]),
        epoch: Epoch(2),
        incarnation: Incarnation(3),
        n: 4,
        object: id,
    };
    Object {
        id,
        entity: Entity {
            ty: TypeName::from_type_url("acme.Order").unwrap(),
            payload: vec![1, 2, 3].into(),
            headers: Headers::pack([("k", "v"), ("l", "")], &Limits::default()).unwrap(),
        },
        version: 3,
        pushed_at: Wall(1_000),
        origin: name("a"),
        birth: Birth {
            lane: LaneId([1; 16]),
            epoch: Epoch(2),
            loc: Loc { record: RecordNumber(77), position: 6 },
        },
        hash: [5; 16],
        not_before: Some(Wall(0)),
        expires_at: Some(Wall(9_999)),
        deliveries: 4,
        failed: 1,
        moves: 2,
        path: [name("a"), name("b")].into(),
        handled: [name("p"), name("q")].into(),
        chase: Some(Box::new(Chase {
            generation: generation(),
            crossed: vec![LaneId([1; 16]), LaneId([4; 16])],
        })),
        marks: [SettleMark { version: 2, token, content: [6; 16] }].into(),
        possible_duplicate: true,
    }
}

pub(super) fn bare_object() -> Object {
    Object {
        not_before: None,
        expires_at: None,
        path: [].into(),
        handled: [].into(),
        chase: None,
        marks: [].into(),
        possible_duplicate: false,
        ..full_object()
    }
}

fn hello() -> Hello {
    Hello {
        protocol: 1,
        protocol_min: 1,
        name: name("a"),
        lanes: vec![LaneHello {
            lane: LaneId([1; 16]),
            epoch: Epoch(2),
            incarnation: Incarnation(3),
            number: RecordNumber(4),
            hash: [5; 16],
        }],
        generation: 6,
        known: vec![(LaneId([7; 16]), Epoch(8), RecordNumber(9))],
    }
}

fn refusals() -> Vec<LinkRefusal> {
    vec![
        LinkRefusal::Itself,
        LinkRefusal::DuplicateLink,
        LinkRefusal::DuplicateName(name("a")),
        LinkRefusal::RolledBack {
            lane: LaneId([1; 16]),
            known: (Epoch(2), RecordNumber(3)),
            now: (Epoch(1), RecordNumber(4)),
        },
        LinkRefusal::Forgotten(LaneId([1; 16])),
        LinkRefusal::Protocol { ours: 3 },
        LinkRefusal::Generation(u64::MAX),
        LinkRefusal::Malformed("so and so".to_owned()),
    ]
}

#[test]
fn every_link_message_survives_the_wire() {
    let demand = Demand {
        distance: 2,
        path: [(name("b"), LaneId([2; 16])), (name("c"), LaneId([3; 16]))].into(),
        generation: generation(),
        window: 64,
    };
    let token = full_object().marks[0].token;
    let mut messages = vec![
        Message::Hello(hello()),
        Message::Adverts(vec![
            Advert { key: key(), demand: Some(demand) },
            Advert { key: key(), demand: None },
        ]),
        Message::Windows(vec![Window { key: key(), total: 11 }]),
        Message::Refresh(Refresh {
            key: key(),
            generation: generation(),
            handled: vec![name("p")],
        }),
        Message::Offer(Offer {
            transfer: transfer(),
            key: key(),
            objects: vec![full_object().into(), bare_object().into()],
            early: true,
        }),
        Message::Estate(Estate {
            transfer: transfer(),
            objects: vec![full_object().into(), bare_object().into()],
            parked: vec![(1, "rejected".into())],
        }),
        Message::Accept {
            transfer: transfer(),
            refused: vec![
                (0, OfferRefused::NoDemand),
                (2, OfferRefused::Stale),
                (3, OfferRefused::NoDemand),
            ],
        },
        Message::Decline { transfer: transfer(), reason: OfferRefused::NotNow },
        Message::Release(transfer()),
        Message::Abort(transfer()),
        Message::Taken(transfer()),
        Message::Status(transfer()),
        Message::Wait(transfer()),
        Message::TransferUnknown(transfer()),
        Message::Forget {
            sender: LaneId([1; 16]),
            epoch: Epoch(2),
            incarnation: Incarnation(3),
            through: 4,
        },
        Message::PassSettle { ask: 1, hops_left: 2, token, content: [3; 16] },
    ];
    for answer in [PassedAnswer::Done, PassedAnswer::LeaseLost, PassedAnswer::Unknown] {
        messages.push(Message::PassedSettle { ask: 1, answer });
    }
    messages.extend(refusals().into_iter().map(Message::Refuse));
    for message in messages {
        let bytes = link::to_wire(&message).encode_to_vec();
        let wire = v1::LinkMessage::decode(&bytes[..]).expect("decodes");
        let back = link::from_wire(wire.message.expect("of a kind")).expect("well formed");
        assert_eq!(back, message);
    }
}

#[test]
fn what_no_node_says_is_malformed() {
    use v1::link_message::Message as Wire;
    let good = Message::Offer(Offer {
        transfer: transfer(),
        key: key(),
        objects: vec![full_object().into()],
        early: false,
    });
    let offer = || match link::to_wire(&good).message {
        Some(Wire::Offer(offer)) => offer,
        other => panic!("{other:?}"),
    };
    let change = |change: fn(&mut v1::Offer)| {
        let mut offer = offer();
        change(&mut offer);
        link::from_wire(Wire::Offer(offer))
    };
    assert!(change(|_| ()).is_ok());
    assert!(change(|o| o.objects.clear()).is_err());
    assert!(change(|o| o.objects[0].origin = 99).is_err());
    assert!(change(|o| o.objects[0].birth = None).is_err());
    assert!(change(|o| o.objects[0].id = bytes::Bytes::new()).is_err());
    assert!(change(|o| o.objects[0].headers = vec![9, 0, 0, 0].into()).is_err());
    assert!(change(|o| o.objects[0].path = vec![0; 9]).is_err());
    assert!(change(|o| o.lanes[0] = vec![1].into()).is_err());
    assert!(change(|o| o.names[0] = "not a type!".to_owned()).is_err());
    assert!(change(|o| o.transfer = None).is_err());
    let estate = v1::Estate {
        offer: Some(offer()),
        parked: vec![v1::ParkedObject { position: 9, reason: "rejected".to_owned() }],
    };
    assert!(link::from_wire(Wire::Estate(estate)).is_err(), "parked outside the estate");
    let empty = v1::Hello { node: "a".to_owned(), ..v1::Hello::default() };
    assert!(link::from_wire(Wire::Hello(empty)).is_err(), "without a lane");
}

/// The bytes that docs/scale.md counts with, for a type of 24 bytes and node names of 8: adverts of
/// demand at 1, 4 and 8 nodes away, one withdrawn, and a window.
#[test]
fn news_of_demand_is_small() {
    let key = DemandKey::new(Pattern::new("acme.orders.OrderPlaced1").unwrap(), name("default"));
    let bytes = |message: &Message| link::to_wire(message).encoded_len();
    let advert = |hops: u8| {
        let path = (0..hops).map(|n| (name("node-123"), LaneId([n; 16]))).collect();
        let demand = Demand { distance: 7, path, generation: generation(), window: 10_000 };
        Message::Adverts(vec![Advert { key: key.clone(), demand: Some(demand) }])
    };
    let withdrawn = Message::Adverts(vec![Advert { key: key.clone(), demand: None }]);
    let window = Message::Windows(vec![Window { key: key.clone(), total: 1_000_000 }]);
    let sizes = [&advert(1), &advert(4), &advert(8), &withdrawn, &window].map(bytes);
    assert_eq!(sizes, [102, 195, 315, 41, 45], "docs/scale.md counts with these");
}
