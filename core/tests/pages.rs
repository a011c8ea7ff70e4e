//! A backlog on its shelf: how many of its pages are read at a time, and in which order what they hold
//! is delivered, whatever the order in which the disk answers.

use std::collections::VecDeque;

use bytes::Bytes;
use dpc_core::ids::{
    Epoch, Incarnation, LaneId, ObjectId, RecordNumber, RequestId, SessionId, SubscriptionId,
};
use dpc_core::input::{LeaseRef, Lessee, ReplyTo, Settle, Subscribe, Verb};
use dpc_core::limits::QUEUE_LOADS_MAX;
use dpc_core::message::Protocols;
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Push};
use dpc_core::record::hash_of;
use dpc_core::store::Claimed;
use dpc_core::{Core, Effect, Input, Limits, Mono, Now, Settings, Wall};

/// Objects that wait.
const OBJECTS: u8 = 200;

/// So many types in a record that its page says of each position where it stands.
const MANY: u8 = 20;

/// A core and its log. Nothing is read for it before the test says so.
struct Bench {
    core: Core,
    log: Vec<Bytes>,
    now: Now,
    delivered: Vec<ObjectId>,
    leases: VecDeque<LeaseRef>,
    wanted: Vec<RecordNumber>,
}

impl Bench {
    fn start(log: Vec<Bytes>, window_objects: usize) -> Self {
        let limits = Limits {
            record_target_bytes: 6_000,
            window_objects,
            // Some forty objects.
            window_bytes: 16_000,
            ..Limits::default()
        };
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
        let mut bench = Self {
            core,
            log,
            now,
            delivered: Vec::new(),
            leases: VecDeque::new(),
            wanted: Vec::new(),
        };
        let mut fx = Vec::new();
        bench.core.start(now, &mut fx);
        bench.perform(fx);
        bench
    }

    fn tell(&mut self, input: Input) {
        let fx = self.hand_over(input);
        self.perform(fx);
    }

    /// Tells the core, and takes no record of it yet.
    fn hand_over(&mut self, input: Input) -> Vec<Effect> {
        self.now.mono.0 += 1_000;
        let mut fx = Vec::new();
        self.core.handle(self.now, input, &mut fx);
        self.core.check();
        fx
    }

    fn perform(&mut self, fx: Vec<Effect>) {
        for effect in fx {
            match effect {
                Effect::Load(number) => self.wanted.push(number),
                Effect::Deliver(_, delivery) => {
                    self.delivered.push(delivery.object.id);
                    self.leases.push_back(LeaseRef::Number(delivery.lease));
                }
                _ => {}
            }
        }
        while let Some(record) = self.core.take_record(self.now) {
            self.log.push(record.bytes);
            self.tell(Input::Committed(record.number));
        }
    }

    /// The subscriber finalises the oldest of what it has.
    fn settle_one(&mut self) {
        let leases = vec![self.leases.pop_front().expect("something is delivered")];
        let settle = Settle::new(leases, Verb::Finalise, Vec::new());
        let to = ReplyTo { request: RequestId(3), seq: 0 };
        self.tell(Input::Settle(to, Lessee::Session(SessionId(1)), settle));
    }

    /// The disk answers one of the requests that wait.
    fn load(&mut self, which: usize) {
        let number = self.wanted.remove(which);
        let record = self.log[usize::try_from(number.0).expect("small") - 1].clone();
        self.tell(Input::Loaded(number, record));
    }

    /// Everything is delivered and settled, one by one. Tells how many pages were read for that.
    fn drain(&mut self) -> usize {
        let mut read = 0;
        while self.delivered.len() < usize::from(OBJECTS) {
            self.settle_one();
            read += self.load_all();
        }
        read
    }

    /// It answers all of them, and those that follow from them. Tells how many there were.
    fn load_all(&mut self) -> usize {
        let mut read = 0;
        while !self.wanted.is_empty() {
            self.load(0);
            read += 1;
        }
        read
    }
}

fn id(n: u8) -> ObjectId {
    ObjectId([n; 16])
}

/// A core with everything on its shelf: in each record one object of each type.
fn backlog(types: u8, window_objects: usize) -> Bench {
    let mut bench = Bench::start(Vec::new(), window_objects);
    let mut fx = Vec::new();
    for n in 0..OBJECTS {
        let ty = TypeName::from_type_url(&type_of(n % types)).expect("valid");
        let payload = Bytes::from(vec![n; 100]);
        let entity = Entity { ty, payload, headers: Headers::default() };
        let push = Push::new(Some(id(n)), entity);
        fx.extend(bench.hand_over(Input::Push(ReplyTo { request: RequestId(1), seq: 0 }, push)));
        if (n + 1) % types == 0 {
            bench.perform(std::mem::take(&mut fx));
        }
    }
    Bench::start(bench.log, window_objects)
}

fn type_of(n: u8) -> String {
    format!("img{n}")
}

fn subscribe(ty: u8, credit: u32) -> Input {
    subscribe_to(&type_of(ty), ty, credit)
}

fn subscribe_to(pattern: &str, subscription: u8, credit: u32) -> Input {
    let subscribe = Subscribe {
        session: SessionId(1),
        subscription: SubscriptionId(subscription.into()),
        pattern: Pattern::new(pattern).expect("valid"),
        processor: Name::new("processor", "default").expect("valid"),
        credit,
        lease: None,
    };
    Input::Subscribe(ReplyTo { request: RequestId(2), seq: 0 }, subscribe)
}

#[test]
fn one_page_is_read_for_a_subscriber_that_wants_little() {
    let mut bench = backlog(1, 4);
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(0, 2));
    assert_eq!(bench.wanted.len(), 1);
}

#[test]
fn many_pages_are_read_together_and_delivered_in_the_order_of_the_log() {
    for from_the_end in [false, true] {
        let mut bench = backlog(1, 4);
        bench.tell(Input::OpenSession(SessionId(1)));
        bench.tell(subscribe(0, u32::from(OBJECTS)));
        assert_eq!(bench.wanted.len(), QUEUE_LOADS_MAX);
        while !bench.wanted.is_empty() {
            assert!(bench.wanted.len() <= QUEUE_LOADS_MAX, "{:?}", bench.wanted);
            bench.load(if from_the_end { bench.wanted.len() - 1 } else { 0 });
        }
        let all: Vec<ObjectId> = (0..OBJECTS).map(id).collect();
        assert_eq!(bench.delivered, all, "answered from the end: {from_the_end}");
    }
}

#[test]
fn what_is_read_for_one_type_is_not_read_again_for_the_others() {
    for types in [10, MANY] {
        let mut bench = backlog(types, 64);
        bench.tell(Input::OpenSession(SessionId(1)));
        let mut read = 0;
        for ty in 0..types {
            bench.tell(subscribe(ty, 1));
            read += bench.load_all();
        }
        read += bench.drain();
        // The first of them are read for each type anew: nobody wants the others yet when it is subscribed to.
        let most = usize::from(OBJECTS / types) + 2 * usize::from(types);
        assert!(read <= most, "{types} types: {read} pages were read, {most} were to be");
    }
}

#[test]
fn who_wants_everything_has_its_pages_read_once() {
    for types in [10, MANY] {
        let mut bench = backlog(types, 64);
        bench.tell(Input::OpenSession(SessionId(1)));
        bench.tell(subscribe_to("*", 1, u32::from(types)));
        let read = bench.load_all() + bench.drain();
        assert_eq!(read, usize::from(OBJECTS / types), "{types} types");
    }
}
