//! The state machine alone, driven in a loop: pushes, commits, deliveries and settles of the same
//! core that a node runs, with a store that takes everything at once.

use std::time::Instant;

use bytes::Bytes;
use dpc_core::effect::Effect;
use dpc_core::ids::{
    Epoch, Incarnation, LaneId, RecordNumber, RequestId, SessionId, SubscriptionId,
};
use dpc_core::input::{LeaseRef, Lessee, ReplyTo, Settle, Subscribe, Verb};
use dpc_core::limits::Limits;
use dpc_core::message::Protocols;
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Push};
use dpc_core::store::Claimed;
use dpc_core::time::{Mono, Now, Wall};
use dpc_core::{Core, Effects, Input, Settings};

use super::load;
use super::meter::{Meter, Used};
use super::plan::Plan;

/// Pushes between two commits: what a busy node gathers in one.
const GROUP: u64 = 256;

/// Leases of one settle.
const LEASES: usize = 256;

const SESSION: SessionId = SessionId(1);

/// The types that are subscribed to are below this one.
const WANTED: &str = "wanted";

/// Pushes, delivers and finalises the objects of the plan, beside its backlog of others that nobody wants.
/// Each is two transitions: the push, and the settle. Returns how many there were.
pub(super) fn measure(plan: &Plan) -> (u64, Used) {
    let mut bench = Bench::new(plan);
    let waiting = bench.kinds_of("waiting", plan.types);
    let mut backlog = plan.backlog as u64;
    while backlog > 0 {
        backlog -= bench.push_some(backlog, &waiting);
        bench.commit();
    }
    assert!(bench.leases.is_empty(), "nobody wants the backlog");
    let wanted = bench.kinds_of(WANTED, plan.types);
    let meter = Meter::begin(Vec::new());
    let mut left = plan.objects;
    while left > 0 {
        left -= bench.push_some(left, &wanted);
        bench.commit();
        bench.settle();
    }
    bench.commit();
    assert_eq!(bench.settled, plan.objects, "everything that was pushed is settled");
    (2 * plan.objects, meter.used())
}

struct Bench {
    core: Core,
    fx: Effects,
    began: Instant,
    payload: Bytes,
    next_kind: usize,
    request: u64,
    leases: Vec<LeaseRef>,
    settled: u64,
}

impl Bench {
    fn new(plan: &Plan) -> Self {
        let settings = Settings {
            name: Name::new("name", "bench").expect("a valid name"),
            lane: LaneId([1; 16]),
            incarnation: Incarnation(1),
            seed: 1,
            limits: Limits::default(),
            protocols: Protocols::default(),
            fence: None,
            heir: None,
        };
        let claimed = Claimed {
            epoch: Epoch(1),
            first: RecordNumber(1),
            last: RecordNumber(0),
            last_hash: [0; 16],
        };
        let mut bench = Self {
            core: Core::new(settings, claimed),
            fx: Effects::new(),
            began: Instant::now(),
            payload: load::payload(plan.size),
            next_kind: 0,
            request: 0,
            leases: Vec::new(),
            settled: 0,
        };
        let now = bench.now();
        bench.core.start(now, &mut bench.fx);
        bench.handle(now, Input::OpenSession(SESSION));
        bench.subscribe();
        bench
    }

    fn subscribe(&mut self) {
        let subscribe = Subscribe {
            session: SESSION,
            subscription: SubscriptionId(1),
            pattern: Pattern::new(&format!("bench.{WANTED}.*")).expect("a prefix is a pattern"),
            processor: Name::new("processor", "bench").expect("a valid name"),
            credit: Limits::default().credit_max,
            lease: None,
        };
        let to = self.next_reply();
        self.handle(self.now(), Input::Subscribe(to, subscribe));
    }

    /// A push of each type, as the node's edge makes it of a client's message: its content is hashed there.
    fn kinds_of(&self, kind: &str, count: usize) -> Vec<Push> {
        let push = |n| {
            let ty = TypeName::from_type_url(&format!("bench.{kind}.T{n}")).expect("a valid name");
            let payload = self.payload.clone();
            Push::new(None, Entity { ty, payload, headers: Headers::default() })
        };
        (0..count).map(push).collect()
    }

    /// Pushes a group of so many at most. Tells how many.
    fn push_some(&mut self, most: u64, kinds: &[Push]) -> u64 {
        let (group, now) = (GROUP.min(most), self.now());
        for _ in 0..group {
            let push = kinds[self.next_kind].clone();
            self.next_kind = (self.next_kind + 1) % kinds.len();
            let to = self.next_reply();
            self.handle(now, Input::Push(to, push));
        }
        group
    }

    /// Settles what has been delivered.
    fn settle(&mut self) {
        let (leases, now) = (std::mem::take(&mut self.leases), self.now());
        for some in leases.chunks(LEASES) {
            let settle = Settle::new(some.to_vec(), Verb::Finalise, Vec::new());
            let to = self.next_reply();
            self.handle(now, Input::Settle(to, Lessee::Session(SESSION), settle));
            self.settled += some.len() as u64;
        }
    }

    /// The store takes each record at once, and the history follows it.
    fn commit(&mut self) {
        let now = self.now();
        while let Some(record) = self.core.take_record(now) {
            self.handle(now, Input::Committed(record.number));
            self.handle(now, Input::HistoryStands(record.number.next()));
        }
    }

    /// Handles one input of those that have come by this moment: a node, too, looks at its clock once for them.
    fn handle(&mut self, now: Now, input: Input) {
        self.core.handle(now, input, &mut self.fx);
        for effect in self.fx.drain(..) {
            if let Effect::Deliver(_, delivery) = effect {
                self.leases.push(LeaseRef::Number(delivery.lease));
            }
        }
    }

    fn next_reply(&mut self) -> ReplyTo {
        self.request += 1;
        ReplyTo { request: RequestId(1), seq: self.request }
    }

    fn now(&self) -> Now {
        let us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now { mono: Mono(us), wall: Wall(1_700_000_000_000 + us / 1_000) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::Where;

    #[test]
    fn every_object_is_pushed_and_settled() {
        let plan = Plan {
            figures: Vec::new(),
            objects: 1_000,
            size: 10,
            window: 1,
            backlog: 64,
            producers: 1,
            subscribers: 1,
            types: 3,
            rate: 1,
            span: Duration::from_secs(1),
            at: Where::Running(Vec::new()),
        };
        let (transitions, _) = measure(&plan);
        assert_eq!(transitions, 2_000);
    }
}
