//! Where the driver and the edges meet: requests on their way in, answers on their way out.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use dpc_core::effect::{Delivery, LeaseEnd};
use dpc_core::ids::{Epoch, Incarnation, LaneId, LinkId, RecordNumber, RequestId, SessionId};
use dpc_core::input::{LeaseRef, Lessee, Operator, ReplyTo, Settle, Verb};
use dpc_core::message::Message;
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{TOKEN_PREFIX_BYTES, Token};
use dpc_core::refusal::{Code, Refusal};
use dpc_core::time::{Span, Wall};
use dpc_core::{Answer, Input, Limits};
use dpc_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::Status;

use super::fence::{Fence, Guests};
use super::outbox::Outbox;
use super::push::PushOut;
use super::session::{Reads, SessionOut, UNREAD_BYTES_MAX, UNREAD_SPAN_MAX};
use super::waiters::{Latest, Waiter, Waiters};
use crate::admin::alarms::Alarms;
use crate::admin::metrics::Metrics;
use crate::edge::Clock;
use crate::history::HistoryHandle;
use crate::history::shared::finding::Finding;
use crate::link::Links;
use crate::recorder::RecorderHandle;
use crate::wire::error;
use crate::wire::object::TypeNames;

/// Bytes of requests on their way to core, all connections together. Who comes then, waits.
const INBOX_BYTES_MAX: usize = 16 << 20;

/// Bytes of pushed objects without an answer, all streams together: below core's own bound, so that
/// streams are slowed down and not refused.
const PUSHED_BYTES_MAX: usize = 32 << 20;

/// The number of the request by which the database's inbox pushes; its items are rows.
pub(crate) const OF_INBOX: RequestId = RequestId(0);

/// Room is given out in pieces of this size.
const ROOM_UNIT_BYTES: usize = 1 << 10;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: Name,
    /// Its lane.
    pub lane: LaneId,
    /// The epoch of its claim.
    pub epoch: Epoch,
    /// This start.
    pub incarnation: Incarnation,
    /// When it started.
    pub started_at: Wall,
    /// The kind of its store.
    pub store: &'static str,
    /// What an OK means.
    pub durability: v1::Durability,
}

/// The bounds of the edges; core has its own.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// The most open connections, all ports together.
    pub connections: u32,
    /// The credit of a subscription that asks for none.
    pub credit_default: u32,
    /// How often an idle connection is asked for a sign of life.
    pub keepalive: Duration,
    /// How long that sign of life may take.
    pub keepalive_timeout: Duration,
    /// How long other nodes are asked about an object.
    pub follow: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 4_096,
            credit_default: 16,
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            follow: Duration::from_secs(2),
        }
    }
}

/// The addresses it listens on.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// For clients.
    pub clients: String,
    /// For nodes.
    pub nodes: String,
    /// For people and metrics.
    pub admin: String,
}

/// How far a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It takes and delivers.
    Serving,
    /// It takes nothing new.
    Draining {
        /// The open leases end then.
        until: Wall,
    },
    /// It stops.
    Stopping,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Leases left.
    pub(crate) leases: u64,
    /// Ready objects left.
    pub(crate) ready: u64,
}

/// Inputs that came together, with the room they take.
pub(crate) struct Batch {
    /// In order.
    pub(crate) inputs: Vec<Input>,
    _room: Option<OwnedSemaphorePermit>,
}

/// See the module.
pub(crate) struct Hub {
    /// Who this node is.
    pub(crate) identity: Identity,
    /// Core's bounds.
    pub(crate) limits: Limits,
    /// The bounds of the edges.
    pub(crate) bounds: Bounds,
    /// The clocks.
    pub(crate) clock: Clock,
    /// The counters.
    pub(crate) metrics: Metrics,
    /// What needs a person.
    pub(crate) alarms: Alarms,
    /// The links to peers.
    pub(crate) links: Links,
    /// What has ended, where a history is kept.
    pub(crate) history: Option<HistoryHandle>,
    /// What has ended in other lanes, where the store has tables for that.
    pub(crate) stories: Option<Finding>,
    /// Whether the lane is surely owned still.
    pub(crate) fence: Fence,
    /// Other lanes that this process runs.
    pub(crate) guests: Guests,
    doubts: Mutex<BTreeSet<LaneId>>,
    last_record: AtomicU64,
    addresses: OnceLock<Addresses>,
    recorder: OnceLock<RecorderHandle>,
    type_names: Mutex<TypeNames>,
    inbox: mpsc::UnboundedSender<Batch>,
    room: Arc<Semaphore>,
    pushed_room: Arc<Semaphore>,
    next_request: AtomicU64,
    waiters: Waiters,
    phase: watch::Sender<Phase>,
    drained: watch::Sender<Option<Drained>>,
}

impl Hub {
    /// A hub and the end of its inbox that the driver reads.
    pub(crate) fn new(
        identity: Identity,
        (limits, bounds): (Limits, Bounds),
        clock: Clock,
        links: Links,
        (history, stories): (Option<HistoryHandle>, Option<Finding>),
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Batch>) {
        let (inbox, outlet) = mpsc::unbounded_channel();
        let fence = Fence::new(clock.clone());
        let room = |bytes: usize| Arc::new(Semaphore::new(bytes / ROOM_UNIT_BYTES));
        let hub = Self {
            identity,
            limits,
            bounds,
            clock,
            metrics: Metrics::default(),
            alarms: Alarms::default(),
            links,
            history,
            stories,
            fence,
            guests: Guests::default(),
            doubts: Mutex::default(),
            last_record: AtomicU64::new(0),
            addresses: OnceLock::new(),
            recorder: OnceLock::new(),
            type_names: Mutex::default(),
            inbox,
            room: room(INBOX_BYTES_MAX),
            pushed_room: room(PUSHED_BYTES_MAX),
            next_request: AtomicU64::new(1),
            waiters: Waiters::default(),
            phase: watch::Sender::new(Phase::Serving),
            drained: watch::Sender::new(None),
        };
        (Arc::new(hub), outlet)
    }

    /// The addresses, once the ports are open.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses.get().cloned().unwrap_or_default()
    }

    pub(crate) fn set_recorder(&self, recorder: RecorderHandle) {
        assert!(self.recorder.set(recorder).is_ok(), "the recorder is opened once");
    }

    /// The flight recorder, where there is one.
    pub(crate) fn recorder(&self) -> Option<&RecorderHandle> {
        self.recorder.get()
    }

    pub(crate) fn set_addresses(&self, addresses: Addresses) {
        self.addresses.set(addresses).expect("ports are opened once");
    }

    /// The name that a type URL gives.
    pub(crate) fn type_name(&self, url: String) -> Result<TypeName, Refusal> {
        self.type_names.lock().expect("nobody panics while holding it").of(url)
    }

    /// The number of the last durable record.
    pub(crate) fn last_record(&self) -> u64 {
        self.last_record.load(Ordering::Relaxed)
    }

    pub(crate) fn set_last_record(&self, number: RecordNumber) {
        self.last_record.store(number.0, Ordering::Relaxed);
    }

    /// The part of a token that all leases of this start share.
    pub(crate) fn lease_prefix(&self) -> [u8; TOKEN_PREFIX_BYTES] {
        let mut prefix = [0; TOKEN_PREFIX_BYTES];
        prefix[..16].copy_from_slice(&self.identity.lane.0);
        prefix[16..24].copy_from_slice(&self.identity.epoch.0.to_be_bytes());
        prefix[24..].copy_from_slice(&self.identity.incarnation.0.to_be_bytes());
        prefix
    }

    /// The lanes that something is in doubt with and that no link leads to, as of late.
    pub(crate) fn doubts(&self) -> BTreeSet<LaneId> {
        self.doubts.lock().expect("nobody panics while holding it").clone()
    }

    pub(crate) fn set_doubts(&self, lanes: BTreeSet<LaneId>) {
        *self.doubts.lock().expect("nobody panics while holding it") = lanes;
    }

    /// What this start of this core calls a link that it dials: nobody else calls one so.
    pub(crate) fn name_of(&self, link: LinkId) -> String {
        format!("{}/{}/{link}", self.identity.lane, self.identity.incarnation.0)
    }

    /// Hands inputs to the driver; waits while too much is on its way.
    pub(crate) async fn feed(&self, inputs: Vec<Input>, bytes: usize) {
        let room = take_room(&self.room, bytes).await;
        // The driver is gone only when the node stops: streams end with it.
        let _stopping = self.inbox.send(Batch { inputs, _room: Some(room) });
    }

    /// Hands over an input that must not wait: ends of streams and links, which are few.
    pub(crate) fn feed_now(&self, input: Input) {
        let _stopping = self.inbox.send(Batch { inputs: vec![input], _room: None });
    }

    /// Room for pushed objects until they are answered.
    pub(crate) async fn push_room(&self, bytes: usize) -> OwnedSemaphorePermit {
        take_room(&self.pushed_room, bytes).await
    }

    /// A number for a request, a session or a stream.
    pub(crate) fn next_request(&self) -> RequestId {
        RequestId(self.next_request.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn add_push(&self, request: RequestId, out: Arc<Outbox<PushOut>>) {
        self.waiters.insert(request, Waiter::Push(out));
    }

    pub(crate) fn add_session(&self, request: RequestId, out: Arc<Outbox<SessionOut>>) {
        self.waiters.insert(request, Waiter::Session(out));
    }

    pub(crate) fn remove(&self, request: RequestId) {
        self.waiters.remove(request);
    }

    /// Streams that are open: sessions and pushes.
    pub(crate) fn streams(&self) -> (u32, u32) {
        self.waiters.streams()
    }

    /// Starts a call: its answers come through what is returned.
    pub(crate) fn call(self: &Arc<Self>) -> Call {
        self.call_as(self.next_request())
    }

    /// The same under a number that nobody else has.
    pub(crate) fn call_as(self: &Arc<Self>, request: RequestId) -> Call {
        let (sender, answers) = mpsc::unbounded_channel();
        self.waiters.insert(request, Waiter::Call(sender));
        Call { hub: Arc::clone(self), request, answers }
    }

    /// Asks one question that has one answer.
    pub(crate) async fn operator(self: &Arc<Self>, operator: Operator) -> Result<Answer, Status> {
        let mut call = self.call();
        let to = ReplyTo { request: call.request, seq: 0 };
        self.feed(vec![Input::Operator(to, operator)], ROOM_UNIT_BYTES).await;
        match call.next().await?.1 {
            Answer::Refused(refusal) | Answer::RefusedAt(_, refusal) => {
                Err(error::status(&refusal))
            }
            Answer::Unknown(why) => Err(error::status_of(&error::unknown(&why))),
            answer => Ok(answer),
        }
    }

    /// The phase, to watch.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
        if let Phase::Draining { until } = phase {
            for waiter in self.waiters.all() {
                if let Waiter::Session(out) = waiter {
                    out.with(|session| session.draining(until));
                }
            }
        }
    }

    /// Starts a drain, unless one is under way. Core says when it has ended.
    pub(crate) async fn start_drain(&self) {
        if *self.phase.borrow() != Phase::Serving {
            return;
        }
        let until = self.clock.now().wall + self.limits.drain;
        self.set_drained(None);
        self.set_phase(Phase::Draining { until });
        // Nobody waits for this answer: the end of the drain is a note of core.
        let to = ReplyTo { request: self.next_request(), seq: 0 };
        self.feed(vec![Input::Operator(to, Operator::Drain)], ROOM_UNIT_BYTES).await;
    }

    /// The end of a drain, to watch.
    pub(crate) fn drained(&self) -> watch::Receiver<Option<Drained>> {
        self.drained.subscribe()
    }

    pub(crate) fn set_drained(&self, drained: Option<Drained>) {
        self.drained.send_replace(drained);
    }

    /// An answer of core.
    pub(crate) fn reply(&self, latest: &mut Latest, to: ReplyTo, answer: Answer) {
        match latest.find(to.request, &self.waiters) {
            // Whoever asked has gone: nobody is left to be told, or to work on what was taken.
            None => {
                if let Answer::Taken(taken) = answer {
                    self.give_back(taken.iter());
                }
            }
            Some(Waiter::Call(sender)) => {
                if let Err(unsent) = sender.send((to.seq, answer))
                    && let Answer::Taken(taken) = unsent.0.1
                {
                    self.give_back(taken.iter());
                }
            }
            Some(Waiter::Push(out)) => out.with(|push| push.answer(to.seq, answer)),
            Some(Waiter::Session(out)) => {
                let settled = out.with(|session| session.answer(to.seq, &answer));
                self.metrics.settled.add(settled);
            }
        }
    }

    /// The full token of what a unary receive got.
    pub(crate) fn token(&self, taken: &Delivery) -> Token {
        Token {
            lane: self.identity.lane,
            epoch: taken.epoch,
            incarnation: self.identity.incarnation,
            n: taken.lease,
            object: taken.object.id,
        }
    }

    /// Releases what a unary receive got and nobody works on, without blame.
    pub(crate) fn give_back<'a>(&self, taken: impl Iterator<Item = &'a Delivery>) {
        let leases: Vec<LeaseRef> = taken.map(|one| LeaseRef::Token(self.token(one))).collect();
        if leases.is_empty() {
            return;
        }
        let verb = Verb::Release { delay: Span::ZERO, failed: false };
        let settle = Settle::new(leases, verb, Vec::new());
        // Nobody waits for the answer: should it be a refusal, the leases end by their time.
        let to = ReplyTo { request: self.next_request(), seq: 0 };
        self.feed_now(Input::Settle(to, Lessee::Bearer, settle));
    }

    /// A delivery of core.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        latest: &mut Latest,
        session: SessionId,
        delivery: Delivery,
    ) {
        let waiter = latest.find(RequestId(session.0), &self.waiters);
        // A session that has just ended: core learns of it next, and the lease goes back.
        let Some(Waiter::Session(out)) = waiter else { return };
        self.metrics.delivered(&delivery.object.entity.ty);
        if out.with(|session| session.deliver(delivery)) {
            tokio::spawn(watch_reader(Arc::clone(self), out, session));
        }
    }

    /// Ends a session whose client reads nothing: its leases go back.
    fn cut_session(&self, session: SessionId, out: &Outbox<SessionOut>) {
        let refusal = Refusal::exhausted(
            "unread_bytes",
            UNREAD_BYTES_MAX as u64,
            "the client does not read its deliveries; they go back. Read the stream steadily, or ask for less credit",
        );
        if out.cut(error::status(&refusal)) {
            tracing::warn!(session = session.0, "session ended: its client does not read");
            out.with(SessionOut::clear);
            self.remove(RequestId(session.0));
            self.feed_now(Input::CloseSession(session));
        }
    }

    /// A message of core to a peer.
    pub(crate) fn send(&self, link: LinkId, message: Message) {
        if let Message::Offer(offer) = &message
            && let Some(link) = self.links.get(link)
        {
            link.count_sent(self.clock.now().mono, offer.objects.len() as u64);
        }
        self.links.send(link, message);
    }

    /// A lease of core has ended.
    pub(crate) fn lease_ended(
        &self,
        latest: &mut Latest,
        session: SessionId,
        lease: u64,
        reason: LeaseEnd,
    ) {
        let waiter = latest.find(RequestId(session.0), &self.waiters);
        if let Some(Waiter::Session(out)) = waiter {
            out.with(|session| session.lease_ended(lease, reason));
        }
    }

    /// The driver has ended: nothing is answered any more.
    pub(crate) fn end_all(&self, why: &str) {
        self.set_phase(Phase::Stopping);
        for waiter in self.waiters.clear() {
            match waiter {
                Waiter::Call(_) => {}
                Waiter::Push(out) => {
                    out.cut(stopping(why));
                }
                Waiter::Session(out) => {
                    out.cut(stopping(why));
                }
            }
        }
    }
}

/// A unary call that waits for answers.
pub(crate) struct Call {
    hub: Arc<Hub>,
    /// Its number.
    pub(crate) request: RequestId,
    answers: mpsc::UnboundedReceiver<(u64, Answer)>,
}

impl Call {
    /// The next answer with its position.
    pub(crate) async fn next(&mut self) -> Result<(u64, Answer), Status> {
        let answer = self.answers.recv().await;
        answer
            .ok_or_else(|| error::status_of(&error::unknown("the node stopped before it answered")))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.hub.remove(self.request);
    }
}

/// Watches a session that much waits for until its client has caught up, or is cut.
async fn watch_reader(hub: Arc<Hub>, out: Arc<Outbox<SessionOut>>, session: SessionId) {
    loop {
        tokio::time::sleep(UNREAD_SPAN_MAX).await;
        match out.with(SessionOut::look_again) {
            Reads::Enough => return,
            Reads::Slowly => {}
            Reads::Nothing => return hub.cut_session(session, &out),
        }
    }
}

async fn take_room(room: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let units = bytes.div_ceil(ROOM_UNIT_BYTES).clamp(1, INBOX_BYTES_MAX / ROOM_UNIT_BYTES);
    let units = u32::try_from(units).expect("bounded above");
    Arc::clone(room).acquire_many_owned(units).await.expect("the room is never closed")
}

fn stopping(why: &str) -> Status {
    error::status(
        &Refusal::new(
            Code::Unavailable,
            "NODE_STOPPING",
            format!("the node stops: {why}; what is without an answer may have been done"),
        )
        .retry_after(Span::secs(1)),
    )
}
