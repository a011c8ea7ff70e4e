//! One core by itself, with a store that commits at once: the shortest whole story.

use bytes::Bytes;
use dpc_core::ids::{
    Epoch, Incarnation, LaneId, ObjectId, RecordNumber, RequestId, SessionId, SubscriptionId,
};
use dpc_core::input::{
    LeaseRef, Lessee, ListState, Operator, ReplyTo, Settle, Subscribe, Transaction, Verb,
};
use dpc_core::message::Protocols;
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Push, Time};
use dpc_core::record::HEADER_BYTES;
use dpc_core::refusal::Code;
use dpc_core::store::Claimed;
use dpc_core::view::State;
use dpc_core::{Answer, Core, Effect, Input, Limits, Mono, Now, Settings, Span, Wall};

/// A core, its log, and everything it said.
struct Bench {
    core: Core,
    log: Vec<Bytes>,
    now: Now,
    said: Vec<Effect>,
}

impl Bench {
    fn start(log: Vec<Bytes>, incarnation: u64) -> Self {
        Self::start_from(RecordNumber(1), Limits::default(), log, incarnation)
    }

    /// A core that takes over what a log says from a record on: the first one, or a checkpoint.
    fn start_from(first: RecordNumber, limits: Limits, log: Vec<Bytes>, incarnation: u64) -> Self {
        let settings = Settings {
            name: Name::new("node", "a").expect("valid"),
            lane: LaneId([1; 16]),
            incarnation: Incarnation(incarnation),
            seed: 7,
            limits,
            protocols: Protocols::default(),
            fence: None,
            heir: None,
        };
        let last = RecordNumber(log.len() as u64);
        let last_hash = log.last().map_or([0; 16], |r| dpc_core::record::hash_of(r));
        let claimed = Claimed { epoch: Epoch(incarnation), first, last, last_hash };
        let mut core = Core::new(settings, claimed);
        for (number, record) in (1..).zip(&log).skip(first.0 as usize - 1) {
            core.restore(RecordNumber(number), record).expect("undamaged");
        }
        let now = Now { mono: Mono(1), wall: Wall(1_700_000_000_000) };
        let mut bench = Self { core, log, now, said: Vec::new() };
        let mut fx = Vec::new();
        bench.core.start(now, &mut fx);
        bench.perform(fx);
        bench
    }

    fn tell(&mut self, input: Input) {
        self.now.mono.0 += 1_000;
        self.now.wall.0 += 1;
        let mut fx = Vec::new();
        self.core.handle(self.now, input, &mut fx);
        self.perform(fx);
    }

    /// Performs effects until nothing more follows.
    fn perform(&mut self, fx: Vec<Effect>) {
        let load = |effect: &Effect| match effect {
            Effect::Load(number) => Some(*number),
            _ => None,
        };
        let loads: Vec<RecordNumber> = fx.iter().filter_map(load).collect();
        self.said.extend(fx);
        for number in loads {
            let bytes = self.log[number.0 as usize - 1].clone();
            self.tell(Input::Loaded(number, bytes));
        }
        while let Some(record) = self.core.take_record(self.now) {
            self.log.push(record.bytes);
            self.tell(Input::Committed(record.number));
        }
    }

    fn deliveries(&mut self) -> Vec<(ObjectId, u64)> {
        let said = std::mem::take(&mut self.said);
        said.into_iter()
            .filter_map(|e| match e {
                Effect::Deliver(_, d) => Some((d.object.id, d.lease)),
                _ => None,
            })
            .collect()
    }

    /// What a request was answered first: of a settle, what was refused before what was done.
    fn answer(&mut self, request: u64) -> Answer {
        let said = std::mem::take(&mut self.said);
        let answer = said.into_iter().find_map(|e| match e {
            Effect::Reply { to, answer, .. } if to.request == RequestId(request) => Some(answer),
            _ => None,
        });
        answer.expect("every request is answered")
    }

    fn state(&mut self, id: ObjectId) -> State {
        self.tell(Input::Operator(to(99), Operator::Inspect(id)));
        let said = std::mem::take(&mut self.said);
        let view = said.into_iter().rev().find_map(|e| match e {
            Effect::Reply { answer: Answer::View(view), .. } => Some(view),
            _ => None,
        });
        view.expect("every question is answered").state
    }
}

fn to(request: u64) -> ReplyTo {
    ReplyTo { request: RequestId(request), seq: 0 }
}

fn entity(text: &'static str) -> Entity {
    let ty = TypeName::from_type_url("img").expect("valid");
    Entity { ty, payload: Bytes::from_static(text.as_bytes()), headers: Headers::default() }
}

fn push(id: u8, text: &'static str) -> Input {
    let id = Some(ObjectId([id; 16]));
    Input::Push(to(1), Push::new(id, entity(text)))
}

fn subscribe(credit: u32) -> Input {
    subscribe_to("img", credit)
}

fn subscribe_to(pattern: &str, credit: u32) -> Input {
    Input::Subscribe(
        to(2),
        Subscribe {
            session: SessionId(1),
            subscription: SubscriptionId(1),
            pattern: Pattern::new(pattern).expect("valid"),
            processor: Name::new("processor", "default").expect("valid"),
            credit,
            lease: None,
        },
    )
}

fn finalise(lease: u64) -> Input {
    let settle = Settle::new(vec![LeaseRef::Number(lease)], Verb::Finalise, Vec::new());
    Input::Settle(to(3), Lessee::Session(SessionId(1)), settle)
}

#[test]
fn an_object_is_pushed_delivered_finalised_and_stays_so_after_a_restart() {
    let mut bench = Bench::start(Vec::new(), 1);
    bench.tell(push(1, "a"));
    bench.tell(push(2, "b"));
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(1));
    let delivered = bench.deliveries();
    assert_eq!(delivered.iter().map(|d| d.0).collect::<Vec<_>>(), [ObjectId([1; 16])]);
    bench.tell(finalise(delivered[0].1));
    assert_eq!(bench.deliveries().len(), 1, "the credit that the settle freed is used");
    assert_eq!(bench.state(ObjectId([1; 16])), State::Final);
    assert_eq!(bench.state(ObjectId([2; 16])), State::Leased);

    let mut again = Bench::start(bench.log, 2);
    assert_eq!(again.state(ObjectId([1; 16])), State::Final);
    assert_eq!(again.state(ObjectId([2; 16])), State::Ready);
    again.tell(push(1, "a"));
    let already = |e: &Effect| {
        matches!(e, Effect::Reply { answer: Answer::Pushed { already: true, .. }, .. })
    };
    assert!(again.said.iter().any(already), "a push that is repeated makes no second object");
    again.tell(push(1, "another body"));
    let reused = |e: &Effect| matches!(e, Effect::Reply { answer: Answer::Refused(r), .. } if r.reason == "ID_REUSED");
    assert!(again.said.iter().any(reused));
    again.tell(Input::OpenSession(SessionId(1)));
    again.tell(subscribe(5));
    assert_eq!(again.deliveries().iter().map(|d| d.0).collect::<Vec<_>>(), [ObjectId([2; 16])]);
}

/// A push of this type with this much payload.
fn big(id: u8, bytes: usize) -> Push {
    let ty = TypeName::from_type_url("big").expect("valid");
    let entity = Entity { ty, payload: Bytes::from(vec![id; bytes]), headers: Headers::default() };
    Push::new(Some(ObjectId([id; 16])), entity)
}

#[test]
fn a_settle_and_its_emits_stand_in_one_record_however_large() {
    let mut bench = Bench::start(Vec::new(), 1);
    bench.tell(push(1, "a"));
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(1));
    let lease = bench.deliveries()[0].1;
    let before = bench.log.len();
    let settle = Settle::new(
        vec![LeaseRef::Number(lease)],
        Verb::Finalise,
        vec![big(2, 60_000), big(3, 60_000)],
    );
    bench.tell(Input::Settle(to(3), Lessee::Session(SessionId(1)), settle));
    let with_work = bench.log[before..]
        .iter()
        .map(|record| dpc_core::record::entries(record).expect("undamaged").1)
        .filter(|entries| dpc_core::record::mentions(entries).next().is_some());
    assert_eq!(with_work.count(), 1, "a settle whose emits stand elsewhere can be cut in two");
}

fn settle(lease: u64, verb: Verb, emits: Vec<Push>) -> Input {
    let settle = Settle::new(vec![LeaseRef::Number(lease)], verb, emits);
    Input::Settle(to(3), Lessee::Session(SessionId(1)), settle)
}

fn unsubscribe() -> Input {
    Input::Unsubscribe(to(4), SessionId(1), SubscriptionId(1))
}

#[test]
fn a_lease_outlives_its_subscription_and_counts_for_the_next_of_its_number() {
    let mut bench = Bench::start(Vec::new(), 1);
    (1..=4).for_each(|id| bench.tell(push(id, "a")));
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(2));
    let leases = bench.deliveries();
    bench.tell(unsubscribe());
    bench.tell(subscribe(2));
    assert_eq!(bench.deliveries().len(), 0, "two deliveries are unsettled: no credit is free");
    bench.tell(finalise(leases[0].1));
    assert_eq!(bench.deliveries().len(), 1);
    bench.tell(unsubscribe());
    bench.tell(settle(leases[1].1, Verb::Advance(None), Vec::new()));
    assert_eq!(bench.state(leases[1].0), State::Ready, "handled by its processor, alive");
}

#[test]
fn credit_lowered_below_what_is_in_flight_delivers_nothing_until_it_is_free() {
    let mut bench = Bench::start(Vec::new(), 1);
    (1..=2).for_each(|id| bench.tell(push(id, "a")));
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(10));
    assert_eq!(bench.deliveries().len(), 2);
    bench.tell(subscribe(1));
    bench.tell(push(3, "a"));
    assert_eq!(bench.deliveries().len(), 0);
}

#[test]
fn one_request_that_names_an_id_twice_is_refused() {
    let mut bench = Bench::start(Vec::new(), 1);
    bench.tell(push(1, "a"));
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(1));
    let lease = bench.deliveries()[0].1;
    bench.tell(settle(lease, Verb::Finalise, vec![big(2, 1), big(2, 1)]));
    let twice = |e: &Effect| matches!(e, Effect::Reply { answer: Answer::Refused(r), .. } if r.reason == "ID_TWICE");
    assert!(bench.said.iter().any(twice));
    assert_eq!(bench.state(ObjectId([1; 16])), State::Leased);
}

/// A disk below its reserve refuses what would take room, not the answer to what was done (P3).
#[test]
fn a_repeated_advance_gets_its_answer_on_a_disk_below_its_reserve() {
    let advance = |lease: u64| {
        let entity = entity("b");
        let id = Some(ObjectId([9; 16]));
        let emit = Push::new(id, entity.clone());
        let verb = Verb::Advance(Some(entity));
        let settle = Settle::new(vec![LeaseRef::Number(lease)], verb, vec![emit]);
        Input::Settle(to(3), Lessee::Session(SessionId(1)), settle)
    };
    let mut bench = Bench::start(Vec::new(), 1);
    bench.tell(push(1, "a"));
    bench.tell(push(2, "a"));
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe(2));
    let leases: Vec<u64> = bench.deliveries().iter().map(|d| d.1).collect();
    bench.tell(advance(leases[0]));
    assert!(matches!(bench.answer(3), Answer::Done(1)));
    bench.tell(Input::Disk { low: true });
    bench.tell(advance(leases[1]));
    match bench.answer(3) {
        Answer::RefusedAt(0, refusal) => assert_eq!(refusal.code, Code::ResourceExhausted),
        other => panic!("it takes room: {other}"),
    }
    bench.tell(advance(leases[0]));
    assert!(matches!(bench.answer(3), Answer::Done(1)), "it was done before");
}

/// A push that was done is answered as known whatever has changed since: the room on the disk, the
/// state of the node, or the time that it named (P9).
#[test]
fn a_repeated_push_gets_its_answer_when_a_new_one_would_be_refused() {
    let mut bench = Bench::start(Vec::new(), 1);
    let due = bench.now.wall + Span::secs(1);
    let timed = |id: u8, request: u64| {
        let (id, not_before) = (Some(ObjectId([id; 16])), Some(Time::At(due)));
        Input::Push(to(request), Push::new(id, entity("a")).timed(not_before, None))
    };
    let transaction = |request: u64, push: Input| {
        let Input::Push(_, push) = push else { unreachable!("it is a push") };
        let transaction = Transaction { settles: Vec::new(), pushes: vec![push] };
        Input::Transaction(to(request), Lessee::Bearer, transaction)
    };
    bench.tell(timed(1, 1));
    assert!(matches!(bench.answer(1), Answer::Pushed { already: false, .. }));
    let both = |bench: &mut Bench, why: &str| {
        bench.tell(timed(1, 3));
        let again = bench.answer(3);
        assert!(matches!(again, Answer::Pushed { already: true, .. }), "{why}: {again}");
        bench.tell(transaction(4, timed(1, 0)));
        let again = bench.answer(4);
        assert!(matches!(again, Answer::Done(_)), "{why}: {again}");
        bench.tell(timed(2, 5));
        let new = bench.answer(5);
        assert!(matches!(new, Answer::Refused(_)), "{why}: {new}");
    };
    bench.tell(Input::Disk { low: true });
    both(&mut bench, "the disk is low");
    bench.tell(Input::Disk { low: false });
    bench.tell(Input::Operator(to(6), Operator::Drain));
    both(&mut bench, "the node drains");
    bench.tell(Input::Operator(to(7), Operator::Resume));
    bench.now.wall = due + Span::secs(1);
    both(&mut bench, "its time has passed");
}

/// Objects in each state that a log can tell of, over several parts of it.
fn of_all_sorts() -> Vec<Bytes> {
    let limits = Limits { part_ids: 16, ..Limits::default() };
    let mut bench = Bench::start_from(RecordNumber(1), limits, Vec::new(), 1);
    let push = |n: u8, delay: u64| {
        let not_before = (delay > 0).then_some(Time::In(Span::secs(delay)));
        big(n, usize::from(n)).timed(not_before, None)
    };
    bench.tell(Input::OpenSession(SessionId(1)));
    for n in 1..=120 {
        bench.tell(Input::Push(to(1), push(n, if n % 7 == 0 { 3_600 } else { 0 })));
        if n == 60 {
            bench.tell(subscribe_to("big", 40));
            for (n, (_, lease)) in bench.deliveries().into_iter().enumerate() {
                let verb = match n % 8 {
                    0 => Verb::Reject("rotten".into()),
                    1 => continue,
                    _ => Verb::Finalise,
                };
                let settle = Settle::new(vec![LeaseRef::Number(lease)], verb, vec![]);
                bench.tell(Input::Settle(to(3), Lessee::Session(SessionId(1)), settle));
            }
            bench.tell(Input::CloseSession(SessionId(1)));
        }
    }
    bench.log
}

/// What a log says: the ids of each state that is alive, and what is counted.
fn said_by(log: &[Bytes], first: RecordNumber) -> (Vec<Vec<ObjectId>>, String) {
    let mut bench = Bench::start_from(first, Limits::default(), log.to_vec(), 2);
    let mut ask = |question| {
        bench.tell(Input::Operator(to(9), question));
        bench.answer(9)
    };
    let states = [ListState::Ready, ListState::Delayed, ListState::Parked].map(|state| {
        let list = Operator::List { pattern: None, state: Some(state), since: None, limit: 1_000 };
        let Answer::Views(views) = ask(list) else { panic!("a listing is answered by views") };
        let mut ids: Vec<_> = views.into_iter().map(|view| view.id).collect();
        ids.sort_unstable();
        ids
    });
    (states.to_vec(), format!("{:?}", ask(Operator::Types)))
}

/// The records of a log that was kept.
fn log_of(bytes: &'static [u8]) -> Vec<Bytes> {
    let (mut rest, mut log) = (Bytes::from_static(bytes), Vec::new());
    while !rest.is_empty() {
        let length = dpc_core::record::length_of(&rest[..HEADER_BYTES]).expect("a record");
        log.push(rest.split_to(length));
    }
    log
}

/// The last checkpoint of a log.
fn checkpoint(log: &[Bytes]) -> RecordNumber {
    let last = log.last().expect("it has records");
    let checkpoint = dpc_core::record::open(last).expect("whole").0.checkpoint;
    assert!(checkpoint > RecordNumber(1), "the log has a checkpoint");
    checkpoint
}

/// What earlier programs wrote: the last one of record format 2 and of checkpoints of layout 1, and the
/// last one of layout 2.
#[test]
fn logs_of_earlier_programs_say_what_they_said() {
    let now = of_all_sorts();
    let expected = said_by(&now, RecordNumber(1));
    assert_eq!(expected.0.iter().map(Vec::len).collect::<Vec<_>>(), [68, 17, 5]);
    assert_eq!(said_by(&now, checkpoint(&now)), expected);
    for bytes in [&include_bytes!("data/format_2.log")[..], include_bytes!("data/layout_2.log")] {
        let log = log_of(bytes);
        assert_eq!(said_by(&log, RecordNumber(1)), expected);
        assert_eq!(said_by(&log, checkpoint(&log)), expected);
    }
}

/// Records of 24 types each. Objects of many of them have come back, and were written again behind others.
fn of_many_types() -> Vec<Bytes> {
    let limits = Limits { part_ids: 32, window_objects: 2, ..Limits::default() };
    let mut bench = Bench::start_from(RecordNumber(1), limits, Vec::new(), 1);
    let push = |n: u8| {
        let ty = TypeName::from_type_url(&format!("type{}", n % 24)).expect("valid");
        let push = big(n + 1, 50);
        Push::new(push.id, Entity { ty, ..push.entity().clone() })
    };
    for round in 0..10 {
        let pushes = (round * 24..round * 24 + 24).map(push).collect();
        let transaction = Transaction { settles: Vec::new(), pushes };
        bench.tell(Input::Transaction(to(1), Lessee::Bearer, transaction));
        if round % 3 == 1 {
            bench.said.clear();
            bench.tell(Input::OpenSession(SessionId(1)));
            bench.tell(subscribe_to("*", 40));
            for (_, lease) in bench.deliveries() {
                let verb = Verb::Release { delay: Span::ZERO, failed: false };
                let settle = Settle::new(vec![LeaseRef::Number(lease)], verb, vec![]);
                bench.tell(Input::Settle(to(3), Lessee::Session(SessionId(1)), settle));
            }
            bench.tell(Input::CloseSession(SessionId(1)));
        }
    }
    bench.log
}

/// In which order a log's objects are delivered.
fn delivered_from(log: &[Bytes], first: RecordNumber) -> Vec<ObjectId> {
    let limits = Limits { window_objects: 4, ..Limits::default() };
    let mut bench = Bench::start_from(first, limits, log.to_vec(), 2);
    bench.tell(Input::OpenSession(SessionId(1)));
    bench.tell(subscribe_to("*", 1_000));
    bench.deliveries().into_iter().map(|(id, _)| id).collect()
}

#[test]
fn a_checkpoint_of_many_types_says_what_the_log_says() {
    let log = of_many_types();
    let all = said_by(&log, RecordNumber(1));
    assert_eq!(all.0.iter().map(Vec::len).sum::<usize>(), 240);
    assert_eq!(said_by(&log, checkpoint(&log)), all);
    for first in [RecordNumber(1), checkpoint(&log)] {
        let delivered = delivered_from(&log, first);
        assert_eq!(delivered.len(), 240);
        // Of each type they come in the order in which they were pushed, whenever they were written last.
        for ty in 0..24 {
            let of_type: Vec<u8> =
                delivered.iter().map(|id| id.0[0] - 1).filter(|n| n % 24 == ty).collect();
            assert!(of_type.is_sorted(), "from {first}: type {ty}: {of_type:?}");
        }
    }
}
