//! A backlog on its shelf: how many of its pages are read at a time, and in which order what they hold
//! is delivered, whatever the order in which the disk answers.

use bytes::Bytes;
use dpc_core::ids::{
    Epoch, Incarnation, LaneId, ObjectId, RecordNumber, RequestId, SessionId, SubscriptionId,
};
use dpc_core::input::{ReplyTo, Subscribe};
use dpc_core::limits::QUEUE_LOADS_MAX;
use dpc_core::message::Protocols;
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Push};
use dpc_core::record::hash_of;
use dpc_core::store::Claimed;
use dpc_core::{Core, Effect, Input, Limits, Mono, Now, Settings, Wall};

/// Objects that wait.
const OBJECTS: u8 = 200;

/// A core and its log. Nothing is read for it before the test says so.
struct Bench {
    core: Core,
    log: Vec<Bytes>,
    now: Now,
    delivered: Vec<ObjectId>,
    wanted: Vec<RecordNumber>,
}

impl Bench {
    fn start(log: Vec<Bytes>) -> Self {
        let limits = Limits { record_target_bytes: 600, window_objects: 4, ..Limits::default() };
        let settings = Settings {
            name: Name::new("node", "a").expect("valid"),
            lane: LaneId([1; 16]),
            incarnation: Incarnation(1),
            seed: 7,
            limits,
            protocols: Protocols::default(),
            fence: None,
            heir: None,
        };
        let last = RecordNumber(log.len() as u64);
        let last_hash = log.last().map_or([0; 16], |record| hash_of(record));
        let claimed = Claimed { epoch: Epoch(1), first: RecordNumber(1), last, last_hash };
        let mut core = Core::new(settings, claimed);
        for (number, record) in (1..).zip(&log) {
            core.restore(RecordNumber(number), record).expect("undamaged");
        }
        let now = Now { mono: Mono(1), wall: Wall(1_700_000_000_000) };
        let mut bench = Self { core, log, now, delivered: Vec::new(), wanted: Vec::new() };
        let mut fx = Vec::new();
        bench.core.start(now, &mut fx);
        bench.perform(fx);
        bench
    }

    fn tell(&mut self, input: Input) {
        self.now.mono.0 += 1_000;
        let mut fx = Vec::new();
        self.core.handle(self.now, input, &mut fx);
        self.core.check();
        self.perform(fx);
    }

    fn perform(&mut self, fx: Vec<Effect>) {
        for effect in fx {
            match effect {
                Effect::Load(number) => self.wanted.push(number),
                Effect::Deliver(_, delivery) => self.delivered.push(delivery.object.id),
                _ => {}
            }
        }
        while let Some(record) = self.core.take_record(self.now) {
            self.log.push(record.bytes);
            self.tell(Input::Committed(record.number));
        }
    }

    /// The disk answers one of the requests that wait.
    fn load(&mut self, which: usize) {
        let number = self.wanted.remove(which);
        let record = self.log[usize::try_from(number.0).expect("small") - 1].clone();
        self.tell(Input::Loaded(number, record));
    }
}

fn id(n: u8) -> ObjectId {
    ObjectId([n; 16])
}

/// A core with everything on its shelf.
fn backlog() -> Bench {
    let mut bench = Bench::start(Vec::new());
    for n in 0..OBJECTS {
        let ty = TypeName::from_type_url("img").expect("valid");
        let payload = Bytes::from(vec![n; 100]);
        let entity = Entity { ty, payload, headers: Headers::default() };
        let push = Push { id: Some(id(n)), entity, not_before: None, expires_at: None };
        bench.tell(Input::Push(ReplyTo { request: RequestId(1), seq: 0 }, push));
    }
    Bench::start(bench.log)
}

fn subscribe(credit: u32) -> Input {
    let subscribe = Subscribe {
        session: SessionId(1),
        subscription: SubscriptionId(1),
        pattern: Pattern::new("img").expect("valid"),
        processor: Name::new("processor", "default").expect("valid"),
        credit,
        lease: None,
    };
    Input::Subscribe(ReplyTo { request: RequestId(2), seq: 0 }, subscribe)
}

#[test]
fn one_page_is_read_for_a_subscriber_that_wants_little() {
    let mut bench = backlog();
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(2));
    assert_eq!(bench.wanted.len(), 1);
}

#[test]
fn many_pages_are_read_together_and_delivered_in_the_order_of_the_log() {
    for from_the_end in [false, true] {
        let mut bench = backlog();
        bench.tell(Input::OpenSession(SessionId(1)));
        bench.tell(subscribe(u32::from(OBJECTS)));
        assert_eq!(bench.wanted.len(), QUEUE_LOADS_MAX);
        while !bench.wanted.is_empty() {
            assert!(bench.wanted.len() <= QUEUE_LOADS_MAX, "{:?}", bench.wanted);
            bench.load(if from_the_end { bench.wanted.len() - 1 } else { 0 });
        }
        let all: Vec<ObjectId> = (0..OBJECTS).map(id).collect();
        assert_eq!(bench.delivered, all, "answered from the end: {from_the_end}");
    }
}
