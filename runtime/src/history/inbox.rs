//! What waits for the history's thread: records, questions, orders. Everything in it is bounded.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dpc_core::ids::{ObjectId, RecordNumber};
use dpc_core::store::StoreError;
use tokio::sync::oneshot;

use super::rows::{Finished, List, ListQuery, StatsQuery, StatsRow, Trace};
use super::shared::sending::Told;
use super::{HistoryOptions, QueryError};

/// Records of the log, as a store's `read` answers.
pub(super) type Pulled = Result<Vec<(RecordNumber, Bytes)>, StoreError>;

/// How long records are gathered before the thread takes them in, unless something else wakes it.
const GATHER: Duration = Duration::from_millis(5);

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
    /// Something other than a record has come since the thread last looked.
    changed: bool,
    /// The thread waits for records, too.
    awaits_records: bool,
    /// A record has come since the thread last looked.
    has_fed: bool,
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
    ///
    /// It wakes the thread only if that has waited for long: under load a record comes every fraction of a
    /// millisecond, and to be told of each would cost as many switches of a core.
    pub(super) fn feed(&self, number: RecordNumber, record: Bytes) {
        let mut inbox = self.lock();
        let bytes = record.len() as u64;
        if number > inbox.last {
            inbox.last = number;
            inbox.lag += bytes;
        }
        let fits = match inbox.records.back() {
            None => true,
            Some((back, _)) => number == back.next() && inbox.bytes + bytes <= self.options.queue,
        };
        if fits {
            inbox.bytes += bytes;
            inbox.records.push_back((number, record));
        }
        inbox.has_fed = true;
        let wakes = inbox.awaits_records;
        drop(inbox);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Waits until something changes, or until then. Records are gathered for a moment.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let gathered = Instant::now() + GATHER;
        let mut inbox = self.lock();
        while !inbox.changed {
            let now = Instant::now();
            inbox.awaits_records = gathered <= now;
            if inbox.awaits_records && inbox.has_fed || until.is_some_and(|until| until <= now) {
                break;
            }
            // With records to take in it sleeps until they have gathered; else for as long as nothing happens.
            let gathering = Some(gathered).filter(|_| !inbox.awaits_records);
            inbox = match until.into_iter().chain(gathering).min() {
                None => self.wake.wait(inbox).expect("nothing panics while it holds the inbox"),
                Some(until) => {
                    let waited =
                        self.wake.wait_timeout(inbox, until.saturating_duration_since(now));
                    waited.expect("nothing panics while it holds the inbox").0
                }
            };
        }
        (inbox.changed, inbox.has_fed, inbox.awaits_records) = (false, false, false);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_thread_is_woken_by_a_record_after_any_rest() {
        let shared = Arc::new(Shared::new(RecordNumber(0), HistoryOptions::default()));
        let (woken, wakes) = channel();
        let waits = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for expected in 1..=3 {
                waits.wait(None);
                let taken = waits.lock().take(RecordNumber(expected)).map(|(number, _)| number);
                woken.send(taken).expect("the test listens");
            }
        });
        let rests = |shared: &Shared| shared.lock().awaits_records;
        for number in 1..=3 {
            // The second one comes at once, while records are gathered; the others when it has waited for long.
            while number != 2 && !rests(&shared) {
                std::thread::yield_now();
            }
            shared.feed(RecordNumber(number), Bytes::from_static(b"a record"));
            let taken = wakes.recv_timeout(Duration::from_secs(60)).expect("it is woken");
            assert_eq!(taken, Some(RecordNumber(number)));
        }
        thread.join().expect("it does not panic");
    }
}
