//! What waits for the history's thread: records, questions, orders. Everything in it is bounded.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use dpc_core::ids::{ObjectId, RecordNumber};
use dpc_core::store::StoreError;
use tokio::sync::oneshot;

use super::rows::{Finished, List, ListQuery, StatsQuery, StatsRow, Trace};
use super::shared::sending::Told;
use super::{HistoryOptions, QueryError};

/// Records of the log, as a store's `read` answers.
pub(super) type Pulled = Result<Vec<(RecordNumber, Bytes)>, StoreError>;

type Answer<T> = oneshot::Sender<Result<T, QueryError>>;

#[derive(Debug)]
pub(super) enum Ask {
    Object(ObjectId, Answer<Option<Finished>>),
    Trace(ObjectId, Answer<Trace>),
    List(ListQuery, Answer<List>),
    Stats(StatsQuery, Answer<Vec<StatsRow>>),
}

#[derive(Debug)]
pub(super) struct Query {
    /// The last record that was fed before the question.
    pub(super) after: RecordNumber,
    pub(super) deadline: Instant,
    pub(super) ask: Ask,
}

/// How the thread is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Take in what waits and make it durable.
    Close,
    /// At once: what is not durable is taken from the log again next time.
    Abandon,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Consecutive records; others are taken from the log later.
    records: VecDeque<(RecordNumber, Bytes)>,
    bytes: u64,
    /// The last record that was fed.
    pub(super) last: RecordNumber,
    /// Bytes of log that were fed and are not in the history.
    pub(super) lag: u64,
    pub(super) pulled: Option<Pulled>,
    pub(super) queries: VecDeque<Query>,
    pub(super) rebuild: bool,
    /// The lane ends: what there is goes to the shared tables.
    pub(super) conclude: bool,
    /// Answers of the shared tables.
    pub(super) told: VecDeque<Told>,
    pub(super) stop: Option<Stop>,
    pub(super) is_ended: bool,
    changed: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    options: HistoryOptions,
}

impl Shared {
    pub(super) fn new(last: RecordNumber, options: HistoryOptions) -> Self {
        let inbox = Mutex::new(Inbox { last, ..Inbox::default() });
        Self { inbox, wake: Condvar::new(), options }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("nothing panics while it holds the inbox")
    }

    /// Changes the inbox and wakes the thread.
    pub(super) fn tell<T>(&self, change: impl FnOnce(&mut Inbox) -> T) -> T {
        let mut inbox = self.lock();
        inbox.changed = true;
        let answer = change(&mut inbox);
        drop(inbox);
        self.wake.notify_one();
        answer
    }

    /// Keeps a committed record, unless that would be too much or leave a gap.
    pub(super) fn feed(&self, number: RecordNumber, record: Bytes) {
        self.tell(|inbox| {
            let bytes = record.len() as u64;
            if number > inbox.last {
                inbox.last = number;
                inbox.lag += bytes;
            }
            let fits = match inbox.records.back() {
                None => true,
                Some((back, _)) => {
                    number == back.next() && inbox.bytes + bytes <= self.options.queue
                }
            };
            if fits {
                inbox.bytes += bytes;
                inbox.records.push_back((number, record));
            }
        });
    }

    /// Waits until something changes, or until then.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let mut inbox = self.lock();
        while !inbox.changed {
            let Some(until) = until else {
                inbox = self.wake.wait(inbox).expect("nothing panics while it holds the inbox");
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.wake.wait_timeout(inbox, left);
            inbox = waited.expect("nothing panics while it holds the inbox").0;
        }
        inbox.changed = false;
    }
}

impl Inbox {
    /// The record `next`, if it waits here. Older ones are known already and go.
    pub(super) fn take(&mut self, next: RecordNumber) -> Option<(RecordNumber, Bytes)> {
        while let Some((number, _)) = self.records.front() {
            if *number > next {
                return None;
            }
            let (number, record) = self.records.pop_front()?;
            self.bytes -= record.len() as u64;
            if number == next {
                return Some((number, record));
            }
        }
        None
    }
}
