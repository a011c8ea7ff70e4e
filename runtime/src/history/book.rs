//! Writes the history: walks the entries of each record and keeps what ended and what was decided.
//!
//! Owned by the worker; one record at a time, in order. Everything between two sync points is one
//! transaction, the number of the next record included, so a record counts once however often it is
//! fed. Only the pages of a part that closes are written ahead: nothing names them until it is closed.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use bytes::Bytes;
use dpc_core::decision::Decision;
use dpc_core::ids::{LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::object::Hash16;
use dpc_core::record::{self, End, Ending, Entry, Glance, Header, TransferId, Vocabulary};
use dpc_core::{Span, Wall};

use super::HistoryOptions;
use super::counts::Tally;
use super::db::{Db, DbError, DbResult, Table};
use super::decided::DecidedBlock;
use super::ended::EndedBlock;
use super::index::{self, Kind, Part, Ref};
use super::rows::MINUTE;
use super::state::{BadState, State};

#[derive(Debug)]
pub(super) struct Book {
    pub(super) db: Db,
    pub(super) options: HistoryOptions,
    pub(super) state: State,
    /// The directory, oldest part first; the key of the first one is `state.parts.start`.
    pub(super) parts: VecDeque<Part>,
    /// References that are in no part yet, in order.
    pub(super) refs: Vec<Ref>,
    /// How many of them stand in the table `tail`.
    saved: usize,
    decided: DecidedBlock,
    ended: EndedBlock,
    /// Counts that are not in the database yet, by minute.
    pub(super) counts: BTreeMap<u64, Tally>,
    /// When the first record of the open part was closed.
    part_began: Option<Wall>,
    /// Bytes of blocks in the open part.
    part_bytes: u64,
    /// Bytes of log in the open part.
    part_log: u64,
    /// Bytes of log in closed parts, by the record after their last one: of as many as matter.
    closed_log: VecDeque<(RecordNumber, u64)>,
    /// Everything below is durable.
    pub(super) synced: RecordNumber,
    /// The key behind the last part that is.
    synced_parts: u64,
    /// How the pages of a full part are synced.
    pub(super) pages_go: PagesGo,
    /// Bytes written since the last sync.
    unsynced: u64,
    is_dirty: bool,
    /// The memory that records are read into.
    glances: Vec<(Loc, Glance)>,
    /// The strings that they share.
    vocabulary: Vocabulary,
}

/// When the pages of a part that is closed are synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PagesGo {
    /// With everything else that is not synced yet.
    WithTheRest,
    /// A few at a time, before the part itself: those of a full part at once would hold up the syncs of the log for
    /// as long as ten of its own take. All else must have been synced, so that nothing but pages goes ahead.
    Ahead,
}

impl Book {
    /// Opens the database in `path`, or begins an empty one, for a lane whose log ends at `last`.
    pub(super) fn open(
        path: &Path,
        lane: LaneId,
        last: RecordNumber,
        options: HistoryOptions,
    ) -> DbResult<Self> {
        let db = Db::open(path, options.checked)?;
        let state = match db.state()? {
            None => State::new(lane, last),
            Some(body) => State::unpack(&body).map_err(|bad| match bad {
                BadState::Row(bad) => db.bad(Table::State, 0, bad),
                BadState::Newer(found) => DbError::Newer { found },
            })?,
        };
        let mut book = Self {
            db,
            options,
            state,
            parts: VecDeque::new(),
            refs: Vec::new(),
            saved: 0,
            decided: DecidedBlock::default(),
            ended: EndedBlock::default(),
            counts: BTreeMap::new(),
            part_began: None,
            part_bytes: 0,
            part_log: 0,
            closed_log: VecDeque::new(),
            synced: RecordNumber(0),
            synced_parts: 0,
            pages_go: PagesGo::Ahead,
            unsynced: 0,
            is_dirty: false,
            glances: Vec::new(),
            vocabulary: Vocabulary::with_seed(RandomState::new().hash_one(())),
        };
        book.load()?;
        if book.state.lane != lane {
            book.state.turn_to(lane, last);
        }
        book.synced = book.state.next;
        Ok(book)
    }

    /// An empty one begins with this record: what was before is told elsewhere.
    pub(super) fn begin_at(&mut self, from: RecordNumber) {
        if self.state.began.is_none() && from > self.state.next {
            self.state.next = from;
            self.state.learns_until = RecordNumber(from.0 - 1);
            self.synced = from;
        }
    }

    fn load(&mut self) -> DbResult<()> {
        for key in self.state.parts.clone() {
            let part = Part::unpack(&self.db.row(Table::Part, key)?)
                .map_err(|bad| self.db.bad(Table::Part, key, bad))?;
            self.parts.push_back(part);
        }
        for key in self.state.tail.clone() {
            index::unpack_tail(&self.db.row(Table::Tail, key)?, &mut self.refs)
                .map_err(|bad| self.db.bad(Table::Tail, key, bad))?;
        }
        self.synced_parts = self.state.parts.end;
        self.saved = self.refs.len();
        self.part_began = (self.saved > 0).then_some(self.state.last_wall);
        Ok(())
    }

    /// Whether anything waits for a sync.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Bytes that wait for a sync, roughly.
    pub(super) fn unsynced(&self) -> u64 {
        self.unsynced
    }

    /// From here on there is something to sync.
    fn begin(&mut self) -> DbResult<()> {
        self.db.begin()?;
        self.is_dirty = true;
        Ok(())
    }

    /// Takes in a record of the log; without `detail`, only its counts.
    pub(super) fn apply(
        &mut self,
        number: RecordNumber,
        record: &Bytes,
        detail: bool,
    ) -> DbResult<()> {
        assert!(number >= self.state.next, "what is known is not taken in again");
        self.begin()?;
        self.part_log += record.len() as u64;
        let mut glances = std::mem::take(&mut self.glances);
        // It was sealed here, or the store has checked it.
        let applied = match record::glance_at_sealed(record, &mut self.vocabulary, &mut glances) {
            Ok(header) if header.number == number && header.lane == self.state.lane => {
                self.take_in(&header, record::hash_of(record), &glances, detail)
            }
            Ok(header) => {
                self.skip(number, &format!("it says {} of lane {}", header.number, header.lane));
                Ok(())
            }
            Err(bad) => {
                self.skip(number, &bad.to_string());
                Ok(())
            }
        };
        // Its memory is for the next record; what it holds may share the memory of this one.
        glances.clear();
        self.glances = glances;
        applied
    }

    /// Takes in what a record with this hash says.
    fn take_in(
        &mut self,
        header: &Header,
        hash: Hash16,
        glances: &[(Loc, Glance)],
        detail: bool,
    ) -> DbResult<()> {
        self.follow(header)?;
        let is_turned = self.turn_part(header.wall)?;
        let receivers = receivers(glances);
        for (loc, glance) in glances {
            match glance {
                Glance::Other(Entry::Decision { decision, objects }) if detail => {
                    self.decide(*loc, decision, objects)?;
                }
                Glance::Other(Entry::End(end)) if detail && self.is_news(header, end) => {
                    self.end(*loc, end, &receivers)?;
                }
                Glance::Object { .. } | Glance::Other(_) => {}
            }
        }
        self.add_counts(header.wall, glances);
        if !detail {
            self.state.note_gap(header.wall, header.wall);
        }
        self.state.next = header.number.next();
        self.state.hash = Some(hash);
        self.state.last_wall = self.state.last_wall.max(header.wall);
        self.keep_bounds(header.wall, is_turned)
    }

    /// A committed record that cannot be read: its detail is lost, and said to be.
    fn skip(&mut self, number: RecordNumber, what: &str) {
        tracing::error!(%number, what, "the history leaves out a record that it cannot read");
        let wall = self.state.last_wall;
        self.state.note_gap(wall, Wall(wall.0 + MINUTE.as_millis()));
        self.state.next = number.next();
        self.state.hash = None;
    }

    /// Checks that the record follows the one before.
    fn follow(&mut self, header: &Header) -> DbResult<()> {
        let is_next = header.number == self.state.next;
        if is_next && self.state.hash.is_some_and(|hash| hash != header.previous) {
            let what = format!("the log goes on at {} behind another record", header.number);
            return Err(self.db.damaged("table state row 0", what));
        }
        match self.state.began {
            None => {
                self.state.began = Some((header.number, header.wall));
                if self.state.kept_since == Wall(0) && header.number > RecordNumber(1) {
                    self.state.kept_since = header.wall;
                }
            }
            Some(_) if !is_next => {
                let from = self.state.last_wall;
                tracing::error!(
                    wanted = %self.state.next, found = %header.number,
                    "the log no longer holds what the history wants next: detail is lost"
                );
                self.state.note_gap(from, header.wall);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Whether an end has not been read before. Those that are carried forward have, unless they
    /// are all that the log still held of their objects when this history began; one that was
    /// carried twice until then is kept twice.
    fn is_news(&self, header: &Header, end: &End) -> bool {
        if end.was.is_some() {
            return true;
        }
        let began = self.state.began.map_or(Wall(0), |(_, wall)| wall);
        let is_kept = end.at + self.options.time >= header.wall;
        header.number <= self.state.learns_until && end.at <= began && is_kept
    }

    fn decide(
        &mut self,
        loc: Loc,
        decision: &Decision,
        objects: &[(ObjectId, u32)],
    ) -> DbResult<()> {
        if objects.is_empty() {
            return Ok(());
        }
        if self.decided.len() >= BLOCK_BYTES {
            self.close_decided()?;
        }
        let item = self.decided.push(self.state.lane, loc, decision);
        let block = self.state.decided.end;
        let kind = Kind::Decided;
        self.refs.extend(objects.iter().map(|&(id, moves)| Ref { id, kind, block, item, moves }));
        Ok(())
    }

    fn end(&mut self, loc: Loc, end: &End, receivers: &[(TransferId, &Name)]) -> DbResult<()> {
        if self.ended.len() >= BLOCK_BYTES {
            self.close_ended()?;
        }
        let receiver = match &end.ending {
            Ending::Moved(to) => receivers.iter().find(|(t, _)| t == to).map(|(_, name)| *name),
            Ending::Final | Ending::Discarded(_) | Ending::Duplicate => None,
        };
        let item = self.ended.push(self.state.lane, loc, end, receiver);
        let block = self.state.ended.end;
        self.refs.push(Ref { id: end.id, kind: Kind::Ended, block, item, moves: end.moves });
        Ok(())
    }

    /// Closes a part that spans enough time, before something newer comes into it.
    fn turn_part(&mut self, now: Wall) -> DbResult<bool> {
        let span = Span(self.options.time.0 / 24);
        let is_old = self.part_began.is_some_and(|began| now - began >= span);
        if is_old && !self.refs.is_empty() {
            self.close_part(PagesGo::WithTheRest)?;
        }
        self.part_began.get_or_insert(now);
        Ok(is_old)
    }

    /// Closes a part that is full, and lets the oldest go as time and bytes demand.
    fn keep_bounds(&mut self, now: Wall, is_turned: bool) -> DbResult<()> {
        let bytes = self.part_bytes + (self.decided.len() + self.ended.len()) as u64;
        if self.refs.is_empty() {
            // Nothing of it has to be told.
            self.part_log = 0;
        }
        let is_full = self.refs.len() >= PART_REFS_MAX
            || bytes >= self.options.bytes / 16
            || self.part_log >= self.options.part_log && !self.refs.is_empty();
        if is_full {
            let is_small = self.refs.len() < SYNC_REFS;
            let pages_go = if is_small { PagesGo::WithTheRest } else { self.pages_go };
            if pages_go == PagesGo::Ahead {
                self.sync()?;
                self.begin()?;
            }
            self.close_part(pages_go)?;
        }
        if is_full || is_turned {
            self.retain(now)?;
        }
        if self.counts.values().map(Tally::len).sum::<usize>() >= COUNTS_MAX {
            self.write_counts()?;
        }
        Ok(())
    }

    fn close_decided(&mut self) -> DbResult<()> {
        let block = std::mem::take(&mut self.decided);
        let key = self.state.decided.end;
        self.state.decided.end += 1;
        self.write(Table::Decided, key, block.finish())
    }

    fn close_ended(&mut self) -> DbResult<()> {
        let block = std::mem::take(&mut self.ended);
        let key = self.state.ended.end;
        self.state.ended.end += 1;
        self.write(Table::Ended, key, block.finish())
    }

    fn write(&mut self, table: Table, key: u64, body: Vec<u8>) -> DbResult<()> {
        let bytes = body.len() as u64;
        self.unsynced += bytes;
        self.part_bytes += bytes;
        self.db.add(table, key, body)
    }

    /// Writes the open blocks, so that what they hold is found in the database.
    pub(super) fn close_blocks(&mut self) -> DbResult<()> {
        if self.decided.len() + self.ended.len() > 0 {
            self.db.begin()?;
        }
        if self.decided.len() > 0 {
            self.close_decided()?;
        }
        if self.ended.len() > 0 {
            self.close_ended()?;
        }
        Ok(())
    }

    /// Sorts the references in memory into a part.
    fn close_part(&mut self, pages_go: PagesGo) -> DbResult<()> {
        self.close_blocks()?;
        let first_page = self.state.pages.end;
        // Those of a part that was being closed when the process ended, which nothing names.
        self.db.remove_from(Table::Page, first_page)?;
        let mut fences = Vec::new();
        let last = self.refs.iter().map(|r| r.id).max().unwrap_or_default();
        let pages = index::pages(&self.refs);
        self.refs.clear();
        for (first, body) in pages {
            fences.push(first);
            let key = self.state.pages.end;
            self.state.pages.end += 1;
            self.write(Table::Page, key, body)?;
            if pages_go == PagesGo::Ahead && self.unsynced >= SYNC_BYTES {
                self.db.commit()?;
                self.db.begin()?;
                self.unsynced = 0;
            }
        }
        let part = Part {
            first_page,
            fences,
            last,
            decided_end: self.state.decided.end,
            ended_end: self.state.ended.end,
            first_wall: self.part_began.take().unwrap_or(self.state.last_wall),
            last_wall: self.state.last_wall,
            next: self.state.next,
        };
        self.write(Table::Part, self.state.parts.end, part.pack())?;
        self.state.parts.end += 1;
        self.parts.push_back(part);
        self.db.remove(Table::Tail, self.state.tail.clone())?;
        self.state.tail.start = self.state.tail.end;
        self.saved = 0;
        self.part_bytes = 0;
        self.closed_log.push_back((self.state.next, std::mem::take(&mut self.part_log)));
        if self.closed_log.len() > CLOSED_MAX {
            self.closed_log.pop_front();
        }
        Ok(())
    }

    /// Lets the oldest parts go until what is kept is neither too old nor too much.
    fn retain(&mut self, now: Wall) -> DbResult<()> {
        let oldest = Wall(now.0.saturating_sub(self.options.time.as_millis()));
        while let Some(part) = self.parts.front() {
            let is_old = part.last_wall < oldest;
            if !is_old && self.db.bytes_used()? <= self.options.bytes / 8 * 7 {
                break;
            }
            self.drop_oldest()?;
        }
        let aged = |gap: &super::state::Gap| gap.to < oldest;
        self.state.gaps.retain(|gap| !aged(gap));
        self.retain_counts(oldest)?;
        let slack = self.options.bytes / 16;
        let free = self.db.bytes_free()?;
        if free > slack {
            self.db.give_back(free - slack)?;
        }
        Ok(())
    }

    fn drop_oldest(&mut self) -> DbResult<()> {
        let Some(part) = self.parts.pop_front() else { return Ok(()) };
        let state = &mut self.state;
        self.db.remove(Table::Page, state.pages.start..part.page_end())?;
        self.db.remove(Table::Decided, state.decided.start..part.decided_end)?;
        self.db.remove(Table::Ended, state.ended.start..part.ended_end)?;
        self.db.remove(Table::Part, state.parts.start..state.parts.start + 1)?;
        state.pages.start = part.page_end();
        state.decided.start = part.decided_end;
        state.ended.start = part.ended_end;
        state.parts.start += 1;
        state.kept_since = state.kept_since.max(part.last_wall);
        Ok(())
    }

    /// Closes the part that is open, however little there is in it.
    pub(super) fn conclude(&mut self) -> DbResult<()> {
        if self.refs.is_empty() {
            return Ok(());
        }
        self.begin()?;
        self.close_part(PagesGo::WithTheRest)
    }

    /// The bytes of log below a record do not matter any more.
    pub(super) fn forget_log(&mut self, below: RecordNumber) {
        while self.closed_log.front().is_some_and(|(next, _)| *next <= below) {
            self.closed_log.pop_front();
        }
    }

    /// The first record of a part; the record after its last one if that is not known.
    pub(super) fn first_of(&self, index: usize) -> RecordNumber {
        let began = self.state.began.filter(|_| self.state.parts.start == 0);
        match index.checked_sub(1) {
            Some(before) => self.parts[before].next,
            None => began.map_or(self.parts[index].next, |(number, _)| number),
        }
    }

    /// Whether only counts were kept of some of the time between.
    pub(super) fn has_gap_between(&self, from: Wall, to: Wall) -> bool {
        self.state.gaps.iter().any(|gap| gap.from <= to && gap.to >= from)
    }

    /// How many of the parts are durable: those behind them may be made again in other bounds.
    pub(super) fn durable_parts(&self) -> usize {
        let durable = self.synced_parts.saturating_sub(self.state.parts.start);
        usize::try_from(durable).expect("they are in memory")
    }

    /// Bytes of log from a record on, as far as this process has read them.
    pub(super) fn log_since(&self, from: RecordNumber) -> u64 {
        let closed = self.closed_log.iter().filter(|(next, _)| *next > from);
        self.part_log + closed.map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Makes everything durable and returns the number below which it is.
    pub(super) fn sync(&mut self) -> DbResult<RecordNumber> {
        if !self.is_dirty {
            return Ok(self.state.next);
        }
        self.db.begin()?;
        self.close_blocks()?;
        self.write_counts()?;
        if self.saved < self.refs.len() {
            let body = index::pack_tail(&self.refs[self.saved..]);
            self.write(Table::Tail, self.state.tail.end, body)?;
            self.state.tail.end += 1;
            self.saved = self.refs.len();
        }
        self.db.set_state(self.state.pack())?;
        self.db.commit()?;
        self.is_dirty = false;
        self.unsynced = 0;
        self.synced = self.state.next;
        self.synced_parts = self.state.parts.end;
        Ok(self.state.next)
    }
}

/// The receivers that a record names: the mark of a move stands behind the ends that it moves.
fn receivers(glances: &[(Loc, Glance)]) -> Vec<(TransferId, &Name)> {
    glances
        .iter()
        .filter_map(|(_, glance)| match glance {
            Glance::Other(Entry::Moved { transfer, receiver, .. }) => Some((*transfer, receiver)),
            Glance::Object { .. } | Glance::Other(_) => None,
        })
        .collect()
}

/// Bytes written at which a sync is due: one of them holds up the syncs of the log, on the same disk,
/// for no longer than a few of those take.
pub(super) const SYNC_BYTES: u64 = 1 << 20;
/// The pages of fewer references than these are one such sync.
const SYNC_REFS: usize = 32 << 10;
/// Bytes at which a block is full.
const BLOCK_BYTES: usize = 12 << 10;
/// Closed parts whose bytes of log are remembered.
const CLOSED_MAX: usize = 4_096;
/// References at which a part is full: they are all that is kept in memory.
const PART_REFS_MAX: usize = 128 << 10;
/// Counts in memory at which they are written.
const COUNTS_MAX: usize = 16 << 10;
