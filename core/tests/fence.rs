//! One core whose lane others can claim: what it does without proof that the lane is still its own.

use bytes::Bytes;
use dpc_core::ids::{
    Epoch, Incarnation, LaneId, LinkId, ObjectId, RecordNumber, RequestId, SessionId,
    SubscriptionId,
};
use dpc_core::input::{LeaseRef, Lessee, ReplyTo, Settle, Subscribe, Verb};
use dpc_core::message::{Hello, LaneHello, LinkRefusal, Message, PROTOCOL};
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Push, Time, Token};
use dpc_core::record::TransferId;
use dpc_core::store::Claimed;
use dpc_core::{Answer, Core, Effect, Input, Limits, Mono, Now, Settings, Span, Wall};

const HERE: LaneId = LaneId([1; 16]);
const PEER: LaneId = LaneId([2; 16]);
const SELF_FENCE_AFTER: Span = Span::secs(8);

struct Bench {
    core: Core,
    now: Now,
    /// Whether the store takes head writes.
    store: bool,
    renewals: u32,
    said: Vec<Effect>,
}

impl Bench {
    fn start() -> Self {
        let settings = Settings {
            name: name("here"),
            lane: HERE,
            incarnation: Incarnation(1),
            seed: 7,
            limits: Limits::default(),
            fence: Some(SELF_FENCE_AFTER),
            protocols: dpc_core::message::Protocols::default(),
            heir: None,
        };
        let (first, last) = (RecordNumber(1), RecordNumber(0));
        let claimed = Claimed { epoch: Epoch(3), first, last, last_hash: [0; 16] };
        let now = Now { mono: Mono(1_000), wall: Wall(1_700_000_000_000) };
        let core = Core::new(settings, claimed);
        let mut bench = Self { core, now, store: true, renewals: 0, said: Vec::new() };
        let mut fx = Vec::new();
        bench.core.start(now, &mut fx);
        bench.perform(fx);
        bench
    }

    fn tell(&mut self, input: Input) {
        let mut fx = Vec::new();
        self.core.handle(self.now, input, &mut fx);
        self.perform(fx);
    }

    fn perform(&mut self, fx: Vec<Effect>) {
        let renew = fx.iter().any(|e| matches!(e, Effect::Renew));
        self.renewals += u32::from(renew);
        self.said.extend(fx);
        if !self.store {
            return;
        }
        if renew {
            self.tell(Input::Renewed);
        }
        while let Some(record) = self.core.take_record(self.now) {
            self.tell(Input::Committed(record.number));
        }
    }

    /// Lets time pass, with every wake that the core asks for.
    fn pass(&mut self, span: Span) {
        let until = self.now.mono + span;
        while let Some(wake) = self.core.next_wake().filter(|w| w.at <= until) {
            self.jump(wake.at - self.now.mono);
            self.tell(Input::Wake);
        }
        self.jump(until - self.now.mono);
    }

    /// Time passes and nobody notices, as when a process is stopped.
    fn jump(&mut self, span: Span) {
        self.now.mono = self.now.mono + span;
        self.now.wall = self.now.wall + span;
    }

    fn subscribe(&mut self) {
        self.tell(Input::OpenSession(SessionId(1)));
        let (session, subscription) = (SessionId(1), SubscriptionId(1));
        let pattern = Pattern::new("img").expect("valid");
        let processor = name("default");
        let lease = Some(Span::secs(60));
        let s = Subscribe { session, subscription, pattern, processor, credit: 8, lease };
        self.tell(Input::Subscribe(to(1), s));
    }

    fn push(&mut self, n: u8, delay: Option<Span>) {
        let ty = TypeName::from_type_url("img").expect("valid");
        let entity = Entity { ty, payload: Bytes::from_static(b"x"), headers: Headers::default() };
        let (id, not_before) = (Some(ObjectId([n; 16])), delay.map(Time::In));
        self.tell(Input::Push(to(10), Push::new(id, entity).timed(not_before, None)));
    }

    fn delivered(&mut self) -> usize {
        let said = std::mem::take(&mut self.said);
        said.iter().filter(|e| matches!(e, Effect::Deliver(..))).count()
    }

    fn link(&mut self, known: Vec<(LaneId, Epoch, RecordNumber)>) {
        self.tell(Input::LinkUp { link: LinkId(1), dialled: false });
        let (epoch, incarnation, number) = (Epoch(1), Incarnation(9), RecordNumber(1));
        let hello = Hello {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL,
            name: name("peer"),
            lanes: vec![LaneHello { lane: PEER, epoch, incarnation, number, hash: [0; 16] }],
            generation: 0,
            known,
        };
        self.tell(Input::Peer(LinkId(1), Message::Hello(hello)));
    }

    fn answers(&mut self) -> Vec<Answer> {
        let said = std::mem::take(&mut self.said);
        let answer = |e| match e {
            Effect::Reply { answer, .. } => Some(answer),
            _ => None,
        };
        said.into_iter().filter_map(answer).collect()
    }

    fn sent(&mut self) -> Vec<Message> {
        let said = std::mem::take(&mut self.said);
        let message = |e| match e {
            Effect::Send { message, .. } => Some(*message),
            _ => None,
        };
        said.into_iter().filter_map(message).collect()
    }
}

fn to(request: u64) -> ReplyTo {
    ReplyTo { request: RequestId(request), seq: 0 }
}

fn name(text: &str) -> Name {
    Name::new("name", text).expect("valid")
}

fn status() -> Input {
    let (epoch, incarnation) = (Epoch(3), Incarnation(1));
    let id = TransferId { sender: HERE, receiver: PEER, epoch, incarnation, n: 1 };
    Input::Peer(LinkId(1), Message::Status(id))
}

fn settle(n: u64) -> Input {
    let (epoch, incarnation) = (Epoch(3), Incarnation(1));
    let token = Token { lane: HERE, epoch, incarnation, n, object: ObjectId([1; 16]) };
    let leases = vec![LeaseRef::Token(token)];
    Input::Settle(to(20), Lessee::Bearer, Settle::new(leases, Verb::Finalise, Vec::new()))
}

#[test]
fn nothing_is_delivered_without_proof_and_everything_with_it() {
    let mut bench = Bench::start();
    bench.subscribe();
    bench.push(1, Some(Span::secs(20)));
    bench.pass(Span::secs(15));
    bench.store = false;
    bench.pass(Span::secs(10));
    assert_eq!(bench.delivered(), 0, "the object is due, and the last proof is old");
    assert!(bench.renewals > 0, "proof is asked for");
    bench.store = true;
    bench.tell(Input::Renewed);
    assert_eq!(bench.delivered(), 1);
}

#[test]
fn a_process_that_was_stopped_delivers_nothing_when_it_goes_on() {
    let mut bench = Bench::start();
    bench.push(1, None);
    bench.subscribe();
    assert_eq!(bench.delivered(), 1);
    bench.push(2, Some(Span::secs(1)));
    bench.store = false;
    bench.jump(SELF_FENCE_AFTER);
    bench.tell(Input::Wake);
    assert_eq!(bench.delivered(), 0);
    assert_eq!(bench.core.deliver_until().map(|until| until <= bench.now.mono), Some(true));
}

#[test]
fn an_idle_owner_renews_as_long_as_it_has_something_to_lose() {
    let mut bench = Bench::start();
    bench.pass(Span::secs(60));
    let idle = bench.renewals;
    bench.pass(Span::secs(60));
    assert_eq!(bench.renewals, idle, "an empty lane is left alone");
    bench.subscribe();
    bench.push(1, None);
    bench.pass(Span::secs(40));
    assert!(bench.renewals >= idle + 15, "a lease is held: {} renewals", bench.renewals - idle);
    assert!(bench.core.deliver_until() > Some(bench.now.mono));
}

#[test]
fn a_lease_is_called_lost_only_by_who_owns_the_lane_surely() {
    let mut bench = Bench::start();
    bench.store = false;
    bench.jump(SELF_FENCE_AFTER);
    bench.tell(settle(1));
    let answers = bench.answers();
    assert!(matches!(answers[..], [Answer::Unknown(_)]), "{answers:?}");
    bench.store = true;
    bench.tell(Input::Renewed);
    bench.said.clear();
    bench.tell(settle(1));
    let answers = bench.answers();
    assert!(matches!(&answers[0], Answer::RefusedAt(0, r) if r.reason == "LEASE_LOST"));
}

#[test]
fn a_transfer_is_answered_for_only_with_proof() {
    let mut bench = Bench::start();
    bench.link(Vec::new());
    bench.store = false;
    bench.jump(SELF_FENCE_AFTER);
    bench.said.clear();
    bench.tell(status());
    assert_eq!(bench.sent(), [], "neither MOVED nor ABORT");
    bench.tell(Input::Renewed);
    bench.tell(status());
    assert!(matches!(bench.sent()[..], [Message::Abort(_)]));
}

#[test]
fn a_fenced_core_answers_nothing_for_its_lane() {
    let mut bench = Bench::start();
    bench.link(Vec::new());
    bench.said.clear();
    bench.tell(Input::Fenced(Epoch(4)));
    assert!(matches!(bench.said[..], [Effect::Fenced(Epoch(4))]), "{:?}", bench.said);
    bench.said.clear();
    bench.tell(status());
    bench.tell(settle(1));
    bench.push(1, None);
    let said = std::mem::take(&mut bench.said);
    let [Effect::Reply { answer: Answer::Unknown(_), .. }, Effect::Reply { answer, .. }] =
        &said[..]
    else {
        panic!("{said:?}")
    };
    assert!(matches!(answer, Answer::Refused(r) if r.reason == "FENCED"), "{answer:?}");
    assert!(bench.core.take_record(bench.now).is_none() && bench.core.next_wake().is_none());
}

#[test]
fn a_higher_epoch_of_its_own_lane_fences_wherever_it_is_seen() {
    let known = |epoch| vec![(HERE, Epoch(epoch), RecordNumber(0))];
    let mut bench = Bench::start();
    bench.link(known(3));
    assert!(!bench.core.is_fenced(), "its own epoch is no news");

    let mut bench = Bench::start();
    bench.link(known(4));
    assert!(bench.core.is_fenced(), "seen in a handshake");

    let mut bench = Bench::start();
    bench.tell(Input::LinkUp { link: LinkId(1), dialled: true });
    let (known, now) = ((Epoch(5), RecordNumber(9)), (Epoch(3), RecordNumber(9)));
    let refusal = LinkRefusal::RolledBack { lane: HERE, known, now };
    bench.tell(Input::Peer(LinkId(1), Message::Refuse(refusal)));
    assert!(bench.core.is_fenced(), "seen in a refusal");

    let mut bench = Bench::start();
    bench.link(Vec::new());
    let Input::Peer(link, Message::Status(id)) = status() else { unreachable!("it is one") };
    bench.tell(Input::Peer(link, Message::Status(TransferId { epoch: Epoch(4), ..id })));
    assert!(bench.core.is_fenced(), "seen in a STATUS");
}
