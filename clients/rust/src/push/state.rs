//! The books of a pusher: what was accepted, what was sent, what was answered.
//!
//! Shared by the callers, by the request body that the connection pulls, and by the task that
//! reads answers; each holds the lock for a few moves of memory and never while it waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use dpc_proto::{PushStreamRequest, v1};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::receipt::{Answered, Receipt, Stored};
use crate::error::{Error, Outcome};
use crate::options::Window;

/// Answered slots are kept until the ones before them are answered: at most so many windows.
const SPAN_WINDOWS_MAX: usize = 4;
/// What a node is trusted with before it has told its own limits.
const ITEMS_MAX: usize = 256;
/// Messages beyond this only add delay.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// What an item costs on the wire besides its payload and headers, roughly.
const ITEM_BYTES: usize = 128;

/// The result of one push.
pub(super) type Answer = Result<Receipt, Error>;

/// Who wants to know.
pub(super) enum Waiter {
    /// The holder of one handle.
    Handle(oneshot::Sender<Answer>),
    /// Whoever collects receipts.
    Collector,
}

/// One object on its way.
pub(super) struct Entry {
    pub(super) ticket: u64,
    id: Uuid,
    /// In a box, since entries go from hand to hand.
    object: Box<v1::Object>,
    bytes: usize,
    waiter: Waiter,
    /// A node may have it.
    sent: bool,
    /// A node may have it since an earlier stream: no refusal takes that back.
    doubt: bool,
    /// When it first met trouble.
    since: Option<Instant>,
}

/// The node that may have objects without an answer.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) node: Arc<str>,
    pub(super) lane: String,
}

/// Answers for whoever collects them.
#[derive(Default)]
pub(super) struct Collected {
    /// Somebody does.
    pub(super) wanted: bool,
    pub(super) ranges: VecDeque<Answered>,
    /// If nobody does: what would have been told.
    pub(super) failed: u64,
    pub(super) first_failure: Option<Error>,
}

pub(super) struct State {
    pub(super) window: Window,
    /// Items by `seq - base`; `None` is answered.
    entries: VecDeque<Option<Entry>>,
    base: u64,
    /// How many of them were sent on this stream.
    sent: usize,
    /// How many of these have no answer.
    owed: usize,
    /// Refused for now: to be sent again at their time.
    delayed: Vec<(Instant, Entry)>,
    held: usize,
    held_bytes: usize,
    /// Somebody waits for room.
    pub(super) blocked: bool,
    next_ticket: u64,
    pub(super) place: Option<Place>,
    /// The stream that may send; bodies of older ones end.
    pub(super) stream: u64,
    pub(super) open: bool,
    items_max: usize,
    bytes_max: usize,
    /// A larger message would end the stream.
    message_max: usize,
    owed_max: usize,
    pub(super) body: Option<Waker>,
    pub(super) progress: Instant,
    /// The node has answered something on this stream.
    pub(super) answered: bool,
    /// The node refuses what others may take: it drains.
    pub(super) unavailable: bool,
    /// Nothing more is sent on this stream.
    pub(super) leaving: bool,
    pub(super) closing: bool,
    /// The task has ended: nothing moves any more.
    pub(super) ended: bool,
    pub(super) collected: Collected,
}

impl State {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window: Window { objects: window.objects.max(1), bytes: window.bytes.max(1) },
            entries: VecDeque::new(),
            base: 1,
            sent: 0,
            owed: 0,
            delayed: Vec::new(),
            held: 0,
            held_bytes: 0,
            blocked: false,
            next_ticket: 1,
            place: None,
            stream: 0,
            open: false,
            items_max: ITEMS_MAX,
            bytes_max: MESSAGE_BYTES_MAX,
            message_max: usize::MAX,
            owed_max: usize::MAX,
            body: None,
            progress: Instant::now(),
            answered: false,
            unavailable: false,
            leaving: false,
            closing: false,
            ended: false,
            collected: Collected::default(),
        }
    }

    /// One more object of this size fits the window.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let collected = !self.collected.wanted || self.collected.ranges.len() < self.window.objects;
        let counts = self.held < self.window.objects
            && self.entries.len() < self.window.objects.saturating_mul(SPAN_WINDOWS_MAX);
        collected && counts && (self.held == 0 || self.held_bytes + bytes <= self.window.bytes)
    }

    /// Enough room that waking those who wait is worth it: not one by one.
    pub(super) fn has_much_room(&self) -> bool {
        let Window { objects, bytes } = self.window;
        self.held == 0
            || (self.held <= objects - objects.div_ceil(4) && self.held_bytes <= bytes / 4 * 3)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held == 0
    }

    /// Takes an object in; returns its ticket.
    pub(super) fn accept(
        &mut self,
        id: Uuid,
        object: Box<v1::Object>,
        bytes: usize,
        waiter: Waiter,
    ) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.held += 1;
        self.held_bytes += bytes;
        let entry =
            Entry { ticket, id, object, bytes, waiter, sent: false, doubt: false, since: None };
        self.entries.push_back(Some(entry));
        ticket
    }

    pub(super) fn last_ticket(&self) -> u64 {
        self.next_ticket - 1
    }

    /// The smallest ticket without an answer.
    pub(super) fn first_open_ticket(&self) -> Option<u64> {
        let queued = self.entries.iter().flatten().map(|entry| entry.ticket).min();
        let delayed = self.delayed.iter().map(|(_, entry)| entry.ticket).min();
        queued.into_iter().chain(delayed).min()
    }

    /// The next message for the stream, if there is anything to send.
    pub(super) fn next_message(&mut self, now: impl Fn() -> Instant) -> Option<PushStreamRequest> {
        if !self.open
            || self.leaving
            || self.sent == self.entries.len()
            || self.owed >= self.owed_max
        {
            return None;
        }
        if self.owed == 0 {
            self.progress = now();
        }
        let mut message = PushStreamRequest::default();
        let (mut count, mut bytes) = (0, 0);
        while self.sent < self.entries.len() && self.owed < self.owed_max {
            let entry = self.entries[self.sent].as_mut().expect("what was not sent has no answer");
            let size = entry.bytes + ITEM_BYTES;
            if size > self.message_max {
                self.refuse_large();
                continue;
            }
            bytes += size;
            if count == self.items_max || (count > 0 && bytes > self.bytes_max) {
                break;
            }
            entry.sent = true;
            let seq = self.base + self.sent as u64;
            message.write(seq, &mut entry.object);
            count += 1;
            self.sent += 1;
            self.owed += 1;
        }
        (count > 0).then_some(message)
    }

    /// The next object would end the stream for all others: it is not sent.
    fn refuse_large(&mut self) {
        let entry = self.entries.remove(self.sent).flatten().expect("just looked at");
        let error = Error::over("entity.value", self.message_max as u64, entry.bytes as u64);
        self.finish(entry, Err(error));
    }

    /// A stream is open: what has no answer is sent on it, in order.
    pub(super) fn opened(&mut self, place: Place, limits: Option<&v1::Limits>, now: Instant) {
        let or = |given: u64, default: usize| match usize::try_from(given) {
            Ok(0) | Err(_) => default,
            Ok(given) => given,
        };
        let limits = limits.copied().unwrap_or_default();
        self.items_max = or(limits.items.into(), ITEMS_MAX);
        self.message_max = or(limits.message_bytes, usize::MAX);
        self.bytes_max = self.message_max.min(MESSAGE_BYTES_MAX);
        self.owed_max = or(limits.window.into(), usize::MAX);
        self.place = Some(place);
        self.open = true;
        self.answered = false;
        self.progress = now;
    }

    /// The stream is gone: nothing of it will be answered.
    pub(super) fn broken(&mut self, now: Instant) {
        self.open = false;
        self.unavailable = false;
        self.leaving = false;
        self.stream += 1;
        // What the connection pulls from ends now, and the stream with it.
        if let Some(body) = self.body.take() {
            body.wake();
        }
        self.entries.retain(Option::is_some);
        self.base = 1;
        self.sent = 0;
        self.owed = 0;
        for entry in self.entries.iter_mut().flatten() {
            entry.doubt |= entry.sent;
            entry.since.get_or_insert(now);
        }
    }

    /// A node may have objects that are not answered.
    pub(super) fn in_doubt(&self) -> bool {
        self.all().any(|entry| entry.sent)
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten().chain(self.delayed.iter().map(|(_, entry)| entry))
    }

    /// Takes in the answers of a message. An error is a node that makes no sense.
    pub(super) fn answered(
        &mut self,
        answers: v1::PushAnswers,
        now: Instant,
        mut retry: impl FnMut(&Error) -> Instant,
        patience: Duration,
    ) -> Result<(), Error> {
        self.progress = now;
        self.answered = true;
        let node = self.place.as_ref().map(|place| place.node.clone()).unwrap_or_default();
        for ok in &answers.ok {
            let stored = Stored::from_wire(ok, &node);
            let (first, last) = self.positions(ok.first_seq, ok.last_seq)?;
            for position in first..=last {
                if let Some(entry) = self.take(position) {
                    self.finish(entry, Ok(stored.clone()));
                }
            }
        }
        for refused in answers.refused {
            let (position, _) = self.positions(refused.seq, refused.seq)?;
            let error = Error::from_wire(refused.error, refused.position);
            if let Some(entry) = self.take(position) {
                self.refused(entry, error, now, &mut retry, patience);
            }
        }
        while self.sent > 0 && self.entries.front().is_some_and(Option::is_none) {
            self.entries.pop_front();
            self.base += 1;
            self.sent -= 1;
        }
        Ok(())
    }

    fn refused(
        &mut self,
        mut entry: Entry,
        error: Error,
        now: Instant,
        retry: &mut impl FnMut(&Error) -> Instant,
        patience: Duration,
    ) {
        entry.doubt |= error.outcome() == Outcome::Unknown;
        entry.sent = entry.doubt;
        self.unavailable |= error.code() == tonic::Code::Unavailable;
        let since = *entry.since.get_or_insert(now);
        let at = retry(&error);
        if !error.is_transient() {
            return self.finish(entry, Err(error));
        }
        if at >= since + patience {
            let error = error.give_up(entry.doubt, patience);
            return self.finish(entry, Err(error));
        }
        self.delayed.push((at, entry));
    }

    /// Positions of sent items; those before the base were answered before.
    fn positions(&self, first: u64, last: u64) -> Result<(usize, usize), Error> {
        let sent = self.base + self.sent as u64;
        if first == 0 || first > last || last >= sent {
            let message =
                format!("the node answered items {first} to {last}, {} were sent", sent - 1);
            return Err(Error::malformed_answer(message));
        }
        if last < self.base {
            let message = format!("the node answered items {first} to {last} twice");
            return Err(Error::malformed_answer(message));
        }
        let position = |seq: u64| seq.saturating_sub(self.base) as usize;
        Ok((position(first), position(last)))
    }

    fn take(&mut self, position: usize) -> Option<Entry> {
        let entry = self.entries[position].take();
        self.owed -= usize::from(entry.is_some());
        entry
    }

    fn finish(&mut self, entry: Entry, result: Result<Stored, Error>) {
        self.held -= 1;
        self.held_bytes -= entry.bytes;
        match entry.waiter {
            Waiter::Handle(handle) => {
                // A caller that dropped its handle does not want to know.
                let _ = handle.send(result.map(|stored| Receipt { id: entry.id, stored }));
            }
            Waiter::Collector => self.collect(entry.ticket, result),
        }
    }

    fn collect(&mut self, ticket: u64, result: Result<Stored, Error>) {
        let collected = &mut self.collected;
        if collected.wanted {
            if !collected.ranges.back_mut().is_some_and(|last| last.absorb(ticket, &result)) {
                collected.ranges.push_back(Answered { first: ticket, last: ticket, result });
            }
        } else if let Err(error) = result {
            collected.failed += 1;
            collected.first_failure.get_or_insert(error);
        }
    }

    /// Puts what is due again back into the queue.
    pub(super) fn requeue_due(&mut self, now: Instant) {
        let mut i = 0;
        while i < self.delayed.len() {
            if self.delayed[i].0 <= now {
                let (_, entry) = self.delayed.swap_remove(i);
                self.entries.push_back(Some(entry));
            } else {
                i += 1;
            }
        }
    }

    /// Puts everything that was refused for now back: another node may take it at once.
    pub(super) fn requeue_all(&mut self) {
        let delayed = std::mem::take(&mut self.delayed);
        self.entries.extend(delayed.into_iter().map(|(_, entry)| Some(entry)));
    }

    /// Gives up what has waited too long for a stream. `unsent_too`: at once, what was never sent.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        patience: Duration,
        why: &Error,
        unsent_now: bool,
    ) {
        assert!(!self.open, "on an open stream, answers are on their way");
        self.requeue_all();
        let entries = std::mem::take(&mut self.entries);
        for entry in entries.into_iter().flatten() {
            let since = entry.since.unwrap_or(now);
            if now >= since + patience || (unsent_now && !entry.sent) {
                let why = why.clone().give_up(entry.sent, now - since);
                self.finish(entry, Err(why));
            } else {
                self.entries.push_back(Some(Entry { since: Some(since), ..entry }));
            }
        }
    }

    /// When the oldest of the waiting is given up.
    pub(super) fn next_expiry(&self, patience: Duration) -> Option<Instant> {
        self.all().filter_map(|entry| entry.since).min().map(|since| since + patience)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.iter().map(|(at, _)| *at).min()
    }

    /// The node owes answers and has given none for too long.
    pub(super) fn is_stalled(&self, now: Instant, timeout: Duration) -> bool {
        self.owed > 0 && now >= self.progress + timeout
    }

    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// The end: nobody will answer any more.
    pub(super) fn end(&mut self, why: &Error) {
        self.ended = true;
        self.open = false;
        self.requeue_all();
        for entry in std::mem::take(&mut self.entries).into_iter().flatten() {
            let why = if entry.sent { why.clone().in_doubt() } else { why.clone() };
            self.finish(entry, Err(why));
        }
    }
}
