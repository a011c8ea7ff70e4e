//! A core in a loop: what a driver would tell it, with a store that takes every record at once.

use std::collections::BTreeMap;
use std::fmt;

use dpc_core::effect::Effect;
use dpc_core::ids::{
    Epoch, Incarnation, LaneId, LinkId, ObjectId, RecordNumber, RequestId, SessionId,
    SubscriptionId,
};
use dpc_core::input::{LeaseRef, Lessee, ReplyTo, Settle, Subscribe, Verb};
use dpc_core::message::{
    Advert, Demand, DemandKey, Hello, LaneHello, Message, PROTOCOL, Path, Protocols,
};
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Generation, Headers, Push};
use dpc_core::recording::{Chunk, Tape, TapeBounds};
use dpc_core::store::Claimed;
use dpc_core::{Core, Effects, Input, Limits, Mono, Now, Settings, Wall};

/// Objects of one record.
pub(crate) const GROUP: u64 = 64;

/// Subscriptions of one stream.
const STREAM: u64 = 10;

/// What is around the objects that flow.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    /// Types of objects that flow, in turn.
    pub(crate) types: usize,
    /// Bytes of a payload.
    pub(crate) bytes: usize,
    /// Others that nobody wants and that wait.
    pub(crate) backlog: u64,
    /// Peers that want each of the types, too.
    pub(crate) neighbours: u64,
    /// Subscriptions to all of the types under one processor's name, ten a stream.
    pub(crate) subscriptions: u64,
}

impl fmt::Debug for Around {
    /// What is not as usual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |a: &Self| {
            let (types, bytes) = (a.types as u64, a.bytes as u64);
            [types, bytes, a.backlog, a.neighbours, a.subscriptions]
        };
        let what = ["types", "bytes", "waiting", "neighbours", "subscriptions"];
        let all = what.into_iter().zip(of(self)).zip(of(&Self::default()));
        let unusual = all.filter(|((_, n), usual)| n != usual);
        let said: Vec<String> = unusual.map(|((what, n), _)| format!("{n} {what}")).collect();
        f.write_str(if said.is_empty() { "as usual" } else { "" })?;
        f.write_str(&said.join(", "))
    }
}

impl Default for Around {
    fn default() -> Self {
        Self { types: 1, bytes: 200, backlog: 0, neighbours: 0, subscriptions: 1 }
    }
}

/// A core with subscribers to everything below `flows`.
pub(crate) struct Bare {
    core: Core,
    tape: Option<Tape>,
    /// What the tape has filled.
    pub(crate) chunks: Vec<Chunk>,
    fx: Effects,
    micros: u64,
    last: u64,
    /// Types of objects that flow, in turn.
    types: Vec<TypeName>,
    /// A push of each.
    pushes: Vec<Push>,
}

impl Bare {
    /// Is recorded, if it is given a tape's bounds.
    pub(crate) fn new(around: Around, recorded: Option<TapeBounds>) -> Self {
        let settings = Settings {
            name: Name::new("node", "n").expect("valid"),
            lane: LaneId([7; 16]),
            incarnation: Incarnation(9),
            seed: 3,
            limits: Limits { window_objects: 20_000, ..Limits::default() },
            fence: None,
            heir: None,
            protocols: Protocols::default(),
        };
        let (first, last) = (RecordNumber(1), RecordNumber(0));
        let claimed = Claimed { epoch: Epoch(1), first, last, last_hash: [0; 16] };
        let mut core = Core::new(settings, claimed);
        core.start(Now { mono: Mono(0), wall: wall(0) }, &mut Effects::new());
        let tape = recorded.map(|bounds| Tape::new(&mut core, bounds));
        let mut bare = Self {
            core,
            tape,
            chunks: Vec::new(),
            fx: Effects::new(),
            micros: 0,
            last: 0,
            types: (0..around.types).map(|n| type_name(&format!("flows.T{n}"))).collect(),
            pushes: Vec::new(),
        };
        let payload = bytes::Bytes::from(vec![7; around.bytes]);
        let push_of = |ty| {
            Push::new(None, Entity { ty, payload: payload.clone(), headers: Headers::default() })
        };
        bare.pushes = bare.types.iter().cloned().map(push_of).collect();
        let waits = push_of(type_name("waits.Waits"));
        (1..=around.neighbours).for_each(|n| bare.link(n));
        for _ in 0..around.backlog / GROUP {
            (0..GROUP).for_each(|_| bare.push(waits.clone()));
            bare.commit();
        }
        (0..around.subscriptions).for_each(|n| bare.subscribe(n));
        bare
    }

    fn subscribe(&mut self, n: u64) {
        let session = SessionId(1 + n / STREAM);
        if n.is_multiple_of(STREAM) {
            self.handle(Input::OpenSession(session));
        }
        let subscribe = Subscribe {
            session,
            subscription: SubscriptionId(1 + n % STREAM),
            pattern: Pattern::new("flows.*").expect("valid"),
            processor: Name::new("processor", "default").expect("valid"),
            credit: 1_024,
            lease: None,
        };
        self.handle(Input::Subscribe(ReplyTo { request: RequestId(1), seq: 0 }, subscribe));
        self.fx.clear();
    }

    /// A peer that wants all the types by a processor of its own.
    fn link(&mut self, n: u64) {
        let (link, name) = (LinkId(n), Name::new("node", &format!("p{n}")).expect("valid"));
        let mut lane = [9; 16];
        lane[8..].copy_from_slice(&n.to_be_bytes());
        let (lane, epoch, incarnation) = (LaneId(lane), Epoch(1), Incarnation(9));
        let (number, hash) = (RecordNumber(1), [0; 16]);
        self.handle(Input::LinkUp { link, dialled: false });
        let hello = Hello {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL,
            name: name.clone(),
            lanes: vec![LaneHello { lane, epoch, incarnation, number, hash }],
            generation: 0,
            known: Vec::new(),
        };
        self.handle(Input::Peer(link, Message::Hello(hello)));
        let path: Path = [(name, lane)].into();
        let adverts = self.types.iter().zip(1..).map(|(ty, counter)| Advert {
            key: DemandKey::new(
                Pattern::new(ty.as_str()).expect("valid"),
                Name::new("processor", "theirs").expect("valid"),
            ),
            demand: Some(Demand {
                distance: 0,
                path: path.clone(),
                generation: Generation { counter, lane, incarnation },
                window: 1_024,
            }),
        });
        let adverts: Vec<Advert> = adverts.collect();
        for some in adverts.chunks(1_000) {
            self.handle(Input::Peer(link, Message::Adverts(some.to_vec())));
        }
        self.commit();
        self.fx.clear();
    }

    /// One group of objects from push to end: [`GROUP`] pushes, one settle for each stream that was
    /// given some, two records.
    pub(crate) fn group(&mut self) {
        for n in 0..GROUP {
            let ty = (self.last + n) as usize % self.types.len();
            self.push(self.pushes[ty].clone());
        }
        self.commit();
        let mut leases = BTreeMap::<SessionId, Vec<LeaseRef>>::new();
        for effect in self.fx.drain(..) {
            if let Effect::Deliver(session, delivery) = effect {
                leases.entry(session).or_default().push(LeaseRef::Number(delivery.lease));
            }
        }
        let delivered: usize = leases.values().map(Vec::len).sum();
        assert_eq!(delivered as u64, GROUP, "everything is delivered at once");
        for (session, leases) in leases {
            let settle = Settle::new(leases, Verb::Finalise, Vec::new());
            let to = ReplyTo { request: RequestId(3), seq: self.last };
            self.handle(Input::Settle(to, Lessee::Session(session), settle));
        }
        self.commit();
        self.fx.clear();
    }

    fn push(&mut self, mut push: Push) {
        self.last += 1;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.last.to_be_bytes());
        push.id = Some(ObjectId(id));
        let to = ReplyTo { request: RequestId(2), seq: self.last };
        self.handle(Input::Push(to, push));
    }

    fn commit(&mut self) {
        loop {
            let now = self.now();
            let record = self.core.take_record(now);
            if let Some(tape) = &mut self.tape {
                tape.take(now, record.as_ref());
            }
            let Some(record) = record else { return };
            self.handle(Input::Committed(record.number));
        }
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        if let Some(tape) = &mut self.tape {
            tape.call(now, &input);
        }
        let before = self.fx.len();
        self.core.handle(now, input, &mut self.fx);
        if let Some(tape) = &mut self.tape {
            tape.outcome(&mut self.core, &self.fx[before..]);
            self.chunks.extend(tape.take_full());
        }
    }

    fn now(&mut self) -> Now {
        self.micros += 5;
        Now { mono: Mono(self.micros), wall: wall(self.micros) }
    }
}

fn type_name(text: &str) -> TypeName {
    TypeName::from_type_url(text).expect("valid")
}

fn wall(micros: u64) -> Wall {
    Wall(1_700_000_000_000 + micros / 1_000)
}
