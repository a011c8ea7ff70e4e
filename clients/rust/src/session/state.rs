//! The books of a session: deliveries that wait, leases that are held, requests on their way.
//!
//! Shared by the callers, by the request body that the connection pulls, and by the task that
//! reads; each holds the lock for a few moves of memory and never while it waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use dpc_proto::v1;
use foldhash::fast::FixedState;
use tokio::time::Instant;

use super::delivery::{Delivered, Info};
use super::ops::{Content, LEASES_MAX, Op, SettleOp, Target, TransactionOp};
use crate::error::Error;

/// What a node is trusted with before it has told its own limits.
const ITEMS_MAX: usize = 256;
/// Messages beyond this only add delay.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Requests that may wait: more than all leases of a session need.
const OPS_MAX: usize = 200_000;
/// How far back a settle looks for one that ends in the same way.
const MERGE_DEPTH: usize = 4;

/// The lease of a subscription that names none, if the node does not say what it is there.
const LEASE: Duration = Duration::from_secs(30);

/// A lease of this stream that the application holds.
pub(super) struct Held {
    /// When it was last known to run for its full time.
    pub(super) renewed: Instant,
    /// The node has been told that it is worked on, or is about to be.
    pub(super) begun: bool,
    /// A settle is on its way.
    pub(super) settling: bool,
    /// The application has dropped it.
    pub(super) dropped: bool,
}

pub(super) struct State {
    pub(super) plan: Vec<v1::Subscribe>,
    /// How long leases run, from their arrival or their extension.
    lease: Duration,
    /// The application chose it; otherwise the node says what its leases are.
    lease_chosen: bool,
    /// The open stream.
    pub(super) info: Option<Arc<Info>>,
    /// Counts streams: bodies of older ones end.
    pub(super) stream: u64,
    pub(super) buffer: VecDeque<(Instant, Delivered)>,
    /// By hash: each is looked for four times. The node chose the numbers, so any seed will do.
    pub(super) leases: HashMap<u64, Held, FixedState>,
    /// Leases that the application works on and the node has not been told so.
    pub(super) begins: Vec<u64>,
    next_extend: Option<Instant>,
    pub(super) ops: VecDeque<Op>,
    /// Items by `seq - base`; `None` is answered.
    pub(super) pending: VecDeque<Option<Op>>,
    pub(super) base: u64,
    pub(super) owed: usize,
    pub(super) progress: Instant,
    /// Refused for now: to be sent again at their time.
    pub(super) delayed: Vec<(Instant, SettleOp)>,
    /// Settles of streams that are gone: they wait for a stream to the same lane.
    pub(super) orphans: Vec<SettleOp>,
    pub(super) orphan_transactions: Vec<TransactionOp>,
    /// Transactions that are being repeated without this stream.
    pub(super) repeating: usize,
    /// When the task looks again by itself.
    pub(super) asleep_until: Option<Instant>,
    items_max: usize,
    bytes_max: usize,
    /// A larger message would end the stream.
    message_max: usize,
    owed_max: usize,
    pub(super) body: Option<Waker>,
    /// Subscriptions that this stream has answered.
    pub(super) subscribed: usize,
    pub(super) established: bool,
    pub(super) draining: bool,
    pub(super) closing: bool,
    pub(super) ended: bool,
    pub(super) failure: Option<Error>,
}

impl State {
    pub(super) fn new(plan: Vec<v1::Subscribe>, lease: Option<Duration>) -> Self {
        Self {
            plan,
            lease: lease.unwrap_or(LEASE),
            lease_chosen: lease.is_some(),
            info: None,
            stream: 0,
            buffer: VecDeque::new(),
            leases: HashMap::default(),
            begins: Vec::new(),
            next_extend: None,
            ops: VecDeque::new(),
            pending: VecDeque::new(),
            base: 1,
            owed: 0,
            progress: Instant::now(),
            delayed: Vec::new(),
            orphans: Vec::new(),
            orphan_transactions: Vec::new(),
            repeating: 0,
            asleep_until: None,
            items_max: ITEMS_MAX,
            bytes_max: MESSAGE_BYTES_MAX,
            message_max: usize::MAX,
            owed_max: usize::MAX,
            body: None,
            subscribed: 0,
            established: false,
            draining: false,
            closing: false,
            ended: false,
            failure: None,
        }
    }

    pub(super) fn is_current(&self, info: &Arc<Info>) -> bool {
        self.info.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, info))
    }

    /// The next message for the stream, if there is anything to send.
    pub(super) fn next_message(&mut self, now: Instant) -> Option<v1::SessionRequest> {
        self.info.as_ref()?;
        self.queue_begins();
        if self.owed == 0 {
            self.progress = now;
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < self.items_max && self.owed < self.owed_max {
            let Some(op) = self.ops.front() else { break };
            let size = op.bytes();
            if size > self.message_max {
                let op = self.ops.pop_front().expect("just seen");
                let error = Error::over("message", self.message_max as u64, size as u64);
                self.refused_here(op, error, now);
                continue;
            }
            bytes += size;
            if !items.is_empty() && bytes > self.bytes_max {
                break;
            }
            let op = self.ops.pop_front().expect("just seen");
            let seq = self.base + self.pending.len() as u64;
            items.push(v1::SessionItem { seq, item: Some(op.to_wire()) });
            self.pending.push_back(Some(op));
            self.owed += 1;
        }
        (!items.is_empty()).then_some(v1::SessionRequest { items })
    }

    /// Begins go first: a settle that overtook its begin would be the same, a loss would not.
    fn queue_begins(&mut self) {
        if self.begins.is_empty() {
            return;
        }
        let leases = &mut self.leases;
        // What is being settled already is over when the node hears of it.
        self.begins.retain(|lease| match leases.get_mut(lease) {
            Some(held) if !held.settling => {
                held.begun = true;
                true
            }
            _ => false,
        });
        for some in self.begins.chunks(LEASES_MAX) {
            self.ops.push_front(Op::Begin(some.to_vec()));
        }
        self.begins.clear();
    }

    /// A stream is open: subscribe, and settle what is left of the same lane.
    pub(super) fn opened(&mut self, info: Arc<Info>, limits: Option<&v1::Limits>, now: Instant) {
        let or = |given: u64, default: usize| match usize::try_from(given) {
            Ok(0) | Err(_) => default,
            Ok(given) => given,
        };
        let limits = limits.copied().unwrap_or_default();
        if !self.lease_chosen {
            let told = limits.lease.and_then(|lease| Duration::try_from(lease).ok());
            self.lease = told.filter(|lease| !lease.is_zero()).unwrap_or(LEASE);
        }
        self.items_max = or(limits.items.into(), ITEMS_MAX);
        self.message_max = or(limits.message_bytes, usize::MAX);
        self.bytes_max = self.message_max.min(MESSAGE_BYTES_MAX);
        self.owed_max = or(limits.window.into(), usize::MAX);
        self.progress = now;
        self.subscribed = 0;
        self.draining = false;
        if !self.closing {
            self.ops.extend(self.plan.iter().cloned().map(Op::Subscribe));
        }
        for mut op in std::mem::take(&mut self.orphans) {
            if op.info.lane == info.lane {
                op.by_token = true;
                self.ops.push_back(Op::Settle(op));
            } else {
                self.orphans.push(op);
            }
        }
        self.info = Some(info);
        self.end_unsent_orphans();
    }

    /// What was never sent to its lane is lost as soon as another lane serves this session.
    fn end_unsent_orphans(&mut self) {
        let lost =
            || Err(Error::lease_lost("the stream of the lease ended before the settle was sent"));
        let (doubtful, unsent) =
            std::mem::take(&mut self.orphans).into_iter().partition(|op| op.doubt);
        self.orphans = doubtful;
        for op in unsent {
            op.answer_all(&lost());
        }
    }

    /// The stream is gone, and its leases with it.
    pub(super) fn broken(&mut self, now: Instant) {
        self.stream += 1;
        // What the connection pulls from ends now: a node that is merely slow would go on to serve
        // a stream that nobody reads, and its subscriptions would go on to take objects.
        if let Some(body) = self.body.take() {
            body.wake();
        }
        self.info = None;
        self.buffer.clear();
        self.leases.clear();
        self.begins.clear();
        self.next_extend = None;
        self.base = 1;
        self.owed = 0;
        let pending = std::mem::take(&mut self.pending).into_iter().flatten().map(|op| (op, true));
        let ops = std::mem::take(&mut self.ops).into_iter().map(|op| (op, false));
        for (op, sent) in pending.chain(ops) {
            match op {
                Op::Settle(op) => self.orphan(op, sent, now),
                Op::Transaction(mut op) => {
                    op.doubt |= sent;
                    op.since.get_or_insert(now);
                    self.orphan_transactions.push(op);
                }
                // The next stream subscribes by the plan, and leases are gone.
                Op::Subscribe(_) | Op::SetCredit(_) | Op::Unsubscribe(_) => {}
                Op::Begin(_) | Op::Extend(_) => {}
            }
        }
        for (_, op) in std::mem::take(&mut self.delayed) {
            self.orphan(op, false, now);
        }
    }

    /// Keeps a settle of a stream that is gone, if anybody wants to know.
    pub(super) fn orphan(&mut self, mut op: SettleOp, sent: bool, now: Instant) {
        op.targets.retain(|target| target.as_ref().is_some_and(|target| target.waiter.is_some()));
        op.doubt |= sent;
        op.since.get_or_insert(now);
        if !op.targets.is_empty() {
            self.orphans.push(op);
        }
    }

    /// Gives up orphans that have waited too long for their lane.
    pub(super) fn expire(&mut self, now: Instant, patience: Duration, why: &Error) {
        let over = |since: Option<Instant>| since.is_none_or(|since| now >= since + patience);
        for op in std::mem::take(&mut self.orphans) {
            if over(op.since) {
                let error = why.clone().give_up(op.doubt, patience);
                op.answer_all(&Err(error));
            } else {
                self.orphans.push(op);
            }
        }
        for op in std::mem::take(&mut self.orphan_transactions) {
            if over(op.since) {
                let error = why.clone().give_up(op.doubt, patience);
                op.answer(Err(error));
            } else {
                self.orphan_transactions.push(op);
            }
        }
    }

    pub(super) fn next_expiry(&self, patience: Duration) -> Option<Instant> {
        let settles = self.orphans.iter().filter_map(|op| op.since);
        let transactions = self.orphan_transactions.iter().filter_map(|op| op.since);
        settles.chain(transactions).min().map(|since| since + patience)
    }

    /// Hands the next delivery to the application, which begins it.
    pub(super) fn take(&mut self, now: Instant) -> Option<Delivered> {
        while let Some((arrived, delivered)) = self.buffer.pop_front() {
            if now >= arrived + self.lease {
                // Its lease has run out unbegun: the node gives it to someone else.
                continue;
            }
            let lease = delivered.lease();
            self.begins.push(lease);
            let (begun, settling, dropped) = (false, false, false);
            self.leases.insert(lease, Held { renewed: arrived, begun, settling, dropped });
            let due = arrived + self.lease / 3;
            self.next_extend = Some(self.next_extend.map_or(due, |next| next.min(due)));
            return Some(delivered);
        }
        None
    }

    pub(super) fn next_extend(&self) -> Option<Instant> {
        self.next_extend
    }

    /// Extends every held lease that has used a third of its time, or will soon: together, so that
    /// many leases cost few messages.
    pub(super) fn extend_due(&mut self, now: Instant) {
        if self.next_extend.is_none_or(|at| at > now) {
            return;
        }
        let third = self.lease / 3;
        let soon = now + self.lease / 12;
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (lease, held) in &mut self.leases {
            if held.renewed + third <= soon {
                held.renewed = now;
                due.push(*lease);
            }
            let at = held.renewed + third;
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        // In the order of their numbers, whatever that of the map.
        due.sort_unstable();
        self.next_extend = next;
        for some in due.chunks(LEASES_MAX) {
            self.ops.push_front(Op::Extend(some.to_vec()));
        }
    }

    /// Sends a settle on its way, or keeps it until its lane is back.
    pub(super) fn settle(
        &mut self,
        info: &Arc<Info>,
        content: Content,
        target: Target,
        now: Instant,
    ) {
        if self.ended {
            return target.answer(Err(Error::closed("session")));
        }
        if self.ops.len() + self.orphans.len() >= OPS_MAX {
            return target.answer(Err(Error::over(
                "settles on their way",
                OPS_MAX as u64,
                OPS_MAX as u64 + 1,
            )));
        }
        let mut by_token = false;
        if self.is_current(info) {
            match self.leases.get_mut(&target.lease) {
                Some(held) if held.settling => {
                    return target.answer(Err(Error::settle_in_progress()));
                }
                Some(held) => held.settling = true,
                // Over already: the node knows how.
                None => by_token = true,
            }
        } else {
            match &self.info {
                Some(mine) if mine.lane == info.lane => by_token = true,
                Some(_) => {
                    let lost =
                        Error::lease_lost("the stream of the lease is gone, and its node with it");
                    return target.answer(Err(lost));
                }
                None => {
                    let op = SettleOp::new(info.clone(), content, target, true);
                    return self.orphan(op, false, now);
                }
            }
        }
        self.queue_settle(SettleOp::new(info.clone(), content, target, by_token));
    }

    /// Joins a settle that ends its leases in the same way, if one waits.
    pub(super) fn queue_settle(&mut self, mut op: SettleOp) {
        for queued in self.ops.iter_mut().rev().take(MERGE_DEPTH) {
            if let Op::Settle(queued) = queued
                && queued.merge(&mut op)
            {
                return;
            }
        }
        self.ops.push_back(Op::Settle(op));
    }

    /// Sends a transaction on its way, or keeps it until its lane is back.
    pub(super) fn commit(&mut self, mut op: TransactionOp, now: Instant) {
        if self.ended {
            return op.answer(Err(Error::closed("session")));
        }
        if !self.is_current(&op.info) || op.leases().any(|lease| !self.leases.contains_key(&lease))
        {
            op.since = Some(now);
            self.orphan_transactions.push(op);
            return;
        }
        if op.leases().any(|lease| self.leases[&lease].settling) {
            return op.answer(Err(Error::settle_in_progress()));
        }
        for lease in op.leases().collect::<Vec<_>>() {
            if let Some(held) = self.leases.get_mut(&lease) {
                held.settling = true;
            }
        }
        self.ops.push_back(Op::Transaction(op));
    }

    /// The application has let a delivery go without settling it: a failure.
    pub(super) fn dropped(&mut self, delivered: &Delivered) {
        if !self.is_current(delivered.info()) {
            return;
        }
        let Some(held) = self.leases.get_mut(&delivered.lease()) else { return };
        held.dropped = true;
        if !held.settling {
            held.settling = true;
            self.give_back(delivered.info().clone(), delivered, true);
        }
    }

    /// Releases without anybody waiting for the answer.
    fn give_back(&mut self, info: Arc<Info>, delivered: &Delivered, failed: bool) {
        let target = Target { lease: delivered.lease(), id: delivered.id(), waiter: None };
        self.queue_settle(SettleOp::new(info, Content::release(failed), target, false));
    }

    /// Gives back what the application has not seen, without blame.
    pub(super) fn release_buffer(&mut self) {
        let Some(info) = self.info.clone() else { return };
        for (_, delivered) in std::mem::take(&mut self.buffer) {
            self.give_back(info.clone(), &delivered, false);
        }
    }

    /// Ends the subscriptions; the stream stays for what is held.
    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        if self.info.is_some() {
            for subscribe in &self.plan {
                self.ops.push_back(Op::Unsubscribe(subscribe.subscription));
            }
        }
        self.release_buffer();
    }

    /// Nothing of this stream is held or on its way.
    pub(super) fn is_quiet(&self) -> bool {
        let waits = self.ops.is_empty() && self.owed == 0 && self.delayed.is_empty();
        waits && self.leases.is_empty() && self.buffer.is_empty()
    }

    /// Nothing is on its way, whatever the application holds.
    pub(super) fn is_settled(&self) -> bool {
        let waits = self.ops.is_empty() && self.owed == 0 && self.delayed.is_empty();
        waits && self.buffer.is_empty() && !self.has_orphans()
    }

    /// Something of an earlier stream has no answer.
    pub(super) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty() || !self.orphan_transactions.is_empty() || self.repeating > 0
    }

    /// Something was begun that has to be extended before the task looks again by itself.
    pub(super) fn oversleeps(&self) -> bool {
        self.next_extend.is_some_and(|at| self.asleep_until.is_none_or(|until| at < until))
    }

    /// The end: nobody will answer any more.
    pub(super) fn end(&mut self, now: Instant) {
        self.broken(now);
        self.ended = true;
        let closed = Error::closed("session");
        self.expire(now, Duration::ZERO, &closed);
    }
}
