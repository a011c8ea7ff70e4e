//! The log's parts: where one ends, when the oldest can go, and when its survivors are carried
//! forward.
//!
//! A part ends with a checkpoint, so a restart reads one checkpoint and at most one part. Only a
//! prefix of the log is ever deleted: when nothing in the oldest part is alive, it goes; when the
//! dead bytes of the whole log pass the live ones by a slack, what is alive in the oldest part is
//! written again.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::effect::{Effect, Effects};
use crate::ids::RecordNumber;
use crate::limits::Limits;
use crate::record::Entry;
use crate::remember::Remembered;
use crate::time::{Span, Wall};

/// How often housekeeping on wall time looks around at the latest.
const WALL_TICK: Span = Span::secs(60);

/// Bytes of a checkpoint's piece.
const PIECE_BYTES: usize = 1 << 20;

/// One part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) number: u64,
    pub(crate) first: RecordNumber,
    pub(crate) bytes: u64,
}

/// All parts, oldest first; the last one is being written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parts {
    parts: VecDeque<Part>,
    /// A checkpoint being committed: its first and last record.
    pending: Option<(RecordNumber, RecordNumber)>,
    /// What a truncation waits for, and where it cuts.
    cutting: Option<(RecordNumber, RecordNumber, u64)>,
    cut: RecordNumber,
    /// The first record that the store kept at the start.
    kept: RecordNumber,
    /// The history holds everything below, synced.
    history: RecordNumber,
    /// The last checkpoint's size: large ones are made less often.
    checkpoint_bytes: u64,
}

impl Parts {
    pub(crate) fn new(first: RecordNumber) -> Self {
        Self {
            parts: VecDeque::from([Part { number: 0, first, bytes: 0 }]),
            pending: None,
            cutting: None,
            cut: first,
            kept: first,
            history: RecordNumber(u64::MAX),
            checkpoint_bytes: 0,
        }
    }

    /// The first record that the store keeps.
    pub(crate) fn kept(&self) -> RecordNumber {
        self.kept
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter()
    }

    pub(crate) fn current(&self) -> Part {
        *self.parts.back().expect("there is always a part being written")
    }

    pub(crate) fn grow(&mut self, bytes: u64) {
        self.parts.back_mut().expect("there is always a part being written").bytes += bytes;
    }

    pub(crate) fn is_full(&self, remembered: &Remembered, limits: &Limits) -> bool {
        let enough = limits.part_bytes.max(4 * self.checkpoint_bytes);
        self.pending.is_none()
            && (self.current().bytes >= enough || remembered.recent_len() >= limits.part_ids)
    }

    pub(crate) fn restore(&mut self, parts: Vec<Part>) {
        self.cut = parts[0].first;
        self.parts = parts.into();
    }

    /// Starts a new part at a record, during a replay.
    pub(crate) fn begin(&mut self, first: RecordNumber) {
        let number = self.current().number + 1;
        self.parts.push_back(Part { number, first, bytes: 0 });
    }

    pub(crate) fn end_of(&self, part: u64) -> Option<RecordNumber> {
        let i = self.parts.iter().position(|p| p.number == part)?;
        self.parts.get(i + 1).map(|next| next.first)
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.bytes).sum()
    }
}

impl Core {
    /// Ends the part that is being written: its ids go to the index, a checkpoint follows.
    pub(crate) fn finish_part(&mut self) {
        self.lane.reserve(usize::MAX / 2);
        let first = self.lane.ticket();
        let part = self.parts.current().number;
        if let Some(ids) = self.remembered.finish_part(part, first) {
            self.resolving.part_ended(part, &ids.ids);
            self.later.push(Effect::IndexPart(Box::new(ids)));
        }
        self.parts.begin(first);
        self.catalogue.recount();
        let bytes = bytes::Bytes::from(self.encode_checkpoint());
        self.parts.checkpoint_bytes = bytes.len() as u64;
        let of = u32::try_from(bytes.len().div_ceil(PIECE_BYTES)).expect("checkpoints are bounded");
        for index in 0..of {
            let start = index as usize * PIECE_BYTES;
            let piece = bytes.slice(start..bytes.len().min(start + PIECE_BYTES));
            self.lane.reserve(piece.len());
            self.lane.write(&Entry::Checkpoint { index, of, piece });
        }
        let last = self.lane.urge();
        self.lane.reserve(usize::MAX / 2);
        self.parts.pending = Some((first, last));
    }

    /// What a committed record makes possible: a checkpoint counts, a cut may be made.
    pub(crate) fn on_truncation_committed(&mut self, number: RecordNumber, fx: &mut Effects) {
        if let Some((first, last)) = self.parts.pending
            && number >= last
        {
            self.parts.pending = None;
            self.lane.set_checkpoint(first);
        }
        if let Some((wait, below, part)) = self.parts.cutting
            && number >= wait
        {
            self.parts.cutting = None;
            self.parts.cut = below;
            self.remembered.drop_below(part);
            fx.push(Effect::Truncate { below, part });
        }
    }

    pub(crate) fn handle_history_stands(&mut self, number: RecordNumber, fx: &mut Effects) {
        self.parts.history = number;
        self.tend_log(fx);
    }

    /// Gives up the oldest parts when nothing in them is needed.
    pub(crate) fn tend_log(&mut self, _fx: &mut Effects) {
        if self.parts.parts.len() < 2 || self.parts.cutting.is_some() {
            return;
        }
        let needed = self.first_needed();
        while self.parts.parts.len() > 1 && self.parts.parts[1].first <= needed {
            self.parts.parts.pop_front();
        }
        let oldest = self.parts.parts[0];
        if oldest.first > self.parts.cut {
            // What was carried forward out of the part is durable with the open record at the
            // latest.
            let wait =
                if self.lane.has_riders() { self.lane.urge() } else { self.lane.committed().0 };
            if self.lane.is_committed(wait) {
                self.parts.cut = oldest.first;
                self.remembered.drop_below(oldest.number);
                let (below, part) = (oldest.first, oldest.number);
                return self.later.push(Effect::Truncate { below, part });
            }
            self.parts.cutting = Some((wait, oldest.first, oldest.number));
        }
    }

    /// The first record that something still needs.
    fn first_needed(&self) -> RecordNumber {
        let cut = self.parts.cut;
        let alive = self.catalogue.first_from(cut).unwrap_or_else(|| self.lane.ticket());
        let read = self.loads.lowest().unwrap_or(alive);
        alive.min(self.lane.checkpoint()).min(self.parts.history).min(read)
    }

    /// Carries the oldest part's survivors forward when the log holds too much that is dead, or
    /// too many records with a little in them.
    fn consider_carrying(&mut self, fx: &mut Effects) {
        let oldest = self.parts.parts[0];
        let current = self.parts.current().number;
        if oldest.number == current || self.scans.is_carrying() {
            return;
        }
        let (all, live) = (self.parts.bytes(), self.catalogue.live_bytes());
        if all > 2 * live + self.limits.carry_slack_bytes || self.pages_are_many() {
            let end = self.parts.end_of(oldest.number).expect("a later part stands behind it");
            self.start_carry(end, fx);
        }
    }

    /// Housekeeping on wall time.
    pub(crate) fn on_wall(&mut self, fx: &mut Effects) {
        self.forget_old_ends();
        self.forget_old_shadows();
        self.expire_in_memory(fx);
        self.scan_due(fx);
        self.scan_old_parked(fx);
        self.catalogue.recount();
        self.consider_carrying(fx);
        let mut next = self.now.wall + WALL_TICK;
        for at in [
            self.due_pages.first().map(|(at, _)| *at),
            self.expiring.first().map(|(at, _)| *at).filter(|_| self.clock_is_trusted()),
        ]
        .into_iter()
        .flatten()
        {
            next = next.min(at.max(Wall(self.now.wall.0 + 1)));
        }
        self.look_at_wall(next);
    }

    /// The last checkpoint may name ends and shadows in records that have been cut off since: they
    /// had been forgotten, or carried forward, before the cut.
    pub(crate) fn drop_cut_pages(&mut self) {
        use crate::catalogue::Shelf;
        let kept = self.parts.kept();
        let cut: Vec<_> =
            self.catalogue.iter().map(|(n, _)| *n).take_while(|n| *n < kept).collect();
        for record in cut {
            self.catalogue.take_set(record, Shelf::Ended);
            self.catalogue.take_set(record, Shelf::Shadow);
            self.remembered.drop_ends(record);
        }
    }

    fn forget_old_ends(&mut self) {
        let before = Wall(self.now.wall.0.saturating_sub(self.limits.idempotency.as_millis()));
        while let Some(record) = self.remembered.next_forgotten(before, self.limits.idempotency_ids)
        {
            self.catalogue.take_set(record, crate::catalogue::Shelf::Ended);
        }
    }
}
