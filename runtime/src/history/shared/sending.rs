//! Sends closed parts of a history to the tables, the oldest first.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::store::{Done, StoreError};
use dpc_core::{Span, Wall};

use super::super::book::Book;
use super::super::db::{DbResult, Table};
use super::super::inbox::Shared;
use super::super::index::Part;
use super::super::worker::RETRY;
use super::segment::{self, PAGES_BYTES, SEGMENT_BYTES};
use super::{Ask, PartKey, PartRow, Row, RowKind, SharedHistory, kept_for};
use crate::edge::wall_of_machine;

/// What the tables have answered.
#[derive(Debug)]
pub(crate) enum Told {
    Parts(Result<Vec<PartRow>, StoreError>),
    Written(Result<(), StoreError>),
    Closed(Result<(), StoreError>),
}

/// See the module.
pub(in super::super) struct Sending {
    lane: LaneId,
    to: SharedHistory,
    inbox: Arc<Shared>,
    /// The lane's parts in the tables, the oldest first, once they have been read.
    parts: Option<VecDeque<PartRow>>,
    /// Everything below is in the tables, or will never be.
    sent: RecordNumber,
    work: Work,
    /// Writes that are not answered yet.
    in_flight: usize,
    retry_at: Option<Instant>,
    /// Something was left out, because the tables did not take it in time.
    is_behind: bool,
}

enum Work {
    Rest,
    /// The tables are asked which parts they have.
    Look,
    Write(Outgoing),
    Close(PartRow),
}

/// A part on its way.
struct Outgoing {
    row: PartRow,
    of: Part,
    /// What is left of it.
    left: VecDeque<(RowKind, Range<u64>)>,
    /// It has to begin again.
    failed: bool,
}

impl Sending {
    pub(in super::super) fn new(lane: LaneId, to: SharedHistory, inbox: Arc<Shared>) -> Self {
        Self {
            lane,
            to,
            inbox,
            parts: None,
            sent: RecordNumber(0),
            work: Work::Rest,
            in_flight: 0,
            retry_at: None,
            is_behind: false,
        }
    }

    /// When it wants to try again.
    pub(in super::super) fn retry_at(&self) -> Option<Instant> {
        // While answers are waited for, they wake it.
        self.retry_at.filter(|_| self.in_flight == 0)
    }

    /// Whether so much waits to be sent that no more should be read for it.
    pub(in super::super) fn is_full(&self, book: &Book) -> bool {
        let sent = book.parts.partition_point(|part| part.next <= self.sent);
        book.parts.len() - sent >= UNSENT_MAX
    }

    /// Whether something was left out.
    pub(in super::super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Below which record everything is in the tables or does not concern them; `None` while nobody
    /// knows what they have.
    pub(in super::super) fn stands(&mut self, book: &Book) -> Option<RecordNumber> {
        self.parts.as_ref()?;
        let is_sent = |part: &Part| part.next <= self.sent;
        if book.refs.is_empty() && book.parts.back().is_none_or(is_sent) {
            self.sent = self.sent.max(book.synced);
        }
        Some(self.sent.min(book.synced))
    }

    /// The history begins again: what was under way tells of rows that may be gone.
    pub(in super::super) fn forget(&mut self) {
        if let Work::Write(outgoing) = &mut self.work {
            outgoing.failed = true;
        }
    }

    pub(in super::super) fn hear(&mut self, told: Told, options_bytes: u64) {
        match told {
            Told::Parts(Ok(rows)) => {
                let mut own: Vec<PartRow> =
                    rows.into_iter().filter(|row| row.lane == self.lane).collect();
                own.sort_by_key(|row| row.next);
                let last = own.last().map_or(RecordNumber(0), |row| row.next);
                self.sent = self.sent.max(last);
                self.parts = Some(own.into());
                self.work = Work::Rest;
            }
            Told::Written(written) => {
                self.in_flight -= 1;
                let Work::Write(outgoing) = &mut self.work else { return };
                if let Err(error) = written {
                    outgoing.failed = true;
                    self.later(&error);
                }
            }
            Told::Closed(Ok(())) => {
                if let Work::Close(row) = std::mem::replace(&mut self.work, Work::Rest) {
                    self.sent = self.sent.max(row.next);
                    self.is_behind = false;
                    self.parts.get_or_insert_default().push_back(row);
                    self.keep_bounds(options_bytes);
                }
            }
            Told::Parts(Err(error)) | Told::Closed(Err(error)) => {
                self.work = Work::Rest;
                self.later(&error);
            }
        }
    }

    fn later(&mut self, error: &StoreError) {
        if self.retry_at.is_none() {
            let lane = self.lane;
            tracing::warn!(%lane, "the history does not reach the database, and tries again: {error}");
        }
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// Does what can be done now.
    pub(in super::super) fn go_on(&mut self, book: &mut Book) -> DbResult<()> {
        book.forget_log(self.sent);
        self.give_up_if_behind(book);
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        if matches!(self.work, Work::Rest) && self.in_flight == 0 {
            self.retry_at = None;
            if self.parts.is_none() {
                self.work = Work::Look;
                // A history that begins knows no time from the log yet, and each day is a query.
                let since = oldest(wall_of_machine(), book.options.time);
                let done = self.tell(Told::Parts);
                self.to.tables.ask(Ask::Parts(since, done));
            } else if let Some(index) = self.oldest_unsent(book) {
                self.work = Work::Write(self.outgoing(book, index)?);
            }
        }
        self.write(book)
    }

    fn write(&mut self, book: &Book) -> DbResult<()> {
        let keep = kept_for(book.options.time);
        // The rows outlive the part that names them.
        let rows_keep = Span(keep.0.saturating_add(ROWS_LONGER.0));
        loop {
            let Work::Write(outgoing) = &mut self.work else { return Ok(()) };
            if self.in_flight >= WRITES_AT_ONCE {
                return Ok(());
            }
            if let Some(row) = outgoing.next(self.lane, book)? {
                outgoing.row.bytes += row.body.len() as u64;
                self.in_flight += 1;
                self.to.tables.ask(Ask::Write(row, rows_keep, self.tell(Told::Written)));
            } else if self.in_flight > 0 {
                // The answers wake it.
                return Ok(());
            } else if outgoing.failed {
                self.work = Work::Rest;
                // Nobody else may wake it.
                self.retry_at.get_or_insert_with(Instant::now);
            } else {
                let row = outgoing.row.clone();
                self.to.tables.ask(Ask::Close(row.clone(), keep, self.tell(Told::Closed)));
                self.work = Work::Close(row);
            }
        }
    }

    /// Beyond `lag` the log is not kept for the tables any more.
    fn give_up_if_behind(&mut self, book: &Book) {
        while book.log_since(self.sent) > book.options.lag {
            let Some(index) = self.oldest_unsent(book) else { return };
            let below = book.parts[index].next;
            tracing::warn!(
                lane = %self.lane, %below,
                "HISTORY_BEHIND: what ended there does not go to the database"
            );
            (self.sent, self.is_behind) = (below, true);
            self.forget();
        }
    }

    fn oldest_unsent(&self, book: &Book) -> Option<usize> {
        let index = book.parts.partition_point(|part| part.next <= self.sent);
        (index < book.durable_parts()).then_some(index)
    }

    fn outgoing(&self, book: &Book, index: usize) -> DbResult<Outgoing> {
        let part = &book.parts[index];
        let (decided, ended) = match index.checked_sub(1).map(|before| &book.parts[before]) {
            Some(before) => (before.decided_end, before.ended_end),
            None => (book.state.decided.start, book.state.ended.start),
        };
        let left = [
            (RowKind::Decided, decided..part.decided_end),
            (RowKind::Ended, ended..part.ended_end),
            (RowKind::Page, part.first_page..part.page_end()),
        ];
        let row = PartRow {
            lane: self.lane,
            part: key_of(self.lane, part, book)?,
            node: self.to.node.as_str().into(),
            first: book.first_of(index),
            next: part.next,
            whole: !book.has_gap_between(part.first_wall, part.last_wall),
            first_wall: part.first_wall,
            last_wall: part.last_wall,
            bytes: 0,
        };
        Ok(Outgoing { row, of: part.clone(), left: left.into(), failed: false })
    }

    /// Lets the oldest parts go until they are not too many.
    fn keep_bounds(&mut self, bytes_max: u64) {
        let Some(parts) = &mut self.parts else { return };
        let mut bytes: u64 = parts.iter().map(|row| row.bytes).sum();
        while bytes > bytes_max && parts.len() > 1 {
            let Some(row) = parts.pop_front() else { return };
            bytes -= row.bytes;
            let lane = self.lane;
            // What is not removed now goes when its time is over.
            let done = move |dropped: Result<(), StoreError>| {
                if let Err(error) = dropped {
                    tracing::warn!(%lane, "an old part of the history stays in the database: {error}");
                }
            };
            self.to.tables.ask(Ask::Drop(row, Box::new(done)));
        }
    }

    fn tell<T: 'static>(&self, told: fn(T) -> Told) -> Done<T> {
        let inbox = Arc::clone(&self.inbox);
        Box::new(move |answer| inbox.tell(|inbox| inbox.told.push_back(told(answer))))
    }
}

impl Outgoing {
    /// The next row of the tables, if there is one: none once it has failed.
    fn next(&mut self, lane: LaneId, book: &Book) -> DbResult<Option<Row>> {
        if self.failed {
            return Ok(None);
        }
        let Some(part) = book.parts.iter().find(|part| **part == self.of) else {
            // It was let go meanwhile.
            self.failed = true;
            return Ok(None);
        };
        while let Some((kind, keys)) = self.left.front_mut() {
            if keys.is_empty() {
                self.left.pop_front();
                continue;
            }
            let number = || keys.start.to_be_bytes().to_vec();
            let fence = || part.fences[(keys.start - part.first_page) as usize].0.to_vec();
            let (table, most, first) = match kind {
                RowKind::Decided => (Table::Decided, SEGMENT_BYTES, number()),
                RowKind::Ended => (Table::Ended, SEGMENT_BYTES, number()),
                RowKind::Page => (Table::Page, PAGES_BYTES, fence()),
            };
            let (mut bodies, mut bytes) = (Vec::new(), 0);
            while !keys.is_empty() && bytes < most {
                let body = book.db.row(table, keys.start)?;
                bytes += body.len();
                bodies.push(body);
                keys.start += 1;
            }
            return Ok(Some(segment::row((lane, self.row.part), *kind, first, &bodies)));
        }
        Ok(None)
    }
}

/// The name of a part: its pages name every block and item, and its directory every page.
fn key_of(lane: LaneId, part: &Part, book: &Book) -> DbResult<PartKey> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&lane.0);
    hasher.update(&part.pack());
    for page in part.first_page..part.page_end() {
        hasher.update(&book.db.row(Table::Page, page)?);
    }
    Ok(PartKey(hasher.finalize().as_bytes()[..16].try_into().expect("BLAKE3 has 32 bytes")))
}

/// Parts whose last record is older are not asked for.
pub(super) fn oldest(now: Wall, time: Span) -> Wall {
    Wall(now.0.saturating_sub(kept_for(time).as_millis()))
}

/// Parts that wait to be sent at which no more is read for them, where reading can wait.
const UNSENT_MAX: usize = 4;
/// Writes under way at a time.
const WRITES_AT_ONCE: usize = 4;
/// How much longer rows stay than the part that names them.
const ROWS_LONGER: Span = Span::secs(600);

const _: () =
    assert!(RETRY.as_nanos() < Duration::from_secs(60).as_nanos(), "an outage is noticed");
