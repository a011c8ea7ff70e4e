use dpc_core::effect::Answer;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RequestId};
use dpc_core::input::{Operator, ReplyTo};
use dpc_core::message::Protocols;
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Entity, Headers, Push};
use dpc_core::record::hash_of;
use dpc_core::store::{Appended, Claimed, Done, ReadDone, Store, StoreError};
use dpc_core::time::{Mono, Now, Wall};
use dpc_core::view::State;
use dpc_core::{Core, Effect, Effects, Input, Limits, Settings};

use super::*;
use crate::node::recover_unread;

const PART: u64 = 3;

/// Objects of a log that has many parts.
const OBJECTS: u8 = 100;

fn id(n: u8) -> ObjectId {
    ObjectId([n; 16])
}

fn parts() -> UnreadParts {
    let unread = Unread { part: PART, first: RecordNumber(5), end: RecordNumber(9) };
    UnreadParts::of(vec![unread])
}

#[test]
fn nothing_is_read_before_somebody_asks() {
    let mut parts = parts();
    assert_eq!(parts.next_read(), None);
    assert!(!parts.keeps(PART + 1, id(1)), "the index answers for other parts");
    assert!(parts.keeps(PART, id(1)) && parts.keeps(PART, id(2)));
    assert_eq!(parts.next_read(), Some((PART, RecordNumber(5))));
    assert_eq!(parts.next_read(), None, "it is being read");
    assert!(parts.take(PART, &[], |_| true).is_err(), "a record that is missing is told");
}

#[test]
fn what_is_cut_off_is_answered_and_read_no_more() {
    let mut parts = parts();
    assert!(parts.keeps(PART, id(1)));
    assert_eq!(parts.truncate(PART), Vec::new());
    assert_eq!(parts.next_read(), Some((PART, RecordNumber(5))));
    assert_eq!(parts.truncate(PART + 1), vec![(PART, id(1))]);
    assert!(!parts.has(PART));
    assert_eq!(parts.take(PART, &[], |_| true), Ok(None));
    assert_eq!(parts.next_read(), None);
}

#[test]
fn a_part_in_which_nothing_stands_any_more_answers_too() {
    let log = Log(log(1_000));
    let end = RecordNumber(log.0.len() as u64);
    let unread = Unread { part: PART, first: RecordNumber(1), end };
    let mut parts = UnreadParts::of(Vec::new());
    assert!(parts.lose(&unread) && !parts.lose(&unread), "it is lost once");
    // More than one read, and more who ask than a push has objects.
    (0..2_000).for_each(|_| assert!(parts.keeps(PART, id(1))));
    let known = loop {
        let (part, from) = parts.next_read().expect("somebody waits");
        let records = log.records(from);
        if let Some(known) = parts.take(part, &records, |_| false).expect("it is whole") {
            break known;
        }
    };
    assert_eq!(known.answers, vec![(id(1), None); 2_000]);
    assert!(known.ids.ids.is_empty(), "and the index has it without ids");
    assert!(!parts.has(PART));
}

/// A log that is only read.
struct Log(Vec<Bytes>);

impl Log {
    fn records(&self, from: RecordNumber) -> Vec<(RecordNumber, Bytes)> {
        let all = (1..).map(RecordNumber).zip(self.0.iter().cloned());
        // One at a time, so that a part takes several reads.
        all.filter(|(number, _)| *number >= from).take(1).collect()
    }
}

impl Store for Log {
    fn claim(&mut self, _: Done<Result<Claimed, StoreError>>) {
        unreachable!("the test claims nothing")
    }

    fn append(&mut self, _: Epoch, _: RecordNumber, _: Bytes, _: Done<Appended>) {
        unreachable!("a recovery writes nothing")
    }

    fn read(&mut self, from: RecordNumber, _: usize, done: ReadDone) {
        done(Ok(self.records(from)));
    }

    fn truncate(&mut self, _: RecordNumber, _: Done<Result<(), StoreError>>) {
        unreachable!("a recovery cuts nothing")
    }
}

fn settings(part_bytes: u64) -> Settings {
    Settings {
        name: Name::new("node", "n").expect("valid"),
        lane: LaneId([7; 16]),
        incarnation: Incarnation(9),
        seed: 3,
        limits: Limits { part_bytes, ..Limits::default() },
        fence: None,
        heir: None,
        protocols: Protocols::default(),
    }
}

fn claimed(log: &[Bytes]) -> Claimed {
    let last_hash = log.last().map_or([0; 16], |record| hash_of(record));
    let last = RecordNumber(log.len() as u64);
    Claimed { epoch: Epoch(1), first: RecordNumber(1), last, last_hash }
}

fn now(ms: u64) -> Now {
    Now { mono: Mono(ms * 1_000), wall: Wall(1_700_000_000_000 + ms) }
}

fn push(n: u8) -> Input {
    let ty = TypeName::from_type_url("acme.T").expect("valid");
    let entity = Entity { ty, payload: vec![n; 50].into(), headers: Headers::default() };
    let push = Push::new(Some(id(n)), entity);
    Input::Push(ReplyTo { request: RequestId(1), seq: 0 }, push)
}

/// A log of so many pushes, one record each.
fn log(part_bytes: u64) -> Vec<Bytes> {
    let mut core = Core::new(settings(part_bytes), claimed(&[]));
    let (mut fx, mut log) = (Effects::new(), Vec::new());
    core.start(now(0), &mut fx);
    for n in 0..OBJECTS {
        core.handle(now(u64::from(n) + 1), push(n), &mut fx);
        while let Some(record) = core.take_record(now(u64::from(n) + 1)) {
            log.push(record.bytes);
            core.handle(now(u64::from(n) + 1), Input::Committed(record.number), &mut fx);
        }
        fx.drain(..);
    }
    log
}

/// What an adopter has: a core, the parts that nobody has read, and an index that is empty.
struct Adopter {
    core: Core,
    log: Log,
    unread: UnreadParts,
    index: BTreeMap<(u64, ObjectId), Loc>,
    answer: Option<Answer>,
}

impl Adopter {
    /// Tells the core something, and does as the driver does what follows.
    fn tell(&mut self, input: Input) {
        let mut fx = Effects::new();
        self.core.handle(now(1_000), input, &mut fx);
        self.perform(fx);
    }

    fn perform(&mut self, mut fx: Effects) {
        for effect in fx.drain(..) {
            match effect {
                Effect::IndexPart(ids) => {
                    let part = ids.part;
                    self.index.extend(ids.ids.into_iter().map(|(id, at)| ((part, id), at)));
                }
                Effect::LookUp { part, id } if self.unread.keeps(part, id) => self.read(),
                Effect::LookUp { part, id } => self.look_up(part, id),
                Effect::Load(number) => {
                    let (_, record) = self.log.records(number).remove(0);
                    self.tell(Input::Loaded(number, record));
                }
                Effect::Reply { answer, .. } => self.answer = Some(answer),
                _ => {}
            }
        }
    }

    fn look_up(&mut self, part: u64, id: ObjectId) {
        let loc = self.index.get(&(part, id)).copied();
        self.tell(Input::LookedUp { part, id, loc });
    }

    fn read(&mut self) {
        while let Some((part, from)) = self.unread.next_read() {
            let (records, core) = (self.log.records(from), &self.core);
            let known = self.unread.take(part, &records, |at| core.is_needed(at));
            let Some(Known { ids, answers }) = known.expect("it is whole") else { continue };
            self.index.extend(ids.ids.into_iter().map(|(id, at)| ((part, id), at)));
            for (id, loc) in answers {
                self.tell(Input::LookedUp { part, id, loc });
            }
        }
    }

    fn state(&mut self, id: ObjectId) -> State {
        let to = ReplyTo { request: RequestId(2), seq: 0 };
        self.tell(Input::Operator(to, Operator::Inspect(id)));
        match self.answer.take() {
            Some(Answer::View(view)) => view.state,
            other => panic!("no view of {id}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_old_id_is_found_in_a_part_that_nobody_has_read_before() {
    // Behind the last checkpoint that a record names stands another one, in some of these logs.
    for part_bytes in (700..1_400).step_by(50) {
        let mut log = Log(log(part_bytes));
        let claimed = claimed(&log.0);
        let recovered = recover_unread(settings(part_bytes), claimed, &mut log, Vec::new()).await;
        let (mut core, unread) = recovered.expect("it is whole");
        assert!(unread.len() > 3, "a log of many parts: {}", unread.len());
        unread.iter().for_each(|part| core.restore_unread(part.part));
        let (unread, index, answer) = (UnreadParts::of(unread), BTreeMap::new(), None);
        let mut fx = Effects::new();
        core.start(now(900), &mut fx);
        let mut adopter = Adopter { core, log, unread, index, answer };
        adopter.perform(fx);
        for n in 0..OBJECTS {
            assert_eq!(adopter.state(id(n)), State::Ready, "object {n}, parts of {part_bytes}");
        }
        let never = adopter.state(id(u8::MAX));
        assert_eq!(never, State::Unknown, "an id that was never pushed is in no part");
        assert!(adopter.unread.parts.is_empty(), "whoever asks for it has every part read");
    }
}
