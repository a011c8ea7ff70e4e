//! The history's thread: takes in records, answers questions, syncs, and starts over when the
//! database turns out to be damaged.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};

use super::book::{Book, SYNC_BYTES};
use super::db::{DbError, DbResult};
use super::folder;
use super::inbox::{Ask, Pulled, Query, Shared, Stop};
use super::shared::sending::Sending;
use super::{HistoryOptions, PULL_BYTES, QueryError, Report};
use crate::threads::stand_back;

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) path: PathBuf,
    pub(super) lane: LaneId,
    pub(super) options: HistoryOptions,
    pub(super) report: Box<dyn FnMut(Report) + Send>,
    /// None after a failure, until the next try.
    pub(super) book: Option<Book>,
    /// Records that were asked for from the log.
    pub(super) pulled: VecDeque<(RecordNumber, Bytes)>,
    /// Where the records start that the log is being asked for.
    pub(super) pulling: Option<RecordNumber>,
    /// Nothing that has failed is tried again before.
    pub(super) retry_at: Option<Instant>,
    pub(super) sync_at: Option<Instant>,
    pub(super) queries: Vec<Query>,
    /// What sends the history to the shared tables, if there are any.
    pub(super) sending: Option<Sending>,
    /// Where the log may be cut, as it was last said.
    pub(super) said: Option<RecordNumber>,
    /// A new database begins with this record: what is before is told elsewhere.
    pub(super) from: RecordNumber,
    /// The lane ends.
    pub(super) concludes: bool,
    /// Up to here, records are no longer part of the lag.
    pub(super) counted: RecordNumber,
    pub(super) is_behind: bool,
    /// Whether the alarm is on.
    pub(super) alarmed: bool,
}

impl Worker {
    pub(super) fn run(mut self) {
        stand_back();
        let shared = self.shared.clone();
        // Whatever ends this thread, nobody waits for it afterwards.
        let _ended = Ended(shared.clone());
        loop {
            match self.turn() {
                Turn::Again => {}
                Turn::Wait(until) => shared.wait(until),
                Turn::End => return,
            }
        }
    }

    fn turn(&mut self) -> Turn {
        let (stop, rebuild) = self.read_inbox();
        if rebuild {
            self.rebuild();
        }
        self.reopen_if_due();
        let worked = stop != Some(Stop::Abandon) && self.take_in();
        if stop.is_some() && !worked {
            if stop == Some(Stop::Close) {
                self.answer_all();
                self.sync();
            }
            return Turn::End;
        }
        self.answer_ready();
        self.conclude_if_due();
        if self.is_sync_due() {
            self.sync();
        }
        self.send();
        if worked {
            return Turn::Again;
        }
        self.pull_if_wanted();
        let deadlines = self.queries.iter().map(|query| query.deadline);
        let sends = self.sending.as_ref().filter(|_| self.book.is_some());
        let sends = sends.and_then(Sending::retry_at);
        let timers = self.sync_at.into_iter().chain(self.retry_at).chain(sends).chain(deadlines);
        Turn::Wait(timers.min())
    }

    fn read_inbox(&mut self) -> (Option<Stop>, bool) {
        let mut inbox = self.shared.lock();
        self.queries.extend(inbox.queries.drain(..));
        let pulled = inbox.pulled.take();
        let orders = (inbox.stop, std::mem::take(&mut inbox.rebuild));
        self.concludes |= inbox.conclude;
        let told = std::mem::take(&mut inbox.told);
        drop(inbox);
        if let Some(sending) = &mut self.sending {
            told.into_iter().for_each(|told| sending.hear(told, self.options.bytes));
        }
        if let Some(answer) = pulled {
            self.take_answer(answer);
        }
        orders
    }

    fn take_answer(&mut self, answer: Pulled) {
        let from = self.pulling.take();
        let next = self.book.as_ref().map(|book| book.state.next);
        match answer {
            // The history has started over since it asked: it asks again.
            Ok(_) if from.is_none() || next.is_none() || next < from => {}
            Ok(records) if !records.is_empty() => self.pulled = records.into(),
            answer => {
                let why = match answer {
                    Ok(_) => "nothing is there".to_owned(),
                    Err(error) => error.to_string(),
                };
                tracing::error!(why, "the history could not read the log, and tries again");
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Takes in one record, if there is one.
    fn take_in(&mut self) -> bool {
        let Some(book) = &mut self.book else { return false };
        if self.concludes && self.sending.as_ref().is_some_and(|sending| sending.is_full(book)) {
            // The log waits: nothing is left out for want of room.
            return false;
        }
        let next = book.state.next;
        while self.pulled.front().is_some_and(|(number, _)| *number < next) {
            self.pulled.pop_front();
        }
        let mut inbox = self.shared.lock();
        let lag = inbox.lag;
        let found = self.pulled.pop_front().or_else(|| inbox.take(next));
        let Some((number, record)) = found else { return false };
        if number > self.counted {
            self.counted = number;
            inbox.lag = lag.saturating_sub(record.len() as u64);
        }
        drop(inbox);
        let limit = if self.is_behind { self.options.lag / 2 } else { self.options.lag };
        let is_behind = lag > limit;
        let applied = book.apply(number, &record, !is_behind);
        if is_behind != self.is_behind {
            self.is_behind = is_behind;
            if is_behind {
                tracing::warn!(lag, limit, "HISTORY_BEHIND: the history keeps counts only");
            } else {
                tracing::info!(lag, "the history keeps detail again");
            }
        }
        self.say_behind();
        match applied {
            Ok(()) => {
                self.sync_at.get_or_insert_with(|| Instant::now() + self.options.sync.to_std());
            }
            Err(error) => self.fail(error),
        }
        true
    }

    fn pull_if_wanted(&mut self) {
        let Some(book) = &self.book else { return };
        let from = book.state.next;
        let is_due = self.retry_at.is_none_or(|at| at <= Instant::now());
        let has_some = !self.pulled.is_empty();
        if self.pulling.is_some() || has_some || !is_due || from > self.shared.lock().last {
            return;
        }
        self.retry_at = None;
        self.pulling = Some(from);
        (self.report)(Report::Wants { from, bytes: PULL_BYTES });
    }

    fn is_sync_due(&self) -> bool {
        let is_time = self.sync_at.is_some_and(|at| at <= Instant::now());
        is_time || self.book.as_ref().is_some_and(|book| book.unsynced() >= SYNC_BYTES)
    }

    fn sync(&mut self) {
        self.sync_at = None;
        let Some(book) = &mut self.book else { return };
        if !book.is_dirty() {
            return;
        }
        match book.sync() {
            Ok(_) => self.say_stands(),
            Err(error) => self.fail(error),
        }
    }

    /// Says where the log may be cut, if that has changed.
    fn say_stands(&mut self) {
        let Some(book) = &self.book else { return };
        let stands = match &mut self.sending {
            None => Some(book.synced),
            Some(sending) => sending.stands(book),
        };
        if let Some(number) = stands.filter(|_| stands != self.said) {
            self.said = stands;
            (self.report)(Report::Stands(number));
        }
    }

    /// Says whether something is left out, if that has changed.
    fn say_behind(&mut self) {
        let is_behind = self.is_behind || self.sending.as_ref().is_some_and(Sending::is_behind);
        if is_behind != self.alarmed {
            self.alarmed = is_behind;
            (self.report)(Report::Behind(is_behind));
        }
    }

    /// Goes on with sending closed parts to the shared tables.
    fn send(&mut self) {
        let (Some(sending), Some(book)) = (&mut self.sending, &mut self.book) else { return };
        match sending.go_on(book) {
            Ok(()) => {
                self.say_stands();
                self.say_behind();
            }
            Err(error) => self.fail(error),
        }
    }

    /// At the end of a lane, what there is makes the last part.
    fn conclude_if_due(&mut self) {
        let Some(book) = &mut self.book else { return };
        if !self.concludes || book.state.next <= self.shared.lock().last || book.refs.is_empty() {
            return;
        }
        match book.conclude() {
            Ok(()) => self.sync(),
            Err(error) => self.fail(error),
        }
    }

    /// Answers what need not wait, and what has waited long enough.
    fn answer_ready(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.queries.len() {
            let query = &self.queries[index];
            let next = self.book.as_ref().map(|book| book.state.next);
            let is_ready = next.is_some_and(|next| query.after < next);
            if is_ready || query.deadline <= now {
                let query = self.queries.remove(index);
                self.answer(query, is_ready);
            } else {
                index += 1;
            }
        }
    }

    fn answer_all(&mut self) {
        for query in std::mem::take(&mut self.queries) {
            let is_ready = self.book.as_ref().is_some_and(|book| query.after < book.state.next);
            self.answer(query, is_ready);
        }
    }

    fn answer(&mut self, query: Query, is_ready: bool) {
        let Some(book) = self.book.as_mut().filter(|_| is_ready) else {
            return query.ask.refuse(QueryError::Behind { record: query.after });
        };
        // Whoever asked may have gone: then nobody misses the answer.
        let answered = match &query.ask {
            Ask::Object(id, _) => book.object(*id).map(Found::Object),
            Ask::Trace(id, _) => book.trace(*id).map(Found::Trace),
            Ask::List(list, _) => book.list(list).map(Found::List),
            Ask::Stats(stats, _) => book.stats(stats).map(Found::Stats),
        };
        match answered {
            Ok(found) => query.ask.answer(found),
            Err(error) => {
                self.fail(error);
                // It is answered from what is rebuilt, if that is done in time.
                self.queries.push(query);
            }
        }
    }

    /// Starts over: after damage with an empty database, else with what was durable.
    fn fail(&mut self, error: DbError) {
        self.forget();
        match error {
            DbError::Damaged { place, what } => self.put_aside(&place, &what),
            error => self.try_later(&error.to_string()),
        }
    }

    fn forget(&mut self) {
        self.book = None;
        if let Some(sending) = &mut self.sending {
            sending.forget();
        }
        self.sync_at = None;
        self.pulled.clear();
    }

    fn put_aside(&mut self, place: &str, what: &str) {
        let done = folder::put_aside(&self.path).map(|aside| {
            let (file, aside) = (self.path.display(), aside.display());
            tracing::error!(%file, place, what, %aside, "history damaged: put aside, to be rebuilt");
        });
        self.open_fresh(done);
    }

    fn rebuild(&mut self) {
        self.forget();
        let done = folder::remove(&self.path);
        self.open_fresh(done);
    }

    /// Opens what has just been emptied. If that is damaged the disk is: trying at once again would
    /// turn in a circle.
    fn open_fresh(&mut self, emptied: std::io::Result<()>) {
        let opened = emptied.map_err(DbError::Folder).and_then(|()| self.open());
        if let Err(error) = opened {
            self.try_later(&error.to_string());
        }
    }

    fn reopen_if_due(&mut self) {
        if self.book.is_some() || self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        if let Err(error) = self.open() {
            self.fail(error);
        }
    }

    fn open(&mut self) -> DbResult<()> {
        self.retry_at = None;
        let last = self.shared.lock().last;
        let mut book = Book::open(&self.path, self.lane, last, self.options.clone())?;
        book.begin_at(self.from);
        self.book = Some(book);
        Ok(())
    }

    fn try_later(&mut self, why: &str) {
        tracing::error!(why, path = %self.path.display(), "the history stands still, tries again");
        self.retry_at = Some(Instant::now() + RETRY);
    }
}

enum Turn {
    Again,
    Wait(Option<Instant>),
    End,
}

enum Found {
    Object(Option<super::Finished>),
    Trace(super::Trace),
    List(super::List),
    Stats(Vec<super::StatsRow>),
}

impl Ask {
    fn answer(self, found: Found) {
        // Whoever asked may have gone: then nobody misses the answer.
        match (self, found) {
            (Self::Object(_, to), Found::Object(found)) => drop(to.send(Ok(found))),
            (Self::Trace(_, to), Found::Trace(found)) => drop(to.send(Ok(found))),
            (Self::List(_, to), Found::List(found)) => drop(to.send(Ok(found))),
            (Self::Stats(_, to), Found::Stats(found)) => drop(to.send(Ok(found))),
            _ => unreachable!("the answer is made for the question"),
        }
    }

    fn refuse(self, error: QueryError) {
        match self {
            Self::Object(_, to) => drop(to.send(Err(error))),
            Self::Trace(_, to) => drop(to.send(Err(error))),
            Self::List(_, to) => drop(to.send(Err(error))),
            Self::Stats(_, to) => drop(to.send(Err(error))),
        }
    }
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        // Dropping the questions tells those who asked; later ones are refused.
        self.0.tell(|inbox| {
            inbox.is_ended = true;
            inbox.queries.clear();
        });
    }
}

/// Time between two tries of what has failed.
pub(super) const RETRY: Duration = Duration::from_secs(2);
