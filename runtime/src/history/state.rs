//! Where the history stands: one row, written at every sync point with everything else.

use std::collections::BTreeMap;
use std::ops::Range;

use dpc_core::Wall;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::object::Hash16;

use super::pack::{BadRow, Packer, Unpacker};

/// The format of the database that this program writes, and the highest it reads.
pub(super) const FORMAT: u64 = 1;

/// Keys of the rows of one table: consecutive, the oldest go first.
pub(super) type Keys = Range<u64>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The lane whose log is read.
    pub(super) lane: LaneId,
    /// The record that is wanted next.
    pub(super) next: RecordNumber,
    /// The hash of the record before, to which the next one has to link.
    pub(super) hash: Option<Hash16>,
    /// The first record that was read of this lane, and when it was closed.
    pub(super) began: Option<(RecordNumber, Wall)>,
    /// Up to this record, ends that were carried forward are news: the log was no longer whole when
    /// this history began to read it. Whatever is carried later has been read before.
    pub(super) learns_until: RecordNumber,
    /// When the last record was closed.
    pub(super) last_wall: Wall,
    /// Nothing before this time is kept.
    pub(super) kept_since: Wall,
    pub(super) parts: Keys,
    pub(super) pages: Keys,
    pub(super) decided: Keys,
    pub(super) ended: Keys,
    pub(super) tail: Keys,
    /// How many rows of counts each minute has, so that none is missed unnoticed.
    pub(super) minutes: BTreeMap<u64, u64>,
    /// Stretches of time of which only counts were kept, oldest first.
    pub(super) gaps: Vec<Gap>,
}

/// A stretch of time of which only counts were kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: Wall,
    pub(super) to: Wall,
}

/// A row of a later format.
pub(super) enum BadState {
    Row(BadRow),
    Newer(u64),
}

impl From<BadRow> for BadState {
    fn from(bad: BadRow) -> Self {
        Self::Row(bad)
    }
}

impl State {
    /// Nothing is known yet of a log that ends at `last`.
    pub(super) fn new(lane: LaneId, last: RecordNumber) -> Self {
        Self {
            lane,
            next: RecordNumber(1),
            hash: None,
            began: None,
            learns_until: last,
            last_wall: Wall(0),
            kept_since: Wall(0),
            parts: 0..0,
            pages: 0..0,
            decided: 0..0,
            ended: 0..0,
            tail: 0..0,
            minutes: BTreeMap::new(),
            gaps: Vec::new(),
        }
    }

    /// Another lane's log follows: what is kept of the one before stays.
    pub(super) fn turn_to(&mut self, lane: LaneId, last: RecordNumber) {
        self.lane = lane;
        self.next = RecordNumber(1);
        self.hash = None;
        self.began = None;
        self.learns_until = last;
    }

    /// Notes that only counts are kept of what happened at this time.
    pub(super) fn note_gap(&mut self, from: Wall, to: Wall) {
        if let Some(last) = self.gaps.last_mut()
            && from.0 <= last.to.0.saturating_add(GAP_MERGED_MS)
        {
            last.from = last.from.min(from);
            last.to = last.to.max(to);
            return;
        }
        self.gaps.push(Gap { from, to });
        if self.gaps.len() > GAPS_MAX {
            let oldest = self.gaps.remove(0);
            self.gaps[0].from = oldest.from;
        }
    }

    pub(super) fn pack(&self) -> Vec<u8> {
        let mut p = Packer::default();
        p.int(FORMAT);
        p.fixed(&self.lane.0);
        p.int(self.next.0);
        p.int(self.learns_until.0);
        match &self.hash {
            None => p.byte(0),
            Some(hash) => {
                p.byte(1);
                p.fixed(hash);
            }
        }
        let (began, began_wall) = self.began.map_or((0, 0), |(number, wall)| (number.0, wall.0));
        for n in [began, began_wall, self.last_wall.0, self.kept_since.0] {
            p.int(n);
        }
        for keys in [&self.parts, &self.pages, &self.decided, &self.ended, &self.tail] {
            p.int(keys.start);
            p.int(keys.end - keys.start);
        }
        p.int(self.gaps.len() as u64);
        for gap in &self.gaps {
            p.int(gap.from.0);
            p.int(gap.to.0);
        }
        p.int(self.minutes.len() as u64);
        let mut last = 0;
        for (minute, rows) in &self.minutes {
            p.near(last, *minute);
            p.int(*rows);
            last = *minute;
        }
        p.finish()
    }

    pub(super) fn unpack(body: &[u8]) -> Result<Self, BadState> {
        let mut u = Unpacker::new(body);
        let format = u.int()?;
        if format > FORMAT {
            return Err(BadState::Newer(format));
        }
        let mut state = Self::new(LaneId(u.fixed()?), RecordNumber(0));
        state.next = RecordNumber(u.int()?);
        state.learns_until = RecordNumber(u.int()?);
        state.hash = if u.byte()? == 1 { Some(u.fixed()?) } else { None };
        let (number, wall) = (RecordNumber(u.int()?), Wall(u.int()?));
        state.began = Some((number, wall)).filter(|_| number.0 > 0);
        state.last_wall = Wall(u.int()?);
        state.kept_since = Wall(u.int()?);
        state.parts = keys(&mut u)?;
        state.pages = keys(&mut u)?;
        state.decided = keys(&mut u)?;
        state.ended = keys(&mut u)?;
        state.tail = keys(&mut u)?;
        for _ in 0..u.count()? {
            state.gaps.push(Gap { from: Wall(u.int()?), to: Wall(u.int()?) });
        }
        let mut minute = 0;
        for _ in 0..u.count()? {
            minute = u.near(minute)?;
            state.minutes.insert(minute, u.int()?);
        }
        Ok(state)
    }
}

fn keys(u: &mut Unpacker<'_>) -> Result<Keys, BadRow> {
    let start = u.int()?;
    Ok(start..start.saturating_add(u.int()?))
}

/// Most gaps that are kept apart; the oldest ones grow together.
const GAPS_MAX: usize = 64;
/// Gaps that are nearer than this are one.
const GAP_MERGED_MS: u64 = 1_000;
