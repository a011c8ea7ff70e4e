//! What the flight recorder costs on the thread of core: the same load on a core with a tape and on
//! one without, in turn. `cargo run --profile sim -p dpc-core --example recorder_cost`
//!
//! Every object is pushed, delivered and finalised, 64 in a record, with a backlog of 10,000 others
//! in memory, so that snapshots have something to copy. What the recorder's own thread does beside
//! it (leaving out contents, checksums, writing) is timed apart. Times are the thread's own on its
//! CPU, so that a busy machine does not count; Linux tells them.

use std::time::Duration;

use dpc_core::effect::Effect;
use dpc_core::ids::{
    Epoch, Incarnation, LaneId, ObjectId, RecordNumber, RequestId, SessionId, SubscriptionId,
};
use dpc_core::input::{LeaseRef, Lessee, ReplyTo, Settle, Subscribe, Verb};
use dpc_core::message::Protocols;
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Push};
use dpc_core::recording::{Chunk, Tape, TapeBounds};
use dpc_core::store::Claimed;
use dpc_core::{Core, Effects, Input, Limits, Mono, Now, Settings, Wall};

/// Objects of one round.
const OBJECTS: u64 = 100_000;

/// Objects of one record.
const GROUP: u64 = 64;

/// Objects that wait all the time.
const BACKLOG: u64 = 10_000;

/// What is beside core's thread is done so often in a row: once is over before Linux has looked at
/// the time.
const SEALINGS: u32 = 20;

/// Pairs of rounds.
const ROUNDS: usize = 9;

/// As a node of the default configuration has them.
const BOUNDS: TapeBounds =
    TapeBounds { segment_bytes: 32 << 20, chunk_bytes: 64 << 10, slice_bytes: 4 << 10 };

struct Bench {
    core: Core,
    tape: Option<Tape>,
    chunks: Vec<Chunk>,
    fx: Effects,
    micros: u64,
    last: u64,
}

impl Bench {
    fn new(recorded: bool) -> Self {
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
        let tape = recorded.then(|| Tape::new(&mut core, BOUNDS));
        let fx = Effects::new();
        let mut bench = Self { core, tape, chunks: Vec::new(), fx, micros: 0, last: 0 };
        for _ in 0..BACKLOG / GROUP {
            bench.push("acme.Waits");
        }
        bench.handle(Input::OpenSession(SessionId(1)));
        bench.handle(Input::Subscribe(
            ReplyTo { request: RequestId(1), seq: 0 },
            Subscribe {
                session: SessionId(1),
                subscription: SubscriptionId(1),
                pattern: Pattern::new("acme.Flows").expect("valid"),
                processor: Name::new("processor", "default").expect("valid"),
                credit: 1_024,
                lease: None,
            },
        ));
        bench
    }

    fn now(&mut self) -> Now {
        self.micros += 5;
        Now { mono: Mono(self.micros), wall: wall(self.micros) }
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

    fn push(&mut self, ty: &str) {
        for _ in 0..GROUP {
            self.last += 1;
            let mut id = [0; 16];
            id[8..].copy_from_slice(&self.last.to_be_bytes());
            let entity = Entity {
                ty: TypeName::from_type_url(ty).expect("valid"),
                payload: vec![7; 512].into(),
                headers: Headers::default(),
            };
            let push = Push { id: Some(ObjectId(id)), entity, not_before: None, expires_at: None };
            let to = ReplyTo { request: RequestId(2), seq: self.last };
            self.handle(Input::Push(to, push));
        }
        self.commit();
    }

    /// One group of objects from push to end.
    fn group(&mut self) {
        self.push("acme.Flows");
        let delivered: Vec<LeaseRef> = std::mem::take(&mut self.fx)
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Deliver(_, delivery) => Some(LeaseRef::Number(delivery.lease)),
                _ => None,
            })
            .collect();
        assert_eq!(delivered.len() as u64, GROUP, "everything is delivered at once");
        let settle = Settle { leases: delivered, verb: Verb::Finalise, emits: Vec::new() };
        let to = ReplyTo { request: RequestId(3), seq: self.last };
        self.handle(Input::Settle(to, Lessee::Session(SessionId(1)), settle));
        self.commit();
        self.fx.clear();
    }
}

fn wall(micros: u64) -> Wall {
    Wall(1_700_000_000_000 + micros / 1_000)
}

/// The time of one round, and of what the recorder's thread would do with it.
fn round(recorded: bool) -> (Duration, Duration, usize) {
    let mut bench = Bench::new(recorded);
    bench.chunks.clear();
    let began = on_cpu();
    for _ in 0..OBJECTS / GROUP {
        bench.group();
    }
    let took = on_cpu() - began;
    let began = on_cpu();
    let mut bytes = 0;
    for _ in 0..SEALINGS {
        bytes = bench.chunks.iter().map(|chunk| chunk.seal("a program").len()).sum();
    }
    (took, (on_cpu() - began) / SEALINGS, bytes)
}

/// How long this thread has been on a CPU.
fn on_cpu() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanos = told.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

fn main() {
    let mut pairs = Vec::new();
    let mut sealing = Vec::new();
    let mut size = 0;
    for n in 0..=ROUNDS {
        let (plain, ..) = round(false);
        let (recorded, sealed, bytes) = round(true);
        // The first pair warms up.
        if n > 0 {
            pairs.push((plain, recorded));
            sealing.push(sealed);
            size = bytes;
        }
    }
    let per_object = |d: Duration| d.as_secs_f64() * 1e6 / OBJECTS as f64;
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let plain = median(pairs.iter().map(|(plain, _)| per_object(*plain)).collect());
    let more = median(pairs.iter().map(|(p, r)| per_object(*r) - per_object(*p)).collect());
    let beside = median(sealing.into_iter().map(per_object).collect());
    println!("core without a tape      {plain:.3} us an object");
    let percent = more / plain * 100.0;
    println!(
        "the tape                 {more:.3} us an object more ({percent:.1} % of core alone), median of {ROUNDS} pairs"
    );
    println!("beside, on its thread    {beside:.3} us an object, besides writing");
    println!("recorded                 {} bytes an object", size as u64 / OBJECTS);
}
